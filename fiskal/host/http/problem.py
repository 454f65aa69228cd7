"""The bodies of errors (RFC 9457), and which status every error of fiskal has on the wire."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fiskal.errors import FiskalError, NotSupportedError, ReceiptRejected
from fiskal.export.journal import JournalError, TarExportFailed
from fiskal.queue.line import QueueBusy
from fiskal.scu.errors import ClientError, NotSupported, ScuError

_log = logging.getLogger("fiskal.http")

MEDIA_TYPE: Final = "application/problem+json"

RETRY_BUSY_S: Final = 1
RETRY_TSE_S: Final = 5


class Problem(msgspec.Struct, kw_only=True):
    """The body of every error (RFC 9457). ``code`` is stable and meant for programs.

    ``field`` is the path of the offending member, ``hint`` says what to do; both may be empty. ``response``
    is the error response the queue has stored, present only if the request became a queue item.
    """

    title: str
    status: int
    detail: str
    code: str
    field: str = ""
    hint: str = ""
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Refused(FiskalError):
    """A request this front door refuses before any queue sees it."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        field: str = "",
        hint: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.hint = hint
        self.headers = headers or {}


def not_found() -> Refused:
    return Refused(
        HTTPStatus.NOT_FOUND,
        "NOT_FOUND",
        "there is nothing at this path",
        hint="POST to /json/v1/echo, /json/v1/sign or /json/v1/journal?type=3; "
        "/openapi.json lists every path.",
    )


def method_not_allowed(allow: str) -> Refused:
    return Refused(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        "this path does not know this method",
        hint="Echo, Sign and Journal are POST; /health, /doctor, /timings, /transactions and /openapi.json are GET.",
        headers={"allow": allow},
    )


def response_to(request: Request, error: Exception) -> Response:
    """The problem body of any exception. The log has the whole story, the client never a stack trace."""
    status, headers = _status_of(error)
    detail, hint = str(error), str(getattr(error, "hint", ""))
    stored: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    if isinstance(error, ReceiptRejected):
        if error.response is not None:
            stored = msgspec.Raw(error.response.encode())
    elif not isinstance(error, FiskalError):
        detail = "unexpected internal error"
        hint = "The log of the middleware tells more."
    code = getattr(error, "code", "INTERNAL") if isinstance(error, FiskalError) else "INTERNAL"
    if status == 500:
        _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    else:
        _log.info("%s %s: %d %s: %s", request.method, request.scope["path"], status, code, detail)
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        field=str(getattr(error, "field", "")),
        hint=hint,
        response=stored,
    )
    return Response(msgspec.json.encode(problem), status, headers, MEDIA_TYPE)


def _status_of(error: Exception) -> tuple[int, dict[str, str]]:
    """The status, and the headers that go with it."""
    match error:
        case Refused():
            return error.status, error.headers
        case QueueBusy():
            return 503, {"retry-after": str(RETRY_BUSY_S)}
        case ReceiptRejected(code="JSON_TOO_LARGE"):
            return 413, {}
        case ReceiptRejected() | JournalError() | ClientError():
            return 400, {}
        case NotSupportedError() | NotSupported():
            return 501, {}
        case TarExportFailed():
            return 503, {"retry-after": str(RETRY_TSE_S)}
        case ScuError():
            wait_ms = error.retry_after_ms
            return 503, {"retry-after": str(RETRY_TSE_S if wait_ms is None else -(-wait_ms // 1000))}
    return 500, {}
