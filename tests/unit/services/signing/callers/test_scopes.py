"""Scopes narrow and never grant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import MalformedError
from services.signing.callers import UNNARROWED, Scopes

KEYS = ["release", "release-eu", "nightly", "release-*", "re*"]
SOME = Scopes(frozenset({"sign"}), frozenset({"release", "ci-*"}), frozenset({"dsse", "raw"}))


@pytest.mark.parametrize(
    ("action", "key", "formats", "left"),
    [
        ("sign", "release", ["dsse"], True),
        ("sign", "release", [], True),
        ("sign", "ci-", ["raw", "dsse"], True),
        ("sign", "ci-7", ["raw"], True),
        ("sign", "release-eu", ["raw"], False),
        ("sign", "ci", ["raw"], False),
        ("sign", "*", ["raw"], False),
        ("sign", "release", ["dsse", "cms"], False),
        ("read", "release", ["dsse"], False),
        ("sign", None, ["dsse"], False),
    ],
)
def test_what_scopes_leave(action: str, key: str | None, formats: list[str], *, left: bool) -> None:
    """Each part narrows; a beginning stands for the names that begin so; an act about no key does not pass."""
    assert SOME.allow(action, key, formats) is left


def test_nothing_narrowed_leaves_everything() -> None:
    """Tokens and certificates come without scopes of their own."""
    assert UNNARROWED.allow("manage_api_keys", None, [])
    assert UNNARROWED.allow("sign", "release", ["raw"])


@pytest.mark.parametrize(
    ("inner", "outer", "within"),
    [
        (SOME, SOME, True),
        (SOME, UNNARROWED, True),
        (UNNARROWED, SOME, False),
        (Scopes(frozenset({"sign", "read"})), Scopes(frozenset({"sign"})), False),
        (Scopes(keys=frozenset({"ci-7"})), Scopes(keys=frozenset({"ci-*"})), True),
        (Scopes(keys=frozenset({"ci-7*"})), Scopes(keys=frozenset({"ci-*"})), True),
        (Scopes(keys=frozenset({"c*"})), Scopes(keys=frozenset({"ci-*"})), False),
        (Scopes(keys=frozenset({"ci-*"})), Scopes(keys=frozenset({"ci-7"})), False),
        (Scopes(keys=frozenset({"release*"})), Scopes(keys=frozenset({"release"})), False),
        (Scopes(formats=None), Scopes(formats=frozenset({"raw"})), False),
    ],
)
def test_what_is_within_what(inner: Scopes, outer: Scopes, *, within: bool) -> None:
    """A key made by a narrowed key never reaches further, and a beginning only covers longer ones."""
    assert inner.within(outer) is within


_parts = st.none() | st.sets(st.sampled_from(KEYS), min_size=1).map(frozenset)


@given(_parts, _parts, st.sampled_from(["release", "release-eu", "rest", "nightly", "r"]))
def test_within_is_never_wrong(inner: frozenset[str] | None, outer: frozenset[str] | None, key: str) -> None:
    """Whatever scopes within others leave, the others leave."""
    some, wider = Scopes(keys=inner), Scopes(keys=outer)
    if some.within(wider) and some.allow("sign", key, []):
        assert wider.allow("sign", key, [])


def test_members_come_back() -> None:
    """What is stored is what is read."""
    for scopes in (SOME, UNNARROWED, Scopes(keys=frozenset({"a"}))):
        assert Scopes.of(scopes.members()) == scopes
    assert SOME.members()["keys"] == ["ci-*", "release"]


@pytest.mark.parametrize(
    "members",
    [
        None,
        [],
        {"colours": ["red"]},
        {"actions": []},
        {"actions": None},
        {"actions": "sign"},
        {"actions": ["*"]},
        {"actions": ["sign", "destroy"]},
        {"actions": ["sign\n"]},
        {"keys": ["*"]},
        {"keys": ["a*b"]},
        {"keys": ["other.release"]},
        {"keys": ["Release"]},
        {"keys": [7]},
        {"keys": [{"x": 1}]},
        {"formats": ["*"]},
        {"formats": [f"f{number}" for number in range(65)]},
    ],
)
def test_scopes_that_make_no_sense(members: object) -> None:
    """An empty list is no narrowing that anybody meant, and no pattern crosses into another tenant."""
    with pytest.raises(MalformedError):
        Scopes.of(members)
