"""The tie between queues and a signature creation unit, and what they remember of it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, cast

import msgspec

from fiskal.errors import FiskalError
from fiskal.scu.client import INFO_S
from fiskal.scu.contract import Capabilities, Deadline, Probes, Reserves, Scu, TseInfo
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import Misconfigured, ScuError, Unreachable
from fiskal.scu.scheduler import Scheduler
from fiskal.store import ScuRow

_log = logging.getLogger("fiskal.queue")


class ScuBinding:
    """One SCU as the queues of a host see it: opened when first needed, with the last TseInfo read.

    A TSE that is missing when the host starts may come later; until then every call is Unreachable, and so
    failed mode. The certification id is printed on every receipt but must never fail one: it comes from here.
    """

    def __init__(
        self,
        scu_id: str,
        open_scu: Callable[[], Scu],
        row: ScuRow | None = None,
    ) -> None:
        self.scu_id = scu_id
        self.export_lock = threading.Lock()
        """Held for the length of a TAR export of the TSE; no other call waits for it."""
        self.signed_at: float | None = None
        """When the TSE signed last, on the monotonic clock; None if it has failed since."""
        self._open = open_scu
        self._scu: Scu | None = None
        self._lock = threading.Lock()
        self.row = ScuRow(scu_id, "", 0, None, 0, None) if row is None else row
        """The stored row, but for the TseInfo read since."""
        self._saved = self.row.TseInfoJson
        self.info: TseInfo | None = None
        if self._saved:
            try:
                self.info = msgspec.json.decode(self._saved, type=TseInfo)
            except msgspec.ValidationError:
                _log.warning("the stored TseInfo of SCU %s cannot be read; the TSE is asked again", scu_id)
        self.certification_id = self.info.certification_identification if self.info else ""

    @property
    def scu(self) -> Scu:
        """The SCU. Raises Unreachable while it cannot be opened."""
        return self._scu if self._scu is not None else self._connect()

    @property
    def capabilities(self) -> Capabilities:
        """What the SCU declares; until it is open, that nothing is known of it."""
        return _UNKNOWN if self._scu is None else self._scu.capabilities

    @property
    def opened(self) -> Scu | None:
        """The SCU if it is open."""
        return self._scu

    def idle_s(self) -> float:
        """Seconds since the TSE signed; endless if it has not yet, or has failed since."""
        return math.inf if self.signed_at is None else time.monotonic() - self.signed_at

    @property
    def scheduler(self) -> Scheduler | None:
        """The line in front of the TSE; None while the SCU is not open, or if it is served elsewhere."""
        return self._scu.scheduler if isinstance(self._scu, ScuCore) else None

    def back_to_back(self, client_id: str, timeout_s: float) -> AbstractContextManager[None]:
        """Within the block this thread's calls follow each other at the TSE, if the SCU is open and can see to that.

        Raises ScuError when the TSE stays busy with others for so long.
        """
        if self._scu is None or not self.capabilities.reserves:
            return nullcontext()
        return cast(Reserves, self._scu).back_to_back(client_id, Deadline(timeout_s))

    def _connect(self) -> Scu:
        with self._lock:
            if self._scu is None:
                try:
                    scu = self._open()
                    self._scu = scu
                except ScuError:
                    raise
                except (FiskalError, OSError) as error:
                    raise Unreachable("TSE_NOT_AVAILABLE", f"The TSE is not available. {error}") from error
            return self._scu

    def scu_within(self, deadline: Deadline) -> Scu:
        """The SCU, if it opens in time; the opening then goes on. Raises ScuError."""
        if self._scu is None:
            failed: list[ScuError] = []

            def connect() -> None:
                try:
                    self._connect()
                except ScuError as error:
                    failed.append(error)

            opening = threading.Thread(target=connect, name="fiskal-scu-open", daemon=True)
            opening.start()
            opening.join(deadline.remaining())
            if failed:
                raise failed[0]
        if self._scu is None:
            raise Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. It did not open in time.")
        return self._scu

    def tse_info(self, deadline: Deadline | None = None) -> TseInfo:
        """Ask the TSE and remember the answer. Raises ScuError."""
        return self.note_info(self.scu.get_tse_info(deadline))

    def note_info(self, info: TseInfo) -> TseInfo:
        """Remember what the TSE told of itself."""
        self.info = info
        self.certification_id = info.certification_identification
        return info

    def note_signature(self) -> None:
        """The TSE has signed."""
        self.signed_at = time.monotonic()

    def probe(self, timeout_s: float) -> TseInfo | None:
        """Ask the TSE for its state, but only if nobody else uses it: else None. Raises ScuError.

        What it answers is not remembered: a receipt in work shall not find it changed.
        """
        scu = self.scu
        if self.capabilities.probes:
            return cast(Probes, scu).get_tse_info_if_idle(Deadline(timeout_s))
        return scu.get_tse_info(Deadline(timeout_s))

    def refresh(self) -> bool:
        """Ask the TSE; a failure is logged, not raised. True if it answered."""
        try:
            self.tse_info(Deadline(INFO_S))
        except ScuError as error:
            _log.warning("SCU %s does not answer: %s", self.scu_id, error)
            return False
        return True

    def unsaved(self, now: int) -> ScuRow | None:
        """The row to store when the TseInfo changed since it was stored last, else None."""
        if self.info is None:
            return None
        text = msgspec.json.encode(self.info).decode()
        if text == self._saved:
            return None
        self._saved = text
        return self.row._replace(TimeStamp=now, TseInfoJson=text)

    def twin(self) -> ScuBinding:
        """The same SCU with what is known of it by now; what the twin learns is its own."""
        return _Twin(self)

    def close(self) -> None:
        with self._lock:
            if self._scu is not None:
                self._scu.close()
                self._scu = None


class _Twin(ScuBinding):
    """What is known of an SCU by now, for a receipt that may learn more and be forgotten."""

    def __init__(self, real: ScuBinding) -> None:
        super().__init__(real.scu_id, lambda: real.scu, real.row)
        self._real = real
        self.info, self.certification_id = real.info, real.certification_id

    @property
    def capabilities(self) -> Capabilities:
        return self._real.capabilities


_UNKNOWN: Final = Capabilities()


def no_scu(scu_id: str = "") -> ScuBinding:
    """The binding of a queue that has no SCU, or one that the host does not have: a person must act."""

    def refuse() -> Scu:
        raise Misconfigured("NO_SCU", "The queue is connected to no SCU of this host.")

    return ScuBinding(scu_id, refuse)
