from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import rfc3161_client
from cryptography import x509
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import BadCertificateError, BadSignatureError, KeyUnavailableError, TimestampRefusedError
from pkicore.tsp import MessageImprint, TimeStampRequest, VerifiedTimestamp, token_of, verify_response
from pkicore.x509.certificate import to_pem
from services.chassis.asgi import Application
from services.chassis.observability import HttpMetrics
from services.chassis.problems import ProblemTable
from services.signing.timestamps import (
    DEFAULT_POLICY,
    PATH,
    Serials,
    TimestampAuthority,
    TimestampPolicy,
    routes,
)
from tests.support.openssl import openssl
from tests.support.pki import MemoryKey
from tests.support.signing_pki import CODE_SIGNING, TIME_STAMPING
from tests.support.sigstore_world import Counter, SigstoreWorld

DATA = b"signature bytes"
IMPRINT = MessageImprint.of("sha256", hashlib.sha256(DATA).digest())
SHA256, SHA224 = bytes.fromhex("608648016503040201"), bytes.fromhex("608648016503040204")
QUERY = {"content-type": "application/timestamp-query"}


class BrokenKey(MemoryKey):
    """A key whose signer answers what it is told to.

    Attributes:
        answer: a signature, or the error instead of one.
    """

    answer: bytes | Exception = b"garbage"

    async def sign(self, message: bytes) -> bytes:
        """The answer, whatever the message."""
        assert message
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def authority(world: SigstoreWorld, key: MemoryKey | None = None) -> TimestampAuthority:
    """The world's, with a policy of its own and an accuracy of two and a half seconds."""
    return TimestampAuthority(
        key or MemoryKey(world.tsa.private_key),
        (world.tsa.certificate, world.issuing.certificate, world.root.certificate),
        policy=TimestampPolicy("1.2.3.4", timedelta(seconds=2, milliseconds=500)),
        serials=Serials(Counter()),
        clock=world.clock,
    )


async def stamped(tsa: TimestampAuthority, request: TimeStampRequest) -> VerifiedTimestamp:
    """What the authority answers, verified."""
    return verify_response(await tsa.answer(request.to_der()), request, authority=tsa.chain[0])


async def test_a_request_is_answered_by_its_own_terms() -> None:
    """Imprint, nonce and policy are those of the request; time, accuracy and policy those of the authority."""
    world = SigstoreWorld()
    found = await stamped(authority(world), TimeStampRequest(IMPRINT, "1.2.3.4", 2**64 + 1, certificates=True))
    assert (found.imprint, found.nonce, found.policy) == (IMPRINT, 2**64 + 1, "1.2.3.4")
    assert found.gen_time == world.clock.now()
    assert found.accuracy == timedelta(seconds=2, milliseconds=500)
    assert set(found.certificates) == {world.tsa.certificate, world.issuing.certificate}


async def test_certificates_come_only_where_they_are_wanted() -> None:
    """Without certReq there are none in the token (RFC 3161 §2.4.1), and never the root."""
    found = await stamped(authority(SigstoreWorld()), TimeStampRequest(IMPRINT))
    assert found.certificates == ()


async def test_the_service_s_own_stamps_bring_the_certificate() -> None:
    """What goes into bundles is over the SHA-256 of the octets given, and verifies without further files."""
    world = SigstoreWorld()
    response = await authority(world).timestamp(DATA)
    found = verify_response(response, TimeStampRequest(IMPRINT, certificates=True))
    assert found.certificate == world.tsa.certificate


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        (b"", "badDataFormat"),
        (b"\x30\x80", "badDataFormat"),
        (b"0" * 5000, "badDataFormat"),
        (TimeStampRequest(IMPRINT, "1.2.3.5").to_der(), "unacceptedPolicy"),
        (TimeStampRequest(IMPRINT).to_der().replace(SHA256, SHA224), "badAlg"),
        (TimeStampRequest(IMPRINT).to_der().replace(b"\x02\x01\x01", b"\x02\x01\x02", 1), "badRequest"),
    ],
)
async def test_refusals_have_the_names_of_rfc_3161(query: bytes, failure: str) -> None:
    """Whatever is wrong with a request is answered with its PKIFailureInfo, and nothing is signed."""
    world = SigstoreWorld()
    response = await authority(world, BrokenKey(world.tsa.private_key)).answer(query)
    with pytest.raises(TimestampRefusedError) as refused:
        token_of(response)
    assert refused.value.failure == failure


