from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from prometheus_client import CollectorRegistry

from pkicore.identity import SpiffeId, spiffe_id_of
from pkicore.x509.certificate import load_chain
from pkicore.x509.names import Names
from services.ca.errors import RefusedError
from services.ca.identities import Identities
from services.ca.plain_keys import plain_pem
from services.ca.settings import CaSettings
from services.ca.wire import CertificateRequest, RevocationRequest
from services.chassis.observability import TlsMetrics
from tests.support.ca_world import ACME, OPERATOR, CaWorld, identifiers
from tests.support.pki import TRUST_DOMAIN, make_csr


async def identity(world: CaWorld, caller: SpiffeId, profile: str) -> Path:
    """An identity as the ceremony leaves it: two plain files."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = make_csr(key, names=Names.build(uri=[str(caller)]))
    wanted = CertificateRequest(csr, profile, identifiers(uri=[str(caller)]), "first")
    directory = world.directory / profile
    directory.mkdir()
    (directory / "cert.pem").write_text((await world.core.issuance.issue(caller, wanted)).answer.chain)
    (directory / "key.pem").write_bytes(plain_pem(key))
    return directory


async def deployed(world: CaWorld) -> tuple[Identities, dict[str, Path]]:
    """An operator's identity and the ACME server's, both named in the settings."""
    callers = {"client": OPERATOR, "service": ACME}
    directories = {profile: await identity(world, caller, profile) for profile, caller in callers.items()}
    listed = [
        {"id": str(caller), "profile": profile, "directory": str(directories[profile])}
        for profile, caller in callers.items()
    ]
    nowhere = world.directory / "nowhere"
    issuer = {
        "id": "i",
        "family": "ecdsa",
        "root": "r",
        "certificate": nowhere,
        "key": "file:/",
        "responder_key": "file:/",
    }
    paths = ("policy_file", "passphrase_file", "profiles_file", "tls_certificate", "tls_key")
    settings = CaSettings.model_validate(
        {
            "trust_domain": TRUST_DOMAIN,
            "state_dir": world.directory,
            "database_url": f"sqlite:///{nowhere}",
            "issuers": [issuer],
            "roots": [{"id": "r", "certificate": nowhere}],
            "identities": listed,
            "audit_key": "file:/",
            **dict.fromkeys(paths, nowhere),
        }
    )
    metrics = TlsMetrics(CollectorRegistry(), world.clock)
    store, issuance = world.core.store, world.core.issuance
    return Identities(settings, store, issuance, world.clock, metrics, lambda _certificate: False), directories


async def test_what_expired_meanwhile_is_renewed_at_the_start(world: CaWorld) -> None:
    """After two months off, operator and ACME server have valid certificates for new keys and the same names."""
    identities, directories = await deployed(world)
    world.clock.advance(timedelta(days=60))
    await identities.renew_expired()
    for profile, caller in (("client", OPERATOR), ("service", ACME)):
        leaf = load_chain((directories[profile] / "cert.pem").read_bytes())[0]
        assert leaf.not_valid_after_utc > world.clock.now()
        assert spiffe_id_of(leaf) == caller
        key = load_pem_private_key((directories[profile] / "key.pem").read_bytes(), None)
        assert key.public_key() == leaf.public_key()


@pytest.mark.parametrize("days", [0, 29])
async def test_what_is_in_force_is_left_alone_at_the_start(world: CaWorld, days: int) -> None:
    """A service that still can renews by itself."""
    identities, directories = await deployed(world)
    before = {profile: (path / "cert.pem").read_bytes() for profile, path in directories.items()}
    world.clock.advance(timedelta(days=days))
    await identities.renew_expired()
    assert {profile: (path / "cert.pem").read_bytes() for profile, path in directories.items()} == before


async def test_what_was_revoked_does_not_come_back(world: CaWorld) -> None:
    """Neither at the start nor in time is a revoked identity renewed: its holder stays shut out."""
    identities, directories = await deployed(world)
    before = {profile: (path / "cert.pem").read_bytes() for profile, path in directories.items()}
    for pem in before.values():
        serial = f"{load_chain(pem)[0].serial_number:x}"
        await world.core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=serial))
    world.clock.advance(timedelta(days=25))
    for renewer in identities.operators():
        with pytest.raises(RefusedError, match="revoked"):
            await renewer.renew_if_due()
    world.clock.advance(timedelta(days=25))
    await identities.renew_expired()
    assert {profile: (path / "cert.pem").read_bytes() for profile, path in directories.items()} == before


async def test_an_operator_is_renewed_in_time(world: CaWorld) -> None:
    """While the CA runs, the operator's certificate is replaced before it expires, and only that one."""
    identities, directories = await deployed(world)
    (operator,) = identities.operators()
    assert not await operator.renew_if_due()
    before = (directories["service"] / "cert.pem").read_bytes()
    world.clock.advance(timedelta(days=25))
    assert await operator.renew_if_due()
    assert not await operator.renew_if_due()
    assert (directories["service"] / "cert.pem").read_bytes() == before
