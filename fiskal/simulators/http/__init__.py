"""What the simulators of cloud TSEs stand on: a real HTTPS server, its test CA, faults, a clock, a journal.

A simulator of a vendor is an :class:`App`; :class:`HttpSimulator` serves it. Besides the vendor's routes every server
has a control API under ``/__sim__/`` (:mod:`.control`) for whoever drives it from outside:

===============================  ==================================================================
``POST /__sim__/reset``          fresh state: ``{"seed": 1}``
``POST /__sim__/faults``         add a fault (:class:`~.faults.HttpFault`)
``DELETE /__sim__/faults``       take all away
``GET /__sim__/journal``         every request so far, without secrets
``POST /__sim__/clock``          ``{"advance_s": 3600}``; negative seconds put it back
``GET /__sim__/state``           what the simulator counts and holds
``POST /__sim__/state``          force a state, in the vendor's own words
===============================  ==================================================================

Service times and random faults come from a :class:`fiskal.simulators.plan.Plan`.
"""

from __future__ import annotations

from fiskal.simulators.http.app import App, Request, Response, SimClock
from fiskal.simulators.http.faults import Action, HttpFault, Match
from fiskal.simulators.http.server import HttpSettings, HttpSimulator
from fiskal.simulators.http.tls import TestCa

__all__ = [
    "Action",
    "App",
    "HttpFault",
    "HttpSettings",
    "HttpSimulator",
    "Match",
    "Request",
    "Response",
    "SimClock",
    "TestCa",
]
