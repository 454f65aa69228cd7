/*
 * Fuzz target for what reads the bytes of an Epson TSE: the ends of messages and the pieces of an export, and for what
 * writes texts of others into messages.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER. With any compiler: a main that
 * replays files, or runs N deterministic mutations of built-in samples (`fuzz_epson -n 100000 -s 1`).
 */
#include "epson.h"
#include "fiskal.h"
#include "fuzz.h"

static void check_read(const uint8_t *data, size_t size) {
    fk_epson_span span;
    size_t at = 0;
    for (;;) {
        int status = fk_epson_read(data + at, size - at, &span);
        require(span.begin <= span.end && span.end <= span.next && span.next <= size - at, "span inside");
        if (status == FK_EPSON_MORE) {
            require(memchr(data + at + span.next, 0, size - at - span.next) == NULL, "no message is left");
            return;
        }
        require(status == FK_OK || status == FK_EPSON_E_FORM, "status of read");
        require(span.next && data[at + span.next - 1] == 0, "a message ends with a zero byte");
        require(memchr(data + at + span.begin, 0, span.end - span.begin) == NULL, "no zero byte in a message");
        if (status == FK_OK)
            require(data[at + span.begin] == '<' && data[at + span.end - 1] == '>', "an element");
        at += span.next;
    }
}

/* Escaped, then unescaped by hand: the same. */
static void check_escape(const uint8_t *data, size_t size) {
    size_t written = 0, needed = 0;
    int status = fk_epson_escape(data, size, (uint8_t *)"", 0, &needed);
    if (status == FK_EPSON_E_TEXT) return;
    require(status == (needed ? FK_E_SPACE : FK_OK), "status of escape");
    uint8_t *out = malloc(needed + !needed);
    require(out != NULL, "memory");
    require(fk_epson_escape(data, size, out, needed, &written) == FK_OK && written == needed, "escape fits");
    uint8_t *roomy = malloc(6 * size + 1); /* another way is taken where there is room for everything */
    require(roomy != NULL, "memory");
    require(fk_epson_escape(data, size, roomy, 6 * size, &written) == FK_OK && written == needed, "escape with room");
    require(memcmp(roomy, out, needed) == 0, "the same with room");
    free(roomy);
    size_t at = 0;
    for (size_t i = 0; i < size; i++) {
        const char *expected = data[i] == '&'   ? "&amp;"
                               : data[i] == '<' ? "&lt;"
                               : data[i] == '>' ? "&gt;"
                               : data[i] == '"' ? "&quot;"
                                                : NULL;
        if (expected) {
            size_t length = strlen(expected);
            require(needed - at >= length && memcmp(out + at, expected, length) == 0, "escape");
            at += length;
        } else {
            require(at < needed && out[at] == data[i], "plain byte");
            at++;
        }
    }
    require(at == needed, "nothing behind");
    free(out);
}

static void check_write(const uint8_t *data, size_t size) {
    static uint8_t out[1 << 17];
    size_t written = 0;
    fk_epson_span span;
    size_t split = size ? data[0] % size : 0;
    int status = fk_epson_request(data, split, 60000, data + split, size - split, out, sizeof out, &written);
    if (status == FK_OK) {
        require(fk_epson_read(out, written, &span) == FK_OK && span.next == written, "one message");
        require(fk_epson_request(data, split, 60000, data + split, size - split, out, written - 1, &written) ==
                    FK_E_SPACE,
                "request without room");
    }
    for (int kind = 0; kind <= 5; kind++) {
        status = fk_epson_message(kind, data, size, out, sizeof out, &written);
        if (status == FK_OK) require(fk_epson_read(out, written, &span) == FK_OK && span.next == written, "one message");
    }
}

