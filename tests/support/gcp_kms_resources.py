"""SIMULATOR (not Google's code): the resources of Cloud KMS and the rules about them, no network.

Written from the descriptions of the messages in google.cloud.kms.v1. Not like the real service: quotas, organisation
policies, eventual consistency, import, encryption keys, the wording of errors.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import google_crc32c
import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.cloud import kms_v1

from pkicore.clock import Clock
from tests.support.tls_pki import Authority

Code = grpc.StatusCode
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
Level = kms_v1.ProtectionLevel
Format = kms_v1.PublicKey.PublicKeyFormat
MlDsaKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | MlDsaKey

ID = re.compile(r"[a-zA-Z0-9_-]{1,63}")
LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
MAX_DATA = 64 * 1024
MAX_PAGE = 1000
DAY = timedelta(days=1)
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}

MAKERS: dict[str, Callable[[], SigningKey]] = {
    "EC_SIGN_P256_SHA256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC_SIGN_P384_SHA384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EC_SIGN_ED25519": ed25519.Ed25519PrivateKey.generate,
    **{
        f"RSA_SIGN_{pad}_{bits}_SHA{size}": lambda bits=bits: rsa.generate_private_key(65537, bits)  # type: ignore[misc]  # a lambda's default has no type
        for pad in ("PKCS1", "PSS")
        for bits, size in ((2048, 256), (3072, 256), (4096, 256), (4096, 512))
    },
    **{
        f"PQ_SIGN_ML_DSA_{level}{suffix}": maker.generate
        for level, maker in (
            (44, mldsa.MLDSA44PrivateKey),
            (65, mldsa.MLDSA65PrivateKey),
            (87, mldsa.MLDSA87PrivateKey),
        )
        for suffix in ("", "_EXTERNAL_MU")
    },
}


class RefusalError(Exception):
    """What the service says no with."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def require(condition: object, message: str, code: grpc.StatusCode = Code.INVALID_ARGUMENT) -> None:
    """Refuse unless the condition holds."""
    if not condition:
        raise RefusalError(code, message)


@dataclass
class Version:
    """A key version and its key; `pending_reads` times it is seen as not generated yet."""

    message: kms_v1.CryptoKeyVersion
    key: SigningKey | None
    pending_reads: int = 0


@dataclass
class Key:
    """A crypto key and its versions by number."""

    message: kms_v1.CryptoKey
    versions: dict[int, Version] = field(default_factory=dict)


