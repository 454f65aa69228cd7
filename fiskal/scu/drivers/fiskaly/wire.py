"""The resources of SIGN DE v2 as they come. Unknown members are ignored, numbers may be strings."""

from __future__ import annotations

from typing import Any

import msgspec


class Fault(msgspec.Struct):
    """An error's body. ``code`` may be missing."""

    code: str = ""
    message: str = ""


class Auth(msgspec.Struct):
    access_token: str
    access_token_expires_in: float | None = None
    refresh_token: str | None = None
    refresh_token_expires_in: float | None = None


class Tss(msgspec.Struct, kw_only=True):
    id: str = msgspec.field(name="_id")
    env: str = msgspec.field(name="_env", default="")
    version: str = msgspec.field(name="_version", default="")
    state: str
    description: str = ""
    admin_puk: str | None = None
    certificate: str = ""
    serial_number: str = ""
    public_key: str = ""
    bsi_certification_id: str | None = None
    signature_counter: int = 0
    signature_algorithm: str | None = None
    signature_timestamp_format: str = "unixTime"
    transaction_counter: int = 0
    max_number_registered_clients: int | None = None
    max_number_active_transactions: int | None = None
    metadata: dict[str, Any] | None = None


class Client(msgspec.Struct, kw_only=True):
    id: str = msgspec.field(name="_id")
    serial_number: str
    state: str = "REGISTERED"


class Raw(msgspec.Struct):
    process_type: str = ""
    process_data: str = ""


class Schema(msgspec.Struct):
    raw: Raw | None = None


class Log(msgspec.Struct):
    timestamp: int
    operation: str = ""


class Signature(msgspec.Struct):
    value: str
    counter: int


class Tx(msgspec.Struct, kw_only=True):
    id: str = msgspec.field(name="_id")
    number: int
    state: str
    revision: int = 0
    latest_revision: int = 0
    tss_id: str = ""
    client_serial_number: str = ""
    schema: Schema | None = None
    time_start: int | None = None
    log: Log
    signature: Signature


class OpenTx(msgspec.Struct):
    number: int


class Export(msgspec.Struct, kw_only=True):
    id: str = msgspec.field(name="_id")
    state: str
    exception: str | None = None


class Tsses(msgspec.Struct):
    data: list[Tss]
    count: int | None = None


class Clients(msgspec.Struct):
    data: list[Client]
    count: int | None = None


class OpenTxs(msgspec.Struct):
    data: list[OpenTx]
    count: int | None = None


class PutTx(msgspec.Struct, omit_defaults=True):
    """The body of a transaction call; members that are None are left out."""

    state: str
    client_id: str
    schema: dict[str, Raw] | None = None
    metadata: dict[str, str] | None = None
