"""A complete RFC 8555 client for tests: honest by default, and able to corrupt every part of a request.

It is written on `cryptography` and `httpx` alone, not on the project's own JWS code, so that the two check each other.
`Corruption` changes what is signed (`before`) or what is sent (`after`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import NameOID

from tests.support.jose_key import JoseKey, SigningKey, b64u

ERROR_PREFIX = "urn:ietf:params:acme:error:"
JOSE = "application/jose+json"
NONCE_TRIES = 5

CertificateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey


@dataclass(frozen=True)
class Corruption:
    """What to break in a request.

    Attributes:
        before: gets the protected header and the payload before they are signed and returns what is signed instead.
        after: gets the signed JWS and returns the body that is sent instead.
        content_type: sent instead of application/jose+json.
    """

    before: Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]] | None = None
    after: Callable[[dict[str, str]], bytes] | None = None
    content_type: str = JOSE


class AcmeProblemError(Exception):
    """A problem document that the server answered.

    Attributes:
        kind: the type without the ACME prefix, e.g. "badNonce".
        detail: its sentence.
        status: the HTTP status.
        document: the whole document.
        response: the whole response.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status = response.status_code
        self.document: dict[str, Any] = response.json()
        self.kind = str(self.document.get("type", "")).removeprefix(ERROR_PREFIX)
        self.detail = str(self.document.get("detail", ""))
        super().__init__(f"{self.status} {self.kind}: {self.detail}")


@dataclass
class Resource:
    """An ACME object and where it lives."""

    url: str
    body: dict[str, Any]

    @property
    def status(self) -> str:
        """The object's status."""
        return str(self.body["status"])


@dataclass(frozen=True)
class Challenge:
    """One challenge to be answered."""

    type: str
    identifier: dict[str, str]
    token: str
    url: str
    key_authorization: str

    @property
    def txt_value(self) -> str:
        """What dns-01 wants in the TXT record."""
        return b64u(hashlib.sha256(self.key_authorization.encode()).digest())


Solver = Callable[[Challenge], Awaitable[None]]


@dataclass
class Obtained:
    """The outcome of a full order."""

    order: Resource
    pem: str
    certificates: list[x509.Certificate] = field(default_factory=list)


