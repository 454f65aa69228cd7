from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose queue is in operation."""
    made = Shop(tmp_path)
    yield made
    made.close()


@pytest.fixture
def new_shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop that never sent its start receipt."""
    made = Shop(tmp_path, start=False)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What a test switches on or off in the logs is no affair of the next one: a traffic log fills memory."""
    yield
    logging.disable(logging.NOTSET)
    logging.getLogger("fiskal.traffic").setLevel(logging.NOTSET)
