"""Open transactions side by side; an orphan is closed only if that is certainly what it is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from click.testing import CliRunner

from fiskal.cli import main
from fiskal.export.verify import verify_journal
from fiskal.host import config as configs
from fiskal.host.transactions import OrphanError, TseTransactions
from fiskal.scu.contract import (
    FinishTransactionRequest,
    RegisterClientIdRequest,
    StartTransactionRequest,
)
from fiskal.scu.errors import Unreachable
from fiskal.scu.software import open_software_tse
from tests.cli.test_serve import sample, serving
from tests.support.shop import DE, Shop

DOWN = Unreachable("CONNECT_FAILED", "The TSE is not available.")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Two queues on one TSE; ``shop`` looks at the first."""

    def two(config: configs.HostConfig) -> None:
        scu_id = config.scus[0].id
        config.queues.append(configs.QueueConfig(id=configs.guid("", None), client_id="POS-2", scu_id=scu_id))

    made = Shop(tmp_path, prepare=two)
    first = made.queue_id
    made.queue_id = made.config.queues[1].id
    made.send(0x03)
    made.queue_id = first
    yield made
    made.close()


def orphan(shop: Shop, client: str = "POS-1") -> int:
    return int(shop.tse.scu.start_transaction(StartTransactionRequest(client_id=client)).transaction_number)


def listed(shop: Shop) -> TseTransactions:
    (tse,) = shop.middleware.transactions()
    return tse


def second(shop: Shop) -> str:
    return str(shop.config.queues[1].id)


def check(shop: Shop) -> None:
    for row in shop.middleware.store.queues():
        report = verify_journal(shop.middleware.store, row)
        assert report.ok, report.problems


def test_queues_and_tse_side_by_side(shop: Shop) -> None:
    first = shop.queue_id
    shop.send(0x08, "A")
    shop.send(0x08, "GONE")
    shop.queue_id = second(shop)
    shop.send(0x08, "B")
    a, gone, b = shop.open_on_tse()
    shop.tse.scu.finish_transaction(
        FinishTransactionRequest(client_id="POS-1", transaction_number=gone, process_type="Kassenbeleg-V1")
    )
    lost = orphan(shop)
    shop.tse.down = DOWN
    shop.sale("B", flow="explicit")
    shop.send(0x08, "C")
    shop.tse.down = None
    tse = listed(shop)
    assert [
        (entry.number, entry.kind, entry.on_tse, entry.queue_id, entry.reference) for entry in tse.entries
    ] == [
        (a, "open", True, first, "A"),
        (gone, "open", False, first, "GONE"),
        (b, "finish to be recovered", True, second(shop), "B"),
        (lost, "orphan", True, None, None),
        (None, "start to be recovered", False, second(shop), "C"),
    ]
    assert tse.orphans == [lost]
    assert tse.foreign_clients == []
    assert tse.closing_queue_id == first  # the other one is in failed mode


def test_a_tse_that_does_not_answer_is_said_and_nothing_is_closed(shop: Shop) -> None:
    shop.send(0x08, "A")
    shop.tse.down = DOWN
    tse = listed(shop)
    assert tse.error == DOWN.message
    assert [(entry.on_tse, entry.reference) for entry in tse.entries] == [(None, "A")]
    with pytest.raises(OrphanError, match="does not say what is open"):
        shop.middleware.close_orphans()


def test_only_what_no_queue_knows_is_closed_and_it_is_journalled(shop: Shop) -> None:
    shop.send(0x08, "A")
    numbers = [orphan(shop), orphan(shop, "POS-2"), orphan(shop)]
    kept = shop.open_on_tse()[0]
    (answer,) = shop.middleware.close_orphans(numbers[:1])
    assert answer.ft_state == DE
    assert shop.open_on_tse() == [kept, *numbers[1:]]
    (answer,) = shop.middleware.close_orphans()
    assert shop.open_on_tse() == [kept]
    item = shop.journal(3)[-1]
    assert item["ftQueueItemId"] == answer.ft_queue_item_id
    assert str(numbers[1]) in json.loads(item["request"])["ftReceiptCaseData"]
    assert shop.middleware.close_orphans() == []
    assert shop.sale("A", flow="explicit")["ftState"] == DE
    check(shop)


def test_orphans_are_closed_in_failed_mode_too(shop: Shop) -> None:
    orphan(shop)
    for queue_id in (second(shop), shop.config.queues[0].id):
        shop.queue_id = queue_id
        shop.tse.down = DOWN
        shop.sale("X")
        shop.tse.down = None
    shop.middleware.close_orphans()
    assert shop.open_on_tse() == []
    assert shop.row.SSCDFailCount == 1
    check(shop)


def test_numbers_that_are_no_orphans_are_refused(shop: Shop) -> None:
    shop.send(0x08, "A")
    (known,) = shop.open_on_tse()
    lost = orphan(shop)
    for numbers in ([known], [lost, known], [lost, 999]):
        with pytest.raises(OrphanError, match="not open on the TSE, or known to a queue"):
            shop.middleware.close_orphans(numbers)
    with pytest.raises(OrphanError, match="this host has no SCU nothing"):
        shop.middleware.close_orphans(scu_id="nothing")
    assert shop.open_on_tse() == [known, lost]


def test_where_others_use_the_tse_the_numbers_must_be_named(shop: Shop) -> None:
    shop.tse.scu.register_client_id(RegisterClientIdRequest(client_id="ELSEWHERE"))
    theirs, ours = orphan(shop, "ELSEWHERE"), orphan(shop)
    with pytest.raises(OrphanError, match="is also used by ELSEWHERE") as caught:
        shop.middleware.close_orphans()
    assert f"{theirs}, {ours}" in caught.value.hint
    shop.middleware.close_orphans([ours])
    assert shop.open_on_tse() == [theirs]


