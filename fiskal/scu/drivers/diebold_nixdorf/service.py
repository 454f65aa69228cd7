"""The dialect of the vendor's web service: JSON between 02 and 03 0A, one object a message, matched by an id."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any, Final, NamedTuple

from fiskal.scu.contract import Deadline
from fiskal.scu.driver import Call
from fiskal.scu.drivers.diebold_nixdorf.link import LineTransport, LinkError, NoResponse, NotReached
from fiskal.scu.errors import ClientError, Misconfigured, NotSupported, ScuError, TseRejected, Unreachable
from fiskal.scu.refusals import client_not_registered, transaction_not_open
from fiskal.scu.transports import Garbled, NoAnswer, NotSent, Silence
from fiskal.scu.transports.traffic import logged_call

log = logging.getLogger(__name__)

MAX_DATA_CHARACTERS: Final = 16_000
_SECRET_FIELDS: Final = ("Password", "OldPassword", "NewPassword", "NewPasswd", "Puk", "NewPuk")

UNSUPPORTED: Final = 2
MISSING: Final = 3
CANNOT_BE_PROCESSED: Final = 5
NO_DEFAULT_CLIENT: Final = 13
NOT_REGISTERED: Final = 19
PIN_WRONG: Final = 30
BLOCKED: Final = 32
REGISTERED_ALREADY: Final = 1337
NO_TRANSACTION: Final = 5017
NOT_INITIALIZED: Final = 5018
TIME_NOT_SET: Final = 5019
CERTIFICATE_EXPIRED: Final = 5020
DISABLED: Final = 5021
WAIT: Final = frozenset({11, 12, 15, 41})
"""The service is busy with something that ends by itself."""
UNKNOWN_OUTCOME: Final = frozenset({5001, 5002, 5009, 5010, 5011, 5015, 5016, 5034})
"""The TSE failed in the middle: it may have signed."""


class ServiceError(LinkError):
    """An answer with an error. ``number`` is positive, whatever its sign was."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"The service answered error {code} ({description}).")
        self.number = code
        self.description = description


def frame(command: str, message_id: int, fields: dict[str, Any]) -> bytes:
    """One request."""
    body = json.dumps({"Command": command, "PingPong": message_id, **fields}, separators=(",", ":"))
    return b"\x02" + body.encode("ascii") + b"\x03\n"


def read(message: bytes) -> dict[str, Any] | None:
    """The object of a message; None if it is none. Missing framing bytes are tolerated."""
    body = message.removeprefix(b"\x02").rstrip(b"\r\n").removesuffix(b"\x03")
    if not (message.startswith(b"\x02") and message.endswith(b"\x03\n")):
        log.warning("the web service sent a message without its framing bytes")
    try:
        found = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        log.warning("the web service sent a message that is no JSON object: %d bytes", len(message))
        return None
    return found


def secret(text: str) -> str:
    """How the service wants PINs and users."""
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


class Service:
    """Commands to answers over a transport of messages."""

    def __init__(self) -> None:
        self.transport: LineTransport
        self._next = 0
        self._connection = -1
        self._waited_for = -1

    def wanted(self, message: bytes) -> bool:
        """Whether a message is the answer that is waited for, for the transport."""
        found = read(message)
        return found is not None and "event" not in found and found.get("PingPong") == self._waited_for

    @staticmethod
    def aside(message: bytes) -> None:
        """A message that nobody waits for: an event, or the late answer to an earlier request."""
        log.debug("the web service sent %d bytes that nobody asked for", len(message))

    def execute(
        self, command: str, fields: dict[str, Any], deadline: Deadline | None, milliseconds: int
    ) -> dict[str, Any]:
        """Return the answer. Raises ServiceError, NotReached, NoResponse."""
        limit = Deadline(milliseconds / 1000)
        if deadline is not None and deadline.at < limit.at:
            limit = deadline
        transport = self.transport
        try:
            transport.connect(limit)
        except NotSent as error:
            raise NotReached(str(error)) from error
        if transport.connections != self._connection:
            self._connection = transport.connections
            self._next = 0
        message_id, self._next = self._next, self._next + 1
        self._waited_for = message_id
        data = frame(command, message_id, fields)
        try:
            answer = read(logged_call(transport, transport.place, data, limit, _secrets(data, fields)))
        except NotSent as error:
            raise NotReached(str(error)) from error
        except (Silence, NoAnswer, Garbled) as error:
            raise NoResponse(str(error), None) from error
        assert answer is not None  # it was wanted
        if answer.get("Command") not in (None, command):
            raise NoResponse(f"The service answered {answer.get('Command')!r} to {command}.", None)
        if answer.get("Status") == "ok":
            return answer
        code = answer.get("Code")
        description = answer.get("Desc", answer.get("Description", ""))
        if not isinstance(code, int) or isinstance(code, bool):
            raise NoResponse(f"The service answered {command} with an error without a code.", None)
        raise ServiceError(abs(code), str(description))


def _secrets(data: bytes, fields: dict[str, Any]) -> list[slice]:
    places = []
    for name in _SECRET_FIELDS:
        if name in fields:
            value = json.dumps(fields[name]).encode("ascii")
            at = data.find(b'"' + name.encode() + b'":' + value)
            if at >= 0:
                begin = at + len(name) + 3
                places.append(slice(begin, begin + len(value)))
    return places


