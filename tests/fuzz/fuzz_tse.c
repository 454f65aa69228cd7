/*
 * Fuzz target for everything of the core that reads bytes of a TSE: log messages, DER elements, times, signatures,
 * TAR archives.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER. With any compiler: a main that
 * replays files, or runs N deterministic mutations of built-in samples (`fuzz_tse -n 100000 -s 1`).
 */
#include "fiskal.h"
#include "fuzz.h"

#define LARGE 4096u
#define ENTRIES 16u

static void check_span(fk_span span, fk_span outer) {
    require(span.length == 0 || (span.offset >= outer.offset && span.length <= outer.length &&
                                 span.offset - outer.offset <= outer.length - span.length),
            "a span lies in what holds it");
}

static void check_chunks(const uint8_t *data, const fk_log_message *message) {
    size_t length = message->process_data.length;
    uint8_t *joined = malloc(length);
    uint32_t *lengths = malloc((size_t)message->chunks * sizeof *lengths);
    require(joined && lengths, "memory");
    require(fk_log_join(data + message->process_data.offset, length, joined, lengths) == FK_OK, "chunks join");
    uint64_t sum = 0;
    for (uint32_t i = 0; i < message->chunks; i++) sum += lengths[i];
    require(sum + 2ull * message->chunks <= length, "chunks are shorter than their elements");
    free(joined);
    free(lengths);
}

static void check_message(const uint8_t *data, size_t size) {
    fk_log_message message;
    fk_span whole = {0, (uint32_t)size};
    if (fk_log_read(data, size, &message) != FK_OK) {
        require(message.fault <= size, "the fault lies in the message");
        return;
    }
    fk_span spans[] = {message.tbs, message.signature};
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) check_span(spans[i], whole);
    fk_span parts[] = {message.type_oid, message.elements, message.serial, message.algorithm, message.audit_data,
                       message.time};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) check_span(parts[i], message.tbs);
    fk_span inner[] = {message.operation, message.client_id, message.process_data, message.process_type};
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) check_span(inner[i], message.elements);
    require(message.time_ticks >= 0 && message.time_ticks <= INT64_C(3155378975999999999), "a time of the calendar");
    require(message.type <= 3, "a known type or none");
    uint32_t present = 0;
    size_t at = message.elements.offset, end = at + message.elements.length;
    while (at < end) {
        fk_element element;
        require(fk_der_read(data, end, at, &element) == FK_OK && element.end > at, "elements read again");
        present |= UINT32_C(1) << (element.tag & 0x1F);
        at = element.end;
    }
    require(at == end && present == message.present, "the elements that are there");
    if (message.chunks > 1) check_chunks(data, &message);
    /* one message, one reading: a shorter or longer piece is none */
    fk_log_message other;
    require(fk_log_read(data, size - 1, &other) != FK_OK, "a message cut short is none");
}

static void check_archive(const uint8_t *data, size_t size) {
    fk_tar_entry entries[ENTRIES];
    fk_tar_scan scan;
    size_t start = 0;
    fk_span whole = {0, (uint32_t)size};
    int status = fk_tar_scan_entries(data, size, LARGE, entries, ENTRIES, &scan);
    require(scan.consumed <= size && scan.count <= ENTRIES && scan.others <= scan.count, "the counts of a scan");
    require(status != FK_OK || scan.count != ENTRIES || scan.consumed > 0, "progress");
    for (size_t i = 0; i < scan.count; i++) {
        check_span(entries[i].name, whole);
        check_span(entries[i].prefix, whole);
        require(entries[i].data <= size && entries[i].data >= start + 512, "members in their order");
        if (entries[i].is_whole) require(entries[i].size <= size - entries[i].data, "a whole member lies inside");
        start = entries[i].data;
    }
    if (scan.skip) require(scan.count && !entries[scan.count - 1].is_whole, "only a large member is skipped");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1); /* exact, so that the sanitizer sees every byte too many */
    uint8_t plain[132];
    int64_t ticks;
    require(copy != NULL, "memory");
    if (size) memcpy(copy, data, size);
    if (size >= 512) {
        check_archive(copy, size);
    } else if (size) {
        fk_element element;
        check_message(copy, size);
        fk_der_read(copy, size, size / 2, &element);
        fk_ecdsa_plain(copy, size, 1 + copy[0] % 66u, plain);
        if (fk_log_read_time(copy[0], copy + 1, size - 1, &ticks) == FK_OK) require(ticks >= 0, "a time");
    }
    free(copy);
    return 0;
}

