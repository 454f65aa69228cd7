"""The OpenAPI document of the REST front door, made from its routes and the messages themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fiskal.pos.models import EchoRequest, EchoResponse, ReceiptRequest, ReceiptResponse
from fiskal.version import __version__

_REF = "#/components/schemas/{name}"

EXAMPLE: dict[str, Any] = {
    "ftCashBoxID": "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6",
    "ftPosSystemId": "d4a62055-ca6c-4372-ae4d-f835a88e4a5d",
    "cbTerminalID": "T1",
    "cbReceiptReference": "2020020120152812",
    "cbReceiptMoment": "2026-01-02T14:11:22.233Z",
    "cbChargeItems": [
        {
            "Quantity": 1,
            "Description": "Feuerzeug",
            "Amount": 3.5,
            "VATRate": 19,
            "ftChargeItemCase": 4919338167972134913,
        },
        {
            "Quantity": 1,
            "Description": "Kaffee",
            "Amount": 4,
            "VATRate": 19,
            "ftChargeItemCase": 4919338167972134913,
        },
    ],
    "cbPayItems": [
        {"Quantity": 1, "Description": "Bar", "Amount": 7.5, "ftPayItemCase": 4919338167972134913}
    ],
    "ftReceiptCase": 4919338172267102209,
}

_ERRORS = {
    "400": "The request cannot be read, or the queue refuses it: code, field and hint say why.",
    "401": "The headers cashboxid and accesstoken are missing or wrong.",
    "413": "The body is larger than this host accepts.",
    "415": "The body is not JSON.",
    "500": "The journal could not be written, or an error that nobody foresaw.",
    "501": "Understood, but not offered by this version.",
    "503": "Too many requests wait already, or the TSE of a start receipt cannot be reached. Try again.",
}


def document(routes: dict[str, list[str]], problem: type, *, require_token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the operations in ``routes`` (name to paths) as plain JSON values."""
    _, components = msgspec.json.schema_components(
        (ReceiptRequest, ReceiptResponse, EchoRequest, EchoResponse, problem), ref_template=_REF
    )
    schemas = {name: _as_on_the_wire(schema) for name, schema in components.items()}
    schemas["Problem"]["properties"]["response"] = _ref("ReceiptResponse")
    made = {"echo": _echo(), "sign": _sign(), "journal": _journal()}
    described: dict[str, Any] = {}
    for name, found in routes.items():
        for path in found:
            operation = {"operationId": path.strip("/").replace("/", "_"), "tags": [name], **made[name]}
            if require_token:
                operation["security"] = [{"cashboxid": [], "accesstoken": []}]
            described[path] = {"post": operation}
    described["/health"] = {"get": _health()}
    described["/doctor"] = {
        "get": _looking(
            "doctor", "In which mode is each queue, since when, why, and what to do", require_token
        )
    }
    described["/timings"] = {
        "get": _looking(
            "timings",
            "How busy each TSE is, and how long calls wait for it",
            require_token,
            "From memory; asks no TSE.",
        )
    }
    described["/transactions"] = {
        "get": _looking(
            "transactions", "What the queues and their TSEs have open, side by side", require_token
        )
    }
    described["/openapi.json"] = {"get": _self()}
    security = {
        name: {"type": "apiKey", "in": "header", "name": name, "description": text}
        for name, text in (
            ("cashboxid", "The cash box id of the host."),
            ("accesstoken", "The access token of the host."),
        )
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fiskal",
            "version": __version__,
            "description": "Fiscalisation of German cash registers: Echo, Sign and Journal between a POS and "
            "a TSE. Paths are found in any case and with a trailing slash.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": described,
        "components": {"schemas": schemas, "securitySchemes": security},
    }


