"""The export itself: closing after closing into twenty temporary files, and those into one ZIP.

Only the sums of the closing in work are in memory, and as many as a closing has business cases, means of payment,
terminals and TSEs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, NamedTuple

from iso3166 import countries_by_alpha2

from fiskal.clock import TICKS_PER_SECOND, UNIX_EPOCH_TICKS
from fiskal.core import format_ticks_ms
from fiskal.export.dsfinvk import indexxml, mapping, schema
from fiskal.export.dsfinvk.amounts import cents, written
from fiskal.export.dsfinvk.history import Closing, History
from fiskal.export.dsfinvk.mapping import Line, Payment, Receipt, Signed
from fiskal.export.dsfinvk.schema import TABLES, Table
from fiskal.germany import vat
from fiskal.germany.masterdata import Account, Agency, MasterData, Outlet, PosSystem
from fiskal.store import QueueRow, Store

_log = logging.getLogger("fiskal.export")

COUNTED: Final = "Beleg"
"""The only BON_TYP that counts in the sums of a closing."""

PAGE: Final = 16
"""Receipts of one reference that are looked at together in search of a predecessor."""

_COPY_BYTES: Final = 1 << 20
_PART: Final = 1000
"""Characters of a certificate in one column."""
_TSE_COLUMNS: Final = len(TABLES["tse"].columns) - 2
"""Columns of tse.csv in front of the certificate."""
_RECEIVABLES: Final = frozenset({"Forderungsentstehung", "Forderungsaufloesung"})

Progress = Callable[[int, int], None]
"""Called with (rows read, rows in all)."""


class Options(NamedTuple):
    """What a queue may want otherwise. ``references`` False is DisableDsfinvkExportReferences, ``orders`` False
    is ExcludeDsfinvkOrders."""

    version: str = schema.TAXONOMY_VERSION
    references: bool = True
    orders: bool = True


DEFAULTS: Final = Options()


class Summary(NamedTuple):
    """What an export holds. ``receipts`` counts the Vorgänge."""

    closings: int
    receipts: int


def export(
    store: Store,
    queue: QueueRow,
    out: IO[bytes],
    from_ticks: int = 0,
    to_ticks: int = 0,
    *,
    options: Options = DEFAULTS,
    progress: Progress | None = None,
) -> Summary:
    """Write the DSFinV-K export of a queue to ``out``, a binary file that can seek: a ZIP.

    It holds every daily closing whose entry in the receipt journal lies in the range (as ftJournalType has it: ticks
    compared with TimeStamp, ``to_ticks`` 0 is an open end, a negative one a number of receipts), whole. Without any
    closing nothing is written. What it writes depends on the journal only: the same range gives the same bytes.

    Temporary files of the size of the uncompressed tables are made where :mod:`tempfile` makes them (``TMPDIR``).
    Raises StoreError, OSError.
    """
    history = History(store, queue)
    closings = history.in_range(from_ticks, to_ticks)
    if not closings:
        return Summary(0, 0)
    with contextlib.ExitStack() as stack:
        spools = {stem: stack.enter_context(_Spool(table)) for stem, table in TABLES.items()}
        writer = _Writer(store, queue, history, options, spools)
        total = sum(closing.row - closing.first_row + 1 for closing in closings)
        done = 0
        for closing in closings:
            for row in writer.closing(closing):
                if progress is not None and not row & 0x3F:
                    progress(done + row - closing.first_row, total)
            done += closing.row - closing.first_row + 1
        _zip(spools, out, writer, closings[-1], options)
        if progress is not None:
            progress(total, total)
        return Summary(len(closings), writer.receipts)


def stream(
    store: Store,
    queue: QueueRow,
    from_ticks: int = 0,
    to_ticks: int = 0,
    *,
    options: Options = DEFAULTS,
    chunk_size: int = _COPY_BYTES,
) -> Iterator[bytes]:
    """What :func:`export` writes, in chunks; nothing at all without a closing. Errors come before the first."""
    with tempfile.TemporaryFile() as file:
        export(store, queue, file, from_ticks, to_ticks, options=options)
        file.seek(0)
        while chunk := file.read(chunk_size):
            yield chunk


# ---- files ----------------------------------------------------------------------------------------------


class _Spool:
    """A table on its way into the ZIP."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._cuts = [(index, column.size) for index, column in enumerate(table.columns) if column.is_cut]
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with what is put around it
        text = io.TextIOWrapper(self._file, encoding="utf-8", newline="", write_through=False)
        self._text = text
        self._put = csv.writer(text, delimiter=schema.DELIMITER, lineterminator=schema.RECORD_END).writerow

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()

    def put(self, row: list[str]) -> None:
        for index, size in self._cuts:
            if len(row[index]) > size:
                row[index] = row[index][:size]
        self._put(row)

    def copy_to(self, out: IO[bytes], header: list[str]) -> None:
        out.write((schema.DELIMITER.join(header) + schema.RECORD_END).encode())
        self._text.flush()
        self._file.seek(0)
        while data := self._file.read(_COPY_BYTES):
            out.write(data)


