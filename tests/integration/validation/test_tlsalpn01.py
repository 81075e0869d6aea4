"""tls-alpn-01 against servers that are right, and ones that are wrong in one way each, over real sockets."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import pytest

from services.acme.challenges.attempt import Attempt
from services.acme.challenges.tlsalpn01 import TlsAlpn01, server_name
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.outbound.addresses import AddressGuard, IPNetwork
from services.chassis.outbound.resolver import Resolver
from tests.support.alpn_server import AlpnServer, Certificate, Reader, Writer, proof
from tests.support.attempts import attempt
from tests.support.dns_server import DnsSimulator

SECONDS: Final = 2.0
ATTEMPT: Final = attempt("tls-alpn-01")
PROOF: Final = proof(ATTEMPT.key_authorization)
LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[AlpnServer]:
    """The applicant's server."""
    async with AlpnServer(tmp_path) as server:
        yield server


def build(dns: DnsSimulator, port: int, networks: tuple[IPNetwork, ...] = LOOPBACK) -> TlsAlpn01:
    """The validator, which may dial loopback unless told otherwise."""
    return TlsAlpn01(Resolver.build(dns.address, SECONDS / 2), AddressGuard(networks), port, SECONDS)


async def refusal(method: TlsAlpn01, tried: Attempt = ATTEMPT) -> ValidationError:
    """Validate and return the error, which must come within the deadline."""
    begin = time.monotonic()
    with pytest.raises(ValidationError) as failed:
        await method.validate(tried)
    assert time.monotonic() - begin < SECONDS + 2
    assert failed.value.detail.isprintable()
    return failed.value


@pytest.mark.requirement("rfc8737-3-05", "rfc8737-3-08", "rfc8737-3-12")
@pytest.mark.requirement("rfc8737-4-02", "rfc8737-4-03")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_right_certificate(dns: DnsSimulator, tls: AlpnServer, version: ssl.TLSVersion) -> None:
    """The digest in the certificate proves control; the server is told name and protocol, and no application data."""
    await tls.serve(Certificate(["SITE.test"], PROOF).pem(), version=version)
    await build(dns, tls.port).validate(ATTEMPT)
    assert await tls.seen.get() == ("site.test", "acme-tls/1", b"")


@pytest.mark.requirement("rfc8737-3-09", "rfc8737-3-10")
async def test_hello(dns: DnsSimulator, tls: AlpnServer) -> None:
    """The ClientHello offers acme-tls/1 and nothing else, and names the validated name and nothing else."""
    hellos: list[bytes] = []

    async def behave(reader: Reader, _: Writer) -> None:
        hellos.append(await reader.read(5000))

    await tls.behave(behave)
    await refusal(build(dns, tls.port))
    assert b"\x00\x10\x00\x0d\x00\x0b\x0aacme-tls/1" in hellos[0]  # RFC 7301 §3.1: type, lengths, one protocol
    assert b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09site.test" in hellos[0]  # RFC 6066 §3: type, lengths, one name


@pytest.mark.requirement("rfc8738-4-01", "rfc8738-4-02", "rfc8738-6-02")
@pytest.mark.parametrize(
    ("address", "name"), [("127.0.0.1", "1.0.0.127.in-addr.arpa"), ("::1", f"1.{'0.' * 31}ip6.arpa")], ids=["v4", "v6"]
)
async def test_address(dns: DnsSimulator, tmp_path: Path, address: str, name: str) -> None:
    """An address is dialled itself, called by its name in the reverse tree, and stands in the certificate as such."""
    tried = attempt("tls-alpn-01", Identifier("ip", address))
    assert server_name(tried.identifier) == name
    async with AlpnServer(tmp_path, address) as tls:
        await tls.serve(Certificate([address], PROOF).pem())
        await build(dns, tls.port).validate(tried)
        assert await tls.seen.get() == (name, "acme-tls/1", b"")
    assert dns.queries == []


