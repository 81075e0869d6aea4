"""Settings that make no sense are refused at the start, by a sentence that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import SettingsError
from services.chassis.settings import load_settings
from services.signing.settings import SigningSettings

REQUIRED = {
    "state_dir": "/s",
    "database_url": "sqlite:////s/signing.sqlite3",
    "policy_file": "/c/policy.toml",
    "policies_directory": "/c/policies",
    "ca_url": "https://127.0.0.1:5000",
    "ca_status_url": "http://127.0.0.1:5080",
    "signer_url": "https://127.0.0.1:6000",
    "trust_bundle": "/c/roots.pem",
    "issuers_directory": "/c/issuers",
    "tls_certificate": "/s/tls/cert.pem",
    "tls_key": "/s/tls/key.pem",
    "audit_key": "file:/s/audit.key",
    "passphrase_file": "/s/passphrase",
}
PROFILE = {"id": "default", "tenant": "acme", "keys": ["acme.k"], "attestation_keys": ["acme.a"]}


def load(tmp_path: Path, **more: Any) -> SigningSettings:  # noqa: ANN401 -- TOML values
    """Settings out of a file."""
    path = tmp_path / "signing.toml"
    tables = {name: value for name, value in more.items() if isinstance(value, list)}
    lines = [f"{name} = {_toml(value)}\n" for name, value in {**REQUIRED, **more}.items() if name not in tables]
    for name, entries in tables.items():
        lines += [
            f"[[{name}]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in entry.items()) for entry in entries
        ]
    path.write_text("".join(lines))
    return load_settings(SigningSettings, path)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | list) else f'"{value}"'


def test_what_the_ceremony_writes_is_enough(tmp_path: Path) -> None:
    """Without profiles, log and authority the service starts."""
    settings = load(tmp_path)
    assert (settings.port, settings.profiles, settings.log_key) == (7000, (), None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"profiles": [{**PROFILE, "keys": ["globex.k"]}]}, "not one of the tenant acme"),
        ({"log_origin": "https://signing.example.org"}, "log_origin"),
        ({"log_origin": "signing.example.org:7000"}, "log_origin"),
        ({"log_origin": "Signing.example.org"}, "log_origin"),
        ({"log_origin": "signing.example.org/log"}, "log_origin"),
        ({"certificate_renewal_days": 0}, "certificate_renewal_days"),
        ({"certificate_renewal_days": 301}, "certificate_renewal_days"),
        ({"profiles": [{**PROFILE, "keys": ["acme.k", "acme.k"]}]}, "twice"),
        ({"profiles": [PROFILE, PROFILE]}, "twice"),
        ({"profiles": [{**PROFILE, "keys": ["acme.a"]}]}, "twice"),
        (
            {"profiles": [PROFILE, {**PROFILE, "id": "b", "keys": ["acme.a"], "attestation_keys": ["acme.b"]}]},
            "two roles",
        ),
        ({"profiles": [{**PROFILE, "attestation_keys": []}]}, "no attestation_keys"),
        ({"profiles": [{**PROFILE, "keys": []}]}, "no keys that sign in it"),
        ({"profiles": [{**PROFILE, "formats": ["pgp"]}]}, "profiles"),
        ({"profiles": [{**PROFILE, "log": True}]}, "log_key"),
        ({"profiles": [{**PROFILE, "timestamp": True}]}, "timestamp_key"),
        (
            {"profiles": [{"id": "x", "tenant": "signing", "keys": ["signing.log"], "formats": ["raw"]}]},
            "the service's own",
        ),
        ({"mtls_callers": [{"spiffe_id": "spiffe://a/b", "tenant": "signing"}]}, "the service's own"),
        ({"timestamp_key": "signing.tsa"}, "go together"),
        ({"certificate_profile": "code-signing"}, "ct_log_public_key"),
        ({"external_url": "https://x/path"}, "without a path"),
        ({"tenant_quotas": [{"tenant": "acme"}, {"tenant": "acme"}]}, "twice"),
        ({"log_key": "signing.log/0"}, "log_key"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    """At the start, not at the first request."""
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, **more)
