"""TSE families. Each is a package of its own that brings everything the host needs to know of it.

A family's package has these members:

``Options``
    a msgspec structure (``forbid_unknown_fields``) of what ``options`` in ``fiskal.json`` may say, each with a default
    and a docstring;
``open(folder, options, clock) -> Scu``
    opens the TSE as an SCU; ``folder`` is the SCU's own, for what the driver must remember;
``find() -> Iterator[Found]``
    lists the TSEs of this family that the machine can reach, without touching anything it does not know.
"""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

import msgspec

from fiskal.errors import ConfigurationError

T = TypeVar("T")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A TSE that :program:`fiskal tse find` came across. Members that could not be read are None."""

    family: str
    """The driver's name in ``fiskal.json``."""
    place: str
    """Where it is: mount point, device node, port, address."""
    options: dict[str, Any]
    """What ``options`` in ``fiskal.json`` must say to use it."""
    serial: str | None = None
    """Serial number in lower-case hex."""
    state: str | None = None
    certificate_end: str | None = None
    """Date, ``YYYY-MM-DD``."""
    signatures_left: int | None = None
    memory_left_bytes: int | None = None
    note: str = ""
    """What has to be known or done before it can be used."""


def convert_options(family: str, options: dict[str, Any], type_: type[T]) -> T:
    """Read ``options`` of ``fiskal.json`` as the family's structure. Raises :class:`ConfigurationError`, which names
    the member, what it may be and, for a name that does not exist, the most similar one."""
    known = [field.encode_name for field in msgspec.structs.fields(type_)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigurationError(
                f"the driver {family!r} has no option {name!r}.{meant} It has {', '.join(sorted(known))}."
            )
    try:
        return msgspec.convert(options, type_)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"options of the driver {family!r}: {error}") from error
