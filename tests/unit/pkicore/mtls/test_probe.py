"""How a probe calls what it sees."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from pkicore.mtls.probe import key_algorithm

AT = datetime(2026, 1, 1, tzinfo=UTC)
KEYS: dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
    "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "id-ecPublicKey": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed448": ed448.Ed448PrivateKey.generate,
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_is_called_as_our_table_calls_it(name: str) -> None:
    """A key that the table does not have, on somebody else's server, is called by its object identifier."""
    key = KEYS[name]()
    signer = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, AT, AT.replace(year=2027))
    assert key_algorithm(builder.sign(signer, hashes.SHA256())).lower() == name.lower()
