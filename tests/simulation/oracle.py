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
from fiskal.queue import interrupted
from fiskal.scu.software import log as records
from fiskal.store import QueueRow, StoredItem
from fiskal.tse.logmessage import parse
from tests.simulation.pos import DAILY, FAIL, HANDWRITTEN, LATE, SPECIAL, START, ZERO, Books
from tests.simulation.site import Site, Violation, Way

ERROR_STATE = 0x2000_EEEE_EEEE
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


def demand(holds: bool, text: str) -> None:
    if not holds:
        raise Violation(text)


def check(site: Site, books: Books, *, final: bool) -> None:
    """Raise Violation if a promise was broken. ``final``: all is calm, and a closing closed what was open."""
    items = {item.id: item for queue in site.middleware.store.queues() for item in _read(site, queue)}
    _check_answers(books, items)
    for queue in site.middleware.store.queues():
        if final:  # what is wrong with the chain stays wrong
            report = verify_journal(site.middleware.store, queue)
            demand(report.ok, f"the journal does not verify: {report.problems[:3]}")
        demand(queue.ftCurrentRow == queue.ftQueuedRow, "a row is missing or unanswered")
        _check_modes(queue, [item for item in items.values() if item.queue.queue_no == queue.queue_no])
    for way in site.ways:
        _check_tse(site, way, books, items, final=final)
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


def _check_modes(queue: QueueRow, items: list[Item]) -> None:
    """Follow the modes through the answers: each is entered and left only as documented."""
    active = False
    failed = late = closings = 0
    for item in items:
        case, state, where = item.case, item.state, f"row {item.stored.item.ftQueueRow}"
        flags = item.request["ftReceiptCase"]
        if state == ERROR_STATE:
            continue
        if not active and case != START:
            demand(state == 1, f"{where}: a queue that is not started answered {state:X}")
        elif flags & LATE:
            demand(state == 8, f"{where}: a late receipt was answered with {state:X}")
            late += 1
        elif flags & HANDWRITTEN:
            demand(state == 0, f"{where}: a handwritten receipt was answered with {state:X}")
        elif failed and case not in (ZERO, FAIL):
            demand(state == 2, f"{where}: failed mode was left by {case:X}, state {state:X}")
            failed += 1
        elif state == 2:
            failed += 1
        else:
            demand(state == 0, f"{where}: state {state:X}")
            if case == ZERO:
                failed = late = 0
        if case == START and state == 0:
            active = True
        if active and case == DAILY and state in (0, 2) and not flags & (LATE | HANDWRITTEN):
            closings += 1
    demand(queue.SSCDFailCount == failed, f"SSCDFailCount is {queue.SSCDFailCount}, not {failed}")
    demand(queue.UsedFailedCount == late, f"UsedFailedCount is {queue.UsedFailedCount}, not {late}")
    demand(
        queue.DailyClosingNumber == closings,
        f"DailyClosingNumber is {queue.DailyClosingNumber}, not {closings}",
    )
    demand((queue.StartMoment is not None) == active, "StartMoment is not as the start receipt says")


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


def _check_tse(site: Site, way: Way, books: Books, items: dict[str, Item], *, final: bool) -> None:
    messages = _messages(way)
    here = {queue.id for queue in site.config.queues if queue.scu_id == way.scu_id}
    calls = {
        (letter, number, counter): item
        for item in items.values()
        if item.queue.ftQueueId in here
        for letter, number, counter in item.calls
    }
    signed = {(each.letter, each.number, each.counter) for each in messages}
    for call, item in calls.items():
        demand(call in signed, f"{way.name} never signed {call} of row {item.stored.item.ftQueueRow}")
    _check_once(way, messages, books, items)
    open_numbers = set(way.tse.info(None).current_started_transaction_numbers)
    started = {each.number: each for each in messages if each.letter == "S"}
    finished = {each.number: each for each in messages if each.letter == "F"}
    demand(open_numbers == started.keys() - finished.keys(), f"{way.name}: open numbers and log differ")
    for number, start in started.items():
        if number in finished:
            _check_finished(way, finished[number], calls, items)
        else:
            demand(not final, f"{way.name}: transaction {number} is open after everything was closed")
            _check_open(site, way, start, calls, items)


def _check_once(way: Way, messages: list[Message], books: Books, items: dict[str, Item]) -> None:
    """No receipt is signed twice: not for one queue item, and not for one receipt of a register."""
    starts: Counter[str] = Counter()
    finishes: Counter[str] = Counter()
    receipts: Counter[str] = Counter()
    for each in messages:
        item = items.get(each.item)
        demand(item is not None, f"{way.name}: signature {each.counter} was made for no stored item")
        assert item is not None
        if each.letter == "S":
            starts[each.item] += 1
        elif each.letter == "F" and not each.aborts:
            finishes[each.item] += 1
            if item.case != START:  # answered with an error when its signature is lost, and then repeated
                receipts[item.request["cbReceiptMoment"]] += 1
    for counter, what in ((starts, "started"), (finishes, "finished"), (receipts, "signed")):
        twice = [key for key, count in counter.items() if count > 1]
        demand(not twice, f"{way.name}: {what} twice: {twice}")


def _check_finished(
    way: Way, finish: Message, calls: dict[tuple[str, int, int], Item], items: dict[str, Item]
) -> None:
    """A finish belongs to an answer that shows it, or to one that says that the TSE failed or was not asked."""
    if (finish.letter, finish.number, finish.counter) in calls:
        return
    item = items[finish.item]
    known = (
        item.state == 2
        or (item.state == ERROR_STATE and item.caption == "interrupted")
        or item.case == START
        or (finish.aborts and item.case in SPECIAL)
    )
    demand(
        known,
        f"{way.name}: the finish of transaction {finish.number} belongs to row "
        f"{item.stored.item.ftQueueRow}, which does not know of it: {item.response}",
    )


def _check_open(
    site: Site, way: Way, start: Message, calls: dict[tuple[str, int, int], Item], items: dict[str, Item]
) -> None:
    """A transaction that is open is known as open; or the answer of its start was lost, and its receipt says that
    the TSE failed."""
    store = site.middleware.store
    item = items[start.item]
    rows = [row for queue in store.queues() for row in store.open_transactions(queue.queue_no)]
    if any(row.TransactionNumber == start.number and row.scu_id == way.scu_id for row in rows):
        return
    waiting = [row for queue in store.queues() for row in store.failed_starts(queue.queue_no)]
    if any(row.ftQueueItemId == start.item for row in waiting):
        return  # the zero receipt that started it has no answer; the next one asks again
    lost = ("S", start.number, start.counter) not in calls
    same = [
        each
        for each in items.values()
        if each.request["cbReceiptMoment"] == item.request["cbReceiptMoment"] and each.state == 2
    ]
    if item.case == START or (lost and same):
        return
    entry = store.last_action(item.queue.ftQueueId, interrupted.JOURNAL_TYPE)
    undecided = {
        question.item
        for question in interrupted.read_questions(entry.DataJson if entry else None)
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
