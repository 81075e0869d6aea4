"""Profiles: what a certificate of each kind contains, as data in TOML. docs/operations/profiles.md is for operators.

    [server]
    description = "..."
    validity = "90d"                        # or hours "12h", minutes "5m"
    backdate = "1h"                         # notBefore lies this much before now, for clocks that run late
    keys = ["ecdsa-p256"]                   # names of the algorithm table
    subject = "first-name"                  # empty | first-name | required
    max_names = 100
    key_usage = ["digitalSignature"]        # names of RFC 5280 §4.2.1.3
    extended_key_usage = ["serverAuth"]     # names of the table below
    crl = true                              # carries the URL of the issuer's CRL
    ocsp = true                             # carries the URL of the issuer's OCSP responder
    callers = ["/service/acme"]             # SPIFFE paths that may ask for it; a last segment "*" stands for any one
    names = { dns = "allowed", ip = "allowed" }   # forbidden | allowed | required | one
    families = { ecdsa = "ecdsa", rsa = ["rsa", "ecdsa"] }

`families` maps the family of the key to that of the issuing CA; of several, the first that this CA has issues. Only a
profile that names another family than the key's makes mixed chains.

Optional:

    renewers = ["/service/signing"]         # may ask in place of a certificate of the same profile, key and subject
    dns_suffixes = ["corp.example"]         # DNS names are these or lie below them
    wildcards = false                       # no `*.` names
    spiffe_paths = ["/workload/*"]          # which SPIFFE IDs it certifies; written as `callers`
    svid = true                             # every rule of the X509-SVID standard
    policies = ["1.3.6.1.4.1.99999.1"]      # certificate policies (RFC 5280 §4.2.1.4)
    must_staple = true                      # TLS feature status_request (RFC 7633)
    no_rev_avail = true                     # short-lived: cannot be asked after (RFC 9608)
    freshest_crl = true                     # carries the URL of the delta to the CRL
    ocsp_no_check = true                    # for OCSP responders (RFC 6960 §4.2.2.2.1)
    ca = true
    path_length = 0
    name_constraints = { permitted = ["dns:corp.example"], excluded = ["ip:0.0.0.0/0"] }  # see the module of that name
    sct = true                              # is logged, and carries the log's timestamp (RFC 6962)
    fulcio = true                           # says what an OIDC token said: its URI is of elsewhere, and no SPIFFE ID
    lint = ["pkilint"]                      # linters that are asked beside ours (pkicore.x509.lint)
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from cryptography import x509

from pkicore.algorithms import ALGORITHMS, Algorithm
from pkicore.errors import ProfileError
from pkicore.identity import SpiffeId
from pkicore.x509.fulcio import ISSUER_CLAIM, claim_extensions
from pkicore.x509.names import Names
from pkicore.x509.profile_sense import contradictions
from pkicore.x509.profile_table import NAME_TYPES, NameRule, ProfileTable

SubjectRule: TypeAlias = Literal["empty", "first-name", "required"]

KEY_USAGES = ("digitalSignature", "contentCommitment", "keyEncipherment", "keyCertSign", "cRLSign")
EXTENDED_KEY_USAGES: Mapping[str, str] = MappingProxyType(
    {
        "serverAuth": "1.3.6.1.5.5.7.3.1",
        "clientAuth": "1.3.6.1.5.5.7.3.2",
        "codeSigning": "1.3.6.1.5.5.7.3.3",
        "timeStamping": "1.3.6.1.5.5.7.3.8",
        "OCSPSigning": "1.3.6.1.5.5.7.3.9",
    }
)
LINTERS = ("pkilint",)
_MAX_NAMES = 1000
_MAX_VALIDITY = timedelta(days=50 * 366)
_MAX_BACKDATE = timedelta(days=1)


@dataclass(frozen=True)
class Profile:
    """One kind of certificate; the fields are those of the TOML form, see the module."""

    name: str
    description: str
    validity: timedelta
    backdate: timedelta
    keys: frozenset[str]
    subject: SubjectRule
    names: Mapping[str, NameRule]
    max_names: int
    key_usage: frozenset[str]
    extended_key_usage: tuple[str, ...]
    crl: bool
    ocsp: bool
    ocsp_no_check: bool
    freshest_crl: bool
    ca: bool
    path_length: int | None
    sct: bool
    fulcio: bool
    callers: tuple[str, ...]
    renewers: tuple[str, ...]
    families: Mapping[str, tuple[str, ...]]
    dns_suffixes: tuple[str, ...] = ()
    wildcards: bool = True
    spiffe_paths: tuple[str, ...] = ()
    svid: bool = False
    policies: tuple[str, ...] = ()
    must_staple: bool = False
    no_rev_avail: bool = False
    name_constraints: x509.NameConstraints | None = None
    lint: tuple[str, ...] = ()

    def issuing_families(self, algorithm: Algorithm) -> tuple[str, ...]:
        """The families whose issuing CA may issue for a key of this algorithm, the preferred one first.

        Raises:
            ProfileError: the profile does not take such keys.
        """
        if algorithm.name not in self.keys or algorithm.family not in self.families:
            offered = ", ".join(sorted(self.keys))
            raise ProfileError(f"profile {self.name} takes no {algorithm.name} keys; it takes {offered}")
        return self.families[algorithm.family]

    def check_names(self, names: Names) -> None:
        """The names of a request fit the profile.

        Raises:
            ProfileError: too many, too few, of a forbidden type, or a SPIFFE ID where there must be none.
            IdentityError: a URI that is no SPIFFE ID where it must be one.
        """
        if names.count > self.max_names:
            raise ProfileError(f"profile {self.name} allows at most {self.max_names} names, not {names.count}")
        for kind in NAME_TYPES:
            self._check_count(kind, len(getattr(names, kind)))
        for name in names.dns:
            self._check_dns(name)
        for uri in names.uri:
            self._check_uri(uri)
        if names.is_empty and set(self.names.values()) != {"forbidden"}:
            raise ProfileError(f"profile {self.name} needs at least one name")

    def _check_dns(self, name: str) -> None:
        if name.startswith("*.") and not self.wildcards:
            raise ProfileError(f"profile {self.name} takes no wildcards, as {name} is one")
        host = name.removeprefix("*.")
        if self.dns_suffixes and not any(host == suffix or host.endswith(f".{suffix}") for suffix in self.dns_suffixes):
            raise ProfileError(
                f"profile {self.name} is for names at or below {', '.join(self.dns_suffixes)}, not {name}"
            )

    def _check_uri(self, uri: str) -> None:
        if self.fulcio and uri.partition(":")[0].lower() == "spiffe":
            raise ProfileError(f"profile {self.name} is for identities of elsewhere, which have no SPIFFE ID of ours")
        if self.fulcio:
            return
        identity = SpiffeId.parse(uri)
        if self.spiffe_paths and _path_of(identity, self.spiffe_paths) is None:
            raise ProfileError(f"profile {self.name} is for SPIFFE IDs {', '.join(self.spiffe_paths)}, not {uri}")

    def check_claims(self, claims: Mapping[str, str]) -> None:
        """The claims of a request (OID to value) fit the profile.

        Raises:
            ProfileError: the profile has none, one of them cannot be had, or the token's issuer is not said.
        """
        if claims and not self.fulcio:
            raise ProfileError(f"profile {self.name} takes no extensions from its callers")
        claim_extensions(claims)
        if self.fulcio and ISSUER_CLAIM not in claims:
            raise ProfileError(f"profile {self.name} needs the extension {ISSUER_CLAIM}, the issuer of the OIDC token")

    def _check_count(self, kind: str, count: int) -> None:
        rule = self.names[kind]
        if rule == "forbidden" and count:
            raise ProfileError(f"profile {self.name} allows no {kind} names")
        if rule in {"required", "one"} and not count:
            raise ProfileError(f"profile {self.name} needs a {kind} name")
        if rule == "one" and count > 1:
            raise ProfileError(f"profile {self.name} allows one {kind} name, not {count}")

    def check_caller(self, caller: SpiffeId, trust_domain: str, *, renews: bool = False) -> str:
        """The caller may ask for certificates of this profile; who is not named may not.

        Args:
            caller: who asks.
            trust_domain: ours.
            renews: whether it asks in place of a certificate that is there, which is to be shown then.

        Returns:
            What lets it, such as `callers /operator/*`.

        Raises:
            ProfileError: it may not.
        """
        named = {"callers": self.callers} | ({"renewers": self.renewers} if renews else {})
        for field, paths in named.items():
            if caller.trust_domain == trust_domain and (path := _path_of(caller, paths)) is not None:
                return f"{field} {path}"
        raise ProfileError(f"{caller} may not ask for certificates of profile {self.name}")


def _path_of(identity: SpiffeId, paths: tuple[str, ...]) -> str | None:
    """The path that is the identity's, or ends in `*` and differs from it in the last segment alone."""
    parent = identity.path.rpartition("/")[0]
    return next((path for path in (identity.path, f"{parent}/*") if path in paths), None)


