"""Texts of the device to values: times, numbers, slot information, certificates, log messages."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS, from_unix, to_unix
from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call, Signed
from fiskal.scu.drivers.diebold_nixdorf.link import NoResponse
from fiskal.tse.certificates import CertificateError, load_certificates, load_chain
from fiskal.tse.logmessage import LogMessage

UNKNOWN: Final = -1
_TIME: Final = re.compile(r"(\d\d)\.(\d\d)\.(\d{4}) (\d\d):(\d\d):(\d\d)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OPERATIONS: Final = {
    "start": "starttransaction",
    "update": "updatetransaction",
    "finish": "finishtransaction",
}


def ticks(text: str) -> int:
    """``dd.MM.yyyy HH:mm:ss`` in UTC to ticks. Raises NoResponse: the answer is not what it should be."""
    match = _TIME.fullmatch(text)
    if match is not None:
        day, month, year, hour, minute, second = map(int, match.groups())
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            pass
        else:
            return from_unix((moment - _EPOCH) // timedelta(seconds=1))
    raise NoResponse(f"The TSE answered {text!r} where a time must be.", None)


def time_text(moment: int) -> str:
    """Ticks to ``dd.MM.yyyy HH:mm:ss``, cut to the second."""
    return (_EPOCH + timedelta(seconds=to_unix(moment))).strftime("%d.%m.%Y %H:%M:%S")


def first_second(moment: int) -> int:
    """The first whole second that is not before ``moment``, in ticks."""
    return UNIX_EPOCH_TICKS - (UNIX_EPOCH_TICKS - moment) // TICKS_PER_SECOND * TICKS_PER_SECOND


def number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise NoResponse(f"The TSE answered {text!r} where a number must be.", None)
    return int(text)


def number_or_unknown(texts: list[str], index: int) -> int:
    """A number that old firmware leaves out or empty: :data:`UNKNOWN` then."""
    text = texts[index] if index < len(texts) else ""
    return int(text) if text.isascii() and text.isdigit() else UNKNOWN


def from_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise NoResponse("The TSE answered no base64 where it must be.", None) from error


class Slot(NamedTuple):
    """Answer 109, with what old firmware leaves out as :data:`UNKNOWN` or empty."""

    state: TseStates
    near_full: bool
    capacity: int
    free: int
    certificate_end: int
    """Ticks; 0 if the device does not tell."""
    signatures_left: int
    algorithm: str
    description: str


def slot(texts: list[str], disabled_first: bool) -> Slot:
    if len(texts) < 9:
        raise NoResponse(f"The TSE described its slot with {len(texts)} fields.", None)
    try:
        bits = int(texts[1], 16)
    except ValueError as error:
        raise NoResponse(f"The TSE answered {texts[1]!r} for its state.", None) from error
    initialized, disabled = bool(bits & 0x01), bool(bits & 0x02)
    if disabled and (disabled_first or not initialized):
        state = TseStates.TERMINATED
    else:
        state = TseStates.INITIALIZED if initialized else TseStates.UNINITIALIZED
    return Slot(
        state=state,
        near_full=bool(bits & 0x04),
        capacity=number_or_unknown(texts, 4),
        free=number_or_unknown(texts, 5),
        certificate_end=ticks(texts[6]) if _TIME.fullmatch(texts[6]) else 0,
        signatures_left=number_or_unknown(texts, 7),
        algorithm=texts[8],
        description=texts[10] if len(texts) > 10 else "",
    )


def firmware(texts: list[str]) -> str:
    """FirmwareIdentification as consumers know it."""
    if len(texts) >= 9:
        app, update, main = (".".join(texts[at : at + 3]) for at in (0, 3, 6))
        return f"Format: ConnectBox; App Version: {app}; OsUpd Version: {update}; OsMain Version: {main}"
    if len(texts) >= 6:
        return (
            f"Format: SingleTSE; Firmware Version: {'.'.join(texts[:3])}; "
            f"Loader Version: {'.'.join(texts[3:6])}"
        )
    return "Format: unknown; " + ".".join(texts)


def certificates(pem: bytes) -> list[str]:
    """The chain as base64 of DER, the TSE's own first; empty if it cannot be read."""
    try:
        return [base64.b64encode(der).decode("ascii") for der in load_chain([pem]).der]
    except CertificateError:
        pass
    try:
        from_file = load_certificates(pem)
    except CertificateError:
        return []
    return [base64.b64encode(one.public_bytes(Encoding.DER)).decode("ascii") for one in from_file]


def is_log_of(message: LogMessage, call: Call, transaction_number: int) -> bool:
    """The message is what ``call`` makes a TSE write."""
    return (
        (message.operation or "").lower() == _OPERATIONS[call.op]
        and message.transaction_number == transaction_number
        and message.client_id == call.client_id
        and (message.process_type or "") == call.process_type
        and (message.process_data or b"") == call.process_data
    )


def signed(message: LogMessage, raw: bytes, start: int | None = None) -> Signed:
    assert message.transaction_number is not None
    return Signed(
        message.transaction_number,
        message.signature_counter,
        message.log_time,
        message.signature,
        start,
        raw,
    )
