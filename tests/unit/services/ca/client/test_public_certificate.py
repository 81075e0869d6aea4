from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from pkicore.errors import MalformedError
from pkicore.mtls import load_credentials
from pkicore.x509.names import Names
from services.ca.client import CaUnavailableError
from services.ca.client.identity import issue_from
from services.ca.client.public_certificate import PublicCertificate, public_names
from tests.support.acme_server import CaSimulator
from tests.support.clock import ManualClock
from tests.support.pki import make_hierarchy

NAMES = public_names(("localhost",), "https://acme.example")


async def public(tmp_path: Path, names: Names = NAMES) -> tuple[PublicCertificate, CaSimulator, ManualClock]:
    """A public certificate that is not there yet, and the simulated CA it would come from."""
    clock = ManualClock()
    ca = CaSimulator(await make_hierarchy("ecdsa", clock))
    return PublicCertificate(tmp_path / "public", names, issue_from(ca, "acme", "server"), clock), ca, clock


async def test_the_first_start(tmp_path: Path) -> None:
    """A pair is obtained by CSR, kept with a key that only we can read, and used again at the next start."""
    certificate, ca, clock = await public(tmp_path)
    await certificate.ensure()
    files = certificate.files
    held = load_credentials(files.certificate_file, files.key_file)
    assert len(held.chain) == 2
    assert stat.S_IMODE(files.key_file.stat().st_mode) == 0o600
    assert [(name.type, name.value) for name in ca.requests[0].identifiers] == [
        ("dns", "acme.example"),
        ("dns", "localhost"),
    ]
    again = PublicCertificate(tmp_path / "public", NAMES, issue_from(ca, "acme", "server"), clock)
    ca.away = True
    await again.ensure()
    assert len(ca.requests) == 1


async def test_what_is_on_disk_must_fit(tmp_path: Path) -> None:
    """Other names, an expired certificate or a broken file make the server ask for a new one."""
    certificate, ca, clock = await public(tmp_path)
    await certificate.ensure()
    renamed = PublicCertificate(
        tmp_path / "public", public_names((), "https://b.example"), issue_from(ca, "acme", "server"), clock
    )
    await renamed.ensure()
    await renamed.ensure()
    assert len(ca.requests) == 2
    clock.advance(timedelta(days=91))
    await renamed.ensure()
    assert len(ca.requests) == 3
    renamed.files.certificate_file.write_bytes(b"not PEM")
    await renamed.ensure()
    assert len(ca.requests) == 4


async def test_without_the_ca(tmp_path: Path) -> None:
    """Where the CA is away nothing is written."""
    certificate, ca, _ = await public(tmp_path)
    ca.away = True
    with pytest.raises(CaUnavailableError):
        await certificate.ensure()
    assert not certificate.files.certificate_file.exists()


async def test_a_certificate_for_another_key(tmp_path: Path) -> None:
    """An answer for another key is refused and not installed."""
    certificate, ca, clock = await public(tmp_path)
    await certificate.ensure()
    ca.answer_with = ca.issued[0]
    other = PublicCertificate(tmp_path / "other", NAMES, issue_from(ca, "acme", "server"), clock)
    with pytest.raises(MalformedError, match="another key"):
        await other.ensure()
    assert not other.files.key_file.exists()
