"""Durchbedienen: a bakery serves one customer at several registers and takes the money at the last.

A transaction that the first register leaves open could not be finished at the last one if that has another
TSE. So the first register signs an empty order, which secures when serving began; registers between sign
nothing; the last one starts and finishes the receipt. Its items keep their Moments, so <vorgangsbeginn> is
the time at the first register. Here all registers share one queue; they may as well have one each.
"""

from _common import open_register, options, show

FIRST_REGISTER = """
{
    "ftCashBoxID":"cashboxid-guid",
    "ftPosSystemId":"possystemid-guid",
    "cbTerminalID":"Kasse 1",
    "cbReceiptReference":"bakery-17",
    "cbReceiptMoment":"2020-05-22T07:12:05.120Z",
    "cbChargeItems":[],
    "cbPayItems":[],
    // 0x4445 0000 0000 0010 (info-order) + 0000 0001 0000 0000 (implicit flow)
    "ftReceiptCase":4919338172267102224,
    "cbArea":"Kunde 17"
}
"""

LAST_REGISTER = """
{
    "ftCashBoxID":"cashboxid-guid",
    "ftPosSystemId":"possystemid-guid",
    "cbTerminalID":"Kasse 3",
    "cbReceiptReference":"bakery-17",
    "cbReceiptMoment":"2020-05-22T07:14:30.500Z",
    "cbChargeItems":[
        {
            "Quantity":1.0,
            "Description":"Bauernbrot",
            "Amount":4.80,
            "VATRate":7.0000,
            // 0x4445 0000 0000 0002 (reduced VAT)
            "ftChargeItemCase":4919338167972134914,
            "Moment":"2020-05-22T07:12:05.120Z"  // rung up at register 1
        },
        {
            "Quantity":2.0,
            "Description":"Butterbrezel",
            "Amount":4.20,
            "VATRate":7.0000,
            "ftChargeItemCase":4919338167972134914,
            "Moment":"2020-05-22T07:13:20.000Z"  // at register 2
        },
        {
            "Quantity":1.0,
            "Description":"Kaffee",
            "Amount":2.50,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-22T07:14:10.000Z"  // at register 3
        }
    ],
    "cbPayItems":[
        {
            "Quantity":1.0,
            "Description":"Cash",
            "Amount":11.50,
            "ftPayItemCase":4919338167972134913,
            "Moment":"2020-05-22T07:14:30.500Z"
        }
    ],
    // 0x4445 0000 0000 0001 (pos-receipt) + 0000 0001 0000 0000 (implicit flow)
    "ftReceiptCase":4919338172267102209,
    "cbArea":"Kunde 17"
}
"""


def main() -> None:
    with open_register(options()) as register:
        show("Register 1, empty order", register.sign(FIRST_REGISTER))
        show("Register 3, receipt", register.sign(LAST_REGISTER))


if __name__ == "__main__":
    main()
