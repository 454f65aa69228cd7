"""What the POS must print: the signature items of a response, in the reference's order.

The lists are built per queue and TSE, so that the items that never change (client, key, algorithm …) are
made once and shared.
"""

from __future__ import annotations

import base64

from fiskal.core import format_ticks_ms
from fiskal.germany import texts
from fiskal.germany.codes import DE, PRINTING_OPTIONAL, SignatureFormat, SignatureType
from fiskal.pos import SignaturItem
from fiskal.scu.contract import (
    FinishTransactionResponse,
    TseSignatureData,
    UpdateTransactionResponse,
)

_T = SignatureType
_TYPE_QR = DE | _T.QR_CODE
_TYPE_START = DE | _T.START_TRANSACTION_RESULT
_TYPE_PAYLOAD = DE | _T.FINISH_TRANSACTION_PAYLOAD
_TYPE_FINISH = DE | _T.FINISH_TRANSACTION_RESULT
_TYPE_PROCESS_DATA = DE | _T.PROCESS_DATA
_TYPE_NUMBER = DE | _T.TRANSACTION_NUMBER
_TYPE_COUNTER = DE | _T.SIGNATURE_COUNTER
_TYPE_START_TIME = DE | _T.START_TIME
_TYPE_LOG_TIME = DE | _T.LOG_TIME
_TYPE_SIGNATURE = DE | _T.SIGNATURE
_TYPE_ACTION_START = DE | _T.ACTION_START

_TEXT = int(SignatureFormat.TEXT)
_QR = int(SignatureFormat.QR_CODE)
_AZTEC = int(SignatureFormat.AZTEC)

QR_VERSION = "V0"


class Constants:
    """The items that are the same for every transaction of one client on one TSE."""

    __slots__ = (
        "algorithm",
        "certification_id",
        "client",
        "key",
        "log_time_format",
        "public_key",
        "tse_serial",
    )

    def __init__(self, finish: FinishTransactionResponse, certification_id: str, optional: int) -> None:
        data = finish.signature_data
        text = _TEXT | optional
        self.key = (
            finish.client_id,
            finish.tse_serial_number_octet,
            finish.tse_time_stamp_format,
            data.signature_algorithm,
            data.public_key_base64,
            certification_id,
        )
        self.client = SignaturItem(text, DE | _T.POS_SERIAL_NUMBER, "<kassen-seriennummer>", finish.client_id)
        self.tse_serial = SignaturItem(
            text, DE | _T.TSE_SERIAL_NUMBER, "<tse-seriennummer>", finish.tse_serial_number_octet
        )
        self.log_time_format = SignaturItem(
            text, DE | _T.LOG_TIME_FORMAT, "<log-time-format>", finish.tse_time_stamp_format
        )
        self.algorithm = SignaturItem(
            text, DE | _T.SIGNATURE_ALGORITHM, "<sig-alg>", data.signature_algorithm
        )
        self.public_key = SignaturItem(text, DE | _T.PUBLIC_KEY, "<public-key>", data.public_key_base64)
        self.certification_id = SignaturItem(
            _TEXT, DE | _T.CERTIFICATION_ID, "<certification-id>", certification_id
        )


