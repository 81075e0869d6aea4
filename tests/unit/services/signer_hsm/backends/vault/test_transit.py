"""What stands in an answer to a signature."""

import pytest

from services.signer_hsm.backends.vault.transit import signature_of
from services.signer_hsm.errors import BadAnswerError


def test_the_signature_of_the_version_that_is_ours() -> None:
    """In standard base64."""
    assert signature_of({"signature": "vault:v1:+/8="}) == b"\xfb\xff"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vault",
        "vault:v1",
        "vault:v1:",
        "vault:1:AAAA",
        "vault:v13:AAAA",
        "vault:v2:AAAA",
        "bao:v1:AAAA",
        "vault:v1:AAAA:AAAA",
        "vault:v1:-_8=",
        "vault:v1:AA=A",
        "vault:v1:\u00e9",
        "vault:v01:AAAA",
        "vault:v1:AA AA",
        None,
        7,
    ],
)
def test_what_is_no_signature(text: object) -> None:
    """Another version's, another form, url-safe base64 as of jws, or nothing."""
    with pytest.raises(BadAnswerError):
        signature_of({"signature": text})


def test_no_signature_at_all() -> None:
    """An answer without the field."""
    with pytest.raises(BadAnswerError):
        signature_of({})
