"""Orders, renewal and its time, before a server that says what a test tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.jose.jws import UnverifiedJws
from pkicore.x509.cert_id import cert_id_of
from services.acme.acme_client.certification import Certification
from services.acme.acme_client.errors import AcmeClientError, ProofFailedError, ServerAnswerError
from services.acme.acme_client.folder import Folder, Request
from services.acme.acme_client.responders import WebRoot
from services.acme.acme_client.session import Session
from tests.support.clock import ManualClock

SERVER = "https://ca.test"
KEY = ec.generate_private_key(ec.SECP256R1())
BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC)
TWO_THIRDS = datetime(2026, 3, 1, 8, tzinfo=UTC)
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
WANTED = Request(f"{SERVER}/directory", ["a.test"], ["ecdsa-p256"], profile="office")
Answers = Mapping[str, Callable[[Any], httpx.Response]]


class World:
    """A client, the bodies that it sent by path, and what it said."""

    def __init__(self, directory: Path, answers: Answers, *, resources: tuple[str, ...] = ("renewalInfo",)) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.said: list[str] = []
        self._answers = answers
        names = ("newNonce", "newOrder", "revokeCert", *resources)
        self._directory = {name: f"{SERVER}/{name}" for name in names}
        http = httpx.Client(transport=httpx.MockTransport(self._handle))
        session = Session(http, WANTED.server, KEY, pause=lambda _: None)
        self.clock = ManualClock(datetime(2026, 2, 1, tzinfo=UTC))
        self.client = Certification(session, Folder(directory), WebRoot(directory), self.said.append, self.clock)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.lstrip("/")
        if path == "directory":
            return httpx.Response(200, json=self._directory)
        if request.method == "HEAD":
            return httpx.Response(200, headers={"Replay-Nonce": "bm9uY2U"})
        payload = UnverifiedJws.parse(request.content).payload if request.content else b""
        self.sent.append((path, orjson.loads(payload) if payload else None))
        answer = self._answers[path.partition("/")[0]](self.sent[-1][1])
        answer.headers["Replay-Nonce"] = "bm9uY2U"
        return answer


def old_certificate() -> x509.Certificate:
    """A certificate of the first quarter."""
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 77, BEGIN, END)
    return builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key()), critical=False
    ).sign(KEY, hashes.SHA256())


OLD = old_certificate()


def says(document: Any, status: int = 200, **headers: str) -> Callable[[Any], httpx.Response]:  # noqa: ANN401 - JSON
    """Always that answer."""
    return lambda _: httpx.Response(status, json=document, headers=headers)


def window(start: str, end: str) -> dict[str, Any]:
    """The document of RFC 9773 §4.2."""
    return {"suggestedWindow": {"start": start, "end": end}}


def test_the_time_of_renewal_is_within_the_window_and_stays(tmp_path: Path) -> None:
    """The same certificate gets the same moment each day, and the explanation is shown (RFC 9773 §4.2)."""
    told = {**window("2026-02-10T00:00:00Z", "2026-02-12T00:00:00Z"), "explanationURL": "https://ca.test/why"}
    world = World(tmp_path, {"renewalInfo": says(told)})
    moment = world.client.due(OLD)
    assert datetime(2026, 2, 10, tzinfo=UTC) <= moment <= datetime(2026, 2, 12, tzinfo=UTC)
    assert world.client.due(OLD) == moment
    assert world.sent[0] == (f"renewalInfo/{cert_id_of(OLD)}", None)
    assert "https://ca.test/why" in world.said[0]


@pytest.mark.parametrize(
    "answer",
    [
        says(window("2026-02-10T00:00:00Z", "2026-02-10T00:00:00Z")),
        says(window("2026-02-10T00:00:00Z", "2026-02-09T00:00:00Z")),
        says(window("2026-02-10T00:00:00", "2026-02-12T00:00:00")),
        says(window("soon", "later")),
        says({"suggestedWindow": None}),
        says({}),
        says({"type": "urn:ietf:params:acme:error:malformed", "detail": "unknown"}, 404),
    ],
    ids=["empty", "backwards", "no zone", "no time", "null", "nothing", "refused"],
)
def test_without_a_window_two_thirds_of_the_life_count(tmp_path: Path, answer: Callable[[Any], httpx.Response]) -> None:
    """An empty window is no answer (RFC 9773 §4.2), nor is one that cannot be read."""
    assert World(tmp_path, {"renewalInfo": answer}).client.due(OLD) == TWO_THIRDS


def test_nobody_asks_about_what_has_expired_or_where_there_is_no_renewal_info(tmp_path: Path) -> None:
    """Two thirds of the life count there, and nothing is sent (RFC 9773 §4.3)."""
    expired, plain = World(tmp_path, {}), World(tmp_path, {}, resources=())
    expired.clock.advance(END - expired.clock.now())
    for world in (expired, plain):
        assert world.client.due(OLD) == TWO_THIRDS
        assert world.sent == []


def failing_order(payload: Any) -> httpx.Response:  # noqa: ANN401 - JSON
    """An order; `replaces` is refused."""
    if "replaces" in payload:
        problem = {"type": "urn:ietf:params:acme:error:alreadyReplaced", "detail": "twice"}
        return httpx.Response(409, json=problem)
    document = {"status": "pending", "authorizations": [f"{SERVER}/authz"], "finalize": f"{SERVER}/finalize"}
    return httpx.Response(201, json=document, headers={"Location": f"{SERVER}/order"})


def authorization(status: str, **challenge: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """An authorization with http-01."""
    offered = {"type": "http-01", "token": TOKEN, "url": f"{SERVER}/challenge", **challenge}
    return {"status": status, "identifier": {"type": "dns", "value": "a.test"}, "challenges": [offered]}


def test_a_proof_that_the_server_did_not_see_is_explained(tmp_path: Path) -> None:
    """The server's reason is told, nothing is put in place, and the proof is taken away."""
    reason = {"error": {"detail": "a.test port 80: Connection refused"}}
    turn = iter([authorization("pending"), authorization("pending"), authorization("invalid", **reason)])
    shown: list[bool] = []

    def challenge(_: Any) -> httpx.Response:  # noqa: ANN401 - JSON
        shown.append((tmp_path / ".well-known/acme-challenge" / TOKEN).exists())
        return httpx.Response(200, json={})

    authz = {"authz": lambda _: httpx.Response(200, json=next(turn))}
    world = World(tmp_path, {"newOrder": failing_order, "challenge": challenge, **authz})
    with pytest.raises(ProofFailedError, match=r"a\.test is not proven: a\.test port 80: Connection refused"):
        world.client.obtain(WANTED, "ecdsa-p256", replaces=OLD)
    assert shown == [True]
    assert list((tmp_path / ".well-known/acme-challenge").iterdir()) == []
    placed = [payload for path, payload in world.sent if path == "newOrder"]
    assert [("replaces" in one, one["profile"]) for one in placed] == [(True, "office"), (False, "office")]


