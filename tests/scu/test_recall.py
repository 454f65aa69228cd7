"""Asking an SCU what it did, without a call: nothing is ever executed, and an answer is the first one."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.contract import (
    EMPTY_GUID,
    FinishTransactionRequest,
    RegisterClientIdRequest,
    StartTransactionRequest,
    TseState,
    TseStates,
    UpdateTransactionRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Verdict
from fiskal.scu.errors import ClientError, OutcomeUnknown
from tests.scu.test_core_with_call_store import ForgetfulTse

LOST = OutcomeUnknown("NO_RESPONSE", "the answer is lost")


@pytest.fixture(params=["its log", "a call store"])
def scu(request: Any, tmp_path: Path, clock: Any, open_tse: Callable[..., ScuCore]) -> Iterator[ScuCore]:
    """An SCU whose TSE remembers calls in its log, and one with a call store."""
    if request.param == "its log":
        yield open_tse()
        return
    driver = ForgetfulTse(tmp_path / "forgetful", clock=clock)
    scu = ScuCore(driver, calls=SqliteCallStore(tmp_path / "calls.sqlite"), clock=clock)
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    yield scu
    scu.close()


def start_request(item: str) -> StartTransactionRequest:
    return StartTransactionRequest(client_id="POS-1", queue_item_id=item)


def update_request(number: int, item: str) -> UpdateTransactionRequest:
    return UpdateTransactionRequest(
        client_id="POS-1",
        transaction_number=number,
        process_type="Bestellung-V1",
        process_data_base64=base64.b64encode(b"upd").decode(),
        queue_item_id=item,
    )


def finish_request(number: int, item: str, data: bytes = b"Beleg") -> FinishTransactionRequest:
    return FinishTransactionRequest(
        client_id="POS-1",
        transaction_number=number,
        process_type="Kassenbeleg-V1",
        process_data_base64=base64.b64encode(data).decode(),
        queue_item_id=item,
    )


def test_what_was_executed_is_recalled_as_it_was_answered(scu: ScuCore, pos: Any) -> None:
    started = pos.start("item-1")
    number = started.transaction_number
    updated = pos.update(number, item="item-1")
    finished = pos.finish(number, b"Beleg", item="item-1")
    signatures = scu.get_tse_info().current_number_of_signatures
    assert scu.recall_start(start_request("item-1")) == started
    assert scu.recall_update(update_request(number, "item-1")) == updated
    assert scu.recall_finish(finish_request(number, "item-1")) == finished
    assert scu.get_tse_info().current_number_of_signatures == signatures


def test_what_was_not_executed_is_not_executed_by_asking(scu: ScuCore, pos: Any) -> None:
    number = pos.start("item-1").transaction_number
    before = scu.get_tse_info()
    assert scu.recall_start(start_request("item-2")) is None
    assert scu.recall_update(update_request(number, "item-1")) is None
    assert scu.recall_finish(finish_request(number, "item-1")) is None
    assert scu.recall_start(start_request(EMPTY_GUID)) is None
    after = scu.get_tse_info()
    assert after.current_number_of_signatures == before.current_number_of_signatures
    assert after.current_started_transaction_numbers == [number]


def test_other_data_are_told_apart(scu: ScuCore, pos: Any) -> None:
    number = pos.start("item-1").transaction_number
    pos.finish(number, b"Beleg", item="item-1")
    with pytest.raises(ClientError) as caught:
        scu.recall_finish(finish_request(number, "item-1", b"another"))
    assert caught.value.code == "IDEMPOTENCY_MISMATCH"


def test_a_lost_answer_is_recalled_by_reconciling(tmp_path: Path, clock: Any, make_pos: Any) -> None:
    driver = ForgetfulTse(tmp_path / "tse", clock=clock)
    scu = ScuCore(driver, calls=SqliteCallStore(tmp_path / "calls.sqlite"), clock=clock)
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    driver.fail_after = LOST
    with pytest.raises(OutcomeUnknown):
        make_pos(scu).start("item-1")
    driver.verdict = Verdict.STILL_UNKNOWN
    with pytest.raises(OutcomeUnknown):
        scu.recall_start(start_request("item-1"))
    driver.verdict = None
    found = scu.recall_start(start_request("item-1"))
    assert found is not None
    assert found.transaction_number == 1
    assert len(driver.executed) == 1
    scu.close()


def test_a_call_that_was_not_executed_leaves_its_key_to_another(
    tmp_path: Path, clock: Any, make_pos: Any
) -> None:
    """A finish that never reached the TSE, and the abort of its transaction for the same queue item."""
    driver = ForgetfulTse(tmp_path / "tse", clock=clock)
    scu = ScuCore(driver, calls=SqliteCallStore(tmp_path / "calls.sqlite"), clock=clock)
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    pos = make_pos(scu)
    number = pos.start("item-1").transaction_number
    driver.fail_before = LOST
    with pytest.raises(OutcomeUnknown):
        pos.finish(number, b"Beleg", item="item-1")
    driver.fail_before = None
    assert scu.recall_finish(finish_request(number, "item-1")) is None
    aborted = pos.finish(number, b"AVBelegabbruch", item="item-1", retry=True)
    assert aborted.transaction_number == number
    assert pos.finish(number, b"AVBelegabbruch", item="item-1", retry=True) == aborted
    scu.close()
