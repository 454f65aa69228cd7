"""Draw a printable receipt: text for a terminal or a line printer, and SVG. PNG: :mod:`fiskal.export.picture`.

One composition for all three. :func:`_compose` breaks the receipt into lines of a fixed number of character
cells, as a receipt printer does; the text is these lines, SVG and PNG set the same lines in a monospaced
face on an 80 mm roll. Hence what is seen in a test of the text is what a customer holds in hand.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from typing import Final, Literal, NamedTuple

import segno

from fiskal.export.receipt import Item, PrintableReceipt, ReceiptLine, format_amount, format_quantity

WIDTH_MIN: Final = 24
"""Columns below which amounts no longer fit beside a text."""
COLUMNS: Final = 42
"""Columns of an 80 mm roll in the usual font A."""

PAPER_MM: Final = 80.0
_MARGIN_MM = 4.0
_CELL_MM = (PAPER_MM - 2 * _MARGIN_MM) / COLUMNS
ADVANCE = 0.602  # of DejaVu Sans Mono, and nearly that of every monospaced face
_FONT_MM = _CELL_MM / ADVANCE
_LINE_MM = _FONT_MM * 1.3

QR_EDGE_MM: Final = 32.0
"""Edge of the code without its quiet zone; at least 30 mm are asked for (DSFinV-K, annex I)."""
_QR_MODULE_MM, _QR_EDGE_MAX_MM = 0.36, 68.0
_QUIET_MODULES = 4

Style = Literal["normal", "bold", "title", "alert", "rule", "code"]


class _Line(NamedTuple):
    text: str
    style: Style = "normal"


# --- cells -------------------------------------------------------------------------------------------------


def _char_cells(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cells(text: str) -> int:
    """Columns that ``text`` takes on a terminal: 2 for wide characters, 0 for combining ones."""
    return len(text) if text.isascii() else sum(map(_char_cells, text))


def _split(word: str, width: int) -> Iterator[str]:
    """A word in pieces of at most ``width`` cells."""
    piece, used = "", 0
    for char in word:
        size = _char_cells(char)
        if used + size > width and piece:
            yield piece
            piece, used = "", 0
        piece += char
        used += size
    yield piece


def _wrap(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells, broken at spaces, within a word only if it must be."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        if current and cells(current) + 1 + cells(word) <= width:
            current += f" {word}"
            continue
        if current:
            lines.append(current)
        *full, current = _split(word, width)
        lines += full
    if current:
        lines.append(current)
    return lines


def _pad_left(text: str, width: int) -> str:
    return " " * (width - cells(text)) + text


def _center(text: str, width: int) -> str:
    return " " * ((width - cells(text)) // 2) + text


def _pair(left: str, right: str, width: int) -> list[str]:
    """``left`` wrapped, ``right`` flush right beside its last line if it fits, else on lines of its own."""
    room = width - cells(right) - 1
    if room < width // 3:
        head = _wrap(left, width)
        return [*head, *(_pad_left(piece, width) for piece in _wrap(right, width))]
    head = _wrap(left, room)
    head[1:] = _wrap(" ".join(head[1:]), room - 2) if len(head) > 1 else []
    lines = [line if number == 0 else f"  {line}" for number, line in enumerate(head)] or [""]
    lines[-1] += _pad_left(right, width - cells(lines[-1]))
    return lines


def _labelled(item: Item, width: int) -> list[str]:
    """A short value beside its caption; a long one below, flush left, where nothing pulls it apart."""
    caption, data = item
    if cells(caption) + 1 + cells(data) <= width:
        return _pair(caption, data, width)
    return [*_wrap(caption, width), *(f"  {piece}" for piece in _wrap(data, width - 2))]


# --- composition -------------------------------------------------------------------------------------------


def _charge_lines(line: ReceiptLine, width: int) -> Iterator[str]:
    amount = f"{format_amount(line.amount)} {line.vat_letter}"
    if line.unit_price is None:
        yield from _pair(line.description, amount, width)
        return
    yield from _wrap(line.description, width)
    unit = f" {line.unit}" if line.unit else ""
    price = f"{format_quantity(line.quantity)}{unit} x {format_amount(line.unit_price)}"
    yield from (f"  {text}" for text in _pair(price, amount, width - 2))


def _table(rows: list[tuple[str, ...]], width: int) -> Iterator[str]:
    """Columns flush right except the first, or a list of pairs when they do not fit side by side."""
    sizes = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]
    spare = width - sum(sizes) - (len(sizes) - 1)
    if spare >= 0:
        gap, rest = divmod(spare, len(sizes) - 1)
        for row in rows:
            text = row[0] + " " * (sizes[0] - cells(row[0]) + rest)
            for size, value in zip(sizes[1:], row[1:], strict=True):
                text += " " * (gap + 1) + _pad_left(value, size)
            yield text
        return
    captions, *values = rows
    for row in values:
        for caption, value in zip(captions, row, strict=True):
            yield from _pair(caption, value, width)


def _compose(receipt: PrintableReceipt, width: int) -> Iterator[_Line]:
    """The receipt from top to bottom. Style ``rule`` is a separation, ``code`` the place of the QR code."""
    half = width // 2
    for number, text in enumerate(receipt.header):
        for piece in _wrap(text, width):
            yield _Line(_center(piece, width), "bold" if number == 0 else "normal")
    if receipt.header:
        yield _Line("")
    for piece in _wrap(receipt.title, half):
        yield _Line(piece, "title")
    for notice in receipt.notices:
        for text in notice:
            for piece in _wrap(text, width - 2):
                yield _Line(_center(piece, width), "alert")
    if receipt.notices:
        yield _Line("")
    for item in receipt.details:
        yield from map(_Line, _labelled(item, width))

    if receipt.lines or receipt.payments or receipt.charge_texts or receipt.payment_texts:
        yield _Line("", "rule")
        for line in receipt.lines:
            yield from map(_Line, _charge_lines(line, width))
        for text in receipt.charge_texts:
            yield from map(_Line, _wrap(text, width))
        if receipt.lines:
            yield _Line("", "rule")
            for text in _pair("SUMME EUR", f"{format_amount(receipt.total)}  ", width):
                yield _Line(text, "bold")
        for payment in receipt.payments:
            yield from map(_Line, _pair(payment.description, f"{format_amount(payment.amount)}  ", width))
            for piece in _wrap(payment.note, width - 2):
                yield _Line(f"  {piece}")
        for text in receipt.payment_texts:
            yield from map(_Line, _wrap(text, width))
    if receipt.vat:
        yield _Line("", "rule")
        rows: list[tuple[str, ...]] = [("USt.", "Netto", "Steuer", "Brutto")]
        rows += [
            (f"{vat.letter} {vat.label}", *map(format_amount, (vat.net, vat.vat, vat.gross)))
            for vat in receipt.vat
        ]
        yield from map(_Line, _table(rows, width))
    for piece in _wrap(receipt.vat_hint, width):
        yield _Line(piece)

    yield _Line("", "rule")
    for time in receipt.times:
        yield from map(_Line, _labelled(Item(time.label, time.local), width))
    for piece in _wrap(receipt.time_note, width):
        yield _Line(piece)
    if receipt.tse or receipt.items:
        yield _Line("", "rule")
        for item in (*receipt.tse, *receipt.items):
            yield from map(_Line, _labelled(item, width))
    if receipt.qr is not None:
        yield _Line("", "code")
    if receipt.training:
        # Once more at the end: a receipt may be torn off below its head.
        yield _Line("")
        yield _Line(_center("TRAINING", width), "alert")
    for text in receipt.footer:
        for piece in _wrap(text, width):
            yield _Line(_center(piece, width))


# --- QR code -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def matrix_of(data: str) -> tuple[tuple[bool, ...], ...]:
    """The modules of the code, without quiet zone. Error correction M, or better where it costs no size."""
    # What cannot be UTF-8 (a lone surrogate in a text of the POS) must not cost the customer the receipt.
    content = data.encode("utf-8", "replace").decode("utf-8")
    code = segno.make_qr(content, error="m", encoding="utf-8", boost_error=True)
    return tuple(tuple(bool(module) for module in row) for row in code.matrix)


def _qr_text(data: str, width: int, *, dark_background: bool) -> Iterator[str]:
    """The code in half blocks, two modules above each other in one cell."""
    matrix = matrix_of(data)
    size = len(matrix) + 2 * _QUIET_MODULES
    light = [True] * size
    side = [True] * _QUIET_MODULES
    rows = [light] * _QUIET_MODULES
    rows += [[*side, *(not module for module in row), *side] for row in matrix]
    rows += [light] * (_QUIET_MODULES + size % 2)
    # A cell's ink is light on a dark terminal and dark on paper.
    glyphs = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
    margin = " " * max(0, (width - size) // 2)
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        pairs = zip(upper, lower, strict=True)
        yield margin + "".join(glyphs[(a == dark_background, b == dark_background)] for a, b in pairs)


# --- text --------------------------------------------------------------------------------------------------


def render_text(
    receipt: PrintableReceipt, width: int = COLUMNS, *, qr: bool = True, dark_background: bool = True
) -> str:
    """The receipt as lines of at most ``width`` columns (at least ``WIDTH_MIN``), ending with a newline.

    ``qr`` draws the code too; one module is one column, so that its lines (about 80 columns) are wider than
    the receipt. ``dark_background`` is False for paper and for dark text on light.
    """
    if width < WIDTH_MIN:
        raise ValueError(f"width must be at least {WIDTH_MIN} columns, not {width}")
    out: list[str] = []
    alert = False
    for text, style in _compose(receipt, width):
        if (style == "alert") != alert:
            alert = not alert
            out.append("=" * width)
        if style == "rule":
            out.append("-" * width)
        elif style == "title":
            out += ["", _center(text, width), ""] if out else [_center(text, width), ""]
        elif style == "code":
            if qr and receipt.qr is not None:
                out += ["", *_qr_text(receipt.qr, width, dark_background=dark_background), ""]
        else:
            out.append(text.rstrip())
    if alert:
        out.append("=" * width)
    return "\n".join(out) + "\n"


# --- page --------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """Text on the page, mm. ``y`` is the base line; ``right`` puts the end of the text at ``x``."""

    x: float
    y: float
    size: float
    text: str
    bold: bool
    right: bool
    white: bool


class Box(NamedTuple):
    """A black rectangle, mm."""

    x: float
    y: float
    width: float
    height: float


class QrCode(NamedTuple):
    """A QR code, mm, without quiet zone."""

    x: float
    y: float
    edge: float
    data: str


def _runs(text: str) -> Iterator[tuple[int, int, str]]:
    """Start cell, end cell and text of the parts of a line that two or more spaces set apart."""
    start = 0
    for part in text.split("  "):
        stripped = part.strip()
        if stripped:
            lead = cells(part) - cells(part.lstrip())
            yield start + lead, start + lead + cells(stripped), stripped
        start += cells(part) + 2


def _module_mm(modules: int, pixel_mm: float) -> float:
    """Edge of one module of a code of ``modules`` by ``modules``, in whole pixels if there are any."""
    module = max(QR_EDGE_MM / modules, min(_QR_MODULE_MM, _QR_EDGE_MAX_MM / modules))
    if not pixel_mm:
        return module
    # The next whole pixel, so that the edge is never shorter than promised, as far as the paper is wide.
    pixels = math.ceil(module / pixel_mm)
    if (modules + 2 * _QUIET_MODULES) * pixels * pixel_mm > PAPER_MM:
        pixels -= 1
    return pixels * pixel_mm


def page(receipt: PrintableReceipt, pixel_mm: float = 0) -> tuple[float, list[Text | Box | QrCode]]:
    """Height of the page and what to draw on it, mm. ``pixel_mm``: edge of a pixel, 0 when there are none."""
    shapes: list[Text | Box | QrCode] = []
    y = _MARGIN_MM
    for text, style in _compose(receipt, COLUMNS):
        match style:
            case "rule":
                shapes.append(Box(_MARGIN_MM, y + _LINE_MM * 0.45, PAPER_MM - 2 * _MARGIN_MM, 0.25))
                y += _LINE_MM * 0.9
                continue
            case "code":
                assert receipt.qr is not None
                modules = len(matrix_of(receipt.qr))
                module = _module_mm(modules, pixel_mm)
                edge, quiet = module * modules, module * _QUIET_MODULES
                shapes.append(QrCode((PAPER_MM - edge) / 2, y + quiet, edge, receipt.qr))
                y += edge + 2 * quiet
                continue
            case "title":
                size = _FONT_MM * 1.6
                x = PAPER_MM / 2 - cells(text) * size * ADVANCE / 2
                shapes.append(Text(x, y + _LINE_MM * 1.25, size, text, True, False, False))
                y += _LINE_MM * 1.9
                continue
            case "alert":
                shapes.append(Box(_MARGIN_MM, y, PAPER_MM - 2 * _MARGIN_MM, _LINE_MM * 1.04))
        for start, end, part in _runs(text):
            # What stands apart at the right edge hangs on that edge, also in a face of another width.
            right = start > 2 and end >= COLUMNS - 2 and style != "alert"
            x = _MARGIN_MM + (end if right else start) * _CELL_MM
            bold = style in ("bold", "alert")
            shapes.append(Text(x, y + _FONT_MM, _FONT_MM, part, bold, right, style == "alert"))
        y += _LINE_MM
    return y + _MARGIN_MM, shapes


# --- SVG ---------------------------------------------------------------------------------------------------


def _qr_path(code: QrCode) -> str:
    """The dark modules as one path in units of modules: a rectangle per horizontal run."""
    parts = []
    for row, modules in enumerate(matrix_of(code.data)):
        column = 0
        while column < len(modules):
            end = column
            while end < len(modules) and modules[end]:
                end += 1
            if end > column:
                parts.append(f"M{column} {row}h{end - column}v1h{column - end}z")
            column = max(end, column + 1)
    return "".join(parts)


def render_svg(receipt: PrintableReceipt) -> str:
    """The receipt as a self-contained SVG document, 80 mm wide; nothing is fetched from outside.

    Texts stay texts (they can be selected and read aloud) in whatever monospaced face the viewer has.
    """
    height, shapes = page(receipt)
    title = " ".join((receipt.title, *(item.data for item in receipt.details[:1])))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PAPER_MM:g}mm" height="{height:.2f}mm"'
        f' viewBox="0 0 {PAPER_MM:g} {height:.2f}" role="img" xml:lang="de">',
        f"<title>{escape(title, quote=False)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        "<g font-family=\"'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace\" fill=\"#000\">",
    ]
    for shape in shapes:
        match shape:
            case Text(x, y, size, text, bold, right, white):
                attributes = ' font-weight="bold"' if bold else ""
                attributes += ' text-anchor="end"' if right else ""
                attributes += ' fill="#fff"' if white else ""
                shown = escape(text, quote=False)
                out.append(f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:.2f}"{attributes}>{shown}</text>')
            case Box(x, y, box_width, box_height):
                out.append(
                    f'<rect x="{x:.2f}" y="{y:.2f}" width="{box_width:.2f}" height="{box_height:.2f}"/>'
                )
            case QrCode(x, y, edge, data):
                scale = edge / len(matrix_of(data))
                out.append(
                    f'<path transform="translate({x:.2f} {y:.2f}) scale({scale:.5f})"'
                    f' shape-rendering="crispEdges" d="{_qr_path(shape)}"/>'
                )
    out.append("</g></svg>\n")
    return "\n".join(out)
