// MD5 (RFC 1321) as in main.js: of 989 characters that are doubled four times.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char sentence[] =
    "An enclave holds its pages and its threads; a container holds a process, its namespaces and its share of the machine. "
    "Nothing says that there must be one of the first for each of the second. ";

enum { TEXT = 989, LENGTH = TEXT * 16 };

// How often to do it: "rounds" of the parameters, or once.
static int rounds(void)
{
    char text[256];
    text[fread(text, 1, sizeof text - 1, stdin)] = 0;
    const char *at = strstr(text, "\"rounds\":");
    return at ? atoi(at + 9) : 1;
}

static void digest(uint32_t state[4])
{
    static uint8_t bytes[(LENGTH + 8) / 64 * 64 + 64];
    for (int i = 0; i < LENGTH; i++) bytes[i] = sentence[i % TEXT % (sizeof sentence - 1)];
    bytes[LENGTH] = 0x80;
    uint64_t bits = (uint64_t)LENGTH * 8;
    memcpy(bytes + sizeof bytes - 8, &bits, 8);

    static const int shifts[4][4] = { { 7, 12, 17, 22 }, { 5, 9, 14, 20 }, { 4, 11, 16, 23 }, { 6, 10, 15, 21 } };
    static const uint32_t start[4] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476 };
    uint32_t sines[64];
    memcpy(state, start, sizeof start);
    for (int i = 0; i < 64; i++) sines[i] = (uint32_t)floor(fabs(sin(i + 1)) * 4294967296.0);
    for (size_t at = 0; at < sizeof bytes; at += 64) {
        uint32_t words[16], a = state[0], b = state[1], c = state[2], d = state[3];
        memcpy(words, bytes + at, 64);
        for (int i = 0; i < 64; i++) {
            uint32_t mixed;
            int word, by = shifts[i >> 4][i & 3];
            switch (i >> 4) {
            case 0: mixed = (b & c) | (~b & d); word = i; break;
            case 1: mixed = (d & b) | (~d & c); word = (5 * i + 1) & 15; break;
            case 2: mixed = b ^ c ^ d; word = (3 * i + 5) & 15; break;
            default: mixed = c ^ (b | ~d); word = 7 * i & 15;
            }
            uint32_t turned = a + mixed + sines[i] + words[word];
            a = d; d = c; c = b;
            b += turned << by | turned >> (32 - by);
        }
        state[0] += a; state[1] += b; state[2] += c; state[3] += d;
    }
}

int main(void)
{
    uint32_t state[4];
    for (int left = rounds(); left > 0; left--) digest(state);
    printf("{\"length\":%d,\"md5\":\"", LENGTH);
    const uint8_t *bytes = (const uint8_t *)state;
    for (int i = 0; i < 16; i++) printf("%02x", bytes[i]);
    printf("\"}");
    return 0;
}
