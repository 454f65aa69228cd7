"""The vendor-neutral part of a signature creation unit: ``ScuCore`` makes a driver an ``Scu``.

Whatever is the same for two TSEs is here: one lock per TSE, the order of the checks and their texts, the
client registry, what may be cached, idempotency, and what an error means.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, NoReturn, TypeVar

import msgspec
from cryptography import x509

from fiskal.clock import Clock, from_unix, now
from fiskal.errors import ConfigurationError, FiskalError
from fiskal.scu.callstore import CallState, CallStore
from fiskal.scu.contract import (
    EMPTY_GUID,
    Deadline,
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    ExportDataResponse,
    FinishTransactionRequest,
    FinishTransactionResponse,
    RegisterClientIdRequest,
    RegisterClientIdResponse,
    ScuDeEchoRequest,
    ScuDeEchoResponse,
    StartExportSessionByTimeStampRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    StartExportSessionResponse,
    StartTransactionRequest,
    StartTransactionResponse,
    TseInfo,
    TseSignatureData,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
    UnregisterClientIdResponse,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.driver import Call, Driver, Op, Selection, Signed, Verdict, request_sha256
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    SignatureMismatch,
    TseRejected,
    Unreachable,
)
from fiskal.scu.exports import ExportSessions, ExportSettings, Session
from fiskal.scu.refusals import (
    certificate_expired,
    client_has_open_transactions,
    client_limit,
    client_not_registered,
    terminated,
    transaction_not_open,
    wrong_state,
)
from fiskal.scu.scheduler import Scheduler, Urgency
from fiskal.scu.signcheck import MODES, Mode, SignTimeCheck, key_fault, mismatch
from fiskal.tse.algorithms import AlgorithmNotSupported, KeyNotUsable
from fiskal.tse.certificates import CertificateError, load_certificates
from fiskal.tse.tar import Sink
from fiskal.tse.verify import SignatureCheck

log = logging.getLogger(__name__)

MAX_QUEUE_ITEM_ID_CHARACTERS: Final = 64
"""A GUID has 36; longer ones are refused."""

Observer = Callable[[Op, int, int, bool], None]
"""Told of every transaction call that had its turn, in the caller's thread and after the turn: what it was, how
long it waited for its turn and how long it had it (both in nanoseconds), and whether it was answered."""

_NEVER: Final = float("-inf")
_T = TypeVar("_T")


class ScuCore:
    """The :class:`fiskal.scu.contract.Scu` over one driver.

    ``calls`` remembers calls for drivers that cannot do so themselves; such a driver without it raises
    :class:`fiskal.errors.ConfigurationError`. ``signature_check`` is what becomes of an answer whose signature
    does not hold (:data:`fiskal.scu.signcheck.Mode`); None is ``failed_mode``. ``info_cache_s``
    is how long a transaction call may rely on the state, clients and open numbers seen last; ``lock_timeout_s`` how
    long a call without a deadline waits for its turn.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        calls: CallStore | None = None,
        clock: Clock = now,
        signature_check: Mode | None = None,
        info_cache_s: float = 60.0,
        lock_timeout_s: float = 60.0,
        exports: ExportSettings | None = None,
    ) -> None:
        if calls is None and not driver.remembers_calls:
            raise ConfigurationError("This TSE does not remember its calls: give ScuCore a call store.")
        self.observer: Observer | None = None
        self._driver = driver
        self._calls = None if driver.remembers_calls else calls
        self._clock = clock
        self._info_cache_s = info_cache_s
        self._lock_timeout_s = lock_timeout_s
        self.scheduler = Scheduler()
        """The line in front of the TSE, and what it measured."""
        self.self_tested_at: int | None = None
        """When a self test passed last (ticks); None if none has since this object was made."""
        self._waited_ns = 0
        """What the calls of a block waited ahead of it, for the observer of the first one."""
        self._closed = False
        self._exports = ExportSessions(exports or ExportSettings(), self._export)
        self._check_mode: Mode = "off"
        self._check: SignTimeCheck | None = None

        self._seen_at = _NEVER
        self._info: TseInfo | None = None
        self._state = TseStates.UNINITIALIZED
        self._clients: set[str] = set()
        self._open: dict[int, tuple[str | None, int | None]] = {}  # number: client, start time
        self._expires_at: int | None = None
        self._serial = self._algorithm = self._public_key = self._time_format = ""
        self.check_signatures(signature_check)

    def check_signatures(self, mode: Mode | None) -> None:
        """Choose what becomes of signatures that do not hold, before the first call; as ``signature_check``."""
        if mode is None:
            mode = "failed_mode"
        if mode not in MODES:
            raise ConfigurationError(f"signature_check is {mode!r}; it is one of {', '.join(MODES)}")
        self._check_mode = mode
        self._info = None  # the TSE is looked at anew
        self._seen_at = _NEVER

    deduplicates = True
    """A call that comes again with IsRetry and its QueueItemId is answered, not executed a second time."""

    @property
    def in_process(self) -> bool:
        """The TSE computes in this process."""
        return self._driver.key_in_process

    @property
    def computes_only(self) -> bool:
        """Transaction calls wait for nothing but their turn."""
        return self._driver.computes_only

    # ---- turns ------------------------------------------------------------------------------

    def _enter(self, operation: str, urgency: Urgency, client_id: str, deadline: Deadline | None) -> None:
        """Wait for this call's turn; on return the TSE is this thread's until the scheduler is left."""
        self.scheduler.enter(operation, urgency, client_id, deadline, self._lock_timeout_s)
        if self._closed or (deadline is not None and deadline.expired):
            self.scheduler.leave()
            if self._closed:
                raise closed()
            raise Unreachable("BUSY", "The deadline passed before the TSE could be asked.")

    def back_to_back(self, client_id: str, deadline: Deadline | None = None) -> AbstractContextManager[None]:
        """Within the block, calls of this thread follow each other with none of others in between.

        For the start and finish of an implicit receipt, behind which a customer waits. Raises Unreachable.
        """
        return _Block(self, client_id, deadline)

    def _enter_block(self, client_id: str, deadline: Deadline | None) -> None:
        asked_ns = time.perf_counter_ns()
        self._enter("receipt", Urgency.FINISH, client_id, deadline)
        self._waited_ns = time.perf_counter_ns() - asked_ns

    def _leave_block(self) -> None:
        self._waited_ns = 0
        self.scheduler.leave()

    def _administer(self, operation: str, deadline: Deadline | None, action: Callable[[], _T]) -> _T:
        """Run ``action``, which may change the TSE, in its turn; afterwards nothing seen before counts.

        An unexpected error counts as an unknown outcome: these calls lead to a state and may be repeated.
        """
        self._enter(operation, Urgency.INFO, "", deadline)
        return self._act_and_leave(action)

    def _act_and_leave(self, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except ScuError:
            raise
        except Exception as error:
            log.exception("a call to the TSE failed unexpectedly")
            raise OutcomeUnknown("INTERNAL", f"Internal error: {error!r}") from error
        finally:
            self._seen_at = _NEVER
            self.scheduler.leave()

    # ---- what is known of the TSE -----------------------------------------------------------

    def _refresh(self, deadline: Deadline | None) -> TseInfo:
        info = self._driver.info(deadline)
        previous = self._info
        if previous is None or _identity(previous) != _identity(info):
            self._bind(info)
        if previous is None or previous.certificates_base64 != info.certificates_base64:
            self._expires_at = _expiry(info)
        known = self._open
        self._open = {
            number: known.get(number, (None, None)) for number in info.current_started_transaction_numbers
        }
        self._state = info.current_state
        self._clients = set(info.current_client_ids)
        self._info = info
        self._seen_at = time.monotonic()
        return info

    def _bind(self, info: TseInfo) -> None:
        """Take over what does not change during the life of one TSE."""
        self._serial = info.serial_number_octet.lower()
        self._public_key = info.public_key_base64
        self._algorithm = info.signature_algorithm
        self._time_format = info.log_time_format
        if self._calls is not None:
            self._calls.bind(self._serial)
            self._open = dict(self._calls.open_transactions())
        self._check = None
        if self._check_mode != "off":
            try:
                check = SignatureCheck(
                    public_key=base64.b64decode(info.public_key_base64),
                    algorithm=info.signature_algorithm,
                    time_format=info.log_time_format,
                )
            except (AlgorithmNotSupported, KeyNotUsable, ValueError) as error:
                raise Misconfigured("PROTOCOL_ERROR", f"Signatures cannot be verified: {error}") from error
            fault = key_fault(info, check.key)
            if fault and self._check_mode == "failed_mode":
                raise Misconfigured("PROTOCOL_ERROR", f"Nothing is signed: {fault}.")
            self._check = SignTimeCheck(check, fault)

    def _refusal(self, client_id: str, number: int | None) -> TseRejected | None:
        if self._state is not TseStates.INITIALIZED:
            return wrong_state(self._state)
        if client_id not in self._clients:
            return client_not_registered(client_id)
        if number is not None and number not in self._open:
            return transaction_not_open(number)
        return None

    def _require(self, client_id: str, number: int | None, deadline: Deadline | None) -> None:
        """Check state, client and number against what was seen last; ask the TSE once before refusing."""
        fresh = False
        if time.monotonic() - self._seen_at > self._info_cache_s:
            self._refresh(deadline)
            fresh = True
        refusal = self._refusal(client_id, number)
        if refusal is not None and not fresh:
            self._refresh(deadline)
            refusal = self._refusal(client_id, number)
        if refusal is not None:
            raise refusal

    # ---- transactions -----------------------------------------------------------------------

    def start_transaction(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse:
        return self._started(request, self._execute("start", request, 0, deadline))

    def update_transaction(
        self, request: UpdateTransactionRequest, deadline: Deadline | None = None
    ) -> UpdateTransactionResponse:
        return self._updated(request, self._execute("update", request, request.transaction_number, deadline))

    def finish_transaction(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse:
        return self._finished(request, self._execute("finish", request, request.transaction_number, deadline))

    def recall_start(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse | None:
        signed = self._recall("start", request, 0, deadline)
        return None if signed is None else self._started(request, signed)

    def recall_update(
        self, request: UpdateTransactionRequest, deadline: Deadline | None = None
    ) -> UpdateTransactionResponse | None:
        signed = self._recall("update", request, request.transaction_number, deadline)
        return None if signed is None else self._updated(request, signed)

    def recall_finish(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse | None:
        signed = self._recall("finish", request, request.transaction_number, deadline)
        return None if signed is None else self._finished(request, signed)

    def _started(self, request: StartTransactionRequest, signed: Signed) -> StartTransactionResponse:
        return StartTransactionResponse(
            transaction_number=signed.transaction_number,
            time_stamp=signed.time_stamp,
            tse_serial_number_octet=self._serial,
            client_id=request.client_id,
            signature_data=self._signature_data(signed),
        )

    def _updated(self, request: UpdateTransactionRequest, signed: Signed) -> UpdateTransactionResponse:
        return UpdateTransactionResponse(
            transaction_number=request.transaction_number,
            time_stamp=signed.time_stamp,
            tse_serial_number_octet=self._serial,
            client_id=request.client_id,
            process_type=request.process_type,
            process_data_base64=request.process_data_base64,
            signature_data=self._signature_data(signed),
        )

    def _finished(self, request: FinishTransactionRequest, signed: Signed) -> FinishTransactionResponse:
        return FinishTransactionResponse(
            transaction_number=request.transaction_number,
            start_transaction_time_stamp=signed.start_time_stamp,
            time_stamp=signed.time_stamp,
            tse_time_stamp_format=self._time_format,
            tse_serial_number_octet=self._serial,
            client_id=request.client_id,
            process_type=request.process_type,
            process_data_base64=request.process_data_base64,
            signature_data=self._signature_data(signed),
        )

    def _signature_data(self, signed: Signed) -> TseSignatureData:
        return TseSignatureData(
            signature_counter=signed.signature_counter,
            signature_algorithm=self._algorithm,
            signature_base64=binascii.b2a_base64(signed.signature, newline=False).decode("ascii"),
            public_key_base64=self._public_key,
            mismatch=signed.mismatch,
        )

    def _execute(
        self,
        op: Op,
        request: StartTransactionRequest | UpdateTransactionRequest,
        number: int,
        deadline: Deadline | None,
    ) -> Signed:
        call = _call(op, request, number)
        asked_ns = time.perf_counter_ns()
        self._enter(op, Urgency.FINISH if op == "finish" else Urgency.START, call.client_id, deadline)
        entered_ns = time.perf_counter_ns()
        waited_ns, self._waited_ns = self._waited_ns + entered_ns - asked_ns, 0
        answered = began = False
        try:
            if call.queue_item_id and (self._calls is not None or request.is_retry):
                remembered, call = self._remembered(call, request.is_retry, deadline)
                if remembered is not None:
                    answered = True
                    return remembered
            self._require(call.client_id, None if op == "start" else number, deadline)
            if op == "start" and self._expires_at is not None and self._clock() > self._expires_at:
                raise certificate_expired()
            if self._calls is not None and call.queue_item_id:
                self._calls.sent(call, request_sha256(call), self._snapshot(op))
            began = True
            signed = self._send(call, deadline)
            answered = True
            return signed
        except ScuError:
            raise
        except Exception as error:
            self._raise_internal(error, began or request.is_retry)
        finally:
            if not answered:
                self._seen_at = _NEVER
            left_ns = time.perf_counter_ns()
            self.scheduler.leave()
            if self.observer is not None:
                self.observer(op, waited_ns, left_ns - entered_ns, answered)

    def _recall(
        self,
        op: Op,
        request: StartTransactionRequest | UpdateTransactionRequest,
        number: int,
        deadline: Deadline | None,
    ) -> Signed | None:
        """What an earlier execution answered, None if there was none."""
        call = _call(op, request, number)
        if not call.queue_item_id:
            return None
        self._enter("recall", Urgency.INFO, call.client_id, deadline)
        try:
            return self._remembered(call, True, deadline)[0]
        except ScuError:
            raise
        except Exception as error:
            self._raise_internal(error, began=True)
        finally:
            self.scheduler.leave()

    def _snapshot(self, op: Op) -> frozenset[int] | None:
        return frozenset(self._open) if op == "start" and self._driver.needs_open_numbers else None

    @staticmethod
    def _raise_internal(error: Exception, began: bool) -> NoReturn:
        log.error("a call to the TSE failed unexpectedly", exc_info=error)
        kind = OutcomeUnknown if began else Unreachable
        raise kind("INTERNAL", f"Internal error: {error!r}") from error

    def _send(self, call: Call, deadline: Deadline | None) -> Signed:
        """Let the driver execute a call and record what became of it."""
        calls = self._calls if call.queue_item_id else None
        try:
            if call.op == "start":
                signed = self._driver.start(call, deadline)
            elif call.op == "update":
                signed = self._driver.update(call, deadline)
            else:
                signed = self._driver.finish(call, deadline)
        except ScuError as error:
            if calls is not None:
                unknown = isinstance(error, OutcomeUnknown)
                self._note(calls.failed, call, CallState.UNKNOWN if unknown else CallState.FAILED_SAFE)
            raise
        except Exception:
            if calls is not None:
                self._note(calls.failed, call, CallState.UNKNOWN)
            raise
        return self._complete(call, signed)

    def _complete(self, call: Call, signed: Signed, *, remembered: bool = False) -> Signed:
        """Check an answer, remember it, and keep the list of open numbers."""
        calls = self._calls if call.queue_item_id else None
        try:
            signed = self._proven(call, signed, remembered=remembered)
        except SignatureMismatch:
            if calls is not None:
                self._note(calls.failed, call, CallState.UNKNOWN)
            raise
        if call.op == "start":
            self._open[signed.transaction_number] = (call.client_id, signed.time_stamp)
        elif call.op == "finish":
            _, started = self._open.pop(call.transaction_number, (None, None))
            if started is None and signed.start_time_stamp is None and self._calls is not None:
                _, started = self._calls.open_transactions().get(call.transaction_number, (None, None))
            if started is not None and signed.start_time_stamp != started:
                # What start answered is what finish must answer, whatever the vendor thinks.
                signed = msgspec.structs.replace(signed, start_time_stamp=started)
            if signed.start_time_stamp is None:
                log.error("the start time of transaction %d is lost", call.transaction_number)
        if calls is not None:
            self._note(calls.done, call, signed)
        elif self._calls is not None and call.op != "update":
            self._note(self._calls.track, call, signed)
        return signed

    def _proven(self, call: Call, signed: Signed, *, remembered: bool) -> Signed:
        """``signed``, with its mismatch if there is one and it is to be answered all the same. Raises
        SignatureMismatch."""
        if self._check is None:
            return signed
        fault = self._check.fault(call, signed, remembered=remembered)
        if not fault:
            return signed
        assert self._info is not None  # the check was made of it
        found = mismatch(fault, call, signed, self._info)
        log.error("TSE %s: %s", self._serial, found.text)
        if self._check_mode == "failed_mode":
            raise SignatureMismatch(found)
        return msgspec.structs.replace(signed, mismatch=found)

    @staticmethod
    def _note(write: Callable[[Call, _T], None], call: Call, value: _T) -> None:
        """Write to the call store after the TSE was asked: a failure there must not hide its answer."""
        try:
            write(call, value)
        except FiskalError:
            log.exception("the call store did not take the outcome of a %s", call.op)

    # ---- idempotency ------------------------------------------------------------------------

    def _remembered(
        self, call: Call, is_retry: bool, deadline: Deadline | None
    ) -> tuple[Signed | None, Call]:
        """Return the answer of an earlier execution, or None and the call to be executed now."""
        if self._calls is None:
            remembered = self._driver.recall(call)
            if remembered is None:
                return None, call
            _compare(call, remembered.request_sha256)
            self._identify(deadline)
            return self._proven(call, remembered.signed, remembered=True), call
        self._identify(deadline)
        row = self._calls.latest(call)
        if row is None:
            return None, call
        call = _generation(call, row.generation)
        if row.state is CallState.DONE and not is_retry:
            log.warning("%s for queue item %s is executed once more", call.op, call.queue_item_id)
            return None, _generation(call, row.generation + 1)
        if row.state is CallState.FAILED_SAFE:
            return None, call  # it certainly was not executed, whatever it was
        _compare(call, row.request_sha256)
        if row.signed is not None:
            return self._proven(call, row.signed, remembered=True), call
        self._refresh(deadline)
        open_before = row.open_before
        if open_before is not None:  # transactions of other calls, begun since, are not this one's either
            open_before |= self._calls.open_transactions().keys()
        outcome = self._driver.reconcile(call, open_before, deadline)
        if isinstance(outcome, Signed):
            return self._complete(call, outcome, remembered=True), call
        if outcome is Verdict.STILL_UNKNOWN:
            raise OutcomeUnknown(
                "NO_RESPONSE",
                f"Whether the {call.op} for queue item {call.queue_item_id} was executed is still unknown.",
                transaction_number=call.transaction_number or None,
            )
        self._note(self._calls.failed, call, CallState.FAILED_SAFE)
        return None, call

    def _identify(self, deadline: Deadline | None) -> None:
        """Know serial, key and algorithm: every answer names them."""
        if self._info is None:
            self._refresh(deadline)

    # ---- state, clients, time ---------------------------------------------------------------

    def get_tse_info(self, deadline: Deadline | None = None) -> TseInfo:
        self._enter("info", Urgency.INFO, "", deadline)
        return self._info_and_leave(deadline)

    def _info_and_leave(self, deadline: Deadline | None) -> TseInfo:
        try:
            return self._refresh(deadline)
        except ScuError:
            self._seen_at = _NEVER
            raise
        except Exception as error:
            self._seen_at = _NEVER
            self._raise_internal(error, began=False)
        finally:
            self.scheduler.leave()

    def get_tse_info_if_idle(self, deadline: Deadline | None = None) -> TseInfo | None:
        """Like :meth:`get_tse_info`, but None at once while anybody else uses the TSE."""
        if not self.scheduler.enter_if_idle("info"):
            return None
        if self._closed:
            self.scheduler.leave()
            raise closed()
        return self._info_and_leave(deadline)

    def set_tse_state(self, request: TseState, deadline: Deadline | None = None) -> TseState:
        target = request.current_state

        def change() -> TseState:
            state = self._refresh(deadline).current_state
            if target in (state, TseStates.UNINITIALIZED):
                return TseState(current_state=state)
            if state is TseStates.TERMINATED:
                raise terminated()
            if (
                state is TseStates.UNINITIALIZED
                and target is TseStates.TERMINATED
                and not self._driver.terminates_uninitialized
            ):
                raise wrong_state(state, "TSE_NOT_INITIALIZED")
            self._driver.set_state(target, deadline)
            return TseState(current_state=self._refresh(deadline).current_state)

        return self._administer("state", deadline, change)

    def register_client_id(
        self, request: RegisterClientIdRequest, deadline: Deadline | None = None
    ) -> RegisterClientIdResponse:
        client_id = request.client_id

        def register() -> RegisterClientIdResponse:
            info = self._refresh(deadline)
            if info.current_state is not TseStates.INITIALIZED:
                raise wrong_state(info.current_state)
            if client_id in self._clients:
                return RegisterClientIdResponse(client_ids=list(info.current_client_ids))
            self._driver.validate_client_id(client_id)
            if info.current_number_of_clients >= info.max_number_of_clients:
                raise client_limit(info.current_number_of_clients, info.max_number_of_clients)
            self._driver.register(client_id, deadline)
            return RegisterClientIdResponse(client_ids=list(self._refresh(deadline).current_client_ids))

        return self._administer("clients", deadline, register)

    def unregister_client_id(
        self, request: UnregisterClientIdRequest, deadline: Deadline | None = None
    ) -> UnregisterClientIdResponse:
        client_id = request.client_id

        def unregister() -> UnregisterClientIdResponse:
            info = self._refresh(deadline)
            if info.current_state is not TseStates.INITIALIZED:
                raise wrong_state(info.current_state)
            if client_id not in self._clients:
                return UnregisterClientIdResponse(client_ids=list(info.current_client_ids))
            numbers = [number for number, (owner, _) in self._open.items() if owner == client_id]
            if numbers:
                raise client_has_open_transactions(client_id, numbers)
            self._driver.unregister(client_id, deadline)
            return UnregisterClientIdResponse(client_ids=list(self._refresh(deadline).current_client_ids))

        return self._administer("clients", deadline, unregister)

    def execute_set_tse_time(self, deadline: Deadline | None = None) -> None:
        self._administer("time", deadline, lambda: self._driver.set_time(deadline))

    def execute_self_test(self, deadline: Deadline | None = None) -> None:
        self._administer("self test", deadline, lambda: self._self_test(deadline))

    def self_test_aside(self, *, if_idle: bool) -> bool:
        """A self test that nobody waits for: True when it has passed.

        With ``if_idle`` False at once while anybody else uses the TSE, otherwise when nobody does. Raises ScuError.
        """
        if not if_idle:
            self._enter("self test", Urgency.BACKGROUND, "", None)
        elif not self.scheduler.enter_if_idle("self test"):
            return False
        elif self._closed:
            self.scheduler.leave()
            raise closed()
        self._act_and_leave(lambda: self._self_test(None))
        return True

    def _self_test(self, deadline: Deadline | None) -> None:
        self._driver.self_test(deadline)
        self.self_tested_at = self._clock()

    # ---- exports ----------------------------------------------------------------------------

    def start_export_session(
        self, request: StartExportSessionRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse:
        return self._start_export(
            Selection(client_id=request.client_id or None, erase=request.erase), request.erase, deadline
        )

    def start_export_session_by_time_stamp(
        self, request: StartExportSessionByTimeStampRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse:
        _check_range(request.from_, request.to)
        return self._start_export(
            Selection(client_id=request.client_id or None, first_time=request.from_, last_time=request.to),
            False,
            deadline,
        )

    def start_export_session_by_transaction(
        self, request: StartExportSessionByTransactionRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse:
        _check_range(request.from_, request.to)
        return self._start_export(
            Selection(
                client_id=request.client_id or None, first_number=request.from_, last_number=request.to
            ),
            False,
            deadline,
        )

    def start_export_session_after(
        self, signature_counter: int, deadline: Deadline | None = None
    ) -> StartExportSessionResponse:
        """Export what was signed after ``signature_counter``: the next part of an archive. Not on the wire."""
        if signature_counter < 0:
            raise ClientError("INVALID_RANGE", "A signatureCounter is not negative.")
        return self._start_export(Selection(after_counter=signature_counter), False, deadline)

    def _start_export(
        self, selection: Selection, erase: bool, deadline: Deadline | None
    ) -> StartExportSessionResponse:
        info = self.get_tse_info(deadline)
        if info.current_state is TseStates.UNINITIALIZED:
            raise wrong_state(info.current_state)
        if not selection.whole and not self._driver.filters_exports:
            raise NotSupported("NOT_IMPLEMENTED", "This TSE can only export its whole log.")
        serial = info.serial_number_octet.lower()
        return StartExportSessionResponse(
            token_id=self._exports.start(selection, erase, serial), tse_serial_number_octet=serial
        )

    def export_data(
        self, request: ExportDataRequest, deadline: Deadline | None = None, *, offset: int | None = None
    ) -> ExportDataResponse:
        return self._exports.read(request, offset)

    def end_export_session(
        self, request: EndExportSessionRequest, deadline: Deadline | None = None
    ) -> EndExportSessionResponse:
        return self._exports.end(request, lambda session: self._erase(session, deadline))

    def abandon_export_session(self, token_id: str) -> None:
        self._exports.abandon(token_id)

    def _export(self, selection: Selection, out: Sink) -> int:
        return self._driver.export(selection, out, self._turn)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        self._enter("export", Urgency.BACKGROUND, "", None)
        try:
            yield
        finally:
            self.scheduler.leave()

    def _erase(self, session: Session, deadline: Deadline | None) -> bool:
        """Delete what an export contains. A failure is no error: the data is safe, and there is a next time."""

        def erase() -> bool:
            info = self._refresh(deadline)
            open_count = info.current_number_of_started_transactions
            if open_count and not self._driver.erases_with_open_transactions:
                log.warning(
                    "export %s: %d transactions are open, nothing is erased", session.token, open_count
                )
                return False
            self._driver.erase(session.last_counter, deadline)
            return True

        try:
            return self._administer("erase", deadline, erase)
        except ScuError as error:
            log.warning("export %s: the TSE did not erase its log: %s", session.token, error)
            return False

    # ---- the rest ---------------------------------------------------------------------------

    def echo(self, request: ScuDeEchoRequest, deadline: Deadline | None = None) -> ScuDeEchoResponse:
        return ScuDeEchoResponse(message=request.message)

    def close(self) -> None:
        """Wait for the call in progress, then close driver and call store; further calls are refused.

        Exports are given up.
        """
        self._exports.close()
        self.scheduler.enter("close", Urgency.FINISH, "", None, threading.TIMEOUT_MAX)
        try:
            if self._closed:
                return
            self._closed = True
            try:
                self._driver.close()
            finally:
                if self._calls is not None:
                    self._calls.close()
        finally:
            self.scheduler.leave()


class _Block:
    """Several calls in one turn. A class, because a generator takes longer than the rest of it."""

    __slots__ = ("_client_id", "_core", "_deadline")

    def __init__(self, core: ScuCore, client_id: str, deadline: Deadline | None) -> None:
        self._core = core
        self._client_id = client_id
        self._deadline = deadline

    def __enter__(self) -> None:
        self._core._enter_block(self._client_id, self._deadline)

    def __exit__(self, *_: object) -> None:
        self._core._leave_block()


def closed() -> Unreachable:
    return Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. It has been closed.")


def _check_range(first: int, last: int) -> None:
    if first > last:
        raise ClientError("INVALID_RANGE", "From is greater than To.")


def _call(op: Op, request: StartTransactionRequest | UpdateTransactionRequest, number: int) -> Call:
    if len(request.queue_item_id) > MAX_QUEUE_ITEM_ID_CHARACTERS:
        raise ClientError("INVALID_QUEUE_ITEM_ID", "QueueItemId is no GUID.")
    return Call(
        op,
        request.client_id,
        number,
        request.process_type,
        _decode(request.process_data_base64) if request.process_data_base64 else b"",
        "" if request.queue_item_id == EMPTY_GUID else request.queue_item_id.lower(),
    )


def _decode(process_data_base64: str) -> bytes:
    try:
        return binascii.a2b_base64(process_data_base64, strict_mode=True)
    except ValueError as error:
        raise ClientError("INVALID_PROCESS_DATA", f"ProcessDataBase64 is not base64: {error}.") from error


def _compare(call: Call, remembered_sha256: bytes) -> None:
    if request_sha256(call) != remembered_sha256:
        raise ClientError(
            "IDEMPOTENCY_MISMATCH",
            f"The {call.op} for queue item {call.queue_item_id} was sent before with other data.",
            transaction_number=call.transaction_number or None,
        )


def _generation(call: Call, generation: int) -> Call:
    return Call(
        call.op,
        call.client_id,
        call.transaction_number,
        call.process_type,
        call.process_data,
        call.queue_item_id,
        generation,
    )


def _identity(info: TseInfo) -> tuple[object, ...]:
    """What a TSE does not change in its life."""
    return (
        info.serial_number_octet,
        info.public_key_base64,
        info.certificates_base64,
        info.signature_algorithm,
        info.log_time_format,
    )


def _expiry(info: TseInfo) -> int | None:
    """The end of the leaf certificate's validity in ticks; None if the TSE shows no usable certificate."""
    if not info.certificates_base64:
        return None
    try:
        leaf: x509.Certificate = load_certificates(base64.b64decode(info.certificates_base64[0]))[0]
    except (CertificateError, ValueError):
        log.warning("the certificate of TSE %s cannot be read", info.serial_number_octet)
        return None
    return from_unix(int(leaf.not_valid_after_utc.timestamp()))
