"""The settings of a perspective, of which tests of validation and of perspectives change a few."""

from ipaddress import ip_network
from pathlib import Path

from services.acme.perspectives.settings import PerspectiveSettings


def validation_settings(directory: Path, **changed: object) -> PerspectiveSettings:
    """Settings whose files need not be there; validation may dial loopback."""
    told = {
        "state_dir": directory,
        "policy_file": directory / "policy.toml",
        "ca_url": "https://localhost:5000",
        "ca_status_url": "http://localhost:5080",
        "trust_bundle": directory / "roots.pem",
        "issuers_directory": directory / "issuers",
        "tls_certificate": directory / "cert.pem",
        "tls_key": directory / "key.pem",
        "allowed_networks": (ip_network("127.0.0.0/8"),),
    }
    return PerspectiveSettings.model_validate(told | changed)
