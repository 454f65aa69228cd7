/*
 * ReceiptRequest: from JSON into records, and from records into the canonical text.
 *
 * One table per object does both: its order is the order of the stored text, its types say what may stand in
 * the JSON and what is written when a member was absent.
 */
#include "internal.h"

#include <stdio.h>

typedef enum member_type {
    TEXT_REQUIRED, /* always written: "" if absent, null if null */
    TEXT_ITEM,     /* "" if absent, left out if null */
    TEXT_OPTIONAL, /* left out if absent or null */
    INTEGER,       /* 0 if absent */
    POSITION,      /* left out if 0 */
    DECIMAL_ONE,   /* 1.0 if absent */
    DECIMAL_ZERO,  /* 0.0 if absent */
    DECIMAL_OPTIONAL,
    MOMENT,
    MOMENT_OPTIONAL,
    CHARGES,
    PAYS
} member_type;

typedef struct member {
    const char *key; /* as written: ,"Name": */
    uint8_t name_length;
    uint8_t type;
    uint16_t offset; /* in the record */
} member;

#define MEMBER(name, type, record, field)                                                                              \
    { ",\"" name "\":", sizeof(name) - 1, type, (uint16_t)offsetof(record, field) }

static const member RECEIPT[] = {
    MEMBER("ftCashBoxID", TEXT_REQUIRED, receipt_record, cash_box_id),
    MEMBER("ftQueueID", TEXT_OPTIONAL, receipt_record, queue_id),
    MEMBER("ftPosSystemId", TEXT_OPTIONAL, receipt_record, pos_system_id),
    MEMBER("cbTerminalID", TEXT_REQUIRED, receipt_record, terminal_id),
    MEMBER("cbReceiptReference", TEXT_REQUIRED, receipt_record, receipt_reference),
    MEMBER("cbReceiptMoment", MOMENT, receipt_record, moment),
    MEMBER("cbChargeItems", CHARGES, receipt_record, charges),
    MEMBER("cbPayItems", PAYS, receipt_record, pays),
    MEMBER("ftReceiptCase", INTEGER, receipt_record, receipt_case),
    MEMBER("ftReceiptCaseData", TEXT_OPTIONAL, receipt_record, case_data),
    MEMBER("cbReceiptAmount", DECIMAL_OPTIONAL, receipt_record, amount),
    MEMBER("cbUser", TEXT_OPTIONAL, receipt_record, user),
    MEMBER("cbArea", TEXT_OPTIONAL, receipt_record, area),
    MEMBER("cbCustomer", TEXT_OPTIONAL, receipt_record, customer),
    MEMBER("cbSettlement", TEXT_OPTIONAL, receipt_record, settlement),
    MEMBER("cbPreviousReceiptReference", TEXT_OPTIONAL, receipt_record, previous_receipt_reference),
};

static const member CHARGE[] = {
    MEMBER("Position", POSITION, item_record, position),
    MEMBER("Quantity", DECIMAL_ONE, item_record, quantity),
    MEMBER("Description", TEXT_REQUIRED, item_record, description),
    MEMBER("Amount", DECIMAL_ZERO, item_record, amount),
    MEMBER("VATRate", DECIMAL_ZERO, item_record, vat_rate),
    MEMBER("ftChargeItemCase", INTEGER, item_record, item_case),
    MEMBER("ftChargeItemCaseData", TEXT_ITEM, item_record, case_data),
    MEMBER("VATAmount", DECIMAL_OPTIONAL, item_record, vat_amount),
    MEMBER("AccountNumber", TEXT_ITEM, item_record, texts[0]),
    MEMBER("CostCenter", TEXT_ITEM, item_record, texts[1]),
    MEMBER("ProductGroup", TEXT_ITEM, item_record, texts[2]),
    MEMBER("ProductNumber", TEXT_ITEM, item_record, texts[3]),
    MEMBER("ProductBarcode", TEXT_ITEM, item_record, texts[4]),
    MEMBER("Unit", TEXT_ITEM, item_record, texts[5]),
    MEMBER("UnitQuantity", DECIMAL_OPTIONAL, item_record, unit_quantity),
    MEMBER("UnitPrice", DECIMAL_OPTIONAL, item_record, unit_price),
    MEMBER("Moment", MOMENT_OPTIONAL, item_record, moment),
};

