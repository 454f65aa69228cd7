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
    FK_E_OVERFLOW = 3, /* a number does not fit */

    /* what is wrong with the JSON of a request; fk_error says where */
    FK_E_SYNTAX = 10,
    FK_E_TRUNCATED = 11,      /* the text ends inside a value */
    FK_E_UTF8 = 12,           /* bytes that are not UTF-8, or half a surrogate pair */
    FK_E_DUPLICATE = 13,      /* the same member twice in one object, letter case ignored */
    FK_E_TYPE = 14,           /* a value of the wrong type */
    FK_E_RANGE = 15,          /* an integer that is none or does not fit in 64 bits */
    FK_E_NOT_A_NUMBER = 16,   /* NaN or Infinity */
    FK_E_DEPTH = 17,          /* nested deeper than FK_MAX_DEPTH */
    FK_E_ITEMS = 18,          /* more items than the caller allows */
    FK_E_NULL = 19,           /* null where a value must be */
    FK_E_MOMENT = 20,         /* not a point in time of the years 1 to 9999 */
    FK_E_MOMENT_MISSING = 21, /* no cbReceiptMoment, or year 1, which is how .NET spells "not set" */

    /* items from which no processData can be built */
    FK_E_QUANTITY_ZERO = 40,    /* order line with quantity 0 and an amount */
    FK_E_CURRENCY_MISSING = 41, /* foreign cash without ftPayItemCaseData */
    FK_E_CURRENCY_INVALID = 42, /* ftPayItemCaseData without CurrencyCode and ForeignCurrencyAmount */
    FK_E_CURRENCIES = 43,       /* more than FK_MAX_PAYMENT_KEYS kinds of payment */

    /* items that strict mode refuses */
    FK_E_STRICT_DECIMALS = 50,     /* a sum has more than two decimals */
    FK_E_STRICT_CURRENCY = 51,     /* CurrencyCode is not three capital letters */
    FK_E_STRICT_VOID = 52,         /* receipt case 0x0016 must not be used with a TSE */
    FK_E_STRICT_RECEIPT_CASE = 53, /* undefined receipt case */
    FK_E_STRICT_CHARGE_CASE = 54,  /* undefined charge item case */
    FK_E_STRICT_PAY_CASE = 55,     /* undefined pay item case */

    /* bytes that cannot be read as a log message or another DER element */
    FK_E_LOG_TRUNCATED = 60,  /* they end within an element */
    FK_E_LOG_TRAILING = 61,   /* bytes follow the message */
    FK_E_LOG_UNEXPECTED = 62, /* another element than the one that must be here */
    FK_E_LOG_COUNTER = 63,    /* there is no signatureCounter */
    FK_E_LOG_TIME = 64,       /* logTime is no time of the years 1 to 9999 */
    FK_E_LOG_DEPTH = 65,      /* elements of indefinite length nested deeper than FK_MAX_DER_DEPTH */

    /* bytes that cannot be read as a TAR archive */
    FK_E_TAR_CHECKSUM = 70, /* the checksum of a header is wrong */
    FK_E_TAR_NUMBER = 71,   /* a number of a header is none */
    FK_E_TAR_HEADER = 72    /* a header in front of a file (pax, GNU) cannot be read or is too long */
} fk_status;

#define FK_MAX_DEPTH 32        /* nesting of values that are skipped */
#define FK_MAX_PAYMENT_KEYS 64 /* different kinds of payment (Bar, Unbar, each with currency) in one receipt */
#define FK_MAX_CURRENCY_CODE 31 /* bytes of a CurrencyCode */

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

/* ---- exact decimals (System.Decimal: sign, 96-bit integer, scale 0..28) -------------------- */

typedef struct fk_decimal {
    uint64_t low;     /* value = (high * 2^64 + low) / 10^scale */
    uint32_t high;
    uint8_t scale;    /* 0..28 */
    uint8_t negative; /* 0 or 1; 0 for zero */
} fk_decimal;

