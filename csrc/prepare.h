/* prepare.h - the request, from the bytes of the POS to everything the queue needs. */
#ifndef FISKAL_PREPARE_H
#define FISKAL_PREPARE_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

#define FK_MAX_DEPTH 32 /* nesting of values that are skipped */

typedef struct fk_error {
    int64_t offset;  /* byte of the request where the trouble is; after FK_E_SPACE the arena bytes to try */
    char path[64];   /* cbChargeItems[3].Amount; terminated, empty if outside of any member */
    char detail[64]; /* terminated */
} fk_error;

/* a text in the arena; length -1 is null */
typedef struct fk_slice {
    int64_t offset;
    int64_t length;
} fk_slice;

typedef struct fk_prepared {
    int64_t receipt_case;
    int64_t receipt_moment_ticks; /* cbReceiptMoment */
    int64_t action_start_ticks;   /* the earliest of cbReceiptMoment and all item Moments */
    int64_t moments_complete;     /* 1 if both arrays have items and all of them a Moment */
    int64_t charge_count;
    int64_t pay_count;
    int64_t kind;           /* fk_kind */
    int64_t process_type;   /* fk_process_type */
    int64_t warnings;       /* FK_WARN_... */
    int64_t payload_status; /* FK_OK, or why there is no processData; everything else is valid all the same */
    int64_t payload_item;   /* as in fk_payload */
    int64_t payload_item_is_pay;
    int64_t payload_item_case;
    fk_slice canonical; /* the text that is stored and hashed */
    fk_slice cash_box_id;
    fk_slice queue_id;
    fk_slice pos_system_id;
    fk_slice terminal_id;
    fk_slice receipt_reference;
    fk_slice receipt_case_data;
    fk_slice previous_receipt_reference;
    fk_slice total;      /* cbReceiptAmount, else the sum of the charge Amounts as they are; form CANONICAL */
    fk_slice charge_sum; /* sums with the sign rule of processData, form CANONICAL */
    fk_slice pay_sum;
    fk_slice process_data;
    fk_slice process_data_base64;
    uint8_t request_hash[32]; /* SHA-256 of the canonical text */
    uint8_t raw_hash[32];     /* SHA-256 of the bytes as received */
    char request_hash_base64[44];
    char padding[4];
} fk_prepared;

/*
 * Reads a ReceiptRequest in the tolerant dialect of the interface: member names in any letter case, unknown
 * members skipped, comments, trailing commas, BOM, numbers as strings and strings as numbers. Duplicate
 * members are refused: ambiguous money is never guessed.
 */
int fk_prepare(const uint8_t *json, size_t length, uint32_t options, uint32_t max_items, uint8_t *arena,
               size_t capacity, fk_prepared *out, fk_error *error);

/* cffi:end */

#endif
