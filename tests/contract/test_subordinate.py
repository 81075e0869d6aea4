"""CAs of others below a root: what a request says changes nothing, and what is certified is on record and revocable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.clock import SystemClock
from pkicore.encoding import write_atomically
from pkicore.errors import BadCsrError, BadSignatureError, KeyNotFoundError, MalformedError, ProfileError
from pkicore.x509.certificate import load_chain, to_pem
from services.ca.cli import main
from services.ca.errors import CeremonyError
from services.ca.store import CaStore
from services.ca.subordinate import Subordinate, Subordination, Terms
from services.chassis.database import Database
from tests.support.clock import ManualClock
from tests.support.openssl import openssl
from tests.support.pki import make_csr
from tests.support.stopped_world import StoppedWorld

NAME = "Team CA"
TERMS = Terms(
    name=NAME,
    permitted=("dns:team.internal", "uri:team.internal", "email:team.internal"),
    excluded=("ip:0.0.0.0/0", "ip:::/0"),
)
GREEDY = (  # what an attacker, or an ordinary CA product, writes into a request
    (x509.BasicConstraints(ca=True, path_length=9), True),
    (x509.NameConstraints([x509.DNSName("bank.example")], None), False),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.TIME_STAMPING]), False),
    (
        x509.KeyUsage(
            digital_signature=True,
            content_commitment=True,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        ),
        True,
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment with file keys, fresh from its ceremony; tests work on copies."""
    directory = tmp_path_factory.mktemp("ceremony") / "pki"
    ports = [f"--{name}-port=0" for name in ("ca", "ca-http", "ca-ops", "acme", "acme-ops")]
    done = CliRunner().invoke(main, ["init", "--dir", str(directory), "--name", "Test", *ports])
    assert done.exit_code == 0, done.output
    return directory


@pytest.fixture
def world(made: Path, tmp_path: Path) -> StoppedWorld:
    """A copy; the time is the present, since the commands know no other."""
    world = StoppedWorld.copied(made, tmp_path / "pki")
    world.clock = ManualClock(SystemClock().now())
    return world


@pytest.fixture
def office(world: StoppedWorld) -> Iterator[Subordination]:
    """Where CAs of others are certified."""
    with ThreadPoolExecutor(2) as pool:
        yield Subordination(world.deployment, pool)


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    """Of the other team."""
    return generate_private_key(ALGORITHMS["ecdsa-p256"])


def shape(made: Subordinate) -> dict[str, object]:
    """What a certificate allows its holder."""
    extensions = made.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.NameConstraints)
    basic = extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    return {
        "subject": made.certificate.subject.rfc4514_string(),
        "basic": (basic.ca, basic.path_length),
        "signs data": usage.digital_signature or usage.content_commitment,
        "constraints": (constraints.critical, made.members()["permitted"], made.members()["excluded"]),
        "as encoded": constraints.value,
        "for": {oid.dotted_string for oid in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value},
        "extensions": {extension.oid.dotted_string for extension in extensions},
    }


@pytest.mark.parametrize("kind", ["ecdsa-p256", "ml-dsa-65"])
async def test_a_greedy_request_gets_what_a_plain_one_gets(office: Subordination, kind: str) -> None:
    """CA flag, path length, usages and constraints are the operator's, and the chain is of the key's family."""
    own = generate_private_key(ALGORITHMS[kind])
    plain = await office.certify(make_csr(own, common_name=NAME), TERMS)
    greedy = await office.certify(make_csr(own, common_name=NAME, extensions=GREEDY), TERMS)
    assert greedy.certificate.serial_number != plain.certificate.serial_number
    assert shape(greedy) == shape(plain)
    assert shape(plain)["basic"] == (True, 0)
    assert shape(plain)["constraints"] == (True, [*TERMS.permitted], [*TERMS.excluded])
    assert shape(plain)["signs data"] is False
    assert shape(plain)["for"] == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}
    assert greedy.root == ("root-mldsa" if kind.startswith("ml") else "root-ecdsa")


