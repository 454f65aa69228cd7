"""Links, examples and numbers of the documentation lead where they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fiskal
from fiskal.germany import codes, signatures, texts

ROOT = Path(fiskal.__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FAILURES = (ROOT / "docs" / "failure-handling.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What GitHub and its like make of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8").replace("\n", " ")):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_codes_for_failures_are_the_codes() -> None:
    states = {
        codes.to_int64(codes.DE | state) for state in codes.State if state != codes.State.MESSAGE_PENDING
    }
    table = FAILURES.partition("## By ftState")[2].partition("## The TSE fails")[0]
    listed = {int(found, 16) for found in re.findall(r"^\| `(0x[0-9A-F]{16})` \|", table, re.MULTILINE)}
    assert listed == states
    implicit = codes.DE | codes.ReceiptFlag.IMPLICIT_FLOW
    for name, case in (
        ("zero receipt", codes.ReceiptCase.ZERO),
        ("start receipt", codes.ReceiptCase.INITIAL_OPERATION),
        ("finish-SCU-switch receipt", codes.ReceiptCase.FINISH_SCU_SWITCH),
    ):
        assert f"{name} (`0x{implicit | case:016X}`)" in FAILURES.replace("*", "")
    for flag in (
        codes.ReceiptFlag.RECEIPT_REQUEST,
        codes.ReceiptFlag.FAILED_RECEIPT,
        codes.ReceiptFlag.HANDWRITTEN,
        codes.ReceiptFlag.TSE_INFO,
        codes.ReceiptFlag.SELF_TEST,
        codes.ReceiptFlag.FORCE_SCU_SWITCH,
    ):
        assert f"`0x{flag:016X}`" in FAILURES


def test_the_texts_for_failures_are_the_texts() -> None:
    notes = [
        signatures.failed(0, 1),
        signatures.recovered(1, 0, 0),
        signatures.late_signing(0),
        signatures.late_signing_closed(1, 0, 0, 0),
        signatures.handwritten(0),
    ]
    for note in notes:
        begin = re.split(r" (?=\d)", note.caption)[0]
        assert begin in FAILURES
    assert f"`{texts.TSE_FAILED}`" in FAILURES
    assert f"`{texts.SYSTEM_FAILED}`" in FAILURES


def test_diagrams_are_fenced_and_of_a_known_kind() -> None:
    blocks = re.findall(r"^```mermaid\n(.*?)^```$", FAILURES, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    arrow = re.compile(r"    (\w+)(?:->>|-->>|-x|--x)(\w+): .+")
    for block in blocks:
        first, *lines = block.splitlines()
        assert first == "sequenceDiagram"
        parts = {found[1] for line in lines if (found := re.match(r"    participant (\w+) as ", line))}
        for line in lines:
            if line.startswith(("    participant ", "    Note over ")):
                continue
            found = arrow.fullmatch(line)
            assert found, line
            assert {found[1], found[2]} <= parts, line