/* In pieces or at once: the same bytes, or the same refusal. */
static void check_pieces(const uint8_t *data, size_t size) {
    fk_epson_export whole = {{0}, 0}, parts = {{0}, 0};
    size_t capacity = size / 4 * 3, at = 0, total = 0, written = 0, once_written = 0;
    uint8_t *once = malloc(capacity + 1), *pieces = malloc(capacity + 1);
    require(once && pieces, "memory");
    int status = fk_epson_piece(&whole, data, size, once, capacity, &once_written);
    int other = FK_OK;
    for (size_t step = 1; at < size && other == FK_OK; at += step) {
        step = 1 + data[at] % 7u;
        if (step > size - at) step = size - at;
        other = fk_epson_piece(&parts, data + at, step, pieces + total, (parts.count + step) / 4 * 3, &written);
        if (other == FK_OK) total += written;
    }
    require(status == other, "same status in pieces");
    if (status == FK_OK) {
        require(total == once_written && memcmp(once, pieces, total) == 0, "same bytes in pieces");
        require(whole.count == parts.count && whole.count < 4, "same rest");
    } else {
        require(status == FK_EPSON_E_BASE64, "status of a piece");
    }
    free(once);
    free(pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1); /* exact, so that the sanitizer sees every byte too many */
    require(copy != NULL, "memory");
    if (size) memcpy(copy, data, size);
    check_read(copy, size);
    check_escape(copy, size);
    check_write(copy, size);
    check_pieces(copy, size);
    free(copy);
    return 0;
}

#ifndef FUZZ_LIBFUZZER

#define SAMPLE(text) {(const uint8_t *)(text), sizeof(text) - 1}

static const struct {
    const uint8_t *data;
    size_t size;
} SAMPLES[] = {
    SAMPLE("<connect><data><client_id>sock1857622694</client_id></data></connect>\0"),
    SAMPLE("\"<open_device><device_id>local_TSE</device_id><code>OK</code></open_device>\"\0\"<a/> \0 "),
    SAMPLE("local_TSE\0type_storage\0"),
    SAMPLE("{\"result\":\"EXECUTION_OK\",\"output\":{\"a\":\"\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e&<>\"}}"),
    SAMPLE("fXk08EhlHB6EUST/qrKZglzZ+Yzmm2/Y7nlp/w2tm4I0rJlRzs7nwJVnr7yijQ==dTML5PTLLUzPjsMNAYHiGfuF7q8="),
};

static size_t mutate(uint8_t *buffer, size_t size, size_t capacity) {
    for (uint32_t count = 1 + random_below(4); count; count--) {
        size_t at = size ? random_below((uint32_t)size) : 0;
        switch (random_below(5)) {
        case 0:
            if (size) buffer[at] ^= (uint8_t)(1u << random_below(8));
            break;
        case 1:
            if (size) buffer[at] = (uint8_t) "\0\"<>&= A\xff\xc3\xef\xbf"[random_below(12)];
            break;
        case 2: /* take something away */
            if (size) {
                size_t length = 1 + random_below((uint32_t)(size - at));
                memmove(buffer + at, buffer + at + length, size - at - length);
                size -= length;
            }
            break;
        case 3: /* put in a byte */
            if (size < capacity) {
                memmove(buffer + at + 1, buffer + at, size - at);
                buffer[at] = (uint8_t)random_below(256);
                size++;
            }
            break;
        default: /* repeat a part */
            if (size) {
                size_t length = 1 + random_below((uint32_t)(size - at));
                if (length > 64) length = 64;
                if (size + length <= capacity) {
                    memmove(buffer + at + length, buffer + at, size - at);
                    size += length;
                }
            }
        }
    }
    return size;
}

int main(int argc, char **argv) {
    static uint8_t buffer[512];
    long runs = read_arguments(argc, argv, buffer, sizeof buffer);
    for (long i = 0; i < runs; i++) {
        uint32_t chosen = random_below(sizeof SAMPLES / sizeof *SAMPLES);
        size_t size = SAMPLES[chosen].size;
        memcpy(buffer, SAMPLES[chosen].data, size);
        if (i >= 8) size = mutate(buffer, size, sizeof buffer);
        LLVMFuzzerTestOneInput(buffer, size);
    }
    printf("%ld mutations, no violation\n", runs);
    return 0;
}

#endif
