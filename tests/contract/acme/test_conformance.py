"""What RFC 8555 asks for in passing, and no other module is about."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pkicore.algorithms import known_public_key
from pkicore.jose.jwk import jwk_of, thumbprint
from services.acme.profiles.profiles import BUILT_IN, Profile
from tests.support.acme_client import AcmeProblemError, Corruption
from tests.support.acme_orders import challenge_of, csr_for, new_key, ready_order
from tests.support.acme_server import BASE, AcmeServer, solve
from tests.support.jose_key import JoseKey, b64u

NEW_ORDER = f"{BASE}/acme/new-order"
ORDER = {"identifiers": [{"type": "dns", "value": "a.example"}]}
BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@pytest.mark.requirement("rfc8555-5-01")
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
async def test_everything_is_utf_8(server: AcmeServer, encoding: str) -> None:
    """A payload in another encoding is refused; answers are UTF-8."""
    client = await server.registered()
    payload = json.dumps({"contact": ["mailto:ä@example.com"]}, ensure_ascii=False)
    assert client.kid is not None
    refused = await client.post_raw(client.kid, payload.encode(encoding))
    assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[1]) == (400, "malformed")
    assert refused.content.decode("utf-8")


@pytest.mark.requirement(
    "rfc8555-6.1-07",
    "rfc8555-6.5.1-02",
    "rfc8555-8.3-02",
    "rfc8555-8.3-09",
    "rfc8555-8.4-02",
    "rfc8737-3-02",
    "rfc8737-3-14",
    "rfc8555-10.5-01",
)
async def test_base64url_is_written_without_padding(server: AcmeServer) -> None:
    """Nonces, tokens and identifiers in URLs have the alphabet of base64url and no padding."""
    client = await server.registered()
    order = await client.new_order(["a.example"])
    authorization = await client.read(order.body["authorizations"][0])
    assert client.kid is not None
    ids = [url.rsplit("/", 1)[1] for url in (client.kid, order.url, authorization.url)]
    tokens = [challenge["token"] for challenge in authorization.body["challenges"]]
    assert all(BASE64URL.fullmatch(text) for text in [*ids, *tokens, await client.nonce()])


@pytest.mark.requirement("rfc8555-6.2-07")
async def test_a_detached_payload_is_refused(server: AcmeServer) -> None:
    """A JWS whose payload travels elsewhere is malformed."""
    client = await server.registered()
    without = Corruption(after=lambda jws: json.dumps({k: v for k, v in jws.items() if k != "payload"}).encode())
    refused = await client.post_raw(NEW_ORDER, ORDER, corruption=without)
    assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[1]) == (400, "malformed")


@pytest.mark.requirement("rfc8555-6.4.1-02", "rfc8555-6.5.2-02", "rfc8555-6.5.2-03")
@pytest.mark.parametrize(("name", "value"), [("url", 1), ("url", [NEW_ORDER]), ("nonce", 1), ("nonce", "a+b/c=")])
async def test_url_and_nonce_are_strings_of_their_form(server: AcmeServer, name: str, value: object) -> None:
    """A url or nonce of another type, and a nonce outside base64url, is malformed."""
    client = await server.registered()
    broken = Corruption(before=lambda protected, payload: (protected | {name: value}, payload))
    refused = await client.post_raw(NEW_ORDER, ORDER, corruption=broken)
    assert (refused.status_code, refused.json()["type"].rsplit(":", 1)[1]) == (400, "malformed")


@pytest.mark.requirement("rfc8555-6.5-07")
async def test_the_nonce_of_a_refusal_is_good(server: AcmeServer) -> None:
    """The request that badNonce refused succeeds with the nonce that came with the refusal."""
    client = await server.registered()
    client.nonces.clear()
    stale = Corruption(before=lambda protected, payload: (protected | {"nonce": b64u(bytes(24))}, payload))
    refused = await client.post_raw(NEW_ORDER, ORDER, corruption=stale)
    fresh = {"nonce": refused.headers["replay-nonce"]}
    retried = Corruption(before=lambda protected, payload: (protected | fresh, payload))
    assert (await client.post_raw(NEW_ORDER, ORDER, corruption=retried)).status_code == 201


@pytest.mark.requirement("rfc8555-7.1.1-02")
async def test_the_directory_has_what_answers(server: AcmeServer) -> None:
    """Every resource in the directory takes a request; meta is an object."""
    client = await server.registered()
    document = await client.directory()
    assert isinstance(document["meta"], dict)
    served = {name: url for name, url in document.items() if name.startswith(("new", "revoke", "key"))}
    for name in served.keys() - {"newNonce"}:
        assert (await client.post_raw(served[name], b"{")).status_code != 404, name


@pytest.mark.requirement("rfc8555-7.1.3-04", "rfc8555-7.1.3-01")
async def test_an_order_keeps_its_arrays(server: AcmeServer) -> None:
    """Identifiers and authorizations are the same from the first answer to the last; each says when it expires."""
    client = await server.registered()
    seen = [await client.new_order(["b.example", "a.example"])]
    await client.authorize(seen[0], solve)
    seen.append(await client.read(seen[0].url))
    seen.append(await client.finalize(seen[0], csr_for("a.example", "b.example")))
    seen.append(await client.read(seen[0].url))
    assert [order.status for order in seen] == ["pending", "ready", "valid", "valid"]
    assert all(order.body["expires"] for order in seen)
    for name in ("identifiers", "authorizations"):
        assert all(order.body[name] == seen[0].body[name] for order in seen)


@pytest.mark.requirement("rfc8555-7.3.6-05")
async def test_deactivation_revokes_nothing(server: AcmeServer) -> None:
    """The certificates of an account that is closed go on."""
    client = await server.registered()
    await client.obtain(["a.example"], csr_for("a.example"), solve)
    await client.deactivate()
    assert server.ca.revoked == {}


@pytest.mark.requirement("rfc8555-7.6-03")
async def test_the_refusal_of_a_reason_lists_those_that_are_allowed(server: AcmeServer) -> None:
    """The sentence of badRevocationReason has the codes that a subscriber may give."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], csr_for("a.example"), solve)
    with pytest.raises(AcmeProblemError) as refused:
        await client.revoke(obtained.certificates[0], 6)
    assert refused.value.kind == "badRevocationReason"
    assert {int(code) for code in re.findall(r"\d+", refused.value.detail)} >= {0, 1, 3, 4, 5}


