"""A running 'fiskal serve', as the commands that work beside it reach it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final

import msgspec

from fiskal.cli import common
from fiskal.errors import ReceiptRejected
from fiskal.host.config import HostConfig

ANSWER_S: Final = 120.0
"""A fail-transaction receipt may wait for a slow TSE several times."""
LOOK_S: Final = 2.0


class Remote:
    """The host at ``url``. Raises CommandError if it does not answer, ReceiptRejected if it refuses."""

    def __init__(self, url: str, config: HostConfig) -> None:
        self._url = url.rstrip("/")
        self._headers = {"cashboxid": config.cash_box_id, "accesstoken": config.access_token}
        # A proxy of the environment is not asked: the host stands on this machine or beside it.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str, timeout_s: float = ANSWER_S) -> bytes:
        return self._call(urllib.request.Request(self._url + path, headers=self._headers), timeout_s)

    def sign(self, body: bytes) -> bytes:
        headers = {**self._headers, "Content-Type": "application/json"}
        return self._call(urllib.request.Request(f"{self._url}/json/v1/sign", body, headers), ANSWER_S)

    def _call(self, request: urllib.request.Request, timeout_s: float) -> bytes:
        try:
            with self._open(request, timeout=timeout_s) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except (OSError, ValueError) as error:
            raise common.CommandError(
                "HOST_UNREACHABLE",
                f"{self._url} does not answer: {getattr(error, 'reason', None) or error}",
                hint="Give the address that 'fiskal serve' printed with --url, such as http://127.0.0.1:1200.",
            ) from error


def _refusal(error: urllib.error.HTTPError) -> Exception:
    try:
        problem = json.loads(error.read())
        code, detail, hint = str(problem["code"]), str(problem["detail"]), str(problem.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return common.CommandError(
            "HOST_UNKNOWN", f"{error.url} answers {error.code}, but not as 'fiskal serve' would"
        )
    if error.code == 400:
        return ReceiptRejected(code, detail, field=str(problem.get("field", "")), hint=hint)
    return common.CommandError(code, detail, hint=hint)


def find(config: HostConfig) -> Remote | None:
    """The host that 'fiskal serve' started on this machine without options, if it is this one's."""
    remote = Remote(f"http://127.0.0.1:{common.DEFAULT_PORT}", config)
    try:
        status: Any = msgspec.json.decode(remote.get("/health", LOOK_S))
    except (common.CommandError, ReceiptRejected, msgspec.DecodeError):
        return None
    is_ours = isinstance(status, dict) and status.get("ftCashBoxId") == config.cash_box_id
    return remote if is_ours else None
