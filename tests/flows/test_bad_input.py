"""What a POS can send wrong, over the API and over HTTP: the documented error, nothing half-written, and the
queue goes on.

Entry errors leave nothing at all. Validation errors leave a row with an error answer, but no number.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fiskal
from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import DE
from fiskal.host.http import MAX_BODY_BYTES, create_app
from fiskal.pos.prepared import MAX_ITEMS, MAX_REQUEST_BYTES
from fiskal.queue.checks import MAX_PROCESS_DATA_BYTES
from fiskal.tse.verify import verify_qr
from tests.flows.doors import post
from tests.host.test_http import running
from tests.support.shop import CASH, IMPLICIT, TRAINING, Shop, data_of

ERROR_STATE = 0x4445_2000_EEEE_EEEE
NEVER = "5f1b2c3d-0000-4000-8000-000000000000"
"""An id that is nobody's."""

Make = Callable[[Shop], bytes]


class Bad(NamedTuple):
    """A wrong request and its documented error. ``text`` is the message, or how it begins with ``…``."""

    name: str
    make: Make
    code: str
    field: str
    text: str


def raw(body: bytes) -> Make:
    return lambda shop: body


def with_members(case: int, reference: str | None = "BAD", **members: Any) -> Make:
    """A request of ``case``, implicit if that flag is in it."""

    def make(shop: Shop) -> bytes:
        request = shop.request(0x08, reference, **members)
        request["ftReceiptCase"] = case if case >> 48 else DE | case
        return json.dumps(request).encode()

    return make


def without(name: str) -> Make:
    def make(shop: Shop) -> bytes:
        request = shop.request(0x01)
        del request[name]
        return json.dumps(request).encode()

    return make


def replaced(old: str, new: str, case: int = 0x01 | IMPLICIT, **members: Any) -> Make:
    """A good request with a piece of its text replaced."""

    def make(shop: Shop) -> bytes:
        text = with_members(case, **members)(shop).decode()
        assert old in text
        return text.replace(old, new, 1).encode()

    return make


def good_sale(shop: Shop) -> bytes:
    request = shop.request(
        0x01,
        cbChargeItems=[{"Description": "Ware", "Amount": 7.5, "ftChargeItemCase": DE | 1}],
        cbPayItems=[{"Description": "Bar", "Amount": 7.5, "ftPayItemCase": CASH}],
    )
    return json.dumps(request, ensure_ascii=False).encode()


ITEM = {"Quantity": 1, "Description": "x", "Amount": 1, "ftChargeItemCase": DE | 1}
PAY = {"Amount": 1, "ftPayItemCase": CASH}
CHARGES = "cbChargeItems"
CASE = "ftReceiptCase"

