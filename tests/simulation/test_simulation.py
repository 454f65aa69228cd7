"""Some dozen sites keep all promises, every run can be repeated, and a product that breaks a promise is found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from fiskal.queue import dispatch, interruptions, pipeline, receipt_request
from fiskal.queue.dispatch import kind_of
from fiskal.queue.effects import Effects
from fiskal.queue.interruptions import Interruptions
from fiskal.queue.journal import QueueJournal
from fiskal.queue.receipts import switch
from fiskal.queue.replay import Record, RecoveryPass
from fiskal.queue.work import Work
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import ScuError
from fiskal.store import Change, SqliteStore
from tests.simulation.__main__ import main
from tests.simulation.pos import FINISH, SALE
from tests.simulation.run import Failure, run

SEEDS = range(1, 31)
STEPS = 60
MUTATION_SEEDS = range(1, 61)
"""A mutation is found by the first few of these."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_site_keeps_all_promises(seed: int) -> None:
    result = run(seed, steps=STEPS)
    assert result.counts["receipts"] > 0


@pytest.mark.parametrize("seed", [75, 21017, 40022, 40049, 50656, 50884, 51036, 51181])
def test_long_days_that_once_broke_a_promise(seed: int) -> None:
    assert run(seed, steps=120).counts["receipts"] > 0


def test_a_seed_does_the_same_again() -> None:
    first = run(7, steps=STEPS)
    assert run(7, steps=STEPS) == first
    assert run(8, steps=STEPS).digest != first.digest


def test_the_seeds_see_what_they_are_made_for() -> None:
    """Without crashes, interrupted and completed receipts the simulation would prove nothing."""
    counts: dict[str, int] = {}
    for seed in range(1, 11):
        for name, count in run(seed, steps=STEPS).counts.items():
            counts[name] = counts.get(name, 0) + count
    assert all(counts[name] for name in ("receipts", "crashes", "interrupted", "completed"))


def test_the_command_runs_seeds_and_replays_one() -> None:
    done = CliRunner().invoke(main, ["--seeds", "2", "--steps", "5"])
    assert done.exit_code == 0, done.output
    assert re.search(r"2 seeds from 1, 0 failed, \d+ seeds per minute", done.output)
    replayed = CliRunner().invoke(main, ["--replay", "1", "--steps", "5"])
    assert replayed.exit_code == 0
    assert "sends 2023-11-14T" in replayed.output
    assert "seed 1 keeps all promises" in replayed.output


# ---- mutations: every promise that is broken on purpose is found -----------------------------------------

Patch = pytest.MonkeyPatch


def no_idempotency(patch: Patch) -> None:
    """The SCU executes every call that comes, and remembers none."""
    patch.setattr(ScuCore, "_remembered", lambda self, call, is_retry, deadline: (None, call))


def chain_not_continued(patch: Patch) -> None:
    """T2 does not carry the chain on: every receipt follows the same one."""
    original = QueueJournal.complete

    def complete(self: QueueJournal, *args: Any) -> Any:
        before = self.state.receipt_hash, self.state.receipt_hash_base64
        answer = original(self, *args)
        self.state.receipt_hash, self.state.receipt_hash_base64 = before
        return answer

    patch.setattr(QueueJournal, "complete", complete)


def numerator_forgotten(patch: Patch) -> None:
    """A crash brings back the number of receipt before."""
    original = QueueJournal.read

    def read(self: QueueJournal) -> Any:
        found = original(self)
        self.state.receipt_numerator = max(0, self.state.receipt_numerator - 1)
        return found

    patch.setattr(QueueJournal, "read", read)


def answering(answer: Any) -> Any:
    """A method that gives this answer, whatever is asked."""

    async def method(*args: Any) -> Any:
        return answer

    return method


def orphan_dropped(patch: Patch) -> None:
    """What an interrupted receipt left open is forgotten instead of closed."""
    patch.setattr(RecoveryPass, "close_orphan", answering("dropped"))


def orphan_not_stored(patch: Patch) -> None:
    """What a failed finish left open is not written down."""
    original = Effects.write

    def write(self: Effects, queue_no: int, change: Change) -> None:
        original(self, queue_no, change)
        change.open_transactions = [row for row in change.open_transactions if not row.implicit]

    patch.setattr(Effects, "write", write)


def interrupted_given_up(patch: Patch) -> None:
    """Every interrupted item gets the error answer, whatever the TSE signed."""

    async def recover(self: Interruptions, item: Any, recovery: RecoveryPass) -> None:
        work, _ = self._replayed(item, recovery)
        await self._interrupt(item, work, "given up", recovery)

    patch.setattr(Interruptions, "_recover", recover)


