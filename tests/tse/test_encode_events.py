"""System events as devices write them, and as TR-03151-1 and TR-03153-1 print them."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiskal.tse._native import TimeFormat
from fiskal.tse.encode_events import (
    AuthenticationResult,
    Component,
    Event,
    EventEncoder,
    LogOutCause,
    Role,
    SelfTestResult,
    UnblockResult,
    components_csv,
    integer,
    serial_numbers,
    tlv,
)

V2 = EventEncoder(2, TimeFormat.UNIX)
V3 = EventEncoder(3, TimeFormat.UNIX)
ADMIN = b"admin".hex()
SUCCESS = AuthenticationResult.SUCCESS


def ms(unix: int) -> int:
    return unix * 1000


@pytest.mark.parametrize(
    ("event", "name", "data"),
    [
        (V2.initialize("some description"), "initialize", "8110" + b"some description".hex()),
        (V3.initialize("some description"), "initialize", ""),
        (V2.update_time(ms(0x610950E7), ms(0x610950E9)), "updateTime", "8104610950e78204610950e9"),
        (V3.update_time(ms(0x610950E7), ms(0x610950E9)), "updateTime", "0204610950e70204610950e9"),
        (V2.disable(ms(0x616E929E)), "disableSecureElement", "8104616e929e"),
        (V3.disable(ms(0x616E929E)), "disableSecureElement", ""),
        (
            V2.authenticate_user("admin", Role.ADMIN, SUCCESS, 3),
            "authenticateUser",
            f"8105{ADMIN}8201018301ff",
        ),
        (
            V3.authenticate_user("admin", Role.ADMIN, SUCCESS, 3),
            "authenticateUser",
            f"1305{ADMIN}1305{ADMIN}0a0100020103",
        ),
        (
            V3.authenticate_user("x", Role.UNKNOWN, AuthenticationResult.UNKNOWN_USER_ID, 0),
            "authenticateUser",
            f"1301781307{b'unknown'.hex()}0a0101020100",
        ),
        (V2.authenticate_sma_admin("admin", True, 4), "authenticateSmaersAdmin", f"8105{ADMIN}8301ff840104"),
        (V3.authenticate_sma_admin("smaadmin", False, 2), "authenticateSmaAdmin", "010100020102"),
        (V2.log_out("admin", LogOutCause.USER_CALLED), "logOut", f"8105{ADMIN}820100"),
        (V2.log_out("admin", LogOutCause.TIMEOUT), "logOut", f"8105{ADMIN}820101"),
        (V3.log_out("admin", LogOutCause.DIFFERENT_USER), "logOut", f"1305{ADMIN}0a0101"),
        (V2.unblock("admin", UnblockResult.SUCCESS), "unblockUser", f"8105{ADMIN}820100"),
        (V2.unblock("admin", UnblockResult.INCORRECT_PUK), "unblockUser", f"8105{ADMIN}820101"),
        (V2.unblock("admin", UnblockResult.UNKNOWN_USER_ID), "unblockUser", f"8105{ADMIN}820102"),
        (V3.unblock("admin", UnblockResult.INCORRECT_PUK), "unblockPin", f"1305{ADMIN}0a0102"),
        (V2.start_audit(), "startAudit", ""),
        (V3.enter_secure_state(), "enterSecureState", ""),
        (V2.exit_secure_state(), "exitSecureState", ""),
        (V2.register_client("client-1"), "registerClient", "8108" + b"client-1".hex()),
        (V3.register_client("POS-0001"), "registerClient", "1308504f532d30303031"),
        (V2.delete_logs("admin"), "deleteStoredData", f"8105{ADMIN}"),
        (V3.delete_logs("admin"), "deleteLogMessages", ""),
        (V2.lock_transaction_logging("admin"), "lockTransactionLogging", f"8105{ADMIN}"),
        (V3.unlock_transaction_logging("admin"), "unlockTransactionLogging", ""),
        (V3.set_description("x"), "setDescription", "130178"),
    ],
)
def test_events_are_encoded_as_devices_do(event: Event, name: str, data: str) -> None:
    assert (event.name, event.data.hex()) == (name, data)


def test_a_self_test_is_one_event_or_one_for_each_component() -> None:
    results = [SelfTestResult("SMAERS", False, "ERROR_UNAUTHORIZED"), SelfTestResult("CSP", True)]
    names = b"SMAERS".hex(), b"ERROR_UNAUTHORIZED".hex(), b"CSP".hex()
    assert [event.data.hex() for event in V2.self_test(results)] == [
        f"8106{names[0]}8201008312{names[1]}",
        f"8103{names[2]}8201ff",
    ]
    (event,) = V3.self_test(results)
    first, second = f"1306{names[0]}0101001312{names[1]}", f"1303{names[2]}0101ff"
    listed = f"30{len(first) // 2:02x}{first}30{len(second) // 2:02x}{second}"
    assert event.data.hex() == f"30{len(listed) // 2:02x}{listed}010100"


def test_an_audit_log_as_devices_write_it() -> None:
    assert V2.audit(ms(1_630_606_974), 3, 1).hex() == "300c80046131167e810103820101"


def test_serial_numbers_of_both_versions() -> None:
    serial = bytes(range(32))
    assert serial_numbers(2, serial).hex() == f"302f302d0420{serial.hex()}30098001ff8101ff8201ff"
    assert serial_numbers(3, serial).hex() == f"302f302d0420{serial.hex()}30090101ff0101ff0101ff"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "020100"), (127, "02017f"), (128, "02020080"), (32768, "0203008000"), (2**32 - 1, "020500ffffffff")],
)
def test_integers_are_minimal(value: int, encoded: str) -> None:
    assert integer(value).hex() == encoded


@given(st.integers(0, 255), st.integers(0, 70_000))
def test_lengths_are_minimal(tag: int, length: int) -> None:
    encoded = tlv(tag, bytes(length))
    assert encoded[0] == tag
    if length < 128:
        assert encoded[1] == length
    else:
        count = encoded[1] & 0x7F
        assert encoded[2] != 0
        assert int.from_bytes(encoded[2 : 2 + count]) == length
        assert length >= 128 if count == 1 else length >= 256 ** (count - 1)
    assert encoded.endswith(bytes(length))


@given(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n\0"), max_size=64))
def test_info_csv_of_version_3_is_read_back(text: str) -> None:
    component = Component("device", text, "model", "1.0", "BSI-K-TR-0000-2023")
    rows = list(csv.reader(io.StringIO(components_csv([component] * 5, text).decode(), newline="")))
    assert len(rows) == 6
    assert all(len(row) == 10 for row in rows)
    assert rows[0][::2] == ["component:", "manufacturer:", "model:", "version:", "certification-id:"]
    assert rows[0][1::2] == list(component)
    assert rows[5][:2] == ["description:", text]
