"""Policy cases: what a set of policies must answer, written down beside it and run before it comes into force.

```toml
[[cases]]
name = "the release workflow signs with the release key"
action = "sign"
key = "release"
formats = ["bundle"]
expect = "allow"
policies = ["release-signing"]

[cases.caller]
kind = "oidc"
id = "https://token.actions.githubusercontent.com#repository_id=74"
tenant = "acme"
claims = { provider = "github", repository_id = "74", own_workflow = ".github/workflows/release.yml" }
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object
from services.signing.callers import Action, Caller, CallerKind, Scopes
from services.signing.policy.decision import Decision
from services.signing.policy.document import PolicySet
from services.signing.policy.errors import PolicyCaseError
from services.signing.policy.request import AccessRequest

CASE_SUFFIXES: Final = (".test.toml", ".test.json")
MAX_CASES: Final = 2000
_MAX_CHARACTERS: Final = 1 << 20
_SHOWN: Final = 5

_Text = Annotated[str, Field(min_length=1, max_length=1024)]
_Texts = Annotated[frozenset[_Text], Field(max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _CaseCaller(_Strict):
    kind: CallerKind
    id: _Text
    tenant: _Text
    claims: Mapping[_Text, _Text] = Field({}, max_length=64)
    scopes: Mapping[str, list[str]] = {}

    def caller(self) -> Caller:
        claims = MappingProxyType(dict(self.claims))
        return Caller(self.kind, self.id, self.tenant, claims, Scopes.of(dict(self.scopes)))


class PolicyCase(_Strict):
    """One question and the answer that is expected."""

    name: _Text
    caller: _CaseCaller
    action: Action
    tenant: _Text | None = Field(None, description="whose key or records; left out: the caller's own tenant's")
    key: _Text | None = None
    formats: _Texts = frozenset()
    algorithms: _Texts = frozenset()
    predicate_types: _Texts = frozenset()
    subjects: int = Field(0, ge=0, le=1_000_000)
    expect: Literal["allow", "deny"]
    policies: tuple[_Text, ...] | None = Field(None, description="the determining ids, all of them; left out: any")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        try:
            self.request()
        except MalformedError as error:
            raise ValueError(str(error)) from error
        return self

    def request(self) -> AccessRequest:
        """The question.

        Raises:
            MalformedError, ValueError: scopes that make no sense; a key where the action is not about one.
        """
        return AccessRequest(
            caller=self.caller.caller(),
            action=self.action,
            tenant=self.tenant or self.caller.tenant,
            key=self.key,
            formats=self.formats,
            algorithms=self.algorithms,
            predicate_types=self.predicate_types,
            subjects=self.subjects,
        )


class _Cases(_Strict):
    cases: tuple[PolicyCase, ...] = Field(max_length=MAX_CASES)


class CaseResult(NamedTuple):
    """What came of one case.

    Attributes:
        name: the case's.
        passed: whether the answer is the expected one.
        message: what was expected and what the answer was.
        decision: the answer.
    """

    name: str
    passed: bool
    message: str
    decision: Decision


def read_cases(file: str, text: str) -> tuple[PolicyCase, ...]:
    """Read cases; a file whose name ends in `.json` is JSON, any other TOML.

    Raises:
        PolicyCaseError: it is too long, neither, or a case makes no sense; the sentence names the places.
    """
    if len(text) > _MAX_CHARACTERS:
        raise PolicyCaseError(f"{file} has {len(text)} characters; {_MAX_CHARACTERS} are read at most")
    try:
        document = _parse(file, text)
        return _Cases.model_validate(document).cases
    except ValidationError as error:
        raise PolicyCaseError(f"{file}: {_sentence(error)}") from error
    except (tomllib.TOMLDecodeError, MalformedError, RecursionError) as error:
        raise PolicyCaseError(f"{file} cannot be read: {error}") from error


def run_cases(policies: PolicySet, cases: tuple[PolicyCase, ...]) -> tuple[CaseResult, ...]:
    """Ask the policies each case's question.

    Raises:
        PolicyCaseError: a case has a claim that no policy can ask for, so it would prove nothing.
    """
    for case in cases:
        if unknown := case.caller.claims.keys() - policies.claim_names:
            raise PolicyCaseError(f"case {case.name!r} has {min(unknown)!r}, which is no claim that policies know")
    return tuple(_run(policies, case) for case in cases)


def _run(policies: PolicySet, case: PolicyCase) -> CaseResult:
    decision = policies.decide(case.request())
    answer = "allow" if decision.allowed else "deny"
    same = case.policies is None or tuple(sorted(case.policies)) == decision.determining
    by = "" if case.policies is None else f" by {', '.join(sorted(case.policies)) or 'no policy'}"
    came = f"{answer} ({decision.reason}) by {', '.join(decision.determining) or 'no policy'}"
    errors = "".join(f"; {error}" for error in decision.errors[:_SHOWN])
    return CaseResult(
        case.name, answer == case.expect and same, f"expected {case.expect}{by}; the answer is {came}{errors}", decision
    )


def _parse(file: str, text: str) -> dict[str, Any]:
    return strict_object(text.encode(), file) if PurePath(file).suffix == ".json" else tomllib.loads(text)


def _sentence(error: ValidationError) -> str:
    faults = error.errors()
    shown = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:_SHOWN])
    return shown if len(faults) <= _SHOWN else f"{shown}; and {len(faults) - _SHOWN} more"
