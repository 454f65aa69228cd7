"""Checking the log messages of one piece of an archive: what every message says of itself.

This is the work that can be shared between processes. It needs no more than the piece and the certificates
known so far, and gives the rows from which the log as a whole is judged (:mod:`fiskal.tse.ledger`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fiskal.tse.algorithms import Algorithm, algorithm_by_oid, curve_by_name, point_of, serial_of_point
from fiskal.tse.certificates import X509_ERRORS
from fiskal.tse.events import DeregisterClient, Event, RegisterClient, UpdateTime, decode_event, summary
from fiskal.tse.findings import Code, Severity
from fiskal.tse.logmessage import (
    LogMessage,
    LogMessageError,
    LogType,
    TimeKind,
    build_file_name,
    file_name_agrees,
    parse,
    parse_file_name,
)
from fiskal.tse.tar import Member, members_of

OTHER: Final = 0
START: Final = 1
UPDATE: Final = 2
FINISH: Final = 3
SYSTEM: Final = 4
AUDIT: Final = 5
UPDATE_TIME: Final = 6
REGISTER: Final = 7
DEREGISTER: Final = 8
DISABLE: Final = 9
TRANSACTION_OTHER: Final = 10
"""The kinds of a row. Those from START to FINISH are steps of a transaction."""

STEPS: Final = {
    "starttransaction": START,
    "updatetransaction": UPDATE,
    "finishtransaction": FINISH,
    "StartTransaction": START,
    "UpdateTransaction": UPDATE,
    "FinishTransaction": FINISH,
}
"""By operationType in lower case; and as version 2 spells it, which is the usual case."""
_EVENT_KINDS: Final = {
    "updatetime": UPDATE_TIME,
    "registerclient": REGISTER,
    "addclients": REGISTER,
    "deregisterclient": DEREGISTER,
    "removeclients": DEREGISTER,
    "disablesecureelement": DISABLE,
}
_63_BITS: Final = (1 << 63) - 1
SHIFT: Final = 1 << 63
"""Counters are unsigned, the numbers of the ledger are not: it holds them minus this."""


class Task(msgspec.Struct, array_like=True):
    """What is to be checked: the log messages of ``segment``, or only the signatures of ``waiting``.

    ``certificates`` are all that are known, DER.
    """

    archive: int
    segment: bytes
    certificates: list[bytes]
    waiting: list[tuple[str, bytes]] = []


class Row(NamedTuple):
    """What has to be known of a message to judge the log as a whole.

    ``counter`` is shifted by :data:`SHIFT`, and so is the ``number`` of a transaction. Of an updateTime,
    ``number`` and ``client`` are the times before and behind it, in ticks, 0 if unknown. ``client`` is
    otherwise :func:`client_key`, 0 if there is none.
    """

    counter: int
    time: int
    kind: int
    number: int
    client: int
    digest: bytes
    signature: int
    name: str


class Result(msgspec.Struct, array_like=True):
    """What was found. ``rows`` are those of every serial number in ``serials``; ``waiting`` are the messages
    without a certificate so far; ``events`` are place in ``serials``, place in its rows, name and text of system
    logs; ``traits`` are version, algorithm and time format of the messages of a serial number, each once."""

    archive: int
    logs: int = 0
    valid: int = 0
    invalid: int = 0
    unchecked: int = 0
    unreadable: int = 0
    serials: list[bytes] = []
    rows: list[list[Row]] = []
    findings: list[tuple[Severity, Code, str, str]] = []
    waiting: list[tuple[str, bytes]] = []
    events: list[tuple[int, int, str, str]] = []
    clients: dict[str, int] = {}
    traits: list[tuple[int, str]] = []
    error: str = ""


@lru_cache(maxsize=4096)
def client_key(client_id: str) -> int:
    """A client id as a number of 63 bits, never 0."""
    digest = hashlib.blake2b(client_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 or 1


def signature_key(signature: bytes) -> int:
    """The last 63 bits of s: the same for a signature in plain format and in DER."""
    return int.from_bytes(signature[-8:]) & _63_BITS


Verify = Callable[[bytes, bytes], bool]
"""Takes the signed bytes and the plain signature."""


def verifier(key: ec.EllipticCurvePublicKey, algorithm: Algorithm) -> Verify:
    """A function that checks plain signatures of one key and algorithm, which must not be Schnorr.

    Raises :class:`fiskal.tse.algorithms.KeyNotUsable` for a key on another curve than a TSE may use.
    """
    curve = curve_by_name(key.curve.name)
    size = curve.scalar_size
    order = curve.order
    ecdsa = ec.ECDSA(algorithm.hash)
    check = key.verify
    encode = utils.encode_dss_signature
    number = int.from_bytes

    def holds(tbs: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * size:
            return False
        r = number(signature[:size], "big")
        s = number(signature[size:], "big")
        if not (0 < r < order and 0 < s < order):
            return False
        try:
            check(encode(r, s), tbs, ecdsa)
        except InvalidSignature:
            return False
        return True

    return holds


class Checker:
    """Checks tasks one after the other; keeps the keys it has read. Not to be shared between threads."""

    def __init__(self) -> None:
        self._known: list[bytes] = []
        self._keys: dict[bytes, ec.EllipticCurvePublicKey] = {}
        self._verifiers: dict[tuple[bytes, bytes], Verify] = {}

    def check(self, task: Task) -> Result:
        self._learn(task.certificates)
        result = Result(task.archive)
        piece = _Piece(result)
        if task.waiting:
            for name, data in task.waiting:
                self._signature(result, name, parse(data), last=True)
            return result
        for member in members_of(task.segment):
            if member.type == "0" and member.name[-4:].lower() == ".log":
                message = piece.read(member)
                if message is not None:
                    self._signature(result, member.name, message, last=False)
        result.serials = list(piece.serials)
        result.traits = piece.traits()
        return result

    def _learn(self, certificates: list[bytes]) -> None:
        if certificates == self._known:
            return
        for der in certificates[len(self._known) :] if self._extends(certificates) else certificates:
            try:
                key = x509.load_der_x509_certificate(der).public_key()
                if isinstance(key, ec.EllipticCurvePublicKey):
                    self._keys.setdefault(serial_of_point(point_of(key)), key)
            except X509_ERRORS:
                continue  # reported where it was read from the archive
        self._known = certificates

    def _extends(self, certificates: list[bytes]) -> bool:
        return certificates[: len(self._known)] == self._known

    def _signature(self, result: Result, name: str, message: LogMessage, *, last: bool) -> None:
        found = self._verifiers.get((message.serial, message.algorithm_oid))
        if found is None:
            key = self._keys.get(message.serial)
            if key is None:
                if last:
                    result.unchecked += 1
                    result.findings.append((Severity.ERROR, Code.NO_CERTIFICATE, name, message.serial.hex()))
                else:
                    result.waiting.append((name, message.raw))
                return
            algorithm = message.algorithm
            if algorithm is None or algorithm.schnorr:
                result.unchecked += 1
                text = message.algorithm_oid.hex() if algorithm is None else algorithm.name
                result.findings.append((Severity.ERROR, Code.ALGORITHM_NOT_SUPPORTED, name, text))
                return
            try:
                found = verifier(key, algorithm)
            except X509_ERRORS as error:  # on a curve that no TSE may use
                result.invalid += 1
                result.findings.append((Severity.ERROR, Code.SIGNATURE_INVALID, name, str(error)))
                return
            self._verifiers[message.serial, message.algorithm_oid] = found
        if found(message.tbs, message.signature):
            result.valid += 1
        else:
            result.invalid += 1
            result.findings.append((Severity.ERROR, Code.SIGNATURE_INVALID, name, ""))


class _Piece:
    """Turns the messages of one piece into rows and findings."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.serials: dict[bytes, int] = {}
        self._traits: dict[tuple[int, int, bytes, TimeKind], None] = {}

    def traits(self) -> list[tuple[int, str]]:
        found: dict[tuple[int, str], None] = {}
        for serial, version, oid, kind in self._traits:
            algorithm = algorithm_by_oid(oid)
            name = algorithm.name if algorithm else "unknown algorithm"
            for text in (f"version {version}", name, _TIME_NAMES[kind]):
                found[serial, text] = None
        return list(found)

    def note(self, severity: Severity, code: Code, name: str, text: str = "") -> None:
        self.result.findings.append((severity, code, name, text))

    def read(self, member: Member) -> LogMessage | None:
        result = self.result
        result.logs += 1
        name = member.name
        if member.data is None:
            result.unreadable += 1
            self.note(Severity.ERROR, Code.LOG_UNREADABLE, name, f"It has {member.size} bytes.")
            return None
        try:
            message = parse(member.data)
        except LogMessageError as error:
            result.unreadable += 1
            self.note(Severity.ERROR, Code.LOG_UNREADABLE, name, str(error))
            return None
        try:
            usual = build_file_name(message)
        except ValueError:
            usual = ""
        if name != usual:
            parsed = parse_file_name(name)
            if parsed is None or not file_name_agrees(parsed, message):
                self.note(Severity.WARNING, Code.NAME_MISMATCH, name)
        self._row(name, message)
        return message

    def _row(self, name: str, message: LogMessage) -> None:
        serial = self.serials.get(message.serial)
        if serial is None:
            serial = self.serials[message.serial] = len(self.serials)
            self.result.rows.append([])
        rows = self.result.rows[serial]
        number = client = 0
        texts = [finding.value for finding in message.findings] if message.findings else []
        if message.type is LogType.TRANSACTION:
            kind = STEPS.get(message.operation or "") or STEPS.get(
                (message.operation or "").lower(), TRANSACTION_OTHER
            )
            number = (message.transaction_number or 0) - SHIFT
            if message.client_id is not None:
                client = client_key(message.client_id)
                self.result.clients[message.client_id] = client
            _transaction_conformance(message, kind, texts)
        elif message.type is LogType.SYSTEM:
            event = decode_event(message)
            kind, number, client = self._event(event)
            texts += event.faults
            self.result.events.append((serial, len(rows), event.name[:100], summary(event)[:400]))
        else:
            kind = AUDIT if message.type is LogType.AUDIT else OTHER
        for text in sorted(texts):
            self.note(Severity.WARNING, Code.CONFORMANCE, name, text)
        self._traits[serial, message.version, message.algorithm_oid, message.time_kind] = None
        rows.append(
            Row(
                message.signature_counter - SHIFT,
                message.log_time,
                kind,
                number,
                client,
                hashlib.blake2b(message.raw, digest_size=16).digest(),
                signature_key(message.signature),
                name,
            )
        )

    def _event(self, event: Event) -> tuple[int, int, int]:
        kind = _EVENT_KINDS.get(event.name.lower(), SYSTEM)
        if isinstance(event, UpdateTime):
            return kind, event.time_before or 0, event.time_after or 0
        if isinstance(event, RegisterClient | DeregisterClient) and event.client_id is not None:
            client = client_key(event.client_id)
            self.result.clients[event.client_id] = client
            return kind, 0, client
        return kind, 0, 0


_TIME_NAMES: Final = {
    TimeKind.UNIX: "unixTime",
    TimeKind.UTC: "utcTime",
    TimeKind.GENERALIZED: "generalizedTime",
}


def _transaction_conformance(message: LogMessage, kind: int, texts: list[str]) -> None:
    if message.has_element(4):
        texts.append("additionalExternalData is present")
    if message.has_element(6):
        texts.append("additionalInternalData is present")
    if kind == TRANSACTION_OTHER:
        texts.append("operationType is unknown")
    elif (message.operation or "")[:1].islower() != (message.version >= 3):
        texts.append("operationType is spelled unusually")
    if message.version >= 3 and message.process_data_chunks is not None:
        texts.append("process data has an indefinite length")
