"""Verifying the TAR exports of any TSE (TR-03153-1 §5.2, §10): what one archive or several of them prove.

Archives are read as a stream, their messages are checked on as many cores as there are, and what has to be
known of them for the whole goes to a temporary database (:mod:`fiskal.tse.ledger`); so memory stays constant
whatever the size. What is wrong with an archive is in the report, never raised.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fiskal import clock
from fiskal.clock import TICKS_PER_SECOND, from_unix
from fiskal.core import format_ticks
from fiskal.errors import FiskalError
from fiskal.tse.algorithms import point_of, serial_of_point
from fiskal.tse.archive import Archive, ArchiveError
from fiskal.tse.certificates import X509_ERRORS, is_ca, issued_by, load_certificates, order_chain
from fiskal.tse.checking import AUDIT, FINISH, OTHER, START, TRANSACTION_OTHER, UPDATE, Result, Task
from fiskal.tse.findings import MAX_FINDINGS_EACH, Code, Severity, TarFinding
from fiskal.tse.ledger import MAX_TSES, Ledger, Span, Stretch, TseEvent
from fiskal.tse.revocation import Revocation, RevocationLists
from fiskal.tse.tar import Member, Source, TarError, read_segments
from fiskal.tse.workers import check_all

MAX_CERTIFICATES: Final = 100
MAX_EVENTS: Final = 2000
"""System events that a report lists per TSE; all are counted."""
_FEW_TSES: Final = 3
"""For more, an index pays."""
_BINS: Final = 120
_HOUR: Final = 3600 * TICKS_PER_SECOND

Progress = Callable[[int, int], None]
"""Called with the bytes done and all bytes."""


class LedgerError(FiskalError):
    """There is no room for what has to be known of every message."""

    code = "TEMPORARY_SPACE"
    hint = "It takes a sixth of the archives' size. SQLITE_TMPDIR names the folder to put it in."


class Trust(enum.StrEnum):
    """What the certificates of one TSE are worth."""

    TRUSTED = "trusted"
    UNTRUSTED_ROOT = "consistent, untrusted root"
    INCOMPLETE = "incomplete"
    BROKEN = "broken"
    NO_CERTIFICATE = "no certificate"


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """One certificate of a chain. Times are ticks; ``key`` names the curve."""

    subject: str
    issuer: str
    serial_number: str
    key: str
    not_before: int
    not_after: int
    is_trusted: bool


@dataclass(frozen=True, slots=True)
class ClientReport:
    """One client: its id (None if there were too many), its finished transactions, first and last log time."""

    client_id: str | None
    transactions: int
    first_time: int
    last_time: int


@dataclass(slots=True)
class TseReport:
    """What the archives say of one TSE. ``serial`` is lower-case hex; ranges are first and last, inclusive.

    Times are ticks.
    """

    serial: str
    messages: int = 0
    first_counter: int = 0
    last_counter: int = 0
    first_time: int = 0
    last_time: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """Messages by what they are: start, update, finish, system, audit, other."""
    traits: list[str] = field(default_factory=list)
    """Version, algorithm and time format of the messages."""
    gaps: int = 0
    missing_counters: list[Stretch] = field(default_factory=list)
    """The first of the gaps."""
    transactions: int = 0
    open_count: int = 0
    open_transactions: list[int] = field(default_factory=list)
    """The first of the open ones."""
    trust: Trust = Trust.NO_CERTIFICATE
    revocation: Revocation = Revocation.NOT_CHECKED
    certificates: list[CertificateReport] = field(default_factory=list)
    clients: list[ClientReport] = field(default_factory=list)
    events: list[TseEvent] = field(default_factory=list)
    """The first system events of its life."""
    histogram: list[tuple[int, int]] = field(default_factory=list)
    """Where stretches of equal length begin, and the transactions finished in each; without empty ones."""
    histogram_width: int = 0
    """The length of a stretch in ticks."""


@dataclass(slots=True)
class ArchiveReport:
    """What one archive holds. ``info`` are the members of its info.csv."""

    name: str
    members: int = 0
    logs: int = 0
    info: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class TarReport:
    """The result of a verification."""

    members: int = 0
    logs: int = 0
    valid: int = 0
    """Messages whose signature holds."""
    invalid: int = 0
    unchecked: int = 0
    """Messages without a certificate, or with an algorithm that is not supported."""
    unreadable: int = 0
    archives: list[ArchiveReport] = field(default_factory=list)
    tses: list[TseReport] = field(default_factory=list)
    findings: list[TarFinding] = field(default_factory=list)
    """At most :data:`fiskal.tse.findings.MAX_FINDINGS_EACH` of a code and severity."""
    counts: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(Severity, 0))
    """All findings."""
    code_counts: Counter[Code] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """True if nothing speaks against the archives; whether to trust the root is another question."""
        return not self.errors

    @property
    def errors(self) -> int:
        return self.counts[Severity.ERROR]

    @property
    def findings_left_out(self) -> int:
        return sum(self.counts.values()) - len(self.findings)

    @property
    def info(self) -> dict[str, str]:
        """The members of the first info.csv: description, manufacturer, version."""
        return next((archive.info for archive in self.archives if archive.info), {})

    @property
    def codes(self) -> set[str]:
        """The names of all findings."""
        return {code.name for code in self.code_counts}


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """A report and the log that it is about."""

    report: TarReport
    ledger: Ledger
    certificates: dict[bytes, x509.Certificate]
    """The certificates found, by the serial number of their key."""


def verify_tar(
    stream: Source,
    trusted_roots: Sequence[x509.Certificate] = (),
    *,
    filtered: bool = False,
    revocation_lists: Sequence[x509.CertificateRevocationList] = (),
) -> TarReport:
    """Verify one archive read from a stream, in this process; as :func:`verify_archives`."""
    archive = Archive("", 0, lambda: contextlib.nullcontext(stream))
    return verify_archives(
        [archive], trusted_roots, filtered=filtered, revocation_lists=revocation_lists, workers=1
    )


def verify_archives(
    archives: Iterable[Archive],
    trusted_roots: Sequence[x509.Certificate] = (),
    *,
    filtered: bool = False,
    revocation_lists: Sequence[x509.CertificateRevocationList] = (),
    now: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> TarReport:
    """Verify archives (:func:`fiskal.tse.archive.find_archives`) that belong together, such as the exports of
    one TSE over the years: what is missing in one may be in another.

    ``trusted_roots`` are the trust anchors: if there are any, every chain must lead to one of them.
    ``filtered`` says that the exports were asked for only a part of the log, so that gaps prove nothing.
    ``revocation_lists`` (:func:`fiskal.tse.revocation.load_revocation_lists`) are asked about every certificate
    below a root; ``now`` (ticks, by default this moment) is when they must not be older than a day.
    ``workers`` is the number of processes, by default one per core. Raises
    :class:`fiskal.tse.workers.WorkerError` if one of them dies, :class:`LedgerError` if there is no room for what
    has to be kept.
    """
    with verified_log(
        archives,
        trusted_roots,
        filtered=filtered,
        revocation_lists=revocation_lists,
        now=now,
        workers=workers,
        progress=progress,
    ) as verified:
        return verified.report


@contextlib.contextmanager
def verified_log(
    archives: Iterable[Archive],
    trusted_roots: Sequence[x509.Certificate] = (),
    *,
    filtered: bool = False,
    revocation_lists: Sequence[x509.CertificateRevocationList] = (),
    now: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[VerifiedLog]:
    """As :func:`verify_archives`, but the log can still be asked, until the context ends.

    Raises :class:`LedgerError` too if there is no room for the temporary database.
    """
    with contextlib.closing(Ledger()) as ledger:
        lists = RevocationLists(revocation_lists, clock.now() if now is None else now)
        verifier = _Verifier(ledger, list(archives), trusted_roots, filtered, lists)
        try:
            verifier.run(os.cpu_count() or 1 if workers is None else workers, progress)
        except sqlite3.Error as error:
            raise LedgerError(f"The temporary database cannot be used: {error}.") from error
        yield VerifiedLog(verifier.report, ledger, verifier.certificates)


_CERTIFICATE: Final = re.compile(r"([0-9A-Fa-f]{64})_(?:X509|CVC)(?:_Fc-\d+)?\.(?:cer|crt|pem|der)", re.I)
_CSV_PAIR: Final = re.compile(r'"?([^",]+?):"?\s*,\s*(?:"((?:[^"]|"")*)"|([^",]*))')
_KINDS: Final = {START: "start", UPDATE: "update", FINISH: "finish", AUDIT: "audit"}
_spool: Final = msgspec.msgpack.Decoder(list[tuple[str, bytes]])


def _kind_name(kind: int) -> str:
    return _KINDS.get(kind) or ("other" if kind in (OTHER, TRANSACTION_OTHER) else "system")


class _Verifier:
    def __init__(
        self,
        ledger: Ledger,
        archives: list[Archive],
        trusted_roots: Sequence[x509.Certificate],
        filtered: bool,
        revocation_lists: RevocationLists,
    ) -> None:
        self.revocation_lists = revocation_lists
        self.report = TarReport(archives=[ArchiveReport(archive.name) for archive in archives])
        self.ledger = ledger
        self.archives = archives
        self.trusted = list(trusted_roots)
        self.filtered = filtered
        self.certificates: dict[bytes, x509.Certificate] = {}
        self.all_certificates: list[x509.Certificate] = []
        self.der: list[bytes] = []
        self.kept: Counter[tuple[Severity, Code]] = Counter()
        self.traits: dict[bytes, dict[str, None]] = {}

    def note(
        self, severity: Severity, code: Code, member: str = "", text: str = "", archive: int = -1
    ) -> None:
        report = self.report
        report.counts[severity] += 1
        report.code_counts[code] += 1
        if self.kept[severity, code] < MAX_FINDINGS_EACH:
            self.kept[severity, code] += 1
            name = self.archives[archive].name if archive >= 0 and len(self.archives) > 1 else ""
            report.findings.append(TarFinding(severity, code, member, text, name))

    def note_row(self, severity: Severity, code: Code, row: int, text: str) -> None:
        """A finding about a message in the ledger; what nobody keeps need not be looked up."""
        archive, member = -1, ""
        if row and self.kept[severity, code] < MAX_FINDINGS_EACH:
            archive, member = self.ledger.place(row)
        self.note(severity, code, member, text, archive)

    def run(self, workers: int, progress: Progress | None) -> None:
        with tempfile.TemporaryFile() as pending:
            for result in check_all(self.tasks(progress), workers):
                self.take(result, pending)
            pending.seek(0)
            for result in check_all(self.pending_tasks(pending), workers):
                self.take(result, None)
        if not self.report.logs:
            self.note(Severity.WARNING, Code.NO_LOG_MESSAGES)
        if len(self.ledger.serials) > 1:
            text = f"{len(self.ledger.serials)} serial numbers"
            self.note(Severity.WARNING, Code.SEVERAL_SERIALS, text=text)
        if self.ledger.refused:
            text = f"only {MAX_TSES} are told apart; {self.ledger.refused} messages are left out"
            self.note(Severity.ERROR, Code.SEVERAL_SERIALS, text=text)
        if len(self.ledger.serials) > _FEW_TSES:
            self.ledger.index()
        for serial in sorted(self.ledger.serials):
            self.check_tse(serial, self.ledger.serials[serial])
        order = list(Severity)
        self.report.findings.sort(key=lambda finding: order.index(finding.severity))

    # ---- reading ----

    def tasks(self, progress: Progress | None) -> Iterator[Task]:
        total = sum(archive.size for archive in self.archives)
        done = 0
        for number, archive in enumerate(self.archives):
            report = self.report.archives[number]
            has_info = False
            try:
                with archive.open() as stream:
                    counting = _Counting(stream)
                    for segment in read_segments(counting):
                        if segment.remark:
                            self.note(Severity.WARNING, Code.ARCHIVE_DAMAGED, "", segment.remark, number)
                        for member in segment.others:
                            has_info |= self.read_other(member, number)
                        report.logs += segment.logs
                        if segment.logs:
                            yield Task(number, segment.data, self.der)
                        if progress is not None:
                            progress(min(done + counting.done, total), total)
            except (TarError, ArchiveError) as error:
                self.note(Severity.ERROR, Code.ARCHIVE_DAMAGED, "", str(error), number)
            if not has_info:
                self.note(Severity.ERROR, Code.MISSING_INFO_CSV, archive=number)
            report.members += report.logs
            self.report.members += report.members
            self.report.logs += report.logs
            done += archive.size
            if progress is not None:
                progress(done, total)

    def take(self, result: Result, pending: BinaryIO | None) -> None:
        report = self.report
        report.valid += result.valid
        report.invalid += result.invalid
        report.unchecked += result.unchecked
        report.unreadable += result.unreadable
        for severity, code, member, text in result.findings:
            self.note(severity, code, member, text, result.archive)
        for index, text in result.traits:
            serial = result.serials[index]
            if serial in self.traits or len(self.traits) < MAX_TSES:
                self.traits.setdefault(serial, {}).setdefault(text)
        self.ledger.add(result)
        if result.waiting and pending is not None:
            data = msgspec.msgpack.encode((result.archive, msgspec.msgpack.encode(result.waiting)))
            pending.write(len(data).to_bytes(4, "little") + data)

    def pending_tasks(self, pending: BinaryIO) -> Iterator[Task]:
        """The messages that came before their certificates."""
        while length := pending.read(4):
            number, data = msgspec.msgpack.decode(
                pending.read(int.from_bytes(length, "little")), type=tuple[int, bytes]
            )
            yield Task(number, b"", self.der, _spool.decode(data))

    def read_other(self, member: Member, archive: int) -> bool:
        """Take in what is no log message; True if it was info.csv."""
        report = self.report.archives[archive]
        if member.type == "5":
            return False
        report.members += 1
        if _leads_out(member.name):
            self.note(Severity.WARNING, Code.UNSAFE_NAME, member.name, "", archive)
        if member.type != "0":
            text = _TYPES.get(member.type, f"type {member.type!r}")
            self.note(Severity.WARNING, Code.NOT_A_FILE, member.name, text, archive)
        elif member.name.lower() == "info.csv":
            text = (member.data or b"").decode("utf-8", "replace")
            for label, quoted, plain in _CSV_PAIR.findall(text)[:1000]:
                value = quoted.replace('""', '"') if quoted else plain.strip()
                report.info.setdefault(label.strip()[:100], value[:1000])
            return True
        elif member.data is not None and _CERTIFICATE.fullmatch(member.name):
            self.read_certificates(member.name, member.data, archive)
        else:
            self.note(Severity.WARNING, Code.UNKNOWN_FILE, member.name, "", archive)
        return False

    def read_certificates(self, name: str, data: bytes, archive: int) -> None:
        if len(self.all_certificates) >= MAX_CERTIFICATES:
            text = f"only {MAX_CERTIFICATES} certificates are read"
            self.note(Severity.WARNING, Code.UNKNOWN_FILE, name, text, archive)
            return
        own_name = name[:64].lower()
        found: list[bytes] = []
        try:
            for certificate in load_certificates(data)[:MAX_CERTIFICATES]:
                key = certificate.public_key()
                if not isinstance(key, ec.EllipticCurvePublicKey):
                    raise TypeError("its key does not lie on an elliptic curve")
                serial = serial_of_point(point_of(key))
                found.append(serial)
                if certificate not in self.all_certificates:
                    self.all_certificates.append(certificate)
                if serial not in self.certificates:
                    self.certificates[serial] = certificate
                    self.der = [*self.der, certificate.public_bytes(Encoding.DER)]
        except X509_ERRORS as error:
            self.note(Severity.WARNING, Code.CERTIFICATE_UNREADABLE, name, str(error), archive)
            return
        if own_name not in {serial.hex() for serial in found}:
            self.note(Severity.WARNING, Code.NAME_MISMATCH, name, "", archive)

    # ---- one TSE as a whole ----

    def check_tse(self, serial: bytes, number: int) -> None:
        ledger = self.ledger
        span = ledger.span(number)
        if not span.messages:
            return
        tse = TseReport(serial.hex(), *span)
        self.report.tses.append(tse)
        tse.traits = list(self.traits.get(serial, ()))
        for kind, count in ledger.kinds(number).items():
            name = _kind_name(kind)
            tse.kinds[name] = tse.kinds.get(name, 0) + count
        self.check_chain(serial, number, tse)
        if tse.first_counter > 2:
            self.note(Severity.NOTE, Code.STARTS_LATER, text=f"{tse.serial[:8]}… from {tse.first_counter} on")
        whole = tse.first_counter <= 2 and not self.filtered
        tse.gaps, tse.missing_counters = ledger.check_sequence(
            number, whole=whole, filtered=self.filtered, note=self.note_row
        )
        tse.transactions, tse.open_count, tse.open_transactions = ledger.check_transactions(
            number, whole=whole, filtered=self.filtered, note=self.note_row
        )
        tse.clients = [
            ClientReport(ledger.clients.get(key), finished, first, last)
            for key, finished, first, last in ledger.transactions_of_clients(number)
        ]
        tse.events = ledger.events(number, MAX_EVENTS)
        tse.histogram_width = _bin_width(span)
        start = span.first_time - span.first_time % tse.histogram_width
        tse.histogram = [
            (start + index * tse.histogram_width, count)
            for index, count in sorted(ledger.histogram(number, start, tse.histogram_width).items())
        ]

    def check_chain(self, serial: bytes, number: int, tse: TseReport) -> None:
        held = self.certificates.get(serial)
        if held is None:
            return
        try:
            chain = order_chain(held, [*self.trusted, *self.all_certificates]).certificates
            tse.trust = self.judge(chain)
            tse.certificates = [self.describe(certificate) for certificate in chain]
            self.check_revocation(chain, number, tse)
        except X509_ERRORS as error:
            tse.trust = Trust.BROKEN
            self.note(Severity.ERROR, Code.CHAIN_BROKEN, text=str(error))
            return
        severity = Severity.ERROR if self.trusted else Severity.NOTE
        if tse.trust is Trust.BROKEN:
            self.note(Severity.ERROR, Code.CHAIN_BROKEN, text=f"{tse.serial}: an issuer may not issue")
        elif tse.trust is Trust.INCOMPLETE:
            severity = Severity.ERROR if self.trusted else Severity.WARNING
            self.note(severity, Code.CHAIN_INCOMPLETE, text=tse.serial)
        elif tse.trust is Trust.UNTRUSTED_ROOT:
            self.note(severity, Code.UNTRUSTED_ROOT, text=tse.certificates[-1].subject)
        for certificate in tse.certificates:
            count, row = self.ledger.outside(number, certificate.not_before, certificate.not_after)
            if count:
                text = f"{count} messages, {certificate.subject}"
                self.note_row(Severity.ERROR, Code.CERTIFICATE_NOT_VALID, row, text)

    def check_revocation(self, chain: Sequence[x509.Certificate], number: int, tse: TseReport) -> None:
        """A revoked certificate proves nothing from then on; what was signed before stands (TR-03153-1 §10)."""
        found = self.revocation_lists.judge(chain)
        tse.revocation = found.state
        for certificate, since, reason in found.revoked:
            text = f"{certificate.subject.rfc4514_string(_NAMES)}: {reason}"
            if since is None:
                text += ", and nobody says since when the key is not to be trusted"
                self.note(Severity.ERROR, Code.CERTIFICATE_REVOKED, text=text)
                continue
            text += f", {format_ticks(since)[:19]}Z"
            count, row = self.ledger.outside(number, 0, since)
            if count:
                self.note_row(
                    Severity.ERROR, Code.CERTIFICATE_REVOKED, row, f"{text}: {count} messages are younger"
                )
            else:
                self.note(Severity.WARNING, Code.CERTIFICATE_REVOKED, text=f"{text}: all messages are older")
        for doubt in found.doubts:
            self.note(Severity.WARNING, Code.REVOCATION_UNKNOWN, text=doubt)

    def describe(self, certificate: x509.Certificate) -> CertificateReport:
        key = certificate.public_key()
        return CertificateReport(
            subject=certificate.subject.rfc4514_string(_NAMES),
            issuer=certificate.issuer.rfc4514_string(_NAMES),
            serial_number=f"{certificate.serial_number:x}",
            key=key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else "",
            not_before=from_unix(int(certificate.not_valid_before_utc.timestamp())),
            not_after=from_unix(int(certificate.not_valid_after_utc.timestamp())),
            is_trusted=certificate in self.trusted,
        )

    def judge(self, chain: tuple[x509.Certificate, ...]) -> Trust:
        """What a chain is worth whose signatures were checked already."""
        if any(not _may_issue(issuer, below) for below, issuer in enumerate(chain[1:])):
            return Trust.BROKEN
        top = chain[-1]
        if any(certificate in self.trusted for certificate in chain):
            return Trust.TRUSTED
        return Trust.UNTRUSTED_ROOT if issued_by(top, top) else Trust.INCOMPLETE


_NAMES: Final = {NameOID.SERIAL_NUMBER: "serialNumber", NameOID.DN_QUALIFIER: "dnQualifier"}


class _Counting:
    """A stream that knows how much was read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.done = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.done += len(data)
        return data


_TYPES: Final = {
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a device",
    "4": "a device",
    "6": "a pipe",
}


def _leads_out(name: str) -> bool:
    """True if unpacking the name would write outside of the folder it is unpacked to."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or parts[0].endswith(":")


def _bin_width(span: Span) -> int:
    """Whole hours, so that there are about 120 stretches."""
    hours = -(-(span.last_time - span.first_time) // (_BINS * _HOUR))
    return max(1, hours) * _HOUR


def _may_issue(certificate: x509.Certificate, below: int) -> bool:
    """True if a certificate is a CA's, by KeyUsage or, where that is absent, by BasicConstraints, and may have
    ``below`` CAs between itself and the TSE."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return is_ca(certificate)
    if constraints.path_length is not None and below > constraints.path_length:
        return False
    return constraints.ca or is_ca(certificate)
