"""The compiled core as type checkers see it; ``csrc/fiskal.h`` says what is in ``lib``."""

from typing import Any

ffi: Any
lib: Any
