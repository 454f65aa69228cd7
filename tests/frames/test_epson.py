"""Messages of Epson TSEs in the C core: worked messages, and a slow, obvious model."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.frames import epson

HASH = "mcEeSJYEZxCavryN/YAt6+59yFoCTtv95G+7BptJH6E="
RECEIPT: dict[str, Any] = {
    "transactionNumber": 17,
    "clientId": "POS001",
    "processData": "QmVsZWdeMC4wMF8yLjU1XzAuMDBfMC4wMF8wLjAwXjIuNTU6QmFy",
    "processType": "Kassenbeleg-V1",
    "additionalData": "",
}
ADMIN = {"userId": "Administrator"}

FUNCTIONS: list[tuple[str, dict[str, Any], int, str]] = [
    ("GetStorageInfo", {}, 384, "d1806eb4044e08f5"),
    ("SetUp", {"puk": "123456", "adminPin": "11111", "timeAdminPin": "22222"}, 492, "a226c5630b70e910"),
    ("SetUpForPrinter", {}, 386, "e24b8c793b931cc8"),
    ("RunTSESelfTest", {}, 386, "683c28bddf1da03e"),
    ("RegisterSecretKey", {"secretKey": "EPSONKEY"}, 430, "6ce79aa6841f7cba"),
    (
        "UpdateTime",
        {**ADMIN, "newDateTime": "2024-12-31T23:59:58Z", "useTimeSync": False},
        512,
        "672f5c284c776b0d",
    ),
    (
        "UpdateTimeForFirst",
        {"userId": "TimeAdmin", "newDateTime": "2024-12-31T23:59:58Z", "useTimeSync": False},
        516,
        "4254e2c9e0133e36",
    ),
    ("RegisterClient", {"clientId": "POS001"}, 424, "94fdaa4bfe0be2b0"),
    ("DeregisterClient", {"clientId": "POS001"}, 426, "332b8979d4ff5936"),
    ("GetRegisteredClientList", {}, 394, "e487f68e755d43d3"),
    ("LockTSE", {}, 378, "17fa21de215f6416"),
    ("UnlockTSE", {}, 380, "b91b75552432f730"),
    ("DisableSecureElement", {}, 391, "52c9fa6ba4d243a3"),
    ("EnableExportIfCspTestFails", {}, 397, "15e81f6537c3a588"),
    ("DisableExportIfCspTestFails", {}, 398, "9a649a2e8004d39c"),
    ("GetChallenge", ADMIN, 427, "1e94d04969dafa97"),
    ("AuthenticateUserForAdmin", {**ADMIN, "pin": "11111", "hash": HASH}, 547, "54cbaa17b6b7fbaf"),
    (
        "AuthenticateUserForTimeAdmin",
        {"clientId": "POS001", "pin": "22222", "hash": HASH},
        546,
        "001ed4b271fb2bf1",
    ),
    ("LogOutForAdmin", {}, 385, "9c446c52438aa11f"),
    ("LogOutForTimeAdmin", {"clientId": "POS001"}, 428, "fa273fd77cb90136"),
    ("AuthenticateHost", {**ADMIN, "hash": HASH}, 505, "54aead520c3de209"),
    ("DeauthenticateHost", ADMIN, 433, "318885285fa26cad"),
    ("UnblockUserForAdmin", {**ADMIN, "puk": "123456", "newPin": "33333"}, 506, "ae3bb9c5a2818439"),
    ("UnblockUserForTimeAdmin", {**ADMIN, "puk": "123456", "newPin": "44444"}, 510, "fc0ea41b1d245e19"),
    (
        "StartTransaction",
        {"clientId": "POS001", "processData": "", "processType": "", "additionalData": ""},
        540,
        "044a6983dfa344f8",
    ),
    ("UpdateTransaction", RECEIPT, 640, "ab584d185c4c92f7"),
    ("FinishTransaction", RECEIPT, 640, "36726458eb3c08d4"),
    ("GetStartedTransactionList", {"clientId": ""}, 429, "7e770d56f471d8c6"),
    ("GetLastTransactionResponse", {"clientId": "POS001"}, 436, "4f6949fe454522d7"),
    ("ArchiveExport", {"clientId": ""}, 417, "0ac396dd2019d92b"),
    ("ExportFilteredByTransactionNumber", {"clientId": "", "transactionNumber": 17}, 470, "d39857c0e78b3977"),
    (
        "ExportFilteredByTransactionNumberInterval",
        {"clientId": "", "startTransactionNumber": 1, "endTransactionNumber": 2},
        517,
        "40c9fdf9d3af318b",
    ),
    (
        "ExportFilteredByPeriodOfTime",
        {"clientId": "", "startDate": "2024-01-01T00:00:00Z", "endDate": "2024-12-31T23:59:59Z"},
        540,
        "3d521bdb85d541b2",
    ),
    ("GetExportData", {}, 384, "0518a9aabb131d6b"),
    ("FinalizeExport", {"deleteData": False}, 413, "f60affbd2bba38f9"),
    ("CancelExport", {}, 383, "a1f70ab42e035424"),
    ("GetLogMessageCertificate", {}, 395, "0e13703307d8b289"),
    ("FactoryReset", {}, 383, "4fd6b275d5b85dca"),
]


def envelope(function: str, given: dict[str, Any]) -> bytes:
    common = function == "GetStorageInfo"
    return json.dumps(
        {
            "storage": {"type": "COMMON" if common else "TSE", "vendor": "" if common else "TSE1"},
            "function": function,
            "compress": {"required": False, "type": ""},
            "input": given,
        },
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()


def digest(frame: bytes) -> str:
    return hashlib.sha256(frame).hexdigest()[:16]


@pytest.mark.parametrize(("function", "given_", "size", "prefix"), FUNCTIONS)
def test_requests_are_the_worked_ones(function: str, given_: dict[str, Any], size: int, prefix: str) -> None:
    timeout_ms = 120_000 if function == "RunTSESelfTest" else 60_000
    frame = epson.request("local_TSE", timeout_ms, envelope(function, given_))
    assert (len(frame), digest(frame)) == (size, prefix)


@pytest.mark.parametrize(
    ("frame", "size", "prefix"),
    [
        (epson.open_device("local_TSE", "type_storage"), 98, "447b5793e3d42830"),
        (epson.close_device("local_TSE"), 62, "664739bbc503e8df"),
        (epson.reconnect("sock2", "sock1", "112"), 139, "b579bc3a29a1898a"),
        (epson.disconnect("sock1857622694"), 76, "c37e51ea2f8c16bf"),
    ],
)
def test_messages_are_the_worked_ones(frame: bytes, size: int, prefix: str) -> None:
    assert (len(frame), digest(frame)) == (size, prefix)


def test_open_device_byte_for_byte() -> None:
    assert epson.open_device("local_TSE", "type_storage").hex(" ").upper().replace(" ", "") == (
        "3C6F70656E5F6465766963653E3C6465766963655F69643E6C6F63616C5F545345"
        "3C2F6465766963655F69643E3C646174613E3C747970653E747970655F73746F72616765"
        "3C2F747970653E3C2F646174613E3C2F6F70656E5F6465766963653E00"
    )


# ---- writing against a model ----------------------------------------------------------------------

_XML_CHARACTER = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
TEXTS = st.text(alphabet=st.one_of(st.sampled_from("&<>\"'\0null\ufffe\uffff\ud800é€𝄞"), st.characters()))


def model_escape(text: str) -> bytes | None:
    """Character by character; None for what XML cannot carry."""
    if not _XML_CHARACTER.fullmatch(text):
        return None
    escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    return "".join(escapes.get(character, character) for character in text).encode()


@given(TEXTS)
@settings(max_examples=500)
def test_escapes_are_those_of_the_model(text: str) -> None:
    expected = model_escape(text)
    raw = text.encode("utf-8", "surrogatepass")
    if expected is None:
        with pytest.raises(epson.FrameError):
            epson.escape(raw)
        return
    escaped = epson.escape(raw)
    assert escaped == expected
    # An XML parser reads back what went in, but for the line ends that it is obliged to change.
    parsed = ElementTree.fromstring(b"<a>" + escaped + b"</a>").text or ""
    assert parsed == text.replace("\r\n", "\n").replace("\r", "\n")


@given(st.binary(max_size=40))
def test_bytes_that_are_no_utf8_are_no_text(raw: bytes) -> None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        with pytest.raises(epson.FrameError):
            epson.escape(raw)
    else:
        expected = model_escape(text)
        if expected is not None:
            assert epson.escape(raw) == expected


@given(
    st.text("abc<&é", min_size=1, max_size=20),
    st.integers(0, 2**32 - 1),
    st.dictionaries(st.text(max_size=5), st.text('&<>"null\\é€', max_size=300), max_size=6),
)
def test_a_parser_reads_back_what_a_request_says(
    device: str, timeout_ms: int, given_: dict[str, str]
) -> None:
    text = envelope("F", given_)
    frame = epson.request(device, timeout_ms, text)
    assert frame.endswith(b">\0")
    assert frame.count(b"\0") == 1
    root = ElementTree.fromstring(frame[:-1])
    assert root.findtext("device_id") == device
    assert root.findtext("data/timeout") == str(timeout_ms)
    assert (root.findtext("data/requestdata") or "").encode() == text


def test_what_is_too_long_or_empty_is_refused() -> None:
    longest = b"{" + b" " * (epson.MAX_JSON_BYTES - 2) + b"}"
    assert len(epson.request("d", 1, longest)) > epson.MAX_JSON_BYTES
    for device, text in (("d", longest + b" "), ("", b"{}"), ("d", b"")):
        with pytest.raises(epson.FrameError):
            epson.request(device, 1, text)
    for texts in (("", "t"), ("a\0b", "t"), ("\ud800", "t")):
        with pytest.raises(epson.FrameError):
            epson.open_device(*texts)


# ---- reading --------------------------------------------------------------------------------------

NOISE = b' \t\r\n"'


def model_read(data: bytes) -> tuple[int, int, int] | str | None:
    """Split at zero bytes, strip, take the first that is not blank."""
    at = 0
    while True:
        zero = data.find(b"\0", at)
        if zero < 0:
            return None
        element = data[at:zero].strip(NOISE)
        if element:
            if element[:1] != b"<" or element[-1:] != b">" or len(element) < 2:
                return "form"
            begin = data.index(element, at)
            return begin, begin + len(element), zero + 1
        at = zero + 1


@given(st.lists(st.sampled_from([b"<a>", b"</a>", b"x", b"\0", b'"', b" ", b"\n", b"<", b">", b"\xff"])))
@settings(max_examples=1000)
def test_messages_are_found_as_the_model_finds_them(parts: list[bytes]) -> None:
    data = b"".join(parts)
    expected = model_read(data)
    for received in (data, bytearray(data), memoryview(data)):
        if expected == "form":
            with pytest.raises(epson.FrameError):
                epson.read(received)
        else:
            assert epson.read(received) == expected


@pytest.mark.parametrize(
    "around", [(b"", b""), (b'"', b'"'), (b" ", b""), (b'"\0"', b' "'), (b"\0\0", b"\r\n")]
)
def test_noise_around_a_message_is_no_part_of_it(around: tuple[bytes, bytes]) -> None:
    before, behind = around
    data = before + b"<a/>" + behind + b"\0<b/>\0"
    first = epson.read(data)
    assert first is not None
    assert data[first.begin : first.end] == b"<a/>"
    rest = data[first.next :]
    second = epson.read(rest)
    assert second is not None
    assert rest[second.begin : second.end] == b"<b/>"


# ---- exports --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_pieces_that_are_texts_of_their_own(pieces: list[bytes]) -> None:
    stream = epson.ExportPieces()
    decoded = b"".join(stream.feed(base64.b64encode(piece).decode()) for piece in pieces)
    assert decoded == b"".join(pieces)
    assert stream.complete


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=12))
def test_pieces_of_one_text_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    text = base64.b64encode(data).decode()
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    stream = epson.ExportPieces()
    decoded = b"".join(stream.feed(text[a:b]) for a, b in itertools.pairwise(places))
    assert decoded == data
    assert stream.complete


@pytest.mark.parametrize("text", ["AA=A", "=AAA", "A===", "AB==", "AAB=", "AA A", "AAé", "AAA\0", "AA-_"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(epson.FrameError):
        epson.ExportPieces().feed(text)


def test_a_group_that_lacks_characters_is_not_complete() -> None:
    stream = epson.ExportPieces()
    assert stream.feed("AAAAA") == bytes(3)
    assert not stream.complete
