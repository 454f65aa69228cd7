"""The campaign of interrupted receipts: one dies, and is sent again as a POS would send it.

    python -m tests.campaigns.interrupted --cases 3000

Every case draws what the queue has behind it (nothing, a lost start, an open transaction, an orphan, failed mode), a
receipt (sales, an order, a zero receipt, closings), a fault of the TSE in it, and where the process dies over it:
before or after a call of the TSE, or at a commit. The host starts again, with its TSE or without; other receipts come
in between, or a switch to another TSE; the receipt is sent again and may die once more, until it is answered or was
refused twice. A zero receipt and a closing follow.

Then the receipt must be signed once at most, over all TSEs, and exactly once if its answer says so; nothing may be open
at the TSE of the queue or in its tables, and the journal must verify. One process does it all and one seed decides
everything, so a seed repeats its case.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import click

from fiskal.errors import FiskalError
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import ReceiptFlag
from fiskal.germany.texts import ABORTED_TRANSACTION
from fiskal.queue import interruptions
from fiskal.scu.errors import OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.software import log as records
from fiskal.tse.logmessage import parse
from tests.queue.test_switch import CLIENT_ONLY, FINISH, FORCE, INITIATE, two_scus
from tests.simulation.site import memory_folder
from tests.support.shop import DE, DyingStore, FaultyScu, Shop

BYPASS_TAR_EXPORT = int(ReceiptFlag.BYPASS_TAR_EXPORT)
CLOSE_ALL = 0x2_0000_0000
FAIL_ON_OPEN = 0x1000_0000

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")
LOST = OutcomeUnknown("NO_RESPONSE", "no answer came")
REFUSED = TseRejected("MEMORY_FULL", "The TSE refuses to sign.")

KEY: Final = "K"
"""The cbReceiptReference of the receipt that dies."""
OPEN: Final = "E"
"""That of a transaction the POS has open."""
CALLS: Final = ("get_tse_info", "start_transaction", "finish_transaction")
COMMIT: Final = "commit"
PATIENCE_S: Final = 3600.0
"""Instead of RUNNING_S and START_UP_S, so that a slow machine decides nothing."""


class Death(BaseException):
    """The process dies here."""


class Moment(NamedTuple):
    """Before or after a call of the TSE, or at a commit, with so many others before it."""

    call: str
    number: int
    after: bool


class Fault(NamedTuple):
    """What the TSE does at a moment."""

    at: Moment
    error: ScuError


class Case(NamedTuple):
    """What happens to one receipt."""

    setup: str
    receipt: str
    fault: Fault | None
    deaths: tuple[Moment, ...]
    """The first one when it is sent, the next one when it is sent again."""
    later: bool
    """The TSE is out of reach while the host starts."""
    between: tuple[str, str]
    """What comes before it is sent again, and after it was refused."""


class Result(NamedTuple):
    """What became of a case."""

    died: bool
    """If it did not come to its death, there is nothing to check."""
    violation: str | None


# ---- what is sampled ------------------------------------------------------------------------------------


def _quietly(send: Callable[[], Any]) -> Any:
    """The answer, or the error the POS gets."""
    try:
        return send()
    except FiskalError as error:
        return error


def _zero(shop: Shop) -> Any:
    return shop.send(0x02, "Z")


def _lost_start(shop: Shop) -> None:
    """A sale whose start had no answer; the zero receipt after it could not compare."""
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("lost")
    shop.tse.fail_before("get_tse_info", DOWN)
    _zero(shop)


def _open(shop: Shop) -> None:
    shop.send(0x08, OPEN)


def _orphan(shop: Shop) -> None:
    """A sale whose finish failed under the reference that comes again."""
    shop.tse.fail_before("finish_transaction", DOWN)
    shop.tse.fail_before("finish_transaction", DOWN)
    shop.sale(KEY, "1.00")
    shop.tse.calm()
    _zero(shop)


def _failed_mode(shop: Shop) -> None:
    shop.tse.fail_after("start_transaction", LOST)
    shop.sale("lost")


def _both(shop: Shop) -> None:
    _lost_start(shop)
    _open(shop)


SETUPS: dict[str, Callable[[Shop], None]] = {
    "nothing": lambda shop: None,
    "lost start": _lost_start,
    "open": _open,
    "orphan": _orphan,
    "failed mode": _failed_mode,
    "lost start and open": _both,
}

RECEIPTS: dict[str, Callable[[Shop], Any]] = {
    "sale": lambda shop: shop.sale(KEY),
    "order": lambda shop: shop.send(0x10, KEY),
    "zero": lambda shop: shop.send(0x02, KEY),
    "daily": lambda shop: shop.send(0x07 | BYPASS_TAR_EXPORT, KEY),
    "daily, closing all": lambda shop: shop.send(0x07 | CLOSE_ALL | BYPASS_TAR_EXPORT, KEY),
    "daily, none open": lambda shop: shop.send(0x07 | FAIL_ON_OPEN | BYPASS_TAR_EXPORT, KEY),
    "monthly": lambda shop: shop.send(0x05 | BYPASS_TAR_EXPORT, KEY),
}


def _unplugged(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.sale("S-8")
    shop.tse.calm()


def _open_and_end(shop: Shop) -> None:
    _quietly(lambda: shop.send(0x08, "X"))
    _quietly(lambda: shop.sale("X", flow="explicit"))


def _switch(shop: Shop) -> None:
    """To the other TSE; there is no way back."""
    if shop.row.ftSignaturCreationUnitDEId == shop.scu_id:
        shop.send(INITIATE | FORCE | CLIENT_ONLY | BYPASS_TAR_EXPORT, "SW-1")
    if shop.row.ftSignaturCreationUnitDEId is None:
        shop.send(FINISH | BYPASS_TAR_EXPORT, "SW-2")


BETWEEN: dict[str, Callable[[Shop], Any]] = {
    "nothing": lambda shop: None,
    "sale": lambda shop: shop.sale("S-9"),
    "start": lambda shop: shop.send(0x08, "X"),
    "start and finish": _open_and_end,
    "a sale without TSE": _unplugged,
    "switch": _switch,
}


def draw(seed: int) -> Case:
    """The case of a seed."""
    chance = random.Random(seed)

    def moment(*calls: str) -> Moment:
        return Moment(chance.choice(calls), chance.choice((0, 0, 1)), chance.random() < 0.5)

    def death() -> Moment:
        if chance.random() < 0.3:
            return Moment(COMMIT, chance.choice((1, 1, 2)), False)
        call = chance.choice(("start_transaction", "finish_transaction", "finish_transaction"))
        return Moment(call, chance.choice((0, 0, 0, 1, 2)), chance.random() < 0.5)

    fault = None
    if chance.random() < 0.75:
        at = moment(*CALLS)
        fault = Fault(at, LOST if at.after else chance.choice((DOWN, REFUSED)))
    return Case(
        chance.choice(list(SETUPS)),
        chance.choice(list(RECEIPTS)),
        fault,
        tuple(death() for _ in range(1 if chance.random() < 0.7 else 2)),
        chance.random() < 0.6,
        (chance.choice(list(BETWEEN)), chance.choice(list(BETWEEN))),
    )


# ---- one case -------------------------------------------------------------------------------------------


class _Doomed:
    """A TSE on the way of one receipt: one call fails, and the process dies at another."""

    def __init__(self, scu: Any, fault: Fault | None, death: Moment) -> None:
        self._scu = scu
        self._fault = fault
        self._death = death
        self._seen: Counter[str] = Counter()

    def __getattr__(self, method: str) -> Any:
        target = getattr(self._scu, method)
        if method not in CALLS:
            return target

        def call(*args: Any, **options: Any) -> Any:
            before, after = (Moment(method, self._seen[method], late) for late in (False, True))
            self._seen[method] += 1
            self._strike(before)
            answer = target(*args, **options)
            self._strike(after)
            return answer

        return call

    def _strike(self, moment: Moment) -> None:
        if moment == self._death:
            raise Death
        if self._fault is not None and moment == self._fault.at:
            raise self._fault.error


@contextmanager
def _doomed(shop: Shop, fault: Fault | None, death: Moment) -> Iterator[None]:
    """The receipt in this block may die, or meet a fault, at the TSE that the queue is at."""
    tse = shop.tses[shop.row.ftSignaturCreationUnitDEId or shop.scu_id]
    real = tse.scu
    tse.scu = _Doomed(real, fault, death)  # type: ignore[assignment]
    if death.call == COMMIT:
        queue = shop.middleware.queue(shop.queue_id)
        queue.journal.store = DyingStore(queue.journal.store, death.number, Death())  # type: ignore[assignment]
    try:
        yield
    finally:
        tse.scu = real


def _unplug(tse: FaultyScu) -> None:
    tse.down = DOWN


def _die(shop: Shop, case: Case, death: Moment, fault: Fault | None) -> tuple[bool, Any]:
    """Send the receipt: whether the process died over it, and if not, what the POS got."""
    send = RECEIPTS[case.receipt]
    try:
        with _doomed(shop, fault, death):
            heard = _quietly(lambda: send(shop))
    except Death:
        shop.close()
        shop.open(_unplug if case.later else None)
        for each in shop.tses.values():
            each.calm()
        return True, None
    if death.call == COMMIT:
        shop.reopen()  # the store that would have died is still in the queue
    return False, heard


def _send_again(shop: Shop, case: Case) -> Any:
    """What the POS gets in the end: an answer, or the error it was refused with twice."""
    send = RECEIPTS[case.receipt]
    for death in case.deaths[1:]:
        _quietly(lambda: BETWEEN[case.between[0]](shop))
        died, heard = _die(shop, case, death, None)
        if not died and not isinstance(heard, FiskalError):
            return heard
    _quietly(lambda: BETWEEN[case.between[0]](shop))
    heard = _quietly(lambda: send(shop))
    if isinstance(heard, FiskalError):
        _quietly(lambda: BETWEEN[case.between[1]](shop))
        for reference in (OPEN, "X"):  # what a closing may not leave open
            _quietly(lambda reference=reference: shop.sale(reference, flow="explicit"))
        heard = _quietly(lambda: send(shop))
    return heard


def play(case: Case, folder: Path) -> Result:
    """Let a case happen to a new shop in ``folder``."""
    with (
        mock.patch.object(interruptions, "RUNNING_S", PATIENCE_S),
        mock.patch("fiskal.host.middleware.START_UP_S", PATIENCE_S),
    ):
        shop = Shop(folder, prepare=two_scus)
        try:
            SETUPS[case.setup](shop)
            shop.tse.calm()
            died, heard = _die(shop, case, case.deaths[0], case.fault)
            if not died:
                return Result(False, None)
            heard = _send_again(shop, case)
            return Result(True, _find_violation(shop, heard))
        except Exception:
            return Result(True, traceback.format_exc().strip().replace("\n", " | ")[-900:])
        finally:
            with suppress(Exception):
                shop.close()


# ---- what must hold -------------------------------------------------------------------------------------


def _times_signed(shop: Shop) -> int:
    """How often any TSE finished a transaction for the receipt that died, and not as aborted."""
    rows = shop.middleware.store.iter_items_by_row(shop.row.queue_no)
    items = {stored.item.ftQueueItemId for stored in rows if stored.item.cbReceiptReference == KEY}
    return sum(
        record.op == records.OP_FINISH
        and record.queue_item_id in items
        and (parse(record.message).process_data or b"").decode() != ABORTED_TRANSACTION
        for tse in shop.tses.values()
        for record in tse.scu._driver._log.records()  # type: ignore[attr-defined]
    )


def _find_violation(shop: Shop, heard: Any) -> str | None:
    _quietly(lambda: _zero(shop))
    times = _times_signed(shop)
    if times > 1:
        what = heard if isinstance(heard, FiskalError) else heard["ftReceiptIdentification"]
        return f"signed {times} times; the POS got: {what}"
    if not isinstance(heard, FiskalError) and heard["ftState"] == DE and times != 1:
        return f"answered as signed, but signed {times} times: {heard['ftReceiptIdentification']}"
    _quietly(lambda: _zero(shop))
    closed = _quietly(lambda: shop.send(0x07 | BYPASS_TAR_EXPORT, "FINAL"))
    if isinstance(closed, FiskalError) or closed["ftState"] != DE:
        return f"the last closing got: {closed}"
    tse = shop.tses[shop.row.ftSignaturCreationUnitDEId]
    left = tse.scu.get_tse_info().current_started_transaction_numbers
    if left:
        return f"the transactions {left} are left open"
    if shop.open_references():
        return f"rows are left of {shop.open_references()}"
    report = verify_journal(shop.middleware.store, shop.row)
    return None if report.ok else f"the journal: {report.problems}"


# ---- the campaign ---------------------------------------------------------------------------------------


def run(seed: int) -> Result:
    """The case of a seed, in a folder of its own on a memory disk if there is one."""
    with tempfile.TemporaryDirectory(prefix="fiskal-interrupted-", dir=memory_folder()) as folder:
        return play(draw(seed), Path(folder))


@click.command()
@click.option("--cases", default=1000, show_default=True, help="How many cases.")
@click.option(
    "--seed", type=int, help="That of the first case, the next ones count up; made up if not given."
)
def main(cases: int, seed: int | None) -> None:
    """Let receipts die in every way, send them again, and look for what was signed twice or left open."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    logging.disable(logging.CRITICAL)
    begin = time.monotonic()
    died = violations = 0
    try:
        for number in range(seed, seed + cases):
            result = run(number)
            died += result.died
            if result.violation is not None:
                violations += 1
                click.echo(
                    f"{result.violation}; {draw(number)}; "
                    f"again: python -m tests.campaigns.interrupted --seed {number} --cases 1"
                )
    finally:
        logging.disable(logging.NOTSET)
    click.echo(
        f"{cases} cases from {seed}, {died} died, {violations} violations, {time.monotonic() - begin:.0f} s"
    )
    if violations:
        sys.exit(1)


if __name__ == "__main__":
    main()
