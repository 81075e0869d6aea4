"""The staple cache: only good answers about our own certificates, renewed in time, kept over restarts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from pkicore.errors import BadSignatureError, RevokedError, StaleStatusError
from pkicore.mtls import Credentials
from pkicore.mtls.stapling import StapleCache
from tests.support.clock import ManualClock
from tests.support.tls_pki import Authority, TlsPki, now
from tests.support.tls_server import Errors


@dataclass
class Responder:
    """Answers what the test wants, and counts."""

    pki: TlsPki
    clock: ManualClock
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    signer: Authority | None = None
    up: bool = True
    asked: int = 0

    async def fetch(self, certificate: x509.Certificate, _issuer: x509.Certificate) -> bytes:
        """An OCSP response of one hour, or an error as a network has them."""
        self.asked += 1
        if not self.up:
            raise ConnectionRefusedError
        return self.pki.issuing.staple(certificate, at=self.clock.now(), status=self.status, signer=self.signer)


@dataclass
class Scene:
    """A certificate, its responder and a cache."""

    pki: TlsPki = field(default_factory=lambda: TlsPki.make("ecdsa"))
    clock: ManualClock = field(default_factory=lambda: ManualClock(now()))
    errors: Errors = field(default_factory=Errors)

    def __post_init__(self) -> None:
        """Connect the parts."""
        self.responder = Responder(self.pki, self.clock)
        self.mine: Credentials = self.pki.service("ca")
        self.leaf, self.issuer = self.mine.chain

    def cache(self, directory: Path | None = None) -> StapleCache:
        """A cache that knows nothing yet."""
        return StapleCache(self.responder.fetch, directory, self.clock, on_error=self.errors)


@pytest.fixture
def scene() -> Scene:
    """A fresh one."""
    return Scene()


async def test_a_staple_is_fetched_once_and_kept(scene: Scene) -> None:
    """Before it is half over there is no reason to ask again."""
    cache = scene.cache()
    await cache.prepare(scene.leaf, scene.issuer)
    await cache.prepare(scene.leaf, scene.issuer)
    assert cache.staple(scene.leaf)
    assert scene.responder.asked == 1


@pytest.mark.parametrize("status", [ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN])
async def test_an_answer_that_is_not_good_is_no_staple(scene: Scene, status: ocsp.OCSPCertStatus) -> None:
    """Clients would refuse it, so it is not served."""
    scene.responder.status = status
    with pytest.raises(StaleStatusError):
        await scene.cache().prepare(scene.leaf, scene.issuer)
    assert len(scene.errors.seen) == 1


async def test_a_forged_answer_is_no_staple(scene: Scene) -> None:
    """Verified before use."""
    scene.responder.signer = Authority.make("issuing", "ecdsa")
    with pytest.raises(StaleStatusError):
        await scene.cache().prepare(scene.leaf, scene.issuer)
    assert isinstance(scene.errors.seen[0], BadSignatureError)


async def test_a_staple_is_renewed_at_half_its_life(scene: Scene) -> None:
    """The background loop asks when half the time is over, not before."""
    cache = scene.cache()
    await cache.prepare(scene.leaf, scene.issuer)
    first = cache.staple(scene.leaf)
    loop = asyncio.create_task(cache.run(0.01))
    scene.clock.advance(timedelta(minutes=29))
    await asyncio.sleep(0.05)
    assert cache.staple(scene.leaf) == first
    scene.clock.advance(timedelta(minutes=1))
    await asyncio.sleep(0.05)
    assert cache.staple(scene.leaf) != first
    assert scene.responder.asked == 2
    await _stop(loop)


async def test_an_old_staple_serves_until_it_ends(scene: Scene) -> None:
    """A responder that is down costs nothing before nextUpdate, and everything after."""
    cache = scene.cache()
    await cache.prepare(scene.leaf, scene.issuer)
    scene.responder.up = False
    scene.clock.advance(timedelta(minutes=59))
    await cache.refresh()
    assert cache.staple(scene.leaf)
    scene.clock.advance(timedelta(minutes=2))
    with pytest.raises(StaleStatusError):
        cache.staple(scene.leaf)


async def test_revocation_drops_the_staple_at_once(scene: Scene, tmp_path: Path) -> None:
    """A staple that still says good must not be served once we know better; nor after a restart."""
    cache = scene.cache(tmp_path)
    await cache.prepare(scene.leaf, scene.issuer)
    scene.responder.status = ocsp.OCSPCertStatus.REVOKED
    await cache.refresh()
    with pytest.raises(StaleStatusError):
        cache.staple(scene.leaf)
    assert isinstance(scene.errors.seen[0], RevokedError)
    assert _kept(tmp_path) == []


async def test_a_staple_survives_a_restart(scene: Scene, tmp_path: Path) -> None:
    """Cold start without the responder."""
    await scene.cache(tmp_path).prepare(scene.leaf, scene.issuer)
    scene.responder.up = False
    again = scene.cache(tmp_path)
    await again.prepare(scene.leaf, scene.issuer)
    assert again.staple(scene.leaf)


@pytest.mark.parametrize("content", [b"", b"garbage", None])
async def test_a_bad_file_is_not_served(scene: Scene, tmp_path: Path, content: bytes | None) -> None:
    """The file may be altered or stale (None); the responder is asked, and if it is down there is no staple."""
    await scene.cache(tmp_path).prepare(scene.leaf, scene.issuer)
    if content is None:
        scene.clock.advance(timedelta(hours=2))
    else:
        _kept(tmp_path)[0].write_bytes(content)
    scene.responder.up = False
    with pytest.raises(StaleStatusError):
        await scene.cache(tmp_path).prepare(scene.leaf, scene.issuer)


async def test_each_certificate_has_its_own(scene: Scene, tmp_path: Path) -> None:
    """A rotated certificate gets its staple beside the old one's, which is forgotten when it is no longer served."""
    cache = scene.cache(tmp_path)
    new = scene.pki.service("ca")
    await cache.prepare(scene.leaf, scene.issuer)
    await cache.prepare(new.certificate, scene.issuer)
    assert cache.staple(scene.leaf) != cache.staple(new.certificate)
    cache.forget(scene.leaf)
    with pytest.raises(StaleStatusError):
        cache.staple(scene.leaf)
    assert cache.staple(new.certificate)
    assert len(_kept(tmp_path)) == 1


def _kept(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
