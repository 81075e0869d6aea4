import inspect
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from pkicore.algorithms import ALGORITHMS, Payload, PrivateKey, PublicKey, generate_private_key, verify_signature
from pkicore.errors import KeyNotFoundError, KeyUnavailableError, UnsupportedError
from pkicore.keys import open_key
from pkicore.keys.remote import KeyUri, RemoteKey, RemotePublicKey, open_remote_key, reduce_message

OFFERED = [name for name, row in ALGORITHMS.items() if row.certificates and row.name != "rsa-4096"]
KINDS: frozenset[Payload] = frozenset({"digest", "mu", "message"})


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Where long messages are hashed."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


@dataclass
class PrehashedSigner:
    """A signer that signs what it is sent, as a token does: it never sees a message that it could hash itself."""

    keys: dict[str, PrivateKey]
    kinds: frozenset[Payload] = KINDS
    version: int = 1
    seen: list[tuple[str, int, Payload, bytes, str]] = field(default_factory=list)
    asked: list[tuple[str, int | None]] = field(default_factory=list)

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """The public half."""
        self.asked.append((key_id, version))
        return RemotePublicKey(self.version, self.keys[key_id].public_key(), self.kinds)

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """A signature over exactly this payload."""
        self.seen.append((key_id, version, kind, payload, scheme))
        key = self.keys[key_id]
        if isinstance(key, ec.EllipticCurvePrivateKey):
            digest: Any = hashes.SHA384() if key.key_size == 384 else hashes.SHA256()
            return key.sign(payload, ec.ECDSA(utils.Prehashed(digest)))
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(payload, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
        if isinstance(key, ed25519.Ed25519PrivateKey) or kind == "message":
            return key.sign(payload)
        return key.sign_mu(payload)


@dataclass
class Broken:
    """Answers whatever it is told to."""

    public: Any
    signature: Any = b"x"

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """Another answer than was asked for, perhaps."""
        del key_id
        return RemotePublicKey(version or 1, self.public, KINDS)

    async def sign(self, *_: object) -> bytes:
        """Likewise."""
        answer: bytes = self.signature
        return answer


async def opened(signer: PrehashedSigner, pool: Executor, uri: str = "signer-hsm:ca.k/1") -> RemoteKey:
    """The signer's only key."""
    return await open_remote_key(uri, signer, pool)


@pytest.mark.parametrize("name", OFFERED)
async def test_a_signature_over_the_payload_verifies_over_the_message(name: str, pool: Executor) -> None:
    """For each algorithm, what is sent to the signer stands for the message, and the scheme is the key's usual one."""
    row = ALGORITHMS[name]
    signer = PrehashedSigner({"ca.k": generate_private_key(row)})
    key = await opened(signer, pool)
    signature = await key.sign(b"to be signed")
    verify_signature(key.public_key, signature, b"to be signed")
    ((key_id, version, kind, payload, scheme),) = signer.seen
    assert (key_id, version, kind, scheme) == ("ca.k", 1, row.payload, row.jws)
    assert (payload == b"to be signed") == (kind == "message")


@pytest.mark.parametrize("name", ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_mu_is_that_of_an_independent_implementation(name: str) -> None:
    """A signature over our mu verifies over the message, and over no other message."""
    private_key = generate_private_key(ALGORITHMS[name])
    assert isinstance(private_key, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey)
    mu = reduce_message(private_key.public_key(), "mu", b"message")
    assert len(mu) == 64
    private_key.public_key().verify(private_key.sign_mu(mu), b"message")


def test_mu_is_bound_to_the_key() -> None:
    """Two keys have two mus for one message, so a mu is computed with the key's own public half."""
    first, second = (generate_private_key(ALGORITHMS["ml-dsa-65"]).public_key() for _ in range(2))
    assert reduce_message(first, "mu", b"m") != reduce_message(second, "mu", b"m")


async def test_a_key_that_takes_messages_only_gets_the_message(pool: Executor) -> None:
    """An ML-DSA key behind a module without mu is sent the message itself."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ml-dsa-65"])}, kinds=frozenset({"message"}))
    key = await opened(signer, pool)
    verify_signature(key.public_key, await key.sign(b"whole"), b"whole")
    assert signer.seen[0][2:4] == ("message", b"whole")


@pytest.mark.parametrize(
    ("name", "kinds"), [("ecdsa-p256", {"message"}), ("ml-dsa-65", {"digest"}), ("ed25519", {"mu"})]
)
async def test_a_key_without_a_fitting_payload_is_refused(name: str, kinds: set[Payload], pool: Executor) -> None:
    """A digest algorithm is never sent a message to be hashed there, nor another kind than it signs."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS[name])}, kinds=frozenset(kinds))
    with pytest.raises(KeyUnavailableError, match="takes no payload"):
        await opened(signer, pool)


@pytest.mark.parametrize(
    ("name", "kind"), [("ecdsa-p256", "mu"), ("rsa-2048", "message"), ("ed25519", "digest"), ("ml-dsa-44", "digest")]
)
def test_a_message_is_not_reduced_to_what_does_not_exist(name: str, kind: Payload) -> None:
    """There is no digest for ML-DSA and Ed25519, and no mu for anything else."""
    with pytest.raises(UnsupportedError, match="no payload of the kind"):
        reduce_message(generate_private_key(ALGORITHMS[name]).public_key(), kind, b"")


async def test_a_long_message_is_hashed_in_the_pool(pool: Executor) -> None:
    """A CRL of megabytes does not hold the event loop, and its signature verifies all the same."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ecdsa-p256"])})
    key = await opened(signer, pool)
    message = bytes(3 << 20)
    verify_signature(key.public_key, await key.sign(message), message)


@pytest.mark.parametrize(
    ("text", "key_id", "version"),
    [
        ("signer-hsm:ca.issuing-ecdsa/1", "ca.issuing-ecdsa", 1),
        ("signer-hsm:ca.issuing-ecdsa", "ca.issuing-ecdsa", None),
        ("signer-hsm:0.0/999999999", "0.0", 999999999),
    ],
)
def test_a_uri_is_read_and_written_alike(text: str, key_id: str, version: int | None) -> None:
    """Tenant, name and version, and back."""
    assert KeyUri.parse(text) == KeyUri(key_id, version)
    assert str(KeyUri.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "signer-hsm:",
        "signer-hsm:ca",
        "signer-hsm:ca.",
        "signer-hsm:.k",
        "signer-hsm:ca.k/",
        "signer-hsm:ca.k/0",
        "signer-hsm:ca.k/01",
        "signer-hsm:ca.k/-1",
        "signer-hsm:ca.k/1/2",
        "signer-hsm:ca.k/1 ",
        "signer-hsm:ca.k/1\n",
        "signer-hsm:ca.k.l/1",
        "signer-hsm:Ca.k/1",
        "signer-hsm:ca.k/../x",
        "signer-hsm:ca.k/\N{ARABIC-INDIC DIGIT ONE}",
        "signer-hsm:ca.k?version=1",
        "signer-hsm://ca.k/1",
        "signer_hsm:ca.k/1",
        "signer-hsm:" + "a" * 33 + ".k/1",
        "signer-hsm:ca." + "a" * 64 + "/1",
    ],
)
def test_any_other_uri_is_refused(text: str) -> None:
    """Nothing is guessed, trimmed or unescaped."""
    with pytest.raises(UnsupportedError, match="names no key of signer-hsm"):
        KeyUri.parse(text)


async def test_a_uri_without_version_is_pinned_when_it_is_opened(pool: Executor) -> None:
    """What was current at the opening is asked for ever after, whatever is rotated meanwhile."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ecdsa-p256"])}, version=7)
    key = await opened(signer, pool, "signer-hsm:ca.k")
    await key.sign(b"")
    assert key.uri == "signer-hsm:ca.k/7"
    assert signer.seen[0][1] == 7


