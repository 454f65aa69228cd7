"""Revocation lists (X.509 CRLs, RFC 5280 §5): which certificates of a chain their makers have taken back.

TR-03153-1 §10.1 asks for a list that is not older than 24 hours; without one nothing is known. Lists are given by the
caller and never fetched.
"""

from __future__ import annotations

import datetime as dt
import enum
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from fiskal.clock import TICKS_PER_SECOND, from_unix
from fiskal.errors import FiskalError
from fiskal.tse.certificates import X509_ERRORS, is_ca, key_of

MAX_AGE_S: Final = 24 * 3600
"""How old a list may be (TR-03153-1 §10.1)."""
EXPIRED_CERTS_ON_CRL: Final = ObjectIdentifier("2.5.29.60")
"""The extension of a list that keeps certificates which have expired."""
_COMPROMISED: Final = frozenset(
    {
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.ca_compromise,
        x509.ReasonFlags.aa_compromise,
    }
)


class RevocationListError(FiskalError):
    """A file that holds no revocation list."""

    code = "REVOCATION_LIST"


class Revocation(enum.StrEnum):
    """What is known of the revocation of a chain."""

    NOT_CHECKED = "not checked"
    GOOD = "not revoked"
    UNKNOWN = "unknown"
    REVOKED = "revoked"


class Revoked(NamedTuple):
    """A certificate that was taken back. From ``since`` on (ticks) its signatures prove nothing; None if the key
    was compromised and nobody says when."""

    certificate: x509.Certificate
    since: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class ChainRevocation:
    """What lists say of a chain. ``doubts`` are why it is not known for a certificate, as text."""

    state: Revocation
    revoked: tuple[Revoked, ...] = ()
    doubts: tuple[str, ...] = ()


def load_revocation_lists(data: bytes) -> list[x509.CertificateRevocationList]:
    """Read the lists of a file, one in DER or any number in PEM. Raises :class:`RevocationListError`."""
    try:
        if b"-----BEGIN" in data:
            end = b"-----END X509 CRL-----"
            blocks = [block + end for block in data.split(end)[:-1]]
            lists = [x509.load_pem_x509_crl(block[block.rindex(b"-----BEGIN") :]) for block in blocks]
        else:
            lists = [x509.load_der_x509_crl(data)]
        for each in lists:  # cryptography reads members when they are looked at
            _ = (each.issuer, each.last_update_utc, each.next_update_utc)
    except X509_ERRORS as error:
        raise RevocationListError("The file holds no X.509 revocation list in DER or PEM.") from error
    if not lists:
        raise RevocationListError("The file holds no X.509 revocation list in DER or PEM.")
    return lists


def _ticks(moment: dt.datetime) -> int:
    return from_unix(int(moment.timestamp()))