async def test_a_clock_that_goes_back_stops_the_authority() -> None:
    """Times may waver by the accuracy that is promised; beyond that there are none until the clock has caught up."""
    world = SigstoreWorld()
    tsa = authority(world)
    await tsa.timestamp(DATA)
    world.clock.advance(timedelta(seconds=-2))
    await tsa.timestamp(DATA)
    world.clock.advance(timedelta(seconds=-1))
    with pytest.raises(TimestampRefusedError) as refused:
        await tsa.timestamp(DATA)
    assert refused.value.failure == "timeNotAvailable"
    world.clock.advance(timedelta(seconds=3))
    await tsa.timestamp(DATA)


async def test_an_expired_authority_says_nothing() -> None:
    """A time that no verifier would believe is not signed."""
    world = SigstoreWorld()
    tsa = authority(world)
    world.clock.advance(timedelta(days=366))
    with pytest.raises(TimestampRefusedError, match="not in force"):
        await tsa.timestamp(DATA)


async def test_serials_are_never_used_twice() -> None:
    """Concurrent requests and restarts alike get serials of their own, which rise, with one write for each block."""
    store = Counter()
    first = Serials(store, block=8)
    found = await asyncio.gather(*(first.take() for _ in range(20)))
    assert found == list(range(1, 21))
    assert store.reserved == 24
    restarted = Serials(store, block=8)
    assert await restarted.take() == 25


async def test_what_the_signer_answers_is_verified_before_it_leaves() -> None:
    """A signer that answers garbage, or another key's signature, makes no token."""
    world = SigstoreWorld()
    key = BrokenKey(world.tsa.private_key)
    tsa = authority(world, key)
    with pytest.raises(BadSignatureError):
        await tsa.timestamp(DATA)


@pytest.mark.parametrize(
    "wrong", ["purpose", "not critical", "another key", "lone", "no root", "another root", "expired"]
)
def test_an_authority_that_nobody_would_believe_does_not_start(wrong: str) -> None:
    """Certificate, key and chain are checked at start, by what verifiers demand."""
    world = SigstoreWorld()
    key, chain = MemoryKey(world.tsa.private_key), list(world.timestamps.chain)
    if wrong == "purpose":
        chain[0] = world.certify(key.private_key)[0]
    elif wrong == "not critical":
        chain = [world.leaf(key.private_key, [(TIME_STAMPING, False)]), world.root.certificate]
    elif wrong == "another key":
        key = MemoryKey(generate_private_key(ALGORITHMS["ecdsa-p256"]))
    elif wrong == "lone":
        chain = chain[:1]
    elif wrong == "no root":
        chain = chain[:2]
    elif wrong == "another root":
        chain[2] = SigstoreWorld().root.certificate
    else:
        world.clock.advance(timedelta(days=400))
    with pytest.raises(BadCertificateError):
        TimestampAuthority(
            key, chain, policy=TimestampPolicy(DEFAULT_POLICY), serials=Serials(Counter()), clock=world.clock
        )


def test_a_certificate_for_more_than_time_stamping_does_not_start() -> None:
    """RFC 3161 §2.3: the one extended usage, critically, and no other beside it."""
    world = SigstoreWorld()
    both = x509.ExtendedKeyUsage([*TIME_STAMPING, *CODE_SIGNING])
    chain = (world.leaf(world.tsa.private_key, [(both, True)]), world.root.certificate)
    with pytest.raises(BadCertificateError, match="alone"):
        TimestampAuthority(
            MemoryKey(world.tsa.private_key),
            chain,
            policy=TimestampPolicy(DEFAULT_POLICY),
            serials=Serials(Counter()),
            clock=world.clock,
        )


