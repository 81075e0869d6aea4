"""The CRL cache: what it takes, what it refuses, and what survives a restart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from pkicore.clock import unix
from pkicore.crl import Revocation, build_crl, encode_entry
from pkicore.errors import BadSignatureError, RevokedError, StaleStatusError, StatusUnknownError
from pkicore.mtls.peer import IssuedBy, key_hash
from pkicore.mtls.revocation import CrlCache, ListMissingError
from tests.support.clock import ManualClock
from tests.support.pki import Hierarchy, make_hierarchy
from tests.support.tls_pki import CRL_URLS, Authority, TlsPki, now
from tests.support.tls_server import CrlPublisher, Errors, crl_cache

HOUR = timedelta(hours=1)


@pytest.fixture
def pki() -> TlsPki:
    """A hierarchy whose CRL numbers start anew."""
    return TlsPki.make("ecdsa")


@pytest.fixture
def publisher(pki: TlsPki) -> CrlPublisher:
    """Serves a CRL of each CA."""
    publisher = CrlPublisher()
    publisher.publish(pki)
    return publisher


def _alter_all(directory: Path) -> None:
    for path in directory.iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


def _numbers(cache: CrlCache) -> list[int]:
    return [crl.number for crl in cache.newest()]


async def test_crls_are_fetched_and_checked_against(pki: TlsPki, publisher: CrlPublisher) -> None:
    """A serial on the issuer's CRL is revoked; the same serial of another issuer is not."""
    pki.issuing.revoked.add(4711)
    publisher.publish(pki)
    cache = await crl_cache(pki, publisher)
    assert len(cache.current()) == 2
    cache.check([IssuedBy(key_hash(pki.root.certificate), 4711, CRL_URLS[:1])])
    with pytest.raises(RevokedError) as caught:
        cache.check([IssuedBy(key_hash(pki.issuing.certificate), 4711, CRL_URLS[1:])])
    assert caught.value.serial == 4711


async def test_an_issuer_without_a_crl_leaves_the_status_unknown(pki: TlsPki, publisher: CrlPublisher) -> None:
    """Silence is not a good word."""
    cache = await crl_cache(pki, publisher)
    with pytest.raises(StatusUnknownError):
        cache.check([IssuedBy(key_hash(TlsPki.make("ecdsa").issuing.certificate), 1)])


async def test_a_cache_that_misses_one_crl_is_stale(pki: TlsPki, publisher: CrlPublisher) -> None:
    """All issuers count."""
    del publisher.crls[pki.root.certificate]
    errors = Errors()
    cache = await crl_cache(pki, publisher, errors=errors)
    with pytest.raises(StaleStatusError, match="no CRL of CN=root"):
        cache.current()
    assert isinstance(errors.seen[0], ConnectionRefusedError)


async def test_a_lower_or_equal_number_is_refused(pki: TlsPki, publisher: CrlPublisher) -> None:
    """RFC 5280 §5.2.3: numbers only rise; another list under the number held is a replay, too."""
    pki.issuing.crl()
    publisher.publish(pki)
    errors = Errors()
    cache = await crl_cache(pki, publisher, errors=errors)
    held = _numbers(cache)
    pki.issuing.revoked.add(1)
    for number in (1, held[1]):
        publisher.crls[pki.issuing.certificate] = pki.issuing.crl(number=number)
        await cache.refresh()
    assert _numbers(cache) == held
    assert [type(error) for error in errors.seen] == [StaleStatusError] * 2


async def test_a_forged_crl_is_refused(pki: TlsPki, publisher: CrlPublisher) -> None:
    """The right name and a higher number do not replace the issuer's signature."""
    errors = Errors()
    cache = await crl_cache(pki, publisher, errors=errors)
    held = _numbers(cache)
    publisher.crls[pki.issuing.certificate] = pki.issuing.crl(number=99, signer=Authority.make("issuing", "ecdsa"))
    await cache.refresh()
    assert _numbers(cache) == held
    assert isinstance(errors.seen[0], BadSignatureError)


