from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.clock import unix
from pkicore.errors import BadKeyError, ProfileError
from pkicore.identity import SpiffeId
from pkicore.x509.csr import UnverifiedCsr, VerifiedCsr
from pkicore.x509.names import Names
from services.ca.authorization import Authorizer, IssuanceRequest
from services.ca.errors import NamesError, NotAuthorisedError, UnknownProfileError, ValidityError
from services.ca.wire import CertificateRequest, Identifier
from tests.support.ca_world import ACME, CA, OPERATOR, identifiers
from tests.support.clock import ManualClock
from tests.support.pki import PROFILES, TRUST_DOMAIN, make_csr, make_hierarchy


@pytest.fixture
def clock() -> ManualClock:
    """The time."""
    return ManualClock()


@pytest.fixture
async def authorizer(clock: ManualClock) -> Authorizer:
    """The rules of a new deployment, with the ecdsa issuer alone."""
    issuer = (await make_hierarchy("ecdsa", clock)).issuing
    return Authorizer(trust_domain=TRUST_DOMAIN, profiles=PROFILES, issuers={"ecdsa": issuer}, clock=clock)


def verified(names: Names, key: str = "ecdsa-p256", common_name: str | None = None) -> VerifiedCsr:
    """A CSR that proved possession."""
    private_key = generate_private_key(ALGORITHMS[key])
    return UnverifiedCsr.parse(make_csr(private_key, names=names, common_name=common_name)).verify()


def asking(profile: str, *vouched: Identifier, not_after: int | None = None) -> CertificateRequest:
    """What a caller asks for, without its CSR."""
    return CertificateRequest(b"", profile, vouched, "key", not_after=not_after)


def spiffe(path: str, trust_domain: str = TRUST_DOMAIN) -> str:
    """A SPIFFE ID."""
    return f"spiffe://{trust_domain}{path}"


def test_a_request_cannot_be_made_past_the_rules(authorizer: Authorizer) -> None:
    """An IssuanceRequest that did not come from the rules does not exist."""
    good = authorizer.authorise(
        ACME, verified(Names.build(dns=["a.example"])), asking("server", *identifiers("a.example"))
    )
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__ if name != "seal"}
    with pytest.raises(TypeError):
        IssuanceRequest(**fields, seal=object())


def test_names_are_compared_in_canonical_form(authorizer: Authorizer) -> None:
    """Case, order, repetition and a final dot do not tell names apart."""
    csr = verified(Names.build(dns=["B.example", "a.example", "a.example."]))
    request = authorizer.authorise(ACME, csr, asking("server", *identifiers("A.EXAMPLE", "b.example")))
    assert request.names.dns == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("in_csr", "vouched"),
    [
        (Names.build(dns=["a.example", "bank.example"]), identifiers("a.example")),
        (Names.build(dns=["a.example"]), identifiers("a.example", "b.example")),
        (Names.build(dns=["a.example"]), ()),
        (Names.build(dns=["a.example"], ip=["192.0.2.1"]), identifiers("a.example")),
        (Names.build(dns=["a.example"], email=["root@a.example"]), identifiers("a.example")),
        (Names.build(dns=["a.example"], uri=[spiffe("/service/ca")]), identifiers("a.example")),
        (Names.build(dns=["*.a.example"]), identifiers("a.example")),
        (Names.build(dns=["192-0-2-1.example"]), (Identifier("ip", "192.0.2.1"),)),
    ],
)
def test_names_that_nobody_vouches_for_are_refused(
    authorizer: Authorizer, in_csr: Names, vouched: tuple[Identifier, ...]
) -> None:
    """The CSR's names are those of the request: none more, none fewer, of every type."""
    with pytest.raises(NamesError):
        authorizer.authorise(ACME, verified(in_csr), asking("server", *vouched))


def test_a_common_name_that_is_a_host_must_be_vouched_for(authorizer: Authorizer) -> None:
    """A host name cannot be slipped in through the subject."""
    csr = verified(Names.build(dns=["a.example"]), common_name="bank.example")
    with pytest.raises(NamesError, match="bank"):
        authorizer.authorise(ACME, csr, asking("server", *identifiers("a.example")))


@pytest.mark.parametrize("value", ["not a name", "a..example", "xn--", "a.example\x7f", "1.2.3.4", "*", "ä.example"])
def test_identifiers_that_are_no_names_are_refused(authorizer: Authorizer, value: str) -> None:
    """What a caller vouches for is parsed as strictly as a CSR."""
    with pytest.raises(NamesError):
        authorizer.authorise(ACME, verified(Names.build(dns=["a.example"])), asking("server", Identifier("dns", value)))


