"""The campaign of hardware TSEs: receipts while everything on the way to the device goes wrong.

    python -m tests.campaigns.devices swissbit --pairs 10000
    python -m tests.campaigns.devices swissbit --kills 200

With ``--pairs`` so many transactions are started and finished on the simulated device in this process; before a call a
fault is drawn (what a device or the way to it can do, a driver that starts again, a caller that dies between two
commands), and the call is asked again until it is answered. With ``--kills`` a process of its own signs on the mounted
device and is killed with SIGKILL at a random moment, so often; the next one asks for what the one before did not hear.

In the end the log of the device must be the journal: every answered call stands in it once, with the counter and
signature that were answered, nothing else does, and nothing is open. A seed repeats its faults.

A family joins with a line in :data:`FAMILIES`: a module whose ``rig(folder, random)`` and ``mounted_rig(folder)`` are
context managers that give a
:class:`tests.campaigns.rig.Rig`.
"""

from __future__ import annotations

import base64
import importlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from fiskal.scu.contract import FinishTransactionRequest, StartTransactionRequest
from fiskal.scu.errors import OutcomeUnknown, Unreachable
from tests.campaigns.rig import Death, Logged, Rig

FAMILIES: Final[dict[str, str]] = {
    "diebold-nixdorf": "tests.campaigns.diebold_nixdorf_rig",
    "epson": "tests.campaigns.epson_rig",
    "swissbit": "tests.campaigns.swissbit_rig",
}
ATTEMPTS: Final = 40
SIZES: Final = (0, 1, 80, 250, 511, 512, 513, 900)


def family(name: str) -> Any:
    return importlib.import_module(FAMILIES[name])


def asked_until_answered(rig: Rig, request: Any) -> Any:
    """Ask as a queue does: the same item again, until there is an answer."""
    call = "start_transaction" if isinstance(request, StartTransactionRequest) else "finish_transaction"
    for _ in range(ATTEMPTS):
        try:
            return getattr(rig.scu, call)(request)
        except Death:
            rig.restart()
        except (Unreachable, OutcomeUnknown):
            time.sleep(0.01)
        request = _again(request)
    rig.calm()
    return getattr(rig.scu, call)(request)


def _again(request: Any) -> Any:
    return msgspec.structs.replace(request, is_retry=True)


def start_request(client: str, item: str) -> StartTransactionRequest:
    return StartTransactionRequest(client_id=client, queue_item_id=item)


def finish_request(client: str, item: str, number: int, size: int) -> FinishTransactionRequest:
    data = base64.b64encode(f"{number}^".encode().ljust(size, b"x")[:size]).decode()
    return FinishTransactionRequest(
        client_id=client,
        transaction_number=number,
        process_type="Kassenbeleg-V1",
        process_data_base64=data,
        queue_item_id=item,
    )


def compare(journal: list[Logged], logged: list[Logged]) -> list[str]:
    """What is wrong between answers and log; nothing if all is well."""
    faults = []
    twice = [
        key for key, times in Counter((one.operation, one.number) for one in logged).items() if times > 1
    ]
    if twice:
        faults.append(f"signed more than once: {twice[:5]}")
    missing = set(journal) - set(logged)
    if missing:
        faults.append(f"answered and not in the log: {sorted(missing)[:5]}")
    more = set(logged) - set(journal)
    if more:
        faults.append(f"in the log and never answered: {sorted(more)[:5]}")
    return faults


def run_pairs(name: str, pairs: int, seed: int, rate: float, folder: Path) -> tuple[Counter[str], list[str]]:
    """Sign ``pairs`` transactions, with faults before a part ``rate`` of the calls; return them and what failed."""
    draw = random.Random(seed)
    struck: Counter[str] = Counter()
    journal: list[Logged] = []
    context: AbstractContextManager[Rig] = family(name).rig(folder, draw)
    with context as rig:
        for index in range(pairs):
            item, number = str(uuid.UUID(int=draw.getrandbits(128), version=4)), 0
            for op in ("StartTransaction", "FinishTransaction"):
                if draw.random() < rate:
                    struck[rig.strike()] += 1
                request: Any = start_request(rig.client, item)
                if op == "FinishTransaction":
                    request = finish_request(rig.client, item, number, draw.choice(SIZES))
                answer = asked_until_answered(rig, request)
                rig.calm()
                number = answer.transaction_number
                data = answer.signature_data
                journal.append(
                    Logged(op, number, data.signature_counter, base64.b64decode(data.signature_base64))
                )
            if (index + 1) % 1000 == 0:
                print(f"{index + 1} pairs, {sum(struck.values())} faults", flush=True)
        faults = compare(journal, rig.log())
        still_open = rig.scu.get_tse_info().current_started_transaction_numbers
        if still_open:
            faults.append(f"still open: {still_open[:5]}")
    return struck, faults


# ---- processes that are killed ------------------------------------------------------------------


