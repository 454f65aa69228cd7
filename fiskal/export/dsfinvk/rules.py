"""The rules between the tables of an export, as queries over all of their rows."""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fiskal.export.dsfinvk.amounts import written
from fiskal.export.dsfinvk.report import CheckReport
from fiskal.export.dsfinvk.schema import TABLES
from fiskal.germany import vat
from fiskal.tse.algorithms import (
    AlgorithmNotSupported,
    KeyNotUsable,
    load_public_keys,
    point_of,
    serial_of_point,
)
from fiskal.tse.certificates import X509_ERRORS, CertificateError, key_of, load_certificates
from fiskal.tse.qr import parse_time
from fiskal.tse.verify import SignatureCheck, Statement

_UNIQUE: Final = {
    "cashregister": "z",
    "slaves": "z, TERMINAL_ID",
    "pa": "z, AGENTUR_ID",
    "tse": "z, TSE_ID",
    "vat": "z, UST_SCHLUESSEL",
    "businesscases": "z, GV_TYP, GV_NAME, AGENTUR_ID, UST_SCHLUESSEL",
    "payment": "z, ZAHLART_TYP, ZAHLART_NAME",
    "cash_per_currency": "z, ZAHLART_WAEH",
    "transactions": "z, BON_ID",
    "lines": "z, BON_ID, POS_ZEILE",
    "lines_vat": "z, BON_ID, POS_ZEILE, UST_SCHLUESSEL",
    "transactions_vat": "z, BON_ID, UST_SCHLUESSEL",
}
_DETAILS: Final = (
    "datapayment",
    "lines",
    "itemamounts",
    "subitems",
    "transactions_tse",
    "transactions_vat",
    "lines_vat",
    "allocation_groups",
    "references",
)
_CENTS: Final = "((abs({0}) + 500) / 1000 * sign({0}))"
_OF: Final = "(SELECT Z_NR FROM cashpointclosing AS c WHERE c.z = {0}.z)"


class _Rule(NamedTuple):
    """``sql`` selects Z_NR, what it is about, and the values that ``text`` shows: amounts as (value, places)."""

    code: str
    text: str
    sql: str
    places: int = 5
    is_error: bool = True


def _sums(code: str, what: str, left: str, right: str, keys: str, places: int) -> _Rule:
    """Two queries with the columns z, ``keys`` and v must have the same sums."""
    about = " || ' ' || ".join(f"coalesce({key}, '')" for key in keys.split(", "))
    return _Rule(
        code,
        what,
        f"SELECT {_OF.format('s')}, {about}, sum(l), sum(r)"
        f" FROM (SELECT z, {keys}, v AS l, 0 AS r FROM ({left})"
        f" UNION ALL SELECT z, {keys}, 0, v FROM ({right})) AS s GROUP BY z, {keys} HAVING sum(l) <> sum(r)",
        places,
    )


_COUNTED: Final = "JOIN transactions AS t ON t.z = x.z AND t.BON_ID = x.BON_ID AND t.BON_TYP = 'Beleg'"


def _completeness_rules() -> Iterator[_Rule]:
    for table in ("location", "vat"):
        yield _Rule(
            "MISSING_ROWS",
            f"{table}.csv has no row for it",
            f"SELECT Z_NR, '' FROM cashpointclosing AS c WHERE NOT EXISTS (SELECT 1 FROM {table} AS x WHERE x.z = c.z)",
        )
    yield _Rule(
        "MISSING_ROWS",
        "cashregister.csv has no row for it",
        "SELECT Z_NR, '' FROM cashpointclosing AS c WHERE NOT EXISTS (SELECT 1 FROM cashregister AS x WHERE x.z = c.z)",
    )
    totals = " ".join(
        f"+ EXISTS (SELECT 1 FROM {table} AS x WHERE x.z = c.z)"
        for table in ("businesscases", "payment", "cash_per_currency")
    )
    yield _Rule(
        "MISSING_ROWS",
        "businesscases, payment and cash_per_currency: one has rows, another one has none",
        f"SELECT Z_NR, '' FROM cashpointclosing AS c WHERE (0 {totals}) NOT IN (0, 3)",
    )
    yield _Rule(
        "TAX_NUMBER",
        "neither STNR nor USTID is given",
        "SELECT Z_NR, '' FROM cashpointclosing WHERE STNR = '' AND USTID = ''",
    )
    yield _Rule(
        "TAX_NUMBER",
        "neither AGENTUR_STNR nor AGENTUR_USTID is given",
        f"SELECT {_OF.format('x')}, 'agency ' || AGENTUR_ID FROM pa AS x"
        " WHERE AGENTUR_STNR = '' AND AGENTUR_USTID = ''",
    )