async def test_an_expired_crl_and_garbage_are_refused(pki: TlsPki, publisher: CrlPublisher) -> None:
    """A new number does not make an old list new."""
    errors = Errors()
    cache = await crl_cache(pki, publisher, errors=errors)
    held = _numbers(cache)
    for der in (pki.issuing.crl(at=now() - 9 * HOUR), b"\x30\x00", b"", bytes(100)):
        publisher.crls[pki.issuing.certificate] = der
        await cache.refresh()
    assert _numbers(cache) == held
    assert len(errors.seen) == 4


async def test_a_publisher_that_is_down_for_too_long_makes_the_cache_stale(
    pki: TlsPki, publisher: CrlPublisher
) -> None:
    """Age counts from the last time the publisher was reached, not from the list's own dates."""
    clock = ManualClock(now())
    cache = await crl_cache(pki, publisher, clock=clock, max_staleness=timedelta(minutes=10))
    clock.advance(timedelta(minutes=9))
    await cache.refresh()
    clock.advance(timedelta(minutes=9))
    cache.current()
    publisher.crls.clear()
    await cache.refresh()
    cache.current()
    clock.advance(timedelta(minutes=2))
    with pytest.raises(StaleStatusError, match="last confirmed"):
        cache.current()


async def test_a_crl_past_its_next_update_makes_the_cache_stale(pki: TlsPki, publisher: CrlPublisher) -> None:
    """However often it was confirmed."""
    clock = ManualClock(now())
    cache = await crl_cache(pki, publisher, clock=clock, max_staleness=100 * HOUR)
    clock.advance(2 * HOUR)
    await cache.refresh()
    with pytest.raises(StaleStatusError):
        cache.current()


async def test_crls_survive_a_restart(pki: TlsPki, publisher: CrlPublisher, tmp_path: Path) -> None:
    """Loaded from disk at once, and still guarded against older numbers."""
    await crl_cache(pki, publisher, directory=tmp_path)
    old = pki.issuing.crl(number=0)
    errors = Errors()
    down = CrlPublisher({pki.issuing.certificate: old})
    again = await crl_cache(pki, down, directory=tmp_path, errors=errors)
    assert len(again.current()) == 2
    assert _numbers(again) == [1, 1]
    assert {type(error) for error in errors.seen} == {StaleStatusError, ConnectionRefusedError}


async def test_staleness_survives_a_restart(pki: TlsPki, publisher: CrlPublisher, tmp_path: Path) -> None:
    """Restarting does not make old knowledge fresh."""
    clock = ManualClock(now())
    await crl_cache(pki, publisher, directory=tmp_path, clock=clock)
    clock.advance(timedelta(minutes=11))
    again = await crl_cache(pki, CrlPublisher(), directory=tmp_path, clock=clock, max_staleness=timedelta(minutes=10))
    with pytest.raises(StaleStatusError):
        again.current()


async def test_a_crl_altered_on_disk_is_refused(pki: TlsPki, publisher: CrlPublisher, tmp_path: Path) -> None:
    """The disk is trusted no more than the network."""
    await crl_cache(pki, publisher, directory=tmp_path)
    _alter_all(tmp_path)
    errors = Errors()
    again = await crl_cache(pki, CrlPublisher(), directory=tmp_path, errors=errors)
    assert again.newest() == ()
    assert len([error for error in errors.seen if not isinstance(error, OSError)]) == 2


async def test_subscribers_hear_of_new_crls_only(pki: TlsPki, publisher: CrlPublisher) -> None:
    """The same list again is no news."""
    cache = await crl_cache(pki, publisher)
    news: list[list[int]] = []
    cache.subscribe(lambda: news.append(_numbers(cache)))
    await cache.refresh()
    publisher.publish(pki)
    await cache.refresh()
    assert news == [[2, 2]]


async def test_the_background_refresh_survives_failures(pki: TlsPki, publisher: CrlPublisher) -> None:
    """Down, up again: the loop goes on and picks up the new list."""
    cache = await crl_cache(pki, publisher)
    crls = dict(publisher.crls)
    publisher.crls.clear()
    loop = asyncio.create_task(cache.run(0.01))
    await asyncio.sleep(0.05)
    publisher.crls.update(crls)
    publisher.publish(pki)
    async with asyncio.timeout(2):
        while _numbers(cache) != [2, 2]:  # noqa: ASYNC110 (the loop under test is what is waited for)
            await asyncio.sleep(0.01)
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_a_cache_for_nobody_is_never_fresh() -> None:
    """No issuers means a configuration error, and must not read as "all is well"."""

    async def fetch(_issuer: x509.Certificate) -> bytes:
        raise AssertionError

    cache = CrlCache((), fetch, None, ManualClock(), HOUR, on_error=Errors())
    await cache.refresh()
    with pytest.raises(StaleStatusError):
        cache.current()


