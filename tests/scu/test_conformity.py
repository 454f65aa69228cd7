"""The test cases of BSI TR-03153-1-TS for the interface of a TSE, against the software TSE.

Each test names the cases it covers. Those of the specification that cannot apply are listed with the reason; no
case may be missing on both sides. The letters and numbers are the specification's; ``II_AUT_02`` and ``II_EXF_01``
stand for their whole groups, which have no published end.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.clock import TICKS_PER_SECOND, from_unix, to_unix
from fiskal.scu.software.access import PIN_RETRIES, TRANSPORT_PUK, Access
from fiskal.scu.software.aggregating import AggregatingTse
from fiskal.scu.software.limits import MAX_COUNTER, Limits
from fiskal.scu.software.se_api import (
    SeApi,
    SeApiError,
    SeClock,
    SeError,
    TimeSyncVariant,
    TransactionState,
    open_se_api,
)
from fiskal.scu.software.tse import SoftwareTse
from fiskal.tse._native import TimeFormat
from fiskal.tse.algorithms import CURVES, algorithm_by_oid, point_of, serial_of_point
from fiskal.tse.logmessage import LogMessage, LogType, build_file_name, parse, parse_file_name
from fiskal.tse.tar import read_members
from fiskal.tse.tarverify import TarReport, Trust, verify_tar

COVERED: set[str] = set()
_F = TypeVar("_F", bound=Callable[..., None])


def covers(*cases: str) -> Callable[[_F], _F]:
    """Note which cases a test covers; ``SM_CON_01-03`` are three."""
    for case in cases:
        COVERED.update(expand(case))
    return lambda test: test


def expand(case: str) -> Iterator[str]:
    match = re.fullmatch(r"(\w+_)(\d\d)-(\d\d)", case)
    if match is None:
        yield case
        return
    for number in range(int(match[2]), int(match[3]) + 1):
        yield f"{match[1]}{number:02d}"


CASES: Final = """
    SM_CON_01-12 SM_TME_01-11 SM_SIG_01-08 SM_TRA_01-07 SM_KRY_01-03 SM_PKI_02-03 SM_LOG_01-06 SM_AUD_01-02
    II_AUT_02 II_LGO_01-02 II_UBP_01-06 II_INI_01-02 II_SDE_01-02 II_GDE_01-04 II_STE_01-03 II_DSE_01-03
    II_UDT_01-07 II_TSV_01-02 II_GCT_01-02 II_EXP_01-09 II_EXC_01-02 II_DLM_01-04 II_ESN_01-04 II_CSC_01-02
    II_CTC_01-03 II_RFB_01-06 II_GLL_01-03 II_GLT_01-07 II_REC_01-06 II_DRC_01-03 II_STA_01-04 II_UPD_01-10
    II_FIN_01-06 II_EXF_01 II_CNT_01-05 II_MNT_01-02 II_GTS_01-03 II_GOT_01-05 II_LTL_01-03 II_UTL_01-03
    II_ERR_01-17 EXP_TAR_01-03 EXP_INF_01-07 EXP_LOG_01-18 EXP_LOG_23-26 EXP_LOG_28-32
