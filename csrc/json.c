/* JSON tokens in the tolerant dialect of the interface: comments and trailing commas are fine, bad UTF-8 is not. */
#include "internal.h"

/* What a byte means inside a string. */
enum { PLAIN = 0, QUOTE, BACKSLASH, CONTROL, BEYOND_ASCII };

static int byte_class(uint8_t c) {
    return c >= 0x80 ? BEYOND_ASCII : c == '"' ? QUOTE : c == '\\' ? BACKSLASH : c < 0x20 ? CONTROL : PLAIN;
}

int scan_fail(scanner *s, int status, const uint8_t *where, const char *detail) {
    s->error_at = where;
    s->detail = detail;
    return status;
}

static int truncated(scanner *s) { return scan_fail(s, FK_E_TRUNCATED, s->end, "the text ends too early"); }

/* Length of the UTF-8 sequence at p, 0 if it is none. */
static int utf8_length(const uint8_t *p, const uint8_t *end) {
    uint8_t c = *p;
    if (c < 0x80) return 1;
    if (c < 0xc2 || c > 0xf4) return 0;
    int length = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (end - p < length) return 0;
    uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;  /* no overlong forms */
    uint8_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf; /* no surrogates, nothing above U+10FFFF */
    if (p[1] < low || p[1] > high) return 0;
    for (int i = 2; i < length; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return length;
}

static int scan_comment(scanner *s) { /* at '/' */
    const uint8_t *p = s->at + 1;
    if (p == s->end) return truncated(s);
    if (*p != '/' && *p != '*') return scan_fail(s, FK_E_SYNTAX, s->at, "unexpected '/'");
    int block = *p++ == '*';
    while (p < s->end) {
        if (!block && (*p == '\n' || *p == '\r')) break;
        if (block && *p == '*' && s->end - p > 1 && p[1] == '/') {
            s->at = p + 2;
            return FK_OK;
        }
        int length = utf8_length(p, s->end);
        if (!length) return scan_fail(s, FK_E_UTF8, p, "not UTF-8");
        p += length;
    }
    s->at = p;
    return block ? truncated(s) : FK_OK;
}

int scan_blanks(scanner *s) {
    for (;;) {
        while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) s->at++;
        if (s->at == s->end || *s->at != '/') return FK_OK;
        int status = scan_comment(s);
        if (status != FK_OK) return status;
    }
}

