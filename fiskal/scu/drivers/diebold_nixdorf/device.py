"""One Diebold Nixdorf TSE at the end of a link: who it is, who is logged in, its time and its self test.

What was seen of a device counts only as long as the connection lives: behind a new one it may have lost its power, or
be another device.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from fiskal.clock import Clock
from fiskal.scu.contract import Deadline, TseStates
from fiskal.scu.drivers.diebold_nixdorf import codes, values
from fiskal.scu.drivers.diebold_nixdorf.link import (
    STATE_COMMAND_OPEN,
    Link,
    LinkError,
    NoResponse,
    NotReached,
    Refused,
)
from fiskal.scu.drivers.diebold_nixdorf.options import PRODUCTION_CLIENT, Options
from fiskal.scu.drivers.diebold_nixdorf.pins import RefusedPins
from fiskal.scu.drivers.diebold_nixdorf.values import Slot
from fiskal.scu.errors import (
    Misconfigured,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.scu.transports import NotSent

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Device:
    """What all calls to one device share. ``known_open`` gives the open transactions whose starts were answered, so
    that a lost start is never taken for one of them; ``answered_counter`` the last counter an update of a number was
    answered with, so that a lost update is never taken for an earlier one with the same data."""

    def __init__(
        self,
        link: Link,
        options: Options,
        pins: RefusedPins,
        clock: Clock,
        *,
        known_open: Callable[[], Mapping[int, object]] = dict,
        answered_counter: Callable[[int], int] = lambda number: 0,
    ) -> None:
        self._link = link
        self._options = options
        self._pins = pins
        self._clock = clock
        self._known_open = known_open
        self._answered_counter = answered_counter
        self._slot = str(options.slot)
        self._serial: bytes | None = None
        self._public_key = b""
        self._open: set[int] = set()
        """The open numbers, as far as they were seen."""
        self._counters: dict[int, int] = {}
        """The last signatureCounter that was answered for an open number."""
        self._unanswered_logins: dict[str, int] = {}
        self._defective = False
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        """Nothing that was seen counts any more: the device may have lost its power."""
        self._connection = -1
        self._time_due = float("-inf")
        self._clients: list[str] | None = None
        self._certificates: list[str] | None = None
        self._firmware: str | None = None
        self._hardware = ""
        self._logged_in: set[str] = set()
        self._exported: tuple[int, int] | None = None
        """Length and last counter of the whole log that was exported last."""
        self._exported_at = 0.0
        self._export_generation = 0

    # ---- errors -------------------------------------------------------------------------------------

    def _safely(self, deadline: Deadline | None, action: Callable[[], _T]) -> _T:
        """Run something that may be repeated; errors of the link as what they mean for the caller."""
        try:
            return self._repairing(deadline, action)
        except Refused as error:
            raise codes.refusal(error.number) from error
        except NotReached as error:
            raise not_available(error) from error
        except NoResponse as error:
            raise OutcomeUnknown("NO_RESPONSE", f"No response from TSE. {error}") from error

    def _repairing(self, deadline: Deadline | None, action: Callable[[], _T]) -> _T:
        """Run something that may be repeated, once more if the device first wants a self test or to be met anew."""
        self._ensure(deadline)
        try:
            return action()
        except Refused as error:
            if error.number == codes.SELF_TEST_REQUIRED:
                slot = self._read_slot(deadline)
                self._test(deadline, initialized=slot.state is TseStates.INITIALIZED)
            elif error.number in (codes.POWER_FAIL, codes.CLIENT_ID_NOT_SET):
                self._forget()
            else:
                raise
        self._ensure(deadline)
        return action()

    # ---- the way to the device ------------------------------------------------------------------------

    def _ensure(self, deadline: Deadline | None) -> None:
        """Have a connection to a device that is known, tested and told the time. Raises LinkError, ScuError."""
        if self._closed:
            raise Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. It has been closed.")
        if self._defective:
            raise defective()
        transport = self._link.transport
        try:
            transport.connect(deadline)
        except NotSent as error:
            raise NotReached(error) from error
        if transport.connections != self._connection:
            self._forget()
            connection = transport.connections
            self._meet(deadline)
            if transport.connections == connection:
                self._connection = connection

    def _meet(self, deadline: Deadline | None) -> None:
        """Get to know the device behind a new connection."""
        link = self._link
        link.execute(3, "0", deadline=deadline)
        self._as_manager(deadline)
        slot = self._read_slot(deadline)
        if slot.state is not TseStates.TERMINATED and self._self_test_due(deadline):
            self._test(deadline, initialized=slot.state is TseStates.INITIALIZED)
            self._as_manager(deadline)
        serial = values.from_base64(self._first(link.fetch(305, self._slot, deadline=deadline)))
        self._reset_export()
        keys = link.fetch(308, self._slot, deadline=deadline)
        self._reset_export()
        index = self._options.public_key_index
        if index >= len(keys):
            raise NoResponse(f"The TSE answered {len(keys)} parameters where its public key must be.", None)
        point = values.from_base64(keys[index])
        self._recognise(serial, point)
        _, state = link.status(deadline)
        if state & STATE_COMMAND_OPEN:
            self._void()

    def _recognise(self, serial: bytes, point: bytes) -> None:
        """Refuse another TSE than the one this driver works with."""
        wanted = self._options.serial
        if wanted is not None and serial.hex() != wanted.lower():
            raise Misconfigured(
                "WRONG_TSE", f"TSE {serial.hex()} is connected, but the configuration wants {wanted.lower()}."
            )
        if self._serial is not None and serial != self._serial:
            raise Misconfigured(
                "WRONG_TSE",
                f"TSE {serial.hex()} was put into the place of {self._serial.hex()}. Plug the old one in, or change "
                "the TSE with an SCU switch.",
            )
        if hashlib.sha256(point).digest() != serial:
            raise Misconfigured(
                "PROTOCOL_ERROR", "The public key of the TSE does not belong to its serial number."
            )
        self._serial, self._public_key = serial, point

    def _first(self, texts: list[str]) -> str:
        if not texts:
            raise NoResponse("The TSE answered without a parameter.", None)
        return texts[0]

    def _read_slot(self, deadline: Deadline | None) -> Slot:
        return values.slot(
            self._link.execute(109, self._slot, deadline=deadline), self._options.disabled_status_first
        )

    def _set_client(self, client_id: str, deadline: Deadline | None) -> None:
        self._link.execute(509, client_id, deadline=deadline)

    def _as_manager(self, deadline: Deadline | None) -> None:
        self._set_client(self._options.management_client_id, deadline)

    def _reset_export(self) -> None:
        with contextlib.suppress(LinkError):
            self._link.execute(309, self._slot)

    def _void(self) -> None:
        """Drop a transaction command that was begun. What goes wrong here must hide nothing."""
        with contextlib.suppress(LinkError):
            self._link.execute(207)

    # ---- users ------------------------------------------------------------------------------------

    def _log_in(self, user: str, pin: str, deadline: Deadline | None) -> None:
        """Raises ``Misconfigured`` AUTH_FAILED or PIN_BLOCKED; a PIN that was wrong is never sent again."""
        what = "admin_pin" if user == self._options.admin_user else "time_admin_pin"
        if user in self._logged_in:
            return
        if not pin:
            raise Misconfigured(
                "AUTH_FAILED", f"This needs the PIN of user {user}: put it into {what} of the configuration."
            )
        serial = "" if self._serial is None else self._serial.hex()
        self._pins.check(serial, user, pin)
        if self._unanswered_logins.get(user, 0) >= 2:
            raise Misconfigured(
                "AUTH_FAILED",
                f"Two logins of user {user} were not answered; another one is not tried, because three wrong PINs "
                "block the user. Check the PIN and start again.",
            )
        self._as_manager(deadline)
        try:
            answer = self._link.execute(400, self._slot, user, pin, deadline=deadline)
        except Refused as error:
            if error.number != codes.CERTIFICATE_EXPIRED:
                raise
            log.warning("login of user %s: the certificate has expired", user)
        except NoResponse:
            self._unanswered_logins[user] = self._unanswered_logins.get(user, 0) + 1
            raise
        else:
            outcome = values.number(self._first(answer))
            if outcome > 1 or len(answer) > 2:
                blocked = outcome == 3 or (len(answer) > 1 and answer[1] == "0")
                self._pins.add(serial, user, pin)
                left = f" {answer[1]} tries are left." if len(answer) > 1 and not blocked else ""
                raise Misconfigured(
                    "PIN_BLOCKED" if blocked else "AUTH_FAILED",
                    f"User {user} is blocked: unblock it with the PUK."
                    if blocked
                    else f"The TSE refused the PIN of user {user} ({what}).{left}",
                    vendor_code=str(outcome),
                )
        self._unanswered_logins.pop(user, None)
        self._logged_in.add(user)

    def _log_out(self, user: str) -> None:
        """Errors are noted only: the work is done."""
        if user not in self._logged_in:
            return
        self._logged_in.discard(user)
        try:
            self._as_manager(None)
            answer = self._link.execute(401, self._slot, user)
            if answer and values.number(answer[0]) > 1:
                log.warning("the TSE answered %s to the logout of user %s", answer[0], user)
        except (LinkError, ScuError) as error:
            log.warning("user %s could not be logged out: %s", user, error)

    @contextlib.contextmanager
    def _admin(self, deadline: Deadline | None) -> Iterator[None]:
        user = self._options.admin_user
        self._log_in(user, self._options.admin_pin, deadline)
        try:
            yield
        finally:
            self._log_out(user)

    # ---- time and self test -----------------------------------------------------------------------

    def _set_time(self, deadline: Deadline | None) -> None:
        options = self._options
        if options.time_admin_pin:
            user, pin = options.time_admin_user, options.time_admin_pin
        else:
            user, pin = options.admin_user, options.admin_pin
        self._log_in(user, pin, deadline)
        try:
            self._tell_time(deadline)
        finally:
            self._log_out(user)
        self._schedule_time(deadline)

    def _tell_time(self, deadline: Deadline | None) -> None:
        self._as_manager(deadline)
        try:
            self._link.execute(101, values.time_text(self._clock()), deadline=deadline)
            code, state = self._link.status(deadline)
            if code:
                raise Refused(code, state)
        except Refused as error:
            if error.number != codes.CERTIFICATE_EXPIRED:
                raise
            log.warning("the time was set, but the certificate has expired")

    def _schedule_time(self, deadline: Deadline | None) -> None:
        seconds = values.number(self._first(self._link.execute(507, deadline=deadline)))
        self._time_due = time.monotonic() + seconds

    def _set_time_if_due(self, deadline: Deadline | None, ahead_s: float = 0.0) -> None:
        """The device wants the time again and again. Without a PIN it must have it from somebody else."""
        if time.monotonic() + ahead_s < self._time_due:
            return
        if not (self._options.time_admin_pin or self._options.admin_pin):
            return
        self._set_time(deadline)

    def _self_test_due(self, deadline: Deadline | None) -> bool:
        return values.number(self._first(self._link.execute(508, deadline=deadline))) == 0

    def _test(self, deadline: Deadline | None, *, initialized: bool) -> None:
        """Run the self test. Raises ``TseRejected`` if the device failed it: then it is defective."""
        with contextlib.suppress(LinkError):
            self._link.execute(309, self._slot, deadline=deadline)
        manager = self._options.management_client_id
        result = 3
        for client in (manager, PRODUCTION_CLIENT) if initialized else (PRODUCTION_CLIENT, manager):
            self._set_client(client, deadline)
            try:
                answer = self._link.execute(
                    112, self._slot, deadline=deadline, timeout_ms=self._options.self_test_timeout_ms
                )
            except NoResponse as error:
                raise Unreachable(
                    "SELF_TEST_REQUIRED",
                    "The TSE is not available. It tests itself, which takes up to two minutes.",
                    retry_after_ms=5000,
                ) from error
            result = values.number(self._first(answer))
            if result != 3:
                break
        if result == 2:
            self._defective = True
            raise defective()
        if result != 1:
            raise Misconfigured(
                "SELF_TEST_REQUIRED",
                f"Neither {manager!r} nor {PRODUCTION_CLIENT!r} is registered at the TSE, so it cannot be tested. Set "
                "management_client_id to a registered client.",
            )

    def set_time(self, deadline: Deadline | None) -> None:
        def action() -> None:
            if self._read_slot(deadline).state is TseStates.INITIALIZED:
                self._set_time(deadline)

        self._safely(deadline, action)

    def self_test(self, deadline: Deadline | None) -> None:
        self._defective = False

        def action() -> None:
            self._as_manager(deadline)
            slot = self._read_slot(deadline)
            if slot.state is not TseStates.TERMINATED:
                initialized = slot.state is TseStates.INITIALIZED
                self._test(deadline, initialized=initialized)
                if initialized and (self._options.time_admin_pin or self._options.admin_pin):
                    self._set_time(deadline)

        self._safely(deadline, action)


def not_available(error: NotReached) -> ScuError:
    if error.in_use:
        return Misconfigured("DEVICE_IN_USE", f"The TSE is not available. {error}")
    return Unreachable("TSE_NOT_AVAILABLE", f"The TSE is not available. {error}")


def defective() -> TseRejected:
    return TseRejected("SECURE_STATE", "The self test of the TSE failed: replace the TSE if it fails again.")
