"""The TSE is asked when the disk has the request, and not before."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fiskal.conversation import Call
from fiskal.errors import ReceiptRejected, StoreError
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import DE
from fiskal.store import Change
from tests.support.disk import refuse_to_confirm
from tests.support.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


class Watched:
    """Notes what becomes of the store and of the TSE, in order."""

    def __init__(self, shop: Shop) -> None:
        self.seen: list[str] = []
        self.error: BaseException | None = None
        queue = shop.middleware.queue(shop.queue_id)
        self._store = queue.journal.store
        queue.journal.store = self  # type: ignore[assignment]
        self._note_calls(shop)

    def _note_calls(self, shop: Shop) -> None:
        scu = shop.tse.scu
        shop.tse.scu = Noting(scu, self.seen)  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, change: Change) -> Any:
        return Call(partial(self._commit, change))

    def _commit(self, change: Change) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        self._store.commit(change)
        self.seen.append("T1" if change.items else "T2")


class Noting:
    def __init__(self, scu: Any, seen: list[str]) -> None:
        self._scu = scu
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._scu, name)
        if not name.endswith("_transaction"):
            return target

        def call(*args: Any) -> Any:
            self._seen.append(name)
            return target(*args)

        return call


def check(shop: Shop, receipts: int) -> None:
    """Everything verifies; so many sales were signed since the start, each once."""
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["unanswered"] == 0
    assert shop.open_on_tse() == []
    items = shop.middleware.store.iter_items(shop.row.queue_no)
    calls = [
        stored.answer.tse_calls for stored in items if stored.answer is not None and stored.answer.tse_calls
    ]
    assert [len(each.split()) for each in calls] == [2] * (receipts + 1)
    assert len(set(calls)) == len(calls)
    (last,) = re.findall(r":(\d+):\d+$", calls[-1])
    assert int(last) == shop.tse.scu.get_tse_info().current_number_of_signatures


IMPLICIT = ["T1", "start_transaction", "finish_transaction", "T2"]


def test_the_tse_is_asked_when_the_disk_has_the_request(shop: Shop) -> None:
    watched = Watched(shop)
    shop.sale("S-1")
    assert watched.seen == IMPLICIT
    check(shop, 1)


def test_so_is_every_step_of_a_transaction(shop: Shop) -> None:
    watched = Watched(shop)
    shop.send(0x08, "A")
    shop.send(0x09, "A")
    shop.sale("A", flow="explicit")
    shop.send(0x08, "B")
    shop.send(0x0B, "B")
    asked = [
        "start_transaction",
        "update_transaction",
        "finish_transaction",
        "start_transaction",
        "finish_transaction",
    ]
    assert watched.seen == [each for name in asked for each in ("T1", name, "T2")]


def test_what_may_ask_the_tse_otherwise_waits_for_the_disk_first(shop: Shop) -> None:
    watched = Watched(shop)
    for case in (0x02, 0x07):  # zero receipt, daily closing
        shop.send(case, f"Z-{case}")
    assert watched.seen[0] == "T1"


def test_a_disk_that_does_not_take_the_request_leaves_the_tse_alone(shop: Shop) -> None:
    watched = Watched(shop)
    watched.error = StoreError("could not write: the disk reported an error")
    with pytest.raises(StoreError, match="the disk reported an error"):
        shop.sale("S-1")
    assert watched.seen == []
    row = shop.sale("S-2")["ftQueueRow"]
    assert row == shop.sale("S-3")["ftQueueRow"] - 1
    check(shop, 2)


def test_a_refusal_is_stored_behind_its_request(shop: Shop) -> None:
    watched = Watched(shop)
    with pytest.raises(ReceiptRejected):
        shop.sale("nothing open", flow="explicit")
    assert watched.seen == ["T1", "T2"]
    check(shop, 0)


def test_a_request_the_disk_does_not_take_is_no_refusal(shop: Shop) -> None:
    watched = Watched(shop)
    watched.error = StoreError("could not write: the disk reported an error")
    with pytest.raises(StoreError):
        shop.sale("nothing open", flow="explicit")
    assert watched.seen == []
    check(shop, 0)


def test_an_interrupt_while_it_is_decided_holds_nobody_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fiskal.queue.pipeline.decide", interrupt)
        with pytest.raises(KeyboardInterrupt):
            shop.sale("S-1")
    again = shop.sale("S-1")
    assert again["ftState"] == DE
    check(shop, 1)


def test_a_disk_that_refuses_for_real(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refuse_to_confirm(patch)
        with pytest.raises(StoreError, match="the disk reported an error"):
            shop.sale("S-1")
    shop.sale("S-1")
    check(shop, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("seed", range(3))
def test_a_process_that_is_killed_loses_nothing_and_signs_nothing_twice(tmp_path: Path, seed: int) -> None:
    script = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from tests.support.shop import Shop
        shop, number = Shop(Path(sys.argv[1]), start=sys.argv[2] == "0"), int(sys.argv[2])
        answer = shop.sale(f"S-{number}", case=0x01 | 0x8000_0000_0000)  # a receipt request
        while True:
            if answer is not None:
                os.write(1, b"%d %s\\n" % (number, answer["ftReceiptIdentification"].encode()))
                number += 1
            answer = shop.sale(f"S-{number}")
        """
    )
    answered: dict[int, str] = {}
    for round_no in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(len(answered))],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(30 + 17 * seed + round_no)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        answered.update(
            (int(number), identification.decode()) for number, identification in map(bytes.split, lines)
        )
    shop = Shop(tmp_path, start=False)
    try:
        journal = [
            json.loads(stored.answer.response)
            for stored in shop.middleware.store.iter_items(shop.row.queue_no)
            if stored.answer is not None
        ]
        signed = [each for each in journal if each["ftReceiptIdentification"]]
        references = [each["cbReceiptReference"] for each in signed]
        assert len(references) == len(set(references))
        identified = {each["cbReceiptReference"]: each["ftReceiptIdentification"] for each in signed}
        for number, identification in answered.items():
            assert identified[f"S-{number}"] == identification
        report = verify_journal(shop.middleware.store, shop.row)
        assert report.ok, report.problems
        assert report.counts["unanswered"] == 0
    finally:
        shop.close()