"""
NOT_APPLICABLE: Final = {
    "SM_TME_09": "there is no central time service that several TSEs share",
    "II_RFB_01-06": "restoring logs is optional and answered with ErrorFunctionNotSupported, which II_ERR covers",
}


def test_no_case_is_forgotten() -> None:
    wanted = {case for text in CASES.split() for case in expand(text)}
    excused = {case for text in NOT_APPLICABLE for case in expand(text)}
    assert wanted - excused == COVERED
    assert not excused & COVERED


# ---- a device and what one does with it ---------------------------------------------------------

PINS: Final = {"admin": "11111", "timeadmin": "22222", "logger": "33333"}
WRONG: Final = "98765"


class Device:
    """A TSE in a folder that can be cut off from power."""

    def __init__(self, folder: Path, clock: Any, options: dict[str, Any]) -> None:
        self.folder = folder
        self.clock = clock
        self.options = options
        self.moment = 0.0
        self.api = self._open()

    def _open(self) -> SeApi:
        options = dict(self.options)
        if options.pop("aggregating", False):
            se_clock = SeClock(self.clock)
            tse = AggregatingTse(self.folder, clock=se_clock, **options)
            return SeApi(tse, Access.create(self.folder), clock=se_clock, monotonic=lambda: self.moment)
        return open_se_api(self.folder, clock=self.clock, monotonic=lambda: self.moment, **options)

    def power_cycle(self, **options: Any) -> None:
        self.api.tse._resources.close()
        self.options |= options
        self.api = self._open()

    def set_pins(self) -> None:
        for user, pin in PINS.items():
            self.api.unblock_pin(user, TRANSPORT_PUK, pin)

    def log_in(self, user: str) -> None:
        self.api.authenticate_user(user, PINS[user])

    def initialize(self) -> None:
        self.set_pins()
        self.log_in("admin")
        self.api.initialize()
        self.set_time()

    def set_time(self) -> None:
        self.api.update_time(self.clock.ticks)

    def make_ready(self) -> None:
        """Two clients registered, the logger logged in."""
        self.initialize()
        self.api.register_client("POS-1")
        self.api.register_client("POS-2")
        self.log_in("logger")

    def sell(self, client_id: str = "POS-1", updates: int = 0) -> int:
        number = self.api.start_transaction(client_id).transaction_number
        for index in range(updates):
            self.api.update_transaction(client_id, number, b"u%d" % index, "Bestellung-V1")
        self.api.finish_transaction(client_id, number, b"Beleg^1.00", "Kassenbeleg-V1")
        return number

    def disable(self) -> None:
        self.log_in("admin")
        self.api.disable_secure_element()

    def messages(self) -> list[LogMessage]:
        return [parse(raw) for _, raw in self.api.tse.messages()]

    def events(self) -> list[str | None]:
        return [message.operation for message in self.messages()]

    def last(self) -> LogMessage:
        return self.messages()[-1]

    def export(self, **filters: Any) -> bytes:
        out = io.BytesIO()
        if filters:
            self.api.export_filtered_transaction_logs(out, **filters)
        else:
            self.api.export_log_messages(out)
        return out.getvalue()

    def check(self, *allowed: str, **filters: Any) -> TarReport:
        """An export without any finding, but for those allowed."""
        roots = self.api.tse.chain.certificates[-1:]
        report = verify_tar(io.BytesIO(self.export(**filters)), roots, filtered=bool(filters))
        assert report.ok, report.findings
        assert report.codes <= {"OPEN_TRANSACTIONS", "STARTS_LATER", "STARTED_BEFORE", *allowed}, (
            report.findings
        )
        assert report.valid == report.logs
        return report


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def make(tmp_path: Path, clock: Any, version: int) -> Iterator[Callable[..., Device]]:
    made: list[Device] = []

    def make_it(**options: Any) -> Device:
        options.setdefault("log_version", version)
        made.append(Device(tmp_path / f"tse{len(made)}", clock, options))
        return made[-1]

    yield make_it
    for device in made:
        device.api.close()


@pytest.fixture
def new(make: Callable[..., Device]) -> Device:
    """A TSE as it comes from the factory."""
    return make()


@pytest.fixture
def ready(new: Device) -> Device:
    new.make_ready()
    return new


def refused(call: Callable[[], object], error: SeError) -> SeApiError:
    with pytest.raises(SeApiError) as caught:
        call()
    assert caught.value.error is error, caught.value
    return caught.value


def gapless(device: Device) -> bool:
    counters = [message.signature_counter for message in device.messages()]
    return counters == list(range(1, len(counters) + 1))


# ---- security module: concatenation, time, counters, transactions, keys ---------------------------


@covers("SM_CON_01", "SM_CON_03", "SM_CON_06", "SM_CON_08", "SM_CON_12", "EXP_LOG_28-32")
def test_every_update_is_signed_with_its_own_data(ready: Device) -> None:
    ready.sell(updates=1)
    ready.sell(updates=3)
    first = ready.api.start_transaction("POS-1").transaction_number
    second = ready.api.start_transaction("POS-2").transaction_number
    for number, client, data in ((first, "POS-1", b"a"), (second, "POS-2", b"b"), (first, "POS-1", b"c")):
        signed = ready.api.update_transaction(client, number, data)
        assert ready.last().process_data == data
        assert signed.signature == ready.last().signature
    ready.log_in("admin")
    ready.set_time()
    ready.log_in("logger")
    ready.api.finish_transaction("POS-2", second, b"d")
    ready.api.finish_transaction("POS-1", first, b"e")
    assert all(
        message.process_data_chunks is None
        for message in ready.messages()
        if message.type is LogType.TRANSACTION
    )
    assert ready.check().tses[0].transactions == 4


@covers(
    "SM_CON_02", "SM_CON_04", "SM_CON_05", "SM_CON_07", "SM_CON_09-11", "II_FIN_02", "II_UPD_02", "II_UPD_04"
)
@covers("II_UPD_06-08", "II_UPD_10")
def test_a_tse_that_aggregates_signs_every_piece_once(make: Callable[..., Device], version: int) -> None:
    device = make(aggregating=True)
    device.make_ready()
    api = device.api
    assert api.get_supported_transaction_update_variants() == "unsigned"
    first = api.start_transaction("POS-1").transaction_number
    second = api.start_transaction("POS-2").transaction_number
    before = api.tse.counter
    for number, client, data in ((first, "POS-1", b"a"), (second, "POS-2", b"b"), (first, "POS-1", b"c")):
        kept = api.update_transaction(client, number, data, "T")
        assert (kept.signature_counter, kept.signature) == (0, b"")
    assert api.tse.counter == before
    refused(lambda: api.update_transaction("POS-3", first, b""), SeError.CLIENT_NOT_REGISTERED)
    refused(lambda: api.update_transaction("POS-1", 99, b""), SeError.TRANSACTION_NUMBER_NOT_FOUND)
    refused(lambda: api.update_transaction("POS-1", first, b"", "T" * 101), SeError.PARAMETER_TOO_LONG)
    api.finish_transaction("POS-1", first, b"d", "T")
    written = [(message.operation, message.process_data) for message in device.messages()[before:]]
    if version == 2:
        assert written == [("FinishTransaction", b"acd")]
        assert device.last().process_data_chunks == (1, 1, 1)
    else:
        assert written == [("updateTransaction", b"ac"), ("finishTransaction", b"d")]
        assert device.last().process_data_chunks is None
    forced = api.update_transaction("POS-2", second, b"e", "T", force_signature=True)
    assert forced.signature_counter == api.tse.counter
    assert device.last().process_data == b"be"
    api.update_transaction("POS-2", second, b"f", "T")
    api.update_transaction("POS-2", second, b"g", "U")  # another type signs what there is
    assert (device.last().process_data, device.last().process_type) == (b"f", "T")
    api.update_transaction("POS-1", second, b"h", "U")  # and so does another client
    assert (device.last().process_data, device.last().client_id) == (b"g", "POS-2")
    device.log_in("admin")
    device.set_time()
    device.log_in("logger")
    api.finish_transaction("POS-1", second, b"i", "U")
    joined = b"".join(
        message.process_data or b"" for message in device.messages() if message.transaction_number == second
    )
    assert joined == b"befghi"
    device.check("OTHER_CLIENT")


@covers("SM_TME_01", "SM_TME_02", "SM_SIG_06-08", "II_UDT_01", "II_UDT_02", "II_GCT_02")
def test_update_time_moves_the_clock_and_the_counter_goes_on(ready: Device, clock: Any) -> None:
    clock.advance(1000)
    for step in (5, -100, 7200):
        ready.log_in("admin")
        counter = ready.api.tse.counter
        target = clock.ticks + step * TICKS_PER_SECOND
        ready.api.update_time(target)
        assert ready.api.get_current_se_time() == target
        assert ready.last().log_time == target
        assert (ready.last().operation, ready.last().signature_counter) == ("updateTime", counter + 1)
        clock.advance(2)
        assert ready.api.get_current_se_time() == target + 2 * TICKS_PER_SECOND
        ready.log_in("logger")
        ready.sell()
    assert gapless(ready)
    ready.check()


@covers("SM_TME_03", "II_UDT_03", "II_UDT_04", "II_UDT_05", "II_UDT_07")
@pytest.mark.parametrize("moment", [from_unix(0) - 1, from_unix(253_402_300_800), -5, 2**63])
def test_a_time_that_cannot_be_changes_nothing_and_is_not_logged(ready: Device, moment: int) -> None:
    ready.log_in("admin")
    before, logs = ready.api.get_current_se_time(), len(ready.messages())
    refused(lambda: ready.api.update_time(moment), SeError.INVALID_TIME)
    assert ready.api.get_current_se_time() == before
    assert len(ready.messages()) == logs


@covers("SM_TME_04-08")
def test_times_never_go_back_without_update_time(ready: Device, clock: Any) -> None:
    for jump in (3, -50, 10):
        clock.advance(jump)
        ready.sell(updates=1)
        refused(lambda: ready.api.authenticate_user("admin", WRONG), SeError.INCORRECT_PIN)
        ready.api.unblock_pin("admin", TRANSPORT_PUK, PINS["admin"])
        ready.log_in("logger")
    ready.disable()
    previous = 0
    for message in ready.messages():
        assert message.log_time >= previous or message.operation == "updateTime"
        previous = message.log_time
    ready.check()


@covers("SM_TME_10", "II_GCT_01", "II_ERR_02", "II_ERR_03", "II_EXP_03")
def test_without_power_the_time_is_lost_and_nothing_is_sold(ready: Device) -> None:
    number = ready.api.start_transaction("POS-1").transaction_number
    ready.power_cycle()
    api = ready.api
    assert not api.time_is_set
    refused(api.get_current_se_time, SeError.TIME_NOT_SET)
    last = ready.messages()[-1].log_time
    ready.log_in("logger")
    assert ready.last().log_time == last  # the last time that was sure
    for call in (
        lambda: api.start_transaction("POS-1"),
        lambda: api.update_transaction("POS-1", number, b""),
        lambda: api.finish_transaction("POS-1", number, b""),
        lambda: api.register_client("POS-3"),
        lambda: api.deregister_client("POS-2"),
    ):
        refused(call, SeError.TIME_NOT_SET)
    ready.check()
    ready.log_in("admin")
    refused(api.disable_secure_element, SeError.TIME_NOT_SET)
    ready.set_time()
    ready.log_in("logger")
    api.finish_transaction("POS-1", number, b"")
    ready.check()


@covers("SM_TME_10", "II_ERR_02")
def test_a_new_tse_has_no_time(new: Device) -> None:
    refused(new.api.get_current_se_time, SeError.TIME_NOT_SET)
    new.set_pins()
    new.log_in("admin")
    new.api.initialize()
    refused(lambda: new.api.register_client("POS-1"), SeError.TIME_NOT_SET)
    new.check()


@covers("SM_TME_11", "II_EXP_06")
@pytest.mark.parametrize(
    ("time_format", "prefix"),
    [(TimeFormat.UNIX, "Unixt"), (TimeFormat.UTC, "Utc"), (TimeFormat.GENERALIZED_MS, "Gent")],
)
def test_one_time_format_everywhere(
    make: Callable[..., Device], time_format: TimeFormat, prefix: str
) -> None:
    device = make(time_format=time_format)
    device.make_ready()
    device.sell()
    assert {message.time_kind.value for message in device.messages()} == {prefix}
    name = device.api.export_log_messages(io.BytesIO()).file_name
    expected = {"Unixt": r"\d+", "Utc": r"\d{12}Z", "Gent": r"\d{14}Z"}[prefix]
    assert re.fullmatch(rf"Export_{prefix}_{expected}\.tar", name)
    device.check()


@covers("SM_SIG_01-04", "SM_TRA_01", "SM_TRA_02")
def test_counters_and_numbers_have_no_gap(ready: Device) -> None:
    for _ in range(5):
        ready.sell(updates=2)
    numbers = [ready.api.start_transaction(f"POS-{1 + i % 2}").transaction_number for i in range(6, 26)]
    assert numbers == list(range(6, 26))
    for number in reversed(numbers):
        ready.api.finish_transaction(f"POS-{1 + number % 2}", number, b"")
    assert gapless(ready)
    ready.check()


@covers("SM_SIG_05", "II_ERR_11", "II_ERR_12")
def test_no_signature_beyond_the_last_counter(make: Callable[..., Device]) -> None:
    device = make()
    device.make_ready()
    device.api.tse.limits = Limits(max_signatures=device.api.tse.counter + 1)
    device.api.start_transaction("POS-1")
    refused(lambda: device.api.start_transaction("POS-1"), SeError.SIGNATURE_COUNTER_EXHAUSTED)
    device.api.tse.limits = Limits(max_signatures=MAX_COUNTER)
    device.api.tse._counter = MAX_COUNTER
    refused(lambda: device.api.start_transaction("POS-1"), SeError.SIGNATURE_COUNTER_OVERFLOW)


@covers("SM_TRA_03", "II_STA_03", "II_CNT_05", "II_MNT_02")
def test_no_start_beyond_the_limit_of_open_transactions(make: Callable[..., Device]) -> None:
    device = make(max_open_transactions=3)
    device.make_ready()
    assert device.api.get_max_number_of_transactions() == 3
    numbers = [device.api.start_transaction("POS-1").transaction_number for _ in range(3)]
    logs = len(device.messages())
    refused(lambda: device.api.start_transaction("POS-1"), SeError.LIMIT_OF_OPEN_TRANSACTIONS)
    assert len(device.messages()) == logs
    device.api.finish_transaction("POS-1", numbers[0], b"")
    device.api.start_transaction("POS-1")


@covers("SM_TRA_04-06", "II_UPD_05", "II_FIN_04", "II_FIN_05")
def test_unknown_and_finished_numbers_are_refused(ready: Device) -> None:
    number = ready.sell()
    logs = len(ready.messages())
    for wanted in (number, 99, 0, MAX_COUNTER):
        for call in (ready.api.update_transaction, ready.api.finish_transaction):
            refused(
                lambda call=call, wanted=wanted: call("POS-1", wanted, b""),
                SeError.TRANSACTION_NUMBER_NOT_FOUND,
            )  # type: ignore[misc]
    assert len(ready.messages()) == logs


@covers("SM_TRA_07")
def test_no_number_beyond_the_last(ready: Device) -> None:
    ready.api.tse._number = MAX_COUNTER
    refused(lambda: ready.api.start_transaction("POS-1"), SeError.TRANSACTION_COUNTER_OVERFLOW)


@covers("SM_KRY_01-03", "SM_PKI_02", "SM_PKI_03")
@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_keys_serial_number_and_certificates(make: Callable[..., Device], curve: Any) -> None:
    device = make(curve=curve.name)
    device.make_ready()
    device.sell()
    chain = device.api.tse.chain
    for message in device.messages():
        algorithm = algorithm_by_oid(message.algorithm_oid)
        assert algorithm is not None
        assert algorithm.compliant
        assert message.serial == serial_of_point(point_of(chain.public_key))
        assert message.verify(chain.public_key)
    for certificate in chain.certificates:
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert device.check().tses[0].trust is Trust.TRUSTED


# ---- audit and what the TSE logs about itself -----------------------------------------------------


@covers("SM_LOG_01", "SM_LOG_02")
def test_the_smaadmin_is_logged(ready: Device) -> None:
    ready.api.unblock_pin("admin", TRANSPORT_PUK, PINS["admin"])
    assert not ready.api.authenticate_sma_admin(WRONG)
    expected = "authenticateSmaersAdmin" if ready.last().version == 2 else "authenticateSmaAdmin"
    assert ready.last().operation == expected
    refused(lambda: ready.api.authenticate_user("smaadmin", WRONG), SeError.UNKNOWN_USER_ID)
    ready.check()


@covers("SM_LOG_03", "EXP_LOG_05")
def test_start_audit_is_empty_and_the_tse_did_it_itself(ready: Device, version: int) -> None:
    started = next(message for message in ready.messages() if message.operation == "startAudit")
    assert started.elements[1 if version == 2 else 3].content == b""
    assert version == 2 or 2 not in started.elements


@covers("SM_LOG_04-06", "II_STE_02", "II_STE_03", "EXP_LOG_06", "EXP_LOG_07", "EXP_LOG_17")
def test_the_secure_state_is_entered_and_left_with_logs(
    ready: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(ready.messages())
    monkeypatch.setattr(ready.api.tse, "_test_key", lambda: "broken")
    refused(ready.api.self_test, SeError.SELF_TEST_FAILED)
    written = ready.messages()[before:]
    assert [message.operation for message in written][-2:] == ["enterSecureState", None]
    assert written[-1].type is LogType.AUDIT
    assert written[-1].audit_data
    assert re.search(r"_Log-Aud\.log$", build_file_name(written[-1]))
    for call in (
        lambda: ready.api.start_transaction("POS-1"),
        lambda: ready.api.authenticate_user("admin", PINS["admin"]),
        lambda: ready.api.register_client("POS-3"),
    ):
        refused(call, SeError.FUNCTION_FAILED)
    refused(ready.api.self_test, SeError.SELF_TEST_FAILED)
    assert ready.events().count("enterSecureState") == 1
    ready.power_cycle()
    refused(lambda: ready.api.authenticate_user("admin", PINS["admin"]), SeError.FUNCTION_FAILED)
    monkeypatch.undo()
    ready.api.self_test()
    assert ready.events()[-1] == "exitSecureState"
    ready.log_in("admin")
    ready.set_time()
    ready.log_in("logger")
    ready.sell()
    ready.check()


@covers("SM_AUD_01", "SM_AUD_02")
def test_who_stops_the_audit_stops_the_tse_for_ever(ready: Device) -> None:
    ready.log_in("admin")
    ready.api.stop_audit()
    assert ready.last().operation == "disableSecureElement"
    ready.power_cycle()
    refused(lambda: ready.api.authenticate_user("admin", PINS["admin"]), SeError.SECURE_ELEMENT_DISABLED)
    ready.check()


# ---- users ----------------------------------------------------------------------------------------


@covers("II_AUT_02", "EXP_LOG_01")
def test_pins_are_counted_before_they_are_checked(ready: Device, version: int) -> None:
    api = ready.api
    error = refused(lambda: api.authenticate_user("nobody", WRONG), SeError.UNKNOWN_USER_ID)
    assert error.remaining_retries == 0
    assert ready.last().operation == "authenticateUser"
    for remaining in range(PIN_RETRIES - 1, -1, -1):
        error = refused(lambda: api.authenticate_user("admin", WRONG), SeError.INCORRECT_PIN)
        assert error.remaining_retries == remaining
        assert ready.last().operation == "authenticateUser"
    refused(lambda: api.authenticate_user("admin", PINS["admin"]), SeError.PIN_BLOCKED)
    ready.power_cycle()
    api = ready.api
    refused(lambda: api.authenticate_user("admin", PINS["admin"]), SeError.PIN_BLOCKED)
    ready.log_in("timeadmin")  # others are not blocked
    api.unblock_pin("admin", TRANSPORT_PUK, "55555")
    refused(lambda: api.authenticate_user("admin", PINS["admin"]), SeError.INCORRECT_PIN)
    api.authenticate_user("admin", "55555")
    ready.set_time()
    data = next(
        message.elements[1 if version == 2 else 3].content
        for message in reversed(ready.messages())
        if message.operation == "authenticateUser"
    )
    expected = {2: "810561646d696e8201018301ff", 3: "130561646d696e130561646d696e0a0100020103"}
    assert data.hex() == expected[version]
    ready.check()


@covers("II_AUT_02")
def test_the_right_pin_forgives_the_wrong_ones(ready: Device) -> None:
    for _ in range(4):
        refused(lambda: ready.api.authenticate_user("admin", WRONG), SeError.INCORRECT_PIN)
        refused(lambda: ready.api.authenticate_user("admin", WRONG), SeError.INCORRECT_PIN)
        ready.log_in("admin")


@covers("II_AUT_02", "II_LGO_01")
def test_a_second_user_logs_the_first_out(ready: Device) -> None:
    ready.log_in("admin")
    ready.log_in("timeadmin")
    assert ready.events()[-2:] == ["logOut", "authenticateUser"]
    assert ready.api.user == "timeadmin"
    ready.api.log_out()
    assert ready.events()[-1] == "logOut"
    assert ready.api.user is None
    refused(ready.api.log_out, SeError.USER_NOT_AUTHENTICATED)


@covers("II_LGO_02")
def test_a_user_who_does_nothing_is_logged_out(ready: Device, version: int) -> None:
    ready.log_in("admin")
    ready.moment += 901
    refused(ready.api.disable_secure_element, SeError.USER_NOT_AUTHENTICATED)
    last = ready.last()
    assert last.operation == "logOut"
    assert last.elements[1 if version == 2 else 3].content[-1] == (1 if version == 2 else 2)
    assert version == 2 or 2 not in last.elements


@covers("II_UBP_01-06")
def test_pins_are_set_with_the_puk_and_puks_cannot_be_guessed(ready: Device, clock: Any) -> None:
    api = ready.api
    refused(lambda: api.unblock_pin("nobody", TRANSPORT_PUK, "12345"), SeError.UNKNOWN_USER_ID)
    for empty in ("", "1", "1234"):
        for user in ("admin", "timeadmin", "logger"):
            refused(
                lambda u=user, e=empty: api.unblock_pin(u, TRANSPORT_PUK, e), SeError.SETTING_NEW_PIN_FAILED
            )  # type: ignore[misc]
    for _ in range(3):
        refused(lambda: api.unblock_pin("admin", WRONG, "12345"), SeError.INCORRECT_PUK)
    refused(lambda: api.unblock_pin("admin", TRANSPORT_PUK, "12345"), SeError.PUK_TEMPORARILY_BLOCKED)
    clock.advance(61)
    refused(lambda: api.unblock_pin("admin", WRONG, "12345"), SeError.INCORRECT_PUK)
    clock.advance(61)
    refused(lambda: api.unblock_pin("admin", TRANSPORT_PUK, "12345"), SeError.PUK_TEMPORARILY_BLOCKED)
    clock.advance(61)
    api.unblock_pin("admin", TRANSPORT_PUK, "12345")
    api.authenticate_user("admin", "12345")
    ready.check()


@covers("II_INI_01", "II_INI_02")
def test_initialize_works_once(new: Device, version: int) -> None:
    new.set_pins()
    refused(new.api.initialize, SeError.USER_NOT_AUTHENTICATED)
    new.log_in("timeadmin")
    refused(new.api.initialize, SeError.USER_NOT_AUTHORIZED)
    new.log_in("admin")
    new.api.initialize("a shop" if version == 2 else None)
    assert new.events()[-2:] == ["startAudit", "initialize"]
    logs = len(new.messages())
    refused(new.api.initialize, SeError.DEVICE_IS_INITIALIZED)
    assert len(new.messages()) == logs


@covers("II_SDE_01", "II_SDE_02", "II_GDE_01-04", "EXP_INF_01-07")
def test_the_description_and_info_csv(make: Callable[..., Device], version: int) -> None:
    device = make()
    device.set_pins()
    device.log_in("admin")

    def info() -> str:
        (found,) = [m.data for m in read_members(io.BytesIO(device.export())) if m.name == "info.csv"]
        assert found is not None
        return found.decode()

    if version == 2:
        refused(lambda: device.api.initialize("x" * 65), SeError.PARAMETER_TOO_LONG)
        refused(lambda: device.api.initialize("ä"), SeError.PARAMETER_SYNTAX)
        device.api.initialize('the "Blue" shop')
        assert device.api.get_description() == 'the "Blue" shop'
        assert info().startswith('"description:","the ""Blue"" shop","manufacturer:",')
        assert info().count("\n") == 1
        device.set_time()
        refused(lambda: device.api.set_description("x"), SeError.FUNCTION_NOT_SUPPORTED)
        return
    device.api.initialize()
    assert device.api.get_description() == ""
    device.set_time()
    assert info().splitlines()[-1] == '"description:","",,,,,,,,'
    for text in ("a shop", "x" * 64, ""):
        device.api.set_description(text)
        assert device.api.get_description() == text
    device.api.set_description('the "Blue" shop')
    refused(lambda: device.api.set_description("x" * 65), SeError.PARAMETER_TOO_LONG)
    device.power_cycle()
    device.log_in("admin")
    assert device.api.get_description() == 'the "Blue" shop'
    lines = info().splitlines()
    assert [line.split(",")[1] for line in lines[:5]] == [
        '"device"',
        '"storage"',
        '"integration-interface"',
        '"CSP"',
        '"SMA"',
    ]
    assert lines[5] == '"description:","the ""Blue"" shop",,,,,,,,'
    device.check()


@covers("II_STE_01")
def test_a_good_self_test_is_logged(ready: Device) -> None:
    results = ready.api.self_test()
    assert [result.component for result in results] == ["CSP", "storage"]
    assert all(result.passed for result in results)
    assert ready.last().operation == "selfTest"
    ready.check()


@covers("II_DSE_01-03", "II_ERR_05", "II_EXP_04")
def test_a_disabled_tse_exports_and_nothing_else(ready: Device) -> None:
    ready.sell()
    ready.disable()
    assert ready.last().operation == "disableSecureElement"
    logs = len(ready.messages())
    api = ready.api
    for call in (
        lambda: api.start_transaction("POS-1"),
        lambda: api.authenticate_user("admin", PINS["admin"]),
        lambda: api.unblock_pin("admin", TRANSPORT_PUK, "12345"),
        lambda: api.update_time(ready.clock.ticks),
        api.self_test,
        api.disable_secure_element,
        api.get_open_transactions,
        api.delete_log_messages,
    ):
        refused(call, SeError.SECURE_ELEMENT_DISABLED)
    assert len(ready.messages()) == logs
    ready.check()
    ready.power_cycle()
    ready.check()
    api = ready.api
    assert api.export_serial_numbers()
    api.export_logging_certificates(io.BytesIO())


# ---- time -----------------------------------------------------------------------------------------


@covers("II_UDT_06", "II_TSV_01", "II_TSV_02", "SM_TME_01")
def test_the_variant_of_time_synchronisation(make: Callable[..., Device]) -> None:
    told = make()
    told.initialize()
    assert told.api.get_time_sync_variant() is TimeSyncVariant.UNIX_TIME
    refused(told.api.update_time, SeError.UNSUPPORTED_TIME_SYNC_VARIANT)
    own = make(told_the_time=False)
    own.set_pins()
    own.log_in("admin")
    own.api.initialize()
    assert own.api.get_time_sync_variant() is TimeSyncVariant.NO_INPUT
    refused(lambda: own.api.update_time(own.clock.ticks), SeError.UNSUPPORTED_TIME_SYNC_VARIANT)
    own.api.update_time()
    assert own.last().log_time == own.clock.ticks
    own.check()


@covers("II_UDT_01")
def test_who_may_set_the_time(ready: Device) -> None:
    refused(ready.set_time, SeError.USER_NOT_AUTHORIZED)
    ready.log_in("timeadmin")
    ready.set_time()
    ready.api.log_out()
    refused(ready.set_time, SeError.USER_NOT_AUTHENTICATED)


# ---- exports --------------------------------------------------------------------------------------


@covers("II_EXP_01", "II_EXP_02", "II_EXP_07-09", "EXP_TAR_01", "EXP_TAR_03", "EXP_LOG_18", "EXP_LOG_26")
def test_an_export_holds_info_certificates_and_defined_logs_only(ready: Device) -> None:
    ready.sell(updates=1)
    ready.api.log_out()  # nobody needs to be logged in
    names = [member.name for member in read_members(io.BytesIO(ready.export()))]
    assert names[0] == "info.csv"
    assert all(re.fullmatch(r"[0-9a-f]{64}_X509\.der", name) for name in names[1:4])
    assert all(parse_file_name(name) for name in names[4:])
    assert names[4:] == [build_file_name(message) for message in ready.messages()]
    ready.check()


@covers("II_EXP_08")
def test_a_freshly_initialised_tse_exports(new: Device) -> None:
    refused(new.export, SeError.DEVICE_NOT_INITIALIZED)
    new.initialize()
    assert new.check().logs == len(new.messages())


@covers("II_EXP_05", "EXP_TAR_02", "II_ERR_16", "II_ERR_17")
def test_a_full_memory_refuses_transactions_and_exports(ready: Device) -> None:
    number = ready.api.start_transaction("POS-1").transaction_number
    ready.api.tse.limits = Limits(max_log_memory_bytes=10)
    logs = len(ready.messages())
    api = ready.api
    for call in (
        lambda: api.start_transaction("POS-1"),
        lambda: api.update_transaction("POS-1", number, b""),
        lambda: api.finish_transaction("POS-1", number, b""),
        lambda: api.register_client("POS-3"),
    ):
        refused(call, SeError.STORAGE_MEMORY_FULL)  # before the work
    assert len(ready.messages()) == logs
    for done in (
        lambda: api.authenticate_user("admin", PINS["admin"]),
        lambda: api.update_time(ready.clock.ticks),
        lambda: api.unblock_pin("admin", TRANSPORT_PUK, PINS["admin"]),
        api.self_test,
        api.log_out,
    ):
        before = len(ready.messages())
        refused(done, SeError.STORAGE_MEMORY_FULL)  # after the work
        assert len(ready.messages()) > before
    ready.check()
    assert (api.get_free_memory(), api.get_total_memory()) == (0, 10)
    assert api.get_used_memory() > 10
    ready.api.tse.limits = Limits(max_log_memory_bytes=2**40)
    ready.log_in("logger")
    api.finish_transaction("POS-1", number, b"")
    api.tse.limits = Limits(max_log_memory_bytes=10)
    refused(lambda: ready.log_in("admin"), SeError.STORAGE_MEMORY_FULL)
    ready.export()
    api.delete_log_messages()  # never refuses because of the memory
    assert ready.events() in (["deleteStoredData"], ["deleteLogMessages"])


@covers("II_EXC_01", "II_EXC_02")
def test_the_export_of_certificates_holds_certificates_only(ready: Device) -> None:
    out = io.BytesIO()
    name = ready.api.export_logging_certificates(out)
    assert name.startswith("CertificateExport_Unixt_")
    members = list(read_members(io.BytesIO(out.getvalue())))
    assert [member.data for member in members] == list(ready.api.tse.chain.der)
    assert members[0].name == f"{ready.api.tse.chain.serial.hex()}_X509.der"


@covers("II_DLM_01-04")
def test_only_what_was_exported_is_deleted(ready: Device, version: int) -> None:
    ready.sell()
    open_number = ready.api.start_transaction("POS-1").transaction_number
    refused(ready.api.delete_log_messages, SeError.USER_NOT_AUTHORIZED)
    ready.log_in("admin")
    logs = len(ready.messages())
    refused(ready.api.delete_log_messages, SeError.UNEXPORTED_LOG_MESSAGES)
    ready.export()
    refused(ready.api.delete_log_messages, SeError.DELETE_LOG_MESSAGES_FAILED)
    assert len(ready.messages()) == logs
    ready.log_in("logger")
    ready.api.finish_transaction("POS-1", open_number, b"")
    ready.log_in("admin")
    refused(ready.api.delete_log_messages, SeError.UNEXPORTED_LOG_MESSAGES)
    ready.export(number=1)  # a part does not count
    refused(ready.api.delete_log_messages, SeError.UNEXPORTED_LOG_MESSAGES)
    counter = ready.api.export_log_messages(io.BytesIO()).last_counter
    ready.api.delete_log_messages()
    assert ready.events() == ["deleteStoredData" if version == 2 else "deleteLogMessages"]
    assert ready.last().signature_counter == counter + 1
    refused(
        ready.api.delete_log_messages, SeError.UNEXPORTED_LOG_MESSAGES
    )  # its own log stays until exported
    ready.log_in("logger")
    assert ready.sell() == 3
    assert ready.check().tses[0].first_counter == counter + 1


@covers("II_ESN_01-04")
def test_the_serial_number(ready: Device, version: int) -> None:
    serial = serial_of_point(point_of(ready.api.tse.chain.public_key)).hex()
    uses = {2: "30098001ff8101ff8201ff", 3: "30090101ff0101ff0101ff"}[version]
    assert ready.api.export_serial_numbers().hex() == f"302f302d0420{serial}{uses}"


@covers("II_CSC_01", "II_CSC_02", "II_CTC_01-03")
def test_the_current_counters(new: Device) -> None:
    new.initialize()
    assert new.api.get_current_transaction_counter() == 0
    assert new.api.get_current_logging_signature_counters() == {
        new.api.tse.chain.serial: new.last().signature_counter
    }
    new.api.register_client("POS-1")
    new.log_in("logger")
    for wanted in (1, 2):
        new.sell()
        assert new.api.get_current_transaction_counter() == wanted
        assert list(new.api.get_current_logging_signature_counters().values()) == [
            new.last().signature_counter
        ]
    new.power_cycle()
    assert new.api.get_current_transaction_counter() == 2


@covers("II_GLL_01-03", "II_GLT_01-07")
def test_the_last_messages(new: Device) -> None:
    new.initialize()
    last = new.api.get_last_log_message()
    assert (last.message, last.file_name) == (new.last().raw, build_file_name(new.last()))
    refused(new.api.get_last_transaction_log_message, SeError.NO_LOG_MESSAGE_FOUND)
    new.api.register_client("POS-1")
    new.log_in("logger")
    number = new.api.start_transaction("POS-1").transaction_number
    other = new.api.start_transaction("POS-1").transaction_number
    new.api.update_transaction("POS-1", number, b"x")
    updated = new.last()
    new.api.finish_transaction("POS-1", other, b"y")
    finished = new.last()
    new.api.log_out()
    assert new.api.get_last_transaction_log_message().message == finished.raw
    assert new.api.get_last_transaction_log_message(number).message == updated.raw
    assert new.api.get_last_transaction_log_message(other).file_name == build_file_name(finished)
    refused(lambda: new.api.get_last_transaction_log_message(99), SeError.NO_LOG_MESSAGE_FOUND)
    assert new.api.get_last_log_message().message == new.last().raw


# ---- clients --------------------------------------------------------------------------------------


@covers("II_REC_01-06", "II_DRC_01-03", "II_CNT_01-04", "II_MNT_01", "II_STA_04", "II_UPD_09", "II_FIN_06")
def test_clients(make: Callable[..., Device], version: int) -> None:
    device = make(max_clients=3)
    device.initialize()
    api = device.api
    assert api.get_max_number_of_clients() == 3
    assert api.get_current_number_of_clients() == 0
    every = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+-,.="
    for client in ("POS-1", every[:40], every[40:]):
        api.register_client(client)
    assert device.last().elements[1 if version == 2 else 3].content[2:].decode() == every[40:]
    refused(lambda: api.register_client("POS-2"), SeError.CLIENT_LIMIT_REACHED)
    api.deregister_client(every[:40])
    refused(lambda: api.register_client("POS-1"), SeError.CLIENT_ALREADY_REGISTERED)
    for bad in ("", "a_b", "a/b", "ä", "a?", "a:b", "POS\n"):
        refused(lambda bad=bad: api.register_client(bad), SeError.INVALID_CLIENT_ID_CHARACTER)  # type: ignore[misc]
    refused(lambda: api.register_client("x" * 65), SeError.PARAMETER_TOO_LONG)
    refused(lambda: api.deregister_client("POS-9"), SeError.CLIENT_NOT_REGISTERED)
    assert api.get_registered_clients() == ["POS-1", every[40:]]
    assert api.get_current_number_of_clients() == 2
    device.log_in("logger")
    number = api.start_transaction("POS-1").transaction_number
    assert api.get_current_number_of_transactions() == 1
    logs = len(device.messages())
    for call in (
        lambda: api.start_transaction("POS-2"),
        lambda: api.update_transaction("POS-2", number, b""),
        lambda: api.finish_transaction("POS-2", number, b""),
    ):
        refused(call, SeError.CLIENT_NOT_REGISTERED)
    refused(lambda: api.deregister_client("POS-1"), SeError.DEREGISTER_CLIENT_FAILED)
    assert len(device.messages()) == logs
    device.check()


# ---- transactions ---------------------------------------------------------------------------------


@covers(
    "II_STA_01",
    "II_STA_02",
    "II_UPD_01",
    "II_UPD_03",
    "II_FIN_01",
    "II_FIN_03",
    "EXP_LOG_08-16",
    "EXP_LOG_23-25",
)
def test_what_is_answered_is_what_is_logged(ready: Device, version: int) -> None:
    longest = "T" * 100
    data = bytes(range(256)) * 3
    started = ready.api.start_transaction("POS-2", data, longest, additional=b"extra")
    messages = [ready.last()]
    assert messages[0].elements[4].content == b"extra"
    updated = ready.api.update_transaction(
        "POS-2", started.transaction_number, b"", longest, force_signature=True
    )
    messages.append(ready.last())
    finished = ready.api.finish_transaction("POS-2", started.transaction_number, "Käse;1\r\n".encode(), "")
    messages.append(ready.last())
    steps = ["startTransaction", "updateTransaction", "finishTransaction"]
    for message, answer, step in zip(messages, (started, updated, finished), steps, strict=True):
        assert message.operation == (step if version == 3 else step[0].upper() + step[1:])
        assert (message.client_id, message.transaction_number) == ("POS-2", answer.transaction_number)
        assert (message.signature_counter, message.signature) == (answer.signature_counter, answer.signature)
        assert message.log_time == answer.time_stamp
        assert message.serial == ready.api.tse.chain.serial
        assert 6 not in message.elements
        assert not message.findings
    assert messages[0].process_data == data
    assert (messages[1].process_type, messages[2].process_type) == (longest, "")
    assert messages[2].process_data == "Käse;1\r\n".encode()
    assert 4 not in messages[1].elements
    assert 4 not in messages[2].elements


@covers("II_GTS_01-03", "II_GOT_01-05")
def test_states_and_open_transactions(ready: Device) -> None:
    api = ready.api
    assert api.get_open_transactions() == []
    number = api.start_transaction("POS-1").transaction_number
    other = api.start_transaction("POS-2").transaction_number
    assert api.get_transaction_state(number) is TransactionState.STARTED
    api.update_transaction("POS-1", number, b"")
    assert api.get_transaction_state(number) is TransactionState.UPDATED
    assert api.get_open_transactions() == [number, other]
    api.finish_transaction("POS-1", number, b"")
    assert api.get_transaction_state(number) is TransactionState.FINISHED
    assert api.get_open_transactions() == [other]
    refused(lambda: api.get_transaction_state(99), SeError.TRANSACTION_NUMBER_NOT_FOUND)
    ready.power_cycle()
    assert ready.api.get_open_transactions() == [other]


@covers("II_EXF_01")
def test_filtered_exports(ready: Device, clock: Any) -> None:
    for client in ("POS-1", "POS-2", "POS-1"):
        clock.advance(10)
        ready.sell(client)
    begin = to_unix(clock.ticks)

    def numbers(**filters: Any) -> list[int | None]:
        members = read_members(io.BytesIO(ready.export(**filters)))
        found = [parse_file_name(member.name) for member in members]
        return [name.transaction_number for name in found if name is not None]

    assert numbers(number=2) == [2, 2]
    assert numbers(first_number=2, last_number=3) == [2, 2, 3, 3]
    assert numbers(client_id="POS-1") == [1, 1, 3, 3]
    assert numbers(client_id="POS-1", first_number=1, last_number=2) == [1, 1]
    assert numbers(first_time=from_unix(begin - 10), last_time=from_unix(begin)) == [2, 2, 3, 3]
    assert numbers(first_time=from_unix(begin)) == [3, 3]
    assert numbers(number=2, max_records=2) == [2, 2]
    assert numbers(number=2, max_records=3) == [2, 2]
    for mismatch in (
        {"number": 1, "first_time": 5},
        {"first_number": 1},
        {"last_number": 1},
        {"first_number": 2, "last_number": 1},
        {"first_time": 2, "last_time": 1},
        {"number": 1, "first_number": 1, "last_number": 2},
        {"client_id": "POS-1", "max_records": -1},
        {"max_records": 5},
    ):
        refused(lambda mismatch=mismatch: ready.export(**mismatch), SeError.PARAMETER_MISMATCH)  # type: ignore[misc]
    refused(lambda: ready.export(number=99), SeError.TRANSACTION_NUMBER_NOT_FOUND)
    refused(lambda: ready.export(client_id="POS-7"), SeError.CLIENT_ID_NOT_FOUND)
    refused(lambda: ready.export(number=2, client_id="POS-1"), SeError.CLIENT_ID_NOT_FOUND)
    refused(lambda: ready.export(first_time=from_unix(begin + 5)), SeError.NO_DATA_AVAILABLE)
    refused(lambda: ready.export(number=2, max_records=1), SeError.TOO_MANY_RECORDS)
    ready.check(number=2)


@covers("II_LTL_01-03", "II_UTL_01-03")
def test_locking_transactions(ready: Device) -> None:
    api = ready.api
    number = api.start_transaction("POS-1").transaction_number
    ready.log_in("admin")
    refused(api.lock_transaction_logging, SeError.OPEN_TRANSACTION_FOUND)
    refused(api.unlock_transaction_logging, SeError.TRANSACTION_LOGGING_NOT_LOCKED)
    ready.log_in("logger")
    refused(api.lock_transaction_logging, SeError.USER_NOT_AUTHORIZED)
    api.finish_transaction("POS-1", number, b"")
    ready.log_in("admin")
    api.lock_transaction_logging()
    assert ready.last().operation == "lockTransactionLogging"
    ready.power_cycle()
    api = ready.api
    ready.log_in("admin")
    ready.set_time()
    ready.log_in("logger")
    refused(lambda: api.start_transaction("POS-1"), SeError.TRANSACTION_LOGGING_LOCKED)
    ready.log_in("admin")
    api.unlock_transaction_logging()
    assert ready.last().operation == "unlockTransactionLogging"
    ready.log_in("logger")
    ready.sell()
    ready.check()


# ---- errors that many functions share -------------------------------------------------------------


@covers("II_ERR_01")
def test_before_initialize_there_are_only_users(new: Device) -> None:
    new.set_pins()
    new.log_in("admin")
    api = new.api
    for call in (
        lambda: api.start_transaction("POS-1"),
        lambda: api.register_client("POS-1"),
        lambda: api.update_time(new.clock.ticks),
        api.self_test,
        api.disable_secure_element,
        api.delete_log_messages,
        api.export_serial_numbers,
        api.get_open_transactions,
        api.get_last_log_message,
        api.get_time_sync_variant,
        api.get_component_versions,
        lambda: api.export_logging_certificates(io.BytesIO()),
        new.export,
    ):
        refused(call, SeError.DEVICE_NOT_INITIALIZED)
    assert set(new.events()) <= {"authenticateUser", "unblockUser", "unblockPin", "logOut"}


@covers("II_ERR_04")
def test_an_expired_certificate_is_reported_after_the_work(ready: Device, clock: Any) -> None:
    number = ready.api.start_transaction("POS-1").transaction_number
    clock.ticks = ready.api.get_end_of_usage_date() + TICKS_PER_SECOND
    logs = len(ready.messages())
    error = refused(lambda: ready.api.finish_transaction("POS-1", number, b""), SeError.CERTIFICATE_EXPIRED)
    assert len(ready.messages()) == logs + 1
    assert getattr(error.result, "signature", None) == ready.last().signature
    ready.log_in("admin")


@covers("II_ERR_06", "II_ERR_07")
def test_parameters_that_are_too_long_or_no_text(ready: Device) -> None:
    api = ready.api
    number = api.start_transaction("POS-1").transaction_number
    logs = len(ready.messages())
    for call in (
        lambda: api.start_transaction("POS-1", b"", "T" * 101),
        lambda: api.finish_transaction("POS-1", number, b"", "T" * 101),
        lambda: api.authenticate_user("a" * 65, "1"),
        lambda: api.unblock_pin("a" * 65, "1", "12345"),
    ):
        refused(call, SeError.PARAMETER_TOO_LONG)
    for call in (
        lambda: api.start_transaction("POS-1", b"", "Käse"),
        lambda: api.authenticate_user("ä", "1"),
        lambda: api.authenticate_user("", "1"),
        lambda: api.unblock_pin("a\0", "1", "12345"),
        lambda: api.update_transaction("POS-1", number, bytes(65_537)),
    ):
        refused(call, SeError.PARAMETER_SYNTAX)
    assert len(ready.messages()) == logs


@covers("II_ERR_08", "II_ERR_13")
def test_what_is_not_offered_says_so(ready: Device) -> None:
    ready.log_in("admin")
    logs = len(ready.messages())
    refused(ready.api.update_device, SeError.FUNCTION_NOT_SUPPORTED)
    refused(lambda: ready.api.restore_logs_from_backup(b""), SeError.FUNCTION_NOT_SUPPORTED)
    assert len(ready.messages()) == logs


@covers("II_ERR_09", "II_ERR_10", "II_ERR_14", "II_ERR_15")
def test_a_storage_that_fails_signs_nothing(ready: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from fiskal.scu.software import log as records

    logs = [message.raw for message in ready.messages()]

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "write", full)
    refused(lambda: ready.api.start_transaction("POS-1"), SeError.STORAGE_MEMORY_FULL)
    monkeypatch.setattr(records.os, "ftruncate", full)
    refused(lambda: ready.api.start_transaction("POS-1"), SeError.STORING_LOG_MESSAGE_FAILED)
    monkeypatch.undo()
    assert ready.sell() == 1
    assert [message.raw for message in ready.messages()][: len(logs)] == logs
    ready.check()


@covers("EXP_LOG_02", "EXP_LOG_03", "EXP_LOG_04")
def test_every_event_of_a_long_life_has_its_log(ready: Device, version: int) -> None:
    ready.log_in("admin")
    if version == 3:
        ready.api.set_description("a shop")
    ready.api.lock_transaction_logging()
    ready.api.unlock_transaction_logging()
    ready.api.deregister_client("POS-2")
    ready.api.self_test()
    ready.export()
    ready.api.delete_log_messages()
    first = set(ready.events())
    ready.api.disable_secure_element()
    assert first == {"deleteStoredData" if version == 2 else "deleteLogMessages"}
    assert ready.events()[-1] == "disableSecureElement"
    assert gapless_from(ready)
    for message in ready.messages():
        assert not message.findings
        if version == 3:
            assert message.elements[1].content in (b"integration-interface", b"device")
            assert 4 not in message.elements
    ready.check()


def gapless_from(device: Device) -> bool:
    counters = [message.signature_counter for message in device.messages()]
    return counters == list(range(counters[0], counters[0] + len(counters)))


@pytest.mark.parametrize("function", ["start_transaction", "register_client", "deregister_client"])
def test_rights_of_version_3(tmp_path: Path, clock: Any, function: str) -> None:
    device = Device(tmp_path, clock, {"log_version": 3})
    device.make_ready()
    allowed = {"start_transaction": {"logger"}}.get(function, {"admin", "logger"})
    for user in PINS:
        device.log_in(user)
        argument = "POS-1" if function == "start_transaction" else f"X-{user}"
        call = getattr(device.api, function)
        if user in allowed:
            if function == "deregister_client":
                device.api.register_client(argument)
            call(argument)
        else:
            refused(lambda call=call, argument=argument: call(argument), SeError.USER_NOT_AUTHORIZED)  # type: ignore[misc]
    device.api.log_out()
    refused(lambda: getattr(device.api, function)("POS-1"), SeError.USER_NOT_AUTHENTICATED)
    device.api.close()


def test_errors_have_the_names_of_their_version(new: Device, version: int) -> None:
    error = refused(new.export, SeError.DEVICE_NOT_INITIALIZED)
    assert error.code == ("ErrorSeApiNotInitialized" if version == 2 else "ErrorDeviceNotInitialized")
    new.make_ready()
    error = refused(lambda: new.api.finish_transaction("POS-1", 9, b""), SeError.TRANSACTION_NUMBER_NOT_FOUND)
    assert error.code == ("ErrorNoTransaction" if version == 2 else "ErrorTransactionNumberNotFound")
    error = refused(lambda: new.export(number=9), SeError.TRANSACTION_NUMBER_NOT_FOUND)
    assert error.code == "ErrorTransactionNumberNotFound"


def test_a_tse_without_users_needs_none(tmp_path: Path) -> None:
    tse = SoftwareTse(tmp_path)
    assert not (tmp_path / "users.json").exists()
    tse.close()
