"""Draw a printable receipt as a PNG. Needs ``pip install 'fiskal[receipt]'``."""

from __future__ import annotations

import io
from functools import cache, lru_cache
from importlib import resources
from typing import Final

from fiskal.export.receipt import PrintableReceipt
from fiskal.export.render import ADVANCE, PAPER_MM, Box, QrCode, Text, matrix_of, page
from fiskal.extras import needs

with needs("receipt"):
    from PIL import Image, ImageDraw, ImageFont

DPI: Final = 300
PNG_PIXELS_MAX: Final = 160_000_000
"""Limit of :func:`render_png`, one byte each: 14 metres of paper at 300 dpi."""


@cache
def _font_bytes(name: str) -> bytes:
    return resources.files("fiskal.export").joinpath("fonts", name).read_bytes()


@lru_cache(maxsize=32)
def _font(size_px: float, bold: bool) -> ImageFont.FreeTypeFont:
    """The face shipped with the package: the same picture on every machine."""
    font, cell = _face(size_px, bold), size_px * ADVANCE
    # An advance is whole pixels: rounded up, it would carry a long line over the edge of its bar or paper.
    return font if font.getlength("0") <= cell else _face(size_px * int(cell) / cell, bold)


def _face(size_px: float, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    # The basic layout sets every character by itself, from left to right, with or without libraqm: the
    # picture does not depend on how Pillow was built, and no text can move what stands beside it.
    return ImageFont.truetype(io.BytesIO(_font_bytes(name)), size_px, layout_engine=ImageFont.Layout.BASIC)


def render_png(receipt: PrintableReceipt, scale: float = 1.0) -> bytes:
    """The receipt as a PNG in grey levels, 80 mm wide: 945 pixels at ``scale`` 1, which is 300 dpi.

    Modules of the QR code are whole pixels. Raises ValueError when the picture would exceed
    ``PNG_PIXELS_MAX``, or for a scale outside 0.5..4.
    """
    if not 0.5 <= scale <= 4:
        raise ValueError(f"scale must be between 0.5 and 4, not {scale}")
    per_mm = DPI * scale / 25.4
    height_mm, shapes = page(receipt, 1 / per_mm)
    width, height = round(PAPER_MM * per_mm), round(height_mm * per_mm)
    if width * height > PNG_PIXELS_MAX:
        raise ValueError(f"receipt too long for a picture: {width} x {height} pixels")
    image = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        match shape:
            case Text(x, y, size, text, bold, right, white):
                position = (x * per_mm, y * per_mm)
                font = _font(round(size * per_mm, 1), bold)
                draw.text(position, text, 255 if white else 0, font, anchor="rs" if right else "ls")
            case Box(x, y, box_width, box_height):
                corner = ((x + box_width) * per_mm, max((y + box_height) * per_mm, y * per_mm + 1))
                draw.rectangle((x * per_mm, y * per_mm, *corner), 0)
            case QrCode(x, y, edge, data):
                matrix = matrix_of(data)
                code = Image.new("L", (len(matrix), len(matrix)), 255)
                code.putdata([0 if dark else 255 for row in matrix for dark in row])
                side = round(edge * per_mm)
                place = (round(x * per_mm), round(y * per_mm))
                image.paste(code.resize((side, side), Image.Resampling.NEAREST), place)
    out = io.BytesIO()
    image.save(out, "PNG", dpi=(DPI * scale, DPI * scale))
    return out.getvalue()
