"""What stands in an answer to a signature."""

import pytest

from services.signer_hsm.backends.vault.transit import signature_of
from services.signer_hsm.errors import BadAnswerError


def test_the_signature_of_the_version_that_was_asked() -> None:
    """In standard base64."""
    assert signature_of({"signature": "vault:v3:+/8="}, 3) == b"\xfb\xff"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vault",
        "vault:v3",
        "vault:v3:",
        "vault:3:AAAA",
        "vault:v33:AAAA",
        "vault:v2:AAAA",
        "bao:v3:AAAA",
        "vault:v3:AAAA:AAAA",
        "vault:v3:-_8=",
        "vault:v3:AA=A",
        "vault:v3:\u00e9",
        "vault:v03:AAAA",
        "vault:v3:AA AA",
        None,
        7,
    ],
)
def test_what_is_no_signature(text: object) -> None:
    """Another version's, another form, url-safe base64 as of jws, or nothing."""
    with pytest.raises(BadAnswerError):
        signature_of({"signature": text}, 3)


def test_no_signature_at_all() -> None:
    """An answer without the field."""
    with pytest.raises(BadAnswerError):
        signature_of({}, 3)
