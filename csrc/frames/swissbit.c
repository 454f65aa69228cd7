/* swissbit.c - see swissbit.h. Offsets are those of the vendor's blocks, which no public specification describes. */
#include "swissbit.h"

#include <string.h>

static uint16_t u16(const uint8_t *at) { return (uint16_t)((at[0] << 8) | at[1]); }

static uint32_t u32(const uint8_t *at) {
    return ((uint32_t)at[0] << 24) | ((uint32_t)at[1] << 16) | ((uint32_t)at[2] << 8) | at[3];
}

static uint64_t u64(const uint8_t *at) { return ((uint64_t)u32(at) << 32) | u32(at + 4); }

/* ---- writing: a block that refuses what does not fit --------------------------------------------- */

typedef struct block {
    uint8_t *bytes;
    size_t at;
    int full;
} block;

static block begin(uint8_t code, uint8_t *out) {
    memset(out, 0, FK_SB_BLOCK);
    out[2] = code;
    return (block){out, 4, 0};
}

static void put(block *b, const uint8_t *data, size_t length) {
    if (b->full || length > FK_SB_BLOCK - b->at) {
        b->full = 1;
        return;
    }
    if (length) memcpy(b->bytes + b->at, data, length);
    b->at += length;
}

static void put_u8(block *b, uint8_t value) { put(b, &value, 1); }

static void put_u64(block *b, uint64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(value >> (56 - 8 * i));
    put(b, bytes, sizeof bytes);
}

static void put_text(block *b, const uint8_t *text, size_t length) {
    if (length > 255) {
        b->full = 1;
        return;
    }
    put_u8(b, (uint8_t)length);
    put(b, text, length);
}

static int end(block *b) {
    if (b->full) return FK_E_SPACE;
    size_t length = b->at - 2;
    b->bytes[0] = (uint8_t)(length >> 8);
    b->bytes[1] = (uint8_t)length;
    return FK_OK;
}

int fk_sb_command(uint8_t code, const uint8_t *payload, size_t length, uint8_t *out) {
    block b = begin(code, out);
    put(&b, payload, length);
    return end(&b);
}

int fk_sb_texts_command(uint8_t code, int32_t user, const uint8_t *first, size_t first_length, const uint8_t *second,
                        size_t second_length, uint8_t *out) {
    if (user > 255) return FK_E_ARGUMENT;
    block b = begin(code, out);
    if (user >= 0) put_u8(&b, (uint8_t)user);
    if (first) put_text(&b, first, first_length);
    if (second) put_text(&b, second, second_length);
    return end(&b);
}

int fk_sb_skip_command(uint8_t code, uint32_t skip, const uint8_t *client, size_t client_length, uint8_t *out) {
    block b = begin(code, out);
    uint8_t bytes[4] = {(uint8_t)(skip >> 24), (uint8_t)(skip >> 16), (uint8_t)(skip >> 8), (uint8_t)skip};
    put(&b, bytes, sizeof bytes);
    if (client) put_text(&b, client, client_length);
    return end(&b);
}

int fk_sb_number_command(uint8_t code, uint64_t number, uint8_t *out) {
    block b = begin(code, out);
    put_u64(&b, number);
    return end(&b);
}

int fk_sb_open_command(uint8_t code, uint8_t event, const uint8_t *client, size_t client_length, uint64_t number,
                       uint64_t data_length, const uint8_t *type, size_t type_length, uint8_t *out) {
    if (event > 2 || client_length < 1 || client_length > FK_SB_MAX_CLIENT) return FK_E_ARGUMENT;
    block b = begin(code, out);
    put_u8(&b, event);
    put_text(&b, client, client_length);
    put_u64(&b, number);
    put_u64(&b, data_length);
    put_u64(&b, type_length);
    put(&b, type, type_length);
    put_u64(&b, 0); /* additional data, which TR-03151 has no use for */
    return end(&b);
}

int fk_sb_read_command(const uint8_t *bytes, size_t size, fk_sb_request *out) {
    if (size < 4) return FK_SB_E_LENGTH;
    size_t length = u16(bytes);
    if (length < 2 || length > FK_SB_BLOCK - 2 || length + 2 > size) return FK_SB_E_LENGTH;
    *out = (fk_sb_request){bytes[2], bytes[3], 4, (uint16_t)(length - 2)};
    return FK_OK;
}

/* ---- responses ---------------------------------------------------------------------------------- */

enum { CHANNEL_FETCH = 0xfd, CHANNEL_COMPLETE = 0xff };

int fk_sb_read_response(const uint8_t *bytes, size_t size, fk_sb_response *out) {
    if (size < FK_SB_BLOCK) return FK_SB_E_LENGTH;
    *out = (fk_sb_response){.counter = u32(bytes), .channel = bytes[4], .kind = FK_SB_NOT_YET};
    if (out->channel == CHANNEL_FETCH) out->kind = FK_SB_FETCH;
    if (out->channel != CHANNEL_COMPLETE) return FK_OK;
    uint16_t length = u16(bytes + 5);
    if (length < 2 || length > FK_SB_MAX_DATA + 2) return FK_SB_E_LENGTH;
    out->kind = FK_SB_COMPLETE;
    out->data = 7;
    out->length = (uint16_t)(length - 2);
    out->word = u16(bytes + 5 + length);
    return FK_OK;
}

