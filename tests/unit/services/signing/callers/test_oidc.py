"""Tokens of CI providers: bound to a tenant by ids; a name that somebody else has taken over is worth nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jwcrypto import jwk as oracle_jwk  # type: ignore[import-untyped] # the oracle has no types
from jwcrypto import jwt as oracle_jwt

from services.signing.callers import Caller, CredentialError, OidcCallers, SigningIssuerSettings
from tests.support.ci_tokens import (
    AUDIENCE,
    COMMIT,
    GENERIC,
    GITHUB,
    GITLAB,
    KEY,
    NOW,
    OTHER_KEY,
    START,
    ci_token,
    write_keys,
)
from tests.support.clock import ManualClock

RELEASE = ".github/workflows/release.yml"
SHARED = {"job_workflow_ref": "ci/ci/r.yml@v1"}
PROVIDERS = {GITHUB: "github", GITLAB: "gitlab", GENERIC: "generic"}
Bindings = list[dict[str, Any]]
BINDINGS: dict[str, Bindings] = {
    GITHUB: [{"tenant": "acme", "repository_owner_id": "65", "repository_id": "74"}],
    GITLAB: [{"tenant": "acme", "namespace_id": "65", "project_id": "74"}],
    GENERIC: [{"tenant": "acme", "subject": "alice"}],
}


class World:
    """Three issuers whose keys are in files, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.keys = write_keys(directory / "keys.json", KEY)
        self.clock = ManualClock(START)
        self.seconds = 5.0
        self.opened: list[OidcCallers] = []

    def callers(self, issuer: str = GITHUB, bindings: Bindings | None = None, **more: object) -> OidcCallers:
        """Callers by tokens of one issuer."""
        return self.of(self.settings(issuer, bindings, **more))

    def of(self, *settings: SigningIssuerSettings) -> OidcCallers:
        """Callers by tokens of several issuers."""
        opened = OidcCallers(settings, clock=self.clock, monotonic=lambda: self.seconds)
        self.opened.append(opened)
        return opened

    def settings(self, issuer: str, bindings: Bindings | None = None, **more: object) -> SigningIssuerSettings:
        """One issuer's settings."""
        provider = PROVIDERS[issuer]
        members = {
            "issuer": issuer,
            "audience": AUDIENCE,
            "provider": provider,
            "jwks_file": self.keys,
            "algorithms": ["RS256"],
            provider: BINDINGS[issuer] if bindings is None else bindings,
        }
        return SigningIssuerSettings.model_validate(members | more)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Closed afterwards."""
    made = World(tmp_path)
    yield made
    for opened in made.opened:
        await opened.aclose()


async def refusal(callers: OidcCallers, token: str) -> str:
    """The word why a token is refused; the sentence never has the token."""
    with pytest.raises(CredentialError) as refused:
        await callers.caller(token)
    assert token[-40:] not in str(refused.value)
    return refused.value.reason


async def tenant(callers: OidcCallers, issuer: str = GITHUB, /, **changes: Any) -> str | None:  # noqa: ANN401 - claims are of any type
    """The tenant that a token belongs to; None where it belongs to none."""
    try:
        return (await callers.caller(ci_token(issuer, **changes))).tenant
    except CredentialError as error:
        if error.reason != "unbound":
            raise
        return None


async def test_a_github_run_is_its_repository_by_id(world: World) -> None:
    """The caller's id has no name in it; claims are flat texts, with the workflow's own path among them."""
    caller = await world.callers().caller(ci_token(GITHUB))
    assert (caller.kind, caller.tenant) == ("oidc", "acme")
    assert caller.id == f"{GITHUB}#repository_id=74"
    assert caller.claims["own_workflow"] == RELEASE
    assert caller.claims["provider"] == "github"
    assert caller.claims["repository"] == "acme/app"
    assert "aud" not in caller.claims
    with pytest.raises(TypeError):
        caller.claims["repository_id"] = "75"  # type: ignore[index] # that is what must not work


async def test_a_gitlab_job_is_its_project_by_id(world: World) -> None:
    """Likewise; numbers become texts."""
    caller = await world.callers(GITLAB).caller(ci_token(GITLAB))
    assert caller.id == f"{GITLAB}#project_id=74"
    assert caller.claims["own_ci_config"] == ".gitlab-ci.yml"
    assert caller.claims["runner_id"] == "1"


async def test_another_issuers_subject_is_its_own(world: World) -> None:
    """Further claims are kept where the settings name them."""
    caller = await world.callers(GENERIC, more_claims=["team", "level"]).caller(ci_token(GENERIC, level=3))
    assert caller.id == f"{GENERIC}#subject=alice"
    assert (caller.claims["team"], caller.claims["level"], caller.claims["email_verified"]) == ("release", "3", "true")
    assert "team" not in (await world.callers(GENERIC).caller(ci_token(GENERIC))).claims


async def test_a_name_that_was_registered_anew_is_another_repository(world: World) -> None:
    """Same names, other ids: after a deletion anybody can be `acme/app`."""
    callers = world.callers()
    assert await tenant(callers, repository_id="75") is None
    assert await tenant(callers, repository_owner_id="66") is None
    assert await tenant(world.callers(GITLAB), GITLAB, project_id="75") is None
    assert await tenant(world.callers(GITLAB), GITLAB, namespace_id="66") is None


async def test_a_repository_that_was_renamed_stays_itself(world: World) -> None:
    """The ids stay, and so do tenant and caller; its own workflow is still its own."""
    bound = [{**BINDINGS[GITHUB][0], "own_workflow": RELEASE}]
    callers = world.callers(bindings=bound)
    renamed = await callers.caller(
        ci_token(
            GITHUB,
            repository="newco/tool",
            repository_owner="newco",
            job_workflow_ref=f"newco/tool/{RELEASE}@refs/tags/v1.2.3",
        )
    )
    assert (renamed.tenant, renamed.id) == ("acme", f"{GITHUB}#repository_id=74")
    assert renamed.claims["own_workflow"] == RELEASE


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, RELEASE),
        ({"job_workflow_ref": f"acme/app/{RELEASE}@{COMMIT}"}, RELEASE),
        ({"job_workflow_ref": f"acme/app/{RELEASE}@{COMMIT}", "ref": ""}, RELEASE),
        ({"job_workflow_ref": f"acme/app/{RELEASE}@{COMMIT}", "ref": None}, RELEASE),
        ({"job_workflow_ref": f"acme/app/{RELEASE}@", "ref": ""}, None),
        ({"job_workflow_ref": f"acme/app/{RELEASE}@refs/heads/attack"}, None),
        ({"job_workflow_ref": f"acme/app/{RELEASE}"}, None),
        ({"job_workflow_ref": f"evil/app/{RELEASE}@refs/tags/v1.2.3"}, None),
        ({"job_workflow_ref": f"acme/app-evil/{RELEASE}@refs/tags/v1.2.3"}, None),
        ({"job_workflow_ref": f"acme/app/{RELEASE}@x@refs/tags/v1.2.3"}, None),
        ({"job_workflow_ref": "acme/app/@refs/tags/v1.2.3"}, None),
        ({"ref": "refs/tags/v1.2.4"}, None),
    ],
)
async def test_a_workflow_is_the_repositorys_own_at_its_ref_or_commit(
    world: World, changes: dict[str, object], own: str | None
) -> None:
    """Another repository's, another ref's and one without ref are not, and a binding to it does not hold."""
    caller = await world.callers().caller(ci_token(GITHUB, **changes))
    assert caller.claims.get("own_workflow") == own
    bound = world.callers(bindings=[{**BINDINGS[GITHUB][0], "own_workflow": RELEASE}])
    assert await tenant(bound, **changes) == (None if own is None else "acme")


@pytest.mark.parametrize(
    ("uri", "own"),
    [
        ("gitlab.example.org/acme/app//ci/release.yml@refs/heads/main", "ci/release.yml"),
        (f"gitlab.example.org/acme/app//ci/release.yml@{COMMIT}", "ci/release.yml"),
        ("gitlab.example.org/acme/app//ci/release.yml@refs/heads/other", None),
        ("gitlab.example.org/acme/other//ci/release.yml@refs/heads/main", None),
        ("evil.example.org/acme/app//ci/release.yml@refs/heads/main", None),
        (None, None),
    ],
)
async def test_a_pipeline_is_the_projects_own(world: World, uri: str | None, own: str | None) -> None:
    """Its definition must lie in the project, on this server, at the ref that is built."""
    caller = await world.callers(GITLAB).caller(ci_token(GITLAB, ci_config_ref_uri=uri))
    assert caller.claims.get("own_ci_config") == own


@pytest.mark.parametrize("event", ["pull_request_target", "Pull_Request_Target", "", "push ", None, ["push"], 7])
async def test_a_run_of_foreign_code_never_signs(world: World, event: object) -> None:
    """`pull_request_target` has the repository's identity and anybody's code; an unknown event might be it."""
    assert await refusal(world.callers(), ci_token(GITHUB, event_name=event)) in {"event", "claims"}


@pytest.mark.parametrize(
    ("issuer", "changes"),
    [
        (GITHUB, {"repository_id": None}),
        (GITHUB, {"repository_id": "acme/app"}),
        (GITHUB, {"repository_id": ["74"]}),
        (GITHUB, {"repository_id": {"74": "74"}}),
        (GITHUB, {"repository_id": True}),
        (GITHUB, {"repository_id": "74 "}),
        (GITHUB, {"repository_id": "٧٤"}),
        (GITHUB, {"repository_owner_id": ""}),
        (GITHUB, {"job_workflow_ref": None}),
        (GITHUB, {"runner_environment": None}),
        (GITHUB, {"environment": "x" * 1025}),
        (GITHUB, {"environment": "a\x00b"}),
        (GITHUB, {"ref": "refs/heads/\u202egnp"}),
        (GITLAB, {"project_id": None}),
        (GITLAB, {"namespace_id": -65}),
        (GITLAB, {"project_path": None}),
    ],
)
async def test_claims_that_make_no_sense(world: World, issuer: str, changes: dict[str, object]) -> None:
    """A claim that decides is there, is of its kind, and is short."""
    assert await refusal(world.callers(issuer), ci_token(issuer, **changes)) == "claims"


async def test_huge_claims_that_nobody_asks_for(world: World) -> None:
    """They are not kept, and beyond the token's bound not read."""
    callers = world.callers()
    junk: dict[str, Any] = {f"junk_{number}": "x" * 100 for number in range(60)}
    caller = await callers.caller(ci_token(GITHUB, **junk, deep={"a": [[[[1]]]]}))
    assert not any(name.startswith("junk") or name == "deep" for name in caller.claims)
    assert await refusal(callers, ci_token(GITHUB, junk="x" * 20_000)) == "malformed"


