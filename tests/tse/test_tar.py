"""TAR archives: the bytes that are written, and what verification finds in good and bad ones."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import io
import os
import random
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.tse._native import MessageBuilder, plain_signature
from fiskal.tse.algorithms import CURVES, point_of, serial_of_point
from fiskal.tse.certificates import Chain, create_test_chain
from fiskal.tse.findings import MAX_FINDINGS_EACH, Code, Severity
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import (
    BLOCK,
    MAX_MEMBER_BYTES,
    TarError,
    TarWriter,
    certificate_name,
    header,
    info_csv,
    read_members,
    write_archive,
)
from fiskal.tse.tarverify import MAX_CERTIFICATES, TarReport, Trust, verify_tar

CREATED = dt.datetime(2023, 11, 1, tzinfo=dt.UTC)
NOW = 1_700_000_000
INFO = info_csv("a shop", "fiskal (NOT CERTIFIED)", "1.0.0")
S, U, F = 1, 2, 3
TIME = b"\x81\x04" + NOW.to_bytes(4)


class Tse:
    """Signs whatever a test wants to be signed."""

    def __init__(self, created: dt.datetime = CREATED) -> None:
        curve = CURVES[0]
        self.curve = curve
        self.key = ec.generate_private_key(curve.curve)
        self.chain = create_test_chain(self.key.public_key(), created, ec.SECP256R1())
        self.build = MessageBuilder(
            serial=self.chain.serial, algorithm=curve.algorithm.arcs, hash_name=curve.algorithm.hash_name
        )

    def seal(self, digest: bytes) -> bytes:
        der = self.key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        return self.build.seal(plain_signature(der, self.curve.scalar_size))

    def tra(self, counter: int, number: int, step: int, client: str = "POS-1", at: int = 0) -> bytes:
        moment = (NOW + (at or counter)) * 1000
        return self.seal(
            self.build.transaction(step, client.encode(), b"x", b"Beleg", number, counter, moment)
        )

    def sys(self, counter: int, name: str = "startAudit", at: int = 0, data: bytes = b"") -> bytes:
        moment = NOW + (at or counter)
        if name == "updateTime":
            data = b"\x81\x04" + (NOW + counter - 1).to_bytes(4) + b"\x82\x04" + moment.to_bytes(4)
        return self.seal(self.build.system(name.encode(), data, counter, moment * 1000))

    def client(self, counter: int, client: str, *, register: bool = True) -> bytes:
        name = "registerClient" if register else "deregisterClient"
        return self.sys(counter, name, data=b"\x81" + bytes([len(client)]) + client.encode())

    def day(self) -> list[bytes]:
        """One system log and two transactions that overlap."""
        steps = [(1, S), (2, S), (1, U), (2, F), (1, F)]
        return [self.sys(1), *(self.tra(2 + at, number, step) for at, (number, step) in enumerate(steps))]


@cache
def tse() -> Tse:
    return Tse()


def named(messages: list[bytes]) -> list[tuple[str, bytes]]:
    return [(build_file_name(parse(message)), message) for message in messages]


def certificates(chain: Chain) -> list[tuple[str, bytes]]:
    return [(certificate_name(item), item.public_bytes(Encoding.DER)) for item in chain.certificates]


def archive(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    tar = TarWriter(out, NOW)
    for name, data in members:
        tar.add(name, data)
    tar.close()
    return out.getvalue()


def day_archive(messages: list[bytes] | None = None) -> bytes:
    out = io.BytesIO()
    content = tse().day() if messages is None else messages
    write_archive(out, info=INFO, chain=tse().chain, messages=named(content), mtime=NOW)
    return out.getvalue()


def verify(content: bytes, *roots: x509.Certificate, filtered: bool = False) -> TarReport:
    return verify_tar(io.BytesIO(content), roots, filtered=filtered)


def found(messages: list[bytes], **options: Any) -> set[str]:
    return verify(day_archive(messages), **options).codes - {"UNTRUSTED_ROOT"}


# ---- writing ------------------------------------------------------------------------------------


def test_the_worked_header() -> None:
    written = header(b"info.csv", 76, 1_700_000_000)
    assert len(written) == 512
    assert written[:100] == b"info.csv".ljust(100, b"\0")
    assert written[100:124] == b"0000644\x000000000\x000000000\x00"
    assert written[124:136] == b"00000000114\0"
    assert written[136:148] == b"14524770400\0"
    assert written[148:156] == b"007453\0 "
    assert written[156:157] == b"0"
    assert written[157:257] == bytes(100)
    assert written[257:265] == b"ustar\x0000"
    assert written[265:] == bytes(247)


@pytest.mark.parametrize(("name", "size", "mtime"), [(b"x" * 101, 0, 0), (b"x", 8**11, 0), (b"x", 0, -1)])
def test_what_does_not_fit_into_a_header(name: bytes, size: int, mtime: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        header(name, size, mtime)


def test_an_empty_archive() -> None:
    content = archive([])
    assert content == bytes(1024)
    digest = base64.b64encode(hashlib.sha256(content).digest())
    assert digest == b"X3C/GKCGAHAW6UiwSu07ghA6Nr6kF1W2zd+vEKzjxu8="
    assert list(read_members(io.BytesIO(content))) == []


@pytest.mark.parametrize("length", [99, 100, 101, 119, 990, 991, 992, 993])
def test_long_names(length: int) -> None:
    name = "n" * (length - 4) + ".log"
    content = archive([(name, b"data"), ("b", b"")])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == [name, "b"]
        member = tar.extractfile(name)
        assert member is not None
        assert member.read() == b"data"
    assert [member.name for member in read_members(io.BytesIO(content))] == [name, "b"]
    if length == 119:
        assert content[:9] == b"PaxHeader"
        assert content[156:157] == b"x"
        assert content[512 : 512 + 129] == b"129 path=" + name.encode() + b"\n"
    else:
        assert (content[156:157] == b"x") == (length > 100)


def test_other_programs_read_it() -> None:
    messages = tse().day()
    content = day_archive(messages)
    assert len(content) % BLOCK == 0
    assert content.endswith(bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            "info.csv",
            *(name for name, _ in certificates(tse().chain)),
            *(name for name, _ in named(messages)),
        ]
        assert {member.mtime for member in members} == {NOW}
        assert {member.mode for member in members} == {0o644}
        for member, data in zip(members[4:], messages, strict=True):
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == data
    assert len(content) == sum(BLOCK + member.size + -member.size % BLOCK for member in members) + 1024
    assert certificates(tse().chain)[0][0] == f"{tse().chain.serial.hex()}_X509.der"


def test_info_csv() -> None:
    assert INFO == (b'"description:","a shop","manufacturer:","fiskal (NOT CERTIFIED)","version:","1.0.0"\n')
    assert info_csv('a "b"', "", "").startswith(b'"description:","a ""b""",')