static int hex4(const uint8_t *p, const uint8_t *end) { /* -1 if there are no four hex digits */
    if (end - p < 4) return -1;
    int value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = p[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* Length of the escape at p (a backslash), 0 with s->detail set if it is none. */
static int escape_length(scanner *s, const uint8_t *p, int *status) {
    if (s->end - p < 2) {
        *status = truncated(s);
        return 0;
    }
    switch (p[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't': return 2;
    case 'u': break;
    default: *status = scan_fail(s, FK_E_SYNTAX, p, "unknown escape"); return 0;
    }
    int unit = hex4(p + 2, s->end);
    if (unit < 0) {
        *status = s->end - p < 6 ? truncated(s) : scan_fail(s, FK_E_SYNTAX, p, "\\u needs four hex digits");
        return 0;
    }
    if (unit < 0xd800 || unit > 0xdfff) return 6;
    int second = unit < 0xdc00 && s->end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, s->end) : -1;
    if (second >= 0xdc00 && second <= 0xdfff) return 12;
    *status = scan_fail(s, FK_E_UTF8, p, "half a surrogate pair");
    return 0;
}

#define HIGH_BITS UINT64_C(0x8080808080808080)
#define ONES UINT64_C(0x0101010101010101)

/* 1 if all eight bytes stand for themselves; a false 0 costs a look at each byte. */
static int eight_plain(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    uint64_t quote = v ^ (ONES * '"'), backslash = v ^ (ONES * '\\');
    uint64_t special = v | (v - ONES * 0x20) | (quote - ONES) | (backslash - ONES);
    return (special & HIGH_BITS) == 0;
}

int scan_string(scanner *s, text *out) {
    const uint8_t *p = s->at + 1, *end = s->end;
    unsigned flags = 0;
    out->at = p;
    for (;;) {
        while (end - p >= 8 && eight_plain(p)) p += 8;
        if (p == end) return truncated(s);
        int length, status = FK_OK;
        switch (byte_class(*p)) {
        case PLAIN: p++; break;
        case QUOTE:
            out->length = (size_t)(p - out->at);
            out->flags = flags;
            s->at = p + 1;
            return FK_OK;
        case BACKSLASH:
            flags |= TEXT_ESCAPED;
            length = escape_length(s, p, &status);
            if (!length) return status;
            p += length;
            break;
        case CONTROL: return scan_fail(s, FK_E_SYNTAX, p, "control character in a string");
        default:
            length = utf8_length(p, end);
            if (!length) return scan_fail(s, FK_E_UTF8, p, "not UTF-8");
            if ((p[0] == 0xc2 && p[1] == 0x85) || (p[0] == 0xe2 && p[1] == 0x80 && (p[2] & 0xfe) == 0xa8))
                flags |= TEXT_SPECIAL;
            p += length;
        }
    }
}

static const uint8_t *digits_end(const uint8_t *p, const uint8_t *end) {
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p;
}

int scan_number(scanner *s, text *out) {
    const uint8_t *p = s->at, *run;
    if (*p == '-') p++;
    run = p;
    p = digits_end(p, s->end);
    if (p == run) return p == s->end ? truncated(s) : scan_fail(s, FK_E_SYNTAX, p, "a digit was expected");
    if (*run == '0' && p - run > 1) return scan_fail(s, FK_E_SYNTAX, run, "a number must not start with 0");
    if (p < s->end && *p == '.') {
        run = ++p;
        p = digits_end(p, s->end);
        if (p == run) return p == s->end ? truncated(s) : scan_fail(s, FK_E_SYNTAX, p, "a digit was expected");
    }
    if (p < s->end && (*p | 32) == 'e') {
        p++;
        if (p < s->end && (*p == '+' || *p == '-')) p++;
        run = p;
        p = digits_end(p, s->end);
        if (p == run) return p == s->end ? truncated(s) : scan_fail(s, FK_E_SYNTAX, p, "a digit was expected");
    }
    out->at = s->at;
    out->length = (size_t)(p - s->at);
    out->flags = 0;
    s->at = p;
    return FK_OK;
}

int scan_literal(scanner *s, const char *word) {
    for (const uint8_t *p = s->at; *word; word++, p++) {
        if (p == s->end) return truncated(s);
        if (*p != (uint8_t)*word) return scan_fail(s, FK_E_SYNTAX, s->at, "a value was expected");
        s->at = p + 1;
    }
    return FK_OK;
}

int scan_at_nan(const scanner *s) {
    const uint8_t *p = s->at;
    size_t left = (size_t)(s->end - p);
    if (left && *p == '-') p++, left--;
    return (left >= 3 && memcmp(p, "NaN", 3) == 0) || (left >= 8 && memcmp(p, "Infinity", 8) == 0);
}

static int scan_container(scanner *s, int depth, uint8_t closing) { /* at the opening bracket */
    if (depth >= FK_MAX_DEPTH) return scan_fail(s, FK_E_DEPTH, s->at, "nested too deep");
    s->at++;
    for (;;) {
        int status = scan_blanks(s);
        if (status != FK_OK) return status;
        if (s->at == s->end) return truncated(s);
        if (*s->at == closing) {
            s->at++;
            return FK_OK;
        }
        if (closing == '}') {
            text name;
            if (*s->at != '"') return scan_fail(s, FK_E_SYNTAX, s->at, "a member name was expected");
            status = scan_string(s, &name);
            if (status == FK_OK) status = scan_blanks(s);
            if (status != FK_OK) return status;
            if (s->at == s->end) return truncated(s);
            if (*s->at != ':') return scan_fail(s, FK_E_SYNTAX, s->at, "':' was expected");
            s->at++;
            status = scan_blanks(s);
            if (status != FK_OK) return status;
        }
        status = scan_value(s, depth + 1);
        if (status == FK_OK) status = scan_blanks(s);
        if (status != FK_OK) return status;
        if (s->at == s->end) return truncated(s);
        if (*s->at == ',')
            s->at++;
        else if (*s->at != closing)
            return scan_fail(s, FK_E_SYNTAX, s->at, "',' or the closing bracket was expected");
    }
}

int scan_value(scanner *s, int depth) {
    text ignored;
    if (s->at == s->end) return truncated(s);
    switch (*s->at) {
    case '{': return scan_container(s, depth, '}');
    case '[': return scan_container(s, depth, ']');
    case '"': return scan_string(s, &ignored);
    case 'n': return scan_literal(s, "null");
    case 't': return scan_literal(s, "true");
    case 'f': return scan_literal(s, "false");
    default: break;
    }
    if (scan_at_nan(s)) return scan_fail(s, FK_E_NOT_A_NUMBER, s->at, "NaN and Infinity are no JSON");
    if (*s->at == '-' || (*s->at >= '0' && *s->at <= '9')) return scan_number(s, &ignored);
    return scan_fail(s, FK_E_SYNTAX, s->at, "a value was expected");
}

/* ---- decoding, after validation ------------------------------------------------------------------ */

/* Reads one character of a text that holds escapes; raw bytes come one by one. */
static uint32_t next_unit(const uint8_t **at, int *escaped) {
    const uint8_t *p = *at;
    *escaped = *p == '\\';
    if (!*escaped) {
        *at = p + 1;
        return *p;
    }
    *at = p + 2;
    switch (p[1]) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': break;
    default: return p[1];
    }
    uint32_t unit = (uint32_t)hex4(p + 2, p + 6);
    *at = p + 6;
    if (unit < 0xd800 || unit > 0xdfff) return unit;
    *at = p + 12;
    return 0x10000 + ((unit - 0xd800) << 10) + ((uint32_t)hex4(p + 8, p + 12) - 0xdc00);
}

static void put_utf8(writer *w, uint32_t c) {
    char b[4];
    if (c < 0x80) {
        put_char(w, (char)c);
    } else if (c < 0x800) {
        b[0] = (char)(0xc0 | c >> 6), b[1] = (char)(0x80 | (c & 63));
        put(w, b, 2);
    } else if (c < 0x10000) {
        b[0] = (char)(0xe0 | c >> 12), b[1] = (char)(0x80 | (c >> 6 & 63)), b[2] = (char)(0x80 | (c & 63));
        put(w, b, 3);
    } else {
        b[0] = (char)(0xf0 | c >> 18), b[1] = (char)(0x80 | (c >> 12 & 63));
        b[2] = (char)(0x80 | (c >> 6 & 63)), b[3] = (char)(0x80 | (c & 63));
        put(w, b, 4);
    }
}

void text_unescape(const text *t, writer *w) {
    if (!(t->flags & TEXT_ESCAPED)) {
        put(w, t->at, t->length);
        return;
    }
    const uint8_t *p = t->at, *end = t->at + t->length;
    while (p < end) {
        int escaped;
        uint32_t c = next_unit(&p, &escaped);
        if (escaped)
            put_utf8(w, c);
        else
            put_char(w, (char)c);
    }
}

static void put_escaped(writer *w, uint32_t c) {
    static const char HEX[] = "0123456789abcdef";
    switch (c) {
    case '"': PUT_LITERAL(w, "\\\""); return;
    case '\\': PUT_LITERAL(w, "\\\\"); return;
    case '\b': PUT_LITERAL(w, "\\b"); return;
    case '\f': PUT_LITERAL(w, "\\f"); return;
    case '\n': PUT_LITERAL(w, "\\n"); return;
    case '\r': PUT_LITERAL(w, "\\r"); return;
    case '\t': PUT_LITERAL(w, "\\t"); return;
    case 0x85: PUT_LITERAL(w, "\\u0085"); return;
    case 0x2028: PUT_LITERAL(w, "\\u2028"); return;
    case 0x2029: PUT_LITERAL(w, "\\u2029"); return;
    default: break;
    }
    if (c >= 0x20) {
        put_utf8(w, c);
        return;
    }
    PUT_LITERAL(w, "\\u00");
    put_char(w, HEX[c >> 4]);
    put_char(w, HEX[c & 15]);
}

void text_write_json(const text *t, writer *w) {
    put_char(w, '"');
    if (!t->flags) {
        put(w, t->at, t->length);
    } else {
        const uint8_t *p = t->at, *end = t->at + t->length;
        while (p < end) {
            if (p[0] == 0xc2 && p[1] == 0x85) {
                put_escaped(w, 0x85);
                p += 2;
            } else if (p[0] == 0xe2 && p[1] == 0x80 && (p[2] & 0xfe) == 0xa8) {
                put_escaped(w, 0x2000u | (uint32_t)(p[2] & 0x3f));
                p += 3;
            } else {
                int escaped;
                uint32_t c = next_unit(&p, &escaped);
                if (escaped)
                    put_escaped(w, c);
                else
                    put_char(w, (char)c);
            }
        }
    }
    put_char(w, '"');
}

int text_is_plain_name(const text *t, const char *name, size_t length) {
    if (t->length != length) return 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t a = t->at[i], b = (uint8_t)name[i];
        if (a == b) continue;
        if ((a ^ b) != 32 || (a | 32) < 'a' || (a | 32) > 'z') return 0;
    }
    return 1;
}
