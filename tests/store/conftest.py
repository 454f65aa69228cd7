from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiskal.store import SqliteStore

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store #1 ä.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path) as opened:
        yield opened
