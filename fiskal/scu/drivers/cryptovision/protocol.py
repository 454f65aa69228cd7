"""The protocol half: sessions, commands, fragments and streams over a transport. Knows no file and no TSE state.

A command is executed or it is not; where nobody can say, :class:`fiskal.scu.transports.NoAnswer` or
:class:`fiskal.scu.transports.Garbled` is raised and the session is over. The next command begins a new one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from typing import Final

from fiskal.errors import FiskalError
from fiskal.frames import cryptovision as frames
from fiskal.frames.cryptovision import Command, FrameError, Kind, Mode, Result, Signature, State, Value
from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Garbled, NoAnswer, NotSent, Transport
from fiskal.scu.transports.mailbox import Judge, Look, NewJudge, Replaced, Step
from fiskal.scu.transports.traffic import logged_call

log = logging.getLogger(__name__)

RESUME_S: Final = 1.0
START_S: Final = 20.0
REOPEN_S: Final = 2.0
"""How long a device that was there a moment ago is waited for."""
LIFE_S: Final = 60.0
"""Initialise, disable, erase."""
EXPORT_S: Final = 65.0
"""To the first block of an export."""
FRAGMENT_S: Final = 10.0

_LIMITS: Final = {
    Command.START: START_S,
    Command.INITIALIZE: LIFE_S,
    Command.DISABLE: LIFE_S,
    Command.ERASE: LIFE_S,
    Command.DELETE_DATA_UP_TO: LIFE_S,
    Command.EXPORT_DATA: EXPORT_S,
    Command.EXPORT_MORE_DATA: EXPORT_S,
}
_SECRETS: Final = {
    Command.INITIALIZE_PINS: (0, 1, 2, 3),
    Command.AUTHENTICATE_USER: (1,),
    Command.UNBLOCK_USER: (1, 2),
}
"""Which parameters nobody may read in a log."""
_PARAMETERS_AT: Final = 42
_ANSWER_HEAD: Final = 34

MAX_VALUE_BYTES: Final = 4 << 20
"""Parameters of an answer that are longer are not believed; the longest real ones are certificates."""


class DeviceError(FiskalError):
    """The device answered a result code: it did not do what was asked, unless the code says otherwise."""

    def __init__(self, code: int, command: int) -> None:
        name = Result(code).name if code in Result._value2member_map_ else "UNKNOWN"
        what = Command(command).name if command in Command._value2member_map_ else f"{command:#06x}"
        super().__init__(f"The TSE answered {what} with {code:#06x} ({name}).")
        self.result = code


class ControllerError(NoAnswer):
    """The flash controller of the stick failed; what became of the command nobody knows."""


def judge_of(empty_s: float) -> NewJudge:
    """Tell an answer from the device's silence, for the mailbox. A block of zeros is silence for ``empty_s`` seconds:
    a device that fell asleep shows them while it wakes up, and for ever although it did what it was told."""

    def new_judge(frame: bytes, before: bytes) -> Judge:
        token = int.from_bytes(frame[28:32])

        def judge(block: bytes, passed: float) -> Step:
            try:
                state = frames.read_answer(block, token).state
            except FrameError as error:
                raise Garbled(f"No answer: {error}.") from error
            if state is State.EMPTY and passed > empty_s:
                raise NoAnswer("The TSE shows an empty block: it slept, and may have done what it was told.")
            return Look.NOT_YET if state <= State.BUSY else Look.ANSWER

        return judge

    return new_judge


def pace_key(frame: bytes) -> object:
    """The kind of a command, for the mailbox: commands of one kind take about as long."""
    return frame[34:36], frame[38:40] if frame[36:38] == b"\x5c\x54" else frame[36:37]


class _Trimmed:
    """A transport whose answers end where they say. Behind that the device shows what lay there before: the host's own
    command, with a PIN in it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def call(self, frame: bytes, deadline: Deadline | None) -> bytes:
        block = self._transport.call(frame, deadline)
        try:
            return block[: _ANSWER_HEAD + len(frames.read_answer(block).data)]
        except FrameError as error:
            raise Garbled(f"No answer: {error}.") from error

    def close(self) -> None:
        self._transport.close()


