"""Random receipts and a TSE that fails at random, against a model of the queue that is slow and obvious.

The model knows nothing of stores, locks or bytes: a few dictionaries and the rules of the interface. After
every receipt the queue, its tables and the TSE must look exactly as the model says.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fiskal.errors import ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import DE
from fiskal.scu.errors import OutcomeUnknown, ScuError, Unreachable
from fiskal.tse.verify import verify_qr
from tests.support.shop import CASH, IMPLICIT, TRAINING, Shop, captions, data_of

LATE, HANDWRITTEN, RECEIPT_REQUEST = 0x1_0000, 0x8_0000, 0x8000_0000_0000
CLOSE_ALL, FAIL_ON_OPEN = 0x2_0000_0000, 0x1000_0000
ZERO, START, MONTHLY, YEARLY, DAILY = 0x02, 0x03, 0x05, 0x06, 0x07
BEGIN, UPDATE, DELTA, FAIL = 0x08, 0x09, 0x0A, 0x0B
SALE, ORDER, PROTOCOL = 0x01, 0x10, 0x14
SPECIAL = (ZERO, START, MONTHLY, YEARLY, DAILY)

NOT_FOUND, ALREADY = "TRANSACTION_NOT_FOUND", "TRANSACTION_ALREADY_STARTED"

REFERENCES = st.sampled_from(["A", "B", "C"])


class Failure(Exception):
    """The TSE cannot be reached, or its answer is lost."""


class Lost(Failure):
    """The answer is lost: the TSE has done what it was asked."""


class Refusal(Exception):
    """The TSE answers, and refuses."""


class Rejection(Exception):
    """The queue rejects the receipt with this code."""


class Tse:
    """A TSE that counts, remembers which call was whose, and fails when told to."""

    def __init__(self) -> None:
        self.last = 0
        self.open: set[int] = set()
        self.started: dict[int, int] = {}
        self.finished: set[tuple[int, int]] = set()
        self.down = False
        self.fault: tuple[str, str] | None = None

    def start(self, item: int, *, retry: bool = False) -> int:
        return self._call("start_transaction", lambda: self._start(item, retry))

    def finish(self, number: int, item: int, *, retry: bool = False) -> int:
        return self._call("finish_transaction", lambda: self._finish(number, item, retry))

    def update(self, number: int) -> None:
        if self.down:
            raise Failure
        if number not in self.open:
            raise Refusal

    def list(self) -> set[int]:
        if self.down:
            raise Failure
        return set(self.open)

    def _call(self, name: str, execute: Any) -> int:
        if self.down:
            raise Failure
        if self.fault == (name, "before"):
            self.fault = None
            raise Failure
        result: int = execute()
        if self.fault == (name, "after"):
            self.fault = None
            raise Lost
        return result

    def _start(self, item: int, retry: bool) -> int:
        if retry and item in self.started:
            return self.started[item]
        self.last += 1
        self.open.add(self.last)
        self.started[item] = self.last
        return self.last

    def _finish(self, number: int, item: int, retry: bool) -> int:
        if retry and (number, item) in self.finished:
            return number
        if number not in self.open:
            raise Refusal
        self.open.remove(number)
        self.finished.add((number, item))
        return number


class Model:
    """The queue: one method per kind of receipt, each gives (bits of ftState, suffix)."""

    def __init__(self) -> None:
        self.tse = Tse()
        self.row = 0
        self.numerator = 0
        self.active = False
        self.fail_count = 0
        self.late_count = 0
        self.closings = 0
        self.open: dict[str, tuple[int, bool]] = {}  # number, whether an implicit receipt left it behind
        self.failed_starts: dict[str, int] = {}  # the row of the receipt, in the order of their moments
        self.failed_finishes: dict[str, int] = {}
        self.doubts: dict[int, str] = {}  # rows of receipts whose start had no answer, and their references
        self.errors = 0

    def sign(self, case: int, flags: int, reference: str) -> tuple[int, str]:
        self.row += 1
        try:
            answer = self._decide(case, flags, reference)
        except (Rejection, Failure):
            self.errors += 1
            raise
        self.numerator += 1
        return answer

    def _decide(self, case: int, flags: int, reference: str) -> tuple[int, str]:
        implicit = bool(flags & IMPLICIT)
        if not self.active and case != START:
            return 1, ""
        if flags & LATE:
            self.late_count += 1
            return 8, ""
        if flags & HANDWRITTEN:
            return 0, ""
        if case in SPECIAL and not implicit:
            raise Rejection("IMPLICIT_FLOW_REQUIRED")
        if case in SPECIAL and case != ZERO and flags & TRAINING:
            raise Rejection("TRAINING_NOT_ALLOWED")
        if case in (BEGIN, UPDATE, DELTA, FAIL) and implicit:
            raise Rejection("EXPLICIT_FLOW_REQUIRED")
        if self.fail_count and case not in (ZERO, FAIL):
            return self._failed(case, implicit, reference)
        try:
            if case in (ZERO, DAILY):
                return (self._zero if case == ZERO else self._daily)(flags, reference)
            if case in SPECIAL:
                return self._special(case, reference)
            if case in (BEGIN, UPDATE, DELTA, FAIL):
                return self._step(case, reference)
            return self._business(implicit, reference)
        except Failure:
            if case == START:
                raise
            return self._failed(case, implicit, reference)

    # ---- what each kind does ------------------------------------------------------------------------

    def _failed(self, case: int, implicit: bool, reference: str) -> tuple[int, str]:
        self.fail_count += 1
        if case == DAILY:
            self.closings += 1
        if implicit or case in (UPDATE, DELTA):
            return 2, ""
        if case == BEGIN:
            self.failed_starts.pop(reference, None)
            self.failed_starts[reference] = self.row
        elif reference in self.failed_starts:
            del self.failed_starts[reference]
        elif reference in self.open and not self.open[reference][1]:
            self.failed_finishes.pop(reference, None)
            self.failed_finishes[reference] = self.row
        return 2, ""

    def _start(self, reference: str) -> int:
        try:
            return self.tse.start(self.row)
        except Lost:
            self.doubts[self.row] = reference
            raise

    def _compare(self) -> None:
        """Forget what the TSE has not open, and end what starts without an answer have opened."""
        on_tse = self.tse.list()
        for key, (number, _) in list(self.open.items()):
            if number not in on_tse:
                del self.open[key]
        strangers = on_tse - {number for number, _ in self.open.values()}
        for row, reference in list(self.doubts.items()):
            if strangers:
                number = self.tse.start(row, retry=True)
                key = f"{reference}#{number}"
                self.open[key] = (number, True)
                try:
                    self.tse.finish(number, self.row)
                except Refusal:
                    pass
                del self.open[key]
            del self.doubts[row]

    def _compare_if_needed(self) -> None:
        if self.open or self.doubts:
            try:
                self._compare()
            except Failure:
                pass

    def _own(self, reference: str) -> str:
        """A transaction of the receipt itself; if only its finish fails, it stays behind as an orphan."""
        taken = reference in self.open
        number = self._start(reference)
        key = f"{reference}#{number}" if taken else reference
        self.open[key] = (number, True)
        self.tse.finish(number, self.row)
        del self.open[key]
        return f"IT{number}"

    def _make_room(self, reference: str) -> None:
        if reference not in self.open:
            return
        number, orphan = self.open[reference]
        if not orphan:
            raise Rejection(ALREADY)
        try:
            self.tse.finish(number, self.row)
        except Refusal:
            pass
        del self.open[reference]

    def _business(self, implicit: bool, reference: str) -> tuple[int, str]:
        if implicit:
            self._make_room(reference)
            return 0, self._own(reference)
        return 0, self._finish(reference)

    def _finish(self, reference: str) -> str:
        if reference not in self.open:
            raise Rejection(NOT_FOUND)
        number, _ = self.open[reference]
        try:
            self.tse.finish(number, self.row)
        except Refusal:
            del self.open[reference]
            raise Rejection(NOT_FOUND) from None
        del self.open[reference]
        return f"T{number}"

    def _step(self, case: int, reference: str) -> tuple[int, str]:
        if case == BEGIN:
            self._make_room(reference)
            number = self._start(reference)
            self.open[reference] = (number, False)
            return 0, f"ST{number}"
        if case == FAIL:
            if reference in self.failed_starts:
                del self.failed_starts[reference]
                return 0, ""
            return 0, self._finish(reference)
        if reference not in self.open:
            raise Rejection(NOT_FOUND)
        number, _ = self.open[reference]
        try:
            self.tse.update(number)
        except Refusal:
            del self.open[reference]
            raise Rejection(NOT_FOUND) from None
        return 0, f"{'UT' if case == UPDATE else 'DT'}{number}"

    def _special(self, case: int, reference: str) -> tuple[int, str]:
        if case != START:
            self._compare_if_needed()
        suffix = self._own(reference)
        if case == START:
            self.active = True
        return 0, suffix

    def _zero(self, flags: int, reference: str) -> tuple[int, str]:
        suffix = self._own(reference)
        if self.fail_count:
            for waiting, row in list(self.failed_finishes.items()):
                if waiting in self.open:
                    number, _ = self.open[waiting]
                    try:
                        self.tse.finish(number, row, retry=True)
                    except Refusal:
                        pass
                    del self.open[waiting]
                del self.failed_finishes[waiting]
            for waiting, row in list(self.failed_starts.items()):
                if waiting in self.open:  # started before the failure and in it: nobody checked
                    displaced, _ = self.open[waiting]
                    self.open[f"{waiting}#{displaced}"] = (displaced, True)
                self.open[waiting] = (self.tse.start(row, retry=True), False)
                del self.failed_starts[waiting]
                self.doubts.pop(row, None)
            self._compare_if_needed()
        self.fail_count = self.late_count = 0
        return 0, suffix

    def _daily(self, flags: int, reference: str) -> tuple[int, str]:
        self._compare()
        if self.open and flags & FAIL_ON_OPEN:
            raise Rejection("OPEN_TRANSACTIONS")
        for key, (number, _) in sorted(self.open.items(), key=lambda each: each[1][0]):
            self.tse.finish(number, self.row)
            del self.open[key]
        if flags & CLOSE_ALL:
            for number in sorted(self.tse.list()):
                self.tse.finish(number, self.row)
        suffix = self._own(reference)
        self.closings += 1
        return 0, suffix


class QueueMachine(RuleBasedStateMachine):
    """Sends the same to the queue and to the model."""

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.directory = tempfile.TemporaryDirectory()
        self.shop = Shop(Path(self.directory.name), start=False)
        self.model = Model()
        self.answers: dict[str, str] = {}

    def teardown(self) -> None:
        try:
            report = verify_journal(self.shop.middleware.store, self.shop.row)
            assert report.ok, report.problems
            assert report.counts["errors"] == self.model.errors
            assert report.counts["receipts"] == self.model.numerator
        finally:
            self.shop.close()
            self.directory.cleanup()
            logging.disable(logging.NOTSET)

    # ---- sending ------------------------------------------------------------------------------------

    def request(self, case: int, flags: int, reference: str) -> dict[str, Any]:
        request = self.shop.request(case | flags, reference, flow="as it is")
        if case in (SALE, PROTOCOL):
            request["cbChargeItems"] = [{"Description": "Ware", "Amount": 7.5, "ftChargeItemCase": DE | 1}]
            request["cbPayItems"] = [{"Amount": 7.5, "ftPayItemCase": CASH}]
        return request

    def send(self, case: int, flags: int, reference: str) -> None:
        request = self.request(case, flags, reference)
        body = json.dumps(request)
        numerator = self.model.numerator
        try:
            state, suffix = self.model.sign(case, flags, reference)
        except Rejection as expected:
            code = str(expected)
            with pytest.raises(ReceiptRejected) as caught:
                self.shop.post(request)
            assert caught.value.code == code
            return
        except Failure:
            with pytest.raises(ScuError):
                self.shop.post(request)
            return
        text = self.shop.middleware.sign_json(body.encode()).decode()
        self.answers[body] = text
        answer = json.loads(text)
        assert answer["ftState"] == DE + state
        assert answer["ftReceiptIdentification"] == f"ft{numerator:X}#{suffix}"
        assert answer["ftQueueRow"] == self.model.row
        names = captions(answer)
        assert ("www.fiskaltrust.de" in names) == (
            case in (SALE, ORDER, PROTOCOL, FAIL) and suffix.startswith(("IT", "T"))
        )
        assert ("<vorgangsbeginn>" in names) == (case == SALE and suffix != "")
        if "www.fiskaltrust.de" in names:
            assert verify_qr(data_of(answer, "www.fiskaltrust.de")).valid
            assert data_of(answer, "<transaktions-nummer>") == suffix.strip("IT")
        if flags & TRAINING and suffix:
            assert names[-1] == "Trainingsbuchung"

    @initialize(activate=st.sampled_from([True, True, True, False]))
    def begin(self, activate: bool) -> None:
        if activate:
            self.send(START, IMPLICIT, "start")

    @rule(reference=REFERENCES, case=st.sampled_from([SALE, SALE, ORDER, PROTOCOL]), implicit=st.booleans())
    def sell(self, reference: str, case: int, implicit: bool) -> None:
        self.send(case, IMPLICIT if implicit else 0, reference)

    @rule(reference=REFERENCES, case=st.sampled_from([BEGIN, BEGIN, UPDATE, DELTA, FAIL]))
    def step(self, reference: str, case: int) -> None:
        self.send(case, 0, reference)

    @rule(
        reference=REFERENCES,
        case=st.sampled_from([ZERO, DAILY, DAILY, MONTHLY, YEARLY, START]),
        flags=st.sampled_from([0, 0, CLOSE_ALL, FAIL_ON_OPEN]),
    )
    def special(self, reference: str, case: int, flags: int) -> None:
        self.send(case, IMPLICIT | (flags if case == DAILY else 0), reference)

    @rule(reference=REFERENCES)
    def recover(self, reference: str) -> None:
        """What a shop does after a failure; as a rule of its own, so that it happens often."""
        self.shop.tse.down = None
        self.model.tse.down = False
        self.send(ZERO, IMPLICIT, reference)

    @rule(
        reference=REFERENCES,
        case=st.sampled_from([SALE, ORDER, ZERO, DAILY, BEGIN]),
        flag=st.sampled_from([LATE, HANDWRITTEN, TRAINING, LATE | HANDWRITTEN]),
        implicit=st.booleans(),
    )
    def flagged(self, reference: str, case: int, flag: int, implicit: bool) -> None:
        self.send(case, flag | (IMPLICIT if implicit else 0), reference)

    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """A receipt request gives the stored text, and leaves no row."""
        if self.answers:
            body = data.draw(st.sampled_from(sorted(self.answers)))
            request = json.loads(body)
            request["ftReceiptCase"] |= RECEIPT_REQUEST
            again = self.shop.middleware.sign_json(json.dumps(request).encode())
            assert again.decode() == self.answers[body]
        unknown = self.request(SALE, IMPLICIT | RECEIPT_REQUEST, "nobody")
        assert self.shop.post(unknown) is None

    # ---- disturbing ---------------------------------------------------------------------------------

    @rule(down=st.booleans())
    def unplug(self, down: bool) -> None:
        self.shop.tse.down = Unreachable("CONNECT_FAILED", "nobody answers") if down else None
        self.model.tse.down = down

    @rule(
        method=st.sampled_from(["start_transaction", "finish_transaction"]),
        when=st.sampled_from(["before", "after"]),
    )
    def fail_once(self, method: str, when: str) -> None:
        if self.model.tse.fault is not None:
            return
        self.model.tse.fault = (method, when)
        if when == "before":
            self.shop.tse.fail_before(method, Unreachable("CONNECT_FAILED", "nobody answers"))
        else:
            self.shop.tse.fail_after(method, OutcomeUnknown("NO_RESPONSE", "the answer is lost"))

    @rule()
    def reopen(self) -> None:
        self.shop.reopen()
        self.model.tse.down = False
        self.model.tse.fault = None

    # ---- comparing ----------------------------------------------------------------------------------

    @invariant()
    def the_same(self) -> None:
        row, model, store = self.shop.row, self.model, self.shop.middleware.store
        assert row.ftCurrentRow == model.row
        assert row.ftReceiptNumerator == model.numerator
        assert row.SSCDFailCount == model.fail_count
        assert row.UsedFailedCount == model.late_count
        assert row.DailyClosingNumber == model.closings
        assert (row.StartMoment is not None) == model.active
        stored = store.open_transactions(row.queue_no)
        assert {each.cbReceiptReference: (each.TransactionNumber, each.implicit) for each in stored} == (
            model.open
        )
        starts, finishes = store.failed_starts(row.queue_no), store.failed_finishes(row.queue_no)
        assert {each.cbReceiptReference for each in starts} == set(model.failed_starts)
        assert {each.cbReceiptReference for each in finishes} == set(model.failed_finishes)
        assert len(store.doubtful_starts(row.queue_no)) == len(model.doubts)
        assert set(self.shop.open_on_tse()) == model.tse.open


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # shrinking takes minutes; add Phase.shrink to look into a failure
    suppress_health_check=list(HealthCheck),
)
