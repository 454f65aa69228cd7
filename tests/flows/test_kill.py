"""``fiskal serve`` is killed again and again while registers sell: nothing answered is lost, nothing is signed
twice, and no number is missing."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiskal
from fiskal.export.verify import verify_journal
from fiskal.germany import texts
from fiskal.germany.codes import DE
from fiskal.scu.software import SoftwareTse
from fiskal.tse.logmessage import parse
from tests.cli.test_serve import serving
from tests.flows.doors import post
from tests.support.shop import CASH, IMPLICIT

ROUNDS = 10
REGISTERS = 3
MOST_ANSWERS = 40
"""Answers after which a server is killed, at most."""
RECEIPT_REQUEST = 0x8000_0000_0000
TRANSACTION = re.compile(r"ft([0-9A-F]+)#(?:ST|IT|T)([0-9]+)")


class Register:
    """A register that sells without end. Knows every answer it got, and the request it got none for."""

    def __init__(self, name: str, cash_box_id: str, answered: list[tuple[bytes, bytes]]) -> None:
        self.name = name
        self.cash_box_id = cash_box_id
        self.answered = answered  # shared; list.append is atomic
        self.in_flight: bytes | None = None
        self._requests = self._make_requests()

    def _make_requests(self) -> Iterator[bytes]:
        number = 0
        while True:
            number += 1
            reference = f"{self.name}-{number}"
            yield self._request(DE | IMPLICIT | 0x01, reference, "7.50")
            yield self._request(DE | IMPLICIT | 0x10, reference)
            yield self._request(DE | 0x08, reference)
            yield self._request(DE | 0x01, reference, "2.25")

    def _request(self, case: int, reference: str, amount: str = "") -> bytes:
        charge = {"Amount": amount, "ftChargeItemCase": DE | 1, "Description": "Ware"}
        pay = {"Amount": amount, "ftPayItemCase": CASH}
        request = {
            "ftCashBoxID": self.cash_box_id,
            "cbTerminalID": self.name,
            "cbReceiptReference": reference,
            "cbReceiptMoment": "2024-01-02T08:00:00Z",
            "cbChargeItems": [charge] if amount else [],
            "cbPayItems": [pay] if amount else [],
            "ftReceiptCase": case,
        }
        return json.dumps(request).encode()

    def ask_for_the_lost_one(self, connection: http.client.HTTPConnection, known: set[str]) -> str:
        """What every POS must do after a lost answer; says what came of it."""
        if self.in_flight is None:
            return "nothing lost"
        request = json.loads(self.in_flight)
        request["ftReceiptCase"] |= RECEIPT_REQUEST
        response, text = post(connection, json.dumps(request).encode())
        assert response.status == 200, text
        if text == b"null":
            response, text = post(connection, self.in_flight)
            assert response.status == 200, text
            outcome = "sent again"
        else:
            assert text.decode() in known
            outcome = "fetched"
        assert json.loads(text)["ftState"] == DE
        self.answered.append((self.in_flight, text))
        self.in_flight = None
        return outcome

    def sell(self, port: int, sold: threading.Semaphore) -> None:
        """Sell until the server dies."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            while True:
                self.in_flight = next(self._requests)
                response, text = post(connection, self.in_flight)
                assert response.status == 200, text
                self.answered.append((self.in_flight, text))
                self.in_flight = None
                sold.release()


def stored_responses(port: int) -> set[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/json/v1/journal?type=3")
        return {item["response"] for item in json.loads(connection.getresponse().read())}


def check_journal(data: Path) -> None:
    with fiskal.open(data) as middleware:
        row = middleware.store.queue(middleware.queues[0].queue_id)
        assert row is not None
        report = verify_journal(middleware.store, row)
    assert report.ok, report.problems
    assert report.counts["unanswered"] == 0


def check_tse(data: Path, answered: list[tuple[bytes, bytes]]) -> None:
    """The TSE counted without a gap and signed every receipt exactly once; what it had begun when the process
    died was closed as aborted."""
    (folder,) = (data / "scu").iterdir()
    tse = SoftwareTse(folder, create=False)
    try:
        messages = list(tse.messages())
    finally:
        tse.close()
    assert [counter for counter, _ in messages] == list(range(1, len(messages) + 1))
    parsed = [parse(der) for _, der in messages]
    operations = [
        (message.transaction_number, message.operation)
        for message in parsed
        if message.transaction_number is not None
    ]
    assert len(set(operations)) == len(operations)
    started = {number for number, operation in operations if operation == "StartTransaction"}
    assert started == set(range(1, len(started) + 1))
    found = [TRANSACTION.fullmatch(json.loads(text)["ftReceiptIdentification"]) for _, text in answered]
    sold = {int(match[2]) for match in found if match is not None}
    aborted = {
        message.transaction_number
        for message in parsed
        if message.process_data == texts.ABORTED_TRANSACTION.encode()
    }
    assert not sold & aborted
    assert started == sold | aborted


def test_a_server_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(1)
    data = tmp_path / "shop"
    answered: list[tuple[bytes, bytes]] = []
    outcomes: list[str] = []
    with fiskal.open(data, create=True) as middleware:
        cash_box_id = middleware.config.cash_box_id
        start = Register("T0", cash_box_id, answered)._request(DE | IMPLICIT | 0x03, "start")
        answered.append((start, middleware.sign_json(start)))
    registers = [Register(f"T{number}", cash_box_id, answered) for number in range(1, REGISTERS + 1)]

    for _ in range(ROUNDS):
        if chance.random() < 0.5:
            check_journal(data)  # the pass over what was interrupted happens here, otherwise in the server
        with serving(data) as served:
            port = int(served.url.rpartition(":")[2])
            known = stored_responses(port)
            assert {text.decode() for _, text in answered} <= known
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection):
                outcomes += [register.ask_for_the_lost_one(connection, known) for register in registers]

            sold = threading.Semaphore(0)
            threads = [threading.Thread(target=register.sell, args=(port, sold)) for register in registers]
            for thread in threads:
                thread.start()
            for _ in range(chance.randrange(MOST_ANSWERS)):
                assert sold.acquire(timeout=60)
            time.sleep(chance.random() * 0.004)
            served.process.kill()
            served.process.wait()
            for thread in threads:
                thread.join()

    with serving(data) as served:
        port = int(served.url.rpartition(":")[2])
        known = stored_responses(port)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            outcomes += [register.ask_for_the_lost_one(connection, known) for register in registers]
        assert {text.decode() for _, text in answered} <= stored_responses(port)
        served.stop()
    check_journal(data)
    check_tse(data, answered)
    check_numbers(answered)
    assert "sent again" in outcomes


def check_numbers(answered: list[tuple[bytes, bytes]]) -> None:
    """Receipt numbers without a gap, rows without a repeat, every answer for the request it was given to."""
    responses: list[Any] = [json.loads(text) for _, text in answered]
    numbers = sorted(int(each["ftReceiptIdentification"][2:].partition("#")[0], 16) for each in responses)
    assert numbers == list(range(len(numbers)))
    assert len({each["ftQueueRow"] for each in responses}) == len(responses)
    for body, text in answered:
        request, response = json.loads(body), json.loads(text)
        for name in ("cbTerminalID", "cbReceiptReference", "ftCashBoxID"):
            assert response[name] == request[name]
