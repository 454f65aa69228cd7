"""What it costs to let another receipt go on: fibers beside threads.

python -m pytest bench/test_fibers.py --benchmark-only --benchmark-enable
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from typing import Any

from fiskal.fibers import Gate, Hub, new_gate

TURNS = 1000


def test_two_fibers_take_turns(benchmark: Any) -> None:
    """A round is 1000 turns of each: open the other's gate, wait at the own one."""
    hub = Hub(lambda: None)

    def take_turns() -> None:
        gates: list[Gate] = []

        def turn(own: int) -> None:
            gates.append(new_gate())
            gates[own].acquire()
            for _ in range(TURNS):
                gates[1 - own].release()
                gates[own].acquire(timeout=-1)
            gates[1 - own].release()

        for own in (0, 1):
            hub.call(lambda own=own: turn(own), lambda *_: None)  # type: ignore[misc]
        hub.run()
        gates[0].release()
        hub.run()
        assert hub.pending == 0

    benchmark(take_turns)


def test_two_threads_take_turns(benchmark: Any) -> None:
    """The baseline: the same with locks and threads."""

    def take_turns() -> None:
        gates = [allocate_lock(), allocate_lock()]
        gates[0].acquire()
        gates[1].acquire()

        def turn(own: int) -> None:
            gates[own].acquire()
            for _ in range(TURNS):
                gates[1 - own].release()
                gates[own].acquire()
            gates[1 - own].release()

        threads = [threading.Thread(target=turn, args=(own,)) for own in (0, 1)]
        for thread in threads:
            thread.start()
        gates[0].release()
        for thread in threads:
            thread.join()

    benchmark(take_turns)


def test_a_short_call_in_a_fiber(benchmark: Any) -> None:
    """One call that waits for nothing."""
    hub = Hub(lambda: None)

    def call() -> None:
        hub.call(int, lambda *_: None)
        hub.run()

    benchmark(call)
