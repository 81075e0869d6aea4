"""Bearer tokens at signer-hsm: one good token names a subject, anything else is a refusal."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped] # the oracle has no types
from jwcrypto import jwt as oracle_jwt

from services.chassis.oidc import OidcIssuerSettings
from services.signer_hsm.errors import DeniedByPolicyError
from services.signer_hsm.policy import OidcSubject, OidcVerifier
from tests.support.clock import ManualClock

ISSUER = "https://id.test"
KEY = oracle_jwk.JWK.generate(kty="EC", crv="P-256", kid="k1", use="sig")
CLOCK = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
NOW = int(CLOCK.now().timestamp())


def bearer(**claims: object) -> bytes:
    """An Authorization header's value with a token made by jwcrypto."""
    good = {"iss": ISSUER, "aud": "signer-hsm", "sub": "alice", "iat": NOW, "exp": NOW + 300}
    token = oracle_jwt.JWT(header={"alg": "ES256", "kid": "k1"}, claims=good | claims)
    token.make_signed_token(KEY)
    return f"Bearer {token.serialize()}".encode()


@pytest.fixture
def tokens(tmp_path: Path) -> OidcVerifier:
    """A verifier that trusts one issuer, whose keys are in a file: nothing to close."""
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [KEY.export_public(as_dict=True)]}))
    issuer = OidcIssuerSettings.model_validate({"issuer": ISSUER, "audience": "signer-hsm", "jwks_file": keys})
    return OidcVerifier([issuer], clock=CLOCK, monotonic=lambda: 5.0)


async def test_a_good_token_names_its_subject(tokens: OidcVerifier) -> None:
    """Issuer, subject, and the claims that a rule can ask for: text, numbers and truth values."""
    subject = await tokens.subject_of([bearer(repository="org/x", protected=True, level=3, groups=["a"], nested={})])
    assert subject == OidcSubject(ISSUER, "alice")
    assert subject.claims["repository"] == "org/x"
    assert subject.claims["protected"] is True
    assert subject.claims["level"] == 3
    assert not {"groups", "nested"} & subject.claims.keys()


async def test_no_header_is_no_subject(tokens: OidcVerifier) -> None:
    """Only a request without any Authorization header is its certificate's alone."""
    assert await tokens.subject_of([]) is None


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ([b""], "malformed"),
        ([b"Basic YTpi"], "malformed"),
        ([bearer(), bearer()], "malformed"),
        ([bearer(aud="another")], "audience"),
        ([bearer(exp=NOW - 60)], "expired"),
    ],
)
async def test_anything_but_one_good_token_is_a_refusal(tokens: OidcVerifier, shown: list[bytes], reason: str) -> None:
    """It is never taken for no header, and the caller learns one word."""
    with pytest.raises(DeniedByPolicyError) as refused:
        await tokens.subject_of(shown)
    found = re.fullmatch(r"the bearer token is refused: ([a-z-]+)", str(refused.value))
    assert found is not None
    assert found[1] == reason
