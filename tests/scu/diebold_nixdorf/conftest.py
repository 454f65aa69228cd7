from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scu.diebold_nixdorf.rig import FORMS, FRAMES, Rig


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make_it(form: str, **settings: Any) -> Rig:
        made.append(Rig(form, tmp_path / f"rig{len(made)}", **settings))
        return made[-1]

    yield make_it
    for rig in made:
        rig.close()


@pytest.fixture(params=FORMS)
def rig(request: pytest.FixtureRequest, make: Callable[..., Rig]) -> Rig:
    """A TSE that is ready, by each way."""
    return make(request.param)


@pytest.fixture(params=FRAMES)
def line(request: pytest.FixtureRequest, make: Callable[..., Rig]) -> Rig:
    """A TSE that is ready, by each way that carries frames."""
    return make(request.param)


@pytest.fixture
def pty(make: Callable[..., Rig]) -> Rig:
    return make("pty")


@pytest.fixture
def web(make: Callable[..., Rig]) -> Rig:
    return make("web")
