/* diebold_nixdorf.c - frames of Diebold Nixdorf TSEs. */
#include "diebold_nixdorf.h"

#include "../internal.h"

enum {
    ESC = 0x1B,
    REQUEST = 0x90,
    ANSWER = 0x91,
    PARAMETER = 0x92,
    REQUEST_ID = 0x99,
    DIRECTLY = 0x9D,
    BUFFERED = 0x9E,
    END = 0x9F
};

#define GET_COMMAND_RESPONSE 4
#define RESPONSE_PARAMETERS 5 /* the last one of command 4 is raw */

static int printable(const uint8_t *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] < 0x20 || text[i] > 0x7E) return 0;
    return 1;
}

static void put_marker(writer *w, int code) {
    const char marker[2] = {ESC, (char)code};
    put(w, marker, 2);
}

static void digits(uint32_t command, uint8_t *out) {
    out[0] = (uint8_t)('0' + command / 100);
    out[1] = (uint8_t)('0' + command / 10 % 10);
    out[2] = (uint8_t)('0' + command % 10);
}

int fk_dn_request(uint32_t command, const uint8_t *parameters, size_t parameters_length, const uint8_t *id,
                  size_t id_length, int32_t buffer, uint8_t *out, size_t capacity, size_t *length) {
    if (command > 999 || id_length > FK_DN_MAX_ID || !printable(id, id_length) || buffer > 99) return FK_E_ARGUMENT;
    if (parameters_length && parameters[parameters_length - 1] != 0) return FK_E_ARGUMENT;
    writer w = {(char *)out, 0, capacity};
    uint8_t number[3];
    put_marker(&w, REQUEST);
    digits(command, number);
    put(&w, number, 3);
    for (size_t at = 0; at < parameters_length;) {
        const uint8_t *text = parameters + at;
        size_t size = (size_t)((const uint8_t *)memchr(text, 0, parameters_length - at) - text);
        if (!printable(text, size)) return FK_E_ARGUMENT;
        put_marker(&w, PARAMETER);
        put(&w, text, size);
        at += size + 1;
    }
    put_marker(&w, REQUEST_ID);
    put(&w, id, id_length);
    if (buffer < 0) {
        put_marker(&w, DIRECTLY);
    } else {
        put_marker(&w, BUFFERED);
        if (buffer > 9) put_char(&w, (char)('0' + buffer / 10));
        put_char(&w, (char)('0' + buffer % 10));
    }
    put_marker(&w, END);
    *length = w.length;
    return writer_full(&w) ? FK_E_SPACE : FK_OK;
}

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c; }

static int same_id(const uint8_t *left, const uint8_t *right, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (lower(left[i]) != lower(right[i])) return 0;
    return 1;
}

/* Where the end of the answer with this id begins; NULL if it is not there. */
static const uint8_t *find_tail(const uint8_t *data, size_t length, const uint8_t *id, size_t id_length) {
    size_t size = id_length + 4;
    while (length >= size) {
        const uint8_t *at = memchr(data, ESC, length - size + 1);
        if (!at) return NULL;
        if (at[1] == REQUEST_ID && at[2 + id_length] == ESC && at[3 + id_length] == END && same_id(at + 2, id, id_length))
            return at;
        length -= (size_t)(at - data) + 1;
        data = at + 1;
    }
    return NULL;
}

/* The next marker in [at, end) with this code; end if there is none. */
static const uint8_t *find_marker(const uint8_t *at, const uint8_t *end, int code) {
    while (end - at >= 2) {
        const uint8_t *found = memchr(at, ESC, (size_t)(end - at) - 1);
        if (!found) break;
        if (found[1] == code) return found;
        at = found + 1;
    }
    return end;
}

int fk_dn_read(const uint8_t *data, size_t length, uint32_t command, const uint8_t *id, size_t id_length,
               fk_dn_answer *out, uint32_t *spans, size_t capacity) {
    if (command > 999 || id_length > FK_DN_MAX_ID || length > UINT32_MAX) return FK_E_ARGUMENT;
    const uint8_t *tail = find_tail(data, length, id, id_length);
    if (!tail) return FK_DN_MORE;
    uint8_t number[3];
    digits(command, number);
    const uint8_t *start = NULL;
    for (const uint8_t *at = data; (at = find_marker(at, tail, ANSWER)) != tail; at++)
        if (tail - at >= 5 && memcmp(at + 2, number, 3) == 0) start = at;
    if (!start) return FK_DN_E_START;
    out->start = (size_t)(start - data);
    out->end = (size_t)(tail - data) + id_length + 4;
    out->count = 0;
    const uint8_t *at = start + 5;
    while (at != tail) {
        if (tail - at < 2 || at[0] != ESC || at[1] != PARAMETER) return FK_DN_E_FORM;
        at += 2;
        int is_raw = command == GET_COMMAND_RESPONSE && out->count == RESPONSE_PARAMETERS - 1;
        const uint8_t *end = is_raw ? tail : find_marker(at, tail, PARAMETER);
        if (out->count < capacity) {
            spans[2 * out->count] = (uint32_t)(at - data);
            spans[2 * out->count + 1] = (uint32_t)(end - at);
        }
        out->count++;
        at = end;
    }
    return out->count > capacity ? FK_E_SPACE : FK_OK;
}

/* ---- long answers ------------------------------------------------------------------------------ */

enum { IN_HEAD, AT_FIRST, AT_FIRST_CODE, IN_DATA, AT_CODE, IN_ID, AT_END, AT_END_CODE, ENDED };

