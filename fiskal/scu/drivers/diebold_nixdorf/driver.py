"""A Diebold Nixdorf TSE over its frame protocol, on a serial port or a TCP connection of its own.

The device has one current client for everything, answers nothing that it refuses, and remembers no calls. So every
sequence names its client anew, a silence is asked about, and a signature whose answer was lost is looked up in the
list of open transactions and in the log before anything is repeated.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import time
from typing import Final

import msgspec

from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Signed, Verdict
from fiskal.scu.drivers.diebold_nixdorf import codes, values
from fiskal.scu.drivers.diebold_nixdorf.device import not_available
from fiskal.scu.drivers.diebold_nixdorf.exports import Exports
from fiskal.scu.drivers.diebold_nixdorf.link import (
    STATE_COMMAND_OPEN,
    STATE_INITIALIZED,
    LinkError,
    NoResponse,
    NotReached,
    Refused,
)
from fiskal.scu.drivers.diebold_nixdorf.options import PRODUCTION_CLIENT
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
from fiskal.tse.logmessage import LogMessage
from fiskal.tse.tar import TarError

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
LEFT_LOGGED_IN_S: Final = 60.0
"""How long the Admin stays logged in behind an export that nobody erases."""

_TRIES: Final = 3
_AWAY_PAUSE_S: Final = 0.1

_INIT: Final = {"start": 200, "update": 202, "finish": 204}
_END: Final = {"start": 201, "update": 203, "finish": 205}
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


class _Again(Exception):
    """The call was certainly not executed and is worth another try."""

    def __init__(self, error: ScuError, *, away: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.away = away
        """The device could not be reached."""


class DieboldNixdorfTse(Exports):
    """The :class:`fiskal.scu.driver.Driver`."""

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = True
    terminates_uninitialized = False
    filters_exports = True
    erases_with_open_transactions = False

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
            raise _Again(not_available(error), away=True) from error
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
            if error.number not in codes.BEFORE_SIGNING:  # a TSE may store first and report then
                signed = self._found(call, deadline)
                if signed is not None:
                    log.warning("signature %d was made all the same: %s", signed.signature_counter, error)
                    return signed
            raise self._repaired(error, call, deadline) from error
        except NotReached as error:
            raise _Again(not_available(error), away=True) from error
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
                if isinstance(error, Refused) and error.number == codes.SELF_TEST_REQUIRED:
                    with contextlib.suppress(LinkError, Unreachable):
                        self._test(deadline, initialized=True)
                time.sleep(min(0.05, deadline.remaining()))
            except OutcomeUnknown:
                raise
            except (
                ScuError
            ) as error:  # the call may have been executed, whatever stands in the way of looking
                raise OutcomeUnknown(
                    error.code, error.message, transaction_number=call.transaction_number or None
                ) from error
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

    # ---- state, clients -----------------------------------------------------------------------------

    def info(self, deadline: Deadline | None) -> TseInfo:
        try:
            return self._repairing(deadline, lambda: self._info(deadline))
        except Refused as error:
            raise codes.refusal(error.number) from error
        except NotReached as error:
            raise not_available(error) from error
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

    # ---- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        if self._link.transport.connections == self._connection:
            for user in list(self._logged_in):
                self._log_out(user)
        self._closed = True
        self._link.transport.close()
