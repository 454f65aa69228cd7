"""The commands, in process: results, exit codes, errors for people and for programs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import fiskal
from fiskal.cli import COMMANDS, main
from fiskal.cli.samples import HEADER, Samples
from fiskal.clock import from_unix
from fiskal.germany.codes import DE
from fiskal.host import config as configs
from fiskal.pos import encode_request
from fiskal.version import __version__


def run(
    *arguments: str | Path, stdin: str | bytes | None = None, env: dict[str, str] | None = None
) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], input=stdin, env=env)


def good(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result


def failed(result: Result, status: int, code: str) -> str:
    """Standard error of a command that failed as it should."""
    assert result.exit_code == status, result.output
    assert result.stderr.startswith("error: ")
    assert f"({code})" in result.stderr
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A host whose queue is in operation."""
    folder = tmp_path / "shop"
    good("init", "--data", folder, "--client-id", "KASSE-1")
    sign(folder, "start")
    return folder


def sign(folder: Path, name: str) -> dict[str, Any]:
    request = good("sample", name, "--data", folder).stdout_bytes
    answer: dict[str, Any] = json.loads(good("sign", "--data", folder, stdin=request).stdout)
    assert answer["ftState"] == DE
    return answer


# ---- the command itself ---------------------------------------------------------------------------


def test_version() -> None:
    assert good("--version").stdout == f"fiskal {__version__}\n"


def test_help_lists_every_command_and_every_command_shows_an_example() -> None:
    text = good("--help").stdout
    for name, about in COMMANDS.items():
        assert name in text
        assert about.split()[0] in text
        assert f"fiskal {name}" in good(name, "--help").stdout
    for name in ("qr", "journal"):
        assert f"fiskal verify {name}" in good("verify", name, "--help").stdout


