"""ScuCore over a driver that remembers nothing: the call store, reconciliation, verification, errors."""

from __future__ import annotations

import base64
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.errors import ConfigurationError, StoreError
from fiskal.scu.callstore import CallState, SqliteCallStore
from fiskal.scu.contract import (
    EMPTY_GUID,
    Deadline,
    ExportDataRequest,
    RegisterClientIdRequest,
    StartExportSessionRequest,
    TseInfo,
    TseState,
    TseStates,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Verdict
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    OutcomeUnknown,
    ScuError,
    SignatureMismatch,
    TseRejected,
    Unreachable,
)
from fiskal.scu.software import SoftwareTse


class ForgetfulTse(SoftwareTse):
    """A TSE outside this process: it remembers no calls, and its answers can get lost."""

    key_in_process = False
    remembers_calls = False
    needs_open_numbers = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fail_before: Exception | None = None
        self.fail_after: Exception | None = None
        self.verdict: Signed | Verdict | None = None
        self.executed: list[Call] = []
        self.reconciled: list[tuple[Call, frozenset[int] | None]] = []
        self.infos = 0
        self.forge = False
        self.forget_start = False
        self.serial: str | None = None
        self.certificates: list[str] | None = None

    def _fail(self, error: Exception | None) -> None:
        if error is not None:
            raise error

    def _answer(self, call: Call, signed: Signed) -> Signed:
        self.executed.append(call)
        self._fail(self.fail_after)
        if self.forge:
            return msgspec.structs.replace(signed, signature=signed.signature[::-1])
        return signed

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        self._fail(self.fail_before)
        return self._answer(call, super().start(call, deadline))

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        self._fail(self.fail_before)
        return self._answer(call, super().update(call, deadline))

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        self._fail(self.fail_before)
        signed = self._answer(call, super().finish(call, deadline))
        return msgspec.structs.replace(signed, start_time_stamp=None)

    def info(self, deadline: Deadline | None) -> TseInfo:
        self.infos += 1
        info = super().info(deadline)
        if self.certificates is not None:
            info = msgspec.structs.replace(info, certificates_base64=self.certificates)
        return info if self.serial is None else msgspec.structs.replace(info, serial_number_octet=self.serial)

    def recall(self, call: Call) -> Remembered | None:
        raise AssertionError("a driver without memory is not asked")

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        self.reconciled.append((call, open_before))
        if self.verdict is not None:
            return self.verdict
        remembered = SoftwareTse.recall(self, call)
        if remembered is None:
            return Verdict.NOT_EXECUTED
        return msgspec.structs.replace(remembered.signed, start_time_stamp=None)


@pytest.fixture
def driver(tmp_path: Path, clock: Any) -> ForgetfulTse:
    return ForgetfulTse(tmp_path / "tse", clock=clock)


@pytest.fixture
def scu(driver: ForgetfulTse, tmp_path: Path, clock: Any) -> Iterator[ScuCore]:
    scu = ScuCore(driver, calls=SqliteCallStore(tmp_path / "calls.sqlite"), clock=clock)
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    yield scu
    scu.close()


