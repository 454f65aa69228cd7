/* cryptovision.c - blocks, commands and answers of Cryptovision TSEs. */
#include "cryptovision.h"

#include "../fiskal.h"

#include <string.h>

enum { MAGIC_BYTES = 28, ANSWER_HEAD = 34, COMMAND_HEAD = 6, PARAMETER_HEAD = 3 };

static const uint8_t magic[MAGIC_BYTES] = "AdVancED SeCuRe SD/MMC CArd\x01";

/* ---- writing ----------------------------------------------------------------------------------------------- */

static uint8_t *put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
    return at + 2;
}

static uint8_t *put32(uint8_t *at, uint32_t value)
{
    return put16(put16(at, value >> 16), value & 0xffff);
}

static uint8_t *put_parameter(uint8_t *at, uint32_t type, const uint8_t *value, size_t length)
{
    *at++ = (uint8_t)type;
    at = put16(at, (uint32_t)length);
    if (length) {
        memcpy(at, value, length);
    }
    return at + length;
}

static uint8_t *put_command_head(uint8_t *at, uint32_t code, size_t parameters)
{
    *at++ = 0x5c;
    *at++ = 0x54;
    return put16(put16(at, code), (uint32_t)parameters);
}

static int type_allows(uint32_t type, size_t length)
{
    switch (type) {
    case FK_CV_BYTE:
        return length == 1;
    case FK_CV_SHORT:
        return length == 2;
    case FK_CV_LONGS:
        return length % 4 == 0;
    case FK_CV_TEXT:
        return length <= FK_CV_MAX_TEXT_BYTES;
    case FK_CV_OCTETS:
        return 1;
    default:
        return 0;
    }
}

int fk_cv_command(uint32_t code, const fk_cv_parameter *parameters, size_t count, uint8_t *out, size_t capacity,
                  size_t *length)
{
    size_t needed = COMMAND_HEAD;
    if (code > 0xffff) {
        return FK_E_ARGUMENT;
    }
    for (size_t i = 0; i < count; i++) {
        if (!type_allows(parameters[i].type, parameters[i].length)) {
            return FK_E_ARGUMENT;
        }
        if (parameters[i].length > FK_CV_MAX_COMMAND_BYTES) {
            return FK_E_ARGUMENT;
        }
        needed += PARAMETER_HEAD + parameters[i].length;
        if (needed > FK_CV_MAX_COMMAND_BYTES) {
            return FK_E_ARGUMENT;
        }
    }
    if (needed > capacity) {
        return FK_E_SPACE;
    }
    uint8_t *at = put_command_head(out, code, needed - COMMAND_HEAD);
    for (size_t i = 0; i < count; i++) {
        at = put_parameter(at, parameters[i].type, parameters[i].value, parameters[i].length);
    }
    *length = needed;
    return FK_OK;
}

static size_t whole_sectors(size_t length)
{
    return (length + FK_CV_SECTOR_BYTES - 1) / FK_CV_SECTOR_BYTES * FK_CV_SECTOR_BYTES;
}

static uint8_t *put_block_head(uint8_t *out, size_t command_length, uint32_t token, uint32_t mode)
{
    memcpy(out, magic, MAGIC_BYTES);
    return put16(put16(put32(out + MAGIC_BYTES, token), (uint32_t)command_length), mode);
}

int fk_cv_block(const uint8_t *command, size_t command_length, uint32_t token, uint32_t mode, uint8_t *out,
                size_t capacity, size_t *length)
{
    if (command_length == 0 || command_length > FK_CV_MAX_COMMAND_BYTES || mode > 0xffff) {
        return FK_E_ARGUMENT;
    }
    size_t needed = whole_sectors(FK_CV_HEADER_BYTES + command_length);
    if (needed > capacity) {
        return FK_E_SPACE;
    }
    uint8_t *at = put_block_head(out, command_length, token, mode);
    memcpy(at, command, command_length);
    at += command_length;
    memset(at, 0, (size_t)(out + needed - at));
    *length = needed;
    return FK_OK;
}

