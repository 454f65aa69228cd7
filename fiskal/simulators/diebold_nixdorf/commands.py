"""The commands of the frame protocol over the state of a device (catalogue, order of checks, shapes of answers).

The order of the checks and the roles that are asked for are inferred; the driver relies on neither.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import IO, Final, NamedTuple

from fiskal.clock import TICKS_PER_SECOND, from_unix, to_unix
from fiskal.scu.driver import Op, Selection, Signed
from fiskal.simulators.diebold_nixdorf import frames
from fiskal.simulators.diebold_nixdorf.device import ADMIN, TIME_ADMIN, Code, Device, Login, Refused
from fiskal.simulators.diebold_nixdorf.frames import Request
from fiskal.simulators.plan import Fault

TIME_FORMAT: Final = "%d.%m.%Y %H:%M:%S"
MAX_PROCESS_DATA: Final = 65_536
PIECE: Final = 3 * 16_384

Parameters = list[str]
Result = list[str] | IO[bytes]
"""Texts, or a file that is answered as one base64 text."""


class Begun(NamedTuple):
    """A transaction command that was begun by an Init."""

    op: Op
    client: str
    number: int
    size: int
    process_type: str
    data: bytearray
    packets: int


class Buffer:
    """A long answer that waits to be fetched piece by piece."""

    def __init__(self, pieces: Iterator[bytes], packet_size: int, on_end: Callable[[], None]) -> None:
        self._pieces = pieces
        self._packet_size = packet_size
        self._ready = bytearray()
        self._on_end = on_end
        self.next = 0
        self.last: tuple[int, bytes, bool] | None = None
        self.empty_packets = 0

    def take(self) -> tuple[bytes, bool]:
        """The next piece, and whether more follow."""
        if self.empty_packets:
            self.empty_packets -= 1
            return b"", True
        while len(self._ready) <= self._packet_size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._ready += piece
        taken = bytes(self._ready[: self._packet_size])
        del self._ready[: self._packet_size]
        if not self._ready:
            self._on_end()
        return taken, bool(self._ready)


class Interface:
    """What the line is connected to: one device, one current client, one command at a time."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.last_error = int(Code.OK)
        self.begun: Begun | None = None
        self.buffers: dict[int, Buffer] = {}
        self._ups = device.ups

    def execute(self, request: Request, fault: Fault | None) -> list[bytes] | None:
        """Do what a request asks for; the parameters of the answer, None if nothing is to be answered."""
        device = self.device
        with device.lock:
            if self._ups != device.ups:
                self._ups = device.ups
                self.begun = None
                self.buffers.clear()
                self.last_error = int(Code.OK)
            try:
                result = self._execute(request, fault)
            except Refused as refused:
                self.last_error = refused.code
                return None
            if request.command != 1:
                self.last_error = int(Code.OK)
            return result

    def _execute(self, request: Request, fault: Fault | None) -> list[bytes] | None:
        entry = COMMANDS.get(request.command)
        if entry is None:
            raise Refused(Code.UNKNOWN_CMD)
        _inject(entry, fault)
        self._check(request.command, entry)
        if not entry.fewest <= len(request.parameters) <= entry.most:
            raise Refused(Code.PARA_COUNT_ERROR)
        if entry.has_slot and request.parameters[0] != "1":
            raise Refused(Code.PARA_VALUE_ERROR)
        if request.command == 4:
            return self.packet(request.parameters)
        if request.command == 400 and fault is not None and fault.kind in ("wrong_pin", "user_blocked"):
            return [b"2", b"2"] if fault.kind == "wrong_pin" else [b"3", b"0"]
        self.near_full = fault is not None and fault.kind == "near_full"
        result = entry.run(self, request.parameters)
        if fault is not None and fault.kind == "cert_expired":  # reported behind the work
            raise Refused(Code.CERTIFICATE_EXPIRED)
        if request.command == 112 and fault is not None and fault.kind == "self_test_result":
            result = [str(fault.value or 2)]
            self.device.expire_self_test()
        if request.buffer is not None:
            self._store(request, result, fault)
            return None
        if not isinstance(result, list):
            result = [base64.b64encode(result.read()).decode("ascii")]
        if request.command == 1 and fault is not None and fault.kind == "extra_status_params":
            result = ["0", "0", *result]
        return [text.encode("ascii") for text in result]

    def _check(self, command: int, entry: Command) -> None:
        """The checks that all commands have in common, in the device's order."""
        device = self.device
        if device.disabled and not entry.when_disabled:
            raise Refused(Code.DEVICE_DISABLED)
        if entry.needs_client and device.current is None:
            raise Refused(Code.CLIENT_ID_NOT_SET)
        if entry.needs_self_test and device.self_test_in_s == 0 and not device.disabled:
            raise Refused(Code.SELF_TEST_REQUIRED)
        is_transaction = 200 <= command <= 207
        if (is_transaction or command == 101) and not device.initialized:
            raise Refused(Code.DEVICE_NOT_INITIALIZED)
        if entry.roles and not entry.roles & device.logged_in:
            raise Refused(Code.USER_NOT_AUTHENTICATED)
        if is_transaction and command != 207 and not device.time_valid:
            raise Refused(Code.TIME_NOT_SET)
        if is_transaction and command != 207 and device.current not in device.clients:
            raise Refused(Code.CLIENT_NOT_REGISTERED)

    # ---- long answers -----------------------------------------------------------------------------

    def _store(self, request: Request, result: Result, fault: Fault | None) -> None:
        request_id = request.id
        if fault is not None and fault.kind == "export_corrupt":
            request_id = b"00000000" + request_id[8:]
        device = self.device
        size = 0
        if not isinstance(result, list):
            result.seek(0, 2)
            size = result.tell()
            result.seek(0)

        def pieces() -> Iterator[bytes]:
            yield frames.head(request.command)
            if isinstance(result, list):
                for text in result:
                    yield frames.PARAMETER + text.encode("ascii")
            else:
                yield frames.PARAMETER
                with result:
                    while piece := result.read(PIECE):
                        yield base64.b64encode(piece)
            yield frames.tail(request_id)

        counter = self._exported_counter

        def ended() -> None:
            if request.command == 300:
                device.exported = (size, counter)

        buffer = Buffer(pieces(), device.settings.packet_size, ended)
        if fault is not None and fault.kind == "export_empty_packets":
            buffer.empty_packets = int(fault.value or 1)
        assert request.buffer is not None
        self.buffers[request.buffer] = buffer

    def packet(self, parameters: Parameters) -> list[bytes]:
        number, packet = _number(parameters[0]), _number(parameters[1])
        buffer = self.buffers.get(number)
        if buffer is None:
            raise Refused(Code.NO_DATA_AVAILABLE)
        if buffer.last is not None and packet == buffer.last[0] and packet != buffer.next:
            _, data, more = buffer.last
        elif packet == buffer.next:
            data, more = buffer.take()
            buffer.last = (packet, data, more)
            buffer.next = (packet + 1) % 256
        else:
            raise Refused(Code.PARA_VALUE_ERROR)
        return [b"%d" % number, b"%d" % packet, b"00" if more else b"01", b"%d" % len(data), data]

    # ---- information ------------------------------------------------------------------------------

    def country_info(self, parameters: Parameters) -> Result:
        return ["2", "2", "23", "64" if self.device.settings.hardware == "single" else "65"]

    def status(self, parameters: Parameters) -> Result:
        device = self.device
        state = 0x01 if device.initialized else 0
        state |= 0x02 if self.begun is not None else 0
        state |= 0x04 if device.tse.open_transactions else 0
        return [f"{self.last_error:04X}", f"{state:02X}"]

    def firmware_info(self, parameters: Parameters) -> Result:
        if self.device.settings.hardware == "box":
            return ["1", "2", "3", "1", "0", "4", "2", "0", "1"]
        return ["1", "7", "691", "1", "1", "497"]

    def set_asb(self, parameters: Parameters) -> Result:
        if parameters[0] not in ("0", "1"):
            raise Refused(Code.PARA_VALUE_ERROR)
        self.device.asb = parameters[0] == "1"
        return []

    def memory_info(self, parameters: Parameters) -> Result:
        return [str(self.device.settings.memory_bytes), str(self.device.free_bytes)]

    def device_info(self, parameters: Parameters) -> Result:
        slots = self.device.settings.slots
        return [self.device.serial[:4].hex().upper(), str(slots), "1", "0", "1", "A", "0.0.0.0"]

    def slot_info(self, parameters: Parameters) -> Result:
        device = self.device
        old = device.settings.firmware == "old"
        state = 0x02 if device.disabled else 0x01 if device.initialized else 0
        if device.tse.memory_is_full or self.near_full:
            state |= 0x04
        info = device.tse.info(None)
        fields = [
            "03",
            f"{state:02X}",
            "0",
            "0001000200010002",
            "" if old else str(device.settings.memory_bytes),
            "" if old else str(device.free_bytes),
            _time_text(device.tse.valid_until),
            str(info.max_number_of_signatures - device.tse.counter),
            "ecdsa-plain-SHA384",
        ]
        return fields if old else [*fields, "1", device.settings.description]

    near_full = False

    # ---- life -------------------------------------------------------------------------------------

    def initialize(self, parameters: Parameters) -> Result:
        self.device.initialize(parameters[1])
        return []

    def update_time(self, parameters: Parameters) -> Result:
        device = self.device
        user = ADMIN if ADMIN in device.logged_in else TIME_ADMIN
        device.set_time(_ticks(parameters[0]), user)
        return []

    def disable(self, parameters: Parameters) -> Result:
        self.device.disable()
        return []

    def run_self_test(self, parameters: Parameters) -> Result:
        device = self.device
        if device.current not in device.clients:
            return ["3"]
        return ["1" if device.self_test() else "2"]

    def factory_reset(self, parameters: Parameters) -> Result:
        self.device.factory_reset()
        return []

    def next_update(self, parameters: Parameters) -> Result:
        return [str(self.device.settings.update_interval_s)]

    def next_self_test(self, parameters: Parameters) -> Result:
        return [str(self.device.self_test_in_s)]

    # ---- users ------------------------------------------------------------------------------------

    def login(self, parameters: Parameters) -> Result:
        outcome, tries = self.device.log_in(parameters[1], parameters[2])
        return ["1"] if outcome is Login.OK else [str(int(outcome)), str(tries)]

    def logout(self, parameters: Parameters) -> Result:
        return ["1" if self.device.log_out(parameters[1]) else "2"]

    def unblock(self, parameters: Parameters) -> Result:
        outcome, tries = self.device.unblock(parameters[1], parameters[2], _pin(parameters[3]))
        return ["1"] if outcome is Login.OK else [str(int(outcome)), str(tries)]

    def change_puk(self, parameters: Parameters) -> Result:
        outcome, tries = self.device.change_puk(parameters[1], parameters[2])
        return ["1"] if outcome is Login.OK else [str(int(outcome)), str(tries)]

    def change_pin(self, parameters: Parameters) -> Result:
        outcome, tries = self.device.check_pin(parameters[1], parameters[2])
        if outcome is Login.OK:
            self.device.change_pin(parameters[1], _pin(parameters[3]))
            return ["1"]
        return [str(int(outcome)), str(tries)]

    # ---- clients ----------------------------------------------------------------------------------

    def set_client(self, parameters: Parameters) -> Result:
        if not 1 <= len(parameters[0]) <= 30:
            raise Refused(Code.PARA_VALUE_ERROR)
        self.device.current = parameters[0]
        return []

    def register(self, parameters: Parameters) -> Result:
        self.device.register(self.device.current or "")
        return []

    def deregister(self, parameters: Parameters) -> Result:
        self.device.deregister(self.device.current or "")
        return []

    def number_of_clients(self, parameters: Parameters) -> Result:
        return [str(self.device.settings.max_clients), str(len(self.device.clients))]

    def registered_clients(self, parameters: Parameters) -> Result:
        return self.device.clients

    # ---- transactions -----------------------------------------------------------------------------

    def _init(self, op: Op, number: int, size: str, process_type: str, additional: str) -> Result:
        if self.begun is not None:
            raise Refused(Code.CMD_WRONG_ORDER)
        if _number(size) > MAX_PROCESS_DATA or additional != "0":
            raise Refused(Code.PARA_VALUE_ERROR)
        if op != "start" and number not in self.device.tse.open_transactions:
            raise Refused(Code.NO_TRANSACTION)
        client = self.device.current or ""
        self.begun = Begun(op, client, number, _number(size), process_type, bytearray(), 0)
        return []

    def start_init(self, parameters: Parameters) -> Result:
        return self._init("start", 0, *parameters)

    def update_init(self, parameters: Parameters) -> Result:
        return self._init("update", _number(parameters[0]), *parameters[1:])

    def finish_init(self, parameters: Parameters) -> Result:
        return self._init("finish", _number(parameters[0]), *parameters[1:])

    def transaction_data(self, parameters: Parameters) -> Result:
        if self.begun is None:
            raise Refused(Code.CMD_WRONG_ORDER)
        try:
            data = base64.b64decode(parameters[1], validate=True)
        except ValueError as error:
            raise Refused(Code.PARA_VALUE_ERROR) from error
        if (
            _number(parameters[0]) != self.begun.packets
            or not 1 <= len(data) <= 512
            or len(self.begun.data) + len(data) > self.begun.size
        ):
            raise Refused(Code.PARA_VALUE_ERROR)
        self.begun.data.extend(data)
        self.begun = self.begun._replace(packets=self.begun.packets + 1)
        return []

    def _end(self, op: Op) -> Signed:
        begun = self.begun
        if begun is None or begun.op != op:
            raise Refused(Code.CMD_WRONG_ORDER)
        if len(begun.data) != begun.size:
            raise Refused(Code.CMD_WRONG_ORDER)
        self.begun = None
        signed = self.device.transaction(
            op, begun.client, begun.number, begun.process_type, bytes(begun.data)
        )
        if self.device.certificate_expired:
            raise Refused(Code.CERTIFICATE_EXPIRED)
        return signed

    def start_end(self, parameters: Parameters) -> Result:
        signed = self._end("start")
        return [
            _time_text(signed.time_stamp),
            str(signed.transaction_number),
            base64.b64encode(self.device.serial).decode("ascii"),
            str(signed.signature_counter),
            base64.b64encode(signed.signature).decode("ascii"),
        ]

    def _ended(self, signed: Signed) -> Result:
        return [
            _time_text(signed.time_stamp),
            str(signed.signature_counter),
            base64.b64encode(signed.signature).decode("ascii"),
        ]

    def update_end(self, parameters: Parameters) -> Result:
        return self._ended(self._end("update"))

    def finish_end(self, parameters: Parameters) -> Result:
        return self._ended(self._end("finish"))

    def void(self, parameters: Parameters) -> Result:
        self.begun = None
        return []

    def number_of_transactions(self, parameters: Parameters) -> Result:
        return [str(self.device.settings.max_open_transactions), str(len(self.device.tse.open_transactions))]

    def started_transactions(self, parameters: Parameters) -> Result:
        client = parameters[0] if parameters else None
        return [str(number) for number in self.device.tse.open_numbers(client)]

    # ---- exports ----------------------------------------------------------------------------------

    _exported_counter = 0

    def _export(self, write: Callable[[IO[bytes]], int]) -> Result:
        file = tempfile.SpooledTemporaryFile(max_size=8 << 20)  # noqa: SIM115  # closed when it was fetched
        try:
            self._exported_counter = write(file)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def export_all(self, parameters: Parameters) -> Result:
        return self._export(self.device.export)

    def export_number(self, parameters: Parameters) -> Result:
        number = _number(parameters[1])
        chosen = Selection(first_number=number, last_number=number, client_id=parameters[2] or None)
        return self._export(lambda out: self.device.export_part(out, chosen))

    def export_numbers(self, parameters: Parameters) -> Result:
        chosen = Selection(
            first_number=_number(parameters[1]),
            last_number=_number(parameters[2]),
            client_id=parameters[3] or None,
        )
        return self._export(lambda out: self.device.export_part(out, chosen))

    def export_period(self, parameters: Parameters) -> Result:
        chosen = Selection(
            first_time=_ticks(parameters[1]),
            last_time=_ticks(parameters[2]) + TICKS_PER_SECOND - 1,
            client_id=parameters[3] or None,
        )
        return self._export(lambda out: self.device.export_part(out, chosen))

    def certificates(self, parameters: Parameters) -> Result:
        return [base64.b64encode(self.device.tse.chain.pem).decode("ascii")]

    def serial_numbers(self, parameters: Parameters) -> Result:
        return [base64.b64encode(self.device.serial).decode("ascii")]

    def last_log_message(self, parameters: Parameters) -> Result:
        return [base64.b64encode(self.device.last_message()).decode("ascii")]

    def delete_exported(self, parameters: Parameters) -> Result:
        return ["1" if self.device.erase(_number(parameters[1])) else "2"]

    def public_key(self, parameters: Parameters) -> Result:
        return [
            base64.b64encode(self.device.serial).decode("ascii"),
            base64.b64encode(self.device.tse.chain.point).decode("ascii"),
        ]

    def reset_export(self, parameters: Parameters) -> Result:
        self.buffers.clear()
        return []


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise Refused(Code.PARA_VALUE_ERROR)
    return int(text)


