"""What a certificate says of an identity: the OIDs that Sigstore reads, with the claims that Fulcio puts there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sigstore.verify import policy as oracle

from services.signing.callers import (
    Caller,
    CertificateIdentity,
    CertificateIdentityError,
    OidcCallers,
    SigningIssuerSettings,
    certificate_identity,
)
from tests.support.ci_tokens import AUDIENCE, COMMIT, GENERIC, GITHUB, GITLAB, KEY, START, ci_token, write_keys
from tests.support.clock import ManualClock

BINDINGS: Mapping[str, dict[str, Any]] = {
    GITHUB: {"provider": "github", "github": [{"tenant": "acme", "repository_owner_id": "65"}]},
    GITLAB: {"provider": "gitlab", "gitlab": [{"tenant": "acme", "namespace_id": "65", "unprotected_refs": True}]},
    GENERIC: {"provider": "generic", "generic": [{"tenant": "acme"}]},
}
ORACLE = {
    oracle.OIDCIssuerV2: "issuer",
    oracle.OIDCBuildSignerURI: "signer",
    oracle.OIDCBuildSignerDigest: "signer digest",
    oracle.OIDCRunnerEnvironment: "runner",
    oracle.OIDCSourceRepositoryURI: "source",
    oracle.OIDCSourceRepositoryDigest: "source digest",
    oracle.OIDCSourceRepositoryRef: "source ref",
    oracle.OIDCSourceRepositoryIdentifier: "source id",
    oracle.OIDCSourceRepositoryOwnerURI: "owner",
    oracle.OIDCSourceRepositoryOwnerIdentifier: "owner id",
    oracle.OIDCBuildConfigURI: "config",
    oracle.OIDCBuildConfigDigest: "config digest",
    oracle.OIDCBuildTrigger: "trigger",
    oracle.OIDCRunInvocationURI: "run",
    oracle.OIDCSourceRepositoryVisibility: "visibility",
}
ENVIRONMENT = "1.3.6.1.4.1.57264.1.23"  # the oracle does not know it; Fulcio's docs/oid-info.md does
NAMES = {kind.oid.dotted_string: name for kind, name in ORACLE.items()} | {ENVIRONMENT: "environment"}


async def identity(directory: Path, issuer: str, /, **changes: Any) -> CertificateIdentity:  # noqa: ANN401 - claims are of any type
    """What a certificate says for a token that was verified."""
    members = {"issuer": issuer, "audience": AUDIENCE, "algorithms": ["RS256"], **BINDINGS[issuer]}
    members["jwks_file"] = write_keys(directory / "keys.json", KEY)
    settings = SigningIssuerSettings.model_validate(members)
    callers = OidcCallers([settings], clock=ManualClock(START), monotonic=lambda: 5.0)
    return certificate_identity(await callers.caller(ci_token(issuer, **changes)))


def named(identity: CertificateIdentity) -> dict[str, str]:
    """The extensions by what they are about."""
    return {NAMES[oid]: value for oid, value in identity.extensions.items()}


async def test_a_github_run(tmp_path: Path) -> None:
    """Name and extensions as Fulcio's configuration has them for GitHub."""
    found = await identity(tmp_path, GITHUB)
    workflow = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3"
    assert (found.san_uri, found.san_email, found.issuer) == (workflow, None, GITHUB)
    assert named(found) == {
        "issuer": GITHUB,
        "signer": workflow,
        "signer digest": "b" * 40,
        "runner": "github-hosted",
        "source": "https://github.com/acme/app",
        "source digest": COMMIT,
        "source ref": "refs/tags/v1.2.3",
        "source id": "74",
        "owner": "https://github.com/acme",
        "owner id": "65",
        "config": workflow,
        "config digest": "c" * 40,
        "trigger": "push",
        "run": "https://github.com/acme/app/actions/runs/5001/attempts/2",
        "visibility": "private",
        "environment": "release",
    }


async def test_a_reusable_workflow_is_the_signer(tmp_path: Path) -> None:
    """The certificate's name is the workflow that ran the job, and the source stays the repository."""
    found = await identity(tmp_path, GITHUB, job_workflow_ref="ci/ci/.github/workflows/r.yml@refs/heads/main")
    assert found.san_uri == "https://github.com/ci/ci/.github/workflows/r.yml@refs/heads/main"
    assert named(found)["config"].startswith("https://github.com/acme/app/")
    assert named(found)["source"] == "https://github.com/acme/app"


