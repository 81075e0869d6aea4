"""Policy texts are bounded before the engine sees them, and faults have the line that an editor shows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.signing.policy import PolicySchema, PolicySet, PolicySetError
from services.signing.policy.text import MAX_DEPTH, MAX_TOKENS, policies_of

SCHEMA = PolicySchema()
GOOD = '@id("one")\npermit (principal, action, resource);\n'


def refusal(text: str, file: str = "a.cedar") -> tuple[str, int | None, str]:
    """The first fault of a file."""
    with pytest.raises(PolicySetError) as refused:
        PolicySet.of_files({file: text}, SCHEMA)
    return refused.value.faults[0]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n// nothing; here\n", []),
        (GOOD, [1]),
        (f"// a comment;\n\n{GOOD}\n\n{GOOD}", [3, 7]),
        (
            '@id("a;b")\npermit (principal, action, resource); // x;\n// y\n@id("c") permit (principal);',
            [1, 4],
        ),
        ('@id("a") permit(principal,action,resource) when { context.tenant == "\\";\\\\" };\n@id("b")', [1, 2]),
        (GOOD.replace("\n", "\r\n") * 2, [1, 3]),
    ],
)
def test_where_policies_begin(text: str, lines: list[int]) -> None:
    """Semicolons in texts and comments end nothing."""
    policies, faults = policies_of("a.cedar", text)
    assert [policy.line for policy in policies] == lines
    assert faults == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("permit", 1),
        (f"{GOOD}\npermit (principal, action, resource\n", 4),
        (f'{GOOD}\n@id("two")\npermit (\n  principal,\n  actoin,\n  resource\n);\n{GOOD}', 4),
        (f'{GOOD}\n@id("two")\npermit (principal, action, resource)\nwhen {{\n  context.tenant = "acme"\n}};\n', 4),
        (f'{GOOD}\n@id("two")\npermit (\n  principal;\n  action,\n  resource\n);', 6),
        (f'{GOOD}\n@id("two")\npermit (principal, action, resource)\nwhen {{\n  context.tenant\n  "acme"\n}};', 8),
        (f"{GOOD}allow (principal, action, resource);", 3),
        (f"{GOOD};", 3),
        (f"\ufeff{GOOD}", 1),
    ],
)
def test_a_text_that_does_not_parse(text: str, line: int) -> None:
    """File, line, and what the parser says."""
    file, found, message = refusal(text)
    assert (file, found) == ("a.cedar", line)
    assert message


@pytest.mark.parametrize(
    ("condition", "word"),
    [
        ("context.claims has repositroy_id", "repositroy_id"),
        ("context.claims has repository", "repository"),
        ("context has claims && context.claims has tenant", "tenant"),
        ("resource has kind", "kind"),
        ("{a: context.claims}.a has tenant", "tenant"),
        ("context has claims.repositroy_id", "repositroy_id"),
        ('context.tenant == "a" || !(if context has subject then true else false)', "subject"),
        ('{"a": context.claims has owner}.a', "owner"),
        ("[principal has group].contains(true)", "group"),
        ('context.claims.repository_id == "74"', "repository_id"),
        ("context.subjects == 1", "subjects"),
        ("principal.kind == 7", "Long"),
        ("context.tenant like 7", "7"),
        ('resource.nam == "x"', "nam"),
        ("principal.admin", "admin"),
        ('principal in Team::"a"', "Team"),
    ],
)
def test_a_policy_that_does_not_fit_the_schema(condition: str, word: str) -> None:
    """A claim that is misspelt, a name instead of an id, one that may be missing, a type: found before it denies."""
    text = f'{GOOD}\n\n@id("two")\npermit (principal, action == Action::"read", resource)\nwhen {{ {condition} }};\n'
    file, line, message = refusal(text)
    assert file == "a.cedar"
    assert line in {5, 7}
    assert word in message
    assert "policy1" not in message


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("permit (principal, action, resource);", 1, "@id"),
        (f"{GOOD}\n@id\npermit (principal, action, resource);", 4, "@id"),
        (f'{GOOD}\n@id("a b")\npermit (principal, action, resource);', 4, "@id"),
        (f'{GOOD}\n@id("{"x" * 65}")\npermit (principal, action, resource);', 4, "@id"),
        (f"{GOOD}\n{GOOD}", 4, "a.cedar:1"),
        ('@id("t") permit (principal == ?principal, action, resource);', None, "template"),
    ],
)
def test_a_policy_that_a_record_could_not_name(text: str, line: int | None, word: str) -> None:
    """Each has an id of its own, and none is a template that permits nothing."""
    found = refusal(text)
    assert found[1] == line
    assert word in found[2]


def test_ids_are_unlike_across_files() -> None:
    """The second one is told where the first is."""
    with pytest.raises(PolicySetError, match=r"b\.cedar:2: .*a\.cedar:1"):
        PolicySet.of_files({"a.cedar": GOOD, "b.cedar": "\n" + GOOD}, SCHEMA)


def test_all_faults_are_told() -> None:
    """In one go, the first five in the sentence."""
    bad = "".join(
        f'@id("p{n}") permit (principal, action == Action::"read", resource) when {{ context.x }};\n' for n in range(7)
    )
    with pytest.raises(PolicySetError) as refused:
        PolicySet.of_files({"a.cedar": bad}, SCHEMA)
    assert [fault.line for fault in refused.value.faults] == list(range(1, 8))
    assert "and 2 more" in str(refused.value)


BOMBS = {
    "brackets": "(" * 20_000 + "true" + ")" * 20_000,
    "sets": "[" * 20_000 + "1" + "]" * 20_000,
    "records": "{a:" * 20_000 + "1" + "}" * 20_000,
    "and": "true" + "&&true" * 20_000,
    "members": "context" + ".a" * 20_000,
    "sums": "1" + "+1" * 20_000,
    "conditions": "if true then " * 20_000 + "true" + " else true" * 20_000,
}


def bomb(condition: str) -> str:
    """A policy with that condition."""
    return f'@id("bomb") permit (principal, action, resource) when {{ {condition} }};'


@pytest.mark.parametrize("name", BOMBS)
def test_texts_that_would_end_the_process(name: str) -> None:
    """They are refused before the engine's recursion meets them."""
    file, line, message = refusal(GOOD + bomb(BOMBS[name]))
    assert (file, line) == ("a.cedar", 3)
    assert "tokens" in message


