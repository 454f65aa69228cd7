"""Group commit: callers that wait at the same time share one flush of the disk.

Every caller queues a ticket. Who finds no leader leads: it takes all tickets that wait, writes them as one
batch, opens the gates of their callers and hands the role to the first who came meanwhile. There is no
background thread, and no gate opens before the disk answered. The gates are raw locks; an Event or Condition
costs several of them.

Who is alone may go on while the disk writes (:meth:`GroupCommit.begin`), and has the role until it has ended that.

An interrupt (KeyboardInterrupt) can hit a caller between any two of its steps. Whoever holds a duty then does
it first and raises afterwards, so every step that follows an interrupt can be repeated without harm.
"""

from __future__ import annotations

from _thread import get_ident
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from fiskal.errors import StoreError
from fiskal.fairlock import Turn
from fiskal.fibers import Gate, let_others_go_first, may_block, new_gate
from fiskal.store.writer import BadChange

MAX_BATCH_CHANGES: Final = 256
"""Changes of one batch; who comes later waits for the next."""

_INTERRUPT_POLL_S: Final = 0.01
"""How often an interrupted caller looks whether its ticket is settled."""

_LEADER: Final = "leader"


T = TypeVar("T")


class BatchWriter(Protocol[T]):
    """What writes a batch: the commit log or the database."""

    @property
    def stored(self) -> bool: ...
    def forget(self) -> None: ...
    def write(self, batch: list[T], /) -> None: ...
    def close(self) -> None: ...


class BeginningWriter(BatchWriter[T], Protocol[T]):
    """One that can also write while its user does something else."""

    def begin(self, batch: list[T], /) -> bool: ...
    def finish(self) -> None: ...


class _Ticket:
    """One waiting change. ``settled`` is set before the gate opens; ``error`` then says how it ended.

    ``granted`` says that the gate opens with the caller's turn, so that who comes through it has the turn.
    """

    __slots__ = ("change", "error", "gate", "granted", "settled", "turn")

    def __init__(self, change: Any, turn: Turn | None) -> None:
        self.change = change
        self.turn = turn
        self.granted = False
        self.gate: Gate = new_gate()
        self.error: StoreError | None = None
        self.settled = False

    def wake(self) -> None:
        """Open the gate at once."""
        try:
            self.gate.release()
        except RuntimeError:
            pass  # Open already: waking twice is harmless.

    def answer(self) -> None:
        """Open the gate of a settled ticket, in the caller's turn if it takes turns."""
        if self.turn is None:
            self.wake()
        elif not self.granted:
            self.granted = True
            self.turn.grant([self.gate])


