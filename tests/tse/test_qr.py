"""QR codes: reading, writing, and checking them, with codes that are publicly known."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from fiskal.clock import UNIX_EPOCH_TICKS
from fiskal.tse._native import LOG_FINISH, MessageBuilder, TimeFormat, plain_signature
from fiskal.tse.algorithms import CURVES, Curve, point_of, serial_of_point
from fiskal.tse.qr import QrError, QrV0, format_time, parse_qr, parse_time
from fiskal.tse.verify import Reason, Variant, verify_qr

DOCUMENTED = (
    "V0;220130d5-9060-4e26-b75c-35968f49aae3;Kassenbeleg-V1;Beleg^7.50_0.00_0.00_0.00_0.00^7.50:Bar;11;21;"
    "2020-05-22T11:33:01.000Z;2020-05-22T11:33:02.000Z;ecdsa-plain-SHA256;utcTime;"
    "HSmIZw0g6tpJ/UeNYutHic5PXORANAH5V9+Fon9SfCvx3A/gO7Dguaxd8Mn/YKadgfLTV7s1VzWPe/QolS6dAg==;"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENFFPGk1vDk92IL6tjsVQ6kpwc4TCsYNNGGoc0cN4dUPQZwOo2tuQlrQAVvMfO+XHWsnph"
    "AtN5cUbIwdtMk/Z6g=="
)
DSFINV_K = (
    "V0;955002-00;Kassenbeleg-V1;Beleg^0.00_2.55_0.00_0.00_0.00^2.55:Bar;18;112;2019-07-10T18:41:02.000Z;"
    "2019-07-10T18:41:04.000Z;ecdsa-plain-SHA256;unixTime;"
    "MEQCIAy4P9k+7x9saDO0uRZ4El8QwN+qTgYiv1DIaJIMWRiuAiAt+saFDGjK2Yi5Cxgy7PprXQ5O0seRgx4ltdpW9REvwA==;"
    "BHhWOeisRpPBTGQ1W4VUH95TXx2GARf8e2NYZXJoInjtGqnxJ8sZ3CQpYgjI+LYEmW5A37sLWHsyU7nSJUBemyU="
)
KAT_1 = (
    "V0;POS-0001;Kassenbeleg-V1;Beleg^11.90_0.00_0.00_0.00_0.00^11.90:Bar;200;1000;2023-11-14T22:13:19.000Z;"
    "2023-11-14T22:13:20.000Z;ecdsa-plain-SHA256;unixTime;"
    "H3xa7FW6zNwd2Kt/KWU6Km4YGwwdJrwSfKRRcyxP82iCZKgiTii1NtV2pH6SMtOB9N+MGVzrRkQfx6NbnW94tQ==;"
    "BM5fFzoQDJ2b1LwzCXsJ6mbnFf0vtyarDx8Ugi+JmJjcrl36qA9s2x/dZjazoNzFCsrXuzOYlfsIhNPKnEftRA8="
)


@pytest.mark.parametrize(
    ("text", "time_format", "serial", "findings"),
    [
        (
            DOCUMENTED,
            TimeFormat.UTC,
            "ea2d4edbd67e3c13b893219870da0b48f40a8885bbdc34fe5fde6717f98214bc",
            (),
        ),
        (
            DSFINV_K,
            TimeFormat.UNIX,
            "c92dc16a9bd3549976ebadba575895fab6f0dfb0d3001f08921db57e1e51cf2b",
            ("the signature is DER, not plain",),
        ),
        (
            KAT_1,
            TimeFormat.UNIX,
            "024fd447e63cca44fe9261909ee9fb5a662ed2dc8ec37d34d04aae7ef1c30af8",
            (),
        ),
    ],
)
def test_known_codes_verify(
    text: str, time_format: TimeFormat, serial: str, findings: tuple[str, ...]
) -> None:
    result = verify_qr(text)
    assert result.valid
    assert result.variant == Variant(2, False, time_format)
    assert result.serial == serial
    assert result.findings == findings
    assert result.meaning == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [("7.50:Bar", "7.51:Bar"), (";11;21;", ";12;21;"), (";11;21;", ";11;22;"), ("33:02.000Z", "33:03.000Z")],
)
def test_an_edited_code_does_not_verify(old: str, new: str) -> None:
    result = verify_qr(DOCUMENTED.replace(old, new))
    assert not result.valid
    assert result.reason is Reason.SIGNATURE
    assert "forged or edited" in result.meaning


def test_the_start_time_is_not_signed_but_remarked() -> None:
    result = verify_qr(KAT_1.replace("22:13:19", "22:13:21"))
    assert result.valid
    assert result.findings == ("startTime is later than logTime",)


@pytest.mark.parametrize("time_format", TimeFormat)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_every_variant_is_found(curve: Curve, version: int, chunked: bool, time_format: TimeFormat) -> None:
    key = ec.generate_private_key(curve.curve)
    point = point_of(key.public_key())
    build = MessageBuilder(
        serial=serial_of_point(point),
        algorithm=curve.algorithm.arcs,
        hash_name=curve.algorithm.hash_name,
        version=version,
        time_format=time_format,
    )
    data = 'Bestellung;"Käse";1'
    raw = data.encode()
    digest = build.transaction(
        LOG_FINISH,
        b"POS",
        raw,
        b"Bestellung-V1",
        5,
        6,
        1_700_000_000_123,
        chunks=(len(raw),) if chunked else None,
    )
    der = key.sign(digest, ec.ECDSA(utils.Prehashed(curve.algorithm.hash)))
    ticks = UNIX_EPOCH_TICKS + 17_000_000_001_230_000
    qr = QrV0(
        "POS",
        "Bestellung-V1",
        data,
        5,
        6,
        ticks,
        ticks,
        curve.algorithm.name,
        time_format.text,
        plain_signature(der, curve.scalar_size),
        point,
    )
    result = verify_qr(qr.format())
    assert result.valid
    assert result.variant == Variant(version, chunked, time_format)
    assert result.findings == ()
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert verify_qr(dataclasses.replace(qr, public_key=spki, signature=der).format()).valid
    if time_format is TimeFormat.UTC:
        result = verify_qr(dataclasses.replace(qr, log_time_format="unixtime").format())
        assert result.valid
        assert result.findings == ("the signed time is utcTime, not unixtime",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.MALFORMED),
        ("V1" + KAT_1[2:], Reason.MALFORMED),
        (KAT_1.replace(";200;", ";2x0;"), Reason.MALFORMED),
        (KAT_1.replace(";200;", f";{2**64};"), Reason.MALFORMED),
        (KAT_1.replace("2023-11-14T22:13:20", "2023-13-14T22:13:20"), Reason.MALFORMED),
        (KAT_1.replace("tQ==;", "t*==;"), Reason.MALFORMED),
        (KAT_1[:-4] + "AAA=", Reason.KEY),
        (KAT_1[: KAT_1.rindex(";")] + ";", Reason.KEY),
        (KAT_1[: KAT_1.rindex(";")] + ";MAA=", Reason.KEY),
        (KAT_1.replace("ecdsa-plain-SHA256", "ecsdsa-plain-SHA256"), Reason.ALGORITHM),
        (KAT_1.replace("ecdsa-plain-SHA256", "rsa"), Reason.ALGORITHM),
    ],
)
def test_codes_that_cannot_be_checked(text: str, reason: Reason) -> None:
    result = verify_qr(text)
    assert (result.valid, result.reason) == (False, reason)
    assert result.meaning


def test_process_data_may_hold_the_separator() -> None:
    text = KAT_1.replace("Beleg^11.90", "2;Eis;3.99\r1;Beleg^11.90")
    assert parse_qr(text).process_data == "2;Eis;3.99\r1;Beleg^11.90_0.00_0.00_0.00_0.00^11.90:Bar"
    assert parse_qr(text).format() == text


@pytest.mark.parametrize("text", [DOCUMENTED, DSFINV_K, KAT_1])
def test_format_gives_back_what_was_parsed(text: str) -> None:
    assert parse_qr(f"  {text}\r\n").format() == text


@given(st.integers(0, 3_155_378_975_999_999_999))
def test_times_round_trip_to_the_millisecond(ticks: int) -> None:
    assert parse_time(format_time(ticks)) == ticks // 10_000 * 10_000


def test_times_as_other_writers_have_them() -> None:
    ticks = parse_time("2019-07-10T18:41:04.000Z")
    assert parse_time("2019-07-10T18:41:04") == ticks
    assert parse_time("2019-07-10T18:41:04+00:00") == ticks
    assert parse_time("2019-07-10T18:41:04.1234567Z") == ticks + 1_234_567


@given(st.text(max_size=200))
def test_any_text_is_answered(text: str) -> None:
    try:
        parse_qr(text)
    except QrError:
        pass
    assert not verify_qr(text).valid


@given(st.integers(0, len(KAT_1) - 1), st.characters(exclude_categories=()))
def test_any_change_is_answered(at: int, character: str) -> None:
    verify_qr(KAT_1[:at] + character + KAT_1[at + 1 :])


def test_base64_is_read_with_blanks_of_the_printer() -> None:
    qr = parse_qr(KAT_1)
    signature = base64.b64encode(qr.signature).decode()
    assert verify_qr(KAT_1.replace(signature, f"{signature[:40]} {signature[40:]}")).valid
