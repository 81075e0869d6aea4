from __future__ import annotations

from functools import cache
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import NameOID

from tests.support.acme_client import AcmeProblemError, make_csr
from tests.support.acme_orders import csr_for, new_key, ready_order
from tests.support.acme_server import AcmeServer, solve
from tests.support.jose_key import b64u


@cache
def hostile_csrs() -> dict[str, bytes]:
    """CSRs that must not reach the CA, for an order of a.example."""
    key = new_key()
    good = make_csr(["a.example"], key)
    san = [x509.DNSName("a.example")]

    def built(*extra: x509.GeneralName, common_name: str = "", basic: x509.BasicConstraints | None = None) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        builder = builder.add_extension(x509.SubjectAlternativeName([*san, *extra]), critical=False)
        if basic:
            builder = builder.add_extension(basic, critical=True)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    return {
        "another name": csr_for("b.example"),
        "one name more": csr_for("a.example", "b.example"),
        "wildcard": csr_for("*.a.example"),
        "no name": x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER),
        "foreign common name": built(common_name="evil.example"),
        "common name that is no host": built(common_name="Administrator"),
        "an address": built(x509.IPAddress(ip_address("10.0.0.1"))),
        "an e-mail address": built(x509.RFC822Name("a@example.com")),
        "a URI": built(x509.UniformResourceIdentifier("spiffe://pqcpki.internal/service/ca")),
        "a user principal name": built(x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")),
        "CA:TRUE": built(basic=x509.BasicConstraints(ca=True, path_length=None)),
        "a wrong signature": good[:-1] + bytes([good[-1] ^ 1]),
        "a weak key": make_csr(["a.example"], weak),
        "a curve for account keys only": make_csr(["a.example"], ec.generate_private_key(ec.SECP521R1())),
        "stray bytes": good + b"\0",
        "cut off": good[:-10],
        "nothing": b"",
        "a certificate's worth of zeros": bytes(1000),
        "PEM": x509.load_der_x509_csr(good).public_bytes(serialization.Encoding.PEM),
        "PEM after a space": b" " + x509.load_der_x509_csr(good).public_bytes(serialization.Encoding.PEM),
    }


@pytest.mark.requirement("rfc8555-7.4-06", "rfc8555-7.4-08", "rfc8555-7.4-09")
@pytest.mark.parametrize("what", hostile_csrs())
async def test_hostile_csrs(server: AcmeServer, what: str) -> None:
    """A CSR with other names, a bad key, a bad signature or a wish to be a CA is badCSR; the order stays ready."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.commits.clear()
    response = await client.post_raw(order.body["finalize"], {"csr": b64u(hostile_csrs()[what])})
    assert (response.status_code, response.json()["type"]) == (400, "urn:ietf:params:acme:error:badCSR")
    assert not server.ca.requests
    assert not server.commits
    assert (await client.finalize(order, csr_for("a.example"))).status == "valid"


@pytest.mark.requirement("rfc8555-7.4-05")
@pytest.mark.parametrize("payload", [{}, {"csr": 1}, {"csr": None}, {"csr": "a+b/"}, {"csr": "AAA="}, {"csr": ["x"]}])
async def test_finalize_without_a_csr(server: AcmeServer, payload: object) -> None:
    """A finalize request without an exact base64url CSR is malformed."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    response = await client.post_raw(order.body["finalize"], payload)
    assert (response.status_code, response.json()["type"]) == (400, "urn:ietf:params:acme:error:malformed")


@pytest.mark.requirement("rfc8555-11.1-02", "rfc8555-11.1-05", "rfc8555-11.1-06")
async def test_account_keys_are_no_certificate_keys(server: AcmeServer) -> None:
    """A CSR with the key of any account, one's own or another's, is badCSR."""
    client, other = await server.registered(), await server.registered()
    order = await ready_order(client, "a.example")
    for account in (client, other):
        key = account.key.private_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        with pytest.raises(AcmeProblemError, match="account") as refused:
            await client.finalize(order, make_csr(["a.example"], key))
        assert refused.value.kind == "badCSR"


@pytest.mark.requirement("rfc8555-7.4-07", "rfc8555-7.4-02")
@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        mldsa.MLDSA65PrivateKey.generate(),
    ],
    ids=["P-384", "RSA", "Ed25519", "ML-DSA-65"],
)
async def test_certificate_keys(server: AcmeServer, key: ec.EllipticCurvePrivateKey) -> None:
    """Certificates are given for keys of each family, and the common name may repeat one of the names."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], make_csr(["a.example"], key, "A.example"), solve)
    assert obtained.certificates[0].public_key() == key.public_key()
