"""Bearer tokens: one good token names a subject, anything else is a refusal; issuers' keys are fetched with care."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped] # the oracle has no types
from jwcrypto import jwt as oracle_jwt
from pydantic import ValidationError

from pkicore.errors import BadTokenError
from services.chassis.errors import SettingsError
from services.chassis.oidc import OidcIssuerSettings, TokenVerifier, bearer_token
from services.chassis.oidc.issuer_keys import FORGET_SECONDS, REFRESH_SECONDS, RETRY_SECONDS, IssuerKeys
from tests.support.clock import ManualClock
from tests.support.jwks_server import JwksServer, jwks_server

ISSUER = "https://id.test"
KEY = oracle_jwk.JWK.generate(kty="EC", crv="P-256", kid="k1", use="sig")
NEXT = oracle_jwk.JWK.generate(kty="EC", crv="P-256", kid="k2", use="sig")
CLOCK = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
NOW = int(CLOCK.now().timestamp())


class Seconds:
    """A monotonic clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        """The present."""
        return self.now


def public(key: Any) -> dict[str, Any]:  # noqa: ANN401 - the oracle has no types
    """A key's public JWK."""
    members: dict[str, Any] = key.export_public(as_dict=True)
    return members


def bearer(key: Any = KEY, *, scheme: str = "Bearer", **claims: object) -> bytes:  # noqa: ANN401 - the oracle has no types
    """An Authorization header's value with a token made by jwcrypto."""
    good = {"iss": ISSUER, "aud": "signer-hsm", "sub": "alice", "iat": NOW, "exp": NOW + 300}
    token = oracle_jwt.JWT(header={"alg": "ES256", "kid": key["kid"]}, claims=good | claims)
    token.make_signed_token(key)
    return f"{scheme} {token.serialize()}".encode()


def settings_of(**members: Any) -> OidcIssuerSettings:  # noqa: ANN401 - settings of any type
    """An issuer's settings, as a settings file has them."""
    return OidcIssuerSettings.model_validate({"issuer": ISSUER, "audience": "signer-hsm", **members})


def file_settings(directory: Path, issuer: str = ISSUER, **more: Any) -> OidcIssuerSettings:  # noqa: ANN401 - settings of any type
    """An issuer whose keys are in a file."""
    path = directory / "jwks.json"
    path.write_text(json.dumps({"keys": [public(KEY)]}))
    return settings_of(issuer=issuer, jwks_file=path, **more)


@asynccontextmanager
async def verifier(*settings: OidcIssuerSettings, monotonic: Seconds | None = None) -> AsyncIterator[TokenVerifier]:
    """A verifier, closed afterwards."""
    opened = TokenVerifier(settings, clock=CLOCK, monotonic=monotonic or Seconds())
    try:
        yield opened
    finally:
        await opened.aclose()


async def refusal(tokens: TokenVerifier, *authorization: bytes) -> str:
    """The word why a token is refused."""
    with pytest.raises(BadTokenError) as refused:
        await tokens.verify(bearer_token(authorization))
    return refused.value.reason


async def subject(tokens: TokenVerifier, authorization: bytes) -> tuple[str, str]:
    """Issuer and subject of a token that is good."""
    verified = await tokens.verify(bearer_token([authorization]))
    return verified.issuer, verified.subject


async def test_a_good_token_names_its_subject(tmp_path: Path) -> None:
    """Issuer, subject and all claims; the scheme's case does not matter."""
    async with verifier(file_settings(tmp_path)) as tokens:
        verified = await tokens.verify(bearer_token([bearer(scheme="bearer", repository="org/x", groups=["a"])]))
    assert (verified.issuer, verified.subject) == (ISSUER, "alice")
    assert verified.claims["repository"] == "org/x"
    assert verified.claims["groups"] == ["a"]


