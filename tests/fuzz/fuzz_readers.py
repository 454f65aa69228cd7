"""Mutates what the readers in Python are given: file names, QR codes, archives, system events, ZIP files,
revocation lists.

    python tests/fuzz/fuzz_readers.py -n 100000 -s 1

Ends with an exception at the first reader that raises something else than its own error, or that calls
something valid that was not signed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.clock import TICKS_PER_SECOND, from_unix
from fiskal.tse._native import MessageBuilder, plain_signature
from fiskal.tse.archive import ArchiveError, find_archives
from fiskal.tse.certificates import create_test_chain
from fiskal.tse.events import decode_event, summary
from fiskal.tse.logmessage import (
    LogMessageError,
    LogType,
    build_file_name,
    file_name_agrees,
    parse,
    parse_file_name,
)
from fiskal.tse.qr import QrError, QrV0, parse_qr
from fiskal.tse.revocation import (
    Revocation,
    RevocationListError,
    RevocationLists,
    load_revocation_lists,
)
from fiskal.tse.tar import TarError, info_csv, read_members, write_archive
from fiskal.tse.tarverify import verify_archives, verify_tar
from fiskal.tse.verify import finish_statement, verify_qr

NAMES = (
    "Unixt_1631610069_Sig-57_Log-Tra_No-1_Finish_Client-10999900.1215566690.V2.log",
    "./Utc_201230141334Z_Sig-93_Log-Tra_No-45_Update_Client-a b=c_Fc-2.log",
    "Gent_20181109084236.123Z_Sig-1_Log-Sys_updateTime.log",
    "Unixt_1630606974_Sig-33_Log-Aud.log",
)
TEMPTING = b"\0\x01\x02\x04\x30\x80\x81\x82\xa0\xff;_.-/09Zx\r\n"


class Material:
    """What is mutated: signed by a key made for the purpose."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        chain = create_test_chain(key.public_key(), dt.datetime(2023, 11, 1, tzinfo=dt.UTC), ec.SECP256R1())
        build = MessageBuilder(serial=chain.serial, algorithm=b"\x01\x03", hash_name="sha256")

        def sign(digest: bytes) -> bytes:
            return plain_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))), 32)

        self.messages = [
            build.seal(
                sign(build.system(b"updateTime", b"\x81\x01\0\x82\x04eS\xf1\0", 1, 1_700_000_001_000))
            ),
            build.seal(sign(build.transaction(1, b"P", b"", b"T", 1, 2, 1_700_000_002_000))),
            build.seal(
                sign(build.transaction(3, b"P", b"abc", b"T", 1, 3, 1_700_000_003_000, chunks=(1, 2)))
            ),
            build.seal(sign(build.audit(b"\x30\0", 4, 1_700_000_004_000))),
        ]
        named = [(build_file_name(parse(message)), message) for message in self.messages]
        out = io.BytesIO()
        write_archive(out, info=info_csv("d", "m", "1"), chain=chain, messages=named, mtime=0)
        self.tar = out.getvalue()
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a.tar", self.tar)
        self.zip = zipped.getvalue()
        ticks = from_unix(1_700_000_003)
        build.transaction(3, b"P", b"abc", b"T", 1, 3, 1_700_000_003_000)
        signature = sign(_sha256(build.tbs))
        self.qr = QrV0(
            "P", "T", "abc", 1, 3, ticks, ticks, "ecdsa-plain-SHA256", "unixTime", signature, chain.point
        ).format()
        self.qr_says = finish_statement(parse_qr(self.qr))
        self.point = chain.point
        self._revoke(chain.leaf, key)
        assert verify_qr(self.qr).valid
        assert verify_tar(io.BytesIO(self.tar)).valid == len(self.messages)

    def _revoke(self, leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """A list that revokes a certificate, of an issuer whose key is known."""
        made = dt.datetime(2023, 12, 1, tzinfo=dt.UTC)
        name = leaf.issuer
        self.now = from_unix(int(made.timestamp()))
        self.leaf = leaf
        self.issuer = (
            x509.CertificateBuilder(name, name, key.public_key(), 1, made, made + dt.timedelta(days=1))
        ).sign(key, hashes.SHA256())
        crl = (
            x509.CertificateRevocationListBuilder(name, made, made + dt.timedelta(days=1))
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_revoked_certificate(
                x509.RevokedCertificateBuilder(leaf.serial_number, made)
                .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
                .add_extension(x509.InvalidityDate(made), critical=False)
                .build()
            )
            .sign(key, hashes.SHA256())
        )
        self.crl = crl.public_bytes(Encoding.DER)
        self.signed_list = crl.tbs_certlist_bytes


def _sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def mutate(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(changed) + 1)
        kind = dice.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = dice.choice(TEMPTING)
        elif kind == 2:
            del changed[at : at + dice.randrange(1, 600)]
        elif kind == 3:
            changed[at:at] = bytes(dice.choice(TEMPTING) for _ in range(dice.randrange(1, 9)))
        else:
            other = dice.randrange(len(changed) + 1)
            changed[at:at] = changed[other : other + dice.choice((3, 30, 512))]
    return bytes(changed)


def mend(archive: bytes, dice: random.Random) -> bytes:
    """Put checksums right, so that the change gets further."""
    content = bytearray(archive)
    for at in range(0, len(content) - 512, 512):
        if content[at + 257 : at + 262] == b"ustar" and dice.random() < 0.9:
            block = content[at : at + 512]
            content[at + 148 : at + 156] = b"%06o\0 " % ((sum(block) - sum(block[148:156]) + 256) & 0o777777)
    return bytes(content)


def fuzz_name(material: Material, dice: random.Random) -> None:
    name = mutate(dice.choice(NAMES).encode(), dice).decode("utf-8", "replace")
    found = parse_file_name(name)
    if found is not None:
        for message in material.messages:
            if file_name_agrees(found, parse(message)):
                raise AssertionError(f"{name!r} is no name of this message")


def fuzz_qr(material: Material, dice: random.Random) -> None:
    text = mutate(material.qr.encode(), dice).decode("utf-8", "replace")
    try:
        parsed = parse_qr(text)
    except QrError:
        assert not verify_qr(text).valid
        return
    if dice.random() < 0.05 and verify_qr(text).valid:
        said = finish_statement(parsed)
        same = said._replace(log_time=said.log_time // TICKS_PER_SECOND) == material.qr_says._replace(
            log_time=material.qr_says.log_time // TICKS_PER_SECOND
        )
        assert same, f"valid, but not signed: {text!r}"


def fuzz_event(material: Material, dice: random.Random) -> None:
    try:
        message = parse(mutate(material.messages[0], dice))
    except LogMessageError:
        return
    if message.type is LogType.SYSTEM:
        summary(decode_event(message))


def fuzz_tar(material: Material, dice: random.Random) -> None:
    content = mend(mutate(material.tar, dice), dice)
    report = verify_tar(io.BytesIO(content))
    try:
        logs = [member.data for member in read_members(io.BytesIO(content)) if member.name.endswith(".log")]
    except TarError:
        assert not report.ok
        return
    if report.ok and report.valid == report.logs:
        signed = {parse(message).tbs for message in material.messages}
        assert all(data is not None and parse(data).tbs in signed for data in logs), "valid, but not signed"


def fuzz_zip(material: Material, dice: random.Random) -> None:
    path = Path(tempfile.gettempdir()) / "fuzz_readers.zip"
    path.write_bytes(mutate(material.zip, dice))
    try:
        archives = find_archives([path])
        verify_archives(archives, workers=1)
    except ArchiveError:
        pass


def fuzz_crl(material: Material, dice: random.Random) -> None:
    try:
        lists = load_revocation_lists(mutate(material.crl, dice))
    except RevocationListError:
        return
    for now in (0, material.now):
        found = RevocationLists(lists, now).judge([material.leaf, material.issuer])
        assert found.state is not Revocation.GOOD, "cleared by a list that was not signed"
        if found.state is Revocation.REVOKED:
            assert lists[0].tbs_certlist_bytes == material.signed_list, "revoked, but not signed"


TARGETS: tuple[tuple[int, Callable[[Material, random.Random], None]], ...] = (
    (50, fuzz_name),
    (25, fuzz_qr),
    (5, fuzz_crl),
    (15, fuzz_event),
    (4, fuzz_tar),
    (1, fuzz_zip),
)
"""Each with how often it is chosen of a hundred times."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("-n", type=int, default=100_000, help="executions")
    arguments.add_argument("-s", type=int, default=1, help="seed")
    options = arguments.parse_args()
    dice = random.Random(options.s)
    material = Material()
    weights = [weight for weight, _ in TARGETS]
    functions = [function for _, function in TARGETS]
    for function in dice.choices(functions, weights, k=options.n):
        try:
            function(material, dice)
        except Exception:
            print(f"{function.__name__} failed with seed {options.s}")
            raise
    print(f"{options.n} executions, no finding")


if __name__ == "__main__":
    main()
