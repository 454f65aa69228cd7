"""Accepted items on their way from the acceptance log into the database."""

from __future__ import annotations

from collections.abc import Sequence

from fiskal.store.interface import QueueItemRow

Key = tuple[int, int]
"""queue_no and ftQueueRow of an item."""


class Waiting:
    """The accepted items that are not in the database yet.

    The log adds to it what is durable, the writer of the database removes what it has stored. Every method may
    be called beside the others; one interrupted by Ctrl-C can be called again.
    """

    __slots__ = ("items", "segments")

    def __init__(self) -> None:
        self.items: dict[Key, QueueItemRow] = {}
        self.segments: dict[Key, int] = {}
        """Where in the log each of them lies."""

    def add(self, items: Sequence[QueueItemRow], segment: int) -> None:
        for item in items:
            key = item[:2]
            self.segments[key] = segment
            self.items[key] = item

    def remove(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self.items.pop(key, None)
            self.segments.pop(key, None)

    def of_queue(self, queue_no: int) -> list[Key]:
        """The keys of a queue, in the order of its rows."""
        return sorted(key for key in list(self.items) if key[0] == queue_no)

    def queues_in(self, segment: int) -> set[int]:
        """The queues that have items in a segment of the log."""
        return {key[0] for key, where in list(self.segments.items()) if where == segment}
