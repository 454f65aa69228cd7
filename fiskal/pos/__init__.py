"""What a POS says and hears: the messages of ifPOS v1 and their JSON."""

from fiskal.pos.codec import (
    decode_canonical,
    decode_echo,
    decode_journal_request,
    decode_request,
    decode_response,
    encode_echo,
    encode_journal_request,
    encode_request,
    encode_response,
)
from fiskal.pos.models import (
    ChargeItem,
    EchoRequest,
    EchoResponse,
    JournalRequest,
    PayItem,
    ReceiptRequest,
    ReceiptResponse,
    SignaturItem,
)

__all__ = [
    "ChargeItem",
    "EchoRequest",
    "EchoResponse",
    "JournalRequest",
    "PayItem",
    "ReceiptRequest",
    "ReceiptResponse",
    "SignaturItem",
    "decode_canonical",
    "decode_echo",
    "decode_journal_request",
    "decode_request",
    "decode_response",
    "encode_echo",
    "encode_journal_request",
    "encode_request",
    "encode_response",
]
