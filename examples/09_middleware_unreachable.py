"""The middleware cannot be reached: the register sells without it, and hands everything in afterwards.

What a register does, step by step:

1. No answer, or no connection: the customer gets a receipt without a signature. It says "Elektronisches
   Aufzeichnungssystem ausgefallen" and the number of the failed receipt. A copy is kept, on disk.
2. While the failure lasts nothing is sent, so that nobody waits for a time-out at every sale.
3. The connection is back: first comes the oldest copy, as a receipt request (flag 0x0000800000000000), because it
   may have been signed and only its answer got lost. An answer settles it; null means that it never arrived.
4. All others are sent with the flag for late signing (0x0000000000010000), oldest first. They are answered with
   ftState 8 and one note, and never signed by the TSE.
5. A zero receipt (0x0002) ends the failure. Its note says how many receipts were handed in, from when to when.
"""

from typing import Any

from _common import Register, open_register, options, show

POS_RECEIPT = 0x4445_0000_0000_0001 | 0x0000_0001_0000_0000
ZERO_RECEIPT = 0x4445_0000_0000_0002 | 0x0000_0001_0000_0000
LATE_SIGNING = 0x0000_0000_0001_0000
RECEIPT_REQUEST = 0x0000_8000_0000_0000


class Line:
    """The way to the middleware, with a plug that can be pulled. In a shop this is the network."""

    def __init__(self, register: Register) -> None:
        self.register = register
        self.plugged = True
        self.pull_before_the_answer = False

    def sign(self, request: str) -> Any:
        if not self.plugged:
            raise ConnectionError("nobody answers")
        answer = self.register.sign(request)
        if self.pull_before_the_answer:
            self.plugged = self.pull_before_the_answer = False
            raise ConnectionError("the connection broke off")
        return answer


class Till:
    """The cash register: what it sends, and what it does when nobody answers."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.copies: list[tuple[str, str]] = []  # (reference, moment) of what was sold in the failure

    def sell(self, reference: str, moment: str) -> None:
        if not self.copies:  # otherwise the failure lasts, and nothing is sent
            try:
                show(f"Receipt {reference}", self.line.sign(request(reference, moment)))
                return
            except ConnectionError:
                pass
        self.copies.append((reference, moment))
        print(f"Receipt {reference} without middleware")
        print(f"    Elektronisches Aufzeichnungssystem ausgefallen, Beleg {len(self.copies)}")

    def hand_in(self) -> None:
        """The middleware answers again."""
        first, moment = self.copies[0]
        answer = self.line.sign(request(first, moment, POS_RECEIPT | RECEIPT_REQUEST))
        if answer is not None:
            show(f"Receipt {first} had been signed", answer)
            del self.copies[0]
        for reference, moment in sorted(self.copies, key=lambda copy: copy[1]):
            answer = self.line.sign(request(reference, moment, POS_RECEIPT | LATE_SIGNING))
            show(f"Receipt {reference} handed in", answer)
        self.copies.clear()
        show("Zero receipt", self.line.sign(request("end of the failure", "moment-of-now", ZERO_RECEIPT)))


def request(reference: str, moment: str, receipt_case: int = POS_RECEIPT) -> str:
    """A coffee, or a zero receipt. A receipt that is sent again is the same to the last member but the flag."""
    coffee = """{"Quantity":1.0, "Description":"Kaffe Hag", "Amount":4.00, "VATRate":19.0000,
                "ftChargeItemCase":4919338167972134913}"""
    cash = '{"Quantity":1.0, "Description":"Cash", "Amount":4.00, "ftPayItemCase":4919338167972134913}'
    sold = receipt_case != ZERO_RECEIPT
    return f"""
    {{
        "ftCashBoxID":"cashboxid-guid",
        "ftPosSystemId":"possystemid-guid",
        "cbTerminalID":"T1",
        "cbReceiptReference":"{reference}",
        "cbReceiptMoment":"{moment}",
        "cbChargeItems":[{coffee if sold else ""}],
        "cbPayItems":[{cash if sold else ""}],
        "ftReceiptCase":{receipt_case}
    }}
    """


def main() -> None:
    with open_register(options()) as register:
        row = register.status()["queues"][0]["ftCurrentRow"]
        line = Line(register)
        till = Till(line)
        till.sell(f"{row}-1", "2020-05-22T11:33:00Z")

        line.pull_before_the_answer = True
        till.sell(f"{row}-2", "2020-05-22T11:34:00Z")  # signed, but the register does not know
        till.sell(f"{row}-3", "2020-05-22T11:35:00Z")
        till.sell(f"{row}-4", "2020-05-22T11:36:00Z")

        line.plugged = True
        till.hand_in()
        till.sell(f"{row}-5", "2020-05-22T11:50:00Z")


if __name__ == "__main__":
    main()
