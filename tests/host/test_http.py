"""The REST front door: routes in every spelling, headers, status codes, streaming, limits."""

from __future__ import annotations

import contextlib
import html
import http.client
import io
import json
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from fiskal.conversation import Call
from fiskal.errors import (
    ConfigurationError,
    CoreError,
    FiskalError,
    NotSupportedError,
    ReceiptRejected,
    StoreError,
)
from fiskal.export.journal import JournalError, TarExportFailed
from fiskal.export.verify import verify_journal
from fiskal.host import config as configs
from fiskal.host.http import OPERATIONS, V0_PREFIXES, V1_PREFIXES, Application, create_app, openapi, paths
from fiskal.pos import decode_echo, encode_echo
from fiskal.queue.line import QueueBusy
from fiskal.scu.errors import ClientError, Misconfigured, NotSupported, OutcomeUnknown, Unreachable
from fiskal.store.null import NullStore
from fiskal.tse.tarverify import verify_tar
from tests.support.shop import Shop

JSON = {"Content-Type": "application/json"}
ANSWER = b'{"ftState": 4919338167972134912,"x":1.00,\n  "\xc3\x9c":"kept as it is"}'


class Fake:
    """A middleware that answers what a test wants."""

    def __init__(self) -> None:
        self.config = configs.new_config()
        self.store = NullStore()
        self.sign: Callable[[bytes], bytes] = lambda body: ANSWER
        self.stream: Callable[[], Iterator[bytes]] = lambda: iter((b"[1,", b"2]"))
        self.asked: tuple[Any, ...] = ()
        self.bodies: list[bytes] = []
        self.events: list[str] = []

    def echo_json(self, body: bytes) -> bytes:
        return encode_echo(decode_echo(body))

    def sign_json(self, body: bytes) -> bytes:
        self.bodies.append(body)
        return self.sign(body)

    async def receipt(self, body: bytes) -> bytes:
        return await Call(partial(self.sign_json, body))

    def journal(self, *args: Any, queue_id: str | None = None) -> Iterator[bytes]:
        self.asked = (*args[:3], queue_id)
        return self.stream()

    def status(self) -> dict[str, Any]:
        return {"status": "ok", "queues": []}

    def diagnose(self) -> dict[str, Any]:
        return {"ok": True}

    def timings(self) -> list[Any]:
        return []

    def transactions(self) -> list[Any]:
        return []

    def close(self) -> None:
        self.events.append("closed")


def app_of(fake: Any, **options: Any) -> Application:
    return create_app(fake, **options)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def client(fake: Fake) -> Iterator[TestClient]:
    with TestClient(app_of(fake)) as made:
        yield made


