"""TAR archives of a TSE's log (TR-03153-1 §5.2): writing and reading them as a stream.

The writer produces what real TSEs do: ustar headers, a pax header for names that are too long for one, two
blocks of zeros at the end and nothing behind them. The reader takes whatever ``tar`` programs write, keeps one
piece of the archive in memory at a time, and never touches the file system: names are only names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from fiskal._core import lib
from fiskal.errors import FiskalError
from fiskal.tse._native import Entry, Scan, scan_archive, scanned_entries
from fiskal.tse.algorithms import point_of, serial_of_point
from fiskal.tse.logmessage import LogMessageError, parse

if TYPE_CHECKING:
    from cryptography import x509

    from fiskal.tse.certificates import Chain

BLOCK: Final = 512
MAX_MEMBER_BYTES: Final = 1 << 20
"""Log messages, certificates and info.csv are smaller; a larger member is not read into memory."""
SEGMENT_BYTES: Final = 256 << 10
"""How much of an archive is read and checked at a time."""
_MAX_BUFFER: Final = MAX_MEMBER_BYTES + (256 << 10)
"""One member, and the pax or GNU headers in front of it."""


class TarError(FiskalError):
    """Bytes that are no TAR archive, or the broken rest of one."""

    code = "TAR"


class Sink(Protocol):
    """Where an archive is written to."""

    def write(self, data: bytes, /) -> object: ...


class Source(Protocol):
    """Where an archive is read from; ``read`` may return less than asked for, and nothing only at the end."""

    def read(self, size: int, /) -> bytes: ...


# ---- writing ----------------------------------------------------------------------------------

_SIZE_AND_TIME: Final = b"%011o\0%011o\0"
_OWNER: Final = b"0000644\0" + b"0000000\0" * 2
_MAGIC: Final = b"ustar\x0000"
_REST: Final = bytes(BLOCK - 265)


def header(name: bytes, size: int, mtime: int, typeflag: bytes = b"0") -> bytes:
    """Return one ustar header. ``name`` has at most 100 bytes, ``mtime`` is a Unix time."""
    if len(name) > 100 or not 0 <= size < 8**11 or not 0 <= mtime < 8**11:
        raise ValueError("the name, size or time of a member does not fit into a TAR header")
    before = name.ljust(100, b"\0") + _OWNER + _SIZE_AND_TIME % (size, mtime)
    behind = typeflag + bytes(100) + _MAGIC + _REST
    checksum = sum(before) + 8 * 0x20 + sum(behind)
    return b"%b%06o\0 %b" % (before, checksum, behind)


def _pax_path(name: bytes) -> bytes:
    """The pax record ``<length> path=<name>``, whose length counts itself."""
    length = len(name) + 7
    while True:
        record = b"%d path=%b\n" % (length, name)
        if len(record) == length:
            return record
        length = len(record)


class TarWriter:
    """Writes one archive member by member; keeps nothing of what it wrote."""

    def __init__(self, out: Sink, mtime: int) -> None:
        """``mtime`` is the Unix time of every member: when the archive is made, 0 if unknown."""
        self._out = out
        self._mtime = max(mtime, 0)

    def add(self, name: str, data: bytes, mtime: int | None = None) -> None:
        """Write a member, with a time of its own if ``mtime`` is given."""
        mtime = self._mtime if mtime is None else mtime
        encoded = name.encode()
        head = b""
        if len(encoded) > 100:
            path = _pax_path(encoded)
            head = header(b"PaxHeader", len(path), mtime, b"x") + _padded(path)
        head += header(encoded[:100], len(data), mtime)
        self._out.write(head + _padded(data))

    def close(self) -> None:
        """Write the end of the archive. The sink stays open."""
        self._out.write(bytes(2 * BLOCK))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def info_csv(description: str, manufacturer: str, version: str) -> bytes:
    """Return the content of info.csv as log messages of version 2 go with it."""
    fields = ("description:", description, "manufacturer:", manufacturer, "version:", version)
    return (",".join('"' + text.replace('"', '""') + '"' for text in fields) + "\n").encode()


def certificate_name(certificate: x509.Certificate) -> str:
    """Return the name of a certificate in an archive: SHA-256 of the point of its own key."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("the key of a TSE's certificate lies on an elliptic curve")
    return f"{serial_of_point(point_of(key)).hex()}_X509.der"


