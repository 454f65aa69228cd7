"""Initialising a new Swissbit TSE: each step can be repeated, and no secret is used that was not written down before
(tse-swissbit §11.3)."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final

from fiskal.clock import Clock, to_unix
from fiskal.files import write_atomically
from fiskal.frames.swissbit import Info, User
from fiskal.scu.drivers.swissbit import cards
from fiskal.scu.drivers.swissbit.card import Card
from fiskal.scu.drivers.swissbit.cards import CardError
from fiskal.scu.drivers.swissbit.options import Options
from fiskal.scu.drivers.swissbit.users import TRIES, Guard
from fiskal.scu.errors import Misconfigured

log = logging.getLogger(__name__)

SHEET: Final = "recovery-{serial}.txt"


def derive(seed: str, serial: bytes) -> tuple[str, str, str]:
    """First PUK, Admin PIN and TimeAdmin PIN of a device (*inferred*: publicly described, never tried by us)."""
    digest = hashlib.sha256(seed.encode("ascii") + serial).digest()
    puk, admin, time_admin = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16))
    return f"{puk % 10**6:06d}", f"{admin % 10**5:05d}", f"{time_admin % 10**5:05d}"


def _initial(options: Options, info: Info) -> tuple[str, str, str]:
    given = (options.initial_puk, options.initial_admin_pin, options.initial_time_admin_pin)
    if all(value is not None for value in given):
        return tuple(given)  # type: ignore[return-value]
    if options.inferred.initial_credentials and options.seed:
        return derive(options.seed, info.serial)
    raise Misconfigured(
        "NOT_PERSONALISED",
        "A new TSE is opened with the PUK and PINs it was delivered with: give initial_puk, initial_admin_pin and "
        "initial_time_admin_pin, or seed together with inferred.initial_credentials. Three wrong ones end the device "
        "for good, so ask your reseller.",
    )


def _chosen(options: Options) -> tuple[str, str, str]:
    if options.puk is None or options.admin_pin is None or options.time_admin_pin is None:
        raise Misconfigured(
            "NOT_PERSONALISED",
            "Initialising needs the options puk (6 characters), admin_pin and time_admin_pin (5 each). Choose them, "
            "write them down, and take puk and admin_pin out of the configuration afterwards.",
        )
    return options.puk, options.admin_pin, options.time_admin_pin


def write_sheet(
    folder: Path, serial: str, puk: str, admin_pin: str, time_admin_pin: str, clock: Clock
) -> Path:
    """Write the secrets down before the device has them, and read them back. To be printed, then deleted."""
    path = folder / SHEET.format(serial=serial[:16])
    text = (
        "Recovery sheet of a TSE. Print it, keep it in a safe, then delete this file.\n"
        f"Serial number  {serial}\nPUK            {puk}\nAdmin PIN      {admin_pin}\nTimeAdmin PIN  {time_admin_pin}\n"
        f"Written at     {to_unix(clock())} (Unix time)\n"
    ).encode()
    write_atomically(path, text, 0o600)
    if path.read_bytes() != text:
        raise Misconfigured(
            "NOT_PERSONALISED", f"The recovery sheet {path} cannot be read back; nothing was changed."
        )
    return path


def commission(card: Card, options: Options, guard: Guard | None, folder: Path | None, clock: Clock) -> None:
    """Bring a new device to the state initialised. Raises CardError, TransportError and ScuError.

    Whatever was done before, by this or an earlier try, is seen and left out.
    """
    assert guard is not None
    info = card.info()
    puk, admin_pin, time_admin_pin = _chosen(options)
    client = options.management_client.encode("ascii")
    if not (info.changed_puk and info.changed_admin_pin and info.changed_time_admin_pin):
        initial = _initial(options, info)
        if folder is not None:
            sheet = write_sheet(folder, info.serial.hex(), puk, admin_pin, time_admin_pin, clock)
            log.warning("PUK and PINs of the TSE stand in %s: print it, keep it safe, and delete it", sheet)
        _change_secrets(card, options, guard, info, initial, (puk, admin_pin, time_admin_pin), client)
    _enter(card, guard, User.ADMIN, admin_pin, "Admin PIN")
    card.register(client, None)
    card.self_test(client)
    if not card.info().ctss_active or not options.inferred.ctss_flag:
        card.enable_ctss(None)
    try:
        card.initialize()
    except CardError as error:
        if error.code != cards.ALREADY_INITIALIZED:
            raise
    _enter(card, guard, User.TIME_ADMIN, time_admin_pin, "TimeAdmin PIN")
    card.set_time(to_unix(clock()), None)


def _change_secrets(
    card: Card,
    options: Options,
    guard: Guard,
    info: Info,
    initial: tuple[str, str, str],
    chosen: tuple[str, str, str],
    client: bytes,
) -> None:
    try:
        card.self_test(client)  # the first command of a new device; it has no client yet and says so
    except CardError as error:
        log.info("the first self test says what it has to: %s", error)
    if not info.changed_puk:
        name = "initial PUK"
        if guard.tries_left(name) < TRIES and not options.i_know_the_seed:
            raise Misconfigured(
                "AUTH_FAILED",
                "The initial PUK was refused before; three wrong ones end the device for good. If you are sure of this "
                "one, set i_know_the_seed.",
            )
        guard.check(name, initial[0].encode())
        try:
            card.change_puk(initial[0].encode(), chosen[0].encode(), None)
        except CardError as error:
            guard.refused(name, initial[0].encode(), error)
            raise
    for user, changed, old, new, label in (
        (User.ADMIN, info.changed_admin_pin, initial[1], chosen[1], "initial Admin PIN"),
        (User.TIME_ADMIN, info.changed_time_admin_pin, initial[2], chosen[2], "initial TimeAdmin PIN"),
    ):
        if not changed:
            _enter(card, guard, user, old, label)
            card.change_pin(user, old.encode(), new.encode(), None)


def _enter(card: Card, guard: Guard, user: User, pin: str, name: str) -> None:
    guard.check(name, pin.encode())
    try:
        card.login(user, pin.encode(), None)
    except CardError as error:
        guard.refused(name, pin.encode(), error)
        raise
    guard.accepted(name)