@pytest.mark.parametrize("profile", ["root", "issuing-ca", "ocsp-responder", "client"])
@pytest.mark.parametrize("caller", [ACME, SpiffeId.workload(TRUST_DOMAIN, "x")])
def test_a_caller_has_no_profile_but_its_own(authorizer: Authorizer, profile: str, caller: SpiffeId) -> None:
    """Neither the ACME server nor a workload may ask for CAs, responders or clients."""
    with pytest.raises(NotAuthorisedError):
        authorizer.authorise(caller, verified(Names(), common_name="x"), asking(profile))


@pytest.mark.parametrize("profile", ["root", "issuing-ca"])
@pytest.mark.parametrize("caller", [OPERATOR, CA])
def test_nobody_may_ask_for_a_ca(authorizer: Authorizer, profile: str, caller: SpiffeId) -> None:
    """CA certificates come from the ceremony alone."""
    with pytest.raises(NotAuthorisedError):
        authorizer.authorise(caller, verified(Names(), common_name="x"), asking(profile))


@pytest.mark.parametrize(
    "caller",
    [
        SpiffeId("other.internal", "/service/acme"),
        SpiffeId(TRUST_DOMAIN, "/service/acme/x"),
        SpiffeId(TRUST_DOMAIN, "/Service/acme"),
        SpiffeId(TRUST_DOMAIN, "/x/service/acme"),
        SpiffeId(TRUST_DOMAIN, "/operator"),
    ],
)
def test_a_caller_is_compared_whole(authorizer: Authorizer, caller: SpiffeId) -> None:
    """Another trust domain, a longer or shorter path or another case is somebody else."""
    with pytest.raises(NotAuthorisedError):
        authorizer.authorise(
            caller, verified(Names.build(dns=["a.example"])), asking("server", *identifiers("a.example"))
        )


def test_a_service_renews_its_own_identity(authorizer: Authorizer) -> None:
    """A service may have a certificate for its own SPIFFE ID."""
    request = authorizer.authorise(
        ACME, verified(Names.build(uri=[str(ACME)])), asking("service", *identifiers(uri=[str(ACME)]))
    )
    assert request.names.uri == (str(ACME),)


@pytest.mark.parametrize(
    "names",
    [
        Names.build(uri=[str(CA)]),
        Names.build(uri=[spiffe("/operator/admin")]),
        Names.build(uri=[str(ACME)], dns=["bank.example"]),
        Names.build(uri=[str(ACME)], ip=["192.0.2.1"]),
    ],
)
def test_a_service_has_nothing_beside_its_own_identity(authorizer: Authorizer, names: Names) -> None:
    """Another's SPIFFE ID, or a host name beside one's own, is refused."""
    vouched = (
        *identifiers(*names.dns, uri=names.uri),
        *(Identifier("ip", str(address)) for address in names.ip),
    )
    with pytest.raises(NotAuthorisedError):
        authorizer.authorise(ACME, verified(names), asking("service", *vouched))


@pytest.mark.parametrize(
    "uri", [spiffe("/workload/x", "other.internal"), "https://a.example/", "spiffe://pqcpki.internal/"]
)
def test_an_operator_stays_in_the_trust_domain(authorizer: Authorizer, uri: str) -> None:
    """Not even an operator gets another domain's identity, or a URI that is none."""
    with pytest.raises(NamesError):
        authorizer.authorise(OPERATOR, verified(Names.build(uri=[uri])), asking("client", *identifiers(uri=[uri])))


def test_an_operator_vouches_for_a_workload(authorizer: Authorizer) -> None:
    """An operator may have client certificates made for workloads."""
    uri = spiffe("/workload/billing")
    request = authorizer.authorise(
        OPERATOR, verified(Names.build(uri=[uri])), asking("client", *identifiers(uri=[uri]))
    )
    assert request.profile.name == "client"


def test_an_unknown_profile_is_named(authorizer: Authorizer) -> None:
    """The sentence says which profiles there are."""
    with pytest.raises(UnknownProfileError, match="server"):
        authorizer.authorise(ACME, verified(Names.build(dns=["a.example"])), asking("tls-web"))


def test_a_key_outside_the_profile_is_refused(authorizer: Authorizer) -> None:
    """The profile says which keys it takes."""
    csr = verified(Names.build(uri=[str(ACME)]), key="ed25519")
    with pytest.raises(ProfileError, match="ed25519"):
        authorizer.authorise(ACME, csr, asking("service", *identifiers(uri=[str(ACME)])))