# ---- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_programs(format_: int) -> None:
    messages = tse().day()
    messages.append(tse().tra(7, 3, S, "C" * 64))
    members = [("info.csv", INFO), *certificates(tse().chain), *named(messages)]
    random.Random(1).shuffle(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members:
            if len(name) > 98 and format_ == tarfile.USTAR_FORMAT:
                name = "C" * 10 + ".log"  # noqa: PLW2901
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            info.mtime = NOW
            tar.addfile(info, io.BytesIO(data))
    report = verify(out.getvalue())
    assert report.ok
    assert (report.members, report.valid) == (len(members), 7)
    names = {"NAME_MISMATCH"} if format_ == tarfile.USTAR_FORMAT else set()
    assert report.codes == {"UNTRUSTED_ROOT", "OPEN_TRANSACTIONS"} | names


def test_prefixes_and_large_numbers() -> None:
    plain = bytearray(header(b"name", 3, 0))
    plain[345:350] = b"a/b\0\0"
    plain[124:136] = b"\x80" + (3).to_bytes(11)
    plain[148:156] = b"%06o\0 " % (sum(plain) - sum(plain[148:156]) + 256)
    content = bytes(plain) + b"abc".ljust(512, b"\0") + bytes(1024)
    assert [(member.name, member.data) for member in read_members(io.BytesIO(content))] == [
        ("a/b/name", b"abc")
    ]


def test_a_large_member_is_not_read_into_memory() -> None:
    content = archive([("info.csv", INFO), ("big.log", bytes(MAX_MEMBER_BYTES + 1)), ("b", b"x")])
    assert [(m.name, m.size, m.data is None) for m in read_members(io.BytesIO(content))][1:] == [
        ("big.log", MAX_MEMBER_BYTES + 1, True),
        ("b", 1, False),
    ]
    report = verify(content)
    assert report.unreadable == 1
    assert {"LOG_UNREADABLE", "UNKNOWN_FILE"} <= report.codes


class Dribble:
    """A stream that gives a few bytes at a time, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self.inner.read(min(size, 100))


def test_streams_that_give_little() -> None:
    assert verify_tar(Dribble(day_archive())) == verify(day_archive())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1024],
        lambda content: content[:-1025],
        lambda content: content[: 512 + 10],
        lambda content: b"x" + content[1:],
        lambda content: content[:124] + b"zz" + content[126:],
        lambda content: b"GIF89a" * 1000,
        lambda content: header(b"P", 5, 0, b"x") + b"9 x=\n".ljust(512, b"\0"),
        lambda content: header(b"P", 9, 0, b"x") + b"9 size=a\n".ljust(512, b"\0"),
        lambda content: header(b"P", 1 << 20, 0, b"x") + bytes(1 << 20),
        lambda content: header(b"P", 1 << 30, 0) + bytes(1 << 20),
    ],
)
def test_damaged_archives(damage: Callable[[bytes], bytes]) -> None:
    content = damage(day_archive())
    with pytest.raises(TarError):
        list(read_members(io.BytesIO(content)))
    report = verify(content)
    assert not report.ok
    assert "ARCHIVE_DAMAGED" in report.codes


# ---- verifying ----------------------------------------------------------------------------------


def test_a_good_archive() -> None:
    report = verify(day_archive())
    assert report.ok
    assert (report.members, report.logs, report.valid, report.invalid) == (10, 6, 6, 0)
    assert report.info == {
        "description": "a shop",
        "manufacturer": "fiskal (NOT CERTIFIED)",
        "version": "1.0.0",
    }
    (one,) = report.tses
    assert (one.serial, one.first_counter, one.last_counter) == (tse().chain.serial.hex(), 1, 6)
    assert (one.transactions, one.open_transactions, one.missing_counters) == (2, [], [])
    assert one.trust is Trust.UNTRUSTED_ROOT
    assert one.trust.value == "consistent, untrusted root"
    (finding,) = report.findings
    assert (finding.severity, finding.code) == (Severity.NOTE, Code.UNTRUSTED_ROOT)
    assert str(finding).startswith("note: the chain of certificates is consistent")

    trusted = verify(day_archive(), tse().chain.certificates[-1])
    assert (trusted.tses[0].trust, trusted.findings) == (Trust.TRUSTED, [])
    other = verify(day_archive(), Tse().chain.certificates[-1])
    assert other.tses[0].trust is Trust.UNTRUSTED_ROOT


def test_every_altered_byte_of_a_message_is_found() -> None:
    messages = tse().day()
    raw = messages[3]
    for at in range(len(raw)):
        altered = bytearray(raw)
        altered[at] ^= 1
        members = [
            ("info.csv", INFO),
            *certificates(tse().chain),
            *named(messages[:3] + messages[4:]),
            (named([raw])[0][0], bytes(altered)),
        ]
        report = verify(archive(members))
        assert not report.ok, at
        assert report.valid == 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m[:2] + m[3:], {"COUNTER_GAP", "NOT_STARTED"}),
        (lambda m: m[:3] + m[4:], {"COUNTER_GAP"}),
        (lambda m: m[:4], {"OPEN_TRANSACTIONS"}),
        (lambda m: m[3:], {"STARTS_LATER", "STARTED_BEFORE"}),
        (lambda m: [*m, m[-1]], {"MESSAGE_TWICE"}),
        (lambda m: [*m, tse().sys(6, "exitSecureState")], {"COUNTER_DUPLICATE"}),
        (lambda m: [*m, tse().sys(7, "secret")], {"CONFORMANCE"}),
        (lambda m: [*m, tse().sys(7, "disableSecureElement", data=TIME)], set()),
        (
            lambda m: [*m, tse().sys(7, "disableSecureElement", data=TIME), tse().tra(8, 3, S)],
            {"AFTER_DISABLE", "OPEN_TRANSACTIONS"},
        ),
        (lambda m: [tse().client(1, "POS-1"), *m[1:]], set()),
        (lambda m: [tse().client(1, "POS-2"), *m[1:]], {"CLIENT_NOT_REGISTERED"}),
        (
            lambda m: [*m, tse().client(7, "POS-1", register=False), tse().tra(8, 3, S)],
            {"CLIENT_NOT_REGISTERED", "OPEN_TRANSACTIONS"},
        ),
        (
            lambda m: [
                *m,
                tse().client(7, "POS-1", register=False),
                tse().client(8, "POS-1"),
                tse().tra(9, 3, S),
            ],
            {"OPEN_TRANSACTIONS"},
        ),
        (
            lambda m: [*m, tse().sys(7, "updateTime", at=100_000), tse().sys(8, "updateTime", at=100_001)],
            {"TIME_UPDATE"},
        ),
        (lambda m: [*m, tse().tra(7, 1, U)], {"AFTER_FINISH"}),
        (lambda m: [*m, tse().tra(7, 1, F)], {"AFTER_FINISH"}),
        (lambda m: [*m, tse().tra(7, 9, U)], {"NOT_STARTED", "OPEN_TRANSACTIONS"}),
        (lambda m: [*m, tse().tra(7, 9, F)], {"NOT_STARTED"}),
        (lambda m: [*m, tse().tra(7, 5, S)], {"OPEN_TRANSACTIONS", "TRANSACTION_NUMBER_GAP"}),
        (
            lambda m: [*m, tse().tra(7, 3, S), tse().tra(8, 3, S), tse().tra(9, 3, F, "POS-2")],
            {"STARTED_TWICE", "OTHER_CLIENT"},
        ),
        (lambda m: [*m, tse().sys(7, at=1)], {"TIME_BACKWARDS"}),
        (lambda m: [*m, tse().sys(7, "updateTime", at=1), tse().sys(8, at=2)], set()),
        (lambda m: [*m, tse().sys(7, at=10**9)], {"CERTIFICATE_NOT_VALID"}),
        (lambda m: [*m, tse().sys(7, "updateTime", at=-(10**8))], {"CERTIFICATE_NOT_VALID"}),
        (lambda m: [m[0], *(tse().sys(counter) for counter in (3, 4))], set()),
        (lambda m: [tse().sys(2), tse().sys(3)], set()),
        (lambda m: [tse().sys(1), tse().sys(4)], {"COUNTER_GAP"}),
        (lambda m: [], {"NO_LOG_MESSAGES"}),
    ],
)
def test_what_is_found(change: Callable[[list[bytes]], list[bytes]], expected: set[str]) -> None:
    messages = change(tse().day())
    assert found(messages) == expected
    gaps = {"COUNTER_GAP", "NOT_STARTED", "STARTED_BEFORE", "TRANSACTION_NUMBER_GAP", "TIME_UPDATE"}
    unknown = {"CLIENT_NOT_REGISTERED"} if len(messages) == 6 else set()
    assert found(messages, filtered=True) == expected - gaps - unknown


def test_missing_counters_are_ranges() -> None:
    messages = [tse().sys(counter) for counter in (2, 3, 4, 5, 6, 10, 11, 20, 21)]
    assert verify(day_archive(messages)).tses[0].missing_counters == [(7, 9), (12, 19)]


def test_members_that_are_missing_strange_or_misnamed() -> None:
    chain = certificates(tse().chain)
    logs = named(tse().day())
    assert "MISSING_INFO_CSV" in verify(archive([*chain, *logs])).codes
    report = verify(archive([("info.csv", INFO), *logs]))
    assert (report.unchecked, report.tses[0].trust) == (6, Trust.NO_CERTIFICATE)
    assert not report.ok
    assert verify(archive([("info.csv", INFO), *logs, *chain])).valid == 6  # certificates come last
    assert verify(archive([("info.csv", INFO), chain[0], *logs])).tses[0].trust is Trust.INCOMPLETE
    assert "CHAIN_INCOMPLETE" in verify(archive([("info.csv", INFO), *chain[:2], *logs])).codes
    rooted = verify(archive([("info.csv", INFO), *chain[:2], *logs]), tse().chain.certificates[2])
    assert rooted.tses[0].trust is Trust.TRUSTED

    swapped = [(chain[1][0], chain[0][1]), (chain[0][0].upper(), chain[1][1]), chain[2]]
    report = verify(archive([("info.csv", INFO), *swapped, *logs]))
    assert (report.ok, report.valid) == (True, 6)
    assert [f.member for f in report.findings if f.code is Code.NAME_MISMATCH] == [n for n, _ in swapped[:2]]

    pem = b"".join(item.public_bytes(Encoding.PEM) for item in tse().chain.certificates)
    upper = chain[0][0].replace(".der", ".CRT")
    assert verify(archive([("info.csv", INFO), (upper, pem), *logs])).tses[0].trust is Trust.UNTRUSTED_ROOT

    broken = [("0" * 64 + "_X509.der", b"0" + bytes(20)), ("notes.txt", b""), ("x.log", logs[0][1])]
    report = verify(archive([("info.csv", INFO), *chain, *broken, *logs[1:]]))
    assert report.ok
    assert report.codes == {"CERTIFICATE_UNREADABLE", "UNKNOWN_FILE", "NAME_MISMATCH", "UNTRUSTED_ROOT"}


def test_two_tses_in_one_archive() -> None:
    other = Tse()
    content = archive(
        [
            ("info.csv", INFO),
            *certificates(tse().chain),
            *certificates(other.chain),
            *named([*tse().day(), other.sys(1), other.sys(2)]),
        ]
    )
    report = verify(content)
    assert (report.valid, len(report.tses)) == (8, 2)
    assert "SEVERAL_SERIALS" in report.codes


def test_a_certificate_that_signs_without_being_a_ca() -> None:
    """The TSE's own key must not be able to vouch for another TSE."""
    false = Tse()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "false")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(tse().chain.leaf.subject)
        .public_key(false.key.public_key())
        .serial_number(1)
        .not_valid_before(CREATED)
        .not_valid_after(CREATED + dt.timedelta(days=1000))
        .sign(tse().key, hashes.SHA256())
    )
    content = archive(
        [
            ("info.csv", INFO),
            *certificates(tse().chain),
            (certificate_name(certificate), certificate.public_bytes(Encoding.DER)),
            *named([false.sys(1)]),
        ]
    )
    report = verify(content, tse().chain.certificates[-1])
    assert report.tses[0].trust is Trust.BROKEN
    assert "CHAIN_BROKEN" in report.codes
    assert not report.ok