class Session:
    """The conversation with one device. Used by one thread at a time.

    ``name`` is the device in the traffic log, ``command_s`` how long a command without a limit of its own may take;
    ``patience`` multiplies the other limits (for tests, whose devices are fast).
    ``unique_id`` and ``firmware`` are the device's own words; another one than before is refused.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        *,
        command_s: float = 10.0,
        patience: float = 1.0,
    ) -> None:
        self._transport = _Trimmed(transport)
        self._name = name
        self._command_s = command_s
        self._patience = patience
        self.up = False
        self.firmware = ""
        self.unique_id = b""
        self._lost_at = float("-inf")
        self.commands = 0
        """How many were sent."""
        self.last_used = time.monotonic()

    # ---- blocks -----------------------------------------------------------------------------

    def opened(self) -> None:
        """To be called whenever the transport opened the device: what was agreed with it before is gone."""
        if self.up:
            self._lost()
            raise NotSent("The TSE was away for a moment.")

    def _exchange(
        self,
        frame: bytes,
        limit_s: float,
        deadline: Deadline | None,
        secrets: tuple[slice, ...] = (),
    ) -> bytes:
        """Send a block; return the data of the answer, empty if it has none."""
        own = Deadline(limit_s)
        if deadline is not None and deadline.at < own.at:
            own = deadline
        self.commands += 1
        try:
            block = logged_call(self._transport, self._name, frame, own, secrets)
            answer = frames.read_answer(block)
        except FrameError as error:
            self._lost()
            raise Garbled(f"{error}.") from error
        except BaseException:
            self._lost()
            raise
        finally:
            self.last_used = time.monotonic()
        if answer.state is State.CONTROLLER:
            self.up = False
            what = "timed out" if answer.code == 0xFF45 else f"failed with {answer.code:#06x}"
            raise ControllerError(f"The flash controller of the TSE {what}.")
        return answer.data

    def _lost(self) -> None:
        if self.up:
            self._lost_at = time.monotonic()
        self.up = False

    def connect(self, deadline: Deadline | None = None) -> None:
        """Begin a session: disable the suspend mode, send Start. Raises NotSent if that is not possible.

        Nothing of it has an effect, so it may be repeated after any error. An answer that does not belong here is one
        that came too late for somebody else.
        """
        if self.up:
            return
        error: FiskalError | None = None
        tries = 0
        while tries < 3:
            tries += 1
            try:
                self._begin(deadline)
            except Replaced:
                raise
            except NotSent as failed:
                error = failed
                if deadline is not None and deadline.expired:
                    break
                if time.monotonic() < self._lost_at + REOPEN_S * self._patience:
                    time.sleep(0.02)  # it was there a moment ago, and may be again in another
                    tries = 0
            except (NoAnswer, Garbled, FrameError, DeviceError) as failed:
                error = failed
            else:
                return
        raise NotSent(f"No session with the TSE could be begun. {error}") from error

    def _begin(self, deadline: Deadline | None) -> None:
        try:
            self._exchange(
                frames.block(frames.SESSION, mode=Mode.RESUME), RESUME_S * self._patience, deadline
            )
        except (NoAnswer, Garbled) as error:  # engineering samples answer something odd, or nothing
            log.debug("the TSE %s was not woken up: %s", self._name, error)
        values = self._start(deadline)
        if [value.type for value in values] != [frames.Type.TEXT, frames.Type.OCTETS]:
            raise Garbled("The answer to Start is none.")
        firmware, unique_id = values[0].data.decode("latin-1"), values[1].data
        if self.unique_id and unique_id != self.unique_id:
            raise Replaced(
                f"Another TSE than before is at {self._name}.",
                hint="Plug the right one in, or configure a new SCU for this one.",
            )
        self.firmware, self.unique_id = firmware, unique_id
        self.up = True

    def _start(self, deadline: Deadline | None) -> list[Value]:
        try:
            return self._send(Command.START, (), deadline)
        except DeviceError as error:
            if error.result != Result.TRANSPORT:
                raise
        self.cancel(deadline)
        return self._send(Command.START, (), deadline)

    def restart(self, deadline: Deadline | None) -> None:
        """Send Start again within the session, for a device that forgot it. Raises as :meth:`execute`."""
        self._start(deadline)

    def close(self) -> None:
        """End the session; the device may sleep. Ignores errors."""
        if not self.up:
            return
        deadline = Deadline(2.0)
        try:
            self._send(Command.SHUTDOWN, (), deadline)
            self._exchange(
                frames.block(frames.SESSION, mode=Mode.SUSPEND), RESUME_S * self._patience, deadline
            )
        except FiskalError as error:
            log.debug("the session with the TSE %s ended with %s", self._name, error)
        self.up = False

    # ---- commands ---------------------------------------------------------------------------

    def execute(
        self, code: Command, *parameters: tuple[int, bytes], deadline: Deadline | None = None
    ) -> list[Value]:
        """Execute a command and return the parameters of its answer.

        Raises DeviceError, NotSent, NoAnswer, Garbled, and ValueError for what does not fit into a command.
        """
        self.connect(deadline)
        return self._send(code, parameters, deadline)

    def _send(
        self, code: Command, parameters: tuple[tuple[int, bytes], ...], deadline: Deadline | None
    ) -> list[Value]:
        return self._values(self._parameters(code, parameters, deadline))

    def _values(self, data: bytes) -> list[Value]:
        try:
            return frames.read_values(data)
        except FrameError as error:
            self.up = False
            raise Garbled(f"{error}.") from error

    def transaction(
        self,
        code: Command,
        number: int,
        client_id: bytes,
        data: bytes,
        type_: bytes,
        deadline: Deadline | None,
    ) -> Signature:
        """Execute a transaction command. Raises as :meth:`execute`."""
        frame = frames.transaction(code, number, client_id, data, type_)
        self.connect(deadline)
        answer = self._whole(code, self._exchange(frame, self._command_s, deadline), deadline)
        try:
            return frames.read_signature(answer, has_number=code is Command.START_TRANSACTION)
        except FrameError as error:
            self.up = False
            raise Garbled(f"{error}.") from error

    def _limit(self, code: Command) -> float:
        limit = _LIMITS.get(code)
        return self._command_s if limit is None else limit * self._patience

    def _parameters(
        self, code: Command, parameters: tuple[tuple[int, bytes], ...], deadline: Deadline | None
    ) -> bytes:
        data = self._exchange(
            frames.block(frames.command(code, *parameters)),
            self._limit(code),
            deadline,
            _places(code, parameters),
        )
        return self._whole(code, data, deadline)

    def _whole(self, code: Command, data: bytes, deadline: Deadline | None) -> bytes:
        """The parameters of an answer, with their fragments."""
        try:
            head = frames.read_head(data)
        except FrameError as error:
            self.up = False
            raise Garbled(f"{error}.") from error
        if head.kind is Kind.ERROR:
            raise DeviceError(head.error, code)
        if head.kind is Kind.STREAM or head.total > MAX_VALUE_BYTES:
            self.up = False
            raise Garbled("The TSE answered with a stream.")
        if not head.more:
            return head.present
        parts, missing, more = [head.present], head.total - len(head.present), True
        while more:
            present, more = self._fragment(code, missing, deadline, stream=False)
            parts.append(present)
            missing -= len(present)
        return b"".join(parts)

    def _fragment(
        self, code: Command, missing: int, deadline: Deadline | None, *, stream: bool
    ) -> tuple[bytes, bool]:
        data = self._exchange(frames.block(frames.NEXT_FRAGMENT), FRAGMENT_S * self._patience, deadline)
        try:
            fragment = frames.read_fragment(data, missing, stream=stream)
        except FrameError as error:
            self.up = False
            raise Garbled(f"{error}.") from error
        if fragment.error:
            self.cancel(deadline)
            raise DeviceError(fragment.error, code)
        return fragment.present, fragment.more

    def cancel(self, deadline: Deadline | None) -> None:
        """Give up the fragments that are left. What the device says to that means nothing."""
        self._exchange(frames.block(frames.CANCEL), FRAGMENT_S * self._patience, deadline)

    def stream(
        self, code: Command, *parameters: tuple[int, bytes], deadline: Deadline | None = None
    ) -> Generator[bytes, None, None]:
        """Execute a command that answers with a stream; yield it block by block.

        Whoever does not want the rest closes the generator, which tells the device so. Raises as :meth:`execute`.
        """
        self.connect(deadline)
        frame = frames.block(frames.command(code, *parameters))
        data = self._exchange(frame, self._limit(code), deadline)
        try:
            head = frames.read_head(data)
        except FrameError as error:
            self.up = False
            raise Garbled(f"{error}.") from error
        if head.kind is Kind.ERROR:
            raise DeviceError(head.error, code)
        if head.kind is not Kind.STREAM:
            raise Garbled("The TSE did not answer with a stream.")
        missing, more = head.total - len(head.present), head.more
        try:
            yield head.present
            while more:
                present, more = self._fragment(code, missing, deadline, stream=True)
                missing -= len(present)
                yield present
        finally:
            if more and self.up:
                self._give_up()

    def _give_up(self) -> None:
        try:
            self.cancel(Deadline(FRAGMENT_S))
        except FiskalError as error:
            log.debug("a stream of the TSE %s was not given up: %s", self._name, error)


def _places(code: Command, parameters: tuple[tuple[int, bytes], ...]) -> tuple[slice, ...]:
    """Where the secrets of a command lie in its block."""
    secret = _SECRETS.get(code, ())
    places = []
    at = _PARAMETERS_AT
    for index, (type_, value) in enumerate(parameters):
        at += 3
        if index in secret and type_ == frames.Type.OCTETS:
            places.append(slice(at, at + len(value)))
        at += len(value)
    return tuple(places)
