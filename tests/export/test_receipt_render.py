"""The three pictures of a receipt: nothing overflows, nothing breaks out, the code can be read."""

from __future__ import annotations

import io
import re
import unicodedata
import xml.etree.ElementTree as ET
from decimal import Decimal

import msgspec
import pytest
import segno
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from receipt_samples import (
    CASH_BOX,
    HEADER,
    IMPLICIT,
    SODA,
    TRAINING,
    charge,
    item,
    kassenbeleg,
    pay,
    request,
    response,
    restaurant,
    transaction,
)

from fiskal.export.picture import render_png
from fiskal.export.receipt import Item, printable, qr_payload
from fiskal.export.render import COLUMNS, WIDTH_MIN, cells, render_svg, render_text
from fiskal.pos.models import ChargeItem, PayItem

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</text><script>alert(1)</script>\"'&\x1b[2J\x1b]0;x\x07\x00\u202eabc"


def decode(image: Image.Image) -> list[str]:
    return [code.text for code in zxingcpp.read_barcodes(image, formats=zxingcpp.BarcodeFormat.QRCode)]


def open_png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def columns(line: str) -> int:
    """An independent count: wide characters take two columns, combining ones and variation selectors none."""
    return sum(
        0
        if unicodedata.category(char) in ("Mn", "Me")
        else 2
        if unicodedata.east_asian_width(char) in "WF"
        else 1
        for char in line
    )


def test_text_of_a_rich_receipt():
    lines = render_text(printable(*restaurant(), header=HEADER, orders_before=True), qr=False).splitlines()
    assert "  0,532 kg x 9,99                   5,31 B" in lines
    assert "SUMME EUR                          67,41" in lines
    assert "B 7 %                32,81    2,30   35,11" in lines
    assert "Erste Bestellung   12.06.2026 19:05:31,960" in lines
    assert all(columns(line) <= COLUMNS for line in lines)


@pytest.mark.parametrize("width", [WIDTH_MIN, 32, 42, 48, 80])
@pytest.mark.parametrize("mode", ["qr", "text"])
def test_text_keeps_its_width(width, mode):
    long = [charge("Wort" * 50, "123456789012.34", quantity=Decimal("1234567.891")), charge("中文" * 40, "1")]
    notes = [*kassenbeleg(), item(0x02, "Ä" * 90, EVIL, optional=False)]
    sale = request(IMPLICIT | TRAINING | 1, cb_charge_items=long * 3, cb_area="x" * 200)
    receipt = printable(sale, response(notes), mode=mode, header=["x y " * 40])
    for line in render_text(receipt, width, qr=False).splitlines():
        assert columns(line) <= width


def test_narrower_than_possible_is_refused():
    with pytest.raises(ValueError, match="24"):
        render_text(printable(*restaurant()), WIDTH_MIN - 1)


@pytest.mark.parametrize("dark", [True, False])
def test_code_in_the_terminal_can_be_read(dark):
    sale, answer = restaurant()
    receipt = printable(sale, answer)
    ink, paper = (255, 0) if dark else (0, 255)
    before = render_text(receipt, qr=False).splitlines()
    rows = render_text(receipt, dark_background=dark).splitlines()[len(before) :]
    width = max(map(len, rows))
    image = Image.new("L", (width, 2 * len(rows)), paper)
    for y, row in enumerate(rows):
        for x, char in enumerate(row.ljust(width)):
            image.putpixel((x, 2 * y), ink if char in "█▀" else paper)
            image.putpixel((x, 2 * y + 1), ink if char in "█▄" else paper)
    assert decode(image.resize((width * 4, len(rows) * 8), Image.Resampling.NEAREST)) == [qr_payload(answer)]


@pytest.mark.parametrize("scale", [0.68, 1, 2])
def test_code_in_the_picture_can_be_read(scale):
    sale, answer = restaurant()
    image = open_png(render_png(printable(sale, answer, header=HEADER), scale))
    assert abs(image.width - 945 * scale) < 1
    (code,) = zxingcpp.read_barcodes(image)
    assert code.text == qr_payload(answer)
    edge = code.position.top_right.x - code.position.top_left.x
    assert edge / image.info["dpi"][0] * 25.4 >= 30


