"""What a host tells those who listen: a queue has changed its mode, a TSE has come or gone,
or signed what does not verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

EventKind = Literal[
    "failed_mode_entered", "failed_mode_left", "tse_reachable", "tse_unreachable", "signature_mismatch"
]


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change, at ``moment`` (ISO 8601, UTC). ``text`` says why, in plain words.

    ``tse_reachable`` and ``tse_unreachable`` are findings of the probe about the TSE of a queue in failed
    mode. They change nothing: only a zero receipt leaves failed mode. ``signature_mismatch``: a signature of the
    TSE does not verify; the action journal has what was asked and what came back.
    """

    kind: EventKind
    moment: str
    queue_id: str
    scu_id: str | None
    text: str


Listener = Callable[[Event], None]


class TseReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a TSE answered at ``moment``. ``ready`` says that it can sign for the queues of this host.

    ``reachable`` is None if it was not asked because it is in use; then the TSE is ``ready`` if it just
    answered somebody.
    """

    scu_id: str
    moment: str
    reachable: bool | None
    ready: bool
    text: str
