"""The tables of DSFinV-K 2.4: files, columns, types. Header lines, index.xml, writer and check all come from here."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

TAXONOMY_VERSION: Final = "2.4"
"""TAXONOMIE_VERSION; the tables have been the same since 2.0."""

DELIMITER: Final = ";"
RECORD_END: Final = "\r\n"
QUOTE: Final = '"'
DECIMAL_SYMBOL: Final = ","
GROUPING_SYMBOL: Final = "."
"""Declared in index.xml and never used: numbers have no digit grouping."""

_TEXT: Final = """
cashpointclosing Stamm_Abschluss
Z_BUCHUNGSTAG A25 Vom Erstellungsdatum abweichender Verbuchungstag
TAXONOMIE_VERSION A10! Version der DFKA-Taxonomie-Kasse
Z_START_ID A40! Erste BON_ID im Abschluss
Z_ENDE_ID A40! Letzte BON_ID im Abschluss
NAME A60! Name des Unternehmens
STRASSE A60! Straße
PLZ A10! Postleitzahl
ORT A62! Ort
LAND A3! Land
STNR A20 Steuernummer des Unternehmens
USTID A15 USTID
Z_SE_ZAHLUNGEN N2! Summe aller Zahlungen
Z_SE_BARZAHLUNGEN N2! Summe aller Barzahlungen

location Stamm_Orte
LOC_NAME A60! Name des Standortes
LOC_STRASSE A60! Straße
LOC_PLZ A10! Postleitzahl
LOC_ORT A62! Ort
LOC_LAND A3! Land
LOC_USTID A15 USTID

cashregister Stamm_Kassen
KASSE_BRAND A50 Marke der Kasse
KASSE_MODELL A50 Modellbezeichnung
KASSE_SERIENNR A70! Seriennummer der Kasse
KASSE_SW_BRAND A50 Markenbezeichnung der Software
KASSE_SW_VERSION A50 Version der Software
KASSE_BASISWAEH_CODE A3! Basiswährung der Kasse
KEINE_UST_ZUORDNUNG A1 UmsatzsteuerNichtErmittelbar (bei späterem Zahlungseingang)

slaves Stamm_Terminals
TERMINAL_ID A50! ID des Terminals
TERMINAL_BRAND A50 Marke der Terminals
TERMINAL_MODELL A50 Modellbezeichnung des Terminals
TERMINAL_SERIENNR A50! Seriennummer des Terminals
TERMINAL_SW_BRAND A50 Markenbezeichnung der Software
TERMINAL_SW_VERSION A50 Version der Software

pa Stamm_Agenturen
AGENTUR_ID N0! ID der Agentur
AGENTUR_NAME A60! Name des Auftraggebers
AGENTUR_STRASSE A60! Straße
AGENTUR_PLZ A10! Postleitzahl
AGENTUR_ORT A62! Ort
AGENTUR_LAND A3! Land
AGENTUR_STNR A20 Steuernummer des Auftraggebers
AGENTUR_USTID A15 USTID des Auftraggebers

tse Stamm_TSE
TSE_ID N0! ID der TSE
TSE_SERIAL A68! Seriennummer der TSE
TSE_SIG_ALGO A21! Signaturalgorithmus
TSE_ZEITFORMAT A31! Format der Log-Zeit
TSE_PD_ENCODING A5! Text-Encoding der ProcessData
TSE_PUBLIC_KEY A512! Öffentlicher Schlüssel
TSE_ZERTIFIKAT_I A1000! Erste 1000 Zeichen des Zertifikats
TSE_ZERTIFIKAT_II A1000 Weitere 1000 Zeichen des Zertifikats

vat Stamm_USt
UST_SCHLUESSEL N0! ID des Umsatzsteuersatzes
UST_SATZ N2! Prozentsatz
UST_BESCHR A55! Beschreibung

businesscases Z_GV_Typ
GV_TYP A30! Typ des Geschäftsvorfalls
GV_NAME A40 Name des Geschäftsvorfalls
AGENTUR_ID N0 ID der Agentur
UST_SCHLUESSEL N0! ID des Umsatzsteuersatzes
Z_UMS_BRUTTO N5! Bruttoumsatz
Z_UMS_NETTO N5! Nettoumsatz
Z_UST N5! USt

payment Z_Zahlart
ZAHLART_TYP A25! Typ der Zahlart
ZAHLART_NAME A60 Name der Zahlart
Z_ZAHLART_BETRAG N2! Betrag

cash_per_currency Z_Waehrungen
ZAHLART_WAEH A3! Währung
ZAHLART_BETRAG_WAEH N2! Betrag