int fk_cv_transaction(uint32_t code, uint64_t number, const uint8_t *client, size_t client_length,
                      const uint8_t *data, size_t data_length, const uint8_t *type, size_t type_length, uint8_t *out,
                      size_t capacity, size_t *length)
{
    int starts = code == 0x000a;
    int updates = code == 0x000b;
    uint8_t digits[4];
    if ((!starts && !updates && code != 0x000c) || number > UINT32_MAX) {
        return FK_E_ARGUMENT;
    }
    if (client_length > FK_CV_MAX_TEXT_BYTES || type_length > FK_CV_MAX_TEXT_BYTES ||
        data_length > FK_CV_MAX_COMMAND_BYTES) {
        return FK_E_ARGUMENT;
    }
    size_t parameters = 3 * PARAMETER_HEAD + client_length + data_length + type_length;
    parameters += starts ? 0 : PARAMETER_HEAD + sizeof digits;
    parameters += updates ? 0 : PARAMETER_HEAD;
    size_t command_length = COMMAND_HEAD + parameters;
    if (command_length > FK_CV_MAX_COMMAND_BYTES) {
        return FK_E_ARGUMENT;
    }
    size_t needed = whole_sectors(FK_CV_HEADER_BYTES + command_length);
    if (needed > capacity) {
        return FK_E_SPACE;
    }
    uint8_t *at = put_block_head(out, command_length, FK_CV_TOKEN, FK_CV_MODE_NORMAL);
    at = put_command_head(at, code, parameters);
    if (!starts) {
        put32(digits, (uint32_t)number);
        at = put_parameter(at, FK_CV_OCTETS, digits, sizeof digits);
    }
    at = put_parameter(at, FK_CV_TEXT, client, client_length);
    at = put_parameter(at, FK_CV_OCTETS, data, data_length);
    at = put_parameter(at, FK_CV_TEXT, type, type_length);
    if (!updates) {
        at = put_parameter(at, FK_CV_OCTETS, NULL, 0); /* additionalData must be there, and empty */
    }
    memset(at, 0, (size_t)(out + needed - at));
    *length = needed;
    return FK_OK;
}

/* ---- reading ----------------------------------------------------------------------------------------------- */

static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }

int fk_cv_answer_read(const uint8_t *block, size_t length, uint32_t token, fk_cv_answer *out)
{
    static const uint8_t zeros[MAGIC_BYTES];
    memset(out, 0, sizeof *out);
    if (length < ANSWER_HEAD) {
        return FK_CV_E_SHORT;
    }
    if (memcmp(block, magic, MAGIC_BYTES) != 0) {
        out->state = FK_CV_EMPTY;
        return memcmp(block, zeros, MAGIC_BYTES) == 0 ? FK_OK : FK_CV_E_FOREIGN;
    }
    out->token = get32(block + MAGIC_BYTES);
    out->code = get16(block + MAGIC_BYTES + 4);
    if (out->token == token) {
        out->state = FK_CV_NOT_TAKEN;
        return FK_OK;
    }
    if (out->code == 0xffff) {
        out->state = FK_CV_BUSY;
        return FK_OK;
    }
    if (out->code >= 0xff00) {
        out->state = FK_CV_CONTROLLER;
        return FK_OK;
    }
    if (out->code > FK_CV_FULL_ANSWER_BYTES) {
        return FK_CV_E_LENGTH;
    }
    if (out->code > length - ANSWER_HEAD) {
        return FK_CV_E_SHORT;
    }
    out->length = out->code;
    out->state = out->code ? FK_CV_DATA : FK_CV_DONE;
    return FK_OK;
}

