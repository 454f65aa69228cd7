"""Memory of a server: at rest, and while it signs many receipts over HTTP.

    python -m bench.memory [--receipts 200000] [--clients 8]

Starts ``fiskal serve`` on a fresh folder and prints its resident memory as it goes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bench.shop import basket


def resident_mb(pid: int | str = "self") -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS: this needs Linux")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--receipts", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--queues", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        shop = f"{folder}/shop"
        fiskal = [sys.executable, "-m", "fiskal"]
        init = [*fiskal, "init", "--data", shop, "--queues", str(arguments.queues)]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
        config = json.loads(Path(shop, "fiskal.json").read_bytes())
        cash_box_id = config["cash_box_id"]
        queue_ids = [queue["id"] for queue in config["queues"]]
        server = subprocess.Popen(
            [*fiskal, "serve", "--data", shop, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().decode().split("http://")[1].split()[0].rstrip("/")
            threading.Thread(target=server.stdout.read, daemon=True).start()
            print(f"at rest: {resident_mb(server.pid):.1f} MB")
            for queue_id in queue_ids:
                _post(http.client.HTTPConnection(url), basket(cash_box_id, 0, queue_id=queue_id, case=0x03))
            done = [0] * arguments.clients
            share = arguments.receipts // arguments.clients

            def sell(number: int) -> None:
                connection = http.client.HTTPConnection(url)
                body = basket(cash_box_id, 5, queue_id=queue_ids[number % len(queue_ids)])
                for _ in range(share):
                    _post(connection, body)
                    done[number] += 1

            threads = [threading.Thread(target=sell, args=(n,)) for n in range(arguments.clients)]
            for thread in threads:
                thread.start()
            step = arguments.receipts // 10
            following = step
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.5)
                if sum(done) >= following:
                    print(f"{sum(done):7} receipts: {resident_mb(server.pid):.1f} MB", flush=True)
                    following += step
            print(f"{sum(done):7} receipts: {resident_mb(server.pid):.1f} MB")
        finally:
            server.terminate()
            server.wait()


def _post(connection: http.client.HTTPConnection, body: bytes) -> None:
    connection.request("POST", "/json/v1/sign", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    data = response.read()
    if response.status != 200:
        raise RuntimeError(data.decode())


if __name__ == "__main__":
    main()
