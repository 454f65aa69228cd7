"""Types of the compiled core, made by ``python build.py --stubs``. What they do is written in csrc/*.h.

Pointers to bytes that are only read take ``bytes`` as they are; everything else is cffi data.
"""

from collections.abc import Callable
from typing import Any, Final

CData = Any
Bytes = bytes | CData

class Buffer:
    """Memory of the core; a slice of it is a copy."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __getitem__(self, index: slice, /) -> bytes: ...

class _FFI:
    NULL: Final[CData]
    def new(self, cdecl: str, init: Any = ...) -> CData: ...
    def new_allocator(self, *, should_clear_after_alloc: bool = ...) -> Callable[..., CData]: ...
    def buffer(self, cdata: CData, size: int = ...) -> Buffer: ...
    def from_buffer(self, cdecl: str, data: bytes | bytearray | memoryview, require_writable: bool = ...) -> CData: ...
    def string(self, cdata: CData, maxlen: int = ...) -> bytes: ...
    def unpack(self, cdata: CData, length: int) -> Any: ...
    def sizeof(self, cdecl: str | CData) -> int: ...

ffi: Final[_FFI]

class _Lib:
    # csrc/common.h
    FK_OK: Final[int]
    FK_E_SPACE: Final[int]
    FK_E_ARGUMENT: Final[int]
    FK_E_OVERFLOW: Final[int]
    FK_E_SYNTAX: Final[int]
    FK_E_TRUNCATED: Final[int]
    FK_E_UTF8: Final[int]
    FK_E_DUPLICATE: Final[int]
    FK_E_TYPE: Final[int]
    FK_E_RANGE: Final[int]
    FK_E_NOT_A_NUMBER: Final[int]
    FK_E_DEPTH: Final[int]
    FK_E_ITEMS: Final[int]
    FK_E_NULL: Final[int]
    FK_E_MOMENT: Final[int]
    FK_E_MOMENT_MISSING: Final[int]
    FK_E_QUANTITY_ZERO: Final[int]
    FK_E_CURRENCY_MISSING: Final[int]
    FK_E_CURRENCY_INVALID: Final[int]
    FK_E_CURRENCIES: Final[int]
    FK_E_STRICT_DECIMALS: Final[int]
    FK_E_STRICT_CURRENCY: Final[int]
    FK_E_STRICT_VOID: Final[int]
    FK_E_STRICT_RECEIPT_CASE: Final[int]
    FK_E_STRICT_CHARGE_CASE: Final[int]
    FK_E_STRICT_PAY_CASE: Final[int]
    FK_E_LOG_TRUNCATED: Final[int]
    FK_E_LOG_TRAILING: Final[int]
    FK_E_LOG_UNEXPECTED: Final[int]
    FK_E_LOG_COUNTER: Final[int]
    FK_E_LOG_TIME: Final[int]
    FK_E_LOG_DEPTH: Final[int]
    FK_E_TAR_CHECKSUM: Final[int]
    FK_E_TAR_NUMBER: Final[int]
    FK_E_TAR_HEADER: Final[int]

    # csrc/hashes.h
    def fk_sha256(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_sha256_accelerated(self) -> int: ...
    def fk_chain_hash(
        self,
        previous: Bytes,
        journal_id: Bytes,
        moment_ticks: int,
        number: int,
        request_hash: Bytes,
        response_hash: Bytes,
        out: CData,
        /,
    ) -> int: ...
    def fk_complete(
        self,
        previous: Bytes,
        journal_id: Bytes,
        moment_ticks: int,
        number: int,
        request_hash: Bytes,
        response: Bytes,
        response_length: int,
        out: CData,
        /,
    ) -> int: ...

    # csrc/decimal.h
    def fk_decimal_parse(self, text: Bytes, length: int, out: CData, /) -> int: ...

    # csrc/moment.h
    FK_MOMENT_TEXT: Final[int]
    def fk_moment_parse(self, text: Bytes, length: int, ticks: CData, /) -> int: ...
    def fk_moment_iso(self, ticks: int, out: CData, /) -> int: ...
    def fk_moment_milliseconds(self, ticks: int, out: CData, /) -> int: ...

    # csrc/cases.h
    FK_CASE_COUNT: Final[int]
    FK_PAY_CASE_COUNT: Final[int]
    FK_FLAG_FAILED_RECEIPT: Final[int]
    FK_FLAG_TRAINING: Final[int]
    FK_FLAG_VOID: Final[int]
    FK_FLAG_HANDWRITTEN: Final[int]
    FK_FLAG_SMALL_BUSINESS: Final[int]
    FK_FLAG_RECEIVER_IS_COMPANY: Final[int]
    FK_FLAG_USTG_CHARACTERISTICS: Final[int]
    FK_FLAG_TSE_INFO: Final[int]
    FK_FLAG_SELF_TEST: Final[int]
    FK_FLAG_CLIENT_ONLY: Final[int]
    FK_FLAG_TAR_EXPORT: Final[int]
    FK_FLAG_BYPASS_TAR_EXPORT: Final[int]
    FK_FLAG_MASTER_DATA_UPDATE: Final[int]
    FK_FLAG_FAIL_ON_OPEN_TRANSACTIONS: Final[int]
    FK_FLAG_REMOVE_TRANSACTIONS_NOT_ON_TSE: Final[int]
    FK_FLAG_FORCE_SCU_SWITCH: Final[int]
    FK_FLAG_IMPLICIT_FLOW: Final[int]
    FK_FLAG_CLOSE_ALL_TSE_TRANSACTIONS: Final[int]
    FK_FLAG_RECEIPT_REQUEST: Final[int]
    FK_ITEM_TAKE_AWAY: Final[int]
    FK_ITEM_POSITION_CANCELLATION: Final[int]
    FK_CASE_UNKNOWN: Final[int]
    FK_CASE_POS_RECEIPT: Final[int]
    FK_CASE_ZERO: Final[int]
    FK_CASE_INITIAL_OPERATION: Final[int]
    FK_CASE_OUT_OF_OPERATION: Final[int]
    FK_CASE_MONTHLY_CLOSING: Final[int]
    FK_CASE_YEARLY_CLOSING: Final[int]
    FK_CASE_DAILY_CLOSING: Final[int]
    FK_CASE_START_TRANSACTION: Final[int]
    FK_CASE_UPDATE_TRANSACTION: Final[int]
    FK_CASE_DELTA_TRANSACTION: Final[int]
    FK_CASE_FAIL_TRANSACTION: Final[int]
    FK_CASE_B2B_INVOICE: Final[int]
    FK_CASE_B2C_INVOICE: Final[int]
    FK_CASE_INFO_INVOICE: Final[int]
    FK_CASE_INFO_DELIVERY_NOTE: Final[int]
    FK_CASE_INFO_ORDER: Final[int]
    FK_CASE_CASH_DEPOSIT: Final[int]
    FK_CASE_MATERIAL_CONSUMPTION: Final[int]
    FK_CASE_INFO_INTERNAL: Final[int]
    FK_CASE_PROTOCOL: Final[int]
    FK_CASE_FOREIGN_SALES: Final[int]
    FK_CASE_VOID_RECEIPT: Final[int]
    FK_CASE_INITIATE_SCU_SWITCH: Final[int]
    FK_CASE_FINISH_SCU_SWITCH: Final[int]
    FK_CASE_MIGRATION: Final[int]
    FK_PROCESS_NONE: Final[int]
    FK_PROCESS_RECEIPT: Final[int]
    FK_PROCESS_ORDER: Final[int]
    FK_PROCESS_OTHER: Final[int]
    FK_KIND_RECEIPT: Final[int]
    FK_KIND_ORDER: Final[int]
    FK_KIND_OTHER: Final[int]
    FK_KIND_ZERO: Final[int]
    FK_KIND_INITIAL_OPERATION: Final[int]
    FK_KIND_OUT_OF_OPERATION: Final[int]
    FK_KIND_MONTHLY_CLOSING: Final[int]
    FK_KIND_YEARLY_CLOSING: Final[int]
    FK_KIND_DAILY_CLOSING: Final[int]
    FK_KIND_START_TRANSACTION: Final[int]
    FK_KIND_UPDATE_TRANSACTION: Final[int]
    FK_KIND_DELTA_TRANSACTION: Final[int]
    FK_KIND_FAIL_TRANSACTION: Final[int]
    FK_KIND_INITIATE_SCU_SWITCH: Final[int]
    FK_KIND_FINISH_SCU_SWITCH: Final[int]
    FK_KIND_MIGRATION: Final[int]
    FK_FLOW_EITHER: Final[int]
    FK_FLOW_IMPLICIT: Final[int]
    FK_FLOW_EXPLICIT: Final[int]
    FK_BON_NONE: Final[int]
    FK_BON_BELEG: Final[int]
    FK_BON_AVTRANSFER: Final[int]
    FK_BON_AVBESTELLUNG: Final[int]
    FK_BON_AVTRAINING: Final[int]
    FK_BON_AVBELEGSTORNO: Final[int]
    FK_BON_AVBELEGABBRUCH: Final[int]
    FK_BON_AVSACHBEZUG: Final[int]
    FK_BON_AVSONSTIGE: Final[int]
    FK_BON_AVRECHNUNG: Final[int]
    FK_GV_UMSATZ: Final[int]
    FK_GV_PFAND: Final[int]
    FK_GV_PFAND_RUECKZAHLUNG: Final[int]
    FK_GV_RABATT: Final[int]
    FK_GV_AUFSCHLAG: Final[int]
    FK_GV_ZUSCHUSS_UNECHT: Final[int]
    FK_GV_ZUSCHUSS_ECHT: Final[int]
    FK_GV_TRINKGELD_AG: Final[int]
    FK_GV_TRINKGELD_AN: Final[int]
    FK_GV_MEHRZWECKGUTSCHEIN_KAUF: Final[int]
    FK_GV_MEHRZWECKGUTSCHEIN_EINLOESUNG: Final[int]
    FK_GV_EINZWECKGUTSCHEIN_KAUF: Final[int]
    FK_GV_EINZWECKGUTSCHEIN_EINLOESUNG: Final[int]
    FK_GV_FORDERUNGSENTSTEHUNG: Final[int]
    FK_GV_FORDERUNGSAUFLOESUNG: Final[int]
    FK_GV_ANZAHLUNGSEINSTELLUNG: Final[int]
    FK_GV_ANZAHLUNGSAUFLOESUNG: Final[int]
    FK_GV_ANFANGSBESTAND: Final[int]
    FK_GV_PRIVATENTNAHME: Final[int]
    FK_GV_PRIVATEINLAGE: Final[int]
    FK_GV_GELDTRANSIT: Final[int]
    FK_GV_LOHNZAHLUNG: Final[int]
    FK_GV_EINZAHLUNG: Final[int]
    FK_GV_AUSZAHLUNG: Final[int]
    FK_GV_DIFFERENZ_SOLL_IST: Final[int]
    FK_GV_NONE: Final[int]
    FK_PAY_CASH: Final[int]
    FK_PAY_CASH_FOREIGN: Final[int]
    FK_PAY_NON_CASH: Final[int]
    FK_PAY_BUSINESS_CASE: Final[int]
    FK_PAY_INTERNAL: Final[int]
    FK_ZAHLART_BAR: Final[int]
    FK_ZAHLART_UNBAR: Final[int]
    FK_ZAHLART_KEINE: Final[int]
    FK_ZAHLART_ECKARTE: Final[int]
    FK_ZAHLART_KREDITKARTE: Final[int]
    FK_ZAHLART_ELZAHLUNGSDIENSTLEISTER: Final[int]
    FK_ZAHLART_GUTHABENKARTE: Final[int]
    def fk_case_decode(
        self, receipt_case: int, charge_count: int, pay_count: int, strict: int, out: CData, /
    ) -> int: ...
    def fk_charge_case_decode(self, item_case: int, vat_rate: CData, out: CData, /) -> int: ...
    def fk_pay_case_decode(self, item_case: int, out: CData, /) -> int: ...

    # csrc/processdata.h
    FK_MAX_PAYMENT_KEYS: Final[int]
    FK_MAX_CURRENCY_CODE: Final[int]
    FK_OPTION_STRICT: Final[int]
    FK_OPTION_HISTORIC_RATES: Final[int]
    FK_WARN_UNBALANCED: Final[int]
    FK_WARN_PAYMENT_NOT_ALLOWED: Final[int]
    FK_WARN_UNKNOWN_RECEIPT_CASE: Final[int]
    FK_WARN_UNKNOWN_CHARGE_CASE: Final[int]
    FK_WARN_UNKNOWN_PAY_CASE: Final[int]
    FK_WARN_CURRENCY_CODE: Final[int]

    # csrc/prepare.h
    FK_MAX_DEPTH: Final[int]
    def fk_prepare(
        self,
        json: Bytes,
        length: int,
        options: int,
        max_items: int,
        arena: CData,
        capacity: int,
        out: CData,
        error: CData,
        /,
    ) -> int: ...

    # csrc/logmsg.h
    FK_TIME_UNIX: Final[int]
    FK_TIME_UTC: Final[int]
    FK_TIME_GENERALIZED: Final[int]
    FK_TIME_GENERALIZED_MS: Final[int]
    FK_LOG_START: Final[int]
    FK_LOG_UPDATE: Final[int]
    FK_LOG_FINISH: Final[int]
    def fk_log_transaction(
        self,
        signer: CData,
        operation: int,
        client_id: Bytes,
        client_id_length: int,
        process_data: Bytes,
        process_data_length: int,
        chunks: CData,
        chunk_count: int,
        process_type: Bytes,
        process_type_length: int,
        external_data: Bytes,
        external_data_length: int,
        transaction_number: int,
        counter: int,
        unix_ms: int,
        out: CData,
        capacity: int,
        length: CData,
        sha256: CData,
        /,
    ) -> int: ...
    def fk_log_system(
        self,
        signer: CData,
        operation: Bytes,
        operation_length: int,
        origin: Bytes,
        origin_length: int,
        user: Bytes,
        user_length: int,
        data: Bytes,
        data_length: int,
        counter: int,
        unix_ms: int,
        out: CData,
        capacity: int,
        length: CData,
        sha256: CData,
        /,
    ) -> int: ...
    def fk_log_audit(
        self,
        signer: CData,
        data: Bytes,
        data_length: int,
        counter: int,
        unix_ms: int,
        out: CData,
        capacity: int,
        length: CData,
        sha256: CData,
        /,
    ) -> int: ...
    def fk_log_time(self, format: int, unix_ms: int, out: CData, capacity: int, length: CData, /) -> int: ...
    def fk_log_seal(
        self,
        tbs: Bytes,
        tbs_length: int,
        signature: Bytes,
        signature_length: int,
        out: CData,
        capacity: int,
        length: CData,
        /,
    ) -> int: ...
    def fk_ecdsa_plain(self, der: Bytes, der_length: int, size: int, out: CData, /) -> int: ...

    # csrc/logread.h
    FK_MAX_DER_DEPTH: Final[int]
    FK_LOG_NON_DER: Final[int]
    FK_LOG_DEFINITE_CHUNKS: Final[int]
    FK_LOG_NOT_PRINTABLE: Final[int]
    FK_LOG_DUPLICATE_ELEMENT: Final[int]
    FK_LOG_UNKNOWN_ELEMENT: Final[int]
    FK_LOG_UNKNOWN_TYPE: Final[int]
    FK_LOG_UNKNOWN_VERSION: Final[int]
    FK_LOG_ALGORITHM_PARAMETERS: Final[int]
    FK_LOG_MISSING_ELEMENT: Final[int]
    FK_LOG_LARGE_NUMBER: Final[int]
    def fk_der_read(self, data: Bytes, length: int, at: int, out: CData, /) -> int: ...
    def fk_log_read(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_log_read_time(self, tag: int, data: Bytes, length: int, ticks: CData, /) -> int: ...
    def fk_log_join(self, data: Bytes, length: int, out: CData, lengths: CData, /) -> int: ...

    # csrc/tarread.h
    FK_MAX_TAR_NAME: Final[int]
    def fk_tar_scan_entries(
        self, data: Bytes, length: int, large: int, entries: CData, capacity: int, scan: CData, /
    ) -> int: ...

    # csrc/testing.h
    FK_DECIMAL_TEXT: Final[int]
    FK_FORM_CANONICAL: Final[int]
    FK_FORM_AMOUNT: Final[int]
    FK_FORM_QUANTITY: Final[int]
    def fk_decimal_compare(self, left: CData, right: CData, /) -> int: ...
    def fk_decimal_format(self, value: CData, form: int, out: CData, /) -> int: ...
    def fk_unit_price(self, amount: CData, quantity: CData, out: CData, /) -> int: ...
    def fk_process_data(
        self,
        receipt_case: int,
        options: int,
        charges: CData,
        charge_count: int,
        pays: CData,
        pay_count: int,
        out: CData,
        capacity: int,
        result: CData,
        /,
    ) -> int: ...

    # csrc/frames/cryptovision.h
    FK_CV_BLOCK_BYTES: Final[int]
    FK_CV_SECTOR_BYTES: Final[int]
    FK_CV_HEADER_BYTES: Final[int]
    FK_CV_MAX_COMMAND_BYTES: Final[int]
    FK_CV_FULL_ANSWER_BYTES: Final[int]
    FK_CV_MAX_TEXT_BYTES: Final[int]
    FK_CV_TOKEN: Final[int]
    FK_CV_NEXT_FRAGMENT: Final[int]
    FK_CV_CANCEL: Final[int]
    FK_CV_MAX_CLIENT_ID_BYTES: Final[int]
    FK_CV_SERIAL_BYTES: Final[int]
    FK_CV_E_FOREIGN: Final[int]
    FK_CV_E_LENGTH: Final[int]
    FK_CV_E_SHORT: Final[int]
    FK_CV_E_TYPE: Final[int]
    FK_CV_E_MISSING: Final[int]
    FK_CV_E_NUMBER: Final[int]
    FK_CV_MODE_NORMAL: Final[int]
    FK_CV_MODE_SUSPEND: Final[int]
    FK_CV_MODE_RESUME: Final[int]
    FK_CV_BYTE: Final[int]
    FK_CV_OCTETS: Final[int]
    FK_CV_SHORT: Final[int]
    FK_CV_TEXT: Final[int]
    FK_CV_LONGS: Final[int]
    FK_CV_EMPTY: Final[int]
    FK_CV_NOT_TAKEN: Final[int]
    FK_CV_BUSY: Final[int]
    FK_CV_DONE: Final[int]
    FK_CV_DATA: Final[int]
    FK_CV_CONTROLLER: Final[int]
    FK_CV_PARAMETERS: Final[int]
    FK_CV_STREAM: Final[int]
    FK_CV_ERROR: Final[int]
    FK_CV_NONE: Final[int]
    FK_CV_LOGIN: Final[int]
    FK_CV_TIME: Final[int]
    FK_CV_RESTART: Final[int]
    FK_CV_REOPEN: Final[int]
    FK_CV_STATE: Final[int]
    FK_CV_CAPACITY: Final[int]
    FK_CV_FATAL: Final[int]
    FK_CV_PROGRAM: Final[int]
    FK_CV_NO_DATA: Final[int]
    FK_CV_REPEAT: Final[int]
    FK_CV_CANCELLED: Final[int]
    FK_CV_LOOK: Final[int]
    def fk_cv_command(
        self, code: int, parameters: CData, count: int, out: CData, capacity: int, length: CData, /
    ) -> int: ...
    def fk_cv_block(
        self,
        command: Bytes,
        command_length: int,
        token: int,
        mode: int,
        out: CData,
        capacity: int,
        length: CData,
        /,
    ) -> int: ...
    def fk_cv_transaction(
        self,
        code: int,
        number: int,
        client: Bytes,
        client_length: int,
        data: Bytes,
        data_length: int,
        type: Bytes,
        type_length: int,
        out: CData,
        capacity: int,
        length: CData,
        /,
    ) -> int: ...
    def fk_cv_answer_read(self, block: Bytes, length: int, token: int, out: CData, /) -> int: ...
    def fk_cv_head_read(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_cv_fragment(
        self, data: Bytes, length: int, missing: int, stream: int, use: CData, more: CData, error: CData, /
    ) -> int: ...
    def fk_cv_values(self, data: Bytes, length: int, out: CData, capacity: int, count: CData, /) -> int: ...
    def fk_cv_number(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_cv_signed_read(self, data: Bytes, length: int, has_number: int, out: CData, /) -> int: ...
    def fk_cv_serial(self, data: Bytes, length: int, offset: CData, /) -> int: ...
    def fk_cv_mappings(
        self, data: Bytes, length: int, out: CData, capacity: int, count: CData, strict: CData, /
    ) -> int: ...
    def fk_cv_remedy_of(self, code: int, /) -> int: ...

    # csrc/frames/diebold_nixdorf.h
    FK_DN_MAX_ID: Final[int]
    FK_DN_MORE: Final[int]
    FK_DN_E_START: Final[int]
    FK_DN_E_FORM: Final[int]
    FK_DN_E_ID: Final[int]
    FK_DN_E_BASE64: Final[int]
    FK_DN_E_PARAMETERS: Final[int]
    def fk_dn_request(
        self,
        command: int,
        parameters: Bytes,
        parameters_length: int,
        id: Bytes,
        id_length: int,
        buffer: int,
        out: CData,
        capacity: int,
        length: CData,
        /,
    ) -> int: ...
    def fk_dn_read(
        self,
        data: Bytes,
        length: int,
        command: int,
        id: Bytes,
        id_length: int,
        out: CData,
        spans: CData,
        capacity: int,
        /,
    ) -> int: ...
    def fk_dn_stream_begin(self, stream: CData, command: int, id: Bytes, id_length: int, /) -> int: ...
    def fk_dn_stream_feed(
        self,
        stream: CData,
        piece: Bytes,
        length: int,
        out: CData,
        capacity: int,
        written: CData,
        done: CData,
        /,
    ) -> int: ...

    # csrc/frames/epson.h
    FK_EPSON_MAX_JSON: Final[int]
    FK_EPSON_MORE: Final[int]
    FK_EPSON_E_FORM: Final[int]
    FK_EPSON_E_TEXT: Final[int]
    FK_EPSON_E_SIZE: Final[int]
    FK_EPSON_E_BASE64: Final[int]
    FK_EPSON_OPEN_DEVICE: Final[int]
    FK_EPSON_CLOSE_DEVICE: Final[int]
    FK_EPSON_RECONNECT: Final[int]
    FK_EPSON_DISCONNECT: Final[int]
    def fk_epson_read(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_epson_escape(
        self, text: Bytes, length: int, out: CData, capacity: int, written: CData, /
    ) -> int: ...
    def fk_epson_message(
        self, kind: int, texts: Bytes, length: int, out: CData, capacity: int, written: CData, /
    ) -> int: ...
    def fk_epson_request(
        self,
        device_id: Bytes,
        device_id_length: int,
        timeout_ms: int,
        json: Bytes,
        json_length: int,
        out: CData,
        capacity: int,
        written: CData,
        /,
    ) -> int: ...
    def fk_epson_piece(
        self, state: CData, text: Bytes, length: int, out: CData, capacity: int, written: CData, /
    ) -> int: ...

    # csrc/frames/swissbit.h
    FK_SB_BLOCK: Final[int]
    FK_SB_MAX_PAYLOAD: Final[int]
    FK_SB_MAX_DATA: Final[int]
    FK_SB_MAX_CLIENT: Final[int]
    FK_SB_MAX_CLIENTS: Final[int]
    FK_SB_MAX_NUMBERS: Final[int]
    FK_SB_INFO_KEY: Final[int]
    FK_SB_E_LENGTH: Final[int]
    FK_SB_E_COUNT: Final[int]
    FK_SB_E_TEXT: Final[int]
    FK_SB_NOT_YET: Final[int]
    FK_SB_FETCH: Final[int]
    FK_SB_COMPLETE: Final[int]
    def fk_sb_command(self, code: int, payload: Bytes, length: int, out: CData, /) -> int: ...
    def fk_sb_texts_command(
        self,
        code: int,
        user: int,
        first: Bytes,
        first_length: int,
        second: Bytes,
        second_length: int,
        out: CData,
        /,
    ) -> int: ...
    def fk_sb_skip_command(
        self, code: int, skip: int, client: Bytes, client_length: int, out: CData, /
    ) -> int: ...
    def fk_sb_number_command(self, code: int, number: int, out: CData, /) -> int: ...
    def fk_sb_open_command(
        self,
        code: int,
        event: int,
        client: Bytes,
        client_length: int,
        number: int,
        data_length: int,
        type: Bytes,
        type_length: int,
        out: CData,
        /,
    ) -> int: ...
    def fk_sb_read_command(self, block: Bytes, size: int, out: CData, /) -> int: ...
    def fk_sb_read_response(self, block: Bytes, size: int, out: CData, /) -> int: ...
    def fk_sb_read_closed(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_sb_read_offset(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_sb_read_numbers(self, data: Bytes, length: int, out: CData, count: CData, /) -> int: ...
    def fk_sb_read_clients(self, data: Bytes, length: int, out: CData, count: CData, /) -> int: ...
    def fk_sb_read_certificate(self, data: Bytes, length: int, out: CData, /) -> int: ...
    def fk_sb_read_info(self, block: Bytes, size: int, out: CData, /) -> int: ...
    def fk_sb_read_sector_table(self, block: Bytes, size: int, out: CData, /) -> int: ...

lib: Final[_Lib]
