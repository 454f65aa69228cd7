"""The CSV files of an export that may come from anybody: records, and what is wrong with their values."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from typing import IO, Final, NamedTuple

from iso3166 import countries_by_alpha3

from fiskal.export.dsfinvk import schema
from fiskal.export.dsfinvk.indexread import DeclaredTable
from fiskal.export.dsfinvk.schema import Table
from fiskal.germany import vat
from fiskal.germany.cases import GV_TYPES, ZAHLART_TYPES

MAX_RECORD: Final = 1 << 20
"""Characters of one record."""
LARGEST: Final = 10**15
"""Numbers are below it, in units of their last decimal: so sums fit in 64 bits."""

_READ_BYTES: Final = 1 << 18

Report = Callable[[str, int, str], None]
"""Called with a code, the number of the record and what is wrong."""


class Broken(ValueError):
    """Records cannot be told apart from here on."""


def records(file: IO[bytes], table: DeclaredTable, report: Report) -> Iterator[tuple[int, list[str]]]:
    """The records of a file with their numbers, the header among them. Raises Broken."""
    number = 0
    for number, record in enumerate(_split(_decoded(file), table.record_end, table.quote), 1):
        text = record
        if number == 1 and text.startswith("\ufeff"):
            report("BOM", 1, "a byte order mark stands before the first column")
            text = text[1:]
        try:
            rows = list(csv.reader([text], delimiter=table.delimiter, quotechar=table.quote, strict=True))
        except csv.Error as error:
            report("RECORD", number, f"the record cannot be read: {error}")
            continue
        if len(rows) != 1 or text.endswith(("\r", "\n")):
            report("RECORD", number, "a line end stands inside of a record, outside of quotes")
            continue
        yield number, rows[0]
    if not number:
        report("HEADER", 1, "the file is empty; even without rows it has its header")


def _decoded(file: IO[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while data := file.read(_READ_BYTES):
            yield decoder.decode(data)
        yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise Broken(f"it is not UTF-8: {error.reason}") from error


def _split(chunks: Iterator[str], end: str, quote: str) -> Iterator[str]:
    """Records without their ends: an end inside of quotes is none."""
    rest, at, is_inside = "", 0, False
    for chunk in chunks:
        rest += chunk
        begin = 0
        while (found := rest.find(end, at)) >= 0:
            # Quotes inside of quotes are doubled, so outside of them their number is even.
            is_inside ^= bool(rest.count(quote, at, found) & 1)
            at = found + len(end)
            if not is_inside:
                yield rest[begin:found]
                begin = at
        rest, at = rest[begin:], at - begin
        if len(rest) > MAX_RECORD:
            raise Broken(f"a record has more than {MAX_RECORD} characters; is the record delimiter {end!r}?")
    if rest:
        raise Broken(f"the last record does not end with {end!r}")


# ---- values ---------------------------------------------------------------------------------------------

_SECONDS: Final = re.compile(
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,7})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_MILLISECONDS: Final = re.compile(_SECONDS.pattern.replace(r"(\.[0-9]{1,7})?", r"\.[0-9]{3}"))

_ENUMERATIONS: Final[dict[str, frozenset[str]]] = {
    "BON_TYP": schema.BON_TYPES,
    "GV_TYP": frozenset(GV_TYPES) - {""},
    "ZAHLART_TYP": frozenset(ZAHLART_TYPES),
    "REF_TYP": schema.REF_TYPES,
    "TYP": schema.ITEM_AMOUNT_TYPES,
    "TSE_PD_ENCODING": frozenset({"UTF-8", "ASCII"}),
    "BON_STORNO": frozenset("01"),
    "INHAUS": frozenset("01"),
    "P_STORNO": frozenset("01"),
    "KEINE_UST_ZUORDNUNG": frozenset("01"),
}
_CURRENCIES: Final = frozenset({"KASSE_BASISWAEH_CODE", "ZAHLWAEH_CODE", "ZAHLART_WAEH"})
_KEYS: Final = frozenset({"UST_SCHLUESSEL", "ZI_UST_SCHLUESSEL"})
_TIMES: Final = {
    "Z_ERSTELLUNG": _SECONDS,
    "BON_START": _SECONDS,
    "BON_ENDE": _SECONDS,
    "REF_DATUM": _SECONDS,
    "TSE_TA_START": _MILLISECONDS,
    "TSE_TA_ENDE": _MILLISECONDS,
}


def _meaning(name: str, value: str) -> tuple[str, str] | None:
    """What is wrong with the text of a column beyond its form: code and words."""
    allowed = _ENUMERATIONS.get(name)
    if allowed is not None:
        return None if value in allowed else ("ENUMERATION", f"{value!r} is no {name}")
    time = _TIMES.get(name)
    if time is not None:
        return (
            None if time.fullmatch(value) else ("TIME", f"{name} {value!r} is no time as it must be written")
        )
    if name in _CURRENCIES:
        if re.fullmatch("[A-Z]{3}", value) is None:
            return "CURRENCY", f"{name} {value!r} is no code of ISO 4217"
    elif name.endswith("LAND"):
        if value not in countries_by_alpha3:
            return "COUNTRY", f"{name} {value!r} is no three-letter code of ISO 3166"
    elif name.endswith("USTID"):
        if value.startswith("DE") and re.fullmatch("DE[0-9]{9}", value) is None:
            return "USTID", f"{name} {value!r} is not DE and nine digits"
    elif name == "TSE_SIG_ALGO":
        if re.fullmatch(r"(ecdsa|ecsdsa)-plain-SHA(3-)?(224|256|384|512)", value) is None:
            return "ENUMERATION", f"{value!r} is no signature algorithm of a TSE"
    elif name == "TSE_ZEITFORMAT":
        if value.lower() not in _TIME_FORMATS:
            return "ENUMERATION", f"{value!r} is no time format of a TSE"
    elif name == "KASSE_SERIENNR" and ("/" in value or "_" in value):
        return "SERIAL", "KASSE_SERIENNR must hold neither / nor _"
    return None


_TIME_FORMATS: Final = frozenset({
    "unixtime", "utctime", "utctimewithseconds", "generalizedtime", "generalizedtimewithmilliseconds",
})  # fmt: skip
_NO_MEANING: Final = frozenset(
    {"ARTIKELTEXT", "BON_ID", "POS_ZEILE", "BEDIENER_NAME", "WARENGR", "TSE_TA_SIG"}
)


class _Rule(NamedTuple):
    name: str
    at: int
    is_number: bool
    size: int
    required: bool
    pattern: re.Pattern[str] | None


class Reader:
    """Turns records of one table into values: texts, integers in units of the last decimal, None for nothing.

    Columns come in the order of the schema, whatever the file's is; one that is missing is None everywhere.
    """

    def __init__(self, table: Table, declared: DeclaredTable) -> None:
        places = {column.name: at for at, column in enumerate(declared.columns)}
        self._symbol = declared.decimal_symbol
        self._rules: list[_Rule | None] = []
        for column in table.columns:
            at = places.get(column.name)
            if at is None:
                self._rules.append(None)
                continue
            pattern = None
            if column.is_number:
                fraction = f"{re.escape(self._symbol)}[0-9]{{{column.size}}}" if column.size else ""
                pattern = re.compile(f"-?(0|[1-9][0-9]*){fraction}")
            self._rules.append(
                _Rule(column.name, at, column.is_number, column.size, column.required, pattern)
            )

    def values(self, fields: list[str], report: Callable[[str, str], None]) -> list[str | int | None]:
        """The values of a record; ``report`` is called with a code and what is wrong."""
        found: list[str | int | None] = []
        for rule in self._rules:
            value = "" if rule is None else fields[rule.at]
            if rule is None or not value:
                if rule is not None and rule.required:
                    report("EMPTY", f"{rule.name} is empty")
                found.append(None if rule is None or rule.is_number else "")
            elif rule.pattern is not None:
                found.append(self._number(rule, rule.pattern, value, report))
            else:
                if len(value) > rule.size:
                    report("LENGTH", f"{rule.name} has {len(value)} characters, {rule.size} are allowed")
                if rule.name not in _NO_MEANING:
                    wrong = _meaning(rule.name, value)
                    if wrong is not None:
                        report(*wrong)
                found.append(value)
        return found

    def _number(
        self, rule: _Rule, pattern: re.Pattern[str], text: str, report: Callable[[str, str], None]
    ) -> int | None:
        if pattern.fullmatch(text) is None:
            report("NUMBER", f"{rule.name} {text[:40]!r} is no number with {rule.size} decimals")
            return None
        digits = text.replace(self._symbol, "") if rule.size else text
        if len(digits) > 16 or abs(int(digits)) >= LARGEST:
            report("NUMBER", f"{rule.name} {text[:40]!r} is too large")
            return None
        value = int(digits)
        if not value and text[0] == "-":
            report("NUMBER", f"{rule.name} {text!r} is a negative zero")
        if rule.name in _KEYS and not (1 <= value <= 7 or value in vat.FIXED or value >= vat.INDIVIDUAL):
            report("VAT_KEY", f"{rule.name} {value} is not assigned")
        return value
