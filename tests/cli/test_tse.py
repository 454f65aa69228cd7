"""``fiskal tse``: what it prints, what it leaves behind, and what it says when it cannot."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import fiskal
from fiskal.cli.tse import _AfterHead, _whole_members
from fiskal.host import config as configs
from fiskal.queue.settings import QueueSettings
from fiskal.scu.fetch import ExportFetch
from fiskal.scu.software.rehearsal import FILE_NAME
from fiskal.tse.logmessage import parse_file_name
from fiskal.tse.tar import read_members
from fiskal.tse.tarverify import verify_tar

from .test_cli import data, failed, good, run, sign

__all__ = ["data"]


def answer(*arguments: str | Path) -> Any:
    return json.loads(good("tse", *arguments, "--json").stdout)


def counters(path: Path) -> list[int]:
    with path.open("rb") as file:
        names = [parse_file_name(member.name) for member in read_members(file)]
    return [name.signature_counter for name in names if name is not None]


def sample(data: Path, name: str) -> bytes:
    return good("sample", name, "--data", data).stdout_bytes


def scu_folder(data: Path) -> Path:
    return data / "scu" / configs.load(data).scus[0].id


def test_info_for_people_and_for_programs(data: Path) -> None:
    shown = good("tse", "info", "--data", data).stdout
    assert "state              initialized" in shown
    assert "clients            1 of 199: KASSE-1" in shown
    assert "NOT CERTIFIED" in shown
    found = answer("info", "--data", data)
    assert found["CurrentClientIds"] == ["KASSE-1"]


def test_a_tse_that_does_not_exist_is_not_made_by_looking(tmp_path: Path) -> None:
    good("init", "--data", tmp_path / "shop")
    for name in ("info", "self-test", "clients"):
        said = failed(run("tse", name, "--data", tmp_path / "shop"), 2, "NOT_PERSONALISED")
        assert "fiskal tse init" in said
    assert not (tmp_path / "shop" / "scu").exists()


def test_init_initialises_and_registers_once(tmp_path: Path) -> None:
    good("init", "--data", tmp_path / "shop")
    arguments = ("init", "--data", tmp_path / "shop", "--client-id", "A", "--client-id", "B")
    first = answer(*arguments)
    assert (first["CurrentState"], first["CurrentClientIds"]) == (1, ["A", "B"])
    assert answer(*arguments) == first


def test_clients_are_registered_and_unregistered(data: Path) -> None:
    assert good("tse", "clients", "--data", data, "--register", "B").stdout == "KASSE-1\nB\n"
    assert answer("clients", "--data", data, "--unregister", "B") == {"clientIds": ["KASSE-1"]}
    failed(run("tse", "clients", "--data", data, "--register", "a_b"), 2, "INVALID_CLIENT_ID")


def test_self_test(data: Path) -> None:
    assert "passed" in good("tse", "self-test", "--data", data).stdout
    good("tse", "rehearse", "--data", data, "--fail", "self_test_fails", "--times", "1")
    failed(run("tse", "self-test", "--data", data), 2, "SECURE_STATE")
    assert answer("self-test", "--data", data) == {"ok": True}


def test_one_of_several_scus_has_to_be_named(data: Path) -> None:
    config = configs.load(data)
    config.scus.append(configs.ScuConfig(id="d7b4b1c3-5054-4d2d-8b66-3b4b2d7e2b21"))
    configs.save(data, config)
    failed(run("tse", "info", "--data", data), 2, "SCU_ID_REQUIRED")
    good("tse", "info", "--data", data, "--scu-id", config.scus[0].id)
    wrong = "00000000-5054-4d2d-8b66-3b4b2d7e2b21"
    assert config.scus[0].id in failed(
        run("tse", "info", "--data", data, "--scu-id", wrong), 2, "SCU_ID_MISMATCH"
    )


def test_a_tse_in_use_says_by_whom(data: Path) -> None:
    with fiskal.open(data) as middleware:
        middleware.sign_json(sample(data, "zero"))
        assert "fiskal serve" in failed(run("tse", "info", "--data", data), 2, "DEVICE_IN_USE")


# ---- export -------------------------------------------------------------------------------------


def test_an_export_verifies_and_the_next_one_continues_it(data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.tar", tmp_path / "b.tar"
    done = answer("export", "--data", data, "--out", first)
    assert done == {"file": str(first), "bytes": first.stat().st_size, "isValid": True, "isErased": False}
    with first.open("rb") as file:
        assert verify_tar(file).ok
    sign(data, "sale")
    good("tse", "export", "--data", data, "--out", second, "--after", first)
    last = counters(first)[-1]
    assert counters(second) == [last + 1, last + 2]
    second.unlink()
    good("tse", "export", "--data", data, "--out", second, "--after", str(last + 1))
    assert counters(second) == [last + 2]
    assert list(tmp_path.glob("*.part")) == []


def test_an_export_that_erases_leaves_the_rest(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tar"
    assert answer("export", "--data", data, "--out", out, "--erase")["isErased"]
    last = counters(out)[-1]
    sign(data, "sale")
    out = tmp_path / "b.tar"
    good("tse", "export", "--data", data, "--out", out)
    assert counters(out) == [last + 1, last + 2, last + 3]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("--client-id", "KASSE-1"), True),
        (("--client-id", "nobody"), False),
        (("--first-number", "1", "--last-number", "1"), True),
        (("--first-number", "99"), False),
        (("--from", "2020-01-01"), True),
        (("--to", "2020-01-01"), False),
    ],
)
def test_filters(data: Path, tmp_path: Path, filters: tuple[str, ...], expected: bool) -> None:
    out = tmp_path / "a.tar"
    good("tse", "export", "--data", data, "--out", out, *filters)
    assert bool(counters(out)) is expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", "2020-01-01", "--first-number", "1"),
        ("--after", "3", "--client-id", "A"),
        ("--resume", "--client-id", "A"),
        ("--erase", "--client-id", "A"),
        ("--erase", "--after", "3"),
        ("--erase", "--resume"),
        ("--after", "nothing.tar"),
    ],
)
def test_what_does_not_go_together_is_refused(data: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run("tse", "export", "--data", data, "--out", tmp_path / "a.tar", *arguments)
    assert result.exit_code == 2
    assert not (tmp_path / "a.tar").exists()


def test_an_interrupted_export_is_resumed_wherever_it_stopped(data: Path, tmp_path: Path) -> None:
    for _ in range(3):
        sign(data, "sale")
    whole = tmp_path / "whole.tar"
    good("tse", "export", "--data", data, "--out", whole)
    content = whole.read_bytes()
    out = tmp_path / "a.tar"
    part = tmp_path / "a.tar.part"
    for length in (0, 100, 512, 2000, 4096, 6000, 6144, 9000, 9728, len(content) - 1024, len(content)):
        part.write_bytes(content[:length])
        good("tse", "export", "--data", data, "--out", out, "--resume")
        assert counters(out) == counters(whole)
        with out.open("rb") as file:
            report = verify_tar(file)
        assert report.ok
        assert report.codes <= {"UNTRUSTED_ROOT"}
        assert not part.exists()
        out.unlink()


def test_no_archive_is_overwritten(data: Path, tmp_path: Path) -> None:
    out, part = tmp_path / "a.tar", tmp_path / "a.tar.part"
    good("tse", "export", "--data", data, "--out", out, "--erase")
    content = out.read_bytes()
    for more in ((), ("--erase",), ("--resume",)):
        failed(run("tse", "export", "--data", data, "--out", out, *more), 2, "FILE_EXISTS")
    assert out.read_bytes() == content
    out.rename(part)
    assert "--resume" in failed(
        run("tse", "export", "--data", data, "--out", out, "--erase"), 2, "FILE_EXISTS"
    )
    assert part.read_bytes() == content


def test_a_checksum_that_does_not_agree_erases_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportFetch, "sha256_base64", "AAAA")
    out = tmp_path / "a.tar"
    signatures = answer("info", "--data", data)["CurrentNumberOfSignatures"]
    failed(run("tse", "export", "--data", data, "--out", out, "--erase"), 2, "EXPORT_FAILED")
    assert not out.exists()
    monkeypatch.undo()
    good("tse", "export", "--data", data, "--out", out, "--resume")
    assert counters(out) == list(range(1, signatures + 1))


def test_a_failed_export_keeps_what_it_has_and_says_so(data: Path, tmp_path: Path) -> None:
    good("tse", "rehearse", "--data", data, "--fail", "unreachable", "--operation", "export", "--times", "1")
    result = run("tse", "export", "--data", data, "--out", tmp_path / "a.tar")
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert not (tmp_path / "a.tar").exists()
    good("tse", "export", "--data", data, "--out", tmp_path / "a.tar", "--resume")
    assert counters(tmp_path / "a.tar")


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 5000])
def test_the_head_of_an_archive_is_dropped_whatever_the_chunks(data: Path, tmp_path: Path, size: int) -> None:
    out = tmp_path / "a.tar"
    good("tse", "export", "--data", data, "--out", out)
    content = out.read_bytes()
    rest = _AfterHead()
    kept = b"".join(rest.take(content[at : at + size]) for at in range(0, len(content), size))
    names = [member.name for member in read_members(io.BytesIO(kept))]
    assert len(names) == len(counters(out))
    assert all(parse_file_name(name) for name in names)


def test_bytes_that_are_no_archive_are_nothing_to_resume(tmp_path: Path) -> None:
    for content in (b"", b"x", bytes(512), b"\xff" * 5000):
        (tmp_path / "x").write_bytes(content)
        assert _whole_members(tmp_path / "x") == (0, 0)


# ---- rehearse -----------------------------------------------------------------------------------


def test_a_rehearsal_is_written_shown_and_taken_away(data: Path) -> None:
    assert "Nothing" in good("tse", "rehearse", "--data", data).stdout
    (data / "times.txt").write_text("200\n250.5\n")
    done = answer(
        "rehearse",
        "--data",
        data,
        *("--time", "transaction=lognormal:250:0.2:900", "--time", "start=100"),
        *("--time", f"info=@{data / 'times.txt'}", "--limit", "clients=2", "--seed", "7"),
        *("--fail", "lose_answer", "--times", "2"),
    )
    assert done["effect"] == "when the host is started"
    plan = done["rehearsal"]
    assert plan["seed"] == 7
    assert plan["service_time"]["start"] == 100
    assert plan["service_time"]["finish"] == {"kind": "lognormal", "mean_ms": 250, "cv": 0.2, "max_ms": 900}
    assert plan["service_time"]["info"] == {"kind": "empirical", "ms": [200, 250.5]}
    assert plan["limits"] == {"max_clients": 2}
    assert plan["faults"][0]["remaining"] == 2
    again = answer("rehearse", "--data", data, "--fail", "memory_full", "--time", "start=none")
    assert [fault["kind"] for fault in again["rehearsal"]["faults"]] == ["lose_answer", "memory_full"]
    assert again["rehearsal"]["service_time"]["start"] is None
    shown = good("tse", "rehearse", "--data", data).stdout
    assert "2 of 2 times left" in shown
    assert "until it is taken away" in shown
    assert answer("rehearse", "--data", data, "--no-faults")["rehearsal"]["faults"] == []
    good("tse", "rehearse", "--data", data, "--clear")
    assert "Nothing" in good("tse", "rehearse", "--data", data).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--time", "start"),
        ("--time", "start=x"),
        ("--time", "start=-1"),
        ("--time", "start=nan"),
        ("--time", "start=lognormal:nan:0.2"),
        ("--time", "start=lognormal:250:inf"),
        ("--time", "begin=1"),
        ("--time", "start=lognormal:1"),
        ("--time", "start=@nothing.txt"),
        ("--limit", "clients"),
        ("--limit", "clients=-1"),
        ("--fail", "fire"),
        ("--times", "3"),
        ("--fail", "time_out", "--times", "0"),
    ],
)
def test_a_rehearsal_that_cannot_be_changes_nothing(data: Path, arguments: tuple[str, ...]) -> None:
    assert run("tse", "rehearse", "--data", data, *arguments).exit_code == 2
    assert not (scu_folder(data) / FILE_NAME).exists()


def test_a_running_host_takes_a_change_over_at_once_if_it_rehearses(data: Path) -> None:
    def fail() -> str:
        arguments = ("--fail", "unreachable", "--operation", "start", "--times", "1")
        text: str = answer("rehearse", "--data", data, *arguments)["effect"]
        return text

    config = configs.load(data)
    config.queues[0].settings = QueueSettings(scu_max_retries=1)
    configs.save(data, config)
    body = sample(data, "sale")
    with fiskal.open(data) as middleware:
        middleware.sign_json(body)
        assert fail().startswith("after a restart")
        assert json.loads(middleware.sign_json(body))["ftState"] & 0xF == 0
    with fiskal.open(data) as middleware:
        assert json.loads(middleware.sign_json(body))["ftState"] & 0xF == 2
        middleware.sign_json(sample(data, "zero"))
        assert json.loads(middleware.sign_json(body))["ftState"] & 0xF == 0
        assert fail() == "at once"
        assert json.loads(middleware.sign_json(body))["ftState"] & 0xF == 2


# ---- pin ----------------------------------------------------------------------------------------


def test_a_pin_is_set_and_then_needed(data: Path) -> None:
    said = good("tse", "pin", "--data", data, "--new-pin", "12345").stdout
    assert "admin_pin" in said
    failed(run("tse", "clients", "--data", data, "--register", "B"), 2, "AUTH_FAILED")
    config = configs.load(data)
    config.scus[0].options["admin_pin"] = "12345"
    configs.save(data, config)
    assert answer("clients", "--data", data, "--register", "B") == {"clientIds": ["KASSE-1", "B"]}
    failed(run("tse", "pin", "--data", data, "--new-pin", "1"), 2, "ErrorSettingNewPinFailed")
    failed(run("tse", "pin", "--data", data, "--puk", "0", "--new-pin", "12345"), 2, "ErrorIncorrectPuk")
    sign(data, "sale")
