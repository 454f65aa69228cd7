/* internal.h - what the sources of the C core share with each other and with nobody else. */
#ifndef FISKAL_INTERNAL_H
#define FISKAL_INTERNAL_H

#include "fiskal.h"
#include "testing.h"

#include <string.h>

/* ---- bounded output: counts on past the end, so that the size needed is known ----------------- */

typedef struct writer {
    char *at;
    size_t length;
    size_t capacity;
} writer;

static inline int writer_full(const writer *w) { return w->length > w->capacity; }

static inline void put(writer *w, const void *data, size_t length) {
    if (length && w->length <= w->capacity && length <= w->capacity - w->length)
        memcpy(w->at + w->length, data, length);
    else if (length)
        w->capacity = w->capacity < w->length ? w->capacity : w->length; /* nothing after a gap */
    w->length += length;
}

static inline void put_char(writer *w, char c) { put(w, &c, 1); }

#define PUT_LITERAL(w, text) put((w), (text), sizeof(text) - 1)

/* out: 4 * ((length + 2) / 3) characters. */
void base64_encode(const uint8_t *data, size_t length, char *out);

/* ---- sums that are exact whatever the scales --------------------------------------------------- */

/* 256 bits, least significant word first */
typedef struct wide {
    uint32_t word[8];
} wide;

typedef struct exact_sum {
    int64_t small; /* the part that fits: value = small / 10^small_scale + large / 10^28 */
    int32_t small_scale;
    int32_t scale; /* the largest scale added */
    int32_t has_large;
    wide large; /* two's complement; valid if has_large */
} exact_sum;

static inline void sum_clear(exact_sum *s) { s->small = 0, s->small_scale = 0, s->scale = 0, s->has_large = 0; }
void sum_add(exact_sum *s, const fk_decimal *value, int negate);
int sum_sign(const exact_sum *s);
int sum_equal(const exact_sum *a, const exact_sum *b);
int sum_has_more_than_two_decimals(const exact_sum *s);
int sum_format(const exact_sum *s, fk_decimal_form form, char *out);

static inline int decimal_is_zero(const fk_decimal *d) { return !d->low && !d->high; }
int decimal_is_tenths(const fk_decimal *d, uint64_t tenths); /* d == tenths / 10 */
void decimal_cut(fk_decimal *d, int places);                 /* drops what stands behind `places` decimals */
int format_int64(int64_t value, char *out);

/* ---- JSON tokens -------------------------------------------------------------------------------- */

typedef struct scanner {
    const uint8_t *at;
    const uint8_t *end;
    const uint8_t *start;
    const char *detail; /* after an error; never NULL */
    const uint8_t *error_at;
} scanner;

#define TEXT_ESCAPED 1 /* holds backslashes */
#define TEXT_SPECIAL 2 /* holds characters that the canonical text escapes */

/* the inside of a JSON string, validated but not decoded; or a number token */
typedef struct text {
    const uint8_t *at;
    size_t length;
    unsigned flags;
} text;

int scan_fail(scanner *s, int status, const uint8_t *where, const char *detail);
int scan_blanks(scanner *s);                                            /* blanks and comments */
int scan_string(scanner *s, text *out);                                 /* at the opening quote */
int scan_number(scanner *s, text *out);                                 /* at '-' or a digit */
int scan_literal(scanner *s, const char *word);                         /* null, true, false */
int scan_value(scanner *s, int depth);                                  /* any value, skipped */
int scan_at_nan(const scanner *s);                                      /* NaN, Infinity, -Infinity */
void text_unescape(const text *t, writer *w);                           /* to UTF-8 */
void text_write_json(const text *t, writer *w);                         /* to a canonical JSON string */
int text_is_plain_name(const text *t, const char *name, size_t length); /* equal, letter case ignored */

/* ---- numbers out of texts ------------------------------------------------------------------------ */

int integer_parse(const char *digits, size_t length, int64_t *out); /* FK_E_RANGE, FK_E_TYPE */

/* ---- points in time: the one calendar ---------------------------------------------------------------- */

#define TICKS_PER_MILLISECOND INT64_C(10000)
#define TICKS_PER_SECOND INT64_C(10000000)
#define UNIX_EPOCH_TICKS INT64_C(621355968000000000)
#define LAST_TICK INT64_C(3155378975999999999) /* 9999-12-31T23:59:59.9999999 */

/* proleptic Gregorian, years 1 to 9999, UTC */
typedef struct calendar {
    int year, month, day, hour, minute, second;
    int ticks; /* of the second */
} calendar;

/* hour, minute and second are taken as they are. FK_E_MOMENT if there is no such day. */
int moment_join(const calendar *moment, int64_t *ticks);
int moment_split(int64_t ticks, calendar *out);    /* FK_E_MOMENT */
char *put_digits(char *out, int value, int count); /* leading zeros; returns the end */

/* ---- DER (ITU-T X.690), as far as TR-03151 needs it ------------------------------------------------- */

enum {
    TAG_INTEGER = 0x02,
    TAG_OCTET_STRING = 0x04,
    TAG_OID = 0x06,
    TAG_UTC_TIME = 0x17,
    TAG_GENERALIZED_TIME = 0x18,
    TAG_SEQUENCE = 0x30
};

/* ---- the request ---------------------------------------------------------------------------------- */

typedef struct item_record {
    uint32_t seen;  /* bit i: member i of the table was there */
    uint32_t nulls; /* bit i: and it was null */
    int64_t position;
    int64_t item_case;
    int64_t moment;
    fk_decimal quantity;
    fk_decimal amount;
    fk_decimal vat_rate;
    fk_decimal vat_amount;
    fk_decimal unit_quantity;
    fk_decimal unit_price;
    text description;
    text case_data;
    text texts[6];
} item_record;

typedef struct receipt_record {
    uint32_t seen;
    uint32_t nulls;
    text cash_box_id, queue_id, pos_system_id, terminal_id, receipt_reference;
    text case_data, user, area, customer, settlement, previous_receipt_reference;
    int64_t receipt_case;
    int64_t moment;
    fk_decimal amount;
    item_record *charges;
    size_t charge_count;
    item_record *pays;
    size_t pay_count;
} receipt_record;

/* Members of the receipt that prepare.c asks about, as bits of seen and nulls. */
#define RECEIPT_HAS_AMOUNT (1u << 10)
#define ITEM_CHARGE_MOMENT (1u << 16)
#define ITEM_PAY_MOMENT (1u << 10)

/* Records are laid out in the arena; *used is advanced. */
int request_scan(const uint8_t *json, size_t length, uint32_t max_items, uint8_t *arena, size_t capacity, size_t *used,
                 receipt_record *out, fk_error *error);
void request_write(const receipt_record *receipt, writer *w);

#endif
