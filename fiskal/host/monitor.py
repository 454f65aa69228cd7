"""The background of a host: it tells the listeners, and looks after the TSE of a queue in failed mode.

There is a thread only while there is something to do. It asks a TSE when nobody else does, for a bounded time,
and it changes the mode of no queue by itself: the recovery it may be told to try is a zero receipt like any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from fiskal.host.events import Event, Listener

_log = logging.getLogger("fiskal.host")

CLOSE_S = 30.0
"""How long closing waits for what the thread has begun."""


class Monitor:
    """Calls ``round_`` every ``interval_s`` seconds (0: never) while ``needed`` says so; passes events on.

    Listeners are called one after the other from the monitor's thread, so that a slow one delays no receipt;
    what they raise is logged.
    """

    def __init__(
        self,
        round_: Callable[[], Iterable[Event]],
        needed: Callable[[], bool],
        interval_s: float,
        listeners: list[Listener],
    ) -> None:
        self._round = round_
        self._needed = needed
        self._interval_s = interval_s
        self._listeners = listeners
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def wake(self, event: Event | None = None) -> None:
        """Pass ``event`` on, and see whether there is something to look after. Returns at once."""
        with self._changed:
            if event is not None:
                _note(event)
                if self._listeners:
                    self._events.append(event)
            if self._thread is not None:
                self._changed.notify()
                return
            if self._closed or not self._has_work():
                return
            self._thread = threading.Thread(target=self._run, name="fiskal-monitor", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no more threads: the receipt that brought us here must not fail
                self._thread = None
                _log.error("the monitor cannot be started: %s", error)

    def close(self) -> None:
        """Let the thread end what it has begun. Events not passed on yet still are."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_S)
            if thread.is_alive():
                _log.warning("the monitor did not end within %.0f s", CLOSE_S)

    def _has_work(self) -> bool:
        return bool(self._events) or (self._interval_s > 0 and self._needed())

    def _run(self) -> None:
        due = time.monotonic() + self._interval_s
        while True:
            with self._changed:
                while not self._events and not self._closed and self._has_work():
                    wait = due - time.monotonic()
                    if wait <= 0:
                        break
                    self._changed.wait(wait)
                if not self._events and (self._closed or not self._has_work()):
                    self._thread = None
                    return
                events = list(self._events)
                self._events.clear()
            if not events:
                try:
                    events = list(self._round())
                    for event in events:
                        _note(event)
                except Exception:
                    _log.exception("the monitor failed in a round")
                due = time.monotonic() + self._interval_s
            for event in events:
                self._tell(event)

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                _log.exception("a listener failed at %s", event.kind)


def _note(event: Event) -> None:
    _log.warning("queue %s: %s: %s", event.queue_id, event.kind.replace("_", " "), event.text)
