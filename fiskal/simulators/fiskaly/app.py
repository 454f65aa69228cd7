"""The service: authentication, TSS, clients, transactions and exports of SIGN DE v2.

Checked in the order of the vendor's own answers as far as they are known: token, organisation, TSS, state, admin, body.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import io
import logging
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS, to_unix
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Op, Selection, Signed
from fiskal.scu.errors import ScuError
from fiskal.scu.service_time import LogNormal, ServiceTime
from fiskal.scu.software import SoftwareTse
from fiskal.simulators.fiskaly.settings import Account, ReadyTss, Settings
from fiskal.simulators.http import App, Request, Response, SimClock
from fiskal.tse.logmessage import build_file_name, parse
from fiskal.tse.tar import write_archive

BASE: Final = "/api/v2"
VERSION: Final = "2.1.35"
PIN_TRIES: Final = 5
MAX_METADATA_KEYS: Final = 40
MAX_METADATA_VALUE: Final = 500
MAX_RUNNING_EXPORTS: Final = 10
_SERIAL: Final = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]{1,70}")
_UUID4: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_ERRORS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Payload Too Large",
    423: "Locked",
    429: "Too Many Requests",
    432: "Use Middleware",
    503: "Service Unavailable",
}
_DEAD: Final = {"DEFECTIVE": "E_TSS_DEFECTIVE", "DELETED": "E_TSS_DELETED", "EVICTED": "E_TSS_EVICTED"}
_OPERATIONS: Final = {"ACTIVE": "Update", "FINISHED": "Finish", "CANCELLED": "Finish"}
_RECEIPT_TYPES: Final = {
    "RECEIPT": "Beleg",
    "TRAINING": "AVTraining",
    "TRANSFER": "AVTransfer",
    "ORDER": "AVBestellung",
    "CANCELLATION": "AVBelegabbruch",
    "ABORT": "AVBelegabbruch",
    "BENEFIT_IN_KIND": "AVSachbezug",
    "INVOICE": "AVRechnung",
    "OTHER": "AVSonstige",
    "ANNULATION": "AVBelegstorno",
}
_VAT_RATES: Final = ("NORMAL", "REDUCED_1", "SPECIAL_RATE_1", "SPECIAL_RATE_2", "NULL")

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that refuses."""

    def __init__(
        self, status: int, code: str | None, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def response(self) -> Response:
        body: dict[str, Any] = {
            "status_code": self.status,
            "error": _ERRORS.get(self.status, "Error"),
            "message": self.message,
        }
        if self.code is not None:
            body["code"] = self.code
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return Response.json(body, self.status, headers)


def bad(message: str) -> ApiError:
    return ApiError(400, "E_FAILED_SCHEMA_VALIDATION", message)


class _Token:
    def __init__(self, account: Account, expires_at: int) -> None:
        self.account = account
        self.expires_at = expires_at
        self.admin_of: set[str] = set()


class _Client:
    def __init__(self, uuid: str, serial: str, moment: int) -> None:
        self.uuid = uuid
        self.serial = serial
        self.state = "REGISTERED"
        self.created = self.updated = moment
        self.metadata: dict[str, Any] = {}


class _Transaction:
    def __init__(self, uuid: str, number: int, client: _Client, moment: int) -> None:
        self.uuid = uuid
        self.number = number
        self.client = client
        self.state = "ACTIVE"
        self.started = moment
        self.process_type = ""
        self.metadata: dict[str, Any] = {}
        self.revisions: list[tuple[bytes, dict[str, Any]]] = []
        """The hash of each request's body and what was answered."""


class _Export:
    def __init__(self, uuid: str, query: dict[str, str], moment: int) -> None:
        self.uuid = uuid
        self.query = query
        self.state = "PENDING"
        self.exception: str | None = None
        self.requested = moment
        self.finished: int | None = None
        self.polls_left = 0
        self.polled: deque[int] = deque()
        self.metadata: dict[str, Any] = {}
        self.file = b""


class _Tss:
    def __init__(self, uuid: str, account: Account, engine: SoftwareTse, puk: str, moment: int) -> None:
        self.uuid = uuid
        self.organization = account.organization_id
        self.env = account.env
        self.engine = engine
        self.puk = puk
        self.pin = ""
        self.pin_failures = PIN_TRIES
        self.state = "CREATED"
        self.description = f"fiskaly sign cloud-TSE ({uuid})"
        self.times = {"time_creation": moment}
        self.metadata: dict[str, Any] = {}
        self.clients: dict[str, _Client] = {}
        self.transactions: dict[str, _Transaction] = {}
        self.numbers: dict[int, _Transaction] = {}
        self.exports: dict[str, _Export] = {}
        self.busy = False

    @property
    def active(self) -> list[_Transaction]:
        return [self.numbers[number] for number in self.engine.open_transactions]


class FiskalyApp(App):
    family = "fiskaly"
    commands: ClassVar[Mapping[str, ServiceTime]] = {
        "auth": LogNormal(mean_ms=150, cv=0.3, max_ms=2000),
        "tx": LogNormal(mean_ms=150, cv=0.5, max_ms=5000),
        "read": LogNormal(mean_ms=80, cv=0.5, max_ms=2000),
        "admin": LogNormal(mean_ms=300, cv=0.5, max_ms=5000),
        "client": LogNormal(mean_ms=500, cv=0.5, max_ms=5000),
        "tss": LogNormal(mean_ms=5000, cv=0.5, max_ms=60_000),
        "export": LogNormal(mean_ms=150, cv=0.3, max_ms=2000),
        "file": LogNormal(mean_ms=500, cv=0.3, max_ms=5000),
        "other": 10,
    }

    def __init__(self, settings: Settings, clock: SimClock | None = None) -> None:
        super().__init__(clock or SimClock())
        self.settings = settings
        self.counter_as = settings.counter_as
        self._temporary = tempfile.mkdtemp(prefix="fiskal-sim-") if settings.folder is None else None
        self._folder = Path(self._temporary or str(settings.folder))
        self._tss: dict[str, _Tss] = {}
        self.reset(settings.plan.seed)

    # ---- what the server needs ------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        self._end()
        self._random = Random(seed)
        self._tokens: dict[str, _Token] = {}
        self._refresh: dict[str, _Token] = {}
        self._created: deque[int] = deque()
        self.revoked: set[str] = set()
        """API keys whose contract has ended."""
        self.signatures = 0
        for ready in self.settings.tss:
            self.provision(ready)

    def _end(self) -> None:
        for tss in self._tss.values():
            tss.engine.close()
            shutil.rmtree(tss.engine.directory, ignore_errors=True)
        self._tss = {}

    def close(self) -> None:
        with self.lock:
            for tss in self._tss.values():
                tss.engine.close()
            self._tss = {}
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def provision(self, ready: ReadyTss) -> None:
        """Put a TSS there that is INITIALIZED and has clients."""
        account = next(
            (each for each in self.settings.accounts if each.organization_id == ready.organization_id),
            Account(),
        )
        tss = self._new_tss(ready.tss_id, account)
        tss.puk, tss.pin, tss.pin_failures = ready.admin_puk, ready.admin_pin, 0
        tss.state = "INITIALIZED"
        moment = self.clock.unix()
        tss.times |= {"time_uninit": moment, "time_init": moment}
        tss.engine.set_state(TseStates.INITIALIZED, None)
        for serial in ready.clients:
            tss.engine.register(serial, None)
            client = _Client(self._uuid(), serial, moment)
            tss.clients[client.uuid] = client

    def state(self) -> dict[str, Any]:
        return {
            "tss": {
                tss.uuid: {
                    "state": tss.state,
                    "serial_number": tss.engine.chain.serial.hex(),
                    "signature_counter": tss.engine.counter,
                    "transaction_counter": tss.engine.transaction_counter,
                    "open": sorted(tss.engine.open_transactions),
                    "clients": {c.serial: c.state for c in tss.clients.values()},
                    "metadata": tss.metadata,
                    "exports": {e.uuid: e.state for e in tss.exports.values()},
                }
                for tss in self._tss.values()
            },
            "signatures": self.signatures,
            "counter_as": self.counter_as,
        }

    def force(self, change: dict[str, Any]) -> None:
        for tss_id, members in change.get("tss", {}).items():
            tss = self._tss[tss_id]
            for name, value in members.items():
                if name not in ("state", "metadata", "pin_failures"):
                    raise ValueError(f"{name!r} of a TSS cannot be forced")
                setattr(tss, name, value)
        if "counter_as" in change:
            self.counter_as = change["counter_as"]
        if "revoked" in change:
            self.revoked = set(change["revoked"])
        if change.get("expire_tokens"):
            self._tokens.clear()

    def engine(self, tss_id: str) -> SoftwareTse:
        """The signing engine of a TSS, for tests that compare."""
        return self._tss[tss_id].engine

    def command(self, request: Request) -> str:
        path = request.path.removeprefix(BASE)
        if path == "/auth":
            return "auth"
        if re.fullmatch(r"/tss/[^/]+/tx/[^/]+", path):
            return "tx" if request.method == "PUT" else "read"
        if "/export" in path:
            return "file" if path.endswith("/file") else "export"
        if "/admin" in path:
            return "admin"
        if request.method == "GET":
            return "read"
        if "/client/" in path:
            return "client"
        return "tss" if re.fullmatch(r"/tss/[^/]+", path) else "other"

    @contextlib.contextmanager
    def _one_at_a_time(self, tss: _Tss) -> Iterator[Response | None]:
        with self.lock:
            taken = not tss.busy
            tss.busy = True
        try:
            yield (
                None
                if taken
                else ApiError(
                    409, "E_MIDDLEWARE_PENDING_REQUEST", "another request for this TSS is pending"
                ).response()
            )
        finally:
            if taken:
                tss.busy = False

    def occupied(self, request: Request) -> AbstractContextManager[Response | None]:
        match = re.match(rf"{BASE}/tss/([^/]+)/tx/", request.path)
        tss = self._tss.get(match[1].lower()) if match else None
        if self.settings.one_at_a_time and tss is not None and request.method == "PUT":
            return self._one_at_a_time(tss)
        return contextlib.nullcontext(None)

    # ---- routing --------------------------------------------------------------------------------

    def handle(self, request: Request) -> Response:
        try:
            for method, pattern, handler in _ROUTES:
                match = pattern.fullmatch(request.path)
                if match and method == request.method:
                    return handler(self, request, *(part.lower() for part in match.groups()))
            raise ApiError(404, None, f"Route {request.method}:{request.path} not found")
        except ApiError as error:
            return error.response()

    @staticmethod
    def _body(request: Request) -> dict[str, Any]:
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise ApiError(415, "FST_ERR_CTP_INVALID_MEDIA_TYPE", "Unsupported Media Type")
        try:
            return request.json()
        except ValueError as error:
            raise bad(f"body: {error}") from error

    def _authorize(self, request: Request) -> _Token:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        token = self._tokens.get(value)
        if scheme != "Bearer" or token is None or token.expires_at <= self.clock.unix():
            raise ApiError(401, "E_UNAUTHORIZED", "the access token is invalid or has expired")
        return token

    def _enter(self, request: Request, tss_id: str, *, alive: bool = True) -> tuple[_Token, _Tss]:
        """The token of a request and the TSS it is for."""
        token = self._authorize(request)
        tss = self._tss.get(tss_id)
        if tss is None:
            raise ApiError(404, "E_TSS_NOT_FOUND", f"TSS {tss_id} not found")
        if tss.organization != token.account.organization_id:
            raise ApiError(403, "E_ACCESS_DENIED", "the TSS belongs to another organization")
        if alive and tss.state in _DEAD:
            raise ApiError(423, _DEAD[tss.state], f"the TSS is {tss.state}")
        return token, tss

    def _as_admin(self, request: Request, tss_id: str) -> tuple[_Token, _Tss]:
        token, tss = self._enter(request, tss_id)
        if tss_id not in token.admin_of:
            raise ApiError(401, "E_UNAUTHORIZED", "admin authentication is required")
        return token, tss

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    # ---- authentication -------------------------------------------------------------------------

    def auth(self, request: Request) -> Response:
        body = self._body(request)
        account: Account | None
        if "refresh_token" in body:
            refresh = self._refresh.get(str(body["refresh_token"]))
            account = refresh.account if refresh and refresh.expires_at > self.clock.unix() else None
        else:
            account = next(
                (
                    each
                    for each in self.settings.accounts
                    if each.api_key == body.get("api_key") and each.api_secret == body.get("api_secret")
                ),
                None,
            )
        if account is None or account.api_key in self.revoked:
            raise ApiError(401, "E_UNAUTHORIZED", "API key, secret or refresh token is invalid")
        now = self.clock.unix()
        settings = self.settings
        access, refresh_token = (f"sim.{self._random.getrandbits(256):064x}" for _ in range(2))
        self._tokens[access] = _Token(account, now + settings.access_token_s)
        self._refresh[refresh_token] = _Token(account, now + settings.refresh_token_s)
        return Response.json(
            {
                "access_token": access,
                "access_token_claims": {"env": account.env, "organization_id": account.organization_id},
                "access_token_expires_in": settings.access_token_s,
                "access_token_expires_at": now + settings.access_token_s,
                "refresh_token": refresh_token,
                "refresh_token_expires_in": settings.refresh_token_s,
                "refresh_token_expires_at": now + settings.refresh_token_s,
            }
        )

    # ---- TSS ------------------------------------------------------------------------------------

    def _new_tss(self, tss_id: str, account: Account) -> _Tss:
        engine = SoftwareTse(
            self._folder / tss_id,
            clock=self.clock,
            max_clients=100_000,  # the limits are kept here
            max_open_transactions=1_000_000,
        )
        puk = f"{self._random.randrange(10**10):010d}"
        tss = self._tss[tss_id] = _Tss(tss_id, account, engine, puk, self.clock.unix())
        return tss

    def _shown(self, tss: _Tss) -> dict[str, Any]:
        engine = tss.engine
        value = {
            "_id": tss.uuid,
            "_type": "TSS",
            "_env": tss.env,
            "_version": VERSION,
            "state": tss.state,
            "description": tss.description,
            "certificate": base64.b64encode(engine.chain.der[0]).decode(),
            "serial_number": engine.chain.serial.hex(),
            "public_key": base64.b64encode(engine.chain.point).decode(),
            "bsi_certification_id": self.settings.certification_id,
            "signature_algorithm": "ecdsa-plain-SHA256",
            "signature_timestamp_format": "unixTime",
            "transaction_data_encoding": "UTF-8",
            "supported_update_variants": "SIGNED",
            "metadata": tss.metadata,
            **tss.times,
        }
        if tss.state == "CREATED":
            return {**value, "admin_puk": tss.puk}
        return {
            **value,
            "signature_counter": str(engine.counter),
            "transaction_counter": str(engine.transaction_counter),
            "number_registered_clients": sum(c.state == "REGISTERED" for c in tss.clients.values()),
            "max_number_registered_clients": self.settings.max_clients,
            "number_active_transactions": len(engine.open_transactions),
            "max_number_active_transactions": self.settings.max_active_transactions,
        }

    def put_tss(self, request: Request, tss_id: str) -> Response:
        token = self._authorize(request)
        body = self._body(request)
        if not _UUID4.fullmatch(tss_id):
            raise bad("tss_id must be a UUIDv4")
        tss = self._tss.get(tss_id)
        if tss is not None:
            if tss.organization != token.account.organization_id or tss.state != "CREATED":
                raise ApiError(409, "E_TSS_CONFLICT", "the TSS exists already")
            return Response.json(self._shown(tss))
        account = token.account
        now = self.clock.unix()
        while self._created and self._created[0] <= now - 86_400:
            self._created.popleft()
        alive = sum(
            each.organization == account.organization_id and each.state not in (*_DEAD, "DISABLED")
            for each in self._tss.values()
        )
        if account.env == "TEST" and alive >= self.settings.max_test_tss:
            raise ApiError(403, "E_TSS_LIMIT_REACHED", f"{alive} active TSS in the TEST environment")
        if len(self._created) >= self.settings.max_tss_per_day:
            raise ApiError(403, "E_TSS_LIMIT_PER_DAY_REACHED", "too many TSS today")
        self._created.append(now)
        tss = self._new_tss(tss_id, account)
        self._merge(tss.metadata, body.get("metadata", {}))
        return Response.json(self._shown(tss))

    def get_tss(self, request: Request, tss_id: str) -> Response:
        return Response.json(self._shown(self._enter(request, tss_id, alive=False)[1]))

    def list_tss(self, request: Request) -> Response:
        token = self._authorize(request)
        mine = [t for t in self._tss.values() if t.organization == token.account.organization_id]
        states = _states(request)
        shown = [self._shown(t) for t in mine if not states or t.state in states]
        for each in shown:
            each.pop("admin_puk", None)
        return self._listed(request, shown, "TSS_LIST", token.account.env)

    def patch_tss(self, request: Request, tss_id: str) -> Response:
        token, tss = self._enter(request, tss_id)
        body = self._body(request)
        target = body.get("state")
        if target not in ("UNINITIALIZED", "INITIALIZED", "DISABLED"):
            raise bad("state must be UNINITIALIZED, INITIALIZED or DISABLED")
        allowed = {
            ("CREATED", "UNINITIALIZED"),
            ("UNINITIALIZED", "INITIALIZED"),
            ("UNINITIALIZED", "DISABLED"),
            ("INITIALIZED", "DISABLED"),
        }
        if target != "UNINITIALIZED" and tss_id not in token.admin_of:
            raise ApiError(401, "E_UNAUTHORIZED", "admin authentication is required")
        if target == tss.state:
            return Response.json(self._shown(tss))
        if (tss.state, target) not in allowed:
            raise ApiError(400, "E_ILLEGAL_TSS_STATE_CHANGE", f"{tss.state} -> {target} is not possible")
        moment = self.clock.unix()
        if target == "UNINITIALIZED":
            tss.times["time_uninit"] = moment
        elif target == "INITIALIZED":
            tss.engine.set_state(TseStates.INITIALIZED, None)
            tss.description = str(body.get("description", tss.description))
            tss.times["time_init"] = moment
        else:
            if tss.state == "INITIALIZED":
                tss.engine.set_state(TseStates.TERMINATED, None)
            tss.times["time_disable"] = moment
        tss.state = target
        return Response.json(self._shown(tss))

    def patch_admin(self, request: Request, tss_id: str) -> Response:
        _, tss = self._enter(request, tss_id)
        body = self._body(request)
        pin = str(body.get("new_admin_pin", ""))
        if len(pin) < 6:
            raise bad("new_admin_pin must have 6 characters")
        if body.get("admin_puk") != tss.puk:
            raise ApiError(400, "E_CHANGE_ADMIN_PIN_FAILED", "the PUK is wrong")
        tss.pin, tss.pin_failures = pin, 0
        return Response.json({})

    def admin_auth(self, request: Request, tss_id: str) -> Response:
        token, tss = self._enter(request, tss_id)
        if tss.pin_failures >= PIN_TRIES:
            raise ApiError(423, "E_ADMIN_PIN_BLOCKED", "the admin PIN is blocked")
        if not tss.pin or self._body(request).get("admin_pin") != tss.pin:
            tss.pin_failures += 1
            raise ApiError(401, "E_ADMIN_LOGIN_FAILED", "the admin PIN is wrong")
        tss.pin_failures = 0
        token.admin_of.add(tss_id)
        return Response.json({})

    def admin_logout(self, request: Request, tss_id: str) -> Response:
        token, _ = self._enter(request, tss_id, alive=False)
        token.admin_of.discard(tss_id)
        return Response.json({})

    # ---- metadata -------------------------------------------------------------------------------

    def _merge(self, metadata: dict[str, Any], change: Any) -> None:
        if not isinstance(change, dict):
            raise bad("metadata must be an object")
        for key, value in change.items():
            if len(key) > MAX_METADATA_VALUE // 10 or (
                self.settings.strict_metadata and value is not None and not isinstance(value, str)
            ):
                raise bad(f"metadata.{key} must be a string")
            if isinstance(value, str) and len(value) > MAX_METADATA_VALUE:
                raise bad(f"metadata.{key} is too long")
        merged = {key: value for key, value in {**metadata, **change}.items() if value not in (None, "")}
        if len(merged) > MAX_METADATA_KEYS:
            raise bad(f"metadata has more than {MAX_METADATA_KEYS} keys")
        metadata.clear()
        metadata.update(merged)

    def metadata(self, request: Request, tss_id: str, kind: str = "", uuid: str = "") -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        held: dict[str, Any]
        if not kind:
            held = tss.metadata
        elif kind == "client":
            held = self._client(tss, uuid).metadata
        elif kind == "tx":
            held = self._transaction(tss, uuid).metadata
        else:
            held = self._export(tss, uuid).metadata
        if request.method == "PATCH":
            self._merge(held, self._body(request))
        return Response.json(held)

    # ---- clients --------------------------------------------------------------------------------

    @staticmethod
    def _client(tss: _Tss, uuid: str) -> _Client:
        if uuid not in tss.clients:
            raise ApiError(404, "E_CLIENT_NOT_FOUND", f"client {uuid} not found")
        return tss.clients[uuid]

    def _shown_client(self, tss: _Tss, client: _Client) -> dict[str, Any]:
        return {
            "_id": client.uuid,
            "_type": "CLIENT",
            "_env": tss.env,
            "_version": VERSION,
            "tss_id": tss.uuid,
            "serial_number": client.serial,
            "state": client.state,
            "time_creation": client.created,
            "time_update": client.updated,
            "metadata": client.metadata,
        }

    def put_client(self, request: Request, tss_id: str, uuid: str) -> Response:
        _, tss = self._as_admin(request, tss_id)
        body = self._body(request)
        serial = body.get("serial_number")
        if not _UUID4.fullmatch(uuid):
            raise bad("client_id must be a UUIDv4")
        if not isinstance(serial, str) or not _SERIAL.fullmatch(serial):
            raise ApiError(400, "E_ILLEGAL_CLIENT_SERIAL", "serial_number is invalid")
        if tss.state != "INITIALIZED":
            raise ApiError(400, "E_TSS_NOT_INITIALIZED", f"the TSS is {tss.state}")
        known = tss.clients.get(uuid)
        if known is not None and known.serial == serial:
            return Response.json(self._shown_client(tss, known))
        if known is not None or any(uuid in other.clients for other in self._tss.values()):
            raise ApiError(409, "E_CLIENT_CONFLICT", "the client id is used already")
        if any(client.serial == serial for client in tss.clients.values()):
            raise ApiError(400, "E_ILLEGAL_CLIENT_SERIAL", "serial_number is not unique in the TSS")
        if sum(c.state == "REGISTERED" for c in tss.clients.values()) >= self.settings.max_clients:
            raise ApiError(403, "E_CLIENT_LIMIT_REACHED", "too many clients")
        try:
            tss.engine.register(serial, None)
        except ScuError as error:  # a serial number that no file name can hold
            raise ApiError(400, "E_ILLEGAL_CLIENT_SERIAL", error.message) from error
        client = tss.clients[uuid] = _Client(uuid, serial, self.clock.unix())
        self._merge(client.metadata, body.get("metadata", {}))
        return Response.json(self._shown_client(tss, client))

    def patch_client(self, request: Request, tss_id: str, uuid: str) -> Response:
        _, tss = self._as_admin(request, tss_id)
        client = self._client(tss, uuid)
        target = self._body(request).get("state")
        if target not in ("REGISTERED", "DEREGISTERED"):
            raise bad("state must be REGISTERED or DEREGISTERED")
        if target != client.state:
            try:
                if target == "REGISTERED":
                    tss.engine.register(client.serial, None)
                else:
                    tss.engine.unregister(client.serial, None)
            except ScuError as error:
                raise ApiError(400, "E_FAILED_SCHEMA_VALIDATION", error.message) from error
            client.state, client.updated = target, self.clock.unix()
        return Response.json(self._shown_client(tss, client))

    def get_client(self, request: Request, tss_id: str, uuid: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        return Response.json(self._shown_client(tss, self._client(tss, uuid)))

    def list_clients(self, request: Request, tss_id: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        query = request.query
        chosen = [
            self._shown_client(tss, client)
            for client in tss.clients.values()
            if query.get("state", client.state) == client.state
            and query.get("serial_number", client.serial) == client.serial
        ]
        return self._listed(request, chosen, "CLIENT_LIST", tss.env)

    def _listed(self, request: Request, chosen: list[dict[str, Any]], kind: str, env: str) -> Response:
        try:
            limit, offset = int(request.query.get("limit", 100)), int(request.query.get("offset", 0))
        except ValueError as error:
            raise bad("limit and offset are numbers") from error
        if not (1 <= limit <= 100 and offset >= 0):
            raise bad("limit must be 1 to 100")
        return Response.json(
            {
                "data": chosen[offset : offset + limit],
                "count": len(chosen),
                "_type": kind,
                "_env": env,
                "_version": VERSION,
            }
        )

    # ---- transactions ---------------------------------------------------------------------------

    @staticmethod
    def _transaction(tss: _Tss, key: str) -> _Transaction:
        found = tss.numbers.get(int(key)) if key.isdigit() else tss.transactions.get(key)
        if found is None:
            raise ApiError(404, "E_TX_NOT_FOUND", f"transaction {key} not found")
        return found

    def get_tx(self, request: Request, tss_id: str, key: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        tx = self._transaction(tss, key)
        revision = len(tx.revisions)
        if "tx_revision" in request.query:
            text = request.query["tx_revision"]
            if not text.isdigit() or not 1 <= int(text) <= revision:
                raise ApiError(400, "E_TX_REVISION_NOT_FOUND", f"revision {text} not found")
            revision = int(text)
        return Response.json({**tx.revisions[revision - 1][1], "latest_revision": len(tx.revisions)})

    def list_tx(self, request: Request, tss_id: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        states = _states(request)
        if states == {"ACTIVE"}:  # what is asked for most, and the rest may be many
            chosen = tss.active
        else:
            chosen = [tx for tx in tss.transactions.values() if not states or tx.state in states]
        shown = [{**tx.revisions[-1][1], "latest_revision": len(tx.revisions)} for tx in chosen]
        return self._listed(request, shown, "TRANSACTION_LIST", tss.env)

    def put_tx(self, request: Request, tss_id: str, key: str) -> Response:
        _, tss = self._enter(request, tss_id)
        body = self._body(request)
        if tss.state != "INITIALIZED":
            code = "E_TSS_DISABLED" if tss.state == "DISABLED" else "E_TSS_NOT_INITIALIZED"
            raise ApiError(400, code, f"the TSS is {tss.state}")
        text = request.query.get("tx_revision", "")
        state = body.get("state")
        if not text.isdigit() or int(text) < 1:
            raise bad("tx_revision is required")
        if state not in _OPERATIONS:
            raise bad("state must be ACTIVE, FINISHED or CANCELLED")
        revision = int(text)
        client = tss.clients.get(str(body.get("client_id", "")).lower())
        if client is None:
            raise ApiError(400, "E_CLIENT_NOT_FOUND", "the client does not exist")
        digest = hashlib.sha256(msgspec.json.encode(body, order="sorted")).digest()
        tx: _Transaction | None
        if key.isdigit():
            tx = self._transaction(tss, key)
        else:
            if not _UUID4.fullmatch(key):
                raise bad("tx_id must be a UUIDv4 or a number")
            tx = tss.transactions.get(key)
        if tx is not None and revision <= len(tx.revisions):
            known, answer = tx.revisions[revision - 1]
            if known != digest:
                raise ApiError(
                    400, "E_TX_UPSERT", f"revision {revision} exists with another body ({tx.state})"
                )
            return Response.json({**answer, "latest_revision": len(tx.revisions)})
        if client.state != "REGISTERED":
            raise ApiError(400, "E_CLIENT_DEREGISTERED", "the client is not registered")
        if tx is not None and tx.state != "ACTIVE":
            raise ApiError(400, "E_TX_UPSERT", f"the transaction is {tx.state}")
        if revision != (1 if tx is None else len(tx.revisions) + 1):
            raise ApiError(400, "E_TX_UPSERT", f"revision {revision} does not follow the latest one")
        process_type, process_data, schema = _schema(body.get("schema"))
        if tx is None:
            return self._start(tss, key, client, state, (process_type, process_data, schema), digest, body)
        if not process_type:
            raise ApiError(409, "E_TX_NO_TYPE_DEFINED", "a process type is required")
        if tx.process_type and tx.process_type != process_type:
            raise ApiError(409, "E_TX_ILLEGAL_TYPE_CHANGE", f"the process type is {tx.process_type}")
        op: Op = "update" if state == "ACTIVE" else "finish"
        return self._sign(tss, tx, op, client, state, (process_type, process_data, schema), digest, body)

    def _start(
        self,
        tss: _Tss,
        key: str,
        client: _Client,
        state: str,
        content: tuple[str, bytes, dict[str, Any] | None],
        digest: bytes,
        body: dict[str, Any],
    ) -> Response:
        if state != "ACTIVE":
            raise ApiError(400, "E_TX_UPSERT", "a transaction begins ACTIVE")
        if len(tss.engine.open_transactions) >= self.settings.max_active_transactions:
            raise ApiError(400, "E_TX_LIMIT_REACHED", "too many active transactions")
        tx = _Transaction(key, 0, client, 0)
        return self._sign(tss, tx, "start", client, state, content, digest, body)

    def _sign(
        self,
        tss: _Tss,
        tx: _Transaction,
        op: Op,
        client: _Client,
        state: str,
        content: tuple[str, bytes, dict[str, Any] | None],
        digest: bytes,
        body: dict[str, Any],
    ) -> Response:
        process_type, process_data, schema = content
        call = Call(op, client.serial, tx.number, process_type, process_data, "")
        try:
            signed = getattr(tss.engine, op)(call, None)
        except ScuError as error:
            raise bad(error.message) from error
        self.signatures += 1
        self._merge(tx.metadata, body.get("metadata", {}))
        if op == "start":
            tx.number, tx.started = signed.transaction_number, to_unix(signed.time_stamp)
            tss.transactions[tx.uuid] = tss.numbers[tx.number] = tx
        tx.state = state
        tx.process_type = tx.process_type or process_type
        answer = self._shown_tx(tss, tx, op, client, signed, schema)
        tx.revisions.append((digest, answer))
        return Response.json(answer)

    def _shown_tx(
        self,
        tss: _Tss,
        tx: _Transaction,
        op: str,
        client: _Client,
        signed: Signed,
        schema: dict[str, Any] | None,
    ) -> dict[str, Any]:
        revision = len(tx.revisions) + 1
        moment = to_unix(signed.time_stamp)
        counter: int | str = signed.signature_counter
        signature = base64.b64encode(signed.signature).decode()
        point = base64.b64encode(tss.engine.chain.point).decode()
        value: dict[str, Any] = {
            "_id": tx.uuid,
            "_type": "TRANSACTION",
            "_env": tss.env,
            "_version": VERSION,
            "number": tx.number,
            "state": tx.state,
            "revision": revision,
            "latest_revision": revision,
            "tss_id": tss.uuid,
            "tss_serial_number": tss.engine.chain.serial.hex(),
            "client_id": client.uuid,
            "client_serial_number": client.serial,
            "time_start": tx.started,
            "log": {"operation": op.capitalize(), "timestamp": moment, "timestamp_format": "unixTime"},
            "signature": {
                "value": signature,
                "algorithm": "ecdsa-plain-SHA256",
                "counter": str(counter) if self.counter_as == "string" else counter,
                "public_key": point,
            },
            "metadata": dict(tx.metadata),
        }
        if schema is not None:
            value["schema"] = schema
        if op == "finish":
            raw = (schema or {})["raw"]
            data = base64.b64decode(raw["process_data"]).decode("utf-8", "replace")
            value["time_end"] = moment
            value["qr_code_data"] = (
                f"V0;{client.serial};{raw['process_type']};{data};{tx.number};{signed.signature_counter};"
                f"{_iso(tx.started)};{_iso(moment)};ecdsa-plain-SHA256;unixTime;{signature};{point}"
            )
        return value

    # ---- exports --------------------------------------------------------------------------------

    @staticmethod
    def _export(tss: _Tss, uuid: str) -> _Export:
        if uuid not in tss.exports:
            raise ApiError(404, "E_EXPORT_NOT_FOUND", f"export {uuid} not found")
        return tss.exports[uuid]

    @staticmethod
    def _shown_export(tss: _Tss, export: _Export) -> dict[str, Any]:
        value: dict[str, Any] = {
            "_id": export.uuid,
            "_type": "EXPORT",
            "_env": tss.env,
            "_version": VERSION,
            "tss_id": tss.uuid,
            "state": export.state,
            "time_request": export.requested,
            "estimated_time_of_completion": export.requested + 10,
            "metadata": export.metadata,
        }
        if export.finished is not None:
            value |= {"time_start": export.requested, "time_end": export.finished}
            value["time_expiration"] = export.finished + 86_400
        if export.exception is not None:
            value["exception"] = export.exception
        return value

    def put_export(self, request: Request, tss_id: str, uuid: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        if tss.state not in ("INITIALIZED", "DISABLED", "DEFECTIVE"):
            raise ApiError(409, "E_TSS_ILLEGAL_STATE_TO_PERFORM_EXPORT", f"the TSS is {tss.state}")
        if uuid in tss.exports:
            raise ApiError(400, "E_DUPLICATE_EXPORT", "the export exists already")
        running = sum(each.state in ("PENDING", "WORKING") for each in tss.exports.values())
        if running >= MAX_RUNNING_EXPORTS:
            raise ApiError(409, "E_TOO_MANY_EXPORTS", f"{running} exports are running")
        _filter(request.query)
        if "client_id" in request.query:
            client = self._client(tss, request.query["client_id"].lower())
            request.query["client_id"] = client.serial
        export = tss.exports[uuid] = _Export(uuid, request.query, self.clock.unix())
        export.polls_left = self.settings.export_polls
        return Response.json(self._shown_export(tss, export))

    def _limit_polls(self, export: _Export) -> None:
        now = self.clock.unix()
        while export.polled and export.polled[0] <= now - 60:
            export.polled.popleft()
        if len(export.polled) >= self.settings.polls_per_minute:
            raise ApiError(429, None, "too many requests", retry_after=max(1, 60 - (now - export.polled[0])))
        export.polled.append(now)

    def get_export(self, request: Request, tss_id: str, uuid: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        export = self._export(tss, uuid)
        self._limit_polls(export)
        if export.state in ("PENDING", "WORKING"):
            if export.polls_left > 0:
                export.polls_left -= 1
                export.state = "WORKING"
            else:
                self._complete(tss, export)
        return Response.json(self._shown_export(tss, export))

    def get_file(self, request: Request, tss_id: str, uuid: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        export = self._export(tss, uuid)
        self._limit_polls(export)
        if export.state != "COMPLETED":
            raise ApiError(404, "E_EXPORT_NOT_COMPLETED", f"the export is {export.state}", retry_after=60)
        return Response(200, export.file, {"Content-Type": "application/x-tar"})

    def delete_export(self, request: Request, tss_id: str, uuid: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        export = self._export(tss, uuid)
        if export.state not in ("PENDING", "WORKING"):
            raise ApiError(400, "E_CANCEL_EXPORT", f"the export is {export.state}")
        export.state = "CANCELLED"
        return Response.json(self._shown_export(tss, export))

    def list_exports(self, request: Request, tss_id: str) -> Response:
        _, tss = self._enter(request, tss_id, alive=False)
        states = _states(request)
        chosen = [self._shown_export(tss, e) for e in tss.exports.values() if not states or e.state in states]
        return self._listed(request, chosen, "EXPORT_LIST", tss.env)

    def _complete(self, tss: _Tss, export: _Export) -> None:
        export.finished = self.clock.unix()
        selection, last_counter, most = _filter(export.query)
        engine = tss.engine
        most = min(most, self.settings.max_records)
        if selection.by_transaction:
            count = engine.count(selection, most + 1)
        else:
            count = sum(
                counter <= last_counter and _in_time(message, selection)
                for counter, message in engine.messages(selection.after_counter + 1)
            )
        if count == 0 or count > most:
            export.state = "ERROR"
            export.exception = "E_TOO_MANY_RECORDS" if count else "E_NO_DATA_AVAILABLE"
            return
        out = io.BytesIO()
        if selection.by_transaction:
            engine.export(selection, out, contextlib.nullcontext)
        else:
            chosen = (
                (build_file_name(parse(message)), message)
                for counter, message in engine.messages(selection.after_counter + 1)
                if counter <= last_counter and _in_time(message, selection)
            )
            write_archive(
                out,
                info=engine.info_csv(),
                chain=engine.chain,
                messages=chosen,
                mtime=self.clock.unix(),
            )
        export.file = out.getvalue()
        export.state = "COMPLETED"


def _iso(unix: int) -> str:
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _in_time(message: bytes, selection: Selection) -> bool:
    if selection.first_time is None and selection.last_time is None:
        return True
    ticks = parse(message).log_time
    return (selection.first_time or 0) <= ticks <= (selection.last_time or 2**63)


def _states(request: Request) -> set[str]:
    return {value for name, value in request.query.items() if re.fullmatch(r"states\[\d*\]", name)}


def _filter(query: dict[str, str]) -> tuple[Selection, int, int]:
    """What an export's query means: the selection, the last counter, the most records."""

    def number(name: str) -> int | None:
        text = query.get(name)
        if text is None:
            return None
        if not text.isdigit():
            raise bad(f"{name} must be a number")
        return int(text)

    most = number("maximum_number_records")
    if most is not None and not 1 <= most <= 1_000_000:
        raise bad("maximum_number_records must be 1 to 1000000")
    limit = most or 1_000_000
    single = number("transaction_number")
    first, last = number("start_transaction_number"), number("end_transaction_number")
    kinds = (
        single is not None,
        first is not None or last is not None,
        "start_date" in query or "end_date" in query,
        "start_signature_counter" in query or "end_signature_counter" in query,
    )
    if "client_id" in query:
        return Selection(client_id=query["client_id"]), 2**63, limit
    if sum(kinds) > 1:
        raise ApiError(400, "E_PARAMETER_MISMATCH", "these parameters do not go together")
    if single is not None:
        return Selection(first_number=single, last_number=single), 2**63, limit
    if first is not None or last is not None:
        if first is not None and last is not None and first > last:
            raise ApiError(400, "E_PARAMETER_MISMATCH", "start is greater than end")
        return Selection(first_number=first, last_number=last), 2**63, limit
    begin, end = number("start_date"), number("end_date")
    return (
        Selection(
            first_time=None if begin is None else UNIX_EPOCH_TICKS + begin * TICKS_PER_SECOND,
            last_time=None if end is None else UNIX_EPOCH_TICKS + end * TICKS_PER_SECOND,
            after_counter=max(0, (number("start_signature_counter") or 1) - 1),
        ),
        number("end_signature_counter") or 2**63,
        limit,
    )


def _schema(schema: Any) -> tuple[str, bytes, dict[str, Any] | None]:
    """Process type and data of a request's ``schema``, and what the answer shows of it."""
    if schema is None:
        return "", b"", None
    if not isinstance(schema, dict) or len(schema) != 1:
        raise bad("schema must have exactly one of raw, standard_v1, dsfinvtw_v1")
    kind, content = next(iter(schema.items()))
    try:
        if kind == "raw":
            data = base64.b64decode(content["process_data"], validate=True)
            process_type = content["process_type"]
            if not isinstance(process_type, str) or not process_type:
                raise bad("process_type must not be empty")
            return process_type, data, {"raw": dict(content)}
        if kind == "standard_v1":
            process_type, text = _standard(content)
            raw = {"process_type": process_type, "process_data": base64.b64encode(text.encode()).decode()}
            return process_type, text.encode(), {"raw": raw, "standard_v1": content}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad(f"schema.{kind}: {error}") from error
    raise bad(f"schema.{kind} is not supported")


def _standard(content: dict[str, Any]) -> tuple[str, str]:
    kind, value = next(iter(content.items()))
    if kind == "receipt":
        per_rate = dict.fromkeys(_VAT_RATES, 0)
        for each in value.get("amounts_per_vat_rate", []):
            per_rate[each["vat_rate"]] += _cents(each["amount"])
        payments = "_".join(
            f"{_euros(_cents(each['amount']))}:{'Bar' if each['payment_type'] == 'CASH' else 'Unbar'}"
            + (f":{each['currency_code']}" if each.get("currency_code", "EUR") != "EUR" else "")
            for each in value.get("amounts_per_payment_type", [])
        )
        taxes = "_".join(_euros(cents) for cents in per_rate.values())
        return "Kassenbeleg-V1", f"{_RECEIPT_TYPES[value['receipt_type']]}^{taxes}^{payments}"
    if kind == "order":
        return "Bestellung-V1", "\r".join(
            f'{item["quantity"]};"{str(item["text"]).replace(chr(34), chr(34) * 2)}";{item["price_per_unit"]}'
            for item in value.get("line_items", [])
        )
    if kind == "other":
        return "SonstigerVorgang", ""
    raise ValueError(f"{kind!r} is not known")


def _cents(amount: str) -> int:
    if not re.fullmatch(r"-?\d+\.\d{2,}", amount):
        raise ValueError(f"{amount!r} is no amount")
    whole, _, part = amount.partition(".")
    cents = int(whole.lstrip("-")) * 100 + int(part[:2])
    return -cents if amount.startswith("-") else cents


def _euros(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


Handler = Callable[..., Response]


def _routes() -> list[tuple[str, re.Pattern[str], Handler]]:
    app = FiskalyApp
    one = r"([^/]+)"
    table: list[tuple[str, str, Handler]] = [
        ("POST", "/auth", app.auth),
        ("GET", "/tss", app.list_tss),
        ("PUT", f"/tss/{one}", app.put_tss),
        ("GET", f"/tss/{one}", app.get_tss),
        ("PATCH", f"/tss/{one}", app.patch_tss),
        ("PATCH", f"/tss/{one}/admin", app.patch_admin),
        ("POST", f"/tss/{one}/admin/auth", app.admin_auth),
        ("POST", f"/tss/{one}/admin/logout", app.admin_logout),
        ("GET", f"/tss/{one}/metadata", app.metadata),
        ("PATCH", f"/tss/{one}/metadata", app.metadata),
        ("GET", f"/tss/{one}/client", app.list_clients),
        ("PUT", f"/tss/{one}/client/{one}", app.put_client),
        ("PATCH", f"/tss/{one}/client/{one}", app.patch_client),
        ("GET", f"/tss/{one}/client/{one}", app.get_client),
        ("GET", f"/tss/{one}/tx", app.list_tx),
        ("PUT", f"/tss/{one}/tx/{one}", app.put_tx),
        ("GET", f"/tss/{one}/tx/{one}", app.get_tx),
        ("GET", f"/tss/{one}/export", app.list_exports),
        ("PUT", f"/tss/{one}/export/{one}", app.put_export),
        ("GET", f"/tss/{one}/export/{one}", app.get_export),
        ("DELETE", f"/tss/{one}/export/{one}", app.delete_export),
        ("GET", f"/tss/{one}/export/{one}/file", app.get_file),
        ("GET", f"/tss/{one}/(client|tx|export)/{one}/metadata", app.metadata),
        ("PATCH", f"/tss/{one}/(client|tx|export)/{one}/metadata", app.metadata),
    ]
    return [(method, re.compile(BASE + path + "/?"), handler) for method, path, handler in table]


_ROUTES: Final = _routes()
