/* Cases and flags of the German market: what the numbers mean, as tables. */
#include "internal.h"

#define FLAG_MASK INT64_C(0x8fffffff0000)
#define NAMED_FLAGS                                                                                                    \
    (FK_FLAG_FAILED_RECEIPT | FK_FLAG_TRAINING | FK_FLAG_VOID | FK_FLAG_HANDWRITTEN | FK_FLAG_SMALL_BUSINESS |         \
     FK_FLAG_RECEIVER_IS_COMPANY | FK_FLAG_USTG_CHARACTERISTICS | FK_FLAG_TSE_INFO | FK_FLAG_SELF_TEST |               \
     FK_FLAG_TAR_EXPORT | FK_FLAG_BYPASS_TAR_EXPORT | FK_FLAG_MASTER_DATA_UPDATE | FK_FLAG_FAIL_ON_OPEN_TRANSACTIONS | \
     FK_FLAG_REMOVE_TRANSACTIONS_NOT_ON_TSE | FK_FLAG_FORCE_SCU_SWITCH | FK_FLAG_IMPLICIT_FLOW |                       \
     FK_FLAG_CLOSE_ALL_TSE_TRANSACTIONS | FK_FLAG_RECEIPT_REQUEST)

typedef struct receipt_row {
    uint8_t kind, process_type, bon_typ, flow;
} receipt_row;

static const receipt_row RECEIPTS[] = {
    [FK_CASE_UNKNOWN] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_BELEG, FK_FLOW_EITHER},
    [FK_CASE_POS_RECEIPT] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_BELEG, FK_FLOW_EITHER},
    [FK_CASE_ZERO] = {FK_KIND_ZERO, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_INITIAL_OPERATION] = {FK_KIND_INITIAL_OPERATION, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_OUT_OF_OPERATION] = {FK_KIND_OUT_OF_OPERATION, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_MONTHLY_CLOSING] = {FK_KIND_MONTHLY_CLOSING, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_YEARLY_CLOSING] = {FK_KIND_YEARLY_CLOSING, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_DAILY_CLOSING] = {FK_KIND_DAILY_CLOSING, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_START_TRANSACTION] = {FK_KIND_START_TRANSACTION, FK_PROCESS_NONE, FK_BON_NONE, FK_FLOW_EXPLICIT},
    [FK_CASE_UPDATE_TRANSACTION] = {FK_KIND_UPDATE_TRANSACTION, FK_PROCESS_NONE, FK_BON_NONE, FK_FLOW_EXPLICIT},
    [FK_CASE_DELTA_TRANSACTION] = {FK_KIND_DELTA_TRANSACTION, FK_PROCESS_NONE, FK_BON_NONE, FK_FLOW_EXPLICIT},
    [FK_CASE_FAIL_TRANSACTION] = {FK_KIND_FAIL_TRANSACTION, FK_PROCESS_RECEIPT, FK_BON_AVBELEGABBRUCH, FK_FLOW_EITHER},
    [FK_CASE_B2B_INVOICE] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_BELEG, FK_FLOW_EITHER},
    [FK_CASE_B2C_INVOICE] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_BELEG, FK_FLOW_EITHER},
    [FK_CASE_INFO_INVOICE] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_AVRECHNUNG, FK_FLOW_EITHER},
    [FK_CASE_INFO_DELIVERY_NOTE] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_AVTRANSFER, FK_FLOW_EITHER},
    [FK_CASE_INFO_ORDER] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_AVBESTELLUNG, FK_FLOW_EITHER},
    [FK_CASE_CASH_DEPOSIT] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_BELEG, FK_FLOW_EITHER},
    [FK_CASE_MATERIAL_CONSUMPTION] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_AVSACHBEZUG, FK_FLOW_EITHER},
    [FK_CASE_INFO_INTERNAL] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_AVSONSTIGE, FK_FLOW_EITHER},
    [FK_CASE_PROTOCOL] = {FK_KIND_OTHER, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_EITHER},
    [FK_CASE_FOREIGN_SALES] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_AVSONSTIGE, FK_FLOW_EITHER},
    [FK_CASE_VOID_RECEIPT] = {FK_KIND_RECEIPT, FK_PROCESS_RECEIPT, FK_BON_AVBELEGSTORNO, FK_FLOW_EITHER},
    [FK_CASE_INITIATE_SCU_SWITCH] = {FK_KIND_INITIATE_SCU_SWITCH, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_FINISH_SCU_SWITCH] = {FK_KIND_FINISH_SCU_SWITCH, FK_PROCESS_OTHER, FK_BON_NONE, FK_FLOW_IMPLICIT},
    [FK_CASE_MIGRATION] = {FK_KIND_MIGRATION, FK_PROCESS_RECEIPT, FK_BON_BELEG, FK_FLOW_IMPLICIT}};

_Static_assert(sizeof RECEIPTS / sizeof *RECEIPTS == FK_CASE_COUNT, "a row for every receipt case");