# Nothing of these reaches a queue.
ENTRY = [
    Bad("empty body", raw(b""), "JSON_TRUNCATED", "", "the request ends in the middle…"),
    Bad("blank body", raw(b" \r\n\t"), "JSON_TRUNCATED", "", "the request ends in the middle…"),
    Bad("null", raw(b"null"), "JSON_TYPE", "", "a value has the wrong type…"),
    Bad("array", raw(b"[]"), "JSON_TYPE", "", "a value has the wrong type…"),
    Bad("array of requests", lambda shop: b"[" + good_sale(shop) + b"]", "JSON_TYPE", "", "a value has…"),
    Bad("string", raw(b'"sign this"'), "JSON_TYPE", "", "a value has the wrong type…"),
    Bad("number", raw(b"17"), "JSON_TYPE", "", "a value has the wrong type…"),
    Bad("no JSON", raw(b"<receipt/>"), "JSON_SYNTAX", "", "the request is not valid JSON…"),
    Bad("form data", raw(b"ftReceiptCase=1&x=2"), "JSON_SYNTAX", "", "the request is not valid JSON…"),
    Bad(
        "two requests", lambda shop: good_sale(shop) * 2, "JSON_SYNTAX", "", "the request is not valid JSON…"
    ),
    Bad("binary", raw(bytes(range(256))), "JSON_SYNTAX", "", "the request is not valid JSON…"),
    Bad(
        "UTF-16", lambda shop: good_sale(shop).decode().encode("utf-16"), "JSON_SYNTAX", "", "the request is…"
    ),
    Bad(
        "NUL bytes after it", lambda shop: good_sale(shop) + b"\0\0", "JSON_SYNTAX", "", "the request is not…"
    ),
    Bad(
        "Latin-1",
        lambda shop: good_sale(shop).replace(b"Ware", b"W\xe4re"),
        "JSON_UTF8",
        "cbChargeItems[0].Description",
        "the request is not valid UTF-8…",
    ),
    Bad(
        "half a surrogate pair",
        replaced('"T1"', '"\\ud83d"'),
        "JSON_UTF8",
        "cbTerminalID",
        "the request is not valid UTF-8…",
    ),
    Bad(
        "control character in a text",
        replaced('"T1"', '"T\n1"'),
        "JSON_SYNTAX",
        "cbTerminalID",
        "the request is not valid JSON…",
    ),
    Bad(
        "duplicate key",
        replaced('"cbTerminalID"', '"cbTerminalID":"T2","cbTerminalID"'),
        "JSON_DUPLICATE_KEY",
        "cbTerminalID",
        "a member appears twice in one object…",
    ),
    Bad(
        "duplicate key in other letters",
        replaced('"ftReceiptCase"', '"FTRECEIPTCASE":1,"ftReceiptCase"'),
        "JSON_DUPLICATE_KEY",
        CASE,
        "a member appears twice in one object…",
    ),
    Bad(
        "duplicate key in an item",
        replaced('"Amount"', '"amount":2,"Amount"', cbChargeItems=[ITEM]),
        "JSON_DUPLICATE_KEY",
        "cbChargeItems[0].Amount",
        "a member appears twice in one object…",
    ),
    Bad("text for items", with_members(1, cbChargeItems="none"), "JSON_TYPE", CHARGES, "a value has the…"),
    Bad("object for items", with_members(1, cbChargeItems={}), "JSON_TYPE", CHARGES, "a value has the…"),
    Bad("number for an item", with_members(1, cbPayItems=[PAY, 5]), "JSON_TYPE", "cbPayItems[1]", "a value…"),
    Bad(
        "null for an item", with_members(1, cbPayItems=[None]), "NULL_NOT_ALLOWED", "cbPayItems[0]", "a mem…"
    ),
    Bad(
        "text for an amount",
        with_members(1, cbChargeItems=[ITEM, {"Amount": "7,50"}]),
        "JSON_TYPE",
        "cbChargeItems[1].Amount",
        "a value has the wrong type…",
    ),
    Bad(
        "true for a text", with_members(1, cbUser=True), "JSON_TYPE", "cbUser", "a value has the wrong type…"
    ),
    Bad(
        "object for a text", with_members(1, cbUser={}), "JSON_TYPE", "cbUser", "a value has the wrong type…"
    ),
    Bad("text for the case", replaced(str(DE | 8), '"POS"', 8), "JSON_TYPE", CASE, "a value has the wrong…"),
    Bad("hex for the case", replaced(str(DE | 8), '"0x4445000000000008"', 8), "JSON_TYPE", CASE, "a value…"),
    Bad("null for the case", replaced(str(DE | 8), "null", 8), "NULL_NOT_ALLOWED", CASE, "a member that…"),
    Bad(
        "case of 65 bits",
        replaced(str(DE | 8), str(DE | 8 | 1 << 64), 8),
        "JSON_NUMBER_RANGE",
        CASE,
        "a number is not an integer of 64 bits…",
    ),
    Bad("unsigned case", replaced(str(DE | 8), str(1 << 63), 8), "JSON_NUMBER_RANGE", CASE, "a number is…"),
    Bad("broken case", replaced(str(DE | 8), "1.5", 8), "JSON_NUMBER_RANGE", CASE, "a number is not an…"),
    Bad(
        "item case beyond 64 bits",
        with_members(1, cbChargeItems=[{"ftChargeItemCase": 1 << 70}]),
        "JSON_NUMBER_RANGE",
        "cbChargeItems[0].ftChargeItemCase",
        "a number is not an integer of 64 bits…",
    ),
    Bad(
        "NaN",
        with_members(1, cbChargeItems=[{"Amount": float("nan")}]),
        "JSON_NOT_A_NUMBER",
        "cbChargeItems[0].Amount",
        "NaN and Infinity are no amounts…",
    ),
    Bad(
        "infinite",
        with_members(1, cbPayItems=[{"Quantity": float("-inf")}]),
        "JSON_NOT_A_NUMBER",
        "cbPayItems[0].Quantity",
        "NaN and Infinity are no amounts…",
    ),
    Bad(
        "an amount no decimal can hold",
        with_members(1, cbReceiptAmount=10**29),
        "DECIMAL_OVERFLOW",
        "cbReceiptAmount",
        "an amount is larger than a decimal can hold…",
    ),
    Bad(
        "deep nesting",
        replaced('"cbTerminalID"', f'"x":{"[" * 50_000}{"]" * 50_000},"cbTerminalID"'),
        "JSON_DEPTH",
        "",
        "the request is nested too deep…",
    ),
    Bad("deep and not closed", raw(b'{"a":' * 100_000), "JSON_DEPTH", "", "the request is nested too deep…"),
    Bad("no moment", without("cbReceiptMoment"), "MOMENT_MISSING", "cbReceiptMoment", "cbReceiptMoment is…"),
    Bad(
        "moment of year 1",
        with_members(1, cbReceiptMoment="0001-01-01T00:00:00Z"),
        "MOMENT_MISSING",
        "cbReceiptMoment",
        "cbReceiptMoment is missing…",
    ),
    Bad(
        "moment in German",
        with_members(1, cbReceiptMoment="22.05.2020 11:33"),
        "MOMENT_INVALID",
        "cbReceiptMoment",
        "a moment is not a date and time…",
    ),
    Bad(
        "moment of the 31st of February",
        with_members(1, cbChargeItems=[{"Moment": "2020-02-31T00:00:00Z"}]),
        "MOMENT_INVALID",
        "cbChargeItems[0].Moment",
        "a moment is not a date and time…",
    ),
    Bad(
        "10 001 items",
        with_members(0x01 | IMPLICIT, cbChargeItems=[ITEM] * (MAX_ITEMS + 1)),
        "TOO_MANY_ITEMS",
        f"cbChargeItems[{MAX_ITEMS}]",
        "the request has too many items…",
    ),
    Bad(
        "cash box id that is none",
        with_members(0x01 | IMPLICIT, ftCashBoxID="cashboxid-guid"),
        "CASH_BOX_ID_INVALID",
        "ftCashBoxID",
        "Cannot parse CashBoxId cashboxid-guid",
    ),
    Bad(
        "no cash box id", without("ftCashBoxID"), "CASH_BOX_ID_INVALID", "ftCashBoxID", "Cannot parse CashBo…"
    ),
    Bad(
        "cash box of another",
        with_members(0x01 | IMPLICIT, ftCashBoxID=NEVER),
        "CASH_BOX_ID_MISMATCH",
        "ftCashBoxID",
        "Provided CashBoxId does not match current CashBoxId",
    ),
    Bad(
        "queue of another",
        with_members(0x01 | IMPLICIT, ftQueueID=NEVER),
        "QUEUE_ID_MISMATCH",
        "ftQueueID",
        "Provided QueueId does not match current QueueId",
    ),
    Bad(
        "queue id that is none",
        with_members(0x01 | IMPLICIT, ftQueueID="queue 1"),
        "QUEUE_ID_MISMATCH",
        "ftQueueID",
        "Provided QueueId does not match current QueueId",
    ),
]

