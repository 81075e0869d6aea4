"""SLSA provenance v1 out of a CI job's environment; it says of itself that the job made it.

SLSA Build L2 and up need provenance that the build platform makes and the job cannot change
(https://slsa.dev/spec/v1.2/build-requirements). This is not such: it documents a build, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from services.signing.ci.environment import CiError, CiProvider, provider_of
from services.signing.ci.github import github_predicate
from services.signing.ci.gitlab import gitlab_predicate

ORIGIN_MEMBER: Final = "https://pqcpki.dev/provenance/origin"
ORIGIN: Final = "made by a step of the build itself, of what its environment says; not by the build platform"

_PREDICATES: Final[Mapping[CiProvider, Callable[[Mapping[str, str]], dict[str, Any]]]] = {
    "github": github_predicate,
    "gitlab": gitlab_predicate,
}


def ci_provenance(environment: Mapping[str, str]) -> bytes:
    """The predicate, JSON.

    Raises:
        CiError: this is no job of GitHub Actions or GitLab CI, or a variable is missing or makes no sense.
    """
    provider = provider_of(environment)
    if provider is None:
        raise CiError("neither GITHUB_ACTIONS nor GITLAB_CI is true here: give the provenance as a file instead")
    predicate = _PREDICATES[provider](environment)
    predicate["runDetails"]["metadata"][ORIGIN_MEMBER] = ORIGIN
    return orjson.dumps(predicate)
