"""What becomes of a receipt that was interrupted between its acceptance (T1) and its answer (T2).

The process died, or the disk did not take the answer: the item is stored, the TSE may have signed it, and
nobody heard of it. Before the queue takes its next receipt it goes through these items in the order of their
rows. Each is worked through once more, from the record of its SCU (:mod:`fiskal.queue.replay`): the same conversation
that made the first answer makes it again, and no call to a TSE is executed.

===========================================  ==============================================================
what the SCU's record says                   what becomes of the item
===========================================  ==============================================================
every signature the receipt needs exists     its answer is made from them; it gets number and place in the
(sale, order, step, closing, start, …)       chain, and a receipt request finds it
the receipt needs no TSE (failed mode, late  answered as it would have been
signing, handwritten, out of service), or
is wrong in itself
implicit receipt, start signed, finish not   ``interrupted``; its transaction is closed as AVBelegabbruch. To
                                             finish it would sign a sale that the POS may have given up
start, finish or update of the explicit      ``interrupted``; what was open stays open, the POS goes on with it
flow, not signed
zero receipt or closing, signed itself, but  ``interrupted``; what it did to other transactions stands, and
not all it had to do beside it was done      the next one goes on
nothing was executed                         ``interrupted``
anything, but an update reads the stored     ``interrupted``; what it had begun is closed
text as another request
the SCU cannot be asked in time, or keeps    ``interrupted``, and the item is remembered as *undecided*
no record
===========================================  ==============================================================

``interrupted`` is an error answer: the item keeps its row and gets no number (queue invariants). Working through a
receipt may end ahead of its own transaction, at something it did besides or at what the queue has open by now. So what
became of that transaction is asked for by itself: one that is open is closed, and a receipt that signed its own is
remembered as *signed*, whatever it is answered. A comparison with the TSE that had not come to its end counts as one
that failed: the receipts that can do without it are completed.

An undecided item is looked at again after the first receipt that reached its TSE: a transaction it left open is
closed as aborted. Should the POS send the very same request again before or after that, its TSE calls are made
under the first item's id: what was executed is fetched, not signed a second time. If the transaction of the first
item was closed as aborted meanwhile, the receipt begins anew under its own id, which is noted before the TSE hears of
it: from then on that item is the one whose calls are repeated. In the same way a POS that sends an item again which
has been completed, without having asked for the answer, gets that answer, once.

If the queue has left the TSE of the first item meanwhile, that one is asked what it remembers, and ends at most what
it had begun. What it signed is the answer. What it did not sign is signed at the TSE of the queue, which does not hear
of the receipt before the disk knows that. While nobody can say what it did, the receipt is refused.

Everything that was found out is written to the action journal, in the commit of the answer it belongs to. The
entry carries the list of items that still may be asked for, so the newest entry is the whole memory.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from fiskal.clock import TICKS_PER_SECOND
from fiskal.errors import FiskalError, ReceiptRejected, StoreError
from fiskal.germany import notifications, signatures
from fiskal.germany.codes import ReceiptCase
from fiskal.germany.texts import INTERRUPTED
from fiskal.pos import SignaturItem
from fiskal.pos.prepared import Prepared, prepare
from fiskal.queue.dispatch import decide, kind_of
from fiskal.queue.effects import Action, Outcome
from fiskal.queue.facts import Lookups
from fiskal.queue.journal import QueueJournal
from fiskal.queue.replay import NotExecuted, OwnTransaction, RecoveryPass, Replay, Undecidable
from fiskal.queue.settings import QueueSettings
from fiskal.queue.work import Work
from fiskal.scu.contract import Deadline
from fiskal.scu.errors import ScuError
from fiskal.store import QueueItemRow

_log = logging.getLogger("fiskal.queue")

START_UP_S: Final = 10.0
"""How long the queues of a host that starts may wait for TSEs in all, to decide what was interrupted."""

RUNNING_S: Final = 5.0
"""The same for one queue of a running host."""

RESEND_WITHIN_TICKS: Final = 7 * 24 * 3600 * TICKS_PER_SECOND
"""How long after its acceptance an interrupted receipt is known again when the POS sends it once more."""

MAX_UNSETTLED: Final = 32
"""So many interrupted items are remembered, the newest ones."""

JOURNAL_TYPE: Final = "4445000000000000-Interrupted"
"""Type of the action journal's entries about interrupted receipts."""


