/* testing.h - parts that the core keeps to itself; the module has them so that tests and benchmarks reach them. */
#ifndef FISKAL_TESTING_H
#define FISKAL_TESTING_H

#include "decimal.h"

/* cffi:begin */

typedef enum fk_decimal_form {
    FK_FORM_CANONICAL = 0, /* plain notation, scale kept, ".0" appended to whole numbers: 3.50, 1.0 */
    FK_FORM_AMOUNT = 1,    /* two decimals, half away from zero, never -0.00 */
    FK_FORM_QUANTITY = 2   /* up to ten decimals, half away from zero, no trailing zeros: 0.451, 2 */
} fk_decimal_form;

#define FK_DECIMAL_TEXT 72 /* room for every text the functions below write */

/* -1, 0 or 1; the scale does not matter. */
int fk_decimal_compare(const fk_decimal *left, const fk_decimal *right);

/* These two return the length of the text; out: FK_DECIMAL_TEXT bytes, not terminated. */
int fk_decimal_format(const fk_decimal *value, fk_decimal_form form, char *out);
/* |amount / quantity| in form AMOUNT, "0.00" if quantity is 0. */
int fk_unit_price(const fk_decimal *amount, const fk_decimal *quantity, char *out);

/* a charge item or a pay item */
typedef struct fk_item {
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

/* cffi:end */

#endif
