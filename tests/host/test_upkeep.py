"""Self tests and exports keep out of the way: idle, in their window, one TSE after the other, or overdue."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.clock import TICKS_PER_SECOND, from_unix
from fiskal.conversation import drive
from fiskal.errors import ConfigurationError
from fiskal.host import config as configs
from fiskal.host.config import HostConfig, QueueConfig, ScuConfig
from fiskal.host.middleware import Middleware
from fiskal.host.upkeep import AGAIN_S, QUIET_S, Window
from fiskal.queue import exports
from fiskal.queue.exports import ExportRunner
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import TseRejected, Unreachable
from fiskal.scu.scheduler import Urgency
from tests.support.shop import Shop, StepClock

HOUR = 3600


def utc(text: str) -> int:
    return from_unix(int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()))


class Site:
    """A host with two TSEs in operation whose self tests are counted."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        scus = [ScuConfig(id=str(uuid.uuid4())) for _ in range(2)]
        queues = [
            QueueConfig(id=str(uuid.uuid4()), client_id=f"K{n}", scu_id=scu.id) for n, scu in enumerate(scus)
        ]
        config = HostConfig(
            cash_box_id=str(uuid.uuid4()), access_token="t", queues=queues, scus=scus, **settings
        )
        self.clock = StepClock(utc("2026-01-10T06:00"))
        self.middleware = Middleware(config, folder, clock=self.clock)
        self.tested: list[int] = []
        self.fail: Exception | None = None
        self.cores: list[ScuCore] = []
        for number, binding in enumerate(self.middleware.bindings.values()):
            core = binding.scu
            assert isinstance(core, ScuCore)
            self.cores.append(core)
            core._driver.self_test = self._counted(number)  # type: ignore[method-assign]

    def _counted(self, number: int) -> Callable[[Any], None]:
        def test(_: Any) -> None:
            self.tested.append(number)
            if self.fail is not None:
                raise self.fail

        return test

    def signed(self, number: int, seconds_ago: float) -> None:
        binding = list(self.middleware.bindings.values())[number]
        binding.signed_at = time.monotonic() - seconds_ago

    def look(self) -> list[int]:
        self.tested.clear()
        self.middleware.upkeep.look()
        return list(self.tested)


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(tmp_path, **getattr(request, "param", {"self_test_interval_h": 24}))
    yield made
    made.middleware.close()


def test_nothing_is_tested_before_four_fifths_of_the_interval(site: Site) -> None:
    site.clock.advance(0.79 * 24 * HOUR)
    assert site.look() == []
    site.clock.advance(0.02 * 24 * HOUR)
    assert site.look() == [0]


def test_one_tse_at_a_time_and_each_once(site: Site) -> None:
    site.clock.advance(20 * HOUR)
    assert [site.look() for _ in range(3)] == [[0], [1], []]


def test_a_tse_that_sells_is_left_alone_until_the_interval_is_over(site: Site) -> None:
    site.clock.advance(20 * HOUR)
    site.signed(0, QUIET_S - 5)
    site.signed(1, QUIET_S + 5)
    assert [site.look(), site.look()] == [[1], []]
    site.clock.advance(4 * HOUR)
    assert site.look() == [0]


def test_a_tse_in_use_is_not_waited_for_before_its_time(site: Site) -> None:
    site.clock.advance(20 * HOUR)
    site.cores[0].scheduler.enter("finish", Urgency.FINISH, "K0", None, 1.0)
    assert site.look() == [1]
    site.clock.advance(4 * HOUR)
    thread = threading.Thread(target=site.look)
    thread.start()
    while site.cores[0].scheduler.waiting == 0:  # now it is in line, behind everybody else
        time.sleep(0.001)
    assert site.tested == []
    site.cores[0].scheduler.leave()
    thread.join()
    assert site.tested == [0]


def test_a_self_test_somebody_asked_for_counts(site: Site) -> None:
    site.clock.advance(20 * HOUR)
    for core in site.cores:
        core.execute_self_test()
    assert site.look() == []
    site.clock.advance(20 * HOUR)
    assert site.look() == [0]


def test_one_that_fails_is_tried_again_later_and_does_not_keep_others_waiting(site: Site) -> None:
    site.fail = TseRejected("SECURE_STATE", "It failed.")
    site.clock.advance(25 * HOUR)
    assert [site.look(), site.look(), site.look()] == [[0], [1], []]
    site.fail = None
    site.clock.advance(AGAIN_S + 1)
    assert [site.look(), site.look(), site.look()] == [[0], [1], []]


def test_a_tse_of_a_queue_in_failed_mode_is_left_to_the_zero_receipt(site: Site) -> None:
    site.middleware.queues[0].journal.state.fail_count = 1
    site.clock.advance(25 * HOUR)
    assert [site.look(), site.look()] == [[1], []]


@pytest.mark.parametrize("site", [{}], indirect=True)
def test_without_an_interval_nothing_is_tested(site: Site) -> None:
    site.clock.advance(1000 * HOUR)
    assert site.look() == []


@pytest.mark.parametrize(
    "site", [{"self_test_interval_h": 24, "upkeep_window": "03:00-04:00"}], indirect=True
)
def test_each_tse_has_its_part_of_the_window(site: Site) -> None:
    def at(moment: str) -> list[int]:
        site.clock.ticks = utc(moment)  # German time is an hour ahead in winter
        return site.look()

    assert at("2026-01-11T01:59") == []
    assert at("2026-01-11T02:29") == [0]
    assert at("2026-01-11T02:29:50") == []
    assert at("2026-01-11T02:31") == [1]
    assert at("2026-01-11T03:01") == []
    assert at("2026-01-11T23:00") == []  # due, but there is a better time
    assert at("2026-01-12T02:30") == [0]  # overdue, and so at once


