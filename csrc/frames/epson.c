/* The messages of Epson TSEs: see epson.h. */
#include "epson.h"
#include "fiskal.h"

#include <string.h>

typedef struct sink { /* counts on past the end, so that the size needed is known */
    uint8_t *at;
    size_t length;
    size_t capacity;
} sink;

static void append(sink *s, const void *data, size_t length) {
    if (s->length <= s->capacity && length <= s->capacity - s->length) {
        memcpy(s->at + s->length, data, length);
    } else if (s->capacity > s->length) {
        s->capacity = s->length; /* nothing after a gap */
    }
    s->length += length;
}

#define MAX_ESCAPE 6 /* bytes of &quot; */
#define APPEND(s, text) append((s), (text), sizeof(text) - 1)

static int finish(const sink *s, size_t wanted_capacity, size_t *written) {
    *written = s->length;
    return s->length > wanted_capacity ? FK_E_SPACE : FK_OK;
}

/* ---- reading ------------------------------------------------------------------------------- */

static int is_noise(uint8_t c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '"'; }

int fk_epson_read(const uint8_t *data, size_t length, fk_epson_span *out) {
    size_t at = 0;
    for (;;) {
        while (at < length && (is_noise(data[at]) || data[at] == 0)) at++;
        out->begin = out->end = out->next = at;
        if (at == length) return FK_EPSON_MORE;
        const uint8_t *zero = memchr(data + at, 0, length - at);
        if (!zero) return FK_EPSON_MORE;
        size_t end = (size_t)(zero - data);
        out->next = end + 1;
        while (end > at && is_noise(data[end - 1])) end--; /* data[at] is no noise */
        out->end = end;
        return data[at] == '<' && data[end - 1] == '>' && end - at > 1 ? FK_OK : FK_EPSON_E_FORM;
    }
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Length of the character at p that XML 1.0 can carry (its production 2), 0 if it is none. */
static size_t xml_character(const uint8_t *p, const uint8_t *end) {
    uint8_t c = *p;
    if (c < 0x80) return c >= 0x20 || c == '\t' || c == '\n' || c == '\r';
    if (c < 0xc2 || c > 0xf4) return 0;
    size_t length = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if ((size_t)(end - p) < length) return 0;
    uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;  /* no overlong forms */
    uint8_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf; /* no surrogates, nothing above U+10FFFF */
    if (p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if (c == 0xef && p[1] == 0xbf && p[2] >= 0xbe) return 0; /* U+FFFE and U+FFFF */
    return length;
}

/* 0: a printable ASCII character that needs nothing. */
static const uint8_t SPECIAL[256] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    ['"'] = 1, ['&'] = 1, ['<'] = 1, ['>'] = 1, [0x7f] = 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* The same with room for the longest escapes: nothing has to be counted. */
static int write_escaped(sink *s, const uint8_t *text, size_t length) {
    const uint8_t *end = text + length;
    uint8_t *to = s->at + s->length;
    while (text < end) {
        uint8_t c = *text;
        if (!SPECIAL[c]) {
            *to++ = c;
            text++;
        } else if (c == '"') {
            memcpy(to, "&quot;", 6), to += 6, text++;
        } else if (c == '&') {
            memcpy(to, "&amp;", 5), to += 5, text++;
        } else if (c == '<' || c == '>') {
            memcpy(to, c == '<' ? "&lt;" : "&gt;", 4), to += 4, text++;
        } else {
            size_t width = xml_character(text, end);
            if (!width) return FK_EPSON_E_TEXT;
            memcpy(to, text, width);
            to += width;
            text += width;
        }
    }
    s->length = (size_t)(to - s->at);
    return FK_OK;
}

static int append_escaped(sink *s, const uint8_t *text, size_t length) {
    if (s->length <= s->capacity && (s->capacity - s->length) / MAX_ESCAPE >= length)
        return write_escaped(s, text, length);
    const uint8_t *end = text + length;
    const uint8_t *plain = text; /* what needs no escape goes over in one piece */
    for (;;) {
        while (text < end && !SPECIAL[*text]) text++;
        if (text == end) break;
        uint8_t c = *text;
        if (c != '&' && c != '<' && c != '>' && c != '"') {
            size_t width = xml_character(text, end);
            if (!width) return FK_EPSON_E_TEXT;
            text += width;
            continue;
        }
        append(s, plain, (size_t)(text - plain));
        if (c == '&') {
            APPEND(s, "&amp;");
        } else if (c == '<') {
            APPEND(s, "&lt;");
        } else if (c == '>') {
            APPEND(s, "&gt;");
        } else {
            APPEND(s, "&quot;");
        }
        plain = ++text;
    }
    append(s, plain, (size_t)(text - plain));
    return FK_OK;
}

int fk_epson_escape(const uint8_t *text, size_t length, uint8_t *out, size_t capacity, size_t *written) {
    sink s = {out, 0, capacity};
    int status = append_escaped(&s, text, length);
    return status == FK_OK ? finish(&s, capacity, written) : status;
}

typedef struct part { /* what stands before a text of a message */
    const char *before;
    size_t length;
} part;

#define PART(text) {(text), sizeof(text) - 1}

static const struct {
    size_t texts;
    part parts[4]; /* before each text, and behind the last */
} MESSAGES[] = {
    {2,
     {PART("<open_device><device_id>"), PART("</device_id><data><type>"), PART("</type></data></open_device>"),
      {NULL, 0}}},
    {1, {PART("<close_device><device_id>"), PART("</device_id></close_device>"), {NULL, 0}, {NULL, 0}}},
    {3,
     {PART("<reconnect><data><new_client_id>"), PART("</new_client_id><old_client_id>"),
      PART("</old_client_id><received_id>"), PART("</received_id></data></reconnect>")}},
    {1, {PART("<disconnect><data><client_id>"), PART("</client_id></data></disconnect>"), {NULL, 0}, {NULL, 0}}},
};

int fk_epson_message(int kind, const uint8_t *texts, size_t length, uint8_t *out, size_t capacity, size_t *written) {
    if (kind < FK_EPSON_OPEN_DEVICE || kind > FK_EPSON_DISCONNECT) return FK_E_ARGUMENT;
    size_t wanted = MESSAGES[kind - 1].texts;
    const part *parts = MESSAGES[kind - 1].parts;
    sink s = {out, 0, capacity};
    for (size_t i = 0; i < wanted; i++) {
        const uint8_t *zero = length ? memchr(texts, 0, length) : NULL;
        if (!zero || zero == texts) return FK_E_ARGUMENT;
        size_t size = (size_t)(zero - texts);
        append(&s, parts[i].before, parts[i].length);
        int status = append_escaped(&s, texts, size);
        if (status != FK_OK) return status;
        texts += size + 1;
        length -= size + 1;
    }
    if (length) return FK_E_ARGUMENT;
    append(&s, parts[wanted].before, parts[wanted].length);
    append(&s, "", 1);
    return finish(&s, capacity, written);
}

static void append_number(sink *s, uint32_t value) {
    char digits[10];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    append(s, digits + at, sizeof digits - at);
}

int fk_epson_request(const uint8_t *device_id, size_t device_id_length, uint32_t timeout_ms, const uint8_t *json,
                     size_t json_length, uint8_t *out, size_t capacity, size_t *written) {
    if (!device_id_length || !json_length) return FK_E_ARGUMENT;
    if (json_length > FK_EPSON_MAX_JSON) return FK_EPSON_E_SIZE;
    sink s = {out, 0, capacity};
    APPEND(&s, "<device_data><device_id>");
    int status = append_escaped(&s, device_id, device_id_length);
    if (status != FK_OK) return status;
    APPEND(&s, "</device_id><data><type>operate</type><timeout>");
    append_number(&s, timeout_ms);
    APPEND(&s, "</timeout><requestdata>");
    status = append_escaped(&s, json, json_length);
    if (status != FK_OK) return status;
    APPEND(&s, "</requestdata></data></device_data>");
    append(&s, "", 1);
    return finish(&s, capacity, written);
}

/* ---- exports ------------------------------------------------------------------------------- */

static uint32_t sextet(uint8_t c) { /* 64 for '=', 65 for what is no base64 */
    if (c >= 'A' && c <= 'Z') return (uint32_t)(c - 'A');
    if (c >= 'a' && c <= 'z') return (uint32_t)(c - 'a') + 26;
    if (c >= '0' && c <= '9') return (uint32_t)(c - '0') + 52;
    return c == '+' ? 62 : c == '/' ? 63 : c == '=' ? 64 : 65;
}

/* Decodes four characters; returns how many bytes they are, 0 if they are no group. */
static size_t decode_group(const uint8_t *four, uint8_t *out) {
    uint32_t a = sextet(four[0]), b = sextet(four[1]), c = sextet(four[2]), d = sextet(four[3]);
    if ((a | b) > 63 || c > 64 || d > 64) return 0;
    if (c == 64 && (d != 64 || (b & 15))) return 0;
    if (c != 64 && d == 64 && (c & 3)) return 0;
    size_t size = c == 64 ? 1 : d == 64 ? 2 : 3;
    uint32_t group = a << 18 | b << 12 | (c & 63) << 6 | (d & 63);
    out[0] = (uint8_t)(group >> 16);
    if (size > 1) out[1] = (uint8_t)(group >> 8);
    if (size > 2) out[2] = (uint8_t)group;
    return size;
}

int fk_epson_piece(fk_epson_export *state, const uint8_t *text, size_t length, uint8_t *out, size_t capacity,
                   size_t *written) {
    if (state->count > 3) return FK_E_ARGUMENT;
    *written = 0;
    if (length > SIZE_MAX - 3 || capacity / 3 < (state->count + length) / 4) return FK_E_SPACE;
    const uint8_t *end = text + length;
    if (state->count) {
        uint8_t four[4];
        memcpy(four, state->held, state->count);
        while (state->count < 4 && text < end) four[state->count++] = *text++;
        if (state->count < 4) {
            memcpy(state->held, four, state->count);
            return FK_OK;
        }
        state->count = 0;
        size_t size = decode_group(four, out);
        if (!size) return FK_EPSON_E_BASE64;
        *written = size;
    }
    for (; end - text >= 4; text += 4) {
        size_t size = decode_group(text, out + *written);
        if (!size) return FK_EPSON_E_BASE64;
        *written += size;
    }
    state->count = (uint8_t)(end - text);
    memcpy(state->held, text, state->count);
    return FK_OK;
}