async def test_a_token_cannot_bring_what_is_made_of_it(world: World) -> None:
    """Claims that this service adds are never a token's."""
    forged = {
        "provider": "generic",
        "issuer": GENERIC,
        "server_url": "https://evil.test",
        "own_workflow": RELEASE,
        "subject": "alice",
        "job_workflow_ref": "evil/ci/x.yml@main",
    }
    caller = await world.callers().caller(ci_token(GITHUB, **forged))
    assert (caller.claims["provider"], caller.claims["issuer"]) == ("github", GITHUB)
    assert caller.claims["server_url"] == "https://github.com"
    assert not {"own_workflow", "subject"} & caller.claims.keys()


@pytest.mark.parametrize(
    ("binding", "changes", "bound"),
    [
        ({"environment": "release"}, {}, True),
        ({"environment": "release"}, {"environment": "Release"}, False),
        ({"environment": "release"}, {"environment": None}, False),
        ({"runner_environment": "github-hosted"}, {"runner_environment": "self-hosted"}, False),
        ({"ref": "refs/tags/v1.2.3"}, {}, True),
        ({"ref": "refs/tags/v1.2.3"}, {"ref": "refs/heads/v1.2.3"}, False),
        (
            {"job_workflow_ref": "ci/ci/r.yml@v1", "job_workflow_sha": "b" * 40},
            {"job_workflow_ref": "ci/ci/r.yml@v1"},
            True,
        ),
        (
            {"job_workflow_ref": "ci/ci/r.yml@v1", "job_workflow_sha": "e" * 40},
            {"job_workflow_ref": "ci/ci/r.yml@v1"},
            False,
        ),
    ],
)
async def test_each_member_of_a_binding_must_hold(
    world: World, binding: dict[str, str], changes: dict[str, object], *, bound: bool
) -> None:
    """Exactly, and a claim that is missing holds for none."""
    callers = world.callers(bindings=[{**BINDINGS[GITHUB][0], **binding}])
    assert await tenant(callers, **changes) == ("acme" if bound else None)