def _unique_rules() -> Iterator[_Rule]:
    for table, key in _UNIQUE.items():
        yield _Rule(
            "KEY",
            f"{table}.csv: {key[3:] or 'the closing'} is there more than once",
            f"SELECT {_OF.format('x')}, {key.split(', ')[1] if ', ' in key else chr(39) * 2} FROM {table} AS x"
            f" GROUP BY {key} HAVING count(*) > 1",
        )


def _key_rules() -> Iterator[_Rule]:
    for table in _DETAILS:
        yield _Rule(
            "KEY",
            f"{table}.csv: this BON_ID is not in transactions.csv",
            f'SELECT {_OF.format("x")}, x.BON_ID FROM "{table}" AS x LEFT JOIN transactions AS t'
            " ON t.z = x.z AND t.BON_ID = x.BON_ID WHERE t.z IS NULL",
        )
    for table in ("lines_vat", "itemamounts", "subitems"):
        yield _Rule(
            "KEY",
            f"{table}.csv: this POS_ZEILE is not in lines.csv",
            f"SELECT {_OF.format('x')}, x.BON_ID || ' line ' || x.POS_ZEILE FROM {table} AS x LEFT JOIN lines AS l"
            " ON l.z = x.z AND l.BON_ID = x.BON_ID AND l.POS_ZEILE = x.POS_ZEILE WHERE l.z IS NULL",
        )
    for table, column in (
        ("lines_vat", "UST_SCHLUESSEL"),
        ("transactions_vat", "UST_SCHLUESSEL"),
        ("businesscases", "UST_SCHLUESSEL"),
        ("subitems", "ZI_UST_SCHLUESSEL"),
    ):
        yield _Rule(
            "VAT_KEY",
            f"{table}.csv: this key is not in vat.csv",
            f"SELECT DISTINCT {_OF.format('x')}, 'key ' || x.{column} FROM {table} AS x LEFT JOIN vat AS v"
            f" ON v.z = x.z AND v.UST_SCHLUESSEL = x.{column} WHERE v.z IS NULL AND x.{column} IS NOT NULL",
        )
    for table in ("lines", "businesscases"):
        yield _Rule(
            "KEY",
            f"{table}.csv: this agency is not in pa.csv",
            f"SELECT DISTINCT {_OF.format('x')}, 'agency ' || x.AGENTUR_ID FROM {table} AS x LEFT JOIN pa AS p"
            " ON p.z = x.z AND p.AGENTUR_ID = x.AGENTUR_ID WHERE p.z IS NULL AND x.AGENTUR_ID <> 0",
        )
    yield _Rule(
        "KEY",
        "its TSE is not in tse.csv",
        f"SELECT {_OF.format('x')}, x.BON_ID FROM transactions_tse AS x LEFT JOIN tse AS e"
        " ON e.z = x.z AND e.TSE_ID = x.TSE_ID WHERE e.z IS NULL AND x.TSE_ID IS NOT NULL",
    )


