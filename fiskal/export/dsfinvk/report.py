"""What the check of an export found."""

from __future__ import annotations

from typing import Final, NamedTuple

from fiskal.errors import FiskalError

MAX_FINDINGS: Final = 20
"""Findings of one kind that are kept; the rest is only counted."""

ERROR: Final = "error"
WARNING: Final = "warning"


class DsfinvkUnreadable(FiskalError):
    """A file that is no DSFinV-K export at all, or one that would take more than a check may cost."""

    code = "DSFINVK_UNREADABLE"


class Finding(NamedTuple):
    """``code`` names the rule, ``where`` the file and record or the Vorgang."""

    severity: str
    code: str
    where: str
    text: str


class CheckReport:
    """The result of :func:`fiskal.export.dsfinvk.check`. ``counts`` says how much was checked."""

    def __init__(self) -> None:
        self.counts = {
            "closings": 0,
            "transactions": 0,
            "lines": 0,
            "rows": 0,
            "signatures": 0,
            "unchecked": 0,
        }
        self.findings: list[Finding] = []
        self.totals: dict[str, int] = {}
        """How often each code was found."""
        self.errors = 0
        self.warnings = 0

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        return self.errors == 0

    def error(self, code: str, where: str, text: str) -> None:
        self.errors += 1
        self._add(Finding(ERROR, code, where, text))

    def warning(self, code: str, where: str, text: str) -> None:
        self.warnings += 1
        self._add(Finding(WARNING, code, where, text))

    def _add(self, finding: Finding) -> None:
        total = self.totals[finding.code] = self.totals.get(finding.code, 0) + 1
        if total <= MAX_FINDINGS:
            self.findings.append(finding)
