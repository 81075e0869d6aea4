import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.identity import SpiffeId
from pkicore.x509.names import Names
from services.ca.client import (
    AlreadyRevokedError,
    BadCsrError,
    BadPublicKeyError,
    BadReasonError,
    CaClient,
    CaRefusedError,
    CaUnavailableError,
    ForbiddenError,
    IdempotencyConflictError,
    RejectedNamesError,
    UnknownCertificateError,
)
from services.ca.wire import CertificateRequest, RevocationRequest
from tests.support.ca_world import ACME, OPERATOR, CaWorld, identifiers, server_request
from tests.support.pki import TRUST_DOMAIN, make_csr

P256 = ec.SECP256R1()
JSON = {"content-type": "application/json"}
SECOND = timedelta(seconds=1)


@pytest.fixture
async def acme(world: CaWorld) -> AsyncIterator[CaClient]:
    """The CA as the ACME server calls it."""
    async with world.internal(ACME) as http:
        yield CaClient(http)


@pytest.fixture
async def operator(world: CaWorld) -> AsyncIterator[CaClient]:
    """The CA as an operator calls it."""
    async with world.internal(OPERATOR) as http:
        yield CaClient(http)


async def test_issue_look_up_revoke(acme: CaClient, operator: CaClient) -> None:
    """A certificate is issued, found good, revoked, found revoked, and told in the feed."""
    issued = await acme.issue(server_request("a.example"))
    assert (await operator.certificate(issued.serial)).status == "good"
    revoked = await acme.revoke(RevocationRequest("superseded", serial=issued.serial))
    status = await operator.certificate(issued.serial)
    assert (status.status, status.reason, status.revoked_at) == ("revoked", "superseded", revoked.revoked_at)
    feed = await acme.revocations(0)
    assert [(entry.serial, entry.reason) for entry in feed.entries] == [(issued.serial, "superseded")]
    assert feed.next == 1


async def test_a_retry_is_answered_200_with_the_same_certificate(world: CaWorld) -> None:
    """The first answer says 201, its repetition 200."""
    body = server_request("a.example").to_json()
    async with world.internal(ACME) as http:
        answers = [await http.post("/v1/certificates", content=body, headers=JSON) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].content == answers[1].content


async def test_conflicts_have_their_own_errors(acme: CaClient) -> None:
    """An idempotency key used otherwise, and a second revocation, are conflicts."""
    issued = await acme.issue(server_request("a.example"))
    with pytest.raises(IdempotencyConflictError):
        await acme.issue(server_request("b.example"))
    await acme.revoke(RevocationRequest(1, serial=issued.serial))
    with pytest.raises(AlreadyRevokedError) as caught:
        await acme.revoke(RevocationRequest(1, serial=issued.serial))
    assert (caught.value.status, caught.value.kind) == (409, "already-revoked")


async def test_refusals_have_their_own_errors(acme: CaClient) -> None:
    """Unknown certificates, reasons that do not apply and names that differ are told apart."""
    issued = await acme.issue(server_request("a.example"))
    with pytest.raises(UnknownCertificateError):
        await acme.revoke(RevocationRequest(1, serial="abcdef"))
    with pytest.raises(BadReasonError):
        await acme.revoke(RevocationRequest("removeFromCRL", serial=issued.serial))
    wanted = server_request("a.example", "bank.example", idempotency_key="2")
    with pytest.raises(RejectedNamesError, match="bank"):
        await acme.issue(CertificateRequest(wanted.csr, "server", identifiers("a.example"), "2"))


