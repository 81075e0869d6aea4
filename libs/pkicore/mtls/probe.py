"""A handshake looked at from the client's side: what was negotiated, who answered, and whether we would trust it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography import x509

from pkicore.algorithms import algorithm_of
from pkicore.errors import HandshakeError, IdentityError, MalformedError, PkiError, TransportError
from pkicore.identity import SpiffeId
from pkicore.mtls.connection import TlsConnection, open_connection
from pkicore.mtls.context import Verification, observing_context
from pkicore.mtls.engine import TlsEngine, reason_of, server_name
from pkicore.mtls.peer import PeerIdentity, names_of
from pkicore.mtls.staple import check_staple
from pkicore.x509 import PARSE_ERRORS

if TYPE_CHECKING:
    from pkicore.mtls.client import TlsClient

_TIMES = "%Y-%m-%dT%H:%M:%SZ"
_ACCEPTED = "accepted"
_NOT_VERIFIED = "not verified: no trust bundle"


@dataclass(frozen=True)
class HandshakeReport:
    """What one handshake showed; fields that were not reached are None or empty.

    Attributes:
        url: what was probed.
        accepted: whether both ends agreed.
        verdict: "accepted", or why not; "refused by peer: ..." names the alert that the server sent, and "not verified:
            no trust bundle" says that the client has no trust anchor.
        protocol: TLS version.
        cipher: cipher suite.
        group: key exchange group.
        peer_names: SPIFFE ID, DNS names and addresses of the server's certificate.
        serial: its serial number, hexadecimal.
        key_algorithm: of the server's key, such as ecdsa-p256.
        signature_algorithm: of the signature on its certificate.
        chain: the subjects of the chain (the issuer and serial where a subject is empty), the server's own first.
        expires: end of the server certificate's validity.
        staple: the stapled OCSP response: "good until ...", "no staple", or what is wrong with it.
        crl: what the CRLs say: "not revoked", "certificate revoked", or why it is not known.
    """

    url: str
    accepted: bool
    verdict: str
    protocol: str | None
    cipher: str | None
    group: str | None
    peer_names: tuple[str, ...]
    serial: str | None
    key_algorithm: str | None
    signature_algorithm: str | None
    chain: tuple[str, ...]
    expires: str | None
    staple: str
    crl: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass
class _Seen:
    """What one handshake let us see, however it ended."""

    verdict: str
    protocol: str | None = None
    cipher: str | None = None
    group: str | None = None
    chain: tuple[x509.Certificate, ...] = ()
    staple: bytes = b""
    staple_chain: tuple[x509.Certificate, ...] = field(default=())


async def probe(client: TlsClient, url: str, expected: SpiffeId | None = None) -> HandshakeReport:
    """Shake hands with an https server under a client's rules, and report; refusals are reported, not raised.

    Raises:
        MalformedError: not an https URL.
        OSError: TCP failed.
    """
    host, port = _address(url)
    seen = await _attempt(client, host, port, expected) if client.trust else _Seen(_NOT_VERIFIED)
    if not seen.chain:
        shown = await _look(client, host, port)
        seen.chain, seen.staple, seen.staple_chain = shown.chain, shown.staple, shown.chain
        if not client.trust:
            seen.protocol, seen.cipher, seen.group = shown.protocol, shown.cipher, shown.group
            seen.verdict = shown.verdict or _NOT_VERIFIED
    return _report(client, url, seen)


async def _attempt(client: TlsClient, host: str, port: int, expected: SpiffeId | None) -> _Seen:
    """The handshake as the client would make it, and one request: only its answer shows that we are let in."""
    seen = _Seen(_ACCEPTED)

    def keep_staple(der: bytes, chain: tuple[x509.Certificate, ...]) -> None:
        seen.staple, seen.staple_chain = der, chain
        client.judge_staple(der, chain)

    engine = client.engine(host, on_staple=keep_staple)
    try:
        connection = await open_connection(
            engine, client.admission(expected or host), host, port, client.handshake_timeout
        )
        await _ask(connection, host)
    except TransportError as error:
        seen.verdict = reason_of(error)
    except ConnectionError:
        seen.verdict = "connection closed without an answer"
    _note(engine, seen)
    return seen


async def _look(client: TlsClient, host: str, port: int) -> _Seen:
    """A second handshake that believes everything and says nothing, to describe a server that was not trusted."""
    seen = _Seen("")

    def keep_staple(der: bytes, chain: tuple[x509.Certificate, ...]) -> None:
        seen.staple, seen.staple_chain = der, chain

    def stop_here(engine: TlsEngine) -> PeerIdentity:
        _note(engine, seen)
        raise HandshakeError("seen enough")

    engine = TlsEngine(observing_context(), Verification(on_staple=keep_staple), server_name=server_name(host))
    try:
        await open_connection(engine, stop_here, host, port, client.handshake_timeout)
    except TransportError as error:
        _note(engine, seen)
        seen.verdict = "" if seen.chain else reason_of(error)
    return seen


async def _ask(connection: TlsConnection, host: str) -> None:
    try:
        await connection.write(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        await connection.read(1)
    finally:
        connection.close()


def _note(engine: TlsEngine, seen: _Seen) -> None:
    seen.chain = engine.presented_chain()
    seen.group = engine.group
    if engine.cipher is not None:
        seen.protocol, seen.cipher = engine.protocol, engine.cipher


def _report(client: TlsClient, url: str, seen: _Seen) -> HandshakeReport:
    leaf = seen.chain[0] if seen.chain else None
    now = client.clock.now()
    return HandshakeReport(
        url=url,
        accepted=seen.verdict == _ACCEPTED,
        verdict=seen.verdict,
        protocol=seen.protocol,
        cipher=seen.cipher,
        group=seen.group,
        peer_names=_names(leaf),
        serial=None if leaf is None else f"{leaf.serial_number:x}",
        key_algorithm=None if leaf is None else key_algorithm(leaf),
        signature_algorithm=None if leaf is None else leaf.signature_algorithm_oid._name,  # noqa: SLF001 (the only spelling)
        chain=tuple(_title(certificate) for certificate in seen.chain),
        expires=None if leaf is None else leaf.not_valid_after_utc.strftime(_TIMES),
        staple=_staple_status(seen, now),
        crl=_crl_status(client, seen.chain),
    )


def key_algorithm(leaf: x509.Certificate) -> str:
    """The algorithm of a certificate's key as our table calls it; else as its object identifier is called."""
    try:
        return algorithm_of(leaf.public_key()).name
    except (PkiError, *PARSE_ERRORS):
        return leaf.public_key_algorithm_oid._name  # noqa: SLF001 (the only spelling)