def _receipt_rules() -> Iterator[_Rule]:
    for table in ("lines", "datapayment"):
        yield _Rule(
            "BELEG",
            f"is a Beleg without a row in {table}.csv",
            f"SELECT {_OF.format('t')}, BON_ID FROM transactions AS t WHERE BON_TYP = 'Beleg' AND NOT EXISTS"
            f" (SELECT 1 FROM {table} AS x WHERE x.z = t.z AND x.BON_ID = t.BON_ID)",
        )
    yield _Rule(
        "BON_NAME",
        "is AVSonstige without BON_NAME",
        f"SELECT {_OF.format('t')}, BON_ID FROM transactions AS t WHERE BON_TYP = 'AVSonstige' AND BON_NAME = ''",
    )
    yield _Rule(
        "BON_TYP",
        "is AVBelegstorno, which must not be used with a TSE",
        f"SELECT {_OF.format('t')}, BON_ID FROM transactions AS t WHERE BON_TYP = 'AVBelegstorno'",
        is_error=False,
    )
    customer = [name for name in TABLES["transactions"].header if name.startswith("KUNDE_")]
    yield _Rule(
        "CUSTOMER",
        "has a customer, but KUNDE_NAME, KUNDE_ID or KUNDE_TYP is empty",
        f"SELECT {_OF.format('t')}, BON_ID FROM transactions AS t WHERE {' || '.join(customer)} <> ''"
        " AND '' IN (KUNDE_NAME, KUNDE_ID, KUNDE_TYP)",
    )
    yield _Rule(
        "REF_NAME",
        "has a reference ExterneSonstige without REF_NAME",
        f'SELECT {_OF.format("x")}, BON_ID FROM "references" AS x'
        " WHERE REF_TYP = 'ExterneSonstige' AND REF_NAME = ''",
    )
    yield _Rule(
        "REFERENCE",
        "refers to a Vorgang of this export that is not there",
        f"SELECT {_OF.format('x')}, x.BON_ID || ' to ' || x.REF_BON_ID FROM \"references\" AS x"
        " JOIN cashpointclosing AS c ON c.Z_KASSE_ID = x.REF_Z_KASSE_ID AND c.Z_NR = x.REF_Z_NR"
        " LEFT JOIN transactions AS t ON t.z = c.z AND t.BON_ID = x.REF_BON_ID"
        " WHERE x.REF_TYP = 'Transaktion' AND t.z IS NULL",
    )