class RevocationLists:
    """Lists from :func:`load_revocation_lists`, asked at ``now`` (ticks)."""

    def __init__(self, lists: Iterable[x509.CertificateRevocationList], now: int) -> None:
        self._lists = sorted(lists, key=lambda each: each.last_update_utc, reverse=True)
        self._now = now

    def __bool__(self) -> bool:
        return bool(self._lists)

    def judge(self, chain: Sequence[x509.Certificate]) -> ChainRevocation:
        """Look up every certificate of a chain (leaf first) that has an issuer in it; the last one has none and is
        not looked up: a trust anchor is taken back by no longer trusting it."""
        if not self._lists:
            return ChainRevocation(Revocation.NOT_CHECKED)
        revoked: list[Revoked] = []
        doubts: list[str] = []
        for certificate, issuer in itertools.pairwise(chain):
            found, doubt = self._look_up(certificate, issuer)
            if found is not None:
                revoked.append(found)
            elif doubt:
                doubts.append(f"{certificate.subject.rfc4514_string()}: {doubt}")
        if len(chain) == 1 and chain[0].issuer != chain[0].subject:
            doubts.append(f"{chain[0].subject.rfc4514_string()}: its issuer is not known")
        state = Revocation.GOOD
        if revoked:
            state = Revocation.REVOKED
        elif doubts:
            state = Revocation.UNKNOWN
        return ChainRevocation(state, tuple(revoked), tuple(doubts))

    def _look_up(self, certificate: x509.Certificate, issuer: x509.Certificate) -> tuple[Revoked | None, str]:
        """Whether a certificate was taken back, and if not, why that is not sure; empty if it is."""
        doubt = "no list of its issuer was given"
        for crl in self._lists:
            if crl.issuer != certificate.issuer:
                continue
            unusable = _unusable(crl, certificate, issuer)
            if unusable:
                doubt = unusable
                continue
            try:
                entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
                found = None if entry is None else _revoked(certificate, entry)
            except X509_ERRORS as error:
                return None, f"its entry in the list cannot be read: {error}"
            return (None, self._age(crl, certificate)) if found is None else (found, "")
        return None, doubt

    def _age(self, crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> str:
        """Why a list that does not have a certificate does not clear it."""
        made = crl.last_update_utc
        following = crl.next_update_utc
        if certificate.not_valid_after_utc < made and not _keeps_expired(crl):
            return "it had expired when the list was made, which may be why it is not on it"
        if self._now - _ticks(made) > MAX_AGE_S * TICKS_PER_SECOND:
            return f"the list of {made:%Y-%m-%d %H:%M} UTC is older than 24 hours"
        if following is not None and _ticks(following) < self._now:
            return f"the list was due to be replaced on {following:%Y-%m-%d %H:%M} UTC"
        return ""


def _unusable(
    crl: x509.CertificateRevocationList, certificate: x509.Certificate, issuer: x509.Certificate
) -> str:
    """Why a list says nothing about a certificate; empty if it does."""
    try:
        if not crl.is_signature_valid(key_of(issuer)):
            return "the list was not signed by its issuer"
        try:
            usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            pass
        else:
            if not usage.crl_sign:
                return "its issuer may not sign lists"
        for extension in crl.extensions:
            if isinstance(extension.value, x509.IssuingDistributionPoint):
                partial = _is_partial(extension.value, certificate)
                if partial:
                    return partial
            elif isinstance(extension.value, x509.DeltaCRLIndicator):
                return "the list has only changes to another one"
            elif extension.critical:
                return f"the list has an extension that is not understood, {extension.oid.dotted_string}"
    except X509_ERRORS as error:
        return f"the list cannot be used: {error}"
    return ""


def _is_partial(point: x509.IssuingDistributionPoint, certificate: x509.Certificate) -> str:
    """Why a list with this scope does not cover a certificate; empty if it does."""
    if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
        return "the list is only a part of its issuer's"
    if point.only_contains_ca_certs and not is_ca(certificate):
        return "the list is only about CAs"
    if point.only_contains_user_certs and is_ca(certificate):
        return "the list is not about CAs"
    return ""


def _keeps_expired(crl: x509.CertificateRevocationList) -> bool:
    return any(extension.oid == EXPIRED_CERTS_ON_CRL for extension in crl.extensions)


def _revoked(certificate: x509.Certificate, entry: x509.RevokedCertificate) -> Revoked | None:
    """What an entry says; None if it takes the revocation back."""
    since: int | None = _ticks(entry.revocation_date_utc)
    reason = x509.ReasonFlags.unspecified
    invalid_since: int | None = None
    for extension in entry.extensions:
        if isinstance(extension.value, x509.CRLReason):
            reason = extension.value.reason
        elif isinstance(extension.value, x509.InvalidityDate):
            invalid_since = _ticks(extension.value.invalidity_date_utc)
    if reason is x509.ReasonFlags.remove_from_crl:
        return None
    if invalid_since is not None:
        since = invalid_since
    elif reason in _COMPROMISED:
        since = None
    return Revoked(certificate, since, str(reason.value))
