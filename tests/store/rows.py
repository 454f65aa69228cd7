"""Rows for the tests, complete and different in every column."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

from fiskal.store import (
    ActionRow,
    AnswerRow,
    Change,
    DoubtfulStartRow,
    ExportState,
    FailedTransactionRow,
    JournalDEPartRow,
    JournalDERow,
    MasterDataRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    Receipt,
    ReceiptRow,
    RecoveredRow,
    ScuRow,
)

START = 638_397_792_000_000_000


def guid(*parts: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)))


def queue(no: int = 1, current: int = 0, **changes: object) -> QueueRow:
    row = QueueRow(
        queue_no=no,
        ftQueueId=guid("queue", no),
        ftCashBoxId=guid("cashbox"),
        ftCurrentRow=current,
        ftQueuedRow=current + 1,
        ftReceiptNumerator=current,
        ftReceiptTotalizer="-1234567890123456789.12345",
        ftReceiptHash="irTYOOkIZRz/k/DRVp5QGsmpKCmydYe7/IUIS/iDnfc=",
        StartMoment=START,
        StopMoment=None,
        CountryCode="DE",
        Timeout=1500,
        TimeStamp=START + current,
        ftSignaturCreationUnitDEId=guid("scu"),
        CashBoxIdentification="DEMO-1",
        SSCDFailCount=2,
        SSCDFailMoment=START + 1,
        SSCDFailQueueItemId=guid("fail"),
        UsedFailedCount=3,
        UsedFailedMomentMin=START + 2,
        UsedFailedMomentMax=START + 3,
        UsedFailedQueueItemId=guid("used"),
        DailyClosingNumber=7,
        DeTimeStamp=START + 4,
    )
    return row._replace(**changes)  # type: ignore[arg-type]


def item(no: int = 1, row: int = 1, **changes: object) -> QueueItemRow:
    made = QueueItemRow(
        queue_no=no,
        ftQueueRow=row,
        ftQueueItemId=guid("item", no, row),
        ftQueueMoment=START + row,
        ftQueueTimeout=15000,
        cbReceiptMoment=START + row + 1,
        cbTerminalID="T1",
        cbReceiptReference=f"R-Ä{row}",
        country="DE",
        version="v1",
        request='{"cbReceiptReference":"R-Ä1 \\u0000 𝄞"}',
        requestHash="h" * 44,
        TimeStamp=START + 10 * row,
        ProcessingVersion="fiskal 0.1",
        request_raw_sha256=bytes(range(32)),
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def error_answer(no: int = 1, row: int = 1, **changes: object) -> AnswerRow:
    made = AnswerRow(
        no,
        row,
        START + row,
        START + row + 2,
        '{"ok":"ß"}',
        "r" * 44,
        START + 10 * row + 5,
        f"S{row}:1:2",
        None,
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def receipt(no: int = 1, number: int = 1, **changes: object) -> Receipt:
    made = Receipt(number, guid("receipt", no, number), START + number, "0.10000", "c" * 44)
    return made._replace(**changes)  # type: ignore[arg-type]


def answer(no: int = 1, row: int = 1, **changes: object) -> AnswerRow:
    return error_answer(no, row, **{"receipt": receipt(no, row), **changes})


def receipt_row(answered: AnswerRow) -> ReceiptRow:
    """The entry in the receipt journal that ``answered`` stands for."""
    made = answered.receipt
    assert made is not None
    return ReceiptRow(
        answered.queue_no,
        made.ftReceiptNumber,
        made.ftReceiptJournalId,
        made.ftReceiptMoment,
        made.ftReceiptTotal,
        guid("item", answered.queue_no, answered.ftQueueRow),
        made.ftReceiptHash,
        answered.TimeStamp,
    )


def action(no: int = 1, number: int = 1, **changes: object) -> ActionRow:
    made = ActionRow(
        guid("action", no, number),
        guid("queue", no),
        guid("item", no, number),
        START + number,
        -1,
        "4445000000000007",
        "Daily-Closing receipt was processed.",
        None,
        '{"closingNumber":7}',
        START + 10 * number,
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def open_transaction(no: int = 1, reference: str = "A", number: int = 3) -> OpenTransactionRow:
    return OpenTransactionRow(no, reference, number, START, "c2ln", guid("scu"), 1)


def failed(no: int = 1, reference: str = "A", number: int | None = None) -> FailedTransactionRow:
    return FailedTransactionRow(no, reference, number, START, guid("item"), "DEMO-1", "{}", guid("scu"))


def doubtful(no: int = 1, name: str = "A") -> DoubtfulStartRow:
    return DoubtfulStartRow(no, guid("doubt", name), name, START, "DEMO-1", guid("scu"))


def recovered(no: int = 1, name: str = "A", delivered: str | None = None) -> RecoveredRow:
    return RecoveredRow(
        no,
        guid("was", name),
        name,
        START,
        '[{"Data":"ä"}]',
        "F7:13:1",
        guid("zero"),
        delivered and guid(delivered),
    )


def scu(name: str = "scu", mode: int = 1) -> ScuRow:
    return ScuRow(guid(name), "grpc://tse", START, '{"CurrentState":1}', mode, None)


def master_data(no: int = 1, name: str = "Muster GmbH") -> MasterDataRow:
    return MasterDataRow(no, f'{{"Account":{{"AccountName":"{name}"}}}}', START + no)


def export(no: int = 1, number: int = 1, **changes: object) -> JournalDERow:
    made = JournalDERow(
        guid("export", no, number),
        guid("queue", no),
        guid("item", no, number),
        number,
        f"20240102_{number}",
        ".zip",
        START + 10 * number,
        ExportState.STORED,
        guid("scu"),
        2,
        300,
        2048,
        "X3C/GKCGAHAW6UiwSu07ghA6Nr6kF1W2zd+vEKzjxu8=",
        1,
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def export_part(no: int = 1, number: int = 1, part: int = 0) -> JournalDEPartRow:
    return JournalDEPartRow(guid("export", no, number), part, bytes([no, number, part]) * 50)


def change(**rows: list[object]) -> Change:
    made = Change()
    for name, values in rows.items():
        getattr(made, name).extend(values)
    return made


def accepted(no: int, row: int) -> Change:
    """T1 of one receipt."""
    return change(items=[item(no, row)], queues=[queue(no, row - 1)])


def counted(no: int, row: int, **changes: object) -> QueueRow:
    """The state of a queue after the receipt of ``row``, in which nothing but counters is new."""
    made = answer(no, row)
    assert made.receipt is not None
    row_ = queue(
        no,
        row,
        ftQueuedRow=row,
        ftReceiptHash=made.receipt.ftReceiptHash,
        TimeStamp=made.TimeStamp,
        DeTimeStamp=made.TimeStamp,
    )
    return row_._replace(**changes)  # type: ignore[arg-type]


def completed(no: int, row: int) -> Change:
    """T2 of one receipt."""
    return change(answers=[answer(no, row)], queues=[counted(no, row)])


def run_threads(work: Callable[[int], None], count: int) -> list[BaseException]:
    """Runs ``work(0)`` … ``work(count - 1)`` side by side; what they raised. Fails when one hangs."""

    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a caller was left hanging"
    return errors
