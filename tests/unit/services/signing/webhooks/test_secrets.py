import base64

import pytest

from pkicore.errors import KeyLockedError
from services.signing.webhooks.secrets import SecretBox, new_secret, shown

BOX = SecretBox(bytes(32))


def test_sealed_secret_opens_again() -> None:
    """What was sealed comes back, and does not stand in what is kept."""
    secret = new_secret()
    sealed = BOX.seal("wh_1", secret)
    assert secret not in sealed
    assert BOX.open("wh_1", sealed) == secret


def test_same_secret_is_sealed_differently_each_time() -> None:
    """Whoever reads the database cannot tell that two receivers share a secret."""
    assert BOX.seal("wh_1", b"secret") != BOX.seal("wh_1", b"secret")


def test_sealed_secret_cannot_be_moved_or_altered() -> None:
    """A secret is bound to its webhook, and every octet of it counts."""
    sealed = BOX.seal("wh_1", b"secret")
    with pytest.raises(KeyLockedError, match="wh_2"):
        BOX.open("wh_2", sealed)
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(KeyLockedError):
            BOX.open("wh_1", bytes(altered))
    for length in range(len(sealed)):
        with pytest.raises(KeyLockedError):
            BOX.open("wh_1", sealed[:length])


def test_passphrase_and_salt_make_the_box() -> None:
    """The same passphrase and salt open what they sealed; another passphrase does not, and the error tells nothing."""
    sealed = SecretBox.derive(b"passphrase", bytes(16)).seal("wh_1", b"secret")
    assert SecretBox.derive(b"passphrase", bytes(16)).open("wh_1", sealed) == b"secret"
    with pytest.raises(KeyLockedError) as refused:
        SecretBox.derive(b"other", bytes(16)).open("wh_1", sealed)
    assert "secret" not in str(refused.value).replace("the secret of webhook", "")


def test_shown_form_is_that_of_standard_webhooks() -> None:
    """A secret is `whsec_` and the base64 of 24 to 64 octets, another one each time."""
    first, second = new_secret(), new_secret()
    assert first != second
    text = shown(first)
    assert base64.b64decode(text.removeprefix("whsec_")) == first
    assert text.startswith("whsec_")
    assert 24 <= len(first) <= 64
