"""The HTTP API of the connector: four identities, tokens per client, exports as base64 text, acknowledgements."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
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
from urllib.parse import parse_qs

from fiskal.clock import UNIX_EPOCH_TICKS, to_unix
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Op, Selection, Signed
from fiskal.scu.errors import ScuError
from fiskal.scu.service_time import LogNormal, ServiceTime
from fiskal.scu.software import SoftwareTse
from fiskal.simulators.http import App, HttpSettings, Request, Response, SimClock
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import write_archive


class Settings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``ers_code`` is the secret of all identities, ``activation_token`` that of registrations.

    ``max_records`` is how many records one export gives, ``unsigned_updates`` answers updates with null members.
    ``dialect`` ``cloudtse`` speaks like the free server of that name: numbers as strings, one identity, other names.
    """

    ers_code: str = "4711"
    activation_token: str = "simulator-activation"
    clients: tuple[str, ...] = ()
    folder: Path | None = None
    token_s: float = 3600
    fcc_version: str = "4.4.0"
    max_clients: int = 10
    max_transactions: int = 500
    max_records: int = 500
    unsigned_updates: bool = False
    dialect: Literal["fcc", "cloudtse"] = "fcc"


_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
ACK_DELAY_S: Final = 60
"""What is younger cannot be acknowledged."""


