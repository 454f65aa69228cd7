"""Orders over three days, paid on the last: a hotel room, a restaurant table, any long-lasting action.

Every order is an info-order (0x0010) of its own, and nothing is printed for it. The receipt repeats all items
with their original Moment; that is how the time of the first order gets on the receipt. The same
cbReceiptReference ties them together.
"""

from _common import open_register, options, show

FIRST_ORDER = """
{
    "ftCashBoxID": "cashboxid-guid",
    "ftQueueID": "queueid-guid",
    "ftPosSystemId": "possystemid-guid",
    "cbTerminalID": "T1",
    "cbReceiptReference":"LLA_1",
    "cbReceiptMoment":"2020-05-26T10:47:40.960Z",
    "cbChargeItems":[
        {
            "Quantity":1.0,
            "Description":"0,5 Soda Zitrone",
            "Amount":3.50,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-26T10:31:34.960Z"
        }
    ],
    "cbPayItems":[],
    // 0x4445 0000 0000 0010 (info-order) + 0000 0001 0000 0000 (implicit flow)
    "ftReceiptCase":4919338172267102224,
    "cbArea":"Zimmer 12"
}
"""

SECOND_ORDER = """
{
    "ftCashBoxID": "cashboxid-guid",
    "ftQueueID": "queueid-guid",
    "ftPosSystemId": "possystemid-guid",
    "cbTerminalID": "T1",
    "cbReceiptReference":"LLA_1",
    "cbReceiptMoment":"2020-05-27T12:47:40.960Z",
    "cbChargeItems":[
        {
            "Quantity":1.0,
            "Description":"Kaffe Hag",
            "Amount":4.00,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-27T12:11:22.233Z"
        }
    ],
    "cbPayItems":[],
    // 0x4445 0000 0000 0010 (info-order) + 0000 0001 0000 0000 (implicit flow)
    "ftReceiptCase":4919338172267102224,
    "cbArea":"Zimmer 12"
}
"""

PAYMENT = """
{
    "ftCashBoxID": "cashboxid-guid",
    "ftQueueID": "queueid-guid",
    "ftPosSystemId": "possystemid-guid",
    "cbTerminalID": "T1",
    "cbReceiptReference":"LLA_1",
    "cbReceiptMoment":"2020-05-28T14:11:22.233Z",
    "cbChargeItems":[
        {
            "Quantity":1.0,
            "Description":"0,5 Soda Zitrone",
            "Amount":3.50,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-26T10:31:34.960Z"
        },
        {
            "Quantity":1.0,
            "Description":"Kaffe Hag",
            "Amount":4.00,
            "VATRate":19.0000,
            "ftChargeItemCase":4919338167972134913,
            "Moment":"2020-05-27T12:11:22.233Z"
        }
    ],
    "cbPayItems":[
        {
            "Quantity":1.0,
            "Description":"Cash",
            "Amount":7.50,
            "ftPayItemCase":4919338167972134913,
            "Moment":"2020-05-28T14:11:22.233Z"
        }
    ],
    // 0x4445 0000 0000 0001 (pos-receipt) + 0000 0001 0000 0000 (implicit flow)
    "ftReceiptCase":4919338172267102209,
    "cbArea":"Zimmer 12"
}
"""


def main() -> None:
    with open_register(options()) as register:
        show("Day 1, order", register.sign(FIRST_ORDER))
        show("Day 2, order", register.sign(SECOND_ORDER))
        show("Day 3, receipt", register.sign(PAYMENT))


if __name__ == "__main__":
    main()
