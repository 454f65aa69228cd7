"""The journal's proof of itself: every hash, number, total and signature of a queue, checked again.

Nothing is trusted that can be computed: hashes over the stored texts, the chain over the hashes, the numbers
against their order, the totals against the requests, every signature against the key of its TSE.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import uuid
from collections.abc import Callable
from decimal import Context, Decimal
from typing import Any, NamedTuple

from fiskal.core import chain_hash, parse_moment, sha256
from fiskal.errors import FiskalError
from fiskal.export.archived import check_exports
from fiskal.export.evidence import Evidence, Problem
from fiskal.germany.codes import SignatureType
from fiskal.pos.prepared import prepare
from fiskal.store import AnswerRow, QueueItemRow, QueueRow, Receipt, Store, StoredItem
from fiskal.tse.algorithms import AlgorithmNotSupported, KeyNotUsable, point_of, serial_of_point
from fiskal.tse.verify import SignatureCheck, Statement, finish_statement, verify_qr

MAX_PROBLEMS = 1_000
"""After so many problems the rest is only counted."""

Progress = Callable[[int, int], None]
"""Called with (rows checked, rows in all)."""

_EXACT = Context(prec=200)
_ERROR_STATE = 0xEEEE_EEEE
_TYPE_MASK = 0xFFFF
_T = SignatureType


class JournalReport:
    """The result of :func:`verify_journal`. ``counts`` says how much was checked."""

    def __init__(self) -> None:
        self.counts = {"items": 0, "errors": 0, "unanswered": 0, "receipts": 0, "signatures": 0, "exports": 0}
        self.problems: list[Problem] = []
        self.problem_count = 0
        self.notes: list[str] = []
        """What could not be checked."""

    @property
    def ok(self) -> bool:
        return self.problem_count == 0

    def add(self, where: str, what: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(where, what))


class _Call(NamedTuple):
    """One call the TSE executed for an item, from the private column ``tse_calls``."""

    operation: str
    number: int
    counter: int
    time: int


class _Item(NamedTuple):
    """One signature item of a stored response."""

    type: int
    caption: str
    data: str


def verify_journal(
    store: Store, queue: QueueRow, *, evidence: Evidence | None = None, progress: Progress | None = None
) -> JournalReport:
    """Check the whole journal of ``queue``: hash chain, numbers, totals, every signature, archived exports.

    Every key that signed must be that of a TSE's certificate and used while it was valid. ``evidence`` has the
    certificates and may have the TSEs' log, with which every signature is then compared; by default it is what
    the store knows of its TSEs.

    Reads in constant memory while receipts may go on being signed: receipts that come after ``queue`` was read
    are left out. Raises StoreError when the journal cannot be read at all.
    """
    return _Checker(store, queue, evidence or Evidence(store.scus())).run(progress)


class _Checker:
    def __init__(self, store: Store, queue: QueueRow, evidence: Evidence) -> None:
        self._store = store
        self._queue = queue
        self._evidence = evidence
        self._early = 0
        self._report = JournalReport()
        self._previous: bytes | None = None
        self._number = 0
        self._total = Decimal(0)
        self._starts: dict[int, _Call] = {}
        self._awaited: dict[int, tuple[str, SignatureCheck, str, str]] = {}
        """Finished transactions whose start no row has shown yet: row, check, client and start signature."""
        self._checks: dict[tuple[str, str, str], SignatureCheck] = {}
        self._serials: dict[SignatureCheck, bytes] = {}
        self._last_check: SignatureCheck | None = None

    def run(self, progress: Progress | None) -> JournalReport:
        queue, report = self._queue, self._report
        expected = 0
        for stored in self._store.iter_items_by_row(queue.queue_no):
            row = stored.item.ftQueueRow
            if row > queue.ftCurrentRow:
                report.counts["unanswered"] += stored.answer is None
                continue
            expected += 1
            if row != expected:
                report.add(f"row {row}", f"row {expected} is missing or out of order")
                expected = row
            report.counts["items"] += 1
            self._item(stored)
            if progress is not None and not expected & 0xFF:
                progress(expected, queue.ftCurrentRow)
        if expected != queue.ftCurrentRow:
            report.add("queue", f"the last row is {expected}, but ftCurrentRow is {queue.ftCurrentRow}")
        self._end()
        report.counts["exports"] = check_exports(self._store, queue, report.add)
        if self._early:
            report.notes.append(
                f"{self._early} signatures have a log time before their certificate was valid"
            )
        if report.counts["signatures"] and not self._evidence.has_certificates:
            report.notes.append("no certificate of a TSE is known: whose keys have signed is not proven")
        if progress is not None:
            progress(queue.ftCurrentRow, queue.ftCurrentRow)
        return report

    def _end(self) -> None:
        """The queue's own state is the end of the chain."""
        queue, report = self._queue, self._report
        for number, (where, *_) in self._awaited.items():
            report.add(where, f"the start of transaction {number} is not in the journal")
        if queue.ftReceiptNumerator != self._number:
            report.add("queue", f"ftReceiptNumerator is {queue.ftReceiptNumerator}, not {self._number}")
        if self._decimal("queue", "ftReceiptTotalizer", queue.ftReceiptTotalizer) != self._total:
            report.add("queue", f"ftReceiptTotalizer is {queue.ftReceiptTotalizer}, not {self._total}")
        last = base64.b64encode(self._previous).decode() if self._previous else None
        if queue.ftReceiptHash != last:
            report.add("queue", f"ftReceiptHash is {queue.ftReceiptHash}, the chain ends with {last}")

    def _decimal(self, where: str, name: str, text: str) -> Decimal:
        try:
            value = Decimal(text)
            if value.is_finite():
                return value
        except ArithmeticError:
            pass
        self._report.add(where, f"{name} {text!r} is no number")
        return Decimal(0)

    # ---- one queue item -------------------------------------------------------------------------

    def _item(self, stored: StoredItem) -> None:
        item, answer = stored
        where = f"row {item.ftQueueRow}"
        report = self._report
        if answer is not None:
            self._note_calls(where, answer)
        request_ok = self._text(where, "request", item.request, item.requestHash)
        if answer is None:
            report.add(where, "has no answer, although later rows have")
            return
        response_ok = self._text(where, "response", answer.response, answer.responseHash)
        total: str | None = None
        if request_ok:
            total = self._request(where, item)
        response = self._response(where, item, answer) if response_ok else None
        if response is not None and response["ftState"] & 0xFFFF_FFFF == _ERROR_STATE:
            report.counts["errors"] += 1
            if answer.receipt is not None:
                report.add(where, "was answered with an error, but has a receipt journal entry")
            return
        receipt = answer.receipt
        if receipt is None:
            if response is not None:
                report.add(where, "was answered without error, but has no receipt journal entry")
            return
        self._receipt(item, answer, receipt, total)
        if response is not None:
            expected = f"ft{receipt.ftReceiptNumber - 1:X}#"
            if not str(response["ftReceiptIdentification"]).startswith(expected):
                report.add(where, f"ftReceiptIdentification does not begin with {expected}")
            self._signatures(where, response, answer)

    def _note_calls(self, where: str, answer: AnswerRow) -> None:
        """What the TSE did, and starts that another receipt may finish: also those of receipts answered without
        signatures, because the TSE failed after the start."""
        with contextlib.suppress(ValueError):  # reported where the signatures are checked
            for call in _parse_calls(answer.tse_calls):
                if call.operation == "start":
                    self._note_start(call)
                self._doubt(where, self._evidence.call(*call))

    def _note_start(self, call: _Call) -> None:
        awaited = self._awaited.pop(call.number, None)
        if awaited is None:
            self._starts[call.number] = call
            return
        # A zero receipt started it and was interrupted; the next one carries the signature of the start.
        where, check, client, signature = awaited
        self._one_of(where, check, "start", client, "", b"", signature, [call])

    def _doubt(self, where: str, what: str) -> None:
        if what:
            self._report.add(where, what)

    def _against(self, where: str, check: SignatureCheck, statement: Statement, signature: bytes) -> None:
        """Hold a signature that is valid against certificate and log of its TSE."""
        serial = self._serials[check]
        self._doubt(where, self._evidence.moment(serial, statement.log_time))
        self._early += self._evidence.is_early(serial, statement.log_time)
        self._doubt(
            where,
            self._evidence.signature(
                serial,
                statement.signature_counter,
                statement.operation,
                statement.transaction_number,
                signature,
            ),
        )

    def _text(self, where: str, name: str, text: str, stored_hash: str) -> bool:
        if base64.b64encode(sha256(text.encode())).decode() == stored_hash:
            return True
        self._report.add(where, f"the {name} does not have the stored {name}Hash")
        return False

    def _request(self, where: str, item: QueueItemRow) -> str | None:
        """The stored columns say what the text says. Returns the total of the receipt."""
        try:
            request = prepare(item.request.encode())
        except FiskalError as error:
            self._report.add(where, f"the request cannot be read: {error}")
            return None
        for name, column, value in (
            ("cbReceiptReference", item.cbReceiptReference, request.receipt_reference),
            ("cbTerminalID", item.cbTerminalID, request.terminal_id),
            ("cbReceiptMoment", item.cbReceiptMoment, request.receipt_moment_ticks),
        ):
            if column != value:
                self._report.add(where, f"{name} is {column!r} in the journal, {value!r} in the request")
        return request.total

    def _response(self, where: str, item: QueueItemRow, answer: AnswerRow) -> dict[str, Any] | None:
        try:
            response = json.loads(answer.response)
            pairs = (
                ("ftQueueID", response["ftQueueID"], self._queue.ftQueueId),
                ("ftQueueItemID", response["ftQueueItemID"], item.ftQueueItemId),
                ("ftQueueRow", response["ftQueueRow"], item.ftQueueRow),
                ("cbReceiptReference", response["cbReceiptReference"], item.cbReceiptReference),
                ("cbTerminalID", response["cbTerminalID"], item.cbTerminalID),
            )
            [(each["ftSignatureType"], each["Data"]) for each in response["ftSignatures"]]
            response["ftState"] & _ERROR_STATE, response["ftReceiptIdentification"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._report.add(where, f"the response cannot be read: {error!r}")
            return None
        for name, given, wanted in pairs:
            if given != wanted:
                self._report.add(where, f"{name} is {given!r} in the response, not {wanted!r}")
        return dict(response)

    # ---- the chain ------------------------------------------------------------------------------

    def _receipt(self, item: QueueItemRow, answer: AnswerRow, receipt: Receipt, total: str | None) -> None:
        report = self._report
        report.counts["receipts"] += 1
        where = f"receipt {receipt.ftReceiptNumber} (row {item.ftQueueRow})"
        self._number += 1
        if receipt.ftReceiptNumber != self._number:
            report.add(where, f"the number should be {self._number}")
            self._number = receipt.ftReceiptNumber
        stored_total = self._decimal(where, "ftReceiptTotal", receipt.ftReceiptTotal)
        if total is not None and stored_total != Decimal(total):
            report.add(where, f"ftReceiptTotal is {receipt.ftReceiptTotal}, the request says {total}")
        self._total = _EXACT.add(self._total, stored_total)
        try:
            computed = chain_hash(
                self._previous,
                uuid.UUID(receipt.ftReceiptJournalId).bytes_le,
                receipt.ftReceiptMoment,
                receipt.ftReceiptNumber,
                base64.b64decode(item.requestHash, validate=True),
                base64.b64decode(answer.responseHash, validate=True),
            )
            stored_hash = base64.b64decode(receipt.ftReceiptHash, validate=True)
        except (ValueError, OverflowError) as error:
            report.add(where, f"the hash cannot be computed: {error}")
            return
        if str(uuid.UUID(receipt.ftReceiptJournalId)) != receipt.ftReceiptJournalId:
            report.add(where, f"ftReceiptJournalId {receipt.ftReceiptJournalId!r} is not as it was written")
        if base64.b64encode(computed).decode() != receipt.ftReceiptHash:
            report.add(where, "ftReceiptHash is not the hash of this receipt and the one before")
        # going on from what is stored: one broken link is reported once, not for every receipt behind it
        self._previous = stored_hash

    # ---- signatures -----------------------------------------------------------------------------

    def _signatures(self, where: str, response: dict[str, Any], answer: AnswerRow) -> None:
        items = [
            _Item(each["ftSignatureType"] & _TYPE_MASK, each.get("Caption") or "", each["Data"] or "")
            for each in response["ftSignatures"]
        ]
        try:
            calls = _parse_calls(answer.tse_calls)
        except ValueError:
            self._report.add(where, f"tse_calls {answer.tse_calls!r} cannot be read")
            calls = []
        client = str(response["ftCashBoxIdentification"])
        at = 0
        while at < len(items):
            item = items[at]
            if item.type == _T.QR_CODE:
                block = items[at : at + 18]
                self._receipt_block(where, block, calls)
            elif item.type == _T.START_TRANSACTION_RESULT and item.caption.endswith("-result"):
                block = items[at : at + 15]
                self._transaction_block(where, block, calls)
            elif item.type == _T.START_TRANSACTION_RESULT:
                block = [item]
                self._any_of(where, "start", client, "", "", item.data, calls)
            elif item.type in (_T.FINISH_TRANSACTION_PAYLOAD, _T.UPDATE_TRANSACTION_PAYLOAD):
                block = items[at : at + 3]
                operation = "finish" if item.type == _T.FINISH_TRANSACTION_PAYLOAD else "update"
                if len(block) == 3:
                    self._any_of(where, operation, client, block[2].data, item.data, block[1].data, calls)
                else:
                    self._report.add(where, f"the {operation} signature is incomplete")
            else:
                block = [item]
            at += len(block)

    def _receipt_block(self, where: str, block: list[_Item], calls: list[_Call]) -> None:
        """SIG-POS: the QR code proves the finish, and the texts beside it say the same."""
        self._report.counts["signatures"] += 1
        result = verify_qr(block[0].data)
        if not result.valid or result.qr is None:
            self._report.add(where, f"the QR code does not verify: {result.reason} {result.detail}".rstrip())
            return
        by_type = {item.type: item.data for item in block}
        twelve = [item.data for item in block[6:18]]
        if ";".join(twelve) != block[0].data:
            self._report.add(where, "the texts beside the QR code differ from it")
        if by_type.get(_T.FINISH_TRANSACTION_RESULT) != by_type.get(_T.SIGNATURE):
            self._report.add(where, "finish-transaction-signature differs from <signatur>")
        self._payload(where, by_type)
        check = self._check_for(where, by_type)
        if check is not None:
            qr = result.qr
            self._against(where, check, finish_statement(qr), qr.signature)
            self._finish_call(where, qr.transaction_number, qr.signature_counter, calls)
            self._start(where, check, qr.client_id, qr.transaction_number, by_type, calls)

    def _transaction_block(self, where: str, block: list[_Item], calls: list[_Call]) -> None:
        """SIG-TX: the finish message is rebuilt from the texts."""
        by_type = {item.type: item.data for item in block}
        check = self._check_for(where, by_type)
        if check is None:
            return
        try:
            statement = Statement(
                "finish",
                by_type[_T.POS_SERIAL_NUMBER],
                by_type[_T.PROCESS_TYPE],
                by_type[_T.PROCESS_DATA].encode(),
                int(by_type[_T.TRANSACTION_NUMBER]),
                int(by_type[_T.SIGNATURE_COUNTER]),
                parse_moment(by_type[_T.LOG_TIME]),
            )
            signature = base64.b64decode(by_type[_T.SIGNATURE], validate=True)
        except (KeyError, ValueError) as error:
            self._report.add(where, f"the transaction's texts are incomplete: {error}")
            return
        self._report.counts["signatures"] += 1
        if check.find(statement, signature) is None:
            self._report.add(where, "finish-transaction-result does not verify")
        else:
            self._against(where, check, statement, signature)
        if by_type.get(_T.FINISH_TRANSACTION_RESULT) != by_type[_T.SIGNATURE]:
            self._report.add(where, "finish-transaction-result differs from <signatur>")
        self._payload(where, by_type)
        self._finish_call(where, statement.transaction_number, statement.signature_counter, calls)
        self._start(where, check, statement.client_id, statement.transaction_number, by_type, calls)

    def _finish_call(self, where: str, number: int, counter: int, calls: list[_Call]) -> None:
        if not any(
            call.operation == "finish" and call.number == number and call.counter == counter for call in calls
        ):
            self._report.add(where, f"the finish of transaction {number} is not among the item's TSE calls")

    def _payload(self, where: str, by_type: dict[int, str]) -> None:
        expected = base64.b64encode(by_type.get(_T.PROCESS_DATA, "").encode()).decode()
        if by_type.get(_T.FINISH_TRANSACTION_PAYLOAD) != expected:
            self._report.add(where, "finish-transaction-payload differs from <processData>")

    def _start(
        self,
        where: str,
        check: SignatureCheck,
        client: str,
        number: int,
        by_type: dict[int, str],
        calls: list[_Call],
    ) -> None:
        """The start signature of a finished transaction, made by this receipt or by an earlier one."""
        own = [call for call in calls if call.operation == "start" and call.number == number]
        known = self._starts.pop(number, None)
        call = own[0] if own else known
        data = by_type.get(_T.START_TRANSACTION_RESULT, "")
        if call is None:
            self._awaited[number] = where, check, client, data
            return
        self._one_of(where, check, "start", client, "", b"", data, [call])

    def _any_of(
        self,
        where: str,
        operation: str,
        client: str,
        process_type: str,
        payload: str,
        signature: str,
        calls: list[_Call],
    ) -> None:
        """A signature without texts beside it: it belongs to one of the calls made for the item."""
        check = self._last_check
        if check is None:
            self._report.add(where, f"the {operation} signature stands before any public key")
            return
        candidates = [call for call in calls if call.operation == operation]
        try:
            data = base64.b64decode(payload, validate=True)
        except binascii.Error:
            self._report.add(where, f"the payload of the {operation} signature is no Base64")
            return
        call = self._one_of(where, check, operation, client, process_type, data, signature, candidates)
        if call is not None and operation == "start":
            self._starts[call.number] = call

    def _one_of(
        self,
        where: str,
        check: SignatureCheck,
        operation: str,
        client: str,
        process_type: str,
        process_data: bytes,
        signature: str,
        candidates: list[_Call],
    ) -> _Call | None:
        self._report.counts["signatures"] += 1
        try:
            raw = base64.b64decode(signature, validate=True)
        except binascii.Error:
            self._report.add(where, f"the {operation} signature is no Base64")
            return None
        for call in candidates:
            statement = Statement(
                operation, client, process_type, process_data, call.number, call.counter, call.time
            )
            if check.find(statement, raw) is not None:
                self._against(where, check, statement, raw)
                return call
        self._report.add(where, f"the {operation} signature does not verify")
        return None

    def _check_for(self, where: str, by_type: dict[int, str]) -> SignatureCheck | None:
        key = (
            by_type.get(_T.PUBLIC_KEY, ""),
            by_type.get(_T.SIGNATURE_ALGORITHM, ""),
            by_type.get(_T.LOG_TIME_FORMAT, ""),
        )
        check = self._checks.get(key)
        if check is None:
            try:
                check = SignatureCheck(
                    public_key=base64.b64decode(key[0], validate=True),
                    algorithm=key[1],
                    time_format=key[2],
                    accept_der=True,
                )
            except (ValueError, KeyNotUsable, AlgorithmNotSupported) as error:
                self._report.add(where, f"the TSE's key cannot be used: {error}")
                return None
            self._checks[key] = check
            self._serials[check] = serial_of_point(point_of(check.key))
            self._doubt(where, self._evidence.key(self._serials[check]))
        self._last_check = check
        return check


_OPERATIONS = {"S": "start", "U": "update", "F": "finish"}


def _parse_calls(text: str | None) -> list[_Call]:
    """Raises ValueError for a text that was not written by the queue."""
    calls = []
    for word in (text or "").split():
        number, counter, time = (int(part) for part in word[1:].split(":"))
        operation = _OPERATIONS.get(word[0])
        if operation is None:
            raise ValueError(word)
        calls.append(_Call(operation, number, counter, time))
    return calls
