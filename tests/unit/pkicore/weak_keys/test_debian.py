"""Debian's weak generator, made again: CVE-2008-0166."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pkicore.errors import BadKeyError
from pkicore.weak_keys import PublishedKeys, check_strength
from pkicore.weak_keys.debian import MACHINES, SeedFile, weak_modulus

# The first half of the SHA-256 of the moduli of process ID 1000, 2048 bits, made by OpenSSL 0.9.8g-8 of Debian lenny
# itself (github.com/HARICA-official/debian-weak-keys, rnd, noreadrnd and nornd). There is none for i386 with rnd.
PUBLISHED: dict[tuple[str, SeedFile], str] = {
    ("amd64", "read"): "60f80f7cb1b4de946401cefbb43fb6",
    ("amd64", "unreadable"): "6a5fe0a26ec49ea11eda6c6c05ee63",
    ("amd64", "missing"): "9da68edea95ad8b3f133c7c7185adb",
    ("i386", "unreadable"): "c018d3ba8361ed48146b2e9056de57",
    ("i386", "missing"): "2b4a2d39bec8ce9b5f5910f5400ed8",
}


@pytest.mark.parametrize(("machine", "seed_file"), list(PUBLISHED))
def test_keys_that_debian_made(machine: str, seed_file: SeedFile) -> None:
    """The same process ID yields the same key, and a list of such keys refuses it; the other checks see nothing."""
    modulus = weak_modulus(1000, 2048, MACHINES[machine], seed_file)
    digest = hashlib.sha256(modulus.to_bytes(256)).digest()
    assert digest.hex()[:30] == PUBLISHED[machine, seed_file]
    key = rsa.RSAPublicNumbers(65537, modulus).public_key()
    check_strength(key)
    with pytest.raises(BadKeyError, match="published"):
        PublishedKeys(digest[:15] + b"\xff").check(key)


KINDS: list[tuple[int, int, str, SeedFile]] = [
    (1, 512, "amd64", "read"),
    (2, 512, "amd64", "read"),
    (1, 512, "i386", "read"),
    (1, 512, "amd64", "unreadable"),
    (1, 512, "amd64", "missing"),
    (1, 640, "amd64", "read"),
]


def test_what_decides_a_key() -> None:
    """Another process ID, machine, size or seed file is another key."""
    made = {weak_modulus(pid, bits, MACHINES[machine], seed_file) for pid, bits, machine, seed_file in KINDS}
    assert len(made) == 6
    assert {modulus.bit_length() for modulus in made} == {512, 640}
