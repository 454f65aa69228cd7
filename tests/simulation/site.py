"""The site: one host with its store and its TSEs on a memory disk, a clock, and everything that can go wrong.

The product is the real one: Middleware, SQLite store and software TSE with their files. Only the clock, the ids, the
way to the TSE and the way to the store are in the hands of the simulation. Everything runs in one thread, so that one
random generator decides everything and a seed replays exactly; other registers get their turn *while* a TSE works.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fiskal.clock import TICKS_PER_SECOND, from_unix
from fiskal.conversation import Call as Need
from fiskal.errors import StoreError
from fiskal.germany import texts
from fiskal.host import config as configs
from fiskal.host.config import HostConfig, QueueConfig, ScuConfig
from fiskal.host.middleware import Middleware
from fiskal.queue.receipts.switch import SOURCE_MODE, TARGET_MODE
from fiskal.queue.settings import QueueSettings, TarFileExportMode
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.contract import Capabilities, Deadline
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Call, Remembered, Signed, Verdict
from fiskal.scu.errors import OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.software import SoftwareTse
from fiskal.store import Change, SqliteStore

EPOCH = from_unix(1_700_000_000)
HOUR = 3600 * TICKS_PER_SECOND
TRACE_LINES = 60
START_TRIES = 6
"""After so many starts that were disturbed the host starts undisturbed."""

_SIGNING = ("start_transaction", "update_transaction", "finish_transaction")


class Crash(BaseException):
    """The process dies here."""


class Violation(BaseException):
    """A promise was broken. Nothing in the product catches it."""


class Clock:
    """Moves on a millisecond at every look; ``offset`` is by how much the host's clock is wrong."""

    def __init__(self) -> None:
        self.ticks = EPOCH
        self.offset = 0

    def __call__(self) -> int:
        self.ticks += 10_000
        return self.ticks + self.offset

    def pass_time(self, seconds: float) -> None:
        self.ticks += int(seconds * TICKS_PER_SECOND)


class Faults:
    """How likely what goes wrong, drawn anew for every seed: some sites have dying disks, others bad networks."""

    def __init__(self, chance: random.Random) -> None:
        def sometimes(most: float) -> float:
            return chance.choice((0.0, 0.3, 1.0)) * most

        self.commit_crash = sometimes(0.03)
        self.commit_error = sometimes(0.03)
        self.call_crash = sometimes(0.03)
        self.call_fails = sometimes(0.06)
        self.call_lost = sometimes(0.06)
        self.call_late = sometimes(0.03)
        self.refusal = sometimes(0.03)
        self.outage = sometimes(0.02)
        self.scu_restart = sometimes(0.02)
        self.answer_lost = sometimes(0.05)
        self.restart = sometimes(0.02)
        self.clock_jump = sometimes(0.03)
        self.interleave = sometimes(0.25)


class Tse(SoftwareTse):
    """A TSE whose process can die inside a call, and which may keep no record of its calls."""

    site: Site

    def _reach(self, when: str) -> None:
        self.site.maybe_die(self.site.faults.call_crash, f"the process dies {when} a signature")

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        self._reach("before")
        signed = super().start(call, deadline)
        self._reach("after")
        return signed

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        self._reach("before")
        signed = super().update(call, deadline)
        self._reach("after")
        return signed

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        self._reach("before")
        signed = super().finish(call, deadline)
        self._reach("after")
        return signed


class ForgetfulTse(Tse):
    """Has no record of calls that it could be asked for; the SCU keeps one in a call store."""

    remembers_calls = False
    needs_open_numbers = True

    def recall(self, call: Call) -> Remembered | None:
        raise Violation("a driver without memory was asked")

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        remembered = SoftwareTse.recall(self, call)
        return Verdict.NOT_EXECUTED if remembered is None else remembered.signed