# ---- windows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "gone"),
    [
        ("2026-01-10T20:59:59", None),
        ("2026-01-10T21:00", 0),
        ("2026-01-10T23:30", 150),
        ("2026-01-11T03:59", 419),
        ("2026-01-11T04:00", None),
        ("2026-07-10T20:00", 0),  # summer time
        ("2026-07-10T19:59", None),
    ],
)
def test_a_window_across_midnight(moment: str, gone: float | None) -> None:
    window = Window.parse("22:00-05:00")
    assert window is not None
    assert window.minutes == 420
    assert window.gone(utc(moment)) == gone
    assert (window.wait_s(utc(moment)) == 0) == (gone is not None)


def test_the_wait_for_a_window_ends_in_it() -> None:
    window = Window.parse("00:00-00:30")
    assert window is not None
    moment = utc("2026-01-10T12:34:56")
    then = moment + int(window.wait_s(moment) * TICKS_PER_SECOND)
    assert window.gone(then) == 0


@pytest.mark.parametrize("text", ["22-5", "24:00-05:00", "22:00-22:00", "22:00–05:00", "22:60-05:00", " "])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no part of a day such as 22:00-05:00"):
        Window.parse(text)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"upkeep_window": "late"}, "no part of a day"),
        ({"self_test_interval_h": -1}, "self_test_interval_h must be"),
        ({"self_test_interval_h": 0.5}, "self_test_interval_h must be"),
        ({"self_test_interval_h": 169}, "self_test_interval_h must be"),
        ({"self_test_interval_h": 24, "upkeep_window": "03:00-03:04"}, "5 minutes are the least"),
    ],
)
def test_bad_values_are_named_when_the_configuration_is_read(
    tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    config = configs.save(tmp_path, configs.new_config())
    made = msgspec.json.decode(config.read_bytes()) | settings
    config.write_bytes(msgspec.json.encode(made))
    with pytest.raises(ConfigurationError, match=complaint):
        configs.load(tmp_path)


# ---- exports ------------------------------------------------------------------------------------


def test_an_export_waits_for_its_window_and_one_at_once_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "HOLD_POLL_S", 0.002)
    left = [30.0]
    asked = threading.Event()

    def hold_s() -> float:
        asked.set()
        return left[0]

    runner = ExportRunner(background=True, hold_s=hold_s)
    ran: list[str] = []
    drive(runner.submit("B", lambda pause: ran.append("left over"), at_once=True))
    assert runner.wait(10)
    assert ran == ["left over"]
    drive(runner.submit("A", lambda pause: ran.append("in the window")))
    assert asked.wait(10)
    assert not runner.wait(0.05)
    left[0] = 0.0
    assert runner.wait(10)
    assert ran == ["left over", "in the window"]


def test_an_export_that_waits_for_its_window_does_not_hold_up_the_end_of_the_host() -> None:
    runner = ExportRunner(background=True, hold_s=lambda: 1000.0)
    ran: list[str] = []
    drive(runner.submit("A", lambda pause: ran.append("too early")))
    runner.close()
    assert ran == []


def test_a_closing_is_archived_in_the_window_or_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "HOLD_POLL_S", 0.002)

    def windowed(config: HostConfig) -> None:
        config.upkeep_window = "22:00-05:00"

    def archived() -> list[Any]:
        return list(shop.middleware.store.iter_exports(shop.queue_id))

    def start_in_background() -> None:
        shop.close()
        shop.middleware = Middleware(shop.config, tmp_path, clock=shop.clock, background_exports=True)

    shop = Shop(tmp_path, prepare=windowed)
    start_in_background()
    shop.clock.ticks = utc("2026-01-10T12:00")
    shop.sale("A")
    shop.send(0x07, "closing", cbChargeItems=[], cbPayItems=[])
    assert not shop.middleware.wait_for_exports(0.1)
    assert archived() == []
    shop.clock.ticks = utc("2026-01-10T21:00")
    assert shop.middleware.wait_for_exports(30)
    assert len(archived()) == 1
    shop.clock.ticks = utc("2026-01-11T12:00")
    shop.send(0x07, "closing 2", cbChargeItems=[], cbPayItems=[])
    start_in_background()
    shop.sale("B")
    assert shop.middleware.wait_for_exports(30)
    assert len(archived()) == 2
    shop.close()


def test_a_host_that_is_opened_looks_after_its_tses_and_stops_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiskal.host.upkeep.ROUND_S", 0.002)
    config = configs.new_config()
    config.self_test_interval_h = 1
    clock = StepClock()
    middleware = Middleware(config, tmp_path, clock=clock, background_exports=True)
    (binding,) = middleware.bindings.values()
    core = binding.scu
    assert isinstance(core, ScuCore)
    clock.advance(2 * HOUR)
    until = time.monotonic() + 30
    while core.self_tested_at is None and time.monotonic() < until:
        time.sleep(0.005)
    assert core.self_tested_at is not None
    middleware.close()
    assert not any(thread.name == "fiskal-upkeep" for thread in threading.enumerate())
    with pytest.raises(Unreachable, match="closed"):
        core.self_test_aside(if_idle=True)