class SignatureBuilder:
    """Builds the lists for one queue.

    ``flag_optional`` is FlagOptionalSignatures: items that need not be printed beside the QR code carry
    0x10000 in their format. ``qr_caption`` is the caption of the QR item.
    """

    def __init__(self, *, flag_optional: bool = True, qr_caption: str = texts.QR_CAPTION) -> None:
        self._optional = PRINTING_OPTIONAL if flag_optional else 0
        self._text = _TEXT | self._optional
        self._base64 = int(SignatureFormat.BASE64) | self._optional
        self._qr_caption = qr_caption
        self._version = SignaturItem(self._text, DE | _T.QR_CODE_VERSION, "<qr-code-version>", QR_VERSION)
        self._process_types: dict[str, SignaturItem] = {}
        self._constants: Constants | None = None

    def _process_type(self, process_type: str) -> SignaturItem:
        item = self._process_types.get(process_type)
        if item is None:
            item = SignaturItem(self._text, DE | _T.PROCESS_TYPE, "<processType>", process_type)
            if len(self._process_types) < 16:  # a TSE echoes three; a faulty one must not fill the memory
                self._process_types[process_type] = item
        return item

    def _constants_of(self, finish: FinishTransactionResponse, certification_id: str) -> Constants:
        known = self._constants
        data = finish.signature_data
        if known is None or known.key != (
            finish.client_id,
            finish.tse_serial_number_octet,
            finish.tse_time_stamp_format,
            data.signature_algorithm,
            data.public_key_base64,
            certification_id,
        ):
            known = self._constants = Constants(finish, certification_id, self._optional)
        return known

    def start(self, signature: TseSignatureData) -> list[SignaturItem]:
        """SIG-START: the result of a start transaction."""
        return [
            SignaturItem(self._base64, _TYPE_START, "start-transaction-signature", signature.signature_base64)
        ]

    def update(self, update: UpdateTransactionResponse) -> list[SignaturItem]:
        """SIG-UPDATE: the result of an update or delta transaction."""
        return [
            SignaturItem(
                self._base64,
                DE | _T.UPDATE_TRANSACTION_PAYLOAD,
                "update-transaction-payload",
                update.process_data_base64,
            ),
            SignaturItem(
                self._base64,
                DE | _T.UPDATE_TRANSACTION_RESULT,
                "update-transaction-signature",
                update.signature_data.signature_base64,
            ),
            self._process_type(update.process_type),
        ]

    def closed(self, finish: FinishTransactionResponse) -> list[SignaturItem]:
        """SIG-FIN: a transaction closed automatically by a closing or a multiple fail-transaction."""
        return [
            SignaturItem(
                self._base64, _TYPE_PAYLOAD, "finish-transaction-payload", finish.process_data_base64
            ),
            SignaturItem(
                self._base64,
                _TYPE_FINISH,
                "finish-transaction-signature",
                finish.signature_data.signature_base64,
            ),
            self._process_type(finish.process_type),
        ]

    def transaction(
        self,
        start_signature: str | None,
        finish: FinishTransactionResponse,
        start_time: int,
        certification_id: str,
        process_data: str,
    ) -> list[SignaturItem]:
        """SIG-TX: zero, start and stop receipts, closings. No QR code; captions end in ``-result``.

        ``start_time`` is in ticks; ``process_data`` is the text behind ``finish.process_data_base64``.
        """
        constants = self._constants_of(finish, certification_id)
        text, base64_format = self._text, self._base64
        signature = finish.signature_data.signature_base64
        items = [
            SignaturItem(
                base64_format, _TYPE_PAYLOAD, "finish-transaction-payload", finish.process_data_base64
            ),
            SignaturItem(base64_format, _TYPE_FINISH, "finish-transaction-result", signature),
            self._process_type(finish.process_type),
            constants.client,
            SignaturItem(text, _TYPE_PROCESS_DATA, "<processData>", process_data),
            SignaturItem(text, _TYPE_NUMBER, "<transaktions-nummer>", str(finish.transaction_number)),
            SignaturItem(
                text, _TYPE_COUNTER, "<signatur-zaehler>", str(finish.signature_data.signature_counter)
            ),
            SignaturItem(text, _TYPE_START_TIME, "<start-zeit>", format_ticks_ms(start_time)),
            SignaturItem(text, _TYPE_LOG_TIME, "<log-time>", format_ticks_ms(finish.time_stamp)),
            SignaturItem(text, _TYPE_SIGNATURE, "<signatur>", signature),
            constants.algorithm,
            constants.log_time_format,
            constants.certification_id,
            constants.public_key,
        ]
        if start_signature is not None:
            items.insert(
                0, SignaturItem(base64_format, _TYPE_START, "start-transaction-result", start_signature)
            )
        return items

    def receipt(
        self,
        start_signature: str,
        finish: FinishTransactionResponse,
        start_time: int,
        certification_id: str,
        process_data: str,
    ) -> list[SignaturItem]:
        """SIG-POS: receipts, orders, other actions and fail-transactions, with the QR code (V0)."""
        constants = self._constants_of(finish, certification_id)
        text, base64_format = self._text, self._base64
        data = finish.signature_data
        signature = data.signature_base64
        number = str(finish.transaction_number)
        counter = str(data.signature_counter)
        start_text = format_ticks_ms(start_time)
        log_text = format_ticks_ms(finish.time_stamp)
        qr = (
            f"V0;{finish.client_id};{finish.process_type};{process_data};{number};{counter};{start_text};"
            f"{log_text};{data.signature_algorithm};{finish.tse_time_stamp_format};{signature};"
            f"{data.public_key_base64}"
        )
        return [
            SignaturItem(_QR, _TYPE_QR, self._qr_caption, qr),
            SignaturItem(base64_format, _TYPE_START, "start-transaction-signature", start_signature),
            SignaturItem(
                base64_format, _TYPE_PAYLOAD, "finish-transaction-payload", finish.process_data_base64
            ),
            SignaturItem(base64_format, _TYPE_FINISH, "finish-transaction-signature", signature),
            constants.certification_id,
            constants.tse_serial,
            self._version,
            constants.client,
            self._process_type(finish.process_type),
            SignaturItem(text, _TYPE_PROCESS_DATA, "<processData>", process_data),
            SignaturItem(text, _TYPE_NUMBER, "<transaktions-nummer>", number),
            SignaturItem(text, _TYPE_COUNTER, "<signatur-zaehler>", counter),
            SignaturItem(text, _TYPE_START_TIME, "<start-zeit>", start_text),
            SignaturItem(text, _TYPE_LOG_TIME, "<log-time>", log_text),
            constants.algorithm,
            constants.log_time_format,
            SignaturItem(text, _TYPE_SIGNATURE, "<signatur>", signature),
            constants.public_key,
        ]


