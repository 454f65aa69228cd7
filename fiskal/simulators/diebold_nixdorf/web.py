"""The vendor's web service in front of the device: JSON over WebSocket, and a page for browsers on the same port."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http
import json
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from fiskal.clock import to_unix
from fiskal.scu.driver import Op, Signed
from fiskal.simulators.diebold_nixdorf.device import (
    ADMIN,
    CLIENT_ID_CHARACTERS,
    MAX_CLIENT_ID_CHARACTERS,
    TIME_ADMIN,
    Code,
    Device,
    Login,
    Refused,
)
from fiskal.simulators.diebold_nixdorf.line import Running
from fiskal.simulators.diebold_nixdorf.settings import PRODUCTION_CLIENT
from fiskal.simulators.plan import Fault

try:
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request as HttpRequest
    from websockets.http11 import Response
    from websockets.sync.server import Server, ServerConnection, serve
except ImportError:  # the extra is not installed: said when the service is started
    serve = None  # type: ignore[assignment]

MAX_DATA_CHARACTERS: Final = 16_000
GERMAN_TIME: Final = ZoneInfo("Europe/Berlin")
PAGE: Final = (
    b"<!doctype html><title>TSE</title><p>Simulated Diebold Nixdorf TSE web service. NOT CERTIFIED.</p>\n"
)

_NAMES: Final = {
    1: "JSON_CODE_COMMAND_UNKNOWN",
    2: "JSON_CODE_COMMAND_UNSUPPORTED",
    3: "JSON_CODE_PARAMETER_MISSING",
    4: "JSON_CODE_PARAMETER_INVALID",
    5: "JSON_CODE_COMMAND_CANNOT_BE_PROCESSED",
    8: "JSON_CODE_DEVICE_ERROR",
    9: "JSON_CODE_PARAMETER_INVALID_BASE64",
    10: "JSON_CODE_ERROR_IN_EXPORT_REMOVE_MODE",
    11: "JSON_CODE_ERROR_IN_SELFTEST_MODE",
    12: "JSON_CODE_ERROR_SELFTEST_REQUIRED",
    13: "JSON_CODE_ERROR_NO_DEFAULT_CLIENT_ID",
    15: "JSON_CODE_ERROR_IN_EXPORT_DATA_MODE",
    19: "JSON_CODE_ERROR_CLIENT_NOT_REGISTERED",
    20: "JSON_CODE_ERROR_CRYPTOCARD_NOTFOUND",
    21: "JSON_CODE_MAX_PARALLEL_TRANSACTIONS_REACHED",
    22: "JSON_CODE_MAX_SIGNATURES_REACHED",
    23: "JSON_CODE_MAX_REGISTERED_CLIENTS_REACHED",
    24: "JSON_CODE_CLIENT_HAS_UNFINISHED_TRANSACTIONS",
    26: "JSON_CODE_PARAMETER_USER_INVALID",
    27: "JSON_CODE_PARAMETER_PASSWORD_INVALID",
    30: "JSON_CODE_PARAMETER_PASSWORD_WRONG",
    31: "JSON_CODE_PARAMETER_PUK_WRONG",
    32: "JSON_CODE_PARAMETER_USER_BLOCKED",
    33: "JSON_CODE_PARAMETER_PUK_BLOCKED",
    1337: "JSON_CODE_COMMAND_CANNOT_BE_PROCESSED",
    5002: "ERROR_STORAGE_FAILURE",
    5017: "ERROR_NO_TRANSACTION",
    5018: "ERROR_SE_API_NOT_INITIALIZED",
    5019: "ERROR_TIME_NOT_SET",
    5020: "ERROR_CERTIFICATE_EXPIRED",
    5021: "ERROR_SECURE_ELEMENT_DISABLED",
}
_OF_DEVICE: Final = {
    Code.CLIENT_NOT_REGISTERED: 19,
    Code.NO_TRANSACTION: 5017,
    Code.MAX_PARALLEL_TRANSACTIONS_REACHED: 21,
    Code.MAX_SIGNATURES_REACHED: 22,
    Code.MAX_REGISTERED_CLIENTS_REACHED: 23,
    Code.CLIENT_HAS_UNFINISHED_TRANSACTIONS: 24,
    Code.STORAGE_FAILURE: 5002,
    Code.PARA_VALUE_ERROR: 4,
    Code.USER_ID_NOT_MANAGED: 26,
}
_OF_FAULT: Final = {
    "selftest": 11,
    "selftest_required": 12,
    "export_remove_mode": 10,
    "wrong_pin": 30,
    "user_blocked": 32,
    "memory_full": 5002,
    "max_tx": 21,
    "max_sig": 22,
    "max_clients": 23,
    "time_lost": 5019,
}


class Failed(Exception):
    """An answer with ``Status`` error."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Rule(NamedTuple):
    """What a command needs: fields, base64 fields, the user whose PIN it carries, a registered client."""

    fields: tuple[str, ...]
    base64: tuple[str, ...] = ()
    user: str | None = None
    signs: bool = False


