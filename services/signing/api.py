"""The endpoints about signatures: who calls, what was sent, what is answered; no rules.

| endpoint                              | what                                                              |
|---------------------------------------|-------------------------------------------------------------------|
| POST /v1/signatures                   | sign artefacts by digest, with SBOM and provenance                |
| GET  /v1/signatures                   | the tenant's: ?subject_digest=&predicate_type=&after=&limit=      |
| GET  /v1/signatures/{id}              | the record                                                        |
| GET  /v1/signatures/{id}/{artefact}   | exactly the octets that the record names                          |
| GET  /v1/keys/{id}/public-key         | PEM, for anybody                                                  |
| GET  /v1/policy, /v1/policy/{sha256}  | a set of policies that is or was in force                         |
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

import orjson
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.errors import MalformedError
from services.chassis.asgi import Request, Response, Route, json_response
from services.signer_hsm.wire import split_key_id
from services.signing.access import Access
from services.signing.callers import Caller
from services.signing.decisions import Decisions, access, access_to_own, caller_name
from services.signing.errors import NotFoundError, UnknownKeyError
from services.signing.incoming import DocumentFile, Incoming
from services.signing.keys import SigningKeys
from services.signing.objects import Objects, Scratch
from services.signing.provenance import MAX_PROVENANCE_BYTES
from services.signing.quotas import Quotas
from services.signing.records import BASE, POLICY_BASE
from services.signing.signatures import Signatures
from services.signing.statements import checked_uri
from services.signing.store import MAX_PAGE, Artefact, SigningStore, StoredPolicies, StoredSignature
from services.signing.uploads import MAX_UPLOAD, MULTIPART, Upload, check_charset, read_upload
from services.signing.wire import MAX_REQUEST, SignatureRequest, checked_idempotency_key

_JSON: Final = (b"content-type", b"application/json")
_PRIVATE: Final = (b"cache-control", b"private, max-age=31536000, immutable")
_FRESH: Final = (b"cache-control", b"no-store")
_PUBLIC: Final = (b"cache-control", b"public, max-age=60")
_CREATED: Final = 201
_MAX_QUERY: Final = 8192
_PAGE_OCTETS: Final = 2 * 1024 * 1024
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{26}", re.ASCII)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class SignatureEndpoints:
    """The handlers over the domain.

    Attributes:
        published: ids of the keys whose public halves anybody may have.
        upload_seconds: what a whole upload may take.
    """

    entrance: Access
    decisions: Decisions
    quotas: Quotas
    signatures: Signatures
    keys: SigningKeys
    store: SigningStore
    objects: Objects
    published: frozenset[str]
    upload_seconds: float

    def routes(self) -> list[Route]:
        """What is answered quickly."""
        return [
            Route("POST", BASE, self.sign, ("application/json", MULTIPART), MAX_REQUEST),
            Route("GET", BASE, self.search),
            Route("GET", f"{BASE}/{{id}}", self.show),
            Route("GET", f"{BASE}/{{id}}/{{artefact}}", self.artefact),
            Route("GET", "/v1/keys/{id}/public-key", self.public_key),
            Route("GET", POLICY_BASE, self.policy),
            Route("GET", f"{POLICY_BASE}/{{sha256}}", self.policy),
        ]

    async def sign(self, request: Request) -> Response:
        """Steps 1 to 3 here, the others in `services.signing.signatures`."""
        caller = await self.entrance.caller(request)  # 1
        key = idempotency_key_of(request)
        with self.quotas.place(caller.tenant):  # 3 begins before 2: whoever has no place sends no body
            async with self.objects.scratch() as scratch:
                content_type = request.headers[b"content-type"]
                if content_type.lower().startswith(MULTIPART.encode()):  # 2
                    pieces = request.stream(MAX_UPLOAD, self.upload_seconds)
                    upload = await read_upload(content_type, pieces, scratch)
                else:
                    check_charset(content_type)
                    upload = Upload(await request.body(), {})
                incoming = await read_incoming(caller, upload, key, scratch)
                stored = await self.signatures.sign(incoming, scratch)
        return Response(_CREATED, stored.record, [_JSON, _FRESH, (b"location", f"{BASE}/{stored.id}".encode())])

    async def search(self, request: Request) -> Response:
        """A page of the tenant's signatures."""
        caller = await self.entrance.caller(request)
        query = query_of(request, {"subject_digest", "predicate_type", "after", "limit"})
        found_by = _found_by(query)
        after = query.get("after")
        if after is not None and not _ID.fullmatch(after):
            raise MalformedError("after must be the next of a page")
        most = _limit(query.get("limit"))
        await self.decisions.permit(access(caller, "search"), {"found_by": found_by})
        found = await self.store.page(caller.tenant, found_by, after=after, most=most + 1)
        shown = _fitting(found[:most])
        following = shown[-1].id if len(found) > len(shown) else None
        records = b",".join(one.record for one in shown)
        return Response(200, b'{"signatures":[%b],"next":%b}' % (records, orjson.dumps(following)), [_JSON, _FRESH])

    async def show(self, request: Request) -> Response:
        """The record."""
        record = (await self._readable(request)).record
        return Response.tagged(request, record, hashlib.sha256(record).hexdigest(), [_JSON, _PRIVATE])

    async def artefact(self, request: Request) -> Response:
        """What the record names."""
        stored = await self._readable(request)
        name, found = request.params["artefact"], None
        if _FILE_NAME.fullmatch(name):
            found = await self.store.artefact(stored.tenant, stored.id, name)
        if found is None:
            raise NotFoundError("there is no such artefact of this signature")
        return self._served(request, found)

    def _served(self, request: Request, found: Artefact) -> Response:
        headers = [(b"content-type", found.media_type.encode()), _PRIVATE, (b"x-content-type-options", b"nosniff")]
        if found.content is None:
            return Response.file(request, self.objects.path(found.sha256), found.size, found.sha256, headers)
        return Response.tagged(request, found.content, found.sha256, headers)

    async def _readable(self, request: Request) -> StoredSignature:
        """The signature in the path, for a caller of its tenant who may read it."""
        caller = await self.entrance.caller(request)
        wanted, stored = request.params["id"], None
        asked = access(caller, "read")
        if not caller.scopes.allow("read", None, ()) and _ID.fullmatch(wanted):
            stored = await self.store.signature(caller.tenant, wanted)
            if stored is not None and _is_made_by(caller, stored):
                asked = access_to_own(caller, "read")
        await self.decisions.permit(asked, {"signature": wanted[:64]})
        if stored is None and _ID.fullmatch(wanted):
            stored = await self.store.signature(caller.tenant, wanted)
        if stored is None:
            raise NotFoundError("there is no such signature")
        return stored

    async def public_key(self, request: Request) -> Response:
        """The public half of a key, in PEM: for anybody where a profile has it, else for callers of its tenant."""
        key_id = request.params["id"]
        tenant, _ = split_key_id(key_id)
        if key_id not in self.published and tenant != (await self.entrance.caller(request)).tenant:
            raise UnknownKeyError("there is no such key")
        key = await self.keys.key(key_id)
        pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return Response(200, pem, [(b"content-type", b"application/x-pem-file"), _PUBLIC])

    async def policy(self, request: Request) -> Response:
        """A set of policies with its texts."""
        caller = await self.entrance.caller(request)
        sha256 = request.params.get("sha256")
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise NotFoundError("there is no such set of policies")
        await self.decisions.permit(access(caller, "read"), {"policy": sha256 or "present"})
        found = await (self.store.newest_policies() if sha256 is None else self.store.policies(sha256))
        if found is None:
            raise NotFoundError("there is no such set of policies")
        return json_response(_policies(found), headers=[_FRESH])