async def test_no_header_is_no_token(tmp_path: Path) -> None:
    """Whoever asks for a token where there is none is told so."""
    async with verifier(file_settings(tmp_path)) as tokens:
        assert await refusal(tokens) == "malformed"


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", b"Basic YTpi", b"Bearer x", b"Bearer a.b.c", b"\xff", b"Bearer " + b"a" * 20000],
)
async def test_a_header_that_is_no_token_is_a_refusal(tmp_path: Path, header: bytes) -> None:
    """It is never taken for no header."""
    async with verifier(file_settings(tmp_path)) as tokens:
        assert await refusal(tokens, header) == "malformed"


async def test_two_headers_are_a_refusal(tmp_path: Path) -> None:
    """Nobody chooses between two identities."""
    async with verifier(file_settings(tmp_path)) as tokens:
        assert await refusal(tokens, bearer(), bearer()) == "malformed"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://evil.test"}, "issuer"),
        ({"aud": "another"}, "audience"),
        ({"exp": NOW - 60}, "expired"),
        ({"nbf": NOW + 60}, "not-yet"),
        ({"iat": NOW - 4000}, "too-old"),
        ({"sub": ""}, "subject"),
    ],
)
async def test_a_token_with_a_bad_claim_is_a_refusal(tmp_path: Path, claims: dict[str, Any], reason: str) -> None:
    """The caller learns one word."""
    async with verifier(file_settings(tmp_path)) as tokens:
        assert await refusal(tokens, bearer(KEY, **claims)) == reason


async def test_without_issuers_every_token_is_a_refusal() -> None:
    """Not configured is not ignored."""
    async with verifier() as tokens:
        assert await refusal(tokens, bearer()) == "issuer"


async def test_an_issuer_speaks_for_itself_only(tmp_path: Path) -> None:
    """A token that names one issuer and is signed by the key of another does not verify."""
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"keys": [public(NEXT)]}))
    elsewhere = settings_of(issuer="https://other.test", jwks_file=other)
    async with verifier(file_settings(tmp_path), elsewhere) as tokens:
        assert await refusal(tokens, bearer(NEXT)) == "key"
        assert await refusal(tokens, bearer(iss="https://other.test")) == "key"
        assert await subject(tokens, bearer(NEXT, iss="https://other.test")) == ("https://other.test", "alice")


async def test_an_algorithm_that_is_not_configured(tmp_path: Path) -> None:
    """The allow-list is looked at before any key is."""
    async with verifier(file_settings(tmp_path, algorithms=("EdDSA",))) as tokens:
        assert await refusal(tokens, bearer()) == "algorithm"


async def test_a_public_key_is_no_hmac_secret(tmp_path: Path) -> None:
    """The oldest trick (RFC 8725 §2.1), and the token without any signature."""
    secret = oracle_jwk.JWK(kty="oct", k=base64.urlsafe_b64encode(KEY.export_to_pem()).rstrip(b"=").decode(), kid="k1")
    claims = {"iss": ISSUER, "aud": "signer-hsm", "sub": "alice", "iat": NOW, "exp": NOW + 300}
    token = oracle_jwt.JWT(header={"alg": "HS256", "kid": "k1"}, claims=claims)
    token.make_signed_token(secret)
    head, _, rest = bearer().partition(b".")
    none = b"Bearer " + base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=")
    async with verifier(file_settings(tmp_path)) as tokens:
        assert head.startswith(b"Bearer ")
        assert await refusal(tokens, f"Bearer {token.serialize()}".encode()) == "algorithm"
        assert await refusal(tokens, none + b"." + rest.split(b".")[0] + b".") == "algorithm"


async def test_a_file_is_read_again_for_an_unknown_key_once_a_minute(tmp_path: Path) -> None:
    """A rotated file is noticed, and no caller makes the service read without end."""
    settings, clock = file_settings(tmp_path), Seconds()
    async with verifier(settings, monotonic=clock) as tokens:
        assert await refusal(tokens, bearer(NEXT)) == "key"
        (tmp_path / "jwks.json").write_text(json.dumps({"keys": [public(KEY), public(NEXT)]}))
        clock.now += RETRY_SECONDS - 1
        assert await refusal(tokens, bearer(NEXT)) == "key"
        clock.now += 1
        assert await subject(tokens, bearer(NEXT))


