"""The published tables are those that the program computes."""

from __future__ import annotations

from pathlib import Path

from bench import sizing_table
from fiskal.sizing.profiles import PROFILES

PAGE = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text()


def test_the_documented_tables_are_what_is_computed() -> None:
    assert "\n".join(sizing_table.lines()) in PAGE
    assert "\n".join(sizing_table.queue_lines()) in PAGE


def test_every_family_is_in_the_table() -> None:
    assert all(PAGE.count(profile.title) == 2 for profile in PROFILES.values())
