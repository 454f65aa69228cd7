"""Start/finish pairs on a simulated Cryptovision TSE while everything goes wrong that can: nothing lost or doubled.

    python -m tests.campaigns.device_cryptovision -n 10000 -s 1

Faults are drawn for every command; besides, the driver dies between two accesses to the device, and the device is
switched off. Ends with an error unless the device's log holds exactly what was answered, and an export verifies.
"""

from __future__ import annotations

import argparse
import base64
import logging
import tempfile
import time
import uuid
from pathlib import Path
from random import Random
from typing import Final

from fiskal.scu.contract import FinishTransactionRequest, StartTransactionRequest
from fiskal.scu.errors import OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.simulators.cryptovision import Settings
from fiskal.simulators.plan import Fault, Plan
from fiskal.tse.findings import Severity
from fiskal.tse.tarverify import verify_tar
from tests.support.cryptovision import Rig

EVERYWHERE: Final = (
    Fault(kind="command_lost", command="*"),
    Fault(kind="not_taken", command="*", value=2),
    Fault(kind="busy_long", command="*", value=20),
    Fault(kind="busy_forever", command="*"),
    Fault(kind="empty_header_done", command="*"),
    Fault(kind="empty_header_lost", command="*"),
    Fault(kind="foreign_header", command="*"),
    Fault(kind="ctl_timeout", command="*"),
    Fault(kind="ctl_error", command="*"),
    Fault(kind="truncated_read", command="*"),
    Fault(kind="length_too_big", command="*"),
    Fault(kind="torn_block", command="*", value=1),
    Fault(kind="torn_block", command="*", value=0),
    Fault(kind="torn_write", command="*", value=0),
    Fault(kind="removed_before", command="*", value=5),
    Fault(kind="removed_after", command="*", value=5),
    Fault(kind="restart_before", command="*"),
    Fault(kind="restart_after", command="*"),
    Fault(kind="slow_wakeup", command="*", value=40),
)
AT_TRANSACTIONS: Final = (
    "old_answer",
    "garbage",
    "time_unset",
    "empty_header_done",
    "removed_after",
    "busy_forever",
)
"""Faults whose effect on other commands is that of a liar: only where the log tells the truth about it."""
COMMANDS: Final = ("start_transaction", "finish_transaction")


class Died(BaseException):
    """The driver's process is no more."""


def faults(rate: float) -> list[Fault]:
    """All faults, each for ever and each with its share of ``rate``."""
    kinds = [
        *EVERYWHERE,
        *(Fault(kind=kind, command=command) for kind in AT_TRANSACTIONS for command in COMMANDS),
        *(
            Fault(kind="error", command=command, value=value)
            for command in COMMANDS
            for value in ("0x8003", "0x801d")
        ),
        *(
            Fault(kind="error_done", command=command, value=value)
            for command in COMMANDS
            for value in ("0x8010", "0x80ff")
        ),
    ]
    share = rate / len(kinds)
    return [
        Fault(kind=fault.kind, command=fault.command, times=None, probability=share, value=fault.value)
        for fault in kinds
    ]


