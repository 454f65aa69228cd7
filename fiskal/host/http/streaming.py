"""Journals in HTTP chunks, read in threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fiskal.host.http.lane import Lane

_log = logging.getLogger("fiskal.http")

MEDIA_TYPE: Final = "application/octet-stream"
CHUNK_BYTES: Final = 64 * 1024
"""How a journal is cut is not visible on the wire; larger than the interface's 4096, to hop threads less."""


class Source:
    """A journal read from one thread at a time, whichever that is, and closed whatever happens."""

    def __init__(self, start: Callable[[], Iterator[bytes]]) -> None:
        self._start = start
        self._iterator: Iterator[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def read(self) -> bytes | None:
        """The next chunk, None at the end."""
        with self._lock:
            if self._closed:
                return None
            if self._iterator is None:
                self._iterator = self._start()
            return next(self._iterator, None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()


async def respond(start: Callable[[], Iterator[bytes]], lane: Lane) -> Response:
    """The journal that ``start`` begins, as a response. Raises what reading its first chunk raises: an early error
    still has a status of its own."""
    source = Source(start)
    first = await lane.run(source.read)
    return Response(media_type=MEDIA_TYPE) if first is None else _JournalStream(source, first, lane)


class _JournalStream(Response):
    """A journal whose ``first`` chunk is known. An error breaks the connection off, so that the client cannot take
    the part for the whole."""

    def __init__(self, source: Source, first: bytes, lane: Lane) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._source = source
        self._chunk: bytes | None = first
        self._lane = lane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await self._send_chunks(receive, send)
        finally:
            await asyncio.shield(self._lane.go_on(self._source.close))

    async def _send_chunks(self, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        sent = 0
        try:
            while self._chunk is not None and not gone.done():
                await send({"type": "http.response.body", "body": self._chunk, "more_body": True})
                sent += len(self._chunk)
                self._chunk = await self._lane.go_on(self._source.read)
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:
            _log.error("a journal broke off after %d bytes: %s", sent, error)
            raise
        finally:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
