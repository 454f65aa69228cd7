"""Who comes next at a TSE: the earliest deadline, fairly, and never two at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.scu.contract import Deadline
from fiskal.scu.errors import Unreachable
from fiskal.scu.scheduler import BACKGROUND_LIMIT_S, CLIENT_STEP_S, Scheduler, Urgency

NEVER = threading.TIMEOUT_MAX


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Job(NamedTuple):
    name: str
    urgency: Urgency
    client_id: str = ""
    at: float = 0.0


def served(jobs: list[Job], *, leave_at: float = 0.0) -> list[str]:
    """The order in which jobs get the TSE that came while it was in use; ``at`` in seconds after the first."""
    clock, order = Clock(), []
    scheduler = Scheduler(clock=clock)
    scheduler.enter("first", Urgency.FINISH, "first", None, NEVER)
    threads = []
    for job in jobs:
        clock.now = 1000.0 + job.at

        def work(job: Job = job) -> None:
            scheduler.enter(job.name, job.urgency, job.client_id or job.name, None, NEVER)
            order.append(job.name)
            scheduler.leave()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        wait_until(lambda: scheduler.waiting == len(threads))
    clock.now = 1000.0 + max(leave_at, clock.now - 1000.0)
    scheduler.leave()
    for thread in threads:
        thread.join()
    assert scheduler.idle
    return order


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.0005)


FINISH, START, INFO, BACKGROUND = Urgency


def test_a_finish_overtakes_starts_and_these_information() -> None:
    jobs = [Job("chunk", BACKGROUND), Job("info", INFO), Job("start", START), Job("finish", FINISH)]
    assert served(jobs) == ["finish", "start", "info", "chunk"]


def test_a_start_that_waits_its_second_is_no_longer_overtaken() -> None:
    jobs = [Job("start", START), Job("early finish", FINISH, at=0.9), Job("late finish", FINISH, at=1.1)]
    assert served(jobs) == ["early finish", "start", "late finish"]


def test_equal_urgency_is_served_in_the_order_of_arrival() -> None:
    jobs = [Job(str(n), START, at=n / 100) for n in range(8)]
    assert served(jobs) == [str(n) for n in range(8)]


def test_background_waits_for_everybody_but_not_for_ever() -> None:
    late = BACKGROUND_LIMIT_S + 1
    jobs = [Job("chunk", BACKGROUND), Job("finish", FINISH, at=late)]
    assert served(jobs, leave_at=late) == ["chunk", "finish"]
    jobs = [Job("chunk", BACKGROUND), Job("info", INFO, at=BACKGROUND_LIMIT_S - 1)]
    assert served(jobs) == ["info", "chunk"]


def test_a_client_that_sends_many_calls_does_not_crowd_out_another() -> None:
    jobs = [Job(f"greedy {n}", START, "greedy", at=n / 1000) for n in range(5)]
    jobs.append(Job("modest", START, "modest", at=CLIENT_STEP_S * 1.5))
    assert served(jobs) == ["greedy 0", "greedy 1", "modest", "greedy 2", "greedy 3", "greedy 4"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Urgency)), st.integers(0, 2), st.integers(0, 4000)), max_size=9),
    st.integers(0, 40_000),
)
def test_the_order_is_that_of_a_slow_model(calls: list[tuple[Urgency, int, int]], leave_ms: int) -> None:
    calls.sort(key=lambda call: call[2])
    jobs = [Job(str(n), urgency, f"client {who}", ms / 1000) for n, (urgency, who, ms) in enumerate(calls)]
    leave_at = max(leave_ms / 1000, jobs[-1].at if jobs else 0.0)
    waiting = [
        (
            job.at + job.urgency.value + CLIENT_STEP_S * sum(o.client_id == job.client_id for o in jobs[:n]),
            job.urgency is BACKGROUND,
            job.name,
        )
        for n, job in enumerate(jobs)
    ]
    expected = []
    while waiting:
        due = [entry for entry in waiting if not entry[1] or entry[0] <= leave_at] or waiting
        first = min(due, key=lambda entry: (round(entry[0], 9), not entry[1]))
        expected.append(first[2])
        waiting.remove(first)
    assert served(jobs, leave_at=leave_at) == expected


def test_one_at_a_time_and_nobody_is_lost() -> None:
    scheduler = Scheduler()
    inside = most = done = 0

    def work(number: int) -> None:
        nonlocal inside, most, done
        for n in range(50):
            scheduler.enter("op", list(Urgency)[(number + n) % 3], f"client {number % 4}", None, NEVER)
            inside += 1
            most = max(most, inside)
            time.sleep(0)
            done += 1
            inside -= 1
            scheduler.leave()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (1, 600)
    assert (scheduler.idle, scheduler.waiting) == (True, 0)
    assert scheduler.snapshot()["op"].wait.count == scheduler.snapshot()["op"].service.count == 600


def test_the_owner_may_enter_again_and_keeps_the_tse_until_it_left_as_often() -> None:
    clock = Clock()
    scheduler = Scheduler(clock=clock)
    others: list[str] = []

    def other() -> None:
        scheduler.enter("other", FINISH, "other", None, NEVER)
        others.append("in")
        scheduler.leave()

    scheduler.enter("receipt", FINISH, "A", None, NEVER)
    thread = threading.Thread(target=other)
    thread.start()
    wait_until(lambda: scheduler.waiting == 1)
    for operation in ("start", "finish"):
        scheduler.enter(operation, START, "A", None, NEVER)
        clock.now += 0.25
        scheduler.leave()
        assert others == []
    scheduler.leave()
    thread.join()
    assert others == ["in"]
    timings = scheduler.snapshot()
    assert timings["start"].service.max == pytest.approx(0.25, rel=0.01)
    assert timings["receipt"].service.max == pytest.approx(0.5, rel=0.01)
    assert timings["other"].wait.max == pytest.approx(0.5, rel=0.01)
    assert (timings["start"].wait.count, timings["receipt"].wait.count) == (0, 1)
    assert scheduler.utilisation == 1.0
    clock.now += 0.5
    assert scheduler.utilisation == pytest.approx(0.5)


def test_who_gives_up_leaves_the_line() -> None:
    scheduler = Scheduler()
    errors: list[Unreachable] = []

    def impatient() -> None:
        with pytest.raises(Unreachable) as caught:
            scheduler.enter("op", FINISH, "B", Deadline(0.01), NEVER)
        errors.append(caught.value)

    scheduler.enter("op", FINISH, "A", None, NEVER)
    threads = [threading.Thread(target=impatient) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error.code for error in errors] == ["BUSY"] * 3
    assert scheduler.waiting == 0
    scheduler.leave()
    assert scheduler.idle
    scheduler.enter("op", FINISH, "B", None, NEVER)
    scheduler.leave()


def test_the_line_is_bounded() -> None:
    scheduler = Scheduler(max_waiting=2)
    scheduler.enter("op", FINISH, "A", None, NEVER)

    def queue_up() -> None:
        scheduler.enter("op", START, "B", None, NEVER)
        scheduler.leave()

    threads = [threading.Thread(target=queue_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: scheduler.waiting == 2)
    refused: list[str] = []

    def one_too_many() -> None:
        try:
            scheduler.enter("op", FINISH, "C", None, NEVER)
        except Unreachable as error:
            refused.append(str(error))

    last = threading.Thread(target=one_too_many)
    last.start()
    last.join()
    assert refused == ["2 calls wait for the TSE already."]
    scheduler.leave()
    for thread in threads:
        thread.join()
    assert scheduler.idle


def test_giving_up_and_being_served_at_once_loses_no_turn() -> None:
    """Many waits end just when the TSE becomes free."""
    scheduler = Scheduler()
    served_count = 0

    def impatient(number: int) -> None:
        nonlocal served_count
        for n in range(150):
            try:
                scheduler.enter("op", START, str(number), Deadline(0.0005 * (n % 4)), NEVER)
            except Unreachable:
                continue
            time.sleep(0.0003)
            served_count += 1
            scheduler.leave()

    threads = [threading.Thread(target=impatient, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served_count > 0
    assert (scheduler.idle, scheduler.waiting) == (True, 0)


def test_who_only_enters_an_idle_tse_never_waits() -> None:
    scheduler = Scheduler()
    assert scheduler.enter_if_idle("probe")
    assert not scheduler.enter_if_idle("probe")
    scheduler.leave()
    assert scheduler.idle
    assert scheduler.snapshot()["probe"].wait.count == 1