def test_a_forged_message_under_another_key() -> None:
    """A message of another key that claims this TSE's serial number."""
    forger = Tse()
    forger.build = tse().build
    report = verify(day_archive([*tse().day(), forger.tra(7, 3, S)]))
    assert (report.valid, report.invalid) == (6, 1)
    assert "SIGNATURE_INVALID" in report.codes


def test_findings_and_certificates_are_limited() -> None:
    members = [(f"{index}.txt", b"") for index in range(MAX_FINDINGS_EACH + 50)]
    report = verify(archive(members))
    assert report.code_counts[Code.UNKNOWN_FILE] == MAX_FINDINGS_EACH + 50
    assert sum(finding.code is Code.UNKNOWN_FILE for finding in report.findings) == MAX_FINDINGS_EACH
    assert report.findings_left_out == 50
    assert report.findings[0].severity is Severity.ERROR  # MISSING_INFO_CSV, although it came last
    chain = certificates(tse().chain)
    assert "UNKNOWN_FILE" not in verify(archive(chain * MAX_CERTIFICATES)).codes  # they are always the same
    keys = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(MAX_CERTIFICATES // 3 + 1)]
    many = [item for key in keys for item in certificates(create_test_chain(key, CREATED, ec.SECP256R1()))]
    assert "UNKNOWN_FILE" in verify(archive(many)).codes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b'"description:","","manufacturer:","fiskaly GmbH","version:","v1"',
            {"description": "", "manufacturer": "fiskaly GmbH", "version": "v1"},
        ),
        (
            b'"description:", Applause Cafe 35, "manufacturer:", fiskaly Gmbh, "version:", 0.1.0\r\n',
            {"description": "Applause Cafe 35", "manufacturer": "fiskaly Gmbh", "version": "0.1.0"},
        ),
        (b'"description:","a, ""b""","version:","2"\n', {"description": 'a, "b"', "version": "2"}),
        (b"\xff\xfe", {}),
    ],
)
def test_the_forms_of_info_csv(text: bytes, expected: dict[str, str]) -> None:
    assert verify(archive([("info.csv", text)])).info == expected


