/*
 * Fuzz target for everything of the core that reads bytes of a POS.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER. With any compiler: a main that
 * replays files, or runs N deterministic mutations of built-in samples (`fuzz_prepare -n 100000 -s 1`).
 */
#include "fiskal.h"
#include "testing.h"
#include "fuzz.h"

#define ARENA (1u << 20)

static void check_slice(fk_slice s, size_t capacity) {
    if (s.length < 0) return;
    require(s.offset >= 0 && (size_t)s.offset + (size_t)s.length <= capacity, "slice inside of the arena");
}

/*
 * The canonical text of a canonical text is itself. An item's text that was null is left out of the first and
 * is "" in the second, so it is the second that must not change any more.
 */
static void check_stable(const uint8_t *text, uint32_t options, const fk_prepared *first) {
    static uint8_t arenas[2][ARENA];
    fk_prepared prepared = *first;
    fk_error error;
    for (int pass = 0; pass < 2; pass++) {
        int64_t length = prepared.canonical.length;
        int status = fk_prepare(text, (size_t)length, options, 50, arenas[pass], ARENA, &prepared, &error);
        if (status == FK_E_SPACE) return;
        require(status == FK_OK, "canonical text is accepted");
        const uint8_t *next = arenas[pass] + prepared.canonical.offset;
        require(pass == 0 || (prepared.canonical.length == length && memcmp(text, next, (size_t)length) == 0),
                "canonical text is stable");
        text = next;
    }
    require(prepared.payload_status == first->payload_status, "same payload status");
    require(prepared.process_data.length == first->process_data.length, "same processData");
    require(prepared.action_start_ticks == first->action_start_ticks, "same start of the action");
}

static void check_prepare(const uint8_t *data, size_t size, uint32_t options, size_t capacity) {
    fk_prepared prepared;
    fk_error error;
    /* exact allocations, so that the sanitizer sees every byte too many */
    size_t skew = size & 7u; /* an arena need not be aligned */
    uint8_t *block = malloc(capacity + skew), *copy = malloc(size ? size : 1);
    require(block && copy, "memory");
    uint8_t *arena = block + skew;
    if (size) memcpy(copy, data, size);
    int status = fk_prepare(copy, size, options, 50, arena, capacity, &prepared, &error);
    if (status == FK_E_SPACE) {
        require(error.offset > (int64_t)capacity, "FK_E_SPACE asks for more");
    } else if (status != FK_OK) {
        require(error.offset >= 0 && (size_t)error.offset <= size, "error inside of the text");
        require(memchr(error.path, 0, sizeof error.path) != NULL, "path is terminated");
    } else {
        check_slice(prepared.canonical, capacity);
        check_slice(prepared.cash_box_id, capacity);
        check_slice(prepared.receipt_case_data, capacity);
        check_slice(prepared.previous_receipt_reference, capacity);
        check_slice(prepared.total, capacity);
        check_slice(prepared.process_data, capacity);
        check_slice(prepared.process_data_base64, capacity);
        check_stable(arena + prepared.canonical.offset, options, &prepared);
    }
    free(block);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fk_decimal decimal;
    int64_t ticks;
    char text[FK_DECIMAL_TEXT];
    size_t capacity = size && (data[size - 1] & 1) ? ARENA : 4096 + (size ? data[size / 2] * 16u : 0);
    check_prepare(data, size, size ? data[0] & 3u : 0, capacity);
    if (fk_decimal_parse((const char *)data, size, &decimal) == FK_OK) {
        require(decimal.scale <= 28, "scale");
        for (int form = FK_FORM_CANONICAL; form <= FK_FORM_QUANTITY; form++) {
            int length = fk_decimal_format(&decimal, (fk_decimal_form)form, text);
            require(length > 0 && length <= FK_DECIMAL_TEXT, "text length");
        }
        require(fk_unit_price(&decimal, &decimal, text) == 4, "price of itself");
    }
    fk_moment_parse((const char *)data, size, &ticks);
    return 0;
}

#ifndef FUZZ_LIBFUZZER

