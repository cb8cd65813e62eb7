// Binary trees as in main.js, for n = 4 to 7.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node { struct node *left, *right; int item; };

static struct node *tree(int item, int depth)
{
    struct node *node = malloc(sizeof *node);
    if (!node) exit(1);
    node->item = item;
    node->left = depth ? tree(2 * item - 1, depth - 1) : NULL;
    node->right = depth ? tree(2 * item, depth - 1) : NULL;
    return node;
}

static int sum(const struct node *node)
{
    return node->left ? node->item + sum(node->left) - sum(node->right) : node->item;
}

static void fell(struct node *node)
{
    if (node->left) { fell(node->left); fell(node->right); }
    free(node);
}

static int walk(int item, int depth)
{
    struct node *root = tree(item, depth);
    int total = sum(root);
    fell(root);
    return total;
}

// How often to do it: "rounds" of the parameters, or once.
static int rounds(void)
{
    char text[256];
    text[fread(text, 1, sizeof text - 1, stdin)] = 0;
    const char *at = strstr(text, "\"rounds\":");
    return at ? atoi(at + 9) : 1;
}

static int search(void)
{
    int checksum = 0;
    for (int n = 4; n <= 7; n++) {
        int shortest = 4, deepest = n > shortest + 2 ? n : shortest + 2;
        walk(0, deepest + 1);
        struct node *kept = tree(0, deepest);
        for (int depth = shortest; depth <= deepest; depth += 2) {
            int count = 1 << (deepest - depth + shortest), walked = 0;
            for (int i = 1; i <= count; i++) walked += walk(i, depth) + walk(-i, depth);
            if (walked != -2 * count) exit(1);
        }
        checksum += sum(kept);
        fell(kept);
    }
    return checksum;
}

int main(void)
{
    int checksum = 0;
    for (int left = rounds(); left > 0; left--) checksum = search();
    printf("{\"checksum\":%d}", checksum);
    return 0;
}