static const uint8_t SEXTET[256] = { /* value + 1; 0: no base64 */
    ['A'] = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    ['a'] = 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52,
    ['0'] = 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, ['+'] = 63, ['/'] = 64};

int fk_dn_stream_begin(fk_dn_stream *stream, uint32_t command, const uint8_t *id, size_t id_length) {
    if (command > 999 || id_length > FK_DN_MAX_ID || !printable(id, id_length)) return FK_E_ARGUMENT;
    memset(stream, 0, sizeof *stream);
    digits(command, stream->command);
    if (id_length) memcpy(stream->id, id, id_length);
    stream->id_length = (uint8_t)id_length;
    stream->state = IN_HEAD;
    return FK_OK;
}

/* Whole groups of four, as long as there are any. */
static size_t decode_groups(const uint8_t **piece, const uint8_t *end, uint8_t *out) {
    const uint8_t *at = *piece;
    uint8_t *to = out;
    while (end - at >= 4) {
        uint32_t a = SEXTET[at[0]], b = SEXTET[at[1]], c = SEXTET[at[2]], d = SEXTET[at[3]];
        if (!a || !b || !c || !d) break;
        uint32_t bits = (a - 1) << 18 | (b - 1) << 12 | (c - 1) << 6 | (d - 1);
        to[0] = (uint8_t)(bits >> 16);
        to[1] = (uint8_t)(bits >> 8);
        to[2] = (uint8_t)bits;
        to += 3;
        at += 4;
    }
    *piece = at;
    return (size_t)(to - out);
}

/* One character of the data; returns a status, *count bytes to out. */
static int take_character(fk_dn_stream *s, uint8_t c, uint8_t *out, size_t *count) {
    *count = 0;
    if (c == '\r' || c == '\n') return FK_OK;
    if (c == '=') {
        if (s->sextets < 2 || ++s->padding > 4 - s->sextets) return FK_DN_E_BASE64;
        if (s->sextets + s->padding < 4) return FK_OK;
        if (s->bits & (s->sextets == 2 ? 0xFu : 0x3u)) return FK_DN_E_BASE64;
        if (s->sextets == 2) {
            out[0] = (uint8_t)(s->bits >> 4);
            *count = 1;
        } else {
            out[0] = (uint8_t)(s->bits >> 10);
            out[1] = (uint8_t)(s->bits >> 2);
            *count = 2;
        }
        return FK_OK;
    }
    if (s->padding || !SEXTET[c]) return FK_DN_E_BASE64;
    s->bits = s->bits << 6 | (uint32_t)(SEXTET[c] - 1);
    if (++s->sextets < 4) return FK_OK;
    out[0] = (uint8_t)(s->bits >> 16);
    out[1] = (uint8_t)(s->bits >> 8);
    out[2] = (uint8_t)s->bits;
    s->bits = 0;
    s->sextets = 0;
    *count = 3;
    return FK_OK;
}

static int data_is_whole(const fk_dn_stream *s) {
    return s->padding ? s->sextets + s->padding == 4 : s->sextets == 0;
}

int fk_dn_stream_feed(fk_dn_stream *s, const uint8_t *piece, size_t length, uint8_t *out, size_t capacity,
                      size_t *written, int *done) {
    const uint8_t head[5] = {ESC, ANSWER, s->command[0], s->command[1], s->command[2]};
    const uint8_t *end = piece + length;
    *written = 0;
    *done = 0;
    if (s->id_length > FK_DN_MAX_ID || s->state > ENDED) return FK_E_ARGUMENT;
    if (capacity < 3 * (length / 4 + 1)) return FK_E_SPACE;
    while (piece < end) {
        if (s->state == IN_DATA && !s->sextets && !s->padding) {
            *written += decode_groups(&piece, end, out + *written);
            if (piece == end) break;
        }
        uint8_t c = *piece++;
        switch (s->state) {
        case IN_HEAD:
            if (c != head[s->at++]) return FK_DN_E_FORM;
            if (s->at == sizeof head) s->state = AT_FIRST;
            break;
        case AT_FIRST:
            if (c != ESC) return FK_DN_E_FORM;
            s->state = AT_FIRST_CODE;
            break;
        case AT_FIRST_CODE:
            if (c == REQUEST_ID) return FK_DN_E_PARAMETERS;
            if (c != PARAMETER) return FK_DN_E_FORM;
            s->state = IN_DATA;
            break;
        case IN_DATA:
            if (c == ESC) {
                if (!data_is_whole(s)) return FK_DN_E_BASE64;
                s->state = AT_CODE;
            } else {
                size_t count;
                int status = take_character(s, c, out + *written, &count);
                if (status) return status;
                *written += count;
            }
            break;
        case AT_CODE:
            if (c == PARAMETER) return FK_DN_E_PARAMETERS;
            if (c != REQUEST_ID) return FK_DN_E_FORM;
            s->at = 0;
            s->state = s->id_length ? IN_ID : AT_END;
            break;
        case IN_ID:
            if (lower(c) != lower(s->id[s->at++])) return FK_DN_E_ID;
            if (s->at == s->id_length) s->state = AT_END;
            break;
        case AT_END:
            if (c != ESC) return FK_DN_E_ID;
            s->state = AT_END_CODE;
            break;
        case AT_END_CODE:
            if (c != END) return FK_DN_E_FORM;
            s->state = ENDED;
            break;
        default: return FK_DN_E_PARAMETERS;
        }
    }
    *done = s->state == ENDED;
    return FK_OK;
}
