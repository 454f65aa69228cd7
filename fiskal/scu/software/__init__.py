"""The embedded default: a software TSE in a folder. NOT CERTIFIED, for development and testing only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fiskal.clock import Clock, now
from fiskal.scu.contract import RegisterClientIdRequest, TseState, TseStates
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Driver
from fiskal.scu.exports import ExportSettings
from fiskal.scu.software.rehearsal import FILE_NAME, Rehearsal, RehearsedTse
from fiskal.scu.software.tse import NOT_CERTIFIED_WARNING, SoftwareTse

__all__ = ["NOT_CERTIFIED_WARNING", "Rehearsal", "RehearsedTse", "SoftwareTse", "open_software_tse"]


def open_software_tse(
    directory: str | os.PathLike[str],
    *,
    curve: str = "secp256r1",
    durable: bool = False,
    log_version: int = 2,
    clock: Clock = now,
    client_ids: Iterable[str] = (),
    create: bool = True,
    verify_signatures: bool = False,
    rehearse: Rehearsal | None = None,
) -> ScuCore:
    """Open the software TSE in ``directory`` as an SCU, creating it there if there is none.

    ``client_ids`` are registered, after an initialisation if the TSE is new; without any a new TSE stays
    uninitialised. ``curve`` and ``log_version`` (2 or 3) count at creation only; ``durable`` as in
    :class:`SoftwareTse`, whose errors this raises. ``rehearse``, or a ``rehearse.json`` in the folder, makes
    it play a device (:class:`RehearsedTse`).
    """
    tse = SoftwareTse(
        directory, curve=curve, durable=durable, log_version=log_version, clock=clock, create=create
    )
    driver: Driver = tse
    if rehearse is not None or (tse.directory / FILE_NAME).exists():
        try:
            driver = RehearsedTse(tse, rehearse)
        except BaseException:
            tse.close()
            raise
    scu = ScuCore(
        driver,
        clock=clock,
        verify_signatures=verify_signatures,
        exports=ExportSettings(folder=Path(directory) / "exports"),
    )
    try:
        wanted = list(client_ids)
        if wanted:
            scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
        for client_id in wanted:
            scu.register_client_id(RegisterClientIdRequest(client_id=client_id))
    except BaseException:
        scu.close()
        raise
    return scu
