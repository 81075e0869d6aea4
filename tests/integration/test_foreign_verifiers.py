"""Chains of every family, as verifiers see them that share no code with the project.

cryptography's path validator and the OpenSSL in its wheel (through pyOpenSSL) know every family; Debian's openssl and
GnuTLS know the classical ones.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification
from OpenSSL import crypto

from pkicore.clock import SystemClock
from pkicore.x509.certificate import sign_certificate, to_pem
from pkicore.x509.names import Names
from pkicore.x509.tbs import Issuer, build_tbs, random_serial, validity
from tests.support.clock import ManualClock
from tests.support.openssl import openssl
from tests.support.pki import PROFILES, TRUST_DOMAIN, Hierarchy, Leaf, MemoryKey, make_hierarchy

CLASSICAL = ("ecdsa", "rsa")
FAMILIES = (*CLASSICAL, "mldsa")
HOST = "a.team.example"
SUB_CA_KEYS = {"ecdsa": "ecdsa-p256", "rsa": "rsa-3072", "mldsa": "ml-dsa-65"}


class RefusedError(Exception):
    """A verifier said no."""


@dataclass(frozen=True)
class World:
    """A PKI of one family, a constrained CA below its root, and a folder for the commands."""

    family: str
    pki: Hierarchy
    constrained: Hierarchy
    directory: Path


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Each family in turn; the time is the present, since the commands know no other."""
    pki = asyncio.run(make_hierarchy(request.param, ManualClock(SystemClock().now())))
    constrained = asyncio.run(_constrained(pki, request.param))
    return World(request.param, pki, constrained, tmp_path_factory.mktemp(request.param))


async def _constrained(pki: Hierarchy, family: str) -> Hierarchy:
    profile, key = PROFILES["sub-ca"], MemoryKey.generate(SUB_CA_KEYS[family])
    not_before, not_after = validity(profile, pki.root, pki.clock.now())
    tbs = build_tbs(
        profile,
        pki.root,
        serial=random_serial(),
        not_before=not_before,
        not_after=not_after,
        public_key=key.public_key,
        common_name="Team CA",
        names=Names(),
    )
    certificate = await sign_certificate(tbs, pki.root_key, pki.root.certificate)
    issuing = replace(pki.issuing, id="team", certificate=certificate, chain=(certificate,))
    return replace(pki, issuing_key=key, issuing=issuing)


def by_policy_builder(world: World, chain: tuple[x509.Certificate, ...]) -> None:
    """The validator of cryptography, with nothing configured."""
    builder = verification.PolicyBuilder().store(verification.Store([world.pki.root.certificate]))
    try:
        builder.build_server_verifier(x509.DNSName(_host(chain))).verify(chain[0], list(chain[1:]))
    except verification.VerificationError as error:
        raise RefusedError(str(error)) from error


def _host(chain: tuple[x509.Certificate, ...]) -> str:
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)[0]


def by_pyopenssl(world: World, chain: tuple[x509.Certificate, ...]) -> None:
    """The OpenSSL in cryptography's wheel, with its strict checks."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(world.pki.root.certificate))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    leaf, *above = (crypto.X509.from_cryptography(certificate) for certificate in chain)
    try:
        crypto.X509StoreContext(store, leaf, above).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise RefusedError(str(error)) from error


def by_openssl(world: World, chain: tuple[x509.Certificate, ...]) -> None:
    """Debian's openssl, strict, for the purpose of a server."""
    paths = _written(world, chain)
    arguments = ["-x509_strict", "-purpose", "sslserver", "-verify_hostname", _host(chain)]
    said = openssl("verify", *arguments, "-CAfile", paths[0], "-untrusted", paths[1], paths[2], check=False)
    if "OK" not in said.splitlines()[-1]:
        raise RefusedError(said)


