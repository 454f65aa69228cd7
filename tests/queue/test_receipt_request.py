"""The receipt request flag: what it finds, what it does not, and that it changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected, StoreError
from fiskal.queue.settings import QueueSettings
from fiskal.scu.errors import Unreachable
from tests.queue.test_switch import two_queues
from tests.support.shop import DE, IMPLICIT, DyingStore, Shop

FLAG = 0x8000_0000_0000
LATE, HANDWRITTEN = 0x1_0000, 0x8_0000
DOWN = Unreachable("CONNECT_FAILED", "Nobody answers.")
MOMENT = "2024-01-02T08:00:00Z"

Request = dict[str, Any]


@pytest.fixture
def signing(tmp_path: Path) -> Iterator[Shop]:
    """A shop that signs what a receipt request does not find."""
    made = Shop(tmp_path, settings=QueueSettings(receipt_request_mode=1))
    yield made
    made.close()


def sold(shop: Shop, case: int = 0x01 | IMPLICIT, **members: Any) -> Request:
    """A sale with every member that a comparison could look at."""
    item = {
        "Quantity": 1,
        "Description": "Brezel",
        "Amount": 1.5,
        "VATRate": 7,
        "ftChargeItemCase": DE | 2,
        "Moment": MOMENT,
    }
    pay = {"Quantity": 1, "Description": "Bar", "Amount": 1.5, "ftPayItemCase": DE | 1, "Moment": MOMENT}
    request = shop.request(case, "S", flow="as it is", cbChargeItems=[item], cbPayItems=[pay])
    return {**request, **members}


def asking(request: Request, **members: Any) -> Request:
    return {**request, "ftReceiptCase": request["ftReceiptCase"] | FLAG, **members}


def changed(member: str, **values: Any) -> Callable[[Request], None]:
    def change(request: Request) -> None:
        request[member][0].update(values)

    return change


def members(**values: Any) -> Callable[[Request], None]:
    return lambda request: request.update(values)


def double(member: str) -> Callable[[Request], None]:
    def change(request: Request) -> None:
        request[member] = request[member] * 2

    return change


@pytest.mark.parametrize(
    "change",
    [
        members(),
        members(cbReceiptMoment="2024-02-02T08:00:00Z"),
        members(cbTerminalID=""),
        members(cbUser="somebody else", cbArea="elsewhere", cbReceiptAmount=17),
        members(ftReceiptCase=DE | IMPLICIT | FLAG | LATE | 0x01),
        changed("cbChargeItems", Description="Bretzel", Quantity=3, VATRate=19, ProductNumber="7"),
        changed("cbChargeItems", Amount="1.5000", Moment="2024-01-02T09:00:00+01:00"),
        changed("cbPayItems", Description="Cash", Quantity=2, MoneyNumber="1"),
    ],
)
def test_what_it_does_not_compare(shop: Shop, change: Callable[[Request], None]) -> None:
    request = sold(shop)
    answer = shop.post(request)
    before = shop.row
    asked = asking(json.loads(json.dumps(request)))
    change(asked)
    assert shop.post(asked) == answer
    assert shop.row == before


@pytest.mark.parametrize(
    "change",
    [
        members(cbReceiptReference="T"),
        members(cbReceiptReference="s"),
        members(cbTerminalID="T2"),
        members(cbChargeItems=[]),
        members(cbPayItems=None),
        members(ftReceiptCase=DE | IMPLICIT | FLAG | 0x0C),
        double("cbChargeItems"),
        double("cbPayItems"),
        changed("cbChargeItems", Amount=1.51),
        changed("cbChargeItems", Amount=-1.5),
        changed("cbChargeItems", ftChargeItemCase=DE | 1),
        changed("cbChargeItems", Moment="2024-01-02T08:00:01Z"),
        changed("cbChargeItems", Moment=None),
        changed("cbPayItems", Amount=1.4),
        changed("cbPayItems", ftPayItemCase=DE | 5),
        changed("cbPayItems", Moment="2024-01-02T08:00:00.0000001Z"),
    ],
)
def test_what_differs_is_not_found_and_leaves_no_trace(shop: Shop, change: Callable[[Request], None]) -> None:
    request = sold(shop)
    shop.post(request)
    before, actions = shop.row, len(shop.actions())
    asked = asking(json.loads(json.dumps(request)))
    change(asked)
    assert shop.post(asked) is None
    assert (shop.row, len(shop.actions())) == (before, actions)


def test_a_hit_is_the_stored_text_and_one_entry_of_the_action_journal(shop: Shop) -> None:
    request = sold(shop)
    text = shop.middleware.sign_json(json.dumps(request).encode())
    shop.sale("another")
    before = shop.row
    assert shop.middleware.sign_json(json.dumps(asking(request)).encode()) == text
    assert shop.row == before
    (*_, entry) = shop.journal(1)
    assert entry["Type"] == ""
    assert entry["Message"] == f'Queue {shop.queue_id} found cbReceiptReference "S"'
    assert entry["ftQueueItemId"] == json.loads(text)["ftQueueItemID"]
    assert entry["Priority"] == 0


def test_missing_items_are_no_items(shop: Shop) -> None:
    order = shop.send(0x10, "O")
    asked = shop.request(0x10 | FLAG, "O")
    for empty in ({"cbChargeItems": None, "cbPayItems": None}, {}):
        request = {key: value for key, value in asked.items() if key not in ("cbChargeItems", "cbPayItems")}
        assert shop.post({**request, **empty}) == order


def test_the_newest_of_several_unless_one_fits_exactly(shop: Shop) -> None:
    answers = [shop.post(sold(shop, cbReceiptMoment=f"2024-01-0{day}T08:00:00Z")) for day in (1, 2, 3)]
    for day, answer in enumerate(answers, 1):
        asked = asking(sold(shop), cbReceiptMoment=f"2024-01-0{day}T08:00:00Z")
        assert shop.post(asked) == answer
    assert shop.post(asking(sold(shop), cbReceiptMoment="2024-01-09T08:00:00Z")) == answers[2]


def test_an_errored_receipt_hides_no_good_one(shop: Shop) -> None:
    shop.send(0x08, "S")
    answer = shop.post(sold(shop, 0x01))
    with pytest.raises(ReceiptRejected):
        shop.post(sold(shop, 0x01))  # the transaction is finished already
    assert shop.post(asking(sold(shop, 0x01))) == answer


@pytest.mark.parametrize(("flags", "state"), [(LATE, 8), (HANDWRITTEN, 0), (0x2_0000, 0), (0x4_0000, 0)])
def test_flagged_receipts_are_found(shop: Shop, flags: int, state: int) -> None:
    request = sold(shop, 0x01 | IMPLICIT | flags)
    answer = shop.post(request)
    assert answer["ftState"] == DE + state
    before = shop.row
    assert shop.post(asking(request)) == answer
    assert shop.row == before  # it is not counted as handed in late again


def test_the_first_receipt_of_an_outage_is_found_with_the_flag_for_late_signing_too(shop: Shop) -> None:
    """The register does not know whether the receipt arrived before it lost the middleware: it asks with the
    case the receipt would have if it has to be handed in."""
    answer = shop.post(sold(shop))
    asked = asking(sold(shop, 0x01 | IMPLICIT | LATE))
    assert shop.post(asked) == answer
    assert shop.row.UsedFailedCount == 0


@pytest.mark.parametrize("case", [0x02, 0x05, 0x06, 0x07, 0x08, 0x0B, 0x10, 0x14])
def test_every_kind_is_found(shop: Shop, case: int) -> None:
    if case == 0x0B:
        shop.send(0x08, "R")
    answer = shop.send(case, "R")
    before, calls = shop.row, len(shop.tse.calls)
    assert shop.send(case | FLAG, "R") == answer
    assert (shop.row, len(shop.tse.calls)) == (before, calls)


def test_what_failed_mode_answered_is_answered_again_as_it_was(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", DOWN)
    answer = shop.post(sold(shop))
    assert answer["ftState"] == DE + 2
    assert shop.send(0x02, "Z")["ftState"] == DE
    assert shop.post(asking(sold(shop))) == answer


def test_a_queue_out_of_service_answers_too(new_shop: Shop) -> None:
    shop = new_shop
    assert shop.post(asking(sold(shop))) is None
    refused = shop.post(sold(shop))
    assert refused["ftState"] == DE + 1
    shop.send(0x03)
    assert shop.post(asking(sold(shop))) == refused
    answer = shop.post(sold(shop))
    assert answer["ftState"] == DE
    shop.send(0x04)
    rows = shop.row.ftCurrentRow
    assert shop.post(asking(sold(shop))) == answer
    assert shop.post(asking(sold(shop), cbReceiptReference="never")) is None
    assert shop.row.ftCurrentRow == rows


def test_a_migrated_queue_answers_what_it_has(shop: Shop) -> None:
    answer = shop.post(sold(shop))
    shop.send(0x19, "M")
    assert shop.post(asking(sold(shop))) == answer
    with pytest.raises(ReceiptRejected, match="migration mode"):
        shop.post(asking(sold(shop), cbReceiptReference="never"))


def test_other_queues_are_not_asked(tmp_path: Path) -> None:
    shop = Shop(tmp_path, prepare=two_queues)
    first, second = (queue.id for queue in shop.config.queues)
    shop.post(sold(shop))
    shop.queue_id = second
    shop.send(0x03)
    assert shop.post(asking(sold(shop))) is None
    shop.queue_id = first
    assert shop.post(asking(sold(shop))) is not None
    shop.close()


def test_what_is_in_work_is_waited_for(shop: Shop) -> None:
    """The receipt is at the TSE when the register asks: the question waits, as every receipt of the queue."""
    at_the_tse, go_on = threading.Event(), threading.Event()
    finish = shop.tse.scu.finish_transaction

    def slowly(*arguments: Any) -> Any:
        at_the_tse.set()
        assert go_on.wait(60)
        return finish(*arguments)

    answers: dict[str, Any] = {}
    shop.tse.scu.finish_transaction = slowly  # type: ignore[method-assign]
    selling = threading.Thread(target=lambda: answers.update(sold=shop.post(sold(shop))))
    selling.start()
    assert at_the_tse.wait(60)
    asking_ = threading.Thread(target=lambda: answers.update(asked=shop.post(asking(sold(shop)))))
    asking_.start()
    go_on.set()
    selling.join()
    asking_.join()
    assert answers["asked"] == answers["sold"] is not None


def test_an_order_is_never_taken_for_a_start_transaction(shop: Shop) -> None:
    """Neither has items, and the answer of one must not pass for the other's."""
    order = shop.send(0x10, "S")
    assert shop.send(0x08 | FLAG, "S") is None
    assert shop.send(0x10 | LATE | FLAG, "S") == order


