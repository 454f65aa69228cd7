"""Nothing unproven leaves the SCU: what a TSE answers is checked before a receipt is."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.contract import Deadline, RegisterClientIdRequest, TseInfo, TseState, TseStates
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Call, Remembered, Selection, Signed
from fiskal.scu.errors import Misconfigured, SignatureMismatch
from fiskal.scu.software import Rehearsal, SoftwareTse, open_software_tse
from fiskal.scu.software.rehearsal import Fault
from fiskal.tse.logmessage import parse
from fiskal.tse.tar import read_members

Lie = Callable[[Signed], Signed]


class LyingTse(SoftwareTse):
    """A device whose answers are what ``lie`` makes of them, and that signs what ``ask`` makes of a call."""

    key_in_process = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lie: Lie | None = None
        self.ask: Callable[[Call], Call] | None = None
        self.with_message = False
        self.shown: Callable[[TseInfo], TseInfo] | None = None

    def _answer(self, execute: Callable[[Call, Deadline | None], Signed], call: Call) -> Signed:
        signed = execute(call if self.ask is None else self.ask(call), None)
        if self.with_message:
            found = super().recall(call if self.ask is None else self.ask(call))
            assert found is not None
            signed = msgspec.structs.replace(signed, log_message=found.signed.log_message)
        return signed if self.lie is None else self.lie(signed)

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._answer(super().start, call)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._answer(super().update, call)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._answer(super().finish, call)

    def recall(self, call: Call) -> Remembered | None:
        found = super().recall(call)
        if found is None or self.lie is None:
            return found
        return Remembered(found.request_sha256, self.lie(found.signed))

    def info(self, deadline: Deadline | None) -> TseInfo:
        info = super().info(deadline)
        return info if self.shown is None else self.shown(info)


@pytest.fixture
def driver(tmp_path: Path, clock: Any) -> Iterator[LyingTse]:
    tse = LyingTse(tmp_path / "tse", clock=clock)
    yield tse
    tse.close()


def over(driver: LyingTse, clock: Any, make_pos: Any, mode: Any = None) -> tuple[ScuCore, Any]:
    scu = ScuCore(driver, clock=clock, signature_check=mode)
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    return scu, make_pos(scu)


def change(**members: Any) -> Lie:
    return lambda signed: msgspec.structs.replace(signed, **members)


def flipped(signed: Signed) -> Signed:
    return msgspec.structs.replace(signed, signature=bytes([signed.signature[0] ^ 1]) + signed.signature[1:])


LIES: dict[str, Lie] = {
    "another signature": flipped,
    "a signature cut short": lambda signed: msgspec.structs.replace(signed, signature=signed.signature[:-1]),
    "a greater counter": lambda signed: msgspec.structs.replace(
        signed, signature_counter=signed.signature_counter + 1
    ),
    "another transaction": lambda signed: msgspec.structs.replace(
        signed, transaction_number=signed.transaction_number + 1
    ),
    "another time": lambda signed: msgspec.structs.replace(signed, time_stamp=signed.time_stamp + 10_000_000),
}


@pytest.mark.parametrize("with_message", [False, True], ids=["rebuilt", "log message"])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_is_not_answered(
    driver: LyingTse, clock: Any, make_pos: Any, lie: Lie, with_message: bool
) -> None:
    _, pos = over(driver, clock, make_pos)
    number = pos.start().transaction_number
    driver.lie, driver.with_message = lie, with_message
    for operation in (pos.update, pos.finish):
        with pytest.raises(SignatureMismatch) as caught:
            operation(number)
        assert caught.value.code == "PROTOCOL_ERROR"
        assert "does not verify" in str(caught.value)
    driver.lie = None
    following = pos.start()
    assert following.transaction_number == number + 1


@pytest.mark.parametrize("with_message", [False, True], ids=["rebuilt", "log message"])
@pytest.mark.parametrize(
    ("member", "value"),
    [("process_data", b"Beleg^0.01_0.00_0.00_0.00_0.00^0.01:Bar"), ("process_type", "SonstigerVorgang")],
)
def test_a_tse_that_signs_something_else(
    driver: LyingTse, clock: Any, make_pos: Any, member: str, value: Any, with_message: bool
) -> None:
    """The signature itself is good, only it is over other data than the receipt's."""
    _, pos = over(driver, clock, make_pos)
    number = pos.start().transaction_number
    driver.with_message = with_message
    driver.ask = lambda call: msgspec.structs.replace(call, **{member: value})
    with pytest.raises(SignatureMismatch) as caught:
        pos.finish(number)
    wanted = "processData" if member == "process_data" else "processType"
    assert (wanted in caught.value.mismatch.reason) == with_message


def test_a_log_message_of_another_client_and_operation(driver: LyingTse, clock: Any, make_pos: Any) -> None:
    scu, pos = over(driver, clock, make_pos)
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-2"))
    driver.with_message = True
    driver.ask = lambda call: msgspec.structs.replace(call, client_id="POS-2")
    with pytest.raises(SignatureMismatch, match="clientId"):
        pos.start()
    driver.ask = None
    number = pos.start().transaction_number
    pos.update(number)
    message = last_message(driver)
    driver.lie = change(log_message=message)
    with pytest.raises(SignatureMismatch, match="operation"):
        pos.finish(number)


