"""Reading log messages of any TSE (TR-03151 v1.0.1 and TR-03151-1): tolerant and lossless.

What deviates from DER or from the guideline becomes a finding, not an error, as long as the message can be
read; a signature is always checked over the bytes as they stand, never over bytes encoded again.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal._core import lib
from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS
from fiskal.errors import CoreError, FiskalError
from fiskal.tse._native import join_chunks, read_elements, read_message
from fiskal.tse.algorithms import ALGORITHMS, Algorithm, algorithm_by_oid, verify


class LogMessageError(FiskalError):
    """Bytes that cannot be read as a log message. ``code`` is stable: TRUNCATED, TRAILING_DATA,
    UNEXPECTED_ELEMENT, MISSING_SIGNATURE_COUNTER, BAD_TIME, TOO_DEEP, TOO_LONG."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LogType(enum.Enum):
    """certifiedDataType."""

    TRANSACTION = 1
    SYSTEM = 2
    AUDIT = 3
    UNKNOWN = 0


class TimeKind(enum.Enum):
    """The type of logTime; the value is the prefix in file names."""

    UNIX = "Unixt"
    UTC = "Utc"
    GENERALIZED = "Gent"


class Finding(enum.StrEnum):
    """What is unusual about a message that could be read."""

    NON_DER = "a length or an integer is not encoded minimally, or a length is indefinite"
    DEFINITE_CHUNKS = "chunked process data has a definite length"
    NOT_PRINTABLE = "a text holds characters that are not in PrintableString"
    DUPLICATE_ELEMENT = "an element appears twice"
    UNKNOWN_ELEMENT = "an element is not in the guideline"
    UNKNOWN_TYPE = "certifiedDataType is unknown"
    UNKNOWN_VERSION = "the version is neither 2 nor 3"
    UNKNOWN_ALGORITHM = "the signature algorithm is unknown"
    ALGORITHM_PARAMETERS = "the signature algorithm has parameters"
    WEAK_ALGORITHM = "the hash of the signature algorithm is shorter than 256 bit"
    MISSING_ELEMENT = "an element that the guideline demands is missing"
    LARGE_NUMBER = "a counter or transaction number does not fit in 64 bits"


@dataclass(frozen=True, slots=True)
class Element:
    """One TLV: ``tag``, ``content``, and ``raw`` with header and, if indefinite, terminator."""

    tag: int
    content: bytes
    raw: bytes
    indefinite: bool = False


class LogMessage(msgspec.Struct, frozen=True, gc=False):
    """One log message. ``log_time`` is ticks; ``time_text`` what a file name holds for it.

    ``tbs`` are the signed bytes, ``raw`` all of them. What a type of message does not have is None.
    """

    raw: bytes
    tbs: bytes
    version: int
    type: LogType
    serial: bytes
    algorithm_oid: bytes
    signature_counter: int
    time_kind: TimeKind
    log_time: int
    time_text: str
    signature: bytes
    findings: frozenset[Finding]
    type_oid: bytes
    _elements: tuple[int, int, int]
    audit_data: bytes | None = None
    operation: str | None = None
    """operationType or eventType."""
    client_id: str | None = None
    process_data: bytes | None = None
    """Chunks are joined."""
    process_data_chunks: tuple[int, ...] | None = None
    """The lengths of the chunks; None if the process data is not chunked."""
    process_type: str | None = None
    transaction_number: int | None = None

    @property
    def elements(self) -> dict[int, Element]:
        """The type specific elements by context tag number (0x80 is 0); of duplicates the first."""
        found: dict[int, Element] = {}
        first, length, _ = self._elements
        for element in elements(self.raw, first, first + length):
            found.setdefault(element.tag & 0x1F, element)
        return found

    def has_element(self, number: int) -> bool:
        """True if the type specific element with this context tag number is there."""
        return bool(self._elements[2] >> number & 1)

    @property
    def algorithm(self) -> Algorithm | None:
        """The signature algorithm; None if its OID is unknown."""
        return algorithm_by_oid(self.algorithm_oid)

    def verify(self, key: ec.EllipticCurvePublicKey) -> bool:
        """True if the signature holds under ``key``.

        Raises :class:`fiskal.tse.algorithms.AlgorithmNotSupported` for Schnorr signatures; False if the
        algorithm is unknown.
        """
        algorithm = self.algorithm
        return algorithm is not None and verify(key, algorithm, self.tbs, self.signature)