# ---- nothing is raised --------------------------------------------------------------------------


@cache
def sample() -> bytes:
    return day_archive()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes(content: bytes) -> None:
    assert not verify(content).ok
    assert not verify(header(b"a.log", len(content), 0) + content + bytes(-len(content) % 512 + 1024)).ok


@settings(max_examples=600, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(1, 255), st.sampled_from(["flip", "cut", "insert"])),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_any_mutation(changes: list[tuple[int, int, str]], mend: bool) -> None:
    """Also with headers whose checksums are put right again, so that the change gets further."""
    content = bytearray(sample())
    for place, value, kind in changes:
        at = place % len(content)
        if kind == "flip":
            content[at] ^= value
        elif kind == "cut":
            del content[at : at + value]
        else:
            content[at:at] = bytes([value])
    if mend:
        for at in range(0, len(content) - 512, 512):
            if content[at + 257 : at + 262] == b"ustar":
                block = content[at : at + 512]
                content[at + 148 : at + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    verify(bytes(content), tse().chain.certificates[-1])


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2), st.integers(0, 1 << 16), st.integers(1, 255))
def test_any_mutation_of_a_certificate(which: int, place: int, value: int) -> None:
    chain = certificates(tse().chain)
    name, data = chain[which]
    altered = bytearray(data)
    altered[place % len(data)] ^= value
    chain[which] = (name, bytes(altered))
    report = verify(archive([("info.csv", INFO), *chain, *named(tse().day())]), tse().chain.certificates[-1])
    assert report.tses[0].trust is not Trust.TRUSTED or which == 2


