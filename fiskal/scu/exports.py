"""Export sessions: a TAR of the TSE's log is made in the background and fetched in chunks.

A consumer starts a session, polls it until the file is there, reads it in chunks and ends the session with the
hash over what it received. Only then, and only if the whole log was asked for, may the TSE delete what is in
the file. One job runs at a time for one TSE; later sessions wait for their turn and say so.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import enum
import hashlib
import hmac
import logging
import os
import re
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from fiskal.scu.contract import (
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    ExportDataResponse,
)
from fiskal.scu.driver import Selection
from fiskal.scu.errors import ClientError, ScuError, TseRejected, Unreachable
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

MAX_CHUNK_BYTES: Final = 2 << 20
"""A larger MaxChunkSize is clamped; base64 makes 4/3 of it, and gRPC takes messages up to 4 MiB."""
MAX_SESSIONS: Final = 64
ENDED_FOR_S: Final = 600.0
"""How long the answer to EndExportSession is remembered for those who repeat it."""
NO_EXPORT: Final = "noexport-"
UNKNOWN_TOKEN: Final = "The export failed to start. It needs to be retriggered"

_TOKEN: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WORK_S: Final = 0.0005
_PAUSE_S: Final = 0.0005

Job = Callable[[Selection, Sink], int]
"""Writes the archive of a selection; returns the greatest signatureCounter in it, 0 without any."""


class State(enum.Enum):
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"


class Session:
    """One session. Its lock is held while a chunk is read or the session is ended."""

    def __init__(self, token: str, selection: Selection, erase: bool, path: Path, moment: float) -> None:
        self.token = token
        self.selection = selection
        self.erase = erase
        self.path = path
        self.state = State.PREPARING
        self.error: ScuError | None = None
        self.reports = 0
        self.size = 0
        self.sha256 = b""
        self.last_counter = 0
        self.pointer = 0
        """Where the next chunk begins."""
        self.furthest = 0
        """How much of the file was handed out."""
        self.last_access = moment
        self.cancelled = False
        self.lock = threading.Lock()


class _Cancelled(Exception):
    """Nobody wants the file any more."""


class _File:
    """The file of a job: hashes, counts, and leaves the processor to those who sign.

    A thread that never waits keeps the interpreter for milliseconds, and a signature takes a fraction of one;
    so the job works in short slices and sleeps in between.
    """

    def __init__(self, path: Path, session: Session, until: float) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=256 << 10)
        self._session = session
        self._until = until
        self._hash = hashlib.sha256()
        self._slice_began = time.monotonic()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        moment = time.monotonic()
        if moment - self._slice_began > _WORK_S:
            if self._session.cancelled:
                raise _Cancelled
            if moment > self._until:
                raise TseRejected("EXPORT_TIMEOUT", "The export took too long and was given up.")
            time.sleep(_PAUSE_S)
            self._slice_began = time.monotonic()
        return len(data)

    def finish(self) -> bytes:
        """Close the file and return its hash."""
        self._file.close()
        return self._hash.digest()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class ExportSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a SCU exports.

    ``folder`` must belong to this SCU alone, for files of earlier sessions in it are removed; None is a folder
    named after the TSE among the system's temporary files. ``timeout_s`` limits a job, ``session_ttl_s`` how
    long a session waits for its consumer. ``keep_files`` leaves the file of an ended session behind as
    ``<token>.tar``. With ``enabled`` off, consumers are told at once that there is nothing to fetch.
    """

    folder: Path | None = None
    timeout_s: float = 18_000.0
    session_ttl_s: float = 86_400.0
    keep_files: bool = False
    enabled: bool = True


