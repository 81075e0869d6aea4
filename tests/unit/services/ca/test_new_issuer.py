"""Names of new issuing CAs and roots."""

import pytest

from services.ca.new_issuer import next_name, split_name


@pytest.mark.parametrize(
    ("base", "taken", "name"),
    [
        ("issuing-rsa", ["issuing-ecdsa"], "issuing-rsa"),
        ("issuing-ecdsa", ["issuing-ecdsa"], "issuing-ecdsa-2"),
        ("issuing-ecdsa", ["issuing-ecdsa-2", "issuing-mldsa-7"], "issuing-ecdsa-3"),
        ("root-mldsa", ["root-mldsa", "root-mldsa-2"], "root-mldsa-3"),
    ],
    ids=["first", "second", "after the first is gone", "third"],
)
def test_a_name_is_used_once(base: str, taken: list[str], name: str) -> None:
    """The first has no number, each later one the next."""
    assert next_name(base, taken) == name


def test_a_number_is_told_from_a_name() -> None:
    """The first of a name has the number one."""
    assert (split_name("root-ecdsa"), split_name("root-ecdsa-12")) == (("root-ecdsa", 1), ("root-ecdsa", 12))
