"""DSFinV-K: the tables that German tax auditors ask of a cash register, exported from a journal and checked."""

from fiskal.export.dsfinvk.writer import DEFAULTS, Options, Summary, export, stream

__all__ = ["DEFAULTS", "Options", "Summary", "export", "stream"]
