"""The result of verifying TAR exports for programs (plain values) and for people (one HTML file).

The HTML file needs nothing but a browser: no script, no font and no picture from anywhere; a content security
policy says so to the browser too. Everything that came from an archive is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any, Final

from fiskal.clock import TICKS_PER_SECOND
from fiskal.tse.findings import MAX_FINDINGS_EACH, Code, Severity, TarFinding
from fiskal.tse.ledger import TseEvent
from fiskal.tse.qr import format_time
from fiskal.tse.revocation import Revocation
from fiskal.tse.tarverify import TarReport, Trust, TseReport
from fiskal.version import __version__

_DAY: Final = 86_400 * TICKS_PER_SECOND


def second(ticks: int) -> str:
    """``2021-09-17 14:15:03`` in UTC."""
    return format_time(ticks)[:19].replace("T", " ")


def as_plain(report: TarReport) -> dict[str, Any]:
    """A report as plain values, for JSON. Times are ISO 8601 in UTC."""
    return {
        "ok": report.ok,
        "members": report.members,
        "logs": report.logs,
        "valid": report.valid,
        "invalid": report.invalid,
        "unchecked": report.unchecked,
        "unreadable": report.unreadable,
        "archives": [
            {"name": each.name, "members": each.members, "logs": each.logs, "info": each.info}
            for each in report.archives
        ],
        "tses": [_plain_tse(tse) for tse in report.tses],
        "counts": {severity.value: count for severity, count in report.counts.items()},
        "codes": {code.name: count for code, count in sorted(report.code_counts.items())},
        "findingsLeftOut": report.findings_left_out,
        "findings": [
            {
                "severity": finding.severity.value,
                "code": finding.code.name,
                "archive": finding.archive,
                "file": finding.member,
                "message": finding.code.value,
                "detail": finding.text,
            }
            for finding in report.findings
        ],
    }


def _plain_tse(tse: TseReport) -> dict[str, Any]:
    return {
        "serial": tse.serial,
        "trust": tse.trust.value,
        "revocation": tse.revocation.value,
        "messages": tse.messages,
        "kinds": tse.kinds,
        "traits": tse.traits,
        "firstCounter": tse.first_counter,
        "lastCounter": tse.last_counter,
        "firstTime": format_time(tse.first_time),
        "lastTime": format_time(tse.last_time),
        "gaps": tse.gaps,
        "missingCounters": [list(stretch) for stretch in tse.missing_counters],
        "transactions": tse.transactions,
        "openCount": tse.open_count,
        "openTransactions": tse.open_transactions,
        "certificates": [
            {
                "subject": each.subject,
                "issuer": each.issuer,
                "serialNumber": each.serial_number,
                "key": each.key,
                "notBefore": format_time(each.not_before),
                "notAfter": format_time(each.not_after),
                "isTrustAnchor": each.is_trusted,
            }
            for each in tse.certificates
        ],
        "clients": [
            {
                "clientId": each.client_id,
                "transactions": each.transactions,
                "firstTime": format_time(each.first_time),
                "lastTime": format_time(each.last_time),
            }
            for each in tse.clients
        ],
        "events": [
            {"time": format_time(each.time), "counter": each.counter, "name": each.name, "text": each.text}
            for each in tse.events
        ],
    }


# ---- HTML ---------------------------------------------------------------------------------------

_STYLE: Final = """
:root{--paper:#f5f3ee;--card:#fffefb;--ink:#1b2430;--soft:#5d6875;--line:#e2ddd2;--teal:#0f766e;--tint:#d7ebe7;
--red:#b3261e;--redtint:#fbe5e2;--amber:#a15c07;--ambertint:#fbeed8;--blue:#1f5fa8;--bluetint:#e3edf8;--bar:#7fb5ae}
@media (prefers-color-scheme:dark){:root{--paper:#12171d;--card:#1a2129;--ink:#e8ebee;--soft:#98a4b1;--line:#2c3641;
--teal:#4fc3b5;--tint:#173a37;--red:#ff8a7d;--redtint:#43211e;--amber:#f2b660;--ambertint:#3d2e14;--blue:#8cbcf0;
--bluetint:#1b2f45;--bar:#3f827a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0;letter-spacing:-.02em}
h2{font-size:20px;margin:44px 0 14px;letter-spacing:-.01em}
h3{font-size:12px;text-transform:uppercase;letter-spacing:.09em;color:var(--soft);margin:0 0 12px;font-weight:600}
code,.mono{font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace;font-size:.88em}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:22px 24px;margin:0 0 16px;
break-inside:avoid}
.verdict{display:flex;gap:22px;align-items:center;padding:26px 28px;border-left:8px solid var(--teal)}
.verdict.bad{border-left-color:var(--red)}
.verdict svg{flex:none}
.verdict p{margin:4px 0 0;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:14px 18px}
.tile b{display:block;font-size:27px;letter-spacing:-.02em;font-variant-numeric:tabular-nums;line-height:1.25}
.tile span{color:var(--soft);font-size:13px}
.tile.red b{color:var(--red)}.tile.amber b{color:var(--amber)}.tile.teal b{color:var(--teal)}
.serial{font-size:15px;word-break:break-all;margin:0 0 4px}
.serial i{font-style:normal;margin-right:.45em}
.pills{margin:10px 0 0;display:flex;flex-wrap:wrap;gap:6px}
.pill{border-radius:99px;padding:2px 11px;font-size:12.5px;background:var(--bluetint);color:var(--blue);
white-space:nowrap}
.pill.good{background:var(--tint);color:var(--teal)}.pill.bad{background:var(--redtint);color:var(--red)}
.pill.warn{background:var(--ambertint);color:var(--amber)}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:12px;padding:0 12px 6px 0}
td{border-top:1px solid var(--line);padding:6px 12px 6px 0;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.t{white-space:nowrap;font-variant-numeric:tabular-nums}
.wrap{word-break:break-word}
.scroll{overflow-x:auto}
details{border:1px solid var(--line);border-radius:12px;margin:0 0 10px;background:var(--card)}
summary{cursor:pointer;padding:12px 18px;display:flex;gap:12px;align-items:baseline;list-style:none}
summary::-webkit-details-marker{display:none}
summary:before{content:"▸";color:var(--soft)}details[open]>summary:before{content:"▾"}
summary b{font-weight:600;flex:1}
summary .pill{min-width:74px;text-align:center}
details>div{padding:0 18px 14px}
.chain{display:flex;flex-wrap:wrap;gap:0;align-items:stretch}
.link{flex:1 1 240px;border:1px solid var(--line);border-radius:12px;padding:12px 14px;font-size:13px;min-width:0}
.link b{display:block;font-size:12px;color:var(--soft);font-weight:600}
.link.anchor{border-color:var(--teal);background:var(--tint)}
.arrow{align-self:center;color:var(--soft);padding:0 8px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:12.5px;color:var(--soft);margin:8px 0 0}
.legend i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:6px}
.meter{height:6px;border-radius:3px;background:var(--tint);min-width:80px;margin-top:7px}
.card>p:last-child{margin-bottom:0}
.meter i{display:block;height:6px;border-radius:3px;background:var(--teal)}
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--soft)}
.none{color:var(--soft)}
footer{color:var(--soft);font-size:13px;margin-top:44px;border-top:1px solid var(--line);padding-top:16px}
@media print{body{background:#fff}main{max-width:none;padding:0}details>div{display:block}}
"""

_PILLS: Final = {Severity.ERROR: "bad", Severity.WARNING: "warn", Severity.NOTE: ""}
_TRUST_PILLS: Final = {
    Trust.TRUSTED: "good",
    Trust.UNTRUSTED_ROOT: "warn",
    Trust.INCOMPLETE: "warn",
    Trust.BROKEN: "bad",
    Trust.NO_CERTIFICATE: "bad",
}
_CHECK: Final = (
    '<path d="M17 29l8 8 15-17" fill="none" stroke="#fff" stroke-width="4.5" stroke-linecap="round"/>'
)
_CROSS: Final = '<path d="M19 19l18 18M37 19L19 37" stroke="#fff" stroke-width="4.5" stroke-linecap="round"/>'
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


def as_html(report: TarReport, *, made_at: int) -> str:
    """A report as one HTML file. ``made_at`` is the moment of the verification, in ticks."""
    names = [archive.name for archive in report.archives if archive.name]
    title = names[0] if len(names) == 1 else f"{len(names)} archives"
    body = [
        _verdict(report, title),
        _tiles(report),
        _findings(report),
        *(_tse(tse) for tse in report.tses),
        _archives(report),
        f"<footer>Verified {second(made_at)} UTC with fiskal {escape(__version__)}. All times are UTC. "
        "Signatures were checked over the bytes as they stand in the archive, certificates at the log time of "
        f"the messages. {_revocation_lists(report)}The certificate of the device type "
        "(BSI-K-TR, BSI-DSZ-CC) has to be looked up at the BSI.</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>TSE export: {escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        + "".join(body)
        + "</main></body></html>\n"
    )


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")  # a narrow space every three digits


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{_number(count)} {one if count == 1 else many or one + 's'}"


def _revocation_lists(report: TarReport) -> str:
    if any(tse.revocation is not Revocation.NOT_CHECKED for tse in report.tses):
        return ""
    return "Revocation lists were not consulted. "


def _verdict(report: TarReport, title: str) -> str:
    trusted = report.tses and all(tse.trust is Trust.TRUSTED for tse in report.tses)
    if not report.ok:
        head = f"{_plural(report.errors, 'error')} found"
        text = "The archives do not prove what they say. The errors below name the files."
    elif not report.logs:
        head = "Nothing to verify"
        text = "The archives hold no log messages."
    elif trusted:
        head = "Valid and trusted"
        text = "Every signature holds, nothing is missing, and the certificates lead to a trust anchor."
    else:
        head = "Valid, trust not established"
        text = (
            "Every signature holds and nothing speaks against the archives. Whether the keys are those of a "
            "certified TSE takes trust anchors."
        )
    colour = "var(--teal)" if report.ok else "var(--red)"
    return (
        f'<section class="card verdict{"" if report.ok else " bad"}">'
        f'<svg width="56" height="56" role="img" aria-label="{"good" if report.ok else "bad"}">'
        f'<circle cx="28" cy="28" r="28" fill="{colour}"/>{_CHECK if report.ok else _CROSS}</svg>'
        f'<div><h1>{head}</h1><p class="wrap">{escape(title)}</p><p>{text}</p></div></section>'
    )


def _tiles(report: TarReport) -> str:
    bad = report.invalid + report.unreadable
    tiles = [
        ("", report.logs, "log messages"),
        ("teal", report.valid, "valid signatures"),
        ("red" if bad else "", bad, "invalid or unreadable"),
        ("amber" if report.unchecked else "", report.unchecked, "not checked"),
        ("", sum(tse.transactions for tse in report.tses), "transactions"),
        ("amber" if report.counts[Severity.WARNING] else "", report.counts[Severity.WARNING], "warnings"),
    ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile {tone}"><b>{_number(count)}</b><span>{text}</span></div>'
            for tone, count, text in tiles
        )
        + "</div>"
    )


def _findings(report: TarReport) -> str:
    if not report.findings:
        return '<h2>Findings</h2><p class="card none">None.</p>'
    parts = ["<h2>Findings</h2>"]
    ordered = sorted(report.findings, key=lambda each: (list(Severity).index(each.severity), each.code.name))
    for (severity, code), group in groupby(ordered, key=lambda each: (each.severity, each.code)):
        parts.append(_finding_group(report, severity, code, list(group)))
    return "".join(parts)


def _finding_group(report: TarReport, severity: Severity, code: Code, group: Sequence[TarFinding]) -> str:
    several = any(finding.archive for finding in group)
    rows = "".join(
        "<tr>"
        + (f'<td class="wrap">{escape(finding.archive)}</td>' if several else "")
        + f'<td class="wrap mono">{escape(finding.member) or "–"}</td><td class="wrap">{escape(finding.text)}</td></tr>'
        for finding in group
    )
    left_out = 0
    if len(group) == MAX_FINDINGS_EACH:
        left_out = report.code_counts[code] - sum(finding.code is code for finding in report.findings)
    more = f'<p class="none">{_plural(left_out, "finding")} more of this kind.</p>' if left_out else ""
    first = code.value.partition(" ")[0]
    text = code.value if not first.islower() else code.value[0].upper() + code.value[1:]
    is_open = " open" if severity is Severity.ERROR and len(group) <= 20 else ""
    return (
        f'<details{is_open}><summary><span class="pill {_PILLS[severity]}">{severity.value}</span>'
        f"<b>{escape(text)}</b><span>{_number(len(group) + left_out)}</span></summary>"
        f'<div class="scroll"><table><tr>{"<th>Archive</th>" if several else ""}<th>File</th><th>Detail</th></tr>'
        f"{rows}</table>{more}</div></details>"
    )


# ---- one TSE ------------------------------------------------------------------------------------


def _tse(tse: TseReport) -> str:
    serial = "".join(f"<i>{tse.serial[at : at + 8]}</i>" for at in range(0, len(tse.serial), 8))
    pills = f'<span class="pill {_TRUST_PILLS[tse.trust]}">{tse.trust.value}</span>' + "".join(
        f'<span class="pill">{escape(trait)}</span>' for trait in tse.traits
    )
    kinds = ", ".join(f"{_number(count)} {name}" for name, count in sorted(tse.kinds.items()))
    return (
        f'<h2>TSE</h2><section class="card"><h3>Serial number</h3><p class="serial mono">{serial}</p>'
        f'<div class="pills">{pills}</div></section>'
        f'<section class="card"><h3>Life</h3>{_timeline(tse)}</section>'
        f'<section class="card"><h3>Signature counters</h3>{_counters(tse)}'
        f'<p class="none">{_plural(tse.messages, "message")}: {kinds}.</p></section>'
        f"{_certificates(tse)}{_clients(tse)}{_events(tse)}"
    )


_LEFT: Final = 44
_WIDTH: Final = 940
_HIGH: Final = 120
_TOP: Final = 84


def _timeline(tse: TseReport) -> str:
    begin = tse.first_time
    length = max(tse.last_time - begin, 1)

    def x(time: int) -> float:
        return _LEFT + _WIDTH * min(max((time - begin) / length, 0), 1)

    base = _TOP + _HIGH
    parts = [
        f'<svg viewBox="0 0 1000 {base + 34}" width="100%" role="img" aria-label="Timeline of the TSE">',
        f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{base}" y2="{base}" stroke="var(--line)"/>',
    ]
    highest = max((count for _, count in tse.histogram), default=0)
    if highest:
        parts.append(f'<text x="{_LEFT - 8}" y="{_TOP + 4}" text-anchor="end">{_number(highest)}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{base + 4}" text-anchor="end">0</text>')
        wide = max(_WIDTH * tse.histogram_width / length - 1.5, 2.0)
        for start, count in tse.histogram:
            left, right = x(start), min(x(start) + wide, _LEFT + _WIDTH)
            height = max(_HIGH * count / highest, 1.5)
            parts.append(
                f'<rect x="{left:.1f}" y="{base - height:.1f}" width="{max(right - left, 2.0):.1f}" '
                f'height="{height:.1f}" rx="1.5" fill="var(--bar)">'
                f"<title>{second(start)}: {_plural(count, 'transaction')}</title></rect>"
            )
    parts += _dots(tse.events, x)
    parts += _ticks(begin, length, base)
    parts.append("</svg>")
    shown = {_group(event) for event in tse.events}
    legend = "".join(
        f'<span><i style="background:{colour}"></i>{name}</span>'
        for index, (name, colour, _) in enumerate(_GROUPS)
        if index in shown
    )
    bars = '<span><i style="background:var(--bar);border-radius:2px"></i>finished transactions</span>'
    return "".join(parts) + f'<div class="legend">{bars if highest else ""}{legend}</div>'


def _group(event: TseEvent) -> int:
    return _GROUP_OF.get(event.name.lower(), len(_GROUPS) - 1)


def _dots(events: Iterable[TseEvent], x: Any) -> list[str]:
    """Events as dots above the bars; those that would lie on each other are one larger dot."""
    heaps: dict[tuple[int, int], list[TseEvent]] = {}
    for event in events:
        heaps.setdefault((_group(event), round(x(event.time) / 14)), []).append(event)
    parts = []
    for (group, place), heap in sorted(heaps.items()):
        radius = min(3.2 + len(heap) ** 0.5 / 2, 5.5)
        names = ", ".join(sorted({event.name for event in heap}))
        text = f"{second(heap[0].time)}: {names}" if len(heap) == 1 else f"{len(heap)} events: {names}"
        parts.append(
            f'<circle cx="{min(max(place * 14, _LEFT + 4), _LEFT + _WIDTH - 4)}" cy="{8 + group * 12}" '
            f'r="{radius:.1f}" fill="{_GROUPS[group][1]}" fill-opacity=".85"><title>{escape(text)}</title></circle>'
        )
    return parts


def _ticks(begin: int, length: int, base: int) -> list[str]:
    parts = []
    for index in range(6):
        time = begin + length * index // 5
        text = second(time)
        text = (
            text[:10] if length > 5 * _DAY else text[5:16] if length > 3600 * TICKS_PER_SECOND else text[11:]
        )
        anchor = "start" if index == 0 else "end" if index == 5 else "middle"
        at = _LEFT + _WIDTH * index / 5
        parts.append(
            f'<line x1="{at:.0f}" x2="{at:.0f}" y1="{base}" y2="{base + 5}" stroke="var(--soft)"/>'
            f'<text x="{at:.0f}" y="{base + 21}" text-anchor="{anchor}">{text}</text>'
        )
    return parts


def _counters(tse: TseReport) -> str:
    """The counters as a strip in which what is missing is red."""
    length = max(tse.last_counter - tse.first_counter + 1, 1)
    gaps = "".join(
        f'<rect x="{1000 * (first - tse.first_counter) / length:.1f}" y="0" height="18" fill="var(--red)" '
        f'width="{max(1000 * (last - first + 1) / length, 2):.1f}"><title>missing: {first} to {last}</title></rect>'
        for first, last in tse.missing_counters
    )
    missing = sum(last - first + 1 for first, last in tse.missing_counters)
    if not tse.gaps:
        text = "no gap"
    elif tse.gaps > len(tse.missing_counters):
        text = f"{_plural(tse.gaps, 'gap')}, more than {_number(missing)} missing"
    else:
        text = f"{_plural(tse.gaps, 'gap')}, {_number(missing)} missing"
    return (
        '<svg viewBox="0 0 1000 18" width="100%" height="18" preserveAspectRatio="none" role="img" '
        'aria-label="Signature counters"><rect width="1000" height="18" rx="3" fill="var(--bar)"/>'
        f"{gaps}</svg>"
        f"<p>{_number(tse.first_counter)} to {_number(tse.last_counter)}: {text}; "
        f"{_plural(tse.transactions, 'transaction')}, {_number(tse.open_count)} open.</p>"
    )


def _certificates(tse: TseReport) -> str:
    if not tse.certificates:
        return ""
    links = []
    for index, each in enumerate(tse.certificates):
        role = "TSE" if index == 0 else "Root" if each.subject == each.issuer else "CA"
        links.append(
            f'<div class="link{" anchor" if each.is_trusted else ""}"><b>{role} · {escape(each.key)}'
            f"{' · trust anchor' if each.is_trusted else ''}</b>"
            f'<span class="wrap">{escape(each.subject)}</span><br><span class="none">{second(each.not_before)[:10]} to '
            f"{second(each.not_after)[:10]}</span></div>"
        )
    return (
        '<section class="card"><h3>Certificates</h3><div class="chain">'
        + '<span class="arrow">→</span>'.join(links)
        + f'</div><p class="none">Revocation: {tse.revocation.value}.</p></section>'
    )


def _clients(tse: TseReport) -> str:
    if not tse.clients:
        return ""
    most = max(client.transactions for client in tse.clients) or 1
    rows = "".join(
        f'<tr><td class="wrap mono">{escape(client.client_id or "(not kept)")}</td>'
        f'<td class="n">{_number(client.transactions)}</td>'
        f'<td><div class="meter"><i style="width:{100 * client.transactions / most:.1f}%"></i></div></td>'
        f'<td class="t">{second(client.first_time)}</td><td class="t">{second(client.last_time)}</td></tr>'
        for client in tse.clients[:100]
    )
    return (
        '<section class="card scroll"><h3>Clients</h3><table><tr><th>Client</th><th class="n">Transactions</th>'
        f"<th></th><th>First</th><th>Last</th></tr>{rows}</table></section>"
    )


def _events(tse: TseReport) -> str:
    if not tse.events:
        return ""
    rows = "".join(
        f'<tr><td class="t">{second(event.time)}</td><td class="n">{_number(event.counter)}</td>'
        f'<td>{escape(event.name)}</td><td class="wrap">{escape(event.text)}</td></tr>'
        for event in tse.events
    )
    total = tse.kinds.get("system", 0)
    more = (
        f'<p class="none">The first {_number(len(tse.events))} of {_number(total)}.</p>'
        if total > len(tse.events)
        else ""
    )
    return (
        f'<details><summary><b>System events</b><span>{_number(total)}</span></summary><div class="scroll"><table>'
        f'<tr><th>Time</th><th class="n">Counter</th><th>Event</th><th>What it says</th></tr>{rows}'
        f"</table>{more}</div></details>"
    )


def _archives(report: TarReport) -> str:
    rows = "".join(
        f'<tr><td class="wrap">{escape(each.name or "(stream)")}</td><td class="n">{_number(each.members)}</td>'
        f'<td class="n">{_number(each.logs)}</td><td class="wrap">'
        f"{escape('; '.join(f'{label}: {value}' for label, value in list(each.info.items())[:12] if value))}</td></tr>"
        for each in report.archives
    )
    return (
        '<h2>Archives</h2><section class="card scroll"><table><tr><th>Archive</th><th class="n">Files</th>'
        f'<th class="n">Messages</th><th>info.csv</th></tr>{rows}</table></section>'
    )