NUMBERS = (
    "If you want to close multiple transactions, pass an array value for 'CurrentStartedTransactionNumbers' via "
    "ftReceiptCaseData."
)
SPECIAL = {
    0x02: "Zero receipt",
    0x03: "Initial-operation receipt",
    0x04: "Out-of-operation receipt",
    0x05: "Monthly-closing receipt",
    0x06: "Yearly-closing receipt",
    0x07: "Daily-closing receipt",
}
STEPS = {
    0x08: "Start-transaction receipt",
    0x09: "Update-transaction receipt",
    0x0A: "Delta-transaction receipt",
}

# These become a queue item with an error answer.
VALIDATION = [
    *(
        Bad(
            f"unknown receipt case {case:#x}",
            with_members(case | IMPLICIT),
            "UNKNOWN_RECEIPT_CASE",
            CASE,
            f"ReceiptCase {DE | IMPLICIT | case:X} unknown. ProcessType …",
        )
        for case in (0x1A, 0x1B, 0xFF, 0x1000, 0xFFFF)
    ),
    Bad(
        "Austrian receipt case",
        with_members(0x4154_0001_0000_0001),
        "WRONG_COUNTRY",
        CASE,
        "ReceiptCase 4154000100000001 is not a German one: the top 16 bits are 4154, not 4445.",
    ),
    Bad(
        "negative receipt case", with_members(-1 << 63), "WRONG_COUNTRY", CASE, "ReceiptCase 80000000000000…"
    ),
    Bad(
        "order line with quantity 0 and an amount",
        with_members(0x10 | IMPLICIT, cbChargeItems=[ITEM, {**ITEM, "Quantity": 0}]),
        "QUANTITY_ZERO",
        "cbChargeItems[1]",
        "The quantity property of charge item entries must not be 0.00, unless the amount is 0.00 as well.",
    ),
    Bad(
        "foreign cash without data",
        with_members(0x01 | IMPLICIT, cbPayItems=[PAY, {"Amount": 5, "ftPayItemCase": DE | 2}]),
        "CURRENCY_DATA_MISSING",
        "cbPayItems[1]",
        "ftPayItemCaseData must not be empty when using ftPayItemCase 4445000000000002.",
    ),
    Bad(
        "foreign cash with incomplete data",
        with_members(
            0x01 | IMPLICIT,
            cbPayItems=[
                {"Amount": 5, "ftPayItemCase": DE | 2, "ftPayItemCaseData": '{"CurrencyCode":"USD"}'},
            ],
        ),
        "CURRENCY_DATA_INVALID",
        "cbPayItems[0]",
        "ftPayItemCaseData must contain a JSON object with 'ForeignCurrencyAmount' and 'CurrencyCode' when "
        "using ftPayItemCase 4445000000000002.",
    ),
    Bad(
        "order larger than a TSE takes",
        with_members(0x10 | IMPLICIT, cbChargeItems=[{"Description": "x" * 66_000, "Amount": 1}]),
        "PROCESS_DATA_TOO_LARGE",
        CHARGES,
        f"The processData of this receipt has 66009 bytes, at most {MAX_PROCESS_DATA_BYTES} can be signed.",
    ),
    *(
        Bad(
            f"explicit {what} without start",
            with_members(case, "NOBODY"),
            "TRANSACTION_NOT_FOUND",
            "cbReceiptReference",
            "No transactionnumber found for cbReceiptReference 'NOBODY'.",
        )
        for what, case in (
            ("finish", 0x01),
            ("order", 0x10),
            ("protocol", 0x14),
            ("update", 9),
            ("delta", 10),
        )
    ),
    Bad(
        "second start",
        with_members(0x08, "OPEN"),
        "TRANSACTION_ALREADY_STARTED",
        "cbReceiptReference",
        "Transactionnumber 2 was already started using cbReceiptReference 'OPEN'.",
    ),
    Bad(
        "implicit receipt for a started reference",
        with_members(0x01 | IMPLICIT, "OPEN"),
        "TRANSACTION_ALREADY_STARTED",
        "cbReceiptReference",
        "Transactionnumber 2 was already started using cbReceiptReference 'OPEN'.",
    ),
    *(
        Bad(
            f"items on 0x{case:02X}",
            with_members(case | IMPLICIT, **{member: [item]}),
            "ITEMS_NOT_ALLOWED",
            member,
            f"ReceiptCase {DE | IMPLICIT | case:X} ({name}) must not have Charge- or PayItems.",
        )
        for case, name in SPECIAL.items()
        for member, item in ((CHARGES, ITEM), ("cbPayItems", PAY))
    ),
    *(
        Bad(
            f"explicit 0x{case:02X}",
            with_members(case),
            "IMPLICIT_FLOW_REQUIRED",
            CASE,
            f"ReceiptCase {DE | case:X} ({name}) must use implicit-flow flag.",
        )
        for case, name in SPECIAL.items()
    ),
    *(
        Bad(
            f"training on 0x{case:02X}",
            with_members(case | IMPLICIT | TRAINING),
            "TRAINING_NOT_ALLOWED",
            CASE,
            f"ReceiptCase {DE | IMPLICIT | TRAINING | case:X} can not use 'TrainingMode' flag.",
        )
        for case in range(0x03, 0x08)
    ),
    *(
        Bad(
            f"implicit 0x{case:02X}",
            with_members(case | IMPLICIT),
            "EXPLICIT_FLOW_REQUIRED",
            CASE,
            f"ReceiptCase {DE | IMPLICIT | case:X} ({name}) can not use implicit-flow flag.",
        )
        for case, name in STEPS.items()
    ),
    Bad(
        "implicit fail of one transaction",
        with_members(0x0B | IMPLICIT, "OPEN"),
        "EXPLICIT_FLOW_REQUIRED",
        CASE,
        "ReceiptCase 444500010000000B (fail-transaction-receipt) cannot use implicit-flow flag when a single "
        "transaction should be failed.",
    ),
    Bad(
        "explicit fail of several transactions",
        with_members(0x0B, "", ftReceiptCaseData='{"CurrentStartedTransactionNumbers":[2]}'),
        "IMPLICIT_FLOW_REQUIRED",
        CASE,
        "ReceiptCase 444500000000000B (fail-transaction-receipt) must use implicit-flow flag when multiple "
        "transactions should be failed.",
    ),
    Bad(
        "fail of a transaction nobody started",
        with_members(0x0B, "NOBODY"),
        "TRANSACTION_NOT_FOUND",
        "cbReceiptReference",
        f"No open transaction found for cbReceiptReference 'NOBODY'. {NUMBERS}",
    ),
    *(
        Bad(
            f"fail of several with case data {data!r}",
            with_members(0x0B | IMPLICIT, "", ftReceiptCaseData=data),
            "TRANSACTION_NUMBERS_MISSING",
            "ftReceiptCaseData",
            f"CbReceiptReference must be set for one transaction! {NUMBERS}",
        )
        for data in (None, "", "{}", "[2]", '{"CurrentStartedTransactionNumbers":2}', '{"Current')
    ),
    Bad(
        "daily closing that shall fail on open transactions",
        with_members(0x07 | IMPLICIT | 0x1000_0000),
        "OPEN_TRANSACTIONS",
        CASE,
        "The ftReceiptCaseFlag '0x0000000010000000' was set, and 1 open transactions exist. If you want these "
        "transactions to be closed automatically, omit this flag.",
    ),
    Bad(
        "SCU switch",
        with_members(0x17 | IMPLICIT),
        "SCU_SWITCH_WITHOUT_CLOSING",
        CASE,
        "ReceiptCase 4445000100000017 (initiate-scu-switch-receipt) can only be called right after a daily-closing "
        "receipt.If no daily-closing receipt can be done or the tse is not reachable use the "
        "Initiate-ScuSwitch-Force-Flag.",
    ),
]


