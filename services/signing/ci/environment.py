"""The environment of a CI job, read with care: it is text that anybody may have set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

CiProvider = Literal["github", "gitlab"]

_MAX_VALUE: Final = 2048  # characters
_MARKS: Final[Mapping[CiProvider, str]] = {"github": "GITHUB_ACTIONS", "gitlab": "GITLAB_CI"}


class CiError(Exception):
    """The environment is not that of a CI job, or lacks what is needed; one sentence that says what to do."""


def provider_of(environment: Mapping[str, str]) -> CiProvider | None:
    """Whose job this is; None where it is neither GitHub's nor GitLab's."""
    return next((provider for provider, mark in _MARKS.items() if environment.get(mark) == "true"), None)


def variable(environment: Mapping[str, str], name: str) -> str:
    """A variable that must be there.

    Raises:
        CiError: it is not, or is longer than 2048 characters or has a control character.
    """
    if (value := optional_variable(environment, name)) is None:
        raise CiError(f"the environment variable {name} is missing: is this step run by the CI system itself?")
    return value


def optional_variable(environment: Mapping[str, str], name: str) -> str | None:
    """A variable, None where it is missing or empty.

    Raises:
        CiError: it is longer than 2048 characters or has a control character.
    """
    value = environment.get(name)
    if not value:
        return None
    if len(value) > _MAX_VALUE or not value.isprintable():
        raise CiError(f"the environment variable {name} is too long, or has a control character")
    return value