def test_a_bomb_cannot_hide() -> None:
    """A comment ends at a carriage return, as the engine has it; a text that never ends is no text."""
    assert "tokens" in refusal(bomb("true // x\r&& " + BOMBS["brackets"]))[2]
    assert "tokens" in refusal(bomb(BOMBS["brackets"] + ' == "'))[2]
    assert "tokens" in refusal("(" * 20_000)[2]


def test_the_engine_does_die_of_them() -> None:
    """Should it ever stop doing so, the bounds can go."""
    script = f"import cedarpy; cedarpy.PolicySet.from_str({bomb('%s')!r} % ('(' * 20000 + 'true' + ')' * 20000))"
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode < 0


@pytest.mark.parametrize(
    "condition",
    [
        "(" * (MAX_DEPTH - 2) + "true" + ")" * (MAX_DEPTH - 2),
        "true" + "&&true" * 60,
        '["' + '","'.join(["x"] * (MAX_TOKENS // 2 - 20)) + '"].contains(context.tenant)',
    ],
)
def test_what_people_write_fits(condition: str) -> None:
    """Long lists of ids, many conditions, nested ones."""
    text = f'@id("long") permit (principal, action == Action::"read", resource) when {{ {condition} }};'
    assert PolicySet.of_files({"a.cedar": text}, SCHEMA).ids == ("long",)
