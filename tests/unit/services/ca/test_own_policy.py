"""What the keys commands read in the deployment's key policy, before signer-hsm decides under it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pkicore.identity import SpiffeId
from services.ca.errors import CeremonyError
from services.ca.own_policy import OwnPolicy
from services.ca.signer_settings import key_policy
from services.signer_hsm.policy import Policy
from tests.support.console import ROOT

OPERATOR = SpiffeId.operator("bank.example", "admin")
CA = SpiffeId.service("bank.example", "ca")
FOLDER = ROOT / "docs" / "custody" / "policies"
EXAMPLES = [path for path in sorted(FOLDER.glob("*.toml")) if 'tenant = "ca"' in path.read_text()]


def read(text: str) -> OwnPolicy:
    """A policy."""
    return OwnPolicy.read(text, Path("keys.toml"), operator=OPERATOR, ca=CA)


def with_rule(**members: Any) -> OwnPolicy:  # noqa: ANN401 - of a rule
    """One rule that lets operators do everything with every key, but for these members."""
    acts = ["import", "create", "destroy"]
    one = {"id": "r", "tenant": "ca", "callers": ["spiffe://bank.example/operator/*"], "acts": acts, "keys": ["*"]}
    return read(json.dumps({"version": 1, "tenants": [], "rules": [one | members]}))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_proofs_are_one_rule_more(example: Path) -> None:
    """What signer-hsm gets is the policy of the file, dates included, with a rule that allows no life-cycle act."""
    own = read(example.read_text())
    before, after = Policy.load(example.read_text()), Policy.load(own.with_proofs(), "json")
    assert {name: replace(rule, rank=0) for name, rule in before.rules.items()} == {
        name: replace(rule, rank=0) for name, rule in after.rules.items() if name != "ztca-keys"
    }
    assert set(json.loads(own.with_proofs())["rules"][-1]["acts"]) == {"sign", "list", "show", "pubkey"}
    Policy.load(read(own.with_proofs()).with_proofs(), "json")  # the name is free also where it was taken


def test_four_eyes_are_seen() -> None:
    """The example policy: the act is allowed, but not freely, so that there is no rehearsal, and no file ends."""
    own = read((FOLDER / "four-eyes.toml").read_text())
    own.require("import", "issuing-ecdsa")
    assert not own.can_rehearse("import")
    with pytest.raises(CeremonyError, match="with others' approval or at some times only"):
        own.require_free_destruction("issuing-ecdsa")


def test_the_default_policy_is_free() -> None:
    """Operators have the life cycle to themselves, until they raise `approvals`."""
    own = read(key_policy("bank.example", ["file"], ["digest"]))
    assert own.can_rehearse("import")
    own.require_free_destruction("issuing-ecdsa")
    own.require_signing("issuing-ecdsa", "digest")


@pytest.mark.parametrize(
    "members",
    [
        {"approvals": 1},
        {"windows": [{"days": ["mon"], "from": "08:00", "to": "18:00"}]},
        {"valid_until": "2030-01-01T00:00:00Z"},
    ],
    ids=["approvals", "windows", "valid_until"],
)
def test_what_is_bound_is_not_free(members: dict[str, Any]) -> None:
    """Allowed by signer-hsm at its time, and with approvals; never without asking it."""
    own = with_rule(**members)
    own.require("create", "issuing-ecdsa-2")
    assert not own.can_rehearse("create")
    with pytest.raises(CeremonyError):
        own.require_free_destruction("issuing-ecdsa")


@pytest.mark.parametrize(
    "members",
    [
        {"tenant": "shop"},
        {"callers": ["spiffe://bank.example/operator/other"]},
        {"callers": ["spiffe://bank.example/workload/*"]},
        {"subjects": [{"issuer": "https://idp", "subject": "x"}]},
        {"keys": ["other-*", "issuing"]},
        {"acts": ["create"]},
    ],
    ids=["tenant", "caller", "kind of caller", "token", "key", "act"],
)
def test_a_rule_about_something_else_allows_nothing(members: dict[str, Any]) -> None:
    """As signer-hsm would decide."""
    with pytest.raises(CeremonyError, match='add "import" to the `acts`'):
        with_rule(**members).require("import", "issuing-ecdsa")


@pytest.mark.parametrize(
    ("members", "remedy"),
    [
        ({"keys": ["*"], "kinds": ["digest"]}, 'add "message" to `kinds` of the rule r,'),
        (
            {"keys": ["issuing-ecdsa"], "kinds": ["message"]},
            'add "issuing-ecdsa-2" to `keys`, and "message" to `kinds`',
        ),
        ({"acts": ["pubkey"]}, 'add a rule with acts = ["sign", "show", "pubkey"], keys = ["issuing-ecdsa-2"]'),
    ],
    ids=["kind", "key", "rule"],
)
def test_what_keeps_the_ca_from_signing_is_said(members: dict[str, Any], remedy: str) -> None:
    """The rule, the member and the word to add."""
    own = with_rule(**({"callers": [str(CA)], "acts": ["sign"]} | members))
    with pytest.raises(CeremonyError) as refused:
        own.require_signing("issuing-ecdsa-2", "message")
    assert remedy in str(refused.value)
    assert str(refused.value).endswith("count `version` up")


@pytest.mark.parametrize("text", ["{", "[", '{"rules": [1]}', "rules = 1"])
def test_what_is_no_policy_is_a_sentence(text: str) -> None:
    """No trace."""
    with pytest.raises(CeremonyError, match=r"keys\.toml"):
        read(text)
