"""From one SCU to another: initiate, finish, void and force, with TSEs that work and TSEs that do not."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fiskal
from fiskal.errors import ConfigurationError, ReceiptRejected, StoreError
from fiskal.export.verify import verify_journal
from fiskal.host import config as configs
from fiskal.host.config import HostConfig, QueueConfig, ScuConfig
from fiskal.queue.receipts.lifecycle import NotInitialized
from fiskal.queue.settings import QueueSettings
from fiskal.scu.contract import RegisterClientIdRequest, TseState, TseStates
from fiskal.scu.errors import OutcomeUnknown, TseRejected, Unreachable
from fiskal.store import Change, FailedTransactionRow, OpenTransactionRow
from tests.queue.test_healthy import SIG_TX, shape
from tests.support.shop import DE, DyingStore, FaultyScu, Shop, captions, data_of

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available. Nobody answers.")
INITIATE, FINISH, DAILY = 0x17, 0x18, 0x07
VOID, FORCE, CLIENT_ONLY = 0x4_0000, 0x4000_0000, 0x100_0000
SWITCHING = DE + 0x100

INITIATED = "4445000000000003-InitiateSCUSwitch"
FINISHED = "4445000000000003-FinishSCUSwitch"
DROPPED = "4445000020000000-OpenTransaction"


def two_scus(config: HostConfig) -> None:
    """A second SCU, and both prepared for a switch to it."""
    source = config.scus[0]
    target = ScuConfig(id=str(uuid.uuid4()), mode=0x2_0000)
    target.mode_configuration_json = {"SourceScuId": source.id}
    source.mode = 0x1_0000
    source.mode_configuration_json = json.dumps({"TargetScuId": target.id})
    config.scus.append(target)


def two_queues(config: HostConfig) -> None:
    two_scus(config)
    config.queues.append(QueueConfig(id=str(uuid.uuid4()), client_id="POS-2", scu_id=config.scus[0].id))


class SwitchShop(Shop):
    """A shop with a source and a target."""

    @property
    def target_id(self) -> str:
        return self.config.scus[1].id

    @property
    def target(self) -> FaultyScu:
        return self.tses[self.target_id]

    def close_day(self) -> None:
        assert self.send(DAILY, "Z")["ftState"] == DE

    def initiate(self, flags: int = 0, **members: Any) -> dict[str, Any]:
        return self.send(INITIATE | flags, "SW-1", **members)

    def finish(self, flags: int = 0, **members: Any) -> dict[str, Any]:
        return self.send(FINISH | flags, "SW-2", **members)

    def switching(self) -> SwitchShop:
        """Right after an initiate receipt."""
        self.close_day()
        self.initiate(CLIENT_ONLY)
        return self


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[SwitchShop]:
    made = SwitchShop(tmp_path, prepare=two_scus)
    yield made
    made.close()


# ---- the good way -------------------------------------------------------------------------------------


def test_a_switch_from_beginning_to_end(shop: SwitchShop) -> None:
    shop.sale("S-1")
    shop.close_day()
    left = shop.initiate()
    assert left["ftState"] == DE
    assert left["ftReceiptIdentification"] == "ft3#IT4"
    assert shape(left)[:15] == SIG_TX
    assert data_of(left, "<processType>") == "SonstigerVorgang"
    assert data_of(left, "<processData>") == "initiate-scu-switch"
    source = shop.tse.scu.get_tse_info()
    assert source.current_state is TseStates.TERMINATED
    assert json.loads(left["ftStateData"])["TseInfo"]["SerialNumberOctet"] == source.serial_number_octet
    text = f"Kassenseriennummer: POS-1, TSE-Seriennummer: {source.serial_number_octet}, "
    text += f"Queue-ID: {shop.queue_id}"
    message = f"SCU von Queue getrennt. {text}, SCU-ID: {shop.scu_id}"
    assert shape(left)[15:] == [("TSE-Trennungs-Beleg", 0x02, 1), (message, 0x03, 8)]
    assert data_of(left, "TSE-Trennungs-Beleg") == text
    (entry,) = shop.actions_of(INITIATED)
    assert (entry.Message, entry.Priority) == (message, -1)
    assert entry.DataJson == data_of(left, message)
    notification = json.loads(entry.DataJson)
    assert notification.pop("Moment").startswith("2023-11-14T")
    assert list(notification.items()) == [
        ("CashBoxId", shop.config.cash_box_id),
        ("QueueId", shop.queue_id),
        ("CashBoxIdentification", "POS-1"),
        ("SourceSCUId", shop.scu_id),
        ("TargetSCUId", shop.target_id),
        ("SourceSCUPackageName", None),
        ("SourceSCUSignatureAlgorithm", source.signature_algorithm),
        ("SourceSCUPublicKeyBase64", source.public_key_base64),
        ("SourceSCUSerialNumberOctet", source.serial_number_octet),
        ("Version", "V0"),
    ]
    assert shop.row.ftSignaturCreationUnitDEId is None
    assert shop.middleware.queue().status()["state"] == "switching"

    calls = len(shop.tse.calls) + len(shop.target.calls)
    between = shop.sale("S-2")
    assert (between["ftState"], between["ftSignatures"]) == (SWITCHING, [])
    assert between["ftReceiptIdentification"] == "ft4#"
    assert "ftStateData" not in between
    assert len(shop.tse.calls) + len(shop.target.calls) == calls

    joined = shop.finish()
    assert joined["ftState"] == DE
    assert joined["ftReceiptIdentification"] == "ft5#IT1"
    assert len(joined["ftSignatures"]) == 17
    assert shape(joined)[:15] == SIG_TX
    assert data_of(joined, "<processData>") == "finish-scu-switch"
    target = shop.target.scu.get_tse_info()
    assert target.current_client_ids == ["POS-1"]
    assert json.loads(joined["ftStateData"])["TseInfo"]["SerialNumberOctet"] == target.serial_number_octet
    text = text.replace(source.serial_number_octet, target.serial_number_octet)
    message = f"SCU mit Queue verbunden. {text}, SCU-ID: {shop.target_id}"
    assert shape(joined)[15:] == [("TSE-Verbindungs-Beleg", 0x02, 1), (message, 0x03, 8)]
    assert data_of(joined, "TSE-Verbindungs-Beleg") == text
    (entry,) = shop.actions_of(FINISHED)
    assert (entry.Message, entry.Priority, entry.DataJson) == (message, -1, data_of(joined, message))
    notification = json.loads(entry.DataJson)
    assert list(notification)[4:] == [
        "SourceSCUId",
        "TargetSCUId",
        "TargetSCUPackageName",
        "TargetSCUSignatureAlgorithm",
        "TargetSCUPublicKeyBase64",
        "TargetSCUSerialNumberOctet",
        "Version",
    ]
    assert notification["TargetSCUId"] == shop.target_id
    assert notification["TargetSCUPublicKeyBase64"] == target.public_key_base64
    sale = shop.sale("S-3")
    assert sale["ftReceiptIdentification"] == "ft6#IT2"
    assert data_of(sale, "<tse-seriennummer>") == target.serial_number_octet
    assert shop.row.ftSignaturCreationUnitDEId == shop.target_id
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems


def test_the_switch_survives_restarts_between_its_receipts(shop: SwitchShop) -> None:
    shop.switching()
    shop.reopen()
    assert shop.sale("S-1")["ftState"] == SWITCHING
    assert shop.finish()["ftState"] == DE
    shop.reopen()  # the configuration still names the source
    sale = shop.sale("S-2")
    assert data_of(sale, "<tse-seriennummer>") == shop.target.scu.get_tse_info().serial_number_octet


@pytest.mark.parametrize("case", [INITIATE, FINISH])
def test_a_disk_that_fails_before_the_answer_leaves_the_switch_to_the_next_start(
    shop: SwitchShop, case: int
) -> None:
    shop.close_day()
    if case == FINISH:
        shop.initiate(CLIENT_ONLY)
    queue = shop.middleware.queue()
    store = queue.journal.store
    before = shop.row.ftSignaturCreationUnitDEId

    queue.journal.store = DyingStore(store, 1, StoreError("power cut"))  # type: ignore[assignment]
    with pytest.raises(StoreError):
        shop.send(case | CLIENT_ONLY if case == INITIATE else case, "SW")
    assert shop.row.ftSignaturCreationUnitDEId == before
    shop.reopen()
    assert shop.row.ftSignaturCreationUnitDEId == (None if case == INITIATE else shop.target_id)
    again = shop.send(case | CLIENT_ONLY if case == INITIATE else case, "SW")
    assert again["ftState"] == DE
    assert len(again["ftSignatures"]) == 17
    assert again["ftQueueRow"] == shop.row.ftCurrentRow  # the answer that was completed
    if case == INITIATE:
        assert shop.finish()["ftState"] == DE
    assert shop.sale()["ftState"] == DE


def test_client_only_leaves_the_source_in_operation_and_wants_the_target_in_operation(
    shop: SwitchShop,
) -> None:
    shop.close_day()
    assert shop.initiate(CLIENT_ONLY)["ftState"] == DE
    source = shop.tse.scu.get_tse_info()
    assert source.current_state is TseStates.INITIALIZED
    assert source.current_client_ids == []
    with pytest.raises(NotInitialized, match="TSE device is not in awaited lifecycle state 'Initialized'"):
        shop.finish(CLIENT_ONLY)
    assert shop.sale()["ftState"] == SWITCHING
    shop.target.scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    assert shop.finish(CLIENT_ONLY)["ftState"] == DE


# ---- what may not be --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [INITIATE, INITIATE | VOID, FINISH])
def test_flags_and_items_that_contradict_a_switch(shop: SwitchShop, case: int) -> None:
    name = "Finish-SCU-switch" if case == FINISH else "Initiate-SCU-switch"
    text = rf"^ReceiptCase {DE | case:X} \({name} receipt\) must use implicit-flow flag\.$"
    with pytest.raises(ReceiptRejected, match=text):
        shop.send(case, flow="explicit")
    with pytest.raises(ReceiptRejected, match=r"can not use 'TrainingMode' flag\.$"):
        shop.send(case | 0x2_0000)
    with pytest.raises(ReceiptRejected, match="must not have Charge- or PayItems"):
        shop.sale(case=case)
    assert shop.tse.scu.get_tse_info().current_client_ids == ["POS-1"]


def test_initiate_only_right_after_a_daily_closing(shop: SwitchShop) -> None:
    text = (
        f"ReceiptCase {DE | 0x1_0000_0000 | INITIATE:X} (initiate-scu-switch-receipt) can only be called right "
        "after a daily-closing receipt.If no daily-closing receipt can be done or the tse is not reachable use "
        "the Initiate-ScuSwitch-Force-Flag."
    )
    with pytest.raises(ReceiptRejected) as caught:
        shop.initiate()
    assert caught.value.message == text
    shop.close_day()
    shop.sale("one receipt too late")
    with pytest.raises(ReceiptRejected) as caught:
        shop.initiate()
    assert caught.value.code == "SCU_SWITCH_WITHOUT_CLOSING"
    assert shop.row.ftSignaturCreationUnitDEId == shop.scu_id
    assert shop.row.SSCDFailCount == 0
    shop.close_day()
    with pytest.raises(ReceiptRejected):  # a refused receipt gets no number, so the closing stays the last
        shop.send(0x09, "nobody started this")
    assert shop.initiate()["ftState"] == DE


def test_force_needs_no_closing(shop: SwitchShop) -> None:
    shop.sale()
    answer = shop.initiate(FORCE)
    assert answer["ftState"] == DE
    assert len(answer["ftSignatures"]) == 17
    assert shop.sale()["ftState"] == SWITCHING


def test_a_closing_in_failed_mode_counts(shop: SwitchShop) -> None:
    shop.tse.fail_before("start_transaction", DOWN)
    assert shop.sale()["ftState"] == DE + 2
    assert shop.send(DAILY, "Z")["ftState"] == DE + 2
    assert shop.initiate()["ftState"] == DE


@pytest.mark.parametrize("flags", [0, FORCE])
def test_initiate_without_the_source(shop: SwitchShop, flags: int) -> None:
    shop.sale()
    shop.tse.down = DOWN
    known = shop.tse.scu.get_tse_info()
    answer = shop.initiate(flags)
    assert (answer["ftState"], answer["ftSignatures"]) == (DE, [])
    assert answer["ftReceiptIdentification"] == "ft2#"
    assert "ftStateData" not in answer
    (entry,) = shop.actions_of(INITIATED)
    assert json.loads(entry.DataJson)["SourceSCUSerialNumberOctet"] == known.serial_number_octet
    assert shop.row.SSCDFailCount == 0
    assert shop.finish()["ftState"] == DE
    assert shop.sale()["ftState"] == DE


def test_initiate_without_the_source_after_a_restart_knows_the_tse_from_the_store(shop: SwitchShop) -> None:
    serial = shop.tse.scu.get_tse_info().serial_number_octet
    shop.reopen()
    shop.tse.down = DOWN
    shop.initiate()
    (entry,) = shop.actions_of(INITIATED)
    assert json.loads(entry.DataJson)["SourceSCUSerialNumberOctet"] == serial


def break_source_mode(config: HostConfig) -> None:
    config.scus[0].mode = 1


def break_source_json(config: HostConfig) -> None:
    config.scus[0].mode_configuration_json = None


def break_target_mode(config: HostConfig) -> None:
    config.scus[1].mode = 0x1_0000


def break_target_json(config: HostConfig) -> None:
    config.scus[1].mode_configuration_json = ""


def break_target_source(config: HostConfig) -> None:
    config.scus[1].mode_configuration_json = {"SourceScuId": str(uuid.uuid4())}


def lose_target(config: HostConfig) -> None:
    del config.scus[1]


@pytest.mark.parametrize(
    ("spoil", "side"),
    [
        (break_source_mode, "source"),
        (break_source_json, "source"),
        (break_target_mode, "target"),
        (break_target_json, "target"),
        (break_target_source, "target"),
        (lose_target, "target"),
    ],
)
def test_both_scus_must_be_prepared(shop: SwitchShop, spoil: Any, side: str) -> None:
    target_id = shop.target_id
    shop.reopen(spoil)
    shop.close_day()
    with pytest.raises(ReceiptRejected) as caught:
        shop.initiate()
    scu_id = shop.scu_id if side == "source" else target_id
    assert caught.value.message.startswith(
        f"The {side} SCU is not set up correctly for an SCU switch in the local configuration. "
    )
    assert f"({side.capitalize()} SCU: {scu_id}, Mode: " in caught.value.message
    assert caught.value.code == f"SCU_SWITCH_{side.upper()}"
    assert shop.tse.scu.get_tse_info().current_client_ids == ["POS-1"]
    assert shop.sale()["ftState"] == DE


def test_finish_and_void_need_a_switch(shop: SwitchShop) -> None:
    with pytest.raises(ReceiptRejected) as caught:
        shop.finish()
    assert caught.value.message == "The SCU switch must be initiated with a initiate-scu-switch receipt."
    with pytest.raises(ReceiptRejected) as caught:
        shop.initiate(VOID)
    assert caught.value.message == "The SCU switch can't be voided because it is not in progress."
    shop.switching().finish()
    with pytest.raises(ReceiptRejected, match="can't be voided"):
        shop.initiate(VOID)
    assert shop.sale()["ftState"] == DE


def test_finish_twice_signs_twice_and_never_takes_the_queue_out_of_service(shop: SwitchShop) -> None:
    shop.switching().finish()
    assert len(shop.finish()["ftSignatures"]) == 17
    shop.target.down = DOWN
    with pytest.raises(Unreachable):
        shop.finish()
    shop.target.down = None
    assert shop.sale()["ftState"] == DE


def test_finish_needs_the_target_in_the_configuration(shop: SwitchShop) -> None:
    shop.switching()
    shop.reopen(lose_target)
    with pytest.raises(ReceiptRejected) as caught:
        shop.finish()
    assert caught.value.code == "SCU_NOT_CONFIGURED"
    assert shop.initiate(VOID)["ftState"] == DE


# ---- SWITCH: everything but finish and void -----------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        0x01,
        0x02,
        0x03,
        0x04,
        0x05,
        0x06,
        0x07,
        0x08,
        0x0B,
        0x10,
        0x14,
        0x17,
        0x19,
        0x01 | 0x1_0000,
        0x01 | 0x8_0000,
    ],
)
def test_while_switching_everything_else_is_journalled_and_not_signed(
    shop: SwitchShop, case: int, caplog: pytest.LogCaptureFixture
) -> None:
    shop.switching()
    before = shop.row
    with caplog.at_level(logging.WARNING, "fiskal.queue"):
        answers = [shop.send(case, "X") for _ in range(2)]
    for answer in answers:
        assert (answer["ftState"], answer["ftSignatures"]) == (SWITCHING, [])
    told = shop.actions().count("SCU switching process initiated, but not yet finished.")
    assert told == 2
    assert ("a closing came" in caplog.text) == (case in (0x05, 0x06, 0x07))
    after = shop.row
    assert after.ftReceiptNumerator == before.ftReceiptNumerator + 2
    assert (after.DailyClosingNumber, after.UsedFailedCount, after.StopMoment) == (1, 0, None)
    assert len(shop.actions_of("4445000000000007")) == 1


def test_payload_errors_are_raised_while_switching(shop: SwitchShop) -> None:
    shop.switching()
    item = {"Quantity": 0, "Amount": 1, "ftChargeItemCase": DE | 1}
    with pytest.raises(ReceiptRejected, match=r"must not be 0\.00"):
        shop.send(0x10, cbChargeItems=[item])


@pytest.mark.parametrize(
    "method", ["set_tse_state", "get_tse_info", "register_client_id", "finish_transaction"]
)
def test_finish_that_fails_is_an_error_and_repeatable(shop: SwitchShop, method: str) -> None:
    shop.switching()
    shop.target.fail_before(method, DOWN)
    with pytest.raises(Unreachable):
        shop.finish()
    assert shop.row.ftSignaturCreationUnitDEId is None
    assert shop.row.SSCDFailCount == 0
    shop.reopen()
    assert shop.sale()["ftState"] == SWITCHING
    assert len(shop.finish()["ftSignatures"]) == 17
    shop.close_day()
    assert shop.target.scu.get_tse_info().current_started_transaction_numbers == []


@pytest.mark.parametrize("case", [FINISH, INITIATE | VOID])
def test_the_end_of_a_switch_that_was_interrupted_is_signed_once(shop: SwitchShop, case: int) -> None:
    """The TSE signed it, the process died, and nobody could be asked at the start."""
    shop.switching()
    tse = shop.target if case == FINISH else shop.tse
    tse.fail_after("finish_transaction", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        shop.send(case, "END")
    shop.close()
    shop.open(lambda each: setattr(each, "down", DOWN))
    for each in shop.tses.values():
        each.calm()
    tse = shop.target if case == FINISH else shop.tse
    before = tse.scu.get_tse_info().current_number_of_signatures
    answer = shop.send(case, "END")
    assert answer["ftState"] == DE
    assert captions(answer)[15] == "TSE-Verbindungs-Beleg"
    assert tse.scu.get_tse_info().current_number_of_signatures == before


def test_failed_mode_is_kept_by_the_switch_and_ended_by_a_zero_receipt(shop: SwitchShop) -> None:
    shop.tse.down = DOWN
    shop.sale("S-1")
    late = shop.sale("L-1", case=0x01 | 0x1_0000)
    assert late["ftState"] == DE + 8
    shop.initiate()
    assert shop.finish()["ftState"] == DE
    row = shop.row
    assert (row.SSCDFailCount, row.UsedFailedCount) == (1, 1)
    assert shop.sale("S-2")["ftState"] == DE + 2
    zero = shop.send(0x02, "Z")
    assert zero["ftState"] == DE
    assert len(zero["ftSignatures"]) == 17
    assert shop.sale("S-3")["ftState"] == DE


# ---- void -----------------------------------------------------------------------------------------


def test_void_goes_back_to_the_source(shop: SwitchShop) -> None:
    shop.switching()
    answer = shop.initiate(VOID)
    assert answer["ftState"] == DE
    assert shape(answer)[:15] == SIG_TX
    assert data_of(answer, "<processData>") == "initiate-scu-switch"
    assert captions(answer)[15] == "TSE-Verbindungs-Beleg"
    assert captions(answer)[16].endswith(f", SCU-ID: {shop.scu_id}")
    notification = json.loads(shop.actions_of(FINISHED)[0].DataJson)
    assert (notification["SourceSCUId"], notification["TargetSCUId"]) == (shop.scu_id, shop.scu_id)
    assert "TseInfo" in json.loads(answer["ftStateData"])
    assert shop.row.ftSignaturCreationUnitDEId == shop.scu_id
    assert shop.sale()["ftState"] == DE
    with pytest.raises(ReceiptRejected, match="must be initiated"):
        shop.finish()
    shop.close_day()
    shop.initiate(CLIENT_ONLY)
    assert shop.finish()["ftState"] == DE


def test_void_without_the_source(shop: SwitchShop) -> None:
    shop.switching()
    shop.tse.down = DOWN
    with pytest.raises(Unreachable):
        shop.initiate(VOID)
    assert shop.sale()["ftState"] == SWITCHING
    answer = shop.initiate(VOID | FORCE)
    message = f"SCU mit Queue verbunden. Queue-ID: {shop.queue_id}, SCU-ID: {shop.scu_id}"
    assert answer["ftState"] == DE
    assert shape(answer) == [(message, 0x03, 8)]
    assert "ftStateData" not in answer
    notification = json.loads(data_of(answer, message))
    assert (
        notification["TargetSCUSignatureAlgorithm"],
        notification["TargetSCUPublicKeyBase64"],
        notification["TargetSCUSerialNumberOctet"],
    ) == ("", "", "")
    (entry,) = shop.actions_of(FINISHED)
    assert (entry.Message, entry.DataJson) == (message, data_of(answer, message))
    assert shop.row.ftSignaturCreationUnitDEId == shop.scu_id
    assert shop.sale()["ftState"] == DE + 2


def test_void_with_force_uses_a_source_that_works(shop: SwitchShop) -> None:
    shop.switching()
    assert len(shop.initiate(VOID | FORCE)["ftSignatures"]) == 17


def test_a_terminated_source_can_only_be_taken_back_by_force(shop: SwitchShop) -> None:
    shop.close_day()
    shop.initiate()
    with pytest.raises(TseRejected):
        shop.initiate(VOID)
    assert shop.initiate(VOID | FORCE)["ftState"] == DE
    assert shop.initiate(FORCE)["ftSignatures"] == []
    assert shop.finish()["ftState"] == DE


# ---- open transactions --------------------------------------------------------------------------------


def test_initiate_closes_what_is_open_at_the_source(shop: SwitchShop) -> None:
    shop.send(0x08, "A")
    shop.send(0x08, "B")
    assert shop.initiate(FORCE | CLIENT_ONLY)["ftState"] == DE
    assert shop.open_on_tse() == []
    assert shop.open_references() == []


def test_rows_of_a_lost_source_are_dropped_at_the_finish_with_a_journal_entry_each(shop: SwitchShop) -> None:
    shop.send(0x08, "A")
    shop.send(0x08, "B")
    shop.tse.down = DOWN
    shop.sale("B", flow="explicit")
    shop.send(0x08, "C")
    shop.initiate()
    assert shop.open_references() == ["A", "B"]
    shop.finish()
    assert shop.open_references() == []
    entries = shop.actions_of(DROPPED)
    assert [entry.Message for entry in entries] == [
        f"Removed open transaction 2 from the database, which belongs to SCU {shop.scu_id}.",
        f"Removed open transaction 3 from the database, which belongs to SCU {shop.scu_id}.",
        f"Removed failed finish-transaction 3 from the database, which belongs to SCU {shop.scu_id}.",
        f"Removed failed start-transaction 'C' from the database, which belongs to SCU {shop.scu_id}.",
    ]
    assert [json.loads(entry.DataJson)["cbReceiptReference"] for entry in entries] == ["A", "B", "B", "C"]
    assert {entry.Priority for entry in entries} == {-1}
    starts = shop.target.calls.count("start_transaction")
    zero = shop.send(0x02, "Z")
    assert len(zero["ftSignatures"]) == 16
    assert shop.target.calls.count("start_transaction") == starts + 1


def test_starts_in_doubt_at_a_lost_source_are_dropped_at_the_finish(shop: SwitchShop) -> None:
    """The target has never heard of them, and must not be asked."""
    shop.tse.fail_after("start_transaction", OutcomeUnknown("NO_RESPONSE", "no answer came"))
    shop.sale("S-1")
    (doubt,) = shop.middleware.store.doubtful_starts(shop.row.queue_no)
    shop.tse.down = DOWN
    shop.initiate()
    shop.finish()
    (entry,) = shop.actions_of(DROPPED)
    assert entry.Message.startswith(
        f"Removed start for queue item {doubt.ftQueueItemId}, which had no answer, "
    )
    assert json.loads(entry.DataJson)["cbReceiptReference"] == "S-1"
    assert shop.middleware.store.doubtful_starts(shop.row.queue_no) == []


def test_what_was_recovered_and_not_delivered_is_journalled_at_the_finish(shop: SwitchShop) -> None:
    """An answer of the target must not prove what the source signed: the numbers mean other transactions there."""
    for reference in ("A", "B"):
        shop.send(0x08, reference)
    shop.tse.down = DOWN
    for reference in ("A", "B"):
        shop.sale(reference, flow="explicit")
    shop.tse.calm()
    shop.tse.fail_nth(3, DOWN)  # start, finish, the first recovered finish
    assert shop.send(0x02, "Z-1")["ftState"] == DE + 2
    assert len(shop.middleware.store.undelivered(shop.row.queue_no)) == 1
    shop.initiate(FORCE)
    shop.finish()
    assert shop.middleware.store.undelivered(shop.row.queue_no) == []
    (entry,) = [each for each in shop.actions_of(DROPPED) if "recovered finish" in each.Message]
    assert len(json.loads(entry.DataJson)) == 15
    assert len(shop.send(0x02, "Z-2")["ftSignatures"]) == 16
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems


@pytest.mark.parametrize("force", [0, FORCE])
def test_what_a_failed_finish_left_at_the_target_is_dropped_by_the_void(shop: SwitchShop, force: int) -> None:
    shop.switching()
    shop.target.fail_before("finish_transaction", DOWN)
    with pytest.raises(Unreachable):
        shop.finish()
    assert shop.open_references() == ["SW-2"]
    if force:
        shop.tse.down = DOWN
    shop.initiate(VOID | force)
    assert shop.open_references() == []
    assert len(shop.actions_of(DROPPED)) == 1


def test_recovery_and_closings_touch_only_rows_of_the_current_scu(shop: SwitchShop) -> None:
    shop.tse.fail_before("start_transaction", DOWN)
    shop.sale()
    foreign = str(uuid.uuid4())
    number = shop.row.queue_no
    change = Change()
    change.open_transactions.append(OpenTransactionRow(number, "F", 2, 0, "", foreign, 0))
    failed = FailedTransactionRow(number, "F", 2, 0, str(uuid.uuid4()), "POS-1", "{}", foreign)
    change.failed_finishes.append(failed)
    change.failed_starts.append(failed._replace(cbReceiptReference="G", TransactionNumber=None))
    shop.middleware.store.commit(change)
    shop.reopen()
    assert len(shop.send(0x02, "Z")["ftSignatures"]) == 16
    assert len(shop.send(DAILY, "D")["ftSignatures"]) == 15
    with pytest.raises(ReceiptRejected, match="No transactionnumber found"):
        shop.sale("F", flow="explicit")
    assert shop.open_references() == ["F"]


# ---- several queues, and the configuration ------------------------------------------------------------


def test_two_queues_on_one_scu_part_one_after_the_other(tmp_path: Path) -> None:
    shop = SwitchShop(tmp_path, prepare=two_queues)
    first, second = (queue.id for queue in shop.config.queues)
    shop.queue_id = second
    shop.send(0x03)
    shop.queue_id = first
    shop.close_day()
    with pytest.raises(ReceiptRejected, match=r"is also used by POS-2\.") as caught:
        shop.initiate()
    assert caught.value.code == "TSE_SHARED"
    assert shop.initiate(CLIENT_ONLY)["ftState"] == DE
    shop.queue_id = second
    assert shop.sale()["ftState"] == DE  # the switch of one queue is its own
    shop.queue_id = first
    assert shop.finish()["ftState"] == DE
    shop.queue_id = second
    shop.close_day()
    assert shop.initiate()["ftState"] == DE  # the last one may terminate
    assert shop.tse.scu.get_tse_info().current_state is TseStates.TERMINATED
    assert shop.finish()["ftState"] == DE
    assert sorted(shop.target.scu.get_tse_info().current_client_ids) == ["POS-1", "POS-2"]
    shop.close()


def test_a_tse_that_hid_its_other_clients_is_not_terminated(shop: SwitchShop) -> None:
    shop.close_day()
    shop.tse.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))
    shop.tse.fail_before("get_tse_info", DOWN)
    assert len(shop.initiate()["ftSignatures"]) == 17
    info = shop.tse.scu.get_tse_info()
    assert (info.current_state, info.current_client_ids) == (TseStates.INITIALIZED, ["POS-9"])
    assert "The TSE was not terminated: it is also used by POS-9." in shop.actions()


def test_a_shared_tse_is_terminated_when_the_settings_allow_it(tmp_path: Path) -> None:
    settings = QueueSettings(terminate_shared_tse=True)
    shop = SwitchShop(tmp_path, prepare=two_scus, settings=settings)
    shop.tse.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))
    shop.close_day()
    shop.initiate()
    assert shop.tse.scu.get_tse_info().current_state is TseStates.TERMINATED
    shop.close()


def point_to_target(config: HostConfig) -> None:
    config.queues[0].scu_id = config.scus[1].id


def lose_source(config: HostConfig) -> None:
    point_to_target(config)
    del config.scus[0]


def test_the_configuration_chooses_the_scu_only_before_the_start_receipt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = SwitchShop(tmp_path, start=False, prepare=two_scus)
    shop.reopen(point_to_target)
    assert shop.row.ftSignaturCreationUnitDEId == shop.target_id
    shop.send(0x03)
    assert shop.target.scu.get_tse_info().current_client_ids == ["POS-1"]

    def point_back(config: HostConfig) -> None:
        config.queues[0].scu_id = config.scus[0].id

    with caplog.at_level(logging.WARNING, "fiskal.host"):
        shop.reopen(point_back)
    assert "counts only before the start receipt" in caplog.text
    assert shop.sale()["ftState"] == DE
    assert shop.row.ftSignaturCreationUnitDEId == shop.target_id
    shop.close()


def test_an_scu_in_use_must_stay_in_the_configuration(shop: SwitchShop) -> None:
    with pytest.raises(ConfigurationError, match=r"which fiskal\.json does not list"):
        shop.reopen(lose_source)
    shop.middleware.store.close()


def test_the_source_may_leave_the_configuration_after_the_switch(shop: SwitchShop) -> None:
    shop.switching().finish()
    shop.reopen(lose_source)
    assert shop.sale()["ftState"] == DE


def test_a_host_opens_the_target_when_it_is_needed(tmp_path: Path) -> None:
    config = configs.new_config(client_id="POS-1")
    two_scus(config)
    configs.save(tmp_path, config)
    target = tmp_path / "scu" / config.scus[1].id
    for cases in ((0x03, DAILY, INITIATE), (0x01, FINISH, 0x01)):
        with fiskal.open(tmp_path) as middleware:
            for case in cases:
                switching = case == 0x01 and not target.exists()
                request = {
                    "ftCashBoxID": config.cash_box_id,
                    "cbReceiptReference": "R",
                    "cbReceiptMoment": "2023-11-14T22:13:20Z",
                    "ftReceiptCase": DE | 0x1_0000_0000 | case,
                }
                answer = json.loads(middleware.sign_json(json.dumps(request).encode()))
                assert answer["ftState"] == (SWITCHING if switching else DE)
    assert target.exists()


def test_modes_of_the_configuration_are_stored_beside_what_is_known_of_the_tse(shop: SwitchShop) -> None:
    rows = {row.ftSignaturCreationUnitDEId: row for row in shop.middleware.store.scus()}
    source = rows[shop.scu_id]
    assert source.Mode == 0x1_0000
    assert json.loads(source.ModeConfigurationJson or "") == {"TargetScuId": shop.target_id}
    assert "SerialNumberOctet" in (source.TseInfoJson or "")
    shop.reopen(break_source_mode)
    changed = {row.ftSignaturCreationUnitDEId: row for row in shop.middleware.store.scus()}[shop.scu_id]
    assert changed.Mode == 1
    assert changed.TseInfoJson == source.TseInfoJson
    assert changed.TimeStamp > source.TimeStamp


def test_switch_receipts_of_a_queue_that_is_not_in_operation(tmp_path: Path) -> None:
    shop = SwitchShop(tmp_path, start=False, prepare=two_scus)
    for case in (INITIATE, INITIATE | VOID, FINISH):
        assert shop.send(case)["ftState"] == DE + 1
    shop.send(0x03)
    shop.send(0x04, "END")
    for case in (INITIATE, INITIATE | VOID, FINISH):
        assert shop.send(case)["ftState"] == DE + 1
    shop.close()
