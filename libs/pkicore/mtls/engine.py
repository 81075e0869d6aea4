"""One TLS connection as a machine without a socket: bytes in, bytes out, and errors in words."""

from __future__ import annotations

import re
from ipaddress import ip_address

from cryptography import x509
from OpenSSL import SSL, crypto

from pkicore.errors import (
    HandshakeError,
    IdentityError,
    PeerMismatchError,
    PkiError,
    RevokedError,
    StaleStatusError,
    StatusUnknownError,
)
from pkicore.mtls import openssl
from pkicore.mtls.context import Verification
from pkicore.mtls.peer import PeerIdentity, presented_name

_RECORD = 16 * 1024
_CHUNK = 64 * 1024  # pyOpenSSL allocates as much for each read; beyond this the C library maps and unmaps pages
_ALERT = re.compile(
    r"(?:ssl/tls|sslv3|tlsv13|tlsv1|tls) alert (?P<name>.+)"
    r"|tlsv1 (?P<old>bad certificate status response|unrecognized name|unsupported extension|certificate unobtainable)"
)
_WORDS = {
    "peer did not return a certificate": "no client certificate",
    "no suitable key share": "group not allowed",
    "no suitable groups": "group not allowed",
    "bad key share": "group not allowed",
    "http request": "plain HTTP",
    "https proxy request": "plain HTTP",
    "wrong version number": "not TLS",
}
_REASONS: tuple[tuple[type[PkiError], str], ...] = (
    (RevokedError, "certificate revoked"),
    (StaleStatusError, "revocation status is stale"),
    (StatusUnknownError, "revocation status is unknown"),
    (IdentityError, "names are not acceptable"),
    (PeerMismatchError, "another peer than expected"),
)


class TlsEngine:
    """OpenSSL between two memory buffers."""

    def __init__(
        self, context: SSL.Context, verification: Verification, *, server_name: str | None = None, server: bool = False
    ) -> None:
        self._connection = SSL.Connection(context, None)
        self._connection.set_app_data(verification)
        self._verification = verification
        if server:
            self._connection.set_accept_state()
            return
        self._connection.set_connect_state()
        self._connection.request_ocsp()
        if server_name is not None:
            self._connection.set_tlsext_host_name(server_name.encode("ascii"))

    def receive(self, data: bytes) -> None:
        """Take bytes from the network."""
        if data:  # to OpenSSL, writing nothing is an error
            self._connection.bio_write(data)

    def outgoing(self) -> bytes:
        """The bytes that are due to the network, b"" if none are."""
        parts: list[bytes] = []
        while True:
            try:
                part = self._connection.bio_read(_CHUNK)
            except SSL.WantReadError:
                break
            parts.append(part)
            if len(part) < _CHUNK:
                break
        return b"".join(parts)

    def handshake(self) -> bool:
        """Go on with the handshake; True once it is done. Refusals leave their alert in `outgoing`.

        Raises:
            HandshakeError: the handshake failed; its reason says why.
        """
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise self._refusal(error) from error
        # The callbacks have done their work; let go of what they hold.
        self._verification.on_peer = self._verification.on_staple = None
        return True

    def incoming(self) -> bytes | None:
        """The next decrypted bytes; None: more must be received first; b"": the peer has said that it is done.

        Raises:
            HandshakeError: the peer sent an alert or broke the protocol.
        """
        try:
            return self._connection.recv(_RECORD)
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise self._refusal(error) from error

    def send(self, data: bytes) -> None:
        """Encrypt into `outgoing`.

        Raises:
            HandshakeError: the connection has failed before.
        """
        try:
            self._connection.sendall(data)
        except SSL.Error as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Put a close_notify into `outgoing`, if the connection still can."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            return  # a connection that failed has already said so by its alert

    def peer(self) -> PeerIdentity | None:
        """The verified peer, None where it showed no certificate.

        Raises:
            BadCertificateError: a CA certificate instead of a peer's.
            IdentityError: the certificate's names break the rules.
        """
        chain = self._connection.get_verified_chain(as_cryptography=True)
        return PeerIdentity.from_chain(tuple(chain)) if chain else None

    def presented_chain(self) -> tuple[x509.Certificate, ...]:
        """The chain that the peer sent, leaf first; trusted or not."""
        return tuple(self._connection.get_peer_cert_chain(as_cryptography=True) or ())

    def presented_certificate(self) -> bytes | None:
        """The peer's own certificate as DER, trusted or not, readable or not; None where it showed none."""
        certificate = self._connection.get_peer_certificate()
        return None if certificate is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    @property
    def application_protocol(self) -> bytes:
        """The protocol that both ends agreed on by ALPN, b"" where they did not speak of any."""
        return self._connection.get_alpn_proto_negotiated()

    @property
    def group(self) -> str | None:
        """The key exchange group, as "X25519MLKEM768"."""
        return self._connection.get_group_name()

    @property
    def protocol(self) -> str:
        """The TLS version, as "TLSv1.3"."""
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str | None:
        """The cipher suite, as "TLS_AES_256_GCM_SHA384"."""
        return self._connection.get_cipher_name()

    def _refusal(self, error: SSL.Error) -> HandshakeError:
        verification = self._verification
        peer = presented_name(verification.rejected) if verification.rejected else None
        if verification.error is not None:
            return HandshakeError(reason_of(verification.error), peer)
        if verification.verify_error:
            return HandshakeError(openssl.verify_error_text(verification.verify_error), peer)
        return HandshakeError(_reason(error), peer)


def server_name(host: str) -> str | None:
    """What goes into the server name extension: addresses do not (RFC 6066 §3)."""
    try:
        ip_address(host)
    except ValueError:
        return host
    return None


def reason_of(error: PkiError) -> str:
    """The short, stable text for a refusal, fit for a metric label."""
    if isinstance(error, HandshakeError):
        return error.reason
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), str(error))


def _reason(error: SSL.Error) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    text = str(entries[-1][2]) if entries else "protocol error"
    alert = _ALERT.fullmatch(text)
    if alert:
        return f"refused by peer: {alert['name'] or alert['old']}"
    return _WORDS.get(text, text)