def by_gnutls(world: World, chain: tuple[x509.Certificate, ...]) -> None:
    """GnuTLS."""
    paths = _written(world, chain)
    command = ["certtool", "--verify", "--load-ca-certificate", str(paths[0]), "--verify-hostname", _host(chain)]
    pem = paths[2].read_bytes() + paths[1].read_bytes()
    done = subprocess.run(
        [*command, "--verify-purpose", "1.3.6.1.5.5.7.3.1"], input=pem, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise RefusedError(done.stdout.decode())


def _written(world: World, chain: tuple[x509.Certificate, ...]) -> tuple[Path, Path, Path]:
    paths = tuple(world.directory / name for name in ("root.pem", "above.pem", "leaf.pem"))
    for path, some in zip(paths, ((world.pki.root.certificate,), chain[1:], chain[:1]), strict=True):
        path.write_bytes(to_pem(some))
    return paths[0], paths[1], paths[2]


Verifier = Callable[[World, tuple[x509.Certificate, ...]], None]
EVERY: tuple[Verifier, ...] = (by_policy_builder, by_pyopenssl)
CLASSICAL_ONLY: tuple[Verifier, ...] = (by_openssl, by_gnutls)


def verifiers(world: World) -> tuple[Verifier, ...]:
    """Those that know the family."""
    return (*EVERY, *CLASSICAL_ONLY) if world.family in CLASSICAL else EVERY


async def _server(pki: Hierarchy, *dns: str, profile: str = "server") -> Leaf:
    return await pki.issue(profile, names=Names.build(dns=dns))


@pytest.mark.parametrize("profile", ["server", "short-lived"])
def test_servers(world: World, profile: str) -> None:
    """Every verifier that knows the family accepts a server's chain."""
    leaf = asyncio.run(_server(world.pki, HOST, profile=profile))
    for verify in verifiers(world):
        verify(world, leaf.chain)


def test_workloads(world: World) -> None:
    """An X.509-SVID is good for clients and servers, at every verifier."""
    uri = f"spiffe://{TRUST_DOMAIN}/workload/a"
    leaf = asyncio.run(world.pki.issue("workload", names=Names.build(uri=[uri], dns=[HOST])))
    for verify in verifiers(world):
        verify(world, leaf.chain)
    builder = verification.PolicyBuilder().store(verification.Store([world.pki.root.certificate]))
    found = builder.build_client_verifier().verify(leaf.certificate, list(leaf.chain[1:]))
    assert x509.UniformResourceIdentifier(uri) in (found.subjects or [])


def test_servers_below_a_constrained_ca(world: World) -> None:
    """A name that the CA may certify is accepted."""
    leaf = asyncio.run(_server(world.constrained, HOST))
    for verify in verifiers(world):
        verify(world, leaf.chain)


def test_names_that_a_constrained_ca_may_not_certify(world: World) -> None:
    """Every verifier refuses them: the constraints hold though the CA's own lint were not there."""
    leaf = asyncio.run(_unlinted(world.constrained, "a.example"))
    for verify in verifiers(world):
        with pytest.raises(RefusedError):
            verify(world, leaf.chain)


async def _unlinted(pki: Hierarchy, host: str) -> Leaf:
    profile, key = PROFILES["server"], MemoryKey.generate("ecdsa-p256")
    issuer: Issuer = pki.issuing
    not_before, not_after = validity(profile, issuer, pki.clock.now())
    tbs = build_tbs(
        replace(profile, families={"ecdsa": (issuer.family,)}),
        issuer,
        serial=random_serial(),
        not_before=not_before,
        not_after=not_after,
        public_key=key.public_key,
        common_name=None,
        names=Names.build(dns=[host]),
    )
    certificate = await sign_certificate(tbs, pki.issuing_key, issuer.certificate)
    return Leaf(key.private_key, certificate, (certificate, *issuer.chain))


def test_a_foreign_root(world: World) -> None:
    """No verifier takes a chain to another root: the acceptances above are not for nothing."""
    leaf = asyncio.run(_server(world.pki, HOST))
    stranger = replace(world, pki=asyncio.run(make_hierarchy("ecdsa", ManualClock(SystemClock().now()))))
    for verify in verifiers(world):
        with pytest.raises(RefusedError):
            verify(stranger, leaf.chain)
