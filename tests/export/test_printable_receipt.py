"""What is printed, from which member, in which form."""

from __future__ import annotations

from datetime import UTC
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receipt_samples import (
    CASH,
    CASH_BOX,
    CERTIFICATION,
    IMPLICIT,
    KAFFEE,
    OPTIONAL,
    SIGNATURE,
    SMALL_BUSINESS,
    SODA,
    TRAINING,
    TSE_SERIAL,
    VOID,
    charge,
    item,
    kassenbeleg,
    pay,
    request,
    response,
    restaurant,
    transaction,
)

from fiskal.export.receipt import (
    QR_BYTES_MAX,
    clean,
    format_amount,
    format_quantity,
    printable,
    printable_items,
    qr_payload,
)
from fiskal.export.render import render_text
from fiskal.pos.models import ChargeItem, PayItem

SALE = {"cb_charge_items": [SODA, KAFFEE], "cb_pay_items": [CASH]}


def times(receipt):
    return {line.label: (line.local, line.wire) for line in receipt.times}


def wires(receipt):
    return [(line.label, line.wire) for line in receipt.times]


def texts(receipt):
    return [text for notice in receipt.notices for text in notice if text]


# --- the three published flows -----------------------------------------------------------------------------


@pytest.mark.parametrize("flagged", [True, False])
def test_implicit_flow_single_call(flagged):
    receipt = printable(request(**SALE, cb_area="Tisch 19"), response(kassenbeleg(flagged=flagged)))
    assert receipt.title == "Kassenbeleg"
    assert [(line.label, line.local, line.wire) for line in receipt.times] == [
        ("Belegausgabe", "22.05.2020 13:33:00,260", "2020-05-22T11:33:00.260Z"),
        ("Vorgangsbeginn", "22.05.2020 12:47:40,960", "2020-05-22T10:47:40.960Z"),
        ("Vorgangsende", "22.05.2020 13:33:02", "2020-05-22T11:33:02.000Z"),
        ("TSE-Beginn", "22.05.2020 13:33:01", "2020-05-22T11:33:01.000Z"),
    ]
    assert receipt.time_note == "Zeiten in Ortszeit (UTC+02:00)"
    assert receipt.total == Decimal("7.50")
    assert [(line.letter, line.label, line.gross, line.net, line.vat) for line in receipt.vat] == [
        ("A", "19 %", Decimal("7.50"), Decimal("6.30"), Decimal("1.20"))
    ]
    assert ("Bereich", "Tisch 19") in receipt.details
    assert ("Beleg-Nr.", "ftD#IT11") in receipt.details
    assert ("Kassen-Seriennr.", CASH_BOX) in receipt.tse
    assert ("Transaktionsnr.", "11") in receipt.tse
    assert ("Signaturzähler", "21") in receipt.tse
    assert receipt.items == ()
    assert receipt.notices == ()


def test_implicit_flow_with_earlier_orders():
    signatures = kassenbeleg(
        94, 168, "2020-05-29T14:08:23.000Z", "2020-05-29T14:08:24.000Z", "2020-05-26T10:31:34.960Z"
    )
    sale = request(**SALE, cb_receipt_moment="2020-05-28T14:11:22.233Z", cb_receipt_reference="LLA_1")
    receipt = printable(sale, response(signatures), orders_before=True)
    assert wires(receipt) == [
        ("Belegausgabe", "2020-05-28T14:11:22.233Z"),
        ("Vorgangsbeginn", "2020-05-29T14:08:23.000Z"),
        ("Vorgangsende", "2020-05-29T14:08:24.000Z"),
        ("Erste Bestellung", "2020-05-26T10:31:34.960Z"),
    ]


@pytest.mark.parametrize("orders_before", [False, True])
def test_explicit_flow(orders_before):
    signatures = kassenbeleg(
        10, 19, "2020-05-22T10:47:42.000Z", "2020-05-22T10:48:17.000Z", "2020-05-22T10:47:50.960Z"
    )
    sale = request(1, **SALE, cb_receipt_moment="2020-05-22T10:48:15.260Z")
    receipt = printable(sale, response(signatures), orders_before=orders_before)
    assert wires(receipt) == [
        ("Belegausgabe", "2020-05-22T10:48:15.260Z"),
        ("Vorgangsbeginn", "2020-05-22T10:47:50.960Z"),
        ("Vorgangsende", "2020-05-22T10:48:17.000Z"),
        ("TSE-Beginn", "2020-05-22T10:47:42.000Z"),
    ]


