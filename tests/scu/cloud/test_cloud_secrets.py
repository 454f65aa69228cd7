"""No secret gets into a log, an error, a file of the SCU or a simulator's journal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from fiskal.scu.contract import RegisterClientIdRequest
from fiskal.scu.errors import ScuError
from fiskal.simulators.fiskaly import Account, ReadyTss
from tests.support.cloud import FAMILIES, Site, Till, export


@pytest.mark.parametrize("name", FAMILIES)
def test_secrets_are_nowhere(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    for logger in ("fiskal", "urllib3"):
        caplog.set_level(1, logger)
    family = FAMILIES[name]
    secrets = {
        "fiskaly": {"api_secret": "s3cret-of-the-key", "api_key": "key-0815", "admin_pin": "987654"},
        "fcc": {"ers_code": "s3cret-ers", "activation_token": "s3cret-activation"},
        "swissbit_cloud": {"tse_access_token": "s3cret-token"},
    }[name]
    settings = {
        "fiskaly": {
            "accounts": (Account(api_key="key-0815", api_secret="s3cret-of-the-key"),),
            "tss": (ReadyTss(admin_pin="987654", clients=("POS-1",)),),
        },
        "fcc": {"ers_code": "s3cret-ers", "activation_token": "s3cret-activation"},
        "swissbit_cloud": {"access_token": "s3cret-token"},
    }[name]
    site = family.simulate(tmp_path, **settings)
    shown: list[str] = []
    try:
        till = Till(family.open(site, **secrets))
        till.sell()
        with contextlib.suppress(ScuError):
            till.scu.register_client_id(RegisterClientIdRequest(client_id="POS-9"))
        export(till.scu)
        wrong = Till(family.open(site, "wrong", **dict.fromkeys(secrets, "wr0ng-secret")))
        for call in (
            wrong.start,
            lambda: wrong.scu.register_client_id(RegisterClientIdRequest(client_id="X")),
        ):
            with contextlib.suppress(ScuError):
                try:
                    call()
                except ScuError as error:
                    shown.append(repr(error) + str(error.__cause__))
                    raise
        assert shown
        site.fault(count=None, reset=True)
        with contextlib.suppress(ScuError):
            try:
                till.start()
            except ScuError as error:
                shown.append(repr(error) + str(error.__cause__))
                raise
        tokens = _tokens(site)
        shown += [
            repr(vars(till.scu._driver)),
            caplog.text,
            msgspec.json.encode(site.sim.journal.entries()).decode(),
        ]
        shown += [
            path.read_bytes().decode("latin-1") for path in (tmp_path / "scu").rglob("*") if path.is_file()
        ]
    finally:
        site.close()
    assert len(caplog.text) > 1000
    for secret in (*secrets.values(), "wr0ng-secret", *tokens):
        for text in shown:
            place = text.find(secret)
            assert place < 0, text[max(0, place - 200) : place + 100]


def _tokens(site: Site) -> list[str]:
    return [*getattr(site.sim.app, "_tokens", {}), *getattr(site.sim.app, "_refresh", {})]
