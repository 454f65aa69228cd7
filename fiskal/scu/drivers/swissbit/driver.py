"""The :class:`fiskal.scu.driver.Driver` of a Swissbit TSE 1.x over its own blocks, without the vendor's library.

Signing is open, write the process data, close. Only the close signs: what fails before it is repeated, and a close
without an answer is looked up in the TSE's own log before anything is repeated (tse-swissbit §11.4).
"""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.clock import Clock, from_unix, now, to_unix
from fiskal.frames.swissbit import BLOCK, MAX_CLIENT_ID_BYTES, Closed, Event, FrameError, Info, User
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.swissbit import cards, tail
from fiskal.scu.drivers.swissbit.card import Card
from fiskal.scu.drivers.swissbit.cards import Act, CardError
from fiskal.scu.drivers.swissbit.generation import refuse_raw
from fiskal.scu.drivers.swissbit.media import Medium
from fiskal.scu.drivers.swissbit.options import Options
from fiskal.scu.drivers.swissbit.setup import commission
from fiskal.scu.drivers.swissbit.users import Guard
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.scu.refusals import client_not_registered, transaction_not_open
from fiskal.scu.transports import Garbled, NoAnswer, NotSent, TransportError
from fiskal.scu.transports.mailbox import DeviceLock, InUse, Replaced
from fiskal.tse.certificates import CertificateError, load_certificates
from fiskal.tse.logmessage import LogMessage
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

UNKNOWN_MAXIMUM: Final = 2**63 - 1
MAX_OPEN: Final = 512
MAX_ACTIONS: Final = 4
REOPEN_PATIENCE_S: Final = 5.0
"""How long a device that went away during a call is waited for, within the deadline."""
CLOCK_TOLERANCE_S: Final = 60
EXPORT_RETRIES: Final = 20
MARK_EVERY: Final = 64
_EVENTS: Final = {"start": Event.START, "update": Event.UPDATE, "finish": Event.FINISH}
_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9 '()+,\-.=_]+")
_STATES: Final = {0: TseStates.UNINITIALIZED, 1: TseStates.INITIALIZED, 2: TseStates.TERMINATED}
_T = TypeVar("_T")


class _NothingSigned(Exception):
    """A transaction call broke off before the close: it may be repeated."""


class _Uncertain(Exception):
    """The close was sent and no answer came."""


class _Mark(NamedTuple):
    """How far the log went when it was seen last: bytes of the archive, and the last signatureCounter, 0 if unknown."""

    tar_bytes: int
    counter: int


