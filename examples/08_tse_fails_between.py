"""The TSE fails between the first scan and the payment: what becomes of transactions in the explicit flow.

Nothing changes for the POS. It sends what it would have sent, and prints the note instead of a QR code when
ftState has bit 0x2. The middleware remembers what the TSE is owed. The zero receipt (0x0002) makes it good:

- a transaction that was started before and paid for meanwhile is finished on the TSE, with its original data;
- one that was started meanwhile is started on the TSE, and the POS finishes it as if nothing had been;
- one that was started and paid for meanwhile never reaches the TSE.

The customers of the failure keep the receipts they have, and nothing is sent a second time.

This example works embedded only: it stops and starts its host to take the TSE away in the middle.
"""

import sys
from argparse import Namespace

from _common import folder, item, open_register, options, show
from _tse import register_of, taken_away

START = 0x4445_0000_0000_0008
POS_RECEIPT = 0x4445_0000_0000_0001  # explicit: it finishes what was started under its reference
ZERO_RECEIPT = 0x4445_0000_0000_0002 | 0x0000_0001_0000_0000

COFFEE = """{"Quantity":1.0, "Description":"Kaffe Hag", "Amount":4.00, "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913}"""
CASH = '{"Quantity":1.0, "Description":"Cash", "Amount":4.00, "ftPayItemCase":4919338167972134913}'


def request(receipt_case: int, reference: str) -> str:
    sold = receipt_case == POS_RECEIPT
    return f"""
    {{
        "ftCashBoxID":"cashboxid-guid",
        "ftPosSystemId":"possystemid-guid",
        "cbTerminalID":"T1",
        "cbReceiptReference":"{reference}",
        "cbReceiptMoment":"moment-of-now",
        "cbChargeItems":[{COFFEE if sold else ""}],
        "cbPayItems":[{CASH if sold else ""}],
        "ftReceiptCase":{receipt_case}
    }}
    """


def main() -> None:
    given = options()
    if given.url:
        sys.exit("This example stops and starts its host: leave out --url.")
    with folder(given) as data:
        with open_register(Namespace(url=None, data=data)) as register:
            show("First scan of A", register.sign(request(START, "A")))
        with taken_away(data), register_of(given, data) as register:
            show("A is paid, no TSE", register.sign(request(POS_RECEIPT, "A")))
            show("First scan of B, no TSE", register.sign(request(START, "B")))
            show("First scan of C, no TSE", register.sign(request(START, "C")))
            show("C is paid, no TSE", register.sign(request(POS_RECEIPT, "C")))
        with register_of(given, data) as register:
            answer = register.sign(request(ZERO_RECEIPT, "Z"))
            show("Zero receipt", answer)
            made_good = [
                each["Data"] for each in answer["ftSignatures"] if each["Caption"] == "<processData>"
            ]
            print(f"    made good: {', '.join(made_good[1:])}")
            payment = register.sign(request(POS_RECEIPT, "B"))
            show("B is paid", payment)
            assert item(payment, 0x01) is not None, "B has its QR code"


if __name__ == "__main__":
    main()
