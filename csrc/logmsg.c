/*
 * logmsg.c - log messages of TR-03151 in DER: the bytes that are signed, and the finished message.
 *
 * A log message is SEQUENCE { elements..., signatureValue }. What is signed is the concatenation of the
 * complete TLVs before the signature, without the outer header (TR-03151-1 section 3.4). Everything is
 * written front to back into the caller's buffer; a writer that ran out of space only counts on.
 */
#include "internal.h"

/* of the elements of a log message */
enum {
    TAG_OPERATION_TYPE = 0x80,
    TAG_CLIENT_ID = 0x81,
    TAG_PROCESS_DATA = 0x82,
    TAG_PROCESS_TYPE = 0x83,
    TAG_ADDITIONAL_EXTERNAL_DATA = 0x84,
    TAG_TRANSACTION_NUMBER = 0x85,
    TAG_SYSTEM_OPERATION_DATA = 0x81,
    TAG_EVENT_ORIGIN = 0x81,
    TAG_EVENT_TRIGGERED_BY_USER = 0x82,
    TAG_EVENT_DATA = 0xA3
};

/* No element may be longer: keeps every sum of lengths far away from overflow. */
#define MAX_ELEMENT ((size_t)1 << 30)

static void put_header(writer *w, uint8_t tag, size_t length) {
    uint8_t header[2 + sizeof length];
    size_t count = 0;
    header[count++] = tag;
    if (length < 0x80) {
        header[count++] = (uint8_t)length;
    } else {
        unsigned bytes = 0;
        for (size_t rest = length; rest != 0; rest >>= 8) {
            bytes++;
        }
        header[count++] = (uint8_t)(0x80U | bytes);
        for (unsigned shift = bytes * 8; shift != 0; shift -= 8) {
            header[count++] = (uint8_t)(length >> (shift - 8));
        }
    }
    put(w, header, count);
}

static void put_tlv(writer *w, uint8_t tag, const void *value, size_t length) {
    put_header(w, tag, length);
    put(w, value, length);
}

/* Minimal two's complement of `number`, which is int64_t by its bits unless `is_unsigned`. */
static void put_integer(writer *w, uint8_t tag, uint64_t number, int is_unsigned) {
    uint8_t bytes[9];
    size_t first = 0;
    const int negative = !is_unsigned && (number >> 63) != 0;
    bytes[0] = negative ? 0xFF : 0x00;
    for (unsigned i = 0; i < 8; i++) {
        bytes[1 + i] = (uint8_t)(number >> (56 - 8 * i));
    }
    while (first < 8 && bytes[first] == bytes[0] && ((bytes[first] ^ bytes[first + 1]) & 0x80) == 0) {
        first++;
    }
    put_tlv(w, tag, bytes + first, sizeof bytes - first);
}

static const int64_t MIN_UTC_TIME_MS = INT64_C(-631152000000); /* 1950-01-01T00:00:00Z */
static const int64_t MAX_UTC_TIME_MS = INT64_C(2524607999999); /* 2049-12-31T23:59:59.999Z */

static int put_time(writer *w, int format, int64_t unix_ms) {
    char text[19], *at;
    calendar m;
    int64_t ticks;
    if (unix_ms < -UNIX_EPOCH_TICKS / TICKS_PER_MILLISECOND ||
        unix_ms > (LAST_TICK - UNIX_EPOCH_TICKS) / TICKS_PER_MILLISECOND) {
        return FK_E_ARGUMENT; /* also keeps the product in range */
    }
    ticks = unix_ms * TICKS_PER_MILLISECOND + UNIX_EPOCH_TICKS;
    if (moment_split(ticks, &m) != FK_OK) {
        return FK_E_ARGUMENT;
    }
    if (format == FK_TIME_UNIX) {
        put_integer(w, TAG_INTEGER, (uint64_t)(ticks / TICKS_PER_SECOND - UNIX_EPOCH_TICKS / TICKS_PER_SECOND), 0);
        return FK_OK;
    }
    at = put_digits(text, m.year, 4);
    at = put_digits(at, m.month, 2);
    at = put_digits(at, m.day, 2);
    at = put_digits(at, m.hour, 2);
    at = put_digits(at, m.minute, 2);
    at = put_digits(at, m.second, 2);
    switch (format) {
    case FK_TIME_UTC:
        if (unix_ms < MIN_UTC_TIME_MS || unix_ms > MAX_UTC_TIME_MS) {
            return FK_E_ARGUMENT; /* two digits of the year mean 1950..2049 */
        }
        *at++ = 'Z';
        put_tlv(w, TAG_UTC_TIME, text + 2, (size_t)(at - text) - 2);
        return FK_OK;
    case FK_TIME_GENERALIZED_MS:
        *at++ = '.';
        at = put_digits(at, m.ticks / (int)TICKS_PER_MILLISECOND, 3);
        break;
    case FK_TIME_GENERALIZED: break;
    default: return FK_E_ARGUMENT;
    }
    *at++ = 'Z';
    put_tlv(w, TAG_GENERALIZED_TIME, text, (size_t)(at - text));
    return FK_OK;
}