async def test_a_missing_or_broken_file_is_a_refusal_until_it_is_there(tmp_path: Path) -> None:
    """The service starts without it and needs no restart."""
    settings, clock = file_settings(tmp_path), Seconds()
    good = (tmp_path / "jwks.json").read_text()
    (tmp_path / "jwks.json").unlink()
    async with verifier(settings, monotonic=clock) as tokens:
        assert await refusal(tokens, bearer()) == "key"
        (tmp_path / "jwks.json").write_text("{")
        clock.now += RETRY_SECONDS
        assert await refusal(tokens, bearer()) == "key"
        (tmp_path / "jwks.json").write_text(good)
        clock.now += RETRY_SECONDS
        assert await subject(tokens, bearer())


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[JwksServer]:
    """An issuer that publishes one key."""
    async with jwks_server(tmp_path) as running:
        running.publish(public(KEY))
        yield running


def url_settings(server: JwksServer, **more: Any) -> OidcIssuerSettings:  # noqa: ANN401 - settings of any type
    """An issuer whose keys are fetched."""
    return settings_of(**{"jwks_url": server.url, "jwks_ca_file": server.ca_file, **more})


async def test_keys_are_fetched_once_and_kept(server: JwksServer) -> None:
    """Many tokens, one request; an hour later one more."""
    clock = Seconds()
    async with verifier(url_settings(server), monotonic=clock) as tokens:
        for _ in range(5):
            assert await subject(tokens, bearer())
        assert server.requests == ["GET /jwks HTTP/1.1"]
        clock.now += REFRESH_SECONDS
        assert await subject(tokens, bearer())
        assert len(server.requests) == 2


async def test_unknown_keys_lead_to_one_fetch_a_minute(server: JwksServer) -> None:
    """However many such tokens come, the issuer is not hammered; its new key is found with the next fetch."""
    clock = Seconds()
    async with verifier(url_settings(server), monotonic=clock) as tokens:
        for _ in range(20):
            assert await refusal(tokens, bearer(NEXT)) == "key"
        assert len(server.requests) == 1
        server.publish(public(KEY), public(NEXT))
        clock.now += RETRY_SECONDS
        assert await subject(tokens, bearer(NEXT))
        assert len(server.requests) == 2


async def test_an_issuer_that_is_down_is_survived_for_a_day(server: JwksServer) -> None:
    """Kept keys go on being used, then they are forgotten: a withdrawn key is not good for ever."""
    clock = Seconds()
    async with verifier(url_settings(server), monotonic=clock) as tokens:
        assert await subject(tokens, bearer())
        server.status = "500 Oops"
        clock.now += FORGET_SECONDS - 1
        assert await subject(tokens, bearer())
        clock.now += RETRY_SECONDS
        assert await refusal(tokens, bearer()) == "key"
        server.status = "200 OK"
        clock.now += RETRY_SECONDS
        assert await subject(tokens, bearer())


async def test_a_slow_fetch_holds_up_nobody_whose_key_is_known() -> None:
    """While one caller waits for the issuer, the others go on with the keys that are kept."""
    clock, asked, gate = Seconds(), asyncio.Event(), asyncio.Event()
    gate.set()

    async def fetch() -> bytes:
        asked.set()
        await gate.wait()
        return json.dumps({"keys": [public(KEY)]}).encode()

    keys = IssuerKeys(ISSUER, fetch, clock)
    assert await keys.find("k1", "ES256") is not None
    asked.clear()
    gate.clear()
    clock.now += REFRESH_SECONDS
    waiting = asyncio.create_task(keys.find("k2", "ES256"))
    await asked.wait()
    async with asyncio.timeout(1):
        assert await keys.find("k1", "ES256") is not None
    gate.set()
    assert await waiting is None


async def test_an_issuer_that_never_answers_is_given_up() -> None:
    """The caller is refused within the deadline, and the next one for a minute at once."""
    keys = IssuerKeys(ISSUER, asyncio.Event().wait, Seconds(), deadline=0.05)  # type: ignore[arg-type] # it never returns
    async with asyncio.timeout(2):
        assert await keys.find("k1", "ES256") is None
        assert await keys.find("k1", "ES256") is None


