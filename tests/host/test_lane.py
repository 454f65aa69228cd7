"""The threads behind the HTTP routes: every call answered once, whatever ends how."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fiskal.host.http.lane import Lane
from fiskal.queue.line import QueueBusy


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane("test", 4, 1000)
    yield made
    made.close()
    assert not any(thread.name.startswith("fiskal-test") for thread in threading.enumerate())


def test_a_thousand_calls_from_a_few_threads_come_back_each_to_its_own_caller(lane: Lane) -> None:
    used: set[str] = set()

    def double(n: int) -> int:
        used.add(threading.current_thread().name)
        if n % 7 == 0:
            time.sleep(0.0005)
        if n % 10 == 3:
            raise ValueError(n)
        return 2 * n

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(lane.run(double, n) for n in range(1000)), return_exceptions=True)

    for n, answer in enumerate(asyncio.run(all_of_them())):
        assert answer == 2 * n if n % 10 != 3 else answer.args == (n,)
    assert len(used) <= 4


def test_one_caller_after_the_other_needs_one_thread(lane: Lane) -> None:
    async def one_after_the_other() -> set[str]:
        return {(await lane.run(threading.current_thread)).name for _ in range(20)}

    assert asyncio.run(one_after_the_other()) == {"fiskal-test_0"}


def test_a_caller_that_gives_up_stops_nothing_that_has_begun_and_nobody_else(lane: Lane) -> None:
    begun, release, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert release.wait(30)
        done.set()

    async def give_up() -> int:
        call = asyncio.ensure_future(lane.run(work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        return await lane.run(lambda: 5)

    assert asyncio.run(give_up()) == 5
    assert done.wait(30)


def test_a_call_nobody_waits_for_any_more_is_not_begun() -> None:
    lane = Lane("test", 1, 10)
    release, ran = threading.Event(), []

    async def give_up() -> None:
        first = asyncio.ensure_future(lane.run(release.wait, 30))
        second = asyncio.ensure_future(lane.run(ran.append, 2))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        release.set()
        assert await first
        assert await lane.run(lambda: True)

    asyncio.run(give_up())
    lane.close()
    assert ran == []


def test_closing_waits_for_what_has_begun_and_forgets_the_rest() -> None:
    lane = Lane("test", 1, 10)
    begun, release, ran = threading.Event(), threading.Event(), []

    def first() -> str:
        begun.set()
        assert release.wait(30)
        return "done"

    async def close() -> None:
        calls = [asyncio.ensure_future(lane.run(first)), asyncio.ensure_future(lane.run(ran.append, 2))]
        while not begun.is_set():
            await asyncio.sleep(0.001)
        threading.Timer(0.05, release.set).start()
        await asyncio.to_thread(lane.close)
        assert await calls[0] == "done"
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        with pytest.raises(QueueBusy):
            await lane.run(ran.append, 3)

    asyncio.run(close())
    assert ran == []


def test_what_is_no_ordinary_error_becomes_one_and_the_thread_lives_on(lane: Lane) -> None:
    def end(error: BaseException) -> None:
        raise error

    async def call(error: BaseException) -> None:
        await lane.run(end, error)

    for error in (StopIteration(), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(RuntimeError, match="a call ended with"):
            asyncio.run(call(error))
    assert asyncio.run(lane.run(lambda: 1)) == 1


def test_more_than_may_wait_are_refused(lane: Lane) -> None:
    small, release = Lane("test", 1, 2), threading.Event()

    async def fill() -> None:
        calls = [asyncio.ensure_future(small.run(release.wait, 30)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueBusy):
            await small.run(release.wait)
        release.set()
        assert await asyncio.gather(*calls) == [True, True]
        assert await small.run(lambda: 7) == 7

    asyncio.run(fill())
    small.close()