enum { CLOSED_SIZE = 64 };

int fk_sb_read_closed(const uint8_t *data, size_t length, fk_sb_closed *out) {
    if (length < CLOSED_SIZE || length > FK_SB_MAX_DATA) return FK_SB_E_LENGTH;
    uint64_t signature = u64(data + 56);
    if (signature > length - CLOSED_SIZE) return FK_SB_E_LENGTH;
    out->number = u64(data);
    memcpy(out->serial, data + 8, sizeof out->serial);
    out->log_time = u64(data + 40);
    out->counter = u64(data + 48);
    out->signature = CLOSED_SIZE;
    out->signature_length = (uint32_t)signature;
    return FK_OK;
}

int fk_sb_read_offset(const uint8_t *data, size_t length, uint64_t *out) {
    if (length < 8) return FK_SB_E_LENGTH;
    *out = u64(data);
    return FK_OK;
}

int fk_sb_read_numbers(const uint8_t *data, size_t length, uint64_t *out, size_t *count) {
    *count = 0;
    if (length == 0) return FK_OK;
    size_t amount = data[0];
    if (amount > FK_SB_MAX_NUMBERS) return FK_SB_E_COUNT;
    if (length - 1 < 8 * amount) return FK_SB_E_LENGTH;
    for (size_t i = 0; i < amount; i++) out[i] = u64(data + 1 + 8 * i);
    *count = amount;
    return FK_OK;
}

enum { SLOT = 31, WIDE_SLOT = 32 };

int fk_sb_read_clients(const uint8_t *data, size_t length, fk_span *out, size_t *count) {
    *count = 0;
    if (length == 0) return FK_OK;
    size_t amount = data[0], body = length - 1;
    if (amount > FK_SB_MAX_CLIENTS) return FK_SB_E_COUNT;
    size_t slot = body % SLOT != 0 && body == WIDE_SLOT * amount ? WIDE_SLOT : SLOT;
    if (body < slot * amount) return FK_SB_E_LENGTH;
    for (size_t i = 0; i < amount; i++) {
        size_t at = 1 + slot * i;
        const uint8_t *zero = memchr(data + at, 0, slot);
        size_t text = zero ? (size_t)(zero - (data + at)) : SLOT;
        if (text == 0) return FK_SB_E_TEXT;
        out[i] = (fk_span){(uint32_t)at, (uint32_t)(text < SLOT ? text : SLOT)};
    }
    *count = amount;
    return FK_OK;
}

int fk_sb_read_certificate(const uint8_t *data, size_t length, fk_span *out) {
    *out = (fk_span){0, 0};
    if (length == 0) return FK_OK;
    if (length < 2) return FK_SB_E_LENGTH;
    size_t piece = u16(data);
    if (piece > length - 2) return FK_SB_E_LENGTH;
    *out = (fk_span){2, (uint32_t)piece};
    return FK_OK;
}

/* ---- the info block ------------------------------------------------------------------------------ */

int fk_sb_read_info(const uint8_t *bytes, size_t size, fk_sb_info *out) {
    if (size < FK_SB_BLOCK) return FK_SB_E_LENGTH;
    memset(out, 0, sizeof *out);
    out->has_magic = memcmp(bytes, "GMISRLS", 7) == 0;
    out->capacity_blocks = u32(bytes + 0x14);
    out->size_blocks = u32(bytes + 0x18);
    out->flags = bytes[0x1c];
    out->state = bytes[0x1d];
    out->importing = bytes[0x1e];
    out->changed = bytes[0x20];
    out->self_test_in_s = u32(bytes + 0x24);
    out->started = u32(bytes + 0x28);
    out->max_started = u32(bytes + 0x2c);
    out->signatures = u32(bytes + 0x30);
    out->max_signatures = u32(bytes + 0x34);
    out->clients = u32(bytes + 0x38);
    out->max_clients = u32(bytes + 0x3c);
    out->certificate_end = u64(bytes + 0x40);
    out->tar_bytes = u64(bytes + 0x48);
    out->hardware = u32(bytes + 0x50);
    out->software_major = u16(bytes + 0x54);
    out->software_minor = bytes[0x56];
    out->software_patch = bytes[0x57];
    out->key_length = bytes[0x6a];
    if (out->key_length <= FK_SB_INFO_KEY) memcpy(out->key, bytes + 0x6b, out->key_length);
    out->time_sync_in_s = u32(bytes + 0xd0);
    memcpy(out->serial, bytes + 0x100, sizeof out->serial);
    const uint8_t *text = bytes + 0x120, *zero = memchr(text, 0, sizeof out->description);
    out->description_length = (uint8_t)(zero ? (size_t)(zero - text) : sizeof out->description);
    memcpy(out->description, text, out->description_length);
    return FK_OK;
}

int fk_sb_read_sector_table(const uint8_t *bytes, size_t size, uint32_t *out) {
    if (size < 12) return FK_SB_E_LENGTH;
    for (int i = 0; i < 3; i++) out[i] = u32(bytes + 4 * i);
    return FK_OK;
}
