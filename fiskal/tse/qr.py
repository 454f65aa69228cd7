"""The text of the QR code on a receipt (DSFinV-K Annex I, version V0)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from fiskal.clock import TICKS_PER_MILLISECOND, TICKS_PER_SECOND, UNIX_EPOCH_TICKS
from fiskal.errors import FiskalError

_FIELDS: Final = 12
_NUMBER: Final = re.compile(r"\d{1,20}", re.ASCII)
_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,7})\d*)?(?:Z|\+00:?00)?", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class QrError(FiskalError):
    """A text that is no V0 QR code; ``field`` names the part that cannot be read."""

    code = "QR"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class QrV0:
    """The 12 fields. Times are ticks; ``start_time`` is not part of what was signed."""

    client_id: str
    process_type: str
    process_data: str
    transaction_number: int
    signature_counter: int
    start_time: int
    log_time: int
    signature_algorithm: str
    log_time_format: str
    signature: bytes
    public_key: bytes

    def format(self) -> str:
        """Return the text of the QR code."""
        return ";".join(
            (
                "V0",
                self.client_id,
                self.process_type,
                self.process_data,
                str(self.transaction_number),
                str(self.signature_counter),
                format_time(self.start_time),
                format_time(self.log_time),
                self.signature_algorithm,
                self.log_time_format,
                base64.b64encode(self.signature).decode("ascii"),
                base64.b64encode(self.public_key).decode("ascii"),
            )
        )


def format_time(ticks: int) -> str:
    """Return ``2019-07-10T18:41:04.000Z``: UTC, milliseconds rounded down."""
    milliseconds = (ticks - UNIX_EPOCH_TICKS) // TICKS_PER_MILLISECOND
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.").rjust(20, "0") + f"{milliseconds % 1000:03d}Z"


def parse_time(text: str) -> int:
    """Return the ticks of an ISO 8601 time in UTC, with or without fraction and ``Z``. Raises ValueError."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time in ISO 8601")
    *parts, fraction = match.groups()
    moment = datetime(*(int(part) for part in parts), tzinfo=UTC)  # type: ignore[misc,arg-type]
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    return UNIX_EPOCH_TICKS + seconds * TICKS_PER_SECOND + int((fraction or "").ljust(7, "0"))


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) >= 2**64:
        raise QrError(name, f"{name} {text!r} is no number.")
    return int(text)


def _moment(name: str, text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise QrError(name, f"{name} {text!r} is no time.") from error


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise QrError(name, f"{name} is not base64.") from error


def parse_qr(text: str) -> QrV0:
    """Read the text of a QR code. Raises :class:`QrError`.

    processData may hold ``;``: three fields are taken from the left and eight from the right.
    """
    fields = text.strip("\r\n\t \ufeff").split(";")
    if len(fields) < _FIELDS:
        raise QrError("fields", f"A QR code has {_FIELDS} fields, not {len(fields)}.")
    version, client_id, process_type, *process_data = fields[:-8]
    number, counter, start, end, algorithm, time_format, signature, public_key = fields[-8:]
    if version.upper() != "V0":
        raise QrError("version", f"The version {version!r} is not V0.")
    return QrV0(
        client_id=client_id,
        process_type=process_type,
        process_data=";".join(process_data),
        transaction_number=_number("transactionNumber", number),
        signature_counter=_number("signatureCounter", counter),
        start_time=_moment("startTime", start),
        log_time=_moment("logTime", end),
        signature_algorithm=algorithm.strip(),
        log_time_format=time_format.strip(),
        signature=_bytes("signature", signature),
        public_key=_bytes("publicKey", public_key),
    )