# ---- the mode that signs ------------------------------------------------------------------------------


def test_mode_1_signs_what_is_not_found_without_the_flag(signing: Shop) -> None:
    answer = signing.post(asking(sold(signing)))
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"] == "ft1#IT2"
    stored = signing.middleware.store.item(answer["ftQueueItemID"])
    assert stored is not None
    assert json.loads(stored.item.request)["ftReceiptCase"] == DE | IMPLICIT | 0x01
    before = signing.row
    assert signing.post(asking(sold(signing))) == answer
    assert signing.row == before


def test_mode_1_signs_if_there_are_only_errors(signing: Shop) -> None:
    with pytest.raises(ReceiptRejected):
        signing.post(sold(signing, 0x01))
    signing.send(0x08, "S")
    answer = signing.post(asking(sold(signing, 0x01)))
    assert answer["ftReceiptIdentification"] == "ft2#T2"


def test_mode_1_keeps_the_other_flags(signing: Shop) -> None:
    answer = signing.post(asking(sold(signing, 0x01 | IMPLICIT | LATE)))
    assert answer["ftState"] == DE + 8
    assert signing.row.UsedFailedCount == 1


def test_mode_1_of_a_queue_out_of_service(tmp_path: Path) -> None:
    shop = Shop(tmp_path, start=False, settings=QueueSettings(receipt_request_mode=1))
    assert shop.post(asking(sold(shop)))["ftState"] == DE + 1
    shop.close()


