/*
 * Fuzz target for the frames of Diebold Nixdorf TSEs: whole answers, long answers in pieces, requests.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER. With any compiler: a main that
 * replays files, or runs N deterministic mutations of built-in samples (`fuzz_diebold_nixdorf -n 10000000 -s 1`).
 */
#include "diebold_nixdorf.h"
#include "fiskal.h"
#include "fuzz.h"

#define SPANS 8

static const uint8_t ID[] = "11111111-2222-3333-4444-555555555555";
#define ID_LENGTH (sizeof ID - 1)

static void check_read(const uint8_t *data, size_t size, uint32_t command) {
    fk_dn_answer answer;
    uint32_t spans[2 * SPANS];
    int status = fk_dn_read(data, size, command, ID, ID_LENGTH, &answer, spans, SPANS);
    if (status == FK_DN_MORE || status == FK_DN_E_START || status == FK_DN_E_FORM) return;
    require(status == FK_OK || status == FK_E_SPACE, "a status that is documented");
    require(answer.start < answer.end && answer.end <= size, "the frame lies in the data");
    require((status == FK_E_SPACE) == (answer.count > SPANS), "FK_E_SPACE for too many");
    require(command != 4 || answer.count <= 5, "five parameters of command 4");
    size_t at = answer.start + 5;
    for (size_t i = 0; i < answer.count && i < SPANS; i++) {
        require(spans[2 * i] == at + 2, "parameters follow each other");
        at = (size_t)spans[2 * i] + spans[2 * i + 1];
    }
    require(at <= answer.end - 4 - ID_LENGTH, "parameters end before the tail");
    require(fk_dn_read(data, answer.end - 1, command, ID, ID_LENGTH, &answer, spans, SPANS) == FK_DN_MORE,
            "an answer is complete with its last byte and not before");
}

/* The same bytes in one piece and in pieces that the data determines. */
static void check_stream(const uint8_t *data, size_t size) {
    uint8_t *outs[2];
    size_t totals[2] = {0, 0}, capacity = 3 * (size / 4 + 1);
    int statuses[2] = {FK_OK, FK_OK}, dones[2] = {0, 0};
    for (int way = 0; way < 2; way++) {
        fk_dn_stream stream;
        require(fk_dn_stream_begin(&stream, 300, ID, ID_LENGTH) == FK_OK, "begin");
        outs[way] = malloc(capacity);
        require(outs[way] != NULL, "memory");
        for (size_t at = 0; at < size && statuses[way] == FK_OK;) {
            size_t length = way ? 1 + (data[at] ^ at) % 7u : size;
            if (length > size - at) length = size - at;
            size_t room = 3 * (length / 4 + 1), written = 0;
            uint8_t *out = malloc(room); /* exact, so that the sanitizer sees every byte too many */
            require(out != NULL, "memory");
            statuses[way] = fk_dn_stream_feed(&stream, data + at, length, out, room, &written, &dones[way]);
            if (statuses[way] == FK_OK) {
                require(written <= room && totals[way] + written <= capacity, "no more than there is room for");
                memcpy(outs[way] + totals[way], out, written);
                totals[way] += written;
            }
            free(out);
            at += length;
        }
    }
    require(statuses[0] == statuses[1], "the pieces do not matter");
    if (statuses[0] == FK_OK) {
        require(dones[0] == dones[1] && totals[0] == totals[1], "nor for the end");
        require(memcmp(outs[0], outs[1], totals[0]) == 0, "nor for the bytes");
    }
    free(outs[0]);
    free(outs[1]);
}

static void check_request(const uint8_t *data, size_t size) {
    size_t length = 0, capacity = size ? data[0] : 0;
    uint8_t *out = malloc(capacity ? capacity : 1);
    require(out != NULL, "memory");
    int status = fk_dn_request(size ? data[0] * 5u : 0, data, size, ID, ID_LENGTH, size ? (int)data[0] - 20 : -1, out,
                               capacity, &length);
    if (status == FK_E_SPACE) require(length > capacity, "FK_E_SPACE asks for more");
    if (status == FK_OK) require(length <= capacity && out[length - 1] == 0x9F, "a whole frame");
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    require(copy != NULL, "memory");
    if (size) memcpy(copy, data, size);
    check_read(copy, size, 4);
    check_read(copy, size, 108);
    check_stream(copy, size);
    check_request(copy, size);
    free(copy);
    return 0;
}

