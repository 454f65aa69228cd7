"""The embedded default: a software TSE in a folder. NOT CERTIFIED, for development and testing only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fiskal.clock import Clock, now
from fiskal.errors import ConfigurationError
from fiskal.scu.contract import RegisterClientIdRequest, TseState, TseStates
from fiskal.scu.core import ScuCore
from fiskal.scu.driver import Driver
from fiskal.scu.exports import ExportSettings
from fiskal.scu.signcheck import Mode
from fiskal.scu.software import access, rehearsal
from fiskal.scu.software.aggregating import AggregatingTse
from fiskal.scu.software.protected import ProtectedTse
from fiskal.scu.software.rehearsal import Rehearsal, RehearsedTse
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
    signature_check: Mode | None = None,
    updates: Literal["signed", "unsigned"] = "signed",
    admin_pin: str | None = None,
    rehearse: Rehearsal | None = None,
) -> ScuCore:
    """Open the software TSE in ``directory`` as an SCU, creating it there if there is none.

    ``client_ids`` are registered, after an initialisation if the TSE is new; without any a new TSE stays
    uninitialised. ``curve`` and ``log_version`` (2 or 3) count at creation only; ``durable`` as in
    :class:`SoftwareTse`, whose errors this raises. ``rehearse``, or a ``rehearse.json`` in the folder, makes
    it play a device (:class:`RehearsedTse`). ``updates`` unsigned keeps them for later
    (:class:`AggregatingTse`); ``admin_pin`` is for a TSE that has users (:class:`ProtectedTse`).
    ``signature_check`` as in :class:`ScuCore`.
    """
    if updates not in ("signed", "unsigned"):
        raise ConfigurationError(f"'updates' is {updates!r}; a TSE has them signed or unsigned.")
    make = SoftwareTse if updates == "signed" else AggregatingTse
    tse = make(directory, curve=curve, durable=durable, log_version=log_version, clock=clock, create=create)
    driver: Driver = tse
    try:
        if (tse.directory / access.FILE_NAME).exists():
            driver = ProtectedTse(driver, tse, access.Access(tse.directory), admin_pin)
        if rehearse is not None or (tse.directory / rehearsal.FILE_NAME).exists():
            driver = RehearsedTse(tse, rehearse, inner=driver)
    except BaseException:
        tse.close()
        raise
    scu = ScuCore(
        driver,
        clock=clock,
        signature_check=signature_check,
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
