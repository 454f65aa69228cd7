"""A whole benchmark of one TSE: from what it is to the measurement, leaving nothing behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final

from fiskal import clock
from fiskal.core import format_ticks
from fiskal.histogram import Histogram
from fiskal.scu.contract import (
    Deadline,
    RegisterClientIdRequest,
    Scu,
    TseInfo,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import ScuError
from fiskal.scu.scheduler import CLIENT_STEP_S
from fiskal.sizing.drive import Clockwork, Settings, Watcher, measure
from fiskal.sizing.errors import MeasurementError
from fiskal.sizing.measurement import UNKNOWN_MAXIMUM, MeasuredTse, Measurement, Point, Setup
from fiskal.sizing.tills import CALL_S, CLIENT_ID, ScuTill, Till, Watched
from fiskal.version import __version__

CLOSE_S: Final = 20.0
"""How long open transactions are tried to be finished after the end."""

MakeTills = Callable[[Scu, int], Sequence[Till]]
"""(the SCU, how many) to that many checkouts that sign with it."""


def scu_tills(scu: Scu, checkouts: int) -> Sequence[Till]:
    """Checkouts that ask the SCU itself."""
    return [ScuTill(scu) for _ in range(checkouts)]


def productive_clients(info: TseInfo) -> list[str]:
    """The clients of a TSE that are not a benchmark's."""
    return sorted(set(info.current_client_ids) - {CLIENT_ID})


class Bench:
    """One TSE that is measured. Use it as a context manager: at the end nothing is open on the TSE.

    ``scu`` stays open. ``close_s`` is how long open transactions are tried to be finished. Raises
    MeasurementError for a TSE that is not in operation, ScuError for one that does not answer.
    """

    def __init__(self, scu: ScuCore, *, driver: str, simulated: bool, close_s: float = CLOSE_S) -> None:
        self._scu = scu
        self._driver = driver
        self._simulated = simulated
        self._close_s = close_s
        self._watched = Watched(scu)
        self._clockwork = Clockwork()
        self.info = scu.get_tse_info(Deadline(CALL_S))
        if self.info.current_state is not TseStates.INITIALIZED:
            raise MeasurementError(
                f"the TSE {self.info.serial_number_octet[:12]}… is not in operation",
                hint="A benchmark puts no TSE into operation. Sign a start receipt first, or use --simulate.",
            )
        self._registered = CLIENT_ID in self.info.current_client_ids

    @property
    def scu(self) -> Scu:
        """What the checkouts must sign with: it is measured and watched."""
        return self._watched.as_scu()

    def __enter__(self) -> Bench:
        if not self._registered:
            self._scu.register_client_id(RegisterClientIdRequest(client_id=CLIENT_ID), Deadline(CALL_S))
        self._scu.observer = self._clockwork
        # All checkouts are one client to the TSE, but not to each other.
        self._scu.scheduler.client_step_s = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._scu.observer = None
        self._scu.scheduler.client_step_s = CLIENT_STEP_S
        if not self.close_open() and not self._registered:
            # A TSE that has failed keeps the client; it does no harm.
            with contextlib.suppress(ScuError):
                self._scu.unregister_client_id(
                    UnregisterClientIdRequest(client_id=CLIENT_ID), Deadline(CALL_S)
                )

    def close_open(self) -> list[int]:
        """Finish what is open; return the numbers that stay open, 0 for a start with unknown outcome."""
        return self._watched.close_open(self._close_s)

    def run(
        self,
        checkouts: Sequence[int],
        settings: Settings,
        setup: Setup,
        *,
        make_tills: MakeTills = scu_tills,
        watch: Watcher | None = None,
        stop: threading.Event | None = None,
    ) -> Measurement:
        """Measure with each number of checkouts in turn; what was measured is returned whatever happens.

        The log's growth per signature is measured with it, if the TSE tells how long its log is.
        """
        points: list[Point] = []
        service: dict[str, Histogram] = {}
        stopped = ""
        for number in checkouts:
            result = measure(make_tills(self.scu, number), settings, self._clockwork, watch=watch, stop=stop)
            if result.point.seconds > 0:
                points.append(result.point)
            for op, histogram in result.service.items():
                service.setdefault(op, Histogram()).merge(histogram)
            if result.stopped:
                stopped = result.stopped
                break
        left_open = self.close_open()
        return Measurement(
            fiskal=__version__,
            measured_at=format_ticks(clock.now()),
            tse=self._described(),
            setup=setup,
            points=points,
            service={op: histogram.dump() for op, histogram in sorted(service.items())},
            stopped=stopped,
            left_open=left_open,
        )

    def _described(self) -> MeasuredTse:
        info = self.info
        per_signature: float | None = None
        try:
            after = self._scu.get_tse_info(Deadline(CALL_S))
        except ScuError:
            after = info
        written = after.current_number_of_signatures - info.current_number_of_signatures
        grown = after.current_log_memory_size - info.current_log_memory_size
        if written > 0 and grown > 0 and info.current_log_memory_size >= 0:
            per_signature = grown / written
        return MeasuredTse(
            serial_number=info.serial_number_octet.lower(),
            certification=info.certification_identification,
            firmware=info.firmware_identification,
            driver=self._driver,
            simulated=self._simulated,
            max_signatures=_known(info.max_number_of_signatures),
            max_log_memory_bytes=_known(info.max_log_memory_size, 2**63 - 1),
            max_clients=_known(info.max_number_of_clients),
            max_open_transactions=_known(info.max_number_of_started_transactions),
            log_bytes_per_signature=per_signature,
        )


def probe(scu: Scu, receipts: int = 5) -> float:
    """Sign some receipts alone and return the mean seconds of a signature, middleware included."""
    till = ScuTill(scu)
    times = Histogram()
    for _ in range(receipts):
        began = clock.now()
        till.receipt(1)
        times.record((clock.now() - began) / clock.TICKS_PER_SECOND)
    return times.mean / 2


def _known(value: int, unknown: int = UNKNOWN_MAXIMUM) -> int | None:
    return value if 0 < value < unknown else None