transactions Bonkopf
BON_ID A40! Vorgangs-ID
BON_NR N0! Bonnummer
BON_TYP A30! Bontyp
BON_NAME A60 Zusatz-Beschreibung zum Bontyp
TERMINAL_ID A50 ID des Erfassungsterminals
BON_STORNO A1 Storno-Kennzeichen
BON_START A30! Zeitpunkt des Vorgangstarts
BON_ENDE A30! Zeitpunkt des Vorgangsendes
BEDIENER_ID A50! ID des Bedieners
BEDIENER_NAME A50 Name des Bedieners
UMS_BRUTTO N2! Brutto-Gesamtumsatz
KUNDE_NAME A50 Name des Leistungsempfängers
KUNDE_ID A50 Kunden-ID des Leistungsempfängers
KUNDE_TYP A50 Art des Leistungsempfängers (z. B. Mitarbeiter)
KUNDE_STRASSE A60 Straße
KUNDE_PLZ A10 Postleitzahl
KUNDE_ORT A62 Ort
KUNDE_LAND A3 Land
KUNDE_USTID A15 USTID
BON_NOTIZ A255 Zusätzliche Informationen

datapayment Bonkopf_Zahlarten
BON_ID A40! Vorgangs-ID
ZAHLART_TYP A25! Typ der Zahlart
ZAHLART_NAME A60 Name der Zahlart
ZAHLWAEH_CODE A3! Währungscode
ZAHLWAEH_BETRAG N2 Betrag in Fremdwährung
BASISWAEH_BETRAG N2! Betrag in Basiswährung

lines Bonpos
BON_ID A40! Vorgangs-ID
POS_ZEILE A50! Zeilennummer
GUTSCHEIN_NR A50 Gutschein-Nr.
ARTIKELTEXT A255! Artikeltext
POS_TERMINAL_ID A50 ID des Positions-Terminals
GV_TYP A30! Geschäftsvorfall-Art
GV_NAME A40 Zusatz zu der Geschäftsvorfall-Art
INHAUS A1 Verzehr an Ort und Stelle
P_STORNO A1 Positionsstorno-Kennzeichnung
AGENTUR_ID N0 ID der Agentur
ART_NR A50 Artikelnummer
GTIN A50 GTIN
WARENGR_ID A40 Warengruppen-ID
WARENGR A50 Bezeichnung Warengruppe
MENGE N3 Menge
FAKTOR N3 Faktor, z. B. Gebindegrößen
EINHEIT A50 Maßeinheit, z. B. kg, Liter oder Stück
STK_BR N5 Preis pro Einheit inkl. USt

itemamounts Bonpos_Preisfindung
BON_ID A40! Vorgangs-ID
POS_ZEILE A50! Zeilennummer
TYP A20 Basispreis, Rabatt oder Zuschlag
UST_SCHLUESSEL N0! ID des USt-Satzes
PF_BRUTTO N5 Bruttobetrag
PF_NETTO N5 Nettobetrag
PF_UST N5 USt-Betrag

subitems Bonpos_Zusatzinfo
BON_ID A40! Vorgangs-ID
POS_ZEILE A50! Zeilennummer
ZI_ART_NR A50! Artikelnummer
ZI_GTIN A50 GTIN
ZI_NAME A60 Artikelbezeichnung
ZI_WARENGR_ID A40 Warengruppen-ID
ZI_WARENGR A50 Bezeichnung Warengruppe
ZI_MENGE N3! Menge
ZI_FAKTOR N3 Faktor, z. B. Gebindegrößen
ZI_EINHEIT A50 Maßeinheit
ZI_UST_SCHLUESSEL N0! ID des USt-Satzes
ZI_BASISPREIS_BRUTTO N5 Basispreis brutto
ZI_BASISPREIS_NETTO N5 Basispreis netto
ZI_BASISPREIS_UST N5 USt des Basispreises

transactions_tse TSE_Transaktionen
BON_ID A40! Vorgangs-ID
TSE_ID N0! ID der für die Transaktion verwendeten TSE
TSE_TANR N0 Transaktionsnummer
TSE_TA_START A30 Log-Time der StartTransaction-Operation
TSE_TA_ENDE A30 Log-Time der FinishTransaction-Operation
TSE_TA_VORGANGSART A30 processType der FinishTransaction-Operation
TSE_TA_SIGZ N0 Signaturzähler der FinishTransaction-Operation
TSE_TA_SIG A512 Signatur der FinishTransaction-Operation
TSE_TA_FEHLER A200 Hinweise auf Fehler der TSE
TSE_VORGANGSDATEN A1000 Daten des Vorgangs