#ifndef FUZZ_LIBFUZZER

#define TAIL "\x1b\x99" "11111111-2222-3333-4444-555555555555" "\x1b\x9f"
#define SAMPLE(text) {(const uint8_t *)(text), sizeof(text) - 1}

static const struct {
    const uint8_t *bytes;
    size_t length;
} SAMPLES[] = {
    SAMPLE("\x1b\x91" "108\x1b\x92" "0A1B2C3D\x1b\x92" "1\x1b\x92" "1\x1b\x92" "0\x1b\x92" "1\x1b\x92" "A\x1b\x92" "0.0.0.0" TAIL),
    SAMPLE("\x1b\x91" "004\x1b\x92" "2\x1b\x92" "0\x1b\x92" "00\x1b\x92" "64\x1b\x92\x1b\x91" "502\x1b\x92" "POS\x1b\x9f" TAIL),
    SAMPLE("\x1b\x91" "300\x1b\x92" "AAECAwQFBgcICQoLDA0ODxAREhMUFQ==" TAIL),
    SAMPLE("\x1b\x91" "300\x1b\x92" "QUJD\r\nREU=" TAIL),
    SAMPLE("\x1bk\1\2\3\4\x1b\x91" "108" TAIL "\x1b\x91" "004" TAIL),
    SAMPLE("1\0" "POS001\0\0" "39\0"),
};

static const struct {
    const char *bytes;
    size_t length;
} PIECES[] = {{"\x1b\x90", 2}, {"\x1b\x91", 2}, {"\x1b\x92", 2}, {"\x1b\x99", 2}, {"\x1b\x9f", 2}, {"\x1b", 1},
              {"\x1b\x91" "004", 5}, {"\x1b\x91" "108", 5}, {"\x1b\x91" "300\x1b\x92", 7}, {TAIL, 40}, {"=", 1},
              {"QQ==", 4}, {"\0", 1}, {"\x1b\x92\x1b\x92\x1b\x92\x1b\x92", 8}};

static size_t mutate(uint8_t *buffer, size_t size, size_t capacity) {
    for (uint32_t rounds = 1 + random_below(5); rounds; rounds--) {
        size_t at = random_below((uint32_t)size + 1), piece, length;
        switch (random_below(4)) {
        case 0:
            if (at < size) buffer[at] ^= (uint8_t)(1u << random_below(8));
            break;
        case 1:
            if (random_below(3) == 0) size = at;
            break;
        case 2:
            piece = random_below(sizeof PIECES / sizeof *PIECES);
            length = PIECES[piece].length;
            if (size + length > capacity) break;
            memmove(buffer + at + length, buffer + at, size - at);
            memcpy(buffer + at, PIECES[piece].bytes, length);
            size += length;
            break;
        default:
            length = random_below(12);
            if (at + length > size) break;
            memmove(buffer + at, buffer + at + length, size - at - length);
            size -= length;
        }
    }
    return size;
}

int main(int argc, char **argv) {
    static uint8_t buffer[4096];
    long runs = read_arguments(argc, argv, buffer, sizeof buffer);
    for (long i = 0; i < runs; i++) {
        uint32_t sample = random_below(sizeof SAMPLES / sizeof *SAMPLES);
        size_t size = SAMPLES[sample].length;
        memcpy(buffer, SAMPLES[sample].bytes, size);
        if (i >= (long)(sizeof SAMPLES / sizeof *SAMPLES)) size = mutate(buffer, size, sizeof buffer);
        LLVMFuzzerTestOneInput(buffer, size);
    }
    printf("%ld mutations, no violation\n", runs);
    return 0;
}

#endif
