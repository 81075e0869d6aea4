"""What is quick about OCSP, against what is strict."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product

import pytest
from cryptography import x509
from cryptography.x509 import ocsp as pyca
from hypothesis import given, settings
from hypothesis import strategies as st

from pkicore.algorithms import verify_signature
from pkicore.clock import unix
from pkicore.encoding import NULL, explicit, extension, integer, object_identifier, octet_string, sequence
from pkicore.errors import UnsupportedError
from pkicore.keys.file import FileKey
from pkicore.ocsp import (
    CertId,
    CertStatus,
    OcspRequest,
    Responder,
    ResponseTemplate,
    build_response,
    split_usual,
)
from tests.support.pki import Hierarchy, MemoryKey

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
NONCE_OID = "1.3.6.1.5.5.7.48.1.2"


def usual(cert_id: bytes, nonce: bytes) -> bytes:
    """A request for one CertID, with a nonce."""
    extensions = explicit(2, sequence(extension(NONCE_OID, octet_string(nonce))))
    return sequence(sequence(sequence(sequence(cert_id)), extensions))


async def certified(hierarchy: Hierarchy, key: MemoryKey) -> x509.Certificate:
    """A responder's certificate for this key."""
    return (await hierarchy.issue("ocsp-responder", common_name="OCSP", key=key.private_key)).certificate


class Repeated(MemoryKey):
    """Signs with what another key has signed."""

    signature = b""

    async def sign(self, message: bytes) -> bytes:
        """The signature that is known, where it is one of this message."""
        verify_signature(self.public_key, self.signature, message)
        return self.signature


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384"])
@pytest.mark.parametrize("archive", [timedelta(), timedelta(days=400)], ids=["without-archive", "archive"])
async def test_spliced_answers_are_those_of_the_builder(ecdsa: Hierarchy, algorithm: str, archive: timedelta) -> None:
    """The octets are the same for every status, size of serial and size of nonce, and cryptography reads them."""
    issuer, now = ecdsa.issuing.certificate, ecdsa.clock.now()
    key = Repeated(MemoryKey.generate(algorithm).private_key)
    certificate = await certified(ecdsa, key)
    with ThreadPoolExecutor(1) as pool:
        own = FileKey("file:/x", key.private_key, pool)
        template = ResponseTemplate(Responder.of_own_key(certificate, own, issuer), own, 3600, archive)
        statuses = (CertStatus.good(), CertStatus.revoked(now, "keyCompromise"), CertStatus.revoked(now, "unspecified"))
        for serial, nonce, status in product((1, 1 << 150), (b"n", b"n" * 32, b"n" * 90), statuses):
            cert_id, known = CertId.of(issuer, serial), now - 3 * SECOND
            der = template.response(cert_id.der, status.encode(), nonce, this_update=unix(known), produced_at=unix(now))
            key.signature = pyca.load_der_ocsp_response(der).signature
            assert der == await build_response(
                Responder(certificate, key, issuer),
                [(cert_id, status)],
                this_update=known,
                next_update=known + HOUR,
                nonce=nonce,
                produced_at=now,
                archive_cutoff=now - archive if archive else None,
            )


async def test_a_spliced_answer_ends_with_its_responder(ecdsa: Hierarchy) -> None:
    """Its nextUpdate is never after the end of the responder's certificate."""
    key = MemoryKey.generate("ecdsa-p256")
    certificate = await certified(ecdsa, key)
    end = unix(certificate.not_valid_after_utc)
    with ThreadPoolExecutor(1) as pool:
        own = FileKey("file:/x", key.private_key, pool)
        responder = Responder.of_own_key(certificate, own, ecdsa.issuing.certificate)
        template = ResponseTemplate(responder, own, 3600, timedelta())
        cert_id = CertId.of(ecdsa.issuing.certificate, 5).der
        der = template.response(cert_id, CertStatus.good().encode(), b"n", this_update=end - 60, produced_at=end - 50)
    assert pyca.load_der_ocsp_response(der).next_update_utc == certificate.not_valid_after_utc


async def test_only_a_proven_key_is_spliced_with(ecdsa: Hierarchy) -> None:
    """Others are verified after each signature, which a template does not do."""
    responder = await ecdsa.responder()
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(responder.key, MemoryKey)
        own = FileKey("file:/x", responder.key.private_key, pool)
        with pytest.raises(UnsupportedError):
            ResponseTemplate(responder, own, 3600, timedelta())


@pytest.mark.parametrize("size", [1, 16, 32, 75, 76, 77, 96])
@pytest.mark.parametrize("serial", [1, 200, 1 << 155])
@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_usual_requests_are_cut_as_they_are_parsed(ecdsa: Hierarchy, size: int, serial: int, hash_name: str) -> None:
    """One CertID and one nonce, of whatever size."""
    cert_id = CertId.of(ecdsa.issuing.certificate, serial, "sha1" if hash_name == "sha1" else "sha256")
    der = usual(cert_id.der, bytes(size))
    parsed = OcspRequest.parse(der)
    assert split_usual(der) == (cert_id.der, parsed.nonce) == (parsed.cert_ids[0].der, bytes(size))


ID = sequence(
    sequence(object_identifier("1.3.14.3.2.26"), NULL), octet_string(bytes(20)), octet_string(bytes(20)), integer(9)
)
USUAL = usual(ID, bytes(16))


@given(st.integers(0, len(USUAL)), st.integers(0, 3), st.binary(max_size=4))
@settings(max_examples=400, deadline=None)
def test_a_cut_never_says_what_the_parser_would_not(at: int, gone: int, put: bytes) -> None:
    """Octets are taken out and put in anywhere: what is cut with a CertID that is known is parsed alike."""
    der = USUAL[:at] + put + USUAL[at + gone :]
    found = split_usual(der)
    if found is not None and found[0] == ID:
        parsed = OcspRequest.parse(der)
        assert ([each.der for each in parsed.cert_ids], parsed.nonce) == ([ID], found[1])


@given(st.binary(max_size=300))
def test_whatever_comes_is_cut_or_not(octets: bytes) -> None:
    """Nothing is raised, and nothing is made up."""
    found = split_usual(octets)
    assert found is None or octets.endswith(found[1])
