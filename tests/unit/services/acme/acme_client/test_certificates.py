"""What the client asks for, and what it takes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.x509.certificate import to_pem
from pkicore.x509.names import Names
from services.acme.acme_client.certificates import checked, names_of, request_of
from services.acme.acme_client.errors import RequestInputError, ServerAnswerError

KEY = ec.generate_private_key(ec.SECP256R1())
NAMES = Names.build(dns=["a.test"], ip=["10.0.0.1"])


def certificate(names: Names | None) -> bytes:
    """A certificate for KEY and these names, as PEM."""
    name, start = x509.Name([]), datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 1, start, datetime(2027, 1, 1, tzinfo=UTC))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names.general_names()), critical=False)
    return to_pem([builder.sign(KEY, hashes.SHA256())])


def test_names_and_addresses_are_told_apart() -> None:
    """An IPv4 or IPv6 address is asked for as such, each once."""
    assert names_of(["A.test", "10.0.0.1", "fd00::1", "a.test"]) == Names.build(
        dns=["a.test"], ip=["10.0.0.1", "fd00::1"]
    )


@pytest.mark.parametrize(
    ("name", "sentence"), [("*.a.test", "proven by DNS alone"), ("a b", "no DNS name"), ("", "1 to 253")]
)
def test_names_that_are_not_asked_for(name: str, sentence: str) -> None:
    """Wildcards and what is no name are refused before anything is made."""
    with pytest.raises(RequestInputError, match=sentence):
        names_of(["a.test", name])


@pytest.mark.parametrize("algorithm", ["ecdsa-p384", "ml-dsa-44", "ml-dsa-87"])
def test_requests_are_signed_by_their_key(algorithm: str) -> None:
    """The CSR has the names and nothing else, and its signature verifies."""
    csr = x509.load_der_x509_csr(request_of(generate_private_key(ALGORITHMS[algorithm]), NAMES))
    assert csr.is_signature_valid
    assert [list(extension.value) for extension in csr.extensions] == [NAMES.general_names()]
    assert csr.subject == x509.Name([])


def test_a_certificate_that_was_asked_for_is_taken() -> None:
    """Key and names are those of the request."""
    assert len(checked(certificate(NAMES) * 2, KEY, NAMES)) == 2


@pytest.mark.parametrize(
    ("pem", "sentence"),
    [
        (b"", "is no chain"),
        (b"-----BEGIN PRIVATE KEY-----\n", "is no chain"),
        (certificate(None), "is no chain"),
        (certificate(Names.build(dns=["a.test", "b.test"], ip=["10.0.0.1"])), "for other names"),
        (certificate(Names.build(dns=["a.test"])), "for other names"),
    ],
    ids=["nothing", "something else", "nameless", "more names", "fewer names"],
)
def test_other_certificates_are_not_taken(pem: bytes, sentence: str) -> None:
    """Nothing is put in place that was not asked for."""
    with pytest.raises(ServerAnswerError, match=sentence):
        checked(pem, KEY, NAMES)


def test_a_certificate_for_another_key_is_not_taken() -> None:
    """A server that has certified another key is not believed."""
    with pytest.raises(ServerAnswerError, match="for another key"):
        checked(certificate(NAMES), ec.generate_private_key(ec.SECP256R1()), NAMES)
