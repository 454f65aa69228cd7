"""What a TSE or the way to it can do wrong (tse-abstraction: error taxonomy).

The class says what is known about the call, and so what may be done next:

=================  =========  ================================================================
class              executed?  the queue
=================  =========  ================================================================
ClientError        no         answers an error, no failed mode
NotSupported       no         answers an error, no failed mode
TseRejected        no         failed mode
Misconfigured      no         failed mode, needs a person
Unreachable        no         failed mode, may be tried again
OutcomeUnknown     maybe      failed mode, repeated only with IsRetry and the same QueueItemId
=================  =========  ================================================================
"""

from __future__ import annotations

from fiskal.errors import FiskalError
from fiskal.scu.contract import Mismatch


class ScuError(FiskalError):
    """Root of all errors of a signature creation unit. ``code`` is stable upper-case text."""

    code = "SCU"
    retryable = False
    """The same call may succeed later without anybody doing anything."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        vendor_code: str | None = None,
        retry_after_ms: int | None = None,
        transaction_number: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.vendor_code = vendor_code
        self.retry_after_ms = retry_after_ms
        self.transaction_number = transaction_number


class ClientError(ScuError):
    """The request itself is wrong; nothing was executed."""


class NotSupported(ScuError):
    """This TSE cannot do what was asked; nothing was executed."""


class TseRejected(ScuError):
    """The TSE answered and refused; nothing was executed."""


class Misconfigured(ScuError):
    """Credentials, device or binding are wrong; nothing was executed and a person must act."""


class Unreachable(ScuError):
    """The TSE could not be reached; the call was certainly not executed."""

    retryable = True


class OutcomeUnknown(ScuError):
    """The call was sent and no usable answer came: it may have been executed."""

    retryable = True


class SignatureMismatch(OutcomeUnknown):
    """The TSE answered with a signature that does not verify. A repetition asks it again for the same answer,
    which heals what a bad line did, and nothing else."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(
            "PROTOCOL_ERROR", mismatch.text, transaction_number=mismatch.transaction_number or None
        )
        self.mismatch = mismatch
