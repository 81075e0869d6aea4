"""The client: HTTP over connections that check chain, purpose, name, CRL and staple before a byte of ours is sent."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import httpx
from cryptography import x509
from OpenSSL import SSL

from pkicore.clock import Clock
from pkicore.errors import HandshakeError, StatusError
from pkicore.identity import SpiffeId
from pkicore.mtls.admission import admit
from pkicore.mtls.connection import TlsConnection, open_connection
from pkicore.mtls.context import OnStaple, TlsRules, Verification, client_context
from pkicore.mtls.credentials import Credentials, CredentialsSource
from pkicore.mtls.engine import TlsEngine, reason_of, server_name
from pkicore.mtls.http1 import Http1Client
from pkicore.mtls.peer import PeerIdentity
from pkicore.mtls.pool import CountEvent, PooledTransport
from pkicore.mtls.probe import HandshakeReport, probe
from pkicore.mtls.revocation import CrlCache, ListMissingError
from pkicore.mtls.staple import check_staple


@dataclass(eq=False, kw_only=True)
class TlsClient:
    """Makes connections under one set of rules, and knows those that are open.

    Attributes:
        credentials: our own certificate, fixed or following its files; None where the server asks for none.
        rules: what is insisted on.
        trust: the trust anchors of servers.
        crls: the CRLs of all issuers of server certificates; None only where `rules.check_crl` is off.
        clock: the time.
        require_staple: whether the server must staple a good OCSP response.
        handshake_timeout: seconds for TCP and TLS together, where the caller of httpx sets none.
        count: hears of each connection and request.
    """

    credentials: Credentials | CredentialsSource | None
    rules: TlsRules
    trust: tuple[x509.Certificate, ...]
    crls: CrlCache | None
    clock: Clock
    require_staple: bool
    handshake_timeout: float = 10.0
    count: CountEvent | None = None
    _context: SSL.Context = field(init=False, repr=False)
    _connections: weakref.WeakSet[TlsConnection] = field(default_factory=weakref.WeakSet, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rules.check_crl and self.crls is None:
            raise ValueError("a client that checks CRLs needs CRLs")
        self._rebuild()
        if isinstance(self.credentials, CredentialsSource):
            self.credentials.subscribe(lambda _credentials: self._rebuild())
        if self.crls is not None:
            self.crls.subscribe(self._crls_changed)

    def http(self, expected: SpiffeId | None = None, *, base_url: str = "", timeout: float = 30.0) -> httpx.AsyncClient:
        """A pooled HTTP client; close it when done.

        Its requests raise HandshakeError or PeerMismatchError where TLS refuses, httpx's errors otherwise.

        Args:
            expected: the SPIFFE ID that the server must have; None checks the host of the URL instead.
            base_url: where relative URLs start.
            timeout: seconds for each of connecting, reading, writing and waiting for a pooled connection.
        """
        transport = PooledTransport(partial(self.connect, expected=expected), self.count)
        return httpx.AsyncClient(transport=transport, base_url=base_url, timeout=timeout, trust_env=False)

    def http1(self, expected: SpiffeId | None, base_url: str) -> Http1Client:
        """A pooled client of one server that costs little per request; close it when done.

        Args:
            expected: the SPIFFE ID that the server must have; None checks the host of the URL instead.
            base_url: https, host and port.

        Raises:
            MalformedError: another base URL.
        """
        return Http1Client(base_url, partial(self.connect, expected=expected), self.count)

    async def connect(self, host: str, port: int, *, expected: SpiffeId | None = None) -> TlsConnection:
        """One connection, checked.

        Raises:
            HandshakeError: TLS failed, or something about the server is not acceptable.
            PeerMismatchError: the server is not the one that was meant.
            OSError: TCP failed.
        """
        try:
            connection = await self._connect(host, port, expected)
        except HandshakeError as error:
            if self.crls is None or not isinstance(error.__cause__, ListMissingError):
                raise
            await self.crls.take_up(error.__cause__)
            connection = await self._connect(host, port, expected)
        self._connections.add(connection)
        if self.count is not None:
            self.count("connection")
        return connection

    async def _connect(self, host: str, port: int, expected: SpiffeId | None) -> TlsConnection:
        engine = self.engine(host, on_staple=self.judge_staple)
        return await open_connection(engine, self.admission(expected or host), host, port, self.handshake_timeout)

    def believe(self, trust: tuple[x509.Certificate, ...]) -> None:
        """New connections are judged by these trust anchors; open ones go on."""
        self.trust = trust
        self._rebuild()

    async def probe(self, url: str, expected: SpiffeId | None = None) -> HandshakeReport:
        """Shake hands once and report what was seen; refusals are reported, not raised.

        Raises:
            MalformedError: not an https URL.
            OSError: TCP failed.
        """
        return await probe(self, url, expected)

    def engine(self, host: str, *, on_staple: OnStaple) -> TlsEngine:
        """A fresh connection under the context of this moment."""
        verification = Verification(self._fresh_status, on_staple, self._unlisted)
        return TlsEngine(self._context, verification, server_name=server_name(host))

    def admission(self, expected: SpiffeId | str) -> Callable[[TlsEngine], PeerIdentity]:
        """What decides on a server once its handshake is done."""
        return partial(self._admit, expected)

    def judge_staple(self, der: bytes, chain: tuple[x509.Certificate, ...]) -> None:
        """Check a staple, where one is required.

        Raises:
            HandshakeError: there is none, or it does not say that the certificate is good now.
        """
        if self.require_staple:
            check_staple(der, chain, self.clock.now())

    def _admit(self, expected: SpiffeId | str, engine: TlsEngine) -> PeerIdentity:
        peer = admit(engine, self.rules, self.crls, self.clock.now())
        if peer is None:
            raise HandshakeError("no server certificate")
        peer.require(expected)
        return peer

    def _unlisted(self, certificate: x509.Certificate) -> bool:
        return self.crls is not None and self.rules.check_crl and self.crls.follows(certificate)

    def _fresh_status(self, _certificate: x509.Certificate) -> None:
        if self.crls is not None and self.rules.check_crl:
            self.crls.current()

    def _rebuild(self) -> None:
        source = self.credentials
        credentials = source.current() if isinstance(source, CredentialsSource) else source
        crls = self.crls.newest() if self.crls is not None and self.rules.check_crl else ()
        parsed = [x509.load_der_x509_crl(crl.der) for crl in crls]
        self._context = client_context(self.rules, credentials, self.trust, parsed)

    def _crls_changed(self) -> None:
        self._rebuild()
        for connection in tuple(self._connections):
            if connection.peer is not None and self.crls is not None:
                try:
                    self.crls.check(connection.peer.links)
                except StatusError as error:
                    connection.abort(HandshakeError(reason_of(error), connection.peer.name))
