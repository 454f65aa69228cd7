"""Several exports as one archive, against an obvious model that keeps everything in memory."""

from __future__ import annotations

import io
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.tse.tar import MAX_MEMBER_BYTES, TarError, TarWriter, merge_archives, read_members
from fiskal.tse.tarverify import verify_tar
from tests.tse.test_tar import INFO, NOW, Tse, certificates, named, tse

Members = list[tuple[str, bytes]]


@cache
def other() -> Tse:
    return Tse()


@cache
def log(which: int) -> Members:
    """Twelve messages of one of two TSEs."""
    made = (tse(), other())[which]
    return named([made.sys(counter) for counter in range(1, 13)])


def archive(members: Members, mtime: int = NOW) -> bytes:
    out = io.BytesIO()
    tar = TarWriter(out, mtime)
    for name, data in members:
        tar.add(name, data)
    tar.close()
    return out.getvalue()


def export(which: int, first: int, last: int) -> Members:
    """What a TSE exports that was erased up to ``first``."""
    return [("info.csv", INFO), *certificates((tse(), other())[which].chain), *log(which)[first:last]]


def merged(*archives: bytes) -> bytes:
    return b"".join(merge_archives(map(io.BytesIO, archives)))


def members(content: bytes) -> Members:
    return [(member.name, member.data or b"") for member in read_members(io.BytesIO(content))]


@st.composite
def exports(draw: st.DrawFn) -> list[Members]:
    """Exports of whole logs of two TSEs that erase now and then, in any order."""
    made = []
    erased, signed = [0, 0], [0, 0]
    for which in draw(st.lists(st.integers(0, 1), max_size=8)):
        signed[which] = draw(st.integers(signed[which], 12))
        made.append(export(which, erased[which], signed[which]))
        if draw(st.booleans()):
            erased[which] = signed[which]
    return draw(st.permutations(made))


@settings(max_examples=60, deadline=None)
@given(exports())
def test_the_union_of_the_archives_each_member_once_where_it_came_first(made: list[Members]) -> None:
    content = merged(*(archive(each) for each in made))
    model: dict[tuple[str, bytes], None] = {}
    for each in made:
        model.update(dict.fromkeys(each))
    assert members(content) == list(model)
    assert content.endswith(bytes(1024))


def test_the_whole_log_from_its_pieces_verifies() -> None:
    content = merged(*(archive(export(0, first, first + 4)) for first in (0, 4, 8)))
    report = verify_tar(io.BytesIO(content))
    assert report.ok
    assert report.valid == 12


def test_every_member_keeps_its_time() -> None:
    content = merged(archive(export(0, 0, 4), NOW), archive(export(0, 4, 8), NOW + 86_400))
    times = [member.mtime for member in read_members(io.BytesIO(content))]
    assert times == [NOW] * (len(times) - 4) + [NOW + 86_400] * 4


def test_a_message_that_cannot_be_read_is_kept_for_those_who_check() -> None:
    strange = ("Unixt_1_Sig-1_Log-Sys_x.log", b"no message")
    assert members(merged(archive([strange]), archive([strange]))) == [strange, strange]


def test_files_with_one_name_and_other_content_are_both_kept() -> None:
    files = [("info.csv", b"one"), ("info.csv", b"two")]
    assert members(merged(*(archive([each]) for each in files))) == files


def test_an_archive_that_is_cut_off_is_an_error() -> None:
    content = archive(export(0, 0, 4))
    with pytest.raises(TarError, match=r"cut off|within"):
        merged(content, content[:-1500])


def test_a_member_that_is_too_large_is_an_error_and_not_left_out() -> None:
    with pytest.raises(TarError, match="cannot be merged"):
        merged(archive([("big", bytes(MAX_MEMBER_BYTES + 1))]))


@pytest.mark.parametrize("time", [b"\xff" * 12, b"99999999999\0", b"x" * 12])
def test_a_strange_time_is_no_reason_to_stop_reading(time: bytes) -> None:
    head = bytearray(archive([("a", b"1")]))
    head[136:148] = time
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 0x20 + sum(head[156:512]))
    assert [member.mtime for member in read_members(io.BytesIO(bytes(head)))] == [0]
