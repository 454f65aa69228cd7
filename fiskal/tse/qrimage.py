"""Reading the text of QR codes from a picture: a photo or scan of a receipt.

Needs ``pip install 'fiskal[receipt]'``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

from fiskal.errors import FiskalError
from fiskal.extras import needs

with needs("receipt"):
    import zxingcpp
    from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS: Final = 100_000_000
"""Larger pictures are refused; a page of A4 at 600 dpi has 35 million."""
_FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")


class QrImageError(FiskalError):
    """A picture that cannot be read; ``hint`` says what would help."""

    code = "QR_IMAGE"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def read_qr_image(path: Path) -> list[str]:
    """Return the texts of the QR codes in a picture, those that look like receipts (``V0;``) first.

    Raises :class:`QrImageError` if the file is not a picture or holds no code.
    """
    picture = _open(path)
    texts = _codes(picture)
    if not texts:
        texts = _codes(ImageOps.autocontrast(picture))
    if not texts:
        raise QrImageError(
            f"{path} shows no QR code that can be read.", hint="Take the picture closer, straight and sharp."
        )
    return sorted(texts, key=lambda text: not text.upper().startswith("V0;"))


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large pictures, which are refused below
            with Image.open(path, formats=_FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise QrImageError(f"{path} has more than {MAX_PIXELS // 1_000_000} million pixels.")
                return ImageOps.exif_transpose(picture).convert("L")
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise QrImageError(f"{path} is no picture.", hint=f"It may be {', '.join(_FORMATS)}.") from error
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise QrImageError(f"{path} is damaged: {error}") from error


def _codes(picture: Image.Image) -> list[str]:
    only_qr: Any = zxingcpp.BarcodeFormat.QRCode  # one format will do where the annotations ask for a set
    found = zxingcpp.read_barcodes(picture, formats=only_qr)
    return [_text(bytes(code.bytes)) for code in found]


def _text(content: bytes) -> str:
    """Writers that declare no encoding use UTF-8 or, as the standard of QR codes says, Latin-1."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
