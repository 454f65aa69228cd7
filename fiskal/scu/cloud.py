"""What the drivers of cloud TSEs share: options of the way there, repetitions within a deadline, the identity of a TSE.

Nothing here knows a vendor.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Final, NoReturn, TypeVar

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.clock import Clock, to_unix
from fiskal.scu.contract import Deadline
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, Unreachable
from fiskal.scu.secrets import resolve
from fiskal.scu.transports import Garbled, NotSent, TransportError
from fiskal.scu.transports.https import Answer, HttpsClient, Proxy
from fiskal.tse.algorithms import algorithm_by_oid, point_of, serial_of_point
from fiskal.tse.certificates import CertificateError, key_of, load_certificates
from fiskal.tse.logmessage import LogMessageError, parse
from fiskal.tse.tar import Sink, TarWriter, merge_archives, read_members

log = logging.getLogger(__name__)

UNKNOWN_MAXIMUM: Final = 2**63 - 1
MAX_VENDOR_TEXT: Final = 2048
"""How many characters of a vendor's words get into an error."""

_SECRET: Final = re.compile(r"(?:_secret|_pin|_puk|_password|_token|_code|api_key)$")

Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=3_600_000)]
T = TypeVar("T")


class HttpOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The way to a cloud TSE; every driver has these options beside its own.

    ``proxy`` is ``http://HOST:PORT``; its password may say where it is (:mod:`fiskal.scu.secrets`). ``ca_file`` are
    the CAs to be trusted instead of the system's. ``max_retries`` counts repetitions of what may be repeated, within
    the deadline, ``retry_base_ms`` times 1, 2, 4 and so on up to ``retry_max_ms`` apart, at random below that.
    """

    proxy: str | None = None
    proxy_username: str | None = None
    proxy_password: str | None = None
    ca_file: str | None = None
    tx_timeout_ms: Milliseconds = 5000
    """One attempt of a transaction call."""
    tx_total_timeout_ms: Milliseconds = 10_000
    """A transaction call with its repetitions and the renewal of tokens."""
    auth_timeout_ms: Milliseconds = 4000
    info_timeout_ms: Milliseconds = 10_000
    admin_timeout_ms: Milliseconds = 35_000
    export_http_timeout_ms: Milliseconds = 120_000
    """How long a file may stand still while it is fetched."""
    export_total_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 18_000.0
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 5
    retry_base_ms: Milliseconds = 250
    retry_max_ms: Milliseconds = 5000

    def __repr__(self) -> str:
        """Without what may be a secret."""
        shown = (
            f"{name}={'***' if _SECRET.search(name) and value is not None else repr(value)}"
            for name, value in msgspec.structs.asdict(self).items()
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def client(
        self, base_url: str, folder: Path, *, plain: bool = False, connections: int = 16
    ) -> HttpsClient:
        """A client for ``base_url``; relative files are looked for in ``folder``. Raises ConfigurationError."""
        proxy = None
        if self.proxy is not None:
            password = None
            if self.proxy_password is not None:
                password = resolve(self.proxy_password, "proxy_password", folder=folder).reveal()
            proxy = Proxy(url=self.proxy, username=self.proxy_username, password=password)
        ca_file = None if self.ca_file is None else folder / Path(self.ca_file).expanduser()
        return HttpsClient(base_url, ca_file=ca_file, proxy=proxy, plain=plain, connections=connections)


# ---- deadlines and repetitions ------------------------------------------------------------------


class Again(Exception):
    """An attempt that may be repeated. ``error`` is what is raised if it is not."""

    def __init__(self, error: ScuError, *, after_s: float | None = None, at_least_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s
        """What the vendor said to wait, exactly."""
        self.at_least_s = at_least_s


class Attempts:
    """Repeats what may be repeated. ``wait`` sleeps, ``draw`` gives a number from 0 to 1."""

    def __init__(
        self,
        options: HttpOptions,
        *,
        wait: Callable[[float], object] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._most = options.max_retries
        self._base_s = options.retry_base_ms / 1000
        self._max_s = options.retry_max_ms / 1000
        self.wait = wait
        self._draw = draw
        self.repeated = 0
        """How many attempts were repetitions, for measuring."""

    def run(self, attempt: Callable[[], T], deadline: Deadline, most: int | None = None) -> T:
        """Call ``attempt`` until it does not raise :class:`Again`; then, or when time or attempts are used up, its
        error, with ``retry_after_ms`` if the vendor named a time that did not fit."""
        left = self._most if most is None else most
        step = self._base_s
        unsure = False
        while True:
            try:
                return attempt()
            except Again as again:
                # What may have been executed once stays so, whatever the last attempt says.
                unsure = unsure or isinstance(again.error, OutcomeUnknown)
                error = again.error
                seconds = again.after_s
                if seconds is None:
                    seconds = max(step * self._draw(), again.at_least_s)
                if left <= 0 or seconds >= deadline.remaining():
                    if again.after_s is not None:
                        error.retry_after_ms = round(again.after_s * 1000)
                    self._give_up(error, unsure)
                log.debug("repeated in %.0f ms: %s", seconds * 1000, error)
            except ScuError as error:
                self._give_up(error, unsure)
            left -= 1
            self.repeated += 1
            step = min(step * 2, self._max_s)
            if seconds > 0:
                self.wait(seconds)

    @staticmethod
    def _give_up(error: ScuError, unsure: bool) -> NoReturn:
        if unsure and not isinstance(error, OutcomeUnknown):
            raise OutcomeUnknown(
                "NO_RESPONSE",
                f"An earlier attempt was not answered; the last one: {error.message}",
                vendor_code=error.vendor_code,
                retry_after_ms=error.retry_after_ms,
            ) from error
        raise error


def within(deadline: Deadline | None, seconds: float) -> Deadline:
    """A deadline of ``seconds`` from now, or the given one if it is earlier."""
    own = Deadline(seconds)
    return own if deadline is None or own.at < deadline.at else deadline


def lost(error: TransportError, *, changes: bool) -> ScuError:
    """A broken call as an error of the SCU; ``changes`` says that it would have changed something."""
    if isinstance(error, NotSent) or not changes:
        code = "CONNECT_FAILED" if isinstance(error, NotSent) else "NO_RESPONSE"
        return Unreachable(code, f"The TSE is not available. {error}")
    code = "PROTOCOL_ERROR" if isinstance(error, Garbled) else "NO_RESPONSE"
    return OutcomeUnknown(code, f"Whether the TSE executed the call is not known. {error}")


def redirected(answer: Answer, url: str) -> Misconfigured:
    """A redirect is not followed: a service that signs does not move, a captive portal sends away."""
    return Misconfigured(
        "PROTOCOL_ERROR",
        f"{url} redirects (HTTP {answer.status}) to {vendor_text(answer.header('location') or 'nowhere', 200)}, "
        "which is not followed: check the endpoint, and whether the network wants a login.",
    )


def vendor_text(text: str | bytes, limit: int = MAX_VENDOR_TEXT) -> str:
    """A vendor's words on one line and not too long; of HTML only that it is some."""
    if isinstance(text, bytes):
        text = text[: limit * 4].decode("utf-8", "replace")
    if "<html" in text[:512].lower() or text.lstrip()[:9].lower() == "<!doctype":
        return "(an HTML page)"
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit] + "…"