class Campaign:
    """``answered`` is what a till would have in its journal: numbers of starts and finishes."""

    def __init__(self, folder: Path, seed: int, rate: float, deaths: float) -> None:
        self._random = Random(seed)
        self._deaths = deaths
        self._armed = False
        self.rig = Rig(
            folder,
            settings=Settings(plan=Plan(scale=0, seed=seed)),
            before=self._maybe_die,
            patience=0.02,
            io_timeout_ms=100,
            empty_answer_wait_ms=10,
        )
        self.rig.initialize("POS-1", "POS-2")
        self.started: list[int] = []
        self.finished: list[int] = []
        self.failures: dict[str, int] = {}
        self._rate = rate
        self._arm()

    def _arm(self) -> None:
        self._armed = True
        self.rig.device.conductor.take(
            Plan(scale=0, seed=self._random.randrange(1 << 30), faults=faults(self._rate))
        )

    def disarm(self) -> None:
        self._armed = False
        self.rig.device.conductor.take(Plan(scale=0))

    def _maybe_die(self, what: str) -> None:
        if self._armed and self._random.random() < self._deaths:
            raise Died

    def _until_answered(self, call: object) -> object:
        retry = False
        for _ in range(200):
            try:
                return call(retry)  # type: ignore[operator]
            except Died:
                self._count("died")
                self.rig.reopen()
            except (Unreachable, OutcomeUnknown, TseRejected) as error:
                if isinstance(error, TseRejected) and error.code != "TIME_NOT_SET":
                    raise
                self._count(f"{type(error).__name__} {error.code}")
                time.sleep(0.002)
            retry = True
        raise AssertionError("a call was never answered")

    def _count(self, what: str) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1

    def pair(self, number: int) -> None:
        """One receipt. Now and then the till sells to two customers at once."""
        client = f"POS-{1 + number % 2}"
        item, data = (
            str(uuid.UUID(int=self._random.getrandbits(128))),
            base64.b64encode(b"%d" % number).decode(),
        )
        if self._random.random() < self._deaths / 2:
            self.rig.restart_device()
            self.rig.reopen()
            self._arm()
        started = self._until_answered(
            lambda retry: self.rig.scu.start_transaction(
                StartTransactionRequest(client_id=client, queue_item_id=item, is_retry=retry)
            )
        ).transaction_number  # type: ignore[attr-defined]
        self.started.append(started)
        self._until_answered(
            lambda retry: self.rig.scu.finish_transaction(
                FinishTransactionRequest(
                    client_id=client,
                    transaction_number=started,
                    process_type="Kassenbeleg-V1",
                    process_data_base64=data,
                    queue_item_id=item,
                    is_retry=retry,
                )
            )
        )
        self.finished.append(started)

    def check(self) -> None:
        """Raises AssertionError unless the log of the device is the journal."""
        self.disarm()
        log = self.rig.transactions()
        starts = [number for operation, number in log if operation == "start"]
        finishes = [number for operation, number in log if operation == "finish"]
        assert sorted(self.started) == starts, "starts of the journal and of the device differ"
        assert sorted(self.finished) == sorted(finishes), "finishes of the journal and of the device differ"
        assert len(set(starts)) == len(starts), "a number was given twice"
        self.rig.reopen()
        info = self.rig.scu.get_tse_info()
        assert info.current_number_of_started_transactions == 0
        archive = self.rig.export()
        path = self.rig.folder / "export.tar"
        path.write_bytes(archive)
        with path.open("rb") as file:
            report = verify_tar(file)
        assert report.ok, [str(finding) for finding in report.findings[:5]]
        assert report.valid == report.logs
        assert report.counts[Severity.WARNING] == 0

    def close(self) -> None:
        self.rig.close()


def run(
    pairs: int, seed: int = 1, rate: float = 0.02, deaths: float = 0.001, folder: Path | None = None
) -> dict[str, int]:
    """Run a campaign; return how often calls failed and why. Raises AssertionError, and ScuError for a refusal."""
    with tempfile.TemporaryDirectory(prefix="fiskal-cryptovision-") as scratch:
        campaign = Campaign(folder or Path(scratch), seed, rate, deaths)
        try:
            for number in range(pairs):
                campaign.pair(number)
            campaign.check()
        finally:
            campaign.close()
        return campaign.failures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--pairs", type=int, default=10_000)
    parser.add_argument("-s", "--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.02, help="faults per command")
    parser.add_argument("--deaths", type=float, default=0.001, help="deaths of the driver per access")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    failures = run(arguments.pairs, arguments.seed, arguments.rate, arguments.deaths)
    print(f"{arguments.pairs} pairs in {time.monotonic() - began:.0f} s: 0 lost, 0 doubled")
    for what, count in sorted(failures.items()):
        print(f"  {count:6d} {what}")


if __name__ == "__main__":
    try:
        main()
    except ScuError as refused:
        raise SystemExit(f"{type(refused).__name__} {refused.code}: {refused}") from refused