def last_message(driver: LyingTse) -> bytes:
    """The newest message of the TSE's log."""
    out = io.BytesIO()
    driver.export(Selection(), out, nullcontext)
    out.seek(0)
    logs = [member.data for member in read_members(out) if member.name.endswith(".log")]
    return max((data for data in logs if data), key=lambda data: parse(data).signature_counter)


def test_an_old_answer_does_not_pass_as_a_new_one(driver: LyingTse, clock: Any, make_pos: Any) -> None:
    """Everything in a repeated answer is right but the counter, which was there before."""
    _, pos = over(driver, clock, make_pos)
    number = pos.start().transaction_number
    kept: list[Signed] = []
    driver.lie = lambda signed: kept.append(signed) or signed  # type: ignore[func-returns-value]
    pos.update(number, b"same")
    driver.lie = lambda _: kept[0]
    with pytest.raises(SignatureMismatch, match="is not greater"):
        pos.update(number, b"same")


def test_a_repeated_call_is_checked_too(driver: LyingTse, clock: Any, make_pos: Any) -> None:
    """A TSE that lies once more when it is asked again is not believed; one that was garbled once is."""
    _, pos = over(driver, clock, make_pos)
    driver.lie = flipped
    item = "a" * 36
    for retry in (False, True, True):
        with pytest.raises(SignatureMismatch):
            pos.start(item, retry=retry)
    driver.lie = None
    first = pos.start(item, retry=True)
    assert (first.transaction_number, first.signature_data.mismatch) == (1, None)
    pos.start()
    assert pos.start(item, retry=True) == first  # an old counter is right for what is remembered


def test_the_call_store_does_not_keep_a_lie(tmp_path: Path, clock: Any, make_pos: Any) -> None:
    driver = LyingTse(tmp_path / "forgetful", clock=clock)
    driver.remembers_calls = False
    scu = ScuCore(driver, clock=clock, calls=SqliteCallStore(tmp_path / "calls.sqlite"))
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    pos = make_pos(scu)
    driver.lie = flipped
    with pytest.raises(SignatureMismatch):
        pos.start("b" * 36)
    driver.lie = None
    driver.reconcile = lambda call, *_: SoftwareTse.recall(driver, call).signed  # type: ignore[union-attr,method-assign,assignment]
    assert pos.start("b" * 36, retry=True).transaction_number == 1
    scu.close()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_alarm_is_answered_with_the_evidence(
    driver: LyingTse, clock: Any, make_pos: Any, lie: Lie, caplog: pytest.LogCaptureFixture
) -> None:
    _, pos = over(driver, clock, make_pos, "alarm")
    assert pos.start().signature_data.mismatch is None
    driver.lie = lie
    answer = pos.finish(1)
    found = answer.signature_data.mismatch
    assert found is not None
    assert found.signature_base64 == answer.signature_data.signature_base64
    assert found.signature_counter == answer.signature_data.signature_counter
    assert (found.operation, found.client_id, found.process_type) == ("finish", "POS-1", "Kassenbeleg-V1")
    assert base64.b64decode(found.process_data_base64).startswith(b"Beleg^1.00")
    assert "does not verify" in caplog.text


@pytest.mark.parametrize("mode", ["failed_mode", "alarm"])
def test_what_is_right_raises_no_alarm(driver: LyingTse, clock: Any, make_pos: Any, mode: str) -> None:
    _, pos = over(driver, clock, make_pos, mode)
    for with_message in (False, True):
        driver.with_message = with_message
        number = pos.start().transaction_number
        answers = [pos.update(number), pos.update(number, b""), pos.finish(number)]
        assert [answer.signature_data.mismatch for answer in answers] == [None, None, None]


def test_switched_off(driver: LyingTse, clock: Any, make_pos: Any) -> None:
    _, pos = over(driver, clock, make_pos, "off")
    driver.lie = flipped
    assert pos.start().signature_data.mismatch is None


@pytest.mark.parametrize("in_process", [False, True], ids=["device", "key in this process"])
def test_every_tse_is_checked_unless_it_is_switched_off(
    driver: LyingTse, clock: Any, make_pos: Any, in_process: bool
) -> None:
    driver.key_in_process = in_process
    scu, pos = over(driver, clock, make_pos)
    assert scu.capabilities.in_process == in_process
    number = pos.start().transaction_number
    driver.lie = flipped
    with pytest.raises(SignatureMismatch):
        pos.finish(number)


def stranger(tmp_path: Path, clock: Any) -> TseInfo:
    other = SoftwareTse(tmp_path / "stranger", clock=clock)
    info = other.info(None)
    other.close()
    return info


def with_certificates_of(other: TseInfo) -> Callable[[TseInfo], TseInfo]:
    return lambda info: msgspec.structs.replace(info, certificates_base64=other.certificates_base64)


def with_serial_of(other: TseInfo) -> Callable[[TseInfo], TseInfo]:
    return lambda info: msgspec.structs.replace(info, serial_number_octet=other.serial_number_octet)


