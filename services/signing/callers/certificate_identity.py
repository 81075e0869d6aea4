"""What a short-lived certificate says of an OIDC identity: its one name, and Fulcio's extensions.

The arc is 1.3.6.1.4.1.57264.1; .8 to .23 are UTF8Strings (Fulcio, docs/oid-info.md). Which claim goes where follows
Fulcio's own configuration (config/identity/config.yaml), so that foreign verifiers read what they know. An extension
is left out where a claim that it is made of is missing; the name and the issuer never are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from types import MappingProxyType
from typing import Final

from services.signing.callers.caller import Caller
from services.signing.callers.errors import CertificateIdentityError

FULCIO_ARC: Final = "1.3.6.1.4.1.57264.1"
_ISSUER: Final = 8
_GITHUB: Final[Mapping[int, str]] = {
    9: "{server_url}/{job_workflow_ref}",  # build signer URI
    10: "{job_workflow_sha}",  # build signer digest
    11: "{runner_environment}",
    12: "{server_url}/{repository}",  # source repository URI
    13: "{sha}",  # source repository digest
    14: "{ref}",  # source repository ref
    15: "{repository_id}",
    16: "{server_url}/{repository_owner}",
    17: "{repository_owner_id}",
    18: "{server_url}/{workflow_ref}",  # build config URI
    19: "{workflow_sha}",  # build config digest
    20: "{event_name}",  # build trigger
    21: "{server_url}/{repository}/actions/runs/{run_id}/attempts/{run_attempt}",
    22: "{repository_visibility}",
    23: "{environment}",
}
_GITLAB: Final[Mapping[int, str]] = {
    9: "https://{ci_config_ref_uri}",
    10: "{ci_config_sha}",
    11: "{runner_environment}",
    12: "{server_url}/{project_path}",
    13: "{sha}",
    14: "{source_ref}",
    15: "{project_id}",
    16: "{server_url}/{namespace_path}",
    17: "{namespace_id}",
    18: "https://{ci_config_ref_uri}",
    19: "{ci_config_sha}",
    20: "{pipeline_source}",
    21: "{server_url}/{project_path}/-/jobs/{job_id}",
    22: "{project_visibility}",
    23: "{environment}",
}
_EXTENSIONS: Final[Mapping[str, Mapping[int, str]]] = {"github": _GITHUB, "gitlab": _GITLAB, "generic": {}}
_NAME: Final = 9  # the build signer URI is the certificate's name too
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!#-;=?-Z_a-z~\[\]%]+", re.ASCII)  # RFC 3986 characters
_EMAIL: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CertificateIdentity:
    """What stands in the certificate.

    Attributes:
        san_uri: the only subjectAltName, as a URI; None where `san_email` is.
        san_email: the only subjectAltName, as an rfc822Name; None where `san_uri` is.
        issuer: the OIDC issuer, extension .8.
        extensions: values by dotted OID, .8 included; each is to be encoded as a DER UTF8String.
    """

    san_uri: str | None
    san_email: str | None
    issuer: str
    extensions: Mapping[str, str]


def certificate_identity(caller: Caller) -> CertificateIdentity:
    """What a certificate for this caller says.

    Raises:
        CertificateIdentityError: no OIDC caller, or one whose claims make no name.
    """
    if caller.kind != "oidc":
        raise CertificateIdentityError("a certificate is made for an identity that an OIDC issuer vouches for")
    claims = dict(caller.claims)
    provider, issuer = claims["provider"], claims["issuer"]
    if "ref" in claims and "ref_type" in claims:
        claims["source_ref"] = f"refs/{'heads' if claims['ref_type'] == 'branch' else 'tags'}/{claims['ref']}"
    values = {number: _filled(template, claims) for number, template in _EXTENSIONS[provider].items()}
    extensions = {f"{FULCIO_ARC}.{_ISSUER}": issuer}
    extensions |= {f"{FULCIO_ARC}.{number}": value for number, value in values.items() if value}
    if provider == "generic":
        return CertificateIdentity(None, _email(claims), issuer, MappingProxyType(extensions))
    uri = values[_NAME]
    if uri is None or not _URI.fullmatch(uri):
        raise CertificateIdentityError("the token does not name a workflow or pipeline in a form that makes a URI")
    return CertificateIdentity(uri, None, issuer, MappingProxyType(extensions))


def _filled(template: str, claims: Mapping[str, str]) -> str | None:
    """The template with its claims, none of which is read as a template; None where one is missing."""
    names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    return template.format_map(claims) if all(claims.get(name) for name in names) else None


def _email(claims: Mapping[str, str]) -> str:
    email = claims.get("email", "")
    if claims.get("email_verified") != "true" or not _EMAIL.fullmatch(email):
        raise CertificateIdentityError("the token has no e-mail address that its issuer has verified")
    return email
