"""The OpenAPI document as one HTML page for people: no script and nothing from anywhere, so it works offline."""

from __future__ import annotations

from typing import Any, Final

from fiskal import pages

HEADERS: Final = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


def page(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document. Paths that do the same stand together."""
    groups: dict[str, dict[str, Any]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            group = groups.setdefault(operation["summary"], {"method": method, "paths": [], **operation})
            group["paths"].append(path)
    values = {"document": document, "operations": groups.values()}
    return pages.render("fiskal.host.http", "docs.html", values, kind=_kind)


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words: ``ChargeItem[]``, ``integer or null``."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"{_kind(schema.get('items', {}))}[]"
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    return str(schema.get("format", schema.get("type", "any")))
