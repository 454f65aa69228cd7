from __future__ import annotations

import pytest

PATIENCE_S = 600.0


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was interrupted is decided within one receipt, however slow the machine is: a TSE that answers is waited
    for, and one that is away says so at once."""
    monkeypatch.setattr("fiskal.queue.interruptions.RUNNING_S", PATIENCE_S)
    monkeypatch.setattr("fiskal.host.middleware.START_UP_S", PATIENCE_S)
