"""What a queue can be told. Names are the reference's configuration keys in snake_case."""

from __future__ import annotations

import enum

import msgspec

from fiskal.germany import texts


class TarFileExportMode(enum.Enum):
    """What becomes of the TSE's log at a closing."""

    NONE = "None"
    """Nothing: somebody else exports it."""
    ALL = "All"
    """It is always archived, and erased where the TSE allows it."""
    ERASED = "Erased"
    """It is archived only together with erasing it; not at all while transactions are open on the TSE."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one queue; every default is the safe or the compatible choice."""

    flag_optional_signatures: bool = True
    """FlagOptionalSignatures: mark items that need not be printed beside the QR code."""
    receipt_request_mode: int = 0
    """receiptrequestmode: what a receipt request without match does. 0 answers null, 1 signs the request."""
    duplicate_window_s: float = 0
    """How long a business receipt that comes again, equal in every item, gets its first answer instead of a
    second signature. 0 signs everything."""
    close_open_tse_transactions_on_daily_closing: bool = False
    """Daily closings also finish transactions that are open only on the TSE, whoever started them."""
    tar_file_export_mode: TarFileExportMode = TarFileExportMode.ALL
    """TarFileExportMode: whether closings archive the TSE's log in ftJournalDE."""
    store_temporary_export_files: bool = False
    """StoreTemporaryExportFiles: keep each archived export as a TAR file in the data folder, too."""
    tar_export_timeout_s: float = 900
    """How long one export may take before it is given up; the next closing tries again."""
    sandbox: bool = False
    """Mark every response as S A N D B O X."""
    ignore_queue_id: bool = False
    """Accept requests whose ftQueueID names another queue."""
    process_data_strict: bool = False
    """Reject or repair what DSFinV-K does not allow instead of signing it as the reference does."""
    terminate_shared_tse: bool = False
    """Let a stop or initiate-SCU-switch receipt terminate a TSE although other clients are registered on it.
    Irreversible."""
    qr_caption: str = texts.QR_CAPTION
    """Caption of the QR item."""
    timeout_ms: int = 15_000
    """ftQueueTimeout of the queue items; informational."""
    scu_timeout_ms: int = 15_000
    """scu-timeout-ms: how long one call may wait for the TSE."""
    max_waiting: int = 1_000
    """Sign calls that may wait for one queue; more are refused with QueueBusy."""

    def __post_init__(self) -> None:
        if self.receipt_request_mode not in (0, 1):
            raise ValueError("receipt_request_mode must be 0 (answer null) or 1 (sign the request)")
        if self.max_waiting < 1 or self.timeout_ms < 1 or self.scu_timeout_ms < 1:
            raise ValueError("max_waiting, timeout_ms and scu_timeout_ms must be at least 1")
        if not self.tar_export_timeout_s > 0:
            raise ValueError("tar_export_timeout_s must be greater than 0")
        if not 0 <= self.duplicate_window_s <= MAX_DUPLICATE_WINDOW_S:
            raise ValueError(f"duplicate_window_s must be from 0 (off) to {MAX_DUPLICATE_WINDOW_S} (a day)")


MAX_DUPLICATE_WINDOW_S = 86_400
