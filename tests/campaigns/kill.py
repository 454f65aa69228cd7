"""The kill campaign: ``fiskal serve`` dies by SIGKILL at random moments while registers sell, again and again.

    python -m tests.campaigns.kill --kills 300

Three queues on two TSEs, several registers at each, over HTTP. They sell in both flows, order, abort, close and
send zero receipts. After every death the host is started again, and every register does what the documentation
tells a POS to do: it asks for the lost answer with the receipt request flag, sends the receipt if nobody has it,
and hands in what it sold meanwhile with the flag for late signing. In the end three records must agree: what the
registers were answered, what the journals hold, and what the TSEs themselves have logged.

Every receipt has an amount or a text of its own, so that a second signature for it shows in the log of the TSE
whatever numbers it got. The seed fixes what every register sends and when the host is killed: after how many
answers and how much later. The operating system decides the rest, so a seed repeats a campaign closely, not to
the instruction.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click

import fiskal
from fiskal.export.verify import verify_journal
from fiskal.germany.codes import DE, ReceiptCase, ReceiptFlag
from fiskal.germany.texts import ABORTED_TRANSACTION, SONSTIGER_VORGANG
from fiskal.host import config as configs
from fiskal.host.config import QueueConfig, ScuConfig
from fiskal.scu.software import SoftwareTse
from fiskal.tse.logmessage import LogMessage, parse
from tests.cli.test_serve import ENVIRONMENT, FISKAL, serving
from tests.flows.doors import post

IMPLICIT = int(ReceiptFlag.IMPLICIT_FLOW)
LATE = int(ReceiptFlag.FAILED_RECEIPT)
RECEIPT_REQUEST = int(ReceiptFlag.RECEIPT_REQUEST)
BYPASS_TAR_EXPORT = int(ReceiptFlag.BYPASS_TAR_EXPORT)
CASH = DE | 0x01

REGISTERS_PER_QUEUE = 2
PATIENCE_S = 120
"""How long a host may take for one answer before the campaign calls it stuck."""

TRANSACTION = re.compile(r"ft([0-9A-F]+)#(?:(?:ST|UT|DT|IT|T)([0-9]+))?")


class Violation(AssertionError):
    """What must never happen."""


class Kill(NamedTuple):
    """One death of the host."""

    answers: int | None
    """After so many answers; None: while it starts."""
    delay_s: float
    """So much later, or so long after its start."""


def schedule(seed: int, kills: int) -> list[Kill]:
    """When the host dies. One in eight times it does not even come up; some times it dies while the registers
    still ask for what the last death cost them."""
    chance = random.Random(seed)
    result = []
    for _ in range(kills):
        if chance.random() < 0.125:
            result.append(Kill(None, chance.random() * 2))
        else:
            answers = chance.choice((0, 1, 5, chance.randrange(50), chance.randrange(250)))
            result.append(Kill(answers, chance.random() ** 3 * 0.05))
    return result


class Gate:
    """Lets a queue be closed only when none of its registers waits for an answer: a shop that closes the day
    does not leave a receipt of that day in the air."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._unanswered = 0
        self._closing = False

    def enter(self, dead: threading.Event, *, closing: bool) -> bool:
        """Take a receipt up; False if the host died while waiting for the right to."""
        with self._condition:
            if closing and not self._closing:
                self._closing = True
                if self._wait(dead, lambda: self._unanswered == 0):
                    self._unanswered = 1
                    return True
                self._closing = False
                self._condition.notify_all()
                return False
            if not self._wait(dead, lambda: not self._closing):
                return False
            self._unanswered += 1
            return True

    def leave(self, *, closing: bool) -> None:
        """The receipt has its answer."""
        with self._condition:
            self._unanswered -= 1
            if closing:
                self._closing = False
            self._condition.notify_all()

    def _wait(self, dead: threading.Event, wanted: Any) -> bool:
        while not wanted():
            if dead.is_set():
                return False
            self._condition.wait(0.02)
        return True


