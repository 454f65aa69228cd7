/* tarread.c - the headers of TAR archives (POSIX.1-1988 ustar, POSIX.1-2001 pax, GNU), read in one pass. */
#include "internal.h"

enum { BLOCK = 512, NAME = 100, SIZE = 124, MTIME = 136, CHECKSUM = 148, TYPE = 156, MAGIC = 257, PREFIX = 345 };

static int is_zero(const uint8_t *block) {
    for (int i = 0; i < BLOCK; i++) {
        if (block[i] != 0) {
            return 0;
        }
    }
    return 1;
}

/* A number of a header: octal between blanks, or binary as GNU tar writes large ones. */
static int read_number(const uint8_t *at, size_t width, uint64_t *out) {
    const uint8_t *end = at + width;
    *out = 0;
    if (*at == 0x80) {
        for (at++; at < end; at++) {
            if (*out >> 55 != 0) {
                return FK_E_TAR_NUMBER;
            }
            *out = (*out << 8) | *at;
        }
        return FK_OK;
    }
    while (at < end && (*at == ' ' || *at == 0)) {
        at++;
    }
    for (; at < end && *at >= '0' && *at <= '7'; at++) {
        *out = (*out << 3) | (uint64_t)(*at - '0');
    }
    for (; at < end; at++) {
        if (*at != ' ' && *at != 0) {
            return FK_E_TAR_NUMBER;
        }
    }
    return FK_OK;
}

static int check_header(const uint8_t *block) {
    uint64_t stored;
    uint32_t sum = 8 * ' ';
    for (int i = 0; i < BLOCK; i++) {
        sum += block[i];
    }
    for (int i = CHECKSUM; i < CHECKSUM + 8; i++) {
        sum -= block[i];
    }
    return read_number(block + CHECKSUM, 8, &stored) == FK_OK && stored == sum ? FK_OK : FK_E_TAR_CHECKSUM;
}

/* The text from `offset` up to its first zero byte, at most `width` bytes. */
static fk_span text_at(const uint8_t *data, size_t offset, size_t width) {
    const uint8_t *end = memchr(data + offset, 0, width);
    fk_span span = {(uint32_t)offset, (uint32_t)(end == NULL ? width : (size_t)(end - (data + offset)))};
    return span;
}

/* what a pax or GNU header says about the file behind it */
typedef struct overrides {
    fk_span name;
    uint64_t size;
    int has_name;
    int has_size;
} overrides;

/* Records "<length> <key>=<value>\n", where the length counts the whole record. */
static int read_pax(const uint8_t *data, size_t at, size_t end, overrides *out) {
    while (at < end && data[at] != 0) {
        const size_t start = at;
        size_t length = 0;
        size_t key;
        size_t value;
        for (; at < end && data[at] >= '0' && data[at] <= '9' && length <= FK_MAX_TAR_NAME; at++) {
            length = length * 10 + (size_t)(data[at] - '0');
        }
        if (at == start || at == end || data[at] != ' ' || length > end - start) {
            return FK_E_TAR_HEADER;
        }
        key = at + 1;
        for (value = key; value < start + length && data[value] != '='; value++) {
        }
        if (value == key || value + 1 >= start + length) {
            return FK_E_TAR_HEADER;
        }
        if (value - key == 4 && memcmp(data + key, "path", 4) == 0) {
            out->name = text_at(data, value + 1, start + length - value - 2);
            out->has_name = 1;
        } else if (value - key == 4 && memcmp(data + key, "size", 4) == 0) {
            size_t digits = value + 1;
            out->size = 0;
            for (; digits < start + length - 1; digits++) {
                if (data[digits] < '0' || data[digits] > '9' || digits - value > 18) {
                    return FK_E_TAR_NUMBER;
                }
                out->size = out->size * 10 + (uint64_t)(data[digits] - '0');
            }
            if (digits == value + 1) {
                return FK_E_TAR_NUMBER;
            }
            out->has_size = 1;
        }
        at = start + length;
    }
    return FK_OK;
}

