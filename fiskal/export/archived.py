"""The archived exports of a TSE, checked again: the files, and every signature in them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from fiskal.store import JournalDERow, QueueRow, Store, exportfile
from fiskal.store.exportfile import ExportDamaged
from fiskal.tse.findings import Severity
from fiskal.tse.tar import Source
from fiskal.tse.tarverify import verify_tar

MAX_FINDINGS = 10
"""Findings reported for one archive; the rest is of the same kind mostly."""

_COPY_BYTES = 64 << 10

Report = Callable[[str, str], None]
"""Called with where a problem is and what it is."""


class _Hashing:
    """Passes an archive on and hashes it."""

    def __init__(self, stream: Source) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def sha256_base64(self) -> str:
        return base64.b64encode(self._hash.digest()).decode()


def check_exports(store: Store, queue: QueueRow, report: Report) -> int:
    """Check ftJournalDE of a queue; return the number of its entries.

    Every file is unpacked, compared with the checksum the TSE's side agreed to and verified as an export
    (TR-03153-1 §5.2): messages, signatures, certificates. Every entry belongs to the receipt it names.
    """
    count = 0
    for row in store.iter_exports(queue.ftQueueId):
        count += 1
        where = f"export {row.FileName}"
        _receipt(store, queue, row, where, report)
        try:
            _file(store, row, where, report)
        except ExportDamaged as error:
            report(where, str(error))
    return count


def _receipt(store: Store, queue: QueueRow, row: JournalDERow, where: str, report: Report) -> None:
    found = store.item(row.ftQueueItemId)
    if found is None or found.item.queue_no != queue.queue_no:
        report(where, f"its queue item {row.ftQueueItemId} is not in the journal")
        return
    receipt = None if found.answer is None else found.answer.receipt
    if receipt is not None and receipt.ftReceiptNumber != row.Number:
        report(where, f"Number is {row.Number}, its receipt has the number {receipt.ftReceiptNumber}")


def _file(store: Store, row: JournalDERow, where: str, report: Report) -> None:
    with exportfile.open_tar(store, row) as tar:
        stream = _Hashing(tar)
        found = verify_tar(stream)
        while stream.read(_COPY_BYTES):
            pass
    if stream.size != row.tar_bytes or stream.sha256_base64 != row.tar_sha256:
        report(where, "the archive does not have the stored checksum")
    errors = [finding for finding in found.findings if finding.severity is Severity.ERROR]
    for finding in errors[:MAX_FINDINGS]:
        report(where, str(finding))
    if found.errors > MAX_FINDINGS:
        report(where, f"and {found.errors - MAX_FINDINGS} errors more in this archive")
