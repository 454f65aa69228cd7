"""Reading log messages of any TSE (TR-03151 v1.0.1 and TR-03151-1): tolerant and lossless.

What deviates from DER or from the guideline becomes a finding, not an error, as long as the message can be
read; a signature is always checked over the bytes as they stand, never over bytes encoded again.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS
from fiskal.errors import FiskalError
from fiskal.tse.algorithms import Algorithm, algorithm_by_oid, verify

_TYPE_OID_PREFIX: Final = bytes.fromhex("04007f0007030701")


class LogMessageError(FiskalError):
    """Bytes that cannot be read as a log message. ``code`` is stable: TRUNCATED, TRAILING_DATA,
    UNEXPECTED_ELEMENT, MISSING_SIGNATURE_COUNTER, BAD_TIME, TOO_DEEP."""

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
    FILE_NAME = "the file name disagrees with the content"


@dataclass(frozen=True, slots=True)
class Element:
    """One TLV: ``tag``, ``content``, and ``raw`` with header and, if indefinite, terminator."""

    tag: int
    content: bytes
    raw: bytes
    indefinite: bool = False


@dataclass(frozen=True, slots=True)
class LogMessage:
    """One log message. ``log_time`` is ticks; ``time_text`` what a file name holds for it.

    ``elements`` are the type specific elements by context tag number (0x80 is 0). ``tbs`` are the signed
    bytes, ``raw`` all of them.
    """

    raw: bytes
    tbs: bytes
    version: int
    type: LogType
    type_oid: bytes
    elements: dict[int, Element]
    serial: bytes
    algorithm_oid: bytes
    audit_data: bytes | None
    signature_counter: int
    time_kind: TimeKind
    log_time: int
    time_text: str
    signature: bytes
    operation: str | None = None
    """operationType or eventType."""
    client_id: str | None = None
    process_data: bytes | None = None
    """Chunks are joined."""
    process_data_chunks: tuple[int, ...] | None = None
    """The lengths of the chunks; None if the process data is not chunked."""
    process_type: str | None = None
    transaction_number: int | None = None
    findings: frozenset[Finding] = field(default_factory=frozenset)

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


class _Reader:
    """Reads TLVs one after the other and notes what is not DER."""

    def __init__(self, data: bytes, findings: set[Finding]) -> None:
        self.data = data
        self.at = 0
        self.findings = findings

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def _byte(self) -> int:
        if self.at >= len(self.data):
            raise LogMessageError("TRUNCATED", f"The message ends at byte {self.at} within an element.")
        self.at += 1
        return self.data[self.at - 1]

    def element(self, depth: int = 0) -> Element:
        """Read one element; an indefinite length is read to its terminator."""
        if depth > 8:
            raise LogMessageError("TOO_DEEP", "Elements are nested too deeply.")
        start = self.at
        tag = self._byte()
        if tag & 0x1F == 0x1F:
            raise LogMessageError("UNEXPECTED_ELEMENT", f"The tag at byte {start} has several bytes.")
        length = self._byte()
        if length == 0x80:
            if not tag & 0x20:
                raise LogMessageError(
                    "UNEXPECTED_ELEMENT", f"A primitive element at byte {start} has no length."
                )
            return self._indefinite(start, tag, depth)
        if length > 0x80:
            count = length & 0x7F
            if self.at + count > len(self.data):
                raise LogMessageError("TRUNCATED", f"The message ends at byte {self.at} within a length.")
            octets = self.data[self.at : self.at + count]
            self.at += count
            length = int.from_bytes(octets)
            if length < 0x80 or octets[0] == 0:
                self.findings.add(Finding.NON_DER)
        if length > len(self.data) - self.at:
            raise LogMessageError("TRUNCATED", f"The element at byte {start} is longer than the message.")
        content = self.data[self.at : self.at + length]
        self.at += length
        return Element(tag, content, self.data[start : self.at])

    def _indefinite(self, start: int, tag: int, depth: int) -> Element:
        begin = self.at
        while True:
            if self.data[self.at : self.at + 2] == b"\0\0":
                content = self.data[begin : self.at]
                self.at += 2
                return Element(tag, content, self.data[start : self.at], indefinite=True)
            self.element(depth + 1)


def _unsigned(element: Element, findings: set[Finding]) -> int:
    content = element.content
    if not content:
        raise LogMessageError("UNEXPECTED_ELEMENT", "An INTEGER has no content.")
    if len(content) > 1 and content[0] == 0 and content[1] < 0x80:
        findings.add(Finding.NON_DER)
    if content[0] >= 0x80:  # a writer that forgot the leading zero
        findings.add(Finding.NON_DER)
    return int.from_bytes(content)


_PRINTABLE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")


def _text(element: Element, findings: set[Finding]) -> str:
    if not _PRINTABLE.issuperset(element.content):
        findings.add(Finding.NOT_PRINTABLE)
    try:
        return element.content.decode("utf-8")
    except UnicodeDecodeError:
        return element.content.decode("latin-1")


_UTC_TIME: Final = re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?Z")
_GENERALIZED_TIME: Final = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,7})\d*)?)?)?Z")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _time(element: Element, findings: set[Finding]) -> tuple[TimeKind, int, str]:
    content = element.content
    if element.tag == 0x02:
        if not content:
            raise LogMessageError("BAD_TIME", "logTime has no content.")
        seconds = int.from_bytes(content, signed=True)
        if len(content) > 1 and content[0] == 0 and content[1] < 0x80:
            findings.add(Finding.NON_DER)
        return TimeKind.UNIX, UNIX_EPOCH_TICKS + seconds * TICKS_PER_SECOND, str(seconds)
    kind = TimeKind.UTC if element.tag == 0x17 else TimeKind.GENERALIZED
    match = (_UTC_TIME if kind is TimeKind.UTC else _GENERALIZED_TIME).fullmatch(content)
    if match is None:
        raise LogMessageError("BAD_TIME", f"logTime {content!r} is no time.")
    groups = match.groups()
    year, month, day, hour, minute, second = (int(group or 0) for group in groups[:6])
    fraction = groups[6] if kind is TimeKind.GENERALIZED else None
    if kind is TimeKind.UTC:
        year += 1900 if year >= 50 else 2000
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise LogMessageError("BAD_TIME", f"logTime {content!r} is no time.") from error
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    ticks = UNIX_EPOCH_TICKS + seconds * TICKS_PER_SECOND
    if fraction:
        ticks += int(fraction.ljust(7, b"0"))
    return kind, ticks, content.decode("ascii")


def _chunks(element: Element, findings: set[Finding]) -> tuple[bytes, tuple[int, ...]]:
    """Join chunked process data (A2: OCTET STRINGs one after the other)."""
    if not element.indefinite:
        findings.add(Finding.DEFINITE_CHUNKS)
    reader = _Reader(element.content, findings)
    chunks: list[bytes] = []
    while reader:
        chunk = reader.element()
        if chunk.tag != 0x04:
            raise LogMessageError("UNEXPECTED_ELEMENT", f"A chunk of process data has tag {chunk.tag:02X}.")
        chunks.append(chunk.content)
    return b"".join(chunks), tuple(len(chunk) for chunk in chunks)


def parse(data: bytes) -> LogMessage:
    """Read one log message. Raises :class:`LogMessageError`, and nothing else, if it cannot be read."""
    findings: set[Finding] = set()
    outer_reader = _Reader(data, findings)
    outer = outer_reader.element()
    if outer.tag != 0x30:
        raise LogMessageError("UNEXPECTED_ELEMENT", f"A log message has tag 30, not {outer.tag:02X}.")
    if outer_reader:
        raise LogMessageError("TRAILING_DATA", f"{len(data) - outer_reader.at} bytes follow the message.")
    if outer.indefinite:
        findings.add(Finding.NON_DER)
    reader = _Reader(outer.content, findings)

    def expect(name: str, *tags: int) -> Element:
        if not reader:
            raise LogMessageError("TRUNCATED", f"The message ends before {name}.")
        element = reader.element()
        if element.tag not in tags:
            raise LogMessageError("UNEXPECTED_ELEMENT", f"{name} has tag {element.tag:02X}.")
        return element

    version = _unsigned(expect("version", 0x02), findings)
    if version not in (2, 3):
        findings.add(Finding.UNKNOWN_VERSION)
    type_oid = expect("certifiedDataType", 0x06).content
    log_type = LogType.UNKNOWN
    if type_oid[:-1] == _TYPE_OID_PREFIX and 1 <= type_oid[-1] <= 3:
        log_type = LogType(type_oid[-1])
    else:
        findings.add(Finding.UNKNOWN_TYPE)

    elements: dict[int, Element] = {}
    while reader and reader.data[reader.at] & 0xC0 == 0x80:
        element = reader.element()
        number = element.tag & 0x1F
        if number in elements:
            findings.add(Finding.DUPLICATE_ELEMENT)
            continue
        elements[number] = element
        if element.indefinite and not (number == 2 and log_type is LogType.TRANSACTION):
            findings.add(Finding.NON_DER)

    serial = expect("serialNumber", 0x04).content
    algorithm_oid = _algorithm(expect("signatureAlgorithm", 0x30), findings)
    following = expect("signatureCounter", 0x02, 0x04, 0x17, 0x18)
    audit_data: bytes | None = None
    if following.tag == 0x04:
        audit_data = following.content
        following = expect("signatureCounter", 0x02, 0x17, 0x18)
    counter_element = following
    time_element = expect("logTime", 0x02, 0x17, 0x18, 0x04)
    if counter_element.tag != 0x02 or time_element.tag == 0x04:
        raise LogMessageError("MISSING_SIGNATURE_COUNTER", "The message has no signatureCounter.")
    counter = _unsigned(counter_element, findings)
    time_kind, log_time, time_text = _time(time_element, findings)
    tbs = outer.content[: reader.at]
    signature = expect("signatureValue", 0x04).content
    if reader:
        raise LogMessageError("UNEXPECTED_ELEMENT", "Elements follow the signature.")

    details = _details(log_type, elements, findings)
    return LogMessage(
        raw=data,
        tbs=tbs,
        version=version,
        type=log_type,
        type_oid=type_oid,
        elements=elements,
        serial=serial,
        algorithm_oid=algorithm_oid,
        audit_data=audit_data,
        signature_counter=counter,
        time_kind=time_kind,
        log_time=log_time,
        time_text=time_text,
        signature=signature,
        operation=details.operation,
        client_id=details.client_id,
        process_data=details.process_data,
        process_data_chunks=details.chunks,
        process_type=details.process_type,
        transaction_number=details.number,
        findings=frozenset(findings),
    )


def _algorithm(element: Element, findings: set[Finding]) -> bytes:
    """The OID's content out of an AlgorithmIdentifier."""
    reader = _Reader(element.content, findings)
    oid = reader.element() if reader else None
    if oid is None or oid.tag != 0x06:
        raise LogMessageError("UNEXPECTED_ELEMENT", "signatureAlgorithm holds no OID.")
    if reader:
        findings.add(Finding.ALGORITHM_PARAMETERS)
    algorithm = algorithm_by_oid(oid.content)
    if algorithm is None:
        findings.add(Finding.UNKNOWN_ALGORITHM)
    elif not algorithm.compliant:
        findings.add(Finding.WEAK_ALGORITHM)
    return oid.content


