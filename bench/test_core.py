"""How fast the core is on the way of a receipt.

    python -m pytest bench/test_core.py --benchmark-only --benchmark-enable

``bench/README.md`` says what the numbers decided.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest

from fiskal import core, pos
from fiskal._core import ffi, lib

DE = 0x4445_0000_0000_0000
SIZES = pytest.mark.parametrize("items", [2, 10, 100])


def request(items: int) -> bytes:
    """A receipt of ``items`` charge items and one payment, as a POS sends it."""
    charges = [
        {
            "Quantity": 1.0,
            "Description": f"Kaffee Crema {i}",
            "Amount": 4.25,
            "VATRate": 19.0 if i % 2 else 7.0,
            "ftChargeItemCase": DE | 0x11 + i % 2,
            "Moment": "2020-05-22T10:48:03.96Z",
        }
        for i in range(items)
    ]
    pays = [
        {
            "Quantity": 1.0,
            "Description": "Cash",
            "Amount": round(4.25 * items, 2),
            "ftPayItemCase": DE | 1,
            "Moment": "2020-05-22T10:48:10.26Z",
        }
    ]
    return json.dumps(
        {
            "ftCashBoxID": "fb1b79e2-f269-4fc0-9065-4821fed073d0",
            "ftPosSystemId": "fa3630e4-7d7e-4da5-b5b1-f45602081e40",
            "cbTerminalID": "T1",
            "cbReceiptReference": "R-4711",
            "cbReceiptMoment": "2020-05-22T10:48:10.26Z",
            "cbChargeItems": charges,
            "cbPayItems": pays,
            "ftReceiptCase": DE | 0x1_0000_0001,
            "cbUser": "Chef",
        },
        separators=(",", ":"),
    ).encode()


def put_decimal(value: object, out: Any) -> None:
    text = str(value).encode()
    lib.fk_decimal_parse(text, len(text), out)


def fill(items: Any, source: list[Any], case: str, keep: list[bytes]) -> None:
    decimal = ffi.new("fk_decimal *")
    for target, item in zip(items, source, strict=True):
        target.item_case = getattr(item, case)
        put_decimal(item.quantity, decimal)
        target.quantity = decimal[0]
        put_decimal(item.amount, decimal)
        target.amount = decimal[0]
        if case == "ft_charge_item_case":
            put_decimal(item.vat_rate, decimal)
            target.vat_rate = decimal[0]
        text = (item.description or "").encode()
        keep.append(text)
        target.description = ffi.from_buffer("char[]", text)
        target.description_length = len(text)


class FlatReceipt:
    """Flat arrays of the core, filled by Python from decoded structs."""

    def __init__(self, decoded: pos.ReceiptRequest) -> None:
        charges, pays = decoded.cb_charge_items, decoded.cb_pay_items
        self.keep: list[bytes] = []
        self.charges = ffi.new("fk_item[]", len(charges))
        self.pays = ffi.new("fk_item[]", len(pays))
        self.out = ffi.new("char[]", 16384)
        self.result = ffi.new("fk_payload *")
        fill(self.charges, charges, "ft_charge_item_case", self.keep)
        fill(self.pays, pays, "ft_pay_item_case", self.keep)
        self.arguments = (
            decoded.ft_receipt_case,
            0,
            self.charges,
            len(charges),
            self.pays,
            len(pays),
            self.out,
            16384,
            self.result,
        )

    def process_data(self) -> bytes:
        core.check(lib.fk_process_data(*self.arguments))
        return bytes(ffi.buffer(self.out, self.result.length))


@SIZES
def test_a_msgspec_and_flat_arrays(benchmark: Any, items: int) -> None:
    """(a) msgspec decodes, Python fills flat arrays, the core builds processData only."""
    decoder = msgspec.json.Decoder(pos.ReceiptRequest)
    data = request(items)
    process_data = benchmark(lambda: FlatReceipt(decoder.decode(data)).process_data())
    assert process_data == core.prepare(data).process_data


@SIZES
def test_b_core_scans_json(benchmark: Any, items: int) -> None:
    """(b) the core reads the bytes and also canonicalises, hashes, decodes and encodes Base64."""
    assert benchmark(core.prepare, request(items)).process_data is not None


@SIZES
def test_msgspec_decode_only(benchmark: Any, items: int) -> None:
    """The floor of (a): reading the request into Python objects and nothing else."""
    benchmark(msgspec.json.Decoder(pos.ReceiptRequest).decode, request(items))


def test_process_data_of_ten_items(benchmark: Any) -> None:
    """The core alone, over arrays that are already there."""
    flat = FlatReceipt(pos.decode_request(request(10)))
    assert benchmark(lib.fk_process_data, *flat.arguments) == lib.FK_OK


CHAIN = (bytes(32), bytes(range(16)), 638397795016000000, 4711, b"q" * 32, b"r" * 32)


def test_chain_hash(benchmark: Any) -> None:
    benchmark(core.chain_hash, *CHAIN)


def test_chain_hash_hashlib(benchmark: Any) -> None:
    def chain(
        previous: bytes, journal: bytes, ticks: int, number: int, asked: bytes, answered: bytes
    ) -> bytes:
        parts = (
            previous,
            journal,
            ticks.to_bytes(8, "little"),
            number.to_bytes(8, "little"),
            asked,
            answered,
        )
        return hashlib.sha256(b"".join(parts)).digest()

    assert benchmark(chain, *CHAIN) == core.chain_hash(*CHAIN)


def test_complete(benchmark: Any) -> None:
    """Hash, chain and Base64 of a response of 6 kB."""
    benchmark(core.complete, *CHAIN[:5], b"x" * 6000)
