"""``fiskal tse``."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from fiskal.cli import common, remote
from fiskal.cli.journal import first_moment, last_moment
from fiskal.cli.tse_find import find
from fiskal.cli.tse_rehearse import rehearse
from fiskal.clock import now
from fiskal.files import sync_folder
from fiskal.host import config as configs
from fiskal.host.config import ScuConfig
from fiskal.host.drivers import open_scu, scu_folder
from fiskal.host.timings import TseTimings
from fiskal.scu.contract import (
    RegisterClientIdRequest,
    Scu,
    StartExportSessionByTimeStampRequest,
    StartExportSessionByTransactionRequest,
    StartExportSessionRequest,
    TseInfo,
    TseState,
    TseStates,
    UnregisterClientIdRequest,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.errors import Misconfigured
from fiskal.scu.fetch import ExportFetch, Start
from fiskal.scu.software.access import MIN_PIN_CHARACTERS, TRANSPORT_PUK, Access, UserId
from fiskal.scu.software.limits import MAX_COUNTER
from fiskal.scu.software.se_api import SeApi
from fiskal.scu.software.tse import SoftwareTse
from fiskal.tse.certificates import CertificateError, load_certificates
from fiskal.tse.logmessage import parse_file_name

EXPORT_TIMEOUT_S: Final = 18_000.0
CALL_TIMEOUT_S: Final = 60.0
UNLIMITED: Final = 2**31 - 1
"""Limits at or above are those of the disk or of nobody."""

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group("tse")
def command() -> None:
    """Look at the TSE of a host, initialise it, export it, rehearse its failures.

    Only one process can use a TSE: stop a running 'fiskal serve' before, but for 'rehearse' and 'timings'.

    \b
    Examples:
      fiskal tse find
      fiskal tse init --data shop
      fiskal tse info --data shop
      fiskal tse export --data shop --out tse.tar
      fiskal tse rehearse --data shop --fail unreachable --times 3
    """


command.add_command(rehearse)
command.add_command(find)


def _scu_option() -> Callable[[_F], _F]:
    return click.option("--scu-id", metavar="GUID", help="Which SCU, if the host has several.")


@contextlib.contextmanager
def _opened(data: Path, scu_id: str | None, *, create: bool = False) -> Iterator[Scu]:
    """The SCU of a host. A TSE that does not exist is made with ``create`` only."""
    scu = common.choose_scu(data, scu_id)
    folder = scu_folder(data, scu.id)
    if not create and scu.driver == "software" and not (folder / "tse.json").exists():
        raise common.CommandError(
            "NOT_PERSONALISED",
            f"there is no software TSE in {folder} yet",
            hint=f"Make it with 'fiskal tse init --data {data}'; a start receipt makes it as well.",
        )
    with _in_use_explained():
        opened = open_scu(scu, data)
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def _in_use_explained() -> Iterator[None]:
    try:
        yield
    except Misconfigured as error:
        if error.code != "DEVICE_IN_USE":
            raise
        raise common.CommandError(
            error.code, error.message, hint="A running 'fiskal serve' uses the TSE: stop it first."
        ) from error


# ---- info ---------------------------------------------------------------------------------------


@command.command("info")
@common.data_option()
@_scu_option()
@common.json_option()
def info(data: Path, scu_id: str | None, as_json: bool) -> None:
    """Show what a TSE is, what it holds and how much is left.

    \b
    Example:
      fiskal tse info --data shop
    """
    with _opened(data, scu_id) as scu:
        found = scu.get_tse_info()
    if as_json:
        common.print_json(found)
    else:
        _show(found)


def _show(found: TseInfo) -> None:
    expires = _expiry(found)
    lines = {
        "state": found.current_state.name.lower(),
        "serial number": found.serial_number_octet,
        "certification": found.certification_identification,
        "firmware": found.firmware_identification,
        "signatures": f"{_of(found.current_number_of_signatures, found.max_number_of_signatures)}"
        f", {found.signature_algorithm}, {found.log_time_format}",
        "clients": _of(found.current_number_of_clients, found.max_number_of_clients)
        + _listed(found.current_client_ids),
        "open transactions": _of(
            found.current_number_of_started_transactions, found.max_number_of_started_transactions
        )
        + _listed(found.current_started_transaction_numbers),
        "log memory": _of(found.current_log_memory_size, found.max_log_memory_size, " bytes"),
        "certificate": "unknown" if expires is None else f"valid until {expires}",
    }
    for name, value in lines.items():
        click.echo(f"{name:<18} {value}")
    if found.info and found.info.get("notice"):
        click.echo(f"{'notice':<18} {found.info['notice']}")


def _of(current: int, maximum: int, unit: str = "") -> str:
    if current < 0:
        return "unknown"
    return f"{current}{unit}" if maximum >= UNLIMITED else f"{current} of {maximum}{unit}"


def _listed(values: list[Any]) -> str:
    if not values:
        return ""
    more = f", … ({len(values) - 10} more)" if len(values) > 10 else ""
    return f": {', '.join(str(value) for value in values[:10])}{more}"


def _expiry(found: TseInfo) -> str | None:
    if not found.certificates_base64:
        return None
    try:
        leaf = load_certificates(base64.b64decode(found.certificates_base64[0]))[0]
    except (CertificateError, ValueError):
        return None
    return leaf.not_valid_after_utc.date().isoformat()


# ---- init, clients, self-test -------------------------------------------------------------------


@command.command("init")
@common.data_option()
@_scu_option()
@click.option("--client-id", "client_ids", metavar="TEXT", multiple=True, help="Register this client too.")
@common.json_option()
def init(data: Path, scu_id: str | None, client_ids: tuple[str, ...], as_json: bool) -> None:
    """Initialise a TSE. One that is initialised stays as it is.

    Nobody has to: the start receipt of a queue initialises its TSE and registers the queue's client.

    \b
    Example:
      fiskal tse init --data shop --client-id KASSE-1
    """
    with _opened(data, scu_id, create=True) as scu:
        scu.set_tse_state(TseState(current_state=TseStates.INITIALIZED))
        for client_id in client_ids:
            scu.register_client_id(RegisterClientIdRequest(client_id=client_id))
        found = scu.get_tse_info()
    if as_json:
        common.print_json(found)
    else:
        _show(found)


@command.command("clients")
@common.data_option()
@_scu_option()
@click.option("--register", "added", metavar="TEXT", multiple=True, help="Register this client.")
@click.option("--unregister", "removed", metavar="TEXT", multiple=True, help="Unregister this client.")
@common.json_option()
def clients(
    data: Path, scu_id: str | None, added: tuple[str, ...], removed: tuple[str, ...], as_json: bool
) -> None:
    """List the clients of a TSE, register and unregister some.

    A client with open transactions cannot be unregistered.

    \b
    Example:
      fiskal tse clients --data shop --register KASSE-2
    """
    with _opened(data, scu_id) as scu:
        for client_id in added:
            scu.register_client_id(RegisterClientIdRequest(client_id=client_id))
        for client_id in removed:
            scu.unregister_client_id(UnregisterClientIdRequest(client_id=client_id))
        listed = scu.get_tse_info().current_client_ids
    if as_json:
        common.print_json({"clientIds": listed})
        return
    for client_id in listed:
        click.echo(client_id)


@command.command("self-test")
@common.data_option()
@_scu_option()
@common.json_option()
def self_test(data: Path, scu_id: str | None, as_json: bool) -> None:
    """Let a TSE test itself.

    \b
    Example:
      fiskal tse self-test --data shop
    """
    with _opened(data, scu_id) as scu:
        scu.execute_self_test()
    if as_json:
        common.print_json({"ok": True})
    else:
        click.echo("The self test passed.")


# ---- timings ------------------------------------------------------------------------------------


@command.command("timings")
@common.data_option()
@common.url_option()
@common.json_option()
def timings(data: Path, url: str | None, as_json: bool) -> None:
    """Show how busy the TSEs of a running 'fiskal serve' are, and how long calls wait for them.

    Measured since the server was started; it is asked at --url, or at its default address.

    \b
    Example:
      fiskal tse timings --data shop
      fiskal tse timings --data shop --url http://127.0.0.1:1200 --json
    """
    config = configs.load(data)
    host = remote.find(config) if url is None else remote.Remote(url, config)
    if host is None:
        raise common.CommandError(
            "HOST_UNREACHABLE",
            "no running 'fiskal serve' of this folder was found, and only that has measured anything",
            hint="Give its address with --url. 'fiskal bench tse' measures a TSE without a host.",
        )
    try:
        found = msgspec.json.decode(host.get("/timings"), type=list[TseTimings])
    except msgspec.DecodeError as error:
        raise common.CommandError(
            "HOST_UNKNOWN", "the server does not answer as 'fiskal serve' of this version would"
        ) from error
    if as_json:
        common.print_json(found)
        return
    for tse in found:
        click.echo(
            f"SCU {tse.scu_id}: in use {tse.utilisation:.1%} of {tse.seconds:.0f} s, "
            f"{tse.busiest_quarter:.1%} in the busiest quarter of an hour; {tse.waiting} waiting"
        )
        for line in _timing_lines(tse):
            click.echo(line)


def _timing_lines(tse: TseTimings) -> Iterator[str]:
    if not tse.operations:
        return
    yield f"  {'ms':<10}{'calls':>9}  {'wait p50':>9}{'p95':>9}{'p99':>9}{'max':>9}  {'TSE p50':>9}{'p95':>9}{'p99':>9}"
    for each in tse.operations:
        wait, service = each.wait, each.service
        waits = (wait.p50_ms, wait.p95_ms, wait.p99_ms, wait.max_ms)
        left = "".join(f"{value:9.1f}" if wait.count else f"{'–':>9}" for value in waits)
        right = "".join(f"{value:9.1f}" for value in (service.p50_ms, service.p95_ms, service.p99_ms))
        yield f"  {each.operation:<10}{service.count:9}  {left}  {right}"


# ---- pin ----------------------------------------------------------------------------------------


@command.command("pin")
@common.data_option()
@_scu_option()
@click.option(
    "--user",
    type=click.Choice([UserId.ADMIN.value, UserId.TIME_ADMIN.value, UserId.LOGGER.value]),
    default=UserId.ADMIN.value,
    show_default=True,
    help="Whose PIN.",
)
@click.option("--puk", default=TRANSPORT_PUK, show_default=True, help="The PUK.")
@click.option(
    "--new-pin",
    prompt="New PIN",
    hide_input=True,
    confirmation_prompt=True,
    envvar="FISKAL_TSE_PIN",
    show_envvar=True,
    help=f"The new PIN, at least {MIN_PIN_CHARACTERS} characters; asked for if not given.",
)
@common.json_option()
def pin(data: Path, scu_id: str | None, user: str, puk: str, new_pin: str, as_json: bool) -> None:
    """Set a PIN of the software TSE with the PUK, or unblock it. From then on the TSE has users.

    The host then needs 'admin_pin' in the options of the SCU.

    \b
    Example:
      fiskal tse pin --data shop --new-pin 12345
    """
    scu = common.choose_scu(data, scu_id)
    _need_software(scu)
    folder = scu_folder(data, scu.id)
    with _in_use_explained():
        tse = SoftwareTse(folder, create=False)
    api = SeApi(tse, Access.create(folder))
    try:
        api.unblock_pin(user, puk, new_pin)
    finally:
        api.close()
    if as_json:
        common.print_json({"ok": True, "user": user})
    else:
        click.echo(f"The PIN of {user} is set.")
        if user == UserId.ADMIN and "admin_pin" not in scu.options:
            click.echo(f'Put "admin_pin" into the options of SCU {scu.id} in {data / configs.FILE_NAME}.')


def _need_software(scu: ScuConfig) -> None:
    if scu.driver != "software":
        raise common.CommandError(
            "NOT_IMPLEMENTED", f"SCU {scu.id} has the driver {scu.driver}; this is for the software TSE only"
        )


# ---- export -------------------------------------------------------------------------------------


@command.command("export")
@common.data_option()
@_scu_option()
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The TAR archive; it appears when it is complete.",
)
@click.option("--client-id", metavar="TEXT", help="Only the transactions of this client.")
@click.option("--from", "first", metavar="MOMENT", type=first_moment, help="From this logTime on.")
@click.option("--to", "last", metavar="MOMENT", type=last_moment, help="Up to this logTime.")
@click.option("--first-number", metavar="N", type=click.IntRange(0), help="From this transaction on.")
@click.option("--last-number", metavar="N", type=click.IntRange(0), help="Up to this transaction.")
@click.option(
    "--after",
    metavar="COUNTER|FILE",
    help="Only what was signed after this signatureCounter, or after an earlier archive.",
)
@click.option("--resume", is_flag=True, help="Go on with an export that was interrupted.")
@click.option("--erase", is_flag=True, help="Delete from the TSE what is in the archive, once it is safe.")
@common.json_option()
def export(
    data: Path,
    scu_id: str | None,
    out: Path,
    client_id: str | None,
    first: int | None,
    last: int | None,
    first_number: int | None,
    last_number: int | None,
    after: str | None,
    resume: bool,
    erase: bool,
    as_json: bool,
) -> None:
    """Export the log of a TSE as a TAR archive (TR-03153).

    FILE.part grows until the archive is complete; FILE appears whole, and none is overwritten. An interrupted
    export of the whole log, or of what came --after, goes on with --resume. --erase deletes the log that was
    exported, unless transactions are open, when FILE is on the disk and its checksum agrees with the TSE's.

    MOMENT is ticks, ISO 8601 or a date in UTC. Limits are inclusive. Check the archive with 'fiskal verify'.

    \b
    Examples:
      fiskal tse export --data shop --out tse.tar
      fiskal tse export --data shop --out more.tar --after tse.tar
    """
    by_time = first is not None or last is not None
    by_number = first_number is not None or last_number is not None
    filtered = client_id is not None or by_time or by_number
    if (by_time and by_number) or (after is not None and filtered):
        raise click.UsageError("--from/--to, --first-number/--last-number and --after do not go together.")
    if resume and filtered:
        raise click.UsageError("Only an export without filters can be resumed.")
    if erase and (filtered or after is not None or resume):
        raise click.UsageError("--erase needs the whole log in one archive that was not resumed.")
    part = out.with_name(f"{out.name}.part")
    _refuse_to_overwrite(out, part, resume=resume)
    counter = 0 if after is None else _counter(after)
    kept = 0
    if resume and part.exists():
        kept, last_counter = _whole_members(part)
        counter = max(counter, last_counter)
    with _opened(data, scu_id) as scu:
        fetch = ExportFetch(
            scu,
            erase=erase,
            timeout_s=EXPORT_TIMEOUT_S,
            call_timeout_s=CALL_TIMEOUT_S,
            start=_session(scu, client_id, (first, last), (first_number, last_number), counter, erase=erase),
        )
        try:
            with part.open("r+b" if kept else "wb") as file:
                file.seek(kept)
                file.truncate()
                _receive(fetch, file, out.name, head=kept == 0, as_json=as_json)
                file.flush()
                os.fsync(file.fileno())
            # Before the end of the session, which erases: whatever happens now, the archive has its name.
            part.replace(out)
            sync_folder(out.parent)
            ended = fetch.end()
        except BaseException:
            fetch.abandon()
            if filtered:
                part.unlink(missing_ok=True)
            elif part.exists() and not as_json:
                click.echo(f"{part} is kept; --resume goes on with it.", err=True)
            raise
        if not ended.is_valid:
            out.replace(part)
            raise common.CommandError(
                "EXPORT_FAILED",
                "the checksum of the archive is not the TSE's",
                hint=f"It is kept as {part}, and nothing was deleted. Remove it and export again.",
            )
    size = out.stat().st_size
    if as_json:
        common.print_json({"file": str(out), "bytes": size, "isValid": True, "isErased": ended.is_erased})
        return
    click.echo(f"{out}: {size} bytes, checksum verified" + (", log erased" if ended.is_erased else ""))
    if erase and not ended.is_erased:
        click.echo("The TSE did not erase its log: transactions are open, or it does not erase.", err=True)


def _refuse_to_overwrite(out: Path, part: Path, *, resume: bool) -> None:
    """An archive may be the only copy of what the TSE has erased."""
    if out.exists():
        raise common.CommandError("FILE_EXISTS", f"{out} exists already", hint="Choose another name.")
    if part.exists() and not resume:
        raise common.CommandError(
            "FILE_EXISTS",
            f"{part} is what an interrupted export left behind",
            hint="--resume goes on with it; or remove it.",
        )


def _session(
    scu: Scu,
    client_id: str | None,
    times: tuple[int | None, int | None],
    numbers: tuple[int | None, int | None],
    after: int,
    *,
    erase: bool,
) -> Start:
    """How the session of an export begins that has at most one kind of limits."""
    if times != (None, None):
        by_time = StartExportSessionByTimeStampRequest(
            client_id=client_id, from_=times[0] or 0, to=now() if times[1] is None else times[1]
        )
        return lambda deadline: scu.start_export_session_by_time_stamp(by_time, deadline)
    if numbers != (None, None):
        by_number = StartExportSessionByTransactionRequest(
            client_id=client_id, from_=numbers[0] or 0, to=MAX_COUNTER if numbers[1] is None else numbers[1]
        )
        return lambda deadline: scu.start_export_session_by_transaction(by_number, deadline)
    if after:
        if not isinstance(scu, ScuCore):
            raise common.CommandError("NOT_IMPLEMENTED", "this SCU cannot export after a counter")
        return lambda deadline: scu.start_export_session_after(after, deadline)
    whole = StartExportSessionRequest(client_id=client_id, erase=erase)
    return lambda deadline: scu.start_export_session(whole, deadline)


def _receive(fetch: ExportFetch, file: Any, name: str, *, head: bool, as_json: bool) -> None:
    """Write what comes to ``file``; without ``head`` only from the first log message on."""
    rest = None if head else _AfterHead()
    began = time.monotonic()
    with click.progressbar(
        length=1,
        label=f"preparing {name}",
        file=sys.stderr,
        hidden=not common.is_watched(as_json),
        show_eta=False,
    ) as bar:

        def wait(seconds: float) -> bool:
            if fetch.expected < 0:  # how far the TSE is, it does not say
                bar.label = f"preparing {name}, {time.monotonic() - began:.0f} s"
                bar.render_progress()
            time.sleep(seconds)
            return False

        fetch.pause = wait
        for chunk in fetch.chunks():
            file.write(chunk if rest is None else rest.take(chunk))
            bar.label = f"exporting {name}"
            bar.length = max(fetch.expected, 1)
            bar.update(fetch.size - bar.pos)


class _AfterHead:
    """Drops info.csv and the certificates from the beginning of an archive."""

    def __init__(self) -> None:
        self._pending = b""
        self._passed = False

    def take(self, chunk: bytes) -> bytes:
        if self._passed:
            return chunk
        self._pending += chunk
        while len(self._pending) >= tarfile.BLOCKSIZE:
            header = self._pending[: tarfile.BLOCKSIZE]
            name = header[:100].rstrip(b"\0")
            if name != b"info.csv" and not name.endswith(b"_X509.der"):
                self._passed = True
                return self._pending
            size = tarfile.BLOCKSIZE + -(-int(header[124:135], 8) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if len(self._pending) < size:
                break
            self._pending = self._pending[size:]
        return b""


def _whole_members(path: Path) -> tuple[int, int]:
    """How many bytes of an interrupted archive can stay, and the greatest signatureCounter in them."""
    end = last_counter = 0
    size = path.stat().st_size
    with contextlib.suppress(tarfile.TarError, EOFError), tarfile.open(path, "r:") as archive:
        for member in archive:
            member_end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if member_end > size:
                break
            end = member_end
            name = parse_file_name(member.name)
            if name is not None:
                last_counter = max(last_counter, name.signature_counter)
            archive.members = []  # type: ignore[attr-defined]  # an archive has more members than memory
    return (end, last_counter) if last_counter else (0, 0)


def _counter(text: str) -> int:
    """A signatureCounter, or the greatest one of an archive."""
    if text.isdecimal():
        return int(text)
    path = Path(text)
    if not path.exists():
        raise click.UsageError(f"--after {text} is neither a number nor a file.")
    _, counter = _whole_members(path)
    if not counter:
        raise common.CommandError("TAR", f"{path} holds no log messages of a TSE")
    return counter
