"""Checking a signature without the log message: what was signed is rebuilt from what is known of it.

Nobody prints in which of several permitted ways a TSE encodes its message, so the ways are tried one after
the other, the common ones first (TR-03153-1 §10.3).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.clock import TICKS_PER_MILLISECOND, UNIX_EPOCH_TICKS
from fiskal.errors import CoreError
from fiskal.tse._native import LOG_FINISH, LOG_START, LOG_UPDATE, MessageBuilder, TimeFormat
from fiskal.tse.algorithms import (
    Algorithm,
    AlgorithmNotSupported,
    KeyNotUsable,
    algorithm_by_name,
    load_public_keys,
    point_of,
    serial_of_point,
    verify,
)
from fiskal.tse.qr import QrError, QrV0, parse_qr

OPERATIONS: Final = {"start": LOG_START, "update": LOG_UPDATE, "finish": LOG_FINISH}


class Statement(NamedTuple):
    """What a transaction log says. ``operation`` is start, update or finish; ``log_time`` ticks.

    ``earlier`` are pieces of process data in front of the last one, of updates that were not signed.
    """

    operation: str
    client_id: str
    process_type: str
    process_data: bytes
    transaction_number: int
    signature_counter: int
    log_time: int
    earlier: tuple[bytes, ...] = ()


class Variant(NamedTuple):
    """One way to encode a statement: ``chunked`` is process data of indefinite length in one chunk,
    ``process_type`` whether an empty processType has an element."""

    version: int
    chunked: bool
    time_format: TimeFormat
    process_type: bool = True


def time_formats(name: str) -> tuple[TimeFormat, ...]:
    """The encodings a time format's name may mean, in any case; empty for a name nobody uses."""
    lowered = name.strip().lower()
    if lowered == "unixtime":
        return (TimeFormat.UNIX,)
    if lowered.startswith("utctime"):
        return (TimeFormat.UTC,)
    if lowered == "generalizedtime":
        return (TimeFormat.GENERALIZED, TimeFormat.GENERALIZED_MS)
    if lowered == "generalizedtimewithmilliseconds":
        return (TimeFormat.GENERALIZED_MS, TimeFormat.GENERALIZED)
    return ()


def variants(declared: tuple[TimeFormat, ...], *, empty_process_type: bool) -> Iterator[Variant]:
    """The encodings to try: with the declared time formats first, then with the others."""
    others = tuple(item for item in TimeFormat if item not in declared)
    presences = (True, False) if empty_process_type else (True,)
    for formats in (declared, others):
        for version in (2, 3):
            for chunked in (False, True):
                for time_format in formats:
                    for present in presences:
                        yield Variant(version, chunked, time_format, present)


