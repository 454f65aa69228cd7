"""What a TSE needs without anybody asking for it, when nobody is in its way: self tests, and when exports may run.

A self test keeps a device from signing for up to two minutes, and it is due about once a day. So it is made
ahead of time: in the window the configuration names, or else when the TSE has had nothing to do for a while. Only
one TSE of a host is tested at a time, each in its part of the window, so that another one can always sign.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from fiskal.clock import TICKS_PER_SECOND, Clock, to_unix
from fiskal.errors import ConfigurationError
from fiskal.queue.binding import ScuBinding
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import ScuError

_log = logging.getLogger("fiskal.host")

GERMAN_TIME: Final = ZoneInfo("Europe/Berlin")
DAY_MINUTES: Final = 24 * 60
SLOT_MINUTES: Final = 5
"""What each TSE has at least of the window: a self test of two minutes and a rest for those who waited."""
AHEAD: Final = 0.8
"""A self test may be made from this share of its interval on; at the end of the interval it is made."""
QUIET_S: Final = 60.0
"""A TSE that has signed nothing for so long is left alone by the customers."""
ROUND_S: Final = 30.0
AGAIN_S: Final = 600.0
"""A self test that failed is not tried again before."""

_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Window(NamedTuple):
    """A part of every day in German time, in minutes after midnight; one that ends before it begins crosses it."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window | None:
        """``22:00-05:00``, or None for the empty text. Raises ConfigurationError."""
        if not text:
            return None
        match = _WINDOW.fullmatch(text)
        if match is None or text[:5] == text[6:]:
            raise ConfigurationError(f"upkeep_window {text!r} is no part of a day such as 22:00-05:00")
        return cls(int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4]))

    @property
    def minutes(self) -> int:
        return (self.end - self.begin) % DAY_MINUTES

    def gone(self, moment: int) -> float | None:
        """How many minutes of the window have gone at ``moment`` (ticks); None outside of it."""
        local = datetime.fromtimestamp(to_unix(moment), UTC).astimezone(GERMAN_TIME)
        gone = (local.hour * 60 + local.minute + local.second / 60 - self.begin) % DAY_MINUTES
        return gone if gone < self.minutes else None

    def wait_s(self, moment: int) -> float:
        """Seconds until the window, 0 within it. When the clocks change it may be an hour off; ask again."""
        if self.gone(moment) is not None:
            return 0.0
        local = datetime.fromtimestamp(to_unix(moment), UTC).astimezone(GERMAN_TIME)
        return ((self.begin - local.hour * 60 - local.minute) % DAY_MINUTES) * 60.0 - local.second


class Upkeep:
    """The self tests of a host's TSEs: at most one at a time.

    A TSE counts as tested when the host was opened, because devices are tested when they are switched on, and
    whenever a self test has passed, for whatever reason. TSEs behind another host are that host's. One of which
    ``is_failed`` says (by SCU id) that a queue is in failed mode with it is left to that queue's zero receipt.
    ``interval_s`` 0 is never.
    """

    def __init__(
        self,
        bindings: Collection[ScuBinding],
        is_failed: Callable[[str], bool],
        interval_s: float,
        window: Window | None,
        clock: Clock,
    ) -> None:
        self._bindings = bindings
        self._is_failed = is_failed
        self._interval = int(interval_s * TICKS_PER_SECOND)
        self._window = window
        self._clock = clock
        self._since = clock()
        self._not_before: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look after the TSEs in a thread of its own, if there is anything to do."""
        if self._interval:
            self._thread = threading.Thread(target=self._run, name="fiskal-upkeep", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End after the self test in progress, which no TSE can take back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(ROUND_S):
            try:
                self.look()
            except Exception:
                _log.exception("the upkeep failed in a round")

    def look(self) -> str | None:
        """Test the first TSE that is due and free, and return its SCU id; None if there is none."""
        for number, binding in enumerate(self._bindings):
            core = binding.opened
            if not isinstance(core, ScuCore) or not self._interval or self._is_failed(binding.scu_id):
                continue
            now = self._clock()
            if now < self._not_before.get(binding.scu_id, 0):
                continue
            age = now - max(core.self_tested_at or 0, self._since)
            overdue = age >= self._interval
            early = age >= AHEAD * self._interval and self._suits(number, now)
            if (overdue or (early and binding.idle_s() >= QUIET_S)) and self._test(binding, core, overdue):
                return binding.scu_id
        return None

    def _suits(self, number: int, now: int) -> bool:
        """Whether it is the part of the window of TSE ``number``; always without a window."""
        if self._window is None:
            return True
        gone = self._window.gone(now)
        return gone is not None and int(gone * len(self._bindings) / self._window.minutes) == number

    def _test(self, binding: ScuBinding, core: ScuCore, overdue: bool) -> bool:
        try:
            return core.self_test_aside(if_idle=not overdue)
        except ScuError as error:
            _log.warning("SCU %s: the self test failed: %s", binding.scu_id, error)
            self._not_before[binding.scu_id] = self._clock() + int(AGAIN_S * TICKS_PER_SECOND)
            return True
