"""Renews a service's TLS certificate while it runs, with a new key each time.

The pair lies in one versioned directory, and one symbolic link names the version in force, so key and certificate
change together and a crash leaves the old pair or the new:

    DIR/cert.pem -> current/cert.pem    DIR/current -> versions/<time>-<random>/{cert.pem,key.pem}
    DIR/key.pem  -> current/key.pem

A directory with two plain files (what the ceremony writes) is taken over without a moment in which they differ.
"""

import asyncio
import os
import random
import secrets
import shutil
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, cast

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pkicore.algorithms import PrivateKey, algorithm_of, generate_private_key
from pkicore.clock import Clock, unix
from pkicore.encoding import write_new
from pkicore.errors import MalformedError
from pkicore.x509.certificate import load_chain

_LIFE_SHARE = 2 / 3
_JITTER_SHARE = 0.05
_LOOK_SECONDS = 30.0
_RETRY_FIRST = 5.0
_RETRY_LAST = 600.0

Issue = Callable[[bytes], Awaitable[bytes]]
"""Takes a CSR (DER), answers the new chain (PEM, leaf first, without the root)."""
Superseded = Callable[[x509.Certificate], bool]
"""Whether another has taken the place of a certificate's issuer, so that it is to be renewed before its time."""


class RotationObserver(Protocol):
    """Hears of each attempt to renew; `services.chassis.observability.TlsMetrics` is one."""

    def rotation(self, result: Literal["success", "failure"]) -> None:
        """An attempt has ended."""
        ...


class IdentityFiles:
    """A certificate chain and its key on disk, replaced together.

    Args:
        directory: Holds both; made with mode 0700 when missing.
        certificate: Name of the chain's file.
        key: Name of the key's file.
    """

    def __init__(self, directory: Path, certificate: str = "cert.pem", key: str = "key.pem") -> None:
        self.certificate_file = directory / certificate
        self.key_file = directory / key
        self._directory = directory
        self._versions = directory / "versions"
        self._current = directory / "current"

    def install(self, chain_pem: bytes, key_pem: bytes, at: datetime) -> None:
        """Puts a new pair in force; the pair before it is kept, older ones are removed.

        Raises:
            OSError: the directory cannot be written; the pair in force stays.
        """
        self._versions.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._is_plain():
            self._switch(self._write(self.certificate_file.read_bytes(), self.key_file.read_bytes(), at))
            self._link_names()
        previous = self._current.resolve()
        version = self._write(chain_pem, key_pem, at)
        self._switch(version)
        self._link_names()
        self._prune({version.name, previous.name})

    def _is_plain(self) -> bool:
        return self.key_file.exists() and not self._current.exists()

    def _write(self, chain_pem: bytes, key_pem: bytes, at: datetime) -> Path:
        version = self._versions / f"{unix(at):012d}-{secrets.token_hex(4)}"
        version.mkdir(mode=0o700)
        write_new(version / self.key_file.name, key_pem, 0o600)
        write_new(version / self.certificate_file.name, chain_pem, 0o644)
        _sync(self._versions)
        return version

    def _switch(self, version: Path) -> None:
        _replace_link(self._current, Path("versions") / version.name)

    def _link_names(self) -> None:
        for file in (self.certificate_file, self.key_file):
            if not file.is_symlink():
                _replace_link(file, Path("current") / file.name)

    def _prune(self, keep: set[str]) -> None:
        for version in self._versions.iterdir():
            if version.name not in keep:
                shutil.rmtree(version)


class IdentityRenewer:
    """Renews the certificate of an `IdentityFiles` at two thirds of its life.

    Args:
        files: The pair; there must be one already.
        issue: Obtains a certificate for a CSR.
        clock: Says when it is time.
        observer: Hears of each attempt.
        superseded: Whether a certificate is to be renewed before its time; none is if not given.
    """

    def __init__(
        self,
        files: IdentityFiles,
        issue: Issue,
        clock: Clock,
        observer: RotationObserver,
        superseded: Superseded = lambda _certificate: False,
    ) -> None:
        self._files = files
        self._issue = issue
        self._clock = clock
        self._observer = observer
        self._superseded = superseded
        self._log = structlog.get_logger("identity")
        self._jitter = random.uniform(-_JITTER_SHARE, _JITTER_SHARE)  # noqa: S311 - spreads load, no secret

    def due(self) -> datetime:
        """When the certificate in force is to be renewed.

        Raises:
            PkiError, OSError: the file is missing or holds no certificate.
        """
        leaf = self._leaf()
        life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        return leaf.not_valid_before_utc + life * (_LIFE_SHARE + self._jitter)

    async def run(self) -> None:
        """Renews for ever; a failure is logged and tried again after a wait that doubles up to ten minutes."""
        wait = _RETRY_FIRST
        while True:
            try:
                await self.renew_if_due()
            except Exception:  # noqa: BLE001 - whatever the issuer's client raises is logged and tried again
                self._log.exception("certificate not renewed", retry_seconds=wait)
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, no secret
                wait = min(wait * 2, _RETRY_LAST)
            else:
                wait = _RETRY_FIRST
                await asyncio.sleep(_LOOK_SECONDS)

    async def renew_if_due(self) -> bool:
        """Renews once if it is time; says whether it did.

        Raises:
            PkiError: the answer is not a certificate for the new key and the same names.
            Exception: whatever `issue` raises; the pair in force stays.
        """
        if self._clock.now() < self.due() and not self._superseded(self._leaf()):
            return False
        try:
            await self.renew()
        except Exception:  # counted here, handled by whoever asked
            self._observer.rotation("failure")
            raise
        self._observer.rotation("success")
        return True

    async def renew(self) -> None:
        """Renews now, with a new key of the same algorithm.

        Raises:
            PkiError: the answer is not a certificate for the new key and the same names.
            Exception: whatever `issue` raises; the pair in force stays.
        """
        old = self._leaf()
        key = await asyncio.to_thread(generate_private_key, algorithm_of(old.public_key()))
        chain_pem = await self._issue(_request(key, old))
        new = load_chain(chain_pem)[0]
        self._check(new, old, key)
        await asyncio.to_thread(self._files.install, chain_pem, _pkcs8(key), self._clock.now())
        self._log.info("certificate renewed", old_serial=f"{old.serial_number:x}", new_serial=f"{new.serial_number:x}")

    def _leaf(self) -> x509.Certificate:
        return load_chain(self._files.certificate_file.read_bytes())[0]

    def _check(self, new: x509.Certificate, old: x509.Certificate, key: PrivateKey) -> None:
        if new.public_key() != key.public_key():
            raise MalformedError("the issuer answered with a certificate for another key")
        if _names(new) != _names(old):
            raise MalformedError("the issuer answered with a certificate for other names")
        if new.not_valid_after_utc <= self._clock.now():
            raise MalformedError("the issuer answered with a certificate that has expired")


def _request(key: PrivateKey, old: x509.Certificate) -> bytes:
    builder = (
        x509.CertificateSigningRequestBuilder().subject_name(old.subject).add_extension(_names(old), critical=False)
    )
    digest = cast("hashes.SHA256 | hashes.SHA384 | None", algorithm_of(key.public_key()).signature_hash)
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise MalformedError("the certificate has no subjectAltName") from error


def _pkcs8(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _replace_link(link: Path, target: Path) -> None:
    fresh = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    fresh.symlink_to(target)
    fresh.replace(link)
    _sync(link.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
