"""TLS for services and their clients, with ML-DSA, hybrid key exchange, stapling and CRLs.

Python's `ssl` is linked to an OpenSSL that knows none of these, so this package stands on pyOpenSSL, which brings its
own. `server` works under uvicorn, `client` under httpx or, between services, `http1`; `context` and `credentials` say
what both are made of.
"""

from __future__ import annotations

from pkicore.mtls.client import TlsClient
from pkicore.mtls.connection import TlsConnection
from pkicore.mtls.context import INTERNAL, PUBLIC, TlsRules
from pkicore.mtls.credentials import Credentials, CredentialsSource, load_credentials
from pkicore.mtls.http1 import Http1Client
from pkicore.mtls.observer import HandshakeObserver
from pkicore.mtls.peer import PeerIdentity
from pkicore.mtls.probe import HandshakeReport
from pkicore.mtls.revocation import CrlCache
from pkicore.mtls.server import TlsListener, TlsTimeouts
from pkicore.mtls.stapling import StapleCache

__all__ = [
    "INTERNAL",
    "PUBLIC",
    "Credentials",
    "CredentialsSource",
    "CrlCache",
    "HandshakeObserver",
    "HandshakeReport",
    "Http1Client",
    "PeerIdentity",
    "StapleCache",
    "TlsClient",
    "TlsConnection",
    "TlsListener",
    "TlsRules",
    "TlsTimeouts",
    "load_credentials",
]
