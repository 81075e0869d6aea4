"""The to-be-signed bytes of a certificate (RFC 5280 §4.1.2), from a profile, an issuer and a checked request."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from pkicore.algorithms import Algorithm, PublicKey, algorithm_of
from pkicore.encoding import NULL
from pkicore.errors import ProfileError
from pkicore.x509.capture import CAPTURING_KEYS
from pkicore.x509.fulcio import claim_extensions
from pkicore.x509.names import Names
from pkicore.x509.profiles import EXTENDED_KEY_USAGES, Profile

NO_REV_AVAIL = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), NULL)
"""Nobody tells whether the certificate was revoked (RFC 9608 §2); cryptography has no class for it."""
SERIAL_BITS = 159
MAX_COMMON_NAME = 64
_T = TypeVar("_T", bound=x509.ExtensionType)
_ONE_SECOND = timedelta(seconds=1)
_NO_CLAIMS: Mapping[str, str] = MappingProxyType({})


def random_serial() -> int:
    """A positive serial of 159 random bits, so that its DER never has more than 20 octets (RFC 5280 §4.1.2.2)."""
    return secrets.randbits(SERIAL_BITS) or 1


@dataclass(frozen=True)
class Issuer:
    """A CA as issuance needs it; nothing in it is secret.

    Attributes:
        id: stable name, part of URLs, e.g. "issuing-ecdsa".
        family: of its key: ecdsa, rsa or mldsa.
        certificate: of the issuer.
        chain: this issuer and those above it, up to but without the root; empty for a root.
        root: the root above it; its own certificate for a root.
        crl_url: where its complete CRL is; its shards and deltas are below.
        ocsp_url: where its responder is; None for a CA that has none.
        aia_url: where its own certificate is, in DER.
        crl_shards: into how many shards its CRL is split for certificates that are issued now; 1: not at all.
    """

    id: str
    family: str
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate
    crl_url: str
    ocsp_url: str | None
    aia_url: str
    crl_shards: int = 1

    @cached_property
    def algorithm(self) -> Algorithm:
        """The algorithm that it signs with."""
        return algorithm_of(self.certificate.public_key())

    @cached_property
    def subject_key_identifier(self) -> x509.SubjectKeyIdentifier:
        """What its certificates name as authority key (RFC 5280 §4.2.1.1)."""
        return self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value

    @cached_property
    def name_constraints(self) -> Sequence[x509.NameConstraints]:
        """What this issuer and those above it may certify (RFC 5280 §4.2.1.10)."""
        above = self.chain or (self.certificate,)
        return [item for one in above if (item := _extension(one, x509.NameConstraints)) is not None]

    @cached_property
    def extended_key_usage(self) -> x509.ExtendedKeyUsage | None:
        """What its certificates may be for; None where it does not say."""
        return _extension(self.certificate, x509.ExtendedKeyUsage)

    def shard_of(self, serial: int) -> int:
        """The shard of the CRL that a certificate issued now belongs to for ever, from 1; 0 where there are none."""
        return serial % self.crl_shards + 1 if self.crl_shards > 1 else 0

    def shard_url(self, shard: int) -> str:
        """Where the list of a shard is; that of shard 0 is the complete one."""
        return f"{self.crl_url}/{shard}" if shard else self.crl_url

    def crl_url_of(self, serial: int) -> str:
        """Where the CRL is that speaks for a certificate issued now under this serial."""
        return self.shard_url(self.shard_of(serial))

    def delta_url_of(self, serial: int) -> str:
        """Where the delta to that CRL is."""
        return delta_url(self.crl_url_of(serial))


def _extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def delta_url(crl_url: str) -> str:
    """Where the delta to a CRL is."""
    return f"{crl_url}/delta"


def validity(
    profile: Profile,
    issuer: Issuer | None,
    now: datetime,
    not_after: datetime | None = None,
    *,
    not_before: datetime | None = None,
) -> tuple[datetime, datetime]:
    """First and last second (notBefore, notAfter) of a certificate made now.

    Both ends belong to the period (RFC 5280 §4.1.2.5), so that notAfter is a second less than the profile's validity
    after notBefore. It is cut where the issuer's own period ends.

    Args:
        profile: says how long and how far back.
        issuer: None for a root.
        now: the present.
        not_after: an earlier end that was asked for.
        not_before: a later beginning that was asked for; the end is no later for it.

    Raises:
        ProfileError: the end asked for is past, or later than the profile or issuer allows; the beginning is earlier
            than they allow, or not before the end; or the issuer has expired.
    """
    start = now - profile.backdate
    latest = start + profile.validity - _ONE_SECOND
    if issuer is not None:
        start = max(start, issuer.certificate.not_valid_before_utc)
        latest = min(latest, issuer.certificate.not_valid_after_utc)
    end = latest if not_after is None else not_after
    if not now < end <= latest:
        raise ProfileError(f"a {profile.name} certificate must end after now and not after {latest:%Y-%m-%dT%H:%M:%SZ}")
    if not_before is None:
        return start, end
    if not start <= not_before < end:
        raise ProfileError(
            f"a {profile.name} certificate must begin not before {start:%Y-%m-%dT%H:%M:%SZ} and before its end, "
            f"{end:%Y-%m-%dT%H:%M:%SZ}"
        )
    return not_before, end


def build_tbs(  # noqa: PLR0913 - the fields of a certificate, each by its name
    profile: Profile,
    issuer: Issuer,
    *,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    public_key: PublicKey,
    common_name: str | None,
    names: Names,
    claims: Mapping[str, str] = _NO_CLAIMS,
) -> bytes:
    """The TBSCertificate in DER, as the profile wants it, without the timestamps of a log.

    `claims` are Fulcio's extensions, OID to value, where the profile takes them.

    Raises:
        ProfileError: names, common name, claims or key do not fit the profile.
        IdentityError: a URI name that is no SPIFFE ID.
    """
    profile.check_names(names)
    profile.check_claims(claims)
    subject = _subject(profile, common_name, names)
    builder = _builder(profile, subject, public_key, serial, (not_before, not_after))
    builder = builder.issuer_name(issuer.certificate.subject)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.subject_key_identifier)
    builder = builder.add_extension(identifier, critical=False)
    if profile.crl or profile.ocsp:
        builder = builder.add_extension(_authority_information(profile, issuer), critical=False)
    if profile.crl:
        points = x509.CRLDistributionPoints([_distribution_point(issuer.crl_url_of(serial))])
        builder = builder.add_extension(points, critical=False)
    if profile.freshest_crl:
        builder = builder.add_extension(
            x509.FreshestCRL([_distribution_point(issuer.delta_url_of(serial))]), critical=False
        )
    if not names.is_empty:
        alternatives = x509.SubjectAlternativeName(names.general_names())
        builder = builder.add_extension(alternatives, critical=not list(subject))
    for value in _flags(profile):
        builder = builder.add_extension(value, critical=False)
    for claim in claim_extensions(claims):
        builder = builder.add_extension(claim, critical=False)
    return _capture(builder, issuer.algorithm)


def build_root_tbs(
    profile: Profile,
    *,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    public_key: PublicKey,
    common_name: str,
) -> bytes:
    """The TBSCertificate of a root, which issues itself and names no authority key (RFC 5280 §4.2.1.1).

    Raises:
        ProfileError: the common name or key does not fit the profile.
    """
    subject = _subject(profile, common_name, Names())
    builder = _builder(profile, subject, public_key, serial, (not_before, not_after)).issuer_name(subject)
    return _capture(builder, algorithm_of(public_key))


def _builder(
    profile: Profile, subject: x509.Name, public_key: PublicKey, serial: int, period: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    profile.issuing_families(algorithm_of(public_key))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .serial_number(serial)
        .not_valid_before(period[0])
        .not_valid_after(period[1])
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(profile.ca, profile.path_length), critical=True)
        .add_extension(key_usage_of(profile, public_key), critical=True)
    )
    if profile.name_constraints is not None:
        builder = builder.add_extension(profile.name_constraints, critical=True)
    if profile.policies:
        policies = [x509.PolicyInformation(x509.ObjectIdentifier(policy), None) for policy in profile.policies]
        builder = builder.add_extension(x509.CertificatePolicies(policies), critical=False)
    if profile.extended_key_usage:
        usages = [x509.ObjectIdentifier(EXTENDED_KEY_USAGES[name]) for name in profile.extended_key_usage]
        only_time = profile.extended_key_usage == ("timeStamping",)  # which is critical then: RFC 3161 §2.3
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=only_time)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _flags(profile: Profile) -> Iterator[x509.ExtensionType]:
    """Extensions whose presence is what they say."""
    if profile.ocsp_no_check:
        yield x509.OCSPNoCheck()
    if profile.must_staple:
        yield x509.TLSFeature([x509.TLSFeatureType.status_request])
    if profile.no_rev_avail:
        yield NO_REV_AVAIL


def common_name_of(profile: Profile, common_name: str | None, names: Names) -> str | None:
    """The common name of the subject, which is all that a subject has; None where it is empty.

    Raises:
        ProfileError: the profile needs one, and none that fits was asked for.
    """
    if profile.subject == "required":
        if common_name is None or not 0 < len(common_name.encode()) <= MAX_COMMON_NAME:
            most = f"{MAX_COMMON_NAME} octets in UTF-8"  # which is what cryptography counts
            raise ProfileError(f"profile {profile.name} needs a common name of at most {most}")
        if common_name != " ".join(common_name.split()):
            raise ProfileError("a common name has no blanks around it, and one at a time within (RFC 5280 §7.1)")
        return common_name
    if profile.subject == "empty":
        return None
    hosts = sorted(names.dns, key=lambda name: name.startswith("*."))
    candidates = (common_name, *hosts) if common_name in names.dns else hosts
    return next((name for name in candidates if len(name) <= MAX_COMMON_NAME), None)


def _subject(profile: Profile, common_name: str | None, names: Names) -> x509.Name:
    chosen = common_name_of(profile, common_name, names)
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, chosen)] if chosen else [])


def key_usage_of(profile: Profile, public_key: PublicKey) -> x509.KeyUsage:
    """The profile's key usage; keyEncipherment for RSA keys alone, which alone can (RFC 9881 §5, RFC 8813 §3)."""
    usage = profile.key_usage
    return x509.KeyUsage(
        digital_signature="digitalSignature" in usage,
        content_commitment="contentCommitment" in usage,
        key_encipherment="keyEncipherment" in usage and isinstance(public_key, rsa.RSAPublicKey),
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign="keyCertSign" in usage,
        crl_sign="cRLSign" in usage,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_information(profile: Profile, issuer: Issuer) -> x509.AuthorityInformationAccess:
    found = [(AuthorityInformationAccessOID.CA_ISSUERS, issuer.aia_url)]
    if profile.ocsp:
        if issuer.ocsp_url is None:
            raise ProfileError(f"profile {profile.name} needs an OCSP responder, and {issuer.id} has none")
        found.insert(0, (AuthorityInformationAccessOID.OCSP, issuer.ocsp_url))
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in found]
    )


def _distribution_point(url: str) -> x509.DistributionPoint:
    return x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)


def _capture(builder: x509.CertificateBuilder, algorithm: Algorithm) -> bytes:
    key = CAPTURING_KEYS[algorithm.name]
    # The builder names the hashes it takes one by one; the table holds no other.
    return builder.sign(key, algorithm.signature_hash).tbs_certificate_bytes  # type: ignore[arg-type]  # see above
