"""The Swissbit TSE of the campaign of hardware TSEs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from fiskal.scu.drivers.swissbit.media import FilesMedium
from fiskal.simulators import fuse
from fiskal.simulators.plan import Plan
from fiskal.simulators.swissbit import Device, Settings, volume
from fiskal.tse.logmessage import LogMessage, LogType, parse
from tests.campaigns.rig import Death, Logged
from tests.support.swissbit import CLIENT, Bench, in_process, ready_device, settings

FAULTS: Final = [
    ("busy_long", ("open", "close"), 30),
    ("fetch", ("*",), None),
    ("fetch_ignored", ("open", "close"), None),
    ("stale_counter", ("*",), 3),
    ("echo_readback", ("*",), 3),
    ("short_read", ("*",), 100),
    ("short_write", ("*",), 100),
    ("torn_block", ("*",), 64),
    ("bad_rlen", ("*",), 506),
    ("eio_read", ("*",), None),
    ("eio_before", ("open", "close"), None),
    ("eio_after", ("open", "close"), None),
    ("removed_before", ("open", "close"), 5),
    ("removed_after", ("open", "close"), 5),
    ("power_cycle", ("open", "close"), None),
    ("lost_response", ("open", "close"), None),
    ("lost_command", ("open", "close"), None),
    ("data_late", ("close",), None),
    ("selftest_expired", ("open",), None),
    ("time_unset", ("open",), None),
    ("ctss_off", ("open",), None),
    ("export_busy", ("open",), None),
]
MOMENTS: Final = [
    ("open_transaction", False),
    ("open_transaction", True),
    ("write_data", True),
    ("close_transaction", True),
]
ROOM: Final = 262_144
"""Blocks: 128 MiB, enough for 20 000 log entries."""
QUICK: Final[dict[str, Any]] = {
    "timeout_s": 0.3,
    "close_timeout_s": 0.3,
    "stale_limit_s": 0.1,
    "data_late_s": 0.2,
}


class _Rig:
    def __init__(self, bench: Bench, device: Device | None, draw: random.Random) -> None:
        self._bench = bench
        self._device = device
        self._draw = draw
        self.client = CLIENT

    @property
    def scu(self) -> Any:
        return self._bench.scu

    def strike(self) -> str:
        choice = self._draw.random()
        if choice < 0.05:
            self._bench.restart()
            return "restart"
        if choice < 0.2:
            return self._die()
        kind, commands, value = self._draw.choice(FAULTS)
        self._bench.inject(kind, self._draw.choice(commands), value=value)
        return kind

    def _die(self) -> str:
        card = self._bench.driver._card
        if card is None:
            return "nothing"
        name, after = self._draw.choice(MOMENTS)
        real = getattr(card, name)

        def dying(*arguments: Any, **more: Any) -> Any:
            if after:
                real(*arguments, **more)
            raise Death

        setattr(card, name, dying)
        return f"death {'after' if after else 'before'} {name}"

    def calm(self) -> None:
        self._bench.calm()
        card = self._bench.driver._card
        for name, _ in MOMENTS:
            if card is not None:
                vars(card).pop(name, None)

    def restart(self) -> None:
        self._bench.restart()

    def log(self) -> list[Logged]:
        assert self._device is not None
        return [
            _logged(read)
            for _, message in self._device.tse.messages()
            if (read := parse(message)).type is LogType.TRANSACTION
        ]


def _logged(message: LogMessage) -> Logged:
    return Logged(
        message.operation or "", message.transaction_number or 0, message.signature_counter, message.signature
    )


@contextmanager
def rig(folder: Path, draw: random.Random) -> Iterator[_Rig]:
    chosen = settings(capacity_blocks=ROOM, window_blocks=ROOM // 2)
    with in_process(folder, chosen, **QUICK) as bench:
        yield _Rig(bench, bench.device, draw)


# ---- mounted ------------------------------------------------------------------------------------

SLOW: Final = Plan(scale=0, service_time={"close": 8, "open": 2})


def _settings() -> Settings:
    return settings(plan=SLOW, capacity_blocks=ROOM, window_blocks=ROOM // 2)


@contextmanager
def mounted_device(folder: Path) -> Iterator[None]:
    """The device as a volume at ``folder``/mnt, in a process of its own."""
    ready_device(folder, _settings()).close()
    (folder / "mnt").mkdir()
    with fuse.Mount(volume, (str(folder / "device"), _settings()), folder / "mnt"):
        yield


class _MountedRig(_Rig):
    def log(self) -> list[Logged]:
        driver = self._bench.driver
        messages = driver._messages(0, driver._card_or_fail().info().tar_bytes)
        return [_logged(message) for message in messages if message.type is LogType.TRANSACTION]


@contextmanager
def mounted_rig(folder: Path) -> Iterator[_Rig]:
    """The driver on the volume that :func:`mounted_device` has mounted."""
    window = _settings().window_blocks
    with ExitStack() as stack:
        bench = Bench(
            folder,
            lambda: FilesMedium(folder / "mnt", window_blocks=window),
            None,
            direct_io="required",
            tail_bytes=1 << 30,
        )
        stack.callback(bench.close)
        yield _MountedRig(bench, None, random.Random(0))
