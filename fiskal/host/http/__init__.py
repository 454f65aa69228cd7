"""The REST front door: Echo, Sign and Journal over HTTP, bytes in, bytes out. Needs ``pip install 'fiskal[server]'``.

:func:`create_app` gives an ASGI application for any server. Inside: ``openapi`` says what there is to call, ``routes``
answers it, ``application`` finds the way there, ``requests`` reads, ``signing`` is the door through which receipts go,
``streaming`` sends journals, ``lane`` has the threads for what blocks, ``problem`` makes the bodies of errors.
"""

from fiskal.extras import needs

with needs("server"):
    from fiskal.host.http.application import Application, Endpoint
    from fiskal.host.http.openapi import OPERATIONS, V0_PREFIXES, V1_PREFIXES, paths
    from fiskal.host.http.requests import MAX_BODY_BYTES
    from fiskal.host.http.routes import create_app

__all__ = [
    "MAX_BODY_BYTES",
    "OPERATIONS",
    "V0_PREFIXES",
    "V1_PREFIXES",
    "Application",
    "Endpoint",
    "create_app",
    "paths",
]
