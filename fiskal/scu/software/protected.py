"""A software TSE whose administration asks for the administrator's PIN."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fiskal.scu.contract import Deadline, TseStates
from fiskal.scu.driver import Driver
from fiskal.scu.errors import Misconfigured
from fiskal.scu.software.access import ROLES, Access, UserId
from fiskal.scu.software.forwarding import ForwardingDriver
from fiskal.scu.software.tse import SoftwareTse
from fiskal.tse.encode_events import AuthenticationResult, LogOutCause


class ProtectedTse(ForwardingDriver):
    """Logs the administrator in before everything that changes the TSE, and out behind it.

    A PIN that was refused is not tried again: three wrong ones block the user. Transactions need no PIN.
    ``admin_pin`` None lets everything pass that needs no administrator.
    """

    def __init__(self, inner: Driver, tse: SoftwareTse, access: Access, admin_pin: str | None) -> None:
        super().__init__(inner)
        self._tse = tse
        self._access = access
        self._pin = admin_pin
        self._refusal: Misconfigured | None = None

    def _is_terminated(self) -> bool:
        return self._tse.state is TseStates.TERMINATED

    @contextlib.contextmanager
    def _administrator(self) -> Iterator[None]:
        """Raises ``Misconfigured`` AUTH_FAILED, PIN_BLOCKED."""
        if self._is_terminated():
            yield  # it refuses everything and signs nothing
            return
        if self._pin is None:
            raise Misconfigured(
                "AUTH_FAILED", "The TSE asks for the administrator's PIN: set 'admin_pin' in its options."
            )
        if self._refusal is not None:
            raise Misconfigured(self._refusal.code, self._refusal.message)
        user = UserId.ADMIN
        result = self._access.authenticate(user, self._pin)
        remaining = self._access.retries(user)
        event = self._tse.events.authenticate_user(user, ROLES[user], result, remaining)
        self._tse.write_event(event, user=user)
        if result is AuthenticationResult.PIN_BLOCKED:
            self._refusal = Misconfigured(
                "PIN_BLOCKED", "The administrator's PIN is blocked: set a new one with the PUK."
            )
            raise self._refusal
        if result is not AuthenticationResult.SUCCESS:
            self._refusal = Misconfigured(
                "AUTH_FAILED",
                f"The TSE refused the administrator's PIN; {remaining} tries are left. It is not tried again "
                "before 'admin_pin' is corrected and the host restarted.",
            )
            raise self._refusal
        try:
            yield
        finally:
            if not self._is_terminated():
                self._tse.write_event(self._tse.events.log_out(user, LogOutCause.USER_CALLED), user=user)

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        with self._administrator():
            self.inner.set_state(target, deadline)

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        with self._administrator():
            self.inner.register(client_id, deadline)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        with self._administrator():
            self.inner.unregister(client_id, deadline)

    def set_time(self, deadline: Deadline | None) -> None:
        if self._tse.state is TseStates.INITIALIZED:
            with self._administrator():
                self.inner.set_time(deadline)

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        with self._administrator():
            self.inner.erase(last_counter, deadline)
