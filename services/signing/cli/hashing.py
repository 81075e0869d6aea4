"""Digests of a file of any size in one reading: those that are wanted, and mu for keys of ML-DSA (FIPS 204)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey
from services.signing.cli.failures import FILES, USAGE, CommandError
from services.signing.statements import Subject

_CHUNK: Final = 1 << 20  # octets
_TR_BYTES: Final = 64
_MU_BYTES: Final = 64
_DIGITS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-fA-F]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Artefact:
    """What is known of an artefact: a file's digests, or those that somebody says.

    Attributes:
        path: of the file; None where only digests are known.
        name: what it is called in statements.
        digests: by the name of the hash.
        mu: by key id, 64 octets.
    """

    path: Path | None
    name: str
    digests: Mapping[str, bytes]
    mu: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def subject(self) -> Subject:
        """As requests and statements have it."""
        return Subject(self.name, {name: digest.hex() for name, digest in self.digests.items()})


def read_digests(text: str) -> dict[str, bytes]:
    """The digests of one artefact, as `--digest` has them: HASH:HEX, or several with commas between.

    Raises:
        CommandError: anything else.
    """
    found = {}
    for one in text.split(","):
        name, _, digits = one.partition(":")
        if _DIGITS.get(name) != len(digits) or not _HEX.fullmatch(digits) or name in found:
            raise CommandError(
                f"--digest {text[:200]} is no digest",
                USAGE,
                f"give sha256:HEX with 64 digits; also {', '.join(_DIGITS)}",
            )
        found[name] = bytes.fromhex(digits)
    return found


def hash_file(
    path: Path, names: Collection[str], mu_keys: Mapping[str, PublicKey], advance: Callable[[int], None]
) -> Artefact:
    """Read a file once.

    Args:
        path: of the file; its last part is the artefact's name.
        names: of the hashes.
        mu_keys: ML-DSA keys by id, for each of which mu is wanted.
        advance: told how many octets were read.

    Raises:
        CommandError: the file was changed meanwhile, or is none that has a size.
        OSError: it cannot be read.
    """
    hashes = {name: hashlib.new(name) for name in names}
    mus = {key_id: hashlib.shake_256(_before_message(key)) for key_id, key in mu_keys.items()}
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        octets = 0
        while octets <= before.st_size and (chunk := file.read(_CHUNK)):  # a file that grows would have no end
            for found in (*hashes.values(), *mus.values()):
                found.update(chunk)
            octets += len(chunk)
            advance(len(chunk))
        after = os.fstat(file.fileno())
    if octets != before.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise CommandError(f"{path} was changed while it was read", FILES, "sign it when it is finished")
    return Artefact(
        path,
        path.name,
        {name: found.digest() for name, found in hashes.items()},
        {key_id: found.digest(_MU_BYTES) for key_id, found in mus.items()},
    )


def _before_message(key: PublicKey) -> bytes:
    """What mu is the digest of, up to the message: H(pk, 64) || 0 || |ctx|, ctx empty (FIPS 204 algorithms 2 and 7)."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.shake_256(raw).digest(_TR_BYTES) + b"\x00\x00"
