"""A simulated Cryptovision TSE and the driver in front of it, in one process."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fiskal.clock import Clock, now
from fiskal.scu.callstore import SqliteCallStore
from fiskal.scu.contract import (
    EndExportSessionRequest,
    ExportDataRequest,
    RegisterClientIdRequest,
    StartExportSessionRequest,
    TseState,
    TseStates,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers.cryptovision import CryptovisionTse, Options, open_area
from fiskal.scu.exports import ExportSettings
from fiskal.simulators.cryptovision import Area, Mailbox, Settings, open_device
from fiskal.simulators.plan import Fault, Plan
from fiskal.tse.logmessage import LogMessage, parse
from fiskal.tse.tar import read_members

SECRETS: dict[str, Any] = {
    "admin_pin": "adminpin",
    "admin_puk": "admin-puk!",
    "time_admin_pin": "time-pin",
    "time_admin_puk": "time-puk!!",
}
FAST = Plan(scale=0)


class Rig:
    """``device`` is the simulated device, ``scu`` the SCU over it; either can be closed and opened again."""

    def __init__(
        self,
        folder: Path,
        clock: Clock = now,
        settings: Settings | None = None,
        *,
        before: Callable[[str], None] = lambda what: None,
        patience: float = 0.1,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.settings = settings or Settings(plan=FAST)
        self.options = Options(
            **{
                **SECRETS,
                "background_time_sync": False,
                "io_timeout_ms": 1000,
                "empty_answer_wait_ms": 20,
                **options,
            }
        )
        self._before = before
        self._patience = patience
        self.device: Mailbox = open_device(folder / "device", self.settings, clock=clock)
        self.scu = self.open()

    @property
    def driver(self) -> CryptovisionTse:
        driver = self.scu._driver
        assert isinstance(driver, CryptovisionTse)
        return driver

    def open(self, **options: Any) -> ScuCore:
        """Open the SCU, with other options if some are given."""
        if options:
            self.options = msgspec.structs.replace(self.options, **options)
        home = self.folder / "scu"
        home.mkdir(exist_ok=True)
        area = Area(self.device, before=self._before)
        driver = open_area(area, home, self.options, self.clock, patience=self._patience)
        self.scu = ScuCore(
            driver,
            calls=SqliteCallStore(home / "calls.sqlite"),
            clock=self.clock,
            exports=ExportSettings(folder=home / "exports"),
        )
        return self.scu

    def reopen(self, **options: Any) -> ScuCore:
        """End the SCU as a dead process does, without a word to the device, and open it again."""
        self.driver._session.up = False
        self.scu.close()
        return self.open(**options)

    def restart_device(self, settings: Settings | None = None) -> None:
        """Switch the device off and on; it has lost what was only in its memory."""
        self.device.close()
        self.settings = settings or self.settings
        self.device = open_device(self.folder / "device", self.settings, clock=self.clock)

    def initialize(self, *clients: str) -> None:
        self.scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
        for client in clients or ("POS-1", "POS-2"):
            self.scu.register_client_id(RegisterClientIdRequest(client_id=client))

    def inject(self, kind: str, command: str, **more: Any) -> None:
        self.device.conductor.inject(Fault(kind=kind, command=command, **more))

    def messages(self) -> list[LogMessage]:
        """What the device has signed."""
        return [parse(message) for _, message in self.device.core.tse.messages()]

    def transactions(self) -> list[tuple[str, int]]:
        """Operation and number of every transaction message."""
        return [
            ((message.operation or "").removesuffix("Transaction").lower(), message.transaction_number)
            for message in self.messages()
            if message.transaction_number is not None
        ]

    def export(self, *, erase: bool = False, chunk: int = 1 << 20) -> bytes:
        """Export everything through a session."""
        return fetch(self.scu, StartExportSessionRequest(erase=erase), chunk, erase=erase)[0]

    def close(self) -> None:
        self.scu.close()
        self.device.close()


def fetch(scu: ScuCore, request: StartExportSessionRequest, chunk: int, *, erase: bool) -> tuple[bytes, bool]:
    """The bytes of a session, and whether they were erased."""
    import base64
    import hashlib
    import time

    token = scu.start_export_session(request).token_id
    parts = []
    while True:
        answer = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=chunk))
        if not answer.total_tar_file_size_available:
            time.sleep(0.002)
            continue
        parts.append(base64.b64decode(answer.tar_file_byte_chunk_base64 or ""))
        if answer.tar_file_end_of_file:
            break
    data = b"".join(parts)
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    ended = scu.end_export_session(
        EndExportSessionRequest(token_id=token, sha256_checksum_base64=digest, erase=erase)
    )
    assert ended.is_valid
    return data, ended.is_erased


def names(archive: bytes) -> list[str]:
    return [member.name for member in read_members(io.BytesIO(archive))]


def counters(archive: bytes) -> list[int]:
    """The signature counters of an archive's messages, in their order."""
    return [
        parse(member.data).signature_counter
        for member in read_members(io.BytesIO(archive))
        if member.name.endswith(".log") and member.data is not None
    ]
