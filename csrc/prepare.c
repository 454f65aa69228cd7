/* One call from the bytes of the POS to everything the queue needs to know about a request. */
#include "internal.h"

/* Bytes to skip so that records are aligned; they keep each other aligned from there on. */
static size_t padding_of(const uint8_t *arena) { return (size_t)(0u - (uintptr_t)arena) & 15u; }

static fk_slice begin_slice(const writer *w) {
    fk_slice slice = {(int64_t)w->length, 0};
    return slice;
}

static void end_slice(fk_slice *slice, const writer *w) { slice->length = (int64_t)w->length - slice->offset; }

/* A text of the request, decoded; bit: its place in the table of members. */
static fk_slice put_text(const text *t, const receipt_record *r, unsigned bit, int required, writer *w) {
    fk_slice slice = begin_slice(w);
    int present = (int)(r->seen >> bit & 1u), null = (int)(r->nulls >> bit & 1u);
    if (null || (!present && !required)) {
        slice.length = -1;
        return slice;
    }
    text_unescape(t, w);
    end_slice(&slice, w);
    return slice;
}

static fk_slice put_sum(const exact_sum *sum, writer *w) {
    fk_slice slice = begin_slice(w);
    char out[FK_DECIMAL_TEXT];
    put(w, out, (size_t)sum_format(sum, FK_FORM_CANONICAL, out));
    end_slice(&slice, w);
    return slice;
}

/* A text an item hands to fk_process_data: in place if there is nothing to decode, else in the arena. */
static const char *item_text(const text *t, size_t *length, writer *w) {
    *length = t->length;
    if (!(t->flags & TEXT_ESCAPED)) return (const char *)t->at;
    size_t start = w->length;
    text_unescape(t, w);
    *length = w->length - start;
    return writer_full(w) ? w->at : w->at + start; /* full: the caller gives up before it looks */
}

typedef struct item_sums {
    exact_sum plain, with_sign;
} item_sums;

static void flatten(const item_record *from, fk_item *to, size_t count, item_sums *sums, writer *w) {
    for (size_t i = 0; i < count; i++, from++, to++) {
        to->item_case = from->item_case;
        to->quantity = from->quantity;
        to->amount = from->amount;
        to->vat_rate = from->vat_rate;
        to->description = item_text(&from->description, &to->description_length, w);
        to->case_data = item_text(&from->case_data, &to->case_data_length, w);
        int negate =
            from->quantity.negative && !from->amount.negative && !(from->item_case & FK_ITEM_POSITION_CANCELLATION);
        sum_add(&sums->plain, &from->amount, 0);
        sum_add(&sums->with_sign, &from->amount, negate);
    }
}

#define FIRST_MOMENT (INT64_C(366) * 864000000000) /* anything in year 1 means "not set" */

static int earliest(const item_record *items, size_t count, uint32_t moment_bit, int64_t *start) {
    int complete = count > 0;
    for (size_t i = 0; i < count; i++) {
        const item_record *item = &items[i];
        if (!(item->seen & ~item->nulls & moment_bit) || item->moment < FIRST_MOMENT)
            complete = 0;
        else if (item->moment < *start)
            *start = item->moment;
    }
    return complete;
}

static int no_space(fk_error *error, size_t needed) {
    error->offset = (int64_t)needed;
    error->path[0] = error->detail[0] = 0;
    return FK_E_SPACE;
}

