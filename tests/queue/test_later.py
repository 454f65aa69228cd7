"""Receipts that are put in line: the POS goes on, and a finish waits for its own start."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fiskal.conversation import Call
from fiskal.errors import ReceiptRejected, StoreError
from fiskal.export.verify import verify_journal
from fiskal.pos import ReceiptRequest, decode_response
from fiskal.pos.prepared import prepare
from fiskal.queue.line import Place, QueueBusy
from fiskal.queue.queue import Queue
from fiskal.queue.settings import QueueSettings
from fiskal.scu.errors import OutcomeUnknown, Unreachable
from fiskal.store import Change
from tests.support.shop import DE, IMPLICIT, Shop


def check(shop: Shop) -> None:
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, settings=QueueSettings(max_waiting=3))
    yield shop
    shop.close()


class SlowStart:
    """Holds back every start at the TSE until it is let go."""

    def __init__(self, shop: Shop) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        shop.tse.block()
        self.error: Exception | None = None
        real = shop.tse.scu.start_transaction

        def start(*args: Any) -> Any:
            self.began.set()
            assert self.go.wait(30)
            if self.error is not None:
                raise self.error
            return real(*args)

        shop.tse.scu.start_transaction = start  # type: ignore[method-assign]


def later(shop: Shop, case: int, reference: str, **members: Any) -> Any:
    return shop.middleware.sign_later_json(json.dumps(shop.request(case, reference, **members)).encode())


def identification(response: bytes) -> str | None:
    return decode_response(response).ft_receipt_identification


def test_scanning_goes_on_while_the_tse_signs_the_start_and_the_finish_waits_for_it(shop: Shop) -> None:
    slow = SlowStart(shop)
    start = later(shop, 0x08, "A")
    assert slow.began.wait(30)
    assert not start.done()
    with ThreadPoolExecutor(1) as pos:
        finish = pos.submit(shop.sale, "A", flow="explicit")
        assert not finish.done()
        slow.go.set()
        assert finish.result(30)["ftReceiptIdentification"] == "ft2#T2"
    assert identification(start.result()) == "ft1#ST2"


def test_what_is_put_in_line_keeps_its_order(shop: Shop) -> None:
    slow = SlowStart(shop)
    first = later(shop, 0x08, "A")
    second, third = later(shop, 0x08, "B"), later(shop, 0x0B, "A")
    with pytest.raises(QueueBusy, match="3 receipts wait"):
        later(shop, 0x08, "C")
    slow.go.set()
    assert [identification(each.result(30)) for each in (first, second, third)] == [
        "ft1#ST2",
        "ft2#ST3",
        "ft3#T2",
    ]
    assert later(shop, 0x08, "C").result(30)


def test_a_receipt_in_line_fails_like_any_other_and_holds_nobody_up(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    failing = later(shop, 0x01, "never started", flow="explicit")
    with pytest.raises(ReceiptRejected, match="No transactionnumber found"):
        failing.result(30)
    assert shop.sale("next")["ftState"] == DE
    assert "put in line failed: ReceiptRejected" in caplog.text


def test_what_can_be_refused_at_once_is(shop: Shop) -> None:
    with pytest.raises(ReceiptRejected):
        shop.middleware.sign_later_json(b"{")
    with pytest.raises(ReceiptRejected, match="CashBox"):
        later(shop, 0x08, "A", ftCashBoxID="d4a62055-ca6c-4372-ae4d-f835a88e4a5d")


def test_a_typed_request_can_be_put_in_line(shop: Shop) -> None:
    request = ReceiptRequest(
        ft_cash_box_id=shop.config.cash_box_id,
        cb_terminal_id="T1",
        cb_receipt_reference="A",
        cb_receipt_moment="2023-11-14T22:13:20Z",
        cb_charge_items=[],
        cb_pay_items=[],
        ft_receipt_case=DE | 0x08,
    )
    assert identification(shop.middleware.sign_later(request).result(30)) == "ft1#ST2"


def test_closing_signs_what_is_in_line(shop: Shop) -> None:
    futures = [later(shop, 0x08, str(n)) for n in range(3)]
    shop.middleware.close()
    assert [identification(each.result(0)) for each in futures] == ["ft1#ST2", "ft2#ST3", "ft3#ST4"]
    with pytest.raises(QueueBusy, match="closing"):
        later(shop, 0x08, "late")


def test_an_implicit_receipt_is_not_interrupted_at_the_tse(tmp_path: Path) -> None:
    """Two queues on one TSE: start and finish of each follow each other in the TSE's log."""

    def second_queue(config: Any) -> None:
        queue = config.queues[0]
        config.queues.append(type(queue)(id="2" * 8 + queue.id[8:], client_id="POS-2", scu_id=queue.scu_id))

    shop = Shop(tmp_path, prepare=second_queue)
    try:
        ids = [queue.id for queue in shop.config.queues]
        shop.queue_id = ids[1]
        shop.send(0x03)
        shop.tse.be_outside()
        real = shop.tse.scu.start_transaction

        def slow_start(*args: Any) -> Any:
            started = real(*args)
            time.sleep(0.001)
            return started

        shop.tse.scu.start_transaction = slow_start  # type: ignore[method-assign]

        def sell(number: int) -> list[int]:
            counters = []
            for n in range(20):
                request = shop.request(0x01, f"{number}-{n}", ftQueueID=ids[number % 2])
                calls = shop.post(request)["ftSignatures"]
                counters.append(int(next(i["Data"] for i in calls if i["Caption"] == "<signatur-zaehler>")))
            return counters

        with ThreadPoolExecutor(4) as pool:
            finishes = sorted(counter for each in pool.map(sell, range(4)) for counter in each)
        assert finishes == list(range(finishes[0], finishes[0] + 160, 2))
    finally:
        shop.close()


