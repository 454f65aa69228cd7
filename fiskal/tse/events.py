"""What a system log says: the payload of every event, decoded to named fields (TR-03151-1 §3.3, TR-03151
v1.0.1 with its Amendment).

Both worlds give the same types: systemOperationData of version 2 (context tags, no universal tags inside) and
eventData of version 3 (universal tags, in order). Reading is tolerant: what cannot be decoded leaves its field
None and is named in ``faults``; what no guideline knows is kept in ``unknown``. Texts of enumerations are those
of TR-03151-1; a number that it does not define reads ``undefined (7)``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from fiskal.tse._native import read_time
from fiskal.tse.logmessage import Element, LogMessage, LogMessageError, LogType, TimeKind, elements


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A system event. ``name`` is operationType or eventType as written; ``origin`` and ``triggered_by`` are
    eventOrigin and eventTriggeredByUser of version 3. Times are ticks."""

    name: str
    origin: str | None = None
    triggered_by: str | None = None
    unknown: tuple[Element, ...] = ()
    """Elements that the guideline does not have."""
    faults: tuple[str, ...] = ()
    """What deviates from the guideline, for people."""


class UnknownEvent(Event, frozen=True, kw_only=True):
    """An event of no guideline; its elements are in ``unknown``. Version 2 leaves vendors free to have more."""


class Initialize(Event, frozen=True, kw_only=True):
    """``description`` is None in version 3, where it has an event of its own."""

    description: str | None = None


class SetDescription(Event, frozen=True, kw_only=True):
    description: str | None = None


class UpdateTime(Event, frozen=True, kw_only=True):
    """The clock was set. The slew settings are version 3's: microseconds, and microseconds per second."""

    time_before: int | None = None
    time_after: int | None = None
    slew_step_us: int | None = None
    slew_rate_us_per_s: int | None = None


class DisableSecureElement(Event, frozen=True, kw_only=True):
    """The TSE was decommissioned; ``time`` only in version 2."""

    time: int | None = None


class AuthenticateUser(Event, frozen=True, kw_only=True):
    """``result`` is ``success`` or why not; version 2 only says ``failed``."""

    user_id: str | None = None
    role: str | None = None
    result: str | None = None
    remaining_retries: int | None = None


class AuthenticateSmaAdmin(AuthenticateUser, frozen=True, kw_only=True):
    """The administrator of the security module application; in version 2 authenticateSmaersAdmin."""


class LogOut(Event, frozen=True, kw_only=True):
    user_id: str | None = None
    cause: str | None = None


class UnblockPin(Event, frozen=True, kw_only=True):
    """In version 2 unblockUser."""

    user_id: str | None = None
    result: str | None = None


class StartAudit(Event, frozen=True, kw_only=True):
    pass


class EnterSecureState(Event, frozen=True, kw_only=True):
    """``time`` is there if the event was logged later than it happened."""

    time: int | None = None


class ExitSecureState(Event, frozen=True, kw_only=True):
    pass


class ComponentTest(msgspec.Struct, frozen=True, kw_only=True):
    """The self test of one component."""

    component: str | None = None
    passed: bool | None = None
    error: str | None = None
    time: int | None = None


class SelfTest(Event, frozen=True, kw_only=True):
    results: tuple[ComponentTest, ...] = ()
    all_passed: bool | None = None