class Sent(NamedTuple):
    """A request as it goes over the wire."""

    body: bytes
    case: int
    reference: str

    @property
    def closing(self) -> bool:
        return self.case & 0xFFFF == ReceiptCase.DAILY_CLOSING


class Answered(NamedTuple):
    """A request and the answer a register has for it."""

    sent: Sent
    text: str


class Register:
    """One register of one queue. It knows every answer it got, and the request it got none for."""

    def __init__(self, number: int, registers: int, queue_id: str, cash_box_id: str, gate: Gate, seed: int):
        self.name = f"T{number}"
        self.queue_id = queue_id
        self.closes = number % REGISTERS_PER_QUEUE == 0
        self.answered: list[Answered] = []
        self.aborted: list[str] = []
        """References whose explicit transaction a closing had closed before the register could finish it."""
        self.asked = Counter[str]()
        self.in_flight: Sent | None = None
        self._number = number
        self._registers = registers
        self._cash_box_id = cash_box_id
        self._gate = gate
        self._chance = random.Random(f"{seed}/{number}")
        self._count = 0
        self._next: deque[Sent] = deque()

    # ---- what it sends ------------------------------------------------------------------------------

    def make(self, case: int, reference: str, *, sold: bool = False) -> Sent:
        """A request whose processData no other receipt of the campaign has, if something is ``sold``."""
        cents = self._count * self._registers + self._number + 1
        amount = f"{cents // 100}.{cents % 100:02d}"
        charge = {
            "Quantity": 1,
            "Amount": amount,
            "ftChargeItemCase": DE | 1,
            "Description": f"Ware {reference}",
        }
        order = case & 0xFFFF == ReceiptCase.INFO_ORDER
        request = {
            "ftCashBoxID": self._cash_box_id,
            "ftQueueID": self.queue_id,
            "cbTerminalID": self.name,
            "cbReceiptReference": reference,
            "cbReceiptMoment": "2024-01-02T08:00:00Z",
            "cbChargeItems": [charge] if sold or order else [],
            "cbPayItems": [{"Amount": amount, "ftPayItemCase": CASH}] if sold else [],
            "ftReceiptCase": DE | case,
        }
        return Sent(json.dumps(request).encode(), case, reference)

    def _plan(self) -> None:
        """Think of the next thing that happens at this register."""
        self._count += 1
        reference = f"{self.name}-{self._count}"
        what = self._chance.random()
        add = self._next.append
        if what < 0.5:
            add(self.make(IMPLICIT | ReceiptCase.POS_RECEIPT, reference, sold=True))
        elif what < 0.62:
            add(self.make(IMPLICIT | ReceiptCase.INFO_ORDER, reference))
        elif what < 0.84:
            add(self.make(ReceiptCase.START_TRANSACTION, reference))
            if self._chance.random() < 0.3:
                add(self.make(ReceiptCase.UPDATE_TRANSACTION, reference))
            add(self.make(ReceiptCase.POS_RECEIPT, reference, sold=True))
        elif what < 0.9:
            add(self.make(ReceiptCase.START_TRANSACTION, reference))
            add(self.make(ReceiptCase.FAIL_TRANSACTION, reference, sold=True))
        elif what < 0.95 or not self.closes:
            add(self.make(IMPLICIT | ReceiptCase.ZERO, reference))
        elif what < 0.97:
            add(self.make(IMPLICIT | BYPASS_TAR_EXPORT | ReceiptCase.MONTHLY_CLOSING, reference))
        else:
            # without the TAR export, which would erase the log that is compared in the end
            add(self.make(IMPLICIT | BYPASS_TAR_EXPORT | ReceiptCase.DAILY_CLOSING, reference))

    def sell_without_host(self) -> None:
        """The host is dead and customers wait: some receipts are printed without it, to be handed in late."""
        for _ in range(self._chance.choice((0, 0, 0, 1, 2))):
            self._count += 1
            reference = f"{self.name}-{self._count}"
            self._next.appendleft(self.make(IMPLICIT | LATE | ReceiptCase.POS_RECEIPT, reference, sold=True))

    # ---- what it does with the host -----------------------------------------------------------------

    def work(self, port: int, dead: threading.Event, answers: threading.Semaphore) -> None:
        """Ask for what was lost, then sell until the host dies."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            self.ask_for_the_lost_one(connection)
            while not dead.is_set():
                if not self._next:
                    self._plan()
                if not self._gate.enter(dead, closing=self._next[0].closing):
                    return
                self.in_flight = self._next.popleft()
                self._send(connection, self.in_flight)
                answers.release()

    def finish(self, port: int) -> None:
        """The end of the campaign: nothing stays open at this register."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            self.ask_for_the_lost_one(connection)
            while self._next:
                self._gate.enter(threading.Event(), closing=self._next[0].closing)
                self.in_flight = self._next.popleft()
                self._send(connection, self.in_flight)

    def ask_for_the_lost_one(self, connection: http.client.HTTPConnection) -> None:
        """What every POS must do after a lost answer: ask for it, and only send the receipt if nobody has it."""
        sent = self.in_flight
        if sent is None:
            return
        request = json.loads(sent.body)
        request["ftReceiptCase"] |= RECEIPT_REQUEST
        response, text = post(connection, json.dumps(request).encode())
        if response.status != http.client.OK:
            raise Violation(f"{self.name}: a receipt request was answered {response.status}: {text!r}")
        if text == b"null":
            self.asked["sent again"] += 1
            self._send(connection, sent)
        else:
            self.asked["fetched"] += 1
            self._take(sent, text.decode())

    def _send(self, connection: http.client.HTTPConnection, sent: Sent) -> None:
        response, text = post(connection, sent.body)
        if response.status == http.client.OK:
            self._take(sent, text.decode())
            return
        if json.loads(text).get("code") != "TRANSACTION_NOT_FOUND" or sent.case & IMPLICIT:
            raise Violation(f"{self.name}: {sent.body!r} was answered {response.status}: {text!r}")
        # A closing was quicker: it closed the transaction as aborted. What the customer bought is sold anew,
        # in one call; an abort has nothing left to do.
        sold = sent
        while self._next and self._next[0].reference == sent.reference:
            sold = self._next.popleft()
        self.aborted.append(sent.reference)
        if sold.case & 0xFFFF == ReceiptCase.POS_RECEIPT:
            request = json.loads(sold.body)
            request["ftReceiptCase"] |= IMPLICIT
            self._next.appendleft(Sent(json.dumps(request).encode(), sold.case | IMPLICIT, sold.reference))
        self._done(sent)

    def _take(self, sent: Sent, text: str) -> None:
        answer, request = json.loads(text), json.loads(sent.body)
        state = DE + 8 if sent.case & LATE else DE
        names = ("cbTerminalID", "cbReceiptReference", "ftCashBoxID", "ftQueueID")
        if answer["ftState"] != state or any(answer[name] != request[name] for name in names):
            raise Violation(f"{self.name}: {sent.body!r} was answered {text}")
        self.answered.append(Answered(sent, text))
        self._done(sent)

    def _done(self, sent: Sent) -> None:
        self.in_flight = None
        self._gate.leave(closing=sent.closing)


