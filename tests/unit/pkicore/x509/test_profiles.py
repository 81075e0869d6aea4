"""Profiles as data."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pkicore.algorithms import ALGORITHMS
from pkicore.errors import IdentityError, ProfileError
from pkicore.identity import SpiffeId
from pkicore.x509.names import Names
from pkicore.x509.profiles import load_profiles
from tests.support.pki import PROFILES, TRUST_DOMAIN

GOOD = {
    "description": '"d"',
    "validity": '"90d"',
    "backdate": '"1h"',
    "keys": '["ecdsa-p256"]',
    "subject": '"empty"',
    "max_names": "10",
    "key_usage": '["digitalSignature"]',
    "extended_key_usage": '["serverAuth"]',
    "crl": "true",
    "ocsp": "true",
    "callers": '["/service/acme"]',
    "names": '{ dns = "allowed" }',
    "families": '{ ecdsa = "ecdsa" }',
}


def toml(**changes: str | None) -> str:
    """One profile named p; None leaves a field out."""
    fields = {**GOOD, **changes}
    return "[p]\n" + "\n".join(f"{name} = {value}" for name, value in fields.items() if value is not None)


def test_the_packaged_profiles() -> None:
    """The defaults are what the documentation promises."""
    signing = {"code-signing", "artefact-signing", "timestamping"}
    authorities = {"ocsp-responder", "root", "issuing-ca", "sub-ca"}
    assert set(PROFILES) == {"server", "service", "client", "workload", "short-lived"} | authorities | signing
    server, service, responder = PROFILES["server"], PROFILES["service"], PROFILES["ocsp-responder"]
    assert (server.validity, server.max_names) == (timedelta(days=90), 100)
    assert server.extended_key_usage == ("serverAuth",)
    assert service.extended_key_usage == ("serverAuth", "clientAuth")
    assert service.names == {"uri": "one", "dns": "allowed", "ip": "allowed", "email": "forbidden"}
    assert PROFILES["client"].extended_key_usage == ("clientAuth",)
    assert (responder.extended_key_usage, responder.ocsp_no_check) == (("OCSPSigning",), True)
    assert PROFILES["issuing-ca"].path_length == 0


def test_nobody_may_ask_for_a_ca_over_the_wire() -> None:
    """The profiles of the ceremony name no caller."""
    assert all(not profile.callers for profile in PROFILES.values() if profile.ca)


def test_the_family_follows_the_key() -> None:
    """Each family is issued by its own; RSA by ecdsa where there is no rsa issuer, ML-DSA by nothing but ML-DSA."""
    server = PROFILES["server"]
    assert [server.issuing_families(ALGORITHMS[n]) for n in ("rsa-3072", "ed25519", "ecdsa-p384", "ml-dsa-44")] == [
        ("rsa", "ecdsa"),
        ("ecdsa",),
        ("ecdsa",),
        ("mldsa",),
    ]
    with pytest.raises(ProfileError, match="rsa-2048"):
        PROFILES["service"].issuing_families(ALGORITHMS["rsa-2048"])
    with pytest.raises(ProfileError):
        server.issuing_families(ALGORITHMS["ecdsa-p521"])


def test_no_packaged_profile_mixes_where_it_need_not() -> None:
    """The first family is the key's own but for Ed25519, and no chain goes from post-quantum to classical or back."""
    for profile in PROFILES.values():
        for family, issuing in profile.families.items():
            assert family in ("eddsa", issuing[0])
            assert (family == "mldsa") == ("mldsa" in issuing)


def test_names_must_fit() -> None:
    """Types, counts and SPIFFE IDs are checked by the profile."""
    server, service = PROFILES["server"], PROFILES["service"]
    server.check_names(Names.build(dns=["a.example"], ip=["::1"]))
    server.check_names(Names.build(dns=[f"a{n}.example" for n in range(100)]))
    service.check_names(Names.build(uri=["spiffe://td/a"], dns=["localhost"]))
    PROFILES["root"].check_names(Names())
    for profile, names in (
        (server, Names()),
        (server, Names.build(uri=["spiffe://td/a"])),
        (server, Names.build(dns=["a.example"], email=["a@a.example"])),
        (server, Names.build(dns=[f"a{n}.example" for n in range(101)])),
        (service, Names.build(dns=["a.example"])),
        (service, Names.build(uri=["spiffe://td/a", "spiffe://td/b"])),
        (PROFILES["root"], Names.build(dns=["a.example"])),
    ):
        with pytest.raises(ProfileError):
            profile.check_names(names)
    with pytest.raises(IdentityError):
        service.check_names(Names.build(uri=["https://td/a"]))


