"""JSON of the POS: requests, responses, echo and journal requests."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal import pos
from fiskal.errors import ReceiptRejected
from fiskal.pos.embedded import json_object
from fiskal.pos.prepared import prepare

MOMENT = "2024-03-05T18:30:00Z"


def response(**members: Any) -> pos.ReceiptResponse:
    values: dict[str, Any] = {
        "ft_cash_box_id": "fb1b79e2-f269-4fc0-9065-4821fed073d0",
        "ft_queue_id": "b00f3da1-5a6e-4a2d-8fdf-6c3d8900d2c1",
        "ft_queue_item_id": "11111111-2222-3333-4444-555555555555",
        "ft_queue_row": 1,
        "cb_terminal_id": "T1",
        "cb_receipt_reference": "INIT",
        "ft_cash_box_identification": "DEMO-1",
        "ft_receipt_identification": "ft0#IT1",
        "ft_receipt_moment": "2024-01-02T08:00:01.2345678Z",
        "ft_signatures": [],
        "ft_state": 4919338167972134912,
    }
    return pos.ReceiptResponse(**(values | members))


def test_decode_request_keeps_every_digit() -> None:
    request = pos.decode_request(
        b'{"cbReceiptMoment":"2024-03-05T19:30:00+01:00","FTRECEIPTCASE":"4919338172267102209",'
        b'"cbChargeItems":[{"VATAmount":0.6067226890756302521008403361,"Amount":"3.50","VATRate":19.0000,}]}'
    )
    item = request.cb_charge_items[0]
    assert str(item.vat_amount) == "0.6067226890756302521008403361"
    assert (str(item.amount), str(item.vat_rate), str(item.quantity)) == ("3.50", "19.0000", "1.0")
    assert request.ft_receipt_case == 4919338172267102209
    assert request.cb_receipt_moment == MOMENT
    assert (item.description, item.unit, item.moment) == ("", "", None)


def test_decode_request_refuses_what_the_core_refuses() -> None:
    with pytest.raises(ReceiptRejected) as caught:
        pos.decode_request(b'{"cbReceiptMoment":"2024-01-02","cbPayItems":[{"Amount":1,"amount":2}]}')
    assert (caught.value.code, caught.value.field) == ("JSON_DUPLICATE_KEY", "cbPayItems[0].Amount")


decimals = st.decimals(-(10**15), 10**15, places=6) | st.sampled_from(
    [Decimal("1E+3"), Decimal("1E-20"), Decimal(0)]
)


@given(decimals, decimals, st.text(st.characters(exclude_categories=["Cs"])))
def test_request_round_trip(amount: Decimal, quantity: Decimal, text: str) -> None:
    request = pos.ReceiptRequest(
        cb_receipt_moment=MOMENT,
        cb_receipt_reference=text,
        cb_charge_items=[pos.ChargeItem(amount=amount, quantity=quantity, description=text)],
        cb_pay_items=[pos.PayItem(amount=amount, moment=MOMENT)],
    )
    assert pos.decode_request(pos.encode_request(request)) == request


def test_request_round_trip_keeps_the_scale() -> None:
    request = pos.ReceiptRequest(cb_receipt_moment=MOMENT, cb_receipt_amount=Decimal("3.500"))
    assert b'"cbReceiptAmount":3.500' in pos.encode_request(request)
    assert str(pos.decode_request(pos.encode_request(request)).cb_receipt_amount) == "3.500"


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_encode_request_refuses_what_is_no_number(amount: str) -> None:
    request = pos.ReceiptRequest(
        cb_receipt_moment=MOMENT, cb_pay_items=[pos.PayItem(), pos.PayItem(amount=Decimal(amount))]
    )
    with pytest.raises(ReceiptRejected, match="must be a number") as caught:
        pos.encode_request(request)
    assert (caught.value.code, caught.value.field) == ("JSON_NOT_A_NUMBER", "cbPayItems[1].Amount")


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_a_response_holds_numbers_only(amount: str) -> None:
    good = response(ft_charge_items=[pos.ChargeItem(), pos.ChargeItem(quantity=Decimal("2.50"))])
    assert pos.decode_response(pos.encode_response(good)) == good
    bad = response(ft_charge_items=[pos.ChargeItem(), pos.ChargeItem(quantity=Decimal(amount))])
    with pytest.raises(ValueError, match=r"ftChargeItems\[1\]\.Quantity must be a number"):
        pos.encode_response(bad)
    text = pos.encode_response(good).replace(b"2.50", f'"{amount}"'.encode())
    with pytest.raises(msgspec.ValidationError, match=r"ftChargeItems\[1\]\.Quantity must be a number"):
        pos.decode_response(text)


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "-Infinity"])
def test_a_canonical_text_holds_numbers_only(amount: str) -> None:
    """The core writes none; a journal that somebody altered may."""
    text = prepare(b'{"cbReceiptMoment":"2024-03-05T18:30:00Z","cbReceiptAmount":2.50}').canonical
    with pytest.raises(msgspec.ValidationError, match="cbReceiptAmount must be a number"):
        pos.decode_canonical(text.replace(b"2.50", f'"{amount}"'.encode()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1.50, "b": 2}', {"a": Decimal("1.50"), "b": 2}),
        (b'{"a": 1e400}', {"a": Decimal("1E+400")}),
        ('{"a": NaN}', {}),
        ('{"a": [-Infinity]}', {}),
        ("[1]", {}),
        ("{", {}),
        ('{"a": 1e9999999999999999999999}', {}),
        ('{"a": ' + "9" * 5000 + "}", {}),
        ('{"a":' * 100_000, {}),
        (b"\xff\xfe{", {}),
        ("", {}),
        (None, {}),
        (7, {}),
    ],
)
def test_json_inside_a_text_is_an_object_or_nothing(text: object, value: dict[str, object]) -> None:
    assert json_object(text) == value


def test_the_fractions_of_embedded_json_are_what_one_asks_for() -> None:
    assert json_object('{"a": 1.50, "b": 2}', number=str) == {"a": "1.50", "b": 2}


def test_encode_request_refuses_half_a_surrogate_pair() -> None:
    with pytest.raises(ReceiptRejected, match="not valid Unicode") as caught:
        pos.encode_request(pos.ReceiptRequest(cb_receipt_moment=MOMENT, cb_user="\ud83d"))
    assert caught.value.code == "JSON_UTF8"


def test_encode_request_allows_the_words_in_texts() -> None:
    request = pos.ReceiptRequest(cb_receipt_moment=MOMENT, cb_user="NaN and Infinity")
    assert pos.decode_request(pos.encode_request(request)).cb_user == "NaN and Infinity"


def test_response_text() -> None:
    assert pos.encode_response(response()).decode() == (
        '{"ftCashBoxID":"fb1b79e2-f269-4fc0-9065-4821fed073d0","ftQueueID":"b00f3da1-5a6e-4a2d-8fdf-6c3d8900d2c1",'
        '"ftQueueItemID":"11111111-2222-3333-4444-555555555555","ftQueueRow":1,"cbTerminalID":"T1",'
        '"cbReceiptReference":"INIT","ftCashBoxIdentification":"DEMO-1","ftReceiptIdentification":"ft0#IT1",'
        '"ftReceiptMoment":"2024-01-02T08:00:01.2345678Z","ftSignatures":[],"ftState":4919338167972134912}'
    )


def test_response_escapes_are_those_of_the_core() -> None:
    awkward = 'Außer-Betrieb "x" \\ / + < \b\f\n\r\t\x00\x1f\x7f \x85\u2028\u2029 ä € 😀'
    stored = pos.encode_response(response(cb_receipt_reference=awkward)).decode()
    request = pos.ReceiptRequest(cb_receipt_moment=MOMENT, cb_receipt_reference=awkward)
    canonical = prepare(pos.encode_request(request)).canonical.decode()
    member = canonical[canonical.index('"cbReceiptReference"') : canonical.index(',"cbReceiptMoment"')]
    assert member in stored
    assert pos.decode_response(stored).cb_receipt_reference == awkward


def test_response_optional_members() -> None:
    item = pos.SignaturItem(ft_signature_format=1, ft_signature_type=2, caption="c", data="d")
    text = pos.encode_response(
        response(cb_terminal_id=None, ft_signatures=[item], ft_state_data="{}")
    ).decode()
    assert '"cbTerminalID":null' in text
    assert '"ftSignatures":[{"ftSignatureFormat":1,"ftSignatureType":2,"Caption":"c","Data":"d"}]' in text
    assert text.endswith('"ftState":4919338167972134912,"ftStateData":"{}"}')
    assert pos.decode_response(text).ft_signatures == [item]


def test_response_with_a_missing_member() -> None:
    with pytest.raises(msgspec.ValidationError, match="ftState"):
        pos.decode_response(pos.encode_response(response()).replace(b'"ftState"', b'"x"'))


@pytest.mark.parametrize(
    ("sent", "message", "answer"),
    [
        (b'"Hello"', "Hello", b'"Hello"'),
        (b'{"Message":"Hello"}', pos.EchoRequest("Hello"), b'{"Message":"Hello"}'),
        (b'\xef\xbb\xbf{"message":"\xc3\xa4","x":1}', pos.EchoRequest("ä"), '{"Message":"ä"}'.encode()),
        (b'{"Message":null}', pos.EchoRequest(None), b'{"Message":null}'),
        (b'""', "", b'""'),
    ],
)
def test_echo(sent: bytes, message: object, answer: bytes) -> None:
    decoded = pos.decode_echo(sent)
    assert decoded == message
    assert pos.encode_echo(decoded) == answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"5",
        b"null",
        b"{}",
        b'{"Message":5}',
        b'{"x":"y"}',
        b'{"Message":"a","message":"b"}',
        b'{"Message":"a"',
        b'"\xff"',
    ],
)
def test_bad_echo(sent: bytes) -> None:
    with pytest.raises(ReceiptRejected) as caught:
        pos.decode_echo(sent)
    assert caught.value.code in {"JSON_SYNTAX", "JSON_TYPE"}
    assert caught.value.hint


def test_journal_request() -> None:
    request = pos.decode_journal_request(
        b'{"ftjournaltype":"4919338167972134914","FROM":1,"To":-5,"other":[]}'
    )
    assert request == pos.JournalRequest(ft_journal_type=4919338167972134914, from_=1, to=-5)
    assert request.max_chunk_size == 4096
    assert pos.decode_journal_request(pos.encode_journal_request(request)) == request


@pytest.mark.parametrize(
    "sent", [b"", b"[]", b'{"From":"x"}', b'{"From":1.5}', b'{"From":1,"from":2}', b'{"From":null}']
)
def test_bad_journal_request(sent: bytes) -> None:
    with pytest.raises(ReceiptRejected):
        pos.decode_journal_request(sent)
