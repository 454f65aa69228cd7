"""What stands against a journal: the certificates of its TSEs, and their own log (TR-03153-1 §10).

A response proves with the key it carries that it was signed; the certificate says whose key that is, and the
log of the TSE whether the TSE says the same, and whether it signed something that the journal does not have.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.clock import TICKS_PER_SECOND, from_unix
from fiskal.pos.embedded import json_object
from fiskal.store import QueueRow, ScuRow
from fiskal.tse.algorithms import point_of, serial_of_point
from fiskal.tse.certificates import X509_ERRORS, load_certificates, order_chain
from fiskal.tse.checking import FINISH, SHIFT, START, UPDATE, client_key, signature_key
from fiskal.tse.tarverify import VerifiedLog

_KINDS: Final = {"start": START, "update": UPDATE, "finish": FINISH}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


class Problem(NamedTuple):
    """Something that does not hold: where it stands and what it is."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class _Held:
    """The certificate of one TSE; times are ticks, ``doubt`` says why its chain proves nothing."""

    subject: str
    not_before: int
    not_after: int
    doubt: str


class Evidence:
    """Certificates, and the TSEs' log if there is one.

    ``scus`` are the rows of the store, whose TseInfo has the certificates; ``trusted_roots`` the trust anchors:
    if there are any, every TSE's certificate must lead to one of them.
    """

    def __init__(
        self,
        scus: Iterable[ScuRow],
        log: VerifiedLog | None = None,
        trusted_roots: Iterable[x509.Certificate] = (),
    ) -> None:
        self._log = log
        self._ends: dict[bytes, tuple[int, int]] = {}
        """First and last counter of every TSE in the log."""
        self._last_time = 0
        """The youngest log time of all."""
        self._later: set[int] = set()
        trusted = list(trusted_roots)
        found = [certificate for row in scus for certificate in _certificates(row)]
        if log is not None:
            found += log.certificates.values()
            log.ledger.index()
            for serial, number in log.ledger.serials.items():
                span = log.ledger.span(number)
                self._ends[serial] = span.first_counter, span.last_counter
                self._last_time = max(self._last_time, span.last_time)
        self._held: dict[bytes, _Held] = {}
        for certificate in found:
            try:
                key = certificate.public_key()
                if isinstance(key, ec.EllipticCurvePublicKey):
                    serial = serial_of_point(point_of(key))
                    if serial not in self._held:
                        self._held[serial] = _held(certificate, found, trusted)
            except X509_ERRORS:
                continue

    @property
    def later(self) -> int:
        """How many signatures are younger than the log."""
        return len(self._later)

    @property
    def has_certificates(self) -> bool:
        return bool(self._held)

    def key(self, serial: bytes) -> str:
        """What is wrong with a key that signed, by its serial number; empty if nothing."""
        held = self._held.get(serial)
        if held is None:
            return f"no certificate of a TSE has the key {serial.hex()}" if self._held else ""
        return held.doubt

    def moment(self, serial: bytes, time: int) -> str:
        """What is wrong with a signature made at ``time`` (ticks); empty if nothing."""
        held = self._held.get(serial)
        if held is None or time <= held.not_after:
            return ""
        return f"the certificate {held.subject} had expired at the log time"

    def is_early(self, serial: bytes, time: int) -> bool:
        """True for a log time before the certificate was valid: the clock of the TSE was wrong. That its key
        signed is proven all the same."""
        held = self._held.get(serial)
        return held is not None and time < held.not_before

    def signature(self, serial: bytes, counter: int, operation: str, number: int, signature: bytes) -> str:
        """What the log says against a signature that holds; empty if nothing."""
        if self._log is None:
            return ""
        what = f"the {operation} of transaction {number} (signatureCounter {counter})"
        rows = self._log.ledger.find(serial, counter)
        if not rows:
            return self._absent(serial, counter, what)
        key = signature_key(signature)
        for row, found in rows:
            if found.signature == key and found.kind == _KINDS[operation]:
                self._log.ledger.match(row)
                return ""
        return f"{what} has another signature in the log of the TSE: {rows[0][1].name}"

    def call(self, operation: str, number: int, counter: int, time: int) -> str:
        """What the log says against a call that the journal notes without naming the TSE; empty if nothing."""
        if self._log is None:
            return ""
        what = f"the {operation} of transaction {number} (signatureCounter {counter})"
        second = time // TICKS_PER_SECOND
        for serial in self._ends:
            for row, found in self._log.ledger.find(serial, counter):
                if (
                    found.kind == _KINDS[operation]
                    and found.number + SHIFT == number
                    and found.time // TICKS_PER_SECOND == second
                ):
                    self._log.ledger.match(row)
                    return ""
        if len(self._ends) == 1:
            (serial,) = self._ends
            return self._absent(serial, counter, what)
        if time > self._last_time:
            self._later.add(counter)
            return ""
        return f"{what} is not in the log of any TSE"

    def _absent(self, serial: bytes, counter: int, what: str) -> str:
        ends = self._ends.get(serial)
        if ends is None:
            return f"{what} was made by a TSE whose log was not given: {serial.hex()}"
        first, last = ends
        if counter > last:
            self._later.add(counter)
            return ""
        if counter < first:
            return f"{what} is older than the log, which begins with {first}: give the earlier archives too"
        return f"{what} is not in the log of the TSE"

    def unjournalled(self, client_ids: Iterable[str]) -> Iterator[Problem]:
        """Transactions of these clients that the TSE signed and no journal has. Ask when all are checked."""
        if self._log is None:
            return
        for _, kind, counter, name in self._log.ledger.unmatched({client_key(each) for each in client_ids}):
            yield Problem(
                name,
                f"the TSE signed a {_NAMES[kind]} (signatureCounter {counter}) that is not in the journal",
            )


def client_ids(chosen: Iterable[QueueRow], others: Iterable[QueueRow]) -> set[str]:
    """The clients that only the chosen queues are."""
    return {row.CashBoxIdentification for row in chosen} - {row.CashBoxIdentification for row in others}


def _certificates(row: ScuRow) -> Iterator[x509.Certificate]:
    try:
        for text in json_object(row.TseInfoJson).get("CertificatesBase64") or []:
            yield from load_certificates(base64.b64decode(text))
    except (*X509_ERRORS, AttributeError):
        return


def _held(
    certificate: x509.Certificate, others: list[x509.Certificate], trusted: list[x509.Certificate]
) -> _Held:
    doubt = ""
    chain = order_chain(certificate, [*trusted, *others]).certificates
    if trusted and not any(each in trusted for each in chain):
        doubt = f"the certificate {certificate.subject.rfc4514_string()} leads to no trust anchor"
    return _Held(
        certificate.subject.rfc4514_string(),
        from_unix(int(certificate.not_valid_before_utc.timestamp())),
        from_unix(int(certificate.not_valid_after_utc.timestamp())),
        doubt,
    )
