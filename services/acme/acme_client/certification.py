"""From names to a certificate that is in place (RFC 8555 §7.4), its renewal (RFC 9773) and its revocation (§7.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.clock import Clock, from_unix, unix
from pkicore.encoding import base64url_encode
from pkicore.x509.cert_id import cert_id_of
from pkicore.x509.names import Names
from services.acme.acme_client.certificates import checked, names_of, request_of
from services.acme.acme_client.errors import ProofFailedError, RequestRefusedError, ServerAnswerError
from services.acme.acme_client.folder import Folder, Installed, Request
from services.acme.acme_client.responders import Responder
from services.acme.acme_client.session import Session, member

REASONS: Final = {
    "unspecified": 0,
    "key-compromise": 1,
    "affiliation-changed": 3,
    "superseded": 4,
    "cessation-of-operation": 5,
}


@dataclass(frozen=True, slots=True)
class Certification:
    """One account, before one server, and where its things are kept."""

    session: Session
    folder: Folder
    responder: Responder
    say: Callable[[str], None]
    clock: Clock

    def obtain(self, request: Request, key_type: str, replaces: x509.Certificate | None = None) -> Installed:
        """Order, prove, finalize, check and put in place.

        Raises:
            AcmeClientError: one of them failed; what was in place before still is.
        """
        names = names_of(request.names)
        order_url, order = self._order(request, names, replaces)
        for url in _texts(order, "authorizations"):
            self._prove(url)
        order = self.session.poll(order_url, {"pending"})
        key = generate_private_key(ALGORITHMS[key_type])
        self.say(f"{key_type}: every name is proven")
        if order.get("status") == "ready":
            csr = base64url_encode(request_of(key, names))
            order = self.session.post(member(order, "finalize"), {"csr": csr}).document()
        if order.get("status") == "processing":
            order = self.session.poll(order_url, {"processing"})
        if order.get("status") != "valid":
            raise ServerAnswerError(f"the order became {order.get('status')}: {_reason(order)}")
        pem = self.session.post(member(order, "certificate")).body
        return self.folder.install(key_type, key, checked(pem, key, names))

    def due(self, certificate: x509.Certificate) -> datetime:
        """When it is to be renewed: at a moment of the suggested window, else after two thirds of its life.

        The moment is the same each time that one asks about this certificate, and another for each certificate, so
        that who runs this daily meets it and not all come at once (RFC 9773 §4.2).
        """
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        fallback = begin + 2 * (end - begin) / 3
        if not self.session.offers("renewalInfo") or end <= self.clock.now():  # nobody asks about what has expired
            return fallback
        cert_id = cert_id_of(certificate)
        try:
            told = self.session.get(f"{self.session.resource('renewalInfo')}/{cert_id}")
            window = told["suggestedWindow"]
            first, last = (unix(datetime.fromisoformat(window[edge])) for edge in ("start", "end"))
            length = _positive(last - first)
        except (RequestRefusedError, KeyError, TypeError, ValueError) as error:
            self.say(f"the server suggests no time of renewal ({error}); two thirds of the life count")
            return fallback
        if "explanationURL" in told:
            self.say(f"the server explains the time of renewal at {told['explanationURL']}")
        share = int.from_bytes(hashlib.sha256(cert_id.encode()).digest()[:4]) / 2**32
        return from_unix(int(first + share * length))

    def revoke(self, certificate: x509.Certificate, reason: str) -> None:
        """Revoke it, as the account that ordered it.

        Raises:
            RequestRefusedError: it is not this account's, or is revoked already.
        """
        der = certificate.public_bytes(Encoding.DER)
        wanted = {"certificate": base64url_encode(der), "reason": REASONS[reason]}
        self.session.post(self.session.resource("revokeCert"), wanted)

    def _order(self, request: Request, names: Names, replaces: x509.Certificate | None) -> tuple[str, dict[str, Any]]:
        addresses = [{"type": "ip", "value": str(address)} for address in names.ip]
        wanted: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name} for name in names.dns] + addresses}
        if request.profile is not None:
            wanted["profile"] = request.profile
        if replaces is not None and self.session.offers("renewalInfo"):
            try:
                return self._placed({**wanted, "replaces": cert_id_of(replaces)})
            except RequestRefusedError as error:
                if error.kind != "alreadyReplaced":  # by a run that was cut off after the certificate was made
                    raise
        return self._placed(wanted)

    def _placed(self, wanted: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        answer = self.session.post(self.session.resource("newOrder"), wanted)
        return answer.location(), answer.document()

    def _prove(self, url: str) -> None:
        authorization = self.session.post(url).document()
        if authorization.get("status") == "valid":
            return
        name = _value(authorization)
        offered = [item for item in _challenges(authorization) if item.get("type") == "http-01"]
        if not offered:
            raise ProofFailedError(f"the server does not offer http-01 for {name}")
        token = member(offered[0], "token")
        self.say(f"proving {name}")
        with self.responder.show(token, self.session.key_authorization(token)):
            self.session.post(member(offered[0], "url"), {})
            authorization = self.session.poll(url, {"pending"})
        if authorization.get("status") != "valid":
            errors = [_reason(item) for item in _challenges(authorization) if "error" in item]
            raise ProofFailedError(f"{name} is not proven: {'; '.join(errors) or authorization.get('status')}")


def _texts(document: dict[str, Any], name: str) -> list[str]:
    values = document.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ServerAnswerError(f"the server's answer lacks {name}")
    return values


def _positive(seconds: int) -> int:
    if seconds <= 0:  # RFC 9773 §4.2: such a window is no answer
        raise ValueError("the suggested window ends before it starts")
    return seconds


def _value(authorization: dict[str, Any]) -> str:
    identifier = authorization.get("identifier")
    return str(identifier.get("value")) if isinstance(identifier, dict) else "the name"


def _challenges(authorization: dict[str, Any]) -> list[dict[str, Any]]:
    found = authorization.get("challenges")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _reason(document: dict[str, Any]) -> str:
    error = document.get("error")
    return str(error.get("detail", error)) if isinstance(error, dict) else "no reason given"