class ExportSessions:
    """The sessions of one TSE. ``monotonic`` is for tests."""

    def __init__(
        self, settings: ExportSettings, job: Job, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._job = job
        self._timeout_s = settings.timeout_s
        self._session_ttl_s = settings.session_ttl_s
        self._keep_files = settings.keep_files
        self._enabled = settings.enabled
        self._monotonic = monotonic
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._ended: dict[str, tuple[EndExportSessionResponse, float]] = {}
        self._waiting: deque[Session] = deque()
        self._worker: threading.Thread | None = None
        self._closed = False
        if settings.folder is not None:
            self._use(settings.folder)

    def _use(self, folder: Path) -> Path:
        """Take a folder and remove the files of sessions that died with their process."""
        self._folder = folder
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if _TOKEN.fullmatch(path.name):
                    _remove(path)
        return folder

    # ---- sessions ---------------------------------------------------------------------------

    def start(self, selection: Selection, erase: bool, serial: str) -> str:
        """Begin a session on the TSE ``serial``; return its token. Raises ``TseRejected`` EXPORT_LIMIT."""
        token = str(uuid.uuid4())
        if not self._enabled:
            return NO_EXPORT + token
        with self._lock:
            folder = self._folder or self._use(Path(tempfile.gettempdir()) / "fiskal-export" / serial)
            session = Session(token, selection, erase, folder / token, self._monotonic())
            self._expire()
            if self._closed:
                raise Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. It has been closed.")
            if len(self._sessions) >= MAX_SESSIONS:
                raise TseRejected("EXPORT_LIMIT", f"There are {MAX_SESSIONS} export sessions already.")
            self._sessions[token] = session
            self._waiting.append(session)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="fiskal-export", daemon=True)
                self._worker.start()
        return token

    def _expire(self) -> None:
        """Forget what nobody asked for in a long time. The lock is held."""
        moment = self._monotonic()
        for token, (_, until) in list(self._ended.items()):
            if moment > until:
                del self._ended[token]
        for session in list(self._sessions.values()):
            if moment - session.last_access > self._session_ttl_s and not session.lock.locked():
                log.warning("export session %s was left alone and has expired", session.token)
                self._drop(session)

    def _drop(self, session: Session) -> None:
        """Forget a session and its file. The lock is held."""
        self._sessions.pop(session.token, None)
        session.cancelled = True
        if session.state is not State.PREPARING:  # the job removes its own file
            _remove(session.path)

    def _find(self, token: str) -> Session:
        session = self._sessions.get(token)
        if session is None:
            raise ClientError("UNKNOWN_EXPORT_TOKEN", UNKNOWN_TOKEN)
        session.last_access = self._monotonic()
        return session

    def _failure(self, session: Session) -> ScuError:
        """The error of a failed session; told twice, then the session is gone. Its lock is held."""
        session.reports += 1
        if session.reports >= 2:
            with self._lock:
                self._drop(session)
        error = session.error
        assert error is not None
        return type(error)(error.code, error.message, vendor_code=error.vendor_code)

    def read(self, request: ExportDataRequest, offset: int | None) -> ExportDataResponse:
        """Answer ExportData, from ``offset`` instead of from where the last chunk ended if it is given."""
        token = request.token_id
        if request.max_chunk_size < 0:
            raise ClientError("INVALID_CHUNK_SIZE", "MaxChunkSize must not be negative.")
        if offset is not None and offset < 0:
            raise ClientError("INVALID_OFFSET", "The offset must not be negative.")
        if token.startswith(NO_EXPORT):
            return _chunk(token, b"", True, 0)
        with self._lock:
            self._expire()
            session = self._find(token)
        with session.lock:
            if session.state is State.PREPARING:
                return ExportDataResponse(
                    token_id=token,
                    tar_file_byte_chunk_base64=None,
                    tar_file_end_of_file=False,
                    total_tar_file_size_available=False,
                )
            if session.state is State.FAILED:
                raise self._failure(session)
            if offset is not None and offset > session.size:
                raise ClientError("INVALID_OFFSET", f"The file has {session.size} bytes.")
            begin = session.pointer if offset is None else offset
            wanted = min(request.max_chunk_size, MAX_CHUNK_BYTES, session.size - begin)
            data = b""
            if wanted:
                try:
                    with session.path.open("rb", buffering=0) as file:
                        file.seek(begin)
                        data = file.read(wanted) or b""
                except FileNotFoundError as error:
                    raise ClientError("UNKNOWN_EXPORT_TOKEN", UNKNOWN_TOKEN) from error
                except OSError as error:
                    raise TseRejected("EXPORT_FAILED", f"The export cannot be read: {error}.") from error
                if len(data) != wanted:
                    raise TseRejected("EXPORT_FAILED", "The file of the export was changed.")
            session.pointer = begin + len(data)
            session.furthest = max(session.furthest, session.pointer)
            return _chunk(token, data, session.pointer == session.size, session.size)

    def end(
        self, request: EndExportSessionRequest, erase: Callable[[Session], bool]
    ) -> EndExportSessionResponse:
        """Answer EndExportSession; ``erase`` is called if the conditions here allow it, and must not raise."""
        token = request.token_id
        if token.startswith(NO_EXPORT):
            return EndExportSessionResponse(token_id=token, is_valid=True, is_erased=False)
        with self._lock:
            self._expire()
            if token in self._ended:
                return self._ended[token][0]
            session = self._find(token)
        with session.lock:
            with self._lock:  # the one who held the session's lock may have ended it
                if token in self._ended:
                    return self._ended[token][0]
            complete = session.state is State.READY and session.furthest == session.size
            if not complete or not hmac.compare_digest(
                _decoded(request.sha256_checksum_base64), session.sha256
            ):
                return EndExportSessionResponse(token_id=token, is_valid=False, is_erased=False)
            is_erased = False
            if request.erase:
                if not session.erase:
                    log.warning("export %s was not started with Erase: nothing is erased", token)
                elif not session.selection.whole:
                    log.warning("export %s is only a part of the log: nothing is erased", token)
                else:
                    is_erased = erase(session)
            response = EndExportSessionResponse(token_id=token, is_valid=True, is_erased=is_erased)
            with self._lock:
                self._ended[token] = (response, self._monotonic() + ENDED_FOR_S)
                if self._keep_files:
                    with contextlib.suppress(OSError):
                        session.path.replace(session.path.with_name(f"{token}.tar"))
                self._drop(session)
        return response

    def abandon(self, token: str) -> None:
        """Forget a session and its file; an unknown one is forgotten already."""
        with self._lock:
            session = self._sessions.get(token)
            if session is not None:
                self._drop(session)

    # ---- the job ----------------------------------------------------------------------------

    def _work(self) -> None:
        """Run the jobs one after the other, until there is none."""
        while True:
            with self._lock:
                if self._closed or not self._waiting:
                    self._worker = None
                    return
                session = self._waiting.popleft()
            if not session.cancelled:
                self._run(session)

    def _run(self, session: Session) -> None:
        file: _File | None = None
        error: ScuError | None = None
        try:
            session.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = _File(session.path, session, time.monotonic() + self._timeout_s)
            session.last_counter = self._job(session.selection, file)
            session.sha256 = file.finish()
            session.size = file.size
        except _Cancelled:
            error = TseRejected("EXPORT_FAILED", "The export was cancelled.")
        except ScuError as refused:
            error = refused
        except OSError as refused:
            error = TseRejected("EXPORT_FAILED", f"The export failed: {refused}.")
        except Exception as unexpected:
            log.exception("an export failed unexpectedly")
            error = TseRejected("EXPORT_FAILED", f"Internal error: {unexpected!r}")
        if error is not None:
            if file is not None:
                file.abandon()
            _remove(session.path)
            log.warning("export %s failed: %s", session.token, error)
        with self._lock:
            session.error = error
            session.state = State.READY if error is None else State.FAILED
            if session.cancelled:
                _remove(session.path)

    def close(self) -> None:
        """Give up all sessions and remove their files. Not to be called while the TSE is held."""
        with self._lock:
            self._closed = True
            worker = self._worker
            for session in list(self._sessions.values()):
                self._drop(session)
            self._waiting.clear()
        if worker is not None:
            worker.join()


def _chunk(token: str, data: bytes, end_of_file: bool, size: int) -> ExportDataResponse:
    return ExportDataResponse(
        token_id=token,
        tar_file_byte_chunk_base64=base64.b64encode(data).decode("ascii"),
        tar_file_end_of_file=end_of_file,
        total_tar_file_size_available=True,
        total_tar_file_size=size,
    )


def _decoded(sha256_checksum_base64: str) -> bytes:
    """The bytes of a checksum; none if it is not base64."""
    try:
        return binascii.a2b_base64(sha256_checksum_base64, strict_mode=True)
    except ValueError:
        return b""


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error)