@pytest.mark.parametrize(
    ("show", "text"),
    [
        (with_certificates_of, "not that of its certificate"),
        (with_serial_of, "not the hash of its public key"),
    ],
)
def test_another_certificate_or_serial_number(
    driver: LyingTse, clock: Any, make_pos: Any, tmp_path: Path, show: Any, text: str
) -> None:
    over(driver, clock, make_pos)
    driver.shown = show(stranger(tmp_path, clock))
    counter = driver.info(None).current_number_of_signatures
    refused = ScuCore(driver, clock=clock)
    with pytest.raises(Misconfigured, match=text):
        make_pos(refused).start()
    assert driver.info(None).current_number_of_signatures == counter
    alarmed = ScuCore(driver, clock=clock, signature_check="alarm")
    found = make_pos(alarmed).start().signature_data.mismatch
    assert found is not None
    assert text in found.reason


def test_a_certificate_that_is_exchanged_in_operation(
    driver: LyingTse, clock: Any, make_pos: Any, tmp_path: Path
) -> None:
    scu, pos = over(driver, clock, make_pos)
    pos.start()
    driver.shown = with_certificates_of(stranger(tmp_path, clock))
    with pytest.raises(Misconfigured):
        scu.get_tse_info()
    with pytest.raises(Misconfigured):
        pos.start()
    driver.shown = None
    assert pos.start().transaction_number == 2


def test_a_signature_by_another_key(driver: LyingTse, clock: Any, make_pos: Any, tmp_path: Path) -> None:
    """The TSE shows its own certificate and has somebody else sign."""
    other = SoftwareTse(tmp_path / "other", clock=clock)
    other_scu = ScuCore(other, clock=clock)
    other_scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    other_scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    _, pos = over(driver, clock, make_pos)
    signed: list[Signed] = []
    driver.ask = lambda call: signed.append(other.start(call, None)) or call  # type: ignore[func-returns-value]
    driver.lie = lambda _: signed[-1]
    with pytest.raises(SignatureMismatch):
        pos.start()
    other_scu.close()


def keeping_updates(folder: Path, clock: Any, version: int) -> ScuCore:
    """A rehearsed TSE that signs updates with the finish."""
    return open_software_tse(
        folder / "tse",
        clock=clock,
        client_ids=["POS-1"],
        updates="unsigned",
        log_version=version,
        rehearse=Rehearsal(seed=1),
    )


@pytest.mark.parametrize("version", [2, 3])
def test_updates_that_the_tse_keeps_for_later(
    tmp_path: Path, clock: Any, make_pos: Any, version: int
) -> None:
    """Version 2 signs them with the finish, in pieces; the pieces are known, and others do not pass."""
    scu = keeping_updates(tmp_path, clock, version)
    pos = make_pos(scu)
    for data in (b"", b"one"):
        number = pos.start().transaction_number
        assert pos.update(number, data).signature_data.signature_counter == 0
        pos.update(number, b"two")
        assert pos.finish(number).signature_data.mismatch is None
    number, item = pos.start().transaction_number, "00112233-4455-6677-8899-aabbccddeeff"
    for retry in (False, True):  # the answer was lost: it is kept once
        pos.update(number, b"once", item, retry=retry)
    assert pos.finish(number).signature_data.mismatch is None
    if version == 2:
        number = pos.start().transaction_number
        pos.update(number, b"kept")
        scu._driver.inner._kept[number].pieces[0] = b"lost"  # type: ignore[attr-defined]
        with pytest.raises(SignatureMismatch):
            pos.finish(number)
    scu.close()


@pytest.mark.parametrize("version", [2, 3])
def test_updates_too_long_for_one_message(tmp_path: Path, clock: Any, make_pos: Any, version: int) -> None:
    """The TSE signs the first of them before, and only the rest with the finish."""
    scu = keeping_updates(tmp_path, clock, version)
    pos = make_pos(scu)
    number = pos.start().transaction_number
    for letter in b"abcd":
        pos.update(number, bytes([letter]) * 20_000)
    assert pos.finish(number).signature_data.mismatch is None
    scu.close()


def test_rehearsing_a_tse_that_lies(tmp_path: Path, clock: Any, make_pos: Any) -> None:
    scu = open_software_tse(
        tmp_path / "tse",
        clock=clock,
        client_ids=["POS-1"],
        rehearse=Rehearsal(faults=[Fault(kind="wrong_signature", operation="finish", times=1)]),
    )
    pos = make_pos(scu)
    number = pos.start().transaction_number
    for retry in (False, True):
        with pytest.raises(SignatureMismatch):
            pos.finish(number, item="c" * 36, retry=retry)
    assert pos.finish(pos.start().transaction_number).signature_data.mismatch is None
    scu.close()


def test_a_mode_nobody_knows(driver: LyingTse, clock: Any) -> None:
    with pytest.raises(ConfigurationError, match="failed_mode, alarm, off"):
        ScuCore(driver, clock=clock, signature_check="maybe")  # type: ignore[arg-type]
