"""Signature algorithms, curves and keys of TSEs (TR-03116-5 tables 5 and 6, TR-03111 §5.2.1)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from fiskal.errors import FiskalError
from fiskal.lazy import LazyModule

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import serialization
else:  # brings SSH along
    serialization = LazyModule("cryptography.hazmat.primitives.serialization")

_OID_PREFIX: Final = bytes.fromhex("04007f0007010104")


class AlgorithmNotSupported(FiskalError):
    """A signature algorithm that is unknown or cannot be checked here (Schnorr): not the same as invalid."""

    code = "ALGORITHM_NOT_SUPPORTED"


class KeyNotUsable(FiskalError):
    """Bytes that are no public key on a curve a TSE may use."""

    code = "KEY_NOT_USABLE"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A signature algorithm. ``arcs`` are the last two arcs of 0.4.0.127.0.7.1.1.4.x.y as bytes."""

    name: str
    arcs: bytes
    hash: hashes.HashAlgorithm
    schnorr: bool

    @property
    def oid(self) -> str:
        """Dotted text."""
        return f"0.4.0.127.0.7.1.1.4.{self.arcs[0]}.{self.arcs[1]}"

    @property
    def oid_content(self) -> bytes:
        """The content octets of the DER OBJECT IDENTIFIER."""
        return _OID_PREFIX + self.arcs

    @property
    def hash_name(self) -> str:
        """The hash as hashlib calls it."""
        return self.hash.name.replace("-", "_")

    @property
    def compliant(self) -> bool:
        """False for the 224-bit hashes, which TR-03116-5 no longer allows."""
        return self.hash.digest_size >= 32


