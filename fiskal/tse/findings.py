"""What verification has to say about an archive: findings with a grade, a stable name and a place."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

MAX_FINDINGS_EACH: Final = 200
"""Findings kept of one code and severity; all of them are counted."""


class Severity(enum.StrEnum):
    """ERROR: the archive does not prove what it says. WARNING: unusual. NOTE: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Code(enum.StrEnum):
    """What a finding is about. The names are stable and meant for programs."""

    ARCHIVE_DAMAGED = "the archive is damaged or incomplete"
    MISSING_INFO_CSV = "there is no info.csv"
    NO_LOG_MESSAGES = "the archive holds no log messages"
    UNKNOWN_FILE = "the file belongs to no export"
    UNSAFE_NAME = "the name of the file leads out of the folder it would be unpacked to"
    NOT_A_FILE = "the archive holds something that is no file"
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
    CERTIFICATE_REVOKED = "a certificate was revoked by its issuer"
    REVOCATION_UNKNOWN = "whether a certificate was revoked is not known"
    COUNTER_DUPLICATE = "two different messages have one signatureCounter"
    MESSAGE_TWICE = "a message is there twice"
    ARCHIVES_OVERLAP = "messages are in several of the archives"
    COUNTER_GAP = "signatureCounters are missing"
    STARTS_LATER = "the archive does not begin with the first signature"
    TRANSACTION_NUMBER_GAP = "transaction numbers are missing"
    STARTED_TWICE = "a transaction was started twice"
    NOT_STARTED = "a transaction goes on that was never started"
    STARTED_BEFORE = "a transaction was started before this archive begins"
    AFTER_FINISH = "a transaction goes on after its end"
    OTHER_CLIENT = "a transaction was continued by another client"
    OPEN_TRANSACTIONS = "transactions are open"
    CLIENT_NOT_REGISTERED = "a transaction belongs to a client that was not registered at the TSE"
    TIME_BACKWARDS = "logTime goes back without an updateTime"
    TIME_UPDATE = "an updateTime does not fit the messages around it"
    AFTER_DISABLE = "a transaction was signed after the TSE was decommissioned"
    CONFORMANCE = "the message deviates from the guideline"


class TarFinding(NamedTuple):
    """One finding; ``member`` is the file it is about, empty if it is about all of them."""

    severity: Severity
    code: Code
    member: str
    text: str
    archive: str = ""
    """The archive that holds the file; empty if only one was verified."""

    def __str__(self) -> str:
        place = "/".join(part for part in (self.archive, self.member) if part)
        return (
            f"{self.severity}:{f' {place}:' if place else ''} {self.code}"
            f"{f': {self.text}' if self.text else ''}"
        )
