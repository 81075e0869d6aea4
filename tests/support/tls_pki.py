"""A small PKI for TLS tests: a root, an issuing CA, and whatever certificates, CRLs and OCSP responses a test wants.

Made with `cryptography` alone, so that the TLS tests do not stand on the code that issues for real.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkicore.mtls import Credentials

Key = ec.EllipticCurvePrivateKey | mldsa.MLDSA65PrivateKey

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
TRUST_DOMAIN = "pqcpki.test"
CRL_URLS = ("http://one.test/crl", "http://two.test/crl")


def now() -> datetime:
    """The machine's time, in whole seconds: OpenSSL has no other."""
    return datetime.now(UTC).replace(microsecond=0)


def make_key(family: str) -> Key:
    """A fresh key of "mldsa" (65) or "ecdsa" (P-256)."""
    return mldsa.MLDSA65PrivateKey.generate() if family == "mldsa" else ec.generate_private_key(ec.SECP256R1())


def hash_of(key: Key) -> hashes.SHA256 | None:
    """What the builders want besides the key."""
    return hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None


@dataclass
class Authority:
    """A CA that signs what it is told; CRL numbers count up by themselves.

    Attributes:
        name: its common name.
        key: its private key.
        certificate: its certificate.
        number: the number of its newest CRL.
        revoked: the serial numbers on its next CRL.
    """

    name: str
    key: Key
    certificate: x509.Certificate
    number: int = 0
    revoked: set[int] = field(default_factory=set)

    @classmethod
    def make(cls, name: str, family: str, parent: Authority | None = None) -> Authority:
        """A root, or an issuing CA under `parent`."""
        key = make_key(family)
        subject = _name(name)
        signer = key if parent is None else parent.key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if parent is None else parent.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - timedelta(days=400))
            .not_valid_after(now() + timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if parent is not None:
            builder = builder.add_extension(_crl_urls(CRL_URLS[0]), critical=False)
        return cls(name, key, builder.sign(signer, hash_of(signer)))

    def issue(
        self,
        *,
        uri: str | None = None,
        dns: tuple[str, ...] = ("localhost",),
        family: str = "mldsa",
        usages: tuple[x509.ObjectIdentifier, ...] = (CLIENT, SERVER),
        valid: tuple[timedelta, timedelta] = (timedelta(days=-1), timedelta(days=30)),
        extra_uris: tuple[str, ...] = (),
    ) -> Credentials:
        """An end entity with its chain; `valid` is relative to now."""
        key = make_key(family)
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ip_address("127.0.0.1"))] if dns else []
        names += [x509.UniformResourceIdentifier(name) for name in (uri, *extra_uris) if name]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() + valid[0])
            .not_valid_after(now() + valid[1])
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(_crl_urls(CRL_URLS[1]), critical=False)
            .sign(self.key, hash_of(self.key))
        )
        return Credentials((certificate, self.certificate), key)

    def crl(
        self,
        *,
        number: int | None = None,
        at: datetime | None = None,
        life: timedelta = timedelta(hours=1),
        signer: Authority | None = None,
    ) -> bytes:
        """The DER of the next CRL, or of the one with this number; `signer` forges it."""
        self.number = self.number + 1 if number is None else number
        this_update = at or now() - timedelta(minutes=30)
        key = (signer or self).key
        point = x509.IssuingDistributionPoint(
            full_name=[x509.UniformResourceIdentifier(url) for url in CRL_URLS],
            relative_name=None,
            only_contains_user_certs=False,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        )
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(this_update)
            .next_update(this_update + timedelta(minutes=30) + life)
            .add_extension(x509.CRLNumber(self.number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(point, critical=True)
        )
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, hash_of(key)).public_bytes(serialization.Encoding.DER)

    def staple(
        self,
        certificate: x509.Certificate,
        *,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        at: datetime | None = None,
        life: timedelta = timedelta(hours=1),
        signer: Authority | None = None,
    ) -> bytes:
        """The DER of an OCSP response about a certificate; `signer` forges it."""
        this_update = at or now()
        revoked_at = this_update if status is ocsp.OCSPCertStatus.REVOKED else None
        responder = signer or self
        response = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                certificate,
                self.certificate,
                hashes.SHA256(),
                status,
                this_update,
                this_update + life,
                revoked_at,
                x509.ReasonFlags.key_compromise if revoked_at else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.NAME, responder.certificate)
            .sign(responder.key, hash_of(responder.key))
        )
        return response.public_bytes(serialization.Encoding.DER)


@dataclass
class TlsPki:
    """A root, an issuing CA, and the names that the tests use.

    Attributes:
        root: the trust anchor.
        issuing: issues everything else.
        family: of all keys that are not asked for otherwise.
    """

    root: Authority
    issuing: Authority
    family: str = "mldsa"

    @classmethod
    def make(cls, family: str = "mldsa") -> TlsPki:
        """A fresh hierarchy."""
        root = Authority.make("root", family)
        return cls(root, Authority.make("issuing", family, root), family)

    def service(self, name: str) -> Credentials:
        """An identity as our services have it."""
        return self.issuing.issue(uri=spiffe(name), family=self.family)

    @property
    def trust(self) -> tuple[x509.Certificate, ...]:
        """The anchors."""
        return (self.root.certificate,)

    @property
    def issuers(self) -> tuple[x509.Certificate, ...]:
        """Everybody who publishes CRLs."""
        return (self.root.certificate, self.issuing.certificate)


def spiffe(name: str) -> str:
    """The SPIFFE ID of a service of the tests."""
    return f"spiffe://{TRUST_DOMAIN}/service/{name}"


def write_credentials(credentials: Credentials, directory: Path) -> tuple[Path, Path]:
    """PEM files as a service has them: chain and key."""
    chain = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in credentials.chain)
    key = credentials.private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate_file, key_file = directory / "cert.pem", directory / "key.pem"
    certificate_file.write_bytes(chain)
    key_file.touch(mode=0o600)
    key_file.write_bytes(key)
    return certificate_file, key_file


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _crl_urls(url: str) -> x509.CRLDistributionPoints:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return x509.CRLDistributionPoints([point])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
