"""Memory and time of reading journals of many rows.

    python -m bench.journals [--rows 1000000]

Signs one sale, stores copies of its rows until there are so many, and reads each journal in a process of its own
that prints how much memory it needed beyond what it had before the first row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import fiskal
from bench.memory import resident_mb
from bench.shop import basket
from fiskal.export import dsfinvk
from fiskal.germany.codes import JournalType
from fiskal.host import config as configs
from fiskal.host.middleware import Middleware
from fiskal.store import Change

ROWS_OF_A_COMMIT = 1_000

DSFINVK = "dsfinvk"
JOURNALS = {
    "queueitems": JournalType.QUEUE_ITEMS,
    "receipt": JournalType.RECEIPT_JOURNAL,
    "action": JournalType.ACTION_JOURNAL,
}


def multiply(middleware: Middleware, rows: int, progress: bool = False) -> None:
    """Store copies of the last item of the only queue, its answer and the last action until there are ``rows``.

    Their hashes hold no more, but the journals do not look at them.
    """
    store = middleware.store
    (queue,) = store.queues()
    *_, stored = store.iter_items_by_row(queue.queue_no)
    *_, action = store.iter_actions(queue.ftQueueId)
    item, answer = stored
    assert answer is not None
    assert answer.receipt is not None
    first = queue.ftQueuedRow
    member = '"ftReceiptIdentification":"'
    head, rest = answer.response.split(member)
    tail = rest.split('"', 1)[1]
    for begin in range(first + 1, rows + 1, ROWS_OF_A_COMMIT):
        change = Change()
        for row in range(begin, min(begin + ROWS_OF_A_COMMIT, rows + 1)):
            stamp = answer.TimeStamp + row
            receipt = answer.receipt._replace(ftReceiptNumber=row, ftReceiptJournalId=_guid())
            change.items.append(item._replace(ftQueueRow=row, ftQueueItemId=_guid(), TimeStamp=stamp))
            response = f'{head}{member}ft{row - 1:X}#IT{row}"{tail}'
            change.answers.append(
                answer._replace(ftQueueRow=row, TimeStamp=stamp, receipt=receipt, response=response)
            )
            change.actions.append(action._replace(ftActionJournalId=_guid(), TimeStamp=stamp))
            last = row
        change.queues.append(queue._replace(ftCurrentRow=last, ftQueuedRow=last, ftReceiptNumerator=last))
        store.commit(change)
        if progress and last % 100_000 < ROWS_OF_A_COMMIT:
            print(f"{last:9} rows stored", flush=True)


def _guid() -> str:
    return str(uuid.uuid4())


def read(folder: str, name: str) -> None:
    """Read one journal and print what it took."""
    with fiskal.open(folder) as middleware:
        stream = middleware.journal(JOURNALS[name], max_chunk_size=64 * 1024)
        size = len(next(stream))
        before = most = resident_mb()
        start = time.perf_counter()
        for number, chunk in enumerate(stream):
            size += len(chunk)
            if not number % 100:
                most = max(most, resident_mb())
        seconds = time.perf_counter() - start
    print(
        f"{name:10} {size / 1e6:8.1f} MB in {seconds:6.1f} s; memory {before:.1f} MB after the first chunk,"
        f" {max(most, resident_mb()):.1f} MB at most"
    )


def export(folder: str) -> None:
    """Write the DSFinV-K export, check it, and print what both took."""
    out = Path(folder) / "dsfinvk.zip"
    with fiskal.open(folder) as middleware, out.open("wb") as file:
        before = resident_mb()
        start = time.perf_counter()
        file.writelines(middleware.journal(JournalType.DE_DSFINVK, max_chunk_size=1 << 20))
        seconds = time.perf_counter() - start
    written = most_resident_mb()
    start = time.perf_counter()
    report = dsfinvk.check(out, signatures=False)
    print(
        f"{DSFINVK:10} {out.stat().st_size / 1e6:8.1f} MB in {seconds:6.1f} s; memory {before:.1f} MB before,"
        f" {written:.1f} MB at most; {report.counts['rows']} rows checked without signatures in"
        f" {time.perf_counter() - start:.1f} s, {most_resident_mb():.1f} MB at most"
    )


def most_resident_mb() -> float:
    """The high-water mark of this process alone; ru_maxrss begins with that of the one that started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM: this needs Linux")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--read", nargs=2, metavar=("DATA", "JOURNAL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        folder, name = arguments.read
        if name == DSFINVK:
            export(folder)
        else:
            read(folder, name)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        configs.save(Path(folder), configs.new_config())
        with fiskal.open(folder) as middleware:
            cash_box_id = middleware.config.cash_box_id
            middleware.sign_json(basket(cash_box_id, 0, case=0x03))
            middleware.sign_json(basket(cash_box_id, 0, case=0x02))
            middleware.sign_json(basket(cash_box_id, 2))
            multiply(middleware, arguments.rows, progress=True)
        with fiskal.open(folder) as middleware:  # the queue learns of the rows that were put beside it
            middleware.sign_json(basket(cash_box_id, 0, case=0x07))
        for name in (*JOURNALS, DSFINVK):
            command = [sys.executable, "-m", "bench.journals", "--read", folder, name]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
