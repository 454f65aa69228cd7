"""Start/finish pairs at a simulated Diebold Nixdorf TSE with faults drawn at random, and a driver that is killed.

    python -m tests.campaigns.device_diebold_nixdorf --pairs 10000 --kills 100

The simulator runs here, the driver in a process of its own that is killed with SIGKILL after a random number of bytes
has passed between the two, again and again. The driver's process writes down what it was answered; after its death
the next one repeats what has no answer, marked as a retry. In the end the log of the device must be that journal: every
receipt signed once at its start and once at its finish, nothing open, nothing twice.
"""

from __future__ import annotations

import base64
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from fiskal.clock import now
from fiskal.scu.contract import Deadline, FinishTransactionRequest, StartTransactionRequest
from fiskal.scu.drivers import diebold_nixdorf
from fiskal.scu.errors import Misconfigured, ScuError
from fiskal.simulators.diebold_nixdorf import Device, Settings, TcpLine
from fiskal.simulators.plan import Fault, Plan
from fiskal.tse.logmessage import parse

CLIENT: Final = "POS-1"
SPACE: Final = uuid.UUID("8d3f0f2e-5a4b-4c0e-9a35-0e7a3f5d6c11")
PATIENCE_S: Final = 120.0
FAULTS: Final = (
    ("silent", None),
    ("lost_answer", None),
    ("torn", None),
    ("wrong_id", None),
    ("no_id", None),
    ("noise", None),
    ("split", 0),
    ("merge_asb", None),
    ("late", 700),
    ("drop_before", None),
    ("drop_after", None),
    ("unplug", 30),
    ("unplug_after", 30),
    ("time_lost", None),
    ("self_test_expired", None),
    ("error", "0005"),
    ("error", "0002"),
)
OPTIONS: Final = {
    "admin_pin": "12345",
    "time_admin_pin": "12345",
    "allow_default_pins": True,
    "answer_timeout_ms": 400,
    "status_timeout_ms": 400,
}


class Violation(AssertionError):
    """What must never happen."""


class Proxy:
    """Passes bytes between the driver and the device, and calls ``on_limit`` when so many have passed.

    The byte that reaches the limit is not passed on, and none behind it until :meth:`allow` is called.
    """

    def __init__(self, place: str) -> None:
        host, _, port = place.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._left: int | None = None
        self.reached = threading.Event()
        self.passed = 0
        self.on_limit: Any = None
        self._stop = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def allow(self, count: int | None) -> None:
        self.reached.clear()
        self._left = count

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._target, timeout=1)
            except OSError:
                return
            with server:
                for one in (client, server):
                    one.settimeout(2)
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    while not self._stop.is_set() and not self.reached.is_set():
                        ready, _, _ = select.select([client, server], [], [], 0.1)
                        for side in ready:
                            data = side.recv(65536)
                            if not data:
                                return
                            (server if side is client else client).sendall(self._measured(data))
                except (OSError, ValueError):
                    return

    def _measured(self, data: bytes) -> bytes:
        if self._left is not None:
            if len(data) >= self._left:
                data = data[: max(self._left - 1, 0)]
                self._left = 0
                self.passed += len(data)
                self.reached.set()
                if self.on_limit is not None:
                    self.on_limit()
                return data
            self._left -= len(data)
        self.passed += len(data)
        return data

    def close(self) -> None:
        self._stop.set()
        self._listener.close()


# ---- the driver's process -------------------------------------------------------------------------------


def journal(path: Path) -> tuple[dict[tuple[str, int], tuple[int, int]], set[tuple[str, int]]]:
    """What was answered (number and counter by call), and what was begun."""
    answered: dict[tuple[str, int], tuple[int, int]] = {}
    begun: set[tuple[str, int]] = set()
    if path.exists():
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) == 2:
                begun.add((words[0], int(words[1])))
            elif len(words) == 5 and words[4] == ".":
                answered[words[0], int(words[1])] = (int(words[2]), int(words[3]))
    return answered, begun


def data_of(receipt: int) -> bytes:
    return b"Beleg^%d.00_0.00_0.00_0.00_0.00^%d.00:Bar" % (receipt, receipt)


def work(folder: Path, url: str, pairs: int) -> None:
    """Sell until every receipt has both of its signatures."""
    answered, begun = journal(folder / "journal")
    out = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    if answered or begun:
        os.write(out, b"\n")  # behind a line that was cut off
    scu = diebold_nixdorf.open(folder / "scu", {**OPTIONS, "url": url}, now)

    def call(op: str, receipt: int, number: int) -> tuple[int, int]:
        key = (op, receipt)
        if key in answered:
            return answered[key]
        item = str(uuid.uuid5(SPACE, f"{op}/{receipt}"))
        retry = key in begun
        os.write(out, f"{op} {receipt}\n".encode())
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                if op == "start":
                    started = scu.start_transaction(
                        StartTransactionRequest(client_id=CLIENT, queue_item_id=item, is_retry=retry),
                        Deadline(10),
                    )
                    found = (started.transaction_number, started.signature_data.signature_counter)
                else:
                    finished = scu.finish_transaction(
                        FinishTransactionRequest(
                            client_id=CLIENT,
                            transaction_number=number,
                            process_type="Kassenbeleg-V1",
                            process_data_base64=base64.b64encode(data_of(receipt)).decode(),
                            queue_item_id=item,
                            is_retry=retry,
                        ),
                        Deadline(10),
                    )
                    found = (number, finished.signature_data.signature_counter)
            except Misconfigured:
                raise
            except ScuError as error:
                retry = True
                if time.monotonic() > until:
                    raise Violation(f"{op} of receipt {receipt} never succeeds: {error}") from error
                time.sleep(0.02)
            else:
                os.write(out, f"{op} {receipt} {found[0]} {found[1]} .\n".encode())
                return found

    for receipt in range(1, pairs + 1):
        number, _ = call("start", receipt, 0)
        call("finish", receipt, number)
    scu.close()


