"""Receipts of many callers in one thread: signed as they would be alone, and none lost or left waiting."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from fiskal.errors import StoreError
from fiskal.export.verify import verify_journal
from fiskal.fairlock import QueueBusy
from fiskal.fibers import in_fiber, let_others_go_first, may_block, new_gate
from fiskal.host import config as configs
from fiskal.host import loop_crew as loop_crews
from fiskal.host.config import QueueConfig, ScuConfig
from fiskal.host.crew import Crew
from fiskal.host.http import create_app
from fiskal.host.loop_crew import LoopCrew
from fiskal.queue.queue import Queue
from fiskal.queue.settings import QueueSettings
from fiskal.scu.errors import Unreachable
from tests.support.disk import refuse_to_confirm
from tests.support.shop import DE, IMPLICIT, Shop

QUEUES = 4


def four_queues(config: configs.HostConfig) -> None:
    config.scus.append(ScuConfig(id="99999999-0000-4000-8000-000000000002"))
    for number in range(1, QUEUES):
        config.queues.append(
            QueueConfig(
                id=f"99999999-0000-4000-8000-0000000001{number:02}",
                client_id=f"POS-{number + 1}",
                scu_id=config.scus[number % 2].id,
            )
        )


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, prepare=four_queues)
    for queue in made.config.queues[1:]:
        made.queue_id = queue.id
        made.send(0x03)
    made.queue_id = made.config.queues[0].id
    yield made
    made.close()


class Watched:
    """Where the receipts of all queues were worked at: True for in a fiber."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fibers: list[bool] = []
        self.threads: set[int] = set()
        process = Queue._process

        def watch(queue: Queue, *args: Any, **options: Any) -> bytes:
            self.fibers.append(in_fiber())
            self.threads.add(threading.get_ident())
            return process(queue, *args, **options)

        monkeypatch.setattr(Queue, "_process", watch)


def body_of(shop: Shop, queue: int, reference: str, case: int = 0x01, **members: Any) -> bytes:
    shop.queue_id = shop.config.queues[queue].id
    items = [{"Quantity": 1, "Description": "Ware", "Amount": 7.5, "VATRate": 19, "ftChargeItemCase": DE | 1}]
    pays = [{"Quantity": 1, "Description": "Bar", "Amount": 7.5, "ftPayItemCase": DE | 1}]
    request = shop.request(case, reference, cbChargeItems=items, cbPayItems=pays, **members)
    return json.dumps(request).encode()


def special(shop: Shop, queue: int, case: int, reference: str) -> bytes:
    shop.queue_id = shop.config.queues[queue].id
    return json.dumps(shop.request(case, reference)).encode()


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """What the calls return or raise, made in as many threads at the same time."""
    start = threading.Barrier(len(calls))

    def make(call: Callable[[], Any]) -> Any:
        start.wait(30)
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


def check(shop: Shop) -> None:
    for queue in shop.config.queues:
        row = shop.middleware.store.queue(queue.id)
        assert row is not None
        report = verify_journal(shop.middleware.store, row)
        assert report.ok, report


