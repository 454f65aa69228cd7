"""fiskal.json: the spellings it accepts, what it refuses, and that its documentation is complete."""

from __future__ import annotations

import json
import logging
import re
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fiskal
from fiskal.errors import ConfigurationError
from fiskal.germany import masterdata
from fiskal.host import config as configs
from fiskal.host import keys
from fiskal.host.config import HostConfig, QueueConfig, ScuConfig
from fiskal.queue.settings import QueueSettings, TarFileExportMode

SCU = str(uuid.uuid4())
DOCUMENTATION = Path(fiskal.__file__).parent.parent / "docs" / "configuration.md"


def load(folder: Path, settings: dict[str, Any] | None = None, **members: Any) -> HostConfig:
    content: dict[str, Any] = {
        "version": 1,
        "cash_box_id": str(uuid.uuid4()),
        "access_token": "token",
        "queues": [
            {"id": str(uuid.uuid4()), "client_id": "POS-1", "scu_id": SCU, "settings": settings or {}}
        ],
        "scus": [{"id": SCU}],
        **members,
    }
    (folder / configs.FILE_NAME).write_text(json.dumps(content))
    return configs.load(folder)


def settings_of(folder: Path, **settings: Any) -> QueueSettings:
    return load(folder, settings).queues[0].settings


