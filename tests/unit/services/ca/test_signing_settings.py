"""What a deployment with the signing service is told: each file is one that its reader takes, and allows no more."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pkicore.identity import SpiffeId
from services.ca.cli import main
from services.ca.deployment import Deployment, Ports, write_settings
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER, SIGNING, Layout
from services.ca.signer_settings import ceremony_key_policy, file_backend, key_policy
from services.ca.signing_settings import KEYS, TENANTS, signing_callers, signing_key_rules, signing_policies
from services.chassis.peer import CallerPolicy
from services.chassis.settings import load_settings
from services.signer_hsm.policy import Caller as SignerCaller
from services.signer_hsm.policy import Policy
from services.signing.callers import Action, Caller
from services.signing.domain import OWN_TENANT
from services.signing.policy import AccessRequest, PolicySchema, PolicySet, checked_policies
from services.signing.settings import SigningSettings

DOMAIN = "td.internal"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PORTS = Ports(5000, 5080, 5090, 4000, 4090, 6000, 6090, 7000, 7090)
KINDS = {key_id: "mu" if algorithm == "ml-dsa-65" else "digest" for key_id, algorithm in KEYS.items()}
OPERATOR = Caller("mtls", f"spiffe://{DOMAIN}/operator/admin", "default")


def deployment(layout: Layout, **changed: Any) -> Deployment:  # noqa: ANN401 - fields of the deployment
    """A deployment with signer-hsm over sealed files."""
    backends = (file_backend(layout.signer_keys, layout.passphrase),)
    facts: dict[str, Any] = {"backends": backends, "signing": True, "signing_kinds": KINDS}
    return Deployment("Test", DOMAIN, "127.0.0.1", PORTS, **(facts | changed))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The directories that settings are written to."""
    found = Layout(tmp_path / "pki")
    found.signing_policies.mkdir(parents=True)
    return found


@pytest.fixture
def policies(tmp_path: Path) -> PolicySet:
    """The first Cedar policies, as a service takes them: validated, and with their cases passing."""
    for name, text in signing_policies().items():
        (tmp_path / name).write_text(text)
    return checked_policies(tmp_path, PolicySchema())


