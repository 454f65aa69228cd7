"""fiskal: fiscalisation middleware for German cash registers.

>>> import fiskal
>>> with fiskal.open("data", create=True) as middleware:
...     middleware.echo("hello")
'hello'

:func:`open` gives a :class:`Middleware` with ``echo``, ``sign`` and ``journal`` and their ``*_json`` twins
(bytes in, bytes out). Everything else is reachable, nothing else is needed to sell.
"""

from fiskal.errors import ConfigurationError, FiskalError, NotSupportedError, ReceiptRejected, StoreError
from fiskal.host.middleware import Middleware
from fiskal.host.middleware import open_middleware as open
from fiskal.pos import ChargeItem, PayItem, ReceiptRequest, ReceiptResponse, SignaturItem
from fiskal.version import __version__

__all__ = [
    "ChargeItem",
    "ConfigurationError",
    "FiskalError",
    "Middleware",
    "NotSupportedError",
    "PayItem",
    "ReceiptRejected",
    "ReceiptRequest",
    "ReceiptResponse",
    "SignaturItem",
    "StoreError",
    "__version__",
    "open",
]
