"""Settings of OIDC issuers: ids are asked for, and what could let the wrong ones in is no setting."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.signing.callers import SigningIssuerSettings
from services.signing.callers.claims import RULE_CLAIMS

GITHUB = {"issuer": "https://token.actions.githubusercontent.com", "provider": "github"}
OWN_GITLAB = {"issuer": "https://gitlab.example.org", "provider": "gitlab"}
GENERIC = {"issuer": "https://id.example.org", "provider": "generic"}
RUN = {"tenant": "acme", "repository_owner_id": "65"}


def settings(**members: Any) -> SigningIssuerSettings:  # noqa: ANN401 - settings of any type
    """An issuer that is asked where its keys are."""
    return SigningIssuerSettings.model_validate({"audience": "signing", "discover": True, **members})


@pytest.mark.parametrize(
    "members",
    [
        {**GITHUB, "github": [{"tenant": "acme"}]},
        {**GITHUB, "github": [{"tenant": "acme", "repository_id": "74"}]},
        {**GITHUB, "github": [{**RUN, "repository_id": "acme/app"}]},
        {**GITHUB, "github": [{**RUN, "repository": "acme/app"}]},
        {**GITHUB, "github": [{**RUN, "repository_owner_id": 65}]},
        {**GITHUB, "github": [{**RUN, "repository_owner_id": "*"}]},
        {**GITHUB, "github": [{**RUN, "repository_owner_id": ""}]},
        {**GITHUB, "github": [{**RUN, "runner_environment": "any"}]},
        {**GITHUB, "github": [{**RUN, "environment": ""}]},
        {**GITHUB, "github": [{**RUN, "tenant": "a.b"}]},
        {**GITHUB, "generic": [{"tenant": "acme"}]},
        {**GITHUB, "gitlab": [{"tenant": "acme", "namespace_id": "65"}]},
        {**GITHUB, "more_claims": ["team"]},
        {**GITHUB, "provider": "generic", "generic": [{"tenant": "acme"}]},
        {**GITHUB, "issuer": GITHUB["issuer"] + "/octo", "provider": "generic"},
        {**GITHUB, "provider": "gitlab"},
        {"issuer": "https://gitlab.com", "provider": "generic"},
        {**GITHUB, "issuer": "http://token.actions.githubusercontent.com"},
        {**GITHUB, "issuer": "https://ghes.example.org/token#x"},
        {**OWN_GITLAB, "gitlab": [{"tenant": "acme", "project_id": "74"}]},
        {**OWN_GITLAB, "server_url": "http://gitlab.example.org"},
        {**GENERIC, "more_claims": ["repository_id"]},
        {**GENERIC, "more_claims": ["sub"]},
        {**GENERIC, "more_claims": ["provider"]},
        {**GENERIC, "more_claims": ["own_workflow"]},
        {**GENERIC, "more_claims": ["__entity"]},
        {**GENERIC, "more_claims": ["Team"]},
        {**GENERIC, "more_claims": [f"claim{number}" for number in range(33)]},
        {**GENERIC, "generic": [{"tenant": "acme", "claims": {"team": "a"}}]},
        {**GENERIC, "generic": [{"tenant": "acme", "claims": {"issuer": "a"}}]},
        {**GENERIC, "provider": "bitbucket"},
    ],
)
def test_settings_that_are_refused(members: dict[str, Any]) -> None:
    """No binding by name alone or without the owner, none of another provider, and no claim that is another's."""
    with pytest.raises(ValidationError):
        settings(**members)


@pytest.mark.parametrize(
    ("members", "server"),
    [
        (GITHUB, "https://github.com"),
        ({**GITHUB, "issuer": GITHUB["issuer"] + "/octo-enterprise"}, "https://github.com"),
        ({**GITHUB, "issuer": "https://ghes.example.org/_services/token"}, "https://ghes.example.org"),
        ({**GITHUB, "server_url": "https://octo.ghe.com/"}, "https://octo.ghe.com"),
        (OWN_GITLAB, "https://gitlab.example.org"),
    ],
)
def test_where_the_repositories_are(members: dict[str, Any], server: str) -> None:
    """It follows from the issuer, or is set."""
    assert settings(**members).server() == server


def test_bindings_are_claims() -> None:
    """What is left out is not asked for; GitLab's refs must be protected unless it is said otherwise."""
    github = settings(**GITHUB, github=[{**RUN, "environment": "release"}]).bindings()
    assert github == (("acme", {"repository_owner_id": "65", "environment": "release"}),)
    gitlab = settings(**OWN_GITLAB, gitlab=[{"tenant": "acme", "namespace_id": "65"}]).bindings()
    assert gitlab == (("acme", {"namespace_id": "65", "ref_protected": "true"}),)


def test_policies_see_no_names() -> None:
    """Names of repositories, owners, projects and people can be registered anew; they are no rule's business."""
    names = {
        "repository",
        "repository_owner",
        "project_path",
        "namespace_path",
        "actor",
        "user_login",
        "sub",
        "workflow",
    }
    assert not names & RULE_CLAIMS
