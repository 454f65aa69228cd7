"""One Swissbit TSE 1.x as a card: its commands, one after the other, with what each means and how long it may take.

Knows blocks and the mailbox, but not what a signature creation unit wants: see :mod:`.driver`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sized
from typing import Final

from fiskal.frames import swissbit as frames
from fiskal.frames.swissbit import Closed, Command, Event, FrameError, Info, Kind, User
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.swissbit.cards import INVALID_PARAMETER, CardError
from fiskal.scu.drivers.swissbit.media import Medium, info_of
from fiskal.scu.drivers.swissbit.options import Options
from fiskal.scu.errors import NotSupported
from fiskal.scu.transports import Garbled, NoAnswer
from fiskal.scu.transports.mailbox import Judge, Look, Mailbox, Step
from fiskal.scu.transports.traffic import logged_call

log = logging.getLogger(__name__)

FETCH_PAUSE_S: Final = 0.25
MAX_FETCHES: Final = 5
LENIENT_AFTER_S: Final = 0.020
MAX_DAMAGED_LOOKS: Final = 3
MAX_LISTED: Final = 65_536
MAX_CERTIFICATE_BYTES: Final = 65_536
_NAMES: Final = {
    Command.LOGIN: "log in",
    Command.LOGOUT: "log out",
    Command.UNBLOCK: "unblock a PIN",
    Command.CHANGE_PUK: "change the PUK",
    Command.CHANGE_PIN: "change a PIN",
    Command.SELF_TEST: "run the self test",
    Command.REGISTER: "register a client",
    Command.DEREGISTER: "deregister a client",
    Command.LIST_CLIENTS: "list the clients",
    Command.ENABLE_CTSS: "switch CTSS on",
    Command.DISABLE_CTSS: "switch CTSS off",
    Command.INITIALIZE: "be initialised",
    Command.UPDATE_TIME: "set the time",
    Command.LIST_TRANSACTIONS: "list the transactions",
    Command.CERTIFICATE: "show its certificate",
    Command.OPEN: "open a transaction",
    Command.OPEN_VARIANT: "open a transaction",
    Command.CLOSE: "sign a transaction",
}


def _limit(found: Sized, most: int) -> None:
    """Raise Garbled for a list that does not end."""
    if len(found) > most:
        raise Garbled("A list of the TSE does not end.")


class Exchange:
    """Judges the blocks of one exchange (tse-swissbit §4.3)."""

    def __init__(self, before: bytes, *, strict: bool, stale_limit_s: float, confirm: bool) -> None:
        self._before = before
        try:
            self._counter = frames.read_kind(before)[1]
        except FrameError:
            self._counter = -1
        self._strict = strict
        self._stale_limit_s = stale_limit_s
        self._confirm = confirm
        self._seen: bytes | None = None
        self._moved = False
        self._damaged = 0
        self._fetches = 0
        self._fetched_at = 0.0

    def __call__(self, block: bytes, passed_s: float) -> Step:
        try:
            kind, counter = frames.read_kind(block)
        except FrameError as error:
            self._damaged += 1
            if self._damaged > MAX_DAMAGED_LOOKS:
                raise Garbled(f"The TSE answers with a damaged block: {error}") from error
            return Look.NOT_YET
        if kind == Kind.COMPLETE and self._is_new(block, counter, passed_s):
            if not self._confirm or block == self._seen:
                return Look.ANSWER
            self._seen = block
            return Look.AGAIN
        if kind == Kind.FETCH and block != self._before:
            return self._fetch(passed_s)
        if block[4] == 0xF3:
            self._moved = True
        if block == self._before and passed_s > self._stale_limit_s:
            raise NoAnswer("The TSE shows what it showed before the command: no answer came.")
        return Look.NOT_YET

    def _is_new(self, block: bytes, counter: int, passed_s: float) -> bool:
        if counter != self._counter:
            return True
        if self._strict:
            return False
        return block != self._before or self._moved or passed_s >= LENIENT_AFTER_S

    def _fetch(self, passed_s: float) -> Step:
        self._moved = True
        if self._fetches and passed_s - self._fetched_at < FETCH_PAUSE_S:
            return Look.NOT_YET
        if self._fetches > MAX_FETCHES:
            raise NoAnswer("The TSE has an answer that cannot be fetched.")
        self._fetches += 1
        self._fetched_at = passed_s
        return frames.FETCH


class Card:
    """The commands of the device behind ``medium``. Methods raise CardError, TransportError and FrameError.

    ``same_device`` is asked after every opening of the mailbox.
    """

    def __init__(self, medium: Medium, options: Options, same_device: Callable[[], bool]) -> None:
        self.medium = medium
        self._options = options
        self.strict = options.counter_mode == "strict"
        self.counter: int | None = None
        """The counter of the last answer."""
        self.restarted = False
        """A counter that went back: the device was without power."""
        self.mailbox = Mailbox(
            medium.mailbox,
            self._judge,
            key=lambda frame: frame[2],
            same_device=same_device,
            on_open=medium.forget,
            limit_s=options.self_test_timeout_s,
        )

    def _judge(self, frame: bytes, before: bytes) -> Judge:
        options = self._options
        return Exchange(
            before,
            strict=self.strict,
            stale_limit_s=options.stale_limit_s,
            confirm=options.confirm_reads,
        )

    def info(self) -> Info:
        return info_of(self.medium)

    # ---- one command --------------------------------------------------------------------------

    def execute(self, frame: bytes, deadline: Deadline | None, limit_s: float | None = None) -> bytes:
        """Send a command and return the data of its answer; ``limit_s`` is how long it may take at most."""
        code = Command(frames.code_of(frame))
        limit = Deadline(self._options.timeout_s if limit_s is None else limit_s)
        if deadline is not None and deadline.at < limit.at:
            limit = deadline
        block = logged_call(self.mailbox, self.medium.name, frame, limit, frames.secrets_of(frame))
        answer = frames.read_response(block)
        if self.counter is not None and answer.counter < self.counter and self.strict:
            self.restarted = self._options.inferred.counter_tells_power_cycle
        self.counter = answer.counter
        if answer.word:
            raise CardError(answer.word, _NAMES.get(code, code.name))
        return answer.data

    def find_counter_mode(self, deadline: Deadline | None) -> None:
        """Find out whether the counter moves with every command, with a command that changes nothing."""
        if self._options.counter_mode != "auto":
            return
        self.strict = False
        counters = []
        for _ in range(2):
            try:
                self.execute(frames.skip_command(Command.LIST_TRANSACTIONS, 0, b""), deadline)
            except CardError:
                pass  # its answer has a counter too
            counters.append(self.counter)
        self.strict = counters[0] != counters[1]
        if not self.strict:
            log.warning(
                "the response counter of the TSE at %s does not move; answers are told apart less strictly",
                self.medium.name,
            )

    # ---- users --------------------------------------------------------------------------------

    def login(self, user: User, pin: bytes, deadline: Deadline | None) -> None:
        self.execute(frames.texts_command(Command.LOGIN, user, pin), deadline)

    def logout(self, user: User, deadline: Deadline | None) -> None:
        if not self._options.inferred.logout_command:
            raise NotSupported(
                "NOT_IMPLEMENTED", "Logging out is only inferred: inferred.logout_command is off."
            )
        self.execute(frames.texts_command(Command.LOGOUT, user), deadline)

    def unblock(self, user: User, puk: bytes, new_pin: bytes, deadline: Deadline | None) -> None:
        if not self._options.inferred.unblock_command:
            raise NotSupported(
                "NOT_IMPLEMENTED",
                "Unblocking a PIN needs inferred.unblock_command, which was never seen on a device.",
            )
        self.execute(frames.texts_command(Command.UNBLOCK, user, puk, new_pin), deadline)

    def change_puk(self, current: bytes, new: bytes, deadline: Deadline | None) -> None:
        self.execute(frames.texts_command(Command.CHANGE_PUK, None, current, new), deadline)

    def change_pin(self, user: User, current: bytes, new: bytes, deadline: Deadline | None) -> None:
        self.execute(frames.texts_command(Command.CHANGE_PIN, user, current, new), deadline)

    # ---- life ---------------------------------------------------------------------------------

    def self_test(self, client: bytes) -> None:
        """Takes up to a minute, which no caller's deadline cuts short: a second one would only begin it again."""
        self.execute(
            frames.texts_command(Command.SELF_TEST, None, client), None, self._options.self_test_timeout_s
        )

    def set_time(self, unix_s: int, deadline: Deadline | None) -> None:
        self.execute(frames.time_command(unix_s), deadline)

    def enable_ctss(self, deadline: Deadline | None) -> None:
        self.execute(frames.command(Command.ENABLE_CTSS), deadline)

    def initialize(self) -> None:
        self.execute(frames.command(Command.INITIALIZE), None, self._options.initialize_timeout_s)

    def register(self, client: bytes, deadline: Deadline | None) -> None:
        self.execute(frames.texts_command(Command.REGISTER, None, client), deadline)

    def deregister(self, client: bytes, deadline: Deadline | None) -> None:
        self.execute(frames.texts_command(Command.DEREGISTER, None, client), deadline)

    # ---- lists --------------------------------------------------------------------------------

    def clients(self, deadline: Deadline | None) -> list[bytes]:
        """All registered clients, page by page."""
        found: list[bytes] = []
        while True:
            page = frames.read_clients(
                self._page(frames.skip_command(Command.LIST_CLIENTS, len(found)), deadline)
            )
            found += page
            if len(page) < frames.MAX_CLIENTS:
                return found
            _limit(found, MAX_LISTED)

    def open_numbers(self, deadline: Deadline | None) -> list[int]:
        """The numbers of all started transactions, page by page."""
        found: list[int] = []
        while True:
            page = frames.read_numbers(
                self._page(frames.skip_command(Command.LIST_TRANSACTIONS, len(found), b""), deadline)
            )
            found += page
            if len(page) < frames.MAX_NUMBERS:
                return found
            _limit(found, MAX_LISTED)

    def certificate(self, deadline: Deadline | None) -> bytes:
        """The certificates as PEM."""
        pem = b""
        while piece := frames.read_certificate(
            self._page(frames.skip_command(Command.CERTIFICATE, len(pem)), deadline)
        ):
            pem += piece
            _limit(pem, MAX_CERTIFICATE_BYTES)
        return pem

    def _page(self, frame: bytes, deadline: Deadline | None) -> bytes:
        """The data of a page; nothing behind the end of what is paged."""
        try:
            return self.execute(frame, deadline)
        except CardError as error:
            if error.code == INVALID_PARAMETER:
                return b""
            raise

    # ---- transactions -------------------------------------------------------------------------

    def open_transaction(
        self,
        event: Event,
        client: bytes,
        number: int,
        length: int,
        kind: bytes,
        deadline: Deadline | None,
    ) -> int:
        """Begin an import; return the block of the store where the process data is to be written."""
        code = Command.OPEN_VARIANT if self._options.open_variant else Command.OPEN
        data = self.execute(frames.open_command(event, client, number, length, kind, code), deadline)
        return 0 if self._options.open_variant else frames.read_offset(data)

    def write_data(self, block: int, data: bytes) -> None:
        """Write process data where the device wants it, filled up with zeros."""
        if data:
            self.medium.write_store(block, data + bytes(-len(data) % frames.BLOCK))

    def close_transaction(self, deadline: Deadline | None) -> Closed:
        return frames.read_closed(self.execute(frames.CLOSE, deadline, self._options.close_timeout_s))

    def close(self) -> None:
        self.mailbox.close()
        self.medium.close()
