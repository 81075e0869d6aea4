"""OIDC issuers whose tokens callers may show: `[[oidc_issuers]]` of the service's settings."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pkicore.jose.jwt import TokenRules
from services.chassis.settings import AbsolutePath


def https_url(url: str) -> str:
    """An https URL with a host, and neither user nor fragment.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("must be https://host/path, without user and fragment")
    return url


class OidcIssuerSettings(BaseModel):
    """One issuer; its keys come from a file, an https URL, or where its discovery document says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(min_length=1, max_length=1024, description="the iss of its tokens, exactly")
    audience: str = Field(min_length=1, max_length=1024, description="this service, as the aud of its tokens names it")
    jwks_file: AbsolutePath | None = Field(None, description="JWK set in a file; read again when a key is missing")
    jwks_url: Annotated[str, AfterValidator(https_url)] | None = Field(None, description="JWK set by https")
    discover: bool = Field(False, description="JWK set where ISSUER/.well-known/openid-configuration says, same host")
    jwks_ca_file: AbsolutePath | None = Field(
        None, description="PEM file with the roots for https; left out: the usual public ones"
    )
    algorithms: tuple[
        Literal["ES256", "ES384", "ES512", "RS256", "EdDSA", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"], ...
    ] = Field(("ES256",), min_length=1, description="the alg words that its tokens may have")
    clock_skew_seconds: int = Field(10, ge=0, le=60, description="how wrong the issuer's clock may be")
    max_age_seconds: int = Field(3600, ge=1, le=86_400, description="no token older than this, whatever its exp")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_file is not None) + (self.jwks_url is not None) + self.discover != 1:
            raise ValueError("exactly one of jwks_file, jwks_url and discover must say where the issuer's keys are")
        if self.jwks_ca_file is not None and self.jwks_file is not None:
            raise ValueError("jwks_ca_file goes with jwks_url or discover only")
        if self.discover:
            https_url(self.issuer)
        return self

    def rules(self) -> TokenRules:
        """What its tokens are checked against."""
        return TokenRules(
            self.issuer, self.audience, frozenset(self.algorithms), self.clock_skew_seconds, self.max_age_seconds
        )