typedef enum fk_decimal_form {
    FK_FORM_CANONICAL = 0, /* plain notation, scale kept, ".0" appended to whole numbers: 3.50, 1.0 */
    FK_FORM_AMOUNT = 1,    /* two decimals, half away from zero, never -0.00 */
    FK_FORM_QUANTITY = 2   /* up to ten decimals, half away from zero, no trailing zeros: 0.451, 2 */
} fk_decimal_form;

#define FK_DECIMAL_TEXT 72 /* room for every text the functions below write */

/*
 * Reads [+-]digits[.digits][e[+-]digits]. More digits than 96 bits or 28 decimals hold are rounded once, half
 * to even. FK_E_OVERFLOW if the whole part does not fit, FK_E_TYPE if the text is no number.
 */
int fk_decimal_parse(const char *text, size_t length, fk_decimal *out);

/* out = left + right, exactly; FK_E_OVERFLOW if the sum is not a decimal. */
int fk_decimal_add(const fk_decimal *left, const fk_decimal *right, fk_decimal *out);

/* -1, 0 or 1; the scale does not matter. */
int fk_decimal_compare(const fk_decimal *left, const fk_decimal *right);

/* Rounds half away from zero to at most `places` decimals (0..28). */
int fk_decimal_round(const fk_decimal *value, int places, fk_decimal *out);

/* These two return the length of the text; out: FK_DECIMAL_TEXT bytes, not terminated. */
int fk_decimal_format(const fk_decimal *value, fk_decimal_form form, char *out);
/* |amount / quantity| in form AMOUNT, "0.00" if quantity is 0. */
int fk_unit_price(const fk_decimal *amount, const fk_decimal *quantity, char *out);

/* ---- points in time (ticks: 100 ns since 0001-01-01T00:00:00 UTC) -------------------------- */

#define FK_MOMENT_TEXT 28 /* room for every text the functions below write */

/*
 * Reads ISO 8601 (offset converted to UTC, no suffix means UTC, up to 16 fraction digits of which 7 count) and
 * /Date(milliseconds[+-hhmm])/ (the offset is informational). FK_E_MOMENT if it is neither.
 */
int fk_moment_parse(const char *text, size_t length, int64_t *ticks);

/*
 * Both return the length of the text, 0 if ticks lie outside the years 1 to 9999.
 * iso: 2020-05-22T10:47:40.96Z, as many fraction digits as needed (0..7).
 * milliseconds: 2020-05-22T10:47:40.960Z, always three, cut off.
 */
int fk_moment_iso(int64_t ticks, char *out);
int fk_moment_milliseconds(int64_t ticks, char *out);

/* ---- German cases and flags ---------------------------------------------------------------- */

typedef enum fk_process_type {
    FK_PROCESS_NONE = 0, /* empty */
    FK_PROCESS_RECEIPT = 1, /* Kassenbeleg-V1 */
    FK_PROCESS_ORDER = 2,   /* Bestellung-V1 */
    FK_PROCESS_OTHER = 3    /* SonstigerVorgang */
} fk_process_type;

typedef enum fk_kind { /* what a receipt does: a special function, or one of the three process types */
    FK_KIND_RECEIPT = 0,
    FK_KIND_ORDER = 1,
    FK_KIND_OTHER = 2,
    FK_KIND_ZERO = 3,
    FK_KIND_INITIAL_OPERATION = 4,
    FK_KIND_OUT_OF_OPERATION = 5,
    FK_KIND_MONTHLY_CLOSING = 6,
    FK_KIND_YEARLY_CLOSING = 7,
    FK_KIND_DAILY_CLOSING = 8,
    FK_KIND_START_TRANSACTION = 9,
    FK_KIND_UPDATE_TRANSACTION = 10,
    FK_KIND_DELTA_TRANSACTION = 11,
    FK_KIND_FAIL_TRANSACTION = 12,
    FK_KIND_INITIATE_SCU_SWITCH = 13,
    FK_KIND_FINISH_SCU_SWITCH = 14,
    FK_KIND_MIGRATION = 15
} fk_kind;

typedef enum fk_flow { FK_FLOW_EITHER = 0, FK_FLOW_IMPLICIT = 1, FK_FLOW_EXPLICIT = 2 } fk_flow;

