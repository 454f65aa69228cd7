"""A new TSS from nothing to INITIALIZED with its clients, resumable: for the first one and for the one that replaces a
dead one (tse-cloud §1.12, steps 3 and 4).

The id of the new TSS is on disk before the service hears of it, and every step asks the service how far it is. The PUK
is told only while the TSS is CREATED; it is handed to ``keep_puk`` before anything else happens, and is needed once.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from fiskal.clock import Clock, now
from fiskal.scu.cloud import Attempts, StateFile
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.fiskaly import wire
from fiskal.scu.drivers.fiskaly.api import Api
from fiskal.scu.drivers.fiskaly.driver import FiskalyDriver
from fiskal.scu.drivers.fiskaly.options import Options
from fiskal.scu.errors import Misconfigured
from fiskal.scu.secrets import resolve

log = logging.getLogger(__name__)

FILE_NAME: Final = "provision.json"
MIN_PIN: Final = 6


def provision(
    folder: Path,
    options: Options,
    *,
    clients: Iterable[str],
    keep_puk: Callable[[str], None],
    find_puk: Callable[[], str | None],
    said: Callable[[str], None] = log.info,
    wait: Callable[[float], object] = time.sleep,
    clock: Clock = now,
) -> str:
    """Make a TSS and register ``clients``; return its id.

    Of ``options`` the ``tss_id`` does not count, and ``admin_pin`` becomes its PIN. Called again with the same
    ``folder`` it goes on where it stopped, and does nothing if all is done.

    ``keep_puk`` stores the PUK where it is safe, ``find_puk`` gives it back; ``said`` is told each step in words.
    Raises ScuError: ``TseRejected`` with the vendor code ``E_TSS_LIMIT_REACHED`` if the contract allows no further TSS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if options.admin_pin is None:
        raise Misconfigured("AUTH_FAILED", "The new TSS needs an admin PIN: set the option admin_pin.")
    pin = resolve(options.admin_pin, "admin_pin", folder=folder)
    if len(pin.reveal()) < MIN_PIN:
        raise Misconfigured("AUTH_FAILED", f"The admin PIN must have at least {MIN_PIN} characters.")
    state = StateFile(folder / FILE_NAME)
    tss_id = state.get("tss_id")
    if not isinstance(tss_id, str):
        tss_id = str(uuid.uuid4())
        state.set(tss_id=tss_id)
    path = f"/tss/{tss_id}"
    seconds = options.admin_timeout_ms / 1000
    client = options.client(options.api_endpoint, folder)
    attempts = Attempts(options, wait=wait)
    api = Api(
        client,
        attempts,
        resolve(options.api_key, "api_key", folder=folder),
        resolve(options.api_secret, "api_secret", folder=folder),
        auth_s=options.auth_timeout_ms / 1000,
    )

    def change(
        method: str, where: str, body: dict[str, Any], type_: Any = wire.Tss, token: Any = None
    ) -> Any:
        return api.call(
            method,
            where,
            type_,
            Deadline(3 * seconds),
            seconds=seconds,
            body=msgspec.json.encode(body),
            changes=True,
            token=token,
        )

    driver = FiskalyDriver(
        api,
        msgspec.structs.replace(options, tss_id=tss_id),
        attempts,
        StateFile(None),
        admin_pin=pin,
        clock=clock,
    )
    try:
        if not state.get("created"):
            said(f"creating TSS {tss_id}")
            tss: wire.Tss = change("PUT", path, {})
            if tss.admin_puk:
                keep_puk(tss.admin_puk)
            state.set(created=True)
        tss = api.call("GET", path, wire.Tss, Deadline(seconds), seconds=seconds)
        if tss.state == "CREATED":
            said("deploying it, which may take half a minute")
            tss = change("PATCH", path, {"state": "UNINITIALIZED"})
        if tss.state == "UNINITIALIZED":
            if not state.get("pin_set"):
                puk = find_puk()
                if not puk:
                    raise Misconfigured(
                        "NOT_PERSONALISED",
                        f"The PUK of TSS {tss_id} is not known any more: begin anew with another folder.",
                    )
                said("setting its admin PIN")
                change("PATCH", f"{path}/admin", {"admin_puk": puk, "new_admin_pin": pin.reveal()}, dict)
                state.set(pin_set=True)
            said("initialising it")
            with api.admin(path, pin, Deadline(3 * seconds), seconds) as token:
                tss = change("PATCH", path, {"state": "INITIALIZED"}, token=token)
        if tss.state != "INITIALIZED":
            raise Misconfigured(
                "WRONG_STATE", f"TSS {tss_id} is {tss.state}: begin anew with another folder."
            )
        for client_id in clients:
            driver.validate_client_id(client_id)
            said(f"registering client {client_id}")
            driver.register(client_id, None)
    finally:
        driver.close()
    return tss_id
