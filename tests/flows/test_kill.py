"""``fiskal serve`` is killed again and again while registers sell: nothing answered is lost, nothing is signed
twice, and no number is missing. This is the kill campaign, small; and the proof that it would notice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fiskal
from fiskal.germany.codes import ReceiptCase
from tests.campaigns.kill import IMPLICIT, Answered, Kill, Site, run, schedule

KILLS = 12


def test_a_server_killed_again_and_again(tmp_path: Path) -> None:
    result = run(tmp_path / "shop", 1, schedule(1, KILLS))
    assert result.lost == []
    assert result.doubled == []
    assert result.problems == []
    assert result.answered > KILLS
    assert result.fetched + result.sent_again > 0


def test_a_seed_repeats_the_schedule() -> None:
    kills = schedule(7, 100)
    assert kills == schedule(7, 100)
    assert kills[:50] == schedule(7, 50)
    assert kills != schedule(8, 100)
    assert any(kill.answers is None for kill in kills)
    assert any(kill.answers == 0 for kill in kills)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site where one register has sold once; the last closings are still to come."""
    made = Site(tmp_path / "shop", 1)
    sell(made, "S-1")
    return made


def sell(site: Site, reference: str, *, times: int = 1) -> None:
    """One register sells once, and the host signs that so many times."""
    register = site.registers[0]
    sale = register.make(IMPLICIT | ReceiptCase.POS_RECEIPT, reference, sold=True)
    with fiskal.open(site.folder) as middleware:
        for _ in range(times):
            text = middleware.sign_json(sale.body).decode()
    register.answered.append(Answered(sale, text))


def test_a_good_site_passes(site: Site) -> None:
    site.end()
    assert site.check().ok


def test_a_receipt_signed_twice_is_found_in_the_journal_and_on_the_tse(site: Site) -> None:
    register = site.registers[0]
    register._count = 1
    sell(site, "S-2", times=2)
    site.end()
    result = site.check()
    assert sum("in the journal" in text for text in result.doubled) == 1
    assert sum("was signed more than once" in text for text in result.doubled) == 1
    assert sum("nobody was told of" in text for text in result.doubled) == 1
    assert not result.lost


def test_an_answer_that_no_journal_has_is_found(site: Site) -> None:
    register = site.registers[0]
    register._count = 1
    sale = register.make(IMPLICIT | ReceiptCase.POS_RECEIPT, "S-2", sold=True)
    answer = json.loads(register.answered[-1].text)
    answer["ftReceiptIdentification"] = "ft2#IT99"
    register.answered.append(Answered(sale, json.dumps(answer)))
    site.end()
    result = site.check()
    assert sum("ft2#IT99" in text for text in result.lost) == 1
    assert sum("is not in the log" in text for text in result.lost) == 1


def test_a_host_that_never_comes_up_loses_nothing(tmp_path: Path) -> None:
    result = run(tmp_path / "shop", 3, [Kill(None, 0.05), Kill(None, 0.4)])
    assert result.ok
