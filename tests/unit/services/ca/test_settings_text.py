import tomllib

import pytest

from services.ca.errors import CeremonyError
from services.ca.settings_text import (
    add_issuer,
    add_root,
    change_issuers,
    change_roots,
    in_state,
    remove_issuer,
    set_top_level,
)

TEXT = """# of the CA
port = 5000  # recorded

# the quick one
[[issuers]]
id = "issuing-ecdsa"
key = "file:/a"

[[issuers]]
id = "issuing-mldsa"
# by hand
key = "file:/b"  # sealed

[[roots]]
id = "root-ecdsa"
key = "not an issuer's"
"""


def test_one_issuer_is_changed_and_nothing_else() -> None:
    """Values are replaced and added in the right table; comments, order and other tables stay."""
    changed = change_issuers(TEXT, {"issuing-mldsa": {"key": "signer-hsm:ca.m/1", "previous_key": "file:/b"}})
    found = tomllib.loads(changed)
    assert found["issuers"][1] == {"id": "issuing-mldsa", "key": "signer-hsm:ca.m/1", "previous_key": "file:/b"}
    assert (found["issuers"][0], found["roots"]) == (tomllib.loads(TEXT)["issuers"][0], tomllib.loads(TEXT)["roots"])
    assert "# by hand" in changed
    assert changed.splitlines()[:5] == TEXT.splitlines()[:5]


def test_the_way_back_leads_to_the_same_settings() -> None:
    """What was added can be removed again."""
    there = change_issuers(TEXT, {"issuing-ecdsa": {"key": "signer-hsm:ca.e/1", "previous_key": "x", "migrated_at": 3}})
    back = change_issuers(there, {"issuing-ecdsa": {"key": "file:/a", "previous_key": None, "migrated_at": None}})
    assert tomllib.loads(back) == tomllib.loads(TEXT)


def test_values_cannot_break_out_of_their_quotes() -> None:
    """A path with quotes, backslashes and line ends is one value."""
    nasty = 'file:/a"\n[[roots]]\\1\n'
    changed = change_issuers(TEXT, {"issuing-ecdsa": {"key": nasty}})
    assert tomllib.loads(changed)["issuers"][0]["key"] == nasty


@pytest.mark.parametrize(
    "text", ["port = 1\n", '[[issuers]]\nid = "other"\n', 'issuers = [{ id = "issuing-ecdsa" }]\n']
)
def test_an_issuer_that_is_not_there_is_an_error(text: str) -> None:
    """A file in another form is left to its author."""
    with pytest.raises(CeremonyError):
        change_issuers(text, {"issuing-ecdsa": {"key": "x"}})


def test_a_form_that_is_not_understood_is_refused_whole() -> None:
    """A value over several lines is not cut in half."""
    text = TEXT.replace('key = "file:/a"', 'key = """\nfile:/a"""')
    with pytest.raises(CeremonyError, match="by hand"):
        change_issuers(text, {"issuing-ecdsa": {"key": "x"}})


def test_a_member_at_the_top_goes_before_the_first_table() -> None:
    """It is one of the service, not of the last table; a second time it is replaced."""
    once = set_top_level(TEXT, "signer_url", "https://localhost:1")
    twice = set_top_level(once, "signer_url", "https://localhost:2")
    assert tomllib.loads(twice) == tomllib.loads(TEXT) | {"signer_url": "https://localhost:2"}
    with pytest.raises(CeremonyError):
        set_top_level("port = 1\n", "signer_url", "x")


def test_an_issuer_is_added_behind_another_and_can_be_removed() -> None:
    """The order of the tables is kept, and the text before and behind the new one."""
    added = add_issuer(TEXT, "issuing-ecdsa", {"id": "issuing-ecdsa-2", "key": "k"})
    found = tomllib.loads(added)
    assert [item["id"] for item in found["issuers"]] == ["issuing-ecdsa", "issuing-ecdsa-2", "issuing-mldsa"]
    assert "# by hand" in added
    assert tomllib.loads(remove_issuer(added, "issuing-ecdsa-2")) == tomllib.loads(TEXT)
    assert [item["id"] for item in tomllib.loads(remove_issuer(added, "issuing-ecdsa"))["issuers"]] == [
        "issuing-ecdsa-2",
        "issuing-mldsa",
    ]


def test_an_issuer_is_added_behind_the_last_table() -> None:
    """A file that ends with its issuers takes another one."""
    text = TEXT.partition("[[roots]]")[0]
    found = tomllib.loads(add_issuer(text, "issuing-mldsa", {"id": "issuing-mldsa-2"}))
    assert found["issuers"][2] == {"id": "issuing-mldsa-2"}


def test_an_unknown_issuer_is_named() -> None:
    """Nothing is added behind, and nothing removed, that is not there."""
    with pytest.raises(CeremonyError, match="issuing-rsa"):
        add_issuer(TEXT, "issuing-rsa", {"id": "x"})
    with pytest.raises(CeremonyError, match="issuing-rsa"):
        remove_issuer(TEXT, "issuing-rsa")


def test_a_root_is_added_and_changed_beside_the_issuers() -> None:
    """Lists are written on one line; issuers of the same id are another matter."""
    text = add_root(TEXT, "root-ecdsa", {"id": "root-ecdsa-2", "certificate": "/c", "state": "prepared"})
    text = change_roots(text, {"root-ecdsa-2": {"cross": ["/a", "/b"]}, "root-ecdsa": {"state": "superseded"}})
    found = tomllib.loads(text)
    assert [item["id"] for item in found["roots"]] == ["root-ecdsa", "root-ecdsa-2"]
    assert (found["roots"][1]["cross"], found["roots"][0]["state"]) == (["/a", "/b"], "superseded")
    assert found["issuers"] == tomllib.loads(TEXT)["issuers"]
    with pytest.raises(CeremonyError, match=r"no \[\[roots\]\] table with the id issuing-ecdsa"):
        change_roots(TEXT, {"issuing-ecdsa": {"state": "retired"}})


def test_a_state_takes_the_place_of_what_earlier_versions_said() -> None:
    """`retired = true` goes when a state comes."""
    text = change_issuers(TEXT.replace('"file:/a"', '"file:/a"\nretired = true'), {"issuing-ecdsa": in_state("active")})
    assert tomllib.loads(text)["issuers"][0] == {"id": "issuing-ecdsa", "key": "file:/a", "state": "active"}
