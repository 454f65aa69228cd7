"""The campaign of cloud TSEs: receipts over the open internet, and everything that goes wrong there.

    python -m tests.campaigns.cloud --receipts 5000

Every family gets a third of the receipts, in rounds of thirty. A receipt is a start and a finish through the SCU; what
is not answered is sent again as a queue does it, with IsRetry and its QueueItemId. Faults are drawn at the simulator
(requests lost, answers lost, cut, late, dripping or of an earlier call, errors before and after the work, HTML, tokens
that end, limits of rate) and around it (names that cannot be resolved, clocks that jump, hosts that die and start
again). Swissbit's service holds one export at a time, and only an export shows a signature again: where a receipt stays
unknown there, a daily closing with an export comes in between, as it would.

At the end of a round the service must have signed every receipt exactly once, with the data and the signature that was
answered, and nothing else: no start without its receipt (but for Swissbit's, which shows no signature twice; such
orphans are counted), no number that is open, and an archive that verifies.
"""

from __future__ import annotations

import base64
import logging
import random
import socket
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from unittest import mock

import click

from fiskal.scu.contract import FinishTransactionResponse, StartTransactionResponse
from fiskal.scu.errors import OutcomeUnknown, ScuError, Unreachable
from fiskal.scu.transports import https
from fiskal.simulators.http import Action, HttpFault, Match
from fiskal.tse.logmessage import LogMessage, parse
from tests.support.cloud import FAMILIES, Family, Till, export, verified

ROUND: Final = 30
TRIES: Final = 40
TIMEOUT_MS: Final = 250

FAULTS: Final[dict[str, tuple[float, str, Action]]] = {
    "request lost": (0.02, "before", Action(reset=True)),
    "answer lost": (0.03, "after", Action(reset=True)),
    "answer cut": (0.02, "after", Action(truncate=30)),
    "late": (0.008, "after", Action(delay_ms=TIMEOUT_MS * 1.6)),
    "drip": (0.004, "after", Action(drip_ms_per_byte=TIMEOUT_MS / 4)),
    "502 before": (0.02, "before", Action(status=502, raw_body="<html>bad gateway</html>")),
    "500 after": (0.02, "after", Action(status=500, raw_body="")),
    "504 after": (0.01, "after", Action(status=504, raw_body="<html>timeout</html>")),
    "429": (0.01, "before", Action(status=429, headers={"Retry-After": "1"})),
    "portal": (0.01, "before", Action(status=200, raw_body="<html>Welcome</html>")),
    "old answer": (0.01, "after", Action(stale=True)),
}


class Violation(AssertionError):
    """Something that must never be."""


@contextmanager
def names_that_vanish(draw: random.Random, share: float) -> Iterator[None]:
    """Some names cannot be resolved, and nobody remembers them."""
    resolve = socket.getaddrinfo

    def sometimes(host: Any, *args: Any, **options: Any) -> Any:
        https._resolver._known.clear()
        if host == "localhost" and draw.random() < share:
            raise socket.gaierror(socket.EAI_AGAIN, "no resolver")
        return resolve(host, *args, **options)

    with mock.patch.object(https.socket, "getaddrinfo", sometimes):
        yield


