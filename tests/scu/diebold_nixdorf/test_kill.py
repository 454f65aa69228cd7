"""The driver dies between two bytes of a sale, and the next one repeats it as a retry: everything is signed once.

``python -m tests.campaigns.device_diebold_nixdorf`` is the long form, with a process that is killed.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from fiskal.scu.contract import Deadline
from tests.campaigns import device_diebold_nixdorf as campaign
from tests.campaigns.device_diebold_nixdorf import Proxy
from tests.scu.diebold_nixdorf.rig import Rig


class Dead(BaseException):
    """The process is no more. No handler of errors sees it."""


class Mortal:
    """Nothing is called any more once the proxy has let its last byte through."""

    def __init__(self, transport: Any, proxy: Proxy) -> None:
        self._transport = transport
        self._proxy = proxy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def connect(self, deadline: Deadline | None = None) -> None:
        self._live(lambda: self._transport.connect(deadline))

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        return bytes(self._live(lambda: self._transport.call(frame, deadline)))

    def _live(self, action: Any) -> Any:
        if self._proxy.reached.is_set():
            raise Dead
        try:
            return action()
        except Exception:
            if self._proxy.reached.wait(0.01):
                raise Dead from None
            raise


def sell(rig: Rig, proxy: Proxy, folder: str, receipt: int, limit: int | None, *, retry: bool) -> bool:
    """One receipt by a driver of its own; False if it died."""
    proxy.allow(None)
    scu = rig.open(folder, url=f"tcp://127.0.0.1:{proxy.port}")
    scu._driver._link.transport = Mortal(scu._driver._link.transport, proxy)
    rig._scu = scu
    data = b"Beleg^%d" % receipt
    items = [str(uuid.uuid5(campaign.SPACE, f"{op}/{receipt}")) for op in ("start", "finish")]
    scu.get_tse_info()
    proxy.allow(limit)
    try:
        number = rig.start(items[0], retry=retry).transaction_number
        rig.finish(number, data, items[1], retry=retry)
    except Dead:
        scu._driver._closed = True
        scu._driver._link.transport._transport.close()
        scu.close()
        return False
    proxy.allow(None)
    scu.close()
    return True


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_death_between_any_two_bytes(tmp_path: Path, first: int) -> None:
    rig = Rig("tcp", tmp_path)
    proxy = Proxy(rig.simulator.place)
    try:
        for receipt, limit in enumerate(range(first + 1, 1400, 113), 1):
            died = not sell(rig, proxy, "scu", receipt, limit, retry=False)
            assert died or limit > 700
            while died:
                died = not sell(rig, proxy, "scu", receipt, None, retry=True)
            assert rig.count("FinishTransaction", b"Beleg^%d" % receipt) == 1
            assert rig.count("StartTransaction") == receipt
            assert not rig.device.tse.open_transactions
    finally:
        proxy.close()
        rig.simulator.close()


def test_the_campaign_in_short() -> None:
    outcome = campaign.run(pairs=12, kills=2, seed=3, rate=0.01)
    assert outcome.pairs == 12
