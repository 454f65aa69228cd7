"""Running a connector on this machine: unpacked, initialised, brought up to date, started, watched, ended.

It takes minutes, so it happens in a thread of its own; calls wait for it within their deadline. A connector that
answers already is used and left running. The initialisation pairs the connector with the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fiskal.errors import ConfigurationError
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers.fcc.options import MIN_VERSION, Options
from fiskal.scu.errors import Misconfigured, ScuError, Unreachable
from fiskal.scu.secrets import Secret
from fiskal.scu.transports import TransportError

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
HEALTH_S: Final = 2.0
END_S: Final = 10.0
MAX_PACKAGE_BYTES: Final = 2 << 30
_JAR: Final = Path("lib") / "fiskal-cloud-connector-service.jar"
_DEPLOY_JAR: Final = Path("lib") / "fcc-deploy-archive.jar"
_HEAP: Final = re.compile(r"-Xmx\d+m\s*")
_METRICS: Final = "-Dspring.profiles.active=metrics "
_INITIALISE: Final = "de.fiskal.connector.init.InitializationCLIApplication"
_UPDATE: Final = "de.fiskal.connector.init.UpdateCLIApplication"


def version_of(text: str) -> tuple[int, ...]:
    """``4.4.0`` as numbers; what is behind them does not count."""
    found = re.match(r"\d+(?:\.\d+)*", text.strip())
    return tuple(int(part) for part in found[0].split(".")) if found else ()


class FccProcess:
    """The connector in ``options.fcc_directory``. ``healthy`` asks whether one answers, within the given seconds.

    Nothing happens before :meth:`ensure`.
    """

    def __init__(
        self,
        options: Options,
        folder: Path,
        healthy: Callable[[float], bool],
        *,
        fcc_secret: Secret | None,
        proxy_password: Secret | None = None,
    ) -> None:
        self.folder = folder
        self._options = options
        self._healthy = healthy
        self._secret = fcc_secret
        self._proxy_password = proxy_password
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._worker: threading.Thread | None = None
        self._up = threading.Event()
        self._failed: ScuError | None = None
        self._closed = False
        self.state = "not started"
        """What it is doing, in words."""

    # ---- for the driver -------------------------------------------------------------------------

    def ensure(self, deadline: Deadline) -> None:
        """Return when the connector is up. Raises Unreachable TSE_NOT_AVAILABLE, Misconfigured."""
        process = self._process
        if self._up.is_set() and (process is None or process.poll() is None):
            return
        with self._lock:
            if self._closed:
                raise Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. The connector was closed.")
            if process is not None and process.poll() is not None and self._up.is_set():
                log.error("the connector ended with code %s and is started again", process.returncode)
                self._up.clear()
            if not self._up.is_set() and (self._worker is None or not self._worker.is_alive()):
                self._failed = None
                self._worker = threading.Thread(target=self._work, name="fiskal-fcc", daemon=True)
                self._worker.start()
            worker = self._worker
        while not self._up.wait(min(0.05, deadline.remaining())):
            if worker is not None and not worker.is_alive() and not self._up.is_set():
                raise self._failed or Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available.")
            if deadline.expired:
                raise Unreachable(
                    "TSE_NOT_AVAILABLE", f"The TSE is not available. The connector: {self.state}."
                )

    def lost(self) -> None:
        """Nobody answered: the next :meth:`ensure` looks again, and starts it if it is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            self._up.clear()

    def _work(self) -> None:
        try:
            self._bring_up()
            self.state = "up"
            self._up.set()
        except ScuError as error:
            self._failed = error
            self.state = error.message
            log.error("the connector could not be started: %s", error.message)  # noqa: TRY400 - expected
        except OSError as error:
            self._failed = Misconfigured("TSE_NOT_AVAILABLE", f"The connector cannot be started: {error}.")
            self.state = self._failed.message
            log.error("%s", self._failed.message)  # noqa: TRY400 - expected

    def _bring_up(self) -> None:
        self.state = "asking whether it runs"
        if self._healthy(HEALTH_S):
            log.info("a connector is running already and is used")
            self._process = None
            return
        self._prepare()
        self._start()

    # ---- installation ---------------------------------------------------------------------------

    def _prepare(self) -> None:
        wanted = self._options.fcc_version
        if version_of(wanted) < MIN_VERSION:
            raise Misconfigured(
                "TSE_NOT_AVAILABLE", f"FCC {wanted} is too old: the service takes 4.4.0 and newer."
            )
        jar = self.folder / _JAR
        if not jar.exists():
            self._unpack()
        elif version_of(jar_version(jar)) < version_of(wanted):
            if self._options.fcc_download_uri is None:
                raise Misconfigured(
                    "TSE_NOT_AVAILABLE",
                    f"FCC {jar_version(jar)} is unpacked in {self.folder}, fcc_version wants {wanted}: unpack that "
                    "one, or give fcc_download_uri and fcc_download_sha256.",
                )
            self._unpack()
        installed = self._installed_version()
        if installed is None or not (self.folder / ".fccdata" / "db").exists():
            self._configure(_INITIALISE, "initialising")
        elif version_of(installed) < version_of(wanted):
            self._configure(_UPDATE, "updating")

    def _installed_version(self) -> str | None:
        for place in (
            Path(".fccdata/install/fcc-version.dat"),
            Path(".fccdata/fcc-version.dat"),
            Path("fcc-version.dat"),
        ):
            with contextlib.suppress(OSError):
                return (self.folder / place).read_text("utf-8", "replace").strip()
        return None

    def _unpack(self) -> None:
        """Fetch the package, compare its hash, and unpack it over what is there but for the connector's data."""
        uri, sha256 = self._options.fcc_download_uri, self._options.fcc_download_sha256
        if uri is None or sha256 is None:
            raise Misconfigured(
                "TSE_NOT_AVAILABLE",
                f"There is no connector in {self.folder}: unpack it there, or give fcc_download_uri and "
                "fcc_download_sha256.",
            )
        self.state = "downloading"
        self.folder.mkdir(parents=True, exist_ok=True)
        package = self.folder / "fcc-package.zip"
        parts = urlsplit(uri)
        client = self._options.client(f"{parts.scheme}://{parts.netloc}", self.folder)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            with package.open("wb") as file:
                answer, _ = client.download(path, file, idle_s=60, max_bytes=MAX_PACKAGE_BYTES)
            if not answer.ok:
                raise Unreachable(
                    "TSE_NOT_AVAILABLE", f"The connector cannot be downloaded: HTTP {answer.status}."
                )
            with package.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256.lower():
                raise Misconfigured(
                    "TSE_NOT_AVAILABLE",
                    f"The downloaded connector has SHA-256 {found}, not fcc_download_sha256: it is not used.",
                )
            unzip(package, self.folder)
        except TransportError as error:
            raise Unreachable("TSE_NOT_AVAILABLE", f"The connector cannot be downloaded. {error}") from error
        except zipfile.BadZipFile as error:
            raise Misconfigured(
                "TSE_NOT_AVAILABLE", f"The downloaded connector is no ZIP file: {error}."
            ) from error
        finally:
            client.close()
            package.unlink(missing_ok=True)
        if os.name == "posix":
            for pattern in ("*.sh", "bin/jre/bin/*", "bin/jre/lib/*"):
                for file_path in self.folder.glob(pattern):
                    if file_path.is_file():
                        file_path.chmod(file_path.stat().st_mode | 0o111)

    def _configure(self, main: str, what: str) -> None:
        """Run the connector's own program that initialises or updates it. Its secret is among the arguments, because
        it takes it nowhere else."""
        options = self._options
        if not options.fcc_id or self._secret is None:
            raise Misconfigured(
                "AUTH_FAILED", f"{what.capitalize()} the connector needs fcc_id and fcc_secret."
            )
        self.state = what
        java = self.folder / "bin" / "jre" / "bin" / ("java.exe" if os.name == "nt" else "java")
        command = [str(java), "-cp", str(_DEPLOY_JAR)]
        if options.fcc_heap_memory is not None:
            command.append(f"-Xmx{options.fcc_heap_memory}m")
        command += [main, "--fcc_target_environment", "STABLE", "--fcc_id", options.fcc_id]
        command += ["--fcc_secret", self._secret.reveal(), "--fcc_server_port", str(options.fcc_port)]
        if options.proxy is not None:
            proxy = urlsplit(options.proxy)
            command += ["--fcc_proxy_enabled", "1", "--fcc_proxy_server", proxy.hostname or ""]
            command += ["--fcc_proxy_port", str(proxy.port or 3128)]
            if options.proxy_username is not None:
                password = "" if self._proxy_password is None else self._proxy_password.reveal()
                command += ["--fcc_proxy_auth_enabled", "1", "--fcc_proxy_username", options.proxy_username]
                command += ["--fcc_proxy_password", password]
        log.info("%s the connector in %s", what, self.folder)
        with subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=os.name == "posix",
        ) as process:
            self._process = process
            try:
                code = process.wait(options.process_timeout_s)
            except subprocess.TimeoutExpired:
                _end(process)
                raise Misconfigured(
                    "TSE_NOT_AVAILABLE",
                    f"{what.capitalize()} the connector took more than {options.process_timeout_s} s.",
                ) from None
            finally:
                self._process = None
        if code != 0:
            raise Misconfigured(
                "TSE_NOT_AVAILABLE",
                f"{what.capitalize()} the connector ended with code {code}: check fcc_id, fcc_secret and the way to "
                "fiskal.cloud, and see its log in .fccdata.",
            )

    # ---- running --------------------------------------------------------------------------------

    def _script(self) -> Path:
        """The script that starts it, with heap and metrics as configured."""
        path = self.folder / ("run_fcc.bat" if os.name == "nt" else "run_fcc.sh")
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise Misconfigured("TSE_NOT_AVAILABLE", f"{path} cannot be read: {error.strerror}.") from error
        root = re.search(r'"?-DFCC_ROOT_DIR=([^"\s]+|[^"]+(?="))', text)
        if root and _same_place(root[1]) != _same_place(str(self.folder)):
            log.warning("%s names the directory %s, but is in %s", path.name, root[1], self.folder)
        changed = configured_script(
            text, self._options.fcc_heap_memory, metrics=self._options.enable_fcc_metrics
        )
        if changed != text:
            path.write_text(changed, "utf-8")
        return path

    def _start(self) -> None:
        script = self._script()
        self.state = "starting"
        command = [str(script)] if os.name == "nt" else ["sh", script.name]
        with self._lock:
            if self._closed:
                raise Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. The connector was closed.")
            process = self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=os.name == "posix",
            )
        until = time.monotonic() + self._options.process_timeout_s
        while time.monotonic() < until and not self._closed:
            if process.poll() is not None:
                raise Unreachable(
                    "TSE_NOT_AVAILABLE",
                    f"The TSE is not available. The connector ended at once with code {process.returncode}: see its "
                    "log in .fccdata, and whether its port is taken.",
                )
            if self._healthy(HEALTH_S):
                return
            time.sleep(POLL_S)
        _end(process)
        raise Unreachable(
            "TSE_NOT_AVAILABLE",
            f"The TSE is not available. The connector was not up after {self._options.process_timeout_s} s.",
        )

    def close(self) -> None:
        """End the connector if this object started it."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _end(process)
        worker = self._worker
        if worker is not None:
            worker.join(END_S)


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process and what it started, politely first."""
    for sign in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with contextlib.suppress(OSError):
            if os.name == "posix":
                os.killpg(process.pid, sign)
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return


