"""Looking after a queue in failed mode: told to those who listen, never in the way of a receipt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.host import config as configs
from fiskal.host import middleware as middlewares
from fiskal.host.events import Event
from fiskal.queue.queue import RECOVERY_REFERENCE
from fiskal.queue.settings import QueueSettings
from fiskal.scu.contract import TseState, TseStates
from fiskal.scu.errors import OutcomeUnknown, Unreachable
from tests.support.shop import DE, Shop

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available. Nobody answers.")
WAIT_S = 20


class Heard:
    """What a listener was told; waiting for more has an end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def wait_for(self, kind: str) -> Event:
        with self._changed:
            assert self._changed.wait_for(lambda: kind in self.kinds(), WAIT_S), self.kinds()
        return next(event for event in self.events if event.kind == kind)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fiskal-monitor"]


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def opened(folder: Path, interval_s: float = 0, **settings: Any) -> Shop:
    def prepare(config: configs.HostConfig) -> None:
        config.probe_interval_s = interval_s

    return Shop(folder, settings=QueueSettings(**settings), prepare=prepare)


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Shop]:
    """A shop without a monitor of its own."""
    shop = opened(tmp_path)
    yield shop
    shop.close()


def fail(shop: Shop) -> None:
    shop.tse.down = DOWN
    assert shop.sale("F")["ftState"] == DE + 2


# ---- the probe --------------------------------------------------------------------------------------


def test_a_probe_reports_and_changes_nothing(quiet: Shop) -> None:
    fail(quiet)
    before = (quiet.row, quiet.actions())
    quiet.tse.calls.clear()
    (report,) = quiet.middleware.probe()
    assert (report.reachable, report.ready, report.text) == (False, False, DOWN.message)
    quiet.tse.down = None
    (report,) = quiet.middleware.probe()
    assert (report.reachable, report.ready, report.text) == (True, True, "The TSE answers.")
    assert set(quiet.tse.calls) == {"get_tse_info_if_idle"}
    assert (quiet.row, quiet.actions()) == before
    assert quiet.sale("S")["ftState"] == DE + 2


def test_a_tse_that_answers_but_cannot_sign_is_not_ready(tmp_path: Path) -> None:
    def two(config: configs.HostConfig) -> None:
        config.probe_interval_s = 0
        config.scus.append(configs.ScuConfig(id=configs.guid("", None)))

    shop = Shop(tmp_path, prepare=two)
    shop.tse.scu.set_tse_state(TseState(current_state=TseStates.TERMINATED))
    (report,) = shop.middleware.probe()
    assert (report.reachable, report.ready) == (True, False)
    assert "terminated" in report.text
    shop.close()


def test_a_tse_in_use_is_left_alone(quiet: Shop) -> None:
    scu: Any = quiet.tse.scu
    with ThreadPoolExecutor(1) as prober, scu.back_to_back("another"):
        (report,) = prober.submit(quiet.middleware.probe).result()
    assert report.reachable is None
    assert not report.ready


def test_a_round_tells_what_has_changed_once(quiet: Shop) -> None:
    assert quiet.middleware.look_after() == []
    fail(quiet)
    (event,) = quiet.middleware.look_after()
    assert event.kind == "tse_unreachable"
    assert event.queue_id == quiet.queue_id
    assert event.text == DOWN.message
    assert quiet.middleware.look_after() == []
    assert quiet.middleware.status()["queues"][0]["tse"]["reachable"] is False
    quiet.tse.down = None
    (event,) = quiet.middleware.look_after()
    assert event.kind == "tse_reachable"
    assert quiet.middleware.look_after() == []
    assert quiet.middleware.status()["queues"][0]["tse"]["ready"] is True
    assert quiet.row.SSCDFailCount == 1
    quiet.send(0x02, "Z")
    assert quiet.middleware.look_after() == []
    assert quiet.middleware.status()["queues"][0]["tse"] is None


def test_a_tse_that_just_signed_for_another_queue_is_not_asked(tmp_path: Path) -> None:
    def two(config: configs.HostConfig) -> None:
        config.probe_interval_s = 3600
        scu_id = config.scus[0].id
        config.queues.append(configs.QueueConfig(id=configs.guid("", None), client_id="POS-2", scu_id=scu_id))

    shop = Shop(tmp_path, prepare=two)
    first, second = shop.queue_id, shop.config.queues[1].id
    shop.queue_id = second
    shop.send(0x03)
    shop.queue_id = first
    fail(shop)
    shop.tse.down = None
    shop.queue_id = second
    assert shop.sale("S")["ftState"] == DE
    shop.tse.calls.clear()
    (event,) = shop.middleware.look_after()
    assert (event.kind, event.queue_id) == ("tse_reachable", first)
    assert shop.tse.calls == []
    shop.close()


