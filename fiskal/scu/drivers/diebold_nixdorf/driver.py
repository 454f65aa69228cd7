"""A Diebold Nixdorf TSE over its frame protocol, on a serial port or a TCP connection of its own.

The device has one current client for everything, answers nothing that it refuses, and remembers no calls. So every
sequence names its client anew, a silence is asked about, and a signature whose answer was lost is looked up in the
list of open transactions and in the log before anything is repeated.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from fiskal.clock import Clock, from_unix
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.diebold_nixdorf import codes, values
from fiskal.scu.drivers.diebold_nixdorf.link import (
    STATE_COMMAND_OPEN,
    STATE_INITIALIZED,
    Link,
    LinkError,
    NoResponse,
    NotReached,
    Refused,
)
from fiskal.scu.drivers.diebold_nixdorf.options import PRODUCTION_CLIENT, Options
from fiskal.scu.drivers.diebold_nixdorf.pins import RefusedPins
from fiskal.scu.drivers.diebold_nixdorf.values import Slot
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.scu.transports import NotSent
from fiskal.tse.logmessage import LogMessage, LogMessageError, parse, parse_file_name
from fiskal.tse.tar import Sink, TarError, TarWriter, read_members

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 512
"""Process data in one command 206."""
MAX_PROCESS_DATA_BYTES: Final = 65_536
MAX_CLIENT_ID_CHARACTERS: Final = 30
CLIENT_ID_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789()+,-.:? "
)
MAX_CLIENTS: Final = 100
MAX_OPEN_TRANSACTIONS: Final = 512
TURN_S: Final = 0.1
"""How long an export keeps the device before others may sign."""
LEFT_LOGGED_IN_S: Final = 60.0
"""How long the Admin stays logged in behind an export that nobody erases."""

_TRIES: Final = 3
_AWAY_PAUSE_S: Final = 0.1
_RESTART_PAUSES_S: Final = (0.2, 1.0, 3.0)

_INIT: Final = {"start": 200, "update": 202, "finish": 204}
_END: Final = {"start": 201, "update": 203, "finish": 205}
_FIRST_MOMENT: Final = from_unix(0)
_LAST_MOMENT: Final = from_unix(4_102_444_799)
_REPAIRABLE: Final = frozenset(
    {
        codes.TIME_NOT_SET,
        codes.POWER_FAIL,
        codes.CMD_WRONG_ORDER,
        codes.CLIENT_ID_NOT_SET,
        codes.SELF_TEST_REQUIRED,
        codes.USER_NOT_AUTHENTICATED,
    }
)
_T = TypeVar("_T")


class _Again(Exception):
    """The call was certainly not executed and is worth another try."""

    def __init__(self, error: ScuError, *, away: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.away = away
        """The device could not be reached."""


class DieboldNixdorfTse:
    """The :class:`fiskal.scu.driver.Driver`. ``known_open`` gives the open transactions whose starts were
    answered, so that a lost start is never taken for one of them; ``answered_counter`` the last counter an update of a
    number was answered with, so that a lost update is never taken for an earlier one with the same data."""

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = True
    terminates_uninitialized = False
    filters_exports = True
    erases_with_open_transactions = False

    def __init__(
        self,
        link: Link,
        options: Options,
        pins: RefusedPins,
        clock: Clock,
        *,
        known_open: Callable[[], Mapping[int, object]] = dict,
        answered_counter: Callable[[int], int] = lambda number: 0,
    ) -> None:
        self._link = link
        self._options = options
        self._pins = pins
        self._clock = clock
        self._known_open = known_open
        self._answered_counter = answered_counter
        self._slot = str(options.slot)
        self._serial: bytes | None = None
        self._public_key = b""
        self._open: set[int] = set()
        """The open numbers, as far as they were seen."""
        self._counters: dict[int, int] = {}
        """The last signatureCounter that was answered for an open number."""
        self._unanswered_logins: dict[str, int] = {}
        self._defective = False
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        """Nothing that was seen counts any more: the device may have lost its power."""
        self._connection = -1
        self._time_due = float("-inf")
        self._clients: list[str] | None = None
        self._certificates: list[str] | None = None
        self._firmware: str | None = None
        self._hardware = ""
        self._logged_in: set[str] = set()
        self._exported: tuple[int, int] | None = None
        """Length and last counter of the whole log that was exported last."""
        self._exported_at = 0.0
        self._export_generation = 0

    # ---- errors -------------------------------------------------------------------------------------

    def _safely(self, deadline: Deadline | None, action: Callable[[], _T]) -> _T:
        """Run something that may be repeated; errors of the link as what they mean for the caller."""
        try:
            self._ensure(deadline)
            return action()
        except Refused as error:
            raise codes.refusal(error.number) from error
        except NotReached as error:
            raise _not_available(error) from error
        except NoResponse as error:
            raise OutcomeUnknown("NO_RESPONSE", f"No response from TSE. {error}") from error

    # ---- the way to the device ------------------------------------------------------------------------

    def _ensure(self, deadline: Deadline | None) -> None:
        """Have a connection to a device that is known, tested and told the time. Raises LinkError, ScuError."""
        if self._closed:
            raise Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. It has been closed.")
        if self._defective:
            raise _defective()
        transport = self._link.transport
        try:
            transport.connect(deadline)
        except NotSent as error:
            raise NotReached(error) from error
        if transport.connections != self._connection:
            self._forget()
            connection = transport.connections
            self._meet(deadline)
            if transport.connections == connection:
                self._connection = connection

    def _meet(self, deadline: Deadline | None) -> None:
        """Get to know the device behind a new connection."""
        link = self._link
        link.execute(3, "0", deadline=deadline)
        self._as_manager(deadline)
        slot = self._read_slot(deadline)
        if slot.state is not TseStates.TERMINATED and self._self_test_due(deadline):
            self._test(deadline, initialized=slot.state is TseStates.INITIALIZED)
            self._as_manager(deadline)
        serial = values.from_base64(self._first(link.fetch(305, self._slot, deadline=deadline)))
        self._reset_export()
        keys = link.fetch(308, self._slot, deadline=deadline)
        self._reset_export()
        index = self._options.public_key_index
        if index >= len(keys):
            raise NoResponse(f"The TSE answered {len(keys)} parameters where its public key must be.", None)
        point = values.from_base64(keys[index])
        self._recognise(serial, point)
        _, state = link.status(deadline)
        if state & STATE_COMMAND_OPEN:
            self._void()

    def _recognise(self, serial: bytes, point: bytes) -> None:
        """Refuse another TSE than the one this driver works with."""
        wanted = self._options.serial
        if wanted is not None and serial.hex() != wanted.lower():
            raise Misconfigured(
                "WRONG_TSE", f"TSE {serial.hex()} is connected, but the configuration wants {wanted.lower()}."
            )
        if self._serial is not None and serial != self._serial:
            raise Misconfigured(
                "WRONG_TSE",
                f"TSE {serial.hex()} was put into the place of {self._serial.hex()}. Plug the old one in, or change "
                "the TSE with an SCU switch.",
            )
        if hashlib.sha256(point).digest() != serial:
            raise Misconfigured(
                "PROTOCOL_ERROR", "The public key of the TSE does not belong to its serial number."
            )
        self._serial, self._public_key = serial, point

    def _first(self, texts: list[str]) -> str:
        if not texts:
            raise NoResponse("The TSE answered without a parameter.", None)
        return texts[0]

    def _read_slot(self, deadline: Deadline | None) -> Slot:
        return values.slot(
            self._link.execute(109, self._slot, deadline=deadline), self._options.disabled_status_first
        )

    def _set_client(self, client_id: str, deadline: Deadline | None) -> None:
        self._link.execute(509, client_id, deadline=deadline)

    def _as_manager(self, deadline: Deadline | None) -> None:
        self._set_client(self._options.management_client_id, deadline)

    def _reset_export(self) -> None:
        with contextlib.suppress(LinkError):
            self._link.execute(309, self._slot)

    def _void(self) -> None:
        """Drop a transaction command that was begun. What goes wrong here must hide nothing."""
        with contextlib.suppress(LinkError):
            self._link.execute(207)

    # ---- users ------------------------------------------------------------------------------------

    def _log_in(self, user: str, pin: str, deadline: Deadline | None) -> None:
        """Raises ``Misconfigured`` AUTH_FAILED or PIN_BLOCKED; a PIN that was wrong is never sent again."""
        what = "admin_pin" if user == self._options.admin_user else "time_admin_pin"
        if user in self._logged_in:
            return
        if not pin:
            raise Misconfigured(
                "AUTH_FAILED", f"This needs the PIN of user {user}: put it into {what} of the configuration."
            )
        serial = "" if self._serial is None else self._serial.hex()
        self._pins.check(serial, user, pin)
        if self._unanswered_logins.get(user, 0) >= 2:
            raise Misconfigured(
                "AUTH_FAILED",
                f"Two logins of user {user} were not answered; another one is not tried, because three wrong PINs "
                "block the user. Check the PIN and start again.",
            )
        self._as_manager(deadline)
        try:
            answer = self._link.execute(400, self._slot, user, pin, deadline=deadline)
        except Refused as error:
            if error.number != codes.CERTIFICATE_EXPIRED:
                raise
            log.warning("login of user %s: the certificate has expired", user)
        except NoResponse:
            self._unanswered_logins[user] = self._unanswered_logins.get(user, 0) + 1
            raise
        else:
            outcome = values.number(self._first(answer))
            if outcome > 1 or len(answer) > 2:
                blocked = outcome == 3 or (len(answer) > 1 and answer[1] == "0")
                self._pins.add(serial, user, pin)
                left = f" {answer[1]} tries are left." if len(answer) > 1 and not blocked else ""
                raise Misconfigured(
                    "PIN_BLOCKED" if blocked else "AUTH_FAILED",
                    f"User {user} is blocked: unblock it with the PUK."
                    if blocked
                    else f"The TSE refused the PIN of user {user} ({what}).{left}",
                    vendor_code=str(outcome),
                )
        self._unanswered_logins.pop(user, None)
        self._logged_in.add(user)

    def _log_out(self, user: str) -> None:
        """Errors are noted only: the work is done."""
        if user not in self._logged_in:
            return
        self._logged_in.discard(user)
        try:
            self._as_manager(None)
            answer = self._link.execute(401, self._slot, user)
            if answer and values.number(answer[0]) > 1:
                log.warning("the TSE answered %s to the logout of user %s", answer[0], user)
        except (LinkError, ScuError) as error:
            log.warning("user %s could not be logged out: %s", user, error)

    @contextlib.contextmanager
    def _admin(self, deadline: Deadline | None) -> Iterator[None]:
        user = self._options.admin_user
        self._log_in(user, self._options.admin_pin, deadline)
        try:
            yield
        finally:
            self._log_out(user)

    # ---- time and self test -----------------------------------------------------------------------

    def _set_time(self, deadline: Deadline | None) -> None:
        options = self._options
        if options.time_admin_pin:
            user, pin = options.time_admin_user, options.time_admin_pin
        else:
            user, pin = options.admin_user, options.admin_pin
        self._log_in(user, pin, deadline)
        try:
            self._tell_time(deadline)
        finally:
            self._log_out(user)
        self._schedule_time(deadline)

    def _tell_time(self, deadline: Deadline | None) -> None:
        self._as_manager(deadline)
        try:
            self._link.execute(101, values.time_text(self._clock()), deadline=deadline)
            code, state = self._link.status(deadline)
            if code:
                raise Refused(code, state)
        except Refused as error:
            if error.number != codes.CERTIFICATE_EXPIRED:
                raise
            log.warning("the time was set, but the certificate has expired")

    def _schedule_time(self, deadline: Deadline | None) -> None:
        seconds = values.number(self._first(self._link.execute(507, deadline=deadline)))
        self._time_due = time.monotonic() + seconds

    def _set_time_if_due(self, deadline: Deadline | None, ahead_s: float = 0.0) -> None:
        """The device wants the time again and again. Without a PIN it must have it from somebody else."""
        if time.monotonic() + ahead_s < self._time_due:
            return
        if not (self._options.time_admin_pin or self._options.admin_pin):
            return
        self._set_time(deadline)

    def _self_test_due(self, deadline: Deadline | None) -> bool:
        return values.number(self._first(self._link.execute(508, deadline=deadline))) == 0

    def _test(self, deadline: Deadline | None, *, initialized: bool) -> None:
        """Run the self test. Raises ``TseRejected`` if the device failed it: then it is defective."""
        with contextlib.suppress(LinkError):
            self._link.execute(309, self._slot, deadline=deadline)
        manager = self._options.management_client_id
        result = 3
        for client in (manager, PRODUCTION_CLIENT) if initialized else (PRODUCTION_CLIENT, manager):
            self._set_client(client, deadline)
            try:
                answer = self._link.execute(
                    112, self._slot, deadline=deadline, timeout_ms=self._options.self_test_timeout_ms
                )
            except NoResponse as error:
                raise Unreachable(
                    "SELF_TEST_REQUIRED",
                    "The TSE is not available. It tests itself, which takes up to two minutes.",
                    retry_after_ms=5000,
                ) from error
            result = values.number(self._first(answer))
            if result != 3:
                break
        if result == 2:
            self._defective = True
            raise _defective()
        if result != 1:
            raise Misconfigured(
                "SELF_TEST_REQUIRED",
                f"Neither {manager!r} nor {PRODUCTION_CLIENT!r} is registered at the TSE, so it cannot be tested. Set "
                "management_client_id to a registered client.",
            )

    def set_time(self, deadline: Deadline | None) -> None:
        def action() -> None:
            if self._read_slot(deadline).state is TseStates.INITIALIZED:
                self._set_time(deadline)

        self._safely(deadline, action)

    def self_test(self, deadline: Deadline | None) -> None:
        self._defective = False

        def action() -> None:
            self._as_manager(deadline)
            slot = self._read_slot(deadline)
            if slot.state is not TseStates.TERMINATED:
                initialized = slot.state is TseStates.INITIALIZED
                self._test(deadline, initialized=initialized)
                if initialized and (self._options.time_admin_pin or self._options.admin_pin):
                    self._set_time(deadline)

        self._safely(deadline, action)

    # ---- transactions -------------------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._transaction(call, deadline)
        self._open.add(signed.transaction_number)
        self._counters[signed.transaction_number] = signed.signature_counter
        return signed

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._transaction(call, deadline)
        self._counters[call.transaction_number] = signed.signature_counter
        return signed

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        known = call.transaction_number in self._known_open()
        signed = self._transaction(call, deadline)
        if signed.start_time_stamp is None and not known:
            signed = msgspec.structs.replace(signed, start_time_stamp=self._start_of(call, deadline))
        self._open.discard(call.transaction_number)
        self._counters.pop(call.transaction_number, None)
        return signed

    def _start_of(self, call: Call, deadline: Deadline | None) -> int | None:
        """When a transaction began that this SCU did not start, from the log. The signature is made already."""
        try:
            for message, _ in self._messages_of(call.transaction_number, deadline):
                if (message.operation or "").lower() == "starttransaction":
                    return message.log_time
        except (LinkError, TarError) as error:
            log.warning("the start of transaction %d cannot be read: %s", call.transaction_number, error)
        return None

    def _transaction(self, call: Call, deadline: Deadline | None) -> Signed:
        """Sign, repairing once what can be repaired; never a second time what may have been signed."""
        if len(call.process_data) > MAX_PROCESS_DATA_BYTES:
            raise ClientError(
                "INVALID_PROCESS_DATA",
                f"The process data has {len(call.process_data)} bytes, at most {MAX_PROCESS_DATA_BYTES} are allowed.",
            )
        for text in (call.process_type, call.client_id):
            if not text.isascii() or not (text.isprintable() or not text):
                raise ClientError("INVALID_PROCESS_DATA", "ProcessType and ClientId are printable ASCII.")
        limit = deadline or Deadline(self._options.transaction_timeout_ms / 1000)
        tries = 0
        while True:
            known = self._connection
            try:
                return self._try(call, limit)
            except _Again as again:
                # A device that was there a moment ago may come back in time; one that was not is not waited for.
                tries += not again.away
                if limit.expired or tries == _TRIES or (again.away and known < 0 and not tries):
                    raise again.error from again
                if again.away:
                    tries = max(tries, 1)
                    time.sleep(min(_AWAY_PAUSE_S, limit.remaining()))

    def _try(self, call: Call, deadline: Deadline) -> Signed:
        """One try. Raises _Again if nothing was executed and another try may succeed; ScuError."""
        try:
            self._ensure(deadline)
            self._set_time_if_due(deadline)
            self._begin(call, deadline)
        except Refused as error:
            raise self._repaired(error, call, deadline) from error
        except NotReached as error:
            raise _Again(_not_available(error), away=True) from error
        except NoResponse as error:
            # Nothing is signed before the End. What was begun is dropped by the next try, or by another client's.
            with contextlib.suppress(LinkError):
                if error.state is not None and error.state & STATE_COMMAND_OPEN:
                    self._void()
            raise _Again(Unreachable("NO_RESPONSE", f"No response from TSE. {error}")) from error
        return self._end(call, deadline)

    def _begin(self, call: Call, deadline: Deadline) -> None:
        """Everything in front of the End."""
        link = self._link
        connection = link.transport.connections
        self._set_client(call.client_id, deadline)
        number = () if call.op == "start" else (str(call.transaction_number),)
        data = call.process_data
        link.execute(_INIT[call.op], *number, str(len(data)), call.process_type, "0", deadline=deadline)
        for packet, at in enumerate(range(0, len(data), PIECE_BYTES)):
            piece = base64.b64encode(data[at : at + PIECE_BYTES]).decode("ascii")
            link.execute(206, str(packet), piece, deadline=deadline)
        if link.transport.connections != connection:
            # Whose client id the device has now is not known.
            raise NoResponse(
                "The connection was made anew in the middle of a transaction.", STATE_COMMAND_OPEN
            )

    def _repaired(self, error: Refused, call: Call, deadline: Deadline) -> Exception:
        """Repair what a refused command asks for; the error to raise."""
        refusal = codes.refusal(error.number, call)
        if error.number not in _REPAIRABLE or deadline.expired:
            if error.state & STATE_COMMAND_OPEN:
                self._void()
            return refusal
        try:
            if error.state & STATE_COMMAND_OPEN or error.number == codes.CMD_WRONG_ORDER:
                self._void()
            if error.number == codes.TIME_NOT_SET:
                self._set_time(deadline)
            elif error.number == codes.SELF_TEST_REQUIRED:
                self._test(deadline, initialized=True)
            elif error.number in (codes.POWER_FAIL, codes.USER_NOT_AUTHENTICATED):
                self._forget()
        except LinkError as failed:
            log.warning("the TSE could not be repaired: %s", failed)
            return refusal
        except ScuError as failed:
            return failed
        return _Again(refusal)

    def _end(self, call: Call, deadline: Deadline) -> Signed:
        """Have it signed, and find out what happened if there is no answer."""
        try:
            answer = self._link.execute(_END[call.op], deadline=deadline)
            return self._read_signed(call, answer)
        except Refused as error:
            if error.number != codes.CERTIFICATE_EXPIRED:
                raise self._repaired(error, call, deadline) from error
            signed = self._found(call, deadline)  # a TSE stores first and reports then
            if signed is not None:
                log.warning("signature %d was made with an expired certificate", signed.signature_counter)
                return signed
            raise codes.refusal(error.number) from error
        except NotReached as error:
            raise _Again(_not_available(error), away=True) from error
        except NoResponse as error:
            if error.state is not None and error.state & STATE_COMMAND_OPEN:
                self._void()
                raise _Again(Unreachable("NO_RESPONSE", f"No response from TSE. {error}")) from error
            log.warning("the answer to a %s was lost: %s", call.op, error)
            signed = self._found(call, deadline)
            if signed is not None:
                return signed
            raise _Again(Unreachable("NO_RESPONSE", f"No response from TSE. {error}")) from error

    def _read_signed(self, call: Call, answer: list[str]) -> Signed:
        wanted = 5 if call.op == "start" else 3
        if len(answer) < wanted:
            raise NoResponse(f"The TSE answered {len(answer)} parameters to a {call.op}, not {wanted}.", None)
        moment = values.ticks(answer[0])
        if call.op != "start":
            return Signed(
                call.transaction_number, values.number(answer[1]), moment, values.from_base64(answer[2])
            )
        if values.from_base64(answer[2]) != self._serial:
            raise OutcomeUnknown("WRONG_TSE", "Another TSE has signed than the one that was asked.")
        return Signed(
            values.number(answer[1]), values.number(answer[3]), moment, values.from_base64(answer[4])
        )

    # ---- what became of a call ------------------------------------------------------------------------

    def recall(self, call: Call) -> Remembered | None:
        return None

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        limit = deadline or Deadline(self._options.transaction_timeout_ms / 1000)
        before = None if open_before is None else set(open_before)
        signed = self._found(call, limit, before=before)
        return Verdict.NOT_EXECUTED if signed is None else signed

    def _found(self, call: Call, deadline: Deadline, before: set[int] | None = None) -> Signed | None:
        """What ``call`` made the TSE sign; None if it certainly was not executed. Raises OutcomeUnknown."""
        last: Exception | None = None
        while last is None or not deadline.expired:
            try:
                self._ensure(deadline)
                return self._search(call, self._open if before is None else before, deadline)
            except (LinkError, Unreachable, TarError) as error:
                log.warning("what became of a %s is not known yet: %s", call.op, error)
                last = error
                time.sleep(min(0.05, deadline.remaining()))
        raise OutcomeUnknown(
            "NO_RESPONSE",
            f"No response from TSE. Whether the {call.op} was executed is not known: {last}",
            transaction_number=call.transaction_number or None,
        ) from last

    def _search(self, call: Call, before: set[int], deadline: Deadline) -> Signed | None:
        self._as_manager(deadline)
        _, state = self._link.status(deadline)
        if state & STATE_COMMAND_OPEN:
            self._void()
        if call.op == "start":
            known = self._known_open().keys() | before
            candidates = [number for number in self._started(call.client_id, deadline) if number not in known]
            for number in sorted(candidates):
                for message, raw in self._messages_of(number, deadline):
                    if values.is_log_of(message, call, number):
                        return values.signed(message, raw)
            return None
        number = call.transaction_number
        is_open = number in self._started(None, deadline)
        if call.op == "finish" and is_open:
            return None
        seen = 0
        if call.op == "update":
            seen = max(self._counters.get(number, 0), self._answered_counter(number))
        start: int | None = None
        found: tuple[LogMessage, bytes] | None = None
        for message, raw in self._messages_of(number, deadline):
            if (message.operation or "").lower() == "starttransaction":
                start = message.log_time
            if message.signature_counter > seen and values.is_log_of(message, call, number):
                found = (message, raw)
        return None if found is None else values.signed(*found, start)

    def _started(self, client_id: str | None, deadline: Deadline | None) -> list[int]:
        """The open numbers, of one client if it is given."""
        options = self._options
        if client_id is not None or options.all_started_in_one:
            asked: list[tuple[str, ...]] = [() if client_id is None else (client_id,)]
        else:
            asked = [(client,) for client in self._list_clients(deadline)]
        numbers: list[int] = []
        for parameters in asked:
            texts = self._link.fetch(506, *parameters, deadline=deadline, timeout_ms=options.list_timeout_ms)
            numbers += [values.number(text) for text in texts]
        return numbers

    def _messages_of(self, number: int, deadline: Deadline | None) -> list[tuple[LogMessage, bytes]]:
        """The log messages of one transaction, in their order; none if the log holds none."""
        self._export_generation += 1
        found = []
        try:
            pieces = self._link.stream(301, self._slot, f"{number:010d}", "", deadline=deadline)
            for member in read_members(_Source(pieces)):
                if member.data is None or not member.name.endswith(".log"):
                    continue
                with contextlib.suppress(LogMessageError):
                    message = parse(member.data)
                    if message.transaction_number == number:
                        found.append((message, member.data))
        except Refused as error:
            if error.number != codes.NO_DATA_AVAILABLE:
                raise
        finally:
            self._reset_export()
        return sorted(found, key=lambda pair: pair[0].signature_counter)

    # ---- state, clients -----------------------------------------------------------------------------

    def info(self, deadline: Deadline | None) -> TseInfo:
        try:
            self._ensure(deadline)
            return self._info(deadline)
        except Refused as error:
            raise codes.refusal(error.number) from error
        except NotReached as error:
            raise _not_available(error) from error
        except NoResponse as error:
            raise Unreachable("NO_RESPONSE", f"The TSE is not available. {error}") from error

    def _info(self, deadline: Deadline | None) -> TseInfo:
        link, options = self._link, self._options
        self._log_out_the_exporter()
        self._as_manager(deadline)
        slot = self._read_slot(deadline)
        memory = link.execute(102, deadline=deadline)
        capacity, free = (values.number_or_unknown(memory, index) for index in (0, 1))
        if values.UNKNOWN in (capacity, free):
            capacity, free = slot.capacity, slot.free
        if self._firmware is None:
            country = link.execute(0, deadline=deadline)
            self._hardware = {"64": "single TSE", "65": "Connect Box"}.get(
                country[-1] if country else "", "unknown"
            )
            self._firmware = values.firmware(link.execute(2, deadline=deadline))
        max_clients, max_open = MAX_CLIENTS, MAX_OPEN_TRANSACTIONS
        clients: list[str] = []
        numbers: list[int] = []
        if slot.state is not TseStates.UNINITIALIZED:
            if self._certificates is None:
                pem = values.from_base64(self._first(link.fetch(304, self._slot, deadline=deadline)))
                self._reset_export()
                self._certificates = values.certificates(pem)
            limits = [values.number(text) for text in link.execute(500, deadline=deadline)]
            if len(limits) < 2:
                raise NoResponse("The TSE did not tell how many clients it has.", None)
            max_clients = limits[0]
            if self._clients is None or len(self._clients) != limits[1]:
                self._clients = None
                self._list_clients(deadline)
                self._as_manager(deadline)
            clients = list(self._clients or ())
            counts = [values.number(text) for text in link.execute(504, deadline=deadline)]
            if len(counts) < 2:
                raise NoResponse("The TSE did not tell how many transactions are open.", None)
            max_open = counts[0]
            if counts[1]:
                numbers = sorted(self._started(None, deadline))
            if slot.state is TseStates.INITIALIZED:
                self._set_time_if_due(deadline, ahead_s=120.0)
        self._open = set(numbers)
        assert self._serial is not None
        left = slot.signatures_left
        return TseInfo(
            max_number_of_clients=max_clients,
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=max_open,
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=options.max_signatures,
            current_number_of_signatures=-1 if left < 0 else options.max_signatures - left,
            max_log_memory_size=capacity,
            current_log_memory_size=-1 if values.UNKNOWN in (capacity, free) else capacity - free,
            current_state=slot.state,
            firmware_identification=self._firmware,
            certification_identification=slot.description,
            signature_algorithm=slot.algorithm,
            log_time_format="unixTime",
            serial_number_octet=self._serial.hex(),
            public_key_base64=base64.b64encode(self._public_key).decode("ascii"),
            certificates_base64=self._certificates or [],
            info=self._details(slot),
        )

    def _details(self, slot: Slot) -> dict[str, str]:
        details = {"hardware": self._hardware, "tse_description": slot.description}
        if slot.certificate_end:
            details["certificate_end"] = values.time_text(slot.certificate_end)
        if slot.signatures_left >= 0:
            details["signatures_left"] = str(slot.signatures_left)
        if slot.near_full:
            details["memory"] = "nearly full: export and erase the log"
        return details

    def _log_out_the_exporter(self) -> None:
        """The Admin stays logged in behind an export of the whole log, for the erasing; not for ever."""
        user = self._options.admin_user
        if user in self._logged_in and time.monotonic() - self._exported_at > LEFT_LOGGED_IN_S:
            self._log_out(user)

    def _list_clients(self, deadline: Deadline | None) -> list[str]:
        if self._clients is not None:
            return self._clients
        options = self._options
        if options.client_list_needs_admin and not options.admin_pin:
            if not options.client_ids:
                raise Misconfigured(
                    "AUTH_FAILED",
                    "The TSE shows its clients to the Admin only: configure admin_pin, or name the registered clients "
                    "in client_ids.",
                )
            self._clients = list(options.client_ids)
            return self._clients
        if options.client_list_needs_admin:
            stays = options.admin_user in self._logged_in
            self._log_in(options.admin_user, options.admin_pin, deadline)
            try:
                self._clients = self._fetch_clients(deadline)
            finally:
                if not stays:
                    self._log_out(options.admin_user)
        else:
            self._clients = self._fetch_clients(deadline)
        return self._clients

    def _fetch_clients(self, deadline: Deadline | None) -> list[str]:
        self._as_manager(deadline)
        return self._link.fetch(502, self._slot, deadline=deadline)

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        if target is TseStates.INITIALIZED:
            self._safely(deadline, lambda: self._initialize(deadline))
        else:
            self._safely(deadline, lambda: self._disable(deadline))

    def _initialize(self, deadline: Deadline | None) -> None:
        link, slow = self._link, self._options.slow_timeout_ms
        with self._admin(deadline):
            self._as_manager(deadline)
            link.execute(106, self._slot, deadline=deadline, timeout_ms=slow)
            self._test(deadline, initialized=True)
            self._as_manager(deadline)
            link.execute(100, self._slot, self._options.description, deadline=deadline, timeout_ms=slow)
            self._tell_time(deadline)
        self._schedule_time(deadline)
        self._clients = None
        _, state = link.status(deadline)
        if not state & STATE_INITIALIZED:
            raise TseRejected("DEVICE_FAILED", "The TSE did not take the initialisation.")

    def _disable(self, deadline: Deadline | None) -> None:
        with self._admin(deadline):
            self._as_manager(deadline)
            self._link.execute(104, self._slot, deadline=deadline, timeout_ms=self._options.slow_timeout_ms)

    def validate_client_id(self, client_id: str) -> None:
        if not 1 <= len(client_id) <= MAX_CLIENT_ID_CHARACTERS or not set(client_id) <= CLIENT_ID_CHARACTERS:
            raise ClientError(
                "INVALID_CLIENT_ID",
                f"The client id {client_id!r} must have 1 to {MAX_CLIENT_ID_CHARACTERS} characters out of A-Z a-z 0-9 "
                "space ( ) + , - . : ?",
            )

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        self._safely(deadline, lambda: self._change_clients(106, client_id, deadline))

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        if client_id == PRODUCTION_CLIENT:
            raise TseRejected("INVALID_CLIENT_ID", f"The client {client_id} belongs to the TSE and stays.")
        self._safely(deadline, lambda: self._change_clients(107, client_id, deadline))

    def _change_clients(self, command: int, client_id: str, deadline: Deadline | None) -> None:
        self._set_time_if_due(deadline)
        with self._admin(deadline):
            self._set_client(client_id, deadline)
            self._clients = None
            try:
                self._link.execute(
                    command, self._slot, deadline=deadline, timeout_ms=self._options.slow_timeout_ms
                )
            except Refused as error:
                if error.number != codes.TIME_NOT_SET:
                    raise
                self._tell_time(deadline)
                self._set_client(client_id, deadline)
                self._link.execute(
                    command, self._slot, deadline=deadline, timeout_ms=self._options.slow_timeout_ms
                )
            self._clients = self._fetch_clients(deadline)

    # ---- PINs, only when asked for by name ----------------------------------------------------------

    def change_pin(self, user: str, old: str, new: str, deadline: Deadline | None = None) -> None:
        """Command 404 in its inferred shape; needs ``unverified_pin_commands``."""
        self._pin_command(404, user, (user, old, new), deadline)

    def unblock(self, user: str, puk: str, new: str, deadline: Deadline | None = None) -> None:
        """Command 402 in its inferred shape; needs ``unverified_pin_commands``. Never repeated."""
        self._pin_command(402, user, (user, puk, new), deadline)

    def change_puk(self, old: str, new: str, deadline: Deadline | None = None) -> None:
        """Command 403 in its inferred shape; needs ``unverified_pin_commands``."""
        self._pin_command(403, "", (old, new), deadline)

    def _pin_command(
        self, command: int, user: str, parameters: tuple[str, ...], deadline: Deadline | None
    ) -> None:
        if not self._options.unverified_pin_commands:
            raise NotSupported(
                "NOT_IMPLEMENTED",
                f"Command {command:03d} is not publicly documented: change PINs on the page of the vendor's web "
                "service, or set unverified_pin_commands to true to send it all the same.",
            )

        def action() -> None:
            self._as_manager(deadline)
            answer = self._link.execute(command, self._slot, *parameters, deadline=deadline)
            if not answer or values.number(answer[0]) > 1:
                left = f" {answer[1]} tries are left." if len(answer) > 1 else ""
                raise Misconfigured("AUTH_FAILED", f"The TSE refused the PIN or PUK.{left}")
            if user:
                self._pins.forget(user)

        self._safely(deadline, action)

    # ---- exports --------------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        command, parameters = self._export_command(selection)
        whole = selection.whole
        with turn():
            self._safely(None, lambda: self._prepare_export(whole))
        source = _Source(self._pulled(command, parameters, turn))
        last = 0
        try:
            if selection.after_counter:
                last = _copy_behind(source, out, selection.after_counter)
            else:
                source.copy_to(out)
                last = max((_counter(member.name, member.data) for member in read_members(source)), default=0)
                source.drain()
        except TarError as error:
            raise TseRejected("EXPORT_FAILED", f"The TSE exported no archive: {error}") from error
        finally:
            with turn():
                self._reset_export()
        if whole:
            self._exported = (source.size, last)
            self._exported_at = time.monotonic()
        return last

    def _export_command(self, selection: Selection) -> tuple[int, tuple[str, ...]]:
        client = selection.client_id or ""
        by_time = selection.first_time is not None or selection.last_time is not None
        by_number = selection.first_number is not None or selection.last_number is not None
        if (by_time and by_number) or (selection.after_counter and (by_time or by_number or client)):
            raise NotSupported(
                "NOT_IMPLEMENTED", "This TSE cannot export by times, numbers and counter together."
            )
        if by_number:
            first = selection.first_number or 0
            last = 2**31 - 1 if selection.last_number is None else selection.last_number
            if max(first, last) >= 10**10:
                raise ClientError("INVALID_RANGE", "A transaction number of this TSE has at most ten digits.")
            return 302, (self._slot, f"{first:010d}", f"{last:010d}", client)
        if by_time or client:
            begin = max(selection.first_time or _FIRST_MOMENT, _FIRST_MOMENT)
            end = min(_LAST_MOMENT if selection.last_time is None else selection.last_time, _LAST_MOMENT)
            return 303, (
                self._slot,
                values.time_text(values.first_second(begin)),
                values.time_text(end),
                client,
            )
        return 300, (self._slot,)

    def _prepare_export(self, whole: bool) -> None:
        """The Admin is logged in before the whole log is exported: a login behind it would be a newer message."""
        self._exported = None
        if whole and self._options.admin_pin:
            self._log_in(self._options.admin_user, self._options.admin_pin, None)
            self._exported_at = time.monotonic()
        self._link.dirty = False

    def _pulled(self, command: int, parameters: tuple[str, ...], turn: Turn) -> Iterator[bytes]:
        """The bytes of an export. Others have their turn between the pieces; an export that breaks is begun anew, and
        goes on behind what was given away if its beginning is the same."""
        given = 0
        digest = hashlib.sha256()
        for attempt in range(len(_RESTART_PAUSES_S) + 1):
            again = hashlib.sha256()
            position = 0
            try:
                for piece in self._in_turns(command, parameters, turn):
                    known = min(len(piece), given - position)
                    if known > 0:
                        again.update(piece[:known])
                        position += known
                        if position == given and again.digest() != digest.digest():
                            raise TseRejected(
                                "EXPORT_FAILED", "The export broke, and the TSE's second one is another."
                            )
                    fresh = piece[max(known, 0) :]
                    if fresh:
                        digest.update(fresh)
                        given += len(fresh)
                        position += len(fresh)
                        yield fresh
            except (Refused, NoResponse, NotReached) as error:
                if attempt == len(_RESTART_PAUSES_S) or (
                    isinstance(error, Refused) and error.number == codes.NO_DATA_AVAILABLE and attempt
                ):
                    raise _export_failed(error) from error
                if isinstance(error, Refused) and error.number in (
                    codes.NO_DATA_AVAILABLE,
                    codes.DEVICE_DISABLED,
                ):
                    raise _export_failed(error) from error
                log.warning("the export broke behind %d bytes and is begun anew: %s", given, error)
                with turn():
                    self._reset_export()
                    if isinstance(error, Refused) and error.number == codes.SELF_TEST_REQUIRED:
                        self._safely(None, lambda: self._test(None, initialized=True))
                time.sleep(_RESTART_PAUSES_S[attempt])
            else:
                if position < given:
                    raise TseRejected(
                        "EXPORT_FAILED", "The export broke, and the TSE's second one is shorter."
                    )
                return

    def _in_turns(self, command: int, parameters: tuple[str, ...], turn: Turn) -> Iterator[bytes]:
        """One export, piece by piece, with the device free for others again and again."""
        pieces: Iterator[bytes] | None = None
        generation = 0
        while True:
            gathered = bytearray()
            ended = False
            with turn():
                self._ensure(None)
                if pieces is None:
                    self._as_manager(None)
                    pieces = self._link.stream(command, *parameters)
                    self._export_generation += 1
                    generation = self._export_generation
                elif generation != self._export_generation:
                    raise NoResponse("Another export took the buffer of the TSE.", None)
                until = time.monotonic() + TURN_S
                while time.monotonic() < until:
                    piece = next(pieces, None)
                    if piece is None:
                        ended = True
                        break
                    gathered += piece
            if gathered:
                yield bytes(gathered)
            if ended:
                return

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        self._safely(deadline, lambda: self._erase(last_counter, deadline))

    def _erase(self, last_counter: int, deadline: Deadline | None) -> None:
        user = self._options.admin_user
        if not self._options.admin_pin:
            raise Misconfigured("AUTH_FAILED", "Erasing needs the PIN of the Admin: configure admin_pin.")
        try:
            exported = self._exported
            if exported is None or exported[1] != last_counter or user not in self._logged_in:
                raise TseRejected("ERASE_FAILED", "This export is not the last one of the TSE: export again.")
            if self._link.dirty:
                raise TseRejected("ERASE_FAILED", "The TSE has signed since the export: export again.")
            self._exported = None
            self._as_manager(deadline)
            answer = self._link.execute(307, self._slot, str(exported[0]), deadline=deadline)
            if values.number(self._first(answer)) == 2:
                raise TseRejected("ERASE_FAILED", "The TSE says that its log was not exported completely.")
        finally:
            self._log_out(user)

    # ---- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        if self._link.transport.connections == self._connection:
            for user in list(self._logged_in):
                self._log_out(user)
        self._closed = True
        self._link.transport.close()


class _Source:
    """The pieces of an export as something to be read from; counts, and copies what it reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._ready = b""
        self._copy: Sink | None = None
        self.size = 0

    def copy_to(self, out: Sink) -> None:
        self._copy = out

    def read(self, size: int, /) -> bytes:
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._ready = piece
            self.size += len(piece)
            if self._copy is not None and piece:
                self._copy.write(piece)
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def drain(self) -> None:
        """Read to the end what lies behind the archive."""
        while self.read(1 << 16):
            pass


