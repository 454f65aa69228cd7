"""The table of docs/sizing.md: what one TSE of each family carries.

python -m bench.sizing_table
"""

from __future__ import annotations

from collections.abc import Iterator

from fiskal.sizing.plan import ISOLATION, capacity_of
from fiskal.sizing.profiles import PROFILES
from fiskal.sizing.shop import PRESETS, Shop

KINDS = ("supermarket", "discounter", "self-checkout", "bakery", "bar")


def lines() -> Iterator[str]:
    """Markdown, one row for each family and flow."""
    yield (
        "| TSE | ms | flow | receipts/s at half load | "
        + " | ".join(f"{kind}, {PRESETS[kind]['receipts_per_hour']}/h" for kind in KINDS)
        + " |"
    )
    yield "|---|---:|---|---:|" + "---:|" * len(KINDS)
    for profile in PROFILES.values():
        for flow in ("implicit", "explicit"):
            cells = []
            for kind in KINDS:
                shop = Shop(**{"checkouts": 1, **PRESETS[kind], "flow": flow})
                capacity = capacity_of(shop, profile)
                limit = "" if capacity.limited_by == "wait" else "\\*"
                cells.append(f"{capacity.checkouts}{limit}")
            yield (
                f"| {profile.title} | {profile.signature_s * 1000:.0f} | {flow} "
                f"| {0.5 / (2 * profile.signature_s):.1f} | {' | '.join(cells)} |"
            )


def queue_lines() -> Iterator[str]:
    """Markdown: how many terminals a queue takes, and how many it should have."""
    yield "| TSE, ms | " + " | ".join(KINDS) + " |"
    yield "|---:|" + "---:|" * len(KINDS)
    for mean_ms in (150, 250, 400):
        cells = []
        for kind in KINDS:
            per_s = PRESETS[kind]["receipts_per_hour"] / 3600
            # Two signatures in either flow keep the queue, and what they wait for the TSE on top.
            implicit = int(0.5 / (per_s * 2.2 * mean_ms / 1000))
            cells.append(f"{implicit}" if implicit < ISOLATION else f"{ISOLATION} ({implicit})")
        yield f"| {mean_ms} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(lines()))
    print()
    print("\n".join(queue_lines()))
