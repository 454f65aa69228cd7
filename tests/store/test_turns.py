"""Turns: one thread at a time has the turn, everybody gets it, and a failing commit loses none."""

from __future__ import annotations

import threading
import time

import pytest
from rows import accepted, change, completed, item, run_threads

from fiskal.errors import StoreError
from fiskal.fairlock import Turn
from fiskal.store import NullStore, SqliteStore


class Holders:
    """Counts who is in the turn; more than one at a time is what must not be."""

    def __init__(self) -> None:
        self._count = 0
        self.most = 0
        self.entries = 0

    def visit(self) -> None:
        """Gives every other thread the chance to come in too."""
        self._count += 1
        self.entries += 1
        self.most = max(self.most, self._count)
        time.sleep(0)
        self._count -= 1


def test_commits_of_many_threads_take_turns(store: SqliteStore) -> None:
    turn, holders = Turn(), Holders()

    def sell(number: int) -> None:
        for row in range(1, 31):
            store.commit(accepted(number, row), turn, in_turn=False)
            holders.visit()
            store.commit(completed(number, row), turn)
            holders.visit()
            turn.leave()

    assert run_threads(sell, 16) == []
    assert holders.most == 1
    assert holders.entries == 16 * 30 * 2
    assert [row.ftCurrentRow for row in store.queues()] == [30] * 16
    with turn:  # free again
        pass


def test_a_commit_that_fails_comes_back_with_the_turn(store: SqliteStore) -> None:
    turn, holders = Turn(), Holders()

    def sell(number: int) -> None:
        bad = number % 3 == 0
        for row in range(1, 11):
            if bad:
                with pytest.raises(StoreError):
                    store.commit(change(items=[item(number, row, request=None)]), turn, in_turn=False)
            else:
                store.commit(accepted(number, row), turn, in_turn=False)
            holders.visit()
            turn.leave()

    assert run_threads(sell, 12) == []
    assert holders.most == 1
    with turn:
        pass


def test_null_store_takes_the_turn_too() -> None:
    turn = Turn()
    NullStore().commit(change(), turn, in_turn=False)
    taken = threading.Event()

    def wait() -> None:
        with turn:
            taken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not taken.wait(0.05)
    turn.leave()
    waiter.join(10)
    assert taken.is_set()


def test_who_gives_up_waiting_passes_the_turn_on() -> None:
    turn = Turn()
    gate = threading.Lock()
    gate.acquire()
    turn.grant([gate])  # nobody has the turn: it is given at once
    assert gate.acquire(timeout=1)
    other = threading.Lock()
    other.acquire()
    turn.grant([other])
    assert not other.acquire(timeout=0.01)
    turn.abandon(other)  # leaves the line
    turn.leave()
    with turn:
        pass
    late = threading.Lock()
    late.acquire()
    turn.grant([late])
    turn.abandon(late)  # was given the turn already and hands it back
    with turn:
        pass


@pytest.mark.parametrize("waiting", [1, 5])
def test_waiters_come_in_order(waiting: int) -> None:
    turn = Turn()
    order: list[int] = []
    threads = []

    def enter(number: int) -> None:
        with turn:
            order.append(number)

    with turn:
        for number in range(waiting):
            thread = threading.Thread(target=enter, args=(number,))
            thread.start()
            while len(turn._waiting) <= number:
                pass
            threads.append(thread)
    for thread in threads:
        thread.join(10)
    assert order == list(range(waiting))
