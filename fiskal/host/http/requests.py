"""What a request must look like: its token, its content type, the size of its body, its query."""

from __future__ import annotations

import hmac
import re
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from fiskal.errors import ConfigurationError
from fiskal.host.config import HostConfig
from fiskal.host.http.problem import Refused
from fiskal.queue.identity import parse_guid

MAX_BODY_BYTES: Final = 16 * 1024 * 1024

_JSON_TYPE: Final = re.compile(r"(?:application|text)/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_PLAIN_TYPES: Final = frozenset({b"application/json", b"application/json; charset=utf-8"})
_ASYNC: Final = re.compile(r"(?:^|[,;\s])respond-async(?:$|[,;\s])", re.IGNORECASE)
"""The preference of RFC 7240 for an answer before the work is done."""
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_INTEGER: Final = re.compile(r"-?[0-9]{1,99}")
_INT64: Final = range(-(1 << 63), 1 << 63)


class Token:
    """Who may call: everybody, or who sends cash box id and access token. Raises ConfigurationError if a token is
    required and the configuration has none."""

    def __init__(self, config: HostConfig, *, required: bool) -> None:
        if required and not config.access_token:
            raise ConfigurationError("'access_token' is empty; put a long random text there")
        self.required = required
        self._cash_box = config.cash_box_id.encode()
        self._token = config.access_token.encode()

    def check(self, request: Request) -> None:
        """Raises Refused."""
        if not self.required:
            return
        headers = request.headers
        given = (parse_guid(headers.get("cashboxid", "")) or "").encode()
        known = hmac.compare_digest(given, self._cash_box)
        # Both are always compared, so that the time tells nothing about which one was wrong.
        known &= hmac.compare_digest(headers.get("accesstoken", "").encode(), self._token)
        if not known:
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "UNAUTHORIZED",
                "the headers cashboxid and accesstoken are missing or wrong",
                hint="Send the cash box id and the access token that 'fiskal init' printed.",
                headers={"www-authenticate": 'AccessToken realm="fiskal"'},
            )


def expect_json(request: Request) -> None:
    """Raises Refused for another content type, and for a compressed body."""
    headers = dict(request.scope["headers"])
    if headers.get(b"content-type") in _PLAIN_TYPES and b"content-encoding" not in headers:
        return  # what nearly every request says needs no closer look
    content_type = request.headers.get("content-type", "").partition(";")[0].strip()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if _JSON_TYPE.fullmatch(content_type) is None or encoding != "identity":
        what = f"the content type {content_type!r}" if content_type else "a body without content type"
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            f"{what} is not understood" if encoding == "identity" else f"the encoding {encoding!r} is not",
            field="Content-Type" if encoding == "identity" else "Content-Encoding",
            hint="Send JSON with Content-Type: application/json, not compressed.",
        )


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises Refused as soon as it is known to have more than ``limit`` bytes."""
    announced = request.headers.get("content-length")
    if announced is not None:
        if _LENGTH.fullmatch(announced) is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "BAD_REQUEST", f"Invalid content-length: {announced!r}")
        if int(announced) > limit:
            raise _too_large()
    chunks: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limit:
            raise _too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large() -> Refused:
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "PAYLOAD_TOO_LARGE",
        "the body is larger than this host accepts",
        hint="Split the receipt, or raise the limit of the host.",
    )


def prefers_async(request: Request) -> bool:
    """Whether the client wants an answer before the work is done (RFC 7240)."""
    return any(
        name == b"prefer" and _ASYNC.search(value.decode("latin-1")) is not None
        for name, value in request.scope["headers"]
    )


def query_of(request: Request) -> dict[str, str]:
    """The query parameters by lower-case name; the last of several counts. Raises Refused."""
    text = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "BAD_QUERY", f"the query cannot be read: {error}") from error
    return {name.lower(): value for name, value in pairs}


def integer(query: dict[str, str], name: str, default: int | None = None) -> int:
    """A parameter as a 64-bit integer. Raises Refused if it is none, or missing without a ``default``."""
    text = query.get(name)
    if text is None:
        if default is not None:
            return default
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            "BAD_QUERY",
            f"the query parameter '{name}' is missing",
            field=name,
            hint="Ask for a journal by its number: ?type=3 gives the queue items.",
        )
    number = int(text) if _INTEGER.fullmatch(text) else None
    if number is None or number not in _INT64:
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            "BAD_QUERY",
            f"the query parameter '{name}' is no 64-bit integer",
            field=name,
            hint="Write it in decimal digits, without 0x.",
        )
    return number