#ifndef FUZZ_LIBFUZZER

static const char *const SAMPLES[] = {
    /* version 2, Unix time */
    "3081e6020102060904007f000703070101801146696e6973685472616e73616374696f6e8108504f532d30303031822942656c65675e31"
    "312e39305f302e30305f302e30305f302e30305f302e30305e31312e39303a426172830e4b617373656e62656c65672d5631850200c804"
    "20024fd447e63cca44fe9261909ee9fb5a662ed2dc8ec37d34d04aae7ef1c30af8300c060a04007f00070101040103020203e802046553"
    "f10004401f7c5aec55baccdc1dd8ab7f29653a2a6e181b0c1d26bc127ca451732c4ff3688264a8224e28b536d576a47e9232d381f4df8c"
    "195ceb46441fc7a35b9d6f78b5",
    /* chunks of indefinite length, a counter of three bytes */
    "3081ee020102060904007f000703070101801146696e6973685472616e73616374696f6e8108504f532d30303031a28004057570642d31"
    "040366696e00008310536f6e737469676572566f7267616e6785020080042003605b93a243dd9b41668b0d274852ddc3fee9b525a7e98f"
    "b154057175672587300c060a04007f00070101040104020300800002046553f10004602a9548d677da7a61ab7ee22edbaf0a0e3927b5a7"
    "4dcee83197bb8e7723b8d13de273fcedeaf2229b89d0c585bfd29fa77584f577c70b484d61aaf9954181fb3f15bf80c683d16e3c50c935"
    "6ee4d8c6b057d1284f70bae33eee4ba39d0e356965",
    /* version 3, GeneralizedTime, a system log with origin and user */
    "3081c3020103060904007f000703070102800e7265676973746572436c69656e748106646576696365820561646d696ea30a1308504f53"
    "2d3030303104200000000000000000000000000000000000000000000000000000000000000000300c060a04007f000701010401030201"
    "05181332303233313131343232313332302e3030305a044001020102010201020102010201020102010201020102010201020102010201"
    "020102010201020102010201020102010201020102010201020102010201020102",
    /* an audit log with UTCTime */
    "308199020102060904007f00070307010304200000000000000000000000000000000000000000000000000000000000000000300c060a"
    "04007f0007010104010304053003820101020107170d3230303532323131333330325a0440010201020102010201020102010201020102"
    "01020102010201020102010201020102010201020102010201020102010201020102010201020102010201020102",
    /* times and signatures */
    "181332303233313131343232313332302e3030305a",
    "3006020101020102",
};

static size_t from_hex(const char *hex, uint8_t *out) {
    size_t size = strlen(hex) / 2;
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        out[i] = (uint8_t)byte;
    }
    return size;
}

static void mend(uint8_t *block) {
    unsigned sum = 8 * ' ';
    memset(block + 148, ' ', 8);
    for (int i = 0; i < 512; i++) sum += block[i];
    sum -= 8 * ' ';
    snprintf((char *)block + 148, 7, "%06o", sum & 0777777u);
    block[155] = ' ';
}

