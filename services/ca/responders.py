"""The delegated OCSP responders (RFC 6960 §4.2.2.2): a key each, and short-lived certificates from our own CA.

The certificate is renewed when a third of its life is left, through the same nine steps as any other; the key stays, so
that there is nothing to switch but one file.
"""

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from pkicore.clock import Clock, unix
from pkicore.encoding import write_atomically
from pkicore.errors import KeyNotFoundError, KeyUnavailableError, MalformedError, PkiError
from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.keys.file import FileKey
from pkicore.ocsp import Responder
from pkicore.x509.certificate import load_chain
from services.ca.client.csr import make_csr
from services.ca.errors import CaServiceError
from services.ca.issuance import Issuance, IssuingCa
from services.ca.wire import CertificateRequest
from services.chassis.errors import DatabaseError

PROFILE: Final = "ocsp-responder"
_CHECK: Final = 60.0  # seconds between looks at the certificates
_RETRY: Final = 5.0  # seconds after a failed renewal

_log = structlog.get_logger(__name__)


class DelegatedResponders:
    """One responder per issuing CA; `directory` holds `<issuer>.pem` for each."""

    def __init__(
        self,
        *,
        issuance: Issuance,
        cas: Mapping[str, IssuingCa],
        keys: Mapping[str, SigningKey],
        directory: Path,
        caller: SpiffeId,
        clock: Clock,
    ) -> None:
        self._issuance = issuance
        self._cas = cas
        self._keys = keys
        self._directory = directory
        self._caller = caller
        self._clock = clock
        self._current: dict[str, Responder] = {}

    def of(self, issuer: str) -> Responder:
        """The responder in force.

        Raises:
            KeyUnavailableError: there is none with a valid certificate.
        """
        responder = self._current.get(issuer)
        if responder is None or responder.end <= unix(self._clock.now()):
            raise KeyUnavailableError(f"the OCSP responder of {issuer} has no valid certificate")
        return responder

    async def ensure(self) -> None:
        """See to it that every responder has a certificate with more than a third of its life left.

        Raises:
            PkiError, CaServiceError, DatabaseError: a certificate could not be had.
        """
        for issuer in self.due():
            await self._renew(issuer)

    def due(self) -> list[str]:
        """The issuers whose responder has no certificate, or one with less than a third of its life left.

        Raises:
            KeyNotFoundError: a certificate on disk is not the one of the responder's key.
        """
        for issuer in self._cas:
            if issuer not in self._current:
                self._load(issuer)
        current = self._current
        return [name for name in self._cas if name not in current or self._is_old(current[name].certificate)]

    async def run(self) -> None:
        """Renew for ever; a failure is logged and tried again."""
        while True:
            pause = _CHECK
            try:
                await self.ensure()
            except (PkiError, CaServiceError, DatabaseError) as error:
                _log.error("OCSP responder not renewed", error=str(error))
                pause = _RETRY
            await asyncio.sleep(pause)

    def _path(self, issuer: str) -> Path:
        return self._directory / f"{issuer}.pem"

    def _load(self, issuer: str) -> None:
        try:
            (certificate, *_) = load_chain(self._path(issuer).read_bytes())
        except FileNotFoundError:
            return
        except MalformedError as error:
            _log.warning("OCSP responder certificate not read, a new one is made", issuer=issuer, error=str(error))
            return
        self._use(issuer, certificate)

    async def _renew(self, issuer: str) -> None:
        csr = await make_csr(self._keys[issuer], common_name=f"OCSP responder of {issuer}")
        wanted = CertificateRequest(csr, PROFILE, (), f"responder-{issuer}-{secrets.token_hex(8)}")
        outcome = await self._issuance.issue(self._caller, wanted, below=issuer)
        pem = outcome.answer.certificate.encode()
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(issuer), pem, 0o644)
        self._use(issuer, x509.load_pem_x509_certificate(pem))
        _log.info("OCSP responder renewed", issuer=issuer, serial=outcome.answer.serial)

    def _use(self, issuer: str, certificate: x509.Certificate) -> None:
        key = self._keys[issuer]
        if certificate.public_key() != key.public_key:
            raise KeyNotFoundError(f"{self._path(issuer)} is not a certificate of {key.uri}")
        above = self._cas[issuer].issuer.certificate
        if isinstance(key, FileKey):
            self._current[issuer] = Responder.of_own_key(certificate, key, above)
        else:
            self._current[issuer] = Responder(certificate, key, above)

    def _is_old(self, certificate: x509.Certificate) -> bool:
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return self._clock.now() >= certificate.not_valid_after_utc - life / 3