# ---- real exports -------------------------------------------------------------------------------

EXPORTS = sorted(Path(os.environ.get("FISKAL_TSE_EXPORTS", "/nonexistent")).glob("*.tar"))


KNOWN = {
    "TSSProtokoll_WB_2021": {"start": 5, "finish": 5},
    "TSE_Export_12f97c6a": {"start": 12, "finish": 12, "system": 71, "audit": 2},
    "4b5ba740": {"system": 8},
    "logMessages2": {"system": 7, "audit": 3},
}
"""What public exports of real TSEs hold, by the beginning of their names."""


@pytest.mark.skipif(not EXPORTS, reason="FISKAL_TSE_EXPORTS names no folder with exports")
@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.name[:24])
def test_real_exports(path: Path) -> None:
    with path.open("rb") as file:
        report = verify_tar(file)
    assert report.ok, report.findings
    assert report.valid == report.logs > 0
    assert report.tses[0].trust is Trust.UNTRUSTED_ROOT
    assert "CONFORMANCE" not in report.codes
    for name, kinds in KNOWN.items():
        if path.name.startswith(name):
            assert report.tses[0].kinds == kinds
    with tarfile.open(path) as tar:
        names = [name.removeprefix("./") for name in tar.getnames()]
    with path.open("rb") as file:
        assert [member.name for member in read_members(file)] == names
    assert {finding.severity for finding in report.findings} <= {Severity.NOTE, Severity.WARNING}