@pytest.mark.parametrize(
    ("key", "value", "name", "expected"),
    [
        ("FlagOptionalSignatures", False, "flag_optional_signatures", False),
        ("flagoptionalsignatures", "false", "flag_optional_signatures", False),
        ("flag_optional_signatures", 0, "flag_optional_signatures", False),
        ("receiptrequestmode", "1", "receipt_request_mode", 1),
        ("ReceiptRequestMode", 1, "receipt_request_mode", 1),
        (
            "CloseOpenTSETransactionsOnDailyClosing",
            "true",
            "close_open_tse_transactions_on_daily_closing",
            True,
        ),
        ("Sandbox", "True", "sandbox", True),
        ("scu-timeout-ms", "70000", "scu_timeout_ms", 70_000),
        ("SCU-TIMEOUT-MS", 5, "scu_timeout_ms", 5),
        ("duplicate_window_s", 1.5, "duplicate_window_s", 1.5),
        ("DuplicateWindowS", "30", "duplicate_window_s", 30),
        ("TarFileExportMode", "Erased", "tar_file_export_mode", TarFileExportMode.ERASED),
        ("tarfileexportmode", "NONE", "tar_file_export_mode", TarFileExportMode.NONE),
        ("tar_file_export_mode", None, "tar_file_export_mode", TarFileExportMode.NONE),
        ("StoreTemporaryExportFiles", "true", "store_temporary_export_files", True),
        ("tar-export-timeout-s", "60", "tar_export_timeout_s", 60),
    ],
)
def test_settings_under_every_spelling(
    tmp_path: Path, key: str, value: Any, name: str, expected: Any
) -> None:
    assert getattr(settings_of(tmp_path, **{key: value}), name) == expected


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"FlagOptionalSignature": True},
            r"settings: the key 'FlagOptionalSignature' is unknown; did you mean "
            r"'flag_optional_signatures'\?",
        ),
        ({"scu_timeout": 5}, r"did you mean 'scu_timeout_ms'\?"),
        ({"TarFileExportModes": "All"}, r"did you mean 'tar_file_export_mode'\?"),
        ({"xyz": 5}, r"the key 'xyz' is unknown; there are close_open_tse"),
        ({"sandbox": True, "Sandbox": False}, r"'sandbox' is given twice, the second time as 'Sandbox'"),
        ({"sandbox": "perhaps"}, r"Expected `bool`, got `str` - at `\$\.queues\[0\]\.settings\.sandbox`"),
        ({"receiptrequestmode": 2}, "receipt_request_mode must be 0 .* or 1"),
        ({"scu-timeout-ms": 0}, "scu_timeout_ms must be at least 1"),
        ({"duplicate_window_s": -1}, "duplicate_window_s must be from 0"),
        ({"duplicate_window_s": 86_401}, "duplicate_window_s must be from 0"),
        ({"tar_file_export_mode": "some"}, "must be None, All or Erased, not 'some'"),
        ({"EnableTarFileExport": "x"}, "'EnableTarFileExport' must be true or false"),
        ({"StoreTemporaryExportFiles": "x"}, "Expected `bool`, got `str`"),
        ({"tar_export_timeout_s": 0}, "tar_export_timeout_s must be greater than 0"),
        ({"dsfinvk_version": "2,4"}, "dsfinvk_version must be a number such as 2.4"),
        ({"EnableWAL": False}, "the journal is always in WAL mode"),
        ({"scu-max-retries": 0}, "from 1 .asked once. to 10; with 0 no TSE is ever asked"),
        ({"scu-max-retries": 11}, "from 1 .asked once. to 10"),
        ({"scu-max-retries": "a few"}, "Expected `int`, got `str`"),
        ({"scu-retry-delay-ms": -1}, "scu_retry_delay_ms must be from 0"),
        ({"recovery_budget_s": -1}, "recovery_budget_s from 0"),
        (
            {"servicefolder": "/data"},
            "'servicefolder' is no key of this file: the data folder is given with --data",
        ),
        ({"init_masterData": {}}, "put it under 'master_data' at the top"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        load(tmp_path, settings)
    assert str(tmp_path / configs.FILE_NAME) in str(caught.value)


def test_keys_that_ask_for_nothing_are_accepted(tmp_path: Path) -> None:
    asked = {
        "EnableWAL": "true",
    }
    assert set(asked) == set(keys.PENDING)
    assert settings_of(tmp_path, **asked) == QueueSettings()


def test_the_keys_of_the_dsfinvk_export(tmp_path: Path) -> None:
    found = settings_of(tmp_path, DisableDsfinvkExportReferences="true", ExcludeDsfinvkOrders=True)
    assert found == QueueSettings(disable_dsfinvk_export_references=True, exclude_dsfinvk_orders=True)


def test_the_old_key_of_the_tar_export(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        off = settings_of(tmp_path, EnableTarFileExport="false")
        assert off == QueueSettings(tar_file_export_mode=TarFileExportMode.NONE)
        assert "is an old key; write TarFileExportMode None instead" in caplog.text
        assert settings_of(tmp_path, EnableTarFileExport=True) == QueueSettings()
        both = settings_of(tmp_path, EnableTarFileExport=True, tarfileexportmode="None")
        assert both == off
    assert "EnableTarFileExport is ignored beside TarFileExportMode" in caplog.text


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"cashbox": 1}, r"fiskal\.json: \$: the key 'cashbox' is unknown; did you mean 'cash_box_id'\?"),
        (
            {"scus": [{"id": SCU, "mod": 1}]},
            r"\$\.scus\[0\]: the key 'mod' is unknown; did you mean 'mode'\?",
        ),
        ({"scus": [{"id": "one"}]}, "the SCU id 'one' is not a GUID"),
        ({"scus": 5}, r"Expected `array`, got `int` - at `\$\.scus`"),
        ({"queues": [5]}, r"Expected `object`, got `int` - at `\$\.queues\[0\]`"),
        (
            {"master_data": {"Acount": {}}},
            r"\$\.master_data: the key 'Acount' is unknown; did you mean 'Account'\?",
        ),
        (
            {"master_data": {"Account": {"TaxID": "1", "Name": "x"}}},
            r"\$\.master_data\.Account: the key 'Name' .*",
        ),
        (
            {"master_data": {"PosSystems": [{"Typ": "x"}]}},
            r"PosSystems\[0\]: the key 'Typ' is unknown; did you "
            r"mean 'Type'\?",
        ),
        ({"master_data": {"Account": {"TaxId": 5}}}, r"Expected `str \| null`, got `int`"),
        ({"sandbox": True}, r"\$: 'sandbox' belongs into the 'settings' of a queue"),
        ({"TarFileExportMode": "None"}, r"\$: 'TarFileExportMode' belongs into the 'settings' of a queue"),
        ({"init_ftQueue": []}, "'init_ftQueue' is no key of this file: list the queues under 'queues'"),
        ({"version": 2}, "version 2 is not known"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, members: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        load(tmp_path, **members)


def test_scu_modes_as_text_and_as_object(tmp_path: Path) -> None:
    partner = {"TargetScuId": str(uuid.uuid4())}
    for given in (partner, json.dumps(partner)):
        config = load(tmp_path, scus=[{"Id": SCU.upper(), "Mode": "65536", "ModeConfigurationJson": given}])
        (scu,) = config.scus
        assert (scu.id, scu.mode) == (SCU, 0x1_0000)
        assert json.loads(scu.mode_configuration_text or "") == partner
    assert load(tmp_path).scus[0].mode_configuration_text is None


def test_options_of_a_driver_are_taken_as_they_are(tmp_path: Path) -> None:
    config = load(tmp_path, scus=[{"id": SCU, "options": {"Log-Version": {"anything": 1}}}])
    assert config.scus[0].options == {"Log-Version": {"anything": 1}}


def test_master_data_under_both_spellings_and_back(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        master_data={
            "account": {"account_name": "Muster", "TaxId": "5", "VatId": None},
            "Agencies": [None, {"Name": "A"}],
            "pos_systems": None,
        },
    )
    assert config.master_data is not None
    text = masterdata.canonical(config.master_data)
    assert json.loads(text)["Account"]["AccountName"] == "Muster"
    assert [agency["Name"] for agency in json.loads(text)["Agencies"]] == ["A"]
    configs.save(tmp_path, config)
    again = configs.load(tmp_path)
    assert again == config
    assert masterdata.canonical(masterdata.MasterData()) == masterdata.NO_MASTER_DATA


def test_every_key_is_documented() -> None:
    text = DOCUMENTATION.read_text()
    structs: list[type[msgspec.Struct]] = [
        HostConfig,
        QueueConfig,
        ScuConfig,
        QueueSettings,
        *(getattr(masterdata, name) for name in ("Account", "Outlet", "Agency", "PosSystem", "MasterData")),
    ]
    names = {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}
    names |= {*keys.PENDING, *keys.ELSEWHERE}
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_the_defaults_in_the_documentation_are_the_real_ones() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| `([^`]*)` \|", DOCUMENTATION.read_text(), re.MULTILINE))
    real = {field.name: msgspec.to_builtins(field.default) for field in msgspec.structs.fields(QueueSettings)}
    assert {name: json.loads(rows[name]) for name in real} == real


def test_the_example_of_the_documentation_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", DOCUMENTATION.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / configs.FILE_NAME).write_text(example)
    config = configs.load(tmp_path)
    assert config.master_data is not None
    assert [scu.mode for scu in config.scus] == [0x1_0000, 0x2_0000]
