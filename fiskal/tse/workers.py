"""Checking pieces of archives on all cores, in processes of their own.

A worker is a Python that runs :func:`main`: it reads tasks from its standard input and writes results to its standard
output, each with its length in front, until the input ends. So it needs nothing of the program that started it, and
ends with it whatever happens.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from fiskal.errors import FiskalError
from fiskal.tse.checking import Checker, Result, Task

_AHEAD: Final = 2
"""Tasks that a worker may have in hand: one in work, one read."""
_MAX_FRAME: Final = 256 << 20
_PROGRAM: Final = """
import sys, types
package = types.ModuleType("fiskal")
package.__path__ = [sys.argv[1]]
sys.modules["fiskal"] = package
from fiskal.tse.workers import main
main()
"""
"""What a worker runs: without the package's front door, which imports a whole host and takes longer to start than a
worker needs for two thousand signatures."""
_encoder: Final = msgspec.msgpack.Encoder()
_tasks: Final = msgspec.msgpack.Decoder(Task)
_results: Final = msgspec.msgpack.Decoder(Result)


class WorkerError(FiskalError):
    """A worker process died."""

    code = "WORKER"


def _write(out: IO[bytes], data: bytes) -> None:
    out.write(len(data).to_bytes(4, "little"))
    out.write(data)
    out.flush()


def _read(file: IO[bytes]) -> bytes | None:
    length = file.read(4)
    if len(length) < 4:
        return None
    size = int.from_bytes(length, "little")
    if size > _MAX_FRAME:
        return None
    data = file.read(size)
    return data if len(data) == size else None


class _Worker:
    """One process and the thread that waits for its results."""

    def __init__(self, results: queue.SimpleQueue[tuple[_Worker, bytes | None]]) -> None:
        package = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(package)],  # -P: nothing from the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in = self.process.stdin
        self._out = self.process.stdout
        self.in_hand = 0
        self._tasks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._send, daemon=True),
            threading.Thread(target=self._receive, args=(results,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, task: bytes) -> None:
        self.in_hand += 1
        self._tasks.put(task)

    def _send(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (task := self._tasks.get()) is not None:
                _write(self._in, task)
        with contextlib.suppress(OSError, ValueError):
            self._in.close()

    def _receive(self, results: queue.SimpleQueue[tuple[_Worker, bytes | None]]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (data := _read(self._out)) is not None:
                results.put((self, data))
        results.put((self, None))

    def close(self) -> None:
        self._tasks.put(None)
        if self.in_hand:  # nobody waits for the results
            self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        self._out.close()


def check_all(tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Check tasks, with ``workers`` processes beside this one, or in this one if there are less than two.

    Results come in the order in which they are ready. Processes are started when there is a third task, so
    small archives cost none. Raises :class:`WorkerError` if a worker dies.
    """
    checker = Checker()
    coming = iter(tasks)
    if workers > 1 and sys.executable:  # a program that Python is embedded in may have none
        first = list(itertools.islice(coming, 3))
        if len(first) == 3:
            yield from _in_processes(first, coming, workers)
            return
        coming = iter(first)
    for task in coming:
        yield checker.check(task)


def _in_processes(first: list[Task], coming: Iterator[Task], count: int) -> Iterator[Result]:
    results: queue.SimpleQueue[tuple[_Worker, bytes | None]] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        workers = []
        for _ in range(count):
            worker = _Worker(results)
            stack.callback(worker.close)
            workers.append(worker)

        def hand_out(task: Task) -> None:
            min(workers, key=lambda worker: worker.in_hand).put(_encoder.encode(task))

        def collect() -> Result:
            worker, data = results.get()
            if data is None:
                raise WorkerError("A process that checked signatures has died; is the memory exhausted?")
            worker.in_hand -= 1
            return _results.decode(data)

        for task in first:
            hand_out(task)
        for task in coming:
            while all(worker.in_hand >= _AHEAD for worker in workers):
                yield collect()
            hand_out(task)
        while any(worker.in_hand for worker in workers):
            yield collect()


def main() -> None:
    """What a worker process does."""
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program that started it says when to stop
    tasks: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def read_ahead() -> None:
        while (data := _read(source)) is not None:
            tasks.put(data)
        tasks.put(None)

    threading.Thread(target=read_ahead, daemon=True).start()
    checker = Checker()
    with contextlib.suppress(BrokenPipeError):
        while (data := tasks.get()) is not None:
            _write(sink, _encoder.encode(checker.check(_tasks.decode(data))))