class Site:
    """Three queues, two TSEs, one host, all in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        config = configs.new_config(client_id="KASSE-1")
        shared = config.scus[0].id
        own = ScuConfig(id=str(uuid.uuid4()))
        config.scus.append(own)
        for number, scu_id in ((2, shared), (3, own.id)):
            config.queues.append(
                QueueConfig(id=str(uuid.uuid4()), client_id=f"KASSE-{number}", scu_id=scu_id)
            )
        configs.save(folder, config)
        self.config = config
        total = len(config.queues) * REGISTERS_PER_QUEUE
        gates = [Gate() for _ in config.queues]
        self.registers = [
            Register(
                number,
                total,
                config.queues[number // REGISTERS_PER_QUEUE].id,
                config.cash_box_id,
                gates[number // REGISTERS_PER_QUEUE],
                seed,
            )
            for number in range(total)
        ]
        with fiskal.open(folder) as middleware:
            for register in self.registers:
                if register.closes:
                    start = register.make(IMPLICIT | ReceiptCase.INITIAL_OPERATION, f"start {register.name}")
                    text = middleware.sign_json(start.body)
                    register.answered.append(Answered(start, text.decode()))

    # ---- dying --------------------------------------------------------------------------------------

    def die_while_starting(self, after_s: float) -> None:
        command = [*FISKAL, "serve", "--data", str(self.folder), "--port", "0"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        ) as process:
            time.sleep(after_s)
            process.kill()

    def die_while_selling(self, kill: Kill) -> None:
        dead = threading.Event()
        answers = threading.Semaphore(0)
        with serving(self.folder) as served, ThreadPoolExecutor(len(self.registers)) as pool:
            port = int(served.url.rpartition(":")[2])
            working = [pool.submit(register.work, port, dead, answers) for register in self.registers]
            try:
                for _ in range(kill.answers or 0):
                    self._wait_for(answers, working)
                time.sleep(kill.delay_s)
            finally:
                served.process.kill()
                served.process.wait()
                dead.set()
            for each in working:
                each.result()
        for register in self.registers:
            register.sell_without_host()

    @staticmethod
    def _wait_for(answers: threading.Semaphore, working: list[Any]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not answers.acquire(timeout=0.5):
            for each in working:
                if each.done():
                    each.result()
            if time.monotonic() > until:
                raise Violation(f"the host gave no answer for {PATIENCE_S} s")

    def end(self) -> None:
        """Start the host once more, finish what is open, close every queue and stop it as one should."""
        with serving(self.folder) as served:
            port = int(served.url.rpartition(":")[2])
            with ThreadPoolExecutor(len(self.registers)) as pool:
                list(pool.map(lambda register: register.finish(port), self.registers))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            with contextlib.closing(connection):
                for register in self.registers:
                    if register.closes:
                        case = IMPLICIT | BYPASS_TAR_EXPORT | ReceiptCase.DAILY_CLOSING
                        closing = register.make(case, f"end {register.name}")
                        response, text = post(connection, closing.body)
                        if response.status != http.client.OK:
                            raise Violation(f"the last closing was answered {response.status}: {text!r}")
                        register.answered.append(Answered(closing, text.decode()))
            served.stop()

    # ---- comparing ----------------------------------------------------------------------------------

    def check(self) -> Result:
        """Compare the registers' records with the journals and with the logs of the TSEs."""
        result = Result()
        for register in self.registers:
            result.answered += len(register.answered)
            result.late += sum(bool(each.sent.case & LATE) for each in register.answered)
            result.fetched += register.asked["fetched"]
            result.sent_again += register.asked["sent again"]
            result.sold_anew += len(register.aborted)
        with fiskal.open(self.folder) as middleware:
            for queue in self.config.queues:
                self._check_journal(middleware.store, queue, result)
        self._verify_by_command(result)
        for scu in self.config.scus:
            self._check_tse(scu.id, result)
        return result

    def _of(self, *queue_ids: str) -> list[Answered]:
        return [
            each
            for register in self.registers
            if register.queue_id in queue_ids
            for each in register.answered
        ]

    def _check_journal(self, store: Any, queue: QueueConfig, result: Result) -> None:
        row = store.queue(queue.id)
        report = verify_journal(store, row)
        result.problems += [f"{queue.client_id}: {each.where}: {each.what}" for each in report.problems]
        result.rows += report.counts["items"]
        result.errors += report.counts["errors"]
        if report.counts["unanswered"]:
            result.problems.append(f"{queue.client_id}: {report.counts['unanswered']} rows have no answer")
        stored = Counter(
            answer.response
            for _, answer in store.iter_items(row.queue_no, 0)
            if json.loads(answer.response)["ftState"] & 0xFFFF_FFFF != 0xEEEE_EEEE
        )
        known = Counter(each.text for each in self._of(queue.id))
        result.lost += [f"{queue.client_id}: {text}" for text in (known - stored)]
        result.doubled += [f"{queue.client_id}, in the journal: {text}" for text in (stored - known)]
        numbers = sorted(
            int(TRANSACTION.fullmatch(json.loads(text)["ftReceiptIdentification"])[1], 16)  # type: ignore[index]
            for text in known
        )
        if numbers != list(range(len(numbers))):
            result.problems.append(f"{queue.client_id}: the receipt numbers have gaps")

    def _verify_by_command(self, result: Result) -> None:
        for queue in self.config.queues:
            done = subprocess.run(
                [*FISKAL, "verify", "journal", "--data", str(self.folder), "--queue-id", queue.id],
                env=ENVIRONMENT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                result.problems.append(f"fiskal verify journal: {done.stdout}{done.stderr}")

    def _check_tse(self, scu_id: str, result: Result) -> None:
        """Every signature belongs to a receipt, and to one only."""
        tse = SoftwareTse(self.folder / "scu" / scu_id, create=False)
        try:
            messages = [(counter, parse(der)) for counter, der in tse.messages()]
        finally:
            tse.close()
        if [counter for counter, _ in messages] != list(range(1, len(messages) + 1)):
            result.problems.append(f"TSE {scu_id}: the signature counters have gaps")
        queues = [queue for queue in self.config.queues if queue.scu_id == scu_id]
        answered = self._of(*(queue.id for queue in queues))
        named = {
            int(match[2])
            for match in (_identification(each.text) for each in answered)
            if match[2] is not None
        }
        transactions = _by_transaction(messages)
        result.transactions += len(transactions)
        finished: Counter[tuple[str, str]] = Counter()
        for number, operations in transactions.items():
            kinds = [operation.operation for operation in operations]
            if kinds.count("StartTransaction") > 1 or kinds.count("FinishTransaction") > 1:
                result.doubled.append(f"TSE {scu_id}: transaction {number} has {kinds}")
                continue
            if kinds[0] != "StartTransaction" or kinds[-1] != "FinishTransaction":
                result.problems.append(f"TSE {scu_id}: transaction {number} has only {kinds}")
                continue
            finish = operations[kinds.index("FinishTransaction")]
            data = (finish.process_data or b"").decode()
            if data != ABORTED_TRANSACTION:
                finished[finish.client_id or "", data] += 1
                if number not in named:
                    result.doubled.append(f"TSE {scu_id}: nobody was told of transaction {number}, {data}")
            elif number not in named:
                result.aborted += 1
        wanted = Counter(
            (json.loads(each.text)["ftCashBoxIdentification"], data)
            for each in answered
            if (data := _process_data(each)) is not None
        )
        result.lost += [f"TSE {scu_id}: {data} is not in the log" for data in (wanted - finished)]
        result.doubled += [f"TSE {scu_id}: {data} was signed more than once" for data in (finished - wanted)]


class Result:
    """What a campaign counted."""

    def __init__(self) -> None:
        self.answered = 0
        self.late = 0
        self.fetched = 0
        self.sent_again = 0
        self.sold_anew = 0
        self.rows = 0
        self.errors = 0
        self.transactions = 0
        self.aborted = 0
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self.problems: list[str] = []

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.problems)

    def table(self, seed: int, kills: int, seconds: float) -> str:
        rows = {
            "seed": seed,
            "kills": kills,
            "receipts answered": self.answered,
            "of them late-signed": self.late,
            "lost answers fetched with the receipt request": self.fetched,
            "receipts sent again because nobody had them": self.sent_again,
            "receipts sold anew because a closing had closed their transaction": self.sold_anew,
            "rows in the journals": self.rows,
            "of them error answers (interrupted, rejected)": self.errors,
            "transactions in the logs of the TSEs": self.transactions,
            "of them closed as aborted, without a receipt": self.aborted,
            "receipts lost": len(self.lost),
            "receipts signed or booked twice": len(self.doubled),
            "other violations": len(self.problems),
            "seconds": round(seconds),
        }
        width = max(map(len, rows))
        return "\n".join(
            [
                "| what | count |",
                "|---|---|",
                *(f"| {name:{width}} | {count} |" for name, count in rows.items()),
            ]
        )


