"""Two engines back to back, without sockets: what contexts insist on, and what errors are called."""

from __future__ import annotations

from dataclasses import replace

import pytest
from OpenSSL import SSL

from pkicore.errors import HandshakeError, IdentityError, MalformedError, PeerMismatchError, PkiError, RevokedError
from pkicore.mtls.admission import check_group
from pkicore.mtls.context import INTERNAL, Verification, client_context, server_context
from pkicore.mtls.engine import TlsEngine, reason_of, server_name
from tests.support.tls_pki import TlsPki
from tests.support.tls_world import World

PKI = TlsPki.make("ecdsa")
NO_CRL = replace(INTERNAL, check_crl=False)


def _pair() -> tuple[TlsEngine, TlsEngine]:
    server = server_context(NO_CRL, PKI.service("ca"), PKI.trust, [], None)
    client = client_context(NO_CRL, PKI.service("acme"), PKI.trust, [])
    return TlsEngine(client, Verification()), TlsEngine(server, Verification(), server=True)


def _shake(client: TlsEngine, server: TlsEngine) -> None:
    done = [False, False]
    for _ in range(6):
        for index, (end, other) in enumerate(((client, server), (server, client))):
            done[index] = done[index] or end.handshake()
            data = end.outgoing()
            if data:
                other.receive(data)
    assert all(done)


def test_bytes_go_through_whole() -> None:
    """A megabyte in, the same megabyte out, in records."""
    client, server = _pair()
    _shake(client, server)
    client.send(bytes(range(256)) * 4096)
    server.receive(client.outgoing())
    received = b""
    while (part := server.incoming()) is not None:
        received += part
    assert received == bytes(range(256)) * 4096
    assert server.peer() is not None


def test_a_close_notify_is_the_end_and_no_error() -> None:
    """After it the peer reads b""."""
    client, server = _pair()
    _shake(client, server)
    client.close()
    server.receive(client.outgoing())
    assert server.incoming() == b""


def test_altered_bytes_are_an_error() -> None:
    """One bit on the wire, and the record is refused."""
    client, server = _pair()
    _shake(client, server)
    client.send(b"hello")
    record = bytearray(client.outgoing())
    record[-1] ^= 1
    server.receive(bytes(record))
    with pytest.raises(HandshakeError, match="record layer failure"):
        server.incoming()


def test_the_chain_is_sent_without_its_root() -> None:
    """Four kilobytes less with ML-DSA, and the peer has the root anyway."""
    client, server = _pair()
    _shake(client, server)
    assert len(client.presented_chain()) == 2
    peer = client.peer()
    assert peer is not None
    assert len(peer.chain) == 3


def test_a_tls_1_3_session_cannot_be_resumed() -> None:
    """Whatever ticket a client was sent, its next connection proves itself anew."""
    context = server_context(NO_CRL, PKI.service("ca"), PKI.trust, [], None)
    client_side = client_context(NO_CRL, PKI.service("acme"), PKI.trust, [])
    sessions: list[SSL.Session] = []
    for _ in range(2):
        client = TlsEngine(client_side, Verification())
        server = TlsEngine(context, Verification(), server=True)
        if sessions:
            client._connection.set_session(sessions[0])
        _shake(client, server)
        server.send(b"x")
        client.receive(server.outgoing())
        assert client.incoming() == b"x"
        assert server.peer() is not None
        assert client.peer() is not None
        session = client._connection.get_session()
        assert session is not None
        sessions.append(session)


def test_what_callbacks_hold_is_let_go_after_the_handshake() -> None:
    """Connections live long; what judged them need not."""
    client, server = _pair()
    _shake(client, server)
    assert client._verification.on_peer is None
    assert client._verification.on_staple is None


async def test_a_crl_with_several_urls_covers_a_certificate_that_names_one() -> None:
    """The IDP lists two URLs; leaf and CA certificate each carry another one of them (RFC 5280 §6.3.3 b.2.i)."""
    world = await World.make("ecdsa")
    crls = [crl.der for crl in world.crls.current()]
    assert len(crls) == 2
    listener, client = world.listener(), world.client()
    ends = client.engine("localhost", on_staple=lambda _der, _chain: None), listener.engine()
    _shake(*ends)
    assert listener.admit(ends[1]) is not None


def test_a_callback_that_refuses_ends_the_handshake_with_its_reason() -> None:
    """What `on_peer` raises is what the owner of the engine gets."""

    def refuse(_certificate: object) -> None:
        raise RevokedError(7)

    client_side = client_context(NO_CRL, None, PKI.trust, [])
    server_side = server_context(replace(NO_CRL, client_certificate="none"), PKI.service("ca"), PKI.trust, [], None)
    client = TlsEngine(client_side, Verification(on_peer=refuse))
    server = TlsEngine(server_side, Verification(), server=True)
    with pytest.raises(HandshakeError) as caught:
        _shake(client, server)
    assert caught.value.reason == "certificate revoked"
    assert caught.value.peer == "spiffe://pqcpki.test/service/ca"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RevokedError(5), "certificate revoked"),
        (IdentityError("x"), "names are not acceptable"),
        (PeerMismatchError("x"), "another peer than expected"),
        (HandshakeError("no staple"), "no staple"),
        (MalformedError("as it is"), "as it is"),
    ],
)
def test_reasons_are_short_and_stable(error: PkiError, reason: str) -> None:
    """They become metric labels: no serial numbers, no names."""
    assert reason_of(error) == reason


def test_groups_are_compared_by_both_their_names() -> None:
    """OpenSSL is told P-256 and reports secp256r1."""
    check_group("secp256r1", ("X25519", "P-256"))
    check_group("x25519", ("X25519",))
    check_group("anything", ())
    for group in ("X25519", None, ""):
        with pytest.raises(HandshakeError, match="group not allowed"):
            check_group(group, INTERNAL.groups)


def test_addresses_are_not_sent_as_server_names() -> None:
    """RFC 6066 §3."""
    assert server_name("ca.test") == "ca.test"
    assert server_name("127.0.0.1") is None
    assert server_name("::1") is None
