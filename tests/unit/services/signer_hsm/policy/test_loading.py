"""What a key policy may say, how a fault is named, and what its hash is taken of."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.signer_hsm.errors import KeyPolicyError
from services.signer_hsm.policy import Policy
from services.signer_hsm.policy.loading import MAX_POLICY

TOML = """
# the order of members and comments do not matter
version = 3

[[tenants]]
id = "ca"
backends = ["hsm", "file"]
max_keys = 20
rate_per_second = 100.0
burst = 200
max_in_flight = 8

[[rules]]
id = "ca-signs"
tenant = "ca"
callers = ["spiffe://pqcpki.test/service/ca"]
acts = ["sign", "pubkey"]
keys = ["issuing-*"]
kinds = ["digest", "mu"]
valid_until = 2031-01-01T01:00:00+01:00

[[rules]]
id = "nightly"
tenant = "ca"
subjects = [{ issuer = "https://ci.test", subject = "repo:x", claims = { ref = "main", protected = true } }]
acts = ["rotate"]
keys = ["*"]
windows = [{ days = ["sat"], from = "22:00", to = "04:00" }]
approvals = 2
"""
DOCUMENT: dict[str, Any] = {
    "rules": [
        {
            "tenant": "ca",
            "id": "ca-signs",
            "acts": ["sign", "pubkey"],
            "callers": ["spiffe://pqcpki.test/service/ca"],
            "kinds": ["digest", "mu"],
            "keys": ["issuing-*"],
            "valid_until": "2031-01-01T00:00:00Z",
        },
        {
            "id": "nightly",
            "tenant": "ca",
            "subjects": [
                {"issuer": "https://ci.test", "subject": "repo:x", "claims": {"protected": True, "ref": "main"}}
            ],
            "acts": ["rotate"],
            "keys": ["*"],
            "windows": [{"days": ["sat"], "from": "22:00", "to": "04:00"}],
            "approvals": 2,
        },
    ],
    "tenants": [
        {
            "id": "ca",
            "backends": ["hsm", "file"],
            "max_keys": 20,
            "rate_per_second": 100,
            "burst": 200,
            "max_in_flight": 8,
        }
    ],
    "version": 3,
}


def changed(place: str, value: object) -> str:
    """The good policy as JSON with one member set; a dotted place, `None` removes it."""
    document: Any = copy.deepcopy(DOCUMENT)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    target = document
    for part in path:
        target = target[part]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return json.dumps(document)


def test_toml_and_json_of_one_content_are_one_policy() -> None:
    """Comments, the order of members, 100.0 for 100 and TOML's own date-times change nothing."""
    toml, as_json = Policy.load(TOML), Policy.load(json.dumps(DOCUMENT), "json")
    assert toml.sha256 == as_json.sha256
    assert toml.version == as_json.version == 3
    assert toml.tenants == as_json.tenants


