"""What there is to call, and the OpenAPI document of it, whose schemas msgspec makes of the messages themselves."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from fiskal.host.doctor import Diagnosis
from fiskal.host.http.problem import MEDIA_TYPE as PROBLEM
from fiskal.host.http.problem import Problem
from fiskal.host.timings import TseTimings
from fiskal.host.transactions import TseTransactions
from fiskal.pos.models import EchoRequest, EchoResponse, ReceiptRequest, ReceiptResponse
from fiskal.version import __version__

V0_PREFIXES: Final = ("/v0", "/json/v0", "/v0/json")
V1_PREFIXES: Final = ("", "/json", "/v1", "/json/v1", "/api")
OPERATIONS: Final = ("echo", "sign", "journal")


def paths(operation: str) -> list[str]:
    """Every path of ``operation``, in lower case and without a base path. The version in it changes nothing,
    because V0 and V1 carry the same members."""
    return [f"{prefix}/{operation}" for prefix in (*V0_PREFIXES, *V1_PREFIXES)]


EXAMPLE: Final[dict[str, Any]] = {
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

_ERRORS: Final = {
    400: "The request cannot be read, or the queue refuses it: code, field and hint say why.",
    401: "The headers cashboxid and accesstoken are missing or wrong.",
    413: "The body is larger than this host accepts.",
    415: "The body is not JSON.",
    500: "The journal could not be written, or an unexpected internal error.",
    501: "Understood, but not offered by this version.",
    503: "Too many requests wait already, or the TSE of a start receipt cannot be reached. Try again.",
}
_WITH_BODY: Final = (400, 401, 413, 415, 500, 503)

JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"


class Parameter(NamedTuple):
    """One parameter; ``default`` None: required."""

    name: str
    place: str
    text: str
    type: type = int
    default: int | str | None = 0
    example: int | None = None


class Operation(NamedTuple):
    """One thing that can be asked for: under which paths, with what, and what is answered.

    ``body`` and ``answer`` are types that msgspec can describe, ``errors`` the statuses besides 200 and those of
    ``others``. Without ``token`` anybody may ask, whatever the host is told.
    """

    name: str
    summary: str
    paths: list[str]
    method: str = "GET"
    text: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    example: Any = None
    answer: Any = dict
    said: str = "What was found."
    media_type: str = JSON
    errors: tuple[int, ...] = ()
    others: Mapping[str, str] = MappingProxyType({})
    token: bool = True


DESCRIBED: Final = (
    Operation(
        "echo",
        "Return the message unchanged",
        paths("echo"),
        "POST",
        "An object is answered with an object, a plain string with a plain string.",
        body=EchoRequest | str,
        example={"Message": "Hello"},
        answer=EchoResponse | str,
        said="The message.",
        errors=_WITH_BODY,
    ),
    Operation(
        "sign",
        "Sign a receipt",
        paths("sign"),
        "POST",
        "The answer is the very text that was stored and hashed. A TSE that fails is no HTTP error: ftState then "
        "carries bit 0x2. `null` answers a receipt request without a match.",
        (
            Parameter(
                "Prefer",
                "header",
                "`respond-async`: put the receipt in line and answer 202 at once (RFC 7240).",
                str,
                "",
            ),
        ),
        body=ReceiptRequest,
        example=EXAMPLE,
        answer=ReceiptResponse | None,
        said="The signed receipt.",
        errors=(*_WITH_BODY, 501),
        others={"202": "In line; every later receipt of the queue is signed after it."},
    ),
    Operation(
        "journal",
        "Read a journal",
        paths("journal"),
        "POST",
        "The body of the request is ignored. The journal comes in HTTP chunks; a connection that breaks off before "
        "the last one means that the journal is not complete.",
        (
            Parameter(
                "type",
                "query",
                "ftJournalType: 0 version, 1 actions, 2 receipts, 3 queue items, 255 configuration, "
                "4919338167972134912 status of the German queue.",
                default=None,
                example=3,
            ),
            Parameter("from", "query", "First TimeStamp, in .NET ticks."),
            Parameter(
                "to", "query", "Last TimeStamp, in .NET ticks. 0: open end. Negative: that many entries."
            ),
            Parameter("queueId", "query", "Which queue, if the host has several.", str, ""),
        ),
        answer=bytes,
        said="The journal, maybe empty.",
        media_type=_BYTES,
        errors=(400, 401, 500, 501, 503),
    ),
    Operation(
        "health",
        "Is the host alive, and in which state are its queues?",
        ["/health"],
        text="Answered from memory: it asks neither the TSE nor the disk, and needs no token.",
        said="Alive.",
        token=False,
    ),
    Operation(
        "doctor",
        "In which mode is each queue, since when, why, and what to do",
        ["/doctor"],
        text="Asks the TSEs, but signs nothing.",
        answer=Diagnosis,
        errors=(401, 500, 503),
    ),
    Operation(
        "timings",
        "How busy each TSE is, and how long calls wait for it",
        ["/timings"],
        text="From memory; asks no TSE.",
        answer=list[TseTimings],
        errors=(401, 500, 503),
    ),
    Operation(
        "transactions",
        "What the queues and their TSEs have open, side by side",
        ["/transactions"],
        text="Asks the TSEs, but signs nothing.",
        answer=list[TseTransactions],
        errors=(401, 500, 503),
    ),
    Operation("openapi", "This document", ["/openapi.json"], said="OpenAPI 3.1.", token=False),
    Operation(
        "docs",
        "This document for people",
        ["/docs"],
        answer=str,
        said="One HTML page.",
        media_type="text/html",
        token=False,
    ),
)
"""Every operation of the host: what is not here has no route."""

TOKEN_HEADERS: Final = {
    "cashboxid": "The cash box id of the host.",
    "accesstoken": "The access token of the host.",
}


def document(*, require_token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document as plain JSON values."""
    bodies = [operation.body for operation in DESCRIBED if operation.body is not None]
    types = [*bodies, *(operation.answer for operation in DESCRIBED), Problem]
    # Equal types have equal schemas, so they are found by what they look like.
    found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = {repr(type_): _as_on_the_wire(schema) for type_, schema in zip(types, found, strict=True)}
    schemas = {name: _as_on_the_wire(schema) for name, schema in components.items()}
    schemas["Problem"]["properties"]["response"] = {"$ref": "#/components/schemas/ReceiptResponse"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fiskal",
            "version": __version__,
            "description": "Fiscalisation of German cash registers: Echo, Sign and Journal between a POS and "
            "a TSE. Paths are found in any case and with a trailing slash.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            path: {operation.method.lower(): _described(operation, path, schema_of, require_token)}
            for operation in DESCRIBED
            for path in operation.paths
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                name: {"type": "apiKey", "in": "header", "name": name, "description": text}
                for name, text in TOKEN_HEADERS.items()
            },
        },
    }