@dataclass(slots=True)
class _Details:
    operation: str | None = None
    client_id: str | None = None
    process_data: bytes | None = None
    chunks: tuple[int, ...] | None = None
    process_type: str | None = None
    number: int | None = None


def _details(log_type: LogType, elements: dict[int, Element], findings: set[Finding]) -> _Details:
    """The type specific elements by their meaning."""
    details = _Details()
    if log_type in (LogType.TRANSACTION, LogType.SYSTEM):
        if 0 in elements:
            details.operation = _text(elements[0], findings)
        else:
            findings.add(Finding.MISSING_ELEMENT)
    if log_type is not LogType.TRANSACTION:
        return details
    if not {1, 2, 5} <= elements.keys():
        findings.add(Finding.MISSING_ELEMENT)
    if any(number > 6 for number in elements):
        findings.add(Finding.UNKNOWN_ELEMENT)
    if 1 in elements:
        details.client_id = _text(elements[1], findings)
    if 2 in elements:
        data = elements[2]
        if data.tag & 0x20:
            details.process_data, details.chunks = _chunks(data, findings)
        else:
            details.process_data = data.content
    if 3 in elements:
        details.process_type = _text(elements[3], findings)
    if 5 in elements:
        details.number = _unsigned(elements[5], findings)
    return details


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
