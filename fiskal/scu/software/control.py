"""Changing what a software TSE rehearses, while it is in use or not."""

from __future__ import annotations

import enum
import uuid
from pathlib import Path

import msgspec

from fiskal.files import write_atomically
from fiskal.scu.errors import Misconfigured
from fiskal.scu.software import rehearsal
from fiskal.scu.software.folder import FolderLock
from fiskal.scu.software.rehearsal import Fault, Rehearsal


class Effect(enum.StrEnum):
    """When a change counts."""

    AT_ONCE = "at once"
    NEXT_START = "when the host is started"
    AFTER_RESTART = "after a restart of the host, which was started without a rehearsal"


def change(folder: Path, new: Rehearsal) -> Effect:
    """Write ``new`` as the rehearsal of the TSE in ``folder``; return when it counts."""
    folder.mkdir(parents=True, exist_ok=True)
    faults = None
    if new.faults is not None:
        faults = [fault if fault.id else _with_id(fault) for fault in new.faults]
    text = msgspec.json.encode(msgspec.structs.replace(new, faults=faults))
    write_atomically(folder / rehearsal.FILE_NAME, msgspec.json.format(text, indent=2) + b"\n")
    if _is_held(folder / rehearsal.LOCK_NAME):
        return Effect.AT_ONCE
    return Effect.AFTER_RESTART if _is_held(folder / "lock") else Effect.NEXT_START


def _with_id(fault: Fault) -> Fault:
    return msgspec.structs.replace(fault, id=uuid.uuid4().hex[:8])


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        FolderLock(path).release()
    except Misconfigured:
        return True
    return False


def remaining(folder: Path, faults: list[Fault]) -> list[tuple[Fault, int | None]]:
    """Each fault with how often it will still happen; None is until it is taken away."""
    used = rehearsal.read_used(folder)
    return [
        (fault, None if fault.times is None else max(0, fault.times - used.get(fault.id, 0)))
        for fault in faults
    ]
