"""The SCU contract: what a queue may ask of a signature creation unit, whatever TSE stands behind it.

Field names are the wire's (IDESSCD, ifPOS v1.de) in snake_case; encoded to JSON they are PascalCase. Times
are .NET ticks in UTC (100 ns since 0001-01-01) as ``int``, because a ``datetime`` loses the seventh digit.
"""

from __future__ import annotations

import enum
import time
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

EMPTY_GUID = "00000000-0000-0000-0000-000000000000"


class TseStates(enum.IntEnum):
    """Life cycle of a TSE (tse-abstraction §4)."""

    UNINITIALIZED = 0
    INITIALIZED = 1
    TERMINATED = 2


class Message(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=False, kw_only=True):
    """Base of all SCU messages: immutable, PascalCase on the wire."""


class Mismatch(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """A signature that does not prove what was to be signed: what was asked, what came back, and why that is not
    enough. ``log_message_base64`` is the TSE's own message, where the driver has it."""

    reason: str
    operation: str
    queue_item_id: str
    client_id: str
    process_type: str
    process_data_base64: str
    transaction_number: int
    signature_counter: int
    log_time: str
    signature_base64: str
    signature_algorithm: str
    log_time_format: str
    public_key_base64: str
    tse_serial_number_octet: str
    log_message_base64: str | None

    @property
    def text(self) -> str:
        return f"Signature {self.signature_counter} of the TSE does not verify: {self.reason}."


class TseSignatureData(Message, frozen=True):
    """One signature. ``signature_base64`` is the signature as it stands in the log message.

    ``mismatch`` is not on the wire: the SCU found that the signature does not hold, and is told to answer it all
    the same.
    """

    signature_counter: int
    signature_algorithm: str
    signature_base64: str
    public_key_base64: str
    mismatch: Mismatch | None = None


class StartTransactionRequest(Message, frozen=True):
    client_id: str
    process_type: str = ""
    process_data_base64: str = ""
    queue_item_id: str = EMPTY_GUID
    is_retry: bool = False


class StartTransactionResponse(Message, frozen=True):
    transaction_number: int
    time_stamp: int
    tse_serial_number_octet: str
    client_id: str
    signature_data: TseSignatureData


class UpdateTransactionRequest(Message, frozen=True):
    client_id: str
    transaction_number: int
    process_type: str = ""
    process_data_base64: str = ""
    queue_item_id: str = EMPTY_GUID
    is_retry: bool = False


class UpdateTransactionResponse(Message, frozen=True):
    transaction_number: int
    time_stamp: int
    tse_serial_number_octet: str
    client_id: str
    process_type: str
    process_data_base64: str
    signature_data: TseSignatureData


class FinishTransactionRequest(UpdateTransactionRequest, frozen=True):
    """Same members as an update."""


class FinishTransactionResponse(Message, frozen=True):
    """``start_transaction_time_stamp`` is None only when the TSE and the SCU both lost it (§5.1)."""

    transaction_number: int
    start_transaction_time_stamp: int | None
    time_stamp: int
    tse_time_stamp_format: str
    tse_serial_number_octet: str
    client_id: str
    process_type: str
    process_data_base64: str
    signature_data: TseSignatureData


class TseInfo(Message, frozen=True):
    """State of a TSE (tse-abstraction §7). Counters that are unknown are 2**63-1 (maxima) or -1 (current)."""

    max_number_of_clients: int
    current_number_of_clients: int
    current_client_ids: list[str]
    max_number_of_started_transactions: int
    current_number_of_started_transactions: int
    current_started_transaction_numbers: list[int]
    max_number_of_signatures: int
    current_number_of_signatures: int
    max_log_memory_size: int
    current_log_memory_size: int
    current_state: TseStates
    firmware_identification: str
    certification_identification: str
    signature_algorithm: str
    log_time_format: str
    serial_number_octet: str
    public_key_base64: str
    certificates_base64: list[str]
    info: dict[str, str] | None = None


class TseState(Message, frozen=True):
    current_state: TseStates


class RegisterClientIdRequest(Message, frozen=True):
    client_id: str


class RegisterClientIdResponse(Message, frozen=True):
    """``client_ids`` is the complete list registered on the TSE after the call."""

    client_ids: list[str]


class UnregisterClientIdRequest(Message, frozen=True):
    client_id: str


class UnregisterClientIdResponse(Message, frozen=True):
    client_ids: list[str]


class StartExportSessionRequest(Message, frozen=True):
    client_id: str | None = None
    erase: bool = False


class StartExportSessionByTimeStampRequest(Message, frozen=True):
    """``from_`` and ``to`` are ticks, both inclusive."""

    client_id: str | None = None
    from_: int = msgspec.field(name="From", default=0)
    to: int = 0


class StartExportSessionByTransactionRequest(Message, frozen=True):
    """``from_`` and ``to`` are transaction numbers, both inclusive."""

    client_id: str | None = None
    from_: int = msgspec.field(name="From", default=0)
    to: int = 0


class StartExportSessionResponse(Message, frozen=True):
    token_id: str
    tse_serial_number_octet: str


class ExportDataRequest(Message, frozen=True):
    token_id: str
    max_chunk_size: int = 0


class ExportDataResponse(Message, frozen=True):
    token_id: str
    tar_file_byte_chunk_base64: str | None
    tar_file_end_of_file: bool
    total_tar_file_size_available: bool
    total_tar_file_size: int = -1


class EndExportSessionRequest(Message, frozen=True):
    token_id: str
    sha256_checksum_base64: str = msgspec.field(name="Sha256ChecksumBase64", default="")
    erase: bool = False


class EndExportSessionResponse(Message, frozen=True):
    token_id: str
    is_valid: bool
    is_erased: bool


class ScuDeEchoRequest(Message, frozen=True):
    message: str | None


class ScuDeEchoResponse(Message, frozen=True):
    message: str | None


class Deadline:
    """A moment on the monotonic clock after which the caller no longer waits."""

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.at


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an SCU can do beside its 15 methods, and what a call to it means. Declared, so that nobody has to probe.

    The defaults are those of a foreign SCU, of which nothing is known.
    """

    in_process: bool = False
    """The TSE computes in this process: there is no way on which a call could get lost."""
    computes_only: bool = False
    """Transaction calls wait for nothing but their turn: no device, no network, no flush of a disk."""
    deduplicates: bool = False
    """A call that comes again with IsRetry and its QueueItemId is answered, not executed a second time."""
    recalls: bool = False
    """It is a :class:`Recalls`: it can be asked what it executed."""
    reserves: bool = False
    """It is a :class:`Reserves`: calls can be made back to back."""
    probes: bool = False
    """It is a :class:`Probes`: it can be asked without being in anybody's way."""
    parallel_calls: int = 1
    """How many transaction calls the TSE takes at once."""


class Recalls(Protocol):
    """What an SCU offers beside :class:`Scu` if it keeps a record of its calls: to ask without calling.

    Each method returns the answer of a call that was executed before, found by its op, client, queue item and
    number; None if it certainly was not executed. Nothing is ever executed. Raises ``OutcomeUnknown`` if nobody
    knows, ``ClientError`` IDEMPOTENCY_MISMATCH if the call was executed with other data, and every other
    :class:`fiskal.scu.errors.ScuError` if the SCU cannot be asked.
    """

    def recall_start(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse | None: ...
    def recall_update(
        self, request: UpdateTransactionRequest, deadline: Deadline | None = None
    ) -> UpdateTransactionResponse | None: ...
    def recall_finish(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse | None: ...


class Reserves(Protocol):
    """What an SCU offers beside :class:`Scu` if calls of one thread can follow each other at its TSE."""

    def back_to_back(self, client_id: str, deadline: Deadline | None = None) -> AbstractContextManager[None]:
        """Within the block the calls of this thread have the TSE alone. Raises ``Unreachable`` BUSY when the TSE stays
        busy with others until the deadline."""
        ...


class Probes(Protocol):
    """What an SCU offers beside :class:`Scu` if it knows whether its TSE is in use."""

    def get_tse_info_if_idle(self, deadline: Deadline | None = None) -> TseInfo | None:
        """TseInfo, or None at once if somebody uses the TSE."""
        ...


class Scu(Protocol):
    """The 15 methods of IDESSCD (tse-abstraction §2). All may be called from many threads.

    Every method raises :class:`fiskal.scu.errors.ScuError`; its class says whether the call was executed.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def start_transaction(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse: ...
    def update_transaction(
        self, request: UpdateTransactionRequest, deadline: Deadline | None = None
    ) -> UpdateTransactionResponse: ...
    def finish_transaction(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse: ...
    def get_tse_info(self, deadline: Deadline | None = None) -> TseInfo: ...
    def set_tse_state(self, request: TseState, deadline: Deadline | None = None) -> TseState: ...
    def register_client_id(
        self, request: RegisterClientIdRequest, deadline: Deadline | None = None
    ) -> RegisterClientIdResponse: ...
    def unregister_client_id(
        self, request: UnregisterClientIdRequest, deadline: Deadline | None = None
    ) -> UnregisterClientIdResponse: ...
    def execute_set_tse_time(self, deadline: Deadline | None = None) -> None: ...
    def execute_self_test(self, deadline: Deadline | None = None) -> None: ...
    def start_export_session(
        self, request: StartExportSessionRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse: ...
    def start_export_session_by_time_stamp(
        self, request: StartExportSessionByTimeStampRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse: ...
    def start_export_session_by_transaction(
        self, request: StartExportSessionByTransactionRequest, deadline: Deadline | None = None
    ) -> StartExportSessionResponse: ...
    def export_data(
        self, request: ExportDataRequest, deadline: Deadline | None = None, *, offset: int | None = None
    ) -> ExportDataResponse:
        """Return the next chunk; with ``offset``, the bytes received so far, the one that begins there.

        A call without an answer may so be repeated.
        """
        ...

    def end_export_session(
        self, request: EndExportSessionRequest, deadline: Deadline | None = None
    ) -> EndExportSessionResponse: ...
    def abandon_export_session(self, token_id: str) -> None:
        """Give up a session that will not be ended. Not on the wire: a remote SCU lets it expire."""
        ...

    def echo(self, request: ScuDeEchoRequest, deadline: Deadline | None = None) -> ScuDeEchoResponse: ...
    def close(self) -> None: ...
