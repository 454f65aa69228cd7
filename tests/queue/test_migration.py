"""The migration receipt: a last daily closing, after which this installation signs nothing more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.queue.settings import QueueSettings
from fiskal.scu.errors import Unreachable
from tests.queue.test_healthy import SIG_FIN, SIG_TX, shape
from tests.support.shop import DE, Shop, data_of

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available. Nobody answers.")
MIGRATION = 0x19
RECEIPT_REQUEST = 0x8000_0000_0000
TEXT = (
    "The Middleware is currently in migration mode after a 'start migration' receipt was processed. Please "
    "continue the migration process in the Portal and use the migrated instance of the Middleware to continue "
    "signing, either on another machine or in the CloudCashbox."
)


def assert_migrated(shop: Shop) -> None:
    before = (shop.row, len(shop.actions()))
    for case in (0x01, 0x02, 0x03, 0x04, 0x07, 0x17, 0x18, MIGRATION, 0x01 | 0x1_0000):
        with pytest.raises(ReceiptRejected) as caught:
            shop.send(case)
        assert caught.value.message == TEXT
        assert caught.value.code == "MIGRATED"
        assert caught.value.response is None
    assert (shop.row, len(shop.actions())) == before
    assert shop.middleware.queue().status()["state"] == "migrated"


def test_migration_closes_the_day_and_then_nothing_is_signed(shop: Shop) -> None:
    sale = shop.sale("S-1")
    shop.send(0x08, "A")
    actions = len(shop.actions())
    answer = shop.send(MIGRATION, "M")
    assert answer["ftState"] == DE
    assert shape(answer) == SIG_TX + SIG_FIN
    assert answer["ftReceiptIdentification"] == "ft3#IT4"
    assert [item["Data"] for item in answer["ftSignatures"] if item["Caption"] == "<processType>"] == [
        "SonstigerVorgang",
        "Kassenbeleg-V1",
    ]
    assert data_of(answer, "<processData>") == "migration"
    assert json.loads(answer["ftStateData"])["DailyClosingNumber"] == 1
    assert shop.row.DailyClosingNumber == 1
    (closing,) = shop.actions_of("4445000000000007")
    assert closing.Message == "Daily-closing receipt was processed."
    assert json.loads(closing.DataJson) == {
        "ftReceiptNumerator": 4,
        "transactionNumber": 4,
        "masterDataChanged": False,
        "closingNumber": 1,
    }
    (entry,) = shop.actions_of("4445000100000019")
    assert entry.Message == (
        "Migration to another machine or the CloudCashbox started, no further receipts can be sent to this "
        "installation of the Middleware."
    )
    assert entry.Priority == 0
    assert entry.ftQueueItemId == answer["ftQueueItemID"]
    assert entry.DataJson == (
        f'{{"ActionJournalCount":{actions + 1},"JournalDECount":1,"QueueItemCount":4,"ReceiptJournalCount":4,'
        '"QueueRow":4}'
    )
    assert_migrated(shop)
    assert shop.sale("S-1", case=0x01 | RECEIPT_REQUEST) == sale
    with pytest.raises(ReceiptRejected, match="migration mode"):
        shop.sale("S-2", case=0x01 | RECEIPT_REQUEST)
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    shop.reopen()
    assert_migrated(shop)
    assert shop.sale("S-1", case=0x01 | RECEIPT_REQUEST) == sale


def test_migration_without_the_tse_is_failed_mode_and_no_migration(shop: Shop) -> None:
    shop.tse.fail_before("finish_transaction", DOWN)
    assert shop.send(MIGRATION, "M")["ftState"] == DE + 2
    assert shop.send(MIGRATION, "M")["ftState"] == DE + 2
    assert shop.actions_of("4445000000000007") == []
    assert shop.row.DailyClosingNumber == 0
    shop.reopen()
    assert shop.send(0x02, "Z")["ftState"] == DE
    assert shop.send(MIGRATION, "M")["ftState"] == DE
    assert_migrated(shop)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"flow": "explicit"}, r"\(Migration receipt\) must use implicit-flow flag\.$"),
        ({"cbChargeItems": [{}]}, r"\(Migration receipt\) must not have Charge- or PayItems\.$"),
        ({"cbPayItems": [{}]}, r"\(Migration receipt\) must not have Charge- or PayItems\.$"),
    ],
)
def test_a_rejected_migration_is_no_migration(shop: Shop, members: dict[str, object], text: str) -> None:
    with pytest.raises(ReceiptRejected, match=text):
        shop.send(MIGRATION, "M", **members)
    with pytest.raises(ReceiptRejected, match="can not use 'TrainingMode' flag"):
        shop.send(MIGRATION | 0x2_0000, "M")
    shop.send(0x08, "A")
    with pytest.raises(ReceiptRejected, match="1 open transactions exist"):
        shop.send(MIGRATION | 0x1000_0000, "M")
    assert shop.sale()["ftState"] == DE


def test_migration_of_a_queue_that_is_not_in_operation(new_shop: Shop) -> None:
    assert new_shop.send(MIGRATION)["ftState"] == DE + 1
    new_shop.send(0x03)
    for flag, state in ((0x1_0000, DE + 8), (0x8_0000, DE)):  # recorded afterwards: not done
        assert new_shop.send(MIGRATION | flag)["ftState"] == state
    assert new_shop.sale()["ftState"] == DE
    new_shop.send(0x04, "END")
    assert new_shop.send(MIGRATION)["ftState"] == DE + 1
    assert new_shop.actions_of("4445000100000019") == []


def test_receipt_request_mode_1_signs_nothing_after_a_migration(tmp_path: Path) -> None:
    shop = Shop(tmp_path, settings=QueueSettings(receipt_request_mode=1, duplicate_window_s=60))
    shop.sale("S-1")
    shop.send(MIGRATION, "M")
    with pytest.raises(ReceiptRejected, match="migration mode"):
        shop.sale("S-2", case=0x01 | RECEIPT_REQUEST)
    shop.close()
