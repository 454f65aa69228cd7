"""A simulator of a cloud TSE, the SCU in front of it, and short ways to call."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from fiskal.scu.contract import (
    Deadline,
    EndExportSessionRequest,
    EndExportSessionResponse,
    ExportDataRequest,
    FinishTransactionRequest,
    FinishTransactionResponse,
    StartExportSessionRequest,
    StartTransactionRequest,
    StartTransactionResponse,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import fcc as fcc_driver
from fiskal.scu.drivers import fiskaly as fiskaly_driver
from fiskal.scu.drivers import swissbit_cloud as swissbit_driver
from fiskal.simulators import fcc as fcc_sim
from fiskal.simulators import fiskaly as fiskaly_sim
from fiskal.simulators import swissbit_cloud as swissbit_sim
from fiskal.simulators.http import Action, HttpFault, HttpSimulator, Match, TestCa
from fiskal.simulators.plan import Plan
from fiskal.tse.tarverify import TarReport, verify_tar

CA = TestCa()
"""One for all simulators of a test run: making it takes longer than a test should."""

RECEIPT = b"Beleg^21.42_0.00_0.00_0.00_0.00^21.42:Unbar"


class Till:
    """One client of an SCU."""

    def __init__(self, scu: ScuCore, client_id: str = "POS-1") -> None:
        self.scu = scu
        self.client_id = client_id

    def start(
        self, item: str | None = None, *, retry: bool = False, seconds: float = 20.0
    ) -> StartTransactionResponse:
        return self.scu.start_transaction(
            StartTransactionRequest(
                client_id=self.client_id, queue_item_id=item or str(uuid.uuid4()), is_retry=retry
            ),
            Deadline(seconds),
        )

    def update(
        self, number: int, data: bytes = b"1;x;2", item: str | None = None, *, retry: bool = False
    ) -> UpdateTransactionResponse:
        return self.scu.update_transaction(
            UpdateTransactionRequest(
                client_id=self.client_id,
                transaction_number=number,
                process_type="Kassenbeleg-V1",
                process_data_base64=base64.b64encode(data).decode(),
                queue_item_id=item or str(uuid.uuid4()),
                is_retry=retry,
            ),
            Deadline(20),
        )

    def finish(
        self,
        number: int,
        data: bytes = RECEIPT,
        item: str | None = None,
        *,
        retry: bool = False,
        seconds: float = 20.0,
        process_type: str = "Kassenbeleg-V1",
    ) -> FinishTransactionResponse:
        return self.scu.finish_transaction(
            FinishTransactionRequest(
                client_id=self.client_id,
                transaction_number=number,
                process_type=process_type,
                process_data_base64=base64.b64encode(data).decode(),
                queue_item_id=item or str(uuid.uuid4()),
                is_retry=retry,
            ),
            Deadline(seconds),
        )

    def sell(self) -> FinishTransactionResponse:
        return self.finish(self.start().transaction_number)


class Site:
    """A simulator and what uses it. Waits of the driver move the simulator's clock instead of the test's."""

    def __init__(self, sim: HttpSimulator, folder: Path) -> None:
        self.sim = sim
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(sim.ca_pem)
        self.opened: list[ScuCore] = []
        self.waited: list[float] = []
        self._lock = threading.Lock()

    def wait(self, seconds: float) -> None:
        with self._lock:
            self.waited.append(seconds)
            self.sim.app.clock.advance(seconds)
        time.sleep(min(seconds, 0.002))

    def fault(
        self,
        method: str | None = None,
        path: str = "",
        *,
        nth: int = 1,
        count: int | None = 1,
        when: Any = "before",
        **action: Any,
    ) -> None:
        self.sim.faults.add(
            HttpFault(
                match=Match(method=method, path=path, nth=nth, count=count),
                when=when,
                action=Action(**action),
            )
        )

    def requests(self, method: str, path: str) -> int:
        return self.sim.journal.count(method, path)

    def keep(self, scu: ScuCore) -> ScuCore:
        self.opened.append(scu)
        return scu

    def close(self) -> None:
        for scu in self.opened:
            scu.close()
        self.sim.close()


def export(
    scu: ScuCore, *, erase: bool = False, seconds: float = 20.0
) -> tuple[bytes, EndExportSessionResponse]:
    """The whole archive of an export, and how its session ended."""
    token = scu.start_export_session(StartExportSessionRequest(erase=erase)).token_id
    data = fetch(scu, token, seconds)
    checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return data, scu.end_export_session(
        EndExportSessionRequest(token_id=token, sha256_checksum_base64=checksum, erase=erase)
    )


def fetch(scu: ScuCore, token: str, seconds: float = 20.0) -> bytes:
    until = time.monotonic() + seconds
    data = b""
    while True:
        chunk = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=1 << 20))
        data += base64.b64decode(chunk.tar_file_byte_chunk_base64 or "")
        if chunk.tar_file_end_of_file:
            return data
        if not chunk.total_tar_file_size_available:
            assert time.monotonic() < until, "the export did not end"
            time.sleep(0.01)


def verified(archive: bytes, *, filtered: bool = False) -> TarReport:
    """The report about an archive without a finding but those of what was cut off on purpose."""
    report = verify_tar(io.BytesIO(archive), filtered=filtered)
    assert report.ok, report.findings
    assert report.codes <= {"UNTRUSTED_ROOT", "OPEN_TRANSACTIONS", "STARTS_LATER", "STARTED_BEFORE"}, (
        report.findings
    )
    assert report.valid == report.logs
    return report


class Family:
    """One vendor: its simulator, and its driver in front of it."""

    name: str
    TX_START: str
    """Regular expressions of the requests that start and finish."""
    TX_FINISH: str
    START_METHOD: str
    FINISH_METHOD: str

    def simulate(self, folder: Path, **settings: Any) -> Site:
        raise NotImplementedError

    def options(self, site: Site) -> dict[str, Any]:
        raise NotImplementedError

    def module(self) -> Any:
        raise NotImplementedError

    def engine(self, site: Site) -> Any:
        """The signing engine behind the simulator."""
        raise NotImplementedError

    def open(self, site: Site, folder: str = "scu", **options: Any) -> ScuCore:
        scu = self.module().open(
            site.folder / folder,
            {"ca_file": str(site.ca_file), "retry_base_ms": 20, **self.options(site), **options},
            site.sim.app.clock,
            wait=site.wait,
        )
        return site.keep(scu)


def plan(settings: dict[str, Any]) -> dict[str, Any]:
    settings.setdefault("plan", Plan(scale=0))
    return settings


class Fiskaly(Family):
    name = "fiskaly"
    TX_START = r"/tx/[0-9a-f-]{36}\?"
    TX_FINISH = r"/tx/\d+\?"
    START_METHOD = FINISH_METHOD = "PUT"

    def simulate(
        self, folder: Path, *, clients: tuple[str, ...] = ("POS-1", "POS-2"), **settings: Any
    ) -> Site:
        settings.setdefault("tss", (fiskaly_sim.ReadyTss(clients=clients),))
        return Site(fiskaly_sim.simulate(fiskaly_sim.Settings(**plan(settings)), ca=CA), folder)

    def options(self, site: Site) -> dict[str, Any]:
        return {
            "api_endpoint": site.sim.url + "/api/v2",
            "api_key": fiskaly_sim.Account().api_key,
            "api_secret": fiskaly_sim.Account().api_secret,
            "tss_id": fiskaly_sim.ReadyTss().tss_id,
            "admin_pin": fiskaly_sim.ReadyTss().admin_pin,
        }

    def module(self) -> Any:
        return fiskaly_driver

    def engine(self, site: Site) -> Any:
        return site.sim.app.engine(fiskaly_sim.ReadyTss().tss_id)  # type: ignore[attr-defined]


class Fcc(Family):
    name = "fcc"
    TX_START = r"/transaction$"
    TX_FINISH = r"/transaction/\d+$"
    START_METHOD = "POST"
    FINISH_METHOD = "PUT"

    def simulate(
        self, folder: Path, *, clients: tuple[str, ...] = ("POS-1", "POS-2"), **settings: Any
    ) -> Site:
        settings.setdefault("max_records", 1_000_000)
        return Site(fcc_sim.simulate(fcc_sim.Settings(clients=clients, **plan(settings)), ca=CA), folder)

    def options(self, site: Site) -> dict[str, Any]:
        return {
            "fcc_uri": "https://127.0.0.1",
            "fcc_port": site.sim.port,
            "ers_code": fcc_sim.Settings().ers_code,
            "activation_token": fcc_sim.Settings().activation_token,
        }

    def module(self) -> Any:
        return fcc_driver

    def engine(self, site: Site) -> Any:
        return site.sim.app.engine  # type: ignore[attr-defined]


class SwissbitCloud(Family):
    name = "swissbit_cloud"
    TX_START = r"/startTransaction$"
    TX_FINISH = r"/finishTransaction$"
    START_METHOD = FINISH_METHOD = "POST"

    def simulate(
        self, folder: Path, *, clients: tuple[str, ...] = ("POS-1", "POS-2"), **settings: Any
    ) -> Site:
        return Site(
            swissbit_sim.simulate(swissbit_sim.Settings(clients=clients, **plan(settings)), ca=CA), folder
        )

    def options(self, site: Site) -> dict[str, Any]:
        return {
            "api_endpoint": site.sim.url,
            "tse_serial_number": site.sim.app.serial,  # type: ignore[attr-defined]
            "tse_access_token": swissbit_sim.Settings().access_token,
        }

    def module(self) -> Any:
        return swissbit_driver

    def engine(self, site: Site) -> Any:
        return site.sim.app.engine  # type: ignore[attr-defined]


FAMILIES: dict[str, Family] = {each.name: each for each in (Fiskaly(), Fcc(), SwissbitCloud())}