async def test_unprotected_refs_of_gitlab_are_not_bound_by_themselves(world: World) -> None:
    """Whoever may push a branch would else sign as the project."""
    changes: dict[str, object] = {"ref_protected": "false"}
    assert await tenant(world.callers(GITLAB), GITLAB, **changes) is None
    assert await tenant(world.callers(GITLAB), GITLAB, ref_protected=None) is None
    loose = world.callers(GITLAB, [{**BINDINGS[GITLAB][0], "unprotected_refs": True}])
    assert await tenant(loose, GITLAB, **changes) == "acme"


async def test_an_identity_belongs_to_one_tenant(world: World) -> None:
    """Each to its own; what two tenants claim belongs to neither, and the same tenant twice is no dispute."""
    owner = {"repository_owner_id": "65"}
    ours, theirs = {"tenant": "acme", **owner, "repository_id": "74"}, {"tenant": "bolt", **owner}
    apart = world.callers(bindings=[ours, theirs | {"repository_id": "75"}])
    assert await tenant(apart) == "acme"
    assert await tenant(apart, repository_id="75") == "bolt"
    disputed = world.callers(bindings=[ours, theirs])
    assert await refusal(disputed, ci_token(GITHUB)) == "ambiguous"
    twice = world.callers(bindings=[ours, {"tenant": "acme", **owner}])
    assert await tenant(twice) == "acme"


