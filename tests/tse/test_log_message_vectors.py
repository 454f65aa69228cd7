"""The bytes of TR-03151 messages against known answers (own vectors by RFC 6979, and public QR codes)."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.errors import CoreError
from fiskal.tse._native import (
    LOG_FINISH,
    LOG_START,
    MessageBuilder,
    TimeFormat,
    plain_signature,
    time_tlv,
)
from fiskal.tse.algorithms import algorithm_by_name, point_of, serial_of_point
from fiskal.tse.logmessage import Finding, build_file_name, parse

BELEG = b"Beleg^11.90_0.00_0.00_0.00_0.00^11.90:Bar"
D1 = 0x821EC6F102997E5216E944B81651AA96FA53520BBD8DFF0C86E137C65523E05F
D2 = 0xE2CCF006012955E2E1FD9D4FAFE9E9378939096FF47F401A87F3299ABAB417811F1D7D59792C906C0B652CA29B6F9A2F
SERIAL2 = bytes.fromhex("03605b93a243dd9b41668b0d274852ddc3fee9b525a7e98fb154057175672587")

KAT1 = bytes.fromhex(
    "3081e6020102060904007f000703070101801146696e6973685472616e73616374696f6e8108504f532d30303031822942656c"
    "65675e31312e39305f302e30305f302e30305f302e30305f302e30305e31312e39303a426172830e4b617373656e62656c6567"
    "2d5631850200c80420024fd447e63cca44fe9261909ee9fb5a662ed2dc8ec37d34d04aae7ef1c30af8300c060a04007f000701"
    "01040103020203e802046553f10004401f7c5aec55baccdc1dd8ab7f29653a2a6e181b0c1d26bc127ca451732c4ff3688264a8"
    "224e28b536d576a47e9232d381f4df8c195ceb46441fc7a35b9d6f78b5"
)
KAT2 = bytes.fromhex(
    "30820113020103060904007f000703070101801166696e6973685472616e73616374696f6e8108504f532d3030303182294265"
    "6c65675e31312e39305f302e30305f302e30305f302e30305f302e30305e31312e39303a426172830e4b617373656e62656c65"
    "672d5631850101042003605b93a243dd9b41668b0d274852ddc3fee9b525a7e98fb154057175672587300c060a04007f000701"
    "01040104020103181332303233313131343232313332302e3030305a0460d0628dd69dc5ad0b4641243f0ecc919fa0a9f7a389"
    "4c3f2d2f6c58e2ef676286805c26cc0b51c1a2f323a609660a6c4b918adde767c815fc9a049bc8c35c6e79bf3d7c15ca7e9f21"
    "244855affc07b5bc6578c2d0bc921800d9ce634e66f29af8"
)
KAT3 = bytes.fromhex(
    "3081ee020102060904007f000703070101801146696e6973685472616e73616374696f6e8108504f532d30303031a280040575"
    "70642d31040366696e00008310536f6e737469676572566f7267616e6785020080042003605b93a243dd9b41668b0d274852dd"
    "c3fee9b525a7e98fb154057175672587300c060a04007f00070101040104020300800002046553f10004602a9548d677da7a61"
    "ab7ee22edbaf0a0e3927b5a74dcee83197bb8e7723b8d13de273fcedeaf2229b89d0c585bfd29fa77584f577c70b484d61aaf9"
    "954181fb3f15bf80c683d16e3c50c9356ee4d8c6b057d1284f70bae33eee4ba39d0e356965"
)


def builder(
    algorithm: str, serial: bytes, version: int = 2, time_format: TimeFormat = TimeFormat.UNIX
) -> MessageBuilder:
    found = algorithm_by_name(algorithm)
    return MessageBuilder(
        serial=serial,
        algorithm=found.arcs,
        hash_name=found.hash_name,
        version=version,
        time_format=time_format,
    )


def test_kat_1_version_2_on_p256() -> None:
    key = ec.derive_private_key(D1, ec.SECP256R1()).public_key()
    serial = serial_of_point(point_of(key))
    assert serial.hex() == "024fd447e63cca44fe9261909ee9fb5a662ed2dc8ec37d34d04aae7ef1c30af8"
    build = builder("ecdsa-plain-SHA256", serial)
    digest = build.transaction(
        LOG_FINISH, b"POS-0001", BELEG, b"Kassenbeleg-V1", 200, 1000, 1_700_000_000_000
    )
    assert digest.hex() == "402b48f5f9a138c55b319f935427a4a83e738d40bc65383d7ca505e419b561f5"
    assert digest == hashlib.sha256(build.tbs).digest()
    assert build.seal(KAT1[-64:]) == KAT1
    message = parse(KAT1)
    assert message.tbs == build.tbs
    assert message.verify(key)
    assert not message.findings
    assert build_file_name(message) == "Unixt_1700000000_Sig-1000_Log-Tra_No-200_Finish_Client-POS-0001.log"


def test_kat_2_version_3_on_p384_with_milliseconds() -> None:
    key = ec.derive_private_key(D2, ec.SECP384R1()).public_key()
    assert serial_of_point(point_of(key)) == SERIAL2
    build = builder("ecdsa-plain-SHA384", SERIAL2, 3, TimeFormat.GENERALIZED_MS)
    digest = build.transaction(LOG_FINISH, b"POS-0001", BELEG, b"Kassenbeleg-V1", 1, 3, 1_700_000_000_000)
    assert digest == hashlib.sha384(build.tbs).digest()
    sealed = build.seal(KAT2[-96:])
    assert sealed == KAT2
    assert hashlib.sha256(sealed).hexdigest() == (
        "9e8753c85ef167e66d792ecf549b71e4793a3520f1b3f93fad2d5fc0a613478f"
    )
    assert parse(KAT2).verify(key)


def test_kat_3_chunks_of_indefinite_length() -> None:
    key = ec.derive_private_key(D2, ec.SECP384R1()).public_key()
    build = builder("ecdsa-plain-SHA384", SERIAL2)
    build.transaction(
        LOG_FINISH,
        b"POS-0001",
        b"upd-1fin",
        b"SonstigerVorgang",
        128,
        32768,
        1_700_000_000_000,
        chunks=(5, 3),
    )
    assert build.seal(KAT3[-96:]) == KAT3
    message = parse(KAT3)
    assert message.verify(key)
    assert (message.process_data, message.process_data_chunks) == (b"upd-1fin", (5, 3))
    assert not message.findings


def test_example_with_utc_time() -> None:
    serial = bytes.fromhex("ea2d4edbd67e3c13b893219870da0b48f40a8885bbdc34fe5fde6717f98214bc")
    build = builder("ecdsa-plain-SHA256", serial, time_format=TimeFormat.UTC)
    digest = build.transaction(
        LOG_FINISH,
        b"220130d5-9060-4e26-b75c-35968f49aae3",
        b"Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar",
        b"Kassenbeleg-V1",
        11,
        21,
        1_590_147_182_000,
    )
    assert digest.hex() == "27dac23764f20f4e03a438974fb9b165177969a68088506ad485d7444d66847b"


def test_example_of_the_dsfinv_k_device() -> None:
    serial = bytes.fromhex("c92dc16a9bd3549976ebadba575895fab6f0dfb0d3001f08921db57e1e51cf2b")
    build = builder("ecdsa-plain-SHA256", serial)
    digest = build.transaction(
        LOG_FINISH,
        b"955002-00",
        b"Beleg^0.00_2.55_0.00_0.00_0.00^2.55:Bar",
        b"Kassenbeleg-V1",
        18,
        112,
        0x5D263140 * 1000,
    )
    assert build.tbs.hex() == (
        "020102060904007f000703070101801146696e6973685472616e73616374696f6e81093935353030322d3030822742656c65"
        "675e302e30305f322e35355f302e30305f302e30305f302e30305e322e35353a426172830e4b617373656e62656c65672d56"
        "318501120420c92dc16a9bd3549976ebadba575895fab6f0dfb0d3001f08921db57e1e51cf2b300c060a04007f0007010104"
        "010302017002045d263140"
    )
    assert digest.hex() == "5e367477f182d78ae8f1af9c5a7c7cc009b0786b0142289aacc32c7140177a8b"


@pytest.mark.parametrize(
    ("number", "tlv"),
    [
        (0, "850100"),
        (127, "85017f"),
        (128, "85020080"),
        (255, "850200ff"),
        (256, "85020100"),
        (32767, "85027fff"),
        (32768, "8503008000"),
        (2**31, "85050080000000"),
        (2**32 - 1, "850500ffffffff"),
        (2**63, "8509008000000000000000"),
        (2**64 - 1, "850900ffffffffffffffff"),
    ],
)
def test_integers_are_minimal(number: int, tlv: str) -> None:
    build = builder("ecdsa-plain-SHA256", bytes(32))
    build.transaction(LOG_START, b"P", b"", b"", number, 1, 0)
    assert bytes.fromhex(f"83 00 {tlv} 0420") in build.tbs


@pytest.mark.parametrize(
    ("time_format", "unix_ms", "tlv"),
    [
        (TimeFormat.UNIX, 1_700_000_000_999, "02046553f100"),
        (TimeFormat.UNIX, 0, "020100"),
        (TimeFormat.UNIX, -1, "0201ff"),
        (TimeFormat.UNIX, -129_000, "0202ff7f"),
        (TimeFormat.UNIX, 2**31 * 1000, "02050080000000"),
        (TimeFormat.UTC, 1_590_147_182_000, "170d" + b"200522113302Z".hex()),
        (TimeFormat.UTC, 951_782_400_000, "170d" + b"000229000000Z".hex()),
        (TimeFormat.GENERALIZED, 1_541_752_956_000, "180f" + b"20181109084236Z".hex()),
        (TimeFormat.GENERALIZED_MS, 253_402_300_799_999, "1813" + b"99991231235959.999Z".hex()),
        (TimeFormat.GENERALIZED_MS, -62_135_596_800_000, "1813" + b"00010101000000.000Z".hex()),
    ],
)
def test_times(time_format: TimeFormat, unix_ms: int, tlv: str) -> None:
    assert time_tlv(time_format, unix_ms).hex() == tlv


@pytest.mark.parametrize(
    ("time_format", "unix_ms"),
    [
        (TimeFormat.UTC, 2_524_608_000_000),
        (TimeFormat.UTC, -631_152_000_001),
        (TimeFormat.UNIX, 253_402_300_800_000),
        (TimeFormat.GENERALIZED, -62_135_596_800_001),
    ],
)
def test_times_that_a_format_cannot_hold(time_format: TimeFormat, unix_ms: int) -> None:
    with pytest.raises(CoreError):
        time_tlv(time_format, unix_ms)


def test_system_logs_of_both_versions() -> None:
    build = builder("ecdsa-plain-SHA256", bytes(32))
    build.system(b"registerClient", bytes.fromhex("8108") + b"client-1", 5, 1_700_000_000_000)
    assert b"\x80\x0eregisterClient\x81\x0a\x81\x08client-1\x04\x20" in build.tbs
    message = parse(build.seal(bytes(64)))
    assert (message.operation, message.elements[1].content) == ("registerClient", b"\x81\x08client-1")
    assert build_file_name(message) == "Unixt_1700000000_Sig-5_Log-Sys_registerClient.log"

    build = builder("ecdsa-plain-SHA256", bytes(32), 3)
    data = bytes.fromhex("1308504f532d30303031")
    build.system(b"registerClient", data, 5, 0, origin=b"integration-interface", user=b"admin")
    assert bytes.fromhex("a30a1308504f532d30303031") in build.tbs
    assert b"\x81\x15integration-interface\x82\x05admin\xa3" in build.tbs
    build.system(b"startAudit", b"", 5, 0, origin=b"device")
    assert b"\x81\x06device\xa3\x00\x04\x20" in build.tbs


def test_audit_log() -> None:
    build = builder("ecdsa-plain-SHA256", bytes(32))
    build.audit(b"\x30\x03\x82\x01\x01", 33, 1_630_606_974_000)
    message = parse(build.seal(bytes(64)))
    assert message.audit_data == b"\x30\x03\x82\x01\x01"
    assert build_file_name(message) == "Unixt_1630606974_Sig-33_Log-Aud.log"


def test_external_data_and_missing_process_type() -> None:
    build = builder("ecdsa-plain-SHA256", bytes(32))
    build.transaction(LOG_START, b"P", b"", None, 1, 1, 0, external_data=b"x")
    assert bytes.fromhex("8200840178850101") in build.tbs


def test_refused_arguments() -> None:
    build = builder("ecdsa-plain-SHA256", bytes(32))
    with pytest.raises(CoreError):
        build.transaction(4, b"P", b"", b"", 1, 1, 0)
    with pytest.raises(CoreError):
        build.transaction(LOG_START, b"P", b"abc", b"", 1, 1, 0, chunks=(2,))
    with pytest.raises(CoreError):
        build.transaction(LOG_START, b"P", b"abc", b"", 1, 1, 0, chunks=(2, 2))
    with pytest.raises(CoreError):
        builder("ecdsa-plain-SHA256", bytes(32), 4).audit(b"", 1, 0)


def test_large_process_data_grows_the_buffer() -> None:
    build = builder("ecdsa-plain-SHA256", bytes(32))
    data = bytes(range(256)) * 300
    build.transaction(LOG_START, b"P", data, b"", 1, 1, 0)
    message = parse(build.seal(bytes(64)))
    assert message.process_data == data
    build.transaction(LOG_START, b"P", data, b"", 1, 1, 0, chunks=(1,) * len(data))
    message = parse(build.seal(bytes(64)))
    assert message.process_data == data
    assert Finding.NON_DER not in message.findings


@pytest.mark.parametrize(
    "der",
    [
        "",
        "30",
        "3000",
        "3006020101020101ff",
        "3006020181020101",
        "30060201010201",
        "3006020101030101",
        "3006020001020101",
        "3080020101020101",
    ],
)
def test_bad_der_signatures(der: str) -> None:
    with pytest.raises(CoreError):
        plain_signature(bytes.fromhex(der), 32)


def test_plain_signature_pads_and_refuses_what_does_not_fit() -> None:
    assert plain_signature(bytes.fromhex("3006020101020102"), 32) == bytes(31) + b"\1" + bytes(31) + b"\2"
    assert plain_signature(bytes.fromhex("30070202008002017f"), 1) == b"\x80\x7f"
    with pytest.raises(CoreError):
        plain_signature(bytes.fromhex("30070202010002017f"), 1)
