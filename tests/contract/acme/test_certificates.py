"""The download of certificates and the list of orders: links to what there is besides."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.acme_client import AcmeClient, AcmeProblemError
from tests.support.acme_orders import csr_for, new_key, ready_order
from tests.support.acme_server import BASE, AcmeServer, solve


def links(header: str, relation: str) -> list[str]:
    """The URLs of a relation in Link headers."""
    return re.findall(rf'<([^>]*)>;rel="{relation}"', header)


def csr_of(dns: list[str], ip: list[str], common_name: str | None = None) -> bytes:
    """A CSR for names of both types."""
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(ip_address(address)) for address in ip]
    subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(new_key(), hashes.SHA256()).public_bytes(Encoding.DER)


async def new_order(client: AcmeClient, *identifiers: tuple[str, str]) -> str:
    """The URL of an order for names of both types."""
    payload = {"identifiers": [{"type": kind, "value": value} for kind, value in identifiers]}
    return (await client.post(f"{BASE}/acme/new-order", payload)).headers["location"]


@pytest.mark.requirement("rfc8555-7.4.2-01")
async def test_alternate_chains(server: AcmeServer) -> None:
    """Each chain that the CA gave has its own URL, which the others link to; others' and unknown ones are 404."""
    server.ca.alternates = ("first chain\n", "second chain\n")
    client, other = await server.registered(), await server.registered()
    url = (await client.obtain(["a.example"], csr_for("a.example"), solve)).order.body["certificate"]
    response = await client.post(url)
    assert links(response.headers["link"], "alternate") == [f"{url}/1", f"{url}/2"]
    second = await client.post(f"{url}/2")
    assert (second.text, second.headers["content-type"]) == ("second chain\n", "application/pem-certificate-chain")
    assert links(second.headers["link"], "alternate") == [url, f"{url}/1"]
    for path in ("0", "3", "01", "-1", "x", "1" * 50):
        assert (await client.post_raw(f"{url}/{path}")).status_code == 404
    assert (await other.post_raw(f"{url}/1")).status_code == 404
    assert (await client.post_raw(f"{url}/1", {})).status_code == 400


@pytest.mark.requirement("rfc8555-7.1.2.1-01", "rfc8555-7.1.2.1-03")
async def test_the_list_of_orders(server: AcmeServer) -> None:
    """An account's list has each of its orders once, without invalid ones, and links to no page where there is none."""
    client = await server.registered()
    account = (await client.read(client.kid or "")).body
    made = [(await client.new_order([f"{number}.example"])).url for number in range(3)]
    dropped = await client.new_order(["dropped.example"])
    await client.post(dropped.body["authorizations"][0], {"status": "deactivated"})
    response = await client.post(account["orders"])
    assert set(response.json()["orders"]) == set(made)
    assert not links(response.headers["link"], "next")


@pytest.mark.requirement("rfc8555-7.1.2.1-01")
async def test_pages_of_orders(tmp_path: Path) -> None:
    """The pages, each linked from the one before by rel="next", hold every order once, newest first."""
    server = await AcmeServer.start(tmp_path, page=2)
    client = await server.registered()
    made = []
    for number in range(5):
        made.append((await client.new_order([f"{number}.example"])).url)
        server.clock.advance(timedelta(seconds=number % 2))  # some are of the same second
    url, found, pages = (await client.read(client.kid or "")).body["orders"], list[str](), 0
    while url:
        response = await client.post(url)
        found, pages = found + response.json()["orders"], pages + 1
        url = next(iter(links(response.headers["link"], "next")), "")
    assert (sorted(found), pages, found[0]) == (sorted(made), 3, made[4])
    await server.stop()