def elements(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Element]:
    """Read the elements of ``data[start:end]``, one behind the other. Raises :class:`LogMessageError`."""
    try:
        for at, content, length, following, tag, indefinite, _ in read_elements(data, start, end):
            yield Element(tag, data[content : content + length], data[at:following], indefinite)
    except CoreError as error:
        raise _error(error.status, start) from error


_ERRORS: Final = {
    lib.FK_E_LOG_TRUNCATED: ("TRUNCATED", "An element at byte {} is longer than what it lies in."),
    lib.FK_E_LOG_TRAILING: ("TRAILING_DATA", "Bytes follow the message, from byte {} on."),
    lib.FK_E_LOG_UNEXPECTED: ("UNEXPECTED_ELEMENT", "The element at byte {} is none that may stand there."),
    lib.FK_E_LOG_COUNTER: (
        "MISSING_SIGNATURE_COUNTER",
        "The message has no signatureCounter before byte {}.",
    ),
    lib.FK_E_LOG_TIME: ("BAD_TIME", "logTime, before byte {}, is no time of the years 1 to 9999."),
    lib.FK_E_LOG_DEPTH: ("TOO_DEEP", "The elements at byte {} are nested too deeply."),
    lib.FK_E_ARGUMENT: ("TOO_LONG", "The message is longer than 2 GiB."),
}


def _error(status: int, fault: int) -> LogMessageError:
    code, text = _ERRORS[status]
    return LogMessageError(code, text.format(fault))


_BITS: Final = {
    lib.FK_LOG_NON_DER: Finding.NON_DER,
    lib.FK_LOG_DEFINITE_CHUNKS: Finding.DEFINITE_CHUNKS,
    lib.FK_LOG_NOT_PRINTABLE: Finding.NOT_PRINTABLE,
    lib.FK_LOG_DUPLICATE_ELEMENT: Finding.DUPLICATE_ELEMENT,
    lib.FK_LOG_UNKNOWN_ELEMENT: Finding.UNKNOWN_ELEMENT,
    lib.FK_LOG_UNKNOWN_TYPE: Finding.UNKNOWN_TYPE,
    lib.FK_LOG_UNKNOWN_VERSION: Finding.UNKNOWN_VERSION,
    lib.FK_LOG_ALGORITHM_PARAMETERS: Finding.ALGORITHM_PARAMETERS,
    lib.FK_LOG_MISSING_ELEMENT: Finding.MISSING_ELEMENT,
    lib.FK_LOG_LARGE_NUMBER: Finding.LARGE_NUMBER,
    1 << 16: Finding.UNKNOWN_ALGORITHM,
    1 << 17: Finding.WEAK_ALGORITHM,
}
_UNKNOWN_ALGORITHM: Final = 1 << 16
_ALGORITHM_BITS: Final = {
    algorithm.oid_content: 0 if algorithm.compliant else 1 << 17 for algorithm in ALGORITHMS
}
_NONE: Final[frozenset[Finding]] = frozenset()


@lru_cache(maxsize=1 << 12)
def _findings(bits: int) -> frozenset[Finding]:
    return frozenset(finding for bit, finding in _BITS.items() if bits & bit)


