"""The simulator by itself, spoken to in bytes: messages, refusals and their order, users, locks, several devices."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fiskal.errors import ConfigurationError
from fiskal.simulators.epson import Settings, Simulator
from fiskal.simulators.epson.faults import FAULTS, SERVICE_TIMES
from fiskal.simulators.plan import Fault, Plan

PIN, TIME_PIN, PUK = "53417", "86420", "918273"
ADMIN = "Administrator"


class Client:
    """A client that knows nothing of the driver."""

    def __init__(self, simulator: Simulator, device_id: str | None = None) -> None:
        self.simulator = simulator
        self.device_id = device_id or next(iter(simulator.devices))
        self.socket = socket.create_connection((simulator.host, simulator.port), timeout=5)
        self.received = b""
        self.client_id = self.read().findtext(".//client_id")

    def read(self) -> ElementTree.Element:
        while b"\0" not in self.received:
            some = self.socket.recv(65_536)
            assert some, "the simulator closed the connection"
            self.received += some
        message, _, self.received = self.received.partition(b"\0")
        return ElementTree.fromstring(message)

    def ask(self, message: bytes) -> ElementTree.Element:
        self.socket.sendall(message)
        return self.read()

    def code(self, message: str) -> str:
        return self.ask(message.encode() + b"\0").findtext(".//code") or ""

    def open(self, device_id: str | None = None) -> str:
        device_id = device_id or self.device_id
        return self.code(
            f"<open_device><device_id>{device_id}</device_id><data><type>type_storage</type></data></open_device>"
        )

    def operate(self, text: str | bytes) -> ElementTree.Element:
        escaped = (
            (text if isinstance(text, bytes) else text.encode())
            .replace(b"&", b"&amp;")
            .replace(b"<", b"&lt;")
        )
        head = f"<device_data><device_id>{self.device_id}</device_id><data><type>operate</type><timeout>1000</timeout>"
        return self.ask(head.encode() + b"<requestdata>" + escaped + b"</requestdata></data></device_data>\0")

    def call(self, function: str, **given: Any) -> tuple[str, dict[str, Any]]:
        request = {
            "storage": {"type": "TSE", "vendor": "TSE1"},
            "function": function,
            "compress": {"required": False, "type": ""},
            "input": given,
        }
        answer = json.loads(self.operate(json.dumps(request)).findtext(".//resultdata") or "null")
        assert answer["function"] == function
        return answer["result"], answer["output"]

    def result(self, function: str, **given: Any) -> str:
        return self.call(function, **given)[0]

    def proof(self, user: str, secret: str = "EPSONKEY") -> str:
        challenge = self.call("GetChallenge", userId=user)[1]["challenge"]
        return base64.b64encode(hashlib.sha256((challenge + secret).encode()).digest()).decode()

    def admin(self, pin: str = PIN) -> str:
        return self.result("AuthenticateUserForAdmin", userId=ADMIN, pin=pin, hash=self.proof(ADMIN))

    def log_in(self, client: str, pin: str = TIME_PIN) -> str:
        return self.result("AuthenticateUserForTimeAdmin", clientId=client, pin=pin, hash=self.proof(client))

    def set_up(self) -> None:
        self.open()
        self.result("RunTSESelfTest")
        assert self.result("SetUp", puk=PUK, adminPin=PIN, timeAdminPin=TIME_PIN) == "EXECUTION_OK"
        assert self.result("RunTSESelfTest") == "EXECUTION_OK"
        assert self.admin() == "EXECUTION_OK"
        assert self.set_time(ADMIN) == "EXECUTION_OK"
        assert self.result("RegisterClient", clientId="POS-1") == "EXECUTION_OK"

    def set_time(self, user: str, moment: str = "2026-12-01T23:30:00Z") -> str:
        return self.result("UpdateTime", userId=user, newDateTime=moment, useTimeSync=False)

    def start(self, client: str = "POS-1") -> tuple[str, dict[str, Any]]:
        return self.call(
            "StartTransaction", clientId=client, processData="", processType="", additionalData=""
        )

    def close(self) -> None:
        self.socket.close()


Make = Callable[..., Simulator]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Simulator] = []

    def make_it(**settings: Any) -> Simulator:
        given = {"folder": str(tmp_path / f"s{len(made)}"), "port": 0, "plan": Plan(scale=0), **settings}
        made.append(Simulator(Settings(**given)))
        return made[-1]

    yield make_it
    for simulator in made:
        simulator.close()


@pytest.fixture
def client(make: Make) -> Iterator[Client]:
    client = Client(make())
    yield client
    client.close()


# ---- messages -----------------------------------------------------------------------------------


def test_the_greeting_is_the_worked_one(make: Make) -> None:
    simulator = make()
    with socket.create_connection((simulator.host, simulator.port), timeout=5) as raw:
        greeting = raw.recv(1024)
    assert greeting.startswith(b"<connect><data><client_id>sock")
    assert greeting.endswith(b"</client_id><protocol_version>2</protocol_version></data></connect>\0")
    assert len(greeting) == 108


def test_openings(client: Client) -> None:
    assert client.open("nobody") == "DEVICE_NOT_FOUND"
    assert client.code("<close_device><device_id>local_TSE</device_id></close_device>") == "DEVICE_NOT_OPEN"
    other = (
        "<open_device><device_id>local_TSE</device_id><data><type>type_printer</type></data></open_device>"
    )
    assert client.code(other) == "DEVICE_TYPE_INVALID"
    assert client.operate("{}").tag == "error"
    assert client.open() == "OK"
    assert client.open() == "OK"
    second = Client(client.simulator)
    assert second.open() == "DEVICE_IN_USE"
    taken = (
        f"<reconnect><data><new_client_id>{second.client_id}</new_client_id>"
        f"<old_client_id>{client.client_id}</old_client_id><received_id>0</received_id></data></reconnect>"
    )
    assert second.code(taken.replace(str(client.client_id), "sock0")) == "CLIENT_NOT_FOUND"
    assert second.code(taken) == "OK"
    assert client.operate("{}").findtext("code") == "DEVICE_NOT_OPEN"
    assert second.code("<close_device><device_id>local_TSE</device_id></close_device>") == "OK"
    assert (
        second.code(f"<disconnect><data><client_id>{second.client_id}</client_id></data></disconnect>")
        == "OK"
    )
    second.close()


@pytest.mark.parametrize("noise", [b"%s\0", b'"%s"\0"', b" %s \0", b'%s"\0\0', b"\0\0%s\n\0"])
def test_noise_around_a_message_is_none(client: Client, noise: bytes) -> None:
    message = b"<close_device><device_id>local_TSE</device_id></close_device>"
    for _ in range(2):
        assert client.ask(noise % message).findtext("code") == "DEVICE_NOT_OPEN"


@pytest.mark.parametrize(
    "message",
    [
        b"garbage\0",
        b"<a\0",
        b"<a></b>\0",
        b"<unknown/>\0",
        b"\xff\xfe<a/>\0",
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>\0',
        b"<device_data>&nothing;</device_data>\0",
    ],
)
def test_what_is_no_message_is_answered_as_such(client: Client, message: bytes) -> None:
    assert client.ask(message).findtext("code") == "COMMAND_ILLEGAL"
    assert client.open() == "OK"


def test_a_message_without_an_end_ends_the_connection(client: Client) -> None:
    with pytest.raises((AssertionError, OSError)):  # noqa: PT012
        client.socket.sendall(b"x" * (2 << 20))
        client.read()


# ---- requests -----------------------------------------------------------------------------------

STORAGE = '"storage":{"type":"TSE","vendor":"TSE1"}'
REST = '"compress":{"required":false,"type":""},"input":{}'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "JSON_ERROR_WRONG_JSON_FORMAT"),
        ("[]", "JSON_ERROR_WRONG_JSON_FORMAT"),
        ("[" * 100_000, "JSON_ERROR_OVER_DATA_SIZE"),
        ("[" * 60_000, "JSON_ERROR_WRONG_JSON_FORMAT"),
        ("{}", "JSON_ERROR_NOT_ENOUGH_CONTENTS"),
        ('{"storage":1,"function":"","compress":{},"input":{}}', "JSON_ERROR_UNEXPECTED_PARAM_TYPE"),
        ('{"storage":{"type":"X"},"function":"A",' + REST + "}", "JSON_ERROR_UNEXPECTED_STORAGE_TYPE"),
        ('{"storage":{"type":"TSE"},"function":"A",' + REST + "}", "JSON_ERROR_UNEXPECTED_STORAGE_VENDOR"),
        ("{" + STORAGE + ',"function":"A",' + REST + "}", "JSON_ERROR_UNEXPECTED_FUNCTION"),
        (
            "{" + STORAGE + ',"function":"A","compress":{"required":true},"input":{}}',
            "JSON_ERROR_UNEXPECTED_COMPRESSION_TYPE",
        ),
        ("{" + STORAGE + ',"function":"SetUp",' + REST + "}", "JSON_ERROR_NOT_ENOUGH_CONTENTS"),
    ],
)
def test_requests_that_are_none(client: Client, text: str, code: str) -> None:
    client.open()
    answer = json.loads(client.operate(text).findtext(".//resultdata") or "")
    assert answer["result"] == code
    assert answer["output"] == {}


def test_what_a_request_is_given_is_checked(client: Client) -> None:
    client.set_up()
    assert client.result("RegisterClient", clientId=1) == "JSON_ERROR_UNEXPECTED_PARAM_TYPE"
    assert client.result("RegisterClient", clientId="x" * 31) == "JSON_ERROR_INVALID_PARAMETER_RANGE"
    assert client.result("RegisterSecretKey", secretKey="short") == "JSON_ERROR_INVALID_PARAMETER_RANGE"
    assert client.set_time(ADMIN, "2026-12-01 23:30:00") == "JSON_ERROR_INVALID_TIME_FORMAT"
    assert client.set_time(ADMIN, "2026-13-01T23:30:00Z") == "JSON_ERROR_INVALID_TIME_FORMAT"
    assert client.result("DeregisterClient", clientId="EPSON12345678") == "JSON_ERROR_INVALID_PARAMETER"
    assert client.result("DeregisterClient", clientId="nobody") == "TSE1_ERROR_CLIENT_NOT_REGISTERED"
    number = {"clientId": "POS-1", "transactionNumber": True, "processType": "", "additionalData": ""}
    assert client.result("UpdateTransaction", **number, processData="") == "JSON_ERROR_UNEXPECTED_PARAM_TYPE"
    client.log_in("POS-1")
    wrong = {**number, "transactionNumber": 1, "processData": "?"}
    assert client.result("FinishTransaction", **wrong) == "JSON_ERROR_INVALID_PARAMETER"
    wrong["processData"] = ""
    assert client.result("FinishTransaction", **wrong) == "TSE1_ERROR_NO_TRANSACTION_IN_PROGRESS"


# ---- life and users -----------------------------------------------------------------------------


def test_the_order_of_a_life(client: Client) -> None:
    client.open()
    info = client.call("GetStorageInfo")[1]["tseInformation"]
    assert info["tseInitializationState"] == "UNINITIALIZED"
    assert info["hasPassedSelfTest"] is False
    key, serial = base64.b64decode(info["tsePublicKey"]), base64.b64decode(info["serialNumber"])
    assert (len(key), hashlib.sha256(key).digest()) == (97, serial)
    setup = {"puk": PUK, "adminPin": PIN, "timeAdminPin": TIME_PIN}
    assert client.result("SetUp", **setup) == "TSE1_ERROR_WRONG_STATE_NEEDS_SELF_TEST"
    assert client.result("RunTSESelfTest") == "TSE1_ERROR_CLIENT_NOT_REGISTERED"
    assert client.admin() == "TSE1_ERROR_WRONG_STATE_NEEDS_PUK_CHANGE"
    assert client.result("RegisterClient", clientId="A") == "TSE1_ERROR_TSE_NOT_INITIALIZED"
    assert client.result("SetUp", **setup) == "EXECUTION_OK"
    assert client.result("SetUp", **setup) == "OTHER_ERROR_TSE_ALREADY_SET_UP"
    assert client.result("RegisterClient", clientId="A") == "OTHER_ERROR_UNAUTHENTICATED_ADMIN_USER"
    assert client.admin() == "EXECUTION_OK"
    assert client.result("RegisterClient", clientId="A") == "EXECUTION_OK"
    assert client.start("A")[0] == "OTHER_ERROR_UNAUTHENTICATED_TIME_ADMIN_USER"
    assert client.log_in("A") == "EXECUTION_OK"
    assert client.start("A")[0] == "TSE1_ERROR_NO_TIME_SET"
    assert client.result("ArchiveExport") == "OTHER_ERROR_NO_TIME_SET_BEFORE_EXPORT"
    assert client.set_time("A") == "EXECUTION_OK"
    code, output = client.start("A")
    assert code == "EXECUTION_OK"
    assert output["logTime"].startswith("2026-12-01T23:30")
    assert len(base64.b64decode(output["signature"])) == 96
    assert client.call("GetLastTransactionResponse", clientId="A")[1] == output
    assert client.log_in("B") == "EXECUTION_OK"
    assert client.start("B")[0] == "TSE1_ERROR_CLIENT_NOT_REGISTERED"
    assert client.result("DisableSecureElement") == "TSE1_ERROR_TSE_HAS_UNFINISHED_TRANSACTIONS"
    done = {
        "clientId": "A",
        "transactionNumber": 1,
        "processData": "",
        "processType": "",
        "additionalData": "",
    }
    assert client.result("FinishTransaction", **done) == "EXECUTION_OK"
    assert client.result("DisableSecureElement") == "EXECUTION_OK"
    assert client.start("A")[0] == "TSE1_ERROR_CERTIFICATE_EXPIRED"
    assert client.set_time("A") == "TSE1_ERROR_TSE_DECOMMISSIONED"
    assert client.result("RegisterClient", clientId="C") == "TSE1_ERROR_NOT_AUTHORIZED"
    assert client.result("FactoryReset") == "EXECUTION_OK"
    assert client.call("GetStorageInfo")[1]["tseInformation"]["tseInitializationState"] == "UNINITIALIZED"


def test_pins_and_challenges(client: Client) -> None:
    client.set_up()
    proof = client.proof(ADMIN)
    given = {"userId": ADMIN, "pin": PIN}
    assert client.result("AuthenticateUserForAdmin", **given, hash=proof) == "EXECUTION_OK"
    again = client.result("AuthenticateUserForAdmin", **given, hash=proof)
    assert again == "OTHER_ERROR_HOST_AUTHENTICATION_FAILED"
    stranger = {"userId": "Somebody", "pin": PIN, "hash": client.proof("Somebody")}
    assert client.result("AuthenticateUserForAdmin", **stranger) == "OTHER_ERROR_INVALID_ADMIN_USER_ID"
    for left in (2, 1, 0):
        code, output = client.call(
            "AuthenticateUserForTimeAdmin", clientId="POS-1", pin="00000", hash=client.proof("POS-1")
        )
        assert (code, output) == ("TSE1_ERROR_AUTHENTICATION_FAILED", {"remainingRetries": left})
    assert client.log_in("POS-1") == "TSE1_ERROR_AUTHENTICATION_PIN_BLOCKED"
    unblock = {"userId": ADMIN, "puk": PUK, "newPin": "11223"}
    assert client.result("UnblockUserForTimeAdmin", **unblock) == "OTHER_ERROR_UNAUTHENTICATED_HOST"
    assert client.result("AuthenticateHost", userId=ADMIN, hash=client.proof(ADMIN)) == "EXECUTION_OK"
    wrong = {**unblock, "puk": "000000"}
    assert client.call("UnblockUserForTimeAdmin", **wrong)[1] == {"remainingRetries": 2}
    assert client.result("UnblockUserForTimeAdmin", **unblock) == "EXECUTION_OK"
    assert client.result("UnblockUserForTimeAdmin", **unblock) == "TSE1_ERROR_TSE_INVALID_PARAMETER"
    assert client.result("DeauthenticateHost", userId=ADMIN) == "EXECUTION_OK"
    assert client.log_in("POS-1", "11223") == "EXECUTION_OK"
    assert client.call("GetAuthenticatedUserList", userRole="TimeAdmin")[1] == {
        "authenticatedUserList": ["POS-1"]
    }
    for index in range(40):
        last = client.result("GetChallenge", userId=f"user {index}")
    assert last == "OTHER_ERROR_TOO_MANY_CHALLENGE_REQUESTED"


def test_nobody_stays_logged_in_for_ever(tmp_path: Path) -> None:
    moment = 0.0
    settings = Settings(folder=str(tmp_path), port=0, plan=Plan(scale=0))
    with Simulator(settings, monotonic=lambda: moment) as simulator:
        client = Client(simulator)
        client.set_up()
        client.log_in("POS-1")
        moment = 901.0
        assert client.result("GetRegisteredClientList") == "OTHER_ERROR_UNAUTHENTICATED_ADMIN_USER"
        assert client.start()[0] == "EXECUTION_OK"
        moment += 28_801
        assert client.start()[0] == "OTHER_ERROR_UNAUTHENTICATED_TIME_ADMIN_USER"
        moment += 90_000
        assert client.log_in("POS-1") == "TSE1_ERROR_WRONG_STATE_NEEDS_SELF_TEST"
        client.close()


def test_exports_by_hand(client: Client) -> None:
    client.set_up()
    assert client.result("GetExportData") == "OTHER_ERROR_NO_EXPORT_STARTED"
    assert client.result("CancelExport") == "OTHER_ERROR_NO_EXPORT_STARTED"
    code, output = client.call("ArchiveExport", clientId="")
    assert code == "EXECUTION_OK"
    assert client.result("ArchiveExport", clientId="") == "OTHER_ERROR_CURRENTLY_EXPORTING"
    assert client.set_time(ADMIN) == "OTHER_ERROR_CURRENTLY_EXPORTING"
    assert client.result("FinalizeExport", deleteData=True) == "OTHER_ERROR_ALL_DATA_NOT_EXPORTED_YET"
    archive, status = b"", ""
    while status != "EXPORT_COMPLETE":
        piece = client.call("GetExportData")[1]
        archive += base64.b64decode(piece["exportData"])
        status = piece["exportStatus"]
    assert len(archive) == output["tarExportSize"]
    assert client.result("GetExportData") == "OTHER_ERROR_ALREADY_ALL_DATA_EXPORTED"
    assert client.result("LogOutForAdmin") == "EXECUTION_OK"
    assert client.result("FinalizeExport", deleteData=True) == "OTHER_ERROR_CURRENTLY_EXPORTING_USER"
    assert client.admin() == "EXECUTION_OK"
    assert client.result("FinalizeExport", deleteData=False) == "EXECUTION_OK"
    period = {"clientId": "", "startDate": "2030-01-01T00:00:00Z", "endDate": "2029-01-01T00:00:00Z"}
    assert client.result("ExportFilteredByPeriodOfTime", **period) == "OTHER_ERROR_PARAMETER_MISMATCH"
    period["endDate"] = "2031-01-01T00:00:00Z"
    assert client.result("ExportFilteredByPeriodOfTime", **period) == "EXECUTION_OK"
    assert client.result("GetExportData") == "TSE1_ERROR_EXPORT_NO_DATA_AVAILABLE"
    assert client.result("CancelExport") == "EXECUTION_OK"


def test_a_device_remembers_without_power(make: Make, tmp_path: Path) -> None:
    simulator = make()
    client = Client(simulator)
    client.set_up()
    client.log_in("POS-1")
    client.start()
    client.close()
    simulator.close()
    again = Simulator(simulator.settings)
    client = Client(again)
    client.open()
    info = client.call("GetStorageInfo")[1]["tseInformation"]
    assert (info["tseInitializationState"], info["hasValidTime"], info["hasPassedSelfTest"]) == (
        "INITIALIZED",
        False,
        False,
    )
    assert info["startedTransactions"] == 1
    assert client.result("RunTSESelfTest") == "EXECUTION_OK"
    assert client.admin() == "EXECUTION_OK"
    client.close()
    again.close()


# ---- forms and plans ----------------------------------------------------------------------------


def test_a_printer_tests_itself(make: Make) -> None:
    client = Client(make(form="printer"))
    client.open()
    assert client.result("SetUp", puk=PUK, adminPin=PIN, timeAdminPin=TIME_PIN) == "EXECUTION_OK"
    client.close()


def test_a_server_has_several_devices(make: Make) -> None:
    simulator = make(form="server")
    assert list(simulator.devices) == ["TSE_1", "TSE_2"]
    one, two = Client(simulator, "TSE_1"), Client(simulator, "TSE_2")
    one.set_up()
    two.set_up()
    for client in (one, two):
        client.log_in("POS-1")
        assert client.start()[1]["transactionNumber"] == 1
    assert simulator.devices["TSE_1"].tse.chain.serial != simulator.devices["TSE_2"].tse.chain.serial
    assert one.open("TSE_2") == "DEVICE_IN_USE"
    one.close()
    two.close()


@pytest.mark.parametrize(
    "settings", [{"device_ids": ["a", "b"]}, {"device_ids": []}, {"form": "server", "device_ids": ["a", "a"]}]
)
def test_devices_that_do_not_fit_the_form(make: Make, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="device"):
        make(**settings)


def test_every_fault_and_command_is_described_and_plans_are_checked(make: Make) -> None:
    assert all(FAULTS.values())
    simulator = make()
    for fault in (Fault(kind="drop_aftr"), Fault(kind="busy", command="StartTransactio")):
        with pytest.raises(ConfigurationError, match="Did you mean"):
            simulator.conductor.inject(fault)
    assert {"StartTransaction", "open_device"} <= set(SERVICE_TIMES)


def test_a_command_takes_its_time(tmp_path: Path) -> None:
    waited: list[float] = []
    settings = Settings(folder=str(tmp_path), port=0)
    with Simulator(settings, wait=waited.append) as simulator:
        client = Client(simulator)
        client.set_up()
        client.log_in("POS-1")
        waited.clear()
        client.start()
        client.close()
    assert len(waited) == 1
    assert 0.1 < waited[0] < 1
