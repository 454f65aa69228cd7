/*
 * logread.c - reading log messages of TR-03151: tolerant, without copies, in one pass.
 *
 * A log message is SEQUENCE { version, certifiedDataType, type specific elements, serialNumber,
 * signatureAlgorithm, [seAuditData], signatureCounter, logTime, signatureValue } (TR-03151-1 section 3).
 */
#include "internal.h"

typedef struct reader {
    const uint8_t *data;
    size_t at;
    size_t end;
    uint32_t findings;
} reader;

static int read_element(const uint8_t *data, size_t end, size_t start, int depth, fk_element *out) {
    size_t at = start;
    size_t length;
    if (depth > FK_MAX_DER_DEPTH) {
        return FK_E_LOG_DEPTH;
    }
    if (end - at < 2) {
        return FK_E_LOG_TRUNCATED;
    }
    out->tag = data[at++];
    length = data[at++];
    out->indefinite = 0;
    out->non_der = 0;
    out->padding = 0;
    if ((out->tag & 0x1F) == 0x1F) {
        return FK_E_LOG_UNEXPECTED; /* a tag of several bytes */
    }
    if (length == 0x80) {
        fk_element inner;
        const size_t content = at;
        if ((out->tag & 0x20) == 0) {
            return FK_E_LOG_UNEXPECTED;
        }
        while (end - at < 2 || data[at] != 0 || data[at + 1] != 0) {
            const int status = read_element(data, end, at, depth + 1, &inner);
            if (status != FK_OK) {
                return status;
            }
            at = inner.end;
        }
        out->indefinite = 1;
        out->non_der = 1;
        out->content.offset = (uint32_t)content;
        out->content.length = (uint32_t)(at - content);
        out->end = (uint32_t)(at + 2);
        return FK_OK;
    }
    if (length > 0x80) {
        const size_t count = length & 0x7F;
        if (count > end - at) {
            return FK_E_LOG_TRUNCATED;
        }
        out->non_der = data[at] == 0;
        length = 0;
        for (size_t i = 0; i < count; i++) {
            if (length >> 24 != 0) {
                return FK_E_LOG_TRUNCATED; /* longer than any message */
            }
            length = (length << 8) | data[at++];
        }
        if (length < 0x80) {
            out->non_der = 1;
        }
    }
    if (length > end - at) {
        return FK_E_LOG_TRUNCATED;
    }
    out->content.offset = (uint32_t)at;
    out->content.length = (uint32_t)length;
    out->end = (uint32_t)(at + length);
    return FK_OK;
}

int fk_der_read(const uint8_t *data, size_t length, size_t at, fk_element *out) {
    if (length > INT32_MAX || at >= length) {
        return FK_E_ARGUMENT;
    }
    return read_element(data, length, at, 0, out);
}

/* The next element, which must be there. */
static int next(reader *r, fk_element *out) {
    const int status = read_element(r->data, r->end, r->at, 0, out);
    if (status == FK_OK) {
        r->at = out->end;
        if (out->non_der && !out->indefinite) {
            r->findings |= FK_LOG_NON_DER;
        }
    }
    return status;
}

static int next_with_tag(reader *r, uint8_t tag, fk_element *out) {
    const size_t start = r->at;
    const int status = next(r, out);
    if (status == FK_OK && out->tag != tag) {
        r->at = start;
        return FK_E_LOG_UNEXPECTED;
    }
    return status;
}

/* An INTEGER that is never negative; a writer may have forgotten the zero in front. */
static int read_unsigned(reader *r, fk_span content, uint64_t *out) {
    const uint8_t *at = r->data + content.offset;
    const uint8_t *end = at + content.length;
    if (at == end) {
        return FK_E_LOG_UNEXPECTED;
    }
    if (at[0] >= 0x80 || (end - at > 1 && at[0] == 0 && at[1] < 0x80)) {
        r->findings |= FK_LOG_NON_DER;
    }
    while (at < end && *at == 0) {
        at++;
    }
    if (end - at > 8) {
        r->findings |= FK_LOG_LARGE_NUMBER;
        *out = UINT64_MAX;
        return FK_OK;
    }
    *out = 0;
    for (; at < end; at++) {
        *out = (*out << 8) | *at;
    }
    return FK_OK;
}