class Way:
    """The way from the queues to one TSE: calls fail, get lost, come late or find the SCU restarted."""

    def __init__(self, site: Site, scu_id: str, name: str, *, forgetful: bool, remembers: bool) -> None:
        self.site = site
        self.scu_id = scu_id
        self.name = name
        self.forgetful = forgetful
        self.remembers = remembers
        """The SCU can be asked what it did; one of another maker cannot."""
        self.capabilities = Capabilities(in_process=True, deduplicates=True, recalls=remembers)
        self.scu: ScuCore
        self.tse: SoftwareTse
        self.down = False
        self.refusing: ScuError | None = None
        self._late: Callable[[], Any] | None = None

    def open(self) -> None:
        folder = self.site.folder / "scu" / self.scu_id
        kind = ForgetfulTse if self.forgetful else Tse
        kind.site = self.site
        self.tse = kind(folder, clock=self.site.clock, durable=True)
        calls = SqliteCallStore(folder / "calls.sqlite") if self.forgetful else None
        self.scu = ScuCore(self.tse, calls=calls, clock=self.site.clock)
        self._late = None

    def end(self) -> None:
        """Stop the SCU; what it has in its files stays."""
        self.scu.close()

    def close(self) -> None:
        """The host lets go of the SCU, which lives on."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("__"):
            raise AttributeError(method)

        def call(*args: Any) -> Any:
            return self._call(method, args)

        return call

    def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        site, faults = self.site, self.site.faults
        site.check_alive()
        site.watch(self, method, args)
        site.let_others_in(self)
        if self._late is not None:
            late, self._late = self._late, None
            site.trace(f"  {self.name}: the late call arrives")
            try:
                late()
            except ScuError as error:
                site.trace(f"  {self.name}: {error.code}")
        if self.down:
            raise Unreachable("CONNECT_FAILED", "The TSE is not available. It is down.")
        if self.refusing is not None and method in _SIGNING:
            raise self.refusing
        if site.happens(faults.outage):
            site.trace(f"  {self.name} goes down")
            self.down = True
            raise Unreachable("CONNECT_FAILED", "The TSE is not available. It went down.")
        if site.happens(faults.call_fails):
            site.trace(f"  {self.name}.{method} fails")
            site.clock.pass_time(site.chance.choice((0, 15)))
            raise Unreachable("CONNECT_FAILED", "The TSE is not available. The connection failed.")
        if site.happens(faults.scu_restart):
            self._restart()
        if method in _SIGNING:
            if site.happens(faults.refusal):
                code = site.chance.choice(("MEMORY_FULL", "CERTIFICATE_EXPIRED", "SIGNATURE_LIMIT"))
                site.trace(f"  {self.name} refuses: {code}")
                self.refusing = TseRejected(code, "The TSE refuses to sign.")
                raise self.refusing
            if site.happens(faults.call_late):
                site.trace(f"  {self.name}.{method} comes late")
                self._late = lambda: getattr(self.scu, method)(*args)
                raise OutcomeUnknown("DEADLINE", "No answer came in time.")
        result = getattr(self.scu, method)(*args)
        if method in _SIGNING:
            number = getattr(result, "transaction_number", "")
            site.trace(f"  {self.name}.{method} -> {number}")
            if site.happens(faults.call_lost):
                site.trace(f"  {self.name}.{method}: the answer is lost")
                raise OutcomeUnknown("NO_RESPONSE", "The answer was lost.")
        return result

    def _restart(self) -> None:
        """The SCU dies while it writes: a torn record may be at the end of its log."""
        self.site.trace(f"  {self.name} restarts")
        self.end()
        tear(self.site.folder / "scu" / self.scu_id / "messages.log", self.site.chance)
        self.open()


class Disk:
    """The store with a disk that fails, and a process that dies, before and after a commit reached the disk."""

    def __init__(self, site: Site, store: SqliteStore) -> None:
        self._site = site
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, change: Change) -> Any:
        return Need(partial(self.commit, change))

    def commit(self, change: Change) -> None:
        self._before()
        self._store.commit(change)
        self._after()

    def _before(self) -> None:
        site, faults = self._site, self._site.faults
        site.check_alive()
        site.maybe_die(faults.commit_crash / 2, "the process dies before a commit")
        if site.happens(faults.commit_error / 2):
            site.trace("  disk full before a commit")
            raise StoreError("could not write: the disk is full")

    def _after(self) -> None:
        site, faults = self._site, self._site.faults
        site.maybe_die(faults.commit_crash / 2, "the process dies after a commit")
        if site.happens(faults.commit_error / 2):
            site.trace("  a commit is stored, and reported as failed")
            raise StoreError("could not write: the disk reported an error while it flushed")

    def close(self) -> None:
        self._store.close()


class Site:
    """One host of a shop and what it stands on. ``folder`` must not exist and is removed by :meth:`end`."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self._ids = random.Random(f"ids of {seed}")
        self.clock = Clock()
        self.faults = Faults(self.chance)
        self.calm = False
        """Nothing goes wrong any more."""
        self.dead = False
        self.recovering = False
        self.busy: set[str] = set()
        self.others: Callable[[Way], None] = lambda way: None
        self._depth = 0
        self.lines: deque[str] = deque(maxlen=TRACE_LINES)
        self.keep_all = False
        self._digest = hashlib.sha256()
        self.counts = {"receipts": 0, "crashes": 0, "interrupted": 0, "completed": 0}
        self._generation = 0
        self._root = folder
        self.folder = folder / "0"
        self.folder.mkdir(parents=True)
        self.config = self._configure()
        configs.save(self.folder, self.config)
        self.ways = [
            Way(
                self,
                scu.id,
                f"TSE{number}",
                forgetful=self.chance.random() < 0.25,
                remembers=self.chance.random() < 0.9,
            )
            for number, scu in enumerate(self.config.scus, 1)
        ]
        self.impatient: bool
        self.middleware: Middleware
        for way in self.ways:
            way.open()
        self._start()

    def _configure(self) -> HostConfig:
        chance = self.chance
        scus = [ScuConfig(id=self.new_guid()) for _ in range(chance.choice((1, 1, 2, 2)))]
        for scu, partner in zip(scus, reversed(scus), strict=True):
            if scu is not partner:  # each is prepared for a switch to the other and back
                scu.mode = SOURCE_MODE | TARGET_MODE
                scu.mode_configuration_json = {"TargetScuId": partner.id, "SourceScuId": partner.id}
        self.impatient = chance.random() < 0.3
        queues = []
        for number in range(1, chance.choice((1, 2, 2, 3, 4)) + 1):
            settings = QueueSettings(
                tar_file_export_mode=TarFileExportMode.NONE,  # the oracle reads the whole log of each TSE
                duplicate_window_s=86_400 if self.impatient else 0,
                close_open_tse_transactions_on_daily_closing=chance.random() < 0.3,
                receipt_request_mode=0,
            )
            scu = chance.choice(scus)
            queues.append(
                QueueConfig(id=self.new_guid(), scu_id=scu.id, client_id=f"POS-{number}", settings=settings)
            )
        return HostConfig(cash_box_id=self.new_guid(), access_token="simulation", queues=queues, scus=scus)

    # ---- chance ---------------------------------------------------------------------------------

    def new_guid(self) -> str:
        raw = self._ids.randbytes(16).hex()
        return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-a{raw[17:20]}-{raw[20:]}"

    def happens(self, probability: float) -> bool:
        return not self.calm and probability > 0 and self.chance.random() < probability

    def trace(self, line: str) -> None:
        """Note what happens; the digest of all lines tells whether two runs were the same."""
        self.lines.append(line)
        self._digest.update(line.encode() + b"\n")
        if self.keep_all:
            print(line)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    # ---- what goes wrong ------------------------------------------------------------------------

    def check_alive(self) -> None:
        """What a dead process would still do does not happen."""
        if self.dead:
            raise Crash

    def maybe_die(self, probability: float, how: str) -> None:
        self.check_alive()
        if self.happens(probability):
            self.trace(f"  {how}")
            self.dead = True
            raise Crash

    def watch(self, way: Way, method: str, args: tuple[Any, ...]) -> None:
        """While the host starts, nothing may be signed but the closing of an orphan as aborted."""
        if not self.recovering or method not in _SIGNING:
            return
        request = args[0]
        data = getattr(request, "process_data_base64", "")
        if method != "finish_transaction" or data != _ABORTED:
            raise Violation(f"{method} was called at {way.name} while the host starts: {request}")

    def let_others_in(self, way: Way) -> None:
        """While a TSE works, others sell at other queues."""
        if self.recovering or self._depth >= 2 or not self.happens(self.faults.interleave):
            return
        self._depth += 1
        try:
            self.others(way)
        finally:
            self._depth -= 1

    def disturb(self) -> None:
        """What happens between receipts: TSEs come back, clocks jump, the host is restarted."""
        for way in self.ways:
            if way.down and self.chance.random() < 0.3:
                self.trace(f"{way.name} is back")
                way.down = False
            if way.refusing is not None and self.chance.random() < 0.3:
                self.trace(f"{way.name} signs again")
                way.refusing = None
        if self.happens(self.faults.clock_jump):
            hours = 6 if self.impatient else 48
            self.clock.offset = int(self.chance.uniform(-hours, hours) * HOUR)
            self.trace(f"the clock jumps to {self.clock.offset / HOUR:+.1f} h")
        if self.happens(self.faults.restart):
            self._restart()

    def restart(self) -> None:
        """Stop and start the host without a fault: afterwards every item has its answer."""
        calm, self.calm = self.calm, True
        self._restart()
        self.calm = calm

    def _restart(self) -> None:
        self.trace("the host is stopped and started")
        self.middleware.close()
        for way in self.ways:
            way.end()
            way.open()
        self._start()

    # ---- starting and dying ---------------------------------------------------------------------

    def revive(self) -> None:
        """Start again on what a dead process left on the disk."""
        self.counts["crashes"] += 1
        self._bury()
        self.clock.pass_time(self.chance.choice((1, 60, 3600)))
        for way in self.ways:
            way.open()
        self._start()

    def _bury(self) -> None:
        """Take the files as they are, with what the death tore, before anything is closed in good order."""
        self._generation += 1
        fresh = self._root / str(self._generation)
        shutil.copytree(self.folder, fresh, ignore=shutil.ignore_patterns("*-shm", "*.lock", "lock"))
        try:
            self.middleware.close()
        except Crash:
            pass
        for way in self.ways:
            way.end()
        shutil.rmtree(self.folder)
        self.folder = fresh
        wal = fresh / f"{configs.STORE_NAME}-wal"
        if wal.exists() and self.chance.random() < 0.3:
            with wal.open("ab") as file:
                file.write(self.chance.randbytes(self.chance.randrange(1, 5000)))
        for way in self.ways:
            tear(fresh / "scu" / way.scu_id / "messages.log", self.chance)
            if self.chance.random() < 0.2:
                (fresh / "scu" / way.scu_id / "checkpoint").unlink(missing_ok=True)
        self.dead = False

    def _start(self) -> None:
        """Start the host; it may die again while it does."""
        for tries in range(START_TRIES + 1):
            calm = self.calm
            self.calm = calm or tries == START_TRIES
            self.recovering = True
            store = SqliteStore(self.folder / configs.STORE_NAME)
            try:
                self.middleware = Middleware(
                    self.config,
                    self.folder,
                    store=Disk(self, store),
                    scus={way.scu_id: way for way in self.ways},
                    clock=self.clock,
                    new_guid=self.new_guid,
                )
            except Crash:
                self.trace("the host dies while it starts")
                self._dispose(store)
            except StoreError as error:
                self.trace(f"the host does not start: {error}")
                self._dispose(store)
            else:
                return
            finally:
                self.recovering = False
                self.calm = calm
        raise Violation("the host does not start, although nothing is wrong any more")

    def _dispose(self, store: SqliteStore) -> None:
        store.close()
        self.dead = False
        for way in self.ways:
            way.end()
            way.open()

    def end(self) -> None:
        """Stop everything and remove the files."""
        try:
            self.dead = False
            self.middleware.close()
            for way in self.ways:
                way.end()
        finally:
            shutil.rmtree(self._root, ignore_errors=True)


def tear(log: Path, chance: random.Random) -> None:
    """Leave what a death in the middle of writing leaves: the beginning of a record."""
    if chance.random() < 0.3 and log.stat().st_size:
        with log.open("ab") as file:
            file.write(b"FTL1"[: chance.randrange(1, 5)])


def memory_folder() -> Path:
    """Where files cost no disk: the memory file system if there is one."""
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK):
        return shared
    return Path(tempfile.gettempdir())


_ABORTED = base64.b64encode(texts.ABORTED_TRANSACTION.encode()).decode()
