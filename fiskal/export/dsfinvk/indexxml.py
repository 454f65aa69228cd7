"""index.xml of the GDPdU description standard: what the files of an export are, for whoever imports them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from importlib import resources
from typing import Final

from fiskal.export.dsfinvk import schema
from fiskal.export.dsfinvk.schema import Column, Table

DTD_NAME: Final = "gdpdu-01-09-2004.dtd"
INDEX_NAME: Final = "index.xml"

_NOT_IN_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def dtd() -> bytes:
    """The DTD that lies beside index.xml."""
    return resources.files(__package__).joinpath(DTD_NAME).read_bytes()


def index_xml(tables: Iterable[Table], *, supplier: str, location: str, version: str) -> bytes:
    """index.xml of an export with these tables, in UTF-8."""
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>\n',
        f'<!DOCTYPE DataSet SYSTEM "{DTD_NAME}">\n',
        "<DataSet>\n  <Version>1.0</Version>\n  <DataSupplier>\n",
        f"    <Name>{_text(supplier)}</Name>\n    <Location>{_text(location)}</Location>\n",
        f"    <Comment>DSFinV-K {_text(version)}</Comment>\n  </DataSupplier>\n",
        "  <Media>\n    <Name>DSFinV-K</Name>\n",
        *(part for table in tables for part in _table(table)),
        "  </Media>\n</DataSet>\n",
    ]
    return "".join(parts).encode()


def _table(table: Table) -> Iterable[str]:
    yield (
        f"    <Table>\n      <URL>{table.file_name}</URL>\n      <Name>{table.name}</Name>\n"
        f"      <Description>{table.file_name}</Description>\n      <UTF8/>\n"
        f"      <DecimalSymbol>{schema.DECIMAL_SYMBOL}</DecimalSymbol>\n"
        f"      <DigitGroupingSymbol>{schema.GROUPING_SYMBOL}</DigitGroupingSymbol>\n"
        "      <Range><From>2</From></Range>\n      <VariableLength>\n"
        f"        <ColumnDelimiter>{schema.DELIMITER}</ColumnDelimiter>\n"
        # As references: a parser would turn the line ends themselves into one LF.
        "        <RecordDelimiter>&#13;&#10;</RecordDelimiter>\n"
        f"        <TextEncapsulator>{schema.QUOTE}</TextEncapsulator>\n"
    )
    yield from map(_column, table.columns)
    yield "      </VariableLength>\n    </Table>\n"


def _column(column: Column) -> str:
    if not column.is_number:
        kind = f"<AlphaNumeric/><MaxLength>{column.size}</MaxLength>"
    elif column.size:
        kind = f"<Numeric><Accuracy>{column.size}</Accuracy></Numeric>"
    else:
        kind = "<Numeric/>"
    return (
        f"        <VariableColumn><Name>{column.name}</Name>"
        f"<Description>{_text(column.description)}</Description>{kind}</VariableColumn>\n"
    )


def _text(text: str) -> str:
    return escape(_NOT_IN_XML.sub("", text), quote=False)
