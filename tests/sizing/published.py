"""What a simulation of checkouts in front of one TSE gave elsewhere: milliseconds, gamma service of cv 0.2.

The kinds of business are given by items, rate and utilisation. What they leave open, how a cycle is divided
and how much it varies, is chosen here once for each kind; nothing is fitted per row.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fiskal.sizing.service import ServiceTime
from fiskal.sizing.simulation import Cycle

SERVICE: Final = ServiceTime(mean_s=0.25, cv=0.2)

CYCLES: Final = {
    "grocery": Cycle(gap_s=16, scan_s=26.9, pay_s=24.5, items=12),
    "bakery": Cycle(gap_s=6, scan_s=4.4, pay_s=9.6, items=2, gap_cv=0.6),
    "bar": Cycle(gap_s=2, scan_s=4.4, pay_s=3.7, items=2, gap_cv=0, pay_cv=0.3),
}


class Row(NamedTuple):
    """One TSE of 250 ms with ``checkouts`` of one kind."""

    kind: str
    checkouts: int
    utilisation: float
    implicit_response: tuple[float, float, float]
    """p50, p95, p99 with the two calls back to back."""
    fifo_wait: tuple[float, float]
    """p95, p99 of the finish in explicit flow, first come first served."""
    priority_wait: tuple[float, float]
    """The same with strict priority of finishes."""
    priority_response: float
    """p95 of wait and service of that finish."""
    priority_start_wait: float
    """p95 of the start's wait there."""


TABLE: Final = [
    Row("grocery", 5, 0.04, (499, 642, 829), (0, 164), (0, 173), 351, 0),
    Row("grocery", 10, 0.07, (502, 687, 956), (64, 230), (63, 232), 371, 64),
    Row("grocery", 20, 0.15, (509, 854, 1087), (175, 300), (167, 271), 423, 179),
    Row("grocery", 40, 0.29, (529, 1052, 1424), (278, 475), (238, 367), 500, 329),
    Row("bakery", 10, 0.24, (519, 953, 1239), (230, 377), (210, 315), 471, 245),
    Row("bakery", 20, 0.48, (572, 1360, 1844), (447, 697), (306, 475), 570, 614),
    Row("bakery", 30, 0.72, (825, 2097, 2815), (858, 1244), (439, 659), 698, 1418),
    Row("bar", 10, 0.47, (557, 1228, 1624), (353, 545), (286, 445), 552, 423),
    Row("bar", 20, 0.89, (1132, 2436, 3055), (1208, 1556), (551, 790), 808, 3591),
    Row("bar", 30, 1.00, (5016, 6498, 7074), (5683, 6060), (209, 306), 457, 12983),
]

EDF: Final = {
    0.0: (427, 1118, 1500, 859),
    0.5: (376, 882, 1254, 1111),
    1.0: (363, 758, 1046, 1319),
    2.0: (358, 705, 929, 1411),
    float("inf"): (355, 697, 921, 1419),
}
"""Allowance of a start in seconds: p50, p95, p99 of the finish's response and p95 of the start's wait, bakery, 30."""

OTHER_SPEEDS: Final = {
    (0.4, 10): (809, 1303, 1753, 218),
    (0.4, 20): (839, 1585, 2106, 357),
    (0.4, 40): (944, 2277, 3163, 532),
    (0.15, 20): (302, 438, 600, 63),
}
"""(mean service time in s, checkouts): implicit p50, p95, p99 and the p95 wait of a finish with priority; grocery."""
