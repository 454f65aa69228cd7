"""What only one of the vendors has."""

from __future__ import annotations

import base64
import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.scu.contract import (
    Deadline,
    RegisterClientIdRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    TseState,
    TseStates,
)
from fiskal.scu.driver import Call
from fiskal.scu.drivers import fiskaly
from fiskal.scu.drivers.fcc.export import Base64Sink
from fiskal.scu.drivers.fiskaly import provision
from fiskal.scu.drivers.fiskaly.driver import transaction_id
from fiskal.scu.errors import Misconfigured, ScuError, TseRejected, Unreachable
from fiskal.simulators.fiskaly import Account, ReadyTss
from fiskal.tse.logmessage import parse
from fiskal.tse.tar import read_members
from tests.support.cloud import FAMILIES, Site, Till, export, fetch, verified

TSS = ReadyTss().tss_id
FISKALY, FCC, SWISSBIT = FAMILIES["fiskaly"], FAMILIES["fcc"], FAMILIES["swissbit_cloud"]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make_it(name: str, **settings: Any) -> Site:
        folder = tmp_path / str(len(sites))
        folder.mkdir()
        sites.append(FAMILIES[name].simulate(folder, **settings))
        return sites[-1]

    yield make_it
    for site in sites:
        site.close()


# ---- fiskaly ------------------------------------------------------------------------------------


def test_ids_are_uuids_of_version_4_and_the_same_for_the_same_item() -> None:
    def call(item: str, generation: int = 0, client: str = "POS-1") -> Call:
        return Call("start", client, 0, "", b"", item, generation)

    one = transaction_id(TSS, call("a"))
    assert uuid.UUID(one).version == 4
    assert uuid.UUID(one).variant == uuid.RFC_4122
    assert one == transaction_id(TSS, call("a"))
    others = {
        transaction_id(TSS, call("b")),
        transaction_id(TSS, call("a", 1)),
        transaction_id(TSS, call("a", client="POS-2")),
        transaction_id("other", call("a")),
        transaction_id(TSS, call("")),
        transaction_id(TSS, call("")),
    }
    assert len(others | {one}) == 7


