"""Checking what a TSE signed before a receipt is answered: the right data, the right key, a counter that moves on."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.clock import TICKS_PER_SECOND
from fiskal.core import format_ticks
from fiskal.lazy import LazyModule
from fiskal.scu.contract import Mismatch, TseInfo
from fiskal.scu.driver import Call, Signed
from fiskal.tse.algorithms import point_of, serial_of_point
from fiskal.tse.logmessage import LogMessage, LogMessageError, parse
from fiskal.tse.verify import SignatureCheck, Statement

if TYPE_CHECKING:
    from fiskal.tse import certificates
else:  # brings X.509 along, needed when a TSE is looked at
    certificates = LazyModule("fiskal.tse.certificates")

Mode = Literal["failed_mode", "alarm", "off"]
"""What becomes of a receipt whose signature does not hold: it is answered without the TSE, as if that had failed; or
it is answered as it is. Either way it is journalled and told to the listeners. ``off`` checks nothing."""

MODES: Final[tuple[Mode, ...]] = ("failed_mode", "alarm", "off")

BAD_SIGNATURE: Final = "the signature does not hold over what was to be signed"
OTHER_CONTENT: Final = "the log message says something else: {}"
OLD_COUNTER: Final = "the signatureCounter {} is not greater than that of an earlier signature, {}"
OTHER_KEY: Final = "the public key that the TSE shows is not that of its certificate"
OTHER_SERIAL: Final = "the serial number that the TSE shows is not the hash of its public key"


def key_fault(info: TseInfo, key: ec.EllipticCurvePublicKey) -> str:
    """What speaks against the key a TSE shows; empty if nothing does.

    A TSE without a certificate that can be read is not blamed for it.
    """
    point = point_of(key)
    if info.serial_number_octet.lower() != serial_of_point(point).hex():
        return OTHER_SERIAL
    points = []
    for text in info.certificates_base64:
        try:
            points += [
                point_of(certificates.key_of(each))
                for each in certificates.load_certificates(base64.b64decode(text))
            ]
        except (certificates.CertificateError, ValueError):
            continue
    return OTHER_KEY if points and point not in points else ""


class _Kept:
    """What the unsigned updates of one transaction left, and which queue items sent them."""

    __slots__ = ("client_id", "items", "pieces", "process_type")

    def __init__(self) -> None:
        self.client_id = ""
        self.process_type = ""
        self.pieces: list[bytes] = []
        self.items: set[str] = set()


class SignTimeCheck:
    """Checks the answers of one TSE. Not to be shared between threads.

    ``fault_of_key`` is what :func:`key_fault` found; it is then wrong with every answer.
    """

    def __init__(self, check: SignatureCheck, fault_of_key: str = "") -> None:
        self._check = check
        self._fault_of_key = fault_of_key
        self._last_counter = 0
        self._unsigned: dict[int, _Kept] = {}

    def fault(self, call: Call, signed: Signed, *, remembered: bool = False) -> str:
        """What is wrong with the answer to a call; empty if it proves what it says.

        An answer that is ``remembered`` is older than others and need not have the highest counter. An update that
        the TSE keeps for later has no signature yet.
        """
        if not signed.signature:
            if not remembered:
                self._keep(call)
            return ""
        if signed.filler and not call.process_data:
            call = msgspec.structs.replace(call, process_data=signed.filler)
        fault = self._fault_of_key or self._content(call, signed)
        if fault or remembered:
            return fault
        if signed.signature_counter <= self._last_counter:
            return OLD_COUNTER.format(signed.signature_counter, self._last_counter)
        self._last_counter = signed.signature_counter
        if call.op == "finish":
            self._unsigned.pop(call.transaction_number, None)
        return ""

    def _content(self, call: Call, signed: Signed) -> str:
        if signed.log_message is not None:
            try:
                message = parse(signed.log_message)
            except LogMessageError as error:
                return OTHER_CONTENT.format(error)
            other = _differences(call, signed, message, self._check.key)
            if other:
                return OTHER_CONTENT.format(", ".join(other))
            return "" if message.verify(self._check.key) else BAD_SIGNATURE
        said = Statement(
            call.op,
            call.client_id,
            call.process_type,
            call.process_data,
            signed.transaction_number,
            signed.signature_counter,
            signed.time_stamp,
        )
        earlier = self._earlier(call)
        # All that was kept, or nothing of it, or the end of it: what became too long for one message was signed before.
        for first in dict.fromkeys((0, len(earlier), *range(len(earlier)))):
            if self._check.find(said._replace(earlier=earlier[first:]), signed.signature) is not None:
                return ""
        return BAD_SIGNATURE

    def _keep(self, call: Call) -> None:
        """An update was not signed: version 2 puts its data into the finish (TR-03151 §4.4.2)."""
        kept = self._unsigned.setdefault(call.transaction_number, _Kept())
        if call.queue_item_id:
            if call.queue_item_id in kept.items:
                return  # the call came again, and the TSE keeps its data once
            kept.items.add(call.queue_item_id)
        if (kept.client_id, kept.process_type) != (call.client_id, call.process_type):
            kept.client_id, kept.process_type, kept.pieces = call.client_id, call.process_type, []
        kept.pieces.append(call.process_data)

    def _earlier(self, call: Call) -> tuple[bytes, ...]:
        kept = self._unsigned.get(call.transaction_number)
        return tuple(kept.pieces) if kept is not None and kept.client_id == call.client_id else ()


def _differences(
    call: Call, signed: Signed, message: LogMessage, key: ec.EllipticCurvePublicKey
) -> list[str]:
    """The members in which a log message is not the one that a call and its answer speak of."""
    data = message.process_data or b""
    chunks = message.process_data_chunks
    if chunks:  # in pieces: those before the last one are updates that were not signed
        data = data[len(data) - chunks[-1] :]
    compared = (
        ("operation", (message.operation or "").lower(), f"{call.op}transaction"),
        ("clientId", message.client_id, call.client_id),
        ("processType", (message.process_type or "").strip(), call.process_type.strip()),
        ("processData", data, call.process_data),
        ("transactionNumber", message.transaction_number, signed.transaction_number),
        ("serialNumber", message.serial, serial_of_point(point_of(key))),
        ("signatureCounter", message.signature_counter, signed.signature_counter),
        ("logTime", message.log_time // TICKS_PER_SECOND, signed.time_stamp // TICKS_PER_SECOND),
        ("signature", message.signature, signed.signature),
    )
    return [name for name, found, wanted in compared if found != wanted]


def mismatch(reason: str, call: Call, signed: Signed, info: TseInfo) -> Mismatch:
    """What the journal keeps of an answer that proves nothing: enough to show it to others."""
    return Mismatch(
        reason=reason,
        operation=call.op,
        queue_item_id=call.queue_item_id,
        client_id=call.client_id,
        process_type=call.process_type,
        process_data_base64=_text(call.process_data),
        transaction_number=signed.transaction_number,
        signature_counter=signed.signature_counter,
        log_time=format_ticks(signed.time_stamp),
        signature_base64=_text(signed.signature),
        signature_algorithm=info.signature_algorithm,
        log_time_format=info.log_time_format,
        public_key_base64=info.public_key_base64,
        tse_serial_number_octet=info.serial_number_octet,
        log_message_base64=None if signed.log_message is None else _text(signed.log_message),
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
