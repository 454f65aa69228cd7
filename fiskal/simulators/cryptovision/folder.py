"""The form for machines without FUSE: ``TSE-IO.bin`` is a plain file in a folder, and somebody watches it.

A write returns before the device took the command, and a reader may see a block that is being written; programs that
do not wait for a block to be taken (python-bdr-tse) cannot use it.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from fiskal.simulators.cryptovision import wire
from fiskal.simulators.cryptovision.mailbox import FILE, Mailbox
from fiskal.simulators.cryptovision.wire import BLOCK

LOOK_S: Final = 0.0005


class Watcher:
    """Serves a mailbox through the file ``TSE-IO.bin`` of ``folder``, which is made if it is missing.

    What has the magic and not the token of an answer is a command. Ends with :meth:`close`.
    """

    def __init__(self, mailbox: Mailbox, folder: str | os.PathLike[str], *, look_s: float = LOOK_S) -> None:
        self.path = Path(folder) / FILE
        self._mailbox = mailbox
        self._look_s = look_s
        self._stop = threading.Event()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        if os.fstat(self._fd).st_size != BLOCK:
            os.ftruncate(self._fd, BLOCK)
        self._thread = threading.Thread(target=self._watch, name="cryptovision-folder", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        shown = os.pread(self._fd, BLOCK, 0)
        while not self._stop.wait(self._look_s):
            there = os.pread(self._fd, BLOCK, 0)
            if there != shown:
                shown = there
                if _is_command(there):
                    self._write(there)
            visible = self._read()
            if visible is not None and visible != shown and os.pread(self._fd, BLOCK, 0) == there:
                os.pwrite(self._fd, visible, 0)
                shown = visible

    def _write(self, block: bytes) -> None:
        try:
            self._mailbox.write(FILE, 0, block)
        except OSError:
            return

    def _read(self) -> bytes | None:
        """What the device shows; None while it shows nothing new."""
        try:
            block = self._mailbox.read(FILE, 0, BLOCK)
        except OSError:
            return None
        return None if _is_command(block) or len(block) < BLOCK else block

    def close(self) -> None:
        """Stop watching; the file stays."""
        self._stop.set()
        self._thread.join()
        os.close(self._fd)


def _is_command(block: bytes) -> bool:
    return block.startswith(wire.MAGIC) and block[28] != 0
