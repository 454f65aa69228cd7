"""An SCU as a queue calls it: one deadline per attempt, and repetition where it can do no harm.

A call that was certainly not executed is repeated after a pause. One without an answer may have been executed:
it is repeated only where the SCU recognises the repetition (IsRetry with the same QueueItemId), or where the
TSE's list of open transactions proves that it was not. This is the one place that repeats calls: never wrap a
client in another one.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

import msgspec

from fiskal.scu.contract import (
    EMPTY_GUID,
    Capabilities,
    Deadline,
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    ExportDataResponse,
    FinishTransactionRequest,
    FinishTransactionResponse,
    RegisterClientIdRequest,
    RegisterClientIdResponse,
    Scu,
    ScuDeEchoRequest,
    ScuDeEchoResponse,
    StartExportSessionByTimeStampRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    StartExportSessionResponse,
    StartTransactionRequest,
    StartTransactionResponse,
    TseInfo,
    TseState,
    UnregisterClientIdRequest,
    UnregisterClientIdResponse,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.errors import OutcomeUnknown, ScuError, Unreachable

ECHO_S: Final = 5.0
INFO_S: Final = 15.0
"""How long a TseInfo nobody waits for may take."""
ADMINISTRATION_S: Final = 120.0
"""State, clients, time and self test of a hardware TSE take long."""
ADMINISTRATION_ATTEMPTS: Final = 2
EXPORT_START_S: Final = 30.0
EXPORT_DATA_S: Final = 60.0
SPARE_S: Final = 0.5
"""A repetition that would have less than this before the caller's deadline is not begun."""


def pause(seconds: float) -> None:
    """Sleep about so long; many tills that failed together shall not come back together."""
    time.sleep(seconds * random.uniform(0.8, 1.2))


class RetryPolicy(NamedTuple):
    """How often a call is attempted (at least once), how long one attempt may take, how long to pause."""

    attempts: int = 3
    timeout_s: float = 15.0
    delay_s: float = 2.0


class ImplicitAnswer(NamedTuple):
    """What became of the two calls of an implicit receipt, of which the first was executed: ``finish`` or
    ``error``."""

    start: StartTransactionResponse
    finish: FinishTransactionResponse | None
    error: BaseException | None


def _reserve_nothing(client_id: str, seconds: float) -> AbstractContextManager[None]:
    return nullcontext()


class Settled(enum.Enum):
    """What is known of a call without an answer, and so what may follow."""

    UNKNOWN = "may have been executed: never again"
    RECOGNISED = "may have been executed: the SCU will know the repetition"
    NOT_EXECUTED = "was not executed"


