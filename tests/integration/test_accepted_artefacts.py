"""Whatever the CA makes, of each family, before verifiers that share no code with the project.

The world is one CA for each family, in memory; it makes everything once: certificates of every profile, its delegated
responder's and a CA of another team among them, cross-certificates, lists with their shards and deltas, and OCSP
answers. pkilint reads all of it. Debian's openssl and GnuTLS know the classical families; ML-DSA is known to the
OpenSSL in cryptography's wheel and to cryptography's path validator.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp, verification
from OpenSSL import crypto
from pkilint import loader, pkix
from pkilint.pkix import crl as pkix_crl
from pkilint.pkix import extension, name
from pkilint.pkix import ocsp as pkix_ocsp
from pkilint.validation import ValidationFindingSeverity

from pkicore.algorithms import ALGORITHMS, generate_private_key, known_public_key, verify_signature
from pkicore.identity import SpiffeId
from pkicore.ocsp import build_request
from pkicore.x509.certificate import crl_urls, load_chain
from pkicore.x509.names import Names
from pkicore.x509.tbs import Issuer
from services.ca.issuance import IssuingCa
from services.ca.pkilint import Pkilint
from services.ca.roots import RootOffice, cross_profile, sign_root_crl
from services.ca.wire import CertificateRequest, Identifier, RevocationRequest
from tests.support.ca_world import OPERATOR, CaWorld
from tests.support.clock import ManualClock
from tests.support.openssl import openssl
from tests.support.pki import PROFILES, TRUST_DOMAIN, MemoryKey, make_csr, make_hierarchy, make_root

CLASSICAL = ("ecdsa", "rsa")
FAMILIES = (*CLASSICAL, "mldsa")
KEYS = {"ecdsa": "ecdsa-p256", "rsa": "rsa-3072", "mldsa": "ml-dsa-65"}
HOST = "a.example"
SPIFFE = f"spiffe://{TRUST_DOMAIN}"
SHARDS = 2
_EXTENDED_CRL, _USE_DELTAS = 0x1000, 0x2000  # X509_V_FLAG_*, for which pyOpenSSL has no names
WANTED: Mapping[str, tuple[Identifier, ...]] = {
    "server": (Identifier("dns", HOST),),
    "service": (Identifier("uri", f"{SPIFFE}/service/a"), Identifier("dns", HOST)),
    "client": (Identifier("uri", f"{SPIFFE}/operator/a"),),
    "workload": (Identifier("uri", f"{SPIFFE}/workload/a"), Identifier("dns", HOST)),
    "short-lived": (Identifier("dns", HOST),),
    "artefact-signing": (),
    "timestamping": (),
    "code-signing": (Identifier("uri", "https://github.example/acme/app/.github/workflows/release.yml@refs/tags/v1"),),
}
CLAIMS = {"1.3.6.1.4.1.57264.1.8": "https://token.example"}
SIGNING = SpiffeId.service(TRUST_DOMAIN, "signing")
PURPOSES = {
    "client": "sslclient",
    "artefact-signing": "any",
    "timestamping": "timestampsign",
    "code-signing": "any",
    "responder": "ocsphelper",
}
WITHOUT_LISTS = {"short-lived", "responder", "code-signing"}
OF_ROOTS = ("issuing", "sub-ca", "root-2-by-root")


@dataclass
class Artefacts:
    """What a CA of one family has made.

    Attributes:
        family: its name.
        directory: for the files that commands want.
        roots: the first, and the second that is to follow it.
        certificates: by profile or by what they are.
        lists: CRLs by the path below /crl, and the roots' by their ids.
        answers: OCSP answers by what they must say, each with the certificate that was asked after.
    """

    family: str
    directory: Path
    roots: tuple[x509.Certificate, x509.Certificate]
    certificates: dict[str, x509.Certificate] = field(default_factory=dict)
    lists: dict[str, x509.CertificateRevocationList] = field(default_factory=dict)
    answers: dict[str, tuple[bytes, x509.Certificate]] = field(default_factory=dict)

    @property
    def issuing(self) -> x509.Certificate:
        """The issuing CA's certificate."""
        return self.certificates["issuing"]

    @property
    def leaves(self) -> dict[str, x509.Certificate]:
        """The certificates of end entities that are in force."""
        return {kind: self.certificates[kind] for kind in (*WANTED, "responder") if kind in self.certificates}

    def pem(self, name: str, *values: x509.Certificate | x509.CertificateRevocationList) -> Path:
        """A file of the folder."""
        path = self.directory / f"{name.replace('/', '-')}.pem"
        path.write_bytes(b"".join(value.public_bytes(Encoding.PEM) for value in values))
        return path

    def lists_for(self, certificate: x509.Certificate) -> tuple[str, ...]:
        """Paths of the lists that speak for it: its shard and the complete one; none where it names none."""
        return tuple(
            path for url in crl_urls(certificate) for path in (url.partition("/crl/")[2], f"issuing-{self.family}")
        )