static const char *const SAMPLES[] = {
    "{\"ftCashBoxID\":\"b6c9f13b-b987-43cd-ab08-3f5cb2a850d6\",\"cbTerminalID\":\"T1\",\"cbReceiptReference\":\"R\","
    "\"cbReceiptMoment\":\"2020-05-22T10:47:42.3247875Z\",\"cbChargeItems\":[{\"Quantity\":1.0,\"Description\":"
    "\"Bier 0,5l\",\"Amount\":4.00,\"VATRate\":19.0,\"ftChargeItemCase\":4919338167972134913,\"VATAmount\":"
    "0.6067226890756302521008403361,\"Moment\":\"2020-05-22T10:48:03.96+02:00\"}],\"cbPayItems\":[{\"Amount\":4.00,"
    "\"ftPayItemCase\":4919338167972134914,\"ftPayItemCaseData\":\"{\\\"CurrencyCode\\\":\\\"USD\\\","
    "\\\"ForeignCurrencyAmount\\\":5.00}\"}],\"ftReceiptCase\":4919338172267102209}",
    "\xef\xbb\xbf{ // note\n \"CBRECEIPTMOMENT\":\"\\/Date(1590144460960+0200)\\/\", /* x */ \"ftReceiptCase\":"
    "\"4919338172267102224\",\"cbChargeItems\":[{\"Quantity\":\"2.5\",\"Amount\":\"-1e2\",\"Description\":"
    "\"a\\\"b\\u00e4\\ud83d\\ude00\\n\\u2028\xc2\x85\",\"Unit\":null,},],\"cbPayItems\":null,\"x\":[[{\"y\":[true,"
    "false,null,-1.5e-3]}]],}",
    "{\"cbReceiptMoment\":\"2024-01-02\",\"cbPayItems\":[{\"Amount\":79228162514264337593543950335,"
    "\"ftPayItemCase\":10},{\"Amount\":1,\"Quantity\":-0.0000000000000000000000000001,\"ftPayItemCase\":2,"
    "\"ftPayItemCaseData\":\"{\\\"ForeignCurrencyAmount\\\":\\\"1.5\\\",\\\"CurrencyCode\\\":\\\"\\\\u0055SD\\\"}\"}],"
    "\"ftReceiptCase\":1,\"cbReceiptAmount\":null,\"cbUser\":5,\"cbArea\":\"\\u0000\"}",
    "792281625142643375935439503.35e-7",
    "/Date(-62135596800000+0100)/",
    "2020-05-22T10:47:42.3247875+02:00",
};

static const char *const PIECES[] = {"\"", "\\", "\\u", "\\ud800", "{", "}", "[", "]", ",", ":", "null", "NaN", "1e999999999999", "-0.0",
                                     "99999999999999999999999999999", "0.00000000000000000000000000005", "//", "/*", "*/", "\n", "\xe2\x80\xa8",
                                     "\xed\xa0\x80", "\xff", "\"Amount\":1,", "\"cbReceiptMoment\":\"2024-01-02T03:04:05Z\",", "{},", "4919338172267102224"};

static size_t mutate(uint8_t *buffer, size_t size, size_t capacity) {
    for (uint32_t rounds = 1 + random_below(6); rounds; rounds--) {
        size_t at = random_below((uint32_t)size + 1);
        const char *piece;
        size_t length, from;
        switch (random_below(6)) {
        case 0: /* flip a bit */
            if (at < size) buffer[at] ^= (uint8_t)(1u << random_below(8));
            break;
        case 1: /* cut off */
            if (random_below(4) == 0) size = at;
            break;
        case 2: /* insert a piece */
        case 3:
            piece = PIECES[random_below(sizeof PIECES / sizeof *PIECES)];
            length = strlen(piece);
            if (size + length > capacity) break;
            memmove(buffer + at + length, buffer + at, size - at);
            memcpy(buffer + at, piece, length);
            size += length;
            break;
        case 4: /* delete a stretch */
            length = random_below(16);
            if (at + length > size) break;
            memmove(buffer + at, buffer + at + length, size - at - length);
            size -= length;
            break;
        default: /* repeat a stretch */
            from = random_below((uint32_t)size + 1);
            length = random_below(120);
            if (from + length > size || size + length > capacity) break;
            memmove(buffer + at + length, buffer + at, size - at);
            if (from + length <= at || from >= at) memmove(buffer + at, buffer + (from >= at ? from + length : from), length);
            size += length;
        }
    }
    return size;
}

int main(int argc, char **argv) {
    static uint8_t buffer[65536];
    long runs = read_arguments(argc, argv, buffer, sizeof buffer);
    for (long i = 0; i < runs; i++) {
        const char *sample = SAMPLES[random_below(sizeof SAMPLES / sizeof *SAMPLES)];
        size_t size = strlen(sample);
        memcpy(buffer, sample, size);
        if (i >= (long)(sizeof SAMPLES / sizeof *SAMPLES)) size = mutate(buffer, size, sizeof buffer);
        LLVMFuzzerTestOneInput(buffer, size);
    }
    printf("%ld mutations, no violation\n", runs);
    return 0;
}

#endif
