"""What must be known of each queue to say, without asking the database, that it will take a change."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable

from fiskal.store.interface import Change


class Head:
    """The end of one queue as the store has it: its id, its last row, its rows without an answer.

    ``queue_id`` is None while the queue has no stored row of its own.
    """

    __slots__ = ("last_row", "queue_id", "unanswered")

    def __init__(self, queue_id: str | None, last_row: int, unanswered: set[int]) -> None:
        self.queue_id = queue_id
        self.last_row = last_row
        self.unanswered = unanswered


class Heads:
    """The heads of the queues, read once by ``load`` (queue_no to Head) and followed from then on.

    Every method may be called from many threads.
    """

    def __init__(self, load: Callable[[int], Head]) -> None:
        self._load = load
        self._heads: dict[int, Head] = {}
        self._lock = allocate_lock()

    def follow(self, change: Change) -> bool:
        """Whether ``change`` continues what is stored; then it counts as stored.

        It continues it if its items have the next rows, its answers have items without one, and its queues are
        those of their numbers. If it does not, or is not stored after all, call :meth:`forget`. Raises StoreError.
        """
        with self._lock:
            for item in change.items:
                head = self._heads.get(item.queue_no) or self._read(item.queue_no)
                row = item.ftQueueRow
                if row != head.last_row + 1:
                    return False
                head.last_row = row
                head.unanswered.add(row)
            for answer in change.answers:
                head = self._heads.get(answer.queue_no) or self._read(answer.queue_no)
                if answer.ftQueueRow not in head.unanswered:
                    return False
                head.unanswered.remove(answer.ftQueueRow)
            for queue in change.queues:
                head = self._heads.get(queue.queue_no) or self._read(queue.queue_no)
                if head.queue_id != queue.ftQueueId:
                    return False
        return True

    def forget(self, change: Change) -> None:
        """What the store has of the queues of ``change`` is to be read again."""
        for row in (*change.items, *change.answers, *change.queues):
            self._heads.pop(getattr(row, "queue_no", -1), None)

    def _read(self, queue_no: int) -> Head:
        head = self._heads[queue_no] = self._load(queue_no)
        return head
