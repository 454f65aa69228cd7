"""The cash register was down, receipts were written by hand: record them when it works again.

Every handwritten receipt is sent with the flag 0x0000000000080000, with the items that stand on it. Nobody wrote
down the minute, so cbReceiptMoment is twelve o'clock of that day. The TSE signs nothing, ftState is ready, and the
answer has one note that belongs to the archived slip. No zero receipt is needed: there is no failure to be ended.
"""

from _common import open_register, options, show

POS_RECEIPT = 0x4445_0000_0000_0001 | 0x0000_0001_0000_0000
HANDWRITTEN = 0x0000_0000_0008_0000

BLOCK = [
    ("Block 7, 031", "2020-05-22T12:00:00Z", "Bauernbrot", "4.80"),
    ("Block 7, 032", "2020-05-22T12:00:00Z", "Butterbrezel", "2.10"),
]


def handwritten(number: str, moment: str, what: str, amount: str) -> str:
    return f"""
    {{
        "ftCashBoxID":"cashboxid-guid",
        "ftPosSystemId":"possystemid-guid",
        "cbTerminalID":"T1",
        "cbReceiptReference":"{number}",
        "cbReceiptMoment":"{moment}",
        "cbChargeItems":[{{
            "Quantity":1.0, "Description":"{what}", "Amount":{amount}, "VATRate":7.0000,
            "ftChargeItemCase":4919338167972134914
        }}],
        "cbPayItems":[{{
            "Quantity":1.0, "Description":"Cash", "Amount":{amount}, "ftPayItemCase":4919338167972134913
        }}],
        "ftReceiptCase":{POS_RECEIPT | HANDWRITTEN}
    }}
    """


def main() -> None:
    with open_register(options()) as register:
        for receipt in BLOCK:
            show(receipt[0], register.sign(handwritten(*receipt)))


if __name__ == "__main__":
    main()
