/* cases.h - German cases and flags: what the numbers of a request mean. */
#ifndef FISKAL_CASES_H
#define FISKAL_CASES_H

#include "decimal.h"

/* cffi:begin */

/* ftReceiptCase & 0xFFFF, called as in fiskal/germany/codes.py */
typedef enum fk_case {
    FK_CASE_UNKNOWN = 0x00,
    FK_CASE_POS_RECEIPT = 0x01,
    FK_CASE_ZERO = 0x02,
    FK_CASE_INITIAL_OPERATION = 0x03,
    FK_CASE_OUT_OF_OPERATION = 0x04,
    FK_CASE_MONTHLY_CLOSING = 0x05,
    FK_CASE_YEARLY_CLOSING = 0x06,
    FK_CASE_DAILY_CLOSING = 0x07,
    FK_CASE_START_TRANSACTION = 0x08,
    FK_CASE_UPDATE_TRANSACTION = 0x09,
    FK_CASE_DELTA_TRANSACTION = 0x0a,
    FK_CASE_FAIL_TRANSACTION = 0x0b,
    FK_CASE_B2B_INVOICE = 0x0c,
    FK_CASE_B2C_INVOICE = 0x0d,
    FK_CASE_INFO_INVOICE = 0x0e,
    FK_CASE_INFO_DELIVERY_NOTE = 0x0f,
    FK_CASE_INFO_ORDER = 0x10,
    FK_CASE_CASH_DEPOSIT = 0x11,
    FK_CASE_MATERIAL_CONSUMPTION = 0x12,
    FK_CASE_INFO_INTERNAL = 0x13,
    FK_CASE_PROTOCOL = 0x14,
    FK_CASE_FOREIGN_SALES = 0x15,
    FK_CASE_VOID_RECEIPT = 0x16,
    FK_CASE_INITIATE_SCU_SWITCH = 0x17,
    FK_CASE_FINISH_SCU_SWITCH = 0x18,
    FK_CASE_MIGRATION = 0x19
} fk_case;

#define FK_CASE_COUNT 26 /* numbers from here on are not defined */
#define FK_PAY_CASE_COUNT 24

typedef enum fk_process_type {
    FK_PROCESS_NONE = 0,    /* empty */
    FK_PROCESS_RECEIPT = 1, /* Kassenbeleg-V1 */
    FK_PROCESS_ORDER = 2,   /* Bestellung-V1 */
    FK_PROCESS_OTHER = 3    /* SonstigerVorgang */
} fk_process_type;

/* what a receipt does: a special function, or one of the three process types */
typedef enum fk_kind {
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

/* DSFinV-K Anhang B */
typedef enum fk_bon_typ {
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

/* Flags of ftReceiptCase, called as in fiskal/germany/codes.py. */
#define FK_FLAG_FAILED_RECEIPT 0x10000
#define FK_FLAG_TRAINING 0x20000
#define FK_FLAG_VOID 0x40000
#define FK_FLAG_HANDWRITTEN 0x80000
#define FK_FLAG_SMALL_BUSINESS 0x100000
#define FK_FLAG_RECEIVER_IS_COMPANY 0x200000
#define FK_FLAG_USTG_CHARACTERISTICS 0x400000
#define FK_FLAG_TSE_INFO 0x800000
#define FK_FLAG_SELF_TEST 0x1000000   /* on a zero receipt */
#define FK_FLAG_CLIENT_ONLY 0x1000000 /* on a start, stop or switch receipt */
#define FK_FLAG_TAR_EXPORT 0x2000000
#define FK_FLAG_BYPASS_TAR_EXPORT 0x4000000
#define FK_FLAG_MASTER_DATA_UPDATE 0x8000000
#define FK_FLAG_FAIL_ON_OPEN_TRANSACTIONS 0x10000000
#define FK_FLAG_REMOVE_TRANSACTIONS_NOT_ON_TSE 0x20000000
#define FK_FLAG_FORCE_SCU_SWITCH 0x40000000
#define FK_FLAG_IMPLICIT_FLOW 0x100000000
#define FK_FLAG_CLOSE_ALL_TSE_TRANSACTIONS 0x200000000
#define FK_FLAG_RECEIPT_REQUEST 0x800000000000

/* Flags of item cases. */
#define FK_ITEM_TAKE_AWAY 0x10000              /* charge items */
#define FK_ITEM_POSITION_CANCELLATION 0x200000 /* both: only Amount counts, the sign of Quantity does not */

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

/* DSFinV-K Anhang C */
typedef enum fk_gv_typ {
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

/* DSFinV-K Anhang D */
typedef enum fk_zahlart {
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

/* cffi:end */

#endif
