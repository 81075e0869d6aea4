"""Spliced bytes are the builder's bytes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key
from pkicore.clock import from_unix
from pkicore.errors import ProfileError
from pkicore.x509.fulcio import ISSUER_CLAIM
from pkicore.x509.names import Names
from pkicore.x509.tbs import build_tbs, common_name_of
from pkicore.x509.template import Own, Template, Templates
from tests.support.clock import ManualClock
from tests.support.pki import PROFILES, Hierarchy, make_hierarchy

KEYS = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44")
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example"]))
SERVERS = {
    "dns": st.lists(st.one_of(HOSTS, HOSTS.map("*.{}".format)), max_size=5),
    "ip": st.lists(st.ip_addresses(), max_size=3),
}
STARTS = st.integers(1_767_225_600, 2_840_140_800).map(from_unix)  # 2026 to 2059
KINDS = (
    ("server", Names.build(dns=["a.example"])),
    ("server", Names.build(ip=["::1"])),
    ("service", Names.build(uri=["spiffe://pqcpki.internal/service/a"], dns=["localhost"])),
    ("client", Names.build(uri=["spiffe://pqcpki.internal/operator/a"])),
    ("short-lived", Names.build(dns=["a.example"])),
    ("ocsp-responder", Names()),
)


@cache
def key_of(algorithm: str) -> PublicKey:
    """One key of each algorithm."""
    return generate_private_key(ALGORITHMS[algorithm]).public_key()


@cache
def family() -> Hierarchy:
    """An issuing CA whose CRL has shards."""
    made = asyncio.run(make_hierarchy("ecdsa", ManualClock()))
    return replace(made, issuing=replace(made.issuing, crl_shards=3))


def both(templates: Templates, profile: str, **fields: Any) -> tuple[bytes, bytes]:  # noqa: ANN401 -- of a certificate
    """What the templates and the builder make of the same fields."""
    chosen, issuer = PROFILES[profile], family().issuing
    spki = fields["public_key"].public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return templates.build(chosen, issuer, spki=spki, **fields), build_tbs(chosen, issuer, **fields)


TEMPLATES = Templates()  # of all examples, so that most are spliced


@settings(max_examples=40)
@given(st.integers(1, (1 << 159) - 1), STARTS, st.sampled_from(KEYS), st.fixed_dictionaries(SERVERS), st.booleans())
def test_spliced_is_built(
    serial: int,
    start: datetime,
    algorithm: str,
    names: dict[str, list[str]],
    asks: bool,  # noqa: FBT001 -- hypothesis
) -> None:
    """Whatever serial, period, key and names."""
    made = Names.build(**names)
    if made.is_empty:
        return
    fields = {"serial": serial, "not_before": start, "not_after": start + timedelta(days=90), "names": made}
    common_name = made.dns[-1] if asks and made.dns else None
    spliced, built = both(TEMPLATES, "server", public_key=key_of(algorithm), common_name=common_name, **fields)
    assert spliced == built


@pytest.mark.parametrize(("profile", "names"), KINDS)
def test_every_kind_is_learnt_from_its_first(profile: str, names: Names) -> None:
    """The template yields what it was learnt from, and then another certificate of the kind."""
    clock, key = family().clock, key_of("ecdsa-p256")
    own = Own(
        7 << 90,
        clock.now(),
        clock.now() + timedelta(days=1),
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        common_name_of(PROFILES[profile], "a.example", names),
        names,
    )
    fields = {"not_before": own.not_before, "not_after": own.not_after, "common_name": "a.example", "names": names}
    first = both(Templates(), profile, serial=own.serial, public_key=key, **fields)[1]
    template = Template.learn(first, PROFILES[profile], family().issuing, own)
    assert template is not None
    assert template.fill(own) == first
    next_key, serial = key_of("ecdsa-p256"), (7 << 90) + 3  # of the same shard
    spliced = template.fill(own._replace(serial=serial))
    assert spliced == both(Templates(), profile, serial=serial, public_key=next_key, **fields)[1]


def test_another_issuer_of_the_same_id_has_other_templates() -> None:
    """As after another reading of the settings."""
    templates, issuer = Templates(), family().issuing
    moved = replace(issuer, crl_url="http://elsewhere.example/crl")
    key = key_of("ecdsa-p256")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    now = family().clock.now()
    fields: dict[str, Any] = {
        "serial": 1 << 100,
        "not_before": now,
        "not_after": now + timedelta(days=1),
        "public_key": key,
        "common_name": None,
        "names": Names.build(dns=["a.example"]),
    }
    for each in (issuer, moved, issuer):
        tbs = templates.build(PROFILES["server"], each, spki=spki, **fields)
        assert tbs == build_tbs(PROFILES["server"], each, **fields)
        assert (b"http://elsewhere.example/crl" in tbs) == (each is moved)


def test_claims_are_the_builders() -> None:
    """They are never in a template, and no template leaves them out."""
    templates, now, names = Templates(), family().clock.now(), Names.build(uri=["https://ci.example/app"])
    key = key_of("ecdsa-p256")
    for issuer in ("https://a.example", "https://b.example"):
        fields = {"not_before": now, "not_after": now + timedelta(minutes=5), "claims": {ISSUER_CLAIM: issuer}}
        spliced, built = both(
            templates, "code-signing", serial=1 << 90, public_key=key, common_name=None, names=names, **fields
        )
        assert spliced == built
        assert issuer.encode() in spliced


def test_a_common_name_that_is_needed_is_asked_for_each_time() -> None:
    """By the template as by the builder."""
    templates, now, key = Templates(), family().clock.now(), key_of("ecdsa-p256")
    fields = {"not_before": now, "not_after": now + timedelta(days=1), "names": Names(), "public_key": key}
    both(templates, "ocsp-responder", serial=1 << 90, common_name="OCSP", **fields)
    with pytest.raises(ProfileError, match="needs a common name"):
        both(templates, "ocsp-responder", serial=1 << 90, common_name=None, **fields)
