"""The C core's part in TR-03151: the log message writer of one TSE, and the readers of messages and archives."""

from __future__ import annotations

import enum
import hashlib
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from fiskal.core import check, ffi, layout, lib


class TimeFormat(enum.IntEnum):
    """The formats of logTime (TR-03151 §2.4 in our reading): how a moment is written into a message."""

    UNIX = 0
    UTC = 1
    GENERALIZED = 2
    GENERALIZED_MS = 3

    @property
    def text(self) -> str:
        """The name as TseInfo and the QR code carry it."""
        return _TIME_FORMAT_TEXTS[self]


_TIME_FORMAT_TEXTS: Final = ("unixTime", "utcTime", "generalizedTime", "generalizedTimeWithMilliseconds")

LOG_START: Final = 1
LOG_UPDATE: Final = 2
LOG_FINISH: Final = 3


class MessageBuilder:
    """Builds the messages of one TSE, one after the other, in one buffer that is kept.

    Call :meth:`transaction`, :meth:`system` or :meth:`audit`, sign the digest they return, then
    :meth:`seal`. Not to be shared between threads. ``hash_name`` is what hashlib calls the hash of the
    signature algorithm; ``algorithm`` its last two arcs as bytes. Every method raises
    :class:`fiskal.errors.CoreError` for an argument outside its range.
    """

    __slots__ = ("_capacity", "_digest", "_hash_name", "_length", "_out", "_sealed", "_signer")

    def __init__(
        self,
        *,
        serial: bytes,
        algorithm: bytes,
        hash_name: str,
        version: int = 2,
        time_format: TimeFormat = TimeFormat.UNIX,
    ) -> None:
        if len(serial) != 32 or len(algorithm) != 2:
            raise ValueError("a serial number has 32 bytes and an algorithm 2 arcs")
        self._signer = ffi.new(
            "fk_log_signer *",
            {"serial": serial, "algorithm": algorithm, "version": version, "time_format": time_format},
        )
        self._hash_name = hash_name
        self._digest = ffi.new("uint8_t[32]") if hash_name == "sha256" else ffi.NULL
        self._length = ffi.new("size_t *")
        self._allocate(2048)

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        self._out = ffi.new("uint8_t[]", capacity)
        self._sealed = ffi.new("uint8_t[]", capacity + 192)  # headers and the largest signature, 132 bytes

    def _reserve(self, variable: int) -> None:
        if variable + 512 > self._capacity:
            self._allocate(2 * (variable + 512))

    def _hashed(self) -> bytes:
        if self._digest:
            return ffi.buffer(self._digest)[:]
        return hashlib.new(self._hash_name, self.tbs).digest()

    @property
    def tbs(self) -> bytes:
        """The bytes to be signed of the message that was built last."""
        return ffi.buffer(self._out, self._length[0])[:]

    def transaction(
        self,
        operation: int,
        client_id: bytes,
        process_data: bytes,
        process_type: bytes | None,
        number: int,
        counter: int,
        unix_ms: int,
        *,
        chunks: Sequence[int] | None = None,
        external_data: bytes | None = None,
    ) -> bytes:
        """Build a transaction log and return its digest.

        ``chunks`` are the lengths of the pieces of ``process_data`` for the indefinite form; None is the
        definite form. ``process_type`` and ``external_data`` leave their element out if None.
        """
        external = external_data or b""
        chunk_count = 0 if chunks is None else len(chunks)
        process_type_length = 0 if process_type is None else len(process_type)
        self._reserve(
            len(client_id) + len(process_data) + process_type_length + len(external) + 6 * chunk_count
        )
        status = lib.fk_log_transaction(
            self._signer,
            operation,
            client_id,
            len(client_id),
            process_data,
            len(process_data),
            ffi.NULL if chunks is None else ffi.new("size_t[]", list(chunks) or 1),
            chunk_count,
            ffi.NULL if process_type is None else process_type,
            process_type_length,
            ffi.NULL if external_data is None else external,
            len(external),
            number,
            counter,
            unix_ms,
            self._out,
            self._capacity,
            self._length,
            self._digest,
        )
        if status:
            check(status)
        return self._hashed()

    def system(
        self,
        operation: bytes,
        data: bytes,
        counter: int,
        unix_ms: int,
        *,
        origin: bytes = b"",
        user: bytes | None = None,
    ) -> bytes:
        """Build a system log and return its digest. ``origin`` and ``user`` appear in version 3 only."""
        self._reserve(len(operation) + len(data) + len(origin) + len(user or b""))
        check(
            lib.fk_log_system(
                self._signer,
                operation,
                len(operation),
                origin,
                len(origin),
                ffi.NULL if user is None else user,
                len(user or b""),
                data,
                len(data),
                counter,
                unix_ms,
                self._out,
                self._capacity,
                self._length,
                self._digest,
            )
        )
        return self._hashed()

    def audit(self, data: bytes, counter: int, unix_ms: int) -> bytes:
        """Build an audit log around the vendor's ``data`` and return its digest."""
        self._reserve(len(data))
        check(
            lib.fk_log_audit(
                self._signer,
                data,
                len(data),
                counter,
                unix_ms,
                self._out,
                self._capacity,
                self._length,
                self._digest,
            )
        )
        return self._hashed()

    def seal(self, signature: bytes) -> bytes:
        """Return the finished message: what was built last, with ``signature`` (at most 160 bytes)."""
        length = ffi.new("size_t *")
        status = lib.fk_log_seal(
            self._out,
            self._length[0],
            signature,
            len(signature),
            self._sealed,
            self._capacity + 192,
            length,
        )
        if status:
            check(status)
        return ffi.buffer(self._sealed, length[0])[:]


