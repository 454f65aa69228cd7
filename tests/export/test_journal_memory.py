"""Journals are read in memory that does not depend on how many rows they have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bench.journals import multiply
from fiskal.germany.codes import JournalType
from tests.support.memory import peak
from tests.support.shop import Shop

FEW, MANY = 2_000, 12_000
JOURNALS = [JournalType.ACTION_JOURNAL, JournalType.RECEIPT_JOURNAL, JournalType.QUEUE_ITEMS]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("shop"))
    made.sale()
    yield made
    made.close()


def measure(shop: Shop, rows: int) -> dict[int, tuple[int, int]]:
    multiply(shop.middleware, rows)
    return {kind: peak(shop.middleware.journal(kind)) for kind in JOURNALS}


def test_memory_stays_the_same_for_six_times_the_rows(shop: Shop) -> None:
    few, many = measure(shop, FEW), measure(shop, MANY)
    for kind in JOURNALS:
        (small, used), (large, needed) = few[kind], many[kind]
        assert large > 5 * small
        grown = large - small
        assert needed - used < grown / 20, f"journal {kind:#x} keeps {needed - used} of {grown} bytes more"


def test_the_measurement_sees_a_journal_that_keeps_its_rows(shop: Shop) -> None:
    multiply(shop.middleware, FEW)
    kind = JournalType.RECEIPT_JOURNAL
    size, _ = peak(shop.middleware.journal(kind))

    def kept() -> Iterator[bytes]:
        yield b"".join(list(shop.middleware.journal(kind)))

    assert peak(kept())[1] > size


@pytest.mark.parametrize("kind", JOURNALS)
def test_every_row_is_there_once_and_in_order(shop: Shop, kind: JournalType) -> None:
    multiply(shop.middleware, FEW)
    found: list[dict[str, Any]] = json.loads(b"".join(shop.middleware.journal(kind)))
    assert len(found) >= FEW - 2
    stamps = [row["TimeStamp"] for row in found]
    assert stamps == sorted(stamps)
    key = {1: "ftActionJournalId", 2: "ftReceiptJournalId", 3: "ftQueueItemId"}[kind]
    assert len({row[key] for row in found}) == len(found)
    assert shop.journal(kind, stamps[10], stamps[20])[0]["TimeStamp"] == stamps[10]
    assert [row["TimeStamp"] for row in shop.journal(kind, stamps[10], -5)] == stamps[10:15]
