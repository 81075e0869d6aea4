import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime

import orjson
import pytest

from pkicore.errors import MalformedError
from services.signing.webhooks.message import event_body, webhook_headers
from services.signing.webhooks.secrets import new_secret, shown
from services.signing.wire.webhooks import EVENT_TYPES
from tests.support.console import ROOT

AT = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def test_signature_is_that_of_the_published_example() -> None:
    """The signature of Standard Webhooks' own test vector comes out."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhook_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret])
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_secret_signs() -> None:
    """While a secret is replaced there are two signatures, separated by a space, the new one first."""
    both = webhook_headers("e", 1, b"{}", [b"new", b"old"])["webhook-signature"].split(" ")
    assert both == [webhook_headers("e", 1, b"{}", [secret])["webhook-signature"] for secret in (b"new", b"old")]
    assert both[0] != both[1]


@pytest.mark.parametrize(("event_id", "at", "body"), [("f", 1, b"{}"), ("e", 2, b"{}"), ("e", 1, b"{ }")])
def test_signature_covers_id_time_and_body(event_id: str, at: int, body: bytes) -> None:
    """A change of any of the three is another signature."""
    signature = webhook_headers("e", 1, b"{}", [b"key"])["webhook-signature"]
    assert webhook_headers(event_id, at, body, [b"key"])["webhook-signature"] != signature


def test_body_names_type_time_and_what_happened() -> None:
    """The body has the members that Standard Webhooks advises."""
    body = orjson.loads(event_body("signature.created", AT, {"id": "sig_1"}))
    assert body == {"type": "signature.created", "timestamp": "2026-11-22T10:00:00Z", "data": {"id": "sig_1"}}
    assert "signature.created" in EVENT_TYPES


def test_body_is_bounded() -> None:
    """An event that would be longer than 20 KiB is not made."""
    with pytest.raises(MalformedError):
        event_body("signature.created", AT, {"id": "x" * 20_480})


def test_receivers_code_in_the_documentation() -> None:
    """What docs/signing/operations.md tells receivers to run takes our messages, and none changed, old or foreign."""
    page = (ROOT / "docs/signing/operations.md").read_text()
    found: dict[str, Callable[[str, dict[str, str], bytes], bool]] = {}
    exec(page.split("```python\n")[1].partition("```")[0], found)  # noqa: S102 -- the page's own code is what is tested
    is_genuine, now = found["is_genuine"], int(time.time())
    secret, other = new_secret(), new_secret()
    headers = webhook_headers("evt_1", now, b"{}", [secret])
    assert is_genuine(shown(secret), headers, b"{}")
    assert is_genuine(shown(secret), webhook_headers("evt_1", now, b"{}", [other, secret]), b"{}")
    assert not is_genuine(shown(secret), headers, b"{ }")
    assert not is_genuine(shown(other), headers, b"{}")
    assert not is_genuine(shown(secret), webhook_headers("evt_1", now - 400, b"{}", [secret]), b"{}")