int fk_prepare(const uint8_t *json, size_t length, uint32_t options, uint32_t max_items, uint8_t *arena,
               size_t capacity, fk_prepared *out, fk_error *error) {
    receipt_record r;
    size_t used = padding_of(arena);
    if (capacity < 4096) return no_space(error, 65536);
    int status = request_scan(json, length, max_items, arena, capacity, &used, &r, error);
    if (status == FK_E_SPACE) return no_space(error, 4 * capacity);
    if (status != FK_OK) return status;

    size_t item_count = r.charge_count + r.pay_count;
    /* every text at most: decoded twice, escaped in the canonical text (3), doubled in processData and Base64 (5) */
    size_t needed = used + item_count * sizeof(fk_item) + 10 * length + 1024 * item_count + 8192;
    if (used + item_count * sizeof(fk_item) > capacity) return no_space(error, needed);
    fk_item *items = (fk_item *)(void *)(arena + used);
    writer w = {(char *)arena, used + item_count * sizeof(fk_item), capacity};
    item_sums charges, pays;
    memset(&charges, 0, sizeof charges);
    memset(&pays, 0, sizeof pays);
    flatten(r.charges, items, r.charge_count, &charges, &w);
    flatten(r.pays, items + r.charge_count, r.pay_count, &pays, &w);
    if (writer_full(&w)) return no_space(error, needed);

    out->canonical = begin_slice(&w);
    request_write(&r, &w);
    end_slice(&out->canonical, &w);
    out->cash_box_id = put_text(&r.cash_box_id, &r, 0, 1, &w);
    out->queue_id = put_text(&r.queue_id, &r, 1, 0, &w);
    out->pos_system_id = put_text(&r.pos_system_id, &r, 2, 0, &w);
    out->terminal_id = put_text(&r.terminal_id, &r, 3, 1, &w);
    out->receipt_reference = put_text(&r.receipt_reference, &r, 4, 1, &w);
    out->receipt_case_data = put_text(&r.case_data, &r, 9, 0, &w);
    out->previous_receipt_reference = put_text(&r.previous_receipt_reference, &r, 15, 0, &w);
    if (r.seen & ~r.nulls & RECEIPT_HAS_AMOUNT) {
        memset(&charges.plain, 0, sizeof charges.plain);
        sum_add(&charges.plain, &r.amount, 0);
    }
    out->total = put_sum(&charges.plain, &w);
    out->charge_sum = put_sum(&charges.with_sign, &w);
    out->pay_sum = put_sum(&pays.with_sign, &w);
    if (writer_full(&w)) return no_space(error, needed);

    fk_payload payload;
    fk_receipt_case c;
    fk_case_decode(r.receipt_case, r.charge_count, r.pay_count, (options & FK_OPTION_STRICT) != 0, &c);
    status = fk_process_data(r.receipt_case, options, items, r.charge_count, items + r.charge_count, r.pay_count,
                             w.at + w.length, capacity - w.length, &payload);
    if (status == FK_E_SPACE) return no_space(error, needed + (size_t)payload.length * 3);
    out->process_data = begin_slice(&w);
    out->process_data.length = status == FK_OK ? payload.length : -1;
    if (status == FK_OK) w.length += (size_t)payload.length;
    out->process_data_base64 = begin_slice(&w);
    out->process_data_base64.length = -1;
    if (status == FK_OK) {
        size_t encoded = 4 * (((size_t)payload.length + 2) / 3);
        if (capacity - w.length < encoded) return no_space(error, needed + encoded * 3);
        base64_encode(arena + out->process_data.offset, (size_t)payload.length, w.at + w.length);
        out->process_data_base64.length = (int64_t)encoded;
    }

    out->receipt_case = r.receipt_case;
    out->receipt_moment_ticks = r.moment;
    out->action_start_ticks = r.moment;
    int charge_moments = earliest(r.charges, r.charge_count, ITEM_CHARGE_MOMENT, &out->action_start_ticks);
    int pay_moments = earliest(r.pays, r.pay_count, ITEM_PAY_MOMENT, &out->action_start_ticks);
    out->moments_complete = charge_moments && pay_moments;
    out->charge_count = (int64_t)r.charge_count;
    out->pay_count = (int64_t)r.pay_count;
    out->kind = c.kind;
    out->process_type = c.process_type;
    out->warnings = payload.warnings;
    if (c.process_type == FK_PROCESS_RECEIPT && !sum_equal(&charges.with_sign, &pays.with_sign))
        out->warnings |= FK_WARN_UNBALANCED;
    out->payload_status = status;
    out->payload_item = payload.item;
    out->payload_item_is_pay = payload.item_is_pay;
    out->payload_item_case = payload.item_case;
    fk_sha256(arena + out->canonical.offset, (size_t)out->canonical.length, out->request_hash);
    fk_sha256(json, length, out->raw_hash);
    base64_encode(out->request_hash, 32, out->request_hash_base64);
    memset(out->padding, 0, sizeof out->padding);
    return FK_OK;
}