int fk_cv_head_read(const uint8_t *data, size_t length, fk_cv_head *out)
{
    memset(out, 0, sizeof *out);
    if (length > FK_CV_FULL_ANSWER_BYTES) {
        return FK_CV_E_LENGTH;
    }
    if (length < 2) {
        return FK_CV_E_SHORT;
    }
    uint32_t result = get16(data);
    if (result >= 0x8000 && result != 0x9000) {
        out->kind = FK_CV_ERROR;
        out->error = result;
        return FK_OK;
    }
    if (result == 0x9000) {
        if (length < 10) {
            return FK_CV_E_SHORT;
        }
        out->kind = FK_CV_STREAM;
        out->offset = 10;
        out->total = (uint64_t)get32(data + 2) << 32 | get32(data + 6);
        if (out->total >> 63) {
            return FK_CV_E_LENGTH;
        }
    } else {
        out->kind = FK_CV_PARAMETERS;
        out->offset = 2;
        out->total = result;
    }
    uint32_t present = (uint32_t)length - out->offset;
    if (present >= out->total) {
        out->present = (uint32_t)out->total;
        return FK_OK;
    }
    out->present = present;
    if (length == FK_CV_FULL_ANSWER_BYTES) {
        out->more = 1;
    } else if (out->kind == FK_CV_STREAM) {
        return FK_CV_E_SHORT; /* nothing can follow a block that is not full */
    }
    return FK_OK;
}

int fk_cv_fragment(const uint8_t *data, size_t length, uint64_t missing, int stream, uint32_t *use, uint32_t *more,
                   uint32_t *error)
{
    *use = 0;
    *more = 0;
    *error = 0;
    if (length > FK_CV_FULL_ANSWER_BYTES || missing == 0) {
        return FK_CV_E_LENGTH;
    }
    uint64_t expected = missing < FK_CV_FULL_ANSWER_BYTES ? missing : FK_CV_FULL_ANSWER_BYTES;
    if (length == 2 && length != expected && get16(data) >= 0x8000) {
        *error = get16(data);
        return FK_OK;
    }
    if (length > expected) {
        length = (size_t)expected;
    }
    if (length < expected && (stream || length == 0)) {
        return FK_CV_E_SHORT;
    }
    *use = (uint32_t)length;
    *more = length == FK_CV_FULL_ANSWER_BYTES && missing > length;
    return FK_OK;
}

int fk_cv_values(const uint8_t *data, size_t length, fk_cv_value *out, size_t capacity, size_t *count)
{
    size_t at = 0;
    *count = 0;
    if (length > UINT32_MAX) {
        return FK_E_ARGUMENT;
    }
    while (at < length) {
        if (length - at < PARAMETER_HEAD) {
            return FK_CV_E_SHORT;
        }
        if (*count == capacity) {
            return FK_E_SPACE;
        }
        size_t named = get16(data + at + 1);
        size_t present = length - at - PARAMETER_HEAD;
        size_t used = named < present ? named : present;
        out[*count].type = data[at];
        out[*count].offset = (uint32_t)(at + PARAMETER_HEAD);
        out[*count].length = (uint32_t)used;
        out[*count].cut = (uint32_t)(named - used);
        ++*count;
        at += PARAMETER_HEAD + used;
    }
    return FK_OK;
}

int fk_cv_number(const uint8_t *data, size_t length, uint64_t *out)
{
    if (length == 0 || length > 8) {
        return FK_CV_E_NUMBER;
    }
    *out = 0;
    for (size_t i = 0; i < length; i++) {
        *out = *out << 8 | data[i];
    }
    return FK_OK;
}

int fk_cv_signed_read(const uint8_t *data, size_t length, int has_number, fk_cv_signed *out)
{
    fk_cv_value values[5];
    size_t count;
    size_t wanted = has_number ? 5 : 4;
    memset(out, 0, sizeof *out);
    int status = fk_cv_values(data, length, values, wanted, &count);
    if (status != FK_OK) {
        return status;
    }
    if (count < wanted) {
        return FK_CV_E_MISSING;
    }
    for (size_t i = 0; i < wanted; i++) {
        if (values[i].type != FK_CV_OCTETS) {
            return FK_CV_E_TYPE;
        }
        if (values[i].cut) {
            return FK_CV_E_SHORT;
        }
    }
    const fk_cv_value *value = values;
    if (has_number) {
        status = fk_cv_number(data + value->offset, value->length, &out->number);
        value++;
    }
    if (status == FK_OK) {
        status = fk_cv_number(data + value[0].offset, value[0].length, &out->counter);
    }
    if (status == FK_OK) {
        status = fk_cv_number(data + value[1].offset, value[1].length, &out->time);
    }
    out->signature = value[2].offset;
    out->signature_length = value[2].length;
    out->serial = value[3].offset;
    out->serial_length = value[3].length;
    return status;
}

