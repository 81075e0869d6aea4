"""RSA keys as Debian's OpenSSL made them from 2006 to 2008 (CVE-2008-0166), made again.

A patch had taken all entropy out of the generator but the process ID, so `openssl genrsa` and `openssl req` could make
32,768 keys of each size on each kind of machine. This is that generator (md_rand.c and bn_prime.c of OpenSSL 0.9.8),
with nothing but counts and the process ID in its pool: what was mixed in did not matter, only how much of it.

Three things decide beside the process ID: the machine's word, whether `~/.rnd` was there and readable, and the size.
Little-endian machines of 32 and 64 bits are here, and `openssl` alone; keys of ssh-keygen, of big-endian machines and
on elliptic curves are not.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pkicore.algorithms import RSA_PUBLIC_EXPONENT

SeedFile: TypeAlias = Literal["read", "unreadable", "missing"]
PROCESS_IDS: Final = range(1, 32_768)

_POOL: Final = 1023
_DIGEST: Final = 20
_HALF: Final = _DIGEST // 2
_ENTROPY: Final = 32
_SEED_FILE: Final = 1024
_DIVISORS: Final = 2048
# Rounds of Miller and Rabin by bits of the candidate (BN_prime_checks_for_size).
_ROUNDS: Final = ((1300, 2), (850, 3), (650, 4), (550, 5), (450, 6), (400, 7), (350, 8), (300, 9), (250, 12))


@dataclass(frozen=True)
class Machine:
    """What differs between machines: octets of a `long`, and of `struct stat`."""

    word: int
    stat: int


MACHINES: Final = {"amd64": Machine(8, 144), "i386": Machine(4, 88)}
SEED_FILES: Final[tuple[SeedFile, ...]] = ("read", "unreadable", "missing")


def weak_modulus(process_id: int, bits: int, machine: Machine, seed_file: SeedFile) -> int:
    """The modulus that `openssl genrsa` made there; takes some tenths of a second.

    Args:
        process_id: of PROCESS_IDS.
        bits: even; 1024, 2048 or 4096 as a rule.
        machine: of MACHINES.
        seed_file: what was with `~/.rnd`.
    """
    generator = _Generator(process_id, machine)
    if seed_file != "missing":
        generator.add(machine.stat)
    if seed_file == "read":
        generator.add(_SEED_FILE, entropy=_SEED_FILE)
    else:
        generator.poll()
    p = _prime(generator, bits // 2)
    q = _prime(generator, bits // 2)
    while p == q:
        q = _prime(generator, bits // 2)
    return p * q


class _Generator:
    """The state of md_rand.c."""

    def __init__(self, process_id: int, machine: Machine) -> None:
        self.word = machine.word
        self._counts_form = "<qq" if machine.word == 8 else "<ll"  # noqa: PLR2004 - octets of a long
        self._process_id = struct.pack("<i", process_id)
        self._pool = bytearray(_POOL)
        self._filled = self._place = self._asked = self._added = self._entropy = 0
        self._digest = bytes(_DIGEST)
        self._is_polled = self._is_stirred = False

    def add(self, length: int, entropy: int = 0) -> None:
        """RAND_add of so many octets, whatever they are."""
        place, added, local = self._place, self._added, self._digest
        self._place += length
        if self._place >= _POOL:
            self._place, self._filled = self._place % _POOL, _POOL
        self._filled = max(self._filled, self._place)
        self._added += -(-length // _DIGEST)
        for start in range(0, length, _DIGEST):
            size = min(_DIGEST, length - start)
            counts = struct.pack(self._counts_form, self._asked, added)
            local = _sha1(local + self._window(place, size, _POOL) + counts)
            added += 1
            place = self._mix(place, local[:size], _POOL)
        self._digest = bytes(a ^ b for a, b in zip(self._digest, local, strict=True))
        if self._entropy < _ENTROPY:
            self._entropy += entropy

    def poll(self) -> None:
        """RAND_poll: 32 octets of the system, then process ID, user and time."""
        self.add(_ENTROPY, entropy=_ENTROPY)
        for _ in range(3):
            self.add(self.word)
        self._is_polled = True

    def octets(self, length: int) -> bytes:
        """RAND_bytes."""
        if not self._is_polled:
            self.poll()
        if not self._is_stirred:
            for _ in range(-(-_POOL // _DIGEST)):
                self.add(_DIGEST)
            self._is_stirred = self._entropy >= _ENTROPY
        place, end, local, found = self._place, self._filled, self._digest, bytearray()
        counts, first = struct.pack(self._counts_form, self._asked, self._added), self._process_id
        pieces = -(-length // _HALF)
        self._place += pieces * _HALF
        if self._place > end:
            self._place %= end
        self._asked += 1
        for _ in range(pieces):
            local = _sha1(first + local + counts + self._window(place, _HALF, end))
            first = b""
            place = self._mix(place, local[:_HALF], end)
            found += local[_HALF:]
        self._digest = _sha1(counts + local + self._digest)
        return bytes(found[:length])

    def _window(self, place: int, size: int, end: int) -> bytes:
        """So many octets of the pool, which is a ring."""
        over = max(0, place + size - end)
        return bytes(self._pool[place : place + size - over] + self._pool[:over])

    def _mix(self, place: int, octets: bytes, end: int) -> int:
        for octet in octets:
            self._pool[place] ^= octet
            place = (place + 1) % end
        return place


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _first_primes(count: int) -> tuple[int, ...]:
    sieve = bytearray([1]) * 18_000
    found: list[int] = []
    for number in range(2, len(sieve)):
        if sieve[number]:
            found.append(number)
            sieve[number * number :: number] = bytes(len(range(number * number, len(sieve), number)))
    return tuple(found[:count])


_ODD_PRIMES: Final = _first_primes(_DIVISORS)[1:]


def _prime(generator: _Generator, bits: int) -> int:
    """BN_generate_prime_ex, until the public exponent has an inverse."""
    while True:
        candidate = _without_small_factors(generator, bits)
        if _passes(generator, candidate) and math.gcd(candidate - 1, RSA_PUBLIC_EXPONENT) == 1:
            return candidate


def _without_small_factors(generator: _Generator, bits: int) -> int:
    """A candidate c such that no small prime divides c or c - 1."""
    start = _number(generator, bits) | 3 << (bits - 2) | 1
    residues = [(start % prime, prime) for prime in _ODD_PRIMES]
    step = 0
    while any((residue + step) % prime <= 1 for residue, prime in residues):
        step += 2
    return start + step


def _passes(generator: _Generator, candidate: int) -> bool:
    """Miller and Rabin, with bases of the same generator."""
    below = candidate - 1
    twos = (below & -below).bit_length() - 1
    rounds = next((rounds for bits, rounds in _ROUNDS if candidate.bit_length() >= bits), 27)
    for _ in range(rounds):
        power = pow(_below(generator, below) + 1, below >> twos, candidate)
        if power in {1, below}:
            continue
        for _ in range(twos - 1):
            power = power * power % candidate
            if power == below:
                break
        else:
            return False
    return True


def _below(generator: _Generator, limit: int) -> int:
    """BN_pseudo_rand_range; the two topmost bits of a candidate are set, so that it is the plain way."""
    while True:
        found = _number(generator, limit.bit_length())
        if found < limit:
            return found


def _number(generator: _Generator, bits: int) -> int:
    """BN_rand, which first adds the time."""
    generator.add(generator.word)
    octets = generator.octets(-(-bits // 8))
    return int.from_bytes(octets, "big") & ((1 << bits) - 1)