def _identification(text: str) -> re.Match[str]:
    identification = json.loads(text)["ftReceiptIdentification"]
    match = TRANSACTION.fullmatch(identification)
    if match is None:
        raise Violation(f"{identification!r} is no receipt identification")
    return match


def _by_transaction(messages: list[tuple[int, LogMessage]]) -> dict[int, list[LogMessage]]:
    result: dict[int, list[LogMessage]] = {}
    for _, message in messages:
        if message.transaction_number is not None:
            result.setdefault(message.transaction_number, []).append(message)
    return result


def _process_data(each: Answered) -> str | None:
    """What the TSE must have signed at the end of this receipt's transaction; None if it ends none."""
    case = each.sent.case & 0xFFFF
    if each.sent.case & LATE or case in (ReceiptCase.START_TRANSACTION, ReceiptCase.UPDATE_TRANSACTION):
        return None
    if case in SONSTIGER_VORGANG:
        return SONSTIGER_VORGANG[case]
    request = json.loads(each.sent.body)
    item = request["cbChargeItems"][0]
    if case == ReceiptCase.INFO_ORDER:
        return f'1;"{item["Description"]}";{item["Amount"]}'
    name = "AVBelegabbruch" if case == ReceiptCase.FAIL_TRANSACTION else "Beleg"
    return f"{name}^{item['Amount']}_0.00_0.00_0.00_0.00^{item['Amount']}:Bar"


