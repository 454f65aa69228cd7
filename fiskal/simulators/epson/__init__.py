"""Epson TSEs that speak ePOS-Device XML byte for byte, over TCP and TLS. NOT CERTIFIED.

The forms are what the vendor sells: ``usb`` is a stick behind the host service of a PC, ``printer`` a card in a receipt
printer, which tests itself when it is switched on, ``server`` a TSE server with several sticks that have ids of their
own. :class:`Simulator` serves any of them::

    with Simulator(Settings(folder="tse", form="usb", port=0)) as simulator:
        print(simulator.host, simulator.port)

What can go wrong stands in :data:`fiskal.simulators.epson.faults.FAULTS`; it happens as the plan says, which may be
changed while the simulator runs.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.clock import Clock, now
from fiskal.errors import ConfigurationError
from fiskal.files import write_atomically
from fiskal.simulators.epson.device import Device
from fiskal.simulators.epson.faults import FAULTS, SERVICE_TIMES
from fiskal.simulators.epson.server import Server
from fiskal.simulators.plan import Conductor, Fault, Plan

PORT: Final = 8009
TLS_PORT: Final = 8143

Form = Literal["usb", "printer", "server"]
FORMS: Final[dict[Form, str]] = {
    "usb": "a stick behind the host service of a PC: one device, local_TSE",
    "printer": "a card in a receipt printer: one device, local_TSE, which tests itself when it is switched on",
    "server": "a TSE server: several devices with ids of their own",
}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a simulator is. Members that say *inferred* are what no document of the vendor tells."""

    folder: str
    """Where the devices live; made if it is not there."""
    form: Form = "usb"
    host: str = "127.0.0.1"
    """Where it listens."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    """None is 8009, with TLS 8143; 0 is any that is free."""
    tls: bool = False
    certificate: str | None = None
    """A PEM file with the certificate and key for TLS; None makes ``tls.pem`` in the folder, signed by itself."""
    device_ids: list[str] | None = None
    """None is ``local_TSE``, for a server ``TSE_1`` and ``TSE_2``."""
    storage_type: str = "type_storage"
    curve: str = "brainpoolP384r1"
    durable: bool = False
    """Sync every signature to the disk before it is answered."""
    development: bool = True
    """A development TSE, which FactoryReset brings back to where it came from."""
    max_clients: Annotated[int, msgspec.Meta(ge=1)] = 100
    max_open_transactions: Annotated[int, msgspec.Meta(ge=1)] = 512
    max_signatures: Annotated[int, msgspec.Meta(ge=1)] = 20_000_000
    capacity_sectors: Annotated[int, msgspec.Meta(ge=1)] = 13_631_488
    """Sectors of 512 bytes for the log."""
    export_chunk_bytes: Annotated[int, msgspec.Meta(ge=3)] = 30_000
    """How much of an export one GetExportData answers, before base64. Clients that join the base64 want a multiple
    of 3."""
    export_status: str = "EXPORT_INCOMPLETE"
    """*Inferred*: what GetExportData says before the last piece. The Python client tse.py waits for
    ``EXPORT_INCOMPETE`` and drops pieces with another word."""
    escapes_quotes: bool = True
    """*Inferred*: whether JSON in an answer has ``&quot;`` for a quotation mark; both are XML."""
    forgets_log_ins: bool = False
    """*Inferred*: closing a device logs everybody out."""
    exports_when_disabled: bool = False
    """*Inferred*: a TSE whose secure element was disabled can still be exported."""
    plan: Plan = Plan()
    control: str | None = None
    """A JSON file with the plan, read again whenever it changes."""

    @property
    def ids(self) -> list[str]:
        if self.device_ids is not None:
            return self.device_ids
        return ["TSE_1", "TSE_2"] if self.form == "server" else ["local_TSE"]


class Simulator:
    """Devices and the server in front of them, from the moment it is made until :meth:`close`.

    ``clock`` is the devices' idea of time once they were told it, ``monotonic`` what log-ins and self tests last by.
    Raises :class:`fiskal.errors.ConfigurationError` for settings that do not fit, OSError for a port that is taken.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = now,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        ids = settings.ids
        if not ids or len(set(ids)) != len(ids) or not all(ids):
            raise ConfigurationError("device_ids are one or more different texts")
        if settings.form != "server" and len(ids) != 1:
            raise ConfigurationError(f"the form {settings.form!r} has one device; a server has several")
        self.settings = settings
        self.conductor = Conductor(
            "epson",
            faults=FAULTS,
            default_times=SERVICE_TIMES,
            plan=settings.plan,
            control=None if settings.control is None else Path(settings.control),
            wait=wait,
        )
        folder = Path(settings.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.devices: dict[str, Device] = {}
        try:
            for device_id in ids:
                self.devices[device_id] = Device(
                    folder / device_id,
                    device_id,
                    tests_itself=settings.form == "printer",
                    development=settings.development,
                    export_chunk_bytes=settings.export_chunk_bytes,
                    incomplete=settings.export_status,
                    exports_when_disabled=settings.exports_when_disabled,
                    clock=clock,
                    monotonic=monotonic,
                    capacity_sectors=settings.capacity_sectors,
                    max_clients=settings.max_clients,
                    max_open_transactions=settings.max_open_transactions,
                    max_signatures=settings.max_signatures,
                    curve=settings.curve,
                    durable=settings.durable,
                )
            port = settings.port
            self.server = Server(
                self.devices,
                self.conductor,
                host=settings.host,
                port=(TLS_PORT if settings.tls else PORT) if port is None else port,
                tls=self._tls(folder) if settings.tls else None,
                storage_type=settings.storage_type,
                escapes_quotes=settings.escapes_quotes,
                forgets_log_ins=settings.forgets_log_ins,
            )
        except BaseException:
            for device in self.devices.values():
                device.close()
            raise

    @property
    def host(self) -> str:
        return self.server.address[0]

    @property
    def port(self) -> int:
        return self.server.address[1]

    @property
    def device(self) -> Device:
        """The first device."""
        return next(iter(self.devices.values()))

    @property
    def certificate_file(self) -> Path:
        """The PEM file of the TLS certificate."""
        if self.settings.certificate is not None:
            return Path(self.settings.certificate)
        return Path(self.settings.folder) / "tls.pem"

    def inject(self, kind: str, command: str = "*", **members: int | float | str | None) -> None:
        """Let a fault happen; ``members`` are those of :class:`fiskal.simulators.plan.Fault`."""
        self.conductor.inject(Fault(kind=kind, command=command, **members))  # type: ignore[arg-type]

    def _tls(self, folder: Path) -> ssl.SSLContext:
        path = self.certificate_file
        if self.settings.certificate is None and not path.exists():
            write_atomically(path, _self_signed(self.settings.host), 0o600)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(path)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"{path} holds no certificate and key in PEM: {error}") from error
        return context

    def close(self) -> None:
        self.server.close()
        for device in self.devices.values():
            device.close()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _self_signed(host: str) -> bytes:
    """A key and a certificate for ``host``, in PEM, as a printer makes one for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fiskal Epson simulator (NOT CERTIFIED)")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    moment = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - datetime.timedelta(days=1))
        .not_valid_after(moment + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
