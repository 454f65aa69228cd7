"""What the application of ``fiskal serve`` takes for a request, without server and network.

    python -m pytest bench/test_http.py --benchmark-only --benchmark-enable

The whole way with a server stands in ``bench/http_load.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.http_load import empty
from bench.shop import basket, host
from fiskal.host.http import Endpoint, create_app

CALLS = 20
Call = Callable[[str, bytes], None]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Call, bytes, Any]]:
    """What asks the application CALLS times, a receipt, and the middleware, which has null TSE and null store."""
    with host(tmp_path, null_tse=True, null_store=True) as middleware, asyncio.Runner() as runner:
        app = create_app(middleware, close_middleware=False)
        app.endpoints["/bench/empty"] = Endpoint("POST", empty)

        async def ask(path: str, body: bytes) -> None:
            for _ in range(CALLS):
                scope = {
                    "type": "http",
                    "asgi": {"version": "3.0", "spec_version": "2.3"},
                    "http_version": "1.1",
                    "method": "POST",
                    "scheme": "http",
                    "path": path,
                    "raw_path": path.encode(),
                    "query_string": b"",
                    "root_path": "",
                    "headers": [
                        (b"host", b"127.0.0.1:1200"),
                        (b"content-type", b"application/json"),
                        (b"content-length", str(len(body)).encode()),
                    ],
                    "client": ("127.0.0.1", 40000),
                    "server": ("127.0.0.1", 1200),
                    "state": {},
                }
                status = 0

                async def receive() -> dict[str, Any]:
                    return {"type": "http.request", "body": body, "more_body": False}

                async def send(message: dict[str, Any]) -> None:
                    nonlocal status
                    status = message.get("status", status)

                await app(scope, receive, send)
                assert status == 200

        def call(path: str, body: bytes) -> None:
            runner.run(ask(path, body))

        yield call, basket(middleware.config.cash_box_id, 2), middleware


def _note(benchmark: Any) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_request"] = round(benchmark.stats.stats.min / CALLS * 1e6, 1)


def test_empty_handler(benchmark: Any, served: tuple[Call, bytes, Any]) -> None:
    """Routing, body and answer, in the loop itself."""
    call, body, _ = served
    benchmark(call, "/bench/empty", body)
    _note(benchmark)


def test_sign(benchmark: Any, served: tuple[Call, bytes, Any]) -> None:
    """The same and a receipt, in a thread."""
    call, body, _ = served
    benchmark(call, "/sign", body)
    _note(benchmark)


def test_sign_json_alone(benchmark: Any, served: tuple[Call, bytes, Any]) -> None:
    """The receipts without HTTP."""
    _, body, middleware = served

    def calls() -> None:
        for _ in range(CALLS):
            middleware.sign_json(body)

    benchmark(calls)
    _note(benchmark)
