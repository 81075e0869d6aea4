"""Who a peer is, and whether it is the one that was meant."""

from __future__ import annotations

import pytest

from pkicore.errors import BadCertificateError, IdentityError, PeerMismatchError
from pkicore.identity import SpiffeId
from pkicore.mtls.peer import PeerIdentity, key_hash, names_of, presented_name
from tests.support.tls_pki import TlsPki, spiffe

PKI = TlsPki.make("ecdsa")


def _peer(dns: tuple[str, ...] = ("localhost",), uri: str | None = None) -> PeerIdentity:
    leaf = PKI.issuing.issue(uri=uri, dns=dns)
    return PeerIdentity.from_chain((*leaf.chain, PKI.root.certificate))


def test_a_peer_is_read_from_its_chain() -> None:
    """Names, serial numbers and the issuers' keys all come from the verified chain."""
    peer = _peer(("A.test", "b.test"), spiffe("ca"))
    assert peer.spiffe_id == SpiffeId.parse(spiffe("ca"))
    assert peer.dns_names == ("a.test", "b.test")
    assert [str(address) for address in peer.ip_addresses] == ["127.0.0.1"]
    assert peer.name == spiffe("ca")
    assert peer.issuer_key_hash == key_hash(PKI.issuing.certificate)
    assert [link.serial for link in peer.links] == [peer.serial, PKI.issuing.certificate.serial_number]
    assert peer.links[1].issuer_key_hash == key_hash(PKI.root.certificate)


def test_a_peer_without_a_spiffe_id_is_named_by_its_serial_number() -> None:
    """Logs always have something to call it."""
    peer = _peer(("a.test",))
    assert peer.spiffe_id is None
    assert peer.name == f"serial {peer.serial:x}"


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (("a.test",), "a.test"),
        (("a.test",), "A.TEST"),
        (("a.test",), "a.test."),
        (("*.a.test",), "b.a.test"),
        (("a.test",), "127.0.0.1"),
    ],
)
def test_a_host_that_the_certificate_names_matches(names: tuple[str, ...], host: str) -> None:
    """RFC 9525 §6.3: without regard to case, wildcards for one whole label."""
    _peer(names).require(host)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (("a.test",), "b.test"),
        (("a.test",), "x.a.test"),
        (("*.a.test",), "a.test"),
        (("*.a.test",), "c.b.a.test"),
        (("*.test",), "test"),
        (("*",), "localhost"),
        (("f*.a.test",), "foo.a.test"),
        (("a.test",), "127.0.0.2"),
        (("127.0.0.1",), "127.0.0.9"),
        (("a.test",), "::1"),
        (("a.test",), ""),
        (("a.test",), "a.test\x00.evil"),
    ],
)
def test_any_other_host_does_not_match(names: tuple[str, ...], host: str) -> None:
    """Neither parents nor partial wildcards nor look-alikes are accepted."""
    with pytest.raises(PeerMismatchError, match="expected"):
        _peer(names).require(host)


def test_a_spiffe_id_is_compared_whole() -> None:
    """Another service, another trust domain and no ID at all are somebody else."""
    expected = SpiffeId.parse(spiffe("ca"))
    _peer(uri=spiffe("ca")).require(expected)
    for uri in (spiffe("ca2"), "spiffe://pqcpki.test.evil/service/ca", None):
        with pytest.raises(PeerMismatchError):
            _peer(uri=uri).require(expected)


def test_a_ca_or_a_lone_certificate_is_no_peer() -> None:
    """A trust anchor that shows itself has no issuer to vouch for it."""
    for chain in (
        (PKI.issuing.certificate, PKI.root.certificate),
        (PKI.root.certificate,),
        (PKI.issuing.issue(uri=spiffe("ca")).certificate,),
    ):
        with pytest.raises(BadCertificateError):
            PeerIdentity.from_chain(chain)


def test_two_uris_are_no_identity_but_have_a_name_for_the_log() -> None:
    """X509-SVID §2 allows one URI; the log falls back to the serial number."""
    leaf = PKI.issuing.issue(uri=spiffe("a"), extra_uris=(spiffe("b"),))
    with pytest.raises(IdentityError):
        PeerIdentity.from_chain((*leaf.chain, PKI.root.certificate))
    assert presented_name(leaf.certificate) == f"serial {leaf.certificate.serial_number:x}"
    assert names_of(leaf.certificate) == (spiffe("a"), spiffe("b"), "localhost", "127.0.0.1")


def test_a_certificate_without_names_has_none() -> None:
    """No subject alternative names, no names."""
    assert names_of(PKI.root.certificate) == ()
    assert presented_name(PKI.root.certificate).startswith("serial ")