def _sum_rules() -> Iterator[_Rule]:
    equal = "{0} against {1}"
    for column, other in (("BRUTTO", "BRUTTO"), ("NETTO", "NETTO"), ("UST", "UST")):
        yield _sums(
            "SUM",
            f"lines_vat.csv and transactions_vat.csv: sums of POS_{column} and BON_{other}: {equal}",
            f"SELECT z, BON_ID, UST_SCHLUESSEL, POS_{column} AS v FROM lines_vat",
            f"SELECT z, BON_ID, UST_SCHLUESSEL, BON_{other} AS v FROM transactions_vat",
            "BON_ID, UST_SCHLUESSEL",
            5,
        )
    gross = "(SELECT coalesce(sum(BON_BRUTTO), 0) FROM transactions_vat AS x WHERE x.z = t.z AND x.BON_ID = t.BON_ID)"
    yield _Rule(
        "SUM",
        f"UMS_BRUTTO and the sum of transactions_vat.csv: {equal}",
        f"SELECT {_OF.format('t')}, BON_ID, UMS_BRUTTO, {_CENTS.format(gross)} FROM transactions AS t"
        f" WHERE UMS_BRUTTO <> {_CENTS.format(gross)}",
        2,
    )
    for table, what in (("lines_vat", "POS"), ("transactions_vat", "BON"), ("businesscases", "Z")):
        names = ("Z_UMS_BRUTTO", "Z_UMS_NETTO", "Z_UST")
        if what != "Z":
            names = (f"{what}_BRUTTO", f"{what}_NETTO", f"{what}_UST")
        about = "x.GV_TYP" if what == "Z" else "x.BON_ID"
        yield _Rule(
            "NET",
            f"{table}.csv: gross and net with VAT: {equal}",
            f"SELECT {_OF.format('x')}, {about}, {names[0]}, {names[1]} + {names[2]} FROM {table} AS x"
            f" WHERE {names[0]} <> {names[1]} + {names[2]}",
        )
    expected = "x.POS_BRUTTO * v.UST_SATZ / (10000 + v.UST_SATZ)"
    for is_error, condition in ((True, "NOT"), (False, "")):
        yield _Rule(
            "VAT",
            "lines_vat.csv: POS_UST is not what the rate of its key gives: {0}, not about {1}",
            f"SELECT {_OF.format('x')}, x.BON_ID || ' line ' || x.POS_ZEILE, x.POS_UST, {expected} FROM lines_vat AS x"
            " JOIN vat AS v ON v.z = x.z AND v.UST_SCHLUESSEL = x.UST_SCHLUESSEL"
            f" WHERE v.UST_SATZ > -10000 AND abs(x.POS_UST - {expected}) > 1001"
            f" AND {condition} (x.UST_SCHLUESSEL IN (5, 6, 7) OR x.UST_SCHLUESSEL >= {vat.INDIVIDUAL})",
            is_error=is_error,
        )
    line = (
        "(SELECT sum(POS_BRUTTO) FROM lines_vat AS x WHERE x.z = l.z AND x.BON_ID = l.BON_ID"
        " AND x.POS_ZEILE = l.POS_ZEILE)"
    )
    yield _Rule(
        "QUANTITY",
        "MENGE times STK_BR and the gross amount of the line: {0} against {1}",
        f"SELECT {_OF.format('l')}, BON_ID || ' line ' || POS_ZEILE, MENGE * STK_BR / 1000, s FROM"
        f" (SELECT *, {line} AS s FROM lines AS l) AS l WHERE"
        " abs(MENGE * STK_BR - s * 1000) > 500 * max(1000, abs(MENGE))",
    )
    yield _Rule(
        "QUANTITY",
        "STK_BR is negative: {0}",
        f"SELECT {_OF.format('l')}, BON_ID || ' line ' || POS_ZEILE, STK_BR FROM lines AS l WHERE STK_BR < 0",
    )
    paid = "(SELECT coalesce(sum(BASISWAEH_BETRAG), 0) FROM datapayment AS x WHERE x.z = t.z AND x.BON_ID = t.BON_ID)"
    yield _Rule(
        "UNBALANCED",
        f"payments and UMS_BRUTTO: {equal}",
        f"SELECT {_OF.format('t')}, BON_ID, {paid}, UMS_BRUTTO FROM transactions AS t"
        f" WHERE BON_TYP = 'Beleg' AND UMS_BRUTTO <> {paid}",
        2,
        is_error=False,
    )
    for column, other in (("BRUTTO", "Z_UMS_BRUTTO"), ("NETTO", "Z_UMS_NETTO"), ("UST", "Z_UST")):
        yield _sums(
            "SUM",
            f"lines of the closing and {other} in businesscases.csv: {equal}",
            "SELECT x.z, l.GV_TYP, l.GV_NAME, coalesce(l.AGENTUR_ID, 0) AS AGENTUR_ID, x.UST_SCHLUESSEL,"
            f" x.POS_{column} AS v FROM lines_vat AS x {_COUNTED}"
            " JOIN lines AS l ON l.z = x.z AND l.BON_ID = x.BON_ID AND l.POS_ZEILE = x.POS_ZEILE",
            "SELECT z, GV_TYP, GV_NAME, coalesce(AGENTUR_ID, 0) AS AGENTUR_ID, UST_SCHLUESSEL,"
            f" {other} AS v FROM businesscases",
            "GV_TYP, GV_NAME, AGENTUR_ID, UST_SCHLUESSEL",
            5,
        )
    yield _sums(
        "SUM",
        f"payments of the closing and payment.csv: {equal}",
        f"SELECT x.z, ZAHLART_TYP, ZAHLART_NAME, BASISWAEH_BETRAG AS v FROM datapayment AS x {_COUNTED}",
        "SELECT z, ZAHLART_TYP, ZAHLART_NAME, Z_ZAHLART_BETRAG AS v FROM payment",
        "ZAHLART_TYP, ZAHLART_NAME",
        2,
    )
    yield _sums(
        "SUM",
        f"cash of the closing and cash_per_currency.csv: {equal}",
        "SELECT x.z, ZAHLWAEH_CODE AS w, coalesce(ZAHLWAEH_BETRAG, BASISWAEH_BETRAG) AS v"
        f" FROM datapayment AS x {_COUNTED} WHERE ZAHLART_TYP = 'Bar'",
        "SELECT z, ZAHLART_WAEH AS w, ZAHLART_BETRAG_WAEH AS v FROM cash_per_currency",
        "w",
        2,
    )
    for column, condition in (("Z_SE_ZAHLUNGEN", "1"), ("Z_SE_BARZAHLUNGEN", "ZAHLART_TYP = 'Bar'")):
        paid = (
            f"(SELECT coalesce(sum(Z_ZAHLART_BETRAG), 0) FROM payment AS x WHERE x.z = c.z AND {condition})"
        )
        yield _Rule(
            "SUM",
            f"{column} and payment.csv: {equal}",
            f"SELECT Z_NR, '', {column}, {paid} FROM cashpointclosing AS c WHERE {column} <> {paid}",
            2,
        )
    turnover = _CENTS.format(
        "(SELECT coalesce(sum(Z_UMS_BRUTTO), 0) FROM businesscases AS x WHERE x.z = c.z)"
    )
    yield _Rule(
        "UNBALANCED",
        f"Z_SE_ZAHLUNGEN and businesscases.csv: {equal}",
        f"SELECT Z_NR, '', Z_SE_ZAHLUNGEN, {turnover} FROM cashpointclosing AS c WHERE Z_SE_ZAHLUNGEN <> {turnover}",
        2,
        is_error=False,
    )


