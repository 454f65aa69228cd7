"""Receipts from the time the middleware was out of reach, receipts written by hand, and both beside failed mode."""

from __future__ import annotations

from typing import Any

import pytest

from fiskal.scu.errors import Unreachable
from tests.queue.test_healthy import SIG_TX, shape
from tests.support.shop import DE, TRAINING, Shop, captions, data_of

DOWN = Unreachable("CONNECT_FAILED", "Nobody answers.")
LATE, HANDWRITTEN, VOID = 0x1_0000, 0x8_0000, 0x4_0000
SYSTEM_FAILED = "Elektronisches Aufzeichnungssystem ausgefallen"
FAILED = "Kommunikation mit der technischen Sicherheitseinrichtung (TSE) fehlgeschlagen"


def late(shop: Shop, moment: str, **members: Any) -> dict[str, Any]:
    return shop.sale("L", case=0x01 | LATE, cbReceiptMoment=moment, **members)


def fail(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", DOWN)
    assert shop.sale("F")["ftState"] == DE + 2


def test_the_whole_answer_of_a_late_receipt(shop: Shop) -> None:
    answer = late(shop, "2024-01-02T07:30:00.999Z")
    assert answer["ftState"] == DE + 8
    assert answer["ftReceiptIdentification"] == "ft1#"
    assert answer["ftSignatures"] == [
        {
            "ftSignatureFormat": 1,
            "ftSignatureType": DE | 0x02,
            "Caption": "Ausfallsnacherfassung vom 02.01.2024 07:30:00",
            "Data": SYSTEM_FAILED,
        }
    ]
    assert "ftStateData" not in answer


def test_moments_are_printed_in_utc(shop: Shop) -> None:
    assert captions(late(shop, "2024-07-01T00:30:00+02:00")) == [
        "Ausfallsnacherfassung vom 30.06.2024 22:30:00"
    ]


def test_the_period_is_kept_whatever_the_order(shop: Shop) -> None:
    first = late(shop, "2024-01-02T08:00:00Z")
    late(shop, "2024-01-02T07:00:00Z")
    late(shop, "2024-01-02T09:00:00Z")
    row = shop.row
    assert row.UsedFailedCount == 3
    assert row.UsedFailedQueueItemId == first["ftQueueItemID"]
    assert row.UsedFailedMomentMax - row.UsedFailedMomentMin == 2 * 3600 * 10_000_000
    shop.reopen()
    zero = shop.send(0x02, "Z")
    assert shape(zero)[:15] == SIG_TX
    (note,) = zero["ftSignatures"][15:]
    assert note["ftSignatureType"] == DE | 0x02
    assert note["Caption"].startswith("Ausfallsnacherfassung abgeschlossen am 14.11.2023 ")
    assert note["Data"] == "3 Aktionen im Zeitraum von 02.01.2024 07:00:00 bis 02.01.2024 09:00:00"
    (entry,) = shop.actions_of("4445000000000002-String")
    assert entry.Priority == -1
    assert entry.Message == note["Caption"] + note["Data"]
    assert entry.DataJson == f'"{entry.Message}"'
    row = shop.row
    assert (row.UsedFailedCount, row.UsedFailedMomentMin, row.UsedFailedMomentMax) == (0, None, None)
    assert row.UsedFailedQueueItemId is None
    assert len(shop.send(0x02, "Z")["ftSignatures"]) == 15


def test_only_the_flagged_receipts_show_the_state(shop: Shop) -> None:
    late(shop, "2024-01-02T08:00:00Z")
    between = shop.sale("between")
    assert between["ftState"] == DE
    assert between["ftReceiptIdentification"] == "ft2#IT2"
    assert late(shop, "2024-01-02T08:01:00Z")["ftState"] == DE + 8


def test_a_zero_receipt_that_is_late_itself_ends_nothing(shop: Shop) -> None:
    late(shop, "2024-01-02T08:00:00Z")
    fail(shop)
    assert shop.send(0x02 | LATE, "Z")["ftState"] == DE + 8
    assert (shop.row.UsedFailedCount, shop.row.SSCDFailCount) == (2, 1)


def test_a_late_closing_closes_nothing(shop: Shop) -> None:
    shop.send(0x08, "O")
    assert shop.send(0x07 | LATE, "D")["ftState"] == DE + 8
    assert shop.send(0x07 | HANDWRITTEN, "D")["ftState"] == DE
    assert shop.row.DailyClosingNumber == 0
    assert shop.actions_of("4445000000000007") == []
    assert shop.open_references() == ["O"]


def test_what_was_open_before_the_outage_stays_open_until_the_closing(shop: Shop) -> None:
    shop.send(0x08, "O")
    assert shop.sale("O", case=0x01 | LATE, flow="explicit")["ftState"] == DE + 8
    assert shop.open_references() == ["O"]
    assert len(shop.send(0x07, "D")["ftSignatures"]) == 15 + 3
    assert shop.open_on_tse() == []


def test_the_whole_answer_of_a_handwritten_receipt(shop: Shop) -> None:
    calls = len(shop.tse.calls)
    answer = shop.sale("H", case=0x01 | HANDWRITTEN, cbReceiptMoment="2024-01-02T12:00:00Z")
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"] == "ft1#"
    assert answer["ftSignatures"] == [
        {
            "ftSignatureFormat": 1,
            "ftSignatureType": DE | 0x02,
            "Caption": "Handschriftbelegerfassung vom 02.01.2024 12:00:00",
            "Data": "",
        }
    ]
    assert len(shop.tse.calls) == calls
    assert shop.row.UsedFailedCount == 0


@pytest.mark.parametrize("flags", [TRAINING, VOID, TRAINING | VOID])
@pytest.mark.parametrize("kind", [LATE, HANDWRITTEN])
def test_training_and_void_add_nothing_to_a_note(shop: Shop, kind: int, flags: int) -> None:
    answer = shop.sale("X", case=0x01 | kind | flags)
    assert len(answer["ftSignatures"]) == 1
    assert answer["ftState"] == (DE + 8 if kind == LATE else DE)


@pytest.mark.parametrize(
    ("failed", "open_period", "flags", "state", "caption"),
    [
        (True, False, 0, 2, FAILED),
        (True, True, 0, 2, FAILED),
        (True, False, TRAINING, 2, FAILED),
        (True, False, VOID, 2, FAILED),
        (True, False, LATE, 8, "Ausfallsnacherfassung vom 14.11.2023 22:13:20"),
        (True, True, LATE, 8, "Ausfallsnacherfassung vom 14.11.2023 22:13:20"),
        (True, False, HANDWRITTEN, 0, "Handschriftbelegerfassung vom 14.11.2023 22:13:20"),
        (True, True, LATE | HANDWRITTEN, 8, "Ausfallsnacherfassung vom 14.11.2023 22:13:20"),
        (False, False, LATE | HANDWRITTEN, 8, "Ausfallsnacherfassung vom 14.11.2023 22:13:20"),
        (False, True, HANDWRITTEN, 0, "Handschriftbelegerfassung vom 14.11.2023 22:13:20"),
    ],
)
def test_combinations(
    shop: Shop, failed: bool, open_period: bool, flags: int, state: int, caption: str
) -> None:
    if failed:
        fail(shop)
    if open_period:
        late(shop, "2024-01-02T08:00:00Z")
    before, calls = shop.row, len(shop.tse.calls)
    answer = shop.sale("X", case=0x01 | flags)
    assert answer["ftState"] == DE + state
    assert captions(answer) == [caption]
    after = shop.row
    assert after.SSCDFailCount == before.SSCDFailCount + (state == 2)
    assert after.UsedFailedCount == before.UsedFailedCount + (state == 8)
    assert len(shop.tse.calls) == calls


def test_one_zero_receipt_ends_both_failed_note_first(shop: Shop) -> None:
    fail(shop)
    late(shop, "2024-01-02T08:00:00Z")
    shop.tse.down = DOWN
    answer = shop.send(0x02, "too early")
    assert answer["ftState"] == DE + 2
    assert captions(answer) == [FAILED]
    assert (shop.row.SSCDFailCount, shop.row.UsedFailedCount) == (2, 1)
    shop.tse.down = None
    answer = shop.send(0x02 | TRAINING, "Z")
    assert answer["ftState"] == DE
    assert shape(answer)[:15] == SIG_TX
    recovered, ended, training = captions(answer)[15:]
    assert recovered.startswith("TSE Kommunikation wiederhergestellt am ")
    assert ended.startswith("Ausfallsnacherfassung abgeschlossen am ")
    assert training == "Trainingsbuchung"
    assert (shop.row.SSCDFailCount, shop.row.UsedFailedCount) == (0, 0)
    assert len(shop.actions_of("4445000000000002-String")) == 2


def test_a_period_stays_open_while_the_tse_is_down(shop: Shop) -> None:
    late(shop, "2024-01-02T08:00:00Z")
    shop.tse.fail_before("start_transaction", DOWN)
    assert shop.send(0x02, "Z")["ftState"] == DE + 2
    assert (shop.row.SSCDFailCount, shop.row.UsedFailedCount) == (1, 1)


# ---- training and void in normal mode -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "signs"),
    [(0x01, 20), (0x10, 19), (0x14, 19), (0x02, 16), (0x08, 2), (0x09, 4), (0x0A, 4), (0x0B, 19)],
)
def test_training_is_the_last_signature(shop: Shop, case: int, signs: int) -> None:
    if case in (0x09, 0x0A, 0x0B):
        shop.send(0x08, "R")
    answer = shop.sale("R", case=0x01 | TRAINING) if case == 0x01 else shop.send(case | TRAINING, "R")
    assert answer["ftState"] == DE
    assert len(answer["ftSignatures"]) == signs
    assert answer["ftSignatures"][-1] == {
        "ftSignatureFormat": 1,
        "ftSignatureType": 0x1000,
        "Caption": "Trainingsbuchung",
        "Data": answer["ftSignatures"][-1]["Data"],
    }
    assert answer["ftSignatures"][-1]["Data"].startswith("2023-11-14T22:")


def test_training_is_marked_on_the_tse(shop: Shop) -> None:
    for case in (0x01, 0x0C, 0x0F, 0x16):
        answer = shop.sale("R", case=case | TRAINING)
        assert data_of(answer, "<processData>") == "AVTraining^7.50_0.00_0.00_0.00_0.00^7.50:Bar"


def test_a_voided_receipt_has_the_amounts_of_its_items(shop: Shop) -> None:
    answer = shop.sale("R", "-7.50", case=0x01 | VOID)
    assert data_of(answer, "<processData>") == "Beleg^-7.50_0.00_0.00_0.00_0.00^-7.50:Bar"
    assert answer["ftState"] == DE
