"""Revocation lists: what they say of a chain, and what they leave open."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fiskal.cli import main
from fiskal.clock import from_unix
from fiskal.tse._native import MessageBuilder, plain_signature
from fiskal.tse.archive import Archive
from fiskal.tse.certificates import Chain
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.revocation import (
    EXPIRED_CERTS_ON_CRL,
    Revocation,
    RevocationListError,
    RevocationLists,
    load_revocation_lists,
)
from fiskal.tse.tar import info_csv, write_archive
from fiskal.tse.tarverify import TarReport, verify_archives

BORN = dt.datetime(2023, 11, 1, tzinfo=dt.UTC)
FIRST_LOG = 1_700_000_000
LAST_LOG = FIRST_LOG + 3
TODAY = dt.datetime(2023, 12, 1, tzinfo=dt.UTC)
NOW = from_unix(int(TODAY.timestamp()))
Change = Callable[[x509.CertificateRevocationListBuilder], x509.CertificateRevocationListBuilder]


class Pki:
    """Root, sub CA and TSE, with the keys that sign lists; and an export of the TSE."""

    def __init__(self, *, crl_sign: bool = True) -> None:
        self.keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        self.names = [
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("TSE", "Sub CA", "Root")
        ]
        self.chain = Chain(tuple(self._issue(level, crl_sign) for level in range(3)))
        self.archive = self._export()

    def _issue(self, level: int, crl_sign: bool) -> x509.Certificate:
        above = min(level + 1, 2)
        usage = x509.KeyUsage(
            level == 0, False, False, False, False, level > 0, level > 0 and crl_sign, False, False
        )
        return (
            x509.CertificateBuilder()
            .subject_name(self.names[level])
            .issuer_name(self.names[above])
            .public_key(self.keys[level].public_key())
            .serial_number(1000 + level)
            .not_valid_before(BORN)
            .not_valid_after(BORN + dt.timedelta(days=3000))
            .add_extension(x509.BasicConstraints(level > 0, None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.keys[above], hashes.SHA256())
        )

    def _export(self) -> bytes:
        build = MessageBuilder(serial=self.chain.serial, algorithm=b"\x01\x03", hash_name="sha256")
        messages = []
        for counter in range(1, 5):
            digest = build.transaction(
                1 if counter % 2 else 3,
                b"P",
                b"",
                b"",
                (counter + 1) // 2,
                counter,
                (FIRST_LOG + counter - 1) * 1000,
            )
            der = self.keys[0].sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
            message = build.seal(plain_signature(der, 32))
            messages.append((build_file_name(parse(message)), message))
        out = io.BytesIO()
        write_archive(out, info=info_csv("d", "m", "1"), chain=self.chain, messages=messages, mtime=0)
        return out.getvalue()

    def crl(
        self,
        level: int = 1,
        *revoked: int,
        made: dt.datetime = TODAY - dt.timedelta(hours=2),
        until: dt.datetime | None = None,
        since: dt.datetime = TODAY,
        reason: x509.ReasonFlags | None = None,
        invalid_since: dt.datetime | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        change: Change | None = None,
    ) -> x509.CertificateRevocationList:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.names[level])
            .last_update(made)
            .next_update(until or made + dt.timedelta(days=2))
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            if invalid_since is not None:
                entry = entry.add_extension(x509.InvalidityDate(invalid_since), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        if change is not None:
            builder = change(builder)
        return builder.sign(key or self.keys[level], hashes.SHA256())


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def verify(pki: Pki, *lists: x509.CertificateRevocationList, now: int = NOW) -> TarReport:
    archive = Archive("", 0, lambda: nullcontext(io.BytesIO(pki.archive)))
    return verify_archives(
        [archive], [pki.chain.certificates[-1]], revocation_lists=lists, now=now, workers=1
    )


def at(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(FIRST_LOG + seconds, dt.UTC)


def test_without_lists_nothing_is_said(pki: Pki) -> None:
    report = verify(pki)
    assert (report.findings, report.tses[0].revocation) == ([], Revocation.NOT_CHECKED)


def test_lists_that_are_clean(pki: Pki) -> None:
    report = verify(pki, pki.crl(2), pki.crl(1, 999))
    assert (report.findings, report.tses[0].revocation) == ([], Revocation.GOOD)


@pytest.mark.parametrize(("since", "younger"), [(at(-1), 4), (at(0), 3), (at(2), 1), (at(3), 0), (TODAY, 0)])
@pytest.mark.parametrize("level", [0, 1], ids=["TSE", "sub CA"])
def test_what_was_signed_before_stands(pki: Pki, level: int, since: dt.datetime, younger: int) -> None:
    report = verify(pki, pki.crl(level + 1, 1000 + level, since=since), pki.crl(2 - level))
    (finding,) = report.findings
    assert finding.code.name == "CERTIFICATE_REVOKED"
    assert report.tses[0].revocation is Revocation.REVOKED
    assert report.ok == (younger == 0)
    assert ("all messages are older" if younger == 0 else f"{younger} messages are younger") in finding.text
    assert bool(finding.member) == bool(younger)


def test_a_compromised_key_proves_nothing_at_all(pki: Pki) -> None:
    """The revocation is younger than every message, but nobody knows who had the key before it."""
    reason = x509.ReasonFlags.key_compromise
    report = verify(pki, pki.crl(1, 1000, reason=reason), pki.crl(2))
    assert not report.ok
    assert "since when" in report.findings[0].text
    known = verify(pki, pki.crl(1, 1000, reason=reason, invalid_since=at(3600)), pki.crl(2))
    assert known.ok
    early = verify(pki, pki.crl(1, 1000, reason=reason, invalid_since=at(1)), pki.crl(2))
    assert not early.ok
    assert "2 messages are younger" in early.findings[0].text


def test_a_revocation_that_was_taken_back(pki: Pki) -> None:
    reason = x509.ReasonFlags.remove_from_crl
    assert verify(pki, pki.crl(1, 1000, reason=reason), pki.crl(2)).findings == []


def doubt(report: TarReport) -> str:
    (finding,) = report.findings
    assert finding.code.name == "REVOCATION_UNKNOWN"
    assert report.ok
    assert report.tses[0].revocation is Revocation.UNKNOWN
    return finding.text


def distribution_point(**members: Any) -> Change:
    scope: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
        **members,
    }
    return lambda builder: builder.add_extension(x509.IssuingDistributionPoint(**scope), critical=True)


def extension(value: x509.ExtensionType, *, critical: bool) -> Change:
    return lambda builder: builder.add_extension(value, critical=critical)


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "not signed by its issuer"),
        ({"made": TODAY - dt.timedelta(hours=25)}, "older than 24 hours"),
        ({"made": TODAY - dt.timedelta(hours=3), "until": TODAY - dt.timedelta(hours=1)}, "to be replaced"),
        ({"change": distribution_point(indirect_crl=True)}, "only a part"),
        ({"change": distribution_point(only_contains_ca_certs=True)}, "only about CAs"),
        ({"change": extension(x509.DeltaCRLIndicator(1), critical=True)}, "only changes"),
        ({"change": extension(UNKNOWN, critical=True)}, "not understood, 1.2.3.4"),
    ],
)
def test_lists_that_clear_nobody(pki: Pki, members: dict[str, Any], text: str) -> None:
    assert text in doubt(verify(pki, pki.crl(1, **members), pki.crl(2)))


@pytest.mark.parametrize(
    "change",
    [
        distribution_point(only_contains_user_certs=True),
        distribution_point(full_name=[x509.UniformResourceIdentifier("http://example.org/sub.crl")]),
        extension(UNKNOWN, critical=False),
        extension(x509.CRLNumber(7), critical=False),
    ],
)
def test_lists_that_do(pki: Pki, change: Change) -> None:
    assert verify(pki, pki.crl(1, change=change), pki.crl(2)).findings == []


def test_a_list_in_two_parts(pki: Pki) -> None:
    users = pki.crl(1, 1000, since=at(-1), change=distribution_point(only_contains_user_certs=True))
    authorities = pki.crl(1, change=distribution_point(only_contains_ca_certs=True))
    for lists in ((users, authorities), (authorities, users)):
        assert not verify(pki, *lists, pki.crl(2)).ok


def test_old_lists_revoke_all_the_same(pki: Pki) -> None:
    old = pki.crl(1, 1000, since=at(-1), made=TODAY - dt.timedelta(days=9))
    assert not verify(pki, old, pki.crl(2)).ok


def test_the_newest_list_counts(pki: Pki) -> None:
    """A certificate on hold may come back."""
    old = pki.crl(1, 1000, since=at(-1), made=TODAY - dt.timedelta(hours=9))
    assert verify(pki, old, pki.crl(1), pki.crl(2)).findings == []


def test_a_list_that_is_missing(pki: Pki) -> None:
    assert "Sub CA: no list of its issuer" in doubt(verify(pki, pki.crl(1)))
    assert "TSE: no list of its issuer" in doubt(verify(pki, pki.crl(2)))


def test_an_issuer_that_may_not_sign_lists() -> None:
    pki = Pki(crl_sign=False)
    report = verify(pki, pki.crl(1, 1000, since=at(-1)), pki.crl(2))
    assert report.code_counts.total() == 2
    assert all("may not sign lists" in finding.text for finding in report.findings)


def test_lists_forget_what_has_expired(pki: Pki) -> None:
    late = BORN + dt.timedelta(days=3001)
    now = from_unix(int(late.timestamp()) + 60)
    sub = pki.crl(
        2,
        made=late,
        change=extension(x509.UnrecognizedExtension(EXPIRED_CERTS_ON_CRL, b"\x05\x00"), critical=False),
    )
    assert "had expired when the list was made" in doubt(verify(pki, pki.crl(1, made=late), sub, now=now))


def test_files(pki: Pki) -> None:
    lists = [pki.crl(1), pki.crl(2)]
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in lists)
    assert load_revocation_lists(b"a comment\n" + pem) == lists
    assert load_revocation_lists(lists[0].public_bytes(Encoding.DER)) == lists[:1]
    certificate = pki.chain.leaf
    for data in (
        b"",
        b"rubbish",
        certificate.public_bytes(Encoding.DER),
        certificate.public_bytes(Encoding.PEM),
    ):
        with pytest.raises(RevocationListError):
            load_revocation_lists(data)


def test_command(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "export.tar").write_bytes(pki.archive)
    (tmp_path / "root.der").write_bytes(pki.chain.certificates[-1].public_bytes(Encoding.DER))
    today = dt.datetime.now(dt.UTC).replace(microsecond=0)
    lists = tmp_path / "lists"
    lists.mkdir()
    for level, revoked in ((1, [1000]), (2, [])):
        crl = pki.crl(level, *revoked, made=today, since=at(2))
        (lists / f"{level}.crl").write_bytes(crl.public_bytes(Encoding.DER))
    call = ["verify", "tar", str(tmp_path / "export.tar"), "--trust", str(tmp_path / "root.der")]
    good = CliRunner().invoke(main, [*call, "--crl", str(lists / "2.crl")])
    assert (good.exit_code, "revocation: unknown" in good.output) == (0, True)
    page = tmp_path / "report.html"
    bad = CliRunner().invoke(main, [*call, "--crl", str(lists), "--html", str(page)])
    assert bad.exit_code == 1
    assert "a certificate was revoked by its issuer: CN=TSE" in bad.output
    assert "Revocation: revoked." in page.read_text()
    plain = json.loads(CliRunner().invoke(main, [*call, "--crl", str(lists), "--json"]).output)
    assert (plain["ok"], plain["tses"][0]["revocation"]) == (False, "revoked")
    wrong = CliRunner().invoke(main, [*call, "--crl", str(tmp_path / "root.der")])
    assert wrong.exit_code == 2


def test_damaged_lists_never_clear(pki: Pki) -> None:
    """Every byte changed: the file is refused, or says nothing if what was signed has changed."""
    original = pki.crl(1, 1000)
    issued = original.public_bytes(Encoding.DER)
    chain = pki.chain.certificates[:2]
    for at in range(len(issued)):
        changed = bytearray(issued)
        changed[at] ^= 0x01
        try:
            lists = load_revocation_lists(bytes(changed))
        except RevocationListError:
            continue
        found = RevocationLists(lists, NOW).judge(chain).state
        assert found is not Revocation.GOOD, at
        if lists[0].tbs_certlist_bytes != original.tbs_certlist_bytes:
            assert found is Revocation.UNKNOWN, at