def _order_rules() -> Iterator[_Rule]:
    for column in ("Z_START_ID", "Z_ENDE_ID"):
        yield _Rule(
            "KEY",
            f"{column} is no Vorgang of the closing",
            f"SELECT Z_NR, {column} FROM cashpointclosing AS c WHERE NOT EXISTS (SELECT 1 FROM transactions AS t"
            f" WHERE t.z = c.z AND t.BON_ID = c.{column}) AND ({column} <> ''"
            " OR EXISTS (SELECT 1 FROM transactions AS t WHERE t.z = c.z))",
        )
    yield _Rule(
        "Z_NR",
        "the closing before it is not there",
        "SELECT Z_NR, Z_KASSE_ID FROM cashpointclosing AS c WHERE Z_NR > (SELECT min(Z_NR) FROM cashpointclosing AS f"
        " WHERE f.Z_KASSE_ID = c.Z_KASSE_ID) AND NOT EXISTS (SELECT 1 FROM cashpointclosing AS b"
        " WHERE b.Z_KASSE_ID = c.Z_KASSE_ID AND b.Z_NR = c.Z_NR - 1)",
    )
    yield _Rule(
        "TIME_ORDER",
        "BON_START is later than BON_ENDE",
        f"SELECT {_OF.format('t')}, BON_ID FROM transactions AS t WHERE julianday(BON_START) > julianday(BON_ENDE)",
    )
    yield _Rule(
        "TIME_ORDER",
        "BON_ENDE is later than the closing",
        f"SELECT {_OF.format('t')}, BON_ID FROM transactions AS t WHERE julianday(BON_ENDE) > julianday(Z_ERSTELLUNG)",
        is_error=False,
    )
    yield _Rule(
        "TSE_ROW",
        "has no row in transactions_tse.csv",
        f"SELECT {_OF.format('t')}, BON_ID FROM transactions AS t WHERE NOT EXISTS"
        " (SELECT 1 FROM transactions_tse AS x WHERE x.z = t.z AND x.BON_ID = t.BON_ID)",
    )
    incomplete = (
        "TSE_TANR IS NULL OR TSE_TA_SIGZ IS NULL OR '' IN (TSE_TA_ENDE, TSE_TA_VORGANGSART, TSE_TA_SIG)"
    )
    yield _Rule(
        "TSE_ROW",
        "is neither signed in full nor has it a TSE_TA_FEHLER",
        f"SELECT {_OF.format('x')}, BON_ID FROM transactions_tse AS x WHERE TSE_TA_FEHLER = '' AND ({incomplete})",
    )
    yield _Rule(
        "TSE_ROW",
        "was signed, but its TSE_TA_START is not known",
        f"SELECT {_OF.format('x')}, BON_ID FROM transactions_tse AS x WHERE TSE_TA_SIG <> '' AND TSE_TA_START = ''",
        is_error=False,
    )
    yield _Rule(
        "TIME_ORDER",
        "TSE_TA_START is later than TSE_TA_ENDE",
        f"SELECT {_OF.format('x')}, BON_ID FROM transactions_tse AS x"
        " WHERE julianday(TSE_TA_START) > julianday(TSE_TA_ENDE)",
    )
    of_tse = "transactions_tse AS x JOIN tse AS e ON e.z = x.z AND e.TSE_ID = x.TSE_ID"
    for column in ("TSE_TANR", "TSE_TA_SIGZ"):
        yield _Rule(
            "TSE_NUMBER",
            f"the TSE gave this {column} more than once",
            f"SELECT {_OF.format('x')}, x.BON_ID || ' {column} ' || {column} FROM {of_tse}"
            f" WHERE {column} IS NOT NULL GROUP BY e.TSE_SERIAL, {column} HAVING count(*) > 1",
        )
    yield _Rule(
        "TSE_NUMBER",
        "its signature counter is higher than one of a later time",
        "SELECT n, b FROM (SELECT (SELECT Z_NR FROM cashpointclosing AS c WHERE c.z = x.z) AS n, x.BON_ID AS b,"
        " TSE_TA_ENDE AS now, lead(TSE_TA_ENDE) OVER (PARTITION BY e.TSE_SERIAL ORDER BY TSE_TA_SIGZ) AS next"
        f" FROM {of_tse} WHERE TSE_TA_SIGZ IS NOT NULL AND TSE_TA_ENDE <> '')"
        " WHERE julianday(next) < julianday(now)",
        is_error=False,
    )