def _zip(spools: dict[str, _Spool], out: IO[bytes], writer: _Writer, last: Closing, options: Options) -> None:
    tables = [writer.tse_table if stem == "tse" else table for stem, table in TABLES.items()]
    date = _zip_date(last.moment)
    account = writer.account
    index = indexxml.index_xml(
        tables, supplier=account.account_name or "", location=account.city or "", version=options.version
    )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_info(indexxml.INDEX_NAME, date), index)
        archive.writestr(_info(indexxml.DTD_NAME, date), indexxml.dtd())
        for table in tables:
            with archive.open(_info(table.file_name, date), "w", force_zip64=True) as member:
                spools[table.stem].copy_to(member, table.header)


def _info(name: str, date: tuple[int, int, int, int, int, int]) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _zip_date(ticks: int) -> tuple[int, int, int, int, int, int]:
    """The moment of the last closing, as far as ZIP can hold it."""
    text = format_ticks_ms(min(max(ticks, _ZIP_FIRST), _ZIP_LAST))
    year, month, day = (int(text[i:j]) for i, j in ((0, 4), (5, 7), (8, 10)))
    hour, minute, second_ = (int(text[i : i + 2]) for i in (11, 14, 17))
    return year, month, day, hour, minute, second_


_ZIP_FIRST: Final = UNIX_EPOCH_TICKS + 315_532_800 * TICKS_PER_SECOND  # 1980
_ZIP_LAST: Final = UNIX_EPOCH_TICKS + 4_354_819_199 * TICKS_PER_SECOND  # 2107


# ---- closings -------------------------------------------------------------------------------------------


class _Sums:
    """What a closing adds up and collects."""

    def __init__(self) -> None:
        self.business: dict[tuple[str, int, int], list[int]] = {}
        self.payments: dict[tuple[str, str], int] = {}
        self.cash: dict[str, int] = {}
        self.rates: dict[int, set[Any]] = {}
        self.terminals: dict[str, PosSystem] = {}
        self.agencies: dict[str, int] = {}
        self.tses: dict[str, int] = {}
        self.samples: dict[str, Signed | None] = {}
        self.pos_system: PosSystem | None = None
        self.no_tax = False
        self.first = self.last = ""


