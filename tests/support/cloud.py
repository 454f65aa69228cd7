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
from fiskal.simulators.http import Action, HttpFault, HttpSimulator, Match, TestCa
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
