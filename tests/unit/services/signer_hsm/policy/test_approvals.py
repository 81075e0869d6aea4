"""Approvals: bound to one act, given by others, good for a while, used once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pkicore.identity import SpiffeId
from services.signer_hsm.errors import ApprovalsMissingError, BadPayloadError, DeniedByPolicyError
from services.signer_hsm.policy import Act, Approval, BoundAct, Caller, Decision, OidcSubject, Policy
from services.signer_hsm.policy.approvals import MAX_PARAMETERS, approve, caller_of, caller_text, select

AT = datetime(2030, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
TEXT = """
version = 1
[[tenants]]
id = "ca"
backends = ["file"]
max_keys = 10
rate_per_second = 100
burst = 100
max_in_flight = 4

[[rules]]
id = "operators-act"
tenant = "ca"
callers = ["spiffe://test/operator/*"]
acts = ["destroy", "rotate", "create"]
keys = ["*"]
approvals = 2

[[rules]]
id = "operators-rotate-ocsp"
tenant = "ca"
callers = ["spiffe://test/operator/*"]
acts = ["rotate"]
keys = ["ocsp"]

[[rules]]
id = "operators-approve"
tenant = "ca"
callers = ["spiffe://test/operator/*"]
acts = ["approve"]
keys = ["issuing", "ocsp"]

[[rules]]
id = "people-approve"
tenant = "ca"
callers = ["spiffe://test/console/web"]
subjects = [
    { issuer = "https://id.test", subject = "carol", claims = { mfa = true } },
    { issuer = "https://id.test", subject = "dave", claims = { mfa = true } },
]
acts = ["approve", "destroy"]
keys = ["issuing"]
approvals = 0
"""
POLICY = Policy.load(TEXT)
DESTROY = BoundAct("destroy", "ca", "issuing", 3, {})


def operator(name: str) -> Caller:
    """A person with a certificate."""
    return Caller(SpiffeId.parse(f"spiffe://test/operator/{name}"))


def person(name: str, **claims: bool) -> Caller:
    """A person at the console, with a token."""
    return Caller(
        SpiffeId.parse("spiffe://test/console/web"),
        OidcSubject("https://id.test", name, {"mfa": True, "email": "x@test", **claims}),
    )


ALICE, BOB, ERIN = operator("alice"), operator("bob"), operator("erin")


def may(who: Caller, act: Act, key: str = "issuing", at: datetime = AT) -> Decision:
    """The policy's decision."""
    return POLICY.decide(who, act, "ca", key, at=at)


def approved(who: Caller, act: BoundAct = DESTROY, at: datetime = AT) -> Approval:
    """A row."""
    return approve(may(who, "approve", act.key, at), act, id=f"{who.principal}-{at}", lifetime=DAY)


def used(rows: list[Approval], *, by: Caller = ALICE, act: BoundAct = DESTROY, at: datetime = AT) -> list[str]:
    """The ids that the act would consume."""
    return [row.id for row in select(may(by, act.act, act.key, at), POLICY, act, rows)]


def missing(rows: list[Approval], *, by: Caller = ALICE, act: BoundAct = DESTROY, at: datetime = AT) -> int:
    """How many approvals are missing."""
    with pytest.raises(ApprovalsMissingError) as refused:
        used(rows, by=by, act=act, at=at)
    return refused.value.missing


def test_two_others_are_enough() -> None:
    """The act consumes exactly as many as it needs, the oldest first."""
    rows = [approved(BOB), approved(ERIN), approved(operator("frank"), at=AT + timedelta(minutes=1))]
    assert used(rows[::-1], at=AT + timedelta(hours=1)) == [rows[0].id, rows[1].id]


def test_fewer_are_not() -> None:
    """The error says how many are missing."""
    assert missing([]) == 2
    assert missing([approved(BOB)]) == 1


def test_ones_own_does_not_count() -> None:
    """The requester's approval is passed over, not refused: another may do the act with it."""
    rows = [approved(ALICE), approved(BOB)]
    assert missing(rows, by=ALICE) == 1
    assert used([*rows, approved(ERIN)], by=ALICE) == [rows[1].id, approved(ERIN).id]


def test_nobody_counts_twice() -> None:
    """Two rows of one person are one."""
    assert missing([approved(BOB), approved(BOB, at=AT + timedelta(seconds=1))], at=AT + timedelta(minutes=1)) == 1


def test_people_at_one_console_are_different_people() -> None:
    """Tokens tell them apart, the console's certificate does not."""
    assert len(used([approved(person("carol")), approved(person("dave"))])) == 2


def test_a_certificate_does_not_add_to_its_tokens() -> None:
    """The same certificate with and without a token is not two people."""
    both = replace(ALICE, subject=OidcSubject("https://id.test", "alice"))
    row = replace(approved(BOB), approver=caller_text(both, ()))
    assert missing([row]) == 2


def test_a_requester_with_a_token_is_known_by_it() -> None:
    """Carol may do the act through another peer; her approval at the console is still hers."""
    text = TEXT.replace("approvals = 0", "").replace(
        'acts = ["approve", "destroy"]\nkeys = ["issuing"]',
        'acts = ["destroy"]\nkeys = ["issuing"]\napprovals = 1\n[[rules]]\nid = "p"\ntenant = "ca"\n'
        'subjects = [{ issuer = "https://id.test", subject = "carol" }]\nacts = ["approve"]\nkeys = ["issuing"]',
    )
    policy = Policy.load(text)
    elsewhere = replace(person("carol"), spiffe_id=SpiffeId.parse("spiffe://test/laptop/carol"))
    row = approve(policy.decide(elsewhere, "approve", "ca", "issuing", at=AT), DESTROY, id="1", lifetime=DAY)
    with pytest.raises(ApprovalsMissingError):
        select(policy.decide(person("carol"), "destroy", "ca", "issuing", at=AT), policy, DESTROY, [row])
    assert select(policy.decide(person("dave"), "destroy", "ca", "issuing", at=AT), policy, DESTROY, [row])


