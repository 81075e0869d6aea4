"""mTLS identities belong to the tenants that the configuration says, and to no other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from pkicore.identity import SpiffeId
from services.chassis.errors import SettingsError
from services.signing.callers import Caller, CredentialError, MtlsBinding, MtlsCallers


@dataclass
class TlsPeer:
    """A verified peer as the listener hands it in."""

    spiffe_id: SpiffeId | None


def peers(*bindings: tuple[str, str]) -> MtlsCallers:
    """Callers by SPIFFE ID or pattern."""
    return MtlsCallers([MtlsBinding(spiffe_id=name, tenant=tenant) for name, tenant in bindings])


def peer(text: str) -> TlsPeer:
    """A peer of that name."""
    return TlsPeer(SpiffeId.parse(text))


def test_a_peer_is_the_caller_that_its_certificate_names() -> None:
    """By its SPIFFE ID, with nothing narrowed."""
    caller = peers(("spiffe://test/workload/build", "acme")).caller(peer("spiffe://test/workload/build"))
    assert caller == Caller("mtls", "spiffe://test/workload/build", "acme")


def test_a_full_name_goes_before_a_pattern() -> None:
    """A pattern is for those whom nobody named."""
    callers = peers(("spiffe://test/workload/*", "acme"), ("spiffe://test/workload/build", "bolt"))
    assert callers.caller(peer("spiffe://test/workload/build")).tenant == "bolt"
    assert callers.caller(peer("spiffe://test/workload/other")).tenant == "acme"


@pytest.mark.parametrize(
    "name",
    [
        "spiffe://test/workload/a/b",
        "spiffe://test/workloads/a",
        "spiffe://other/workload/a",
        "spiffe://test/workload",
        "spiffe://test/operator/a",
    ],
)
def test_a_pattern_is_one_segment(name: str) -> None:
    """Neither deeper, nor beside, nor in another trust domain."""
    with pytest.raises(CredentialError) as refused:
        peers(("spiffe://test/workload/*", "acme")).caller(peer(name))
    assert refused.value.reason == "unbound"


def test_a_certificate_without_name_is_nobody() -> None:
    """A verified chain alone is no identity."""
    with pytest.raises(CredentialError):
        peers(("spiffe://test/workload/*", "acme")).caller(TlsPeer(None))


@pytest.mark.parametrize(
    ("spiffe_id", "tenant"),
    [
        ("spiffe://test/*", "acme"),
        ("*", "acme"),
        ("spiffe://test/workload/a*", "acme"),
        ("spiffe://test/*/a", "acme"),
        ("https://test/workload", "acme"),
        ("spiffe://test/workload/a", "Acme"),
        ("spiffe://test/workload/a", "acme.release"),
        ("spiffe://test/workload/a", "acme\n"),
        ("spiffe://test/workload/a", ""),
    ],
)
def test_bindings_that_make_no_sense(spiffe_id: str, tenant: str) -> None:
    """A pattern for a whole trust domain is too wide, and a tenant's name is signer-hsm's."""
    with pytest.raises(ValidationError):
        MtlsBinding(spiffe_id=spiffe_id, tenant=tenant)


def test_one_name_twice() -> None:
    """Which tenant holds would depend on their order."""
    with pytest.raises(SettingsError, match="twice"):
        peers(("spiffe://test/workload/a", "acme"), ("spiffe://test/workload/a", "bolt"))
