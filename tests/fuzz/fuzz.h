/* fuzz.h - what the fuzz targets share: a check that aborts, repeatable randomness, the arguments of their mains. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "violated: %s\n", what);
    abort();
}

#ifndef FUZZ_LIBFUZZER

static uint64_t state = 1;

static uint32_t random_below(uint32_t bound) { /* xorshift64*, so that a seed replays */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)((state * UINT64_C(2685821657736338717)) >> 33) % bound;
}

/* Replays the files that are named, takes the seed from -s, and returns the number of mutations from -n. */
static long read_arguments(int argc, char **argv, uint8_t *buffer, size_t capacity) {
    long runs = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
            runs = atol(argv[++i]);
        } else if (strcmp(argv[i], "-s") == 0 && i + 1 < argc) {
            state = strtoull(argv[++i], NULL, 10) | 1;
        } else {
            FILE *file = fopen(argv[i], "rb");
            if (!file) {
                perror(argv[i]);
                exit(2);
            }
            size_t size = fread(buffer, 1, capacity, file);
            fclose(file);
            LLVMFuzzerTestOneInput(buffer, size);
        }
    }
    return runs;
}

#endif
#endif
