"""Parts of an export become one archive: what every part begins with is kept once, log messages pass through."""

from __future__ import annotations

import logging
import re
from typing import Final

from fiskal.scu.transports import Garbled
from fiskal.tse.logmessage import LogMessageError, parse
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

BLOCK: Final = 512
MAX_MEMBER_BYTES: Final = 1 << 20
END: Final = bytes(2 * BLOCK)
_COUNTER: Final = re.compile(r"Sig ?- ?(\d+)")
_SIZE: Final = slice(124, 136)
_TYPE: Final = 156
_CHECKSUM: Final = slice(148, 156)


class Merge:
    """Writes members to ``out`` as soon as they are whole, and holds no more than one of them.

    ``last_counter`` is the greatest signatureCounter that was written, so that a part that broke off is gone on with
    behind it. Raises Garbled for bytes that are no archive.
    """

    def __init__(self, out: Sink, after: int = 0) -> None:
        self._out = out
        self._rest = bytearray()
        self._head = b""
        self._long_name = ""
        self._seen: set[str] = set()
        self._doubted: set[int] = set()
        self.last_counter = after
        self.logs = 0
        """How many messages were written."""
        self.part_logs = 0
        """How many of them came with the part that is being read."""

    def begin_part(self) -> None:
        """Forget what is left of a part that broke off."""
        self._rest.clear()
        self._head = b""
        self._long_name = ""
        self.part_logs = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes of a part."""
        rest = self._rest
        rest += data
        at = 0
        while len(rest) - at >= BLOCK:
            header = bytes(rest[at : at + BLOCK])
            if not any(header):
                at += BLOCK  # an end that should not be there
                continue
            _check_header(header)
            size = _size(header)
            whole = BLOCK + -(-size // BLOCK) * BLOCK
            if len(rest) - at < whole:
                break
            self._member(header, bytes(rest[at : at + whole]), size)
            at += whole
        del rest[:at]

    def end_part(self) -> None:
        """Raises Garbled if the part ended within a member."""
        if self._rest or self._head:
            raise Garbled("The export of the TSE ended within a file.")

    def _check(self, counter: int, content: bytes) -> None:
        """Raise Garbled for a message that is not what its name says. The second time it is the device that has it so,
        and what it has must be exported."""
        try:
            fault = "" if parse(content).signature_counter == counter else "it has another signature counter"
        except LogMessageError as error:
            fault = str(error)
        if not fault:
            return
        if counter not in self._doubted:
            self._doubted.add(counter)
            raise Garbled(f"Message {counter} of the TSE cannot be read: {fault}")
        log.error("message %d in the log of the TSE is damaged: %s", counter, fault)

    def _member(self, header: bytes, raw: bytes, size: int) -> None:
        kind = header[_TYPE : _TYPE + 1]
        if kind in (b"x", b"L"):
            self._head += raw
            self._long_name = _long_name(raw[BLOCK : BLOCK + size], kind)
            return
        name = self._long_name or header[:100].rstrip(b"\0").decode("utf-8", "replace")
        content = raw[BLOCK : BLOCK + size]
        raw, self._head, self._long_name = self._head + raw, b"", ""
        if not name.endswith(".log"):
            if name not in self._seen:
                self._seen.add(name)
                self._out.write(raw)
            return
        found = _COUNTER.search(name)
        if found is None:
            raise Garbled(f"The export of the TSE holds {name!r}, which names no signature counter.")
        counter = int(found[1])
        if counter <= self.last_counter:
            raise Garbled(
                f"Signature counter {counter} follows {self.last_counter} in the export of the TSE."
            )
        if self.logs and counter > self.last_counter + 1:
            log.warning("the export of the TSE goes from counter %d to %d", self.last_counter, counter)
        self._check(counter, content)
        self._out.write(raw)
        self.last_counter = counter
        self.logs += 1
        self.part_logs += 1


def _check_header(header: bytes) -> None:
    stored = header[_CHECKSUM].strip(b" \0")
    found = sum(header) - sum(header[_CHECKSUM]) + 8 * 0x20
    try:
        right = int(stored, 8) == found
    except ValueError:
        right = False
    if not right:
        raise Garbled("The export of the TSE is no TAR archive, or was damaged on its way.")


def _size(header: bytes) -> int:
    try:
        size = int(header[_SIZE].strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise Garbled("The export of the TSE is no TAR archive.") from error
    if not 0 <= size <= MAX_MEMBER_BYTES:
        raise Garbled(f"The export of the TSE holds a file of {size} bytes.")
    return size


def _long_name(data: bytes, kind: bytes) -> str:
    """The name in a pax header, or in one of GNU tar."""
    if kind == b"L":
        return data.rstrip(b"\0").decode("utf-8", "replace")
    found = re.search(rb"\d+ path=([^\n]*)\n", data)
    return "" if found is None else found[1].decode("utf-8", "replace")