def write_archive(
    out: Sink, *, info: bytes, chain: Chain, messages: Iterable[tuple[str, bytes]], mtime: int
) -> None:
    """Write a whole archive: info.csv, the certificates from the TSE's to the root, the log messages.

    ``messages`` are file name (:func:`fiskal.tse.logmessage.build_file_name`) and DER in the order of their
    counters; they are taken one by one.
    """
    tar = TarWriter(out, mtime)
    tar.add("info.csv", info)
    for certificate, der in zip(chain.certificates, chain.der, strict=True):
        tar.add(certificate_name(certificate), der)
    for name, message in messages:
        tar.add(name, message)
    tar.close()


# ---- reading ----------------------------------------------------------------------------------


class Member(NamedTuple):
    """One file of an archive. ``data`` is None if it is larger than :data:`MAX_MEMBER_BYTES`.

    ``mtime`` is a Unix time, 0 if the header names none that could be written again; ``type`` is the type flag
    as a character, ``"0"`` for a file; only files have data.
    """

    name: str
    size: int
    data: bytes | None
    mtime: int = 0
    type: str = "0"


class Segment(NamedTuple):
    """Some whole members of an archive, as they lie in it.

    ``others`` are the members that are no log messages: info.csv, certificates, folders, links, and what is
    too large to be read. ``logs`` is the number of the others' siblings. ``remark`` says what is unusual about
    this place of the archive, for people.
    """

    data: bytes
    logs: int
    others: tuple[Member, ...]
    remark: str = ""


_TAR_ERRORS: Final = {
    lib.FK_E_TAR_CHECKSUM: "The checksum of a TAR header is wrong.",
    lib.FK_E_TAR_NUMBER: "A number in a TAR header is none.",
    lib.FK_E_TAR_HEADER: "A pax or GNU header cannot be read, or it is too long.",
}
_LATER: Final = "another archive follows the end of this one"
_BEHIND: Final = "bytes that are no archive follow the end"


def _member(data: bytes, entry: Entry) -> Member:
    name = data[entry.name : entry.name + entry.name_length].decode("utf-8", "replace")
    if entry.prefix_length:
        prefix = data[entry.prefix : entry.prefix + entry.prefix_length].decode("utf-8", "replace")
        name = f"{prefix}/{name}"
    whole = entry.is_whole and entry.type == 0x30
    content = data[entry.data : entry.data + entry.size] if whole else None
    return Member(name.removeprefix("./"), entry.size, content, entry.mtime, chr(entry.type))


def members_of(segment: bytes) -> Iterator[Member]:
    """The members of a segment that :func:`read_segments` gave: log messages and others, in their order."""
    at = 0
    while at < len(segment):
        rest = segment[at:] if at else segment
        scan = scan_archive(rest, MAX_MEMBER_BYTES)
        if scan.status or not scan.found:
            return
        for entry in list(scanned_entries(scan.found)):
            yield _member(rest, entry)
        at += scan.consumed