async def read_incoming(caller: Caller, upload: Upload, idempotency_key: str | None, scratch: Scratch) -> Incoming:
    """Step 2: the request, checked, with its documents on disk or at hand.

    Raises:
        MalformedError: it makes no sense, or has a document twice.
    """
    request = SignatureRequest.from_json(upload.request)
    parts = upload.parts
    for name in parts:
        if getattr(request, name) is not None:
            raise MalformedError(f"{name} stands in the request and comes as a part, too: send one of them")
    whole = hashlib.sha256(upload.request)
    for name, part in sorted(parts.items()):
        whole.update(f"\n{name} {part.media_type!a} {part.file.sha256}".encode())
    sbom = None
    if "sbom" in parts:
        sbom = DocumentFile(parts["sbom"].file, parts["sbom"].media_type)
    elif request.sbom is not None:
        written = await asyncio.to_thread(scratch.write, [request.sbom.content])
        sbom = DocumentFile(written, request.sbom.media_type)
    provenance = None if request.provenance is None else request.provenance.content
    if "provenance" in parts:
        provenance = await asyncio.to_thread(parts["provenance"].file.path.read_bytes)
    if provenance is not None and len(provenance) > MAX_PROVENANCE_BYTES:
        raise MalformedError(f"the provenance is longer than {MAX_PROVENANCE_BYTES} octets")
    if "resource_uri" in request.context:
        checked_uri(request.context["resource_uri"], "context.resource_uri")
    return Incoming(caller, request, whole.digest(), idempotency_key, sbom, provenance)


