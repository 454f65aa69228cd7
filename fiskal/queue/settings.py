"""What a queue can be told. Names are the reference's configuration keys in snake_case."""

from __future__ import annotations

import enum
import re

import msgspec

from fiskal.germany import texts
from fiskal.scu.client import RetryPolicy


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
    scu_max_retries: int = 3
    """scu-max-retries: how often one call to the TSE is attempted in all. A call that may have been executed is
    repeated only where that cannot sign twice; a TSE inside this process is asked once."""
    scu_retry_delay_ms: int = 2_000
    """Pause between two attempts."""
    recovery_budget_s: float = 60
    """How long one zero receipt may recover what failed mode left behind; the next one goes on. At least one
    transaction is recovered by each."""
    recover_when_idle: bool = False
    """Leave failed mode with a zero receipt of the queue's own once the TSE answers again and nobody sells."""
    recover_before_closing: bool = False
    """Send a zero receipt of the queue's own before a closing that comes in failed mode, if the TSE answers."""
    disable_dsfinvk_export_references: bool = False
    """DisableDsfinvkExportReferences: the DSFinV-K export has no references between receipts."""
    exclude_dsfinvk_orders: bool = False
    """ExcludeDsfinvkOrders: the DSFinV-K export leaves orders (Bestellung-V1) out."""
    dsfinvk_version: str = "2.4"
    """TAXONOMIE_VERSION of the DSFinV-K export. The tables are those of 2.4 whatever it says."""
    max_waiting: int = 1_000
    """Sign calls that may wait for one queue; more are refused with QueueBusy."""

    def __post_init__(self) -> None:
        if self.receipt_request_mode not in (0, 1):
            raise ValueError("receipt_request_mode must be 0 (answer null) or 1 (sign the request)")
        if self.max_waiting < 1 or self.timeout_ms < 1 or self.scu_timeout_ms < 1:
            raise ValueError("max_waiting, timeout_ms and scu_timeout_ms must be at least 1")
        if re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,2})?", self.dsfinvk_version) is None:
            raise ValueError("dsfinvk_version must be a number such as 2.4")
        if not self.tar_export_timeout_s > 0:
            raise ValueError("tar_export_timeout_s must be greater than 0")
        if not 0 <= self.duplicate_window_s <= MAX_DUPLICATE_WINDOW_S:
            raise ValueError(f"duplicate_window_s must be from 0 (off) to {MAX_DUPLICATE_WINDOW_S} (a day)")
        if not 1 <= self.scu_max_retries <= MAX_ATTEMPTS:
            raise ValueError(
                f"scu_max_retries counts attempts: from 1 (asked once) to {MAX_ATTEMPTS}; with 0 no TSE is ever "
                "asked"
            )
        if (
            not 0 <= self.scu_retry_delay_ms <= MAX_DELAY_MS
            or not 0 <= self.recovery_budget_s <= MAX_BUDGET_S
        ):
            raise ValueError(
                f"scu_retry_delay_ms must be from 0 to {MAX_DELAY_MS}, recovery_budget_s from 0 to {MAX_BUDGET_S}"
            )

    @property
    def retry_policy(self) -> RetryPolicy:
        """How patiently the TSE is called."""
        return RetryPolicy(self.scu_max_retries, self.scu_timeout_ms / 1000, self.scu_retry_delay_ms / 1000)


MAX_ATTEMPTS = 10
MAX_DELAY_MS = 60_000
MAX_BUDGET_S = 3_600


MAX_DUPLICATE_WINDOW_S = 86_400