async def test_the_terms_are_the_operators(office: Subordination, world: StoppedWorld, key: PrivateKey) -> None:
    """Path length and end are as said; without a word, all of it is as in the profile."""
    csr = make_csr(key, common_name=NAME)
    end = world.clock.now() + timedelta(days=30)
    said = await office.certify(csr, Terms(name=NAME, path_length=1, not_after=end))
    assert (shape(said)["basic"], said.certificate.not_valid_after_utc) == ((True, 1), end)
    unsaid = await office.certify(csr, Terms(name=NAME))
    assert shape(unsaid)["basic"] == (True, 0)
    assert unsaid.members()["permitted"] == ["dns:team.example", "uri:team.example", "email:team.example"]
    assert unsaid.certificate.not_valid_after_utc > end + timedelta(days=1000)


@pytest.mark.parametrize(
    ("extension", "error", "sentence"),
    [
        ((x509.NameConstraints([x509.DNSName("")], None), True), BadCsrError, "2.5.29.30 is not understood"),
        ((x509.SubjectAlternativeName([x509.DNSName("bank.example")]), False), CeremonyError, "names of hosts"),
        ((x509.IssuerAlternativeName([x509.DNSName("a.example")]), True), BadCsrError, "is not understood"),
    ],
    ids=["critical constraints", "names", "critical stranger"],
)
async def test_what_cannot_be_left_aside_is_refused(
    office: Subordination,
    world: StoppedWorld,
    key: PrivateKey,
    extension: tuple[x509.ExtensionType, bool],
    error: type[Exception],
    sentence: str,
) -> None:
    """Critical extensions that nobody grants, and names beside that of the CA: nothing begins."""
    with pytest.raises(error, match=sentence):
        await office.certify(make_csr(key, common_name=NAME, extensions=[extension]), TERMS)
    assert await world.events("subordinate.") == []


@pytest.mark.parametrize(
    ("name", "terms", "sentence"),
    [
        ("Other CA", TERMS, "the common name 'Other CA', and you said --name 'Team CA'"),
        (None, TERMS, "the request has no common name"),
        ("ca.team.internal", Terms(name="ca.team.internal"), "names of hosts"),
        ("Test root ecdsa", Terms(name="Test root ecdsa"), "name of our own root-ecdsa"),
        ("Test issuing mldsa", Terms(name="Test issuing mldsa"), "name of our own issuing-mldsa"),
        (" TEST  root ecdsa ", Terms(name=" TEST  root ecdsa "), "name of our own root-ecdsa"),
        (NAME, Terms(name=NAME, profile="issuing-ca"), "issuing-ca has no name_constraints"),
        (NAME, Terms(name=NAME, profile="server"), "server has no name_constraints"),
        (NAME, Terms(name=NAME, profile="nobody"), "no profile nobody"),
        (NAME, Terms(name=NAME, permitted=("dns:team.internal",)), "say nothing of ip, uri, email names"),
        (NAME, Terms(name=NAME, permitted=("dns:*.internal",)), "--permit and --exclude: 'dns:"),
    ],
    ids=[
        "another",
        "none",
        "a host",
        "a root's",
        "an issuer's",
        "a root's as verifiers compare",
        "ours",
        "a leaf's",
        "unknown",
        "too little",
        "no name",
    ],
)
async def test_an_operator_is_told_what_does_not_fit(
    office: Subordination, world: StoppedWorld, key: PrivateKey, name: str | None, terms: Terms, sentence: str
) -> None:
    """Names that differ or are ours, profiles that are for other things, constraints that leave something open."""
    with pytest.raises(CeremonyError, match=sentence.replace("*", r"\*")):
        await office.certify(make_csr(key, common_name=name), terms)
    assert await world.events("subordinate.") == []