# ---- faults -------------------------------------------------------------------------------------------


def test_a_lookup_that_cannot_read_is_an_error_and_no_second_signature(signing: Shop) -> None:
    """To take it for a miss would sign a receipt a second time."""
    request = sold(signing)
    signing.post(request)
    queue = signing.middleware.queue()
    store = queue.journal.store

    class Blind:
        def __getattr__(self, name: str) -> Any:
            if name == "items_by_reference":
                raise StoreError("I/O error")
            return getattr(store, name)

    queue.journal.store = Blind()  # type: ignore[assignment]
    signed = signing.tse.scu.get_tse_info().current_number_of_signatures
    with pytest.raises(StoreError):
        signing.post(asking(request))
    queue.journal.store = store
    assert signing.tse.scu.get_tse_info().current_number_of_signatures == signed


def test_a_hit_whose_journal_entry_cannot_be_written_can_be_asked_again(shop: Shop) -> None:
    answer = shop.post(sold(shop))
    queue = shop.middleware.queue()
    store = queue.journal.store
    queue.journal.store = DyingStore(store, 0, StoreError("disk full"))  # type: ignore[assignment]
    with pytest.raises(StoreError):
        shop.post(asking(sold(shop)))
    queue.journal.store = store
    assert shop.post(asking(sold(shop))) == answer