static size_t put_member(uint8_t *out, const char *name, char type, const char *content) {
    size_t size = strlen(content);
    memset(out, 0, 512 + (size + 511) / 512 * 512);
    strncpy((char *)out, name, 100);
    snprintf((char *)out + 124, 12, "%011o", (unsigned)size);
    out[156] = (uint8_t)type;
    memcpy(out + 257, "ustar\0" "00", 8);
    memcpy(out + 512, content, size);
    mend(out);
    return 512 + (size + 511) / 512 * 512;
}

static size_t archive(uint8_t *out) {
    size_t at = put_member(out, "info.csv", '0', "\"description:\",\"d\"\n");
    at += put_member(out + at, "PaxHeader", 'x', "28 path=Unixt_1_Log-Aud.log\n12 size=0003\n11 mtime=1\n");
    at += put_member(out + at, "short.log", '0', "abc");
    at += put_member(out + at, "././@LongLink", 'L', "a/very/long/name.log");
    at += put_member(out + at, "b.log", '0', "x");
    at += put_member(out + at, "folder/", '5', "");
    at += put_member(out + at, "link", '2', "");
    memset(out + at, 0, 1024);
    return at + 1024;
}

static const uint8_t TEMPTING[] = {0x00, 0x01, 0x02, 0x04, 0x06, 0x17, 0x18, 0x30, 0x7F, 0x80, 0x81, 0x82, 0x83,
                                   0x84, 0x85, 0x86, 0x9F, 0xA2, 0xA3, 0xFF, '0',  '7',  'x',  'L',  'g',  ' '};

static size_t mutate(uint8_t *buffer, size_t size, size_t capacity) {
    for (uint32_t n = 1 + random_below(4); n > 0 && size > 0; n--) {
        size_t at = random_below((uint32_t)size), length, from;
        switch (random_below(6)) {
        case 0:
            buffer[at] ^= (uint8_t)(1u << random_below(8));
            break;
        case 1:
            buffer[at] = TEMPTING[random_below(sizeof TEMPTING)];
            break;
        case 2:
            buffer[at] = (uint8_t)(buffer[at] + random_below(7) - 3);
            break;
        case 3: /* remove a stretch */
            length = 1 + random_below(8);
            if (at + length > size) break;
            memmove(buffer + at, buffer + at + length, size - at - length);
            size -= length;
            break;
        case 4: /* insert tempting bytes */
            length = 1 + random_below(6);
            if (size + length > capacity) break;
            memmove(buffer + at + length, buffer + at, size - at);
            for (size_t i = 0; i < length; i++) buffer[at + i] = TEMPTING[random_below(sizeof TEMPTING)];
            size += length;
            break;
        default: /* copy a stretch onto another place */
            length = 1 + random_below(40);
            from = random_below((uint32_t)size);
            if (from + length > size || at + length > size) break;
            memmove(buffer + at, buffer + from, length);
        }
    }
    return size;
}

int main(int argc, char **argv) {
    static uint8_t buffer[65536];
    long runs = read_arguments(argc, argv, buffer, sizeof buffer);
    const long samples = (long)(sizeof SAMPLES / sizeof *SAMPLES);
    long good = 0;
    for (long i = 0; i < runs; i++) {
        uint32_t which = random_below((uint32_t)samples + 2);
        if (i < samples) which = (uint32_t)i;
        size_t size;
        if (which < (uint32_t)samples) {
            size = from_hex(SAMPLES[which], buffer);
            if (i >= samples) size = mutate(buffer, size, sizeof buffer);
            fk_log_message message;
            good += size < 512 && fk_log_read(buffer, size, &message) == FK_OK;
        } else {
            size = mutate(buffer, archive(buffer), sizeof buffer);
            for (size_t at = 0; at + 512 <= size; at += 512)
                if (memcmp(buffer + at + 257, "ustar", 5) == 0 && random_below(8)) mend(buffer + at);
        }
        LLVMFuzzerTestOneInput(buffer, size);
        if (i == samples - 1) require(good >= samples - 2, "the samples are messages");
    }
    printf("%ld mutations, no violation; %ld were still messages\n", runs, good);
    return 0;
}

#endif