# ---- accepted while the receipt ahead waits for the TSE -------------------------------------------


def rows_of(shop: Shop) -> list[tuple[int, str | None]]:
    """Rows that have no answer, with their references, as they are on the disk."""
    return [
        (item.ftQueueRow, item.cbReceiptReference)
        for item in shop.middleware.store.unanswered_items(shop.row.queue_no)
    ]


def refuse_once(shop: Shop, patch: pytest.MonkeyPatch, wanted: Callable[[Change], bool]) -> None:
    """Let the disk refuse the first change that is ``wanted``."""
    submit, refused = shop.middleware.store.submit, []

    def fail() -> None:
        raise StoreError("the disk is full")

    def refuse(change: Change) -> Any:
        if wanted(change) and not refused:
            refused.append(change)
            return Call(fail)
        return submit(change)

    patch.setattr(shop.middleware.store, "submit", refuse)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Overlap:
    """A start that waits at the TSE, and a finish behind it."""

    def __init__(self, shop: Shop, **members: Any) -> None:
        self.shop = shop
        self.slow = SlowStart(shop)
        self.start = later(shop, 0x08, "A")
        assert self.slow.began.wait(30)
        self.pool = ThreadPoolExecutor(4)
        self.finish = self.pool.submit(shop.sale, "A", flow="explicit", **members)

    def wait_for_both(self) -> None:
        until(lambda: [reference for _, reference in rows_of(self.shop)] == ["A", "A"])

    def go(self) -> None:
        self.slow.go.set()

    def close(self) -> None:
        self.pool.shutdown()


@pytest.fixture
def overlap(shop: Shop) -> Iterator[Overlap]:
    made = Overlap(shop)
    yield made
    made.go()
    made.close()


def test_a_finish_is_durable_while_its_start_waits_for_the_tse(overlap: Overlap) -> None:
    shop = overlap.shop
    overlap.wait_for_both()
    assert rows_of(shop) == [(2, "A"), (3, "A")]
    assert not overlap.start.done()
    overlap.go()
    answer = overlap.finish.result(30)
    assert (answer["ftQueueRow"], answer["ftState"]) == (3, DE)
    assert identification(overlap.start.result(30)).endswith("#ST2")  # type: ignore[union-attr]
    assert rows_of(shop) == []
    assert shop.open_on_tse() == []
    assert shop.sale("B")["ftQueueRow"] == 4
    check(shop)