async def test_validity_is_not_part_of_the_proof(dns: DnsSimulator, tls: AlpnServer) -> None:
    """A certificate that has expired proves as well: its digest is of this challenge (RFC 8737 asks for no more)."""
    await tls.serve(Certificate(["site.test"], PROOF, start=datetime(2001, 1, 1, tzinfo=UTC)).pem())
    await build(dns, tls.port).validate(ATTEMPT)


@pytest.mark.requirement("rfc8737-3-03", "rfc8737-3-04", "rfc8737-3-05", "rfc8737-3-06")
@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        (lambda: Certificate(["site.test"], None), "has no acmeIdentifier"),
        (lambda: Certificate(["site.test"], PROOF, oid="1.3.6.1.5.5.7.1.30.1"), "has no acmeIdentifier"),
        (lambda: Certificate(["site.test"], PROOF, critical=False), "is not critical"),
        (lambda: Certificate(["site.test"], proof("another")), "not that of this challenge and account key"),
        (lambda: Certificate(["site.test"], PROOF[2:]), "not that of this challenge and account key"),
        (lambda: Certificate(["site.test"], PROOF + b"\0"), "not that of this challenge and account key"),
        (lambda: Certificate([], PROOF), "has 0 names"),
        (lambda: Certificate(["other.test"], PROOF), "has 1 name "),
        (lambda: Certificate(["*.test"], PROOF), "has 1 name "),
        (lambda: Certificate(["site.test", "other.test"], PROOF), "has 2 names"),
        (lambda: Certificate(["site.test", "site.test"], PROOF), "has 2 names"),
        (lambda: Certificate(["site.test", "127.0.0.1"], PROOF), "has 2 names"),
        (lambda: Certificate(["127.0.0.1"], PROOF), "exactly one, the DNS name site.test"),
        (lambda: Certificate(["email:a@site.test"], PROOF), "has 1 name "),
        (lambda: Certificate(["site.test"], PROOF, issued_by=Certificate([], None)), "is not self-signed"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
async def test_wrong_certificate(
    dns: DnsSimulator, tls: AlpnServer, certificate: Callable[[], Certificate], sentence: str
) -> None:
    """Exactly one name of the right kind and the critical digest, self-signed; all else is refused and says why."""
    await tls.serve(certificate().pem())
    error = await refusal(build(dns, tls.port))
    assert error.acme_type == "incorrectResponse"
    assert sentence in error.detail


@pytest.mark.requirement("rfc8738-6-01")
@pytest.mark.parametrize(
    "names", [["127.0.0.1"], ["127.0.0.3"], ["1.0.0.127.in-addr.arpa"], ["127.0.0.1", "site.test"], ["127.0.0.1"] * 2]
)
async def test_wrong_certificate_of_an_address(dns: DnsSimulator, tls: AlpnServer, names: list[str]) -> None:
    """Another address, the reverse name instead of the address, and more than it, are refused (RFC 8738 section 6)."""
    await tls.serve(Certificate(names, PROOF).pem())
    method, tried = build(dns, tls.port), attempt("tls-alpn-01", Identifier("ip", "127.0.0.1"))
    if names == ["127.0.0.1"]:
        await method.validate(tried)
    else:
        assert "the address 127.0.0.1" in (await refusal(method, tried)).detail


@pytest.mark.parametrize("protocols", [["http/1.1"], ["acme-tls/2", "h2"]])
async def test_other_protocol(dns: DnsSimulator, tls: AlpnServer, protocols: list[str]) -> None:
    """A server that does not confirm acme-tls/1 is not asked on purpose: anybody's shared server answers like that."""
    await tls.serve(Certificate(["site.test"], PROOF).pem(), protocols=protocols)
    error = await refusal(build(dns, tls.port))
    assert (error.acme_type, "did not agree to the protocol" in error.detail) == ("incorrectResponse", True)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x78", "refused by peer: no application protocol"),
        (b"\x15\x03\x03\x00\x02\x02\x70", "refused by peer: unrecognized name"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "refused by peer: handshake failure"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not TLS"),
        (b"220 mail.site.test ESMTP\r\n", "not TLS"),
        (b"", "connection closed during the handshake"),
        (b"\x16\x03\x03\x00\x10", "connection closed during the handshake"),
        (b"\x16\x03\x03\xff\xff" + b"\0" * 70_000, ""),
        (b"\x16\x03\x03\x00\x04\x02\xff\xff\xff", ""),
        (b"\x17\x03\x03\x00\x01a", ""),
    ],
    ids=["alpn", "name", "failure", "http", "smtp", "nothing", "cut", "long-record", "long-message", "data"],
)
async def test_no_handshake(dns: DnsSimulator, tls: AlpnServer, answer: bytes, sentence: str) -> None:
    """Whatever comes instead of a handshake is a TLS problem that names where and why, and no crash."""

    async def behave(reader: Reader, writer: Writer) -> None:
        await reader.read(100)
        writer.write(answer)
        await writer.drain()

    await tls.behave(behave)
    error = await refusal(build(dns, tls.port))
    assert error.acme_type == "tls"
    assert error.detail.startswith(f"site.test port {tls.port} (127.0.0.1): ")
    assert sentence in error.detail


