from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, generate_private_key
from services.ca.cli.pqc_report import Finding, Report, is_classical, look_at_published
from services.chassis.cli.deployed import Deployed


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "rsa-3072", "ed25519", "id-ecPublicKey", "rsaEncryption", "", "x"])
def test_what_is_not_known_to_stand_is_classical(algorithm: str) -> None:
    """Classical algorithms, and whatever the table does not have, count as classical."""
    assert is_classical(algorithm)


@pytest.mark.parametrize("algorithm", ["ml-dsa-44", "ml-dsa-65", "ML-DSA-87"])
def test_ml_dsa_is_not_classical(algorithm: str) -> None:
    """ML-DSA counts as post-quantum, as our table and as certificates spell it."""
    assert not is_classical(algorithm)


def test_a_report_counts_what_is_classical_in_every_area() -> None:
    """Of certificates and accounts each one counts, and what could not be asked stays visible."""
    report = Report(
        issuers=[Finding("root", "ecdsa-p384", classical=True), Finding("other", "ml-dsa-87", classical=False)],
        certificates=[Finding("profile server", "ecdsa-p256", classical=True, count=40)],
        accounts=[Finding("ACME accounts", "ml-dsa-65", classical=False, count=9)],
        not_asked={"keys": "no answer"},
    )
    assert report.classical == 41
    found = report.to_json()
    assert found["classical"] == 41
    assert found["accounts"][0]["count"] == 9
    assert found["not_asked"] == {"keys": "no answer"}


def publish(path: Path, algorithm: str) -> None:
    """A public key in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = generate_private_key(ALGORITHMS[algorithm]).public_key()
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


async def test_keys_in_files_are_seen_by_their_public_halves(tmp_path: Path) -> None:
    """Audit keys and the CT log's count; one at signer-hsm was counted there; one that is not there is told of."""
    publish(tmp_path / "trust/audit/ca.pem", "ed25519")
    publish(tmp_path / "trust/audit/acme.pem", "ml-dsa-65")
    publish(tmp_path / "trust/ct-log.pem", "ecdsa-p256")
    report, deployed = Report(), Deployed(tmp_path, {}, {}, {})
    await look_at_published(deployed, report)
    seen = [(key.what, key.algorithm, key.classical) for key in report.keys]
    audit = [("audit checkpoints of acme", "ml-dsa-65", False), ("audit checkpoints of ca", "ed25519", True)]
    assert seen == [*audit, ("CT log", "ecdsa-p256", True)]
    (tmp_path / "config").mkdir()
    for service in ("ca", "acme", "signing"):
        (tmp_path / f"config/{service}.toml").write_text('ct_log_key = "signer-hsm:ca.ct-log/1"')
    report = Report()
    with pytest.raises(ValueError, match="no key of signing"):
        await look_at_published(deployed, report)
    assert [(key.what, key.algorithm, key.classical) for key in report.keys] == audit