async def test_a_name_is_one_cas(office: Subordination, key: PrivateKey) -> None:
    """A CRL or an OCSP answer of one CA would be taken for the other's."""
    await office.certify(make_csr(key, common_name=NAME), TERMS)
    another = make_csr(generate_private_key(ALGORITHMS["ecdsa-p256"]), common_name="team ca")
    with pytest.raises(CeremonyError, match="which has another key"):
        await office.certify(another, replace(TERMS, name="team ca"))


@pytest.mark.parametrize("name", [" ", "Team  CA", "Team CA "])
async def test_a_name_is_one_that_every_verifier_reads_alike(office: Subordination, key: PrivateKey, name: str) -> None:
    """No blanks that are skipped when names are compared."""
    with pytest.raises(ProfileError, match="common name"):
        await office.certify(make_csr(key, common_name=name), replace(TERMS, name=name))


async def test_keys_that_no_ca_should_have_are_refused(office: Subordination, key: PrivateKey) -> None:
    """Too short for the profile, without proof of possession, no request at all, without a root of the family."""
    with pytest.raises(ProfileError, match="takes no rsa-2048 keys"):
        await office.certify(make_csr(generate_private_key(ALGORITHMS["rsa-2048"]), common_name=NAME), TERMS)
    csr = bytearray(make_csr(key, common_name=NAME))
    csr[-1] ^= 1
    with pytest.raises(BadSignatureError):
        await office.certify(bytes(csr), TERMS)
    with pytest.raises(MalformedError):
        await office.certify(b"-----BEGIN CERTIFICATE REQUEST-----\n", TERMS)
    with pytest.raises(CeremonyError, match="the family rsa has no active root: `ztca ca prepare-root --family rsa`"):
        await office.certify(make_csr(generate_private_key(ALGORITHMS["rsa-3072"]), common_name=NAME), TERMS)


async def test_a_repeated_request_has_its_certificate(
    office: Subordination, world: StoppedWorld, key: PrivateKey
) -> None:
    """Killed or repeated, there is one certificate; on other terms another; once it is over, none."""
    csr = make_csr(key, common_name=NAME)
    first, again = await office.certify(csr, TERMS), await office.certify(csr, TERMS)
    assert (first.changed, again.changed, again.chain) == (True, False, first.chain)
    assert [event for event, _ in await world.events("subordinate.")] == [
        "subordinate.begun",
        "subordinate.certified",
        "subordinate.begun",
    ]
    detail = (await world.events("subordinate.certified"))[0][1]
    assert (detail["root"], detail["path_length"]) == ("root-ecdsa", "0")
    assert "dns:team.internal" in detail["permitted"]
    assert (await office.certify(csr, Terms(name=NAME))).changed
    world.clock.advance(timedelta(days=2000))
    with pytest.raises(CeremonyError, match="which ended: take a new request"):
        await office.certify(csr, TERMS)


async def test_below_a_new_root_it_is_believed_by_who_trusts_the_old_one(
    office: Subordination, world: StoppedWorld, key: PrivateKey, tmp_path: Path
) -> None:
    """The cross-certificate comes with it, and the same request has another certificate by the new root."""
    csr = make_csr(key, common_name=NAME)
    former = await office.certify(csr, TERMS)
    roots = world.root_rollover(office.pool)
    await roots.prepare("ecdsa")
    await roots.activate("root-ecdsa-2")
    made = await office.certify(csr, TERMS)
    assert (former.root, len(former.chain), made.root, len(made.chain)) == ("root-ecdsa", 1, "root-ecdsa-2", 2)
    files = {name: tmp_path / f"{name}.pem" for name in ("team", "cross")}
    for path, certificate in zip(files.values(), made.chain, strict=True):
        write_atomically(path, to_pem([certificate]), 0o644)
    for root in ("root-ecdsa", "root-ecdsa-2"):
        trusted = ("-CAfile", world.layout.trust / f"{root}.pem")
        assert "OK" in openssl("verify", "-x509_strict", *trusted, "-untrusted", files["cross"], files["team"])


