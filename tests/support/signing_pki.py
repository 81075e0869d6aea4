"""Certificates of signers and time-stamping authorities, with any extension a test wants, by cryptography's builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key
from pkicore.x509.certificate import to_pem

TIME_STAMPING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
EMAIL_PROTECTION = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
Extensions = Sequence[tuple[x509.ExtensionType, bool]]


@dataclass(frozen=True)
class Holder:
    """A key with its certificate."""

    private_key: PrivateKey
    certificate: x509.Certificate

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """NAME.pem and NAME.key below the directory, as openssl wants them."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(to_pem([self.certificate]))
        key.touch(mode=0o600)
        key.write_bytes(self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key


@dataclass(frozen=True)
class SigningPki:
    """A root that issues whatever is asked, valid from an hour before `now` to 30 days after it."""

    root: Holder
    now: datetime

    @classmethod
    def make(cls, algorithm: str, now: datetime) -> SigningPki:
        """A fresh root with a key of the algorithm of this name."""
        key = generate_private_key(ALGORITHMS[algorithm])
        extensions: Extensions = [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (_key_usage(ca=True), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        ]
        return cls(Holder(key, _certificate(f"Root {algorithm}", key, key, None, now, extensions)), now)

    def issue(
        self, algorithm: str, usage: x509.ExtendedKeyUsage | None, *, critical: bool = True, extra: Extensions = ()
    ) -> Holder:
        """A leaf with a fresh key, for digital signatures and this extended usage."""
        key = generate_private_key(ALGORITHMS[algorithm])
        return self.certify(key, usage, critical=critical, extra=extra)

    def certify(
        self, key: PrivateKey, usage: x509.ExtendedKeyUsage | None, *, critical: bool = True, extra: Extensions = ()
    ) -> Holder:
        """A leaf for a key that is there already."""
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root.private_key.public_key())
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (authority, False),
            *extra,
        ]
        if not any(isinstance(value, x509.KeyUsage) for value, _ in extra):
            extensions.append((_key_usage(ca=False), True))
        if usage is not None:
            extensions.append((usage, critical))
        return Holder(
            key, _certificate("Signer", key, self.root.private_key, self.root.certificate, self.now, extensions)
        )

    def write_root(self, directory: Path) -> Path:
        """root.pem below the directory."""
        path = directory / "root.pem"
        path.write_bytes(to_pem([self.root.certificate]))
        return path


def _certificate(
    common_name: str,
    key: PrivateKey,
    issuer_key: PrivateKey,
    issuer: x509.Certificate | None,
    now: datetime,
    extensions: Extensions,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    digest = algorithm_of(issuer_key.public_key()).signature_hash
    return builder.sign(issuer_key, cast("None", digest))  # each of the table's hashes is one that the builder takes


def key_usage(*, digital_signature: bool) -> x509.KeyUsage:
    """Usage of a leaf, for signatures or for nothing that is of use here."""
    return _key_usage(ca=False, digital_signature=digital_signature)


def _key_usage(*, ca: bool, digital_signature: bool | None = None) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca if digital_signature is None else digital_signature,
        content_commitment=False,
        key_encipherment=digital_signature is False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