_TRANSACTION: Final = ("ClientID", "Password", "TransactionNumber", "Typ", "Data")
_RULES: Final = {
    "PingPong": Rule(()),
    "SetDefaultClientID": Rule(("ClientID",)),
    "GetDeviceInfo": Rule(()),
    "GetDeviceStatus": Rule(()),
    "GetDeviceData": Rule(("Name",)),
    "RegisterClientID": Rule(("ClientID", "Password"), ("Password",), ADMIN),
    "DeregisterClientID": Rule(("ClientID", "Password"), ("Password",), ADMIN),
    "StartTransaction": Rule(("ClientID", "Password"), ("Password",), TIME_ADMIN, signs=True),
    "UpdateTransaction": Rule(_TRANSACTION, ("Password",), TIME_ADMIN, signs=True),
    "FinishTransaction": Rule(_TRANSACTION, ("Password",), TIME_ADMIN, signs=True),
    "ChangePassword": Rule(("UserID", "OldPassword"), ("UserID", "OldPassword")),
    "UnblockUser": Rule(("UserID", "Puk"), ("UserID", "Puk")),
}
_BARE: Final = frozenset(
    {
        "Initialize",
        "Deinitialize",
        "PerformSelfTest",
        "UpdateTime",
        "ChangePuk",
        "GetServiceInfo",
        "GetLimits",
        "SetLimits",
        "Export",
        "ExportRemove",
        "ExportAbort",
    }
)
"""Commands whose fields are not publicly known: answered with a bare ok."""


