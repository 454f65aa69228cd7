"""Calls to SIGN DE v2: authentication, what an error means, what may be repeated.

The service is idempotent: the same PUT is executed once, however often it comes. So every call is repeated as it is
while the deadline allows, and only what stays unanswered is ``OutcomeUnknown``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from fiskal.scu.cloud import Again, Attempts, lost, redirected, vendor_text
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.fiskaly import wire
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    OutcomeUnknown,
    ScuError,
    TseRejected,
    Unreachable,
)
from fiskal.scu.secrets import Secret
from fiskal.scu.transports import Garbled, TransportError
from fiskal.scu.transports.https import Answer, HttpsClient
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

T = TypeVar("T")

RENEW_AT: Final = 0.9
"""A token is renewed after this share of its life."""
DEFAULT_LIFE_S: Final = 300.0
REFUSED_FOR_S: Final = 30.0
"""How long credentials that were refused are not tried again."""
ADMIN_NEEDS_S: Final = 60.0
"""What a token must be good for when an administrator logs in with it."""
PENDING_S: Final = 0.25
LONG_WAIT_S: Final = 5.0

_PENDING: Final = frozenset({"E_PENDING_TX_CONFLICT", "E_MIDDLEWARE_PENDING_REQUEST"})
_LATER: Final = frozenset({"E_EXPORT_DUPLICATE_RATE_LIMITED", "E_TOO_MANY_EXPORTS", "E_EXPORT_IN_PROGRESS"})
_CLIENT_ERRORS: Final = frozenset(
    {"E_FAILED_SCHEMA_VALIDATION", "E_PARAMETER_MISMATCH", "E_TX_NO_TYPE_DEFINED", "E_CLIENT_DEREGISTERED"}
)
_MISCONFIGURED: Final = {
    "E_TSS_NOT_INITIALIZED": ("NOT_PERSONALISED", "Initialise the TSS first."),
    "E_TSS_DISABLED": ("WRONG_STATE", "The TSS was disabled for good: replace it."),
    "E_TSS_NOT_FOUND": ("WRONG_TSE", "Check tss_id; TEST TSS are deleted every week."),
    "E_ACCESS_DENIED": ("AUTH_FAILED", "The TSS belongs to another organisation than the API key."),
    "E_CHANGE_ADMIN_PIN_FAILED": ("AUTH_FAILED", "The admin PUK is wrong."),
    "E_ADMIN_LOGIN_FAILED": ("AUTH_FAILED", "The admin PIN is wrong; five wrong ones block it."),
    "E_ADMIN_PIN_BLOCKED": ("PIN_BLOCKED", "Set a new admin PIN with the PUK."),
    "E_USE_MIDDLEWARE": ("AUTH_FAILED", "Use the middleware's URL as api_endpoint."),
}
_REJECTED: Final = {
    "E_TX_LIMIT_REACHED": "TRANSACTION_LIMIT",
    "E_CLIENT_LIMIT_REACHED": "CLIENT_LIMIT",
    "E_TX_NOT_FOUND": "TRANSACTION_NOT_OPEN",
    "E_TX_UPSERT": "TRANSACTION_NOT_OPEN",
}
_DEAD: Final = frozenset({"E_TSS_DEFECTIVE", "E_TSS_DELETED", "E_TSS_EVICTED"})


class _Token:
    __slots__ = ("expires_at", "renew_at", "value")

    def __init__(self, value: str, renew_at: float, expires_at: float) -> None:
        self.value = value
        self.renew_at = renew_at
        self.expires_at = expires_at


class Api:
    """One API key at one endpoint. Thread-safe; ``monotonic`` is for tests."""

    def __init__(
        self,
        client: HttpsClient,
        attempts: Attempts,
        api_key: Secret,
        api_secret: Secret,
        *,
        auth_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._attempts = attempts
        self._key = api_key
        self._secret = api_secret
        self._auth_s = auth_s
        self._monotonic = monotonic
        self._token: _Token | None = None
        self._refresh: tuple[str, float] | None = None
        self._lock = threading.Lock()
        self._admin_lock = threading.Lock()
        self._refused: tuple[ScuError, float] | None = None
        self.conflicts = 0
        """How often the service said that another call of the TSS was pending."""

    # ---- tokens ---------------------------------------------------------------------------------

    def _bearer(self, deadline: Deadline, needed_s: float = 0.0) -> _Token:
        """A token that is good for a call (and ``needed_s`` more). One thread renews it; who can do with the old one
        does not wait."""
        token, now = self._token, self._monotonic()
        if token is not None and now < token.renew_at and now + needed_s < token.expires_at:
            return token
        usable = token is not None and now + needed_s < token.expires_at
        if not self._lock.acquire(blocking=not usable, timeout=-1 if usable else deadline.remaining()):
            if token is not None and usable:
                return token
            raise Unreachable("BUSY", "The deadline passed while the access token was renewed.")
        try:
            if self._token is not None and self._token is not token:  # somebody renewed it meanwhile
                return self._token
            try:
                self._token = self._authenticate(deadline)
            except (Again, Unreachable):
                if token is not None and usable:
                    return token
                raise
            return self._token
        finally:
            self._lock.release()

    def _authenticate(self, deadline: Deadline) -> _Token:
        if self._refused is not None and self._monotonic() < self._refused[1]:
            error = self._refused[0]
            raise type(error)(error.code, error.message, vendor_code=error.vendor_code)
        if self._refresh is not None:
            refresh, expires_at = self._refresh
            self._refresh = None
            if self._monotonic() < expires_at:
                answer, asked_at = self._post_auth({"refresh_token": refresh}, deadline)
                if answer.status != 401:
                    return self._keep(answer, asked_at)
        answer, asked_at = self._post_auth(
            {"api_key": self._key.reveal(), "api_secret": self._secret.reveal()}, deadline
        )
        if answer.status in (400, 401, 403):
            refused = Misconfigured(
                "AUTH_FAILED",
                "The service refused API key and secret: check them, and whether the contract still runs.",
                vendor_code=_fault(answer).code or None,
            )
            self._refused = (refused, self._monotonic() + REFUSED_FOR_S)
            raise refused
        return self._keep(answer, asked_at)

    def _post_auth(self, body: dict[str, str], deadline: Deadline) -> tuple[Answer, float]:
        asked_at = self._monotonic()
        try:
            answer = self._client.request(
                "POST",
                "/auth",
                deadline=deadline,
                seconds=self._auth_s,
                body=msgspec.json.encode(body),
                headers={"Content-Type": "application/json"},
            )
        except TransportError as error:
            raise Again(lost(error, changes=False)) from error
        if answer.redirects:
            raise redirected(answer, self._client.base_url)
        if answer.status == 429 or answer.status >= 500:
            raise Again(
                Unreachable("RATE_LIMITED" if answer.status == 429 else "VENDOR_5XX", _text(answer)),
                after_s=answer.retry_after_s(),
            )
        return answer, asked_at

    def _keep(self, answer: Answer, asked_at: float) -> _Token:
        if not answer.ok:
            raise Misconfigured("AUTH_FAILED", f"The service did not authenticate. {_text(answer)}")
        try:
            auth = answer.decode(wire.Auth)
        except Garbled as error:
            raise Again(lost(error, changes=False)) from error
        life = auth.access_token_expires_in
        if life is None or life <= 0:
            life = DEFAULT_LIFE_S
        if auth.refresh_token:
            self._refresh = (auth.refresh_token, asked_at + (auth.refresh_token_expires_in or life))
        self._refused = None
        return _Token(auth.access_token, asked_at + RENEW_AT * life, asked_at + life)

    def _drop(self, token: _Token) -> None:
        if self._token is token:
            self._token = None

    # ---- calls ----------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        type_: type[T],
        deadline: Deadline,
        *,
        seconds: float,
        body: bytes | None = None,
        changes: bool = False,
        check: Callable[[T], str] | None = None,
        token: _Token | None = None,
        most: int | None = None,
    ) -> T:
        """One resource, after as many identical attempts as it takes; each within ``seconds``.

        ``check`` says what is wrong with an answer that came, "" if nothing is; such an answer counts as none.
        ``token`` is one that must not be exchanged. Raises ScuError.
        """

        def attempt() -> T:
            answer = self._exchange(method, path, body, deadline, seconds, changes, token)
            if not answer.ok:
                self._refuse(answer, changes)
            try:
                value = answer.decode(type_)
            except Garbled as error:
                raise Again(lost(error, changes=changes)) from error
            wrong = "" if check is None else check(value)
            if wrong:
                text = f"The service answered something else than it was asked: {wrong}."
                kind = OutcomeUnknown if changes else Unreachable
                raise Again(kind("PROTOCOL_ERROR", text))
            return value

        return self._attempts.run(attempt, deadline, most)

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        deadline: Deadline,
        seconds: float,
        changes: bool,
        pinned: _Token | None,
    ) -> Answer:
        """An answer to a call with a good token, whatever it is; a token that expired early is renewed once."""
        for last in (False, True):
            token = pinned or self._bearer(deadline)
            headers = {"Authorization": "Bearer " + token.value}
            if body is not None:
                headers["Content-Type"] = "application/json"
            if log.isEnabledFor(logging.DEBUG):
                headers["X-Request-ID"] = str(uuid.uuid4())
            try:
                answer = self._client.request(
                    method, path, deadline=deadline, seconds=seconds, body=body, headers=headers
                )
            except TransportError as error:
                raise Again(lost(error, changes=changes)) from error
            if log.isEnabledFor(logging.DEBUG):
                log.debug(
                    "%s %s: HTTP %d in %.0f ms (%s)",
                    method,
                    path.partition("?")[0],
                    answer.status,
                    answer.elapsed_s * 1000,
                    answer.header("request-id") or answer.header("x-request-id") or headers["X-Request-ID"],
                )
            if answer.status != 401 or pinned is not None:
                return answer
            code = _fault(answer).code
            if code not in ("", "E_UNAUTHORIZED"):
                return answer
            self._drop(token)
            if last:
                raise Misconfigured(
                    "AUTH_FAILED",
                    "The service refuses access tokens that it has just given out: check the API key's rights.",
                    vendor_code=code or None,
                )
        raise AssertionError("unreachable")

    def _refuse(self, answer: Answer, changes: bool) -> None:
        """Raise what an answer that is no 2xx means."""
        status = answer.status
        if answer.redirects:
            raise redirected(answer, self._client.base_url)
        fault = _fault(answer)
        code, vendor_code, text = fault.code, fault.code or None, _text(answer, fault)
        if code in _PENDING:
            self.conflicts += 1
            raise Again(
                Unreachable("BUSY", text, vendor_code=vendor_code),
                after_s=answer.retry_after_s(),
                at_least_s=PENDING_S,
            )
        if code in _LATER:
            raise Again(
                Unreachable("BUSY", text, vendor_code=vendor_code),
                after_s=answer.retry_after_s(),
                at_least_s=LONG_WAIT_S,
            )
        if status == 429 or (status == 503 and code):  # the service itself says that it did nothing
            name = "RATE_LIMITED" if status == 429 else "VENDOR_5XX"
            raise Again(Unreachable(name, text, vendor_code=vendor_code), after_s=answer.retry_after_s())
        if status >= 500 or status in (408, 499):
            kind = OutcomeUnknown if changes else Unreachable
            raise Again(kind("VENDOR_5XX", text, vendor_code=vendor_code), after_s=answer.retry_after_s())
        if code in _DEAD:
            raise TseRejected(
                "WRONG_STATE",
                f"{text} It will never sign again; its log can still be exported. Replace it.",
                vendor_code=code,
            )
        if code in _MISCONFIGURED:
            name, hint = _MISCONFIGURED[code]
            raise Misconfigured(name, f"{text} {hint}", vendor_code=code)
        if code in _CLIENT_ERRORS:
            raise ClientError("PROTOCOL_ERROR", text, vendor_code=code)
        if status == 432:
            name, hint = _MISCONFIGURED["E_USE_MIDDLEWARE"]
            raise Misconfigured(name, f"{text} {hint}", vendor_code=vendor_code)
        if status == 401:
            raise Misconfigured("AUTH_FAILED", text, vendor_code=vendor_code)
        if not code and not _is_json(answer):
            # A proxy or a gateway spoke, not the service.
            raise Again(Unreachable("PROTOCOL_ERROR", text))
        if status == 413:
            raise ClientError("INVALID_PROCESS_DATA", text, vendor_code=vendor_code)
        raise TseRejected(_REJECTED.get(code, "REFUSED"), text, vendor_code=vendor_code)

    def download(self, path: str, out: Sink, deadline: Deadline, *, idle_s: float) -> int:
        """Write a file to ``out``; returns its size. One attempt. Raises :class:`Again` or ScuError."""
        token = self._bearer(deadline)
        try:
            answer, size = self._client.download(
                path,
                out,
                idle_s=idle_s,
                deadline=deadline,
                headers={"Authorization": "Bearer " + token.value},
            )
        except TransportError as error:
            raise Again(lost(error, changes=False)) from error
        if answer.status == 401:
            self._drop(token)
            raise Again(Unreachable("CONNECT_FAILED", "The access token expired."))
        if not answer.ok:
            if _fault(answer).code == "E_EXPORT_NOT_COMPLETED":
                raise Again(Unreachable("BUSY", _text(answer)), after_s=answer.retry_after_s() or LONG_WAIT_S)
            self._refuse(answer, changes=False)
        return size

    # ---- administrators -------------------------------------------------------------------------

    @contextlib.contextmanager
    def admin(self, tss_path: str, pin: Secret, deadline: Deadline, seconds: float) -> Iterator[_Token]:
        """The token of a session in which an administrator is logged in; logged out behind the block.

        Exactly one attempt to log in: wrong ones count. Raises Misconfigured AUTH_FAILED or PIN_BLOCKED.
        """
        if not self._admin_lock.acquire(timeout=deadline.remaining()):
            raise Unreachable("BUSY", "Another administration of the TSS did not end within the deadline.")
        try:
            token = self._attempts.run(lambda: self._bearer(deadline, ADMIN_NEEDS_S), deadline)
            self.call(
                "POST",
                f"{tss_path}/admin/auth",
                dict,
                deadline,
                seconds=seconds,
                body=msgspec.json.encode({"admin_pin": pin.reveal()}),
                token=token,
                most=0,
            )
            try:
                yield token
            finally:
                try:
                    self.call(
                        "POST",
                        f"{tss_path}/admin/logout",
                        dict,
                        Deadline(seconds),
                        seconds=seconds,
                        body=b"{}",
                        token=token,
                        most=0,
                    )
                except ScuError as error:
                    log.warning("the administrator was not logged out: %s", error)
        finally:
            self._admin_lock.release()

    def close(self) -> None:
        self._client.close()


def _fault(answer: Answer) -> wire.Fault:
    try:
        return msgspec.json.decode(answer.body, type=wire.Fault, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return wire.Fault()


def _is_json(answer: Answer) -> bool:
    return answer.body.lstrip()[:1] == b"{"


def _text(answer: Answer, fault: wire.Fault | None = None) -> str:
    fault = fault or _fault(answer)
    said = vendor_text(fault.message or answer.body, 300)
    return f"fiskaly: HTTP {answer.status} {fault.code or ''}: {said}".replace(" :", ":").rstrip(": ") + "."
