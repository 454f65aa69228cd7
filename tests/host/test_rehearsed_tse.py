"""A rehearsed TSE in a host: waiting for it is waiting, and keeps nobody else from working."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path

import pytest

import fiskal
from fiskal.cli.samples import Samples
from fiskal.clock import now
from fiskal.germany.codes import DE
from fiskal.host import config as configs
from fiskal.host.config import QueueConfig, ScuConfig
from fiskal.host.middleware import Middleware
from fiskal.pos import ReceiptRequest, encode_request
from fiskal.queue.settings import QueueSettings
from fiskal.scu.core import ScuCore
from fiskal.scu.software import Rehearsal, RehearsedTse, SoftwareTse
from fiskal.scu.software.rehearsal import ServiceTimes

PATIENCE_S = 30


def sign(middleware: Middleware, queue: str, request: ReceiptRequest) -> int:
    request.ft_queue_id = queue
    state: int = json.loads(middleware.sign_json(encode_request(request)))["ftState"]
    return state


def test_a_queue_sells_while_another_waits_for_its_tse(tmp_path: Path) -> None:
    config = configs.new_config(client_id="SLOW")
    slow, quick = config.queues[0].id, str(uuid.uuid4())
    scu_id = str(uuid.uuid4())
    config.scus.append(ScuConfig(id=scu_id))
    config.queues.append(QueueConfig(id=quick, client_id="QUICK", scu_id=scu_id))
    waiting, sold = threading.Event(), threading.Event()
    answered: list[bool] = []

    def sleep(_: float) -> None:
        if rehearsing:
            waiting.set()
            answered.append(sold.wait(PATIENCE_S))
        moment[0] += 1.0

    rehearsing = False
    moment = [0.0]
    device = ScuCore(
        RehearsedTse(
            SoftwareTse(tmp_path / "tse"),
            Rehearsal(service_time=ServiceTimes(finish=1000)),
            monotonic=lambda: moment[0],
            sleep=sleep,
        )
    )
    with Middleware(config, tmp_path, scus={config.scus[0].id: device}) as middleware:
        samples = Samples(config.cash_box_id, now())
        for queue in (slow, quick):
            assert sign(middleware, queue, samples.start()) == DE
        rehearsing = True
        states: list[int] = []
        seller = threading.Thread(target=lambda: states.append(sign(middleware, slow, samples.sale())))
        seller.start()
        assert waiting.wait(PATIENCE_S)
        other = threading.Thread(target=lambda: states.append(sign(middleware, quick, samples.sale())))
        other.start()
        other.join(PATIENCE_S)
        assert states == [DE]
        sold.set()
        seller.join(PATIENCE_S)
    assert states == [DE, DE]
    assert answered == [True]


@pytest.mark.parametrize("updates", ["signed", "unsigned"])
def test_the_options_of_the_configuration_reach_the_tse(tmp_path: Path, updates: str) -> None:
    config = configs.new_config(client_id="POS-1")
    config.scus[0].options = {
        "updates": updates,
        "rehearse": {"faults": [{"kind": "unreachable", "operation": "finish", "times": 1}]},
    }
    config.queues[0].settings = QueueSettings(scu_max_retries=1)
    configs.save(tmp_path, config)
    with fiskal.open(tmp_path) as middleware:
        samples = Samples(config.cash_box_id, now())
        with pytest.raises(fiskal.FiskalError, match="rehearsed"):
            sign(middleware, config.queues[0].id, samples.start())
        assert sign(middleware, config.queues[0].id, samples.start()) == DE
        assert sign(middleware, config.queues[0].id, samples.sale()) == DE
