"""Which key somebody means who names a file, or says its hash."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from pkicore.errors import MalformedError
from services.ca.block_list.wire import parse_key_hash

MAX_FILE: Final = 128 * 1024
_LOADERS: Final[tuple[Callable[[bytes], Any], ...]] = (
    lambda data: x509.load_pem_x509_certificate(data).public_key(),
    lambda data: x509.load_pem_x509_csr(data).public_key(),
    load_pem_public_key,
    lambda data: load_pem_private_key(data, None).public_key(),
    lambda data: x509.load_der_x509_certificate(data).public_key(),
    lambda data: x509.load_der_x509_csr(data).public_key(),
    load_der_public_key,
    lambda data: load_der_private_key(data, None).public_key(),
)


def key_hash_of(named: str) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: of the key in a file, or as it is written.

    The file is a certificate or a chain, leaf first, whose leaf is meant; a certificate request, a public key or a
    private key without passphrase; PEM or DER.

    Raises:
        MalformedError: neither such a hash nor such a file.
    """
    path = Path(named)
    if not path.is_file():
        try:
            return parse_key_hash(named)
        except MalformedError as error:
            raise MalformedError(f"there is no file {named}, and it is no SHA-256 of a key: 64 hex digits") from error
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    blocks = data.count(b"-----BEGIN")
    if len(data) > MAX_FILE or (blocks > 1 and blocks != data.count(b"-----BEGIN CERTIFICATE-----")):
        raise MalformedError(f"{path} is too long, or holds more than one key: give one, so that it is clear which")
    return hashlib.sha256(_public_key(path, data)).digest()


def _public_key(path: Path, data: bytes) -> bytes:
    for load in _LOADERS:
        try:
            public: bytes = load(data).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            continue
        return public
    raise MalformedError(f"{path} is no certificate, request or key (without passphrase) in PEM or DER")