class AcmeClient:
    """One account's view of a server.

    Args:
        http: a client that trusts the server's certificate; kept alive between requests.
        directory_url: where everything starts.
        key: the account key.
        patience: seconds to go on retrying when the server cannot be reached or has a fault; 0 raises at once.
    """

    def __init__(self, http: httpx.AsyncClient, directory_url: str, key: JoseKey, patience: float = 0.0) -> None:
        self.http = http
        self.directory_url = directory_url
        self.key = key
        self.kid: str | None = None
        self.nonces: list[str] = []
        self.requests = 0
        self._directory: dict[str, Any] = {}
        self._patience = patience

    # requests

    async def directory(self) -> dict[str, Any]:
        """The directory, fetched once."""
        if not self._directory:
            response = await self.send("GET", self.directory_url)
            response.raise_for_status()
            self._directory = response.json()
        return self._directory

    async def send(self, method: str, url: str, **arguments: Any) -> httpx.Response:  # noqa: ANN401 -- httpx's
        """One HTTP request; keeps the nonce that comes with the answer."""
        self.requests += 1
        response = await self.http.request(method, url, **arguments)
        if nonce := response.headers.get("Replay-Nonce"):
            self.nonces.append(nonce)
        return response

    async def nonce(self) -> str:
        """A nonce from the last answer, or a new one."""
        if not self.nonces:
            await self.send("HEAD", (await self.directory())["newNonce"])
        return self.nonces.pop()

    async def post_raw(
        self,
        url: str,
        payload: object = None,
        *,
        key: JoseKey | None = None,
        use_jwk: bool = False,
        corruption: Corruption | None = None,
    ) -> httpx.Response:
        """One signed POST without any retry.

        Args:
            url: signed and asked.
            payload: JSON, bytes as they are, or None for POST-as-GET.
            key: signs instead of the account key.
            use_jwk: name the key by its JWK and not by the account URL.
            corruption: what to break.
        """
        signer = key or self.key
        how = corruption or Corruption()
        protected: dict[str, Any] = {"alg": signer.alg, "nonce": await self.nonce(), "url": url}
        protected.update({"jwk": signer.jwk} if use_jwk else {"kid": self.kid})
        octets = payload if isinstance(payload, bytes) else b"" if payload is None else json.dumps(payload).encode()
        if how.before:
            protected, octets = how.before(protected, octets)
        jws = signer.jws(octets, protected)
        body = how.after(jws) if how.after else json.dumps(jws).encode()
        return await self.send("POST", url, content=body, headers={"Content-Type": how.content_type})

    async def post(
        self,
        url: str,
        payload: object = None,
        *,
        key: JoseKey | None = None,
        use_jwk: bool = False,
    ) -> httpx.Response:
        """One signed POST as an honest client sends it: retried on badNonce, and while the server is away or ailing.

        Raises:
            AcmeProblemError: the server refused.
            httpx.TransportError: the server could not be reached within the patience.
        """
        deadline = time.monotonic() + self._patience
        tries = 0
        while True:
            try:
                response = await self.post_raw(url, payload, key=key, use_jwk=use_jwk)
            except httpx.TransportError:
                if time.monotonic() >= deadline:
                    raise
                self.nonces.clear()
                await asyncio.sleep(0.1)
                continue
            if response.is_success:
                return response
            if response.is_server_error and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                continue
            problem = AcmeProblemError(response)
            tries += 1
            if problem.kind != "badNonce" or tries >= NONCE_TRIES:
                raise problem

    async def read(self, url: str) -> Resource:
        """POST-as-GET of a JSON resource."""
        return Resource(url, (await self.post(url)).json())

    # accounts

    async def register(self, contact: Sequence[str] = (), **members: Any) -> Resource:  # noqa: ANN401 -- payload members
        """Make the account, or find it; keeps its URL as the key's name."""
        payload = {"termsOfServiceAgreed": True, "contact": list(contact), **members}
        response = await self.post((await self.directory())["newAccount"], payload, use_jwk=True)
        self.kid = response.headers["Location"]
        return Resource(self.kid, response.json())

    async def change_key(self, new_key: JoseKey) -> None:
        """Roll the account over to `new_key` (RFC 8555 section 7.3.5)."""
        url = (await self.directory())["keyChange"]
        payload = json.dumps({"account": self.kid, "oldKey": self.key.jwk}).encode()
        inner = new_key.jws(payload, {"alg": new_key.alg, "jwk": new_key.jwk, "url": url})
        await self.post(url, inner)
        self.key = new_key

    async def deactivate(self) -> Resource:
        """Deactivate the account."""
        assert self.kid is not None
        return Resource(self.kid, (await self.post(self.kid, {"status": "deactivated"})).json())

    # orders

    async def new_order(self, names: Sequence[str], **members: Any) -> Resource:  # noqa: ANN401 -- payload members
        """Order a certificate for DNS names."""
        identifiers = [{"type": "dns", "value": name} for name in names]
        response = await self.post((await self.directory())["newOrder"], {"identifiers": identifiers, **members})
        return Resource(response.headers["Location"], response.json())

    def challenge(self, authorization: Resource, challenge_type: str) -> Challenge:
        """The challenge of that type in an authorization."""
        found = next(item for item in authorization.body["challenges"] if item["type"] == challenge_type)
        key_authorization = f"{found['token']}.{self.key.thumbprint()}"
        identifier = authorization.body["identifier"]
        return Challenge(challenge_type, identifier, found["token"], found["url"], key_authorization)

    async def authorize(self, order: Resource, solver: Solver, challenge_type: str = "http-01") -> None:
        """Solve every pending authorization of an order and wait until none is pending."""
        for url in order.body["authorizations"]:
            authorization = await self.read(url)
            if authorization.status != "pending":
                continue
            challenge = self.challenge(authorization, challenge_type)
            await solver(challenge)
            answer = await self.post(challenge.url, {})
            if answer.json()["status"] != "valid":
                await self.wait(url, {"pending"})

    async def wait(self, url: str, unfinished: set[str], seconds: float = 20.0) -> Resource:
        """Poll a resource until its status is none of `unfinished`.

        Raises:
            TimeoutError: it stayed unfinished.
        """
        async with asyncio.timeout(seconds):
            while True:
                resource = await self.read(url)
                if resource.status not in unfinished:
                    return resource
                await asyncio.sleep(0.05)

    async def finalize(self, order: Resource, csr: bytes) -> Resource:
        """Send the CSR (DER) and wait for the order to be valid or invalid.

        An order that is not ready any more was finalized by a try whose answer was lost.
        """
        try:
            answer = await self.post(order.body["finalize"], {"csr": b64u(csr)})
        except AcmeProblemError as problem:
            if problem.kind != "orderNotReady" or not self._patience:
                raise
            return await self.wait(order.url, {"processing"})
        finalized = Resource(order.url, answer.json())
        return await self.wait(order.url, {"processing"}) if finalized.status == "processing" else finalized

    async def download(self, order: Resource) -> str:
        """The PEM chain of a valid order."""
        return (await self.post(order.body["certificate"])).text

    async def obtain(
        self, names: Sequence[str], csr: bytes, solver: Solver, challenge_type: str = "http-01"
    ) -> Obtained:
        """A full order: authorizations, finalize, certificate."""
        order = await self.new_order(names)
        await self.authorize(order, solver, challenge_type)
        order = await self.finalize(order, csr)
        pem = await self.download(order)
        return Obtained(order, pem, x509.load_pem_x509_certificates(pem.encode()))

    async def revoke(
        self, certificate: x509.Certificate, reason: int | None = None, *, certificate_key: SigningKey | None = None
    ) -> httpx.Response:
        """Revoke by the account, or by the certificate's own key."""
        payload: dict[str, Any] = {"certificate": b64u(certificate.public_bytes(serialization.Encoding.DER))}
        if reason is not None:
            payload["reason"] = reason
        url = (await self.directory())["revokeCert"]
        if certificate_key is None:
            return await self.post(url, payload)
        return await self.post(url, payload, key=JoseKey(certificate_key), use_jwk=True)


def make_csr(names: Sequence[str], key: CertificateKey, common_name: str | None = None) -> bytes:
    """A CSR (DER) with the names as subjectAltName."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def http_client(ca_bundle: str) -> httpx.AsyncClient:
    """A keep-alive client that trusts `ca_bundle` (a PEM file) and no proxy of the environment."""
    return httpx.AsyncClient(verify=ssl.create_default_context(cafile=ca_bundle), trust_env=False, timeout=30)
