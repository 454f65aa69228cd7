"""A simulator of the Fiskal Cloud Connector (Deutsche Fiskal, Swissbit Cloud v1), with genuine signed logs.

``simulate(Settings(...))`` serves the HTTP API; :mod:`.folder` makes a directory that looks like an installed FCC, for
those who test how it is installed and started. ``python -m fiskal.simulators.fcc`` is what such a directory starts.
"""

from __future__ import annotations

from fiskal.simulators.fcc.app import FccApp, Settings
from fiskal.simulators.http import HttpSimulator, TestCa

__all__ = ["FccApp", "Settings", "simulate"]


def simulate(settings: Settings | None = None, *, ca: TestCa | None = None) -> HttpSimulator:
    """Serve the API. Raises ConfigurationError for an address that cannot be used."""
    settings = settings or Settings()
    return HttpSimulator(FccApp(settings), settings, ca=ca)
