"""A simulator of the Swissbit Cloud TSE v2 ("web-tse"), with genuine signed logs.

Only what is known of the service is here (tse-cloud §2); its management API answers 404.
"""

from __future__ import annotations

from fiskal.simulators.http import HttpSimulator, TestCa
from fiskal.simulators.swissbit_cloud.app import Settings, SwissbitCloudApp

__all__ = ["Settings", "SwissbitCloudApp", "simulate"]


def simulate(settings: Settings | None = None, *, ca: TestCa | None = None) -> HttpSimulator:
    """Serve the API under ``<url>/api/v1``. Raises ConfigurationError for an address that cannot be used."""
    settings = settings or Settings()
    app = SwissbitCloudApp(settings)
    simulator = HttpSimulator(app, settings, ca=ca)
    app.base_url = simulator.url
    return simulator