static int read_digits(const uint8_t **at, const uint8_t *end, int count, int *out) {
    if (end - *at < count) {
        return 0;
    }
    *out = 0;
    for (int i = 0; i < count; i++) {
        const uint8_t digit = (uint8_t)(**at - '0');
        if (digit > 9) {
            return 0;
        }
        *out = *out * 10 + digit;
        ++*at;
    }
    return 1;
}

/* YYMMDDhhmm[ss]Z or YYYYMMDDhh[mm[ss[.f...]]]Z */
static int read_clock_time(const uint8_t *at, const uint8_t *end, int is_utc, int64_t *ticks) {
    calendar m = {0, 0, 0, 0, 0, 0, 0};
    if (!read_digits(&at, end, is_utc ? 2 : 4, &m.year) || !read_digits(&at, end, 2, &m.month) ||
        !read_digits(&at, end, 2, &m.day) || !read_digits(&at, end, 2, &m.hour)) {
        return FK_E_LOG_TIME;
    }
    if (is_utc) {
        m.year += m.year >= 50 ? 1900 : 2000;
    }
    if (read_digits(&at, end, 2, &m.minute)) {
        if (read_digits(&at, end, 2, &m.second) && !is_utc && end - at > 1 && *at == '.') {
            int digits = 0;
            for (at++; at < end && *at >= '0' && *at <= '9'; at++) {
                if (digits < 7) {
                    m.ticks = m.ticks * 10 + (*at - '0');
                    digits++;
                }
            }
            if (digits == 0) {
                return FK_E_LOG_TIME;
            }
            for (; digits < 7; digits++) {
                m.ticks *= 10;
            }
        }
    } else if (is_utc) {
        return FK_E_LOG_TIME;
    }
    if (end - at != 1 || *at != 'Z' || m.hour > 23 || m.minute > 59 || m.second > 59 ||
        moment_join(&m, ticks) != FK_OK) {
        return FK_E_LOG_TIME;
    }
    return FK_OK;
}

static int read_time(reader *r, const fk_element *element, int64_t *ticks) {
    const uint8_t *at = r->data + element->content.offset;
    const uint8_t *end = at + element->content.length;
    uint64_t bits;
    int64_t seconds;
    if (element->tag != TAG_INTEGER) {
        return read_clock_time(at, end, element->tag == TAG_UTC_TIME, ticks);
    }
    if (at == end) {
        return FK_E_LOG_TIME;
    }
    if (end - at > 1 && ((at[0] == 0 && at[1] < 0x80) || (at[0] == 0xFF && at[1] >= 0x80))) {
        r->findings |= FK_LOG_NON_DER;
    }
    while (end - at > 8 && at[0] == 0 && at[1] < 0x80) {
        at++;
    }
    if (end - at > 8) {
        return FK_E_LOG_TIME;
    }
    bits = *at >= 0x80 ? UINT64_MAX : 0;
    for (; at < end; at++) {
        bits = (bits << 8) | *at;
    }
    seconds = bits >> 63 ? -(int64_t)(UINT64_MAX - bits) - 1 : (int64_t)bits;
    if (seconds < -UNIX_EPOCH_TICKS / TICKS_PER_SECOND || seconds > (LAST_TICK - UNIX_EPOCH_TICKS) / TICKS_PER_SECOND) {
        return FK_E_LOG_TIME;
    }
    *ticks = seconds * TICKS_PER_SECOND + UNIX_EPOCH_TICKS;
    return FK_OK;
}

static int is_printable(uint8_t c) {
    static const char OTHERS[] = " '()+,-./:=?";
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c != 0 && memchr(OTHERS, c, sizeof OTHERS - 1) != NULL);
}

static void check_text(reader *r, fk_span text) {
    for (uint32_t i = 0; i < text.length; i++) {
        if (!is_printable(r->data[text.offset + i])) {
            r->findings |= FK_LOG_NOT_PRINTABLE;
            return;
        }
    }
}

