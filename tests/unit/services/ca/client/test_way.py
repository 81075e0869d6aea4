from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from pkicore.ocsp import OcspRequest
from pkicore.x509.certificate import to_pem
from services.acme.settings import AcmeSettings
from services.ca.client import CaUnavailableError
from services.ca.client.trust import FollowedTrust, Trust
from services.ca.client.way import StatusSource, patiently
from services.chassis.errors import SettingsError
from tests.support.clock import ManualClock
from tests.support.pki import Hierarchy, make_hierarchy


async def deployed(tmp_path: Path) -> tuple[Hierarchy, AcmeSettings]:
    """Trust files of a PKI, and settings that name them."""
    pki = await make_hierarchy("ecdsa", ManualClock())
    issuers = tmp_path / "issuers"
    issuers.mkdir()
    (tmp_path / "roots.pem").write_bytes(to_pem((pki.root.certificate,)))
    (issuers / "issuing-ecdsa.pem").write_bytes(to_pem((pki.issuing.certificate,)))
    settings = AcmeSettings(
        state_dir=tmp_path,
        database_url=f"sqlite:///{tmp_path / 'acme.sqlite3'}",
        policy_file=tmp_path / "policy.toml",
        ca_url="https://localhost:1",
        ca_status_url="http://127.0.0.1:1",
        trust_bundle=tmp_path / "roots.pem",
        issuers_directory=issuers,
        tls_certificate=tmp_path / "cert.pem",
        tls_key=tmp_path / "key.pem",
        audit_key="file:/x",
        passphrase_file=tmp_path / "passphrase",
    )  # type: ignore[call-arg] # pydantic fills the rest
    return pki, settings


async def test_where_each_crl_is(tmp_path: Path) -> None:
    """An issuing CA's CRL is named after its file, its root's CRL by the distribution point of the issuing CA."""
    pki, settings = await deployed(tmp_path)
    trust = Trust.load(settings)
    assert trust.roots == (pki.root.certificate,)
    assert trust.crl_paths == {pki.issuing.certificate: "/crl/issuing-ecdsa", pki.root.certificate: "/crl/root-ecdsa"}


@pytest.mark.parametrize("broken", ["no bundle", "no issuers", "not PEM"])
async def test_trust_that_cannot_be_read(tmp_path: Path, broken: str) -> None:
    """A missing or broken trust file is a sentence about the setting."""
    _, settings = await deployed(tmp_path)
    if broken == "no bundle":
        settings.trust_bundle.unlink()
    elif broken == "no issuers":
        (settings.issuers_directory / "issuing-ecdsa.pem").unlink()
    else:
        (settings.issuers_directory / "other.pem").write_bytes(b"x")
    with pytest.raises(SettingsError, match=r"trust_bundle|issuers_directory"):
        Trust.load(settings)


async def test_status_from_the_ca(tmp_path: Path) -> None:
    """CRLs come by GET, OCSP responses by POST of a request about this certificate; other answers are errors."""
    pki, settings = await deployed(tmp_path)
    leaf = (await pki.server("a.example")).certificate

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/crl/issuing-ecdsa":
            return httpx.Response(200, content=b"crl")
        if request.url.path == "/ocsp":
            assert request.headers["content-type"] == "application/ocsp-request"
            assert OcspRequest.parse(request.content).cert_ids[0].serial == leaf.serial_number
            return httpx.Response(200, content=b"ocsp")
        return httpx.Response(503)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://ca.test") as http:
        source = StatusSource(http, FollowedTrust(settings))
        assert await source.crl(pki.issuing.certificate) == b"crl"
        assert await source.staple(leaf, pki.issuing.certificate) == b"ocsp"
        with pytest.raises(httpx.HTTPStatusError):
            await source.crl(pki.root.certificate)


async def test_a_list_is_sent_again_only_where_it_is_another(tmp_path: Path) -> None:
    """Each path by its own entity tag; a list that the CA does not know any more is an error, not the one before."""
    pki, settings = await deployed(tmp_path)
    served, sent = {"/crl/issuing-ecdsa": b"one", "/crl/issuing-ecdsa/7": b"seven"}, list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path not in served:
            return httpx.Response(404)
        tag = f'"{served[path].decode()}"'
        if request.headers.get("if-none-match") == tag:
            return httpx.Response(304)
        sent.append(path)
        return httpx.Response(200, content=served[path], headers={"etag": tag})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://ca.test") as http:
        source, issuer = StatusSource(http, FollowedTrust(settings)), pki.issuing.certificate
        for _ in range(3):
            assert await source.crl(issuer) == b"one"
            assert await source.shard(issuer, 7) == b"seven"
        assert sent == ["/crl/issuing-ecdsa", "/crl/issuing-ecdsa/7"]
        served["/crl/issuing-ecdsa"] = b"two"
        assert await source.crl(issuer) == b"two"
        del served["/crl/issuing-ecdsa/7"]
        with pytest.raises(httpx.HTTPStatusError):
            await source.shard(issuer, 7)


async def test_patience_ends_with_success() -> None:
    """What is needed from the CA at start is asked for until it is there; other faults are not waited for."""
    faults: list[Exception] = [CaUnavailableError("away")]

    async def attempt() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert await patiently("something", attempt) == "done"
    faults.append(SettingsError("wrong"))
    with pytest.raises(SettingsError):
        await patiently("something", attempt)
