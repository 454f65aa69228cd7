"""A driver that passes every call on; the base of what stands before a software TSE."""

from __future__ import annotations

from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Driver, Remembered, Selection, Signed, Turn, Verdict
from fiskal.tse.tar import Sink


class ForwardingDriver:
    """Passes every call on to ``inner``, whose qualities it has."""

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.key_in_process = inner.key_in_process
        self.computes_only = inner.computes_only
        self.remembers_calls = inner.remembers_calls
        self.needs_open_numbers = inner.needs_open_numbers
        self.terminates_uninitialized = inner.terminates_uninitialized
        self.filters_exports = inner.filters_exports
        self.erases_with_open_transactions = inner.erases_with_open_transactions

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        return self.inner.start(call, deadline)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self.inner.update(call, deadline)

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        return self.inner.finish(call, deadline)

    def info(self, deadline: Deadline | None) -> TseInfo:
        return self.inner.info(deadline)

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        self.inner.set_state(target, deadline)

    def validate_client_id(self, client_id: str) -> None:
        self.inner.validate_client_id(client_id)

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        self.inner.register(client_id, deadline)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        self.inner.unregister(client_id, deadline)

    def set_time(self, deadline: Deadline | None) -> None:
        self.inner.set_time(deadline)

    def self_test(self, deadline: Deadline | None) -> None:
        self.inner.self_test(deadline)

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        return self.inner.export(selection, out, turn)

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        self.inner.erase(last_counter, deadline)

    def recall(self, call: Call) -> Remembered | None:
        return self.inner.recall(call)

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        return self.inner.reconcile(call, open_before, deadline)

    def close(self) -> None:
        self.inner.close()
