"""Which credential a command shows: exactly one, the first that is there, and named."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from services.signing.callers import Caller, Scopes, new_api_key
from services.signing.ci import CiError
from services.signing.cli.credentials import Credential, Given, Search
from services.signing.cli.failures import REFUSED, USAGE, CommandError
from services.signing.cli.logins import Login, Logins
from tests.support.clock import ManualClock
from tests.support.oidc_simulator import CLIENT, OidcSimulator, oidc_simulator

SERVICE: Final = "https://signing.example.org"
NOTHING: Final = Given()
API_KEY: Final = new_api_key(
    Caller("mtls", "spiffe://x", "acme"), Scopes(actions=frozenset({"sign"})), 3600, 1_900_000_000
).text


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[OidcSimulator]:
    """A running issuer, which is a GitHub runner too."""
    async with oidc_simulator(tmp_path) as simulator:
        yield simulator


def search(
    home: Path, environment: dict[str, str] | None = None, given: Given = NOTHING, *, oidc_only: bool = False
) -> Search:
    """A search of a user whose home this is, without an operator's certificate."""
    clock = ManualClock(datetime.fromtimestamp(1_893_456_000, UTC))
    return Search(
        given,
        {"HOME": str(home), **(environment or {})},
        SERVICE,
        home / "none",
        is_own=True,
        clock=clock,
        oidc_only=oidc_only,
    )


def key_file(home: Path, text: str = API_KEY) -> Path:
    """An API key in a file."""
    path = home / "api-key"
    path.write_text(f"{text}\n")
    return path


async def test_an_api_key_comes_from_a_file_or_a_variable(tmp_path: Path) -> None:
    """Whence is said, what is not."""
    path = key_file(tmp_path)
    for found in (
        await search(tmp_path, given=Given(api_key_file=path)).credential(),
        await search(tmp_path, {"PQCSIGN_API_KEY_FILE": str(path)}).credential(),
        await search(tmp_path, {"PQCSIGN_API_KEY": API_KEY}).credential(),
    ):
        assert found.bearer == API_KEY
        assert API_KEY not in found.origin
        assert API_KEY not in repr(found)


async def test_an_option_wins_over_variables_and_ci(tmp_path: Path, issuer: OidcSimulator) -> None:
    """What is typed is meant; nobody is asked for a token then."""
    environment = issuer.runner_environment | {"PQCSIGN_API_KEY": API_KEY, "PQCSIGN_ID_TOKEN": "d.e.f"}
    token = tmp_path / "token"
    token.write_text("a.b.c\n")
    found = await search(tmp_path, environment, Given(token_file=token, oidc_ca=issuer.ca_file)).credential()
    assert (found.bearer, found.origin, issuer.asked) == ("a.b.c", f"--token-file {token}", [])
    found = await search(tmp_path, environment, Given(oidc_ca=issuer.ca_file)).credential()
    assert (found.bearer, found.origin) == (API_KEY, "PQCSIGN_API_KEY")


async def test_githubs_token_comes_before_gitlabs_and_that_before_a_login(
    tmp_path: Path, issuer: OidcSimulator
) -> None:
    """Over real TLS to the runner, with our audience, which is the service unless another is said."""
    Logins.of({"HOME": str(tmp_path)}).keep(Login(SERVICE, issuer.issuer, CLIENT, "alice", "l.o.g", issuer.now + 300))
    gitlab = {"PQCSIGN_ID_TOKEN": "d.e.f"}
    both = search(tmp_path, issuer.runner_environment | gitlab, Given(oidc_ca=issuer.ca_file))
    assert (await both.credential()).bearer == "runner.token.x"
    assert issuer.asked[-1].query["audience"] == [SERVICE]
    await replace(both, given=replace(both.given, audience="other")).credential()
    assert issuer.asked[-1].query["audience"] == ["other"]
    assert (await search(tmp_path, gitlab).credential()).bearer == "d.e.f"
    login = await search(tmp_path).credential()
    assert (login.bearer, "alice" in login.origin) == ("l.o.g", True)


async def test_a_runner_that_refuses_ends_the_search(tmp_path: Path, issuer: OidcSimulator) -> None:
    """A job that should sign as itself does not sign as somebody who happens to be logged in."""
    Logins.of({"HOME": str(tmp_path)}).keep(Login(SERVICE, issuer.issuer, CLIENT, "alice", "l.o.g", issuer.now + 300))
    environment = issuer.runner_environment | {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "wrong"}
    with pytest.raises(CiError, match="status 401"):
        await search(tmp_path, environment, Given(oidc_ca=issuer.ca_file)).credential()


async def test_a_login_is_renewed_before_it_ends(tmp_path: Path, issuer: OidcSimulator) -> None:
    """Once: the next command finds the new token."""
    logins = Logins.of({"HOME": str(tmp_path)})
    logins.keep(Login(SERVICE, issuer.issuer, CLIENT, "alice", "o.l.d", issuer.now + 30, "again"))
    issuer.token_answers = [issuer.tokens()]
    first = await search(tmp_path, given=Given(oidc_ca=issuer.ca_file)).credential()
    second = await search(tmp_path, given=Given(oidc_ca=issuer.ca_file)).credential()
    assert first.bearer == second.bearer == issuer.id_token()
    assert [form["grant_type"] for form in issuer.asked_for_tokens()] == ["refresh_token"]