class EventSetting(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one event is logged."""

    event: str | None = None
    enabled: bool | None = None


class ComponentLogging(msgspec.Struct, frozen=True, kw_only=True):
    """What one component was told to log."""

    component: str | None = None
    successful: bool | None = None
    events: tuple[EventSetting, ...] = ()


class ConfigureLogging(Event, frozen=True, kw_only=True):
    components: tuple[ComponentLogging, ...] = ()


class RegisterClient(Event, frozen=True, kw_only=True):
    client_id: str | None = None


class DeregisterClient(Event, frozen=True, kw_only=True):
    client_id: str | None = None


class DeleteLogMessages(Event, frozen=True, kw_only=True):
    """Exported messages were deleted; in version 2 deleteStoredData."""

    user_id: str | None = None


class LockTransactionLogging(Event, frozen=True, kw_only=True):
    user_id: str | None = None


class UnlockTransactionLogging(Event, frozen=True, kw_only=True):
    user_id: str | None = None


class DeviceInformation(msgspec.Struct, frozen=True, kw_only=True):
    """One component of a TSE and its version."""

    component: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    version: str | None = None
    certification_id: str | None = None


class UpdateDevice(Event, frozen=True, kw_only=True):
    """An update begins; ``components`` are the versions before it."""

    user_id: str | None = None
    components: tuple[DeviceInformation, ...] = ()


class UpdateDeviceCompleted(Event, frozen=True, kw_only=True):
    """``components`` are the versions behind the update."""

    outcome: str | None = None
    reason: str | None = None
    components: tuple[DeviceInformation, ...] = ()


class SetConfiguration(Event, frozen=True, kw_only=True):
    """A vendor's event: settings by name."""

    settings: dict[str, str] = {}


class ChangePuk(Event, frozen=True, kw_only=True):
    """A vendor's event; ``result`` is its bytes in hex."""

    result: str | None = None


class StopAudit(Event, frozen=True, kw_only=True):
    """A vendor's event."""


# ---- values -----------------------------------------------------------------------------------


class _Bad(Exception):
    """A value that cannot be decoded."""


_Decoder = Callable[[Element, TimeKind], Any]


def _text(element: Element, _: TimeKind) -> str:
    try:
        return element.content.decode()
    except UnicodeDecodeError:
        return element.content.decode("latin-1")


def _integer(element: Element, _: TimeKind) -> int:
    if not 0 < len(element.content) <= 8:
        raise _Bad("is no number")
    return int.from_bytes(element.content, signed=True)


def _boolean(element: Element, _: TimeKind) -> bool:
    if len(element.content) != 1:
        raise _Bad("is no truth value")
    return element.content != b"\0"


def _hex(element: Element, _: TimeKind) -> str:
    return element.content.hex()


_TIME_TAGS: Final = {TimeKind.UNIX: 0x02, TimeKind.UTC: 0x17, TimeKind.GENERALIZED: 0x18}


def _time(element: Element, kind: TimeKind) -> int:
    """In version 2 the type of a time is that of logTime; in version 3 it has its own tag."""
    tag = element.tag if element.tag < 0x80 else _TIME_TAGS[kind]
    ticks = read_time(tag, element.content)
    if ticks is None:
        raise _Bad("is no time")
    return ticks


def _names(*texts: str) -> _Decoder:
    def decode(element: Element, kind: TimeKind) -> str:
        number = _integer(element, kind)
        return texts[number] if 0 <= number < len(texts) else f"undefined ({number})"

    return decode


def _choice(yes: str, no: str) -> _Decoder:
    return lambda element, kind: yes if _boolean(element, kind) else no


def _children(element: Element) -> list[Element]:
    return list(elements(element.content))


def _rows(element: Element) -> list[list[Element]]:
    """The rows of a SEQUENCE OF SEQUENCE, whose outer SEQUENCE may be the element itself or lie in it."""
    found = _children(element)
    if len(found) == 1 and found[0].tag == 0x30:
        inner = _children(found[0])
        if not inner or inner[0].tag == 0x30:
            found = inner
    if any(row.tag != 0x30 for row in found):
        raise _Bad("is no list")
    return [_children(row) for row in found]


def _settings_2(element: Element, kind: TimeKind) -> tuple[EventSetting, ...]:
    return tuple(_struct_2(EventSetting, row, _EVENT_SETTING, kind) for row in _rows(element))


def _settings_3(element: Element, kind: TimeKind) -> tuple[EventSetting, ...]:
    return tuple(_struct_3(EventSetting, row, _EVENT_SETTING_3, kind) for row in _rows(element))


def _devices_2(element: Element, kind: TimeKind) -> tuple[DeviceInformation, ...]:
    return tuple(_struct_2(DeviceInformation, row, _DEVICE, kind) for row in _rows(element))


def _devices_3(element: Element, kind: TimeKind) -> tuple[DeviceInformation, ...]:
    return tuple(_struct_3(DeviceInformation, row, _DEVICE_3, kind) for row in _rows(element))


def _tests(element: Element, kind: TimeKind) -> tuple[ComponentTest, ...]:
    return tuple(_struct_3(ComponentTest, row, _TEST_3, kind) for row in _rows(element))


def _loggings(element: Element, kind: TimeKind) -> tuple[ComponentLogging, ...]:
    return tuple(_struct_3(ComponentLogging, row, _LOGGING_3, kind) for row in _rows(element))


_KEY_VALUE: Final = re.compile(r'([^=,"]+)="([^"]*)"')


def _key_values(element: Element, kind: TimeKind) -> dict[str, str]:
    return {key.strip(): value for key, value in _KEY_VALUE.findall(_text(element, kind))}


# ---- tables -----------------------------------------------------------------------------------


class _Need(enum.Enum):
    MUST = 1
    MAY = 2


class _Field(NamedTuple):
    """``tags``: the context tag of version 2, or the universal tags that version 3 allows."""

    tags: tuple[int, ...]
    name: str
    decode: _Decoder
    need: _Need = _Need.MUST


def _v2(number: int, name: str, decode: _Decoder, need: _Need = _Need.MUST) -> _Field:
    return _Field((0x80 | number, 0xA0 | number), name, decode, need)


def _v3_text(name: str, need: _Need = _Need.MUST) -> _Field:
    return _Field((0x13, 0x0C), name, _text, need)


def _v3_time(name: str, need: _Need = _Need.MUST) -> _Field:
    return _Field((0x02, 0x17, 0x18), name, _time, need)


_MAY: Final = _Need.MAY
_Table = tuple[_Field, ...]
_ROLES: Final = _names("unknown", "admin", "timeAdmin")

_DEVICE: Final[_Table] = (
    _v2(0, "component", _text),
    _v2(1, "manufacturer", _text),
    _v2(2, "model", _text),
    _v2(3, "version", _text),
    _v2(4, "certification_id", _text, _MAY),
)
_DEVICE_3: Final[_Table] = (
    _v3_text("component"),
    _v3_text("manufacturer"),
    _v3_text("model"),
    _v3_text("version"),
    _v3_text("certification_id", _MAY),
)
_EVENT_SETTING: Final[_Table] = (_v2(0, "event", _text), _v2(1, "enabled", _boolean))
_EVENT_SETTING_3: Final[_Table] = (_v3_text("event"), _Field((0x01,), "enabled", _boolean))
_TEST_3: Final[_Table] = (
    _v3_text("component"),
    _Field((0x01,), "passed", _boolean),
    _v3_text("error", _MAY),
    _v3_time("time", _MAY),
)
_LOGGING_3: Final[_Table] = (
    _v3_text("component"),
    _Field((0x01,), "successful", _boolean),
    _Field((0x30,), "events", _settings_3),
)
_USER_2: Final = _v2(1, "user_id", _text)
_CLIENT_2: Final = _v2(1, "client_id", _text)
_TIME_2: Final = _v2(1, "time", _time)

_VERSION_2: Final[dict[str, tuple[type[Event], _Table]]] = {
    "initialize": (Initialize, (_v2(1, "description", _text),)),
    "updatetime": (UpdateTime, (_v2(1, "time_before", _time), _v2(2, "time_after", _time))),
    "disablesecureelement": (DisableSecureElement, (_TIME_2,)),
    "authenticateuser": (
        AuthenticateUser,
        (_USER_2, _v2(2, "role", _ROLES), _v2(3, "result", _choice("success", "failed"))),
    ),
    "logout": (LogOut, (_USER_2, _v2(2, "cause", _names("userCalledLogOut", "timeout")))),
    "unblockuser": (
        UnblockPin,
        (_USER_2, _v2(2, "result", _names("success", "failed", "unknownUserId", "error"))),
    ),
    "authenticatesmaersadmin": (
        AuthenticateSmaAdmin,
        (
            _USER_2,
            _v2(2, "role", _text, _MAY),
            _v2(3, "result", _choice("success", "failed")),
            _v2(4, "remaining_retries", _integer, _MAY),
        ),
    ),
    "startaudit": (StartAudit, ()),
    "entersecurestate": (EnterSecureState, (_v2(1, "time", _time, _MAY),)),
    "exitsecurestate": (ExitSecureState, ()),
    "registerclient": (RegisterClient, (_CLIENT_2,)),
    "deregisterclient": (DeregisterClient, (_CLIENT_2,)),
    "deletestoreddata": (DeleteLogMessages, (_USER_2,)),
    "locktransactionlogging": (LockTransactionLogging, (_USER_2,)),
    "unlocktransactionlogging": (UnlockTransactionLogging, (_USER_2,)),
    "updatedevice": (UpdateDevice, (_USER_2, _v2(2, "components", _devices_2))),
    "updatedevicecompleted": (
        UpdateDeviceCompleted,
        (
            _v2(1, "outcome", _names("success", "failed", "partlyFailed")),
            _v2(2, "reason", _text, _MAY),
            _v2(3, "components", _devices_2),
        ),
    ),
}
_TEST_2: Final[_Table] = (
    _v2(1, "component", _text),
    _v2(2, "passed", _boolean),
    _v2(3, "error", _text, _MAY),
    _v2(4, "time", _time, _MAY),
)
_LOGGING_2: Final[_Table] = (
    _v2(1, "component", _text),
    _v2(2, "successful", _boolean),
    _v2(3, "events", _settings_2, _MAY),
)
_VENDOR: Final[dict[str, tuple[type[Event], _Table]]] = {
    "setconfiguration": (SetConfiguration, (_v2(1, "settings", _key_values, _MAY),)),
    "addclients": (RegisterClient, (_v2(1, "client_id", _text, _MAY),)),
    "removeclients": (DeregisterClient, (_v2(1, "client_id", _text, _MAY),)),
    "auditstart": (StartAudit, ()),
    "auditstop": (StopAudit, ()),
    "securestateexit": (ExitSecureState, ()),
    "changepuk": (ChangePuk, (_v2(1, "result", _hex, _MAY),)),
}
"""Seen in exports of certified TSEs, but in no guideline."""

_USER_3: Final = _v3_text("user_id")
_VERSION_3: Final[dict[str, tuple[type[Event], _Table]]] = {
    "initialize": (Initialize, ()),
    "setdescription": (SetDescription, (_v3_text("description"),)),
    "updatetime": (UpdateTime, (_v3_time("time_before"), _v3_time("time_after"))),
    "disablesecureelement": (DisableSecureElement, ()),
    "authenticateuser": (
        AuthenticateUser,
        (
            _USER_3,
            _v3_text("role"),
            _Field((0x0A,), "result", _names("success", "unknownUserId", "incorrectPin", "pinBlocked")),
            _Field((0x02,), "remaining_retries", _integer),
        ),
    ),
    "logout": (
        LogOut,
        (
            _USER_3,
            _Field((0x0A,), "cause", _names("userCalledLogOut", "differentUserLoggedIn", "timeout")),
        ),
    ),
    "unblockpin": (
        UnblockPin,
        (
            _USER_3,
            _Field(
                (0x0A,),
                "result",
                _names(
                    "success",
                    "unknownUserId",
                    "incorrectPuk",
                    "unblockingTemporarilyBlocked",
                    "resettingError",
                    "errorSettingNewPinFailed",
                    "errorResettingRetryCounterFailed",
                ),
            ),
        ),
    ),
    "selftest": (
        SelfTest,
        (_Field((0x30,), "results", _tests), _Field((0x01,), "all_passed", _boolean)),
    ),
    "updatedevicecompleted": (
        UpdateDeviceCompleted,
        (
            _Field((0x0A,), "outcome", _names("success", "failed", "partlyFailed")),
            _v3_text("reason", _MAY),
            _Field((0x30,), "components", _devices_3),
        ),
    ),
    "registerclient": (RegisterClient, (_v3_text("client_id"),)),
    "deregisterclient": (DeregisterClient, (_v3_text("client_id"),)),
    "authenticatesmaadmin": (
        AuthenticateSmaAdmin,
        (
            _v3_text("role", _MAY),
            _Field((0x01,), "result", _choice("success", "failed")),
            _Field((0x02,), "remaining_retries", _integer, _MAY),
        ),
    ),
    "entersecurestate": (EnterSecureState, (_v3_time("time", _MAY),)),
    "exitsecurestate": (ExitSecureState, ()),
    "startaudit": (StartAudit, ()),
    "deletelogmessages": (DeleteLogMessages, ()),
    "locktransactionlogging": (LockTransactionLogging, ()),
    "unlocktransactionlogging": (UnlockTransactionLogging, ()),
}


# ---- decoding ---------------------------------------------------------------------------------


class _Decoded:
    """The fields of one payload, and what is wrong with it."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.unknown: list[Element] = []
        self.faults: list[str] = []

    def take(self, field: _Field, element: Element, kind: TimeKind) -> None:
        try:
            self.fields[field.name] = field.decode(element, kind)
        except _Bad as error:
            self.faults.append(f"{field.name} {error}")
        except LogMessageError:
            self.faults.append(f"{field.name} is no DER")

    def miss(self, field: _Field) -> None:
        if field.need is _Need.MUST and field.name not in self.fields:
            self.faults.append(f"{field.name} is missing")


def _decode_2(found: Sequence[Element], table: _Table, kind: TimeKind) -> _Decoded:
    """Fields by their context tags."""
    decoded = _Decoded()
    taken: set[str] = set()
    for element in found:
        field = next((field for field in table if element.tag in field.tags), None)
        if field is None or field.name in taken:
            decoded.unknown.append(element)
        else:
            taken.add(field.name)
            decoded.take(field, element, kind)
    for field in table:
        if field.name not in taken:
            decoded.miss(field)
    return decoded


def _decode_3(found: Sequence[Element], table: _Table, kind: TimeKind) -> _Decoded:
    """Fields by their order."""
    decoded = _Decoded()
    at = 0
    for field in table:
        if at < len(found) and found[at].tag in field.tags:
            decoded.take(field, found[at], kind)
            at += 1
        else:
            decoded.miss(field)
    decoded.unknown.extend(found[at:])
    return decoded


def _struct_2(kind_of: Any, found: Sequence[Element], table: _Table, kind: TimeKind) -> Any:
    return kind_of(**_complete(_decode_2(found, table, kind)))


def _struct_3(kind_of: Any, found: Sequence[Element], table: _Table, kind: TimeKind) -> Any:
    return kind_of(**_complete(_decode_3(found, table, kind)))


def _complete(decoded: _Decoded) -> dict[str, Any]:
    if decoded.faults:
        raise _Bad(f"is incomplete ({', '.join(decoded.faults)})")
    if decoded.unknown:
        raise _Bad("has an element too many")
    return decoded.fields


def decode_event(message: LogMessage) -> Event:
    """Decode a system log. Never raises for one that :func:`fiskal.tse.logmessage.parse` returned.

    Raises ValueError for a message of another type.
    """
    if message.type is not LogType.SYSTEM:
        raise ValueError("only a system log has an event")
    return (_event_3 if message.version >= 3 else _event_2)(message)


def _payload(content: bytes) -> tuple[list[Element], list[str]]:
    try:
        return list(elements(content)), []
    except LogMessageError as error:
        return [], [f"the payload is no DER: {error}"]


def _event_2(message: LogMessage) -> Event:
    parts = message.elements
    name = message.operation or ""
    data = parts.get(1)
    found, faults = ([], ["systemOperationData is missing"]) if data is None else _payload(data.content)
    extra = tuple(element for number, element in parts.items() if number > 1)
    key = name.lower()
    kind = message.time_kind
    if key == "selftest":
        return _one_row(SelfTest, name, _decode_2(found, _TEST_2, kind), faults, extra)
    if key == "configurelogging":
        return _one_row(ConfigureLogging, name, _decode_2(found, _LOGGING_2, kind), faults, extra)
    known = _VERSION_2.get(key) or _VENDOR.get(key)
    if known is None:
        return UnknownEvent(
            name=name, unknown=(*found, *extra), faults=(*faults, f"the event {name!r} is unknown")
        )
    if key in _VENDOR:
        faults.append(f"the event {name!r} is a vendor's")
    decoded = _decode_2(found, known[1], kind)
    return known[0](
        name=name,
        unknown=(*decoded.unknown, *extra),
        faults=(*faults, *decoded.faults, *_too_many(decoded.unknown)),
        **decoded.fields,
    )


def _too_many(unknown: Iterable[Element]) -> list[str]:
    return ["it has elements that are not in the guideline"] if list(unknown) else []


def _one_row(
    kind_of: type[SelfTest | ConfigureLogging],
    name: str,
    decoded: _Decoded,
    faults: list[str],
    extra: tuple[Element, ...],
) -> Event:
    """Version 2 logs one component at a time, where version 3 has a list of them."""
    common: dict[str, Any] = {
        "name": name,
        "unknown": (*decoded.unknown, *extra),
        "faults": (*faults, *decoded.faults, *_too_many(decoded.unknown)),
    }
    if kind_of is SelfTest:
        test = ComponentTest(**decoded.fields)
        return SelfTest(results=(test,), all_passed=test.passed, **common)
    return ConfigureLogging(components=(ComponentLogging(**decoded.fields),), **common)


def _event_3(message: LogMessage) -> Event:
    parts = message.elements
    name = message.operation or ""
    kind = message.time_kind
    faults: list[str] = []
    common: dict[str, Any] = {"name": name}
    for number, key in ((1, "origin"), (2, "triggered_by")):
        if number in parts:
            common[key] = _text(parts[number], kind)
    if "origin" not in common:
        faults.append("eventOrigin is missing")
    data = parts.get(3)
    extra = tuple(element for number, element in parts.items() if number > 3)
    if extra:
        faults.append("it has elements that are not in the guideline")
    found: list[Element] = []
    if data is None:
        faults.append("eventData is missing")
    else:
        found, more = _payload(data.content)
        faults += more
    rows: dict[str, tuple[type[Event], _Decoder]] = {
        "updatedevice": (UpdateDevice, _devices_3),
        "configurelogging": (ConfigureLogging, _loggings),
    }
    lowered = name.lower()
    if lowered in rows and data is not None:
        # eventData is the list itself
        whole = _Decoded()
        whole.take(_Field((), "components", rows[lowered][1]), data, kind)
        return rows[lowered][0](unknown=extra, faults=(*faults, *whole.faults), **common, **whole.fields)
    known = _VERSION_3.get(lowered)
    if known is None:
        faults.append(f"the event {name!r} is unknown")
        return UnknownEvent(unknown=(*found, *extra), faults=tuple(faults), **common)
    if lowered == "updatetime" and len(found) == 3 and found[2].tag == 0x30:
        slew = _decode_3(_payload(found[2].content)[0], _SLEW, kind)
        faults += slew.faults
        common |= slew.fields
        found = found[:2]
    decoded = _decode_3(found, known[1], kind)
    return known[0](
        unknown=(*decoded.unknown, *extra),
        faults=(*faults, *decoded.faults, *_too_many(decoded.unknown)),
        **common,
        **decoded.fields,
    )


_SLEW: Final[_Table] = (
    _Field((0x02,), "slew_step_us", _integer),
    _Field((0x02,), "slew_rate_us_per_s", _integer),
)


def summary(event: Event) -> str:
    """The fields of an event in one line, for people."""
    parts = []
    for name in event.__struct_fields__[5:]:
        value = getattr(event, name)
        if value is None or value in ((), {}):
            continue
        if isinstance(value, tuple):
            value = f"{len(value)} of them"
        parts.append(f"{name} {value}")
    return ", ".join(parts)
