"""Policies and decisions: default deny, nothing of another tenant, any error denies, and the record says by which."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.signing.callers import ACTIONS, Action, Caller, Scopes
from services.signing.policy import AccessRequest, Decision, DeniedError, PolicySchema, PolicySet, PolicySetError
from services.signing.policy.document import MAX_POLICIES

SCHEMA = PolicySchema(["team"])
RELEASE = """\
@id("release-signing")
permit (principal in Tenant::"acme", action == Action::"sign", resource == Key::"acme.release")
when {
  principal.kind == "oidc" &&
  context.claims has repository_id && context.claims.repository_id == "74" &&
  context.claims has own_workflow && context.claims.own_workflow == ".github/workflows/release.yml" &&
  ["bundle", "dsse"].containsAll(context.formats)
};

@id("api-keys-sign-ci")
permit (principal in Tenant::"acme", action == Action::"sign", resource in Tenant::"acme")
when { principal.kind == "api-key" && resource.name like "ci-*" };

@id("not-too-many")
forbid (principal, action in [Action::"sign", Action::"sign_certificate"], resource)
when { context.subjects > 100 };

@id("only-strong")
forbid (principal, action == Action::"sign", resource)
when { context.algorithms.contains("RS256") };
"""
READING = '@id("all-read") permit (principal, action in [Action::"read", Action::"search"], resource);'
RUN = Caller(
    "oidc",
    "https://token.actions.githubusercontent.com#repository_id=74",
    "acme",
    {
        "provider": "github",
        "repository_id": "74",
        "repository": "acme/app",
        "own_workflow": ".github/workflows/release.yml",
    },
)
KEY = Caller("api-key", "a" * 16, "acme")
ASKED = AccessRequest(
    RUN, "sign", "acme", "release", frozenset({"bundle"}), frozenset({"ES256"}), frozenset({"https://slsa.dev/x"}), 1
)


def policies(text: str = RELEASE + READING) -> PolicySet:
    """A set of one file."""
    return PolicySet.of_files({"acme.cedar": text}, SCHEMA)


def answer(decision: Decision) -> tuple[str, tuple[str, ...]]:
    """Why, and by which."""
    assert decision.allowed is (decision.reason == "allowed")
    return decision.reason, decision.determining


def with_claims(**claims: str | None) -> AccessRequest:
    """The request with other claims; None takes one away."""
    kept = {name: value for name, value in {**RUN.claims, **claims}.items() if value is not None}
    return replace(ASKED, caller=replace(RUN, claims=kept))


def test_a_policy_permits_and_is_named() -> None:
    """The decision carries the hash and the determining ids."""
    decision = policies().decide(ASKED)
    assert answer(decision) == ("allowed", ("release-signing",))
    assert decision.policy_hash == policies().sha256
    assert decision.require() is decision


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (with_claims(repository_id="75"), ("no-policy", ())),
        (with_claims(repository_id=None), ("no-policy", ())),
        (with_claims(own_workflow=".github/workflows/other.yml"), ("no-policy", ())),
        (with_claims(repository="evil/app"), ("allowed", ("release-signing",))),
        (replace(ASKED, key="nightly"), ("no-policy", ())),
        (replace(ASKED, formats=frozenset({"bundle", "raw"})), ("no-policy", ())),
        (replace(ASKED, subjects=101), ("forbidden", ("not-too-many",))),
        (
            replace(ASKED, subjects=101, algorithms=frozenset({"RS256", "ES256"})),
            ("forbidden", ("not-too-many", "only-strong")),
        ),
        (replace(ASKED, caller=KEY), ("no-policy", ())),
        (replace(ASKED, caller=KEY, key="ci-7"), ("allowed", ("api-keys-sign-ci",))),
        (AccessRequest(KEY, "read", "acme"), ("allowed", ("all-read",))),
        (AccessRequest(KEY, "manage_api_keys", "acme"), ("no-policy", ())),
        (AccessRequest(RUN, "sign_certificate", "acme"), ("no-policy", ())),
    ],
)
def test_what_policies_answer(asked: AccessRequest, expected: tuple[str, tuple[str, ...]]) -> None:
    """Default deny; a policy that forbids beats all that permit; a repository's name changes nothing."""
    assert answer(policies().decide(asked)) == expected


def test_without_policies_everything_is_denied() -> None:
    """An empty directory is a closed door."""
    nothing = PolicySet.of_files({}, SCHEMA)
    assert answer(nothing.decide(ASKED)) == ("no-policy", ())
    assert nothing.ids == ()


