"""The numeric codes of the German market (country 0x4445) as names. Decoding is the C core's business."""

from __future__ import annotations

import enum
from typing import Final

COUNTRY: Final = 0x4445
DE: Final = 0x4445_0000_0000_0000
"""Country part of every German code."""

COUNTRY_MASK: Final = 0xFFFF_0000_0000_0000
CASE_MASK: Final = 0xFFFF
VERSION_MASK: Final = 0xF000_0000_0000
VERSION_2: Final = 0x2000_0000_0000


class ReceiptCase(enum.IntEnum):
    """ftReceiptCase & 0xFFFF."""

    UNKNOWN = 0x00
    POS_RECEIPT = 0x01
    ZERO = 0x02
    INITIAL_OPERATION = 0x03
    OUT_OF_OPERATION = 0x04
    MONTHLY_CLOSING = 0x05
    YEARLY_CLOSING = 0x06
    DAILY_CLOSING = 0x07
    START_TRANSACTION = 0x08
    UPDATE_TRANSACTION = 0x09
    DELTA_TRANSACTION = 0x0A
    FAIL_TRANSACTION = 0x0B
    B2B_INVOICE = 0x0C
    B2C_INVOICE = 0x0D
    INFO_INVOICE = 0x0E
    INFO_DELIVERY_NOTE = 0x0F
    INFO_ORDER = 0x10
    CASH_DEPOSIT = 0x11
    MATERIAL_CONSUMPTION = 0x12
    INFO_INTERNAL = 0x13
    PROTOCOL = 0x14
    FOREIGN_SALES = 0x15
    VOID_RECEIPT = 0x16
    INITIATE_SCU_SWITCH = 0x17
    FINISH_SCU_SWITCH = 0x18
    MIGRATION = 0x19


LAST_RECEIPT_CASE: Final = ReceiptCase.MIGRATION


# The flags are IntEnums, not IntFlags: an IntFlag makes a new member at every `&`, which costs more than the
# whole decoding of a receipt in the core.


class ReceiptFlag(enum.IntEnum):
    """Flags of ftReceiptCase. The name of 0x0100_0000 depends on the case."""

    FAILED_RECEIPT = 0x0001_0000
    TRAINING = 0x0002_0000
    VOID = 0x0004_0000
    HANDWRITTEN = 0x0008_0000
    SMALL_BUSINESS = 0x0010_0000
    RECEIVER_IS_COMPANY = 0x0020_0000
    USTG_CHARACTERISTICS = 0x0040_0000
    TSE_INFO = 0x0080_0000
    SELF_TEST = 0x0100_0000
    CLIENT_ONLY = 0x0100_0000
    TAR_EXPORT = 0x0200_0000
    BYPASS_TAR_EXPORT = 0x0400_0000
    MASTER_DATA_UPDATE = 0x0800_0000
    FAIL_ON_OPEN_TRANSACTIONS = 0x1000_0000
    REMOVE_TRANSACTIONS_NOT_ON_TSE = 0x2000_0000
    FORCE_SCU_SWITCH = 0x4000_0000
    IMPLICIT_FLOW = 0x1_0000_0000
    CLOSE_ALL_TSE_TRANSACTIONS = 0x2_0000_0000
    RECEIPT_REQUEST = 0x8000_0000_0000


class ItemFlag(enum.IntEnum):
    """Flags of ftChargeItemCase and ftPayItemCase."""

    TAKE_AWAY = 0x0001_0000
    POSITION_CANCELLATION = 0x0020_0000


class State(enum.IntEnum):
    """Bits of ftState below the country."""

    READY = 0
    OUT_OF_SERVICE = 0x01
    SCU_FAILED = 0x02
    LATE_SIGNING = 0x08
    MESSAGE_PENDING = 0x40
    SCU_SWITCH = 0x100
    ERROR = 0x2000_EEEE_EEEE


class SignatureFormat(enum.IntEnum):
    """ftSignatureFormat."""

    UNKNOWN = 0x00
    TEXT = 0x01
    LINK = 0x02
    QR_CODE = 0x03
    CODE128 = 0x04
    OCR_A = 0x05
    PDF417 = 0x06
    DATA_MATRIX = 0x07
    AZTEC = 0x08
    EAN8 = 0x09
    EAN13 = 0x0A
    UPC_A = 0x0B
    CODE39 = 0x0C
    BASE64 = 0x0D


PRINTING_OPTIONAL: Final = 0x1_0000
"""Flag on ftSignatureFormat: need not be printed when the QR code is."""


class SignatureType(enum.IntEnum):
    """ftSignatureType. Members below 0x1000 carry the country on the wire, the others do not."""

    QR_CODE = 0x01
    ARCHIVING_REQUIRED = 0x02
    NOTIFICATION = 0x03
    OUT_OF_OPERATION_NOTIFICATION = 0x04
    START_TRANSACTION_RESULT = 0x10
    FINISH_TRANSACTION_PAYLOAD = 0x11
    FINISH_TRANSACTION_RESULT = 0x12
    QR_CODE_VERSION = 0x13
    POS_SERIAL_NUMBER = 0x14
    PROCESS_TYPE = 0x15
    PROCESS_DATA = 0x16
    TRANSACTION_NUMBER = 0x17
    SIGNATURE_COUNTER = 0x18
    START_TIME = 0x19
    LOG_TIME = 0x1A
    SIGNATURE_ALGORITHM = 0x1B
    LOG_TIME_FORMAT = 0x1C
    SIGNATURE = 0x1D
    PUBLIC_KEY = 0x1E
    ACTION_START = 0x1F
    UPDATE_TRANSACTION_PAYLOAD = 0x20
    UPDATE_TRANSACTION_RESULT = 0x21
    CERTIFICATION_ID = 0x22
    TSE_SERIAL_NUMBER = 0x23
    INFORMATION = 0x1000
    ALERT = 0x2000
    FAILURE = 0x3000


class JournalType(enum.IntEnum):
    """ftJournalType."""

    VERSION = 0x0
    ACTION_JOURNAL = 0x1
    RECEIPT_JOURNAL = 0x2
    QUEUE_ITEMS = 0x3
    CONFIGURATION = 0xFF
    JOURNAL_AT = 0x4154
    JOURNAL_DE = 0x4445
    JOURNAL_FR = 0x4652
    JOURNAL_ME = 0x4D45
    DE_STATUS = 0x4445_0000_0000_0000
    DE_TAR_FROM_TSE = 0x4445_0000_0000_0001
    DE_DSFINVK = 0x4445_0000_0000_0002
    DE_TAR_FROM_DATABASE = 0x4445_0000_0000_0003


def to_int64(value: int) -> int:
    """The signed 64-bit reading of an unsigned code."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value


_COUNTRIES: Final = {0x4445: "DE", 0x4652: "FR", 0x4D45: "ME", 0x4954: "IT"}


def country_name(receipt_case: int) -> str:
    """The ``country`` column of a queue item, from the top 16 bits of ftReceiptCase."""
    return _COUNTRIES.get((receipt_case >> 48) & 0xFFFF, "AT")