def test_order_after_an_order_has_the_beginning_of_its_own_transaction():
    order = request(IMPLICIT | 0x10, cb_charge_items=[SODA])
    receipt = printable(order, response(kassenbeleg(action=None)), orders_before=True)
    assert wires(receipt)[1:] == [
        ("Vorgangsbeginn", "2020-05-22T11:33:01.000Z"),
        ("Vorgangsende", "2020-05-22T11:33:02.000Z"),
    ]


def test_order_has_its_own_title_and_no_code():
    signatures = [
        item(0x10, "start-transaction-result", SIGNATURE, 13, optional=False),
        item(0x15, "<processType>", "Bestellung-V1", optional=False),
    ]
    order = request(IMPLICIT | 0x10, cb_charge_items=[SODA])
    receipt = printable(order, response(signatures))
    assert (receipt.title, receipt.qr, receipt.items, receipt.payments) == ("Bestellung", None, (), ())
    assert printable_items(response(signatures)) == []


# --- signature items ---------------------------------------------------------------------------------------


def test_printable_items_with_a_code():
    answer = response(kassenbeleg())
    assert printable_items(answer) == [
        ("www.fiskaltrust.de", qr_payload(answer)),
        ("<certification-id>", CERTIFICATION),
        ("<vorgangsbeginn>", "2020-05-22T10:47:40.960Z"),
    ]


def test_printable_items_without_a_code():
    training = item(0x1000, "Trainingsbuchung", "jetzt", optional=False, de=False)
    got = printable_items(response([*kassenbeleg(), training]), "text")
    assert [caption for caption, _ in got] == [
        "<certification-id>", "<tse-seriennummer>", "<kassen-seriennummer>", "<processType>", "<processData>",
        "<transaktions-nummer>", "<signatur-zaehler>", "<start-zeit>", "<log-time>", "<sig-alg>",
        "<log-time-format>", "<signatur>", "<vorgangsbeginn>", "Trainingsbuchung",
    ]  # fmt: skip
    assert dict(got)["<tse-seriennummer>"] == TSE_SERIAL


def test_text_mode_prints_what_the_code_would_carry():
    receipt = printable(request(**SALE), response(kassenbeleg()), mode="text")
    assert receipt.qr is None
    assert [found.caption for found in receipt.items] == [
        "processType", "processData", "start-zeit", "log-time", "sig-alg", "log-time-format", "signatur",
    ]  # fmt: skip
    assert ("signatur", SIGNATURE) in receipt.items


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode"):
        printable_items(response([]), "both")  # type: ignore[arg-type]


def test_payload_too_long_for_a_code_is_printed_as_text():
    long = kassenbeleg(data="x" * QR_BYTES_MAX, kind="Bestellung-V1")
    receipt = printable(request(IMPLICIT | 0x10), response(long))
    assert receipt.qr is None
    assert ("signatur", SIGNATURE) in receipt.items


# --- special receipts --------------------------------------------------------------------------------------


def test_failed_mode_prints_the_german_text_of_the_item():
    caption = "Kommunikation mit der technischen Sicherheitseinrichtung (TSE) fehlgeschlagen"
    data = "Fehlerzähler seit 2024-01-02T08:58:11.120Z: 3"
    note = item(0x1000, caption, data, optional=False, de=False)
    receipt = printable(
        request(**SALE), response([note], 2, ft_receipt_identification="ftA#"), orders_before=True
    )
    assert receipt.notices == ((caption, data),)
    assert wires(receipt) == [
        ("Belegausgabe", "2020-05-22T11:33:00.260Z"),
        ("Vorgangsbeginn", "2020-05-22T10:47:40.960Z"),
    ]
    assert receipt.tse == (("Kassen-Seriennr.", CASH_BOX),)
    assert "fehlgeschlagen" in render_text(receipt)