class Knowledge(enum.StrEnum):
    """What is known of an interrupted item that may come again."""

    COMPLETED = "completed"
    """It has its answer, which the POS has not seen."""
    UNDECIDED = "undecided"
    """It was answered ``interrupted`` without having asked the TSE."""
    SIGNED = "signed"
    """It was answered ``interrupted``, and the TSE had signed it."""
    LEFT = "left"
    """It was sent again and answered without the TSE; what it may have left open is still to be closed."""


class UnsettledItem(msgspec.Struct, frozen=True):
    """An interrupted item that the POS may ask for."""

    item: str
    scu: str
    kind: Knowledge
    moment: int
    """When it was accepted, in ticks."""

    @property
    def to_be_decided(self) -> bool:
        return self.kind in (Knowledge.UNDECIDED, Knowledge.LEFT)

    @property
    def repeatable(self) -> bool:
        """Sent again, its TSE calls are made under this item's id."""
        return self.kind in (Knowledge.UNDECIDED, Knowledge.SIGNED)


class _Entry(msgspec.Struct):
    questions: list[UnsettledItem] = []


def read_unsettled(data_json: str | None) -> list[UnsettledItem]:
    """The list in the DataJson of the newest entry; empty if it has none that can be read."""
    try:
        return msgspec.json.decode(data_json or "{}", type=_Entry).questions
    except msgspec.DecodeError:
        return []


def entry(message: str, items: list[UnsettledItem], item_id: str | None = None) -> Action:
    """The entry of the action journal that makes ``items`` the memory of what was interrupted."""
    data = {"questions": [msgspec.to_builtins(each) for each in items[-MAX_UNSETTLED:]]}
    return Action(JOURNAL_TYPE, message, notifications.to_json(data), item_id=item_id)


def signed_itself(calls: str | None) -> bool:
    """Did the TSE finish a transaction that the same receipt had started (``S7:13:<ticks> F7:14:<ticks>``)?"""
    words = [word.partition(":")[0] for word in (calls or "").split()]
    return any(f"F{word[1:]}" in words for word in words if word[0] == "S")


class Desk(Protocol):
    """What the pipeline does for an interrupted receipt."""

    def work(
        self,
        item: QueueItemRow,
        request: Prepared,
        now: int,
        settings: QueueSettings,
        *,
        lookups: Lookups | None = None,
        at: str | None = None,
        replayed: bool = False,
    ) -> Work:
        """A receipt at its TSE: ``at`` that SCU if not where the queue is. With ``replayed`` nothing of it is durable
        before its answer."""
        ...

    async def complete(self, item: QueueItemRow, work: Work, outcome: Outcome) -> bytes: ...
    async def reject(
        self, item: QueueItemRow, work: Work, message: str, make: Callable[[int, str], SignaturItem]
    ) -> str: ...
    async def refuse(self, item: QueueItemRow, work: Work, error: Exception) -> bytes:
        """Store the error answer; raise ``error``, or return the answer to a request that wants it so."""
        ...