def csr_of_any_key(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """A request for a.example by a key that the algorithm table does not have."""
    names = x509.SubjectAlternativeName([x509.DNSName("a.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def hostile_csrs() -> dict[str, tuple[bytes, type[CaRefusedError]]]:
    """CSRs that must be refused, and how."""
    key = ec.generate_private_key(P256)
    names = Names.build(dns=["a.example"])
    good = make_csr(key, names=names)
    wrong_signature = bytearray(good)
    wrong_signature[-1] ^= 1
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - a weak key is what must be refused
    ca = [(x509.BasicConstraints(ca=True, path_length=None), True)]
    signing = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return {
        "empty sequence": (b"\x30\x00", BadCsrError),
        "not DER": (b"hello", BadCsrError),
        "trailing bytes": (good + b"\x00", BadCsrError),
        "wrong signature": (bytes(wrong_signature), BadCsrError),
        "CA:TRUE": (make_csr(key, names=names, extensions=ca), BadCsrError),
        "keyCertSign": (make_csr(key, names=names, extensions=[(signing, True)]), BadCsrError),
        "1024-bit RSA": (csr_of_any_key(weak), BadPublicKeyError),
        "P-521": (csr_of_any_key(ec.generate_private_key(ec.SECP521R1())), BadPublicKeyError),
        "65 KiB": (b"\x30\x83\x01\x00\x00" + bytes(65536), BadCsrError),
    }


@pytest.mark.parametrize("case", list(hostile_csrs()))
async def test_hostile_csrs_are_refused_and_nothing_is_issued(world: CaWorld, acme: CaClient, case: str) -> None:
    """Each hostile CSR gets a precise problem, a 4xx, and leaves neither intent nor certificate."""
    csr, expected = hostile_csrs()[case]
    with pytest.raises(expected) as caught:
        await acme.issue(CertificateRequest(csr, "server", identifiers("a.example"), "hostile"))
    assert 400 <= caught.value.status < 500
    assert len(caught.value.detail) > 10
    assert await world.core.store.by_idempotency_key(str(ACME), "hostile") is None


async def test_usages_of_the_csr_are_not_copied(acme: CaClient) -> None:
    """A CSR that asks for OCSP signing gets the profile's usage and no other."""
    key = ec.generate_private_key(P256)
    wanted = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.CLIENT_AUTH])
    csr = make_csr(key, names=Names.build(dns=["a.example"]), extensions=[(wanted, False)])
    issued = await acme.issue(CertificateRequest(csr, "server", identifiers("a.example"), "1"))
    leaf = x509.load_pem_x509_certificate(issued.certificate.encode())
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/certificates"),
        ("GET", "/v1/certificates/ab"),
        ("POST", "/v1/revocations"),
        ("GET", "/v1/revocations"),
        ("POST", "/v1/crls"),
        ("GET", "/v1/issuers"),
    ],
)
@pytest.mark.parametrize(
    "caller",
    [
        None,
        SpiffeId.workload(TRUST_DOMAIN, "x"),
        SpiffeId.service(TRUST_DOMAIN, "signing"),
        SpiffeId("other.internal", "/service/acme"),
        SpiffeId(TRUST_DOMAIN, "/operator/admin/x"),
    ],
)
async def test_every_endpoint_is_closed_to_strangers(
    world: CaWorld, method: str, path: str, caller: SpiffeId | None
) -> None:
    """Who is not in the policy is refused at every endpoint, before the body is looked at."""
    async with world.internal(caller) as http:
        answer = await http.request(method, path, content=b"\x00junk", headers=JSON)
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:pqcpki:problem:forbidden"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/crls"), ("GET", "/v1/issuers"), ("GET", "/v1/certificates/ab")]
)
async def test_the_acme_server_has_no_operator_endpoints(world: CaWorld, method: str, path: str) -> None:
    """The policy gives the ACME server what it needs and no more."""
    async with world.internal(ACME) as http:
        assert (await http.request(method, path, content=b"{}", headers=JSON)).status_code == 403


async def test_the_acme_server_cannot_have_another_identity(acme: CaClient) -> None:
    """A profile or a SPIFFE ID that is not the caller's is forbidden, as such."""
    uri = f"spiffe://{TRUST_DOMAIN}/service/ca"
    csr = make_csr(ec.generate_private_key(P256), names=Names.build(uri=[uri]))
    with pytest.raises(ForbiddenError):
        await acme.issue(CertificateRequest(csr, "service", identifiers(uri=[uri]), "1"))
    with pytest.raises(ForbiddenError):
        await acme.issue(CertificateRequest(csr, "client", identifiers(uri=[uri]), "1"))


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"csr": 1' + b"0" * 5000 + b"}", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/jose+json", 415),
        (b" " * 1_000_000, "application/json", 413),
    ],
)
@pytest.mark.parametrize("path", ["/v1/certificates", "/v1/revocations"])
async def test_bad_bodies_are_precise_problems(
    world: CaWorld, path: str, body: bytes, media_type: str, status: int
) -> None:
    """Junk, deep nesting, huge numbers, other media types and a megabyte are 4xx problems without a trace."""
    async with world.internal(ACME) as http:
        answer = await http.post(path, content=body, headers={"content-type": media_type})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("after", ["-1", "x", "1e3", "\u0661", "9" * 30, "1%00"])