@pytest.mark.parametrize(
    "other",
    [
        BoundAct("rotate", "ca", "issuing", 3, {}),
        BoundAct("destroy", "ca", "ocsp", 3, {}),
        BoundAct("destroy", "shop", "issuing", 3, {}),
        BoundAct("destroy", "ca", "issuing", 4, {}),
        BoundAct("destroy", "ca", "issuing", None, {}),
        BoundAct("destroy", "ca", "issuing", 3, {"backend": "hsm"}),
        BoundAct("destroy", "ca", "issuing", 3, {"": None}),
    ],
)
def test_an_approval_is_of_one_act(other: BoundAct) -> None:
    """Another act, key, tenant, version or parameter has another binding, and its approvals do not count."""
    assert other.binding() != DESTROY.binding()
    rows = [replace(approved(who), binding=other.binding()) for who in (BOB, ERIN)]
    assert missing(rows) == 2


def test_the_binding_is_stable() -> None:
    """A golden vector, and the order of parameters does not matter."""
    create = BoundAct("create", "ca", "issuing", None, {"backend": "hsm", "algorithm": "ecdsa-p256"})
    again = BoundAct("create", "ca", "issuing", None, {"algorithm": "ecdsa-p256", "backend": "hsm"})
    assert create.binding() == again.binding()
    assert DESTROY.binding() == "190c214cd530d3fafe63efdf1582ebc58789a9071161d7b040a47a0c25edd24a"


def test_an_approval_expires() -> None:
    """Good up to, not including, the last second; not before it was given either."""
    rows = [approved(BOB), approved(ERIN)]
    assert len(used(rows, at=AT + DAY - timedelta(seconds=1))) == 2
    assert missing(rows, at=AT + DAY) == 2
    assert missing(rows, at=AT - timedelta(seconds=1)) == 2


@pytest.mark.parametrize("key", ["issuing", "root"])
def test_an_approver_needs_the_act_approve(key: str) -> None:
    """Without a rule for it on this key there is no row to be had, existing key or not."""
    stranger = Caller(SpiffeId.parse("spiffe://test/service/ca"))
    for who in (stranger, person("carol", mfa=False), *([BOB] if key == "root" else [])):
        with pytest.raises(DeniedByPolicyError):
            approved(who, replace(DESTROY, key=key))


def test_an_approver_who_may_no_longer_approve_does_not_count() -> None:
    """A policy that takes the right away takes the approvals given under it with it."""
    rows = [approved(person("carol")), approved(BOB)]
    narrower = Policy.load(TEXT.replace('subject = "carol"', 'subject = "karla"'))
    decision = narrower.decide(ALICE, "destroy", "ca", "issuing", at=AT)
    with pytest.raises(ApprovalsMissingError) as refused:
        select(decision, narrower, DESTROY, rows)
    assert refused.value.missing == 1


def test_a_rule_without_approvals_consumes_none() -> None:
    """What lies there stays there."""
    act = BoundAct("rotate", "ca", "ocsp", None, {})
    assert used([approved(BOB, act)], act=act) == []


def test_decisions_about_something_else_are_no_use() -> None:
    """Neither a decision on another act nor one for another key makes or consumes an approval."""
    for decision in (may(BOB, "destroy"), may(BOB, "approve", "ocsp")):
        with pytest.raises(DeniedByPolicyError):
            approve(decision, DESTROY, id="1", lifetime=DAY)
    for decision in (may(ALICE, "rotate"), may(ALICE, "destroy", "ocsp")):
        with pytest.raises(DeniedByPolicyError):
            select(decision, POLICY, DESTROY, [approved(BOB), approved(ERIN)])


@pytest.mark.parametrize(
    ("act", "parameters"),
    [
        ("sign", {}),
        ("approve", {}),
        ("destroy", {"x": "y" * MAX_PARAMETERS}),
        ("destroy", {"x": object()}),
        ("destroy", {"x": "\ud800"}),
        ("destroy", {"x": 2**80}),
    ],
)
def test_what_takes_no_approval(act: Act, parameters: dict[str, Any]) -> None:
    """Acts that are not of the life cycle, and parameters that are too long or not JSON."""
    with pytest.raises(BadPayloadError):
        approved(BOB, replace(DESTROY, act=act, parameters=parameters))


def test_a_row_keeps_of_a_token_what_the_policy_asks_for() -> None:
    """No e-mail address lands in the database."""
    row = approved(person("carol"))
    assert "x@test" not in row.approver
    kept = caller_of(row.approver)
    assert kept == person("carol")
    assert kept.subject is not None
    assert dict(kept.subject.claims) == {"mfa": True}
    assert caller_of(approved(BOB).approver) == BOB


@pytest.mark.parametrize("text", ["", "{}", "[]", "1", '{"spiffe_id": 1}', '{"spiffe_id": "x"}', '{"issuer": "i"}'])
def test_a_row_that_was_changed_is_refused(text: str) -> None:
    """It is an error of the tree, whatever stands there."""
    with pytest.raises(DeniedByPolicyError):
        caller_of(text)