@pytest.mark.parametrize("length", [10, 100, 700, 1900])
@pytest.mark.parametrize("scale", [0.5, 0.68, 1, 1.7])
def test_code_in_the_picture_is_whole_and_keeps_its_quiet_zone(scale, length):
    """Below a line of text that is black from edge to edge."""
    sale, answer = request(), response(kassenbeleg(data="x" * length), ft_receipt_footer=["\u2588" * COLUMNS])
    receipt = msgspec.structs.replace(printable(sale, answer), tse=(), items=(Item("\u2588" * COLUMNS, " "),))
    image = open_png(render_png(receipt, scale))
    (code,) = zxingcpp.read_barcodes(image, formats=zxingcpp.BarcodeFormat.QRCode)
    assert code.text == qr_payload(answer)
    left, top = code.position.top_left.x, code.position.top_left.y
    right, bottom = code.position.bottom_right.x + 1, code.position.bottom_right.y + 1
    assert (right - left) / image.info["dpi"][0] * 25.4 >= 30
    modules = len(segno.make_qr(code.text, error="m", encoding="utf-8").matrix)
    quiet = int(4 * (right - left) / modules) - 1
    assert left - quiet >= 0
    assert right + quiet <= image.width
    around = image.crop((left - quiet, top - quiet, right + quiet, bottom + quiet))
    around.paste(255, (quiet - 1, quiet - 1, around.width - quiet + 1, around.height - quiet + 1))
    assert around.getextrema() == (255, 255)


def test_code_with_umlauts_and_line_breaks_is_exact():
    signatures = kassenbeleg(data='2;"Käse ""Bergtöß""";3.99\r1;"Tee";2.00', kind="Bestellung-V1")
    answer = response(signatures)
    assert decode(open_png(render_png(printable(request(IMPLICIT | 0x10), answer)))) == [qr_payload(answer)]


def test_code_in_the_svg_is_the_code():
    """The path, filled module by module, is what the decoder reads."""
    sale, answer = restaurant()
    root = ET.fromstring(render_svg(printable(sale, answer)))
    (path,) = root.iter(f"{SVG}path")
    runs = [tuple(map(int, run)) for run in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path.attrib["d"])]
    size = max(y for _, y, _ in runs) + 1
    image = Image.new("L", (size + 8, size + 8), 255)
    for x, y, length in runs:
        image.paste(0, (x + 4, y + 4, x + 4 + length, y + 5))
    assert decode(image.resize((image.width * 4,) * 2, Image.Resampling.NEAREST)) == [qr_payload(answer)]
    scale = float(re.search(r"scale\(([\d.]+)\)", path.attrib["transform"]).group(1))
    assert scale * size >= 30


def test_nothing_breaks_out_of_the_svg_or_the_terminal():
    sale = request(
        cb_charge_items=[charge(EVIL, "1")], cb_pay_items=[pay(EVIL, "1")], cb_user=EVIL, cb_area=EVIL
    )
    receipt = printable(sale, response([item(0x02, EVIL, EVIL, optional=False)]), header=[EVIL])
    svg = render_svg(receipt)
    tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(svg).iter()}
    assert tags <= {"svg", "title", "rect", "g", "text", "path"}
    text = render_text(receipt)
    for document in (svg, text):
        assert not any(unicodedata.category(char) in ("Cc", "Cf") for char in document if char != "\n")
    assert "&lt;script&gt;" in svg


def test_three_hundred_items_with_long_names():
    items = [charge(f"{number} " + "lang " * 40, "1.99", quantity=Decimal(3)) for number in range(300)]
    receipt = printable(request(cb_charge_items=items), response(kassenbeleg()))
    assert receipt.total == 300 * Decimal("1.99")
    assert open_png(render_png(receipt, 0.68)).width > 576
    assert ET.fromstring(render_svg(receipt)) is not None