def test_another_host_repeats_the_same_start(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    item = str(uuid.uuid4())
    first = Till(FISKALY.open(site, "one")).start(item)
    second = Till(FISKALY.open(site, "two")).start(item, retry=True)
    assert second.transaction_number == first.transaction_number
    assert second.signature_data == first.signature_data
    assert FISKALY.engine(site).transaction_counter == 1


def test_a_wrong_pin_is_tried_once(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    scu = FISKALY.open(site, admin_pin="000000")
    for _ in range(3):
        with pytest.raises(Misconfigured) as caught:
            scu.register_client_id(RegisterClientIdRequest(client_id="POS-3"))
        assert caught.value.code == "AUTH_FAILED"
    assert site.requests("POST", "/admin/auth") == 1
    Till(scu).sell()


def test_one_renewal_for_all_who_wait(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    driver: Any = FISKALY.open(site)._driver
    site.fault("POST", "/auth", when="after", delay_ms=200)
    tokens: list[str] = []
    threads = [
        threading.Thread(target=lambda: tokens.append(driver._api._bearer(Deadline(10)).value))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(tokens)) == 1
    assert site.requests("POST", "/auth") == 1


def test_tokens_are_renewed_before_they_end_and_by_refresh_token(make: Callable[..., Site]) -> None:
    site = make("fiskaly", access_token_s=1000)
    driver: Any = FISKALY.open(site)._driver
    moment = [time.monotonic()]
    driver._api._monotonic = lambda: moment[0]
    first = driver._api._bearer(Deadline(5)).value
    moment[0] += 890
    assert driver._api._bearer(Deadline(5)).value == first
    moment[0] += 20
    assert driver._api._bearer(Deadline(5)).value != first
    until = time.monotonic() + 30
    bodies: list[Any] = []
    while len(bodies) < 2 and time.monotonic() < until:  # the simulator notes a call behind its answer
        bodies = [entry.body for entry in site.sim.journal.entries() if entry.path.endswith("/auth")]
    assert ["api_key" in body for body in bodies] == [True, False]
    moment[0] += 2000
    site.fault("POST", "/auth", status=401, json={"code": "E_UNAUTHORIZED", "message": "refresh token"})
    driver._api._bearer(Deadline(5))
    assert "api_key" in site.sim.journal.entries()[-1].body


def test_updates_are_kept_back_or_signed(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    for mode, signed in (("noop", 0), ("signed", 1)):
        till = Till(FISKALY.open(site, mode, update_mode=mode))
        number = till.start().transaction_number
        before = FISKALY.engine(site).counter
        answer = till.update(number)
        assert FISKALY.engine(site).counter == before + signed
        assert bool(answer.signature_data.signature_base64) is bool(signed)
        till.finish(number)


def test_a_revision_that_another_host_made(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    one = Till(FISKALY.open(site, "one", update_mode="signed"))
    two = Till(FISKALY.open(site, "two", update_mode="signed"))
    number = one.start().transaction_number
    two.update(number)
    assert one.finish(number).transaction_number == number
    with pytest.raises(TseRejected) as caught:
        two.finish(number, b"other")
    assert caught.value.code == "TRANSACTION_NOT_OPEN"


def test_a_defective_tss_signs_no_more_and_is_exported(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    till = Till(FISKALY.open(site))
    till.sell()
    site.sim.app.force({"tss": {TSS: {"state": "DEFECTIVE"}}})
    with pytest.raises(TseRejected):
        till.start()
    info = till.scu.get_tse_info()
    assert info.current_state is TseStates.TERMINATED
    assert info.info is not None
    assert info.info["vendor_state"] == "DEFECTIVE"
    assert verified(export(till.scu)[0]).logs >= 2


def test_a_tss_of_another_organisation(make: Callable[..., Site]) -> None:
    other = Account(api_key="other", organization_id="00000000-0000-4000-8000-000000000002")
    site = make("fiskaly", accounts=(Account(), other))
    with pytest.raises(Misconfigured, match="another organisation"):
        Till(FISKALY.open(site, api_key="other")).start()


def test_a_long_log_is_exported_in_windows_and_too_many_records_halve_them(make: Callable[..., Site]) -> None:
    site = make("fiskaly", max_records=7)
    scu = FISKALY.open(site, max_export_records=10)
    till = Till(scu)
    for _ in range(12):
        till.sell()
    assert verified(export(scu)[0]).logs == FISKALY.engine(site).counter
    token = scu.start_export_session_by_transaction(
        StartExportSessionByTransactionRequest(from_=2, to=3)
    ).token_id
    numbers = {
        parse(member.data).transaction_number
        for member in read_members(io.BytesIO(fetch(scu, token)))
        if member.data is not None and member.name.endswith(".log")
    }
    assert numbers - {None} == {2, 3}


def test_an_export_that_was_ordered_is_waited_for_after_a_restart(make: Callable[..., Site]) -> None:
    site = make("fiskaly", export_polls=3)
    till = Till(FISKALY.open(site))
    till.sell()
    site.fault("GET", "/export/", count=None, status=503, json={"code": "E_EXPORT_TEMPORARILY_UNAVAILABLE"})
    till.scu.start_export_session(StartExportSessionRequest())
    until = time.monotonic() + 10
    while not site.requests("GET", "/export/") and time.monotonic() < until:
        time.sleep(0.01)
    till.scu.close()
    site.sim.faults.clear()
    again = Till(FISKALY.open(site))
    again.sell()
    data, _ = export(again.scu)
    assert verified(data).logs == FISKALY.engine(site).counter
    orders = [
        entry.path
        for entry in site.sim.journal.entries()
        if entry.method == "PUT" and "/export/" in entry.path
    ]
    assert len(orders) == 2  # the one before the restart, and one for what was signed since


def test_an_uninitialised_tss_is_initialised_with_the_pin(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    scu = FISKALY.open(site)
    app: Any = site.sim.app
    app._tss[TSS].state = "UNINITIALIZED"
    assert (
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED)).current_state
        is TseStates.INITIALIZED
    )
    app._tss[TSS].state = "CREATED"
    with pytest.raises(Misconfigured) as caught:
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
    assert caught.value.code == "NOT_PERSONALISED"


def test_a_serial_number_that_is_not_that_of_the_key(make: Callable[..., Site]) -> None:
    site = make("fiskaly")
    site.fault("GET", f"/tss/{TSS}$", when="after", count=None, patch={"serial_number": "ab" * 32})
    with pytest.raises(Misconfigured) as caught:
        FISKALY.open(site).get_tse_info()
    assert caught.value.code == "WRONG_TSE"


@pytest.mark.parametrize("dies_at", range(8))
def test_a_new_tss_is_made_once_however_often_it_dies(
    make: Callable[..., Site], tmp_path: Path, dies_at: int
) -> None:
    """From nothing to a TSS that signs, begun again after dying before or after any call that changes something."""
    for when in ("before", "after"):
        site = make("fiskaly", tss=())
        folder = tmp_path / f"new-{dies_at}-{when}"
        kept: list[str] = []

        def once(site: Site = site, folder: Path = folder, kept: list[str] = kept) -> str:
            options = fiskaly.Options(
                **{**FISKALY.options(site), "ca_file": str(site.ca_file), "max_retries": 0}
            )
            return provision.provision(
                folder, options, clients=("POS-1", "POS-2"), keep_puk=kept.append, find_puk=lambda: kept[-1]
            )

        site.fault(None, r"^/api/v2/tss/.*(?<!logout)$", when=when, nth=dies_at + 1, reset=True)
        try:
            tss_id = once()
        except ScuError:
            tss_id = once()
        assert once() == tss_id
        assert len(site.sim.app.state()["tss"]) == 1
        assert set(site.sim.app.state()["tss"][tss_id]["clients"]) == {"POS-1", "POS-2"}
        assert "PUK" not in (folder / "provision.json").read_text()
        assert kept[-1] not in (folder / "provision.json").read_text()
        Till(FISKALY.open(site, tss_id=tss_id)).sell()


def test_the_limit_of_test_tss(make: Callable[..., Site], tmp_path: Path) -> None:
    site = make("fiskaly", max_test_tss=1)
    options = fiskaly.Options(**{**FISKALY.options(site), "ca_file": str(site.ca_file)})
    with pytest.raises(TseRejected, match="E_TSS_LIMIT_REACHED"):
        provision.provision(
            tmp_path / "new", options, clients=(), keep_puk=lambda _: None, find_puk=lambda: None
        )


# ---- Fiskal Cloud Connector ---------------------------------------------------------------------


def test_too_many_records_are_fetched_in_halves_and_acknowledged(make: Callable[..., Site]) -> None:
    site = make("fcc", max_records=8)
    till = Till(FCC.open(site))
    for _ in range(6):
        till.sell()
        site.sim.app.clock.advance(10)
    site.sim.app.clock.advance(300)
    data, ended = export(till.scu, erase=True)
    assert ended.is_erased
    assert verified(data).logs == FCC.engine(site).counter
    ranges = site.sim.app.state()["acknowledged"]
    assert len(ranges) > 1
    assert ranges == sorted(ranges)


def test_empty_process_data_is_signed_as_none(make: Callable[..., Site]) -> None:
    site = make("fcc")
    till = Till(FCC.open(site))
    finish = till.finish(till.start().transaction_number, b"", process_type="Bestellung-V1")
    assert finish.process_data_base64 == ""
    assert parse(list(FCC.engine(site).messages())[-1][1]).process_data == b"<none>"


def test_updates_without_a_signature(make: Callable[..., Site]) -> None:
    site = make("fcc", unsigned_updates=True)
    till = Till(FCC.open(site))
    number = till.start().transaction_number
    assert till.update(number).signature_data.signature_counter == 0
    till.finish(number)


def test_the_other_dialect(make: Callable[..., Site]) -> None:
    site = make("fcc", dialect="cloudtse", clients=())
    scu = FCC.open(site)
    driver: Any = scu._driver
    driver._api.any_client = "POS-1"
    scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    till = Till(scu)
    till.sell()
    number = till.start().transaction_number
    assert scu.get_tse_info().current_started_transaction_numbers == [number]
    till.finish(number)
    assert verified(export(scu)[0]).logs == FCC.engine(site).counter


@pytest.mark.parametrize("size", [1, 3, 4, 7, 1000])
def test_base64_in_pieces_and_lines(size: int) -> None:
    data = bytes(range(256)) * 5
    texts = (
        base64.b64encode(data),
        base64.encodebytes(data).replace(b"\n", b"\r\n"),
        b"\n".join(base64.b64encode(data[i : i + 100]) for i in range(0, len(data), 100)),
    )
    for text in texts:
        out = io.BytesIO()
        sink = Base64Sink(out)
        for i in range(0, len(text), size):
            sink.write(text[i : i + size])
        sink.close()
        assert out.getvalue() == data


@pytest.mark.parametrize("text", [b"QUJD*", b"QUJDR", b"<html>oops</html>", b"Q===", b"=AAA"])
def test_what_is_not_base64(text: bytes) -> None:
    def decode() -> None:
        sink = Base64Sink(io.BytesIO())
        sink.write(text)
        sink.close()

    with pytest.raises(Unreachable):
        decode()


# ---- Swissbit Cloud -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"algorithm": "oid"}, {"algorithm": "missing"}, {"crlf": True}, {"download_url": "absolute"}],
    ids=str,
)
def test_forms_of_answers_that_were_seen(make: Callable[..., Site], settings: dict[str, Any]) -> None:
    site = make("swissbit_cloud", **settings)
    till = Till(SWISSBIT.open(site))
    till.sell()
    info = till.scu.get_tse_info()
    assert info.signature_algorithm == "ecdsa-plain-SHA256"
    assert len(info.certificates_base64) == 3
    assert verified(export(till.scu)[0]).logs >= 2


def test_an_archive_at_another_host_is_not_sent_credentials(make: Callable[..., Site]) -> None:
    site = make("swissbit_cloud")
    till = Till(SWISSBIT.open(site))
    till.sell()
    url = "https://elsewhere.invalid/archive"
    site.fault("GET", "/export/", when="after", count=None, patch={"downloadUrl": url, "status": "success"})
    with pytest.raises(Misconfigured, match="download_hosts"):
        export(till.scu)


def test_an_export_that_lies_there_is_taken(make: Callable[..., Site]) -> None:
    site = make("swissbit_cloud")
    till = Till(SWISSBIT.open(site))
    till.sell()
    export(till.scu)
    till.sell()
    old, ended = export(till.scu, erase=True)
    assert ended.is_erased
    new, _ = export(till.scu, erase=True)
    assert verified(new).logs == 2
    assert verified(old).logs + 2 == SWISSBIT.engine(site).counter
