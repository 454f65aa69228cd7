"""What the client repeats, how often, and what it never does: sign one call twice."""

from __future__ import annotations

from typing import Any

import pytest

from fiskal.scu.client import RetryPolicy, ScuClient
from fiskal.scu.contract import (
    Capabilities,
    Deadline,
    ExportDataRequest,
    FinishTransactionRequest,
    StartExportSessionRequest,
    StartTransactionRequest,
    TseState,
    TseStates,
    UpdateTransactionRequest,
)
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)

ITEM = "00112233-4455-6677-8899-aabbccddeeff"
START = StartTransactionRequest(client_id="POS", queue_item_id=ITEM)
UPDATE = UpdateTransactionRequest(client_id="POS", transaction_number=7, queue_item_id=ITEM)
FINISH = FinishTransactionRequest(client_id="POS", transaction_number=7, queue_item_id=ITEM)
GONE = Unreachable("CONNECT_FAILED", "nobody answers")
LOST = OutcomeUnknown("NO_RESPONSE", "no answer came")


class Info:
    def __init__(self, *numbers: int) -> None:
        self.current_started_transaction_numbers = list(numbers)


class Script:
    """An SCU whose answers are given beforehand, one per call."""

    def __init__(self, *answers: Any, deduplicates: bool = True, in_process: bool = False) -> None:
        self.answers = list(answers)
        self.capabilities = Capabilities(deduplicates=deduplicates, in_process=in_process)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.calls.append((method, args))
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Site:
    def __init__(self, scu: Script, attempts: int = 3) -> None:
        self.scu = scu
        self.pauses: list[float] = []
        self.successes = 0
        self.refused: list[ScuError] = []
        self.client = ScuClient(
            self.connect, RetryPolicy(attempts, 15, 2), sleep=self.pauses.append, signed=self.signed
        )

    def connect(self) -> Any:
        if self.refused:
            raise self.refused.pop(0)
        return self.scu

    def signed(self) -> None:
        self.successes += 1


CALLS = [
    ("start_transaction", START),
    ("update_transaction", UPDATE),
    ("finish_transaction", FINISH),
]


@pytest.mark.parametrize(("method", "request_"), CALLS)
@pytest.mark.parametrize("failures", range(3))
@pytest.mark.parametrize("failure", [GONE, LOST])
def test_a_call_that_can_be_repeated_is_attempted_as_often_as_allowed(
    method: str, request_: Any, failures: int, failure: ScuError
) -> None:
    site = Site(Script(*[failure] * failures, "signed"))
    assert getattr(site.client, method)(request_) == "signed"
    assert site.scu.names == [method] * (failures + 1)
    assert site.pauses == [2.0] * failures
    assert site.successes == 1
    assert [args[0].is_retry for _, args in site.scu.calls] == [False] + [True] * failures
    assert all(args[0].queue_item_id == ITEM for _, args in site.scu.calls)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_after_the_last_attempt_the_failure_is_raised(attempts: int) -> None:
    site = Site(Script(*[GONE] * attempts), attempts)
    with pytest.raises(Unreachable, match="nobody answers"):
        site.client.start_transaction(START)
    assert len(site.scu.calls) == attempts
    assert len(site.pauses) == attempts - 1
    assert site.successes == 0


@pytest.mark.parametrize("kind", [ClientError, NotSupported, TseRejected, Misconfigured])
def test_what_repeating_cannot_help_is_raised_at_once(kind: type[ScuError]) -> None:
    site = Site(Script(kind("CODE", "no")))
    with pytest.raises(kind):
        site.client.finish_transaction(FINISH)
    assert len(site.scu.calls) == 1
    assert site.pauses == []


def test_a_doubt_outlives_a_later_attempt_that_certainly_did_nothing() -> None:
    site = Site(Script(LOST, GONE, GONE))
    with pytest.raises(OutcomeUnknown):
        site.client.start_transaction(START)
    assert len(site.scu.calls) == 3


