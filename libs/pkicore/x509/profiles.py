"""Profiles: what a certificate of each kind contains, as data in TOML.

    [server]
    description = "..."
    validity = "90d"                        # or hours "12h", minutes "5m"
    backdate = "1h"                         # notBefore lies this much before now, for clocks that run late
    keys = ["ecdsa-p256"]                   # names of the algorithm table
    subject = "first-name"                  # empty | first-name | required
    max_names = 100
    key_usage = ["digitalSignature"]        # names of RFC 5280 §4.2.1.3
    extended_key_usage = ["serverAuth"]     # serverAuth | clientAuth | codeSigning | timeStamping | OCSPSigning
    crl = true                              # carries the URL of the issuer's CRL
    ocsp = true                             # carries the URL of the issuer's OCSP responder
    callers = ["/service/acme"]             # SPIFFE paths that may ask for it; a last segment "*" stands for any one
    names = { dns = "allowed", ip = "allowed" }   # forbidden | allowed | required | one
    families = { ecdsa = "ecdsa" }          # family of the key -> family of the issuing CA

Optional: `renewers = ["/service/signing"]`, SPIFFE paths that may ask for it only in place of a certificate of the same
profile, key and subject that this CA has issued and not revoked; `freshest_crl = true` carries the URL of the delta to
the CRL; `ocsp_no_check = true`, `ca = true`,
`path_length = 0`; `sct = true` has each certificate logged, and the log's timestamp in it; `fulcio = true` has it say
what an OIDC token said (`pkicore.x509.fulcio`), so that its URI name is that of a build or person elsewhere, and no
SPIFFE ID.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from pkicore.algorithms import ALGORITHMS, Algorithm
from pkicore.errors import ProfileError
from pkicore.identity import SpiffeId
from pkicore.x509.fulcio import ISSUER_CLAIM, claim_extensions
from pkicore.x509.names import Names

NameRule: TypeAlias = Literal["forbidden", "allowed", "required", "one"]
SubjectRule: TypeAlias = Literal["empty", "first-name", "required"]

NAME_TYPES = ("dns", "ip", "uri", "email")
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
_ALONE: Mapping[str, str] = MappingProxyType(
    {
        "OCSPSigning": "so that a responder's key serves nothing else",
        "timeStamping": "and critical (RFC 3161 §2.3)",
        "codeSigning": "so that who signs code is nobody's client or server",
    }
)
_FAMILIES = ("ecdsa", "rsa", "eddsa", "mldsa")
_MAX_NAMES = 1000
_MAX_VALIDITY = timedelta(days=50 * 366)
_MAX_BACKDATE = timedelta(days=1)
_DURATION = re.compile(r"([1-9][0-9]{0,4})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


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
    families: Mapping[str, str]

    def issuing_family(self, algorithm: Algorithm) -> str:
        """The family of the issuing CA for a key of this algorithm.

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
        for uri in names.uri:
            self._check_uri(uri)
        if names.is_empty and set(self.names.values()) != {"forbidden"}:
            raise ProfileError(f"profile {self.name} needs at least one name")

    def _check_uri(self, uri: str) -> None:
        if not self.fulcio:
            SpiffeId.parse(uri)
        elif uri.partition(":")[0].lower() == "spiffe":
            raise ProfileError(f"profile {self.name} is for identities of elsewhere, which have no SPIFFE ID of ours")

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

    def check_caller(self, caller: SpiffeId, trust_domain: str, *, renews: bool = False) -> None:
        """The caller may ask for certificates of this profile; who is not named may not.

        Args:
            caller: who asks.
            trust_domain: ours.
            renews: whether it asks in place of a certificate that is there, which is to be shown then.

        Raises:
            ProfileError: it may not.
        """
        parent = caller.path.rpartition("/")[0]
        named = {*self.callers, *self.renewers} if renews else set(self.callers)
        if caller.trust_domain != trust_domain or not {caller.path, f"{parent}/*"} & named:
            raise ProfileError(f"{caller} may not ask for certificates of profile {self.name}")


def load_profiles(toml: str) -> Mapping[str, Profile]:
    """The profiles of a TOML text, by name.

    Raises:
        ProfileError: one sentence that names the profile and the field.
    """
    try:
        tables = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"the profiles are not TOML: {error}") from error
    return MappingProxyType({name: _profile(_Table(name, table)) for name, table in tables.items()})


def _profile(table: _Table) -> Profile:
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
    )
    table.refuse_unknown()
    _check_sense(profile, table)
    return profile


