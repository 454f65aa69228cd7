"""What cannot be planned or measured."""

from __future__ import annotations

from fiskal.errors import FiskalError


class ImpossibleShop(FiskalError):
    """A shop that cannot exist; ``hint`` says what a possible one looks like."""

    code = "IMPOSSIBLE_SHOP"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MeasurementError(FiskalError):
    """A measurement file that cannot be used, or a benchmark that cannot be run."""

    code = "MEASUREMENT"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
