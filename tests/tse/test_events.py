"""System events: every payload of both guidelines to named fields, and nothing lost or raised on other bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fiskal.clock import from_unix
from fiskal.tse._native import MessageBuilder, TimeFormat, time_tlv
from fiskal.tse.events import (
    AuthenticateSmaAdmin,
    AuthenticateUser,
    ChangePuk,
    ComponentLogging,
    ComponentTest,
    ConfigureLogging,
    DeleteLogMessages,
    DeregisterClient,
    DeviceInformation,
    DisableSecureElement,
    EnterSecureState,
    Event,
    EventSetting,
    ExitSecureState,
    Initialize,
    LockTransactionLogging,
    LogOut,
    RegisterClient,
    SelfTest,
    SetConfiguration,
    SetDescription,
    StartAudit,
    StopAudit,
    UnblockPin,
    UnknownEvent,
    UnlockTransactionLogging,
    UpdateDevice,
    UpdateDeviceCompleted,
    UpdateTime,
    decode_event,
    summary,
)
from fiskal.tse.logmessage import Element, LogMessage, parse

AT = 0x6553F100
TICKS = from_unix(AT)


def tlv(tag: int, *content: bytes | str) -> bytes:
    data = b"".join(part.encode() if isinstance(part, str) else part for part in content)
    head = bytes([len(data)]) if len(data) < 0x80 else b"\x82" + len(data).to_bytes(2)
    return bytes([tag]) + head + data


def message(
    name: str,
    data: bytes,
    version: int = 2,
    time_format: TimeFormat = TimeFormat.UNIX,
    user: bytes | None = b"admin",
) -> LogMessage:
    build = MessageBuilder(
        serial=bytes(32), algorithm=b"\1\3", hash_name="sha256", version=version, time_format=time_format
    )
    build.system(name.encode(), data, 5, AT * 1000, origin=b"device", user=user)
    return parse(build.seal(bytes(64)))


def v2(name: str, *parts: bytes, **options: Any) -> Event:
    return decode_event(message(name, b"".join(parts), **options))


def v3(name: str, *parts: bytes, **options: Any) -> Event:
    return decode_event(message(name, b"".join(parts), version=3, **options))


def text(value: str) -> bytes:
    return tlv(0x13, value)


def enum(value: int) -> bytes:
    return tlv(0x0A, bytes([value]))


def integer(value: int) -> bytes:
    return tlv(0x02, bytes([value]))


YES, NO = tlv(0x01, b"\xff"), tlv(0x01, b"\0")
TIME = time_tlv(TimeFormat.UNIX, AT * 1000)
STAMP = TIME[2:]
DEVICE = DeviceInformation(component="device", manufacturer="M", model="X", version="3.0.4")
CERTIFIED = DeviceInformation(
    component="CSP", manufacturer="M", model="X", version="1", certification_id="BSI-1"
)
DEVICES_2 = tlv(
    0x30,
    tlv(0x30, tlv(0x80, "device"), tlv(0x81, "M"), tlv(0x82, "X"), tlv(0x83, "3.0.4")),
    tlv(0x30, tlv(0x80, "CSP"), tlv(0x81, "M"), tlv(0x82, "X"), tlv(0x83, "1"), tlv(0x84, "BSI-1")),
)
DEVICES_3 = (
    tlv(0x30, text("device"), text("M"), text("X"), text("3.0.4")),
    tlv(0x30, text("CSP"), text("M"), text("X"), text("1"), text("BSI-1")),
)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("initialize", tlv(0x81, "some description"), Initialize(name="", description="some description")),
        (
            "updateTime",
            bytes.fromhex("8104610950e78204610950e9"),
            UpdateTime(name="", time_before=from_unix(0x610950E7), time_after=from_unix(0x610950E9)),
        ),
        ("disableSecureElement", tlv(0x81, STAMP), DisableSecureElement(name="", time=TICKS)),
        (
            "authenticateUser",
            b"\x81\x05admin\x82\x01\x01\x83\x01\xff",
            AuthenticateUser(name="", user_id="admin", role="admin", result="success"),
        ),
        (
            "authenticateUser",
            b"\x81\x01x\x82\x01\x00\x83\x01\x00",
            AuthenticateUser(name="", user_id="x", role="unknown", result="failed"),
        ),
        (
            "logOut",
            b"\x81\x05admin\x82\x01\x01",
            LogOut(name="", user_id="admin", cause="timeout"),
        ),
        (
            "unblockUser",
            b"\x81\x05admin\x82\x01\x02",
            UnblockPin(name="", user_id="admin", result="unknownUserId"),
        ),
        (
            "authenticateSmaersAdmin",
            b"\x81\x05admin\x83\x01\xff\x84\x01\x04",
            AuthenticateSmaAdmin(name="", user_id="admin", result="success", remaining_retries=4),
        ),
        ("startAudit", b"", StartAudit(name="")),
        ("enterSecureState", tlv(0x81, STAMP), EnterSecureState(name="", time=TICKS)),
        ("enterSecureState", b"", EnterSecureState(name="")),
        ("exitSecureState", b"", ExitSecureState(name="")),
        (
            "selfTest",
            tlv(0x81, "SMAERS") + b"\x82\x01\x00" + tlv(0x83, "ERROR_UNAUTHORIZED") + tlv(0x84, STAMP),
            SelfTest(
                name="",
                results=(
                    ComponentTest(component="SMAERS", passed=False, error="ERROR_UNAUTHORIZED", time=TICKS),
                ),
                all_passed=False,
            ),
        ),
        (
            "configureLogging",
            tlv(0x81, "SMAERS-audit")
            + b"\x82\x01\xff"
            + tlv(0x83, tlv(0x30, tlv(0x30, tlv(0x80, "logOut"), b"\x81\x01\xff"))),
            ConfigureLogging(
                name="",
                components=(
                    ComponentLogging(
                        component="SMAERS-audit",
                        successful=True,
                        events=(EventSetting(event="logOut", enabled=True),),
                    ),
                ),
            ),
        ),
        ("registerClient", tlv(0x81, "client-1"), RegisterClient(name="", client_id="client-1")),
        ("deregisterClient", tlv(0x81, "client-1"), DeregisterClient(name="", client_id="client-1")),
        ("deleteStoredData", tlv(0x81, "admin"), DeleteLogMessages(name="", user_id="admin")),
        ("lockTransactionLogging", tlv(0x81, "admin"), LockTransactionLogging(name="", user_id="admin")),
        ("unlockTransactionLogging", tlv(0x81, "admin"), UnlockTransactionLogging(name="", user_id="admin")),
        (
            "updateDevice",
            tlv(0x81, "admin") + tlv(0x82, DEVICES_2),
            UpdateDevice(name="", user_id="admin", components=(DEVICE, CERTIFIED)),
        ),
        (
            "updateDeviceCompleted",
            b"\x81\x01\x02" + tlv(0x82, "why") + tlv(0x83, DEVICES_2),
            UpdateDeviceCompleted(
                name="", outcome="partlyFailed", reason="why", components=(DEVICE, CERTIFIED)
            ),
        ),
    ],
)
def test_version_2(name: str, data: bytes, expected: Event) -> None:
    event = v2(name, data)
    assert event == _named(expected, name)
    assert decode_event(message(name.upper(), data)) == _named(expected, name.upper())


def _named(event: Event, name: str, **more: Any) -> Event:
    fields = {field: getattr(event, field) for field in event.__struct_fields__}
    return type(event)(**{**fields, "name": name, **more})


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("initialize", b"", Initialize(name="")),
        ("setDescription", text("shop"), SetDescription(name="", description="shop")),
        ("updateTime", TIME + TIME, UpdateTime(name="", time_before=TICKS, time_after=TICKS)),
        (
            "updateTime",
            TIME + TIME + tlv(0x30, integer(5), integer(6)),
            UpdateTime(name="", time_before=TICKS, time_after=TICKS, slew_step_us=5, slew_rate_us_per_s=6),
        ),
        ("disableSecureElement", b"", DisableSecureElement(name="")),
        (
            "authenticateUser",
            bytes.fromhex("1305")
            + b"admin"
            + bytes.fromhex("1305")
            + b"admin"
            + bytes.fromhex("0a0100020103"),
            AuthenticateUser(name="", user_id="admin", role="admin", result="success", remaining_retries=3),
        ),
        (
            "authenticateUser",
            text("x") + text("unknown") + enum(3) + integer(0),
            AuthenticateUser(name="", user_id="x", role="unknown", result="pinBlocked", remaining_retries=0),
        ),
        ("logOut", text("admin") + enum(1), LogOut(name="", user_id="admin", cause="differentUserLoggedIn")),
        (
            "unblockPin",
            text("admin") + enum(6),
            UnblockPin(name="", user_id="admin", result="errorResettingRetryCounterFailed"),
        ),
        (
            "selfTest",
            tlv(0x30, tlv(0x30, text("CSP"), YES), tlv(0x30, text("SMA"), NO, text("bad"), TIME)) + NO,
            SelfTest(
                name="",
                results=(
                    ComponentTest(component="CSP", passed=True),
                    ComponentTest(component="SMA", passed=False, error="bad", time=TICKS),
                ),
                all_passed=False,
            ),
        ),
        ("updateDevice", b"".join(DEVICES_3), UpdateDevice(name="", components=(DEVICE, CERTIFIED))),
        ("updateDevice", tlv(0x30, *DEVICES_3), UpdateDevice(name="", components=(DEVICE, CERTIFIED))),
        (
            "updateDeviceCompleted",
            enum(0) + tlv(0x30, *DEVICES_3),
            UpdateDeviceCompleted(name="", outcome="success", components=(DEVICE, CERTIFIED)),
        ),
        (
            "configureLogging",
            tlv(0x30, text("SMA"), YES, tlv(0x30, tlv(0x30, text("logOut"), NO))),
            ConfigureLogging(
                name="",
                components=(
                    ComponentLogging(
                        component="SMA",
                        successful=True,
                        events=(EventSetting(event="logOut", enabled=False),),
                    ),
                ),
            ),
        ),
        (
            "registerClient",
            bytes.fromhex("1308504f532d30303031"),
            RegisterClient(name="", client_id="POS-0001"),
        ),
        ("deregisterClient", text("POS-0001"), DeregisterClient(name="", client_id="POS-0001")),
        (
            "authenticateSmaAdmin",
            text("r") + YES + integer(4),
            AuthenticateSmaAdmin(name="", role="r", result="success", remaining_retries=4),
        ),
        ("authenticateSmaAdmin", NO, AuthenticateSmaAdmin(name="", result="failed")),
        ("enterSecureState", TIME, EnterSecureState(name="", time=TICKS)),
        ("exitSecureState", b"", ExitSecureState(name="")),
        ("startAudit", b"", StartAudit(name="")),
        ("deleteLogMessages", b"", DeleteLogMessages(name="")),
        ("lockTransactionLogging", b"", LockTransactionLogging(name="")),
        ("unlockTransactionLogging", b"", UnlockTransactionLogging(name="")),
    ],
)
def test_version_3(name: str, data: bytes, expected: Event) -> None:
    assert v3(name, data) == _named(expected, name, origin="device", triggered_by="admin")
    assert v3(name, data, user=None) == _named(expected, name, origin="device")


@pytest.mark.parametrize("time_format", [TimeFormat.UNIX, TimeFormat.UTC, TimeFormat.GENERALIZED])
def test_times_have_the_format_of_the_message_in_version_2_and_their_own_tag_in_version_3(
    time_format: TimeFormat,
) -> None:
    stamp = time_tlv(time_format, AT * 1000)
    event = v2("disableSecureElement", tlv(0x81, stamp[2:]), time_format=time_format)
    assert event == DisableSecureElement(name="disableSecureElement", time=TICKS)
    event = v3("enterSecureState", stamp, time_format=TimeFormat.UNIX)
    assert isinstance(event, EnterSecureState)
    assert event.time == TICKS


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        (
            "setConfiguration",
            tlv(0x81, 'A="1",B_C="x=y"'),
            SetConfiguration(name="", settings={"A": "1", "B_C": "x=y"}),
        ),
        ("addClients", tlv(0x81, "c"), RegisterClient(name="", client_id="c")),
        ("removeClients", tlv(0x81, "c"), DeregisterClient(name="", client_id="c")),
        ("auditStart", b"", StartAudit(name="")),
        ("auditStop", b"", StopAudit(name="")),
        ("secureStateExit", b"", ExitSecureState(name="")),
        ("changePuk", tlv(0x81, b"\x01"), ChangePuk(name="", result="01")),
    ],
)
def test_events_of_vendors_are_read_and_remarked(name: str, data: bytes, expected: Event) -> None:
    assert v2(name, data) == _named(expected, name, faults=(f"the event {name!r} is a vendor's",))
    assert isinstance(v3(name, b""), UnknownEvent)


def test_unknown_events_and_elements_are_kept() -> None:
    event = v2("makeCoffee", b"\x81\x01x\x82\x00")
    assert isinstance(event, UnknownEvent)
    assert event.unknown == (Element(0x81, b"x", b"\x81\x01x"), Element(0x82, b"", b"\x82\x00"))
    assert event.faults == ("the event 'makeCoffee' is unknown",)
    event = v2("registerClient", b"\x81\x01x\x85\x01y")
    assert event.unknown == (Element(0x85, b"y", b"\x85\x01y"),)
    assert isinstance(event, RegisterClient)
    assert event.client_id == "x"
    event = v3("registerClient", text("x"), integer(1))
    assert event.unknown == (Element(0x02, b"\x01", b"\x02\x01\x01"),)


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (v2("registerClient"), "client_id is missing"),
        (v2("registerClient", b"\x81\x7fx"), "the payload is no DER"),
        (v2("updateTime", b"\x81\x02xx\x82\x04\x65\x53\xf1\x00", time_format=TimeFormat.UTC), "no time"),
        (v2("logOut", b"\x81\x01x\x82\x00"), "cause is no number"),
        (v2("authenticateUser", b"\x81\x01x\x82\x01\x01\x83\x02\x00\x00"), "result is no truth value"),
        (v2("updateDevice", b"\x81\x01x" + tlv(0x82, tlv(0x30, tlv(0x30, b"\x80\x01x")))), "is incomplete"),
        (v2("updateDevice", b"\x81\x01x" + tlv(0x82, tlv(0x04, "x"))), "is no list"),
        (v2("configureLogging", b"\x81\x01x\x82\x01\xff" + tlv(0x83, b"\x30\x09x")), "is no DER"),
        (v3("registerClient", integer(1)), "client_id is missing"),
    ],
)
def test_faults_are_named(event: Event, fault: str) -> None:
    assert any(fault in text for text in event.faults), event.faults


def test_an_undefined_number_is_said() -> None:
    event = v2("logOut", b"\x81\x01x\x82\x01\x09")
    assert isinstance(event, LogOut)
    assert event.cause == "undefined (9)"


def test_only_system_logs_have_events() -> None:
    build = MessageBuilder(serial=bytes(32), algorithm=b"\1\3", hash_name="sha256")
    build.audit(b"", 1, 0)
    with pytest.raises(ValueError, match="system log"):
        decode_event(parse(build.seal(bytes(64))))


NAMES = st.sampled_from(
    [
        "initialize",
        "updateTime",
        "disableSecureElement",
        "authenticateUser",
        "logOut",
        "unblockUser",
        "unblockPin",
        "startAudit",
        "selfTest",
        "configureLogging",
        "registerClient",
        "updateDevice",
        "updateDeviceCompleted",
        "setDescription",
        "setConfiguration",
        "enterSecureState",
        "authenticateSmaersAdmin",
        "authenticateSmaAdmin",
        "changePuk",
        "other",
    ]
)


@settings(max_examples=800, deadline=None)
@given(
    NAMES,
    st.binary(max_size=60)
    | st.lists(
        st.tuples(
            st.sampled_from([0x81, 0x82, 0x83, 0x84, 0xA3, 0x13, 0x02, 0x0A, 0x01, 0x30, 0x17]),
            st.binary(max_size=12) | st.binary(max_size=8).map(lambda data: tlv(0x30, tlv(0x30, data))),
        ),
        max_size=5,
    ).map(lambda parts: b"".join(tlv(tag, data) for tag, data in parts)),
    st.sampled_from([2, 3]),
)
@example("updateDevice", tlv(0x30, b"\x30\x80" * 30), 3)
def test_any_payload_is_read(name: str, data: bytes, version: int) -> None:
    event = decode_event(message(name, data, version))
    assert event.name == name
    assert isinstance(summary(event), str)


def test_summary() -> None:
    event = v2("authenticateUser", b"\x81\x05admin\x82\x01\x01\x83\x01\xff")
    assert summary(event) == "user_id admin, role admin, result success"
    assert summary(v2("startAudit")) == ""
