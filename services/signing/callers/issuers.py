"""OIDC issuers of the signing service, and which of the identities that they vouch for belongs to which tenant.

```toml
[[oidc_issuers]]
issuer = "https://token.actions.githubusercontent.com"
audience = "https://signing.example.org"
provider = "github"
discover = true
algorithms = ["RS256"]

[[oidc_issuers.github]]
tenant = "acme"
repository_owner_id = "1342004"
repository_id = "74"
own_workflow = ".github/workflows/release.yml"
environment = "release"
```

Every member of a binding must be what the token says, exactly. A binding names ids: a repository's id stays with it
when it is given to another owner, so the owner's id is always asked for too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from services.chassis.oidc import OidcIssuerSettings
from services.chassis.oidc.issuers import https_url
from services.signing.callers.claims import RESERVED, Provider
from services.signing.callers.tenants import TenantName

_WELL_KNOWN: Final[Mapping[str, Provider]] = {
    "https://token.actions.githubusercontent.com": "github",
    "https://gitlab.com": "gitlab",
}
_GITHUB_SERVER: Final = "https://github.com"
_GITHUB_ENTERPRISE_PATH: Final = "/_services/token"
_MAX_BINDINGS: Final = 1000
_MAX_MORE_CLAIMS: Final = 32

_Id = Annotated[str, Field(pattern=r"^[0-9]{1,20}$")]
_Text = Annotated[str, Field(min_length=1, max_length=1024)]
_ClaimName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Binding(NamedTuple):
    """A tenant, and the claims that a token must have to belong to it."""

    tenant: str
    claims: Mapping[str, str]


class _BindingSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantName = Field(description="on whose behalf such a token's bearer calls")

    def binding(self) -> Binding:
        """What is compared with a token's claims."""
        return Binding(self.tenant, self.model_dump(exclude={"tenant"}, exclude_none=True))


class GitHubBinding(_BindingSettings):
    """Which runs of GitHub Actions belong to a tenant."""

    repository_owner_id: _Id = Field(description="id of the user or organisation that owns the repository")
    repository_id: _Id | None = Field(None, description="id of the repository; left out: each of the owner's")
    own_workflow: _Text | None = Field(
        None, description="path of the repository's own workflow, at the ref or commit that is built"
    )
    job_workflow_ref: _Text | None = Field(
        None, description="OWNER/REPOSITORY/PATH@REF of a reusable workflow; it holds names: add job_workflow_sha"
    )
    job_workflow_sha: _Text | None = Field(None, description="the commit that the workflow is taken from")
    ref: _Text | None = Field(None, description="as in refs/heads/main")
    environment: _Text | None = Field(None, description="the deployment environment")
    runner_environment: Literal["github-hosted", "self-hosted"] | None = Field(None, description="where it runs")


class GitLabBinding(_BindingSettings):
    """Which jobs of GitLab CI belong to a tenant."""

    namespace_id: _Id = Field(description="id of the group or user that owns the project")
    project_id: _Id | None = Field(None, description="id of the project; left out: each in the namespace")
    own_ci_config: _Text | None = Field(None, description="path of the project's own pipeline definition")
    ci_config_ref_uri: _Text | None = Field(
        None, description="HOST/PROJECT//PATH@REF of a pipeline definition; it holds names: add ci_config_sha"
    )
    ci_config_sha: _Text | None = Field(None, description="the commit that the pipeline definition is taken from")
    ref_path: _Text | None = Field(None, description="as in refs/heads/main")
    environment: _Text | None = Field(None, description="the deployment environment")
    runner_environment: Literal["gitlab-hosted", "self-hosted"] | None = Field(None, description="where it runs")
    unprotected_refs: bool = Field(False, description="let jobs of unprotected branches and tags in too")

    def binding(self) -> Binding:
        """What is compared with a token's claims."""
        claims = self.model_dump(exclude={"tenant", "unprotected_refs"}, exclude_none=True)
        return Binding(self.tenant, claims if self.unprotected_refs else claims | {"ref_protected": "true"})


class GenericBinding(_BindingSettings):
    """Which subjects of another issuer belong to a tenant; none named: all of them."""

    subject: _Text | None = Field(None, description="the sub, exactly")
    claims: Mapping[_ClaimName, _Text] = Field({}, max_length=16, description="claims as texts, exactly")

    def binding(self) -> Binding:
        """What is compared with a token's claims."""
        return Binding(self.tenant, {**self.claims, **({} if self.subject is None else {"subject": self.subject})})


class SigningIssuerSettings(OidcIssuerSettings):
    """One issuer."""

    issuer: Annotated[str, AfterValidator(https_url)] = Field(
        min_length=1, max_length=1024, description="the iss of its tokens, exactly"
    )
    provider: Provider = Field(description="what its claims mean: github, gitlab or generic")
    server_url: Annotated[str, AfterValidator(https_url)] | None = Field(
        None, description="where its repositories are, as certificates name it; left out: follows from issuer"
    )
    github: tuple[GitHubBinding, ...] = Field((), max_length=_MAX_BINDINGS, description="whose runs are whose")
    gitlab: tuple[GitLabBinding, ...] = Field((), max_length=_MAX_BINDINGS, description="whose jobs are whose")
    generic: tuple[GenericBinding, ...] = Field((), max_length=_MAX_BINDINGS, description="whose subjects are whose")
    more_claims: tuple[_ClaimName, ...] = Field(
        (), max_length=_MAX_MORE_CLAIMS, description="further claims for policies, of a generic issuer"
    )

    @model_validator(mode="after")
    def _provider_fits(self) -> Self:
        others = {"github", "gitlab", "generic"} - {self.provider}
        if any(getattr(self, other) for other in others):
            raise ValueError(f"an issuer with provider {self.provider} has [[oidc_issuers.{self.provider}]] only")
        for issuer, provider in _WELL_KNOWN.items():
            if self.provider != provider and self.issuer.startswith(issuer):
                raise ValueError(f"{issuer} needs provider {provider}, whose rules refuse what is dangerous there")
        if self.provider != "generic" and self.more_claims:
            raise ValueError("more_claims goes with provider generic only")
        wanted = {name for binding in self.generic for name in binding.claims}
        if (set(self.more_claims) | (wanted - {"email", "email_verified"})) & RESERVED:
            raise ValueError("more_claims and claims must not be claims that other providers' tokens or rules have")
        if missing := wanted - {"email", "email_verified", *self.more_claims}:
            raise ValueError(f"claims asks for {min(missing)}, which is not in more_claims")
        return self

    def bindings(self) -> tuple[Binding, ...]:
        """Which identities belong to which tenant."""
        return tuple(settings.binding() for settings in (*self.github, *self.gitlab, *self.generic))

    def server(self) -> str:
        """The provider's server, without a slash at the end."""
        if self.server_url is not None:
            return self.server_url.rstrip("/")
        if self.provider != "github":
            return self.issuer.rstrip("/")
        parts = urlsplit(self.issuer)
        return f"https://{parts.netloc}" if parts.path == _GITHUB_ENTERPRISE_PATH else _GITHUB_SERVER
