"""What must hold after every run, whatever went wrong: checked against the journal, the TSEs' logs and the registers.

Nothing here looks into the queue's memory. The modes are computed again from the stored answers, row by row; every
message in the log of a TSE is traced to the receipt it was made for.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from fiskal.export.verify import verify_journal
from fiskal.germany.codes import DE
from fiskal.queue import interruptions
from fiskal.queue.receipts.closings import MIGRATION_TYPE
from fiskal.queue.receipts.transactions import DROPPED
from fiskal.scu.software import log as records
from fiskal.store import QueueRow, StoredItem
from fiskal.tse.logmessage import parse
from tests.simulation.pos import (
    DAILY,
    FAIL,
    FINISH,
    HANDWRITTEN,
    INITIATE,
    LATE,
    MIGRATION,
    SPECIAL,
    START,
    STOP,
    ZERO,
    Books,
    connects,
)
from tests.simulation.site import Site, Violation, Way

ERROR_STATE = 0x2000_EEEE_EEEE
EXEMPT = frozenset({ZERO, FAIL, STOP, INITIATE, FINISH})
"""What talks to the TSE in failed mode."""
NEVER_FAILED = frozenset({START, STOP, INITIATE, FINISH})
"""What is an error, or goes without a signature, when the TSE fails."""
_CALL = re.compile(r"([SUF])(\d+):(\d+):(\d+)")
_LETTERS = {records.OP_START: "S", records.OP_UPDATE: "U", records.OP_FINISH: "F"}


class Message(NamedTuple):
    """One transaction message in the log of a TSE."""

    letter: str
    number: int
    counter: int
    item: str
    data: str

    @property
    def aborts(self) -> bool:
        return self.data.startswith("AVBelegabbruch")


class Item(NamedTuple):
    """One queue item as it is stored."""

    queue: QueueRow
    stored: StoredItem
    request: dict[str, Any]
    response: dict[str, Any]

    @property
    def id(self) -> str:
        return self.stored.item.ftQueueItemId

    @property
    def case(self) -> int:
        return int(self.request["ftReceiptCase"]) & 0xFFFF

    @property
    def connects(self) -> bool:
        """A start receipt, or the end of an SCU switch."""
        return connects(self.case, int(self.request["ftReceiptCase"]))

    @property
    def state(self) -> int:
        return int(self.response["ftState"]) - DE

    @property
    def caption(self) -> str:
        """Of an error: what kind it is."""
        return str(self.response["ftSignatures"][0]["Caption"])

    @property
    def calls(self) -> list[tuple[str, int, int]]:
        answer = self.stored.answer
        found = _CALL.findall((answer and answer.tse_calls) or "")
        return [(letter, int(number), int(counter)) for letter, number, counter, _ in found]


Calls = dict[tuple[str, int, int], Item]
"""The item that shows a call."""


def demand(holds: bool, text: str) -> None:
    if not holds:
        raise Violation(text)


def check(site: Site, books: Books, *, final: bool) -> None:
    """Raise Violation if a promise was broken. ``final``: all is calm, and a closing closed what was open."""
    items = {item.id: item for queue in site.middleware.store.queues() for item in _read(site, queue)}
    _check_answers(books, items)
    modes: dict[str, Modes] = {}
    for queue in site.middleware.store.queues():
        if final:  # what is wrong with the chain stays wrong
            report = verify_journal(site.middleware.store, queue)
            demand(report.ok, f"the journal does not verify: {report.problems[:3]}")
        demand(queue.ftCurrentRow == queue.ftQueuedRow, "a row is missing or unanswered")
        mode = modes[queue.ftQueueId] = Modes(site, queue)
        for item in items.values():
            if item.queue.queue_no == queue.queue_no:
                mode.follow(item)
        mode.check(site)
    messages = {way.scu_id: _messages(way) for way in site.ways}
    scu_of = {item_id: scu for each in modes.values() for item_id, scu in each.scu_of.items()}
    calls = _attribute(site, messages, items, scu_of)
    _check_signed_once(messages, items)
    for way in site.ways:
        _check_tse(site, way, messages[way.scu_id], calls[way.scu_id], items, modes, final=final)
    site.counts["interrupted"] = sum(
        item.state == ERROR_STATE and item.caption == "interrupted" for item in items.values()
    )
    site.counts["completed"] = sum(
        "it is completed" in action.Message
        for queue in site.config.queues
        for action in site.middleware.store.iter_actions(queue.id)
    )
    site.counts["signatures"] = sum(way.tse.info(None).current_number_of_signatures for way in site.ways)


def _read(site: Site, queue: QueueRow) -> list[Item]:
    found = []
    for stored in site.middleware.store.iter_items_by_row(queue.queue_no):
        demand(stored.answer is not None, f"row {stored.item.ftQueueRow} has no answer")
        assert stored.answer is not None
        found.append(Item(queue, stored, json.loads(stored.item.request), json.loads(stored.answer.response)))
    return found


def _check_answers(books: Books, items: dict[str, Item]) -> None:
    """What left the host is stored exactly so."""
    for item_id, text in books.left.items():
        item = items.get(item_id)
        demand(item is not None, f"an answered receipt is lost: {text}")
        assert item is not None
        assert item.stored.answer is not None
        demand(item.stored.answer.response == text, f"an answered receipt was altered: {text}")


class Modes:
    """What a queue must be in after its answers so far: entered and left only as documented."""

    def __init__(self, site: Site, queue: QueueRow) -> None:
        self.queue = queue
        self.condition = "new"
        self.failed = self.late = self.closings = 0
        self.at: str = next(each.scu_id for each in site.config.queues if each.id == queue.ftQueueId)
        """The SCU it signs with, or comes from while it switches."""
        self._scus = [scu.id for scu in site.config.scus]
        self.scu_of: dict[str, str] = {}
        """The SCU each item had to do with, by ftQueueItemId."""
        self.signed_last = False
        """The stop receipt was signed."""

    @property
    def target(self) -> str:
        """The SCU that is not the one it comes from."""
        return next((scu for scu in self._scus if scu != self.at), self.at)

    def follow(self, item: Item) -> None:
        case, flags, state = item.case, int(item.request["ftReceiptCase"]), item.state
        where = f"row {item.stored.item.ftQueueRow}"
        switching = self.condition == "switching"
        self.scu_of[item.id] = self.target if case == FINISH and switching else self.at
        demand(self.condition != "migrated", f"{where}: a queue that was migrated has taken a receipt")
        if state == ERROR_STATE:
            return
        if self.condition in ("new", "stopped") and not (self.condition == "new" and case == START):
            demand(state == 1, f"{where}: a queue that is {self.condition} answered {state:X}")
        elif switching and not (connects(case, flags) and case != START):
            demand(state == 0x100, f"{where}: a queue that is switching answered {state:X}")
        elif flags & LATE:
            demand(state == 8, f"{where}: a late receipt was answered with {state:X}")
            self.late += 1
        elif flags & HANDWRITTEN:
            demand(state == 0, f"{where}: a handwritten receipt was answered with {state:X}")
        elif self.failed and case not in EXEMPT:
            demand(state == 2, f"{where}: failed mode was left by {case:X}, state {state:X}")
            self._failed(case)
        elif state == 2:
            demand(case not in NEVER_FAILED, f"{where}: {case:X} entered failed mode")
            self._failed(case)
        else:
            demand(state == 0, f"{where}: state {state:X}")
            self._done(case, flags, item)

    def _failed(self, case: int) -> None:
        self.failed += 1
        self.closings += case == DAILY

    def _done(self, case: int, flags: int, item: Item) -> None:
        if case == ZERO:
            self.failed = self.late = 0
        elif case == START and self.condition == "new":
            self.condition = "active"
        elif case == STOP:
            self.condition = "stopped"
            self.signed_last = bool(item.response["ftSignatures"])
        elif connects(case, flags) and case != START:
            self.at = self.target if case == FINISH and self.condition == "switching" else self.at
            self.condition = "active"
        elif case == INITIATE:
            self.condition = "switching"
        elif case in (DAILY, MIGRATION):
            self.closings += 1
            if case == MIGRATION:
                self.condition = "migrated"

    def check(self, site: Site) -> None:
        queue = self.queue
        demand(
            queue.SSCDFailCount == self.failed, f"SSCDFailCount is {queue.SSCDFailCount}, not {self.failed}"
        )
        demand(
            queue.UsedFailedCount == self.late, f"UsedFailedCount is {queue.UsedFailedCount}, not {self.late}"
        )
        demand(
            queue.DailyClosingNumber == self.closings,
            f"DailyClosingNumber is {queue.DailyClosingNumber}, not {self.closings}",
        )
        new, stopped = self.condition == "new", self.condition == "stopped"
        demand((queue.StartMoment is None) == new, "StartMoment is not as the start receipt says")
        demand((queue.StopMoment is not None) == stopped, "StopMoment is not as the stop receipt says")
        scu = None if self.condition == "switching" else self.at
        demand(
            queue.ftSignaturCreationUnitDEId == scu,
            f"{queue.CashBoxIdentification} is at another SCU than {scu}",
        )
        marked = site.middleware.store.last_action(queue.ftQueueId, MIGRATION_TYPE) is not None
        if self.condition == "active":
            store = site.middleware.store
            rows: list[Any] = [
                *store.open_transactions(queue.queue_no),
                *store.failed_starts(queue.queue_no),
                *store.failed_finishes(queue.queue_no),
                *store.doubtful_starts(queue.queue_no),
            ]
            foreign = [row for row in rows if row.scu_id != self.at]
            demand(not foreign, f"rows that belong to a TSE the queue has left: {foreign}")
        if stopped and self.signed_last:
            left = [
                row
                for row in site.middleware.store.open_transactions(queue.queue_no)
                if row.scu_id == self.at
            ]
            demand(not left, f"a signed stop receipt left transactions open: {left}")
        demand(marked == (self.condition == "migrated"), "the migration is not as its receipt says")


# ---- the TSE -----------------------------------------------------------------------------------------


def _messages(way: Way) -> list[Message]:
    found = []
    for number, record in enumerate(way.tse._log.records(), 1):
        demand(record.counter == number, f"{way.name}: signature {number} is missing")
        if record.op in _LETTERS:
            data = parse(record.message).process_data or b""
            found.append(
                Message(
                    _LETTERS[record.op], record.number, record.counter, record.queue_item_id, data.decode()
                )
            )
    return found


def _attribute(
    site: Site, messages: dict[str, list[Message]], items: dict[str, Item], scu_of: dict[str, str]
) -> dict[str, Calls]:
    """The calls that the items show, by the SCU that executed them: that of the item. Only a zero receipt may also
    deliver what an earlier one recovered at another TSE, and a receipt that was sent again what was signed for it at a
    TSE that the queue has left since."""
    signed = {
        scu_id: {(each.letter, each.number, each.counter): each.item for each in found}
        for scu_id, found in messages.items()
    }
    same: dict[str, set[str]] = defaultdict(set)
    for item in items.values():
        same[item.stored.item.request].add(item.id)
    calls: dict[str, Calls] = {way.scu_id: {} for way in site.ways}
    for item in items.values():
        for call in item.calls:
            places = [scu_of[item.id]] if item.case != ZERO else [scu_of[item.id], *signed]
            ids = same[item.stored.item.request]
            place = next((each for each in signed if signed[each].get(call) in ids), None) or next(
                (each for each in places if call in signed[each]), None
            )
            demand(place is not None, f"no TSE signed {call} of row {item.stored.item.ftQueueRow}")
            assert place is not None
            calls[place][call] = item
    return calls


def _check_tse(
    site: Site,
    way: Way,
    messages: list[Message],
    calls: Calls,
    items: dict[str, Item],
    modes: dict[str, Modes],
    *,
    final: bool,
) -> None:
    _check_once(way, messages, items)
    open_numbers = set(way.tse.info(None).current_started_transaction_numbers)
    started = {each.number: each for each in messages if each.letter == "S"}
    finished = {each.number: each for each in messages if each.letter == "F"}
    demand(open_numbers == started.keys() - finished.keys(), f"{way.name}: open numbers and log differ")
    for number, start in started.items():
        item = items[start.item]
        demand(
            modes[item.queue.ftQueueId].scu_of[item.id] == way.scu_id,
            f"{way.name} signed for row {item.stored.item.ftQueueRow}, which was at another TSE: {item.response}",
        )
        if number in finished:
            _check_finished(way, finished[number], calls, items)
            continue
        _check_open(site, way, start, items)
        if final:
            queue = modes[item.queue.ftQueueId]
            left = queue.at != way.scu_id or queue.condition in ("stopped", "migrated")
            demand(left, f"{way.name}: transaction {number} is open after everything was closed")


def _check_once(way: Way, messages: list[Message], items: dict[str, Item]) -> None:
    """Nothing is signed twice for one queue item."""
    starts: Counter[str] = Counter()
    finishes: Counter[str] = Counter()
    for each in messages:
        item = items.get(each.item)
        demand(item is not None, f"{way.name}: signature {each.counter} was made for no stored item")
        assert item is not None
        if each.letter == "S":
            starts[each.item] += 1
        elif each.letter == "F" and not each.aborts:
            finishes[each.item] += 1
    for counter, what in ((starts, "started"), (finishes, "finished")):
        twice = [key for key, count in counter.items() if count > 1]
        demand(not twice, f"{way.name}: {what} twice: {twice}")


def _check_signed_once(messages: dict[str, list[Message]], items: dict[str, Item]) -> None:
    """No receipt of a register is signed twice, by whatever TSE. The end of a switch may be: it is answered with an
    error when its signature is lost, and then repeated."""
    receipts: Counter[str] = Counter()
    for found in messages.values():
        for each in found:
            item = items.get(each.item)
            if each.letter == "F" and not each.aborts and item is not None and not item.connects:
                receipts[item.request["cbReceiptMoment"]] += 1
    twice = [key for key, count in receipts.items() if count > 1]
    demand(not twice, f"signed twice: {twice}")


def _check_finished(way: Way, finish: Message, calls: Calls, items: dict[str, Item]) -> None:
    """A finish belongs to an answer that shows it, or to one that says that the TSE failed or was not asked."""
    if (finish.letter, finish.number, finish.counter) in calls:
        return
    item = items[finish.item]
    known = (
        item.state == 2
        or (item.state == ERROR_STATE and item.caption == "interrupted")
        or item.connects
        or (
            item.case in (STOP, INITIATE) and not item.response["ftSignatures"]
        )  # it left without a signature
        or (finish.aborts and item.case in SPECIAL)
    )
    demand(
        known,
        f"{way.name}: the finish of transaction {finish.number} belongs to row "
        f"{item.stored.item.ftQueueRow}, which does not know of it: {item.response}",
    )


def _check_open(site: Site, way: Way, start: Message, items: dict[str, Item]) -> None:
    """A transaction that is open is known as open, or its start is known as one without an answer; or the queue has
    left this TSE since, and said what it had to leave there."""
    store = site.middleware.store
    item = items[start.item]
    for queue in store.queues():
        if any(
            row.TransactionNumber == start.number and row.scu_id == way.scu_id
            for row in store.open_transactions(queue.queue_no)
        ):
            return
        # The zero receipt that started it has no answer; the next one asks again.
        waiting = [row.ftQueueItemId for row in store.failed_starts(queue.queue_no)]
        doubtful = [row.ftQueueItemId for row in store.doubtful_starts(queue.queue_no)]
        if start.item in waiting + doubtful:
            return
    dropped = (
        f"open transaction {start.number} from the database, which belongs to SCU {way.scu_id}.",
        f"start for queue item {start.item}, which had no answer,",
    )
    for action in store.iter_actions(item.queue.ftQueueId):
        if action.Type == DROPPED and any(text in action.Message for text in dropped):
            return
    entry = store.last_action(item.queue.ftQueueId, interruptions.JOURNAL_TYPE)
    undecided = {
        question.item
        for question in interruptions.read_unsettled(entry.DataJson if entry else None)
        if question.to_be_decided
    }
    demand(
        start.item in undecided,
        f"{way.name}: transaction {start.number} of row {item.stored.item.ftQueueRow} is open, and nobody "
        f"knows: {item.response}",
    )


def unheard(books: Books) -> dict[str, list[str]]:
    """Receipts that no register got an answer for, by register."""
    found: dict[str, list[str]] = defaultdict(list)
    for receipt in books.receipts:
        if receipt.answer is None and receipt.error is None:
            found[receipt.register.name].append(receipt.key)
    return found
