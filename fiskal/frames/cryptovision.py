"""Blocks, commands and answers of Cryptovision TSEs: the door to ``csrc/frames/cryptovision.h``.

Shapes are explained there. Every reader raises :class:`FrameError` for bytes that no device may send; every writer
raises :class:`ValueError` for what no device may be sent.
"""

from __future__ import annotations

import enum
import threading
from typing import Final, NamedTuple

from fiskal._core import ffi, lib
from fiskal.errors import FiskalError

BLOCK_BYTES: Final[int] = lib.FK_CV_BLOCK_BYTES
SECTOR_BYTES: Final[int] = lib.FK_CV_SECTOR_BYTES
MAX_COMMAND_BYTES: Final[int] = lib.FK_CV_MAX_COMMAND_BYTES
FULL_ANSWER_BYTES: Final[int] = lib.FK_CV_FULL_ANSWER_BYTES
MAX_TEXT_BYTES: Final[int] = lib.FK_CV_MAX_TEXT_BYTES
MAX_CLIENT_ID_BYTES: Final[int] = lib.FK_CV_MAX_CLIENT_ID_BYTES
TOKEN: Final[int] = lib.FK_CV_TOKEN
NEXT_FRAGMENT: Final = bytes([lib.FK_CV_NEXT_FRAGMENT])
CANCEL: Final = bytes([lib.FK_CV_CANCEL])
SESSION: Final = b"\0\0"
"""The command of the blocks that begin and end a session."""

_DATA_AT: Final = 34
_MAX_VALUES: Final = 64
_MAX_MAPPINGS: Final = 4096


class FrameError(FiskalError):
    """Bytes that are no block, no answer, or not the value that was asked for."""


class Mode(enum.IntEnum):
    """The response mode of a block."""

    NORMAL = lib.FK_CV_MODE_NORMAL
    SUSPEND = lib.FK_CV_MODE_SUSPEND
    RESUME = lib.FK_CV_MODE_RESUME


class Type(enum.IntEnum):
    """The type of a parameter."""

    BYTE = lib.FK_CV_BYTE
    OCTETS = lib.FK_CV_OCTETS
    SHORT = lib.FK_CV_SHORT
    TEXT = lib.FK_CV_TEXT
    LONGS = lib.FK_CV_LONGS


class State(enum.IntEnum):
    """What a block that was read says."""

    EMPTY = lib.FK_CV_EMPTY
    NOT_TAKEN = lib.FK_CV_NOT_TAKEN
    BUSY = lib.FK_CV_BUSY
    DONE = lib.FK_CV_DONE
    DATA = lib.FK_CV_DATA
    CONTROLLER = lib.FK_CV_CONTROLLER


class Kind(enum.IntEnum):
    """What an answer is."""

    PARAMETERS = lib.FK_CV_PARAMETERS
    STREAM = lib.FK_CV_STREAM
    ERROR = lib.FK_CV_ERROR


class Remedy(enum.IntEnum):
    """What a result code asks for."""

    NONE = lib.FK_CV_NONE
    LOGIN = lib.FK_CV_LOGIN
    TIME = lib.FK_CV_TIME
    RESTART = lib.FK_CV_RESTART
    REOPEN = lib.FK_CV_REOPEN
    STATE = lib.FK_CV_STATE
    CAPACITY = lib.FK_CV_CAPACITY
    FATAL = lib.FK_CV_FATAL
    PROGRAM = lib.FK_CV_PROGRAM
    NO_DATA = lib.FK_CV_NO_DATA
    REPEAT = lib.FK_CV_REPEAT
    CANCELLED = lib.FK_CV_CANCELLED
    LOOK = lib.FK_CV_LOOK