int fk_case_decode(int64_t receipt_case, size_t charge_count, size_t pay_count, int strict, fk_receipt_case *out) {
    uint64_t bits = (uint64_t)receipt_case;
    uint32_t number = (uint32_t)(bits & 0xffff);
    receipt_row row = RECEIPTS[number < FK_CASE_COUNT ? number : 0];

    if (number == FK_CASE_INFO_ORDER && pay_count == 0) {
        row.kind = FK_KIND_ORDER, row.process_type = FK_PROCESS_ORDER, row.bon_typ = FK_BON_NONE;
    } else if (number == FK_CASE_INFO_INTERNAL && (charge_count == 0 || pay_count == 0)) {
        row.kind = FK_KIND_OTHER, row.process_type = FK_PROCESS_OTHER, row.bon_typ = FK_BON_NONE;
    } else if (number == FK_CASE_MIGRATION && strict) {
        row.process_type = FK_PROCESS_OTHER, row.bon_typ = FK_BON_NONE;
    }
    if (row.process_type == FK_PROCESS_RECEIPT && (bits & FK_FLAG_TRAINING)) row.bon_typ = FK_BON_AVTRAINING;

    out->country = (int32_t)(bits >> 48);
    out->version = (int32_t)((bits >> 44) & 7);
    out->number = (int32_t)number;
    out->known = number < FK_CASE_COUNT;
    out->kind = row.kind;
    out->process_type = row.process_type;
    out->bon_typ = row.bon_typ;
    out->flow = row.flow;
    out->flags = receipt_case & FLAG_MASK;
    out->unknown_flags = out->flags & ~NAMED_FLAGS;
    return FK_OK;
}

/* A family of charge item cases: VAT groups normal .. unknown at 7 numbers, or a single case that is not taxable. */
typedef struct charge_family {
    uint8_t first, last, gv_typ;
} charge_family;

static const charge_family FAMILIES[] = {
    {0x01, 0x07, FK_GV_UMSATZ},
    {0x11, 0x17, FK_GV_UMSATZ},
    {0x19, 0x1f, FK_GV_UMSATZ},
    {0x21, 0x27, FK_GV_PFAND},
    {0x29, 0x2f, FK_GV_PFAND_RUECKZAHLUNG},
    {0x31, 0x37, FK_GV_RABATT},
    {0x39, 0x3f, FK_GV_AUFSCHLAG},
    {0x41, 0x47, FK_GV_ZUSCHUSS_UNECHT},
    {0x49, 0x49, FK_GV_ZUSCHUSS_ECHT},
    {0x51, 0x57, FK_GV_TRINKGELD_AG},
    {0x59, 0x59, FK_GV_TRINKGELD_AN},
    {0x60, 0x60, FK_GV_MEHRZWECKGUTSCHEIN_KAUF},
    {0x61, 0x67, FK_GV_EINZWECKGUTSCHEIN_KAUF},
    {0x68, 0x68, FK_GV_MEHRZWECKGUTSCHEIN_EINLOESUNG},
    {0x69, 0x6f, FK_GV_EINZWECKGUTSCHEIN_EINLOESUNG},
    {0x71, 0x77, FK_GV_FORDERUNGSENTSTEHUNG},
    {0x79, 0x7f, FK_GV_FORDERUNGSAUFLOESUNG},
    {0x81, 0x87, FK_GV_ANZAHLUNGSEINSTELLUNG},
    {0x89, 0x8f, FK_GV_ANZAHLUNGSAUFLOESUNG},
    {0x90, 0x90, FK_GV_ANFANGSBESTAND},
    {0x91, 0x91, FK_GV_PRIVATENTNAHME},
    {0x92, 0x92, FK_GV_PRIVATEINLAGE},
    {0x93, 0x93, FK_GV_GELDTRANSIT},
    {0x94, 0x94, FK_GV_LOHNZAHLUNG},
    {0x95, 0x95, FK_GV_EINZAHLUNG},
    {0x96, 0x96, FK_GV_AUSZAHLUNG},
    {0x97, 0x97, FK_GV_DIFFERENZ_SOLL_IST},
    {0xa1, 0xa1, FK_GV_UMSATZ},
    {0xa2, 0xa2, FK_GV_UMSATZ},
};

int fk_charge_case_decode(int64_t item_case, const fk_decimal *vat_rate, fk_charge_case *out) {
    uint32_t number = (uint32_t)((uint64_t)item_case & 0xffff);
    out->column = 5, out->ust_key = 7, out->gv_typ = FK_GV_UMSATZ, out->known = 0;
    if (number == 0) { /* the only case whose column depends on the rate */
        out->known = 1;
        if (decimal_is_tenths(vat_rate, 190)) out->column = 1;
        if (decimal_is_tenths(vat_rate, 70)) out->column = 2;
        if (decimal_is_tenths(vat_rate, 107)) out->column = 3;
        if (decimal_is_tenths(vat_rate, 55)) out->column = 4;
        return FK_OK;
    }
    for (size_t i = 0; i < sizeof FAMILIES / sizeof *FAMILIES; i++) {
        const charge_family *family = &FAMILIES[i];
        if (number > family->last) continue;
        if (number < family->first) break;
        int group = family->first == family->last ? 5 : (int)number - family->first + 1;
        out->column = group < 5 ? group : 5;
        out->ust_key = group;
        out->gv_typ = family->gv_typ;
        out->known = 1;
        break;
    }
    return FK_OK;
}

