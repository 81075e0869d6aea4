from __future__ import annotations

import pytest

from services.ca.cli.pqc_report import Finding, Report, is_classical


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