def interrupted_signed_at_the_start(patch: Patch) -> None:
    """A start-up pass that signs what was not signed."""

    def start(self: Record, request: Any) -> Any:
        return self._scu.start_transaction(request, self._deadline)

    def finish(self: Record, request: Any) -> Any:
        return self._scu.finish_transaction(request, self._deadline)

    patch.setattr(Record, "start_transaction", start)
    patch.setattr(Record, "finish_transaction", finish)


def questions_forgotten(patch: Patch) -> None:
    """Items that nobody could decide are not remembered."""
    patch.setattr(interruptions, "read_unsettled", lambda data_json: [])
    patch.setattr(Interruptions, "decide_again", answering(None))


def _late(patch: Patch, is_late: Callable[[Change], bool]) -> None:
    """Some commits return before they are stored; the next one brings them to the disk."""
    original = SqliteStore.commit
    waiting: dict[int, Change] = {}

    def commit(self: SqliteStore, change: Change) -> None:
        late = waiting.pop(id(self), None)
        if late is not None:
            original(self, late)
        if is_late(change):
            waiting[id(self)] = change
        else:
            original(self, change)

    patch.setattr(SqliteStore, "commit", commit)


def answers_before_the_disk(patch: Patch) -> None:
    """A receipt is answered before its answer is stored."""
    _late(patch, lambda change: bool(change.answers))


def signs_before_the_disk(patch: Patch) -> None:
    """The TSE is asked while the disk has not confirmed the request."""
    _late(patch, lambda change: bool(change.items))


def receipt_requests_find_nothing(patch: Patch) -> None:
    patch.setattr(receipt_request, "lookup", lambda *args: None)


def failed_mode_left_by_a_sale(patch: Patch) -> None:
    """Sales go to the TSE although the circuit breaker is open."""
    kind = dispatch.BUSINESS._replace(asks_in_failed_mode=True)
    patch.setattr(pipeline, "kind_of", lambda case: kind if case & 0xFFFF == SALE else kind_of(case))


def unanswered_items_left(patch: Patch) -> None:
    patch.setattr(SqliteStore, "unanswered_items", lambda self, queue_no: [])


def rows_of_a_left_tse_kept(patch: Patch) -> None:
    """A switch drops nothing of what the queue had open at the other TSE."""
    patch.setattr(switch, "_drop_foreign", lambda work: None)


def stop_forgotten(patch: Patch) -> None:
    original = QueueJournal.read

    def read(self: QueueJournal) -> Any:
        found = original(self)
        self.state.stop_moment = None
        return found

    patch.setattr(QueueJournal, "read", read)


def switch_before_its_signature(patch: Patch) -> None:
    """A finish receipt that the TSE did not sign connects the queue all the same."""
    original = switch.finish

    async def finish(work: Work) -> Any:
        try:
            return await original(work)
        except ScuError:
            work.state.scu_id = work.binding.scu_id
            raise

    patch.setitem(dispatch.CASES, FINISH, dispatch.CASES[FINISH]._replace(handler=finish))


def starts_not_in_doubt(patch: Patch) -> None:
    """A start whose answer was lost is taken for one that was not executed."""
    patch.setattr(Work, "note_doubt", lambda self, *args: None)


MUTATIONS = {
    no_idempotency: "is open, and nobody knows|twice",
    chain_not_continued: "ftReceiptHash is not the hash",
    numerator_forgotten: "the number should be|receipt number \\d+ does not follow",
    orphan_dropped: "is open, and nobody knows",
    orphan_not_stored: "is open, and nobody knows",
    interrupted_given_up: "is open, and nobody knows|twice",
    interrupted_signed_at_the_start: "started twice|while the host starts",
    questions_forgotten: "signed twice|is open, and nobody knows",
    answers_before_the_disk: "has no answer|is lost|is missing|was altered|got null, but had heard",
    signs_before_the_disk: "made for no stored item|twice|is open, and nobody knows",
    receipt_requests_find_nothing: "got null, but had heard",
    failed_mode_left_by_a_sale: "failed mode was left",
    unanswered_items_left: "has no answer",
    rows_of_a_left_tse_kept: "belong to a TSE the queue has left",
    stop_forgotten: "a queue that is stopped answered",
    switch_before_its_signature: "that is switching answered|is at another SCU",
    starts_not_in_doubt: "is open, and nobody knows",
}
"""What is broken, and what the simulation says to it."""


@pytest.mark.parametrize(
    ("mutate", "found"), MUTATIONS.items(), ids=[mutate.__name__ for mutate in MUTATIONS]
)
def test_a_broken_promise_is_found(mutate: Callable[[Patch], None], found: str, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    with pytest.raises(Failure, match=found) as caught:
        run_until_failure()
    assert f"replay: python -m tests.simulation --replay {caught.value.seed} --steps {STEPS}" in str(
        caught.value
    )


def run_until_failure() -> None:
    for seed in MUTATION_SEEDS:
        run(seed, steps=STEPS)
