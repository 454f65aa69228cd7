"""What users see of a TSE's load: Python, HTTP, doctor and command line."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx2 as httpx
import msgspec
import pytest
from click.testing import CliRunner

import fiskal
from fiskal.cli import main
from fiskal.host import config as configs
from fiskal.host.timings import TseTimings, findings, of_scheduler
from fiskal.scu.scheduler import QUARTER_S, Scheduler, Urgency
from tests.cli.test_serve import sample, serving


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def used(scheduler: Scheduler, clock: Clock, seconds: float) -> None:
    scheduler.enter("finish", Urgency.FINISH, "K", None, threading.TIMEOUT_MAX)
    clock.now += seconds
    scheduler.leave()


def test_the_busiest_quarter_of_an_hour_is_remembered() -> None:
    clock = Clock()
    scheduler = Scheduler(clock=clock)
    for _ in range(4):
        used(scheduler, clock, 90)
    assert scheduler.busiest_quarter == pytest.approx(0.4)
    clock.now += 10 * QUARTER_S
    used(scheduler, clock, 45)
    assert scheduler.busiest_quarter == pytest.approx(0.4)
    assert scheduler.utilisation < 0.05
    clock.now = 5000 + 20 * QUARTER_S
    for _ in range(6):
        used(scheduler, clock, 100)
    assert scheduler.busiest_quarter == pytest.approx(600 / QUARTER_S)


def test_a_call_that_keeps_the_tse_for_longer_than_a_quarter_counts_once_and_not_above_all() -> None:
    clock = Clock()
    scheduler = Scheduler(clock=clock)
    used(scheduler, clock, 3 * QUARTER_S)
    assert scheduler.busiest_quarter == 1.0
    used(scheduler, clock, 9)
    assert scheduler._quarter_most_s <= scheduler.busy_s


@pytest.mark.parametrize(("busy", "level"), [(270, None), (271, "note"), (450, "note"), (451, "bad")])
def test_the_doctor_speaks_from_thirty_per_cent_on_and_a_half_is_bad(busy: float, level: str | None) -> None:
    clock = Clock()
    scheduler = Scheduler(clock=clock)
    used(scheduler, clock, busy)
    assert [each.level for each in findings([of_scheduler("S", scheduler)])] == ([level] if level else [])


def test_a_tse_that_was_not_needed_yet_has_no_operations() -> None:
    made = of_scheduler("S", None)
    assert (made.operations, made.utilisation, made.waiting) == ([], 0, 0)


def test_every_operation_of_a_host_is_counted_with_waits_and_service(tmp_path: Path) -> None:
    with fiskal.open(tmp_path, create=True) as middleware:
        assert middleware.timings()[0].operations == []
        for name in ("start", "sale"):
            middleware.sign_json(sample(tmp_path, name))
        (tse,) = middleware.timings()
        found = {each.operation: each for each in tse.operations}
        assert found["start"].service.count == found["finish"].service.count == 2
        assert found["start"].wait.count == 0  # their receipt waited for them
        receipt = found["receipt"]
        assert receipt.wait.count == receipt.service.count == 2
        assert receipt.service.max_ms >= receipt.service.p99_ms >= receipt.service.p50_ms > 0
        assert 0 < tse.utilisation <= 1
        assert middleware.diagnose().ok


def test_a_running_server_shows_them_by_http_and_on_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    assert CliRunner().invoke(main, ["init", "--data", str(folder)]).exit_code == 0
    with serving(folder, "--require-token") as served:
        assert httpx.get(f"{served.url}/timings").status_code == 401
        arguments = ["tse", "timings", "--data", str(folder), "--url", served.url]
        shown = CliRunner().invoke(main, arguments)
        assert shown.exit_code == 0
        assert "in the busiest quarter of an hour; 0 waiting" in shown.stdout
        config = configs.load(folder)
        headers = {
            "cashboxid": config.cash_box_id,
            "accesstoken": config.access_token,
            "content-type": "application/json",
        }
        body = sample(folder, "start")
        assert httpx.post(f"{served.url}/sign", content=body, headers=headers).status_code == 200
        shown = CliRunner().invoke(main, arguments)
        assert "finish" in shown.stdout
        shown = CliRunner().invoke(main, [*arguments, "--json"])
        assert msgspec.json.decode(shown.stdout, type=list[TseTimings])[0].operations
        served.stop()


def test_without_a_server_there_is_nothing_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fiskal.cli.common.DEFAULT_PORT", 1)  # where nobody answers
    folder = tmp_path / "shop"
    CliRunner().invoke(main, ["init", "--data", str(folder)])
    shown = CliRunner().invoke(main, ["tse", "timings", "--data", str(folder)])
    assert shown.exit_code == 2
    assert "only that has measured anything" in shown.stderr
