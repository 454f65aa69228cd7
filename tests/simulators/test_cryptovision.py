"""The simulated Cryptovision TSE: its commands in the order of their checks, and its forms with foreign clients."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import (
    FinishTransactionRequest,
    RegisterClientIdRequest,
    StartTransactionRequest,
    TseState,
    TseStates,
)
from fiskal.scu.drivers import cryptovision as family
from fiskal.scu.drivers.cryptovision import Options
from fiskal.scu.errors import Misconfigured, OutcomeUnknown, ScuError, Unreachable
from fiskal.simulators import fuse
from fiskal.simulators.cryptovision import Mailbox, Quirks, Settings, mount, open_device, watch, wire
from fiskal.simulators.plan import Fault, Plan
from fiskal.tse.logmessage import parse
from tests.support.cryptovision import FAST, SECRETS

needs_fuse = pytest.mark.skipif(fuse.why_not() is not None, reason=str(fuse.why_not()))
MAGIC = b"AdVancED SeCuRe SD/MMC CArd\x01"


class Moment:
    """A clock that counts when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def write_command(device: Mailbox, data: bytes, mode: int = 0, token: bytes = b"\xde\xad\xbe\xef") -> None:
    block = MAGIC + token + struct.pack(">HH", len(data), mode) + data
    device.write("TSE-IO.bin", 0, block.ljust(-(-len(block) // 512) * 512, b"\0"))


def answer_of(device: Mailbox) -> bytes:
    block = device.read("TSE-IO.bin", 0, 8192)
    assert len(block) == 8192
    assert block.startswith(MAGIC)
    length = int.from_bytes(block[32:34])
    assert length <= 8158, "no answer yet"
    return block[34 : 34 + length]


def raw(device: Mailbox, code: int, *parameters: bytes) -> bytes:
    """Send a command that was put together by hand; return the data of the answer."""
    body = b"".join(parameters)
    write_command(device, struct.pack(">HHH", 0x5C54, code, len(body)) + body)
    return answer_of(device)


def ba(value: bytes) -> bytes:
    return struct.pack(">BH", 2, len(value)) + value


def text(value: str) -> bytes:
    return struct.pack(">BH", 4, len(value)) + value.encode()


def short(value: int) -> bytes:
    return struct.pack(">BHH", 3, 2, value)


def code_of(answer: bytes) -> str:
    assert len(answer) == 2
    return answer.hex()


@pytest.fixture
def moment() -> Moment:
    return Moment()


@pytest.fixture
def device(tmp_path: Path, moment: Moment) -> Iterator[Mailbox]:
    device = open_device(tmp_path / "device", Settings(plan=FAST, generation=1), monotonic=moment)
    write_command(device, b"\0\0", wire.SUSPEND_OFF)
    assert answer_of(device) == b""
    yield device
    device.close()


@pytest.fixture
def active(device: Mailbox) -> Mailbox:
    """Initialised, with the time set and a client, Admin logged in."""
    raw(device, 0x00)
    pins = (b"puk-admin1", b"pinadmin", b"puk-timea1", b"pintimea")
    assert raw(device, 0x02, *map(ba, pins)) == b"\0\0"
    assert raw(device, 0x03, text("Admin"), ba(b"pinadmin"))[2:].hex() == "010001000300020003"
    assert raw(device, 0x06) == b"\0\0"
    assert raw(device, 0x07, ba((1_900_000_000).to_bytes(4))) == b"\0\0"
    assert raw(device, 0x09, text("POS-1"), ba(device.core.tse.chain.serial)) == b"\0\0"
    return device


def start_transaction(device: Mailbox, client: str = "POS-1") -> bytes:
    return raw(device, 0x0A, text(client), ba(b""), text(""), ba(b""))


def test_the_order_of_the_checks(device: Mailbox) -> None:
    assert code_of(start_transaction(device)) == "801d"
    assert raw(device, 0x00)[2:].startswith(text("240346 Mar 30 2020 21:47:01") + b"\x02\0\x10")
    assert code_of(start_transaction(device)) == "8009"
    assert code_of(raw(device, 0x06)) == "8008"
    assert raw(device, 0x01)[2:] == ba(b"\1\1\1\1")
    pins = (b"puk-admin1", b"pinadmin", b"puk-timea1", b"pintimea")
    assert raw(device, 0x02, *map(ba, pins)) == b"\0\0"
    assert raw(device, 0x01)[2:] == ba(b"\0\0\0\0")
    assert code_of(raw(device, 0x02, *map(ba, pins))) == "8000"
    raw(device, 0x03, text("TimeAdmin"), ba(b"pintimea"))
    assert code_of(raw(device, 0x06)) == "8007"
    raw(device, 0x03, text("Admin"), ba(b"pinadmin"))
    assert raw(device, 0x06) == b"\0\0"
    assert code_of(raw(device, 0x06)) == "8000"
    assert raw(device, 0x12, short(4))[2:] == ba(b"\2")
    assert code_of(start_transaction(device)) == "8011"
    raw(device, 0x07, ba((1_900_000_000).to_bytes(4)))
    assert raw(device, 0x12, short(4))[2:] == ba(b"\3")
    assert code_of(start_transaction(device)) == "8012"
    assert raw(device, 0x13) == b"\0\0"
    assert code_of(start_transaction(device)) == "801b"
    assert raw(device, 0x14) == b"\0\0"
    assert code_of(raw(device, 0x14)) == "8014"
    assert raw(device, 0x15) == b"\0\0"
    assert code_of(start_transaction(device)) == "8006"
    assert raw(device, 0x12, short(4))[2:] == ba(b"\5")


@pytest.mark.parametrize(
    "data",
    [
        b"\x5c\x55\0\0\0\0",
        b"\x5c\x54\0\0\0\1",
        b"\x5c\x54\0\0",
        b"\x5c\x54\0\x2a\0\0",
        b"\x5c\x54\0\x63\0\0",
        b"\x5c\x54\0\x11\0\5\3\0\2\0\x63",
        b"\x5c\x54\0\x11\0\4\2\0\1\1",
        b"\x5c\x54\0\x11\0\5\3\0\7\0\1",
        b"\x5c\x54\0\x03\0\x0f\4\0\5Admin\2\0\4abcd",
        b"\x5c\x54\0\x0f\0\3\2\0\0",
    ],
)
def test_malformed_commands(active: Mailbox, data: bytes) -> None:
    write_command(active, data)
    assert code_of(answer_of(active)) == "8001"


def test_transactions_and_refusals(active: Mailbox) -> None:
    answer = start_transaction(active)
    assert len(answer) == 0x7D
    assert answer[2:9] == ba(b"\0\0\0\1")
    serial = active.core.tse.chain.serial
    assert code_of(raw(active, 0x0B, ba(b"\2"), text("POS-1"), ba(b""), text(""))) == "800e"
    assert code_of(raw(active, 0x0C, ba(b"\1"), text("POS-2"), ba(b""), text(""), ba(b""))) == "8012"
    assert len(raw(active, 0x0B, ba(b"\1"), text("POS-1"), ba(b"x"), text("T"))) == 0x76
    assert raw(active, 0x12, short(2))[2:] == struct.pack(">BHI", 5, 4, 1)
    assert code_of(raw(active, 0x09, text("POS-1"), ba(serial))) == "8000"
    assert code_of(raw(active, 0x09, text("POS-3"), ba(bytes(32)))) == "8013"
    assert code_of(raw(active, 0x09, text("POS-3"), ba(b""))) == "8012"
    assert len(raw(active, 0x0C, ba(bytes(8)[1:] + b"\1"), text("POS-1"), ba(b""), text(""), ba(b""))) == 0x76
    message = parse(raw(active, 0x0F)[5:])
    assert (message.operation, message.transaction_number) == ("FinishTransaction", 1)
    expiry = int.from_bytes(raw(active, 0x18, short(1), ba(serial))[5:])
    assert expiry == int(active.core.tse.chain.leaf.not_valid_after_utc.timestamp()) + 1


def test_logins_end_by_themselves(active: Mailbox, moment: Moment) -> None:
    raw(active, 0x05, text("Admin"))
    assert code_of(raw(active, 0x05, text("Admin"))) == "8008"
    raw(active, 0x03, text("TimeAdmin"), ba(b"pintimea"))
    moment.now += 2.0
    assert code_of(raw(active, 0x07, ba(b"\x70\0\0\0"))) == "8008"
    raw(active, 0x03, text("Admin"), ba(b"pinadmin"))
    moment.now += 599
    assert raw(active, 0x07, ba(b"\0\x90\0\0\0")) == b"\0\0"
    moment.now += 2
    assert code_of(raw(active, 0x07, ba(b"\x70\0\0\0"))) == "8008"


def test_pins_wear_out_and_are_set_anew(active: Mailbox, tmp_path: Path) -> None:
    for left in (2, 1, 0):
        assert raw(active, 0x03, text("Admin"), ba(b"wrongpin"))[2:] == b"\1\0\1\1\3\0\2" + left.to_bytes(2)
    assert raw(active, 0x03, text("Admin"), ba(b"pinadmin"))[2:] == b"\1\0\1\2\3\0\2\0\0"
    assert raw(active, 0x03, text("Somebody"), ba(b"pinadmin"))[5:6] == b"\3"
    assert raw(active, 0x04, text("Admin"), ba(b"wrong-puk!"), ba(b"newpin!!"))[5:] == b"\1"
    assert raw(active, 0x04, text("Admin"), ba(b"puk-admin1"), ba(b"pinadmin"))[5:] == b"\4"
    assert raw(active, 0x04, text("Admin"), ba(b"puk-admin1"), ba(b"newpin!!"))[5:] == b"\0"
    assert raw(active, 0x03, text("Admin"), ba(b"newpin!!"))[5:6] == b"\0"


def test_exports_come_in_frames(active: Mailbox) -> None:
    for _ in range(12):
        start_transaction(active)
    parts = (
        text(""),
        ba(b"\xff" * 4),
        ba(bytes(4)),
        ba(b"\0" + b"\xff" * 4),
        ba(b""),
        ba(b""),
        ba(b"\xff" * 4),
    )
    first = raw(active, 0x0D, *parts)
    total = int.from_bytes(first[2:10])
    assert first[:2] == b"\x90\0"
    assert len(first) == 8158
    assert total % 512 == 0
    received = len(first) - 10
    assert code_of(raw(active, 0x12, short(4))) == "801c"
    while received < total:
        write_command(active, b"\xc5")
        frame = answer_of(active)
        received += len(frame)
        assert len(frame) == 8158 or received == total
    assert received == total
    write_command(active, b"\xc5")
    assert code_of(answer_of(active)) == "801c"
    raw(active, 0x0D, *parts)
    write_command(active, b"\xc4")
    answer_of(active)
    assert raw(active, 0x12, short(4))[2:] == ba(b"\3")
    serial = ba(active.core.tse.chain.serial)
    assert code_of(raw(active, 0x0D, text(""), ba(b"\x63"), *parts[2:])) == "801a"
    assert code_of(raw(active, 0x0D, text("nobody"), *parts[1:])) == "8019"
    assert code_of(raw(active, 0x0D, *parts[:-1], ba(b"\5"))) == "8016"
    assert code_of(raw(active, 0x16, serial, ba(b"\x10\0"), ba(b"\x27\x10"))) == "8019"
    assert code_of(raw(active, 0x1B, serial, ba(b"\x7f\0\0\0"))) == "8017"


def test_nothing_is_erased_that_was_not_exported(active: Mailbox) -> None:
    everything = (
        text(""),
        ba(b"\xff" * 4),
        ba(bytes(4)),
        ba(b"\0" + b"\xff" * 4),
        ba(b""),
        ba(b""),
        ba(b"\xff" * 4),
    )
    start_transaction(active)
    assert code_of(raw(active, 0x10)) == "8017"
    first = raw(active, 0x0D, *everything)
    assert first[:2] == b"\0\0" or first[:2] == b"\x90\0"
    received, total = len(first) - 10, int.from_bytes(first[2:10])
    while received < total:
        write_command(active, b"\xc5")
        received += len(answer_of(active))
    before = active.core.tse.counter
    start_transaction(active)  # one entry that no export has
    assert active.core.tse.counter > before
    assert code_of(raw(active, 0x10)) == "8017"
    first = raw(active, 0x0D, *everything)
    received, total = len(first) - 10, int.from_bytes(first[2:10])
    while received < total:
        write_command(active, b"\xc5")
        received += len(answer_of(active))
    assert code_of(raw(active, 0x10)) == "8000"  # exported by now, but transactions are open


def test_suspended_and_switched_off(device: Mailbox, active: Mailbox) -> None:
    write_command(active, b"\0\0", wire.SUSPEND_ON)
    assert answer_of(active) == b""
    write_command(active, b"\x5c\x54\0\0\0\0")
    assert active.read("TSE-IO.bin", 32, 2) == b"\xff\xff"
    write_command(active, b"\0\0", wire.SUSPEND_OFF)
    assert answer_of(active) == b""
    active.unplug(0)
    write_command(active, b"\0\0", wire.SUSPEND_OFF)
    assert code_of(start_transaction(active)) == "801d"
    raw(active, 0x00)
    assert code_of(start_transaction(active)) == "8011"


def test_times_and_blocks(tmp_path: Path, moment: Moment) -> None:
    plan = Plan(service_time={"start": 100})
    device = open_device(
        tmp_path, Settings(plan=plan, take_delay_ms=10, quirks=Quirks(random_token=True)), monotonic=moment
    )
    assert device.read("TSE-IO.bin", 0, 28) == bytes(28)
    write_command(device, b"\0\0", wire.SUSPEND_OFF)
    moment.now += 1
    write_command(device, b"\x5c\x54\0\0\0\0", token=b"\xde\xad\xbe\xaf")
    assert device.read("TSE-IO.bin", 28, 4) == b"\xde\xad\xbe\xaf"
    moment.now += 0.011
    assert device.read("TSE-IO.bin", 28, 6) == bytes(4) + b"\xff\xff"
    moment.now += 0.1
    block = device.read("TSE-IO.bin", 0, 8192)
    assert block[28] == 0
    assert block[28:32] != bytes(4)
    assert device.read("TSE-IO.bin", 0, 512) == block[:512]
    device.write("TSE-IO.bin", 0, bytes(8192))
    assert device.read("TSE-IO.bin", 0, 8192) == bytes(8192)
    with pytest.raises(OSError, match="File too large"):
        device.write("TSE-IO.bin", 0, bytes(8193))
    with pytest.raises(PermissionError):
        device.write("else", 0, b"x")
    device.close()


def test_a_device_belongs_to_one_process_and_outlives_it(tmp_path: Path) -> None:
    device = open_device(tmp_path, Settings(plan=FAST))
    unique = device.core.state.unique_id
    with pytest.raises(Misconfigured):
        open_device(tmp_path)
    device.close()
    device = open_device(tmp_path, Settings(plan=FAST, generation=1))
    assert (device.core.state.unique_id, device.core.state.generation) == (unique, 2)
    device.close()
    (tmp_path / "device.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"device\.json"):
        open_device(tmp_path)


def test_plans_know_their_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'busy_forever'"):
        open_device(tmp_path, Settings(plan=Plan(faults=[Fault(kind="busy_for_ever")])))
    with pytest.raises(ConfigurationError, match="no command 'finish'"):
        open_device(tmp_path, Settings(plan=Plan(service_time={"finish": 1})))


# ---- forms --------------------------------------------------------------------------------------


def options(volume: Path, tmp_path: Path, **more: Any) -> Options:
    locks = tmp_path / "locks"
    locks.mkdir(exist_ok=True)
    return Options(
        path=str(volume), lock_folder=str(locks), background_time_sync=False, **{**SECRETS, **more}
    )


def sell(scu: Any, count: int) -> list[int]:
    numbers = []
    for _ in range(count):
        item = str(uuid.uuid4())
        started = scu.start_transaction(StartTransactionRequest(client_id="POS-1", queue_item_id=item))
        scu.finish_transaction(
            FinishTransactionRequest(
                client_id="POS-1", transaction_number=started.transaction_number, queue_item_id=item
            )
        )
        numbers.append(started.transaction_number)
    return numbers


def prepare(scu: Any) -> None:
    scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))


def test_the_folder_form(tmp_path: Path) -> None:
    volume = tmp_path / "a stick"
    volume.mkdir()
    device, watcher = watch(tmp_path / "device", volume, Settings(plan=FAST))
    scu = family.open(tmp_path / "scu", options(volume, tmp_path, direct_io="auto"))
    try:
        prepare(scu)
        assert sell(scu, 10) == list(range(1, 11))
        with pytest.raises(Misconfigured) as caught:
            family.open(tmp_path / "scu2", options(volume, tmp_path, direct_io="auto"))
        assert caught.value.code == "DEVICE_IN_USE"
    finally:
        scu.close()
        watcher.close()
        device.close()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    volume = tmp_path / "völume 1"
    volume.mkdir()
    return volume


@needs_fuse
def test_the_mounted_form(tmp_path: Path, volume: Path) -> None:
    with mount(tmp_path / "device", volume, Settings(plan=FAST)):
        scu = family.open(tmp_path / "scu", options(volume, tmp_path, keep_alive_s=0.05))
        try:
            prepare(scu)
            assert sell(scu, 20) == list(range(1, 21))
            time.sleep(0.2)
            scu.execute_self_test()
            assert sell(scu, 1) == [21]
        finally:
            scu.close()
        assert {path.name for path in volume.iterdir()} == {"TSE-IO.bin", "TSE-GUARD.bin"}


@needs_fuse
def test_the_device_dies_and_comes_back(tmp_path: Path, volume: Path) -> None:
    mounted = mount(tmp_path / "device", volume, Settings(plan=FAST))
    scu = family.open(tmp_path / "scu", options(volume, tmp_path))
    try:
        prepare(scu)
        sell(scu, 2)
        mounted.kill()
        with pytest.raises((Unreachable, OutcomeUnknown)):
            sell(scu, 1)
        mounted = mount(tmp_path / "device", volume, Settings(plan=FAST))
        assert sell(scu, 1) == [3]
    finally:
        scu.close()
        mounted.close()


TILL = """
import sys, uuid
from pathlib import Path
from fiskal.scu.contract import FinishTransactionRequest, StartTransactionRequest
from fiskal.scu.drivers import cryptovision as family
import msgspec

folder, number = Path(sys.argv[1]), int(sys.argv[2])
scu = family.open(folder / "scu", msgspec.json.decode(sys.argv[3], type=family.Options))
while True:
    item = str(uuid.UUID(int=number))
    retry = number == int(sys.argv[2])
    started = scu.start_transaction(
        StartTransactionRequest(client_id="POS-1", queue_item_id=item, is_retry=retry)
    )
    print("start", number, started.transaction_number, flush=True)
    scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=started.transaction_number,
                                 queue_item_id=item, is_retry=retry)
    )
    print("finish", number, started.transaction_number, flush=True)
    number += 1
"""


@needs_fuse
def test_a_till_that_is_killed_loses_and_doubles_nothing(tmp_path: Path, volume: Path) -> None:
    """SIGKILL at any moment; the next process goes on with the receipt that was not finished."""
    plan = Plan(scale=0, service_time={"start_transaction": 4, "finish_transaction": 4})
    settings = options(volume, tmp_path)
    encoded = (
        "{"
        + ",".join(f'"{name}":"{getattr(settings, name)}"' for name in ("path", "lock_folder", *SECRETS))
        + "}"
    )
    journal: dict[tuple[str, int], int] = {}
    with mount(tmp_path / "device", volume, Settings(plan=plan)):
        scu = family.open(tmp_path / "scu", settings)
        prepare(scu)
        scu.close()
        number = 1
        for round_ in range(6):
            till = subprocess.Popen(
                [sys.executable, "-c", TILL, str(tmp_path), str(number), encoded],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert till.stdout is not None
            first = till.stdout.readline()
            time.sleep(0.04 + 0.013 * round_)
            os.kill(till.pid, signal.SIGKILL)
            rest = till.stdout.read()
            till.wait()
            till.stdout.close()
            for line in (first + rest).splitlines():
                what, receipt, transaction = line.decode().split()
                assert journal.setdefault((what, int(receipt)), int(transaction)) == int(transaction)
            number = max(receipt for _, receipt in journal)
            if ("finish", number) in journal:
                number += 1
        scu = family.open(tmp_path / "scu", settings)
        info = scu.get_tse_info()
        scu.close()
    device = open_device(tmp_path / "device", settings=Settings(plan=FAST))
    log = [parse(message) for _, message in device.core.tse.messages()]
    starts = [m.transaction_number for m in log if m.operation == "StartTransaction"]
    finishes = [m.transaction_number for m in log if m.operation == "FinishTransaction"]
    device.close()
    assert len(journal) > 20
    assert set(starts) - {n for (what, _), n in journal.items() if what == "start"} <= {max(starts)}
    assert set(finishes) - {n for (what, _), n in journal.items() if what == "finish"} <= {max(starts)}
    assert len(set(finishes)) == len(finishes)
    assert info.current_number_of_started_transactions <= 1


# ---- a foreign client ---------------------------------------------------------------------------


class BdrClient:
    """What python-bdr-tse does with the file, written after the client profile of the reference: blocks of 8192 bytes,
    one descriptor, no patience with its own token, with empty blocks or with fragments."""

    def __init__(self, path: Path) -> None:
        import mmap

        self._fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, 8192)
        assert self.call(b"\0\0", 0x5344) == b""

    def call(self, data: bytes, mode: int = 0) -> bytes:
        block = MAGIC + b"\xde\xad\xbe\xef" + struct.pack(">HH", len(data), mode) + data
        self._buffer[:] = block.ljust(8192, b"\0")
        assert os.pwritev(self._fd, [self._buffer], 0) == 8192
        until = time.monotonic() + 10
        while time.monotonic() < until:
            assert os.preadv(self._fd, [self._buffer], 0) == 8192
            answer = self._buffer[:]
            assert answer[:28] == MAGIC, "no magic"
            assert answer[28:32] != b"\xde\xad\xbe\xef", "own token"
            if answer[32:34] != b"\xff\xff":
                length = int.from_bytes(answer[32:34])
                return answer[34 : 34 + length]
            time.sleep(0.05)
        raise AssertionError("no answer within 10 s")

    def close(self) -> None:
        assert self.call(b"\0\0", 0x5345) == b""
        os.close(self._fd)


@needs_fuse
def test_a_client_without_patience(tmp_path: Path, volume: Path) -> None:
    settings = Settings(
        plan=Plan(service_time={"start": 120}, scale=0), profile="python-bdr-tse", generation=1
    )
    with mount(tmp_path / "device", volume, settings):
        for _ in range(2):
            client = BdrClient(volume / "TSE-IO.bin")
            assert client.call(bytes.fromhex("5c5400000000"))[2:5] == b"\x04\0\x1b"
            assert client.call(bytes.fromhex("5c5400010000"))[2:].startswith(b"\x02\0\4")
            client.close()
        with (volume / "TSE-IO.bin").open("r+b", buffering=0) as file:
            file.write(bytes(8192))
            file.seek(0)
            assert file.read(28) == MAGIC


def test_a_wrong_option_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScuError) as caught:
        family.open(tmp_path / "scu", options(tmp_path / "nowhere", tmp_path)).get_tse_info()
    assert "plugged in" in str(caught.value)
