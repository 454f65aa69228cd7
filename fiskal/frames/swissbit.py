"""The blocks of a Swissbit TSE 1.x. What each function does is written in csrc/frames/swissbit.h.

Commands are built as whole blocks of 512 bytes, ready to be written. Readers raise :class:`FrameError` for bytes that
are no such block.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from fiskal._core import ffi, lib
from fiskal.errors import CoreError

BLOCK: Final[int] = lib.FK_SB_BLOCK
MAX_CLIENT_ID_BYTES: Final[int] = lib.FK_SB_MAX_CLIENT
MAX_CLIENTS: Final[int] = lib.FK_SB_MAX_CLIENTS
"""Most client ids of one response."""
MAX_NUMBERS: Final[int] = lib.FK_SB_MAX_NUMBERS
"""Most transaction numbers of one response."""


class FrameError(CoreError):
    """Bytes that are no block of a Swissbit TSE, or arguments that do not fit into one."""

    code = "FRAME"

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status)
        self.args = (text,)


class Command(enum.IntEnum):
    """The commands that are known (tse-swissbit §5). Those of :data:`INFERRED` have never been seen on a device."""

    LOGIN = 0x20
    LOGOUT = 0x21
    UNBLOCK = 0x22
    CHANGE_PUK = 0x23
    CHANGE_PIN = 0x24
    SELF_TEST = 0x40
    REGISTER = 0x41
    DEREGISTER = 0x42
    LIST_CLIENTS = 0x43
    ENABLE_CTSS = 0x60
    DISABLE_CTSS = 0x61
    INITIALIZE = 0x70
    UPDATE_TIME = 0x80
    FETCH = 0x83
    LIST_TRANSACTIONS = 0x85
    CERTIFICATE = 0x86
    OPEN = 0x90
    OPEN_VARIANT = 0x91
    CLOSE = 0x95


INFERRED: Final = frozenset({Command.LOGOUT, Command.UNBLOCK})
_SECRET: Final = {Command.LOGIN: 1, Command.UNBLOCK: 1, Command.CHANGE_PUK: 0, Command.CHANGE_PIN: 1}
"""Commands with secrets, and how many bytes of their payload are none."""


class User(enum.IntEnum):
    NOBODY = 0
    ADMIN = 1
    TIME_ADMIN = 2


class Event(enum.IntEnum):
    START = 0
    UPDATE = 1
    FINISH = 2


class Kind(enum.IntEnum):
    """What a block in the mailbox is."""

    NOT_YET = lib.FK_SB_NOT_YET
    FETCH = lib.FK_SB_FETCH
    COMPLETE = lib.FK_SB_COMPLETE


class Response(NamedTuple):
    """A response block. ``word`` (0 is success) and ``data`` are those of a complete one."""

    counter: int
    kind: int
    channel: int
    word: int
    data: bytes


class Closed(NamedTuple):
    """What closing a transaction answers. ``log_time`` is in Unix seconds."""

    number: int
    serial: bytes
    log_time: int
    counter: int
    signature: bytes


class Info(NamedTuple):
    """The info block as it stands; what is implausible is for the reader to find out (tse-swissbit §7)."""

    has_magic: bool
    time_valid: bool
    self_test_passed: bool
    ctss_active: bool
    state: int
    importing: bool
    changed_puk: bool
    changed_admin_pin: bool
    changed_time_admin_pin: bool
    software: tuple[int, int, int]
    hardware: int
    capacity_blocks: int
    size_blocks: int
    self_test_in_s: int
    time_sync_in_s: int
    started: int
    max_started: int
    signatures: int
    max_signatures: int
    clients: int
    max_clients: int
    certificate_end: int
    tar_bytes: int
    key_length: int
    key: bytes
    serial: bytes
    description: bytes


_TEXTS: Final = {
    lib.FK_E_SPACE: "it does not fit into a block of 512 bytes",
    lib.FK_E_ARGUMENT: "an argument is outside its range",
    lib.FK_SB_E_LENGTH: "a length does not fit the bytes there are",
    lib.FK_SB_E_COUNT: "it claims more entries than fit into one response",
    lib.FK_SB_E_TEXT: "an entry is no text",
}


def _check(status: int, what: str) -> None:
    if status:
        raise FrameError(status, f"{what}: {_TEXTS.get(status, status)}.")


# ---- commands -----------------------------------------------------------------------------------


def command(code: int, payload: bytes = b"") -> bytes:
    """A command with a payload as it stands."""
    out = ffi.new("uint8_t[512]")
    _check(lib.fk_sb_command(code, payload, len(payload), out), "a command")
    return ffi.buffer(out)[:]


FETCH: Final = command(Command.FETCH)
CLOSE: Final = command(Command.CLOSE)


def texts_command(
    code: int, user: int | None, first: bytes | None = None, second: bytes | None = None
) -> bytes:
    """A command of a user and up to two texts with their lengths in front."""
    out = ffi.new("uint8_t[512]")
    status = lib.fk_sb_texts_command(
        code,
        -1 if user is None else user,
        ffi.NULL if first is None else first,
        0 if first is None else len(first),
        ffi.NULL if second is None else second,
        0 if second is None else len(second),
        out,
    )
    _check(status, "a command")
    return ffi.buffer(out)[:]


def skip_command(code: int, skip: int, client: bytes | None = None) -> bytes:
    """A command for a page of a list, or for the certificate from an offset on."""
    out = ffi.new("uint8_t[512]")
    status = lib.fk_sb_skip_command(
        code, skip, ffi.NULL if client is None else client, 0 if client is None else len(client), out
    )
    _check(status, "a command")
    return ffi.buffer(out)[:]


def time_command(unix_s: int) -> bytes:
    out = ffi.new("uint8_t[512]")
    _check(lib.fk_sb_number_command(Command.UPDATE_TIME, unix_s, out), "a command")
    return ffi.buffer(out)[:]


def open_command(
    event: int,
    client: bytes,
    number: int,
    data_length: int,
    process_type: bytes,
    code: int = Command.OPEN,
) -> bytes:
    """The command that opens a transaction; ``number`` is 0 for a start."""
    out = ffi.new("uint8_t[512]")
    status = lib.fk_sb_open_command(
        code, event, client, len(client), number, data_length, process_type, len(process_type), out
    )
    _check(status, "the client id and process type of a transaction")
    return ffi.buffer(out)[:]


def code_of(frame: bytes) -> int:
    """The code of a command block. Raises FrameError."""
    out = ffi.new("fk_sb_request *")
    _check(lib.fk_sb_read_command(frame, len(frame), out), "a command")
    return int(out.code)


def secrets_of(frame: bytes) -> tuple[slice, ...]:
    """Where a command holds PINs and PUKs; the rest of the block behind them is blanked too."""
    out = ffi.new("fk_sb_request *")
    if lib.fk_sb_read_command(frame, len(frame), out):
        return (slice(0, len(frame)),)
    plain = _SECRET.get(out.code)
    return () if plain is None else (slice(out.payload + plain, len(frame)),)


# ---- responses ----------------------------------------------------------------------------------


def read_kind(block: bytes) -> tuple[int, int]:
    """Kind and counter of a response block: all that polling looks at. Raises FrameError."""
    out = ffi.new("fk_sb_response *")
    _check(lib.fk_sb_read_response(block, len(block), out), "the response")
    return out.kind, out.counter


def read_response(block: bytes) -> Response:
    """Read a response block. Raises FrameError for one that claims to be complete and cannot be."""
    out = ffi.new("fk_sb_response *")
    _check(lib.fk_sb_read_response(block, len(block), out), "the response")
    return Response(out.counter, out.kind, out.channel, out.word, block[out.data : out.data + out.length])


def read_closed(data: bytes) -> Closed:
    out = ffi.new("fk_sb_closed *")
    _check(lib.fk_sb_read_closed(data, len(data), out), "the answer to closing a transaction")
    end = out.signature + out.signature_length
    return Closed(out.number, ffi.buffer(out.serial)[:], out.log_time, out.counter, data[out.signature : end])


def read_offset(data: bytes) -> int:
    out = ffi.new("uint64_t *")
    _check(lib.fk_sb_read_offset(data, len(data), out), "the answer to opening a transaction")
    return int(out[0])


def read_numbers(data: bytes) -> list[int]:
    """The transaction numbers of one page."""
    out, count = ffi.new("uint64_t[62]"), ffi.new("size_t *")
    _check(lib.fk_sb_read_numbers(data, len(data), out, count), "the list of transactions")
    return [int(out[i]) for i in range(count[0])]


def read_clients(data: bytes) -> list[bytes]:
    """The client ids of one page."""
    out, count = ffi.new("fk_span[16]"), ffi.new("size_t *")
    _check(lib.fk_sb_read_clients(data, len(data), out, count), "the list of clients")
    return [data[out[i].offset : out[i].offset + out[i].length] for i in range(count[0])]


def read_certificate(data: bytes) -> bytes:
    """A piece of the certificate, empty at its end."""
    out = ffi.new("fk_span *")
    _check(lib.fk_sb_read_certificate(data, len(data), out), "a piece of the certificate")
    return data[out.offset : out.offset + out.length]


# ---- the info block -----------------------------------------------------------------------------


def read_info(block: bytes) -> Info:
    out = ffi.new("fk_sb_info *")
    _check(lib.fk_sb_read_info(block, len(block), out), "the info block")
    has_key = out.key_length <= lib.FK_SB_INFO_KEY
    return Info(
        has_magic=bool(out.has_magic),
        time_valid=bool(out.flags & 1),
        self_test_passed=bool(out.flags & 2),
        ctss_active=bool(out.flags & 4),
        state=out.state,
        importing=bool(out.importing),
        changed_puk=bool(out.changed & 1),
        changed_admin_pin=bool(out.changed & 2),
        changed_time_admin_pin=bool(out.changed & 4),
        software=(out.software_major, out.software_minor, out.software_patch),
        hardware=out.hardware,
        capacity_blocks=out.capacity_blocks,
        size_blocks=out.size_blocks,
        self_test_in_s=out.self_test_in_s,
        time_sync_in_s=out.time_sync_in_s,
        started=out.started,
        max_started=out.max_started,
        signatures=out.signatures,
        max_signatures=out.max_signatures,
        clients=out.clients,
        max_clients=out.max_clients,
        certificate_end=out.certificate_end,
        tar_bytes=out.tar_bytes,
        key_length=out.key_length,
        key=ffi.buffer(out.key)[: out.key_length] if has_key else b"",
        serial=ffi.buffer(out.serial)[:],
        description=ffi.buffer(out.description)[: out.description_length],
    )


def read_sector_table(block: bytes) -> tuple[int, int, int]:
    """Where info, comm and store begin on a device without a file system; zeros for something else."""
    out = ffi.new("uint32_t[3]")
    _check(lib.fk_sb_read_sector_table(block, len(block), out), "the sector table")
    return int(out[0]), int(out[1]), int(out[2])
