"""Short forms of the campaign of hardware TSEs (``python -m tests.campaigns.devices``)."""

from pathlib import Path

import pytest

from fiskal.simulators import fuse
from tests.campaigns.devices import FAMILIES, compare, run_kills, run_pairs
from tests.campaigns.rig import Logged


@pytest.mark.parametrize("name", FAMILIES)
def test_pairs_with_faults(name: str, tmp_path: Path) -> None:
    struck, faults = run_pairs(name, 40, 3, 0.5, tmp_path)
    assert faults == []
    assert len(struck) > 5


@pytest.mark.skipif(fuse.why_not() is not None, reason=fuse.why_not() or "")
def test_a_process_that_is_killed(tmp_path: Path) -> None:
    signatures, faults = run_kills("swissbit", 2, 5, tmp_path)
    assert faults == []
    assert signatures >= 2


def test_the_comparison_sees_what_is_lost_doubled_and_foreign() -> None:
    one, two = Logged("StartTransaction", 1, 5, b"a"), Logged("FinishTransaction", 1, 6, b"b")
    assert compare([one, two], [one, two]) == []
    assert "not in the log" in compare([one, two], [one])[0]
    assert "never answered" in compare([one], [one, two])[0]
    assert "more than once" in compare([one], [one, one._replace(counter=7)])[0]