/* Headers that stand in front of the file they say something about: pax, GNU long name, GNU long link. */
static int stands_in_front(uint8_t type) {
    return type == 'x' || type == 'g' || type == 'X' || type == 'L' || type == 'K';
}

static int ends_with_log(const uint8_t *name, uint32_t length) {
    return length >= 4 && name[length - 4] == '.' && (name[length - 3] | 0x20) == 'l' &&
           (name[length - 2] | 0x20) == 'o' && (name[length - 1] | 0x20) == 'g';
}

static fk_tar_entry read_entry(const uint8_t *data, size_t at, uint64_t size, const overrides *said) {
    const uint8_t *block = data + at;
    fk_tar_entry entry;
    memset(&entry, 0, sizeof entry);
    entry.size = size;
    if (read_number(block + MTIME, 12, &entry.mtime) != FK_OK || entry.mtime >= UINT64_C(1) << 33) {
        entry.mtime = 0; /* it proves nothing, so a strange one is no reason to stop */
    }
    entry.data = (uint32_t)(at + BLOCK);
    entry.type = block[TYPE];
    if (entry.type == 0 || entry.type == '7') {
        entry.type = '0';
    }
    entry.name = said->has_name ? said->name : text_at(data, at, NAME);
    if (!said->has_name && memcmp(block + MAGIC, "ustar", 6) == 0 && block[PREFIX] != 0) {
        entry.prefix = text_at(data, at + PREFIX, 155);
    }
    if (entry.type == '0' && entry.name.length > 0 && data[entry.name.offset + entry.name.length - 1] == '/') {
        entry.type = '5'; /* how archives before ustar spell a folder */
    }
    entry.is_log = entry.type == '0' && ends_with_log(data + entry.name.offset, entry.name.length);
    return entry;
}

int fk_tar_scan_entries(const uint8_t *data, size_t length, uint32_t large, fk_tar_entry *entries, size_t capacity,
                        fk_tar_scan *scan) {
    overrides said;
    size_t at = 0;
    memset(scan, 0, sizeof *scan);
    memset(&said, 0, sizeof said);
    if (length > INT32_MAX) {
        return FK_E_ARGUMENT;
    }
    while (scan->count < capacity && length - at >= BLOCK) {
        uint64_t size;
        uint64_t padded;
        uint8_t type;
        if (is_zero(data + at)) {
            scan->at_end = 1;
            break;
        }
        if (check_header(data + at) != FK_OK) {
            return FK_E_TAR_CHECKSUM;
        }
        if (read_number(data + at + SIZE, 12, &size) != FK_OK) {
            return FK_E_TAR_NUMBER;
        }
        type = data[at + TYPE];
        if (stands_in_front(type)) {
            if (size > FK_MAX_TAR_NAME) {
                return FK_E_TAR_HEADER;
            }
        } else if (said.has_size) {
            size = said.size;
        }
        padded = size + (BLOCK - size % BLOCK) % BLOCK;
        if (!stands_in_front(type) && size > large) {
            entries[scan->count] = read_entry(data, at, size, &said);
            scan->others += !entries[scan->count].is_log;
            scan->count++;
            scan->consumed = at + BLOCK;
            scan->skip = padded;
            break;
        }
        if (padded > length - at - BLOCK) {
            break;
        }
        if (type == 'L') {
            said.name = text_at(data, at + BLOCK, (size_t)size);
            said.has_name = 1;
        } else if (type == 'x') {
            const int status = read_pax(data, at + BLOCK, at + BLOCK + (size_t)size, &said);
            if (status != FK_OK) {
                return status;
            }
        } else if (!stands_in_front(type)) {
            entries[scan->count] = read_entry(data, at, size, &said);
            entries[scan->count].is_whole = 1;
            scan->others += !entries[scan->count].is_log;
            scan->count++;
            memset(&said, 0, sizeof said);
        }
        at += BLOCK + (size_t)padded;
        if (!stands_in_front(type)) {
            scan->consumed = at;
        }
    }
    return FK_OK;
}
