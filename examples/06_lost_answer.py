"""The answer got lost: was the receipt signed or not?

Never simply send a receipt again when no answer came: it may have been signed, and would be sold twice.
Send it once more with the receipt request flag 0x0000800000000000. That signs nothing: it fetches the answer
if there is one, the very same bytes, and otherwise says null; then the receipt never arrived, and can be sent.

If the middleware stays out of reach, go on selling with receipts marked "electronic recording system failed";
send them later with the flag 0x0000000000010000, the first of them as a receipt request before that.
"""

import http.client
import socket
import urllib.parse
from typing import Any

from _common import Embedded, OverHttp, Register, open_register, options, show

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
            "ftChargeItemCase":4919338167972134913, "Moment":"2020-05-22T10:58:03.960Z"
        }}],
        "cbPayItems":[{{
            "Quantity":1.0, "Description":"Cash", "Amount":4.00,
            "ftPayItemCase":4919338167972134913, "Moment":"2020-05-22T11:33:00.260Z"
        }}],
        "ftReceiptCase":{receipt_case}
    }}
    """


def sign_after_silence(register: Register, reference: str) -> Any:
    """What a POS does with a receipt for which it never saw an answer."""
    # The reference, the terminal and the items must be those of the lost receipt. Its case has the flag.
    answer = register.sign(sale(reference, POS_RECEIPT | RECEIPT_REQUEST))
    if answer is None:
        print("    null: it never arrived, so send it")
        answer = register.sign(sale(reference))
    else:
        print("    it was signed; this is its answer")
    return answer


def main() -> None:
    with open_register(options()) as register:
        signed = f"lost-{register.status()['queues'][0]['ftCurrentRow']}"
        print("The connection breaks off while the answer is on its way")
        lose_the_answer(register, sale(signed))
        show("Receipt", sign_after_silence(register, signed))

        print("The connection breaks off before the request arrives")
        show("Receipt", sign_after_silence(register, f"{signed}-never-sent"))


def lose_the_answer(register: Register, request: str) -> None:
    """Send a request, and lose the answer on its way."""
    body = register.fill_in(request)
    if isinstance(register, Embedded):
        register.middleware.sign_json(body)
        return
    assert isinstance(register, OverHttp)
    address = urllib.parse.urlsplit(register.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.request("POST", f"{address.path}/json/v1/sign", body, register.headers)
    assert isinstance(connection.sock, socket.socket)
    connection.sock.recv(1)  # the first byte of the answer arrives, then somebody pulls the plug
    connection.close()


if __name__ == "__main__":
    main()