async def shard_of(hierarchy: Hierarchy, shard: int, *serials: int, number: int = 1) -> bytes:
    """The list of a shard; of shard 0, one that is for certificates without shard."""
    at = hierarchy.clock.now()
    return await build_crl(
        hierarchy.issuing.certificate,
        hierarchy.issuing_key,
        [encode_entry(Revocation(serial, at, "superseded")) for serial in serials],
        number=number,
        this_update=at,
        next_update=at + HOUR,
        distribution_points=[hierarchy.issuing.shard_url(shard)],
        scope="user",
    )


def in_shard(hierarchy: Hierarchy, serial: int, shard: int) -> IssuedBy:
    """A certificate that names a shard."""
    return IssuedBy(key_hash(hierarchy.issuing.certificate), serial, (hierarchy.issuing.shard_url(shard),))


@dataclass
class Shards:
    """A publisher of an issuing CA's shards; shard 0 is the complete list. It remembers what was asked for."""

    hierarchy: Hierarchy
    lists: dict[int, bytes]
    asked: list[int] = field(default_factory=list)

    async def fetch(self, issuer: x509.Certificate, shard: int = 0) -> bytes:
        """A list, or an error as a network has them."""
        if issuer == self.hierarchy.root.certificate:
            return await self.hierarchy.root_crl(number=unix(self.hierarchy.clock.now()))
        self.asked.append(shard)
        await asyncio.sleep(0)
        if shard not in self.lists:
            raise ConnectionRefusedError
        return self.lists[shard]

    async def cache(self, directory: Path | None = None) -> CrlCache:
        """A cache of the root's list, and of those that certificates name."""
        issuers = self.hierarchy.root.certificate, self.hierarchy.issuing.certificate
        clock = self.hierarchy.clock
        cache = CrlCache(issuers, self.fetch, directory, clock, HOUR, on_error=Errors(), fetch_shard=self.fetch)
        await cache.refresh()
        return cache


async def check(cache: CrlCache, *links: IssuedBy) -> None:
    """As a handshake does it: what is missing is taken up, once."""
    try:
        cache.check(links)
    except ListMissingError as missing:
        await cache.take_up(missing)
        cache.check(links)


async def test_each_certificate_is_held_against_the_list_that_it_names() -> None:
    """Had when a certificate first names it, and no other; revoked where it says so; unknown where none can be had."""
    hierarchy = await make_hierarchy("ecdsa", ManualClock())
    lists = {1: await shard_of(hierarchy, 1), 2: await shard_of(hierarchy, 2, 77), 0: await shard_of(hierarchy, 0)}
    shards = Shards(hierarchy, lists)
    cache = await shards.cache()
    assert (len(cache.current()), shards.asked) == (1, [])
    await check(cache, in_shard(hierarchy, 5, 2))
    await check(cache, in_shard(hierarchy, 6, 2))
    assert (len(cache.current()), shards.asked) == (2, [2])
    with pytest.raises(RevokedError):
        await check(cache, in_shard(hierarchy, 77, 2))
    await check(cache, in_shard(hierarchy, 5, 1), in_shard(hierarchy, 5, 0))
    await cache.refresh()
    assert sorted(shards.asked) == [0, 0, 1, 1, 2, 2]
    for link in (in_shard(hierarchy, 5, 3), IssuedBy(key_hash(hierarchy.issuing.certificate), 5)):
        with pytest.raises(StatusUnknownError):
            await check(cache, link)
    assert len(cache.current()) == 4  # what cannot be had harms nobody else