async def test_a_gitlab_job(tmp_path: Path) -> None:
    """Likewise for GitLab, on a server of one's own."""
    found = await identity(tmp_path, GITLAB)
    pipeline = "https://gitlab.example.org/acme/app//.gitlab-ci.yml@refs/heads/main"
    assert (found.san_uri, found.issuer) == (pipeline, GITLAB)
    assert named(found) == {
        "issuer": GITLAB,
        "signer": pipeline,
        "signer digest": "d" * 40,
        "runner": "self-hosted",
        "source": "https://gitlab.example.org/acme/app",
        "source digest": COMMIT,
        "source ref": "refs/heads/main",
        "source id": "74",
        "owner": "https://gitlab.example.org/acme",
        "owner id": "65",
        "config": pipeline,
        "config digest": "d" * 40,
        "trigger": "push",
        "run": "https://gitlab.example.org/acme/app/-/jobs/208",
        "visibility": "private",
        "environment": "release",
    }


async def test_a_tag_of_gitlab(tmp_path: Path) -> None:
    """GitLab's ref has no beginning of its own."""
    found = await identity(tmp_path, GITLAB, ref="v1", ref_type="tag", ref_path="refs/tags/v1")
    assert named(found)["source ref"] == "refs/tags/v1"


async def test_a_person(tmp_path: Path) -> None:
    """The address that the issuer has verified, and nothing else."""
    found = await identity(tmp_path, GENERIC)
    assert (found.san_uri, found.san_email) == (None, "alice@example.org")
    assert named(found) == {"issuer": GENERIC}


async def test_what_the_token_does_not_say_is_left_out(tmp_path: Path) -> None:
    """No extension is empty, and none is half made."""
    found = named(await identity(tmp_path, GITHUB, environment=None, run_attempt=None, workflow_sha="", ref=""))
    assert not {"environment", "run", "config digest", "source ref"} & found.keys()
    assert "" not in found.values()


@pytest.mark.parametrize(
    "changes",
    [
        {"email_verified": False},
        {"email_verified": "True"},
        {"email_verified": "true"},
        {"email": None},
        {"email": "alice"},
        {"email": "alice@example.org, root@example.org"},
        {"email": "alice@exämple.org"},
        {"email": "<alice@example.org>"},
    ],
)
async def test_a_person_without_a_verified_address(tmp_path: Path, changes: dict[str, Any]) -> None:
    """No certificate: the address would be whatever the person wrote."""
    with pytest.raises(CertificateIdentityError):
        await identity(tmp_path, GENERIC, **changes)


@pytest.mark.parametrize(
    ("issuer", "changes"),
    [
        (GITLAB, {"ci_config_ref_uri": None}),
        (GITLAB, {"ci_config_ref_uri": "gitlab.example.org/a//b c@main"}),
        (GITHUB, {"job_workflow_ref": "acme/app/.github/workflows/x.yml@refs/heads/größe"}),
        (GITHUB, {"job_workflow_ref": 'acme/app/x.yml@refs/heads/"><script>'}),
    ],
)
async def test_a_name_that_is_no_uri(tmp_path: Path, issuer: str, changes: dict[str, Any]) -> None:
    """No certificate: what cannot be written as a URI is not bent into one."""
    with pytest.raises(CertificateIdentityError):
        await identity(tmp_path, issuer, **changes)


async def test_a_claim_is_no_template(tmp_path: Path) -> None:
    """Braces in a claim stand for themselves."""
    found = await identity(tmp_path, GITHUB, environment="{repository_owner_id}{server_url.__class__}")
    assert named(found)["environment"] == "{repository_owner_id}{server_url.__class__}"


@pytest.mark.parametrize(
    "caller", [Caller("api-key", "a" * 16, "acme"), Caller("mtls", "spiffe://test/workload/a", "acme")]
)
def test_callers_that_no_issuer_vouches_for(caller: Caller) -> None:
    """They sign with keys."""
    with pytest.raises(CertificateIdentityError, match="OIDC"):
        certificate_identity(caller)