def _as_on_the_wire(schema: Any) -> Any:
    """msgspec says how Python sees a member; on the wire a Decimal is a number and an int has 64 bits."""
    if isinstance(schema, list):
        return [_as_on_the_wire(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        schema = {**{name: value for name, value in schema.items() if name != "format"}, "type": "number"}
        if isinstance(schema.get("default"), str):
            schema["default"] = float(schema["default"])
        return schema
    made = {name: _as_on_the_wire(value) for name, value in schema.items()}
    if made.get("type") == "integer":
        made["format"] = "int64"
    return made


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _content(schema: dict[str, Any], media_type: str = "application/json", **more: Any) -> dict[str, Any]:
    return {media_type: {"schema": schema, **more}}


def _responses(content: dict[str, Any], description: str, errors: Iterable[str]) -> dict[str, Any]:
    made: dict[str, Any] = {"200": {"description": description, "content": content}}
    for status in errors:
        made[status] = {
            "description": _ERRORS[status],
            "content": _content(_ref("Problem"), "application/problem+json"),
        }
        if status == "503":
            made[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            }
    return made


def _echo() -> dict[str, Any]:
    return {
        "summary": "Return the message unchanged",
        "description": "An object is answered with an object, a plain string with a plain string.",
        "requestBody": {
            "required": True,
            "content": _content(
                {"oneOf": [_ref("EchoRequest"), {"type": "string"}]}, example={"Message": "Hello"}
            ),
        },
        "responses": _responses(
            _content({"oneOf": [_ref("EchoResponse"), {"type": "string"}]}),
            "The message.",
            ("400", "401", "413", "415", "500", "503"),
        ),
    }


def _sign() -> dict[str, Any]:
    return {
        "summary": "Sign a receipt",
        "description": "The answer is the very text that was stored and hashed. A TSE that fails is no HTTP "
        "error: ftState then carries bit 0x2. `null` answers a receipt request without a match.",
        "parameters": [
            {
                "name": "Prefer",
                "in": "header",
                "description": "`respond-async`: put the receipt in line and answer 202 at once (RFC 7240).",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {"required": True, "content": _content(_ref("ReceiptRequest"), example=EXAMPLE)},
        "responses": {
            **_responses(
                _content({"oneOf": [_ref("ReceiptResponse"), {"type": "null"}]}),
                "The signed receipt.",
                ("400", "401", "413", "415", "500", "501", "503"),
            ),
            "202": {"description": "In line; every later receipt of the queue is signed after it."},
        },
    }


def _journal() -> dict[str, Any]:
    def parameter(name: str, text: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": name, "in": "query", "description": text, "schema": schema, **more}

    int64 = {"type": "integer", "format": "int64"}
    return {
        "summary": "Read a journal",
        "description": "The body of the request is ignored. The journal comes in HTTP chunks; a connection "
        "that breaks off before the last one means that the journal is not complete.",
        "parameters": [
            parameter(
                "type",
                "ftJournalType: 0 version, 1 actions, 2 receipts, 3 queue items, 255 configuration, "
                "4919338167972134912 status of the German queue.",
                int64,
                required=True,
                example=3,
            ),
            parameter("from", "First TimeStamp, in .NET ticks.", {**int64, "default": 0}),
            parameter(
                "to",
                "Last TimeStamp, in .NET ticks. 0: open end. Negative: that many entries.",
                {**int64, "default": 0},
            ),
            parameter("queueId", "Which queue, if the host has several.", {"type": "string"}),
        ],
        "responses": _responses(
            _content({"type": "string", "format": "binary"}, "application/octet-stream"),
            "The journal, maybe empty.",
            ("400", "401", "500", "501", "503"),
        ),
    }


def _health() -> dict[str, Any]:
    return {
        "operationId": "health",
        "tags": ["host"],
        "summary": "Is the host alive, and in which state are its queues?",
        "description": "Answered from memory: it asks neither the TSE nor the disk, and needs no token.",
        "security": [],
        "responses": {"200": {"description": "Alive.", "content": _content({"type": "object"})}},
    }


def _looking(
    name: str, summary: str, require_token: bool, description: str = "Asks the TSEs, but signs nothing."
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": name,
        "tags": ["host"],
        "summary": summary,
        "description": description,
        "responses": _responses(
            _content({"type": "object" if name == "doctor" else "array"}),
            "What was found.",
            ("401", "500", "503"),
        ),
    }
    if require_token:
        made["security"] = [{"cashboxid": [], "accesstoken": []}]
    return made


def _self() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "tags": ["host"],
        "summary": "This document",
        "security": [],
        "responses": {"200": {"description": "OpenAPI 3.1.", "content": _content({"type": "object"})}},
    }
