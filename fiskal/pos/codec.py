"""JSON in and out: what a POS sends, and the very bytes that are stored, hashed and answered.

Reading is tolerant and done by the core, which turns a request into its canonical text; that text is then
decoded into the models. Decimals go from text to :class:`decimal.Decimal` and never through a float.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import msgspec

from fiskal.errors import ReceiptRejected
from fiskal.pos.models import (
    EchoRequest,
    EchoResponse,
    JournalRequest,
    ReceiptRequest,
    ReceiptResponse,
)
from fiskal.pos.prepared import prepare

_encoder: Final = msgspec.json.Encoder(decimal_format="number")
_request_decoder: Final = msgspec.json.Decoder(ReceiptRequest)
_response_decoder: Final = msgspec.json.Decoder(ReceiptResponse)
_echo_decoder: Final = msgspec.json.Decoder(str | dict[str, msgspec.Raw])
_message_decoder: Final = msgspec.json.Decoder(str | None)
_journal_decoder: Final = msgspec.json.Decoder(dict[str, object])

_JOURNAL_NAMES: Final = {
    "ftjournaltype": "ftJournalType",
    "from": "From",
    "to": "To",
    "maxchunksize": "MaxChunkSize",
}


def decode_request(data: bytes) -> ReceiptRequest:
    """Read a ReceiptRequest in the tolerant dialect (see :func:`fiskal.pos.prepared.prepare`).

    Raises :class:`ReceiptRejected` if it cannot be accepted. Moments come out as UTC.
    """
    return _request_decoder.decode(prepare(data).canonical)


def decode_canonical(canonical: bytes) -> ReceiptRequest:
    """Read a request from its canonical text, as the core made it or the journal holds it.

    Raises :class:`msgspec.ValidationError` for what the core cannot have written, ``"Amount":"NaN"`` among it.
    """
    request = _request_decoder.decode(canonical)
    if _may_hold_not_finite(canonical):
        _require_finite(request, msgspec.ValidationError)
    return request


def encode_request(request: ReceiptRequest) -> bytes:
    """Write a request as JSON, decimals as numbers; input for :func:`fiskal.pos.prepared.prepare`.

    Raises :class:`ReceiptRejected` for what JSON cannot carry, as reading it would: an amount that is NaN or
    infinite, a text with half a surrogate pair.
    """
    try:
        data = _encoder.encode(request)
    except UnicodeEncodeError as error:
        raise ReceiptRejected(
            "JSON_UTF8",
            f"a text of the request is not valid Unicode: {error}",
            hint="surrogates must come in pairs",
        ) from error
    except ValueError:  # msgspec since 0.23 refuses NaN itself, and does not say where
        _refuse_not_finite(request)
        raise
    if _may_hold_not_finite(data):
        _refuse_not_finite(request)
    return data


def _refuse_not_finite(request: ReceiptRequest) -> None:
    for path, value in _not_finite(request):
        raise ReceiptRejected(
            "JSON_NOT_A_NUMBER",
            f"{path} must be a number, not {value}",
            field=path,
            hint="send a decimal number",
        )


def _require_finite(message: msgspec.Struct, error: type[Exception]) -> None:
    for path, value in _not_finite(message):
        raise error(f"{path} must be a number, not {value}")


def _may_hold_not_finite(data: bytes) -> bool:
    """Quick to say no. The words also stand in texts, so yes means: look at the members."""
    return b"NaN" in data or b"Infinity" in data


def _not_finite(value: object, path: str = "") -> Iterator[tuple[str, Decimal]]:
    """The decimals of a message that are NaN or infinite, with their places: ``cbPayItems[1].Amount``."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            yield path, value
    elif isinstance(value, msgspec.Struct):
        for member in msgspec.structs.fields(value):
            where = f"{path}.{member.encode_name}" if path else member.encode_name
            yield from _not_finite(getattr(value, member.name), where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{path}[{index}]")


def encode_response(response: ReceiptResponse) -> bytes:
    """Write a response as it is stored, hashed and sent: compact, members in the order of the interface,
    optional members without value left out, everything but control characters, U+0085, U+2028 and U+2029
    as UTF-8.

    Raises ValueError for an amount that is NaN or infinite.
    """
    try:
        data = _encoder.encode(response)
    except ValueError:  # as for a request
        _require_finite(response, ValueError)
        raise
    if response.ft_charge_items or response.ft_pay_items:  # nothing else of a response is a decimal
        _require_finite(response, ValueError)
    if data.isascii():
        return data
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    if b"\xe2\x80\xa8" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028")
    if b"\xe2\x80\xa9" in data:
        data = data.replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def decode_response(data: bytes | str) -> ReceiptResponse:
    """Read a response.

    Raises :class:`msgspec.ValidationError` if a required member is missing or an amount is a text like ``"NaN"``.
    """
    response = _response_decoder.decode(data)
    if response.ft_charge_items or response.ft_pay_items:
        _require_finite(response, msgspec.ValidationError)
    return response


def _without_bom(data: bytes) -> bytes:
    return data[3:] if data.startswith(b"\xef\xbb\xbf") else data


def decode_echo(data: bytes) -> EchoRequest | str:
    """Read an echo: a JSON string as v0 sends it, or an object with ``Message`` as v1 does.

    Raises :class:`ReceiptRejected` if it is neither.
    """
    try:
        decoded = _echo_decoder.decode(_without_bom(data))
        if isinstance(decoded, str):
            return decoded
        messages = [value for name, value in decoded.items() if name.lower() == "message"]
        if len(messages) == 1:
            return EchoRequest(_message_decoder.decode(messages[0]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReceiptRejected(
            "JSON_SYNTAX", f"the echo request cannot be read: {error}", hint='send {"Message": "Hello"}'
        ) from error
    raise ReceiptRejected(
        "JSON_TYPE", "the echo request needs one Message", field="Message", hint='send {"Message": "Hello"}'
    )


def encode_echo(echo: EchoRequest | EchoResponse | str) -> bytes:
    """Answer an echo in the kind it was asked: a string for a string, an object for an object."""
    return _encoder.encode(echo)


def decode_journal_request(data: bytes) -> JournalRequest:
    """Read a JournalRequest; numbers may be strings, names may have any letter case.

    Raises :class:`ReceiptRejected` if it cannot be read.
    """
    try:
        decoded = _journal_decoder.decode(_without_bom(data))
        known: dict[str, object] = {}
        for name, value in decoded.items():
            wire_name = _JOURNAL_NAMES.get(name.lower())
            if wire_name in known:
                raise ReceiptRejected(
                    "JSON_DUPLICATE_KEY", f"{wire_name} appears twice", field=wire_name, hint="send it once"
                )
            if wire_name is not None:
                known[wire_name] = value
        return msgspec.convert(known, JournalRequest, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ReceiptRejected(
            "JSON_SYNTAX",
            f"the journal request cannot be read: {error}",
            hint='send {"ftJournalType": 0, "From": 0, "To": 0}',
        ) from error


def encode_journal_request(request: JournalRequest) -> bytes:
    """Write a JournalRequest as JSON."""
    return _encoder.encode(request)