def apply(db: sqlite3.Connection, report: CheckReport, *, signatures: bool) -> None:
    """Hold all rows against the rules."""
    for table in ("transactions", *_DETAILS):
        extra = ", POS_ZEILE" if table in ("lines", "lines_vat") else ""
        db.execute(f'CREATE INDEX "{table}_bon" ON "{table}" (z, BON_ID{extra})')
    for table in (
        "cashpointclosing",
        "location",
        "cashregister",
        "vat",
        "tse",
        "pa",
        "businesscases",
        "payment",
    ):
        db.execute(f'CREATE INDEX "{table}_z" ON "{table}" (z)')
    db.execute("CREATE INDEX closing_nr ON cashpointclosing (Z_KASSE_ID, Z_NR)")
    for name, table in (
        ("closings", "cashpointclosing"),
        ("transactions", "transactions"),
        ("lines", "lines"),
    ):
        report.counts[name] = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    if not report.counts["closings"]:
        report.error("MISSING_ROWS", "cashpointclosing.csv", "there is no closing")
    _hold(db, report, _completeness_rules())
    _hold(db, report, _unique_rules())
    _rates(db, report)
    _tses(db, report)
    if "KEY" in report.totals:
        # What belongs to what is not clear, and comparing everything with everything would take for ever.
        report.warning("KEY", "all", "sums and signatures were not checked: rows are there more than once")
        return
    _hold(db, report, _key_rules())
    _hold(db, report, _receipt_rules())
    _hold(db, report, _sum_rules())
    _hold(db, report, _order_rules())
    _payloads(db, report, signatures=signatures)


def _hold(db: sqlite3.Connection, report: CheckReport, rules: Iterator[_Rule]) -> None:
    for rule in rules:
        try:
            for number, about, *values in db.execute(rule.sql):
                where = f"closing {number}{f', {about}' if about else ''}"
                shown = [written(value, rule.places) if isinstance(value, int) else "?" for value in values]
                (report.error if rule.is_error else report.warning)(
                    rule.code, where, rule.text.format(*shown)
                )
        except sqlite3.OperationalError as error:
            if "overflow" not in str(error):
                raise
            report.error("SUM", "all", f"{rule.text.partition(':')[0]}: {error}")


def _rates(db: sqlite3.Connection, report: CheckReport) -> None:
    """The rates of the keys that the law gives."""
    for number, key, rate in db.execute("SELECT Z_NR, UST_SCHLUESSEL, UST_SATZ FROM vat"):
        if key in vat.FIXED:
            allowed = {int(vat.FIXED[key] * 100)}
        elif key in vat.IN_FORCE:
            allowed = {int(each.rate * 100) for each in vat.IN_FORCE[key]}
        else:
            continue
        if rate not in allowed:
            shown = "?" if rate is None else written(rate, 2)
            report.error("VAT_KEY", f"closing {number}, key {key}", f"vat.csv has a rate of {shown} %")


def _tses(db: sqlite3.Connection, report: CheckReport) -> None:
    """The key of a TSE is that of its certificate, and its serial number the hash of it."""
    sql = "SELECT Z_NR, TSE_ID, TSE_SERIAL, TSE_PUBLIC_KEY, TSE_ZERTIFIKAT_I FROM tse"
    seen: dict[tuple[str, str, str], str] = {}
    for number, tse_id, *parts in db.execute(sql):
        key = tuple(parts)
        if key not in seen:
            seen[key] = _tse_fault(*key)
        if seen[key]:
            report.error("TSE", f"closing {number}, TSE {tse_id}", seen[key])


