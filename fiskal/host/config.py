"""The configuration of one host: which queues, which signature creation units, under which ids.

It is one file, ``fiskal.json`` in the data folder, and it is the truth: no portal, no rebuild.
"""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path
from typing import Any

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.files import write_atomically
from fiskal.germany.masterdata import MasterData
from fiskal.host import keys
from fiskal.host.upkeep import SLOT_MINUTES, Window
from fiskal.queue.identity import parse_guid
from fiskal.queue.settings import QueueSettings
from fiskal.scu.signcheck import Mode

FILE_NAME = "fiskal.json"
STORE_NAME = "journal.sqlite"

CLIENT_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+-,.=")
MAX_CLIENT_ID = 64
MAX_PROBE_INTERVAL_S = 86_400
MAX_SELF_TEST_INTERVAL_H = 168


class ScuConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One signature creation unit. ``options`` are the driver's.

    ``mode`` and ``mode_configuration_json`` prepare an SCU switch: 0x10000 and ``{"TargetScuId": …}`` at the
    source, 0x20000 and ``{"SourceScuId": …}`` at the target; the JSON may be an object or a text.
    """

    id: str
    driver: str = "software"
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    mode: int = 0
    mode_configuration_json: str | dict[str, Any] | None = None
    signature_check: Mode | None = None
    """What becomes of a signature that does not verify; None is ``failed_mode``, or what is set at the other end."""

    @property
    def mode_configuration_text(self) -> str | None:
        """ModeConfigurationJson as it is stored."""
        given = self.mode_configuration_json
        if isinstance(given, dict):
            return msgspec.json.encode(given).decode()
        return given or None


class QueueConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One queue: its cash register serial number (the TSE's client id) and the SCU it signs with."""

    id: str
    client_id: str
    scu_id: str
    settings: QueueSettings = msgspec.field(default_factory=QueueSettings)


class HostConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything a host is told. ``access_token`` is asked for where the host requires one.

    ``master_data`` are what a new queue begins with; a queue in operation takes them over with a closing.
    """

    version: int = 1
    cash_box_id: str
    access_token: str
    queues: list[QueueConfig]
    scus: list[ScuConfig]
    master_data: MasterData | None = None
    probe_interval_s: float = 30
    """How often the TSE of a queue in failed mode is asked whether it is there again; 0 is never."""
    upkeep_window: str = ""
    """When exports of closings and self tests may begin, as ``22:00-05:00`` in German time; empty is always."""
    self_test_interval_h: float = 0
    """How often each TSE is to test itself at least; 0 is never."""


def new_config(
    *, cash_box_id: str | None = None, queue_id: str | None = None, client_id: str | None = None
) -> HostConfig:
    """A configuration with one queue on the embedded software TSE. Missing ids are made up.

    Raises ConfigurationError for an id that is no GUID or a client id a TSE would refuse.
    """
    queue = guid("queue id", queue_id)
    scu_id = str(uuid.uuid4())
    return HostConfig(
        cash_box_id=guid("cash box id", cash_box_id),
        access_token=secrets.token_hex(32),
        queues=[
            QueueConfig(
                id=queue, client_id=check_client_id(client_id or f"POS-{queue[:8].upper()}"), scu_id=scu_id
            )
        ],
        scus=[ScuConfig(id=scu_id)],
    )


def guid(what: str, text: str | None) -> str:
    """``text`` in its lower-case dashed form, a new GUID if it is None."""
    if text is None:
        return str(uuid.uuid4())
    parsed = parse_guid(text)
    if parsed is None:
        raise ConfigurationError(f"the {what} {text!r} is not a GUID such as {uuid.uuid4()}")
    return parsed


def check_client_id(text: str) -> str:
    """Refuse a cash register serial number that TSEs cannot take (TR-03151-1 Annex A)."""
    bad = sorted(set(text) - CLIENT_ID_CHARACTERS)
    if not text or len(text) > MAX_CLIENT_ID or bad:
        raise ConfigurationError(
            f"the client id {text!r} cannot be registered at a TSE: use 1 to {MAX_CLIENT_ID} letters, digits, "
            "spaces and ' ( ) + - , . =" + (f"; not allowed: {' '.join(bad)}" if bad else "")
        )
    return text


def load(folder: Path) -> HostConfig:
    """Read ``fiskal.json``. Raises ConfigurationError that names the member and what to do."""
    path = folder / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{folder} holds no {FILE_NAME}: create it with 'fiskal init --data {folder}'"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    try:
        config = keys.convert(msgspec.json.decode(data), HostConfig, FREE)
    except (msgspec.DecodeError, ConfigurationError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    _check(path, config)
    return config


FREE = frozenset({"options", "mode_configuration_json"})
"""Members whose own members are not the configuration's."""


def _check(path: Path, config: HostConfig) -> None:
    if config.version != 1:
        raise ConfigurationError(f"{path}: version {config.version} is not known to this fiskal")
    if not config.queues:
        raise ConfigurationError(f"{path}: 'queues' is empty; one queue is the least")
    for scu in config.scus:
        scu.id = guid("SCU id", scu.id)
    scu_ids = [scu.id for scu in config.scus]
    config.cash_box_id = guid("cash_box_id", config.cash_box_id)
    if not 0 <= config.probe_interval_s <= MAX_PROBE_INTERVAL_S:
        raise ConfigurationError(
            f"{path}: probe_interval_s must be from 0 (never) to {MAX_PROBE_INTERVAL_S} (a day)"
        )
    _check_upkeep(path, config)
    for ids, what in ((scu_ids, "scus"), ([queue.id for queue in config.queues], "queues")):
        if len(set(ids)) != len(ids):
            raise ConfigurationError(f"{path}: two entries of '{what}' have the same id")
    for queue in config.queues:
        queue.id = guid("queue id", queue.id)
        queue.scu_id = guid("scu_id", queue.scu_id)
        check_client_id(queue.client_id)
        if queue.scu_id not in scu_ids:
            raise ConfigurationError(f"{path}: queue {queue.id} names the unknown SCU {queue.scu_id}")


def _check_upkeep(path: Path, config: HostConfig) -> None:
    hours = config.self_test_interval_h
    if not (hours == 0 or 1 <= hours <= MAX_SELF_TEST_INTERVAL_H):
        raise ConfigurationError(
            f"{path}: self_test_interval_h must be 0 (never) or from 1 to {MAX_SELF_TEST_INTERVAL_H} (a week)"
        )
    try:
        window = Window.parse(config.upkeep_window)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    least = SLOT_MINUTES * len(config.scus)
    if hours and window is not None and window.minutes < least:
        raise ConfigurationError(
            f"{path}: upkeep_window {config.upkeep_window!r} is too short: {least} minutes are the least for the self "
            f"tests of {len(config.scus)} TSEs, one after the other"
        )


def save(folder: Path, config: HostConfig) -> Path:
    """Write ``fiskal.json`` so that a crash leaves the old file or the new one, readable by its owner only."""
    path = folder / FILE_NAME
    text = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    return path
