/* decimal.h - exact decimals with the range of System.Decimal: sign, 96-bit integer, scale 0..28. */
#ifndef FISKAL_DECIMAL_H
#define FISKAL_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

typedef struct fk_decimal {
    uint64_t low; /* value = (high * 2^64 + low) / 10^scale */
    uint32_t high;
    uint8_t scale;    /* 0..28 */
    uint8_t negative; /* 0 or 1; 0 for zero */
} fk_decimal;

/*
 * Reads [+-]digits[.digits][e[+-]digits]. More digits than 96 bits or 28 decimals hold are rounded once, half
 * to even. FK_E_OVERFLOW if the whole part does not fit, FK_E_TYPE if the text is no number.
 */
int fk_decimal_parse(const char *text, size_t length, fk_decimal *out);

/* cffi:end */

#endif
