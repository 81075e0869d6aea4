"""Logging in by device (RFC 8628) at a simulated issuer over real TLS; the waiting is counted, not waited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pkicore.errors import MalformedError
from services.signing.ci import CiError
from services.signing.cli.device_grant import Invitation, Tokens, discover, log_in, refresh
from services.signing.cli.failures import REFUSED, UNAVAILABLE, CommandError
from services.signing.cli.outbound import MAX_ANSWER, Outbound, outbound
from tests.support.oidc_simulator import CLIENT, DEVICE_CODE, USER_CODE, OidcSimulator, oidc_simulator

PENDING = (400, {"error": "authorization_pending"})
SLOW_DOWN = (400, {"error": "slow_down"})


class User:
    """Sees invitations, and counts the waiting."""

    def __init__(self) -> None:
        self.invitations: list[Invitation] = []
        self.waited: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Wait, in name only."""
        self.waited.append(seconds)


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[OidcSimulator]:
    """A running issuer."""
    async with oidc_simulator(tmp_path) as simulator:
        yield simulator


async def logged_in(issuer: OidcSimulator, user: User, client_id: str = CLIENT) -> Tokens:
    """What the user gets."""
    client = {"client_id": client_id, "scope": "openid"}
    async with outbound(issuer.ca_file) as out:
        return await log_in(out, await discover(out, issuer.issuer), client, user.invitations.append, user.sleep)


async def test_the_user_is_invited_and_waited_for(issuer: OidcSimulator) -> None:
    """The token endpoint is asked as often as the issuer allows, and slower where it says so (§3.5)."""
    user = User()
    issuer.token_answers = [PENDING, SLOW_DOWN, PENDING, issuer.tokens()]
    tokens = await logged_in(issuer, user)
    assert (tokens.subject, tokens.expires_at, tokens.refresh_token) == ("alice", issuer.now + 300, "again")
    assert user.waited == [5, 5, 10, 10]
    ((url, code, complete),) = user.invitations
    assert (url, code) == (f"{issuer.issuer}/activate", USER_CODE)
    assert complete is not None
    assert USER_CODE in complete
    assert {form["device_code"] for form in issuer.asked_for_tokens()} == {DEVICE_CODE}
    assert tokens.id_token not in repr(tokens)


async def test_an_issuer_that_hangs_up_is_asked_again_later(issuer: OidcSimulator) -> None:
    """A lost answer is no refusal; the wait doubles (§3.5)."""
    user = User()
    issuer.dropped, issuer.token_answers = 2, [issuer.tokens()]
    await logged_in(issuer, user)
    assert user.waited == [5, 10, 20]


async def test_nobody_is_waited_for_for_ever(issuer: OidcSimulator) -> None:
    """The code ends when the issuer said it would."""
    user = User()
    issuer.invitation = {"expires_in": 12, "interval": None}
    with pytest.raises(CommandError, match="nobody logged in in time") as raised:
        await logged_in(issuer, user)
    assert (raised.value.status, user.waited) == (UNAVAILABLE, [5, 5, 5])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [("access_denied", "was refused"), ("expired_token", "not used in time"), ("\x1b[2J", "the issuer refuses")],
)
async def test_a_refusal_ends_the_waiting(issuer: OidcSimulator, error: str, sentence: str) -> None:
    """It is not tried again."""
    issuer.token_answers = [(400, {"error": error}), issuer.tokens()]
    with pytest.raises(CommandError, match=sentence) as raised:
        await logged_in(issuer, User())
    assert (raised.value.status, len(issuer.asked_for_tokens())) == (REFUSED, 1)


async def test_an_unknown_client_is_told(issuer: OidcSimulator) -> None:
    """Before anybody is invited."""
    user = User()
    with pytest.raises(CommandError, match="does not know this client"):
        await logged_in(issuer, user, "somebody")
    assert user.invitations == []


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://other.example.org"},
        {"token_endpoint": None},
        {"token_endpoint": "http://localhost/token"},
        {"device_authorization_endpoint": "https://user@localhost/device"},
        {"device_authorization_endpoint": 7},
    ],
)
async def test_a_discovery_document_that_leads_astray_is_refused(
    issuer: OidcSimulator, changes: dict[str, Any]
) -> None:
    """Another issuer's, or endpoints that are not https: nothing is sent there."""
    issuer.discovery = changes
    with pytest.raises(MalformedError):
        await logged_in(issuer, User())
    assert [asked.path for asked in issuer.asked] == ["/.well-known/openid-configuration"]


