"""TAR archives of a TSE's log (TR-03153-1 §5.2): writing them as a stream, reading and verifying them.

The writer produces what real TSEs do: ustar headers, a pax header for names that are too long for one, two
blocks of zeros at the end and nothing behind them. The reader takes whatever ``tar`` programs write. Reading
never trusts a file name: what counts is the content, a name that says something else is a finding.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.clock import from_unix
from fiskal.errors import FiskalError
from fiskal.tse.algorithms import AlgorithmNotSupported, point_of, serial_of_point
from fiskal.tse.certificates import Chain, is_ca, issued_by, load_certificates, order_chain
from fiskal.tse.logmessage import (
    Finding,
    LogMessage,
    LogMessageError,
    LogType,
    file_name_agrees,
    parse,
    parse_file_name,
)

BLOCK: Final = 512
MAX_MEMBER_BYTES: Final = 1 << 20
"""Log messages, certificates and info.csv are smaller; a larger member is not read into memory."""
MAX_NAME_BYTES: Final = 64 << 10
MAX_FINDINGS: Final = 1000
"""Findings kept in a report; more are only counted."""
MAX_CERTIFICATES: Final = 100
MAX_UNVERIFIED_BYTES: Final = 64 << 20
"""Messages kept until their certificate comes; only archives that hold the certificates last need it."""


class TarError(FiskalError):
    """Bytes that are no TAR archive, or the broken rest of one."""

    code = "TAR"


class Sink(Protocol):
    """Where an archive is written to."""

    def write(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """Where an archive is read from; ``read`` may return less than asked for, and nothing only at the end."""

    def read(self, size: int, /) -> bytes: ...


# ---- writing ----------------------------------------------------------------------------------

_SIZE_AND_TIME: Final = b"%011o\0%011o\0"
_OWNER: Final = b"0000644\0" + b"0000000\0" * 2
_MAGIC: Final = b"ustar\x0000"
_REST: Final = bytes(BLOCK - 265)


def header(name: bytes, size: int, mtime: int, typeflag: bytes = b"0") -> bytes:
    """Return one ustar header. ``name`` has at most 100 bytes, ``mtime`` is a Unix time."""
    if len(name) > 100 or not 0 <= size < 8**11 or not 0 <= mtime < 8**11:
        raise ValueError("the name, size or time of a member does not fit into a TAR header")
    before = name.ljust(100, b"\0") + _OWNER + _SIZE_AND_TIME % (size, mtime)
    behind = typeflag + bytes(100) + _MAGIC + _REST
    checksum = sum(before) + 8 * 0x20 + sum(behind)
    return b"%b%06o\0 %b" % (before, checksum, behind)


def _pax_path(name: bytes) -> bytes:
    """The pax record ``<length> path=<name>``, whose length counts itself."""
    length = len(name) + 7
    while True:
        record = b"%d path=%b\n" % (length, name)
        if len(record) == length:
            return record
        length = len(record)


class TarWriter:
    """Writes one archive member by member; keeps nothing of what it wrote."""

    def __init__(self, out: Sink, mtime: int) -> None:
        """``mtime`` is the Unix time of every member: when the archive is made, 0 if unknown."""
        self._out = out
        self._mtime = max(mtime, 0)

    def add(self, name: str, data: bytes, mtime: int | None = None) -> None:
        """Write a member, with a time of its own if ``mtime`` is given."""
        mtime = self._mtime if mtime is None else mtime
        encoded = name.encode()
        head = b""
        if len(encoded) > 100:
            path = _pax_path(encoded)
            head = header(b"PaxHeader", len(path), mtime, b"x") + _padded(path)
        head += header(encoded[:100], len(data), mtime)
        self._out.write(head + _padded(data))

    def close(self) -> None:
        """Write the end of the archive. The sink stays open."""
        self._out.write(bytes(2 * BLOCK))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def info_csv(description: str, manufacturer: str, version: str) -> bytes:
    """Return the content of info.csv as log messages of version 2 go with it."""
    fields = ("description:", description, "manufacturer:", manufacturer, "version:", version)
    return (",".join('"' + text.replace('"', '""') + '"' for text in fields) + "\n").encode()


def certificate_name(certificate: x509.Certificate) -> str:
    """Return the name of a certificate in an archive: SHA-256 of the point of its own key."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("the key of a TSE's certificate lies on an elliptic curve")
    return f"{serial_of_point(point_of(key)).hex()}_X509.der"


