"""The result of verifying TAR exports for people: one HTML file. Needs ``pip install 'fiskal[report]'``.

The file needs nothing but a browser: no script, no font and no picture from anywhere; a content security policy says
so to the browser too. Everything that came from an archive is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, Final

from fiskal import pages
from fiskal.clock import TICKS_PER_SECOND
from fiskal.export.tarreport import second
from fiskal.tse.findings import MAX_FINDINGS_EACH, Severity
from fiskal.tse.ledger import TseEvent
from fiskal.tse.revocation import Revocation
from fiskal.tse.tarverify import ArchiveReport, TarReport, Trust, TseReport
from fiskal.version import __version__

_DAY: Final = 86_400 * TICKS_PER_SECOND

_PILLS: Final = {Severity.ERROR: "bad", Severity.WARNING: "warn", Severity.NOTE: ""}
_TRUST_PILLS: Final = {
    Trust.TRUSTED: "good",
    Trust.UNTRUSTED_ROOT: "warn",
    Trust.INCOMPLETE: "warn",
    Trust.BROKEN: "bad",
    Trust.NO_CERTIFICATE: "bad",
}
_GROUPS: Final = (
    ("life of the device", "#7c4dbd", ("initialize", "disablesecureelement", "setdescription", "updatedevice",
                                       "updatedevicecompleted", "deletestoreddata", "deletelogmessages",
                                       "locktransactionlogging", "unlocktransactionlogging")),
    ("clients", "#0f8b7f", ("registerclient", "deregisterclient", "addclients", "removeclients")),
    ("clock", "#2f73c4", ("updatetime",)),
    ("users", "#8a94a0", ("authenticateuser", "authenticatesmaersadmin", "authenticatesmaadmin", "logout",
                          "unblockuser", "unblockpin", "changepuk")),
    ("security", "#d9480f", ("selftest", "entersecurestate", "exitsecurestate", "securestateexit", "startaudit",
                             "auditstart", "auditstop", "configurelogging", "setconfiguration")),
    ("others", "#b08900", ()),
)  # fmt: skip
_GROUP_OF: Final = {name: index for index, (_, _, names) in enumerate(_GROUPS) for name in names}

_LEFT: Final = 44
_WIDTH: Final = 940
_HIGH: Final = 120
_TOP: Final = 84
_BASE: Final = _TOP + _HIGH
"""The timeline, in units of a picture that is 1000 wide."""


def as_html(report: TarReport, *, made_at: int) -> str:
    """A report as one HTML file. ``made_at`` is the moment of the verification, in ticks."""
    names = [archive.name for archive in report.archives if archive.name]
    values = {
        "report": report,
        "title": names[0] if len(names) == 1 else f"{len(names)} archives",
        "verdict": _verdict(report),
        "findings": list(_findings(report)),
        "tses": [(tse, _timeline(tse)) for tse in report.tses],
        "revoked_known": any(tse.revocation is not Revocation.NOT_CHECKED for tse in report.tses),
        "made_at": made_at,
        "version": __version__,
        "Severity": Severity,
        "PILLS": _PILLS,
        "TRUST_PILLS": _TRUST_PILLS,
    }
    return pages.render(
        "fiskal.export",
        "tarpage.html",
        values,
        number=_number,
        plural=_plural,
        second=second,
        gaps=_gaps,
        info=_info,
    )


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")  # a narrow space every three digits


def _plural(count: int, one: str) -> str:
    return f"{_number(count)} {one if count == 1 else one + 's'}"


def _verdict(report: TarReport) -> tuple[str, str]:
    """The result in a headline and a sentence."""
    if not report.ok:
        return (
            f"{_plural(report.errors, 'error')} found",
            "The archives do not prove what they say. The errors below name the files.",
        )
    if not report.logs:
        return "Nothing to verify", "The archives hold no log messages."
    if report.tses and all(tse.trust is Trust.TRUSTED for tse in report.tses):
        return (
            "Valid and trusted",
            "Every signature holds, nothing is missing, and the certificates lead to a trust anchor.",
        )
    return (
        "Valid, trust not established",
        "Every signature holds and nothing speaks against the archives. Whether the keys are those of a "
        "certified TSE takes trust anchors.",
    )


def _findings(report: TarReport) -> Iterator[dict[str, Any]]:
    """The findings by severity and kind, the worst first."""
    severities = list(Severity)
    ordered = sorted(report.findings, key=lambda each: (severities.index(each.severity), each.code.name))
    for (severity, code), found in groupby(ordered, key=lambda each: (each.severity, each.code)):
        group = list(found)
        left_out = 0
        if len(group) == MAX_FINDINGS_EACH:
            left_out = report.code_counts[code] - sum(finding.code is code for finding in report.findings)
        first = code.value.partition(" ")[0]
        yield {
            "severity": severity,
            "text": code.value if not first.islower() else code.value[0].upper() + code.value[1:],
            "is_open": severity is Severity.ERROR and len(group) <= 20,
            "archives": any(finding.archive for finding in group),
            "findings": group,
            "count": len(group) + left_out,
            "left_out": left_out,
        }


def _gaps(tse: TseReport) -> str:
    missing = sum(last - first + 1 for first, last in tse.missing_counters)
    if not tse.gaps:
        return "no gap"
    if tse.gaps > len(tse.missing_counters):
        return f"{_plural(tse.gaps, 'gap')}, more than {_number(missing)} missing"
    return f"{_plural(tse.gaps, 'gap')}, {_number(missing)} missing"


def _info(archive: ArchiveReport) -> str:
    return "; ".join(f"{label}: {value}" for label, value in list(archive.info.items())[:12] if value)


# ---- the timeline -------------------------------------------------------------------------------


def _timeline(tse: TseReport) -> dict[str, Any]:
    """What is drawn of the life of a TSE: bars of finished transactions, dots of events, ticks of time."""
    begin = tse.first_time
    length = max(tse.last_time - begin, 1)

    def x(time: int) -> float:
        return _LEFT + _WIDTH * min(max((time - begin) / length, 0), 1)

    highest = max((count for _, count in tse.histogram), default=0)
    wide = max(_WIDTH * tse.histogram_width / length - 1.5, 2.0)
    shown = {_group(event) for event in tse.events}
    return {
        "left": _LEFT,
        "right": _LEFT + _WIDTH,
        "top": _TOP,
        "base": _BASE,
        "highest": highest,
        "bars": [
            {
                "x": x(start),
                "width": max(min(x(start) + wide, _LEFT + _WIDTH) - x(start), 2.0),
                "height": max(_HIGH * count / highest, 1.5),
                "start": start,
                "count": count,
            }
            for start, count in tse.histogram
            if highest
        ],
        "dots": list(_dots(tse, x)),
        "ticks": list(_ticks(begin, length)),
        "legend": [(name, colour) for index, (name, colour, _) in enumerate(_GROUPS) if index in shown],
    }


def _group(event: TseEvent) -> int:
    return _GROUP_OF.get(event.name.lower(), len(_GROUPS) - 1)


def _dots(tse: TseReport, x: Callable[[int], float]) -> Iterator[dict[str, Any]]:
    """Events as dots above the bars; those that would lie on each other are one larger dot."""
    heaps: dict[tuple[int, int], list[TseEvent]] = {}
    for event in tse.events:
        heaps.setdefault((_group(event), round(x(event.time) / 14)), []).append(event)
    for (group, place), heap in sorted(heaps.items()):
        names = ", ".join(sorted({event.name for event in heap}))
        yield {
            "x": min(max(place * 14, _LEFT + 4), _LEFT + _WIDTH - 4),
            "y": 8 + group * 12,
            "radius": min(3.2 + len(heap) ** 0.5 / 2, 5.5),
            "colour": _GROUPS[group][1],
            "text": f"{second(heap[0].time)}: {names}" if len(heap) == 1 else f"{len(heap)} events: {names}",
        }


def _ticks(begin: int, length: int) -> Iterator[dict[str, Any]]:
    for index in range(6):
        text = second(begin + length * index // 5)
        yield {
            "x": _LEFT + _WIDTH * index / 5,
            "anchor": "start" if index == 0 else "end" if index == 5 else "middle",
            "text": text[:10]
            if length > 5 * _DAY
            else text[5:16]
            if length > 3600 * TICKS_PER_SECOND
            else text[11:],
        }