def _described(
    operation: Operation, path: str, schema_of: dict[str, Any], require_token: bool
) -> dict[str, Any]:
    name = path.strip("/").replace("/", "_") if len(operation.paths) > 1 else operation.name
    made: dict[str, Any] = {
        "operationId": name,
        "tags": [operation.name if operation.name in OPERATIONS else "host"],
        "summary": operation.summary,
    }
    if operation.text:
        made["description"] = operation.text
    if operation.parameters:
        made["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.body is not None:
        content = {"schema": schema_of[repr(operation.body)], "example": operation.example}
        made["requestBody"] = {"required": True, "content": {JSON: content}}
    answer = {operation.media_type: {"schema": schema_of[repr(operation.answer)]}}
    made["responses"] = {
        "200": {"description": operation.said, "content": answer},
        **{status: {"description": text} for status, text in operation.others.items()},
        **{str(status): _error(status, schema_of[repr(Problem)]) for status in sorted(operation.errors)},
    }
    if not operation.token:
        made["security"] = []
    elif require_token:
        made["security"] = [{name: [] for name in TOKEN_HEADERS}]
    return made


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if parameter.type is int:
        schema = {"type": "integer", "format": "int64"}
        if parameter.default is not None:
            schema["default"] = parameter.default
    made: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.text,
        "schema": schema,
    }
    if parameter.default is None:
        made["required"] = True
    if parameter.example is not None:
        made["example"] = parameter.example
    return made


def _error(status: int, schema: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"description": _ERRORS[status], "content": {PROBLEM: {"schema": schema}}}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        made["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return made


def _as_on_the_wire(schema: Any) -> Any:
    """msgspec says how Python sees a member; on the wire a Decimal is a number, an int has 64 bits, and bytes are
    those of a journal."""
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
    if made.get("contentEncoding") == "base64":
        return {"type": "string", "format": "binary"}
    return made