class Command(enum.IntEnum):
    """Command codes. Those whose parameters nobody has published are left out, and so cannot be sent."""

    START = 0x0000
    GET_PIN_STATES = 0x0001
    INITIALIZE_PINS = 0x0002
    AUTHENTICATE_USER = 0x0003
    UNBLOCK_USER = 0x0004
    LOGOUT = 0x0005
    INITIALIZE = 0x0006
    UPDATE_TIME = 0x0007
    GET_SERIAL_NUMBERS = 0x0008
    MAP_ERS_TO_KEY = 0x0009
    START_TRANSACTION = 0x000A
    UPDATE_TRANSACTION = 0x000B
    FINISH_TRANSACTION = 0x000C
    EXPORT_DATA = 0x000D
    GET_CERTIFICATES = 0x000E
    READ_LOG_MESSAGE = 0x000F
    ERASE = 0x0010
    GET_CONFIG_DATA = 0x0011
    GET_STATUS = 0x0012
    DEACTIVATE = 0x0013
    ACTIVATE = 0x0014
    DISABLE = 0x0015
    EXPORT_MORE_DATA = 0x0016
    GET_ERS_MAPPINGS = 0x0017
    GET_KEY_DATA = 0x0018
    GET_WEAR_INDICATOR = 0x0019
    DELETE_DATA_UP_TO = 0x001B
    SHUTDOWN = 0x00FF


class Result(enum.IntEnum):
    """Result codes of the device."""

    COMMUNICATION_FAILED = 0x8000
    COMMAND_DATA_INVALID = 0x8001
    RESPONSE_DATA_INVALID = 0x8002
    SIGNING_FAILED = 0x8003
    RETRIEVE_LOG_MESSAGE_FAILED = 0x8004
    STORAGE_FAILURE = 0x8005
    DISABLED = 0x8006
    NOT_AUTHORIZED = 0x8007
    NOT_AUTHENTICATED = 0x8008
    NOT_INITIALIZED = 0x8009
    UPDATE_TIME_FAILED = 0x800A
    USER_ID_NOT_MANAGED = 0x800B
    START_TRANSACTION_FAILED = 0x800C
    CERTIFICATE_EXPIRED = 0x800D
    NO_TRANSACTION = 0x800E
    UPDATE_TRANSACTION_FAILED = 0x800F
    FINISH_TRANSACTION_FAILED = 0x8010
    TIME_NOT_SET = 0x8011
    NO_ERS = 0x8012
    NO_KEY = 0x8013
    NOT_DEACTIVATED = 0x8014
    NO_DATA_AVAILABLE = 0x8015
    TOO_MANY_RECORDS = 0x8016
    UNEXPORTED_STORED_DATA = 0x8017
    PARAMETER_MISMATCH = 0x8018
    ID_NOT_FOUND = 0x8019
    TRANSACTION_NUMBER_NOT_FOUND = 0x801A
    DEACTIVATED = 0x801B
    TRANSPORT = 0x801C
    NO_STARTUP = 0x801D
    NO_STORAGE = 0x801E
    TSE_TIMEOUT = 0x8100
    STREAM_WRITE = 0x8101
    BUFFER_TOO_SMALL = 0x8102
    ALLOCATION_FAILED = 0x8103
    CALLBACK = 0x8104


class Answer(NamedTuple):
    """A block of the device. ``code`` is its length field, ``data`` what belongs to it."""

    state: State
    token: int
    code: int
    data: bytes


class Head(NamedTuple):
    """How an answer begins: ``present`` are the bytes of parameters or stream in the first block, of ``total``."""

    kind: Kind
    error: int
    present: bytes
    total: int
    more: bool


class Fragment(NamedTuple):
    """A further fragment: what counts of it, if another one must be asked for, or the error in place of it."""

    present: bytes
    more: bool
    error: int