static const member PAY[] = {
    MEMBER("Position", POSITION, item_record, position),
    MEMBER("Quantity", DECIMAL_ONE, item_record, quantity),
    MEMBER("Description", TEXT_REQUIRED, item_record, description),
    MEMBER("Amount", DECIMAL_ZERO, item_record, amount),
    MEMBER("ftPayItemCase", INTEGER, item_record, item_case),
    MEMBER("ftPayItemCaseData", TEXT_ITEM, item_record, case_data),
    MEMBER("AccountNumber", TEXT_ITEM, item_record, texts[0]),
    MEMBER("CostCenter", TEXT_ITEM, item_record, texts[1]),
    MEMBER("MoneyGroup", TEXT_ITEM, item_record, texts[2]),
    MEMBER("MoneyNumber", TEXT_ITEM, item_record, texts[3]),
    MEMBER("Moment", MOMENT_OPTIONAL, item_record, moment),
};

#define COUNT(table) (sizeof(table) / sizeof *(table))

/* ---- reading --------------------------------------------------------------------------------------- */

typedef struct reader {
    scanner s;
    uint8_t *arena;
    size_t capacity;
    size_t used;
    size_t items_left;
    const member *outer; /* the member of the receipt being read, NULL outside */
    const member *inner; /* the member of the item being read */
    int64_t index;       /* the item being read, -1 outside */
} reader;

#define LONGEST_NAME 26

/* A name is nearly always the next one of the table, spelled as in the table. */
static const member *find_member(const member *table, size_t count, size_t expected, text name) {
    uint8_t decoded[LONGEST_NAME];
    for (size_t i = expected; i < count && i < expected + 2; i++)
        if (table[i].name_length == name.length && memcmp(table[i].key + 2, name.at, name.length) == 0)
            return &table[i];
    if (name.flags & TEXT_ESCAPED) {
        writer w = {(char *)decoded, 0, sizeof decoded};
        text_unescape(&name, &w);
        if (writer_full(&w)) return NULL;
        name.at = decoded;
        name.length = w.length;
    }
    for (size_t i = 0; i < count; i++)
        if (text_is_plain_name(&name, table[i].key + 2, table[i].name_length)) return &table[i];
    return NULL;
}

static int read_text(scanner *s, text *out) {
    if (*s->at == '"') return scan_string(s, out);
    if (*s->at == '-' || (*s->at >= '0' && *s->at <= '9')) return scan_number(s, out);
    const uint8_t *at = s->at;
    int status = scan_value(s, 1);
    return status != FK_OK ? status : scan_fail(s, FK_E_TYPE, at, "a string was expected");
}

/* A number, or a string with a number in it. Escapes are decoded into scratch. */
static int read_number(scanner *s, text *out, char *scratch, size_t scratch_size) {
    if (*s->at == '-' || (*s->at >= '0' && *s->at <= '9')) {
        if (scan_at_nan(s)) return scan_fail(s, FK_E_NOT_A_NUMBER, s->at, "NaN and Infinity are no amounts");
        return scan_number(s, out);
    }
    const uint8_t *at = s->at;
    if (*at != '"') {
        int status = scan_value(s, 1);
        return status != FK_OK ? status : scan_fail(s, FK_E_TYPE, at, "a number was expected");
    }
    int status = scan_string(s, out);
    if (status != FK_OK) return status;
    if (out->flags & TEXT_ESCAPED) {
        writer w = {scratch, 0, scratch_size};
        text_unescape(out, &w);
        if (writer_full(&w)) return scan_fail(s, FK_E_TYPE, at, "a number was expected");
        out->at = (const uint8_t *)scratch;
        out->length = w.length;
    }
    const scanner inside = {out->at, out->at + out->length, out->at, "", NULL};
    if (scan_at_nan(&inside)) return scan_fail(s, FK_E_NOT_A_NUMBER, at, "NaN and Infinity are no amounts");
    return FK_OK;
}