def load_profiles(toml: str) -> Mapping[str, Profile]:
    """The profiles of a TOML text, by name.

    Raises:
        ProfileError: one sentence that names the profile and the field.
    """
    try:
        tables = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"the profiles are not TOML: {error}") from error
    return MappingProxyType({name: _profile(ProfileTable(name, table)) for name, table in tables.items()})


def _profile(table: ProfileTable) -> Profile:
    profile = Profile(
        name=table.name,
        description=table.text("description"),
        validity=table.duration("validity", _MAX_VALIDITY),
        backdate=table.duration("backdate", _MAX_BACKDATE),
        keys=frozenset(table.texts("keys", tuple(n for n, row in ALGORITHMS.items() if row.certificates))),
        subject=table.choice("subject", get_args(SubjectRule)),
        names=table.name_rules(),
        max_names=table.number("max_names", 0, _MAX_NAMES),
        key_usage=frozenset(table.texts("key_usage", KEY_USAGES)),
        extended_key_usage=table.texts("extended_key_usage", tuple(EXTENDED_KEY_USAGES)),
        crl=table.flag("crl"),
        ocsp=table.flag("ocsp"),
        ocsp_no_check=table.flag("ocsp_no_check", default=False),
        freshest_crl=table.flag("freshest_crl", default=False),
        ca=table.flag("ca", default=False),
        path_length=table.number("path_length", 0, 10) if "path_length" in table else None,
        sct=table.flag("sct", default=False),
        fulcio=table.flag("fulcio", default=False),
        callers=table.texts("callers"),
        renewers=table.texts("renewers") if "renewers" in table else (),
        families=table.families(),
        dns_suffixes=table.texts("dns_suffixes") if "dns_suffixes" in table else (),
        wildcards=table.flag("wildcards", default=True),
        spiffe_paths=table.texts("spiffe_paths") if "spiffe_paths" in table else (),
        svid=table.flag("svid", default=False),
        policies=table.identifiers("policies"),
        must_staple=table.flag("must_staple", default=False),
        no_rev_avail=table.flag("no_rev_avail", default=False),
        name_constraints=table.name_constraints(),
        lint=table.texts("lint", LINTERS) if "lint" in table else (),
    )
    table.refuse_unknown()
    for field, rule in contradictions(profile):
        raise table.error(field, rule)
    return profile
