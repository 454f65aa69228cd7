/* processType and processData of a receipt (DSFinV-K Anhang I), over flat arrays of items. */
#include "internal.h"

static const char *const BON_TYP[] = {
    [FK_BON_NONE] = "",
    [FK_BON_BELEG] = "Beleg",
    [FK_BON_AVTRANSFER] = "AVTransfer",
    [FK_BON_AVBESTELLUNG] = "AVBestellung",
    [FK_BON_AVTRAINING] = "AVTraining",
    [FK_BON_AVBELEGSTORNO] = "AVBelegstorno",
    [FK_BON_AVBELEGABBRUCH] = "AVBelegabbruch",
    [FK_BON_AVSACHBEZUG] = "AVSachbezug",
    [FK_BON_AVSONSTIGE] = "AVSonstige",
    [FK_BON_AVRECHNUNG] = "AVRechnung",
};
_Static_assert(sizeof BON_TYP / sizeof *BON_TYP == FK_BON_AVRECHNUNG + 1, "a text for every fk_bon_typ");

/* one entry of the payment part */
typedef struct payment_key {
    exact_sum sum;
    int non_cash;
    size_t code_length; /* 0 is EUR */
    char code[FK_MAX_CURRENCY_CODE];
} payment_key;

typedef struct currency {
    int has_code, has_amount;
    size_t code_length;
    char code[FK_MAX_CURRENCY_CODE];
    fk_decimal amount;
} currency;

static int is_negative(const fk_decimal *d) { return d->negative && !decimal_is_zero(d); }

/* A negative quantity turns a positive amount round, unless the item cancels a position. */
static int must_negate(const fk_item *item, const fk_decimal *amount) {
    return !(item->item_case & FK_ITEM_POSITION_CANCELLATION) && is_negative(&item->quantity) && !is_negative(amount);
}

static int blame(fk_payload *result, size_t index, int is_pay, const fk_item *item, int status) {
    result->item = (int64_t)index;
    result->item_is_pay = is_pay;
    result->item_case = item->item_case;
    return status;
}

/* ---- the tax block ---------------------------------------------------------------------------- */

static int historic_column(const fk_decimal *rate) {
    if (decimal_is_tenths(rate, 190) || decimal_is_tenths(rate, 160)) return 1;
    if (decimal_is_tenths(rate, 70) || decimal_is_tenths(rate, 50)) return 2;
    return decimal_is_tenths(rate, 107) ? 3 : decimal_is_tenths(rate, 55) ? 4 : 5;
}

static int add_charges(const fk_item *charges, size_t count, uint32_t options, exact_sum columns[5], exact_sum *total,
                       fk_payload *result) {
    for (size_t i = 0; i < count; i++) {
        const fk_item *item = &charges[i];
        fk_charge_case c;
        fk_charge_case_decode(item->item_case, &item->vat_rate, &c);
        if (!c.known) {
            result->warnings |= FK_WARN_UNKNOWN_CHARGE_CASE;
            if (options & FK_OPTION_STRICT) return blame(result, i, 0, item, FK_E_STRICT_CHARGE_CASE);
        }
        if ((options & FK_OPTION_HISTORIC_RATES) && c.known && c.ust_key == 7 && (item->item_case & 0xffff))
            c.column = historic_column(&item->vat_rate);
        int negate = must_negate(item, &item->amount);
        sum_add(&columns[c.column - 1], &item->amount, negate);
        sum_add(total, &item->amount, negate);
    }
    return FK_OK;
}

/* ---- payments ----------------------------------------------------------------------------------- */

static int is_currency_code(const char *code, size_t length) {
    if (length != 3) return 0;
    for (size_t i = 0; i < 3; i++)
        if (code[i] < 'A' || code[i] > 'Z') return 0;
    return 1;
}

static int is_euro(const currency *c) {
    const text code = {(const uint8_t *)c->code, c->code_length, 0};
    return text_is_plain_name(&code, "EUR", 3);
}

static int read_code(const text *value, currency *out) {
    writer w = {out->code, 0, sizeof out->code};
    if (out->has_code) return 0;
    text_unescape(value, &w);
    if (writer_full(&w)) return 0;
    out->has_code = w.length > 0;
    out->code_length = w.length;
    return 1;
}

static int read_amount(const text *value, currency *out) {
    char plain[128];
    writer w = {plain, 0, sizeof plain};
    if (out->has_amount) return 0;
    text_unescape(value, &w);
    if (writer_full(&w) || fk_decimal_parse(plain, w.length, &out->amount) != FK_OK) return 0;
    out->has_amount = 1;
    return 1;
}

