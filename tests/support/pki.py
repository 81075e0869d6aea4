"""A whole PKI in memory, made with pkicore itself: a root, an issuing CA, a responder and leaves for one family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pkicore.algorithms import ALGORITHMS, PrivateKey, PublicKey, algorithm_of, generate_private_key, sign_with
from pkicore.clock import Clock
from pkicore.crl import Revocation, build_crl, encode_entry
from pkicore.ocsp import CertId, CertStatus, Responder, build_response
from pkicore.x509.certificate import self_signed_root, sign_certificate, to_pem
from pkicore.x509.lint import lint_tbs
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile, load_profiles
from pkicore.x509.tbs import Issuer, build_tbs, random_serial, validity

PROFILES = load_profiles((Path(__file__).parents[2] / "services/ca/profiles.toml").read_text())
BASE_URL = "http://127.0.0.1:5080"
TRUST_DOMAIN = "pqcpki.internal"
# A deployment's RSA keys are larger, and take seconds to make.
ROOT_ALGORITHM = {"ecdsa": "ecdsa-p384", "mldsa": "ml-dsa-87", "rsa": "rsa-2048"}
ISSUING_ALGORITHM = {"ecdsa": "ecdsa-p256", "mldsa": "ml-dsa-65", "rsa": "rsa-2048"}
ROOT_PROFILE = replace(PROFILES["root"], keys=PROFILES["root"].keys | {"rsa-2048"})


class MemoryKey:
    """A signing key of the test process."""

    def __init__(self, private_key: PrivateKey) -> None:
        self.private_key = private_key
        self.uri = "memory:"
        self.public_key: PublicKey = private_key.public_key()
        self.algorithm = algorithm_of(self.public_key)

    @classmethod
    def generate(cls, algorithm: str) -> MemoryKey:
        """A fresh key of the algorithm of this name."""
        return cls(generate_private_key(ALGORITHMS[algorithm]))

    async def sign(self, message: bytes) -> bytes:
        """An X.509 signature."""
        return sign_with(self.private_key, message)


@dataclass(frozen=True)
class Leaf:
    """An end entity with its key and its chain (leaf first, without the root)."""

    private_key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]

    def write(self, directory: Path) -> tuple[Path, Path]:
        """chain.pem and key.pem below the directory, as a TLS process wants them."""
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(to_pem(self.chain))
        key.touch(mode=0o600)
        key.write_bytes(self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, key


@dataclass(frozen=True)
class Hierarchy:
    """A root and an issuing CA of one family, with their keys."""

    clock: Clock
    root_key: MemoryKey
    root: Issuer
    issuing_key: MemoryKey
    issuing: Issuer

    async def issue(
        self,
        profile: str | Profile,
        *,
        names: Names | None = None,
        key: PrivateKey | None = None,
        common_name: str | None = None,
        not_after: datetime | None = None,
    ) -> Leaf:
        """A leaf as the CA would issue it; its key is of the issuing CA's algorithm unless given."""
        chosen = PROFILES[profile] if isinstance(profile, str) else profile
        private_key = key or generate_private_key(self.issuing_key.algorithm)
        not_before, end = validity(chosen, self.issuing, self.clock.now(), not_after)
        tbs = build_tbs(
            chosen,
            self.issuing,
            serial=random_serial(),
            not_before=not_before,
            not_after=end,
            public_key=private_key.public_key(),
            common_name=common_name,
            names=names or Names(),
        )
        lint_tbs(tbs, chosen, self.issuing)
        certificate = await sign_certificate(tbs, self.issuing_key, self.issuing.certificate)
        return Leaf(private_key, certificate, (certificate, *self.issuing.chain))

    async def service(self, name: str, *, dns: Iterable[str] = ("localhost",), ip: Iterable[str] = ()) -> Leaf:
        """A leaf of the profile `service` with the SPIFFE ID of the service of this name."""
        uri = f"spiffe://{TRUST_DOMAIN}/service/{name}"
        return await self.issue("service", names=Names.build(uri=[uri], dns=dns, ip=ip))

    async def server(self, *dns: str) -> Leaf:
        """A leaf of the profile `server`."""
        return await self.issue("server", names=Names.build(dns=dns))

    async def responder(self) -> Responder:
        """A delegated OCSP responder with a fresh key."""
        leaf = await self.issue("ocsp-responder", common_name=f"OCSP {self.issuing.id}")
        return Responder(leaf.certificate, MemoryKey(leaf.private_key), self.issuing.certificate)

    async def staple(self, certificate: x509.Certificate, status: CertStatus | None = None) -> bytes:
        """An OCSP answer about a leaf, good unless said otherwise, for an hour from now."""
        cert_id = CertId.of(self.issuing.certificate, certificate.serial_number)
        now = self.clock.now()
        return await build_response(
            await self.responder(),
            [(cert_id, status or CertStatus.good())],
            this_update=now,
            next_update=now + timedelta(hours=1),
            nonce=None,
        )

    async def crl(self, serials: Sequence[int] = (), *, number: int = 1) -> bytes:
        """The issuing CA's list, for an hour from now, every serial revoked for keyCompromise."""
        return await self._crl(self.issuing, self.issuing_key, serials, number)

    async def root_crl(self, serials: Sequence[int] = (), *, number: int = 1) -> bytes:
        """The root's list, likewise; without an issuing distribution point, so that it covers the root itself."""
        return await self._crl(self.root, self.root_key, serials, number)

    async def _crl(self, issuer: Issuer, key: MemoryKey, serials: Sequence[int], number: int) -> bytes:
        now = self.clock.now()
        return await build_crl(
            issuer.certificate,
            key,
            [encode_entry(Revocation(serial, now, "keyCompromise")) for serial in serials],
            number=number,
            this_update=now,
            next_update=now + timedelta(hours=1),
            distribution_points=[issuer.crl_url] if issuer is self.issuing else [],
            scope="user" if issuer is self.issuing else None,
        )