async def test_a_feed_position_is_a_number(world: CaWorld, after: str) -> None:
    """Anything else is malformed, not an internal error."""
    async with world.internal(ACME) as http:
        assert (await http.get("/v1/revocations", params={"after": after})).status_code == 400


async def test_a_feed_request_with_many_parameters_is_malformed(world: CaWorld) -> None:
    """Nothing that a caller writes into a query is an internal error."""
    async with world.internal(ACME) as http:
        answer = await http.get("/v1/revocations?" + "x=1&" * 10)
    assert answer.status_code == 400
    assert answer.json()["type"].endswith(":malformed")


async def test_a_held_feed_request_is_answered_by_the_revocation(acme: CaClient) -> None:
    """Who waits for news gets it as it happens."""
    issued = await acme.issue(server_request("a.example"))
    waiting = asyncio.create_task(acme.revocations(0))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await acme.revoke(RevocationRequest(0, serial=issued.serial))
    async with asyncio.timeout(10):
        feed = await waiting
    assert feed.entries[0].serial == issued.serial


async def test_a_feed_request_that_does_not_wait_is_answered_at_once(acme: CaClient) -> None:
    """With wait=0 an empty page comes without delay."""
    async with asyncio.timeout(10):
        feed = await acme.revocations(0, wait=False)
    assert (feed.entries, feed.next) == ((), 0)


async def test_crls_are_published_on_demand(world: CaWorld, operator: CaClient) -> None:
    """The answer names each issuer's new number, once it is public."""
    before = {name: crl.number for name, crl in world.core.publisher.current.items() if name.startswith("issuing")}
    world.clock.advance(SECOND)
    runner = asyncio.create_task(world.core.publisher.run())
    numbers = await operator.publish_crls()
    runner.cancel()
    assert numbers == {name: number + 1 for name, number in before.items()}


async def test_issuers_are_described(world: CaWorld) -> None:
    """An operator finds the issuing CAs and where their status is."""
    async with world.internal(OPERATOR) as http:
        found = (await http.get("/v1/issuers")).json()["issuers"]
    assert [issuer["id"] for issuer in found] == ["issuing-ecdsa", "issuing-mldsa"]
    assert found[0]["crl"].endswith("/crl/issuing-ecdsa")


async def test_the_admin_api_describes_itself(world: CaWorld) -> None:
    """An operator gets the OpenAPI description, which names every admin endpoint."""
    async with world.internal(OPERATOR) as http:
        described = (await http.get("/v1/openapi.json")).json()
    assert set(described["paths"]) == {"/v1/certificates/{serial}", "/v1/crls", "/v1/issuers", "/v1/openapi.json"}


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/certificates/zz", 400, "malformed"),
        ("GET", "/v1/certificates/abcd", 404, "unknown-certificate"),
        ("GET", "/v1/nothing", 403, "forbidden"),  # by the policy, which lists neither
        ("DELETE", "/v1/issuers", 403, "forbidden"),
        ("OPTIONS", "/v1/certificates", 403, "forbidden"),
    ],
)
async def test_admin_refusals_are_problems_like_all_others(
    world: CaWorld, method: str, path: str, status: int, kind: str
) -> None:
    """What FastAPI refuses, or an admin endpoint raises, is a problem document with a request id."""
    async with world.internal(OPERATOR) as http:
        answer = await http.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["type"] == f"urn:pqcpki:problem:{kind}"
    assert answer.headers["x-request-id"]


async def test_a_client_takes_nonsense_for_unavailable() -> None:
    """An answer that is no problem document, or no JSON, says nothing about what the CA did."""
    for status, body in ((500, b"oops"), (502, b'{"type": 7'), (404, b"<html>"), (200, b"[]"), (200, b"{}")):
        transport = httpx.MockTransport(lambda _, status=status, body=body: httpx.Response(status, content=body))
        async with httpx.AsyncClient(transport=transport, base_url="https://ca") as http:
            with pytest.raises(CaUnavailableError):
                await CaClient(http).issue(server_request("a.example"))


async def test_a_certificate_is_revoked_by_its_bytes(acme: CaClient) -> None:
    """The DER travels in base64 and is compared with the ledger's bytes."""
    issued = await acme.issue(server_request("a.example"))
    der = base64.b64decode("".join(issued.certificate.splitlines()[1:-1]))
    assert (await acme.revoke(RevocationRequest("superseded", certificate=der))).serial == issued.serial
