"""Which mounted volumes are Cryptovision TSEs: looks for their file, opens and writes nothing."""

from __future__ import annotations

import os
import string
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

FILE: Final = "TSE-IO.bin"
_MOUNTS: Final = Path("/proc/self/mounts")
_NOT_DEVICES: Final = frozenset(
    {
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "cgroup",
        "cgroup2",
        "mqueue",
        "tmpfs",
        "nfs",
        "nfs4",
        "cifs",
        "autofs",
    }
)
"""File systems that are no volume of a stick, or that may hang when they are looked at."""


def mount_points() -> list[Path]:
    """Where volumes are mounted on this machine."""
    if sys.platform == "win32":
        return [Path(f"{letter}:\\") for letter in string.ascii_uppercase if os.path.exists(f"{letter}:\\")]
    if sys.platform == "darwin":
        return sorted(Path("/Volumes").iterdir())
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] not in _NOT_DEVICES:
            points.append(Path(_unescaped(fields[1])))
    return points


def _unescaped(text: str) -> str:
    """The kernel writes blanks, tabs, line ends and backslashes as three octal digits."""
    for octal, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        text = text.replace(f"\\{octal}", character)
    return text


def mailboxes(points: Iterable[Path] | None = None) -> Iterator[Path]:
    """The mailbox files there are, each once."""
    seen = set()
    for point in mount_points() if points is None else points:
        path = point / FILE
        try:
            status = path.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield path
