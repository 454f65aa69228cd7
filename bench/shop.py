"""A host to measure: real parts by default, null parts where only the middleware itself is of interest."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fiskal import clock
from fiskal.conversation import Durable
from fiskal.germany.codes import DE
from fiskal.host import config as configs
from fiskal.host.config import QueueConfig, ScuConfig
from fiskal.host.middleware import Middleware
from fiskal.host.process import settle
from fiskal.scu.contract import (
    Capabilities,
    Deadline,
    FinishTransactionRequest,
    FinishTransactionResponse,
    RegisterClientIdRequest,
    RegisterClientIdResponse,
    StartTransactionRequest,
    StartTransactionResponse,
    TseInfo,
    TseSignatureData,
    TseState,
    TseStates,
)
from fiskal.scu.signcheck import Mode
from fiskal.store import Change, NullStore, QueueRow

IMPLICIT = 0x1_0000_0000

SIGNATURE_CHECKS: Final[dict[str, Mode | None]] = {"default": None, "off": "off"}
"""The values of the option ``--signature-check``, and what they are for :func:`host`."""


class NullTse:
    """Answers at once with a signature that is none. For measuring only."""

    capabilities = Capabilities(in_process=True, computes_only=True)

    def __init__(self) -> None:
        self._number = 0
        self._time = clock.now()
        self._signature = TseSignatureData(
            signature_counter=1,
            signature_algorithm="ecdsa-plain-SHA256",
            signature_base64="A" * 88,
            public_key_base64="B" * 88,
        )

    def start_transaction(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse:
        self._number += 1
        return StartTransactionResponse(
            transaction_number=self._number,
            time_stamp=self._time,
            tse_serial_number_octet="ab" * 32,
            client_id=request.client_id,
            signature_data=self._signature,
        )

    def finish_transaction(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse:
        return FinishTransactionResponse(
            transaction_number=request.transaction_number,
            start_transaction_time_stamp=self._time,
            time_stamp=self._time,
            tse_time_stamp_format="unixTime",
            tse_serial_number_octet="ab" * 32,
            client_id=request.client_id,
            process_type=request.process_type,
            process_data_base64=request.process_data_base64,
            signature_data=self._signature,
        )

    def set_tse_state(self, request: TseState, deadline: Deadline | None = None) -> TseState:
        return request

    def register_client_id(
        self, request: RegisterClientIdRequest, deadline: Deadline | None = None
    ) -> RegisterClientIdResponse:
        return RegisterClientIdResponse(client_ids=[request.client_id])

    def get_tse_info(self, deadline: Deadline | None = None) -> TseInfo:
        return TseInfo(
            max_number_of_clients=1,
            current_number_of_clients=0,
            current_client_ids=[],
            max_number_of_started_transactions=1,
            current_number_of_started_transactions=0,
            current_started_transaction_numbers=[],
            max_number_of_signatures=1,
            current_number_of_signatures=0,
            max_log_memory_size=1,
            current_log_memory_size=0,
            current_state=TseStates.INITIALIZED,
            firmware_identification="null",
            certification_identification="none",
            signature_algorithm="ecdsa-plain-SHA256",
            log_time_format="unixTime",
            serial_number_octet="ab" * 32,
            public_key_base64="B" * 88,
            certificates_base64=[],
        )

    def close(self) -> None:
        """Nothing is open."""


class MemoryOfQueues(NullStore):
    """A null store that remembers the rows of the queues, as opening a host needs them."""

    def __init__(self) -> None:
        self._rows: dict[str, QueueRow] = {}

    def submit(self, change: Change) -> Durable:
        for row in change.queues:
            self._rows[row.ftQueueId] = row
        return super().submit(change)

    def commit(self, change: Change) -> None:  # type: ignore[override]
        self.submit(change)

    def queue(self, queue_id: str) -> QueueRow | None:
        return self._rows.get(queue_id)


def basket(
    cash_box_id: str, items: int, *, queue_id: str | None = None, case: int = 0x01, reference: str = "4747847"
) -> bytes:
    """A receipt as a scanner checkout sends it."""
    charge_items = [
        {
            "Quantity": 1.0,
            "Description": f"Artikel {number:04}",
            "Amount": 3.50,
            "VATRate": 19.0,
            "ftChargeItemCase": DE | 0x01,
            "Moment": "2026-05-22T10:47:40.960Z",
        }
        for number in range(items)
    ]
    pay_items = [
        {
            "Quantity": 1.0,
            "Description": "Bar",
            "Amount": 3.50 * items,
            "ftPayItemCase": DE | 0x01,
            "Moment": "2026-05-22T10:47:59.260Z",
        }
    ]
    message = {
        "ftCashBoxID": cash_box_id,
        "ftPosSystemId": "d4a62055-ca6c-4372-ae4d-f835a88e4a5d",
        "cbTerminalID": "T1",
        "cbReceiptReference": reference,
        "cbReceiptMoment": "2026-05-22T10:48:00.260Z",
        "cbChargeItems": charge_items if items else [],
        "cbPayItems": pay_items if items else [],
        "ftReceiptCase": DE | IMPLICIT | case,
        "cbUser": "Anna",
    }
    if queue_id is not None:
        message["ftQueueID"] = queue_id
    return json.dumps(message).encode()


@contextmanager
def host(
    folder: Path,
    *,
    queues: int = 1,
    tses: int = 1,
    null_tse: bool = False,
    null_store: bool = False,
    signature_check: Mode | None = None,
) -> Iterator[Middleware]:
    """A started host with ``queues`` queues spread over ``tses`` TSEs, in a process settled as by ``fiskal serve``.

    ``signature_check`` is that of every TSE; None is what a host does that nobody told.
    """
    logging.getLogger("fiskal").setLevel(logging.ERROR)
    config = configs.new_config()
    config.scus = [ScuConfig(id=str(uuid.uuid4()), signature_check=signature_check) for _ in range(tses)]
    config.queues = [
        QueueConfig(id=str(uuid.uuid4()), client_id=f"POS-{n}", scu_id=config.scus[n % tses].id)
        for n in range(queues)
    ]
    middleware = Middleware(
        config,
        folder,
        store=MemoryOfQueues() if null_store else None,
        scus={scu.id: NullTse() for scu in config.scus} if null_tse else None,  # type: ignore[misc]
    )
    try:
        for queue in config.queues:
            middleware.sign_json(basket(config.cash_box_id, 0, queue_id=queue.id, case=0x03))
        settle()
        yield middleware
    finally:
        middleware.close()