typedef enum fk_bon_typ { /* DSFinV-K Anhang B */
    FK_BON_NONE = 0,
    FK_BON_BELEG = 1,
    FK_BON_AVTRANSFER = 2,
    FK_BON_AVBESTELLUNG = 3,
    FK_BON_AVTRAINING = 4,
    FK_BON_AVBELEGSTORNO = 5,
    FK_BON_AVBELEGABBRUCH = 6,
    FK_BON_AVSACHBEZUG = 7,
    FK_BON_AVSONSTIGE = 8,
    FK_BON_AVRECHNUNG = 9
} fk_bon_typ;

/* Flags of ftReceiptCase. 0x1000000 means self test on a zero receipt, client (de)registration elsewhere. */
#define FK_FLAG_FAILED 0x10000
#define FK_FLAG_TRAINING 0x20000
#define FK_FLAG_VOID 0x40000
#define FK_FLAG_HANDWRITTEN 0x80000
#define FK_FLAG_SMALL_BUSINESS 0x100000
#define FK_FLAG_RECEIVER_IS_COMPANY 0x200000
#define FK_FLAG_CONTAINS_USTG 0x400000
#define FK_FLAG_TSE_INFO 0x800000
#define FK_FLAG_SELF_TEST_OR_CLIENT_ONLY 0x1000000
#define FK_FLAG_TAR_DOWNLOAD 0x2000000
#define FK_FLAG_TAR_BYPASS 0x4000000
#define FK_FLAG_MASTER_DATA_UPDATE 0x8000000
#define FK_FLAG_FAIL_ON_OPEN 0x10000000
#define FK_FLAG_REMOVE_UNKNOWN 0x20000000
#define FK_FLAG_FORCE_SWITCH 0x40000000
#define FK_FLAG_IMPLICIT 0x100000000
#define FK_FLAG_CLOSE_ALL_ON_TSE 0x200000000
#define FK_FLAG_RECEIPT_REQUEST 0x800000000000

/* Flags of item cases. */
#define FK_ITEM_TAKE_AWAY 0x10000       /* charge items */
#define FK_ITEM_CANCELLATION 0x200000   /* both: only Amount counts, the sign of Quantity does not */

typedef struct fk_receipt_case {
    int32_t country;       /* bits 63..48, 0x4445 for Germany */
    int32_t version;       /* bits 47..44 without the receipt-request flag: 0 is v1 tagging, 2 is v2 */
    int32_t number;        /* bits 15..0 */
    int32_t known;         /* 1 if the number is defined */
    int32_t kind;          /* fk_kind */
    int32_t process_type;  /* fk_process_type */
    int32_t bon_typ;       /* fk_bon_typ */
    int32_t flow;          /* fk_flow: which flow the case demands */
    int64_t flags;         /* bits 43..16 and the receipt-request flag */
    int64_t unknown_flags; /* those of them that have no name above */
} fk_receipt_case;

/* The counts decide info-order and info-internal; strict (0 or 1) moves 0x0019 to SonstigerVorgang. */
int fk_case_decode(int64_t receipt_case, size_t charge_count, size_t pay_count, int strict, fk_receipt_case *out);

