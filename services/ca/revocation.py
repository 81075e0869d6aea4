"""Revoking a certificate: who may, for which reason, exactly once.

The commit is the revocation. Everything that shows it (CRL, OCSP answers, staples, the feed) follows from the log of
revocations, in this process at once.
"""

from collections.abc import Collection
from typing import Final

from cryptography import x509

from pkicore.clock import Clock, unix
from pkicore.crl import REASONS, Revocation, encode_entry
from pkicore.errors import MalformedError
from pkicore.identity import SpiffeId
from services.ca.authorization import is_operator
from services.ca.errors import AlreadyRevokedError, NotAuthorisedError, ReasonError, UnknownCertificateError
from services.ca.feed import RevocationLog
from services.ca.store import CaStore, Ledgered, Revoked
from services.ca.wire import RevocationAnswer, RevocationRequest, format_serial, parse_serial
from services.chassis.database import AuditEvent
from services.chassis.errors import DuplicateError

_REFUSED: Final = {
    "removeFromCRL": "removeFromCRL only has a meaning in delta CRLs (RFC 5280 §5.3.1), which this CA does not make",
    "certificateHold": "certificateHold is not offered: revocations of this CA are final",
    "cACompromise": "cACompromise is for CA certificates; use keyCompromise for this one",
    "aACompromise": "aACompromise is for attribute authorities; use keyCompromise for this one",
}


def parse_reason(reason: str | int) -> str:
    """The RFC 5280 §5.3.1 name of a reason, given by name in any case, or by number.

    Raises:
        ReasonError: no such reason, or one that does not apply to the certificates of this CA.
    """
    by_name = {name.lower(): name for name in REASONS}
    by_number = {str(number): name for name, number in REASONS.items()}
    name = by_name.get(str(reason).lower()) or by_number.get(str(reason))
    if name is None:
        raise ReasonError(f"{str(reason)[:40]!r} is no revocation reason; there are {', '.join(_offered())}")
    if name in _REFUSED:
        raise ReasonError(_REFUSED[name])
    return name


def _offered() -> list[str]:
    return [f"{name} ({number})" for name, number in REASONS.items() if name not in _REFUSED]


class Revoker:
    """Revokes what the given issuers issued."""

    def __init__(self, *, store: CaStore, log: RevocationLog, issuers: Collection[str], clock: Clock) -> None:
        self._store = store
        self._log = log
        self._issuers = issuers
        self._clock = clock

    async def revoke(self, caller: SpiffeId, request: RevocationRequest) -> RevocationAnswer:
        """Revoke one certificate, or one intent that may have been signed.

        Raises:
            ReasonError: the reason does not apply.
            UnknownCertificateError: it was not issued here, or other bytes were issued under its serial.
            NotAuthorisedError: a service names a certificate that it did not ask for.
            AlreadyRevokedError: it was revoked before.
        """
        reason = parse_reason(request.reason)
        ledgered = await self._find(request)
        intent = ledgered.intent
        if intent.caller != str(caller) and not is_operator(caller):
            raise NotAuthorisedError(f"{caller} may only revoke certificates that it asked for")
        if intent.issuer not in self._issuers:
            raise NotAuthorisedError(f"{intent.issuer} is a root: revoke with `ztca ca root-crl --revoke`")
        now = self._clock.now()
        entry = encode_entry(Revocation(intent.serial, now, reason))
        revoked = Revoked(0, intent.serial, intent.issuer, unix(now), reason, intent.not_after, entry)
        detail = {"serial": format_serial(intent.serial), "issuer": intent.issuer, "reason": reason}
        event = AuditEvent("certificate.revoked", str(caller), detail)
        try:
            await self._store.revoke(ledgered, revoked, event, block_key=reason == "keyCompromise")
        except DuplicateError as error:
            if reason == "keyCompromise":
                await self._block(caller, ledgered, unix(now))
            raise AlreadyRevokedError(f"certificate {format_serial(intent.serial)} was revoked before") from error
        await self._log.refresh()
        return RevocationAnswer(format_serial(intent.serial), unix(now), reason)

    async def _block(self, caller: SpiffeId, ledgered: Ledgered, now: int) -> None:
        """The revocation stays as it is; a compromise that is told of later still keeps the key from coming back."""
        event = AuditEvent("key.blocked", str(caller), {"serial": format_serial(ledgered.intent.serial)})
        if not ledgered.blocked:
            await self._store.block_key(ledgered.intent.key_hash, now, event)

    async def _find(self, request: RevocationRequest) -> Ledgered:
        serial = parse_serial(request.serial) if request.serial is not None else _serial_of(request.certificate or b"")
        ledgered = await self._store.by_serial(serial)
        if ledgered is None or (request.certificate is not None and request.certificate != ledgered.certificate):
            raise UnknownCertificateError("this CA did not issue that certificate")
        return ledgered


def _serial_of(der: bytes) -> int:
    try:
        return x509.load_der_x509_certificate(der).serial_number
    except ValueError as error:
        raise MalformedError("certificate is not a DER X.509 certificate") from error
