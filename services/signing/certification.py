"""Short-lived certificates as the service has them: asked of our CA over mTLS, for the identity that a token names."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from pkicore.clock import Clock
from pkicore.errors import PkiError
from services.ca.client import CaError, CaUnavailableError
from services.ca.client.identity import Issuer
from services.ca.wire import CertificateRequest, Identifier
from services.signing.callers import Caller, CertificateIdentity, certificate_identity
from services.signing.certificates import CertificateIssuer, certified_key
from services.signing.errors import BadSignerAnswerError, SignerDownError, SignerRefusedError
from services.signing.keys import JobKey
from services.signing.trusted_root import TrustedRoot


@dataclass(frozen=True)
class CaIssuer:
    """The CA; a `services.signing.certificates.CertificateIssuer`.

    Attributes:
        authority: its client.
        profile: of the CA, for such certificates.
    """

    authority: Issuer
    profile: str

    async def issue(self, csr: bytes, identity: CertificateIdentity) -> bytes:
        """The chain in PEM, leaf first, without the root.

        Raises:
            CaError: there is none.
        """
        name = (
            Identifier("email", identity.san_email or "")
            if identity.san_uri is None
            else Identifier("uri", identity.san_uri)
        )
        request = CertificateRequest(
            csr=csr,
            profile=self.profile,
            identifiers=(name,),
            idempotency_key=f"signing-{hashlib.sha256(csr).hexdigest()}",
            requester={"purpose": "short-lived certificate", "issuer": identity.issuer},
            extensions=identity.extensions,
        )
        return (await self.authority.issue(request)).chain.encode()


@dataclass(frozen=True)
class OidcCertifier:
    """Makes keys with certificates; a `services.signing.signatures.Certifier`.

    Attributes:
        issuer: the CA.
        root: what verifiers are told to trust now.
        clock: the time.
    """

    issuer: CertificateIssuer
    root: Callable[[], TrustedRoot]
    clock: Clock

    @asynccontextmanager
    async def certified(self, caller: Caller) -> AsyncIterator[JobKey]:
        """A key for one request, dropped when the block ends.

        Raises:
            CertificateIdentityError: the caller's claims make no name.
            SignerDownError: the CA does not answer.
            SignerRefusedError: it says no.
            BadSignerAnswerError: nobody would believe what it answered.
        """
        async with AsyncExitStack() as stack:
            making = certified_key(certificate_identity(caller), self.issuer, self.root(), self.clock)
            try:
                key = await stack.enter_async_context(making)
            except CaUnavailableError as error:
                raise SignerDownError("the CA does not certify now") from error
            except CaError as error:
                raise SignerRefusedError("the CA does not certify this identity") from error
            except PkiError as error:
                raise BadSignerAnswerError("the CA answered with a certificate that nobody would believe") from error
            yield key