class _Writer:
    def __init__(
        self, store: Store, queue: QueueRow, history: History, options: Options, spools: dict[str, _Spool]
    ) -> None:
        self._store = store
        self._queue = queue
        self._history = history
        self._options = options
        self._spools = spools
        self._keys: list[str] = []
        self.receipts = 0
        self.account = Account()
        self.tse_table = schema.more_certificate_columns(
            TABLES["tse"], -(-history.longest_certificate // _PART)
        )

    def _put(self, stem: str, *values: str) -> None:
        self._spools[stem].put([*self._keys, *values])

    def closing(self, closing: Closing) -> Iterator[int]:
        """Write one closing; yields the rows read."""
        self._keys = [self._queue.CashBoxIdentification, closing.created, str(closing.number)]
        data = self._history.master_data(closing)
        self._sums = _Sums()
        self._systems = [system for system in data.pos_systems or () if system is not None] or [PosSystem()]
        self._agencies = [agency for agency in data.agencies or () if agency is not None]
        starts: dict[int, int] = {}
        for stored in self._store.iter_items_by_row(self._queue.queue_no, closing.first_row - 1):
            if stored.item.ftQueueRow > closing.row:
                break
            if stored.answer is not None:
                calls = mapping.calls(stored.answer.tse_calls)
                starts.update((call.number, call.time) for call in calls if call.operation == "S")
                receipt = mapping.receipt(stored, closing.moment, orders=self._options.orders)
                if receipt is not None:
                    self._receipt(receipt, closing, starts)
                for call in calls:
                    if call.operation == "F":
                        starts.pop(call.number, None)
            yield stored.item.ftQueueRow
        self._end(closing, data)

    # ---- single records -------------------------------------------------------------------------

    def _receipt(self, receipt: Receipt, closing: Closing, starts: dict[int, int]) -> None:
        sums = self._sums
        self.receipts += 1
        sums.first = sums.first or receipt.bon_id
        sums.last = receipt.bon_id
        system = self._system(receipt.pos_system)
        sums.pos_system = sums.pos_system or system
        if receipt.terminal:
            sums.terminals.setdefault(receipt.terminal, system)
        self._put(
            "transactions",
            receipt.bon_id,
            str(receipt.bon_nr),
            receipt.bon_typ,
            receipt.bon_name,
            receipt.terminal,
            "1" if receipt.void else "0",
            receipt.start,
            receipt.end,
            receipt.user_id,
            receipt.user_name,
            written(cents(receipt.gross), 2),
            *receipt.customer[:6],
            country(receipt.customer[6]),
            receipt.customer[7],
            receipt.note,
        )
        counted = receipt.bon_typ == COUNTED
        by_key: dict[int, list[int]] = {}
        for line in receipt.lines:
            self._line(receipt, line, counted=counted)
            _add(by_key, line.key, line)
        for key, (gross, without, tax) in sorted(by_key.items()):
            self._put("transactions_vat", receipt.bon_id, str(key), *_five(gross, without, tax))
        for payment in receipt.payments:
            self._payment(receipt, payment, system.base_currency or "EUR", counted=counted)
        for signed in receipt.signed:
            self._signed(receipt, signed, starts)
        for group in dict.fromkeys(each[:50] for each in receipt.groups):
            self._put("allocation_groups", receipt.bon_id, group)
        if self._options.references:
            self._references(receipt)

    def _line(self, receipt: Receipt, line: Line, *, counted: bool) -> None:
        agency = self._agency(line.agency)
        self._put(
            "lines",
            receipt.bon_id,
            line.number,
            line.voucher,
            line.text,
            line.terminal or receipt.terminal,
            line.gv_typ,
            "",
            "1" if line.in_house else "0",
            "0",
            str(agency),
            line.article,
            line.gtin,
            line.group_id,
            line.group,
            written(line.quantity, 3),
            "" if line.factor is None else written(line.factor, 3),
            line.unit,
            written(line.unit_price, 5),
        )
        amounts = _five(line.gross, line.net, line.vat)
        self._put("lines_vat", receipt.bon_id, line.number, str(line.key), *amounts)
        for item in line.subitems:
            self._put(
                "subitems",
                receipt.bon_id,
                line.number,
                item.article,
                item.gtin,
                item.name,
                item.group_id,
                item.group,
                written(item.quantity, 3),
                "" if item.factor is None else written(item.factor, 3),
                item.unit,
                str(item.key),
                *_five(item.gross, item.net, item.vat),
            )
            self._sums.rates.setdefault(item.key, set())
        self._sums.rates.setdefault(line.key, set()).add(line.rate)
        self._sums.no_tax |= line.key == 7 and line.gv_typ in _RECEIVABLES
        if counted:
            _add(self._sums.business, (line.gv_typ, agency, line.key), line)

    def _payment(self, receipt: Receipt, payment: Payment, base: str, *, counted: bool) -> None:
        foreign = "" if payment.foreign is None else written(payment.foreign, 2)
        self._put(
            "datapayment",
            receipt.bon_id,
            payment.type,
            payment.name,
            payment.currency or base,
            foreign,
            written(payment.amount, 2),
        )
        if not counted:
            return
        sums = self._sums
        # The name as it is written, so that the sums can be computed from the rows.
        name = payment.name[:60]
        sums.payments[payment.type, name] = sums.payments.get((payment.type, name), 0) + payment.amount
        if payment.type == "Bar":
            amount = payment.amount if payment.foreign is None else payment.foreign
            currency = payment.currency or base
            sums.cash[currency] = sums.cash.get(currency, 0) + amount

    def _signed(self, receipt: Receipt, signed: Signed, starts: dict[int, int]) -> None:
        serial = signed.serial or self._history.tse_at(receipt.row)
        number = ""
        if serial:
            number = str(self._sums.tses.setdefault(serial, len(self._sums.tses) + 1))
            if signed.serial:
                self._sums.samples.setdefault(serial, signed)
        start = signed.start
        if not start and signed.number and int(signed.number) in starts:
            start = format_ticks_ms(starts[int(signed.number)])
        self._put(
            "transactions_tse",
            receipt.bon_id,
            number,
            signed.number,
            start,
            signed.end,
            signed.process_type,
            signed.counter,
            signed.signature,
            signed.error,
            signed.process_data,
        )

    def _references(self, receipt: Receipt) -> None:
        found = []
        if receipt.reference:
            found.append(self._before(receipt, receipt.reference))
        if receipt.previous and receipt.previous != receipt.reference:
            found.append(self._before(receipt, receipt.previous))
        targets = [each for each in found if each is not None]
        for target in targets:
            closing = self._history.closing_of(target.row)
            assert closing is not None  # a later row of this closing refers to it
            self._put(
                "references",
                receipt.bon_id,
                "",
                "Transaktion",
                "",
                closing.created,
                target.cash_box,
                str(closing.number),
                target.bon_id,
            )
        if not targets and receipt.external is not None:
            other = receipt.external
            self._put(
                "references",
                receipt.bon_id,
                "",
                other.type,
                other.name,
                other.date,
                other.cash_box,
                other.closing,
                other.receipt,
            )

    def _before(self, receipt: Receipt, reference: str) -> mapping.Identity | None:
        """The latest Vorgang before this one that has ``reference`` as its cbReceiptReference."""
        item_id = receipt.item_id
        size = 1  # mostly the first one is it
        while True:
            page = self._store.items_before(self._queue.queue_no, reference, item_id, size)
            for stored in page:
                found = mapping.identity(stored, orders=self._options.orders)
                if found is not None:
                    return found
            if len(page) < size:
                return None
            item_id = page[-1].item.ftQueueItemId
            size = PAGE

    def _system(self, system_id: str) -> PosSystem:
        wanted = system_id.lower()
        for system in self._systems:
            if (system.pos_system_id or "").lower() == wanted:
                return system
        return self._systems[0]

    def _agency(self, agency_id: str) -> int:
        """AGENTUR_ID: its place in the master data; agencies these do not have come behind."""
        if not agency_id or agency_id == "0":
            return 0
        wanted = agency_id.lower()
        known = self._sums.agencies
        if wanted not in known:
            ids = [(agency.agency_id or "").lower() for agency in self._agencies]
            known[wanted] = ids.index(wanted) + 1 if wanted in ids else max(len(ids), *known.values(), 0) + 1
        return known[wanted]

    # ---- closing and master data ----------------------------------------------------------------

    def _end(self, closing: Closing, data: MasterData) -> None:
        sums = self._sums
        self.account = account = data.account or Account()
        payments = sum(sums.payments.values())
        cash = sum(amount for (kind, _), amount in sums.payments.items() if kind == "Bar")
        self._put(
            "cashpointclosing",
            "",
            self._options.version,
            sums.first,
            sums.last,
            *_address(account.account_name, account),
            account.tax_id or "",
            account.vat_id or "",
            written(payments, 2),
            written(cash, 2),
        )
        place = data.outlet or Outlet(
            outlet_name=account.account_name,
            street=account.street,
            zip=account.zip,
            city=account.city,
            country=account.country,
            vat_id=account.vat_id,
        )
        self._put("location", *_address(place.outlet_name, place), place.vat_id or "")
        system = sums.pos_system or self._systems[0]
        base = system.base_currency or "EUR"
        self._put(
            "cashregister",
            system.brand or "",
            system.model or "",
            self._queue.CashBoxIdentification,
            system.type or system.brand or "",
            system.software_version or "",
            base,
            "1" if sums.no_tax else "0",
        )
        for terminal, used in sums.terminals.items():
            self._put(
                "slaves",
                terminal,
                used.brand or "",
                used.model or "",
                terminal,
                used.type or used.brand or "",
                used.software_version or "",
            )
        self._end_agencies()
        self._end_tses(closing)
        self._end_vat(closing)
        for (gv_typ, agency, key), (gross, without, tax) in sorted(sums.business.items()):
            self._put("businesscases", gv_typ, "", str(agency), str(key), *_five(gross, without, tax))
        for (kind, name), amount in sorted(sums.payments.items()):
            self._put("payment", kind, name, written(amount, 2))
        if sums.payments and not sums.cash:  # all three tables of sums need rows if one has
            sums.cash[base] = 0
        for currency, amount in sorted(sums.cash.items()):
            self._put("cash_per_currency", currency, written(amount, 2))

    def _end_agencies(self) -> None:
        for agency_id, number in sorted(self._sums.agencies.items(), key=lambda each: each[1]):
            known = number <= len(self._agencies)
            # Of an agency that the master data do not have, at least the id is kept.
            agency = self._agencies[number - 1] if known else Agency(name=agency_id)
            self._put(
                "pa", str(number), *_address(agency.name, agency), agency.tax_id or "", agency.vat_id or ""
            )

    def _end_tses(self, closing: Closing) -> None:
        sums = self._sums
        if not sums.tses:
            serial = self._history.tse_at(closing.row)
            if serial:
                sums.tses[serial] = 1
        for serial, number in sums.tses.items():
            tse = self._history.tse(serial, sums.samples.get(serial))
            certificate = [tse.certificate[at : at + _PART] for at in range(0, len(tse.certificate), _PART)]
            parts = len(self.tse_table.columns) - _TSE_COLUMNS
            certificate += [""] * (parts - len(certificate))
            self._put(
                "tse",
                str(number),
                serial,
                tse.algorithm,
                tse.time_format,
                "UTF-8",
                tse.public_key,
                *certificate,
            )

    def _end_vat(self, closing: Closing) -> None:
        rates = self._sums.rates
        for key in sorted({*range(1, 8), *rates}):
            if key in vat.IN_FORCE:
                legal = [rate for rate in rates.get(key, ()) if vat.was_in_force(key, rate)]
                rate = legal[0] if len(legal) == 1 else vat.rate_at(key, closing.moment)
                text = written(int(rate * 100), 2)
            elif key in vat.FIXED:
                text = written(int(vat.FIXED[key] * 100), 2)
            else:
                text = written(key - vat.INDIVIDUAL, 2)
            self._put("vat", str(key), text, vat.DESCRIPTIONS.get(key, f"Individueller Steuersatz {text} %"))


def country(code: str | None) -> str:
    """An ISO 3166 code of three letters, also for one of two; any other text as it is."""
    text = (code or "").strip()
    if len(text) == 2:
        known = countries_by_alpha2.get(text.upper())
        return text if known is None else known.alpha3
    return text


def _address(name: str | None, of: Account | Outlet | Agency) -> tuple[str, ...]:
    return name or "", of.street or "", of.zip or "", of.city or "", country(of.country)


def _add(sums: dict[Any, list[int]], key: Any, line: Line) -> None:
    found = sums.setdefault(key, [0, 0, 0])
    found[0] += line.gross
    found[1] += line.net
    found[2] += line.vat


def _five(*amounts: int) -> tuple[str, ...]:
    return tuple(written(amount, 5) for amount in amounts)
