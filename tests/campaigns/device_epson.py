"""The campaign of an Epson TSE: thousands of sales while everything goes wrong that can, and not one signed twice.

    python -m tests.campaigns.device_epson --pairs 10000
    python -m tests.campaigns.device_epson --kills 100
    python -m tests.campaigns.device_epson --device-kills 100

Each sale is a start and a finish. A call that fails comes again, marked as a repetition, as a queue does it. Faults
are drawn at random from those of the simulator, the driver is closed and opened again, the device loses its power,
connections break between any two messages and within them. With ``--kills`` the process that sells dies by SIGKILL,
with ``--device-kills`` that of the device. In the end what was answered and what the device has logged must be the
same, signature for signature.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import click

from fiskal.scu.contract import (
    Deadline,
    FinishTransactionRequest,
    RegisterClientIdRequest,
    Scu,
    StartTransactionRequest,
    TseState,
    TseStates,
)
from fiskal.scu.drivers import epson
from fiskal.scu.errors import ScuError
from fiskal.simulators.epson import Settings, Simulator
from fiskal.simulators.plan import Fault, Plan
from fiskal.tse.logmessage import LogType, parse

CLIENT = "POS-1"
SECRETS = {"puk": "918273", "admin_pin": "53417", "time_admin_pin": "86420", "secret": "CAMPAIGN"}
FAULTS: dict[str, int | float | str | None] = {
    "drop_before": None,
    "drop_after": None,
    "drop_mid": None,
    "rst": None,
    "env_timeout": None,
    "garbage_xml": None,
    "bad_json": None,
    "missing_resultdata": None,
    "wrong_function": None,
    "other_device": None,
    "old_answer": None,
    "quote_noise": None,
    "coalesce": None,
    "split": 97,
    "busy": None,
    "power_cycle": None,
    "power_cycle_after": None,
    "idle_logout": None,
    "time_unset": None,
    "self_test_expired": None,
    "foreign_host": None,
    "export_stuck": None,
    "error": "TSE1_ERROR_TIMEOUT",
    "envelope_error": "SYSTEM_ERROR",
    "message_error": "SEND_ERROR",
    "bad_base64": None,
}
COMMANDS = (
    "StartTransaction",
    "FinishTransaction",
    "GetStorageInfo",
    "GetStartedTransactionList",
    "GetChallenge",
    "AuthenticateUserForTimeAdmin",
    "AuthenticateUserForAdmin",
    "ExportFilteredByTransactionNumber",
    "GetExportData",
    "open_device",
    "connect",
)
AT_DEVICE = frozenset(
    {"power_cycle", "power_cycle_after", "idle_logout", "time_unset", "self_test_expired", "foreign_host"}
    | {"export_stuck", "error", "bad_base64", "env_timeout", "other_device", "bad_json", "missing_resultdata"}
    | {"wrong_function"}
)
"""Faults that need a function, and mean nothing at a message."""
ATTEMPTS = 60


class Violation(AssertionError):
    """What must never happen."""


class Answer(NamedTuple):
    op: str
    number: int
    counter: int
    signature: str


class Result(NamedTuple):
    pairs: int
    calls: int
    repeated: int
    restarts: int
    faults: Counter[str]


def options(simulator: Simulator, **more: Any) -> epson.Options:
    given = {"port": simulator.port, **SECRETS, "busy_retry_ms": 3000, "connect_timeout_ms": 1000, **more}
    if simulator.settings.tls:
        given |= {"tls": True, "ca_file": str(simulator.certificate_file)}
    return epson.Options(**given)


def set_up(scu: Scu) -> None:
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id=CLIENT))


def draw(chance: random.Random, rate: float) -> Fault | None:
    """A fault for the calls of one sale, most times none."""
    if chance.random() >= rate:
        return None
    kind = chance.choice(list(FAULTS))
    commands = COMMANDS[:-2] if kind in AT_DEVICE else COMMANDS
    return Fault(
        kind=kind,
        command=chance.choice((chance.choice(commands), "StartTransaction", "FinishTransaction")),
        times=chance.choice((1, 1, 1, 2, 3)),
        value=FAULTS[kind],
    )


def compare(simulator: Simulator, answers: list[Answer]) -> None:
    """What was answered is what was logged, and nothing else. Raises Violation."""
    logged = []
    for _, raw in simulator.device.tse.messages():
        message = parse(raw)
        if message.type is LogType.TRANSACTION:
            op = (message.operation or "").removesuffix("Transaction").lower()
            signature = base64.b64encode(message.signature).decode()
            logged.append(Answer(op, message.transaction_number or 0, message.signature_counter, signature))
    missing, doubled = set(answers) - set(logged), set(logged) - set(answers)
    if missing:
        raise Violation(f"answered but not logged: {sorted(missing)[:3]}")
    if doubled:
        raise Violation(f"logged but never answered: {sorted(doubled)[:3]} and {len(doubled) - 1} more")
    if len(set(answers)) != len(answers):
        raise Violation("one signature was answered for two calls")
    if simulator.device.tse.open_transactions:
        raise Violation(f"left open: {list(simulator.device.tse.open_transactions)}")


def run(
    folder: Path, pairs: int, seed: int = 1, *, tls: bool = False, rate: float = 0.3, **more: Any
) -> Result:
    """Sell ``pairs`` times. Raises Violation."""
    chance = random.Random(seed)
    counted: Counter[str] = Counter()
    answers: list[Answer] = []
    calls = repeated = restarts = 0
    settings = Settings(folder=str(folder / "device"), port=0, tls=tls, plan=Plan(scale=0, seed=seed))
    with Simulator(settings) as simulator:
        scu = epson.open(folder / "scu", options(simulator, **more))
        set_up(scu)
        for _ in range(pairs):
            fault = draw(chance, rate)
            simulator.conductor.take(Plan(scale=0, seed=seed, faults=[] if fault is None else [fault]))
            number = 0
            for op in ("start", "finish"):
                item, data = str(uuid.UUID(int=chance.getrandbits(128))), b"Beleg^%d" % chance.getrandbits(32)
                for attempt in range(ATTEMPTS):
                    calls += 1
                    if chance.random() < 0.01:
                        scu.close()
                        restarts += 1
                        scu = epson.open(folder / "scu", options(simulator, **more))
                    try:
                        answer = call(scu, op, number, item, data, is_retry=attempt > 0)
                    except ScuError as error:
                        repeated += 1
                        counted[f"{type(error).__name__} {error.code}"] += 1
                        if attempt > 3:  # nobody repairs a device that never answers
                            simulator.conductor.take(Plan(scale=0, seed=seed))
                        continue
                    answers.append(answer)
                    number = answer.number
                    break
                else:
                    raise Violation(f"{op} did not go through in {ATTEMPTS} attempts under {fault}")
            if fault is not None:
                counted[fault.kind] += 1
        scu.close()
        compare(simulator, answers)
    return Result(pairs, calls, repeated, restarts, counted)


def call(scu: Scu, op: str, number: int, item: str, data: bytes, *, is_retry: bool) -> Answer:
    if op == "start":
        started = scu.start_transaction(
            StartTransactionRequest(client_id=CLIENT, queue_item_id=item, is_retry=is_retry), Deadline(20)
        )
        signature = started.signature_data
        return Answer(op, started.transaction_number, signature.signature_counter, signature.signature_base64)
    finished = scu.finish_transaction(
        FinishTransactionRequest(
            client_id=CLIENT,
            transaction_number=number,
            process_type="Kassenbeleg-V1",
            process_data_base64=base64.b64encode(data).decode(),
            queue_item_id=item,
            is_retry=is_retry,
        ),
        Deadline(20),
    )
    signature = finished.signature_data
    return Answer(op, number, signature.signature_counter, signature.signature_base64)


# ---- a process that dies ----------------------------------------------------------------------


def sell_until_killed(folder: Path, port: int) -> None:
    """Sell on and on, and write down durably what is about to be asked and what was answered."""
    journal = folder / "journal.jsonl"
    entries = [
        json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]
    scu = epson.open(folder / "scu", epson.Options(port=port, **SECRETS, busy_retry_ms=10_000))  # type: ignore[arg-type]
    with journal.open("a") as out:

        def write(entry: dict[str, Any]) -> None:
            out.write(json.dumps(entry) + "\n")
            out.flush()
            os.fsync(out.fileno())

        last = entries[-1] if entries else None
        pending = last if last is not None and "answer" not in last else None
        op = "start"
        number = 0
        if pending is None and last is not None:
            op = "finish" if last["answer"][0] == "start" else "start"
            number = last["answer"][1]
        while True:
            if pending is None:
                pending = {"op": op, "number": number, "item": str(uuid.uuid4()), "data": uuid.uuid4().hex}
                write(pending)
                retry = False
            else:
                retry = True
            while True:
                try:
                    answer = call(
                        scu,
                        pending["op"],
                        pending["number"],
                        pending["item"],
                        pending["data"].encode(),
                        is_retry=retry,
                    )
                    break
                except ScuError:
                    retry = True
                    time.sleep(0.05)
            write({**pending, "answer": answer})
            op, number = ("finish", answer.number) if answer.op == "start" else ("start", 0)
            pending = None


def kill(folder: Path, kills: int, seed: int = 1) -> int:
    """Kill the selling process ``kills`` times; returns how many calls were answered. Raises Violation."""
    chance = random.Random(seed)
    journal = folder / "journal.jsonl"
    journal.touch()
    settings = Settings(
        folder=str(folder / "device"), port=0, plan=Plan(seed=seed, service_time={"*": 2}, scale=0)
    )
    with Simulator(settings) as simulator:
        scu = epson.open(folder / "scu", options(simulator))
        set_up(scu)
        scu.close()
        for _ in range(kills + 1):
            before = journal.stat().st_size
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.campaigns.device_epson",
                    "--sell",
                    str(simulator.port),
                    str(folder),
                ]
            )
            until = time.monotonic() + 60
            while journal.stat().st_size == before and time.monotonic() < until and child.poll() is None:
                time.sleep(0.005)
            if child.poll() is not None:
                raise Violation(f"the selling process ended by itself with {child.returncode}")
            time.sleep(chance.random() * 0.3)
            child.send_signal(signal.SIGKILL)
            child.wait()
        answers, pending = [], None
        for line in journal.read_text().splitlines():
            entry = json.loads(line)
            pending = None if "answer" in entry else entry
            if "answer" in entry:
                answers.append(Answer(*entry["answer"]))
        scu = epson.open(folder / "scu", options(simulator))
        if pending is not None:
            answers.append(
                call(
                    scu,
                    pending["op"],
                    pending["number"],
                    pending["item"],
                    pending["data"].encode(),
                    is_retry=True,
                )
            )
        if answers and answers[-1].op == "start":
            answers.append(call(scu, "finish", answers[-1].number, str(uuid.uuid4()), b"end", is_retry=False))
        scu.close()
        compare(simulator, answers)
    return len(answers)


# ---- a device that dies -----------------------------------------------------------------------


def serve(folder: Path, port: int) -> None:
    """Be the device until killed; says on which port."""
    settings = Settings(
        folder=str(folder / "device"), port=port, durable=True, plan=Plan(service_time={"*": 2})
    )
    with Simulator(settings) as simulator:
        print(simulator.port, flush=True)
        signal.pause()


def _power_on(folder: Path, port: int) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "tests.campaigns.device_epson", "--serve", str(port), str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        line = child.stdout.readline()
    if not line:
        raise Violation("the device does not come up again")
    return child, int(line)


def kill_device(folder: Path, kills: int, seed: int = 1) -> int:
    """Let the device's process die by SIGKILL while somebody sells; returns how many calls were answered."""
    chance = random.Random(seed)
    answers: list[Answer] = []
    child, port = _power_on(folder, 0)

    def kill_and_revive() -> None:
        nonlocal child
        for _ in range(kills):
            time.sleep(0.1 + chance.random())
            child.kill()
            child.wait()
            child, _ = _power_on(folder, port)

    killer = threading.Thread(target=kill_and_revive)
    try:
        given = epson.Options(port=port, **SECRETS, busy_retry_ms=10_000)  # type: ignore[arg-type]
        scu = epson.open(folder / "scu", given)
        set_up(scu)
        killer.start()
        last = False
        while not last:
            last = not killer.is_alive()  # one sale more when it has come to life for the last time
            number = 0
            for op in ("start", "finish"):
                answers.append(_through(scu, op, number))
                number = answers[-1].number
        scu.close()
    finally:
        killer.join()
        child.terminate()
        child.wait()
    with Simulator(Settings(folder=str(folder / "device"), port=0)) as simulator:
        compare(simulator, answers)
    return len(answers)