/* Reads CurrencyCode and ForeignCurrencyAmount out of ftPayItemCaseData; 0 if it is no proper JSON object. */
static int read_currency(const fk_item *item, currency *out) {
    /* never empty: the caller has looked */
    scanner s = {(const uint8_t *)item->case_data, (const uint8_t *)item->case_data + item->case_data_length,
                 (const uint8_t *)item->case_data, "", NULL};
    out->has_code = out->has_amount = 0;
    if (scan_blanks(&s) != FK_OK || s.at == s.end || *s.at++ != '{') return 0;
    for (;;) {
        text name, value;
        if (scan_blanks(&s) != FK_OK || s.at == s.end) return 0;
        if (*s.at == '}') break;
        if (*s.at != '"' || scan_string(&s, &name) != FK_OK || scan_blanks(&s) != FK_OK || s.at == s.end ||
            *s.at++ != ':' || scan_blanks(&s) != FK_OK || s.at == s.end)
            return 0;
        int is_code = name.length == 12 && memcmp(name.at, "CurrencyCode", 12) == 0;
        int is_amount = name.length == 21 && memcmp(name.at, "ForeignCurrencyAmount", 21) == 0;
        if ((is_code || is_amount) && *s.at == '"') {
            if (scan_string(&s, &value) != FK_OK) return 0;
            if (!(is_code ? read_code(&value, out) : read_amount(&value, out))) return 0;
        } else if (is_amount && (*s.at == '-' || (*s.at >= '0' && *s.at <= '9'))) {
            if (scan_number(&s, &value) != FK_OK || !read_amount(&value, out)) return 0;
        } else if ((is_code || is_amount) && *s.at != 'n') { /* null counts as absent */
            return 0;
        } else if (scan_value(&s, 1) != FK_OK) {
            return 0;
        }
        if (scan_blanks(&s) != FK_OK || s.at == s.end) return 0;
        if (*s.at == ',')
            s.at++;
        else if (*s.at != '}')
            return 0;
    }
    s.at++;
    return scan_blanks(&s) == FK_OK && s.at == s.end;
}

static int is_blank(const char *at, size_t length) {
    for (; length; at++, length--)
        if (*at != ' ' && *at != '\t' && *at != '\n' && *at != '\r') return 0;
    return 1;
}

typedef struct payments {
    payment_key keys[FK_MAX_PAYMENT_KEYS];
    size_t count;
} payments;

static int add_payment(payments *p, int non_cash, const char *code, size_t code_length, const fk_decimal *amount,
                       int negate) {
    payment_key *key = p->keys;
    for (size_t i = 0; i < p->count; i++, key++)
        if (key->non_cash == non_cash && key->code_length == code_length &&
            (code_length == 0 || memcmp(key->code, code, code_length) == 0)) {
            sum_add(&key->sum, amount, negate);
            return FK_OK;
        }
    if (p->count == FK_MAX_PAYMENT_KEYS) return FK_E_CURRENCIES;
    p->count++;
    key->non_cash = non_cash;
    key->code_length = code_length;
    if (code_length) memcpy(key->code, code, code_length);
    sum_clear(&key->sum);
    sum_add(&key->sum, amount, negate);
    return FK_OK;
}

static int add_one_payment(const fk_item *item, int non_cash, uint32_t options, payments *p, fk_payload *result) {
    int strict = (options & FK_OPTION_STRICT) != 0;
    currency c;
    c.code_length = 0;
    if (!is_blank(item->case_data, item->case_data_length)) {
        if (!read_currency(item, &c)) return FK_E_CURRENCY_INVALID;
        int complete = c.has_code && c.has_amount;
        if (!complete && !non_cash) return FK_E_CURRENCY_INVALID;
        if (!complete || (is_euro(&c) && (non_cash || strict))) {
            c.code_length = 0;
        } else if (!is_currency_code(c.code, c.code_length) || is_euro(&c)) {
            result->warnings |= FK_WARN_CURRENCY_CODE;
            if (strict) return FK_E_STRICT_CURRENCY;
        }
    } else if (!non_cash) {
        return FK_E_CURRENCY_MISSING;
    }
    const fk_decimal *amount = c.code_length ? &c.amount : &item->amount;
    return add_payment(p, non_cash, c.code, c.code_length, amount, must_negate(item, amount));
}