class Web:
    """The commands of the service over one device. One instance per connection knows its default client."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._default_client: str | None = None

    def answer(self, message: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        """Execute one command; what is answered, without framing."""
        command = message.get("Command")
        out: dict[str, Any] = {}
        if isinstance(command, str):
            out["Command"] = command
        else:
            return {"Status": "error", **_echo(message)}
        try:
            with self._device.lock:
                found = self._run(command, message, fault)
        except Failed as failed:
            code = failed.code
            settings = self._device.settings
            out["Status"] = "error"
            positive = code < 5000 or (fault is not None and fault.kind == "positive_codes")
            out["Code"] = code if positive else code * settings.code_sign
            out[settings.description_key] = _NAMES.get(code, f"ERROR_{code}")
        else:
            out["Status"] = "ok"
            out.update(found)
        return {**out, **_echo(message)}

    def _run(self, command: str, message: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        rule = _RULES.get(command)
        if rule is None:
            if command in _BARE:
                return {}
            raise Failed(2)
        for name in rule.fields:
            if name not in message:
                raise Failed(3)
        texts = {name: _decoded(message[name]) for name in rule.base64}
        if fault is not None and fault.kind == "service_error":
            raise Failed(int(fault.value or 8))
        if fault is not None and fault.kind in _OF_FAULT:
            raise Failed(_OF_FAULT[fault.kind])
        if rule.user is not None:
            self._check_pin(rule.user, texts["Password"])
        device = self._device
        try:
            if command == "StartTransaction":
                return self._transaction("start", message, fault)
            if command == "UpdateTransaction":
                return self._transaction("update", message, fault)
            if command == "FinishTransaction":
                return self._transaction("finish", message, fault)
            if command == "SetDefaultClientID":
                client = _client(message)
                if client not in device.clients:
                    raise Failed(19)
                self._default_client = client
                return {}
            if command == "GetDeviceInfo":
                return {"DeviceInfo": self._device_info()}
            if command == "GetDeviceStatus":
                return self._status(message)
            if command == "GetDeviceData":
                return self._data(message)
            if command in ("RegisterClientID", "DeregisterClientID"):
                return self._clients(command, _client(message))
            if command == "ChangePassword":
                return self._change(texts, message)
            if command == "UnblockUser":
                return self._unblock(texts, message)
        except Refused as refused:
            raise Failed(_OF_DEVICE.get(Code(refused.code), 8)) from refused
        return {}

    def _check_pin(self, user: str, pin: str) -> None:
        outcome, _ = self._device.check_pin(user, pin)
        if outcome is Login.BLOCKED:
            raise Failed(32)
        if outcome is Login.WRONG:
            raise Failed(30)

    def _device_info(self) -> dict[str, Any]:
        settings = self._device.settings
        serial = self._device.serial.hex()
        return {
            "SerialNumber": serial.upper() if settings.upper_case_serial else serial,
            "TimeFormat": "UnixTime",
            "MaxNumberOfClients": settings.max_clients,
            "MaxNumberOfOpenTransactions": settings.max_open_transactions,
        }

    def _status(self, message: dict[str, Any]) -> dict[str, Any]:
        device = self._device
        if device.disabled:
            raise Failed(5021)
        if not device.initialized:
            raise Failed(5018)
        end = datetime.fromtimestamp(to_unix(device.tse.valid_until), UTC)
        found: dict[str, Any] = {
            "Parameters": {
                "SignatureAlgorithm": "ecdsa-plain-SHA384",
                "TSEDescription": device.settings.description[:13],
                "CertificateDate": end.isoformat(timespec="seconds"),
            }
        }
        if "Password" in message:
            self._check_pin(ADMIN, _decoded(message["Password"]))
            found["ClientIDs"] = device.clients
        return found

    def _data(self, message: dict[str, Any]) -> dict[str, Any]:
        name = message["Name"]
        chain = self._device.tse.chain
        if name == "PublicKey":
            value = chain.point
        elif name == "Certificates":
            value = chain.pem
        else:
            raise Failed(4)
        form = message.get("Format", "Hex")
        if form not in ("Hex", "Base64"):
            raise Failed(4)
        text = value.hex() if form == "Hex" else base64.b64encode(value).decode("ascii")
        return {"Name": name, "Value": text, "Length": len(value)}

    def _clients(self, command: str, client: str) -> dict[str, Any]:
        device = self._device
        if command == "RegisterClientID":
            if client in device.clients and device.settings.register_twice == "1337":
                raise Failed(1337)
            device.register(client)
        elif client == PRODUCTION_CLIENT:
            raise Failed(4)
        elif client not in device.clients:
            raise Failed(5)
        else:
            device.deregister(client)
        return {}

    def _transaction(self, op: Op, message: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        device = self._device
        if device.settings.require_default_client and self._default_client is None:
            raise Failed(13)
        if not device.initialized and not device.disabled:
            raise Failed(5018)
        if device.disabled:
            raise Failed(5021)
        client = _client(message)
        if client not in device.clients:
            raise Failed(19)
        kind, data = message.get("Typ", ""), message.get("Data", "")
        if not isinstance(kind, str) or not isinstance(data, str) or len(data) > MAX_DATA_CHARACTERS:
            raise Failed(4)
        number = message.get("TransactionNumber", 0)
        if not isinstance(number, int) or isinstance(number, bool):
            raise Failed(4)
        if message.get("Unsigned") == "true" and op == "update":
            if number not in device.tse.open_transactions:
                raise Failed(5017)
            return {}
        signed = device.transaction(op, client, number, kind, data.encode("utf-8"))
        if device.certificate_expired or (fault is not None and fault.kind == "cert_expired"):
            raise Failed(5020)
        found: dict[str, Any] = {}
        if op == "start":
            serial = device.serial.hex()
            found["TransactionNumber"] = signed.transaction_number
            found["SerialNumber"] = serial.upper() if device.settings.upper_case_serial else serial
        found["SignatureCounter"] = signed.signature_counter
        found["Signature"] = signed.signature.hex()
        found["LogTime"] = self._log_time(op, signed)
        return found

    def _log_time(self, op: Op, signed: Signed) -> str:
        moment = datetime.fromtimestamp(to_unix(signed.time_stamp), UTC)
        how = self._device.settings.log_time
        if how == "utc":
            return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        zone = GERMAN_TIME if how == "local" else timezone(timedelta(hours=2 if op == "start" else 1))
        return moment.astimezone(zone).isoformat(timespec="seconds")

    def _change(self, texts: dict[str, str], message: dict[str, Any]) -> dict[str, Any]:
        user = _user(texts["UserID"])
        pin = _new_pin(message)
        outcome, _ = self._device.check_pin(user, texts["OldPassword"])
        if outcome is not Login.OK:
            raise Failed(32 if outcome is Login.BLOCKED else 30)
        self._device.change_pin(user, pin)
        return {}

    def _unblock(self, texts: dict[str, str], message: dict[str, Any]) -> dict[str, Any]:
        outcome, _ = self._device.unblock(_user(texts["UserID"]), texts["Puk"], _new_pin(message))
        if outcome is not Login.OK:
            raise Failed(33 if outcome is Login.BLOCKED else 31)
        return {}


def _echo(message: dict[str, Any]) -> dict[str, Any]:
    return {"PingPong": message["PingPong"]} if "PingPong" in message else {}


def _client(message: dict[str, Any]) -> str:
    client = message["ClientID"]
    if (
        not isinstance(client, str)
        or not 1 <= len(client) <= MAX_CLIENT_ID_CHARACTERS
        or not set(client) <= CLIENT_ID_CHARACTERS
    ):
        raise Failed(4)
    return client


def _decoded(value: object) -> str:
    if not isinstance(value, str):
        raise Failed(4)
    try:
        return base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise Failed(9) from error


def _user(text: str) -> str:
    found = {"01": ADMIN, "02": TIME_ADMIN}.get(text)
    if found is None:
        raise Failed(26)
    return found


def _new_pin(message: dict[str, Any]) -> str:
    """The new PIN under either of the two names that public programs use."""
    value = message.get("NewPassword", message.get("NewPasswd"))
    if value is None:
        raise Failed(3)
    pin = _decoded(value)
    if len(pin) != 5:
        raise Failed(27)
    return pin


class WebService(Running):
    """The service on ``ws://host:port/``."""

    def __init__(self, device: Device, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(device)
        if serve is None:
            raise RuntimeError(
                "The web service needs the package websockets: pip install 'fiskal[websocket]'."
            )
        self._prepare()
        self._host, self._port = host, port
        self._away_until = 0.0
        self._connections: set[ServerConnection] = set()
        self._lock = threading.Lock()
        self._server = self._serve()
        self._port = self._server.socket.getsockname()[1]
        self.place = f"ws://{host}:{self._port}"
        self._spawn(self._server.serve_forever)

    def _serve(self) -> Server:
        return serve(
            self._handle,
            self._host,
            self._port,
            process_request=self._page,
            compression=None,
            max_size=1 << 20,
            ping_interval=None,
        )

    def _prepare(self) -> None:
        """What the service does by itself when it finds the device: self test and time."""
        device = self.device
        with device.lock:
            if device.tse.state == 1:
                device.self_test()
                if not device.time_valid:
                    device.set_time(device.now(), TIME_ADMIN)
            self._ups = device.ups

    @staticmethod
    def _page(connection: ServerConnection, request: HttpRequest) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        response = connection.respond(http.HTTPStatus.OK, PAGE.decode())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/html; charset=utf-8"
        return response

    def _handle(self, connection: ServerConnection) -> None:
        web = Web(self.device)
        held: list[str] = []
        with self._lock:
            self._connections.add(connection)
        try:
            for message in connection:
                text = message if isinstance(message, str) else message.decode("utf-8", "replace")
                if not self._message(connection, web, text, held):
                    return
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _message(self, connection: ServerConnection, web: Web, text: str, held: list[str]) -> bool:
        """Serve one message; False if the connection is to be closed."""
        strict = self.device.settings.strict
        if strict and not (text.startswith("\x02") and text.endswith("\x03\n")):
            return True
        body = text.removeprefix("\x02").rstrip("\r\n").removesuffix("\x03")
        try:
            message = json.loads(body)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            failed = {"Status": "error", "Code": 1, self.device.settings.description_key: _NAMES[1]}
            connection.send(_framed(failed))
            return True
        command = message.get("Command")
        known = isinstance(command, str) and (command in _RULES or command in _BARE)
        fault = self.device.fault(command) if known and isinstance(command, str) else None
        kind = "" if fault is None else fault.kind
        value = float(fault.value) if fault is not None and isinstance(fault.value, int | float) else 0.0
        if kind in ("drop_before", "unplug", "replug_other"):
            if kind != "drop_before":
                self._unplug(value / 1000, other=kind == "replug_other")
            connection.close()
            return False
        if kind == "silent":
            return True
        if self._absent():
            connection.send(_framed({**_error(command, 20), **_echo(message)}))
            return True
        if known and isinstance(command, str):
            self.device.conductor.work(command)
        answer = web.answer(message, fault)
        if kind in ("drop_after", "unplug_after"):
            if kind == "unplug_after":
                self._unplug(value / 1000, other=False)
            connection.close()
            return False
        if kind == "lost_answer":
            return True
        if kind in ("wrong_id", "foreign_id"):
            answer["PingPong"] = 999_999
        elif kind == "no_id":
            answer.pop("PingPong", None)
        elif kind == "wrong_command":
            answer["Command"] = "GetLimits"
        elif kind == "event":
            connection.send(_framed({"event": "DeviceStatus", "Status": "ok"}))
        out = _framed(answer)
        if kind == "no_lf":
            out = out[:-1]
        elif kind == "no_stx":
            out = out[1:]
        elif kind == "bad_json":
            out = '\x02{"Command":\x03\n'
        elif kind == "not_object":
            out = "\x02[1,2]\x03\n"
        elif kind == "huge":
            connection.send(_framed({"event": "DeviceStatus", "Filler": "x" * 1_000_000}))
        elif kind == "late":
            self._spawn(self._later, connection, out, value / 1000)
            return True
        elif kind == "reorder":
            held.append(out)
            self._spawn(self._later, connection, held.pop(), value / 1000)
            return True
        if kind == "split_ws":
            third = max(1, len(out) // 3)
            connection.send([out[:third], out[third : 2 * third], out[2 * third :]])
        else:
            connection.send(out)
        return True

    def _later(self, connection: ServerConnection, text: str, seconds: float) -> None:
        self._stop.wait(seconds)
        with contextlib.suppress(ConnectionClosed, OSError):
            connection.send(text)

    def _unplug(self, seconds: float, *, other: bool) -> None:
        with self.device.lock:
            if other:
                self.device.exchange()
            else:
                self.device.power_up()
            self._away_until = time.monotonic() + seconds

    def _absent(self) -> bool:
        """The device is pulled out; when it is back, the service prepares it."""
        if time.monotonic() < self._away_until:
            return True
        if self._ups != self.device.ups:
            self._prepare()
        return False

    def _end(self) -> None:
        self._server.shutdown()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(2)


def _error(command: object, code: int) -> dict[str, Any]:
    out: dict[str, Any] = {"Command": command} if isinstance(command, str) else {}
    return {**out, "Status": "error", "Code": code, "Desc": _NAMES[code]}


def _framed(answer: dict[str, Any]) -> str:
    return "\x02" + json.dumps(answer, separators=(",", ":")) + "\x03\n"