async def test_openssl_verifies_the_reply_to_its_own_query(tmp_path: Path) -> None:
    """`openssl ts -query` asks and `openssl ts -verify` believes, with the root alone as trust."""
    world = SigstoreWorld()
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "root.pem").write_bytes(to_pem([world.root.certificate]))
    openssl("ts", "-query", "-data", tmp_path / "data", "-sha512", "-cert", "-out", tmp_path / "query")
    (tmp_path / "reply").write_bytes(await authority(world).answer((tmp_path / "query").read_bytes()))
    files = ("-queryfile", tmp_path / "query", "-in", tmp_path / "reply", "-CAfile", tmp_path / "root.pem")
    assert "Verification: OK" in openssl("ts", "-verify", *files)
    assert "Accuracy: 0x02 seconds, 0x01F4 millis" in openssl("ts", "-reply", "-in", tmp_path / "reply", "-text")


async def test_rfc3161_client_believes_the_default_policy() -> None:
    """Sigstore's client reads the token, policy identifier of the arc for examples included."""
    world = SigstoreWorld()
    theirs = rfc3161_client.TimestampRequestBuilder().data(DATA).nonce(nonce=True).build()
    response = rfc3161_client.decode_timestamp_response(await world.timestamps.answer(theirs.as_bytes()))
    verifier = (
        rfc3161_client.VerifierBuilder.from_request(theirs)
        .policy_id(x509.ObjectIdentifier(DEFAULT_POLICY))
        .tsa_certificate(world.tsa.certificate)
        .add_intermediate_certificate(world.issuing.certificate)
        .add_root_certificate(world.root.certificate)
        .build()
    )
    assert verifier.verify_message(response, DATA)
    with pytest.raises(rfc3161_client.VerificationError):
        verifier.verify_message(response, DATA + b"!")


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[httpx.AsyncClient, BrokenKey, SigstoreWorld]]:
    """The authority behind the service's frame."""
    world = SigstoreWorld()
    key = BrokenKey(world.tsa.private_key)
    problems = ProblemTable({})
    application = Application(
        "signing", routes(authority(world, key)), problems=problems, metrics=HttpMetrics(CollectorRegistry())
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="https://tsa") as client:
        yield client, key, world


async def test_the_endpoint_answers_by_its_media_types() -> None:
    """A query of the right type gets a reply of the right type, which nothing may keep."""
    world = SigstoreWorld()
    application = Application(
        "signing", routes(authority(world)), problems=ProblemTable({}), metrics=HttpMetrics(CollectorRegistry())
    )
    request = TimeStampRequest(IMPRINT, nonce=7)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="https://tsa") as client:
        response = await client.post(PATH, content=request.to_der(), headers=QUERY)
        assert response.headers["content-type"] == "application/timestamp-reply"
        assert response.headers["cache-control"] == "no-store"
        verify_response(response.content, request, authority=world.tsa.certificate)
        refused = await client.post(PATH, content=b"nonsense", headers=QUERY)
        assert refused.status_code == 200
        with pytest.raises(TimestampRefusedError):
            token_of(refused.content)


async def test_what_is_no_query_never_reaches_the_authority(
    endpoint: tuple[httpx.AsyncClient, BrokenKey, SigstoreWorld],
) -> None:
    """Another type, another method and a body that is too long are the frame's to refuse."""
    client, _, _ = endpoint
    assert (await client.post(PATH, content=b"x", headers={"content-type": "text/plain"})).status_code == 415
    assert (await client.post(PATH, content=b"x" * 4097, headers=QUERY)).status_code == 413
    assert (await client.get(PATH)).status_code == 405


async def test_a_signer_that_is_down_is_no_answer(
    endpoint: tuple[httpx.AsyncClient, BrokenKey, SigstoreWorld],
) -> None:
    """Where the key cannot be used, the client gets an HTTP error without a word of why, and no half-made token."""
    client, key, _ = endpoint
    key.answer = KeyUnavailableError("signer-hsm at 10.0.0.7 does not answer")
    response = await client.post(PATH, content=TimeStampRequest(IMPRINT).to_der(), headers=QUERY)
    assert response.status_code == 500
    assert b"10.0.0.7" not in response.content