def test_who_comes_later_comes_behind_the_one_that_was_accepted(overlap: Overlap) -> None:
    shop = overlap.shop
    overlap.wait_for_both()
    third = overlap.pool.submit(shop.sale, "C")
    fourth = later(shop, 0x01 | IMPLICIT, "D")
    fifth = overlap.pool.submit(shop.sale, "E")
    time.sleep(0.05)  # so that they are in line, most of the time
    overlap.go()
    assert overlap.finish.result(30)["ftQueueRow"] == 3
    rows = [third.result(30)["ftQueueRow"], decode_response(fourth.result(30)).ft_queue_row]
    assert sorted([*rows, fifth.result(30)["ftQueueRow"]]) == [4, 5, 6]
    check(shop)


@pytest.mark.parametrize("after", [False, True])
def test_a_start_that_fails_is_no_harm_to_the_finish_behind_it(overlap: Overlap, after: bool) -> None:
    shop = overlap.shop
    overlap.wait_for_both()
    if after:
        shop.tse.fail_after("start_transaction", OutcomeUnknown("TIMEOUT", "no answer"))
    else:
        overlap.slow.error = Unreachable("TSE_NOT_AVAILABLE", "it is gone")
    overlap.go()
    answer = overlap.finish.result(30)
    assert (answer["ftQueueRow"], answer["ftState"]) == (3, DE | 0x2)
    overlap.slow.error = None
    assert shop.send(0x02, "Z")["ftState"] == DE
    assert shop.open_on_tse() == []
    check(shop)