class ScuClient:
    """Implements :class:`fiskal.scu.contract.Scu` over the SCU that ``connect`` gives (or raises ScuError).

    A TSE that computes in this process has no way on which a call could get lost: it is asked once. The
    ``deadline`` of a call bounds all its attempts together. ``signed`` is called when the TSE has signed;
    ``reserve(client id, seconds)`` is the block in which calls of a thread follow each other at the TSE.
    """

    __slots__ = ("_connect", "_policy", "_reserve", "_signed", "_sleep")

    def __init__(
        self,
        connect: Callable[[], Scu],
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], None] = pause,
        signed: Callable[[], None] | None = None,
        reserve: Callable[[str, float], AbstractContextManager[None]] = _reserve_nothing,
    ) -> None:
        self._reserve = reserve
        self._connect = connect
        self._policy = policy
        self._sleep = sleep
        self._signed = signed

    @property
    def capabilities(self) -> Capabilities:
        """Those of the SCU. Raises ScuError while it cannot be opened."""
        return self._connect().capabilities

    # ---- repetition -----------------------------------------------------------------------------

    def _repeat(
        self,
        attempt: Callable[[Scu, Deadline, bool], Any],
        deadline: Deadline | None,
        *,
        timeout_s: float | None = None,
        attempts: int | None = None,
        settle: Callable[[Scu], Settled] | None = None,
        failed: tuple[Scu | None, Unreachable | OutcomeUnknown] | None = None,
    ) -> Any:
        """Call ``attempt(scu, deadline, is_retry)`` until it answers or another attempt cannot help.

        ``settle`` finds out what is known after an unknown outcome; without it the call leads to a state and
        may always be repeated. If an attempt may have been executed, OutcomeUnknown is raised, whatever the
        last one ended with. ``failed`` is a first attempt that was made already.
        """
        policy = self._policy
        limit = policy.attempts if attempts is None else min(attempts, policy.attempts)
        number = 0
        doubt: OutcomeUnknown | None = None
        while True:
            number += 1
            scu: Scu | None = None
            failure: Unreachable | OutcomeUnknown
            if failed is not None and number == 1:
                scu, failure = failed
            else:
                try:
                    scu = self._connect()
                    return attempt(scu, self._deadline(timeout_s, deadline), number > 1)
                except (Unreachable, OutcomeUnknown) as error:
                    failure = error
            if isinstance(failure, OutcomeUnknown):
                doubt = failure
            wait = policy.delay_s if failure.retry_after_ms is None else failure.retry_after_ms / 1000
            if (
                number >= limit
                or (scu is not None and scu.capabilities.in_process)
                or (deadline is not None and deadline.remaining() <= wait + SPARE_S)
            ):
                raise failure if doubt is None else doubt
            if failure is doubt and settle is not None and scu is not None:
                settled = settle(scu)
                if settled is Settled.UNKNOWN:
                    raise doubt
                if settled is Settled.NOT_EXECUTED:
                    doubt = None
            self._sleep(wait)

    def _deadline(self, timeout_s: float | None, deadline: Deadline | None) -> Deadline:
        seconds = self._policy.timeout_s if timeout_s is None else timeout_s
        return Deadline(seconds if deadline is None else min(seconds, deadline.remaining()))

    def _transaction(
        self,
        method: str,
        request: StartTransactionRequest | UpdateTransactionRequest,
        deadline: Deadline | None,
    ) -> Any:
        scu: Scu | None = None
        try:  # every receipt comes along here: the attempt that nearly always succeeds is made directly
            scu = self._connect()
            answer = getattr(scu, method)(request, self._deadline(None, deadline))
        except (Unreachable, OutcomeUnknown) as error:
            answer = self._again(method, request, deadline, (scu, error))
        if self._signed is not None:
            self._signed()
        return answer

    def _again(
        self,
        method: str,
        request: StartTransactionRequest | UpdateTransactionRequest,
        deadline: Deadline | None,
        failed: tuple[Scu | None, Unreachable | OutcomeUnknown],
    ) -> Any:
        def attempt(scu: Scu, until: Deadline, is_retry: bool) -> Any:
            sent = msgspec.structs.replace(request, is_retry=True) if is_retry else request
            return getattr(scu, method)(sent, until)

        def settle(scu: Scu) -> Settled:
            if request.queue_item_id != EMPTY_GUID and scu.capabilities.deduplicates:
                return Settled.RECOGNISED
            if isinstance(request, FinishTransactionRequest) and self._is_open(scu, request, deadline):
                return Settled.NOT_EXECUTED
            return Settled.UNKNOWN

        return self._repeat(attempt, deadline, settle=settle, failed=failed)

    def _is_open(self, scu: Scu, request: FinishTransactionRequest, deadline: Deadline | None) -> bool:
        """A finish without an answer was not executed if its transaction is still open. Nothing of the kind
        proves that an update was not, and a start has no number to look for."""
        try:
            info = scu.get_tse_info(self._deadline(None, deadline))
        except ScuError:
            return False
        return request.transaction_number in info.current_started_transaction_numbers

    # ---- transactions ---------------------------------------------------------------------------

    def start_transaction(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse:
        response: StartTransactionResponse = self._transaction("start_transaction", request, deadline)
        return response

    def update_transaction(
        self, request: UpdateTransactionRequest, deadline: Deadline | None = None
    ) -> UpdateTransactionResponse:
        response: UpdateTransactionResponse = self._transaction("update_transaction", request, deadline)
        return response

    def finish_transaction(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse:
        response: FinishTransactionResponse = self._transaction("finish_transaction", request, deadline)
        return response

    def implicit_transaction(self, request: FinishTransactionRequest) -> ImplicitAnswer:
        """Start a transaction and finish it with ``request``, whose number does not count, back to back.

        A failure of the start is raised; one of the finish is part of the answer, because the start stands.
        """
        with self._reserve(request.client_id, self._policy.timeout_s):
            start = self.start_transaction(
                StartTransactionRequest(
                    client_id=request.client_id,
                    queue_item_id=request.queue_item_id,
                    is_retry=request.is_retry,
                )
            )
            try:
                finish = self.finish_transaction(
                    FinishTransactionRequest(
                        client_id=request.client_id,
                        transaction_number=start.transaction_number,
                        process_type=request.process_type,
                        process_data_base64=request.process_data_base64,
                        queue_item_id=request.queue_item_id,
                        is_retry=request.is_retry,
                    )
                )
            except BaseException as error:  # also Ctrl-C: that the start stands must not be lost over it
                return ImplicitAnswer(start, None, error)
            return ImplicitAnswer(start, finish, None)

    # ---- state, clients, time: each leads to a state and may be repeated ------------------------------

    def get_tse_info(self, deadline: Deadline | None = None) -> TseInfo:
        info: TseInfo = self._repeat(lambda scu, until, _: scu.get_tse_info(until), deadline)
        return info

    def get_tse_info_once(self) -> TseInfo:
        """TseInfo for which nobody waits long: one attempt."""
        return self._connect().get_tse_info(Deadline(INFO_S))

    def _administer(self, method: str, deadline: Deadline | None, *request: Any) -> Any:
        return self._repeat(
            lambda scu, until, _: getattr(scu, method)(*request, until),
            deadline,
            timeout_s=ADMINISTRATION_S,
            attempts=ADMINISTRATION_ATTEMPTS,
        )

    def set_tse_state(self, request: TseState, deadline: Deadline | None = None) -> TseState:
        state: TseState = self._administer("set_tse_state", deadline, request)
        return state

    def register_client_id(
        self, request: RegisterClientIdRequest, deadline: Deadline | None = None
    ) -> RegisterClientIdResponse:
        response: RegisterClientIdResponse = self._administer("register_client_id", deadline, request)
        return response

    def unregister_client_id(
        self, request: UnregisterClientIdRequest, deadline: Deadline | None = None
    ) -> UnregisterClientIdResponse:
        response: UnregisterClientIdResponse = self._administer("unregister_client_id", deadline, request)
        return response

    def execute_set_tse_time(self, deadline: Deadline | None = None) -> None:
        self._administer("execute_set_tse_time", deadline)

    def execute_self_test(self, deadline: Deadline | None = None) -> None:
        self._administer("execute_self_test", deadline)

    # ---- exports --------------------------------------------------------------------------------

    def _start_export(
        self, method: str, request: Any, deadline: Deadline | None
    ) -> StartExportSessionResponse:
        response: StartExportSessionResponse = self._repeat(
            lambda scu, until, _: getattr(scu, method)(request, until),
            deadline,
            timeout_s=EXPORT_START_S,
            attempts=2,
        )
        return response

    def start_export_session(
        self, request: StartExportSessionRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse:
        return self._start_export("start_export_session", request, deadline)

    def start_export_session_by_time_stamp(
        self, request: StartExportSessionByTimeStampRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse:
        return self._start_export("start_export_session_by_time_stamp", request, deadline)

    def start_export_session_by_transaction(
        self, request: StartExportSessionByTransactionRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse:
        return self._start_export("start_export_session_by_transaction", request, deadline)

    def export_data(
        self, request: ExportDataRequest, deadline: Deadline | None = None, *, offset: int | None = None
    ) -> ExportDataResponse:
        """Without an ``offset`` a repetition would lose a chunk: then it is asked once."""
        response: ExportDataResponse = self._repeat(
            lambda scu, until, _: scu.export_data(request, until, offset=offset),
            deadline,
            timeout_s=EXPORT_DATA_S,
            attempts=1 if offset is None else None,
        )
        return response

    def end_export_session(
        self, request: EndExportSessionRequest, deadline: Deadline | None = None
    ) -> EndExportSessionResponse:
        response: EndExportSessionResponse = self._repeat(
            lambda scu, until, _: scu.end_export_session(request, until),
            deadline,
            timeout_s=ADMINISTRATION_S,
        )
        return response

    def echo(self, request: ScuDeEchoRequest, deadline: Deadline | None = None) -> ScuDeEchoResponse:
        response: ScuDeEchoResponse = self._repeat(
            lambda scu, until, _: scu.echo(request, until), deadline, timeout_s=ECHO_S
        )
        return response

    def close(self) -> None:
        """Nothing: the SCU belongs to whoever opened it."""