@pytest.mark.parametrize(
    ("state", "word"), [(1, "außer Betrieb"), (2, "fehlgeschlagen"), (8, "Ausfall"), (0x100, "Wechsel")]
)
def test_state_without_a_text_of_its_own_is_still_shown(state, word):
    assert any(word in text for text in texts(printable(request(), response([], state))))


def test_error_answer_is_no_receipt():
    failure = item(0x2000_0000_3000, "uncaught-exeption", "boom", optional=False)
    assert "Fehler" in texts(printable(request(), response([failure], 0x2000_EEEE_EEEE)))[0]


def test_training_is_unmistakable():
    note = item(0x1000, "Trainingsbuchung", "2020-05-22T11:33:01.000Z", optional=False, de=False)
    receipt = printable(request(IMPLICIT | TRAINING | 1, **SALE), response([*kassenbeleg(), note]))
    assert receipt.training
    assert texts(receipt)[:2] == ["TRAINING - KEIN GÜLTIGER BELEG", "Trainingsbuchung"]
    assert render_text(receipt, qr=False).upper().count("TRAINING") == 3


@pytest.mark.parametrize(
    ("caption", "data", "state"),
    [
        (
            "Ausfallsnacherfassung vom 02.01.2024 07:30:00",
            "Elektronisches Aufzeichnungssystem ausgefallen",
            8,
        ),
        ("Handschriftbelegerfassung vom 02.01.2024 12:00:00", "", 0),
    ],
)
def test_recorded_afterwards(caption, data, state):
    note = item(0x02, caption, data, optional=False)
    assert printable(request(**SALE), response([note], state)).notices == ((caption, data),)


def test_start_receipt_with_its_aztec_item():
    caption = f"Kassenseriennummer: {CASH_BOX}"
    notification = '{"CashBoxId":"a","IsStartReceipt":true,"Version":"V0"}'
    signatures = [
        item(0x02, "In-Betriebnahme-Beleg", caption, optional=False),
        item(0x03, f"In-Betriebnahme-Beleg. {caption}", notification, 8, optional=False),
        *transaction("initial operation receipt / start-receipt"),
    ]
    assert len(signatures) == 17
    receipt = printable(request(IMPLICIT | 3), response(signatures))
    assert receipt.title == "In-Betriebnahme-Beleg"
    assert texts(receipt) == [
        "In-Betriebnahme-Beleg", caption, f"In-Betriebnahme-Beleg. {caption}", notification,
    ]  # fmt: skip
    assert ("TSE-Zertifikat", CERTIFICATION) in receipt.tse
    assert (receipt.qr, receipt.items, receipt.lines) == (None, (), ())


def test_daily_closing():
    receipt = printable(request(IMPLICIT | 7), response(transaction("daily-closing")))
    assert receipt.title == "Tagesabschluss"
    assert "SUMME" not in render_text(receipt)
    assert set(times(receipt)) == {"Belegausgabe", "Vorgangsbeginn", "Vorgangsende"}


@pytest.mark.parametrize(
    ("case", "title"),
    [
        (0, "Kassenbeleg"),
        (0x0C, "Rechnung"),
        (0x0F, "Lieferschein"),
        (0x1 | VOID, "Storno Kassenbeleg"),
        (0xFFF, "Kassenbeleg"),
    ],
)
def test_titles(case, title):
    assert printable(request(case), response([])).title == title


# --- amounts -----------------------------------------------------------------------------------------------


def test_table_of_a_mixed_receipt():
    receipt = printable(*restaurant())
    assert [(line.letter, line.label, line.vat) for line in receipt.vat] == [
        ("A", "19 %", Decimal("1.17")),
        ("B", "7 %", Decimal("2.30")),
        ("E", "nicht steuerbar", Decimal("0.00")),
    ]
    assert receipt.total == Decimal("67.41") == sum(line.gross for line in receipt.vat)
    assert [line.vat_letter for line in receipt.lines] == list("BABAAE")
    assert receipt.lines[0].unit_price == Decimal("14.90")
    assert receipt.lines[3].unit_price is None
    assert receipt.payments[1].note == "20,00 CHF"
    assert receipt.payments[3].description == "Rückgeld"


