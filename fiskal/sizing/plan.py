"""How many TSEs a shop needs, from the formulas and from the simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from fiskal.sizing.analytic import Prediction, predict
from fiskal.sizing.errors import ImpossibleShop
from fiskal.sizing.profiles import Profile
from fiskal.sizing.shop import MAX_CHECKOUTS, Shop
from fiskal.sizing.simulation import Outcome, simulate

RECEIPTS: Final = 20_000
"""How many transactions a simulation runs: enough for p95 within about three per cent."""
ISOLATION: Final = 10
"""Registers that one failure may stop, whatever the throughput: a recommendation."""
SHARES: Final = (0.5, 0.95, 0.99)
SERVICE_LIFE_YEARS: Final = 8.0
"""Certificates of TSEs are issued for 5 to 8 years; nothing is planned beyond."""

Progress = Callable[[str], None]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Steady state of one TSE, from one of the two models. Waits and responses are p50, p95, p99 in seconds."""

    receipts_per_s: float
    utilisation: float
    wait_s: tuple[float, float, float]
    response_s: tuple[float, float, float]
    start_wait_p95_s: float

    @property
    def p95_wait_s(self) -> float:
        return self.wait_s[1]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """``checkouts`` on one TSE. Without figures the TSE is overloaded: no steady state exists.

    Then ``growth_s_per_min`` says by how much the wait of the next customer grows in every minute, and
    ``receipts_per_s`` what gets through at all.
    """

    checkouts: int
    offered_utilisation: float
    receipts_per_s: float
    growth_s_per_min: float = 0.0
    formulas: Figures | None = None
    simulation: Figures | None = None

    @property
    def overloaded(self) -> bool:
        return self.simulation is None

    @property
    def p95_wait_s(self) -> float | None:
        """The worse of both models; None under overload."""
        if self.formulas is None or self.simulation is None:
            return None
        return max(self.formulas.p95_wait_s, self.simulation.p95_wait_s)

    @property
    def difference(self) -> float | None:
        """By how much the formulas' p95 response differs from the simulation's, as a share of it."""
        if self.formulas is None or self.simulation is None:
            return None
        return self.formulas.response_s[1] / self.simulation.response_s[1] - 1


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """The shop with so many TSEs in work. ``problems`` is empty if it does what was asked."""

    tses: int
    load: Load
    problems: list[str]

    @property
    def good(self) -> bool:
        return not self.problems


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What one TSE carries within the limits on utilisation and wait. 0 checkouts: not even one."""

    checkouts: int
    receipts_per_s: float
    signatures_per_s: float
    limited_by: str


class Lifetime(msgspec.Struct, frozen=True, kw_only=True):
    """How long the limits of each TSE last, in years; None is unlimited or unknown."""

    signatures_per_day: float
    signatures_per_month: float
    log_bytes_per_day: float
    years_of_signatures: float | None
    years_of_log_memory: float | None
    certificate_years: float | None

    @property
    def ends(self) -> tuple[str, float] | None:
        """What comes first if the log is never deleted, and after how many years."""
        ends = [
            (name, years)
            for name, years in (
                ("signatures", self.years_of_signatures),
                ("log memory", self.years_of_log_memory),
                ("certificate", self.certificate_years),
            )
            if years is not None
        ]
        return min(ends, key=lambda end: end[1]) if ends else None


class StallEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What happens when a TSE is away for ``seconds`` at peak: a self test, an export in one piece."""

    seconds: float
    customers: float
    backlog_signatures: float
    drained_after_s: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. ``needed`` is None if no number of TSEs does what was asked; ``tses`` has the spares."""

    shop: Shop
    profile: Profile
    capacity: Capacity
    capacity_low: Capacity
    capacity_high: Capacity
    variants: list[Variant]
    needed: int | None
    tses: int | None
    checkouts_per_queue: int
    queue_busy: float
    lifetime: Lifetime
    stalls: list[StallEffect]

    @property
    def chosen(self) -> Variant | None:
        """What is in work every day: all TSEs with the spares."""
        return next((variant for variant in self.variants if variant.tses == self.tses), None)

    @property
    def shown(self) -> Variant:
        """What is chosen, or what was tried last if nothing is good."""
        return self.chosen or self.variants[-1]


def plan(shop: Shop, profile: Profile, *, seed: int = 1, progress: Progress | None = None) -> Plan:
    """Plan the shop. Raises ImpossibleShop for a queue that more terminals share than it has to."""
    if shop.checkouts_per_queue > shop.checkouts:
        raise ImpossibleShop(
            f"{shop.checkouts_per_queue} terminals per queue, but the shop has only {shop.checkouts}",
            hint="Leave out the number of terminals per queue to have one queue for each.",
        )
    tell = progress or (lambda _: None)
    tell("what one TSE carries")
    capacity = capacity_of(shop, profile)
    needed: int | None = None
    variants: list[Variant] = []
    # A queue is never split over two TSEs, so there cannot be more TSEs at work than queues.
    most = math.ceil(shop.checkouts / shop.checkouts_per_queue)
    # With a first guess from the formulas; what the simulation thinks of it comes out in the loop.
    first = max(1, math.ceil(shop.checkouts / capacity.checkouts)) if capacity.checkouts else most
    tses = max(1, min(first, most) - 1)
    while tses <= most:
        tell(f"{tses} TSE{'s' if tses > 1 else ''}")
        variants.append(variant(shop, profile, tses, seed=seed))
        if variants[-1].good:
            needed = tses
            break
        tses += max(1, tses // 8)
    if needed is not None:
        for more in range(needed + 1, min(most, needed + max(1, shop.spare)) + 1):
            tell(f"{more} TSEs")
            variants.append(variant(shop, profile, more, seed=seed))
    in_all = None if needed is None else needed + shop.spare
    working = variants[-1].tses if in_all is None else min(in_all, most)
    chosen = next(each for each in variants if each.tses == working)
    per_queue, busy = queue_of(shop, profile, chosen.load)
    return Plan(
        shop=shop,
        profile=profile,
        capacity=capacity,
        capacity_low=capacity_of(shop, profile.with_signature_s(profile.high_s)),
        capacity_high=capacity_of(shop, profile.with_signature_s(profile.low_s)),
        variants=variants,
        needed=needed,
        tses=working if needed is not None else None,
        checkouts_per_queue=per_queue,
        queue_busy=busy,
        lifetime=lifetime_of(shop, profile, working),
        stalls=stalls_of(shop, profile, chosen.load),
    )


def variant(shop: Shop, profile: Profile, tses: int, *, seed: int = 1) -> Variant:
    """The shop with ``tses`` TSEs, judged at the one with the most checkouts."""
    queues = math.ceil(shop.checkouts / shop.checkouts_per_queue)
    checkouts = min(shop.checkouts, math.ceil(queues / tses) * shop.checkouts_per_queue)
    load = load_of(shop, profile, checkouts, seed=seed)
    problems = []
    if load.overloaded:
        problems.append(f"overloaded: {load.offered_utilisation:.0%} of what a TSE can do")
    elif load.offered_utilisation > shop.max_utilisation:
        problems.append(f"utilisation {load.offered_utilisation:.0%} is above {shop.max_utilisation:.0%}")
    if load.p95_wait_s is not None and load.p95_wait_s > shop.p95_wait_s:
        problems.append(f"p95 wait {load.p95_wait_s * 1000:.0f} ms is above {shop.p95_wait_s * 1000:.0f} ms")
    clients = math.ceil(checkouts / shop.checkouts_per_queue)
    if profile.max_clients is not None and clients > profile.max_clients:
        problems.append(f"{clients} queues are more clients than the {profile.max_clients} a TSE takes")
    if profile.max_open_transactions is not None and checkouts > profile.max_open_transactions:
        problems.append(
            f"{checkouts} checkouts can open more transactions than the {profile.max_open_transactions} allowed"
        )
    return Variant(tses=tses, load=load, problems=problems)


def load_of(shop: Shop, profile: Profile, checkouts: int, *, seed: int = 1) -> Load:
    """Both models for ``checkouts`` of the shop on one TSE."""
    offered = shop.offered_utilisation(profile, checkouts)
    if offered >= 1:
        return Load(
            checkouts=checkouts,
            offered_utilisation=offered,
            receipts_per_s=1 / (2 * profile.signature_s),
            growth_s_per_min=(offered - 1) * 60,
        )
    prediction = formulas(shop, profile, checkouts)
    outcome = run(shop, profile, checkouts, seed=seed)
    return Load(
        checkouts=checkouts,
        offered_utilisation=offered,
        receipts_per_s=outcome.receipts_per_s,
        formulas=_predicted(prediction),
        simulation=_observed(outcome),
    )


def formulas(shop: Shop, profile: Profile, checkouts: int) -> Prediction:
    """The formulas for ``checkouts`` of the shop on one TSE, which they must not overload."""
    return predict(
        checkouts,
        shop.cycle(profile),
        shop.tse_flow,
        profile.start,
        profile.finish,
        scheduling=shop.scheduling,
    )


def run(shop: Shop, profile: Profile, checkouts: int, *, receipts: int = RECEIPTS, seed: int = 1) -> Outcome:
    """The simulation of ``checkouts`` of the shop on one TSE."""
    cycle = shop.cycle(profile)
    return simulate(
        checkouts,
        cycle,
        shop.tse_flow,
        profile.start,
        profile.finish,
        scheduling=shop.scheduling,
        checkouts_per_queue=shop.checkouts_per_queue,
        seconds=receipts * (cycle.total_s + profile.signature_s) / checkouts,
        seed=seed,
    )


def capacity_of(shop: Shop, profile: Profile) -> Capacity:
    """What one TSE carries, from the formulas: utilisation, wait, clients and open transactions."""
    each = shop.offered_utilisation(profile, 1)
    by_load = int(shop.max_utilisation / each + 1e-9)
    limits = [(by_load, "utilisation"), (MAX_CHECKOUTS, "size of a shop")]
    if profile.max_clients is not None:
        limits.append((profile.max_clients * shop.checkouts_per_queue, "clients"))
    if profile.max_open_transactions is not None:
        limits.append((profile.max_open_transactions, "open transactions"))
    most, reason = min(limits)
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if formulas(shop, profile, middle).wait_quantile(0.95) <= shop.p95_wait_s:
            low = middle
        else:
            high = middle - 1
    rate = low * shop.transactions_per_s
    return Capacity(
        checkouts=low,
        receipts_per_s=rate,
        signatures_per_s=2 * rate,
        limited_by=reason if low == most else "wait",
    )


def queue_of(shop: Shop, profile: Profile, load: Load) -> tuple[int, float]:
    """How many terminals may share a queue, and how busy a queue is as the shop has it.

    A queue has one receipt in work at a time; it should be free for every second one. Where the TSE is overloaded,
    its own time alone is counted.
    """
    if load.simulation is None:
        response = profile.finish.mean_s + (0 if shop.tse_flow == "explicit" else profile.start.mean_s)
    else:
        response = load.simulation.response_s[0]
    if shop.tse_flow == "explicit":
        response += profile.start.mean_s
    each = shop.transactions_per_s * response
    return max(1, min(ISOLATION, int(0.5 / each))), shop.checkouts_per_queue * each


def lifetime_of(shop: Shop, profile: Profile, tses: int) -> Lifetime:
    """When the limits of each of ``tses`` TSEs are reached if nothing is ever deleted."""
    signatures = shop.receipts_per_day * shop.signatures_per_receipt / tses + profile.own_signatures_per_day
    log_bytes = signatures * profile.log_bytes_per_signature
    per_year = signatures * shop.days_per_year
    return Lifetime(
        signatures_per_day=signatures,
        signatures_per_month=per_year / 12,
        log_bytes_per_day=log_bytes,
        years_of_signatures=None if profile.max_signatures is None else profile.max_signatures / per_year,
        years_of_log_memory=None
        if profile.log_memory_bytes is None
        else profile.log_memory_bytes / (log_bytes * shop.days_per_year),
        certificate_years=profile.certificate_years,
    )


def stalls_of(shop: Shop, profile: Profile, load: Load) -> list[StallEffect]:
    """A self test, a daily and a forgotten export (500 MB at 11 MB/s) in one piece, each at peak."""
    if load.overloaded:
        return []
    lengths = sorted({10.0, 45.0, profile.self_test_s or 60.0})
    rate = load.checkouts * shop.transactions_per_s
    return [
        StallEffect(
            seconds=seconds,
            # A checkout whose customer waits sends no second one.
            customers=min(rate * seconds, float(load.checkouts)),
            backlog_signatures=2 * rate * seconds,
            drained_after_s=2 * rate * seconds * profile.signature_s / (1 - load.offered_utilisation),
        )
        for seconds in lengths
    ]


def _predicted(prediction: Prediction) -> Figures:
    return Figures(
        receipts_per_s=prediction.receipts_per_s,
        utilisation=prediction.utilisation,
        wait_s=_three(prediction.wait_quantile),
        response_s=_three(prediction.response_quantile),
        start_wait_p95_s=prediction.start_wait_p95_s,
    )


def _observed(outcome: Outcome) -> Figures:
    return Figures(
        receipts_per_s=outcome.receipts_per_s,
        utilisation=outcome.utilisation,
        wait_s=_three(outcome.total_wait.quantile),
        response_s=_three(outcome.response.quantile),
        start_wait_p95_s=outcome.start_wait.quantile(0.95),
    )


def _three(quantile: Callable[[float], float]) -> tuple[float, float, float]:
    p50, p95, p99 = (quantile(share) for share in SHARES)
    return p50, p95, p99
