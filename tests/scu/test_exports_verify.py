"""Whatever happens to a software TSE, what it exports verifies without a finding."""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Selection
from fiskal.scu.errors import ScuError
from fiskal.scu.software import SoftwareTse
from fiskal.scu.software import log as records
from fiskal.scu.software.aggregating import AggregatingTse
from fiskal.scu.software.limits import Limits
from fiskal.scu.software.rehearsal import FAULT_KINDS, Fault, Rehearsal, RehearsedTse
from fiskal.tse._native import TimeFormat
from fiskal.tse.encode_events import Event
from fiskal.tse.tarverify import TarReport, verify_tar

OPERATIONS = 2000
CLIENTS = ("A", "B b", "C.1", "a" * 64)


class Life:
    """A TSE to which anything may happen, and what its owner remembers."""

    def __init__(self, folder: Path, clock: Any, seed: int, version: int, kind: type[SoftwareTse]) -> None:
        self.random = random.Random(f"{seed}/{version}")
        self.folder = folder
        self.clock = clock
        self.kind = kind
        self.version = version
        self.time_format = self.random.choice(list(TimeFormat))
        self.faults: list[Fault] = []
        self.open: dict[int, str] = {}
        self.exported = 0
        self.erased = False
        self.driver = self.start_process()

    def start_process(self) -> RehearsedTse:
        tse = self.kind(
            self.folder,
            clock=self.clock,
            log_version=self.version,
            time_format=self.time_format,
            checkpoint_every=50,
            durable=False,
        )
        return RehearsedTse(tse, Rehearsal(faults=self.faults), sleep=lambda seconds: None)

    def step(self) -> None:
        self.clock.advance(self.random.choice([0, 0, 0.1, 1, 30]))
        happening = self.random.choices(
            [self.sell, self.administer, self.restart, self.jump, self.fail, self.limit, self.export],
            [200, 20, 4, 4, 4, 2, 1],
        )[0]
        with contextlib.suppress(ScuError):
            happening()

    def sell(self) -> None:
        if self.random.random() < 0.1:  # somebody puts right what keeps the shop from selling
            self.put_right()
        what = self.random.random()
        if what < 0.4 or not self.open:
            client = self.random.choice(CLIENTS)
            call = Call("start", client, 0, "", b"", self.item())
            signed = self.repeat(lambda: self.driver.start(call, None), call)
            self.open[signed.transaction_number] = client
            return
        number = self.random.choice(list(self.open))
        client = self.open[number]
        data = self.random.randbytes(self.random.choice([0, 1, 100, 1000]))
        if what < 0.6:
            self.driver.update(Call("update", client, number, "Bestellung-V1", data, self.item()), None)
            return
        call = Call("finish", client, number, "Kassenbeleg-V1", data, self.item())
        self.repeat(lambda: self.driver.finish(call, None), call)
        del self.open[number]

    def repeat(self, execute: Any, call: Call) -> Any:
        """What a queue does about an answer that it did not get: it asks whether the call was executed."""
        try:
            return execute()
        except ScuError:
            remembered = self.driver.recall(call)
            if remembered is None:
                raise
            return remembered.signed

    def item(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def administer(self) -> None:
        client = self.random.choice(CLIENTS)
        self.random.choice(
            [
                lambda: self.driver.register(client, None),
                lambda: self.driver.unregister(client, None),
                lambda: self.driver.self_test(None),
                lambda: self.driver.set_time(None),
                lambda: self.switch(
                    self.driver.tse.events.lock_transaction_logging("admin"), records.OP_LOCK
                ),
                lambda: self.switch(
                    self.driver.tse.events.unlock_transaction_logging("admin"), records.OP_UNLOCK
                ),
            ]
        )()

    def switch(self, event: Event, op: int) -> None:
        self.driver.tse.write_event(event, op)

    def known(self) -> tuple[Any, ...]:
        """Everything that must not be lost."""
        tse = self.driver.tse
        numbers = tse.counter, tse.transaction_counter, tse.now_ms()
        return *numbers, tse.state, tse.locked, tse.secure, list(tse.clients), list(tse.open_transactions)

    def restart(self) -> None:
        """The end of a process: orderly, killed, or killed while writing."""
        known = self.known()
        how = self.random.random()
        if how < 0.3:
            self.driver.close()
        else:
            self.driver.tse._resources.close()
            self.driver._lock.release()
            if how > 0.6:
                with (self.folder / "messages.log").open("ab") as log:
                    log.write(b"FTL1\x50\x01\x00\x00torn"[: self.random.randrange(1, 12)])
        self.driver = self.start_process()
        assert self.known() == known

    def jump(self) -> None:
        """The host's clock was wrong, and the TSE is told."""
        self.clock.advance(self.random.choice([-20, -3, 40]))
        self.driver.set_time(None)

    def fail(self) -> None:
        kind = self.random.choice(list(FAULT_KINDS))
        self.faults = [Fault(kind=kind, times=self.random.randrange(1, 4))]
        self.driver._take(Rehearsal(faults=self.faults))

    def limit(self) -> None:
        self.driver.tse.limits = Limits(
            max_log_memory_bytes=self.random.choice([1000, 2**40, 2**40]),
            max_open_transactions=self.random.choice([3, 100]),
        )

    def export(self) -> None:
        report = self.verify()
        if self.random.random() < 0.5 and not self.open:
            self.driver.erase(report.tses[0].last_counter, None)
            self.erased = True

    def verify(self) -> TarReport:
        out = io.BytesIO()
        tse = self.driver.tse
        tse.export(Selection(), out, nullcontext)
        report = verify_tar(io.BytesIO(out.getvalue()), tse.chain.certificates[-1:])
        excused = {"STARTS_LATER", "STARTED_BEFORE"} if self.erased else set()
        if self.open:
            excused.add("OPEN_TRANSACTIONS")
        assert report.codes <= excused, report.findings
        assert report.valid == report.logs > 0
        assert sorted(report.tses[0].open_transactions) == sorted(self.open)
        assert report.tses[0].last_counter == tse.counter
        return report

    def put_right(self) -> None:
        tse = self.driver.tse
        self.faults = []
        self.driver._take(Rehearsal())
        tse.limits = Limits(max_log_memory_bytes=2**40, max_open_transactions=100)
        if tse.secure:
            self.driver.self_test(None)
        if tse.locked:
            self.switch(tse.events.unlock_transaction_logging("admin"), records.OP_UNLOCK)

    def end(self) -> TarReport:
        """Everything is put right, every transaction ended."""
        self.put_right()
        for number, client in list(self.open.items()):
            self.driver.register(client, None)
            self.driver.finish(Call("finish", client, number, "", b"", ""), None)
            del self.open[number]
        self.driver.set_state(TseStates.TERMINATED, None)
        return self.verify()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("fiskal.scu.software").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("fiskal.scu.software").setLevel(logging.NOTSET)


@pytest.mark.parametrize("kind", [SoftwareTse, AggregatingTse])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("seed", [1])
def test_exports_verify_after_thousands_of_random_operations(
    tmp_path: Path, clock: Any, seed: int, version: int, kind: type[SoftwareTse]
) -> None:
    life = Life(tmp_path / "tse", clock, seed, version, kind)
    clock.advance(3600)
    life.driver.set_state(TseStates.INITIALIZED, None)
    for client in CLIENTS:
        life.driver.register(client, None)
    for _ in range(OPERATIONS):
        life.step()
    report = life.end()
    assert report.codes <= ({"STARTS_LATER", "STARTED_BEFORE"} if life.erased else set())
    life.driver.close()


@pytest.mark.parametrize("version", [2, 3])
def test_without_erasing_there_is_no_finding_at_all(tmp_path: Path, clock: Any, version: int) -> None:
    life = Life(tmp_path / "tse", clock, 7, version, SoftwareTse)
    life.erased = False
    clock.advance(3600)
    life.driver.set_state(TseStates.INITIALIZED, None)
    for client in CLIENTS:
        life.driver.register(client, None)
    life.export = life.verify  # type: ignore[assignment,method-assign,return-value]
    for _ in range(OPERATIONS):
        life.step()
    report = life.end()
    assert report.findings == []
    assert report.tses[0].first_counter == 1
    assert report.logs > OPERATIONS // 2
    life.driver.close()
