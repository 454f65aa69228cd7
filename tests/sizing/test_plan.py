"""Plans: what a planner asks, and what cannot be."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.sizing import text
from fiskal.sizing.errors import ImpossibleShop
from fiskal.sizing.plan import capacity_of, formulas, lifetime_of, load_of, plan, run, stalls_of, variant
from fiskal.sizing.profiles import PROFILES, Profile
from fiskal.sizing.scenarios import scenarios
from fiskal.sizing.service import ServiceTime
from fiskal.sizing.shop import PRESETS, Shop, preset
from fiskal.sizing.simulation import Stall, simulate

SWISSBIT = PROFILES["swissbit"]


def supermarket(**changes: Any) -> Shop:
    return Shop(**{"checkouts": 40, **preset("supermarket"), **changes})


def test_a_supermarket_of_forty_checkouts_needs_one_tse_and_a_spare() -> None:
    planned = plan(supermarket(spare=1), SWISSBIT)
    assert (planned.needed, planned.tses) == (1, 2)
    chosen = planned.chosen
    assert chosen is not None
    assert chosen.good
    assert chosen.load.checkouts == 20
    assert chosen.load.offered_utilisation == pytest.approx(20 * 50 / 3600 * 0.5)
    assert chosen.load.difference == pytest.approx(0, abs=0.05)


def test_a_festival_needs_more_tses_in_implicit_flow_than_in_explicit_flow() -> None:
    festival = Shop(checkouts=30, receipts_per_hour=250, items=2, flow="implicit", p95_wait_s=0.5)
    implicit = plan(festival, SWISSBIT)
    explicit = plan(msgspec.structs.replace(festival, flow="explicit"), SWISSBIT)
    assert implicit.needed == 4
    assert explicit.needed == 3  # two would do by their wait, but are busy 52 %
    assert explicit.variants[0].problems == ["utilisation 52% is above 50%"]


def test_overload_shows_how_fast_the_wait_grows_and_no_p95() -> None:
    load = load_of(Shop(checkouts=30, receipts_per_hour=340), SWISSBIT, 30)
    assert load.overloaded
    assert load.offered_utilisation == pytest.approx(30 * 340 / 3600 * 0.5)
    assert load.growth_s_per_min == pytest.approx((load.offered_utilisation - 1) * 60)
    assert load.receipts_per_s == pytest.approx(2.0)
    assert load.p95_wait_s is None
    assert (load.formulas, load.simulation) == (None, None)


def test_a_load_of_exactly_one_is_overload() -> None:
    shop = Shop(checkouts=20, receipts_per_hour=360, flow="implicit")
    assert load_of(shop, SWISSBIT, 20).overloaded


def test_a_shop_with_one_queue_cannot_use_a_second_tse() -> None:
    planned = plan(Shop(checkouts=30, receipts_per_hour=340, checkouts_per_queue=30), SWISSBIT)
    assert planned.needed is None
    assert planned.tses is None
    told = text.plan(planned)
    assert "NO NUMBER OF TSEs" in told
    assert "grows by 25 s every minute" in told
    assert "response p95" not in told


def test_no_number_of_tses_makes_a_tse_faster_than_itself() -> None:
    slow = SWISSBIT.with_signature_s(20.0)
    with pytest.raises(ImpossibleShop, match="terminals per queue"):
        plan(Shop(checkouts=4, receipts_per_hour=100, checkouts_per_queue=5), slow)
    planned = plan(Shop(checkouts=4, receipts_per_hour=100), slow)
    assert planned.needed is None
    assert planned.capacity.checkouts == 0
    assert all(each.load.overloaded for each in planned.variants)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"checkouts": 0}, "checkouts: 0"),
        ({"checkouts": -3}, "checkouts: -3"),
        ({"checkouts": 10**6}, "checkouts"),
        ({"receipts_per_hour": 0}, "receipts per hour: 0"),
        ({"receipts_per_hour": -1}, "receipts per hour: -1"),
        ({"receipts_per_hour": math.nan}, "receipts per hour: nan"),
        ({"receipts_per_hour": math.inf}, "receipts per hour: inf"),
        ({"items": 0}, "items"),
        ({"seconds_per_item": -1}, "seconds per item"),
        ({"orders_per_bill": -1}, "orders per bill"),
        ({"checkouts_per_queue": 0}, "terminals per queue"),
        ({"p95_wait_s": 0}, "p95 wait"),
        ({"max_utilisation": 1.0}, "utilisation"),
        ({"spare": -1}, "spare"),
        ({"peak_hours_per_day": 25}, "peak hours"),
        ({"days_per_year": 0}, "days"),
    ],
)
def test_impossible_shops_are_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ImpossibleShop, match=what) as caught:
        Shop(**{"checkouts": 5, "receipts_per_hour": 50, **changes})
    assert caught.value.hint


def test_a_middleware_that_takes_all_the_time_there_is_makes_the_shop_impossible() -> None:
    profile = msgspec.structs.replace(SWISSBIT, overhead_s=100.0)
    with pytest.raises(ImpossibleShop, match=r"36\.00 s for each receipt"):
        Shop(checkouts=1, receipts_per_hour=100).cycle(profile)


@settings(deadline=None, max_examples=25)
@given(
    checkouts=st.integers(1, 2000),
    rate=st.floats(5, 3600),
    items=st.floats(1, 100),
    flow=st.sampled_from(["implicit", "explicit", "orders"]),
    orders=st.floats(0, 10),
    family=st.sampled_from(sorted(PROFILES)),
)
def test_whatever_is_carried_keeps_both_limits(
    checkouts: int, rate: float, items: float, flow: Any, orders: float, family: str
) -> None:
    shop = Shop(checkouts=checkouts, receipts_per_hour=rate, items=items, flow=flow, orders_per_bill=orders)
    profile = PROFILES[family]
    capacity = capacity_of(shop, profile)
    assert capacity.signatures_per_s == pytest.approx(2 * capacity.receipts_per_s)
    if capacity.checkouts:
        assert shop.offered_utilisation(profile, capacity.checkouts) <= shop.max_utilisation + 1e-6
        assert formulas(shop, profile, capacity.checkouts).wait_quantile(0.95) <= shop.p95_wait_s
    if profile.max_clients is not None:
        assert capacity.checkouts <= profile.max_clients


@given(
    rate=st.floats(1, 500),
    items=st.floats(1, 50),
    flow=st.sampled_from(["implicit", "explicit", "orders"]),
    mean_s=st.floats(0.01, 0.4),
)
def test_a_cycle_takes_as_long_as_the_rate_leaves(
    rate: float, items: float, flow: Any, mean_s: float
) -> None:
    shop = Shop(checkouts=1, receipts_per_hour=rate, items=items, flow=flow, orders_per_bill=1)
    profile = SWISSBIT.with_signature_s(mean_s)
    cycle = shop.cycle(profile)
    own = mean_s if flow == "explicit" else 2 * mean_s
    assert cycle.total_s + own == pytest.approx(1 / shop.transactions_per_s)
    assert min(cycle.gap_s, cycle.scan_s, cycle.pay_s) >= 0
    assert cycle.scan_s <= items * shop.seconds_per_item + 1e-9


def test_an_idle_checkout_serves_at_the_given_rate() -> None:
    shop = Shop(checkouts=1, receipts_per_hour=175, items=2, flow="implicit")
    outcome = run(shop, SWISSBIT, 1)
    assert outcome.receipts_per_s * 3600 == pytest.approx(175, rel=0.02)


def test_orders_are_transactions_too() -> None:
    shop = Shop(checkouts=12, **PRESETS["restaurant"])
    assert shop.signatures_per_receipt == pytest.approx(7)
    assert shop.transactions_per_s == pytest.approx(28 / 3600)  # 20 orders and 8 bills an hour
    assert shop.offered_utilisation(SWISSBIT, 12) == pytest.approx(0.0467, abs=0.0001)


def test_lifetime_counts_what_the_shop_and_the_tse_write() -> None:
    shop = Shop(checkouts=4, receipts_per_hour=100, peak_hours_per_day=10, days_per_year=310)
    bare = msgspec.structs.replace(SWISSBIT, own_signatures_per_day=0)
    life = lifetime_of(shop, bare, 1)  # 4000 receipts a day
    assert life.signatures_per_day == 8000
    assert life.years_of_signatures == pytest.approx(8.06, abs=0.01)
    assert life.years_of_log_memory == pytest.approx(2.75, abs=0.01)
    assert life.log_bytes_per_day == pytest.approx(8.2e6, rel=0.01)
    assert life.ends is not None
    assert life.ends[0] == "log memory"
    assert lifetime_of(shop, bare, 2).signatures_per_day == 4000
    assert lifetime_of(shop, SWISSBIT, 1).signatures_per_day == 8084
    unlimited = lifetime_of(shop, PROFILES["fiskaly"], 1)
    assert unlimited.ends is None


def test_a_self_test_at_peak_hits_whom_the_formula_says() -> None:
    shop = Shop(checkouts=10, receipts_per_hour=53, flow="implicit", p95_wait_s=1.0)
    load = load_of(shop, SWISSBIT, 10)
    (effect,) = (each for each in stalls_of(shop, SWISSBIT, load) if each.seconds == 60)
    assert effect.customers == pytest.approx(8.8, abs=0.1)
    assert effect.backlog_signatures == pytest.approx(17.7, abs=0.1)
    assert effect.drained_after_s == pytest.approx(4.8, abs=0.1)
    hit = [
        len(
            simulate(
                10,
                shop.cycle(SWISSBIT),
                "implicit",
                SWISSBIT.start,
                SWISSBIT.finish,
                seconds=300,
                warmup_s=300,
                stall=Stall(100, 60),
                seed=seed,
            ).slowest
        )
        for seed in range(60)
    ]
    # A checkout whose customer waits sends no second one, which the formula leaves out below its limit.
    assert effect.customers * 0.6 < sum(hit) / len(hit) <= effect.customers


def test_limits_on_clients_and_open_transactions_are_checked() -> None:
    profile = msgspec.structs.replace(SWISSBIT, max_clients=3, max_open_transactions=5)
    shop = Shop(checkouts=6, receipts_per_hour=5)
    problems = " ".join(variant(shop, profile, 1).problems)
    assert "6 queues are more clients than the 3" in problems
    assert "6 checkouts can open more transactions than the 5" in problems
    assert variant(shop, profile, 2).good
    assert capacity_of(shop, profile).limited_by == "clients"


def test_terminals_that_share_a_queue_count_as_one_client() -> None:
    profile = msgspec.structs.replace(SWISSBIT, max_clients=3)
    assert variant(Shop(checkouts=6, receipts_per_hour=5, checkouts_per_queue=2), profile, 1).good


def test_spares_are_never_more_than_there_are_queues() -> None:
    planned = plan(Shop(checkouts=1, receipts_per_hour=20, spare=2), SWISSBIT)
    assert (planned.needed, planned.tses) == (1, 1)
    assert "more TSEs than that have nothing to do" in text.plan(planned)


@pytest.mark.parametrize("family", sorted(PROFILES))
def test_every_built_in_profile_is_whole(family: str) -> None:
    profile = PROFILES[family]
    assert profile.name == family
    assert profile.low_s <= profile.signature_s <= profile.high_s
    assert profile.source
    assert profile.uncertainty
    assert plan(supermarket(checkouts=4), profile).tses == 1


@pytest.mark.parametrize("kind", sorted(PRESETS))
def test_every_preset_is_a_possible_shop(kind: str) -> None:
    assert plan(Shop(checkouts=3, p95_wait_s=0.5, **preset(kind)), SWISSBIT).needed is not None


def test_the_scenarios_are_compared_for_one_shop() -> None:
    compared = {each.name: each for each in scenarios(plan(supermarket(checkouts=12), SWISSBIT))}
    assert list(compared) == [
        "TSE per checkout",
        "main checkout",
        "TSE at the server",
        "terminals, a queue each",
        "terminals, one queue",
        "data centre",
    ]
    assert compared["TSE per checkout"].tses == 12
    assert compared["TSE per checkout"].variant.load.p95_wait_s == 0
    assert compared["terminals, one queue"].queues == 1
    assert compared["data centre"].tse == PROFILES["fiskaly"].title


def test_the_text_names_answer_models_lifetime_and_assumptions() -> None:
    planned = plan(supermarket(spare=1), SWISSBIT)
    told = text.plan(planned, scenarios(planned))
    for words in ("=> 2 TSEs", "difference", "Add a TSE when", "log memory", "Assumptions", "data centre"):
        assert words in told
    assert max(map(len, told.splitlines())) <= 145


def test_a_faster_profile_carries_more() -> None:
    carried = [
        capacity_of(supermarket(), SWISSBIT.with_signature_s(mean_s)).checkouts
        for mean_s in (0.4, 0.25, 0.15)
    ]
    assert carried == sorted(carried)
    assert len(set(carried)) == 3


def test_another_mean_keeps_the_shape() -> None:
    profile: Profile = SWISSBIT.with_signature_s(0.5)
    assert profile.signature_s == pytest.approx(0.5)
    assert profile.start.cv == SWISSBIT.start.cv
    measured = msgspec.structs.replace(
        SWISSBIT, start=ServiceTime(mean_s=0.3, cv=0.2), finish=ServiceTime(mean_s=0.1, cv=0.2)
    )
    assert measured.with_signature_s(0.4).start.mean_s == pytest.approx(0.6)


def test_another_speed_moves_both_ends_of_what_is_believed_with_it() -> None:
    slow = PROFILES["swissbit"].with_signature_s(3.0)
    assert slow.low_s < slow.signature_s < slow.high_s
