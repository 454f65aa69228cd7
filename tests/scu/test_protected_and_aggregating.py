"""The SCU over a software TSE that asks for PINs, and over one that keeps updates for later."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import (
    RegisterClientIdRequest,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Selection
from fiskal.scu.errors import ClientError, Misconfigured, TseRejected
from fiskal.scu.software import Rehearsal, SoftwareTse, access, open_software_tse
from fiskal.scu.software.access import TRANSPORT_PUK, Access
from fiskal.scu.software.aggregating import AggregatingTse
from fiskal.scu.software.rehearsal import Fault, RehearsedTse
from fiskal.tse.encode_events import AuthenticationResult, UnblockResult
from fiskal.tse.logmessage import parse
from fiskal.tse.tarverify import verify_tar

PIN = "12345"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A TSE whose administrator has a PIN."""
    SoftwareTse(tmp_path / "tse").close()
    assert Access.create(tmp_path / "tse").unblock("admin", TRANSPORT_PUK, PIN, 0) is UnblockResult.SUCCESS
    return tmp_path / "tse"


def operations(scu: ScuCore) -> list[str | None]:
    tse: Any = scu._driver
    while not isinstance(tse, SoftwareTse):
        tse = tse.inner
    return [parse(message).operation for _, message in tse.messages()]


def test_everything_that_changes_the_tse_is_done_by_the_administrator(folder: Path, make_pos: Any) -> None:
    scu = open_software_tse(folder, admin_pin=PIN, client_ids=["POS-1"])
    pos = make_pos(scu)
    pos.finish(pos.start().transaction_number)
    scu.execute_set_tse_time()
    scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-1"))
    scu.set_tse_state(TseState(current_state=TseStates.TERMINATED))
    framed = [
        ["startAudit", "updateTime", "initialize"],
        ["registerClient"],
        None,
        ["updateTime"],
        ["deregisterClient"],
    ]
    expected: list[str] = []
    for part in framed:
        expected += (
            ["StartTransaction", "FinishTransaction"]
            if part is None
            else ["authenticateUser", *part, "logOut"]
        )
    assert operations(scu) == [*expected, "authenticateUser", "disableSecureElement"]
    with pytest.raises(TseRejected):
        scu.register_client_id(RegisterClientIdRequest(client_id="POS-2"))
    scu.close()


@pytest.mark.parametrize(("pin", "code"), [(None, "AUTH_FAILED"), ("54321", "AUTH_FAILED")])
def test_a_wrong_pin_is_tried_once(folder: Path, pin: str | None, code: str) -> None:
    scu = open_software_tse(folder, admin_pin=pin)
    for _ in range(5):
        with pytest.raises(Misconfigured) as caught:
            scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
        assert caught.value.code == code
    assert operations(scu) == ([] if pin is None else ["authenticateUser"])
    assert Access(folder).retries("admin") == (3 if pin is None else 2)
    scu.close()


def test_a_blocked_pin_is_told(folder: Path) -> None:
    for _ in range(3):
        scu = open_software_tse(folder, admin_pin="54321")
        with pytest.raises(Misconfigured):
            scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
        scu.close()
    scu = open_software_tse(folder, admin_pin=PIN)
    with pytest.raises(Misconfigured) as caught:
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    assert caught.value.code == "PIN_BLOCKED"
    scu.close()


def test_killing_the_process_gives_no_further_try(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> bool:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(access._Secret, "matches", die)
        for remaining in (2, 1, 0):
            with pytest.raises(Killed):
                Access(folder).authenticate("admin", PIN)
            assert Access(folder).retries("admin") == remaining
    assert Access(folder).authenticate("admin", PIN) is AuthenticationResult.PIN_BLOCKED


def test_no_pin_stands_in_the_folder(folder: Path) -> None:
    assert all(
        PIN.encode() not in path.read_bytes() and TRANSPORT_PUK.encode() not in path.read_bytes()
        for path in folder.iterdir()
        if path.name == access.FILE_NAME
    )
    assert (folder / access.FILE_NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"admin": {}}', b"\xff"])
def test_users_that_cannot_be_read_are_an_error(folder: Path, content: bytes) -> None:
    (folder / access.FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigurationError, match=access.FILE_NAME):
        open_software_tse(folder, admin_pin=PIN)
    (folder / access.FILE_NAME).unlink()
    open_software_tse(folder).close()  # the failed one gave the folder free


def test_a_self_test_that_fails_ends_selling_until_one_passes(
    open_tse: Callable[..., ScuCore], make_pos: Any
) -> None:
    scu = open_tse(rehearse=Rehearsal(faults=[Fault(kind="self_test_fails", times=1)]))
    pos = make_pos(scu)
    with pytest.raises(TseRejected, match="secure state"):
        scu.execute_self_test()
    with pytest.raises(TseRejected) as caught:
        pos.start()
    assert caught.value.code == "SECURE_STATE"
    assert operations(scu)[-3:] == ["selfTest", "enterSecureState", None]
    scu.execute_self_test()
    assert operations(scu)[-1] == "exitSecureState"
    pos.start()


# ---- unsigned updates -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_unsigned_updates_through_the_scu(
    open_tse: Callable[..., ScuCore], make_pos: Any, version: int
) -> None:
    scu = open_tse(updates="unsigned", log_version=version)
    pos = make_pos(scu)
    number = pos.start().transaction_number
    signatures = scu.get_tse_info().current_number_of_signatures
    item = "00112233-4455-6677-8899-aabbccddeeff"
    kept = pos.update(number, b"a", item)
    assert (kept.signature_data.signature_counter, kept.signature_data.signature_base64) == (0, "")
    pos.update(number, b"a", item, retry=True)  # the answer was lost: it is not kept twice
    pos.update(number, b"b")
    assert scu.get_tse_info().current_number_of_signatures == signatures
    other = "00112233-4455-6677-8899-aabbccddee00"
    finished = pos.finish(number, b"c", other)
    assert pos.finish(number, b"c", other, retry=True) == finished
    with pytest.raises(ClientError):
        pos.finish(number, b"abc", other, retry=True)
    tse = scu._driver
    assert isinstance(tse, AggregatingTse)
    data = [parse(raw).process_data for _, raw in tse.messages()][-2 if version == 3 else -1 :]
    assert data == ([b"abc"] if version == 2 else [b"ab", b"c"])


def test_updates_too_long_for_one_message_are_signed_before(
    open_tse: Callable[..., ScuCore], make_pos: Any
) -> None:
    scu = open_tse(updates="unsigned")
    pos = make_pos(scu)
    number = pos.start().transaction_number
    for letter in b"abc":
        pos.update(number, bytes([letter]) * 30_000)
    pos.finish(number, b"d" * 10_000)
    tse = scu._driver
    assert isinstance(tse, AggregatingTse)
    sizes = [len(parse(raw).process_data or b"") for _, raw in tse.messages()]
    assert sizes[-2:] == [60_000, 40_000]
    out = io.BytesIO()
    tse.export(Selection(), out, scu._turn)
    assert verify_tar(io.BytesIO(out.getvalue())).ok


def test_an_unknown_variant_of_updates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="updates"):
        open_software_tse(tmp_path, updates="sometimes")  # type: ignore[arg-type]


def test_pins_and_a_rehearsal_go_together(folder: Path, make_pos: Any) -> None:
    scu = open_software_tse(folder, admin_pin=PIN, client_ids=["POS-1"], rehearse=Rehearsal())
    assert isinstance(scu._driver, RehearsedTse)
    make_pos(scu).start()
    assert operations(scu)[:2] == ["authenticateUser", "startAudit"]
    scu.close()
