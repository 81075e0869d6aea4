"""What no profile may say, whatever its operator means by it; each rule names its field and its source.

A client never chooses what makes a CA, an OCSP responder or a time-stamping authority: such profiles name who may ask,
and that is the ceremony, the CA itself, and operators; not the services that speak for clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from pkicore.algorithms import ALGORITHMS
from pkicore.errors import BadCsrError
from pkicore.x509.names import canonical_dns

if TYPE_CHECKING:
    from pkicore.x509.profiles import Profile

ANY_POLICY = "2.5.29.32.0"
SHORT_LIVED = timedelta(days=7)
"""The longest life of a certificate that nobody can ask after (CA/Browser Forum BR §1.6.1, short-lived)."""

_ALONE = {
    "OCSPSigning": "so that a responder's key serves nothing else",
    "timeStamping": "and critical (RFC 3161 §2.3)",
    "codeSigning": "so that who signs code is nobody's client or server",
}
_OWN_CALLERS = {"OCSPSigning": "/service/ca", "timeStamping": "/operator/*"}

Contradictions: TypeAlias = Iterator[tuple[str, str]]


def contradictions(profile: Profile) -> Contradictions:
    """Fields that contradict each other or a standard: name of the field, and what is wrong with it."""
    for rule in _RULES:
        yield from rule(profile)


def _keys(profile: Profile) -> Contradictions:
    if not profile.keys or not profile.key_usage:
        yield "keys", "and key_usage must not be empty"
    if missing := {ALGORITHMS[name].family for name in profile.keys} - set(profile.families):
        yield "families", f"does not say which issuing CA takes keys of {', '.join(sorted(missing))}"


def _authority(profile: Profile) -> Contradictions:
    """RFC 5280 §4.2.1.9 and §4.2.1.10."""
    if profile.ca != ("keyCertSign" in profile.key_usage):
        yield "key_usage", "has keyCertSign exactly where ca = true (RFC 5280 §4.2.1.9)"
    if "cRLSign" in profile.key_usage and not profile.ca:
        yield "key_usage", "has cRLSign only where ca = true (RFC 5280 §4.2.1.3)"
    if profile.path_length is not None and not profile.ca:
        yield "path_length", "is for CAs only (RFC 5280 §4.2.1.9)"
    if profile.name_constraints is not None and not profile.ca:
        yield "name_constraints", "is for CAs only (RFC 5280 §4.2.1.10)"
    if profile.ca and (profile.callers or profile.renewers):
        yield "callers", "and renewers must be empty where ca = true: CAs come from the ceremony alone"


def _usages(profile: Profile) -> Contradictions:
    usages = profile.extended_key_usage
    if profile.ca == bool(usages) and (not profile.ca or profile.name_constraints is None):
        yield "extended_key_usage", "is for end entities, which need it, and for CAs with name_constraints"
    for usage, reason in _ALONE.items():
        if usage in usages and (usages != (usage,) or (profile.ca and usage in _OWN_CALLERS)):
            yield "extended_key_usage", f"has {usage} alone, {reason}"
    if profile.fulcio and usages != ("codeSigning",):
        yield "fulcio", "is for code signing only: such a name is nobody's at a TLS server"
    if profile.must_staple and ("serverAuth" not in usages or not profile.ocsp):
        yield "must_staple", "is for servers whose certificates name an OCSP responder (RFC 7633 §4.2.3)"


def _callers(profile: Profile) -> Contradictions:
    for usage, own in _OWN_CALLERS.items():
        if usage in profile.extended_key_usage and not all(_is_within(path, own) for path in profile.callers):
            yield "callers", f"of {usage} are {own} and nobody else: no client chooses it"
    if "OCSPSigning" in profile.extended_key_usage and profile.renewers:
        yield "renewers", "has no place in a profile of OCSPSigning"


def _is_within(path: str, pattern: str) -> bool:
    return path == pattern or (pattern.endswith("/*") and path.rpartition("/")[0] == pattern.removesuffix("/*"))


def _revocation(profile: Profile) -> Contradictions:
    if profile.ocsp_no_check and "OCSPSigning" not in profile.extended_key_usage:
        yield "ocsp_no_check", "is for OCSP responders only (RFC 6960 §4.2.2.2.1)"
    if profile.freshest_crl and (profile.ca or not profile.crl):
        yield "freshest_crl", "is for end entities whose certificates name a CRL: roots make no deltas"
    if not profile.no_rev_avail:
        return
    if profile.ca:
        yield "no_rev_avail", "is for end entities only (RFC 9608 §3)"
    if profile.crl or profile.ocsp or profile.freshest_crl:
        yield "no_rev_avail", "never comes with crl, freshest_crl or ocsp (RFC 9608 §3)"
    if profile.validity > SHORT_LIVED:
        yield (
            "no_rev_avail",
            f"is for certificates that live at most {SHORT_LIVED.days} days: nobody can take them back",
        )


def _names(profile: Profile) -> Contradictions:
    for suffix in profile.dns_suffixes:
        if not _is_host(suffix):
            yield "dns_suffixes", f"must hold DNS names in lower case, without dots at their ends, not {suffix[:80]!r}"
    if profile.dns_suffixes and profile.names["dns"] == "forbidden":
        yield "dns_suffixes", "means nothing where names allows no dns"
    if profile.spiffe_paths and (profile.names["uri"] == "forbidden" or profile.fulcio):
        yield "spiffe_paths", "means nothing where names allows no uri that is a SPIFFE ID"
    if not all(path.startswith("/") and path != "/" for path in profile.spiffe_paths):
        yield "spiffe_paths", "must hold paths, as in /workload/*"


def _is_host(name: str) -> bool:
    try:
        return canonical_dns(name) == name and not name.startswith("*.")
    except BadCsrError:
        return False


def _svid(profile: Profile) -> Contradictions:
    """X509-SVID §2, §4.1, §4.3 and §4.4."""
    both = {"serverAuth", "clientAuth"} <= set(profile.extended_key_usage)
    if profile.svid and (profile.names["uri"] != "one" or profile.fulcio):
        yield "svid", 'needs names = { uri = "one" }, which is a SPIFFE ID (X509-SVID §2)'
    if profile.svid and (profile.ca or not both or "digitalSignature" not in profile.key_usage):
        yield "svid", "is for leaves with serverAuth, clientAuth and digitalSignature (X509-SVID §4)"


def _policies(profile: Profile) -> Contradictions:
    if ANY_POLICY in profile.policies and not profile.ca:
        yield "policies", "has anyPolicy in CA certificates only (RFC 5280 §4.2.1.4)"


def _log(profile: Profile) -> Contradictions:
    if profile.sct and profile.ca:
        yield "sct", "is for end entities only (RFC 6962 §3.1)"


_Rule: TypeAlias = Callable[["Profile"], Contradictions]
_RULES: tuple[_Rule, ...] = (_keys, _authority, _usages, _callers, _revocation, _names, _svid, _policies, _log)
