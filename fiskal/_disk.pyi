"""Types of the compiled writes to a disk. What the functions do is written in csrc/disk/flight.h."""

from typing import Any, Final

CData = Any

class _FFI:
    def new(self, cdecl: str) -> CData: ...
    def from_buffer(self, cdecl: str, data: Any, require_writable: bool = ...) -> CData: ...

ffi: Final[_FFI]

class _Lib:
    def fk_flight_open(self, flight: CData) -> int: ...
    def fk_flight_begin(self, flight: CData, fd: int, data: CData, size: int, at: int) -> int: ...
    def fk_flight_land(self, flight: CData, patience_ns: int) -> int: ...

lib: Final[_Lib]
