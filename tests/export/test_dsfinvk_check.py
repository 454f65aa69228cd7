"""The check of a DSFinV-K export: a good one passes, and whatever is changed in it is found."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from fiskal.cli import main
from fiskal.export.dsfinvk import CheckReport, DsfinvkUnreadable, check, checking, indexread, records
from fiskal.export.dsfinvk.indexxml import index_xml
from fiskal.export.dsfinvk.schema import TABLES, more_certificate_columns
from fiskal.germany.masterdata import MasterData
from fiskal.scu.errors import Unreachable
from tests.support.dsfinvk import MASTER_DATA, charge, export, pay
from tests.support.shop import Shop

VOID, TRAINING, LATE = 0x4_0000, 0x2_0000, 0x1_0000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="module")
def good(folder: Path) -> bytes:
    """An export of two closings with a bit of everything."""

    def prepare(config: Any) -> None:
        config.master_data = msgspec.convert(MASTER_DATA, MasterData)

    shop = Shop(folder, prepare=prepare)
    common: dict[str, Any] = {"cbUser": "Anna"}
    customer = json.dumps(
        {"CustomerName": "N", "CustomerId": "1", "CustomerType": "Gast", "CustomerCountry": "AT"}
    )
    ice = charge('Eis "H"; groß', 7.98, 7, 0x02, quantity=2, ProductGroup="Eis")
    shop.send(
        0x10, "O", cbArea="Tisch 1", cbChargeItems=[ice, charge("Kaffee", 3.33, quantity=0.4516)], **common
    )
    shop.send(
        0x01,
        "O",
        cbCustomer=customer,
        cbChargeItems=[ice, charge("Agentur", 5, 0, 0xA2, ftChargeItemCaseData='{"AgencyId":"a-1"}')],
        cbPayItems=[
            pay("CHF", 7.98, 2, ftPayItemCaseData='{"CurrencyCode":"CHF","ForeignCurrencyAmount":8}'),
            pay("EUR", 4, 2, ftPayItemCaseData='{"CurrencyCode":"EUR","ForeignCurrencyAmount":4}'),
            pay("Karte", 3, 0x05),
            pay("Trinkgeld", -2, 0x10),
        ],
        **common,
    )
    subitem = json.dumps({"SubItems": [{"ProductNumber": "1", "Description": "Teil", "Amount": 2}]})
    shop.send(
        0x01,
        "P",
        cbChargeItems=[charge("Menü", 10, ftChargeItemCaseData=subitem), charge("alt", 16, 16, 0x01)],
        cbPayItems=[pay("Bar", 26)],
        **common,
    )
    shop.sale("V", "-10", case=0x01 | VOID, cbPreviousReceiptReference="P", **common)
    shop.sale("T", case=0x01 | TRAINING, **common)
    shop.send(0x12, "S", cbChargeItems=[ice], cbPayItems=[pay("Eigen", 7.98, 0x0A)], **common)
    shop.send(0x08, "X")
    shop.send(0x0B, "X", **common)
    shop.send(0x13, "I", **common)
    shop.send(0x07, "Z1", cbReceiptMoment="2023-11-14T23:00:00Z")
    shop.sale("L", case=0x01 | LATE, **common)
    shop.sale(
        "E", ftReceiptCaseData='{"RefType":"ExterneSonstige","RefName":"Brief","RefReceiptId":"7"}', **common
    )
    shop.tse.down = Unreachable("CONNECT_FAILED", "The TSE is not available.")
    shop.sale("F", **common)
    shop.send(0x07, "Z2", cbReceiptMoment="2023-11-15T23:00:00Z")
    data = export(shop)
    shop.close()
    return data


Edit = Callable[[dict[str, bytes]], None]


def changed(data: bytes, edit: Edit) -> io.BytesIO:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    edit(files)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    out.seek(0)
    return out


def shown(report: CheckReport) -> list[str]:
    return [f"{each.severity} {each.code} {each.where}: {each.text}" for each in report.findings]


def test_a_good_export(good: bytes) -> None:
    report = check(io.BytesIO(good))
    assert shown(report) == []
    assert report.ok
    assert report.counts["closings"] == 2
    assert report.counts["transactions"] == 11
    assert report.counts["signatures"] == 9
    assert report.counts["unchecked"] == 0


def test_progress_goes_to_the_end(good: bytes) -> None:
    seen: list[tuple[int, int]] = []
    check(io.BytesIO(good), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 20
    assert seen[-1][0] == seen[-1][1]


# ---- values and sums ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "code"),
    [
        # form
        ("lines", rb"0,452", rb"0.452", "NUMBER"),
        ("lines", rb"0,452", rb"0,45", "NUMBER"),
        ("lines", rb"0,452", rb"00,452", "NUMBER"),
        ("lines", rb"0,452", rb"9" * 20 + rb",452", "NUMBER"),
        ("datapayment", rb"26,00", rb"+26,00", "NUMBER"),
        ("datapayment", rb";0,00", rb";-0,00", "NUMBER"),
        ("lines", rb"Kaffee", rb"K" * 256, "LENGTH"),
        ("transactions", rb"Anna", rb"A" * 51, "LENGTH"),
        ("transactions", rb"Beleg", rb"beleg", "ENUMERATION"),
        ("lines", rb"TrinkgeldAN", rb"Trinkgeld", "ENUMERATION"),
        ("payment", rb"Kreditkarte", rb"Karte", "ENUMERATION"),
        ("references", rb"Transaktion", rb"Intern", "ENUMERATION"),
        ("tse", rb"unixTime", rb"noInput", "ENUMERATION"),
        ("tse", rb"ecdsa-plain-SHA256", rb"ecdsa-SHA256", "ENUMERATION"),
        ("cashregister", rb"EUR", rb"Eur", "CURRENCY"),
        ("location", rb"DEU", rb"DE", "COUNTRY"),
        ("cashpointclosing", rb"DE123456789", rb"DE12345678", "USTID"),
        ("cashregister", rb"POS-1;Marke", rb"POS_1;Marke", "SERIAL"),
        ("transactions", rb"T22:13:20Z", rb" 22:13:20", "TIME"),
        ("transactions_tse", rb"\.000Z", rb"Z", "TIME"),
        ("vat", rb"21;16,00", rb"8;16,00", "VAT_KEY"),
        ("vat", rb"1;19,00", rb"1;20,00", "VAT_KEY"),
        ("transactions", rb";Anna;", rb";;", "BELEG?"),
        ("transactions", rb"[0-9A-F]{8};Anna", rb";Anna", "EMPTY"),
        # keys
        ("cashpointclosing", rb"(POS-1;.*\r\n)", rb"\1\1", "KEY"),
        ("lines", rb"(POS-1;.*\r\n)", rb"\1\1", "KEY"),
        ("lines_vat", rb"(POS-1;.*\r\n)", rb"\1\1", "KEY"),
        ("transactions", rb"(POS-1;.*\r\n)", rb"\1\1", "KEY"),
        ("vat", rb"(POS-1;.*\r\n)", rb"\1\1", "KEY"),
        ("transactions", rb"POS-1;.*\r\n", rb"", "KEY"),
        ("datapayment", rb"ft", rb"fx", "KEY"),
        ("pa", rb"POS-1.*\r\n", rb"", "KEY"),
        ("tse", rb"POS-1.*\r\n", rb"", "KEY"),
        ("cashpointclosing", rb"POS-1.*\r\n", rb"", "KEY"),
        ("cashpointclosing", rb"2\.4;ft1", rb"2.4;fx1", "KEY"),
        ("vat", rb"POS-1.*;21;.*\r\n", rb"", "VAT_KEY"),
        ("vat", rb"POS-1.*\r\n", rb"", "VAT_KEY"),
        ("references", rb"#IT4\r", rb"#IT99\r", "REFERENCE"),
        # completeness
        ("location", rb"POS-1.*\r\n", rb"", "MISSING_ROWS"),
        ("cashregister", rb"POS-1.*\r\n", rb"", "MISSING_ROWS"),
        ("cash_per_currency", rb"POS-1.*\r\n(?=\Z)", rb"", "MISSING_ROWS"),
        ("cashpointclosing", rb"12/345/67890;DE123456789", rb";", "TAX_NUMBER"),
        ("pa", rb";;U1", rb";;", "TAX_NUMBER"),
        ("transactions", rb"Interner Vorgang", rb"", "BON_NAME"),
        ("transactions", rb";Gast;", rb";;", "CUSTOMER"),
        ("references", rb"Brief", rb"", "REF_NAME"),
        ("lines", rb"POS-1;.*;alt;.*\r\n", rb"", "KEY"),
        ("transactions_tse", rb"TSE ausgefallen", rb"", "TSE_ROW"),
        ("transactions_tse", rb"POS-1;.*TSE ausgefallen.*\r\n", rb"", "TSE_ROW"),
        # sums
        ("lines_vat", rb"26,00|10,00000;8,40336", rb"11,00000;9,40336", "SUM"),
        ("lines_vat", rb"8,40336;1,59664", rb"8,40335;1,59665", "SUM"),
        ("transactions_vat", rb"8,40336;1,59664", rb"8,40335;1,59665", "SUM"),
        ("transactions_vat", rb"8,40336;1,59664", rb"8,40335;1,59664", "NET"),
        ("transactions", rb";26,00;", rb";25,00;", "SUM"),
        ("businesscases", rb"TrinkgeldAN;;0;5;2,00000;2,00000", rb"TrinkgeldAN;;0;5;3,00000;3,00000", "SUM"),
        ("payment", rb"3,00", rb"4,00", "SUM"),
        ("payment", rb"POS-1.*Kreditkarte.*\r\n", rb"", "SUM"),
        ("cash_per_currency", rb"CHF;8,00", rb"CHF;9,00", "SUM"),
        ("cashpointclosing", rb"(\d+,\d\d);(-?\d+,\d\d)\r", rb"1,00;\2\r", "SUM"),
        ("cashpointclosing", rb";(-?\d+,\d\d)\r", rb";1,00\r", "SUM"),
        ("lines_vat", rb"8,40336;1,59664", rb"9,40336;0,59664", "VAT"),
        ("lines", rb"2,000;;;3,99000", rb"3,000;;;3,99000", "QUANTITY"),
        ("lines", rb"2,000;;;3,99000", rb"-2,000;;;-3,99000", "QUANTITY"),
        ("datapayment", rb"26,00", rb"25,00", "UNBALANCED"),
        # order
        ("cashpointclosing", rb"Z;2;", rb"Z;3;", "KEY"),
        ("transactions", rb"T22:13:20Z;2023-11-14T22:13:20Z", rb"T22:13:20Z;2023-11-14T22:13:19Z", "TIME_ORDER"),
        ("transactions", rb"T22:13:20Z;2023-11-14T22:13:20Z", rb"T22:13:20Z;2033-11-14T22:13:20Z", "TIME_ORDER"),
        ("transactions_tse", rb"(;2;\d{4}-.*?Z;\d{4})", rb";3\1", "RECORD"),
        ("transactions_tse", rb";3;(\d{4}-.*?Z;\d{4})", rb";2;\1", "TSE_NUMBER"),
        # what was signed
        ("transactions_tse", rb"26\.00:Bar", rb"27.00:Bar", "PROCESS_DATA"),
        ("transactions_tse", rb"26\.00:Bar", rb"27.00:Bar", "SIGNATURE"),
        ("transactions_tse", rb";Beleg\^", rb";AVTransfer^", "PROCESS_DATA"),
        ("transactions_tse", rb"0\.4516", rb"0.400", "PROCESS_DATA"),
        ("transactions_tse", rb'Eis ""', rb'Eiz ""', "PROCESS_DATA"),
        ("lines", rb'Eis ""', rb'Eiz ""', "PROCESS_DATA"),
        ("datapayment", rb"Bar;CHF;CHF", rb"Unbar;CHF;CHF", "PROCESS_DATA"),
        ("datapayment", rb"CHF;8,00", rb"CHF;9,00", "PROCESS_DATA"),
        ("tse", rb"1;[0-9a-f]{64}", rb"1;" + b"0" * 64, "TSE"),
        ("tse", rb"UTF-8;.{10}", rb"UTF-8;AAAAAAAAAA", "TSE"),
        ("tse", rb";MII.{40}", rb";MII" + b"A" * 40, "TSE"),
        ("cashregister", rb";POS-1;", rb";POS-2;", "SIGNATURE"),
    ],
)  # fmt: skip
def test_a_change_is_found(good: bytes, name: str, pattern: bytes, replacement: bytes, code: str) -> None:
    def edit(files: dict[str, bytes]) -> None:
        before = files[f"{name}.csv"]
        header, rest = before.split(b"\r\n", 1)
        is_all = pattern.startswith(b"POS-1.*") or code in ("SERIAL", "SIGNATURE")
        files[f"{name}.csv"] = header + b"\r\n" + re.sub(pattern, replacement, rest, count=0 if is_all else 1)
        assert files[f"{name}.csv"] != before

    report = check(changed(good, edit))
    if code == "BELEG?":  # BEDIENER_NAME is not mandatory
        assert report.ok
        return
    assert code in report.totals, shown(report)
    warnings = {"UNBALANCED"} | ({"TIME_ORDER"} if b"2033" in replacement else set())
    assert report.ok == (set(report.totals) <= warnings)


def test_ambiguous_keys_end_the_check(good: bytes) -> None:
    """Otherwise a file of one Vorgang a million times would be compared a million times a million."""

    def edit(files: dict[str, bytes]) -> None:
        header, row, rest = files["transactions.csv"].split(b"\r\n", 2)
        files["transactions.csv"] = b"\r\n".join([header, *[row] * 20_000, rest])
        header, row, rest = files["transactions_vat.csv"].split(b"\r\n", 2)
        files["transactions_vat.csv"] = b"\r\n".join([header, *[row] * 20_000, rest])

    report = check(changed(good, edit))
    assert set(report.totals) == {"KEY"}
    assert "warning KEY all: sums and signatures were not checked: rows are there more than once" in shown(
        report
    )
    assert report.counts["signatures"] == 0


def test_a_beleg_needs_lines_and_payments(good: bytes) -> None:
    def edit(files: dict[str, bytes]) -> None:
        for name in ("lines", "datapayment"):
            files[f"{name}.csv"] = files[f"{name}.csv"].split(b"\r\n")[0] + b"\r\n"

    report = check(changed(good, edit))
    assert {"lines.csv", "datapayment.csv"} <= {
        word for each in report.findings if each.code == "BELEG" for word in each.text.split()
    }


def test_a_closing_that_is_missing(good: bytes) -> None:
    def edit(files: dict[str, bytes]) -> None:
        for name in [each for each in files if each.endswith(".csv")]:
            files[name] = files[name].replace(b"23:00:00Z;2;", b"23:00:00Z;3;")

    assert set(check(changed(good, edit)).totals) == {"Z_NR"}


def test_findings_of_one_kind_are_counted_but_not_all_kept(good: bytes) -> None:
    def edit(files: dict[str, bytes]) -> None:
        row = files["payment.csv"].split(b"\r\n")[1]
        files["payment.csv"] += b"\r\n".join([row + b"0"] * 50) + b"\r\n"

    report = check(changed(good, edit))
    assert report.totals["NUMBER"] == 50
    assert sum(each.code == "NUMBER" for each in report.findings) == 20


def test_sums_beyond_64_bits_are_an_error(good: bytes) -> None:
    def edit(files: dict[str, bytes]) -> None:
        row = b"POS-1;2023-11-14T23:00:00Z;1;ft1#IT2;%d;1;9999999999,00000;9999999999,00000;0,00000\r\n"
        files["lines_vat.csv"] += b"".join(row % (number + 10) for number in range(9_300))

    report = check(changed(good, edit))
    assert "SUM" in report.totals
    assert any("overflow" in each.text for each in report.findings)


# ---- files and their form -------------------------------------------------------------------------------


def rename(old: str, new: str) -> Edit:
    def edit(files: dict[str, bytes]) -> None:
        files[new] = files.pop(old)

    return edit


def replace(name: str, old: bytes, new: bytes) -> Edit:
    def edit(files: dict[str, bytes]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return edit


def add(name: str, content: bytes) -> Edit:
    def edit(files: dict[str, bytes]) -> None:
        files[name] = content

    return edit


@pytest.mark.parametrize(
    ("edit", "code", "text"),
    [
        (rename("pa.csv", "PA.csv"), "FILE", "is no file of an export"),
        (rename("pa.csv", "pb.csv"), "INDEX", "is declared, but not there"),
        (rename("pa.csv", "../pa.csv"), "FILE", "is not at the top of the ZIP"),
        (rename("pa.csv", "sub/pa.csv"), "FILE", "is not at the top of the ZIP"),
        (add("readme.txt", b""), "FILE", "is no file of an export"),
        (rename("gdpdu-01-09-2004.dtd", "gdpdu-01-08-2002.dtd"), "FILE", "is missing"),
        (add("pa.csv", b""), "HEADER", "the file is empty"),
        (add("pa.csv", b"Z_KASSE_ID\r\n"), "HEADER", "the header is not the declared columns"),
        (replace("vat.csv", b"UST_SCHLUESSEL;UST_SATZ", b"UST_SATZ;UST_SCHLUESSEL"), "HEADER", "the header"),
        (replace("vat.csv", b"Z_KASSE_ID", b"\xef\xbb\xbfZ_KASSE_ID"), "BOM", "a byte order mark"),
        (replace("vat.csv", b"\r\n", b"\n"), "RECORD", "does not end with"),
        (replace("vat.csv", b"Nicht steuerbar\r\n", b"Nicht steuerbar\n"), "RECORD", "cannot be read"),
        (replace("vat.csv", b"Nicht steuerbar\r\n", b"Nicht steuerbar"), "RECORD", "fields"),
        (replace("vat.csv", b"Nicht steuerbar", b"Nicht;steuerbar"), "RECORD", "7 fields, 6 are declared"),
        (replace("vat.csv", b"Nicht steuerbar", b'"Nicht" steuerbar'), "RECORD", "cannot be read"),
        (replace("vat.csv", b"Nicht steuerbar", b'"Nicht steuerbar'), "RECORD", "cannot be read"),
        (replace("vat.csv", b"Nicht steuerbar", b"\xff"), "RECORD", "is not UTF-8"),
        (replace("vat.csv", b"Nicht steuerbar\r\n", b"\r\n\r\n"), "RECORD", "0 fields"),
        (replace("index.xml", b"<Version>1.0", b"<Version>2.0"), "INDEX", "Version is '2.0'"),
        (replace("index.xml", b"gdpdu-01-09-2004", b"gdpdu-01-08-2002"), "INDEX", "the DOCTYPE names"),
        (replace("index.xml", b"<UTF8/>", b"<ANSI/>"), "INDEX", "is not declared as UTF-8"),
        (replace("index.xml", b"<UTF8/>", b"<UTF9/>"), "INDEX", "the DTD has no element UTF9"),
        (replace("index.xml", b"<URL>pa.csv</URL>", b""), "INDEX", "Table does not have the content"),
        (replace("index.xml", b"<URL>pa.csv</URL>", b"<URL>vat.csv</URL>"), "INDEX", "is declared twice"),
        (replace("index.xml", b"<From>2</From>", b"<From>1</From>"), "INDEX", "begin with record 1"),
        (replace("index.xml", b"<From>2</From>", b"<From>x</From>"), "INDEX", "begin with record 0"),
        (
            replace("index.xml", b">;</ColumnDelimiter>", b"></ColumnDelimiter>"),
            "INDEX",
            "cannot be told apart",
        ),
        (replace("index.xml", b'>"</TextEncapsulator>', b">;</TextEncapsulator>"), "INDEX", "told apart"),
        (replace("index.xml", b"&#13;&#10;", b"&#10;"), "RECORD", "inside of a record"),
        (replace("index.xml", b"&#13;&#10;", b"#"), "RECORD", "does not end with"),
        (replace("index.xml", b">,</DecimalSymbol>", b">0</DecimalSymbol>"), "INDEX", "its decimal symbol"),
        (
            replace("index.xml", b"<MaxLength>55</", b"<MaxLength>60</"),
            "SIZE",
            "UST_BESCHR is declared with 60",
        ),
        (replace("index.xml", b"<MaxLength>55</", b"<MaxLength>x</"), "SIZE", "is declared with None"),
        (
            replace("index.xml", b"<AlphaNumeric/><MaxLength>55</MaxLength>", b"<Numeric/>"),
            "COLUMNS",
            "a number",
        ),
        (
            replace("index.xml", b"<Name>UST_BESCHR</Name>", b"<Name>TEXT</Name>"),
            "COLUMNS",
            "UST_BESCHR missing",
        ),
        (replace("index.xml", b"<Media>", b"<Media>text"), "INDEX", "Media holds text"),
        (replace("index.xml", b"<Version>1.0", b"<Version><Name/>1.0"), "INDEX", "holds elements, not text"),
    ],
)
def test_the_form_of_the_files(good: bytes, edit: Edit, code: str, text: str) -> None:
    report = check(changed(good, edit), signatures=False)
    assert any(each.code == code and text in each.text for each in report.findings), shown(report)
    assert report.ok == (code == "SIZE")


def test_a_file_that_is_there_twice(good: bytes) -> None:
    out = changed(good, lambda files: None)
    with zipfile.ZipFile(out, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("pa.csv", b"")
    assert "error FILE pa.csv: is there twice" in shown(check(out))


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_cannot_be_checked(good: bytes, part: float) -> None:
    with pytest.raises(DsfinvkUnreadable, match="no ZIP"):
        check(io.BytesIO(good[: int(len(good) * part)]))


def test_damaged_contents_are_found(good: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        at = archive.getinfo("lines.csv").header_offset + 60
    damaged = bytearray(good)
    damaged[at : at + 8] = bytes(8)
    report = check(io.BytesIO(bytes(damaged)))
    assert any(each.code == "FILE" and "cannot be unpacked" in each.text for each in report.findings)


def test_a_file_that_unpacks_to_more_than_a_table_can(good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "RATIO_COUNTS_FROM", 1 << 20)
    with pytest.raises(DsfinvkUnreadable, match="that is no table of text"):
        check(changed(good, add("lines.csv", bytes(2 << 20))))
    with pytest.raises(DsfinvkUnreadable, match="files"):
        check(changed(good, lambda files: files.update({f"f{n}": b"" for n in range(1_000)})))


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        (b"", "not well-formed"),
        (b"<DataSet>", "not well-formed"),
        (b"<DataSet>\xff</DataSet>", "not well-formed"),
        (b'<!DOCTYPE DataSet [<!ENTITY a "aaaa">]><DataSet>&a;</DataSet>', "declares entities"),
        (b"<a>" * 100 + b"</a>" * 100, "more elements"),
        (b"<a>" + b"<b/>" * 20_000 + b"</a>", "more elements"),
        (b'<?xml version="1.0" encoding="nonsense"?><DataSet/>', "unknown encoding"),
    ],
)
def test_an_index_that_says_nothing(good: bytes, xml: bytes, text: str) -> None:
    with pytest.raises(DsfinvkUnreadable, match=text):
        check(changed(good, add("index.xml", xml)))


def test_an_index_that_is_missing_or_huge(good: bytes) -> None:
    with pytest.raises(DsfinvkUnreadable, match=r"no index\.xml"):
        check(changed(good, rename("index.xml", "Index.xml")))
    with pytest.raises(DsfinvkUnreadable, match=r"index\.xml has"):
        check(changed(good, add("index.xml", b" " * (checking.MAX_INDEX_BYTES + 1))))


def test_a_record_without_end_is_given_up(good: bytes) -> None:
    endless = b'"' + b"x\r\n" * (records.MAX_RECORD // 2)
    report = check(changed(good, lambda files: files.update({"pa.csv": files["pa.csv"] + endless})))
    assert any("characters" in each.text and each.code == "RECORD" for each in report.findings)


# ---- other software's -----------------------------------------------------------------------------------


def test_an_export_with_decimal_points_is_read_as_declared(good: bytes) -> None:
    def edit(files: dict[str, bytes]) -> None:
        for name in [each for each in files if each.endswith(".csv")]:
            files[name] = re.sub(rb"(\d),(\d)", rb"\1.\2", files[name])
        files["index.xml"] = (
            files["index.xml"]
            .replace(b">,</DecimalSymbol>", b">.</DecimalSymbol>")
            .replace(b">.</DigitGroupingSymbol>", b">,</DigitGroupingSymbol>")
        )

    assert shown(check(changed(good, edit))) == []


def test_certificates_may_have_more_columns(good: bytes) -> None:
    def edit(files: dict[str, bytes]) -> None:
        tables = [
            more_certificate_columns(table, 4) if stem == "tse" else table for stem, table in TABLES.items()
        ]
        files["index.xml"] = index_xml(tables, supplier="x", location="", version="2.4")
        header, *rows = files["tse.csv"].decode().split("\r\n")[:-1]
        wide = [header + ";TSE_ZERTIFIKAT_III;TSE_ZERTIFIKAT_IV"]
        for row in rows:
            *fields, first, second = row.split(";")
            wide.append(";".join([*fields, first[:300], first[300:600], first[600:], second]))
        files["tse.csv"] = "".join(f"{each}\r\n" for each in wide).encode()

    assert shown(check(changed(good, edit))) == []


def test_the_dtd_has_all_elements_and_describes_our_index() -> None:
    assert len(indexread._models()) == 49
    index = indexread.read_index(index_xml(TABLES.values(), supplier="<&>\0", location="ß", version="2.4"))
    assert index.faults == ()
    assert [table.url for table in index.tables] == [table.file_name for table in TABLES.values()]


# ---- the command line -----------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


def test_the_commands(folder: Path, good: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    done = run("export", "dsfinvk", "--data", str(folder), "-o", str(out))
    assert (done.exit_code, done.output.splitlines()[:2]) == (
        0,
        [f"{out}: 2 closings, 11 transactions", "valid"],
    )
    assert out.read_bytes() == good
    done = run("export", "dsfinvk", "--data", str(folder), "-o", str(out), "--json", "--to", "2023-11-14")
    result = json.loads(done.stdout)
    assert done.exit_code == 0
    assert result["check"]["ok"] is True
    done = run("verify", "dsfinvk", str(out), "--json")
    assert (done.exit_code, json.loads(done.stdout)["errors"]) == (0, 0)
    bad = tmp_path / "bad.zip"
    bad.write_bytes(changed(good, replace("vat.csv", b"1;19,00", b"1;20,00")).getvalue())
    done = run("verify", "dsfinvk", str(bad))
    assert (done.exit_code, "NOT VALID" in done.output, "VAT_KEY" in done.output) == (1, True, True)
    bad.write_bytes(b"PK")
    done = run("verify", "dsfinvk", str(bad), "--json")
    assert (done.exit_code, json.loads(done.stderr)["error"]["code"]) == (2, "DSFINVK_UNREADABLE")


def test_a_range_without_closings_writes_nothing(folder: Path, good: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    done = run("export", "dsfinvk", "--data", str(folder), "-o", str(out), "--from", "2033-01-01", "--json")
    assert (done.exit_code, json.loads(done.stderr)["error"]["code"]) == (2, "NO_CLOSING")
    assert list(tmp_path.iterdir()) == []
