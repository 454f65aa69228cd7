"""Checkouts that drive a TSE: through the SCU contract, or through everything the middleware does.

Every receipt says that it is a training receipt (AVTraining, DSFinV-K), so that nobody who reads the log of the
TSE takes it for a sale. All checkouts of a benchmark share one client id, because some TSEs count every
client they ever had.
"""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from typing import Any, Final, Protocol, cast

from fiskal import clock
from fiskal.core import format_ticks
from fiskal.errors import FiskalError
from fiskal.germany.codes import DE, ReceiptCase, ReceiptFlag, State
from fiskal.pos import ChargeItem, PayItem, ReceiptRequest, decode_response, encode_request
from fiskal.scu.contract import (
    Deadline,
    FinishTransactionRequest,
    FinishTransactionResponse,
    Scu,
    StartTransactionRequest,
    StartTransactionResponse,
)
from fiskal.scu.errors import OutcomeUnknown, ScuError

CLIENT_ID: Final = "FISKAL-BENCH"
CALL_S: Final = 15.0
"""How long a call may take before it counts as an error."""
_PRICE: Final = Decimal("3.50")
_ABORTED: Final = "AVBelegabbruch^0.00_0.00_0.00_0.00_0.00^"


class ReceiptFailed(FiskalError):
    """A receipt that was answered without signature: the TSE has failed."""

    code = "TSE_FAILED"


class Till(Protocol):
    """One checkout. Every method raises FiskalError if there is no signature."""

    def receipt(self, items: int) -> None:
        """A receipt in implicit flow: two signatures."""
        ...

    def order(self, items: int) -> None:
        """An order in implicit flow: two signatures, and data that grow with its items."""
        ...

    def start(self) -> None:
        """Begin a receipt in explicit flow."""
        ...

    def finish(self, items: int) -> None:
        """End what :meth:`start` began."""
        ...


class Watched:
    """An SCU that remembers which of its transactions are open, to leave none behind.

    Made to be passed where an SCU is wanted, see :meth:`as_scu`. Thread-safe.
    """

    def __init__(self, scu: Scu) -> None:
        self._scu = scu
        self._lock = threading.Lock()
        self._open: dict[int, str] = {}
        self._unknown: dict[str, StartTransactionRequest] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scu, name)

    def as_scu(self) -> Scu:
        """This object, typed as what it stands in for."""
        return cast(Scu, self)

    def close(self) -> None:
        """Whoever opened the SCU closes it."""

    def start_transaction(
        self, request: StartTransactionRequest, deadline: Deadline | None = None
    ) -> StartTransactionResponse:
        try:
            response = self._scu.start_transaction(request, deadline)
        except OutcomeUnknown:
            with self._lock:
                self._unknown[request.queue_item_id] = request
            raise
        with self._lock:
            self._unknown.pop(request.queue_item_id, None)
            self._open[response.transaction_number] = request.client_id
        return response

    def finish_transaction(
        self, request: FinishTransactionRequest, deadline: Deadline | None = None
    ) -> FinishTransactionResponse:
        response = self._scu.finish_transaction(request, deadline)
        with self._lock:
            self._open.pop(request.transaction_number, None)
        return response

    def close_open(self, seconds: float) -> list[int]:
        """Finish what is open, within about ``seconds``; return the numbers that stay open.

        0 stands for a start whose outcome is still unknown.
        """
        deadline = Deadline(seconds)
        for request in list(self._unknown.values()):
            retry = StartTransactionRequest(
                client_id=request.client_id,
                process_type=request.process_type,
                process_data_base64=request.process_data_base64,
                queue_item_id=request.queue_item_id,
                is_retry=True,
            )
            self._try(lambda retry=retry: self.start_transaction(retry, deadline), deadline)  # type: ignore[misc]
        for number, client_id in list(self._open.items()):
            abort = FinishTransactionRequest(
                client_id=client_id,
                transaction_number=number,
                process_type="Kassenbeleg-V1",
                process_data_base64=_base64(_ABORTED),
                queue_item_id=str(uuid.uuid4()),
            )
            self._try(lambda abort=abort: self.finish_transaction(abort, deadline), deadline)  # type: ignore[misc]
        return [0] * len(self._unknown) + self._still_open(deadline)

    def _still_open(self, deadline: Deadline) -> list[int]:
        """What was not finished here, less what the TSE says is finished after all."""
        if not self._open:
            return []
        try:
            listed = set(self._scu.get_tse_info(deadline).current_started_transaction_numbers)
        except ScuError:
            return sorted(self._open)
        return sorted(number for number in self._open if number in listed)

    @staticmethod
    def _try(call: Callable[[], object], deadline: Deadline) -> None:
        """Call until it succeeds, is refused for good, or nobody waits any more."""
        while not deadline.expired:
            try:
                call()
                return
            except ScuError as error:
                if not error.retryable:
                    return
            threading.Event().wait(min(0.5, deadline.remaining()))