static int valid_signer(const fk_log_signer *signer) {
    return (signer->version == 2 || signer->version == 3) && signer->time_format <= FK_TIME_GENERALIZED_MS;
}

static void put_head(writer *w, const fk_log_signer *signer, uint8_t type) {
    const uint8_t oid[9] = {0x04, 0x00, 0x7F, 0x00, 0x07, 0x03, 0x07, 0x01, type};
    put_tlv(w, TAG_INTEGER, &signer->version, 1);
    put_tlv(w, TAG_OID, oid, sizeof oid);
}

static void put_signer(writer *w, const fk_log_signer *signer) {
    const uint8_t oid[10] = {
        0x04, 0x00, 0x7F, 0x00, 0x07, 0x01, 0x01, 0x04, signer->algorithm[0], signer->algorithm[1]};
    put_tlv(w, TAG_OCTET_STRING, signer->serial, sizeof signer->serial);
    put_header(w, TAG_SEQUENCE, sizeof oid + 2);
    put_tlv(w, TAG_OID, oid, sizeof oid);
}

/* The end that all messages share: signatureCounter and logTime; then the status of the whole. */
static int finish(writer *w, const fk_log_signer *signer, uint64_t counter, int64_t unix_ms, size_t *length,
                  uint8_t *sha256) {
    int status;
    put_integer(w, TAG_INTEGER, counter, 1);
    status = put_time(w, signer->time_format, unix_ms);
    if (status != FK_OK) {
        return status;
    }
    if (writer_full(w)) {
        return FK_E_SPACE;
    }
    *length = w->length;
    return sha256 == NULL ? FK_OK : fk_sha256((const uint8_t *)w->at, w->length, sha256);
}

int fk_log_transaction(const fk_log_signer *signer, int operation, const uint8_t *client_id, size_t client_id_length,
                       const uint8_t *process_data, size_t process_data_length, const size_t *chunks,
                       size_t chunk_count, const uint8_t *process_type, size_t process_type_length,
                       const uint8_t *external_data, size_t external_data_length, uint64_t transaction_number,
                       uint64_t counter, int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length,
                       uint8_t *sha256) {
    static const char *const NAMES[3] = {"startTransaction", "updateTransaction", "finishTransaction"};
    char name[18];
    size_t name_length;
    writer w = {(char *)out, 0, capacity};

    if (!valid_signer(signer) || operation < FK_LOG_START || operation > FK_LOG_FINISH ||
        client_id_length > MAX_ELEMENT || process_data_length > MAX_ELEMENT || process_type_length > MAX_ELEMENT ||
        external_data_length > MAX_ELEMENT) {
        return FK_E_ARGUMENT;
    }
    name_length = strlen(NAMES[operation - 1]);
    memcpy(name, NAMES[operation - 1], name_length);
    if (signer->version == 2) {
        name[0] = (char)(name[0] - 'a' + 'A');
    }
    put_head(&w, signer, 1);
    put_header(&w, TAG_OPERATION_TYPE, name_length);
    put(&w, name, name_length);
    put_tlv(&w, TAG_CLIENT_ID, client_id, client_id_length);
    if (chunks == NULL) {
        put_tlv(&w, TAG_PROCESS_DATA, process_data, process_data_length);
    } else {
        size_t offset = 0;
        put(&w, "\xA2\x80", 2); /* TAG_PROCESS_DATA, constructed, of indefinite length */
        for (size_t i = 0; i < chunk_count; i++) {
            if (chunks[i] > process_data_length - offset) {
                return FK_E_ARGUMENT;
            }
            put_tlv(&w, TAG_OCTET_STRING, process_data + offset, chunks[i]);
            offset += chunks[i];
        }
        if (offset != process_data_length) {
            return FK_E_ARGUMENT;
        }
        put(&w, "\0", 2);
    }
    if (process_type != NULL) {
        put_tlv(&w, TAG_PROCESS_TYPE, process_type, process_type_length);
    }
    if (external_data != NULL) {
        put_tlv(&w, TAG_ADDITIONAL_EXTERNAL_DATA, external_data, external_data_length);
    }
    put_integer(&w, TAG_TRANSACTION_NUMBER, transaction_number, 1);
    put_signer(&w, signer);
    return finish(&w, signer, counter, unix_ms, length, sha256);
}