def configured_script(text: str, heap_mb: int | None, *, metrics: bool) -> str:
    """The start script with the heap in MiB (None: as it is) and with or without the metrics' profile."""
    text = text.replace(_METRICS, "")
    jar = "lib/fiskal-cloud-connector-service.jar"
    place = text.replace("\\", "/").find(jar)
    if place < 0:
        return text
    place += len(jar)
    if heap_mb is not None:
        if _HEAP.search(text):
            text = _HEAP.sub(f"-Xmx{heap_mb}m ", text, count=1)
        else:
            text = f"{text[:place]} -Xmx{heap_mb}m{text[place:]}"
    if metrics:
        text = f"{text[:place]} {_METRICS.strip()}{text[place:]}"
    return text


def _same_place(text: str) -> str:
    return text.strip("\"' ").replace("\\", "/").rstrip("/").lower()


def jar_version(jar: Path) -> str:
    """``Implementation-Version`` of a JAR; "" without one."""
    try:
        with zipfile.ZipFile(jar) as archive:
            manifest = archive.read("META-INF/MANIFEST.MF").decode("utf-8", "replace")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        log.warning("the version of %s cannot be read: %s", jar, error)
        return ""
    found = re.search(r"^Implementation-Version:\s*(\S+)", manifest, re.MULTILINE)
    return found[1] if found else ""


def unzip(package: Path, folder: Path) -> None:
    """Unpack into ``folder``; the connector's data there stays. Raises Misconfigured for a name that leads out."""
    with zipfile.ZipFile(package) as archive:
        for name in _names(archive):
            target = (folder / name).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise Misconfigured(
                    "TSE_NOT_AVAILABLE", f"The package holds {name!r}, which leads out of its folder."
                )
        for name in _names(archive):
            if not name.startswith((".fccdata/", ".install/")):
                archive.extract(name, folder)


def _names(archive: zipfile.ZipFile) -> Iterator[str]:
    yield from archive.namelist()


def directory(options: Options, folder: Path) -> Path:
    """Where the connector is. Raises ConfigurationError if this cannot be known."""
    if options.fcc_directory is not None:
        return folder / Path(options.fcc_directory).expanduser()
    if not options.fcc_id or not re.fullmatch(r"[A-Za-z0-9_.\-]+", options.fcc_id):
        raise ConfigurationError("the driver 'fcc' needs fcc_uri, fcc_directory or fcc_id.")
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        local = Path.home() / ".local" / "share"
    existing = local / "fiskaltrust" / "FCC" / options.fcc_id
    return existing if existing.is_dir() else folder / "fcc" / options.fcc_id
