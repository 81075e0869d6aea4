"""Messages of the signing service come back as they were sent, and nothing else is read."""

from __future__ import annotations

from pathlib import PurePosixPath

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import MalformedError
from services.signing.statements import Subject
from services.signing.wire import (
    FORMATS,
    MAX_REQUEST,
    ApiKeyAnswer,
    ApiKeyList,
    Document,
    LogPlace,
    MadeBundle,
    MadeSignature,
    NewApiKeyAnswer,
    NewApiKeyRequest,
    PolicyUsed,
    SignaturePage,
    SignatureRecord,
    SignatureRequest,
    checked_idempotency_key,
)

SUBJECT = Subject("app.tar.gz", {"sha256": "ab" * 32, "sha512": "cd" * 64})
RECORD = SignatureRecord(
    id="0070dbd8806e5cd622895cfe83",
    created=1_893_456_000,
    tenant="acme",
    caller="mtls spiffe://x/y",
    subjects=(SUBJECT,),
    signatures=(
        MadeSignature("acme.k/1", "ecdsa-p256", "raw", "der", "app.tar.gz", b"\x30\x00", "/v1/signatures/x/y"),
    ),
    bundles=(MadeBundle("vsa", "hybrid", "application/vnd.dsse.envelope.v1+json", "/v1/signatures/x/z"),),
    urls={"self": "/v1/signatures/x"},
    policy=PolicyUsed("ef" * 32, 3, ("first", "second")),
    context={"ticket": "REL-7"},
    log=LogPlace(4, 5, "log.test"),
    sbom={"format": "cyclonedx"},
    provenance={"form": "statement"},
)
API_KEY = ApiKeyAnswer("id", "acme", {"actions": ["sign"]}, 1, 2, None, 0, "maker")
TEXTS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20)
NAMES = TEXTS.filter(lambda name: PurePosixPath(name).name not in {"", ".."})


@given(
    names=st.lists(NAMES, min_size=1, max_size=5, unique=True),
    formats=st.one_of(st.none(), st.lists(st.sampled_from(FORMATS), min_size=1, unique=True)),
    context=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True), TEXTS, max_size=3),
    document=st.one_of(st.none(), st.binary(min_size=1, max_size=50)),
)
def test_a_request_is_read_as_it_was_written(
    names: list[str], formats: list[str] | None, context: dict[str, str], document: bytes | None
) -> None:
    """Whatever names, formats, context and documents it has."""
    sent = SignatureRequest(
        tuple(Subject(name, {"sha256": "0" * 64}) for name in names),
        profile="default",
        formats=None if formats is None else tuple(formats),  # type: ignore[arg-type]  # some of FORMATS
        sbom=None if document is None else Document(document, "a/b"),
        provenance=None if document is None else Document(document),
        context=context,
        mu={"acme.k": b"x" * 64},
    )
    assert SignatureRequest.from_json(sent.to_json()) == sent


@pytest.mark.parametrize(
    "record",
    [RECORD, SignatureRecord.from_json(RECORD.to_json()), SignatureRecord.of(orjson.loads(RECORD.to_json()))],
)
def test_a_record_is_read_as_it_was_written(record: SignatureRecord) -> None:
    """Octet for octet, so that what is stored can be served."""
    assert record == RECORD
    assert record.to_json() == RECORD.to_json()


def test_a_page_has_records_and_the_next() -> None:
    """None at the end."""
    body = b'{"signatures":[%b],"next":null}' % RECORD.to_json()
    assert SignaturePage.from_json(body) == SignaturePage((RECORD,), None)


def test_api_keys_are_read_as_they_were_written() -> None:
    """Alone, listed, and just made; whose text never shows in a repr."""
    request = NewApiKeyRequest({"actions": ["sign"]}, 60)
    assert NewApiKeyRequest.from_json(request.to_json()) == request
    assert ApiKeyAnswer.from_json(API_KEY.to_json()) == API_KEY
    assert ApiKeyList.from_json(ApiKeyList((API_KEY,)).to_json()) == ApiKeyList((API_KEY,))
    made = NewApiKeyAnswer("pqcsign_secret", API_KEY)
    assert NewApiKeyAnswer.from_json(made.to_json()) == made
    assert "secret" not in repr(made)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"scopes":{},"life_seconds":1,"life_seconds":2}',
        b'{"scopes":[],"life_seconds":1}',
        b'{"scopes":{}}',
        b'{"scopes":{},"life_seconds":-1}',
        b'{"scopes":{},"life_seconds":1,"tenant":"globex"}',
    ],
)
def test_a_request_for_an_api_key_that_makes_no_sense_is_refused(body: bytes) -> None:
    """Nobody asks for another tenant's, either."""
    with pytest.raises(MalformedError):
        NewApiKeyRequest.from_json(body)


@pytest.mark.parametrize("member", ["id", "subjects", "signatures", "urls", "policy", "context"])
def test_a_record_without_a_member_is_none(member: str) -> None:
    """A client learns that the answer makes no sense, instead of half a record."""
    members = orjson.loads(RECORD.to_json())
    del members[member]
    with pytest.raises(MalformedError):
        SignatureRecord.of(members)


def test_a_request_that_is_too_long_is_not_even_parsed() -> None:
    """One mebibyte of JSON at most."""
    with pytest.raises(MalformedError, match="longer"):
        SignatureRequest.from_json(b" " * (MAX_REQUEST + 1))


@pytest.mark.parametrize("text", ["", "x" * 201, "a\nb", "\u00e9"])
def test_an_idempotency_key_is_short_printable_ascii(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(MalformedError):
        checked_idempotency_key(text)