# ---- identity -----------------------------------------------------------------------------------


class Identity(msgspec.Struct, frozen=True):
    """What does not change in the life of a TSE: serial as lower-case hex, the 65 bytes of the point, certificates as
    base64 of DER with the leaf first."""

    serial: str
    public_key_base64: str
    certificates_base64: list[str]


def identity(serial: str, public_key: str | None, certificates: str) -> Identity:
    """Serial, key and certificates in whatever form a vendor gives them (tse-cloud §0.2).

    ``public_key`` is base64 of the point or of its SubjectPublicKeyInfo, None to take it from the certificate;
    ``certificates`` is PEM, base64 of DER or base64 of PEM. Raises ``Misconfigured`` WRONG_TSE unless
    the serial is the SHA-256 of the point: nothing must be signed then.
    """
    ders = certificates_base64(certificates)
    if public_key:
        point = _point(public_key)
    elif ders:
        point = point_of(key_of(load_certificates(base64.b64decode(ders[0]))[0]))
    else:
        raise Misconfigured("PROTOCOL_ERROR", "The service names neither a public key nor a certificate.")
    own = serial_of_point(point).hex()
    serial = serial.strip().lower()
    if serial != own:
        raise Misconfigured(
            "WRONG_TSE",
            f"The service names serial number {vendor_text(serial, 80)}, but its public key has {own}: "
            "nothing is signed.",
        )
    return Identity(own, base64.b64encode(point).decode("ascii"), ders)


def _point(text: str) -> bytes:
    try:
        data = binascii.a2b_base64(text.strip())
    except ValueError as error:
        raise Misconfigured(
            "PROTOCOL_ERROR", f"The public key of the service is not base64: {error}."
        ) from error
    if len(data) == 91 and data[:2] == b"\x30\x59":
        data = data[-65:]
    if len(data) not in (65, 97, 133) or data[0] != 4:
        raise Misconfigured(
            "PROTOCOL_ERROR", f"The public key of the service has {len(data)} bytes and is no point."
        )
    return data