/* ---- structured values ------------------------------------------------------------------------------------- */

typedef struct element {
    uint8_t tag;
    size_t content;
    size_t length;
    size_t next;
} element;

/* One element of BER with a definite length that ends before `end`. */
static int read_element(const uint8_t *data, size_t at, size_t end, element *out)
{
    if (end - at < 2) {
        return FK_CV_E_SHORT;
    }
    out->tag = data[at];
    size_t length = data[at + 1];
    at += 2;
    if (length >= 0x80) {
        size_t bytes = length & 0x7f;
        if (bytes == 0 || bytes > 4) {
            return FK_CV_E_LENGTH;
        }
        if (end - at < bytes) {
            return FK_CV_E_SHORT;
        }
        length = 0;
        for (size_t i = 0; i < bytes; i++) {
            length = length << 8 | data[at++];
        }
    }
    if (length > end - at) {
        return FK_CV_E_SHORT;
    }
    out->content = at;
    out->length = length;
    out->next = at + length;
    return FK_OK;
}

static int expect(const uint8_t *data, size_t at, size_t end, uint8_t tag, element *out)
{
    int status = read_element(data, at, end, out);
    return status == FK_OK && out->tag != tag ? FK_CV_E_TYPE : status;
}

int fk_cv_serial(const uint8_t *data, size_t length, uint32_t *offset)
{
    element list, record, serial, flags, flag;
    *offset = 0;
    if (length > UINT32_MAX) {
        return FK_E_ARGUMENT;
    }
    int status = expect(data, 0, length, 0x30, &list);
    if (status != FK_OK) {
        return status;
    }
    for (size_t at = list.content; at < list.next; at = record.next) {
        if ((status = expect(data, at, list.next, 0x30, &record)) != FK_OK ||
            (status = expect(data, record.content, record.next, 0x04, &serial)) != FK_OK ||
            (status = expect(data, serial.next, record.next, 0x30, &flags)) != FK_OK) {
            return status;
        }
        for (size_t inner = flags.content; inner < flags.next; inner = flag.next) {
            if ((status = read_element(data, inner, flags.next, &flag)) != FK_OK) {
                return status;
            }
            if (flag.tag != 0x80 || flag.length != 1 || data[flag.content] == 0) {
                continue;
            }
            if (serial.length != FK_CV_SERIAL_BYTES) {
                return FK_CV_E_LENGTH;
            }
            *offset = (uint32_t)serial.content;
            return FK_OK;
        }
    }
    return FK_CV_E_MISSING;
}

static int is_client_id(const uint8_t *at, size_t length)
{
    if (length == 0 || length > FK_CV_MAX_CLIENT_ID_BYTES) {
        return 0;
    }
    for (size_t i = 0; i < length; i++) {
        if (at[i] < 0x20 || at[i] > 0x7e) {
            return 0;
        }
    }
    return 1;
}

static int add_mapping(fk_cv_mapping *out, size_t capacity, size_t *count, size_t client, size_t client_length,
                       size_t serial)
{
    if (*count == capacity) {
        return FK_E_SPACE;
    }
    out[*count].client = (uint32_t)client;
    out[*count].client_length = (uint32_t)client_length;
    out[*count].serial = (uint32_t)serial;
    ++*count;
    return FK_OK;
}

