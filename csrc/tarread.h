/* tarread.h - reading TAR archives. */
#ifndef FISKAL_TARREAD_H
#define FISKAL_TARREAD_H

#include "common.h"

/* cffi:begin */

#define FK_MAX_TAR_NAME 65536 /* bytes of a pax or GNU header in front of a file */

/* One file of an archive; spans point into the bytes scanned. prefix: of ustar, empty if there is none. */
typedef struct fk_tar_entry {
    uint64_t size;
    uint64_t mtime; /* Unix time; 0 if it is none that a header can hold */
    fk_span name;
    fk_span prefix;
    uint32_t data;    /* offset of its content */
    uint8_t type;     /* typeflag, '0' for a regular file */
    uint8_t is_log;   /* a regular file whose name ends with .log */
    uint8_t is_whole; /* its content lies in the bytes scanned */
    uint8_t padding;
} fk_tar_entry;

typedef struct fk_tar_scan {
    size_t count;    /* entries found */
    size_t others;   /* of them without is_log */
    size_t consumed; /* bytes up to the end of the last entry; go on reading there */
    uint64_t skip;   /* the bytes of a large file that follow and were not scanned */
    int at_end;      /* a block of zeros was reached; it is not consumed */
} fk_tar_scan;

/*
 * Reads the headers in the first bytes of an archive: ustar, pax (path, size) and GNU, up to `capacity`
 * files. It stops in front of what does not lie wholly in the bytes; a file larger than `large` bytes ends the
 * scan and is not whole. length is below 2^31. On FK_E_TAR_* the members of *scan say what was read before.
 */
int fk_tar_scan_entries(const uint8_t *data, size_t length, uint32_t large, fk_tar_entry *entries, size_t capacity,
                        fk_tar_scan *scan);

/* cffi:end */

#endif
