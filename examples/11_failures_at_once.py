"""Failures come together: the TSE fails, then the middleware was out of reach, and somebody wrote by hand.

Each has its own mark and none hides another:

- a receipt that comes while the TSE is down is answered with ftState bit 0x2 and counted;
- one that is handed in late (flag 0x0000000000010000) is answered with 8 and counted apart;
- a handwritten one (flag 0x0000000000080000) is answered with ready and not counted.

One zero receipt (0x0002) ends both periods, and has a note for each. If it comes too early, both stay open.

To see the same over HTTP, start 'fiskal serve --data shop' anew, so that it has not opened the TSE yet, and run

    python examples/11_failures_at_once.py --url http://127.0.0.1:1200 --data shop
"""

from _common import options, show
from _tse import host_to_rob, register_of, taken_away

POS_RECEIPT = 0x4445_0000_0000_0001 | 0x0000_0001_0000_0000
ZERO_RECEIPT = 0x4445_0000_0000_0002 | 0x0000_0001_0000_0000
LATE_SIGNING = 0x0000_0000_0001_0000
HANDWRITTEN = 0x0000_0000_0008_0000


def request(reference: str, receipt_case: int, moment: str = "moment-of-now") -> str:
    """A receipt without items: enough to see the modes."""
    return f"""
    {{
        "ftCashBoxID":"cashboxid-guid",
        "ftPosSystemId":"possystemid-guid",
        "cbTerminalID":"T1",
        "cbReceiptReference":"{reference}",
        "cbReceiptMoment":"{moment}",
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
            late = request("S-2", POS_RECEIPT | LATE_SIGNING, "2020-05-22T07:30:00Z")
            show("Receipt handed in late", register.sign(late))
            by_hand = request("Block 7, 031", POS_RECEIPT | HANDWRITTEN, "2020-05-22T12:00:00Z")
            show("Handwritten receipt", register.sign(by_hand))
            show("Zero receipt, too early", register.sign(request("Z-1", ZERO_RECEIPT)))
        with register_of(given, data) as register:
            show("Zero receipt", register.sign(request("Z-2", ZERO_RECEIPT)))
            show("Receipt with TSE", register.sign(request("S-3", POS_RECEIPT)))


if __name__ == "__main__":
    main()
