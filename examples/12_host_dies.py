"""The host dies in the middle of a sale: power cut, crash, kill -9. Start it again; the register asks, and sells on.

The register cannot know how far its receipt got: whether it arrived, whether the TSE had signed it, whether it was
stored. It need not know. It asks with the receipt request flag 0x0000800000000000 and sends the receipt if nobody
has an answer. However far it got, it is signed once, and no receipt number is missing.

This example runs a host of its own, because it kills it.
"""

import http.client
import re
import subprocess
import sys
import time
import urllib.parse
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import OverHttp, folder, open_register, options, show

RECEIPT_REQUEST = 0x0000_8000_0000_0000
POS_RECEIPT = 0x4445_0000_0000_0001 | 0x0000_0001_0000_0000


def sale(reference: str, receipt_case: int = POS_RECEIPT) -> str:
    return f"""
    {{
        "ftCashBoxID":"cashboxid-guid",
        "ftPosSystemId":"possystemid-guid",
        "cbTerminalID":"T1",
        "cbReceiptReference":"{reference}",
        "cbReceiptMoment":"2020-05-22T11:33:00.260Z",
        "cbChargeItems":[{{
            "Quantity":1.0, "Description":"Kaffe Hag", "Amount":4.00, "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913
        }}],
        "cbPayItems":[{{
            "Quantity":1.0, "Description":"Cash", "Amount":4.00, "ftPayItemCase":4919338167972134913
        }}],
        "ftReceiptCase":{receipt_case}
    }}
    """


@contextmanager
def host(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running 'fiskal serve' and its address."""
    command = [sys.executable, "-m", "fiskal", "serve", "--data", str(data), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                found = re.search(r"answers at (http://\S+)", line)
                if found:
                    yield process, found[1]
                    break
            else:
                sys.exit("'fiskal serve' did not start.")
        finally:
            process.kill()


def send_and_kill(process: subprocess.Popen[str], register: OverHttp, request: str) -> None:
    """The request leaves the register; before an answer comes, the host is dead."""
    address = urllib.parse.urlsplit(register.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.request("POST", "/json/v1/sign", register.fill_in(request), register.headers)
    time.sleep(0.004)  # the receipt may be anywhere between the network and the disk
    process.kill()
    process.wait()
    connection.close()


def main() -> None:
    given = options()
    if given.url:
        sys.exit("This example kills its host: leave out --url.")
    with folder(given) as data:
        with open_register(Namespace(url=None, data=data)):
            pass  # a new host signs its start receipt
        with host(data) as (process, url):
            register = OverHttp(url)
            show("Receipt S-1", register.sign(sale("S-1")))
            print("The host is killed while receipt S-2 is on its way")
            send_and_kill(process, register, sale("S-2"))
        with host(data) as (_, url):
            register = OverHttp(url)
            answer = register.sign(sale("S-2", POS_RECEIPT | RECEIPT_REQUEST))
            if answer is None:
                print("    null: nobody has an answer, so send it")
                answer = register.sign(sale("S-2"))
            else:
                print("    it was signed; this is its answer")
            show("Receipt S-2", answer)
            show("Receipt S-3", register.sign(sale("S-3")))


if __name__ == "__main__":
    main()