class SignatureCheck:
    """Checks signatures of one TSE. Not to be shared between threads.

    Raises :class:`KeyNotUsable` for a key (bare point or SubjectPublicKeyInfo) that is none,
    :class:`AlgorithmNotSupported` for an algorithm that cannot be checked.
    """

    def __init__(
        self, *, public_key: bytes, algorithm: str, time_format: str, accept_der: bool = False
    ) -> None:
        self._keys = load_public_keys(public_key)
        self._algorithm: Algorithm = algorithm_by_name(algorithm)
        if self._algorithm.schnorr:
            raise AlgorithmNotSupported(f"Signatures with {self._algorithm.name} cannot be checked.")
        self._declared = time_formats(time_format)
        self._accept_der = accept_der
        self._builders: dict[tuple[int, TimeFormat], MessageBuilder] = {}
        self._last: Variant | None = None

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        return self._keys[0]

    def find(self, statement: Statement, signature: bytes) -> Variant | None:
        """Return the encoding under which the signature holds; None if there is none.

        The encoding that held last is tried first: a TSE does not change its ways.
        """
        last = self._last
        if (
            last is not None
            and (last.process_type or not statement.process_type)
            and self._holds(last, statement, signature)
        ):
            return last
        for variant in variants(self._declared, empty_process_type=not statement.process_type):
            if variant != last and self._holds(variant, statement, signature):
                self._last = variant
                return variant
        return None

    def _holds(self, variant: Variant, statement: Statement, signature: bytes) -> bool:
        try:
            tbs = self._build(variant, statement)
        except (CoreError, UnicodeEncodeError):
            return False  # for instance a year that UTCTime cannot hold
        return any(
            verify(key, self._algorithm, tbs, signature, accept_der=self._accept_der) for key in self._keys
        )

    def _build(self, variant: Variant, statement: Statement) -> bytes:
        builder = self._builders.get((variant.version, variant.time_format))
        if builder is None:
            builder = self._builders[variant.version, variant.time_format] = MessageBuilder(
                serial=serial_of_point(point_of(self._keys[0])),
                algorithm=self._algorithm.arcs,
                hash_name=self._algorithm.hash_name,
                version=variant.version,
                time_format=variant.time_format,
            )
        pieces = (*statement.earlier, statement.process_data)
        data = b"".join(pieces)
        builder.transaction(
            OPERATIONS[statement.operation],
            statement.client_id.encode(),
            data,
            statement.process_type.encode() if variant.process_type else None,
            statement.transaction_number,
            statement.signature_counter,
            (statement.log_time - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND,
            chunks=[len(piece) for piece in pieces] if variant.chunked else None,
        )
        return builder.tbs


class Reason(enum.StrEnum):
    """Why a QR code is not valid."""

    MALFORMED = "the text is no QR code of version V0"
    KEY = "the public key is no key a TSE may use"
    ALGORITHM = "the signature algorithm is not supported"
    SIGNATURE = "the signature does not hold"


_MEANINGS: Final = {
    Reason.MALFORMED: "The text was read or copied incompletely, or it is another kind of code.",
    Reason.KEY: "The text was altered, or the key is on a curve that TR-03116-5 does not allow for a TSE.",
    Reason.ALGORITHM: "Nothing is known about the signature; it may be valid.",
    Reason.SIGNATURE: (
        "The receipt may be forged or edited; but the TSE may also have put data of earlier updates or "
        "additional external data into its message, which the QR code does not carry, the time may have lost "
        "its fraction, or the text may have been altered in printing. Only the TSE's export can tell."
    ),
}


@dataclass(frozen=True, slots=True)
class QrResult:
    """What checking a QR code gave.

    A valid code proves only that the key in it signed the data; that the key is a certified TSE's takes its
    certificate (TR-03153-1 §10.3). ``serial`` is its serial number (lower-case hex), to look that up.
    """

    valid: bool
    qr: QrV0 | None = None
    variant: Variant | None = None
    serial: str | None = None
    reason: Reason | None = None
    detail: str = ""
    findings: tuple[str, ...] = ()

    @property
    def meaning(self) -> str:
        """What an invalid result can mean, for people; empty if valid."""
        return "" if self.reason is None else _MEANINGS[self.reason]


def finish_statement(qr: QrV0) -> Statement:
    """What a QR code says: the finish of a transaction."""
    return Statement(
        "finish",
        qr.client_id,
        qr.process_type,
        qr.process_data.encode(),
        qr.transaction_number,
        qr.signature_counter,
        qr.log_time,
    )


def verify_qr(text: str) -> QrResult:
    """Check the signature of a QR code by rebuilding the finish message it belongs to."""
    try:
        qr = parse_qr(text)
    except QrError as error:
        return QrResult(False, reason=Reason.MALFORMED, detail=str(error))
    try:
        check = SignatureCheck(
            public_key=qr.public_key,
            algorithm=qr.signature_algorithm,
            time_format=qr.log_time_format,
            accept_der=True,
        )
    except KeyNotUsable as error:
        return QrResult(False, qr, reason=Reason.KEY, detail=str(error))
    except AlgorithmNotSupported as error:
        return QrResult(False, qr, reason=Reason.ALGORITHM, detail=str(error))
    serial = serial_of_point(point_of(check.key)).hex()
    findings: list[str] = []
    if qr.start_time > qr.log_time:
        findings.append("startTime is later than logTime")
    statement = finish_statement(qr)
    variant = check.find(statement, qr.signature)
    if variant is None:
        return QrResult(False, qr, serial=serial, reason=Reason.SIGNATURE, findings=tuple(findings))
    if variant.time_format not in time_formats(qr.log_time_format):
        findings.append(f"the signed time is {variant.time_format.text}, not {qr.log_time_format}")
    if len(qr.signature) != 2 * ((check.key.curve.key_size + 7) // 8):
        findings.append("the signature is DER, not plain")
    return QrResult(True, qr, variant, serial, findings=tuple(findings))