def rows(tmp_path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(tmp_path / "calls.sqlite") as db:
        found = db.execute(
            "SELECT op, transaction_number, generation, state, delivered FROM scu_call"
            " ORDER BY created_utc, rowid"
        ).fetchall()
    db.close()
    return found


def reopen(scu: ScuCore, tmp_path: Path, clock: Any) -> tuple[ScuCore, ForgetfulTse]:
    scu.close()
    driver = ForgetfulTse(tmp_path / "tse", clock=clock)
    return ScuCore(driver, calls=SqliteCallStore(tmp_path / "calls.sqlite"), clock=clock), driver


def test_such_a_driver_needs_a_store(driver: ForgetfulTse) -> None:
    with pytest.raises(ConfigurationError):
        ScuCore(driver)
    driver.close()


def test_answers_are_remembered_over_a_restart(
    scu: ScuCore, driver: ForgetfulTse, pos: Any, tmp_path: Path, clock: Any, make_pos: Any
) -> None:
    item = str(uuid.uuid4())
    started = pos.start(item)
    updated = pos.update(1, item=item)
    clock.advance(3)
    finished = pos.finish(1, item=item)
    assert finished.start_transaction_time_stamp == started.time_stamp
    assert rows(tmp_path) == [
        ("start", 0, 0, "DONE", 1),
        ("update", 1, 0, "DONE", 1),
        ("finish", 1, 0, "DONE", 1),
    ]
    other = pos.start()
    for _ in range(2):
        assert pos.start(item, retry=True) == started
        assert pos.update(1, item=item, retry=True) == updated
        assert pos.finish(1, item=item, retry=True) == finished
        assert len(driver.executed) in (0, 4)
        scu, driver = reopen(scu, tmp_path, clock)
        pos = make_pos(scu)
    clock.advance(3)
    assert pos.finish(other.transaction_number).start_transaction_time_stamp == other.time_stamp
    scu.close()


def test_a_lost_answer_is_found_again(driver: ForgetfulTse, pos: Any, tmp_path: Path) -> None:
    pos.start(EMPTY_GUID)
    item = str(uuid.uuid4())
    driver.fail_after = OutcomeUnknown("NO_RESPONSE", "no answer")
    with pytest.raises(OutcomeUnknown):
        pos.start(item)
    assert rows(tmp_path) == [("start", 0, 0, "UNKNOWN", 0)]
    driver.fail_after = None
    again = pos.start(item)  # even without IsRetry
    assert again.transaction_number == 2
    assert driver.reconciled[0][1] == frozenset({1})
    assert pos.start(item, retry=True) == again
    assert len(driver.executed) == 2
    assert rows(tmp_path) == [("start", 0, 0, "DONE", 1)]
    driver.fail_after = OutcomeUnknown("NO_RESPONSE", "no answer")
    with pytest.raises(OutcomeUnknown):
        pos.finish(2, item=item)
    driver.fail_after = None
    assert pos.finish(2, item=item, retry=True).start_transaction_time_stamp == again.time_stamp
    assert len(driver.executed) == 3


def test_a_process_that_died_between_sent_and_done(
    scu: ScuCore, driver: ForgetfulTse, pos: Any, tmp_path: Path, clock: Any, make_pos: Any
) -> None:
    executed, unexecuted = str(uuid.uuid4()), str(uuid.uuid4())
    driver.fail_after = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        pos.start(executed)
    driver.fail_before, driver.fail_after = KeyboardInterrupt(), None  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        pos.start(unexecuted)
    assert [row[3] for row in rows(tmp_path)] == ["SENT", "SENT"]
    scu, driver = reopen(scu, tmp_path, clock)
    pos = make_pos(scu)
    assert pos.start(executed, retry=True).transaction_number == 1
    assert driver.executed == []
    assert pos.start(unexecuted, retry=True).transaction_number == 2
    assert len(driver.executed) == 1
    scu.close()


def test_the_numbers_of_other_starts_are_told_to_who_looks_for_one(driver: ForgetfulTse, pos: Any) -> None:
    """A start that was answered after the lost one is not taken for it."""
    lost = str(uuid.uuid4())
    driver.fail_before = OutcomeUnknown("NO_RESPONSE", "no answer")
    with pytest.raises(OutcomeUnknown):
        pos.start(lost)
    driver.fail_before = None
    other = pos.start(str(uuid.uuid4()))
    assert pos.start(lost, retry=True).transaction_number != other.transaction_number
    assert driver.reconciled[0][1] == frozenset({other.transaction_number})


def test_what_was_sent_instead_of_empty_data_is_what_must_be_signed(driver: ForgetfulTse, pos: Any) -> None:
    class Filling(ForgetfulTse):
        def finish(self, call: Call, deadline: Deadline | None) -> Signed:
            if not call.process_data:
                call = msgspec.structs.replace(call, process_data=b"<none>")
            return msgspec.structs.replace(super().finish(call, deadline), filler=b"<none>")

    driver.__class__ = Filling
    number = pos.start().transaction_number
    assert pos.finish(number, b"").process_data_base64 == ""
    number = pos.start().transaction_number
    assert pos.finish(number, b"data").transaction_number == number
    driver.forge = True
    with pytest.raises(SignatureMismatch):
        pos.start()


def test_what_stays_unknown(driver: ForgetfulTse, pos: Any) -> None:
    item = str(uuid.uuid4())
    driver.fail_after = OutcomeUnknown("NO_RESPONSE", "no answer")
    with pytest.raises(OutcomeUnknown):
        pos.start(item)
    driver.fail_after, driver.verdict = None, Verdict.STILL_UNKNOWN
    for _ in range(2):
        with pytest.raises(OutcomeUnknown) as caught:
            pos.start(item, retry=True)
        assert caught.value.code == "NO_RESPONSE"
    assert len(driver.executed) == 1
    driver.verdict = Verdict.NOT_EXECUTED
    assert pos.start(item, retry=True).transaction_number == 2


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("CONNECT_FAILED", "no"),
        TseRejected("MEMORY_FULL", "no"),
        Misconfigured("AUTH_FAILED", "no"),
    ],
)
def test_a_call_that_was_certainly_not_executed_is_sent_again(
    driver: ForgetfulTse, pos: Any, tmp_path: Path, error: ScuError
) -> None:
    item = str(uuid.uuid4())
    driver.fail_before = error
    with pytest.raises(type(error)):
        pos.start(item)
    assert rows(tmp_path) == [("start", 0, 0, "FAILED_SAFE", 0)]
    driver.fail_before = None
    assert pos.start(item, retry=True).transaction_number == 1
    assert driver.reconciled == []
    assert rows(tmp_path) == [("start", 0, 0, "DONE", 1)]


