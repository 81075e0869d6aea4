"""From signed bytes to certificates and chains."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, sign_with
from pkicore.errors import BadCertificateError, BadSignatureError, LintError, MalformedError, UnsupportedError
from pkicore.x509.capture import CAPTURING_KEYS
from pkicore.x509.certificate import (
    assemble,
    crl_urls,
    load_chain,
    load_der,
    self_signed_root,
    sign_certificate,
    to_pem,
    verify_issued,
)
from tests.support.pki import PROFILES, Hierarchy, MemoryKey


async def test_assembling_is_what_the_builder_does(hierarchy: Hierarchy) -> None:
    """TBS, signature and algorithm of a certificate put together again are the certificate."""
    certificate = (await hierarchy.server("a.example")).certificate
    again = assemble(certificate.tbs_certificate_bytes, certificate.signature, hierarchy.issuing_key.algorithm)
    assert again.public_bytes(Encoding.DER) == certificate.public_bytes(Encoding.DER)
    again.verify_directly_issued_by(hierarchy.issuing.certificate)


async def test_where_the_crl_of_a_certificate_is(hierarchy: Hierarchy) -> None:
    """A certificate names its issuer's CRL; a root, of which no CRL speaks, none."""
    certificate = (await hierarchy.server("a.example")).certificate
    assert crl_urls(certificate) == [hierarchy.issuing.crl_url]
    assert crl_urls(hierarchy.root.certificate) == []


async def test_verify_issued_notices_everything(ecdsa: Hierarchy, mldsa: Hierarchy) -> None:
    """Other bytes, another issuer, another algorithm and another signature are each refused."""
    leaf = (await ecdsa.server("a.example")).certificate
    tbs, issuer = leaf.tbs_certificate_bytes, ecdsa.issuing.certificate
    verify_issued(leaf, issuer, tbs)
    other = (await ecdsa.server("a.example")).certificate
    with pytest.raises(BadCertificateError, match="not the bytes"):
        verify_issued(leaf, issuer, other.tbs_certificate_bytes)
    with pytest.raises(BadCertificateError, match="another issuer"):
        verify_issued(leaf, mldsa.issuing.certificate, tbs)
    wrong_algorithm = assemble(tbs, leaf.signature, ALGORITHMS["ecdsa-p384"])
    with pytest.raises(BadCertificateError, match="algorithm"):
        verify_issued(wrong_algorithm, issuer, tbs)
    with pytest.raises(BadSignatureError):
        verify_issued(assemble(tbs, other.signature, ALGORITHMS["ecdsa-p256"]), issuer, tbs)


async def test_a_signer_that_answers_garbage(hierarchy: Hierarchy) -> None:
    """A far key that returns zeros, or signs with another key, yields no certificate."""

    class Garbage(MemoryKey):
        async def sign(self, message: bytes) -> bytes:
            return bytes(len(sign_with(self.private_key, message)))

    leaf = (await hierarchy.server("a.example")).certificate
    stranger = MemoryKey.generate(hierarchy.issuing_key.algorithm.name)
    for key in (Garbage(hierarchy.issuing_key.private_key), stranger):
        with pytest.raises(BadSignatureError):
            await sign_certificate(leaf.tbs_certificate_bytes, key, hierarchy.issuing.certificate)


async def test_a_root_must_be_a_root(ecdsa: Hierarchy) -> None:
    """A profile that gives a root an authority URL, or a key that returns garbage, makes none."""
    now = ecdsa.clock.now()
    root = await self_signed_root(PROFILES["root"], ecdsa.root_key, common_name="R", now=now)
    root.verify_directly_issued_by(root)
    assert root.not_valid_after_utc - root.not_valid_before_utc == timedelta(days=7300) - timedelta(seconds=1)
    with pytest.raises(LintError):
        await self_signed_root(replace(PROFILES["root"], crl=True), ecdsa.root_key, common_name="R", now=now)


async def test_pem_chains_there_and_back(hierarchy: Hierarchy) -> None:
    """A chain keeps its order."""
    chain = (await hierarchy.server("a.example")).chain
    assert load_chain(to_pem(chain)) == chain
    assert to_pem([chain[0]]) == chain[0].public_bytes(Encoding.PEM)


def test_chains_are_bounded_and_strict(ecdsa: Hierarchy) -> None:
    """Seventeen certificates, rubbish inside a block, or nothing at all are malformed."""
    for pem in (
        to_pem([ecdsa.root.certificate] * 17),
        b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----",
        b"",
    ):
        with pytest.raises(MalformedError):
            load_chain(pem)


def test_an_unknown_version_is_malformed(ecdsa: Hierarchy) -> None:
    """Cryptography's own exception for it does not leak."""
    der = ecdsa.root.certificate.public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    with pytest.raises(MalformedError):
        load_der(der)


@given(st.binary(max_size=100))
def test_assembling_rubbish(tbs: bytes) -> None:
    """Bytes that are no TBSCertificate make no certificate."""
    with pytest.raises(MalformedError):
        assemble(tbs, b"", ALGORITHMS["ed25519"])


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_capturing_keys_serve_every_algorithm(name: str) -> None:
    """Each is accepted by the builder, which puts the right algorithm into the bytes; none has a private half."""
    row, key = ALGORITHMS[name], CAPTURING_KEYS[name]
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(MemoryKey.generate("ed25519").public_key)
        .serial_number(1)
        .not_valid_before(moment)
        .not_valid_after(moment)
        .sign(key, row.signature_hash)  # type: ignore[arg-type]  # the table's hashes are those the builder takes
    )
    assert certificate.signature_algorithm_oid.dotted_string == row.signature_oid
    with pytest.raises(UnsupportedError, match="no private half"):
        key.public_key()