@pytest.mark.requirement("rfc8555-8.1-01")
def test_thumbprints_are_of_numbers_without_leading_zeros() -> None:
    """The members of an RSA key are as short as they can be, so that one key has one thumbprint (RFC 7638)."""
    public = rsa.generate_private_key(65537, 2048).public_key()
    numbers = public.public_numbers()
    octets = (numbers.n.bit_length() + 7) // 8
    members = {"e": b64u(b"\1\0\1"), "kty": "RSA", "n": b64u(numbers.n.to_bytes(octets, "big"))}
    expected = hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()
    assert thumbprint(known_public_key(public)) == b64u(expected)
    assert jwk_of(known_public_key(public))["e"] == "AQAB"


@pytest.mark.requirement("rfc8657-5.4-01", "rfc8657-5.4-02", "dns-persist-9.1-01", "dns-account-3.5-01")
async def test_account_urls_are_unique_short_and_stay(server: AcmeServer) -> None:
    """An account's URL has this server's authority, is nobody else's, fits a TXT string, and outlives a restart."""
    one, two = await server.registered(), await server.registered()
    assert one.kid is not None
    assert one.kid != two.kid
    assert urlsplit(one.kid).netloc == "acme.test"
    assert len(one.kid) < 100
    server = await server.restart()
    again = server.client(one.key)
    await again.register()
    assert again.kid == one.kid
    await server.stop()


@pytest.mark.requirement("rfc8737-3-13", "rfc8555-7.1.4-05")
async def test_names_reach_validation_as_a_labels(server: AcmeServer) -> None:
    """An internationalised name is validated as its A-label; its Unicode form is no identifier."""
    client = await server.registered()
    order = await client.new_order(["xn--bcher-kva.example"])
    await client.post(await challenge_of(client, order), {})
    assert [attempt.identifier.value for attempt in server.validator.attempts] == ["xn--bcher-kva.example"]
    with pytest.raises(AcmeProblemError):
        await client.new_order(["bücher.example"])


@pytest.mark.requirement("rfc8555-7.6-01")
async def test_a_revocation_without_reason_says_none(server: AcmeServer) -> None:
    """The CA is told that no reason was given, which CRL and OCSP leave out."""
    client = await server.registered()
    obtained = await client.obtain(["a.example"], csr_for("a.example"), solve)
    await client.revoke(obtained.certificates[0])
    assert list(server.ca.revoked.values()) == ["unspecified"]