def test_a_refusal_after_a_doubt_is_an_answer() -> None:
    site = Site(Script(LOST, TseRejected("TRANSACTION_NOT_OPEN", "closed")))
    with pytest.raises(TseRejected):
        site.client.finish_transaction(FINISH)


@pytest.mark.parametrize(("method", "request_"), CALLS[:2])
def test_an_ambiguous_call_is_never_repeated_at_an_scu_that_would_not_recognise_it(
    method: str, request_: Any
) -> None:
    site = Site(Script(LOST, deduplicates=False))
    with pytest.raises(OutcomeUnknown):
        getattr(site.client, method)(request_)
    assert site.scu.names == [method]


def test_a_call_without_a_queue_item_cannot_be_recognised() -> None:
    site = Site(Script(LOST))
    with pytest.raises(OutcomeUnknown):
        site.client.start_transaction(StartTransactionRequest(client_id="POS"))
    assert len(site.scu.calls) == 1


def test_an_ambiguous_finish_is_repeated_when_its_transaction_is_still_open() -> None:
    site = Site(Script(LOST, Info(5, 7), "signed", deduplicates=False))
    assert site.client.finish_transaction(FINISH) == "signed"
    assert site.scu.names == ["finish_transaction", "get_tse_info", "finish_transaction"]


def test_once_proven_not_executed_there_is_no_doubt_left() -> None:
    site = Site(Script(LOST, Info(7), GONE, GONE, deduplicates=False))
    with pytest.raises(Unreachable):
        site.client.finish_transaction(FINISH)


@pytest.mark.parametrize("found", [Info(5), GONE, LOST, TseRejected("X", "x")])
def test_an_ambiguous_finish_stays_ambiguous_if_nothing_proves_the_contrary(found: Any) -> None:
    site = Site(Script(LOST, found, deduplicates=False))
    with pytest.raises(OutcomeUnknown):
        site.client.finish_transaction(FINISH)
    assert site.scu.names == ["finish_transaction", "get_tse_info"]


def test_a_tse_in_this_process_is_asked_once() -> None:
    for failure in (GONE, LOST):
        site = Site(Script(failure, in_process=True))
        with pytest.raises(type(failure)):
            site.client.start_transaction(START)
        assert site.pauses == []


def test_a_tse_that_is_plugged_in_between_is_found() -> None:
    site = Site(Script("signed", in_process=True))
    site.refused = [GONE, GONE]
    assert site.client.start_transaction(START) == "signed"
    assert site.pauses == [2.0, 2.0]


def test_the_pause_is_the_one_the_tse_asks_for() -> None:
    site = Site(Script(Unreachable("RATE_LIMITED", "slow down", retry_after_ms=7_000), "signed"))
    site.client.start_transaction(START)
    assert site.pauses == [7.0]


def test_the_deadline_of_the_caller_bounds_all_attempts() -> None:
    site = Site(Script(GONE, "too late"))
    with pytest.raises(Unreachable):
        site.client.start_transaction(START, Deadline(2.4))
    assert site.pauses == []
    (_, (_, until)) = site.scu.calls[0]
    assert until.remaining() <= 2.4


def test_administration_has_two_attempts_and_more_time() -> None:
    site = Site(Script(LOST, "done"), attempts=5)
    site.client.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    assert [args[-1].remaining() > 60 for _, args in site.scu.calls] == [True, True]
    site = Site(Script(LOST, LOST, "never"), attempts=5)
    with pytest.raises(OutcomeUnknown):
        site.client.execute_self_test()
    site = Site(Script(GONE, "never"), attempts=1)
    with pytest.raises(Unreachable):
        site.client.execute_set_tse_time()


def test_a_chunk_is_asked_for_again_only_with_its_offset() -> None:
    wanted = ExportDataRequest(token_id="t", max_chunk_size=1)
    site = Site(Script(LOST, "chunk"))
    assert site.client.export_data(wanted, offset=0) == "chunk"
    site = Site(Script(LOST, "chunk"))
    with pytest.raises(OutcomeUnknown):
        site.client.export_data(wanted)
    site = Site(Script(LOST, "token"))
    assert site.client.start_export_session(StartExportSessionRequest()) == "token"
