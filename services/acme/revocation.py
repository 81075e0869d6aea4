"""revokeCert (RFC 8555 §7.6): by the account that ordered it, by one that holds all its names, or by its own key."""

from __future__ import annotations

from typing import Any, Final

import structlog
from cryptography import x509

from pkicore.algorithms import known_public_key
from pkicore.clock import Clock, unix
from pkicore.encoding import base64url_decode
from pkicore.errors import MalformedError
from pkicore.jose.jwk import thumbprint
from services.acme.accounts.blocked_keys import BlockedKeys
from services.acme.answers import retry_after
from services.acme.errors import AcmeError
from services.acme.orders.issuance import CertificateAuthority, fingerprint, spki
from services.acme.requests import AccountRequest, KeyRequest
from services.acme.store import CertificateRow, Store
from services.ca import client as ca
from services.ca.wire import RevocationRequest
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

# RFC 5280 §5.3.1; those of CAs, attribute authorities, holds and delta CRLs are not a subscriber's to give.
REASONS: Final = {
    0: "unspecified",
    1: "keyCompromise",
    3: "affiliationChanged",
    4: "superseded",
    5: "cessationOfOperation",
    9: "privilegeWithdrawn",
}
_RETRY_SECONDS: Final = 5


class Revocations:
    """The resource revokeCert."""

    def __init__(self, store: Store, authority: CertificateAuthority, blocked: BlockedKeys, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._blocked = blocked
        self._clock = clock
        self._log = structlog.get_logger("acme.revocation")

    async def post(self, request: AccountRequest | KeyRequest, _: str) -> Response:
        """Revoke a certificate; exactly 200 and an empty body say that it is done.

        1 the bytes are a certificate of ours, all of them · 2 the signer may revoke it; an account whose key was
        blocked a moment ago may not · 3 the reason is one a subscriber may give · 4 it is not revoked yet · 5 the CA
        revokes it · 6 that is recorded.

        Raises:
            AcmeError: malformed, unauthorized, badRevocationReason, alreadyRevoked or serverInternal.
        """
        members = request.members()
        der = _certificate_bytes(members)
        certificate = await self._store.certificate_by_fingerprint(fingerprint(der))
        if certificate is None or not await self._may_revoke(request, certificate, der):
            raise AcmeError("unauthorized", "who signed this request may not revoke this certificate")
        if isinstance(request, AccountRequest):
            await self._blocked.refuse_old(request.account.key_hash)
        reason = _reason(members)
        if certificate.revoked_at is not None:
            raise _already_revoked()
        await self._revoke(certificate, reason, _actor(request))
        return Response(200)

    async def _may_revoke(self, request: AccountRequest | KeyRequest, certificate: CertificateRow, der: bytes) -> bool:
        if isinstance(request, KeyRequest):
            leaf = x509.load_der_x509_certificate(der)  # known byte for byte, so it parses
            return spki(request.public_key) == spki(known_public_key(leaf.public_key()))
        if certificate.account_id == request.account.id:
            return True
        held = await self._store.authorized_names(request.account.id, unix(self._clock.now()))
        return held.issuperset(certificate.identifiers)

    async def _revoke(self, certificate: CertificateRow, reason: str, actor: str) -> None:
        try:
            await self._authority.revoke(RevocationRequest(reason=reason, serial=certificate.serial))
        except ca.AlreadyRevokedError as error:
            await self._record(certificate, reason, actor)
            raise _already_revoked() from error
        except ca.BadReasonError as error:
            raise AcmeError("badRevocationReason", error.detail) from error
        except ca.CaError as error:
            self._log.warning("revocation failed", serial=certificate.serial, error=str(error))
            raise AcmeError(
                "serverInternal",
                "the CA could not revoke the certificate now; try again",
                headers=[retry_after(_RETRY_SECONDS)],
            ) from error
        await self._record(certificate, reason, actor)

    async def _record(self, certificate: CertificateRow, reason: str, actor: str) -> None:
        detail = {"serial": certificate.serial, "reason": reason}
        try:
            await self._store.mark_revoked(
                certificate.id, unix(self._clock.now()), AuditEvent("certificate.revoked", actor, detail)
            )
        except ConflictError:
            self._log.info("revocation was recorded already", serial=certificate.serial)


def _certificate_bytes(members: dict[str, Any]) -> bytes:
    value = members.get("certificate")
    if not isinstance(value, str):
        raise AcmeError("malformed", "the payload must have certificate, a base64url string")
    try:
        return base64url_decode(value)
    except MalformedError as error:
        raise AcmeError("malformed", "certificate must be base64url of DER, not PEM") from error


def _reason(members: dict[str, Any]) -> str:
    value = members.get("reason", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value not in REASONS:
        offered = ", ".join(f"{number} ({name})" for number, name in REASONS.items())
        raise AcmeError("badRevocationReason", f"reason must be one of {offered}")
    return REASONS[value]


def _already_revoked() -> AcmeError:
    return AcmeError("alreadyRevoked", "this certificate is revoked already")


def _actor(request: AccountRequest | KeyRequest) -> str:
    if isinstance(request, KeyRequest):
        return f"certificate-key:{thumbprint(request.public_key)}"
    return f"account:{request.account.id}"