class GroupCommit(Generic[T]):
    """Commits changes of many threads through the one writer that ``open_writer`` opens.

    A batch has ``max_batch`` changes at most, and ``max_weight`` of what ``weigh`` says of each, or one alone. After
    a disk error the writer is closed; the next batch opens a new one, so that the store works again as soon as
    the disk does.
    """

    def __init__(
        self,
        open_writer: Callable[[], BatchWriter[T]],
        *,
        max_batch: int = MAX_BATCH_CHANGES,
        weigh: Callable[[T], int] | None = None,
        max_weight: int = 0,
    ) -> None:
        self._open_writer = open_writer
        self._max_batch = max_batch
        self._weigh = weigh
        self._max_weight = max_weight
        self._writer: BatchWriter[T] | None = open_writer()
        self._tickets: deque[_Ticket] = deque()
        # dict.setdefault takes the role atomically *and* says who has it, which a lock could not.
        self._role: dict[str, _Ticket] = {}
        self._closed = False
        self._writing: list[_Ticket] = []
        self._begun: _Ticket | None = None
        self._begun_in = 0
        """The thread that has to end what was begun."""

    @property
    def is_free(self) -> bool:
        """Nobody commits or waits for it."""
        return not (self._role or self._tickets or self._closed)

    def begin(self, change: T, writer: BeginningWriter[T]) -> bool:
        """Begin to commit ``change`` with ``writer``, the one that is open, and return meanwhile.

        True: this thread calls :meth:`end` before it commits anything else, and soon, because everybody else waits.
        False, and nothing was begun, if somebody else commits or the writer cannot do it now.
        """
        if not self.is_free or self._writer is not writer:
            return False
        ticket = _Ticket(change, None)
        try:
            if self._role.setdefault(_LEADER, ticket) is not ticket:
                return False
            self._begun_in = get_ident()
            self._begun = ticket
            writer.forget()
            if writer.begin([change]):
                return True
            self._let_go(ticket)
        except BaseException:
            self._surely_let_go(ticket)
            raise
        return False

    def end(self, writer: BeginningWriter[T]) -> None:
        """Return when what this thread began is on the disk. StoreError: nothing of it is. If it began nothing, this
        does nothing."""
        ticket = self._begun
        if ticket is None or self._begun_in != get_ident():
            return
        try:
            try:
                writer.finish()
            except StoreError:
                self._close_writer()
                raise
            self._let_go(ticket)
        except BaseException:
            self._surely_let_go(ticket)
            raise

    def _let_go(self, ticket: _Ticket) -> None:
        """Hand on the role of who began something. Can be repeated."""
        if self._begun is ticket:
            self._begun = None
        if self._role.get(_LEADER) is ticket:
            self._finish(ticket, [])

    def _surely_let_go(self, ticket: _Ticket) -> None:
        """What the disk has of an interrupted write, the next one finds out."""
        while True:
            try:
                self._let_go(ticket)
            except BaseException:
                continue
            return

    def commit(self, change: T | None, turn: Turn | None = None, *, in_turn: bool = True) -> None:
        """Return when ``change`` is on the disk. StoreError: nothing of it is.

        The caller has ``turn`` when this returns or raises. If it has it already (``in_turn``), it is left
        while the caller waits.
        """
        if self._begun is not None and self._begun_in == get_ident():
            raise RuntimeError("this thread has begun something else, and has to end that first")
        ticket = _Ticket(change, turn)
        role = self._role
        try:
            # Nothing can interrupt between the line above and the return of append.
            self._tickets.append(ticket)
            if turn is not None and in_turn:
                turn.leave()
            if role.setdefault(_LEADER, ticket) is not ticket:
                ticket.gate.acquire()
            if role.get(_LEADER) is ticket:
                self._lead(ticket)
        except BaseException:
            self._do_duty(ticket)
            if turn is not None:
                if ticket.granted:
                    turn.abandon(ticket.gate)
                turn.__enter__()
            raise
        if turn is not None and not ticket.granted:
            turn.__enter__()
        if ticket.error is not None:
            raise ticket.error

    def close(self) -> None:
        """Wait for the batch that is being written, refuse all later ones, close the writer."""
        self._closed = True
        try:
            self.commit(None)
        except StoreError:
            pass  # The refusal. Whoever leads from now on refuses as well and leaves the writer alone.
        self._close_writer()

    def _do_duty(self, ticket: _Ticket) -> None:
        """After an interrupt: see the ticket settled, leading if need be, whatever else interrupts."""
        while True:
            try:
                while not ticket.settled and self._role.setdefault(_LEADER, ticket) is not ticket:
                    ticket.gate.acquire(timeout=_INTERRUPT_POLL_S)
                if self._role.get(_LEADER) is ticket:
                    self._lead(ticket)
            except BaseException:
                continue
            return

    def _lead(self, ticket: _Ticket) -> None:
        """Write what waits, then hand the role on.

        Whoever is ready to run comes first: most of them are about to commit something themselves and share
        this flush. Without them a busy host would flush for two or three at a time.
        """
        tickets = self._tickets
        batch: list[_Ticket] = []
        try:
            if ticket.turn is not None:
                with ticket.turn:
                    pass
            else:
                let_others_go_first()
            weight = 0
            while tickets and len(batch) < self._max_batch:
                if self._weigh is not None and tickets[0].change is not None:
                    weight += self._weigh(tickets[0].change)
                    if batch and weight > self._max_weight:
                        break
                batch.append(tickets[0])
                tickets.popleft()
            self._settle(batch)
        finally:
            self._finish(ticket, batch)

    def _settle(self, batch: list[_Ticket]) -> None:
        """Write ``batch``; if one of its changes is bad, each alone, so that only the bad ones fail."""
        error: StoreError | BadChange | None = None
        if self._closed:
            error = StoreError("the store is closed")
        else:
            try:
                if self._writer is None:
                    self._writer = self._open_writer()
                self._writer.forget()
                self._writing = batch
                may_block(self._writer.write, [ticket.change for ticket in batch])
            except BadChange as bad:
                self._writing = []
                if len(batch) > 1:
                    for ticket in batch:
                        self._settle([ticket])
                    return
                error = bad
            except StoreError as failed:
                self._writing = []
                self._close_writer()
                error = failed
        for ticket in batch:
            if error is not None:
                # One exception each: threads that raise the same object would share its traceback.
                ticket.error = StoreError(str(error))
                ticket.error.__cause__ = error.__cause__
            ticket.settled = True
        self._writing = []

    def _finish(self, ticket: _Ticket, batch: list[_Ticket]) -> None:
        """Open the gates and hand the role on, however the batch ended and whatever interrupts."""
        try:
            self._release(ticket, batch)
        except BaseException:
            while True:
                try:
                    self._release(ticket, batch)
                    break
                except BaseException:
                    continue
            raise

    def _release(self, ticket: _Ticket, batch: list[_Ticket]) -> None:
        """Every step of this can be repeated from the start."""
        if self._writing:
            # An interrupt left the write. What it had stored is settled, the rest waits again.
            if self._writer is not None and self._writer.stored:
                for written in self._writing:
                    written.settled = True
            self._writing = []
        ticket.settled = True
        tickets = self._tickets
        while batch:
            last = batch[-1]
            if last.settled:
                if last is not ticket:
                    last.answer()
            elif not tickets or tickets[0] is not last:
                tickets.appendleft(last)
            batch.pop()
        role = self._role
        while True:
            leader = role.get(_LEADER)
            if leader is ticket:
                if tickets:
                    role[_LEADER] = tickets[0]
                else:
                    del role[_LEADER]
            elif leader is None and tickets:
                # Somebody came while the role was still taken, and waits.
                role.setdefault(_LEADER, ticket)
            else:
                break
        if leader is not None:
            leader.wake()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
