"""Writes to a file that go on while the caller does something else (``io_submit(2)``, on Linux)."""

from __future__ import annotations

import errno
import mmap
import os
from typing import Any

try:
    from fiskal._disk import ffi, lib
except ImportError:  # a system that has no such writes
    _opened: Any = None
else:
    _opened = lib.fk_flight_open

_spare: list[Any] = []
"""The states of flights that were closed, for others: to take one back takes the system 30 ms."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_spare.clear)  # they are of the process that made them


class Flight:
    """One write at a time out of ``memory``: :meth:`begin`, then :meth:`land`. Not thread-safe. Raises OSError where
    the system has no such writes.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        if _opened is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._memory = ffi.from_buffer("char[]", memory, require_writable=True)
        try:
            self._state = _spare.pop()
        except IndexError:
            self._state = ffi.new("fk_flight *")
            _check(_opened(self._state))

    @property
    def is_under_way(self) -> bool:
        """A write was begun and has not landed."""
        return bool(self._state.under_way)

    def begin(self, fd: int, length: int, at: int) -> None:
        """Begin to write the first ``length`` bytes of the memory to the offset ``at``. They stay as they are until
        the write has landed. Raises OSError; then nothing was begun."""
        _check(lib.fk_flight_begin(self._state, fd, self._memory, length, at))

    def land(self, patience_s: float) -> int:
        """How many bytes were written; return when that is known. For ``patience_s`` seconds the processor stays
        awake. Raises OSError, ECANCELED if no write is under way."""
        return _check(lib.fk_flight_land(self._state, int(patience_s * 1e9)))

    def close(self) -> None:
        """Wait for what is under way, whatever becomes of it. Never fails."""
        if self._state.under_way:
            lib.fk_flight_land(self._state, 0)
        state, self._state = self._state, ffi.new("fk_flight *")
        if state.context:
            _spare.append(state)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