static int read_decimal(scanner *s, fk_decimal *out) {
    char scratch[128];
    const uint8_t *at = s->at;
    text number;
    int status = read_number(s, &number, scratch, sizeof scratch);
    if (status != FK_OK) return status;
    status = fk_decimal_parse((const char *)number.at, number.length, out);
    if (status == FK_E_TYPE) return scan_fail(s, status, at, "a number was expected");
    return status == FK_OK ? FK_OK : scan_fail(s, status, at, "more than a decimal can hold");
}

static int read_integer(scanner *s, int64_t *out) {
    char scratch[128];
    const uint8_t *at = s->at;
    text number;
    int status = read_number(s, &number, scratch, sizeof scratch);
    if (status != FK_OK) return status;
    status = integer_parse((const char *)number.at, number.length, out);
    if (status == FK_E_TYPE) return scan_fail(s, status, at, "an integer was expected");
    return status == FK_OK ? FK_OK : scan_fail(s, status, at, "not an integer of 64 bits");
}

static int read_moment(scanner *s, int64_t *out) {
    char scratch[64];
    const uint8_t *at = s->at;
    text value;
    if (*at != '"') {
        int status = scan_value(s, 1);
        return status != FK_OK ? status : scan_fail(s, FK_E_TYPE, at, "a date and time was expected");
    }
    int status = scan_string(s, &value);
    if (status != FK_OK) return status;
    if (value.flags & TEXT_ESCAPED) {
        writer w = {scratch, 0, sizeof scratch};
        text_unescape(&value, &w);
        if (writer_full(&w)) return scan_fail(s, FK_E_MOMENT, at, "not a date and time");
        value.at = (const uint8_t *)scratch;
        value.length = w.length;
    }
    status = fk_moment_parse((const char *)value.at, value.length, out);
    return status == FK_OK ? FK_OK : scan_fail(s, status, at, "not a date and time");
}

static int read_items(reader *r, const member *table, size_t count, item_record **items, size_t *item_count);

static int read_member(reader *r, const member *m, void *record, uint32_t bit, uint32_t *nulls) {
    scanner *s = &r->s;
    void *at = (uint8_t *)record + m->offset;
    receipt_record *receipt = record;
    if (*s->at == 'n') {
        const uint8_t *null_at = s->at;
        int status = scan_literal(s, "null");
        if (status != FK_OK) return status;
        switch (m->type) {
        case INTEGER:
        case POSITION:
        case DECIMAL_ONE:
        case DECIMAL_ZERO:
        case MOMENT: return scan_fail(s, FK_E_NULL, null_at, "null is not allowed here");
        default: *nulls |= bit; return FK_OK;
        }
    }
    switch (m->type) {
    case TEXT_REQUIRED:
    case TEXT_ITEM:
    case TEXT_OPTIONAL: return read_text(s, at);
    case INTEGER:
    case POSITION: return read_integer(s, at);
    case DECIMAL_ONE:
    case DECIMAL_ZERO:
    case DECIMAL_OPTIONAL: return read_decimal(s, at);
    case MOMENT:
    case MOMENT_OPTIONAL: return read_moment(s, at);
    case CHARGES: return read_items(r, CHARGE, COUNT(CHARGE), &receipt->charges, &receipt->charge_count);
    default: return read_items(r, PAY, COUNT(PAY), &receipt->pays, &receipt->pay_count);
    }
}

static int at_end(scanner *s) { return scan_fail(s, FK_E_TRUNCATED, s->end, "the text ends too early"); }

