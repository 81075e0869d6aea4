"""What a client makes of a stapled response."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.x509 import ocsp

from pkicore.errors import HandshakeError
from pkicore.mtls.staple import check_staple
from tests.support.tls_pki import Authority, TlsPki, now

PKI = TlsPki.make("ecdsa")
MINE = PKI.service("ca")
OTHER = PKI.service("other").certificate
GOOD = PKI.issuing.staple(MINE.certificate)


def test_a_good_staple_says_until_when() -> None:
    """The end is what the probe shows."""
    fresh = PKI.issuing.staple(MINE.certificate)
    assert check_staple(fresh, MINE.chain, now()).next_update > now() + timedelta(minutes=50)


@pytest.mark.parametrize(
    ("der", "reason"),
    [
        (b"", "no staple"),
        (b"garbage", "staple does not parse"),
        (GOOD[:-1], "staple does not parse"),
        (PKI.issuing.staple(OTHER), "staple says unknown, or is about another certificate"),
        (PKI.issuing.staple(MINE.certificate, at=now() - timedelta(days=1)), "staple is stale"),
        (PKI.issuing.staple(MINE.certificate, at=now() + timedelta(days=1)), "staple is stale"),
        (PKI.issuing.staple(MINE.certificate, status=ocsp.OCSPCertStatus.REVOKED), "staple says revoked"),
        (
            PKI.issuing.staple(MINE.certificate, signer=Authority.make("issuing", "ecdsa")),
            "staple is not signed by the issuer",
        ),
        (PKI.issuing.staple(MINE.certificate, signer=PKI.root), "staple is not signed by the issuer"),
    ],
)
def test_any_other_is_refused_by_its_reason(der: bytes, reason: str) -> None:
    """Missing, broken, foreign, stale, early, revoked and forged each have a name."""
    with pytest.raises(HandshakeError) as caught:
        check_staple(der, MINE.chain, now())
    assert caught.value.reason == reason
