"""Policy cases: what policies must answer, run by `pqcsign policy test` and before a set comes into force."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from services.signing.policy import PolicyCaseError, PolicySchema, PolicySet, read_cases, run_cases
from services.signing.policy import cases as documented
from services.signing.policy.cases import MAX_CASES

POLICIES = PolicySet.of_files(
    {
        "a.cedar": """\
@id("release-signing")
permit (principal in Tenant::"acme", action == Action::"sign", resource == Key::"acme.release")
when { context.claims has repository_id && context.claims.repository_id == "74" && context.formats.contains("bundle") };
@id("not-too-many")
forbid (principal, action == Action::"sign", resource) when { context.subjects > 100 };
"""
    },
    PolicySchema(),
)
CALLER: dict[str, Any] = {"kind": "oidc", "id": "x", "tenant": "acme", "claims": {"repository_id": "74"}}
CASE: dict[str, Any] = {
    "name": "signs",
    "caller": CALLER,
    "action": "sign",
    "key": "release",
    "formats": ["bundle"],
    "expect": "allow",
}


def as_json(*cases: object) -> str:
    """A file of cases."""
    return json.dumps({"cases": cases})


def outcome(**changes: object) -> tuple[bool, str]:
    """What comes of the case with other members."""
    (result,) = run_cases(POLICIES, read_cases("a.test.json", as_json(CASE | changes)))
    return result.passed, result.message


def test_the_documented_case() -> None:
    """The example in the module is one that works."""
    assert documented.__doc__ is not None
    text = documented.__doc__.split("```")[1].removeprefix("toml\n")
    assert tomllib.loads(text)["cases"][0]["key"] == "release"
    policies = PolicySet.of_files(
        {
            "a.cedar": '@id("release-signing") permit (principal, action == Action::"sign", resource)'
            "when { context.claims has own_workflow };"
        },
        PolicySchema(),
    )
    (result,) = run_cases(policies, read_cases("a.test.toml", text))
    assert result.passed, result.message


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"policies": ["release-signing"]}, True),
        ({"policies": []}, False),
        ({"policies": ["release-signing", "not-too-many"]}, False),
        ({"expect": "deny"}, False),
        ({"subjects": 101}, False),
        ({"subjects": 101, "expect": "deny", "policies": ["not-too-many"]}, True),
        ({"subjects": 101, "expect": "deny", "policies": []}, False),
        ({"tenant": "bolt", "expect": "deny", "policies": []}, True),
        ({"caller": CALLER | {"scopes": {"keys": ["other"]}}, "expect": "deny", "policies": []}, True),
        ({"caller": CALLER | {"scopes": {"keys": ["rel*"]}}, "policies": ["release-signing"]}, True),
        ({"caller": CALLER | {"claims": {"repository_id": "75"}}, "expect": "deny"}, True),
        ({"action": "read", "key": None, "expect": "deny", "policies": []}, True),
    ],
)
def test_what_comes_of_a_case(changes: dict[str, object], *, passed: bool) -> None:
    """The answer must be the expected one, by the very policies where they are named."""
    assert outcome(**changes)[0] is passed


def test_a_failure_says_what_was_expected_and_what_came() -> None:
    """So that nobody needs to run it again."""
    message = outcome(subjects=101, policies=["release-signing"])[1]
    assert message == "expected allow by release-signing; the answer is deny (forbidden) by not-too-many"


def test_the_decision_is_handed_out() -> None:
    """With the hash of the policies that were tested."""
    (result,) = run_cases(POLICIES, read_cases("a.test.json", as_json(CASE)))
    assert (result.name, result.decision.policy_hash) == ("signs", POLICIES.sha256)


@pytest.mark.parametrize(
    "changes",
    [
        {"expect": "maybe"},
        {"expect": None},
        {"action": "destroy"},
        {"key": None},
        {"action": "read"},
        {"colour": "red"},
        {"subjects": -1},
        {"subjects": True, "formats": "bundle"},
        {"name": ""},
        {"caller": CALLER | {"kind": "root"}},
        {"caller": CALLER | {"password": "x"}},
        {"caller": CALLER | {"claims": {"repository_id": 74}}},
        {"caller": CALLER | {"scopes": {"keys": []}}},
        {"caller": CALLER | {"scopes": {"colours": ["red"]}}},
        {"caller": {"kind": "oidc"}},
    ],
)
def test_cases_that_make_no_sense(changes: dict[str, object]) -> None:
    """The sentence names the case's place."""
    with pytest.raises(PolicyCaseError, match=r"a\.test\.json: cases\.0"):
        read_cases("a.test.json", as_json(CASE | changes))


@pytest.mark.parametrize("claim", ["repository", "repositroy_id", "__entity"])
def test_a_claim_that_no_policy_can_ask_for(claim: str) -> None:
    """The case would prove nothing."""
    case = CASE | {"caller": CALLER | {"claims": {claim: "74"}}, "expect": "deny"}
    with pytest.raises(PolicyCaseError, match="signs"):
        run_cases(POLICIES, read_cases("a.test.json", as_json(case)))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.test.toml", "[[cases]"),
        ("a.test.toml", as_json(CASE)),
        ("a.test.json", "{"),
        ("a.test.json", "[]"),
        ("a.test.json", '{"cases": [], "cases": []}'),
        ("a.test.json", "[" * 100_000),
        ("a.test.toml", "x = " + "[" * 100_000),
        ("a.test.json", " " * (1 << 20) + "{}"),
        ("a.test.json", '{"cases": 7}'),
        ("a.test.json", "{}"),
    ],
)
def test_files_that_cannot_be_read(file: str, text: str) -> None:
    """Neither TOML nor JSON, members twice, too deep, too long, or without cases."""
    with pytest.raises(PolicyCaseError):
        read_cases(file, text)


def test_the_number_of_cases_is_bounded() -> None:
    """Each is a decision."""
    case = {"name": "a", "caller": {"kind": "mtls", "id": "a", "tenant": "a"}, "action": "read", "expect": "deny"}
    assert len(read_cases("a.test.json", as_json(*[case] * MAX_CASES))) == MAX_CASES
    with pytest.raises(PolicyCaseError):
        read_cases("a.test.json", as_json(*[case] * (MAX_CASES + 1)))
