"""``fiskal serve``."""

from __future__ import annotations

import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

import fiskal
from fiskal.cli import common
from fiskal.extras import needs
from fiskal.host import config as configs
from fiskal.host.process import settle
from fiskal.scu.software import NOT_CERTIFIED_WARNING
from fiskal.version import __version__

with needs("server"):
    import uvicorn
    from uvicorn.server import HANDLED_SIGNALS

    from fiskal.host import http

KEEP_ALIVE_S = 75
"""A POS keeps its connection over a pause between two customers."""
STOP_S = 60
"""How long a stop waits for answers on their way; the slowest wait for a TSE."""


class Server(uvicorn.Server):
    """uvicorn that tells when it answers, and for which a signal to stop is no death by that signal."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            settle()
            self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@click.command("serve")
@common.data_option()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=common.DEFAULT_PORT,
    show_default=True,
    help="Port to listen at; 0 takes a free one.",
)
@click.option("--base-path", metavar="PATH", default="", help="Answer under this path too, e.g. /fiskal.")
@click.option(
    "--require-token/--no-token",
    default=None,
    help="Ask for the headers cashboxid and accesstoken. [default: asked for unless only this machine can call]",
)
@click.option("--access-log", is_flag=True, help="Log every request.")
def command(
    data: Path, host: str, port: int, base_path: str, require_token: bool | None, access_log: bool
) -> None:
    """Answer Echo, Sign and Journal over HTTP for the host in DIR.

    Prints its address once it answers. Ctrl-C or SIGTERM stops it: receipts in work are finished and
    answered first, then the exit code is 0; a second Ctrl-C stops at once.

    \b
    Example:
      fiskal serve --data shop --port 1200
      curl http://127.0.0.1:1200/json/v1/echo -H 'Content-Type: application/json' -d '{"Message":"hello"}'
    """
    token = not _is_loopback(host) if require_token is None else require_token
    _set_up_logging(access_log=access_log)
    configs.load(data)
    with bind(host, port) as listener, fiskal.open(data) as middleware:
        # "with" closes the middleware after the server, also if the server could not start.
        app = http.create_app(middleware, require_token=token, base_path=base_path, close_middleware=False)
        bound = listener.getsockname()[1]

        def announce() -> None:
            _announce(middleware, _url(host, bound), token=token)

        Server(server_config(app, access_log=access_log), announce).run(sockets=[listener])
    click.echo("stopped")


def server_config(app: http.Application, *, access_log: bool = False) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=access_log,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises CommandError that says what to do.

    It names its protocol: without it asyncio does not switch Nagle's algorithm off, and every answer takes 40 ms.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise common.CommandError("HOST_UNKNOWN", f"{host} is no address to listen at: {error}") from error
    try:
        if hasattr(signal, "SIGHUP"):  # POSIX; on Windows the option would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise common.CommandError(
                "PORT_IN_USE",
                f"port {port} on {host} is in use by another program",
                hint="Choose another one with --port, or let --port 0 find a free one.",
            ) from error
        raise common.CommandError(
            "PORT_NOT_USABLE",
            f"port {port} on {host} cannot be used: {error.strerror}",
            hint="Ports below 1024 need privileges; the address must belong to this machine.",
        ) from error
    return listener


def _url(host: str, port: int) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        return f"http://{socket.gethostname()}:{port}"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"


def _announce(middleware: fiskal.Middleware, url: str, *, token: bool) -> None:
    config = middleware.config
    click.echo(f"fiskal {__version__} answers at {url}")
    click.echo(f"  health   {url}/health")
    click.echo(f"  docs     {url}/docs, for tools {url}/openapi.json")
    if token:
        click.echo("  token    asked for: send the headers cashboxid and accesstoken")
    else:
        click.echo("  token    not asked for")
    for queue in middleware.queues:
        status = queue.status()
        hint = "; it begins with a start receipt: 'fiskal sample start'" if status["state"] == "new" else ""
        click.echo(f"  queue    {status['ftQueueId']} is {status['state']}{hint}")
    if any(scu.driver == "software" for scu in config.scus):
        click.echo(f"warning: {NOT_CERTIFIED_WARNING}", err=True)


class _SaidAlready(logging.Filter):
    """Drops what the software TSE logs about itself: it was printed when the server started."""

    def filter(self, record: logging.LogRecord) -> bool:
        return NOT_CERTIFIED_WARNING not in record.getMessage()


def _set_up_logging(*, access_log: bool) -> None:
    root = logging.getLogger()
    if root.level > logging.WARNING:
        root.setLevel(logging.WARNING)
    for handler in root.handlers:
        handler.addFilter(_SaidAlready())
    if access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
