"""What is known of the speed and the limits of each TSE family, with where it is known from.

No vendor publishes how its signature times are distributed. Means are vendors' statements, coefficients of
variation are assumptions: 0.2 for a device on a bus, 1 for a service behind the internet. A measurement with
``fiskal bench tse`` replaces both.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fiskal.sizing.service import ServiceTime

GIGABYTE: Final = 10**9
LOG_BYTES_PER_SIGNATURE: Final = 1024
"""A log message of up to 512 bytes takes two blocks of a TAR archive, its header and itself (TR-03153)."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One TSE family, or one measured TSE. None is not known, and then not checked.

    ``low_s`` and ``high_s`` are between which the mean of a signature is believed to lie.
    ``own_signatures_per_day`` are log messages that the TSE writes for itself: setting the time, logging in.
    """

    name: str
    title: str
    cloud: bool = False
    start: ServiceTime
    finish: ServiceTime
    low_s: float
    high_s: float
    max_signatures: int | None = None
    log_memory_bytes: int | None = None
    log_bytes_per_signature: float = LOG_BYTES_PER_SIGNATURE
    max_clients: int | None = None
    max_open_transactions: int | None = None
    certificate_years: float | None = None
    self_test_s: float | None = None
    own_signatures_per_day: float = 0.0
    overhead_s: float = 0.0
    source: str
    uncertainty: str

    @property
    def signature_s(self) -> float:
        """The mean time of one signature."""
        return (self.start.mean_s + self.finish.mean_s) / 2

    @property
    def signatures_per_s(self) -> float:
        """What the TSE can do when it never has to wait for work."""
        return 1 / self.signature_s

    def with_signature_s(self, mean_s: float) -> Profile:
        """The same TSE with another mean, and the same variation and doubts about it."""
        factor = mean_s / self.signature_s
        return msgspec.structs.replace(
            self,
            start=self.start.scaled(factor),
            finish=self.finish.scaled(factor),
            low_s=self.low_s * factor,
            high_s=self.high_s * factor,
        )


def bare(service: ServiceTime, source: str) -> Profile:
    """A TSE of which nothing is known but how long a signature takes."""
    return Profile(
        name="bare",
        title="TSE",
        start=service,
        finish=service,
        low_s=service.mean_s,
        high_s=service.mean_s,
        source=source,
        uncertainty="",
    )


def _device(mean_s: float) -> ServiceTime:
    return ServiceTime(mean_s=mean_s, cv=0.2)


def _service(mean_s: float) -> ServiceTime:
    return ServiceTime(mean_s=mean_s, cv=1.0)


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile(
            name="swissbit",
            title="Swissbit USB, SD, microSD",
            start=_device(0.25),
            finish=_device(0.25),
            low_s=0.2,
            high_s=0.3,
            max_signatures=20_000_000,
            log_memory_bytes=6_979_321_856,
            max_clients=100,
            max_open_transactions=512,
            certificate_years=5,
            self_test_s=60,
            own_signatures_per_day=84,
            source="vendor: 250 ms per signature, 20 million signatures typical (10 million guaranteed), 8 GB",
            uncertainty="mean: vendor's statement; variation: assumed; 100 clients count over the whole life",
        ),
        Profile(
            name="cryptovision",
            title="Cryptovision / Bundesdruckerei microSD",
            start=_device(0.15),
            finish=_device(0.15),
            low_s=0.12,
            high_s=0.2,
            max_signatures=20_000_000,
            log_memory_bytes=8 * GIGABYTE,
            certificate_years=5,
            self_test_s=60,
            source="vendor: 150 ms per signature, 20 million signatures, 8 GB",
            uncertainty="mean: vendor's statement; variation and self test: assumed; clients: ask the device",
        ),
        Profile(
            name="diebold-nixdorf",
            title="Diebold Nixdorf USB",
            start=_device(0.25),
            finish=_device(0.25),
            low_s=0.2,
            high_s=0.3,
            max_signatures=20_000_000,
            log_memory_bytes=6_979_321_856,
            max_clients=100,
            max_open_transactions=512,
            certificate_years=7,
            self_test_s=120,
            source="vendor: 250 ms per signature, 20 million signatures, 8 GB",
            uncertainty="mean: vendor's statement; variation: assumed; self test: the command's time-out",
        ),
        Profile(
            name="epson",
            title="Epson USB, microSD, printer",
            start=_device(0.28),
            finish=_device(0.28),
            low_s=0.25,
            high_s=0.4,
            max_signatures=20_000_000,
            log_memory_bytes=6_979_321_856,
            max_clients=100,
            max_open_transactions=512,
            certificate_years=5,
            self_test_s=120,
            own_signatures_per_day=84,
            source="no published time; the signing core of Swissbit behind Epson's own protocol",
            uncertainty="the least certain of all: measure before buying",
        ),
        Profile(
            name="fiskaly",
            title="fiskaly SIGN DE (cloud)",
            cloud=True,
            start=_service(0.15),
            finish=_service(0.15),
            low_s=0.05,
            high_s=0.25,
            max_clients=199,
            max_open_transactions=2000,
            source="vendor: 50 to 250 ms per call, depending on the network",
            uncertainty="mean: middle of the vendor's range; variation: assumed, decides p95; rate limits unknown",
        ),
        Profile(
            name="swissbit-cloud",
            title="Swissbit Cloud TSE",
            cloud=True,
            start=_service(0.15),
            finish=_service(0.15),
            low_s=0.05,
            high_s=0.4,
            max_open_transactions=500,
            source="no published time; taken as other cloud TSEs",
            uncertainty="all assumed; POS vendors report at most 200 000 processes per day",
        ),
    )
}
"""By name."""