class Round:
    """Thirty receipts at one TSE of one family."""

    def __init__(self, family: Family, seed: int, folder: Path, counts: Counter[str]) -> None:
        self.family = family
        self.draw = random.Random(seed)
        self.counts = counts
        self.site = family.simulate(folder)
        self.site.sim.faults.seed(seed)
        for name, (probability, when, action) in FAULTS.items():
            for method, path in (
                (family.START_METHOD, family.TX_START),
                (family.FINISH_METHOD, family.TX_FINISH),
                ("GET", r"^(?!/download|.*/file|/export/transactions/time)"),  # files may take their time
            ):
                share = probability if method != "GET" else probability / 3
                if name == "old answer" and method == "GET":
                    continue
                self.site.sim.faults.add(
                    HttpFault(
                        id=name,
                        match=Match(method=method, path=path, count=None),
                        when=when,  # type: ignore[arg-type]
                        action=action,
                        probability=share,
                    )
                )
        self.till = self.open()
        self.answers: dict[str, tuple[StartTransactionResponse, FinishTransactionResponse]] = {}

    def options(self) -> dict[str, Any]:
        names = {"fiskaly": "api_endpoint", "fcc": "fcc_uri", "swissbit_cloud": "api_endpoint"}
        name = names[self.family.name]
        return {name: self.family.options(self.site)[name].replace("127.0.0.1", "localhost")}

    def open(self) -> Till:
        scu = self.family.open(
            self.site,
            tx_timeout_ms=TIMEOUT_MS,
            info_timeout_ms=1000,
            max_retries=2,
            retry_base_ms=5,
            **self.options(),
        )
        return Till(scu)

    def run(self) -> None:
        with names_that_vanish(self.draw, 0.05):
            for n in range(ROUND):
                self.receipt(f"Beleg^{n}.00_0.00_0.00_0.00_0.00^{n}.00:Bar".encode())
        self.site.sim.faults.clear()
        self.check()

    def receipt(self, data: bytes) -> None:
        start = self.until_answered("start", lambda item, retry: self.till.start(item, retry=retry))
        finish = self.until_answered(
            "finish", lambda item, retry: self.till.finish(start.transaction_number, data, item, retry=retry)
        )
        self.answers[data.decode()] = (start, finish)
        self.counts["receipts"] += 1

    def until_answered(self, op: str, call: Any) -> Any:
        item = str(uuid.UUID(int=self.draw.getrandbits(128)))
        retry = False
        for attempt in range(TRIES):
            self.trouble()
            if attempt % 3 == 2 and self.family.name == "swissbit_cloud":
                with suppress(ScuError):
                    export(self.till.scu, erase=True)
                    self.counts["closings in between (Swissbit)"] += 1
            try:
                return call(item, retry)
            except (OutcomeUnknown, Unreachable) as error:
                self.counts[f"{op}: {type(error).__name__}"] += 1
                if "PROTOCOL_ERROR" not in error.code:
                    self.wait_for_late_ones(error)
            retry = True
        raise Violation(f"{op} of {item} was not answered in {TRIES} attempts")

    def wait_for_late_ones(self, error: ScuError) -> None:
        """A queue repeats a call minutes later, when nothing of it is on its way any more."""
        if isinstance(error, OutcomeUnknown):
            time.sleep(TIMEOUT_MS * 0.7 / 1000)

    def trouble(self) -> None:
        """Between two calls: tokens end, clocks jump, the host dies."""
        what = self.draw.random()
        if what < 0.02:
            self.site.sim.app.clock.advance(self.draw.choice((7200, 400, -3600)))
            self.counts["clock jumped"] += 1
        elif what < 0.04 and self.family.name != "swissbit_cloud":
            self.site.sim.app.force({"expire_tokens": True})
            self.counts["tokens ended"] += 1
        elif what < 0.06:
            self.till.scu.close()
            self.till = self.open()
            self.counts["host restarted"] += 1

    # ---- what must be true ------------------------------------------------------------------------

    def check(self) -> None:
        messages = [parse(raw) for _, raw in self.family.engine(self.site).messages()]
        finished: dict[str, list[LogMessage]] = {}
        for message in messages:
            if message.operation == "FinishTransaction":
                finished.setdefault((message.process_data or b"").decode(), []).append(message)
        started = [m.transaction_number for m in messages if m.operation == "StartTransaction"]
        for data, (start, finish) in self.answers.items():
            found = finished.pop(data, [])
            if len(found) != 1:
                raise Violation(f"{data} was signed {len(found)} times")
            only = found[0]
            if (only.transaction_number, only.signature_counter, only.log_time) != (
                finish.transaction_number,
                finish.signature_data.signature_counter,
                finish.time_stamp,
            ) or base64.b64decode(finish.signature_data.signature_base64) != only.signature:
                raise Violation(f"{data} was answered with another signature than it has")
            if finish.start_transaction_time_stamp not in (start.time_stamp, None):
                raise Violation(f"{data} began at another time than its start said")
        if finished:
            raise Violation(f"nobody asked for {sorted(finished)}")
        orphans = len(started) - len(self.answers)
        if orphans and self.family.name != "swissbit_cloud":
            raise Violation(f"{orphans} starts are nobody's")
        self.counts["orphans (Swissbit)"] += orphans
        still_open = self.till.scu.get_tse_info().current_started_transaction_numbers
        if len(still_open) != orphans:
            raise Violation(f"numbers {still_open} are open, {orphans} should be")
        if self.family.name == "swissbit_cloud":
            archive = self.site.sim.app.whole_log()  # type: ignore[attr-defined]
        else:
            archive = export(self.till.scu)[0]
        if verified(archive).logs != len(messages):
            raise Violation("the archive is not the whole log")


def run(
    receipts: int, seed: int, *, families: tuple[str, ...] = tuple(FAMILIES)
) -> tuple[Counter[str], list[str]]:
    """Draw rounds until there are as many receipts; returns what happened and the violations with their seeds."""
    counts: Counter[str] = Counter()
    violations: list[str] = []
    rounds = 0
    while counts["receipts"] < receipts:
        family = FAMILIES[families[rounds % len(families)]]
        number = seed * 1_000_003 + rounds
        rounds += 1
        with tempfile.TemporaryDirectory(prefix="fiskal-cloud-") as folder:
            one = Round(family, number, Path(folder), counts)
            try:
                one.run()
            except (Violation, ScuError, AssertionError) as error:
                traceback.print_exc()
                violations.append(f"{family.name}, round {number}: {error}")
                counts["receipts"] += ROUND
            finally:
                for entry in one.site.sim.journal.entries():
                    if entry.fault:
                        counts[f"fault: {entry.fault}"] += 1
                with suppress(ScuError):
                    one.site.close()
    return counts, violations


@click.command()
@click.option("--receipts", default=5000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--family", "families", multiple=True, type=click.Choice(list(FAMILIES)))
def main(receipts: int, seed: int, families: tuple[str, ...]) -> None:
    """Run the campaign; the exit code is 1 after a violation."""
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    counts, violations = run(receipts, seed, families=families or tuple(FAMILIES))
    for name, count in sorted(counts.items()):
        click.echo(f"{count:8d}  {name}")
    click.echo(f"{len(violations)} violations in {time.monotonic() - began:.0f} s")
    for violation in violations:
        click.echo(violation)
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
