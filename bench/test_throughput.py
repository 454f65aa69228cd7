"""Many queues and threads at once; ``bench/throughput.py`` says what it is compared with.

python -m pytest bench/test_throughput.py --benchmark-only --benchmark-enable
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from bench.shop import basket, host

QUEUES = 32
RECEIPTS = 20


HOSTS: dict[str, dict[str, Any]] = {
    "durable": {},
    "durable, unchecked": {"signature_check": "off"},
    "null store and TSE": {"null_store": True, "null_tse": True},
}


@pytest.mark.parametrize("options", HOSTS.values(), ids=HOSTS)
def test_32_queues_in_32_threads(benchmark: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    """A round is 20 receipts of each queue."""
    with host(tmp_path, queues=QUEUES, tses=8, **options) as middleware:
        config = middleware.config
        bodies = [basket(config.cash_box_id, 2, queue_id=queue.id) for queue in config.queues]

        def sell(body: bytes) -> None:
            for _ in range(RECEIPTS):
                middleware.sign_json(body)

        def sell_everywhere() -> None:
            threads = [threading.Thread(target=sell, args=(body,)) for body in bodies]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        benchmark.pedantic(sell_everywhere, rounds=8, warmup_rounds=1)
        if benchmark.stats is not None:
            rate = QUEUES * RECEIPTS / benchmark.stats.stats.min
            benchmark.extra_info["receipts_per_s"] = round(rate)
