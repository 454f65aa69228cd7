"""The TSE fails and comes back: the shop goes on selling, and a zero receipt ends the failure.

The first receipt that cannot reach the TSE opens failed mode: ftState has bit 0x2, the answer has one note
to print, and the TSE is not asked again, so that no customer waits for it. When somebody has brought it back,
a zero receipt (0x0002) tries it and, if it works, ends failed mode and says how many receipts it lacked.
Send it when a person says so, not from a timer: nobody else knows whether the plug is in again.

Here another process takes the software TSE away: it opens it first, and a TSE has one owner. To see the same
over HTTP with a host that has signed before, start 'fiskal serve --data shop' anew, so that it has not opened
the TSE yet, then run

    python examples/07_tse_fails.py --url http://127.0.0.1:1200 --data shop
"""

from _common import options, show
from _tse import host_to_rob, register_of, taken_away

POS_RECEIPT = 0x4445_0000_0000_0001 | 0x0000_0001_0000_0000
ZERO_RECEIPT = 0x4445_0000_0000_0002 | 0x0000_0001_0000_0000


def request(reference: str, receipt_case: int) -> str:
    """A receipt without items: enough to see what the TSE does."""
    return f"""
    {{
        "ftCashBoxID":"cashboxid-guid",
        "ftPosSystemId":"possystemid-guid",
        "cbTerminalID":"T1",
        "cbReceiptReference":"{reference}",
        "cbReceiptMoment":"moment-of-now",
        "cbChargeItems":[],
        "cbPayItems":[],
        "ftReceiptCase":{receipt_case}
    }}
    """


def main() -> None:
    given = options()
    with host_to_rob(given) as data:
        with taken_away(data), register_of(given, data) as register:
            show("Receipt without TSE", register.sign(request("S-1", POS_RECEIPT)))
            show("Another one", register.sign(request("S-2", POS_RECEIPT)))
            show("Zero receipt, too early", register.sign(request("Z-1", ZERO_RECEIPT)))
        with register_of(given, data) as register:
            show("Receipt, TSE there but not asked", register.sign(request("S-3", POS_RECEIPT)))
            show("Zero receipt", register.sign(request("Z-2", ZERO_RECEIPT)))
            show("Receipt with TSE", register.sign(request("S-4", POS_RECEIPT)))


if __name__ == "__main__":
    main()
