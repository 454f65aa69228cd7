"""The log message writer of the C core, for one TSE: what is signed, its hash, and the finished message."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from typing import Final

from fiskal._core import ffi, lib
from fiskal.core import check


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
