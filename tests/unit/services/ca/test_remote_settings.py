"""What a deployment with signer-hsm is told, and what is refused before anything starts."""

import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pkicore.algorithms import ALGORITHMS
from pkicore.errors import KeyNotFoundError, UnsupportedError
from pkicore.identity import SpiffeId
from pkicore.keys.file import create_file_key
from services.ca.deployment import Deployment, Ports, signer_files
from services.ca.errors import CeremonyError
from services.ca.hierarchy import KeyRing
from services.ca.layout import SIGNER, Layout
from services.ca.settings import CaSettings
from services.ca.signer_settings import (
    ceremony_key_policy,
    file_backend,
    key_policy,
    read_backends,
    relocated,
    signer_callers,
)
from services.chassis.peer import CallerPolicy
from services.chassis.settings import load_settings
from services.signer_hsm.policy import Caller, Policy
from services.signer_hsm.settings import SignerSettings
from tests.support.clock import ManualClock
from tests.support.pki import make_hierarchy

DOMAIN = "td.internal"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PORTS = Ports(5000, 5080, 5090, 4000, 4090, 6000, 6090)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """For keys."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def allowed(policy: Policy, path: str, act: Any, **facts: Any) -> bool:  # noqa: ANN401 - an act, and what goes with it
    """Whether somebody may do that with an issuing key."""
    caller = Caller(SpiffeId(DOMAIN, path), None)
    return policy.decide(caller, act, "ca", "issuing-ecdsa", at=NOW, **facts).allowed


def test_the_key_policy_lets_the_ca_sign_and_operators_look_after_keys() -> None:
    """The CA signs what it needs and nothing else; operators have the life cycle, and do not sign."""
    policy = Policy.load(key_policy(DOMAIN, ["file"], {"digest", "mu"}), "toml")
    for kind, scheme in (("digest", "ES256"), ("mu", "ML-DSA-65")):
        assert allowed(policy, "/service/ca", "sign", kind=kind, scheme=scheme)
        assert not allowed(policy, "/operator/admin", "sign", kind=kind, scheme=scheme)
        assert not allowed(policy, "/service/acme", "sign", kind=kind, scheme=scheme)
    assert not allowed(policy, "/service/ca", "sign", kind="message", scheme="ML-DSA-65")
    for act in ("create", "import", "rotate", "disable", "enable", "destroy"):
        assert allowed(policy, "/operator/admin", act)
        assert not allowed(policy, "/service/ca", act)
    assert allowed(policy, "/service/ca", "pubkey")
    assert not allowed(policy, "/service/acme", "pubkey")


def test_the_ceremonys_key_policy_lets_one_caller_do_everything() -> None:
    """Nobody else may do anything while a ceremony lasts."""
    caller = SpiffeId(DOMAIN, "/operator/ceremony")
    policy = Policy.load(ceremony_key_policy(caller, ["softhsm", "file"]), "toml")
    assert allowed(policy, "/operator/ceremony", "sign", kind="digest", scheme="ES256")
    assert allowed(policy, "/operator/ceremony", "destroy")
    assert not allowed(policy, "/operator/admin", "pubkey")
    assert not allowed(policy, "/service/ca", "sign", kind="digest", scheme="ES256")


def test_the_settings_that_are_written_are_those_that_signer_hsm_reads(tmp_path: Path) -> None:
    """Every field is one that it knows, with nested values of a back end intact."""
    layout = Layout(tmp_path)
    layout.config.mkdir()
    token: Mapping[str, Any] = {
        "name": "token",
        "type": "pkcs11",
        "module": "/usr/lib/module.so",
        "token_label": 'with "quotes"',
        "pin_file": "/etc/pin",
        "environment": {"SOFTHSM2_CONF": "/etc/softhsm2.conf"},
        "allow_import": True,
    }
    backends = (token, file_backend(layout.signer_keys, layout.passphrase))
    deployment = Deployment("Test", DOMAIN, "127.0.0.1", PORTS, backends=backends)
    for path, text in signer_files(layout, layout, deployment, layout.passphrase).items():
        path.write_text(text)
    settings = load_settings(SignerSettings, layout.settings(SIGNER))
    assert (settings.port, settings.ca_url) == (6000, "https://localhost:5000")
    assert settings.backends[0].model_dump(mode="json", exclude_defaults=True) == dict(token)
    Policy.load(layout.key_policy.read_text(), "toml")


def test_the_callers_of_signer_hsm_are_the_ca_and_operators() -> None:
    """The text is a caller policy; signer-hsm itself may ask the CA for its certificate."""
    CallerPolicy.load(signer_callers(DOMAIN))
    entries = tomllib.loads(signer_callers(DOMAIN))["allow"]
    assert [(item["caller"].partition("internal")[2], item["service"]) for item in entries] == [
        ("/service/signer-hsm", "ca"),
        ("/service/ca", "signer-hsm"),
        ("/operator/*", "signer-hsm"),
    ]
    ca = next(item for item in entries if item["caller"].endswith("/service/ca"))
    assert not any("destroy" in endpoint or endpoint == "POST /v1/keys" for endpoint in ca["endpoints"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must hold"),
        ("[[backends]]\n", "needs a name"),
        ('[[backends]]\nname = "a"\n\n[other]\n', "nothing else"),
        ("backends = 1\n", "must hold"),
        ("backends = [1]\n", "needs a name"),
        ("[[backends\n", "not TOML"),
    ],
)
def test_a_back_ends_file_of_another_form_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """Before anything is made; the sentence names the file."""
    file = tmp_path / "backends.toml"
    file.write_text(text)
    with pytest.raises(CeremonyError, match=reason):
        read_backends(file)
    with pytest.raises(CeremonyError, match="cannot be read"):
        read_backends(tmp_path / "missing.toml")


def test_paths_below_the_deployment_move_with_it() -> None:
    """Those elsewhere stay, and a name that only begins alike is elsewhere."""
    backends = ({"name": "a", "in": "/pki/keys", "out": "/pkix/keys", "other": "/etc/x", "workers": 2},)
    (moved,) = relocated(backends, Path("/pki"), Path("/pki.partial-1"))
    assert moved == {"name": "a", "in": "/pki.partial-1/keys", "out": "/pkix/keys", "other": "/etc/x", "workers": 2}


def ca_settings(tmp_path: Path, key: str, **more: str) -> CaSettings:
    """The CA's settings with one issuer whose key is this."""
    paths = ("policy_file", "passphrase_file", "profiles_file", "tls_certificate", "tls_key")
    issuer = {"id": "i", "family": "ecdsa", "root": "r", "certificate": "/c", "key": key, "responder_key": "file:/r"}
    values: dict[str, Any] = {
        **dict.fromkeys(paths, "/nowhere"),
        "state_dir": str(tmp_path),
        "database_url": f"sqlite:///{tmp_path}/ca.sqlite3",
        "issuers": [issuer],
        "roots": [{"id": "r", "certificate": "/c"}],
        "audit_key": "file:/a",
        **more,
    }
    return CaSettings(**values)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("signer-hsm:ca.k", "needs a version"),
        ("signer-hsm:ca", "names no key"),
        ("signer-hsm:ca.k/1", "signer_url does not say"),
    ],
)
def test_a_remote_key_needs_a_version_and_a_signer(tmp_path: Path, key: str, reason: str) -> None:
    """What cannot work is refused when the settings are read."""
    with pytest.raises(ValueError, match=reason):
        ca_settings(tmp_path, key)


