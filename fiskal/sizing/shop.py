"""A shop as a planner describes it, and what that means for a TSE."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from fiskal.sizing.errors import ImpossibleShop
from fiskal.sizing.profiles import Profile
from fiskal.sizing.simulation import EDF, Cycle, Flow, Scheduling

FlowName = Literal["implicit", "explicit", "orders"]

MAX_CHECKOUTS: Final = 2000
MAX_RATE: Final = 3600.0
_SCAN_SHARE: Final = 0.5
_PAY_SHARE: Final = 0.6


class Shop(msgspec.Struct, frozen=True, kw_only=True):
    """One site at its peak.

    ``receipts_per_hour`` is for each checkout in the busiest quarter of an hour, as it is with a TSE that nobody
    has to wait for. In the flow ``orders`` it counts bills, with ``orders_per_bill`` orders before each; every
    order is a transaction of its own, in implicit flow. ``p95_wait_s`` is what 95 of 100 customers may wait for
    the TSE beyond its own signing time. ``spare`` TSEs may fail and the rest still does. ``peak_hours_per_day``
    says how many hours at peak rate the receipts of a day make up.
    """

    checkouts: int
    receipts_per_hour: float
    items: float = 12.0
    seconds_per_item: float = 2.95
    flow: FlowName = "explicit"
    orders_per_bill: float = 3.0
    checkouts_per_queue: int = 1
    p95_wait_s: float = 0.25
    spare: int = 0
    max_utilisation: float = 0.5
    peak_hours_per_day: float = 5.0
    days_per_year: float = 310.0
    scheduling: Scheduling = EDF

    def __post_init__(self) -> None:
        self._check("checkouts", self.checkouts, 1, MAX_CHECKOUTS, "A shop has at least one checkout.")
        self._check("receipts per hour", self.receipts_per_hour, 0, MAX_RATE, _RATE_HINT, open_below=True)
        self._check("items per receipt", self.items, 1, 1000, "An empty basket is no receipt.")
        self._check("seconds per item", self.seconds_per_item, 0, 600, "A practised cashier needs about 3.")
        self._check("orders per bill", self.orders_per_bill, 0, 100, "0 is a bill without orders.")
        self._check("terminals per queue", self.checkouts_per_queue, 1, MAX_CHECKOUTS, "1 is a queue each.")
        self._check("p95 wait", self.p95_wait_s, 0, 600, "250 ms is hardly noticed.", open_below=True)
        self._check("spare TSEs", self.spare, 0, 10, "0 or 1 is usual.")
        self._check("utilisation limit", self.max_utilisation, 0, 0.95, "0.5 leaves room.", open_below=True)
        self._check("peak hours per day", self.peak_hours_per_day, 0, 24, "A day has 24.", open_below=True)
        self._check("days per year", self.days_per_year, 0, 366, "310 without Sundays.", open_below=True)

    @staticmethod
    def _check(
        what: str, value: float, low: float, high: float, hint: str, *, open_below: bool = False
    ) -> None:
        if not (math.isfinite(value) and low <= value <= high) or (open_below and value == low):
            least = f"more than {low:g}" if open_below else f"at least {low:g}"
            raise ImpossibleShop(
                f"{what}: {value:g} is impossible; it is {least} and at most {high:g}", hint=hint
            )

    @property
    def tse_flow(self) -> Flow:
        """How the calls of one receipt reach the TSE."""
        return "explicit" if self.flow == "explicit" else "implicit"

    @property
    def transactions_per_receipt(self) -> float:
        """TSE transactions for one receipt, with its orders."""
        return 1 + self.orders_per_bill if self.flow == "orders" else 1.0

    @property
    def signatures_per_receipt(self) -> float:
        return 2 * self.transactions_per_receipt

    @property
    def transactions_per_s(self) -> float:
        """Of one checkout at peak."""
        return self.receipts_per_hour * self.transactions_per_receipt / 3600

    @property
    def receipts_per_day(self) -> float:
        """Of the whole shop, orders not counted."""
        return self.checkouts * self.receipts_per_hour * self.peak_hours_per_day

    def cycle(self, profile: Profile) -> Cycle:
        """What a checkout does between two transactions. Raises ImpossibleShop if it has no time left.

        The TSE's own time is taken out of the interval, because the rate was counted with it. Scanning takes
        at most half of what is left; of the rest, paying takes 60 % and the gap to the next customer 40 %.
        """
        own = profile.finish.mean_s + (profile.start.mean_s if self.tse_flow == "implicit" else 0.0)
        interval = 1 / self.transactions_per_s
        think = interval - own - profile.overhead_s
        if think <= 0:
            raise ImpossibleShop(
                f"a checkout has {interval:.2f} s for each receipt, but TSE and middleware alone take "
                f"{own + profile.overhead_s:.2f} s",
                hint="Fewer receipts per hour and checkout, or a faster TSE.",
            )
        items = max(1.0, self.items / max(1.0, self.orders_per_bill) if self.flow == "orders" else self.items)
        scan = min(items * self.seconds_per_item, _SCAN_SHARE * think)
        return Cycle(
            gap_s=(think - scan) * (1 - _PAY_SHARE),
            scan_s=scan,
            pay_s=(think - scan) * _PAY_SHARE,
            items=items,
            overhead_s=profile.overhead_s,
        )

    def offered_utilisation(self, profile: Profile, checkouts: int) -> float:
        """Work that ``checkouts`` bring to one TSE per second, in seconds: 1 and more cannot be done."""
        return checkouts * self.transactions_per_s * 2 * profile.signature_s


_RATE_HINT: Final = (
    "Usual per checkout at peak: supermarket 50, discounter 75, self-checkout 70, bakery 175, bar 340."
)


def preset(kind: str) -> dict[str, Any]:
    """Rate and basket of a usual kind of shop, from published checkout times."""
    return dict(PRESETS[kind])


PRESETS: Final[dict[str, dict[str, Any]]] = {
    "supermarket": {"receipts_per_hour": 50, "items": 12, "flow": "explicit"},
    "discounter": {"receipts_per_hour": 75, "items": 12, "seconds_per_item": 2.0, "flow": "explicit"},
    "self-checkout": {"receipts_per_hour": 70, "items": 4, "seconds_per_item": 5.0, "flow": "explicit"},
    "bakery": {"receipts_per_hour": 175, "items": 2, "flow": "implicit"},
    "bar": {"receipts_per_hour": 340, "items": 2, "seconds_per_item": 2.0, "flow": "implicit"},
    "restaurant": {"receipts_per_hour": 8, "items": 6, "flow": "orders", "orders_per_bill": 2.5},
}
"""By name: receipts per hour and checkout at peak, items per receipt, flow."""
