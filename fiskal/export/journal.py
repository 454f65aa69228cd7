"""The journals as streams of bytes, row by row in constant memory.

Most journals are one JSON document, the exports of the TSE are TAR archives, DSFinV-K is a ZIP; all of them are cut
into chunks whose concatenation is the document.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fiskal.core import format_ticks
from fiskal.errors import FiskalError
from fiskal.germany.codes import COUNTRY, JournalType
from fiskal.lazy import LazyModule
from fiskal.scu.contract import Scu
from fiskal.scu.fetch import ExportFetch
from fiskal.store import (
    ActionRow,
    JournalDERow,
    QueueRow,
    ReceiptRow,
    ScuRow,
    Store,
    StoredItem,
    exportfile,
)
from fiskal.tse.tar import Source as TarStream
from fiskal.tse.tar import merge_archives
from fiskal.version import __version__

if TYPE_CHECKING:
    from fiskal.export import dsfinvk
else:  # large, and needed once a year
    dsfinvk = LazyModule("fiskal.export.dsfinvk")

DEFAULT_CHUNK_SIZE = 4096
TAR_CHUNK_SIZE = 1 << 20
"""What a chunk size of 0 means where an archive comes from the TSE."""
TSE_EXPORT_TIMEOUT_S = 18_000.0
TSE_CALL_TIMEOUT_S = 15.0
_ENCODE = msgspec.json.Encoder().encode


class JournalError(FiskalError):
    """A journal that cannot be given for this queue."""

    code = "JOURNAL_TYPE"


class TarExportFailed(FiskalError):
    """An archive that came from the TSE, but not as the TSE made it."""

    code = "TAR_EXPORT_FAILED"


class Source(NamedTuple):
    """Where a journal comes from: the store, the queue it is about, and what the host is configured with.

    ``scu`` gives the SCU of the queue; it raises ScuError if there is none. ``dsfinvk`` is what the queue's
    DSFinV-K export looks like, None: as usual.
    """

    store: Store
    queue_no: int
    queue_id: str
    cash_box_id: str
    scu: Callable[[], Scu]
    dsfinvk: dsfinvk.Options | None = None


def stream(
    source: Source, journal_type: int, from_ticks: int = 0, to_ticks: int = 0, chunk_size: int = 0
) -> Iterator[bytes]:
    """The journal ``journal_type`` (ftJournalType) in chunks of ``chunk_size`` bytes.

    ``to_ticks`` > 0: from <= TimeStamp <= to. 0: open end. Negative: the first ``-to_ticks`` entries. A
    ``chunk_size`` of 0 or less means 4096, for the TAR from the TSE 1 MiB. An empty journal yields nothing.
    Raises JournalError for a type of another country, before the first chunk. The DSFinV-K export has whole
    closings, those whose receipt is in the range; it is made in temporary files before its first chunk. The TAR
    from the TSE ignores the range; with it the iterator raises ScuError, and TarExportFailed if the checksum turns
    out wrong at the end. An archive in the store that is damaged raises ExportDamaged.
    """
    parts = _parts(source, journal_type, from_ticks, to_ticks)
    if chunk_size <= 0:
        chunk_size = TAR_CHUNK_SIZE if journal_type == JournalType.DE_TAR_FROM_TSE else DEFAULT_CHUNK_SIZE
    return _chunks(parts, chunk_size)


def _parts(source: Source, journal_type: int, from_ticks: int, to_ticks: int) -> Iterable[bytes]:
    country = (journal_type >> 48) & 0xFFFF
    if country not in (0, COUNTRY):
        raise JournalError(
            f"The given journal type 0x'{journal_type & 0xFFFF_FFFF_FFFF_FFFF:x}' cannot be used with the "
            "current Queue, as this export type is not supported in this country."
        )
    store, queue_no = source.store, source.queue_no
    match journal_type:
        case JournalType.ACTION_JOURNAL:
            return _array(map(_action, store.iter_actions(source.queue_id, from_ticks, to_ticks)))
        case JournalType.RECEIPT_JOURNAL:
            queue_id = source.queue_id
            return _array(
                _receipt(row, queue_id) for row in store.iter_receipts(queue_no, from_ticks, to_ticks)
            )
        case JournalType.QUEUE_ITEMS:
            queue_id = source.queue_id
            return _array(
                _item(stored, queue_id) for stored in store.iter_items(queue_no, from_ticks, to_ticks)
            )
        case JournalType.CONFIGURATION:
            return [_ENCODE(_configuration(source))]
        case JournalType.JOURNAL_DE:
            return _exports(store, store.iter_exports(source.queue_id, from_ticks, to_ticks))
        case JournalType.JOURNAL_AT | JournalType.JOURNAL_FR | JournalType.JOURNAL_ME:
            return [b"[]"]
        case JournalType.DE_TAR_FROM_DATABASE:
            return _archived_tar(store, store.iter_exports(source.queue_id, from_ticks, to_ticks))
        case JournalType.DE_TAR_FROM_TSE:
            return _tse_tar(source.scu)
        case JournalType.DE_DSFINVK:
            queue = store.queue(source.queue_id)
            assert queue is not None  # the source is about it
            return dsfinvk.stream(
                store, queue, from_ticks, to_ticks, options=source.dsfinvk or dsfinvk.DEFAULTS
            )
    if country == COUNTRY:
        return [_ENCODE({"QueueDEList": [_queue_de(row) for row in _queues(source)]})]
    return [_ENCODE(_version())]


def _array(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    separator = b"["
    for row in rows:
        yield separator + _ENCODE(row)
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


def _exports(store: Store, rows: Iterator[JournalDERow]) -> Iterator[bytes]:
    """ftJournalDE; a file goes through memory part by part."""
    separator = b"["
    for row in rows:
        before = {
            "ftJournalDEId": row.ftJournalDEId,
            "Number": row.Number,
            "FileName": row.FileName,
            "FileExtension": row.FileExtension,
        }
        behind = {"ftQueueItemId": row.ftQueueItemId, "ftQueueId": row.ftQueueId, "TimeStamp": row.TimeStamp}
        yield separator + _ENCODE(before)[:-1] + b',"FileContentBase64":"'
        for part in exportfile.parts(store, row):
            yield base64.b64encode(part)
        yield b'",' + _ENCODE(behind)[1:]
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


def _archived_tar(store: Store, rows: Iterator[JournalDERow]) -> Iterator[bytes]:
    """One archive as it was exported, or several as one."""
    first = next(rows, None)
    if first is None:
        return
    second = next(rows, None)
    if second is None:
        yield from exportfile.tar_chunks(store, first)
        return

    def archives() -> Iterator[TarStream]:
        for row in chain((first, second), rows):
            with exportfile.open_tar(store, row) as tar:
                yield tar

    yield from merge_archives(archives())


def _tse_tar(scu: Callable[[], Scu]) -> Iterator[bytes]:
    """The log as it is on the TSE now; nothing is erased."""
    fetch = ExportFetch(scu(), erase=False, timeout_s=TSE_EXPORT_TIMEOUT_S, call_timeout_s=TSE_CALL_TIMEOUT_S)
    try:
        yield from fetch.chunks()
        if not fetch.end().is_valid:
            raise TarExportFailed("The TAR file export was not successful.")
    finally:
        fetch.abandon()


def _chunks(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    pending = bytearray()
    for part in parts:
        pending += part
        while len(pending) >= size:
            yield bytes(pending[:size])
            del pending[:size]
    if pending:
        yield bytes(pending)


def _moment(ticks: int | None) -> str | None:
    return None if ticks is None else format_ticks(ticks)


def _action(row: ActionRow) -> dict[str, Any]:
    return {**row._asdict(), "Moment": _moment(row.Moment)}


def _receipt(row: ReceiptRow, queue_id: str) -> dict[str, Any]:
    return {
        "ftReceiptJournalId": row.ftReceiptJournalId,
        "ftReceiptMoment": _moment(row.ftReceiptMoment),
        "ftReceiptNumber": row.ftReceiptNumber,
        "ftReceiptTotal": msgspec.Raw(row.ftReceiptTotal.encode()),
        "ftQueueId": queue_id,
        "ftQueueItemId": row.ftQueueItemId,
        "ftReceiptHash": row.ftReceiptHash,
        "TimeStamp": row.TimeStamp,
    }


def _item(stored: StoredItem, queue_id: str) -> dict[str, Any]:
    item, answer = stored
    return {
        "ftQueueItemId": item.ftQueueItemId,
        "ftQueueId": queue_id,
        "ftQueueRow": item.ftQueueRow,
        "ftQueueMoment": _moment(item.ftQueueMoment),
        "ftQueueTimeout": item.ftQueueTimeout,
        "ftWorkMoment": _moment(answer.ftWorkMoment) if answer else None,
        "ftDoneMoment": _moment(answer.ftDoneMoment) if answer else None,
        "cbReceiptMoment": _moment(item.cbReceiptMoment),
        "cbTerminalID": item.cbTerminalID,
        "cbReceiptReference": item.cbReceiptReference,
        "country": item.country,
        "version": item.version,
        "request": item.request,
        "requestHash": item.requestHash,
        "response": answer.response if answer else None,
        "responseHash": answer.responseHash if answer else None,
        "TimeStamp": answer.TimeStamp if answer else item.TimeStamp,
        "ProcessingVersion": item.ProcessingVersion,
    }


def _queues(source: Source) -> list[QueueRow]:
    row = source.store.queue(source.queue_id)
    return [] if row is None else [row]


def _queue(row: QueueRow) -> dict[str, Any]:
    return {
        "ftQueueId": row.ftQueueId,
        "ftCashBoxId": row.ftCashBoxId,
        "ftCurrentRow": row.ftCurrentRow,
        "ftQueuedRow": row.ftQueuedRow,
        "ftReceiptNumerator": row.ftReceiptNumerator,
        "ftReceiptTotalizer": msgspec.Raw(row.ftReceiptTotalizer.encode()),
        "ftReceiptHash": row.ftReceiptHash,
        "StartMoment": _moment(row.StartMoment),
        "StopMoment": _moment(row.StopMoment),
        "CountryCode": row.CountryCode,
        "Timeout": row.Timeout,
        "TimeStamp": row.TimeStamp,
    }


def _queue_de(row: QueueRow) -> dict[str, Any]:
    return {
        "ftQueueDEId": row.ftQueueId,
        "ftSignaturCreationUnitDEId": row.ftSignaturCreationUnitDEId,
        "LastHash": None,
        "CashBoxIdentification": row.CashBoxIdentification,
        "SSCDFailCount": row.SSCDFailCount,
        "SSCDFailMoment": _moment(row.SSCDFailMoment),
        "SSCDFailQueueItemId": row.SSCDFailQueueItemId,
        "UsedFailedCount": row.UsedFailedCount,
        "UsedFailedMomentMin": _moment(row.UsedFailedMomentMin),
        "UsedFailedMomentMax": _moment(row.UsedFailedMomentMax),
        "UsedFailedQueueItemId": row.UsedFailedQueueItemId,
        "DailyClosingNumber": row.DailyClosingNumber,
        "TimeStamp": row.DeTimeStamp,
    }


def _scu(row: ScuRow) -> dict[str, Any]:
    return row._asdict()


def _version() -> dict[str, Any]:
    major, minor, build = (int(part) for part in __version__.split("."))
    return {
        "Assembly": f"fiskal, Version={__version__}",
        "Version": {
            "Major": major,
            "Minor": minor,
            "Build": build,
            "Revision": 0,
            "MajorRevision": 0,
            "MinorRevision": 0,
        },
        "ProcessingVersion": f"fiskal {__version__}",
    }


def _configuration(source: Source) -> dict[str, Any]:
    version = _version()
    queues = _queues(source)
    scu_ids = {row.ftSignaturCreationUnitDEId for row in queues}
    scus = [row for row in source.store.scus() if row.ftSignaturCreationUnitDEId in scu_ids]
    empty: list[Any] = []
    return {
        "Assembly": version["Assembly"],
        "Version": version["Version"],
        "CashBoxList": [
            {
                "ftCashBoxId": source.cash_box_id,
                "TimeStamp": max((row.TimeStamp for row in queues), default=0),
            }
        ],
        "QueueList": [_queue(row) for row in queues],
        "QueueATList": empty,
        "QueueDEList": [_queue_de(row) for row in queues],
        "QueueFRList": empty,
        "QueueMEList": empty,
        "QueueITList": empty,
        "SignaturCreationUnitATList": empty,
        "SignaturCreationUnitDEList": [_scu(row) for row in scus],
        "SignaturCreationUnitFRList": empty,
        "SignaturCreationUnitMEList": empty,
        "SignaturCreationUnitITList": empty,
    }
