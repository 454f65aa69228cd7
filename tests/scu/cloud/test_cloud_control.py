"""The control API of the simulators, from outside and over TLS."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import Deadline
from fiskal.scu.errors import OutcomeUnknown, Unreachable
from fiskal.scu.transports.https import Answer, HttpsClient
from fiskal.simulators import fcc, fiskaly, swissbit_cloud
from fiskal.simulators.fcc import Settings
from fiskal.simulators.plan import Fault, Plan
from tests.support.cloud import CA, FAMILIES, Family, Site, Till


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def site(family: Family, tmp_path: Path) -> Iterator[Site]:
    site = family.simulate(tmp_path)
    yield site
    site.close()


def ask(site: Site, method: str, path: str, body: Any = None) -> Answer:
    client = HttpsClient(site.sim.url, ca_file=site.ca_file)
    try:
        data = None if body is None else msgspec.json.encode(body)
        return client.request(method, f"/__sim__/{path}", body=data, deadline=Deadline(5))
    finally:
        client.close()


def test_everything_from_outside(family: Family, site: Site) -> None:
    till = Till(family.open(site, max_retries=0))
    till.sell()
    assert ask(site, "GET", "state").ok
    entries = ask(site, "GET", "journal").decode(list)
    assert entries
    assert all(entry["headers"].get("authorization", "***") == "***" for entry in entries)
    fault = {
        "id": "f1",
        "match": {"method": family.START_METHOD, "path": family.TX_START, "nth": 2, "count": 1},
        "when": "before",
        "action": {"status": 429, "headers": {"Retry-After": "1"}, "json": {"message": "x"}},
    }
    assert ask(site, "POST", "faults", fault).ok
    till.sell()
    with pytest.raises(Unreachable):
        till.start()
    assert [entry["fault"] for entry in ask(site, "GET", "journal").decode(list) if entry["fault"]] == ["f1"]
    before = site.sim.app.clock()
    assert ask(site, "POST", "clock", {"advance_s": -3600}).ok
    assert site.sim.app.clock() < before
    assert ask(site, "DELETE", "faults").ok
    serial = family.engine(site).chain.serial
    assert ask(site, "POST", "reset", {"seed": 2}).ok
    assert family.engine(site).chain.serial != serial
    assert ask(site, "GET", "journal").decode(list) == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "faults", {"action": {"explode": True}}, 400),
        ("POST", "faults", {"match": {"path": "("}, "action": {}}, 400),
        ("POST", "clock", {"advance_s": "soon"}, 400),
        ("POST", "reset", [1], 400),
        ("GET", "nothing", None, 404),
    ],
)
def test_what_it_does_not_understand(site: Site, method: str, path: str, body: Any, status: int) -> None:
    answer = ask(site, method, path, body)
    assert answer.status == status
    assert answer.decode(dict)["message"]


def test_planned_faults_and_service_times(family: Family, tmp_path: Path) -> None:
    faults = [Fault(kind="lost-answer", command="tx" if family.name == "fiskaly" else "finish")]
    site = family.simulate(tmp_path, plan=Plan(scale=0, service_time={"*": 1.0}, faults=faults))
    try:
        till = Till(family.open(site))
        number = till.start().transaction_number
        item = str(uuid.uuid4())
        try:
            till.finish(number, item=item)
        except OutcomeUnknown:
            till.finish(number, item=item, retry=True)
        assert [entry.fault for entry in site.sim.journal.entries() if entry.fault] == ["lost-answer"]
    finally:
        site.close()
    with pytest.raises(ConfigurationError, match="Did you mean 'lost-answer'"):
        family.simulate(tmp_path, plan=Plan(faults=[Fault(kind="lost-answr")]))


def test_addresses_that_cannot_be_listened_on(tmp_path: Path) -> None:
    for listen in ("nonsense", "192.0.2.1:1"):
        with pytest.raises(ConfigurationError):
            fcc.simulate(Settings(listen=listen), ca=CA)
    with fcc.simulate(Settings(tls=False, ca_out=tmp_path / "none")) as plain:
        assert plain.url.startswith("http://")
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("module", [fiskaly, fcc, swissbit_cloud])
def test_the_ca_is_written_where_it_was_asked_for(module: Any, tmp_path: Path) -> None:
    with module.simulate(module.Settings(ca_out=tmp_path / "ca.pem")) as simulator:
        client = HttpsClient(simulator.url, ca_file=tmp_path / "ca.pem")
        assert client.request("GET", "/__sim__/state", deadline=Deadline(5)).ok
        client.close()