# ---- the device's process -------------------------------------------------------------------------------


class Outcome(NamedTuple):
    pairs: int
    kills: int
    faults: int


def run(
    pairs: int = 10_000, kills: int = 100, seed: int = 1, rate: float = 0.01, folder: Path | None = None
) -> Outcome:
    """Run the campaign; ``rate`` is the share of commands that meet a fault. Raises Violation."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="fiskal-dn-campaign-") as temporary:
            return run(pairs, kills, seed, rate, Path(temporary))
    chance = random.Random(seed)
    share = rate / len(FAULTS)
    faults = [Fault(kind=kind, value=value, times=None, probability=share) for kind, value in FAULTS if share]
    settings = Settings(
        folder=str(folder / "device"),
        initialized=True,
        clients=[CLIENT],
        plan=Plan(seed=seed, scale=0, faults=faults),
    )
    counting = _Counting(settings)
    line = TcpLine(counting)
    proxy = Proxy(line.place)
    died = 0
    try:
        while True:
            worker = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.campaigns.device_diebold_nixdorf",
                    "--worker",
                    str(folder),
                    "--url",
                    f"tcp://127.0.0.1:{proxy.port}",
                    "--pairs",
                    str(pairs),
                ]
            )
            if died < kills:
                proxy.on_limit = lambda worker=worker: os.kill(worker.pid, signal.SIGKILL)
                average = max(2, 1400 * pairs // max(kills, 1))
                proxy.allow(chance.choice((chance.randrange(1, 1500), chance.randrange(1, average))))
            else:
                proxy.on_limit = None
                proxy.allow(None)
            code = worker.wait()
            if code == 0:
                break
            if code != -signal.SIGKILL:
                raise Violation(f"the driver's process ended with {code}")
            died += 1
        answered, _ = journal(folder / "journal")
        compare(counting, pairs, answered)
    finally:
        proxy.close()
        line.close()
    return Outcome(pairs, died, counting.happened)


class _Counting(Device):
    """Counts the faults that happened."""

    happened = 0

    def fault(self, command: str) -> Fault | None:
        fault = super().fault(command)
        self.happened += fault is not None
        return fault


def compare(device: Device, pairs: int, answered: dict[tuple[str, int], tuple[int, int]]) -> None:
    """The log of the device is the journal. Raises Violation."""
    starts: dict[int, int] = {}
    finishes: Counter[bytes] = Counter()
    found: dict[bytes, tuple[int, int]] = {}
    for _, raw in device.tse.messages():
        message = parse(raw)
        operation = (message.operation or "").lower()
        if operation == "starttransaction":
            assert message.transaction_number is not None
            starts[message.transaction_number] = message.signature_counter
        elif operation == "finishtransaction":
            assert message.transaction_number is not None
            finishes[message.process_data or b""] += 1
            found[message.process_data or b""] = (message.transaction_number, message.signature_counter)
    problems = []
    for receipt in range(1, pairs + 1):
        data = data_of(receipt)
        if finishes[data] != 1:
            problems.append(f"receipt {receipt} was finished {finishes[data]} times")
        elif answered.get(("finish", receipt)) != found[data]:
            problems.append(f"receipt {receipt}: {answered.get(('finish', receipt))} is not {found[data]}")
        number, counter = answered.get(("start", receipt), (0, 0))
        if starts.get(number) != counter:
            problems.append(
                f"receipt {receipt}: start {number} has counter {starts.get(number)}, not {counter}"
            )
    if len(starts) != pairs:
        problems.append(f"{len(starts)} transactions were started for {pairs} receipts")
    if device.tse.open_transactions:
        problems.append(f"{len(device.tse.open_transactions)} transactions are open")
    if problems:
        raise Violation("; ".join(problems[:20]))


@click.command(help=__doc__)
@click.option("--pairs", default=10_000, show_default=True)
@click.option("--kills", default=100, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--rate", default=0.01, show_default=True, help="Share of commands that meet a fault.")
@click.option("--worker", type=click.Path(path_type=Path), hidden=True)
@click.option("--url", hidden=True)
def main(pairs: int, kills: int, seed: int, rate: float, worker: Path | None, url: str | None) -> None:
    if worker is not None:
        work(worker, url or "", pairs)
        return
    outcome = run(pairs, kills, seed, rate)
    click.echo(
        f"{outcome.pairs} pairs, {outcome.kills} deaths of the driver, {outcome.faults} faults: "
        "0 lost, 0 doubled, the log of the device is the journal"
    )


if __name__ == "__main__":
    main()
