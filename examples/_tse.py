"""A TSE that fails, for the examples: another process takes the software TSE away, because a TSE has one owner."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _common import Embedded, OverHttp, Register, folder, open_register

import fiskal

THIEF = """
import sys
from fiskal.scu.software import open_software_tse
tse = open_software_tse(sys.argv[1], create=False)
print("taken", flush=True)
sys.stdin.read()
tse.close()
"""


@contextmanager
def host_to_rob(given: Namespace) -> Iterator[Path]:
    """The folder of a host whose queue is in operation and whose TSE nobody has opened yet."""
    if given.url and given.data is None:
        sys.exit("Give --data, the folder of the host, to take its TSE away.")
    with folder(given) as data:
        if not given.url:
            with open_register(Namespace(url=None, data=data)):
                pass  # a new host makes its TSE and signs its start receipt
        yield data


@contextmanager
def taken_away(data: Path) -> Iterator[None]:
    """The TSE in the host's folder is in the hands of another process."""
    (tse,) = (data / "scu").iterdir()
    command = [sys.executable, "-c", THIEF, str(tse)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as thief:
        assert thief.stdout is not None
        if thief.stdout.readline() != "taken\n":
            sys.exit("The TSE cannot be taken away: start 'fiskal serve' anew before this example.")
        yield
        thief.communicate()  # its input ends, and it gives the TSE back


@contextmanager
def register_of(given: Namespace, data: Path) -> Iterator[Register]:
    """The register to the host in this folder, embedded or over HTTP; no start receipt, the TSE may be away."""
    if given.url:
        yield OverHttp(given.url, given.token)
    else:
        with fiskal.open(data) as middleware:
            yield Embedded(middleware)