def test_the_settings_that_are_written_are_those_that_the_service_reads(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field is one that it knows; the first profile has a classical and a post-quantum key, log and time."""
    monkeypatch.delenv("PQCPKI_SIGNING_PORT", raising=False)
    write_settings(layout, layout, deployment(layout), None)
    settings = load_settings(SigningSettings, layout.settings(SIGNING))
    assert (settings.port, settings.ops_port) == (7000, 7090)
    assert (settings.ca_url, settings.signer_url) == ("https://localhost:5000", "https://localhost:6000")
    assert settings.database_url == f"sqlite:///{layout.root}/signing/signing.sqlite3"
    (profile,) = settings.profiles
    assert (profile.id, profile.tenant, profile.timestamp, profile.log) == ("default", "default", True, True)
    assert [KEYS[key_id] for key_id in profile.keys] == ["ecdsa-p256", "ml-dsa-65"]
    assert (settings.log_key, settings.timestamp_key) == ("signing.log/1", "signing.tsa/1")
    assert [binding.tenant for binding in settings.mtls_callers] == ["default"]
    assert {path.name for path in layout.signing_policies.iterdir()} == {"default.cedar", "default.test.toml"}
    assert layout.services == (SIGNER, "ca", "acme", SIGNING)


def test_a_deployment_without_it_is_told_nothing_of_it(layout: Layout) -> None:
    """Neither the policies nor any settings file name the signing service."""
    write_settings(layout, layout, deployment(layout, signing=False), None)
    assert layout.services == (SIGNER, "ca", "acme")
    for path in layout.config.glob("*.toml"):
        if path != layout.profiles:
            assert SIGNING not in path.read_text()
    assert not list(layout.signing_policies.iterdir())


def test_it_needs_signer_hsm(layout: Layout) -> None:
    """A signing service without a place for its keys is refused before anything is made."""
    with pytest.raises(CeremonyError, match="--signing goes with --keys signer-hsm"):
        deployment(layout, backends=())


def test_the_command_says_what_goes_with_it(tmp_path: Path) -> None:
    """`ztca init --signing --keys file` is refused in a sentence, and makes nothing."""
    ports = {f"PQCPKI_{name}_PORT": "0" for name in ("CA", "CA_HTTP", "CA_OPS", "ACME", "ACME_OPS", "SIGNING")}
    options = ("init", "--dir", str(tmp_path / "pki"), "--signing", "--keys", "file")
    result = CliRunner().invoke(main, options, env=ports)
    assert result.exit_code == 1
    assert "--signing goes with --keys signer-hsm" in result.output
    assert not (tmp_path / "pki").exists()


def test_the_database_url_is_the_one_that_was_given(layout: Layout) -> None:
    """PostgreSQL by URL, as for every service; a password in it is refused."""
    url = "postgresql://signing@db/signing"
    write_settings(layout, layout, deployment(layout, database_urls={SIGNING: url}), None)
    assert load_settings(SigningSettings, layout.settings(SIGNING)).database_url == url
    with pytest.raises(CeremonyError, match="password"):
        deployment(layout, database_urls={SIGNING: "postgresql://signing:secret@db/signing"})


def may(policy: Policy, path: str, act: Any, key_id: str, **facts: Any) -> bool:  # noqa: ANN401 - an act, and what goes with it
    """Whether somebody may do that with a key."""
    tenant, _, name = key_id.partition(".")
    caller = SignerCaller(SpiffeId(DOMAIN, path), None)
    return policy.decide(caller, act, tenant, name, at=NOW, **facts).allowed


def test_the_service_signs_with_exactly_its_keys() -> None:
    """Each key takes its own kind of payload; no other key, no other act, nobody else."""
    rules = signing_key_rules(DOMAIN, KINDS)
    policy = Policy.load(key_policy(DOMAIN, ["file"], {"digest", "mu"}, rules), "toml")
    for key_id, kind in KINDS.items():
        scheme, other = ("ML-DSA-65", "digest") if kind == "mu" else ("ES256", "mu")
        assert may(policy, "/service/signing", "sign", key_id, kind=kind, scheme=scheme)
        assert may(policy, "/service/signing", "pubkey", key_id)
        assert not may(policy, "/service/signing", "sign", key_id, kind=other, scheme=scheme)
        for act in ("create", "import", "rotate", "disable", "enable", "destroy", "list", "approve"):
            assert not may(policy, "/service/signing", act, key_id)
        for stranger in ("/service/ca", "/service/acme", "/operator/admin"):
            assert not may(policy, stranger, "sign", key_id, kind=kind, scheme=scheme)
        assert may(policy, "/operator/admin", "rotate", key_id)
    for key_id in ("ca.issuing-ecdsa", "ca.ct-log", "default.another", "signing.another"):
        assert not may(policy, "/service/signing", "sign", key_id, kind="digest", scheme="ES256")
        assert not may(policy, "/service/signing", "pubkey", key_id)


def test_the_policy_of_the_ca_is_the_same_with_and_without_it() -> None:
    """Who may do what with an issuing key does not depend on the signing service."""
    without = tomllib.loads(key_policy(DOMAIN, ["file"], {"digest"}))
    rules = signing_key_rules(DOMAIN, KINDS)
    with_it = tomllib.loads(key_policy(DOMAIN, ["file"], {"digest"}, rules))
    assert [item for item in with_it["rules"] if item["tenant"] == "ca"] == without["rules"]
    assert [item for item in with_it["tenants"] if item["id"] == "ca"] == without["tenants"]
    assert [item["id"] for item in with_it["tenants"]] == ["ca", *TENANTS]


def test_a_ceremony_makes_keys_for_its_tenants_only() -> None:
    """The policy of its hour has one caller, and no tenant but those that it was asked for."""
    caller = SpiffeId(DOMAIN, "/operator/ceremony")
    policy = Policy.load(ceremony_key_policy(caller, ["file"], ("ca", *TENANTS)), "toml")
    for key_id in ("ca.issuing-ecdsa", *KEYS):
        assert may(policy, "/operator/ceremony", "create", key_id)
        assert may(policy, "/operator/ceremony", "destroy", key_id)
        assert not may(policy, "/service/signing", "pubkey", key_id)
    alone = Policy.load(ceremony_key_policy(caller, ["file"]), "toml")
    assert not may(alone, "/operator/ceremony", "create", "default.artefact-es256")


def test_it_may_call_what_it_needs_and_no_more() -> None:
    """At the CA it asks for certificates, at signer-hsm for signatures; nothing there can be revoked or destroyed."""
    CallerPolicy.load(signing_callers(DOMAIN))
    entries = tomllib.loads(signing_callers(DOMAIN))["allow"]
    assert {item["caller"] for item in entries} == {f"spiffe://{DOMAIN}/service/signing"}
    allowed = {item["service"]: item["endpoints"] for item in entries}
    assert allowed["signer-hsm"] == ["GET /v1/keys/{id}/pubkey", "POST /v1/keys/{id}/sign"]
    assert "POST /v1/certificates" in allowed["ca"]
    assert "POST /v1/revocations" not in allowed["ca"]


@pytest.mark.parametrize(
    ("caller", "key", "allowed"),
    [
        (OPERATOR, "artefact-es256", True),
        (OPERATOR, "artefact-of-later", True),
        (OPERATOR, "log", False),
        (Caller("api-key", "k1", "default"), "artefact-mldsa65", True),
        (Caller("oidc", "https://issuer.example#subject", "default"), "artefact-es256", False),
        (Caller("api-key", "k1", "other"), "artefact-es256", False),
        (Caller("mtls", f"spiffe://{DOMAIN}/operator/admin", OWN_TENANT), "artefact-es256", False),
    ],
)
def test_who_signs_by_the_first_policy(policies: PolicySet, caller: Caller, key: str, allowed: bool) -> None:  # noqa: FBT001 - a parameter
    """Operators and API keys of the tenant, with its artefact keys; a token alone opens nothing."""
    decision = policies.decide(AccessRequest(caller, "sign", "default", key, subjects=1))
    assert decision.allowed is allowed
    assert decision.determining == (("default-signing",) if allowed else ())


def test_nobody_signs_with_the_keys_of_the_service(policies: PolicySet) -> None:
    """The tenant of log and time-stamps permits nothing to anybody."""
    for kind in ("mtls", "api-key", "oidc"):
        for tenant in ("default", OWN_TENANT):
            caller = Caller(kind, "somebody", tenant)
            assert not policies.decide(AccessRequest(caller, "sign", OWN_TENANT, "log", subjects=1)).allowed


def test_administration_is_for_operators(policies: PolicySet) -> None:
    """An API key that leaks makes no other keys, sets up no webhook and takes no evidence out."""
    key = Caller("api-key", "k1", "default")
    for action in ("manage_api_keys", "manage_webhooks", "export_evidence", "hold_signatures"):
        assert policies.decide(AccessRequest(OPERATOR, action, "default")).allowed
        assert not policies.decide(AccessRequest(key, action, "default")).allowed


@pytest.mark.parametrize("action", ["read", "search"])
def test_who_looks_up_what_was_signed(policies: PolicySet, action: Action) -> None:
    """Whoever signs in the tenant by certificate or API key; another tenant does not, nor does a build unnamed yet."""
    key, build = Caller("api-key", "k1", "default"), Caller("oidc", "https://issuer.example#subject", "default")
    assert policies.decide(AccessRequest(OPERATOR, action, "default")).allowed
    assert policies.decide(AccessRequest(key, action, "default")).allowed
    assert not policies.decide(AccessRequest(key, action, "other")).allowed
    assert not policies.decide(AccessRequest(build, action, "default")).allowed