def _names(leaf: x509.Certificate | None) -> tuple[str, ...]:
    if leaf is None:
        return ()
    try:
        return names_of(leaf)
    except IdentityError:
        return ()


def _title(certificate: x509.Certificate) -> str:
    subject = certificate.subject.rfc4514_string()
    return subject or f"serial {certificate.serial_number:x} of {certificate.issuer.rfc4514_string()}"


def _staple_status(seen: _Seen, now: datetime) -> str:
    chain = seen.staple_chain or seen.chain
    if len(chain) < 2:  # noqa: PLR2004 (a certificate and its issuer)
        return "no staple" if not seen.staple else "not checked: the server sent no issuer"
    try:
        return f"good until {check_staple(seen.staple, chain, now).next_update.strftime(_TIMES)}"
    except HandshakeError as error:
        return error.reason


def _crl_status(client: TlsClient, presented: tuple[x509.Certificate, ...]) -> str:
    if client.crls is None:
        return "not checked"
    anchors = [anchor for anchor in client.trust if presented and anchor.subject == presented[-1].issuer]
    try:
        client.crls.current()
        client.crls.check(PeerIdentity.from_chain((*presented, *anchors[:1])).links)
    except PkiError as error:
        return reason_of(error)
    return "not revoked"


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise MalformedError(f"{url!r} is not a URL") from error
    if parts.scheme != "https" or not parts.hostname:
        raise MalformedError(f"{url!r} is not an https URL")
    return parts.hostname, port
