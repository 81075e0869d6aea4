"""OCSP requests and answers, byte for byte, against cryptography and openssl."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as pyca
from hypothesis import given
from hypothesis import strategies as st

from pkicore.clock import SystemClock
from pkicore.crl import REASONS
from pkicore.encoding import integer, object_identifier, octet_string, sequence
from pkicore.errors import (
    BadSignatureError,
    PkiError,
    RevokedError,
    StaleStatusError,
    StatusUnknownError,
    UnsupportedError,
)
from pkicore.ocsp import (
    CertId,
    CertStatus,
    OcspRequest,
    Responder,
    build_request,
    build_response,
    error_response,
    issuer_hashes,
    verify_response,
)
from tests.support.pki import PROFILES, Hierarchy, Leaf, MemoryKey

HOUR = timedelta(hours=1)
NONCE_OID = "1.3.6.1.5.5.7.48.1.2"


@pytest.fixture(scope="session")
def leaf(ecdsa: Hierarchy) -> Leaf:
    """A server of the classical family."""
    return asyncio.run(ecdsa.server("a.example"))


@pytest.fixture(scope="session")
def responder(ecdsa: Hierarchy) -> Responder:
    """Its delegated responder."""
    return asyncio.run(ecdsa.responder())


@pytest.mark.parametrize("nonce", [None, b"n", b"n" * 32, b"n" * 128])
@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()], ids=["sha1", "sha256"])  # noqa: S303 - RFC 5019
def test_requests_are_those_of_cryptography(
    ecdsa: Hierarchy, leaf: Leaf, algorithm: hashes.SHA1 | hashes.SHA256, nonce: bytes | None
) -> None:
    """Our builder writes cryptography's bytes, and our parser reads them."""
    issuer = ecdsa.issuing.certificate
    builder = pyca.OCSPRequestBuilder().add_certificate(leaf.certificate, issuer, algorithm)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    theirs = builder.build()
    der = theirs.public_bytes(Encoding.DER)
    hash_name = "sha1" if isinstance(algorithm, hashes.SHA1) else "sha256"
    assert build_request(leaf.certificate, issuer, nonce=nonce, hash_name=hash_name) == der  # type: ignore[arg-type]  # one of two
    request = OcspRequest.parse(der)
    (cert_id,) = request.cert_ids
    assert request.nonce == nonce
    assert (cert_id.hash_name, cert_id.serial) == (hash_name, leaf.certificate.serial_number)
    assert (cert_id.name_hash, cert_id.key_hash) == (theirs.issuer_name_hash, theirs.issuer_key_hash)
    assert (cert_id.name_hash, cert_id.key_hash) == issuer_hashes(issuer, cert_id.hash_name)
    assert cert_id == CertId.of(issuer, leaf.certificate.serial_number, cert_id.hash_name)