@contextlib.contextmanager
def running(app: Application) -> Iterator[int]:
    """The application behind a real server on a real socket; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none")
        server = uvicorn.Server(config)
        started = threading.Event()
        original = server.startup

        async def startup(sockets: list[socket.socket] | None = None) -> None:
            await original(sockets)
            started.set()

        server.startup = startup  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert started.wait(30)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["title"]
    assert body["detail"]
    assert {"field", "hint"} <= body.keys()
    assert "Traceback" not in response.text
    return body


# ---- routes ---------------------------------------------------------------------------------------

EVERY_PATH = [(name, path) for name in OPERATIONS for path in paths(name)]


def spellings(path: str) -> list[str]:
    return [path, f"{path}/", path.upper(), path.title(), path.replace("/echo", "/Echo") + "/"]


@pytest.mark.parametrize(("name", "path"), EVERY_PATH)
def test_every_route_in_every_spelling(client: TestClient, name: str, path: str) -> None:
    for spelling in spellings(path):
        if name == "journal":
            response = client.post(f"{spelling}?type=3")
            assert response.content == b"[1,2]"
        else:
            response = client.post(spelling, content=b'{"Message":"Hello"}', headers=JSON)
            assert response.content == (ANSWER if name == "sign" else b'{"Message":"Hello"}')
        assert response.status_code == 200, spelling


def test_the_prefixes_are_those_of_the_interface() -> None:
    assert set(V0_PREFIXES) == {"/v0", "/json/v0", "/v0/json"}
    assert set(V1_PREFIXES) == {"", "/json", "/v1", "/json/v1", "/api"}


def test_a_base_path_may_stand_before_every_route(fake: Fake) -> None:
    with TestClient(app_of(fake, base_path="/Queue/1/")) as client:
        for path in ("/queue/1/json/v1/sign", "/QUEUE/1/Sign", "/sign"):
            assert client.post(path, content=b"{}", headers=JSON).status_code == 200
        assert client.get("/queue/1/health").status_code == 200
        problem(client.post("/queue/12/sign", content=b"{}", headers=JSON), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/xml/v0/sign", "/xml/v1/echo", "/xml/sign", "/v2/sign", "/sign/x"])
def test_unknown_routes(client: TestClient, path: str) -> None:
    assert "openapi.json" in problem(client.post(path, content=b"{}", headers=JSON), 404, "NOT_FOUND")["hint"]


@pytest.mark.parametrize("path", ["/v1/echo", "/json/v0/sign", "/journal?type=3"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_wrong_method(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    problem(response, 405, "METHOD_NOT_ALLOWED")
    assert "POST" in response.headers["allow"]


def test_health_and_schema_are_get_only(client: TestClient) -> None:
    for path in ("/health", "/openapi.json"):
        response = client.post(path)
        problem(response, 405, "METHOD_NOT_ALLOWED")
        assert "GET" in response.headers["allow"]


@pytest.mark.parametrize(("path", "allow"), [("/v1/sign", "OPTIONS, POST"), ("/health", "GET, OPTIONS")])
def test_options_names_the_methods(client: TestClient, path: str, allow: str) -> None:
    response = client.options(path)
    assert (response.status_code, response.headers["allow"], response.content) == (204, allow, b"")
    problem(client.options("/nothing"), 404, "NOT_FOUND")


def test_slashes_too_many_do_no_harm(client: TestClient) -> None:
    assert client.post("//json//v1/sign//", content=b"{}", headers=JSON).status_code == 200


@pytest.mark.parametrize("base", ["", "/queue"])
def test_mounted_in_another_application(fake: Fake, base: str) -> None:
    outer = Starlette(routes=[Mount("/Shop", app_of(fake, base_path=base))])
    with TestClient(outer) as client:
        for path in ("/Shop/sign", f"/Shop{base}/JSON/v1/Sign/"):
            assert client.post(path, content=b"{}", headers=JSON).status_code == 200
        problem(client.post("/Shop/", content=b"{}", headers=JSON), 404, "NOT_FOUND")


# ---- echo and sign --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v0/echo", "/v1/echo"])
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b'"Hello"', b'"Hello"'),
        (b'{"Message":"Hello"}', b'{"Message":"Hello"}'),
        ('{"message":"Ü"}'.encode(), '{"Message":"Ü"}'.encode()),
    ],
)
def test_echo_answers_in_the_form_it_was_asked(
    client: TestClient, path: str, sent: bytes, answered: bytes
) -> None:
    response = client.post(path, content=sent, headers=JSON)
    assert response.status_code == 200
    assert response.content == answered
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"Hello"])
def test_echo_of_what_is_no_message(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/echo", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


def test_sign_passes_the_bytes_through(client: TestClient, fake: Fake) -> None:
    body = b'\xef\xbb\xbf { "a" : 1.50, /* kept */ }'
    response = client.post("/json/v1/sign", content=body, headers=JSON)
    assert response.content == ANSWER
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.headers["content-length"] == str(len(ANSWER))
    assert fake.bodies == [body]


@pytest.mark.parametrize("path", ["/v0/sign", "/v1/sign"])
def test_a_receipt_request_without_match_is_null(client: TestClient, fake: Fake, path: str) -> None:
    fake.sign = lambda body: b"null"
    response = client.post(path, content=b"{}", headers=JSON)
    assert (response.status_code, response.content) == (200, b"null")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/json;encoding=utf-8",
        "text/json",
        "application/vnd.pos+json",
    ],
)
def test_content_types_that_are_json(client: TestClient, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert client.post("/sign", content=b"{}", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/xml"},
        {"Content-Type": "text/xml; charset=utf-8"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
@pytest.mark.parametrize("path", ["/v0/echo", "/sign"])
def test_content_types_that_are_not(
    client: TestClient, fake: Fake, headers: dict[str, str], path: str
) -> None:
    problem(client.post(path, content=b"<x/>", headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")
    assert fake.bodies == []


def test_what_is_signed_over_http_is_what_is_stored(shop: Shop) -> None:
    request = {**openapi.EXAMPLE, "ftCashBoxID": shop.config.cash_box_id}
    with TestClient(app_of(shop.middleware, close_middleware=False)) as client:
        response = client.post("/json/v1/sign", content=json.dumps(request).encode(), headers=JSON)
        assert response.status_code == 200
        answer = response.json()
        stored = shop.middleware.store.item(answer["ftQueueItemID"])
        assert stored is not None
        assert stored.answer is not None
        assert response.content == stored.answer.response.encode()
        assert answer["ftState"] == 0x4445_0000_0000_0000

        wrong = {**request, "ftCashBoxID": "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6"}
        refused = client.post("/sign", content=json.dumps(wrong).encode(), headers=JSON)
        assert problem(refused, 400, "CASH_BOX_ID_MISMATCH")["field"] == "ftCashBoxID"

        rejected = client.post(
            "/sign",
            content=json.dumps({**request, "ftReceiptCase": 0x4445_0000_0000_0001}).encode(),
            headers=JSON,
        )
        body = problem(rejected, 400, "TRANSACTION_NOT_FOUND")
        assert body["response"]["ftState"] == 0x4445_2000_EEEE_EEEE

        items = client.post("/json/v0/Journal?type=3&from=0&to=00").json()
        assert [item["ftQueueRow"] for item in items] == [1, 2, 3]
        assert client.get("/health").json()["queues"][0]["state"] == "active"


def test_many_clients_at_once_leave_a_journal_that_holds(shop: Shop) -> None:
    request = {**openapi.EXAMPLE, "ftCashBoxID": shop.config.cash_box_id}

    def sell(port: int, terminal: int) -> list[int]:
        rows = []
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for number in range(10):
                body = {
                    **request,
                    "cbTerminalID": f"T{terminal}",
                    "cbReceiptReference": f"{terminal}-{number}",
                }
                answer = client.post("/v1/sign", json=body)
                assert answer.status_code == 200
                rows.append(answer.json()["ftQueueRow"])
        return rows

    with running(app_of(shop.middleware, close_middleware=False)) as port, ThreadPoolExecutor(8) as pool:
        sold = list(pool.map(lambda terminal: sell(port, terminal), range(8)))
    assert all(rows == sorted(rows) for rows in sold)
    assert sorted(row for rows in sold for row in rows) == list(range(2, 82))  # row 1 is the start receipt
    assert verify_journal(shop.middleware.store, shop.row).ok


# ---- journal --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("type=3", (3, 0, 0, None)),
        ("type=4919338167972134912&from=0&to=00", (0x4445 << 48, 0, 0, None)),
        ("TYPE=255&From=0012&To=-5", (255, 12, -5, None)),
        ("type=1&queueId=abc&unknown=1", (1, 0, 0, "abc")),
        ("type=1&type=2", (2, 0, 0, None)),
        ("type=-1", (-1, 0, 0, None)),
    ],
)
def test_journal_parameters(client: TestClient, fake: Fake, query: str, asked: tuple[Any, ...]) -> None:
    assert client.post(f"/journal?{query}").status_code == 200
    assert fake.asked == asked


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "type"),
        ("type=", "type"),
        ("type=0x3", "type"),
        ("type=3.0", "type"),
        ("type= 3", "type"),
        ("type=٣", "type"),
        ("type=9223372036854775808", "type"),
        ("type=" + "9" * 5000, "type"),
        ("type=3&from=now", "from"),
        ("type=3&to=", "to"),
    ],
)
def test_bad_journal_parameters(client: TestClient, fake: Fake, query: str, field: str) -> None:
    assert problem(client.post(f"/journal?{query}"), 400, "BAD_QUERY")["field"] == field
    assert fake.asked == ()


def test_too_many_journal_parameters(client: TestClient) -> None:
    problem(client.post("/journal?type=3" + "&a=1" * 200), 400, "BAD_QUERY")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "application/json"}, b""),
        ({"Content-Type": "text/plain"}, b""),
        ({"Content-Type": "application/xml"}, b"<x/>"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"from=5&to=6"),
    ],
)
def test_journal_ignores_its_body(
    client: TestClient, fake: Fake, headers: dict[str, str], body: bytes
) -> None:
    response = client.post("/journal?type=3", content=body, headers=headers)
    assert response.content == b"[1,2]"
    assert response.headers["content-type"] == "application/octet-stream"
    assert fake.asked == (3, 0, 0, None)


def test_an_empty_journal_is_an_empty_body(client: TestClient, fake: Fake) -> None:
    fake.stream = lambda: iter(())
    response = client.post("/journal?type=4919338167972134915")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/octet-stream"


def raising(error: Exception, *before: bytes) -> Iterator[bytes]:
    yield from before
    raise error


def raise_at_once(error: Exception) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize("lazily", [False, True])
def test_an_early_error_of_a_journal_has_its_status(client: TestClient, fake: Fake, lazily: bool) -> None:
    error = JournalError("The given journal type 0x'4154000000000001' cannot be used")
    fake.stream = (lambda: raising(error)) if lazily else raise_at_once(error)
    body = problem(client.post("/journal?type=3"), 400, "JOURNAL_TYPE")
    assert body["detail"].startswith("The given journal type")
    fake.stream = lambda: raising(NotSupportedError("not offered"))
    problem(client.post("/journal?type=3"), 501, "NOT_SUPPORTED")


def test_a_journal_comes_in_chunks_and_an_error_breaks_it_off(fake: Fake) -> None:
    with running(app_of(fake)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/journal?type=3")
        response = connection.getresponse()
        assert response.getheader("Transfer-Encoding") == "chunked"
        assert response.getheader("Content-Length") is None
        assert response.read() == b"[1,2]"

        fake.stream = lambda: raising(StoreError("the disk is gone"), b"[1,", b"2,")
        connection.request("POST", "/journal?type=3")
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        connection.close()

        # The host goes on.
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


def test_a_client_that_leaves_ends_its_journal(fake: Fake) -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    fake.stream = endless
    with running(app_of(fake)) as port:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"POST /journal?type=3 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 200")
        assert closed.wait(30)
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


def test_a_journal_is_closed_when_it_was_read(client: TestClient, fake: Fake) -> None:
    closed = threading.Event()

    def stream() -> Iterator[bytes]:
        try:
            yield b"[]"
        finally:
            closed.set()

    fake.stream = stream
    assert client.post("/journal?type=3").content == b"[]"
    assert closed.wait(30)


# ---- limits ---------------------------------------------------------------------------------------


def test_a_body_that_announces_too_much(fake: Fake) -> None:
    with TestClient(app_of(fake, max_body=100)) as client:
        assert client.post("/sign", content=b"x" * 100, headers=JSON).status_code == 200
        for path in ("/sign", "/echo"):
            problem(client.post(path, content=b"x" * 101, headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    assert fake.bodies == [b"x" * 100]


def test_a_body_that_grows_too_large_while_it_is_read(fake: Fake) -> None:
    with running(app_of(fake, max_body=100_000)) as port:
        url = f"http://127.0.0.1:{port}/sign"
        response = httpx.post(url, content=iter([b"x" * 50_000] * 3), headers=JSON)
        problem(response, 413, "PAYLOAD_TOO_LARGE")
        assert httpx.post(url, content=iter([b"x" * 50_000] * 2), headers=JSON).status_code == 200
        # An announced length is refused before the body is asked for.
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(
                b"POST /sign HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
            )
            assert raw.recv(4096).startswith(b"HTTP/1.1 413")
    assert [len(body) for body in fake.bodies] == [100_000]


def test_receipts_are_signed_beside_each_other_and_health_answers_meanwhile(fake: Fake) -> None:
    together = threading.Barrier(9)
    release = threading.Event()

    def sign(body: bytes) -> bytes:
        together.wait(30)
        assert release.wait(30)
        return body

    fake.sign = sign
    with TestClient(app_of(fake, threads=8)) as client, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.post, "/sign", content=str(n).encode(), headers=JSON) for n in range(8)]
        together.wait(30)  # all eight are in work
        assert client.get("/health").status_code == 200
        assert client.post("/echo", content=b'"x"', headers=JSON).status_code == 200
        release.set()
        assert sorted(int(call.result().content) for call in calls) == list(range(8))


def test_more_than_may_wait_are_sent_away(fake: Fake) -> None:
    working, release = threading.Event(), threading.Event()

    def sign(body: bytes) -> bytes:
        working.set()
        assert release.wait(30)
        return body

    fake.sign = sign
    with TestClient(app_of(fake, threads=1, max_pending=1)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/sign", content=b"1", headers=JSON)
        assert working.wait(30)
        response = client.post("/sign", content=b"2", headers=JSON)
        problem(response, 503, "QUEUE_BUSY")
        assert int(response.headers["retry-after"]) >= 1
        release.set()
        assert first.result().content == b"1"
        assert client.post("/sign", content=b"3", headers=JSON).content == b"3"


def test_shutting_down_finishes_what_is_in_work_and_then_closes(fake: Fake) -> None:
    working, release = threading.Event(), threading.Event()

    def sign(body: bytes) -> bytes:
        working.set()
        assert release.wait(30)
        fake.events.append("signed")
        return body

    fake.sign = sign
    with ThreadPoolExecutor(1) as pool:
        with running(app_of(fake)) as port:
            url = f"http://127.0.0.1:{port}/sign"
            call = pool.submit(httpx.post, url, content=b"1", headers=JSON, timeout=30)
            assert working.wait(30)
            threading.Timer(0.3, release.set).start()
        assert call.result().content == b"1"
    assert fake.events == ["signed", "closed"]


def test_an_embedder_may_keep_its_middleware(fake: Fake) -> None:
    with TestClient(app_of(fake, close_middleware=False)):
        pass
    assert fake.events == []


# ---- token ----------------------------------------------------------------------------------------


def test_token(fake: Fake) -> None:
    cash_box, token = fake.config.cash_box_id, fake.config.access_token
    right = {"cashboxid": cash_box, "accesstoken": token}
    wrong: list[dict[str, str]] = [
        {},
        {"cashboxid": cash_box},
        {"accesstoken": token},
        {"cashboxid": cash_box, "accesstoken": ""},
        {"cashboxid": cash_box, "accesstoken": token + "x"},
        {"cashboxid": cash_box, "accesstoken": token[:-1]},
        {"cashboxid": "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6", "accesstoken": token},
        {"cashboxid": "", "accesstoken": token},
    ]
    with TestClient(app_of(fake, require_token=True)) as client:
        for headers in wrong:
            for path in ("/echo", "/v0/sign", "/journal?type=3"):
                response = client.post(path, content=b'"x"', headers={**JSON, **headers})
                problem(response, 401, "UNAUTHORIZED")
                assert "www-authenticate" in response.headers
                assert token not in response.text
        assert fake.bodies == []
        for given in (right, {"cashboxid": f"{{{cash_box.upper()}}}", "accesstoken": token}):
            for path in ("/echo", "/v0/sign", "/journal?type=3"):
                assert client.post(path, content=b'"x"', headers={**JSON, **given}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/openapi.json").status_code == 200
        problem(client.post("/nothing", headers=JSON), 404, "NOT_FOUND")


def test_headers_are_ignored_when_no_token_is_required(client: TestClient) -> None:
    headers = {**JSON, "cashboxid": "x", "accesstoken": "y"}
    assert client.post("/sign", content=b"{}", headers=headers).status_code == 200


def test_a_required_token_must_exist(fake: Fake) -> None:
    fake.config.access_token = ""
    with pytest.raises(ConfigurationError, match="access_token"):
        app_of(fake, require_token=True)


# ---- errors ---------------------------------------------------------------------------------------


def internal() -> FiskalError:
    error = FiskalError("internal error: KeyError")
    error.code = "INTERNAL"
    return error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ReceiptRejected("JSON_SYNTAX", "no JSON"), 400, "JSON_SYNTAX"),
        (ReceiptRejected("JSON_TOO_LARGE", "too large"), 413, "JSON_TOO_LARGE"),
        (ClientError("BAD", "wrong"), 400, "BAD"),
        (QueueBusy("busy"), 503, "QUEUE_BUSY"),
        (Unreachable("TIMEOUT", "no answer", retry_after_ms=2500), 503, "TIMEOUT"),
        (OutcomeUnknown("LOST", "lost"), 503, "LOST"),
        (Misconfigured("PIN", "wrong PIN"), 503, "PIN"),
        (NotSupported("NO_SUCH", "not this TSE"), 501, "NO_SUCH"),
        (NotSupportedError("not offered"), 501, "NOT_SUPPORTED"),
        (StoreError("disk full"), 500, "STORE"),
        (CoreError(7), 500, "CORE"),
        (internal(), 500, "INTERNAL"),
        (KeyError("secret"), 500, "INTERNAL"),
    ],
)
def test_errors(
    client: TestClient,
    fake: Fake,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    code: str,
) -> None:
    fake.sign = raise_at_once(error)
    response = client.post("/sign", content=b"{}", headers=JSON)
    problem(response, status, code)
    assert ("retry-after" in response.headers) == (status == 503)
    assert "secret" not in response.text
    logged = [record for record in caplog.records if record.name == "fiskal.http" and record.exc_info]
    assert len(logged) == (status == 500)


def test_retry_after_is_what_the_tse_asks_for(client: TestClient, fake: Fake) -> None:
    fake.sign = raise_at_once(Unreachable("TIMEOUT", "no answer", retry_after_ms=2500))
    assert client.post("/sign", content=b"{}", headers=JSON).headers["retry-after"] == "3"


def test_a_rejection_says_where_and_what_to_do_and_carries_what_was_stored(
    client: TestClient, fake: Fake
) -> None:
    stored = '{"ftState":4919373356352859886,"x":1.00}'
    fake.sign = raise_at_once(
        ReceiptRejected("QUANTITY", "not 0", field="cbChargeItems[3]", hint="Send 1.", response=stored)
    )
    response = client.post("/sign", content=b"{}", headers=JSON)
    body = problem(response, 400, "QUANTITY")
    assert (body["field"], body["hint"], body["detail"]) == ("cbChargeItems[3]", "Send 1.", "not 0")
    assert f'"response":{stored}' in response.text
    fake.sign = raise_at_once(ReceiptRejected("X", "refused before it was stored"))
    assert "response" not in client.post("/sign", content=b"{}", headers=JSON).json()


def test_health(client: TestClient) -> None:
    response = client.get("/Health/")
    assert response.json()["status"] == "ok"
    assert response.json()["version"]
    assert response.headers["cache-control"] == "no-store"


# ---- OpenAPI --------------------------------------------------------------------------------------


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_openapi_is_whole(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"]
    assert document["info"]["version"]
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    operations = [each for path in document["paths"].values() for each in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for operation in operations:
        assert operation["summary"]
        assert all(answer["description"] for answer in operation["responses"].values())
        for parameter in operation.get("parameters", []):
            assert {"name", "in", "schema"} <= parameter.keys()
    members = schemas["ReceiptRequest"]["properties"]
    assert set(openapi.EXAMPLE) <= set(members)
    assert members["ftReceiptCase"] == {"type": "integer", "format": "int64", "default": 0}
    assert schemas["ChargeItem"]["properties"]["Amount"]["type"] == "number"
    assert schemas["ReceiptRequest"]["required"] == ["cbReceiptMoment"]
    assert "ftSignatures" in schemas["ReceiptResponse"]["required"]
    assert set(schemas["Problem"]["properties"]) == {
        "title", "status", "detail", "code", "field", "hint", "response",
    }  # fmt: skip


def test_every_documented_route_answers_and_every_route_is_documented(fake: Fake) -> None:
    app = app_of(fake)
    assert {path for name in OPERATIONS for path in paths(name)} < set(app.endpoints)
    with TestClient(app) as client:
        described = client.get("/openapi.json").json()["paths"]
        assert set(described) == set(app.endpoints)
        for path, methods in described.items():
            for method in methods:
                query = "?type=3" if path.endswith("journal") else ""
                body = b'{"Message":"x"}' if method == "post" else b""
                response = client.request(method.upper(), path + query, content=body, headers=JSON)
                assert response.status_code == 200
                declared = methods[method]["responses"]["200"]["content"]
                assert response.headers["content-type"].split(";")[0] in declared


def test_the_page_for_people_shows_everything_and_works_offline(fake: Fake) -> None:
    with TestClient(app_of(fake, require_token=True)) as client:
        document = client.get("/openapi.json").json()
        response = client.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = html.unescape(response.text)
    for path, methods in document["paths"].items():
        assert f"<code>{path}</code>" in page
        for operation in methods.values():
            assert operation["summary"] in page
            assert all(answer["description"] in page for answer in operation["responses"].values())
    for name, schema in document["components"]["schemas"].items():
        assert f'id="{name}"' in page
        assert all(f"<code>{member}</code>" in page for member in schema.get("properties", {}))
    assert "<script" not in page
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')>]*)""", page) == ["openapi.json"]


