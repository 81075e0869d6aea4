"""Whom a service believes: roots, issuing CAs, and where their CRLs are; it follows the files of the trust directory.

A root or an issuing CA comes and goes while everything runs. What comes counts once its CRL is at hand; what goes is
believed no more, and connections below it are closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import structlog
from cryptography import x509

from pkicore.algorithms import algorithm_of
from pkicore.errors import PkiError
from pkicore.mtls import CrlCache
from pkicore.x509.certificate import crl_urls, load_chain
from services.ca.client.settings import WayToCaSettings
from services.chassis.errors import SettingsError

ACTIVE: Final = "active"
"""The file beside the issuing CAs' certificates with the ids, a line each, of those that issue."""
_LOOK_SECONDS: Final = 2.0
_log: Final = structlog.get_logger("ca.client")

Believe = Callable[[tuple[x509.Certificate, ...]], None]


@dataclass(frozen=True)
class Trust:
    """What the files say.

    Attributes:
        roots: the trust anchors.
        crl_paths: below the CA's status listener, of each root and issuing CA.
        active: the issuing CAs that issue; none where the files do not say.
    """

    roots: tuple[x509.Certificate, ...]
    crl_paths: Mapping[x509.Certificate, str]
    active: tuple[x509.Certificate, ...] = ()

    @classmethod
    def load(cls, settings: WayToCaSettings) -> Trust:
        """Read the trust bundle and the issuers' certificates.

        Raises:
            SettingsError: a file is missing, is no certificate, or there is no issuer.
        """
        directory = settings.issuers_directory
        try:
            roots = load_chain(settings.trust_bundle.read_bytes())
            issuers = {path.stem: load_chain(path.read_bytes())[0] for path in directory.glob("*.pem")}
            names = (directory / ACTIVE).read_text().split() if (directory / ACTIVE).exists() else []
        except (OSError, PkiError) as error:
            raise SettingsError(f"trust_bundle or issuers_directory cannot be read: {error}") from error
        if not issuers:
            raise SettingsError(f"issuers_directory {directory} holds no certificate")
        paths = {certificate: f"/crl/{name}" for name, certificate in issuers.items()}
        for certificate in issuers.values():
            paths |= {root: _crl_path(certificate) for root in roots if root.subject == certificate.issuer}
        return cls(roots, paths, tuple(issuers[name] for name in names if name in issuers))

    def is_superseded(self, certificate: x509.Certificate) -> bool:
        """Whether its issuer issues no more, and another with a key of that family does: it is time to renew."""
        return superseded(certificate, self.crl_paths, self.active)


def superseded(
    certificate: x509.Certificate, known: Mapping[x509.Certificate, object], active: tuple[x509.Certificate, ...]
) -> bool:
    """Whether the issuer of a certificate is known, not active, and has an active one of its family beside it."""
    issuer = next((item for item in known if item.subject == certificate.issuer), None)
    if issuer is None or issuer in active:
        return False
    family = algorithm_of(issuer.public_key()).family
    return any(algorithm_of(item.public_key()).family == family for item in active)


def _crl_path(certificate: x509.Certificate) -> str:
    urls = crl_urls(certificate)
    if not urls:
        raise SettingsError(f"{certificate.subject.rfc4514_string()} names no CRL distribution point")
    return urlsplit(urls[0]).path


class FollowedTrust:
    """The trust in force; whoever subscribes hears of each change.

    Raises:
        SettingsError: the files cannot be read at the start. Later that is logged, and what was read before holds.
    """

    def __init__(self, settings: WayToCaSettings) -> None:
        self._settings = settings
        self.current = Trust.load(settings)
        self._paths = dict(self.current.crl_paths)
        self._subscribers: list[Believe] = []

    def subscribe(self, believe: Believe) -> None:
        """Have `believe` called with the roots whenever they change."""
        self._subscribers.append(believe)

    def crl_path(self, issuer: x509.Certificate) -> str:
        """Where the CRL of an issuer is that is, or was, trusted."""
        return self._paths[issuer]

    async def look(self, crls: CrlCache) -> bool:
        """Take up what has changed, CRLs first; whether each issuer counts now.

        Raises:
            SettingsError: the files cannot be read.
        """
        found = Trust.load(self._settings)
        self._paths |= found.crl_paths
        complete = await crls.follow(tuple(found.crl_paths))
        if found == self.current:
            return complete
        roots_before, self.current = self.current.roots, found
        if found.roots != roots_before:
            for believe in self._subscribers:
                believe(found.roots)
        _log.info("trust changed", roots=len(found.roots), issuers=len(found.crl_paths) - len(found.roots))
        return complete

    async def run(self, crls: CrlCache) -> None:
        """Look for ever, and cheaply: files are read only where one of them was written."""
        seen: object = None
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            stamp = self._stamp()
            if stamp == seen:
                continue
            try:
                seen = stamp if await self.look(crls) else None
            except SettingsError as error:
                _log.error("trust not read again", error=str(error))

    def _stamp(self) -> object:
        directory = self._settings.issuers_directory
        try:
            return [
                (status.st_ino, status.st_mtime_ns)
                for status in (path.stat() for path in (self._settings.trust_bundle, *sorted(directory.iterdir())))
            ]
        except OSError:
            return None
