"""A small shop for tests: one host on the software TSE, with a clock and a TSE that can be made to fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from fiskal import clock as clocks
from fiskal.clock import TICKS_PER_SECOND
from fiskal.conversation import Call
from fiskal.germany.codes import DE
from fiskal.host import config as configs
from fiskal.host.middleware import Middleware
from fiskal.scu.contract import Capabilities, Scu
from fiskal.scu.software import open_software_tse
from fiskal.store import Change

IMPLICIT = 0x1_0000_0000
TRAINING = 0x2_0000
CASH = DE | 0x01


class StepClock:
    """Starts at a fixed moment and moves on a millisecond at every look."""

    def __init__(self, start: int = clocks.from_unix(1_700_000_000)) -> None:
        self.ticks = start

    def __call__(self) -> int:
        self.ticks += 10_000
        return self.ticks

    def advance(self, seconds: float) -> None:
        self.ticks += int(seconds * TICKS_PER_SECOND)


class FaultyScu:
    """Passes every call on, unless told to fail it before or after the TSE has executed it."""

    def __init__(self, scu: Scu) -> None:
        self.scu = scu
        self.capabilities = Capabilities(
            in_process=True, computes_only=True, deduplicates=True, recalls=True, reserves=True, probes=True
        )
        self.closed = False
        self.calls: list[str] = []
        self.requests: list[Any] = []
        self._before: list[tuple[str, BaseException]] = []
        self._after: list[tuple[str, BaseException]] = []
        self._ignored: dict[str, int] = {}
        self.down: Exception | None = None
        self._countdown: int | None = None
        self._countdown_fault: tuple[BaseException, bool] | None = None

    def be_outside(self) -> None:
        """Count as a TSE outside this process, which may keep its callers waiting."""
        self.capabilities = msgspec.structs.replace(self.capabilities, in_process=False, computes_only=False)

    def keep_no_record(self) -> None:
        """Count as an SCU that cannot be asked what it did."""
        self.capabilities = msgspec.structs.replace(self.capabilities, recalls=False)

    def block(self) -> None:
        """Count as a TSE in this process that may keep its callers waiting."""
        self.capabilities = msgspec.structs.replace(self.capabilities, computes_only=False)

    def fail_before(self, method: str, error: BaseException) -> None:
        self._before.append((method, error))

    def fail_after(self, method: str, error: BaseException) -> None:
        self._after.append((method, error))

    def ignore(self, method: str, calls: int) -> None:
        """Let so many calls of a method pass before its faults count."""
        self._ignored[method] = calls

    def fail_nth(self, number: int, error: BaseException, *, after: bool = False) -> None:
        """Fail the call that comes after ``number`` others from here."""
        self._countdown = number
        self._countdown_fault = (error, after)

    def calm(self) -> None:
        """Fail no more."""
        self.down = self._countdown = None
        self._before.clear()
        self._after.clear()

    def _count_down(self) -> tuple[BaseException, bool] | None:
        if self._countdown is None:
            return None
        self._countdown -= 1
        if self._countdown >= 0:
            return None
        self._countdown = None
        return self._countdown_fault

    def __getattr__(self, method: str) -> Callable[..., Any]:
        target = getattr(self.scu, method)
        if method == "back_to_back":
            return target

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(method)
            self.requests.append(args[0] if args else None)
            if self.down is not None:
                raise self.down
            if self._ignored.get(method, 0) > 0:
                self._ignored[method] -= 1
                return target(*args)
            fault, after = self._count_down() or (None, False)
            if fault is not None and not after:
                raise fault
            self._raise(self._before, method)
            result = target(*args, **options)
            if fault is not None:
                raise fault
            self._raise(self._after, method)
            return result

        return call

    @staticmethod
    def _raise(faults: list[tuple[str, BaseException]], method: str) -> None:
        for index, (name, error) in enumerate(faults):
            if name == method:
                del faults[index]
                raise error

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.scu.close()


class DyingStore:
    """A store that lets so many commits through and fails every later one, as a dying disk would."""

    def __init__(self, store: Any, commits: int, error: BaseException) -> None:
        self._store = store
        self._left = commits
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, change: Change) -> Any:
        if self._left <= 0:
            return Call(self._die)
        self._left -= 1
        return self._store.submit(change)

    def commit(self, change: Change) -> None:
        self.submit(change).call()

    def _die(self) -> None:
        raise self._error


class Shop:
    """One queue on one software TSE, unless ``prepare`` adds more of both to the configuration.

    ``queue_id`` is the queue that requests go to and that is looked at; set it to use another one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: bool = True,
        settings: Any = None,
        prepare: Callable[[configs.HostConfig], None] | None = None,
    ) -> None:
        self.folder = folder
        self.queue_id = ""
        self.clock = StepClock()
        if not (folder / configs.FILE_NAME).exists():
            config = configs.new_config(client_id="POS-1")
            if settings is not None:
                config.queues[0].settings = settings
            if prepare is not None:
                prepare(config)
            configs.save(folder, config)
        self.open()
        if start:
            self.send(0x03)

    def open(self, disturb: Callable[[FaultyScu], Any] | None = None) -> None:
        """Start the host, with TSEs that ``disturb`` prepared to fail."""
        config = configs.load(self.folder)
        self.scu_id = config.scus[0].id
        self.tses = {
            scu.id: FaultyScu(open_software_tse(self.folder / "scu" / scu.id, clock=self.clock))
            for scu in config.scus
        }
        self.tse = self.tses[self.scu_id]
        if disturb is not None:
            for tse in self.tses.values():
                disturb(tse)
        scus: dict[str, Any] = dict(self.tses)
        try:
            self.middleware = Middleware(config, self.folder, scus=scus, clock=self.clock)
        except BaseException:
            for tse in self.tses.values():
                tse.close()
            raise
        self.config = config
        self.queue_id = self.queue_id or config.queues[0].id

    def reopen(self, change: Callable[[configs.HostConfig], None] | None = None) -> None:
        """Stop and start the host, with a changed configuration if ``change`` is given."""
        self.close()
        if change is not None:
            config = configs.load(self.folder)
            change(config)
            configs.save(self.folder, config)
        self.open()

    def close(self) -> None:
        self.middleware.close()
        for tse in self.tses.values():  # a TSE that nobody used was never opened by the host
            tse.close()

    # ---- requests ---------------------------------------------------------------------------------

    def request(self, case: int, reference: str | None = "R-1", **members: Any) -> dict[str, Any]:
        if case & 0xFFFF not in (0x08, 0x09, 0x0A, 0x0B) and "flow" not in members:
            case |= IMPLICIT
        members.pop("flow", None)
        return {
            "ftCashBoxID": self.config.cash_box_id,
            **({"ftQueueID": self.queue_id} if len(self.config.queues) > 1 else {}),
            "cbTerminalID": "T1",
            "cbReceiptReference": reference,
            "cbReceiptMoment": "2023-11-14T22:13:20Z",
            "cbChargeItems": [],
            "cbPayItems": [],
            "ftReceiptCase": DE | case,
            **members,
        }

    def send(self, case: int, reference: str | None = "R-1", **members: Any) -> dict[str, Any]:
        """Sign a receipt, implicit unless it is a transaction step or ``flow='explicit'``."""
        return self.post(self.request(case, reference, **members))

    def post(self, request: dict[str, Any]) -> Any:
        return json.loads(self.middleware.sign_json(json.dumps(request).encode()))

    def sale(self, reference: str = "R-1", amount: str = "7.50", **members: Any) -> dict[str, Any]:
        items = [
            {
                "Quantity": 1,
                "Description": "Ware",
                "Amount": float(amount),
                "VATRate": 19,
                "ftChargeItemCase": DE | 0x01,
            }
        ]
        pays = [{"Quantity": 1, "Description": "Bar", "Amount": float(amount), "ftPayItemCase": CASH}]
        return self.send(
            members.pop("case", 0x01), reference, cbChargeItems=items, cbPayItems=pays, **members
        )

    # ---- looking ----------------------------------------------------------------------------------

    @property
    def row(self) -> Any:
        return self.middleware.store.queue(self.queue_id)

    def journal(self, journal_type: int, *args: int) -> Any:
        text = b"".join(self.middleware.journal(journal_type, *args, queue_id=self.queue_id))
        return json.loads(text, parse_float=Decimal)

    def open_references(self) -> list[str]:
        return [row.cbReceiptReference for row in self.middleware.store.open_transactions(self.row.queue_no)]

    def actions(self) -> list[str]:
        return [row.Message for row in self.middleware.store.iter_actions(self.queue_id)]

    def actions_of(self, kind: str) -> list[Any]:
        """The entries of the action journal of one Type."""
        return [row for row in self.middleware.store.iter_actions(self.queue_id) if row.Type == kind]

    def open_on_tse(self) -> list[int]:
        return self.tse.scu.get_tse_info().current_started_transaction_numbers


def captions(response: dict[str, Any]) -> list[str]:
    return [item["Caption"] for item in response["ftSignatures"]]


def data_of(response: dict[str, Any], caption: str) -> str:
    (found,) = [item["Data"] for item in response["ftSignatures"] if item["Caption"] == caption]
    return str(found)


__all__ = [
    "CASH",
    "DE",
    "IMPLICIT",
    "TRAINING",
    "DyingStore",
    "FaultyScu",
    "Shop",
    "StepClock",
    "captions",
    "data_of",
]
