"""The tls-alpn-01 challenge (RFC 8737; for addresses RFC 8738 §6)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from pkicore.errors import HandshakeError
from pkicore.mtls.context import observing_context
from pkicore.mtls.observed import Observation, Observed
from pkicore.x509 import PARSE_ERRORS
from services.acme.challenges.attempt import Attempt
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.errors import NotReachedError, NotResolvedError
from services.chassis.outbound.addresses import AddressGuard, IPAddress
from services.chassis.outbound.dial import dial, reason_of
from services.chassis.outbound.resolver import Resolver

PROTOCOL: Final = b"acme-tls/1"
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # id-pe-acmeIdentifier
# An honest server sends under 10 kB, ML-DSA included; OpenSSL alone would read a chain of 100 kB.
MAX_HANDSHAKE_BYTES: Final = 64 * 1024
_OCTET_STRING: Final = b"\x04\x20"  # tag and length of a SHA-256 digest in DER


class TlsAlpn01:
    """Shakes hands with the identifier's server and looks for the digest of the key authorization in its certificate.

    Args:
        resolver: looks up names; an address is dialled as it is.
        guard: which addresses may be dialled.
        port: 443 outside of tests and demos (RFC 8737 §3).
        seconds: for the whole validation, look-ups included.
    """

    def __init__(self, resolver: Resolver, guard: AddressGuard, port: int, seconds: float) -> None:
        self._resolver = resolver
        self._guard = guard
        self._port = port
        self._seconds = seconds
        self._context = observing_context(PROTOCOL)

    async def validate(self, attempt: Attempt) -> None:
        """Look at the certificate that the server shows to whoever speaks the validation protocol.

        Raises:
            ValidationError: "dns", "connection", "tls" or "incorrectResponse".
        """
        identifier = attempt.identifier
        try:
            async with asyncio.timeout(self._seconds):
                addresses = self._guard.permitted(identifier.value, await self._addresses(identifier))
                observed = await self._observe(identifier, addresses)
        except TimeoutError as error:
            sentence = f"{identifier.value} did not finish a TLS handshake within {self._seconds:g} seconds"
            raise ValidationError("connection", sentence) from error
        except NotResolvedError as error:
            raise ValidationError("dns", str(error)) from error
        except NotReachedError as error:
            raise ValidationError("connection", str(error)) from error
        _check(observed, attempt)

    async def _addresses(self, identifier: Identifier) -> tuple[IPAddress, ...]:
        if identifier.type == "ip":
            return (ip_address(identifier.value),)
        return await self._resolver.addresses(identifier.value)

    async def _observe(self, identifier: Identifier, addresses: Sequence[IPAddress]) -> Observed:
        where = f"{identifier.value} port {self._port} ({', '.join(map(str, addresses))})"
        try:
            transport, observation = await dial(
                addresses,
                self._port,
                lambda: Observation(self._context, server_name(identifier), MAX_HANDSHAKE_BYTES),
                self._seconds,
            )
        except OSError as error:
            raise NotReachedError(f"{where}: {reason_of(error)}") from error
        try:
            return await observation.outcome
        except HandshakeError as error:
            raise ValidationError("tls", f"{where}: {error.reason}") from error
        finally:
            transport.close()


def server_name(identifier: Identifier) -> str:
    """What goes into the server name extension: of an address its name in the reverse tree (RFC 8738 §6)."""
    return ip_address(identifier.value).reverse_pointer if identifier.type == "ip" else identifier.value


def _check(observed: Observed, attempt: Attempt) -> None:
    """What RFC 8737 §3 asks of the certificate. Its validity is not asked for: the digest is of this challenge alone.

    Raises:
        ValidationError: "incorrectResponse".
    """
    who = attempt.identifier.value
    if observed.protocol != PROTOCOL:
        raise ValidationError(
            "incorrectResponse", f"{who} did not agree to the protocol acme-tls/1: its server answers as usual"
        )
    if observed.certificate is None:
        raise ValidationError("incorrectResponse", f"{who} showed no certificate")
    try:
        certificate = x509.load_der_x509_certificate(observed.certificate)
        extensions = certificate.extensions
        names = _names(extensions)
    except PARSE_ERRORS as error:
        raise ValidationError("incorrectResponse", f"the certificate of {who} cannot be read") from error
    _check_self_signed(certificate, who)
    _check_names(names, attempt.identifier)
    _check_digest(extensions, attempt)


def _names(extensions: x509.Extensions) -> list[x509.GeneralName]:
    try:
        return list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _check_self_signed(certificate: x509.Certificate, who: str) -> None:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, *PARSE_ERRORS) as error:
        raise ValidationError("incorrectResponse", f"the certificate of {who} is not self-signed") from error


def _check_names(names: Sequence[x509.GeneralName], identifier: Identifier) -> None:
    match names:
        case [x509.DNSName(value=name)] if identifier.type == "dns" and name.lower() == identifier.value:
            return
        case [x509.IPAddress(value=address)] if identifier.type == "ip" and str(address) == identifier.value:
            return
    kind = "address" if identifier.type == "ip" else "DNS name"
    found = "1 name" if len(names) == 1 else f"{len(names)} names"
    raise ValidationError(
        "incorrectResponse",
        f"the certificate of {identifier.value} has {found} (subjectAltName) "
        f"instead of exactly one, the {kind} {identifier.value}",
    )


def _check_digest(extensions: x509.Extensions, attempt: Attempt) -> None:
    where = f"the certificate of {attempt.identifier.value}"
    try:
        extension = extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except x509.ExtensionNotFound as error:
        raise ValidationError("incorrectResponse", f"{where} has no acmeIdentifier (1.3.6.1.5.5.7.1.31)") from error
    if not extension.critical:
        raise ValidationError("incorrectResponse", f"the acmeIdentifier of {where} is not critical")
    expected = _OCTET_STRING + hashlib.sha256(attempt.key_authorization.encode()).digest()
    if not hmac.compare_digest(extension.value.public_bytes(), expected):
        raise ValidationError(
            "incorrectResponse", f"the acmeIdentifier of {where} is not that of this challenge and account key"
        )
