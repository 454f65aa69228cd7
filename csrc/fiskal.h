/*
 * fiskal.h - the public surface of the C core, and what cffi is given.
 *
 * Rules that hold for every function:
 *  - no I/O, no allocation, no state but a note of what the CPU can: results go to buffers of the caller;
 *  - pointers are never NULL unless a comment says so, lengths are in bytes;
 *  - the result is an fk_status; on anything but FK_OK the outputs are unspecified;
 *  - every function is re-entrant and may be called from many threads at once.
 */
#ifndef FISKAL_H
#define FISKAL_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

/* ---- status ------------------------------------------------------------------------------- */

typedef enum fk_status {
    FK_OK = 0,
    FK_E_SPACE = 1,    /* the caller's buffer is too small; nothing usable was written */
    FK_E_ARGUMENT = 2, /* an argument is outside its documented range */
    FK_E_OVERFLOW = 3  /* a number does not fit */
} fk_status;

/* ---- SHA-256 (FIPS 180-4) and the receipt chain ------------------------------------------- */

/* out: 32 bytes. Uses the SHA instructions of the CPU where it has them. */
int fk_sha256(const uint8_t *data, size_t length, uint8_t *out);

/* 1 if fk_sha256 runs on SHA instructions of this CPU, 0 if it runs on portable code. */
int fk_sha256_accelerated(void);

/*
 * Chain hash of one receipt: SHA-256(previous || journal_id || moment || number || request_hash ||
 * response_hash). previous: 32 bytes, or NULL for the first receipt. journal_id: 16 bytes in .NET order
 * (uuid.bytes_le). moment (ticks) and number are hashed as little-endian int64 on every host.
 * request_hash, response_hash, out: 32 bytes each.
 */
int fk_chain_hash(const uint8_t *previous, const uint8_t *journal_id, int64_t moment_ticks, int64_t number,
                  const uint8_t *request_hash, const uint8_t *response_hash, uint8_t *out);

/* cffi:end */

#endif