async def make_root(
    family: str, clock: Clock, *, number: int = 1, base_url: str = BASE_URL
) -> tuple[MemoryKey, Issuer]:
    """A fresh root of the family; from the second on it has its number, as those of a deployment have."""
    key, end = MemoryKey.generate(ROOT_ALGORITHM[family]), "" if number == 1 else f"-{number}"
    name = f"Test root {family}{end.replace('-', ' ')}"
    certificate = await self_signed_root(ROOT_PROFILE, key, common_name=name, now=clock.now())
    return key, _issuer(f"root-{family}{end}", family, certificate, (), certificate, base_url)


async def make_hierarchy(family: str, clock: Clock, *, base_url: str = BASE_URL) -> Hierarchy:
    """A fresh PKI of the family: ecdsa, rsa or mldsa."""
    now = clock.now()
    root_key, root = await make_root(family, clock, base_url=base_url)
    root_certificate = root.certificate
    issuing_key = MemoryKey.generate(ISSUING_ALGORITHM[family])
    profile = PROFILES["issuing-ca"]
    not_before, not_after = validity(profile, root, now)
    tbs = build_tbs(
        profile,
        root,
        serial=random_serial(),
        not_before=not_before,
        not_after=not_after,
        public_key=issuing_key.public_key,
        common_name=f"Test issuing {family}",
        names=Names(),
    )
    lint_tbs(tbs, profile, root)
    certificate = await sign_certificate(tbs, root_key, root_certificate)
    issuing = _issuer(f"issuing-{family}", family, certificate, (certificate,), root_certificate, base_url)
    return Hierarchy(clock, root_key, root, issuing_key, issuing)


def _issuer(
    name: str,
    family: str,
    certificate: x509.Certificate,
    chain: tuple[x509.Certificate, ...],
    root: x509.Certificate,
    base_url: str,
) -> Issuer:
    return Issuer(
        id=name,
        family=family,
        certificate=certificate,
        chain=chain,
        root=root,
        crl_url=f"{base_url}/crl/{name}",
        ocsp_url=f"{base_url}/ocsp" if chain else None,
        aia_url=f"{base_url}/aia/{name}",
    )


def make_csr(
    private_key: PrivateKey,
    *,
    common_name: str | None = None,
    names: Names | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """A signed request in DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names is not None and not names.is_empty:
        builder = builder.add_extension(x509.SubjectAlternativeName(names.general_names()), critical=False)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    algorithm = algorithm_of(private_key.public_key())
    digest = hashes.SHA256() if algorithm.signature_hash is not None else None
    return builder.sign(private_key, digest).public_bytes(Encoding.DER)
