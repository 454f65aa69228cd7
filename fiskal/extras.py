"""Optional parts of an installation: whoever imports what belongs to one says so, and the user what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fiskal.errors import FiskalError

PURPOSES: Final = {
    "server": "The HTTP server",
    "receipt": "A receipt as a picture, or a QR code from one,",
    "report": "A report in HTML",
    "sizing": "A report with diagrams",
    "serial": "A TSE at a serial port",
    "websocket": "A TSE behind the web service of its vendor",
    "cloud": "A cloud TSE",
}
"""What the extras of ``pyproject.toml`` are for."""


class ExtraMissing(FiskalError, ImportError):
    """A part of fiskal that is installed on request is not there; the message names the command that brings it."""

    code = "EXTRA_MISSING"

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"{PURPOSES[extra]} needs more than the base installation ('{package}' is missing); "
            f"run: pip install 'fiskal[{extra}]'"
        )
        self.extra = extra
        self.name = package


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that only ``extra`` makes possible: raises ExtraMissing instead of ModuleNotFoundError.

    Where one part of fiskal imports another, the outer extra is named: it brings what the inner one needs.
    """
    try:
        yield
    except ExtraMissing as error:
        raise ExtraMissing(extra, error.name or "") from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "fiskal"):
            raise  # not a missing package
        raise ExtraMissing(extra, package) from error
