"""What a Sign call costs beside the TSE and the disk, and what it makes of them.

    python -m pytest bench/test_sign.py --benchmark-only --benchmark-enable

The ratio to the named baseline, measured in the same run, stands in ``extra_info`` and in the table at the end.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import bare
from bench.shop import basket, host
from fiskal.pos import ReceiptRequest, decode_response
from fiskal.scu.signcheck import Mode

ROUNDS = 60
"""Short ones, so that what is compared is measured close together: the speed of a shared machine drifts."""


def _best(call: Any, rounds: int = 200, calls: int = 30) -> float:
    """Least mean of many short rounds: what the code takes when nothing else runs."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - start) / calls)
    return best


@pytest.mark.parametrize("items", [2, 10, 50])
def test_sign_json_with_null_tse_and_null_store(benchmark: Any, tmp_path: Path, items: int) -> None:
    """Baseline: msgspec decodes the same request into the models and encodes the same response."""
    decode = msgspec.json.Decoder(ReceiptRequest).decode
    encode = msgspec.json.Encoder().encode
    with host(tmp_path, null_tse=True, null_store=True) as middleware:
        body = basket(middleware.config.cash_box_id, items)
        response = decode_response(middleware.sign_json(body))
        baseline = _best(lambda: (decode(body), encode(response)))
        ours = _best(lambda: middleware.sign_json(body))
        benchmark.extra_info["baseline"] = "msgspec decode + encode"
        benchmark.extra_info["baseline_us"] = round(baseline * 1e6, 2)
        benchmark.extra_info["ours_us"] = round(ours * 1e6, 2)
        benchmark.extra_info["ratio"] = round(ours / baseline, 2)
        benchmark(middleware.sign_json, body)


@pytest.mark.parametrize("signature_check", [None, "off"], ids=["checked", "unchecked"])
def test_durable_sale(benchmark: Any, tmp_path: Path, signature_check: Mode | None) -> None:
    """Baseline: two bare commits and two bare signatures on the same disk and CPU, in turns with ours; with the check
    also two bare verifications."""
    commit, sign, verify = bare.committer(tmp_path), bare.signer(), bare.verifier()
    checked = signature_check is None
    with host(tmp_path, signature_check=signature_check) as middleware:
        body = basket(middleware.config.cash_box_id, 2)
        ratios, sales, bounds = [], [], []
        for _ in range(ROUNDS):
            bound = 2 * bare.mean(commit, 0.04) + 2 * bare.mean(sign, 0.01)
            if checked:
                bound += 2 * bare.mean(verify, 0.01)
            ours = bare.mean(lambda: middleware.sign_json(body), 0.08)
            ratios.append(bound / ours)
            sales.append(ours)
            bounds.append(bound)
        low, middle, high = statistics.quantiles(ratios)
        benchmark.extra_info["baseline"] = (
            f"2 commits + 2 signatures{' + 2 verifications' if checked else ''}, bare"
        )
        benchmark.extra_info["baseline_us"] = round(statistics.median(bounds) * 1e6, 1)
        benchmark.extra_info["ours_us"] = round(statistics.median(sales) * 1e6, 1)
        benchmark.extra_info["ratio"] = (
            f"{middle:.2f} of the bound (half of the rounds from {low:.2f} to {high:.2f})"
        )
        benchmark(middleware.sign_json, body)
