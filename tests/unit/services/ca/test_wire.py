import base64
from collections.abc import Callable
from typing import Protocol

import orjson
import pytest

from pkicore.errors import MalformedError
from services.ca.wire import (
    CertificateRequest,
    CertificateStatus,
    FeedEntry,
    Identifier,
    IssuedCertificate,
    RevocationAnswer,
    RevocationFeed,
    RevocationRequest,
    format_serial,
    parse_serial,
)


class Message(Protocol):
    """Whatever travels."""

    def to_json(self) -> bytes:
        """Its JSON."""


REQUEST = CertificateRequest(
    csr=b"\x30\x00",
    profile="server",
    identifiers=(Identifier("dns", "a.example"), Identifier("ip", "192.0.2.1")),
    idempotency_key="order-1",
    not_before=1_999_999_000,
    account_key=bytes(32),
    not_after=2_000_000_000,
    requester={"account": "7"},
)


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (REQUEST, CertificateRequest.from_json),
        (IssuedCertificate("ab", "PEM", "PEM\nPEM", 7), IssuedCertificate.from_json),
        (IssuedCertificate("ab", "PEM", "PEM\nPEM", 7, ("PEM\nOTHER",)), IssuedCertificate.from_json),
        (RevocationRequest("keyCompromise", serial="ab"), RevocationRequest.from_json),
        (RevocationRequest(1, certificate=b"\x30"), RevocationRequest.from_json),
        (RevocationAnswer("ab", 7, "superseded"), RevocationAnswer.from_json),
        (CertificateStatus("ab", "good", "issuing-ecdsa", "server", 1, 2, "PEM"), CertificateStatus.from_json),
        (
            CertificateStatus("ab", "revoked", "i", "server", 1, 2, None, 3, "superseded"),
            CertificateStatus.from_json,
        ),
        (RevocationFeed((FeedEntry(1, "ab", "i", 7, "superseded"),), 1), RevocationFeed.from_json),
    ],
)
def test_a_message_survives_its_json(message: Message, read: Callable[[bytes], object]) -> None:
    """Writing and reading give the same message."""
    assert read(message.to_json()) == message


def changed(**fields: object) -> bytes:
    """The request's JSON with some fields replaced; "absent" takes one away."""
    body = orjson.loads(REQUEST.to_json())
    return orjson.dumps({name: value for name, value in (body | fields).items() if value != "absent"})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        (b'{"csr": "\\ud800"}', "JSON"),
        (changed(csr="absent"), "csr"),
        (changed(csr="!!!!"), "csr"),
        (changed(csr="AA=A"), "csr"),
        (changed(csr="A" * 200_000), "csr"),
        (changed(csr=5), "csr"),
        (changed(profile=""), "profile"),
        (changed(profile="ser\x00ver"), "profile"),
        (changed(profile="x" * 201), "profile"),
        (changed(identifiers="absent"), "identifiers"),
        (changed(identifiers={"type": "dns"}), "identifiers"),
        (changed(identifiers=[{"type": "dns"}]), "identifiers"),
        (changed(identifiers=[{"type": "upn", "value": "x"}]), "identifiers"),
        (changed(identifiers=[{"type": "dns", "value": "x", "more": 1}]), "identifiers"),
        (changed(identifiers=[{"type": "dns", "value": "x"}] * 201), "identifiers"),
        (changed(identifiers=[{"type": ["dns"], "value": "x"}]), "identifiers"),
        (changed(idempotency_key="absent"), "idempotency_key"),
        (changed(not_after=True), "not_after"),
        (changed(not_after=1.5), "not_after"),
        (changed(not_after=-1), "not_after"),
        (changed(not_after=10**18), "not_after"),
        (changed(not_before="now"), "not_before"),
        (changed(account_key="AAAA"), "account_key"),
        (changed(account_key=1), "account_key"),
        (changed(requester=[]), "requester"),
        (changed(requester={"a": 1}), "requester"),
        (changed(requester={str(i): "x" for i in range(17)}), "requester"),
        (changed(profil="server"), "profil"),
    ],
)
def test_what_is_no_request_is_refused_by_the_name_of_the_field(body: bytes, named: str) -> None:
    """A request that is malformed in one place is refused with a sentence about that place."""
    with pytest.raises(MalformedError, match=named):
        CertificateRequest.from_json(body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"serial": "ab", "certificate": base64.b64encode(b"x").decode()},
        {"serial": "ab", "reason": True},
        {"serial": "ab", "reason": None},
        {"serial": "ab", "reason": ["keyCompromise"]},
        {"serial": 17},
        {"certificate": "no base64!"},
        {"serial": "ab", "reasons": 1},
    ],
)
def test_a_revocation_names_one_certificate_and_one_reason(body: dict[str, object]) -> None:
    """Both or neither of serial and certificate, or a reason of another type, are refused."""
    with pytest.raises(MalformedError):
        RevocationRequest.from_json(orjson.dumps(body))


@pytest.mark.parametrize("text", ["1f", "1F", "001f", "1:f", "00:1F"])
def test_a_serial_is_read_as_people_write_it(text: str) -> None:
    """Case, colons and leading zeros do not matter; it is always written the same."""
    assert format_serial(parse_serial(text)) == "1f"


@pytest.mark.parametrize("text", ["", ":", "0", "00:00", "-1", "0x1f", "1f ", "g", "\u0661", "f" * 41, "0" * 1000])
def test_what_is_no_serial_is_refused(text: str) -> None:
    """Signs, prefixes, other digits, zero and more than 20 octets are refused."""
    with pytest.raises(MalformedError):
        parse_serial(text)


def test_an_unknown_status_is_refused() -> None:
    """A client does not take a status that it does not know for good."""
    body = orjson.loads(CertificateStatus("ab", "good", "i", "server", 1, 2).to_json()) | {"status": "fine"}
    with pytest.raises(MalformedError, match="status"):
        CertificateStatus.from_json(orjson.dumps(body))


def test_an_older_ca_says_nothing_of_alternate_chains() -> None:
    """Its answer reads as one without any; what is no list of chains is refused."""
    body = orjson.loads(IssuedCertificate("ab", "PEM", "PEM\nPEM", 7).to_json())
    del body["alternates"]
    assert IssuedCertificate.from_json(orjson.dumps(body)).alternates == ()
    with pytest.raises(MalformedError, match="alternates"):
        IssuedCertificate.from_json(orjson.dumps(body | {"alternates": "PEM"}))
