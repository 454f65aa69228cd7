"""Sign over HTTP under load, against an empty handler of the same server.

    apt-get install wrk
    python -m bench.http_load [--connections 1,8,32,128] [--queues 32] [--seconds 5] [--rounds 3]
                              [--signature-check {default,off}]

Starts a server of its own: the application and the settings of ``fiskal serve``, with one more route that answers
``{}`` when it has the body. wrk asks both in turns with the same receipts, so that the ratio holds whatever else the
machine does. Every connection is a register that sells without a pause, each on a queue of its own while there are as
many queues. ``--null-store`` and ``--null-tse`` leave the disk and the signatures out and show what HTTP itself costs;
``--signature-check off`` makes the signatures and does not verify them. The median of the rounds is printed; "CPU" is
the processor time of the server per request, which other work on the machine disturbs less than the rates.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from bench import bare
from bench.shop import SIGNATURE_CHECKS, basket, host
from fiskal.cli.serve import Server, bind, server_config
from fiskal.host.http import Endpoint, create_app

SCRIPT = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end
function request()
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, bodies[number %% #bodies + 1])
end
function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  local format = '{"rate":%%f,"count":%%d,"p50":%%f,"p99":%%f,"errors":%%d}\\n'
  io.write(string.format(format, summary.requests / summary.duration * 1e6, summary.requests,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
"""


async def empty(request: Request) -> Response:
    """What the server makes of a request that nothing is done with."""
    await request.body()
    return Response(b"{}", media_type="application/json")


def serve(options: argparse.Namespace, folder: Path) -> None:
    """The server: prints its port, and the receipts into a file."""
    with host(
        folder / "data",
        queues=options.queues,
        tses=options.tses,
        null_store=options.null_store,
        null_tse=options.null_tse,
        signature_check=SIGNATURE_CHECKS[options.signature_check],
    ) as middleware:
        config = middleware.config
        bodies = [basket(config.cash_box_id, options.items, queue_id=queue.id) for queue in config.queues]
        (folder / "bodies").write_bytes(b"\n".join(bodies) + b"\n")
        app = create_app(middleware, close_middleware=False)
        app.endpoints["/bench/empty"] = Endpoint("POST", empty)
        with bind("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            Server(server_config(app), lambda: print(port, flush=True)).run(sockets=[listener])


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken, all its threads, on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(
    script: Path,
    server: subprocess.Popen[str],
    port: int,
    path: str,
    connections: int,
    queues: int,
    seconds: float,
) -> dict[str, float]:
    """One run of wrk; latencies in milliseconds, processor time per request in microseconds."""
    before = cpu_s(server.pid)
    threads = min(connections, queues)
    command = [
        "wrk",
        f"-t{threads}",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
    ]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if found["errors"]:
        raise SystemExit(f"{found['errors']:g} requests to {path} failed")
    found["cpu"] = (cpu_s(server.pid) - before) / found["count"] * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", default="1,8,32,128")
    parser.add_argument("--queues", type=int, default=32)
    parser.add_argument("--tses", type=int, default=8)
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the data goes (its disk is measured)")
    parser.add_argument("--null-store", action="store_true", help="leave the disk out")
    parser.add_argument("--null-tse", action="store_true", help="leave the signatures out")
    parser.add_argument(
        "--signature-check",
        choices=SIGNATURE_CHECKS,
        default="default",
        help="whether every signature is verified before its receipt is answered, as hosts do by default",
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options, options.serve)
        return
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="fiskal-http-", dir=options.folder) as name:
        folder = Path(name)
        (folder / "data").mkdir()
        command = [sys.executable, "-m", "bench.http_load", *sys.argv[1:], "--serve", name]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            script = folder / "script.lua"
            script.write_text(SCRIPT % (folder / "bodies"))
            compare(options, script, server, port)
        finally:
            server.terminate()
            server.wait()


def compare(options: argparse.Namespace, script: Path, server: subprocess.Popen[str], port: int) -> None:
    """Print a table in Markdown."""
    flush = bare.mean(bare.committer(script.parent), 0.5)
    print(f"a bare durable commit takes {flush * 1e6:.0f} us; load {os.getloadavg()[0]:.1f}\n")
    print(
        "| connections | empty/s | sign/s | ratio | empty CPU, us | sign CPU, us | ratio "
        "| empty p50, p99, ms | sign p50, p99, ms | p99 : p50 |"
    )
    print("|" + "---:|" * 10)
    for path in ("/bench/empty", "/sign"):
        load(script, server, port, path, options.queues, options.queues, 1)
    for connections in map(int, options.connections.split(",")):
        empties, signs = [], []
        for _ in range(options.rounds):
            empties.append(
                load(script, server, port, "/bench/empty", connections, options.queues, options.seconds)
            )
            signs.append(load(script, server, port, "/sign", connections, options.queues, options.seconds))
        ratios = [sign["rate"] / nothing["rate"] for nothing, sign in zip(empties, signs, strict=True)]

        def middle(runs: list[dict[str, float]], key: str) -> float:
            return statistics.median(run[key] for run in runs)

        cpu_empty, cpu_sign = middle(empties, "cpu"), middle(signs, "cpu")
        p50, p99 = middle(signs, "p50"), middle(signs, "p99")
        print(
            f"| {connections} | {middle(empties, 'rate'):.0f} | {middle(signs, 'rate'):.0f} "
            f"| {statistics.median(ratios):.2f} | {cpu_empty:.0f} | {cpu_sign:.0f} | {cpu_empty / cpu_sign:.2f} "
            f"| {middle(empties, 'p50'):.2f}, {middle(empties, 'p99'):.2f} "
            f"| {p50:.2f}, {p99:.2f} | {p99 / p50:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
