"""The key policy as it is written: every member, its bounds, and what may not stand together.

`schema.json` beside this module is made from these models, so that the published schema and the loader cannot differ.
What a schema cannot say (names that must be unique, members that exclude each other) is checked here as well.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pkicore.algorithms import Payload
from pkicore.errors import IdentityError
from pkicore.identity import SpiffeId

Act = Literal[
    "create",
    "import",
    "list",
    "show",
    "pubkey",
    "sign",
    "rotate",
    "disable",
    "enable",
    "destroy",
    "attestation",
    "approve",
]
LIFE_CYCLE: Final[frozenset[Act]] = frozenset({"create", "import", "rotate", "disable", "enable", "destroy"})
"""The acts that can ask for approvals."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
SchemeName = Literal[
    "ES256",
    "ES384",
    "ES512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "EdDSA",
    "ML-DSA-44",
    "ML-DSA-65",
    "ML-DSA-87",
]
ClaimValue = str | int | bool

MAX_APPROVALS: Final = 5
WILDCARD: Final = "/*"
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


def moment(text: str) -> datetime:
    """The time that `YYYY-MM-DDTHH:MM:SSZ` names.

    Raises:
        ValueError: another form, or no such time.
    """
    try:
        return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError("there is no such time; write 2027-01-31T00:00:00Z") from error


def _check_caller(caller: str) -> str:
    try:
        SpiffeId.parse(caller.removesuffix(WILDCARD))
    except IdentityError as error:
        raise ValueError(f"{caller!r} is no SPIFFE ID, nor one that ends in /*: {error}") from error
    return caller


def _check_moment(text: str) -> str:
    moment(text)
    return text


TenantId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="What keys and limits belong to.")]
BackendName = Annotated[str, Field(min_length=1, max_length=64, description="A back end of the service's settings.")]
KeyGlob = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,62}\*?|\*)$", description="A key name; * at its end.")]
CallerPattern = Annotated[str, Field(max_length=2048), AfterValidator(_check_caller)]
Moment = Annotated[
    str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"), AfterValidator(_check_moment)
]
Rate = Annotated[float, Field(ge=0.001, le=1_000_000, description="Requests per second, in the long run.")]
Burst = Annotated[int, Field(ge=1, le=1_000_000, description="Requests at once after a quiet time.")]


class _Strict(BaseModel):
    """Unknown members are refused, and nothing is converted: "5" is no number."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Tenant(_Strict):
    """Whose keys they are, and how much of the service they may take."""

    id: TenantId
    backends: Annotated[tuple[BackendName, ...], Field(min_length=1, max_length=16)] = Field(
        description="Back ends that this tenant's keys may live in; the first is taken where a request names none."
    )
    max_keys: Annotated[int, Field(ge=0, le=1_000_000, description="Keys at most, destroyed ones not counted.")]
    max_versions: Annotated[
        int, Field(ge=1, le=10_000, description="Versions of each key at most, destroyed ones not counted.")
    ] = 100
    rate_per_second: Rate
    burst: Burst
    max_in_flight: Annotated[int, Field(ge=1, le=10_000, description="Requests under way at once.")]


class Subject(_Strict):
    """A person or job that an OIDC issuer vouches for."""

    issuer: Annotated[str, Field(min_length=1, max_length=1024, description="The `iss` claim, exactly.")]
    subject: Annotated[str, Field(min_length=1, max_length=255, description="The `sub` claim, exactly.")]
    claims: dict[Annotated[str, Field(min_length=1, max_length=128)], ClaimValue] = Field(
        default_factory=dict, max_length=16, description="Further claims, each of which must have exactly this value."
    )


class Window(_Strict):
    """When a rule holds, in UTC; one that ends before it begins goes on past midnight."""

    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7)] = Field(
        description="The days on which the window begins."
    )
    start: Annotated[str, Field(alias="from", pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    end: Annotated[str, Field(alias="to", pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")] = Field(
        description="The first minute that is not in the window any more."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.start == self.end:
            raise ValueError("from and to are the same time; a whole day is from 00:00 to 24:00")
        return self


class RuleDocument(_Strict):
    """Who may do what with which keys of a tenant, and when."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="Named in each audit record.")]
    tenant: TenantId
    callers: Annotated[tuple[CallerPattern, ...], Field(max_length=256)] = Field(
        default=(), description="SPIFFE IDs; the last segment may be *, which stands for any one segment."
    )
    subjects: Annotated[tuple[Subject, ...], Field(max_length=256)] = Field(
        default=(), description="OIDC subjects; a caller who shows a token is allowed by rules with subjects only."
    )
    acts: Annotated[tuple[Act, ...], Field(min_length=1, max_length=12)]
    keys: Annotated[tuple[KeyGlob, ...], Field(min_length=1, max_length=256)]
    kinds: Annotated[tuple[Payload, ...], Field(min_length=1, max_length=3)] | None = Field(
        default=None, description="Payload kinds that may be signed; needed with the act sign, senseless without."
    )
    schemes: Annotated[tuple[SchemeName, ...], Field(min_length=1)] | None = Field(
        default=None, description="Signature schemes that may be used; left out: every one that the key has."
    )
    rate_per_second: Rate | None = None
    burst: Burst | None = None
    windows: Annotated[tuple[Window, ...], Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Left out: at any time."
    )
    approvals: Annotated[int, Field(ge=0, le=MAX_APPROVALS)] = Field(
        default=0, description="How many others must have approved a life-cycle act."
    )
    valid_from: Moment | None = Field(default=None, description="The first second at which the rule holds.")
    valid_until: Moment | None = Field(default=None, description="The first second at which it holds no more.")

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not self.callers and not self.subjects:
            raise ValueError("callers, subjects or both must say whom the rule is for")
        self._check_signing()
        if self.approvals and not LIFE_CYCLE.issuperset(self.acts):
            raise ValueError(f"approvals go with {', '.join(sorted(LIFE_CYCLE))} only; other acts need their own rule")
        if (self.rate_per_second is None) != (self.burst is None):
            raise ValueError("rate_per_second and burst go together")
        if self.valid_from is not None and self.valid_until is not None and self.valid_from >= self.valid_until:
            raise ValueError("valid_until must be after valid_from")
        return self

    def _check_signing(self) -> None:
        if "sign" in self.acts:
            if self.kinds is None:
                raise ValueError("a rule with the act sign must name the payload kinds; mu is allowed by its name only")
        elif self.kinds is not None or self.schemes is not None:
            raise ValueError("kinds and schemes go with the act sign only")


class PolicyDocument(_Strict):
    """The key policy of one deployment. What no rule allows is refused."""

    version: Annotated[int, Field(ge=1, le=2**53 - 1, description="Counted up by whoever changes the policy.")]
    tenants: Annotated[tuple[Tenant, ...], Field(min_length=1, max_length=1000)]
    rules: Annotated[tuple[RuleDocument, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        tenants = Counter(tenant.id for tenant in self.tenants)
        for what, ids in (("tenants", tenants), ("rules", Counter(rule.id for rule in self.rules))):
            if twice := sorted(name for name, times in ids.items() if times > 1):
                raise ValueError(f"{what} with the same id: {', '.join(twice)}")
        for number, rule in enumerate(self.rules):
            if rule.tenant not in tenants:
                raise ValueError(f"rules[{number}].tenant: there is no tenant {rule.tenant!r}")
        return self

    @classmethod
    def schema_2020(cls) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) that users' editors check a policy with."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "urn:pqcpki:schema:key-policy",
            **cls.model_json_schema(by_alias=True),
        }
