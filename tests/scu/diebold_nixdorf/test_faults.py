"""What a Diebold Nixdorf TSE, its line and its web service can do wrong, and what the driver makes of it."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import EMPTY_GUID, TseStates
from fiskal.scu.drivers import diebold_nixdorf
from fiskal.scu.drivers.diebold_nixdorf import codes
from fiskal.scu.drivers.diebold_nixdorf import service as dialect
from fiskal.scu.drivers.diebold_nixdorf.options import Options
from fiskal.scu.drivers.diebold_nixdorf.service import ServiceError
from fiskal.scu.errors import Misconfigured, NotSupported, OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.transports.traffic import TRAFFIC
from fiskal.simulators.diebold_nixdorf import MANAGEMENT_CLIENT, PseudoTerminal
from fiskal.simulators.plan import Plan
from tests.scu.diebold_nixdorf.rig import CLIENT, FRAMES, PIN, Rig

LINE_FAULTS = [
    ("split", 1),
    ("merge_asb", None),
    ("noise", None),
    ("late", 700),
    ("torn", None),
    ("wrong_id", None),
    ("no_id", None),
    ("silent", None),
    ("lost_answer", None),
    ("drop_before", None),
    ("drop_after", None),
    ("unplug", 50),
    ("unplug_after", 50),
    ("error", "0002"),
    ("error", "0005"),
    ("error", "0006"),
    ("error", "010A"),
    ("time_lost", None),
    ("self_test_expired", None),
]
SEQUENCE = ("FinishTransactionInit", "SetClientId", "FinishTransactionEnd", "TransactionData")
"""The commands of a finish: every fault at the first and third, every fourth at the others."""


def sold_once(rig: Rig, data: bytes) -> None:
    assert rig.count("FinishTransaction", data) == 1
    assert not rig.device.tse.open_transactions


# ---- the line: the sale goes on, nothing is signed twice ------------------------------------------------


@pytest.mark.parametrize(
    ("command", "kind", "value"),
    [
        *((command, kind, value) for command in SEQUENCE[::2] for kind, value in LINE_FAULTS),
        *((command, kind, value) for command in SEQUENCE[1::2] for kind, value in LINE_FAULTS[::4]),
    ],
)
def test_a_sale_survives(make: Callable[..., Rig], command: str, kind: str, value: object) -> None:
    rig = make("tcp")
    number = rig.start().transaction_number
    rig.inject(kind, command, value=value)
    finished = rig.finish(number, b"Beleg^7.00")
    assert rig.faults_left == 0
    sold_once(rig, b"Beleg^7.00")
    last = [message for message in rig.log() if message.process_data == b"Beleg^7.00"][-1]
    assert finished.signature_data.signature_counter == last.signature_counter
    rig.sell()


@pytest.mark.parametrize("kind", ["unplug", "unplug_after", "drop_after", "split"])
def test_a_sale_survives_at_a_pseudo_terminal(pty: Rig, kind: str) -> None:
    number = pty.start().transaction_number
    pty.inject(kind, "FinishTransactionEnd", value=50 if kind != "split" else 1)
    pty.finish(number, b"Beleg^7.00")
    sold_once(pty, b"Beleg^7.00")


@pytest.mark.parametrize("form", FRAMES)
@pytest.mark.parametrize(
    "settings", [{"asb_ms": 5}, {"packet_size": 1}, {"firmware": "old"}, {"hardware": "box", "slots": 5}]
)
def test_other_devices(make: Callable[..., Rig], form: str, settings: dict[str, object]) -> None:
    rig = make(form, **settings)
    rig.sell(b"Beleg^7.00")
    info = rig.scu.get_tse_info()
    sold_once(rig, b"Beleg^7.00")
    if settings.get("firmware") == "old":
        assert info.certification_identification == ""
        assert info.max_log_memory_size == rig.settings.memory_bytes  # command 102 tells it
    if settings.get("hardware") == "box":
        assert info.firmware_identification == (
            "Format: ConnectBox; App Version: 1.2.3; OsUpd Version: 1.0.4; OsMain Version: 2.0.1"
        )
    else:
        assert info.firmware_identification == (
            "Format: SingleTSE; Firmware Version: 1.7.691; Loader Version: 1.1.497"
        )


def test_a_terminal_that_echoes(make: Callable[..., Rig]) -> None:
    rig = make("pty", echo=True)
    rig.sell(b"Beleg^7.00")
    sold_once(rig, b"Beleg^7.00")


@pytest.mark.parametrize("size", [0, 1, 512, 513, 1024, 10_000])
def test_process_data_in_packets(line: Rig, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    line.sell(data)
    assert line.count("FinishTransaction", data) == 1


def test_status_with_more_parameters(line: Rig) -> None:
    number = line.start().transaction_number
    line.inject("extra_status_params", "GetMfcStatus", times=None)
    line.inject("error", "FinishTransactionEnd", value="0117")
    with pytest.raises(TseRejected) as caught:
        line.finish(number)
    assert caught.value.vendor_code == "0117"


def test_a_device_that_is_silent_for_good(line: Rig) -> None:
    line.sell()
    line.inject("silent", times=None)
    began = time.monotonic()
    with pytest.raises(ScuError):
        line.start(seconds=2)
    assert time.monotonic() - began < 10


# ---- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code"),
    [("max_tx", "TRANSACTION_LIMIT"), ("max_sig", "SIGNATURE_LIMIT"), ("memory_full", "MEMORY_FULL")],
)
def test_limits(rig: Rig, kind: str, code: str) -> None:
    rig.scu.get_tse_info()
    rig.inject(kind, "StartTransaction" if rig.form == "web" else "StartTransactionEnd")
    if rig.form == "web" and kind == "memory_full":
        with pytest.raises(OutcomeUnknown):  # a storage failure may come after the signature
            rig.start()
        return
    with pytest.raises(TseRejected) as caught:
        rig.start()
    assert caught.value.code == code
    assert rig.count("StartTransaction") == 0
    rig.sell()


@pytest.mark.parametrize("number", [*codes.MEANINGS, 0x011D, 0x0FFF])
def test_every_code_has_an_error(number: int) -> None:
    error = codes.refusal(number)
    assert isinstance(error, ScuError)
    assert not isinstance(error, OutcomeUnknown)
    assert (
        f"{number:04X}" in str(error)
        or error.vendor_code == f"{number:04X}"
        or error.code
        in (
            "CERTIFICATE_EXPIRED",
            "TSE_TERMINATED",
        )
    )


def test_a_code_that_nobody_knows(line: Rig) -> None:
    number = line.start().transaction_number
    line.inject("error", "FinishTransactionEnd", value="0FFF")
    with pytest.raises(TseRejected, match="0FFF"):
        line.finish(number)
    assert line.count("FinishTransaction") == 0
    line.finish(number)


def test_near_full(line: Rig) -> None:
    line.inject("near_full", "GetSlotInfo", times=None)
    info = line.scu.get_tse_info()
    assert info.current_state is TseStates.INITIALIZED
    assert info.info is not None
    assert "export" in info.info["memory"]


@pytest.mark.parametrize("command", ["LoginUser", "LogoutUser", "UpdateTime"])
def test_an_expired_certificate_is_tolerated_by_the_administration(line: Rig, command: str) -> None:
    line.inject("cert_expired", command, times=None)
    assert line.scu.get_tse_info().current_state is TseStates.INITIALIZED


def test_a_signature_with_an_expired_certificate_is_found(line: Rig) -> None:
    """The device stores the message and reports then: the signature exists."""
    number = line.start().transaction_number
    line.scu.get_tse_info()
    far = line.device._clock
    line.device._clock = lambda: far() + 9 * 365 * 24 * 3600 * 10_000_000
    line.device._time._host = line.device._clock
    line.device._tested_until = 2**62
    finished = line.finish(number, b"Beleg^7.00")
    assert line.count("FinishTransaction", b"Beleg^7.00") == 1
    assert finished.signature_data.signature_counter == line.log()[-1].signature_counter


# ---- time, self test, users -----------------------------------------------------------------------------


def test_a_device_that_lost_its_power_is_tested_and_told_the_time(line: Rig) -> None:
    line.sell()
    line.inject("unplug", "SetClientId", value=30)
    line.sell()
    assert line.device.time_valid
    assert line.device.self_test_in_s > 0


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("self_test_expired", "RegisterClient"),
        ("self_test_expired", "ExportCertificates"),
        ("error", "RegisterClient"),
        ("error", "GetNumberOfClients"),
    ],
)
def test_the_administration_repairs_too(line: Rig, kind: str, command: str) -> None:
    line.inject(kind, command, value="0002" if kind == "error" else None)
    assert "POS-9" in line.register("POS-9")
    assert line.faults_left == 0
    line.sell(client="POS-9")


def test_a_failed_self_test_is_a_defect(line: Rig) -> None:
    line.inject("self_test_result", "RunSelfTest", value=2)
    with pytest.raises(TseRejected) as caught:
        line.scu.get_tse_info()
    assert caught.value.code == "SECURE_STATE"
    with pytest.raises(TseRejected):
        line.start()
    line.scu.execute_self_test()
    line.sell()


@pytest.mark.parametrize("form", FRAMES)
def test_a_stick_of_other_software(make: Callable[..., Rig], form: str) -> None:
    """Without the management client the production client makes the self test."""
    rig = make(form, management_client=False)
    assert MANAGEMENT_CLIENT not in rig.device.clients
    rig.sell(b"Beleg^7.00")
    sold_once(rig, b"Beleg^7.00")


def test_the_time_is_told_only_when_it_is_due(line: Rig) -> None:
    line.sell()
    written = line.count("updateTime")
    for _ in range(5):
        line.sell()
    assert line.count("updateTime") == written
    line.scu.execute_set_tse_time()
    assert line.count("updateTime") == written + 1


def test_the_time_is_told_again_and_again(make: Callable[..., Rig]) -> None:
    rig = make("tcp", update_interval_s=0)
    rig.sell()
    written = rig.count("updateTime")
    rig.sell()
    assert rig.count("updateTime") > written


def test_a_100_receipts_are_300_signatures(make: Callable[..., Rig]) -> None:
    rig = make("tcp")
    rig.scu.get_tse_info()
    before = len(rig.log())
    for _ in range(20):
        number = rig.start().transaction_number
        rig.update(number)
        rig.finish(number)
    assert len(rig.log()) == before + 60


@pytest.mark.parametrize("kind", ["wrong_pin", "user_blocked"])
def test_a_pin_that_the_device_refuses_is_not_repeated(line: Rig, kind: str) -> None:
    line.inject(kind, "LoginUser")
    with pytest.raises(Misconfigured) as caught:
        line.start()
    assert caught.value.code == ("AUTH_FAILED" if kind == "wrong_pin" else "PIN_BLOCKED")
    logins = line.count("authenticateUser")
    for _ in range(3):
        with pytest.raises(Misconfigured):
            line.start()
    assert line.count("authenticateUser") == logins


def test_two_logins_without_an_answer_are_enough(line: Rig) -> None:
    line.inject("lost_answer", "LoginUser", times=None)
    for _ in range(6):
        with pytest.raises(ScuError):
            line.start(seconds=3)
    assert line.count("authenticateUser") == 2


def test_pins_are_changed_only_by_name(line: Rig) -> None:
    driver = line.scu._driver
    with pytest.raises(NotSupported, match="404"):
        driver.change_pin("2", PIN, "54321")
    line.reopen(unverified_pin_commands=True)
    driver = line.scu._driver
    driver.change_pin("2", PIN, "54321")
    assert line.device.kept.users["2"].pin == "54321"
    line.device.kept.users["1"].tries = 0
    driver.unblock("1", "000000", "11111")
    assert line.device.kept.users["1"].tries == 3
    driver.change_puk("000000", "111111")
    with pytest.raises(Misconfigured, match="2 tries are left"):
        driver.unblock("1", "000000", "22222")


@pytest.mark.parametrize("name", ["admin_pin", "time_admin_pin"])
def test_the_pin_of_the_factory_has_to_be_allowed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_default_pins"):
        diebold_nixdorf.open(tmp_path, {"port": "/dev/x", name: PIN}, lambda: 0)


def test_secrets_stay_secret(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    options = Options(port="x", admin_pin="73951", time_admin_pin="84620")
    assert "73951" not in repr(options)
    assert "84620" not in repr(options)
    with caplog.at_level(TRAFFIC, logger="fiskal.traffic"):
        rig.sell()
        rig.register("POS-9")
    assert "fiskal.traffic" in {record.name for record in caplog.records}
    text = caplog.text
    assert PIN.encode().hex() not in text
    assert base64.b64encode(PIN.encode()).hex() not in text
    assert "**" in text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"port": "a", "url": "tcp://b:1"},
        {"url": "tcp://host"},
        {"port": "a", "serial": "12"},
        {"prot": "a"},
    ],
)
def test_configurations_that_cannot_work(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        diebold_nixdorf.open(tmp_path, options, lambda: 0)


# ---- plugging -------------------------------------------------------------------------------------------


def test_another_device_is_refused(rig: Rig) -> None:
    rig.sell()
    serial = rig.device.serial
    rig.inject("replug_other", value=30)
    with pytest.raises(ScuError):
        rig.start(seconds=1)
    caught: ScuError | None = None
    until = time.monotonic() + 10
    while not isinstance(caught, Misconfigured) and time.monotonic() < until:
        with pytest.raises(ScuError) as failure:
            rig.start(seconds=1)
        caught = failure.value
    assert caught is not None
    assert caught.code == "WRONG_TSE"
    assert rig.device.serial != serial
    assert rig.count("StartTransaction") == 0


def test_a_swap_in_the_middle_leaves_the_outcome_open(make: Callable[..., Rig]) -> None:
    """The old device may have signed. When it is back, nothing is signed twice."""
    rig = make("tcp")
    number = rig.start().transaction_number
    item = "0f0f0f0f-0000-4000-8000-000000000002"
    rig.inject("lost_answer", "FinishTransactionEnd")
    rig.inject("replug_other", "GetStartedTransactions", value=20)
    with pytest.raises(OutcomeUnknown):
        rig.finish(number, b"Beleg^7.00", item, seconds=3)
    rig.device.exchange()
    rig.reopen()
    rig.finish(number, b"Beleg^7.00", item, retry=True)
    sold_once(rig, b"Beleg^7.00")


@pytest.mark.parametrize("code", ["0001", "0104", "0106", "0107", "0FFF"])
def test_a_signature_that_was_made_in_spite_of_an_error_is_found(line: Rig, code: str) -> None:
    """The End is executed and reported as an error: by a device that fails behind the signature."""
    number = line.start().transaction_number
    interface = line.simulator._interface
    real = interface.execute

    def failing(request: object, fault: object) -> object:
        answer = real(request, fault)
        if request.command == 205:
            interface.execute = real
            interface.last_error = int(code, 16)
            return None
        return answer

    interface.execute = failing
    finished = line.finish(number, b"Beleg^7.00")
    sold_once(line, b"Beleg^7.00")
    by_counter = {message.signature_counter: message for message in line.log()}
    assert by_counter[finished.signature_data.signature_counter].process_data == b"Beleg^7.00"


def test_a_port_that_somebody_else_has(pty: Rig) -> None:
    assert isinstance(pty.simulator, PseudoTerminal)
    with pty.simulator.hold(), pytest.raises(Misconfigured, match=r"The TSE is not available.*web service"):
        pty.start()
    pty.sell()


def test_the_connection_of_another_program_changes_the_client(make: Callable[..., Rig]) -> None:
    rig = make("tcp")
    rig.sell()
    rig.inject("second_client", "FinishTransactionEnd", times=None)
    for _ in range(3):
        rig.sell()
    assert {message.client_id for message in rig.log() if message.transaction_number} == {CLIENT}


# ---- exports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "command"),
    [
        ("silent", None, "GetCommandResponse"),
        ("lost_answer", None, "GetCommandResponse"),
        ("torn", None, "GetCommandResponse"),
        ("drop_after", None, "GetCommandResponse"),
        ("unplug", 30, "GetCommandResponse"),
        ("error", "011C", "GetCommandResponse"),
        ("error", "011C", "ExportAll"),
        ("export_corrupt", None, "ExportAll"),
        ("export_empty_packets", 3, "ExportAll"),
        ("self_test_expired", None, "ExportAll"),
    ],
)
def test_an_export_survives(make: Callable[..., Rig], kind: str, value: object, command: str) -> None:
    rig = make("tcp", packet_size=500)
    for _ in range(4):
        rig.sell()
    rig.inject(kind, command, value=value, skip=10 if command == "GetCommandResponse" else 0)
    archive, _ = rig.export()
    assert rig.faults_left == 0
    assert rig.verify(archive).tses[0].transactions == 4


def test_an_export_of_many_packets(make: Callable[..., Rig]) -> None:
    rig = make("tcp", packet_size=61)  # more than 256 packets, and cuts within markers
    for _ in range(6):
        rig.sell()
    rig.verify(rig.export()[0])


def test_an_export_that_fails_for_good(line: Rig) -> None:
    line.sell()
    line.inject("error", "ExportAll", value="011C", times=None)
    with pytest.raises(TseRejected) as caught:
        line.export()
    assert caught.value.code == "EXPORT_FAILED"
    line.sell()


def test_nothing_is_erased_that_was_not_exported(line: Rig) -> None:
    line.sell()
    _, erased = line.export(erase=True)
    assert erased
    first = line.log()[0]
    assert (first.operation or "").lower().startswith("delete")
    driver = line.scu._driver
    with pytest.raises(TseRejected, match="export again"):
        driver.erase(first.signature_counter, None)
    kept = len(line.log())
    assert line.export()[0]
    line.sell()
    with pytest.raises(TseRejected, match="export again"):
        driver.erase(line.log()[-1].signature_counter, None)
    assert len(line.log()) > kept


# ---- the web service ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no_lf", "no_stx", "split_ws", "event", "huge", "positive_codes"])
def test_web_messages_that_are_a_little_off(web: Rig, kind: str) -> None:
    number = web.start().transaction_number
    web.inject(kind, "FinishTransaction")
    web.finish(number, b"Beleg^7.00")
    sold_once(web, b"Beleg^7.00")


@pytest.mark.parametrize(
    "kind",
    [
        "silent",
        "lost_answer",
        "drop_before",
        "unplug",
        "wrong_command",
        "foreign_id",
        "no_id",
        "bad_json",
        "not_object",
    ],
)
def test_a_finish_without_an_answer_is_sent_once_more(web: Rig, kind: str) -> None:
    """It either signs now, or the number is closed already: then nobody can know the signature."""
    number = web.start().transaction_number
    web.inject(kind, "FinishTransaction", value=1)
    if kind in ("silent", "drop_before", "unplug"):
        web.finish(number, b"Beleg^7.00")
    else:
        with pytest.raises(OutcomeUnknown):
            web.finish(number, b"Beleg^7.00")
    sold_once(web, b"Beleg^7.00")
    web.sell()


@pytest.mark.parametrize("kind", ["lost_answer", "drop_after", "silent"])
def test_a_lost_start_is_told_by_the_number_of_the_next(web: Rig, kind: str) -> None:
    web.sell()
    web.inject(kind, "StartTransaction")
    item = "0f0f0f0f-0000-4000-8000-000000000001"
    with pytest.raises(OutcomeUnknown):
        web.start(item)
    with pytest.raises(OutcomeUnknown):
        web.start(item, retry=True)  # still nobody knows
    web.reopen()
    web.sell()
    started = web.start(item, retry=True)
    numbers = web.scu.get_tse_info().current_started_transaction_numbers
    assert started.transaction_number in numbers
    assert set(numbers) == set(web.device.tse.open_transactions)
    assert len(numbers) == (1 if kind == "silent" else 2)


def test_the_first_start_of_all_may_be_lost_too(web: Rig) -> None:
    web.inject("lost_answer", "StartTransaction")
    item = "0f0f0f0f-0000-4000-8000-000000000001"
    with pytest.raises(OutcomeUnknown):
        web.start(item)
    (web.folder / "scu" / "web-service.json").unlink()  # as if the process had died before it wrote it
    web.reopen()
    with pytest.raises(OutcomeUnknown):
        web.start(item, retry=True)
    web.sell()
    assert web.start(item, retry=True).transaction_number == 3


def test_a_slow_service_is_not_asked_twice(web: Rig) -> None:
    number = web.start().transaction_number
    web.reopen(transaction_timeout_ms=400)
    web.simulator.conductor.take(Plan(scale=0, service_time={"FinishTransaction": 700}))
    with pytest.raises(OutcomeUnknown):
        web.finish(number, b"Beleg^7.00")
    time.sleep(1.0)
    sold_once(web, b"Beleg^7.00")


@pytest.mark.parametrize("kind", ["selftest", "selftest_required"])
def test_the_service_is_waited_for(web: Rig, kind: str) -> None:
    web.sell()
    web.inject(kind, "StartTransaction")
    web.start(seconds=5)
    web.inject(kind, "StartTransaction", times=None)
    with pytest.raises(Unreachable) as caught:
        web.start(seconds=1.5)
    assert caught.value.code == "BUSY"


def test_an_export_in_the_vendors_page_says_what_to_do(web: Rig) -> None:
    web.scu.get_tse_info()
    web.inject("export_remove_mode", "StartTransaction")
    with pytest.raises(Misconfigured, match="Finish or abort the export"):
        web.start()


def test_an_expired_certificate_uses_the_number(web: Rig) -> None:
    number = web.start().transaction_number
    web.inject("cert_expired", "FinishTransaction")
    with pytest.raises(OutcomeUnknown, match="5020"):
        web.finish(number)
    assert number not in web.device.tse.open_transactions


@pytest.mark.parametrize(
    "settings",
    [
        {"log_time": "utc"},
        {"log_time": "mixed"},
        {"upper_case_serial": True},
        {"code_sign": 1, "description_key": "Description"},
        {"register_twice": "1337"},
        {"require_default_client": True},
        {"management_client": False},
    ],
)
def test_other_services(make: Callable[..., Rig], settings: dict[str, object]) -> None:
    rig = make("web", **settings)
    started = rig.start()
    finished = rig.finish(started.transaction_number, b"Beleg^7.00")
    times = [message.log_time for message in rig.log() if message.transaction_number]
    assert [started.time_stamp, finished.time_stamp] == times
    rig.device.register("POS-8")
    rig.scu._driver.register("POS-8", None)
    with pytest.raises(TseRejected):
        rig.finish(started.transaction_number)


def test_the_driver_at_two_connections(web: Rig) -> None:
    other = web.open("other")
    assert other.get_tse_info().serial_number_octet == web.scu.get_tse_info().serial_number_octet
    web.sell()
    other.close()


def test_512_open_transactions(make: Callable[..., Rig]) -> None:
    rig = make("web", max_open_transactions=20)
    for _ in range(20):
        rig.start()
    with pytest.raises(TseRejected) as caught:
        rig.start()
    assert caught.value.code == "TRANSACTION_LIMIT"


@pytest.mark.parametrize("number", [*range(1, 42), 1337, *range(5001, 5038)])
def test_every_code_of_the_service_has_an_error(number: int) -> None:
    for _ in (number, -number):
        error = dialect.refusal(ServiceError(abs(number), "X"))
        assert isinstance(error, ScuError)
        assert not isinstance(error, OutcomeUnknown)


def test_pins_over_the_web_service(web: Rig) -> None:
    web.scu.get_tse_info()
    driver = web.scu._driver
    driver.change_pin("02", PIN, "ä1234")
    assert web.device.kept.users["2"].pin == "ä1234"
    web.reopen(time_admin_pin="ä1234").get_tse_info()
    web.start()
    with pytest.raises(Misconfigured):
        web.scu._driver.unblock("01", "999999", "11111")
    assert web.device.kept.puk_tries == 2
    web.scu._driver.unblock("01", "000000", "11111")


def test_texts_survive_the_web_service(web: Rig) -> None:
    for text in ('\r"€\\', "Beleg^1.00_äöü^1.00:Bar", "x" * 16_000):
        data = text.encode()
        web.sell(data)
        assert web.count("FinishTransaction", data) == 1
    number = web.start().transaction_number
    for data in (b"\xff", b"x" * 16_001):
        with pytest.raises(ScuError) as caught:
            web.finish(number, data)
        assert caught.value.code == "INVALID_PROCESS_DATA"


def test_calls_without_a_queue_item(rig: Rig) -> None:
    number = rig.start(EMPTY_GUID).transaction_number
    rig.finish(number, item=EMPTY_GUID)
    assert rig.count("FinishTransaction") == 1


def test_the_plan_in_a_file_is_read_again(make: Callable[..., Rig], tmp_path: Path) -> None:
    control = tmp_path / "plan.json"
    control.write_text(json.dumps({"scale": 0}))
    rig = make("tcp", control=str(control))
    rig.sell()
    control.write_text(
        json.dumps({"scale": 0, "faults": [{"kind": "max_sig", "command": "StartTransactionEnd"}]})
    )
    with pytest.raises(TseRejected) as caught:
        rig.start()
    assert caught.value.code == "SIGNATURE_LIMIT"


def test_the_log_level_of_frames_is_below_debug() -> None:
    assert TRAFFIC < logging.DEBUG