async def test_a_withdrawn_key_is_refused_after_the_next_fetch(server: JwksServer) -> None:
    """The set is replaced, not added to."""
    clock = Seconds()
    async with verifier(url_settings(server), monotonic=clock) as tokens:
        assert await subject(tokens, bearer())
        server.publish(public(NEXT))
        clock.now += REFRESH_SECONDS
        assert await refusal(tokens, bearer()) == "key"


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        ("302 Found", {"location": "https://localhost/else"}, None),
        ("404 Not Found", {}, None),
        ("204 No Content", {}, b""),
        ("200 OK", {}, b"<html>"),
        ("200 OK", {}, b'{"keys":[]}'),
        ("200 OK", {}, b" " * 300_000),
        ("200 OK", {"content-length": "999999"}, None),
    ],
)
async def test_answers_that_are_no_key_set(
    server: JwksServer, status: str, headers: dict[str, str], body: bytes | None
) -> None:
    """Redirects are not followed; errors, other things, endless and cut answers give no key."""
    server.status, server.headers = status, headers
    server.body = server.body if body is None else body
    async with verifier(url_settings(server)) as tokens:
        assert await refusal(tokens, bearer()) == "key"
    assert len(server.requests) == 1


async def test_an_issuer_of_another_authority_is_not_asked(server: JwksServer) -> None:
    """Its certificate must be of the configured roots, and carry its name; no request is sent otherwise."""
    for settings in (
        url_settings(server, jwks_ca_file=None),
        url_settings(server, jwks_url=f"https://127.0.0.2:{server.port}/jwks"),
    ):
        async with verifier(settings) as tokens:
            assert await refusal(tokens, bearer()) == "key"
    assert server.requests == []


def discovered(server: JwksServer, **document: object) -> OidcIssuerSettings:
    """An issuer that is asked where its keys are; `document` replaces members of what it says."""
    good = {"issuer": server.issuer, "jwks_uri": server.url}
    server.documents["/.well-known/openid-configuration"] = json.dumps(good | document).encode()
    return settings_of(issuer=server.issuer, discover=True, jwks_ca_file=server.ca_file)


async def test_keys_are_discovered(server: JwksServer) -> None:
    """The discovery document is read with each fetch, so an issuer may move its keys."""
    clock, settings = Seconds(), discovered(server)
    server.body, server.documents["/jwks"] = b"", server.body
    async with verifier(settings, monotonic=clock) as tokens:
        for _ in range(3):
            assert await subject(tokens, bearer(iss=server.issuer)) == (server.issuer, "alice")
        assert server.requests == ["GET /.well-known/openid-configuration HTTP/1.1", "GET /jwks HTTP/1.1"]
        discovered(server, jwks_uri=f"{server.issuer}/moved")
        server.documents["/moved"] = json.dumps({"keys": [public(NEXT)]}).encode()
        clock.now += REFRESH_SECONDS
        assert await subject(tokens, bearer(NEXT, iss=server.issuer)) == (server.issuer, "alice")
        assert await refusal(tokens, bearer(iss=server.issuer)) == "key"
    assert server.requests[-1] == "GET /moved HTTP/1.1"


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.test"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": 7},
        {"jwks_uri": "http://localhost/jwks"},
        {"jwks_uri": "https://169.254.169.254/latest"},
        {"jwks_uri": "https://localhost/jwks"},
        {"jwks_uri": "https://user@localhost/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://["},
        {"padding": "x" * 70_000},
    ],
)
async def test_discovery_that_leads_elsewhere(server: JwksServer, document: dict[str, object]) -> None:
    """A document of another issuer, or one that names another host, another scheme or nothing, gives no key."""
    async with verifier(discovered(server, **document)) as tokens:
        assert await refusal(tokens, bearer(iss=server.issuer)) == "key"
    assert server.requests == ["GET /.well-known/openid-configuration HTTP/1.1"]