/* Process data of tag A2: OCTET STRINGs one behind the other. */
static int read_chunks(reader *r, const fk_element *element, fk_log_message *out) {
    reader inner = {r->data, element->content.offset, element->content.offset + element->content.length, 0};
    fk_element chunk;
    if (!element->indefinite) {
        r->findings |= FK_LOG_DEFINITE_CHUNKS;
    }
    out->chunked = 1;
    while (inner.at < inner.end) {
        const int status = next_with_tag(&inner, TAG_OCTET_STRING, &chunk);
        if (status != FK_OK) {
            out->fault = (uint32_t)inner.at;
            return status;
        }
        out->chunks++;
    }
    r->findings |= inner.findings;
    out->process_data = out->chunks == 1 ? chunk.content : element->content;
    return FK_OK;
}

static int read_transaction_element(reader *r, const fk_element *element, fk_log_message *out) {
    switch (element->tag & 0x1F) {
    case 1:
        out->client_id = element->content;
        check_text(r, element->content);
        break;
    case 2:
        if (element->tag & 0x20) {
            return read_chunks(r, element, out);
        }
        out->process_data = element->content;
        break;
    case 3:
        out->process_type = element->content;
        check_text(r, element->content);
        break;
    case 5: return read_unsigned(r, element->content, &out->transaction_number);
    case 4:
    case 6: break;
    default: r->findings |= FK_LOG_UNKNOWN_ELEMENT;
    }
    return FK_OK;
}

static int read_type_elements(reader *r, fk_log_message *out) {
    fk_element element;
    out->elements.offset = (uint32_t)r->at;
    while (r->at < r->end && (r->data[r->at] & 0xC0) == 0x80) {
        uint32_t bit;
        int status = next(r, &element);
        if (status != FK_OK) {
            return status;
        }
        bit = UINT32_C(1) << (element.tag & 0x1F);
        if (element.indefinite && !(bit == 4 && out->type == 1)) {
            r->findings |= FK_LOG_NON_DER;
        }
        if (out->present & bit) {
            r->findings |= FK_LOG_DUPLICATE_ELEMENT;
            continue;
        }
        out->present |= bit;
        if (bit == 1 && (out->type == 1 || out->type == 2)) {
            out->operation = element.content;
            check_text(r, element.content);
        } else if (out->type == 1) {
            status = read_transaction_element(r, &element, out);
            if (status != FK_OK) {
                return status;
            }
        }
    }
    out->elements.length = (uint32_t)r->at - out->elements.offset;
    if ((out->type == 1 && (out->present & 0x27) != 0x27) || (out->type == 2 && (out->present & 1) == 0)) {
        r->findings |= FK_LOG_MISSING_ELEMENT;
    }
    return FK_OK;
}

static int read_algorithm(reader *r, fk_log_message *out) {
    fk_element element;
    fk_element oid;
    int status = next_with_tag(r, TAG_SEQUENCE, &element);
    reader inner = {r->data, 0, 0, 0};
    if (status != FK_OK) {
        return status;
    }
    if (element.indefinite) {
        r->findings |= FK_LOG_NON_DER;
    }
    inner.at = element.content.offset;
    inner.end = element.content.offset + element.content.length;
    if (inner.at == inner.end) {
        return FK_E_LOG_UNEXPECTED;
    }
    status = next_with_tag(&inner, TAG_OID, &oid);
    if (status != FK_OK) {
        return status;
    }
    out->algorithm = oid.content;
    r->findings |= inner.findings;
    if (inner.at < inner.end) {
        r->findings |= FK_LOG_ALGORITHM_PARAMETERS;
    }
    return FK_OK;
}

static int is_time(uint8_t tag) { return tag == TAG_INTEGER || tag == TAG_UTC_TIME || tag == TAG_GENERALIZED_TIME; }

/* signatureCounter and logTime: with Unix time these are two INTEGERs in a row. */
static int read_counter_and_time(reader *r, fk_log_message *out) {
    fk_element counter;
    fk_element time;
    size_t start = r->at;
    int status = next(r, &counter);
    if (status != FK_OK) {
        return status;
    }
    if (!is_time(counter.tag)) {
        r->at = start;
        return FK_E_LOG_UNEXPECTED;
    }
    start = r->at;
    status = next(r, &time);
    if (status != FK_OK) {
        return status;
    }
    if (counter.tag != TAG_INTEGER || time.tag == TAG_OCTET_STRING) {
        return FK_E_LOG_COUNTER;
    }
    if (!is_time(time.tag)) {
        r->at = start;
        return FK_E_LOG_UNEXPECTED;
    }
    status = read_unsigned(r, counter.content, &out->counter);
    if (status != FK_OK) {
        return status;
    }
    out->time = time.content;
    out->time_tag = time.tag;
    return read_time(r, &time, &out->time_ticks);
}