def test_nobody_reaches_into_another_tenant() -> None:
    """Whatever policies say."""
    generous = policies('@id("all") permit (principal, action, resource);')
    actions: list[Action] = [action for action in ACTIONS if action != "sign"]
    for action in actions:
        asked = AccessRequest(KEY, action, "bolt")
        assert answer(generous.decide(asked)) == ("tenant", ())
        assert answer(generous.decide(replace(asked, tenant="acme"))) == ("allowed", ("all",))
    assert answer(generous.decide(replace(ASKED, tenant="bolt"))) == ("tenant", ())


@pytest.mark.parametrize(
    "scopes",
    [
        Scopes(actions=frozenset({"read"})),
        Scopes(keys=frozenset({"nightly"})),
        Scopes(formats=frozenset({"dsse"})),
    ],
)
def test_scopes_only_narrow(scopes: Scopes) -> None:
    """What the policy permits, a narrowed credential may lack; what it does not permit, no scope brings."""
    generous = policies('@id("all") permit (principal, action, resource);')
    narrowed = replace(ASKED, caller=replace(RUN, scopes=scopes))
    assert answer(generous.decide(narrowed)) == ("scopes", ())
    wide = Scopes(frozenset({"sign"}), frozenset({"release"}), frozenset({"bundle"}))
    assert answer(generous.decide(replace(ASKED, caller=replace(RUN, scopes=wide))))[0] == "allowed"
    assert (
        answer(PolicySet.of_files({}, SCHEMA).decide(replace(ASKED, caller=replace(RUN, scopes=wide))))[0]
        == "no-policy"
    )


FAILS = 'forbid (principal, action == Action::"sign", resource) when { context.subjects + 9223372036854775807 < 0 };'


def test_an_error_denies() -> None:
    """A policy that forbids is skipped by the engine when it fails, so whatever else permits is not enough."""
    failing = policies(f'{RELEASE}@id("fails") {FAILS}')
    decision = failing.decide(ASKED)
    assert answer(decision) == ("error", ("release-signing",))
    assert len(decision.errors) == 1
    assert '@id("fails")' in decision.errors[0]
    assert answer(failing.decide(replace(ASKED, subjects=0)))[0] == "allowed"


def test_an_error_of_a_permit_denies_too() -> None:
    """Though another one permits."""
    text = FAILS.replace("forbid", "permit")
    assert policies(f'{RELEASE}@id("fails") {text}').decide(ASKED).reason == "error"


@pytest.mark.parametrize(
    "asked",
    [
        replace(ASKED, subjects=2**63),
        replace(ASKED, subjects=2**70),
        replace(ASKED, formats=frozenset({"\ud800"})),
        replace(ASKED, action="destroy", key=None),  # type: ignore[arg-type] # that is what must be denied
    ],
)
def test_a_request_that_the_engine_cannot_read(asked: AccessRequest) -> None:
    """No answer is no."""
    generous = policies('@id("all") permit (principal, action, resource);')
    assert answer(generous.decide(asked)) == ("error", ())