def test_callers_by_exact_path_or_one_star() -> None:
    """Default deny: another path, a deeper path, another trust domain are refused."""
    server = PROFILES["server"]
    assert server.check_caller(SpiffeId.service(TRUST_DOMAIN, "acme"), TRUST_DOMAIN) == "callers /service/acme"
    assert server.check_caller(SpiffeId.operator(TRUST_DOMAIN, "alice"), TRUST_DOMAIN) == "callers /operator/*"
    for caller in (
        SpiffeId.service(TRUST_DOMAIN, "signer-hsm"),
        SpiffeId.workload(TRUST_DOMAIN, "acme"),
        SpiffeId(TRUST_DOMAIN, "/operator/a/b"),
        SpiffeId(TRUST_DOMAIN, "/operator"),
        SpiffeId.service("evil.example", "acme"),
    ):
        with pytest.raises(ProfileError, match="may not ask"):
            server.check_caller(caller, TRUST_DOMAIN)


def test_the_good_example_loads() -> None:
    """The text that the refusals below bend is itself in order."""
    profile = load_profiles(toml())["p"]
    assert profile.validity == timedelta(days=90)
    assert profile.names["uri"] == "forbidden"
    assert profile.path_length is None


def test_a_duration_is_said_in_days() -> None:
    """As people say it."""
    with pytest.raises(ProfileError, match=r"must be at most 1d$"):
        load_profiles(toml(backdate='"2d"'))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"validity": None}, "validity"),
        ({"validity": '"90"'}, "validity"),
        ({"validity": '"0d"'}, "validity"),
        ({"validity": '"99999d"'}, "validity"),
        ({"validity": "90"}, "validity"),
        ({"backdate": '"2d"'}, "backdate"),
        ({"keys": '["rsa-1024"]'}, "keys"),
        ({"keys": '["ecdsa-p521"]'}, "keys"),
        ({"keys": "[]"}, "keys"),
        ({"keys": "[1]"}, "keys"),
        ({"keys": '["ecdsa-p256", "ml-dsa-65"]'}, "families"),
        ({"subject": '"anything"'}, "subject"),
        ({"max_names": "-1"}, "max_names"),
        ({"max_names": "true"}, "max_names"),
        ({"max_names": "100000"}, "max_names"),
        ({"key_usage": '["keyAgreement"]'}, "key_usage"),
        ({"key_usage": '["keyCertSign"]'}, "key_usage"),
        ({"extended_key_usage": '["emailProtection"]'}, "extended_key_usage"),
        ({"extended_key_usage": '["codeSigning", "clientAuth"]'}, "extended_key_usage"),
        ({"extended_key_usage": '["timeStamping", "clientAuth"]'}, "extended_key_usage"),
        ({"fulcio": "true"}, "fulcio"),
        ({"sct": "1"}, "sct"),
        ({"extended_key_usage": "[]"}, "extended_key_usage"),
        ({"extended_key_usage": '["serverAuth", "OCSPSigning"]'}, "extended_key_usage"),
        ({"crl": None}, "crl"),
        ({"crl": '"yes"'}, "crl"),
        ({"ca": "true"}, "key_usage"),
        ({"path_length": "0"}, "path_length"),
        ({"ocsp_no_check": "true"}, "ocsp_no_check"),
        ({"freshest_crl": "true", "crl": "false"}, "freshest_crl"),
        ({"callers": '"/service/acme"'}, "callers"),
        ({"names": '{ host = "allowed" }'}, "names"),
        ({"names": '{ dns = "maybe" }'}, "names"),
        ({"names": "{ dns = 1 }"}, "names"),
        ({"names": "{ dns = [] }"}, "names"),
        ({"families": '{ ecdsa = "gost" }'}, "families"),
        ({"families": "{ ecdsa = [] }"}, "families"),
        ({"families": '{ ecdsa = ["ecdsa", "gost"] }'}, "families"),
        ({"families": "{ ecdsa = 1 }"}, "families"),
        ({"typo": "1"}, "typo"),
        ({"dns_suffixes": '["Corp.example"]'}, "dns_suffixes"),
        ({"dns_suffixes": '[".corp.example"]'}, "dns_suffixes"),
        ({"dns_suffixes": '["corp.example"]', "names": '{ ip = "allowed" }'}, "dns_suffixes"),
        ({"wildcards": '"no"'}, "wildcards"),
        ({"spiffe_paths": '["/workload/*"]'}, "spiffe_paths"),
        ({"spiffe_paths": '["workload"]', "names": '{ uri = "one" }'}, "spiffe_paths"),
        ({"svid": "true"}, "svid"),
        ({"svid": "true", "names": '{ uri = "one" }'}, "svid"),
        ({"svid": "true", "names": '{ uri = "one" }', "extended_key_usage": '["clientAuth"]'}, "svid"),
        ({"policies": '["anyPolicy"]'}, "policies"),
        ({"policies": '["1.2.3", "1.2.3"]'}, "policies"),
        ({"policies": '["2.5.29.32.0"]'}, "policies"),
        ({"policies": "[1]"}, "policies"),
        ({"must_staple": "true", "ocsp": "false"}, "must_staple"),
        ({"must_staple": "true", "extended_key_usage": '["clientAuth"]'}, "must_staple"),
        ({"lint": '["zlint"]'}, "lint"),
        ({"lint": '"pkilint"'}, "lint"),
        ({"key_usage": '["digitalSignature", "cRLSign"]'}, "key_usage"),
        ({"name_constraints": '{ permitted = ["dns:a.example"] }'}, "name_constraints"),
        ({"name_constraints": "[]"}, "name_constraints"),
        ({"name_constraints": '{ allowed = ["dns:a.example"] }'}, "name_constraints"),
        ({"name_constraints": '{ permitted = "dns:a.example" }'}, "name_constraints"),
        ({"name_constraints": "{ permitted = [1] }"}, "name_constraints"),
    ],
)
def test_nonsense_is_refused_by_field(changes: dict[str, Any], field: str) -> None:
    """One sentence that names the profile and the field."""
    with pytest.raises(ProfileError, match=rf"^profile p: {field}\b"):
        load_profiles(toml(**changes))


