"""Master data: who sells, where, for whom and with which software (DSFinV-K, Stammdaten).

The names on the wire are the reference's; they are what ftStateData of a closing shows.
"""

from __future__ import annotations

from typing import Final

import msgspec


class _Part(msgspec.Struct, rename="pascal", kw_only=True, forbid_unknown_fields=True):
    """Members that are not given are null. Country is the ISO 3166 code of three letters."""


class Account(_Part):
    """The taxable business."""

    account_id: str | None = None
    account_name: str | None = None
    street: str | None = None
    zip: str | None = None
    city: str | None = None
    country: str | None = None
    tax_id: str | None = None
    vat_id: str | None = None


class Outlet(_Part):
    """The place of business."""

    outlet_id: str | None = None
    outlet_name: str | None = None
    street: str | None = None
    zip: str | None = None
    city: str | None = None
    country: str | None = None
    vat_id: str | None = None
    location_id: str | None = None


class Agency(_Part):
    """Somebody in whose name is sold as well."""

    agency_id: str | None = None
    name: str | None = None
    street: str | None = None
    zip: str | None = None
    city: str | None = None
    country: str | None = None
    tax_id: str | None = None
    vat_id: str | None = None


class PosSystem(_Part):
    """A terminal and its software."""

    pos_system_id: str | None = None
    brand: str | None = None
    model: str | None = None
    software_version: str | None = None
    base_currency: str | None = None
    type: str | None = None


class MasterData(_Part):
    """MasterDataConfiguration. What is null is not there: it is shown as null or left out of its list."""

    account: Account | None = None
    outlet: Outlet | None = None
    agencies: list[Agency | None] | None = None
    pos_systems: list[PosSystem | None] | None = None


NO_MASTER_DATA: Final = '{"Account":null,"Outlet":null,"Agencies":[],"PosSystems":[]}'
"""What a queue shows that was never given any."""


def canonical(data: MasterData) -> str:
    """The text that is stored and shown; equal data have equal texts."""
    return msgspec.json.encode(
        MasterData(
            account=data.account,
            outlet=data.outlet,
            agencies=[agency for agency in data.agencies or () if agency is not None],
            pos_systems=[system for system in data.pos_systems or () if system is not None],
        )
    ).decode()
