"""Looking for Swissbit TSEs: mounted volumes with their files, and removable devices with their sectors.

Everything is opened for reading only, and fixed disks not at all.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fiskal.frames import swissbit as frames
from fiskal.frames.swissbit import FrameError, Info
from fiskal.scu.drivers import Found
from fiskal.scu.drivers.swissbit.generation import Generation, generation
from fiskal.scu.drivers.swissbit.media import BLOCK, INFO_FILE, MAILBOX_FILE, BlockMedium
from fiskal.scu.transports import NotSent
from fiskal.scu.transports.blockdevice import removable

FAMILY: Final = "swissbit"
_STATES: Final = {0: "uninitialized", 1: "initialized", 2: "decommissioned"}


def mount_points(mounts: str = "/proc/self/mounts") -> Iterator[Path]:
    """The folders where something is mounted; blanks in their names stand as octal numbers there."""
    with contextlib.suppress(OSError):
        for line in Path(mounts).read_bytes().splitlines():
            fields = line.split(b" ")
            if len(fields) > 1:
                yield Path(codecs.escape_decode(fields[1])[0].decode("utf-8", "surrogateescape"))


def find(
    mounts: str = "/proc/self/mounts", sys_block: str = "/sys/block", dev: str = "/dev"
) -> Iterator[Found]:
    seen = set()
    for root in mount_points(mounts):
        found = on_volume(root)
        if found is not None and root not in seen:
            seen.add(root)
            yield found
    taken: set[str] = set()
    for node in removable(sys_block, dev, mounts):
        if any(str(node).startswith(other) for other in taken):
            continue
        try:
            medium = BlockMedium(node, writable=False)
        except NotSent:
            continue
        try:
            info = frames.read_info(medium.read_info())
        except (OSError, FrameError):
            continue
        finally:
            medium.close()
        taken.add(str(node))
        note = "access without a mounted file system was never tried on a device: mount it if you can"
        yield _found(info, str(node), {"device": str(node)}, note)


def on_volume(root: Path) -> Found | None:
    """The TSE whose volume is mounted at ``root``; None if it is none."""
    try:
        if not (root / MAILBOX_FILE).exists():
            return None
    except OSError:
        return None
    options = {"path": str(root)}
    try:
        with (root / INFO_FILE).open("rb", buffering=0) as file:
            block = file.read(BLOCK)
        info = frames.read_info(block)
    except (OSError, FrameError) as error:
        return Found(
            family=FAMILY, place=str(root), options=options, note=f"{INFO_FILE} cannot be read: {error}"
        )
    return _found(info, str(root), options, "")


def _found(info: Info, place: str, options: dict[str, str], note: str) -> Found:
    found = generation(info)
    notes = [note] if note else []
    if found is Generation.V2:
        notes.append("a TSE 2.0: it needs the vendor's library, which this version does not drive")
    elif found is Generation.UNKNOWN:
        notes.append("not a TSE 1.x as it is known: this version does not drive it")
    if info.state == 0:
        notes.append("it has to be initialised before it can be used")
    end = None
    with contextlib.suppress(OverflowError, OSError, ValueError):
        end = (
            datetime.fromtimestamp(info.certificate_end, UTC).strftime("%Y-%m-%d")
            if info.certificate_end
            else None
        )
    left = (info.capacity_blocks - info.size_blocks) * BLOCK if info.capacity_blocks else None
    return Found(
        family=FAMILY,
        place=place,
        options=dict(options),
        serial=info.serial.hex(),
        state=_STATES.get(info.state, f"unknown ({info.state})"),
        certificate_end=end,
        signatures_left=max(0, info.max_signatures - info.signatures),
        memory_left_bytes=None if left is None or left < 0 else left,
        note="; ".join(notes),
    )
