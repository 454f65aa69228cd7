/* hashes.h - SHA-256 (FIPS 180-4) and the receipt chain. */
#ifndef FISKAL_HASHES_H
#define FISKAL_HASHES_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

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

/*
 * The hashes that close a receipt, in one call: response_hash = SHA-256(response), chain_hash as above, both
 * also as Base64 (44 characters, no terminator).
 */
typedef struct fk_completed {
    uint8_t response_hash[32];
    uint8_t chain_hash[32];
    char response_hash_base64[44];
    char chain_hash_base64[44];
} fk_completed;

int fk_complete(const uint8_t *previous, const uint8_t *journal_id, int64_t moment_ticks, int64_t number,
                const uint8_t *request_hash, const uint8_t *response, size_t response_length, fk_completed *out);

/* cffi:end */

#endif