def _tse_fault(serial: str, public_key: str, certificate: str) -> str:
    """What is wrong with a TSE; empty if nothing is."""
    try:
        points = {point_of(key) for key in load_public_keys(base64.b64decode(public_key, validate=True))}
    except (ValueError, KeyNotUsable):
        return "TSE_PUBLIC_KEY is no key of a TSE"
    if serial.lower() not in {serial_of_point(point).hex() for point in points}:
        return "TSE_SERIAL is not the SHA-256 of TSE_PUBLIC_KEY"
    if not certificate:
        return ""  # that a mandatory column is empty was said already
    try:
        (leaf, *_) = load_certificates(base64.b64decode(certificate, validate=True))
        point = point_of(key_of(leaf))
    except (*X509_ERRORS, CertificateError):
        return "the certificate cannot be read"
    return "" if point in points else "TSE_PUBLIC_KEY is not that of the certificate"


# ---- what was signed ------------------------------------------------------------------------------------

_RECEIPT: Final = re.compile(
    r"(\w+)\^(-?\d+\.\d\d)_(-?\d+\.\d\d)_(-?\d+\.\d\d)_(-?\d+\.\d\d)_(-?\d+\.\d\d)\^(.*)",
    re.ASCII | re.DOTALL,
)
_ORDER_LINE: Final = re.compile(r'(-?[\d.]+);"((?:[^"]|"")*)";(\d+\.\d\d)(?:\r|\Z)', re.ASCII)
_MAX_QUANTITY_PLACES: Final = 3


def _payloads(db: sqlite3.Connection, report: CheckReport, *, signatures: bool) -> None:
    """processData must say what the tables say, and the signatures must hold."""
    checks: dict[tuple[int, int], SignatureCheck | None] = {}
    clients = dict(db.execute("SELECT z, KASSE_SERIENNR FROM cashregister"))
    rows = db.execute(
        "SELECT x.z, x.BON_ID, t.BON_TYP, c.Z_NR, x.TSE_ID, TSE_TANR, TSE_TA_ENDE, TSE_TA_VORGANGSART, TSE_TA_SIGZ,"
        " TSE_TA_SIG, TSE_VORGANGSDATEN FROM transactions_tse AS x JOIN cashpointclosing AS c ON c.z = x.z"
        " LEFT JOIN transactions AS t ON t.z = x.z AND t.BON_ID = x.BON_ID WHERE TSE_TA_SIG <> ''"
    )
    for z, bon_id, bon_typ, number, tse_id, *signed in rows:
        where = f"closing {number}, {bon_id}"
        process_type, data = signed[2], signed[5]
        # An aborted Vorgang may have been signed with zeros, and one row of it may be of another transaction.
        if data and bon_typ != "AVBelegabbruch":
            difference = _difference(db, z, bon_id, bon_typ or "", process_type, data)
            if difference:
                report.error("PROCESS_DATA", where, difference)
        if not signatures:
            continue
        key = (z, tse_id)
        if key not in checks:
            checks[key] = _check_of(db, z, tse_id)
        check = checks[key]
        if check is None or (not data and process_type != "Bestellung-V1"):
            report.counts["unchecked"] += 1
            continue
        holds = _holds(check, clients.get(z, ""), signed)
        if holds:
            report.counts["signatures"] += 1
        elif not data:
            report.counts["unchecked"] += 1  # an order that is too long for its column
        else:
            report.error("SIGNATURE", where, "the signature of the TSE does not hold")


def _check_of(db: sqlite3.Connection, z: int, tse_id: int) -> SignatureCheck | None:
    row = db.execute(
        "SELECT TSE_PUBLIC_KEY, TSE_SIG_ALGO, TSE_ZEITFORMAT FROM tse WHERE z = ? AND TSE_ID = ?", (z, tse_id)
    ).fetchone()
    try:
        return (
            None
            if row is None
            else SignatureCheck(
                public_key=base64.b64decode(row[0], validate=True),
                algorithm=row[1],
                time_format=row[2],
                accept_der=True,
            )
        )
    except (ValueError, KeyNotUsable, AlgorithmNotSupported):
        return None  # said where the TSEs are looked at


def _holds(check: SignatureCheck, client: str, signed: list[Any]) -> bool:
    number, end, process_type, counter, signature, data = signed
    try:
        statement = Statement(
            "finish", client, process_type, data.encode(), number or 0, counter or 0, parse_time(end)
        )
        return check.find(statement, base64.b64decode(signature, validate=True)) is not None
    except ValueError:
        return False


def _difference(
    db: sqlite3.Connection, z: int, bon_id: str, bon_typ: str, process_type: str, data: str
) -> str:
    """How processData differs from the tables; empty if it does not, or if the tables cannot say."""
    if process_type == "Kassenbeleg-V1":
        return _receipt_difference(db, z, bon_id, bon_typ, data)
    if process_type == "Bestellung-V1":
        return _order_difference(db, z, bon_id, data)
    return ""


