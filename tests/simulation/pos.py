"""Registers that sell, and that do after a lost answer what a POS is told to do.

* **asks, then late**: ask with the receipt-request flag; without an answer print a copy, send it with the flag for
  late signing when the middleware is back, and end the period with a zero receipt.
* **asks, then sends again**: the same, but the receipt is sent again as it was.
* **impatient**: sends the very same request again without asking; its queue recognises duplicates.
"""

from __future__ import annotations

import json
from typing import Any

from fiskal.errors import FiskalError, ReceiptRejected, StoreError
from fiskal.germany.codes import DE
from fiskal.scu.errors import ScuError
from tests.simulation.site import Crash, Site, Violation

IMPLICIT, TRAINING, VOID = 0x1_0000_0000, 0x2_0000, 0x4_0000
LATE, HANDWRITTEN, RECEIPT_REQUEST = 0x1_0000, 0x8_0000, 0x8000_0000_0000
CLOSE_ALL, FAIL_ON_OPEN, TSE_INFO = 0x2_0000_0000, 0x1000_0000, 0x80_0000
FORCE, CLIENT_ONLY = 0x4000_0000, 0x100_0000
ZERO, START, STOP, MONTHLY, YEARLY, DAILY = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
INITIATE, FINISH, MIGRATION = 0x17, 0x18, 0x19
BEGIN, UPDATE, DELTA, FAIL = 0x08, 0x09, 0x0A, 0x0B
SALE, ORDER, PROTOCOL = 0x01, 0x10, 0x14
SPECIAL = frozenset({ZERO, START, STOP, MONTHLY, YEARLY, DAILY, INITIATE, FINISH, MIGRATION})

EXPECTED = frozenset(
    {
        "TRANSACTION_NOT_FOUND",
        "TRANSACTION_ALREADY_STARTED",
        "OPEN_TRANSACTIONS",
        "SCU_SWITCH_WITHOUT_CLOSING",
        "TSE_SHARED",
    }
)
"""What a register that does nothing wrong may be told, because a closing, an outage or another queue was faster."""

NOT_CONNECTED = frozenset({"TSE_NOT_INITIALIZED"})
"""What a receipt that takes up work at a TSE may be told beside the errors of the TSE."""

DELIBERATE = "IMPLICIT_FLOW_REQUIRED"
MIGRATED = "MIGRATED"


class Unanswered(Exception):
    """The register heard nothing."""


class Receipt:
    """One receipt of a register and everything that became of it. ``key`` is its cbReceiptMoment: unique."""

    def __init__(self, register: Register, request: dict[str, Any]) -> None:
        self.register = register
        self.request = request
        self.key = str(request["cbReceiptMoment"])
        self.case = int(request["ftReceiptCase"]) & 0xFFFF
        self.reference = str(request["cbReceiptReference"])
        self.explicit = not request["ftReceiptCase"] & IMPLICIT
        self.answer: str | None = None
        self.answered_request: dict[str, Any] = request
        self.error: str | None = None
        self.asked = False

    @property
    def connects(self) -> bool:
        """It takes up work at a TSE: if that fails, it is an error, and can be sent again."""
        return connects(self.case, int(self.request["ftReceiptCase"]))


def connects(case: int, flags: int) -> bool:
    return case in (START, FINISH) or (case == INITIATE and bool(flags & VOID))


