"""Changes in the form the commit log keeps them in, and which of them may go there.

What goes into the commit log is answered before the database has it, so nothing may go there that the database
could refuse. What the columns ask for is checked here, row by row; what depends on other rows, in
:mod:`fiskal.store.heads`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, get_args, get_type_hints

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
    Receipt,
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


class Entry:
    """A change and its bytes in the log."""

    __slots__ = ("change", "data")

    def __init__(self, change: Change, data: bytes) -> None:
        self.change = change
        self.data = data


_KEPT: Final = _Rows.__struct_fields__

_INT64: Final = 1 << 63
_MAX_SHAPES: Final = 4096

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[_Rows]).decode

Shape = tuple[type, ...]


class _Check:
    """What the rows of one list have to be. ``shapes`` are types of whole rows that were found good, each with what
    takes the integers out of such a row (never none)."""

    __slots__ = ("row_type", "shapes", "types")

    def __init__(self, row_type: Any, types: list[frozenset[type]]) -> None:
        self.row_type = row_type
        self.types = types
        self.shapes: dict[Shape, Callable[[Any], Any]] = {}

    def is_good(self, row: Any) -> bool:
        """Whether the columns take the row."""
        if type(row) is not self.row_type:
            return False
        shape = tuple(map(type, row))
        integers = self.shapes.get(shape)
        if integers is None:
            if len(shape) != len(self.types) or any(
                found not in allowed for found, allowed in zip(shape, self.types, strict=True)
            ):
                return False
            places = [place for place, found in enumerate(shape) if found is int]
            integers = itemgetter(*places, places[0])  # one more, so that it gives a tuple
            if len(self.shapes) < _MAX_SHAPES:
                self.shapes[shape] = integers
        values = integers(row)
        return bool(max(values) < _INT64 and min(values) >= -_INT64)


def _check_of(name: str) -> _Check:
    (row,) = get_args(get_type_hints(_Rows)[name])
    if row == Key:
        return _Check(tuple, [frozenset({int}), frozenset({str})])
    return _Check(row, _types(row))


def _types(row: Any) -> list[frozenset[type]]:
    return [frozenset(get_args(hint) or (hint,)) for hint in get_type_hints(row).values()]


_CHECKS: Final = [_check_of(name) for name in _KEPT]
_kept: Final = attrgetter(*_KEPT)
_left_out: Final = attrgetter(*sorted(set(Change.__slots__) - set(_KEPT)))
_RECEIPT: Final = _Check(Receipt, _types(Receipt))


def entry_of(change: Change) -> Entry | None:
    """The entry of a change; None if it holds what does not go into the log, or what a column could refuse."""
    if any(_left_out(change)):
        return None
    kept = _kept(change)
    for rows, check in zip(kept, _CHECKS, strict=True):
        for row in rows:
            if not check.is_good(row):
                return None
    for answer in change.answers:
        if answer.receipt is not None and not _RECEIPT.is_good(answer.receipt):
            return None
    try:
        return Entry(change, _encode(_Rows(*kept)))
    except UnicodeEncodeError:  # a lone surrogate, which SQLite does not take either
        return None


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """The body of a batch: an array of MessagePack, of entries that are MessagePack already."""
    count = len(entries)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join([entry.data for entry in entries])


def decode_entries(body: bytes) -> list[Entry]:
    """The entries of a batch. Raises msgspec.MsgspecError."""
    found = []
    for rows in _decode(body):
        change = Change()
        for name in _KEPT:
            setattr(change, name, getattr(rows, name))
        found.append(Entry(change, b""))
    return found
