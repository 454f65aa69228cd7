"""The HTTP client: what is known after a broken call, bounds, proxies, certificates."""

from __future__ import annotations

import base64
import gzip
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Garbled, NoAnswer, NotSent
from fiskal.scu.transports import https as module
from fiskal.scu.transports.https import HttpsClient, Proxy, parse_retry_after, split_url
from fiskal.simulators.http import App, HttpSettings, HttpSimulator, Request, Response, SimClock, TestCa
from tests.support.cloud import CA, Site


class Echo(App):
    """Answers what it was sent."""

    family = "echo"
    commands = {"any": 0.0}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(SimClock())
        self.executed = 0

    def command(self, request: Request) -> str:
        return "any"

    def handle(self, request: Request) -> Response:
        self.executed += 1
        if request.path == "/gzip":
            return Response(200, gzip.compress(b'{"a": 1}'), {"Content-Encoding": "gzip"})
        if request.path == "/big":
            return Response(200, b"x" * 300_000)
        return Response.json(
            {"method": request.method, "target": request.target, "body": request.body.decode()}
        )

    def reset(self, seed: int) -> None:
        self.executed = 0

    def state(self) -> dict[str, Any]:
        return {"executed": self.executed}

    def force(self, change: dict[str, Any]) -> None:
        raise ValueError("nothing can be forced")

    def close(self) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(HttpSimulator(Echo(), HttpSettings(), ca=CA), tmp_path)
    yield site
    site.close()


@pytest.fixture
def client(site: Site) -> Iterator[HttpsClient]:
    client = HttpsClient(site.sim.url + "/base/", ca_file=site.ca_file, max_answer_bytes=200_000)
    yield client
    client.close()


def get(client: HttpsClient, path: str = "/x", seconds: float = 5.0) -> Any:
    return client.request("GET", path, deadline=Deadline(seconds))


def test_a_call_and_the_same_connection_again(site: Site, client: HttpsClient) -> None:
    for n in range(3):
        answer = client.request("PUT", f"/a?n={n}", body=b"hello", deadline=Deadline(5))
        assert answer.decode(dict) == {"method": "PUT", "target": f"/base/a?n={n}", "body": "hello"}
    assert len(site.sim._connections) == 1


def test_gzip_is_unpacked(site: Site) -> None:
    client = HttpsClient(site.sim.url, ca_file=site.ca_file)
    assert get(client, "/gzip").decode(dict) == {"a": 1}
    client.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_reset_is_no_answer(site: Site, client: HttpsClient, when: str) -> None:
    get(client)
    site.fault(when=when, reset=True)
    with pytest.raises(NoAnswer):
        get(client)
    assert site.sim.app.state()["executed"] == (2 if when == "after" else 1)
    assert get(client).ok


def test_a_cut_body_is_no_answer(site: Site, client: HttpsClient) -> None:
    site.fault(when="after", truncate=5)
    with pytest.raises(NoAnswer):
        get(client)


@pytest.mark.parametrize(
    "action", [{"delay_ms": 3000}, {"drip_ms_per_byte": 50}], ids=["slow", "a byte at a time"]
)
def test_the_deadline_holds_whatever_the_server_does(
    site: Site, client: HttpsClient, action: dict[str, Any]
) -> None:
    site.fault(when="after", **action)
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="took too long"):
        get(client, seconds=0.4)
    assert time.monotonic() - began < 0.4 + 1.0  # a second of grace for a busy machine


def test_a_bomb_and_a_flood_are_refused(site: Site, client: HttpsClient) -> None:
    site.fault(gzip_bomb_bytes=50 << 20)
    with pytest.raises(Garbled, match="unpacked"):
        get(client)
    site.fault(flood_bytes=100 << 20)
    with pytest.raises(Garbled, match="more than 200000 bytes"):
        get(client)
    assert get(client).ok


def test_other_packing_is_refused(site: Site, client: HttpsClient) -> None:
    site.fault(when="after", headers={"Content-Encoding": "br"})
    with pytest.raises(Garbled, match="not asked for"):
        get(client)


def test_redirects_are_answers(site: Site, client: HttpsClient) -> None:
    site.fault(status=302, headers={"Location": "https://login.invalid/"})
    answer = get(client)
    assert answer.redirects
    assert answer.header("LOCATION") == "https://login.invalid/"
    assert site.requests("GET", "") == 1


def test_html_is_no_json(site: Site, client: HttpsClient) -> None:
    site.fault(status=200, raw_body="<html><body>Welcome</body></html>")
    with pytest.raises(Garbled, match="captive portal"):
        get(client).decode(dict)


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    client = HttpsClient(f"https://127.0.0.1:{port}")
    with pytest.raises(NotSent):
        get(client)
    client.close()


def test_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(module.socket, "getaddrinfo", fails)
    client = HttpsClient("https://tse.invalid")
    with pytest.raises(NotSent, match="no such name"):
        get(client)
    client.close()


def test_a_resolver_that_hangs_does_not_hold_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: release.wait(10) and [])
    client = HttpsClient("https://slow.invalid")
    try:
        began = time.monotonic()
        with pytest.raises(NotSent):
            get(client, seconds=0.3)
        assert time.monotonic() - began < 3
    finally:
        release.set()
        client.close()


