"""What a DSFinV-K export takes of memory, or its check: to be run in a process of its own.

    python -m tests.support.dsfinvk_memory export FOLDER

Prints the most memory that the step took, in bytes. A process that has lived for a while does not tell: CPython keeps
up to 2000 freed tuples of every length until its next full collection, and they count if they were made meanwhile, not
if they were there before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import fiskal
from fiskal.export import dsfinvk
from fiskal.host import config as configs
from fiskal.store import SqliteStore

EXPORT = "out.zip"


def peak_of(step: str, folder: Path) -> int:
    """The bytes that ``step`` (export or check) of the journal in ``folder`` takes at most.

    Raises CalledProcessError.
    """
    root = Path(fiskal.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", __name__, step, str(folder)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return int(done.stdout)


def main(step: str, folder: Path) -> None:
    if step == "export":
        with SqliteStore(folder / configs.STORE_NAME) as store, (folder / EXPORT).open("wb") as file:
            (row,) = store.queues()
            tracemalloc.start()
            dsfinvk.export(store, row, file)
            print(tracemalloc.get_traced_memory()[1])
    else:
        tracemalloc.start()
        dsfinvk.check(folder / EXPORT, signatures=False)
        print(tracemalloc.get_traced_memory()[1])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
