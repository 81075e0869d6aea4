"""Which key a file, or a hash, names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.encoding import pem_join
from pkicore.errors import MalformedError
from pkicore.x509.certificate import to_pem
from pkicore.x509.names import Names
from services.ca.cli.key_file import MAX_FILE, key_hash_of
from tests.support.clock import ManualClock
from tests.support.pki import Leaf, make_csr, make_hierarchy


def spki(key: PrivateKey) -> bytes:
    """A key's SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
async def leaf() -> Leaf:
    """A server with its chain."""
    return await (await make_hierarchy("ecdsa", ManualClock())).server("a.example")


FORMS: dict[str, Callable[[Leaf], bytes]] = {
    "certificate": lambda leaf: to_pem([leaf.certificate]),
    "chain, leaf first": lambda leaf: to_pem(leaf.chain),
    "certificate in DER": lambda leaf: leaf.certificate.public_bytes(Encoding.DER),
    "request": lambda leaf: pem_join("CERTIFICATE REQUEST", make_csr(leaf.private_key)),
    "request in DER": lambda leaf: make_csr(leaf.private_key),
    "public key": lambda leaf: pem_join("PUBLIC KEY", spki(leaf.private_key)),
    "public key in DER": lambda leaf: spki(leaf.private_key),
    "private key": lambda leaf: leaf.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    "private key in DER": lambda leaf: leaf.private_key.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    ),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_files(leaf: Leaf, tmp_path: Path, form: str) -> None:
    """Every form of a key's file names the same key."""
    (tmp_path / "file").write_bytes(FORMS[form](leaf))
    assert key_hash_of(str(tmp_path / "file")) == hashlib.sha256(spki(leaf.private_key)).digest()


@pytest.mark.parametrize("name", ["ml-dsa-44", "ed25519", "rsa-2048"])
def test_keys_of_every_family(tmp_path: Path, name: str) -> None:
    """What the CA certifies can be blocked."""
    key = generate_private_key(ALGORITHMS[name])
    (tmp_path / "csr").write_bytes(make_csr(key, names=Names.build(dns=["a.example"])))
    assert key_hash_of(str(tmp_path / "csr")) == hashlib.sha256(spki(key)).digest()


def test_a_hash_is_a_hash() -> None:
    """Hex in any spelling."""
    digest = hashlib.sha256(b"k").digest()
    assert key_hash_of(digest.hex()) == key_hash_of(digest.hex(":").upper()) == digest


def unclear(leaf: Leaf) -> dict[str, bytes]:
    """Files of which nobody can say whose key they are."""
    encrypted = leaf.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    return {
        "empty": b"",
        "text": b"hello",
        "encrypted": encrypted,
        "certificate and request": FORMS["certificate"](leaf) + FORMS["request"](leaf),
        "two keys": FORMS["public key"](leaf) * 2,
        "long": FORMS["certificate"](leaf) + b"#" * MAX_FILE,
    }


@pytest.mark.parametrize("what", ["empty", "text", "encrypted", "certificate and request", "two keys", "long"])
def test_files_that_name_no_key(leaf: Leaf, tmp_path: Path, what: str) -> None:
    """The sentence names the file; nothing is blocked by a guess."""
    (tmp_path / "file").write_bytes(unclear(leaf)[what])
    with pytest.raises(MalformedError, match="file"):
        key_hash_of(str(tmp_path / "file"))


def test_neither_file_nor_hash() -> None:
    """A missing file is no hash."""
    with pytest.raises(MalformedError, match=r"there is no file no/such/file, .* 64 hex digits"):
        key_hash_of("no/such/file")
