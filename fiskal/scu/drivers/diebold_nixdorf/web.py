"""A Diebold Nixdorf TSE behind the vendor's web service, which owns the port, sets the time and makes the self test.

The service has no list of open transactions and no reader of the log that is publicly known. So a finish whose answer
was lost is sent once more: it either signs now, or the number is closed already. A start whose answer was lost stays
unknown until the number of a later start tells.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.diebold_nixdorf import service as dialect
from fiskal.scu.drivers.diebold_nixdorf import values
from fiskal.scu.drivers.diebold_nixdorf.driver import CLIENT_ID_CHARACTERS, MAX_CLIENT_ID_CHARACTERS
from fiskal.scu.drivers.diebold_nixdorf.link import LinkError, NoResponse, NotReached
from fiskal.scu.drivers.diebold_nixdorf.options import PRODUCTION_CLIENT, Options
from fiskal.scu.drivers.diebold_nixdorf.pins import RefusedPins
from fiskal.scu.drivers.diebold_nixdorf.service import Service, ServiceError, refusal, secret
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

MAX_CLIENTS: Final = 100
MAX_OPEN_TRANSACTIONS: Final = 512
CERTIFICATION_YEARS: Final = {"0362": 2019, "0393": 2020, "0415": 2021}
_COMMANDS: Final = {"start": "StartTransaction", "update": "UpdateTransaction", "finish": "FinishTransaction"}
_FIRST_SHARE: Final = 0.6
"""What the first try of a finish may take of the time; the rest is for the second."""
_PAGE: Final = "do it on the page of the vendor's web service, or use transport 'frame'"


class _Pending(msgspec.Struct):
    """A start without an answer: which, and of whom."""

    item: str
    client: str
    next: int | None = None
    """The number of the first start behind it that was answered."""


class _Memory(msgspec.Struct):
    serial: str = ""
    last_number: int | None = None
    last_counter: int = -1
    pending: list[_Pending] = []
    orphans: dict[str, str] = {}
    """Numbers that a lost start opened, with their clients."""


class DieboldNixdorfWeb:
    """The :class:`fiskal.scu.driver.Driver`. ``known_open`` gives the open transactions whose starts were answered,
    with client and start time."""

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = False
    terminates_uninitialized = False
    filters_exports = False
    erases_with_open_transactions = False

    def __init__(
        self,
        service: Service,
        options: Options,
        pins: RefusedPins,
        folder: Path,
        *,
        known_open: Callable[[], dict[int, tuple[str | None, int | None]]] = dict,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._service = service
        self._options = options
        self._pins = pins
        self._path = folder / "web-service.json"
        self._known_open = known_open
        self._sleep = sleep
        self._connection = -1
        self._used_at = 0.0
        self._serial: bytes | None = None
        self._point = b""
        self._certificates: list[str] | None = None
        self._limits = (MAX_CLIENTS, MAX_OPEN_TRANSACTIONS)
        self._closed = False
        self._memory = _Memory()
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._memory = msgspec.json.decode(self._path.read_bytes(), type=_Memory)

    def _remember(self) -> None:
        """Keep the numbers beside the call store. It helps to tell lost starts; without it they stay unknown."""
        staged = self._path.with_suffix(".new")
        try:
            staged.write_bytes(msgspec.json.encode(self._memory))
            os.replace(staged, self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    # ---- the connection ---------------------------------------------------------------------------

    def _ask(
        self, command: str, deadline: Deadline | None, milliseconds: int | None = None, **fields: Any
    ) -> dict[str, Any]:
        """One command; waits while the service is busy with something that ends by itself."""
        pause = 1.0
        while True:
            self._used_at = time.monotonic()
            try:
                return self._service.execute(
                    command, fields, deadline, milliseconds or self._options.request_timeout_ms
                )
            except ServiceError as error:
                remaining = 0.0 if deadline is None else deadline.remaining()
                if error.number not in dialect.WAIT or remaining <= pause:
                    raise
                self._sleep(pause)
                pause = min(2 * pause, 16.0)

    def _ensure(self, deadline: Deadline | None) -> None:
        """Have a connection to a service with the TSE that is known."""
        if self._closed:
            raise Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. It has been closed.")
        transport = self._service.transport
        idle_s = time.monotonic() - self._used_at
        if transport.connections == self._connection and idle_s < self._options.ping_interval_ms / 1000:
            return
        try:
            self._ask("PingPong", deadline)
        except NoResponse as error:
            raise NotReached(str(error)) from error
        if transport.connections == self._connection:
            return
        connection = transport.connections
        try:
            self._meet(deadline)
        except NoResponse as error:
            raise NotReached(str(error)) from error
        if transport.connections == connection:
            self._connection = connection

    def _meet(self, deadline: Deadline | None) -> None:
        self._name_default_client(deadline)
        info = self._ask("GetDeviceInfo", deadline).get("DeviceInfo")
        if not isinstance(info, dict) or not isinstance(info.get("SerialNumber"), str):
            raise NoResponse("The service described no device.", None)
        serial = _hex(info["SerialNumber"])
        wanted = self._options.serial
        if wanted is not None and serial.hex() != wanted.lower():
            raise Misconfigured(
                "WRONG_TSE", f"TSE {serial.hex()} is connected, but the configuration wants {wanted.lower()}."
            )
        if self._serial is not None and serial != self._serial:
            raise Misconfigured(
                "WRONG_TSE", f"TSE {serial.hex()} was put into the place of {self._serial.hex()}."
            )
        limits = (info.get("MaxNumberOfClients"), info.get("MaxNumberOfOpenTransactions"))
        self._limits = (
            limits[0] if isinstance(limits[0], int) else MAX_CLIENTS,
            limits[1] if isinstance(limits[1], int) else MAX_OPEN_TRANSACTIONS,
        )
        with contextlib.suppress(ServiceError):
            self._ask("GetDeviceStatus", deadline)
        if self._serial is None:
            self._point = self._data("PublicKey", deadline)
            if hashlib.sha256(self._point).digest() != serial:
                raise Misconfigured(
                    "PROTOCOL_ERROR", "The public key of the TSE does not belong to its serial number."
                )
            self._certificates = values.certificates(self._data("Certificates", deadline))
            self._serial = serial
            if self._memory.serial != serial.hex():
                self._memory = _Memory(serial=serial.hex())

    def _name_default_client(self, deadline: Deadline | None) -> None:
        for client in (self._options.management_client_id, PRODUCTION_CLIENT):
            try:
                self._ask("SetDefaultClientID", deadline, ClientID=client)
            except ServiceError as error:
                if error.number != dialect.NOT_REGISTERED:
                    raise
            else:
                return
        raise Misconfigured(
            "CLIENT_NOT_REGISTERED",
            f"Neither {self._options.management_client_id!r} nor {PRODUCTION_CLIENT!r} is registered at the TSE. Set "
            "management_client_id to a registered client.",
        )

    def _data(self, name: str, deadline: Deadline | None) -> bytes:
        answer = self._ask("GetDeviceData", deadline, Name=name, Format="Base64")
        value = answer.get("Value")
        if not isinstance(value, str):
            raise NoResponse(f"The service answered no {name}.", None)
        return values.from_base64(value)

    def _pin(self, *, admin: bool) -> str:
        """The PIN for a command, in the form of the service. Raises Misconfigured for one that is known to be wrong."""
        pin = self._options.admin_pin if admin else self._options.time_admin_pin
        name, user = ("admin_pin", "1") if admin else ("time_admin_pin", "2")
        if not pin:
            raise Misconfigured("AUTH_FAILED", f"This needs {name}: put it into the configuration.")
        assert self._serial is not None
        self._pins.check(self._serial.hex(), user, pin)
        return secret(pin)

    def _note_pin(self, error: ServiceError, *, admin: bool) -> None:
        """Never send a PIN again that was refused."""
        if error.number in (dialect.PIN_WRONG, dialect.BLOCKED) and self._serial is not None:
            pin = self._options.admin_pin if admin else self._options.time_admin_pin
            self._pins.add(self._serial.hex(), "1" if admin else "2", pin)

    # ---- transactions -----------------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._transaction(call, deadline)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._transaction(call, deadline)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._transaction(call, deadline)
        self._closed_number(call.transaction_number)
        return signed

    def _closed_number(self, number: int) -> None:
        if self._memory.orphans.pop(str(number), None) is not None:
            self._remember()

    def _fields(self, call: Call) -> dict[str, Any]:
        try:
            text = call.process_data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ClientError(
                "INVALID_PROCESS_DATA", "The web service takes only process data that is UTF-8 text."
            ) from error
        if len(text) > dialect.MAX_DATA_CHARACTERS:
            raise ClientError(
                "INVALID_PROCESS_DATA",
                f"The process data has {len(text)} characters, at most {dialect.MAX_DATA_CHARACTERS} are allowed.",
            )
        fields: dict[str, Any] = {"ClientID": call.client_id, "Password": self._pin(admin=False)}
        if call.op != "start":
            fields["TransactionNumber"] = call.transaction_number
        if call.op != "start" or call.process_type or text:
            fields["Typ"] = call.process_type
            fields["Data"] = text
        return fields

    def _transaction(self, call: Call, deadline: Deadline | None) -> Signed:
        limit = deadline or Deadline(self._options.transaction_timeout_ms / 1000)
        named = waited = False
        while True:
            try:
                self._ensure(limit)
            except ServiceError as error:
                raise refusal(error, call) from error
            except NotReached as error:
                raise _not_available(error) from error
            fields = self._fields(call)
            self._expect(call)
            try:
                return self._send(call, fields, limit)
            except NotReached as error:
                self._unexpect(call)
                raise _not_available(error) from error
            except NoResponse as error:
                return self._after_silence(call, fields, limit, error)
            except ServiceError as error:
                if error.number in dialect.UNKNOWN_OUTCOME or error.number == dialect.CERTIFICATE_EXPIRED:
                    raise _unknown(call, error) from error
                self._unexpect(call)
                self._note_pin(error, admin=False)
                if error.number == dialect.NO_DEFAULT_CLIENT and not named:
                    named = True
                    self._connection = -1
                    self._used_at = 0.0
                elif error.number == dialect.TIME_NOT_SET and not waited and limit.remaining() > 2.0:
                    waited = True
                    self._sleep(2.0)
                    self._last_resort("UpdateTime", limit)
                else:
                    raise refusal(error, call) from error

    def _send(self, call: Call, fields: dict[str, Any], deadline: Deadline) -> Signed:
        milliseconds = self._options.transaction_timeout_ms
        if call.op == "finish":  # which may be sent once more
            milliseconds = max(1, min(milliseconds, int(deadline.remaining() * 1000 * _FIRST_SHARE)))
        answer = self._ask(_COMMANDS[call.op], deadline, milliseconds, **fields)
        return self._read_signed(call, answer)

    def _read_signed(self, call: Call, answer: dict[str, Any]) -> Signed:
        number = answer.get("TransactionNumber") if call.op == "start" else call.transaction_number
        counter, signature, moment = (answer.get(key) for key in ("SignatureCounter", "Signature", "LogTime"))
        if not (
            isinstance(number, int)
            and isinstance(counter, int)
            and isinstance(signature, str)
            and isinstance(moment, str)
        ):
            raise NoResponse("The service answered a signature without all of its parts.", None)
        if call.op == "start" and _hex(str(answer.get("SerialNumber", ""))) != self._serial:
            raise OutcomeUnknown("WRONG_TSE", "Another TSE has signed than the one that was asked.")
        signed = Signed(number, counter, _ticks(moment), _hex(signature))
        memory = self._memory
        if call.op == "start":
            self._unexpect(call, remember=False)
            self._resolve(number)
            memory.last_number = number
        memory.last_counter = counter
        if call.op == "start":
            self._remember()
        return signed

    def _after_silence(
        self, call: Call, fields: dict[str, Any], deadline: Deadline, error: Exception
    ) -> Signed:
        """A finish may be sent once more: the number is closed at most once."""
        if call.op != "finish" or deadline.remaining() < 0.1:
            raise _unknown(call, error) from error
        log.warning("the answer to a finish was lost and it is sent once more: %s", error)
        try:
            self._ensure(deadline)
            return self._send(call, fields, deadline)
        except (LinkError, ScuError) as failed:
            raise _unknown(call, failed) from failed

    # ---- lost starts ------------------------------------------------------------------------------

    def _expect(self, call: Call) -> None:
        """Note a start before it is sent, so that it can be told later whether it happened."""
        memory = self._memory
        if call.op == "start" and call.queue_item_id:
            memory.pending = [one for one in memory.pending if one.item != call.queue_item_id]
            memory.pending.append(_Pending(call.queue_item_id, call.client_id))
            self._remember()

    def _unexpect(self, call: Call, *, remember: bool = True) -> None:
        if call.op == "start":
            before = len(self._memory.pending)
            self._memory.pending = [one for one in self._memory.pending if one.item != call.queue_item_id]
            if remember and len(self._memory.pending) != before:
                self._remember()

    def _resolve(self, number: int) -> None:
        """A start was answered: its number tells how many of those before it happened."""
        memory = self._memory
        waiting = [one for one in memory.pending if one.next is None]
        for one in waiting:
            one.next = number
        if memory.last_number is not None:
            for orphan in range(memory.last_number + 1, number):
                client = waiting[0].client if len({one.client for one in waiting}) == 1 else ""
                log.warning("transaction %d was opened by a start whose answer was lost", orphan)
                memory.orphans[str(orphan)] = client

    def recall(self, call: Call) -> Remembered | None:
        return None

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        limit = deadline or Deadline(self._options.transaction_timeout_ms / 1000)
        if call.op == "start":
            known = next((one for one in self._memory.pending if one.item == call.queue_item_id), None)
            if known is None:  # the process died before it could be noted
                self._expect(call)
            elif known.next is not None:
                return Verdict.NOT_EXECUTED  # or an orphan, whose signature nobody can know: start again
            return Verdict.STILL_UNKNOWN
        if call.op == "update":
            return Verdict.STILL_UNKNOWN
        try:
            self._ensure(limit)
            signed = self._send(call, self._fields(call), limit)
        except ServiceError as error:
            self._note_pin(error, admin=False)
            if error.number == dialect.NO_TRANSACTION:
                log.warning(
                    "transaction %d was finished; its signature is in the log of the TSE only",
                    call.transaction_number,
                )
                return Verdict.STILL_UNKNOWN
            raise refusal(error, call) from error
        except NotReached as error:
            raise _not_available(error) from error
        except NoResponse:
            return Verdict.STILL_UNKNOWN
        self._closed_number(call.transaction_number)
        return signed

    # ---- state, clients -----------------------------------------------------------------------------

    def info(self, deadline: Deadline | None) -> TseInfo:
        try:
            self._ensure(deadline)
            return self._info(deadline)
        except ServiceError as error:
            raise refusal(error) from error
        except NotReached as error:
            raise _not_available(error) from error
        except NoResponse as error:
            raise Unreachable("NO_RESPONSE", f"The TSE is not available. {error}") from error

    def _info(self, deadline: Deadline | None) -> TseInfo:
        options = self._options
        state = TseStates.INITIALIZED
        parameters: dict[str, Any] = {}
        clients: list[str] = []
        fields: dict[str, Any] = {}
        if options.admin_pin:
            fields["Password"] = self._pin(admin=True)
        try:
            answer = self._ask("GetDeviceStatus", deadline, **fields)
        except ServiceError as error:
            self._note_pin(error, admin=True)
            states = {
                dialect.NOT_INITIALIZED: TseStates.UNINITIALIZED,
                dialect.DISABLED: TseStates.TERMINATED,
            }
            if error.number not in states:
                raise
            state = states[error.number]
        else:
            found = answer.get("Parameters")
            parameters = found if isinstance(found, dict) else {}
            if options.admin_pin:
                listed = answer.get("ClientIDs")
                if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                    raise NoResponse("The service did not list the clients.", None)
                clients = listed
            elif options.client_ids:
                clients = list(options.client_ids)
            else:
                raise Misconfigured(
                    "AUTH_FAILED",
                    "The service lists its clients to the Admin only: configure admin_pin, or name the registered "
                    "clients in client_ids.",
                )
        numbers = sorted({*self._known_open(), *map(int, self._memory.orphans)})
        if state is TseStates.UNINITIALIZED:
            numbers = []
        assert self._serial is not None
        description = str(parameters.get("TSEDescription", ""))
        details = {"transport": "web service", "tse_description": description}
        end = parameters.get("CertificateDate")
        if isinstance(end, str):
            details["certificate_end"] = end
        return TseInfo(
            max_number_of_clients=self._limits[0],
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=self._limits[1],
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=options.max_signatures,
            current_number_of_signatures=self._memory.last_counter,
            max_log_memory_size=2**63 - 1,
            current_log_memory_size=-1,
            current_state=state,
            firmware_identification="Webservice",
            certification_identification=certification(description),
            signature_algorithm=str(parameters.get("SignatureAlgorithm", "ecdsa-plain-SHA384")),
            log_time_format="unixTime",
            serial_number_octet=self._serial.hex(),
            public_key_base64=base64.b64encode(self._point).decode("ascii"),
            certificates_base64=self._certificates or [],
            info=details,
        )

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        what = "initialised" if target is TseStates.INITIALIZED else "disabled"
        raise NotSupported("NOT_IMPLEMENTED", f"A TSE cannot be {what} through the web service: {_PAGE}.")

    def validate_client_id(self, client_id: str) -> None:
        if not 1 <= len(client_id) <= MAX_CLIENT_ID_CHARACTERS or not set(client_id) <= CLIENT_ID_CHARACTERS:
            raise ClientError(
                "INVALID_CLIENT_ID",
                f"The client id {client_id!r} must have 1 to {MAX_CLIENT_ID_CHARACTERS} characters out of A-Z a-z 0-9 "
                "space ( ) + , - . : ?",
            )

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        self._change_clients("RegisterClientID", client_id, deadline)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        if client_id == PRODUCTION_CLIENT:
            raise TseRejected("INVALID_CLIENT_ID", f"The client {client_id} belongs to the TSE and stays.")
        self._change_clients("DeregisterClientID", client_id, deadline)

    def _change_clients(self, command: str, client_id: str, deadline: Deadline | None) -> None:
        try:
            self._ensure(deadline)
            self._ask(command, deadline, ClientID=client_id, Password=self._pin(admin=True))
        except ServiceError as error:
            self._note_pin(error, admin=True)
            known = (
                (dialect.REGISTERED_ALREADY, dialect.CANNOT_BE_PROCESSED)
                if command == "RegisterClientID"
                else (dialect.CANNOT_BE_PROCESSED,)
            )
            if error.number not in known:
                raise refusal(error, client_id=client_id) from error
            registered = client_id in self.info(deadline).current_client_ids
            if registered is not (command == "RegisterClientID"):
                raise refusal(error, client_id=client_id) from error
        except NotReached as error:
            raise _not_available(error) from error
        except NoResponse as error:
            raise OutcomeUnknown("NO_RESPONSE", f"No response from TSE. {error}") from error

    def change_pin(self, user: str, old: str, new: str, deadline: Deadline | None = None) -> None:
        """ChangePassword; ``user`` is ``01`` (Admin) or ``02`` (TimeAdmin). Never repeated after a wrong PIN."""
        self._pin_command(
            "ChangePassword", {"UserID": secret(user), "OldPassword": secret(old)}, user, new, deadline
        )

    def unblock(self, user: str, puk: str, new: str, deadline: Deadline | None = None) -> None:
        """UnblockUser with the PUK. Never repeated after a wrong PUK: three block it for good."""
        self._pin_command("UnblockUser", {"UserID": secret(user), "Puk": secret(puk)}, user, new, deadline)

    def _pin_command(
        self, command: str, fields: dict[str, Any], user: str, new: str, deadline: Deadline | None
    ) -> None:
        try:
            self._ensure(deadline)
            try:
                self._ask(command, deadline, **fields, NewPassword=secret(new))
            except ServiceError as error:
                if error.number != dialect.MISSING:
                    raise
                # The field's name differs between the two public programs; a missing one is no wrong PIN.
                self._ask(command, deadline, **fields, NewPassword=secret(new), NewPasswd=secret(new))
        except ServiceError as error:
            raise refusal(error) from error
        except NotReached as error:
            raise _not_available(error) from error
        except NoResponse as error:
            raise OutcomeUnknown("NO_RESPONSE", f"No response from TSE. {error}") from error
        self._pins.forget(user.lstrip("0"))

    # ---- what the service does by itself -------------------------------------------------------------

    def set_time(self, deadline: Deadline | None) -> None:
        self._alone("UpdateTime", "sets the time", deadline)

    def self_test(self, deadline: Deadline | None) -> None:
        self._alone("PerformSelfTest", "makes the self test", deadline)

    def _alone(self, command: str, what: str, deadline: Deadline | None) -> None:
        try:
            self._ensure(deadline)
        except ServiceError as error:
            raise refusal(error) from error
        except NotReached as error:
            raise _not_available(error) from error
        if not self._options.allow_unverified_commands:
            log.info("the web service %s by itself", what)
            return
        self._last_resort(command, deadline)

    def _last_resort(self, command: str, deadline: Deadline | None) -> None:
        """Send a command whose fields are not publicly known, if that is allowed by name."""
        if not self._options.allow_unverified_commands:
            return
        try:
            answer = self._ask(
                command,
                deadline,
                self._options.self_test_timeout_ms,
                ClientID=self._options.management_client_id,
                Password=self._pin(admin=False),
            )
            log.warning("%s was answered with %s", command, answer)
        except ServiceError as error:
            self._note_pin(error, admin=False)
            log.warning("%s was refused: %s", command, error)
        except LinkError as error:
            log.warning("%s was not answered: %s", command, error)

    # ---- exports --------------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        raise NotSupported("NOT_IMPLEMENTED", f"The log cannot be exported through the web service: {_PAGE}.")

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        raise NotSupported("NOT_IMPLEMENTED", f"The log cannot be erased through the web service: {_PAGE}.")

    def close(self) -> None:
        self._closed = True
        self._service.transport.close()


def certification(description: str) -> str:
    """The certification id with its year, which the service leaves out; unknown ones are left as they are."""
    if description[-5:-4] == "-" and description.startswith("BSI-K-TR-") and len(description) > 13:
        return description  # it has the year already
    year = CERTIFICATION_YEARS.get(description[-4:])
    if year is None:
        if description:
            log.warning("the year of the certification %r is not known", description)
        return description
    return f"BSI-K-TR-{description[-4:]}-{year}"


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise NoResponse("The service answered no hex digits where they must be.", None) from error


def _ticks(text: str) -> int:
    """ISO 8601 with its own offset to ticks."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise NoResponse(f"The service answered {text!r} where a time must be.", None) from error
    if moment.tzinfo is None:
        raise NoResponse(f"The service answered the time {text!r} without an offset.", None)
    return UNIX_EPOCH_TICKS + int(moment.timestamp()) * TICKS_PER_SECOND


def _not_available(error: NotReached) -> Unreachable:
    return Unreachable("TSE_NOT_AVAILABLE", f"The TSE is not available. {error}")


def _unknown(call: Call, error: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(
        "NO_RESPONSE",
        f"No response from TSE. Whether the {call.op} was executed is not known: {error}",
        transaction_number=call.transaction_number or None,
    )
