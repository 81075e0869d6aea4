"""The service against a model of who has proven what: in whatever order things happen, what is issued is proven."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pkicore.clock import unix
from services.acme.answers import rfc3339
from services.acme.errors import ValidationError
from services.ca.client import RejectedNamesError
from tests.support.acme_client import AcmeClient, AcmeProblemError
from tests.support.acme_orders import csr_for
from tests.support.acme_server import AcmeServer
from tests.support.jose_key import JoseKey, b64u

T = TypeVar("T")
NAMES: Final = ("a.example", "b.example", "*.a.example", "10.0.0.1")
ORDERS: Final = st.integers(0, 20)
# RFC 8555 §7.1.6, with the ways through what nobody looked at; a pending authorization may be given up (§7.5.2).
ORDER_ARROWS: Final = {
    "pending": {"ready", "processing", "valid", "invalid"},
    "ready": {"processing", "valid", "invalid"},
    "processing": {"valid", "invalid"},
    "valid": set[str](),
    "invalid": set[str](),
}
AUTHORIZATION_ARROWS: Final = {
    "pending": {"valid", "invalid", "expired", "deactivated"},
    "valid": {"expired", "deactivated"},
    "invalid": set[str](),
    "expired": {"deactivated"},
    "deactivated": set[str](),
}


@dataclass
class Proof:
    """An authorization as the model knows it."""

    owner: int
    name: str
    expires: str
    status: str = "pending"
    is_proven: bool = False


@dataclass
class Ordered:
    """An order as the model knows it."""

    owner: int
    names: tuple[str, ...]
    body: dict[str, Any]
    status: str
    csr: str = field(default="")


class Acme(RuleBasedStateMachine):
    """Two accounts that order the same names."""

    @initialize()
    def start(self) -> None:
        """A server, and two accounts that have proven something."""
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.server = self.run(AcmeServer.start(Path(self.directory.name), hold_seconds=0.02))
        self.clients = [self.run(self.server.registered()) for _ in range(2)]
        self.gone: set[int] = set()
        self.orders: dict[str, Ordered] = {}
        self.proofs: dict[str, Proof] = {}
        self.finalized: set[str] = set()
        self.order(0, {"a.example", "*.a.example"})
        self.order(1, {"b.example"})
        for which in range(len(self.proofs)):
            self.prove(which, list(self.proofs.values())[which].owner, succeeds=True)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry out one request."""
        return self.runner.run(work)

    def teardown(self) -> None:
        """Look at everything once more, then stop."""
        if hasattr(self, "server"):
            self.look()
            self.run(self.server.stop())
            self.runner.close()
            self.directory.cleanup()

    @rule(who=st.integers(0, 1), names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=2))
    def order(self, who: int, names: set[str]) -> None:
        """Place an order."""
        client, wanted = self.clients[who], tuple(sorted(names))
        identifiers = [{"type": "ip" if name[0].isdigit() else "dns", "value": name} for name in wanted]
        response = self.asked(who, self.url("new-order"), {"identifiers": identifiers})
        if response is None:
            return
        body = response.json()
        self.orders[response.headers["location"]] = Ordered(who, wanted, body, body["status"])
        for name, url in zip(wanted, body["authorizations"], strict=True):
            known = self.proofs.setdefault(url, Proof(who, name, ""))
            assert (known.owner, known.name) == (who, name), "an authorization serves its account and name alone"
            known.expires = known.expires or self.run(client.read(url)).body["expires"]
        if body["status"] == "ready":
            self.require_proofs(who, wanted, body)

    @rule(who=st.integers(0, 1), name=st.sampled_from([name for name in NAMES if "*" not in name]))
    def authorize_ahead(self, who: int, name: str) -> None:
        """Ask for an authorization without an order."""
        identifier = {"type": "ip" if name[0].isdigit() else "dns", "value": name}
        response = self.asked(who, self.url("new-authz"), {"identifier": identifier})
        if response is not None:
            self.proofs.setdefault(response.headers["location"], Proof(who, name, response.json()["expires"]))

    @rule(which=ORDERS, who=st.integers(0, 1), succeeds=st.booleans())
    def prove(self, which: int, who: int, *, succeeds: bool) -> None:
        """Answer the first challenge of an authorization, perhaps another account's, perhaps in vain."""
        url, proof = self.pick(self.proofs, which)
        if proof is None or (document := self.asked(proof.owner, url)) is None:
            return
        failures: dict[str, Exception] = (
            {} if succeeds else {proof.name.removeprefix("*."): ValidationError("connection", "no")}
        )
        self.server.validator.failures = failures
        answer = self.asked(who, document.json()["challenges"][0]["url"], {})
        if answer is not None:
            assert who == proof.owner, "another account's challenge does not exist"
            if answer.json()["status"] == "valid" and proof.status == "pending" and not proof.is_proven:
                assert succeeds
                proof.is_proven = True

    @rule(which=ORDERS)
    def fulfil(self, which: int) -> None:
        """Prove all that an order needs, and finalize it."""
        url, order = self.pick(self.orders, which)
        if order is not None:
            for authorization in order.body["authorizations"]:
                self.prove(list(self.proofs).index(authorization), order.owner, succeeds=True)
            self.finalize(list(self.orders).index(url), order.owner, None)

    @rule(which=ORDERS, who=st.integers(0, 1))
    def give_up(self, which: int, who: int) -> None:
        """Deactivate an authorization, perhaps another account's."""
        url, proof = self.pick(self.proofs, which)
        if proof is not None and self.asked(who, url, {"status": "deactivated"}) is not None:
            assert who == proof.owner
            proof.is_proven, proof.status = False, "deactivated"

    @rule(which=ORDERS, who=st.integers(0, 1), names=st.none() | st.sets(st.sampled_from(NAMES[:3]), min_size=1))
    def finalize(self, which: int, who: int, names: set[str] | None) -> None:
        """Finalize an order, perhaps another account's, perhaps for other names."""
        url, order = self.pick(self.orders, which)
        if order is None or (names is None and "10.0.0.1" in order.names):
            return
        wanted = order.names if names is None else tuple(sorted(names))
        csr = b64u(csr_for(*wanted))
        answer = self.asked(who, order.body["finalize"], {"csr": csr})
        if answer is not None:
            assert (who, wanted) == (order.owner, order.names)
            self.require_proofs(order.owner, order.names, order.body)
            self.finalized.add(url)

    @rule(who=st.integers(0, 1))
    def change_key(self, who: int) -> None:
        """An account gets another key; what it has proven stays."""
        if who not in self.gone and not self.server.ca.away:  # which is asked about the key
            self.run(self.clients[who].change_key(JoseKey.generate()))

    @rule()
    def close_account(self) -> None:
        """The second account is closed: nothing is issued to it any more."""
        if 1 not in self.gone:
            self.run(self.clients[1].deactivate())
            self.gone.add(1)
            for proof in self.proofs.values():
                proof.is_proven = proof.is_proven and proof.owner != 1

    @rule(hours=st.sampled_from([1, 5, 30, 24 * 8]))
    def wait(self, hours: int) -> None:
        """Time passes."""
        self.server.clock.advance(timedelta(hours=hours))

    @rule(state=st.sampled_from(["here", "away", "refuses"]))
    def ca_is(self, state: str) -> None:
        """The CA answers, is away, or refuses."""
        self.server.ca.away = state == "away"
        self.server.ca.refusal = RejectedNamesError("rejected-names", 400, "no") if state == "refuses" else None

    @rule()
    def restart(self) -> None:
        """The server stops, cleans up, and takes up what it left."""
        self.server = self.run(self.server.restart())
        for client in self.clients:
            client.http = self.server.http

    @rule()
    def look(self) -> None:
        """Every order and authorization has moved along the arrows."""
        for url, order in self.orders.items():
            order.status = self.moved(order.owner, url, order.status, ORDER_ARROWS)
        for url, proof in self.proofs.items():
            proof.status = self.moved(proof.owner, url, proof.status, AUTHORIZATION_ARROWS)

    @invariant()
    def only_what_was_finalized_is_issued(self) -> None:
        """The CA is asked for no order that was not finalized, and for exactly its names."""
        if not hasattr(self, "server"):
            return
        for request in self.server.ca.requests:
            order = self.orders[request.requester["order"]]
            assert request.requester["order"] in self.finalized
            assert tuple(sorted(name.value for name in request.identifiers)) == order.names
            assert request.requester["account"] == self.clients[order.owner].kid

    # The model's own

    def url(self, path: str) -> str:
        """A resource of the server."""
        return f"https://acme.test/acme/{path}"

    def asked(self, who: int, url: str, payload: object = None) -> Any:  # noqa: ANN401 - a response or None
        """The answer, None for a refusal that is the client's doing."""
        client: AcmeClient = self.clients[who]
        try:
            return self.run(client.post(url, payload))
        except AcmeProblemError as problem:
            if problem.kind == "serverInternal":
                raise
            return None

    def pick(self, among: Mapping[str, T], which: int) -> tuple[str, T | None]:
        """One of them, if there is any."""
        items = list(among.items())
        return items[which % len(items)] if items else ("", None)

    def require_proofs(self, owner: int, names: tuple[str, ...], body: dict[str, Any]) -> None:
        """Each name has a proof of this very account, in force now, among the order's authorizations."""
        now = rfc3339(unix(self.server.clock.now()))
        for name, url in zip(names, body["authorizations"], strict=True):
            proof = self.proofs[url]
            assert (proof.owner, proof.name) == (owner, name)
            assert proof.is_proven, f"{name} was never proven, or given up since"
            assert proof.expires > now, f"the proof of {name} has expired"

    def moved(self, owner: int, url: str, before: str, arrows: dict[str, set[str]]) -> str:
        """The status now, which the one before leads to."""
        answer = self.asked(owner, url)
        if answer is None:
            assert owner in self.gone
            return before
        now = str(answer.json()["status"])
        assert now == before or now in arrows[before], f"{before} became {now}"
        return now


TestAcme = Acme.TestCase
TestAcme.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