def _check_sense(profile: Profile, table: _Table) -> None:
    if not profile.keys or not profile.key_usage:
        raise table.error("keys", "and key_usage must not be empty")
    if profile.ca != ("keyCertSign" in profile.key_usage):
        raise table.error("key_usage", "has keyCertSign exactly where ca = true (RFC 5280 §4.2.1.9)")
    if profile.path_length is not None and not profile.ca:
        raise table.error("path_length", "is for CAs only (RFC 5280 §4.2.1.9)")
    if profile.sct and profile.ca:
        raise table.error("sct", "is for end entities only (RFC 6962 §3.1)")
    if profile.freshest_crl and (profile.ca or not profile.crl):
        raise table.error("freshest_crl", "is for end entities whose certificates name a CRL: roots make no deltas")
    if missing := {ALGORITHMS[name].family for name in profile.keys} - set(profile.families):
        raise table.error("families", f"does not say which issuing CA takes keys of {', '.join(sorted(missing))}")
    _check_extended_usage(profile, table)


def _check_extended_usage(profile: Profile, table: _Table) -> None:
    if profile.ca == bool(profile.extended_key_usage):
        raise table.error("extended_key_usage", "is for end entities, which need it, and not for CAs")
    for usage, reason in _ALONE.items():
        if usage in profile.extended_key_usage and profile.extended_key_usage != (usage,):
            raise table.error("extended_key_usage", f"has {usage} alone, {reason}")
    if profile.ocsp_no_check and "OCSPSigning" not in profile.extended_key_usage:
        raise table.error("ocsp_no_check", "is for OCSP responders only (RFC 6960 §4.2.2.2.1)")
    if profile.fulcio and profile.extended_key_usage != ("codeSigning",):
        raise table.error("fulcio", "is for code signing only: such a name is nobody's at a TLS server")


class _Table:
    """One profile of the TOML text; every reader raises ProfileError with the name of the profile and the field."""

    def __init__(self, name: str, table: object) -> None:
        self.name = name
        self._fields: dict[str, Any] = table if isinstance(table, dict) else {}
        self._read: set[str] = set()
        if not self._fields or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
            raise ProfileError(f"profile {name}: must be a table, its name lower-case letters, digits and hyphens")

    def __contains__(self, field: str) -> bool:
        return field in self._fields

    def error(self, field: str, rule: str) -> ProfileError:
        return ProfileError(f"profile {self.name}: {field} {rule}")

    def _value(self, field: str, kind: type, default: object = None) -> Any:  # noqa: ANN401 - TOML values; `kind` checks
        self._read.add(field)
        value = self._fields.get(field, default)
        if type(value) is not kind:
            raise self.error(field, f"must be a {kind.__name__}" if field in self else "is missing")
        return value

    def text(self, field: str) -> str:
        return str(self._value(field, str))

    def flag(self, field: str, *, default: bool | None = None) -> bool:
        return bool(self._value(field, bool, default))

    def number(self, field: str, low: int, high: int) -> int:
        value = int(self._value(field, int))
        if not low <= value <= high:
            raise self.error(field, f"must be {low} to {high}")
        return value

    def choice(self, field: str, offered: tuple[Any, ...]) -> Any:  # noqa: ANN401 - one of `offered`, typed by the field
        value = self._value(field, str)
        if value not in offered:
            raise self.error(field, f"must be one of {', '.join(offered)}")
        return value

    def texts(self, field: str, offered: tuple[str, ...] | None = None) -> tuple[str, ...]:
        values = self._value(field, list)
        for value in values:
            if not isinstance(value, str) or (offered is not None and value not in offered):
                raise self.error(field, f"may hold {', '.join(offered)}" if offered else "must hold strings")
        return tuple(values)

    def duration(self, field: str, longest: timedelta) -> timedelta:
        match = _DURATION.fullmatch(self.text(field))
        if match is None:
            raise self.error(field, 'must be a number of days, hours or minutes, as in "90d", "12h" or "5m"')
        value = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if value > longest:
            raise self.error(field, f"must be at most {longest}")
        return value

    def name_rules(self) -> Mapping[str, NameRule]:
        rules = self._value("names", dict, {})
        for kind, rule in rules.items():
            if kind not in NAME_TYPES or rule not in get_args(NameRule):
                raise self.error("names", f"maps {', '.join(NAME_TYPES)} to one of {', '.join(get_args(NameRule))}")
        return MappingProxyType({kind: rules.get(kind, "forbidden") for kind in NAME_TYPES})

    def families(self) -> Mapping[str, str]:
        families = self._value("families", dict)
        for key, issuing in families.items():
            if key not in _FAMILIES or issuing not in _FAMILIES:
                raise self.error("families", f"maps {', '.join(_FAMILIES)} to one of them")
        return MappingProxyType(dict(families))

    def refuse_unknown(self) -> None:
        if unknown := sorted(set(self._fields) - self._read):
            raise self.error(unknown[0], "is no field of a profile")