def test_a_new_call_with_an_old_key_is_a_new_generation(
    driver: ForgetfulTse, pos: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    item = str(uuid.uuid4())
    assert [pos.start(item).transaction_number for _ in range(3)] == [1, 2, 3]
    assert [row[2] for row in rows(tmp_path)] == [0, 1, 2]
    assert "once more" in caplog.text
    assert [call.generation for call in driver.executed] == [0, 1, 2]
    assert pos.start(item, retry=True).transaction_number == 3
    assert [pos.start(EMPTY_GUID, retry=True).transaction_number for _ in range(2)] == [4, 5]
    assert len(rows(tmp_path)) == 3


def test_other_data_under_the_same_key(driver: ForgetfulTse, pos: Any) -> None:
    item = str(uuid.uuid4())
    pos.start(item)
    pos.finish(1, b"one", item)
    with pytest.raises(ClientError) as caught:
        pos.finish(1, b"two", item, retry=True)
    assert caught.value.code == "IDEMPOTENCY_MISMATCH"


def test_a_signature_that_does_not_verify_is_not_answered(driver: ForgetfulTse, pos: Any) -> None:
    item = str(uuid.uuid4())
    driver.forge = True
    with pytest.raises(OutcomeUnknown) as caught:
        pos.start(item)
    assert caught.value.code == "PROTOCOL_ERROR"
    driver.forge = False
    assert pos.start(item, retry=True).transaction_number == 1
    assert len(driver.executed) == 1


def test_a_key_that_is_not_that_of_the_certificate_signs_nothing(
    driver: ForgetfulTse, tmp_path: Path, clock: Any
) -> None:
    """Signatures would hold under the key the TSE shows, and prove nothing later."""
    stranger = SoftwareTse(tmp_path / "stranger", clock=clock)
    driver.certificates = stranger.info(None).certificates_base64
    stranger.close()
    scu = ScuCore(driver, calls=SqliteCallStore(tmp_path / "calls.sqlite"), clock=clock)
    with pytest.raises(Misconfigured, match="not that of its certificate"):
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    driver.certificates = [base64.b64encode(b"no certificate").decode()]
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.close()


@pytest.mark.parametrize("version", [2, 3])
def test_signatures_of_every_operation_verify(
    tmp_path: Path, clock: Any, make_pos: Any, version: int
) -> None:
    driver = ForgetfulTse(tmp_path / "v", clock=clock, log_version=version, curve="secp384r1")
    scu = ScuCore(driver, calls=SqliteCallStore(tmp_path / "v.sqlite"), clock=clock)
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    pos = make_pos(scu)
    number = pos.start().transaction_number
    pos.update(number)
    assert base64.b64decode(pos.finish(number, b"").signature_data.signature_base64)
    scu.close()


def test_a_bug_after_the_call_began(driver: ForgetfulTse, pos: Any, tmp_path: Path) -> None:
    item = str(uuid.uuid4())
    driver.fail_after = ValueError("bug")
    with pytest.raises(OutcomeUnknown) as caught:
        pos.start(item)
    assert caught.value.code == "INTERNAL"
    assert rows(tmp_path)[0][3] == "UNKNOWN"
    driver.fail_after = None
    assert pos.start(item, retry=True).transaction_number == 1


def test_the_store_belongs_to_one_tse(scu: ScuCore, tmp_path: Path, clock: Any, make_pos: Any) -> None:
    scu.get_tse_info()
    scu, driver = reopen(scu, tmp_path, clock)
    driver.serial = "ab" * 32
    with pytest.raises(Misconfigured) as caught:
        make_pos(scu).start()
    assert caught.value.code == "WRONG_TSE"
    scu.close()


def test_a_damaged_store_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_bytes(b"no database at all" * 100)
    store = SqliteCallStore(path)
    assert "damaged" in caplog.text
    assert (tmp_path / "calls.sqlite.damaged").exists()
    assert store.latest(Call("start", "c", 0, "", b"", "q")) is None
    store.close()
    with pytest.raises(StoreError):
        SqliteCallStore(tmp_path / "missing" / "calls.sqlite")


def test_the_store_round_trips_what_it_is_given(tmp_path: Path) -> None:
    store = SqliteCallStore(tmp_path / "calls.sqlite")
    call = Call("start", "c", 0, "type", b"\0data", "q")
    signed = Signed(7, 8, 9, b"\0\1", None, b"\2")
    store.sent(call, b"h" * 32, frozenset({3, 1}))
    stored = store.latest(call)
    assert stored is not None
    assert (stored.state, stored.open_before, stored.signed) == (CallState.SENT, frozenset({1, 3}), None)
    store.done(call, signed)
    stored = store.latest(call)
    assert stored is not None
    assert (stored.state, stored.signed, stored.request_sha256) == (CallState.DONE, signed, b"h" * 32)
    assert store.open_transactions() == {7: ("c", 9)}
    store.done(Call("finish", "c", 7, "", b"", "q"), signed)
    assert store.open_transactions() == {}
    assert store._read("PRAGMA synchronous") == [(2,)]
    assert store._read("PRAGMA journal_mode") == [("wal",)]
    with pytest.raises(StoreError):
        store.sent(Call("finish", "c", 2**63, "", b"", "q"), b"", None)
    store.close()
    with pytest.raises(StoreError):
        store.latest(call)


def test_a_store_that_fails_after_the_call_does_not_hide_the_answer(
    scu: ScuCore, driver: ForgetfulTse, pos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = str(uuid.uuid4())

    def fail(*_: object) -> None:
        raise StoreError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(scu._calls, "done", fail)
        assert pos.start(item).transaction_number == 1
    assert pos.start(item, retry=True).transaction_number == 1
    assert len(driver.reconciled) == 1


def test_information_is_asked_for_rarely(scu: ScuCore, driver: ForgetfulTse, pos: Any) -> None:
    pos.start()
    before = driver.infos
    for _ in range(10):
        pos.finish(pos.start().transaction_number)
    assert driver.infos == before
    with pytest.raises(TseRejected):
        pos.finish(99)
    assert driver.infos == before + 1
    scu._seen_at -= 61
    pos.start()
    assert driver.infos == before + 2


def test_transactions_of_others_are_noticed(scu: ScuCore, driver: ForgetfulTse, pos: Any) -> None:
    pos.start()
    SoftwareTse.start(driver, Call("start", "POS-1", 0, "", b"", ""), None)
    finished = pos.finish(2)
    assert finished.start_transaction_time_stamp is None


def test_the_number_of_another_start_is_not_offered_for_a_lost_one(
    scu: ScuCore, driver: ForgetfulTse, pos: Any
) -> None:
    item = str(uuid.uuid4())
    driver.fail_before = OutcomeUnknown("NO_RESPONSE", "lost")
    with pytest.raises(OutcomeUnknown):
        pos.start(item)
    driver.fail_before = None
    answered = pos.start().transaction_number
    pos.start(item, retry=True)
    ((call, open_before),) = driver.reconciled
    assert call.queue_item_id == item
    assert open_before == {answered}


@pytest.mark.parametrize("erase", [True, False])
def test_a_driver_is_told_that_an_export_is_to_be_erased(
    scu: ScuCore, driver: ForgetfulTse, monkeypatch: pytest.MonkeyPatch, erase: bool
) -> None:
    asked: list[Selection] = []

    def export(selection: Selection, *_: Any) -> int:
        asked.append(selection)
        return 0

    monkeypatch.setattr(driver, "export", export)
    token = scu.start_export_session(StartExportSessionRequest(erase=erase)).token_id
    while not scu.export_data(ExportDataRequest(token_id=token)).total_tar_file_size_available:
        pass
    assert [(selection.erase, selection.whole) for selection in asked] == [(erase, True)]
