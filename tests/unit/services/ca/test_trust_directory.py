"""The trust directory follows the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pkicore.errors import KeyNotFoundError
from pkicore.x509.certificate import load_chain, to_pem
from services.ca.client.trust import ACTIVE, superseded
from services.ca.layout import Layout
from services.ca.settings import CaSettings
from services.ca.trust_directory import publish_trust
from tests.support.clock import ManualClock
from tests.support.pki import Hierarchy, make_hierarchy


@pytest.fixture
async def families() -> dict[str, Hierarchy]:
    """Two PKIs."""
    return {family: await make_hierarchy(family, ManualClock()) for family in ("ecdsa", "mldsa")}


def settings(
    layout: Layout, families: dict[str, Hierarchy], issuers: dict[str, Any], roots: dict[str, Any]
) -> CaSettings:
    """Settings with an issuing CA and a root of each family; the last two say more of them."""
    layout.trust.mkdir(parents=True, exist_ok=True)
    common = {"key": "file:/k", "responder_key": "file:/r"}
    for family, item in families.items():
        (layout.root / f"issuing-{family}.pem").write_bytes(to_pem([item.issuing.certificate]))
        (layout.root / f"root-{family}.pem").write_bytes(to_pem([item.root.certificate]))
    names = ("policy_file", "passphrase_file", "profiles_file", "tls_certificate", "tls_key", "state_dir")
    values: dict[str, Any] = dict.fromkeys(names, "/x")
    values |= {"trust_domain": "td.internal", "database_url": "sqlite:////x", "audit_key": "file:/a"}
    values["issuers"] = [
        {
            "id": f"issuing-{family}",
            "family": family,
            "root": f"root-{family}",
            "certificate": layout.root / f"issuing-{family}.pem",
            **common,
            **issuers.get(family, {}),
        }
        for family in families
    ]
    values["roots"] = [
        {"id": f"root-{family}", "certificate": layout.root / f"root-{family}.pem", **roots.get(family, {})}
        for family in families
    ]
    return CaSettings(**values)


def names(directory: Path) -> set[str]:
    """The files of a directory."""
    return {path.name for path in directory.iterdir() if path.is_file()}


async def test_everything_that_is_trusted_is_there(tmp_path: Path, families: dict[str, Hierarchy]) -> None:
    """Roots, those of public chains, issuing CAs and who of them issues; files of other names are left alone."""
    layout = Layout(tmp_path)
    layout.issuers.mkdir(parents=True)
    (layout.issuers / "partner.pem").write_bytes(b"x")
    (layout.issuers / "issuing-gone.pem").write_bytes(b"x")
    publish_trust(settings(layout, families, {"ecdsa": {"state": "prepared"}}, {}), layout)
    assert names(layout.issuers) == {"issuing-ecdsa.pem", "issuing-mldsa.pem", "partner.pem", ACTIVE}
    assert (layout.issuers / ACTIVE).read_text() == "issuing-mldsa\n"
    assert names(layout.trust) == {"roots.pem", "tls.pem", "root-ecdsa.pem", "root-mldsa.pem"}
    assert load_chain(layout.tls_ca_bundle.read_bytes()) == (families["ecdsa"].root.certificate,)
    before = layout.trust_bundle.stat().st_mtime_ns
    publish_trust(settings(layout, families, {"ecdsa": {"state": "prepared"}}, {}), layout)
    assert layout.trust_bundle.stat().st_mtime_ns == before  # nothing new is not written, so that nobody reads it


async def test_what_is_below_a_retired_root_goes(tmp_path: Path, families: dict[str, Hierarchy]) -> None:
    """The root and its issuing CAs are believed no more."""
    layout = Layout(tmp_path)
    publish_trust(settings(layout, families, {}, {}), layout)
    publish_trust(settings(layout, families, {"ecdsa": {"retired": True}}, {"ecdsa": {"state": "retired"}}), layout)
    assert names(layout.issuers) == {"issuing-mldsa.pem", ACTIVE}
    assert load_chain(layout.trust_bundle.read_bytes()) == (families["mldsa"].root.certificate,)


async def test_a_certificate_that_is_not_there_leaves_all_as_it_was(
    tmp_path: Path, families: dict[str, Hierarchy]
) -> None:
    """Nothing is written before everything was read."""
    layout = Layout(tmp_path)
    wanted = settings(layout, families, {}, {})
    (tmp_path / "issuing-mldsa.pem").unlink()
    with pytest.raises(KeyNotFoundError, match="issuing-mldsa"):
        publish_trust(wanted, layout)
    assert names(layout.trust) == set()


async def test_what_an_active_one_has_issued_is_not_superseded(families: dict[str, Hierarchy]) -> None:
    """Nor what nobody of its family could renew, nor what an unknown issuer has issued."""
    ecdsa, mldsa = (families[name].issuing.certificate for name in ("ecdsa", "mldsa"))
    leaf = (await families["ecdsa"].server("a.example")).certificate
    other = (await make_hierarchy("ecdsa", ManualClock())).root.certificate  # of the same family, with another name
    known: dict[x509.Certificate, object] = {ecdsa: None, mldsa: None, other: None}
    assert not superseded(leaf, known, (ecdsa, mldsa))
    assert not superseded(leaf, known, (mldsa,))
    assert not superseded(leaf, {mldsa: None}, (other,))
    assert superseded(leaf, known, (mldsa, other))
