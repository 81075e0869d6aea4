"""The Transit engine of the simulator, with the defaults that make wrong signatures: PSS, the longest salt, asn1.

Written from OpenBao 2.6.2's `builtin/logical/transit`; ML-DSA as Vault Enterprise documents it ("ml-dsa" with a
parameter set), or as OpenBao 2.7 announces it ("mldsa-65"). Both keep the message whole.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key
from tests.support.vault_simulator.errors import RefusalError, internal, invalid

Body = Mapping[str, Any]
MlDsa = Literal["", "vault", "openbao"]

_HASHES: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "sha2-256": ("sha256", hashes.SHA256()),
    "sha2-384": ("sha384", hashes.SHA384()),
    "sha2-512": ("sha512", hashes.SHA512()),
}
_CURVES = {"ecdsa-p256": "P-256", "ecdsa-p384": "P-384", "ecdsa-p521": "P-521"}


@functools.cache
def _wrapping_key() -> rsa.RSAPrivateKey:
    """One for all simulators of a process: it takes seconds to make."""
    return rsa.generate_private_key(65537, 4096)


@dataclass
class Version:
    """One version of a key."""

    private_key: PrivateKey
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat().replace("+00:00", "Z"))


@dataclass
class Key:
    """A Transit key; versions below `min_available` are gone, those below `min_decryption` are not shown."""

    name: str
    algorithm: str
    versions: dict[int, Version]
    flags: dict[str, bool]
    imported: bool = False
    rotates: bool = True
    deletion_allowed: bool = False
    min_available: int = 0
    min_decryption: int = 1
    min_encryption: int = 0

    @property
    def latest(self) -> int:
        """The newest version's number."""
        return max(self.versions)


