"""Export sessions, proved with the software TSE."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.clock import TICKS_PER_SECOND
from fiskal.scu.contract import (
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    ExportDataResponse,
    StartExportSessionByTimeStampRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Call
from fiskal.scu.errors import ClientError, NotSupported, ScuError, TseRejected, Unreachable
from fiskal.scu.exports import MAX_CHUNK_BYTES, MAX_SESSIONS, UNKNOWN_TOKEN, ExportSettings
from fiskal.scu.software import SoftwareTse, open_software_tse
from fiskal.tse.logmessage import parse
from fiskal.tse.tar import read_members
from fiskal.tse.tarverify import TarReport, Trust, verify_tar

EMPTY = ("", True, True)


def start(scu: ScuCore, **members: Any) -> str:
    return scu.start_export_session(StartExportSessionRequest(**members)).token_id


def read(scu: ScuCore, token: str, size: int = 1 << 20, offset: int | None = None) -> ExportDataResponse:
    return scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=size), offset=offset)


def wait(scu: ScuCore, token: str) -> ExportDataResponse:
    """Poll as a queue does until the file is there; reads nothing of it."""
    until = time.monotonic() + 60
    while not (answer := read(scu, token, 0)).total_tar_file_size_available:
        assert answer == ExportDataResponse(
            token_id=token,
            tar_file_byte_chunk_base64=None,
            tar_file_end_of_file=False,
            total_tar_file_size_available=False,
            total_tar_file_size=-1,
        )
        assert time.monotonic() < until
        time.sleep(0.002)
    return answer


def fetch(scu: ScuCore, token: str, size: int = 1 << 20) -> bytes:
    total = wait(scu, token).total_tar_file_size
    content = bytearray()
    while True:
        answer = read(scu, token, size)
        assert answer.total_tar_file_size == total
        chunk = base64.b64decode(answer.tar_file_byte_chunk_base64 or "")
        assert 0 < len(chunk) <= size
        content += chunk
        assert answer.tar_file_end_of_file == (len(content) == total)
        if answer.tar_file_end_of_file:
            return bytes(content)


def end(scu: ScuCore, token: str, content: bytes, erase: bool = False) -> EndExportSessionResponse:
    checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return scu.end_export_session(
        EndExportSessionRequest(token_id=token, sha256_checksum_base64=checksum, erase=erase)
    )


def export(scu: ScuCore, erase: bool = False) -> tuple[bytes, EndExportSessionResponse]:
    token = start(scu, erase=erase)
    content = fetch(scu, token)
    return content, end(scu, token, content, erase)


def counters(content: bytes) -> list[int]:
    return [parse(data).signature_counter for data in logs(content)]


def logs(content: bytes) -> list[bytes]:
    return [
        member.data or b"" for member in read_members(io.BytesIO(content)) if member.name.endswith(".log")
    ]


def check(content: bytes, *, filtered: bool = False, allowed: frozenset[str] = frozenset()) -> TarReport:
    report = verify_tar(io.BytesIO(content), filtered=filtered)
    assert report.ok, report.findings
    assert report.valid == report.logs
    usual = {"UNTRUSTED_ROOT", "STARTS_LATER", "OPEN_TRANSACTIONS", "NO_LOG_MESSAGES"}
    assert report.codes <= usual | allowed
    return report


def refused(call: Callable[[], object]) -> ScuError:
    with pytest.raises(ScuError) as caught:
        call()
    return caught.value


def files(scu: ScuCore) -> list[Path]:
    folder = scu._exports._folder
    return sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []


class Gate:
    """Holds the jobs of a driver until it is opened."""

    def __init__(self, scu: ScuCore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)
        self.running = self.most = 0
        original = scu._driver.export

        def held(*args: Any) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            self.entered.release()
            try:
                assert self.opened.wait(30)
                return original(*args)
            finally:
                self.running -= 1

        monkeypatch.setattr(scu._driver, "export", held)


@pytest.fixture
def gate(scu: ScuCore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(scu, monkeypatch)
    yield gate
    gate.opened.set()


@pytest.fixture
def sold(scu: ScuCore, pos: Any) -> ScuCore:
    """A TSE with 5 administrative messages and 3 transactions of 3."""
    for _ in range(3):
        number = pos.start().transaction_number
        pos.update(number)
        pos.finish(number)
    return scu


# ---- reading ------------------------------------------------------------------------------------


def test_an_export_holds_the_whole_log(sold: ScuCore) -> None:
    content, ended = export(sold)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    report = check(content)
    assert report.info["manufacturer"] == "fiskal (NOT CERTIFIED)"
    assert (report.logs, report.tses[0].transactions) == (14, 3)
    assert report.tses[0].serial == sold.get_tse_info().serial_number_octet
    driver = sold._driver
    assert isinstance(driver, SoftwareTse)
    assert logs(content) == [message for _, message in driver.messages()]
    trusted = verify_tar(io.BytesIO(content), driver.chain.certificates[-1:])
    assert trusted.tses[0].trust is Trust.TRUSTED
    assert trusted.findings == []
    assert files(sold) == []


@pytest.mark.parametrize("size", [1, 7, 512, 1 << 20, 2**31 - 1])
def test_chunks(sold: ScuCore, size: int) -> None:
    token = start(sold)
    content = fetch(sold, token, size)
    check(content)
    for _ in range(3):
        again = read(sold, token, size)
        assert (
            again.tar_file_byte_chunk_base64,
            again.tar_file_end_of_file,
            again.total_tar_file_size_available,
        ) == EMPTY
    assert end(sold, token, content).is_valid


def test_a_chunk_size_of_zero_tells_the_size(sold: ScuCore) -> None:
    token = start(sold)
    answer = wait(sold, token)
    assert (answer.tar_file_byte_chunk_base64, answer.tar_file_end_of_file) == ("", False)
    assert answer.total_tar_file_size > 10_000
    content = fetch(sold, token)
    assert read(sold, token, 0).tar_file_end_of_file
    assert len(content) == answer.total_tar_file_size


def test_chunks_are_at_most_2_mib(sold: ScuCore, monkeypatch: pytest.MonkeyPatch) -> None:
    big = bytes(3 * MAX_CHUNK_BYTES // 2)
    monkeypatch.setattr(sold._driver, "export", lambda _, out, __: out.write(big) and 1)
    token = start(sold)
    wait(sold, token)
    first = base64.b64decode(read(sold, token, 1 << 30).tar_file_byte_chunk_base64 or "")
    assert len(first) == MAX_CHUNK_BYTES
    rest = read(sold, token, 1 << 30)
    assert rest.tar_file_end_of_file
    assert end(sold, token, big).is_valid


def test_a_lost_answer_is_fetched_again(sold: ScuCore) -> None:
    token = start(sold)
    size = wait(sold, token).total_tar_file_size
    content = b""
    while len(content) < size:
        lost = read(sold, token, 1000, offset=len(content))
        again = read(sold, token, 1000, offset=len(content))
        assert lost == again
        content += base64.b64decode(again.tar_file_byte_chunk_base64 or "")
    assert read(sold, token, 1000, offset=size).tar_file_byte_chunk_base64 == ""
    for offset in (-1, size + 1):
        error = refused(lambda offset=offset: read(sold, token, 1, offset))
        assert isinstance(error, ClientError)
        assert error.code == "INVALID_OFFSET"
    assert end(sold, token, content).is_valid


def test_requests_that_are_wrong(sold: ScuCore) -> None:
    token = start(sold)
    error = refused(lambda: read(sold, token, -1))
    assert (type(error), error.code) == (ClientError, "INVALID_CHUNK_SIZE")
    for call in (
        lambda: read(sold, "x"),
        lambda: read(sold, str(uuid.uuid4())),
        lambda: read(sold, "../tse.json"),
        lambda: end(sold, "x", b""),
    ):
        error = refused(call)
        assert (type(error), error.code, str(error)) == (ClientError, "UNKNOWN_EXPORT_TOKEN", UNKNOWN_TOKEN)
    assert UNKNOWN_TOKEN == "The export failed to start. It needs to be retriggered"


# ---- ending -------------------------------------------------------------------------------------


def test_end_compares_the_bytes_of_the_hash(sold: ScuCore) -> None:
    token = start(sold, erase=True)
    content = fetch(sold, token)
    digest = hashlib.sha256(content).digest()
    text = base64.b64encode(digest).decode()
    for wrong in ("", "garbage!", "ä", text[:-2], base64.b64encode(digest[:-1]).decode(), digest.hex()):
        ended = sold.end_export_session(
            EndExportSessionRequest(token_id=token, sha256_checksum_base64=wrong, erase=True)
        )
        assert (ended.is_valid, ended.is_erased) == (False, False)
    assert end(sold, token, content + b"x", True).is_valid is False
    assert len(files(sold)) == 1
    first = end(sold, token, content, True)
    assert (first.is_valid, first.is_erased) == (True, True)
    assert files(sold) == []
    assert refused(lambda: read(sold, token)).code == "UNKNOWN_EXPORT_TOKEN"


def test_end_before_the_last_byte(sold: ScuCore, gate: Gate) -> None:
    token = start(sold, erase=True)
    assert end(sold, token, b"", True).is_valid is False
    gate.opened.set()
    size = wait(sold, token).total_tar_file_size
    content = base64.b64decode(read(sold, token, size - 1).tar_file_byte_chunk_base64 or "")
    whole = content + base64.b64decode(read(sold, token, 1, offset=0).tar_file_byte_chunk_base64 or "")
    assert end(sold, token, whole, True) == EndExportSessionResponse(
        token_id=token, is_valid=False, is_erased=False
    )
    content += base64.b64decode(read(sold, token, 1, offset=size - 1).tar_file_byte_chunk_base64 or "")
    assert end(sold, token, content, True).is_erased


def test_a_repeated_end_gets_the_same_answer_for_ten_minutes(
    sold: ScuCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [0.0]
    monkeypatch.setattr(sold._exports, "_monotonic", lambda: moment[0])
    token = start(sold, erase=True)
    content = fetch(sold, token)
    first = end(sold, token, content, True)
    assert first.is_erased
    moment[0] = 599.0
    assert end(sold, token, content, True) == first
    assert end(sold, token, b"", False) == first
    assert counters(export(sold)[0]) == [15]
    moment[0] = 601.0
    assert refused(lambda: end(sold, token, content)).code == "UNKNOWN_EXPORT_TOKEN"


def test_ends_at_the_same_time_erase_once(sold: ScuCore) -> None:
    token = start(sold, erase=True)
    content = fetch(sold, token)
    answers: list[EndExportSessionResponse] = []
    threads = [
        threading.Thread(target=lambda: answers.append(end(sold, token, content, True))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(answer.is_valid, answer.is_erased) for answer in answers} == {(True, True)}
    assert len(answers) == 8
    assert counters(export(sold)[0]) == [15]


# ---- erasing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at_start", "at_end"), [(False, False), (True, False), (False, True)])
def test_erasing_needs_both_flags(sold: ScuCore, at_start: bool, at_end: bool) -> None:
    token = start(sold, erase=at_start)
    content = fetch(sold, token)
    ended = end(sold, token, content, at_end)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    assert counters(export(sold)[0]) == list(range(1, 15))


def test_after_erasing_an_export_holds_only_what_is_newer(
    sold: ScuCore, pos: Any, open_tse: Callable[..., ScuCore]
) -> None:
    before = sold.get_tse_info()
    assert before.current_log_memory_size > 3000
    content, ended = export(sold, erase=True)
    assert ended.is_erased
    assert counters(content) == list(range(1, 15))
    info = sold.get_tse_info()
    assert 0 < info.current_log_memory_size < 400
    assert info.current_number_of_signatures == before.current_number_of_signatures + 1
    assert info.current_client_ids == before.current_client_ids

    started = pos.start()
    assert (started.transaction_number, started.signature_data.signature_counter) == (4, 16)
    content, ended = export(sold, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, False)  # a transaction is open
    assert counters(content) == [15, 16]
    assert parse(logs(content)[0]).operation == "deleteStoredData"
    assert parse(logs(content)[0]).elements[1].content == b"\x81\x05admin"
    check(content)
    pos.finish(4)
    sold.close()

    again = open_tse()
    content, ended = export(again, erase=True)
    assert ended.is_erased
    assert counters(content) == [15, 16, 17]
    assert again.get_tse_info().current_number_of_signatures == 18
    again.close()
    third = open_tse()
    assert counters(export(third)[0]) == [18]
    assert third.get_tse_info().current_number_of_signatures == 18


def test_an_idle_tse_exports_just_the_erasure(sold: ScuCore) -> None:
    for expected in ([*range(1, 15)], [15], [16], [17]):
        content, ended = export(sold, erase=True)
        assert ended.is_erased
        assert counters(content) == expected
        check(content)


def test_an_open_transaction_forbids_erasing(sold: ScuCore, pos: Any) -> None:
    number = pos.start().transaction_number
    content, ended = export(sold, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    assert check(content).tses[0].open_transactions == [number]
    driver = sold._driver
    assert refused(lambda: driver.erase(15, None)).code == "OPEN_TRANSACTIONS"
    assert counters(export(sold)[0]) == list(range(1, 16))


def test_what_was_signed_after_the_export_survives(sold: ScuCore, pos: Any) -> None:
    token = start(sold, erase=True)
    content = fetch(sold, token)
    numbers = [pos.start().transaction_number for _ in range(3)]
    for number in numbers:
        pos.finish(number)
    size = sold.get_tse_info().current_log_memory_size
    assert end(sold, token, content, True).is_erased
    assert sold.get_tse_info().current_log_memory_size < size
    newer, _ = export(sold)
    assert counters(newer) == list(range(15, 22))
    check(newer)


def test_a_second_consumer_erases_nothing_unseen(sold: ScuCore, pos: Any) -> None:
    first = start(sold, erase=True)
    second = start(sold, erase=True)
    assert first != second
    one, two = fetch(sold, first), fetch(sold, second)
    assert counters(one) == counters(two)
    pos.finish(pos.start().transaction_number)
    assert end(sold, first, one, True).is_erased
    assert end(sold, second, two, True).is_erased  # it was erased before, and only that
    assert counters(export(sold)[0]) == [15, 16, 17]


def test_a_call_from_before_an_erasure_is_still_remembered(
    sold: ScuCore, pos: Any, open_tse: Callable[..., ScuCore]
) -> None:
    item, update = str(uuid.uuid4()), str(uuid.uuid4())
    started = pos.start(item)
    updated = pos.update(started.transaction_number, item=update)
    finished = pos.finish(started.transaction_number, item=item)
    for _ in range(2):
        assert export(sold, erase=True)[1].is_erased
    for scu in (sold, None):
        if scu is None:
            sold.close()
            scu = open_tse()  # noqa: PLW2901
        pos.scu = scu
        assert pos.start(item, retry=True) == started
        assert pos.update(started.transaction_number, item=update, retry=True) == updated
        assert pos.finish(started.transaction_number, item=item, retry=True) == finished
        assert scu.get_tse_info().current_number_of_signatures == 19


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions(open_tse: Callable[..., ScuCore], make_pos: Any, version: int) -> None:
    scu = open_tse(log_version=version)
    pos = make_pos(scu)
    pos.finish(pos.start().transaction_number)
    content, ended = export(scu, erase=True)
    assert ended.is_erased
    check(content)
    content, _ = export(scu)
    message = parse(logs(content)[0])
    assert message.operation == ("deleteStoredData" if version == 2 else "deleteLogMessages")
    assert not message.findings
    check(content)


def test_an_erasure_that_fails_is_no_error(sold: ScuCore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(sold._driver, "erase", fail)
        _, ended = export(sold, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    assert export(sold, erase=True)[1].is_erased


# ---- parts of the log ---------------------------------------------------------------------------


@pytest.fixture
def busy(scu: ScuCore, clock: Any, make_pos: Any) -> ScuCore:
    """Counters 6 to 15: transactions 1 to 4 of two clients, one a minute, a client leaves after the second."""
    one, two = make_pos(scu, "POS-1"), make_pos(scu, "POS-2")
    for index, pos in enumerate([one, two, one, two]):
        clock.advance(60)
        pos.finish(pos.start().transaction_number)
        if index == 1:
            scu.execute_set_tse_time()
    scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-2"))
    return scu


def part(scu: ScuCore, token: str) -> list[int]:
    content = fetch(scu, token)
    check(content, filtered=True)
    ended = end(scu, token, content, True)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    return counters(content)


@pytest.mark.parametrize(
    ("first", "last", "client", "expected"),
    [
        (1, 1, None, [6, 7]),
        (2, 3, None, [8, 9, 10, 11, 12]),
        (1, 4, "POS-1", [6, 7, 10, 11, 12]),
        (0, 2**63, None, list(range(6, 15))),
        (2, 2, "POS-1", []),
        (77, 99, None, []),
    ],
)
def test_by_transaction(
    busy: ScuCore, first: int, last: int, client: str | None, expected: list[int]
) -> None:
    request = StartExportSessionByTransactionRequest(client_id=client, from_=first, to=last)
    assert part(busy, busy.start_export_session_by_transaction(request).token_id) == expected


@pytest.mark.parametrize(
    ("first", "last", "client", "expected"),
    [
        (60, 120, None, [6, 7, 8, 9, 10]),
        (60, 119.9, "", [6, 7]),
        (60.1, 180, "POS-2", [8, 9]),
        (0, 0, None, [1, 2, 3, 4, 5]),
        (1000, 2000, None, []),
    ],
)
def test_by_time(
    busy: ScuCore, clock: Any, first: float, last: float, client: str | None, expected: list[int]
) -> None:
    begin = clock.ticks - 240 * TICKS_PER_SECOND
    request = StartExportSessionByTimeStampRequest(
        client_id=client,
        from_=begin + round(first * TICKS_PER_SECOND),
        to=begin + round(last * TICKS_PER_SECOND),
    )
    assert part(busy, busy.start_export_session_by_time_stamp(request).token_id) == expected


def test_by_client(busy: ScuCore) -> None:
    assert part(busy, start(busy, client_id="POS-2", erase=True)) == [8, 9, 10, 13, 14]
    assert counters(export(busy)[0]) == list(range(1, 16))
    for request in (1, 2):
        error = refused(
            lambda request=request: (
                busy.start_export_session_by_transaction(
                    StartExportSessionByTransactionRequest(from_=5, to=4)
                )
                if request == 1
                else busy.start_export_session_by_time_stamp(
                    StartExportSessionByTimeStampRequest(from_=5, to=4)
                )
            )
        )
        assert isinstance(error, ClientError)


def test_a_tse_that_exports_only_everything(sold: ScuCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sold._driver, "filters_exports", False)
    assert isinstance(refused(lambda: start(sold, client_id="POS-1")), NotSupported)
    check(export(sold)[0])


# ---- states -------------------------------------------------------------------------------------


def test_an_uninitialised_tse_exports_nothing(open_tse: Callable[..., ScuCore]) -> None:
    scu = open_tse(client_ids=())
    error = refused(lambda: start(scu))
    assert (type(error), error.code) == (TseRejected, "WRONG_STATE")
    assert str(error) == "Expected state to be Initialized but instead the TSE state was Uninitialized."


def test_a_terminated_tse_exports_and_does_not_erase(sold: ScuCore) -> None:
    sold.set_tse_state(TseState(current_state=TseStates.TERMINATED))
    content, ended = export(sold, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    assert parse(logs(content)[-1]).operation == "disableSecureElement"
    check(content)


def test_exports_that_are_switched_off(tmp_path: Path) -> None:
    scu = ScuCore(SoftwareTse(tmp_path), exports=ExportSettings(enabled=False))
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    token = start(scu, erase=True)
    assert token.startswith("noexport-")
    for size in (0, 100):
        assert read(scu, token, size) == ExportDataResponse(
            token_id=token,
            tar_file_byte_chunk_base64="",
            tar_file_end_of_file=True,
            total_tar_file_size_available=True,
            total_tar_file_size=0,
        )
    ended = end(scu, token, b"", True)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    scu.close()


# ---- the job ------------------------------------------------------------------------------------


def test_one_job_at_a_time_and_the_others_wait(sold: ScuCore, gate: Gate, pos: Any) -> None:
    tokens = [start(sold) for _ in range(4)]
    assert gate.entered.acquire(timeout=10)
    assert not gate.entered.acquire(timeout=0.05)
    for token in tokens:
        assert read(sold, token).total_tar_file_size_available is False
    assert pos.start().transaction_number == 4
    gate.opened.set()
    for token in tokens:
        content = fetch(sold, token)
        assert end(sold, token, content).is_valid
    assert gate.most == 1
    check(export(sold)[0])


def test_two_consumers_at_once(sold: ScuCore) -> None:
    found: list[bytes] = []

    def consume(size: int) -> None:
        token = start(sold)
        content = fetch(sold, token, size)
        assert end(sold, token, content).is_valid
        found.append(content)

    threads = [threading.Thread(target=consume, args=(size,)) for size in (100, 333)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [counters(content) for content in found] == [list(range(1, 15))] * 2


def test_a_job_that_fails_is_reported_twice(sold: ScuCore, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[tuple[Exception, type[ScuError], str]] = [
        (Unreachable("BUSY", "the device is busy"), Unreachable, "BUSY"),
        (OSError(errno.ENOSPC, "No space left on device"), TseRejected, "EXPORT_FAILED"),
        (RuntimeError("a bug"), TseRejected, "EXPORT_FAILED"),
    ]
    for error, kind, code in errors:

        def fail(_: object, out: Any, __: object, error: Exception = error) -> int:
            out.write(b"x" * 1_000_000)
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(sold._driver, "export", fail)
            token = start(sold, erase=True)
            assert end(sold, token, b"", True).is_valid is False
            first = refused(lambda token=token: wait(sold, token))
        assert (type(first), first.code) == (kind, code)
        assert str(error) in str(first)
        assert end(sold, token, b"x" * 1_000_000, True).is_valid is False
        again = refused(lambda token=token: read(sold, token))
        assert (type(again), again.code, str(again)) == (kind, code, str(first))
        assert refused(lambda token=token: read(sold, token)).code == "UNKNOWN_EXPORT_TOKEN"
        assert files(sold) == []
    check(export(sold)[0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_a_full_disk(sold: ScuCore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open
    monkeypatch.setattr("fiskal.scu.exports.os.open", lambda *_: opened("/dev/full", os.O_WRONLY))
    token = start(sold, erase=True)
    error = refused(lambda: wait(sold, token))
    assert (type(error), error.code) == (TseRejected, "EXPORT_FAILED")
    assert "No space left on device" in str(error)


def test_a_job_that_takes_too_long(open_tse: Callable[..., ScuCore], tmp_path: Path) -> None:
    scu = ScuCore(SoftwareTse(tmp_path), exports=ExportSettings(folder=tmp_path / "x", timeout_s=0.0))
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    driver = scu._driver

    def slow(_: object, out: Any, __: object) -> int:
        while True:
            out.write(b"x")

    driver.export = slow  # type: ignore[method-assign]
    token = start(scu)
    assert refused(lambda: wait(scu, token)).code == "EXPORT_TIMEOUT"
    scu.close()


def test_sessions_expire(sold: ScuCore, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [0.0]
    monkeypatch.setattr(sold._exports, "_monotonic", lambda: moment[0])
    old, used = start(sold), start(sold)
    wait(sold, old)
    wait(sold, used)
    moment[0] = 86_000.0
    read(sold, used, 1)
    moment[0] = 86_500.0
    assert refused(lambda: read(sold, old)).code == "UNKNOWN_EXPORT_TOKEN"
    assert [path.name for path in files(sold)] == [used]
    moment[0] = 86_000.0 + 86_401.0
    assert refused(lambda: end(sold, used, b"")).code == "UNKNOWN_EXPORT_TOKEN"
    assert files(sold) == []


def test_sessions_are_limited(sold: ScuCore, gate: Gate) -> None:
    for _ in range(MAX_SESSIONS):
        start(sold)
    assert refused(lambda: start(sold)).code == "EXPORT_LIMIT"


def test_files_of_a_dead_process_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "tse" / "exports"
    folder.mkdir(parents=True)
    orphan = folder / str(uuid.uuid4())
    orphan.write_bytes(b"x")
    for name in ("notes.txt", f"{uuid.uuid4()}.tar"):
        (folder / name).write_bytes(b"x")
    scu = open_software_tse(tmp_path / "tse", client_ids=["POS-1"])
    assert not orphan.exists()
    assert len(files(scu)) == 2
    scu.close()


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fiskal.scu.exports.tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    scu = ScuCore(SoftwareTse(tmp_path / "tse"), exports=ExportSettings(keep_files=True))
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    token = start(scu)
    content = fetch(scu, token)
    folder = tmp_path / "tmp" / "fiskal-export" / scu.get_tse_info().serial_number_octet
    assert (folder / token).stat().st_mode & 0o077 == 0
    assert end(scu, token, content).is_valid
    assert [path.name for path in folder.iterdir()] == [f"{token}.tar"]
    assert (folder / f"{token}.tar").read_bytes() == content
    scu.close()


def test_closing_gives_up_exports(sold: ScuCore, gate: Gate) -> None:
    tokens = [start(sold), start(sold)]
    assert gate.entered.acquire(timeout=10)
    closer = threading.Thread(target=sold.close)
    closer.start()
    gate.opened.set()
    closer.join(30)
    assert not closer.is_alive()
    assert files(sold) == []
    for token in tokens:
        assert refused(lambda token=token: read(sold, token)).code == "UNKNOWN_EXPORT_TOKEN"
    assert refused(lambda: start(sold)).code == "TSE_NOT_AVAILABLE"


# ---- beside selling -----------------------------------------------------------------------------


def test_selling_goes_on_during_exports_and_erasures(scu: ScuCore, make_pos: Any) -> None:
    """Four checkouts and an exporter: no message is lost, and none is erased that no file has."""
    stop = threading.Event()
    gap = threading.Lock()
    failures: list[BaseException] = []
    signed: list[int] = []

    def sell() -> None:
        pos = make_pos(scu)
        try:
            while not stop.is_set():
                with gap:  # lets the exporter in now and then, while nothing is open
                    pass
                time.sleep(0.003)
                started = pos.start()
                finished = pos.finish(started.transaction_number)
                signed.extend(
                    (started.signature_data.signature_counter, finished.signature_data.signature_counter)
                )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=sell) for _ in range(4)]
    for thread in threads:
        thread.start()
    erased = 0
    archived: list[int] = []
    for _ in range(8):
        token = start(scu, erase=True)
        content = fetch(scu, token)
        check(content, allowed=frozenset({"STARTED_BEFORE"}))
        with gap:
            until = time.monotonic() + 5
            while scu.get_tse_info().current_number_of_started_transactions and time.monotonic() < until:
                time.sleep(0.001)
            ended = end(scu, token, content, True)
        assert ended.is_valid
        if ended.is_erased:
            erased += 1
            archived += counters(content)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert erased > 2
    content, _ = export(scu)
    archived += counters(content)
    assert archived == list(range(1, scu.get_tse_info().current_number_of_signatures + 1))
    assert set(signed) <= set(archived)
    assert len(set(signed)) == len(signed)


def test_a_large_log_in_constant_memory(open_tse: Callable[..., ScuCore], tmp_path: Path) -> None:
    scu = open_tse()
    driver = scu._driver
    item = str(uuid.uuid4())
    for _ in range(10_000):
        number = driver.start(Call("start", "POS-1", 0, "", b"", item), None).transaction_number
        driver.finish(Call("finish", "POS-1", number, "Kassenbeleg-V1", b"x" * 60, item), None)
    assert driver.info(None).current_log_memory_size > 6_000_000
    path = tmp_path / "export.tar"
    token = start(scu, erase=True)
    tracemalloc.start()
    try:
        wait(scu, token)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
        with path.open("wb") as out:
            while not (answer := read(scu, token)).tar_file_end_of_file:
                out.write(base64.b64decode(answer.tar_file_byte_chunk_base64 or ""))
            out.write(base64.b64decode(answer.tar_file_byte_chunk_base64 or ""))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        request = EndExportSessionRequest(
            token_id=token, sha256_checksum_base64=base64.b64encode(digest).decode(), erase=True
        )
        assert scu.end_export_session(request).is_erased
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    with path.open("rb") as file:
        report = verify_tar(file)
    assert (report.ok, report.valid, report.tses[0].transactions) == (True, 20_005, 10_000)
    assert driver.info(None).current_log_memory_size < 1000
    assert (tmp_path / "tse" / "messages.log").stat().st_size < 1_000_000