HOSTILE = [
    'x"; permit(principal,action,resource); //',
    'Tenant::"bolt"',
    "a\nb",
    "\\",
    '{"__entity": 1}',
    "__extn",
    "é\u202e",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_data(text: str) -> None:
    """An id or claim that looks like syntax, an entity or an escape is a text like any other."""
    exact = policies(
        '@id("exact") permit (principal, action == Action::"read", resource)\n'
        'when { context.claims has team && context.claims.team == "release" };'
    )
    caller = Caller("oidc", text, "acme", {"team": text})
    assert answer(exact.decide(AccessRequest(caller, "read", "acme"))) == ("no-policy", ())
    good = replace(caller, claims={"team": "release", text: text})
    assert answer(exact.decide(AccessRequest(good, "read", "acme"))) == ("allowed", ("exact",))


def test_claims_of_other_names_are_not_seen() -> None:
    """What the schema does not have, say Cedar's own escapes, never gets to the engine."""
    claims = {"__entity": "x", "__extn": "y", "__expr": "z", "repository": "acme/app", "server_url": "https://x"}
    asked = AccessRequest(replace(KEY, claims=claims), "read", "acme")
    assert answer(policies().decide(asked)) == ("allowed", ("all-read",))


def test_decisions_that_are_kept_are_those_of_the_very_request() -> None:
    """Each fact makes another request; asked again in any order, each gets its own answer."""
    ruled = policies()
    asked = [
        ASKED,
        replace(ASKED, caller=replace(RUN, id="other")),
        replace(ASKED, caller=replace(RUN, kind="mtls")),
        replace(ASKED, caller=replace(RUN, tenant="bolt")),
        replace(ASKED, caller=replace(RUN, scopes=Scopes(keys=frozenset({"x"})))),
        with_claims(repository_id="75"),
        replace(ASKED, key="nightly"),
        replace(ASKED, formats=frozenset({"raw"})),
        replace(ASKED, algorithms=frozenset({"RS256"})),
        replace(ASKED, predicate_types=frozenset({"x"})),
        replace(ASKED, subjects=101),
        AccessRequest(RUN, "read", "acme"),
        AccessRequest(RUN, "search", "acme"),
    ]
    first = [policies().decide(one) for one in asked]
    assert [ruled.decide(one) for one in asked] == first
    assert [ruled.decide(one) for one in reversed(asked)] == first[::-1]
    assert len({one.facts() for one in asked}) == len(asked) - 1  # scopes are looked at before


def test_what_is_kept_is_bounded() -> None:
    """A caller that asks something new each time fills no memory."""
    ruled = policies(READING)
    for number in range(2100):
        assert ruled.decide(AccessRequest(replace(KEY, id=str(number)), "read", "acme")).allowed
    assert len(ruled._kept) <= 1024


@pytest.mark.parametrize(("action", "key"), [("sign", None), ("read", "release"), ("sign_certificate", "release")])
def test_a_request_about_the_wrong_thing(action: Any, key: str | None) -> None:  # noqa: ANN401 - an Action
    """To sign is about a key, everything else about a tenant; that is the service's own mistake."""
    with pytest.raises(ValueError, match="about a key"):
        AccessRequest(RUN, action, "acme", key)


def test_anyone_can_recompute_the_hash(tmp_path: Path) -> None:
    """With sha256sum alone."""
    files = {"b.cedar": READING, "a.cedar": RELEASE, "B.cedar": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "README.md").write_text("not hashed")
    ran = subprocess.run(
        ["sh", "-c", "sha256sum *.cedar | sha256sum"], cwd=tmp_path, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert PolicySet.load(tmp_path, SCHEMA).sha256 == ran.stdout.split()[0]


def test_the_hash_is_that_of_names_and_texts() -> None:
    """Moving a policy into another file, renaming one, or a space makes another set."""
    one = PolicySet.of_files({"a.cedar": RELEASE, "b.cedar": READING}, SCHEMA)
    others = [
        {"a.cedar": RELEASE + READING, "b.cedar": ""},
        {"a.cedar": RELEASE, "c.cedar": READING},
        {"a.cedar": RELEASE + " ", "b.cedar": READING},
        {"a.cedar": RELEASE},
    ]
    hashes = {PolicySet.of_files(files, SCHEMA).sha256 for files in others}
    assert len(hashes | {one.sha256}) == len(others) + 1
    assert PolicySet.of_files({"b.cedar": READING, "a.cedar": RELEASE}, SCHEMA).sha256 == one.sha256


def test_an_empty_set_has_a_hash_too() -> None:
    """That of nothing."""
    assert PolicySet.of_files({}, SCHEMA).sha256 == hashlib.sha256(b"").hexdigest()


def test_a_version_is_given_and_stands_in_decisions() -> None:
    """A set has none before it is in force."""
    assert policies().decide(ASKED).policy_version == 0
    numbered = policies().numbered(7)
    assert numbered.decide(ASKED).policy_version == 7
    assert numbered.sha256 == policies().sha256


def test_the_record_of_a_decision() -> None:
    """Members as the audit log has them; errors are bounded."""
    decision = policies().numbered(3).decide(replace(ASKED, subjects=101))
    assert decision.record() == {
        "policy": {"version": 3, "sha256": decision.policy_hash},
        "result": "refused",
        "reason": "forbidden",
        "policies": ["not-too-many"],
        "errors": [],
    }
    many = replace(decision, errors=tuple(f"e{number}" for number in range(100)))
    assert len(many.record()["errors"]) == 5


def test_every_refusal_says_the_same() -> None:
    """The caller learns neither policy nor reason."""
    sentences = set()
    for asked in (replace(ASKED, tenant="bolt"), replace(ASKED, subjects=101), with_claims(repository_id="75")):
        with pytest.raises(DeniedError) as denied:
            policies().decide(asked).require()
        sentences.add(str(denied.value))
        assert not denied.value.decision.allowed
    assert len(sentences) == 1


def test_the_number_of_policies_is_bounded() -> None:
    """Each costs time with each decision."""
    text = "".join(f'@id("p{number}") forbid (principal, action, resource);' for number in range(MAX_POLICIES + 1))
    with pytest.raises(PolicySetError, match="more than"):
        PolicySet.of_files({"a.cedar": text}, SCHEMA)