class Counters(NamedTuple):
    """What must not move by accident."""

    queued_row: int
    current_row: int
    numerator: int
    items: int
    receipts: int
    fail_count: int
    signatures: int
    open_on_tse: list[int]
    open_references: list[str]


class Rig:
    """A shop with one open transaction, and a client over a real socket."""

    def __init__(self, shop: Shop, connection: http.client.HTTPConnection) -> None:
        self.shop = shop
        self.connection = connection
        self.sales = 0
        self.errors = 0
        shop.send(0x08, "OPEN")

    def counters(self) -> Counters:
        shop = self.shop
        row, info = shop.row, shop.tse.scu.get_tse_info()
        return Counters(
            shop.middleware.status()["queues"][0]["ftQueuedRow"],
            row.ftCurrentRow,
            row.ftReceiptNumerator,
            len(list(shop.middleware.store.iter_items_by_row(row.queue_no))),
            len(list(shop.middleware.store.iter_receipts_by_number(row.queue_no))),
            row.SSCDFailCount,
            info.current_number_of_signatures,
            info.current_started_transaction_numbers,
            shop.open_references(),
        )

    def over_api(self, body: bytes) -> ReceiptRejected:
        with pytest.raises(ReceiptRejected) as caught:
            self.shop.middleware.sign_json(body)
        assert str(caught.value) == caught.value.message
        return caught.value

    def over_http(self, body: bytes) -> ReceiptRejected:
        response, text = post(self.connection, body)
        assert response.status == 400, text
        assert response.headers["Content-Type"] == "application/problem+json"
        problem = json.loads(text)
        assert set(problem) - {"response"} == {"title", "status", "detail", "code", "field", "hint"}
        assert (problem["title"], problem["status"]) == ("Bad Request", 400)
        stored = json.dumps(problem["response"]) if "response" in problem else None
        return ReceiptRejected(
            problem["code"], problem["detail"], field=problem["field"], hint=problem["hint"], response=stored
        )

    def sell(self) -> None:
        """The queue keeps working: a good receipt is answered, signed and next in line."""
        before = self.counters()
        self.sales += 1
        answer = json.loads(self.shop.middleware.sign_json(good_sale(self.shop)))
        assert answer["ftState"] == DE
        assert answer["ftQueueRow"] == before.current_row + 1
        assert answer["ftReceiptIdentification"].startswith(f"ft{before.numerator:X}#IT")
        assert verify_qr(data_of(answer, "www.fiskaltrust.de")).valid

    def check_journal(self) -> None:
        report = verify_journal(self.shop.middleware.store, self.shop.row)
        assert report.ok, report.problems
        assert report.counts["unanswered"] == 0
        assert report.counts["errors"] == self.errors


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    with running(create_app(shop.middleware, close_middleware=False)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            made = Rig(shop, connection)
            yield made
            made.check_journal()
    shop.close()


def check_error(bad: Bad, error: ReceiptRejected) -> None:
    assert (error.code, error.field) == (bad.code, bad.field)
    if bad.text.endswith("…"):
        assert error.message.startswith(bad.text[:-1])
    else:
        assert error.message == bad.text
    assert error.hint
    assert "Traceback" not in error.message


@pytest.mark.parametrize("over", ["api", "http"])
@pytest.mark.parametrize("bad", ENTRY, ids=lambda bad: bad.name)
def test_entry_errors_leave_nothing(rig: Rig, bad: Bad, over: str) -> None:
    before = rig.counters()
    error = getattr(rig, f"over_{over}")(bad.make(rig.shop))
    check_error(bad, error)
    assert error.response is None
    assert rig.counters() == before
    rig.sell()


@pytest.mark.parametrize("over", ["api", "http"])
@pytest.mark.parametrize("bad", VALIDATION, ids=lambda bad: bad.name)
def test_validation_errors_leave_a_row_without_number(rig: Rig, bad: Bad, over: str) -> None:
    before = rig.counters()
    error = getattr(rig, f"over_{over}")(bad.make(rig.shop))
    rig.errors += 1
    check_error(bad, error)
    assert rig.counters() == before._replace(
        queued_row=before.queued_row + 1, current_row=before.current_row + 1, items=before.items + 1
    )
    stored = json.loads(error.response or "")
    assert stored["ftQueueRow"] == before.current_row + 1
    assert stored["ftReceiptIdentification"] == ""
    country = json.loads(bad.make(rig.shop))["ftReceiptCase"] & 0xFFFF_0000_0000_0000
    assert stored["ftState"] & 0xFFFF_FFFF_FFFF_FFFF == country | 0x2000_EEEE_EEEE
    (item,) = stored["ftSignatures"]
    assert item["Caption"] == "uncaught-exeption"
    assert item["Data"] == f"{error.code}: {error.message}"
    found = rig.shop.middleware.store.item(stored["ftQueueItemID"])
    assert found is not None
    assert found.answer is not None
    assert json.loads(found.answer.response) == stored
    rig.sell()


def test_truncated_at_many_places(rig: Rig) -> None:
    body = good_sale(rig.shop)
    before = rig.counters()
    for length in range(0, len(body) - 1, 7):
        assert rig.over_api(body[:length]).code == "JSON_TRUNCATED"
    for length in range(0, len(body) - 1, 41):
        assert rig.over_http(body[:length]).code == "JSON_TRUNCATED"
    assert rig.counters() == before
    rig.sell()


def test_a_connection_that_breaks_off_in_the_body(rig: Rig) -> None:
    before = rig.counters()
    body = good_sale(rig.shop)
    connection = http.client.HTTPConnection("127.0.0.1", rig.connection.port, timeout=60)
    connection.putrequest("POST", "/json/v1/sign")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:-1])
    connection.close()
    rig.sell()
    after = rig.counters()
    assert after.items == before.items + 1


