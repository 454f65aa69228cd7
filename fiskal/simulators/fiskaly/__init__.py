"""A simulator of fiskaly SIGN DE v2: its routes, bodies, error codes and limits, with genuine signed logs.

``simulate(Settings(...))`` serves until it is closed. The signing engine of every TSS is a software TSE
(:mod:`fiskal.scu.software`), so exports verify; nothing here is certified.
"""

from __future__ import annotations

from fiskal.simulators.fiskaly.app import FiskalyApp
from fiskal.simulators.fiskaly.settings import Account, ReadyTss, Settings
from fiskal.simulators.http import HttpSimulator, TestCa

__all__ = ["Account", "FiskalyApp", "ReadyTss", "Settings", "simulate"]


def simulate(settings: Settings | None = None, *, ca: TestCa | None = None) -> HttpSimulator:
    """Serve the API under ``<url>/api/v2``. Raises ConfigurationError for an address that cannot be used."""
    settings = settings or Settings()
    return HttpSimulator(FiskalyApp(settings), settings, ca=ca)
