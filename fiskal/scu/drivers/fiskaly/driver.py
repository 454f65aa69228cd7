"""The :class:`fiskal.scu.driver.Driver` of one TSS of fiskaly SIGN DE v2.

A start carries an id of ours: a UUID of version 4's shape, made by a hash of the queue item and its generation. So the
same start is the same call after a lost answer, after a restart, and from another host. Updates and finishes are
addressed by the TSE's number and a revision; what became of one whose answer was lost, the transaction itself says.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fiskal.clock import UNIX_EPOCH_TICKS, Clock, from_unix, now
from fiskal.scu.cloud import (
    UNKNOWN_MAXIMUM,
    Attempts,
    Identity,
    Revisions,
    StateFile,
    algorithm_name,
    certification,
    check_client_id,
    identity,
    within,
)
from fiskal.scu.contract import Deadline, TseInfo, TseStates
from fiskal.scu.driver import Call, Remembered, Selection, Signed, Turn, Verdict
from fiskal.scu.drivers.fiskaly import wire
from fiskal.scu.drivers.fiskaly.api import Api
from fiskal.scu.drivers.fiskaly.export import Exporter
from fiskal.scu.drivers.fiskaly.options import Options
from fiskal.scu.errors import ClientError, Misconfigured, OutcomeUnknown, ScuError, TseRejected
from fiskal.scu.refusals import client_limit, client_not_registered, transaction_not_open
from fiskal.scu.secrets import Secret
from fiskal.tse.tar import Sink

log = logging.getLogger(__name__)

DEFAULT_CERTIFICATION: Final = "BSI-K-TR-0490-2021"
MAX_CLIENT_ID: Final = 70
PAGE: Final = 100
_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9 '()+,\-.:=?]+")
_STATES: Final = {"CREATED": TseStates.UNINITIALIZED, "UNINITIALIZED": TseStates.UNINITIALIZED}
"""INITIALIZED is what it says; every other state never signs again."""
_DEAD: Final = frozenset({"DEFECTIVE", "EVICTED", "DELETED"})
_UNTIMED: Final = UNIX_EPOCH_TICKS
"""The time of an update that the service never saw."""
_TARGETS: Final = {TseStates.INITIALIZED: "INITIALIZED", TseStates.TERMINATED: "DISABLED"}
_OPERATIONS: Final = {"start": "Start", "update": "Update", "finish": "Finish"}


def transaction_id(tss_id: str, call: Call) -> str:
    """The UUID of a start: random without a queue item, else the same for the same item and generation."""
    if not call.queue_item_id:
        return str(uuid.uuid4())
    text = f"fiskal/tx\0{tss_id}\0{call.client_id}\0{call.queue_item_id}\0{call.generation}"
    return str(
        uuid.UUID(bytes=hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16], version=4)
    )


class FiskalyDriver:
    """``state`` remembers what an export needs after a restart; ``clock`` gives ticks."""

    key_in_process = False
    computes_only = False
    remembers_calls = False
    needs_open_numbers = False
    terminates_uninitialized = True
    filters_exports = True
    erases_with_open_transactions = False

    def __init__(
        self,
        api: Api,
        options: Options,
        attempts: Attempts,
        state: StateFile,
        *,
        admin_pin: Secret | None,
        clock: Clock = now,
    ) -> None:
        self.parallel_calls: int = options.parallel_calls
        """How many transaction calls the TSS may be given at once."""
        self._api = api
        self._options = options
        self._tss_id = options.tss_id.lower()
        self._path = f"/tss/{quote(self._tss_id, safe='')}"
        self._pin = admin_pin
        self._pin_refused: Misconfigured | None = None
        self._tx_s = options.tx_timeout_ms / 1000
        self._tx_total_s = options.tx_total_timeout_ms / 1000
        self._info_s = options.info_timeout_ms / 1000
        self._admin_s = options.admin_timeout_ms / 1000
        self._clients: dict[str, str] = {}
        self._clients_lock = threading.Lock()
        self._revisions = Revisions()
        self._identity: Identity | None = None
        self._identified: tuple[str, str, str] | None = None
        self._certification = ""
        self._alarmed = False
        self._readers = ThreadPoolExecutor(3, "fiskal-fiskaly")
        self.exporter = Exporter(api, options, attempts, state, self._path, clock)
        """The export that runs or ran last, and how far it is."""

    # ---- transactions ---------------------------------------------------------------------------

    def start(self, call: Call, deadline: Deadline | None) -> Signed:
        deadline = within(deadline, self._tx_total_s)
        tx_id = transaction_id(self._tss_id, call)
        metadata = {"queue_item_id": call.queue_item_id} if call.queue_item_id else None

        def body(client: str) -> wire.PutTx:
            return wire.PutTx(state="ACTIVE", client_id=client, schema=_schema(call), metadata=metadata)

        try:
            tx = self._put(call, tx_id, 1, body, deadline)
        except (TseRejected, OutcomeUnknown) as error:
            if error.vendor_code != "E_TX_UPSERT":
                raise
            # The id was used: by this very start in other words (its client was created anew), or by nobody of ours.
            with _still_unknown():
                tx = self._get(tx_id, deadline, revision=1)
            if self._differs(call, tx, tx_id, 1):
                raise
        self._revisions[tx.number] = max(tx.latest_revision, tx.revision)
        return _signed(tx)

    def update(self, call: Call, deadline: Deadline | None) -> Signed:
        if self._options.update_mode == "noop" or not call.process_type:
            return Signed(call.transaction_number, 0, _UNTIMED, b"")
        return self._continue(call, "ACTIVE", within(deadline, self._tx_total_s))

    def finish(self, call: Call, deadline: Deadline | None) -> Signed:
        signed = self._continue(call, "FINISHED", within(deadline, self._tx_total_s))
        self._revisions.forget(call.transaction_number)
        return signed

    def _continue(self, call: Call, state: str, deadline: Deadline) -> Signed:
        number = call.transaction_number

        def body(client: str) -> wire.PutTx:
            return wire.PutTx(state=state, client_id=client, schema=_schema(call, always=True))

        latest = self._revisions[number]
        sent = 0
        while True:
            if latest is None:
                with _still_unknown() if sent else contextlib.nullcontext():
                    tx = self._get(str(number), deadline)
                latest = max(tx.latest_revision, tx.revision)
                if tx.state != "ACTIVE":
                    if sent and not self._differs(call, tx, None, sent):
                        break
                    raise transaction_not_open(number)
                if latest + 1 == sent:
                    raise TseRejected(
                        "REFUSED",
                        f"fiskaly refuses revision {sent} of transaction {number}, which comes next.",
                    )
            sent = latest + 1
            try:
                tx = self._put(call, str(number), sent, body, deadline)
                break
            except TseRejected as error:
                if error.vendor_code == "E_TX_NOT_FOUND":
                    raise transaction_not_open(number) from error
                if error.vendor_code not in ("E_TX_UPSERT", "E_TX_REVISION_NOT_FOUND"):
                    raise
            except OutcomeUnknown as error:
                # The answer to one of the attempts was lost, and the last one was refused: the service knows.
                if error.vendor_code not in ("E_TX_UPSERT", "E_TX_REVISION_NOT_FOUND"):
                    raise
            latest = None
        self._revisions[number] = max(tx.latest_revision, tx.revision)
        return _signed(tx)

    def _put(
        self, call: Call, key: str, revision: int, body: Callable[[str], wire.PutTx], deadline: Deadline
    ) -> wire.Tx:
        """One revision. A client whose id at the service changed is looked up once more."""
        path = f"{self._path}/tx/{key}?tx_revision={revision}"
        tx_id = key if call.op == "start" else None
        for last in (False, True):
            client = self._client_uuid(call.client_id, deadline)
            try:
                return self._api.call(
                    "PUT",
                    path,
                    wire.Tx,
                    deadline,
                    seconds=self._tx_s,
                    body=msgspec.json.encode(body(client)),
                    changes=True,
                    check=lambda tx: self._differs(call, tx, tx_id, revision),
                )
            except ScuError as error:
                gone = error.vendor_code in ("E_CLIENT_NOT_FOUND", "E_CLIENT_DEREGISTERED")
                if not gone or isinstance(error, OutcomeUnknown):
                    self._notice(error)
                    raise
                with self._clients_lock:
                    self._clients.clear()
                if last:
                    raise client_not_registered(call.client_id) from error
        raise AssertionError("unreachable")

    def _get(self, key: str, deadline: Deadline, revision: int | None = None) -> wire.Tx:
        path = f"{self._path}/tx/{key}" + ("" if revision is None else f"?tx_revision={revision}")

        def other(tx: wire.Tx) -> str:
            same = tx.number == int(key) if key.isdigit() else tx.id.lower() == key
            return "" if same else f"transaction {tx.number} instead of {key}"

        return self._api.call(
            "GET",
            path,
            wire.Tx,
            deadline,
            seconds=self._tx_s,
            check=other,
        )

    def _differs(self, call: Call, tx: wire.Tx, tx_id: str | None, revision: int) -> str:
        """In what an answer is not the one to a call; "" if it is."""
        if tx_id is not None and tx.id.lower() != tx_id:
            return f"transaction {tx.id} instead of {tx_id}"
        if call.op != "start" and tx.number != call.transaction_number:
            return f"transaction number {tx.number} instead of {call.transaction_number}"
        if tx.tss_id and tx.tss_id.lower() != self._tss_id:
            return f"TSS {tx.tss_id} instead of {self._tss_id}"
        if tx.revision != revision:
            return f"revision {tx.revision} instead of {revision}"
        if tx.client_serial_number and tx.client_serial_number != call.client_id:
            return f"client {tx.client_serial_number!r} instead of {call.client_id!r}"
        if tx.log.operation and tx.log.operation.lower() != call.op:
            return f"operation {tx.log.operation!r} instead of {_OPERATIONS[call.op]}"
        raw = tx.schema.raw if tx.schema is not None and tx.schema.raw is not None else None
        if raw is None:
            return "no process data" if call.op != "start" else ""
        if raw.process_type != call.process_type or _data(raw) != call.process_data:
            return "other process data"
        return ""

    def recall(self, call: Call) -> Remembered | None:
        return None

    def reconcile(
        self, call: Call, open_before: frozenset[int] | None, deadline: Deadline | None
    ) -> Signed | Verdict:
        deadline = within(deadline, self._tx_total_s)
        if call.op == "start":
            try:
                tx_id = transaction_id(self._tss_id, call)
                tx = self._get(tx_id, deadline, revision=1)
            except TseRejected as error:
                if error.vendor_code in ("E_TX_NOT_FOUND", "E_TX_REVISION_NOT_FOUND"):
                    return Verdict.NOT_EXECUTED
                raise
            if self._differs(call, tx, tx_id, 1):
                return Verdict.STILL_UNKNOWN
            self._revisions[tx.number] = max(tx.latest_revision, tx.revision)
            return _signed(tx)
        if call.op == "update" and (self._options.update_mode == "noop" or not call.process_type):
            return Verdict.NOT_EXECUTED
        return self._reconcile_revision(call, deadline)

    def _reconcile_revision(self, call: Call, deadline: Deadline) -> Signed | Verdict:
        """A finish can only be the last revision; an update is looked for from the last one backwards."""
        key = str(call.transaction_number)
        try:
            tx = self._get(key, deadline)
            latest = max(tx.latest_revision, tx.revision)
            self._revisions[call.transaction_number] = latest
            for revision in range(latest, 1, -1):
                if revision != tx.revision:
                    tx = self._get(key, deadline, revision=revision)
                if not self._differs(call, tx, None, revision):
                    return _signed(tx)
                if call.op == "finish":
                    break
        except TseRejected as error:
            if error.vendor_code == "E_TX_NOT_FOUND":
                return Verdict.NOT_EXECUTED
            raise
        return Verdict.NOT_EXECUTED

    # ---- clients --------------------------------------------------------------------------------

    def _client_uuid(self, client_id: str, deadline: Deadline) -> str:
        found = self._clients.get(client_id)
        if found is None:
            self._load_clients(deadline)
            found = self._clients.get(client_id)
            if found is None:
                raise client_not_registered(client_id)
        return found

    def _load_clients(self, deadline: Deadline) -> list[str]:
        clients = {
            each.serial_number: each.id.lower()
            for each in self._list("/client?state=REGISTERED", wire.Clients, deadline)
        }
        with self._clients_lock:
            self._clients = clients
        return list(clients)

    def _list(self, what: str, type_: Any, deadline: Deadline) -> list[Any]:
        """All pages of a list. What is added meanwhile may be missing, what is there from the beginning is not."""
        found: list[Any] = []
        while True:
            sign = "&" if "?" in what else "?"
            page = self._api.call(
                "GET",
                f"{self._path}{what}{sign}limit={PAGE}&offset={len(found)}",
                type_,
                deadline,
                seconds=self._info_s,
            )
            found += page.data
            if not page.data or (page.count is not None and len(found) >= page.count):
                return found
            if page.count is None and len(page.data) < PAGE:
                return found

    def validate_client_id(self, client_id: str) -> None:
        check_client_id(client_id, _CLIENT_ID, MAX_CLIENT_ID)

    def register(self, client_id: str, deadline: Deadline | None) -> None:
        deadline = within(deadline, 2 * self._admin_s)
        most = self._options.max_client_count
        if most is not None:
            registered = self._load_clients(deadline)
            if client_id not in registered and len(registered) >= most:
                raise client_limit(len(registered), most)
        state = self._client_state(client_id, deadline)
        if state is not None and state[1] == "REGISTERED":
            return
        with self._admin(deadline) as token:
            if state is not None:
                self._patch_client(state[0], "REGISTERED", token, deadline)
            else:
                self._create_client(client_id, token, deadline)
        with self._clients_lock:
            self._clients.clear()

    def _create_client(self, client_id: str, token: Any, deadline: Deadline) -> None:
        body = msgspec.json.encode({"serial_number": client_id})
        for last in (False, True):
            try:
                self._api.call(
                    "PUT",
                    f"{self._path}/client/{uuid.uuid4()}",
                    wire.Client,
                    deadline,
                    seconds=self._admin_s,
                    body=body,
                    changes=True,
                    token=token,
                    check=lambda made: (
                        "" if made.serial_number == client_id else f"client {made.serial_number!r}"
                    ),
                )
                return
            except TseRejected as error:
                if error.vendor_code == "E_ILLEGAL_CLIENT_SERIAL":
                    raise ClientError(
                        "INVALID_CLIENT_ID", error.message, vendor_code=error.vendor_code
                    ) from error
                if error.vendor_code != "E_CLIENT_CONFLICT" or last:
                    raise

    def _client_state(self, client_id: str, deadline: Deadline) -> tuple[str, str] | None:
        """Id and state of the client with a serial number, whether it is registered or not."""
        found = [
            client
            for client in self._list(
                f"/client?serial_number={quote(client_id, safe='')}", wire.Clients, deadline
            )
            if client.serial_number == client_id
        ]
        if not found:
            return None
        client = next((each for each in found if each.state == "REGISTERED"), found[0])
        return client.id.lower(), client.state

    def _patch_client(self, client: str, state: str, token: Any, deadline: Deadline) -> None:
        self._api.call(
            "PATCH",
            f"{self._path}/client/{client}",
            wire.Client,
            deadline,
            seconds=self._admin_s,
            body=msgspec.json.encode({"state": state}),
            changes=True,
            token=token,
        )

    def unregister(self, client_id: str, deadline: Deadline | None) -> None:
        deadline = within(deadline, 2 * self._admin_s)
        state = self._client_state(client_id, deadline)
        if state is None or state[1] != "REGISTERED":
            return
        with self._admin(deadline) as token:
            self._patch_client(state[0], "DEREGISTERED", token, deadline)
        with self._clients_lock:
            self._clients.clear()

    def _admin(self, deadline: Deadline) -> Any:
        """A session of the administrator. A PIN that was refused once is not tried again before a restart."""
        if self._pin is None:
            raise Misconfigured(
                "AUTH_FAILED", "This needs the admin PIN of the TSS: set the option admin_pin."
            )
        if self._pin_refused is not None:
            error = self._pin_refused
            raise Misconfigured(error.code, error.message, vendor_code=error.vendor_code)
        return _AdminSession(self, self._api.admin(self._path, self._pin, deadline, self._admin_s))

    # ---- state ----------------------------------------------------------------------------------

    def _tss(self, deadline: Deadline) -> wire.Tss:
        return self._api.call(
            "GET",
            self._path,
            wire.Tss,
            deadline,
            seconds=self._info_s,
            check=lambda tss: "" if tss.id.lower() == self._tss_id else f"TSS {tss.id}",
        )

    def info(self, deadline: Deadline | None) -> TseInfo:
        deadline = within(deadline, 3 * self._info_s)
        clients_future = self._readers.submit(self._load_clients, deadline)
        numbers_future = self._readers.submit(self._open_numbers, deadline)
        try:
            tss = self._tss(deadline)
        except ScuError:
            clients_future.cancel()
            numbers_future.cancel()
            raise
        known = tss.state in ("INITIALIZED", "DISABLED")
        clients = clients_future.result() if known else _or_nothing(clients_future)
        numbers = numbers_future.result() if known else _or_nothing(numbers_future)
        return self._described(tss, clients, numbers)

    def _open_numbers(self, deadline: Deadline) -> list[int]:
        listed = self._list("/tx?states%5B0%5D=ACTIVE", wire.OpenTxs, deadline)
        return list(dict.fromkeys(tx.number for tx in listed))

    def _described(self, tss: wire.Tss, clients: list[str], numbers: list[int]) -> TseInfo:
        found = self._identify(tss)
        if tss.state in _DEAD and not self._alarmed:
            self._alarmed = True
            wiped = (
                " TEST TSS are deleted every week." if tss.env == "TEST" and tss.state == "DELETED" else ""
            )
            log.error(
                "TSS %s is %s and never signs again; export it and replace it.%s",
                self._tss_id,
                tss.state,
                wiped,
            )
        if tss.state == "INITIALIZED":
            state = TseStates.INITIALIZED
        else:
            state = _STATES.get(tss.state, TseStates.TERMINATED)
        certified = certification(
            tss.bsi_certification_id,
            self._options.certification_id,
            DEFAULT_CERTIFICATION,
            force=self._options.certification_id_force,
        )
        if self._certification and certified != self._certification:
            log.warning("the certification of TSS %s changed to %s", self._tss_id, certified)
        self._certification = certified
        return TseInfo(
            max_number_of_clients=tss.max_number_registered_clients or 2**31 - 1,
            current_number_of_clients=len(clients),
            current_client_ids=clients,
            max_number_of_started_transactions=tss.max_number_active_transactions or 2**31 - 1,
            current_number_of_started_transactions=len(numbers),
            current_started_transaction_numbers=numbers,
            max_number_of_signatures=UNKNOWN_MAXIMUM,
            current_number_of_signatures=tss.signature_counter,
            max_log_memory_size=UNKNOWN_MAXIMUM,
            current_log_memory_size=-1,
            current_state=state,
            firmware_identification=tss.version,
            certification_identification=certified,
            signature_algorithm=algorithm_name(tss.signature_algorithm),
            log_time_format=tss.signature_timestamp_format,
            serial_number_octet=found.serial,
            public_key_base64=found.public_key_base64,
            certificates_base64=found.certificates_base64,
            info={"vendor_state": tss.state, "environment": tss.env, "tse_description": tss.description},
        )

    def _identify(self, tss: wire.Tss) -> Identity:
        """Serial, key and certificate, checked once for what the service says about them."""
        said = (tss.serial_number, tss.public_key, tss.certificate)
        if self._identity is None or said != self._identified:
            self._identity = identity(*said)
            self._identified = said
        return self._identity

    def _notice(self, error: ScuError) -> None:
        if error.vendor_code in ("E_TSS_DEFECTIVE", "E_TSS_DELETED", "E_TSS_EVICTED") and not self._alarmed:
            self._alarmed = True
            log.error("TSS %s: %s", self._tss_id, error.message)

    def set_state(self, target: TseStates, deadline: Deadline | None) -> None:
        deadline = within(deadline, 2 * self._admin_s)
        tss = self._tss(deadline)
        wanted = _TARGETS.get(target)
        if wanted is None or tss.state == wanted:
            return
        if tss.state == "CREATED":
            raise Misconfigured(
                "NOT_PERSONALISED",
                "The TSS was created but not personalised. Finish it with the PUK that its creation returned.",
            )
        with self._admin(deadline) as token:
            self._api.call(
                "PATCH",
                self._path,
                wire.Tss,
                deadline,
                seconds=self._admin_s,
                body=msgspec.json.encode({"state": wanted}),
                changes=True,
                token=token,
            )

    def set_time(self, deadline: Deadline | None) -> None:
        """The service keeps its own time."""

    def self_test(self, deadline: Deadline | None) -> None:
        """The service tests itself."""

    # ---- exports --------------------------------------------------------------------------------

    def export(self, selection: Selection, out: Sink, turn: Turn) -> int:
        deadline = Deadline(self._info_s)
        client = None
        if selection.client_id is not None:
            state = self._client_state(selection.client_id, deadline)
            if state is None:
                raise client_not_registered(selection.client_id)
            client = state[0]
        return self.exporter.run(self._tss(deadline), selection, client, out)

    def erase(self, last_counter: int, deadline: Deadline | None) -> None:
        """fiskaly deletes nothing: a mark in the metadata of the TSS says up to where the log was exported."""
        if not self._options.export_owner:
            raise TseRejected("EXPORT_FAILED", "This host does not move the mark of exports (export_owner).")
        self.exporter.move_mark(last_counter, within(deadline, self._admin_s))

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._api.close()


class _AdminSession:
    """A session of the administrator that remembers a PIN that was refused."""

    def __init__(self, driver: FiskalyDriver, session: Any) -> None:
        self._driver = driver
        self._session = session

    def __enter__(self) -> Any:
        try:
            return self._session.__enter__()
        except Misconfigured as error:
            if error.vendor_code in ("E_ADMIN_LOGIN_FAILED", "E_ADMIN_PIN_BLOCKED"):
                self._driver._pin_refused = error
            raise

    def __exit__(self, *details: Any) -> Any:
        return self._session.__exit__(*details)


@contextlib.contextmanager
def _still_unknown() -> Iterator[None]:
    """Asking what became of a call: if that fails, it is as unknown as before."""
    try:
        yield
    except OutcomeUnknown:
        raise
    except ScuError as error:
        raise OutcomeUnknown(
            "NO_RESPONSE",
            f"Whether the TSE executed the call is not known, and asking it failed. {error.message}",
            vendor_code=error.vendor_code,
            retry_after_ms=error.retry_after_ms,
        ) from error


def _or_nothing(future: Any) -> list[Any]:
    """A list that a TSS in this state may not have."""
    try:
        return list(future.result())
    except (TseRejected, Misconfigured):
        return []


def _schema(call: Call, *, always: bool = False) -> dict[str, wire.Raw] | None:
    if not always and not call.process_type and not call.process_data:
        return None
    data = binascii.b2a_base64(call.process_data, newline=False).decode("ascii")
    return {"raw": wire.Raw(call.process_type, data)}


def _data(raw: wire.Raw) -> bytes | None:
    try:
        return base64.b64decode(raw.process_data)
    except ValueError:
        return None


def _signed(tx: wire.Tx) -> Signed:
    try:
        signature = base64.b64decode(tx.signature.value, validate=True)
    except ValueError as error:
        raise OutcomeUnknown(
            "PROTOCOL_ERROR",
            f"The signature of transaction {tx.number} is not base64.",
            transaction_number=tx.number,
        ) from error
    return Signed(
        tx.number,
        tx.signature.counter,
        from_unix(tx.log.timestamp),
        signature,
        None if tx.time_start is None or tx.log.operation == "Start" else from_unix(tx.time_start),
    )
