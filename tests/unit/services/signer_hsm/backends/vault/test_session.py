"""What a login may answer, and when a token is due."""

from datetime import UTC, datetime, timedelta

import pytest

from services.signer_hsm.backends.vault.session import Token, _token_of
from services.signer_hsm.errors import BadAnswerError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD = {"client_token": "s.abc", "lease_duration": 3600, "renewable": True}


def test_a_token_and_its_time() -> None:
    """Due after two thirds, expired at the end."""
    token = _token_of(GOOD, NOW)
    assert not token.due(NOW + timedelta(seconds=2399))
    assert token.due(NOW + timedelta(seconds=2400))
    assert not token.expired(NOW + timedelta(seconds=3599))
    assert token.expired(NOW + timedelta(seconds=3600))
    assert token.seconds_left(NOW + timedelta(seconds=600)) == 3000
    assert token.seconds_left(NOW + timedelta(hours=2)) == 0


def test_a_token_without_an_end() -> None:
    """Never due, never expired."""
    token = _token_of({**GOOD, "lease_duration": 0}, NOW)
    later = NOW + timedelta(days=9999)
    assert (token.due(later), token.expired(later), token.seconds_left(later)) == (False, False, None)


def test_its_value_is_not_shown() -> None:
    """Neither by repr nor by str."""
    token = Token("s.secret", timedelta(), NOW, renewable=True)
    assert "secret" not in f"{token!r} {token}"


@pytest.mark.parametrize(
    "changes",
    [
        {"client_token": None},
        {"client_token": ""},
        {"client_token": "s.a\r\nX-Vault-Namespace: other"},
        {"client_token": "s.\u00e9"},
        {"client_token": "s" * 4097},
        {"lease_duration": -1},
        {"lease_duration": True},
        {"lease_duration": "3600"},
        {"lease_duration": 1.5},
        {"lease_duration": 10**12},
    ],
)
def test_what_is_no_token(changes: dict[str, object]) -> None:
    """It would become a header, or a time that cannot be counted."""
    with pytest.raises(BadAnswerError):
        _token_of({**GOOD, **changes}, NOW)


@pytest.mark.parametrize("auth", [None, [], "s.abc", {}])
def test_no_auth_at_all(auth: object) -> None:
    """An envelope without it."""
    with pytest.raises(BadAnswerError):
        _token_of(auth, NOW)


def test_only_true_is_renewable() -> None:
    """Anything else is left to expire."""
    assert not _token_of({**GOOD, "renewable": "true"}, NOW).renewable
