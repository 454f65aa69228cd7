"""A simulated Epson TSE, the way to it, and a shop that uses it."""

from __future__ import annotations

import base64
import hashlib
import io
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.scu.contract import (
    Deadline,
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    FinishTransactionRequest,
    FinishTransactionResponse,
    RegisterClientIdRequest,
    StartExportSessionRequest,
    StartTransactionRequest,
    StartTransactionResponse,
    TseInfo,
    TseState,
    TseStates,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import epson
from fiskal.simulators.epson import Settings, Simulator
from fiskal.simulators.plan import Plan
from fiskal.tse.logmessage import LogMessage, LogType, parse
from fiskal.tse.tarverify import TarReport, verify_tar

SECRETS = {"puk": "918273", "admin_pin": "53417", "time_admin_pin": "86420", "secret": "SHOPKEY1"}


class Shop:
    """One device, and SCUs that are opened on it."""

    def __init__(self, folder: Path, *, tls: bool = False, **settings: Any) -> None:
        self.folder = folder
        self.simulator = Simulator(
            Settings(
                folder=str(folder / "device"),
                tls=tls,
                **{"port": 0, "plan": Plan(scale=0), "export_chunk_bytes": 3000, **settings},
            )
        )
        self._opened: list[ScuCore] = []

    @property
    def device(self) -> Any:
        return self.simulator.device

    @property
    def tse(self) -> Any:
        return self.simulator.device.tse

    def options(self, **options: Any) -> epson.Options:
        given: dict[str, Any] = {"port": self.simulator.port, **SECRETS, "connect_timeout_ms": 2000}
        if self.simulator.settings.tls:
            given |= {"tls": True, "ca_file": str(self.simulator.certificate_file)}
        return epson.Options(**(given | {"busy_retry_ms": 2000} | options))

    def open(self, name: str = "scu", **options: Any) -> ScuCore:
        scu = epson.open(self.folder / name, self.options(**options))
        assert isinstance(scu, ScuCore)
        self._opened.append(scu)
        return scu

    def ready(self, *clients: str, **options: Any) -> ScuCore:
        """An SCU on the device, which is initialised and has clients."""
        scu = self.open(**options)
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
        for client in clients or ("POS-1", "POS-2"):
            scu.register_client_id(RegisterClientIdRequest(client_id=client))
        return scu

    def inject(self, kind: str, command: str = "*", **members: Any) -> None:
        self.simulator.inject(kind, command, **members)

    def messages(self) -> list[LogMessage]:
        return [parse(raw) for _, raw in self.tse.messages()]

    def transactions(self) -> list[tuple[str | None, int | None, bytes | None]]:
        return [
            (message.operation, message.transaction_number, message.process_data)
            for message in self.messages()
            if message.type is LogType.TRANSACTION
        ]

    def verify(self, archive: bytes, *, filtered: bool = False) -> TarReport:
        return verify_tar(io.BytesIO(archive), self.tse.chain.certificates[-1:], filtered=filtered)

    def close(self) -> None:
        for scu in self._opened:
            scu.close()
        self.simulator.close()


class Pos:
    """One client of an SCU."""

    def __init__(self, scu: ScuCore, client_id: str = "POS-1", seconds: float = 20) -> None:
        self.scu = scu
        self.client_id = client_id
        self.seconds = seconds

    def start(self, item: str | None = None, *, retry: bool = False) -> StartTransactionResponse:
        return self.scu.start_transaction(
            StartTransactionRequest(
                client_id=self.client_id,
                queue_item_id=str(uuid.uuid4()) if item is None else item,
                is_retry=retry,
            ),
            Deadline(self.seconds),
        )

    def update(
        self, number: int, data: bytes = b"order", item: str | None = None, *, retry: bool = False
    ) -> UpdateTransactionResponse:
        return self.scu.update_transaction(
            UpdateTransactionRequest(
                client_id=self.client_id,
                transaction_number=number,
                process_type="Bestellung-V1",
                process_data_base64=base64.b64encode(data).decode(),
                queue_item_id=str(uuid.uuid4()) if item is None else item,
                is_retry=retry,
            ),
            Deadline(self.seconds),
        )

    def finish(
        self,
        number: int,
        data: bytes = b"Beleg^1.00_0.00_0.00_0.00_0.00^1.00:Bar",
        item: str | None = None,
        *,
        retry: bool = False,
        process_type: str = "Kassenbeleg-V1",
    ) -> FinishTransactionResponse:
        return self.scu.finish_transaction(
            FinishTransactionRequest(
                client_id=self.client_id,
                transaction_number=number,
                process_type=process_type,
                process_data_base64=base64.b64encode(data).decode(),
                queue_item_id=str(uuid.uuid4()) if item is None else item,
                is_retry=retry,
            ),
            Deadline(self.seconds),
        )

    def sell(self) -> FinishTransactionResponse:
        return self.finish(self.start().transaction_number)

    def info(self) -> TseInfo:
        return self.scu.get_tse_info(Deadline(self.seconds))


def fetch(scu: ScuCore, token: str, chunk: int = 1 << 20) -> bytes:
    """Read an export to its end, as a queue does."""
    parts = []
    until = time.monotonic() + 30
    while time.monotonic() < until:
        answer = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=chunk))
        if not answer.total_tar_file_size_available:
            time.sleep(0.01)
            continue
        parts.append(base64.b64decode(answer.tar_file_byte_chunk_base64 or ""))
        if answer.tar_file_end_of_file:
            return b"".join(parts)
    raise AssertionError("the export did not end")


def end(scu: ScuCore, token: str, archive: bytes, *, erase: bool) -> EndExportSessionResponse:
    digest = base64.b64encode(hashlib.sha256(archive).digest()).decode()
    return scu.end_export_session(
        EndExportSessionRequest(token_id=token, sha256_checksum_base64=digest, erase=erase)
    )


def export(scu: ScuCore, *, erase: bool = False, client_id: str | None = None) -> tuple[str, bytes]:
    token = scu.start_export_session(StartExportSessionRequest(client_id=client_id, erase=erase)).token_id
    return token, fetch(scu, token)


@pytest.fixture(params=["plain", "tls"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "Kasse Ü 1", tls=request.param == "tls")
    yield shop
    shop.close()


@pytest.fixture
def make_shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(**settings: Any) -> Shop:
        made.append(Shop(tmp_path / f"shop{len(made)}", **settings))
        return made[-1]

    yield make
    for shop in made:
        shop.close()


@pytest.fixture
def plain(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()
