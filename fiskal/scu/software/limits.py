"""What a software TSE holds at most."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

MAX_CLIENTS: Final = 199
MAX_OPEN_TRANSACTIONS: Final = 512
MAX_SIGNATURES: Final = 20_000_000
MAX_COUNTER: Final = 2**32 - 1
"""Of signatureCounter and transactionNumber (TR-03153-1 §9.1: 32 bit)."""
MAX_LOG_MEMORY_BYTES: Final = 2**63 - 1

Limit = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Limits of a TSE; None is one that is left as it is.

    ``max_log_memory_bytes`` counts what ``messages.log`` holds behind the last erasing.
    """

    max_clients: Limit | None = None
    max_open_transactions: Limit | None = None
    max_signatures: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNTER)] | None = None
    max_log_memory_bytes: Limit | None = None

    def over(self, base: Limits) -> Limits:
        """These limits, and those of ``base`` where this has none."""
        return Limits(
            **{
                name: getattr(base, name) if getattr(self, name) is None else getattr(self, name)
                for name in self.__struct_fields__
            }
        )


DEFAULT_LIMITS: Final = Limits(
    max_clients=MAX_CLIENTS,
    max_open_transactions=MAX_OPEN_TRANSACTIONS,
    max_signatures=MAX_SIGNATURES,
    max_log_memory_bytes=MAX_LOG_MEMORY_BYTES,
)