def _pin(text: str) -> str:
    if len(text) != 5:
        raise Refused(Code.PARA_VALUE_ERROR)
    return text


def _ticks(text: str) -> int:
    try:
        moment = datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise Refused(Code.PARA_VALUE_ERROR) from error
    return from_unix(int(moment.timestamp()))


def _time_text(ticks: int) -> str:
    return datetime.fromtimestamp(to_unix(ticks), UTC).strftime(TIME_FORMAT)


class Command(NamedTuple):
    """One command: its name, how many parameters it takes, what the device must be asked first."""

    name: str
    run: Callable[[Interface, Parameters], Result]
    fewest: int = 0
    most: int = 0
    has_slot: bool = False
    needs_client: bool = False
    needs_self_test: bool = False
    roles: frozenset[str] = frozenset()
    when_disabled: bool = True


_A: Final = frozenset({ADMIN})
_AT: Final = frozenset({ADMIN, TIME_ADMIN})
_TRANSACTION: Final = {"needs_client": True, "needs_self_test": True, "when_disabled": False}
_EXPORT: Final = {"has_slot": True, "needs_client": True, "needs_self_test": True}


def _command(
    name: str, run: Callable[[Interface, Parameters], Result], fewest: int = 0, most: int = 0, **rest: object
) -> Command:
    return Command(name, run, fewest, max(fewest, most), **rest)  # type: ignore[arg-type]