def test_oversized_body(rig: Rig) -> None:
    before = rig.counters()
    body = good_sale(rig.shop) + b" " * MAX_REQUEST_BYTES
    error = rig.over_api(body)
    assert error.code == "JSON_TOO_LARGE"
    assert error.message == f"the request has {len(body)} bytes, at most {MAX_REQUEST_BYTES} are allowed"
    response, text = post(rig.connection, b" " * (MAX_BODY_BYTES + 1))
    problem = json.loads(text)
    assert (response.status, problem["status"], problem["code"]) == (413, 413, "PAYLOAD_TOO_LARGE")
    assert problem["hint"]
    rig.connection.close()  # the server may have hung up on so large a body
    assert rig.counters() == before
    rig.sell()


def test_ten_thousand_items_are_not_too_many(rig: Rig) -> None:
    items = [{"Amount": 0.01, "ftChargeItemCase": DE | 1}] * (MAX_ITEMS - 1)
    request = rig.shop.request(0x01, cbChargeItems=items, cbPayItems=[{**PAY, "Amount": 99.99}])
    answer = rig.shop.post(request)
    assert data_of(answer, "<processData>") == "Beleg^99.99_0.00_0.00_0.00_0.00^99.99:Bar"


def test_typed_requests_are_refused_like_their_json(rig: Rig) -> None:
    def refused(**members: Any) -> tuple[str, str]:
        request = fiskal.ReceiptRequest(
            **{
                "ft_cash_box_id": rig.shop.config.cash_box_id,
                "cb_receipt_moment": "2024-01-01T00:00:00Z",
                "ft_receipt_case": DE | IMPLICIT | 1,
                **members,
            }
        )
        with pytest.raises(ReceiptRejected) as caught:
            rig.shop.middleware.sign(request)
        return caught.value.code, caught.value.field

    before = rig.counters()
    nan = Decimal("NaN")
    assert refused(cb_receipt_amount=nan) == ("JSON_NOT_A_NUMBER", "cbReceiptAmount")
    assert refused(cb_pay_items=[fiskal.PayItem(), fiskal.PayItem(amount=-Decimal("inf"))]) == (
        "JSON_NOT_A_NUMBER",
        "cbPayItems[1].Amount",
    )
    assert refused(cb_user="\ud83d") == ("JSON_UTF8", "")
    assert refused(cb_receipt_moment=None) == ("NULL_NOT_ALLOWED", "cbReceiptMoment")
    assert refused(cb_receipt_moment="soon") == ("MOMENT_INVALID", "cbReceiptMoment")
    assert refused(ft_cash_box_id=None) == ("CASH_BOX_ID_INVALID", "ftCashBoxID")
    assert refused(cb_charge_items=[5]) == ("JSON_TYPE", "cbChargeItems[0]")
    assert refused(cb_charge_items=[fiskal.ChargeItem(ft_charge_item_case=1 << 64)]) == (
        "JSON_NUMBER_RANGE",
        "cbChargeItems[0].ftChargeItemCase",
    )
    with pytest.raises(ReceiptRejected, match="wrong type"):
        rig.shop.middleware.sign(None)  # type: ignore[arg-type]
    assert rig.counters() == before
    rig.sell()