def test_old_rate_of_the_normal_group_gets_its_own_line():
    items = [charge("neu", "1.19"), charge("alt", "1.16", 1, "16"), charge("frei", "1", 6, "0")]
    table = printable(request(cb_charge_items=items), response([])).vat
    assert [(line.letter, line.label, line.vat) for line in table] == [
        ("A", "19 %", Decimal("0.19")),
        ("E", "steuerfrei", Decimal("0.00")),
        ("F", "16 %", Decimal("0.16")),
    ]


@pytest.mark.parametrize(
    ("case", "rate", "label"),
    [
        (0, "7.0", "7 %"),
        (0, "3", "3 %"),
        (1, "0", "19 %"),
        (0x13, "0", "10,7 %"),
        (0x8C, "5.50", "5,5 %"),
        (0x49, "0", "nicht steuerbar"),
        (0x92, "0", "nicht steuerbar"),
        (0xA1, "0", "nicht steuerbar"),
        (0x1E, "0", "steuerfrei"),
        (0x99, "0", "0 %"),
    ],
)
def test_rate_of_a_case(case, rate, label):
    table = printable(request(cb_charge_items=[charge("x", "1", case, rate)]), response([])).vat
    assert [line.label for line in table] == [label]


def test_vat_amount_of_the_pos_is_taken():
    items = [charge("a", "1.19", vat_amount=Decimal("0.20")), charge("b", "1.19")]
    (line,) = printable(request(cb_charge_items=items), response([])).vat
    assert (line.vat, line.net, line.gross) == (Decimal("0.39"), Decimal("1.99"), Decimal("2.38"))


@pytest.mark.parametrize(
    ("quantity", "amount", "flag", "shown"),
    [("-1", "5", 0, "-5"), ("-1", "-5", 0, "-5"), ("1", "-5", 0, "-5"), ("-1", "5", 0x20_0000, "5")],
)
def test_effective_sign(quantity, amount, flag, shown):
    line = charge("x", amount, 1 | flag, quantity=Decimal(quantity))
    assert printable(request(cb_charge_items=[line]), response([])).total == Decimal(shown)


def test_small_business_shows_no_vat():
    sale = request(IMPLICIT | SMALL_BUSINESS | 1, cb_charge_items=[charge("x", "5", 6, "0")])
    receipt = printable(sale, response([]))
    assert receipt.vat == ()
    assert "§ 19 UStG" in render_text(receipt)


def test_customer_and_voided_receipt():
    customer = '{"CustomerName":"Meier GmbH","CustomerStreet":"Weg 1","CustomerZip":"1","CustomerCity":"Ulm"}'
    receipt = printable(
        request(0x0C, cb_customer=customer, cb_previous_receipt_reference="R-1"), response([])
    )
    assert ("Kunde", "Meier GmbH, Weg 1, 1 Ulm") in receipt.details
    assert ("Bezug auf", "R-1") in receipt.details


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0,00"), ("-0.00", "0,00"), ("1234567.5", "1.234.567,50"), ("-3.801", "-3,801"),
        ("1E+3", "1.000,00"), ("-0.5", "-0,50"), ("1.2300", "1,23"),
    ],
)  # fmt: skip
def test_german_amounts(value, text):
    assert format_amount(Decimal(value)) == text


def test_german_quantities():
    assert [format_quantity(Decimal(value)) for value in ("3.0", "0.532", "-1")] == ["3", "0,532", "-1"]


amounts = st.decimals(-(10**12), 10**12, places=2)
charges = st.builds(
    ChargeItem,
    amount=amounts,
    quantity=st.decimals(-99, 99, places=3),
    vat_rate=st.sampled_from([Decimal(rate) for rate in ("19", "7", "10.7", "5.5", "0", "16")]),
    ft_charge_item_case=st.integers(0, 0xB0) | st.integers(-(2**63), 2**63 - 1),
)


