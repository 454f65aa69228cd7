"""Calls to the connector with its four identities, and what its answers mean.

Nothing is repeated here but a call with a token that had expired.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Literal, TypeVar

import msgspec

from fiskal.scu.cloud import lost, redirected, vendor_text
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.fcc import wire
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.refusals import client_not_registered
from fiskal.scu.secrets import Secret
from fiskal.scu.transports import Garbled, TransportError
from fiskal.scu.transports.https import Answer, HttpsClient, basic_authorization
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

RENEW_AT: Final = 0.9
REFUSED_FOR_S: Final = 30.0
Identity = Literal["admin", "admin_restricted", "actuator"]
T = TypeVar("T")


class StillRunning(OutcomeUnknown):
    """No answer within the time: the connector may execute the call yet."""


class _Token:
    __slots__ = ("renew_at", "value")

    def __init__(self, value: str, renew_at: float) -> None:
        self.value = value
        self.renew_at = renew_at


class FccApi:
    """One connector. Thread-safe."""

    def __init__(
        self,
        client: HttpsClient,
        ers_code: Secret,
        *,
        auth_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._code = ers_code
        self._auth_s = auth_s
        self._monotonic = monotonic
        self._tokens: dict[str, _Token] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._refused_until = 0.0
        self.one_identity = False
        """The server knows only clients: their tokens go for everything (tse-cloud §3.7)."""
        self.any_client = ""
        """Whose token that is."""

    # ---- tokens ---------------------------------------------------------------------------------

    def bearer(self, client_id: str, deadline: Deadline) -> str:
        """The token of a client; one call asks for it, others wait. Raises ScuError."""
        token = self._tokens.get(client_id)
        if token is not None and self._monotonic() < token.renew_at:
            return token.value
        with self._lock:
            lock = self._locks.setdefault(client_id, threading.Lock())
        if not lock.acquire(timeout=deadline.remaining()):
            raise Unreachable("BUSY", "The deadline passed while a token was asked for.")
        try:
            token = self._tokens.get(client_id)
            if token is None or self._monotonic() >= token.renew_at:
                token = self._tokens[client_id] = self._ask(client_id, deadline)
            return token.value
        finally:
            lock.release()

    def _ask(self, client_id: str, deadline: Deadline) -> _Token:
        self._check_refused()
        asked_at = self._monotonic()
        answer = self._send(
            "POST",
            "/oauth/token",
            basic_authorization(client_id, self._code.reveal()),
            b"grant_type=client_credentials",
            "application/x-www-form-urlencoded",
            deadline,
            self._auth_s,
            changes=False,
        )
        if answer.status in (400, 401, 403):
            raise self._client_refused(client_id, answer, deadline)
        if not answer.ok:
            self.refuse(answer, changes=False)
        token = self._decode(answer, wire.Token, changes=False)
        return _Token(token.access_token, asked_at + RENEW_AT * token.expires_in)

    def _client_refused(self, client_id: str, answer: Answer, deadline: Deadline) -> ScuError:
        """Why there is no token: the code is wrong, or the client is unknown."""
        check = self._send(
            "GET",
            "/clients",
            basic_authorization("admin", self._code.reveal()),
            None,
            None,
            deadline,
            self._auth_s,
            changes=False,
        )
        if check.status in (401, 403):
            self._refused_until = self._monotonic() + REFUSED_FOR_S
            return self._wrong_code()
        return client_not_registered(client_id)

    def _wrong_code(self) -> Misconfigured:
        return Misconfigured("AUTH_FAILED", "The connector refuses the ErsCode: check the option ers_code.")

    def _check_refused(self) -> None:
        if self._monotonic() < self._refused_until:
            raise self._wrong_code()

    # ---- calls ----------------------------------------------------------------------------------

    def as_client(
        self,
        client_id: str,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        seconds: float,
        body: bytes | None = None,
        changes: bool = False,
    ) -> Answer:
        """An answer that is a 2xx or 404. Raises ScuError for others."""
        for last in (False, True):
            token = self.bearer(client_id, deadline)
            answer = self._send(
                method, path, "Bearer " + token, body, "application/json", deadline, seconds, changes=changes
            )
            if answer.status == 401:
                self._tokens.pop(client_id, None)
                if not last:
                    continue
                raise Misconfigured("AUTH_FAILED", "The connector refuses tokens that it has just given out.")
            break
        if not answer.ok and answer.status != 404:
            self.refuse(answer, changes)
        return answer

    def as_admin(
        self,
        identity: Identity,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        seconds: float,
        body: bytes | None = None,
        content_type: str = "application/json",
        changes: bool = False,
    ) -> Answer:
        """An answer that is a 2xx, 404 or 413. Raises ScuError for others."""
        self._check_refused()
        answer = self._send(
            method,
            path,
            self._admin(identity, deadline),
            body,
            content_type,
            deadline,
            seconds,
            changes=changes,
        )
        if answer.status == 401 and not self.one_identity and self.any_client:
            # A server that knows no administrators takes a client's token.
            authorization = "Bearer " + self.bearer(self.any_client, deadline)
            answer = self._send(
                method, path, authorization, body, content_type, deadline, seconds, changes=changes
            )
            self.one_identity = answer.status != 401
        if answer.status == 401:
            self._refused_until = self._monotonic() + REFUSED_FOR_S
            raise self._wrong_code()
        if not answer.ok and answer.status not in (404, 413):
            self.refuse(answer, changes)
        return answer

    def _admin(self, identity: Identity, deadline: Deadline) -> str:
        if self.one_identity:
            return "Bearer " + self.bearer(self.any_client, deadline)
        return basic_authorization(identity, self._code.reveal())

    def healthy(self, seconds: float) -> bool:
        """Whether the connector says that it is up."""
        try:
            answer = self._send(
                "GET",
                "/actuator/health",
                basic_authorization("actuator", self._code.reveal()),
                None,
                None,
                Deadline(seconds),
                seconds,
                changes=False,
            )
        except ScuError:
            return False
        return answer.ok

    def download(self, path: str, out: Sink, deadline: Deadline, *, idle_s: float) -> Answer:
        """Write a body to ``out``; the answer is a 2xx, 404 or 413. Raises ScuError for others."""
        self._check_refused()
        try:
            answer, _ = self._client.download(
                path,
                out,
                idle_s=idle_s,
                deadline=deadline,
                headers={"Authorization": self._admin("admin_restricted", deadline)},
            )
        except TransportError as error:
            raise lost(error, changes=False) from error
        if answer.status == 401:
            raise self._wrong_code()
        if not answer.ok and answer.status not in (404, 413):
            self.refuse(answer, changes=False)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        authorization: str,
        body: bytes | None,
        content_type: str | None,
        deadline: Deadline,
        seconds: float,
        *,
        changes: bool,
    ) -> Answer:
        headers = {"Authorization": authorization}
        if body is not None and content_type is not None:
            headers["Content-Type"] = content_type
        try:
            answer = self._client.request(
                method, path, deadline=deadline, seconds=seconds, body=body, headers=headers
            )
        except TransportError as error:
            found = lost(error, changes=changes)
            if isinstance(found, OutcomeUnknown) and error.timed_out:
                raise StillRunning(found.code, found.message) from error
            raise found from error
        log.debug("%s %s: HTTP %d in %.0f ms", method, path, answer.status, answer.elapsed_s * 1000)
        if answer.redirects:
            raise redirected(answer, self._client.base_url)
        return answer

    def decode(self, answer: Answer, type_: type[T], *, changes: bool = False) -> T:
        """The JSON of an answer. Raises OutcomeUnknown or Unreachable for what is none."""
        return self._decode(answer, type_, changes=changes)

    @staticmethod
    def _decode(answer: Answer, type_: type[T], *, changes: bool) -> T:
        try:
            return answer.decode(type_)
        except Garbled as error:
            raise lost(error, changes=changes) from error

    @staticmethod
    def refuse(answer: Answer, changes: bool) -> None:
        """Raise what an answer that is no 2xx means."""
        fault = _fault(answer)
        kind = fault.errorType or fault.code
        said = vendor_text(fault.message or fault.error_description or answer.body, 300)
        text = f"FCC: HTTP {answer.status} {kind or ''}: {said}".replace(" :", ":").rstrip(": ") + "."
        after = answer.retry_after_s()
        after_ms = None if after is None else round(after * 1000)
        if (kind or "").upper() == "ERS_INVALID_REGISTRATION_KEY":
            raise ClientError(
                "CLIENT_LIMIT",
                f"{text} The activation token is wrong, or the licence allows no more clients.",
                vendor_code=kind,
            )
        if answer.status == 429:
            raise Unreachable("RATE_LIMITED", text, vendor_code=kind, retry_after_ms=after_ms)
        if answer.status >= 500 or answer.status == 408:
            error = OutcomeUnknown if changes else Unreachable
            raise error("VENDOR_5XX", text, vendor_code=kind, retry_after_ms=after_ms)
        if answer.status in (401, 403):
            raise Misconfigured("AUTH_FAILED", text, vendor_code=kind)
        if kind == "ErrorNoTransaction":
            raise TseRejected("TRANSACTION_NOT_OPEN", text, vendor_code=kind)
        raise TseRejected(
            "TRANSACTION_LIMIT" if kind == "TOO_MANY_TRANSACTIONS" else "REFUSED", text, vendor_code=kind
        )

    def close(self) -> None:
        self._client.close()


def _fault(answer: Answer) -> wire.Fault:
    try:
        return msgspec.json.decode(answer.body, type=wire.Fault, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return wire.Fault()
