"""A software TSE that keeps updates until they have to be signed, as some certified devices do."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from fiskal.scu.contract import Deadline
from fiskal.scu.driver import Call, Signed
from fiskal.scu.refusals import transaction_not_open
from fiskal.scu.software import log as records
from fiskal.scu.software.tse import MAX_PROCESS_DATA_BYTES, SoftwareTse
from fiskal.tse._native import LOG_FINISH, LOG_UPDATE


class _Kept:
    """What the updates of one transaction left behind, and which queue items sent them."""

    def __init__(self) -> None:
        self.client_id = ""
        self.process_type = ""
        self.pieces: list[bytes] = []
        self.size = 0
        self.items: set[str] = set()


class AggregatingTse(SoftwareTse):
    """A software TSE whose updates are answered without a signature (TR-03151 §4.4.2, unsigned updates).

    Version 2 puts what was kept into the finish, in pieces; version 3 signs it as an update of its own before.
    An update with another client or process type signs what was kept so far. What is kept lives in memory, as
    in a device: it is lost with the process.
    """

    update_variant = "unsigned"

    def __init__(self, directory: str | os.PathLike[str], **options: Any) -> None:
        self._kept: dict[int, _Kept] = {}
        super().__init__(directory, **options)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        self._next_counter()  # a TSE that could not sign what it keeps must not keep it
        self._check_transaction(call)
        number = call.transaction_number
        if number not in self._open:
            raise transaction_not_open(number)
        kept = self._kept.setdefault(number, _Kept())
        if not call.queue_item_id or call.queue_item_id not in kept.items:
            changed = (kept.client_id, kept.process_type) != (call.client_id, call.process_type)
            if kept.pieces and (changed or kept.size + len(call.process_data) > MAX_PROCESS_DATA_BYTES):
                self.flush(number)
            kept.client_id, kept.process_type = call.client_id, call.process_type
            kept.pieces.append(call.process_data)
            kept.size += len(call.process_data)
            if call.queue_item_id:
                kept.items.add(call.queue_item_id)
        return self.unsigned(number)

    def flush(self, number: int) -> Signed | None:
        kept = self._kept.get(number)
        if kept is None or not kept.pieces:
            return None
        call = Call("update", kept.client_id, number, kept.process_type, b"".join(kept.pieces), "")
        chunks = [len(piece) for piece in kept.pieces] if self.description.log_version == 2 else None
        signed = self._continue(call, LOG_UPDATE, records.OP_UPDATE, chunks)
        kept.pieces = []
        kept.size = 0
        return signed

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        number = call.transaction_number
        kept = self._kept.get(number)
        chunks = None
        if kept is not None and kept.pieces and number in self._open:
            self._check_transaction(call)
            fits = kept.size + len(call.process_data) <= MAX_PROCESS_DATA_BYTES
            if self.description.log_version == 3 or kept.client_id != call.client_id or not fits:
                self.flush(number)
            else:
                pieces = [*kept.pieces, call.process_data]
                chunks = [len(piece) for piece in pieces]
                call = msgspec.structs.replace(call, process_data=b"".join(pieces))
        signed = self._continue(call, LOG_FINISH, records.OP_FINISH, chunks)
        self._kept.pop(number, None)
        return signed