@pytest.mark.parametrize("text", ["[p", "p = 1", "[P]\na=1", "[p]", '["a b"]\na=1'])
def test_what_is_no_profile(text: str) -> None:
    """Bad TOML, a value where a table belongs, an empty table, an odd name."""
    with pytest.raises(ProfileError):
        load_profiles(text)


SHORT = {"validity": '"6d"', "crl": "false", "ocsp": "false", "no_rev_avail": "true"}


def test_short_lived_without_revocation() -> None:
    """RFC 9608: noRevAvail is taken where nothing else points to a status."""
    assert load_profiles(toml(**SHORT))["p"].no_rev_avail


@pytest.mark.parametrize(
    "changes", [{"crl": "true"}, {"ocsp": "true"}, {"crl": "true", "freshest_crl": "true"}, {"validity": '"8d"'}]
)
def test_short_lived_is_never_mixed(changes: dict[str, str]) -> None:
    """Never with a CRL, a delta or a responder, and never for longer than a week."""
    with pytest.raises(ProfileError, match=r"^profile p: no_rev_avail\b"):
        load_profiles(toml(**{**SHORT, **changes}))


AUTHORITY = {
    "ca": "true",
    "key_usage": '["keyCertSign", "cRLSign"]',
    "extended_key_usage": "[]",
    "subject": '"required"',
    "names": "{}",
    "callers": "[]",
    "ocsp": "false",
}
CONSTRAINTS = """{ permitted = ["dns:a.example", "uri:a.example", "email:.a.example"], excluded = ["ip:::/0"] }"""


