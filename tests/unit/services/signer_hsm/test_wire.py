from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest

from pkicore.errors import MalformedError
from services.signer_hsm import wire
from services.signer_hsm.wire import (
    ApprovalAnswer,
    ApprovalList,
    ApprovalRequest,
    AttestationAnswer,
    AttestationUpload,
    DestructionRecord,
    HealthAnswer,
    KeyDescription,
    KeyPage,
    LifeCycleRequest,
    NewKeyRequest,
    PolicyAnswer,
    PublicKeyAnswer,
    SignAnswer,
    SignatureProblem,
    SignRequest,
    VersionDescription,
)

VERSION = VersionDescription(1, "enabled", b"spki", ("digest",), 5, {"origin": "generated", "bits": 256})
GONE = VersionDescription(2, "destroyed", None, (), 6, {}, DestructionRecord(7, True, {"removed": "x"}))
KEY = KeyDescription("ca.k", "file", "ecdsa-p256", "enabled", 1, 5, (VERSION, GONE))
APPROVAL = ApprovalAnswer("id", "destroy", "ca.k", None, "ab", "who", 1, 2)
MESSAGES: list[Any] = [
    SignRequest("mu", (b"x" * 64,), scheme="ML-DSA-65", version=3, idempotency_key="k"),
    SignRequest("digest", (b"a", b"b"), batch=True),
    NewKeyRequest("ca", "k", "ecdsa-p256", "i"),
    NewKeyRequest("ca", "k", "ecdsa-p256", "i", "file", b"secret"),
    LifeCycleRequest("i"),
    LifeCycleRequest("i", 4),
    KEY,
    KeyPage((KEY,), "ca.k"),
    KeyPage((), None),
    PublicKeyAnswer("ca.k", 1, "rsa-3072", b"spki", ("digest",), ("RS256", "PS256")),
    AttestationAnswer("ca.k", 1, "yubihsm2", True, "device", {"serial": 7}, b"statement", (b"leaf", b"root")),
    AttestationAnswer("ca.k", 1, "attributes", False, "module", {}),
    AttestationUpload("yubihsm2", (b"leaf",)),
    PolicyAnswer(3, "ab"),
    ApprovalRequest("create", "ca.k", None, {"algorithm": "ed25519"}),
    APPROVAL,
    ApprovalList((APPROVAL,)),
    HealthAnswer("ok", {"file": {"ready": True}}, PolicyAnswer(3, "ab")),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_written_is_read(message: Any) -> None:  # noqa: ANN401 -- any message
    """Every message comes back as it went."""
    assert type(message).from_json(message.to_json()) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_missing_is_named(message: Any) -> None:  # noqa: ANN401 -- any message
    """A message without one of its members either reads the same without it or names it."""
    members = orjson.loads(message.to_json())
    for name in members:
        rest = {key: value for key, value in members.items() if key != name}
        try:
            type(message).from_json(orjson.dumps(rest))
        except MalformedError as error:
            assert name in str(error) or "payload" in str(error) or "object" in str(error)  # noqa: PT017 -- or it passes


@pytest.mark.parametrize("wrong", [None, [], {}, -1, True, 1.5, "\x00", "x" * 400_000])
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_of_another_kind_is_malformed(message: Any, wrong: object) -> None:  # noqa: ANN401 -- any message
    """A member of another kind is MalformedError or harmless, never another exception."""
    members = orjson.loads(message.to_json())
    for name in members:
        try:
            type(message).from_json(orjson.dumps({**members, name: wrong}))
        except MalformedError:
            continue


REQUEST_TYPES = (SignRequest, NewKeyRequest, LifeCycleRequest, AttestationUpload, ApprovalRequest)
REQUESTS = [item for item in MESSAGES if isinstance(item, REQUEST_TYPES)]


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_no_request_says_a_thing_twice(message: Any) -> None:  # noqa: ANN401 -- any message
    """A member that is given again is malformed, be it the same, another value, or another spelling of its name."""
    text = message.to_json().decode()
    for name, value in orjson.loads(text).items():
        spellings = [name, f"\\u{ord(name[0]):04x}{name[1:]}"]
        for twice in [f'{text[:-1]},"{spelt}":{again}}}' for spelt in spellings for again in (json.dumps(value), "7")]:
            with pytest.raises(MalformedError, match="twice"):
                type(message).from_json(twice.encode())


@pytest.mark.parametrize("text", ['"', "\\", 'kind":"mu', '":"', "\n", "ä", "kind", '","kind":"digest'])
def test_quotes_in_a_text_are_no_second_member(text: str) -> None:
    """What looks like a member within a text is read as the text that it is."""
    request = SignRequest("mu", (b"x",), idempotency_key=text)
    assert SignRequest.from_json(request.to_json()) == request
    assert SignRequest.from_json(json.dumps(orjson.loads(request.to_json())).encode()) == request


@pytest.mark.parametrize("octets", [b"", b"1", b"12", b"123", b"1234"])
def test_octets_have_one_text(octets: bytes) -> None:
    """Base64 with bits in its padding decodes to the same octets elsewhere; here it is malformed."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = base64.b64encode(octets).decode()
    digits = text.rstrip("=")
    taken = [last for last in alphabet if _is_taken(digits[:-1] + last + text[len(digits) :])] if digits else []
    assert len(taken) == {0: len(alphabet) if octets else 0, 1: 4, 2: 16}[len(octets) % 3]


def _is_taken(payload: str) -> bool:
    try:
        SignRequest.from_json(orjson.dumps({"kind": "digest", "payload": payload}))
    except MalformedError:
        return False
    return True


def test_signatures_and_problems() -> None:
    """One signature stands alone, several in a list, and one that failed has its problem there."""
    one = SignAnswer("ca.k", 1, "ES256", (b"sig",))
    assert orjson.loads(one.to_json(batch=False))["signature"] == "c2ln"
    assert SignAnswer.from_json(one.to_json(batch=False)) == one
    assert SignAnswer.from_json(one.to_json(batch=True)) == one
    mixed = SignAnswer("ca.k", 1, "ES256", (b"sig", SignatureProblem("busy", "full")))
    text = mixed.to_json(batch=True)
    assert orjson.loads(text)["signatures"][1]["problem"]["type"] == "urn:pqcpki:problem:busy"
    assert SignAnswer.from_json(text) == mixed


def test_a_private_key_is_not_shown() -> None:
    """The message that brings in a key does not print it."""
    assert "secret" not in repr(NewKeyRequest("ca", "k", "ed25519", "i", private_key=b"secret"))


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a" * 33, "a\n", "ä", 5, None])
def test_tenants(name: object) -> None:
    """Tenants have lower-case letters, digits and hyphens, 32 at most."""
    with pytest.raises(MalformedError):
        wire.checked_tenant(name)


@pytest.mark.parametrize("key_id", ["a", "a.", ".a", "a.b.c", "a.B", "a.b\n", "a." + "b" * 64, None, 7])
def test_key_ids(key_id: object) -> None:
    """A key id is a tenant, one dot and a name."""
    with pytest.raises(MalformedError):
        wire.split_key_id(key_id)
    assert wire.split_key_id("a.b-1") == ("a", "b-1")
