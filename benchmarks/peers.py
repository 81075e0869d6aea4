"""What the benchmarks of CA, OCSP and CRLs share: a CA for peers, the plain load, and the middle of rounds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.clock import SystemClock
from pkicore.x509.tbs import random_serial

HERE: Final = Path(__file__).parent
START: Final = 20.0  # seconds for a peer to listen
PROCESSOR: Final = "cpu_us"  # microseconds of processor time per request
FIGURES: Final = ("per_second", "p50_ms", "p99_ms", PROCESSOR)


def numbers(text: str) -> list[int]:
    """Those of a list with commas."""
    return [int(part) for part in text.split(",")]


@dataclass(frozen=True)
class PeerCa:
    """A CA of the same algorithm as ours, in files, as peers want it."""

    certificate: Path
    key: Path

    @classmethod
    def create(cls, folder: Path, algorithm: str) -> PeerCa:
        """Self-signed, for a month."""
        key = generate_private_key(ALGORITHMS[algorithm])
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise TypeError(f"peers have no {algorithm}")
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Peer {algorithm}")])
        now = SystemClock().now()
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
        builder = builder.serial_number(random_serial()).add_extension(usage, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
        made = cls(folder / f"peer-{algorithm}.pem", folder / f"peer-{algorithm}.key")
        made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        made.key.touch(mode=0o600)
        made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return made


def pinned(cpus: Sequence[int]) -> list[str]:
    """What a command begins with that has these processors."""
    return ["taskset", "-c", ",".join(str(cpu) for cpu in cpus)] if cpus else []


def drive_plain(config: Mapping[str, Any], prefix: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run the load process of plain HTTP, begun by `prefix`; one result per level.

    Raises:
        SystemExit: it failed; its own words are on standard error.
    """
    command = [*prefix, sys.executable, str(HERE / "ocsp_load.py")]
    done = subprocess.run(command, input=json.dumps(config), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("ocsp_load.py failed")
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_process(level: Mapping[str, Any], process: str) -> dict[str, Any]:
    """A level as the load process tells it, with the processor time of one process only."""
    return {**level, PROCESSOR: level[PROCESSOR][process]}


def median_of(levels: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The middle of several measurements of one level."""
    return {name: statistics.median(level[name] for level in levels) for name in FIGURES}


def median_ratio(more: Sequence[Mapping[str, float]], less: Sequence[Mapping[str, float]]) -> float:
    """How much less processor time the second use than the first, round by round: the machine changes its pace."""
    pairs = zip(more, less, strict=True)
    return statistics.median(peer[PROCESSOR] / own[PROCESSOR] for peer, own in pairs)