/* Reads an object, at '{'. current: where to note the member being read, for error messages. */
static int read_object(reader *r, const member *table, size_t count, void *record, uint32_t *seen, uint32_t *nulls,
                       const member **current) {
    scanner *s = &r->s;
    size_t expected = 0;
    s->at++;
    for (;;) {
        int status = scan_blanks(s);
        if (status != FK_OK) return status;
        if (s->at == s->end) return at_end(s);
        if (*s->at == '}') {
            s->at++;
            return FK_OK;
        }
        if (*s->at != '"') return scan_fail(s, FK_E_SYNTAX, s->at, "a member name was expected");
        const uint8_t *name_at = s->at;
        text name;
        status = scan_string(s, &name);
        if (status == FK_OK) status = scan_blanks(s);
        if (status != FK_OK) return status;
        if (s->at == s->end) return at_end(s);
        if (*s->at != ':') return scan_fail(s, FK_E_SYNTAX, s->at, "':' was expected");
        s->at++;
        status = scan_blanks(s);
        if (status != FK_OK) return status;
        if (s->at == s->end) return at_end(s);

        const member *m = find_member(table, count, expected, name);
        *current = m;
        if (!m) {
            status = scan_value(s, 1);
        } else {
            size_t position = (size_t)(m - table);
            uint32_t bit = (uint32_t)1 << position;
            if (*seen & bit) return scan_fail(s, FK_E_DUPLICATE, name_at, "this member appears twice");
            *seen |= bit;
            expected = position + 1;
            status = read_member(r, m, record, bit, nulls);
        }
        if (status == FK_OK) status = scan_blanks(s);
        if (status != FK_OK) return status;
        if (s->at == s->end) return at_end(s);
        if (*s->at == ',')
            s->at++;
        else if (*s->at != '}')
            return scan_fail(s, FK_E_SYNTAX, s->at, "',' or '}' was expected");
        *current = NULL;
    }
}

/* The two arrays are read one after the other, so each is one block of records in the arena. */
static int read_items(reader *r, const member *table, size_t count, item_record **items, size_t *item_count) {
    scanner *s = &r->s;
    if (*s->at != '[') {
        const uint8_t *at = s->at;
        int status = scan_value(s, 1);
        return status != FK_OK ? status : scan_fail(s, FK_E_TYPE, at, "an array was expected");
    }
    *items = (item_record *)(void *)(r->arena + r->used);
    s->at++;
    for (r->index = 0;; r->index++) {
        int status = scan_blanks(s);
        if (status != FK_OK) return status;
        if (s->at == s->end) return at_end(s);
        if (*s->at == ']') {
            s->at++;
            r->index = -1;
            return FK_OK;
        }
        if (*s->at != '{') {
            const uint8_t *at = s->at;
            status = scan_value(s, 2);
            if (status != FK_OK) return status;
            return *at == 'n' ? scan_fail(s, FK_E_NULL, at, "null is not allowed here")
                              : scan_fail(s, FK_E_TYPE, at, "an object was expected");
        }
        if (r->items_left == 0) return scan_fail(s, FK_E_ITEMS, s->at, "more items than allowed");
        r->items_left--;
        if (r->capacity - r->used < sizeof(item_record)) return scan_fail(s, FK_E_SPACE, s->at, "");
        item_record *item = *items + *item_count;
        memset(item, 0, sizeof *item);
        item->quantity.low = 10, item->quantity.scale = 1; /* 1.0 */
        item->amount.scale = item->vat_rate.scale = 1;     /* 0.0 */
        r->used += sizeof *item;
        ++*item_count;
        status = read_object(r, table, count, item, &item->seen, &item->nulls, &r->inner);
        if (status == FK_OK) status = scan_blanks(s);
        if (status != FK_OK) return status;
        r->inner = NULL;
        if (s->at == s->end) return at_end(s);
        if (*s->at == ',')
            s->at++;
        else if (*s->at != ']')
            return scan_fail(s, FK_E_SYNTAX, s->at, "',' or ']' was expected");
    }
}

static void describe(const reader *r, fk_error *error) {
    const scanner *s = &r->s;
    error->offset = s->error_at - s->start;
    snprintf(error->detail, sizeof error->detail, "%s", s->detail);
    error->path[0] = 0;
    if (!r->outer) return;
    int written = snprintf(error->path, sizeof error->path, "%.*s", r->outer->name_length, r->outer->key + 2);
    if (r->index >= 0)
        written += snprintf(error->path + written, sizeof error->path - (size_t)written, "[%lld]", (long long)r->index);
    if (r->inner)
        snprintf(error->path + written, sizeof error->path - (size_t)written, ".%.*s", r->inner->name_length,
                 r->inner->key + 2);
}

