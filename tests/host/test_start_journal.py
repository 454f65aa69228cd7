"""Each start of a host stands in the action journal of its queues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fiskal.scu.contract import EMPTY_GUID
from tests.support.disk import refuse_to_confirm
from tests.support.shop import Shop

STARTED = "MiddlewareConfiguration"


def test_every_start_is_journalled_with_the_configuration(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    (first,) = shop.actions_of(STARTED)
    assert (first.Message, first.Priority, first.ftQueueItemId) == ("Queue started", 0, EMPTY_GUID)
    summary = json.loads(first.DataJson or "")
    assert summary["QueueId"] == shop.queue_id
    assert summary["CashBoxIdentification"] == shop.row.CashBoxIdentification
    assert (
        summary["Settings"]["scu_max_retries"]
        == shop.middleware.queue(shop.queue_id).settings.scu_max_retries
    )
    shop.reopen()
    assert len(shop.actions_of(STARTED)) == 2
    shop.close()


def test_a_migrated_queue_is_not_started(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.send(0x19, "M")
    before = len(shop.actions_of(STARTED))
    shop.reopen()
    assert len(shop.actions_of(STARTED)) == before
    shop.close()


def test_a_disk_that_does_not_take_the_note_stops_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)

    with monkeypatch.context() as patched:
        refuse_to_confirm(patched)
        shop.reopen()
    assert "its start is not in the journal" in caplog.text
    assert shop.sale("A")["ftState"] == 0x4445_0000_0000_0000
    shop.close()
