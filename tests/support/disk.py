"""Disks that fail under the store."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from fiskal.store.writer import Writer


def refuse_to_confirm(patch: pytest.MonkeyPatch, code: int = sqlite3.SQLITE_IOERR) -> None:
    """Have every flush fail with ``code`` when everything was written but is not committed."""
    execute = Writer._execute

    def write_and_fail(self: Writer, plan: Any) -> None:
        error = sqlite3.OperationalError("the flush failed")
        error.sqlite_errorcode = code
        error.sqlite_errorname = "SQLITE_TEST"
        if self.connection.in_transaction:
            execute(self, plan)
        raise error

    patch.setattr(Writer, "_execute", write_and_fail)