int fk_log_system(const fk_log_signer *signer, const uint8_t *operation, size_t operation_length, const uint8_t *origin,
                  size_t origin_length, const uint8_t *user, size_t user_length, const uint8_t *data,
                  size_t data_length, uint64_t counter, int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length,
                  uint8_t *sha256) {
    writer w = {(char *)out, 0, capacity};
    if (!valid_signer(signer) || operation_length > MAX_ELEMENT || origin_length > MAX_ELEMENT ||
        user_length > MAX_ELEMENT || data_length > MAX_ELEMENT) {
        return FK_E_ARGUMENT;
    }
    put_head(&w, signer, 2);
    put_tlv(&w, TAG_OPERATION_TYPE, operation, operation_length);
    if (signer->version == 2) {
        put_tlv(&w, TAG_SYSTEM_OPERATION_DATA, data, data_length);
    } else {
        put_tlv(&w, TAG_EVENT_ORIGIN, origin, origin_length);
        if (user != NULL) {
            put_tlv(&w, TAG_EVENT_TRIGGERED_BY_USER, user, user_length);
        }
        put_tlv(&w, TAG_EVENT_DATA, data, data_length);
    }
    put_signer(&w, signer);
    return finish(&w, signer, counter, unix_ms, length, sha256);
}

int fk_log_audit(const fk_log_signer *signer, const uint8_t *data, size_t data_length, uint64_t counter,
                 int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length, uint8_t *sha256) {
    writer w = {(char *)out, 0, capacity};
    if (!valid_signer(signer) || data_length > MAX_ELEMENT) {
        return FK_E_ARGUMENT;
    }
    put_head(&w, signer, 3);
    put_signer(&w, signer);
    put_tlv(&w, TAG_OCTET_STRING, data, data_length);
    return finish(&w, signer, counter, unix_ms, length, sha256);
}

int fk_log_time(int format, int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length) {
    writer w = {(char *)out, 0, capacity};
    const int status = put_time(&w, format, unix_ms);
    if (status != FK_OK) {
        return status;
    }
    *length = w.length;
    return writer_full(&w) ? FK_E_SPACE : FK_OK;
}

int fk_log_seal(const uint8_t *tbs, size_t tbs_length, const uint8_t *signature, size_t signature_length, uint8_t *out,
                size_t capacity, size_t *length) {
    writer trailer = {(char *)out, 0, 0}; /* counts only */
    writer w = {(char *)out, 0, capacity};
    if (tbs_length > MAX_ELEMENT || signature_length > MAX_ELEMENT) {
        return FK_E_ARGUMENT;
    }
    put_header(&trailer, TAG_OCTET_STRING, signature_length);
    put_header(&w, TAG_SEQUENCE, tbs_length + trailer.length + signature_length);
    put(&w, tbs, tbs_length);
    put_tlv(&w, TAG_OCTET_STRING, signature, signature_length);
    *length = w.length;
    return writer_full(&w) ? FK_E_SPACE : FK_OK;
}

/* Reads the INTEGER at *cursor into `size` big-endian bytes. */
static int read_scalar(const uint8_t **cursor, const uint8_t *end, size_t size, uint8_t *out) {
    const uint8_t *at = *cursor;
    size_t length;
    if (end - at < 2 || at[0] != TAG_INTEGER || at[1] == 0 || at[1] >= 0x80) {
        return FK_E_ARGUMENT;
    }
    length = at[1];
    at += 2;
    if ((size_t)(end - at) < length || (at[0] & 0x80) != 0) {
        return FK_E_ARGUMENT; /* cut short, or negative */
    }
    *cursor = at + length;
    while (length > 0 && at[0] == 0) {
        at++;
        length--;
    }
    if (length > size) {
        return FK_E_OVERFLOW;
    }
    memset(out, 0, size - length);
    memcpy(out + (size - length), at, length);
    return FK_OK;
}

int fk_ecdsa_plain(const uint8_t *der, size_t der_length, size_t size, uint8_t *out) {
    const uint8_t *cursor = der;
    const uint8_t *end = der + der_length;
    size_t content;
    int status;
    if (der_length < 2 || size == 0 || size > 66 || der[0] != TAG_SEQUENCE) {
        return FK_E_ARGUMENT;
    }
    cursor += 2;
    content = der[1];
    if (content == 0x81 && der_length > 2) {
        content = *cursor++;
    } else if (content >= 0x80) {
        return FK_E_ARGUMENT;
    }
    if ((size_t)(end - cursor) != content) {
        return FK_E_ARGUMENT;
    }
    status = read_scalar(&cursor, end, size, out);
    if (status == FK_OK) {
        status = read_scalar(&cursor, end, size, out + size);
    }
    if (status == FK_OK && cursor != end) {
        status = FK_E_ARGUMENT;
    }
    return status;
}