static int mappings_as_der(const uint8_t *data, size_t length, fk_cv_mapping *out, size_t capacity, size_t *count)
{
    element list, entry, client, serial;
    int status = expect(data, 0, length, 0x30, &list);
    if (status != FK_OK) {
        return status;
    }
    if (list.next != length) {
        return FK_CV_E_LENGTH;
    }
    for (size_t at = list.content; at < list.next; at = entry.next) {
        if ((status = expect(data, at, list.next, 0x30, &entry)) != FK_OK ||
            (status = expect(data, entry.content, entry.next, 0x04, &client)) != FK_OK ||
            (status = expect(data, client.next, entry.next, 0x04, &serial)) != FK_OK) {
            return status;
        }
        if (!is_client_id(data + client.content, client.length) || serial.length != FK_CV_SERIAL_BYTES ||
            serial.next != entry.next) {
            return FK_CV_E_LENGTH;
        }
        status = add_mapping(out, capacity, count, client.content, client.length, serial.content);
        if (status != FK_OK) {
            return status;
        }
    }
    return FK_OK;
}

/* An octet string of a client id at `at`, whatever the lengths around it say; its length, or 0. */
static size_t client_at(const uint8_t *data, size_t at, size_t end)
{
    if (end - at < 2 || data[at] != 0x04 || data[at + 1] > end - at - 2) {
        return 0;
    }
    return is_client_id(data + at + 2, data[at + 1]) ? data[at + 1] : 0;
}

static int mappings_by_walking(const uint8_t *data, size_t length, fk_cv_mapping *out, size_t capacity,
                               size_t *count)
{
    size_t at = 0;
    while (at < length) {
        /* 30 len 04 len client: behind any 30, because the outer one looks like the inner ones. */
        if (data[at] != 0x30 || length - at < 2) {
            at++;
            continue;
        }
        size_t inside = at + 2;
        if (data[at + 1] == 0x81 || data[at + 1] == 0x82) {
            inside += data[at + 1] & 0x0f;
        }
        size_t client_length = inside < length ? client_at(data, inside, length) : 0;
        if (client_length == 0) {
            at++;
            continue;
        }
        size_t client = inside + 2;
        size_t next = client + client_length;
        size_t serial = 0;
        if (length - next >= 2 + FK_CV_SERIAL_BYTES && data[next] == 0x04 && data[next + 1] == FK_CV_SERIAL_BYTES) {
            serial = next + 2;
            next = serial + FK_CV_SERIAL_BYTES;
        }
        int status = add_mapping(out, capacity, count, client, client_length, serial);
        if (status != FK_OK) {
            return status;
        }
        at = next;
    }
    return FK_OK;
}

int fk_cv_mappings(const uint8_t *data, size_t length, fk_cv_mapping *out, size_t capacity, size_t *count,
                   int *strict)
{
    *count = 0;
    *strict = 1;
    if (length > UINT32_MAX) {
        return FK_E_ARGUMENT;
    }
    int status = mappings_as_der(data, length, out, capacity, count);
    if (status == FK_OK || status == FK_E_SPACE) {
        return status;
    }
    *count = 0;
    *strict = 0;
    return mappings_by_walking(data, length, out, capacity, count);
}

int fk_cv_remedy_of(uint32_t code)
{
    switch (code) {
    case 0x8000:
    case 0x8002:
    case 0x8100:
        return FK_CV_REOPEN;
    case 0x8003:
    case 0x800a:
        return FK_CV_REPEAT;
    case 0x8004:
    case 0x8010:
        return FK_CV_LOOK;
    case 0x8005:
    case 0x8006:
    case 0x800d:
    case 0x8103:
        return FK_CV_FATAL;
    case 0x8007:
    case 0x8008:
        return FK_CV_LOGIN;
    case 0x8009:
    case 0x800c:
    case 0x800e:
    case 0x8012:
    case 0x8014:
    case 0x8017:
    case 0x801b:
        return FK_CV_STATE;
    case 0x8001:
    case 0x800b:
    case 0x8013:
    case 0x8018:
    case 0x8101:
    case 0x8102:
    case 0x8104:
        return FK_CV_PROGRAM;
    case 0x8011:
        return FK_CV_TIME;
    case 0x8015:
    case 0x8019:
    case 0x801a:
        return FK_CV_NO_DATA;
    case 0x8016:
    case 0x801e:
        return FK_CV_CAPACITY;
    case 0x801c:
        return FK_CV_CANCELLED;
    case 0x801d:
        return FK_CV_RESTART;
    default:
        return FK_CV_NONE;
    }
}
