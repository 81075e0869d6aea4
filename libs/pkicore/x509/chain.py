"""From a leaf to a root that is trusted (RFC 5280 §6), by cryptography's verifier."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import MappingProxyType
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.errors import BadCertificateError
from pkicore.x509 import PARSE_ERRORS

Purpose: TypeAlias = Literal["server", "client", "code-signing", "time-stamping"]
_PURPOSES = MappingProxyType(
    {
        "server": ExtendedKeyUsageOID.SERVER_AUTH,
        "client": ExtendedKeyUsageOID.CLIENT_AUTH,
        "code-signing": ExtendedKeyUsageOID.CODE_SIGNING,
        "time-stamping": ExtendedKeyUsageOID.TIME_STAMPING,
    }
)
_MAX_DEPTH = 3


def verify_chain(
    leaf: x509.Certificate,
    intermediates: Iterable[x509.Certificate],
    roots: Iterable[x509.Certificate],
    at: datetime,
    purpose: Purpose,
) -> tuple[x509.Certificate, ...]:
    """The path from the leaf to one of the roots, leaf first, root last.

    Names and revocation are not looked at: compare names with `spiffe_id_of` or the DNS names, revocation with a
    `VerifiedCrl` or `ocsp.verify_response`.

    Raises:
        BadCertificateError: there is no such path, or the leaf is not for this purpose.
    """
    _check_purpose(leaf, purpose)
    # The verifier for servers insists on a host name, which SPIFFE leaves need not have. Hence the one for clients for
    # both, with the usage of the leaf checked by us.
    ca_policy, leaf_policy = verification.ExtensionPolicy.webpki_defaults_ca(), _leaf_policy(purpose)
    try:
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(list(roots)))
            .time(at)
            .max_chain_depth(_MAX_DEPTH)
            .extension_policies(ca_policy=ca_policy, ee_policy=leaf_policy)
            .build_client_verifier()
        )
        return tuple(verifier.verify(leaf, list(intermediates)).chain)
    except (verification.VerificationError, *PARSE_ERRORS) as error:
        raise BadCertificateError(f"no path from this certificate to a trusted root: {error}") from error


def _leaf_policy(purpose: Purpose) -> verification.ExtensionPolicy:
    policy = verification.ExtensionPolicy.webpki_defaults_ee()
    if purpose == "time-stamping":  # critically so, and known by the subject alone (RFC 3161 §2.3)
        agnostic = verification.Criticality.AGNOSTIC
        policy = policy.may_be_present(x509.SubjectAlternativeName, agnostic, None)
        return policy.may_be_present(x509.ExtendedKeyUsage, agnostic, None)
    return policy.may_be_present(x509.ExtendedKeyUsage, verification.Criticality.NON_CRITICAL, None)


def _check_purpose(leaf: x509.Certificate, purpose: str) -> None:
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, *PARSE_ERRORS) as error:
        raise BadCertificateError("the certificate does not say what it is for") from error
    if _PURPOSES[purpose] not in usages:
        raise BadCertificateError(f"the certificate is not for a {purpose}")
