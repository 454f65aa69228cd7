"""What .ci/run tests with is what pyproject.toml promises."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
STYLE_ONLY = "dev"
"""The extra whose packages check the sources: their lowest versions are nobody's concern."""


def required(*, dev: bool) -> dict[str, list[Requirement]]:
    """The direct requirements by name: to run, to test and to build fiskal."""
    text = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = text["project"]["optional-dependencies"]
    lines = [*text["project"]["dependencies"], *text["build-system"]["requires"]]
    for name, members in extras.items():
        if dev or name != STYLE_ONLY:
            lines += members
    found: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, lines):
        if requirement.name != "fiskal":
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pinned(name: str) -> dict[str, Requirement]:
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert [each.name for each in requirements] == sorted({each.name for each in requirements})
    return {canonicalize_name(each.name): each for each in requirements}


def version_of(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", pin
    return Version(specifier.version)


def lowest_of(requirements: list[Requirement]) -> Version:
    """The lowest version that all of them allow: the highest of their lower bounds."""
    return max(
        Version(each.version) for one in requirements for each in one.specifier if each.operator == ">="
    )


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    pins = pinned("lowest.txt")
    expected = {name: lowest_of(requirements) for name, requirements in required(dev=False).items()}
    assert {name: version_of(pin) for name, pin in pins.items()} == expected


def test_the_newest_versions_are_allowed_and_complete() -> None:
    pins = pinned("newest.txt")
    requirements = required(dev=True)
    assert set(pins) == set(requirements)
    for name, pin in pins.items():
        for one in requirements[name]:
            assert one.specifier.contains(version_of(pin)), (str(one), str(pin))


@pytest.mark.parametrize("name", ["lowest.txt", "newest.txt"])
def test_a_pin_counts_on_the_same_systems_as_its_requirement(name: str) -> None:
    requirements = required(dev=True)
    for package, pin in pinned(name).items():
        assert {str(one.marker or "") for one in requirements[package]} == {str(pin.marker or "")}, package
