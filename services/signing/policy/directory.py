"""The directory of policies: read at start, followed from then on; what makes no sense never comes into force.

1. Changed files are taken only when they were the same in two looks, so that nobody's half-written set is.
2. A set must parse, validate, and pass the cases (`*.test.toml`, `*.test.json`) that lie beside it.
3. It is on record before the first decision by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import structlog

from services.chassis.errors import DatabaseError
from services.signing.policy.cases import CASE_SUFFIXES, CaseResult, read_cases, run_cases
from services.signing.policy.document import PolicySet
from services.signing.policy.errors import Fault, PolicyCaseError, PolicySetError
from services.signing.policy.reading import SUFFIX, read_files, stamp_of
from services.signing.policy.schema import PolicySchema

LOOK_SECONDS: Final = 1.0

_log = structlog.get_logger("policy")


class PolicyArchive(Protocol):
    """Remembers which policies were in force, with their texts."""

    async def policy_in_force(self, sha256: str, files: Mapping[str, str]) -> int:
        """Put on record that this set is in force from now on; again, if it is the newest one already, changes nothing.

        Returns:
            Its version: one more than that of the set before it, and the same as before for the newest one.

        Raises:
            DatabaseError: it is not on record.
        """
        ...


class PolicyDirectory:
    """Follows one directory; `load` comes first.

    Args:
        directory: of `*.cedar` files and cases.
        schema: what they are validated against.
        archive: remembers them.
        observe: told after each attempt whether what the directory says is in force.
    """

    def __init__(
        self, directory: Path, schema: PolicySchema, archive: PolicyArchive, observe: Callable[[bool], None]
    ) -> None:
        self._directory = directory
        self._schema = schema
        self._archive = archive
        self._observe = observe
        self._seen: object = None
        self._settled: object = None
        self._policies: PolicySet | None = None

    @property
    def policies(self) -> PolicySet:
        """The set in force."""
        if self._policies is None:
            raise RuntimeError("load() comes first")
        return self._policies

    async def load(self) -> PolicySet:
        """Put the directory's policies in force.

        Raises:
            PolicySetError: they make no sense, or fail a case; those in force stay.
            DatabaseError: they are not on record; those in force stay.
        """
        self._seen = self._settled = stamp_of(self._directory, SUFFIX, *CASE_SUFFIXES)
        policies = await asyncio.to_thread(checked_policies, self._directory, self._schema)
        version = await self._archive.policy_in_force(policies.sha256, policies.files)
        self._policies = await asyncio.to_thread(policies.numbered, version)
        self._observe(True)
        return self._policies

    async def run(self) -> None:
        """Look at the directory for ever; what makes no sense is logged, and the set before it stays in force."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the policies if they have changed, but not since the last look."""
        stamp = await asyncio.to_thread(stamp_of, self._directory, SUFFIX, *CASE_SUFFIXES)
        settled, self._settled = self._settled, stamp
        if stamp == self._seen or stamp != settled:
            return
        in_force = self.policies.sha256
        try:
            policies = await self.load()
        except PolicySetError as error:
            self._observe(False)
            _log.error("policies not taken", error=str(error), in_force=in_force)
        except DatabaseError as error:
            self._observe(False)
            self._seen = None
            _log.error("policies not taken yet", error=str(error), in_force=in_force)
        else:
            _log.info("policies in force", version=policies.version, sha256=policies.sha256)


def checked_policies(directory: Path, schema: PolicySchema) -> PolicySet:
    """The policies of a directory, which pass the cases there.

    Raises:
        PolicySetError: they do not, or make no sense.
    """
    policies = PolicySet.load(directory, schema)
    failed = [
        Fault(file, None, f"case {result.name!r}: {result.message}")
        for file, results in run_directory_cases(directory, policies).items()
        for result in results
        if not result.passed
    ]
    if failed:
        raise PolicySetError(*failed)
    return policies


def run_directory_cases(directory: Path, policies: PolicySet) -> dict[str, tuple[CaseResult, ...]]:
    """What comes of the cases in a directory, by file.

    Raises:
        PolicySetError: a file that cannot be read, or whose cases make no sense.
    """
    results = {}
    for file, text in read_files(directory, *CASE_SUFFIXES).items():
        try:
            results[file] = run_cases(policies, read_cases(file, text))
        except PolicyCaseError as error:
            raise PolicySetError(Fault(file, None, str(error))) from error
    return results