class TransitEngine:
    """One mount."""

    def __init__(self, mldsa: MlDsa = "") -> None:
        self.mldsa = mldsa
        self.keys: dict[str, Key] = {}
        self._wrapping: rsa.RSAPrivateKey | None = None

    def show(self, name: str) -> dict[str, Any]:
        """A key as GET shows it.

        Raises:
            RefusalError: 404 with no sentence.
        """
        key = self.keys.get(name)
        if key is None:
            raise RefusalError(404)
        return self._data(key)

    def create(self, name: str, body: Body) -> dict[str, Any]:
        """Make a key; one that exists is shown, whatever its type (Vault adds a warning, OpenBao 2.6 does not)."""
        if name in self.keys:
            return self.show(name)
        algorithm = self._algorithm(body)
        flags = {flag: body.get(flag, False) is True for flag in ("exportable", "allow_plaintext_backup", "derived")}
        self.keys[name] = Key(name, algorithm, {1: Version(generate_private_key(ALGORITHMS[algorithm]))}, flags)
        return self.show(name)

    def rotate(self, name: str) -> dict[str, Any]:
        """One version more."""
        key = self._existing(name, "key not found")
        if key.imported and not key.rotates:
            raise internal(f"imported key {name} does not allow rotation within Vault")
        key.versions[key.latest + 1] = Version(generate_private_key(ALGORITHMS[key.algorithm]))
        key.imported = False
        return self.show(name)

    def configure(self, name: str, body: Body) -> dict[str, Any]:
        """Least versions, deletion, and the two flags that only ever go up."""
        key = self._existing(name, f"no existing key named {name} could be found")
        decryption = int(body.get("min_decryption_version", key.min_decryption)) or 1
        encryption = int(body.get("min_encryption_version", key.min_encryption))
        for what, least in (("decryption", decryption), ("encryption", encryption)):
            if least > key.latest:
                raise invalid(f"cannot set min {what} version of {least}, latest key version is {key.latest}")
        if 0 < encryption < decryption:
            raise invalid("cannot set min encryption/decryption values")
        if key.min_available > min(encryption, decryption):
            raise invalid("min encryption version should not be less than min available version")
        key.min_decryption, key.min_encryption = decryption, encryption
        key.deletion_allowed = bool(body.get("deletion_allowed", key.deletion_allowed))
        for flag in ("exportable", "allow_plaintext_backup"):
            key.flags[flag] = key.flags[flag] or body.get(flag) is True
        return self.show(name)

    def trim(self, name: str, body: Body) -> dict[str, Any]:
        """Forget versions, from the oldest up."""
        key = self._existing(name, "invalid key name")
        least = body.get("min_available_version")
        if not isinstance(least, int):
            raise invalid("missing min_available_version")
        if least < key.min_available:
            raise invalid("minimum available version cannot be decremented")
        if not key.min_encryption:
            raise invalid("minimum available version cannot be set when minimum encryption version is not set")
        if least > min(key.min_encryption, key.min_decryption) or least <= 0:
            raise invalid("minimum available version cannot be greater than minimum decryption version")
        key.min_available = least
        key.versions = {number: version for number, version in key.versions.items() if number >= least}
        return self.show(name)

    def delete(self, name: str) -> None:
        """Delete a key for good, if that has been allowed."""
        key = self._existing(name, f"could not delete key; not found: {name}")
        if not key.deletion_allowed:
            raise invalid("error deleting key: deletion is not allowed for this key")
        del self.keys[name]

    def wrapping_key(self) -> str:
        """PEM of the RSA key that imports are wrapped for."""
        self._wrapping = _wrapping_key()
        return self._wrapping.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def import_key(self, name: str, body: Body) -> None:
        """A new key from outside."""
        if name in self.keys:
            raise internal("the import path cannot be used with an existing key; use import-version")
        algorithm = self._algorithm(body)
        private_key = self._unwrapped(body, algorithm)
        flags = {flag: body.get(flag, False) is True for flag in ("exportable", "allow_plaintext_backup", "derived")}
        rotates = body.get("allow_rotation") is True
        self.keys[name] = Key(name, algorithm, {1: Version(private_key)}, flags, imported=True, rotates=rotates)

    def import_version(self, name: str, body: Body) -> None:
        """One version more, from outside."""
        key = self.keys.get(name)
        if key is None:
            raise internal(f"no key found with name {name}; to import a new key, use the import/ endpoint")
        if not key.imported:
            raise internal("the import_version endpoint can only be used with an imported key")
        key.versions[key.latest + 1] = Version(self._unwrapped(body, key.algorithm))

    def sign(self, name: str, body: Body) -> dict[str, Any]:
        """A signature, or one result per item of a batch."""
        hash_name = str(body.get("hash_algorithm") or "sha2-256")
        if hash_name not in _HASHES:
            raise invalid(f'invalid hash algorithm "{hash_name}"')
        if body.get("marshaling_algorithm", "asn1") not in {"asn1", "jws"}:
            raise invalid(f'invalid marshaling type "{body["marshaling_algorithm"]}"')
        key = self._existing(name, "signing key not found")
        version = int(body.get("key_version", 0)) or key.latest
        batch = body.get("batch_input")
        if batch is None:
            signature = self._signed(key, version, str(body.get("input", "")), body)
            return {"signature": signature, "key_version": version}
        if not batch:
            raise invalid("missing batch input to process")
        return {"batch_results": [self._item(key, version, item, body) for item in batch]}

    def _item(self, key: Key, version: int, item: Body, body: Body) -> dict[str, Any]:
        if "input" not in item:
            return {"error": "missing input"}
        try:
            return {"signature": self._signed(key, version, str(item["input"]), body), "key_version": version}
        except RefusalError as refusal:
            return {"error": refusal.errors[0]}

    def _signed(self, key: Key, number: int, text: str, body: Body) -> str:
        try:
            octets = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise invalid("unable to decode input as base64: illegal base64 data") from error
        if number > key.latest:  # the real one answers 500 to its own user error here
            raise internal("requested version for signing is higher than the latest key version")
        if number < key.min_encryption or number not in key.versions:
            raise internal("requested version for signing is less than the minimum encryption key version")
        signature = _sign(key.versions[number].private_key, octets, body)
        if body.get("marshaling_algorithm") == "jws" and key.algorithm in _CURVES:
            return f"vault:v{number}:{_jws(key.algorithm, signature)}"
        return f"vault:v{number}:{base64.b64encode(signature).decode()}"

    def _algorithm(self, body: Body) -> str:
        kind = str(body.get("type", "aes256-gcm96"))
        if kind == "ml-dsa" and self.mldsa == "vault":
            kind = f"ml-dsa-{body.get('parameter_set')}"
        elif kind == "ml-dsa":
            raise invalid("ml-dsa keys are an enterprise only feature")
        elif kind.startswith("mldsa-") and self.mldsa == "openbao":
            kind = f"ml-dsa-{kind.removeprefix('mldsa-')}"
        elif kind.startswith("ml-dsa"):
            kind = ""
        if kind not in ALGORITHMS:
            raise invalid(f"unknown key type {body.get('type')}")
        return kind

    def _unwrapped(self, body: Body, algorithm: str) -> PrivateKey:
        if body.get("hash_function", "SHA256") != "SHA256":
            raise invalid("unknown hash function")
        ciphertext = base64.b64decode(str(body.get("ciphertext", "")), validate=True)
        if len(ciphertext) <= 512:
            raise internal("provided ciphertext is too short")
        if self._wrapping is None:
            raise internal("error importing key: wrapping key was nil")
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        try:
            aes = self._wrapping.decrypt(ciphertext[:512], oaep)
            key = load_der_private_key(aes_key_unwrap_with_padding(aes, ciphertext[512:]), None)
        except (ValueError, InvalidUnwrap, InvalidTag) as error:
            raise internal("crypto/rsa: decryption error") from error
        if len(aes) != 32:
            raise internal("expected ephemeral AES key to be 256-bit")
        if algorithm_of(key.public_key()).name != algorithm:
            raise internal(f"error parsing key: expected {algorithm}")
        return key  # type: ignore[return-value] # the line above has seen to its type

    def _existing(self, name: str, sentence: str) -> Key:
        key = self.keys.get(name)
        if key is None:
            raise invalid(sentence)
        return key

    def _data(self, key: Key) -> dict[str, Any]:
        mldsa = key.algorithm.startswith("ml-dsa-")
        kind, level = key.algorithm, key.algorithm.removeprefix("ml-dsa-")
        if mldsa:
            kind = "ml-dsa" if self.mldsa == "vault" else f"mldsa-{level}"
        shown = {number: version for number, version in key.versions.items() if number >= key.min_decryption}
        return {
            "name": key.name,
            "type": kind,
            **({"parameter_set": level} if mldsa and self.mldsa == "vault" else {}),
            **key.flags,
            "deletion_allowed": key.deletion_allowed,
            "min_available_version": key.min_available,
            "min_decryption_version": key.min_decryption,
            "min_encryption_version": key.min_encryption,
            "latest_version": key.latest,
            "supports_encryption": kind.startswith("rsa"),
            "supports_decryption": kind.startswith("rsa"),
            "supports_signing": True,
            "supports_derivation": kind == "ed25519",
            "auto_rotate_period": 0,
            "imported_key": key.imported,
            **({"imported_key_allow_rotation": key.rotates} if key.imported else {}),
            "keys": {
                str(number): {
                    "name": _CURVES.get(key.algorithm, key.algorithm),
                    "public_key": self._public(version.private_key),
                    "certificate_chain": "",
                    "creation_time": version.created,
                }
                for number, version in shown.items()
            },
        }

    def _public(self, private_key: PrivateKey) -> str:
        public = private_key.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey) or (self.mldsa == "vault" and hasattr(public, "verify_mu")):
            return base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _sign(private_key: PrivateKey, octets: bytes, body: Body) -> bytes:
    hash_name, algorithm = _HASHES[str(body.get("hash_algorithm") or "sha2-256")]
    if not isinstance(private_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return private_key.sign(octets)  # prehashed or not: as a message
    digest = octets if body.get("prehashed") is True else hashlib.new(hash_name, octets).digest()
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return _ecdsa(private_key, digest)
    return _rsa(private_key, digest, algorithm, body)


def _ecdsa(private_key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """Of any length: the leftmost bits count, a short one is a small number."""
    size = (private_key.key_size + 7) // 8
    fitting: dict[int, Callable[[], hashes.HashAlgorithm]] = {32: hashes.SHA256, 48: hashes.SHA384, 64: hashes.SHA512}
    if len(digest) in fitting:
        return private_key.sign(digest, ec.ECDSA(utils.Prehashed(fitting[len(digest)]())))
    cut = digest[:size].rjust(32, b"\0")[:64]
    length = next(each for each in sorted(fitting) if each >= len(cut))
    return private_key.sign(cut.rjust(length, b"\0"), ec.ECDSA(utils.Prehashed(fitting[length]())))


def _rsa(private_key: rsa.RSAPrivateKey, digest: bytes, algorithm: hashes.HashAlgorithm, body: Body) -> bytes:
    if len(digest) != algorithm.digest_size:
        raise internal("crypto/rsa: input must be hashed message")
    scheme = str(body.get("signature_algorithm") or "pss")
    if scheme == "pkcs1v15":
        return private_key.sign(digest, padding.PKCS1v15(), utils.Prehashed(algorithm))
    if scheme != "pss":
        raise internal(f"unsupported rsa signature algorithm {scheme}")
    salt = str(body.get("salt_length", "auto"))
    length: Any = {"auto": padding.PSS.MAX_LENGTH, "hash": padding.PSS.DIGEST_LENGTH}.get(salt)
    if length is None:
        length = int(salt)
    return private_key.sign(digest, padding.PSS(padding.MGF1(algorithm), length), utils.Prehashed(algorithm))


def _jws(algorithm: str, signature: bytes) -> str:
    size = (int(algorithm.removeprefix("ecdsa-p")) + 7) // 8
    r, s = utils.decode_dss_signature(signature)
    return base64.urlsafe_b64encode(r.to_bytes(size, "big") + s.to_bytes(size, "big")).rstrip(b"=").decode()