class _Stream:
    """The unread part of an archive: ``data`` is what was read ahead."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.data = b""
        self.ended = False

    def fill(self, size: int) -> None:
        """Have ``size`` bytes, or all that are left."""
        parts = [self.data]
        missing = size - len(self.data)
        while missing > 0 and not self.ended:
            piece = self.source.read(missing)
            self.ended = not piece
            parts.append(piece)
            missing -= len(piece)
        if len(parts) > 1:
            self.data = b"".join(parts)

    def skip(self, size: int) -> None:
        at = min(size, len(self.data))
        self.data = self.data[at:]
        size -= at
        while size:
            piece = self.source.read(min(size, MAX_MEMBER_BYTES))
            if not piece:
                raise TarError("The archive ends within a file.")
            size -= len(piece)

    def skip_zeros(self) -> bool:
        """Go on to the next block that is not zero; False if there is none."""
        while True:
            self.fill(SEGMENT_BYTES)
            if not self.data:
                return False
            blocks = len(self.data) - len(self.data.lstrip(b"\0"))
            if blocks < len(self.data):
                self.data = self.data[blocks - blocks % BLOCK :]
                return True
            self.data = b""


def _segment(data: bytes, scan: Scan, remark: str) -> Segment:
    others: tuple[Member, ...] = ()
    if scan.others:
        others = tuple(
            _member(data, entry) for entry in list(scanned_entries(scan.found)) if not entry.is_log
        )
    return Segment(data[: scan.consumed], scan.found - scan.others, others, remark)


def read_segments(source: Source) -> Iterator[Segment]:
    """Read an archive from a stream in segments of some :data:`SEGMENT_BYTES`, in constant memory.

    Takes ustar, pax and GNU headers; what lies behind the end of the archive is read too if it is an archive,
    because somebody put it there. Raises :class:`TarError` where it goes on no more, so what was read up to
    there may have been cut short.
    """
    stream = _Stream(source)
    begun = False
    behind_end = False
    wanted = SEGMENT_BYTES
    while True:
        stream.fill(wanted)
        scan = scan_archive(stream.data, MAX_MEMBER_BYTES)
        if scan.found:
            yield _segment(stream.data, scan, _LATER if behind_end else "")
            begun = True
            behind_end = False
            wanted = SEGMENT_BYTES
            stream.data = stream.data[scan.consumed :]
            stream.skip(scan.skip)
        elif scan.status:
            if behind_end:
                yield Segment(b"", 0, (), _BEHIND)
                return
            raise TarError(_TAR_ERRORS[scan.status] if begun else "This is no TAR archive.")
        elif scan.at_end:
            if not stream.skip_zeros():
                return
            begun = behind_end = True
        elif stream.ended:
            break
        elif wanted == _MAX_BUFFER:
            raise TarError(_TAR_ERRORS[lib.FK_E_TAR_HEADER])
        else:
            wanted = min(2 * wanted, _MAX_BUFFER)
    if behind_end:
        yield Segment(b"", 0, (), _BEHIND)
        return
    if not stream.data.strip(b"\0"):
        raise TarError("The archive has no end: it has been cut off." if begun else "The archive is empty.")
    if len(stream.data) < BLOCK:
        raise TarError("The archive ends within a header.")
    whole = stream.data + bytes(-len(stream.data) % BLOCK)  # only the padding may be missing
    scan = scan_archive(whole, MAX_MEMBER_BYTES)
    if scan.found:
        yield _segment(whole, scan, "")
    raise TarError("The archive ends within a file.")


def read_members(source: Source) -> Iterator[Member]:
    """Read the files of an archive from a stream, one at a time, in their order.

    Folders and links are left out, and so is a leading ``./`` of a name. Raises :class:`TarError` as
    :func:`read_segments` does.
    """
    for segment in read_segments(source):
        for member in members_of(segment.data):
            if member.type == "0":
                yield member


# ---- merging ----------------------------------------------------------------------------------


class _Blocks:
    """A sink that gives away what was written."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._written.append(data)

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data


def merge_archives(archives: Iterable[Source]) -> Iterator[bytes]:
    """Make one archive of several exports of whole logs, as a stream of its bytes.

    What is exported twice is there once: a log message whose signatureCounter lies within what an earlier
    archive holds of the same TSE, and other files with the same name and content. Memory is constant; of each
    archive and TSE only the first and the last counter are kept. Raises :class:`TarError` for an archive that
    cannot be read to its end, and for a member larger than :data:`MAX_MEMBER_BYTES`.
    """
    out = _Blocks()
    tar = TarWriter(out, 0)
    seen: dict[bytes, list[tuple[int, int]]] = {}
    others: set[tuple[str, bytes]] = set()
    for archive in archives:
        here: dict[bytes, tuple[int, int]] = {}
        for member in read_members(archive):
            if member.data is None:
                raise TarError(f"{member.name} has {member.size} bytes and cannot be merged.")
            if _is_new(member.name, member.data, seen, here, others):
                tar.add(member.name, member.data, member.mtime)
                yield out.take()
        for serial, counters in here.items():
            seen.setdefault(serial, []).append(counters)
    tar.close()
    yield out.take()


def _is_new(
    name: str,
    data: bytes,
    seen: dict[bytes, list[tuple[int, int]]],
    here: dict[bytes, tuple[int, int]],
    others: set[tuple[str, bytes]],
) -> bool:
    """Whether no earlier archive holds a member; keeps account of the counters of this one."""
    if name.lower().endswith(".log"):
        try:
            message = parse(data)
        except LogMessageError:
            return True  # whoever reads the archive decides what it is
        serial, counter = message.serial, message.signature_counter
        first, last = here.get(serial, (counter, counter))
        here[serial] = (min(first, counter), max(last, counter))
        return not any(low <= counter <= high for low, high in seen.get(serial, ()))
    key = (name, hashlib.sha256(data).digest())
    if key in others:
        return False
    others.add(key)
    return True