@pytest.mark.parametrize(
    ("found", "error", "sentence"),
    [
        (authorization("pending", type="dns-01"), ProofFailedError, "does not offer http-01 for a.test"),
        (authorization("pending", token="../../../../../etc/passwd"), ServerAnswerError, "a token that is none"),
        (authorization("pending", url=None), ServerAnswerError, "lacks url"),
        ({"status": "pending", "identifier": 1, "challenges": [2]}, ProofFailedError, "does not offer http-01"),
        ({"status": "pending", "challenges": 3}, ProofFailedError, "does not offer http-01"),
    ],
    ids=["no http-01", "token", "no url", "numbers", "a number"],
)
def test_authorizations_that_lead_nowhere(
    tmp_path: Path, found: dict[str, Any], error: type[AcmeClientError], sentence: str
) -> None:
    """Each is told in words."""
    world = World(tmp_path, {"newOrder": failing_order, "authz": says(found)})
    with pytest.raises(error, match=sentence):
        world.client.obtain(WANTED, "ecdsa-p256")


def test_an_order_that_becomes_invalid_is_explained(tmp_path: Path) -> None:
    """What the CA said of the certificate request is told."""
    ended = {"status": "invalid", "error": {"detail": "the CA refuses the key"}}
    turn = iter([{"status": "ready", "finalize": f"{SERVER}/finalize"}, ended])
    answers = {"newOrder": failing_order, "authz": says(authorization("valid"))}
    world = World(
        tmp_path,
        {
            **answers,
            "order": lambda _: httpx.Response(200, json=next(turn)),
            "finalize": says({"status": "processing"}),
        },
    )
    with pytest.raises(ServerAnswerError, match="the order became invalid: the CA refuses the key"):
        world.client.obtain(WANTED, "ecdsa-p256")


def test_a_revocation_names_certificate_and_reason(tmp_path: Path) -> None:
    """The reason is the number of RFC 5280 §5.3.1."""
    world = World(tmp_path, {"revokeCert": says({})})
    world.client.revoke(OLD, "superseded")
    assert [payload["reason"] for _, payload in world.sent] == [4]
