"""Claims of a verified token, made flat and bounded, and those that follow from them.

Names can be registered anew by somebody else, ids cannot. So a policy sees `RULE_CLAIMS` only; the others are for
people and for certificates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from pkicore.errors import BadTokenError
from pkicore.jose.jwt import VerifiedJwt

Provider = Literal["github", "gitlab", "generic"]

_GITHUB_RULE_CLAIMS: Final = (
    "repository_id", "repository_owner_id", "repository_visibility", "enterprise_id", "job_workflow_ref",
    "job_workflow_sha", "workflow_sha", "ref", "ref_type", "ref_protected", "sha", "environment", "runner_environment",
    "event_name", "actor_id", "run_id", "run_attempt",
)  # fmt: skip
_GITHUB_NAMES: Final = ("repository", "repository_owner", "workflow", "workflow_ref", "actor", "head_ref", "base_ref")
_GITLAB_RULE_CLAIMS: Final = (
    "project_id", "project_visibility", "namespace_id", "root_namespace_id", "ci_config_ref_uri", "ci_config_sha",
    "ref", "ref_type", "ref_path", "ref_protected", "sha", "environment", "environment_protected", "deployment_tier",
    "runner_id", "runner_environment", "pipeline_source", "pipeline_id", "job_id", "user_id",
)  # fmt: skip
_GITLAB_NAMES: Final = ("project_path", "namespace_path", "user_login")
_GENERIC_RULE_CLAIMS: Final = ("email", "email_verified")

TAKEN: Final[Mapping[Provider, tuple[str, ...]]] = {
    "github": _GITHUB_RULE_CLAIMS + _GITHUB_NAMES,
    "gitlab": _GITLAB_RULE_CLAIMS + _GITLAB_NAMES,
    "generic": _GENERIC_RULE_CLAIMS,
}
"""The claims that are taken of a token, by the kind of its issuer; a generic issuer's settings can name more."""

_MADE: Final = ("provider", "issuer", "subject", "own_workflow", "own_ci_config")
RULE_CLAIMS: Final[frozenset[str]] = frozenset(_GITHUB_RULE_CLAIMS + _GITLAB_RULE_CLAIMS + _GENERIC_RULE_CLAIMS + _MADE)
"""The claims that a policy can ask for."""

RESERVED: Final[frozenset[str]] = RULE_CLAIMS | frozenset(_GITHUB_NAMES + _GITLAB_NAMES) | {"server_url", "sub"}
"""Claims that no generic issuer may speak for."""

_IDS: Final[Mapping[Provider, tuple[str, ...]]] = {
    "github": ("repository_id", "repository_owner_id"),
    "gitlab": ("project_id", "namespace_id"),
    "generic": (),
}
_NEEDED: Final[Mapping[Provider, tuple[str, ...]]] = {
    "github": ("event_name", "job_workflow_ref", "repository", "runner_environment"),
    "gitlab": ("pipeline_source", "project_path"),
    "generic": (),
}
_ID: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_EVENT: Final = re.compile(r"[a-z_]{1,64}", re.ASCII)
_MAX_VALUE: Final = 1024  # characters


def claims_of(token: VerifiedJwt, provider: Provider, server_url: str, more: tuple[str, ...] = ()) -> dict[str, str]:
    """The claims that callers keep.

    Args:
        token: verified.
        provider: what kind of issuer it is of.
        server_url: of the provider's web pages; it is kept among the claims.
        more: further claims that a generic issuer's settings name.

    Raises:
        BadTokenError: a claim that is needed is missing or makes no sense, or the run is one that is always refused.
    """
    claims = {name: text for name in TAKEN[provider] + more if (text := _text(token.claims.get(name), name))}
    claims |= {"provider": provider, "issuer": token.issuer, "server_url": server_url}
    for name in _IDS[provider]:
        if not _ID.fullmatch(claims.get(name, "")):
            raise BadTokenError("claims", f"the token's {name} is missing, or is no id")
    for name in _NEEDED[provider]:
        if name not in claims:
            raise BadTokenError("claims", f"the token lacks {name}")
    if provider == "github":
        _refuse_foreign_code(claims["event_name"])
        _add(claims, "own_workflow", _own_workflow(claims))
    elif provider == "gitlab":
        _add(claims, "own_ci_config", _own_ci_config(claims))
    elif token.claims.get("email_verified") is not True:  # a text that says so is no statement of the issuer's
        claims.pop("email", None)  # whoever may set an address at the issuer without owning it is not its owner
        claims.pop("email_verified", None)
    claims["subject" if provider == "generic" else "sub"] = token.subject  # CI providers make it of names
    return claims


def _text(value: Any, name: str) -> str | None:  # noqa: ANN401 - a claim may be anything
    """A claim as a text; None where there is none, or a list or object, which no rule can ask for."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str):
        return None
    if len(text) > _MAX_VALUE or not text.isprintable():
        raise BadTokenError("claims", f"the token's {name} is too long, or has a control character")
    return text


def _refuse_foreign_code(event: str) -> None:
    """`pull_request_target` runs with the repository's identity while anybody's pull request decides what is built."""
    if not _EVENT.fullmatch(event) or event == "pull_request_target":
        raise BadTokenError("event", "a run of pull_request_target, or of no known event, does not sign")


def _own_workflow(claims: Mapping[str, str]) -> str | None:
    """The path of the workflow where it is the repository's own, at the very ref or commit that is built.

    A deployment's ref can be empty, and then the commit stands in its place.
    """
    path = claims["job_workflow_ref"].removeprefix(f"{claims['repository']}/")
    return _before(path, [claims.get("ref"), claims.get("sha")]) if path != claims["job_workflow_ref"] else None


def _own_ci_config(claims: Mapping[str, str]) -> str | None:
    """Likewise for GitLab: HOST/PROJECT//PATH@REF."""
    uri, host = claims.get("ci_config_ref_uri", ""), claims["server_url"].removeprefix("https://")
    path = uri.removeprefix(f"{host}/{claims['project_path']}//")
    return _before(path, [claims.get("ref_path"), claims.get("sha")]) if path != uri else None


def _before(path: str, ends: list[str | None]) -> str | None:
    found = (path.removesuffix(f"@{end}") for end in ends if end and path.endswith(f"@{end}"))
    return next((rest for rest in found if rest and "@" not in rest), None)


def _add(claims: dict[str, str], name: str, value: str | None) -> None:
    if value is not None:
        claims[name] = value
