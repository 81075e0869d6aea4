"""A TLS listener under uvicorn: `uvicorn.Config(app, http=listener.protocol_class)`.

Each connection: 1 handshake under a timer, chain, purpose and CRL checked by OpenSSL, each refusal with its own alert
2 key exchange group on the allow-list   3 chain checked against the newest CRLs   4 identity read, once
5 uvicorn's own HTTP protocol takes over; handlers find the `PeerIdentity` or None in `scope["state"]["peer"]`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from cryptography import x509
from OpenSSL import SSL

from pkicore.clock import Clock
from pkicore.errors import StaleStatusError, StatusError
from pkicore.mtls.admission import admit
from pkicore.mtls.context import TlsRules, Verification, server_context
from pkicore.mtls.credentials import Credentials, CredentialsSource
from pkicore.mtls.engine import TlsEngine
from pkicore.mtls.observer import HandshakeObserver
from pkicore.mtls.peer import PeerIdentity
from pkicore.mtls.protocol import TlsServerProtocol
from pkicore.mtls.revocation import CrlCache, ListMissingError
from pkicore.mtls.stapling import StapleCache


@dataclass(frozen=True)
class TlsTimeouts:
    """How long a peer may take, in seconds.

    Attributes:
        handshake: from the first byte of the connection to the end of the handshake.
        request_head: for a request's line and headers, from its first byte; for the first one, from the handshake.
        stall: without any progress while a body is received or a response sent.
        close: for taking what is buffered after the connection was closed or refused.
    """

    handshake: float = 10.0
    request_head: float = 10.0
    stall: float = 60.0
    close: float = 5.0


@dataclass(eq=False, kw_only=True)
class TlsListener:
    """What all connections of one listening socket share.

    New credentials and new CRLs become a new OpenSSL context for new connections; open ones go on, except those whose
    peer (or a CA above it) is revoked by the new CRL: they are closed at once.

    Attributes:
        name: names the listener towards the observer.
        credentials: fixed, or a source that follows the files.
        rules: what is insisted on.
        trust: the trust anchors of client certificates.
        crls: the CRLs of all issuers of client certificates; None only where no client certificate is checked.
        staples: where the OCSP staple comes from; None staples nothing.
        observer: hears of each handshake.
        clock: the time.
        timeouts: how long peers may take.
    """

    name: str
    credentials: Credentials | CredentialsSource
    rules: TlsRules
    trust: tuple[x509.Certificate, ...]
    crls: CrlCache | None
    staples: StapleCache | None
    observer: HandshakeObserver
    clock: Clock
    timeouts: TlsTimeouts = TlsTimeouts()
    connections: set[TlsServerProtocol] = field(default_factory=set, init=False)
    _serving: Credentials = field(init=False, repr=False)
    _context: SSL.Context = field(init=False, repr=False)
    _switch: asyncio.Task[None] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.checks_status and self.crls is None:
            raise ValueError("a listener that checks client certificates needs CRLs")
        source = self.credentials
        self._serving = source.current() if isinstance(source, CredentialsSource) else source
        self._rebuild()
        if isinstance(source, CredentialsSource):
            source.subscribe(self._credentials_changed)
        if self.crls is not None:
            self.crls.subscribe(self._crls_changed)

    @property
    def checks_status(self) -> bool:
        """Whether client certificates are checked against CRLs."""
        return self.rules.check_crl and self.rules.client_certificate != "none"

    @property
    def protocol_class(self) -> type[asyncio.Protocol]:
        """What `uvicorn.Config(http=...)` takes.

        Raises:
            StaleStatusError: the listener staples, but has no good staple: call `open` first.
        """
        if self.staples is not None:
            self.staples.staple(self._serving.certificate)

        class ListenerProtocol(TlsServerProtocol):
            listener = self

        return ListenerProtocol

    @property
    def serving(self) -> Credentials:
        """The credentials that new connections are shown."""
        return self._serving

    async def open(self) -> None:
        """Get the first staple, from disk or from the responder.

        Raises:
            StaleStatusError: there is no good staple, so the listener must not open.
        """
        if self.staples is not None:
            await self.staples.prepare(self._serving.certificate, self._issuer(self._serving))

    def believe(self, trust: tuple[x509.Certificate, ...]) -> None:
        """New connections are judged by these trust anchors; open ones go on."""
        self.trust = trust
        self._rebuild()

    async def aclose(self) -> None:
        """Stop following the credentials; connections are uvicorn's to drain."""
        if self._switch is not None:
            self._switch.cancel()
            with suppress(asyncio.CancelledError):
                await self._switch

    def engine(self) -> TlsEngine:
        """A fresh connection under the context of this moment."""
        verification = Verification(on_peer=self._fresh_status, unlisted=self._unlisted)
        return TlsEngine(self._context, verification, server=True)

    def admit(self, engine: TlsEngine) -> PeerIdentity | None:
        """Decide on a connection whose handshake is done.

        Raises:
            HandshakeError: the group is not allowed, or the peer is not acceptable after all.
        """
        return admit(engine, self.rules, self.crls, self.clock.now())

    async def take_up(self, missing: ListMissingError) -> None:
        """Get the lists that a peer's certificate names; `admit` has missed them."""
        if self.crls is not None:
            await self.crls.take_up(missing)

    def _unlisted(self, certificate: x509.Certificate) -> bool:
        return self.checks_status and self.crls is not None and self.crls.follows(certificate)

    def _fresh_status(self, _certificate: x509.Certificate) -> None:
        if self.checks_status and self.crls is not None:
            self.crls.current()

    def _rebuild(self) -> None:
        crls = self.crls.newest() if self.crls is not None and self.checks_status else ()
        staple = None if self.staples is None else partial(_staple, self.staples, self._serving.certificate)
        parsed = [x509.load_der_x509_crl(crl.der) for crl in crls]
        self._context = server_context(self.rules, self._serving, self.trust, parsed, staple)

    def _crls_changed(self) -> None:
        self._rebuild()
        for connection in tuple(self.connections):
            if connection.peer is not None and self.crls is not None:
                try:
                    self.crls.check(connection.peer.links)
                except StatusError:
                    connection.abort()

    def _credentials_changed(self, credentials: Credentials) -> None:
        if self._switch is not None:
            self._switch.cancel()
        self._switch = asyncio.get_running_loop().create_task(self._switch_to(credentials))

    async def _switch_to(self, credentials: Credentials) -> None:
        """The new certificate is shown only once its staple is at hand; the old one serves until then."""
        if self.staples is not None:
            await self.staples.wait_for(credentials.certificate, self._issuer(credentials))
        before, self._serving = self._serving, credentials
        self._rebuild()
        # Handshakes that began before still show the old certificate, and need its staple.
        asyncio.get_running_loop().call_later(self.timeouts.handshake, self._retire, before.certificate)

    def _retire(self, certificate: x509.Certificate) -> None:
        if self.staples is not None and certificate != self._serving.certificate:
            self.staples.forget(certificate)

    def _issuer(self, credentials: Credentials) -> x509.Certificate:
        leaf = credentials.certificate
        for candidate in (*credentials.chain[1:], *self.trust):
            if candidate.subject == leaf.issuer and _issued(candidate, leaf):
                return candidate
        raise StaleStatusError("the issuer of the listener's certificate is neither in its chain nor trusted")


def _staple(staples: StapleCache, certificate: x509.Certificate) -> bytes:
    """What to staple now; nothing rather than something stale (the client then knows to refuse)."""
    try:
        return staples.staple(certificate)
    except StatusError:
        return b""


def _issued(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 (the library raises several unrelated classes for "no")
        return False
    return True