int request_scan(const uint8_t *json, size_t length, uint32_t max_items, uint8_t *arena, size_t capacity, size_t *used,
                 receipt_record *out, fk_error *error) {
    reader r = {{json, json + length, json, "", json}, arena, capacity, *used, max_items, NULL, NULL, -1};
    scanner *s = &r.s;
    memset(out, 0, sizeof *out);
    if (length >= 3 && memcmp(json, "\xef\xbb\xbf", 3) == 0) s->at += 3;

    int status = scan_blanks(s);
    if (status == FK_OK && s->at == s->end) status = at_end(s);
    if (status == FK_OK && *s->at != '{') {
        const uint8_t *at = s->at;
        status = scan_value(s, 0);
        if (status == FK_OK) status = scan_fail(s, FK_E_TYPE, at, "an object was expected");
    }
    if (status == FK_OK) status = read_object(&r, RECEIPT, COUNT(RECEIPT), out, &out->seen, &out->nulls, &r.outer);
    if (status == FK_OK) status = scan_blanks(s);
    if (status == FK_OK && s->at != s->end) status = scan_fail(s, FK_E_SYNTAX, s->at, "more text after the request");
    if (status == FK_OK && out->moment < INT64_C(366) * 864000000000) { /* absent, or year 1 */
        r.outer = &RECEIPT[5];
        status = scan_fail(s, FK_E_MOMENT_MISSING, json, "cbReceiptMoment is missing");
    }
    if (status != FK_OK) describe(&r, error);
    *used = r.used;
    return status;
}

/* ---- writing ---------------------------------------------------------------------------------------- */

static void put_decimal(writer *w, const fk_decimal *value) {
    char out[FK_DECIMAL_TEXT];
    put(w, out, (size_t)fk_decimal_format(value, FK_FORM_CANONICAL, out));
}

static void put_integer(writer *w, int64_t value) {
    char out[FK_DECIMAL_TEXT];
    put(w, out, (size_t)format_int64(value, out));
}

static void put_moment(writer *w, int64_t ticks) {
    char out[FK_MOMENT_TEXT];
    put_char(w, '"');
    put(w, out, (size_t)fk_moment_iso(ticks, out));
    put_char(w, '"');
}

static void write_object(const member *table, size_t count, const void *record, uint32_t seen, uint32_t nulls,
                         writer *w);

static void write_items(const member *table, size_t count, const item_record *items, size_t item_count, writer *w) {
    put_char(w, '[');
    for (size_t i = 0; i < item_count; i++) {
        if (i) put_char(w, ',');
        write_object(table, count, &items[i], items[i].seen, items[i].nulls, w);
    }
    put_char(w, ']');
}

static int left_out(const member *m, const void *at, int present, int null) {
    switch (m->type) {
    case TEXT_ITEM: return null;
    case TEXT_OPTIONAL:
    case DECIMAL_OPTIONAL:
    case MOMENT_OPTIONAL: return null || !present;
    case POSITION: return *(const int64_t *)at == 0;
    default: return 0;
    }
}

static void write_object(const member *table, size_t count, const void *record, uint32_t seen, uint32_t nulls,
                         writer *w) {
    const receipt_record *receipt = record;
    int first = 1;
    put_char(w, '{');
    for (size_t i = 0; i < count; i++) {
        const member *m = &table[i];
        const void *at = (const uint8_t *)record + m->offset;
        int present = (int)(seen >> i & 1u), null = (int)(nulls >> i & 1u);
        if (left_out(m, at, present, null)) continue;
        put(w, m->key + first, m->name_length + 4u - (unsigned)first);
        first = 0;
        switch (m->type) {
        case TEXT_REQUIRED:
        case TEXT_ITEM:
        case TEXT_OPTIONAL:
            if (null)
                PUT_LITERAL(w, "null");
            else
                text_write_json(at, w);
            break;
        case INTEGER:
        case POSITION: put_integer(w, *(const int64_t *)at); break;
        case DECIMAL_ONE:
        case DECIMAL_ZERO:
        case DECIMAL_OPTIONAL: put_decimal(w, at); break;
        case MOMENT:
        case MOMENT_OPTIONAL: put_moment(w, *(const int64_t *)at); break;
        case CHARGES: write_items(CHARGE, COUNT(CHARGE), receipt->charges, receipt->charge_count, w); break;
        default: write_items(PAY, COUNT(PAY), receipt->pays, receipt->pay_count, w);
        }
    }
    put_char(w, '}');
}

void request_write(const receipt_record *receipt, writer *w) {
    write_object(RECEIPT, COUNT(RECEIPT), receipt, receipt->seen, receipt->nulls, w);
}