def plain_signature(der: bytes, size: int) -> bytes:
    """Return ``r || s``, ``size`` bytes each, of an ECDSA signature in DER (TR-03111 §5.2.1).

    Raises :class:`fiskal.errors.CoreError` if ``der`` is not one or a number does not fit.
    """
    out = ffi.new("uint8_t[]", 2 * size)
    status = lib.fk_ecdsa_plain(der, len(der), size, out)
    if status:
        check(status)
    return ffi.buffer(out)[:]


def time_tlv(time_format: TimeFormat, unix_ms: int) -> bytes:
    """Return a moment as the complete TLV of ``time_format``."""
    out = ffi.new("uint8_t[24]")
    length = ffi.new("size_t *")
    check(lib.fk_log_time(time_format, unix_ms, out, 24, length))
    return ffi.buffer(out, length[0])[:]


# ---- reading ----------------------------------------------------------------------------------

_MESSAGE: Final = layout("=QQq24I4I4BI", "fk_log_message")
_ELEMENT: Final = layout("=III4B", "fk_element")
_ENTRY: Final = layout("=2Q5I4B", "fk_tar_entry")
ENTRIES: Final = 512
"""Members that one scan of an archive finds at most."""


class _Scratch(threading.local):
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.message = ffi.new("fk_log_message *")
        self.message_bytes = ffi.buffer(self.message)
        self.element = ffi.new("fk_element *")
        self.element_bytes = ffi.buffer(self.element)
        self.entries = ffi.new("fk_tar_entry[]", ENTRIES)
        self.entries_bytes = ffi.buffer(self.entries)
        self.scan = ffi.new("fk_tar_scan *")


_scratch: Final = _Scratch()
_new: Final = ffi.new_allocator(should_clear_after_alloc=False)


def read_message(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Read one log message: the status, and the members of ``fk_log_message`` in their order."""
    scratch = _scratch
    status = lib.fk_log_read(data, len(data), scratch.message)
    return status, _MESSAGE.unpack(scratch.message_bytes)


def join_chunks(data: bytes, count: int, length: int) -> tuple[bytes, tuple[int, ...]]:
    """Join the ``count`` chunks that ``data`` was found to be; ``length`` is that of ``data``."""
    out = _new("uint8_t[]", length)
    lengths = ffi.new("uint32_t[]", count)
    check(lib.fk_log_join(data, length, out, lengths))
    sizes = tuple(lengths)
    return ffi.buffer(out)[: sum(sizes)], sizes


def read_time(tag: int, content: bytes) -> int | None:
    """Return the ticks of a time's content (tag 02, 17 or 18); None if it is none."""
    ticks = ffi.new("int64_t *")
    return None if lib.fk_log_read_time(tag, content, len(content), ticks) else int(ticks[0])


class RawElement(NamedTuple):
    """One element (TLV) of some bytes: where its content begins and how long it is, and where it ends."""

    start: int
    content: int
    length: int
    end: int
    tag: int
    indefinite: bool
    non_der: bool


def read_elements(data: bytes, start: int = 0, end: int | None = None) -> Iterator[RawElement]:
    """Read the elements of ``data[start:end]``, one behind the other.

    Raises :class:`fiskal.errors.CoreError` with an FK_E_LOG_* status where one cannot be read.
    """
    at = start
    limit = len(data) if end is None else end
    scratch = _scratch
    while at < limit:
        check(lib.fk_der_read(data, limit, at, scratch.element))
        content, length, following, tag, indefinite, non_der, _ = _ELEMENT.unpack(scratch.element_bytes)
        yield RawElement(at, content, length, following, tag, bool(indefinite), bool(non_der))
        at = following


class Scan(NamedTuple):
    """What a scan over the first bytes of an archive found; see ``fk_tar_scan``."""

    status: int
    found: int
    others: int
    consumed: int
    skip: int
    at_end: bool


class Entry(NamedTuple):
    """One member of an archive, as it lies in the bytes that were scanned; see ``fk_tar_entry``."""

    size: int
    mtime: int
    name: int
    name_length: int
    prefix: int
    prefix_length: int
    data: int
    type: int
    is_log: int
    is_whole: int
    padding: int


def scan_archive(data: bytes | bytearray | memoryview, large: int) -> Scan:
    """Scan the headers at the beginning of ``data``; :func:`scanned_entries` then gives what was found."""
    scan = _scratch.scan
    status = lib.fk_tar_scan_entries(
        ffi.from_buffer("uint8_t[]", data), len(data), large, _scratch.entries, ENTRIES, scan
    )
    return Scan(status, scan.count, scan.others, scan.consumed, scan.skip, bool(scan.at_end))


def scanned_entries(count: int) -> Iterator[Entry]:
    """The members that the last scan of this thread found."""
    found = _scratch.entries_bytes[: count * _ENTRY.size]
    return map(Entry._make, _ENTRY.iter_unpack(found))
