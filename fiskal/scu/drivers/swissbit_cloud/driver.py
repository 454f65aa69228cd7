"""The :class:`fiskal.scu.driver.Driver` of a Swissbit Cloud TSE v2.

The service takes no id of a caller's and shows no signature twice. A transaction call that was sent is therefore never
repeated blindly: a finish only while its number is still open, a start not at all. What became of a call is looked for
in an export of the log when it is asked for again.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from fiskal.clock import Clock, from_unix, now
from fiskal.scu.cloud import (
    UNKNOWN_MAXIMUM,
    Attempts,
    Identity,
    StateFile,
    algorithm_name,
    check_client_id,
    identity,
    within,
)
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.swissbit_cloud import wire
from fiskal.scu.drivers.swissbit_cloud.api import Api
from fiskal.scu.drivers.swissbit_cloud.export import Exporter
from fiskal.scu.drivers.swissbit_cloud.options import Options
from fiskal.scu.errors import Misconfigured, OutcomeUnknown, ScuError, TseRejected
from fiskal.scu.refusals import client_limit, transaction_not_open
from fiskal.tse.logmessage import LogMessage
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

TSE: Final = "/api/v1/tse"
MAX_CLIENT_ID: Final = 30
_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9'()+,\-.:=? ]+")
_STATES: Final = {
    "uninitialized": TseStates.UNINITIALIZED,
    "initialized": TseStates.INITIALIZED,
    "disabled": TseStates.TERMINATED,
}
_OPERATIONS: Final = {
    "start": "StartTransaction",
    "update": "UpdateTransaction",
    "finish": "FinishTransaction",
}


class SwissbitCloudDriver:
    """``state`` remembers which export was handed over."""

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = True
    terminates_uninitialized = False
    filters_exports = False
    erases_with_open_transactions = True

    def __init__(
        self, api: Api, options: Options, attempts: Attempts, state: StateFile, *, clock: Clock = now
    ) -> None:
        self.parallel_calls: int = options.parallel_calls
        """How many transaction calls the TSE may be given at once."""
        self._api = api
        self._options = options
        self._attempts = attempts
        self._tx_s = options.tx_timeout_ms / 1000
        self._total_s = options.tx_total_timeout_ms / 1000
        self._info_s = options.info_timeout_ms / 1000
        self._admin_s = options.admin_timeout_ms / 1000
        self._lock = threading.Lock()
        self._starts: dict[int, int] = {}
        """Open number to its start time."""
        self._identity: Identity | None = None
        self._identified: tuple[str, str | None, str | None] | None = None
        self._readers = ThreadPoolExecutor(2, "fiskal-swissbit-cloud")
        self.exporter = Exporter(api, options, attempts, state, clock)

    # ---- transactions ---------------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._once(call, within(deadline, self._total_s))
        with self._lock:
            self._starts[signed.transaction_number] = signed.time_stamp
        return signed

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        return self._once(call, within(deadline, self._total_s))

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        deadline = within(deadline, self._total_s)
        number = call.transaction_number
        left = self._options.max_retries
        pause = self._options.retry_base_ms / 1000
        unsure: OutcomeUnknown | None = None
        while True:
            try:
                signed = self._once(call, deadline)
                break
            except OutcomeUnknown as error:
                unsure = error
                if left <= 0 or pause >= deadline.remaining() or not self._is_open(number, deadline):
                    raise
            except ScuError as error:
                if unsure is None:
                    raise
                raise OutcomeUnknown(unsure.code, unsure.message, transaction_number=number) from error
            self._attempts.wait(pause)
            left -= 1
            pause *= 2
        with self._lock:
            started = self._starts.pop(number, None)
        return msgspec.structs.replace(signed, start_time_stamp=started)

    def _is_open(self, number: int, deadline: Deadline) -> bool:
        try:
            return number in self._open_numbers(deadline)
        except ScuError as error:
            log.warning("whether transaction %d is open could not be found out: %s", number, error)
            return False

    def _once(self, call: Call, deadline: Deadline) -> Signed:
        data = binascii.b2a_base64(call.process_data, newline=False).decode("ascii")
        body = {"clientId": call.client_id, "processData": data, "processType": call.process_type}
        whole: dict[str, object] = dict(body)
        if call.op != "start":
            whole["transactionNumber"] = call.transaction_number
        try:
            answer = self._api.call(
                "POST",
                f"{TSE}/{call.op}Transaction",
                wire.Signature,
                deadline,
                seconds=self._tx_s,
                body=msgspec.json.encode(whole),
                changes=True,
            )
        except TseRejected as error:
            if call.op != "start" and error.vendor_code == "404":
                raise transaction_not_open(call.transaction_number) from error
            raise
        if call.op != "start" and answer.transactionNumber != call.transaction_number:
            raise OutcomeUnknown(
                "PROTOCOL_ERROR",
                f"The service answered about transaction {answer.transactionNumber} instead of "
                f"{call.transaction_number}.",
                transaction_number=call.transaction_number,
            )
        try:
            signature = base64.b64decode(answer.signatureValue, validate=True)
        except ValueError as error:
            raise OutcomeUnknown("PROTOCOL_ERROR", "The signature of the service is not base64.") from error
        return Signed(
            answer.transactionNumber,
            answer.signatureCounter,
            from_unix(answer.signatureCreationTime),
            signature,
        )

    def recall(self, call: Call) -> Remembered | None:
        return None

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        deadline = within(deadline, self._total_s)
        open_numbers = self._open_numbers(deadline)
        if call.op == "start":
            return self._became_start(call, open_before, open_numbers, deadline)
        number = call.transaction_number
        if call.op == "finish" and number in open_numbers:
            return Verdict.NOT_EXECUTED
        messages = self.exporter.log_of(number, deadline)
        if messages is None:
            return Verdict.STILL_UNKNOWN
        found = _last(call, messages)
        if found is not None:
            return found
        finished = any(message.operation == _OPERATIONS["finish"] for message in messages)
        # The export may be older than the call; only a log that has its end in it is known to be whole.
        return Verdict.NOT_EXECUTED if finished else Verdict.STILL_UNKNOWN

    def _became_start(
        self, call: Call, open_before: frozenset[int] | None, open_numbers: list[int], deadline: Deadline
    ) -> Signed | Verdict:
        """A start's number is one that is open and was not before. Without its signature it is an orphan: it stays in
        the list of open numbers until a daily closing ends it."""
        if open_before is None:
            return Verdict.STILL_UNKNOWN
        new = [number for number in open_numbers if number not in open_before]
        for number in new:
            messages = self.exporter.log_of(number, deadline)
            found = None if messages is None else _last(call, messages)
            if found is not None:
                with self._lock:
                    self._starts[number] = found.time_stamp
                return found
        if new:
            log.warning(
                "transactions %s are open and nobody knows their signatures: they are orphans, and queue item %s is "
                "started again",
                new,
                call.queue_item_id,
            )
        return Verdict.NOT_EXECUTED

    # ---- state ----------------------------------------------------------------------------------

    def _status(self, deadline: Deadline) -> wire.Status:
        return self._api.call("GET", TSE, wire.Status, deadline, seconds=self._info_s)

    def _clients(self, deadline: Deadline) -> list[str]:
        return self._api.call("GET", f"{TSE}/clients", list[str], deadline, seconds=self._info_s)

    def _open_numbers(self, deadline: Deadline) -> list[int]:
        return self._api.call("GET", f"{TSE}/transactions", list[int], deadline, seconds=self._info_s)

    def info(self, deadline: Deadline | None) -> TseInfo:
        deadline = within(deadline, 3 * self._info_s)
        clients_future = self._readers.submit(self._clients, deadline)
        numbers_future = self._readers.submit(self._open_numbers, deadline)
        status = self._status(deadline)
        state = _STATES.get(status.initializationState.lower())
        if state is None:
            raise Misconfigured(
                "PROTOCOL_ERROR",
                f"The service answers the unknown state {status.initializationState[:40]!r}.",
            )
        clients, numbers = clients_future.result(), numbers_future.result()
        with self._lock:
            self._starts = {number: self._starts[number] for number in numbers if number in self._starts}
        found = self._identify(status)
        certified = self._options.certification_id
        if self._options.certification_id_addition:
            certified += f" [{self._options.certification_id_addition}]"
        return TseInfo(
            max_number_of_clients=status.maxRegisteredClients or 2**31 - 1,
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=status.maxStartedTransactions or 2**31 - 1,
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=UNKNOWN_MAXIMUM,
            current_number_of_signatures=status.createdSignatures,
            max_log_memory_size=status.storageCapacity or UNKNOWN_MAXIMUM,
            current_log_memory_size=-1 if status.storageUsed is None else status.storageUsed,
            current_state=state,
            firmware_identification=status.softwareVersion or "",
            certification_identification=certified,
            signature_algorithm=algorithm_name(status.signatureAlgorithm),
            log_time_format=status.logTimeFormat or "unixTime",
            serial_number_octet=found.serial,
            public_key_base64=found.public_key_base64,
            certificates_base64=found.certificates_base64,
            info={
                "vendor_state": status.initializationState,
                "health": status.healthState or "",
                "tse_description": status.productType or "",
            },
        )

    def _identify(self, status: wire.Status) -> Identity:
        """Serial, key and certificates, checked once for what the service says; and it must be the TSE asked for."""
        said = (status.serialNumber, status.publicKey, status.certificateChain)
        if self._identity is None or said != self._identified:
            found = identity(status.serialNumber, status.publicKey, status.certificateChain or "")
            wanted = self._options.tse_serial_number.lower()
            if found.serial != wanted:
                raise Misconfigured(
                    "WRONG_TSE",
                    f"The service answers for TSE {found.serial}, the configuration names {wanted}.",
                )
            self._identity, self._identified = found, said
        return self._identity

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        deadline = within(deadline, self._admin_s)
        if target is TseStates.INITIALIZED:
            raise Misconfigured(
                "NOT_PERSONALISED",
                "A Swissbit Cloud TSE is initialised at the vendor's: order and activate it there.",
            )
        if target is TseStates.TERMINATED:
            self._api.call(
                "POST",
                f"{TSE}/disableSecureElement",
                bytes,
                deadline,
                seconds=self._admin_s,
                body=b"",
                changes=True,
            )

    def set_time(self, deadline: Deadline | None) -> None:
        """The service keeps its own time."""

    def self_test(self, deadline: Deadline | None) -> None:
        """The service tests itself."""

    # ---- clients --------------------------------------------------------------------------------

    def validate_client_id(self, client_id: str) -> None:
        check_client_id(client_id, _CLIENT_ID, MAX_CLIENT_ID)

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        deadline = within(deadline, 2 * self._admin_s)
        most = self._options.max_client_count
        if most is not None:
            registered = self._clients(deadline)
            if client_id not in registered and len(registered) >= most:
                raise client_limit(len(registered), most)
        self._change("registerClient", client_id, True, deadline)

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        self._change("deregisterClient", client_id, False, within(deadline, 2 * self._admin_s))

    def _change(self, what: str, client_id: str, wanted: bool, deadline: Deadline) -> None:
        """A lost answer is looked up, and the call repeated once."""
        body = msgspec.json.encode({"clientId": client_id})
        for last in (False, True):
            try:
                self._api.call(
                    "POST", f"{TSE}/{what}", bytes, deadline, seconds=self._admin_s, body=body, changes=True
                )
                return
            except OutcomeUnknown:
                if (client_id in self._clients(deadline)) is wanted:
                    return
                if last:
                    raise

    # ---- exports --------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        return self.exporter.run(out)

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        self.exporter.delete(last_counter, within(deadline, self._admin_s))

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._api.close()


def _last(call: Call, messages: list[LogMessage]) -> Signed | None:
    """The last message of a log that is what a call asked for."""
    for message in reversed(messages):
        if (
            message.operation == _OPERATIONS[call.op]
            and message.client_id == call.client_id
            and (message.process_type or "") == call.process_type
            and (message.process_data or b"") == call.process_data
            and message.transaction_number is not None
        ):
            started = next((m.log_time for m in messages if m.operation == _OPERATIONS["start"]), None)
            return Signed(
                message.transaction_number,
                message.signature_counter,
                message.log_time,
                message.signature,
                None if call.op == "start" else started,
            )
    return None