typedef struct pay_row {
    uint8_t pay_class, zahlart, positive, negative;
} pay_row;

static const pay_row PAYS[] = {
    [0x00] = {FK_PAY_CASH, FK_ZAHLART_BAR, FK_GV_NONE, FK_GV_NONE},                         /* unknown */
    [0x01] = {FK_PAY_CASH, FK_ZAHLART_BAR, FK_GV_NONE, FK_GV_NONE},                         /* cash */
    [0x02] = {FK_PAY_CASH_FOREIGN, FK_ZAHLART_BAR, FK_GV_NONE, FK_GV_NONE},                 /* foreign cash */
    [0x03] = {FK_PAY_NON_CASH, FK_ZAHLART_UNBAR, FK_GV_NONE, FK_GV_NONE},                   /* crossed cheque */
    [0x04] = {FK_PAY_NON_CASH, FK_ZAHLART_ECKARTE, FK_GV_NONE, FK_GV_NONE},                 /* debit card */
    [0x05] = {FK_PAY_NON_CASH, FK_ZAHLART_KREDITKARTE, FK_GV_NONE, FK_GV_NONE},             /* credit card */
    [0x06] = {FK_PAY_NON_CASH, FK_ZAHLART_ELZAHLUNGSDIENSTLEISTER, FK_GV_NONE, FK_GV_NONE}, /* online */
    [0x07] = {FK_PAY_NON_CASH, FK_ZAHLART_GUTHABENKARTE, FK_GV_NONE, FK_GV_NONE},           /* customer card */
    [0x08] = {FK_PAY_NON_CASH, FK_ZAHLART_UNBAR, FK_GV_NONE, FK_GV_NONE},                   /* SEPA */
    [0x09] = {FK_PAY_NON_CASH, FK_ZAHLART_UNBAR, FK_GV_NONE, FK_GV_NONE},                   /* bank transfer */
    [0x0a] = {FK_PAY_INTERNAL, FK_ZAHLART_KEINE, FK_GV_NONE, FK_GV_NONE},                   /* internal */
    [0x0b] = {FK_PAY_CASH, FK_ZAHLART_BAR, FK_GV_NONE, FK_GV_NONE},                         /* change */
    [0x0c] = {FK_PAY_CASH_FOREIGN, FK_ZAHLART_BAR, FK_GV_NONE, FK_GV_NONE},                 /* foreign change */
    [0x0d] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_MEHRZWECKGUTSCHEIN_EINLOESUNG,
              FK_GV_MEHRZWECKGUTSCHEIN_KAUF}, /* voucher */
    [0x0e] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_FORDERUNGSENTSTEHUNG,
              FK_GV_FORDERUNGSAUFLOESUNG}, /* receivable */
    [0x0f] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_ANZAHLUNGSAUFLOESUNG,
              FK_GV_ANZAHLUNGSEINSTELLUNG},                                                        /* down payment */
    [0x10] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_TRINKGELD_AN, FK_GV_TRINKGELD_AN},     /* tip */
    [0x11] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_ZUSCHUSS_ECHT, FK_GV_ZUSCHUSS_ECHT},   /* real grant */
    [0x12] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_ANFANGSBESTAND, FK_GV_ANFANGSBESTAND}, /* opening float */
    [0x13] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_PRIVATENTNAHME, FK_GV_PRIVATEINLAGE},  /* owner */
    [0x14] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_GELDTRANSIT, FK_GV_GELDTRANSIT},       /* from, to till */
    [0x15] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_LOHNZAHLUNG, FK_GV_LOHNZAHLUNG},       /* to employee */
    [0x16] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_AUSZAHLUNG, FK_GV_EINZAHLUNG},         /* cash book */
    [0x17] = {FK_PAY_BUSINESS_CASE, FK_ZAHLART_KEINE, FK_GV_DIFFERENZ_SOLL_IST,
              FK_GV_DIFFERENZ_SOLL_IST} /* difference */};

_Static_assert(sizeof PAYS / sizeof *PAYS == FK_PAY_CASE_COUNT, "a row for every pay item case");

int fk_pay_case_decode(int64_t item_case, fk_pay_case *out) {
    uint32_t number = (uint32_t)((uint64_t)item_case & 0xffff);
    const pay_row *row = &PAYS[number < FK_PAY_CASE_COUNT ? number : 0];
    out->pay_class = row->pay_class;
    out->zahlart = row->zahlart;
    out->gv_typ_positive = row->positive;
    out->gv_typ_negative = row->negative;
    out->known = number < FK_PAY_CASE_COUNT;
    return FK_OK;
}