async def test_a_login_that_cannot_be_renewed_is_over(tmp_path: Path, issuer: OidcSimulator) -> None:
    """Without a refresh token, and with one that the issuer has withdrawn."""
    logins = Logins.of({"HOME": str(tmp_path)})
    logins.keep(Login(SERVICE, issuer.issuer, CLIENT, "alice", "o.l.d", issuer.now))
    with pytest.raises(CommandError, match="has expired") as raised:
        await search(tmp_path).credential()
    assert raised.value.status == USAGE
    logins.keep(Login(SERVICE, issuer.issuer, CLIENT, "alice", "o.l.d", issuer.now, "withdrawn"))
    with pytest.raises(CommandError, match="not take this any more") as raised:
        await search(tmp_path, given=Given(oidc_ca=issuer.ca_file)).credential()
    assert raised.value.status == REFUSED


async def test_a_certificate_goes_with_its_key(tmp_path: Path) -> None:
    """Half of one is none."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    whole = await search(tmp_path, given=Given(cert=cert, key_file=key)).credential()
    assert whole == Credential(f"the certificate {cert}", None, cert, key)
    assert await search(tmp_path, {"PQCSIGN_CERT": str(cert), "PQCSIGN_KEY_FILE": str(key)}).credential() == whole
    for half in (Given(cert=cert), Given(key_file=key)):
        with pytest.raises(CommandError, match="belong together"):
            await search(tmp_path, given=half).credential()


async def test_two_credentials_are_one_too_many(tmp_path: Path) -> None:
    """The service would refuse them, and nobody guesses which one was meant."""
    path = key_file(tmp_path)
    for given in (
        Given(api_key_file=path, token_file=path),
        Given(api_key_file=path, cert=path, key_file=path),
    ):
        with pytest.raises(CommandError, match="two credentials") as raised:
            await search(tmp_path, given=given).credential()
        assert raised.value.status == USAGE
    with pytest.raises(CommandError, match="two credentials"):
        await search(tmp_path, {"PQCSIGN_API_KEY": API_KEY, "PQCSIGN_API_KEY_FILE": str(path)}).credential()


async def test_an_identity_needs_a_token(tmp_path: Path) -> None:
    """With --oidc an API key or certificate that lies about is not shown."""
    environment = {"PQCSIGN_API_KEY": API_KEY, "SIGSTORE_ID_TOKEN": "d.e.f"}
    found = await replace(search(tmp_path, environment), oidc_only=True).credential()
    assert found.bearer == "d.e.f"
    with pytest.raises(CommandError, match="no credential"):
        await replace(search(tmp_path, {"PQCSIGN_API_KEY": API_KEY}), oidc_only=True).credential()
    with pytest.raises(CommandError, match="--api-key-file is no token"):
        await search(tmp_path, environment, Given(api_key_file=key_file(tmp_path)), oidc_only=True).credential()


async def test_the_operators_certificate_is_the_last_resort(tmp_path: Path) -> None:
    """On the deployment's own machine, and not for an identity."""
    (tmp_path / "cert.pem").write_text("x")
    local = replace(search(tmp_path), operator=tmp_path)
    found = await local.credential()
    assert (found.certificate, found.key) == (tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(CommandError, match="no credential"):
        await replace(local, oidc_only=True).credential()


async def test_the_operators_certificate_is_not_shown_to_another_deployment(tmp_path: Path) -> None:
    """And that is said, since it lies there to be used."""
    (tmp_path / "cert.pem").write_text("x")
    with pytest.raises(CommandError, match="no credential") as raised:
        await replace(search(tmp_path), operator=tmp_path, is_own=False).credential()
    assert "is of another deployment" in str(raised.value.advice)


@pytest.mark.parametrize(
    ("environment", "advice"),
    [({}, "pqcsign login"), ({"GITHUB_ACTIONS": "true"}, "id-token: write"), ({"GITLAB_CI": "true"}, "id_tokens")],
)
async def test_where_there_is_none_it_says_how_to_get_one(
    tmp_path: Path, environment: dict[str, str], advice: str
) -> None:
    """In the words of where it runs."""
    with pytest.raises(CommandError, match="no credential") as raised:
        await search(tmp_path, environment).credential()
    assert raised.value.status == USAGE
    assert advice in str(raised.value.advice)


@pytest.mark.parametrize(
    "text", ["", "pqcsign_short", "a b", API_KEY[:-1], API_KEY[:-1] + "!", "x" * 40_000], ids=itertools.count()
)
async def test_what_is_no_api_key_is_not_sent(tmp_path: Path, text: str) -> None:
    """A cut key is noticed here; it is not shown in the sentence."""
    with pytest.raises(CommandError, match="no API key") as raised:
        await search(tmp_path, given=Given(api_key_file=key_file(tmp_path, text))).credential()
    assert not text or text not in str(raised.value)


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Nothing else is tried instead."""
    with pytest.raises(FileNotFoundError):
        await search(tmp_path, {"PQCSIGN_ID_TOKEN": "d.e.f"}, Given(api_key_file=tmp_path / "none")).credential()
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="not ASCII"):
        await search(tmp_path, given=Given(token_file=tmp_path / "token")).credential()
