"""What an access to the file of a store can raise, and what to do about it."""

from __future__ import annotations

import sqlite3
from typing import Final

from fiskal.errors import StoreError

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full; make room, then repeat",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; make them writable, then repeat",
    sqlite3.SQLITE_IOERR: "the disk reported an error; check it and the file system, then repeat",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; stop, keep a copy of it and restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database or its header is damaged; restore a backup",
    sqlite3.SQLITE_BUSY: "another program keeps the file locked; close it, then repeat",
    sqlite3.SQLITE_LOCKED: "another connection keeps a table locked; close it, then repeat",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that it exists and its permissions",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}

DAMAGE: Final = (sqlite3.Error, UnicodeDecodeError)
"""What an access to a file can raise; sqlite3 decodes messages too, which may quote damage."""


def store_error(error: Exception, path: str, doing: str) -> StoreError:
    """What to tell the caller of a failed access to ``path``: what happened and what to do."""
    if isinstance(error, UnicodeDecodeError):
        return StoreError(f"could not {doing} {path}: {_ADVICE[sqlite3.SQLITE_CORRUPT]} ({error})")
    code = getattr(error, "sqlite_errorcode", None)
    advice = _ADVICE.get(code & 0xFF) if code is not None else None
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreError(f"could not {doing} {path}: {advice or 'SQLite failed'} ({name}: {error})")
