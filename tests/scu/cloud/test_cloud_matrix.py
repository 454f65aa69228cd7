"""What every cloud driver must do (tse-cloud §5.4), for all of them and over real HTTPS."""

from __future__ import annotations

import base64
import contextlib
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.clock import TICKS_PER_SECOND
from fiskal.scu.contract import (
    Deadline,
    EndExportSessionRequest,
    ExportDataRequest,
    RegisterClientIdRequest,
    StartExportSessionRequest,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.driver import Call
from fiskal.scu.errors import (
    ClientError,
    Misconfigured,
    OutcomeUnknown,
    ScuError,
    SignatureMismatch,
    TseRejected,
    Unreachable,
)
from fiskal.tse.logmessage import parse
from tests.support.cloud import FAMILIES, RECEIPT, Family, Site, Till, export, verified

ALL = list(FAMILIES)


@pytest.fixture(params=ALL)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def make(family: Family, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make_it(**settings: Any) -> Site:
        folder = tmp_path / f"site{len(sites)}"
        folder.mkdir()
        sites.append(family.simulate(folder, **settings))
        return sites[-1]

    yield make_it
    for site in sites:
        site.close()


@pytest.fixture
def site(make: Callable[..., Site]) -> Site:
    return make()


@pytest.fixture
def till(family: Family, site: Site) -> Till:
    return Till(family.open(site))


def signatures(family: Family, site: Site, operation: str) -> list[int]:
    """The transaction numbers of all log messages of an operation, in the order of their signing."""
    found = []
    for _, raw in family.engine(site).messages():
        message = parse(raw)
        if message.operation == operation:
            found.append(message.transaction_number)
    return [number for number in found if number is not None]


STARTED = "StartTransaction"
FINISHED = "FinishTransaction"


# ---- 1 to 3: the way of a receipt ---------------------------------------------------------------


def test_start_and_finish(family: Family, site: Site, till: Till) -> None:
    counters = []
    for _ in range(3):
        start = till.start()
        finish = till.finish(start.transaction_number)
        assert finish.start_transaction_time_stamp == start.time_stamp
        assert finish.tse_serial_number_octet == family.engine(site).chain.serial.hex()
        counters += [start.signature_data.signature_counter, finish.signature_data.signature_counter]
    assert counters == sorted(set(counters))
    verified(export(till.scu)[0])


@pytest.mark.parametrize("data", [b"", "Ä€\r\n".encode(), b"x" * 60_000])
def test_process_data_comes_through(till: Till, data: bytes) -> None:
    finish = till.finish(till.start().transaction_number, data, process_type="SonstigerVorgang")
    assert base64.b64decode(finish.process_data_base64) == data


@pytest.mark.parametrize("store", ["kept", "lost"])
def test_finish_after_a_restart(family: Family, site: Site, till: Till, store: str) -> None:
    start = till.start()
    till.scu.close()
    if store == "lost":
        shutil.rmtree(site.folder / "scu")
    again = Till(family.open(site))
    finish = again.finish(start.transaction_number)
    if store == "kept" or family.name != "swissbit_cloud":  # which cannot tell it (§5.1: then it is left out)
        assert finish.start_transaction_time_stamp == start.time_stamp
    assert signatures(family, site, FINISHED) == [start.transaction_number]


# ---- 4: credentials -----------------------------------------------------------------------------


def test_tokens_expire_between_the_calls(family: Family, site: Site, till: Till) -> None:
    if family.name == "swissbit_cloud":
        pytest.skip("has no tokens")
    number = till.start().transaction_number
    site.sim.app.clock.advance(7200)
    till.scu._driver._api._monotonic = lambda: time.monotonic() + 7200  # type: ignore[attr-defined]
    assert till.finish(number).transaction_number == number


def test_a_token_is_refused_in_the_middle(family: Family, site: Site, till: Till) -> None:
    if family.name == "swissbit_cloud":
        pytest.skip("has no tokens")
    number = till.start().transaction_number
    site.sim.app.force({"expire_tokens": True})
    assert till.finish(number).transaction_number == number
    assert signatures(family, site, FINISHED) == [number]


def test_wrong_credentials_are_not_tried_again_and_again(family: Family, site: Site) -> None:
    wrong = {"fiskaly": "api_secret", "fcc": "ers_code", "swissbit_cloud": "tse_access_token"}[family.name]
    till = Till(family.open(site, **{wrong: "not-this-one"}))
    for _ in range(3):
        with pytest.raises(Misconfigured) as caught:
            till.start()
        assert caught.value.code == "AUTH_FAILED"
        assert "not-this-one" not in str(caught.value)
    refused = [entry for entry in site.sim.journal.entries() if entry.status == 401]
    assert len(refused) <= {"fiskaly": 2, "fcc": 2, "swissbit_cloud": 9}[family.name]
    assert family.engine(site).transaction_counter == 0


def test_a_contract_that_ended(family: Family, site: Site, till: Till) -> None:
    till.sell()
    site.fault(count=None, status=403, json={"code": "E_ACCESS_DENIED", "message": "contract ended"})
    with pytest.raises(Misconfigured):
        till.start()


# ---- 5 and 6: limits of rate, errors of the server ----------------------------------------------


def test_retry_after_is_honoured(family: Family, site: Site, till: Till) -> None:
    till.sell()
    site.waited.clear()
    site.fault(family.START_METHOD, family.TX_START, status=429, headers={"Retry-After": "1"})
    till.start()
    assert 1.0 in site.waited


def test_retry_after_behind_the_deadline_fails_at_once(family: Family, site: Site, till: Till) -> None:
    till.sell()
    site.waited.clear()
    site.fault(family.START_METHOD, family.TX_START, count=None, status=429, headers={"Retry-After": "3600"})
    before = site.requests(family.START_METHOD, family.TX_START.partition("\\?")[0])
    with pytest.raises(Unreachable) as caught:
        till.start()
    assert caught.value.retry_after_ms == 3_600_000
    assert site.waited == []
    assert site.requests(family.START_METHOD, family.TX_START.partition("\\?")[0]) <= before + 1


def test_503_twice_then_well(family: Family, site: Site, till: Till) -> None:
    till.sell()
    site.fault(
        family.FINISH_METHOD,
        family.TX_FINISH,
        count=2,
        status=503,
        json={"code": "E_TSS_LOCKED", "status_code": 503, "message": "maintenance"},
        headers={"Retry-After": "1"},
    )
    assert till.sell().transaction_number == 2
    assert signatures(family, site, FINISHED) == [1, 2]


def test_a_permanent_502_is_tried_as_often_as_configured(family: Family, site: Site) -> None:
    if family.name != "fiskaly":
        pytest.skip("does not repeat a start blindly")
    till = Till(family.open(site, max_retries=3))
    till.sell()
    site.sim.journal.clear()
    site.fault("PUT", family.TX_START, count=None, status=502, raw_body="<html>bad gateway</html>")
    with pytest.raises(OutcomeUnknown):
        till.start()
    assert site.requests("PUT", "/tx/") == 4


# ---- 7 and 8: lost answers ----------------------------------------------------------------------

LOSSES: dict[str, dict[str, Any]] = {
    "answer reset": {"when": "after", "reset": True},
    "answer cut": {"when": "after", "truncate": 20},
    "502 afterwards": {"when": "after", "status": 502},
    "answer too late": {"when": "after", "delay_ms": 700},
    "answer is HTML": {"when": "after", "raw_body": "<html>"},
    "request lost": {"when": "before", "reset": True},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_start_is_one_start(family: Family, site: Site, loss: str) -> None:
    """Once, whether it is found at once or at the repetition: but for a service that shows no signature twice and
    holds an export already, which leaves an orphan (tse-cloud §2.5)."""
    till = Till(family.open(site, tx_timeout_ms=300))
    till.sell()
    site.fault(family.START_METHOD, family.TX_START, **LOSSES[loss])
    item = str(uuid.uuid4())
    try:
        start = till.start(item)
    except OutcomeUnknown:
        time.sleep(0.8 if "late" in loss else 0)
        start = till.start(item, retry=True)
    finish = till.finish(start.transaction_number)
    assert finish.start_transaction_time_stamp == start.time_stamp
    assert till.start(item, retry=True).transaction_number == start.transaction_number
    assert signatures(family, site, STARTED) == [1, 2]
    assert signatures(family, site, FINISHED) == [1, 2]
    verified(export(till.scu)[0] if family.name != "swissbit_cloud" else site.sim.app.whole_log())  # type: ignore[attr-defined]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_finish_is_one_finish(family: Family, site: Site, loss: str) -> None:
    till = Till(family.open(site, tx_timeout_ms=300))
    start = till.start()
    site.fault(family.FINISH_METHOD, family.TX_FINISH, **LOSSES[loss])
    item = str(uuid.uuid4())
    try:
        finish = till.finish(start.transaction_number, item=item)
    except OutcomeUnknown:
        time.sleep(0.8 if "late" in loss else 0)
        finish = till.finish(start.transaction_number, item=item, retry=True)
    assert finish.start_transaction_time_stamp == start.time_stamp
    again = till.finish(start.transaction_number, item=item, retry=True)
    assert again.signature_data == finish.signature_data
    assert signatures(family, site, FINISHED) == [1]


@pytest.mark.parametrize("op", ["start", "finish"])
def test_a_lost_call_is_found_after_a_restart(family: Family, site: Site, op: str) -> None:
    """The process dies over the call: another one, with the same store, asks what became of it."""
    till = Till(family.open(site, max_retries=0))
    number = till.start().transaction_number if op == "finish" else 0
    item = str(uuid.uuid4())
    method, path = (
        (family.START_METHOD, family.TX_START) if op == "start" else (family.FINISH_METHOD, family.TX_FINISH)
    )
    site.fault(method, path, when="after", reset=True)
    site.fault("GET", "", count=2, status=500)  # and it cannot look at once
    with contextlib.suppress(OutcomeUnknown, Unreachable):
        till.start(item) if op == "start" else till.finish(number, item=item)
    till.scu.close()
    site.sim.faults.clear()
    again = Till(family.open(site))
    answer = again.start(item, retry=True) if op == "start" else again.finish(number, item=item, retry=True)
    assert answer.transaction_number == 1
    assert len(signatures(family, site, STARTED)) == 1
    assert len(signatures(family, site, FINISHED)) == (op == "finish")


def test_a_call_ends_with_its_deadline(family: Family, site: Site, till: Till) -> None:
    till.sell()
    site.fault(family.START_METHOD, family.TX_START, count=None, when="after", delay_ms=5000)
    began = time.monotonic()
    with pytest.raises((OutcomeUnknown, Unreachable)):
        till.start(seconds=0.5)
    assert time.monotonic() - began < 0.5 + 1.5  # 250 ms, and a second for a busy machine


def test_nobody_is_there(family: Family, site: Site, till: Till) -> None:
    till.sell()
    till.scu.close()
    scu = family.open(site, max_retries=0)
    site.sim.close()
    with pytest.raises(Unreachable):
        Till(scu).start()


# ---- 9 and 10: clients --------------------------------------------------------------------------


def test_clients_come_and_go(family: Family, site: Site, till: Till) -> None:
    scu = till.scu
    with pytest.raises(TseRejected, match="not registered"):
        Till(scu, "POS-9").start()
    assert site.requests(family.START_METHOD, family.TX_START.partition("\\?")[0]) == 0
    for _ in range(2):
        assert "POS-9" in scu.register_client_id(RegisterClientIdRequest(client_id="POS-9")).client_ids
        Till(scu, "POS-9").sell()
        for _ in range(2):
            left = scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-9")).client_ids
            assert sorted(left) == ["POS-1", "POS-2"]
        with pytest.raises(TseRejected, match="not registered"):
            Till(scu, "POS-9").start()
    assert "POS-9" in scu.register_client_id(RegisterClientIdRequest(client_id="POS-9")).client_ids


@pytest.mark.parametrize("client_id", ["", "a/b", "Ä", "x" * 71, "new\nline"])
def test_client_ids_that_cannot_be(family: Family, site: Site, till: Till, client_id: str) -> None:
    with pytest.raises(ClientError) as caught:
        till.scu.register_client_id(RegisterClientIdRequest(client_id=client_id))
    assert caught.value.code == "INVALID_CLIENT_ID"


def test_a_lost_registration_is_one(family: Family, site: Site, till: Till) -> None:
    till.scu.get_tse_info()
    path = {"fiskaly": "/client/", "fcc": "/registration", "swissbit_cloud": "/registerClient"}[family.name]
    site.fault("PUT" if family.name == "fiskaly" else "POST", path, when="after", reset=True)
    answer = till.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))
    assert sorted(answer.client_ids) == ["POS-1", "POS-2", "POS-9"]


def test_more_clients_than_configured(family: Family, site: Site) -> None:
    scu = family.open(site, max_client_count=2)
    with pytest.raises(TseRejected) as caught:
        scu.register_client_id(RegisterClientIdRequest(client_id="POS-3"))
    assert caught.value.code == "CLIENT_LIMIT"


# ---- 11: exports --------------------------------------------------------------------------------


def test_an_export_is_read_in_pieces_and_ends_only_with_its_hash(
    family: Family, site: Site, till: Till
) -> None:
    for _ in range(3):
        till.sell()
    scu = till.scu
    token = scu.start_export_session(StartExportSessionRequest(erase=True)).token_id
    data = b""
    until = time.monotonic() + 20
    while True:
        chunk = scu.export_data(ExportDataRequest(token_id=token, max_chunk_size=1000))
        data += base64.b64decode(chunk.tar_file_byte_chunk_base64 or "")
        if chunk.tar_file_end_of_file:
            break
        assert time.monotonic() < until
    bad = EndExportSessionRequest(token_id=token, sha256_checksum_base64="AAAA", erase=True)
    assert not scu.end_export_session(bad).is_valid
    scu.abandon_export_session(token)
    assert verified(data).logs >= 6


def test_the_next_export_after_an_erasure_has_only_what_is_new(
    family: Family, site: Site, till: Till
) -> None:
    for _ in range(3):
        till.sell()
    site.sim.app.clock.advance(300)  # an FCC acknowledges nothing of the last minute
    first, ended = export(till.scu, erase=True)
    assert (ended.is_valid, ended.is_erased) == (True, True)
    site.sim.app.clock.advance(300)
    till.sell()
    second, ended = export(till.scu, erase=True)
    assert ended.is_erased
    assert verified(first).logs > verified(second).logs
    assert verified(second).logs == 2


def test_an_erasure_with_open_transactions(family: Family, site: Site, till: Till) -> None:
    till.sell()
    till.start()
    site.sim.app.clock.advance(300)
    _, ended = export(till.scu, erase=True)
    assert ended.is_valid
    assert ended.is_erased is (family.name != "fiskaly")


def test_an_export_with_nothing_in_it(family: Family, site: Site, till: Till) -> None:
    till.sell()
    site.sim.app.clock.advance(300)
    export(till.scu, erase=True)
    site.sim.app.clock.advance(300)
    empty, ended = export(till.scu, erase=True)
    assert ended.is_valid
    if family.name != "swissbit_cloud":  # whose archives hold certificates without any log, too
        assert len(empty) == 1024


def test_no_export_if_it_is_switched_off(family: Family, site: Site) -> None:
    scu = family.open(site, enable_tar_file_export=False)
    token = scu.start_export_session(StartExportSessionRequest()).token_id
    assert token.startswith("noexport-")


def test_a_download_that_is_cut_is_fetched_again(family: Family, site: Site, till: Till) -> None:
    till.sell()
    path = {"fiskaly": "/file", "fcc": "/export/", "swissbit_cloud": "/download/"}[family.name]
    site.fault("GET", path, when="after", truncate=1000)
    data, ended = export(till.scu)
    assert ended.is_valid
    verified(data)


def test_a_download_that_always_fails_ends_the_session(family: Family, site: Site, till: Till) -> None:
    till.sell()
    path = {"fiskaly": "/file", "fcc": "/export/", "swissbit_cloud": "/download/"}[family.name]
    site.fault("GET", path, when="after", count=None, truncate=1000)
    with pytest.raises(TseRejected) as caught:
        export(till.scu)
    assert caught.value.code == "EXPORT_FAILED"


def test_signing_goes_on_during_an_export(family: Family, site: Site, till: Till) -> None:
    till.sell()
    path = {"fiskaly": "/file", "fcc": "/export/", "swissbit_cloud": "/download/"}[family.name]
    site.fault("GET", path, when="after", delay_ms=600)
    token = till.scu.start_export_session(StartExportSessionRequest()).token_id
    for _ in range(5):
        till.sell()
    till.scu.abandon_export_session(token)


# ---- 12 and 13: what the TSE says of itself -----------------------------------------------------


def test_all_open_transactions_and_clients_are_listed(family: Family, make: Callable[..., Site]) -> None:
    clients = tuple(f"POS-{n}" for n in range(1, 121 if family.name != "fcc" else 41))
    limit = {"fiskaly": {}, "fcc": {"max_clients": 200}, "swissbit_cloud": {"max_clients": 200}}[family.name]
    site = make(clients=clients, **limit)
    scu = family.open(site)
    for client in clients:
        for _ in range(1 if family.name != "fcc" else 3):
            Till(scu, client).start()
    info = scu.get_tse_info()
    opened = len(clients) * (1 if family.name != "fcc" else 3)
    assert sorted(info.current_client_ids) == sorted(clients)
    assert info.current_number_of_clients == len(clients)
    assert info.current_started_transaction_numbers == list(range(1, opened + 1))
    assert info.current_number_of_started_transactions == opened


def test_a_tse_that_was_disabled(family: Family, site: Site, till: Till) -> None:
    till.sell()
    if family.name == "fiskaly":
        site.sim.app.force({"tss": {site.sim.app.settings.tss[0].tss_id: {"state": "DISABLED"}}})  # type: ignore[attr-defined]
    else:
        family.engine(site).set_state(TseStates.TERMINATED, None)
    assert till.scu.get_tse_info().current_state is TseStates.TERMINATED
    with pytest.raises((TseRejected, Misconfigured)):
        till.start()
    data, ended = export(till.scu)
    assert ended.is_valid
    assert verified(data).logs >= 2


# ---- 14: many at once ---------------------------------------------------------------------------


def test_eight_threads_and_two_hosts(family: Family, site: Site) -> None:
    """Two processes' worth of SCUs; each client belongs to one of them, as a queue does."""
    scus = [family.open(site, f"scu{n}") for n in range(1 if family.name == "fcc" else 2)]
    numbers: list[int] = []
    failures: list[BaseException] = []

    def work(n: int) -> None:
        try:
            till = Till(scus[n % len(scus)], f"POS-{n % 2 + 1}")
            numbers.extend(till.sell().transaction_number for _ in range(4))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(numbers) == list(range(1, 33))
    assert sorted(signatures(family, site, FINISHED)) == list(range(1, 33))


def test_a_driver_takes_as_many_calls_as_it_says(family: Family, site: Site) -> None:
    """The driver itself, without the line in front of it."""
    options = {"parallel_calls": 4}
    scu = family.open(site, **options)
    scu.get_tse_info()
    driver: Any = scu._driver
    assert driver.parallel_calls == 4
    numbers: list[int] = []
    failures: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for _ in range(5):
                client = f"POS-{n % 2 + 1}"
                number = driver.start(
                    Call("start", client, 0, "", b"", str(uuid.uuid4())), Deadline(20)
                ).transaction_number
                driver.finish(
                    Call("finish", client, number, "Kassenbeleg-V1", RECEIPT, str(uuid.uuid4())), Deadline(20)
                )
                numbers.append(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(numbers) == list(range(1, 21))


# ---- 15: bad input ------------------------------------------------------------------------------

BAD: dict[str, dict[str, Any]] = {
    "captive portal": {"status": 200, "raw_body": "<!DOCTYPE html><html>Welcome</html>"},
    "redirect": {"status": 302, "headers": {"Location": "https://login.invalid/"}},
    "truncated JSON": {"status": 200, "raw_body": '{"number": 1, "stat'},
    "unknown code": {"status": 418, "json": {"code": "E_NEW", "message": "?"}},
    "gzip bomb": {"gzip_bomb_bytes": 30 << 20},
    "100 MB": {"flood_bytes": 100 << 20},
    "HTML error": {"status": 500, "raw_body": "<html>oops</html>"},
    "proxy asks for a login": {"status": 407, "raw_body": "<html>login</html>"},
    "a list": {"status": 200, "raw_body": "[]"},
    "deep": {"status": 200, "raw_body": "[" * 100_000},
}


@pytest.mark.parametrize("what", BAD)
def test_bad_answers_to_a_start_are_errors_and_one_start_in_the_end(
    family: Family, site: Site, what: str
) -> None:
    till = Till(family.open(site, max_retries=1))
    till.sell()
    site.fault(family.START_METHOD, family.TX_START, count=None, **BAD[what])
    item = str(uuid.uuid4())
    with pytest.raises(ScuError) as caught:
        till.start(item)
    assert "INTERNAL" not in caught.value.code
    assert len(str(caught.value)) < 3000
    site.sim.faults.clear()
    assert till.start(item, retry=True).transaction_number == 2
    assert signatures(family, site, STARTED) == [1, 2]


@pytest.mark.parametrize("what", BAD)
def test_bad_answers_about_the_tse_are_errors(family: Family, site: Site, till: Till, what: str) -> None:
    site.fault("GET", "", count=None, **BAD[what])
    with pytest.raises(ScuError) as caught:
        till.scu.get_tse_info(Deadline(20))
    assert "INTERNAL" not in caught.value.code


def test_unknown_members_and_numbers_as_text(family: Family, site: Site, till: Till) -> None:
    patch = {
        "fiskaly": {"signature.counter": "9", "new": {"a": [1]}},
        "fcc": {"new": {"a": [1]}},
        "swissbit_cloud": {"new": {"a": [1]}},
    }[family.name]
    counter = {
        "fiskaly": "signature.counter",
        "fcc": "signatureCounter",
        "swissbit_cloud": "signatureCounter",
    }[family.name]
    till.sell()
    following = family.engine(site).counter + 1
    site.fault(family.START_METHOD, family.TX_START, when="after", patch={**patch, counter: str(following)})
    assert till.start().signature_data.signature_counter == following


def test_an_invalid_signature_does_not_get_through(family: Family, site: Site, till: Till) -> None:
    till.sell()
    number = till.start().transaction_number
    value = {"fiskaly": "signature.value", "fcc": "signatureValue", "swissbit_cloud": "signatureValue"}[
        family.name
    ]
    site.fault(
        family.FINISH_METHOD,
        family.TX_FINISH,
        when="after",
        patch={value: base64.b64encode(b"\1" * 64).decode()},
    )
    item = str(uuid.uuid4())
    with pytest.raises(SignatureMismatch):
        till.finish(number, item=item)
    healed = till.finish(number, item=item, retry=True)
    assert healed.transaction_number == number
    assert signatures(family, site, FINISHED) == [1, 2]


def test_an_answer_of_another_transaction_does_not_get_through(
    family: Family, site: Site, till: Till
) -> None:
    for _ in range(2):
        till.sell()
    number = till.start().transaction_number
    site.fault(family.FINISH_METHOD, family.TX_FINISH, when="after", stale=True)
    item = str(uuid.uuid4())
    try:
        finish = till.finish(number, item=item)
    except OutcomeUnknown:
        finish = till.finish(number, item=item, retry=True)
    assert finish.transaction_number == number
    assert signatures(family, site, FINISHED) == [1, 2, 3]


def test_another_tse_than_the_one_before(family: Family, make: Callable[..., Site], tmp_path: Path) -> None:
    """Another TSE answers in the place of the one that the store belongs to."""
    one, two = make(), make()
    till = Till(family.open(one))
    till.sell()
    till.scu.close()
    shutil.copytree(one.folder / "scu", two.folder / "scu")
    scu = family.open(two)
    with pytest.raises(Misconfigured) as caught:
        Till(scu).start()
    assert caught.value.code == "WRONG_TSE"


def test_a_clock_that_is_hours_off(family: Family, site: Site, till: Till) -> None:
    """The host's clock does not matter: the TSE's time is what counts."""
    site.sim.app.clock.advance(5 * 3600)
    start = till.start()
    assert abs(start.time_stamp - site.sim.app.clock()) < 5 * TICKS_PER_SECOND
    site.sim.app.clock.advance(-9 * 3600)
    till.finish(start.transaction_number)
    assert till.sell().transaction_number == 2
