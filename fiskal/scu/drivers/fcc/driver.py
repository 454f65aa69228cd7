"""The :class:`fiskal.scu.driver.Driver` of a Fiskal Cloud Connector.

The connector knows no ids of a caller's. But it lists the open transactions of a client and exports the log of a single
one, so what became of a call whose answer was lost can always be found out, with its signature.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import io
import logging
import re
import threading
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS, Clock, now
from fiskal.scu.cloud import (
    UNKNOWN_MAXIMUM,
    Attempts,
    Identity,
    StateFile,
    algorithm_name,
    certificates_base64,
    check_client_id,
    identity,
    within,
)
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.fcc import wire
from fiskal.scu.drivers.fcc.api import FccApi, StillRunning
from fiskal.scu.drivers.fcc.export import Base64Sink, Exporter
from fiskal.scu.drivers.fcc.hosting import FccProcess
from fiskal.scu.drivers.fcc.options import Options
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.refusals import client_limit, transaction_not_open
from fiskal.scu.secrets import Secret
from fiskal.scu.transports.https import Answer
from fiskal.tse.logmessage import LogMessage, LogMessageError, parse
from fiskal.tse.tar import Sink, TarError, read_members

log = logging.getLogger(__name__)

FILLER: Final = b"<none>"
"""Sent where process data is empty, which the connector does not take."""
MAX_CLIENT_ID: Final = 36
LOOKS: Final = 4
LOOK_EVERY_S: Final = 0.25
MAX_EXPORT_BYTES: Final = 16 << 20
_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9'()+,\-.:=? ]+")
_TIME_FORMATS: Final = {
    name.lower(): name
    for name in (
        "unixTime",
        "utcTime",
        "utcTimeWithSeconds",
        "generalizedTime",
        "generalizedTimeWithMilliseconds",
    )
}
_OPERATIONS: Final = {
    "start": "StartTransaction",
    "update": "UpdateTransaction",
    "finish": "FinishTransaction",
}


class FccDriver:
    """``process`` is the connector if fiskal runs it; ``state`` remembers up to where the log was acknowledged."""

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = True
    terminates_uninitialized = False
    filters_exports = False
    erases_with_open_transactions = True

    def __init__(
        self,
        api: FccApi,
        options: Options,
        attempts: Attempts,
        state: StateFile,
        *,
        activation_token: Secret | None,
        process: FccProcess | None = None,
        clock: Clock = now,
    ) -> None:
        self.parallel_calls: int = options.parallel_calls
        """How many transaction calls the connector may be given at once; those of one client follow each other."""
        self._api = api
        self._options = options
        self._attempts = attempts
        self._token = activation_token
        self._process = process
        self._tx_s = options.tx_timeout_ms / 1000
        self._total_s = options.tx_total_timeout_ms / 1000
        self._info_s = options.info_timeout_ms / 1000
        self._admin_s = options.admin_timeout_ms / 1000
        self._lock = threading.Lock()
        self._known: set[int] = set()
        """Open numbers that are accounted for: answered to us, or seen when the TSE was asked."""
        self._starts: dict[int, int] = {}
        """Number to start time."""
        self._identity: Identity | None = None
        self._identified: tuple[str, str] | None = None
        self._own_clients: set[str] = set()
        """Of a server that does not list its clients."""
        self.exporter = Exporter(
            api, options, attempts, state, clock, None if process is None else process.folder
        )

    def _ready(self, deadline: Deadline) -> None:
        if self._process is not None:
            self._process.ensure(deadline)

    # ---- transactions ---------------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        deadline = within(deadline, self._total_s)
        self._ready(deadline)
        known = frozenset(self._known)
        signed = self._execute(call, deadline, known)
        with self._lock:
            self._known.add(signed.transaction_number)
            self._starts[signed.transaction_number] = signed.time_stamp
        return signed

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        deadline = within(deadline, self._total_s)
        self._ready(deadline)
        return self._execute(call, deadline, frozenset())

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        deadline = within(deadline, self._total_s)
        self._ready(deadline)
        signed = self._execute(call, deadline, frozenset())
        number = call.transaction_number
        if signed.start_time_stamp is None:
            started = self._starts.get(number)
            if started is None:
                started = self._start_time(number, deadline)
            signed = msgspec.structs.replace(signed, start_time_stamp=started)
        with self._lock:
            self._known.discard(number)
            self._starts.pop(number, None)
        return signed

    def _execute(self, call: Call, deadline: Deadline, known: frozenset[int]) -> Signed:
        signed = self._send(call, deadline, known)
        self.exporter.note(signed.time_stamp)
        return signed

    def _send(self, call: Call, deadline: Deadline, known: frozenset[int]) -> Signed:
        """Send a call, find out what became of it where no answer came, repeat it if it was not executed.

        A finish may be repeated while another is on its way: it closes its number, and that once.
        """
        left = self._options.max_retries
        pause = self._options.retry_base_ms / 1000
        unsure = False
        while True:
            try:
                return self._once(call, deadline)
            except TseRejected as error:
                if not unsure or error.code != "TRANSACTION_NOT_OPEN":
                    raise
                found = self._look(call, known, deadline, error)
                if isinstance(found, Signed):
                    return found
                raise OutcomeUnknown(
                    "NO_RESPONSE",
                    f"An attempt was not answered, and the next one was refused: {error.message}",
                    transaction_number=call.transaction_number,
                ) from error
            except Unreachable as error:
                if self._process is not None and error.code == "CONNECT_FAILED":
                    self._process.lost()
                if left <= 0 or self._pause(error, pause) >= deadline.remaining():
                    if unsure:
                        raise OutcomeUnknown(
                            error.code, error.message, vendor_code=error.vendor_code
                        ) from error
                    raise
                failed: ScuError = error
            except OutcomeUnknown as error:
                found = self._look(call, known, deadline, error)
                if isinstance(found, Signed):
                    return found
                running = isinstance(error, StillRunning) and call.op != "finish"
                if left <= 0 or running or found is not Verdict.NOT_EXECUTED:
                    raise
                failed = error
                unsure = True
            seconds = self._pause(failed, pause)
            if seconds >= deadline.remaining():
                raise failed
            if not unsure:
                self._ready(deadline)
            self._attempts.wait(seconds)
            left -= 1
            pause = min(pause * 2, self._options.retry_max_ms / 1000)

    @staticmethod
    def _pause(error: ScuError, pause: float) -> float:
        return pause if error.retry_after_ms is None else error.retry_after_ms / 1000

    def _once(self, call: Call, deadline: Deadline) -> Signed:
        filler = b"" if call.process_data else FILLER
        data = binascii.b2a_base64(call.process_data or FILLER, newline=False).decode("ascii")
        body = msgspec.json.encode(wire.Transaction(call.client_id, call.process_type, data))
        path = "/transaction" if call.op == "start" else f"/transaction/{call.transaction_number}"
        answer = self._api.as_client(
            call.client_id,
            "PUT" if call.op == "finish" else "POST",
            path,
            deadline,
            seconds=self._tx_s,
            body=body,
            changes=True,
        )
        if answer.status == 404:
            if call.op == "start":
                self._api.refuse(answer, changes=True)
            raise transaction_not_open(call.transaction_number)
        if call.op == "start":
            started = self._api.decode(answer, wire.Started, changes=True)
            return Signed(
                started.transactionNumber,
                started.signatureCounter,
                _ticks(started.logTime),
                _signature(started.signatureValue),
                filler=filler,
            )
        continued = self._api.decode(answer, wire.Continued, changes=True)
        if (
            continued.signatureValue is None
            or continued.signatureCounter is None
            or continued.logTime is None
        ):
            if call.op == "finish":
                raise OutcomeUnknown("PROTOCOL_ERROR", "The connector finished without a signature.")
            return Signed(call.transaction_number, 0, UNIX_EPOCH_TICKS, b"")
        return Signed(
            call.transaction_number,
            continued.signatureCounter,
            _ticks(continued.logTime),
            _signature(continued.signatureValue),
            filler=filler,
        )

    def _look(
        self, call: Call, known: frozenset[int], deadline: Deadline, reason: ScuError
    ) -> Signed | Verdict:
        """What became of a call without an answer. One that may be running is looked at several times."""
        found: Signed | Verdict = Verdict.STILL_UNKNOWN
        try:
            for look in range(LOOKS if isinstance(reason, StillRunning) else 1):
                if look and deadline.remaining() <= LOOK_EVERY_S:
                    break
                if look:
                    self._attempts.wait(LOOK_EVERY_S)
                else:
                    self._ready(deadline)
                found = self._became(call, known, deadline)
                if isinstance(found, Signed):
                    break
        except ScuError as error:
            log.warning("what became of a %s could not be found out: %s", call.op, error)
            return Verdict.STILL_UNKNOWN
        return found

    def _became(self, call: Call, known: frozenset[int] | None, deadline: Deadline) -> Signed | Verdict:
        if call.op == "start":
            if known is None:
                return Verdict.STILL_UNKNOWN
            new = [number for number in self._open_numbers(call.client_id, deadline) if number not in known]
            if not new:
                return Verdict.NOT_EXECUTED
            if len(new) > 1:
                log.warning("transactions %s of client %s are open and nobody's", new, call.client_id)
                return Verdict.STILL_UNKNOWN
            number = new[0]
        else:
            number = call.transaction_number
        messages = self._messages(number, deadline)
        for message in reversed(messages):
            if message.operation == _OPERATIONS[call.op] and self._is_ours(call, message):
                self.exporter.note(message.log_time)
                started = _started(messages)
                if call.op == "start":
                    with self._lock:
                        self._starts[number] = message.log_time
                        self._known.add(number)
                return Signed(
                    number,
                    message.signature_counter,
                    message.log_time,
                    message.signature,
                    None if call.op == "start" else started,
                    filler=b"" if call.process_data else FILLER,
                )
        return Verdict.STILL_UNKNOWN if call.op == "start" else Verdict.NOT_EXECUTED

    @staticmethod
    def _is_ours(call: Call, message: LogMessage) -> bool:
        return (
            message.client_id == call.client_id
            and (message.process_type or "") == call.process_type
            and (message.process_data or b"") in (call.process_data or FILLER, call.process_data)
        )

    def _messages(self, number: int, deadline: Deadline) -> list[LogMessage]:
        """The log of one transaction in its order; empty if there is none."""
        archive = io.BytesIO()
        sink = Base64Sink(archive)
        answer = self._api.download(
            f"/export/transactions/{number}", sink, deadline, idle_s=min(self._info_s, deadline.remaining())
        )
        if answer.status == 404:
            return []
        try:
            sink.close()
            archive.seek(0)
            found = [
                parse(member.data)
                for member in read_members(archive)
                if member.data is not None and member.name.endswith(".log")
            ]
        except (TarError, LogMessageError, ValueError) as error:
            raise Unreachable(
                "PROTOCOL_ERROR", f"The log of transaction {number} cannot be read: {error}"
            ) from error
        mine = [message for message in found if message.transaction_number == number]
        return sorted(mine, key=lambda message: message.signature_counter)

    def _start_time(self, number: int, deadline: Deadline) -> int | None:
        try:
            return _started(self._messages(number, deadline))
        except ScuError as error:  # the signature exists: the call must not fail for this
            log.warning("the start of transaction %d could not be looked up: %s", number, error)
            return None

    def recall(self, call: Call) -> Remembered | None:
        return None

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        deadline = within(deadline, self._total_s)
        self._ready(deadline)
        return self._became(call, open_before, deadline)

    def _open_numbers(self, client_id: str, deadline: Deadline) -> list[int]:
        answer = self._get_as_client(
            client_id, f"/transactions?clientId={quote(client_id, safe='')}", deadline
        )
        if answer.status == 404:
            return []
        listed: Any
        if answer.body.lstrip()[:1] == b"{":
            listed = self._api.decode(answer, wire.OpenList).openTransactions
        else:
            listed = self._api.decode(answer, list[wire.OpenOne])
        return [each.transactionNumber for each in listed]

    def _get_as_client(self, client_id: str, path: str, deadline: Deadline) -> Answer:
        return self._repeated(
            lambda: self._api.as_client(client_id, "GET", path, deadline, seconds=self._info_s), deadline
        )

    def _get(self, identity_: Any, path: str, deadline: Deadline) -> Answer:
        return self._repeated(
            lambda: self._api.as_admin(identity_, "GET", path, deadline, seconds=self._info_s), deadline
        )

    def _repeated(self, read: Any, deadline: Deadline) -> Answer:
        """What only reads may be asked again."""
        left = self._options.max_retries
        pause = self._options.retry_base_ms / 1000
        while True:
            try:
                return read()  # type: ignore[no-any-return]
            except Unreachable as error:
                seconds = self._pause(error, pause)
                if left <= 0 or seconds >= deadline.remaining():
                    raise
            self._attempts.wait(seconds)
            left -= 1
            pause *= 2

    # ---- state ----------------------------------------------------------------------------------

    def info(self, deadline: Deadline | None) -> TseInfo:
        deadline = within(deadline, 5 * self._info_s)
        self._ready(deadline)
        clients = self._list_clients(deadline)
        numbers: list[int] = []
        for client_id in clients:
            numbers += self._open_numbers(client_id, deadline)
        numbers = sorted(set(numbers))
        limits = self._decoded(self._get("admin", "/info", deadline), wire.Info) or wire.Info()
        details = self._decoded(self._get("admin_restricted", "/tssdetails", deadline), wire.Details)
        if details is None:
            raise Unreachable("PROTOCOL_ERROR", "The connector does not describe its TSE.")
        check = self._decoded(self._get("admin_restricted", "/selfcheck", deadline), wire.SelfCheck)
        with self._lock:
            self._known = set(numbers)
            self._starts = {number: self._starts[number] for number in numbers if number in self._starts}
        return self._described(clients, numbers, limits, details, check)

    def _decoded(self, answer: Answer, type_: type[Any]) -> Any:
        return None if answer.status == 404 else self._api.decode(answer, type_)

    def _list_clients(self, deadline: Deadline) -> list[str]:
        answer = self._get("admin", "/clients", deadline)
        if answer.status == 404:  # a server that does not list them
            return sorted(self._own_clients)
        clients = [client.clientId for client in self._api.decode(answer, list[wire.Client])]
        if clients:
            self._api.any_client = clients[0]
        return clients

    def _described(
        self,
        clients: list[str],
        numbers: list[int],
        limits: wire.Info,
        details: wire.Details,
        check: wire.SelfCheck | None,
    ) -> TseInfo:
        serial = details.serialNumberHex or details.serial or details.serialNumber or ""
        if self._identity is None or self._identified != (serial, details.leafCertificate):
            # The point is that of the certificate: publicKey has come in several forms.
            key = None if certificates_base64(details.leafCertificate) else details.publicKey
            self._identity = identity(serial, key, details.leafCertificate)
            self._identified = (serial, details.leafCertificate)
        found = self._identity
        keys = [] if check is None else check.keyInfos
        key_info = next((each for each in keys if each.state.upper() == "ACTIVE"), keys[0] if keys else None)
        active = key_info is None or key_info.state.upper() == "ACTIVE"
        addition = self._options.certification_id_addition
        certified = self._options.certification_id
        if self._options.display_certification_id_addition and addition:
            certified += f" [{addition}]"
        versions = check or wire.SelfCheck()
        return TseInfo(
            max_number_of_clients=limits.maxNumberClients or 2**31 - 1,
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=limits.maxNumberTransactions or 2**31 - 1,
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=UNKNOWN_MAXIMUM,
            current_number_of_signatures=(key_info.lastSignatureCounter or 0) if key_info is not None else 0,
            max_log_memory_size=UNKNOWN_MAXIMUM,
            current_log_memory_size=-1,
            current_state=TseStates.INITIALIZED if active else TseStates.TERMINATED,
            firmware_identification=msgspec.json.encode(
                {
                    "fccVersion": versions.fccVersion,
                    "localClientVersion": versions.localClientVersion,
                    "remoteCspVersion": versions.remoteCspVersion,
                }
            ).decode(),
            certification_identification=certified,
            signature_algorithm=algorithm_name(details.algorithm),
            log_time_format=_time_format(details.signingTimeFormat, details.timeFormat),
            serial_number_octet=found.serial,
            public_key_base64=found.public_key_base64,
            certificates_base64=found.certificates_base64,
            info={"vendor_state": "" if key_info is None else key_info.state},
        )

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        """The TSE of a connector is ordered, initialised and ended at the vendor's; the state stays as it is."""

    def set_time(self, deadline: Deadline | None) -> None:
        """The service keeps its own time."""

    def self_test(self, deadline: Deadline | None) -> None:
        """The connector tests itself."""

    # ---- clients --------------------------------------------------------------------------------

    def validate_client_id(self, client_id: str) -> None:
        check_client_id(client_id, _CLIENT_ID, MAX_CLIENT_ID)

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        deadline = within(deadline, 2 * self._admin_s)
        self._ready(deadline)
        if self._token is None:
            raise Misconfigured(
                "AUTH_FAILED",
                "Registering a client needs the activation token: set the option activation_token.",
            )
        most = self._options.max_client_count
        registered = self._list_clients(deadline)
        if most is not None and len(registered) >= most:
            raise client_limit(len(registered), most)
        body = msgspec.json.encode(
            {
                "registrationToken": self._token.reveal(),
                "uniqueClientId": client_id,
                "briefDescription": client_id,
                "typeOfSystem": self._options.type_of_system,
                "ersIdentifier": client_id,
            }
        )
        if self._change("/registration", body, client_id, True, deadline):
            return
        self._api.bearer(client_id, deadline)  # such a server registers who asks for a token
        self._own_clients.add(client_id)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        deadline = within(deadline, 2 * self._admin_s)
        self._ready(deadline)
        body = msgspec.json.encode({"uniqueClientId": client_id})
        self._change("/deregistration", body, client_id, False, deadline)
        self._own_clients.discard(client_id)

    def _change(self, path: str, body: bytes, client_id: str, wanted: bool, deadline: Deadline) -> bool:
        """Register or deregister; a lost answer is looked up and the call repeated once. False if there is no such
        route."""
        for last in (False, True):
            try:
                answer = self._api.as_admin(
                    "admin", "POST", path, deadline, seconds=self._admin_s, body=body, changes=True
                )
            except OutcomeUnknown:
                if (client_id in self._list_clients(deadline)) is wanted:
                    return True
                if last:
                    raise
                continue
            except TseRejected as error:
                if wanted and error.code == "REFUSED":
                    raise ClientError(
                        "INVALID_CLIENT_ID", error.message, vendor_code=error.vendor_code
                    ) from error
                raise
            return answer.status != 404
        raise AssertionError("unreachable")

    # ---- exports --------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        self._ready(Deadline(self._options.process_timeout_s))
        return self.exporter.run(out)

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        """Acknowledge what the last export contained: the service may then delete it."""
        deadline = within(deadline, self._admin_s)
        self._ready(deadline)
        self.exporter.acknowledge(last_counter, deadline)

    def close(self) -> None:
        self._api.close()
        if self._process is not None:
            self._process.close()


def _started(messages: Iterable[LogMessage]) -> int | None:
    return next((m.log_time for m in messages if m.operation == _OPERATIONS["start"]), None)


def _time_format(*said: str | None) -> str:
    for text in said:
        if text and text.lower() in _TIME_FORMATS:
            return _TIME_FORMATS[text.lower()]
    return "unixTime"


def _ticks(text: str) -> int:
    """Ticks of an ISO 8601 time in UTC."""
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise OutcomeUnknown("PROTOCOL_ERROR", f"The connector answers the time {text[:40]!r}.") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (
        UNIX_EPOCH_TICKS + (since.days * 86_400 + since.seconds) * TICKS_PER_SECOND + since.microseconds * 10
    )


def _signature(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise OutcomeUnknown("PROTOCOL_ERROR", "The signature of the connector is not base64.") from error