COMMANDS: Final = {
    0: _command("GetCountryInfo", Interface.country_info),
    1: _command("GetMfcStatus", Interface.status),
    2: _command("GetFirmwareInfo", Interface.firmware_info),
    3: _command("SetAsb", Interface.set_asb, 1),
    4: _command("GetCommandResponse", Interface.status, 2),
    100: _command(
        "Initialize",
        Interface.initialize,
        2,
        has_slot=True,
        needs_client=True,
        needs_self_test=True,
        roles=_A,
        when_disabled=False,
    ),
    101: _command("UpdateTime", Interface.update_time, 1, needs_client=True, roles=_AT, when_disabled=False),
    102: _command("GetMemoryInfo", Interface.memory_info, needs_client=True),
    104: _command(
        "Disable", Interface.disable, 1, has_slot=True, needs_client=True, roles=_A, when_disabled=False
    ),
    106: _command(
        "RegisterClient",
        Interface.register,
        1,
        has_slot=True,
        needs_client=True,
        needs_self_test=True,
        roles=_A,
        when_disabled=False,
    ),
    107: _command(
        "DeregisterClient",
        Interface.deregister,
        1,
        has_slot=True,
        needs_client=True,
        needs_self_test=True,
        roles=_A,
        when_disabled=False,
    ),
    108: _command("GetDeviceInfo", Interface.device_info, 1, has_slot=True),
    109: _command("GetSlotInfo", Interface.slot_info, 1, has_slot=True, needs_client=True),
    112: _command(
        "RunSelfTest", Interface.run_self_test, 1, has_slot=True, needs_client=True, when_disabled=False
    ),
    200: _command("StartTransactionInit", Interface.start_init, 3, **_TRANSACTION),
    201: _command("StartTransactionEnd", Interface.start_end, **_TRANSACTION),
    202: _command("UpdateTransactionInit", Interface.update_init, 4, **_TRANSACTION),
    203: _command("UpdateTransactionEnd", Interface.update_end, **_TRANSACTION),
    204: _command("FinishTransactionInit", Interface.finish_init, 4, **_TRANSACTION),
    205: _command("FinishTransactionEnd", Interface.finish_end, **_TRANSACTION),
    206: _command("TransactionData", Interface.transaction_data, 2, needs_client=True, when_disabled=False),
    207: _command("TransactionVoid", Interface.void, needs_client=True, when_disabled=False),
    300: _command("ExportAll", Interface.export_all, 1, **_EXPORT),
    301: _command("ExportByTransactionNo", Interface.export_number, 3, **_EXPORT),
    302: _command("ExportByTransactionNoInterval", Interface.export_numbers, 4, **_EXPORT),
    303: _command("ExportByTimePeriod", Interface.export_period, 4, **_EXPORT),
    304: _command("ExportCertificates", Interface.certificates, 1, **_EXPORT),
    305: _command("ExportSerialNumbers", Interface.serial_numbers, 1, **_EXPORT),
    306: _command("ExportLastLogMessage", Interface.last_log_message, 1, **_EXPORT),
    307: _command("DeleteExportedData", Interface.delete_exported, 2, roles=_A, **_EXPORT),
    308: _command("ExportPublicKey", Interface.public_key, 1, **_EXPORT),
    309: _command("ResetExport", Interface.reset_export, 0, 1),
    400: _command("LoginUser", Interface.login, 3, has_slot=True, needs_client=True),
    401: _command("LogoutUser", Interface.logout, 2, has_slot=True, needs_client=True),
    402: _command("UnblockUser", Interface.unblock, 4, has_slot=True, when_disabled=False),
    403: _command("ChangePuk", Interface.change_puk, 3, has_slot=True, when_disabled=False),
    404: _command("ChangePin", Interface.change_pin, 4, has_slot=True, when_disabled=False),
    500: _command("GetNumberOfClients", Interface.number_of_clients, needs_client=True),
    502: _command(
        "GetRegisteredClients", Interface.registered_clients, 1, has_slot=True, needs_client=True, roles=_A
    ),
    504: _command("GetNumberOfTransactions", Interface.number_of_transactions, needs_client=True),
    506: _command("GetStartedTransactions", Interface.started_transactions, 0, 1, needs_client=True),
    507: _command("GetUpdateTimeInterval", Interface.next_update, needs_client=True),
    508: _command("GetTimeUntilNextSelfTest", Interface.next_self_test, needs_client=True),
    509: _command("SetClientId", Interface.set_client, 1),
    900: _command("FactoryReset", Interface.factory_reset),
}
"""The commands with publicly known parameters, and 306, 402, 403 and 404 in their inferred shapes."""

_INJECTED: Final = {
    "memory_full": Code.STORAGE_FAILURE,
    "max_tx": Code.MAX_PARALLEL_TRANSACTIONS_REACHED,
    "max_sig": Code.MAX_SIGNATURES_REACHED,
    "max_clients": Code.MAX_REGISTERED_CLIENTS_REACHED,
}


def _inject(entry: Command, fault: Fault | None) -> None:
    """Refuse what a fault says is refused."""
    if fault is None:
        return
    if fault.kind == "error":
        raise Refused(int(str(fault.value or "0001"), 16))
    if fault.kind in _INJECTED:
        raise Refused(_INJECTED[fault.kind])
