"""CI providers simulated: tokens as GitHub Actions and GitLab CI sign them, made by jwcrypto with keys of our own."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped] # the oracle has no types
from jwcrypto import jwt as oracle_jwt

GITHUB: Final = "https://token.actions.githubusercontent.com"
GITLAB: Final = "https://gitlab.example.org"
GENERIC: Final = "https://id.example.org"
AUDIENCE: Final = "https://signing.example.org"
START: Final = datetime(2030, 1, 1, tzinfo=UTC)
NOW: Final = int(START.timestamp())
KEY: Final = oracle_jwk.JWK.generate(kty="RSA", size=2048, kid="k1", use="sig")
OTHER_KEY: Final = oracle_jwk.JWK.generate(kty="RSA", size=2048, kid="k2", use="sig")
COMMIT: Final = "a" * 40

_GITHUB_CLAIMS: Final[dict[str, object]] = {
    "iss": GITHUB,
    "sub": "repo:acme/app:environment:release",
    "repository": "acme/app",
    "repository_id": "74",
    "repository_owner": "acme",
    "repository_owner_id": "65",
    "repository_visibility": "private",
    "job_workflow_ref": "acme/app/.github/workflows/release.yml@refs/tags/v1.2.3",
    "job_workflow_sha": "b" * 40,
    "workflow": "release",
    "workflow_ref": "acme/app/.github/workflows/release.yml@refs/tags/v1.2.3",
    "workflow_sha": "c" * 40,
    "ref": "refs/tags/v1.2.3",
    "ref_type": "tag",
    "ref_protected": "true",
    "sha": COMMIT,
    "environment": "release",
    "runner_environment": "github-hosted",
    "event_name": "push",
    "actor": "octocat",
    "actor_id": "12",
    "run_id": "5001",
    "run_attempt": "2",
    "run_number": "10",
}
_GITLAB_CLAIMS: Final[dict[str, object]] = {
    "iss": GITLAB,
    "sub": "project_path:acme/app:ref_type:branch:ref:main",
    "namespace_id": "65",
    "namespace_path": "acme",
    "project_id": "74",
    "project_path": "acme/app",
    "project_visibility": "private",
    "user_id": "1",
    "user_login": "root",
    "pipeline_id": "13",
    "pipeline_source": "push",
    "job_id": "208",
    "ref": "main",
    "ref_type": "branch",
    "ref_path": "refs/heads/main",
    "ref_protected": "true",
    "runner_id": 1,
    "runner_environment": "self-hosted",
    "sha": COMMIT,
    "ci_config_ref_uri": "gitlab.example.org/acme/app//.gitlab-ci.yml@refs/heads/main",
    "ci_config_sha": "d" * 40,
    "environment": "release",
}
_GENERIC_CLAIMS: Final[dict[str, object]] = {
    "iss": GENERIC,
    "sub": "alice",
    "email": "alice@example.org",
    "email_verified": True,
    "team": "release",
}
_CLAIMS: Final = {GITHUB: _GITHUB_CLAIMS, GITLAB: _GITLAB_CLAIMS, GENERIC: _GENERIC_CLAIMS}


def ci_token(issuer: str, key: Any = KEY, header: dict[str, Any] | None = None, /, **changes: Any) -> str:  # noqa: ANN401 - the oracle has no types; claims are of any type
    """A token of an issuer; claims that are changed to None are left out."""
    times = {"aud": AUDIENCE, "iat": NOW, "nbf": NOW, "exp": NOW + 300, "jti": "one"}
    claims = {name: value for name, value in (_CLAIMS[issuer] | times | changes).items() if value is not None}
    token = oracle_jwt.JWT(header={"alg": "RS256", "kid": key["kid"], "typ": "JWT"} | (header or {}), claims=claims)
    token.make_signed_token(key)
    serialized: str = token.serialize()
    return serialized


def write_keys(path: Path, *keys: Any) -> Path:  # noqa: ANN401 - the oracle has no types
    """A JWK set in a file."""
    path.write_text(json.dumps({"keys": [key.export_public(as_dict=True) for key in keys]}))
    return path