class _Meaning(NamedTuple):
    kind: type[ScuError]
    code: str
    hint: str


_MEANINGS: Final = {
    1: _Meaning(ClientError, "PROTOCOL_ERROR", "Please report this."),
    2: _Meaning(NotSupported, "NOT_IMPLEMENTED", "This version of the service does not know the command."),
    3: _Meaning(ClientError, "PROTOCOL_ERROR", "Please report this."),
    4: _Meaning(
        ClientError, "INVALID_PROCESS_DATA", "A value is too long or has characters that are not allowed."
    ),
    5: _Meaning(TseRejected, "DEVICE_FAILED", ""),
    8: _Meaning(Unreachable, "TSE_NOT_AVAILABLE", "Check that the TSE is plugged in."),
    9: _Meaning(ClientError, "PROTOCOL_ERROR", "Please report this."),
    10: _Meaning(
        Misconfigured, "EXPORT_FAILED", "Finish or abort the export with removal on the page of the service."
    ),
    13: _Meaning(Misconfigured, "CLIENT_NOT_REGISTERED", "Set management_client_id to a registered client."),
    14: _Meaning(Misconfigured, "CLIENT_NOT_REGISTERED", "The Connect Box does not know the client."),
    16: _Meaning(Unreachable, "TSE_NOT_AVAILABLE", "The TSE cannot be written."),
    17: _Meaning(Misconfigured, "AUTH_FAILED", "The login of the Connect Box failed."),
    18: _Meaning(Misconfigured, "AUTH_FAILED", "The service wants a login."),
    20: _Meaning(Unreachable, "TSE_NOT_AVAILABLE", "Check that the TSE is plugged in."),
    21: _Meaning(TseRejected, "TRANSACTION_LIMIT", "Finish open transactions."),
    22: _Meaning(TseRejected, "SIGNATURE_LIMIT", "Replace the TSE."),
    23: _Meaning(TseRejected, "CLIENT_LIMIT", "Unregister a client."),
    24: _Meaning(TseRejected, "CLIENT_HAS_OPEN_TRANSACTIONS", "Finish them first."),
    25: _Meaning(TseRejected, "OPEN_TRANSACTIONS", "Finish them first."),
    26: _Meaning(Misconfigured, "AUTH_FAILED", "The user does not exist."),
    27: _Meaning(ClientError, "INVALID_PIN", "A PIN has 5 characters."),
    28: _Meaning(ClientError, "INVALID_PIN", "A PUK has 6 characters."),
    29: _Meaning(Misconfigured, "AUTH_FAILED", "This is not the right user."),
    30: _Meaning(
        Misconfigured, "AUTH_FAILED", "It is not sent again: put the right PIN into the configuration."
    ),
    31: _Meaning(Misconfigured, "AUTH_FAILED", "Three wrong PUKs block it for good."),
    32: _Meaning(Misconfigured, "PIN_BLOCKED", "Unblock the user with the PUK."),
    33: _Meaning(Misconfigured, "PIN_BLOCKED", "The PUK works never again."),
    34: _Meaning(ClientError, "INVALID_PIN", "The new PIN is the old one."),
    35: _Meaning(ClientError, "INVALID_PIN", "The new PUK is the old one."),
    40: _Meaning(Unreachable, "TSE_NOT_AVAILABLE", "The update of the firmware failed."),
    5003: _Meaning(TseRejected, "DEVICE_FAILED", ""),
    5018: _Meaning(TseRejected, "WRONG_STATE", "Initialise the TSE on the page of the service."),
    5019: _Meaning(TseRejected, "TIME_NOT_SET", "The service has not set the time yet."),
    5021: _Meaning(TseRejected, "TSE_TERMINATED", "The TSE has been disabled for good."),
    5022: _Meaning(Misconfigured, "AUTH_FAILED", "The user may not do this."),
    5023: _Meaning(Misconfigured, "AUTH_FAILED", ""),
    5032: _Meaning(TseRejected, "ERASE_FAILED", ""),
    5033: _Meaning(TseRejected, "ERASE_FAILED", ""),
    5035: _Meaning(Misconfigured, "AUTH_FAILED", ""),
    5036: _Meaning(Misconfigured, "AUTH_FAILED", ""),
}


def refusal(error: ServiceError, call: Call | None = None, client_id: str = "") -> ScuError:
    """The error an answer stands for. Nothing was executed."""
    code = error.number
    if code == NOT_REGISTERED:
        return client_not_registered(client_id if call is None else call.client_id)
    if code == NO_TRANSACTION and call is not None:
        return transaction_not_open(call.transaction_number)
    if code in WAIT:
        return Unreachable(
            "BUSY",
            f"The TSE is not available. {error} It ends by itself.",
            vendor_code=str(code),
            retry_after_ms=2000,
        )
    meaning = _MEANINGS.get(code, _Meaning(TseRejected, "DEVICE_FAILED", ""))
    lead = "The TSE is not available. " if meaning.code == "TSE_NOT_AVAILABLE" else ""
    return meaning.kind(meaning.code, f"{lead}{error} {meaning.hint}".strip(), vendor_code=str(code))
