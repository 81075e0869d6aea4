"""What a client keeps: its account key, what it asked for, and the pairs of key and certificate.

    account.pem             the account key, for its owner alone
    request.json            what was asked for: `renew` asks for it again
    KEY-TYPE -> versions/KEY-TYPE-SERIAL
    versions/.../key.pem    a certificate's key, for its owner alone
    versions/.../cert.pem   the certificate, then its issuers

A key and its certificate change together, by one rename; former versions stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.encoding import sync_directory, write_atomically, write_new
from pkicore.errors import KeyNotFoundError, MalformedError
from pkicore.jose.strict import strict_object
from pkicore.keys.file import read_key_file
from pkicore.x509.certificate import load_chain, to_pem
from services.acme.acme_client.errors import RequestInputError

_SECRET, _PUBLIC = 0o600, 0o644
_REQUEST: Final = "request.json"


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for; paths as text."""

    server: str
    names: Sequence[str]
    key_types: Sequence[str]
    ca_bundle: str | None = None
    profile: str | None = None
    webroot: str | None = None
    standalone: str | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """A pair that is in its place."""

    key_type: str
    certificate: x509.Certificate
    path: Path


class Folder:
    """The folder of one request."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def account_key(self, key_type: str | None = None) -> PrivateKey:
        """The account key; where there is none yet, a new one of the type.

        Raises:
            RequestInputError: there is none, and no type is given; or the file holds none.
            KeyPermissionError: others can read it.
        """
        path = self.root / "account.pem"
        try:
            return _private_key(path, read_key_file(path))
        except KeyNotFoundError:
            if key_type is None:
                raise RequestInputError(f"there is no account in {self.root}: run ztca acme request first") from None
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = generate_private_key(ALGORITHMS[key_type])
        write_new(path, _pem(key), _SECRET)
        return key

    def remember(self, request: Request) -> None:
        """Keep what was asked for."""
        write_atomically(self.root / _REQUEST, orjson.dumps(asdict(request), option=orjson.OPT_INDENT_2), _PUBLIC)

    def request(self) -> Request:
        """What was asked for.

        Raises:
            RequestInputError: nothing, or the file is not what `remember` writes.
        """
        path = self.root / _REQUEST
        try:
            members = strict_object(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise RequestInputError(f"nothing was asked for in {self.root}: run ztca acme request first") from None
        except MalformedError as error:
            raise RequestInputError(str(error)) from error
        if members.keys() != {field.name for field in fields(Request)}:
            raise RequestInputError(f"{path} is not what ztca acme request writes")
        return Request(**members)

    def current(self, key_type: str) -> x509.Certificate | None:
        """The certificate that is in place."""
        path = self.root / key_type / "cert.pem"
        return first_certificate(path) if path.exists() else None

    def install(self, key_type: str, key: PrivateKey, chain: Sequence[x509.Certificate]) -> Installed:
        """Put a new pair in place of the old one, both at once, durably.

        Raises:
            OSError: the folder cannot be written.
        """
        version = self.root / "versions" / f"{key_type}-{chain[0].serial_number:x}"
        version.mkdir(parents=True, mode=0o700)
        write_new(version / "key.pem", _pem(key), _SECRET)
        write_new(version / "cert.pem", to_pem(chain), _PUBLIC)
        sync_directory(version.parent)
        link = self.root / f".{version.name}"
        link.symlink_to(version.relative_to(self.root))
        link.replace(self.root / key_type)
        sync_directory(self.root)
        return Installed(key_type, chain[0], self.root / key_type)


def first_certificate(path: Path) -> x509.Certificate:
    """The certificate of a file, in which its issuers may follow.

    Raises:
        RequestInputError: there is none in it.
        OSError: the file cannot be read.
    """
    try:
        return load_chain(path.read_bytes())[0]
    except (MalformedError, IndexError) as error:
        raise RequestInputError(f"{path} holds no certificate") from error


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _private_key(path: Path, pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise RequestInputError(f"{path} holds no private key without passphrase") from error
    if not isinstance(key, PrivateKey):
        raise RequestInputError(f"{path} holds a key of a kind that is not offered")
    return key
