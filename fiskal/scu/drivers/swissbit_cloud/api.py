"""Calls to the service and what its answers mean. Errors have no known shape: the status decides, the text is kept."""

from __future__ import annotations

import logging
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

from fiskal.scu.cloud import Again, Attempts, lost, redirected, vendor_text
from fiskal.scu.contract import Deadline
from fiskal.scu.errors import Misconfigured, OutcomeUnknown, TseRejected, Unreachable
from fiskal.scu.secrets import Secret
from fiskal.scu.transports import Garbled, TransportError
from fiskal.scu.transports.https import Answer, HttpsClient, basic_authorization
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

T = TypeVar("T")


class Api:
    """One TSE at one endpoint. Thread-safe."""

    def __init__(self, client: HttpsClient, attempts: Attempts, serial: str, token: Secret) -> None:
        self._client = client
        self._attempts = attempts
        # The header is made once, of the two parts that identify the TSE.
        self._authorization = Secret(basic_authorization(serial, token.reveal()))

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
        most: int | None = None,
    ) -> T:
        """One answer. What changes something is repeated only if it certainly was not executed. Raises ScuError."""

        def attempt() -> T:
            answer = self._send(method, path, body, deadline, seconds, changes)
            if not answer.ok:
                self._refuse(answer, changes)
            if type_ is bytes:
                return answer.body  # type: ignore[return-value]
            try:
                return answer.decode(type_)
            except Garbled as error:
                found = lost(error, changes=changes)
                if changes:
                    raise found from error
                raise Again(found) from error

        return self._attempts.run(attempt, deadline, most)

    def _send(
        self, method: str, path: str, body: bytes | None, deadline: Deadline, seconds: float, changes: bool
    ) -> Answer:
        headers = {"Authorization": self._authorization.reveal()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = self._client.request(
                method, path, deadline=deadline, seconds=seconds, body=body, headers=headers
            )
        except TransportError as error:
            found = lost(error, changes=changes)
            if isinstance(found, OutcomeUnknown):
                raise found from error
            raise Again(found) from error
        log.debug("%s %s: HTTP %d in %.0f ms", method, path, answer.status, answer.elapsed_s * 1000)
        return answer

    def _refuse(self, answer: Answer, changes: bool) -> None:
        """Raise what an answer that is no 2xx means."""
        status = answer.status
        if answer.redirects:
            raise redirected(answer, self._client.base_url)
        text = f"Swissbit Cloud: HTTP {status}: {vendor_text(answer.body)}."
        if status == 429 or (status == 503 and answer.retry_after_s() is not None):
            code = "RATE_LIMITED" if status == 429 else "VENDOR_5XX"
            raise Again(Unreachable(code, text), after_s=answer.retry_after_s())
        if status >= 500 or status in (408, 499):
            if changes:
                raise OutcomeUnknown("VENDOR_5XX", text)
            raise Again(Unreachable("VENDOR_5XX", text), after_s=answer.retry_after_s())
        if status in (401, 403):
            raise Misconfigured(
                "AUTH_FAILED", f"{text} Check tse_serial_number and tse_access_token, and the contract."
            )
        raise TseRejected("REFUSED", text, vendor_code=str(status))

    def download(
        self, url: str, out: Sink, deadline: Deadline, *, idle_s: float, hosts: tuple[str, ...]
    ) -> int:
        """Write the file at ``url``, absolute or relative to the service, to ``out``. Raises Again or ScuError."""
        scheme, host, port = self._client.origin
        whole = urljoin(self._client.base_url + "/", url)
        parts = urlsplit(whole)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        own = (parts.scheme, parts.hostname, parts.port or 443) == (scheme, host, port)
        if not own and (parts.scheme != "https" or parts.hostname not in hosts):
            raise Misconfigured(
                "EXPORT_FAILED",
                f"The service wants the archive to be fetched from {vendor_text(parts.hostname or '', 100)}: add it to "
                "download_hosts if it may be.",
            )
        client = self._client
        headers = {"Authorization": self._authorization.reveal()}
        if not own:
            client, headers = HttpsClient(f"https://{parts.netloc}", connections=1), {}
        try:
            answer, size = client.download(path, out, idle_s=idle_s, deadline=deadline, headers=headers)
        except TransportError as error:
            raise Again(lost(error, changes=False)) from error
        finally:
            if not own:
                client.close()
        if not answer.ok:
            self._refuse(answer, changes=False)
        return size

    def close(self) -> None:
        self._client.close()