def test_limits_of_the_picture():
    receipt = printable(*restaurant())
    with pytest.raises(ValueError, match="scale"):
        render_png(receipt, 9)
    items = [SODA] * 9000
    with pytest.raises(ValueError, match="too long"):
        render_png(printable(request(cb_charge_items=items), response([])), 2)


@pytest.mark.parametrize(
    ("case", "signatures", "state"),
    [
        (IMPLICIT | 7, transaction("daily-closing"), 0),
        (IMPLICIT | 1, [], 2),
        (IMPLICIT | TRAINING | 1, [], 0),
    ],
)
def test_special_receipts_are_drawn(case, signatures, state):
    receipt = printable(request(case), response(signatures, state))
    assert receipt.title in render_svg(receipt)
    assert open_png(render_png(receipt)).mode == "L"


@pytest.mark.parametrize("scale", [0.5, 0.52, 0.68, 1, 1.3, 2])
def test_no_line_of_the_picture_leaves_its_margins(scale):
    receipt = printable(request(cb_area="W" * 120), response([item(0x02, "W" * 80, "", optional=False)]))
    image = open_png(render_png(receipt, scale))
    margin = int(4 * 300 * scale / 25.4)
    assert image.crop((image.width - margin + 1, 0, image.width, image.height)).getextrema() == (255, 255)


def test_picture_is_the_same_on_every_call():
    receipt = printable(*restaurant())
    assert render_png(receipt) == render_png(receipt)
    assert CASH_BOX in render_svg(receipt)


texts = st.text(max_size=250) | st.none()
numbers = st.decimals(allow_nan=True, allow_infinity=True)
charge_items = st.builds(
    ChargeItem,
    description=texts,
    amount=numbers,
    quantity=numbers,
    vat_rate=numbers,
    vat_amount=numbers | st.none(),
    unit=texts,
    unit_price=numbers | st.none(),
    moment=texts,
    ft_charge_item_case=st.integers(-(2**63), 2**63 - 1),
)
pay_items = st.builds(
    PayItem,
    description=texts,
    amount=numbers,
    ft_pay_item_case=st.integers(0, 0x20),
    ft_pay_item_case_data=texts
    | st.builds(
        '{{"CurrencyCode":"{}","ForeignCurrencyAmount":{}}}'.format, st.text(max_size=5), st.integers()
    ),
)
signature_items = st.builds(
    item,
    st.integers(0, 0x30) | st.integers(0x1000, 0x3000),
    st.text(max_size=60),
    st.text(max_size=400),
    st.integers(0, 13),
    optional=st.booleans(),
    de=st.booleans(),
)


@settings(deadline=None)
@given(
    st.lists(charge_items, max_size=4),
    st.lists(pay_items, max_size=3),
    st.lists(signature_items, max_size=6),
    st.text(max_size=60),
    st.integers(0, 0xFFFF_FFFF),
    st.integers(WIDTH_MIN, 100),
    st.sampled_from(["qr", "text"]),
)
def test_no_input_breaks_a_receipt(items, payments, signatures, text, bits, width, mode):
    sale = request(
        bits, cb_charge_items=items, cb_pay_items=payments, cb_receipt_moment=text, cb_customer=text
    )
    receipt = printable(sale, response(signatures, bits & 0x1FF), header=[text], mode=mode)
    for line in render_text(receipt, width, qr=False).splitlines():
        assert columns(line) <= width
    ET.fromstring(render_svg(receipt))


@settings(deadline=None, max_examples=10)
@given(st.text(max_size=80), st.text(min_size=1, max_size=300))
def test_no_text_breaks_the_picture(description, payload):
    code = item(1, "www.fiskaltrust.de", payload, 3, optional=False)
    receipt = printable(request(cb_charge_items=[charge(description, "1")]), response([code]))
    image = open_png(render_png(receipt, 0.68))
    assert image.width > 576
    render_text(receipt)


def test_cells():
    assert [cells(text) for text in ("Äö€", "中文", "e\u0301", "")] == [3, 4, 1, 0]