class Interruptions:
    """The interrupted items of one queue that may come again, by the text of their request.

    ``binding`` gives an SCU of the host. Used by one receipt at a time.
    """

    def __init__(self, journal: QueueJournal, lookups: Lookups, desk: Desk) -> None:
        self._journal = journal
        self._lookups = lookups
        self._desk = desk
        self.items: dict[str, UnsettledItem] = {}
        """By the text of the request; what was left behind by the id of its item."""
        self.ahead: set[int] = set()
        """Rows that were accepted ahead of their place; their callers wait."""

    def newest_last(self) -> list[UnsettledItem]:
        """All of them, oldest first."""
        return [*self.items.values()]

    def is_recent(self, found: UnsettledItem) -> bool:
        return self._journal.clock() - found.moment < RESEND_WITHIN_TICKS

    def repeated_by(self, item: QueueItemRow, scu_id: str | None) -> UnsettledItem | None:
        """The interrupted item whose TSE calls ``item`` repeats at this SCU; ``scu_id`` None finishes or voids an SCU
        switch."""
        found = self.items.get(item.request) if self.items else None
        if found is None or not found.repeatable or scu_id not in (found.scu, None):
            return None
        return found if self.is_recent(found) else None

    # ---- at opening, and after a commit that failed ----------------------------------------------

    async def load(self, recover_by: Deadline | None = None) -> None:
        """Read the state of the queue and answer the items that were interrupted before their answer. Raises
        StoreError."""
        journal = self._journal
        unanswered = journal.read()
        self.items = self._read()
        if unanswered:
            recovery = RecoveryPass(self._lookups.binding, recover_by or Deadline(RUNNING_S))
            for item in unanswered:
                journal.state.queued_row = max(journal.state.queued_row, item.ftQueueRow)
                if item.ftQueueRow in self.ahead:
                    continue
                _log.warning("queue %s: row %d was interrupted", journal.queue_id, item.ftQueueRow)
                await self._recover(item, recovery)
        journal.stale = False

    def _read(self) -> dict[str, UnsettledItem]:
        journal = self._journal
        last = journal.store.last_action(journal.queue_id, JOURNAL_TYPE)
        found: dict[str, UnsettledItem] = {}
        for each in [] if last is None else read_unsettled(last.DataJson):
            stored = journal.store.item(each.item)
            if stored is not None:
                left = each.kind == Knowledge.LEFT
                found[each.item if left else stored.item.request] = each
        return found

    async def _recover(self, item: QueueItemRow, recovery: RecoveryPass) -> None:
        """Answer an interrupted item: with its real answer if that can be known, else as interrupted."""
        work, replay = self._replayed(item, recovery)
        if self.signed_elsewhere(item, work.request) is not None:
            # The TSE of the queue hears of it only when the other one is known not to have signed it.
            message = f"Row {item.ftQueueRow} was interrupted; no TSE was called for it."
            work.actions.append(entry(message, self.newest_last()))
            await self._desk.reject(item, work, INTERRUPTED, _interrupted)
            return
        kind: Knowledge | None = None
        try:
            try:
                _check_text(item, work)
                outcome = await replay.run(decide(work))
            except NotExecuted as error:
                await self._interrupt(item, work, str(error), recovery, await recovery.own(work))
                return
        except Undecidable as error:
            _log.warning("queue %s: row %d is undecided: %s", self._journal.queue_id, item.ftQueueRow, error)
            kind = Knowledge.UNDECIDED
            work.effects.clear()
            work.actions.clear()
            self._note(work, item, kind, f"Row {item.ftQueueRow} was interrupted; it is undecided: {error}.")
            await self._desk.reject(item, work, INTERRUPTED, _interrupted)
        except StoreError:
            raise
        except FiskalError as error:
            first = self.items.get(item.request)
            if first is not None and work.repeats and not work.began:
                kind = first.kind
            self._note(work, item, kind, f"Row {item.ftQueueRow} was interrupted; it is rejected.")
            await self._desk.reject(item, work, f"{error.code}: {error}", signatures.error)
        except Exception as error:
            _log.exception("queue %s: unexpected internal error", self._journal.queue_id)
            await self._interrupt(item, work, f"internal error {type(error).__name__}", recovery)
        else:
            kind = Knowledge.COMPLETED
            what = "from the record of the TSE" if work.calls is not None else "without the TSE"
            self._note(work, item, kind, f"Row {item.ftQueueRow} was interrupted; it is completed {what}.")
            await self._desk.complete(item, work, outcome)

    def _replayed(
        self, item: QueueItemRow, recovery: RecoveryPass, at: str | None = None
    ) -> tuple[Work, Replay]:
        """The work of an item at SCUs that only remember, ``at`` one if not where the queue is."""
        journal = self._journal
        settings = journal.settings
        request = prepare(item.request.encode(), strict=settings.process_data_strict)
        found = self.items.get(item.request)
        asked = item.ftQueueItemId if found is None or not found.repeatable else found.item
        replay = recovery.replay(
            asked,
            journal.state.cash_box_identification,
            [*journal.transactions.open.values()],
            [*journal.transactions.doubtful_starts.values()],
        )
        settings = msgspec.structs.replace(
            settings,
            scu_max_retries=1,
            scu_timeout_ms=max(1, int(recovery.deadline.remaining() * 1000)),
        )
        lookups = self._lookups._replace(binding=replay.binding)
        work = self._desk.work(
            item, request, item.ftQueueMoment, settings, lookups=lookups, at=at, replayed=True
        )
        return work, replay

    async def _interrupt(
        self,
        item: QueueItemRow,
        work: Work,
        reason: str,
        recovery: RecoveryPass,
        own: OwnTransaction | None = None,
    ) -> None:
        """Give an item its error answer, and close what it left open on the TSE; ``own`` is what it began itself."""
        found = [f"Row {item.ftQueueRow} was interrupted; it has no answer: {reason}."]
        signed = work.calls
        _note_begun(work, own)
        orphans = [row for row in work.effects.open.values() if row is not None and row.implicit]
        for row in orphans:
            try:
                found.append(await recovery.close_orphan(work, row.TransactionNumber))
            except ScuError as error:
                found.append(f"Transaction {row.TransactionNumber} stays open: {error}")
            else:
                work.effects.open[row.cbReceiptReference] = None
        was_signed = signed_itself(signed) or (own is not None and own.signed)
        kind = Knowledge.SIGNED if was_signed else None
        if signed is not None:
            found.append(f"The TSE had executed {signed}.")
        self._note(work, item, kind, " ".join(found))
        await self._desk.reject(item, work, INTERRUPTED, _interrupted)

    def _note(self, work: Work, item: QueueItemRow, kind: Knowledge | None, message: str) -> None:
        """Journal what became of an interrupted item, and remember it if it may be asked for."""
        items = self.items
        first = items.pop(item.request, None)
        if kind is not None:
            item_id, scu_id = item.ftQueueItemId, work.binding.scu_id
            if kind != Knowledge.COMPLETED and first is not None and work.repeats:
                item_id, scu_id = first.item, first.scu
            items[item.request] = UnsettledItem(item_id, scu_id, kind, item.ftQueueMoment)
        if first is not None and kind != Knowledge.UNDECIDED:
            self._keep_left(work, first)
        while len(items) > MAX_UNSETTLED:
            del items[next(iter(items))]
        work.actions.append(entry(message, self.newest_last()))

    # ---- a receipt that comes again --------------------------------------------------------------

    async def find_completed(self, request: Prepared) -> bytes | None:
        """The answer of the very same request, if it was completed after an interruption and not yet heard."""
        found = self.items.get(request.canonical.decode())
        if found is None or found.kind != Knowledge.COMPLETED or not self.is_recent(found):
            return None
        stored = self._journal.store.item(found.item)
        if stored is None or stored.answer is None:
            return None
        await self.note_found(found.item, request.receipt_reference)
        return stored.answer.response.encode()

    async def note_found(self, item_id: str, reference: str | None) -> None:
        """Journal that the POS was given the answer of a receipt that it asked for. Raises StoreError."""
        text = f'Queue {self._journal.queue_id} found cbReceiptReference "{reference or ""}"'
        actions = [Action("", text)]
        for key in [key for key, each in self.items.items() if each.item == item_id]:
            del self.items[key]
            actions.append(entry("The POS has the answer of the receipt.", self.newest_last()))
        await self._journal.note(actions, item_id)

    def take(self, item: QueueItemRow) -> UnsettledItem:
        """The first item of a receipt that repeats it, which from here on is this one's affair."""
        return self.items.pop(item.request)

    def put_back(self, work: Work, item: QueueItemRow, first: UnsettledItem) -> None:
        """The receipt that repeated ``first`` came to nothing."""
        if work.began:
            self.note_repetition(work, first)
        else:
            self.items[item.request] = first  # a refusal says nothing about what the TSE had signed

    def note_repetition(self, work: Work, first: UnsettledItem) -> None:
        """An interrupted item was sent again, and its TSE calls were made under the first item's id."""
        self._keep_left(work, first)
        message = "An interrupted receipt was sent again; the TSE knows it by its first queue item."
        work.actions.append(entry(message, self.newest_last()))

    def _keep_left(self, work: Work, first: UnsettledItem) -> None:
        """The receipt did not come to its own start: what the first item may have left open is still to be closed."""
        if first.to_be_decided and not work.began:
            left = msgspec.structs.replace(first, kind=Knowledge.LEFT)
            self.items[first.item] = left  # not by its text: it is not repeated any more

    async def move_on(self, work: Work) -> None:
        """The transaction of the first item is closed: what the TSE signs from here on, it signs for this one."""
        own = UnsettledItem(work.item_id, work.binding.scu_id, Knowledge.UNDECIDED, work.now)
        message = "What the first queue item of this receipt had begun was closed as aborted; it begins anew."
        await self._journal.note([entry(message, [*self.newest_last(), own])], work.item_id)

    # ---- at a TSE that the queue has left --------------------------------------------------------

    def signed_elsewhere(self, item: QueueItemRow, request: Prepared) -> UnsettledItem | None:
        """What is known of this receipt if it was interrupted at a TSE that the queue has left since, and the TSE of
        the queue would be asked to sign it now."""
        found = self.items.get(item.request)
        state = self._journal.state
        kind = kind_of(request.receipt_case)
        if (
            found is None
            or not found.repeatable
            or state.scu_id in (found.scu, None)
            or not state.active
            or (state.fail_count and not kind.asks_in_failed_mode)
            or kind.bound_to_tse
            or not self.is_recent(found)
        ):
            return None
        return found

    async def answer_from(self, item: QueueItemRow, request: Prepared, found: UnsettledItem) -> bytes | None:
        """Answer a receipt with what a TSE signed that the queue has left since.

        None if that has not signed it, which is durable then: from here on the receipt is a new one. Raises
        ReceiptRejected if nobody can know, or no answer can be made of it; StoreError.
        """
        recovery = RecoveryPass(self._lookups.binding, Deadline(RUNNING_S), carries_on=False)
        settings = self._journal.settings
        work = self._desk.work(item, request, item.ftQueueMoment, settings, at=found.scu, replayed=True)
        try:
            if self._lookups.binding(found.scu) is None:
                raise Undecidable("that SCU is no longer configured")
            work, replay = self._replayed(item, recovery, found.scu)
            outcome = None
            try:
                outcome = await replay.run(decide(work))
            except NotExecuted:
                pass
            if outcome is None or not signed_itself(work.calls):
                await self._give_up(item, work, found, recovery)
                return None
        except Undecidable as error:
            work.effects.clear()
            work.actions.clear()
            return await self._desk.refuse(item, work, _signed_elsewhere(found, str(error)))
        except StoreError:
            self._journal.stale = True
            raise
        except Exception as error:
            work.effects.clear()
            return await self._desk.refuse(item, work, error)
        except BaseException:
            self._journal.stale = True
            raise
        del self.items[item.request]
        self.note_repetition(work, found)
        return await self._desk.complete(item, work, outcome)

    async def _give_up(
        self, item: QueueItemRow, work: Work, found: UnsettledItem, recovery: RecoveryPass
    ) -> None:
        """The TSE that the queue has left has not signed a receipt: end what it has begun of it. Raises Undecidable,
        also if it had signed it after all; StoreError."""
        own = await recovery.own(work)
        if own is not None and own.signed:
            number = own.start.transaction_number
            raise Undecidable(f"no answer can be made of its transaction {number}")
        said = [f"SCU {found.scu} had not signed queue item {found.item}, which is begun anew."]
        left = None
        if own is not None and own.is_open:
            number = own.start.transaction_number
            try:
                said.append(await recovery.close_orphan(work, number))
            except ScuError as error:
                said.append(f"Transaction {number} stays open: {error}")
                left = msgspec.structs.replace(found, kind=Knowledge.LEFT)
        del self.items[item.request]
        if left is not None:
            self.items[found.item] = left
        await self._journal.note([entry(" ".join(said), self.newest_last(), found.item)], found.item)

    # ---- looking again ---------------------------------------------------------------------------

    async def decide_again(self) -> None:
        """The TSE answers: look again at what could not be decided. The receipt before stands in any case."""
        recovery = RecoveryPass(self._lookups.binding, Deadline(RUNNING_S), carries_on=False)
        for key, found in [*self.items.items()]:
            if found.to_be_decided and found.scu == self._journal.state.scu_id:
                try:
                    if not await self._decide_one(key, found, recovery):
                        return
                except FiskalError as error:
                    _log.warning(
                        "queue %s: %s stays undecided: %s", self._journal.queue_id, found.item, error
                    )
                    self._journal.stale = True
                    return

    async def _decide_one(self, key: str, found: UnsettledItem, recovery: RecoveryPass) -> bool:
        """False if the TSE does not answer after all."""
        stored = self._journal.store.item(found.item)
        if stored is None:
            del self.items[key]
            return True
        work, replay = self._replayed(stored.item, recovery)
        said = [f"Queue item {found.item} was undecided."]
        kind: Knowledge | None = None
        closes = True
        try:
            try:
                _check_text(stored.item, work)
                await replay.run(decide(work))
            except NotExecuted as error:
                said.append(f"It was not signed: {error}.")
            except FiskalError as error:
                said.append(f"It would be rejected: {error}")
                # It may have been signed before it would be rejected: if it comes again, that must still be found.
                kind = Knowledge.SIGNED
            else:
                closes = work.case == ReceiptCase.START_TRANSACTION  # nobody will go on with it
                if not closes and work.calls is not None:
                    kind = Knowledge.SIGNED
                    said.append(f"The TSE had signed it: {work.calls}.")
            if closes:
                own = await recovery.own(work)
                _note_begun(work, own)
                if own is not None and own.signed:
                    # Whatever kept working through it from coming so far, the receipt had come there.
                    kind = Knowledge.SIGNED
                    said.append(f"The TSE had signed its transaction {own.start.transaction_number}.")
        except Undecidable:
            return False
        if closes:
            known = {row.TransactionNumber for row in self._journal.transactions.open.values()}
            begun = [row for row in work.effects.open.values() if row is not None]
            said += [
                await recovery.close_orphan(work, row.TransactionNumber)
                for row in begun
                if row.TransactionNumber not in known
            ]
        del self.items[key]
        if kind is not None and found.repeatable:
            self.items[key] = UnsettledItem(found.item, found.scu, kind, found.moment)
        await self._journal.note([entry(" ".join(said), self.newest_last(), found.item)], found.item)
        return True

    async def close_begun(self, request: Prepared) -> None:
        """The queue leaves its TSE: close what undecided receipts have begun there. Whether they were signed stays
        open. Raises StoreError."""
        recovery = RecoveryPass(self._lookups.binding, Deadline(RUNNING_S), carries_on=False)
        for key, found in [*self.items.items()]:
            if not found.to_be_decided or found.scu != self._journal.state.scu_id:
                continue
            stored = self._journal.store.item(found.item)
            if stored is None or key == request.canonical.decode():  # it goes on with its own
                continue
            try:
                work, _ = self._replayed(stored.item, recovery)
                own = await recovery.own(work)
                if own is None or not _note_begun(work, own):
                    continue
                message = await recovery.close_orphan(work, own.start.transaction_number)
            except (ScuError, Undecidable) as error:
                _log.warning("queue %s: %s stays undecided: %s", self._journal.queue_id, found.item, error)
            else:
                await self._journal.note([Action(None, message)], found.item)


def _note_begun(work: Work, own: OwnTransaction | None) -> bool:
    """Note what an interrupted receipt had begun as its orphan. False if nothing of it is open, or it is known so."""
    if own is None or not own.is_open:
        return False
    number = own.start.transaction_number
    if any(row.TransactionNumber == number for row in work.open_transactions()):
        return False
    work.note_open(f"{work.reference}#{number}", own.start, implicit=True)
    return True


def _signed_elsewhere(found: UnsettledItem, reason: str) -> ReceiptRejected:
    return ReceiptRejected(
        "SIGNED_ELSEWHERE",
        f"This receipt was interrupted at SCU {found.scu}, which the queue has left since, and may have been signed "
        f"there: {reason}",
        hint="Send it again when that SCU answers, or with the flag for late signing (0x0000000000010000).",
    )


def _check_text(item: QueueItemRow, work: Work) -> None:
    """Raises NotExecuted if the stored text would be answered for another request than it was accepted for."""
    if work.request.request_hash_base64 != item.requestHash:
        raise NotExecuted("the request is read differently now")


def _interrupted(country: int, text: str) -> SignaturItem:
    item = signatures.error(country, "The middleware was interrupted before this receipt was answered.")
    item.caption = text
    return item
