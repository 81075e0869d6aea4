"""What verifiers are told of issuing CAs: those of the trust in force, while the service runs."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from services.ca.client.trust import Trust
from services.signing.published_trust import IssuingCas, PublishedTrust
from services.signing.trusted_root import TrustedRoot
from tests.support.clock import ManualClock
from tests.support.pki import TRUST_DOMAIN, Hierarchy, make_hierarchy

BASE_URL = "https://signing.example"
CA_URL = "https://ca.example:5000"


@dataclass
class Followed:
    """The trust directory, as the service follows it."""

    current: Trust

    def be(self, *families: Hierarchy) -> None:
        """Say that these are trusted from now on."""
        self.current = trust(*families)


def trust(*families: Hierarchy) -> Trust:
    """Roots and issuing CAs."""
    issuers = {one.issuing.certificate: f"/crl/{one.issuing.id}" for one in families}
    roots = tuple(one.root.certificate for one in families)
    return Trust(roots, issuers | dict.fromkeys(roots, "/crl/root"))


def chains(root: TrustedRoot) -> list[tuple[x509.Certificate, ...]]:
    """Of the authorities in it."""
    return [one.chain for one in root.authorities]


async def test_issuing_cas_come_and_go_without_a_restart() -> None:
    """A new one is told as soon as it is trusted, an old one no more as soon as its root is not."""
    clock = ManualClock()
    old, new, quantum_safe = [await make_hierarchy(family, clock) for family in ("ecdsa", "rsa", "mldsa")]
    followed = Followed(trust(old, quantum_safe))
    published = PublishedTrust(
        TrustedRoot(), BASE_URL, TRUST_DOMAIN, issuing=IssuingCas(lambda: followed.current, CA_URL)
    )
    first, second = ((one.issuing.certificate, one.root.certificate) for one in (old, new))
    for trusted, expected in (((old, quantum_safe), [first]), ((old, new), [first, second]), ((new,), [second])):
        followed.be(*trusted)
        answered = TrustedRoot.parse(published.to_json())
        assert chains(answered) == chains(published.root) == expected
        assert {one.uri for one in answered.authorities} == {CA_URL}
        before = published.root
        followed.be(*trusted)
        assert published.root is before