@given(st.lists(charges, max_size=30))
def test_table_adds_up_exactly(items):
    receipt = printable(request(cb_charge_items=items), response([]))
    assert receipt.total == sum((line.amount for line in receipt.lines), Decimal(0))
    assert receipt.total == sum((line.gross for line in receipt.vat), Decimal(0))
    letters = [line.letter for line in receipt.vat]
    assert len(set(letters)) == len(letters)
    for line in receipt.vat:
        own = [entry.amount for entry in receipt.lines if entry.vat_letter == line.letter]
        assert line.gross == sum(own) == line.net + line.vat
        if "%" in line.label:
            rate = Decimal(line.label.removesuffix(" %").replace(",", "."))
            exact = line.gross * rate / (100 + rate)
            assert line.vat == exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


# --- times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "local"),
    [
        ("2020-05-22T11:33:00.260Z", "22.05.2020 13:33:00,260"),
        ("2020-01-22T11:33:00Z", "22.01.2020 12:33:00"),
        ("2020-01-22T11:33:00.1497618Z", "22.01.2020 12:33:00,1497618"),
        ("2020-01-22T11:33:59.999", "22.01.2020 12:33:59,999"),
        ("2020-05-22T13:33:00+02:00", "22.05.2020 13:33:00"),
        ("2020-12-31T23:30:00Z", "01.01.2021 00:30:00"),
        ("0001-01-01T00:00:00", "01.01.0001 00:53:28"),
        ("9999-12-31T23:59:59Z", "31.12.9999 23:59:59"),
        ("2020-02-30T11:33:00Z", "2020-02-30T11:33:00Z"),
        ("gestern\x1b[2J", "gestern"),
    ],
)
def test_moments(wire, local):
    line, *began = printable(request(cb_receipt_moment=wire), response([])).times
    assert line.local == local
    assert [each.wire for each in began] in ([], [wire])  # without the TSE it is the beginning, too


def test_other_zone():
    receipt = printable(request(cb_receipt_moment="2020-05-22T11:33:00Z"), response([]), tz=UTC)
    assert receipt.times[0].local == "22.05.2020 11:33:00"
    assert receipt.time_note == "Zeiten in Ortszeit (UTC+00:00)"


def test_offset_is_named_per_line_when_summer_time_ends_in_between():
    signatures = kassenbeleg(
        start="2020-10-25T00:30:00.000Z", end="2020-10-25T01:30:00.000Z", action="2020-10-24T20:00:00.000Z"
    )
    receipt = printable(request(**SALE, cb_receipt_moment="2020-10-25T01:30:00Z"), response(signatures))
    assert times(receipt)["TSE-Beginn"][0] == "25.10.2020 02:30:00 UTC+02:00"
    assert times(receipt)["Vorgangsende"][0] == "25.10.2020 02:30:00 UTC+01:00"
    assert receipt.time_note == ""


# --- odd input ---------------------------------------------------------------------------------------------


def test_clean():
    assert clean("\x1b[31mrot\x1b[0m\r\n\tTee \x1b]0;titel\x07x\u202egnp\x00\u200b\ud800") == "rot Tee xgnp"
    assert clean(None) == ""
    assert clean("A\u0308pfel") == "Äpfel"
    assert clean("\x9b2Jx") == "x"


def test_missing_everything():
    empty = request(cb_charge_items=None, cb_pay_items=None, cb_receipt_reference=None, cb_terminal_id=None)
    receipt = printable(empty, response(None, cb_receipt_reference=None, cb_terminal_id=None))
    assert receipt.lines == ()
    odd = [ChargeItem(description=None, amount=Decimal("NaN"), quantity=Decimal("Infinity"), unit=None)]
    paid = [PayItem(description=None, ft_pay_item_case_data="[1"), pay("x", "1E+900", 2)]
    receipt = printable(request(cb_charge_items=odd, cb_pay_items=paid), response([]))
    assert receipt.lines[0].description == "Artikel"
    assert receipt.payments[0].description == "Bar"
    assert render_text(receipt)


def test_optional_flag_alone_decides_for_other_items():
    hidden = item(0x1000, "Werbung", "x", OPTIONAL | 1, de=False)
    shown = item(0x1000, "Hinweis", "y", optional=False, de=False)
    assert printable(request(), response([hidden, shown])).notices == (("Hinweis", "y"),)
