"""The three doors of a host: typed requests, JSON in this process, and HTTP over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

from fiskal.errors import ReceiptRejected
from fiskal.host.http import create_app
from fiskal.host.middleware import Middleware
from fiskal.pos import decode_request, encode_response
from tests.host.test_http import running

DOORS = ("api", "json", "http")

Door = Callable[[bytes], Any]
"""Takes the JSON text of a request and gives the parsed response; raises ReceiptRejected."""


@contextlib.contextmanager
def open_door(name: str, middleware: Middleware) -> Iterator[Door]:
    if name == "api":
        yield lambda body: _through_models(middleware, body)
    elif name == "json":
        yield lambda body: json.loads(middleware.sign_json(body))
    else:
        with running(create_app(middleware, close_middleware=False)) as port:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection):
                yield lambda body: _over_http(connection, body)


def _through_models(middleware: Middleware, body: bytes) -> Any:
    response = middleware.sign(decode_request(body))
    return None if response is None else json.loads(encode_response(response))


def post(connection: http.client.HTTPConnection, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request("POST", "/json/v1/sign", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response, response.read()


def _over_http(connection: http.client.HTTPConnection, body: bytes) -> Any:
    response, text = post(connection, body)
    answer = json.loads(text)
    if response.status == 200:
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        return answer
    assert response.headers["Content-Type"] == "application/problem+json"
    assert answer["status"] == response.status
    stored = json.dumps(answer["response"]) if "response" in answer else None
    raise ReceiptRejected(
        answer["code"], answer["detail"], field=answer["field"], hint=answer["hint"], response=stored
    )
