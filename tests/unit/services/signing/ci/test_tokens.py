"""The token of a CI job, as GitHub's runner and GitLab give it; the runner's answers are made up here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest

from services.signing.ci import CiError, ci_token
from services.signing.ci.tokens import MAX_TOKEN, advice

AUDIENCE: Final = "https://signing.example.org"
GITHUB: Final = {
    "GITHUB_ACTIONS": "true",
    "ACTIONS_ID_TOKEN_REQUEST_URL": "https://runner.example.org/token?api-version=2.0&audience=somebody",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner-secret",
}


class Runner:
    """Answers one thing, and keeps what it was asked."""

    def __init__(self, answer: bytes | OSError) -> None:
        self.answer = answer
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    async def fetch(self, url: str, headers: Mapping[str, str]) -> bytes:
        """As `Fetch`."""
        self.asked.append((url, headers))
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


async def test_githubs_runner_is_asked_for_our_audience_alone() -> None:
    """The rest of its URL stays, its bearer goes along, and the token's value is in no text for people."""
    runner = Runner(b'{"value":"a.b.c","count":5}')
    token = await ci_token(GITHUB, AUDIENCE, runner.fetch)
    assert token is not None
    assert (token.text, "a.b.c" in repr(token)) == ("a.b.c", False)
    ((url, headers),) = runner.asked
    assert headers == {"authorization": "Bearer runner-secret"}
    assert urlsplit(url).netloc == "runner.example.org"
    assert parse_qs(urlsplit(url).query) == {"api-version": ["2.0"], "audience": [AUDIENCE]}


@pytest.mark.parametrize(
    "url",
    [
        "http://runner.example.org/token",
        "https://user:secret@runner.example.org/token",
        "file:///etc/passwd",
        "https:///token",
        "runner.example.org",
    ],
)
async def test_the_runners_secret_goes_over_https_only(url: str) -> None:
    """Whatever the environment says, nothing is sent in the clear or to no host."""
    runner = Runner(b"{}")
    with pytest.raises(CiError, match="no https URL"):
        await ci_token(GITHUB | {"ACTIONS_ID_TOKEN_REQUEST_URL": url}, AUDIENCE, runner.fetch)
    assert runner.asked == []


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'"x"', b'{"value":5}', b'{"value":""}', b'{"value":"a b"}', b'{"value":"a\\r\\nx: y"}'],
)
async def test_an_answer_without_a_token_is_an_error(answer: bytes) -> None:
    """No header is made of it, and nothing else is tried instead."""
    with pytest.raises(CiError, match="the answer of GitHub's runner"):
        await ci_token(GITHUB | {"SIGSTORE_ID_TOKEN": "d.e.f"}, AUDIENCE, Runner(answer).fetch)


async def test_a_runner_that_is_away_is_named() -> None:
    """The reason is passed on, the secret is not."""
    with pytest.raises(CiError, match="no answer in time") as raised:
        await ci_token(GITHUB, AUDIENCE, Runner(TimeoutError("no answer in time")).fetch)
    assert "runner-secret" not in str(raised.value)


async def test_gitlabs_token_is_in_a_variable_ours_first() -> None:
    """Both names work, and the one that was made for this program wins."""
    runner = Runner(b"")
    both = {"GITLAB_CI": "true", "SIGSTORE_ID_TOKEN": "d.e.f", "PQCSIGN_ID_TOKEN": "a.b.c"}
    first = await ci_token(both, AUDIENCE, runner.fetch)
    second = await ci_token({"SIGSTORE_ID_TOKEN": "d.e.f\n"}, AUDIENCE, runner.fetch)
    assert first is not None
    assert second is not None
    assert (first.text, first.origin) == ("a.b.c", "the token in PQCSIGN_ID_TOKEN")
    assert (second.text, runner.asked) == ("d.e.f", [])


@pytest.mark.parametrize("value", ["a b", "a\x00b", "ä", "x" * (MAX_TOKEN + 1)])
async def test_a_variable_that_is_no_token_is_refused(value: str) -> None:
    """It is named, and not shown."""
    with pytest.raises(CiError, match="SIGSTORE_ID_TOKEN holds no token") as raised:
        await ci_token({"SIGSTORE_ID_TOKEN": value}, AUDIENCE, Runner(b"").fetch)
    assert value not in str(raised.value)


async def test_a_job_without_a_token_is_told_how_to_get_one() -> None:
    """Each provider in its own words; elsewhere there is nothing to say."""
    assert await ci_token({"GITHUB_ACTIONS": "true"}, AUDIENCE, Runner(b"").fetch) is None
    assert "id-token: write" in str(advice({"GITHUB_ACTIONS": "true"}))
    assert "id_tokens" in str(advice({"GITLAB_CI": "true"}))
    assert advice({}) is None
