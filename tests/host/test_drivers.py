"""Drivers by the name they have in fiskal.json: a day at a simulated device, and what is wrong in the configuration."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fiskal.errors import ConfigurationError
from fiskal.host import config as configs
from fiskal.host.config import ScuConfig
from fiskal.host.drivers import DRIVERS, check_driver, open_scu
from fiskal.host.middleware import Middleware
from fiskal.scu.contract import StartTransactionRequest
from fiskal.simulators import diebold_nixdorf, epson, fiskaly
from fiskal.simulators.plan import Plan
from fiskal.store import exportfile
from fiskal.tse.tarverify import verify_tar
from tests.epson.conftest import SECRETS
from tests.support.cloud import CA
from tests.support.shop import DE, IMPLICIT

Device = tuple[dict[str, Any], Any]
"""Options of the driver, and the engine of the device."""


@contextmanager
def an_epson(folder: Path) -> Iterator[Device]:
    settings = epson.Settings(
        folder=str(folder / "device"), port=0, plan=Plan(scale=0), export_chunk_bytes=3000
    )
    with epson.Simulator(settings) as simulator:
        yield {"port": simulator.port, **SECRETS}, simulator.device.tse


@contextmanager
def a_diebold_nixdorf(folder: Path) -> Iterator[Device]:
    settings = diebold_nixdorf.Settings(
        folder=str(folder / "device"), initialized=True, clients=["KASSE-1"], plan=Plan(scale=0)
    )
    with diebold_nixdorf.tcp(settings) as running:
        pins = {"admin_pin": "12345", "time_admin_pin": "12345", "allow_default_pins": True}
        options = {"url": f"tcp://{running.place}", **pins}
        yield options, running.device.tse


@contextmanager
def a_fiskaly(folder: Path) -> Iterator[Device]:
    ready, account = fiskaly.ReadyTss(clients=("KASSE-1",)), fiskaly.Account()
    simulator = fiskaly.simulate(fiskaly.Settings(tss=(ready,), plan=Plan(scale=0)), ca=CA)
    ca = folder / "ca.pem"
    ca.write_bytes(CA.pem)
    try:
        yield (
            {
                "api_endpoint": simulator.url + "/api/v2",
                "api_key": account.api_key,
                "api_secret": account.api_secret,
                "tss_id": ready.tss_id,
                "admin_pin": ready.admin_pin,
                "ca_file": str(ca),
            },
            None,
        )
    finally:
        simulator.close()


DEVICES = {"epson": an_epson, "diebold-nixdorf": a_diebold_nixdorf, "fiskaly": a_fiskaly}


@pytest.mark.parametrize("name", DEVICES)
def test_a_day_at_a_device(name: str, tmp_path: Path) -> None:
    """Start receipt, sales, daily closing; the archived log verifies, and every sale is in it once."""
    with DEVICES[name](tmp_path) as (options, engine):
        folder = tmp_path / "shop"
        config = configs.new_config(client_id="KASSE-1")
        config.scus[0].driver, config.scus[0].options = name, options
        configs.save(folder, config)
        with Middleware(configs.load(folder), folder) as middleware:
            day = Day(middleware)
            assert day.send(0x03)["ftState"] == DE
            for number in range(3):
                assert day.send(0x01, f"S-{number}", **day.basket)["ftState"] == DE
            assert day.send(0x07, "Z")["ftState"] == DE
            assert middleware.wait_for_exports(30)
            (archive,) = middleware.store.iter_exports(day.queue_id)
            tar = b"".join(exportfile.tar_chunks(middleware.store, archive))
        report = verify_tar(io.BytesIO(tar), [] if engine is None else engine.chain.certificates[-1:])
        assert report.ok, report.findings
        assert archive.State == 2


class Day:
    """A register of one host."""

    basket: ClassVar[dict[str, Any]] = {
        "cbChargeItems": [
            {
                "Quantity": 1,
                "Description": "Ware",
                "Amount": 7.5,
                "VATRate": 19,
                "ftChargeItemCase": DE | 0x01,
            }
        ],
        "cbPayItems": [{"Quantity": 1, "Description": "Bar", "Amount": 7.5, "ftPayItemCase": DE | 0x01}],
    }

    def __init__(self, middleware: Middleware) -> None:
        self._middleware = middleware
        self.queue_id = middleware.config.queues[0].id

    def send(self, case: int, reference: str = "R-1", **members: Any) -> dict[str, Any]:
        request = {
            "ftCashBoxID": self._middleware.config.cash_box_id,
            "cbTerminalID": "T1",
            "cbReceiptReference": reference,
            "cbReceiptMoment": "2026-11-14T22:13:20Z",
            "cbChargeItems": [],
            "cbPayItems": [],
            "ftReceiptCase": DE | IMPLICIT | case,
            **members,
        }
        answer: dict[str, Any] = json.loads(self._middleware.sign_json(json.dumps(request).encode()))
        return answer


def test_a_driver_that_is_not_there_is_named_with_the_one_that_is_meant() -> None:
    with pytest.raises(ConfigurationError, match=r"no driver 'swisbit' \(did you mean 'swissbit'\?\)"):
        check_driver(ScuConfig(id="1", driver="swisbit"))
    for name in DRIVERS:
        check_driver(ScuConfig(id="1", driver=name))


@pytest.mark.parametrize(
    ("driver", "options", "message"),
    [
        ("software", {"durabel": True}, r"'durabel' \(did you mean 'durable'\?\)"),
        ("software", {"durable": "yes"}, "it is true or false"),
        ("epson", {"prot": 8009}, "Did you mean 'port'"),
        ("swissbit", {"acess": "files"}, "Did you mean 'access'"),
        ("cryptovision", {"pth": "/media/TSE"}, "has no option 'pth'"),
        ("diebold-nixdorf", {"ulr": "tcp://localhost:1"}, "has no option 'ulr'"),
        ("fiskaly", {"api_kye": "x"}, "has no option 'api_kye'"),
    ],
)
def test_a_wrong_option_is_an_error_with_the_right_spelling(
    driver: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_scu(ScuConfig(id="1", driver=driver, options=options), tmp_path)


def test_the_software_tse_is_a_driver_like_any(tmp_path: Path) -> None:
    scu = open_scu(ScuConfig(id="1", options={"curve": "secp384r1"}), tmp_path)
    try:
        with pytest.raises(Exception, match="Uninitialized"):
            scu.start_transaction(StartTransactionRequest(client_id="KASSE-1"))
    finally:
        scu.close()
