"""Certificates of keys that stay: which one of a key's is in use, and which were before.

The settings name a first one per key, `services.signing.renewal` obtains those that follow. A new one is at hand, and
told to verifiers, long before it is used: it takes over when half of the time for renewal is left to the one before.
What the database holds is believed only where our roots, or that of the settings' own chain, vouch for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from cryptography import x509

from pkicore.errors import BadCertificateError, PkiError
from pkicore.x509.certificate import load_chain
from services.signing.chains import Chain, check_successor
from services.signing.store.certificates import StoredChain, fingerprint

_SHARE: Final = 3
"""Renewal begins in the last third of a life, however early it is wanted."""

_log = structlog.get_logger("certificates")


class CertifiedKey:
    """A key that has certificates, and the one in use.

    Args:
        key_id: TENANT.NAME.
        uri: of the key at signer-hsm, with its version where it is pinned.
        profile: of the CA, for certificates of such keys.
        configured: the chain that the settings name.
        early: how long before the end of a certificate the next one is obtained.
        taken: hears of each chain that comes into use after the first.
    """

    def __init__(
        self,
        key_id: str,
        uri: str,
        profile: str,
        configured: Chain,
        *,
        early: timedelta,
        taken: Callable[[Chain], None] = lambda _: None,
    ) -> None:
        self.key_id = key_id
        self.uri = uri
        self.profile = profile
        self.configured = configured
        self.taken = taken
        self._early = early
        self._believed: dict[str, Chain | None] = {fingerprint(configured[0]): configured}
        self._roots: Sequence[x509.Certificate] = ()
        self.every: tuple[Chain, ...] = (configured,)
        self.in_use = configured

    @property
    def newest(self) -> Chain:
        """The one of this key that ends last, whether it is used yet or not."""
        return max(self._usable(), key=lambda chain: chain[0].not_valid_after_utc)

    def renewal_due(self, now: datetime) -> bool:
        """Whether the next one is to be obtained."""
        leaf = self.newest[0]
        return now >= leaf.not_valid_after_utc - self._margin(leaf)

    def follow(self, stored: Iterable[StoredChain], roots: Sequence[x509.Certificate], now: datetime) -> None:
        """Take notice of what the database holds; what is not believed is looked at again below other roots.

        Raises:
            BadCertificateError: the authority cannot use the one whose turn it is; the former stays in use.
        """
        is_new, self._roots = self._roots != roots, roots
        for one in stored:
            if one.sha256 not in self._believed or (is_new and self._believed[one.sha256] is None):
                self._believed[one.sha256] = self._believe(one, roots)
        self.every = tuple(chain for chain in self._believed.values() if chain is not None)
        chosen = self._chosen(now)
        if chosen != self.in_use:
            self.taken(chosen)
            self.in_use = chosen
            _log.info("certificate in use", key=self.key_id, serial=f"{chosen[0].serial_number:x}")

    def _chosen(self, now: datetime) -> Chain:
        """The oldest with half of its time for renewal left, so that the next one is known before its turn."""
        begun = [chain for chain in self._usable() if chain[0].not_valid_before_utc <= now] or [self.configured]
        ordered = sorted(begun, key=lambda chain: chain[0].not_valid_after_utc)
        good = (chain for chain in ordered if now < chain[0].not_valid_after_utc - self._margin(chain[0]) / 2)
        return next(good, ordered[-1])

    def _usable(self) -> list[Chain]:
        """Those of the settings' key that are no older than the settings' own: whoever puts one there, means it."""
        first = self.configured[0]
        same = (chain for chain in self.every if chain[0].public_key() == first.public_key())
        return [chain for chain in same if chain[0].not_valid_before_utc >= first.not_valid_before_utc]

    def _margin(self, leaf: x509.Certificate) -> timedelta:
        return min(self._early, (leaf.not_valid_after_utc - leaf.not_valid_before_utc) / _SHARE)

    def _believe(self, stored: StoredChain, roots: Sequence[x509.Certificate]) -> Chain | None:
        try:
            chain = load_chain(stored.chain)
            check_successor(chain, self.configured, (*roots, self.configured[-1]))
            if fingerprint(chain[0]) != stored.sha256:
                raise BadCertificateError("it is filed under another certificate's hash")
        except PkiError as error:
            _log.error("certificate of the database not believed", key=self.key_id, error=str(error))
            return None
        return chain


class ChainsInUse(Mapping[str, Chain]):
    """The chains in use of some keys, by their ids; always the present ones."""

    def __init__(self, keys: Mapping[str, CertifiedKey]) -> None:
        self._keys = keys

    def __getitem__(self, key_id: str) -> Chain:
        return self._keys[key_id].in_use

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
