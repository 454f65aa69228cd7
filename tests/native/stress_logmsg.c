/* Calls the log message encoder with random arguments and tight buffers, for the sanitizers to watch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fiskal.h"

static uint32_t state = 1;

static uint32_t random_number(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static uint32_t below(uint32_t limit)
{
    return random_number() % limit;
}

/* Exactly as large as said, so that one byte too many is noticed. */
static uint8_t *block(size_t size)
{
    uint8_t *bytes = malloc(size > 0 ? size : 1);
    if (bytes == NULL) {
        abort();
    }
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)random_number();
    }
    return bytes;
}

static void messages(void)
{
    fk_log_signer signer = {{0}, {1, 3}, (uint8_t)(1 + below(3)), (uint8_t)below(5)};
    const size_t capacity = below(700);
    const size_t sizes[4] = {below(70), below(300), below(100), below(40)};
    const size_t first = below((uint32_t)sizes[1] + 1);
    const size_t chunks[3] = {first, sizes[1] - first, below(3)};
    const uint64_t number = (((uint64_t)random_number() << 32) | random_number()) >> below(64);
    int64_t unix_ms = (int64_t)(((uint64_t)random_number() << 32) | random_number());
    uint8_t *out = block(capacity);
    uint8_t *parts[4];
    uint8_t digest[32];
    size_t length = 0;

    if (below(4) != 0) {
        unix_ms %= INT64_C(253402300800000);
    }
    for (size_t i = 0; i < 4; i++) {
        parts[i] = block(sizes[i]);
    }
    if (fk_log_transaction(&signer, (int)below(5), parts[0], sizes[0], parts[1], sizes[1],
                           below(2) ? chunks : NULL, 2 + (below(8) == 0), below(2) ? parts[2] : NULL, sizes[2],
                           below(2) ? parts[3] : NULL, sizes[3], number, number / 3, unix_ms, out, capacity,
                           &length, below(2) ? digest : NULL) == FK_OK) {
        const size_t sealed_capacity = below(800);
        uint8_t *sealed = block(sealed_capacity);
        size_t sealed_length;
        fk_log_seal(out, length, parts[3], sizes[3], sealed, sealed_capacity, &sealed_length);
        free(sealed);
    }
    fk_log_system(&signer, parts[0], sizes[0], parts[2], sizes[2], below(2) ? parts[3] : NULL, sizes[3], parts[1],
                  sizes[1], number, unix_ms, out, capacity, &length, digest);
    fk_log_audit(&signer, parts[1], sizes[1], number, unix_ms, out, capacity, &length, digest);
    fk_log_time((int)below(6) - 1, unix_ms, out, capacity < 24 ? capacity : 24, &length);
    for (size_t i = 0; i < 4; i++) {
        free(parts[i]);
    }
    free(out);
}

static void signatures(void)
{
    const size_t length = below(160);
    const size_t size = below(70);
    uint8_t *der = block(length);
    uint8_t *plain = block(2 * size);
    if (length > 8 && below(2)) {
        const uint8_t first = (uint8_t)below(70);
        der[0] = 0x30;
        der[1] = (uint8_t)(length - 2);
        der[2] = 0x02;
        der[3] = first;
        if (length > 6U + first) {
            der[4 + first] = 0x02;
            der[5 + first] = (uint8_t)(length - 6 - first);
        }
    }
    fk_ecdsa_plain(der, length, size, plain);
    free(plain);
    free(der);
}

int main(void)
{
    for (int round = 0; round < 100000; round++) {
        messages();
        signatures();
    }
    puts("ok");
    return 0;
}
