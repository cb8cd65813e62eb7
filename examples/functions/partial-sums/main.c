// Partial sums as in main.js, for n = 1024, 2048 .. 16384.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// How often to do it: "rounds" of the parameters, or once.
static int rounds(void)
{
    char text[256];
    text[fread(text, 1, sizeof text - 1, stdin)] = 0;
    const char *at = strstr(text, "\"rounds\":");
    return at ? atoi(at + 9) : 1;
}

static double unused;

static double sums(void)
{
    double total = 0;
    unused = 0;
    for (int n = 1024; n <= 16384; n *= 2) {
        double a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0, a8 = 0, a9 = 0, sign = -1;
        for (int k = 1; k <= n; k++) {
            double k2 = (double)k * k, k3 = k2 * k, s = sin(k), c = cos(k);
            sign = -sign;
            a1 += pow(2.0 / 3.0, k - 1);
            a2 += pow(k, -0.5);
            a3 += 1.0 / (k * (k + 1.0));
            a4 += 1.0 / (k3 * s * s);
            a5 += 1.0 / (k3 * c * c);
            a6 += 1.0 / k;
            a7 += 1.0 / k2;
            a8 += sign / k;
            a9 += sign / (2.0 * k - 1);
        }
        total += a6 + a7 + a8 + a9;
        unused += a1 + a2 + a3 + a4 + a5;
    }
    return total;
}

int main(void)
{
    double total = 0;
    for (int left = rounds(); left > 0; left--) total = sums();
    printf("{\"total\":%.14f,\"others\":%.6f}", total, unused);
    return 0;
}
