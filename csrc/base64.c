/* Base64 with padding (RFC 4648 section 4). */
#include "internal.h"

static const char ALPHABET[64] = {'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P',
                                  'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', 'a', 'b', 'c', 'd', 'e', 'f',
                                  'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v',
                                  'w', 'x', 'y', 'z', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '+', '/'};

void base64_encode(const uint8_t *data, size_t length, char *out) {
    for (; length >= 3; length -= 3, data += 3) {
        uint32_t group = (uint32_t)data[0] << 16 | (uint32_t)data[1] << 8 | data[2];
        *out++ = ALPHABET[group >> 18];
        *out++ = ALPHABET[(group >> 12) & 63];
        *out++ = ALPHABET[(group >> 6) & 63];
        *out++ = ALPHABET[group & 63];
    }
    if (length) {
        uint32_t group = (uint32_t)data[0] << 16 | (length == 2 ? (uint32_t)data[1] << 8 : 0);
        *out++ = ALPHABET[group >> 18];
        *out++ = ALPHABET[(group >> 12) & 63];
        *out++ = length == 2 ? ALPHABET[(group >> 6) & 63] : '=';
        *out = '=';
    }
}
