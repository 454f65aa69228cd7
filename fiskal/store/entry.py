"""Changes in the form the commit log keeps them in, and which of them may go there.

What goes into the commit log is answered before the database has it, so nothing may go there that the database
could refuse. So the rows that the database gets are those that were read back from the bytes in the log, by the types
of their columns. What depends on other rows is checked in :mod:`fiskal.store.heads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    NamedTuple,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from fiskal.store.interface import (
    ActionRow,
    AnswerRow,
    Change,
    DoubtfulStartRow,
    FailedTransactionRow,
    OpenTransactionRow,
    QueueItemRow,
    QueueRow,
    RecoveredRow,
)

Key = tuple[int, str]


class _Rows(msgspec.Struct, array_like=True, gc=False):
    """The lists of a change that the log keeps, under the names they have there. Only ever added to at the end."""

    items: list[QueueItemRow]
    answers: list[AnswerRow]
    queues: list[QueueRow]
    actions: list[ActionRow]
    open_transactions: list[OpenTransactionRow]
    open_transactions_removed: list[Key]
    failed_starts: list[FailedTransactionRow]
    failed_starts_removed: list[Key]
    failed_finishes: list[FailedTransactionRow]
    failed_finishes_removed: list[Key]
    doubtful_starts: list[DoubtfulStartRow]
    doubtful_starts_removed: list[Key]
    recovered: list[RecoveredRow]

    # So that the database is brought up to date from it as from any change.
    export_parts: ClassVar[tuple[()]] = ()
    exports: ClassVar[tuple[()]] = ()
    exports_removed: ClassVar[tuple[()]] = ()
    master_data: ClassVar[tuple[()]] = ()
    scus: ClassVar[tuple[()]] = ()


class Entry:
    """A change as it was read back from the log, and its bytes there."""

    __slots__ = ("change", "data")

    def __init__(self, change: Change, data: bytes) -> None:
        self.change = change
        self.data = data


_KEPT: Final = _Rows.__struct_fields__

_Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""What a column of integers takes."""


def _limited(hint: Any) -> Any:
    """A type of :class:`_Rows` with every integer limited to 64 bits."""
    if hint is int:
        return _Int64
    if isinstance(hint, type) and issubclass(hint, tuple):
        fields = get_type_hints(hint)
        return NamedTuple(hint.__name__, [(name, _limited(each)) for name, each in fields.items()])
    parts = get_args(hint)
    if not parts:
        return hint
    if get_origin(hint) is UnionType:
        return Union[tuple(map(_limited, parts))]  # noqa: UP007  (of types known at run time)
    return get_origin(hint)[tuple(map(_limited, parts))]


_Checked = msgspec.defstruct(
    "_Checked",
    [(name, _limited(hint)) for name, hint in get_type_hints(_Rows).items() if name in _KEPT],
    bases=(_Rows,),
    array_like=True,
    gc=False,
)

_encode: Final = msgspec.msgpack.Encoder().encode
_check: Final = msgspec.msgpack.Decoder(_Checked).decode
_decode: Final = msgspec.msgpack.Decoder(list[_Rows]).decode
_kept: Final = attrgetter(*_KEPT)
_left_out: Final = attrgetter(*sorted(set(Change.__slots__) - set(_KEPT)))


def entry_of(change: Change) -> Entry | None:
    """The entry of a change; None if it holds what does not go into the log, or what a column could refuse."""
    if any(_left_out(change)):
        return None
    try:
        data = _encode(_Rows(*_kept(change)))
        rows = _check(data)
    except (msgspec.MsgspecError, TypeError, OverflowError, UnicodeEncodeError):
        # An integer of more bits, a type that no column has, a lone surrogate, which SQLite does not take either.
        return None
    return Entry(cast(Change, rows), data)


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """The body of a batch: an array of MessagePack, of entries that are MessagePack already."""
    count = len(entries)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join([entry.data for entry in entries])


def decode_entries(body: bytes) -> list[Entry]:
    """The entries of a batch. Raises msgspec.MsgspecError."""
    return [Entry(cast(Change, rows), b"") for rows in _decode(body)]
