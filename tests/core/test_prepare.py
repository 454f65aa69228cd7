"""From the bytes of a POS to what the queue needs: dialect, canonical text, refusals."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal import core
from fiskal.errors import ReceiptRejected
from fiskal.pos.prepared import MAX_ITEMS, MAX_REQUEST_BYTES, prepare

DE = 0x4445_0000_0000_0000
MOMENT = "2024-03-05T18:30:00Z"
CHARGE = (
    '{"Quantity":1.0,"Description":"Kaffe Hag","Amount":4.00,"VATRate":19.0000,'
    '"ftChargeItemCase":4919338167972134913,"ftChargeItemCaseData":"","AccountNumber":"","CostCenter":"",'
    '"ProductGroup":"","ProductNumber":"","ProductBarcode":"","Unit":"","Moment":"2020-05-22T10:48:03.96Z"}'
)
PAY = (
    '{"Quantity":1.0,"Description":"Cash","Amount":7.50,"ftPayItemCase":4919338167972134913,'
    '"ftPayItemCaseData":"","AccountNumber":"","CostCenter":"","MoneyGroup":"","MoneyNumber":"",'
    '"Moment":"2020-05-22T10:48:10.26Z"}'
)
EMPTY = (
    '{"ftCashBoxID":"","cbTerminalID":"","cbReceiptReference":"","cbReceiptMoment":"2024-03-05T18:30:00Z",'
    '"cbChargeItems":[],"cbPayItems":[],"ftReceiptCase":0}'
)


def request(**members: Any) -> bytes:
    return json.dumps({"cbReceiptMoment": MOMENT, **members}, ensure_ascii=False).encode()


def canonical(text: str | bytes) -> str:
    return prepare(text.encode() if isinstance(text, str) else text).canonical.decode()


def with_member(member: str) -> str:
    return f'{{"cbReceiptMoment":"{MOMENT}",{member}}}'


def refusal(data: str | bytes, **options: Any) -> ReceiptRejected:
    with pytest.raises(ReceiptRejected) as caught:
        prepare(data.encode() if isinstance(data, str) else data, **options)
    assert caught.value.hint
    return caught.value


# ---- canonical text ---------------------------------------------------------------------------------


def test_defaults() -> None:
    assert canonical(request()) == EMPTY


def test_items_get_their_defaults() -> None:
    sent = request(
        cbChargeItems=[
            {
                "Quantity": 1.0,
                "Description": "Kaffe Hag",
                "Amount": 4,
                "VATRate": "19.0000",
                "ftChargeItemCase": DE | 1,
                "Moment": "2020-05-22T10:48:03.96Z",
            }
        ],
        cbPayItems=[
            {
                "Description": "Cash",
                "Amount": "7.50",
                "ftPayItemCase": DE | 1,
                "Moment": "2020-05-22T10:48:10.26Z",
            }
        ],
    )
    expected = EMPTY.replace('"cbChargeItems":[]', f'"cbChargeItems":[{CHARGE.replace("4.00", "4.0")}]')
    assert canonical(sent) == expected.replace('"cbPayItems":[]', f'"cbPayItems":[{PAY}]')


def test_start_transaction() -> None:
    text = (
        '{"ftCashBoxID":"...","ftPosSystemId":"...","cbTerminalID":"T1","cbReceiptReference":"233348",'
        '"cbReceiptMoment":"2020-05-22T10:47:40.96Z","cbChargeItems":[],"cbPayItems":[],'
        '"ftReceiptCase":4919338167972134920,"cbArea":"Scannerkasse 14"}'
    )
    assert canonical(text) == text
    shuffled = json.dumps(dict(reversed(json.loads(text).items())))
    assert canonical(shuffled) == text


def test_nulls() -> None:
    sent = request(
        ftCashBoxID=None,
        ftQueueID=None,
        cbTerminalID=None,
        cbReceiptAmount=None,
        cbChargeItems=[{"Description": None, "Unit": None, "VATAmount": None, "Moment": None}],
        cbPayItems=None,
    )
    prepared = prepare(sent)
    text = prepared.canonical.decode()
    assert '"ftCashBoxID":null' in text
    assert '"cbTerminalID":null' in text
    assert '"Description":null' in text
    assert '"cbPayItems":[]' in text
    for name in ("ftQueueID", "cbReceiptAmount", "Unit", "VATAmount", '"Moment"'):
        assert name not in text
    assert (prepared.cash_box_id, prepared.terminal_id, prepared.receipt_reference) == (None, None, "")
    assert (prepared.queue_id, prepared.receipt_case_data) == (None, None)


def test_every_member_in_its_place() -> None:
    item_texts = ("AccountNumber", "CostCenter", "ProductGroup", "ProductNumber", "ProductBarcode", "Unit")
    charge = {
        "Position": 3,
        "Quantity": 2.5,
        "Description": "d",
        "Amount": 1.25,
        "VATRate": 7.0,
        "ftChargeItemCase": DE | 2,
        "ftChargeItemCaseData": "{}",
        "VATAmount": 0.08,
        **dict.fromkeys(item_texts, "x"),
        "UnitQuantity": 1.5,
        "UnitPrice": 0.5,
        "Moment": "2024-03-05T18:00:00Z",
    }
    pay = {
        "Position": 1,
        "Quantity": 1.0,
        "Description": "p",
        "Amount": 1.25,
        "ftPayItemCase": DE | 1,
        "ftPayItemCaseData": "{}",
        "AccountNumber": "a",
        "CostCenter": "b",
        "MoneyGroup": "c",
        "MoneyNumber": "d",
        "Moment": "2024-03-05T18:10:00Z",
    }
    receipt = {
        "ftCashBoxID": "a",
        "ftQueueID": "b",
        "ftPosSystemId": "c",
        "cbTerminalID": "d",
        "cbReceiptReference": "e",
        "cbReceiptMoment": MOMENT,
        "cbChargeItems": [charge],
        "cbPayItems": [pay],
        "ftReceiptCase": DE | 1,
        "ftReceiptCaseData": '{"a":1}',
        "cbReceiptAmount": 1.25,
        "cbUser": "u",
        "cbArea": "v",
        "cbCustomer": "w",
        "cbSettlement": "x",
        "cbPreviousReceiptReference": "y",
    }
    text = json.dumps(receipt, separators=(",", ":"))
    assert canonical(text) == text
    upside_down = dict(reversed(receipt.items()))
    upside_down["cbChargeItems"] = [dict(reversed(charge.items()))]
    assert canonical(json.dumps(upside_down)) == text
    prepared = prepare(text.encode())
    assert prepared.request_hash == hashlib.sha256(text.encode()).digest()
    assert (prepared.queue_id, prepared.pos_system_id, prepared.previous_receipt_reference) == ("b", "c", "y")
    assert (prepared.terminal_id, prepared.receipt_reference, prepared.receipt_case_data) == (
        "d",
        "e",
        '{"a":1}',
    )


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ('"\\/ \\u00e4 \\u0041"', '"/ ä A"'),
        ('"\\ud83d\\ude00"', '"😀"'),
        ('"\\b\\f\\n\\r\\t\\u0001\\u001F\\u0000"', '"\\b\\f\\n\\r\\t\\u0001\\u001f\\u0000"'),
        ('"\\"\\\\"', '"\\"\\\\"'),
        ('"\x85\u2028\u2029"', '"\\u0085\\u2028\\u2029"'),
        ('"\\u0085\\u2028\\u2029"', '"\\u0085\\u2028\\u2029"'),
        ('"\x7f\x84\x86\u2027\u202a<>&\'+"', '"\x7f\x84\x86\u2027\u202a<>&\'+"'),
        ("5", '"5"'),
        ("-1.50e3", '"-1.50e3"'),
    ],
)
def test_text_escapes(sent: str, stored: str) -> None:
    text = canonical(with_member(f'"cbUser":{sent}'))
    assert text.endswith(f'"cbUser":{stored}}}')
    assert canonical(text) == text
    assert prepare(with_member(f'"cbTerminalID":{sent}').encode()).terminal_id == json.loads(stored)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("1", "1.0"),
        ("3.50", "3.50"),
        ("-0", "0.0"),
        ("-0.00", "0.00"),
        ("1e3", "1000.0"),
        ("1.5E-3", "0.0015"),
        ('"3.50"', "3.50"),
        ('"\\u0033.50"', "3.50"),
        ("0.6067226890756302521008403361", "0.6067226890756302521008403361"),
        ("900.00", "900.00"),
    ],
)
def test_decimals(sent: str, stored: str) -> None:
    assert f'"cbReceiptAmount":{stored}}}' in canonical(with_member(f'"cbReceiptAmount":{sent}'))
    assert prepare(with_member(f'"cbReceiptAmount":{sent}').encode()).total == stored


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ("4919338172267102209", DE | 0x1_0000_0001),
        ('"4919338172267102209"', DE | 0x1_0000_0001),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1.0", 1),
        ("1e3", 1000),
        ("1.50e1", 15),
        ("10e-1", 1),
        ("0e99", 0),
        ("0.000", 0),
    ],
)
def test_integers(sent: str, value: int) -> None:
    prepared = prepare(with_member(f'"ftReceiptCase":{sent}').encode())
    assert prepared.receipt_case == value
    assert f'"ftReceiptCase":{value}' in prepared.canonical.decode()


# ---- dialect ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        f'{{"CBRECEIPTMOMENT":"{MOMENT}"}}',
        f'{{"cbReceiptMoment":"{MOMENT}",}}',
        f'{{"cbreceiptmoment":"{MOMENT}","cbChargeItems":[],"unknown":{{"a":[1,2,{{"b":null,}},],}},}}',
        f'\ufeff // a note\n{{ /* "x */ "cbReceiptMoment" /**/ : // y\r\n "{MOMENT}" }} // end',
        f'{{"cb\\u0052eceiptMoment":"{MOMENT}"}}',
        '{"cbReceiptMoment":"2024-03-05T20:30:00+02:00"}',
        '{"cbReceiptMoment":"2024-03-05T18:30:00"}',
        '{"cbReceiptMoment":"\\/Date(1709663400000)\\/"}',
        '{"cbReceiptMoment":"\\\\/Date(1709663400000+0100)\\\\/"}',
        with_member('"cbChargeItems":null,"cbPayItems":null'),
        with_member('"ftCashBoxId":"","ftreceiptcase":"0"'),
    ],
)
def test_tolerated(sent: str) -> None:
    assert canonical(sent) == EMPTY


@pytest.mark.parametrize(
    ("sent", "code", "field"),
    [
        ("", "JSON_TRUNCATED", ""),
        ("[]", "JSON_TYPE", ""),
        ("null", "JSON_TYPE", ""),
        ("{}", "MOMENT_MISSING", "cbReceiptMoment"),
        ('{"cbReceiptMoment":"0001-01-01T00:00:00"}', "MOMENT_MISSING", "cbReceiptMoment"),
        ('{"cbReceiptMoment":null}', "NULL_NOT_ALLOWED", "cbReceiptMoment"),
        ('{"cbReceiptMoment":"yesterday"}', "MOMENT_INVALID", "cbReceiptMoment"),
        ('{"cbReceiptMoment":5}', "JSON_TYPE", "cbReceiptMoment"),
        (EMPTY + "x", "JSON_SYNTAX", ""),
        (EMPTY + EMPTY, "JSON_SYNTAX", ""),
        (with_member('"cbUser":"a" "cbArea":"b"'), "JSON_SYNTAX", "cbUser"),
        (with_member(","), "JSON_SYNTAX", ""),
        (with_member('"cbUser":"a\nb"'), "JSON_SYNTAX", "cbUser"),
        (with_member('"cbUser":"\\x"'), "JSON_SYNTAX", "cbUser"),
        (with_member('"cbUser":"\\u12g4"'), "JSON_SYNTAX", "cbUser"),
        (with_member('"cbUser":true'), "JSON_TYPE", "cbUser"),
        (with_member('"cbUser":{}'), "JSON_TYPE", "cbUser"),
        (with_member('"cbUser":nul'), "JSON_SYNTAX", "cbUser"),
        (with_member('"unknown":tru'), "JSON_SYNTAX", ""),
        (with_member("'cbUser':1"), "JSON_SYNTAX", ""),
        (with_member('"cbReceiptAmount":01'), "JSON_SYNTAX", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":1.'), "JSON_SYNTAX", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":+1'), "JSON_SYNTAX", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":"0x10"'), "JSON_TYPE", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":""'), "JSON_TYPE", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":NaN'), "JSON_NOT_A_NUMBER", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":-Infinity'), "JSON_NOT_A_NUMBER", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":"NaN"'), "JSON_NOT_A_NUMBER", "cbReceiptAmount"),
        (with_member('"cbReceiptAmount":1e29'), "DECIMAL_OVERFLOW", "cbReceiptAmount"),
        (with_member('"ftReceiptCase":9223372036854775808'), "JSON_NUMBER_RANGE", "ftReceiptCase"),
        (with_member('"ftReceiptCase":-9223372036854775809'), "JSON_NUMBER_RANGE", "ftReceiptCase"),
        (with_member('"ftReceiptCase":1.5'), "JSON_NUMBER_RANGE", "ftReceiptCase"),
        (with_member('"ftReceiptCase":1e99'), "JSON_NUMBER_RANGE", "ftReceiptCase"),
        (with_member('"ftReceiptCase":null'), "NULL_NOT_ALLOWED", "ftReceiptCase"),
        (with_member('"ftReceiptCase":"0x4445000000000001"'), "JSON_TYPE", "ftReceiptCase"),
        (with_member('"cbChargeItems":{}'), "JSON_TYPE", "cbChargeItems"),
        (with_member('"cbChargeItems":[null]'), "NULL_NOT_ALLOWED", "cbChargeItems[0]"),
        (with_member('"cbChargeItems":[{},5]'), "JSON_TYPE", "cbChargeItems[1]"),
        (with_member('"cbChargeItems":[{},{"Amount":null}]'), "NULL_NOT_ALLOWED", "cbChargeItems[1].Amount"),
        (with_member('"cbPayItems":[{"AMOUNT":1,"amount":2}]'), "JSON_DUPLICATE_KEY", "cbPayItems[0].Amount"),
        (with_member('"cbUser":"a","cbUser":"a"'), "JSON_DUPLICATE_KEY", "cbUser"),
        (with_member('"cbUser":null,"CBUSER":null'), "JSON_DUPLICATE_KEY", "cbUser"),
        (with_member('"cbPayItems":[],"cbPayItems":[]'), "JSON_DUPLICATE_KEY", "cbPayItems"),
        (with_member('"cbPayItems":[{"Moment":"x"}]'), "MOMENT_INVALID", "cbPayItems[0].Moment"),
        (with_member('"unknown":' + "[" * 40 + "]" * 40), "JSON_DEPTH", ""),
        (with_member('"cbUser":"\\ud800"'), "JSON_UTF8", "cbUser"),
        (with_member('"cbUser":"\\udc00\\ud800"'), "JSON_UTF8", "cbUser"),
        (with_member('"cbUser":"\\ud800\\u0041"'), "JSON_UTF8", "cbUser"),
    ],
)
def test_refused(sent: str, code: str, field: str) -> None:
    error = refusal(sent)
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff",
        b"\xc3",
        b"\xc0\xaf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
    ],
)
def test_invalid_utf8(bad: bytes) -> None:
    for member in (b'"cbUser":"' + bad + b'"', b'"' + bad + b'":1', b"/*" + bad + b'*/"x":["' + bad + b'"]'):
        data = b'{"cbReceiptMoment":"' + MOMENT.encode() + b'",' + member + b"}"
        assert refusal(data).code == "JSON_UTF8"


def test_truncated_at_every_byte() -> None:
    text = EMPTY.replace('"cbPayItems":[]', f'"cbPayItems":[{PAY}]').replace(
        '"cbChargeItems":[]', f'"cbChargeItems":[{CHARGE}]'
    )
    for length in range(len(text)):
        assert refusal(text[:length]).code == "JSON_TRUNCATED", text[:length]
    prepare(text.encode())


def test_deep_but_allowed() -> None:
    assert canonical(with_member('"unknown":' + "[" * 31 + "]" * 31)) == EMPTY


def test_limits() -> None:
    items = with_member(
        '"cbChargeItems":[' + ",".join(["{}"] * 6) + '],"cbPayItems":[' + ",".join(["{}"] * 5) + "]"
    )
    assert prepare(items.encode(), max_items=11).charge_count == 6
    error = refusal(items, max_items=10)
    assert (error.code, error.field) == ("TOO_MANY_ITEMS", "cbPayItems[4]")
    assert refusal(b" " * (MAX_REQUEST_BYTES + 1)).code == "JSON_TOO_LARGE"
    many = request(cbChargeItems=[{"Description": "Ä" * 40, "Amount": 1}] * MAX_ITEMS)
    prepared = prepare(many)
    assert (prepared.charge_count, prepared.total) == (MAX_ITEMS, "10000.0")
    assert refusal(request(cbChargeItems=[{}] * (MAX_ITEMS + 1))).code == "TOO_MANY_ITEMS"


@pytest.mark.parametrize("size", [60_000, 70_000, 1_000_000])
def test_text_that_outgrows_the_arena(size: int) -> None:
    description = '"\u2028' * size
    prepared = prepare(request(ftReceiptCase=DE | 0x10, cbChargeItems=[{"Description": description}]))
    assert json.loads(prepared.canonical)["cbChargeItems"][0]["Description"] == description
    assert prepared.process_data == f'1;"{description.replace(chr(34), chr(34) * 2)}";0.00'.encode()


# ---- what the queue needs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("receipt", "charges", "pays", "start", "complete"),
    [
        (
            "2024-03-05T18:30:00.500Z",
            ["2024-03-05T17:01:02.003Z", "2024-03-05T18:00:00Z"],
            ["2024-03-05T18:29:59.999Z"],
            "2024-03-05T17:01:02.003Z",
            True,
        ),
        (MOMENT, [None], [None], "2024-03-05T18:30:00.000Z", False),
        ("2024-03-05T20:00:00Z", [], None, "2024-03-05T20:00:00.000Z", False),
        (MOMENT, ["2024-03-05T18:10:00Z"], ["2024-03-05T17:59:59.9995Z"], "2024-03-05T17:59:59.999Z", True),
        (MOMENT, ["2024-03-05T19:15:00+02:00"], [], "2024-03-05T17:15:00.000Z", False),
        (MOMENT, ["0001-01-01T00:00:00"], ["2024-03-05T18:31:00Z"], "2024-03-05T18:30:00.000Z", False),
    ],
)
def test_action_start(
    receipt: str, charges: list[str | None], pays: list[str | None] | None, start: str, complete: bool
) -> None:
    prepared = prepare(
        request(
            cbReceiptMoment=receipt,
            cbChargeItems=[{"Moment": moment} for moment in charges],
            cbPayItems=pays and [{"Moment": moment} for moment in pays],
        )
    )
    assert core.format_ticks_ms(prepared.action_start_ticks) == start
    assert prepared.moments_complete is complete
    assert prepared.receipt_moment_ticks == core.parse_moment(receipt)


def test_sums() -> None:
    items = [{"Amount": "5.00", "Quantity": -1}, {"Amount": "0.125"}]
    prepared = prepare(request(ftReceiptCase=1, cbChargeItems=items, cbPayItems=[{"Amount": -4.875}]))
    assert (prepared.total, prepared.charge_sum, prepared.pay_sum) == ("5.125", "-4.875", "-4.875")
    assert prepared.balanced
    unbalanced = prepare(request(ftReceiptCase=1, cbChargeItems=items))
    assert not unbalanced.balanced
    assert prepare(request(ftReceiptCase=0x10, cbChargeItems=items)).balanced
    assert prepare(request(cbReceiptAmount=7, cbChargeItems=items)).total == "7.0"


@given(
    st.lists(
        st.decimals(
            allow_nan=False, allow_infinity=False, min_value=-(10**28), max_value=10**28, places=None
        ),
        max_size=6,
    )
)
def test_total_is_exact(amounts: list[Decimal]) -> None:
    sent = ",".join(f'{{"Amount":{amount:f}}}' for amount in amounts)
    prepared = prepare(with_member(f'"cbChargeItems":[{sent}]').encode())
    stored = json.loads(prepared.canonical, parse_float=Fraction)["cbChargeItems"]
    assert Fraction(prepared.total) == sum(item["Amount"] for item in stored)


def test_payload_error_leaves_the_identity_readable() -> None:
    prepared = prepare(
        request(
            ftCashBoxID="box",
            ftReceiptCase=DE | 1,
            cbPayItems=[{"ftPayItemCase": DE | 1}, {"Amount": 1, "ftPayItemCase": DE | 2}],
        )
    )
    assert prepared.cash_box_id == "box"
    assert (prepared.process_data, prepared.process_data_base64) == (None, None)
    error = prepared.payload_error()
    assert error is not None
    assert error.message == "ftPayItemCaseData must not be empty when using ftPayItemCase 4445000000000002."
    assert (error.code, error.field) == ("CURRENCY_DATA_MISSING", "cbPayItems[1]")
    assert '{"CurrencyCode"' in error.hint


def test_raw_hash_is_over_the_bytes_as_sent() -> None:
    data = b" " + request()
    assert prepare(data).raw_hash == hashlib.sha256(data).digest()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
AMOUNTS = st.decimals(-(10**9), 10**9, allow_nan=False, places=4).map(float)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {"Description": TEXTS, "Amount": AMOUNTS, "Quantity": AMOUNTS},
        optional={
            "Unit": TEXTS,
            "Position": st.integers(0, 99),
            "ftPayItemCaseData": TEXTS,
            "Nothing": TEXTS,
        },
    ),
    max_size=4,
)


@given(ITEMS, ITEMS, TEXTS, st.integers(-(2**63), 2**63 - 1), st.booleans())
def test_canonical_text_is_its_own_canonical_text(
    charges: list[Any], pays: list[Any], user: str, case: int, ascii_only: bool
) -> None:
    members = {"cbReceiptMoment": MOMENT, "cbChargeItems": charges, "cbPayItems": pays, "ftReceiptCase": case}
    first = prepare(json.dumps(members | {"cbUser": user}, ensure_ascii=ascii_only).encode())
    second = prepare(first.canonical)
    assert second.canonical == first.canonical
    assert (second.process_data, second.warnings) == (first.process_data, first.warnings)
    stored = json.loads(first.canonical)
    assert stored["cbUser"] == user
    assert [item["Description"] for item in stored["cbChargeItems"]] == [
        item["Description"] for item in charges
    ]


def test_threads_do_not_disturb_each_other() -> None:
    def work(number: int) -> bool:
        for turn in range(200):
            reference = f"R-{number}-{turn}" * (1 + turn % 7)
            prepared = prepare(request(cbReceiptReference=reference, ftReceiptCase=DE | 2))
            expected = hashlib.sha256(prepared.canonical).digest()
            if prepared.receipt_reference != reference or prepared.request_hash != expected:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))
