from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.chassis.settings import load_settings
from services.signer_hsm.backends.settings import FileSettings
from services.signer_hsm.settings import SignerSettings

BASE = """
state_dir = "/s"
database_url = "sqlite:////s/db.sqlite3"
policy_file = "/s/policy.toml"
keys_policy_file = "/s/keys.toml"
ca_url = "https://localhost:5000/"
ca_status_url = "http://127.0.0.1:5080"
trust_bundle = "/s/roots.pem"
issuers_directory = "/s/issuers"
tls_certificate = "/s/cert.pem"
tls_key = "/s/key.pem"
audit_key = "file:/s/audit.key"
passphrase_file = "/s/passphrase"
"""
BACKEND = '[[backends]]\nname = "file"\ntype = "file"\ndirectory = "/s/keys"\npassphrase_file = "/s/passphrase"\n'


def load(tmp_path: Path, text: str) -> SignerSettings:
    """Settings from a file with this text."""
    file = tmp_path / "signer-hsm.toml"
    file.write_text(text)
    return load_settings(SignerSettings, file)


def test_the_usual_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back ends are told by their type; the environment wins."""
    monkeypatch.setenv("PQCPKI_SIGNER_HSM_PORT", "0")
    settings = load(tmp_path, BASE + BACKEND)
    assert (settings.port, settings.ops_port, settings.ca_url) == (0, 6090, "https://localhost:5000")
    assert isinstance(settings.backends[0], FileSettings)
    assert not settings.keys_policy_may_go_back


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (BASE, "backends"),
        (BASE + BACKEND + BACKEND, "backends"),
        (BASE + BACKEND.replace('"file"\ndir', '"paper"\ndir'), "backends"),
        (BASE + BACKEND + "password = 'x'\n", "backends"),
        (BASE.replace("https://localhost:5000/", "https://localhost/x") + BACKEND, "ca_url"),
        (BASE.replace("http://127.0.0.1:5080", "ftp://x") + BACKEND, "ca_status_url"),
        (BASE.replace('"/s/keys.toml"', '"keys.toml"') + BACKEND, "keys_policy_file"),
        ("approval_hours = 0\n" + BASE + BACKEND, "approval_hours"),
        ("idempotency_days = 0\n" + BASE + BACKEND, "idempotency_days"),
    ],
)
def test_nonsense_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    """Each wrong setting is named."""
    with pytest.raises(SettingsError, match=named):
        load(tmp_path, text)
