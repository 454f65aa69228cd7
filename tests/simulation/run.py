"""One seed, from the first receipt to the last check."""

from __future__ import annotations

import json
import logging
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fiskal.germany.codes import DE
from tests.simulation import oracle
from tests.simulation.pos import (
    CLIENT_ONLY,
    CLOSE_ALL,
    DAILY,
    FINISH,
    FORCE,
    INITIATE,
    VOID,
    ZERO,
    Books,
    Register,
    open_registers,
)
from tests.simulation.site import Crash, Site, Violation, Way, memory_folder

STEPS = 120
"""Turns of a site, before everything calms down."""

CHECK_EVERY = 40
"""Turns after which the host is restarted undisturbed, and everything checked."""

CALM_TRIES = 12


class Failure(Exception):
    """A seed that broke a promise: what, the last lines of its trace, and how to replay it."""

    def __init__(self, seed: int, steps: int, what: str, lines: list[str]) -> None:
        self.seed = seed
        trace = "\n".join(f"    {line}" for line in lines)
        super().__init__(
            f"seed {seed}: {what}\n  the last steps:\n{trace}\n"
            f"  replay: python -m tests.simulation --replay {seed} --steps {steps}"
        )


class Result(NamedTuple):
    """``digest`` is the same for two runs that did the same."""

    seed: int
    digest: str
    counts: dict[str, int]


def run(
    seed: int, *, steps: int = STEPS, folder: Path | None = None, watch: Callable[[Site], None] | None = None
) -> Result:
    """Run one seed. Raises Failure. ``watch`` sees the site before the first step."""
    root = folder or memory_folder() / f"fiskal-sim-{os.getpid()}-{seed}"
    shutil.rmtree(root, ignore_errors=True)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    site: Site | None = None
    try:
        site = Site(seed, root)
        if watch is not None:
            watch(site)
        _play(site, steps)
        return Result(seed, site.digest, dict(site.counts))
    except (Exception, Violation) as error:
        what = str(error) if isinstance(error, Violation) else traceback.format_exc()
        raise Failure(seed, steps, what, list(site.lines) if site is not None else []) from error
    finally:
        logging.disable(disabled)
        try:
            if site is not None:
                site.end()
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _play(site: Site, steps: int) -> None:
    books = open_registers(site)

    def others(way: Way) -> None:
        idle = [each for each in books.registers if each.queue_id not in site.busy]
        if idle:
            site.trace(f"  while {way.name} works:")
            site.chance.choice(idle).step()

    site.others = others
    for number in range(steps):
        try:
            site.chance.choice(books.registers).step()
            site.disturb()
        except Crash:
            site.busy.clear()
            site.revive()
        if number % CHECK_EVERY == CHECK_EVERY - 1:
            site.restart()
            oracle.check(site, books, final=False)
    _calm_down(site, books)


def _close(site: Site, books: Books, register: Register) -> None:
    """Bring one queue to its TSE, out of every mode, and its day to an end."""

    def send(case: int, flags: int = 0) -> bool:
        receipt = register.special(case, flags)
        register.sign(receipt)
        return receipt.answer is not None and json.loads(receipt.answer)["ftState"] == DE

    def connect() -> bool:
        return send(FINISH) or send(INITIATE, VOID) or send(INITIATE, VOID | FORCE)

    if register.queue_id in books.switching:
        oracle.demand(connect(), "a switch can neither be finished nor voided")
    if not send(ZERO):
        # A queue that went back to its TSE without it is no client there: it has to leave once more.
        oracle.demand(send(INITIATE, FORCE | CLIENT_ONLY), "the queue does not leave its TSE")
        oracle.demand(send(INITIATE, VOID) or connect(), "the queue does not get back to its TSE")
        oracle.demand(send(ZERO), "failed mode is not left, although all is calm")
    oracle.demand(send(DAILY, CLOSE_ALL), "the closing is not signed")
    row = site.middleware.store.queue(register.queue_id)
    assert row is not None
    oracle.demand(row.SSCDFailCount == 0, "failed mode outlives a zero receipt")
    oracle.demand(row.UsedFailedCount == 0, "late signing outlives a zero receipt")


def _calm_down(site: Site, books: Books) -> None:
    """Nothing goes wrong any more: every receipt gets its answer, and closings close what is open."""
    site.trace("all is calm")
    site.calm = True
    for way in site.ways:
        way.down, way.refusing = False, None
    site.restart()
    oracle.check(site, books, final=False)
    for register in books.registers:
        for _ in range(CALM_TRIES):
            if not register.backlog:
                break
            register.deliver(register.backlog[0])
    left = oracle.unheard(books)
    oracle.demand(not left, f"receipts without an answer although all is calm: {left}")
    for register in books.registers:
        if register.leads and register.queue_id in books.in_service:
            _close(site, books, register)
    oracle.check(site, books, final=True)
    for register in books.registers:
        for receipt in books.answered_of(register)[-30:]:
            books.check_asked(register, receipt)