class _Refused(Exception):
    def __init__(self, status: int, error_type: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message


class FccApp(App):
    family = "fcc"
    commands: ClassVar[Mapping[str, ServiceTime]] = {
        "token": 20,
        "start": LogNormal(mean_ms=200, cv=0.5, max_ms=5000),
        "update": LogNormal(mean_ms=200, cv=0.5, max_ms=5000),
        "finish": LogNormal(mean_ms=200, cv=0.5, max_ms=5000),
        "admin": 100,
        "export": 500,
        "health": 5,
        "other": 10,
    }

    def __init__(self, settings: Settings, clock: SimClock | None = None) -> None:
        super().__init__(clock or SimClock())
        self.settings = settings
        self._temporary = tempfile.mkdtemp(prefix="fiskal-sim-") if settings.folder is None else None
        self._folder = Path(self._temporary or str(settings.folder))
        self.tse: SoftwareTse | None = None
        self.reset(settings.plan.seed)

    def reset(self, seed: int) -> None:
        if self.tse is not None:
            self.tse.close()
            shutil.rmtree(self._folder / "tse", ignore_errors=True)
        self._random = Random(seed)
        self._tokens: dict[str, tuple[str, float]] = {}
        self.healthy = True
        self.acknowledged: list[tuple[str, str]] = []
        self.tse = SoftwareTse(
            self._folder / "tse", clock=self.clock, max_clients=100_000, max_open_transactions=100_000
        )
        self.tse.set_state(TseStates.INITIALIZED, None)
        for client in self.settings.clients:
            self.tse.register(client, None)
        self._owners: dict[int, str] = {}
        for number in self.tse.open_transactions:  # of a folder that was used before
            record = self.tse.last_record(number)
            if record is not None:
                self._owners[number] = record.client_id

    @property
    def engine(self) -> SoftwareTse:
        """The signing engine."""
        assert self.tse is not None
        return self.tse

    def close(self) -> None:
        with self.lock:
            if self.tse is not None:
                self.tse.close()
                self.tse = None
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def state(self) -> dict[str, Any]:
        return {
            "signature_counter": self.engine.counter,
            "transaction_counter": self.engine.transaction_counter,
            "open": sorted(self.engine.open_transactions),
            "clients": list(self.engine.clients),
            "acknowledged": self.acknowledged,
            "healthy": self.healthy,
        }

    def force(self, change: dict[str, Any]) -> None:
        if "healthy" in change:
            self.healthy = bool(change["healthy"])
        if change.get("expire_tokens"):
            self._tokens.clear()
        if change.get("disable"):
            self.engine.set_state(TseStates.TERMINATED, None)

    def command(self, request: Request) -> str:
        path, method = request.path, request.method
        if path == "/oauth/token":
            return "token"
        if path == "/transaction":
            return "start"
        if path.startswith("/transaction/"):
            return "update" if method == "POST" else "finish"
        if path.startswith("/export"):
            return "export"
        if path.startswith("/actuator"):
            return "health"
        return "admin"

    # ---- requests -------------------------------------------------------------------------------

    def handle(self, request: Request) -> Response:
        try:
            for method, pattern, identity, handler in _ROUTES:
                match = pattern.fullmatch(request.path)
                if match and request.method in method.split("|"):
                    client = self._authorize(request, identity)
                    return handler(self, request, client, *match.groups())
            raise _Refused(404, "", f"no route {request.method} {request.path}")
        except _Refused as refused:
            if not refused.error_type and not refused.message:
                return Response(refused.status)
            key = "errorType" if self.settings.dialect == "fcc" else "code"
            return Response.json({key: refused.error_type, "message": refused.message}, refused.status)

    def _authorize(self, request: Request, identity: str) -> str:
        """Who calls. Raises 401."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        bearer = self._tokens.get(value) if scheme == "Bearer" else None
        if identity == "bearer" or (self.settings.dialect == "cloudtse" and identity != "basic"):
            if bearer is None or bearer[1] <= self.clock.unix():
                raise _Refused(401, "", "invalid token")
            return bearer[0]
        if scheme != "Basic":
            raise _Refused(401, "", "Basic credentials are required")
        try:
            user, _, code = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise _Refused(401) from error
        if not hmac.compare_digest(code.encode(), self.settings.ers_code.encode()) or (
            identity not in ("basic", user)
        ):
            raise _Refused(401, "", "wrong credentials")
        return user

    def token(self, request: Request, client: str) -> Response:
        form = parse_qs(request.body.decode("utf-8", "replace"))
        if form.get("grant_type") != ["client_credentials"]:
            raise _Refused(400, "", "grant_type must be client_credentials")
        if client not in self.engine.clients:
            if self.settings.dialect == "fcc":
                raise _Refused(401, "", "the client is not registered")
            self.engine.register(client, None)
        token = f"{self._random.getrandbits(256):064x}"
        self._tokens[token] = (client, self.clock.unix() + self.settings.token_s)
        return Response.json(
            {"access_token": token, "token_type": "bearer", "expires_in": self.settings.token_s}
        )

    def _number(self, value: int) -> int | str:
        return str(value) if self.settings.dialect == "cloudtse" else value

    def _call(self, request: Request, client: str, op: Op, number: int) -> Signed:
        try:
            body = request.json()
            data = base64.b64decode(body["processData"], validate=True)
            process_type = str(body["processType"])
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise _Refused(400, "INVALID_PARAMETER", f"the body is invalid: {error}") from error
        if (
            "externalTransactionId" in body
            and self.settings.fcc_version >= "4.4"
            and self.settings.dialect == "fcc"
        ):
            raise _Refused(400, "INVALID_PARAMETER", "externalTransactionId is not known")
        if body.get("clientId") != client:
            raise _Refused(403, "CLIENT_MISMATCH", "the token is for another client")
        if not data:
            raise _Refused(400, "INVALID_PARAMETER", "processData must not be empty")
        if op == "start" and len(self.engine.open_transactions) >= self.settings.max_transactions:
            raise _Refused(409, "TOO_MANY_TRANSACTIONS", "too many open transactions")
        if op != "start" and number not in self.engine.open_transactions:
            if self.settings.dialect == "cloudtse":
                raise _Refused(400, "ErrorNoTransaction", "no such transaction")
            raise _Refused(404)
        try:
            return getattr(self.engine, op)(Call(op, client, number, process_type, data, ""), None)  # type: ignore[no-any-return]
        except ScuError as error:
            raise _Refused(409, error.code, error.message) from error

    def _signature(self, signed: Signed) -> dict[str, Any]:
        return {
            "signatureCounter": self._number(signed.signature_counter),
            "signatureValue": base64.b64encode(signed.signature).decode(),
            "logTime": _iso(signed.time_stamp),
        }

    def start(self, request: Request, client: str) -> Response:
        signed = self._call(request, client, "start", 0)
        self._owners[signed.transaction_number] = client
        return Response.json(
            {
                "transactionNumber": self._number(signed.transaction_number),
                "serialNumber": self.engine.chain.serial.hex(),
                **self._signature(signed),
            }
        )

    def update(self, request: Request, client: str, number: str) -> Response:
        if self.settings.unsigned_updates:
            if int(number) not in self.engine.open_transactions:
                raise _Refused(404)
            return Response.json({"signatureCounter": None, "signatureValue": None, "logTime": None})
        return Response.json(self._signature(self._call(request, client, "update", int(number))))

    def finish(self, request: Request, client: str, number: str) -> Response:
        signed = self._call(request, client, "finish", int(number))
        self._owners.pop(int(number), None)
        answer = self._signature(signed)
        if self.settings.dialect == "cloudtse":
            answer["processType"] = request.json()["processType"]
        return Response.json(answer)

    def transactions(self, request: Request, client: str) -> Response:
        wanted = request.query.get("clientId", client)
        numbers = [n for n in self.engine.open_transactions if self._owners.get(n) == wanted]
        if self.settings.dialect == "cloudtse":
            shown = [{"transactionNumber": str(n), "clientId": wanted} for n in numbers]
            return Response.json({"openTransactions": shown, "count": len(numbers)})
        if not numbers:
            raise _Refused(404)
        return Response.json([{"transactionNumber": n} for n in numbers])

    def _only_fcc(self) -> None:
        if self.settings.dialect != "fcc":
            raise _Refused(404, "", "no such route")

    def clients(self, request: Request, client: str) -> Response:
        self._only_fcc()
        return Response.json([{"clientId": each} for each in self.engine.clients])

    def registration(self, request: Request, client: str) -> Response:
        self._only_fcc()
        body = request.json()
        if body.get("registrationToken") != self.settings.activation_token:
            raise _Refused(400, "ERS_INVALID_REGISTRATION_KEY", "the registration token is invalid")
        if not body.get("typeOfSystem"):
            raise _Refused(400, "INVALID_PARAMETER", "typeOfSystem is mandatory")
        if len(self.engine.clients) >= self.settings.max_clients:
            raise _Refused(400, "ERS_INVALID_REGISTRATION_KEY", "the licence allows no more clients")
        try:
            self.engine.register(str(body.get("uniqueClientId", "")), None)
        except ScuError as error:
            raise _Refused(400, "INVALID_PARAMETER", error.message) from error
        return Response.json({})

    def deregistration(self, request: Request, client: str) -> Response:
        self._only_fcc()
        try:
            self.engine.unregister(str(request.json().get("uniqueClientId", "")), None)
        except ScuError as error:
            raise _Refused(409, error.code, error.message) from error
        return Response.json({})

    def info(self, request: Request, client: str) -> Response:
        return Response.json(
            {
                "maxNumberClients": self._number(self.settings.max_clients),
                "maxNumberTransactions": self._number(self.settings.max_transactions),
                "currentNumberOfTransactions": self._number(len(self.engine.open_transactions)),
            }
        )

    def selfcheck(self, request: Request, client: str) -> Response:
        self._only_fcc()
        state = "ACTIVE" if self.engine.state is TseStates.INITIALIZED else "NONACTIVE"
        return Response.json(
            {
                "remoteCspVersion": "3.1",
                "fccVersion": self.settings.fcc_version,
                "localClientVersion": "2.0",
                "keyInfos": [{"state": state, "lastSignatureCounter": self.engine.counter}],
            }
        )

    def tssdetails(self, request: Request, client: str) -> Response:
        chain = self.engine.chain
        details = {
            "algorithm": "ecdsa-plain-SHA256",
            "publicKey": base64.b64encode(chain.point).decode(),
            "leafCertificate": base64.b64encode(chain.der[0]).decode(),
        }
        if self.settings.dialect == "fcc":
            return Response.json({"serialNumberHex": chain.serial.hex(), "timeFormat": "unixTime", **details})
        return Response.json(
            {
                "serial": chain.serial.hex(),
                "timeFormat": "yyyy-MM-dd'T'HH:mm:ss'Z'",
                "signingTimeFormat": "unixTime",
                "encoding": "UTF-8",
                **details,
            }
        )

    # ---- exports --------------------------------------------------------------------------------

    def _text(self, archive: bytes) -> Response:
        if self.settings.dialect == "cloudtse":
            lines = [base64.b64encode(archive[i : i + 65_536]) for i in range(0, len(archive), 65_536)]
            return Response.text(b"\n".join(lines) + b"\n")
        return Response.text(base64.encodebytes(archive).replace(b"\n", b"\r\n"))

    def export_one(self, request: Request, client: str, number: str) -> Response:
        selection = Selection(first_number=int(number), last_number=int(number))
        if self.engine.count(selection, 1) == 0:
            raise _Refused(404)
        out = io.BytesIO()
        self.engine.export(selection, out, nullcontext)
        return self._text(out.getvalue())

    def _range(self, request: Request) -> tuple[int, int]:
        texts = request.query.get("startDate", ""), request.query.get("endDate", "")
        if not all(_TIME.fullmatch(text) for text in texts):
            raise _Refused(400, "INVALID_PARAMETER", "startDate and endDate are yyyy-MM-dd'T'HH:mm:ss'Z'")
        first, last = (int(dt.datetime.fromisoformat(text).timestamp()) for text in texts)
        return first, last

    def export_times(self, request: Request, client: str) -> Response:
        self._only_fcc()
        first, last = self._range(request)
        wanted = request.query.get("clientId")
        chosen = []
        for _, message in self.engine.messages():
            parsed = parse(message)
            if first <= to_unix(parsed.log_time) <= last and wanted in (None, parsed.client_id):
                chosen.append((build_file_name(parsed), message))
        if not chosen:
            raise _Refused(404)
        if len(chosen) > self.settings.max_records:
            raise _Refused(413, "TOO_MANY_RECORDS", f"{len(chosen)} records")
        out = io.BytesIO()
        write_archive(
            out,
            info=self.engine.info_csv(),
            chain=self.engine.chain,
            messages=chosen,
            mtime=self.clock.unix(),
        )
        return self._text(out.getvalue())

    def export_all(self, request: Request, client: str) -> Response:
        if self.settings.dialect != "cloudtse":
            raise _Refused(404)
        out = io.BytesIO()
        self.engine.export(Selection(), out, nullcontext)
        return self._text(out.getvalue())

    def acknowledge(self, request: Request, client: str) -> Response:
        self._only_fcc()
        _, last = self._range(request)
        if request.body != b"ACK":
            raise _Refused(400, "INVALID_PARAMETER", "the body must be ACK")
        if last > self.clock.unix() - ACK_DELAY_S:
            raise _Refused(500, "INTERNAL", "the range is too young")
        self.acknowledged.append((request.query["startDate"], request.query["endDate"]))
        return Response(200)

    def health(self, request: Request, client: str) -> Response:
        return Response.json({"status": "UP"}) if self.healthy else Response.json({"status": "DOWN"}, 503)

    def metrics(self, request: Request, client: str) -> Response:
        return Response.json({"name": "http.server.requests", "measurements": []})


def _iso(ticks: int) -> str:
    seconds = (ticks - UNIX_EPOCH_TICKS) // 10_000_000
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _routes() -> list[tuple[str, re.Pattern[str], str, Callable[..., Response]]]:
    app = FccApp
    table: list[tuple[str, str, str, Callable[..., Response]]] = [
        ("POST", "/oauth/token", "basic", app.token),
        ("POST", "/transaction", "bearer", app.start),
        ("POST", r"/transaction/(\d+)", "bearer", app.update),
        ("PUT|PATCH", r"/transaction/(\d+)", "bearer", app.finish),
        ("GET", "/transactions", "bearer", app.transactions),
        ("GET", "/clients", "admin", app.clients),
        ("POST", "/registration", "admin", app.registration),
        ("POST", "/deregistration", "admin", app.deregistration),
        ("GET", "/info", "admin", app.info),
        ("GET", "/selfcheck", "admin_restricted", app.selfcheck),
        ("GET", "/tssdetails", "admin_restricted", app.tssdetails),
        ("GET", "/export/transactions/time", "admin_restricted", app.export_times),
        ("POST", "/export/transactions/time", "admin_restricted", app.acknowledge),
        ("GET", r"/export/transactions/(\d+)", "admin_restricted", app.export_one),
        ("GET", "/export/transactions", "admin_restricted", app.export_all),
        ("GET", "/actuator/health", "actuator", app.health),
        ("GET", "/actuator/metrics/http.server.requests", "actuator", app.metrics),
    ]
    return [(method, re.compile(path), identity, handler) for method, path, identity, handler in table]


_ROUTES: Final = _routes()
