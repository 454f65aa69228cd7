"""Reading an index.xml that may come from anybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple
from xml.parsers import expat

from fiskal.export.dsfinvk.indexxml import DTD_NAME, dtd

MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 10_000


class NoIndex(ValueError):
    """An index.xml that says nothing; the message says why."""


class Element:
    """An element with its children and its text."""

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.children: list[Element] = []
        self.parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def all(self, name: str) -> Iterator[Element]:
        return (child for child in self.children if child.name == name)

    def find(self, *path: str) -> Element | None:
        """The first element down a path of names."""
        found: Element | None = self
        for name in path:
            found = None if found is None else next(found.all(name), None)
        return found

    def value(self, *path: str) -> str | None:
        """The text of the first element down a path, None if there is none."""
        found = self.find(*path)
        return None if found is None else found.text


class DeclaredColumn(NamedTuple):
    """``size`` is the number of decimals of a number, the largest length of a text, None if it is not said."""

    name: str
    is_number: bool
    size: int | None


class DeclaredTable(NamedTuple):
    """A table as index.xml describes it, with the defaults of the description standard."""

    url: str
    is_utf8: bool
    first_record: int
    decimal_symbol: str
    grouping_symbol: str
    delimiter: str
    record_end: str
    quote: str
    columns: tuple[DeclaredColumn, ...]


class Index(NamedTuple):
    """What an index.xml says, and what is wrong with it as XML."""

    tables: tuple[DeclaredTable, ...]
    faults: tuple[str, ...]


def read_index(data: bytes) -> Index:
    """Read an index.xml. Raises NoIndex if it is no well-formed XML or uses entities, which it never needs."""
    root, system_id = _parse(data)
    faults: list[str] = []
    if system_id != DTD_NAME:
        faults.append(f"the DOCTYPE names {system_id!r}, not {DTD_NAME}")
    if root.name != "DataSet":
        faults.append(f"the root element is {root.name}, not DataSet")
    faults += _invalid(root)
    if root.value("Version") != "1.0":
        faults.append(f"Version is {root.value('Version')!r}, not 1.0")
    tables = [_table(table) for media in root.all("Media") for table in media.all("Table")]
    return Index(tuple(tables), tuple(faults))


def _parse(data: bytes) -> tuple[Element, str | None]:
    document = Element("", 0)
    stack = [document]
    doctype: list[str | None] = [None]
    count = 0
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(stack) > MAX_DEPTH or count > MAX_ELEMENTS:
            raise NoIndex("it has more elements than any description of tables")
        element = Element(name, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def end(name: str) -> None:
        stack.pop()

    def said(text: str) -> None:
        stack[-1].parts.append(text)

    def declared(name: str, system_id: str | None, public_id: str | None, has_internal_subset: int) -> None:
        doctype[0] = system_id

    def refuse(*_: object) -> None:
        raise NoIndex("it declares entities")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = said
    parser.StartDoctypeDeclHandler = declared
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise NoIndex(f"it is not well-formed: {error}") from error
    except (LookupError, ValueError) as error:
        if isinstance(error, NoIndex):
            raise
        raise NoIndex(f"it cannot be decoded: {error}") from error
    return document.children[0], doctype[0]


def _table(table: Element) -> DeclaredTable:
    form = table.find("VariableLength") or Element("VariableLength", table.line)
    columns = []
    for column in form.children:
        if column.name in ("VariableColumn", "VariablePrimaryKey"):
            number = column.find("Numeric")
            size = column.value("MaxLength") if number is None else number.value("Accuracy") or "0"
            is_known = size is not None and re.fullmatch("[0-9]{1,9}", size) is not None
            columns.append(
                DeclaredColumn(
                    column.value("Name") or "", number is not None, int(size or 0) if is_known else None
                )
            )
    first = table.value("Range", "From") or "1"
    return DeclaredTable(
        url=table.value("URL") or "",
        is_utf8=table.find("UTF8") is not None,
        first_record=int(first) if re.fullmatch("[0-9]{1,9}", first) else 0,
        decimal_symbol=_or(table.value("DecimalSymbol"), ","),
        grouping_symbol=_or(table.value("DigitGroupingSymbol"), "."),
        delimiter=_or(form.value("ColumnDelimiter"), ";"),
        record_end=_or(form.value("RecordDelimiter"), "\r\n"),
        quote=_or(form.value("TextEncapsulator"), '"'),
        columns=tuple(columns),
    )


def _or(text: str | None, default: str) -> str:
    return default if text is None else text


# ---- the DTD --------------------------------------------------------------------------------------------

# Content models are regular expressions over names. The one of Media is ambiguous, which XML forbids and strict
# validators refuse to load; as regular expressions all of them can be used as they are.


@cache
def _models() -> dict[str, re.Pattern[str] | None]:
    """The content models of the DTD: a pattern over the names of the children, each followed by a blank; None for
    elements that hold text."""
    found: dict[str, re.Pattern[str] | None] = {}
    for name, model in re.findall(r"<!ELEMENT (\w+) ([^>]+)>", dtd().decode("ascii")):
        if model == "(#PCDATA)":
            found[name] = None
        else:
            pattern = "" if model == "EMPTY" else re.sub(r"\w+", r"(?:\g<0> )", model).replace(", ", "")
            found[name] = re.compile(pattern.replace(" | ", "|").replace(",", ""))
    return found


def _invalid(root: Element) -> Iterator[str]:
    stack = [root]
    while stack:
        element = stack.pop()
        models = _models()
        model = models.get(element.name)
        children = "".join(f"{child.name} " for child in element.children)
        if element.name not in models:
            yield f"line {element.line}: the DTD has no element {element.name}"
        elif model is None:
            if children:
                yield f"line {element.line}: {element.name} holds elements, not text"
        elif model.fullmatch(children) is None:
            yield f"line {element.line}: {element.name} does not have the content the DTD demands"
        elif element.text.strip():
            yield f"line {element.line}: {element.name} holds text"
        stack += element.children