def idempotency_key_of(request: Request) -> str | None:
    """The one Idempotency-Key of a request; None where there is none.

    Raises:
        MalformedError: there are several, or it makes no sense.
    """
    values = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not values:
        return None
    if len(values) > 1:
        raise MalformedError("Idempotency-Key is given twice")
    return checked_idempotency_key(values[0].decode("latin-1"))


def query_of(request: Request, allowed: Collection[str]) -> Mapping[str, str]:
    """The query's parameters, each named once.

    Raises:
        MalformedError: other parameters, or one twice.
    """
    raw: bytes = request.scope.get("query_string", b"")
    if not raw:
        return {}
    if len(raw) > _MAX_QUERY:
        raise MalformedError("the query is too long")
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,  # an empty variable of a script must not find everything
            strict_parsing=True,
            max_num_fields=len(allowed),
            errors="strict",
        )
    except ValueError as error:
        raise MalformedError("the query is no list of name=value, or too long a one") from error
    query = dict(pairs)
    if len(query) < len(pairs) or not query.keys() <= set(allowed):
        raise MalformedError(f"the query may have {', '.join(sorted(allowed))}, each once")
    return query


def _is_made_by(caller: Caller, stored: StoredSignature) -> bool:
    made_by: str = orjson.loads(stored.record)["caller"]
    return made_by == caller_name(caller)


def _found_by(query: Mapping[str, str]) -> list[str]:
    found = []
    if (digest := query.get("subject_digest")) is not None:
        if not _DIGEST.fullmatch(digest):
            raise MalformedError("subject_digest must be sha256:HEX, sha384:HEX or sha512:HEX in lower case")
        found.append(digest)
    if (predicate_type := query.get("predicate_type")) is not None:
        found.append(checked_uri(predicate_type, "predicate_type"))
    return found


def _limit(text: str | None) -> int:
    if text is None:
        return MAX_PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_PAGE)) and 1 <= int(text) <= MAX_PAGE):
        raise MalformedError(f"limit must be a whole number from 1 to {MAX_PAGE}")
    return int(text)


def _fitting(found: list[StoredSignature]) -> list[StoredSignature]:
    """As many as fit into a page, one at least."""
    octets = 0
    for number, one in enumerate(found):
        octets += len(one.record)
        if octets > _PAGE_OCTETS and number:
            return found[:number]
    return found


def _policies(found: StoredPolicies) -> dict[str, object]:
    return {"version": found.version, "sha256": found.sha256, "at": found.at, "files": dict(found.files)}