typedef enum fk_gv_typ { /* DSFinV-K Anhang C */
    FK_GV_UMSATZ = 0,
    FK_GV_PFAND = 1,
    FK_GV_PFAND_RUECKZAHLUNG = 2,
    FK_GV_RABATT = 3,
    FK_GV_AUFSCHLAG = 4,
    FK_GV_ZUSCHUSS_UNECHT = 5,
    FK_GV_ZUSCHUSS_ECHT = 6,
    FK_GV_TRINKGELD_AG = 7,
    FK_GV_TRINKGELD_AN = 8,
    FK_GV_MEHRZWECKGUTSCHEIN_KAUF = 9,
    FK_GV_MEHRZWECKGUTSCHEIN_EINLOESUNG = 10,
    FK_GV_EINZWECKGUTSCHEIN_KAUF = 11,
    FK_GV_EINZWECKGUTSCHEIN_EINLOESUNG = 12,
    FK_GV_FORDERUNGSENTSTEHUNG = 13,
    FK_GV_FORDERUNGSAUFLOESUNG = 14,
    FK_GV_ANZAHLUNGSEINSTELLUNG = 15,
    FK_GV_ANZAHLUNGSAUFLOESUNG = 16,
    FK_GV_ANFANGSBESTAND = 17,
    FK_GV_PRIVATENTNAHME = 18,
    FK_GV_PRIVATEINLAGE = 19,
    FK_GV_GELDTRANSIT = 20,
    FK_GV_LOHNZAHLUNG = 21,
    FK_GV_EINZAHLUNG = 22,
    FK_GV_AUSZAHLUNG = 23,
    FK_GV_DIFFERENZ_SOLL_IST = 24,
    FK_GV_NONE = 25
} fk_gv_typ;

typedef struct fk_charge_case {
    int32_t column;  /* 1..5: place in the tax block; 0x0000 goes by vat_rate */
    int32_t ust_key; /* UST_SCHLUESSEL 1..7; 7 means 7 or an individual key, by VATRate */
    int32_t gv_typ;  /* fk_gv_typ */
    int32_t known;
} fk_charge_case;

int fk_charge_case_decode(int64_t item_case, const fk_decimal *vat_rate, fk_charge_case *out);

typedef enum fk_pay_class {
    FK_PAY_CASH = 0,
    FK_PAY_CASH_FOREIGN = 1,
    FK_PAY_NON_CASH = 2,
    FK_PAY_BUSINESS_CASE = 3, /* no payment: goes to tax column 5 with the opposite sign */
    FK_PAY_INTERNAL = 4       /* 0x000A: the same, with sign rules of its own */
} fk_pay_class;

typedef enum fk_zahlart { /* DSFinV-K Anhang D */
    FK_ZAHLART_BAR = 0,
    FK_ZAHLART_UNBAR = 1,
    FK_ZAHLART_KEINE = 2,
    FK_ZAHLART_ECKARTE = 3,
    FK_ZAHLART_KREDITKARTE = 4,
    FK_ZAHLART_ELZAHLUNGSDIENSTLEISTER = 5,
    FK_ZAHLART_GUTHABENKARTE = 6
} fk_zahlart;

typedef struct fk_pay_case {
    int32_t pay_class;       /* fk_pay_class */
    int32_t zahlart;         /* fk_zahlart */
    int32_t gv_typ_positive; /* fk_gv_typ a business case has with a positive amount, else FK_GV_NONE */
    int32_t gv_typ_negative; /* and with a negative one */
    int32_t known;
} fk_pay_case;

int fk_pay_case_decode(int64_t item_case, fk_pay_case *out);

/* ---- processType and processData (DSFinV-K Anhang I) ---------------------------------------- */

#define FK_OPTION_STRICT 1         /* refuse or repair what DSFinV-K does not allow */
#define FK_OPTION_HISTORIC_RATES 2 /* "unknown VAT" items with 19/16, 7/5, 10.7, 5.5 % go to columns 1 to 4 */

#define FK_WARN_UNBALANCED 1            /* signed charge items and pay items have different sums */
#define FK_WARN_PAYMENT_NOT_ALLOWED 2   /* payments on AVTraining, AVBelegabbruch or AVSachbezug */
#define FK_WARN_UNKNOWN_RECEIPT_CASE 4
#define FK_WARN_UNKNOWN_CHARGE_CASE 8
#define FK_WARN_UNKNOWN_PAY_CASE 16
#define FK_WARN_CURRENCY_CODE 32        /* a CurrencyCode that is not three capital letters, or EUR on foreign cash */

typedef struct fk_item { /* a charge item or a pay item */
    int64_t item_case;
    fk_decimal quantity;
    fk_decimal amount;
    fk_decimal vat_rate;     /* charge items */
    const char *description; /* charge items; UTF-8, may be NULL if the length is 0 */
    size_t description_length;
    const char *case_data; /* pay items; UTF-8, may be NULL if the length is 0 */
    size_t case_data_length;
} fk_item;

