/* logread.h - reading log messages of TR-03151 and other DER. */
#ifndef FISKAL_LOGREAD_H
#define FISKAL_LOGREAD_H

#include "common.h"

/* cffi:begin */

#define FK_MAX_DER_DEPTH 8

/* One element (TLV). end: where the next one begins; the element itself lies between `at` and `end`. */
typedef struct fk_element {
    fk_span content; /* without header, and without the terminator of an indefinite length */
    uint32_t end;
    uint8_t tag;
    uint8_t indefinite;
    uint8_t non_der; /* its length is not the shortest, or is indefinite */
    uint8_t padding;
} fk_element;

/*
 * Reads the element at `at`, which is below length; length is below 2^31. Tags of several bytes are refused,
 * and so is an indefinite length of a primitive element. FK_E_LOG_TRUNCATED, _UNEXPECTED, _DEPTH.
 */
int fk_der_read(const uint8_t *data, size_t length, size_t at, fk_element *out);

/* What is unusual about a message: bits of fk_log_message.findings. */
typedef enum fk_log_finding {
    FK_LOG_NON_DER = 1,           /* a length or an integer is not encoded minimally, or a length is indefinite */
    FK_LOG_DEFINITE_CHUNKS = 2,   /* chunked process data has a definite length */
    FK_LOG_NOT_PRINTABLE = 4,     /* a text holds characters that are not in PrintableString */
    FK_LOG_DUPLICATE_ELEMENT = 8, /* an element appears twice; the first one counts */
    FK_LOG_UNKNOWN_ELEMENT = 16,
    FK_LOG_UNKNOWN_TYPE = 32,
    FK_LOG_UNKNOWN_VERSION = 64, /* neither 2 nor 3 */
    FK_LOG_ALGORITHM_PARAMETERS = 128,
    FK_LOG_MISSING_ELEMENT = 256, /* an element that the guideline demands */
    FK_LOG_LARGE_NUMBER = 512     /* a number does not fit in 64 bits and was cut to 2^64 - 1 */
} fk_log_finding;

/* A log message of TR-03151 (version 2 or 3), read but not copied: spans point into its bytes. */
typedef struct fk_log_message {
    uint64_t counter;
    uint64_t transaction_number;
    int64_t time_ticks; /* logTime in 100 ns since 0001-01-01 UTC */
    fk_span tbs;        /* what is signed */
    fk_span type_oid;
    fk_span elements; /* the type specific elements, one behind the other */
    fk_span operation;
    fk_span client_id;
    fk_span process_data; /* its chunks, headers included, if chunks > 1 */
    fk_span process_type;
    fk_span serial;
    fk_span algorithm; /* the content of its OID */
    fk_span audit_data;
    fk_span time;
    fk_span signature;
    uint32_t present;  /* bit n: the type specific element with context tag n is there */
    uint32_t chunks;   /* of the process data */
    uint32_t findings; /* fk_log_finding */
    uint32_t version;
    uint8_t type;     /* 1 transaction, 2 system, 3 audit, 0 unknown */
    uint8_t time_tag; /* 02 Unix time, 17 UTCTime, 18 GeneralizedTime */
    uint8_t has_audit_data;
    uint8_t chunked; /* the process data is constructed (A2) */
    uint32_t fault;  /* on an error: the offset that it is about */
} fk_log_message;

/*
 * Reads one log message, tolerantly: what deviates from DER or from the guideline but can be read is a
 * finding. length is below 2^31. FK_E_LOG_*; then only out->fault is specified.
 */
int fk_log_read(const uint8_t *data, size_t length, fk_log_message *out);

/*
 * The content of a time (tag 02, 17 or 18) in ticks, as it also stands inside system logs. FK_E_LOG_TIME.
 */
int fk_log_read_time(uint8_t tag, const uint8_t *data, size_t length, int64_t *ticks);

/*
 * Joins chunks (OCTET STRINGs one behind the other) into out, which has room for `length` bytes; their lengths
 * go to lengths, which has room for length / 2.
 */
int fk_log_join(const uint8_t *data, size_t length, uint8_t *out, uint32_t *lengths);

/* cffi:end */

#endif
