"""No client becomes a CA, an OCSP responder or a time-stamping authority, whatever it sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from pkicore.identity import SpiffeId
from pkicore.x509.names import Names
from pkicore.x509.tbs import NO_REV_AVAIL
from services.ca.client import CaClient, CaRefusedError
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate
from tests.support.ca_world import ACME, CA, OPERATOR, CaWorld, identifiers
from tests.support.pki import PROFILES, TRUST_DOMAIN, make_csr

SIGNING = SpiffeId.service(TRUST_DOMAIN, "signing")
WORKLOAD = SpiffeId.workload(TRUST_DOMAIN, "x")
ANY_ENDPOINT = """
[[allow]]
caller = "{caller}"
service = "ca"
endpoints = ["POST /v1/certificates"]
"""
JSON = {"content-type": "application/json"}
Extension = tuple[x509.ExtensionType, bool]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A started CA without listeners."""
    opened = await (await CaWorld.open(tmp_path)).start()
    yield opened
    await opened.close()


def usage(*oids: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    """An extended key usage."""
    return x509.ExtendedKeyUsage(oids)


TEMPLATE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"), b"\x1e\x0a\0S\0u\0b\0C\0A")
WISHES: dict[str, list[Extension]] = {
    "CA": [(x509.BasicConstraints(True, None), True)],
    "CA with path length": [(x509.BasicConstraints(True, 0), False)],
    "keyCertSign": [(x509.KeyUsage(False, False, False, False, False, True, False, False, False), True)],
    "cRLSign": [(x509.KeyUsage(False, False, False, False, False, False, True, False, False), False)],
    "OCSPSigning": [(usage(ExtendedKeyUsageOID.OCSP_SIGNING), True)],
    "timeStamping": [(usage(ExtendedKeyUsageOID.TIME_STAMPING), True)],
    "codeSigning": [(usage(ExtendedKeyUsageOID.CODE_SIGNING), False)],
    "any usage": [(usage(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), False)],
    "all at once": [
        (
            usage(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.TIME_STAMPING),
            False,
        )
    ],
    "OCSPNoCheck": [(x509.OCSPNoCheck(), False)],
    "noRevAvail": [(NO_REV_AVAIL, False)],
    "name constraints": [(x509.NameConstraints([x509.DNSName("a.example")], None), False)],
    "any policy": [
        (x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)]), False)
    ],
    "a template of Windows": [(TEMPLATE, False)],
}


@pytest.mark.parametrize("caller", [ACME, OPERATOR])
@pytest.mark.parametrize("wish", list(WISHES))
async def test_wishes_of_a_csr(world: CaWorld, wish: str, caller: SpiffeId) -> None:
    """What a CSR asks for is refused, or ignored so that the certificate is the profile's in every extension."""
    key = ec.generate_private_key(ec.SECP256R1())
    plain = await world.issue("a.example", idempotency_key="plain")
    csr = make_csr(key, names=Names.build(dns=["a.example"]), extensions=WISHES[wish])
    request = CertificateRequest(csr, "server", identifiers("a.example"), "wish")
    async with world.internal(caller) as http:
        answer = await http.post("/v1/certificates", content=request.to_json(), headers=JSON)
    if answer.status_code != 201:
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:pqcpki:problem:bad-csr")
        return
    issued = IssuedCertificate.from_json(answer.content)
    assert shape(issued.certificate) == shape(plain.certificate)


