"""The way to signer-hsm: a pooled mTLS client whose every answer comes in time, or not at all.

The service starts without signer-hsm, and answers 503 to whoever wants signatures until it is there.
"""

from __future__ import annotations

from typing import Final

from pkicore.clock import Clock
from pkicore.identity import SpiffeId
from pkicore.keys.timed import TimedSigner
from pkicore.mtls import INTERNAL, Http1Client, TlsClient
from services.ca.client.way import WayToCa
from services.signer_hsm.client import SignerClient
from services.signing.settings import SigningSettings

SIGNER: Final = "signer-hsm"


def http_to_signer(settings: SigningSettings, ca: WayToCa, clock: Clock) -> Http1Client:
    """The client's connections; nothing is sent yet."""
    tls = TlsClient(
        credentials=ca.credentials,
        rules=INTERNAL,
        trust=ca.trust.roots,
        crls=ca.crls,
        clock=clock,
        require_staple=True,
        handshake_timeout=settings.signer_timeout_seconds,
    )
    ca.followed.subscribe(tls.believe)
    return tls.http1(SpiffeId.service(settings.trust_domain, SIGNER), settings.signer_url)


def signer_over(http: Http1Client, seconds: float) -> TimedSigner:
    """What signs over these connections."""
    return TimedSigner(SignerClient(http), seconds)