async def test_a_key_of_a_certificate_needs_a_version(pool: Executor) -> None:
    """A key that stands for a certificate cannot follow a rotation."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ecdsa-p256"])})
    with pytest.raises(UnsupportedError, match="has no version"):
        RemoteKey("signer-hsm:ca.k", signer.keys["ca.k"].public_key(), signer, pool)


async def test_another_key_is_never_signed_with(pool: Executor) -> None:
    """A signer that holds another key than the certificate's is found out before anything is sent to be signed."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ecdsa-p256"])})
    expected = generate_private_key(ALGORITHMS["ecdsa-p256"]).public_key()
    key = RemoteKey("signer-hsm:ca.k/1", expected, signer, pool)
    with pytest.raises(KeyNotFoundError, match="is another key at the signer"):
        await key.sign(b"m")
    assert signer.seen == []


async def test_another_version_is_never_taken(pool: Executor) -> None:
    """The same key under another version number is not what was asked for."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ecdsa-p256"])}, version=2)
    with pytest.raises(KeyNotFoundError):
        await opened(signer, pool, "signer-hsm:ca.k/1")


async def test_the_signer_is_asked_once_whose_key_it_is(pool: Executor) -> None:
    """No question per signature."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ed25519"])})
    key = RemoteKey("signer-hsm:ca.k/1", signer.keys["ca.k"].public_key(), signer, pool)
    for _ in range(3):
        await key.sign(b"m")
    assert signer.asked == [("ca.k", 1)]


