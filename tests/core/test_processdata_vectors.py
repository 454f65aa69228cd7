"""The DSFinV-K process data vectors, through raw JSON and through flat arrays."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fiskal import core
from fiskal._core import ffi, lib
from fiskal.pos.prepared import PROCESS_TYPES, prepare

VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "vectors" / "processdata.jsonl").read_text("utf-8").splitlines()
]
BY_ID = pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
ERRORS = {"B17": "QUANTITY_ZERO", "K65": "CURRENCY_DATA_MISSING", "K66": "CURRENCY_DATA_INVALID"}


def test_all_vectors_are_there() -> None:
    assert len(VECTORS) == 97


@BY_ID
def test_from_json(vector: dict[str, Any]) -> None:
    request = {"cbReceiptMoment": "2024-03-05T18:30:00Z", **vector["request"]}
    prepared = prepare(json.dumps(request, ensure_ascii=False).encode())
    if "error" in vector:
        error = prepared.payload_error()
        assert error is not None
        assert error.code == ERRORS[vector["id"]]
        assert prepared.process_data is None
        return
    assert prepared.payload_error() is None
    assert prepared.process_type == vector["processType"]
    assert prepared.process_data == vector["processData"].encode()
    assert prepared.process_data_base64 == vector["base64"]
    assert base64.b64decode(vector["base64"]).decode() == vector["processData"]


def decimal_of(value: object) -> Any:
    out = ffi.new("fk_decimal *")
    text = str(Decimal(str(value))).encode()
    core.check(lib.fk_decimal_parse(text, len(text), out))
    return out[0]


def flat_items(items: list[dict[str, Any]], case: str, keep: list[Any]) -> Any:
    array = ffi.new("fk_item[]", max(1, len(items)))
    for target, item in zip(array, items, strict=False):
        target.item_case = item.get(case, 0)
        target.quantity = decimal_of(item.get("Quantity", 1))
        target.amount = decimal_of(item.get("Amount", 0))
        target.vat_rate = decimal_of(item.get("VATRate", 0))
        for name, key in (("description", "Description"), ("case_data", "ftPayItemCaseData")):
            text = (item.get(key) or "").encode()
            buffer = ffi.from_buffer("char[]", text or b"\0")
            keep.append((text, buffer))
            setattr(target, name, buffer)
            setattr(target, f"{name}_length", len(text))
    return array


@BY_ID
def test_from_flat_arrays(vector: dict[str, Any]) -> None:
    request = vector["request"]
    charges, pays = request.get("cbChargeItems") or [], request.get("cbPayItems") or []
    keep: list[Any] = []
    result = ffi.new("fk_payload *")
    out = ffi.new("char[]", 4096)
    status = lib.fk_process_data(
        request["ftReceiptCase"],
        0,
        flat_items(charges, "ftChargeItemCase", keep),
        len(charges),
        flat_items(pays, "ftPayItemCase", keep),
        len(pays),
        out,
        4096,
        result,
    )
    if "error" in vector:
        assert status in {lib.FK_E_QUANTITY_ZERO, lib.FK_E_CURRENCY_MISSING, lib.FK_E_CURRENCY_INVALID}
        return
    assert status == lib.FK_OK
    assert PROCESS_TYPES[result.process_type] == vector["processType"]
    assert bytes(ffi.buffer(out, result.length)) == vector["processData"].encode()