def test_what_a_tse_signed_before_it_failed_says_nothing(tmp_path: Path) -> None:
    shop = opened(tmp_path, 3600)
    shop.sale("S")
    fail(shop)
    (event,) = shop.middleware.look_after()
    assert event.kind == "tse_unreachable"
    shop.close()


# ---- the thread -------------------------------------------------------------------------------------


def test_there_is_a_thread_only_in_failed_mode(tmp_path: Path) -> None:
    shop = opened(tmp_path, 3600)
    shop.sale("S")
    assert threads() == []
    fail(shop)
    assert len(threads()) == 1
    shop.tse.down = None
    shop.send(0x02, "Z")
    wait_until(lambda: not threads())
    fail(shop)
    shop.reopen()
    assert len(threads()) == 1  # it was in failed mode when the host started
    shop.close()
    assert threads() == []


def test_listeners_hear_of_every_change(tmp_path: Path) -> None:
    shop = opened(tmp_path, 0.01)
    heard = Heard()

    def broken(event: Event) -> None:
        raise RuntimeError("a listener's own trouble")

    shop.middleware.on_event(broken)
    shop.middleware.on_event(heard)
    fail(shop)
    assert heard.wait_for("failed_mode_entered").text == DOWN.message
    heard.wait_for("tse_unreachable")
    shop.tse.down = None
    heard.wait_for("tse_reachable")
    assert shop.row.SSCDFailCount == 1
    shop.send(0x02, "Z")
    heard.wait_for("failed_mode_left")
    assert heard.kinds() == ["failed_mode_entered", "tse_unreachable", "tse_reachable", "failed_mode_left"]
    shop.close()


