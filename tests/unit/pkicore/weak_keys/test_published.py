"""Lists of published keys, in the form of badkeys."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from badkeys.allkeys import block
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key
from pkicore.errors import BadKeyError, MalformedError
from pkicore.weak_keys.published import RECORD, PublishedKeys, _particular
from tests.support import key_pairs

NAMES = ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519", "ml-dsa-44"]
KEYS = {name: key_pairs.KEYS[name].public_key() for name in NAMES}


def listed(*keys: PublicKey, others: int = 0) -> bytes:
    """A list of these keys, among others."""
    import hashlib

    hashes = [hashlib.sha256(_particular(key)).digest()[:15] for key in keys]
    hashes += [hashlib.sha256(b"%d" % n).digest()[:15] for n in range(others)]
    return b"".join(found + b"\1" for found in sorted(hashes))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("others", [0, 1, 2, 3, 10_000])
def test_a_key_of_the_list_is_refused(name: str, others: int) -> None:
    """Wherever in the list it stands; a key that is not in it passes."""
    with pytest.raises(BadKeyError, match="published"):
        PublishedKeys(listed(KEYS[name], others=others)).check(KEYS[name])
    PublishedKeys(listed(others=others)).check(KEYS[name])


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # badkeys asks for DSA keys
@pytest.mark.parametrize("name", NAMES)
def test_badkeys_reads_the_same_list_alike(name: str) -> None:
    """What we look for is what badkeys looks for, in the same records."""
    from badkeys.checks import _checkkey

    block._blmeta, block._bldata = {1: {"name": "ours"}}, listed(KEYS[name], others=100)
    try:
        assert _checkkey(KEYS[name], ["blocklist"])["results"]["blocklist"]["blid"] == 1
        assert not _checkkey(generate_private_key(ALGORITHMS[name]).public_key(), ["blocklist"])["results"]
    finally:
        block._blmeta = block._bldata = False


def test_a_file_that_is_mapped_into_memory(tmp_path: Path) -> None:
    """A long list need not be read: a mapped file does."""
    (tmp_path / "blocklist.dat").write_bytes(listed(KEYS["rsa-2048"], others=50_000))
    with (
        (tmp_path / "blocklist.dat").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as records,
    ):
        keys = PublishedKeys(records)
        assert len(keys) == 50_001
        with pytest.raises(BadKeyError):
            keys.check(KEYS["rsa-2048"])


def test_without_a_list_nothing_is_published() -> None:
    """The default knows no key."""
    PublishedKeys().check(KEYS["ecdsa-p256"])


def test_leading_zeros_do_not_hide_a_key() -> None:
    """A number has one form: an x that begins with zeros is looked for without them."""
    key = next(k for n in range(1, 2000) if (k := _p256(n)).public_numbers().x < 1 << 248)
    assert len(_particular(key)) < 32
    raw = next(bytes([0]) + bytes([n]) * 31 for n in range(1, 9))
    assert len(_particular(ed25519.Ed25519PublicKey.from_public_bytes(raw))) == 31


def _p256(secret: int) -> ec.EllipticCurvePublicKey:
    return ec.derive_private_key(secret, ec.SECP256R1()).public_key()


@pytest.mark.parametrize("records", [bytes(15), bytes(17), b"\2" * RECORD * 4096 + b"\1" * RECORD])
def test_what_is_no_list_is_refused(records: bytes) -> None:
    """A cut file, or one whose records are out of order, would pass bad keys: it is refused instead."""
    with pytest.raises(MalformedError, match="records"):
        PublishedKeys(records)


@given(st.binary(max_size=64))
def test_any_octets_are_a_list_or_refused(octets: bytes) -> None:
    """No rubbish does more than be refused."""
    try:
        PublishedKeys(octets).check(KEYS["ecdsa-p256"])
    except MalformedError:
        assert len(octets) % RECORD