async def test_an_issuer_speaks_for_its_own_repositories_only(world: World) -> None:
    """The same ids at another issuer, whose key is good, are another identity."""
    enterprise = world.settings(GITHUB, [{"tenant": "bolt", "repository_owner_id": "65"}]).model_copy(
        update={"issuer": "https://ghes.example.org/_services/token"}
    )
    callers = world.of(world.settings(GITHUB), enterprise)
    here = await callers.caller(ci_token(GITHUB))
    there = await callers.caller(ci_token(GITHUB, iss="https://ghes.example.org/_services/token"))
    assert (here.tenant, there.tenant) == ("acme", "bolt")
    assert here.id != there.id
    assert there.claims["server_url"] == "https://ghes.example.org"


@pytest.mark.parametrize(
    ("binding", "changes", "bound"),
    [
        ({}, {}, True),
        ({"claims": {"team": "release"}}, {}, True),
        ({"claims": {"team": "release"}}, {"team": "Release"}, False),
        ({"claims": {"team": "release"}}, {"team": ["release"]}, False),
        ({"claims": {"email": "alice@example.org"}}, {}, True),
        ({"claims": {"email": "alice@example.org"}}, {"email_verified": False}, False),
        ({"claims": {"email": "alice@example.org"}}, {"email_verified": None}, False),
        ({"claims": {"email": "alice@example.org"}}, {"email_verified": "true"}, False),
        ({"claims": {"email": "alice@example.org"}}, {"email_verified": 1}, False),
        ({"claims": {"email_verified": "true"}}, {}, True),
        ({"claims": {"email_verified": "true"}}, {"email_verified": "true"}, False),
        ({"subject": "alice", "claims": {"team": "release"}}, {"sub": "bob"}, False),
    ],
)
async def test_bindings_of_other_issuers(
    world: World, binding: dict[str, Any], changes: dict[str, object], *, bound: bool
) -> None:
    """An address that the issuer has not verified is nobody's."""
    callers = world.callers(GENERIC, [{"tenant": "acme", **binding}], more_claims=["team"])
    assert await tenant(callers, GENERIC, **changes) == ("acme" if bound else None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "https://github.com/acme"}, "audience"),
        ({"aud": AUDIENCE + "/"}, "audience"),
        ({"aud": None}, "audience"),
        ({"iss": "https://token.actions.githubusercontent.com/"}, "issuer"),
        ({"exp": NOW - 10}, "expired"),
        ({"nbf": NOW + 11}, "not-yet"),
        ({"iat": NOW + 11}, "not-yet"),
        ({"iat": NOW - 3611, "nbf": NOW - 3611}, "too-old"),
        ({"exp": None}, "times"),
        ({"iat": None}, "times"),
        ({"exp": True}, "times"),
        ({"sub": None}, "subject"),
    ],
)
async def test_tokens_that_are_not_good(world: World, changes: dict[str, object], reason: str) -> None:
    """The usual ways, one second beyond what the skew allows."""
    assert await refusal(world.callers(), ci_token(GITHUB, **changes)) == reason


