"""Where the time of one Sign call goes, from bytes to bytes, step by step.

    python -m bench.waterfall [--receipts 3000] [--items 10] [--null-store] [--null-tse] [--signature-check default]

Every step is timed where it is called; what it calls in turn counts for the step that is called. The numbers are
medians over all receipts; to look takes a third of a microsecond per call, which is in them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from bench.shop import SIGNATURE_CHECKS, basket, host
from fiskal.germany.signatures import SignatureBuilder
from fiskal.host import middleware as middlewares
from fiskal.queue import journal as journals
from fiskal.scu.core import ScuCore
from fiskal.scu.signcheck import SignTimeCheck
from fiskal.scu.software.tse import SoftwareTse
from fiskal.store import NullStore, SqliteStore
from fiskal.store.writer import Writer

PARSE = "parse: JSON, canonical text, processData, two hashes"
DECIDE = "decide: state, checks, receipt kind, open transactions"
TSE = "TSE: line, log message, its own log, twice"
SIGN = "TSE: the two signatures"
CHECK = "check of the two signatures"
PRINT = "signature items for the receipt"
ENCODE = "encode the response"
HASH = "hash the response and chain it"
STORE = "store: taking changes in line, twice"
FLUSH = "store: checks, rows, two commits with flush"
STEPS = (PARSE, DECIDE, TSE, SIGN, CHECK, PRINT, ENCODE, HASH, STORE, FLUSH)


class Watch:
    """Adds up, per step, the time within its calls and outside of the steps they call."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STEPS, 0.0)
        self._inner = [0.0]

    def step(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                whole = time.perf_counter() - began
                self.spent[name] += whole - self._inner.pop()
                self._inner[-1] += whole

        return timed


def places(null_store: bool) -> list[tuple[str, Any, str]]:
    """The step, where its function stands, and its name."""
    return [
        (PARSE, middlewares, "prepare"),
        (TSE, ScuCore, "start_transaction"),
        (TSE, ScuCore, "finish_transaction"),
        (CHECK, SignTimeCheck, "fault"),
        (PRINT, SignatureBuilder, "receipt"),
        (ENCODE, journals, "encode_response"),
        (HASH, journals, "complete"),
        *((STORE, NullStore if null_store else SqliteStore, name) for name in ("submit", "flush")),
        (FLUSH, Writer, "write"),
    ]


class Key:
    """The key of a software TSE, timed: its own type cannot be changed."""

    def __init__(self, watch: Watch, key: Any) -> None:
        self.sign = watch.step(SIGN, key.sign)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--receipts", type=int, default=3000)
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--null-store", action="store_true", help="leave the disk out")
    parser.add_argument("--null-tse", action="store_true", help="leave the TSE out")
    parser.add_argument("--signature-check", choices=sorted(SIGNATURE_CHECKS), default="default")
    parser.add_argument("--folder", type=Path, help="where the data goes (its disk is measured)")
    options = parser.parse_args()
    watch = Watch()
    rows: list[dict[str, float]] = []
    wholes: list[float] = []
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        host(
            Path(folder),
            null_store=options.null_store,
            null_tse=options.null_tse,
            signature_check=SIGNATURE_CHECKS[options.signature_check],
        ) as middleware,
    ):
        body = basket(middleware.config.cash_box_id, options.items)
        for _ in range(200):
            middleware.sign_json(body)
        patches = [
            mock.patch.object(where, name, watch.step(step, getattr(where, name)))
            for step, where, name in places(options.null_store)
        ]
        for binding in middleware.bindings.values():
            driver = getattr(binding.scu, "_driver", None)
            if isinstance(driver, SoftwareTse):
                patches.append(mock.patch.object(driver, "_key", Key(watch, driver._key)))
        for patch in patches:
            patch.start()
        try:
            sign = watch.step(DECIDE, middleware.sign_json)
            for _ in range(options.receipts):
                watch.spent = dict.fromkeys(STEPS, 0.0)
                began = time.perf_counter()
                sign(body)
                wholes.append(time.perf_counter() - began)
                rows.append(watch.spent)
        finally:
            for patch in patches:
                patch.stop()
    medians = {step: statistics.median(row[step] for row in rows) * 1e6 for step in STEPS}
    total = sum(medians.values())
    print("| step | us | share |\n|---|---:|---:|")
    for step in STEPS:
        if medians[step]:
            print(f"| {step} | {medians[step]:.1f} | {medians[step] / total:.0%} |")
    print(f"| all steps | {total:.0f} | 100% |")
    print(f"\n{options.items} items; a whole call: median {statistics.median(wholes) * 1e6:.0f} us")


if __name__ == "__main__":
    main()
