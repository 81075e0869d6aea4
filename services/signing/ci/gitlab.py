"""Provenance of a GitLab CI job, as https://docs.gitlab.com/ci/pipeline_security/slsa/provenance_v1 has it.

The parameter `variables` is left out: a job sees its variables' values, and which of them are secrets it does not. The
builder is the runner, under the URI that GitLab's own provenance has.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from services.signing.ci.environment import CiError, optional_variable, variable

BUILD_TYPE: Final = "https://docs.gitlab.com/ci/pipeline_security/slsa/provenance_v1"

_RUNNER: Final = {"name": "CI_RUNNER_DESCRIPTION", "architecture": "CI_RUNNER_EXECUTABLE_ARCH", "job": "CI_JOB_ID"}


def gitlab_predicate(environment: Mapping[str, str]) -> dict[str, Any]:
    """The members buildDefinition and runDetails.

    Raises:
        CiError: a variable is missing or makes no sense.
    """
    project = variable(environment, "CI_PROJECT_URL").rstrip("/")
    metadata = {"invocationId": variable(environment, "CI_JOB_URL")}
    if (started := optional_variable(environment, "CI_JOB_STARTED_AT")) is not None:
        metadata["startedOn"] = _utc(started)
    runner = {member: optional_variable(environment, name) for member, name in _RUNNER.items()}
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"source": project, "entryPoint": variable(environment, "CI_JOB_NAME")},
            "internalParameters": {member: value for member, value in runner.items() if value is not None},
            "resolvedDependencies": [
                {
                    "uri": f"git+{project}@{_ref(environment)}",
                    "digest": {"gitCommit": variable(environment, "CI_COMMIT_SHA")},
                }
            ],
        },
        "runDetails": {
            "builder": {"id": f"{project}/-/runners/{variable(environment, 'CI_RUNNER_ID')}"},
            "metadata": metadata,
        },
    }


def _utc(moment: str) -> str:
    """GitLab's times have the zone that an instance is set to; SLSA wants UTC."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise CiError("CI_JOB_STARTED_AT is no time") from error


def _ref(environment: Mapping[str, str]) -> str:
    if (tag := optional_variable(environment, "CI_COMMIT_TAG")) is not None:
        return f"refs/tags/{tag}"
    return f"refs/heads/{variable(environment, 'CI_COMMIT_REF_NAME')}"
