import orjson
import pytest

from pkicore.errors import MalformedError
from services.acme.challenges.attempt import Attempt
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.acme.perspectives.wire import MAX_DETAIL, Verdict, attempt_of, question_of
from tests.support.attempts import attempt

QUESTION = question_of(attempt("dns-01"))


@pytest.mark.parametrize(
    "asked",
    [
        attempt("http-01"),
        attempt("dns-01", wildcard=True),
        attempt("tls-alpn-01", Identifier("ip", "2001:db8::1")),
        attempt("dns-persist-01", token=""),
        attempt("dns-account-01", Identifier("dns", "xn--mnchen-3ya.example")),
    ],
    ids=lambda asked: asked.type,
)
def test_a_question_says_all_of_the_attempt(asked: Attempt) -> None:
    """What the perspective tries is what the server was asked to have tried."""
    assert attempt_of(question_of(asked)) == asked


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("type", "tkauth-01"),
        ("type", 1),
        ("identifier", "site.test"),
        ("identifier", {"type": "dns", "value": "*.site.test"}),
        ("identifier", {"type": "dns", "value": "SITE.test"}),
        ("identifier", {"type": "dns", "value": "site.test."}),
        ("identifier", {"type": "dns", "value": "site.test/@127.0.0.1"}),
        ("identifier", {"type": "dns", "value": "127.0.0.1"}),
        ("identifier", {"type": "ip", "value": "127.1"}),
        ("identifier", {"type": "ip", "value": "::ffff:0:1%eth0"}),
        ("identifier", {"type": "ip", "value": "2001:DB8::1"}),
        ("identifier", {"type": "url", "value": "site.test"}),
        ("identifier", {"type": "dns", "value": "site.test", "port": 22}),
        ("wildcard", "true"),
        ("wildcard", None),
        ("token", ""),
        ("token", "short"),
        ("token", "../../latest/meta-data/iam/security-credentials"),
        ("token", "a" * 129),
        ("token", None),
        ("thumbprint", "a" * 42),
        ("thumbprint", "a" * 42 + "="),
        ("account_url", ""),
        ("account_url", "https://acme.test/\r\nHost: evil.test"),
        ("account_url", "x" * 1025),
        ("resolver", "203.0.113.1:53"),
    ],
)
def test_a_question_that_is_not_quite_one_is_refused(member: str, value: object) -> None:
    """Whoever speaks for the server cannot steer a perspective to other paths, ports, names or resolvers."""
    with pytest.raises(MalformedError):
        attempt_of(orjson.dumps(orjson.loads(QUESTION) | {member: value}))


def test_members_that_are_given_twice_are_refused() -> None:
    """Two readers could take different ones of them: in a question, in its identifier, and in an answer."""
    for twice in (b'{"wildcard":true,', b'{"identifier":{"type":"dns","type":"dns","value":"site.test"},'):
        with pytest.raises(MalformedError, match="twice"):
            attempt_of(twice + QUESTION[1:])
    answer = Verdict.of(QUESTION, None).to_json()
    with pytest.raises(MalformedError, match="twice"):
        Verdict.from_json(b'{"valid":false,' + answer[1:], QUESTION)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"type":', b"\xff"])
def test_what_is_no_object_is_no_question(body: bytes) -> None:
    """Neither is an empty one."""
    with pytest.raises(MalformedError):
        attempt_of(body)


def test_an_answer_says_what_was_seen() -> None:
    """A proof, or the error type with its sentence, cut to a bound."""
    proof, failure = Verdict.of(QUESTION, None), Verdict.of(QUESTION, ValidationError("dns", "x" * 2000))
    assert Verdict.from_json(proof.to_json(), QUESTION) == proof
    read = Verdict.from_json(failure.to_json(), QUESTION)
    assert (read.error, read.detail) == ("dns", "x" * MAX_DETAIL)


@pytest.mark.parametrize(
    "members",
    [
        {"valid": 1},
        {"valid": "true"},
        {"valid": None},
        {"valid": True, "error": "dns"},
        {"valid": True, "extra": 1},
        {"valid": False},
        {"valid": False, "error": "dns"},
        {"valid": False, "error": "badNonce", "detail": "x"},
        {"valid": False, "error": "dns", "detail": "x" * (MAX_DETAIL + 1)},
        {"valid": False, "error": "dns", "detail": "a\x1b[31m"},
        {"valid": True, "question": "0" * 64},
        {"valid": True, "question": None},
    ],
)
def test_an_answer_that_is_not_quite_one_counts_for_nothing(members: dict[str, object]) -> None:
    """Nothing but the literal `true` in an answer to this very question is a proof."""
    whole = {"question": Verdict.of(QUESTION, None).question} | members
    with pytest.raises(MalformedError):
        Verdict.from_json(orjson.dumps(whole), QUESTION)


def test_an_answer_to_another_question_counts_for_nothing() -> None:
    """An answer of before, or of another connection, is not taken for this one."""
    other = question_of(attempt("dns-01", Identifier("dns", "other.test")))
    with pytest.raises(MalformedError, match="another question"):
        Verdict.from_json(Verdict.of(other, None).to_json(), QUESTION)