def _counter(name: str, data: bytes | None) -> int:
    """The signatureCounter of a member, 0 if it is no log message."""
    parts = parse_file_name(name.rpartition("/")[2])
    if parts is not None:
        return parts.signature_counter
    if data is not None and name.endswith(".log"):
        with contextlib.suppress(LogMessageError):
            return parse(data).signature_counter
    return 0


def _copy_behind(source: _Source, out: Sink, after_counter: int) -> int:
    """Copy an archive without the log messages up to ``after_counter``; return the last counter."""
    last = 0
    writer = TarWriter(out, 0)
    for member in read_members(source):
        counter = _counter(member.name, member.data)
        if member.data is not None and (counter == 0 or counter > after_counter):
            writer.add(member.name, member.data, member.mtime)
            last = max(last, counter)
    writer.close()
    source.drain()
    return last


def _not_available(error: NotReached) -> ScuError:
    if error.in_use:
        return Misconfigured("DEVICE_IN_USE", f"The TSE is not available. {error}")
    return Unreachable("TSE_NOT_AVAILABLE", f"The TSE is not available. {error}")


def _defective() -> TseRejected:
    return TseRejected("SECURE_STATE", "The self test of the TSE failed: replace the TSE if it fails again.")


def _export_failed(error: LinkError) -> ScuError:
    if isinstance(error, Refused):
        return codes.refusal(error.number)
    return TseRejected("EXPORT_FAILED", f"The export of the TSE failed: {error}")