async def test_without_the_roots_key_nothing_begins(
    office: Subordination, world: StoppedWorld, key: PrivateKey
) -> None:
    """The sentence says where it was looked for."""
    world.layout.root_key("ecdsa").rename(world.layout.root / "away.key")
    with pytest.raises(KeyNotFoundError, match=r"root-ecdsa\.key.*--offline"):
        await office.certify(make_csr(key, common_name=NAME), TERMS)
    assert await world.events("subordinate.") == []


def ztca(*arguments: str | Path) -> Result:
    """`ztca ca` in this process."""
    return CliRunner().invoke(main, ["ca", *map(str, arguments)])


def test_it_is_listed_and_a_root_revokes_it(world: StoppedWorld, key: PrivateKey, tmp_path: Path) -> None:
    """From the command to the root's next CRL, which openssl heeds; the request is of no more use then."""
    where, csr, out = ("--dir", world.layout.root), tmp_path / "team.csr", tmp_path / "team.pem"
    csr.write_bytes(make_csr(key, common_name=NAME, extensions=GREEDY))
    granted = [item for name in TERMS.permitted for item in ("--permit", name)]
    granted += [item for name in TERMS.excluded for item in ("--exclude", name)]
    command: tuple[str | Path, ...] = ("certify-subordinate", csr, *where, "--name", NAME, *granted, "--out")
    done = ztca(*command, out)
    assert "It may certify dns:team.internal" in done.output, done.output
    assert "CAs below it: 0." in done.output
    serial = done.output.split()[0]
    assert f"{serial} certifies CN={NAME} below root-ecdsa" in done.output
    assert "exists; give another --out" in ztca(*command, out).output

    def listed() -> dict[str, str]:
        (found,) = (
            item
            for item in json.loads(ztca("list", *where, "--json").output)["authorities"]
            if item["role"] == "subordinate"
        )
        return {name: found[name] for name in ("id", "state", "root", "subject", "algorithm")}

    def verified() -> str:
        assert ztca("root-crl", *where, "--family", "ecdsa").exit_code == 0
        crl = tmp_path / "crl.pem"
        crl.write_bytes(asyncio.run(newest_crl(world)))
        checks = ("-x509_strict", "-crl_check_all", "-extended_crl", "-CRLfile", crl)
        return openssl("verify", *checks, "-CAfile", world.layout.trust / "root-ecdsa.pem", out, check=False)

    expected = {"id": serial, "root": "root-ecdsa", "subject": f"CN={NAME}", "algorithm": "ecdsa-p256"}
    assert listed() == {**expected, "state": "good"}
    assert f"{NAME}, below root-ecdsa" in ztca("list", *where).output
    assert "team.pem: OK" in verified()
    revoked = ztca("root-crl", *where, "--root", "root-ecdsa", "--revoke", serial)
    assert revoked.exit_code == 0, revoked.output
    assert "certificate revoked" in verified()
    assert listed() == {**expected, "state": "revoked"}
    assert "which was revoked: take a new request" in ztca(*command, tmp_path / "again.pem").output


def test_a_revoked_issuing_ca_is_seen(world: StoppedWorld) -> None:
    """Who revokes one that is active is told what to do about it, and the list says so."""
    where = ("--dir", world.layout.root)
    (issuing,) = load_chain(world.layout.issuer_certificate("ecdsa").read_bytes())
    done = ztca("root-crl", *where, "--family", "ecdsa", "--revoke", f"{issuing.serial_number:x}")
    assert "issuing-ecdsa is revoked, and issues nothing any more: `ztca ca prepare --family ecdsa`" in done.output
    lines = ztca("list", *where).output.splitlines()
    assert [line.split()[0] for line in lines if line.endswith(", REVOKED")] == ["issuing-ecdsa"]


async def newest_crl(world: StoppedWorld) -> bytes:
    """The ECDSA root's, in PEM."""
    database = await Database.open(world.settings.database_url, clock=world.clock)
    try:
        stored = await CaStore(database).crl("root-ecdsa")
    finally:
        await database.close()
    assert stored is not None
    return x509.load_der_x509_crl(stored.der).public_bytes(Encoding.PEM)