def action_start(ticks: int) -> SignaturItem:
    """SIG-VB: start of the action as the POS knows it; printed in clear text beside the QR code."""
    return SignaturItem(_TEXT, _TYPE_ACTION_START, "<vorgangsbeginn>", format_ticks_ms(ticks))


def training(now: int) -> SignaturItem:
    """SIG-TRAINING: marks a training receipt. Its type carries no country."""
    return SignaturItem(_TEXT, int(_T.INFORMATION), texts.TRAINING, format_ticks_ms(now))


def failed(since: int, count: int) -> SignaturItem:
    """SIG-FAILED: the only item of a failed-mode response. Its type carries no country."""
    return SignaturItem(
        _TEXT,
        int(_T.INFORMATION),
        texts.TSE_FAILED,
        f"Fehlerzähler seit {format_ticks_ms(since)}: {count}",
    )


def note(caption: str, data: str) -> SignaturItem:
    """SIG-NOTE: a text that must be archived."""
    return SignaturItem(_TEXT, DE | _T.ARCHIVING_REQUIRED, caption, data)


def notification(caption: str, data: str, signature_type: SignatureType = _T.NOTIFICATION) -> SignaturItem:
    """A notification for the authorities, as AZTEC code content."""
    return SignaturItem(_AZTEC, DE | signature_type, caption, data)


def recovered(count: int, since: int, now: int) -> SignaturItem:
    """The note of the zero receipt that leaves failed mode."""
    return note(
        f"TSE Kommunikation wiederhergestellt am {texts.long_date(now)}.",
        f"{count} Aktionen ohne TSE Kommunikation im Zeitraum von {texts.long_date(since)} "
        f"bis {texts.long_date(now)}",
    )


def recovery_goes_on(done: int, total: int, now: int) -> SignaturItem:
    """The note of a zero receipt that recovered a part; the queue stays in failed mode."""
    return note(
        f"TSE Kommunikation wird wiederhergestellt, Stand {texts.long_date(now)}.",
        f"{done} von {total} Transaktionen nachgeholt. Der nächste Nullbeleg setzt fort.",
    )


def late_signing(receipt_moment: int) -> SignaturItem:
    """The note of a receipt that is recorded after the middleware was out of reach."""
    return note(f"Ausfallsnacherfassung vom {texts.long_date(receipt_moment)}", texts.SYSTEM_FAILED)


def late_signing_closed(count: int, first: int, last: int, now: int) -> SignaturItem:
    """The note of the zero receipt that ends late signing."""
    return note(
        f"Ausfallsnacherfassung abgeschlossen am {texts.long_date(now)}.",
        f"{count} Aktionen im Zeitraum von {texts.long_date(first)} bis {texts.long_date(last)}",
    )


def handwritten(receipt_moment: int) -> SignaturItem:
    """The note of a receipt that was written by hand while the register was down."""
    return note(f"Handschriftbelegerfassung vom {texts.long_date(receipt_moment)}", "")


def error(country: int, text: str) -> SignaturItem:
    """The item of an error response. ``country`` is the country part of the request's case."""
    return SignaturItem(_TEXT, country | 0x2000_0000_3000, texts.UNCAUGHT_EXCEPTION, text)


def sandbox(queue_id: str) -> SignaturItem:
    """Marks every response of a sandbox queue."""
    return SignaturItem(_TEXT, 0, texts.SANDBOX, queue_id)


def encode_process_data(process_data: str) -> str:
    """ProcessDataBase64 of a text."""
    return base64.b64encode(process_data.encode()).decode()
