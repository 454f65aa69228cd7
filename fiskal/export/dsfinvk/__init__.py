"""DSFinV-K: the tables that German tax auditors ask of a cash register, exported from a journal and checked."""

from fiskal.export.dsfinvk.checking import check
from fiskal.export.dsfinvk.report import CheckReport, DsfinvkUnreadable, Finding
from fiskal.export.dsfinvk.writer import DEFAULTS, Options, Progress, Summary, export, stream

__all__ = [
    "DEFAULTS",
    "CheckReport",
    "DsfinvkUnreadable",
    "Finding",
    "Options",
    "Progress",
    "Summary",
    "check",
    "export",
    "stream",
]
