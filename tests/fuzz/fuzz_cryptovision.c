/* fuzz_cryptovision.c - the readers of Cryptovision frames; the first byte of the input chooses one of them.
 *
 * As a program it mutates worked frames by itself: fuzz_cryptovision -n RUNS -s SEED [FILE...]. With
 * -DFUZZ_LIBFUZZER -fsanitize=fuzzer it is a target for libFuzzer.
 */
#include "cryptovision.h"
#include "fiskal.h"
#include "fuzz.h"

enum { READERS = 7 };

static void inside(uint64_t offset, uint64_t length, size_t size, const char *what)
{
    require(offset <= size && length <= size - offset, what);
}

static void fuzz_answer(const uint8_t *data, size_t size)
{
    fk_cv_answer answer;
    if (fk_cv_answer_read(data, size, FK_CV_TOKEN, &answer) != FK_OK) {
        return;
    }
    require(answer.state <= FK_CV_CONTROLLER, "a state that is one");
    require((answer.state == FK_CV_DATA) == (answer.length != 0), "data goes with its state");
    inside(34, answer.length, size, "the data of an answer lies in its block");
}

static void fuzz_head(const uint8_t *data, size_t size)
{
    fk_cv_head head;
    if (fk_cv_head_read(data, size, &head) != FK_OK) {
        return;
    }
    inside(head.offset, head.present, size, "what is present lies in the data");
    require(head.present <= head.total, "no more is present than there is");
    require(!head.more || size == FK_CV_FULL_ANSWER_BYTES, "more follows only a full block");
    require(head.kind != FK_CV_STREAM || head.more || head.present == head.total, "a stream ends complete");
}

static void fuzz_fragment(const uint8_t *data, size_t size)
{
    uint32_t use, more, error;
    if (size < 9) {
        return;
    }
    uint64_t missing = 0;
    for (int i = 0; i < 8; i++) {
        missing = missing << 8 | data[i];
    }
    missing >>= data[0] & 0x3f;
    int stream = data[8] & 1;
    if (fk_cv_fragment(data + 9, size - 9, missing, stream, &use, &more, &error) != FK_OK) {
        return;
    }
    inside(0, use, size - 9, "a fragment lies in its data");
    require(use <= missing, "no more than missing is used");
    require(use || error, "a fragment brings something");
    require(!more || use < missing, "more follows only if something is missing");
    require(!stream || more || error || use == missing, "a stream ends complete");
}

static void fuzz_values(const uint8_t *data, size_t size)
{
    fk_cv_value values[16];
    size_t count;
    if (fk_cv_values(data, size, values, 16, &count) == FK_OK) {
        size_t at = 0;
        require(count <= 16, "no more values than there is room for");
        for (size_t i = 0; i < count; i++) {
            require(values[i].offset == at + 3, "values follow each other");
            inside(values[i].offset, values[i].length, size, "a value lies in its data");
            at = values[i].offset + values[i].length;
            require(values[i].cut == 0 || at == size, "only the last value is cut");
        }
        require(at == size, "nothing is left out");
    }
}

static void fuzz_signed(const uint8_t *data, size_t size)
{
    fk_cv_signed found;
    for (int has_number = 0; has_number < 2; has_number++) {
        if (fk_cv_signed_read(data, size, has_number, &found) == FK_OK) {
            inside(found.signature, found.signature_length, size, "a signature lies in its data");
            inside(found.serial, found.serial_length, size, "a serial number lies in its data");
        }
    }
}

static void fuzz_serial(const uint8_t *data, size_t size)
{
    uint32_t offset;
    if (fk_cv_serial(data, size, &offset) == FK_OK) {
        inside(offset, FK_CV_SERIAL_BYTES, size, "a serial number lies in its data");
    }
}

static void fuzz_mappings(const uint8_t *data, size_t size)
{
    fk_cv_mapping found[64];
    size_t count;
    int strict;
    if (fk_cv_mappings(data, size, found, 64, &count, &strict) != FK_OK) {
        return;
    }
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        inside(found[i].client, found[i].client_length, size, "a client lies in its data");
        require(found[i].client > at && found[i].client_length >= 1, "clients follow each other");
        require(found[i].client_length <= FK_CV_MAX_CLIENT_ID_BYTES, "a client id is short");
        at = found[i].client + found[i].client_length;
        if (found[i].serial) {
            inside(found[i].serial, FK_CV_SERIAL_BYTES, size, "a key lies in its data");
            require(found[i].serial >= at, "a key follows its client");
            at = found[i].serial + FK_CV_SERIAL_BYTES;
        }
    }
}

