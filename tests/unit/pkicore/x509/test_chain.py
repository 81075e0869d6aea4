"""Paths to a trusted root."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import BadCertificateError
from pkicore.x509.certificate import assemble
from pkicore.x509.chain import Purpose, verify_chain
from pkicore.x509.names import Names
from tests.support.pki import Hierarchy
from tests.support.sigstore_world import SigstoreWorld


async def test_leaves_of_every_profile(hierarchy: Hierarchy) -> None:
    """Server, service and client leaves chain to the root for what they are for, and for nothing else."""
    roots, now = [hierarchy.root.certificate], hierarchy.clock.now()
    client = await hierarchy.issue("client", names=Names.build(uri=["spiffe://td/operator/a"]))
    server, service = await hierarchy.server("a.example"), await hierarchy.service("acme")
    for leaf, purpose in ((server, "server"), (service, "server"), (service, "client"), (client, "client")):
        path = verify_chain(leaf.certificate, leaf.chain[1:], roots, now, purpose)  # type: ignore[arg-type]  # literals
        assert path == (leaf.certificate, hierarchy.issuing.certificate, hierarchy.root.certificate)
    with pytest.raises(BadCertificateError, match="not for a client"):
        verify_chain(server.certificate, server.chain[1:], roots, now, "client")
    with pytest.raises(BadCertificateError, match="not for a server"):
        verify_chain(client.certificate, client.chain[1:], roots, now, "server")


@pytest.mark.parametrize("name", ["rsa-2048", "ed25519", "ecdsa-p384", "ml-dsa-44"])
async def test_leaf_keys_of_every_family(ecdsa: Hierarchy, mldsa: Hierarchy, name: str) -> None:
    """Whatever key the server profile takes, its certificate chains."""
    hierarchy = mldsa if name.startswith("ml-dsa") else ecdsa
    leaf = await hierarchy.issue(
        "server", names=Names.build(dns=["a.example"]), key=generate_private_key(ALGORITHMS[name])
    )
    verify_chain(leaf.certificate, leaf.chain[1:], [hierarchy.root.certificate], hierarchy.clock.now(), "server")


async def test_what_does_not_chain(ecdsa: Hierarchy, mldsa: Hierarchy) -> None:
    """A missing intermediate, a foreign root, no root, a bent signature, a responder and a CA as leaf."""
    leaf, now = await ecdsa.server("a.example"), ecdsa.clock.now()
    root, chain = ecdsa.root.certificate, leaf.chain[1:]
    signature = leaf.certificate.signature[:-1] + bytes((leaf.certificate.signature[-1] ^ 1,))
    bent = assemble(leaf.certificate.tbs_certificate_bytes, signature, ALGORITHMS["ecdsa-p256"])
    responder = await ecdsa.responder()
    for certificate, intermediates, roots in (
        (leaf.certificate, (), [root]),
        (leaf.certificate, chain, [mldsa.root.certificate]),
        (leaf.certificate, chain, []),
        (bent, chain, [root]),
        (responder.certificate, chain, [root]),
        (ecdsa.issuing.certificate, (), [root]),
    ):
        with pytest.raises(BadCertificateError):
            verify_chain(certificate, intermediates, roots, now, "server")


async def test_time(ecdsa: Hierarchy) -> None:
    """A chain holds from the first second to the last, both included, and not a second longer."""
    leaf, root = await ecdsa.server("a.example"), ecdsa.root.certificate
    start, end = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc
    for at in (max(start, root.not_valid_before_utc), end):
        verify_chain(leaf.certificate, leaf.chain[1:], [root], at, "server")
    for at in (start - timedelta(seconds=1), end + timedelta(seconds=1)):
        with pytest.raises(BadCertificateError):
            verify_chain(leaf.certificate, leaf.chain[1:], [root], at, "server")


async def test_a_leaf_cannot_issue(ecdsa: Hierarchy) -> None:
    """A server certificate as intermediate is refused (RFC 5280 §6.1.4 k)."""
    leaf, evil = await ecdsa.server("a.example"), await ecdsa.server("evil.example")
    with pytest.raises(BadCertificateError):
        verify_chain(leaf.certificate, [evil.certificate], [ecdsa.root.certificate], ecdsa.clock.now(), "server")


async def test_leaves_that_sign_code_or_times() -> None:
    """Each is for its purpose alone; a time-stamping authority needs no name but its subject."""
    world = SigstoreWorld()
    signed = await world.sign_message(b"artefact")
    code, times = signed.certificate_chain[0], world.tsa.certificate
    intermediates, roots, now = [world.issuing.certificate], [world.root.certificate], world.clock.now()
    assert verify_chain(code, intermediates, roots, now, "code-signing")[1:] == (*intermediates, *roots)
    assert verify_chain(times, intermediates, roots, now, "time-stamping")[1:] == (*intermediates, *roots)
    refused: list[tuple[x509.Certificate, Purpose]] = [
        (code, "time-stamping"),
        (code, "client"),
        (times, "code-signing"),
        (times, "server"),
    ]
    for leaf, purpose in refused:
        with pytest.raises(BadCertificateError, match="not for a"):
            verify_chain(leaf, intermediates, roots, now, purpose)