def test_a_serial_number_is_the_hash_of_the_point() -> None:
    assert tse().chain.serial == serial_of_point(point_of(tse().key.public_key()))


def _bytes_of_logs(content: bytes) -> list[int]:
    """Where the bytes of all log messages lie in an archive."""
    with tarfile.open(fileobj=io.BytesIO(content)) as members:
        return [
            at
            for member in members
            if member.name.endswith(".log")
            for at in range(member.offset_data, member.offset_data + member.size)
        ]


def _never_valid(content: bytes, places: list[int], change: int) -> None:
    for at in places:
        changed = bytearray(content)
        changed[at] ^= change
        report = verify(bytes(changed))
        assert not report.ok, at
        assert report.codes & {
            "SIGNATURE_INVALID",
            "LOG_UNREADABLE",
            "NO_CERTIFICATE",
            "ALGORITHM_NOT_SUPPORTED",
        }


@pytest.mark.parametrize("change", [0x01, 0x80])
def test_every_changed_byte_of_an_archived_message_is_an_error(change: int) -> None:
    content = day_archive([tse().sys(1), tse().tra(2, 1, S), tse().tra(3, 1, F)])
    _never_valid(content, _bytes_of_logs(content), change)


@pytest.mark.skipif(not EXPORTS, reason="FISKAL_TSE_EXPORTS names no folder with exports")
@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.name[:12])
def test_changed_bytes_of_real_exports_are_errors(path: Path) -> None:
    content = path.read_bytes()
    _never_valid(content, random.Random(1).sample(_bytes_of_logs(content), 60), 0x04)