@pytest.mark.parametrize(
    "changes", [{"exp": NOW - 9}, {"nbf": NOW + 10}, {"iat": NOW + 10}, {"iat": NOW - 3610, "nbf": NOW - 3610}]
)
async def test_the_edge_of_the_skew(world: World, changes: dict[str, object]) -> None:
    """Ten seconds are let pass on either side."""
    assert await tenant(world.callers(), **changes) == "acme"


async def test_a_token_ends_while_the_service_runs(world: World) -> None:
    """Nothing of a verification is kept."""
    callers, token = world.callers(), ci_token(GITHUB)
    assert (await callers.caller(token)).tenant == "acme"
    world.clock.advance(timedelta(seconds=310))
    assert await refusal(callers, token) == "expired"


def encoded(members: dict[str, Any]) -> str:
    """A part of a token."""
    return base64.urlsafe_b64encode(json.dumps(members).encode()).rstrip(b"=").decode()


async def test_algorithms_that_prove_nothing(world: World) -> None:
    """No signature, the public key as HMAC secret, another algorithm's words: none is looked at further."""
    callers = world.callers()
    _, payload, signature = ci_token(GITHUB).split(".")
    for alg in ("none", "None", "nOnE", "HS256", ""):
        forged = f"{encoded({'alg': alg, 'kid': 'k1'})}.{payload}."
        assert await refusal(callers, forged) in {"algorithm", "malformed"}
    secret = oracle_jwk.JWK(kty="oct", k=base64.urlsafe_b64encode(KEY.export_to_pem()).rstrip(b"=").decode(), kid="k1")
    hmac = oracle_jwt.JWT(header={"alg": "HS256", "kid": "k1"}, claims={"iss": GITHUB, "aud": AUDIENCE})
    hmac.make_signed_token(secret)
    assert await refusal(callers, hmac.serialize()) == "algorithm"
    assert await refusal(callers, f"{encoded({'alg': 'ES256', 'kid': 'k1'})}.{payload}.{signature}") == "algorithm"


@pytest.mark.parametrize(
    "kid", ["../../../dev/null", "k1' OR '1'='1", "k1\x00", "https://evil.test/jwks", "", "k2", "K1", "k" * 2000]
)
async def test_a_kid_is_a_name_and_nothing_else(world: World, kid: str) -> None:
    """It opens no file, no URL and no query, and only the very name finds a key."""
    assert await refusal(world.callers(), ci_token(GITHUB, KEY, {"kid": kid})) in {"key", "malformed"}


async def test_keys_that_a_token_brings_along(world: World) -> None:
    """`jwk`, `jku` and `x5u` are not looked at: the signature is checked with the issuer's key, or not at all."""
    header = {"kid": "k1", "jwk": OTHER_KEY.export_public(as_dict=True), "jku": "https://evil.test", "x5u": "https://e"}
    assert await refusal(world.callers(), ci_token(GITHUB, OTHER_KEY, header)) == "signature"


async def test_an_issuers_keys_are_rotated(world: World) -> None:
    """A new key is found within a minute, a withdrawn one refused within the hour."""
    callers = world.callers()
    assert await refusal(callers, ci_token(GITHUB, OTHER_KEY)) == "key"
    write_keys(world.keys, OTHER_KEY)
    world.seconds += 60
    assert (await callers.caller(ci_token(GITHUB, OTHER_KEY))).tenant == "acme"
    world.seconds += 3600
    assert await refusal(callers, ci_token(GITHUB)) == "key"


async def test_a_changed_claim_breaks_the_signature(world: World) -> None:
    """What is bound is what was signed."""
    head, payload, signature = ci_token(GITHUB, repository_id="75").split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert (
        await refusal(world.callers(), f"{head}.{encoded(claims | {'repository_id': '74'})}.{signature}") == "signature"
    )


def test_a_caller_is_equal_to_itself_only() -> None:
    """Claims count, so nothing is kept for a caller that another one gets."""
    one = Caller("oidc", "x", "acme", {"ref": "main"})
    assert one == Caller("oidc", "x", "acme", {"ref": "main"})
    assert one != Caller("oidc", "x", "acme", {"ref": "other"})
