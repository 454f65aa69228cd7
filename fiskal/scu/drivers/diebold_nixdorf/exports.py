"""The log of a Diebold Nixdorf TSE: exported piece by piece beside selling, and erased when it was."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from typing import Final

from fiskal.clock import from_unix
from fiskal.scu.contract import Deadline
from fiskal.scu.driver import Selection, Turn
from fiskal.scu.drivers.diebold_nixdorf import codes, values
from fiskal.scu.drivers.diebold_nixdorf.device import Device
from fiskal.scu.drivers.diebold_nixdorf.link import (
    LinkError,
    NoResponse,
    NotReached,
    Refused,
)
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    NotSupported,
    ScuError,
    TseRejected,
)
from fiskal.tse.logmessage import LogMessage, LogMessageError, parse, parse_file_name
from fiskal.tse.tar import Sink, TarError, TarWriter, read_members

log = logging.getLogger(__name__)

TURN_S: Final = 0.1
"""How long an export keeps the device before others may sign."""

_RESTART_PAUSES_S: Final = (0.2, 1.0, 3.0)
_FIRST_MOMENT: Final = from_unix(0)
_LAST_MOMENT: Final = from_unix(4_102_444_799)


class Exports(Device):
    """A device whose log can be read and erased."""

    def _messages_of(self, number: int, deadline: Deadline | None) -> list[tuple[LogMessage, bytes]]:
        """The log messages of one transaction, in their order; none if the log holds none."""
        self._export_generation += 1
        found = []
        try:
            pieces = self._link.stream(301, self._slot, f"{number:010d}", "", deadline=deadline)
            for member in read_members(Source(pieces)):
                if member.data is None or not member.name.endswith(".log"):
                    continue
                with contextlib.suppress(LogMessageError):
                    message = parse(member.data)
                    if message.transaction_number == number:
                        found.append((message, member.data))
        except Refused as error:
            if error.number != codes.NO_DATA_AVAILABLE:
                raise
        finally:
            self._reset_export()
        return sorted(found, key=lambda pair: pair[0].signature_counter)

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        command, parameters = self._export_command(selection)
        whole = selection.whole
        with turn():
            self._safely(None, lambda: self._prepare_export(whole))
        source = Source(self._pulled(command, parameters, turn))
        last = 0
        try:
            if selection.after_counter:
                last = _copy_behind(source, out, selection.after_counter)
            else:
                source.copy_to(out)
                last = max((_counter(member.name, member.data) for member in read_members(source)), default=0)
                source.drain()
        except TarError as error:
            raise TseRejected("EXPORT_FAILED", f"The TSE exported no archive: {error}") from error
        finally:
            with turn():
                self._reset_export()
        if whole:
            self._exported = (source.size, last)
            self._exported_at = time.monotonic()
        return last

    def _export_command(self, selection: Selection) -> tuple[int, tuple[str, ...]]:
        client = selection.client_id or ""
        by_time = selection.first_time is not None or selection.last_time is not None
        by_number = selection.first_number is not None or selection.last_number is not None
        if (by_time and by_number) or (selection.after_counter and (by_time or by_number or client)):
            raise NotSupported(
                "NOT_IMPLEMENTED", "This TSE cannot export by times, numbers and counter together."
            )
        if by_number:
            first = selection.first_number or 0
            last = 2**31 - 1 if selection.last_number is None else selection.last_number
            if max(first, last) >= 10**10:
                raise ClientError("INVALID_RANGE", "A transaction number of this TSE has at most ten digits.")
            return 302, (self._slot, f"{first:010d}", f"{last:010d}", client)
        if by_time or client:
            begin = max(selection.first_time or _FIRST_MOMENT, _FIRST_MOMENT)
            end = min(_LAST_MOMENT if selection.last_time is None else selection.last_time, _LAST_MOMENT)
            return 303, (
                self._slot,
                values.time_text(values.first_second(begin)),
                values.time_text(end),
                client,
            )
        return 300, (self._slot,)

    def _prepare_export(self, whole: bool) -> None:
        """The Admin is logged in before the whole log is exported: a login behind it would be a newer message."""
        self._exported = None
        if whole and self._options.admin_pin:
            self._log_in(self._options.admin_user, self._options.admin_pin, None)
            self._exported_at = time.monotonic()
        self._link.dirty = False

    def _pulled(self, command: int, parameters: tuple[str, ...], turn: Turn) -> Iterator[bytes]:
        """The bytes of an export. Others have their turn between the pieces; an export that breaks is begun anew, and
        goes on behind what was given away if its beginning is the same."""
        given = 0
        digest = hashlib.sha256()
        for attempt in range(len(_RESTART_PAUSES_S) + 1):
            again = hashlib.sha256()
            position = 0
            try:
                for piece in self._in_turns(command, parameters, turn):
                    known = min(len(piece), given - position)
                    if known > 0:
                        again.update(piece[:known])
                        position += known
                        if position == given and again.digest() != digest.digest():
                            raise TseRejected(
                                "EXPORT_FAILED", "The export broke, and the TSE's second one is another."
                            )
                    fresh = piece[max(known, 0) :]
                    if fresh:
                        digest.update(fresh)
                        given += len(fresh)
                        position += len(fresh)
                        yield fresh
            except (Refused, NoResponse, NotReached) as error:
                if attempt == len(_RESTART_PAUSES_S) or (
                    isinstance(error, Refused) and error.number == codes.NO_DATA_AVAILABLE and attempt
                ):
                    raise _export_failed(error) from error
                if isinstance(error, Refused) and error.number in (
                    codes.NO_DATA_AVAILABLE,
                    codes.DEVICE_DISABLED,
                ):
                    raise _export_failed(error) from error
                log.warning("the export broke behind %d bytes and is begun anew: %s", given, error)
                with turn():
                    self._reset_export()
                    if isinstance(error, Refused) and error.number == codes.SELF_TEST_REQUIRED:
                        self._safely(None, lambda: self._test(None, initialized=True))
                time.sleep(_RESTART_PAUSES_S[attempt])
            else:
                if position < given:
                    raise TseRejected(
                        "EXPORT_FAILED", "The export broke, and the TSE's second one is shorter."
                    )
                return

    def _in_turns(self, command: int, parameters: tuple[str, ...], turn: Turn) -> Iterator[bytes]:
        """One export, piece by piece, with the device free for others again and again."""
        pieces: Iterator[bytes] | None = None
        generation = 0
        while True:
            gathered = bytearray()
            ended = False
            with turn():
                self._ensure(None)
                if pieces is None:
                    self._as_manager(None)
                    pieces = self._link.stream(command, *parameters)
                    self._export_generation += 1
                    generation = self._export_generation
                elif generation != self._export_generation:
                    raise NoResponse("Another export took the buffer of the TSE.", None)
                until = time.monotonic() + TURN_S
                while time.monotonic() < until:
                    piece = next(pieces, None)
                    if piece is None:
                        ended = True
                        break
                    gathered += piece
            if gathered:
                yield bytes(gathered)
            if ended:
                return

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        self._safely(deadline, lambda: self._erase(last_counter, deadline))

    def _erase(self, last_counter: int, deadline: Deadline | None) -> None:
        user = self._options.admin_user
        if not self._options.admin_pin:
            raise Misconfigured("AUTH_FAILED", "Erasing needs the PIN of the Admin: configure admin_pin.")
        try:
            exported = self._exported
            if exported is None or exported[1] != last_counter or user not in self._logged_in:
                raise TseRejected("ERASE_FAILED", "This export is not the last one of the TSE: export again.")
            if self._link.dirty:
                raise TseRejected("ERASE_FAILED", "The TSE has signed since the export: export again.")
            self._exported = None
            self._as_manager(deadline)
            answer = self._link.execute(307, self._slot, str(exported[0]), deadline=deadline)
            if values.number(self._first(answer)) == 2:
                raise TseRejected("ERASE_FAILED", "The TSE says that its log was not exported completely.")
        finally:
            self._log_out(user)


class Source:
    """The pieces of an export as something to be read from; counts, and copies what it reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._ready = b""
        self._copy: Sink | None = None
        self.size = 0

    def copy_to(self, out: Sink) -> None:
        self._copy = out

    def read(self, size: int, /) -> bytes:
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._ready = piece
            self.size += len(piece)
            if self._copy is not None and piece:
                self._copy.write(piece)
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def drain(self) -> None:
        """Read to the end what lies behind the archive."""
        while self.read(1 << 16):
            pass


def _counter(name: str, data: bytes | None) -> int:
    """The signatureCounter of a member, 0 if it is no log message."""
    parts = parse_file_name(name.rpartition("/")[2])
    if parts is not None:
        return parts.signature_counter
    if data is not None and name.endswith(".log"):
        with contextlib.suppress(LogMessageError):
            return parse(data).signature_counter
    return 0


def _copy_behind(source: Source, out: Sink, after_counter: int) -> int:
    """Copy an archive without the log messages up to ``after_counter``; return the last counter."""
    last = 0
    writer = TarWriter(out, 0)
    for member in read_members(source):
        counter = _counter(member.name, member.data)
        if member.data is not None and (counter == 0 or counter > after_counter):
            writer.add(member.name, member.data, member.mtime)
            last = max(last, counter)
    writer.close()
    source.drain()
    return last


def _export_failed(error: LinkError) -> ScuError:
    if isinstance(error, Refused):
        return codes.refusal(error.number)
    return TseRejected("EXPORT_FAILED", f"The export of the TSE failed: {error}")
