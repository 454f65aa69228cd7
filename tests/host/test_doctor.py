"""What the doctor finds in every mode, and from the journal alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fiskal.cli import main
from fiskal.errors import StoreError
from fiskal.host import config as configs
from fiskal.host.doctor import Finding, QueueDiagnosis
from fiskal.scu.contract import UnregisterClientIdRequest
from fiskal.scu.errors import OutcomeUnknown, Unreachable
from fiskal.store import Change, open_store
from tests.support.shop import DE, Shop

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available. Nobody answers.")
FORCE = 0x4000_0000


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.close()


def examine(shop: Shop, *, probe: bool = True) -> tuple[bool, QueueDiagnosis]:
    found = shop.middleware.diagnose(probe=probe)
    (queue,) = found.queues
    assert found.ok == (not queue.bad)
    return found.ok, queue


def finding(queue: QueueDiagnosis, code: str) -> Finding:
    (found,) = [each for each in queue.findings if each.code == code]
    return found


def test_a_queue_that_works(shop: Shop) -> None:
    ok, queue = examine(shop)
    assert ok
    assert queue.modes == ["active"]
    assert queue.tse is not None
    assert queue.tse.ready
    assert "not certified" in finding(queue, "ACTIVE").text


def test_a_new_queue_is_fine_until_it_gets_receipts(tmp_path: Path) -> None:
    shop = Shop(tmp_path, start=False)
    ok, queue = examine(shop)
    assert ok
    assert queue.modes == ["new"]
    assert "start receipt" in finding(queue, "NEW").todo
    shop.sale()
    ok, queue = examine(shop)
    assert not ok
    assert "It has already got 1." in finding(queue, "NEW").text
    shop.close()


def test_failed_mode_says_since_when_why_and_what_to_do(shop: Shop) -> None:
    shop.tse.down = DOWN
    shop.sale("A")
    shop.sale("B")
    ok, queue = examine(shop, probe=False)
    assert not ok
    assert queue.modes == ["failed"]
    found = finding(queue, "FAILED_MODE")
    assert found.since is not None
    assert found.since.startswith("2023-11-14T22:13:")
    assert found.why == DOWN.message
    assert "2 receipts got no signature" in found.text
    assert found.todo == (
        "See that the TSE is connected and powered, then send a zero receipt (0x0002): only that leaves failed mode."
    )
    assert "still does not answer. Bring it back" in finding(examine(shop)[1], "FAILED_MODE").todo
    shop.tse.down = Unreachable("TSE_NOT_AVAILABLE", "The TSE is not available. Its door is open.")
    shop.send(0x02, "Z")
    found = finding(examine(shop)[1], "FAILED_MODE")
    assert found.why == f"{DOWN.message} The last attempt to leave it failed: {shop.tse.down}"
    shop.tse.down = None
    assert finding(examine(shop)[1], "FAILED_MODE").todo.startswith(
        "The TSE answers again: send a zero receipt"
    )
    shop.tse.scu.unregister_client_id(UnregisterClientIdRequest(client_id="POS-1"))
    assert "'POS-1' is not registered" in finding(examine(shop)[1], "FAILED_MODE").todo


def test_both_modes_at_once(shop: Shop) -> None:
    shop.sale("L", case=0x01 | 0x1_0000)
    assert examine(shop)[1].modes == ["late signing"]
    shop.tse.down = DOWN
    shop.sale("A")
    ok, queue = examine(shop)
    assert not ok
    assert queue.modes == ["failed", "late signing"]
    assert "1 receipt came with the flag" in finding(queue, "LATE_SIGNING").text
    shop.tse.down = None
    shop.send(0x02, "Z")
    assert examine(shop)[0]


@pytest.mark.parametrize(
    ("case", "mode", "code", "ok"),
    [(0x04, "stopped", "STOPPED", True), (0x19, "migrated", "MIGRATED", True)],
)
def test_a_queue_out_of_service(shop: Shop, case: int, mode: str, code: str, ok: bool) -> None:
    assert shop.send(case, "END")["ftState"] == DE
    found, queue = examine(shop)
    assert found is ok
    assert queue.modes == [mode]
    assert finding(queue, code).todo


def test_a_switch_in_progress(tmp_path: Path) -> None:
    def two(config: configs.HostConfig) -> None:
        target = configs.ScuConfig(id=configs.guid("", None), mode=0x20000)
        target.mode_configuration_json = {"SourceScuId": config.scus[0].id}
        config.scus[0].mode = 0x10000
        config.scus[0].mode_configuration_json = {"TargetScuId": target.id}
        config.scus.append(target)

    shop = Shop(tmp_path, prepare=two)
    shop.send(0x17 | FORCE, "SW")
    ok, queue = examine(shop)
    assert not ok
    assert queue.modes == ["switching"]
    found = finding(queue, "SCU_SWITCH")
    assert found.since is not None
    assert "0x0018" in found.todo
    shop.close()


def test_a_tse_that_is_gone_is_found_before_the_next_receipt(shop: Shop) -> None:
    shop.tse.down = DOWN
    ok, queue = examine(shop)
    assert not ok
    assert finding(queue, "TSE_UNREACHABLE").why == DOWN.message
    assert examine(shop, probe=False)[0]


def test_what_should_be_known_is_noted_and_nothing_wrong(shop: Shop) -> None:
    def codes() -> list[str]:
        ok, queue = examine(shop)
        assert ok
        return [each.code for each in queue.findings]

    shop.clock.advance(40 * 3600)
    assert codes() == ["ACTIVE"]  # nothing was sold since the start receipt
    shop.send(0x08, "E")
    assert codes() == ["ACTIVE", "NO_CLOSING"]
    shop.send(0x07, "D")
    shop.send(0x08, "F")
    shop.clock.advance(25 * 3600)
    assert codes() == ["ACTIVE", "OLD_TRANSACTIONS"]
    shop.send(0x07, "D")
    shop.clock.advance(40 * 3600)
    assert codes() == ["ACTIVE"]


def test_what_a_failure_left_behind_is_noted(shop: Shop) -> None:
    shop.tse.fail_after("start_transaction", OutcomeUnknown("NO_RESPONSE", "lost"))
    shop.sale("A")
    finding(examine(shop)[1], "DOUBTFUL_STARTS")
    shop.send(0x02, "Z")
    shop.tse.fail_before("finish_transaction", DOWN)
    shop.sale("B")
    codes = [each.code for each in examine(shop)[1].findings]
    assert codes == ["FAILED_MODE", "ORPHANS"]


# ---- the command ------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["doctor", "--data", str(folder), *arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_the_command_works_while_the_folder_is_in_use_and_when_it_is_not(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiskal.cli.common.DEFAULT_PORT", 1)  # where nobody answers
    shop.tse.down = DOWN
    shop.sale("A")
    status, out, _ = run(shop.folder)
    assert status == 1
    assert "Another process has the journal open." in out
    assert "(POS-1): failed" in out
    assert "why   The TSE is not available. Nobody answers." in out
    status, out, _ = run(shop.folder, "--json")
    found = json.loads(out)
    assert (status, found["ok"]) == (1, False)
    assert [each["code"] for each in found["findings"]] == ["IN_USE"]
    assert found["queues"][0]["modes"] == ["failed"]
    shop.close()
    status, out, _ = run(shop.folder)
    assert status == 1
    assert "The TSE answers again: send a zero receipt" in out
    shop.open()
    shop.send(0x02, "Z")
    status, out, _ = run(shop.folder)
    assert (status, out.splitlines()[-1]) == (0, "Nothing is wrong.")


def test_what_cannot_be_examined(tmp_path: Path) -> None:
    status, _, err = run(tmp_path)
    assert status == 2
    assert "fiskal init" in err
    CliRunner().invoke(main, ["init", "--data", str(tmp_path / "new")])
    status, _, err = run(tmp_path / "new", "--url", "http://127.0.0.1:1", "--json")
    assert status == 2
    assert json.loads(err)["error"]["code"] == "HOST_UNREACHABLE"
    (tmp_path / "new" / configs.STORE_NAME).write_bytes(b"no database" * 1000)
    status, _, err = run(tmp_path / "new")
    assert status == 2
    assert "(STORE)" in err


def test_a_journal_that_cannot_be_written_is_bad_and_still_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.close()

    def refuse(*_: Any, **__: Any) -> Any:
        raise StoreError("the disk is full")

    monkeypatch.setattr("fiskal.open", refuse)
    status, out, _ = run(shop.folder)
    assert status == 1
    assert "BAD  The journal cannot be opened for writing: nothing can be sold." in out
    assert "why   the disk is full" in out
    assert "(POS-1): active" in out
    shop.open()


# ---- reading beside the owner -----------------------------------------------------------------------


def test_a_reader_sees_what_the_owner_commits_and_writes_nothing(shop: Shop, tmp_path: Path) -> None:
    reader = open_store(tmp_path / configs.STORE_NAME, read_only=True)
    before = reader.queues()[0].ftReceiptNumerator
    reader.close()
    shop.sale("A")
    reader = open_store(tmp_path / configs.STORE_NAME, read_only=True)
    assert reader.queues()[0].ftReceiptNumerator == before + 1
    assert len(list(reader.iter_items(1))) == before + 1
    with pytest.raises(StoreError, match="open for reading only"):
        reader.commit(Change())
    reader.close()
    with pytest.raises(StoreError, match="closed"):
        reader.queues()
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "none.sqlite", read_only=True)
