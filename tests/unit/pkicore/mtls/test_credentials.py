"""Chains and keys from files, and what happens when the files change."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkicore.errors import BadKeyError, KeyNotFoundError, KeyPermissionError, MalformedError, PkiError
from pkicore.mtls.credentials import Credentials, CredentialsSource, load_credentials
from tests.support.tls_pki import TlsPki, make_key, write_credentials

PKI = TlsPki.make("ecdsa")


@pytest.mark.parametrize("family", ["ecdsa", "mldsa"])
def test_a_chain_and_its_key_are_read_back(tmp_path: Path, family: str) -> None:
    """PEM in the order leaf, issuer; the key of either family."""
    written = PKI.issuing.issue(uri="spiffe://pqcpki.test/service/ca", family=family)
    read = load_credentials(*write_credentials(written, tmp_path))
    assert read.chain == written.chain
    assert read.private_key.public_key() == written.certificate.public_key()


def test_a_key_that_is_not_the_certificates_is_refused() -> None:
    """Half a rotation must not be served."""
    with pytest.raises(BadKeyError):
        Credentials(PKI.service("ca").chain, make_key("ecdsa"))
    with pytest.raises(MalformedError):
        Credentials((), make_key("ecdsa"))


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The mode must be 0600 or tighter."""
    files = write_credentials(PKI.service("ca"), tmp_path)
    files[1].chmod(0o640)
    with pytest.raises(KeyPermissionError, match="0600"):
        load_credentials(*files)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    """The error says which file it is."""
    certificate_file, key_file = write_credentials(PKI.service("ca"), tmp_path)
    with pytest.raises(KeyNotFoundError, match="nowhere"):
        load_credentials(tmp_path / "nowhere", key_file)
    with pytest.raises(KeyNotFoundError, match="nowhere"):
        load_credentials(certificate_file, tmp_path / "nowhere")
    key_file.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(MalformedError, match=r"key\.pem"):
        load_credentials(certificate_file, key_file)
    certificate_file.write_bytes(b"x" * (256 * 1024 + 1))
    with pytest.raises(MalformedError, match="larger"):
        load_credentials(certificate_file, key_file)


def test_new_files_become_current_and_are_told(tmp_path: Path) -> None:
    """Subscribers hear of each new pair once; files that have not changed are not read."""
    first = PKI.service("ca")
    source = CredentialsSource(*write_credentials(first, tmp_path), on_error=_fail)
    told: list[Credentials] = []
    source.subscribe(told.append)
    source.reload()
    assert source.current().chain == first.chain
    second = PKI.service("ca")
    write_credentials(second, tmp_path)
    source.reload()
    source.reload()
    assert source.current().chain == second.chain
    assert [credentials.chain for credentials in told] == [second.chain]


def test_files_that_cannot_be_used_are_reported_and_the_old_pair_stays(tmp_path: Path) -> None:
    """A half-written pair is an error to report, and is taken once it is whole."""
    first, second = PKI.service("ca"), PKI.service("ca")
    files = write_credentials(first, tmp_path)
    errors: list[PkiError] = []
    source = CredentialsSource(*files, on_error=errors.append)
    key = files[1].read_bytes()
    write_credentials(second, tmp_path)
    new_key = files[1].read_bytes()
    files[1].write_bytes(key)
    source.reload()
    assert source.current().chain == first.chain
    assert isinstance(errors[0], BadKeyError)
    files[1].unlink()
    source.reload()
    assert isinstance(errors[1], KeyNotFoundError)
    files[1].touch(mode=0o600)
    files[1].write_bytes(new_key)
    source.reload()
    assert source.current().chain == second.chain


def _fail(error: PkiError) -> None:
    raise error