class Value(NamedTuple):
    """A parameter of an answer. ``cut`` is how many bytes less than announced there are."""

    type: int
    data: bytes
    cut: int = 0

    @property
    def number(self) -> int:
        """Read as a number. Raises FrameError unless it has one to eight bytes."""
        if not 1 <= len(self.data) <= 8:
            raise FrameError(f"a number of {len(self.data)} bytes came from the TSE")
        return int.from_bytes(self.data)

    @property
    def longs(self) -> list[int]:
        """Read as numbers of four bytes; a rest is left out."""
        return [int.from_bytes(self.data[at : at + 4]) for at in range(0, len(self.data) // 4 * 4, 4)]


class Signature(NamedTuple):
    """The answer to a transaction command. ``number`` is 0 without, ``time`` in seconds since 1970."""

    number: int
    counter: int
    time: int
    signature: bytes
    serial: bytes


class Mapping(NamedTuple):
    """A client and the key it signs with, if that could be read."""

    client_id: str
    serial: bytes | None


_ERRORS: Final = {
    lib.FK_CV_E_FOREIGN: "bytes that are no block of a TSE",
    lib.FK_CV_E_LENGTH: "a length that cannot be",
    lib.FK_CV_E_SHORT: "fewer bytes than announced",
    lib.FK_CV_E_TYPE: "a value of another type than asked for",
    lib.FK_CV_E_MISSING: "fewer values than asked for",
    lib.FK_CV_E_NUMBER: "a number of no bytes or of more than eight",
    lib.FK_E_SPACE: "more values than a TSE has",
}


def _read(status: int) -> None:
    if status != lib.FK_OK:
        raise FrameError(f"{_ERRORS.get(status, 'bytes that are too long')} came from the TSE")


class _Scratch(threading.local):
    """Memory that the calls of one thread use one after the other."""

    def __init__(self) -> None:
        self.out = ffi.new("uint8_t[]", BLOCK_BYTES)
        self.view = ffi.buffer(self.out)
        self.length = ffi.new("size_t *")
        self.answer = ffi.new("fk_cv_answer *")
        self.head = ffi.new("fk_cv_head *")
        self.words = ffi.new("uint32_t[3]")
        self.values = ffi.new("fk_cv_value[]", _MAX_VALUES)
        self.signed = ffi.new("fk_cv_signed *")
        self.strict = ffi.new("int *")


_scratch: Final = _Scratch()


def _written(scratch: _Scratch, status: int, what: str) -> bytes:
    if status != lib.FK_OK:
        raise ValueError(f"{what} does not fit into a command of a Cryptovision TSE")
    return scratch.view[: scratch.length[0]]


def byte(value: int) -> tuple[int, bytes]:
    return Type.BYTE, value.to_bytes(1)


def octets(value: bytes) -> tuple[int, bytes]:
    return Type.OCTETS, value


def short(value: int) -> tuple[int, bytes]:
    return Type.SHORT, value.to_bytes(2)


def text(value: str) -> tuple[int, bytes]:
    """Raises UnicodeEncodeError, a ValueError, for what is not ASCII."""
    return Type.TEXT, value.encode("ascii")


def number(value: int, size: int = 4) -> tuple[int, bytes]:
    """A number in ``size`` bytes. Raises OverflowError if it has more."""
    return Type.OCTETS, value.to_bytes(size)


def command(code: int, *parameters: tuple[int, bytes]) -> bytes:
    """Encode a command. Raises ValueError if it is too long or a value does not fit its type."""
    scratch = _scratch
    array = ffi.new("fk_cv_parameter[]", len(parameters) or 1)
    kept = []
    for item, (type_, value) in zip(array, parameters, strict=False):
        kept.append(ffi.from_buffer("uint8_t[]", value))
        item.type, item.length, item.value = type_, len(value), kept[-1]
    status = lib.fk_cv_command(code, array, len(parameters), scratch.out, BLOCK_BYTES, scratch.length)
    return _written(scratch, status, f"command {code:#06x}")


def block(command: bytes, *, mode: int = Mode.NORMAL, token: int = TOKEN) -> bytes:
    """Put a command into its block, a multiple of 512 bytes. Raises ValueError if it is too long or empty."""
    scratch = _scratch
    status = lib.fk_cv_block(command, len(command), token, mode, scratch.out, BLOCK_BYTES, scratch.length)
    return _written(scratch, status, f"a command of {len(command)} bytes")


def transaction(code: int, number: int, client_id: bytes, data: bytes, type_: bytes) -> bytes:
    """The whole block of a transaction command; a start has no ``number``. Raises ValueError if it is too long."""
    scratch = _scratch
    status = lib.fk_cv_transaction(
        code,
        number,
        client_id,
        len(client_id),
        data,
        len(data),
        type_,
        len(type_),
        scratch.out,
        BLOCK_BYTES,
        scratch.length,
    )
    return _written(scratch, status, f"process data of {len(data)} bytes")


def read_answer(block: bytes | bytearray | memoryview, token: int = TOKEN) -> Answer:
    """Read a block of the device; ``token`` is the one that was sent."""
    scratch = _scratch
    if type(block) is not bytes:
        block = bytes(block)
    found = scratch.answer
    _read(lib.fk_cv_answer_read(block, len(block), token, found))
    data = block[_DATA_AT : _DATA_AT + found.length] if found.length else b""
    return Answer(State(found.state), found.token, found.code, data)


def read_head(data: bytes) -> Head:
    """Read the beginning of an answer from the data of its first block."""
    head = _scratch.head
    _read(lib.fk_cv_head_read(data, len(data), head))
    present = data[head.offset : head.offset + head.present]
    return Head(Kind(head.kind), head.error, present, head.total, bool(head.more))


def read_fragment(data: bytes, missing: int, *, stream: bool) -> Fragment:
    """Read a further fragment while ``missing`` bytes are missing."""
    words = _scratch.words
    status = lib.fk_cv_fragment(data, len(data), missing, stream, words, words + 1, words + 2)
    _read(status)
    return Fragment(data[: words[0]], bool(words[1]), words[2])


def read_values(data: bytes) -> list[Value]:
    """Read all parameters of an answer."""
    scratch = _scratch
    values = scratch.values
    _read(lib.fk_cv_values(data, len(data), values, _MAX_VALUES, scratch.length))
    return [
        Value(values[i].type, data[values[i].offset : values[i].offset + values[i].length], values[i].cut)
        for i in range(scratch.length[0])
    ]


def read_signature(data: bytes, *, has_number: bool) -> Signature:
    """Read the parameters of the answer to a transaction command."""
    found = _scratch.signed
    _read(lib.fk_cv_signed_read(data, len(data), has_number, found))
    return Signature(
        found.number,
        found.counter,
        found.time,
        data[found.signature : found.signature + found.signature_length],
        data[found.serial : found.serial + found.serial_length],
    )


def read_serial(data: bytes) -> bytes:
    """The serial number, 32 bytes, of the key that signs transactions."""
    words = _scratch.words
    _read(lib.fk_cv_serial(data, len(data), words))
    return data[words[0] : words[0] + lib.FK_CV_SERIAL_BYTES]


def read_mappings(data: bytes) -> tuple[list[Mapping], bool]:
    """Read the mappings of clients to keys; False if their lengths were wrong and they may be incomplete."""
    scratch = _scratch
    capacity = min(_MAX_MAPPINGS, len(data) // 5 + 1)
    found = ffi.new("fk_cv_mapping[]", capacity)
    _read(lib.fk_cv_mappings(data, len(data), found, capacity, scratch.length, scratch.strict))
    mappings = [
        Mapping(
            data[item.client : item.client + item.client_length].decode("ascii"),
            data[item.serial : item.serial + lib.FK_CV_SERIAL_BYTES] if item.serial else None,
        )
        for item in found[0 : scratch.length[0]]
    ]
    return mappings, bool(scratch.strict[0])


def remedy_of(code: int) -> Remedy:
    """What a result code asks for."""
    return Remedy(lib.fk_cv_remedy_of(code))
