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

import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import Embedded, OverHttp, Register, folder, open_register, options, show

import fiskal

POS_RECEIPT = 0x4445_0000_0000_0001 | 0x0000_0001_0000_0000
ZERO_RECEIPT = 0x4445_0000_0000_0002 | 0x0000_0001_0000_0000

THIEF = """
import sys
from fiskal.scu.software import open_software_tse
tse = open_software_tse(sys.argv[1], create=False)
print("taken", flush=True)
sys.stdin.read()
tse.close()
"""


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


@contextmanager
def taken_away(data: Path) -> Iterator[None]:
    """The TSE in the host's folder is in the hands of another process."""
    (tse,) = (data / "scu").iterdir()
    command = [sys.executable, "-c", THIEF, str(tse)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as thief:
        assert thief.stdout is not None
        if thief.stdout.readline() != "taken\n":
            sys.exit("The TSE cannot be taken away: start 'fiskal serve' anew before this example.")
        yield
        thief.communicate()  # its input ends, and it gives the TSE back


@contextmanager
def register_of(given: Namespace, data: Path) -> Iterator[Register]:
    if given.url:
        yield OverHttp(given.url, given.token)
    else:
        with fiskal.open(data) as middleware:
            yield Embedded(middleware)


def main() -> None:
    given = options()
    if given.url and given.data is None:
        sys.exit("Give --data, the folder of the host, to take its TSE away.")
    with folder(given) as data:
        if not given.url:
            with open_register(Namespace(url=None, data=data)):
                pass  # a new host: let it make its TSE and sign its start receipt
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