def _algorithms() -> list[Algorithm]:
    sha2 = [hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
    sha3 = [hashes.SHA3_224(), hashes.SHA3_256(), hashes.SHA3_384(), hashes.SHA3_512()]
    rows: list[Algorithm] = []
    for kind, branch, first_sha2, first_sha3 in (("ecdsa", 1, 2, 8), ("ecsdsa", 4, 1, 5)):
        for family, first in ((sha2, first_sha2), (sha3, first_sha3)):
            for offset, function in enumerate(family):
                hash_text = function.name.upper()
                rows.append(
                    Algorithm(
                        f"{kind}-plain-{hash_text}", bytes((branch, first + offset)), function, branch == 4
                    )
                )
    return rows


ALGORITHMS: Final = tuple(_algorithms())
_BY_NAME: Final = {algorithm.name.lower(): algorithm for algorithm in ALGORITHMS}
_BY_OID: Final = {algorithm.oid_content: algorithm for algorithm in ALGORITHMS}


def algorithm_by_name(name: str) -> Algorithm:
    """Find an algorithm by its name in any case, or by its dotted OID.

    Raises :class:`AlgorithmNotSupported`.
    """
    found = _BY_NAME.get(name.lower())
    if found is None:
        found = next((algorithm for algorithm in ALGORITHMS if algorithm.oid == name), None)
    if found is None:
        raise AlgorithmNotSupported(f"The signature algorithm {name!r} is unknown.")
    return found


def algorithm_by_oid(content: bytes) -> Algorithm | None:
    """Find an algorithm by the content octets of its OID; None if unknown."""
    return _BY_OID.get(content)


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve a TSE may use. ``scalar_size`` is the size of r and of s in bytes; ``order`` the group's."""

    curve: ec.EllipticCurve
    order: int
    algorithm: Algorithm
    """The algorithm whose hash fits the curve."""

    @property
    def name(self) -> str:
        return self.curve.name

    @property
    def scalar_size(self) -> int:
        return (self.order.bit_length() + 7) // 8

    @property
    def point_size(self) -> int:
        return 1 + 2 * ((self.curve.key_size + 7) // 8)


def _curve(curve: ec.EllipticCurve, order: str, hash_text: str) -> Curve:
    return Curve(curve, int(order, 16), algorithm_by_name(f"ecdsa-plain-{hash_text}"))


CURVES: Final = (
    _curve(ec.SECP256R1(), "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", "SHA256"),
    _curve(
        ec.BrainpoolP256R1(), "a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7", "SHA256"
    ),
    _curve(ec.SECP384R1(), f"{'f' * 48}c7634d81f4372ddf581a0db248b0a77aecec196accc52973", "SHA384"),
    _curve(
        ec.BrainpoolP384R1(),
        "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b31f166e6cac0425a7cf3ab6af6b7fc3103b883202e9046565",
        "SHA384",
    ),
    _curve(
        ec.BrainpoolP512R1(),
        "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca70330870"
        "553e5c414ca92619418661197fac10471db1d381085ddaddb58796829ca90069",
        "SHA512",
    ),
    _curve(
        ec.SECP521R1(),
        f"1{'f' * 64}fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        "SHA512",
    ),
)
_CURVE_BY_NAME: Final = {curve.name.lower(): curve for curve in CURVES}


def curve_by_name(name: str) -> Curve:
    """Find a curve by its name (``secp256r1``, ``brainpoolP384r1`` …). Raises :class:`KeyNotUsable`."""
    found = _CURVE_BY_NAME.get(name.lower())
    if found is None:
        raise KeyNotUsable(f"The curve {name!r} is none a TSE may use (TR-03116-5 table 6).")
    return found


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the uncompressed point ``04 || X || Y`` of a key."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def serial_of_point(point: bytes) -> bytes:
    """Return the serial number of a TSE: SHA-256 over the uncompressed point, 32 bytes, on every curve."""
    return hashlib.sha256(point).digest()


def load_public_keys(data: bytes) -> list[ec.EllipticCurvePublicKey]:
    """Read a public key as QR codes carry it: the bare point, or SubjectPublicKeyInfo in DER.

    A bare point does not name its curve; the result holds one key for every curve it lies on (nearly always
    exactly one). Raises :class:`KeyNotUsable` if there is none.
    """
    keys: list[ec.EllipticCurvePublicKey] = []
    if data[:1] == b"\x04":
        for curve in CURVES:
            if curve.point_size == len(data):
                try:
                    keys.append(ec.EllipticCurvePublicKey.from_encoded_point(curve.curve, data))
                except ValueError:
                    continue  # not a point of this curve
    elif data[:1] == b"\x30":
        try:
            key = serialization.load_der_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyNotUsable("The public key is no SubjectPublicKeyInfo.") from error
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name.lower() in _CURVE_BY_NAME:
            keys.append(key)
    if not keys:
        raise KeyNotUsable("The public key is no point on a curve a TSE may use (TR-03116-5 table 6).")
    return keys


def der_signature(signature: bytes, key: ec.EllipticCurvePublicKey) -> bytes | None:
    """Return a plain signature as DER; None unless it has the right length and 0 < r, s < order."""
    curve = curve_by_name(key.curve.name)
    size = curve.scalar_size
    if len(signature) != 2 * size:
        return None
    r = int.from_bytes(signature[:size])
    s = int.from_bytes(signature[size:])
    if not (0 < r < curve.order and 0 < s < curve.order):
        return None
    return utils.encode_dss_signature(r, s)


def verify(
    key: ec.EllipticCurvePublicKey,
    algorithm: Algorithm,
    tbs: bytes,
    signature: bytes,
    *,
    accept_der: bool = False,
) -> bool:
    """Check a signature over ``tbs``; ``accept_der`` also takes DER, as some QR codes carry it.

    Raises :class:`AlgorithmNotSupported` for Schnorr signatures.
    """
    if algorithm.schnorr:
        raise AlgorithmNotSupported(f"Signatures with {algorithm.name} cannot be checked.")
    candidates = [der_signature(signature, key)]
    if accept_der and signature[:1] == b"\x30":
        candidates.append(signature)
    for der in candidates:
        if der is not None:
            try:
                key.verify(der, tbs, ec.ECDSA(algorithm.hash))
            except InvalidSignature:
                continue
            return True
    return False
