"""A TSE that signs wrongly, seen from the host: the key of fiskal.json, the answer, the journal, the listeners."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.errors import ConfigurationError
from fiskal.export.verify import verify_journal
from fiskal.host import config as configs
from fiskal.host import drivers as host
from fiskal.host.events import Event
from fiskal.host.middleware import Middleware
from fiskal.queue.work import MISMATCH_TYPE
from fiskal.scu.contract import Deadline, Mismatch, Scu
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Call, Remembered, Signed
from fiskal.scu.software import SoftwareTse
from tests.support.shop import DE, Shop

Lie = Callable[[Signed], Signed]


class LyingTse(SoftwareTse):
    """A device whose answers, and what it remembers of them, are what ``lie`` makes of them."""

    key_in_process = False
    lie: Lie | None = None
    operation = "finish"

    def _say(self, signed: Signed, operation: str) -> Signed:
        return signed if self.lie is None or operation != self.operation else self.lie(signed)

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._say(super().start(call, deadline), "start")

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._say(super().finish(call, deadline), "finish")

    def recall(self, call: Call) -> Remembered | None:
        found = super().recall(call)
        return None if found is None else Remembered(found.request_sha256, self._say(found.signed, call.op))


def wrong_signature(signed: Signed) -> Signed:
    return msgspec.structs.replace(signed, signature=bytes([signed.signature[0] ^ 1]) + signed.signature[1:])


def wrong_counter(signed: Signed) -> Signed:
    return msgspec.structs.replace(signed, signature_counter=signed.signature_counter + 7)


class LyingShop(Shop):
    """A shop on a lying TSE that ``fiskal.json`` names as the driver ``lying``."""

    def __init__(self, folder: Path, mode: str | None) -> None:
        self.mode = mode
        self.events: list[Event] = []
        super().__init__(folder, prepare=self._configure, start=True)

    def _configure(self, config: configs.HostConfig) -> None:
        config.scus[0].driver = "lying"
        if self.mode is not None:
            config.scus[0].signature_check = self.mode  # type: ignore[assignment]
        config.probe_interval_s = 0

    def open(self, disturb: Any = None) -> None:
        self.config = configs.load(self.folder)
        self.scu_id = self.config.scus[0].id
        self.tses = {}
        self.middleware = Middleware(self.config, self.folder, clock=self.clock, sleep=lambda _: None)
        self.middleware.on_event(self.events.append)
        self.queue_id = self.config.queues[0].id

    def wait_for(self, kind: str, count: int = 1) -> list[Event]:
        for _ in range(500):
            found = [event for event in self.events if event.kind == kind]
            if len(found) >= count:
                return found
            time.sleep(0.01)
        raise AssertionError(f"only {self.events}")


@pytest.fixture
def lying(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str | None], tuple[Any, Any]]]:
    opened: list[LyingTse] = []
    shops: list[Shop] = []

    def open_lying(folder: Path, options: dict[str, Any], clock: Any) -> Scu:
        tse = LyingTse(folder, clock=clock)
        opened.append(tse)
        return ScuCore(tse, clock=clock)

    monkeypatch.setitem(host.DRIVERS, "lying", open_lying)

    def make(mode: str | None) -> tuple[LyingShop, LyingTse]:
        shop = LyingShop(tmp_path / "shop", mode)
        shops.append(shop)
        return shop, opened[-1]

    yield make
    for shop in shops:
        shop.close()


def evidence(shop: LyingShop) -> list[Mismatch]:
    return [msgspec.json.decode(row.DataJson, type=Mismatch) for row in shop.actions_of(MISMATCH_TYPE)]


@pytest.mark.parametrize("mode", [None, "failed_mode"], ids=["by default", "as configured"])
@pytest.mark.parametrize("lie", [wrong_signature, wrong_counter])
def test_failed_mode(lying: Any, mode: str | None, lie: Lie) -> None:
    shop, tse = lying(mode)
    tse.lie = lie
    answer = shop.sale("S-1")
    assert answer["ftState"] == DE | 0x2
    assert not any("V0;" in item["Data"] for item in answer["ftSignatures"])
    (told,) = shop.wait_for("failed_mode_entered")
    assert "does not verify" in told.text
    (alarm,) = shop.wait_for("signature_mismatch")
    assert alarm.queue_id == shop.queue_id
    (found,) = evidence(shop)
    assert (found.operation, found.client_id) == ("finish", "POS-1")
    assert found.queue_item_id == answer["ftQueueItemID"]
    assert shop.middleware.status()["queues"][0]["SSCDFailReason"] == found.text == alarm.text

    assert shop.send(0x2, "Z-1")["ftState"] & 0x2  # it still lies: a zero receipt does not help
    tse.lie = None
    assert shop.send(0x2, "Z-2")["ftState"] == DE
    assert shop.sale("S-2")["ftState"] == DE
    assert shop.open_references() == []


def test_a_start_that_does_not_verify_is_closed_later(lying: Any) -> None:
    shop, tse = lying(None)
    tse.lie, tse.operation = wrong_signature, "start"
    assert shop.sale("S-1")["ftState"] == DE | 0x2
    tse.lie = None
    assert shop.send(0x2, "Z")["ftState"] == DE
    assert tse.info(None).current_started_transaction_numbers == []


@pytest.mark.parametrize("lie", [wrong_signature, wrong_counter])
def test_alarm(lying: Any, lie: Lie) -> None:
    shop, tse = lying("alarm")
    tse.lie = lie
    answer = shop.sale("S-1")
    assert answer["ftState"] == DE
    assert any("V0;" in item["Data"] for item in answer["ftSignatures"])
    (alarm,) = shop.wait_for("signature_mismatch")
    assert "does not verify" in alarm.text
    (found,) = evidence(shop)
    assert found.text == alarm.text
    assert found.queue_item_id == answer["ftQueueItemID"]
    assert found.log_time.endswith("Z")
    tse.lie = None
    assert shop.sale("S-2")["ftState"] == DE
    assert len(evidence(shop)) == 1
    # whoever reads the journal later finds the same
    report = verify_journal(shop.middleware.store, shop.row)
    assert not report.ok


def test_off(lying: Any) -> None:
    shop, tse = lying("off")
    tse.lie = wrong_signature
    assert shop.sale("S-1")["ftState"] == DE
    assert evidence(shop) == []
    assert [event.kind for event in shop.events] == []


def test_a_garbled_answer_that_is_right_when_asked_again(lying: Any) -> None:
    """What a bad line did to one answer is healed by the repetition: nobody has to know."""
    shop, tse = lying(None)
    answers = iter([wrong_signature])

    def once(signed: Signed) -> Signed:
        lie = next(answers, None)
        return signed if lie is None else lie(signed)

    tse.lie = once
    assert shop.sale("S-1")["ftState"] == DE
    assert verify_journal(shop.middleware.store, shop.row).ok


def test_the_key_in_the_file(lying: Any, tmp_path: Path) -> None:
    shop, _ = lying("alarm")
    shop.close()
    path = shop.folder / configs.FILE_NAME
    text = json.loads(path.read_text())
    scu = text["scus"][0]
    del scu["signature_check"]
    path.write_text(json.dumps({**text, "scus": [{**scu, "SignatureCheck": "off"}]}))
    assert configs.load(shop.folder).scus[0].signature_check == "off"
    path.write_text(json.dumps({**text, "scus": [{**scu, "signature_check": "sometimes"}]}))
    with pytest.raises(ConfigurationError, match="signature_check"):
        configs.load(shop.folder)
    path.write_text(json.dumps({**text, "scus": [{**scu, "signature_check": "off"}]}))


def test_a_driver_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Distant:
        closed = False

        def close(self) -> None:
            self.closed = True

    distant = Distant()
    monkeypatch.setitem(host.DRIVERS, "distant", lambda *_: distant)
    scu = configs.ScuConfig(
        id="c6a3a0b2-4f43-4c1c-9a55-2a3a1c6d1a10", driver="distant", signature_check="alarm"
    )
    with pytest.raises(ConfigurationError, match="signature_check"):
        host.open_scu(scu, tmp_path)
    assert distant.closed
