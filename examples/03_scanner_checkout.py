"""A scanner checkout: the transaction starts with the first scan and is finished by the payment.

This is the explicit flow. It asks more of the POS, but the TSE's slow start happens while the cashier is
still scanning, so the customer waits for the finish only. Start and finish share one cbReceiptReference.
"""

from _common import open_register, options, show

START = """
{
    "ftCashBoxID":"cashboxid-guid",
    "ftPosSystemId":"possystemid-guid",
    "cbTerminalID":"T1",
    "cbReceiptReference":"233348",
    "cbReceiptMoment":"2020-05-22T10:47:40.960Z",
    "cbChargeItems":[],
    "cbPayItems":[],
    // 0x4445 0000 0000 0008 (start-transaction-receipt)
    "ftReceiptCase":4919338167972134920,
    "cbArea":"Scannerkasse 14"
}
"""

FINISH = """
{
    "ftCashBoxID":"cashboxid-guid",
    "ftPosSystemId":"possystemid-guid",
    "cbTerminalID":"T1",
    "cbReceiptReference":"233348",
    "cbReceiptMoment":"2020-05-22T10:48:15.260Z",
    "cbChargeItems":[
        {
            "Quantity":1.0,
            "Description":"Feuerzeug BigRed",
            "Amount":3.50,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-22T10:47:50.960Z"
        },
        {
            "Quantity":1.0,
            "Description":"Kaffe Hag",
            "Amount":4.00,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-22T10:48:03.960Z"
        }
    ],
    "cbPayItems":[
        {
            "Quantity":1.0,
            "Description":"Cash",
            "Amount":7.50,
            // 0x4445 0000 0000 0001 (cash payment in national currency)
            "ftPayItemCase":4919338167972134913,
            "Moment":"2020-05-22T10:48:10.260Z"
        }
    ],
    // 0x4445 0000 0000 0001  (pos-receipt)
    "ftReceiptCase":4919338167972134913,
    "cbArea":"Scannerkasse 14"
}
"""


def main() -> None:
    with open_register(options()) as register:
        show("First scan", register.sign(START))  # ST: keep the number, print nothing
        show("Payment", register.sign(FINISH))  # T and the same number


if __name__ == "__main__":
    main()