class Making:
    """Has a CA make everything."""

    def __init__(self, world: CaWorld, made: Artefacts) -> None:
        self._world = world
        self._made = made
        self._key = generate_private_key(ALGORITHMS[KEYS[made.family]])

    async def leaf(self, profile: str, wanted: tuple[Identifier, ...], token: str) -> x509.Certificate:
        """A certificate that an operator asks for, or, of an identity of elsewhere, the signing service."""
        names = {kind: [item.value for item in wanted if item.type == kind] for kind in ("dns", "uri")}
        csr = make_csr(self._key, names=Names.build(**names), common_name=None if wanted else f"Test {profile}")
        code = profile == "code-signing"
        request = CertificateRequest(csr, profile, wanted, token, extensions=CLAIMS if code else {})
        answer = await self._world.core.issuance.issue(SIGNING if code else OPERATOR, request)
        return load_chain(answer.answer.certificate.encode())[0]

    async def leaves(self) -> None:
        """Of each profile that takes keys of the family; three more are good, held and revoked."""
        made, key = self._made, KEYS[self._made.family]
        for profile, wanted in WANTED.items():
            if key in PROFILES[profile].keys:
                made.certificates[profile] = await self.leaf(profile, wanted, profile)
        for state, reason in (("held", "certificateHold"), ("revoked", "superseded")):
            certificate = made.certificates[state] = await self.leaf("server", WANTED["server"], state)
            revocation = RevocationRequest(reason, serial=f"{certificate.serial_number:x}")
            await self._world.core.revoker.revoke(OPERATOR, revocation)
        made.certificates["responder"] = self._world.core.responders.of(f"issuing-{made.family}").certificate

    async def authorities(self, second: tuple[MemoryKey, Issuer]) -> None:
        """A CA of another team, and the cross-certificates of two roots, through the nine steps."""
        world, made = self._world, self._made
        own = world.families[made.family]
        first = IssuingCa.of(own.root, own.root_key)
        new = IssuingCa.of(second[1], second[0])
        for kind, above, key, profile in (
            ("sub-ca", first, MemoryKey(self._key), PROFILES["sub-ca"]),
            ("root-2-by-root", first, second[0], cross_profile(PROFILES)),
            ("root-by-root-2", new, own.root_key, cross_profile(PROFILES)),
        ):
            office = RootOffice.of(world.core.store, {made.family: above}, profile, TRUST_DOMAIN, world.clock)
            subject = {"sub-ca": "Team CA", "root-2-by-root": f"Test root {made.family} 2"}
            made.certificates[kind] = await office.certify(key, subject.get(kind, f"Test root {made.family}"))
        for ca in (first, new):
            crl, _ = await sign_root_crl(ca.issuer.id, ca.issuer.certificate, ca.key, None, [], world.clock)
            made.lists[ca.issuer.id] = x509.load_der_x509_crl(crl.der)

    async def lists(self) -> None:
        """The complete list, its shards, and the deltas to each."""
        complete = f"issuing-{self._made.family}"
        for path in (complete, *(f"{complete}/{shard + 1}" for shard in range(SHARDS))):
            for listed in (path, f"{path}/delta"):
                stored = self._world.core.publisher.newest(listed)
                assert stored is not None, listed
                self._made.lists[listed] = x509.load_der_x509_crl(stored.der)

    async def answers(self) -> None:
        """Good, held, revoked, never issued; with a nonce and without."""
        made = self._made
        kinds = {"good": "server", "revoked": "revoked", "held": "held"}
        for said, kind in kinds.items():
            for nonce in (None, b"n" * 32):
                asked = build_request(made.certificates[kind], made.issuing, nonce=nonce)
                der = (await self._world.core.answers.answer(asked)).der
                made.answers[f"{said}{'' if nonce is None else ' with nonce'}"] = der, made.certificates[kind]
        stranger = (await self._world.families[made.family].server("b.example")).certificate
        asked = build_request(stranger, made.issuing, nonce=None)
        made.answers["unknown"] = (await self._world.core.answers.answer(asked)).der, stranger


