"""A service takes up roots and issuing CAs that come and go while it runs, CRLs first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pkicore.crl import build_crl
from pkicore.errors import StaleStatusError
from pkicore.mtls import CrlCache
from pkicore.x509.certificate import to_pem
from services.ca.client.trust import ACTIVE, FollowedTrust
from services.chassis.errors import SettingsError
from tests.support.clock import ManualClock
from tests.support.pki import Hierarchy, make_hierarchy
from tests.unit.services.ca.client.test_way import deployed


class Lists:
    """A publisher of CRLs that has some and lacks others."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.ders: dict[x509.Certificate, bytes] = {}

    async def publish(self, pki: Hierarchy) -> None:
        """The first CRLs of a root and the issuing CA below it."""
        for issuer, key in ((pki.root, pki.root_key), (pki.issuing, pki.issuing_key)):
            self.ders[issuer.certificate] = await build_crl(
                issuer.certificate,
                key,
                [],
                number=1,
                this_update=self._clock.now(),
                next_update=self._clock.now() + timedelta(days=1),
                distribution_points=(),
                scope=None,
            )

    async def fetch(self, issuer: x509.Certificate) -> bytes:
        """As a CA's status listener answers."""
        return self.ders[issuer]


def write(directory: Path, name: str, pki: Mapping[str, Hierarchy]) -> None:
    """The trust files as the CA's owner keeps them; `name` is the issuing CA that issues."""
    (directory / "roots.pem").write_bytes(to_pem([item.root.certificate for item in pki.values()]))
    for family, item in pki.items():
        (directory / "issuers" / f"issuing-{family}.pem").write_bytes(to_pem([item.issuing.certificate]))
    (directory / "issuers" / ACTIVE).write_text(f"{name}\n")


async def test_a_new_issuer_counts_once_its_crl_is_there(tmp_path: Path) -> None:
    """Before that nothing known is shut out, and afterwards it is wanted like any other; what goes is forgotten."""
    clock = ManualClock()
    old, settings = await deployed(tmp_path)
    new = await make_hierarchy("mldsa", clock)
    lists, believed = Lists(clock), list[tuple[x509.Certificate, ...]]()
    await lists.publish(old)
    followed = FollowedTrust(settings)
    followed.subscribe(believed.append)
    crls = CrlCache(
        list(followed.current.crl_paths), lists.fetch, None, clock, timedelta(hours=1), on_error=lambda *_: None
    )
    await crls.refresh()
    write(tmp_path, "issuing-ecdsa", {"ecdsa": old, "mldsa": new})
    assert not await followed.look(crls)
    assert len(crls.current()) == 2
    await lists.publish(new)
    assert await followed.look(crls)
    assert len(crls.current()) == 4
    assert believed == [(old.root.certificate, new.root.certificate)]
    (tmp_path / "issuers" / "issuing-ecdsa.pem").unlink()
    (tmp_path / "roots.pem").write_bytes(to_pem([new.root.certificate]))
    assert await followed.look(crls)
    assert len(crls.current()) == 2
    assert believed[1:] == [(new.root.certificate,)]


async def test_a_new_issuers_crl_must_be_its_own(tmp_path: Path) -> None:
    """Somebody else's CRL in its place lets nobody in, and shuts out nobody else."""
    clock = ManualClock()
    old, settings = await deployed(tmp_path)
    new = await make_hierarchy("mldsa", clock)
    lists = Lists(clock)
    await lists.publish(old)
    followed = FollowedTrust(settings)
    crls = CrlCache(
        list(followed.current.crl_paths), lists.fetch, None, clock, timedelta(hours=1), on_error=lambda *_: None
    )
    await crls.refresh()
    lists.ders |= dict.fromkeys((new.issuing.certificate, new.root.certificate), lists.ders[old.issuing.certificate])
    write(tmp_path, "issuing-ecdsa", {"ecdsa": old, "mldsa": new})
    assert not await followed.look(crls)
    assert len(crls.current()) == 2
    clock.advance(timedelta(hours=2))
    with pytest.raises(StaleStatusError):
        crls.current()


async def test_what_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """A half-written bundle is an error of that look; what was believed before holds."""
    pki, settings = await deployed(tmp_path)
    followed = FollowedTrust(settings)
    (tmp_path / "roots.pem").write_bytes(b"-----BEGIN CERT")
    crls = CrlCache([], Lists(ManualClock()).fetch, None, ManualClock(), timedelta(hours=1), on_error=lambda *_: None)
    with pytest.raises(SettingsError, match="trust_bundle"):
        await followed.look(crls)
    assert followed.current.roots == (pki.root.certificate,)