typedef struct fk_payload {
    int64_t length;       /* bytes of processData; after FK_E_SPACE the bytes needed */
    int64_t process_type; /* fk_process_type */
    int64_t warnings;     /* FK_WARN_... */
    int64_t item;         /* after an error: index of the item, -1 if none is to blame */
    int64_t item_is_pay;  /* after an error: 1 if it is a pay item */
    int64_t item_case;    /* after an error: its case */
} fk_payload;

/* Items are not changed. out: capacity bytes, not terminated. */
int fk_process_data(int64_t receipt_case, uint32_t options, const fk_item *charges, size_t charge_count,
                    const fk_item *pays, size_t pay_count, char *out, size_t capacity, fk_payload *result);

/* ---- the request, from the bytes of the POS to everything the queue needs -------------------- */

typedef struct fk_error {
    int64_t offset;   /* byte of the request where the trouble is; after FK_E_SPACE the arena bytes to try */
    char path[64];    /* cbChargeItems[3].Amount; terminated, empty if outside of any member */
    char detail[64];  /* terminated */
} fk_error;

typedef struct fk_slice { /* a text in the arena; length -1 is null */
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

/* ---- TR-03151 log messages ------------------------------------------------------------------ */

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
int fk_log_transaction(const fk_log_signer *signer, int operation, const uint8_t *client_id,
                       size_t client_id_length, const uint8_t *process_data, size_t process_data_length,
                       const size_t *chunks, size_t chunk_count, const uint8_t *process_type,
                       size_t process_type_length, const uint8_t *external_data, size_t external_data_length,
                       uint64_t transaction_number, uint64_t counter, int64_t unix_ms, uint8_t *out,
                       size_t capacity, size_t *length, uint8_t *sha256);

/*
 * System log. data: the TLVs inside systemOperationData (version 2) or eventData (version 3). origin and
 * user are written in version 3 only; user: NULL if no user triggered the event.
 */
int fk_log_system(const fk_log_signer *signer, const uint8_t *operation, size_t operation_length,
                  const uint8_t *origin, size_t origin_length, const uint8_t *user, size_t user_length,
                  const uint8_t *data, size_t data_length, uint64_t counter, int64_t unix_ms, uint8_t *out,
                  size_t capacity, size_t *length, uint8_t *sha256);

/* Audit log. data: seAuditData, the vendor's own bytes. */
int fk_log_audit(const fk_log_signer *signer, const uint8_t *data, size_t data_length, uint64_t counter,
                 int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length, uint8_t *sha256);

/* One time as complete TLV in a log message's format. */
int fk_log_time(int format, int64_t unix_ms, uint8_t *out, size_t capacity, size_t *length);

/* The finished message: SEQUENCE { tbs, OCTET STRING signature }. out must not overlap the inputs. */
int fk_log_seal(const uint8_t *tbs, size_t tbs_length, const uint8_t *signature, size_t signature_length,
                uint8_t *out, size_t capacity, size_t *length);

/*
 * An ECDSA signature from DER (SEQUENCE of two INTEGERs) to the plain r || s of TR-03111, size bytes each
 * (1..66). FK_E_OVERFLOW if a number needs more bytes.
 */
int fk_ecdsa_plain(const uint8_t *der, size_t der_length, size_t size, uint8_t *out);

/* ---- reading log messages --------------------------------------------------------------------- */

#define FK_MAX_DER_DEPTH 8

/* Where something lies in the bytes that were read. */
typedef struct fk_span {
    uint32_t offset;
    uint32_t length;
} fk_span;

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
    uint8_t type;      /* 1 transaction, 2 system, 3 audit, 0 unknown */
    uint8_t time_tag;  /* 02 Unix time, 17 UTCTime, 18 GeneralizedTime */
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

/* ---- reading TAR archives ---------------------------------------------------------------------- */

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
int fk_tar_scan_entries(const uint8_t *data, size_t length, uint32_t large, fk_tar_entry *entries,
                        size_t capacity, fk_tar_scan *scan);

/* cffi:end */

#endif