static int add_pays(const fk_item *pays, size_t count, int void_receipt, uint32_t options, exact_sum *column5,
                    exact_sum *total, payments *p, fk_payload *result) {
    int strict = (options & FK_OPTION_STRICT) != 0;
    for (size_t i = 0; i < count; i++) {
        const fk_item *item = &pays[i];
        fk_pay_case c;
        int status = FK_OK, negate = must_negate(item, &item->amount);
        fk_pay_case_decode(item->item_case, &c);
        if (!c.known) {
            result->warnings |= FK_WARN_UNKNOWN_PAY_CASE;
            if (strict) return blame(result, i, 1, item, FK_E_STRICT_PAY_CASE);
        }
        sum_add(total, &item->amount, negate);
        switch (c.pay_class) {
        case FK_PAY_CASH: status = add_payment(p, 0, NULL, 0, &item->amount, negate); break;
        case FK_PAY_CASH_FOREIGN:
        case FK_PAY_NON_CASH: status = add_one_payment(item, c.pay_class == FK_PAY_NON_CASH, options, p, result); break;
        case FK_PAY_INTERNAL: /* on the wire: no sign rule, and void receipts are not turned round */
            sum_add(column5, &item->amount, strict ? !negate : !void_receipt);
            break;
        default: sum_add(column5, &item->amount, !negate);
        }
        if (status != FK_OK) return blame(result, i, 1, item, status);
    }
    return FK_OK;
}

static uint8_t lower(char c) { return (uint8_t)(c >= 'A' && c <= 'Z' ? c | 32 : c); }

/* Bar before Unbar, EUR first, then by code without regard to letter case, then by code. */
static int key_precedes(const payment_key *a, const payment_key *b) {
    if (a->non_cash != b->non_cash) return a->non_cash < b->non_cash;
    size_t shorter = a->code_length < b->code_length ? a->code_length : b->code_length;
    for (size_t i = 0; i < shorter; i++)
        if (lower(a->code[i]) != lower(b->code[i])) return lower(a->code[i]) < lower(b->code[i]);
    if (a->code_length != b->code_length) return a->code_length < b->code_length;
    return shorter && memcmp(a->code, b->code, shorter) < 0;
}

static int is_zero_amount(const char *amount, int length) { return length == 4 && memcmp(amount, "0.00", 4) == 0; }

static int put_payments(payments *p, int strict, writer *w) {
    size_t order[FK_MAX_PAYMENT_KEYS];
    int separate = 0;
    for (size_t i = 0; i < p->count; i++) { /* insertion sort: rarely more than three */
        size_t at = i;
        for (; at > 0 && key_precedes(&p->keys[i], &p->keys[order[at - 1]]); at--) order[at] = order[at - 1];
        order[at] = i;
    }
    for (size_t i = 0; i < p->count; i++) {
        const payment_key *key = &p->keys[order[i]];
        char amount[FK_DECIMAL_TEXT];
        if (sum_sign(&key->sum) == 0) continue;
        if (strict && sum_has_more_than_two_decimals(&key->sum)) return FK_E_STRICT_DECIMALS;
        int length = sum_format(&key->sum, FK_FORM_AMOUNT, amount);
        if (strict && is_zero_amount(amount, length)) continue;
        if (separate) put_char(w, '_');
        separate = 1;
        put(w, amount, (size_t)length);
        if (key->non_cash)
            PUT_LITERAL(w, ":Unbar");
        else
            PUT_LITERAL(w, ":Bar");
        if (key->code_length) {
            put_char(w, ':');
            put(w, key->code, key->code_length);
        }
    }
    return FK_OK;
}

/* ---- Kassenbeleg-V1 -------------------------------------------------------------------------------- */

static int put_receipt(const fk_receipt_case *c, uint32_t options, const fk_item *charges, size_t charge_count,
                       const fk_item *pays, size_t pay_count, writer *w, fk_payload *result) {
    int strict = (options & FK_OPTION_STRICT) != 0;
    exact_sum columns[5], charge_total, pay_total;
    payments p;
    p.count = 0;
    for (int i = 0; i < 5; i++) sum_clear(&columns[i]);
    sum_clear(&charge_total);
    sum_clear(&pay_total);

    int status = add_charges(charges, charge_count, options, columns, &charge_total, result);
    if (status != FK_OK) return status;
    status = add_pays(pays, pay_count, (c->flags & FK_FLAG_VOID) != 0, options, &columns[4], &pay_total, &p, result);
    if (status != FK_OK) return status;

    int no_payment =
        c->bon_typ == FK_BON_AVTRAINING || c->bon_typ == FK_BON_AVBELEGABBRUCH || c->bon_typ == FK_BON_AVSACHBEZUG;
    if (no_payment && p.count) result->warnings |= FK_WARN_PAYMENT_NOT_ALLOWED;
    if (!sum_equal(&charge_total, &pay_total)) result->warnings |= FK_WARN_UNBALANCED;
    if (strict && c->kind == FK_KIND_FAIL_TRANSACTION) { /* an aborted receipt shows zeros */
        for (int i = 0; i < 5; i++) sum_clear(&columns[i]);
        p.count = 0;
    }

    put(w, BON_TYP[c->bon_typ], strlen(BON_TYP[c->bon_typ]));
    for (int i = 0; i < 5; i++) {
        char amount[FK_DECIMAL_TEXT];
        if (strict && sum_has_more_than_two_decimals(&columns[i])) return FK_E_STRICT_DECIMALS;
        put_char(w, i == 0 ? '^' : '_');
        put(w, amount, (size_t)sum_format(&columns[i], FK_FORM_AMOUNT, amount));
    }
    put_char(w, '^');
    return put_payments(&p, strict, w);
}

