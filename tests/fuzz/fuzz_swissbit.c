/*
 * Fuzz target for everything of the core that reads blocks of a Swissbit TSE. Every input goes through every reader.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER. With any compiler: a main that
 * replays files, or runs N deterministic mutations of built-in samples (`fuzz_swissbit -n 100000 -s 1`).
 */
#include "fuzz.h"
#include "swissbit.h"

static void check_span(fk_span span, size_t size) {
    require(span.offset <= size && span.length <= size - span.offset, "a span lies in the data");
}

static void read_data(const uint8_t *data, size_t size) {
    fk_sb_closed closed;
    if (fk_sb_read_closed(data, size, &closed) == FK_OK)
        check_span((fk_span){closed.signature, closed.signature_length}, size);
    uint64_t number, numbers[FK_SB_MAX_NUMBERS];
    size_t count;
    if (fk_sb_read_offset(data, size, &number) == FK_OK) require(size >= 8, "an offset has eight bytes");
    if (fk_sb_read_numbers(data, size, numbers, &count) == FK_OK)
        require(count <= FK_SB_MAX_NUMBERS && (count == 0 || 8 * count < size), "the numbers were there");
    fk_span clients[FK_SB_MAX_CLIENTS], piece;
    if (fk_sb_read_clients(data, size, clients, &count) == FK_OK) {
        require(count <= FK_SB_MAX_CLIENTS, "the clients fit");
        for (size_t i = 0; i < count; i++) {
            check_span(clients[i], size);
            require(clients[i].length >= 1 && clients[i].length <= 31, "a client id has 1 to 31 bytes");
            require(!memchr(data + clients[i].offset, 0, clients[i].length), "a client id ends at its zero");
        }
    }
    if (fk_sb_read_certificate(data, size, &piece) == FK_OK) check_span(piece, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t exact[2048]; /* the input lies at its end, behind it is what the sanitizer guards */
    if (size > sizeof exact) return 0;
    uint8_t *copy = exact + sizeof exact - size;
    if (size) memcpy(copy, data, size);
    fk_sb_request request;
    if (fk_sb_read_command(copy, size, &request) == FK_OK) {
        check_span((fk_span){request.payload, request.length}, size);
        uint8_t again[FK_SB_BLOCK];
        require(fk_sb_command(request.code, copy + request.payload, request.length, again) == FK_OK &&
                    memcmp(again + 4, copy + 4, request.length) == 0 && again[0] == copy[0] && again[1] == copy[1],
                "a command that was read can be built");
    }
    fk_sb_response response;
    if (fk_sb_read_response(copy, size, &response) == FK_OK && response.kind == FK_SB_COMPLETE) {
        check_span((fk_span){response.data, response.length}, size);
        read_data(copy + response.data, response.length);
    }
    fk_sb_info info;
    if (fk_sb_read_info(copy, size, &info) == FK_OK) require(info.description_length <= 128, "a description");
    uint32_t table[3];
    fk_sb_read_sector_table(copy, size, table);
    read_data(copy, size);
    return 0;
}

#ifndef FUZZ_LIBFUZZER

static size_t sample(uint32_t which, uint8_t *out) {
    static const uint8_t client[] = "KASSE-01", type[] = "Kassenbeleg-V1";
    memset(out, 0, FK_SB_BLOCK);
    uint8_t *data = out + 7;
    size_t length = 0;
    switch (which) {
    case 0:
        fk_sb_open_command(0x90, 2, client, 8, 42, 41, type, 14, out);
        return FK_SB_BLOCK;
    case 1: /* closed */
        data[7] = 42, data[54] = 3, data[55] = 0xe9, data[63] = 96;
        length = 160;
        break;
    case 2: /* numbers */
        data[0] = (uint8_t)random_below(64);
        length = 1 + 8u * data[0];
        break;
    case 3: /* clients in slots of 31 and of 32 bytes */
        data[0] = (uint8_t)random_below(17);
        length = 1 + (31 + random_below(2)) * data[0];
        for (size_t i = 1; i < length && i < 503; i++) data[i] = (uint8_t)(random_below(9) ? 'A' : 0);
        break;
    case 4: /* a piece of the certificate */
        data[0] = 1, data[1] = (uint8_t)random_below(256);
        length = 2 + 256u + random_below(256);
        break;
    default: /* info */
        for (size_t i = 0; i < FK_SB_BLOCK; i++) out[i] = (uint8_t)random_below(256);
        return FK_SB_BLOCK;
    }
    if (length > FK_SB_MAX_DATA) length = FK_SB_MAX_DATA;
    out[4] = 0xff;
    out[5] = (uint8_t)((length + 2) >> 8), out[6] = (uint8_t)(length + 2);
    return FK_SB_BLOCK;
}

int main(int argc, char **argv) {
    static uint8_t buffer[4096];
    static const uint8_t TEMPTING[] = {0, 1, 2, 15, 16, 17, 30, 31, 32, 61, 62, 63, 64, 0x7f, 0x80, 0xf3, 0xf7, 0xfd, 0xff};
    long runs = read_arguments(argc, argv, buffer, sizeof buffer), complete = 0;
    for (long i = 0; i < runs; i++) {
        size_t size = sample(random_below(6), buffer), begin = 0;
        for (uint32_t n = random_below(5); n > 0; n--) {
            size_t at = random_below(4) ? random_below(80) : random_below(FK_SB_BLOCK);
            buffer[at] = random_below(2) ? TEMPTING[random_below(sizeof TEMPTING)] : (uint8_t)random_below(256);
        }
        if (random_below(4) == 0) begin = random_below(16);
        if (random_below(4) == 0) size = begin + random_below((uint32_t)(size - begin) + 1);
        fk_sb_response response;
        complete += fk_sb_read_response(buffer, size, &response) == FK_OK && response.kind == FK_SB_COMPLETE;
        LLVMFuzzerTestOneInput(buffer + begin, size - begin);
    }
    printf("%ld mutations, no violation; %ld were complete responses\n", runs, complete);
    require(runs < 1000 || complete > runs / 10, "the samples are responses");
    return 0;
}

#endif