class SwissbitDriver:
    """Drives the device that ``medium()`` opens. ``folder`` is for what must be remembered: wrong PINs, certificates.

    Connects at the first call and again whenever the device was away. ``sleep`` waits.
    """

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = True
    terminates_uninitialized = False
    filters_exports = False
    erases_with_open_transactions = False

    def __init__(
        self,
        medium: Callable[[], Medium],
        options: Options,
        *,
        folder: Path | None = None,
        clock: Clock = now,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        options.check()
        self._options = options
        self._open_medium = medium
        self._folder = folder
        self._clock = clock
        self._sleep = sleep
        self._monotonic = monotonic
        self._card: Card | None = None
        self._lock: DeviceLock | None = None
        self._serial: bytes | None = None if options.serial is None else bytes.fromhex(options.serial)
        self._guard: Guard | None = None
        self._users: set[User] = set()
        self._proven: set[User] = set()
        """Users whose PIN the device has accepted."""
        self._unanswered: set[User] = set()
        """Users whose login got no answer."""
        self._time_due = self._time_end = 0.0
        self._prepared = False
        """Self test and time were looked at since the device was opened."""
        self._mark: _Mark | None = None
        self._unmarked = 0
        """Signatures since the mark was moved."""
        self._last_log_time = 0
        self._clients: list[str] | None = None
        self._certificates: list[bytes] | None = None
        self._starts: dict[int, int] = {}
        self._settled = False

    # ---- connecting ---------------------------------------------------------------------------

    def _same_device(self) -> bool:
        assert self._card is not None
        info = self._card.info()
        if self._serial is None:
            return True
        if info.serial != self._serial:
            return False
        if not info.self_test_passed or not info.time_valid:
            self._forget_power()
        return True

    def _forget_power(self) -> None:
        """The device may have been without power: nobody is logged in, self test and time are to be looked at."""
        self._users.clear()
        self._prepared = False

    def _connect(self) -> Card:
        """Open the device if it is not open, and make sure whose it is. Raises ScuError; nothing was executed."""
        if self._card is not None:
            return self._card
        try:
            medium = self._open_medium()
        except TransportError as error:
            raise _unreachable(error) from error
        card = Card(medium, self._options, self._same_device)
        try:
            info = card.info()
            self._check_serial(info, medium.name)
            refuse_raw(info, medium.name)
            self._claim(info)
        except (OSError, TransportError, FrameError) as error:
            card.close()
            raise _unreachable(error) from error
        except BaseException:
            card.close()
            raise
        self._card = card
        self._forget_power()
        if self._mark is None and info.tar_bytes:
            self._mark = _Mark(info.tar_bytes, 0)
        return card

    def _check_serial(self, info: Info, place: str) -> None:
        if self._serial is not None and info.serial != self._serial:
            raise Misconfigured(
                "WRONG_TSE",
                f"The TSE at {place} has the serial number {info.serial.hex()}, but {self._serial.hex()} is "
                "configured.",
            )

    def _claim(self, info: Info) -> None:
        """Take the device for this process alone."""
        if self._lock is None:
            try:
                self._lock = DeviceLock(f"swissbit-{info.serial.hex()}", self._options.lock_directory)
            except InUse as error:
                raise Misconfigured("DEVICE_IN_USE", str(error)) from error
        if self._serial is None or self._guard is None:
            self._serial = info.serial
            self._guard = Guard(self._folder, info.serial.hex(), last_try=self._options.last_try)

    def _drop(self) -> None:
        """Give the device up until the next call."""
        card, self._card = self._card, None
        self._clients = None
        if card is not None:
            with contextlib.suppress(OSError):
                card.close()

    # ---- the envelope of every operation ------------------------------------------------------

    def _call(
        self,
        operation: Callable[[Card], _T],
        deadline: Deadline | None,
        *,
        user: User | None = None,
        changes: bool = False,
    ) -> _T:
        """Run an operation that signs no transaction and may be repeated: once, if it gets no answer.

        Raises ScuError; what ``changes`` the device and got no answer has an unknown outcome.
        """
        for last in (False, True):
            card = self._connect()
            try:
                return self._mended(partial(operation, card), deadline, user=user)
            except CardError as error:
                if error.act is Act.REOPEN:
                    self._drop()
                raise error.scu_error() from error
            except Replaced as error:
                self._drop()
                raise Misconfigured("WRONG_TSE", str(error)) from error
            except NotSent as error:
                self._drop()
                if last or (deadline is not None and deadline.expired):
                    raise _unreachable(error) from error
            except (NoAnswer, Garbled, FrameError, OSError) as error:
                self._drop()
                if last or (deadline is not None and deadline.expired):
                    if changes:
                        raise OutcomeUnknown("NO_RESPONSE", f"The TSE did not answer: {error}") from error
                    raise _unreachable(error) from error
            self._wait_for_device(deadline)
        raise AssertionError

    def _mended(
        self, operation: Callable[[], _T], deadline: Deadline | None, *, user: User | None = None
    ) -> _T:
        """Run ``operation``, and again after doing what its error asks for: each remedy once (tse-swissbit §10.3).

        Raises the CardError that no remedy is left for.
        """
        tried: set[Act] = set()
        while True:
            try:
                return operation()
            except CardError as error:
                act = error.act
                if act in tried or len(tried) >= MAX_ACTIONS:
                    raise
                tried.add(act)
                if not self._remedy(act, error, user, deadline):
                    raise
                log.info("%s; did what it asks for and repeat it", error)

    def _remedy(self, act: Act, error: CardError, user: User | None, deadline: Deadline | None) -> bool:
        if act is Act.LOGIN:
            self._users.clear()
            self._log_in(User.TIME_ADMIN if user is None else user, deadline)
        elif act is Act.TIME:
            self._set_time(deadline)
        elif act is Act.SELF_TEST:
            self._users.clear()
            self._run_self_test(deadline)
            self._set_time(deadline)
        elif act is Act.CTSS:
            self._switch_ctss_on(deadline)
        else:
            return False
        return True

    # ---- users --------------------------------------------------------------------------------

    def _secret(self, user: User) -> bytes:
        name = "admin_pin" if user is User.ADMIN else "time_admin_pin"
        pin = self._options.admin_pin if user is User.ADMIN else self._options.time_admin_pin
        if pin is None:
            what = (
                "Registering clients, listing and initialising" if user is User.ADMIN else "Setting the time"
            )
            raise Misconfigured("AUTH_FAILED", f"{what} needs the option {name}, which is not configured.")
        return pin.encode("ascii")

    def _log_in(self, user: User, deadline: Deadline | None) -> None:
        """Log a user in, once; a PIN that is wrong is never sent again."""
        if user in self._users:
            return
        assert self._card is not None
        assert self._guard is not None
        pin = self._secret(user)
        name = "Admin PIN" if user is User.ADMIN else "TimeAdmin PIN"
        self._guard.check(name, pin)
        if user in self._unanswered and user not in self._proven and not self._options.last_try:
            raise Misconfigured(
                "AUTH_FAILED",
                f"Logging in with the {name} got no answer, and it was never accepted yet: it is not sent again before "
                "the next start.",
            )
        self._unanswered.add(user)
        try:
            self._mended_self_test_only(lambda: self._card_or_fail().login(user, pin, deadline))
        except CardError as error:
            self._unanswered.discard(user)
            self._guard.refused(name, pin, error)
            refusal = error.scu_error()
            if error.wrong_pin:
                refusal.message += f" {self._guard.tries_left(name)} tries are left."
                refusal.args = (refusal.message,)
            raise refusal from error
        except NotSent:
            self._unanswered.discard(user)
            raise
        self._unanswered.discard(user)
        self._proven.add(user)
        self._guard.accepted(name)
        self._users.add(user)

    def _mended_self_test_only(self, operation: Callable[[], None]) -> None:
        """A login while an export blocks the device is possible again after a self test."""
        try:
            operation()
        except CardError as error:
            if error.code != cards.EXPORT_IN_PROGRESS:
                raise
            self._card_or_fail().self_test(self._management)
            operation()

    def _card_or_fail(self) -> Card:
        assert self._card is not None
        return self._card

    def _log_out(self, user: User, deadline: Deadline | None) -> None:
        """Log a user out where that is possible; otherwise it stays logged in until the device loses power."""
        if not self._options.inferred.logout_command or user not in self._users:
            return
        try:
            self._card_or_fail().logout(user, deadline)
        except CardError as error:
            if error.code != cards.NOT_LOGGED_IN:
                raise
        self._users.discard(user)

    # ---- self test, time, CTSS ----------------------------------------------------------------

    @property
    def _management(self) -> bytes:
        return self._options.management_client.encode("ascii")

    def _run_self_test(self, deadline: Deadline | None) -> None:
        card = self._card_or_fail()
        try:
            self._self_test_twice(card)
        except CardError as error:
            if error.code != cards.CLIENT_NOT_REGISTERED:
                raise
            self._log_in(User.ADMIN, deadline)
            card.register(self._management, deadline)
            card.self_test(self._management)

    def _self_test_twice(self, card: Card) -> None:
        """A self test that fails is repeated once (tse-swissbit §10.2)."""
        try:
            card.self_test(self._management)
        except CardError as error:
            if not 0x1300 <= error.code <= 0x132F:
                raise
            log.warning("%s; it is repeated once", error)
            card.self_test(self._management)

    def _set_time(self, deadline: Deadline | None) -> None:
        unix_s = to_unix(self._clock())
        if unix_s < self._last_log_time - CLOCK_TOLERANCE_S and not self._options.allow_time_back:
            raise Misconfigured(
                "TIME_NOT_SET",
                f"The clock of this computer is {self._last_log_time - unix_s} s behind the last signature of the TSE. "
                "Set it right, or set allow_time_back.",
            )
        self._log_in(User.TIME_ADMIN if self._options.time_admin_pin is not None else User.ADMIN, deadline)
        card = self._card_or_fail()
        try:
            card.set_time(to_unix(self._clock()), deadline)
        except CardError as error:
            if error.act is not Act.LOGIN:
                raise
            self._users.discard(User.TIME_ADMIN)
            self._log_in(User.TIME_ADMIN, deadline)
            card.set_time(to_unix(self._clock()), deadline)
        self._time_valid_for(card.info().time_sync_in_s)
        self._log_out(User.TIME_ADMIN, deadline)

    def _time_valid_for(self, seconds: int) -> None:
        valid = float(seconds) if 0 < seconds <= 7 * 86_400 else self._options.time_valid_s
        moment = self._monotonic()
        self._time_due = moment + valid * self._options.renew_time_at
        self._time_end = moment + valid

    def _switch_ctss_on(self, deadline: Deadline | None) -> None:
        self._log_in(User.ADMIN, deadline)
        self._card_or_fail().enable_ctss(deadline)

    def _prepare(self, deadline: Deadline | None, *, settle: bool = True) -> None:
        """Bring an initialised device to where it signs: self test, time, counter mode (tse-swissbit §9)."""
        card = self._connect()
        if card.restarted:
            card.restarted = False
            self._forget_power()
        if self._prepared:
            return
        info = card.info()
        if info.state != 1:
            return
        if info.importing and settle and not self._settled and info.self_test_passed:
            self._settle_import(deadline)
        self._settled = True
        if not info.self_test_passed:
            self._run_self_test(deadline)
            info = card.info()
        if self._options.inferred.ctss_flag and not info.ctss_active:
            self._switch_ctss_on(deadline)
        if not info.time_valid:
            self._set_time(deadline)
        else:
            self._time_valid_for(info.time_sync_in_s)
        if card.counter is None or not card.strict:
            card.find_counter_mode(deadline)
        info = card.info()
        if self._mark is None:
            self._mark = _Mark(info.tar_bytes, 0)
        self._prepared = True

    def _settle_import(self, deadline: Deadline | None) -> None:
        """An import that a process before this one left open."""
        if self._options.inferred.open_replaces_import:
            return
        try:
            closed = self._card_or_fail().close_transaction(deadline)
        except CardError as error:
            if error.code not in (cards.NOT_ENOUGH_DATA, cards.NO_IMPORT):
                raise
        else:
            log.warning(
                "an import that was left open became log entry %d of transaction %d",
                closed.counter,
                closed.number,
            )

    # ---- transactions -------------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._transact(call, deadline)
        self._starts[signed.transaction_number] = signed.time_stamp
        return signed

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._transact(call, deadline)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._transact(call, deadline)
        started = self._starts.pop(call.transaction_number, None)
        if started is None:
            started = self._start_time(call.transaction_number)
        return _with_start(signed, started)

    def _transact(self, call: Call, deadline: Deadline | None) -> Signed:
        """Execute a transaction call exactly once, as far as that can be found out. Raises ScuError."""
        uncertain = False
        for last in (False, True):
            try:
                self._ready_to_sign(call, deadline, uncertain)
                return self._mended(lambda: self._sign(call, deadline), deadline)
            except CardError as error:
                raise self._refusal(error, call) from error
            except Replaced as error:
                self._drop()
                raise Misconfigured("WRONG_TSE", str(error)) from error
            except _NothingSigned as error:
                self._drop()
                if last or (deadline is not None and deadline.expired):
                    raise _unreachable(error) from error
                log.warning("the TSE went away before it signed; the %s is repeated: %s", call.op, error)
                self._wait_for_device(deadline)
            except (NotSent, NoAnswer, Garbled, FrameError, OSError) as error:
                self._drop()  # while the device was made ready: nothing was signed
                if last or (deadline is not None and deadline.expired):
                    raise _unreachable(error) from error
                self._wait_for_device(deadline)
            except _Uncertain as error:
                found = self._recover(call, error, deadline)
                if found is not None:
                    return found
                if last:
                    raise Unreachable(
                        "NO_RESPONSE", f"The TSE executed the {call.op} twice not: {error}"
                    ) from error
                log.warning("the TSE did not execute the %s, which is repeated", call.op)
                uncertain = True
        raise AssertionError

    def _ready_to_sign(self, call: Call, deadline: Deadline | None, again: bool) -> None:
        """Self test and time as they must be; the time is set anew before a start, while nobody waits to pay."""
        try:
            self._prepare(deadline, settle=not again)
            moment = self._monotonic()
            if moment >= (self._time_due if call.op == "start" else self._time_end):
                self._set_time(deadline)
        except CardError as error:
            raise error.scu_error() from error

    def _sign(self, call: Call, deadline: Deadline | None) -> Signed:
        """One attempt. Raises CardError, _NothingSigned or _Uncertain."""
        card = self._connect()
        client, kind = _bytes_of(call)
        event = _EVENTS[call.op]
        block = self._open(card, event, client, call, kind, deadline)
        try:
            card.write_data(block, call.process_data)
        except (OSError, TransportError) as error:
            raise _NothingSigned(str(error)) from error
        closed = self._close(card, block, call, deadline)
        return self._accept(call, closed)

    def _open(
        self, card: Card, event: Event, client: bytes, call: Call, kind: bytes, deadline: Deadline | None
    ) -> int:
        def opened() -> int:
            return card.open_transaction(
                event, client, call.transaction_number, len(call.process_data), kind, deadline
            )

        try:
            try:
                return opened()
            except CardError as error:
                if error.code != cards.CMD_NOT_ALLOWED:
                    raise
                self._run_self_test(deadline)  # which ends an import that was left open
                return opened()
        except Replaced:
            raise
        except (NotSent, NoAnswer, Garbled, FrameError) as error:
            raise _NothingSigned(str(error)) from error

    def _close(self, card: Card, block: int, call: Call, deadline: Deadline | None) -> Closed:
        began = self._monotonic()
        pause, rewritten = 0.005, False
        while True:
            try:
                return card.close_transaction(deadline)
            except CardError as error:
                if error.code == cards.NO_IMPORT:
                    raise _NothingSigned(str(error)) from error
                if error.code != cards.NOT_ENOUGH_DATA:
                    raise
                if self._monotonic() - began >= self._options.data_late_s:
                    if rewritten:
                        raise
                    rewritten, began, pause = True, self._monotonic(), 0.005
                    try:
                        card.write_data(block, call.process_data)
                    except (OSError, TransportError) as fault:
                        raise _NothingSigned(str(fault)) from fault
                self._sleep(pause)
                pause = min(2 * pause, 0.2)
            except Replaced:
                raise
            except NotSent as error:
                raise _NothingSigned(str(error)) from error
            except (NoAnswer, Garbled, FrameError) as error:
                raise _Uncertain(str(error)) from error

    def _accept(self, call: Call, closed: Closed) -> Signed:
        """Take over an answer that fits the call; one that does not is none (tse-swissbit §6.2)."""
        fault = ""
        if call.op != "start" and closed.number != call.transaction_number:
            fault = f"it is of transaction {closed.number}"
        elif closed.serial != self._serial:
            fault = f"it comes from TSE {closed.serial.hex()}"
        elif self._mark is not None and closed.counter <= self._mark.counter:
            fault = f"its signatureCounter {closed.counter} was there before"
        if fault:
            raise _Uncertain(f"The answer is not the one to this {call.op}: {fault}.")
        self._move_mark(closed.counter)
        self._last_log_time = max(self._last_log_time, closed.log_time)
        return Signed(closed.number, closed.counter, from_unix(closed.log_time), closed.signature)

    def _move_mark(self, counter: int) -> None:
        """Note the last signature; now and then also how far the log goes, so that little has to be searched."""
        tar_bytes = 0 if self._mark is None else self._mark.tar_bytes
        self._unmarked += 1
        if self._unmarked >= MARK_EVERY:
            with contextlib.suppress(OSError, TransportError, FrameError):
                tar_bytes = max(tar_bytes, self._card_or_fail().info().tar_bytes)
                self._unmarked = 0
        self._mark = _Mark(tar_bytes, counter)

    def _refusal(self, error: CardError, call: Call) -> ScuError:
        if error.code == cards.CLIENT_NOT_REGISTERED:
            self._clients = None
            return client_not_registered(call.client_id)
        if error.code == cards.NOT_STARTED and call.op != "start":
            return transaction_not_open(call.transaction_number)
        return error.scu_error(call.transaction_number or None)

    def _wait_for_device(self, deadline: Deadline | None) -> None:
        """Wait until the device can be opened, a while and not beyond the deadline."""
        until = self._monotonic() + REOPEN_PATIENCE_S
        while True:
            try:
                self._connect()
                return
            except Unreachable:
                if self._monotonic() >= until or (deadline is not None and deadline.remaining() < 0.1):
                    raise
                self._sleep(0.02)

    # ---- lost answers -------------------------------------------------------------------------

    def _recover(self, call: Call, error: _Uncertain, deadline: Deadline | None) -> Signed | None:
        """Look a call up in the log of the TSE: its answer, or None if it certainly was not executed.

        Raises OutcomeUnknown.
        """
        self._drop()
        try:
            self._wait_for_device(deadline)
            self._prepare(deadline, settle=False)
            end = self._card_or_fail().info().tar_bytes
            mark = self._mark or _Mark(0, 0)
            if end < mark.tar_bytes:
                raise OutcomeUnknown(
                    "NO_RESPONSE",
                    f"The log of the TSE was erased after a {call.op} without an answer: {error}",
                )
            found = None
            for message in self._messages(mark.tar_bytes, end):
                if message.signature_counter > mark.counter and tail.is_of(
                    message, call, call.transaction_number or None
                ):
                    found = message
            if found is not None:
                self._mark = _Mark(end, found.signature_counter)
                return _from_log(found, call)
            if call.op != "start" and call.transaction_number not in self._open_numbers(deadline):
                raise OutcomeUnknown(
                    "NO_RESPONSE",
                    f"Transaction {call.transaction_number} is not open any more, and its log entry was not found.",
                    transaction_number=call.transaction_number,
                )
        except OutcomeUnknown:
            raise
        except (ScuError, CardError, TransportError, FrameError, OSError) as fault:
            self._drop()
            raise OutcomeUnknown(
                "NO_RESPONSE",
                f"The TSE did not answer a {call.op}, and could not be asked what became of it: {fault}",
                transaction_number=call.transaction_number or None,
            ) from fault
        return None

    def _open_numbers(self, deadline: Deadline | None) -> list[int]:
        return self._card_or_fail().open_numbers(deadline)

    def _messages(self, begin: int, end: int) -> list[LogMessage]:
        """The log messages between two places of the archive, at most ``tail_bytes`` before its end."""
        assert self._serial is not None
        begin = max(begin, end - self._options.tail_bytes) // BLOCK * BLOCK
        found: list[LogMessage] = []
        rest = b""
        while begin < end:
            length = min(self._options.export_slice_bytes, -(-(end - begin) // BLOCK) * BLOCK)
            data = rest + self._card_or_fail().medium.read_store(begin // BLOCK, length // BLOCK)
            begin += length
            cut = len(data) if begin >= end else _last_whole(data)
            found += tail.messages(data[:cut], self._serial)
            rest = data[cut:]
        return found

    def _start_time(self, number: int) -> int | None:
        """When a transaction was started, from the log; None if that is not within reach."""
        try:
            end = self._card_or_fail().info().tar_bytes
            for message in reversed(self._messages(0, end)):
                if tail.is_start(message, number):
                    return message.log_time
        except (OSError, TransportError, FrameError) as error:
            log.warning("the start of transaction %d could not be looked up: %s", number, error)
        return None

    def recall(self, call: Call) -> Remembered | None:
        raise AssertionError("this TSE does not remember calls")

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        """Find a call of this or an earlier process in the log.

        A lost start is a transaction that is open, was not before, and was started with the same data by the same
        client; an update or finish is the log entry of its number with the same data.
        """

        def look(card: Card) -> Signed | Verdict:
            numbers = card.open_numbers(deadline)
            messages = [
                message
                for message in self._messages(0, card.info().tar_bytes)
                if tail.is_of(message, call, call.transaction_number or None)
            ]
            if call.op == "start":
                known = open_before or frozenset()
                lost = [
                    m
                    for m in messages
                    if m.transaction_number in numbers and m.transaction_number not in known
                ]
                if not lost:
                    return Verdict.NOT_EXECUTED
                return _from_log(lost[0], call) if len(lost) == 1 else Verdict.STILL_UNKNOWN
            if messages:
                signed = _from_log(messages[-1], call)
                if call.op == "finish":
                    return _with_start(signed, self._start_time(call.transaction_number))
                return signed
            return Verdict.NOT_EXECUTED if call.transaction_number in numbers else Verdict.STILL_UNKNOWN

        self._prepared_or_fail(deadline)
        return self._call(look, deadline)

    def _prepared_or_fail(self, deadline: Deadline | None) -> None:
        """:meth:`_prepare` outside of a transaction. Raises ScuError."""
        self._call(lambda card: self._prepare(deadline), deadline)

    # ---- state --------------------------------------------------------------------------------

    def info(self, deadline: Deadline | None) -> TseInfo:
        info = self._call(lambda card: card.info(), deadline)
        ready = info.state == 1
        if ready:
            self._prepared_or_fail(deadline)
            info = self._call(lambda card: card.info(), deadline)
        numbers = self._call(lambda card: card.open_numbers(deadline), deadline) if ready else []
        clients = self._client_list(info, deadline) if ready else []
        certificates = self._certificate_list(info, deadline) if info.state in (1, 2) else []
        inferred = self._options.inferred
        maximum_open = (
            info.max_started if inferred.max_started_field and 0 < info.max_started <= 65_535 else 0
        )
        capacity = info.capacity_blocks if inferred.capacity_field else 0
        hardware = _version(info.hardware) if inferred.hardware_field and info.hardware else "unknown"
        assert self._serial is not None
        guard = self._guard
        assert guard is not None
        return TseInfo(
            max_number_of_clients=info.max_clients,
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=maximum_open or MAX_OPEN,
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=info.max_signatures,
            current_number_of_signatures=info.signatures,
            max_log_memory_size=capacity * BLOCK
            if capacity >= info.size_blocks and capacity
            else UNKNOWN_MAXIMUM,
            current_log_memory_size=info.size_blocks * BLOCK,
            current_state=_STATES.get(info.state, TseStates.UNINITIALIZED),
            firmware_identification=(
                f"Formatfactor: unknown; Software Version: {'.'.join(map(str, info.software))}; "
                f"Hardware Version: {hardware}"
            ),
            certification_identification=info.description.decode("ascii", "replace"),
            signature_algorithm="ecdsa-plain-SHA384" if info.key_length == 97 else "ecdsa-plain-SHA256",
            log_time_format="unixTime",
            serial_number_octet=info.serial.hex(),
            public_key_base64=base64.b64encode(info.key).decode("ascii"),
            certificates_base64=[base64.b64encode(der).decode("ascii") for der in certificates],
            info={
                "backend": "raw",
                "place": self._card_or_fail().medium.name,
                "certificate_end_unix": str(info.certificate_end),
                "self_test_in_s": str(info.self_test_in_s),
                "time_sync_in_s": str(info.time_sync_in_s),
                "counter_mode": "strict" if self._card_or_fail().strict else "lenient",
                "admin_pin_tries_left": str(guard.tries_left("Admin PIN")),
                "time_admin_pin_tries_left": str(guard.tries_left("TimeAdmin PIN")),
            },
        )

    def _client_list(self, info: Info, deadline: Deadline | None) -> list[str]:
        """The registered clients. The device lists them to the Admin only; without its PIN what is configured is it."""
        if self._options.admin_pin is None:
            known = dict.fromkeys([*self._options.registered_clients, self._options.management_client])
            return list(known)
        if self._clients is None or len(self._clients) != info.clients:

            def listed(card: Card) -> list[bytes]:
                self._log_in(User.ADMIN, deadline)
                return card.clients(deadline)

            self._clients = [
                client.decode("latin-1") for client in self._call(listed, deadline, user=User.ADMIN)
            ]
            self._call(lambda card: self._log_out(User.ADMIN, deadline), deadline)
        return list(self._clients)

    def _certificate_list(self, info: Info, deadline: Deadline | None) -> list[bytes]:
        """The certificates as DER, leaf first. They never change, so they are read once."""
        if self._certificates is None:
            try:
                pem = self._call(lambda card: card.certificate(deadline), deadline)
                self._certificates = [
                    certificate.public_bytes(Encoding.DER) for certificate in load_certificates(pem)
                ]
            except (CertificateError, ValueError) as error:
                log.warning("the certificates of TSE %s cannot be read: %s", info.serial.hex(), error)
                return []
            except TseRejected as error:
                log.warning("TSE %s does not show its certificates: %s", info.serial.hex(), error)
                return []
        return self._certificates

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        if target is TseStates.TERMINATED:
            raise NotSupported(
                "NOT_IMPLEMENTED",
                "Decommissioning a Swissbit TSE has no publicly known command: it needs the vendor's library "
                "for that, which this version does not drive.",
            )
        self._call(
            lambda card: commission(card, self._options, self._guard, self._folder, self._clock),
            None,
            changes=True,
        )
        self._forget_power()
        self._clients = None
        self._prepared_or_fail(deadline)

    def validate_client_id(self, client_id: str) -> None:
        if len(client_id) > MAX_CLIENT_ID_BYTES or not _CLIENT_ID.fullmatch(client_id):
            raise ClientError(
                "INVALID_CLIENT_ID",
                f"The client id {client_id!r} must have 1 to {MAX_CLIENT_ID_BYTES} characters out of A-Z a-z 0-9 space "
                "' ( ) + , - . = _.",
            )

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        self._administer(lambda card: card.register(client_id.encode("ascii"), deadline), deadline)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        self._administer(lambda card: card.deregister(client_id.encode("latin-1"), deadline), deadline)

    def _administer(self, operation: Callable[[Card], None], deadline: Deadline | None) -> None:
        def as_admin(card: Card) -> None:
            self._log_in(User.ADMIN, deadline)
            operation(card)

        self._prepared_or_fail(deadline)
        self._clients = None
        self._call(as_admin, deadline, user=User.ADMIN, changes=True)

    def set_time(self, deadline: Deadline | None) -> None:
        info = self._call(lambda card: card.info(), deadline)
        if info.state == 1:
            self._prepared_or_fail(deadline)
            self._call(lambda card: self._set_time(deadline), deadline)

    def self_test(self, deadline: Deadline | None) -> None:
        def tested(card: Card) -> None:
            try:
                self._run_self_test(deadline)
            except CardError as error:
                if error.code == cards.CLIENT_NOT_REGISTERED and card.info().state == 0:
                    return  # a new device has no client yet: that it answers is all it can show
                raise
            if card.info().state == 1:
                self._set_time(deadline)

        info = self._call(lambda card: card.info(), deadline)
        if info.state == 0:
            self._call(self._first_self_test, deadline)
            return
        self._call(tested, deadline)

    def _first_self_test(self, card: Card) -> None:
        """Of a device that was never initialised: it has no client yet, which is all it complains about."""
        try:
            card.self_test(self._management)
        except CardError as error:
            if error.code not in (cards.CLIENT_NOT_REGISTERED, 0x1055):
                raise

    def unblock(self, user: User, puk: str, new_pin: str, deadline: Deadline | None) -> None:
        """Set a new PIN with the PUK, which three wrong tries of end the device. Raises ScuError."""

        def unblocked(card: Card) -> None:
            assert self._guard is not None
            self._guard.check("PUK", puk.encode("ascii"))
            try:
                card.unblock(user, puk.encode("ascii"), new_pin.encode("ascii"), deadline)
            except CardError as error:
                self._guard.refused("PUK", puk.encode("ascii"), error)
                raise
            self._guard.accepted("PUK")
            self._guard.accepted("Admin PIN" if user is User.ADMIN else "TimeAdmin PIN")

        self._call(unblocked, deadline, changes=True)

    # ---- export -------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        """The archive as it lies in the store, slice by slice; a device that went away is waited for and read on."""
        if not selection.whole:
            raise NotSupported("NOT_IMPLEMENTED", "This TSE can only export its whole log.")
        with turn():
            self._call(lambda card: self._prepare(None), None)
            end = self._call(lambda card: card.info(), None).tar_bytes
            serial = self._serial
        assert serial is not None
        at, last, failures = 0, b"", 0
        while at < end:
            length = min(self._options.export_slice_bytes, end - at)
            blocks = -(-length // BLOCK)
            with turn():
                try:
                    data = self._connect().medium.read_store(at // BLOCK, blocks)[:length]
                except (OSError, TransportError, Unreachable) as error:
                    failures += 1
                    if failures > EXPORT_RETRIES:
                        raise TseRejected("EXPORT_FAILED", f"The log cannot be read: {error}.") from error
                    self._drop()
                    data = b""
            if not data:
                self._sleep(min(0.01 * 2**failures, 1.0))
                continue
            out.write(data)
            at += length
            last = (last + data)[-(1 << 17) :]
        if not last.endswith(bytes(2 * BLOCK)):
            out.write(bytes(2 * BLOCK))
        return max(
            (message.signature_counter for message in tail.messages(_aligned(last, at), serial)), default=0
        )

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        raise NotSupported(
            "NOT_IMPLEMENTED",
            "Erasing the log of a Swissbit TSE has no publicly known command: it needs the vendor's library "
            "for that, which this version does not drive.",
        )

    def close(self) -> None:
        self._drop()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


def _bytes_of(call: Call) -> tuple[bytes, bytes]:
    """Client and process type as the device gets them. Raises ClientError for what it has no room for."""
    try:
        client, kind = call.client_id.encode("latin-1"), call.process_type.encode("utf-8")
    except UnicodeEncodeError as error:
        raise client_not_registered(call.client_id) from error
    if not 1 <= len(client) <= MAX_CLIENT_ID_BYTES:
        raise client_not_registered(call.client_id)
    if len(kind) > 400:
        raise ClientError("INVALID_PROCESS_DATA", f"ProcessType has {len(kind)} bytes, at most 400 fit.")
    return client, kind


def _from_log(message: LogMessage, call: Call) -> Signed:
    """The answer to a call as its log entry gives it."""
    number = message.transaction_number if call.op == "start" else call.transaction_number
    assert number is not None
    return Signed(
        number,
        message.signature_counter,
        message.log_time,
        message.signature,
        log_message=message.raw,
    )


def _with_start(signed: Signed, start: int | None) -> Signed:
    return Signed(
        signed.transaction_number,
        signed.signature_counter,
        signed.time_stamp,
        signed.signature,
        start,
        signed.log_message,
    )


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable("TSE_NOT_AVAILABLE", f"The TSE is not available. {error}")


def _version(value: int) -> str:
    return f"{value >> 16}.{value >> 8 & 0xFF}.{value & 0xFF}"


def _last_whole(data: bytes) -> int:
    """Where the last entry of a stretch begins, so that the next stretch has all of it; the end if there is none."""
    begin = len(data)
    for entry in tail.entries(data):
        begin = entry.offset + BLOCK + -(-len(entry.data) // BLOCK) * BLOCK
    return begin if len(data) - begin < (1 << 17) else len(data)


def _aligned(last: bytes, end: int) -> bytes:
    """The end of an archive from a block's beginning on."""
    return last[-(len(last) // BLOCK * BLOCK) :] if end % BLOCK == 0 else last
