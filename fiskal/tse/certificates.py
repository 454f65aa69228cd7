"""Certificates of TSEs: a test PKI of one's own, and reading chains from files (TR-03153-1 §5.2.3).

The PKI made here has the shape of a productive one (root, sub CA, TSE; 13, 10 and 8 years) and proves
nothing: every subject says ``NOT CERTIFIED``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fiskal.errors import FiskalError
from fiskal.tse.algorithms import point_of, serial_of_point

ROOT_YEARS: Final = 13
SUB_CA_YEARS: Final = 10
TSE_YEARS: Final = 8
MAX_CHAIN: Final = 10
"""Certificates from a TSE to its root; real chains have three."""
MARK: Final = "NOT CERTIFIED"
"""Part of every subject made here."""


X509_ERRORS: Final = (
    FiskalError,
    ValueError,
    TypeError,
    KeyError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UserWarning,  # where warnings are made errors
)
"""What cryptography raises about certificates; much of it only when a member is looked at."""


class CertificateError(FiskalError):
    """A file that holds no certificate, or a chain that does not hold."""

    code = "CERTIFICATE"


@dataclass(frozen=True, slots=True)
class Chain:
    """The certificates of one TSE, leaf first. Loaded once, then immutable."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        return key_of(self.leaf)

    @property
    def point(self) -> bytes:
        """The uncompressed point of the TSE's key."""
        return point_of(self.public_key)

    @property
    def serial(self) -> bytes:
        """The serial number of the TSE: 32 bytes."""
        return serial_of_point(self.point)

    @property
    def der(self) -> list[bytes]:
        return [certificate.public_bytes(Encoding.DER) for certificate in self.certificates]

    @property
    def pem(self) -> bytes:
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.certificates)


def key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The key of a certificate. Raises :class:`CertificateError` if it is on no curve that is known."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError("The key of a certificate is on an unknown curve.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateError("The key of a certificate is not on an elliptic curve.")
    return key


def _years_later(moment: dt.datetime, years: int) -> dt.datetime:
    try:
        return moment.replace(year=moment.year + years)
    except ValueError:  # 29 February
        return moment.replace(year=moment.year + years, day=28)


def _issue(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    not_before: dt.datetime,
    years: int,
    path_length: int | None,
) -> x509.Certificate:
    """One certificate; a CA if ``path_length`` is not None or it signs itself."""
    is_ca = path_length is not None or subject == issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(_years_later(not_before, years))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if is_ca:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    return builder.sign(issuer_key, hashes.SHA384())


def _name(common_name: str, serial: str | None = None) -> x509.Name:
    attributes = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"fiskal ({MARK})"),
        x509.NameAttribute(NameOID.COMMON_NAME, common_name),
    ]
    if serial is not None:
        attributes.insert(1, x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(attributes)


def create_test_chain(
    key: ec.EllipticCurvePublicKey,
    not_before: dt.datetime,
    ca_curve: ec.EllipticCurve | None = None,
) -> Chain:
    """Issue a chain for a TSE's ``key``: TSE, sub CA, root.

    The CA keys are made on ``ca_curve`` (default secp384r1, as TR-03116-5 asks for CAs), used once and
    forgotten. ``not_before`` is aware; the certificates are signed with ecdsa-with-SHA384.
    """
    if ca_curve is None:
        ca_curve = ec.SECP384R1()
    not_before = not_before.replace(microsecond=0)
    root_key = ec.generate_private_key(ca_curve)
    sub_key = ec.generate_private_key(ca_curve)
    root_name = _name(f"fiskal test root CA {MARK}")
    sub_name = _name(f"fiskal test sub CA {MARK}")
    serial = serial_of_point(point_of(key)).hex()
    leaf_name = _name(f"fiskal software TSE {MARK}", serial)
    root = _issue(root_name, root_key.public_key(), root_name, root_key, not_before, ROOT_YEARS, None)
    sub = _issue(sub_name, sub_key.public_key(), root_name, root_key, not_before, SUB_CA_YEARS, 0)
    leaf = _issue(leaf_name, key, sub_name, sub_key, not_before, TSE_YEARS, None)
    return Chain((leaf, sub, root))


def load_certificates(data: bytes) -> list[x509.Certificate]:
    """Read the certificates of a file, DER or PEM by content. Raises :class:`CertificateError`."""
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificates(data)
        return [x509.load_der_x509_certificate(data)]
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateError("The file holds no X.509 certificate in DER or PEM.") from error


def is_ca(certificate: x509.Certificate) -> bool:
    """True if the certificate may sign certificates (KeyUsage keyCertSign)."""
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return False


def order_chain(leaf: x509.Certificate, others: Iterable[x509.Certificate]) -> Chain:
    """Order certificates from ``leaf`` to the last issuer found; what is not needed is left out.

    Each link is checked by its signature, not only by its name; certificates whose key cannot be read are
    skipped, as real exports hold such files.
    """
    chain = [leaf]
    remaining: list[x509.Certificate] = [certificate for certificate in others if certificate != leaf]
    while chain[-1].issuer != chain[-1].subject and len(chain) < MAX_CHAIN:
        issuer = next((candidate for candidate in remaining if issued_by(chain[-1], candidate)), None)
        if issuer is None:
            break
        chain.append(issuer)
        remaining.remove(issuer)
    return Chain(tuple(chain))


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True if ``issuer`` has the issuer's name and its key verifies ``certificate``."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def load_chain(data: Sequence[bytes]) -> Chain:
    """Read the files of one TSE's chain in any order. Raises :class:`CertificateError`.

    The leaf is the one certificate that may not sign certificates.
    """
    certificates = [certificate for file in data for certificate in load_certificates(file)]
    leaves = [certificate for certificate in certificates if not is_ca(certificate)]
    if len(leaves) != 1:
        raise CertificateError(f"A chain has one certificate of a TSE, not {len(leaves)}.")
    return order_chain(leaves[0], certificates)