def _through(scu: Scu, op: str, number: int) -> Answer:
    """Call again until there is an answer, as a queue does with a device that is away."""
    item, data = str(uuid.uuid4()), uuid.uuid4().bytes
    until = time.monotonic() + 60
    retry = False
    while True:
        try:
            return call(scu, op, number, item, data, is_retry=retry)
        except ScuError as error:
            if time.monotonic() > until:
                raise Violation(f"{op} did not go through: {error}") from error
            retry = True
            time.sleep(0.05)


@click.command()
@click.option("--pairs", default=0, help="Sales with faults.")
@click.option("--kills", default=0, help="Deaths of the selling process.")
@click.option("--device-kills", default=0, help="Deaths of the device.")
@click.option("--seed", default=1)
@click.option("--tls", is_flag=True)
@click.option("--rate", default=0.3, help="How many sales meet a fault.")
@click.option("--sell", default=0, hidden=True, help="Sell at this port until killed.")
@click.option("--serve", "serving", type=int, hidden=True, help="Be the device at this port until killed.")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def main(
    pairs: int,
    kills: int,
    device_kills: int,
    seed: int,
    tls: bool,
    rate: float,
    sell: int,
    serving: int | None,
    folder: Path | None,
) -> None:
    """Rehearse an Epson TSE to death."""
    if sell and folder is not None:
        sell_until_killed(folder, sell)
        return
    if serving is not None and folder is not None:
        serve(folder, serving)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if pairs:
            began = time.monotonic()
            result = run(Path(scratch) / "faults", pairs, seed, tls=tls, rate=rate)
            print(
                f"{result.pairs} sales, {result.calls} calls, {result.repeated} repeated, {result.restarts} restarts "
                f"of the driver, {time.monotonic() - began:.0f} s: 0 lost, 0 doubled"
            )
            print(", ".join(f"{name} {count}" for name, count in sorted(result.faults.items())))
        if kills:
            (Path(scratch) / "kills").mkdir()
            answered = kill(Path(scratch) / "kills", kills, seed)
            print(f"{kills} kills, {answered} calls: 0 lost, 0 doubled")
        if device_kills:
            answered = kill_device(Path(scratch) / "device-kills", device_kills, seed)
            print(f"{device_kills} kills of the device, {answered} calls: 0 lost, 0 doubled")


if __name__ == "__main__":
    main()
