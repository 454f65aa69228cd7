"""The campaign of cloud TSEs in short; ``python -m tests.campaigns.cloud`` is the long one."""

from __future__ import annotations

import pytest

from tests.campaigns.cloud import ROUND, run
from tests.support.cloud import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_of_receipts_with_faults(family: str) -> None:
    counts, violations = run(ROUND, 7, families=(family,))
    assert violations == []
    assert counts["receipts"] == ROUND
    assert any(name.startswith("fault: ") for name in counts)