def write_archive(
    out: Sink, *, info: bytes, chain: Chain, messages: Iterable[tuple[str, bytes]], mtime: int
) -> None:
    """Write a whole archive: info.csv, the certificates from the TSE's to the root, the log messages.

    ``messages`` are file name (:func:`fiskal.tse.logmessage.build_file_name`) and DER in the order of their
    counters; they are taken one by one.
    """
    tar = TarWriter(out, mtime)
    tar.add("info.csv", info)
    for certificate, der in zip(chain.certificates, chain.der, strict=True):
        tar.add(certificate_name(certificate), der)
    for name, message in messages:
        tar.add(name, message)
    tar.close()


# ---- reading ----------------------------------------------------------------------------------


class Member(NamedTuple):
    """One file of an archive. ``data`` is None if it is larger than :data:`MAX_MEMBER_BYTES`.

    ``mtime`` is a Unix time, 0 if the header names none that could be written again.
    """

    name: str
    size: int
    data: bytes | None
    mtime: int = 0


def _read(stream: Source, size: int) -> bytes:
    """Read ``size`` bytes; fewer only at the end of the stream."""
    data = stream.read(size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (data := stream.read(missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def _number(text: bytes) -> int:
    """A number of a header: octal, or binary as GNU tar writes large ones."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:])
    digits = text.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise TarError(f"{text!r} in a TAR header is no number.")
    return int(digits or b"0", 8)


def _time(text: bytes) -> int:
    """The time of a header; it proves nothing, so a strange one is no reason to stop reading."""
    try:
        moment = _number(text)
    except TarError:
        return 0
    return moment if moment < 8**11 else 0


_PAX_RECORD: Final = re.compile(rb"(\d{1,9}) ([^=]+)=")


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The key and value pairs of a pax header."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        match = _PAX_RECORD.match(data, at)
        length = int(match[1]) if match else 0
        if match is None or at + length > len(data) or match.end() >= at + length:
            raise TarError("A pax header cannot be read.")
        found[match[2]] = data[match.end() : at + length - 1]
        at += length
    return found


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "replace")


def read_members(stream: Source) -> Iterator[Member]:
    """Read the files of an archive from a stream, one at a time, in their order.

    Takes ustar, pax and GNU headers; directories and links are left out, and so is a leading ``./``. Raises
    :class:`TarError` where it goes on no more, so what was read up to there may have been cut short.
    """
    long_name: bytes | None = None
    long_size: int | None = None
    first = True
    while True:
        head = _read(stream, BLOCK)
        if not head.strip(b"\0") and (len(head) == BLOCK or not first):
            if len(head) < BLOCK:
                raise TarError("The archive has no end: it has been cut off.")
            return
        if len(head) < BLOCK:
            raise TarError("The archive ends within a header." if head else "The archive is empty.")
        checksum = sum(head) - sum(head[148:156]) + 8 * 0x20
        if _number(head[148:156]) != checksum:
            raise TarError("This is no TAR archive." if first else "The checksum of a TAR header is wrong.")
        first = False
        typeflag = head[156:157]
        size = _number(head[124:136])
        if typeflag in (b"x", b"L"):
            if size > MAX_NAME_BYTES:
                raise TarError(f"A header of {size} bytes is too long.")
            content = _content(stream, size)
            if typeflag == b"L":
                long_name = content
                continue
            records = _pax_records(content)
            long_name = records.get(b"path", long_name)
            if b"size" in records:
                if not re.fullmatch(rb"\d{1,18}", records[b"size"]):
                    raise TarError("The size in a pax header is no number.")
                long_size = int(records[b"size"])
            continue
        size = size if long_size is None else long_size
        name = _text(head[:100])
        if head[257:262] == b"ustar" and head[262] == 0 and head[345]:
            name = f"{_text(head[345:500])}/{name}"
        if long_name is not None:
            name = _text(long_name)
        long_name = long_size = None
        data: bytes | None = None
        if size <= MAX_MEMBER_BYTES:
            data = _content(stream, size)
        else:
            _skip(stream, size)
        if typeflag in (b"0", b"\0", b"7") and not name.endswith("/"):
            yield Member(name.removeprefix("./"), size, data, _time(head[136:148]))


def _content(stream: Source, size: int) -> bytes:
    data = _read(stream, size + -size % BLOCK)
    if len(data) < size:
        raise TarError("The archive ends within a file.")
    return data[:size]


def _skip(stream: Source, size: int) -> None:
    missing = size + -size % BLOCK
    while missing:
        data = stream.read(min(missing, MAX_MEMBER_BYTES))
        if not data:
            raise TarError("The archive ends within a file.")
        missing -= len(data)


# ---- merging ----------------------------------------------------------------------------------


class _Blocks:
    """A sink that gives away what was written."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._written.append(data)

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data


def merge_archives(archives: Iterable[Source]) -> Iterator[bytes]:
    """Make one archive of several exports of whole logs, as a stream of its bytes.

    What is exported twice is there once: a log message whose signatureCounter lies within what an earlier
    archive holds of the same TSE, and other files with the same name and content. Memory is constant; of each
    archive and TSE only the first and the last counter are kept. Raises :class:`TarError` for an archive that
    cannot be read to its end, and for a member larger than :data:`MAX_MEMBER_BYTES`.
    """
    out = _Blocks()
    tar = TarWriter(out, 0)
    seen: dict[bytes, list[tuple[int, int]]] = {}
    others: set[tuple[str, bytes]] = set()
    for archive in archives:
        here: dict[bytes, tuple[int, int]] = {}
        for member in read_members(archive):
            if member.data is None:
                raise TarError(f"{member.name} has {member.size} bytes and cannot be merged.")
            if _is_new(member.name, member.data, seen, here, others):
                tar.add(member.name, member.data, member.mtime)
                yield out.take()
        for serial, counters in here.items():
            seen.setdefault(serial, []).append(counters)
    tar.close()
    yield out.take()


def _is_new(
    name: str,
    data: bytes,
    seen: dict[bytes, list[tuple[int, int]]],
    here: dict[bytes, tuple[int, int]],
    others: set[tuple[str, bytes]],
) -> bool:
    """Whether no earlier archive holds a member; keeps account of the counters of this one."""
    if name.lower().endswith(".log"):
        try:
            message = parse(data)
        except LogMessageError:
            return True  # whoever reads the archive decides what it is
        serial, counter = message.serial, message.signature_counter
        first, last = here.get(serial, (counter, counter))
        here[serial] = (min(first, counter), max(last, counter))
        return not any(low <= counter <= high for low, high in seen.get(serial, ()))
    key = (name, hashlib.sha256(data).digest())
    if key in others:
        return False
    others.add(key)
    return True


# ---- verifying --------------------------------------------------------------------------------


class Severity(enum.StrEnum):
    """ERROR: the archive does not prove what it says. WARNING: unusual. INFO: good to know."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Code(enum.StrEnum):
    """What a finding is about. The names are stable and meant for programs."""

    ARCHIVE_DAMAGED = "the archive is damaged or incomplete"
    MISSING_INFO_CSV = "there is no info.csv"
    NO_LOG_MESSAGES = "the archive holds no log messages"
    UNKNOWN_FILE = "the file belongs to no export"
    NAME_MISMATCH = "the name of the file disagrees with its content"
    CERTIFICATE_UNREADABLE = "the certificate cannot be read"
    LOG_UNREADABLE = "the log message cannot be read"
    NO_CERTIFICATE = "there is no certificate to the serial number"
    SIGNATURE_INVALID = "the signature does not hold"
    ALGORITHM_NOT_SUPPORTED = "the signature algorithm is not supported: the signature was not checked"
    SEVERAL_SERIALS = "the messages are of several TSEs"
    CHAIN_BROKEN = "the chain of certificates does not hold"
    CHAIN_INCOMPLETE = "the chain of certificates does not reach a root"
    UNTRUSTED_ROOT = "the chain of certificates is consistent, its root is not known to be trusted"
    CERTIFICATE_NOT_VALID = "a certificate was not valid at logTime"
    COUNTER_DUPLICATE = "two different messages have one signatureCounter"
    MESSAGE_TWICE = "a message is there twice"
    COUNTER_GAP = "signatureCounters are missing"
    STARTS_LATER = "the archive does not begin with the first signature"
    TRANSACTION_NUMBER_GAP = "transaction numbers are missing"
    STARTED_TWICE = "a transaction was started twice"
    NOT_STARTED = "a transaction goes on that was never started"
    STARTED_BEFORE = "a transaction was started before this archive begins"
    AFTER_FINISH = "a transaction goes on after its end"
    OTHER_CLIENT = "a transaction was continued by another client"
    OPEN_TRANSACTIONS = "transactions are open"
    TIME_BACKWARDS = "logTime goes back without an updateTime"
    CONFORMANCE = "the message deviates from the guideline"


class TarFinding(NamedTuple):
    """One finding; ``member`` is the file it is about, empty if it is about all of them."""

    severity: Severity
    code: Code
    member: str
    text: str

    def __str__(self) -> str:
        place = f" {self.member}:" if self.member else ""
        return f"{self.severity}:{place} {self.code}" + (f": {self.text}" if self.text else "")


class Trust(enum.StrEnum):
    """What the certificates of one TSE are worth."""

    TRUSTED = "trusted"
    UNTRUSTED_ROOT = "consistent, untrusted root"
    INCOMPLETE = "incomplete"
    BROKEN = "broken"
    NO_CERTIFICATE = "no certificate"


@dataclass(slots=True)
class TseReport:
    """What an archive says of one TSE. ``serial`` is lower-case hex; ranges are first and last, inclusive."""

    serial: str
    messages: int = 0
    first_counter: int = 0
    last_counter: int = 0
    missing_counters: list[tuple[int, int]] = field(default_factory=list)
    transactions: int = 0
    open_transactions: list[int] = field(default_factory=list)
    trust: Trust = Trust.NO_CERTIFICATE


@dataclass(slots=True)
class TarReport:
    """The result of :func:`verify_tar`."""

    members: int = 0
    logs: int = 0
    valid: int = 0
    """Messages whose signature holds."""
    invalid: int = 0
    unchecked: int = 0
    """Messages without a certificate, or with an algorithm that is not supported."""
    unreadable: int = 0
    info: dict[str, str] = field(default_factory=dict)
    """The members of info.csv: description, manufacturer, version."""
    tses: list[TseReport] = field(default_factory=list)
    findings: list[TarFinding] = field(default_factory=list)
    findings_left_out: int = 0
    errors: int = 0

    @property
    def ok(self) -> bool:
        """True if nothing speaks against the archive; whether to trust the root is another question."""
        return not self.errors

    @property
    def codes(self) -> set[str]:
        """The names of all findings."""
        return {finding.code.name for finding in self.findings}


class _Entry(NamedTuple):
    """What has to be known of a message once its signature was checked."""

    counter: int
    fingerprint: bytes
    log_time: int
    is_update_time: bool
    step: str
    number: int
    client: int
    """Place in the list of clients; -1 if the message has none."""


_STEPS: Final = {"starttransaction": "S", "updatetransaction": "U", "finishtransaction": "F"}
_CERTIFICATE: Final = re.compile(r"([0-9A-Fa-f]{64})_(?:X509|CVC)(?:_Fc-\d+)?\.(?:cer|crt|pem|der)", re.I)
_CSV_PAIR: Final = re.compile(r'"?([^",]+?):"?\s*,\s*(?:"((?:[^"]|"")*)"|([^",]*))')
_X509_ERRORS: Final = (
    FiskalError,
    ValueError,
    TypeError,
    KeyError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UserWarning,  # where warnings are made errors
)
"""What cryptography raises about certificates; much of it only when a member is looked at."""


class _Certificate(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey


def verify_tar(
    stream: Source, trusted_roots: Sequence[x509.Certificate] = (), *, filtered: bool = False
) -> TarReport:
    """Verify an archive read from a stream; what is wrong with it is in the report, never raised.

    ``filtered`` says that the export was asked for only a part of the log, so that gaps prove nothing.
    Members are read one at a time; of each message some 300 bytes are kept, all of it only while its
    certificate has not come yet.
    """
    return _Verifier(trusted_roots, filtered).run(stream)


class _Verifier:
    def __init__(self, trusted_roots: Sequence[x509.Certificate], filtered: bool) -> None:
        self.report = TarReport()
        self.trusted = list(trusted_roots)
        self.filtered = filtered
        self.certificates: dict[bytes, _Certificate] = {}
        self.all_certificates: list[x509.Certificate] = []
        self.entries: dict[bytes, list[_Entry]] = {}
        self.clients: dict[str, int] = {}
        self.waiting: list[tuple[str, LogMessage]] = []
        self.waiting_bytes = 0

    def note(self, severity: Severity, code: Code, member: str = "", text: str = "") -> None:
        if severity is Severity.ERROR:
            self.report.errors += 1
        if len(self.report.findings) >= MAX_FINDINGS:
            self.report.findings_left_out += 1
            return
        self.report.findings.append(TarFinding(severity, code, member, text))

    def run(self, stream: Source) -> TarReport:
        has_info = False
        try:
            for member in read_members(stream):
                self.report.members += 1
                if member.name.lower() == "info.csv":
                    has_info = True
                    self.read_info(member)
                elif member.name.lower().endswith(".log"):
                    self.read_log(member)
                elif member.data is not None and _CERTIFICATE.fullmatch(member.name):
                    self.read_certificates(member.name, member.data)
                else:
                    self.note(Severity.WARNING, Code.UNKNOWN_FILE, member.name)
        except TarError as error:
            self.note(Severity.ERROR, Code.ARCHIVE_DAMAGED, text=str(error))
        for name, message in self.waiting:
            self.check_signature(name, message)
        if not has_info:
            self.note(Severity.ERROR, Code.MISSING_INFO_CSV)
        if not self.report.logs:
            self.note(Severity.WARNING, Code.NO_LOG_MESSAGES)
        if len(self.entries) > 1:
            self.note(Severity.WARNING, Code.SEVERAL_SERIALS, text=f"{len(self.entries)} serial numbers")
        for serial, entries in sorted(self.entries.items()):
            self.check_tse(serial, entries)
        return self.report

    # ---- members ----

    def read_info(self, member: Member) -> None:
        text = (member.data or b"").decode("utf-8", "replace")
        for label, quoted, plain in _CSV_PAIR.findall(text):
            self.report.info.setdefault(label.strip(), quoted.replace('""', '"') if quoted else plain.strip())

    def read_certificates(self, name: str, data: bytes) -> None:
        if len(self.all_certificates) >= MAX_CERTIFICATES:
            self.note(Severity.WARNING, Code.UNKNOWN_FILE, name, f"only {MAX_CERTIFICATES} are read")
            return
        own_name = name[:64].lower()
        found: list[bytes] = []
        try:
            for certificate in load_certificates(data):
                key = certificate.public_key()
                if not isinstance(key, ec.EllipticCurvePublicKey):
                    raise TypeError("its key does not lie on an elliptic curve")
                serial = serial_of_point(point_of(key))
                found.append(serial)
                self.all_certificates.append(certificate)
                self.certificates.setdefault(serial, _Certificate(certificate, key))
        except _X509_ERRORS as error:
            self.note(Severity.WARNING, Code.CERTIFICATE_UNREADABLE, name, str(error))
            return
        if own_name not in {serial.hex() for serial in found}:
            self.note(Severity.WARNING, Code.NAME_MISMATCH, name)

    def read_log(self, member: Member) -> None:
        self.report.logs += 1
        if member.data is None:
            self.report.unreadable += 1
            self.note(Severity.ERROR, Code.LOG_UNREADABLE, member.name, f"It has {member.size} bytes.")
            return
        try:
            message = parse(member.data)
        except LogMessageError as error:
            self.report.unreadable += 1
            self.note(Severity.ERROR, Code.LOG_UNREADABLE, member.name, str(error))
            return
        name = parse_file_name(member.name)
        if name is None or not file_name_agrees(name, message):
            self.note(Severity.WARNING, Code.NAME_MISMATCH, member.name)
        self.check_conformance(member.name, message)
        client = -1
        if message.client_id is not None:
            client = self.clients.setdefault(message.client_id, len(self.clients))
        operation = (message.operation or "").lower()
        self.entries.setdefault(message.serial, []).append(
            _Entry(
                message.signature_counter,
                hashlib.blake2b(member.data, digest_size=16).digest(),
                message.log_time,
                message.type is LogType.SYSTEM and operation == "updatetime",
                _STEPS.get(operation, "") if message.type is LogType.TRANSACTION else "",
                message.transaction_number or 0,
                client,
            )
        )
        if message.serial in self.certificates:
            self.check_signature(member.name, message)
        elif self.waiting_bytes < MAX_UNVERIFIED_BYTES:
            self.waiting_bytes += len(member.data)
            self.waiting.append((member.name, message))
        else:
            self.report.unchecked += 1
            self.note(Severity.ERROR, Code.NO_CERTIFICATE, member.name, "No certificate came before it.")

    def check_conformance(self, name: str, message: LogMessage) -> None:
        texts = [finding.value for finding in message.findings if finding is not Finding.FILE_NAME]
        if message.type is LogType.TRANSACTION:
            texts += [
                f"{what} is present"
                for number, what in ((4, "additionalExternalData"), (6, "additionalInternalData"))
                if number in message.elements
            ]
            if (message.operation or "").lower() not in _STEPS:
                texts.append("operationType is unknown")
            elif (message.operation or "")[:1].islower() != (message.version >= 3):
                texts.append("operationType is spelled unusually")
        if message.version >= 3 and message.process_data_chunks is not None:
            texts.append("process data has an indefinite length")
        for text in sorted(texts):
            self.note(Severity.WARNING, Code.CONFORMANCE, name, text)

    def check_signature(self, name: str, message: LogMessage) -> None:
        held = self.certificates.get(message.serial)
        if held is None:
            self.report.unchecked += 1
            self.note(Severity.ERROR, Code.NO_CERTIFICATE, name)
            return
        if message.algorithm is None:
            self.report.unchecked += 1
            self.note(Severity.ERROR, Code.ALGORITHM_NOT_SUPPORTED, name, message.algorithm_oid.hex())
            return
        try:
            holds = message.verify(held.key)
        except AlgorithmNotSupported as error:
            self.report.unchecked += 1
            self.note(Severity.ERROR, Code.ALGORITHM_NOT_SUPPORTED, name, str(error))
            return
        except _X509_ERRORS:  # a key on a curve that no TSE may use
            holds = False
        if holds:
            self.report.valid += 1
        else:
            self.report.invalid += 1
            self.note(Severity.ERROR, Code.SIGNATURE_INVALID, name)

    # ---- one TSE as a whole ----

    def check_tse(self, serial: bytes, entries: list[_Entry]) -> None:
        entries.sort()
        tse = TseReport(serial.hex(), len(entries), entries[0].counter, entries[-1].counter)
        self.report.tses.append(tse)
        self.check_chain(serial, entries, tse)
        whole = self.check_counters(entries, tse)
        self.check_transactions(entries, tse, whole)
        self.check_times(entries)

    def check_chain(self, serial: bytes, entries: list[_Entry], tse: TseReport) -> None:
        held = self.certificates.get(serial)
        if held is None:
            return
        first = min(entry.log_time for entry in entries)
        last = max(entry.log_time for entry in entries)
        try:
            chain = order_chain(held.certificate, [*self.all_certificates, *self.trusted])
            tse.trust = self.judge(chain.certificates)
            times = [
                (
                    from_unix(int(certificate.not_valid_before_utc.timestamp())),
                    from_unix(int(certificate.not_valid_after_utc.timestamp())),
                    certificate.subject.rfc4514_string(),
                )
                for certificate in chain.certificates
            ]
        except _X509_ERRORS as error:
            tse.trust = Trust.BROKEN
            self.note(Severity.ERROR, Code.CHAIN_BROKEN, text=str(error))
            return
        if tse.trust is Trust.BROKEN:
            self.note(Severity.ERROR, Code.CHAIN_BROKEN, text=f"{tse.serial}: an issuer is no CA")
        elif tse.trust is Trust.INCOMPLETE:
            self.note(Severity.WARNING, Code.CHAIN_INCOMPLETE, text=tse.serial)
        elif tse.trust is Trust.UNTRUSTED_ROOT:
            self.note(Severity.INFO, Code.UNTRUSTED_ROOT, text=tse.serial)
        for not_before, not_after, subject in times:
            if first < not_before or last > not_after:
                self.note(Severity.ERROR, Code.CERTIFICATE_NOT_VALID, text=subject)

    def judge(self, chain: tuple[x509.Certificate, ...]) -> Trust:
        """What a chain is worth whose signatures were checked already."""
        if any(not _may_issue(issuer) for issuer in chain[1:]):
            return Trust.BROKEN
        top = chain[-1]
        if any(certificate in self.trusted for certificate in chain):
            return Trust.TRUSTED
        return Trust.UNTRUSTED_ROOT if issued_by(top, top) else Trust.INCOMPLETE

    def check_counters(self, entries: list[_Entry], tse: TseReport) -> bool:
        """Check that no message is missing; True if the archive begins with the beginning."""
        missing: list[tuple[int, int]] = []
        for before, entry in itertools.pairwise(entries):
            if entry.counter == before.counter:
                if entry.fingerprint == before.fingerprint:
                    self.note(Severity.WARNING, Code.MESSAGE_TWICE, text=f"counter {entry.counter}")
                else:
                    self.note(Severity.ERROR, Code.COUNTER_DUPLICATE, text=f"counter {entry.counter}")
            elif entry.counter > before.counter + 1:
                missing.append((before.counter + 1, entry.counter - 1))
        tse.missing_counters = missing
        for first, last in missing:
            # The request for its certificate may have cost a TSE one of its first three signatures, long
            # before its first transaction.
            early = not any(entry.step for entry in entries[:3])
            usual = first == last and first <= 3 and tse.first_counter == 1 and early
            if not usual and not self.filtered:
                self.note(Severity.ERROR, Code.COUNTER_GAP, text=f"{first} to {last}")
        if tse.first_counter > 2:
            self.note(Severity.INFO, Code.STARTS_LATER, text=f"counter {tse.first_counter}")
        return tse.first_counter <= 2 and not self.filtered

    def check_transactions(self, entries: list[_Entry], tse: TseReport, whole: bool) -> None:
        started: set[int] = set()
        known: dict[int, int] = {}  # open ones, and their client
        finished: set[int] = set()
        previous = -1
        for entry in entries:
            if not entry.step or entry.counter == previous:
                continue
            previous = entry.counter
            number = entry.number
            if number in finished:
                self.note(Severity.ERROR, Code.AFTER_FINISH, text=f"number {number}")
                continue
            if entry.step == "S":
                if number in known:
                    self.note(Severity.ERROR, Code.STARTED_TWICE, text=f"number {number}")
                started.add(number)
                known[number] = entry.client
                continue
            if number not in known:
                if whole:
                    self.note(Severity.ERROR, Code.NOT_STARTED, text=f"number {number}")
                elif not self.filtered:
                    self.note(Severity.INFO, Code.STARTED_BEFORE, text=f"number {number}")
                known[number] = entry.client
            elif known[number] != entry.client:
                self.note(Severity.WARNING, Code.OTHER_CLIENT, text=f"number {number}")
            if entry.step == "F":
                finished.add(number)
                del known[number]
        tse.transactions = len(started | finished | known.keys())
        tse.open_transactions = sorted(known)
        if known:
            self.note(Severity.INFO, Code.OPEN_TRANSACTIONS, text=f"{len(known)} transactions")
        if started and not self.filtered:
            first = 1 if whole else min(started)
            for begin, end in _gaps(sorted(started), first):
                # Numbers are given out before the signature: at the edges of a part they may lie outside.
                self.note(Severity.WARNING, Code.TRANSACTION_NUMBER_GAP, text=f"{begin} to {end}")

    def check_times(self, entries: list[_Entry]) -> None:
        latest = entries[0].log_time
        for before, entry in itertools.pairwise(entries):
            if entry.log_time < latest and not (entry.is_update_time or before.is_update_time):
                self.note(Severity.ERROR, Code.TIME_BACKWARDS, text=f"counter {entry.counter}")
            latest = entry.log_time


def _may_issue(certificate: x509.Certificate) -> bool:
    """True if a certificate is a CA's, by KeyUsage or, where that is absent, by BasicConstraints."""
    if is_ca(certificate):
        return True
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _gaps(numbers: list[int], first: int) -> Iterator[tuple[int, int]]:
    """The ranges missing from sorted numbers that should begin with ``first``."""
    for number in numbers:
        if number > first:
            yield first, number - 1
        first = number + 1