def test_a_constrained_ca() -> None:
    """A CA below a root may be for some names and usages."""
    fields = {**AUTHORITY, "name_constraints": CONSTRAINTS, "extended_key_usage": '["serverAuth"]'}
    profile = load_profiles(toml(**fields))["p"]
    assert profile.name_constraints is not None
    assert len(profile.name_constraints.permitted_subtrees or ()) == 3


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"callers": '["/operator/*"]'}, "callers"),
        ({"callers": '["/service/acme"]'}, "callers"),
        ({"renewers": '["/service/signing"]'}, "callers"),
        ({"no_rev_avail": "true", "crl": "false", "validity": '"1d"'}, "no_rev_avail"),
        ({"sct": "true"}, "sct"),
        ({"extended_key_usage": '["serverAuth"]'}, "extended_key_usage"),
        ({"name_constraints": CONSTRAINTS, "extended_key_usage": '["OCSPSigning"]'}, "extended_key_usage"),
        ({"name_constraints": CONSTRAINTS, "extended_key_usage": '["timeStamping"]'}, "extended_key_usage"),
        ({"name_constraints": '{ permitted = ["dns:a.example"] }'}, "name_constraints"),
        ({"name_constraints": CONSTRAINTS.replace("dns:a", "dns:*.a")}, "name_constraints"),
        ({"name_constraints": CONSTRAINTS.replace("ip:::/0", "ip:10.0.0.1/8")}, "name_constraints"),
        ({"name_constraints": CONSTRAINTS.replace("dns:a", "host:a")}, "name_constraints"),
        ({"name_constraints": CONSTRAINTS.replace("dns:a", "dns:A")}, "name_constraints"),
    ],
)
def test_what_no_ca_may_be(changes: dict[str, str], field: str) -> None:
    """Nobody asks for a CA over the wire; it is no responder and no time-stamper, and its names are all spoken of."""
    with pytest.raises(ProfileError, match=rf"^profile p: {field}\b"):
        load_profiles(toml(**{**AUTHORITY, **changes}))


@pytest.mark.parametrize(
    ("usage", "callers"),
    [
        ("OCSPSigning", '["/service/acme"]'),
        ("OCSPSigning", '["/service/*"]'),
        ("OCSPSigning", '["/operator/*"]'),
        ("OCSPSigning", '["/service/ca", "/service/acme"]'),
        ("OCSPSigning", '["/service/ca/x"]'),
        ("timeStamping", '["/service/acme"]'),
        ("timeStamping", '["/service/*"]'),
        ("timeStamping", '["/workload/*"]'),
        ("timeStamping", '["/operator/a/b"]'),
    ],
)
def test_what_no_client_may_choose(usage: str, callers: str) -> None:
    """A profile that would let a client become a responder or a time-stamping authority is refused at start."""
    with pytest.raises(ProfileError, match=r"^profile p: callers\b"):
        load_profiles(toml(extended_key_usage=f'["{usage}"]', callers=callers))


def test_name_rules() -> None:
    """Suffixes are compared by labels, wildcards may be refused, and SPIFFE IDs have their place."""
    profile = load_profiles(toml(dns_suffixes='["corp.example"]', wildcards="false"))["p"]
    profile.check_names(Names.build(dns=["corp.example", "a.b.corp.example"]))
    for name in ("evilcorp.example", "corp.example.evil.example", "example", "*.corp.example"):
        with pytest.raises(ProfileError):
            profile.check_names(Names.build(dns=[name]))
    workload = PROFILES["workload"]
    workload.check_names(Names.build(uri=[f"spiffe://{TRUST_DOMAIN}/workload/a"]))
    for path in ("/service/ca", "/operator/admin", "/workload/a/b", "/workload"):
        with pytest.raises(ProfileError, match="SPIFFE IDs"):
            workload.check_names(Names.build(uri=[f"spiffe://{TRUST_DOMAIN}{path}"]))
