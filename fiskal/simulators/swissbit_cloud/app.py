"""The signing API: one TSE per credential, one export at a time, and the log goes with it."""

from __future__ import annotations

import base64
import binascii
import hmac
import io
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from fiskal.clock import to_unix
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Op, Selection
from fiskal.scu.errors import ScuError
from fiskal.scu.service_time import LogNormal, ServiceTime
from fiskal.scu.software import SoftwareTse
from fiskal.simulators.http import App, HttpSettings, Request, Response, SimClock
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import write_archive


class Settings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``access_token`` is the TSE's; its serial number is made with its key (``SwissbitCloudApp.serial``).

    ``export_polls`` is how often an export is asked for before it is there, ``download_url`` how its place is told,
    ``algorithm`` what the status says of it (``oid`` and ``missing`` have been seen).
    """

    access_token: str = "simulator-token"
    clients: tuple[str, ...] = ()
    folder: Path | None = None
    max_clients: int = 10
    max_transactions: int = 512
    storage_bytes: int = 1 << 30
    export_polls: int = 1
    download_url: Literal["absolute", "relative"] = "relative"
    algorithm: Literal["name", "oid", "missing"] = "name"
    crlf: bool = False


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Export:
    def __init__(self, uuid: str, created: int, polls: int, archive: bytes, last_counter: int) -> None:
        self.uuid = uuid
        self.created = created
        self.polls_left = polls
        self.archive = archive
        self.last_counter = last_counter
        self.failed = ""


class SwissbitCloudApp(App):
    family = "swissbit-cloud"
    commands: ClassVar[Mapping[str, ServiceTime]] = {
        "start": LogNormal(mean_ms=150, cv=0.5, max_ms=5000),
        "update": LogNormal(mean_ms=150, cv=0.5, max_ms=5000),
        "finish": LogNormal(mean_ms=150, cv=0.5, max_ms=5000),
        "read": 80,
        "client": 300,
        "export": 200,
        "download": 500,
        "other": 10,
    }

    def __init__(self, settings: Settings, clock: SimClock | None = None) -> None:
        super().__init__(clock or SimClock())
        self.settings = settings
        self._temporary = tempfile.mkdtemp(prefix="fiskal-sim-") if settings.folder is None else None
        self._folder = Path(self._temporary or str(settings.folder))
        self._tse: SoftwareTse | None = None
        self.reset(settings.plan.seed)

    def reset(self, seed: int) -> None:
        if self._tse is not None:
            self._tse.close()
            shutil.rmtree(self._folder / "tse", ignore_errors=True)
        self._random = Random(seed)
        self._export: _Export | None = None
        self._erased_to = 0
        self.initialization = ""
        self._tse = SoftwareTse(
            self._folder / "tse", clock=self.clock, max_clients=100_000, max_open_transactions=100_000
        )
        self._tse.set_state(TseStates.INITIALIZED, None)
        for client in self.settings.clients:
            self._tse.register(client, None)

    @property
    def engine(self) -> SoftwareTse:
        """The signing engine."""
        assert self._tse is not None
        return self._tse

    @property
    def serial(self) -> str:
        """What a driver needs beside the access token."""
        return self.engine.chain.serial.hex()

    def close(self) -> None:
        with self.lock:
            if self._tse is not None:
                self._tse.close()
                self._tse = None
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def _used(self) -> int:
        return sum(len(message) for _, message in self.engine.messages(self._erased_to + 1))

    def state(self) -> dict[str, Any]:
        return {
            "serial": self.serial,
            "signature_counter": self.engine.counter,
            "transaction_counter": self.engine.transaction_counter,
            "open": sorted(self.engine.open_transactions),
            "clients": list(self.engine.clients),
            "erased_to": self._erased_to,
            "export": None if self._export is None else self._export.uuid,
        }

    def force(self, change: dict[str, Any]) -> None:
        if "initialization" in change:
            self.initialization = str(change["initialization"])
        if "export_failed" in change and self._export is not None:
            self._export.failed = str(change["export_failed"])

    def command(self, request: Request) -> str:
        path = request.path.removeprefix("/api/v1/tse")
        for op in ("start", "update", "finish"):
            if path == f"/{op}Transaction":
                return op
        if path.startswith("/export"):
            return "export"
        if path.endswith("Client"):
            return "client"
        if request.path.startswith("/download"):
            return "download"
        return "read" if request.method == "GET" else "other"

    # ---- requests -------------------------------------------------------------------------------

    def handle(self, request: Request) -> Response:
        try:
            self._authorize(request)
            for method, pattern, handler in _ROUTES:
                match = pattern.fullmatch(request.path)
                if match and request.method == method:
                    return handler(self, request, *match.groups())
            raise _Refused(404, f"no route {request.method} {request.path}")
        except _Refused as refused:
            return Response.json({"status": refused.status, "message": str(refused)}, refused.status)
        except ScuError as error:
            return Response.json({"status": 409, "code": error.code, "message": error.message}, 409)

    def _authorize(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(value, validate=True)
        except binascii.Error:
            given = b""
        wanted = f"{self.serial}:{self.settings.access_token}".encode()
        if scheme != "Basic" or not hmac.compare_digest(given, wanted):
            raise _Refused(401, "wrong credentials")

    def status(self, request: Request) -> Response:
        chain, settings = self.engine.chain, self.settings
        states = {TseStates.INITIALIZED: "initialized", TseStates.TERMINATED: "disabled"}
        pem = chain.pem.decode()
        value = {
            "serialNumber": self.serial,
            "publicKey": base64.b64encode(chain.point).decode(),
            "initializationState": self.initialization or states.get(self.engine.state, "uninitialized"),
            "healthState": "ok",
            "logTimeFormat": "unixTime",
            "softwareVersion": "2.0.0",
            "certificateChain": pem.replace("\n", "\r\n") if settings.crlf else pem,
            "certificateExpirationDate": to_unix(self.engine.valid_until),
            "createdSignatures": self.engine.counter,
            "createdSignaturesThisMonth": self.engine.counter,
            "numRegisteredClients": len(self.engine.clients),
            "maxRegisteredClients": settings.max_clients,
            "numStartedTransactions": len(self.engine.open_transactions),
            "maxStartedTransactions": settings.max_transactions,
            "storageCapacity": settings.storage_bytes,
            "storageUsed": self._used,
            "timeUntilNextSelfTest": 3600,
            "maxUpdateDelay": 45,
            "productType": "web-tse",
            "creditClientId": "simulator",
            "metadata": None,
        }
        if settings.algorithm != "missing":
            name = settings.algorithm == "name"
            value["signatureAlgorithm"] = "ecdsa-plain-SHA256" if name else "0.4.0.127.0.7.1.1.4.1.3"
        return Response.json(value)

    def _json(self, request: Request) -> dict[str, Any]:
        try:
            return request.json()
        except ValueError as error:
            raise _Refused(400, str(error)) from error

    def clients(self, request: Request) -> Response:
        return Response.json(list(self.engine.clients))

    def register(self, request: Request) -> Response:
        client_id = str(self._json(request).get("clientId", ""))
        if len(client_id) > 30:
            raise _Refused(400, "clientId has more than 30 characters")
        if client_id not in self.engine.clients and len(self.engine.clients) >= self.settings.max_clients:
            raise _Refused(409, "too many clients")
        self.engine.register(client_id, None)
        return Response(200)

    def deregister(self, request: Request) -> Response:
        self.engine.unregister(str(self._json(request).get("clientId", "")), None)
        return Response(200)

    def transactions(self, request: Request) -> Response:
        return Response.json(sorted(self.engine.open_transactions))

    def _transaction(self, request: Request, op: Op) -> Response:
        body = self._json(request)
        try:
            data = base64.b64decode(body.get("processData") or "", validate=True)
            number = 0 if op == "start" else int(body["transactionNumber"])
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise _Refused(400, f"the body is invalid: {error}") from error
        if op == "start" and self._used >= self.settings.storage_bytes:
            raise _Refused(409, "the storage is full")
        if op == "start" and len(self.engine.open_transactions) >= self.settings.max_transactions:
            raise _Refused(409, "too many started transactions")
        if op != "start" and number not in self.engine.open_transactions:
            raise _Refused(404, "the transaction is not started")
        process_type = str(body.get("processType") or "")
        signed = getattr(self.engine, op)(
            Call(op, str(body.get("clientId")), number, process_type, data, ""), None
        )
        return Response.json(
            {
                "transactionNumber": signed.transaction_number,
                "signatureCounter": signed.signature_counter,
                "signatureCreationTime": to_unix(signed.time_stamp),
                "signatureValue": base64.b64encode(signed.signature).decode(),
            }
        )

    def start(self, request: Request) -> Response:
        return self._transaction(request, "start")

    def update(self, request: Request) -> Response:
        return self._transaction(request, "update")

    def finish(self, request: Request) -> Response:
        return self._transaction(request, "finish")

    def disable(self, request: Request) -> Response:
        self.engine.set_state(TseStates.TERMINATED, None)
        return Response(200)

    # ---- exports --------------------------------------------------------------------------------

    def _shown(self, export: _Export) -> dict[str, Any]:
        done = export.polls_left <= 0
        url = f"/download/{export.uuid}"
        if self.settings.download_url == "absolute":
            url = f"{self.base_url}{url}"
        value: dict[str, Any] = {
            "id": export.uuid,
            "status": "failure" if export.failed else "success" if done else "pending",
            "createdAt": str(export.created),
            "filename": f"{self.serial}.tar",
        }
        if done and not export.failed:
            value["downloadUrl"] = url
        if export.failed:
            value |= {"errorCode": export.failed, "errorMessage": "the export failed"}
        return value

    base_url = ""
    """Where it is served, for absolute URLs; set by who serves it."""

    def post_export(self, request: Request) -> Response:
        if self._export is not None:
            raise _Refused(409, "there is an export already")
        out = io.BytesIO()
        messages = [
            (build_file_name(parse(message)), message)
            for _, message in self.engine.messages(self._erased_to + 1)
        ]
        write_archive(
            out,
            info=self.engine.info_csv(),
            chain=self.engine.chain,
            messages=messages,
            mtime=self.clock.unix(),
        )
        uuid = str(UUID(int=self._random.getrandbits(128), version=4))
        self._export = _Export(
            uuid, self.clock.unix(), self.settings.export_polls, out.getvalue(), self.engine.counter
        )
        return Response.json(self._shown(self._export))

    def list_exports(self, request: Request) -> Response:
        return Response.json([] if self._export is None else [self._shown(self._export)])

    def _found(self, uuid: str) -> _Export:
        if self._export is None or self._export.uuid != uuid:
            raise _Refused(404, "no such export")
        return self._export

    def get_export(self, request: Request, uuid: str) -> Response:
        export = self._found(uuid)
        shown = self._shown(export)
        export.polls_left -= 1
        return Response.json(shown)

    def delete_export(self, request: Request, uuid: str) -> Response:
        export = self._found(uuid)
        shown = self._shown(export)
        self._export = None
        if not export.failed:
            self._erased_to = export.last_counter
        return Response.json(shown)

    def download(self, request: Request, uuid: str) -> Response:
        export = self._found(uuid)
        if export.polls_left > 0 or export.failed:
            raise _Refused(404, "the export is not ready")
        return Response(200, export.archive, {"Content-Type": "application/x-tar"})

    def whole_log(self) -> bytes:
        """Everything that was ever signed, for tests."""
        out = io.BytesIO()
        self.engine.export(Selection(), out, nullcontext)
        return out.getvalue()


def _routes() -> list[tuple[str, re.Pattern[str], Callable[..., Response]]]:
    app = SwissbitCloudApp
    tse = "/api/v1/tse"
    table: list[tuple[str, str, Callable[..., Response]]] = [
        ("GET", tse, app.status),
        ("GET", f"{tse}/clients", app.clients),
        ("POST", f"{tse}/registerClient", app.register),
        ("POST", f"{tse}/deregisterClient", app.deregister),
        ("GET", f"{tse}/transactions", app.transactions),
        ("POST", f"{tse}/startTransaction", app.start),
        ("POST", f"{tse}/updateTransaction", app.update),
        ("POST", f"{tse}/finishTransaction", app.finish),
        ("POST", f"{tse}/disableSecureElement", app.disable),
        ("POST", f"{tse}/export", app.post_export),
        ("GET", f"{tse}/export", app.list_exports),
        ("GET", f"{tse}/export/([^/]+)", app.get_export),
        ("DELETE", f"{tse}/export/([^/]+)", app.delete_export),
        ("GET", "/download/([^/]+)", app.download),
    ]
    return [(method, re.compile(path), handler) for method, path, handler in table]


_ROUTES: Final = _routes()