def test_a_host_whose_queues_are_not_in_operation_closes_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    orphan(shop)
    shop.tse.scu.register_client_id(RegisterClientIdRequest(client_id="POS-1"))
    shop.send(0x04 | 0x0100_0000, "END")
    with pytest.raises(OrphanError, match="no queue is in operation"):
        shop.middleware.close_orphans()
    shop.close()


def test_a_receipt_in_work_is_never_taken_for_an_orphan(shop: Shop) -> None:
    """Its transaction is open on the TSE and in no table; only its queue knows, and that is waited for."""
    started, go_on = threading.Event(), threading.Event()
    finish = shop.tse.scu.finish_transaction

    def slow(*args: Any) -> Any:
        started.set()
        assert go_on.wait(20)
        return finish(*args)

    shop.tse.scu.finish_transaction = slow  # type: ignore[method-assign]
    sale = threading.Thread(target=shop.sale)
    sale.start()
    assert started.wait(20)
    found: list[TseTransactions] = []
    looking = threading.Thread(target=lambda: found.append(listed(shop)))
    looking.start()
    looking.join(0.2)
    assert looking.is_alive()  # it waits for the receipt
    go_on.set()
    sale.join()
    looking.join()
    assert found[0].entries == []


@pytest.mark.parametrize("moment", ["first", "second"])
def test_what_is_finished_or_started_while_it_is_listed_is_neither_orphan_nor_missing(
    shop: Shop, moment: str
) -> None:
    shop.send(0x08, "A")
    ask = shop.tse.scu.get_tse_info
    asked = []

    def busy(*args: Any) -> Any:
        """The POS sells right after the TSE has told what is open."""
        answer = ask(*args)
        asked.append(answer)
        if len(asked) == (1 if moment == "first" else 2):
            shop.tse.scu.get_tse_info = ask  # type: ignore[method-assign]
            shop.sale("A", flow="explicit")
            shop.send(0x08, "B")
            if moment == "first":
                shop.tse.scu.get_tse_info = busy  # type: ignore[method-assign]
        return answer

    shop.tse.scu.get_tse_info = busy  # type: ignore[method-assign]
    tse = listed(shop)
    assert tse.orphans == []
    assert [(entry.reference, entry.on_tse) for entry in tse.entries] == [("B", True)]


# ---- the command ------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["transactions", "--data", str(folder), *arguments], input=stdin)
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A host with two orphans, that nobody has open."""
    folder = tmp_path / "shop"
    assert CliRunner().invoke(main, ["init", "--data", str(folder), "--client-id", "K1"]).exit_code == 0
    signed = CliRunner().invoke(main, ["sign", "--data", str(folder)], input=sample(folder, "start"))
    assert signed.exit_code == 0
    (scu,) = (folder / "scu").iterdir()
    tse = open_software_tse(scu, create=False)
    for _ in range(2):
        tse.start_transaction(StartTransactionRequest(client_id="K1"))
    tse.close()
    return folder


def test_the_command_lists_asks_and_closes(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = run(left)
    assert status == 1
    assert out.count("no queue knows it") == 2
    status, out, err = run(left, "--close-orphans")
    assert status == 2
    assert "CONFIRMATION_NEEDED" in err
    assert "--yes" in err
    status, out, err = run(left, "--close-orphans", "--number", "2", "--yes")
    assert status == 1  # the other one is still there
    assert "Closed 2 with the receipt ft1#IT4" in out
    status, out, _ = run(left, "--close-orphans", "--yes", "--json")
    answer = json.loads(out)
    assert (status, answer["ok"]) == (0, True)
    assert answer["closedBy"][0]["ftState"] == DE
    assert answer["tses"][0]["entries"] == []
    status, out, _ = run(left, "--close-orphans")
    assert status == 0
    assert "There is no orphan to close." in out
    assert run(left)[0] == 0
    assert CliRunner().invoke(main, ["verify", "journal", "--data", str(left)]).exit_code == 0


def test_the_command_explains_what_it_cannot_do(left: Path) -> None:
    assert run(left, "--number", "3")[0] == 2
    status, _, err = run(left, "--close-orphans", "--number", "99", "--yes", "--json")
    assert status == 2
    assert json.loads(err)["error"]["code"] == "ORPHANS"
    assert run(left, "--scu-id", "x")[0] == 2


def test_both_commands_ask_a_running_server(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(left, "--require-token") as served:
        monkeypatch.setattr("fiskal.cli.common.DEFAULT_PORT", 1)  # where nobody answers
        status, _, err = run(left)
        assert status == 2
        assert "--url" in err
        assert run(left, "--url", served.url)[0] == 1
        monkeypatch.setattr("fiskal.cli.common.DEFAULT_PORT", int(served.url.rpartition(":")[2]))
        assert run(left)[0] == 1
        status, out, _ = run(left, "--close-orphans", "--yes")
        assert status == 0
        assert "Closed 2, 3 with the receipt" in out
        examined = CliRunner().invoke(main, ["doctor", "--data", str(left), "--json"])
        assert examined.exit_code == 0
        assert json.loads(examined.stdout)["queues"][0]["tse"]["ready"] is True
        for path in ("doctor", "transactions"):
            assert httpx.get(f"{served.url}/{path}").status_code == 401
        served.stop()
