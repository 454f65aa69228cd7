/* common.h - what all topics share: the status of a call, and a place in bytes. */
#ifndef FISKAL_COMMON_H
#define FISKAL_COMMON_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

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

/* Where something lies in the bytes that were read. */
typedef struct fk_span {
    uint32_t offset;
    uint32_t length;
} fk_span;

/* cffi:end */

#endif
