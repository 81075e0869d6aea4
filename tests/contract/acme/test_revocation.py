from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.acme_client import AcmeClient, AcmeProblemError, make_csr
from tests.support.acme_server import BASE, AcmeServer, solve
from tests.support.jose_key import JoseKey, b64u

REVOKE = f"{BASE}/acme/revoke-cert"


async def issued(
    client: AcmeClient, *names: str, key: ec.EllipticCurvePrivateKey | None = None, challenge: str = "http-01"
) -> x509.Certificate:
    """A certificate of the client's."""
    csr = make_csr(names, key or ec.generate_private_key(ec.SECP256R1()))
    return (await client.obtain(names, csr, solve, challenge)).certificates[0]


def der(certificate: x509.Certificate) -> str:
    """As the payload wants it."""
    return b64u(certificate.public_bytes(serialization.Encoding.DER))


async def refused(client: AcmeClient, certificate: x509.Certificate, **how: object) -> tuple[int, str]:
    """The refusal of a revocation."""
    with pytest.raises(AcmeProblemError) as error:
        await client.revoke(certificate, **how)  # type: ignore[arg-type] # handed on
    return error.value.status, error.value.kind


@pytest.mark.requirement("rfc8555-7.6-05")
@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (None, "unspecified"),
        (0, "unspecified"),
        (1, "keyCompromise"),
        (3, "affiliationChanged"),
        (4, "superseded"),
        (5, "cessationOfOperation"),
        (9, "privilegeWithdrawn"),
    ],
)
async def test_the_account_that_ordered(server: AcmeServer, reason: int | None, name: str) -> None:
    """The issuing account revokes with each reason a subscriber may give; the answer is 200 and empty."""
    client = await server.registered()
    certificate = await issued(client, "a.example")
    response = await client.revoke(certificate, reason)
    assert (response.status_code, response.content) == (200, b"")
    assert server.ca.revoked == {f"{certificate.serial_number:x}": name}


async def test_twice(server: AcmeServer) -> None:
    """A second revocation is alreadyRevoked, also where only the CA knew of the first."""
    client = await server.registered()
    certificate = await issued(client, "a.example")
    await client.revoke(certificate)
    assert await refused(client, certificate) == (400, "alreadyRevoked")
    elsewhere = await issued(client, "b.example")
    server.ca.revoked[f"{elsewhere.serial_number:x}"] = "superseded"
    assert await refused(client, elsewhere) == (400, "alreadyRevoked")
    assert server.ca.revoked[f"{elsewhere.serial_number:x}"] == "superseded"


@pytest.mark.requirement("rfc8555-7.6-02")
@pytest.mark.parametrize("reason", [-1, 2, 6, 7, 8, 10, 11, 10**30, "1", "keyCompromise", True, None, 1.5, [1]])
async def test_reasons_that_are_refused(server: AcmeServer, reason: object) -> None:
    """Reasons of CAs, holds, delta CRLs and other types are badRevocationReason, and nothing is revoked."""
    client = await server.registered()
    certificate = await issued(client, "a.example")
    response = await client.post_raw(REVOKE, {"certificate": der(certificate), "reason": reason})
    assert (response.status_code, response.json()["type"].rsplit(":")[-1]) == (400, "badRevocationReason")
    assert not server.ca.revoked


@pytest.mark.requirement("rfc8555-7.6-07", "rfc8555-6.2-13", "rfc8555-7.6-04")
async def test_the_certificates_own_key(server: AcmeServer) -> None:
    """Whoever holds the certificate's key revokes it without an account; another key does not."""
    client, stranger = await server.registered(), server.client()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = await issued(client, "a.example", key=key)
    other = ec.generate_private_key(ec.SECP256R1())
    assert await refused(stranger, certificate, certificate_key=other) == (403, "unauthorized")
    response = await stranger.revoke(certificate, 1, certificate_key=key)
    assert (response.status_code, response.content) == (200, b"")
    assert server.ca.revoked == {f"{certificate.serial_number:x}": "keyCompromise"}


@pytest.mark.requirement("rfc8555-7.6-04")
async def test_the_account_key_as_jwk_is_no_account(server: AcmeServer) -> None:
    """An account key that comes as jwk is judged as a certificate key, and is none."""
    client = await server.registered()
    certificate = await issued(client, "a.example")
    response = await client.post_raw(REVOKE, {"certificate": der(certificate)}, use_jwk=True)
    assert response.status_code == 403


@pytest.mark.requirement("rfc8555-7.6-06")
async def test_another_account_with_every_name(server: AcmeServer) -> None:
    """An account that holds valid authorizations for all names may revoke; for some of them it may not."""
    owner, other = await server.registered(), await server.registered()
    certificate = await issued(owner, "a.example", "b.example")
    assert await refused(other, certificate) == (403, "unauthorized")
    await issued(other, "a.example")
    assert await refused(other, certificate) == (403, "unauthorized")
    await issued(other, "b.example")
    assert (await other.revoke(certificate)).status_code == 200


@pytest.mark.requirement("rfc8555-7.6-04")
async def test_authorizations_that_no_longer_count(server: AcmeServer) -> None:
    """Expired and deactivated authorizations, and one for the base name of a wildcard, give no right to revoke."""
    owner, other = await server.registered(), await server.registered()
    certificate = await issued(owner, "a.example")
    order = await other.new_order(["a.example"])
    await other.authorize(order, solve)
    await other.post(order.body["authorizations"][0], {"status": "deactivated"})
    assert await refused(other, certificate) == (403, "unauthorized")
    await issued(other, "a.example")
    wildcard = await issued(owner, "*.a.example", challenge="dns-01")
    assert await refused(other, wildcard) == (403, "unauthorized")
    server.clock.advance(timedelta(days=8))
    assert await refused(other, certificate) == (403, "unauthorized")


async def test_certificates_that_are_not_ours(server: AcmeServer) -> None:
    """A certificate with our serial and names but other bytes is answered like one of somebody else."""
    client, other = await server.registered(), await server.registered()
    key = ec.generate_private_key(ec.SECP256R1())
    real = await issued(client, "a.example", key=key)
    look_alike = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .serial_number(real.serial_number)
        .public_key(key.public_key())
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    answers = [
        await client.post_raw(REVOKE, {"certificate": der(look_alike)}),
        await client.post_raw(REVOKE, {"certificate": der(look_alike)}, key=JoseKey(key), use_jwk=True),
        await other.post_raw(REVOKE, {"certificate": der(real)}),
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1
    assert not server.ca.revoked


@pytest.mark.parametrize("certificate", [None, 1, "", "AAA=", "a+b/", "AAAA", ["x"], "-----BEGIN CERTIFICATE-----"])
async def test_payloads_without_a_certificate(server: AcmeServer, certificate: object) -> None:
    """What is no base64url DER of ours is refused and never a fault of the server."""
    client = await server.registered()
    response = await client.post_raw(REVOKE, {"certificate": certificate})
    assert response.status_code in {400, 403}


async def test_a_ca_that_is_away(server: AcmeServer) -> None:
    """Where the CA cannot be reached nothing is claimed: serverInternal with Retry-After, and it works later."""
    client = await server.registered()
    certificate = await issued(client, "a.example")
    server.ca.away = True
    response = await client.post_raw(REVOKE, {"certificate": der(certificate)})
    assert (response.status_code, response.headers["retry-after"]) == (500, "5")
    assert response.json()["type"].endswith(":serverInternal")
    server.ca.away = False
    assert (await client.revoke(certificate)).status_code == 200
