from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from pkicore.encoding import base64url_decode, base64url_encode
from pkicore.errors import KeyPermissionError
from services.acme.external_accounts.administration import fit_for_options
from services.acme.external_accounts.secret import EabSecret
from services.chassis.errors import SettingsError


def _hkdf(secret: bytes, info: bytes, octets: int) -> bytes:
    """RFC 5869 with SHA-256 and no salt, written out."""
    prk = hmac.digest(bytes(hashlib.sha256().digest_size), secret, "sha256")
    block, made = b"", b""
    for counter in range(1, 256):
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        made += block
        if len(made) >= octets:
            break
    return made[:octets]


def test_the_secret_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    """The first use makes the file, for its owner alone; whoever comes later has the same keys."""
    path = tmp_path / "eab-secret"
    first = EabSecret(path)
    assert not path.exists()
    key = first.mac_key("eab-1")
    assert path.stat().st_mode & 0o777 == 0o600
    assert EabSecret(path).mac_key("eab-1") == key
    secret = base64url_decode(path.read_text().strip())
    assert key == _hkdf(secret, b"pqcpki acme external account mac\0eab-1", 64)


def test_each_identifier_has_a_key_and_a_check_of_its_own(tmp_path: Path) -> None:
    """A MAC key tells nothing of another one, nor does the check value that is stored."""
    secret = EabSecret(tmp_path / "eab-secret")
    assert secret.mac_key("eab-1") != secret.mac_key("eab-2")
    assert secret.is_of("eab-1", secret.check("eab-1"))
    assert not secret.is_of("eab-1", secret.check("eab-2"))
    assert not EabSecret(tmp_path / "another").is_of("eab-1", secret.check("eab-1"))
    assert base64url_decode(secret.check("eab-1")) not in secret.mac_key("eab-1")


def test_a_secret_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    """As of every file with a secret."""
    path = tmp_path / "eab-secret"
    EabSecret(path).mac_key("eab-1")
    path.chmod(0o644)
    with pytest.raises(KeyPermissionError):
        EabSecret(path).mac_key("eab-1")


@pytest.mark.parametrize("content", ["c2hvcnQ\n", "A" * 86 + "\n"])
def test_a_file_that_holds_another_secret_is_refused(tmp_path: Path, content: str) -> None:
    """Nothing is derived from half a secret."""
    path = tmp_path / "eab-secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="32 octets"):
        EabSecret(path).check("eab-1")


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """No secret is kept in memory alone: it would be gone with the process, and every key with it."""
    with pytest.raises(SettingsError, match="secret of external accounts"):
        EabSecret(tmp_path / "missing" / "eab-secret").check("eab-1")


def test_a_mac_key_can_stand_behind_an_option(tmp_path: Path) -> None:
    """A key that begins with a hyphen, which a command line would take for another option, is passed over."""
    secret = EabSecret(tmp_path / "eab-secret")
    begins = {kid: base64url_encode(secret.mac_key(kid))[0] for kid in (f"eab-{number}" for number in range(2000))}
    hyphens = [kid for kid, first in begins.items() if first == "-"]
    fit = next(kid for kid, first in begins.items() if first != "-")
    assert hyphens
    assert fit_for_options(secret, [*hyphens, fit]) == (fit, base64url_encode(secret.mac_key(fit)))