class ScuTill:
    """A checkout that asks the SCU itself."""

    def __init__(self, scu: Scu) -> None:
        self._scu = scu
        self._number = 0
        self._reserve: Callable[[str, Deadline], AbstractContextManager[None]] | None
        self._reserve = getattr(scu, "back_to_back", None)

    def receipt(self, items: int) -> None:
        with self._together():
            self.start()
            self.finish(items)

    def order(self, items: int) -> None:
        lines = "\r".join(f'1;"Training {n:04}";{_PRICE}' for n in range(items))
        with self._together():
            self.start()
            self._finish("Bestellung-V1", lines)

    def _together(self) -> AbstractContextManager[None]:
        """The two calls of a receipt follow each other at the TSE, as those of a queue do."""
        return nullcontext() if self._reserve is None else self._reserve(CLIENT_ID, Deadline(CALL_S))

    def start(self) -> None:
        request = StartTransactionRequest(client_id=CLIENT_ID, queue_item_id=str(uuid.uuid4()))
        self._number = self._scu.start_transaction(request, Deadline(CALL_S)).transaction_number

    def finish(self, items: int) -> None:
        total = _PRICE * items
        self._finish("Kassenbeleg-V1", f"AVTraining^{total}_0.00_0.00_0.00_0.00^{total}:Bar")

    def _finish(self, process_type: str, process_data: str) -> None:
        self._scu.finish_transaction(
            FinishTransactionRequest(
                client_id=CLIENT_ID,
                transaction_number=self._number,
                process_type=process_type,
                process_data_base64=_base64(process_data),
                queue_item_id=str(uuid.uuid4()),
            ),
            Deadline(CALL_S),
        )


class SignTill:
    """A checkout that signs with the whole middleware; ``sign`` takes and gives JSON."""

    def __init__(self, sign: Callable[[bytes], bytes], cash_box_id: str, queue_id: str) -> None:
        self._sign = sign
        self._cash_box_id = cash_box_id
        self._queue_id = queue_id
        self._reference = ""

    def open_queue(self) -> None:
        """Put the queue into operation without initialising the TSE."""
        self._send(
            ReceiptCase.INITIAL_OPERATION | ReceiptFlag.IMPLICIT_FLOW | ReceiptFlag.CLIENT_ONLY, "start", 0
        )

    def receipt(self, items: int) -> None:
        case = ReceiptCase.POS_RECEIPT | ReceiptFlag.IMPLICIT_FLOW | ReceiptFlag.TRAINING
        self._send(case, str(uuid.uuid4()), items)

    def order(self, items: int) -> None:
        case = ReceiptCase.INFO_ORDER | ReceiptFlag.IMPLICIT_FLOW | ReceiptFlag.TRAINING
        self._send(case, str(uuid.uuid4()), items, paid=False)

    def start(self) -> None:
        self._reference = str(uuid.uuid4())
        self._send(ReceiptCase.START_TRANSACTION, self._reference, 0)

    def finish(self, items: int) -> None:
        self._send(ReceiptCase.POS_RECEIPT | ReceiptFlag.TRAINING, self._reference, items)

    def _send(self, case: int, reference: str, items: int, *, paid: bool = True) -> None:
        charges = [
            ChargeItem(
                description=f"Training {n:04}",
                amount=_PRICE,
                vat_rate=Decimal(19),
                ft_charge_item_case=DE | 0x01,
            )
            for n in range(items)
        ]
        pays = [PayItem(description="Bar", amount=_PRICE * items, ft_pay_item_case=DE | 0x01)]
        request = ReceiptRequest(
            ft_cash_box_id=self._cash_box_id,
            ft_queue_id=self._queue_id,
            cb_terminal_id="BENCH",
            cb_receipt_reference=reference,
            cb_receipt_moment=format_ticks(clock.now()),
            cb_charge_items=charges,
            cb_pay_items=pays if paid and items else [],
            ft_receipt_case=DE | case,
        )
        response = decode_response(self._sign(encode_request(request)))
        if response.ft_state & State.SCU_FAILED:
            raise ReceiptFailed("the receipt was answered in failed mode")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