@pytest.mark.requirement("rfc8659-3-03")
async def test_every_name_of_an_order_is_validated_for_itself(server: AcmeServer) -> None:
    """Each name, and a wildcard beside its base name, has an attempt of its own, beside which CAA is looked up."""
    client = await server.registered()
    await ready_order(client, "a.example", "b.example", "*.a.example", challenge="dns-01")
    tried = {(attempt.identifier.value, attempt.wildcard) for attempt in server.validator.attempts}
    assert tried == {("a.example", False), ("b.example", False), ("a.example", True)}


@pytest.mark.requirement("profiles-4-04")
async def test_a_profile_that_is_gone_finishes_no_order(tmp_path: Path) -> None:
    """An order whose profile was taken away after it was made is not finalized, and says invalidProfile."""
    own = Profile("own", "for tests", "server")
    server = await AcmeServer.start(tmp_path, profiles={**BUILT_IN, "own": own})
    client = await server.registered()
    order = await client.new_order(["a.example"], profile="own")
    await client.authorize(order, solve)
    rules = server.rules
    server.rules = dataclasses.replace(rules, orders=dataclasses.replace(rules.orders, profiles=BUILT_IN))
    server = await server.restart()
    client.http = server.http
    client.nonces.clear()
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(order, csr_for("a.example"))
    assert refused.value.kind == "invalidProfile"
    assert not server.ca.requests
    await server.stop()


@pytest.mark.requirement("rfc8657-5.2-01", "rfc8657-5.2-03")
def test_the_documentation_says_how_caa_is_read() -> None:
    """Which parameters count, and who verifies DNSSEC."""
    page = (Path(__file__).parents[3] / "docs/acme/caa.md").read_text()
    assert all(word in page for word in ("`accounturi`", "`validationmethods`", "It does not verify DNSSEC itself"))


@pytest.mark.requirement("rfc8555-6.5-01")
async def test_every_answer_to_a_post_has_a_fresh_nonce(server: AcmeServer) -> None:
    """From newAccount to revokeCert, each success brings a nonce, and no two bring the same."""
    client = await server.registered()
    answers: list[httpx.Response] = []

    async def keep(response: httpx.Response) -> None:
        if response.request.method == "POST":
            answers.append(response)

    client.http.event_hooks = {"response": [keep]}
    account = await client.register()
    order = await client.new_order(["a.example"])
    await client.authorize(order, solve)
    order = await client.finalize(order, csr_for("a.example"))
    (certificate, *_) = x509.load_pem_x509_certificates((await client.download(order)).encode())
    for url in (account.url, account.body["orders"], order.url, order.body["authorizations"][0]):
        await client.post(url)
    await client.post(f"{BASE}/acme/new-authz", {"identifier": {"type": "dns", "value": "b.example"}})
    await client.change_key(JoseKey(new_key()))
    await client.revoke(certificate)
    await client.deactivate()
    nonces = [answer.headers["replay-nonce"] for answer in answers]
    assert all(answer.is_success for answer in answers)
    assert len(answers) >= 14
    assert len(set(nonces)) == len(nonces)


@pytest.mark.requirement("rfc8555-7.3-02", "rfc8555-7.3-04", "rfc8555-7.3-05", "rfc8555-7.3.2-01")
async def test_what_is_the_servers_own_is_not_taken_from_clients(server: AcmeServer) -> None:
    """Orders, status and unknown members, in newAccount and in an update, change nothing and do not come back."""
    client = server.client()
    foreign: dict[str, Any] = {"orders": "https://evil.test/orders", "status": "revoked", "extra": 1}
    account = await client.register(**foreign)
    for document in (account.body, (await client.post(account.url, foreign)).json()):
        assert (document["status"], document["orders"]) == ("valid", f"{account.url}/orders")
        assert "extra" not in document


@pytest.mark.requirement("rfc8555-7.4-07")
async def test_a_name_may_stand_in_the_common_name_alone(server: AcmeServer) -> None:
    """A CSR without alternative names asks for its common name, and the certificate has that as alternative name."""
    client = await server.registered()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(new_key(), hashes.SHA256())
    obtained = await client.obtain(["a.example"], csr.public_bytes(serialization.Encoding.DER), solve)
    names = obtained.certificates[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example"]