transactions_vat Bonkopf_USt
BON_ID A40! Vorgangs-ID
UST_SCHLUESSEL N0! ID des USt-Satzes
BON_BRUTTO N5! Bruttoumsatz
BON_NETTO N5! Nettoumsatz
BON_UST N5! USt

lines_vat Bonpos_USt
BON_ID A40! Vorgangs-ID
POS_ZEILE A50! Zeilennummer
UST_SCHLUESSEL N0! ID des USt-Satzes
POS_BRUTTO N5 Bruttoumsatz
POS_NETTO N5 Nettoumsatz
POS_UST N5 USt

allocation_groups Bonkopf_AbrKreis
BON_ID A40! Vorgangs-ID
ABRECHNUNGSKREIS A50 Verbindung zum Abrechnungskreis

references Bon_Referenzen
BON_ID A40! Vorgangs-ID
POS_ZEILE A50 Zeilennummer des referenzierenden Vorgangs
REF_TYP A20! Art der Referenz
REF_NAME A40 Beschreibung bei ExterneSonstige
REF_DATUM A30 Zeitpunkt des Kassenabschlusses
REF_Z_KASSE_ID A50 ID der Kasse
REF_Z_NR N0 Nr. des Kassenabschlusses
REF_BON_ID A40! Vorgangs-ID
"""
"""A table per paragraph: file and name, then a line per column: name, A with the largest length in characters or
N with the decimals, ``!`` for what must not be empty (Anhang G), description."""

_KEYS: Final = """
Z_KASSE_ID A50! ID der (Abschluss-) Kasse
Z_ERSTELLUNG A30! Zeitpunkt des Kassenabschlusses
Z_NR N0! Nr. des Kassenabschlusses
"""

_NEVER_CUT: Final = re.compile(
    r".*(_ID|NR|STNR|USTID|GTIN|LAND|CODE|WAEH|SERIAL|KEY|ZERTIFIKAT_\w+|_SIG|_TYP)"
)
"""Keys, numbers and codes: what is too long stays as it is and is found by the check, because a part of it would
be another one."""


class Column(NamedTuple):
    """``size`` is the largest number of characters of a text, the number of decimals of a number."""

    name: str
    is_number: bool
    size: int
    required: bool
    description: str

    @property
    def is_cut(self) -> bool:
        """May a value that is too long be shortened?"""
        return not self.is_number and _NEVER_CUT.fullmatch(self.name) is None


class Table(NamedTuple):
    """One CSV file. ``name`` is what index.xml calls it."""

    stem: str
    name: str
    columns: tuple[Column, ...]

    @property
    def file_name(self) -> str:
        return f"{self.stem}.csv"

    @property
    def header(self) -> list[str]:
        return [column.name for column in self.columns]


def _columns(lines: list[str]) -> tuple[Column, ...]:
    found = []
    for line in lines:
        name, kind, description = line.split(" ", 2)
        size = kind[1:].rstrip("!")
        found.append(Column(name, kind[0] == "N", int(size), kind.endswith("!"), description))
    return tuple(found)


def _tables() -> dict[str, Table]:
    keys = _columns(_KEYS.split("\n")[1:-1])
    found = {}
    for paragraph in _TEXT.strip().split("\n\n"):
        first, *lines = paragraph.split("\n")
        stem, name = first.split()
        found[stem] = Table(stem, name, keys + _columns(lines))
    return found


TABLES: Final = _tables()
"""The twenty tables by the stem of their file name, in the order of index.xml."""


def more_certificate_columns(table: Table, parts: int) -> Table:
    """``tse`` with columns for a certificate of so many parts of 1000 characters; never fewer than two."""
    more = tuple(
        Column(f"TSE_ZERTIFIKAT_{_roman(number)}", False, 1000, False, "Weitere 1000 Zeichen des Zertifikats")
        for number in range(3, parts + 1)
    )
    return table._replace(columns=table.columns + more)


def _roman(number: int) -> str:
    text = ""
    for value, digits in ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
        while number >= value:
            text += digits
            number -= value
    return text


BON_TYPES: Final = frozenset({
    "Beleg", "AVRechnung", "AVTransfer", "AVBestellung", "AVTraining", "AVBelegstorno", "AVBelegabbruch",
    "AVSachbezug", "AVSonstige",
})  # fmt: skip
REF_TYPES: Final = frozenset({"ExterneRechnung", "ExternerLieferschein", "Transaktion", "ExterneSonstige"})
ITEM_AMOUNT_TYPES: Final = frozenset({"base_amount", "discount", "extra_amount"})
