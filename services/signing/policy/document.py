"""A set of Cedar policies: read, validated, hashed, and asked.

The hash is that of `LC_ALL=C sha256sum *.cedar` in the directory: anyone can recompute it with `| sha256sum`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import cedarpy
from cedarpy.pst import HasAttr

from services.signing.policy.decision import Decision, Reason
from services.signing.policy.errors import Fault, PolicySetError
from services.signing.policy.reading import SUFFIX, read_files
from services.signing.policy.request import AccessRequest, cedar_request
from services.signing.policy.schema import PolicySchema
from services.signing.policy.text import PolicyText, policies_of, syntax_fault, without_numbers

MAX_POLICIES: Final = 2000
_KEPT_DECISIONS: Final = 1024  # a token has 16 KiB at most, so 16 MiB at most
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_NUMBERED: Final = re.compile(r"`policy(\d+)`")


class PolicySet:
    """Policies that were validated; `load` or `of_files` makes one, and it never changes.

    Attributes:
        sha256: of the files, hexadecimal.
        version: how many sets have been in force so far, this one included; 0: it never was.
        files: the texts by name.
        ids: the policies' `@id`, in order.
    """

    def __init__(self, files: Mapping[str, str], ids: tuple[str, ...], schema: PolicySchema, version: int) -> None:
        self.sha256 = sha256_of(files)
        self.version = version
        self.files = files
        self.ids = ids
        self._schema = schema
        self._policies = cedarpy.PolicySet.from_str("\n".join(files.values()))
        self._kept: dict[tuple[object, ...], Decision] = {}

    @property
    def claim_names(self) -> frozenset[str]:
        """The claims that a policy can ask for."""
        return self._schema.claims

    @classmethod
    def load(cls, directory: Path, schema: PolicySchema) -> Self:
        """Read the `*.cedar` files of a directory.

        Raises:
            PolicySetError: one that cannot be read, parsed or validated.
        """
        return cls.of_files(read_files(directory, SUFFIX), schema)

    @classmethod
    def of_files(cls, files: Mapping[str, str], schema: PolicySchema) -> Self:
        """Validate texts by file name.

        Raises:
            PolicySetError: one that does not parse or validate, has no `@id` of its own, or is a template.
        """
        files = dict(sorted(files.items()))
        faults: list[Fault] = []
        places: dict[str, str] = {}
        ids: list[str] = []
        for file, text in files.items():
            found, wrong = _read(file, text, schema)
            faults += wrong
            for policy_id, line in found:
                if policy_id in places:
                    faults.append(Fault(file, line, f'@id("{policy_id}") is that of {places[policy_id]} too'))
                places[policy_id] = f"{file}:{line}"
                ids.append(policy_id)
        if len(ids) > MAX_POLICIES:
            faults.append(Fault("*" + SUFFIX, None, f"{len(ids)} policies are more than {MAX_POLICIES}"))
        if faults:
            raise PolicySetError(*faults)
        return cls(files, tuple(ids), schema, 0)

    def numbered(self, version: int) -> Self:
        """The same policies, put in force as that version."""
        return type(self)(self.files, self.ids, self._schema, version)

    def decide(self, asked: AccessRequest) -> Decision:
        """Answer a question.

        1 nobody has anything of another tenant, whatever policies say · 2 the credential's scopes leave the act · 3 a
        policy permits it and none forbids it · 4 any error of the evaluation denies: a policy that forbids might be
        the one that failed.
        """
        if asked.caller.tenant != asked.tenant:
            return self._decision("tenant")
        if not asked.caller.scopes.allow(asked.action, asked.key, asked.formats):
            return self._decision("scopes")
        # Cedar is a function of policies and request (it has no clock), so a kept decision is the one it would come to.
        facts = asked.facts()
        kept = self._kept.get(facts)
        if kept is not None:
            return kept
        decision = self._evaluate(asked)
        if decision.reason != "error":
            if len(self._kept) >= _KEPT_DECISIONS:
                self._kept.clear()
            self._kept[facts] = decision
        return decision

    def _evaluate(self, asked: AccessRequest) -> Decision:
        try:
            request, entities = cedar_request(asked, self._schema.claims)
            answer = cedarpy.is_authorized(request, self._policies, entities, schema=self._schema.handle)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises, the answer is no
            return self._decision("error", errors=(f"{type(error).__name__}: {error}",))
        names = answer.diagnostics.id_annotations_by_reason
        determining = tuple(sorted(names[reason] for reason in answer.diagnostics.reasons))
        if answer.diagnostics.errors or answer.decision is cedarpy.Decision.NoDecision:
            errors = tuple(_NUMBERED.sub(self._name, error) for error in answer.diagnostics.errors)
            return self._decision("error", determining, errors)
        if answer.allowed:
            return self._decision("allowed", determining)
        return self._decision("forbidden" if determining else "no-policy", determining)

    def _name(self, found: re.Match[str]) -> str:
        number = int(found[1])
        return f'@id("{self.ids[number]}")' if number < len(self.ids) else found[0]

    def _decision(self, reason: Reason, determining: tuple[str, ...] = (), errors: tuple[str, ...] = ()) -> Decision:
        return Decision(reason == "allowed", reason, self.sha256, self.version, determining, errors)


def sha256_of(files: Mapping[str, str]) -> str:
    """SHA-256 of what sha256sum prints for the files, sorted by name."""
    lines = (f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class _Named(NamedTuple):
    policy_id: str
    line: int


def _read(file: str, text: str, schema: PolicySchema) -> tuple[list[_Named], list[Fault]]:
    """The ids of a file's policies with their lines, and what is wrong with them."""
    policies, faults = policies_of(file, text)
    if faults:
        return [], faults
    try:
        nodes = cedarpy.PolicySet.from_str(text).to_pst()
    except ValueError as error:
        return [], [syntax_fault(file, policies, str(error))]
    if nodes.templates:
        return [], [Fault(file, None, "templates (?principal, ?resource) permit nothing here: name who and what")]
    if len(nodes.static_policies) != len(policies):
        return [], [Fault(file, None, "its policies cannot be told apart")]
    named = []
    for number, policy in enumerate(policies):
        node = nodes.static_policies[f"policy{number}"]
        policy_id = node.annotations.get("id", "")
        if _ID.fullmatch(policy_id):
            named.append(_Named(policy_id, policy.line))
        else:
            faults.append(Fault(file, policy.line, 'the policy needs an @id("...") of letters, digits, ., _ and -'))
        faults += [
            Fault(file, policy.line, f"has asks for {'.'.join(has.attrs)!r}, which is never there")
            for has in _tests_in(node.clauses)
            if schema.asks_in_vain(has)
        ]
    return named, faults + _validate(file, text, policies, schema)


def _tests_in(node: object) -> Iterator[HasAttr]:
    """Each `has` in a policy's conditions."""
    if isinstance(node, HasAttr):
        yield node
    if isinstance(node, tuple):
        parts: Iterable[object] = node
    elif isinstance(node, Mapping):
        parts = node.values()
    else:
        parts = (getattr(node, part.name) for part in fields(node)) if is_dataclass(node) else ()
    for part in parts:
        yield from _tests_in(part)


def _validate(file: str, text: str, policies: list[PolicyText], schema: PolicySchema) -> list[Fault]:
    faults = []
    for error in cedarpy.validate_policies(text, schema.handle).errors:
        number = error.policy_id.removeprefix("policy")
        line = policies[int(number)].line if number.isdecimal() and int(number) < len(policies) else None
        faults.append(Fault(file, line, without_numbers(error.error)))
    return faults
