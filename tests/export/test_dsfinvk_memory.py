"""An export and its check take memory that does not depend on how many receipts a closing has."""

from __future__ import annotations

from pathlib import Path

from bench.journals import multiply
from tests.support.dsfinvk import tables_of
from tests.support.dsfinvk_memory import EXPORT, peak_of
from tests.support.shop import Shop

FEW, MANY = 3_000, 9_500


def measure(folder: Path, receipts: int) -> tuple[int, int, bytes]:
    """The memory that an export took, that its check took, and the export."""
    shop = Shop(folder)
    shop.send(
        0x02, "N"
    )  # its entry in the action journal is multiplied too, and is one that does not count here
    shop.sale(cbArea="Tisch 1")
    multiply(shop.middleware, receipts)
    shop.reopen()  # the queue has to learn of the rows that were put beside it
    shop.send(0x07, "Z")
    shop.close()
    written = peak_of("export", folder)
    checked = peak_of("check", folder)
    return written, checked, (folder / EXPORT).read_bytes()


def test_memory_stays_the_same_for_more_than_three_times_the_receipts(tmp_path: Path) -> None:
    few, few_checked, small = measure(tmp_path / "few", FEW)
    many, many_checked, large = measure(tmp_path / "many", MANY)
    sizes = [
        sum(len(str(row)) for rows in tables_of(data).values() for row in rows) for data in (small, large)
    ]
    assert sizes[1] > 3 * sizes[0]
    assert len(tables_of(large)["transactions"]) == MANY - 2
    grown = sizes[1] - sizes[0]
    assert many - few < grown / 20
    assert many_checked - few_checked < grown / 20
