"""The traffic log: every frame in hex with its direction and the time its answer took.

It has a level of its own below DEBUG, ``TRAFFIC``, on the logger ``fiskal.traffic``. What is secret in a frame (PINs,
PUKs) is blanked before it gets here: the protocol gives the places, because the transport cannot know them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Transport

TRAFFIC: Final = 7
logging.addLevelName(TRAFFIC, "TRAFFIC")

log = logging.getLogger("fiskal.traffic")

Secrets = Iterable[slice]


def blanked(frame: bytes, secrets: Secrets) -> str:
    """``frame`` in hex, with ``**`` for each byte within ``secrets``."""
    pairs = [f"{byte:02x}" for byte in frame]
    for place in secrets:
        for index in range(*place.indices(len(pairs))):
            pairs[index] = "**"
    return "".join(pairs)


def logged_call(
    transport: Transport, name: str, frame: bytes, deadline: Deadline | None, secrets: Secrets = ()
) -> bytes:
    """Call ``transport`` and write both frames to the traffic log, if somebody reads it.

    ``name`` says which TSE it is; ``secrets`` are the places of ``frame`` that nobody may read. Raises as
    :meth:`Transport.call`.
    """
    if not log.isEnabledFor(TRAFFIC):
        return transport.call(frame, deadline)
    log.log(TRAFFIC, "%s > %s", name, blanked(frame, secrets))
    began = time.perf_counter()
    try:
        answer = transport.call(frame, deadline)
    except Exception as error:
        log.log(TRAFFIC, "%s ! %.3f ms %s", name, (time.perf_counter() - began) * 1000, error)
        raise
    log.log(TRAFFIC, "%s < %.3f ms %s", name, (time.perf_counter() - began) * 1000, answer.hex())
    return answer