def test_a_listener_that_hangs_holds_up_no_receipt(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    go_on = threading.Event()
    shop.middleware.on_event(lambda _: (go_on.wait(WAIT_S), None)[1])
    fail(shop)
    shop.tse.down = None
    assert shop.send(0x02, "Z")["ftState"] == DE
    assert shop.sale("S")["ftState"] == DE
    assert len(threads()) == 1
    go_on.set()
    shop.close()
    assert threads() == []


def test_events_that_were_not_told_yet_are_told_before_the_end(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    heard = Heard()
    shop.middleware.on_event(heard)
    fail(shop)
    shop.close()
    assert heard.kinds() == ["failed_mode_entered"]


# ---- recovery by itself -----------------------------------------------------------------------------


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A shop that recovers when it is idle, which it is at once."""
    monkeypatch.setattr(middlewares, "IDLE_S", 0.0)
    shop = opened(tmp_path, recover_when_idle=True, recovery_budget_s=0)
    yield shop
    shop.close()


def own_zeros(shop: Shop) -> list[dict[str, Any]]:
    return [
        item for item in shop.journal(3) if (item["cbReceiptReference"] or "").startswith(RECOVERY_REFERENCE)
    ]


def check(shop: Shop) -> None:
    report = verify_journal(shop.middleware.store, shop.row)
    assert report.ok, report.problems


def test_an_idle_queue_recovers_with_receipts_of_its_own_until_nothing_is_left(idle: Shop) -> None:
    for reference in ("A", "B"):
        idle.send(0x08, reference)
    idle.tse.down = DOWN
    for reference in ("A", "B"):
        idle.sale(reference, flow="explicit")
    idle.middleware.look_after()
    assert own_zeros(idle) == []
    idle.tse.down = None
    idle.middleware.look_after()
    assert idle.row.SSCDFailCount == 0
    zeros = own_zeros(idle)
    assert len({item["cbReceiptReference"] for item in zeros}) == len(zeros) == 2
    assert idle.open_on_tse() == []
    assert idle.sale("S")["ftState"] == DE
    check(idle)


def test_nothing_recovers_by_itself_unless_it_is_told_to(
    quiet: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middlewares, "IDLE_S", 0.0)
    fail(quiet)
    quiet.tse.down = None
    quiet.middleware.look_after()
    assert quiet.send(0x07, "D")["ftState"] == DE + 2
    assert own_zeros(quiet) == []


def test_a_queue_that_sells_is_left_alone(idle: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(idle)
    idle.tse.down = None
    queue = idle.middleware.queue()
    place = queue.line.join()
    assert queue.recover(when_idle=True) is None
    queue.line.leave(place)
    monkeypatch.setattr(middlewares, "IDLE_S", 3600.0)
    idle.middleware.look_after()
    assert own_zeros(idle) == []


def test_after_a_failure_it_waits_before_it_tries_again(idle: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    idle.config.probe_interval_s = 30
    fail(idle)
    idle.tse.down = None
    for _ in range(5):
        idle.tse.fail_before("start_transaction", OutcomeUnknown("NO_RESPONSE", "lost"))
    idle.middleware.look_after()
    idle.middleware.look_after()
    assert len(own_zeros(idle)) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    idle.middleware.look_after()
    idle.middleware.look_after()
    assert len(own_zeros(idle)) == 2
    assert idle.row.SSCDFailCount == 3


@pytest.mark.parametrize("case", [0x05, 0x06, 0x07, 0x19])
def test_before_a_closing_failed_mode_is_left_with_a_receipt_of_its_own(tmp_path: Path, case: int) -> None:
    shop = opened(tmp_path, recover_before_closing=True)
    fail(shop)
    shop.tse.down = None
    assert shop.sale("S")["ftState"] == DE + 2
    answer = shop.send(case, "C")
    assert answer["ftState"] == DE
    (zero,) = own_zeros(shop)
    assert zero["ftQueueRow"] == answer["ftQueueRow"] - 1
    check(shop)
    shop.close()


def test_before_a_closing_a_tse_that_does_not_answer_is_asked_one_question(tmp_path: Path) -> None:
    shop = opened(tmp_path, recover_before_closing=True)
    fail(shop)
    shop.tse.calls.clear()
    assert shop.send(0x07, "D")["ftState"] == DE + 2
    assert shop.tse.calls == ["get_tse_info_if_idle"]
    assert own_zeros(shop) == []
    assert shop.row.DailyClosingNumber == 1
    shop.close()


def test_a_closing_is_closed_even_if_the_recovery_before_it_fails(tmp_path: Path) -> None:
    shop = opened(tmp_path, recover_before_closing=True)
    fail(shop)
    shop.tse.down = None
    shop.tse.fail_before("start_transaction", DOWN)
    assert shop.send(0x07, "D")["ftState"] == DE + 2
    assert len(own_zeros(shop)) == 1
    assert shop.row.SSCDFailCount == 3
    assert shop.row.DailyClosingNumber == 1
    late = shop.send(0x07 | 0x1_0000, "L")
    assert late["ftState"] == DE + 8
    assert len(own_zeros(shop)) == 1
    check(shop)
    shop.close()


def test_recovery_by_hand(quiet: Shop) -> None:
    fail(quiet)
    quiet.tse.down = None
    answer = quiet.middleware.recover()
    assert answer.ft_state == DE
    assert (answer.cb_receipt_reference or "").startswith(RECOVERY_REFERENCE)
    quiet.send(0x19, "M")
    with pytest.raises(ReceiptRejected, match="in migration mode"):
        quiet.middleware.recover()


def test_the_reason_of_failed_mode_survives_a_restart(quiet: Shop) -> None:
    fail(quiet)
    assert quiet.middleware.status()["queues"][0]["SSCDFailReason"] == DOWN.message
    quiet.reopen()
    assert quiet.middleware.status()["queues"][0]["SSCDFailReason"] == DOWN.message
    quiet.send(0x02, "Z")
    assert quiet.middleware.status()["queues"][0]["SSCDFailReason"] is None


def test_a_tse_outside_this_process_is_asked_again_before_failed_mode(tmp_path: Path) -> None:
    shop = opened(tmp_path, scu_retry_delay_ms=0)
    shop.tse.be_outside()
    before = shop.tse.scu.get_tse_info().current_number_of_signatures
    for error in (DOWN, OutcomeUnknown("NO_RESPONSE", "lost")):
        shop.tse.fail_before("start_transaction", error)
    shop.tse.fail_after("finish_transaction", OutcomeUnknown("NO_RESPONSE", "lost"))
    assert shop.sale("S")["ftState"] == DE
    assert shop.tse.scu.get_tse_info().current_number_of_signatures == before + 2
    check(shop)
    shop.close()