@dataclass
class Resources:
    """One project and location.

    Attributes:
        clock: makes scheduled destructions happen.
        location: its resource name.
        hsm_algorithms: what can be made at the level HSM here.
        pending_reads: how often the next versions are seen as PENDING_GENERATION.
        generation_fails: whether the next versions end as GENERATION_FAILED.
    """

    clock: Clock
    location: str
    hsm_algorithms: frozenset[str] = frozenset(name for name in MAKERS if not name.startswith("PQ_"))
    pending_reads: int = 0
    generation_fails: bool = False
    rings: dict[str, dict[str, Key]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._attestor = Authority.make("Simulated HSM maker", "ecdsa")

    def make_ring(self, request: kms_v1.CreateKeyRingRequest) -> kms_v1.KeyRing:
        """CreateKeyRing."""
        require(request.parent == self.location, "no such location", Code.NOT_FOUND)
        require(ID.fullmatch(request.key_ring_id), "key_ring_id")
        name = f"{self.location}/keyRings/{request.key_ring_id}"
        require(name not in self.rings, f"KeyRing {name} already exists.", Code.ALREADY_EXISTS)
        self.rings[name] = {}
        return kms_v1.KeyRing(name=name, create_time=self.clock.now())

    def list_rings(self, request: kms_v1.ListKeyRingsRequest) -> kms_v1.ListKeyRingsResponse:
        """ListKeyRings."""
        require(request.parent == self.location, "no such location", Code.NOT_FOUND)
        names, token = page(sorted(self.rings), request.page_size, request.page_token)
        rings = [kms_v1.KeyRing(name=name) for name in names]
        return kms_v1.ListKeyRingsResponse(key_rings=rings, next_page_token=token, total_size=len(self.rings))

    def make_key(self, request: kms_v1.CreateCryptoKeyRequest) -> kms_v1.CryptoKey:
        """CreateCryptoKey."""
        require(request.parent in self.rings, f"KeyRing {request.parent} not found.", Code.NOT_FOUND)
        require(ID.fullmatch(request.crypto_key_id), "crypto_key_id")
        name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
        keys = self.rings[request.parent]
        require(name not in keys, f"CryptoKey {name} already exists.", Code.ALREADY_EXISTS)
        self._check_key(request.crypto_key)
        message = kms_v1.CryptoKey(request.crypto_key)
        message.name, message.create_time = name, self.clock.now()
        if message.version_template.protection_level == Level.PROTECTION_LEVEL_UNSPECIFIED:
            message.version_template.protection_level = Level.SOFTWARE
        keys[name] = Key(message)
        if not request.skip_initial_version_creation:
            self.make_version(kms_v1.CreateCryptoKeyVersionRequest(parent=name))
        return message

    def _check_key(self, key: kms_v1.CryptoKey) -> None:
        signing = kms_v1.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN
        require(key.purpose == signing, "the simulator has signing keys only")
        require(not key.rotation_period and not key.next_rotation_time, "rotation is for encryption keys")
        require(len(key.labels) <= 64, "too many labels")
        for name, value in key.labels.items():
            require(LABEL_KEY.fullmatch(name) and LABEL_VALUE.fullmatch(value), f"label {name}")
        if "destroy_scheduled_duration" in key:
            require(DAY <= key.destroy_scheduled_duration <= 120 * DAY, "destroy_scheduled_duration")
        template = key.version_template
        require(template.algorithm.name in MAKERS, "version_template.algorithm")
        require(template.protection_level in {0, Level.SOFTWARE, Level.HSM}, "version_template.protection_level")
        available = template.protection_level != Level.HSM or template.algorithm.name in self.hsm_algorithms
        require(available, f"{template.algorithm.name} is not supported at the protection level HSM in this location.")

    def key(self, name: str) -> Key:
        """A crypto key."""
        found = self.rings.get(name.partition("/cryptoKeys/")[0], {}).get(name)
        if found is None:
            raise RefusalError(Code.NOT_FOUND, f"CryptoKey {name} not found.")
        return found

    def version(self, name: str) -> Version:
        """A key version in the state that it has by now."""
        key_name, _, number = name.partition("/cryptoKeyVersions/")
        require(number.isascii() and number.isdigit(), "name")
        found = self.key(key_name).versions.get(int(number))
        if found is None:
            raise RefusalError(Code.NOT_FOUND, f"CryptoKeyVersion {name} not found.")
        self._settle(found)
        return found

    def _settle(self, version: Version) -> None:
        message = version.message
        if message.state == State.DESTROY_SCHEDULED and message.destroy_time <= self.clock.now():
            message.state, message.destroy_event_time, version.key = State.DESTROYED, message.destroy_time, None
            message.destroy_time = None
        if message.state == State.PENDING_GENERATION:
            if version.pending_reads > 0:
                version.pending_reads -= 1
                return
            message.state = State.GENERATION_FAILED if self.generation_fails else State.ENABLED
            message.generate_time = self.clock.now()

    def make_version(self, request: kms_v1.CreateCryptoKeyVersionRequest) -> kms_v1.CryptoKeyVersion:
        """CreateCryptoKeyVersion."""
        key = self.key(request.parent)
        require(request.crypto_key_version.state in {0, State.ENABLED}, "crypto_key_version.state")
        number = max(key.versions, default=0) + 1
        template = key.message.version_template
        message = kms_v1.CryptoKeyVersion(
            name=f"{request.parent}/cryptoKeyVersions/{number}",
            state=State.PENDING_GENERATION,
            algorithm=template.algorithm,
            protection_level=template.protection_level,
            create_time=self.clock.now(),
        )
        if template.protection_level == Level.HSM:
            message.attestation = self._attestation(message.name)
        version = Version(message, MAKERS[template.algorithm.name](), self.pending_reads)
        key.versions[number] = version
        self._settle(version)
        return message

    def _attestation(self, name: str) -> kms_v1.KeyOperationAttestation:
        chains = kms_v1.KeyOperationAttestation.CertificateChains
        pem = self._attestor.certificate.public_bytes(Encoding.PEM).decode()
        return kms_v1.KeyOperationAttestation(
            format=kms_v1.KeyOperationAttestation.AttestationFormat.CAVIUM_V2_COMPRESSED,
            content=gzip.compress(b"made up by the simulator for " + name.encode()),
            cert_chains=chains(cavium_certs=[pem, pem], google_card_certs=[pem], google_partition_certs=[pem]),
        )

    def list_versions(self, request: kms_v1.ListCryptoKeyVersionsRequest) -> kms_v1.ListCryptoKeyVersionsResponse:
        """ListCryptoKeyVersions; in the order of their names, which are text; the attestation only in the FULL view."""
        key = self.key(request.parent)
        by_name = {str(number): version for number, version in key.versions.items()}
        names, token = page(sorted(by_name), request.page_size, request.page_token)
        found = [kms_v1.CryptoKeyVersion(by_name[name].message) for name in names]
        if request.view != kms_v1.CryptoKeyVersion.CryptoKeyVersionView.FULL:
            for message in found:
                del message.attestation
        return kms_v1.ListCryptoKeyVersionsResponse(
            crypto_key_versions=found, next_page_token=token, total_size=len(by_name)
        )

    def update_version(self, request: kms_v1.UpdateCryptoKeyVersionRequest) -> kms_v1.CryptoKeyVersion:
        """UpdateCryptoKeyVersion: from ENABLED to DISABLED and back, nothing else."""
        version = self.version(request.crypto_key_version.name)
        require(list(request.update_mask.paths) == ["state"], "update_mask")
        wanted = request.crypto_key_version.state
        require(wanted in {State.ENABLED, State.DISABLED}, "crypto_key_version.state")
        self._require_state(version, State.ENABLED, State.DISABLED)
        version.message.state = wanted
        return version.message

    def destroy_version(self, request: kms_v1.DestroyCryptoKeyVersionRequest) -> kms_v1.CryptoKeyVersion:
        """DestroyCryptoKeyVersion: from ENABLED or DISABLED."""
        version = self.version(request.name)
        self._require_state(version, State.ENABLED, State.DISABLED)
        key = self.key(request.name.partition("/cryptoKeyVersions/")[0]).message
        wait = key.destroy_scheduled_duration if "destroy_scheduled_duration" in key else 30 * DAY
        version.message.state = State.DESTROY_SCHEDULED
        version.message.destroy_time = self.clock.now() + wait
        return version.message

    def restore_version(self, request: kms_v1.RestoreCryptoKeyVersionRequest) -> kms_v1.CryptoKeyVersion:
        """RestoreCryptoKeyVersion: from DESTROY_SCHEDULED to DISABLED."""
        version = self.version(request.name)
        self._require_state(version, State.DESTROY_SCHEDULED)
        version.message.state = State.DISABLED
        version.message.destroy_time = None
        return version.message

    @staticmethod
    def _require_state(version: Version, *states: int) -> None:
        state = version.message.state
        text = f"{version.message.name} is not enabled, current state is: {state.name}."
        require(state in states, text, Code.FAILED_PRECONDITION)

    def public_key(self, request: kms_v1.GetPublicKeyRequest) -> kms_v1.PublicKey:
        """GetPublicKey: of an enabled version; PQC in a format that is named."""
        version = self.version(request.name)
        self._require_state(version, State.ENABLED)
        assert version.key is not None
        public, message = version.key.public_key(), version.message
        answer = kms_v1.PublicKey(
            name=message.name, algorithm=message.algorithm, protection_level=message.protection_level
        )
        if request.public_key_format == kms_v1.PublicKey.PublicKeyFormat.PUBLIC_KEY_FORMAT_UNSPECIFIED:
            require(not message.algorithm.name.startswith("PQ_"), "public_key_format is required for PQC algorithms")
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            answer.pem, answer.pem_crc32c = pem.decode(), google_crc32c.value(pem)
            return answer
        require(request.public_key_format == Format.NIST_PQC, "the simulator has NIST_PQC only")
        require(message.algorithm.name.startswith("PQ_"), "NIST_PQC is for PQC algorithms")
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        answer.public_key_format = request.public_key_format
        answer.public_key = kms_v1.ChecksummedData(data=raw, crc32c_checksum=google_crc32c.value(raw))
        return answer

    def sign(self, request: kms_v1.AsymmetricSignRequest) -> kms_v1.AsymmetricSignResponse:
        """AsymmetricSign: digest or data as the algorithm wants it, and never one whose checksum is wrong."""
        version = self.version(request.name)
        self._require_state(version, State.ENABLED)
        kind, payload = payload_of(request, version.message.algorithm.name)
        is_data = kind == "data"
        checksum = request.data_crc32c if is_data else request.digest_crc32c
        require(checksum in {None, google_crc32c.value(payload)}, "The checksum did not match the data.")
        assert version.key is not None
        signature = signature_of(version.key, version.message.algorithm.name, kind, payload)
        return kms_v1.AsymmetricSignResponse(
            name=version.message.name,
            signature=signature,
            signature_crc32c=google_crc32c.value(signature),
            verified_digest_crc32c=not is_data and checksum is not None,
            verified_data_crc32c=is_data and checksum is not None,
            protection_level=version.message.protection_level,
        )


def page(names: list[str], size: int, token: str) -> tuple[list[str], str]:
    """One page of the names and the token of the next."""
    require(size >= 0, "page_size")
    try:
        start = int(base64.b64decode(token, validate=True)) if token else 0
    except (binascii.Error, ValueError) as error:
        raise RefusalError(Code.INVALID_ARGUMENT, "page_token") from error
    require(0 <= start <= len(names), "page_token")
    end = start + min(size or 100, MAX_PAGE)
    return names[start:end], base64.b64encode(str(end).encode()).decode() if end < len(names) else ""


def payload_of(request: kms_v1.AsymmetricSignRequest, algorithm: str) -> tuple[str, bytes]:
    """Which field holds the payload; refused when it is not the one that the algorithm wants."""
    digest_field = kms_v1.Digest.pb(request.digest).WhichOneof("digest")
    require(not (digest_field and request.data), "digest and data are mutually exclusive")
    if algorithm.endswith("_EXTERNAL_MU"):
        wanted, length = "external_mu", 64
    elif algorithm == "EC_SIGN_ED25519" or algorithm.startswith("PQ_"):
        require(digest_field is None, f"{algorithm} takes data")
        require(len(request.data) <= MAX_DATA, "data is too long")
        return "data", request.data
    else:
        size = algorithm.rpartition("_SHA")[2]
        wanted, length = f"sha{size}", int(size) // 8
    require(digest_field == wanted, f"{algorithm} takes digest.{wanted}")
    payload: bytes = getattr(request.digest, wanted)
    require(len(payload) == length, f"digest.{wanted} has {len(payload)} bytes")
    return wanted, payload


def signature_of(key: SigningKey, algorithm: str, kind: str, payload: bytes) -> bytes:
    """The signature; PSS with a salt of the digest's length."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(payload, ec.ECDSA(Prehashed(HASHES[kind])))
    if isinstance(key, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(HASHES[kind]), padding.PSS.DIGEST_LENGTH)
        return key.sign(payload, pss if "_PSS_" in algorithm else padding.PKCS1v15(), Prehashed(HASHES[kind]))
    if kind == "external_mu":
        assert not isinstance(key, ed25519.Ed25519PrivateKey)
        return key.sign_mu(payload)
    return key.sign(payload)
