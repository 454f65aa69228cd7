"""Calls that share a thread: each waits for itself alone, and none is forgotten."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal import fibers
from fiskal.fairlock import FairLock
from fiskal.fibers import Gate, Hub, in_fiber, let_others_go_first, new_gate, wait_for


class Ended(list[Any]):
    """What calls ended with, in the order they did."""

    def __call__(self, result: Any, error: BaseException | None) -> None:
        self.append(result if error is None else error)


def hub() -> Hub:
    return Hub(lambda: None)


def test_a_gate_of_a_thread_is_a_lock() -> None:
    gate = new_gate()
    assert not in_fiber()
    assert not gate.acquire(timeout=0)
    gate.release()
    assert gate.acquire()
    gate.release()
    with pytest.raises(RuntimeError):
        gate.release()


def test_what_waits_lets_the_others_go_on() -> None:
    made, log = hub(), []
    gates: dict[str, Gate] = {}
    ended = Ended()

    def call(name: str) -> str:
        assert in_fiber()
        gates[name] = new_gate()
        log.append(f"{name} waits")
        gates[name].acquire()
        log.append(f"{name} goes on")
        return name

    for name in "abc":
        made.call(lambda name=name: call(name), ended)
    assert made.run() is None
    assert log == ["a waits", "b waits", "c waits"]
    assert made.pending == 3
    gates["b"].release()
    gates["a"].release()
    made.run()
    assert log[3:] == ["b goes on", "a goes on"]
    gates["c"].release()
    made.run()
    assert (ended, made.pending) == (["b", "a", "c"], 0)


def test_who_lets_others_go_first_goes_on_when_they_wait() -> None:
    made, log, ended = hub(), [], Ended()

    def polite() -> None:
        log.append("polite")
        let_others_go_first()
        log.append("polite at last")

    made.call(polite, ended)
    made.call(lambda: made.call(lambda: log.append("late comer"), ended), ended)
    made.run()
    assert log == ["polite", "late comer", "polite at last"]
    let_others_go_first()  # outside of a fiber nothing happens


def test_a_gate_that_is_open_holds_up_nobody() -> None:
    made, ended = hub(), Ended()

    def call() -> list[bool]:
        gate = new_gate()
        gate.release()
        with pytest.raises(RuntimeError):
            gate.release()
        first = gate.acquire()
        again = gate.acquire(blocking=False)
        # The message of the first opening is still on its way; it must not open the gate once more.
        return [first, again, gate.acquire(timeout=0.01)]

    made.call(call, ended)
    while made.pending or not ended:
        time.sleep(made.run() or 0)
    assert ended == [[True, False, False]]


def test_a_fiber_waits_no_longer_than_it_wants_to() -> None:
    made, ended = hub(), Ended()
    gates: list[Gate] = []

    def call(seconds: float) -> tuple[float, bool]:
        gate = new_gate()
        gates.append(gate)
        return seconds, gate.acquire(timeout=seconds)

    for seconds in (0.05, 0.0, 0.02, 60.0):
        made.call(lambda seconds=seconds: call(seconds), ended)
    rest = made.run()
    while len(ended) < 3:
        assert rest is not None
        time.sleep(rest)
        rest = made.run()
    assert ended == [(0.0, False), (0.02, False), (0.05, False)]
    assert rest is not None
    assert 50 < rest <= 60
    gates[3].release()
    made.run()
    assert ended[3] == (60.0, True)


def test_an_error_ends_its_own_call_only() -> None:
    made, ended = hub(), Ended()

    def fail() -> None:
        let_others_go_first()
        raise ValueError("no")

    made.call(fail, ended)
    made.call(lambda: "yes", ended)
    made.call(lambda: {}[0], ended)
    made.run()
    assert ended[0] == "yes"
    assert {type(error) for error in ended[1:]} == {KeyError, ValueError}
    assert made.pending == 0


def test_fibers_are_used_again_and_keep_nothing_alive() -> None:
    class Thing:
        pass

    made, ended, thing = hub(), Ended(), Thing()
    gone = weakref.ref(thing)
    made.call(lambda thing=thing: thing, lambda *_: None)
    made.run()
    del thing
    gc.collect()
    assert gone() is None
    for number in range(1000):
        made.call(lambda number=number: number, ended)
        made.run()
    assert ended == list(range(1000))
    assert len(made.resting) == 1


def test_waiting_for_a_future_holds_up_one_fiber() -> None:
    made, ended = hub(), Ended()
    future: Future[int] = Future()

    def call() -> int:
        wait_for(future)
        return future.result()

    made.call(call, ended)
    made.call(lambda: "other", ended)
    made.run()
    assert ended == ["other"]
    future.set_result(7)
    made.run()
    assert ended == ["other", 7]
    wait_for(future)  # in a thread


def test_a_fair_lock_serves_threads_and_fibers_in_the_order_they_came() -> None:
    made, ended, log = hub(), Ended(), []
    lock = FairLock(100)
    lock.__enter__()

    def enter(name: str) -> None:
        with lock:
            log.append(name)

    made.call(lambda: enter("fiber 1"), ended)
    made.run()
    thread = threading.Thread(target=enter, args=("thread",))
    thread.start()
    while len(lock._waiting) < 2:
        time.sleep(0.001)
    made.call(lambda: enter("fiber 2"), ended)
    made.run()
    lock.leave()
    while made.pending:
        made.run()
    thread.join()
    assert log == ["fiber 1", "thread", "fiber 2"]


class Bell:
    """A thread that runs a hub when it is rung, as long as calls come."""

    def __init__(self) -> None:
        self.rung = threading.Event()
        self.hub = Hub(self.rung.set)
        self.stop = False
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        while not self.stop:
            rest = self.hub.run()
            self.rung.wait(rest)
            self.rung.clear()

    def close(self) -> None:
        self.stop = True
        self.rung.set()
        self.thread.join()


def test_no_opening_from_another_thread_is_lost() -> None:
    """Gates are opened at every moment of the waiting; a lost one would hang here."""
    bell = Bell()
    waiting: deque[Gate] = deque()
    done = threading.Semaphore(0)

    def call() -> None:
        for _ in range(50):
            gate = new_gate()
            waiting.append(gate)
            gate.acquire()

    def opener() -> None:
        chance = random.Random(1)
        while not bell.stop:
            try:
                waiting.popleft().release()
            except IndexError:
                time.sleep(chance.random() * 1e-4)

    openers = [threading.Thread(target=opener, daemon=True) for _ in range(3)]
    for thread in openers:
        thread.start()
    for _ in range(100):
        bell.hub.call(call, lambda *_: done.release())
    for _ in range(100):
        assert done.acquire(timeout=60)
    bell.close()
    for thread in openers:
        thread.join()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_order_of_opening_ends_every_call_once(data: st.DataObject) -> None:
    """Against the obvious model: a call goes on when the gate it waits at was opened, and no sooner."""
    made, ended = hub(), Ended()
    at: dict[int, Gate] = {}
    left = {number: data.draw(st.integers(0, 4)) for number in range(data.draw(st.integers(1, 6)))}

    def call(number: int, steps: int) -> int:
        for _ in range(steps):
            if (number + steps) % 3 == 0:
                let_others_go_first()
            at[number] = new_gate()
            at[number].acquire()
        return number

    for number, steps in left.items():
        made.call(lambda number=number, steps=steps: call(number, steps), ended)
    expected = [number for number, steps in left.items() if steps == 0]
    made.run()
    assert sorted(ended) == expected
    while waiting := [number for number, steps in left.items() if steps]:
        opened = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        for number in opened:
            at[number].release()
            left[number] -= 1
        made.run()
        expected += [number for number in opened if not left[number]]
        assert sorted(ended) == sorted(expected)
        assert made.pending == len([steps for steps in left.values() if steps])


def test_may_block_is_a_plain_call_outside() -> None:
    made, ended = hub(), Ended()
    add: Callable[[int, int], int] = lambda a, b: a + b  # noqa: E731
    assert fibers.may_block(add, 1, 2) == 3
    made.call(lambda: fibers.may_block(add, 3, 4), ended)
    made.run()
    assert ended == [7]