@pytest.mark.parametrize("answer", [b"", "text", None, 7])
async def test_what_is_no_signature_is_no_answer(answer: object, pool: Executor) -> None:
    """A signer that answers with something else is a signer that does not answer."""
    public = generate_private_key(ALGORITHMS["ecdsa-p256"]).public_key()
    key = RemoteKey("signer-hsm:ca.k/1", public, Broken(public, answer), pool)
    with pytest.raises(KeyUnavailableError, match="no signature"):
        await key.sign(b"m")


@pytest.mark.parametrize("answer", [b"key", None, "text"])
async def test_what_is_no_public_key_is_no_answer(answer: object, pool: Executor) -> None:
    """Likewise when the key is opened."""
    with pytest.raises(KeyUnavailableError, match="no public key"):
        await open_remote_key("signer-hsm:ca.k/1", Broken(answer), pool)


def _no_passphrase(uri: str) -> bytes:
    raise AssertionError(f"somebody asked for the passphrase of {uri}")


async def test_no_file_and_no_passphrase_is_asked_for(pool: Executor) -> None:
    """`open_key` gives a key of signer-hsm without touching a file, and refuses where there is no signer."""
    signer = PrehashedSigner({"ca.k": generate_private_key(ALGORITHMS["ecdsa-p256"])})
    key = await open_key("signer-hsm:ca.k/1", secrets=_no_passphrase, pool=pool, signer=signer)
    assert isinstance(key, RemoteKey)
    with pytest.raises(UnsupportedError, match="needs signer-hsm"):
        await open_key("signer-hsm:ca.k/1", secrets=_no_passphrase, pool=pool)
    with pytest.raises(UnsupportedError, match="names no key"):
        await open_key("signer-hsm:/etc/passwd", secrets=_no_passphrase, pool=pool, signer=signer)


def test_there_is_no_way_to_a_private_key(pool: Executor) -> None:
    """No attribute, no method and no word of a remote key has anything of a private key."""
    private_key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    public: PublicKey = private_key.public_key()
    key = RemoteKey("signer-hsm:ca.k/1", public, PrehashedSigner({"ca.k": private_key}), pool)
    held = [value for name, value in inspect.getmembers(key) if name != "signer"]
    assert not any(isinstance(value, PrivateKey) for value in held)
    assert not [name for name in dir(key) if "private" in name]
    with pytest.raises(AttributeError):
        _ = key.private_key  # type: ignore[attr-defined] # the point of this test
    assert "signer=" not in repr(key)