async def test_an_issuer_without_device_logins_is_named(issuer: OidcSimulator) -> None:
    """The sentence says what is missing."""
    issuer.discovery = {"device_authorization_endpoint": None}
    with pytest.raises(CommandError, match="RFC 8628"):
        await logged_in(issuer, User())


@pytest.mark.parametrize(
    "changes",
    [
        {"verification_uri": "http://localhost/activate"},
        {"verification_uri": "https://localhost/\x1b[2J"},
        {"verification_uri_complete": "javascript:alert(1)"},
        {"user_code": "A\x1b]0;owned\x07B"},
        {"user_code": "x" * 65},
        {"device_code": None},
        {"expires_in": None},
        {"expires_in": -1},
        {"interval": True},
        {"interval": "5"},
    ],
)
async def test_an_invitation_that_makes_no_sense_is_not_shown(issuer: OidcSimulator, changes: dict[str, Any]) -> None:
    """A terminal is not steered by an issuer, and nobody is sent to a page without TLS."""
    user = User()
    issuer.invitation = changes
    with pytest.raises(MalformedError):
        await logged_in(issuer, user)
    assert issuer.asked_for_tokens() == []


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example.org"},
        {"aud": "somebody"},
        {"aud": ["somebody", "else"]},
        {"sub": ""},
        {"exp": "soon"},
    ],
)
async def test_an_id_token_for_others_is_not_taken(issuer: OidcSimulator, claims: dict[str, Any]) -> None:
    """It must be of this issuer, for this client, about somebody, with an end (OpenID Connect Core 1.0 §3.1.3.7)."""
    issuer.token_answers = [issuer.tokens(**claims)]
    with pytest.raises(MalformedError):
        await logged_in(issuer, User())


@pytest.mark.parametrize("token", [None, 5, "a.b", "a b.c.d", "!.!.!"])
async def test_an_answer_without_an_id_token_is_not_taken(issuer: OidcSimulator, token: object) -> None:
    """An access token alone does not say who logged in."""
    issuer.token_answers = [(200, {"access_token": "access"} | ({} if token is None else {"id_token": token}))]
    with pytest.raises((MalformedError, CiError), match=r"ID token|holds no token|base64url"):
        await logged_in(issuer, User())


async def test_a_refresh_token_leads_to_new_tokens_and_stays_where_there_is_no_new_one(issuer: OidcSimulator) -> None:
    """RFC 6749 §6."""
    status, members = issuer.tokens()
    issuer.token_answers = [(status, {name: value for name, value in members.items() if name != "refresh_token"})]
    async with outbound(issuer.ca_file) as out:
        tokens = await refresh(out, await discover(out, issuer.issuer), CLIENT, "again")
        assert tokens.refresh_token == "again"
        with pytest.raises(CommandError, match="not take this any more"):
            await refresh(out, await discover(out, issuer.issuer), CLIENT, "revoked")


async def test_answers_are_bounded_and_nothing_is_followed(issuer: OidcSimulator) -> None:
    """A large body ends the request; a redirect is an answer like any other."""
    async with outbound(issuer.ca_file) as out:
        issuer.runner_answer = (200, b"x" * (MAX_ANSWER + 1))
        headers = {"authorization": "Bearer runner-secret"}
        with pytest.raises(OSError, match="more than"):
            await out.get(f"{issuer.issuer}/runner", headers)
        issuer.runner_answer = (302, b"")
        with pytest.raises(OSError, match="status 302"):
            await out.get(f"{issuer.issuer}/runner", headers)
    assert "/elsewhere" not in [asked.path for asked in issuer.asked]


async def test_an_issuer_whose_certificate_is_not_of_the_roots_gets_nothing(issuer: OidcSimulator) -> None:
    """The system's roots do not know the simulator's."""
    async with outbound(None) as out:
        with pytest.raises(ConnectionError, match="does not answer"):
            await discover(out, issuer.issuer)
    assert [asked for asked in issuer.asked if asked.method != "(gone)"] == []


async def test_only_https_is_spoken(issuer: OidcSimulator) -> None:
    """Whoever asks for a URL in the clear is told."""
    async with outbound(issuer.ca_file) as out:
        with pytest.raises(MalformedError, match="https"):
            await out.get(issuer.issuer.replace("https", "http"), {})
        with pytest.raises(MalformedError, match="https"):
            await discover(out, "http://localhost")


async def test_an_issuer_that_does_not_answer_is_not_waited_for(issuer: OidcSimulator) -> None:
    """One request has an end, whatever the other side does."""
    issuer.delay = 5.0
    async with outbound(issuer.ca_file) as out:
        with pytest.raises(TimeoutError, match="no whole answer within"):
            await discover(Outbound(out.http, seconds=0.05), issuer.issuer)