async def _made(family: str, directory: Path) -> Artefacts:
    clock = ManualClock(datetime.now(UTC) - timedelta(minutes=1))  # GnuTLS asks the machine for the time
    hierarchy = await make_hierarchy(family, clock)
    hierarchy = replace(hierarchy, issuing=replace(hierarchy.issuing, crl_shards=SHARDS))
    second = await make_root(family, clock, number=2)
    log_key = MemoryKey.generate("ecdsa-p256")
    world = await CaWorld.open(directory, clock=clock, families={family: hierarchy}, log_key=log_key)
    await world.start()
    made = Artefacts(family, directory, (hierarchy.root.certificate, second[1].certificate))
    made.certificates["issuing"] = hierarchy.issuing.certificate
    making = Making(world, made)
    await making.leaves()
    await world.publish()
    await making.authorities(second)
    await making.lists()
    await making.answers()
    await world.close()
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    """Each family in turn."""
    return asyncio.run(_made(request.param, tmp_path_factory.mktemp(request.param)))


classical = pytest.mark.parametrize("made", CLASSICAL, indirect=True)


# pkilint


def findings(results: Iterable[Any]) -> list[str]:
    """What pkilint says, from a notice upwards."""
    said = ((item.finding, item.message) for result in results for item in result.finding_descriptions)
    return [
        f"{finding.code}: {message}"
        for finding, message in said
        if finding.severity <= ValidationFindingSeverity.NOTICE
    ]


def test_pkilint_finds_nothing_in_certificates(made: Artefacts) -> None:
    """From the roots to the responder's."""
    linter = Pkilint()
    for certificate in (*made.roots, *made.certificates.values()):
        asyncio.run(linter.lint(certificate.public_bytes(Encoding.DER)))


def test_pkilint_finds_nothing_in_lists(made: Artefacts) -> None:
    """Complete, shard and delta; in a list that ends before it begins it does."""
    decoders = [
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ]
    rules = pkix_crl.create_pkix_crl_validator_container(
        decoders,
        [
            pkix_crl.create_issuer_validator_container([]),
            pkix_crl.create_validity_validator_container([]),
            pkix_crl.create_extensions_validator_container([]),
        ],
    )
    load = loader.RFC5280CertificateListDocumentLoader().load_der_document
    for path, crl in made.lists.items():
        der, begins = crl.public_bytes(Encoding.DER), f"{crl.last_update_utc:%y%m%d%H%M%SZ}".encode()
        assert findings(rules.validate(load(der, path).root)) == [], path
        (found,) = findings(rules.validate(load(der.replace(begins, b"49" + begins[2:]), path).root))
        assert "pkix.crl_negative_validity_period" in found


def test_pkilint_finds_nothing_in_ocsp_answers(made: Artefacts) -> None:
    """Whatever they say, with a nonce and without; in an answer that ends before it begins it does."""
    decoders = [
        pkix_ocsp.create_response_decoder(),
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ]
    rules = pkix_ocsp.create_pkix_ocsp_response_validator_container(decoders, [])
    load = loader.RFC6960OCSPResponseDocumentLoader().load_der_document
    for said, (der, _) in made.answers.items():
        begins = f"{ocsp.load_der_ocsp_response(der).this_update_utc:%Y%m%d%H%M%SZ}".encode()
        assert findings(rules.validate(load(der, said).root)) == [], said
        (found,) = findings(rules.validate(load(der.replace(begins, b"2099" + begins[4:]), said).root))
        assert "pkix.ocsp_negative_validity_period" in found


# openssl


