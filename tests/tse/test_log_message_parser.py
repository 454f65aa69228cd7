"""The parser: what it reads, what it only remarks on, and that nothing makes it fail in another way."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.clock import UNIX_EPOCH_TICKS
from fiskal.tse._native import MessageBuilder, TimeFormat, plain_signature
from fiskal.tse.algorithms import CURVES, Curve, point_of, serial_of_point
from fiskal.tse.certificates import CertificateError, load_certificates
from fiskal.tse.logmessage import (
    FileName,
    Finding,
    LogMessageError,
    LogType,
    TimeKind,
    build_file_name,
    file_name_agrees,
    parse,
    parse_file_name,
)

KEYS = {curve.name: ec.generate_private_key(curve.curve) for curve in CURVES}


def signed(build: MessageBuilder, digest: bytes, curve: Curve) -> bytes:
    der = KEYS[curve.name].sign(digest, ec.ECDSA(utils.Prehashed(curve.algorithm.hash)))
    return build.seal(plain_signature(der, curve.scalar_size))


def builder(curve: Curve, version: int = 2, time_format: TimeFormat = TimeFormat.UNIX) -> MessageBuilder:
    return MessageBuilder(
        serial=serial_of_point(point_of(KEYS[curve.name].public_key())),
        algorithm=curve.algorithm.arcs,
        hash_name=curve.algorithm.hash_name,
        version=version,
        time_format=time_format,
    )


def example(version: int = 2) -> bytes:
    build = builder(CURVES[0], version)
    return signed(build, build.transaction(3, b"POS-1", b"data", b"Kassenbeleg-V1", 7, 9, 1000), CURVES[0])


@settings(max_examples=150, deadline=None)
@given(
    curve=st.sampled_from(CURVES),
    version=st.sampled_from([2, 3]),
    time_format=st.sampled_from(TimeFormat),
    operation=st.integers(1, 3),
    client=st.text(st.sampled_from("AZaz09 '()+,-.="), min_size=1, max_size=64),
    data=st.binary(max_size=400),
    process_type=st.none() | st.text(max_size=100).filter(lambda text: text.isascii()),
    number=st.integers(0, 2**64 - 1),
    counter=st.integers(0, 2**64 - 1),
    unix_ms=st.integers(-600_000_000_000, 2_500_000_000_000),
    cut=st.none() | st.integers(0, 400),
)
def test_what_is_built_is_read_and_verifies(
    curve: Curve,
    version: int,
    time_format: TimeFormat,
    operation: int,
    client: str,
    data: bytes,
    process_type: str | None,
    number: int,
    counter: int,
    unix_ms: int,
    cut: int | None,
) -> None:
    build = builder(curve, version, time_format)
    chunks = None
    if cut is not None:
        cut = min(cut, len(data))
        chunks = (cut, len(data) - cut)
    digest = build.transaction(
        operation,
        client.encode(),
        data,
        None if process_type is None else process_type.encode(),
        number,
        counter,
        unix_ms,
        chunks=chunks,
    )
    raw = signed(build, digest, curve)
    message = parse(raw)
    assert message.raw == raw
    assert message.type is LogType.TRANSACTION
    assert message.version == version
    assert (message.client_id, message.process_data, message.process_type) == (client, data, process_type)
    assert message.process_data_chunks == chunks
    assert (message.transaction_number, message.signature_counter) == (number, counter)
    resolution = 1 if time_format is TimeFormat.GENERALIZED_MS else 1000
    assert message.log_time == UNIX_EPOCH_TICKS + unix_ms // resolution * resolution * 10_000
    assert message.verify(KEYS[curve.name].public_key())
    assert message.findings <= {Finding.NOT_PRINTABLE}
    name = build_file_name(message)
    parsed = parse_file_name(name)
    if time_format is not TimeFormat.UNIX or unix_ms >= 0:
        assert parsed is not None
        assert file_name_agrees(parsed, message)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_only_raise_the_parsers_own_error(data: bytes) -> None:
    try:
        parse(data)
    except LogMessageError:
        pass


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_damaged_messages_only_raise_the_parsers_own_error(data: st.DataObject) -> None:
    raw = bytearray(MESSAGES[data.draw(st.integers(0, len(MESSAGES) - 1))])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = parse(bytes(raw))
    except LogMessageError:
        return
    assert message.tbs in bytes(raw)


def _messages() -> list[bytes]:
    build = builder(CURVES[2], 3, TimeFormat.GENERALIZED_MS)
    chunked = signed(build, build.transaction(3, b"P", b"abcdef", b"T", 1, 2, 3000, chunks=(2, 4)), CURVES[2])
    system = signed(build, build.system(b"startAudit", b"", 1, 0, origin=b"device"), CURVES[2])
    audit = signed(build, build.audit(b"\x30\0", 1, 0), CURVES[2])
    return [example(), chunked, system, audit]


MESSAGES = _messages()


def test_every_prefix_is_refused() -> None:
    for raw in MESSAGES:
        for length in range(len(raw)):
            with pytest.raises(LogMessageError):
                parse(raw[:length])


@pytest.mark.parametrize("which", range(4), ids=["transaction", "chunks", "system", "audit"])
@pytest.mark.parametrize("change", [0x01, 0x02, 0x20, 0x80, 0xFF])
def test_every_changed_byte_of_a_message_is_noticed(which: int, change: int) -> None:
    """In every element, headers and signature too; version 2 and 3, transaction, system and audit logs."""
    raw = MESSAGES[which]
    key = KEYS[CURVES[0 if which == 0 else 2].name].public_key()
    assert parse(raw).verify(key)
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= change
        try:
            message = parse(bytes(changed))
        except LogMessageError:
            continue
        assert not (message.verify(key) and message.serial == parse(raw).serial), at


def code_of(raw: bytes) -> str:
    with pytest.raises(LogMessageError) as caught:
        parse(raw)
    return caught.value.code


def test_error_codes() -> None:
    raw = example()
    assert code_of(raw + b"\0") == "TRAILING_DATA"
    assert code_of(raw[:-1]) == "TRUNCATED"
    assert code_of(b"\x31" + raw[1:]) == "UNEXPECTED_ELEMENT"
    without_counter = _without(raw, bytes.fromhex("020109"))
    assert code_of(without_counter) == "MISSING_SIGNATURE_COUNTER"
    assert code_of(b"\x30\x80" * 50) == "TOO_DEEP"


def _wrap(content: bytes) -> bytes:
    return b"\x30\x82" + len(content).to_bytes(2) + content


def _without(raw: bytes, element: bytes) -> bytes:
    content = parse(raw).tbs + b"\x04\x40" + bytes(64)
    at = content.rindex(element)
    return _wrap(content[:at] + content[at + len(element) :])


def _replaced(old: str, new: str) -> frozenset[Finding]:
    message = parse(example())
    content = (message.tbs + b"\x04\x40" + message.signature).replace(
        bytes.fromhex(old), bytes.fromhex(new), 1
    )
    return parse(_wrap(content)).findings


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("850107", "85020007", Finding.NON_DER),
        ("850107", "8581 0107", Finding.NON_DER),
        ("820464617461", "a206 0404 64617461", Finding.DEFINITE_CHUNKS),
        ("8105504f532d31", "8105504f535f31", Finding.NOT_PRINTABLE),
        ("850107", "850107 850108", Finding.DUPLICATE_ELEMENT),
        ("850107", "850107 870108", Finding.UNKNOWN_ELEMENT),
        ("850107", "850a 0100000000000000ffff", Finding.LARGE_NUMBER),
        ("850107", "", Finding.MISSING_ELEMENT),
        ("060904007f000703070101", "060904007f000703070109", Finding.UNKNOWN_TYPE),
        ("020102", "020104", Finding.UNKNOWN_VERSION),
        ("04007f00070101040103", "04007f00070101040106", Finding.UNKNOWN_ALGORITHM),
        ("04007f00070101040103", "04007f00070101040102", Finding.WEAK_ALGORITHM),
        ("300c060a04007f00070101040103", "300e060a04007f000701010401030500", Finding.ALGORITHM_PARAMETERS),
    ],
)
def test_findings(old: str, new: str, finding: Finding) -> None:
    assert finding in _replaced(old, new)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Unixt_1631610069_Sig-57_Log-Tra_No-1_Finish_Client-10999900.1215566690.V2.log",
            FileName(
                TimeKind.UNIX, "1631610069", 57, LogType.TRANSACTION, 1, "Finish", "10999900.1215566690.V2"
            ),
        ),
        (
            "./Utc_201230141334Z_Sig-93_Log-Tra_No-45_Update_Client-a b=c_Fc-2.log",
            FileName(TimeKind.UTC, "201230141334Z", 93, LogType.TRANSACTION, 45, "Update", "a b=c", 2),
        ),
        ("Unixt_1630606974_Sig-33_Log-Aud.log", FileName(TimeKind.UNIX, "1630606974", 33, LogType.AUDIT)),
        (
            "Unixt_1629974159_Sig-558_Log-Sys_authenticateSmaersAdmin.log",
            FileName(TimeKind.UNIX, "1629974159", 558, LogType.SYSTEM, operation="authenticateSmaersAdmin"),
        ),
        (
            "Gent_20181109084236.123Z_Sig-1_Log-Tra_No-1_Start_Client-1.log",
            FileName(TimeKind.GENERALIZED, "20181109084236.123Z", 1, LogType.TRANSACTION, 1, "Start", "1"),
        ),
        ("info.csv", None),
        ("Unixt_1_Sig-1_Log-Tra_No-1_Stop_Client-1.log", None),
    ],
)
def test_file_names(name: str, expected: FileName | None) -> None:
    assert parse_file_name(name) == expected


def test_a_copy_has_its_number_in_the_name() -> None:
    assert build_file_name(parse(example()), 1) == ("Unixt_1_Sig-9_Log-Tra_No-7_Finish_Client-POS-1_Fc-1.log")


EXPORTS = os.environ.get("FISKAL_TSE_EXPORTS", "")


@pytest.mark.skipif(not EXPORTS, reason="FISKAL_TSE_EXPORTS names no folder with TAR exports")
def test_real_exports() -> None:
    """Every log in real exports reads; the archives' own certificates verify all but the known mock logs."""
    logs = invalid = without_key = names = 0
    invalid_in: set[str] = set()
    for path in sorted(Path(EXPORTS).rglob("*.tar")):
        messages = []
        keys: dict[bytes, list[ec.EllipticCurvePublicKey]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is None:
                    continue
                data = stream.read()
                if member.name.endswith(".log"):
                    messages.append((member.name, parse(data)))
                elif "_X509" in member.name:
                    try:
                        for certificate in load_certificates(data):
                            key = certificate.public_key()
                            if isinstance(key, ec.EllipticCurvePublicKey):
                                keys.setdefault(serial_of_point(point_of(key)), []).append(key)
                    except (CertificateError, ValueError, UnsupportedAlgorithm):
                        continue
        for name, message in messages:
            logs += 1
            parsed = parse_file_name(name)
            names += parsed is not None and file_name_agrees(parsed, message)
            if message.serial not in keys:
                without_key += 1
            elif not any(message.verify(key) for key in keys[message.serial]):
                invalid += 1
                invalid_in.add(path.name)
            assert isinstance(message.algorithm.hash if message.algorithm else None, hashes.HashAlgorithm)
    print(f"{logs} logs, {invalid} invalid in {sorted(invalid_in)}, {without_key} without key, {names} names")
    assert logs
    assert names == logs
    assert invalid_in <= {"softwareUpdate.tar"}