@pytest.mark.requirement("rfc8737-4-04")
async def test_old_version(dns: DnsSimulator, tls: AlpnServer) -> None:
    """TLS 1.1 is not spoken: a ServerHello of that version ends the handshake."""

    async def behave(reader: Reader, writer: Writer) -> None:
        await reader.read(5000)
        hello = b"\x02\x00\x00\x26\x03\x02" + b"\x07" * 32 + b"\x00\x00\x2f\x00"
        writer.write(b"\x16\x03\x02" + len(hello).to_bytes(2, "big") + hello)
        await writer.drain()
        await asyncio.sleep(1)

    await tls.behave(behave)
    error = await refusal(build(dns, tls.port))
    assert (error.acme_type, "unsupported protocol" in error.detail) == ("tls", True)


async def test_chain_of_hostile_size(dns: DnsSimulator, tls: AlpnServer) -> None:
    """A server may not have the validator read certificates without end."""
    padding = Certificate([f"{'x' * 60}.{n}.site.test" for n in range(850)], None)
    await tls.serve(Certificate(["site.test"], PROOF).pem(padding))
    error = await refusal(build(dns, tls.port))
    assert (error.acme_type, "more bytes than a handshake has" in error.detail) == ("tls", True)


async def test_silence_and_drip_end_at_the_deadline(dns: DnsSimulator, tls: AlpnServer) -> None:
    """One octet of a handshake record now and then does not extend the time for the whole."""

    async def drip(_: Reader, writer: Writer) -> None:
        writer.write(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
        while True:
            writer.write(b"\3")
            await writer.drain()
            await asyncio.sleep(0.05)

    await tls.behave(drip)
    error = await refusal(build(dns, tls.port))
    assert error.acme_type == "connection"
    assert error.detail == "site.test did not finish a TLS handshake within 2 seconds"


async def test_closed_port(dns: DnsSimulator, unused_tcp_port: int) -> None:
    """Where nobody listens, the sentence names host, port, address and the system's reason."""
    error = await refusal(build(dns, unused_tcp_port))
    assert error.acme_type == "connection"
    assert error.detail == f"site.test port {unused_tcp_port} (127.0.0.1): Connection refused"


async def test_unknown_name(dns: DnsSimulator) -> None:
    """A name without address is a DNS problem."""
    error = await refusal(build(dns, 443), attempt("tls-alpn-01", Identifier("dns", "nowhere.test")))
    assert (error.acme_type, "nowhere.test" in error.detail) == ("dns", True)


@pytest.mark.parametrize("identifier", [Identifier("dns", "site.test"), Identifier("ip", "127.0.0.1")])
async def test_reserved_address_is_not_dialled(dns: DnsSimulator, tls: AlpnServer, identifier: Identifier) -> None:
    """Names and addresses pass the guard before anything is sent."""
    await tls.serve(Certificate([identifier.value], PROOF).pem())
    error = await refusal(build(dns, tls.port, ()), attempt("tls-alpn-01", identifier))
    assert error.acme_type == "connection"
    assert "127.0.0.1 (loopback)" in error.detail
    assert tls.connections == 0
