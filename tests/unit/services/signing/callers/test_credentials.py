"""The one credential of a request: none is nobody, two are refused, and each kind goes its own way."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pkicore.identity import SpiffeId
from services.signing.callers import (
    ApiKeyRecord,
    ApiKeys,
    Caller,
    Callers,
    CredentialError,
    MtlsBinding,
    MtlsCallers,
    OidcCallers,
    Scopes,
    SigningIssuerSettings,
    new_api_key,
)
from tests.support.ci_tokens import AUDIENCE, GITHUB, KEY, NOW, START, ci_token, write_keys
from tests.support.clock import ManualClock

API_KEY = new_api_key(Caller("mtls", "x", "bolt"), Scopes(actions=frozenset({"sign"})), 3600, NOW)
BUILD = SpiffeId.parse("spiffe://test/workload/build")


@dataclass
class TlsPeer:
    """A verified peer as the listener hands it in."""

    spiffe_id: SpiffeId | None


class OneKey:
    """A store with one API key."""

    async def find_api_key(self, key_id: str) -> ApiKeyRecord | None:
        """As ApiKeyStore has it."""
        return API_KEY.record if key_id == API_KEY.record.id else None

    async def api_key_used(self, key_id: str, at: int) -> None:
        """As ApiKeyStore has it."""


@pytest.fixture
async def callers(tmp_path: Path) -> AsyncIterator[Callers]:
    """An API key of bolt's, a repository of acme's, a workload of core's."""
    clock = ManualClock(START)
    settings = SigningIssuerSettings.model_validate(
        {
            "issuer": GITHUB,
            "audience": AUDIENCE,
            "provider": "github",
            "jwks_file": write_keys(tmp_path / "keys.json", KEY),
            "algorithms": ["RS256"],
            "github": [{"tenant": "acme", "repository_owner_id": "65"}],
        }
    )
    tokens = OidcCallers([settings], clock=clock, monotonic=lambda: 5.0)
    peers = MtlsCallers([MtlsBinding(spiffe_id=str(BUILD), tenant="core")])
    yield Callers(ApiKeys(OneKey(), clock), tokens, peers)
    await tokens.aclose()


def bearer(text: str) -> tuple[bytes, bytes]:
    """A header."""
    return (b"authorization", f"Bearer {text}".encode())


async def refusal(callers: Callers, peer: TlsPeer | None, *headers: tuple[bytes, bytes]) -> str:
    """The word why a request is nobody's."""
    with pytest.raises(CredentialError) as refused:
        await callers.caller(peer, headers)
    return refused.value.reason


async def test_each_credential_names_its_caller(callers: Callers) -> None:
    """A key, a token, a certificate; other headers do not matter, and the scheme's case does not either."""
    other = (b"accept", b"*/*")
    by_key = await callers.caller(None, [other, bearer(API_KEY.text)])
    by_token = await callers.caller(None, [(b"authorization", f"bearer {ci_token(GITHUB)}".encode())])
    by_certificate = await callers.caller(TlsPeer(BUILD), [other])
    assert [(one.kind, one.tenant) for one in (by_key, by_token, by_certificate)] == [
        ("api-key", "bolt"),
        ("oidc", "acme"),
        ("mtls", "core"),
    ]


async def test_two_credentials_are_refused(callers: Callers) -> None:
    """Whichever two, good or bad: nobody chooses the stronger or the weaker one."""
    key, token = bearer(API_KEY.text), bearer(ci_token(GITHUB))
    for shown in (key, token, bearer("rubbish"), (b"authorization", b"")):
        assert await refusal(callers, TlsPeer(BUILD), shown) == "several"
    assert await refusal(callers, TlsPeer(None), key) == "several"
    for two in ((key, token), (token, key), (key, key), (key, (b"authorization", b""))):
        assert await refusal(callers, None, *two) == "malformed"
    both = (b"authorization", key[1] + b", " + token[1])
    assert await refusal(callers, None, both) == "malformed"


async def test_no_credential_is_nobody(callers: Callers) -> None:
    """There is no anonymous caller."""
    assert await refusal(callers, None) == "none"
    assert await refusal(callers, None, (b"x-api-key", API_KEY.text.encode())) == "none"


async def test_a_certificate_that_names_nobody_is_nobody(callers: Callers) -> None:
    """It is never taken for no certificate."""
    assert await refusal(callers, TlsPeer(None)) == "unbound"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic cHFjc2lnbjp4",
        b"Bearer \xff",
        b"Bearer " + b"a" * 20_000,
        b"Bearer pqcsign_",
        b"Bearer " + b"pqcsign_" * 2000,
        b"Bearer  " + API_KEY.text.encode(),
        API_KEY.text.encode(),
        b"Bearer a.b.c",
    ],
    ids=itertools.count(),  # the texts are new in each process
)
async def test_headers_that_are_no_credential(callers: Callers, value: bytes) -> None:
    """Bounded and refused before anything is looked up."""
    assert await refusal(callers, None, (b"authorization", value)) == "malformed"


async def test_a_refusal_never_repeats_the_secret(callers: Callers) -> None:
    """An unknown key and a token for somebody else are not in the sentence that the caller and the log get."""
    other = new_api_key(Caller("mtls", "x", "bolt"), Scopes(actions=frozenset({"sign"})), 3600, NOW).text
    for secret in (other, ci_token(GITHUB, aud="else")):
        with pytest.raises(CredentialError) as refused:
            await callers.caller(None, [bearer(secret)])
        assert secret[-20:] not in str(refused.value)
        assert secret[:30] not in str(refused.value)
