"""``fiskal simulate``: a TSE that speaks its vendor's protocol, to try a driver or other software with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from fiskal.errors import ConfigurationError
from fiskal.extras import needs
from fiskal.simulators import plan as plans


class Wish(NamedTuple):
    """What was asked for: one of the forms, and what the simulator is to be."""

    data: Path
    listen: tuple[str, int] | None
    mount: Path | None
    folder: Path | None
    pty: bool
    web: bool
    control: Path | None
    ca_out: Path | None
    settings: dict[str, Any]


Served = tuple[str, Callable[[], None] | None]
"""Where it can be reached, and what serves it until it is told to end, if nobody does so already."""


def _until_told(place: str) -> None:
    """Say where the TSE is, and return at SIGTERM or Ctrl-C."""
    ends = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.set())
    click.echo(place)  # whoever reads this may end it from here on
    while not ends.wait(3600):
        pass


@contextmanager
def _mailbox(module: str, wish: Wish) -> Iterator[Served]:
    family = import_module(f"fiskal.simulators.{module}")
    given = dict(wish.settings)
    if wish.control is not None:
        given["plan"] = plans.read(wish.control)
    settings = _settings(family.Settings, given)
    if wish.mount is not None:
        serve = family.serve if module == "cryptovision" else family.serve_mount
        yield str(wish.mount), partial(_serve, serve, wish.data, wish.mount, settings)
    elif wish.folder is not None and module == "swissbit":
        yield str(wish.folder), partial(_serve, family.serve_folder, wish.data, wish.folder, settings)
    elif wish.folder is not None:
        wish.folder.mkdir(parents=True, exist_ok=True)
        mailbox, watcher = family.watch(wish.data, wish.folder, settings)
        try:
            yield str(wish.folder), None
        finally:
            watcher.close()
            mailbox.close()
    else:
        raise click.UsageError(
            "This TSE is a volume: say --mount DIR, or --folder DIR where there is no FUSE."
        )


def _serve(serve: Callable[..., None], data: Path, place: Path, settings: Any) -> None:
    data.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    serve(data, place, settings, ready=lambda: click.echo(str(place)))


@contextmanager
def _epson(wish: Wish) -> Iterator[Served]:
    family = import_module("fiskal.simulators.epson")
    host, port = wish.listen or ("127.0.0.1", 8009)
    given = {"folder": str(wish.data), "host": host, "port": port, **wish.settings}
    if wish.control is not None:
        given["control"] = str(wish.control)
    with family.Simulator(_settings(family.Settings, given)) as simulator:
        yield f"{host}:{simulator.port}", None


@contextmanager
def _diebold_nixdorf(wish: Wish) -> Iterator[Served]:
    family = import_module("fiskal.simulators.diebold_nixdorf")
    given = {"folder": str(wish.data), **wish.settings}
    if wish.control is not None:
        given["control"] = str(wish.control)
    settings = _settings(family.Settings, given)
    if wish.pty:
        running: Any = family.pseudo_terminal(settings)
    elif wish.listen is None:
        raise click.UsageError(
            "Say --pty for a serial port, or --listen HOST:PORT, with --web the web service."
        )
    elif wish.web:
        with needs("websocket"):
            running = family.web_service(settings, *wish.listen)
    else:
        running = family.tcp(settings, *wish.listen)
    with running:
        yield str(running.place), None


@contextmanager
def _cloud(module: str, wish: Wish) -> Iterator[Served]:
    family = import_module(f"fiskal.simulators.{module}")
    host, port = wish.listen or ("127.0.0.1", 0)
    given = {"host": host, "port": port, "ca_out": wish.ca_out, "folder": wish.data, **wish.settings}
    known = {field.name for field in msgspec.structs.fields(family.Settings)}
    with family.simulate(
        _settings(family.Settings, {k: v for k, v in given.items() if k in known})
    ) as running:
        yield running.url, None


FAMILIES: Final[dict[str, Callable[[Wish], Any]]] = {
    "swissbit": partial(_mailbox, "swissbit"),
    "cryptovision": partial(_mailbox, "cryptovision"),
    "epson": _epson,
    "diebold-nixdorf": _diebold_nixdorf,
    "fiskaly": partial(_cloud, "fiskaly"),
    "fcc": partial(_cloud, "fcc"),
    "swissbit-cloud": partial(_cloud, "swissbit_cloud"),
}


def _settings(type_: Any, given: dict[str, Any]) -> Any:
    try:
        return msgspec.convert(given, type_, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(sorted(field.name for field in msgspec.structs.fields(type_)))
        raise ConfigurationError(f"--set: {error}. There is {known}.") from error


def _address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is no HOST:PORT such as 127.0.0.1:8009", param_hint="--listen")
    return host.strip("[]"), int(port)


@click.command("simulate")
@click.argument("family", type=click.Choice(list(FAMILIES)))
@click.option("--listen", metavar="HOST:PORT", help="Serve it over the network; port 0 is any free one.")
@click.option("--mount", type=click.Path(path_type=Path), help="Serve it as a volume mounted here (FUSE).")
@click.option("--folder", type=click.Path(path_type=Path), help="Serve it as plain files here.")
@click.option("--pty", is_flag=True, help="Serve it at a pseudo terminal, as a serial port.")
@click.option("--web", is_flag=True, help="Diebold Nixdorf: the vendor's web service instead of frames.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default="simulated-tse",
    show_default=True,
    help="Where the device lives.",
)
@click.option(
    "--control", type=click.Path(path_type=Path, exists=True), help="A plan of service times and faults."
)
@click.option(
    "--ca-out", type=click.Path(path_type=Path), help="Cloud: write the CA that clients must trust here."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the simulator.")
def command(
    family: str,
    listen: str | None,
    mount: Path | None,
    folder: Path | None,
    pty: bool,
    web: bool,
    data: Path,
    control: Path | None,
    ca_out: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Simulate a TSE of FAMILY until Ctrl-C. NOT CERTIFIED: for development and training.

    It prints where it can be reached once it can be.

    \b
    Examples:
      fiskal simulate epson --listen 127.0.0.1:8009
      fiskal simulate swissbit --mount /tmp/tse
      fiskal simulate diebold-nixdorf --pty
      fiskal simulate fiskaly --listen 127.0.0.1:8443 --ca-out ca.pem
    """
    chosen: dict[str, Any] = {}
    for each in settings:
        name, equals, value = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r} is no NAME=VALUE", param_hint="--set")
        chosen[name] = value
    wish = Wish(data, _address(listen), mount, folder, pty, web, control, ca_out, chosen)
    with ExitStack() as stack:
        place, serve = stack.enter_context(FAMILIES[family](wish))
        if serve is None:
            _until_told(place)
        else:
            serve()