def test_the_security_of_the_document_follows_the_setting(fake: Fake) -> None:
    for required in (False, True):
        with TestClient(app_of(fake, require_token=required, close_middleware=False)) as client:
            document = client.get("/openapi.json").json()
        assert ("security" in document["paths"]["/sign"]["post"]) == required
        assert document["paths"]["/health"]["get"]["security"] == []


# ---- exports of the TSE ---------------------------------------------------------------------------

EXPORTS, LIVE, ARCHIVED, DSFINVK = 17477, 4919338167972134913, 4919338167972134915, 4919338167972134914


@pytest.fixture
def selling(shop: Shop) -> Iterator[TestClient]:
    with TestClient(create_app(shop.middleware, close_middleware=False)) as made:
        yield made


def test_the_journals_of_the_exports(shop: Shop, selling: TestClient) -> None:
    archived = selling.post(f"/v1/journal?type={ARCHIVED}")
    assert (archived.status_code, archived.content) == (200, b"")
    assert selling.post(f"/v1/journal?type={EXPORTS}").content == b"[]"
    live = selling.post(f"/v1/journal?type={LIVE}")
    assert (live.status_code, live.headers["content-type"]) == (200, "application/octet-stream")
    shop.send(0x07)
    archived = selling.post(f"/json/v0/journal?type={ARCHIVED}&from=0&to=00")
    for tar in (live.content, archived.content):
        assert verify_tar(io.BytesIO(tar)).ok
    (row,) = selling.post(f"/v1/journal?type={EXPORTS}").json()
    assert row["FileExtension"] == ".zip"


