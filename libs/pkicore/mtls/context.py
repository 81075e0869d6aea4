"""From rules, credentials, trust anchors and CRLs to an OpenSSL context. A context is never changed, only replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cryptography import x509
from OpenSSL import SSL, crypto

from pkicore.errors import PkiError
from pkicore.mtls import openssl
from pkicore.mtls.credentials import Credentials

HYBRID_GROUP = "X25519MLKEM768"

_HTTP11 = b"http/1.1"
_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


@dataclass(frozen=True)
class TlsRules:
    """What one listener or client insists on.

    Attributes:
        minimum_version: lowest TLS version, "1.2" or "1.3".
        groups: key exchange groups, the first preferred; () takes OpenSSL's default.
        client_certificate: whether a client must, may or need not show a certificate.
        check_crl: whether each certificate of the peer's chain needs a good word from its issuer's CRL.
    """

    minimum_version: Literal["1.2", "1.3"]
    groups: tuple[str, ...]
    client_certificate: Literal["required", "optional", "none"]
    check_crl: bool


INTERNAL = TlsRules("1.3", (HYBRID_GROUP,), "required", check_crl=True)
"""Between our own services: TLS 1.3, hybrid key exchange, both sides authenticated and checked for revocation."""

PUBLIC = TlsRules(
    "1.2", (HYBRID_GROUP, "X25519", "P-256", "P-384", "P-521"), client_certificate="optional", check_crl=True
)
"""Towards everybody: TLS 1.2 and up, hybrid key exchange preferred, a client certificate welcome."""


OnStaple: TypeAlias = Callable[[bytes, tuple[x509.Certificate, ...]], None]
"""Stapled response (b"" where there is none) and verified chain in; raises PkiError to refuse."""


@dataclass
class Verification:
    """What the callbacks of one handshake found; it travels as the connection's app data.

    Attributes:
        on_peer: called with the peer's certificate once its chain verified; raises PkiError to refuse it.
        unlisted: whether a peer's certificate, not yet verified, for which OpenSSL has no CRL is let pass here: its
            status is looked at once the handshake is done.
        on_staple: called with the stapled OCSP response (b"" where there is none) and the verified chain; likewise.
        error: what a callback refused.
        verify_error: OpenSSL's verify error number, 0 where the chain verified.
        rejected: the certificate that OpenSSL objected to, where it was the peer's own.
    """

    on_peer: Callable[[x509.Certificate], None] | None = None
    on_staple: OnStaple | None = None
    unlisted: Callable[[x509.Certificate], bool] | None = None
    error: PkiError | None = None
    verify_error: int = 0
    rejected: x509.Certificate | None = field(default=None, repr=False)


def server_context(
    rules: TlsRules,
    credentials: Credentials,
    trust: Iterable[x509.Certificate],
    crls: Iterable[x509.CertificateRevocationList],
    staple: Callable[[], bytes] | None,
) -> SSL.Context:
    """The context of a listener.

    No session is ever resumed: each connection proves and checks anew, and with ML-DSA a ticket would carry the
    client's whole chain.

    Raises:
        UnsupportedError: OpenSSL does not know one of the groups.
    """
    context = _context(SSL.TLS_SERVER_METHOD, rules, trust, crls)
    _use(context, credentials)
    # pyOpenSSL's set_options takes any SSL_OP_* bit; it has no name for this one.
    context.set_options(
        SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | openssl.NO_RENEGOTIATION
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(
        lambda _connection, offered: _HTTP11 if _HTTP11 in offered else SSL.NO_OVERLAPPING_PROTOCOLS
    )
    if rules.client_certificate != "none":
        required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if rules.client_certificate == "required" else 0
        context.set_verify(SSL.VERIFY_PEER | required, _verify_callback(trust))
    if staple is not None:
        context.set_ocsp_server_callback(lambda _connection, _data: staple())
    return context


def client_context(
    rules: TlsRules,
    credentials: Credentials | None,
    trust: Iterable[x509.Certificate],
    crls: Iterable[x509.CertificateRevocationList],
) -> SSL.Context:
    """The context of a client; the server's staple goes to `Verification.on_staple`.

    Raises:
        UnsupportedError: OpenSSL does not know one of the groups.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, rules, trust, crls)
    if credentials is not None:
        _use(context, credentials)
    context.set_options(SSL.OP_NO_COMPRESSION | openssl.NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_protos([_HTTP11])
    context.set_verify(SSL.VERIFY_PEER, _verify_callback(trust))
    context.set_ocsp_client_callback(_staple_callback)
    return context


def observing_context(protocol: bytes | None = None) -> SSL.Context:
    """The context of a client that believes everything, to describe servers; never for data.

    Args:
        protocol: the only application protocol that is asked for (ALPN, RFC 7301).
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_ocsp_client_callback(_staple_callback)
    if protocol is not None:
        context.set_alpn_protos([protocol])
    return context


def _context(
    method: int,
    rules: TlsRules,
    trust: Iterable[x509.Certificate],
    crls: Iterable[x509.CertificateRevocationList],
) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(_VERSIONS[rules.minimum_version])
    context.set_mode(openssl.NO_AUTO_CHAIN)
    context.set_cipher_list(_TLS12_CIPHERS)
    if rules.groups:
        openssl.set_groups(context, rules.groups)
    store = context.get_cert_store()
    if store is None:
        raise AssertionError("a fresh context has a certificate store")
    for anchor in trust:
        store.add_cert(crypto.X509.from_cryptography(anchor))
    if rules.check_crl:
        for crl in crls:
            store.add_crl(crl)
        # ALL alone checks nothing; without it, a revoked issuing CA would go unnoticed.
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
    return context


def _use(context: SSL.Context, credentials: Credentials) -> None:
    context.use_certificate(credentials.certificate)
    openssl.use_private_key(context, credentials.private_key)
    context.check_privatekey()
    for issuer in credentials.chain[1:]:
        context.add_extra_chain_cert(issuer)


def _verify_callback(
    trust: Iterable[x509.Certificate],
) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool]:
    anchors = frozenset(trust)

    def verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        verification: Verification = connection.get_app_data()
        if ok and (depth or verification.on_peer is None):
            return True
        presented = certificate.to_cryptography()
        if not ok:
            # CRL_CHECK_ALL asks for a CRL about the anchor too, which no anchor can usefully issue about itself.
            if error in {openssl.UNABLE_TO_GET_CRL, openssl.DIFFERENT_CRL_SCOPE}:
                unlisted = verification.unlisted
                if presented in anchors if depth else unlisted is not None and unlisted(presented):
                    return True
            verification.verify_error = error
            verification.rejected = presented if depth == 0 else None
            return False
        verification.rejected = presented
        on_peer = verification.on_peer
        return on_peer is None or _accepts(verification, lambda: on_peer(presented))

    return verify


def _staple_callback(connection: SSL.Connection, staple: bytes, _extra: object) -> bool:
    verification: Verification = connection.get_app_data()
    on_staple = verification.on_staple
    if on_staple is None:
        return True
    chain = tuple(connection.get_verified_chain(as_cryptography=True) or ())
    return _accepts(verification, lambda: on_staple(staple, chain))


def _accepts(verification: Verification, check: Callable[[], None]) -> bool:
    """OpenSSL wants yes or no from its callbacks; the exception waits in the verification for the engine."""
    try:
        check()
    except PkiError as error:
        verification.error = error
    return verification.error is None
