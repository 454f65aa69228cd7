"""The measurement file: what ``fiskal bench tse`` writes and ``fiskal size`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from fiskal.histogram import Histogram, HistogramData
from fiskal.sizing.errors import MeasurementError
from fiskal.sizing.profiles import LOG_BYTES_PER_SIGNATURE, Profile
from fiskal.sizing.service import ServiceTime

FORMAT: Final = "fiskal-tse-measurement"
VERSION: Final = 1
UNKNOWN_MAXIMUM: Final = 2**31 - 1
"""Maxima from here on mean that a TSE does not tell them."""
FEW: Final = 30
"""Fewer signatures than that say little about how their times are distributed."""


class MeasuredTse(msgspec.Struct, frozen=True, kw_only=True):
    """The TSE as it described itself before the run. None is not told."""

    serial_number: str
    certification: str
    firmware: str
    driver: str
    simulated: bool
    max_signatures: int | None
    max_log_memory_bytes: int | None
    max_clients: int | None
    max_open_transactions: int | None
    log_bytes_per_signature: float | None


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How it was driven. ``receipts_per_hour`` is for each checkout, None without pauses between receipts."""

    flow: str
    items: int
    orders_per_bill: float
    arrival: str
    receipts_per_hour: float | None
    through: str
    warmup_s: float
    duration_s: float
    seed: int


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured with one number of checkouts, after the warm-up.

    The latency is that of the customer, from the wish for a receipt to its answer. It is the sum of ``in_line``
    (waiting for a free checkout, or for the receipt's own start), ``wait`` (for the TSE), ``tse`` (its own time)
    and ``middleware`` (everything else). ``start_wait`` is what starts of the explicit flow wait for the TSE.
    """

    checkouts: int
    seconds: float
    receipts: int
    signatures: int
    utilisation: float
    latency: HistogramData
    in_line: HistogramData
    wait: HistogramData
    tse: HistogramData
    middleware: HistogramData
    start_wait: HistogramData
    errors: dict[str, int]

    @property
    def receipts_per_s(self) -> float:
        return self.receipts / self.seconds if self.seconds else 0.0

    @property
    def signatures_per_s(self) -> float:
        return self.signatures / self.seconds if self.seconds else 0.0


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. ``stopped`` says why it ended early, empty if it did not.

    ``service`` are the times the TSE took for each operation, of all points together. ``left_open`` are
    transactions that could not be finished because the TSE no longer answered.
    """

    format: str = FORMAT
    version: int = VERSION
    fiskal: str
    measured_at: str
    tse: MeasuredTse
    setup: Setup
    points: list[Point]
    service: dict[str, HistogramData]
    stopped: str = ""
    left_open: list[int] = msgspec.field(default_factory=list)


class _Head(msgspec.Struct):
    format: str = ""
    version: int = 0


def encode(measurement: Measurement) -> bytes:
    """One JSON document with a line end."""
    return msgspec.json.encode(measurement) + b"\n"


def decode(data: bytes, name: str = "the file") -> Measurement:
    """Read a measurement. Raises MeasurementError that says what is wrong with it."""
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeasurementError(f"{name} is no measurement: {error}", hint=_MAKE_ONE) from error
    if head.format != FORMAT:
        raise MeasurementError(f"{name} is no measurement of a TSE", hint=_MAKE_ONE)
    if head.version != VERSION:
        newer = head.version > VERSION
        raise MeasurementError(
            f"{name} is a measurement of version {head.version}; this fiskal reads version {VERSION}",
            hint="Update fiskal, or measure again with this one." if newer else "Measure again.",
        )
    try:
        measurement = msgspec.json.decode(data, type=Measurement)
        for histogram in measurement.service.values():
            Histogram.load(histogram)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise MeasurementError(f"{name} is damaged: {error}", hint="Measure again.") from error
    return measurement


_MAKE_ONE: Final = "'fiskal bench tse --out FILE' writes one."


def load(path: Path) -> Measurement:
    """Read a measurement file. Raises MeasurementError, or OSError."""
    return decode(path.read_bytes(), str(path))


def profile_of(measurement: Measurement, like: Profile | None = None) -> Profile:
    """The measured TSE as a profile; what was not measured is that of ``like``.

    Raises MeasurementError if it holds too few signatures to say anything.
    """
    histograms = {name: Histogram.load(data) for name, data in measurement.service.items()}
    start, finish = (histograms.get(name, Histogram()) for name in ("start", "finish"))
    least = min(start.count, finish.count)
    if least < FEW:
        raise MeasurementError(
            f"the measurement holds {least} signatures of a kind; {FEW} are the least",
            hint="Measure longer: --duration 60.",
        )
    tse = measurement.tse
    middleware = Histogram()
    for point in measurement.points:
        middleware.merge(Histogram.load(point.middleware))
    times = ServiceTime.measured(start), ServiceTime.measured(finish)
    mean = (times[0].mean_s + times[1].mean_s) / 2
    simulated = ", a simulated one" if tse.simulated else ""
    return Profile(
        name="measured",
        title=f"TSE {tse.serial_number[:12]}…, measured {measurement.measured_at[:10]}{simulated}",
        cloud=like.cloud if like else False,
        start=times[0],
        finish=times[1],
        low_s=mean * 0.95,
        high_s=mean * 1.05,
        max_signatures=tse.max_signatures,
        log_memory_bytes=tse.max_log_memory_bytes,
        log_bytes_per_signature=(tse.max_log_memory_bytes and tse.log_bytes_per_signature)
        or LOG_BYTES_PER_SIGNATURE,
        max_clients=tse.max_clients,
        max_open_transactions=tse.max_open_transactions,
        certificate_years=like.certificate_years if like else None,
        self_test_s=like.self_test_s if like else None,
        own_signatures_per_day=like.own_signatures_per_day if like else 0.0,
        overhead_s=middleware.mean,
        source=f"measured: {start.count + finish.count} signatures, {mean * 1000:.0f} ms each",
        uncertainty="one device on one day: measure again when it has aged; ±5 % assumed",
    )
