"""Receipts that are interrupted at one TSE and sent again at another: signed at one of them, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.host.config import HostConfig
from fiskal.queue.interruptions import RESEND_WITHIN_TICKS, Knowledge
from tests.queue.test_interrupted_again import BYPASS_TAR_EXPORT, DOWN, Death, check, unplug
from tests.queue.test_switch import CLIENT_ONLY, FINISH, FORCE, INITIATE, SwitchShop, two_scus
from tests.support.shop import DE, DyingStore, Shop, data_of

LATE = 0x1_0000


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[SwitchShop]:
    made = SwitchShop(tmp_path, prepare=two_scus)
    yield made
    made.close()


def sale(shop: Shop) -> Any:
    return shop.sale("S")


def order(shop: Shop) -> Any:
    return shop.send(0x10, "O")


def zero(shop: Shop) -> Any:
    return shop.send(0x02, "Z-1")


def daily(shop: Shop) -> Any:
    return shop.send(0x07 | BYPASS_TAR_EXPORT, "D")


KINDS = pytest.mark.parametrize("kind", [sale, order, zero, daily])


def signatures(shop: SwitchShop) -> list[int]:
    """Of the source and of the target."""
    return [tse.scu.get_tse_info().current_number_of_signatures for tse in shop.tses.values()]


def kinds(shop: Shop) -> list[Knowledge]:
    return [each.kind for each in shop.middleware.queue(shop.queue_id).interruptions.items.values()]


def undecided(shop: SwitchShop, send: Callable[[Shop], Any]) -> None:
    """The process dies over a receipt, and starts again without its TSEs; then they are back."""
    with pytest.raises(Death):
        send(shop)
    start_without_tse(shop)


def start_without_tse(shop: SwitchShop) -> None:
    shop.close()
    shop.open(unplug)
    for tse in shop.tses.values():
        tse.calm()


def switch(shop: SwitchShop) -> None:
    shop.initiate(FORCE | CLIENT_ONLY | BYPASS_TAR_EXPORT)
    assert shop.finish(BYPASS_TAR_EXPORT)["ftState"] == DE


def die_at_commit(shop: SwitchShop, commits: int, kind: Callable[[Shop], Any]) -> None:
    queue = shop.middleware.queue(shop.queue_id)
    queue.journal.store = DyingStore(queue.journal.store, commits, Death())  # type: ignore[assignment]
    with pytest.raises(Death):
        kind(shop)
    shop.reopen()


@KINDS
@pytest.mark.parametrize("decided", [True, False], ids=["known as signed", "undecided"])
def test_what_the_source_signed_is_the_answer(
    shop: SwitchShop, kind: Callable[[Shop], Any], decided: bool
) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, kind)
    if decided:
        shop.sale("other")
        assert kinds(shop) == [Knowledge.SIGNED]
    switch(shop)
    before = signatures(shop)
    number = shop.row.ftReceiptNumerator
    answer = kind(shop)
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"] == f"ft{number:X}#IT2"
    if kind in (sale, order):
        serial = shop.tse.scu.get_tse_info().serial_number_octet
        assert data_of(answer, "<tse-seriennummer>").upper() == serial.upper()
    assert signatures(shop) == before
    assert kinds(shop) == []
    assert kind(shop)["ftReceiptIdentification"] == f"ft{number + 1:X}#IT2"  # once heard, it is a new one
    assert signatures(shop) == [before[0], before[1] + 2]
    check(shop, 1)


@KINDS
def test_what_the_source_did_not_sign_is_signed_at_the_target(
    shop: SwitchShop, kind: Callable[[Shop], Any]
) -> None:
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, kind)
    switch(shop)
    assert shop.open_on_tse() == []
    before = signatures(shop)
    answer = kind(shop)
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"].endswith("#IT2")
    assert signatures(shop) == [before[0], before[1] + 2]
    assert kinds(shop) == []
    check(shop, 1)


def test_what_the_source_began_and_was_not_there_to_end_is_ended(shop: SwitchShop) -> None:
    """It was away while the queue left it."""
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, sale)
    shop.tse.down = DOWN
    switch(shop)
    shop.tse.calm()
    assert len(shop.open_on_tse()) == 1
    before = signatures(shop)
    assert sale(shop)["ftState"] == DE
    assert signatures(shop) == [before[0] + 1, before[1] + 2]
    assert shop.open_on_tse() == []
    check(shop, 1)


def test_a_source_that_cannot_be_asked_decides_when_it_is_back(shop: SwitchShop) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, sale)
    switch(shop)
    before = signatures(shop)
    shop.tse.down = DOWN
    for _ in range(2):
        with pytest.raises(ReceiptRejected, match="may have been signed") as caught:
            sale(shop)
        assert caught.value.code == "SIGNED_ELSEWHERE"
        assert shop.scu_id in caught.value.message
        assert kinds(shop) == [Knowledge.UNDECIDED]
    assert shop.row.SSCDFailCount == 0
    assert shop.sale("another")["ftState"] == DE
    shop.tse.calm()
    assert sale(shop)["ftReceiptIdentification"].endswith("#IT2")
    assert signatures(shop) == [before[0], before[1] + 2]
    check(shop, 3)


def test_a_source_that_is_gone_leaves_the_way_of_late_signing(shop: SwitchShop) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, sale)
    switch(shop)

    def remove(config: HostConfig) -> None:
        del config.scus[0]
        config.queues[0].scu_id = config.scus[0].id

    before = signatures(shop)
    shop.reopen(remove)
    with pytest.raises(ReceiptRejected, match="may have been signed"):
        sale(shop)
    assert shop.sale("S", case=0x01 | LATE)["ftState"] == DE + 8
    assert signatures(shop) == before[1:]
    check(shop, 2)


@pytest.mark.parametrize("away", [True, False], ids=["source away at the start", "source there"])
def test_it_may_die_again_over_the_answer_of_the_source(shop: SwitchShop, away: bool) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, sale)
    switch(shop)
    before = signatures(shop)
    die_at_commit(shop, 1, sale)
    if away:
        start_without_tse(shop)
    assert kinds(shop) == [Knowledge.UNDECIDED]
    assert sale(shop)["ftReceiptIdentification"].endswith("#IT2")
    assert signatures(shop) == before
    check(shop, 2)


@pytest.mark.parametrize("commits", [1, 2])
def test_it_may_die_again_at_the_target(shop: SwitchShop, commits: int) -> None:
    """Before it is durable that the source had not signed it, or over the answer of the target."""
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, sale)
    switch(shop)
    before = signatures(shop)
    die_at_commit(shop, commits, sale)
    assert sale(shop)["ftState"] == DE
    assert signatures(shop) == [before[0], before[1] + 2]
    check(shop, 2 if commits == 1 else 1)


def test_a_start_is_begun_at_the_target(shop: SwitchShop) -> None:
    """What was open at the source was given up when the queue left it."""
    shop.tse.fail_after("start_transaction", Death())
    undecided(shop, lambda shop: shop.send(0x08, "E"))
    switch(shop)
    assert shop.send(0x08, "E")["ftReceiptIdentification"].endswith("#ST2")
    assert shop.sale("E", flow="explicit")["ftState"] == DE
    check(shop, 1)


def test_a_receipt_that_comes_too_late_is_a_new_one(shop: SwitchShop) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, sale)
    switch(shop)
    before = signatures(shop)
    shop.clock.ticks += RESEND_WITHIN_TICKS
    assert sale(shop)["ftState"] == DE
    assert signatures(shop) == [before[0], before[1] + 2]


def test_in_failed_mode_it_is_answered_without_any_tse(shop: SwitchShop) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, sale)
    switch(shop)
    before = signatures(shop)
    shop.target.down = DOWN
    assert shop.sale("other")["ftState"] == DE + 2
    shop.target.calm()
    assert sale(shop)["ftState"] == DE + 2
    assert signatures(shop) == before
    check(shop, 1)


def test_a_stop_of_the_source_does_not_stop_the_queue_at_the_target(shop: SwitchShop) -> None:
    """It was signed and given up; sent again, it is signed where the queue is."""
    shop.tse.fail_before("unregister_client_id", Death())
    undecided(shop, lambda shop: shop.send(0x04 | CLIENT_ONLY | BYPASS_TAR_EXPORT, "STOP"))
    switch(shop)
    before = signatures(shop)
    shop.send(0x04 | CLIENT_ONLY | BYPASS_TAR_EXPORT, "STOP")
    assert signatures(shop) == [before[0], before[1] + 3]  # with the end of its client
    assert shop.target.scu.get_tse_info().current_client_ids == []


def test_between_the_receipts_of_a_switch_nothing_is_signed(shop: SwitchShop) -> None:
    shop.tse.fail_after("finish_transaction", Death())
    undecided(shop, sale)
    shop.send(INITIATE | FORCE | CLIENT_ONLY | BYPASS_TAR_EXPORT, "SW-1")
    before = signatures(shop)
    assert sale(shop)["ftState"] == DE + 0x100
    assert signatures(shop) == before
    assert shop.send(FINISH | BYPASS_TAR_EXPORT, "SW-2")["ftState"] == DE
