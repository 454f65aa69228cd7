"""Reading ``fiskal.json`` under more than one spelling of its keys, and saying what is wrong with one.

A key is known by its letters and digits: ``scu-timeout-ms``, ``ScuTimeoutMs`` and ``scu_timeout_ms`` are one.
Values may be texts (``"true"``, ``"70000"``), as some configuration tools write them.
"""

from __future__ import annotations

import difflib
import logging
import types
import typing
from typing import Any, Final, TypeVar

import msgspec

from fiskal.errors import ConfigurationError
from fiskal.queue.settings import QueueSettings, TarFileExportMode

_log = logging.getLogger("fiskal.host")
_T = TypeVar("_T")


class _Pending(typing.NamedTuple):
    """A key whose function this version lacks; only the values that ask for nothing are accepted."""

    accepted: tuple[object, ...]
    lacking: str


PENDING: Final[dict[str, _Pending]] = {
    "EnableWAL": _Pending((True,), "the journal is always in WAL mode"),
}
"""Settings of a queue under the reference's names that this version can only do without."""

ELSEWHERE: Final[dict[str, str]] = {
    "servicefolder": "the data folder is given with --data",
    "MigrationsTimeoutSec": "a new version brings the journal up to date without a time limit",
    "previewFeatures": "there are none",
    "launcherenvironment": "there is no launcher",
    "configuration": "there is no launcher",
    "init_masterData": "put it under 'master_data' at the top",
    "init_ftCashBox": "put the id under 'cash_box_id' at the top",
    "init_ftQueue": "list the queues under 'queues' at the top",
    "init_ftQueueDE": "list the queues under 'queues' at the top",
    "init_ftSignaturCreationUnitDE": "list the SCUs under 'scus' at the top",
}
"""Keys of the reference that have no place in the file, and what to do instead."""


def letters(key: str) -> str:
    """What of a key tells it from another."""
    return "".join(character for character in key.lower() if character.isalnum())


_TAR_MODES: Final = {letters(mode.value): mode.value for mode in TarFileExportMode}
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


def convert(data: Any, type_: type[_T], free: frozenset[str]) -> _T:
    """Make a ``type_`` of decoded JSON. ``free`` are members that are taken as they are.

    Raises ConfigurationError that names the key, and for an unknown one the nearest known.
    """
    try:
        return msgspec.convert(_read(data, type_, "$", free), type_, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(str(error)) from error


_PENDING = {letters(key): (key, pending) for key, pending in PENDING.items()}
_ELSEWHERE = {letters(key): (key, advice) for key, advice in ELSEWHERE.items()}
_LEGACY_TAR = "EnableTarFileExport"
_SETTINGS = {letters(name) for name in (*QueueSettings.__struct_fields__, *PENDING, _LEGACY_TAR)}


def _read(data: Any, type_: Any, where: str, free: frozenset[str]) -> Any:
    """``data`` with every key in the spelling of its field."""
    struct, listed = _shape(type_)
    if struct is None:
        return data
    if listed:
        if not isinstance(data, list):
            return data
        return [_read_struct(each, struct, f"{where}[{index}]", free) for index, each in enumerate(data)]
    return _read_struct(data, struct, where, free)


def _read_struct(data: Any, struct: type[msgspec.Struct], where: str, free: frozenset[str]) -> Any:
    if not isinstance(data, dict):
        return data
    if struct is QueueSettings:
        data = _settings(data, where)
    hints = typing.get_type_hints(struct)
    fields = {letters(field.name): field for field in msgspec.structs.fields(struct)}
    result: dict[str, Any] = {}
    for key, value in data.items():
        field = fields.get(letters(key))
        if field is None:
            names = [each.encode_name for each in fields.values()]
            raise ConfigurationError(_unknown(key, where, names, settings=struct is QueueSettings))
        name = field.encode_name
        if name in result:
            raise ConfigurationError(f"{where}: {name!r} is given twice, the second time as {key!r}")
        result[name] = value if name in free else _read(value, hints[field.name], f"{where}.{key}", free)
    return result


def _unknown(key: str, where: str, known: list[str], *, settings: bool) -> str:
    if letters(key) in _ELSEWHERE:
        return f"{where}: {key!r} is no key of this file: {_ELSEWHERE[letters(key)][1]}"
    if letters(key) in _SETTINGS:
        return f"{where}: {key!r} belongs into the 'settings' of a queue"
    spelled = {letters(name): name for name in (*known, *(PENDING if settings else ()))}
    near = difflib.get_close_matches(letters(key), spelled, n=1, cutoff=0.5)
    if near:
        return f"{where}: the key {key!r} is unknown; did you mean {spelled[near[0]]!r}?"
    return f"{where}: the key {key!r} is unknown; there are {', '.join(sorted(known))}"


def _shape(type_: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct in a type such as ``list[Struct | None] | None``, and whether it is one of a list."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return type_, False
    origin = typing.get_origin(type_)
    if origin is list:
        return _shape(typing.get_args(type_)[0])[0], True
    if origin in (types.UnionType, typing.Union):
        for part in typing.get_args(type_):
            struct, listed = _shape(part)
            if struct is not None:
                return struct, listed
    return None, False


# ---- settings of a queue ----------------------------------------------------------------------------


def _settings(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings without the keys that ask for nothing this version lacks."""
    rest = dict(data)
    _resolve_legacy_tar(rest, where)
    _spell_tar_mode(rest, where)
    for key in list(rest):
        if letters(key) in _PENDING:
            _check_pending(key, rest.pop(key), where)
    return rest


def _resolve_legacy_tar(data: dict[str, Any], where: str) -> None:
    """EnableTarFileExport: true is All, false is None; of no effect beside TarFileExportMode."""
    legacy = next((key for key in data if letters(key) == letters(_LEGACY_TAR)), None)
    if legacy is None:
        return
    enabled = _boolean(data.pop(legacy))
    if enabled is None:
        raise ConfigurationError(f"{where}: {legacy!r} must be true or false")
    mode = "All" if enabled else "None"
    if any(letters(key) == "tarfileexportmode" for key in data):
        _log.warning("%s: %s is ignored beside TarFileExportMode; remove it", where, legacy)
        return
    _log.warning("%s: %s is an old key; write TarFileExportMode %s instead", where, legacy, mode)
    data["TarFileExportMode"] = mode


def _spell_tar_mode(data: dict[str, Any], where: str) -> None:
    """TarFileExportMode in any case, and null, which some tools make of None."""
    for key, value in data.items():
        if letters(key) == letters("TarFileExportMode"):
            mode = _TAR_MODES.get(letters(str(value)))
            if mode is None:
                raise ConfigurationError(f"{where}: {key!r} must be None, All or Erased, not {value!r}")
            data[key] = mode


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())


def _check_pending(key: str, value: Any, where: str) -> None:
    _, pending = _PENDING[letters(key)]
    asked: object = value
    if isinstance(pending.accepted[0], bool):
        asked = _boolean(value)
        if asked is None:
            raise ConfigurationError(f"{where}: {key!r} must be true or false, not {value!r}")
    if asked not in pending.accepted:
        (only,) = pending.accepted
        shown = str(only).lower()
        raise ConfigurationError(
            f"{where}: {key!r} is {value!r}, which this version cannot do: {pending.lacking}. Remove the key, or "
            f"set it to {shown} to say that you know"
        )