def work(name: str, folder: Path) -> None:
    """Sign until killed: one line of the journal before a call, one after it, both on the disk before going on."""
    lines = (folder / "journal").read_text().splitlines() if (folder / "journal").exists() else []
    draw = random.Random(len(lines))
    context: AbstractContextManager[Rig] = family(name).mounted_rig(folder)
    with context as rig, (folder / "journal").open("a") as out:

        def note(**what: Any) -> None:
            out.write(json.dumps(what) + "\n")
            out.flush()

        done = [json.loads(line) for line in lines if line.endswith("}")]
        out.write("\n")  # behind a line that was cut
        last = done[-1] if done else None
        while True:
            item, number, size = str(uuid.UUID(int=draw.getrandbits(128), version=4)), 0, draw.choice(SIZES)
            if last is not None and last["what"] != "FinishTransaction":
                item, number, size = last["item"], last.get("number", 0), last.get("size", size)
            if not number:
                note(what="ask start", item=item)
                answer = asked_until_answered(rig, _again(start_request(rig.client, item)))
                number = answer.transaction_number
                note(what="StartTransaction", item=item, number=number, **_signed(answer))
            note(what="ask finish", item=item, number=number, size=size)
            answer = asked_until_answered(rig, _again(finish_request(rig.client, item, number, size)))
            note(what="FinishTransaction", item=item, number=number, **_signed(answer))
            last = None


def _signed(answer: Any) -> dict[str, Any]:
    data = answer.signature_data
    return {"counter": data.signature_counter, "signature": data.signature_base64}


def run_kills(name: str, kills: int, seed: int, folder: Path) -> tuple[int, list[str]]:
    """Kill a signing process ``kills`` times; return how many signatures were answered and what failed."""
    draw = random.Random(seed)
    module = family(name)
    with module.mounted_device(folder):
        for _ in range(kills):
            before = _lines(folder)
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.campaigns.devices", name, "--work", str(folder)],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            until = time.monotonic() + 60
            while _lines(folder) <= before + 1 and time.monotonic() < until and worker.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.15))
            os.kill(worker.pid, signal.SIGKILL)
            if worker.wait() != -signal.SIGKILL:
                return 0, [f"the worker ended by itself with {worker.returncode}"]
        journal = {}
        with module.mounted_rig(folder) as rig:
            lines = [line for line in (folder / "journal").read_text().splitlines() if line.endswith("}")]
            entries = [json.loads(line) for line in lines]
            last = entries[-1]
            if last["what"] == "ask start":
                answer = asked_until_answered(rig, _again(start_request(rig.client, last["item"])))
                entries.append(
                    {"what": "StartTransaction", "number": answer.transaction_number, **_signed(answer)}
                )
                entries[-1]["item"] = last["item"]
                last = entries[-1]
            if last["what"] != "FinishTransaction":
                request = finish_request(rig.client, last["item"], last["number"], last.get("size", 1))
                answer = asked_until_answered(rig, _again(request))
                entries.append({"what": "FinishTransaction", "number": last["number"], **_signed(answer)})
            for entry in entries:
                if "counter" in entry:
                    one = Logged(
                        entry["what"], entry["number"], entry["counter"], base64.b64decode(entry["signature"])
                    )
                    journal[one.operation, one.number] = one
            faults = compare(list(journal.values()), rig.log())
            still_open = rig.scu.get_tse_info().current_started_transaction_numbers
            if still_open:
                faults.append(f"still open: {still_open[:5]}")
    return len(journal), faults


def _lines(folder: Path) -> int:
    try:
        return (folder / "journal").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def scratch() -> Path:
    """A folder in memory where there is one: the simulators write much that nobody has to keep."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


@click.command()
@click.argument("name", type=click.Choice(sorted(FAMILIES)))
@click.option("--pairs", default=0, help="Transactions in this process.")
@click.option("--kills", default=0, help="Processes that are killed.")
@click.option("--rate", default=0.1, help="Part of the calls before which a fault is drawn.")
@click.option("--seed", default=1)
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
def main(name: str, pairs: int, kills: int, rate: float, seed: int, work: Path | None) -> None:
    logging.disable(logging.ERROR)
    if work is not None:
        globals()["work"](name, work)
        return
    faults: list[str] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        if pairs:
            place = Path(folder, "pairs")
            place.mkdir()
            struck, found = run_pairs(name, pairs, seed, rate, place)
            faults += found
            print(f"{pairs} pairs, {sum(struck.values())} faults in {time.monotonic() - began:.0f} s")
            print(", ".join(f"{kind} {times}" for kind, times in sorted(struck.items())))
        if kills:
            place = Path(folder, "kills")
            place.mkdir()
            count, found = run_kills(name, kills, seed, place)
            faults += found
            print(f"{kills} kills, {count} signatures in {time.monotonic() - began:.0f} s")
    for fault in faults:
        print(f"FAILED: {fault}")
    print("0 lost, 0 doubled, log of the device = journal" if not faults else "see above")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
