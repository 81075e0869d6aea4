"""The file form of a private key: scrypt (RFC 7914) and AES-256-GCM around PKCS#8, the header authenticated with it.

cryptography's own encrypted PKCS#8 spends 2048 rounds of PBKDF2, which is too few, hence a form of our own:

    {"version": 1, "algorithm": "ml-dsa-65", "public_key": SPKI,
     "kdf": {"name": "scrypt", "n": 65536, "r": 8, "p": 1, "salt": 16 bytes},
     "cipher": {"name": "aes-256-gcm", "nonce": 12 bytes}, "ciphertext": bytes}

Bytes are base64url. Everything but `ciphertext` is the additional data of the cipher, in canonical JSON.
"""

from __future__ import annotations

import os
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pkicore.algorithms import PrivateKey, algorithm_of
from pkicore.encoding import base64url_decode, base64url_encode, canonical_json
from pkicore.errors import KeyLockedError, MalformedError, UnsupportedError

MAX_ENVELOPE_BYTES = 64 * 1024
SCRYPT_N = 1 << 16
# A hostile file could otherwise ask for all memory: n = 2**18 with r = 8 takes 256 MiB.
_SCRYPT_N_OFFERED = frozenset({1 << 16, 1 << 17, 1 << 18})
_SCRYPT_R, _SCRYPT_P = 8, 1
_SALT_BYTES, _NONCE_BYTES, _KEY_BYTES = 16, 12, 32
_VERSION = 1


def seal(private_key: PrivateKey, passphrase: bytes) -> bytes:
    """The envelope of a key, as JSON.

    Raises:
        KeyLockedError: the passphrase is empty.
        UnsupportedError: the key is not in the table.
    """
    if not passphrase:
        raise KeyLockedError("a key file needs a passphrase")
    public_key = private_key.public_key()
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    header: dict[str, Any] = {
        "version": _VERSION,
        "algorithm": algorithm_of(public_key).name,
        "public_key": base64url_encode(
            public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        ),
        "kdf": {"name": "scrypt", "n": SCRYPT_N, "r": _SCRYPT_R, "p": _SCRYPT_P, "salt": base64url_encode(salt)},
        "cipher": {"name": "aes-256-gcm", "nonce": base64url_encode(nonce)},
    }
    # PKCS#8 of ML-DSA keys is the 32-byte seed (RFC 9881 §6), which is what cryptography writes.
    plain = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    sealed = AESGCM(_derive(passphrase, salt, SCRYPT_N)).encrypt(nonce, plain, canonical_json(header))
    return canonical_json({**header, "ciphertext": base64url_encode(sealed)}) + b"\n"


def unseal(envelope: bytes, passphrase: bytes) -> PrivateKey:
    """The key of an envelope; takes about a quarter of a second and 64 MiB on purpose.

    Raises:
        MalformedError: not an envelope.
        UnsupportedError: an envelope of another version, or with parameters that are not offered.
        KeyLockedError: the passphrase is wrong, or the envelope was altered.
    """
    header, ciphertext = _parse(envelope)
    salt, nonce = _salt_and_nonce(header)
    key = _derive(passphrase, salt, header["kdf"]["n"])
    try:
        plain = AESGCM(key).decrypt(nonce, ciphertext, canonical_json(header))
    except InvalidTag:
        raise KeyLockedError("the key file cannot be opened with this passphrase") from None
    return _load(plain, header)


def _parse(envelope: bytes) -> tuple[dict[str, Any], bytes]:
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise MalformedError(f"a key file has at most {MAX_ENVELOPE_BYTES} bytes")
    try:
        header = orjson.loads(envelope)
        ciphertext = base64url_decode(header.pop("ciphertext"))
        version = header["version"]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise MalformedError("the key file is not one of ours") from None
    if version != _VERSION:
        raise UnsupportedError("the key file has a version that is not offered")
    return header, ciphertext


def _salt_and_nonce(header: dict[str, Any]) -> tuple[bytes, bytes]:
    try:
        kdf, cipher = header["kdf"], header["cipher"]
        offered = (kdf["name"], kdf["r"], kdf["p"], cipher["name"]) == ("scrypt", _SCRYPT_R, _SCRYPT_P, "aes-256-gcm")
        offered = offered and type(kdf["n"]) is int and kdf["n"] in _SCRYPT_N_OFFERED
        salt, nonce = base64url_decode(kdf["salt"]), base64url_decode(cipher["nonce"])
    except (TypeError, KeyError, AttributeError):
        raise MalformedError("the header of the key file is incomplete") from None
    if not offered:
        raise UnsupportedError("the key file names key derivation or cipher parameters that are not offered")
    if (len(salt), len(nonce)) != (_SALT_BYTES, _NONCE_BYTES):
        raise MalformedError("the key file has a salt or nonce of the wrong size")
    return salt, nonce


def _derive(passphrase: bytes, salt: bytes, n: int) -> bytes:
    return Scrypt(salt=salt, length=_KEY_BYTES, n=n, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase)


def _load(plain: bytes, header: dict[str, Any]) -> PrivateKey:
    try:
        # Skipping the primality tests of RSA keys saves up to 200 ms at each start. It is sound here alone: AES-GCM has
        # just shown that these are the bytes that `seal` wrote from a key that cryptography had accepted.
        key = serialization.load_der_private_key(plain, None, unsafe_skip_rsa_key_validation=True)
    except ValueError:
        raise MalformedError("the key file holds no PKCS#8 key") from None
    if not isinstance(key, PrivateKey) or algorithm_of(key.public_key()).name != header["algorithm"]:
        raise MalformedError("the key file holds another key than its header says")
    return key