def test_a_family_without_an_issuer_is_refused(authorizer: Authorizer) -> None:
    """A key whose issuing CA is not configured gets no certificate from another one."""
    csr = verified(Names.build(dns=["a.example"]), key="ml-dsa-44")
    with pytest.raises(UnknownProfileError, match="mldsa"):
        authorizer.authorise(ACME, csr, asking("server", *identifiers("a.example")))


def test_validity_counts_both_ends(authorizer: Authorizer, clock: ManualClock) -> None:
    """NotAfter - notBefore + 1 s is the profile's validity, and notBefore is never before the issuer's."""
    clock.advance(timedelta(days=2))
    csr = verified(Names.build(dns=["a.example"]))
    request = authorizer.authorise(ACME, csr, asking("server", *identifiers("a.example")))
    assert request.not_after - request.not_before + timedelta(seconds=1) == PROFILES["server"].validity
    assert request.not_before == clock.now() - PROFILES["server"].backdate


@pytest.mark.parametrize("days", [-1, 0, 91])
def test_an_end_that_cannot_be_given_is_refused(authorizer: Authorizer, clock: ManualClock, days: int) -> None:
    """An end in the past, now, or beyond the profile is refused instead of being cut."""
    csr = verified(Names.build(dns=["a.example"]))
    wanted = unix(clock.now() + timedelta(days=days))
    with pytest.raises(ValidityError):
        authorizer.authorise(ACME, csr, asking("server", *identifiers("a.example"), not_after=wanted))


def test_a_shorter_end_is_given_exactly(authorizer: Authorizer, clock: ManualClock) -> None:
    """An end within the profile is taken to the second."""
    wanted = unix(clock.now() + timedelta(days=5))
    csr = verified(Names.build(dns=["a.example"]))
    request = authorizer.authorise(ACME, csr, asking("server", *identifiers("a.example"), not_after=wanted))
    assert unix(request.not_after) == wanted


def test_a_curve_that_signs_csrs_but_no_certificates_is_refused_early() -> None:
    """P-521 is for account keys only."""
    with pytest.raises(BadKeyError):
        UnverifiedCsr.parse(make_csr(ec.generate_private_key(ec.SECP521R1()), names=Names.build(dns=["a.b"]))).verify()


async def test_unmixed_where_there_is_an_issuer(clock: ManualClock) -> None:
    """RSA keys have the rsa issuer where there is one, and else, as the profile says, that of ecdsa; ML-DSA its own."""
    issuers = {family: (await make_hierarchy(family, clock)).issuing for family in ("ecdsa", "mldsa")}
    rsa_issuer = replace(issuers["ecdsa"], id="issuing-rsa", family="rsa")
    both = Authorizer(trust_domain=TRUST_DOMAIN, profiles=PROFILES, issuers={**issuers, "rsa": rsa_issuer}, clock=clock)
    without = Authorizer(trust_domain=TRUST_DOMAIN, profiles=PROFILES, issuers=issuers, clock=clock)
    request, names = asking("server", *identifiers("a.example")), Names.build(dns=["a.example"])
    for key, with_rsa, without_rsa in (
        ("rsa-2048", "rsa", "ecdsa"),
        ("ecdsa-p384", "ecdsa", "ecdsa"),
        ("ed25519", "ecdsa", "ecdsa"),
        ("ml-dsa-44", "mldsa", "mldsa"),
    ):
        csr = verified(names, key)
        assert both.authorise(ACME, csr, request).issuer.family == with_rsa
        assert without.authorise(ACME, csr, request).issuer.family == without_rsa


async def test_a_profile_that_says_nothing_of_mixing_mixes_nothing(clock: ManualClock) -> None:
    """Without the family's issuer a request is refused, though another family could sign."""
    issuers = {"ecdsa": (await make_hierarchy("ecdsa", clock)).issuing}
    strict = {**PROFILES, "server": replace(PROFILES["server"], families={"rsa": ("rsa",), "mldsa": ("mldsa",)})}
    authorizer = Authorizer(trust_domain=TRUST_DOMAIN, profiles=strict, issuers=issuers, clock=clock)
    request, names = asking("server", *identifiers("a.example")), Names.build(dns=["a.example"])
    for key in ("rsa-2048", "ml-dsa-44"):
        with pytest.raises(UnknownProfileError, match="of which no issuing CA is active here"):
            authorizer.authorise(ACME, verified(names, key), request)
    with pytest.raises(ProfileError, match="takes no"):
        authorizer.authorise(ACME, verified(names), request)
