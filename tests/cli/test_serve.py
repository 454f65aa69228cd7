"""``fiskal serve`` and pipes, as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from click.testing import CliRunner

import fiskal
from fiskal.cli import main
from fiskal.cli.serve import _is_loopback, _url, bind
from fiskal.host import config as configs

ROOT = Path(fiskal.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
FISKAL = [sys.executable, "-m", "fiskal"]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    assert CliRunner().invoke(main, ["init", "--data", str(folder)]).exit_code == 0
    return folder


def sample(data: Path, name: str) -> bytes:
    result = CliRunner().invoke(main, ["sample", name, "--data", str(data)])
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


class Served:
    """A running ``fiskal serve``: its process, its URL and what it printed until it answered."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed = ""
        assert process.stdout is not None
        for line in process.stdout:
            self.printed += line
            if line.startswith("  queue"):
                break
        found = re.search(r"answers at (http://\S+)", self.printed)
        assert found is not None, self.printed + (process.stderr.read() if process.stderr else "")
        self.url = found.group(1)

    def stop(self, number: int = signal.SIGTERM) -> tuple[str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.printed + out, err


@contextlib.contextmanager
def serving(data: Path, *options: str) -> Iterator[Served]:
    command = [*FISKAL, "serve", "--data", str(data), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            yield Served(process)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_stops_cleanly(data: Path, number: int) -> None:
    with serving(data) as served:
        assert f"{served.url}/health" in served.printed
        assert f"{served.url}/openapi.json" in served.printed
        assert "is new; it begins with a start receipt" in served.printed
        assert httpx.get(f"{served.url}/health").json()["status"] == "ok"
        for name in ("start", "sale"):
            answer = httpx.post(f"{served.url}/json/v1/sign", content=sample(data, name), headers=JSON)
            assert answer.status_code == 200
        items = httpx.post(f"{served.url}/journal?type=3").json()
        assert len(items) == 2
        out, err = served.stop(number)
    assert served.process.returncode == 0
    assert out.endswith("stopped\n")
    assert err.count("NOT CERTIFIED") == 1
    assert "Traceback" not in err
    assert "POST" not in err
    assert CliRunner().invoke(main, ["verify", "journal", "--data", str(data)]).exit_code == 0


def test_a_second_server_on_the_same_folder_or_port(data: Path, tmp_path: Path) -> None:
    with serving(data) as served:
        second = subprocess.run(
            [*FISKAL, "serve", "--data", str(data), "--port", "0"],
            capture_output=True, text=True, env=ENVIRONMENT, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert second.stderr.startswith("error: ")
        assert "hint: " in second.stderr

        other = tmp_path / "other"
        CliRunner().invoke(main, ["init", "--data", str(other)])
        port = served.url.rpartition(":")[2]
        third = CliRunner().invoke(main, ["serve", "--data", str(other), "--port", port])
        assert third.exit_code == 2
        assert f"port {port} on 127.0.0.1 is in use" in third.stderr
        assert "--port 0" in third.stderr
        served.stop()


def test_the_token_is_asked_for_unless_only_this_machine_can_call(data: Path) -> None:
    config = configs.load(data)
    headers = {**JSON, "cashboxid": config.cash_box_id, "accesstoken": config.access_token}
    with serving(data, "--host", "0.0.0.0", "--access-log") as served:
        assert "asked for: send" in served.printed
        assert config.access_token not in served.printed
        url = f"http://127.0.0.1:{served.url.rpartition(':')[2]}"
        assert httpx.post(f"{url}/echo", content=b'"x"', headers=JSON).status_code == 401
        assert httpx.post(f"{url}/echo", content=b'"x"', headers=headers).content == b'"x"'
        _, err = served.stop()
        assert '"POST /echo HTTP/1.1" 401' in err
    with serving(data, "--require-token", "--base-path", "/pos") as served:
        assert httpx.post(f"{served.url}/pos/echo", content=b'"x"', headers=JSON).status_code == 401
        served.stop()
    with serving(data, "--host", "0.0.0.0", "--no-token") as served:
        assert "not asked for" in served.printed
        served.stop()


def test_an_address_that_is_not_ours(data: Path) -> None:
    result = CliRunner().invoke(main, ["serve", "--data", str(data), "--host", "203.0.113.1"])
    assert result.exit_code == 2
    assert "cannot be used" in result.stderr
    result = CliRunner().invoke(main, ["serve", "--data", str(data), "--host", "no such host"])
    assert result.exit_code == 2
    assert "HOST_UNKNOWN" in result.stderr


def test_loopback_and_urls() -> None:
    assert all(map(_is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost")))
    assert not any(map(_is_loopback, ("0.0.0.0", "::", "192.168.1.5", "pos.example", "")))
    assert _url("::1", 80) == "http://[::1]:80"
    assert _url("0.0.0.0", 80) == f"http://{socket.gethostname()}:80"
    assert _url("localhost", 80) == "http://localhost:80"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_server_at_rest_is_small(data: Path) -> None:
    with serving(data) as served:
        assert httpx.get(f"{served.url}/health").status_code == 200
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        served.stop()
    resident_kib = int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]
    assert resident_kib <= 120 * 1024


def test_pipes(data: Path) -> None:
    def fiskal_command(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*FISKAL, *arguments, "--data", str(data)],
            input=stdin, capture_output=True, env=ENVIRONMENT, check=False,
        )  # fmt: skip

    answer = fiskal_command("sign", stdin=fiskal_command("sample", "start").stdout)
    assert answer.returncode == 0
    assert answer.stderr == b""
    assert json.loads(answer.stdout)["ftQueueRow"] == 1


def test_a_reader_that_leaves_is_no_error(data: Path) -> None:
    CliRunner().invoke(main, ["sign", "--data", str(data)], input=sample(data, "start"))
    command = [*FISKAL, "journal", "--data", str(data), "--type", "3"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141


def test_answers_leave_at_once() -> None:
    """asyncio sets TCP_NODELAY only on connections of a socket that says it is TCP; else they take 40 ms."""
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
