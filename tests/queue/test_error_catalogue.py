"""The catalogue of errors a POS can get, against the modes a queue can be in.

Every text is literal, because a POS may compare it. Whatever contradicts itself in a request is refused in failed
mode too; whatever would have to be looked up in the transactions is not, because nobody can sell if it were. Late
and handwritten receipts are recorded as they are, and a queue out of service answers before it looks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fiskal.errors import FiskalError, ReceiptRejected
from fiskal.export.verify import verify_journal
from fiskal.germany.texts import RECEIPT_NAMES
from fiskal.queue.receipts.lifecycle import NotInitialized
from fiskal.scu.errors import Unreachable
from tests.queue.test_switch import SwitchShop, two_scus
from tests.support.shop import DE, IMPLICIT, TRAINING

LATE, HANDWRITTEN, VOID = 0x1_0000, 0x8_0000, 0x4_0000
CLIENT_ONLY, FORCE, FAIL_ON_OPEN = 0x100_0000, 0x4000_0000, 0x1000_0000

SEVERAL = (
    "If you want to close multiple transactions, pass an array value for 'CurrentStartedTransactionNumbers' via "
    "ftReceiptCaseData."
)
ITEM: dict[str, Any] = {"Quantity": 1, "Description": "Ware", "Amount": 1.5, "ftChargeItemCase": DE | 1}


class Bad(NamedTuple):
    """A request that is an error in normal mode; ``{case}`` in the text is its full ftReceiptCase."""

    name: str
    case: int
    text: str
    modes: str
    """Where it is an error too: F failed mode, L late, H handwritten, S SCU switch; e out of service."""
    members: dict[str, Any] = {}  # noqa: RUF012
    reference: str = "X"


def flow_errors() -> Iterator[Bad]:
    names = RECEIPT_NAMES
    for case in (0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x17, 0x18, 0x19):
        text = f"ReceiptCase {{case}} ({names[case]}) must use implicit-flow flag."
        yield Bad(f"explicit {case:02X}", case, text, "F")
        text = f"ReceiptCase {{case}} ({names[case]}) must not have Charge- or PayItems."
        yield Bad(f"items on {case:02X}", case | IMPLICIT, text, "F", {"cbChargeItems": [ITEM]})
        if case != 0x02:
            text = "ReceiptCase {case} can not use 'TrainingMode' flag."
            yield Bad(f"training on {case:02X}", case | IMPLICIT | TRAINING, text, "F")
    for case in (0x08, 0x09, 0x0A):
        text = f"ReceiptCase {{case}} ({names[case]}) can not use implicit-flow flag."
        yield Bad(f"implicit {case:02X}", case | IMPLICIT, text, "F")


CATALOGUE = [
    *flow_errors(),
    Bad(
        "unknown case",
        0x1A | IMPLICIT,
        "ReceiptCase {case} unknown. ProcessType Kassenbeleg-V1, ProcessData Beleg^0.00_0.00_0.00_0.00_0.00^",
        "FLHS",
    ),
    Bad(
        "several without numbers",
        0x0B | IMPLICIT,
        f"CbReceiptReference must be set for one transaction! {SEVERAL}",
        "FLHS",
        {"ftReceiptCaseData": '{"Numbers":[1]}'},
        "",
    ),
    Bad(
        "quantity 0 of an order line",
        0x10 | IMPLICIT,
        "The quantity property of charge item entries must not be 0.00, unless the amount is 0.00 as well.",
        "FLHS",
        {"cbChargeItems": [{**ITEM, "Quantity": 0}]},
    ),
    Bad(
        "foreign currency without data",
        0x01 | IMPLICIT,
        "ftPayItemCaseData must not be empty when using ftPayItemCase 4445000000000002.",
        "FLHS",
        {"cbPayItems": [{"Amount": 1, "ftPayItemCase": DE | 2}]},
    ),
    Bad(
        "foreign currency with wrong data",
        0x01 | IMPLICIT,
        "ftPayItemCaseData must contain a JSON object with 'ForeignCurrencyAmount' and 'CurrencyCode' when "
        "using ftPayItemCase 4445000000000002.",
        "FLHS",
        {"cbPayItems": [{"Amount": 1, "ftPayItemCase": DE | 2, "ftPayItemCaseData": "{}"}]},
    ),
    *(
        Bad(
            f"nothing started for {case:02X}",
            case,
            "No transactionnumber found for cbReceiptReference 'X'.",
            "",
        )
        for case in (0x01, 0x09, 0x0A, 0x0C, 0x10, 0x13, 0x14)
    ),
    Bad(
        "second start",
        0x08,
        "Transactionnumber 2 was already started using cbReceiptReference 'OPEN'.",
        "",
        reference="OPEN",
    ),
    Bad(
        "implicit with an open reference",
        0x01 | IMPLICIT,
        "Transactionnumber 2 was already started using cbReceiptReference 'OPEN'.",
        "",
        reference="OPEN",
    ),
    Bad(
        "implicit fail of one",
        0x0B | IMPLICIT,
        "ReceiptCase {case} (fail-transaction-receipt) cannot use implicit-flow flag when a single transaction "
        "should be failed.",
        "F",
        reference="OPEN",
    ),
    Bad(
        "explicit fail of several",
        0x0B,
        "ReceiptCase {case} (fail-transaction-receipt) must use implicit-flow flag when multiple transactions "
        "should be failed.",
        "F",
        {"ftReceiptCaseData": '{"CurrentStartedTransactionNumbers":[2]}'},
        "",
    ),
    Bad(
        "fail of nothing",
        0x0B,
        f"No open transaction found for cbReceiptReference 'X'. {SEVERAL}",
        "F",
    ),
    Bad(
        "closing that must find nothing open",
        0x07 | IMPLICIT | FAIL_ON_OPEN,
        "The ftReceiptCaseFlag '0x0000000010000000' was set, and 1 open transactions exist. If you want these "
        "transactions to be closed automatically, omit this flag.",
        "",
    ),
    Bad(
        "switch without closing",
        0x17 | IMPLICIT,
        "ReceiptCase {case} (initiate-scu-switch-receipt) can only be called right after a daily-closing "
        "receipt.If no daily-closing receipt can be done or the tse is not reachable use the "
        "Initiate-ScuSwitch-Force-Flag.",
        "F",
    ),
    Bad(
        "finish without switch",
        0x18 | IMPLICIT,
        "The SCU switch must be initiated with a initiate-scu-switch receipt.",
        "F",
    ),
    Bad(
        "void without switch",
        0x17 | VOID | IMPLICIT,
        "The SCU switch can't be voided because it is not in progress.",
        "F",
    ),
]

STATES = {"-": 0, "F": 2, "L": 8, "H": 0, "S": 0x100, "e": 1}
CONNECTING = ("finish without switch", "void without switch")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[SwitchShop]:
    made = SwitchShop(tmp_path, prepare=two_scus)
    made.send(0x08, "OPEN")
    yield made
    report = verify_journal(made.middleware.store, made.row)
    assert report.ok, report.problems
    made.close()


def request(shop: SwitchShop, bad: Bad, flags: int = 0) -> dict[str, Any]:
    return shop.request(bad.case | flags, bad.reference, flow="as it is", **bad.members)


def enter(shop: SwitchShop, mode: str) -> int:
    """Bring the queue into a mode; flags that the request needs for it."""
    if mode == "F":
        shop.tse.fail_before("start_transaction", Unreachable("CONNECT_FAILED", "Nobody answers."))
        assert shop.sale()["ftState"] == DE + 2
    elif mode == "S":
        assert shop.initiate(FORCE | CLIENT_ONLY)["ftState"] == DE
    elif mode == "e":
        assert shop.send(0x04 | CLIENT_ONLY)["ftState"] == DE
    return {"L": LATE, "H": HANDWRITTEN}.get(mode, 0)


@pytest.mark.parametrize("mode", STATES, ids=["normal", "failed", "late", "handwritten", "switch", "stopped"])
@pytest.mark.parametrize("bad", CATALOGUE, ids=lambda bad: bad.name)
def test_error(shop: SwitchShop, bad: Bad, mode: str) -> None:
    flags = enter(shop, mode)
    body = request(shop, bad, flags)
    before, calls = shop.row, len(shop.tse.calls)
    connects = bad.case & 0xFFFF == 0x18 or bool(bad.case & VOID)
    if mode == "S" and connects:  # the receipts that end a switch are checked as ever, and find one here
        refused, state = bad.name not in CONNECTING, 0
    else:
        refused, state = mode == "-" or mode in bad.modes, STATES[mode]
    if not refused:
        answer = shop.post(body)
        assert answer["ftState"] == DE + state
        assert shop.row.ftReceiptNumerator == before.ftReceiptNumerator + 1
        return
    with pytest.raises(ReceiptRejected) as caught:
        shop.post(body)
    error, case = caught.value, body["ftReceiptCase"]
    assert error.message == bad.text.replace("{case}", f"{case:X}")
    assert error.code != "REJECTED"
    assert error.hint
    stored = json.loads(error.response or "")
    assert stored["ftState"] == 0x4445_2000_EEEE_EEEE
    assert stored["ftReceiptIdentification"] == ""
    assert [item["Caption"] for item in stored["ftSignatures"]] == ["uncaught-exeption"]
    assert stored["ftSignatures"][0]["Data"] == f"{error.code}: {error.message}"
    after = shop.row
    assert after.ftCurrentRow == before.ftCurrentRow + 1
    assert after.ftReceiptNumerator == before.ftReceiptNumerator
    assert after.ftReceiptHash == before.ftReceiptHash
    assert (after.SSCDFailCount, after.UsedFailedCount) == (before.SSCDFailCount, before.UsedFailedCount)
    assert after.DailyClosingNumber == before.DailyClosingNumber
    (*_, entry) = shop.journal(1)
    assert entry["Type"] == "44452000EEEEEEEE"
    assert entry["Message"] == (
        "An error occurred during receipt processing, resulting in ftState = 0xEEEE_EEEE."
    )
    assert set(shop.tse.calls[calls:]) <= {"get_tse_info"}
    assert shop.open_on_tse() == ([] if mode in "S" else [2])


def test_start_receipt_that_only_registers_needs_a_tse_in_operation(tmp_path: Path) -> None:
    shop = SwitchShop(tmp_path, start=False, prepare=two_scus)
    with pytest.raises(NotInitialized) as caught:
        shop.send(0x03 | CLIENT_ONLY)
    assert str(caught.value) == (
        "TSE device is not in awaited lifecycle state 'Initialized'. Can not process 'Initial Operations "
        "Receipt'."
    )
    assert shop.middleware.queue().status()["state"] == "new"
    assert shop.row.ftReceiptNumerator == 0
    assert shop.send(0x03)["ftReceiptIdentification"] == "ft0#IT1"
    shop.close()


def test_a_journal_of_another_country(shop: SwitchShop) -> None:
    with pytest.raises(FiskalError) as caught:
        b"".join(shop.middleware.journal(0x4154_0000_0000_0001))
    assert str(caught.value) == (
        "The given journal type 0x'4154000000000001' cannot be used with the current Queue, as this export type "
        "is not supported in this country."
    )


def test_a_request_of_version_2_gets_its_error_as_an_answer(shop: SwitchShop) -> None:
    answer = shop.send(0x2000_0000_0001, "X")
    assert answer["ftState"] == 0x4445_2000_EEEE_EEEE
    assert answer["ftSignatures"][0]["Data"].startswith("WRONG_TAGGING_VERSION: ReceiptCase 4445200100000001")
    assert shop.sale("X")["ftState"] == DE


def test_a_receipt_request_of_an_errored_receipt_finds_nothing(shop: SwitchShop) -> None:
    for _ in range(2):
        with pytest.raises(ReceiptRejected):
            shop.sale("nobody", flow="explicit")
        assert shop.sale("nobody", case=0x01 | 0x8000_0000_0000, flow="explicit") is None
