"""What the examples share: a way to a fiskal host, in this process or over HTTP, and a look at its answers.

Every example takes the same options:

    python examples/01_short_sale.py                                 # embedded, in a temporary folder
    python examples/01_short_sale.py --data shop                     # embedded, in a folder that is kept
    python examples/01_short_sale.py --url http://127.0.0.1:1200     # against a running 'fiskal serve'

A host reached over HTTP may ask for a token: --token, or the environment variable FISKAL_TOKEN.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fiskal

POS_SYSTEM_ID = "d4a62055-ca6c-4372-ae4d-f835a88e4a5d"
"""Identifies the POS software, the same at every customer. Made up for the examples; get one of your own."""

START_RECEIPT = """
{
    "ftCashBoxID":"cashboxid-guid",
    "ftPosSystemId":"possystemid-guid",
    "cbTerminalID":"T1",
    "cbReceiptReference":"start",
    "cbReceiptMoment":"moment-of-now",
    "cbChargeItems":[],
    "cbPayItems":[],
    // 0x4445 0000 0000 0003 (start-receipt) + 0000 0001 0000 0000 (implicit flow)
    "ftReceiptCase":4919338172267102211
}
"""

TIMEOUT_S = 90
"""How long the POS waits for an answer; longer than the middleware waits for a slow TSE."""


class Register(ABC):
    """A cash register's way to its host. ``sign`` takes JSON text, as it would go over the wire."""

    def __init__(self) -> None:
        status = self.status()
        self.cash_box_id: str = status["ftCashBoxId"]
        self.queue_id: str = status["queues"][0]["ftQueueId"]
        if status["queues"][0]["state"] == "new":
            self.sign(START_RECEIPT)  # once in the life of a queue

    def fill_in(self, request: str) -> bytes:
        """The request with this host's own ids, ready to be sent."""
        return (
            request.replace("cashboxid-guid", self.cash_box_id)
            .replace("queueid-guid", self.queue_id)
            .replace("possystemid-guid", POS_SYSTEM_ID)
            .replace("moment-of-now", datetime.now(UTC).isoformat())
            .encode()
        )

    def sign(self, request: str) -> Any:
        """Sign a receipt and return the answer; None only for a receipt request that found nothing."""
        # Amounts are decimals, never floats.
        return json.loads(self.post(self.fill_in(request)), parse_float=Decimal)

    @abstractmethod
    def post(self, body: bytes) -> bytes:
        """Send one receipt."""

    @abstractmethod
    def status(self) -> Any:
        """What the health check says."""


class Embedded(Register):
    """fiskal in this process: no server, no port."""

    def __init__(self, middleware: fiskal.Middleware) -> None:
        self.middleware = middleware
        super().__init__()

    def post(self, body: bytes) -> bytes:
        return self.middleware.sign_json(body)

    def status(self) -> Any:
        return self.middleware.status()


class OverHttp(Register):
    """fiskal behind HTTP, with nothing but Python's standard library."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        self.headers = {"Content-Type": "application/json"}
        if token:
            self.headers |= {"accesstoken": token, "cashboxid": self.status()["ftCashBoxId"]}
        super().__init__()

    def post(self, body: bytes) -> bytes:
        return self._call(urllib.request.Request(f"{self.url}/json/v1/sign", body, self.headers))

    def status(self) -> Any:
        return json.loads(self._call(urllib.request.Request(f"{self.url}/health")))

    def _call(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            # Every error has the same body: what happened, a code for programs, and what to do about it.
            problem = json.load(error)
            raise fiskal.ReceiptRejected(
                problem["code"], problem["detail"], field=problem["field"], hint=problem["hint"]
            ) from error


def options() -> argparse.Namespace:
    """What the command line of the example says."""
    example = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        description=example.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="work embedded in this folder and keep it")
    parser.add_argument("--url", help="work over HTTP with the host at this address")
    parser.add_argument("--token", default=os.environ.get("FISKAL_TOKEN", ""), help="its access token")
    return parser.parse_args()


@contextmanager
def open_register(given: argparse.Namespace) -> Iterator[Register]:
    """The register that the command line asks for, with its queue in operation."""
    if given.url:
        yield OverHttp(given.url, given.token)
        return
    with folder(given) as data, fiskal.open(data, create=True) as middleware:
        yield Embedded(middleware)


@contextmanager
def folder(given: argparse.Namespace) -> Iterator[Path]:
    """The folder of an embedded host: the one given, or one that is gone afterwards."""
    if given.data is not None:
        yield given.data
        return
    with tempfile.TemporaryDirectory(prefix="fiskal-example-") as made:
        yield Path(made)


def item(answer: dict[str, Any], kind: int) -> str | None:
    """The Data of the signature item with this ftSignatureType, None if the answer has none."""
    for each in answer["ftSignatures"]:
        if each["ftSignatureType"] == 0x4445_0000_0000_0000 | kind:
            return str(each["Data"])
    return None


def show(title: str, answer: dict[str, Any]) -> None:
    """Print what a POS developer wants to see of an answer."""
    print(f"{title}: {answer['ftReceiptIdentification']}, ftState {answer['ftState']:016x}")
    printed = (
        ("process data", 0x16),
        ("start of the action", 0x1F),
        ("start-zeit", 0x19),
        ("log-time", 0x1A),
        ("QR code", 0x01),
    )
    for name, kind in printed:
        text = item(answer, kind)
        if text is not None:
            print(f"    {name:20} {text if len(text) < 70 else text[:67] + '...'}".rstrip())
    for each in answer["ftSignatures"]:
        if each["ftSignatureType"] & 0xFFFF in (0x02, 0x1000):  # a note; print it as it is
            print(f"    {each['Caption']} {each['Data']}".rstrip())
