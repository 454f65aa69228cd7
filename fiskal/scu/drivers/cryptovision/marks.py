"""What the device's counters were before each of the last calls, so that a call without an answer is recognised.

Two starts of one client look the same in the device's log; only the counters tell which one came after a call was
sent. A ring of fixed size in one file: writing a mark is one small write without a flush, which outlives the process,
not the machine; marks are flushed when a call stays open. Where one is missing there are the open numbers of the call
store.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from fiskal.scu.driver import Call

FILE_NAME: Final = "marks.bin"
SLOTS: Final = 4096
_SLOT: Final = struct.Struct(">16sBQQQI")
"""Hash of the call's key, 1 for a start, sequence, signatureCounter, transactionNumber, CRC-32."""


class Mark(NamedTuple):
    """The device's counters before a call."""

    counter: int
    number: int


class Marks:
    """The ring in the file ``marks.bin`` of ``folder``. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        self._slots: dict[int, tuple[bytes, bool, int, Mark]] = {}
        self._latest: dict[bytes, int] = {}
        self._sequence = 0
        data = os.pread(self._fd, SLOTS * _SLOT.size, 0)
        for at in range(0, len(data) - _SLOT.size + 1, _SLOT.size):
            self._load(at // _SLOT.size, data[at : at + _SLOT.size])

    def _load(self, slot: int, raw: bytes) -> None:
        key, starts, sequence, counter, number, check = _SLOT.unpack(raw)
        if sequence == 0 or zlib.crc32(raw[:-4]) != check or sequence % SLOTS != slot:
            return
        self._sequence = max(self._sequence, sequence)
        self._put(slot, key, bool(starts), sequence, Mark(counter, number))

    def _put(self, slot: int, key: bytes, starts: bool, sequence: int, mark: Mark) -> None:
        old = self._slots.get(slot)
        if old is not None and self._latest.get(old[0]) == old[2]:
            del self._latest[old[0]]
        self._slots[slot] = (key, starts, sequence, mark)
        self._latest[key] = max(sequence, self._latest.get(key, 0))

    def write(self, call: Call, mark: Mark) -> None:
        """Note the counters before ``call`` is sent."""
        self._sequence += 1
        slot, key, starts = self._sequence % SLOTS, _key(call), call.op == "start"
        body = _SLOT.pack(key, starts, self._sequence, mark.counter, mark.number, 0)[:-4]
        os.pwrite(self._fd, body + zlib.crc32(body).to_bytes(4), slot * _SLOT.size)
        self._put(slot, key, starts, self._sequence, mark)

    def read(self, call: Call) -> Mark | None:
        """The counters before ``call`` was sent, None if that is not known."""
        sequence = self._latest.get(_key(call))
        return None if sequence is None else self._slots[sequence % SLOTS][3]

    def next_start(self, call: Call) -> Mark | None:
        """The counters before the first start that was sent after ``call``; None without one, or if it is not known.

        If they show the number that was the last one before ``call``, that was not executed.
        """
        sequence = self._latest.get(_key(call))
        if sequence is None:
            return None
        for later in range(sequence + 1, self._sequence + 1):
            slot = self._slots.get(later % SLOTS)
            if slot is not None and slot[2] == later and slot[1]:
                return slot[3]
        return None

    def sync(self) -> None:
        """Bring the marks to the disk: a call stays open, and they must outlive the machine."""
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _key(call: Call) -> bytes:
    text = f"{call.op}\0{call.client_id}\0{call.queue_item_id}\0{call.transaction_number}\0{call.generation}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