# ---- texts that are strange but allowed -------------------------------------------------------------------

STRANGE = {
    "NUL": "a\0b",
    "ESC": "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "emoji": "☕ 👩‍👩‍👧 🇩🇪 \U0010ffff",
    "right to left": "مخبز \u202eevil\u202c שלום",
    "lines": "a\r\nb\x85c\u2028d\u2029e\tf",
    "separators": '";^_:|;"";\\',
    "combining": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "noncharacters": "\ufffe\uffff\ufeff",
}
REFERENCES = [
    "a/b",
    "a\\b",
    "#1",
    "?x=1&y=2",
    "../../etc/passwd",
    "%2F%00",
    "'; DROP TABLE ftQueue; --",
    "R" * 5000,
]


@pytest.mark.parametrize("over", ["api", "http"])
@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_strange_texts_are_signed_and_come_back_as_they_were(rig: Rig, text: str, over: str) -> None:
    reference = f"{text}-{over}"
    request = rig.shop.request(
        0x10,
        reference,
        cbTerminalID=text,
        cbUser=text,
        cbArea=text,
        cbChargeItems=[{**ITEM, "Description": text}],
    )
    body = json.dumps(request).encode()
    if over == "http":
        response, answered = post(rig.connection, body)
        assert response.status == 200, answered
    else:
        answered = rig.shop.middleware.sign_json(body)
    answer = json.loads(answered)
    assert answer["ftState"] == DE
    assert answer["cbReceiptReference"] == reference
    assert answer["cbTerminalID"] == text
    escaped = text.replace('"', '""')
    assert data_of(answer, "<processData>") == f'1;"{escaped}";1.00'
    assert verify_qr(data_of(answer, "www.fiskaltrust.de")).valid
    again = {**request, "ftReceiptCase": request["ftReceiptCase"] | 0x8000_0000_0000}
    assert rig.shop.middleware.sign_json(json.dumps(again).encode()) == answered


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: reference[:20])
def test_references_may_hold_any_character(rig: Rig, reference: str) -> None:
    shop = rig.shop
    start = shop.send(0x08, reference)
    assert start["cbReceiptReference"] == reference
    assert reference in shop.open_references()
    with pytest.raises(ReceiptRejected) as caught:
        shop.send(0x08, reference)
    rig.errors += 1
    assert caught.value.message.endswith(f"was already started using cbReceiptReference '{reference}'.")
    finish = shop.sale(reference, flow="explicit")
    assert (
        finish["ftReceiptIdentification"].split("#T")[1] == start["ftReceiptIdentification"].split("#ST")[1]
    )
    assert reference not in shop.open_references()


# ---- a queue that is not in operation ---------------------------------------------------------------------


def test_a_new_queue_answers_out_of_service_before_it_looks_at_the_receipt(new_shop: Shop) -> None:
    for bad in VALIDATION:
        body = bad.make(new_shop)
        if json.loads(body)["ftReceiptCase"] & 0xFFFF == 0x03:
            continue
        assert json.loads(new_shop.middleware.sign_json(body))["ftState"] == DE + 1, bad.name
    assert new_shop.send(0x03)["ftState"] == DE


def test_a_start_receipt_with_items_can_be_repeated_without(new_shop: Shop) -> None:
    with pytest.raises(ReceiptRejected) as caught:
        new_shop.send(0x03, "INIT", cbChargeItems=[ITEM])
    assert caught.value.code == "ITEMS_NOT_ALLOWED"
    assert new_shop.row.StartMoment is None
    assert new_shop.send(0x03, "INIT")["ftReceiptIdentification"] == "ft0#IT1"


def test_errors_survive_a_restart(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with pytest.raises(ReceiptRejected):
        shop.send(0x01, "NOBODY", flow="explicit")
    shop.reopen()
    assert shop.sale()["ftQueueRow"] == 3
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["errors"] == 1
    shop.close()
