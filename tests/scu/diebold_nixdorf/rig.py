"""A simulated Diebold Nixdorf TSE and the SCU that drives it, over one of three ways."""

from __future__ import annotations

import base64
import io
import uuid
from pathlib import Path
from typing import Any

from fiskal.clock import now
from fiskal.scu.contract import (
    Deadline,
    EndExportSessionRequest,
    ExportDataRequest,
    FinishTransactionRequest,
    FinishTransactionResponse,
    RegisterClientIdRequest,
    StartExportSessionRequest,
    StartTransactionRequest,
    StartTransactionResponse,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.drivers import diebold_nixdorf
from fiskal.simulators.diebold_nixdorf import Running, Settings, pseudo_terminal, tcp, web_service
from fiskal.simulators.plan import Fault, Plan
from fiskal.tse.logmessage import LogMessage, parse
from fiskal.tse.tarverify import TarReport, verify_tar

FORMS = ("pty", "tcp", "web")
FRAMES = ("pty", "tcp")
PIN = "12345"
CLIENT = "POS-1"
QUICK = {"answer_timeout_ms": 500, "status_timeout_ms": 500, "slow_timeout_ms": 500}
"""A device that does not answer is not waited for as long as a real one."""


class Rig:
    """The simulator stays when the SCU is opened anew; both keep their folders."""

    def __init__(
        self, form: str, folder: Path, *, initialized: bool = True, clock: Any = now, **settings: Any
    ) -> None:
        self.form = form
        self.folder = folder
        self.clock = clock
        settings.setdefault("clients", [CLIENT, "POS-2"])
        settings.setdefault("plan", Plan(scale=0))
        self.settings = Settings(folder=str(folder / "device"), initialized=initialized, **settings)
        self.simulator: Running = {"pty": pseudo_terminal, "tcp": tcp, "web": web_service}[form](
            self.settings, clock=clock
        )
        self.device = self.simulator.device
        self._scu: ScuCore | None = None
        self.options: dict[str, Any] = {}

    def place(self) -> dict[str, Any]:
        at = self.simulator.place
        if self.form == "pty":
            return {"port": at}
        if self.form == "tcp":
            return {"url": f"tcp://{at}"}
        return {"transport": "web", "web_url": at, "request_timeout_ms": 1000, "transaction_timeout_ms": 2000}

    def open(self, name: str = "scu", **options: Any) -> ScuCore:
        chosen = {
            "admin_pin": PIN,
            "time_admin_pin": PIN,
            "allow_default_pins": True,
            **QUICK,
            **self.place(),
        }
        chosen.update(self.options)
        chosen.update(options)
        return diebold_nixdorf.open(self.folder / name, chosen, self.clock)

    @property
    def scu(self) -> ScuCore:
        if self._scu is None:
            self._scu = self.open()
        return self._scu

    def reopen(self, **options: Any) -> ScuCore:
        if self._scu is not None:
            self._scu.close()
        self._scu = self.open(**options)
        return self._scu

    def close(self) -> None:
        if self._scu is not None:
            self._scu.close()
        self.simulator.close()

    # ---- calls --------------------------------------------------------------------------------------

    def start(
        self,
        item: str | None = None,
        *,
        client: str = CLIENT,
        retry: bool = False,
        seconds: float | None = None,
    ) -> StartTransactionResponse:
        request = StartTransactionRequest(
            client_id=client, queue_item_id=str(uuid.uuid4()) if item is None else item, is_retry=retry
        )
        return self.scu.start_transaction(request, None if seconds is None else Deadline(seconds))

    def update(
        self,
        number: int,
        data: bytes = b"u",
        item: str | None = None,
        *,
        client: str = CLIENT,
        retry: bool = False,
    ) -> UpdateTransactionResponse:
        return self.scu.update_transaction(
            UpdateTransactionRequest(
                client_id=client,
                transaction_number=number,
                process_type="Bestellung-V1",
                process_data_base64=base64.b64encode(data).decode(),
                queue_item_id=str(uuid.uuid4()) if item is None else item,
                is_retry=retry,
            )
        )

    def finish(
        self,
        number: int,
        data: bytes = b"Beleg^0.00_2.55_0.00_0.00_0.00^2.55:Bar",
        item: str | None = None,
        *,
        client: str = CLIENT,
        retry: bool = False,
        seconds: float | None = None,
    ) -> FinishTransactionResponse:
        request = FinishTransactionRequest(
            client_id=client,
            transaction_number=number,
            process_type="Kassenbeleg-V1",
            process_data_base64=base64.b64encode(data).decode(),
            queue_item_id=str(uuid.uuid4()) if item is None else item,
            is_retry=retry,
        )
        return self.scu.finish_transaction(request, None if seconds is None else Deadline(seconds))

    def sell(self, data: bytes = b"Beleg^1.00", **rest: Any) -> FinishTransactionResponse:
        return self.finish(self.start(**rest).transaction_number, data, **rest)

    def set_state(self, state: TseStates) -> TseStates:
        return self.scu.set_tse_state(TseState(current_state=state)).current_state

    def register(self, client: str) -> list[str]:
        return self.scu.register_client_id(RegisterClientIdRequest(client_id=client)).client_ids

    def unregister(self, client: str) -> list[str]:
        return self.scu.unregister_client_id(UnregisterClientIdRequest(client_id=client)).client_ids

    def export(self, *, erase: bool = False, request: Any = None) -> tuple[bytes, bool]:
        """The archive, and whether the log was erased."""
        import hashlib
        import time

        scu = self.scu
        token = (
            request or (lambda: scu.start_export_session(StartExportSessionRequest(erase=erase)))
        )().token_id
        out = io.BytesIO()
        while True:
            answer = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=1 << 20))
            if not answer.total_tar_file_size_available:
                time.sleep(0.01)
                continue
            out.write(base64.b64decode(answer.tar_file_byte_chunk_base64 or ""))
            if answer.tar_file_end_of_file:
                break
        digest = base64.b64encode(hashlib.sha256(out.getvalue()).digest()).decode()
        ended = scu.end_export_session(
            EndExportSessionRequest(token_id=token, sha256_checksum_base64=digest, erase=erase)
        )
        assert ended.is_valid
        return out.getvalue(), ended.is_erased

    # ---- what the device knows ------------------------------------------------------------------------

    def inject(self, kind: str, command: str = "*", **rest: Any) -> None:
        self.simulator.conductor.inject(Fault(kind=kind, command=command, **rest))

    @property
    def faults_left(self) -> int:
        return len(self.simulator.conductor._remaining())

    def log(self) -> list[LogMessage]:
        return [parse(raw) for _, raw in self.device.tse.messages()]

    def count(self, operation: str, data: bytes | None = None) -> int:
        """How many messages of a kind (``StartTransaction``…) the device wrote, with this process data."""
        return sum(
            (message.operation or "").lower() == operation.lower() and data in (None, message.process_data)
            for message in self.log()
        )

    def verify(self, archive: bytes, **rest: Any) -> TarReport:
        """No finding but that transactions are open, or begin elsewhere in the log."""
        report = verify_tar(io.BytesIO(archive), self.device.tse.chain.certificates[-1:], **rest)
        assert report.ok, report.findings
        assert report.codes <= {"OPEN_TRANSACTIONS", "STARTS_LATER", "STARTED_BEFORE"}, report.findings
        assert report.valid == report.logs
        return report