/* ---- Bestellung-V1 ---------------------------------------------------------------------------------- */

static void put_description(const fk_item *item, int strict, writer *w) {
    if (item->description_length == 0) return; /* description may be NULL */
    const char *at = item->description, *end = at + item->description_length;
    while (at < end) {
        const char *plain = at;
        while (at < end && *at != '"' && !(strict && (*at == '\r' || *at == '\n'))) at++;
        put(w, plain, (size_t)(at - plain));
        if (at == end) break;
        if (*at++ == '"')
            PUT_LITERAL(w, "\"\"");
        else
            put_char(w, ' ');
    }
}

static fk_decimal order_quantity(const fk_item *item, int strict) {
    fk_decimal q = item->quantity;
    if (is_negative(&item->amount) && !q.negative && !decimal_is_zero(&q)) q.negative = 1;
    if (strict) decimal_cut(&q, 3); /* the export has three decimals too */
    return q;
}

static int put_order(const fk_item *charges, size_t count, uint32_t options, writer *w, fk_payload *result) {
    int strict = (options & FK_OPTION_STRICT) != 0;
    for (size_t i = 0; i < count; i++) {
        const fk_item *item = &charges[i];
        char number[FK_DECIMAL_TEXT];
        if (decimal_is_zero(&item->quantity) && !decimal_is_zero(&item->amount))
            return blame(result, i, 0, item, FK_E_QUANTITY_ZERO);
        if (strict) {
            fk_charge_case c;
            fk_charge_case_decode(item->item_case, &item->vat_rate, &c);
            if (!c.known) return blame(result, i, 0, item, FK_E_STRICT_CHARGE_CASE);
        }
        if (i) put_char(w, '\r');
        fk_decimal quantity = order_quantity(item, strict);
        put(w, number, (size_t)fk_decimal_format(&quantity, FK_FORM_QUANTITY, number));
        PUT_LITERAL(w, ";\"");
        put_description(item, strict, w);
        PUT_LITERAL(w, "\";");
        put(w, number, (size_t)fk_unit_price(&item->amount, &item->quantity, number));
    }
    return FK_OK;
}

/* ---- SonstigerVorgang -------------------------------------------------------------------------------- */

static const char *other_text(const fk_receipt_case *c) {
    switch (c->number) {
    case FK_CASE_ZERO: return "zero-receipt";
    case FK_CASE_INITIAL_OPERATION: return "initial operation receipt / start-receipt";
    case FK_CASE_OUT_OF_OPERATION: return "out of operation receipt / stop-receipt";
    case FK_CASE_MONTHLY_CLOSING: return "monthly-closing";
    case FK_CASE_YEARLY_CLOSING: return "yearly-closing";
    case FK_CASE_DAILY_CLOSING: return "daily-closing";
    case FK_CASE_INFO_INTERNAL: return "info-internal";
    case FK_CASE_PROTOCOL: return "protocol";
    case FK_CASE_INITIATE_SCU_SWITCH: return "initiate-scu-switch";
    case FK_CASE_FINISH_SCU_SWITCH: return "finish-scu-switch";
    default: return "migration";
    }
}

int fk_process_data(int64_t receipt_case, uint32_t options, const fk_item *charges, size_t charge_count,
                    const fk_item *pays, size_t pay_count, char *out, size_t capacity, fk_payload *result) {
    int strict = (options & FK_OPTION_STRICT) != 0, status = FK_OK;
    writer w = {out, 0, capacity};
    fk_receipt_case c;
    const char *other;
    fk_case_decode(receipt_case, charge_count, pay_count, strict, &c);
    result->length = 0;
    result->process_type = c.process_type;
    result->warnings = c.known ? 0 : FK_WARN_UNKNOWN_RECEIPT_CASE;
    result->item = -1;
    result->item_is_pay = 0;
    result->item_case = 0;
    if (strict && !c.known) return FK_E_STRICT_RECEIPT_CASE;
    if (strict && c.number == FK_CASE_VOID_RECEIPT) return FK_E_STRICT_VOID;

    switch (c.process_type) {
    case FK_PROCESS_RECEIPT:
        status = put_receipt(&c, options, charges, charge_count, pays, pay_count, &w, result);
        break;
    case FK_PROCESS_ORDER: status = put_order(charges, charge_count, options, &w, result); break;
    case FK_PROCESS_OTHER:
        other = other_text(&c);
        put(&w, other, strlen(other));
        break;
    default: break;
    }
    if (status != FK_OK) return status;
    result->length = (int64_t)w.length;
    return w.length > capacity ? FK_E_SPACE : FK_OK;
}
