"""The sample flows of the published integration guide, field by field, through every door.

``requests/`` holds the guide's requests letter by letter, with their comments. ``cashboxid-guid`` stands for
the host's own cash box; the queue and the register have the guide's ids.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import DE
from fiskal.host import config as configs
from fiskal.host.middleware import Middleware, open_middleware
from fiskal.queue.settings import QueueSettings
from fiskal.tse.verify import verify_qr
from tests.flows.doors import DOORS, open_door
from tests.support.shop import StepClock, captions, data_of

QUEUE_ID = "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6"
CLIENT_ID = "220130d5-9060-4e26-b75c-35968f49aae3"
REQUESTS = Path(__file__).parent / "requests"

IDENTIFICATION = re.compile(r"ft(0|[1-9A-F][0-9A-F]*)#(ST|UT|DT|IT|T)?([1-9][0-9]*)?")
MILLISECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

# Caption, type and format as the guide prints them.
RECEIPT_ITEMS = [
    ("www.fiskaltrust.de", 0x01, 3),
    ("start-transaction-signature", 0x10, 13),
    ("finish-transaction-payload", 0x11, 13),
    ("finish-transaction-signature", 0x12, 13),
    ("<qr-code-version>", 0x13, 1),
    ("<kassen-seriennummer>", 0x14, 1),
    ("<processType>", 0x15, 1),
    ("<processData>", 0x16, 1),
    ("<transaktions-nummer>", 0x17, 1),
    ("<signatur-zaehler>", 0x18, 1),
    ("<start-zeit>", 0x19, 1),
    ("<log-time>", 0x1A, 1),
    ("<sig-alg>", 0x1B, 1),
    ("<log-time-format>", 0x1C, 1),
    ("<signatur>", 0x1D, 1),
    ("<public-key>", 0x1E, 1),
    ("<vorgangsbeginn>", 0x1F, 1),
]
START_ITEMS = [("start-transaction-signature", 0x10, 13)]
ORDER_TYPES = [0x10, 0x11, 0x12, 0x15]
"""The guide's orders have these four; today an order has all items of a receipt but <vorgangsbeginn>."""

NEWER = [("<certification-id>", 0x22, 1), ("<tse-seriennummer>", 0x23, 1)]
NOT_OPTIONAL = {0x01, 0x22, 0x1F}
"""Items that are printed even beside a QR code, and the QR code itself."""

Send = Callable[[str], dict[str, Any]]


def text_of(name: str) -> str:
    return (REQUESTS / f"{name}.json").read_text(encoding="utf-8")


