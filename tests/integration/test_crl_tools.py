"""CRLs in shards, deltas and OCSP answers, as openssl and GnuTLS take them: the classical family, which they know."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.ocsp import build_request
from pkicore.x509.certificate import load_chain
from services.ca.wire import RevocationRequest, parse_serial
from tests.support.ca_world import OPERATOR, CaWorld
from tests.support.clock import ManualClock
from tests.support.openssl import openssl
from tests.support.pki import make_hierarchy

ISSUER = "issuing-ecdsa"
SHARDS = 2
_EXTENDED_CRL, _USE_DELTAS = 0x1000, 0x2000  # X509_V_FLAG_*, for which pyOpenSSL has no names


@dataclass
class Files:
    """A CA with two shards, a certificate in each, and a folder for what the tools are given."""

    world: CaWorld
    directory: Path
    leaves: dict[int, x509.Certificate] = field(default_factory=dict)

    def pem(self, name: str, value: x509.Certificate | x509.CertificateRevocationList) -> Path:
        """A file of the folder."""
        path = self.directory / f"{name.replace('/', '-')}.pem"
        path.write_bytes(value.public_bytes(Encoding.PEM))
        return path

    def list(self, path: str, name: str | None = None) -> Path:
        """The newest list at a path below /crl."""
        stored = self.world.core.publisher.newest(path)
        assert stored is not None
        return self.pem(name or path, x509.load_der_x509_crl(stored.der))

    async def say(self, shard: int, reason: str) -> None:
        """Something happens to the certificate of a shard, and is published."""
        serial = f"{self.leaves[shard].serial_number:x}"
        await self.world.core.revoker.revoke(OPERATOR, RevocationRequest(reason, serial=serial))
        await self.world.publish()

    async def verify(self, shard: int, *crls: Path, deltas: bool = False) -> str:
        """What `openssl verify -crl_check_all -extended_crl` says of the certificate of a shard."""
        ecdsa = self.world.families["ecdsa"]
        root_crl = self.pem("root-crl", x509.load_der_x509_crl(await ecdsa.root_crl()))
        given: list[str | Path] = [item for crl in (root_crl, *crls) for item in ("-CRLfile", crl)]
        return openssl(
            *("verify", "-crl_check_all", "-extended_crl", *(["-use_deltas"] if deltas else [])),
            *("-attime", f"{self.world.clock.now().timestamp():.0f}", *given),
            *("-CAfile", self.pem("root", ecdsa.root.certificate)),
            *("-untrusted", self.pem("issuing", self.world.issuer()), self.pem("leaf", self.leaves[shard])),
            check=False,
        )


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    """Made an hour ago, since GnuTLS asks the machine for the time."""
    clock = ManualClock(datetime.now(UTC) - timedelta(hours=1))
    ecdsa = await make_hierarchy("ecdsa", clock)
    sharded = replace(ecdsa, issuing=replace(ecdsa.issuing, crl_shards=SHARDS))
    families = {"ecdsa": sharded, "mldsa": await make_hierarchy("mldsa", clock)}
    world = await (await CaWorld.open(tmp_path, clock=clock, families=families)).start()
    made = Files(world, tmp_path)
    number = 0
    while len(made.leaves) < SHARDS:
        answer = await world.issue("a.example", idempotency_key=f"order-{number}")
        made.leaves[sharded.issuing.shard_of(parse_serial(answer.serial))] = load_chain(answer.certificate.encode())[0]
        number += 1
    yield made
    await world.close()


async def test_openssl_holds_each_certificate_against_its_shard(files: Files) -> None:
    """The right shard and the complete list speak for it, another shard does not; revoked is revoked."""
    for lists in ([f"{ISSUER}/1"], [ISSUER]):
        assert "leaf.pem: OK" in await files.verify(1, *map(files.list, lists))
    assert "CRL scope" in await files.verify(1, files.list(f"{ISSUER}/2"))
    await files.say(1, "keyCompromise")
    for path in (f"{ISSUER}/1", ISSUER):
        assert "certificate revoked" in await files.verify(1, files.list(path))
    assert "leaf.pem: OK" in await files.verify(2, files.list(f"{ISSUER}/2"))


@pytest.mark.parametrize("of_shard", [True, False], ids=["shard", "complete"])
async def test_openssl_adds_a_delta_to_an_older_list(files: Files, *, of_shard: bool) -> None:
    """A revocation after the base is in the delta, a hold on the base is taken back by it."""
    path = f"{ISSUER}/1" if of_shard else ISSUER
    base = files.list(path, "base")
    await files.say(1, "certificateHold")
    held = files.list(path, "held")
    delta = files.list(f"{path}/delta")
    assert "leaf.pem: OK" in await files.verify(1, base)
    assert "certificate revoked" in await files.verify(1, base, delta, deltas=True)
    assert "certificate revoked" in await files.verify(1, held)
    await files.say(1, "removeFromCRL")
    assert "leaf.pem: OK" in await files.verify(1, held, files.list(f"{path}/delta"), deltas=True)
    await files.say(1, "superseded")
    assert "certificate revoked" in await files.verify(1, base, files.list(f"{path}/delta"), deltas=True)


async def test_openssl_and_gnutls_read_every_list(files: Files) -> None:
    """Both believe the signature of lists, shards and deltas, and show what they are."""
    await files.say(1, "certificateHold")
    issuing = files.pem("issuing", files.world.issuer())
    for path in (ISSUER, f"{ISSUER}/1", f"{ISSUER}/2"):
        for name in (path, f"{path}/delta"):
            crl = files.list(name)
            shown = openssl("crl", "-in", crl, "-CAfile", issuing, "-noout", "-text")
            assert "verify OK" in shown
            assert ("Delta CRL Indicator: critical" in shown) == name.endswith("/delta")
            assert ("X509v3 Freshest CRL" in shown) == (not name.endswith("/delta"))
            assert "Only User Certificates" in shown
            found = _gnutls("certtool", "--verify-crl", "--load-ca-certificate", str(issuing), "--infile", str(crl))
            assert "Verified" in found
            assert "Not verified" not in found


async def test_gnutls_reads_ocsp_answers(files: Files) -> None:
    """Good, held and revoked, by a delegated responder, with a nonce and without."""
    issuing = files.pem("issuing", files.world.issuer())
    for reason, expected in ((None, "good"), ("certificateHold", "revoked"), ("keyCompromise", "revoked")):
        if reason is not None:
            await files.say(1, reason)
        for nonce in (None, b"n" * 32):
            request = build_request(files.leaves[1], files.world.issuer(), nonce=nonce)
            response = files.directory / "response.der"
            response.write_bytes((await files.world.core.answers.answer(request)).der)
            told = ("--load-response", str(response), "--load-trust", str(issuing))
            found = _gnutls("ocsptool", "--verify-response", *told)
            assert "Verifying OCSP Response: Success" in found
            assert f"Certificate Status: {expected}" in _gnutls("ocsptool", "--response-info", *told[:2])


def _gnutls(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"not run: {command[0]} missing (apt-get install gnutls-bin)")
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize("family", ["ecdsa", "mldsa"])
async def test_the_openssl_of_the_wheel_takes_shards_and_deltas_of_both_families(tmp_path: Path, family: str) -> None:
    """The one that our listeners use: the right shard, never another, and a delta to an older list."""
    clock = ManualClock()
    families = {name: await make_hierarchy(name, clock) for name in ("ecdsa", "mldsa")}
    families[family] = replace(families[family], issuing=replace(families[family].issuing, crl_shards=SHARDS))
    world = await (await CaWorld.open(tmp_path, clock=clock, families=families)).start()
    key = generate_private_key(ALGORITHMS["ml-dsa-65" if family == "mldsa" else "ecdsa-p256"])
    leaf = load_chain((await world.issue("a.example", key=key)).certificate.encode())[0]
    mine = f"issuing-{family}/{leaf.serial_number % SHARDS + 1}"
    other = f"issuing-{family}/{2 - leaf.serial_number % SHARDS}"
    root_crl = x509.load_der_x509_crl(await families[family].root_crl())

    def crl(path: str) -> x509.CertificateRevocationList:
        stored = world.core.publisher.newest(path)
        assert stored is not None
        return x509.load_der_x509_crl(stored.der)

    def verdict(*crls: x509.CertificateRevocationList, flags: int = 0) -> str:
        store = crypto.X509Store()
        store.add_cert(crypto.X509.from_cryptography(families[family].root.certificate))
        for each in (root_crl, *crls):
            store.add_crl(each)
        checks = crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL
        store.set_flags(checks | _EXTENDED_CRL | flags)
        store.set_time(clock.now().replace(tzinfo=None))
        chain = [crypto.X509.from_cryptography(world.issuer(family))]
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), chain).verify_certificate()
        except crypto.X509StoreContextError as error:
            return str(error)
        return "good"

    base = crl(mine)
    assert verdict(base) == verdict(crl(f"issuing-{family}")) == "good"
    assert "CRL scope" in verdict(crl(other))
    await world.core.revoker.revoke(OPERATOR, RevocationRequest(4, serial=f"{leaf.serial_number:x}"))
    await world.publish()
    assert verdict(base) == "good"
    assert "revoked" in verdict(crl(mine))
    assert "revoked" in verdict(base, crl(f"{mine}/delta"), flags=_USE_DELTAS)
    await world.close()
