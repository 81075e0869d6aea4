"""Provenance out of the environment of GitHub Actions and GitLab CI, and whether the service takes it."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from services.signing.ci import CiError, ci_provenance, provider_of
from services.signing.provenance import read_provenance
from services.signing.statements import Subject

SUBJECTS: Final = (Subject("app.tar.gz", {"sha256": "a" * 64}),)
COMMIT: Final = "c" * 40
GITHUB: Final = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "acme/app",
    "GITHUB_REPOSITORY_ID": "74",
    "GITHUB_REPOSITORY_OWNER_ID": "65",
    "GITHUB_REF": "refs/tags/v1",
    "GITHUB_SHA": COMMIT,
    "GITHUB_WORKFLOW_REF": "acme/app/.github/workflows/release.yml@refs/tags/v1",
    "GITHUB_RUN_ID": "5001",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_EVENT_NAME": "push",
    "RUNNER_ENVIRONMENT": "github-hosted",
    "SECRET_OF_THE_JOB": "hunter2",
}
GITLAB: Final = {
    "GITLAB_CI": "true",
    "CI_PROJECT_URL": "https://gitlab.example.org/acme/app",
    "CI_COMMIT_SHA": COMMIT,
    "CI_COMMIT_REF_NAME": "main",
    "CI_JOB_NAME": "release",
    "CI_JOB_ID": "208",
    "CI_JOB_URL": "https://gitlab.example.org/acme/app/-/jobs/208",
    "CI_JOB_STARTED_AT": "2026-01-31T17:47:55+01:00",
    "CI_RUNNER_ID": "12",
    "CI_RUNNER_EXECUTABLE_ARCH": "linux/amd64",
    "SECRET_OF_THE_JOB": "hunter2",
}


def made(environment: dict[str, str]) -> dict[str, Any]:
    """The provenance's members, after the service's own reading of it."""
    predicate = ci_provenance(environment)
    assert read_provenance(predicate, SUBJECTS).predicate == predicate
    members: dict[str, Any] = orjson.loads(predicate)
    return members


def test_a_github_run_is_described_as_githubs_build_type_has_it() -> None:
    """Workflow, commit and run are there; the builder is the workflow, not GitHub's runner."""
    predicate = made(GITHUB)
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["buildType"] == "https://actions.github.io/buildtypes/workflow/v1"
    assert definition["externalParameters"] == {
        "workflow": {
            "ref": "refs/tags/v1",
            "repository": "https://github.com/acme/app",
            "path": ".github/workflows/release.yml",
        }
    }
    assert definition["internalParameters"]["github"]["runner_environment"] == "github-hosted"
    assert definition["resolvedDependencies"] == [
        {"uri": "git+https://github.com/acme/app@refs/tags/v1", "digest": {"gitCommit": COMMIT}}
    ]
    assert details["builder"]["id"] == ("https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1")
    assert details["metadata"]["invocationId"] == "https://github.com/acme/app/actions/runs/5001/attempts/2"


def test_a_gitlab_job_is_described_as_gitlabs_build_type_has_it() -> None:
    """Project, job, commit and runner are there, and the start in UTC."""
    predicate = made(GITLAB)
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["buildType"] == "https://docs.gitlab.com/ci/pipeline_security/slsa/provenance_v1"
    assert definition["externalParameters"] == {"source": GITLAB["CI_PROJECT_URL"], "entryPoint": "release"}
    assert definition["internalParameters"] == {"architecture": "linux/amd64", "job": "208"}
    assert definition["resolvedDependencies"][0]["uri"] == "git+https://gitlab.example.org/acme/app@refs/heads/main"
    assert details["builder"]["id"] == "https://gitlab.example.org/acme/app/-/runners/12"
    assert details["metadata"]["startedOn"] == "2026-01-31T16:47:55Z"


def test_a_gitlab_tag_is_no_branch() -> None:
    """A release built from a tag names the tag."""
    dependency = made(GITLAB | {"CI_COMMIT_TAG": "v1"})["buildDefinition"]["resolvedDependencies"][0]
    assert dependency["uri"].endswith("@refs/tags/v1")


@pytest.mark.parametrize("environment", [GITHUB, GITLAB])
def test_provenance_says_that_the_job_made_it_and_tells_no_secrets(environment: dict[str, str]) -> None:
    """Nobody can take it for the platform's own, and of the environment only the named variables are in it."""
    predicate = ci_provenance(environment)
    origin = orjson.loads(predicate)["runDetails"]["metadata"]["https://pqcpki.dev/provenance/origin"]
    assert "not by the build platform" in origin
    assert b"hunter2" not in predicate


@pytest.mark.parametrize(
    ("environment", "name"),
    [(GITHUB, name) for name in GITHUB if name not in {"GITHUB_ACTIONS", "RUNNER_ENVIRONMENT", "SECRET_OF_THE_JOB"}]
    + [(GITLAB, name) for name in ("CI_PROJECT_URL", "CI_COMMIT_SHA", "CI_JOB_NAME", "CI_JOB_URL", "CI_RUNNER_ID")],
)
def test_a_missing_variable_is_named(environment: dict[str, str], name: str) -> None:
    """Nothing is made up for it."""
    with pytest.raises(CiError, match=name):
        ci_provenance({key: value for key, value in environment.items() if key != name})


@pytest.mark.parametrize(
    ("environment", "name", "value"),
    [
        (GITHUB, "GITHUB_SHA", "x" * 3000),
        (GITHUB, "GITHUB_REF", "refs/heads/a\nb"),
        (GITHUB, "GITHUB_WORKFLOW_REF", "other/app/.github/workflows/release.yml@refs/tags/v1"),
        (GITHUB, "GITHUB_WORKFLOW_REF", "acme/app/release.yml"),
        (GITLAB, "CI_JOB_STARTED_AT", "yesterday"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(environment: dict[str, str], name: str, value: str) -> None:
    """Neither is it cut nor passed on."""
    with pytest.raises(CiError, match=name):
        ci_provenance(environment | {name: value})


def test_a_workflow_with_a_space_in_its_name_has_a_builder_that_is_a_uri() -> None:
    """The service takes URIs only."""
    environment = GITHUB | {"GITHUB_WORKFLOW_REF": "acme/app/.github/workflows/my flow.yml@refs/tags/v1"}
    assert made(environment)["runDetails"]["builder"]["id"].endswith("/my%20flow.yml@refs/tags/v1")


def test_elsewhere_there_is_no_provenance() -> None:
    """A workstation is no CI job, whatever else is set."""
    assert provider_of({"GITHUB_ACTIONS": "false", "CI": "true"}) is None
    with pytest.raises(CiError, match="as a file instead"):
        ci_provenance({})