def test_help_imports_no_command() -> None:
    code = (
        "import sys, fiskal.cli\n"
        "try: fiskal.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "bad = {'starlette', 'uvicorn', 'PIL', 'segno'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("sign",),
        ("init",),
        ("serve", "--port", "70000", "--data", "x"),
        ("journal", "--data", "x"),
        ("journal", "--data", "x", "--type", "nonsense"),
        ("journal", "--data", "x", "--type", "0x14445000000000000"),
        ("journal", "--data", "x", "--type", "-1"),
        ("journal", "--data", "x", "--type", "1", "--from", "yesterday"),
        ("sign", "/no/such/file", "--data", "x"),
        ("verify",),
        ("render", "x", "--data", "x", "--format", "pdf"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("sign",),
        ("echo", "x"),
        ("sample", "sale"),
        ("serve",),
        ("journal", "--type", "1"),
        ("verify", "journal"),
        ("render", "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6"),
    ],
)
def test_a_folder_without_a_host(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments, "--data", tmp_path / "none", stdin="{}")
    assert "fiskal init" in failed(result, 2, "CONFIGURATION")
    assert not (tmp_path / "none").exists()


def test_a_store_that_is_open_elsewhere(data: Path) -> None:
    with fiskal.open(data):
        for arguments in (
            ("sign",),
            ("journal", "--type", "1"),
            ("verify", "journal"),
            ("serve", "--port", "0"),
        ):
            text = failed(run(*arguments, "--data", data, stdin="{}"), 2, "STORE")
            assert "hint: A running 'fiskal serve'" in text


def test_unforeseen_errors_are_one_line_unless_debugging(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(fiskal.Middleware, "sign_json", broken)
    assert "FISKAL_DEBUG=1" in failed(run("sign", "--data", data, stdin="{}"), 2, "INTERNAL")
    result = run("sign", "--data", data, stdin="{}", env={"FISKAL_DEBUG": "1"})
    assert isinstance(result.exception, KeyError)


def test_ctrl_c(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fiskal.Middleware, "sign_json", interrupted)
    result = run("sign", "--data", data, stdin="{}")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_data_may_come_from_the_environment(data: Path) -> None:
    assert run("echo", "hello", env={"FISKAL_DATA": str(data)}).stdout == "hello\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("init",), "ALREADY_INITIALISED"),
        (("demo",), "ALREADY_INITIALISED"),
        (("journal", "--type", "0x4154000000000001"), "JOURNAL_TYPE"),
        (("verify", "journal", "--queue-id", "x"), "CONFIGURATION"),
    ],
)
def test_errors_for_programs(data: Path, arguments: tuple[str, ...], code: str) -> None:
    result = run(*arguments, "--data", data, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert set(error) == {"code", "detail", "field", "hint"}
    assert error["code"] == code


# ---- init -----------------------------------------------------------------------------------------


def test_init_prints_what_a_pos_needs(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    cash_box, queue = "B6C9F13B-B987-43CD-AB08-3F5CB2A850D6", "a0f2aaaa-76e4-4dbb-a0f5-cbd5ef0d6b11"
    text = good(
        "init", "--data", folder, "--cashbox-id", cash_box, "--queue-id", queue, "--client-id", "K 1"
    ).stdout
    config = configs.load(folder)
    assert config.cash_box_id == cash_box.lower()
    assert (config.queues[0].id, config.queues[0].client_id) == (queue, "K 1")
    for expected in (config.cash_box_id, config.access_token, queue, "K 1", "no certified TSE"):
        assert expected in text


def test_init_as_json_with_several_queues(tmp_path: Path) -> None:
    found = json.loads(good("init", "--data", tmp_path, "--queues", "3", "--client-id", "K", "--json").stdout)
    config = configs.load(tmp_path)
    assert found["ftCashBoxID"] == config.cash_box_id
    assert found["accesstoken"] == config.access_token
    assert [each["ftQueueID"] for each in found["queues"]] == [queue.id for queue in config.queues]
    assert [each["ftCashBoxIdentification"] for each in found["queues"]] == ["K", "K-2", "K-3"]
    with fiskal.open(tmp_path) as middleware:
        assert len(middleware.queues) == 3


def test_init_never_overwrites(data: Path) -> None:
    before = (data / "fiskal.json").read_bytes()
    assert "hint: Choose another folder" in failed(run("init", "--data", data), 2, "ALREADY_INITIALISED")
    assert (data / "fiskal.json").read_bytes() == before


@pytest.mark.parametrize("option", [("--cashbox-id", "x"), ("--queue-id", "x"), ("--client-id", "ä")])
def test_init_refuses_ids_that_cannot_work(tmp_path: Path, option: tuple[str, str]) -> None:
    failed(run("init", "--data", tmp_path / "x", *option), 2, "CONFIGURATION")
    assert not (tmp_path / "x").exists()


# ---- sign, sample, echo -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["start", "sale", "order", "zero", "closing"])
def test_every_sample_is_signed(data: Path, name: str) -> None:
    assert sign(data, name)["ftSignatures"]


def test_sign_prints_the_stored_text(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(good("sample", "sale", "--data", data).stdout_bytes)
    text = good("sign", file, "--data", data).stdout_bytes
    with fiskal.open(data) as middleware:
        stored = middleware.store.item(json.loads(text)["ftQueueItemID"])
    assert stored is not None
    assert stored.answer is not None
    assert text == stored.answer.response.encode() + b"\n"


def test_sign_of_a_receipt_request_without_match(data: Path) -> None:
    request = json.loads(good("sample", "sale", "--data", data).stdout)
    request["ftReceiptCase"] |= 0x8000_0000_0000
    assert good("sign", "--data", data, stdin=json.dumps(request)).stdout == "null\n"


def test_sign_with_one_of_several_queues(tmp_path: Path) -> None:
    good("init", "--data", tmp_path, "--queues", "2")
    second = configs.load(tmp_path).queues[1].id
    request = good("sample", "start", "--data", tmp_path).stdout_bytes
    failed(run("sign", "--data", tmp_path, stdin=request), 1, "QUEUE_ID_REQUIRED")
    answer = json.loads(good("sign", "--data", tmp_path, "--queue-id", second, stdin=request).stdout)
    assert answer["ftQueueID"] == second


def test_a_rejected_receipt(data: Path) -> None:
    request = json.loads(good("sample", "sale", "--data", data).stdout)
    request["ftReceiptCase"] &= ~0x1_0000_0000
    text = failed(run("sign", "--data", data, stdin=json.dumps(request)), 1, "TRANSACTION_NOT_FOUND")
    assert "[cbReceiptReference]" in text
    assert "hint: " in text

    result = run("sign", "--data", data, "--json", stdin=json.dumps(request))
    assert result.exit_code == 1
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "TRANSACTION_NOT_FOUND"
    assert error["field"] == "cbReceiptReference"
    assert error["hint"]
    assert error["response"]["ftState"] == DE | 0x2000_EEEE_EEEE


@pytest.mark.parametrize("body", ["", "{", "[]", "\0"])
def test_sign_of_what_is_no_request(data: Path, body: str) -> None:
    result = run("sign", "--data", data, stdin=body)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_echo(data: Path) -> None:
    assert good("echo", "grüß dich").stdout == "grüß dich\n"
    assert good("echo", "grüß dich", "--data", data).stdout == "grüß dich\n"
    assert json.loads(good("echo", "x", "--json").stdout) == {"Message": "x"}


# ---- journal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["queueitems", "QUEUEITEMS", "3", "0x3"])
def test_journal_by_name_and_number(data: Path, wanted: str) -> None:
    items = json.loads(good("journal", "--data", data, "--type", wanted).stdout)
    assert [item["ftQueueRow"] for item in items] == [1]


@pytest.mark.parametrize(
    ("wanted", "member"),
    [("version", "Assembly"), ("configuration", "CashBoxList"), ("status", "QueueDEList")],
)
def test_journals_that_are_objects(data: Path, wanted: str, member: str) -> None:
    assert member in json.loads(good("journal", "--data", data, "--type", wanted).stdout)


def test_journal_ranges(data: Path) -> None:
    for _ in range(3):
        sign(data, "sale")
    rows = json.loads(good("journal", "--data", data, "--type", "receipt").stdout)
    times = [row["TimeStamp"] for row in rows]
    moments = [row["ftReceiptMoment"] for row in rows]

    def found(*options: str) -> list[int]:
        text = good("journal", "--data", data, "--type", "receipt", *options).stdout
        return [row["TimeStamp"] for row in json.loads(text)]

    assert found("--from", str(times[1]), "--to", str(times[2])) == times[1:3]
    assert found("--from", moments[2]) == times[2:]
    assert found("--to", "-2") == times[:2]
    day = moments[0][:10]
    assert found("--from", day, "--to", moments[-1][:10]) == times
    assert found("--to", "2020-01-01") == []


def test_journal_to_a_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "items.json"
    result = good("journal", "--data", data, "--type", "queueitems", "--out", out)
    assert (result.stdout, result.stderr) == ("", "")
    assert out.read_bytes() == good("journal", "--data", data, "--type", "3").stdout_bytes
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["items.json"]


def test_a_journal_that_cannot_be_given_leaves_no_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.tar"
    failed(run("journal", "--data", data, "--type", "0x4154000000000001", "--out", out), 2, "JOURNAL_TYPE")
    failed(run("journal", "--data", data, "--type", "3", "--out", tmp_path / "no" / "x"), 2, "OS")
    assert not out.exists()


# ---- render and verify ------------------------------------------------------------------------------


def test_render(data: Path, tmp_path: Path) -> None:
    item = sign(data, "sale")["ftQueueItemID"]
    text = good("render", item, "--data", data, "--header", "Café").stdout
    assert "Café" in text
    assert "7,50" in text
    assert "fiskal-simulation (NOT CERTIFIED)" in text
    assert "Erste Bestellung" not in text
    assert "█" in text
    assert "█" not in good("render", item, "--data", data, "--mode", "text").stdout
    assert good("render", item, "--data", data, "--format", "svg").stdout.startswith("<svg")
    out = tmp_path / "receipt.png"
    assert good("render", item.upper(), "--data", data, "--format", "png", "--out", out).stdout == ""
    assert out.read_bytes().startswith(b"\x89PNG")


def test_render_finds_the_orders_of_a_receipt(data: Path) -> None:
    order = json.loads(good("sample", "order", "--data", data).stdout)
    sale = json.loads(good("sample", "sale", "--data", data).stdout)
    sale["cbReceiptReference"] = order["cbReceiptReference"]
    for request in (order, sale):
        answer = json.loads(good("sign", "--data", data, stdin=json.dumps(request)).stdout)
    text = good("render", answer["ftQueueItemID"], "--data", data).stdout
    assert "Erste Bestellung" in text
    assert "TSE-Beginn" not in text


def test_render_of_what_is_not_there(data: Path) -> None:
    missing = "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6"
    failed(run("render", missing, "--data", data), 2, "QUEUE_ITEM_NOT_FOUND")
    failed(run("render", "x", "--data", data), 2, "CONFIGURATION")


def qr_of(answer: dict[str, Any]) -> str:
    return str(answer["ftSignatures"][0]["Data"])


def test_verify_qr(data: Path) -> None:
    qr = qr_of(sign(data, "sale"))
    text = good("verify", "qr", qr).stdout
    assert text.startswith("valid")
    assert "KASSE-1" in text
    found = json.loads(good("verify", "qr", "--json", stdin=qr + "\n").stdout)
    assert found["ok"] is True
    assert found["transactionNumber"] == 2
    forged = run("verify", "qr", qr.replace("7.50", "0.50"))
    assert forged.exit_code == 1
    assert "NOT VALID" in forged.stdout
    nothing = run("verify", "qr", "--json", stdin="")
    assert nothing.exit_code == 1
    assert json.loads(nothing.stdout)["ok"] is False


def test_verify_qr_of_an_order_whose_lines_end_with_cr(data: Path) -> None:
    request = json.loads(good("sample", "order", "--data", data).stdout)
    request["cbChargeItems"] *= 2
    answer = json.loads(good("sign", "--data", data, stdin=json.dumps(request)).stdout)
    assert "\r" in qr_of(answer)
    good("verify", "qr", qr_of(answer))
    good("verify", "qr", stdin=qr_of(answer).encode() + b"\n")


def test_verify_journal(data: Path) -> None:
    sign(data, "sale")
    queue = configs.load(data).queues[0].id
    assert "good (2 items" in good("verify", "journal", "--data", data).stdout
    report = json.loads(good("verify", "journal", "--data", data, "--queue-id", queue, "--json").stdout)
    assert report["ok"] is True
    assert report["queues"][0]["counts"]["receipts"] == 2
    other = "b6c9f13b-b987-43cd-ab08-3f5cb2a850d6"
    failed(run("verify", "journal", "--data", data, "--queue-id", other), 2, "QUEUE_ID_MISMATCH")


def test_verify_journal_finds_what_was_altered(data: Path) -> None:
    sign(data, "sale")
    with sqlite3.connect(data / "journal.sqlite") as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE ftQueueItem SET request = replace(request, 'Feuerzeug', 'Feuerwerk')")
    database.close()
    result = run("verify", "journal", "--data", data)
    assert result.exit_code == 1, result.output
    assert "BAD" in result.stdout
    found = json.loads(run("verify", "journal", "--data", data, "--json").stdout)
    assert found["ok"] is False
    assert found["queues"][0]["problems"]


def test_verify_journal_before_anything_was_signed(tmp_path: Path) -> None:
    good("init", "--data", tmp_path)
    failed(run("verify", "journal", "--data", tmp_path), 2, "CONFIGURATION")


# ---- demo -------------------------------------------------------------------------------------------


def test_demo_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    text = good("demo", "--data", folder).stdout
    assert text.count("software tse".upper()) == 2
    assert "NO certified TSE" in text
    assert text.count("SUMME EUR") == 4
    assert max(map(len, text.splitlines())) <= 80
    # Two of the four are long lasting: orders came before them.
    assert text.count("Erste Bestellung") == text.count("TSE-Beginn") == 2
    assert "QR codes  7 of 7 valid" in text
    assert "journal   good" in text
    good("verify", "journal", "--data", folder)
    failed(run("demo", "--data", folder), 2, "ALREADY_INITIALISED")


def test_demo_can_be_exported(tmp_path: Path) -> None:
    """The folder holds everything an export asks for: who sells, where, and with what."""
    folder, file = tmp_path / "demo", tmp_path / "dsfinvk.zip"
    text = good("demo", "--data", folder).stdout
    found = json.loads(good("export", "dsfinvk", "--data", folder, "--out", file, "--json").stdout)
    assert (found["closings"], found["check"]["findings"]) == (1, [])
    with zipfile.ZipFile(file) as archive:
        business = archive.read("cashpointclosing.csv").decode()
    assert "Café Muster GmbH;Musterstraße 1;12345;Berlin;DEU;12/345/67890;" in business
    assert all(line in text for line in HEADER)


def test_demo_as_json_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    summary = json.loads(good("demo", "--json").stdout)
    assert summary["ok"] is True
    assert summary["data"] is None
    assert len(summary["receipts"]) == 10
    assert summary["journal"]["ok"] is True
    assert list(tmp_path.iterdir()) == []
    kept = json.loads(good("demo", "--json", "--keep").stdout)["data"]
    assert Path(kept).is_dir()


def test_demo_fails_when_something_is_not_good(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        valid = False

    monkeypatch.setattr("fiskal.cli.demo.verify_qr", lambda _: Bad())
    result = run("demo")
    assert result.exit_code == 1
    assert "QR CODE NOT VALID" in result.stdout


def test_samples_of_different_moments_never_share_a_reference() -> None:
    first, second = (
        {encode_request(step.request) for flow in Samples("x", now).flows() for step in flow.steps}
        for now in (from_unix(1), from_unix(2))
    )
    assert not first & second
