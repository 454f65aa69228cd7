/* logmsg.h - log messages of TR-03151: the bytes that are signed, and the finished message. */
#ifndef FISKAL_LOGMSG_H
#define FISKAL_LOGMSG_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

typedef enum fk_time_format {
    FK_TIME_UNIX = 0,          /* INTEGER, seconds since 1970, minimal two's complement */
    FK_TIME_UTC = 1,           /* UTCTime YYMMDDhhmmssZ, 1950..2049 */
    FK_TIME_GENERALIZED = 2,   /* GeneralizedTime YYYYMMDDhhmmssZ */
    FK_TIME_GENERALIZED_MS = 3 /* GeneralizedTime YYYYMMDDhhmmss.fffZ */
} fk_time_format;

typedef enum fk_log_operation { FK_LOG_START = 1, FK_LOG_UPDATE = 2, FK_LOG_FINISH = 3 } fk_log_operation;

/* What is the same in every message of one TSE. */
typedef struct fk_log_signer {
    uint8_t serial[32];   /* SHA-256 of the uncompressed point of the key */
    uint8_t algorithm[2]; /* the last two arcs of 0.4.0.127.0.7.1.1.4.x.y, e.g. {1, 3} */
    uint8_t version;      /* 2 (TR-03151 1.0.1) or 3 (TR-03151-1 1.1) */
    uint8_t time_format;  /* fk_time_format */
} fk_log_signer;

/*
 * The bytes a TSE signs. They are written to out (capacity bytes), their number to *length, and, unless
 * sha256 is NULL, their SHA-256 to its 32 bytes. unix_ms: milliseconds since 1970, years 1..9999.
 *
 * Transaction log. chunks: NULL for process data of definite length (tag 82); otherwise chunk_count lengths
 * whose sum is process_data_length, for the indefinite form (A2 80 ... 00 00). process_type and
 * external_data: NULL leaves the element out.
 */
int fk_log_transaction(const fk_log_signer *signer, int operation, const uint8_t *client_id, size_t client_id_length,
                       const uint8_t *process_data, size_t process_data_length, const size_t *chunks,
                       size_t chunk_count, const uint8_t *process_type, size_t process_type_length,
                       const uint8_t *external_data, size_t external_data_length, uint64_t transaction_number,
                       uint64_t counter, int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length,
                       uint8_t *sha256);

/*
 * System log. data: the TLVs inside systemOperationData (version 2) or eventData (version 3). origin and
 * user are written in version 3 only; user: NULL if no user triggered the event.
 */
int fk_log_system(const fk_log_signer *signer, const uint8_t *operation, size_t operation_length, const uint8_t *origin,
                  size_t origin_length, const uint8_t *user, size_t user_length, const uint8_t *data,
                  size_t data_length, uint64_t counter, int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length,
                  uint8_t *sha256);

/* Audit log. data: seAuditData, the vendor's own bytes. */
int fk_log_audit(const fk_log_signer *signer, const uint8_t *data, size_t data_length, uint64_t counter,
                 int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length, uint8_t *sha256);

/* One time as complete TLV in a log message's format. */
int fk_log_time(int format, int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length);

/* The finished message: SEQUENCE { tbs, OCTET STRING signature }. out must not overlap the inputs. */
int fk_log_seal(const uint8_t *tbs, size_t tbs_length, const uint8_t *signature, size_t signature_length, uint8_t *out,
                size_t capacity, size_t *length);

/*
 * An ECDSA signature from DER (SEQUENCE of two INTEGERs) to the plain r || s of TR-03111, size bytes each
 * (1..66). FK_E_OVERFLOW if a number needs more bytes.
 */
int fk_ecdsa_plain(const uint8_t *der, size_t der_length, size_t size, uint8_t *out);

/* cffi:end */

#endif