static int read_message(reader *r, fk_log_message *out) {
    static const uint8_t TYPE_OID[8] = {0x04, 0x00, 0x7F, 0x00, 0x07, 0x03, 0x07, 0x01};
    const size_t start = r->at;
    fk_element element;
    uint64_t version;
    int status = next_with_tag(r, TAG_INTEGER, &element);
    if (status == FK_OK) {
        status = read_unsigned(r, element.content, &version);
    }
    if (status != FK_OK) {
        return status;
    }
    if (version != 2 && version != 3) {
        r->findings |= FK_LOG_UNKNOWN_VERSION;
    }
    out->version = version > UINT32_MAX ? UINT32_MAX : (uint32_t)version;
    status = next_with_tag(r, TAG_OID, &element);
    if (status != FK_OK) {
        return status;
    }
    out->type_oid = element.content;
    if (element.content.length == 9 && memcmp(r->data + element.content.offset, TYPE_OID, 8) == 0) {
        out->type = r->data[element.content.offset + 8];
    }
    if (out->type < 1 || out->type > 3) {
        out->type = 0;
        r->findings |= FK_LOG_UNKNOWN_TYPE;
    }
    status = read_type_elements(r, out);
    if (status == FK_OK) {
        status = next_with_tag(r, TAG_OCTET_STRING, &element);
        out->serial = element.content;
    }
    if (status == FK_OK) {
        status = read_algorithm(r, out);
    }
    if (status == FK_OK && r->at < r->end && r->data[r->at] == TAG_OCTET_STRING) {
        status = next(r, &element);
        out->audit_data = element.content;
        out->has_audit_data = 1;
    }
    if (status == FK_OK) {
        status = read_counter_and_time(r, out);
    }
    if (status != FK_OK) {
        return status;
    }
    out->tbs.offset = (uint32_t)start;
    out->tbs.length = (uint32_t)(r->at - start);
    status = next_with_tag(r, TAG_OCTET_STRING, &element);
    out->signature = element.content;
    if (status == FK_OK && r->at != r->end) {
        return FK_E_LOG_UNEXPECTED; /* the signature is the last element */
    }
    return status;
}

int fk_log_read(const uint8_t *data, size_t length, fk_log_message *out) {
    reader outer = {data, 0, length, 0};
    reader inner = {data, 0, 0, 0};
    fk_element message;
    int status;
    memset(out, 0, sizeof *out);
    if (length > INT32_MAX) {
        return FK_E_ARGUMENT;
    }
    status = next_with_tag(&outer, TAG_SEQUENCE, &message);
    if (status != FK_OK) {
        return status;
    }
    if (outer.at != length) {
        out->fault = (uint32_t)outer.at;
        return FK_E_LOG_TRAILING;
    }
    inner.findings = outer.findings | (message.indefinite ? FK_LOG_NON_DER : 0U);
    inner.at = message.content.offset;
    inner.end = message.content.offset + message.content.length;
    status = read_message(&inner, out);
    if (status != FK_OK && out->fault == 0) {
        out->fault = (uint32_t)inner.at;
    }
    out->findings = inner.findings;
    return status;
}

int fk_log_read_time(uint8_t tag, const uint8_t *data, size_t length, int64_t *ticks) {
    reader r = {data, 0, length, 0};
    fk_element element;
    memset(&element, 0, sizeof element);
    if (length > 64 || !is_time(tag)) {
        return FK_E_LOG_TIME;
    }
    element.tag = tag;
    element.content.length = (uint32_t)length;
    return read_time(&r, &element, ticks);
}

int fk_log_join(const uint8_t *data, size_t length, uint8_t *out, uint32_t *lengths) {
    reader r = {data, 0, length, 0};
    fk_element chunk;
    if (length > INT32_MAX) {
        return FK_E_ARGUMENT;
    }
    while (r.at < r.end) {
        const int status = next_with_tag(&r, TAG_OCTET_STRING, &chunk);
        if (status != FK_OK) {
            return status;
        }
        memcpy(out, data + chunk.content.offset, chunk.content.length);
        out += chunk.content.length;
        *lengths++ = chunk.content.length;
    }
    return FK_OK;
}
