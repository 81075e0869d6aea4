"""The OIDC token that a CI job can show: asked of GitHub's runner, or put into the environment by GitLab.

GitHub hands a job a URL and a bearer token for it. Both come from the environment, so the request goes to that very
host, over https alone, follows nothing, and reads no more than a token may have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson

from services.signing.ci.environment import CiError, optional_variable, provider_of

MAX_TOKEN: Final = 16 * 1024  # characters
GITLAB_VARIABLES: Final = ("PQCSIGN_ID_TOKEN", "SIGSTORE_ID_TOKEN")
_GITHUB_URL: Final = "ACTIONS_ID_TOKEN_REQUEST_URL"
_GITHUB_TOKEN: Final = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105 - a variable's name

Fetch = Callable[[str, Mapping[str, str]], Awaitable[bytes]]
"""GET of an https URL with these headers: the body of the 200, bounded; nothing is followed. Raises OSError."""


@dataclass(frozen=True, slots=True)
class CiToken:
    """A token and where it came from.

    Attributes:
        text: the compact JWT.
        origin: for people.
    """

    text: str = field(repr=False)
    origin: str


async def ci_token(environment: Mapping[str, str], audience: str, fetch: Fetch) -> CiToken | None:
    """The job's token, None where there is none to be had.

    Args:
        environment: of the job.
        audience: whom the token is for; GitLab's is fixed in the job's definition.
        fetch: asks GitHub's runner.

    Raises:
        CiError: what is there is no token, or GitHub's runner does not give one.
    """
    if environment.get(_GITHUB_URL) and environment.get(_GITHUB_TOKEN):
        return await _github_token(environment, audience, fetch)
    for name in GITLAB_VARIABLES:
        if environment.get(name):
            return CiToken(checked_token(environment[name], name), f"the token in {name}")
    return None


def advice(environment: Mapping[str, str]) -> str | None:
    """What a job that has no token lacks, None outside of CI."""
    return {
        "github": "give the job `permissions: id-token: write`",
        "gitlab": f"give the job `id_tokens: {GITLAB_VARIABLES[0]}: aud: …`",
        None: None,
    }[provider_of(environment)]


def checked_token(text: str, where: str) -> str:
    """A token fit for a header: one word of printable ASCII, of at most 16 KiB.

    Raises:
        CiError: anything else.
    """
    token = text.strip()
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise CiError(f"{where} holds no token: it must be one word of at most {MAX_TOKEN} characters")
    return token


async def _github_token(environment: Mapping[str, str], audience: str, fetch: Fetch) -> CiToken:
    url = optional_variable(environment, _GITHUB_URL) or ""
    bearer = checked_token(environment[_GITHUB_TOKEN], _GITHUB_TOKEN)
    try:
        answer = await fetch(_with_audience(url, audience), {"authorization": f"Bearer {bearer}"})
    except OSError as error:
        raise CiError(f"GitHub's runner gives no token: {error}") from error
    return CiToken(_value(answer), f"GitHub Actions, for the audience {audience}")


def _with_audience(url: str, audience: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise CiError(f"{_GITHUB_URL} is no https URL")
    query = [*(pair for pair in parse_qsl(parts.query) if pair[0] != "audience"), ("audience", audience)]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))


def _value(answer: bytes) -> str:
    try:
        members: Any = orjson.loads(answer)
        return checked_token(members["value"], "the answer of GitHub's runner")
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise CiError("the answer of GitHub's runner has no token") from error
