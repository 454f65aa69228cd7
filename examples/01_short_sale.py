"""A short sale: everything is known when the customer pays, so one call starts and finishes the transaction.

This is the implicit flow (flag 0x0000000100000000), right for nine of ten cash registers. The time of the
first order travels in the Moment of the items; the answer gives it back as <vorgangsbeginn>, to be printed.
"""

from _common import open_register, options, show

# JSON as a POS may send it: comments are allowed, and so are trailing commas.
SALE = """
{
    "ftCashBoxID":"cashboxid-guid",
    "ftPosSystemId":"possystemid-guid",
    "cbTerminalID":"T1",
    "cbReceiptReference":"4747847",
    "cbReceiptMoment":"2020-05-22T11:33:00.260Z",
    "cbChargeItems":[
        {
            "Quantity":1.0,
            "Description":"0,5 Soda Zitrone",
            "Amount":3.50,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-22T10:47:40.960Z"
        },
        {
            "Quantity":1.0,
            "Description":"Kaffe Hag",
            "Amount":4.00,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-22T10:58:03.960Z"
        }
    ],
    "cbPayItems":[
        {
            "Quantity":1.0,
            "Description":"Cash",
            "Amount":7.50,
            "ftPayItemCase":4919338167972134913,
            "Moment":"2020-05-22T11:33:00.260Z"
        }
    ],
    // 0x4445 0000 0000 0001 (pos-receipt) + 0000 0001 0000 0000 (implicit flow)
    "ftReceiptCase":4919338172267102209,
    "cbArea":"Tisch 19"
}
"""


def main() -> None:
    with open_register(options()) as register:
        show("Receipt", register.sign(SALE))


if __name__ == "__main__":
    main()
