"""The control API under ``/__sim__/``, the same for all simulators."""

from __future__ import annotations

import msgspec

from fiskal.simulators.http.app import App, Request, Response
from fiskal.simulators.http.faults import FaultQueue, HttpFault
from fiskal.simulators.http.journal import Journal

PREFIX = "/__sim__/"


class _Reset(msgspec.Struct, forbid_unknown_fields=True):
    seed: int = 1


class _Clock(msgspec.Struct, forbid_unknown_fields=True):
    advance_s: float


def handle(request: Request, app: App, faults: FaultQueue, journal: Journal) -> Response:
    """Answer a request whose path begins with :data:`PREFIX`; 400 says what was wrong with it."""
    route = f"{request.method} {request.path.removeprefix(PREFIX)}"
    try:
        if route == "POST reset":
            seed = msgspec.json.decode(request.body or b"{}", type=_Reset).seed
            with app.lock:
                app.reset(seed)
            faults.clear()
            faults.seed(seed)
            journal.clear()
        elif route == "POST faults":
            faults.add(msgspec.json.decode(request.body, type=HttpFault))
        elif route == "DELETE faults":
            faults.clear()
        elif route == "GET journal":
            return Response.json(journal.entries())
        elif route == "POST clock":
            app.clock.advance(msgspec.json.decode(request.body, type=_Clock).advance_s)
        elif route == "GET state":
            with app.lock:
                return Response.json(app.state())
        elif route == "POST state":
            with app.lock:
                app.force(request.json())
                return Response.json(app.state())
        else:
            return Response.json({"message": f"the control API has no {route!r}"}, 404)
    except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        return Response.json({"message": str(error)}, 400)
    return Response.json({})
