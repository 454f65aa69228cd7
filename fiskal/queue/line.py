"""The line in front of a queue: first come, first served."""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable

from fiskal.conversation import Need, Way
from fiskal.errors import FiskalError


class QueueBusy(FiskalError):
    """More callers wait for a queue than it allows; try again in a moment."""

    code = "QUEUE_BUSY"


class Place(Need[None]):
    """A place in a line. ``await place`` ends when it is the first one."""

    __slots__ = ("_gate", "_rings", "ahead_may_accept")

    way = Way.SIGNAL

    def __init__(self, ahead_may_accept: bool) -> None:
        super().__init__()
        self.answer = None
        self.ahead_may_accept = ahead_may_accept
        """Who waits behind it may be accepted while it is served."""
        self._gate: LockType | None = None
        self._rings: list[Callable[[], None]] = []

    def call(self) -> None:
        """Wait in this thread."""
        gate = self._gate
        if gate is not None:
            gate.acquire()

    def wait_at(self) -> None:
        """Become a place at which a thread can wait."""
        self._gate = allocate_lock()
        self._gate.acquire()

    def then(self, ring: Callable[[], None]) -> None:
        """Call ``ring`` when this place is the first one: at once, or later in the thread of who leaves."""
        self._rings.append(ring)
        if self.done:
            self._ring()

    def _ring(self) -> None:
        while self._rings:
            try:
                ring = self._rings.pop()
            except IndexError:  # the other thread was faster
                return
            ring()

    def come_first(self) -> None:
        """Nobody is ahead any more."""
        self.done = True
        if self._gate is not None:
            self._gate.release()
        self._ring()


class Line:
    """The places in front of one queue. At most ``max_waiting`` wait; more get :class:`QueueBusy`. Thread-safe."""

    __slots__ = ("_max_waiting", "_mutex", "_served", "_waiting")

    def __init__(self, max_waiting: int) -> None:
        self._mutex = allocate_lock()
        self._max_waiting = max_waiting
        self._served: Place | None = None
        self._waiting: deque[Place] = deque()

    def join(self, *, ahead_may_accept: bool = False) -> Place:
        """Take the last place. It is done at once if nobody else is there. Raises QueueBusy."""
        place = Place(ahead_may_accept)
        with self._mutex:
            if self._served is None:
                self._served = place
                place.done = True
                return place
            if len(self._waiting) + 1 >= self._max_waiting:
                self._check_room(ahead_may_accept)
            place.wait_at()
            self._waiting.append(place)
        return place

    def _check_room(self, put_in_line: bool) -> None:
        """Callers that wait and receipts that were put in line each have a limit of their own."""
        waiting = sum(place.ahead_may_accept == put_in_line for place in self._waiting)
        if put_in_line and self._served is not None:
            waiting += self._served.ahead_may_accept  # nobody waits for it, so the one in work counts as well
        if waiting >= self._max_waiting:
            raise QueueBusy(f"{waiting} receipts wait for this queue already; try again")

    def join_if_free(self) -> Place | None:
        """The first place, None if somebody has it."""
        with self._mutex:
            if self._served is not None:
                return None
            self._served = place = Place(False)
            place.done = True
            return place

    @property
    def served(self) -> Place | None:
        """Who is first."""
        return self._served

    @property
    def waiting(self) -> int:
        """How many wait behind the first."""
        return len(self._waiting)

    def is_next(self, place: Place) -> bool:
        """Only the first one is ahead of ``place``."""
        waiting = self._waiting
        try:
            return waiting[0] is place
        except IndexError:
            return False

    def leave(self, place: Place) -> None:
        """Give a place up, first or not; whoever is first then may go on."""
        following: Place | None = None
        with self._mutex:
            if place is not self._served:
                self._waiting.remove(place)
                return
            following = self._served = self._waiting.popleft() if self._waiting else None
        if following is not None:
            following.come_first()