_TYPES: Final = (LogType.UNKNOWN, LogType.TRANSACTION, LogType.SYSTEM, LogType.AUDIT)
_KINDS: Final = {0x02: TimeKind.UNIX, 0x17: TimeKind.UTC, 0x18: TimeKind.GENERALIZED}


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def parse(data: bytes) -> LogMessage:
    """Read one log message. Raises :class:`LogMessageError`, and nothing else, if it cannot be read."""
    (
        status,
        (
            counter,
            number,
            log_time,
            tbs,
            tbs_length,
            type_oid,
            type_oid_length,
            first_element,
            elements_length,
            operation,
            operation_length,
            client,
            client_length,
            process_data,
            process_data_length,
            process_type,
            process_type_length,
            serial,
            serial_length,
            oid,
            oid_length,
            audit,
            audit_length,
            time,
            time_length,
            signature,
            signature_length,
            present,
            chunk_count,
            bits,
            version,
            log_type,
            time_tag,
            has_audit_data,
            chunked,
            fault,
        ),
    ) = read_message(data)
    if status:
        raise _error(status, fault)
    algorithm_oid = data[oid : oid + oid_length]
    bits |= _ALGORITHM_BITS.get(algorithm_oid, _UNKNOWN_ALGORITHM)
    is_transaction = log_type == 1
    content: bytes | None = None
    chunks: tuple[int, ...] | None = None
    if is_transaction and present & 4:
        content = data[process_data : process_data + process_data_length]
        if chunk_count > 1:
            content, chunks = join_chunks(content, chunk_count, process_data_length)
        elif chunked:
            chunks = (process_data_length,) if chunk_count else ()
    return LogMessage(
        data,
        data[tbs : tbs + tbs_length],
        version,
        _TYPES[log_type],
        data[serial : serial + serial_length],
        algorithm_oid,
        counter,
        _KINDS[time_tag],
        log_time,
        str((log_time - UNIX_EPOCH_TICKS) // TICKS_PER_SECOND)
        if time_tag == 0x02
        else data[time : time + time_length].decode("ascii"),
        data[signature : signature + signature_length],
        _findings(bits) if bits else _NONE,
        data[type_oid : type_oid + type_oid_length],
        (first_element, elements_length, present),
        data[audit : audit + audit_length] if has_audit_data else None,
        _text(data[operation : operation + operation_length]) if present & 1 and log_type in (1, 2) else None,
        _text(data[client : client + client_length]) if is_transaction and present & 2 else None,
        content,
        chunks,
        _text(data[process_type : process_type + process_type_length])
        if is_transaction and present & 8
        else None,
        number if is_transaction and present & 32 else None,
    )


# ---- file names (TR-03153-1 §5.2.2) -----------------------------------------------------------

_FILE_NAME: Final = re.compile(
    r"(?:\./)?(Unixt|Utc|Gent|Unix)_([0-9.]+Z?)_Sig-(\d+)_Log-"
    r"(?:Tra_No-(\d+)_(Start|Update|Finish)_Client-(.+?)|Sys_([A-Za-z]+)|(Aud))(?:_Fc-(\d+))?\.log",
    re.ASCII,
)
_OPERATION_PART: Final = {
    "starttransaction": "Start",
    "updatetransaction": "Update",
    "finishtransaction": "Finish",
}


@dataclass(frozen=True, slots=True)
class FileName:
    """The parts of a log file's name; ``copy`` is the n of ``_Fc-n``."""

    time_kind: TimeKind
    time_text: str
    signature_counter: int
    type: LogType
    transaction_number: int | None = None
    operation: str | None = None
    client_id: str | None = None
    copy: int | None = None


def parse_file_name(name: str) -> FileName | None:
    """Read a log file's name; None if it is not one."""
    match = _FILE_NAME.fullmatch(name)
    if match is None:
        return None
    kind, time_text, counter, number, step, client_id, system, _, copy = match.groups()
    if number is not None:
        log_type = LogType.TRANSACTION
    else:
        log_type = LogType.SYSTEM if system is not None else LogType.AUDIT
    return FileName(
        time_kind=TimeKind("Unixt" if kind == "Unix" else kind),
        time_text=time_text,
        signature_counter=int(counter),
        type=log_type,
        transaction_number=None if number is None else int(number),
        operation=step if number is not None else system,
        client_id=client_id,
        copy=None if copy is None else int(copy),
    )


def build_file_name(message: LogMessage, copy: int | None = None) -> str:
    """Return the name a message has in an export. Raises ValueError for a message of unknown type."""
    head = f"{message.time_kind.value}_{message.time_text}_Sig-{message.signature_counter}_Log-"
    tail = ".log" if copy is None else f"_Fc-{copy}.log"
    if message.type is LogType.AUDIT:
        return f"{head}Aud{tail}"
    operation = message.operation or ""
    if message.type is LogType.SYSTEM:
        return f"{head}Sys_{operation}{tail}"
    step = _OPERATION_PART.get(operation.lower())
    if message.type is LogType.UNKNOWN or step is None:
        raise ValueError("A message of unknown type has no file name.")
    return f"{head}Tra_No-{message.transaction_number}_{step}_Client-{message.client_id}{tail}"


def file_name_agrees(name: FileName, message: LogMessage) -> bool:
    """True if a file's name says what its content says; where it does not, the content is right."""
    operation = (message.operation or "").lower()
    if message.type is LogType.TRANSACTION:
        operation = _OPERATION_PART.get(operation, "").lower()
    return (
        name.time_kind is message.time_kind
        and name.time_text == message.time_text
        and name.signature_counter == message.signature_counter
        and name.type is message.type
        and name.transaction_number == message.transaction_number
        and name.client_id == message.client_id
        and (name.operation or "").lower() == operation
    )
