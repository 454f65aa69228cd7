"""Taking a queue into operation and out of it, and several queues that share one TSE."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.queue.settings import QueueSettings
from fiskal.scu.contract import TseState, TseStates
from fiskal.scu.errors import OutcomeUnknown, TseRejected, Unreachable
from tests.queue.test_healthy import SIG_FIN, SIG_TX, shape
from tests.queue.test_switch import SwitchShop, two_queues
from tests.support.shop import DE, Shop, captions, data_of

DOWN = Unreachable("CONNECT_FAILED", "Nobody answers.")
START, STOP, DAILY, ZERO = 0x03, 0x04, 0x07, 0x02
CLIENT_ONLY, CLOSE_ALL = 0x100_0000, 0x2_0000_0000
ACTIVATED = "4445000000000003-ActivateQueueSCU"
DEACTIVATED = "4445000000000004-DeactivateQueueSCU"


# ---- into operation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["set_tse_state", "get_tse_info", "register_client_id", "start_transaction"]
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_start_that_fails_anywhere_is_an_error_and_can_be_sent_again(
    new_shop: Shop, method: str, after: bool
) -> None:
    shop = new_shop
    if after:
        shop.tse.fail_after(method, OutcomeUnknown("NO_RESPONSE", "lost"))
    else:
        shop.tse.fail_before(method, DOWN)
    with pytest.raises((Unreachable, OutcomeUnknown)):
        shop.send(START, "INIT")
    row = shop.row
    assert (row.StartMoment, row.SSCDFailCount, row.ftReceiptNumerator, row.ftCurrentRow) == (None, 0, 0, 1)
    assert shop.actions_of(ACTIVATED) == []
    assert shop.sale()["ftState"] == DE + 1
    again = shop.send(START, "INIT")
    assert again["ftState"] == DE
    assert len(again["ftSignatures"]) == 17
    assert again["ftReceiptIdentification"].startswith("ft1#IT")
    assert len(shop.actions_of(ACTIVATED)) == 1
    assert shop.tse.scu.get_tse_info().current_client_ids == ["POS-1"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_start_that_fails_at_its_finish_leaves_nothing_open_after_the_closing(
    new_shop: Shop, after: bool
) -> None:
    shop = new_shop
    if after:
        shop.tse.fail_after("finish_transaction", OutcomeUnknown("NO_RESPONSE", "lost"))
    else:
        shop.tse.fail_before("finish_transaction", DOWN)
    with pytest.raises((Unreachable, OutcomeUnknown)):
        shop.send(START, "INIT")
    assert shop.send(START, "INIT")["ftReceiptIdentification"] == "ft0#IT2"
    shop.send(DAILY, "Z")
    assert shop.open_on_tse() == []
    assert shop.open_references() == []


def test_client_only_start_uses_a_tse_that_is_in_operation(new_shop: Shop) -> None:
    shop = new_shop
    shop.tse.scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    answer = shop.send(START | CLIENT_ONLY, "INIT")
    assert answer["ftState"] == DE
    assert "set_tse_state" not in shop.tse.calls
    assert len(answer["ftSignatures"]) == 17


def test_the_start_receipt_in_the_action_journal(new_shop: Shop) -> None:
    shop = new_shop
    answer = shop.send(START, "INIT")
    serial = shop.tse.scu.get_tse_info().serial_number_octet
    (entry,) = shop.actions_of(ACTIVATED)
    text = f"Kassenseriennummer: POS-1, TSE-Seriennummer: {serial}, Queue-ID: {shop.queue_id}"
    assert entry.Priority == -1
    assert entry.ftQueueItemId == answer["ftQueueItemID"]
    assert entry.Message == f"In-Betriebnahme-Beleg. {text}"
    assert data_of(answer, entry.Message) == entry.DataJson


# ---- out of operation ---------------------------------------------------------------------------------


def test_the_whole_stop_receipt(shop: Shop) -> None:
    info = shop.tse.scu.get_tse_info()
    shop.send(0x08, "A")
    answer = shop.send(STOP, "END")
    assert answer["ftState"] == DE
    assert answer["ftReceiptIdentification"] == "ft2#IT3"
    text = (
        f"Kassenseriennummer: POS-1, TSE-Seriennummer: {info.serial_number_octet}, Queue-ID: {shop.queue_id}"
    )
    message = f"Außer-Betriebnahme-Beleg. {text}"
    assert shape(answer) == [*SIG_TX, ("Außer-Betriebnahme-Beleg", 0x02, 1), (message, 0x04, 8)]
    assert data_of(answer, "<processData>") == "out of operation receipt / stop-receipt"
    assert data_of(answer, "Außer-Betriebnahme-Beleg") == text
    assert json.loads(answer["ftStateData"])["TseInfo"]["CurrentClientIds"] == ["POS-1"]
    (entry,) = shop.actions_of(DEACTIVATED)
    assert (entry.Message, entry.Priority, entry.DataJson) == (message, -1, data_of(answer, message))
    notification = json.loads(entry.DataJson)
    assert notification.pop("Moment").startswith("2023-11-14T")
    assert list(notification.items()) == [
        ("CashBoxId", shop.config.cash_box_id),
        ("QueueId", shop.queue_id),
        ("CashBoxIdentification", "POS-1"),
        ("SCUId", shop.scu_id),
        ("SCUPackageName", None),
        ("SCUSignatureAlgorithm", info.signature_algorithm),
        ("SCUPublicKeyBase64", info.public_key_base64),
        ("SCUSerialNumberBase64", info.serial_number_octet),
        ("IsStopReceipt", True),
        ("Version", "V0"),
    ]
    after = shop.tse.scu.get_tse_info()
    assert (after.current_state, after.current_client_ids) == (TseStates.TERMINATED, [])
    assert shop.row.StopMoment is not None


def test_a_stop_without_the_tse_tells_what_is_known_of_it(shop: Shop) -> None:
    info = shop.tse.scu.get_tse_info()
    shop.reopen()  # what is known comes from the store
    shop.tse.down = DOWN
    answer = shop.send(STOP, "END")
    assert (answer["ftState"], answer["ftSignatures"]) == (DE, [])
    assert answer["ftReceiptIdentification"] == "ft1#"
    assert "ftStateData" not in answer
    (entry,) = shop.actions_of(DEACTIVATED)
    notification = json.loads(entry.DataJson)
    assert notification["SCUSerialNumberBase64"] == info.serial_number_octet
    assert notification["SCUPublicKeyBase64"] == info.public_key_base64
    assert shop.row.StopMoment is not None
    assert shop.row.SSCDFailCount == 0


def test_a_stop_is_signed_in_failed_mode_if_the_tse_is_back(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", DOWN)
    assert shop.sale()["ftState"] == DE + 2
    answer = shop.send(STOP, "END")
    assert len(answer["ftSignatures"]) == 17
    assert shop.row.SSCDFailCount == 1  # kept as it was, for whoever looks into the journal


def test_a_stop_that_the_tse_refuses_to_sign_still_lets_the_client_go(shop: Shop) -> None:
    shop.tse.fail_before("start_transaction", TseRejected("LOG_FULL", "the memory is full"))
    answer = shop.send(STOP | CLIENT_ONLY, "END")
    assert (answer["ftState"], answer["ftSignatures"]) == (DE, [])
    assert shop.tse.scu.get_tse_info().current_client_ids == []


def test_a_client_that_cannot_be_deregistered_is_journalled(shop: Shop) -> None:
    shop.tse.fail_before("unregister_client_id", DOWN)
    answer = shop.send(STOP, "END")
    assert len(answer["ftSignatures"]) == 17
    assert any(text.startswith("The TSE did not deregister the client: ") for text in shop.actions())
    assert shop.tse.scu.get_tse_info().current_state is TseStates.INITIALIZED


def test_a_stopped_queue_never_starts_again(shop: Shop) -> None:
    shop.send(STOP | CLIENT_ONLY, "END")
    calls = len(shop.tse.calls)
    for _ in range(2):
        answer = shop.send(START, "INIT")
        assert (answer["ftState"], answer["ftSignatures"]) == (DE + 1, [])
    text = f"Queue {shop.queue_id} is de-activated, initial-operations-receipt can not be executed."
    assert shop.actions().count(text) == 2
    assert sum("was not activated or already deactivated" in each for each in shop.actions()) == 1
    assert len(shop.tse.calls) == calls
    shop.reopen()
    shop.sale()  # once more in every run of the process
    assert sum("was not activated or already deactivated" in each for each in shop.actions()) == 2


# ---- several queues on one TSE ------------------------------------------------------------------------


class Pair(SwitchShop):
    """Two queues on one TSE; ``use`` says which one the next receipts are for."""

    def use(self, number: int) -> Pair:
        self.queue_id = self.config.queues[number].id
        return self


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path, prepare=two_queues)
    made.use(1).send(START)
    yield made.use(0)
    made.close()


def test_both_queues_are_clients_of_the_tse(pair: Pair) -> None:
    assert pair.tse.scu.get_tse_info().current_client_ids == ["POS-1", "POS-2"]
    numbers = []
    for number in (0, 1, 0):
        answer = pair.use(number).sale()
        assert data_of(answer, "<kassen-seriennummer>") == f"POS-{number + 1}"
        numbers.append(int(data_of(answer, "<transaktions-nummer>")))
    assert numbers == [3, 4, 5]  # one counter for all clients of a TSE
    assert pair.use(1).row.ftReceiptNumerator == 2


def test_a_stop_never_terminates_a_tse_that_others_use(pair: Pair) -> None:
    with pytest.raises(ReceiptRejected) as caught:
        pair.send(STOP, "END")
    assert caught.value.code == "TSE_SHARED"
    assert "is also used by POS-2." in caught.value.message
    assert pair.sale()["ftState"] == DE
    assert pair.send(STOP | CLIENT_ONLY, "END")["ftState"] == DE
    assert pair.sale()["ftState"] == DE + 1
    assert pair.use(1).sale()["ftState"] == DE
    assert pair.send(STOP, "END")["ftState"] == DE  # the last one switches off the light
    assert pair.tse.scu.get_tse_info().current_state is TseStates.TERMINATED


def test_a_stop_terminates_a_shared_tse_only_if_it_is_told_to(tmp_path: Path) -> None:
    pair = Pair(tmp_path, prepare=two_queues, settings=QueueSettings(terminate_shared_tse=True))
    pair.use(1).send(START)
    assert pair.use(0).send(STOP, "END")["ftState"] == DE
    assert pair.tse.scu.get_tse_info().current_state is TseStates.TERMINATED
    assert pair.use(1).sale()["ftState"] == DE + 2
    pair.close()


def test_failed_mode_and_late_signing_are_each_queues_own(pair: Pair) -> None:
    pair.tse.fail_before("start_transaction", DOWN)
    assert pair.sale()["ftState"] == DE + 2
    assert pair.sale(case=0x1_0001)["ftState"] == DE + 8
    assert pair.use(1).sale()["ftState"] == DE
    assert len(pair.send(ZERO, "Z")["ftSignatures"]) == 15
    assert pair.use(0).sale()["ftState"] == DE + 2
    assert len(pair.send(ZERO, "Z")["ftSignatures"]) == 17
    assert pair.sale()["ftState"] == DE


def test_a_closing_leaves_the_transactions_of_others_alone(pair: Pair) -> None:
    pair.send(0x08, "mine")
    pair.use(1).send(0x08, "theirs")
    answer = pair.use(0).send(DAILY, "Z")
    assert shape(answer) == SIG_TX + SIG_FIN
    assert pair.open_references() == []
    assert pair.use(1).open_references() == ["theirs"]
    assert pair.sale("theirs", flow="explicit")["ftState"] == DE
    assert pair.open_on_tse() == []


@pytest.mark.parametrize("by_setting", [False, True])
def test_a_closing_told_to_close_everything_does(tmp_path: Path, by_setting: bool) -> None:
    settings = QueueSettings(close_open_tse_transactions_on_daily_closing=by_setting)
    pair = Pair(tmp_path, prepare=two_queues, settings=settings)
    pair.use(1).send(START)
    pair.send(0x08, "theirs")
    (number,) = pair.open_on_tse()
    pair.use(0).send(0x08, "mine")
    answer = pair.send(DAILY | (0 if by_setting else CLOSE_ALL), "Z")
    assert shape(answer) == SIG_TX + SIG_FIN + SIG_FIN
    assert pair.open_on_tse() == []
    (entry,) = pair.actions_of("4445000020000000-CurrentStartedTransactionNumbers")
    serial = pair.tse.scu.get_tse_info().serial_number_octet
    assert entry.Message == f"Closed all open transactions on the TSE {serial}."
    assert entry.DataJson == f"[{number}]"
    with pytest.raises(ReceiptRejected) as caught:  # the other queue learns of it, and stays in good health
        pair.use(1).sale("theirs", flow="explicit")
    assert caught.value.code == "TRANSACTION_NOT_FOUND"
    assert pair.sale("theirs")["ftState"] == DE
    assert pair.row.SSCDFailCount == 0
    pair.close()


def test_closings_count_for_their_own_queue(pair: Pair) -> None:
    for number, expected in ((0, 1), (0, 2), (1, 1)):
        answer = pair.use(number).send(DAILY, "Z")
        assert json.loads(answer["ftStateData"])["DailyClosingNumber"] == expected
        assert captions(answer)[-1] == "<public-key>"
