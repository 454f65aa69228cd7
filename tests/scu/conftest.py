"""A TSE in a temporary folder, a clock that stands still, and short ways to call."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fiskal.clock import TICKS_PER_SECOND, from_unix
from fiskal.scu.contract import (
    FinishTransactionRequest,
    FinishTransactionResponse,
    Scu,
    StartTransactionRequest,
    StartTransactionResponse,
    UpdateTransactionRequest,
    UpdateTransactionResponse,
)
from fiskal.scu.core import ScuCore
from fiskal.scu.software import open_software_tse


class FakeClock:
    """Ticks that move only when told to."""

    def __init__(self) -> None:
        self.ticks = from_unix(1_700_000_000)

    def __call__(self) -> int:
        return self.ticks

    def advance(self, seconds: float) -> None:
        self.ticks += round(seconds * TICKS_PER_SECOND)


class Pos:
    """One client of an SCU."""

    def __init__(self, scu: Scu, client_id: str = "POS-1") -> None:
        self.scu = scu
        self.client_id = client_id

    def start(self, item: str | None = None, *, retry: bool = False) -> StartTransactionResponse:
        return self.scu.start_transaction(
            StartTransactionRequest(
                client_id=self.client_id,
                queue_item_id=str(uuid.uuid4()) if item is None else item,
                is_retry=retry,
            )
        )

    def update(
        self, number: int, data: bytes = b"upd", item: str | None = None, *, retry: bool = False
    ) -> UpdateTransactionResponse:
        return self.scu.update_transaction(
            UpdateTransactionRequest(
                client_id=self.client_id,
                transaction_number=number,
                process_type="Bestellung-V1",
                process_data_base64=base64.b64encode(data).decode(),
                queue_item_id=str(uuid.uuid4()) if item is None else item,
                is_retry=retry,
            )
        )

    def finish(
        self,
        number: int,
        data: bytes = b"Beleg^1.00_0.00_0.00_0.00_0.00^1.00:Bar",
        item: str | None = None,
        *,
        retry: bool = False,
    ) -> FinishTransactionResponse:
        return self.scu.finish_transaction(
            FinishTransactionRequest(
                client_id=self.client_id,
                transaction_number=number,
                process_type="Kassenbeleg-V1",
                process_data_base64=base64.b64encode(data).decode(),
                queue_item_id=str(uuid.uuid4()) if item is None else item,
                is_retry=retry,
            )
        )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_pos() -> type[Pos]:
    return Pos


@pytest.fixture
def open_tse(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., ScuCore]]:
    """Opens the TSE of the test's folder; what is still open at the end is closed."""
    opened: list[ScuCore] = []

    def open_it(**options: object) -> ScuCore:
        options.setdefault("client_ids", ["POS-1", "POS-2"])
        scu = open_software_tse(tmp_path / "tse", clock=clock, **options)  # type: ignore[arg-type]
        opened.append(scu)
        return scu

    yield open_it
    for scu in opened:
        scu.close()


@pytest.fixture
def scu(open_tse: Callable[..., ScuCore]) -> ScuCore:
    return open_tse()


@pytest.fixture
def pos(scu: ScuCore) -> Pos:
    return Pos(scu)
