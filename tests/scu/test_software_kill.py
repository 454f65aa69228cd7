"""Killing the process that signs, at random moments: no counter repeats, none is missing, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fiskal.scu.software import SoftwareTse
from fiskal.tse.logmessage import parse

PROGRAM = """
import sys, uuid
from fiskal.scu.contract import FinishTransactionRequest, StartTransactionRequest
from fiskal.scu.core import ScuCore
from fiskal.scu.software import SoftwareTse, open_software_tse
open_software_tse(sys.argv[1], client_ids=["POS-1"]).close()
scu = ScuCore(SoftwareTse(sys.argv[1], checkpoint_every=50))
print("ready", flush=True)
while True:
    item = str(uuid.uuid4())
    started = scu.start_transaction(StartTransactionRequest(client_id="POS-1", queue_item_id=item))
    print(started.signature_data.signature_counter, flush=True)
    finished = scu.finish_transaction(FinishTransactionRequest(
        client_id="POS-1", transaction_number=started.transaction_number, queue_item_id=item))
    print(finished.signature_data.signature_counter, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_kill_9(tmp_path: Path) -> None:
    source = random.Random(20)
    answered: list[int] = []
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        with process.stdout as stdout:
            assert stdout.readline() == "ready\n"
            time.sleep(source.uniform(0.001, 0.15))
            process.send_signal(signal.SIGKILL)
            text = stdout.read()
        process.wait()
        lines = text.splitlines(keepends=True)
        answered += [int(line) for line in lines if line.endswith("\n")]
    driver = SoftwareTse(tmp_path, create=False)
    logged = list(driver.messages())
    assert [counter for counter, _ in logged] == list(range(1, len(logged) + 1))
    assert len(answered) == len(set(answered))
    assert answered == sorted(answered)
    assert set(answered) <= {counter for counter, _ in logged}
    assert len(answered) > 50
    key = driver.chain.public_key
    messages = [parse(raw) for _, raw in logged]
    assert all(message.verify(key) for message in messages)
    starts = [item.transaction_number for item in messages if item.operation == "StartTransaction"]
    assert starts == list(range(1, len(starts) + 1))
    finishes = {item.transaction_number for item in messages if item.operation == "FinishTransaction"}
    assert set(driver.info(None).current_started_transaction_numbers) == set(starts) - finishes
    driver.close()
