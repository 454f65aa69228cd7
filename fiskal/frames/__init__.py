"""Doors to the framing of the C core, one module a TSE family: bytes in, meaning out, C errors become exceptions."""
