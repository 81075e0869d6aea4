from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from pkicore.errors import BadCertificateError
from pkicore.identity import SpiffeId, spiffe_id_of
from pkicore.mtls import load_credentials
from pkicore.ocsp import verify_response
from pkicore.x509.chain import verify_chain
from services.ca.bootstrap import LIFE, BootstrapPki, make_bootstrap_pki
from services.ca.deployment import packaged_profiles
from services.ca.layout import SIGNER, Layout
from tests.support.clock import ManualClock

CALLER = SpiffeId("td.internal", "/operator/ceremony")


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Where slow signatures are made."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def made(pool: Executor, clock: ManualClock) -> BootstrapPki:
    """A throw-away PKI."""
    return await make_bootstrap_pki(CALLER, clock, pool, packaged_profiles())


async def test_both_sides_have_an_identity_for_an_hour(pool: Executor) -> None:
    """Signer and caller have the SPIFFE IDs that each expects of the other, for no longer than needed."""
    clock = ManualClock()
    pki = await made(pool, clock)
    for credentials, name in ((pki.signer, SpiffeId.service("td.internal", SIGNER)), (pki.caller, CALLER)):
        leaf = credentials.certificate
        assert spiffe_id_of(leaf) == name
        verify_chain(leaf, credentials.chain[1:], (pki.root,), clock.now(), "client")
        assert clock.now() < leaf.not_valid_after_utc <= clock.now() + LIFE
    clock.advance(LIFE)
    with pytest.raises(BadCertificateError):
        verify_chain(pki.caller.certificate, pki.caller.chain[1:], (pki.root,), clock.now(), "client")


async def test_two_have_nothing_in_common(pool: Executor) -> None:
    """Whoever has an identity of yesterday's throw-away PKI is a stranger to today's."""
    clock = ManualClock()
    first, second = await made(pool, clock), await made(pool, clock)
    with pytest.raises(BadCertificateError):
        verify_chain(first.caller.certificate, first.caller.chain[1:], (second.root,), clock.now(), "client")


async def test_what_signer_hsm_needs_lies_in_files(pool: Executor, tmp_path: Path) -> None:
    """Identity, trust, CRLs and staple are laid out; the key is for its owner only."""
    clock, layout = ManualClock(), Layout(tmp_path)
    for directory in (layout.issuers, layout.identity(SIGNER), layout.state(SIGNER) / "status"):
        directory.mkdir(parents=True)
    pki = await made(pool, clock)
    await pki.write(layout, clock)
    identity = layout.identity(SIGNER)
    assert load_credentials(identity / "cert.pem", identity / "key.pem").certificate == pki.signer.certificate
    assert (identity / "key.pem").stat().st_mode & 0o777 == 0o600
    status = sorted(path.suffix for path in (layout.state(SIGNER) / "status").iterdir())
    assert status == [".crl", ".crl", ".ocsp"]
    pki.crl_cache(layout.state(SIGNER) / "status", clock).current()
    verify_response(pki.staple, pki.signer.certificate, pki.issuing, clock.now() + timedelta(minutes=5))