def test_a_disk_that_refuses_the_answer_ahead_takes_the_one_behind(
    overlap: Overlap, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = overlap.shop
    overlap.wait_for_both()
    refuse_once(shop, monkeypatch, lambda change: bool(change.answers))
    overlap.go()
    with pytest.raises(StoreError):
        overlap.start.result(30)
    answer = overlap.finish.result(30)
    assert (answer["ftQueueRow"], answer["ftState"]) == (3, DE)
    assert rows_of(shop) == []
    assert shop.open_on_tse() == []
    check(shop)


def test_a_disk_that_refuses_to_accept_ahead_says_so_and_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_once(shop, monkeypatch, lambda change: any(item.ftQueueRow == 3 for item in change.items))
    overlap = Overlap(shop)
    with pytest.raises(StoreError, match="full"):
        overlap.finish.result(30)
    overlap.go()
    overlap.start.result(30)
    assert shop.sale("A", flow="explicit")["ftQueueRow"] == 3
    overlap.close()
    check(shop)


def test_a_caller_that_gives_up_leaves_an_interrupted_receipt(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C makes it; the receipt was not signed, and its repetition is."""
    wait = Place.call

    def interrupted(place: Place) -> None:
        if threading.current_thread().name == "interrupted":
            raise KeyboardInterrupt
        wait(place)

    monkeypatch.setattr(Place, "call", interrupted)
    slow = SlowStart(shop)
    start = later(shop, 0x08, "A")
    assert slow.began.wait(30)
    raised = []

    def sell() -> None:
        try:
            request = shop.request(0x01, "A", flow="explicit")
            queue = shop.middleware.queue()
            queue.sign(prepare(json.dumps(request).encode()))
        except KeyboardInterrupt:
            raised.append(True)

    thread = threading.Thread(target=sell, name="interrupted")
    thread.start()
    thread.join(30)
    assert raised == [True]
    assert rows_of(shop) == [(2, "A"), (3, "A")]
    slow.go.set()
    start.result(30)
    answer = shop.sale("A", flow="explicit")
    assert (answer["ftQueueRow"], answer["ftState"]) == (4, DE)
    assert shop.open_on_tse() == []
    check(shop)


def test_a_process_that_dies_with_both_in_work_finds_both(
    overlap: Overlap, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shop = overlap.shop
    overlap.wait_for_both()
    copy = tmp_path_factory.mktemp("died") / "shop"
    shutil.copytree(shop.folder, copy, ignore=shutil.ignore_patterns("*.lock", "lock"))
    after = Shop(copy, start=False)
    assert rows_of(after) == []
    items = after.middleware.store.iter_items_by_row(after.row.queue_no)
    assert [found.item.ftQueueRow for found in items] == [1, 2, 3]
    after.send(0x08, "A")
    assert after.sale("A", flow="explicit")["ftState"] == DE
    assert after.open_on_tse() == []
    check(after)
    after.close()


@pytest.mark.parametrize(
    ("what", "members"),
    [
        ("a closing", {"case": 0x07, "flow": ""}),
        ("a receipt request", {"case": 0x8000_0000_0001}),
        ("a late receipt", {"case": 0x1_0001 | IMPLICIT}),
    ],
)
def test_what_needs_to_look_back_is_accepted_in_its_turn(
    shop: Shop, what: str, members: dict[str, Any]
) -> None:
    slow = SlowStart(shop)
    start = later(shop, 0x08, "A")
    assert slow.began.wait(30)
    with ThreadPoolExecutor(1) as pool:
        case = members["case"]
        call = pool.submit(shop.send, case, "X") if case == 0x07 else pool.submit(shop.sale, "X", case=case)
        until(lambda: shop.middleware.queue().line.waiting == 1)
        assert rows_of(shop) == [(2, "A")]
        slow.go.set()
        call.result(30)
    start.result(30)
    check(shop)


def test_the_same_receipt_again_waits_for_the_answer_of_the_first(shop: Shop) -> None:
    slow = SlowStart(shop)
    body = json.dumps(shop.request(0x08, "A")).encode()
    start = shop.middleware.sign_later_json(body)
    assert slow.began.wait(30)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(shop.middleware.sign_json, body)
        until(lambda: shop.middleware.queue().line.waiting == 1)
        assert rows_of(shop) == [(2, "A")]
        slow.go.set()
        with pytest.raises(ReceiptRejected):
            again.result(30)
    start.result(30)
    check(shop)


def test_only_the_next_one_is_accepted_ahead(shop: Shop) -> None:
    """Who comes behind it may not take the row that somebody in between needs."""
    slow = SlowStart(shop)
    start = later(shop, 0x08, "A")
    assert slow.began.wait(30)
    with ThreadPoolExecutor(2) as pool:
        closing = pool.submit(shop.send, 0x07, "D")  # looks back, so it is accepted in its turn
        until(lambda: shop.middleware.queue().line.waiting == 1)
        sale = pool.submit(shop.sale, "S")
        until(lambda: shop.middleware.queue().line.waiting == 2)
        assert rows_of(shop) == [(2, "A")]
        slow.go.set()
        assert (closing.result(30)["ftQueueRow"], sale.result(30)["ftQueueRow"]) == (3, 4)
    start.result(30)
    check(shop)


def test_many_terminals_of_one_queue_keep_rows_and_receipts_in_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts in line, finishes behind them and receipts in between, in every order that chance makes."""
    shop = Shop(tmp_path)
    shop.tse.be_outside()
    chance = random.Random(5)
    for name in ("start_transaction", "finish_transaction"):
        real = getattr(shop.tse.scu, name)

        def slow(*args: Any, real: Any = real) -> Any:
            time.sleep(chance.random() * 0.002)
            return real(*args)

        monkeypatch.setattr(shop.tse.scu, name, slow)
    ahead: list[bool] = []
    accept = Queue._accept_ahead

    async def watch(queue: Queue, *args: Any) -> Any:
        item = await accept(queue, *args)
        if item is not None:
            ahead.append(True)
        return item

    monkeypatch.setattr(Queue, "_accept_ahead", watch)

    def serve(terminal: int) -> list[dict[str, Any]]:
        answers = []
        for n in range(25 if terminal else 500):
            reference = f"{terminal}-{n}"
            if terminal:
                time.sleep(chance.random() * 0.06)
                answers.append(shop.sale(f"X-{reference}"))
                continue
            if len(ahead) >= 10:
                break
            start = later(shop, 0x08, reference)
            time.sleep(chance.random() * 0.003)
            answers.append(shop.sale(reference, flow="explicit"))
            answers.append(json.loads(start.result(30)))
        return answers

    with ThreadPoolExecutor(6) as pool:
        answers = [answer for each in pool.map(serve, range(4)) for answer in each]
    assert {answer["ftState"] for answer in answers} == {DE}
    assert sorted(answer["ftQueueRow"] for answer in answers) == list(range(2, 2 + len(answers)))
    by_row = sorted(answers, key=lambda answer: int(answer["ftQueueRow"]))
    numbers = [int(answer["ftReceiptIdentification"][2:].partition("#")[0], 16) for answer in by_row]
    assert numbers == sorted(numbers)
    assert ahead
    assert shop.open_on_tse() == []
    check(shop)
    shop.close()