class Guide:
    """A host with the guide's ids, reached through one door."""

    def __init__(self, middleware: Middleware, door: Any, optional: bool) -> None:
        self.middleware = middleware
        self.optional = optional
        self._door = door
        self.send_text(
            """{
                "ftCashBoxID": "cashboxid-guid", // the start receipt puts the queue into operation
                "cbTerminalID": "T1",
                "cbReceiptReference": "start",
                "cbReceiptMoment": "2020-05-22T10:00:00Z",
                "ftReceiptCase": 4919338172267102211,
            }"""
        )

    def send_text(self, text: str) -> dict[str, Any]:
        body = text.replace("cashboxid-guid", self.middleware.config.cash_box_id).encode()
        response: dict[str, Any] = self._door(body)
        self.check_skeleton(response)
        return response

    def send(self, name: str) -> dict[str, Any]:
        return self.send_text(text_of(name))

    def check_skeleton(self, response: dict[str, Any]) -> None:
        assert list(response)[:9] == [
            "ftCashBoxID",
            "ftQueueID",
            "ftQueueItemID",
            "ftQueueRow",
            "cbTerminalID",
            "cbReceiptReference",
            "ftCashBoxIdentification",
            "ftReceiptIdentification",
            "ftReceiptMoment",
        ]
        assert response["ftCashBoxID"] == self.middleware.config.cash_box_id
        assert response["ftQueueID"] == QUEUE_ID
        assert response["ftCashBoxIdentification"] == CLIENT_ID
        assert IDENTIFICATION.fullmatch(response["ftReceiptIdentification"])
        assert response["ftReceiptMoment"].endswith("Z")
        assert response["ftState"] == 4919338167972134912

    def check_receipt(self, response: dict[str, Any], process_data: str, begins: str) -> None:
        """All 17 items of the guide, in its order, and between them only those that came later."""
        expected = RECEIPT_ITEMS[:4] + NEWER + RECEIPT_ITEMS[4:]
        assert self.shape(response) == self.with_flags(expected)
        assert data_of(response, "<vorgangsbeginn>") == begins
        self.check_signed(response, "Kassenbeleg-V1", process_data)

    def check_order(self, response: dict[str, Any], process_data: str) -> None:
        expected = RECEIPT_ITEMS[:4] + NEWER + RECEIPT_ITEMS[4:-1]
        assert self.shape(response) == self.with_flags(expected)
        types = [kind for _, kind, _ in self.shape(response)]
        assert [kind for kind in types if kind in ORDER_TYPES] == ORDER_TYPES
        self.check_signed(response, "Bestellung-V1", process_data)

    def check_signed(self, response: dict[str, Any], process_type: str, process_data: str) -> None:
        data = {item["ftSignatureType"] - DE: item["Data"] for item in response["ftSignatures"]}
        assert data[0x13] == "V0"
        assert data[0x14] == CLIENT_ID
        assert data[0x15] == process_type
        assert data[0x16] == process_data
        assert base64.b64decode(data[0x11]).decode() == process_data
        assert response["ftReceiptIdentification"].endswith(f"T{data[0x17]}")
        assert int(data[0x18]) > 0
        assert MILLISECONDS.fullmatch(data[0x19])
        assert MILLISECONDS.fullmatch(data[0x1A])
        assert data[0x19] <= data[0x1A]
        assert data[0x1B] == "ecdsa-plain-SHA256"
        assert data[0x1D] == data[0x12]
        assert data[0x10] != data[0x12]
        components = (0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E)
        assert data[0x01] == ";".join(data[kind] for kind in components)
        result = verify_qr(data[0x01])
        assert result.valid, result
        assert result.serial == data[0x23].lower()

    def with_flags(self, items: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
        flag = 0x1_0000 if self.optional else 0
        return [
            (caption, kind, form | (0 if kind in NOT_OPTIONAL else flag)) for caption, kind, form in items
        ]

    def shape(self, response: dict[str, Any]) -> list[tuple[str, int, int]]:
        return [
            (item["Caption"], item["ftSignatureType"] - DE, item["ftSignatureFormat"])
            for item in response["ftSignatures"]
        ]

    def check_journal(self) -> None:
        row = self.middleware.store.queue(QUEUE_ID)
        assert row is not None
        report = verify_journal(self.middleware.store, row)
        assert report.ok, report.problems
        assert report.counts["items"] == report.counts["receipts"]
        assert self.middleware.store.open_transactions(row.queue_no) == []


@pytest.fixture(params=[True, False], ids=["optional-flags", "plain-formats"])
def optional(request: pytest.FixtureRequest) -> bool:
    """FlagOptionalSignatures; without it formats are the guide's 1, 3 and 13."""
    return bool(request.param)


@pytest.fixture(params=DOORS)
def guide(request: pytest.FixtureRequest, tmp_path: Path, optional: bool) -> Iterator[Guide]:
    config = configs.new_config(queue_id=QUEUE_ID, client_id=CLIENT_ID)
    config.queues[0].settings = QueueSettings(flag_optional_signatures=optional)
    configs.save(tmp_path, config)
    with (
        open_middleware(tmp_path, clock=StepClock()) as middleware,
        open_door(request.param, middleware) as door,
    ):
        yield Guide(middleware, door, optional)


def numbers(*responses: dict[str, Any]) -> list[tuple[int, str, int]]:
    """Receipt counter, prefix and transaction number of each identification."""
    found = [IDENTIFICATION.fullmatch(each["ftReceiptIdentification"]) for each in responses]
    return [(int(each[1], 16), each[2], int(each[3])) for each in found if each is not None]


def test_short_lasting_action(guide: Guide) -> None:
    answer = guide.send("sale")
    assert answer["cbTerminalID"] == "T1"
    assert answer["cbReceiptReference"] == "4747847"
    guide.check_receipt(answer, "Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar", "2020-05-22T10:47:40.960Z")
    assert data_of(answer, "finish-transaction-payload") == (
        "QmVsZWdeNy41MF8wLjAwXzAuMDBfMC4wMF8wLjAwXjcuNTA6QmFy"
    )
    assert numbers(answer) == [(1, "IT", 2)]
    guide.check_journal()


def test_long_lasting_action(guide: Guide) -> None:
    first, second, paid = guide.send("order-1"), guide.send("order-2"), guide.send("payment")
    guide.check_order(first, '1;"0,5 Soda Zitrone";3.50')
    guide.check_order(second, '1;"Kaffe Hag";4.00')
    # The guide's payloads end with a line feed, which later versions do not sign.
    for response, documented in (
        (first, "MTsiMCw1IFNvZGEgWml0cm9uZSI7My41MAo="),
        (second, "MTsiS2FmZmUgSGFnIjs0LjAwCg=="),
    ):
        payload = base64.b64decode(data_of(response, "finish-transaction-payload"))
        assert payload + b"\n" == base64.b64decode(documented)
    guide.check_receipt(paid, "Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar", "2020-05-26T10:31:34.960Z")
    assert numbers(first, second, paid) == [(1, "IT", 2), (2, "IT", 3), (3, "IT", 4)]
    assert {each["cbReceiptReference"] for each in (first, second, paid)} == {"LLA_1"}
    guide.check_journal()


def test_scanner_checkout(guide: Guide) -> None:
    start = guide.send("start")
    assert guide.shape(start) == guide.with_flags(START_ITEMS)
    finish = guide.send("finish")
    guide.check_receipt(finish, "Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar", "2020-05-22T10:47:50.960Z")
    assert numbers(start, finish) == [(1, "ST", 2), (2, "T", 2)]
    assert start["cbReceiptReference"] == finish["cbReceiptReference"] == "233348"
    signature = data_of(start, "start-transaction-signature")
    assert data_of(finish, "start-transaction-signature") == signature
    guide.check_journal()


def test_bakery(guide: Guide) -> None:
    """Durchbedienen: an empty order at the first register, the receipt at the last."""
    empty = guide.send_text(
        """{
            "ftCashBoxID":"cashboxid-guid",
            "cbTerminalID":"Kasse 1",
            "cbReceiptReference":"B-1",
            "cbReceiptMoment":"2020-05-22T07:12:05.120Z",
            "cbChargeItems":[],
            "cbPayItems":[],
            "ftReceiptCase":4919338172267102224,
        }"""
    )
    guide.check_order(empty, "")
    assert data_of(empty, "finish-transaction-payload") == ""
    paid = guide.send_text(
        """{
            "ftCashBoxID":"cashboxid-guid",
            "cbTerminalID":"Kasse 3",
            "cbReceiptReference":"B-1",
            "cbReceiptMoment":"2020-05-22T07:14:30.500Z",
            "cbChargeItems":[
                {"Description":"Bauernbrot", "Amount":4.80, "VATRate":7.0, "ftChargeItemCase":4919338167972134914,
                 "Moment":"2020-05-22T07:12:05.120Z"},
                {"Description":"Kaffee", "Amount":2.50, "VATRate":19.0, "ftChargeItemCase":4919338167972134913,
                 "Moment":"2020-05-22T07:14:10.000Z"},
            ],
            "cbPayItems":[{"Description":"Cash", "Amount":7.30, "ftPayItemCase":4919338167972134913}],
            "ftReceiptCase":4919338172267102209,
        }"""
    )
    guide.check_receipt(paid, "Beleg^2.50_4.80_0.00_0.00_0.00^7.30:Bar", "2020-05-22T07:12:05.120Z")
    assert numbers(empty, paid) == [(1, "IT", 2), (2, "IT", 3)]
    guide.check_journal()


def test_every_step_of_the_explicit_flow(guide: Guide) -> None:
    """ST, UT, DT, T with one number; a reference that is open cannot be started again."""
    start = guide.send("start")
    steps = [
        guide.send_text(text_of("start").replace("4919338167972134920", str(DE | case)))
        for case in (0x09, 0x0A)
    ]
    with pytest.raises(ReceiptRejected, match="Transactionnumber 2 was already started") as caught:
        guide.send("start")
    assert caught.value.code == "TRANSACTION_ALREADY_STARTED"
    finish = guide.send("finish")
    assert numbers(start, *steps, finish) == [(1, "ST", 2), (2, "UT", 2), (3, "DT", 2), (4, "T", 2)]
    for step in steps:
        assert captions(step) == [
            "update-transaction-payload",
            "update-transaction-signature",
            "<processType>",
        ]


def test_the_answer_of_the_lost_finish_is_fetched(guide: Guide) -> None:
    guide.send("start")
    finish = guide.send("finish")
    again = text_of("finish").replace(
        '4919338167972134913,\n    "cbArea', f'{DE | 0x8000_0000_0001},\n    "cbArea'
    )
    assert guide.send_text(again) == finish


# ---- the guide's own QR codes -------------------------------------------------------------------------

PUBLIC_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENFFPGk1vDk92IL6tjsVQ6kpwc4TCsYNNGGoc0cN4dUPQZwOo2tuQlrQAVvMfO+XHWsnph"
    "AtN5cUbIwdtMk/Z6g=="
)