def verified(made: Artefacts, leaf: x509.Certificate, *more: str | Path, lists: Iterable[str], root: int = 0) -> str:
    """What `openssl verify -crl_check_all -extended_crl` says; without lists, no status is asked for."""
    crls = [item for path in lists for item in ("-CRLfile", made.pem(path, made.lists[path]))]
    above = made.pem("above", made.issuing, made.certificates["root-by-root-2"])
    checks = ("-crl_check_all", "-extended_crl", *crls) if crls else ()
    anchor = made.pem("root", made.roots[root])
    named = ("-CAfile", anchor, "-untrusted", above, made.pem("leaf", leaf))
    return openssl("verify", "-x509_strict", *checks, *more, *named, check=False)


@classical
def test_openssl_verifies_chains_with_their_lists(made: Artefacts) -> None:
    """Each leaf for its purpose, against its shard and the complete list if it has any; a list's own are refused."""
    root = f"root-{made.family}"
    for kind, leaf in made.leaves.items():
        purpose = ("-purpose", PURPOSES.get(kind, "sslserver"))
        assert (not made.lists_for(leaf)) == (kind in WITHOUT_LISTS), kind
        for lists in [[root, path] for path in made.lists_for(leaf)] or [[]]:
            said = verified(made, leaf, *purpose, lists=lists)
            assert "leaf.pem: OK" in said, (kind, lists, said)
    for kind in ("held", "revoked"):
        leaf = made.certificates[kind]
        for path in made.lists_for(leaf):
            said = verified(made, leaf, lists=(root, path))
            assert "certificate revoked" in said, (kind, path, said)


@classical
def test_openssl_verifies_what_roots_have_certified(made: Artefacts) -> None:
    """Issuing CA, another team's CA and the next root, each against its root's list; and a chain across both roots."""
    for kind in OF_ROOTS:
        said = verified(made, made.certificates[kind], lists=[f"root-{made.family}"])
        assert "leaf.pem: OK" in said, (kind, said)
    leaf = made.certificates["server"]
    lists = (f"root-{made.family}", f"root-{made.family}-2", made.lists_for(leaf)[0])
    assert "leaf.pem: OK" in verified(made, leaf, lists=lists, root=1)
    assert "unable to get certificate CRL" in verified(made, leaf, lists=lists[:1] + lists[2:], root=1)


@classical
def test_openssl_and_gnutls_read_every_list(made: Artefacts) -> None:
    """Signatures verify; a list is not taken for another issuer's."""
    above = {"issuing": made.pem("issuing", made.issuing)}
    above |= {f"root{end}": made.pem(f"root{end}", root) for end, root in zip(("", "-2"), made.roots, strict=True)}
    for path, crl in made.lists.items():
        own, file = above[path.split("/")[0].replace(f"-{made.family}", "")], made.pem(path, crl)
        for issuer in above.values():
            told = openssl("crl", "-in", file, "-CAfile", issuer, "-noout", "-verify", check=False)
            assert ("verify OK" in told) == (issuer == own), (path, issuer, told)
        found = gnutls("certtool", "--verify-crl", "--load-ca-certificate", str(own), "--infile", str(file))
        assert "Verified" in found, (path, found)
        assert "Not verified" not in found, (path, found)


@classical
def test_openssl_and_gnutls_read_every_ocsp_answer(made: Artefacts) -> None:
    """The delegated responder is believed, and what it says is what was asked to be said."""
    root, issuing = made.pem("root", made.roots[0]), made.pem("issuing", made.issuing)
    for said, (der, certificate) in made.answers.items():
        response, status = made.directory / "response.der", said.split()[0].replace("held", "revoked")
        response.write_bytes(der)
        asked = ("-issuer", issuing, "-cert", made.pem("leaf", certificate), "-CAfile", root)
        told = openssl("ocsp", "-respin", response, *asked, "-no_nonce")
        assert "Response verify OK" in told, (said, told)
        assert f"leaf.pem: {status}" in told, (said, told)
        told = gnutls("ocsptool", "--verify-response", "--load-response", str(response), "--load-trust", str(issuing))
        assert "Verifying OCSP Response: Success" in told, (said, told)
        told = gnutls("ocsptool", "--response-info", "--load-response", str(response))
        assert f"Certificate Status: {status}" in told, (said, told)