def _receipt_difference(db: sqlite3.Connection, z: int, bon_id: str, bon_typ: str, data: str) -> str:
    found = _RECEIPT.fullmatch(data)
    if found is None:
        return "TSE_VORGANGSDATEN is no Kassenbeleg-V1"
    if found[1] != bon_typ:
        return f"the TSE signed a {found[1]}, the table has a {bon_typ}"
    columns = [0] * 5
    sql = "SELECT UST_SCHLUESSEL, BON_BRUTTO FROM transactions_vat WHERE z = ? AND BON_ID = ?"
    for key, gross in db.execute(sql, (z, bon_id)):
        columns[_column(key or 0) - 1] += gross or 0
    for index, total in enumerate(columns):
        signed = int(found[index + 2].replace(".", ""))
        table = (abs(total) + 500) // 1000 * (1 if total > 0 else -1)
        if signed != table:
            return f"VAT column {index + 1}: signed {found[index + 2]}, in the tables {written(table, 2)}"
    payments: dict[str, int] = {}
    sql = (
        "SELECT ZAHLART_TYP, ZAHLWAEH_CODE, ZAHLWAEH_BETRAG, BASISWAEH_BETRAG, KASSE_BASISWAEH_CODE"
        " FROM datapayment AS x LEFT JOIN cashregister AS r ON r.z = x.z WHERE x.z = ? AND BON_ID = ?"
    )
    for kind, code, foreign, base, base_code in db.execute(sql, (z, bon_id)):
        name = "Bar" if kind == "Bar" else "Unbar"
        if code not in ("EUR", base_code):
            name += f":{code}"
        amount = base if foreign is None else foreign
        payments[name] = payments.get(name, 0) + (amount or 0)
    signed_payments: dict[str, int] = {}
    for part in filter(None, found[7].split("_")):
        amount_text, _, name = part.partition(":")
        name = name.removesuffix(":EUR")
        if re.fullmatch(r"-?\d+\.\d\d", amount_text, re.ASCII) is None:
            return "TSE_VORGANGSDATEN is no Kassenbeleg-V1"
        signed_payments[name] = signed_payments.get(name, 0) + int(amount_text.replace(".", ""))
    for name in sorted(payments.keys() | signed_payments.keys()):
        signed, table = signed_payments.get(name, 0), payments.get(name, 0)
        if signed != table:
            return f"payment {name}: signed {written(signed, 2)}, in the tables {written(table, 2)}"
    return ""


def _column(key: int) -> int:
    """The place of a key in processData."""
    return {1: 1, 2: 2, 3: 3, 4: 4, 11: 1, 12: 2, 21: 1, 22: 2}.get(key, 5)


def _order_difference(db: sqlite3.Connection, z: int, bon_id: str, data: str) -> str:
    sql = "SELECT MENGE, ARTIKELTEXT, STK_BR FROM lines WHERE z = ? AND BON_ID = ? ORDER BY record"
    lines = db.execute(sql, (z, bon_id)).fetchall()
    signed = list(_ORDER_LINE.finditer(data))
    if sum(len(each[0]) for each in signed) != len(data):
        return "TSE_VORGANGSDATEN is no Bestellung-V1"
    if len(signed) != len(lines):
        return f"signed {len(signed)} lines, in the tables {len(lines)}"
    for index, (line, each) in enumerate(zip(lines, signed, strict=True), 1):
        whole, _, fraction = each[1].partition(".")
        if len(fraction) > _MAX_QUANTITY_PLACES:
            continue  # the table has fewer decimals
        quantity = int(whole + fraction.ljust(_MAX_QUANTITY_PLACES, "0"))
        if abs(quantity - (line[0] or 0)) > 1:  # the last decimal may be rounded or cut
            return f"line {index}: signed a quantity of {each[1]}, in the tables {written(line[0] or 0, 3)}"
        text = each[2].replace('""', '"')
        if text[:255] != line[1]:
            return f"line {index}: signed {text[:40]!r}, in the tables {line[1][:40]!r}"
        if abs(int(each[3].replace(".", "")) * 1000 - (line[2] or 0)) > 1000:
            return f"line {index}: signed a price of {each[3]}, in the tables {written(line[2] or 0, 5)}"
    return ""
