"""What a journal says about its closings: which receipts they close, which master data and which TSEs were in use."""

from __future__ import annotations

import base64
from bisect import bisect_left, bisect_right
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.export.dsfinvk.mapping import Signed, second
from fiskal.germany.masterdata import MasterData
from fiskal.pos.embedded import json_object
from fiskal.queue.receipts.closings import DAILY_TYPES
from fiskal.store import ActionRow, QueueRow, Store, StoredItem
from fiskal.tse.algorithms import point_of, serial_of_point
from fiskal.tse.certificates import X509_ERRORS, CertificateError, key_of, load_certificates

_MASTER_DATA_UPDATES: Final = ("4445000008000007", "4445000008000005", "4445000008000006")
_CONNECTED: Final = ("4445000000000003-ActivateQueueSCU", "4445000000000003-FinishSCUSwitch")


class Closing(NamedTuple):
    """A daily closing. It closes the rows from ``first_row`` to ``row``, its own."""

    number: int
    """Z_NR"""
    moment: int
    """cbReceiptMoment in ticks."""
    first_row: int
    row: int
    item_id: str
    stamp: int
    """TimeStamp of its entry in the receipt journal."""
    epoch: int
    """How often the master data had changed before it."""

    @property
    def created(self) -> str:
        """Z_ERSTELLUNG"""
        return second(self.moment)


class Tse(NamedTuple):
    """A TSE as tse.csv shows it; what is not known of it is empty."""

    serial: str
    algorithm: str = ""
    time_format: str = ""
    public_key: str = ""
    certificate: str = ""
    """Base64 of the DER of the certificate of the signing key."""


class History:
    """The closings of a queue, and what was true at each of them.

    Reads the action journal once and the few items it points to; keeps a few hundred bytes for each closing and what
    there was of master data.
    """

    def __init__(self, store: Store, queue: QueueRow) -> None:
        self._store = store
        self._queue = queue
        self._master_data: dict[int, MasterData] = {}
        self._epochs = 0
        self._connections: list[tuple[int, str]] = []
        self._tses: dict[str, Tse] = {}
        self.closings = self._read()
        self._rows = [closing.row for closing in self.closings]
        for scu in store.scus():
            self._know(_tse(json_object(scu.TseInfoJson)))
        if not self._connections:
            row = next(
                (
                    each
                    for each in store.scus()
                    if each.ftSignaturCreationUnitDEId == queue.ftSignaturCreationUnitDEId
                ),
                None,
            )
            tse = None if row is None else _tse(json_object(row.TseInfoJson))
            self._connections = [] if tse is None else [(0, tse.serial)]
        stored = store.master_data(queue.queue_no)
        if stored is not None:
            self._learn(self._epochs, stored.MasterDataJson)

    def closing_of(self, row: int) -> Closing | None:
        """The closing that closes a row, None if there was none yet."""
        index = bisect_left(self._rows, row)
        return self.closings[index] if index < len(self.closings) else None

    def master_data(self, closing: Closing) -> MasterData:
        """The master data in force up to a closing.

        A closing in failed mode does not show them, but others between the same two changes do. If none does, those
        of the next change stand in.
        """
        known = self._master_data
        for epoch in (*range(closing.epoch, self._epochs + 1), *range(closing.epoch - 1, -1, -1)):
            if epoch in known:
                return known[epoch]
        return MasterData()

    def tse_at(self, row: int) -> str:
        """The serial number of the TSE that the queue was connected to at a row; empty if there was none yet."""
        index = bisect_right(self._connections, (row, "\uffff")) - 1
        return self._connections[max(index, 0)][1] if self._connections else ""

    def tse(self, serial: str, signed: Signed | None = None) -> Tse:
        """What is known of a TSE, completed by what a signature of it says."""
        tse = self._tses.get(serial) or Tse(serial)
        if signed is not None:
            tse = tse._replace(
                algorithm=tse.algorithm or signed.algorithm,
                time_format=tse.time_format or signed.time_format,
                public_key=tse.public_key or signed.public_key,
            )
        return tse

    @property
    def longest_certificate(self) -> int:
        """Characters of the longest certificate that is known."""
        return max((len(tse.certificate) for tse in self._tses.values()), default=0)

    def in_range(self, from_ticks: int, to_ticks: int) -> list[Closing]:
        """The closings whose entry in the receipt journal lies in a range, as :meth:`Store.iter_receipts` reads it."""
        if to_ticks >= 0:
            last = to_ticks or 1 << 63
            return [closing for closing in self.closings if from_ticks <= closing.stamp <= last]
        ids = {closing.item_id for closing in self.closings}
        receipts = self._store.iter_receipts(self._queue.queue_no, from_ticks, to_ticks)
        found = {receipt.ftQueueItemId for receipt in receipts if receipt.ftQueueItemId in ids}
        return [closing for closing in self.closings if closing.item_id in found]

    # ---- reading --------------------------------------------------------------------------------

    def _read(self) -> list[Closing]:
        entries: list[_Entry] = []
        texts: dict[str, str] = {}
        for action in self._store.iter_actions(self._queue.ftQueueId):
            if action.Type in DAILY_TYPES or action.Type in _MASTER_DATA_UPDATES or action.Type in _CONNECTED:
                stored = self._store.item(action.ftQueueItemId)
                if stored is not None and stored.answer is not None and stored.answer.receipt is not None:
                    entry = _entry(action, stored)
                    # Mostly the same text in every closing: one of them is enough to keep.
                    entries.append(
                        entry._replace(master_data=texts.setdefault(entry.master_data, entry.master_data))
                    )
        found: list[Closing] = []
        # By rows: a clock may step back, and then the journal's order is not that of the receipts.
        for entry in sorted(entries, key=lambda entry: entry.row):
            if entry.type in _CONNECTED:
                self._know(entry.tse)
                self._connections.append((entry.row, entry.serial))
                continue
            if entry.master_data:
                self._learn(self._epochs, entry.master_data)
            if entry.type in DAILY_TYPES:
                found.append(
                    Closing(
                        number=entry.number or (found[-1].number + 1 if found else 1),
                        moment=entry.moment,
                        first_row=found[-1].row + 1 if found else 1,
                        row=entry.row,
                        item_id=entry.item_id,
                        stamp=entry.stamp,
                        epoch=self._epochs,
                    )
                )
            self._epochs += entry.type in _MASTER_DATA_UPDATES
        return found

    def _know(self, tse: Tse | None) -> None:
        if tse is not None and (tse.certificate or tse.serial not in self._tses):
            self._tses[tse.serial] = tse

    def _learn(self, epoch: int, text: str) -> None:
        if epoch in self._master_data:
            return
        try:
            self._master_data[epoch] = msgspec.json.decode(text, type=MasterData)
        except msgspec.DecodeError:
            pass  # written by another version; others stand in


