"""Master data: what a new queue begins with, what closings show, and how they change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fiskal.germany.masterdata import Account, Agency, MasterData, Outlet, PosSystem
from fiskal.host.config import HostConfig
from fiskal.scu.errors import Unreachable
from tests.support.shop import DE, Shop

UPDATE = 0x800_0000
NOTHING = {"Account": None, "Outlet": None, "Agencies": [], "PosSystems": []}
ACCOUNT = {
    "AccountId": "acc",
    "AccountName": "Muster GmbH",
    "Street": "Hauptstr. 1",
    "Zip": "50667",
    "City": "Köln",
    "Country": "DEU",
    "TaxId": "123/456/78901",
    "VatId": None,
}


def first(config: HostConfig) -> None:
    config.master_data = MasterData(
        account=Account(
            account_id="acc",
            account_name="Muster GmbH",
            street="Hauptstr. 1",
            zip="50667",
            city="Köln",
            country="DEU",
            tax_id="123/456/78901",
        ),
        agencies=[None, Agency(agency_id="ag")],
        pos_systems=[PosSystem(pos_system_id="pos", type="Kasse")],
    )


def second(config: HostConfig) -> None:
    first(config)
    assert config.master_data is not None
    config.master_data.outlet = Outlet(outlet_id="out", location_id="F001")


def shown(answer: dict[str, Any]) -> Any:
    return json.loads(answer["ftStateData"])["MasterData"]


@pytest.fixture
def open_shop(tmp_path: Path) -> Any:
    shops: list[Shop] = []

    def make(prepare: Callable[[HostConfig], None] | None = None) -> Shop:
        shops.append(Shop(tmp_path, prepare=prepare))
        return shops[-1]

    yield make
    for shop in shops:
        shop.close()


def test_a_new_queue_begins_with_the_configured_data(open_shop: Any) -> None:
    shop = open_shop(first)
    answer = shop.send(0x05, "M")
    data = shown(answer)
    assert list(data) == ["Account", "Outlet", "Agencies", "PosSystems"]
    assert list(data["Account"].items()) == list(ACCOUNT.items())
    assert data["Outlet"] is None
    assert [agency["AgencyId"] for agency in data["Agencies"]] == ["ag"]
    assert list(data["PosSystems"][0]) == [
        "PosSystemId",
        "Brand",
        "Model",
        "SoftwareVersion",
        "BaseCurrency",
        "Type",
    ]
    assert list(json.loads(answer["ftStateData"])) == ["MasterData"]


def test_a_queue_without_any_shows_empty_ones(open_shop: Any) -> None:
    shop = open_shop()
    assert shown(shop.send(0x07 | UPDATE, "D")) == NOTHING
    assert shop.actions_of("4445000008000007") == []


@pytest.mark.parametrize(
    ("case", "kind", "name"),
    [
        (0x05, "0005", "Monthly"),
        (0x06, "0006", "Yearly"),
        (0x07, "0007", "Daily"),
        (0x19, "0007", "Daily"),
    ],
)
def test_a_closing_brings_new_data_into_effect(open_shop: Any, case: int, kind: str, name: str) -> None:
    shop = open_shop()
    shop.reopen(second)
    assert shown(shop.send(0x07, "without the flag")) == NOTHING
    answer = shop.send(case | UPDATE, "C")
    assert shown(answer) == NOTHING  # what was in effect until now
    (entry,) = shop.actions_of(f"444500000800{kind}")
    assert entry.Message == f"{name}-closing receipt was processed, and a master data update was performed."
    assert json.loads(entry.DataJson)["masterDataChanged"] is True
    if case == 0x19:
        return
    shop.reopen()
    again = shop.send(case | UPDATE, "C")
    assert shown(again)["Outlet"]["LocationId"] == "F001"
    assert len(shop.actions_of(f"444500000800{kind}")) == 1
    assert json.loads(shop.actions_of(f"444500000000{kind}")[-1].DataJson)["masterDataChanged"] is False


def test_data_change_in_failed_mode_too(open_shop: Any) -> None:
    shop = open_shop(first)
    shop.reopen(second)
    shop.tse.down = Unreachable("CONNECT_FAILED", "Nobody answers.")
    assert shop.send(0x06 | UPDATE, "Y")["ftState"] == DE + 2
    (entry,) = shop.actions_of("4445000008000006")
    assert entry.Message == (
        "Yearly-closing receipt was processed, and a master data update was performed. However TSE was not "
        "reachable."
    )
    shop.tse.down = None
    shop.send(0x02, "Z")
    assert shown(shop.send(0x07, "D"))["Outlet"]["OutletId"] == "out"


def test_a_closing_that_changes_master_data_permits_an_scu_switch_too(open_shop: Any) -> None:
    shop = open_shop(first)
    shop.reopen(second)
    shop.send(0x07 | UPDATE, "D")
    with pytest.raises(Exception, match="The source SCU is not set up correctly"):
        shop.send(0x17)
