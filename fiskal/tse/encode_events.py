"""Encoding system events: operation name and payload as TSEs write them into system logs.

Version 2 (TR-03151 v1.0.1 with amendment §6) concatenates context-tagged fields, version 3 (TR-03151-1 §4)
universal ones; what a field means and whether it is there differs as well.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from fiskal.tse._native import TimeFormat, time_tlv

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
ENUMERATED: Final = 0x0A
PRINTABLE_STRING: Final = 0x13
SEQUENCE: Final = 0x30

Field = tuple[int, bytes]
"""The universal tag and the content of one field."""


class Event(NamedTuple):
    """A system event: operationType (eventType) and systemOperationData (the content of eventData)."""

    name: str
    data: bytes


class Component(NamedTuple):
    """One entry of a DeviceInformationSet; an empty certification id is left out."""

    name: str
    manufacturer: str
    model: str
    version: str
    certification_id: str = ""


class SelfTestResult(NamedTuple):
    """What a self test found out about one component; an empty message is a good result."""

    component: str
    passed: bool
    message: str = ""


class Role(enum.IntEnum):
    """Numbers of roles in version 2; version 3 writes the names in lower case."""

    UNKNOWN = 0
    ADMIN = 1
    TIME_ADMIN = 2
    LOGGER = 3

    @property
    def text(self) -> str:
        return self.name.replace("_", "").lower()


class AuthenticationResult(enum.IntEnum):
    SUCCESS = 0
    UNKNOWN_USER_ID = 1
    INCORRECT_PIN = 2
    PIN_BLOCKED = 3


class UnblockResult(enum.IntEnum):
    """Version 3; :data:`_UNBLOCK_V2` has the numbers of version 2."""

    SUCCESS = 0
    UNKNOWN_USER_ID = 1
    INCORRECT_PUK = 2
    TEMPORARILY_BLOCKED = 3


_UNBLOCK_V2: Final = {
    UnblockResult.SUCCESS: 0,
    UnblockResult.UNKNOWN_USER_ID: 2,
    UnblockResult.INCORRECT_PUK: 1,
    UnblockResult.TEMPORARILY_BLOCKED: 3,
}


class LogOutCause(enum.IntEnum):
    """Version 3. Version 2 knows 0, called by the user, and 1, a timeout."""

    USER_CALLED = 0
    DIFFERENT_USER = 1
    TIMEOUT = 2


def tlv(tag: int, content: bytes) -> bytes:
    """Return tag, length and content in DER."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(size))) + size + content


def _text(text: str) -> Field:
    return PRINTABLE_STRING, text.encode()


def _boolean(value: bool) -> Field:
    return BOOLEAN, b"\xff" if value else b"\0"


def _number(value: int, tag: int = INTEGER) -> Field:
    """A number of at most 127, which is one byte whatever the tag."""
    return tag, bytes((value,))


