"""Which envelopes are believed, and about which artefact."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest

from pkicore.algorithms import PublicKey, sign_with
from pkicore.dsse import IN_TOTO_PAYLOAD, pae
from pkicore.errors import BadSignatureError, MalformedError
from services.signing.formats import SignedWith, dsse
from services.signing.statements import Subject, statement
from services.signing.verification import WrongArtefactError, verify_hybrid
from tests.support.pki import MemoryKey

DIGESTS = {"sha256": hashlib.sha256(b"release\n").digest()}
STATEMENT = statement([Subject("app", {"sha256": DIGESTS["sha256"].hex()})], "https://cyclonedx.org/bom", b"{}")
Members = dict[str, Any]


def changed(data: bytes, change: Callable[[Members], object]) -> bytes:
    """The bundle with one change."""
    members = orjson.loads(data)
    change(members)
    return orjson.dumps(members)


def hybrid(
    *names: str, payload: bytes = STATEMENT, payload_type: str = IN_TOTO_PAYLOAD
) -> tuple[bytes, list[PublicKey]]:
    """An envelope that fresh keys of these algorithms have signed."""
    keys = [MemoryKey.generate(name) for name in names]
    message = pae(payload_type, payload)
    signed = [
        SignedWith("default.k", key.algorithm, key.public_key, sign_with(key.private_key, message)) for key in keys
    ]
    return dsse.envelope(signed, payload, payload_type), [key.public_key for key in keys]


def strip(place: int, members: Members) -> None:
    """Take a signature away."""
    del members["signatures"][place]


def spoil(place: int, members: Members) -> None:
    """Put garbage in a signature's place."""
    members["signatures"][place]["sig"] = "AAAA"


def test_a_hybrid_needs_every_key() -> None:
    """Both signatures must be there and hold: a stripped or altered one is refused, in either half."""
    data, keys = hybrid("ecdsa-p256", "ml-dsa-65")
    assert verify_hybrid(data, keys, DIGESTS).payload == STATEMENT
    for place in (0, 1):
        stripped = changed(data, partial(strip, place))
        with pytest.raises(BadSignatureError):
            verify_hybrid(stripped, keys, DIGESTS)
        altered = changed(data, partial(spoil, place))
        with pytest.raises(BadSignatureError):
            verify_hybrid(altered, keys, DIGESTS)
    with pytest.raises(BadSignatureError, match="without keys"):
        verify_hybrid(data, [], DIGESTS)


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"_type":"https://in-toto.io/Statement/v0.1","subject":[]}',
        b'{"_type":"https://in-toto.io/Statement/v1","subject":{}}',
        b'{"_type":"https://in-toto.io/Statement/v1","subject":["a",{},{"digest":"x"},{"digest":{"sha256":5}}]}',
        STATEMENT.replace(DIGESTS["sha256"].hex().encode(), DIGESTS["sha256"].hex().upper().encode()),
    ],
)
def test_a_payload_that_does_not_name_the_artefact_is_refused(payload: bytes) -> None:
    """What a hybrid's keys have signed counts for an artefact only if it is a Statement about it."""
    data, keys = hybrid("ecdsa-p256", payload=payload)
    with pytest.raises(WrongArtefactError):
        verify_hybrid(data, keys, DIGESTS)
    assert verify_hybrid(data, keys).payload == payload


def test_a_payload_of_another_type_names_no_artefact() -> None:
    """The payload type is signed: a Statement under another type is not one."""
    data, keys = hybrid("ecdsa-p256", payload_type="application/json")
    with pytest.raises(WrongArtefactError):
        verify_hybrid(data, keys, DIGESTS)


def test_a_statement_with_a_member_twice_is_refused() -> None:
    """Two subjects' lists in one Statement: other readers might see the other one."""
    data, keys = hybrid("ecdsa-p256", payload=STATEMENT[:-1] + b',"subject":[]}')
    with pytest.raises(MalformedError):
        verify_hybrid(data, keys, DIGESTS)