class _Entry(NamedTuple):
    """An entry of the action journal that counts here, with what its receipt says."""

    row: int
    type: str
    item_id: str
    moment: int
    stamp: int
    number: int
    master_data: str
    serial: str
    tse: Tse | None


def _entry(action: ActionRow, stored: StoredItem) -> _Entry:
    item, answer = stored
    assert answer is not None  # asked before
    data = json_object(action.DataJson)
    state_data = json_object(json_object(answer.response).get("ftStateData"))
    numbers = (data.get("closingNumber"), state_data.get("DailyClosingNumber"))
    info = _tse(state_data.get("TseInfo"))
    serial = data.get("SCUSerialNumberBase64") or data.get("TargetSCUSerialNumberOctet")
    if not isinstance(serial, str):
        serial = "" if info is None else info.serial
    master_data = state_data.get("MasterData")
    return _Entry(
        row=item.ftQueueRow,
        type=action.Type or "",
        item_id=item.ftQueueItemId,
        moment=item.cbReceiptMoment,
        stamp=answer.TimeStamp,
        number=next((each for each in numbers if isinstance(each, int) and each > 0), 0),
        master_data="" if master_data is None else msgspec.json.encode(master_data).decode(),
        serial=serial.lower(),
        tse=info,
    )


def _tse(info: object) -> Tse | None:
    """What a TseInfo says about its TSE."""
    if not isinstance(info, dict):
        return None
    serial = _text(info, "SerialNumberOctet").lower()
    if not serial:
        return None
    certificates = info.get("CertificatesBase64")
    return Tse(
        serial,
        _text(info, "SignatureAlgorithm"),
        _text(info, "LogTimeFormat"),
        _text(info, "PublicKeyBase64"),
        _leaf(certificates if isinstance(certificates, list) else [], serial),
    )


def _text(info: dict[str, Any], name: str) -> str:
    value = info.get(name)
    return value if isinstance(value, str) else ""


def _leaf(certificates: list[Any], serial: str) -> str:
    """The certificate of the key that the serial number is the hash of."""
    for text in certificates:
        try:
            for certificate in load_certificates(base64.b64decode(text)):
                if serial_of_point(point_of(key_of(certificate))).hex() == serial:
                    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
        except (*X509_ERRORS, CertificateError, TypeError):
            continue
    return ""
