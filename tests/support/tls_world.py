"""Everything a TLS test needs at once: a PKI, a CRL publisher, and listeners and clients that fit together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pkicore.clock import SystemClock
from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL, CrlCache, TlsClient, TlsListener
from tests.support.tls_pki import TlsPki, spiffe
from tests.support.tls_server import CrlPublisher, Recorder, crl_cache, staple_cache

CA = SpiffeId.parse(spiffe("ca"))


@dataclass
class World:
    """One deployment in small: service "ca" listens, service "acme" calls.

    Attributes:
        pki: who issues.
        publisher: where CRLs come from.
        crls: the cache of both ends.
        recorder: what the listener's observer heard.
    """

    pki: TlsPki
    publisher: CrlPublisher
    crls: CrlCache
    recorder: Recorder = field(default_factory=Recorder)

    @classmethod
    async def make(cls, family: str = "mldsa") -> World:
        """A fresh one, with CRLs published and fetched."""
        pki, publisher = TlsPki.make(family), CrlPublisher()
        publisher.publish(pki)
        return cls(pki, publisher, await crl_cache(pki, publisher))

    def listener(self, **changes: Any) -> TlsListener:  # noqa: ANN401 (any field of a TlsListener)
        """A listener by the internal rules, some fields changed."""
        fields: dict[str, Any] = {
            "name": "internal",
            "credentials": self.pki.service("ca"),
            "rules": INTERNAL,
            "trust": self.pki.trust,
            "crls": self.crls,
            "staples": staple_cache(self.pki),
            "observer": self.recorder,
            "clock": SystemClock(),
        }
        return TlsListener(**{**fields, **changes})

    def client(self, **changes: Any) -> TlsClient:  # noqa: ANN401 (any field of a TlsClient)
        """A client by the internal rules, some fields changed."""
        fields: dict[str, Any] = {
            "credentials": self.pki.service("acme"),
            "rules": INTERNAL,
            "trust": self.pki.trust,
            "crls": self.crls,
            "clock": SystemClock(),
            "require_staple": True,
        }
        return TlsClient(**{**fields, **changes})

    async def revoke(self, *serials: int) -> None:
        """On the issuing CA's next CRL, published and fetched."""
        self.pki.issuing.revoked.update(serials)
        self.publisher.publish(self.pki)
        await self.crls.refresh()
