"""What the client keeps, and who may read it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pkicore.errors import KeyPermissionError
from services.acme.acme_client.errors import RequestInputError
from services.acme.acme_client.folder import Folder, Request


def certificate(key: ed25519.Ed25519PrivateKey, serial: int) -> x509.Certificate:
    """A certificate with this serial."""
    name, start = x509.Name([]), datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, start, datetime(2027, 1, 1, tzinfo=UTC))
    return builder.sign(key, None)


def test_an_account_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """The second time the same key is read, whatever type is named."""
    folder = Folder(tmp_path / "new")
    made = folder.account_key("ml-dsa-65")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new/account.pem").stat().st_mode & 0o777 == 0o600
    assert folder.account_key("ecdsa-p256").public_key() == made.public_key()


def test_an_account_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    """Mode 0644 is refused."""
    folder = Folder(tmp_path)
    folder.account_key("ecdsa-p256")
    (tmp_path / "account.pem").chmod(0o644)
    with pytest.raises(KeyPermissionError, match="chmod 600"):
        folder.account_key("ecdsa-p256")


def test_a_folder_in_which_nothing_was_asked_for(tmp_path: Path) -> None:
    """`renew` says what to do first, and makes nothing."""
    for asked in (Folder(tmp_path).account_key, Folder(tmp_path).request):
        with pytest.raises(RequestInputError, match="run ztca acme request first"):
            asked()
    assert list(tmp_path.iterdir()) == []


def test_what_was_asked_for_is_remembered(tmp_path: Path) -> None:
    """It is read as it was written; a file with other members is refused."""
    folder, wanted = (
        Folder(tmp_path),
        Request("https://ca.test/d", ["a.test"], ["ml-dsa-65"], profile="p", webroot="/w"),
    )
    folder.remember(wanted)
    assert folder.request() == wanted
    (tmp_path / "request.json").write_text(json.dumps({"server": "x"}))
    with pytest.raises(RequestInputError, match="is not what ztca acme request writes"):
        folder.request()


def test_key_and_certificate_change_together(tmp_path: Path) -> None:
    """After each installation the name leads to a pair that belongs together; the former one is kept."""
    folder = Folder(tmp_path)
    for serial in (0xA1, 0xA2):
        key = ed25519.Ed25519PrivateKey.generate()
        folder.install("ed25519", key, [certificate(key, serial)])
        found = folder.current("ed25519")
        stored = load_pem_private_key((tmp_path / "ed25519/key.pem").read_bytes(), None)
        assert found is not None
        assert (found.serial_number, found.public_key()) == (serial, stored.public_key())
        assert (tmp_path / "ed25519/key.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["ed25519-a1", "ed25519-a2"]
    assert folder.current("rsa-3072") is None
    (tmp_path / "ed25519/cert.pem").write_text("")
    with pytest.raises(RequestInputError, match=r"cert\.pem holds no certificate"):
        folder.current("ed25519")
