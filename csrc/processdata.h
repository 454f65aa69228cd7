/* processdata.h - options and warnings of processType and processData (DSFinV-K Anhang I). */
#ifndef FISKAL_PROCESSDATA_H
#define FISKAL_PROCESSDATA_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

#define FK_MAX_PAYMENT_KEYS 64  /* different kinds of payment (Bar, Unbar, each with currency) in one receipt */
#define FK_MAX_CURRENCY_CODE 31 /* bytes of a CurrencyCode */

#define FK_OPTION_STRICT 1         /* refuse or repair what DSFinV-K does not allow */
#define FK_OPTION_HISTORIC_RATES 2 /* "unknown VAT" items with 19/16, 7/5, 10.7, 5.5 % go to columns 1 to 4 */

#define FK_WARN_UNBALANCED 1          /* signed charge items and pay items have different sums */
#define FK_WARN_PAYMENT_NOT_ALLOWED 2 /* payments on AVTraining, AVBelegabbruch or AVSachbezug */
#define FK_WARN_UNKNOWN_RECEIPT_CASE 4
#define FK_WARN_UNKNOWN_CHARGE_CASE 8
#define FK_WARN_UNKNOWN_PAY_CASE 16
#define FK_WARN_CURRENCY_CODE 32 /* a CurrencyCode that is not three capital letters, or EUR on foreign cash */

/* cffi:end */

#endif
