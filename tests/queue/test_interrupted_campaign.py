"""The campaign of interrupted receipts, small; and the proof that it would notice."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from fiskal.queue.interruptions import Interruptions, read_unsettled
from fiskal.queue.replay import RecoveryPass
from tests.campaigns.interrupted import draw, main, run

CASES = 80
BROKEN_CASES = 100
"""A fault is found by the first of these that show it."""


def test_receipts_that_die_are_signed_once_and_leave_nothing_open() -> None:
    results = {seed: run(seed) for seed in range(1, CASES + 1)}
    assert {seed: result.violation for seed, result in results.items() if result.violation} == {}
    assert sum(result.died for result in results.values()) > CASES / 2


def test_a_seed_draws_its_case_again() -> None:
    cases = [draw(seed) for seed in range(1, CASES + 1)]
    assert cases == [draw(seed) for seed in range(1, CASES + 1)]
    assert len(set(map(repr, cases))) == CASES


def answering(answer: Any) -> Any:
    """A method that gives this answer, whatever is asked."""

    async def method(*args: Any) -> Any:
        return answer

    return method


def nothing_is_known_to_be_its_own(patch: pytest.MonkeyPatch) -> None:
    """What an interrupted receipt began itself is not looked for."""
    patch.setattr(RecoveryPass, "own", answering(None))


def undecided_receipts_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("fiskal.queue.interruptions.read_unsettled", lambda data_json: read_unsettled(None))
    patch.setattr(Interruptions, "decide_again", answering(None))


def orphans_are_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecoveryPass, "close_orphan", answering("left"))


def a_tse_that_was_left_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Interruptions, "signed_elsewhere", lambda self, item, request: None)


@pytest.mark.parametrize(
    ("mutate", "found"),
    [
        (nothing_is_known_to_be_its_own, r"signed \d times|left open"),
        (undecided_receipts_are_forgotten, r"signed \d times"),
        (orphans_are_left, "left open"),
        (a_tse_that_was_left_is_not_asked, r"signed \d times"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_fault_is_found(
    mutate: Callable[[pytest.MonkeyPatch], None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    for seed in range(1, BROKEN_CASES + 1):
        violation = run(seed).violation
        if violation is not None:
            break
    assert violation is not None
    assert re.search(found, violation), violation
    done = CliRunner().invoke(main, ["--seed", str(seed), "--cases", "1"])
    assert done.exit_code == 1
    assert f"{violation}; Case(" in done.output
    assert f"again: python -m tests.campaigns.interrupted --seed {seed} --cases 1\n" in done.output


def test_the_command_counts_what_it_did() -> None:
    done = CliRunner().invoke(main, ["--seed", "1", "--cases", "3"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^3 cases from 1, \d died, 0 violations, \d+ s$", done.output, re.MULTILINE)
