"""A DSFinV-K export as tests look at it."""

from __future__ import annotations

import csv
import io
import zipfile
from typing import Any

from fiskal.germany.codes import DE, JournalType
from tests.support.shop import Shop

MASTER_DATA: dict[str, Any] = {
    "Account": {
        "AccountName": "Muster GmbH",
        "Street": "Weg 1",
        "Zip": "10115",
        "City": "Berlin",
        "Country": "DE",
        "TaxId": "12/345/67890",
        "VatId": "DE123456789",
    },
    "Outlet": {
        "OutletName": "Café Muster",
        "Street": "Weg 2",
        "Zip": "10117",
        "City": "Berlin",
        "Country": "DEU",
        "VatId": "DE123456789",
    },
    "Agencies": [
        {
            "AgencyId": "a-1",
            "Name": "Erste",
            "Street": "S",
            "Zip": "1",
            "City": "O",
            "Country": "AT",
            "VatId": "U1",
        },
        {
            "AgencyId": "a-2",
            "Name": "Zweite",
            "Street": "S",
            "Zip": "2",
            "City": "O",
            "Country": "DE",
            "TaxId": "2",
        },
    ],
    "PosSystems": [
        {
            "PosSystemId": "p-1",
            "Brand": "Marke",
            "Model": "M1",
            "SoftwareVersion": "1.0",
            "BaseCurrency": "EUR",
        },
        {"PosSystemId": "p-2", "Brand": "Andere", "Model": "M2", "SoftwareVersion": "2.0", "Type": "POS 2"},
    ],
}

Rows = list[dict[str, str]]


def export(shop: Shop, first: int = 0, last: int = 0) -> bytes:
    chunks = shop.middleware.journal(JournalType.DE_DSFINVK, first, last, queue_id=shop.queue_id)
    return b"".join(chunks)


def tables_of(data: bytes) -> dict[str, Rows]:
    """The rows of every table of an export, by the stem of its file."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.endswith(".csv"):
                text = archive.read(name).decode()
                found[name[:-4]] = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))
    return found


def tables(shop: Shop, first: int = 0, last: int = 0) -> dict[str, Rows]:
    return tables_of(export(shop, first, last))


def charge(
    description: str, amount: float, rate: float = 19, case: int = 0x01, **members: Any
) -> dict[str, Any]:
    """A charge item."""
    return {
        "Quantity": members.pop("quantity", 1),
        "Description": description,
        "Amount": amount,
        "VATRate": rate,
        "ftChargeItemCase": DE | case,
        **members,
    }


def pay(description: str, amount: float, case: int = 0x01, **members: Any) -> dict[str, Any]:
    """A pay item."""
    return {
        "Quantity": members.pop("quantity", 1),
        "Description": description,
        "Amount": amount,
        "ftPayItemCase": DE | case,
        **members,
    }