async def test_the_next_page(server: AcmeServer) -> None:
    """A page begins after the order that its URL names; a URL that no page links to is refused."""
    client = await server.registered()
    url = (await client.read(client.kid or "")).body["orders"]
    made = [(await client.new_order([f"{number}.example"])).url for number in range(4)]
    listed = (await client.post(url)).json()["orders"]
    assert sorted(listed) == sorted(made)
    created = int(server.clock.now().timestamp())
    after = listed[1].rsplit("/", 1)[1]
    assert (await client.post(f"{url}?after={created}.{after}")).json()["orders"] == listed[2:]
    for query in ("after=1", "after=x.y", f"after={created}.{after}&x=1", "page=2", "after=" + "9" * 30 + f".{after}"):
        assert (await client.post_raw(f"{url}?{query}")).status_code == 400


@pytest.mark.requirement("rfc8738-3-01", "rfc8738-3-02")
@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1"])
async def test_a_certificate_for_an_address(server: AcmeServer, address: str) -> None:
    """An address is ordered, proven by http-01, and stands in the certificate as an address (RFC 8738)."""
    client = await server.registered()
    order = await client.read(await new_order(client, ("dns", "a.example"), ("ip", address)))
    authorization = await client.read(order.body["authorizations"][1])
    assert authorization.body["identifier"] == {"type": "ip", "value": address}
    assert not {challenge["type"] for challenge in authorization.body["challenges"]} - {"http-01", "tls-alpn-01"}
    await client.authorize(order, solve)
    done = await client.finalize(order, csr_of(["a.example"], [address], common_name=address))
    leaf = x509.load_pem_x509_certificates((await client.download(done)).encode())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ip_address(address)]


@pytest.mark.requirement("rfc8555-7.4-06")
@pytest.mark.parametrize(
    ("dns", "ip", "common_name"),
    [
        (["a.example"], ["10.0.0.2"], None),
        (["a.example"], [], None),
        (["a.example"], ["10.0.0.1", "10.0.0.2"], None),
        (["a.example"], ["10.0.0.1"], "10.0.0.2"),
    ],
)
async def test_addresses_beyond_the_order(
    server: AcmeServer, dns: list[str], ip: list[str], common_name: str | None
) -> None:
    """A CSR with other names than the order's, of either type, is refused, and the order stays ready."""
    client = await server.registered()
    order = await client.read(await new_order(client, ("dns", "a.example"), ("ip", "10.0.0.1")))
    await client.authorize(order, solve)
    with pytest.raises(AcmeProblemError) as refused:
        await client.finalize(order, csr_of(dns, ip, common_name))
    assert refused.value.kind == "badCSR"
    assert (await client.read(order.url)).status == "ready"


@pytest.mark.requirement("rfc8555-6.3-04")
async def test_others_resources_do_not_exist(server: AcmeServer) -> None:
    """What belongs to another account is answered exactly as what is not there, read or written."""
    client, other = await server.registered(), await server.registered()
    order = await ready_order(client, "a.example")
    authorization = await client.read(order.body["authorizations"][0])
    done = await client.finalize(order, csr_for("a.example"))
    urls = [order.url, authorization.url, authorization.body["challenges"][0]["url"], done.body["certificate"]]
    for url in urls:
        absent = url[:-1] + ("A" if url[-1] != "A" else "Q")
        for payload in (None, {}, {"status": "deactivated"}):
            theirs, nobodys = await other.post_raw(url, payload), await other.post_raw(absent, payload)
            assert (theirs.status_code, theirs.content) == (nobodys.status_code, nobodys.content)
            assert theirs.status_code in {400, 404}
    assert (await client.read(authorization.url)).status == "valid"


async def test_one_name_many_times(server: AcmeServer) -> None:
    """Orders for one name, again and again, cost one proof, and duplicates within an order are one name."""
    client = await server.registered()
    await ready_order(client, "a.example")
    for _ in range(20):
        order = await client.new_order(["a.example", "A.EXAMPLE", "a.example"])
        assert (order.status, len(order.body["authorizations"])) == ("ready", 1)
    assert len(server.validator.attempts) == 1
