"""One process per store: an operating system lock on a file beside the database."""

from __future__ import annotations

from pathlib import Path

from fiskal import files
from fiskal.errors import StoreError, StoreLocked


class FileLock(files.FileLock):
    """The lock of a store. Never waits: StoreLocked if taken, StoreError if the file cannot be opened."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, 0o666)
        except files.Taken as error:
            raise StoreLocked(
                f"the store is already open: {path} is locked; stop the other process, or use the store that"
                " is already open in this one"
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot open the lock file {path}: {error.strerror}; the directory must exist and be"
                " writable"
            ) from error