def certificates_base64(text: str) -> list[str]:
    """Certificates as base64 of DER, in the order given; empty text is none. Raises ``Misconfigured``."""
    data = text.strip().replace("\r\n", "\n").encode()
    if not data:
        return []
    try:
        if b"-----BEGIN" not in data:
            data = binascii.a2b_base64(data)
        found = load_certificates(data)
    except (ValueError, CertificateError) as error:
        raise Misconfigured(
            "PROTOCOL_ERROR", f"The certificate of the service cannot be read: {error}"
        ) from error
    from_pem = [certificate.public_bytes(Encoding.DER) for certificate in found]
    return [base64.b64encode(der).decode("ascii") for der in from_pem]


def algorithm_name(text: str | None) -> str:
    """The name of a signature algorithm given by its name or its OID; that of P-256 if nothing is given."""
    if not text:
        return "ecdsa-plain-SHA256"
    if text[0].isdigit():
        known = algorithm_by_oid(_oid_content(text))
        if known is None:
            raise Misconfigured(
                "PROTOCOL_ERROR", f"The service signs with an unknown algorithm {text[:80]!r}."
            )
        return known.name
    return text


def _oid_content(text: str) -> bytes:
    """The content of a DER OBJECT IDENTIFIER."""
    try:
        first, second, *rest = (int(part) for part in text.split("."))
    except ValueError:
        return b""
    content = bytearray((first * 40 + second,)) if first * 40 + second < 128 else bytearray()
    for arc in rest:
        piece = [arc & 0x7F]
        while arc := arc >> 7:
            piece.append(0x80 | arc & 0x7F)
        content += bytes(reversed(piece))
    return bytes(content)


def certification(reported: str | None, configured: str | None, default: str, *, force: bool = False) -> str:
    """Which certification id is shown (tse-cloud §0.7): the service's, the configured one, the default."""
    if configured and reported and configured != reported:
        log.warning("the TSE reports certification %s, the configuration says %s", reported, configured)
    order = (configured, reported) if force else (reported, configured)
    return order[0] or order[1] or default


def check_client_id(client_id: str, pattern: Any, longest: int) -> None:
    """Raises ``ClientError`` INVALID_CLIENT_ID."""
    if not 1 <= len(client_id) <= longest or not pattern.fullmatch(client_id):
        raise ClientError(
            "INVALID_CLIENT_ID",
            f"The client id {client_id!r} must have 1 to {longest} characters out of A-Z a-z 0-9 ' ( ) + , - . : = ? "
            "and space.",
        )


# ---- small memories -----------------------------------------------------------------------------


class Revisions:
    """Numbers of open transactions to something small, forgotten oldest first. Thread-safe."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: dict[int, int] = {}

    def __getitem__(self, number: int) -> int | None:
        return self._values.get(number)

    def __setitem__(self, number: int, value: int) -> None:
        with self._lock:
            self._values.pop(number, None)
            self._values[number] = value
            if len(self._values) > self._most:
                del self._values[next(iter(self._values))]

    def forget(self, number: int) -> None:
        with self._lock:
            self._values.pop(number, None)


class StateFile:
    """A small JSON object that survives, written whole or not at all; None is a driver without a folder."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._value: dict[str, Any] = {}
        if path is not None:
            try:
                self._value = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                log.warning("%s cannot be read and is begun anew: %s", path, error)

    def get(self, name: str) -> Any:
        return self._value.get(name)

    def set(self, **members: Any) -> None:
        """Change members; None removes one. On disk when it returns. Raises ``Misconfigured``."""
        with self._lock:
            value = {name: each for name, each in {**self._value, **members}.items() if each is not None}
            if self._path is not None:
                staged = self._path.with_name(self._path.name + ".new")
                try:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                    with os.fdopen(fd, "wb") as file:
                        file.write(msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1))
                        file.flush()
                        os.fsync(file.fileno())
                    staged.replace(self._path)
                except OSError as error:
                    raise Misconfigured("INTERNAL", f"{self._path} cannot be written: {error}.") from error
            self._value = value


class Checksum:
    """A sink that hashes and counts what goes through it to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


# ---- archives -----------------------------------------------------------------------------------


def log_numbers(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Counter and transaction number (0 without) of every log message of an archive, read to its end.

    Raises :class:`fiskal.tse.tar.TarError` for a file that is cut off.
    """
    for member in read_members(file):
        if member.data is not None and member.name.endswith(".log"):
            try:
                message = parse(member.data)
            except LogMessageError:
                continue  # whoever verifies the archive says what is wrong with it
            yield message.signature_counter, message.transaction_number or 0


def write_parts(files: Sequence[IO[bytes]], out: Sink, clock: Clock) -> None:
    """One archive out of the files of its parts, each read from its beginning; an empty archive without any."""
    for file in files:
        file.seek(0)
    if not files:
        TarWriter(out, to_unix(clock())).close()
    elif len(files) == 1:
        while piece := files[0].read(256 << 10):
            out.write(piece)
    else:
        for piece in merge_archives(files):
            out.write(piece)
