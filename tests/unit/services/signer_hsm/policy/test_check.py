"""The published schema, the findings, and the command that prints both; the examples of the documentation."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from services.signer_hsm.cli import policy as command
from services.signer_hsm.policy import Policy
from services.signer_hsm.policy.document import PolicyDocument
from services.signer_hsm.policy.findings import findings
from services.signer_hsm.policy.loading import read_document

ROOT = Path(__file__).parents[5]
SCHEMA = ROOT / "services/signer_hsm/policy/schema.json"
README = ROOT / "docs/custody/README.md"
EXAMPLES = sorted((ROOT / "docs/custody/policies").glob("*.toml"))
NOW = datetime(2030, 1, 1, tzinfo=UTC)
TENANT = "[[tenants]]\nid='{}'\nbackends=['f']\nmax_keys=1\nrate_per_second=1\nburst=1\nmax_in_flight=1\n"


def found(rules: str, tenants: str = TENANT.format("t")) -> tuple[str, ...]:
    """The findings of a policy."""
    document, _ = read_document(f"version = 1\n{tenants}\n{rules}", "toml")
    return findings(document, NOW)


def rule(acts: str, more: str = "", caller: str = "spiffe://test/service/a", name: str = "r") -> str:
    """One rule."""
    return f"[[rules]]\nid='{name}'\ntenant='t'\ncallers=['{caller}']\nacts={acts}\nkeys=['*']\n{more}\n"


def test_the_published_schema_is_the_loaders() -> None:
    """The file is what the models say today: `keyctl policy schema` makes it anew."""
    assert orjson.loads(SCHEMA.read_bytes()) == PolicyDocument.schema_2020()
    printed = CliRunner().invoke(command.policy, ["schema"])
    assert printed.output == SCHEMA.read_text()


def test_the_schema_refuses_unknown_members_everywhere() -> None:
    """An editor that checks with it marks what the loader would refuse; claims alone are free."""
    schema = PolicyDocument.schema_2020()
    for name, definition in {"": schema, **schema["$defs"]}.items():
        if definition.get("type") == "object":
            assert definition["additionalProperties"] is False, name


def test_every_pattern_of_the_schema_is_anchored() -> None:
    """JSON Schema looks for a pattern anywhere in a text."""
    patterns = re.findall(r'"pattern": "(.*)"', SCHEMA.read_text())
    assert len(patterns) >= 6
    assert all(pattern.startswith("^") and pattern.endswith("$") for pattern in patterns)


@pytest.mark.parametrize(
    ("rules", "finding"),
    [
        ("", "tenant t: no rule is about it, so nobody can use it"),
        (rule("['show']", "valid_until='2029-12-31T00:00:00Z'"), "rule r: never matches any more"),
        (rule("['sign']", "kinds=['mu']\nschemes=['ES256']"), "rule r: none of its schemes signs the kind mu"),
        (rule("['sign']", "kinds=['digest']\nschemes=['EdDSA']"), "rule r: none of its schemes signs the kind digest"),
        (
            rule("['sign']", "kinds=['message']\nschemes=['RS256']"),
            "rule r: none of its schemes signs the kind message",
        ),
        (rule("['destroy']", "approvals=1"), "rule r: wants 1 approvals, but only 0 may approve in t"),
        (rule("['destroy']", "approvals=2") + rule("['approve']", name="q"), "rule r: wants 2 approvals, but only 1"),
        (
            "[[rules]]\nid='r'\ntenant='t'\nsubjects=[{issuer='i',subject='s'}]\nacts=['show']\nkeys=['*']",
            "rule r: any peer may show these subjects' tokens",
        ),
    ],
)
def test_what_is_worth_a_note(rules: str, finding: str) -> None:
    """Rules that never match, approvals that nobody can give, tenants that nobody can use."""
    assert [note for note in found(rules) if note.startswith(finding)]


def test_a_sensible_policy_has_no_notes() -> None:
    """Any number of operators may approve where a wildcard names them."""
    operators = "spiffe://test/operator/*"
    rules = rule("['destroy']", "approvals=5") + rule("['approve']", caller=operators, name="q")
    assert found(rules + rule("['sign']", "kinds=['digest','mu']\nschemes=['ES256','ML-DSA-65']", name="s")) == ()


def test_the_command_prints_version_hash_and_notes(tmp_path: Path) -> None:
    """Whoever changes a policy compares the hash with what the service says afterwards."""
    text = "version = 12\n" + TENANT.format("t")
    (tmp_path / "keys.toml").write_text(text)
    (tmp_path / "keys.json").write_text(read_document(text, "toml")[1].decode())
    for name in ("keys.toml", "keys.json"):
        result = CliRunner().invoke(command.policy, ["check", str(tmp_path / name)])
        assert result.exit_code == 0
        assert f"version 12\nsha256  {Policy.load(text).sha256}\n1 tenants, 0 rules\n" in result.output
        assert "note: tenant t: no rule is about it" in result.output


@pytest.mark.parametrize("content", [b"version = 0", b"\xff", b"version ="])
def test_the_command_refuses_what_the_service_would(tmp_path: Path, content: bytes) -> None:
    """One sentence and a failure."""
    (tmp_path / "keys.toml").write_bytes(content)
    result = CliRunner().invoke(command.policy, ["check", str(tmp_path / "keys.toml")])
    assert result.exit_code == 1
    assert result.output.startswith("keyctl: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_good_policies(path: Path) -> None:
    """Each loads, without a note."""
    document, _ = read_document(path.read_text(), "toml")
    assert findings(document, NOW) == ()


def test_there_are_examples() -> None:
    """The test above would pass without any."""
    assert len(EXAMPLES) >= 4


def test_the_documented_recipe_recomputes_the_hash(tmp_path: Path) -> None:
    """The README's lines, run as they stand, with nothing of this project."""
    recipe = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert recipe is not None
    assert "services" not in recipe[1]
    content: dict[str, Any] = {}
    exec(recipe[1], content)  # noqa: S102 - the documentation's own lines
    for path in EXAMPLES:
        assert content["sha256_of"](path) == Policy.load(path.read_text()).sha256
    as_json = tmp_path / "keys.json"
    as_json.write_text(json.dumps(json.loads(read_document(EXAMPLES[0].read_text(), "toml")[1]), indent=3))
    assert content["sha256_of"](as_json) == Policy.load(EXAMPLES[0].read_text()).sha256


def test_every_act_and_reason_is_documented() -> None:
    """A word that the README does not explain fails."""
    text = README.read_text()
    schema = PolicyDocument.schema_2020()
    rule_members = schema["$defs"]["RuleDocument"]["properties"]
    words = [*rule_members, *rule_members["acts"]["items"]["enum"], *schema["$defs"]["Tenant"]["properties"]]
    assert [word for word in words if f"`{word}`" not in text] == []
