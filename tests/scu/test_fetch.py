"""Fetching an export from an SCU that answers whatever the contract allows, and what it does not."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from fiskal.scu import fetch
from fiskal.scu.contract import (
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    ExportDataResponse,
    StartExportSessionResponse,
)
from fiskal.scu.errors import ClientError, OutcomeUnknown, TseRejected, Unreachable
from fiskal.scu.fetch import ATTEMPTS, LAST_POLL_S, ExportCancelled, ExportFetch

LOST = OutcomeUnknown("NO_RESPONSE", "The answer was lost.")
TAR = bytes(range(256)) * 40


class Scripted:
    """Answers ExportData from a script: exceptions are raised, bytes and None are chunks."""

    def __init__(self, *script: Any, size: int = len(TAR)) -> None:
        self.script = list(script)
        self.size = size
        self.offsets: list[int | None] = []
        self.ended: list[EndExportSessionRequest] = []
        self.abandoned: list[str] = []
        self.end_errors: list[Exception] = []
        self.valid = True

    def start_export_session(self, request: Any, deadline: Any = None) -> StartExportSessionResponse:
        self.erase = request.erase
        return StartExportSessionResponse(token_id="token", tse_serial_number_octet="ab")

    def export_data(
        self, request: ExportDataRequest, deadline: Any = None, *, offset: int | None = None
    ) -> ExportDataResponse:
        assert request.token_id == "token"
        assert 0 < request.max_chunk_size <= 2 << 20
        self.offsets.append(offset)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, ExportDataResponse):
            return step
        data, last = step
        chunk = None if data is None else base64.b64encode(data).decode()
        return ExportDataResponse("token", chunk, last, True, self.size)

    def end_export_session(
        self, request: EndExportSessionRequest, deadline: Any = None
    ) -> EndExportSessionResponse:
        self.ended.append(request)
        if self.end_errors:
            raise self.end_errors.pop(0)
        return EndExportSessionResponse("token", self.valid, self.valid and request.erase)

    def abandon_export_session(self, token_id: str) -> None:
        self.abandoned.append(token_id)


PREPARING = ExportDataResponse("token", None, False, False)


class Clock:
    """Time that passes only in pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cancel_after: float = float("inf")) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.cancel_after = cancel_after
        monkeypatch.setattr(fetch.time, "monotonic", lambda: self.now)

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        self.pauses.append(seconds)
        return self.now > self.cancel_after


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def make(scu: Scripted, clock: Clock, *, erase: bool = True, timeout_s: float = 100) -> ExportFetch:
    scu_: Any = scu
    return ExportFetch(scu_, erase=erase, timeout_s=timeout_s, call_timeout_s=5, pause=clock.pause)


def test_the_archive_comes_in_chunks_and_its_hash_ends_the_session(clock: Clock) -> None:
    scu = Scripted(PREPARING, PREPARING, (TAR[:100], False), (TAR[100:], True))
    export = make(scu, clock)
    assert b"".join(export.chunks()) == TAR
    assert export.size == export.expected == len(TAR)
    assert export.end().is_erased
    assert scu.ended[0].sha256_checksum_base64 == base64.b64encode(hashlib.sha256(TAR).digest()).decode()
    assert scu.ended[0].erase
    assert scu.erase
    assert scu.offsets == [0, 0, 0, 100]
    export.abandon()
    assert scu.abandoned == []


@pytest.mark.parametrize("empty", [None, b""])
def test_an_empty_archive(clock: Clock, empty: bytes | None) -> None:
    export = make(Scripted((empty, True), size=0), clock, erase=False)
    assert list(export.chunks()) == []
    assert not export.end().is_erased


def test_an_empty_chunk_before_the_end_is_waited_for(clock: Clock) -> None:
    scu = Scripted((b"", False), (None, False), (TAR, False), (b"", True), size=-1)
    assert b"".join(make(scu, clock).chunks()) == TAR


def test_lost_answers_are_asked_for_again_from_the_same_offset(clock: Clock) -> None:
    scu = Scripted((TAR[:7], False), LOST, LOST, (TAR[7:], True))
    assert b"".join(make(scu, clock).chunks()) == TAR
    assert scu.offsets == [0, 7, 7, 7]


def test_so_many_lost_answers_are_an_error(clock: Clock) -> None:
    scu = Scripted(*[LOST] * ATTEMPTS)
    with pytest.raises(OutcomeUnknown):
        list(make(scu, clock).chunks())
    assert scu.script == []


@pytest.mark.parametrize(
    "error", [ClientError("UNKNOWN_EXPORT_TOKEN", "x"), TseRejected("EXPORT_FAILED", "x")]
)
def test_a_refusal_is_not_repeated(clock: Clock, error: Exception) -> None:
    scu = Scripted(error)
    with pytest.raises(type(error)):
        list(make(scu, clock).chunks())


def test_an_end_without_answer_is_repeated(clock: Clock) -> None:
    scu = Scripted((TAR, True))
    scu.end_errors = [LOST, Unreachable("CONNECT_FAILED", "x")]
    export = make(scu, clock)
    list(export.chunks())
    assert export.end().is_erased
    assert len(scu.ended) == ATTEMPTS


def test_polls_become_rarer(clock: Clock) -> None:
    scu = Scripted(*[PREPARING] * 60, (TAR, True))
    list(make(scu, clock, timeout_s=1000).chunks())
    polls = clock.pauses[:60]
    assert polls == sorted(polls)
    assert polls[-1] == LAST_POLL_S


@pytest.mark.parametrize("answer", [PREPARING, (b"", False), (TAR, False)])
def test_an_export_without_end_is_given_up(clock: Clock, answer: Any) -> None:
    scu = Scripted(*[answer] * 500_000)
    with pytest.raises(TseRejected) as caught:
        for _ in make(scu, clock, timeout_s=20).chunks():
            pass
    assert caught.value.code == "EXPORT_TIMEOUT"
    assert clock.now < 20 + 2 * LAST_POLL_S


def test_a_chunk_that_is_not_base64_is_an_error(clock: Clock) -> None:
    scu = Scripted(ExportDataResponse("token", "A?==", False, True, 5))
    with pytest.raises(TseRejected, match="not base64"):
        list(make(scu, clock).chunks())


@pytest.mark.parametrize("script", [[PREPARING] * 99, [(TAR, False)] * 99_999, [LOST] * 9])
def test_who_gives_up_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch, script: list[Any]) -> None:
    clock = Clock(monkeypatch, cancel_after=0.4)
    scu = Scripted(*script)
    export = make(scu, clock)
    with pytest.raises(ExportCancelled):
        for _ in export.chunks():
            pass
    export.abandon()
    export.abandon()
    assert scu.abandoned == ["token"]


def test_a_session_that_was_not_confirmed_can_be_given_up(clock: Clock) -> None:
    scu = Scripted((TAR, True))
    scu.valid = False
    export = make(scu, clock)
    list(export.chunks())
    assert not export.end().is_valid
    export.abandon()
    assert scu.abandoned == ["token"]


def test_giving_up_never_fails(clock: Clock) -> None:
    scu = Scripted(PREPARING)
    scu.abandon_export_session = None  # type: ignore[method-assign, assignment]
    export = make(scu, clock)
    export.abandon()
    with pytest.raises(IndexError):
        list(export.chunks())
    export.abandon()