def test_many_threads_sell_and_every_chain_holds(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    bodies = [[body_of(shop, n % QUEUES, f"{n}-{k}") for k in range(25)] for n in range(16)]

    def sell(own: list[bytes]) -> list[Any]:
        return [json.loads(shop.middleware.sign_json(body)) for body in own]

    answers = together([lambda own=own: sell(own) for own in bodies])
    for n, own in enumerate(answers):
        assert [answer["cbReceiptReference"] for answer in own] == [f"{n}-{k}" for k in range(25)]
        rows = [answer["ftQueueRow"] for answer in own]
        assert rows == sorted(rows)
        assert {answer["ftState"] for answer in own} == {DE}
    everything = [answer for own in answers for answer in own]
    assert len({(a["ftQueueID"], a["ftReceiptIdentification"]) for a in everything}) == 400
    assert any(watched.fibers)
    check(shop)


def test_a_single_caller_signs_in_its_own_thread(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    for n in range(5):
        shop.middleware.sign_json(body_of(shop, 0, f"S-{n}"))
    assert watched.fibers == [False] * 5
    assert watched.threads == {threading.get_ident()}
    assert not [thread for thread in threading.enumerate() if thread.name == "fiskal-sign"]


def test_what_takes_long_is_done_in_the_thread_of_its_caller(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    bodies = [special(shop, n, case, f"Z-{n}") for n, case in enumerate((0x02, 0x07, 0x05, 0x02))]
    for answer in together([lambda body=body: shop.middleware.sign_json(body) for body in bodies]):
        assert json.loads(answer)["ftState"] & 0x2 == 0
    assert not any(watched.fibers)
    check(shop)


@pytest.mark.parametrize(
    ("what", "short"),
    [
        ("sale", True),
        ("explicit start", True),
        ("order", True),
        ("zero receipt", False),
        ("daily closing", False),
        ("receipt request", False),
        ("late signing", False),
        ("handwritten", False),
        ("new host", False),
        ("failed mode", False),
        ("something in line", False),
        ("duplicate window", False),
        ("TSE that waits", False),
    ],
)
def test_what_is_short(tmp_path: Path, what: str, short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = QueueSettings(duplicate_window_s=60) if what == "duplicate window" else None
    shop = Shop(tmp_path, settings=settings)
    if what != "new host":
        shop.sale("before")
    else:
        shop.reopen()
    case = {
        "explicit start": 0x08,
        "order": IMPLICIT | 0x10,
        "zero receipt": 0x02,
        "daily closing": 0x07,
        "receipt request": 0x8000_0000_0001,
        "late signing": 0x1_0001,
        "handwritten": 0x8_0001,
    }.get(what, 0x01)
    release = threading.Event()
    if what == "failed mode":
        shop.tse.fail_before("start_transaction", Unreachable("TSE_NOT_AVAILABLE", "gone"))
        shop.sale("failed")
    elif what == "something in line":
        process = Queue._process

        def wait(queue: Queue, *args: Any, **options: Any) -> bytes:
            assert release.wait(30)
            return process(queue, *args, **options)

        monkeypatch.setattr(Queue, "_process", wait)
        shop.middleware.sign_later_json(body_of(shop, 0, "later"))
    elif what == "TSE that waits":
        shop.middleware._bindings[shop.scu_id].computes_only = False
    text, _ = shop.middleware.begin(body_of(shop, 0, "R", case))
    assert (text is not None) is short
    release.set()
    shop.close()


def test_a_tse_that_fails_under_many_callers_loses_no_receipt(shop: Shop) -> None:
    for n in range(QUEUES):
        shop.middleware.sign_json(body_of(shop, n, f"before-{n}"))
    for tse in shop.tses.values():
        tse.ignore("finish_transaction", 10)
        tse.fail_before("finish_transaction", Unreachable("TSE_NOT_AVAILABLE", "gone"))
    bodies = [[body_of(shop, n % QUEUES, f"{n}-{k}") for k in range(10)] for n in range(8)]
    answers = together([lambda own=own: [shop.middleware.sign_json(body) for body in own] for own in bodies])
    states = [json.loads(text)["ftState"] for own in answers for text in own]
    assert set(states) == {DE, DE | 0x2}
    check(shop)


def test_a_disk_that_fails_under_many_callers_is_said_to_each_and_then_forgotten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [[body_of(shop, n % QUEUES, f"{n}-{k}") for k in range(3)] for n in range(8)]
    for n in range(QUEUES):
        shop.middleware.sign_json(body_of(shop, n, f"before-{n}"))
    with monkeypatch.context() as patch:
        refuse_to_confirm(patch)
        failed = together([lambda own=own: shop.middleware.sign_json(own[0]) for own in bodies])
    assert {type(error) for error in failed} == {StoreError}
    answers = together(
        [lambda own=own: [shop.middleware.sign_json(body) for body in own[1:]] for own in bodies]
    )
    assert all(json.loads(text)["ftState"] == DE for own in answers for text in own)
    check(shop)


def test_starts_in_line_and_their_finishes_keep_their_order(shop: Shop) -> None:
    for n in range(QUEUES):
        shop.middleware.sign_json(body_of(shop, n, f"before-{n}"))

    def serve(n: int) -> list[dict[str, Any]]:
        answers = []
        for k in range(5):
            reference = f"{n}-{k}"
            start = shop.middleware.sign_later_json(starts[n, k])
            answers.append(json.loads(shop.middleware.sign_json(finishes[n, k])))
            assert json.loads(start.result() or b"{}")["cbReceiptReference"] == reference
        return answers

    each = [(n, k) for n in range(8) for k in range(5)]
    starts = {(n, k): special(shop, n % QUEUES, 0x08, f"{n}-{k}") for n, k in each}
    finishes = {(n, k): body_of(shop, n % QUEUES, f"{n}-{k}", flow="explicit", case=0x01) for n, k in each}
    for key, body in finishes.items():
        request = json.loads(body)
        request["ftReceiptCase"] = DE | 0x01
        finishes[key] = json.dumps(request).encode()
    for own in together([lambda n=n: serve(n) for n in range(8)]):
        assert [answer["ftState"] for answer in own] == [DE] * 5
    check(shop)


@pytest.mark.parametrize("outer", ["own thread", "fiber"])
def test_a_call_within_a_call_does_not_wait_for_the_outer_one(shop: Shop, outer: str) -> None:
    """As a driver makes it that tells the POS of something, and the POS sells."""
    for n in range(QUEUES):
        shop.middleware.sign_json(body_of(shop, n, f"before-{n}"))
    inner, body = [], body_of(shop, 2, "inner")  # another queue at the same TSE
    start = shop.tse.scu.start_transaction

    def start_transaction(*args: Any) -> Any:
        if not inner:
            inner.append("begun")
            inner.append(json.loads(shop.middleware.sign_json(body)))
        return start(*args)

    shop.tse.scu.start_transaction = start_transaction
    request = body_of(shop, 0, "outer")
    if outer == "own thread":
        text = shop.middleware.sign_json(request)
    else:
        text = Crew("test-crew").call(lambda: shop.middleware.begin(request))[0] or b""
    assert json.loads(text)["cbReceiptReference"] == "outer"
    assert inner[1]["cbReceiptReference"] == "inner"
    check(shop)


# ---- the crew itself ------------------------------------------------------------------------------


def test_a_crew_answers_each_caller_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew("test-crew")

    def call(n: int) -> int:
        assert threading.current_thread().name == "test-crew"
        let_others_go_first()
        if n % 5 == 0:
            raise ValueError(n)
        return n

    answers = together([lambda n=n: [_outcome(crew, call, n) for _ in range(20)] for n in range(20)])
    for n, own in enumerate(answers):
        assert own == [f"no {n}" if n % 5 == 0 else n] * 20
    assert not crew.hub.pending
    crew.close()
    with pytest.raises(QueueBusy, match="closing"):
        crew.call(lambda: 1)


def _outcome(crew: Crew, call: Callable[[int], int], n: int) -> Any:
    try:
        return crew.call(lambda: call(n))
    except ValueError as error:
        return f"no {error}"


def test_closing_a_crew_waits_for_what_is_in_work() -> None:
    crew = Crew("test-crew")
    begun, release, done = threading.Event(), threading.Event(), []
    gates: list[Any] = []

    def call() -> None:
        gates.append(new_gate())
        begun.set()
        gates[0].acquire()
        done.append(True)

    caller = threading.Thread(target=lambda: crew.call(call))
    caller.start()
    assert begun.wait(30)
    assert crew.hub.pending
    closer = threading.Thread(target=lambda: (crew.close(), release.set()))
    closer.start()
    assert not release.wait(0.05)
    gates[0].release()
    assert release.wait(30)
    assert done == [True]
    caller.join()
    closer.join()


def test_a_call_beside_the_closing_is_made_or_refused() -> None:
    for _ in range(200):
        crew = Crew("test-crew")
        crew.call(int)
        start = threading.Barrier(4)

        def call(crew: Crew = crew, start: threading.Barrier = start) -> Any:
            start.wait(30)
            try:
                return crew.call(lambda: "made")
            except QueueBusy:
                return "refused"

        def close(crew: Crew = crew, start: threading.Barrier = start) -> str:
            start.wait(30)
            crew.close()
            return "closed"

        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(call) for _ in range(3)]
            calls.append(pool.submit(close))
            assert {each.result(30) for each in calls} <= {"made", "refused", "closed"}


def test_the_loop_goes_on_while_calls_wait() -> None:
    async def main() -> None:
        crew = LoopCrew()
        gates: dict[int, Any] = {}

        def call(n: int) -> int:
            gates[n] = new_gate()
            gates[n].acquire()
            if n == 3:
                raise ValueError(n)
            return n

        tasks = [asyncio.ensure_future(crew.call(lambda n=n: call(n))) for n in range(5)]
        while len(gates) < 5:
            await asyncio.sleep(0)
        assert crew.pending == 5
        tasks[1].cancel()  # its call goes on all the same
        await asyncio.sleep(0)
        threading.Thread(target=lambda: [gate.release() for gate in gates.values()]).start()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [int, asyncio.CancelledError, int, ValueError, int]
        await crew.close()
        assert crew.pending == 0
        with pytest.raises(QueueBusy):
            await crew.call(lambda: 1)

    asyncio.run(main())


def test_a_crew_of_the_loop_serves_one_loop_after_the_other() -> None:
    crew = LoopCrew()
    for n in range(3):
        assert asyncio.run(crew.call(lambda n=n: n)) == n


def test_a_fiber_of_the_loop_that_gives_up_waiting_is_told_in_time() -> None:
    crew = LoopCrew()
    assert asyncio.run(asyncio.wait_for(crew.call(lambda: new_gate().acquire(timeout=0.01)), 30)) is False


def test_a_slow_disk_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that take long on average are made in a thread; when they are short again, they are not."""
    monkeypatch.setattr(loop_crews, "SLOW_S", 0.001)
    used: list[int] = []

    def write(seconds: float) -> str:
        used.append(threading.get_ident())
        time.sleep(seconds)
        return "written"

    def fail() -> str:
        raise StoreError("no")

    async def main() -> None:
        crew = LoopCrew()
        own = threading.get_ident()
        assert await crew.call(lambda: may_block(write, 0.05)) == "written"
        assert used == [own]
        released = threading.Event()

        def held() -> str:
            used.append(threading.get_ident())
            assert released.wait(30)  # the loop has to go on for this
            return "held"

        call = asyncio.ensure_future(crew.call(lambda: may_block(held)))
        for _ in range(5):
            await asyncio.sleep(0.001)
        released.set()
        assert await call == "held"
        assert used[1] != own
        with pytest.raises(StoreError, match="no"):
            await crew.call(lambda: may_block(fail))
        for _ in range(200):
            await crew.call(lambda: may_block(write, 0))
        assert used[-1] == own

    asyncio.run(main())


# ---- over HTTP ------------------------------------------------------------------------------------


def test_short_receipts_are_signed_in_the_thread_of_the_loop(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(QUEUES):
        shop.middleware.sign_json(body_of(shop, n, f"before-{n}"))
    watched = Watched(monkeypatch)
    headers = {"Content-Type": "application/json"}
    app = create_app(shop.middleware, close_middleware=False)
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        bodies = [body_of(shop, n % QUEUES, f"H-{n}") for n in range(40)]
        answers = list(pool.map(lambda body: client.post("/sign", content=body, headers=headers), bodies))
        assert [answer.status_code for answer in answers] == [200] * 40
        assert watched.fibers == [True] * 40
        assert len(watched.threads) == 1
        closing = client.post("/sign", content=special(shop, 0, 0x07, "D"), headers=headers)
        assert closing.json()["ftState"] & 0x2 == 0
        assert watched.fibers[-1] is False
        large = body_of(shop, 1, "L", cbArea="x" * 70_000)
        assert client.post("/sign", content=large, headers=headers).status_code == 200
        assert watched.fibers[-1] is False
        wrong: httpx.Response = client.post("/sign", content=b"{", headers=headers)
        assert wrong.status_code == 400
    check(shop)
