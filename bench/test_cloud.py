"""What a cloud driver costs beside the bare call of the HTTP library it stands on, to the same server in one run.

python -m pytest bench/test_cloud.py --benchmark-only --benchmark-enable

The times are processor times of this process without the server, which runs in a process of its own. ``extra_info`` of
the driver's benchmark has its ratio to the bare call.
"""

from __future__ import annotations

import base64
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from fiskal.clock import now
from fiskal.scu.contract import Deadline
from fiskal.scu.driver import Call
from fiskal.scu.drivers import fiskaly
from fiskal.scu.transports.https import HttpsClient
from fiskal.simulators.fiskaly import Account, ReadyTss

CALLS = 100
RECEIPT = b"Beleg^21.42_0.00_0.00_0.00_0.00^21.42:Unbar"
SERVER = """
import sys
from pathlib import Path
from fiskal.simulators.fiskaly import ReadyTss, Settings, simulate
from fiskal.simulators.plan import Plan
tss = (ReadyTss(clients=("POS-1",)),)
settings = Settings(tss=tss, plan=Plan(scale=0), ca_out=Path(sys.argv[1]), access_token_s=86400)
with simulate(settings) as simulator:
    print(simulator.url, flush=True)
    sys.stdin.read()
"""


class Server:
    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.ca_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.path = f"/api/v2/tss/{ReadyTss().tss_id}"

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("cloud"))
    yield server
    server.close()


def open_driver(server: Server, folder: Path) -> Any:
    options = fiskaly.Options(
        api_key=Account().api_key,
        api_secret=Account().api_secret,
        tss_id=ReadyTss().tss_id,
        api_endpoint=server.url + "/api/v2",
        ca_file=str(server.ca_file),
    )
    return fiskaly.open_driver(folder, options, now)


def finish_once(driver: Any) -> tuple[str, bytes, dict[str, str]]:
    """A finish that was executed: path, body and headers, to be sent again as it was; the service answers it alike."""
    number = driver.start(
        Call("start", "POS-1", 0, "", b"", str(uuid.uuid4())), Deadline(20)
    ).transaction_number
    driver.finish(Call("finish", "POS-1", number, "Kassenbeleg-V1", RECEIPT, str(uuid.uuid4())), Deadline(20))
    raw = base64.b64encode(RECEIPT).decode()
    client = driver._clients["POS-1"]
    body = (
        f'{{"state":"FINISHED","client_id":"{client}","schema":{{"raw":{{"process_type":"Kassenbeleg-V1",'
        f'"process_data":"{raw}"}}}}}}'
    ).encode()
    token = driver._api._bearer(Deadline(5)).value
    path = f"/tss/{ReadyTss().tss_id}/tx/{number}?tx_revision=2"
    return path, body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def cpu_us(work: Any) -> float:
    """Microseconds of processor time per call, the least of five rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(CALLS):
            work()
        best = min(best, (time.process_time() - began) / CALLS * 1e6)
    return best


def test_driver_beside_the_bare_call(benchmark: Any, server: Server, tmp_path: Path) -> None:
    """The same finish, sent again: by urllib3 alone, by our client, by the driver's own finish."""
    driver = open_driver(server, tmp_path)
    path, body, headers = finish_once(driver)
    number = int(path.split("/tx/")[1].split("?")[0])
    context = ssl.create_default_context(cafile=str(server.ca_file))
    port = int(server.url.rpartition(":")[2])
    pool = urllib3.HTTPSConnectionPool("127.0.0.1", port, ssl_context=context, retries=False)
    client = HttpsClient(server.url + "/api/v2", ca_file=server.ca_file)
    call = Call("finish", "POS-1", number, "Kassenbeleg-V1", RECEIPT, str(uuid.uuid4()))

    def bare() -> None:
        assert pool.request("PUT", "/api/v2" + path, body=body, headers=headers, redirect=False).status == 200

    def ours() -> None:
        assert client.request("PUT", path, deadline=Deadline(5), body=body, headers=headers).ok

    def drive() -> None:
        driver._revisions[number] = 1
        driver.finish(call, Deadline(5))

    try:
        for work in (bare, ours, drive):
            work()
        benchmark(drive)
        if benchmark.stats is not None:
            alone, through, whole = cpu_us(bare), cpu_us(ours), cpu_us(drive)
            benchmark.extra_info |= {
                "bare_cpu_us": round(alone),
                "client_cpu_us": round(through),
                "driver_cpu_us": round(whole),
                "driver_to_bare": round(whole / alone, 2),
            }
            print(
                f"\nbare {alone:.0f} us, client {through:.0f} us, driver {whole:.0f} us: {whole / alone:.2f} times"
            )
    finally:
        client.close()
        pool.close()
        driver.close()
