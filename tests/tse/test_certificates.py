"""The test PKI has the profile of a productive one and says what it is."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fiskal.tse.algorithms import CURVES, Curve
from fiskal.tse.certificates import (
    CertificateError,
    create_test_chain,
    is_ca,
    issued_by,
    load_certificates,
    load_chain,
)

MOMENT = dt.datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=dt.UTC)


@pytest.mark.parametrize("ca_curve", [ec.SECP384R1(), ec.BrainpoolP384R1()])
@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_profile(curve: Curve, ca_curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve.curve).public_key()
    chain = create_test_chain(key, MOMENT, ca_curve)
    leaf, sub, root = chain.certificates
    assert chain.public_key == key
    for certificate, years, ca in ((leaf, 8, False), (sub, 10, True), (root, 13, True)):
        assert "NOT CERTIFIED" in certificate.subject.rfc4514_string()
        assert certificate.not_valid_before_utc == MOMENT.replace(microsecond=0)
        assert certificate.not_valid_after_utc.year == 2024 + years
        assert isinstance(certificate.signature_hash_algorithm, hashes.SHA384)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert basic.critical
        assert usage.critical
        assert (basic.value.ca, usage.value.key_cert_sign, is_ca(certificate)) == (ca, ca, ca)
        assert usage.value.digital_signature is not ca
        certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert sub.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert issued_by(leaf, sub)
    assert issued_by(sub, root)
    assert issued_by(root, root)
    assert not issued_by(leaf, root)
    serial = leaf.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value
    assert serial == chain.serial.hex()


def test_load_chain_in_any_order_and_encoding() -> None:
    chain = create_test_chain(ec.generate_private_key(ec.SECP256R1()).public_key(), MOMENT)
    leaf, sub, root = chain.certificates
    assert load_chain([chain.pem]) == chain
    files = [root.public_bytes(Encoding.PEM), leaf.public_bytes(Encoding.DER), sub.public_bytes(Encoding.DER)]
    assert load_chain(files) == chain
    assert load_chain(files[:2]).certificates == (leaf,)


def test_what_is_no_chain() -> None:
    chain = create_test_chain(ec.generate_private_key(ec.SECP256R1()).public_key(), MOMENT)
    with pytest.raises(CertificateError):
        load_chain([])
    with pytest.raises(CertificateError):
        load_chain([chain.certificates[1].public_bytes(Encoding.PEM)])
    for data in (b"", b"x", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(CertificateError):
            load_certificates(data)
