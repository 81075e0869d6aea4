"""Multipart uploads to `/v1/signatures`: what is taken, what ends a request, and what is left of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client import CollectorRegistry

from pkicore.dsse import Envelope, verify_all
from services.chassis.observability import HttpMetrics
from services.signing.app import public_application
from services.signing.provenance import MAX_PROVENANCE_BYTES
from services.signing.store import INLINE_OCTETS
from services.signing.wire import MAX_DOCUMENT, MAX_REQUEST, SignatureRecord
from tests.contract.test_signing_api import provenance
from tests.support.sboms import cyclonedx
from tests.support.signing_world import OPERATOR, SigningWorld, request

BOUNDARY = b"=-boundary-="
TYPE = {"content-type": f'multipart/form-data; boundary="{BOUNDARY.decode()}"'}
SBOM = orjson.dumps(cyclonedx())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service."""
    opened = await SigningWorld.open(tmp_path)
    yield opened
    await opened.close()


def part(name: str, content: bytes, *headers: bytes) -> bytes:
    """One part of a body."""
    lines = [b"--" + BOUNDARY, b'Content-Disposition: form-data; name="%b"' % name.encode(), *headers, b"", content]
    return b"\r\n".join(lines) + b"\r\n"


def body(*parts: bytes) -> bytes:
    """A whole body."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def wanted(**more: Any) -> bytes:  # noqa: ANN401 -- members of a request
    """The part with the request."""
    return part("request", orjson.dumps(request(formats=["dsse"], **more)))


async def upload(world: SigningWorld, content: bytes, **headers: str) -> httpx.Response:
    """A multipart request."""
    async with world.http() as http:
        return await http.post("/v1/signatures", content=content, headers=TYPE | headers)


async def test_documents_are_uploaded_beside_the_request(world: SigningWorld) -> None:
    """And served as they came; the files of the request are gone."""
    built = orjson.dumps(provenance(b"an artefact"))
    parts = (wanted(), part("sbom", SBOM, b"Content-Type: application/vnd.cyclonedx+json"), part("provenance", built))
    answer = await upload(world, body(*parts))
    assert answer.status_code == 201, answer.text
    record = SignatureRecord.from_json(answer.content)
    assert (await world.fetch(record.urls["sbom"])).content == SBOM
    assert (await world.fetch(record.urls["provenance"])).content == built
    assert {path.parent.parent.name for path in world.files()} == {"sha256"}


async def test_a_statement_that_is_longer_than_memory_should_hold_is_signed_piece_by_piece(
    world: SigningWorld,
) -> None:
    """The hybrid envelope and each bundle verify, with the SBOM in them octet for octet."""
    document = cyclonedx()
    document["components"][0]["description"] = "x" * (2 << 20)
    sbom = orjson.dumps(document)
    parts = (part("request", orjson.dumps(request(profile="hybrid"))), part("sbom", sbom))
    answer = await upload(world, body(*parts))
    assert answer.status_code == 201, answer.text
    record = SignatureRecord.from_json(answer.content)
    served = await world.fetch(next(one.url for one in record.bundles if one.kind == "sbom"))
    assert len(served.content) > INLINE_OCTETS
    assert served.headers["etag"] == f'"{hashlib.sha256(served.content).hexdigest()}"'
    envelope = Envelope.parse(served.content, max_bytes=8 << 20)
    verify_all(
        envelope, [await world.public_key(f"acme.{key}") for key in ("attestation-es256", "attestation-mldsa65")]
    )
    assert sbom in envelope.payload
    bundles = [one for one in record.bundles if one.kind == "sbom" and "bundle" in one.media_type]
    assert [one.algorithm for one in bundles] == ["ecdsa-p256", "ml-dsa-65"]
    for one in bundles:
        inner = (await world.fetch(one.url)).json()["dsseEnvelope"]
        key = "attestation-es256" if one.algorithm == "ecdsa-p256" else "attestation-mldsa65"
        parsed = Envelope.parse(orjson.dumps(inner), max_bytes=8 << 20)
        verify_all(parsed, [await world.public_key(f"acme.{key}")])


def disposed(disposition: bytes) -> bytes:
    """A part with a disposition of its own."""
    return b"--" + BOUNDARY + b"\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + SBOM + b"\r\n"


BAD = {
    "a name twice": body(wanted(), disposed(b'form-data; name="sbom"; name="provenance"')),
    "a name in two cases": body(wanted(), disposed(b"form-data; name=provenance; NAME=sbom")),
    "a quotation without end": body(wanted(), disposed(b'form-data; name="sbom')),
    "a name behind a quotation": body(wanted(), disposed(b'form-data; x="a\\"; name=x"; name=sbom; name=sbom')),
    "a name without value": body(wanted(), disposed(b'form-data; name; name="sbom"')),
    "a name beside another": body(wanted(), disposed(b'form-data; x="y"name="sbom"')),
    "no request": body(part("sbom", SBOM)),
    "the request second": body(part("sbom", SBOM), wanted()),
    "two SBOMs": body(wanted(), part("sbom", SBOM), part("sbom", SBOM)),
    "another part": body(wanted(), part("script", b"x")),
    "no name": body(wanted(), b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data\r\n\r\nx\r\n"),
    "no disposition": body(wanted(), b"--" + BOUNDARY + b"\r\nContent-Type: text/plain\r\n\r\nx\r\n"),
    "a header twice": body(wanted(), part("sbom", SBOM, b"Content-Type: a/b", b"Content-Type: c/d")),
    "headers without end": body(wanted(), part("sbom", SBOM, b"X: " + b"x" * 5000)),
    "a transfer encoding": body(wanted(), part("sbom", SBOM, b"Content-Transfer-Encoding: base64")),
    "no closing boundary": wanted() + part("sbom", SBOM),
    "cut off": body(wanted(), part("sbom", SBOM))[:-10],
    "nothing": b"",
    "no multipart": b"{}",
    "an SBOM inline and as a part": body(wanted(sbom={"content": {}}), part("sbom", SBOM)),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_body_that_breaks_a_rule_is_refused(world: SigningWorld, name: str) -> None:
    """By 400; no file is left, and nothing was signed."""
    answer = await upload(world, BAD[name])
    assert answer.status_code == 400, answer.text
    assert (world.files(), world.commits, world.signer.asked) == ([], [], 0)


@pytest.mark.parametrize(
    "more", ["; boundary=other", f"; BOUNDARY={BOUNDARY.decode()}", "; charset=utf-16", '; charset="utf-7"']
)
async def test_there_is_one_boundary_and_no_other_charset(world: SigningWorld, more: str) -> None:
    """What could be read in two ways is not read."""
    answer = await upload(world, body(wanted()), **{"content-type": TYPE["content-type"] + more})
    assert (answer.status_code, world.signer.asked) == (400, 0)


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", '"utf-16"'])
async def test_a_request_of_json_alone_has_no_other_charset(world: SigningWorld, charset: str) -> None:
    """JSON is UTF-8 (RFC 8259 section 8.1)."""
    content = orjson.dumps(request(formats=["dsse"]))
    async with world.http() as http:
        headers = {"content-type": f"application/json; charset={charset}"}
        assert (await http.post("/v1/signatures", content=content, headers=headers)).status_code == 400
        headers = {"content-type": "application/json; charset=UTF-8"}
        assert (await http.post("/v1/signatures", content=content, headers=headers)).status_code == 201


async def test_what_other_clients_write_is_read(world: SigningWorld) -> None:
    """Names without quotation marks, file names with everything in them, a charset that says what is so."""
    sbom = disposed(b'Form-Data;name=sbom;\tfilename="a;\\" name=x.json"; filename*=utf-8\'\'a.json;')
    headers = {"content-type": f"{TYPE['content-type']}; charset=UTF-8"}
    assert (await upload(world, body(wanted(), sbom), **headers)).status_code == 201


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 71}"])
async def test_a_boundary_has_1_to_70_characters(world: SigningWorld, boundary: str) -> None:
    """Anything else is no multipart body (RFC 2046 section 5.1.1)."""
    answer = await upload(world, body(wanted()), **{"content-type": f"multipart/form-data{boundary}"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("name", "most"), [("request", MAX_REQUEST), ("provenance", MAX_PROVENANCE_BYTES)], ids=["request", "provenance"]
)
async def test_a_part_that_is_too_long_ends_the_request(world: SigningWorld, name: str, most: int) -> None:
    """By 413, and the connection with it, since the rest is not read."""
    parts = (part("request", b" " * (most + 1)),) if name == "request" else (wanted(), part(name, b" " * (most + 1)))
    answer = await upload(world, body(*parts))
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert world.files() == []


async def test_a_declared_length_beyond_the_bound_is_refused_unread(world: SigningWorld) -> None:
    """A 65 MiB SBOM does not even begin."""
    status, read = await _send(world, [b"x"], length=MAX_DOCUMENT + (8 << 20))
    assert (status, read) == (413, 0)


async def test_an_sbom_of_65_mib_is_cut_off_where_it_is_too_long(world: SigningWorld) -> None:
    """Without a declared length: what comes is counted; the file is gone afterwards."""
    piece = b" " * (1 << 20)
    head = wanted() + b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="sbom"\r\n\r\n'
    status, read = await _send(world, [head, *[piece] * 70])
    assert status == 413
    assert read < 68
    assert world.files() == []


async def test_a_caller_that_hangs_up_leaves_nothing(world: SigningWorld) -> None:
    """Within the body: no file, no record."""
    status, _ = await _send(world, [wanted(), None])
    assert status == 400
    assert (world.files(), world.commits) == ([], [])


async def test_the_same_upload_under_one_idempotency_key_has_one_answer(world: SigningWorld) -> None:
    """Another document under it is a conflict: the hash of a request covers what was uploaded."""
    first = await upload(world, body(wanted(), part("sbom", SBOM)), **{"idempotency-key": "k"})
    again = await upload(world, body(wanted(), part("sbom", SBOM)), **{"idempotency-key": "k"})
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    other = await upload(world, body(wanted(), part("sbom", SBOM + b" ")), **{"idempotency-key": "k"})
    assert other.status_code == 409


async def _send(world: SigningWorld, pieces: Iterable[bytes | None], length: int | None = None) -> tuple[int, int]:
    """A request in pieces, None where the caller hangs up; answers the status, and how many pieces were read."""
    application = public_application(world.core, HttpMetrics(CollectorRegistry()))
    rest, read, status = iter(pieces), 0, 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        found = next(rest, b"")
        await asyncio.sleep(0)
        if found is None:
            return {"type": "http.disconnect"}
        read += 1
        return {"type": "http.request", "body": found, "more_body": bool(found)}

    async def send(message: Any) -> None:  # noqa: ANN401 -- ASGI's own type
        nonlocal status
        status = message.get("status", status)

    headers = [(name.encode(), value.encode()) for name, value in TYPE.items()]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    peer = SimpleNamespace(spiffe_id=OPERATOR, serial=1)
    scope = {"type": "http", "method": "POST", "path": "/v1/signatures", "headers": headers, "state": {"peer": peer}}
    await application(scope, receive, send)
    return status, read
