"""A process that dies between the TSE's signature and the answer: what the POS sends again is signed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.queue.queue import RESEND_WITHIN_TICKS
from fiskal.scu.contract import FinishTransactionRequest
from fiskal.scu.errors import Unreachable
from tests.support.shop import DE, Shop, captions

BYPASS_TAR_EXPORT = 0x0400_0000
DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")


class Death(BaseException):
    """The process dies here."""


def die(shop: Shop, call: str, *, after: bool, send: Callable[[], Any]) -> None:
    (shop.tse.fail_after if after else shop.tse.fail_before)(call, Death())
    with pytest.raises(Death):
        send()
    shop.reopen()


def signatures(shop: Shop) -> int:
    return int(shop.tse.scu.get_tse_info().current_number_of_signatures)


def check(shop: Shop, errors: int) -> None:
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems
    assert report.counts["errors"] == errors


def sale(shop: Shop) -> dict[str, Any]:
    return shop.sale("S-1")


def order(shop: Shop) -> dict[str, Any]:
    return shop.send(0x10, "O-1")


def zero(shop: Shop) -> dict[str, Any]:
    return shop.send(0x02, "Z-1")


def daily(shop: Shop) -> dict[str, Any]:
    return shop.send(0x07 | BYPASS_TAR_EXPORT, "D-1")  # erasing would be one signature more


@pytest.mark.parametrize("kind", [sale, order, zero, daily])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["start_transaction", "finish_transaction"])
@pytest.mark.parametrize("deaths", [1, 2])
def test_an_implicit_receipt_sent_again_is_signed_once(
    shop: Shop, kind: Callable[[Shop], dict[str, Any]], call: str, after: bool, deaths: int
) -> None:
    before = signatures(shop)
    for _ in range(deaths):
        die(shop, call, after=after, send=lambda: kind(shop))
    answer = kind(shop)
    assert answer["ftState"] == DE
    assert answer["ftQueueRow"] == 2 + deaths
    assert answer["ftReceiptIdentification"] == "ft1#IT2"
    assert signatures(shop) == before + 2
    assert shop.open_on_tse() == []
    check(shop, deaths)
    assert kind(shop)["ftReceiptIdentification"] == "ft2#IT3"  # once answered, the same request is a new one


def test_another_request_is_no_repetition(shop: Shop) -> None:
    die(shop, "finish_transaction", after=True, send=lambda: shop.sale("S-1"))
    assert shop.sale("S-1", amount="8.00")["ftReceiptIdentification"] == "ft1#IT3"
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft2#IT2"
    check(shop, 1)


def test_deaths_of_two_registers(shop: Shop) -> None:
    for reference in ("A", "B"):
        die(shop, "finish_transaction", after=True, send=lambda reference=reference: shop.sale(reference))  # type: ignore[misc]
    before = signatures(shop)
    assert shop.sale("A")["ftReceiptIdentification"] == "ft1#IT2"
    assert shop.sale("B")["ftReceiptIdentification"] == "ft2#IT3"
    assert signatures(shop) == before
    check(shop, 2)


def test_after_a_while_a_repetition_is_a_new_receipt(shop: Shop) -> None:
    die(shop, "finish_transaction", after=True, send=lambda: shop.sale("S-1"))
    shop.clock.ticks += RESEND_WITHIN_TICKS
    shop.reopen()
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft1#IT3"


def test_a_daily_closing_ends_what_was_interrupted(shop: Shop) -> None:
    die(shop, "start_transaction", after=True, send=lambda: shop.sale("S-1"))
    shop.send(0x07 | 0x2_0000_0000, "D")
    assert shop.open_on_tse() == []
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft2#IT4"
    shop.reopen()
    assert shop.sale("S-1")["ftReceiptIdentification"] == "ft3#IT5"
    check(shop, 1)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["start_transaction", "finish_transaction"])
def test_explicit_steps_sent_again(shop: Shop, call: str, after: bool) -> None:
    before = signatures(shop)
    if call == "start_transaction":
        die(shop, call, after=after, send=lambda: shop.send(0x08, "E"))
    start = shop.send(0x08, "E")
    assert start["ftReceiptIdentification"] == "ft1#ST2"
    if call == "finish_transaction":
        die(shop, call, after=after, send=lambda: shop.sale("E", flow="explicit"))
    finish = shop.sale("E", flow="explicit")
    assert finish["ftReceiptIdentification"] == "ft2#T2"
    assert finish["ftState"] == start["ftState"] == DE
    assert signatures(shop) == before + 2
    assert shop.open_on_tse() == []
    assert shop.open_references() == []
    check(shop, 1)


def test_an_interrupted_finish_that_comes_again_in_failed_mode_is_recovered_once(shop: Shop) -> None:
    shop.send(0x08, "E")
    die(shop, "finish_transaction", after=True, send=lambda: shop.sale("E", flow="explicit"))
    before = signatures(shop)
    shop.tse.down = DOWN
    shop.sale("other")
    assert shop.sale("E", flow="explicit")["ftState"] == DE + 2
    shop.tse.down = None
    zeroed = zero(shop)
    assert zeroed["ftState"] == DE
    assert len(zeroed["ftSignatures"]) == 31  # its own, the recovered finish and the note
    assert signatures(shop) == before + 2  # the zero receipt's own
    check(shop, 1)


# ---- transactions that somebody else closed ---------------------------------------------------------------


def close_elsewhere(shop: Shop) -> None:
    (number,) = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=number, process_type="Kassenbeleg-V1")
    )


@pytest.mark.parametrize("case", [0x01, 0x0B])
def test_a_finish_the_tse_will_never_take_is_no_failed_mode(shop: Shop, case: int) -> None:
    shop.send(0x08, "E")
    close_elsewhere(shop)
    with pytest.raises(ReceiptRejected) as caught:
        shop.send(case, "E", flow="explicit")
    assert caught.value.code == "TRANSACTION_NOT_FOUND"
    assert shop.open_references() == []
    assert shop.row.SSCDFailCount == 0
    assert any(message.startswith("Removed open transaction 2") for message in shop.actions())
    assert shop.send(0x08, "E")["ftReceiptIdentification"].endswith("#ST3")


def test_a_failed_finish_closed_elsewhere_does_not_keep_failed_mode(shop: Shop) -> None:
    shop.send(0x08, "E")
    shop.tse.fail_before("finish_transaction", DOWN)
    assert shop.sale("E", flow="explicit")["ftState"] == DE + 2
    close_elsewhere(shop)
    answer = zero(shop)
    assert answer["ftState"] == DE
    assert captions(answer)[15].startswith("TSE Kommunikation wiederhergestellt")
    assert shop.open_references() == []
    assert any(message.startswith("Removed open transaction 2") for message in shop.actions())
    assert sale(shop)["ftState"] == DE
    check(shop, 0)
