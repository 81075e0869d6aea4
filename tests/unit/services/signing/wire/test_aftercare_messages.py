"""Answers about webhooks, evidence, holds and policies: what is read is what was written, and nothing else is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
import pytest

from pkicore.errors import MalformedError
from services.signing.wire import SignatureRequest
from services.signing.wire.evidence import EvidenceAnswer, EvidencePage, HoldAnswer, HoldRequest, NewEvidenceRequest
from services.signing.wire.policies import PoliciesAnswer
from services.signing.wire.webhooks import (
    DeliveryAnswer,
    DeliveryPage,
    NewWebhookAnswer,
    NewWebhookRequest,
    WebhookAnswer,
    WebhookList,
)

WEBHOOK: Final[dict[str, Any]] = {
    "id": "wh_1",
    "url": "https://hook.test/x",
    "events": ["signature.created"],
    "state": "enabled",
    "created_at": 1,
    "created_by": "mtls spiffe://test/operator/olga",
    "previous_until": 0,
}
DELIVERY: Final[dict[str, Any]] = {
    "event": "evt_1",
    "webhook": "wh_1",
    "type": "signature.created",
    "state": "dead",
    "attempts": 9,
    "due_at": 2,
    "created_at": 1,
    "last_status": None,
    "last_error": "the receiver does not answer",
}
EVIDENCE: Final[dict[str, Any]] = {
    "id": "0" * 26,
    "tenant": "acme",
    "name": "app-1.0",
    "size": 10_240,
    "sha256": "a" * 64,
    "manifest_signature": "1" * 26,
    "retained_until": None,
    "created_at": 1,
    "created_by": "mtls x",
    "urls": {"self": "/v1/evidence/0", "archive": "/v1/evidence/0/archive"},
}
HOLD: Final[dict[str, Any]] = {"promised_until": 0, "held_at": 1, "held_by": "mtls x", "hold_reason": "case 7"}
POLICIES: Final[dict[str, Any]] = {"version": 1, "sha256": "a" * 64, "at": 1, "files": {"a.cedar": "permit"}}

ANSWERS: Final[list[tuple[Callable[[bytes], Any], dict[str, Any]]]] = [
    (WebhookList.from_json, {"webhooks": [WEBHOOK]}),
    (NewWebhookAnswer.from_json, {"secret": "whsec_x", **WEBHOOK}),
    (DeliveryPage.from_json, {"deliveries": [DELIVERY], "next": "1-evt_1"}),
    (EvidencePage.from_json, {"evidence": [EVIDENCE], "next": None}),
    (EvidenceAnswer.from_json, EVIDENCE),
    (HoldAnswer.from_json, HOLD),
    (PoliciesAnswer.from_json, POLICIES),
]
NAMES: Final = ["webhooks", "webhook", "deliveries", "archives", "evidence", "hold", "policies"]


def test_members_are_those_that_were_read() -> None:
    """What a command shows with --json is what the service said."""
    for read, members in (
        (WebhookAnswer.of, WEBHOOK),
        (DeliveryAnswer.of, DELIVERY),
        (EvidenceAnswer.of, EVIDENCE),
        (lambda body: HoldAnswer.from_json(orjson.dumps(body)), HOLD),
        (lambda body: PoliciesAnswer.from_json(orjson.dumps(body)), POLICIES),
    ):
        assert orjson.loads(orjson.dumps(read(members).members())) == members


def test_requests_are_as_the_service_reads_them() -> None:
    """Each member by its name."""
    assert orjson.loads(NewWebhookRequest("https://x", ("signature.created",)).to_json()) == {
        "url": "https://x",
        "events": ["signature.created"],
    }
    wanted = {"name": "app", "signatures": ["0"], "subjects": ["sha256:0"], "profile": "default"}
    assert orjson.loads(NewEvidenceRequest("app", ("0",), ("sha256:0",), "default").to_json()) == wanted
    assert orjson.loads(HoldRequest("case 7").to_json()) == {"reason": "case 7"}


def test_a_secret_is_not_shown_by_accident() -> None:
    """Neither in logs nor in errors."""
    made = NewWebhookAnswer.from_json(orjson.dumps({"secret": "whsec_x", **WEBHOOK}))
    assert (made.secret, "whsec_x" in repr(made)) == ("whsec_x", False)


@pytest.mark.parametrize(("read", "members"), ANSWERS, ids=NAMES)
def test_what_is_no_answer_is_refused(read: Callable[[bytes], Any], members: dict[str, Any]) -> None:
    """No JSON, no object, a member that is missing or of another kind."""
    read(orjson.dumps(members))
    for body in (b"", b"[]", b"null", b"{"):
        with pytest.raises(MalformedError):
            read(body)
    for name in members:
        for wrong in ({key: value for key, value in members.items() if key != name}, members | {name: ["\x00", {}]}):
            if name in {"next", "retained_until", "held_at", "held_by", "hold_reason"} and name not in wrong:
                continue  # it may be left out
            with pytest.raises(MalformedError):
                read(orjson.dumps(wrong))


def test_a_request_without_artefacts_says_which_member_is_wrong() -> None:
    """`subjects`, as it is called in the request."""
    with pytest.raises(MalformedError, match=r"^subjects must be"):
        SignatureRequest.from_json(b'{"subjects": [], "profile": "default"}')