def test_a_remote_key_is_known_by_its_uri(tmp_path: Path) -> None:
    """One setting says whether the CA's keys are its own."""
    assert not ca_settings(tmp_path, "file:/k").has_remote_keys
    assert ca_settings(tmp_path, "signer-hsm:ca.k/1", signer_url="https://localhost:6000").has_remote_keys


def _no_passphrase(uri: str) -> bytes:
    raise AssertionError(f"somebody asked for the passphrase of {uri}")


class Silent:
    """A signer that must not be asked."""

    async def public_key(self, key_id: str, version: int | None) -> Any:  # noqa: ANN401 - never answers
        """Fails."""
        raise AssertionError(f"{key_id} {version}")

    async def sign(self, *request: object) -> bytes:
        """Fails."""
        raise AssertionError(request)


async def test_a_remote_key_is_opened_without_signer_and_passphrase(pool: Executor) -> None:
    """The certificate says what the key is, so the CA can start while signer-hsm is away."""
    certificate = (await make_hierarchy("ecdsa", ManualClock())).issuing.certificate
    ring = KeyRing(_no_passphrase, pool, Silent())
    key = await ring.open("signer-hsm:ca.k/1", certificate)
    assert key.public_key == certificate.public_key()
    with pytest.raises(UnsupportedError, match="signer_url"):
        await KeyRing(_no_passphrase, pool).open("signer-hsm:ca.k/1", certificate)


async def test_a_file_that_is_not_the_certificates_key_is_refused(pool: Executor, tmp_path: Path) -> None:
    """The sentence names the key and the certificate's subject."""
    create_file_key(tmp_path / "k", ALGORITHMS["ecdsa-p256"], b"secret")
    certificate = (await make_hierarchy("ecdsa", ManualClock())).issuing.certificate
    with pytest.raises(KeyNotFoundError, match="is not the key of"):
        await KeyRing(lambda _: b"secret", pool).open(f"file:{tmp_path / 'k'}", certificate)
