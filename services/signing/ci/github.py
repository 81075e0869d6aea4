"""Provenance of a GitHub Actions run, as https://actions.github.io/buildtypes/workflow/v1 describes such builds.

The builder is named as the workflow whose job made this document, not as GitHub's runner: the runner did not make it,
and a job can write what it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from services.signing.ci.environment import CiError, optional_variable, variable

BUILD_TYPE: Final = "https://actions.github.io/buildtypes/workflow/v1"
_URI_SAFE: Final = "/@:+,;=!$&()*'"


def github_predicate(environment: Mapping[str, str]) -> dict[str, Any]:
    """The members buildDefinition and runDetails.

    Raises:
        CiError: a variable is missing or makes no sense.
    """
    server = variable(environment, "GITHUB_SERVER_URL").rstrip("/")
    name = variable(environment, "GITHUB_REPOSITORY")
    repository, ref = f"{server}/{name}", variable(environment, "GITHUB_REF")
    workflow = variable(environment, "GITHUB_WORKFLOW_REF")
    run = f"{variable(environment, 'GITHUB_RUN_ID')}/attempts/{variable(environment, 'GITHUB_RUN_ATTEMPT')}"
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "workflow": {"ref": ref, "repository": repository, "path": _workflow_path(workflow, name)}
            },
            "internalParameters": {"github": _about_the_run(environment)},
            "resolvedDependencies": [
                {"uri": f"git+{repository}@{ref}", "digest": {"gitCommit": variable(environment, "GITHUB_SHA")}}
            ],
        },
        "runDetails": {
            "builder": {"id": f"{server}/{quote(workflow, safe=_URI_SAFE)}"},
            "metadata": {"invocationId": f"{repository}/actions/runs/{run}"},
        },
    }


def _workflow_path(workflow: str, repository: str) -> str:
    """PATH of OWNER/REPOSITORY/PATH@REF."""
    path, at, _ = workflow.removeprefix(f"{repository}/").partition("@")
    if not workflow.startswith(f"{repository}/") or not at:
        raise CiError("GITHUB_WORKFLOW_REF is not OWNER/REPOSITORY/PATH@REF with the repository of GITHUB_REPOSITORY")
    return path


def _about_the_run(environment: Mapping[str, str]) -> dict[str, str]:
    names = {
        "event_name": "GITHUB_EVENT_NAME",
        "repository_id": "GITHUB_REPOSITORY_ID",
        "repository_owner_id": "GITHUB_REPOSITORY_OWNER_ID",
    }
    members = {member: variable(environment, name) for member, name in names.items()}
    runner = optional_variable(environment, "RUNNER_ENVIRONMENT")  # older runners do not set it
    return members if runner is None else members | {"runner_environment": runner}