def gnutls(*command: str) -> str:
    """What a command of GnuTLS says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


@classical
def test_gnutls_verifies_chains(made: Artefacts) -> None:
    """Each leaf's, for its purpose where certtool has one."""
    root = made.pem("root", made.roots[0])
    for kind, leaf in made.leaves.items():
        chain = made.pem("chain", leaf, made.issuing)
        told = gnutls("certtool", "--verify", "--load-ca-certificate", str(root), "--infile", str(chain))
        assert "Chain verification output: Verified." in told, (kind, told)


# The OpenSSL in the wheel, and cryptography's validator


def by_the_wheel(
    made: Artefacts, leaf: x509.Certificate, lists: Sequence[str], *, root: int = 0, flags: int = 0
) -> str:
    """What the OpenSSL says that our listeners use, with strict checks and, where there are any, lists."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(made.roots[root]))
    for path in lists:
        store.add_crl(made.lists[path])
    checks = crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL | crypto.X509StoreFlags.X509_STRICT
    store.set_flags(checks | _EXTENDED_CRL | flags if lists else crypto.X509StoreFlags.X509_STRICT)
    above = [crypto.X509.from_cryptography(one) for one in (made.issuing, made.certificates["root-by-root-2"])]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), above).verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error)
    return "good"


def test_the_openssl_of_the_wheel_verifies_everything(made: Artefacts) -> None:
    """Every family: leaves, what roots have certified, chains across roots, shards, deltas; and revoked is revoked."""
    root = f"root-{made.family}"
    for kind, leaf in made.leaves.items():
        for path in made.lists_for(leaf):
            assert by_the_wheel(made, leaf, (root, path)) == "good", kind
            assert by_the_wheel(made, leaf, (root, path, f"{path}/delta"), flags=_USE_DELTAS) == "good", kind
        assert made.lists_for(leaf) or by_the_wheel(made, leaf, ()) == "good", kind
    for kind in OF_ROOTS:
        assert by_the_wheel(made, made.certificates[kind], [root]) == "good", kind
    for kind in ("held", "revoked"):
        leaf = made.certificates[kind]
        for path in made.lists_for(leaf):
            assert "revoked" in by_the_wheel(made, leaf, (root, path)), kind
    leaf = made.certificates["server"]
    shard, _ = made.lists_for(leaf)
    assert by_the_wheel(made, leaf, (root, f"{root}-2", shard), root=1) == "good"
    assert "CRL" in by_the_wheel(made, leaf, (root, shard), root=1)


Build = Callable[[verification.PolicyBuilder], verification.ServerVerifier | verification.ClientVerifier]


def test_the_path_validator_of_cryptography_takes_every_family(made: Artefacts) -> None:
    """Servers, clients and workloads, below their own root and across to the next one; no stranger's."""
    servers: Build = lambda builder: builder.build_server_verifier(x509.DNSName(HOST))  # noqa: E731 - a row of a table
    clients: Build = lambda builder: builder.build_client_verifier()  # noqa: E731 - likewise
    builds = {"server": servers, "short-lived": servers, "service": servers, "client": clients, "workload": clients}
    above = [made.issuing, made.certificates["root-by-root-2"]]
    for kind, build in ((kind, build) for kind, build in builds.items() if kind in made.certificates):
        for root in made.roots:
            builder = verification.PolicyBuilder().store(verification.Store([root]))
            build(builder).verify(made.certificates[kind], above)
    stranger = verification.PolicyBuilder().store(verification.Store([made.certificates["sub-ca"]]))
    with pytest.raises(verification.VerificationError):
        servers(stranger).verify(made.certificates["server"], above)


def test_cryptography_verifies_lists_and_answers_of_every_family(made: Artefacts) -> None:
    """The signatures of lists by their issuers, of answers by the responder that goes with them."""
    for path, crl in made.lists.items():
        issuer = made.issuing if path.startswith("issuing") else made.roots[path.endswith("-2")]
        assert crl.is_signature_valid(issuer.public_key()), path  # type: ignore[arg-type]  # of a type that it knows
    for said, (der, certificate) in made.answers.items():
        answer = ocsp.load_der_ocsp_response(der)
        (responder,) = answer.certificates
        responder.verify_directly_issued_by(made.issuing)
        verify_signature(known_public_key(responder.public_key()), answer.signature, answer.tbs_response_bytes)
        assert answer.serial_number == certificate.serial_number
        expected = {"held": "revoked"}.get(said.split()[0], said.split()[0])
        assert answer.certificate_status.name.lower() == expected, said
