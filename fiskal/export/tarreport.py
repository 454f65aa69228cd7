"""The result of verifying TAR exports as plain values, for programs. For people: :mod:`fiskal.export.tarpage`."""

from __future__ import annotations

from typing import Any

from fiskal.tse.qr import format_time
from fiskal.tse.tarverify import TarReport, TseReport


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