def shape(pem: str) -> list[tuple[str, bool, object]]:
    """Every extension, but for the key's identifier."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return [
        (extension.oid.dotted_string, extension.critical, extension.value)
        for extension in certificate.extensions
        if extension.oid != ExtensionOID.SUBJECT_KEY_IDENTIFIER
    ]


ROLES = {name for name, profile in PROFILES.items() if profile.ca}
ROLES |= {name for name, one in PROFILES.items() if {"OCSPSigning", "timeStamping"} & set(one.extended_key_usage)}


def test_the_roles_are_there() -> None:
    """The list below is not empty by mistake."""
    assert sorted(ROLES) == ["issuing-ca", "ocsp-responder", "root", "sub-ca", "timestamping"]


@pytest.mark.parametrize(
    ("profile", "caller"),
    [
        (profile, caller)
        for profile in sorted(ROLES)
        for caller in (ACME, SIGNING, WORKLOAD, OPERATOR)
        if (profile, caller) != ("timestamping", OPERATOR)
    ],
)
async def test_profiles_by_name(world: CaWorld, profile: str, caller: SpiffeId) -> None:
    """Whoever names such a profile is forbidden, even where the policy lets it ask; operators have time-stampers."""
    for names in (Names(), Names.build(dns=["a.example"])):
        csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=names, common_name="Role")
        request = CertificateRequest(csr, profile, identifiers(*names.dns), f"{names.count}")
        async with world.internal(caller, ANY_ENDPOINT.format(caller=caller)) as http:
            with pytest.raises(CaRefusedError) as caught:
                await CaClient(http).issue(request)
        assert caught.value.kind == "forbidden"


@pytest.mark.parametrize(
    "name",
    [
        "Issuing-CA",
        "issuing-ca ",
        "issuing-ca\0",
        " root",
        "../issuing-ca",
        "server\nissuing-ca",
        "ISSUING-CA",
        "root.",
    ],
)
async def test_profile_names_are_compared_whole(world: CaWorld, name: str) -> None:
    """No other spelling of a name reaches a profile."""
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names(), common_name="Role")
    async with world.internal(OPERATOR) as http:
        with pytest.raises(CaRefusedError) as caught:
            await CaClient(http).issue(CertificateRequest(csr, name, (), "n"))
    assert caught.value.kind in {"unknown-profile", "malformed", "bad-csr"}


@pytest.mark.parametrize("renewed", ["ocsp-responder", "server"])
@pytest.mark.parametrize("profile", sorted(ROLES))
async def test_renewal_is_no_way_in(world: CaWorld, profile: str, renewed: str) -> None:
    """To renew a certificate of another profile, or of another's key, yields no certificate of a role."""
    serial = (await world.issue("a.example")).serial
    if renewed == "ocsp-responder":
        responder = world.core.responders.of(world.families["ecdsa"].issuing.id)
        serial = f"{responder.certificate.serial_number:x}"
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names(), common_name="Role")
    for caller in (ACME, SIGNING):
        async with world.internal(caller, ANY_ENDPOINT.format(caller=caller)) as http:
            with pytest.raises(CaRefusedError) as caught:
                await CaClient(http).issue(CertificateRequest(csr, profile, (), f"{profile}", renews=serial))
        assert caught.value.kind == "forbidden"


@pytest.mark.parametrize(
    "uri",
    [str(CA), f"spiffe://{TRUST_DOMAIN}/operator/admin", f"spiffe://{TRUST_DOMAIN}/service/signer-hsm"],
)
@pytest.mark.parametrize("profile", ["service", "client", "workload"])
async def test_identities_of_the_deployment(world: CaWorld, profile: str, uri: str) -> None:
    """A client's identifiers do not make it the CA, an operator or the holder of the keys."""
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names.build(uri=[uri]))
    for caller in (ACME, SIGNING, WORKLOAD):
        async with world.internal(caller, ANY_ENDPOINT.format(caller=caller)) as http:
            with pytest.raises(CaRefusedError) as caught:
                await CaClient(http).issue(CertificateRequest(csr, profile, (Identifier("uri", uri),), "i"))
        assert caught.value.kind == "forbidden"


async def test_even_an_operator_makes_no_service_of_a_workload(world: CaWorld) -> None:
    """The profile for workloads certifies SPIFFE IDs below /workload and no others."""
    for path, kind in (("/workload/a", None), ("/service/ca", "rejected-names"), ("/operator/b", "rejected-names")):
        uri = f"spiffe://{TRUST_DOMAIN}{path}"
        csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names.build(uri=[uri]))
        request = CertificateRequest(csr, "workload", (Identifier("uri", uri),), path)
        async with world.internal(OPERATOR) as http:
            if kind is None:
                issued = await CaClient(http).issue(request)
                leaf = x509.load_pem_x509_certificate(issued.certificate.encode())
                assert uri.encode() in leaf.public_bytes(Encoding.DER)
                continue
            with pytest.raises(CaRefusedError) as caught:
                await CaClient(http).issue(request)
            assert caught.value.kind == kind


async def test_extensions_of_a_token_are_for_their_profile(world: CaWorld) -> None:
    """The member `extensions` of a request puts nothing into a server's certificate."""
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names.build(dns=["a.example"]))
    for oid in ("2.5.29.37", "2.5.29.19", "1.3.6.1.5.5.7.48.1.5", "1.3.6.1.4.1.57264.1.8"):
        request = CertificateRequest(csr, "server", identifiers("a.example"), oid, extensions={oid: "x"})
        async with world.internal(ACME) as http:
            with pytest.raises(CaRefusedError) as caught:
                await CaClient(http).issue(request)
        assert caught.value.kind == "profile-refused"