class Register:
    """One register at one queue."""

    def __init__(self, site: Site, name: str, queue_id: str, books: Books) -> None:
        self.site = site
        self.name = name
        self.queue_id = queue_id
        self.books = books
        self.leads = False
        """It sends the life cycle receipts and closings of its queue."""
        self.policy = "impatient" if site.impatient else site.chance.choice(("late", "again"))
        self.backlog: list[Receipt] = []
        self.open: list[str] = []
        self.failed = False
        self.needs_zero = False
        self._steps: set[tuple[str, int]] = set()
        self._count = 0

    # ---- one turn ---------------------------------------------------------------------------------

    def step(self) -> None:
        """Do one thing. Raises Crash if the process dies over it."""
        books, chance = self.books, self.site.chance
        if self.backlog:
            if chance.random() < 0.7:
                self.deliver(self.backlog[0])
            return
        if not books.started.get(self.queue_id):
            if self.leads:
                self.sign(self.special(START))
            elif chance.random() < 0.3:
                self.sign(self.sale())
            return
        if self.leads and self.queue_id in books.switching and chance.random() < 0.5:
            self.end_switch()
            return
        if self.needs_zero or (self.failed and chance.random() < 0.35):
            self.sign(self.special(ZERO))
            return
        chance.choices(
            (self.sell, self.explicit, self.oddity, self.close_period, self.ask_again, self.change_life),
            (50, 30, 8, 6 if self.leads else 0, 6, 4 if self.leads else 0),
        )[0]()

    def sell(self) -> None:
        self.sign(self.sale())

    def sale(self) -> Receipt:
        chance = self.site.chance
        case = chance.choices((SALE, ORDER, PROTOCOL), (8, 2, 1))[0]
        return self.receipt(case | IMPLICIT, chance.choice((0, 0, 0, 0, TRAINING, VOID)))

    def explicit(self) -> None:
        chance = self.site.chance
        if not self.open or chance.random() < 0.4:
            self.sign(self.receipt(BEGIN, reference=self.new_reference()))
            return
        reference = chance.choice(self.open)
        case = chance.choices((SALE, UPDATE, DELTA, FAIL), (6, 2, 1, 1))[0]
        if (reference, case) in self._steps:
            case = SALE  # a receipt request could not tell a second update of a transaction from the first
        self._steps.add((reference, case))
        self.sign(self.receipt(case, reference=reference))

    def oddity(self) -> None:
        kind = self.site.chance.randrange(3)
        if kind == 0:
            self.sign(self.receipt(SALE | IMPLICIT, HANDWRITTEN))
        elif kind == 1:
            self.sign(self.receipt(ZERO))  # without the implicit flag: rejected
        else:
            self.sign(self.special(ZERO))

    def close_period(self) -> None:
        chance = self.site.chance
        case = chance.choice((DAILY, DAILY, DAILY, MONTHLY, YEARLY))
        flags = chance.choice((0, 0, CLOSE_ALL, FAIL_ON_OPEN)) if case == DAILY else 0
        self.sign(self.special(case, flags))

    def change_life(self) -> None:
        """Leave the TSE for the other one, or for good; or leave this installation."""
        books, chance = self.books, self.site.chance
        kind = chance.choices((self.switch, self.stop, self.migrate), (8, 1, 1))[0]
        if kind != self.switch or books.partner(self.queue_id) is not None:
            kind()

    def switch(self) -> None:
        chance = self.site.chance
        self.books.intending.add(self.queue_id)
        flags = chance.choice((0, 0, FORCE))
        if not flags:
            self.sign(self.special(DAILY))
            if self.backlog:
                return
        if chance.random() < 0.8 or not self.books.terminate(self.queue_id):
            flags |= CLIENT_ONLY
        self.sign(self.special(INITIATE, flags))

    def end_switch(self) -> None:
        """Take up work at the target; or at the source again, without its TSE if need be."""
        chance = self.site.chance
        case, flags = chance.choices(
            ((FINISH, 0), (FINISH, CLIENT_ONLY), (INITIATE, VOID), (INITIATE, VOID | FORCE)), (6, 1, 1, 1)
        )[0]
        self.sign(self.special(case, flags))

    def stop(self) -> None:
        terminates = self.site.chance.random() < 0.3 and self.books.terminate(self.queue_id)
        self.sign(self.special(STOP, 0 if terminates else CLIENT_ONLY))

    def migrate(self) -> None:
        self.sign(self.special(MIGRATION))

    def ask_again(self) -> None:
        """Any receipt of the past can be asked for, and has one answer."""
        answered = self.books.answered_of(self)
        if answered:
            self.books.check_asked(self, self.site.chance.choice(answered))

    # ---- requests ---------------------------------------------------------------------------------

    def new_reference(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    def receipt(self, case: int, flags: int = 0, reference: str | None = None) -> Receipt:
        books, chance = self.books, self.site.chance
        amount = chance.randrange(1, 100_000) / 100
        sells = case & 0xFFFF in (SALE, PROTOCOL)
        request = {
            "ftCashBoxID": self.site.config.cash_box_id,
            "ftQueueID": self.queue_id,
            "cbTerminalID": self.name,
            "cbReceiptReference": self.new_reference() if reference is None else reference,
            "cbReceiptMoment": books.new_moment(),
            "cbChargeItems": [{"Description": "Ware", "Amount": amount, "ftChargeItemCase": DE | 1}]
            if sells
            else [],
            "cbPayItems": [{"Amount": amount, "ftPayItemCase": DE | 1}] if sells else [],
            "ftReceiptCase": DE | case | flags,
        }
        return books.add(Receipt(self, request))

    def special(self, case: int, flags: int = 0) -> Receipt:
        return self.receipt(case | IMPLICIT, flags)

    # ---- sending ----------------------------------------------------------------------------------

    def sign(self, receipt: Receipt) -> None:
        """Send a receipt for the first time."""
        self._attempt(receipt, receipt.request)

    def deliver(self, receipt: Receipt) -> None:
        """Send a receipt that got no answer; without one again it stays in the backlog."""
        try:
            self._deliver(receipt)
        except Unanswered:
            self.site.trace("  -> no answer")

    def _deliver(self, receipt: Receipt) -> None:
        chance = self.site.chance
        if self.policy != "impatient" or receipt.case in SPECIAL:
            text = self._ask(receipt, receipt.request)
            if text is not None:
                self._heard(receipt, receipt.request, text)
                return
            if receipt.answered_request is not receipt.request:
                text = self._ask(receipt, receipt.answered_request)
                if text is not None:
                    self._heard(receipt, receipt.answered_request, text)
                    return
        request = receipt.request
        if self.policy == "late" and receipt.case not in SPECIAL and chance.random() < 0.8:
            request = {**request, "ftReceiptCase": request["ftReceiptCase"] | LATE}
        receipt.answered_request = request
        self._attempt(receipt, request)

    def _ask(self, receipt: Receipt, request: dict[str, Any]) -> str | None:
        """The receipt request: the answer, None if there is none. Raises Unanswered."""
        self.site.trace(f"{self.name} asks for {receipt.key}")
        flagged = {**request, "ftReceiptCase": request["ftReceiptCase"] | RECEIPT_REQUEST}
        try:
            text = self._post(flagged)
        except StoreError as error:
            raise Unanswered from error
        except ReceiptRejected as error:
            if error.code != MIGRATED:
                raise Violation(f"asking for {receipt.key} was rejected with {error.code}") from error
            return None
        return None if text == "null" else text

    def _attempt(self, receipt: Receipt, request: dict[str, Any]) -> None:
        site, books = self.site, self.books
        site.trace(
            f"{self.name} sends {receipt.key} {request['ftReceiptCase'] & 0xFFFF_FFFF_FFFF:X} {receipt.reference}"
        )
        if receipt not in self.backlog:
            self.backlog.append(receipt)
        if receipt.case == MIGRATION:
            books.migrating.add(self.queue_id)
        text: str | None = None
        code: str | None = None
        try:
            text = self._post(request)
        except StoreError as error:
            site.trace(f"  -> {type(error).__name__}")
            return
        except ReceiptRejected as error:
            text, code = error.response, error.code
            if text is None and code != MIGRATED:
                raise Violation(f"{receipt.key} was refused without a trace: {error}") from error
        except ScuError as error:
            if not receipt.connects:
                raise Violation(f"{receipt.key}: a TSE that fails is no error, but: {error!r}") from error
            code = error.code
        except FiskalError as error:
            if not receipt.connects or error.code not in NOT_CONNECTED:
                raise Violation(f"{receipt.key}: {error.code} {error}") from error
            code = error.code
        if text is not None:
            books.answer(receipt, request, text)
        if site.happens(site.faults.answer_lost):
            site.trace("  -> the answer is lost on the way")
            return
        if code is not None:
            self._rejected(receipt, code)
        elif text is not None:
            self._heard(receipt, request, text)

    def _post(self, request: dict[str, Any]) -> str:
        site = self.site
        site.busy.add(self.queue_id)
        try:
            return site.middleware.sign_json(json.dumps(request).encode()).decode()
        except Crash:
            site.dead = True
            raise
        finally:
            site.busy.discard(self.queue_id)

    def _rejected(self, receipt: Receipt, code: str) -> None:
        self.site.trace(f"  -> {code}")
        deliberate = receipt.case == ZERO and receipt.explicit
        if code == MIGRATED:
            if self.queue_id not in self.books.migrating:
                raise Violation(f"{receipt.key} was rejected, but nobody sent a migration receipt")
        elif not receipt.connects and code not in EXPECTED and not (deliberate and code == DELIBERATE):
            raise Violation(f"{receipt.key} was rejected with {code}")
        self.backlog.remove(receipt)
        receipt.error = code
        if code == "TRANSACTION_NOT_FOUND" and receipt.reference in self.open:
            self.open.remove(receipt.reference)

    def _heard(self, receipt: Receipt, request: dict[str, Any], text: str) -> None:
        answer = json.loads(text)
        state = answer["ftState"] - DE
        self.site.trace(f"  -> {answer['ftReceiptIdentification']} state {state:X}")
        self.backlog.remove(receipt)
        if state == 0x2000_EEEE_EEEE:
            raise Violation(f"a receipt request gave an error: {text}")
        receipt.answer, receipt.answered_request = text, request
        self.books.heard(receipt, text)
        late = bool(request["ftReceiptCase"] & LATE)
        if receipt.case == ZERO and state == 0:
            self.failed = self.needs_zero = False
        elif state == 2:
            self.failed = True
        elif state == 8:
            self.needs_zero = True
        if receipt.case == START and state == 0:
            self.books.started[self.queue_id] = True
        if receipt.case in (INITIATE, FINISH) and state == 0:
            self.books.switched(self.queue_id, receipt)
        if receipt.case == STOP and state == 0:
            self.books.stopped.add(self.queue_id)
        if receipt.case == MIGRATION and state == 0:
            self.books.migrated.add(self.queue_id)
        if receipt.explicit:
            self._step_done(receipt, state, late)
        if receipt.case == DAILY:
            for register in self.books.registers:  # what was open may be closed; who asks will hear it
                if register.queue_id == self.queue_id and not self.failed:
                    register.open.clear()

    def _step_done(self, receipt: Receipt, state: int, late: bool) -> None:
        if receipt.case == BEGIN:
            if state in (0, 2) and not late and self.queue_id not in self.books.stopped:
                self.open.append(receipt.reference)
        elif receipt.case in (SALE, FAIL) and receipt.reference in self.open:
            self.open.remove(receipt.reference)


class Books:
    """What all registers know: every receipt, every answer that left the host."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.registers: list[Register] = []
        self.receipts: list[Receipt] = []
        self.started: dict[str, bool] = {}
        self.at: dict[str, str] = {queue.id: queue.scu_id for queue in site.config.queues}
        """The SCU each queue is at, or comes from while it switches."""
        self.switching: set[str] = set()
        self.intending: set[str] = set()
        """Queues that were told to switch, whether or not they have answered."""
        self.stopped: set[str] = set()
        self.migrating: set[str] = set()
        """Queues that were sent a migration receipt."""
        self.migrated: set[str] = set()
        self.terminated: set[str] = set()
        """SCUs whose TSE may have been terminated."""
        self.left: dict[str, str] = {}
        """Every answer the host gave, by ftQueueItemID."""
        self._moment = 0

    @property
    def in_service(self) -> set[str]:
        """Queues that sign."""
        return {queue for queue, started in self.started.items() if started} - self.stopped - self.migrated

    def partner(self, queue_id: str) -> str | None:
        """The SCU a queue can switch to."""
        others = [scu.id for scu in self.site.config.scus if scu.id != self.at[queue_id]]
        return others[0] if others and others[0] not in self.terminated else None

    def terminate(self, queue_id: str) -> bool:
        """May a queue terminate its TSE: has nobody else to do with it? Then it is noted as terminated."""
        here = self.at[queue_id]
        if any(
            other != queue_id and (scu == here or other in self.intending) for other, scu in self.at.items()
        ):
            return False
        self.terminated.add(here)
        return True

    def switched(self, queue_id: str, receipt: Receipt) -> None:
        if not receipt.connects:
            self.switching.add(queue_id)
            return
        self.switching.discard(queue_id)
        self.intending.discard(queue_id)
        if receipt.case == FINISH:
            (self.at[queue_id],) = (scu.id for scu in self.site.config.scus if scu.id != self.at[queue_id])

    def new_moment(self) -> str:
        self._moment += 1
        hours, rest = divmod(self._moment, 3600)
        return f"2023-11-{14 + hours // 24:02d}T{hours % 24:02d}:{rest // 60:02d}:{rest % 60:02d}Z"

    def add(self, receipt: Receipt) -> Receipt:
        self.receipts.append(receipt)
        return receipt

    def answer(self, receipt: Receipt, request: dict[str, Any], text: str) -> None:
        """An answer left the host, whether or not it arrives."""
        response = json.loads(text)
        for name in ("cbTerminalID", "cbReceiptReference", "ftCashBoxID", "ftQueueID"):
            if response[name] != request[name]:
                raise Violation(f"{receipt.key}: the answer is for another receipt: {text}")
        self.note(text)
        self.site.counts["receipts"] += 1

    def note(self, text: str) -> None:
        item = json.loads(text)["ftQueueItemID"]
        if self.left.setdefault(item, text) != text:
            raise Violation(f"item {item} was answered twice, differently:\n{self.left[item]}\n{text}")

    def heard(self, receipt: Receipt, text: str) -> None:
        self.note(text)

    def answered_of(self, register: Register) -> list[Receipt]:
        return [
            receipt
            for receipt in self.receipts
            if receipt.register is register and receipt.answer is not None and receipt.error is None
        ]

    def check_asked(self, register: Register, receipt: Receipt) -> None:
        """A receipt request returns the answer that was heard, to the byte."""
        request = receipt.answered_request
        flagged = {**request, "ftReceiptCase": request["ftReceiptCase"] | RECEIPT_REQUEST}
        self.site.trace(f"{register.name} asks again for {receipt.key}")
        try:
            text = register._post(flagged)
        except StoreError:
            return
        if text != receipt.answer:
            raise Violation(f"asked for {receipt.key}, got {text}, but had heard {receipt.answer}")


def open_registers(site: Site) -> Books:
    books = Books(site)
    for number, queue in enumerate(site.config.queues, 1):
        for each in range(1, site.chance.choice((1, 1, 2, 3)) + 1):
            register = Register(site, f"Q{number}T{each}", queue.id, books)
            register.leads = each == 1
            books.registers.append(register)
    return books