def documented_qr(numbers_and_times: str, signature: str) -> str:
    return (
        f"V0;{CLIENT_ID};Kassenbeleg-V1;Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar;{numbers_and_times};"
        f"ecdsa-plain-SHA256;utcTime;{signature};{PUBLIC_KEY}"
    )


@pytest.mark.parametrize(
    ("numbers_and_times", "signature", "valid"),
    [
        (
            "11;21;2020-05-22T11:33:01.000Z;2020-05-22T11:33:02.000Z",
            "HSmIZw0g6tpJ/UeNYutHic5PXORANAH5V9+Fon9SfCvx3A/gO7Dguaxd8Mn/YKadgfLTV7s1VzWPe/QolS6dAg==",
            True,
        ),
        (
            "94;168;2020-05-29T14:08:23.000Z;2020-05-29T14:08:24.000Z",
            "+dZ0zPEUJbjd7/vp5hA8GtbcGJvPxT/SyNiBWLxs3EzgjqL4HPFrmET/jalGD/ZiyIdZq9mx+YphP5tjCiT1pw==",
            True,
        ),
        (  # the guide prints other values than were signed: an example was edited by hand
            "10;19;2020-05-22T10:47:42.000Z;2020-05-22T10:48:17.000Z",
            "FGq8kd0kuQjHmyK8/Ca73h1mqOSRsctDfM/h7zddskjM7iKLuVs+Mwff8WCUz45kA/F2lF9kI90zny8Tnuhf/w==",
            False,
        ),
    ],
)
def test_qr_codes_of_the_guide(numbers_and_times: str, signature: str, valid: bool) -> None:
    result = verify_qr(documented_qr(numbers_and_times, signature))
    assert result.valid is valid
    assert result.serial == "ea2d4edbd67e3c13b893219870da0b48f40a8885bbdc34fe5fde6717f98214bc"
    assert bool(result.meaning) is not valid


def test_the_requests_need_the_tolerant_dialect() -> None:
    for name in ("sale", "order-1", "order-2", "payment", "start", "finish"):
        assert "// 0x4445" in text_of(name)
        with pytest.raises(json.JSONDecodeError):
            json.loads(text_of(name))