async def test_keys_on_another_host_are_not_fetched(server: JwksServer, tmp_path: Path) -> None:
    """Not even good ones, of a server whose certificate is of the same roots; named as jwks_url they are."""
    other = JwksServer(server.ca_file, body=server.body)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "jwks-chain.pem", tmp_path / "jwks-key.pem")
    async with await asyncio.start_server(other.answer, "127.0.0.1", 0, ssl=context) as listener:
        other.port = listener.sockets[0].getsockname()[1]
        async with verifier(discovered(server, jwks_uri=other.url)) as tokens:
            assert await refusal(tokens, bearer(iss=server.issuer)) == "key"
        assert other.requests == []
        named = url_settings(server, issuer=server.issuer, jwks_url=other.url)
        async with verifier(named) as tokens:
            assert await subject(tokens, bearer(iss=server.issuer)) == (server.issuer, "alice")


async def test_discovery_with_control_characters_in_the_address(server: JwksServer) -> None:
    """What one URL parser strips and the next refuses is no key, and no crash."""
    async with verifier(discovered(server, jwks_uri=server.url + "\n\x00")) as tokens:
        assert await refusal(tokens, bearer(iss=server.issuer)) == "key"
    assert len(server.requests) == 1


async def test_a_discovery_document_with_a_member_twice(server: JwksServer) -> None:
    """Two readers could take two issuers from it."""
    settings = discovered(server)
    text = json.dumps({"issuer": server.issuer, "jwks_uri": server.url})
    server.documents["/.well-known/openid-configuration"] = text.replace("{", '{"issuer":"https://a.test",').encode()
    async with verifier(settings) as tokens:
        assert await refusal(tokens, bearer(iss=server.issuer)) == "key"


async def test_roots_that_cannot_be_read(tmp_path: Path, server: JwksServer) -> None:
    """The service does not start with them."""
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(SettingsError, match="jwks_ca_file"):
            TokenVerifier([url_settings(server, jwks_ca_file=tmp_path / name)], clock=CLOCK, monotonic=Seconds())


def test_two_issuers_of_one_name(tmp_path: Path) -> None:
    """Which rules hold would depend on their order."""
    with pytest.raises(SettingsError, match="twice"):
        TokenVerifier([file_settings(tmp_path)] * 2, clock=CLOCK, monotonic=Seconds())


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("jwks_url", "http://id.test/jwks"),
        ("jwks_url", "https://user:pw@id.test/jwks"),
        ("jwks_url", "https:///jwks"),
        ("jwks_url", "file:///etc/passwd"),
        ("jwks_url", None),
        ("jwks_file", "/etc/jwks.json"),
        ("jwks_file", "jwks.json"),
        ("discover", True),
        ("algorithms", ()),
        ("algorithms", ("none",)),
        ("algorithms", ("HS256",)),
        ("clock_skew_seconds", 61),
        ("max_age_seconds", 0),
        ("audience", ""),
        ("colour", "red"),
    ],
)
def test_settings_that_are_refused(member: str, value: object) -> None:
    """Only https, one source of keys, no weak algorithm, a skew of a minute at most."""
    members: dict[str, Any] = {"issuer": ISSUER, "audience": "a", "jwks_url": "https://id.test/jwks", member: value}
    with pytest.raises(ValidationError):
        OidcIssuerSettings(**members)


@pytest.mark.parametrize(
    "members",
    [
        {"issuer": "http://id.test"},
        {"issuer": "id.test"},
        {"jwks_file": "/etc/jwks.json"},
        {"discover": False, "jwks_file": "/etc/jwks.json", "jwks_ca_file": "/etc/roots.pem"},
    ],
)
def test_discovery_settings_that_are_refused(members: dict[str, Any]) -> None:
    """Only an https issuer can be asked, and only one source of keys counts."""
    with pytest.raises(ValidationError):
        OidcIssuerSettings.model_validate({"issuer": ISSUER, "audience": "a", "discover": True} | members)