def test_an_address_is_remembered_while_there_is_no_resolver(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://localhost:{site.sim.port}"
    first = HttpsClient(url, ca_file=site.ca_file)
    assert get(first).ok
    first.close()

    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "no resolver")

    monkeypatch.setattr(module.socket, "getaddrinfo", fails)
    second = HttpsClient(url, ca_file=site.ca_file)
    assert get(second).ok
    second.close()


def test_a_foreign_certificate_is_not_sent_anything(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(TestCa("another").pem)
    client = HttpsClient(site.sim.url, ca_file=other)
    with pytest.raises(NotSent, match="certificate"):
        get(client)
    client.close()
    assert site.sim.journal.entries() == []


def test_a_certificate_of_another_name(tmp_path: Path) -> None:
    site = Site(HttpSimulator(Echo(), HttpSettings(), ca=CA), tmp_path)
    try:
        site.sim._context = CA.server_context(["tse.example"])
        client = HttpsClient(site.sim.url, ca_file=site.ca_file)
        with pytest.raises(NotSent):
            get(client)
        client.close()
    finally:
        site.close()


def test_old_tls_is_refused(site: Site) -> None:
    context = CA.server_context(["127.0.0.1"])
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLS"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    site.sim._context = context
    client = HttpsClient(site.sim.url, ca_file=site.ca_file)
    with pytest.raises(NotSent):
        get(client)
    client.close()


def test_a_deadline_that_passed_sends_nothing(site: Site, client: HttpsClient) -> None:
    with pytest.raises(NotSent, match="deadline"):
        get(client, seconds=-1)
    client.close()
    with pytest.raises(NotSent, match="closed"):
        get(client)
    assert site.sim.journal.entries() == []


def test_a_download_is_written_and_bounded(site: Site, client: HttpsClient) -> None:
    client = HttpsClient(site.sim.url, ca_file=site.ca_file)
    out = io.BytesIO()
    answer, size = client.download("/big", out, idle_s=5)
    assert (answer.status, size, out.getvalue()) == (200, 300_000, b"x" * 300_000)
    with pytest.raises(Garbled):
        client.download("/big", io.BytesIO(), idle_s=5, max_bytes=1000)
    site.fault(when="after", truncate=100_000)
    with pytest.raises(NoAnswer):
        client.download("/big", io.BytesIO(), idle_s=5)
    site.fault(status=404, json={"code": "E"})
    answer, size = client.download("/big", out, idle_s=5)
    assert (answer.status, size, answer.decode(dict)) == (404, 0, {"code": "E"})
    client.close()


def test_more_threads_than_connections(site: Site) -> None:
    client = HttpsClient(site.sim.url, ca_file=site.ca_file, connections=2)
    answers: list[int] = []

    def work() -> None:
        answers.extend(get(client).status for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 60
    assert len(site.sim._connections) <= 2
    client.close()


class TunnelProxy:
    """A proxy that knows nothing but CONNECT."""

    def __init__(self, authorization: str | None = None, *, answer: bytes = b"") -> None:
        self.authorization = authorization
        self.answer = answer
        self.tunnels = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.tunnel, args=(connection,), daemon=True).start()

    def tunnel(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(4096)
            if self.answer:
                connection.sendall(self.answer)
                return
            lines = head.decode().split("\r\n")
            if self.authorization is not None and f"Proxy-Authorization: {self.authorization}" not in lines:
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = lines[0].split()[1].rpartition(":")
            self.tunnels += 1
            with socket.create_connection((host, int(port))) as target:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=self.copy, args=(target, connection), daemon=True)
                back.start()
                self.copy(connection, target)
                back.join(5)

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.mark.parametrize("user", [None, "till"])
def test_through_a_proxy(site: Site, user: str | None) -> None:
    expected = "Basic " + base64.b64encode("till:geheim-ä".encode()).decode() if user else None
    proxy = TunnelProxy(expected)
    options = Proxy(url=proxy.url, username=user, password="geheim-ä" if user else None)
    assert "geheim" not in repr(options)
    client = HttpsClient(site.sim.url, ca_file=site.ca_file, proxy=options)
    try:
        for _ in range(2):
            assert get(client).ok
        assert proxy.tunnels == 1
    finally:
        client.close()
        proxy.close()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>portal</html>"]
)
def test_a_proxy_that_refuses_sent_nothing(site: Site, answer: bytes) -> None:
    proxy = TunnelProxy("Basic other", answer=answer)
    client = HttpsClient(
        site.sim.url, ca_file=site.ca_file, proxy=Proxy(url=proxy.url, username="a", password="topsecret")
    )
    try:
        with pytest.raises(NotSent) as caught:
            get(client)
        assert "topsecret" not in str(caught.value)
        assert site.sim.journal.entries() == []
    finally:
        client.close()
        proxy.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-1", None),
        ("soon", None),
        ("99999999999999", 999999999.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("²", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, lambda: 40.0) == seconds


@pytest.mark.parametrize(
    "url",
    [
        "http://tse.example",
        "tse.example",
        "https://",
        "https://a:b@tse.example",
        "https://tse.example?x=1",
        "https://h:x",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError):
        split_url(url)


def test_a_ca_file_must_hold_a_certificate(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"empty\.pem"):
        HttpsClient("https://tse.example", ca_file=empty)
