"""Running a connector: initialised once, started, watched, attached to, ended; in a directory that looks like one."""

from __future__ import annotations

import os
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fiskal.clock import now
from fiskal.errors import ConfigurationError
from fiskal.scu.contract import Deadline
from fiskal.scu.drivers import fcc
from fiskal.scu.drivers.fcc.hosting import configured_script, jar_version, unzip, version_of
from fiskal.scu.errors import Misconfigured, ScuError, Unreachable
from fiskal.simulators.fcc.folder import make_fcc_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stub in the place of Java is a shell script")


class Connector:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fcc with blanks"
        self.folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.record = make_fcc_folder(self.folder, port=self.port, ers_code="s3cret")
        self.scu_folder = folder / "scu"
        self.drivers: list[Any] = []

    def open(self, **options: Any) -> Any:
        chosen = fcc.Options(
            **{
                "ers_code": "s3cret",
                "fcc_port": self.port,
                "fcc_directory": str(self.folder),
                "fcc_id": "id-1",
                "fcc_secret": "secret-1",
                "process_timeout_s": 60,
                **options,
            }
        )
        self.drivers.append(fcc.open_driver(self.scu_folder, chosen, now))
        return self.drivers[-1]

    def calls(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []

    def close(self) -> None:
        for driver in self.drivers:
            driver.close()


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[Connector]:
    connector = Connector(tmp_path)
    yield connector
    connector.close()


def test_initialise_start_crash_attach_end(connector: Connector) -> None:
    driver = connector.open(fcc_heap_memory=512)
    with pytest.raises(Unreachable) as caught:  # it takes longer than this caller has
        driver.info(Deadline(0.05))
    assert caught.value.code == "TSE_NOT_AVAILABLE"
    driver._process.ensure(Deadline(60))
    initialise, start = connector.calls()
    assert "InitializationCLIApplication" in initialise
    assert "--fcc_id id-1 --fcc_secret secret-1" in initialise
    assert "-Xmx512m" in start
    assert "Bootstrap start" in start
    serial = driver.info(Deadline(30)).serial_number_octet

    process = driver._process._process
    process.kill()
    process.wait(10)
    assert driver.info(Deadline(60)).serial_number_octet == serial  # started again, with its data
    assert len(connector.calls()) == 3

    second = connector.open()
    assert second.info(Deadline(30)).serial_number_octet == serial
    assert len(connector.calls()) == 3  # it uses the one that runs
    second.close()
    assert driver._process._process.poll() is None  # and leaves it alone
    driver.close()
    with pytest.raises(OSError, match=r".*"):
        socket.create_connection(("127.0.0.1", connector.port), 1).close()


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("fail", {}, "ended with code 1"),
        ("hang", {"process_timeout_s": 0.5}, "took more than"),
        ("exit", {}, "ended at once with code 3"),
        ("", {"fcc_version": "4.3.9"}, "too old"),
        ("", {"fcc_version": "5.0"}, "fcc_download_uri"),
        ("", {"fcc_secret": None}, "fcc_secret"),
    ],
)
def test_what_keeps_it_from_starting(
    connector: Connector, what: str, options: dict[str, Any], words: str
) -> None:
    if what:
        (connector.folder / what).touch()
    driver = connector.open(**options)
    with pytest.raises(ScuError, match=words) as caught:
        driver.info(Deadline(30))
    assert isinstance(caught.value, Unreachable | Misconfigured)
    assert "secret-1" not in str(caught.value)


def test_no_directory_known(tmp_path: Path) -> None:
    for options in ({}, {"fcc_id": "../../x"}):
        with pytest.raises(ConfigurationError, match="fcc_uri"):
            fcc.open_driver(tmp_path, fcc.Options(ers_code="1", **options), now)


SCRIPT = '"./bin/jre/bin/java" "-DFCC_ROOT_DIR=/x" -cp lib/fiskal-cloud-connector-service.jar {}de.x.Bootstrap start\n'


def test_heap_and_metrics_in_the_script() -> None:
    plain, small = SCRIPT.format(""), SCRIPT.format("-Xmx256m ")
    assert configured_script(plain, None, metrics=False) == plain
    assert configured_script(plain, 256, metrics=False) == small
    assert configured_script(small, 1024, metrics=False) == SCRIPT.format("-Xmx1024m ")
    with_metrics = configured_script(small, 256, metrics=True)
    assert with_metrics == SCRIPT.format("-Dspring.profiles.active=metrics -Xmx256m ")
    assert configured_script(with_metrics, 256, metrics=True) == with_metrics
    assert configured_script(with_metrics, None, metrics=False) == small
    assert configured_script("echo hello\n", 256, metrics=True) == "echo hello\n"


def test_versions(tmp_path: Path) -> None:
    assert version_of("4.4.0") < version_of("4.10.0-rc1") == (4, 10, 0)
    assert version_of("nonsense") == ()
    (tmp_path / "no.jar").write_bytes(b"no zip")
    assert jar_version(tmp_path / "no.jar") == ""


def test_a_package_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr("lib/a.jar", "a")
        archive.writestr(".fccdata/db", "new")
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("lib/b.jar", "b")
        archive.writestr("../evil", "x")
    target = tmp_path / "target"
    (target / ".fccdata").mkdir(parents=True)
    (target / ".fccdata" / "db").write_text("old")
    unzip(good, target)
    assert (target / "lib" / "a.jar").read_text() == "a"
    assert (target / ".fccdata" / "db").read_text() == "old"
    with pytest.raises(Misconfigured, match="leads out"):
        unzip(bad, target)
    assert not (tmp_path / "evil").exists()
    assert not (target / "lib" / "b.jar").exists()
