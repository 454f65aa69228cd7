"""``python -m fiskal.simulators.fcc HOST:PORT [ERS_CODE [FOLDER]]``: the connector without TLS, as it really is."""

from __future__ import annotations

import sys
from pathlib import Path

from fiskal.simulators.fcc import Settings, simulate
from fiskal.simulators.plan import Plan


def main(listen: str, ers_code: str = "4711", folder: str = "") -> None:
    """Serve until the process is ended."""
    settings = Settings(
        listen=listen,
        ers_code=ers_code,
        folder=Path(folder) if folder else None,
        tls=False,
        plan=Plan(scale=0),
    )
    with simulate(settings) as simulator:
        simulator.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