def response_tbs_of_cryptography(
    responder: Responder, leaf: Leaf, status: CertStatus, nonce: bytes | None, hash_name: str
) -> pyca.OCSPResponse:
    """The same answer as cryptography's builder writes it."""
    flags = {flag.value: flag for flag in x509.ReasonFlags}
    state = {
        "good": pyca.OCSPCertStatus.GOOD,
        "revoked": pyca.OCSPCertStatus.REVOKED,
        "unknown": pyca.OCSPCertStatus.UNKNOWN,
    }[status.state]
    revoked = status.state == "revoked"
    now = leaf.certificate.not_valid_before_utc + HOUR
    builder = (
        pyca.OCSPResponseBuilder()
        .add_response(
            cert=leaf.certificate,
            issuer=responder.issuer_certificate,
            algorithm=hashes.SHA1() if hash_name == "sha1" else hashes.SHA256(),  # noqa: S303 - RFC 5019
            cert_status=state,
            this_update=now,
            next_update=now + HOUR,
            revocation_time=status.at if revoked else None,
            revocation_reason=flags[status.reason] if revoked and status.reason != "unspecified" else None,
        )
        .responder_id(pyca.OCSPResponderEncoding.HASH, responder.certificate)
        .certificates([responder.certificate])
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    key = responder.key
    assert isinstance(key, MemoryKey)
    return builder.sign(key.private_key, key.algorithm.signature_hash)


@pytest.mark.requirement("rfc8555-7.6-01")
@pytest.mark.parametrize("nonce", [None, b"n" * 32])
@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
@pytest.mark.parametrize("state", ["good", "unknown", *REASONS])
async def test_answers_are_those_of_cryptography(
    ecdsa: Hierarchy, leaf: Leaf, responder: Responder, state: str, hash_name: str, nonce: bytes | None
) -> None:
    """For every status, reason, hash and nonce our to-be-signed bytes are those of cryptography's builder."""
    now = leaf.certificate.not_valid_before_utc + HOUR
    status = {"good": CertStatus.good(), "unknown": CertStatus.unknown()}.get(state) or CertStatus.revoked(now, state)
    theirs = response_tbs_of_cryptography(responder, leaf, status, nonce, hash_name)
    cert_id = CertId.of(ecdsa.issuing.certificate, leaf.certificate.serial_number, hash_name)  # type: ignore[arg-type]  # one of two
    der = await build_response(
        responder,
        [(cert_id, status)],
        this_update=now,
        next_update=now + HOUR,
        nonce=nonce,
        produced_at=theirs.produced_at_utc,
    )
    ours = pyca.load_der_ocsp_response(der)
    assert ours.tbs_response_bytes == theirs.tbs_response_bytes
    assert ours.certificates == [responder.certificate]


async def test_a_good_answer_is_believed(hierarchy: Hierarchy) -> None:
    """Delegated, by key, in either family; what comes out is fit for stapling."""
    leaf, now = await hierarchy.server("a.example"), hierarchy.clock.now()
    der = await hierarchy.staple(leaf.certificate)
    found = verify_response(der, leaf.certificate, hierarchy.issuing.certificate, now)
    assert (found.der, found.serial) == (der, leaf.certificate.serial_number)
    assert (found.this_update, found.next_update) == (now, now + HOUR)
    assert found.produced_at == now


async def test_the_issuer_may_answer_itself(hierarchy: Hierarchy) -> None:
    """Then no certificate rides along (RFC 6960 §4.2.2.2)."""
    leaf, issuer = await hierarchy.server("a.example"), hierarchy.issuing.certificate
    der = await answer(Responder(issuer, hierarchy.issuing_key, issuer), hierarchy, leaf)
    verify_response(der, leaf.certificate, issuer, hierarchy.clock.now())
    assert pyca.load_der_ocsp_response(der).certificates == []


async def answer(
    responder: Responder, hierarchy: Hierarchy, leaf: Leaf, status: CertStatus | None = None, nonce: bytes | None = None
) -> bytes:
    """An answer about the leaf, good unless said otherwise."""
    now = hierarchy.clock.now()
    cert_id = CertId.of(hierarchy.issuing.certificate, leaf.certificate.serial_number)
    statuses = [(cert_id, status or CertStatus.good())]
    return await build_response(responder, statuses, this_update=now, next_update=now + HOUR, nonce=nonce)


async def test_bad_news(ecdsa: Hierarchy, leaf: Leaf, responder: Responder) -> None:
    """Revoked and unknown are errors of their own; so are error answers and answers about others."""
    issuer, now = ecdsa.issuing.certificate, ecdsa.clock.now()
    with pytest.raises(RevokedError) as caught:
        verify_response(
            await answer(responder, ecdsa, leaf, CertStatus.revoked(now, "superseded")), leaf.certificate, issuer, now
        )
    assert caught.value.serial == leaf.certificate.serial_number
    other = await ecdsa.server("b.example")
    for der in (
        await answer(responder, ecdsa, leaf, CertStatus.unknown()),
        await answer(responder, ecdsa, other),
        error_response("tryLater"),
    ):
        with pytest.raises(StatusUnknownError):
            verify_response(der, leaf.certificate, issuer, now)


async def test_an_answer_below_another_issuer(ecdsa: Hierarchy, mldsa: Hierarchy, leaf: Leaf) -> None:
    """The same serial below another CA is another certificate: the whole CertID must match."""
    foreign = CertId.of(mldsa.issuing.certificate, leaf.certificate.serial_number)
    now = ecdsa.clock.now()
    der = await build_response(
        await ecdsa.responder(), [(foreign, CertStatus.good())], this_update=now, next_update=now + HOUR, nonce=None
    )
    with pytest.raises(StatusUnknownError, match="other certificates"):
        verify_response(der, leaf.certificate, ecdsa.issuing.certificate, now)


async def test_times(ecdsa: Hierarchy, leaf: Leaf, responder: Responder) -> None:
    """An answer holds until its nextUpdate, not beyond, and not before it was made."""
    der, now, issuer = await answer(responder, ecdsa, leaf), ecdsa.clock.now(), ecdsa.issuing.certificate
    verify_response(der, leaf.certificate, issuer, now + HOUR - timedelta(seconds=1))
    for at in (now + HOUR, now - timedelta(minutes=30)):
        with pytest.raises(StaleStatusError):
            verify_response(der, leaf.certificate, issuer, at)


async def test_nonces(ecdsa: Hierarchy, leaf: Leaf, responder: Responder) -> None:
    """The nonce that was sent must come back; a missing or another one is a replay."""
    issuer, now = ecdsa.issuing.certificate, ecdsa.clock.now()
    der = await answer(responder, ecdsa, leaf, nonce=b"n" * 32)
    verify_response(der, leaf.certificate, issuer, now, nonce=b"n" * 32)
    for replay, nonce in ((der, b"m" * 32), (await answer(responder, ecdsa, leaf), b"n" * 32)):
        with pytest.raises(StaleStatusError, match="nonce"):
            verify_response(replay, leaf.certificate, issuer, now, nonce=nonce)


async def test_responders_that_are_none(ecdsa: Hierarchy, mldsa: Hierarchy, leaf: Leaf, responder: Responder) -> None:
    """A server certificate, another CA's delegate, an expired delegate and a detached one vouch for nothing."""
    issuer, now = ecdsa.issuing.certificate, ecdsa.clock.now()
    server = await ecdsa.server("evil.example")
    foreign = await mldsa.responder()
    for liar in (
        Responder(server.certificate, MemoryKey(server.private_key), issuer),
        Responder(foreign.certificate, foreign.key, issuer),
        Responder(ecdsa.root.certificate, ecdsa.root_key, issuer),
    ):
        with pytest.raises(BadSignatureError):
            verify_response(await answer(liar, ecdsa, leaf), leaf.certificate, issuer, now)
    detached = Responder(responder.certificate, responder.key, responder.certificate)
    with pytest.raises(BadSignatureError, match="not attached"):
        verify_response(await answer(detached, ecdsa, leaf), leaf.certificate, issuer, now)
    short = await ecdsa.issue(
        replace(PROFILES["ocsp-responder"], validity=timedelta(hours=1, minutes=10)), common_name="short"
    )
    der = await answer(Responder(short.certificate, MemoryKey(short.private_key), issuer), ecdsa, leaf)
    verify_response(der, leaf.certificate, issuer, now)
    with pytest.raises(BadSignatureError, match="not in force"):
        verify_response(der, leaf.certificate, issuer, now + timedelta(minutes=30))


async def test_a_signer_that_answers_garbage(ecdsa: Hierarchy, leaf: Leaf, responder: Responder) -> None:
    """What a stranger's key signs is noticed before it is sent."""
    with pytest.raises(BadSignatureError):
        await answer(
            Responder(responder.certificate, MemoryKey.generate("ecdsa-p256"), responder.issuer_certificate),
            ecdsa,
            leaf,
        )


async def test_several_certificates_in_one_answer(ecdsa: Hierarchy, responder: Responder) -> None:
    """Each CertID has its single response, in the order of the request, and each verifies by itself."""
    issuer, now = ecdsa.issuing.certificate, ecdsa.clock.now()
    leaves = [await ecdsa.server(f"{n}.example") for n in ("a", "b", "c")]
    ids = [CertId.of(issuer, leaf.certificate.serial_number) for leaf in leaves]
    request = OcspRequest.parse(sequence(sequence(sequence(*(sequence(found.der) for found in ids)))))
    assert list(request.cert_ids) == ids
    statuses = [CertStatus.good(), CertStatus.revoked(now, "keyCompromise"), CertStatus.good()]
    der = await build_response(
        responder,
        list(zip(request.cert_ids, statuses, strict=True)),
        this_update=now,
        next_update=now + HOUR,
        nonce=None,
    )
    assert [s.serial_number for s in pyca.load_der_ocsp_response(der).responses] == [found.serial for found in ids]
    verify_response(der, leaves[2].certificate, issuer, now)
    with pytest.raises(RevokedError):
        verify_response(der, leaves[1].certificate, issuer, now)


def test_the_certid_is_echoed_to_the_bit(ecdsa: Hierarchy) -> None:
    """A client that leaves out the NULL parameters gets its own encoding back."""
    good = CertId.of(ecdsa.issuing.certificate, 5)
    bare = sequence(
        sequence(object_identifier("1.3.14.3.2.26")),
        octet_string(good.name_hash),
        octet_string(good.key_hash),
        integer(5),
    )
    (parsed,) = OcspRequest.parse(sequence(sequence(sequence(sequence(bare))))).cert_ids
    assert parsed == good
    assert parsed.der == bare != good.der


@pytest.fixture(scope="session")
def good_answer(ecdsa: Hierarchy, leaf: Leaf, responder: Responder) -> bytes:
    """A good answer about the leaf."""
    return asyncio.run(answer(responder, ecdsa, leaf))


@given(st.integers(0, 700), st.integers(1, 255))
def test_verifying_bent_answers_is_total(ecdsa: Hierarchy, leaf: Leaf, good_answer: bytes, at: int, flip: int) -> None:
    """An answer with a byte changed is believed only if its signed part is whole; only errors of our tree come out."""
    bent = good_answer[:at] + bytes((good_answer[at] ^ flip,)) + good_answer[at + 1 :]
    try:
        found = verify_response(bent, leaf.certificate, ecdsa.issuing.certificate, ecdsa.clock.now())
    except PkiError:
        return
    ours, theirs = pyca.load_der_ocsp_response(good_answer), pyca.load_der_ocsp_response(found.der)
    assert theirs.tbs_response_bytes == ours.tbs_response_bytes


def test_error_answers() -> None:
    """RFC 6960 §4.2.1: a status and nothing else; other names do not exist."""
    assert error_response("malformedRequest").hex() == "30030a0101"
    assert error_response("unauthorized").hex() == "30030a0106"
    assert pyca.load_der_ocsp_response(error_response("tryLater")).response_status is pyca.OCSPResponseStatus.TRY_LATER
    with pytest.raises(UnsupportedError):
        error_response("successful")
    with pytest.raises(UnsupportedError):
        CertStatus.revoked(SystemClock().now(), "whim").encode()


def test_openssl_asks_and_believes(ecdsa: Hierarchy, leaf: Leaf, responder: Responder, tmp_path: Path) -> None:
    """`openssl ocsp` writes requests that we read, and believes the answers that we write, good and revoked."""
    for name, certificate in (
        ("root", ecdsa.root.certificate),
        ("issuing", ecdsa.issuing.certificate),
        ("leaf", leaf.certificate),
    ):
        (tmp_path / name).write_bytes(certificate.public_bytes(Encoding.PEM))

    def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["openssl", "ocsp", "-issuer", "issuing", "-cert", "leaf", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    for options in (["-nonce"], ["-no_nonce"], ["-sha256", "-cert", "leaf"]):
        openssl(*options, "-reqout", "request")
        asked = OcspRequest.parse((tmp_path / "request").read_bytes())
        now = ecdsa.clock.now()
        for status, word in ((CertStatus.good(), "leaf: good"), (CertStatus.revoked(now, "keyCompromise"), "revoked")):
            statuses = [(cert_id, status) for cert_id in asked.cert_ids]
            der = asyncio.run(
                build_response(responder, statuses, this_update=now, next_update=now + HOUR, nonce=asked.nonce)
            )
            (tmp_path / "response").write_bytes(der)
            shown = openssl(
                "-no_nonce", "-reqin", "request", "-respin", "response", "-CAfile", "root", "-verify_other", "issuing"
            )
            assert "Response verify OK" in shown.stderr, shown.stderr
            assert word in shown.stdout