def test_a_tse_that_cannot_export_is_503(shop: Shop, selling: TestClient) -> None:
    shop.tse.down = Unreachable("CONNECT_FAILED", "The TSE is not available.")
    response = selling.post(f"/v1/journal?type={LIVE}")
    problem(response, 503, "CONNECT_FAILED")
    assert "retry-after" in response.headers


def test_an_export_with_another_checksum_is_503(shop: Shop, selling: TestClient) -> None:
    shop.tse.fail_before("end_export_session", TarExportFailed("The TAR file export was not successful."))
    problem(selling.post(f"/v1/journal?type={LIVE}"), 503, "TAR_EXPORT_FAILED")


def test_the_dsfinvk_export_is_a_zip(shop: Shop, selling: TestClient) -> None:
    empty = selling.post(f"/v1/journal?type={DSFINVK}")
    assert (empty.status_code, empty.content) == (200, b"")
    shop.sale()
    shop.send(0x07)
    found = selling.post(f"/json/v0/journal?type={DSFINVK}&from=0&to=0")
    assert (found.status_code, found.headers["content-type"]) == (200, "application/octet-stream")
    assert "transactions.csv" in zipfile.ZipFile(io.BytesIO(found.content)).namelist()
    (stamp,) = {row["TimeStamp"] for row in shop.journal(2)[-1:]}
    assert selling.post(f"/v1/journal?type={DSFINVK}&from={stamp + 1}&to=0").content == b""


def test_a_start_that_is_not_waited_for_comes_before_its_finish(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with TestClient(create_app(shop.middleware, close_middleware=False)) as client:
        start = json.dumps(shop.request(0x08, "A"))
        for preference in ("respond-async", "Respond-Async; wait=5", "wait=5, respond-async"):
            request = start.replace('"A"', f'"{preference[:3]}{len(preference)}"')
            answer = client.post("/v1/sign", content=request, headers={**JSON, "Prefer": preference})
            assert (answer.status_code, answer.content) == (202, b"")
            assert answer.headers["preference-applied"] == "respond-async"
        finish = shop.request(0x01, "res13", flow="explicit")
        assert client.post("/v1/sign", json=finish).json()["ftReceiptIdentification"] == "ft4#T2"
        assert (
            client.post("/v1/sign", content=start, headers={**JSON, "Prefer": "no-respond-async"}).status_code
            == 200
        )
        refused = client.post("/v1/sign", content="{", headers={**JSON, "Prefer": "respond-async"})
        assert refused.status_code == 400
    shop.close()
