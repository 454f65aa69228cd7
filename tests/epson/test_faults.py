"""Everything that can go wrong on the way and in the device, at every call: nothing is lost, nothing signed twice."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import (
    Deadline,
    RegisterClientIdRequest,
    StartExportSessionRequest,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.drivers import convert_options, epson
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, TseRejected, Unreachable
from fiskal.scu.transports.traffic import TRAFFIC
from fiskal.simulators.epson.faults import AFTER, BEFORE
from fiskal.simulators.plan import Plan
from fiskal.tse.logmessage import LogType
from tests.campaigns import device_epson, epson_rig

from .conftest import SECRETS, Pos, Shop, end, export, fetch

ON_THE_WAY = sorted(set(BEFORE | AFTER) - {"refuse", "no_greeting", "silence", "silence_before", "in_use"})
SHOCKS = (
    *("power_cycle", "power_cycle_after", "idle_logout", "time_unset", "self_test_expired", "foreign_host"),
    *("export_stuck", "wrong_secret"),
)
VALUES: dict[str, Any] = {
    "error": "SOMETHING_NEW",
    "envelope_error": "SYSTEM_ERROR",
    "message_error": "SEND_ERROR",
    "delay": 30,
    "split": 1,
    "stale_owner": 0.2,
}


def sale_by_all_means(pos: Pos) -> list[tuple[str, int, int]]:
    """Start, update, finish, each one again as a repetition until it goes through; what was answered."""
    answers = []
    number = 0
    for op in ("start", "update", "finish"):
        item, data = str(uuid.uuid4()), uuid.uuid4().bytes
        for attempt in range(6):
            try:
                if op == "start":
                    answer: Any = pos.start(item, retry=attempt > 0)
                elif op == "update":
                    answer = pos.update(number, data, item, retry=attempt > 0)
                else:
                    answer = pos.finish(number, data, item, retry=attempt > 0)
                break
            except ScuError:
                continue
        else:
            raise AssertionError(f"{op} did not go through")
        number = answer.transaction_number
        answers.append((op, number, answer.signature_data.signature_counter))
    return answers


def logged(shop: Shop) -> list[tuple[str, int, int]]:
    return [
        (
            (message.operation or "").removesuffix("Transaction").lower(),
            message.transaction_number or 0,
            message.signature_counter,
        )
        for message in shop.messages()
        if message.type is LogType.TRANSACTION
    ]


@pytest.mark.parametrize("kind", ON_THE_WAY)
def test_no_fault_on_the_way_loses_or_doubles_a_signature(plain: Shop, kind: str) -> None:
    pos = Pos(plain.ready(), seconds=5)
    answers = []
    for command in ("StartTransaction", "UpdateTransaction", "FinishTransaction"):
        plain.inject(kind, command, value=VALUES.get(kind))
        answers += sale_by_all_means(pos)
    assert logged(plain) == answers


def test_the_answer_to_an_earlier_start_is_not_taken_for_a_new_one(plain: Shop) -> None:
    pos = Pos(plain.ready())
    first = pos.start()
    plain.inject("old_answer", "StartTransaction")
    second = pos.start()
    assert (first.transaction_number, second.transaction_number) == (1, 2)
    assert [op for op, _, _ in logged(plain)] == ["start", "start"]


@pytest.mark.parametrize("kind", ["silence", "silence_before"])
def test_silence_is_an_unknown_outcome_that_is_found_out_later(plain: Shop, kind: str) -> None:
    pos = Pos(plain.ready(), seconds=0.6)
    item = str(uuid.uuid4())
    plain.inject(kind, "StartTransaction")
    with pytest.raises(OutcomeUnknown):
        pos.start(item)
    pos.seconds = 20
    number = pos.start(item, retry=True).transaction_number
    pos.finish(number)
    assert [op for op, _, _ in logged(plain)] == ["start", "finish"]


@pytest.mark.parametrize("kind", SHOCKS)
def test_what_happens_to_the_device_is_repaired(plain: Shop, kind: str) -> None:
    pos = Pos(plain.ready())
    answers = []
    for command in ("StartTransaction", "FinishTransaction", "GetStorageInfo", "GetChallenge"):
        plain.inject(kind, command)
        pos.scu._seen_at = float("-inf")  # what was seen of the device is forgotten
        if kind == "wrong_secret":
            plain.device.log_everybody_out()
        answers += sale_by_all_means(pos)
        plain.simulator.conductor.take(Plan(scale=0))
    assert logged(plain) == answers


@pytest.mark.parametrize(
    ("kind", "code", "again"),
    [
        ("store_full", "MEMORY_FULL", True),
        ("sig_exhausted", "SIGNATURE_LIMIT", True),
        ("cert_expired", "CERTIFICATE_EXPIRED", True),
        ("max_tx", "TRANSACTION_LIMIT", True),
    ],
)
def test_a_device_at_its_limit_refuses_cleanly(plain: Shop, kind: str, code: str, again: bool) -> None:
    pos = Pos(plain.ready())
    plain.inject(kind, "StartTransaction")
    with pytest.raises(TseRejected) as caught:
        pos.start()
    assert caught.value.code == code
    assert (caught.value.vendor_code or "").startswith("TSE1_ERROR_")
    assert not plain.transactions()
    pos.sell()


def test_real_limits(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(max_open_transactions=2, max_signatures=40)
    pos = Pos(shop.ready())
    pos.start()
    pos.start()
    with pytest.raises(TseRejected) as caught:
        pos.start()
    assert caught.value.code == "TRANSACTION_LIMIT"
    for _ in range(40 - shop.tse.counter):
        pos.update(1)
    with pytest.raises(TseRejected) as caught:
        pos.update(1)
    assert caught.value.code == "SIGNATURE_LIMIT"


@pytest.mark.parametrize("part", ["FW", "CSP", "RNG"])
def test_a_self_test_that_fails(plain: Shop, part: str) -> None:
    scu = plain.ready()
    plain.inject("self_test_fail", "RunTSESelfTest", value=part)
    with pytest.raises(TseRejected) as caught:
        scu.execute_self_test()
    assert caught.value.code == "SECURE_STATE"
    assert caught.value.vendor_code == f"TSE1_ERROR_SELF_TEST_FAILED_{part}"
    scu.execute_self_test()


@pytest.mark.parametrize("kind", ["pin_blocked", "wrong_pin"])
@pytest.mark.parametrize("command", ["AuthenticateUserForAdmin", "AuthenticateUserForTimeAdmin"])
def test_a_pin_that_is_not_taken_is_not_tried_again(plain: Shop, kind: str, command: str) -> None:
    scu = plain.ready()
    plain.inject(kind, command)

    def use() -> None:
        if command == "AuthenticateUserForAdmin":
            scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))
        else:
            Pos(scu).start()

    for _ in range(3):
        with pytest.raises(Misconfigured) as caught:
            use()
        assert caught.value.code in ("PIN_BLOCKED", "AUTH_FAILED")
    retries = plain.device.kept.retries["admin" if "ForAdmin" in command else "time"]
    assert retries == (0 if kind == "pin_blocked" else 2)


def test_a_blocked_pin_is_unblocked_with_the_puk(plain: Shop) -> None:
    scu = plain.ready()
    plain.inject("pin_blocked", "AuthenticateUserForTimeAdmin")
    with pytest.raises(Misconfigured):
        Pos(scu).start()
    scu.close()
    driver = epson.open_driver(plain.folder / "scu", plain.options(time_admin_pin="24680"))
    with pytest.raises(Misconfigured, match="2 tries are left"):
        driver.unblock("TimeAdmin", "000001", "24680")
    with pytest.raises(ClientError, match="differ"):
        driver.unblock("TimeAdmin", SECRETS["puk"], SECRETS["time_admin_pin"])
    driver.unblock("TimeAdmin", SECRETS["puk"], "24680")
    driver.close()
    Pos(plain.open(time_admin_pin="24680")).sell()


def test_a_wrong_secret_is_said_so(plain: Shop) -> None:
    plain.ready().close()
    scu = plain.open(secret="OTHERKEY")
    with pytest.raises(Misconfigured, match="shared secret"):
        Pos(scu).start()
    assert sorted(plain.device.kept.retries.values()) == [3, 3, 3]


# ---- connecting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refuse", "no_greeting", "drop_before", "garbage_xml", "drop_mid"])
def test_a_host_that_does_not_greet(plain: Shop, kind: str) -> None:
    scu = plain.ready(connect_timeout_ms=300)
    plain.simulator.server.devices["local_TSE"].owner = None
    plain.inject(kind, "connect", times=2)
    scu.close()
    scu = plain.open(connect_timeout_ms=300)
    for _ in range(2):
        with pytest.raises(
            Unreachable, match=r"^The TSE is not available\. Unable to connect to endpoint at"
        ):
            scu.get_tse_info(Deadline(5))
    Pos(scu).sell()


@pytest.mark.parametrize("kind", ["split", "quote_noise", "coalesce"])
def test_greetings_and_openings_in_any_shape(plain: Shop, kind: str) -> None:
    for command in ("connect", "open_device", "close_device"):
        plain.inject(kind, command, value=1)
    Pos(plain.ready()).sell()


@pytest.mark.parametrize(("times", "waits"), [(2, True), (None, False)])
def test_a_device_that_is_in_use_is_waited_for(plain: Shop, times: int | None, waits: bool) -> None:
    plain.inject("in_use", "open_device", times=times)
    scu = plain.open(busy_retry_ms=1000)
    if waits:
        assert scu.get_tse_info(Deadline(5)).current_state is TseStates.UNINITIALIZED
    else:
        with pytest.raises(Unreachable) as caught:
            scu.get_tse_info(Deadline(5))
        assert (caught.value.code, caught.value.vendor_code) == ("BUSY", "DEVICE_IN_USE")


@pytest.mark.parametrize("reconnect", [True, False])
def test_a_device_that_the_old_connection_still_holds(plain: Shop, reconnect: bool) -> None:
    pos = Pos(plain.ready(reconnect=reconnect))
    for command in ("StartTransaction", "FinishTransaction"):
        plain.inject("stale_owner", command, value=0.3)
        pos.sell()
    assert [op for op, _, _ in logged(plain)] == ["start", "finish"] * 2


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("DEVICE_NOT_FOUND", Unreachable, "TSE_NOT_AVAILABLE"),
        ("DEVICE_TYPE_INVALID", Misconfigured, "PROTOCOL_ERROR"),
        ("SOMETHING_NEW", TseRejected, "VENDOR_ERROR"),
    ],
)
def test_a_device_that_is_not_opened(plain: Shop, code: str, kind: type[ScuError], expected: str) -> None:
    plain.inject("envelope_error", "open_device", value=code)
    with pytest.raises(kind) as caught:
        plain.open().get_tse_info(Deadline(5))
    assert (caught.value.code, caught.value.vendor_code) == (expected, code)


@pytest.mark.parametrize(
    ("code", "answered"), [("TSE1_ERROR_CERTIFICATE_EXPIRED", True), ("SOMETHING_NEW", True)]
)
def test_a_device_that_signs_and_complains_afterwards(plain: Shop, code: str, answered: bool) -> None:
    pos = Pos(plain.ready())
    number = pos.start().transaction_number
    execute = plain.device.execute

    def complaining(text: bytes, fault: Any = None) -> tuple[str, str, dict[str, Any]]:
        result, function, output = execute(text, fault)
        return (code, function, {}) if function == "FinishTransaction" else (result, function, output)

    plain.device.execute = complaining
    finished = pos.finish(number)
    assert finished.signature_data.signature_counter in [
        message.signature_counter for message in plain.messages()
    ]
    assert [op for op, _, _ in logged(plain)] == ["start", "finish"]


@pytest.mark.parametrize("known", [True, False])
def test_log_ins_whose_answers_get_lost_do_not_use_up_the_tries_of_a_wrong_pin(
    plain: Shop, known: bool
) -> None:
    before = plain.ready()
    Pos(before).sell()
    before.close()
    plain.device.log_everybody_out()
    if not known:
        (plain.folder / "scu" / "pins.json").unlink()
    scu = plain.open()
    plain.inject("drop_after", "AuthenticateUserForTimeAdmin", times=4)
    pos = Pos(scu)
    for _ in range(2):
        with pytest.raises(ScuError):
            pos.start()
    if known:
        pos.sell()
        assert b"accepted" in (plain.folder / "scu" / "pins.json").read_bytes()
        assert b'"Admin"' not in (plain.folder / "scu" / "pins.json").read_bytes()
    else:
        with pytest.raises(Misconfigured, match="Two log-ins"):
            pos.start()


def test_a_code_nobody_knows_is_passed_on(plain: Shop) -> None:
    pos = Pos(plain.ready())
    plain.inject("error", "StartTransaction", value="TSE9_ERROR_WITHOUT_A_NAME")
    with pytest.raises(TseRejected, match="TSE9_ERROR_WITHOUT_A_NAME"):
        pos.start()


def test_the_device_is_open_for_others_between_calls_if_it_is_shared(plain: Shop) -> None:
    scu = plain.ready(exclusive=False)
    Pos(scu).sell()
    assert plain.device.owner is None
    before = plain.tse.counter
    Pos(scu).start()
    assert plain.tse.counter == before + 2  # who has closed a device may have been logged out


def test_log_ins_may_survive_the_closing_of_a_device(make_shop: Callable[..., Shop]) -> None:
    for forgets, extra in ((False, 0), (True, 1)):
        shop = make_shop(forgets_log_ins=forgets)
        pos = Pos(shop.ready(exclusive=False, log_ins_survive_close=True))
        pos.sell()
        before = shop.tse.counter
        pos.start()
        assert shop.tse.counter == before + 1 + extra


# ---- without an Admin PIN -------------------------------------------------------------------------


def test_a_shop_without_an_admin_pin_sells(plain: Shop) -> None:
    plain.ready().close()
    plain.device.power_cycle()
    scu = plain.open("till", admin_pin="", puk="", clients=["POS-1"])
    Pos(scu).sell()
    requests: list[Callable[[], Any]] = [
        lambda: scu.register_client_id(RegisterClientIdRequest(client_id="POS-9")),
        lambda: scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-1")),
        lambda: scu.set_tse_state(TseState(current_state=TseStates.TERMINATED)),
        lambda: export(scu),
    ]
    for request in requests:
        with pytest.raises(Misconfigured, match="admin_pin") as caught:
            request()
        assert caught.value.code == "PIN_MISSING"
    with pytest.raises(TseRejected, match="POS-7"):
        Pos(scu, "POS-7").start()


def test_it_remembers_the_clients_it_was_once_told(plain: Shop) -> None:
    plain.ready().close()
    Pos(plain.open(admin_pin="")).sell()


@pytest.mark.parametrize("last_response", [True, False])
def test_a_lost_answer_without_an_admin_pin(plain: Shop, last_response: bool) -> None:
    plain.ready().close()
    pos = Pos(plain.open(admin_pin="", last_response=last_response))
    item = str(uuid.uuid4())
    plain.inject("drop_after", "StartTransaction")
    if not last_response:
        with pytest.raises(OutcomeUnknown):
            pos.start(item)
        with pytest.raises(OutcomeUnknown):
            pos.start(item, retry=True)
        pos.scu.close()
        pos = Pos(plain.open())
        assert pos.start(item, retry=True).transaction_number == 1
    else:
        assert pos.start(item).transaction_number == 1
    pos.finish(1)
    assert [op for op, _, _ in logged(plain)] == ["start", "finish"]


# ---- starts that look alike ------------------------------------------------------------------------


def test_a_lost_start_is_not_taken_for_a_later_one(plain: Shop) -> None:
    scu = plain.ready()
    pos = Pos(scu, seconds=0.5)
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    plain.inject("silence_before", "StartTransaction")
    with pytest.raises(OutcomeUnknown):
        pos.start(first)
    pos.seconds = 20
    answered = pos.start(second)
    scu.close()
    pos = Pos(plain.open())
    again = pos.start(first, retry=True)
    assert again.transaction_number != answered.transaction_number
    assert pos.start(second, retry=True) == answered


# ---- exports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "skip"),
    [
        ("drop_after", 2),
        ("drop_mid", 0),
        ("rst", 1),
        ("garbage_xml", 1),
        ("bad_base64", 1),
        ("power_cycle", 1),
        ("idle_logout", 1),
        ("export_retry", 1),
        ("odd_chunks", 0),
        ("error", 1),
        ("env_timeout", 3),
    ],
)
def test_an_export_goes_on_after_a_fault(plain: Shop, kind: str, skip: int) -> None:
    scu = plain.ready()
    pos = Pos(scu)
    for _ in range(10):
        pos.sell()
    plain.inject(kind, "GetExportData", skip=skip, value="TSE1_ERROR_EXPORT_FAILED")
    token, archive = export(scu, erase=True)
    report = plain.verify(archive)
    assert (report.ok, report.findings) == (True, [])
    assert report.tses[0].transactions == 10
    assert end(scu, token, archive, erase=True).is_erased is True
    pos.sell()


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "rst", "garbage_xml", "power_cycle"])
def test_an_erasure_whose_answer_gets_lost_is_not_claimed(plain: Shop, kind: str) -> None:
    scu = plain.ready()
    pos = Pos(scu)
    pos.sell()
    token, archive = export(scu, erase=True)
    plain.inject(kind, "FinalizeExport")
    ended = end(scu, token, archive, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, False)
    sold = pos.sell()
    token, archive = export(scu, erase=True)
    report = plain.verify(archive)
    assert report.ok
    assert report.tses[0].last_counter >= sold.signature_data.signature_counter
    assert end(scu, token, archive, erase=True).is_erased is True


def test_an_export_that_begins_differently_is_not_glued_together(plain: Shop) -> None:
    scu = plain.ready()
    for _ in range(10):
        Pos(scu).sell()
    plain.inject("export_shifts", "GetExportData", skip=1)
    plain.inject("drop_after", "GetExportData", skip=2)
    token = scu.start_export_session(StartExportSessionRequest()).token_id
    with pytest.raises(TseRejected, match="begins differently"):
        fetch(scu, token)
    Pos(scu).sell()


def test_an_export_is_not_taken_up_for_ever(plain: Shop) -> None:
    scu = plain.ready(export_restarts=2)
    Pos(scu).sell()
    plain.inject("drop_after", "GetExportData", times=None)
    token = scu.start_export_session(StartExportSessionRequest()).token_id
    with pytest.raises(TseRejected, match="interrupted 3 times"):
        fetch(scu, token)
    plain.simulator.conductor.take(Plan(scale=0))
    Pos(scu).sell()
    assert plain.device._export is None


def test_an_export_of_nothing_is_empty(plain: Shop) -> None:
    scu = plain.ready()
    plain.inject("export_empty", "GetExportData")
    token, archive = export(scu)
    assert archive == bytes(1024)
    assert end(scu, token, archive, erase=False).is_valid
    Pos(scu).sell()


def test_a_device_that_is_held_for_an_erasure_still_tells_its_state_and_signs(plain: Shop) -> None:
    scu = plain.ready()
    pos = Pos(scu)
    pos.sell()
    export(scu, erase=True)
    assert plain.device._export is not None
    info = pos.info()
    assert (info.current_state, info.current_started_transaction_numbers) == (TseStates.INITIALIZED, [])
    pos.sell()
    assert plain.device._export is None
    export(scu, erase=True)
    assert plain.device._export is not None
    scu.close()
    assert plain.device._export is None


def test_a_device_is_not_held_for_ever(plain: Shop) -> None:
    scu = plain.ready(hold_s=0)
    Pos(scu).sell()
    token, archive = export(scu, erase=True)
    assert end(scu, token, archive, erase=True).is_erased is False
    assert plain.device._export is None


def test_the_exports_of_a_disabled_device_are_its_own_decision(make_shop: Callable[..., Shop]) -> None:
    for allowed in (True, False):
        shop = make_shop(exports_when_disabled=allowed)
        scu = shop.ready()
        Pos(scu).sell()
        scu.set_tse_state(TseState(current_state=TseStates.TERMINATED))
        if allowed:
            _, archive = export(scu)
            assert shop.verify(archive).tses[0].transactions == 1
        else:
            with pytest.raises(TseRejected, match="expired or the TSE has been disabled"):
                export(scu)


# ---- initialising -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "garbage_xml", "busy"])
@pytest.mark.parametrize("command", ["SetUp", "RunTSESelfTest", "UpdateTime", "RegisterSecretKey"])
def test_an_initialisation_that_is_disturbed_is_done_in_the_end(plain: Shop, kind: str, command: str) -> None:
    plain.inject(kind, command)
    scu = plain.open()
    target = TseState(current_state=TseStates.INITIALIZED)
    try:
        assert scu.set_tse_state(target) == target
    except ScuError:
        assert scu.set_tse_state(target) == target
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    Pos(scu).sell()
    assert plain.device.kept.secret == SECRETS["secret"]


def test_the_recovery_sheet_is_there_before_the_pins_are(plain: Shop) -> None:
    plain.inject("drop_before", "SetUp", times=3)
    scu = plain.open()
    with pytest.raises(ScuError):
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    (sheet,) = (plain.folder / "scu").glob("recovery-sheet-*.txt")
    assert sheet.stat().st_mode & 0o777 == 0o600
    assert all(secret in sheet.read_text() for secret in SECRETS.values())


def test_a_locked_device(plain: Shop) -> None:
    scu = plain.ready()
    driver: Any = scu._driver
    with driver._errors(), driver._administrator(None):
        driver._operate("LockTSE", {}, None)
    with pytest.raises(TseRejected, match="option 'unlock'"):
        Pos(scu).start()
    scu.close()
    Pos(plain.open(unlock=True)).sell()


# ---- configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["puk", "admin_pin", "time_admin_pin", "secret"])
def test_what_everybody_knows_is_no_secret(tmp_path: Path, name: str) -> None:
    known = {"puk": "123456", "admin_pin": "11111", "time_admin_pin": "22222", "secret": "EPSONKEY"}
    given = {**SECRETS, name: known[name]}
    with pytest.raises(ConfigurationError, match="allow_default_secrets"):
        epson.open(tmp_path, epson.Options(**given))  # type: ignore[arg-type]
    epson.open(tmp_path, epson.Options(**given, allow_default_secrets=True)).close()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"puk": "1"},
        {"admin_pin": "123456"},
        {"secret": "x"},
        {"port": 0},
        {"fingerprint": "zz"},
        {"serial": "1"},
        {"time_function": "Now"},
        {"nonsense": 1},
        {"host": 1},
    ],
)
def test_options_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        convert_options("epson", given, epson.Options)


def test_every_option_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "devices" / "epson.md").read_text()
    missing = [name for name in epson.Options.__struct_fields__ if f"`{name}`" not in text]
    assert not missing


def test_no_secret_is_shown(plain: Shop, caplog: pytest.LogCaptureFixture) -> None:
    assert not any(secret in repr(plain.options()) for secret in SECRETS.values())
    with caplog.at_level(TRAFFIC, logger="fiskal"):
        scu = plain.ready()
        Pos(scu).sell()
        scu.close()
        wrong = plain.open(time_admin_pin="00007")
        with pytest.raises(Misconfigured) as caught:
            Pos(wrong).start()
    frames = [record.getMessage() for record in caplog.records if record.name == "fiskal.traffic"]
    assert any("**" in frame for frame in frames)
    texts = [record.getMessage() for record in caplog.records] + [str(caught.value)]
    for line in frames:
        raw = re.sub(r"[^0-9a-f*]", "", line.split(" ")[-1]).replace("*", "0")
        if len(raw) % 2 == 0:
            texts.append(bytes.fromhex(raw).decode("latin-1"))
    for secret in [*SECRETS.values(), "00007"]:
        assert not any(secret in text for text in texts), secret


def test_the_host_certificate_may_be_pinned(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(tls=True)
    certificate = x509.load_pem_x509_certificate(shop.simulator.certificate_file.read_bytes())
    digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    pinned = shop.open(ca_file=None, fingerprint=":".join(digest[i : i + 2] for i in range(0, 64, 2)).upper())
    assert pinned.get_tse_info().current_state is TseStates.UNINITIALIZED
    pinned.close()
    for options in ({"ca_file": None}, {"ca_file": None, "fingerprint": "0" * 64}):
        with pytest.raises(Unreachable, match="certificate"):
            shop.open(**options).get_tse_info(Deadline(5))


def test_find_lists_what_greets_like_an_epson_host(make_shop: Callable[..., Shop]) -> None:
    try:
        shop = make_shop(host="127.0.0.81", port=None)
    except OSError:
        pytest.skip("127.0.0.81:8009 is not to be had here")
    (found,) = epson.find(["127.0.0.81", "127.0.0.82"])
    assert (found.family, found.place, found.state) == ("epson", "127.0.0.81:8009", "uninitialized")
    assert found.serial == shop.tse.chain.serial.hex()
    assert found.options == {"host": "127.0.0.81", "serial": found.serial}
    assert found.memory_left_bytes == 6_979_321_856
    assert found.signatures_left == 20_000_000
    scu = epson.open(shop.folder / "scu", epson.Options(**SECRETS, **found.options))  # type: ignore[arg-type]
    scu.get_tse_info()
    (used,) = epson.find(["127.0.0.81"])
    assert used.serial is None
    assert "uses the TSE" in used.note
    scu.close()


def test_time_that_has_drifted_away_is_set_anew(plain: Shop) -> None:
    pos = Pos(plain.ready(max_drift_s=5))
    pos.sell()
    driver: Any = pos.scu._driver
    driver._time_set_at = float("-inf")
    plain.device._clock.set(plain.device._clock() + 60 * 10_000_000)
    pos.sell()
    pos.sell()
    assert [m.operation for m in plain.messages()].count("updateTime") == 2


# ---- the campaign, in short ---------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"exclusive": False}, {"reconnect": False}], ids=["", "shared", "anew"])
def test_a_short_campaign(tmp_path: Path, more: dict[str, Any]) -> None:
    result = device_epson.run(tmp_path, 40, seed=5, rate=0.6, **more)
    assert result.repeated or result.faults


def test_a_short_campaign_of_kills(tmp_path: Path) -> None:
    assert device_epson.kill(tmp_path, 1) >= 1


def test_a_short_campaign_of_dying_devices(tmp_path: Path) -> None:
    assert device_epson.kill_device(tmp_path, 1) >= 2


def test_the_rig_of_the_campaign_of_all_families(tmp_path: Path) -> None:
    with epson_rig.rig(tmp_path, random.Random(3)) as rig:
        pos = Pos(rig.scu, rig.client)
        answers = []
        for _ in range(5):
            rig.strike()
            pos.scu = rig.scu
            answers += sale_by_all_means(pos)
            rig.calm()
        assert [(one.number, one.counter) for one in rig.log()] == [answer[1:] for answer in answers]
    with epson_rig.mounted_device(tmp_path), epson_rig.mounted_rig(tmp_path) as rig:
        sold = Pos(rig.scu, rig.client).sell()
        assert rig.log()[-1].counter == sold.signature_data.signature_counter


def test_answers_of_a_restart_are_those_of_the_log(plain: Shop) -> None:
    pos = Pos(plain.ready())
    sold = pos.sell()
    signature = base64.b64decode(sold.signature_data.signature_base64)
    assert any(message.signature == signature for message in plain.messages())