def test_the_hash_is_of_canonical_json() -> None:
    """A stranger recomputes it with the standard library alone."""
    canonical = json.dumps(DOCUMENT, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert Policy.load(TOML).sha256 == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("version", 4),
        ("tenants.0.backends", ["file", "hsm"]),
        ("rules.0.keys", ["issuing-*", "*"]),
        ("rules.1.approvals", 1),
        ("rules.1.windows.0.to", "05:00"),
        ("rules.1.subjects.0.claims.ref", "next"),
    ],
)
def test_another_content_has_another_hash(place: str, value: object) -> None:
    """Whatever may change a decision changes the hash."""
    assert Policy.load(changed(place, value), "json").sha256 != Policy.load(TOML).sha256


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("colour", "red", "colour: no such member"),
        ("tenants.0.colour", "red", r"tenants\[0\]\.colour: no such member"),
        ("rules.1.windows.0.colour", "red", r"rules\[1\]\.windows\[0\]\.colour: no such member"),
        ("version", 0, "version: .*greater than or equal to 1"),
        ("version", "3", "version: .*valid integer"),
        ("version", True, "version: .*valid integer"),
        ("version", None, "version: Field required"),
        ("tenants", [], "tenants: "),
        ("tenants.0.id", "CA", r"tenants\[0\]\.id: "),
        ("tenants.0.id", "ca\n", r"tenants\[0\]\.id: "),
        ("tenants.0.id", "a" * 33, r"tenants\[0\]\.id: "),
        ("tenants.0.backends", [], r"tenants\[0\]\.backends: "),
        ("tenants.0.rate_per_second", 0, r"tenants\[0\]\.rate_per_second: "),
        ("tenants.0.rate_per_second", 1e9, r"tenants\[0\]\.rate_per_second: "),
        ("tenants.0.burst", 0, r"tenants\[0\]\.burst: "),
        ("tenants.0.max_in_flight", 0, r"tenants\[0\]\.max_in_flight: "),
        ("tenants.0.max_keys", -1, r"tenants\[0\]\.max_keys: "),
        ("tenants.0.max_keys", None, r"tenants\[0\]\.max_keys: Field required"),
        ("rules.0.id", "ca signs", r"rules\[0\]\.id: "),
        ("rules.0.tenant", "cb", r"rules\[0\]\.tenant: there is no tenant 'cb'"),
        ("rules.0.tenant", "*", r"rules\[0\]\.tenant: "),
        ("rules.1.id", "ca-signs", "rules with the same id: ca-signs"),
        ("rules.0.callers", [], r"rules\[0\]: callers, subjects or both"),
        ("rules.0.callers", ["*"], r"rules\[0\]\.callers\[0\]: .*no SPIFFE ID"),
        ("rules.0.callers", ["spiffe://pqcpki.test/*/ca"], r"rules\[0\]\.callers\[0\]: "),
        ("rules.0.callers", ["spiffe://pqcpki.test/*"], r"rules\[0\]\.callers\[0\]: "),
        ("rules.0.callers", ["spiffe://pqcpki.test/service/c*"], r"rules\[0\]\.callers\[0\]: "),
        ("rules.0.acts", [], r"rules\[0\]\.acts: "),
        ("rules.0.acts", ["*"], r"rules\[0\]\.acts\[0\]: "),
        ("rules.0.keys", ["*-issuing"], r"rules\[0\]\.keys\[0\]: "),
        ("rules.0.keys", ["a*b"], r"rules\[0\]\.keys\[0\]: "),
        ("rules.0.keys", ["**"], r"rules\[0\]\.keys\[0\]: "),
        ("rules.0.keys", [], r"rules\[0\]\.keys: "),
        ("rules.0.kinds", None, r"rules\[0\]: .*must name the payload kinds"),
        ("rules.0.kinds", ["*"], r"rules\[0\]\.kinds\[0\]: "),
        ("rules.1.kinds", ["digest"], r"rules\[1\]: kinds and schemes go with the act sign"),
        ("rules.1.schemes", ["ES256"], r"rules\[1\]: kinds and schemes go with the act sign"),
        ("rules.0.schemes", ["HS256"], r"rules\[0\]\.schemes\[0\]: "),
        ("rules.0.approvals", 1, r"rules\[0\]: approvals go with"),
        ("rules.1.approvals", 6, r"rules\[1\]\.approvals: "),
        ("rules.1.approvals", -1, r"rules\[1\]\.approvals: "),
        ("rules.0.burst", 5, r"rules\[0\]: rate_per_second and burst go together"),
        ("rules.0.valid_from", "2031-01-01T00:00:00Z", r"rules\[0\]: valid_until must be after"),
        ("rules.0.valid_until", "2031-02-30T00:00:00Z", r"rules\[0\]\.valid_until: there is no such time"),
        ("rules.0.valid_until", "2031-01-01 00:00:00", r"rules\[0\]\.valid_until: "),
        ("rules.0.valid_until", "٢031-01-01T00:00:00Z", r"rules\[0\]\.valid_until: "),
        ("rules.1.windows", [], r"rules\[1\]\.windows: "),
        ("rules.1.windows.0.days", ["saturday"], r"rules\[1\]\.windows\[0\]\.days\[0\]: "),
        ("rules.1.windows.0.from", "24:00", r"rules\[1\]\.windows\[0\]\.from: "),
        ("rules.1.windows.0.to", "22:00", r"rules\[1\]\.windows\[0\]: from and to are the same"),
        ("rules.1.subjects.0.issuer", "", r"rules\[1\]\.subjects\[0\]\.issuer: "),
        ("rules.1.subjects.0.claims.groups", ["a"], r"rules\[1\]\.subjects\[0\]\.claims\.groups"),
        ("rules.1.subjects.0.claims.share", 0.5, r"rules\[1\]\.subjects\[0\]\.claims\.share"),
    ],
)
def test_nonsense_is_refused_with_its_place(place: str, value: object, sentence: str) -> None:
    """Unknown members, wrong types, values out of bounds and members that exclude each other."""
    with pytest.raises(KeyPolicyError, match=sentence):
        Policy.load(changed(place, value), "json")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("rate_per_second = inf", "finite"),
        ("rate_per_second = nan", "finite"),
        ("valid_from = 2030-01-01", "offset"),
        ("valid_from = 2030-01-01T00:00:00", "offset"),
        ("valid_from = 2030-01-01T00:00:00.5Z", "whole seconds"),
        ("rate_per_second = 99999999999999999999", "JSON does not have"),
        ("rate_per_second = " + "9" * 5000, "cannot be read"),
        ("valid_from = 0001-01-01T00:00:00+12:00", "JSON does not have"),
    ],
)
def test_toml_values_that_json_does_not_have_are_refused(line: str, sentence: str) -> None:
    """Otherwise they would be hashed as something else than they say."""
    with pytest.raises(KeyPolicyError, match=sentence):
        Policy.load(TOML + line)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("version = ", "toml"),
        ("version = 1\nversion = 1", "toml"),
        ("{", "json"),
        ("[]", "json"),
        ('{"version": 1, "version": 2}', "json"),
        ('{"version": "\ud800"}', "json"),
        ("[" * 5000, "json"),
        ("x = " + "[" * 400 + "]" * 400, "toml"),
        ("a" * (MAX_POLICY + 1), "toml"),
    ],
)
def test_texts_that_mean_nothing_or_two_things_are_refused(text: str, form: Literal["toml", "json"]) -> None:
    """Not that format, members twice, half characters, endless nesting, too long."""
    with pytest.raises(KeyPolicyError):
        Policy.load(text, form)


def test_many_faults_are_named_in_a_short_sentence() -> None:
    """The first five places, and how many more there are."""
    text = changed("rules", [{"id": f"r{number}"} for number in range(50)])
    with pytest.raises(KeyPolicyError, match=r"and [0-9]+ more") as refused:
        Policy.load(text, "json")
    assert len(str(refused.value)) < 1000


def test_a_large_policy_loads_in_seconds() -> None:
    """Its cost grows with its length and not faster: three thousand rules, far below what a quadratic check takes."""
    began = time.process_time()
    Policy.load(changed("rules", [{**DOCUMENT["rules"][0], "id": f"r{number}"} for number in range(3000)]), "json")
    assert time.process_time() - began < 2


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_no_value_anywhere_ends_in_another_error(value: object) -> None:
    """Whatever stands where, the loader answers with a policy or with KeyPolicyError."""
    for place in ("version", "tenants", "rules.0.keys", "rules.0.callers", "rules.1.windows", "rules.1.subjects"):
        if value is None:
            continue
        try:
            Policy.load(changed(place, value), "json")
        except KeyPolicyError as error:
            assert str(error)  # noqa: PT017 - both ends are allowed