class EventEncoder:
    """Encodes the events of one TSE. ``version`` is that of its log messages; times are ms since 1970."""

    def __init__(self, version: int, time_format: TimeFormat) -> None:
        self._v2 = version == 2
        self._time_format = time_format

    def _event(self, name: str, *fields: Field) -> Event:
        if self._v2:
            return Event(name, b"".join(tlv(0x81 + i, content) for i, (_, content) in enumerate(fields)))
        return Event(name, b"".join(tlv(tag, content) for tag, content in fields))

    def _numbered(self, name: str, fields: Iterable[tuple[int, Field]]) -> Event:
        """A version 2 event some of whose fields are left out: each brings its number."""
        return Event(name, b"".join(tlv(0x80 + number, content) for number, (_, content) in fields))

    def _time(self, unix_ms: int) -> Field:
        encoded = time_tlv(self._time_format, unix_ms)
        return encoded[0], encoded[2:]

    def start_audit(self) -> Event:
        return self._event("startAudit")

    def initialize(self, description: str) -> Event:
        """``description`` is part of version 2 only."""
        return self._event("initialize", _text(description)) if self._v2 else self._event("initialize")

    def set_description(self, description: str) -> Event:
        return self._event("setDescription", _text(description))

    def update_time(self, before_ms: int, after_ms: int) -> Event:
        return self._event("updateTime", self._time(before_ms), self._time(after_ms))

    def disable(self, unix_ms: int) -> Event:
        name = "disableSecureElement"
        return self._event(name, self._time(unix_ms)) if self._v2 else self._event(name)

    def register_client(self, client_id: str) -> Event:
        return self._event("registerClient", _text(client_id))

    def deregister_client(self, client_id: str) -> Event:
        return self._event("deregisterClient", _text(client_id))

    def delete_logs(self, user: str) -> Event:
        if self._v2:
            return self._event("deleteStoredData", _text(user))
        return self._event("deleteLogMessages")

    def lock_transaction_logging(self, user: str) -> Event:
        return self._by_user("lockTransactionLogging", user)

    def unlock_transaction_logging(self, user: str) -> Event:
        return self._by_user("unlockTransactionLogging", user)

    def _by_user(self, name: str, user: str) -> Event:
        return self._event(name, _text(user)) if self._v2 else self._event(name)

    def authenticate_user(
        self, user: str, role: Role, result: AuthenticationResult, remaining_retries: int
    ) -> Event:
        name = "authenticateUser"
        if self._v2:
            succeeded = result is AuthenticationResult.SUCCESS
            number = role if role is not Role.LOGGER else Role.UNKNOWN
            return self._event(name, _text(user), _number(number, ENUMERATED), _boolean(succeeded))
        return self._event(
            name, _text(user), _text(role.text), _number(result, ENUMERATED), _number(remaining_retries)
        )

    def authenticate_sma_admin(self, user: str, succeeded: bool, remaining_retries: int) -> Event:
        if self._v2:
            fields = ((1, _text(user)), (3, _boolean(succeeded)), (4, _number(remaining_retries)))
            return self._numbered("authenticateSmaersAdmin", fields)
        return self._event("authenticateSmaAdmin", _boolean(succeeded), _number(remaining_retries))

    def log_out(self, user: str, cause: LogOutCause) -> Event:
        number = int(cause)
        if self._v2:
            number = 1 if cause is LogOutCause.TIMEOUT else 0
        return self._event("logOut", _text(user), _number(number, ENUMERATED))

    def unblock(self, user: str, result: UnblockResult) -> Event:
        name = "unblockUser" if self._v2 else "unblockPin"
        number = _UNBLOCK_V2[result] if self._v2 else int(result)
        return self._event(name, _text(user), _number(number, ENUMERATED))

    def self_test(self, results: Sequence[SelfTestResult]) -> list[Event]:
        """Version 2 has one event for each component, version 3 one for all."""
        name = "selfTest"
        if self._v2:
            return [
                self._event(
                    name,
                    _text(result.component),
                    _boolean(result.passed),
                    *([_text(result.message)] if result.message else []),
                )
                for result in results
            ]
        listed = b"".join(
            tlv(
                SEQUENCE,
                b"".join(
                    tlv(*field)
                    for field in (
                        _text(result.component),
                        _boolean(result.passed),
                        *([_text(result.message)] if result.message else []),
                    )
                ),
            )
            for result in results
        )
        passed = all(result.passed for result in results)
        return [self._event(name, (SEQUENCE, listed), _boolean(passed))]

    def enter_secure_state(self) -> Event:
        return self._event("enterSecureState")

    def exit_secure_state(self) -> Event:
        return self._event("exitSecureState")

    def audit(self, unix_ms: int, kind: int, result: int) -> bytes:
        """seAuditData, which is the vendor's: SEQUENCE { [0] time, [1] kind, [2] result }."""
        fields = (self._time(unix_ms), _number(kind), _number(result))
        return tlv(SEQUENCE, b"".join(tlv(0x80 + i, content) for i, (_, content) in enumerate(fields)))


def serial_numbers(version: int, serial: bytes) -> bytes:
    """Return what exportSerialNumbers answers for one key that signs everything.

    SEQUENCE OF SEQUENCE { serial, SEQUENCE of three BOOLEANs }; their tags and order differ (TR-03151 §4.5.4).
    """
    tags = (0x80, 0x81, 0x82) if version == 2 else (BOOLEAN,) * 3
    uses = tlv(SEQUENCE, b"".join(tlv(tag, b"\xff") for tag in tags))
    return tlv(SEQUENCE, tlv(SEQUENCE, tlv(0x04, serial) + uses))


def integer(value: int) -> bytes:
    """Return an unsigned INTEGER in DER."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def components_csv(components: Sequence[Component], description: str) -> bytes:
    """Return info.csv as it goes with log messages of version 3 (TR-03153-1 §5.2.4.2)."""

    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [
        ",".join(
            f"{quoted(label)},{quoted(value)}"
            for label, value in zip(
                ("component:", "manufacturer:", "model:", "version:", "certification-id:"),
                component,
                strict=True,
            )
        )
        for component in components
    ]
    lines.append(f'"description:",{quoted(description)},,,,,,,,')
    return ("\n".join(lines) + "\n").encode()