def run(folder: Path, seed: int, kills: list[Kill], progress: Any = None) -> Result:
    """Kill the host of a new site as ``kills`` says and compare in the end. Raises Violation for what shows
    on the way. Ctrl-C ends the killing, not the comparing."""
    site = Site(folder, seed)
    try:
        for number, kill in enumerate(kills, 1):
            if kill.answers is None:
                site.die_while_starting(kill.delay_s)
            else:
                site.die_while_selling(kill)
            if progress is not None:
                progress(number, sum(len(register.answered) for register in site.registers))
    except KeyboardInterrupt:
        click.echo("\nstopped; comparing what there is", err=True)
    site.end()
    return site.check()


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    made = Path(tempfile.mkdtemp(prefix="fiskal-kill-"))
    try:
        yield made / "shop"
    except BaseException:
        click.echo(f"the site is kept in {made}", err=True)
        raise
    for path in sorted(made.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    made.rmdir()


@click.command()
@click.option("--kills", default=300, show_default=True, help="How many times the host dies.")
@click.option("--seed", type=int, help="Repeat a campaign; made up if not given.")
@click.option("--data", type=click.Path(path_type=Path), help="A folder for the site, which is kept.")
def main(kills: int, seed: int | None, data: Path | None) -> None:
    """Kill 'fiskal serve' again and again while registers sell, and compare everybody's records in the end."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {seed}", err=True)
    begin = time.monotonic()
    done = 0

    def progress(number: int, answered: int) -> None:
        nonlocal done
        done = number
        line = f"kill {number}/{kills}, {answered} receipts, {time.monotonic() - begin:.0f} s"
        if sys.stderr.isatty():
            click.echo(f"\r{line}", nl=number == kills, err=True)
        elif number % 10 == 0 or number == kills:
            click.echo(line, err=True)

    with _folder(data) as folder:
        result = run(folder, seed, schedule(seed, kills), progress)
        click.echo(result.table(seed, done, time.monotonic() - begin))
        for kind in ("lost", "doubled", "problems"):
            for text in getattr(result, kind):
                click.echo(f"{kind}: {text}", err=True)
        if not result.ok:
            sys.exit(1)


if __name__ == "__main__":
    main()