async def test_many_peers_of_one_shard_fetch_it_once() -> None:
    """However many come before it is there."""
    hierarchy = await make_hierarchy("ecdsa", ManualClock())
    shards = Shards(hierarchy, {1: await shard_of(hierarchy, 1)})
    cache, told = await shards.cache(), []
    cache.subscribe(lambda: told.append(1))
    await asyncio.gather(*(check(cache, in_shard(hierarchy, serial, 1)) for serial in range(5)))
    assert (shards.asked, told) == ([1], [1])


async def test_one_shard_in_place_of_another_lets_nobody_in() -> None:
    """Plain HTTP may be redirected: a shard that says nothing of a certificate must not pass for the one that does."""
    hierarchy = await make_hierarchy("ecdsa", ManualClock())
    cache = await Shards(hierarchy, {1: await shard_of(hierarchy, 2)}).cache()
    with pytest.raises(StatusUnknownError):
        await check(cache, in_shard(hierarchy, 5, 1))


async def test_a_shard_that_is_not_confirmed_any_more_makes_the_cache_stale() -> None:
    """Those that are held count like complete lists, and the sentence names the one."""
    clock = ManualClock()
    hierarchy = await make_hierarchy("ecdsa", clock)
    shards = Shards(hierarchy, {2: await shard_of(hierarchy, 2)})
    cache = await shards.cache()
    await check(cache, in_shard(hierarchy, 5, 2))
    shards.lists.clear()
    clock.advance(HOUR + timedelta(seconds=1))
    await cache.refresh()
    with pytest.raises(StaleStatusError, match="shard 2"):
        cache.current()


async def test_shards_survive_a_restart_each_in_its_file(tmp_path: Path) -> None:
    """With the publisher down, those that were named are read from disk; what has ended there is forgotten."""
    clock = ManualClock()
    hierarchy = await make_hierarchy("ecdsa", clock)
    shards = Shards(hierarchy, {1: await shard_of(hierarchy, 1), 2: await shard_of(hierarchy, 2, 77)})
    cache = await shards.cache(tmp_path)
    await check(cache, in_shard(hierarchy, 5, 1), in_shard(hierarchy, 5, 2))
    again = await Shards(hierarchy, {}).cache(tmp_path)
    assert len(again.current()) == 3
    with pytest.raises(RevokedError):
        again.check([in_shard(hierarchy, 77, 2)])
    clock.advance(2 * HOUR)
    assert len((await Shards(hierarchy, {}).cache(tmp_path)).current()) == 1


async def test_trust_that_changes_keeps_the_lists_that_were_named() -> None:
    """A new issuing CA counts at once, for its lists are had when they are needed; one that goes takes its with it."""
    hierarchy, other = await make_hierarchy("ecdsa", ManualClock()), await make_hierarchy("mldsa", ManualClock())
    cache = await Shards(hierarchy, {1: await shard_of(hierarchy, 1)}).cache()
    await check(cache, in_shard(hierarchy, 5, 1))
    roots = (hierarchy.root.certificate,)
    assert await cache.follow((*roots, hierarchy.issuing.certificate, other.issuing.certificate))
    assert (len(cache.current()), cache.follows(other.issuing.certificate)) == (2, False)
    assert await cache.follow(roots)
    with pytest.raises(StatusUnknownError):
        await check(cache, in_shard(hierarchy, 5, 1))


async def test_the_complete_list_speaks_of_every_shard_that_it_names() -> None:
    """A cache of the complete list needs no shard; one that names no shards says nothing of their certificates."""
    hierarchy = await make_hierarchy("ecdsa", ManualClock())
    issuer, at = hierarchy.issuing, hierarchy.clock.now()

    async def complete(_issuer: x509.Certificate, points: tuple[int, ...]) -> bytes:
        return await build_crl(
            issuer.certificate, hierarchy.issuing_key, [], number=1, this_update=at, next_update=at + HOUR,
            distribution_points=[issuer.shard_url(point) for point in points], scope="user",
        )  # fmt: skip

    for points, known in (((0, 1, 2), True), ((0,), False)):
        fetch = partial(complete, points=points)
        cache = CrlCache((issuer.certificate,), fetch, None, hierarchy.clock, HOUR, on_error=Errors())
        await cache.refresh()
        if known:
            cache.check([in_shard(hierarchy, 5, 2)])
        else:
            with pytest.raises(StatusUnknownError):
                cache.check([in_shard(hierarchy, 5, 2)])