static void (*const readers[READERS])(const uint8_t *, size_t) = {
    fuzz_answer, fuzz_head, fuzz_fragment, fuzz_values, fuzz_signed, fuzz_serial, fuzz_mappings,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size) {
        uint8_t *exact = malloc(size - 1); /* so that the sanitizer sees every byte behind the end */
        require(exact != NULL || size == 1, "memory");
        if (size > 1) memcpy(exact, data + 1, size - 1);
        readers[data[0] % READERS](exact, size - 1);
        free(exact);
    }
    return 0;
}

#ifndef FUZZ_LIBFUZZER

static const char *const seeds[READERS] = {
    "416456616e634544205365437552652053442f4d4d43204341726401000000000009000702000401010101",
    "900000000000004e2041424344",
    "00000000000000100141424344454647484950515253545556",
    "0200040000002a0200040000000204000441646d69050008000000010000000203000200070100015a",
    "0200040000002a020004000003e90200046553f10102000401020304020020be2974546978e3739e6d6da85c4be9f334ce32df2b9fd4b6ff"
    "1b55c0d57e9d44",
    "302f302d0420be2974546978e3739e6d6da85c4be9f334ce32df2b9fd4b6ff1b55c0d57e9d443009800101810101820101",
    "305c302c04084b415353452d30310420be2974546978e3739e6d6da85c4be9f334ce32df2b9fd4b6ff1b55c0d57e9d44302c04084b415353"
    "452d30320420be2974546978e3739e6d6da85c4be9f334ce32df2b9fd4b6ff1b55c0d57e9d44",
};

static size_t seed(int reader, uint8_t *out)
{
    const char *text = seeds[reader];
    size_t length = strlen(text) / 2;
    out[0] = (uint8_t)reader;
    for (size_t i = 0; i < length; i++) {
        unsigned value;
        require(sscanf(text + 2 * i, "%2x", &value) == 1, "a seed is hex");
        out[i + 1] = (uint8_t)value;
    }
    return length + 1;
}

static size_t mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const uint8_t tempting[] = {0x00, 0x01, 0x02, 0x04, 0x05, 0x30, 0x7f, 0x80, 0x81, 0x82, 0x84, 0x90, 0xff};
    for (uint32_t edits = 1 + random_below(4); edits; edits--) {
        size_t at = 1 + random_below((uint32_t)(size - 1 ? size - 1 : 1));
        switch (random_below(5)) {
        case 0:
            data[at] = (uint8_t)random_below(256);
            break;
        case 1:
            data[at] = tempting[random_below(sizeof tempting)];
            break;
        case 2: /* cut */
            size = at;
            break;
        case 3: /* insert */
            if (size < capacity) {
                memmove(data + at + 1, data + at, size - at);
                data[at] = tempting[random_below(sizeof tempting)];
                size++;
            }
            break;
        default: /* repeat a part */
            if (size > at) {
                size_t length = random_below((uint32_t)(size - at)) + 1;
                if (size + length <= capacity) {
                    memmove(data + at + length, data + at, size - at);
                    size += length;
                }
            }
        }
        if (size < 2) {
            size = 2;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    enum { CAPACITY = 16384 };
    static uint8_t buffer[CAPACITY];
    long runs = read_arguments(argc, argv, buffer, CAPACITY);
    for (long run = 0; run < runs; run++) {
        size_t size = seed((int)(run % READERS), buffer);
        if (random_below(64) == 0 && buffer[0] <= 2) { /* the length of a full block */
            size_t full = 1 + FK_CV_FULL_ANSWER_BYTES + (buffer[0] == 0 ? 34 : buffer[0] == 2 ? 9 : 0);
            memset(buffer + size, 'x', full - size);
            size = full;
        }
        if (random_below(16)) {
            size = mutate(buffer, size, CAPACITY);
        }
        LLVMFuzzerTestOneInput(buffer, size);
    }
    return 0;
}

#endif
