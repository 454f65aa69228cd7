"""SHA-256, the receipt chain and the worked example of two receipts."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid

import pytest

from fiskal import core
from fiskal.pos.prepared import prepare

REQUEST = {
    "ftCashBoxID": "fb1b79e2-f269-4fc0-9065-4821fed073d0",
    "ftPosSystemId": "fa3630e4-7d7e-4da5-b5b1-f45602081e40",
    "cbTerminalID": "T1",
    "cbReceiptReference": "INIT",
    "cbReceiptMoment": "2024-01-02T08:00:00Z",
    "cbChargeItems": [],
    "cbPayItems": [],
    "ftReceiptCase": 4919338172267102211,
}
RESPONSE = {
    "ftCashBoxID": "fb1b79e2-f269-4fc0-9065-4821fed073d0",
    "ftQueueID": "b00f3da1-5a6e-4a2d-8fdf-6c3d8900d2c1",
    "ftQueueItemID": "11111111-2222-3333-4444-555555555555",
    "ftQueueRow": 1,
    "cbTerminalID": "T1",
    "cbReceiptReference": "INIT",
    "ftCashBoxIdentification": "DEMO-1",
    "ftReceiptIdentification": "ft0#IT1",
    "ftReceiptMoment": "2024-01-02T08:00:01.2345678Z",
    "ftSignatures": [],
    "ftState": 4919338167972134912,
}


def compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_worked_example() -> None:
    first = prepare(json.dumps(REQUEST, indent=2).encode())
    assert first.canonical == compact(REQUEST)
    assert first.request_hash_base64 == "MsvNaxzuCC5087Revat8nLElkLBHzeGLDiixYEme8I4="
    raw, text, chain, chain_text = core.complete(
        None,
        uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e").bytes_le,
        core.parse_moment("2024-01-02T08:00:01.3Z"),
        1,
        first.request_hash,
        compact(RESPONSE),
    )
    assert text == "hgaDj7xG1hdSSD2RzXbc1a2RY+uMBAYV1m714a7GtaI="
    assert chain_text == "irTYOOkIZRz/k/DRVp5QGsmpKCmydYe7/IUIS/iDnfc="
    assert (base64.b64encode(raw).decode(), base64.b64encode(chain).decode()) == (text, chain_text)

    second = prepare(
        compact(
            REQUEST
            | {
                "cbReceiptReference": "R-Ä1",
                "cbReceiptMoment": "2024-01-02T08:05:00Z",
                "ftReceiptCase": 4919338172267102210,
            }
        )
    )
    assert second.request_hash_base64 == "eII6pLbYYQ7Prr+VbghtVmzJLmMgyTr0uAO6RBoPs1s="
    response = RESPONSE | {
        "ftQueueItemID": "11111111-2222-3333-4444-666666666666",
        "ftQueueRow": 2,
        "cbReceiptReference": "R-Ä1",
        "ftReceiptIdentification": "ft1#IT2",
        "ftReceiptMoment": "2024-01-02T08:05:01.5Z",
    }
    journal_id = uuid.UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7").bytes_le
    response_raw, text, second_chain, chain_text = core.complete(
        chain, journal_id, 638397795016000000, 2, second.request_hash, compact(response)
    )
    assert text == "8k9Qnl2/QvwUiN2ZTrsT64x03zRP8HKZ/eTWz3BJlUc="
    assert chain_text == "xLy/YI/RRbsO/f2K4jAlynnKE06t45KI+6jzhZMiIw0="
    assert second_chain == core.chain_hash(
        chain, journal_id, 638397795016000000, 2, second.request_hash, response_raw
    )


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
)
def test_fips_vectors(message: bytes, digest: str) -> None:
    assert core.sha256(message).hex() == digest


def test_like_hashlib() -> None:
    data = bytes(range(256)) * 5000
    for length in [*range(301), 4095, 4096, 65_537, len(data)]:
        assert core.sha256(data[:length]) == hashlib.sha256(data[:length]).digest()


def test_wrong_lengths() -> None:
    good = (bytes(32), bytes(16), 1, 1, bytes(32), bytes(32))
    for position, bad in ((0, bytes(31)), (1, bytes(15)), (4, b""), (5, bytes(33))):
        arguments = [*good]
        arguments[position] = bad
        with pytest.raises(ValueError, match="32-byte"):
            core.chain_hash(*arguments)
    with pytest.raises(ValueError, match="32-byte"):
        core.complete(bytes(5), bytes(16), 1, 1, bytes(32), b"")
