"""The second linter, and how a profile has it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.errors import LintError
from pkicore.x509.lint import unsigned
from pkicore.x509.names import Names
from pkicore.x509.profiles import load_profiles
from services.ca.issuance import Issuance
from services.ca.linters import open_linters
from services.ca.pkilint import Pkilint
from tests.support.ca_world import ACME, OPERATOR, CaWorld, server_request
from tests.support.clock import ManualClock
from tests.support.pki import PROFILES, Hierarchy, make_hierarchy

LINTED = {**PROFILES, "server": replace(PROFILES["server"], lint=("pkilint",))}
NAMES = x509.SubjectAlternativeName([x509.DNSName("a.example")])
SPIFFE = Names.build(uri=["spiffe://pqcpki.internal/workload/a"])


@pytest.fixture(params=["ecdsa", "mldsa"])
async def hierarchy(request: pytest.FixtureRequest) -> Hierarchy:
    """A PKI of each family."""
    return await make_hierarchy(request.param, ManualClock())


@pytest.mark.parametrize("profile", ["server", "service", "client", "workload", "short-lived", "ocsp-responder"])
async def test_what_we_issue_passes(hierarchy: Hierarchy, profile: str) -> None:
    """The linter accepts a certificate of every profile and family."""
    dns = Names.build(dns=["a.example"])
    names = {"server": dns, "short-lived": dns, "ocsp-responder": Names()}.get(profile, SPIFFE)
    leaf = await hierarchy.issue(profile, names=names, common_name="a" if names.is_empty else None)
    await Pkilint().lint(unsigned(leaf.certificate.tbs_certificate_bytes))
    for above in (hierarchy.issuing.certificate, hierarchy.root.certificate):
        await Pkilint().lint(above.public_bytes(Encoding.DER))


async def test_findings_have_names(ecdsa_leaf: x509.CertificateBuilder) -> None:
    """A bent certificate is refused with the names that pkilint has for what is wrong."""
    builder = ecdsa_leaf.add_extension(NAMES, critical=False)
    key = (await make_hierarchy("ecdsa", ManualClock())).issuing_key.private_key
    der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(LintError) as caught:
        await Pkilint().lint(der)
    assert "pkilint pkix.san_extension_not_critical_empty_subject" in caught.value.findings


@pytest.fixture
async def ecdsa_leaf() -> x509.CertificateBuilder:
    """The bare fields of a certificate."""
    now = ManualClock().now()
    hierarchy = await make_hierarchy("ecdsa", ManualClock())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(hierarchy.issuing.certificate.subject)
        .serial_number(1 << 70)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .public_key(hierarchy.issuing_key.public_key)
    )


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"\xff" * 100])
async def test_rubbish_is_a_finding(der: bytes) -> None:
    """What does not parse is refused as such."""
    with pytest.raises(LintError, match="does not parse"):
        await Pkilint().lint(der)


async def test_a_profile_has_it_asked(tmp_path: Path) -> None:
    """Where the profile says so, a certificate is issued only after pkilint saw it."""
    world = await (await CaWorld.open(tmp_path, profiles=LINTED)).start()
    assert (await world.issue("a.example")).serial
    await world.close()


class Refusing:
    """A linter that finds something."""

    def __init__(self) -> None:
        self.seen = 0

    async def lint(self, certificate: bytes) -> None:
        """Find it."""
        assert x509.load_der_x509_certificate(certificate).signature == b""
        self.seen += 1
        raise LintError(("RFC 0000 §1: a finding",))


async def test_a_finding_stops_issuance(tmp_path: Path) -> None:
    """The problem and the record of the refusal have the finding's name, and nothing is recorded as an intent."""
    world = await (await CaWorld.open(tmp_path, profiles=LINTED)).start()
    refusing = Refusing()
    issuance = world.core.issuance
    strict = Issuance(
        store=world.core.store,
        authorizer=issuance._authorizer,
        serials=issuance._serials,
        cas=world.core.hierarchy.cas,
        clock=world.clock,
        linters={"pkilint": refusing},
    )
    world.core = replace(world.core, issuance=strict)
    async with world.internal(ACME) as http:
        answer = await http.post(
            "/v1/certificates",
            content=server_request("a.example").to_json(),
            headers={"content-type": "application/json"},
        )
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:pqcpki:problem:lint-refused")
    assert "RFC 0000 §1: a finding" in answer.json()["detail"]
    assert refusing.seen == 1
    assert await world.core.store.by_idempotency_key(str(ACME), "order-1") is None
    async with world.internal(OPERATOR) as http:
        (refusal,) = (await http.get("/v1/ledger/refusals")).json()["refusals"]
    assert (refusal["problem"], refusal["detail"]) == ("lint-refused", "RFC 0000 §1: a finding")
    await world.close()


def test_it_is_loaded_where_it_is_asked_for_alone() -> None:
    """Without a profile that names it, pkilint need not be there."""
    program = (
        "import sys; from services.ca.linters import open_linters; from tests.support.pki import PROFILES;"
        "open_linters(PROFILES.values()); print('pkilint' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
    assert set(open_linters(LINTED.values())) == {"pkilint"}


def test_an_unknown_linter_is_refused_by_field() -> None:
    """A profile names linters that there are."""
    text = (Path(__file__).parents[4] / "services/ca/profiles.toml").read_text()
    with pytest.raises(Exception, match=r"^profile server: lint\b"):
        load_profiles(text.replace("[server]", '[server]\nlint = ["zlint"]'))
