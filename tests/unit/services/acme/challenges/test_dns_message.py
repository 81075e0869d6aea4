"""The DNS wire format against dnspython, which builds what is parsed here and parses what is built here."""

import random
from collections.abc import Callable
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from pkicore.errors import MalformedError
from services.acme.challenges.dns_message import Question, Reply, address_of, text_of

NAME = dns.name.from_text("site.test.")


def reply_to(question: Question, *records: str, rcode: str = "NOERROR", flags: int = 0) -> bytes:
    """A reply as a server builds it; each record is "owner type value"."""
    message = dns.message.make_response(dns.message.from_wire(question.wire))
    message.set_rcode(dns.rcode.from_text(rcode))
    message.flags |= flags
    for record in records:
        owner, kind, value = record.split(" ", 2)
        message.answer.append(dns.rrset.from_text(owner, 0, "IN", kind, value))
    return message.to_wire()


def parsed(question: Question, *records: str) -> tuple[bytes, ...]:
    """The data found in a good reply."""
    reply = Reply.parse(reply_to(question, *records), question)
    assert reply is not None
    return reply.records


@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT"])
def test_a_question_reads_as_it_was_meant(kind: str) -> None:
    """One recursive question that offers the payload size of the flag day."""
    message = dns.message.from_wire(Question.of(NAME, kind).wire)
    assert str(message.question[0]) == f"site.test. IN {kind}"
    assert message.flags == dns.flags.RD
    assert (message.edns, message.payload) == (0, 1232)


def test_ids_differ() -> None:
    """A forger has to guess 16 bits, and the port."""
    assert len({Question.of(NAME, "A").wire[:2] for _ in range(50)}) > 40


def test_addresses_of_both_families() -> None:
    """In the order they were sent."""
    found = parsed(Question.of(NAME, "A"), "site.test. A 192.0.2.1", "site.test. A 192.0.2.2")
    assert [address_of(data) for data in found] == [ip_address("192.0.2.1"), ip_address("192.0.2.2")]
    found = parsed(Question.of(NAME, "AAAA"), "site.test. AAAA 2001:db8::1")
    assert [address_of(data) for data in found] == [ip_address("2001:db8::1")]


def test_aliases_are_followed_in_any_order_and_case() -> None:
    """Names are compared as DNS compares them."""
    question = Question.of(NAME, "A")
    records = ["b.test. CNAME C.test.", "c.TEST. A 192.0.2.1", "site.test. CNAME B.test."]
    assert len(parsed(question, *records)) == 1


def test_records_of_other_names_are_not_taken() -> None:
    """Neither a name beside the chain nor the type that was not asked for."""
    question = Question.of(NAME, "A")
    assert parsed(question, "other.test. A 192.0.2.1", "site.test. TXT x") == ()
    assert parsed(question, "site.test. CNAME b.test.", "site.test. A 192.0.2.1") == ()


def test_a_loop_of_aliases_ends() -> None:
    """It leads nowhere."""
    assert parsed(Question.of(NAME, "A"), "site.test. CNAME b.test.", "b.test. CNAME site.test.") == ()


def test_strings_of_a_text_are_joined() -> None:
    """Empty ones too."""
    (data,) = parsed(Question.of(NAME, "TXT"), 'site.test. TXT "ab" "" "cd"')
    assert text_of(data) == b"abcd"


@pytest.mark.parametrize("rcode", ["SERVFAIL", "NXDOMAIN", "REFUSED"])
def test_the_code_is_told_by_name(rcode: str) -> None:
    """As operators know it."""
    question = Question.of(NAME, "A")
    reply = Reply.parse(reply_to(question, rcode=rcode), question)
    assert reply is not None
    assert (reply.rcode, reply.records) == (rcode, ())


def test_a_truncated_reply_gives_no_records() -> None:
    """What is there may be half of it."""
    question = Question.of(NAME, "A")
    reply = Reply.parse(reply_to(question, "site.test. A 192.0.2.1", flags=dns.flags.TC), question)
    assert reply is not None
    assert (reply.truncated, reply.records) == (True, ())


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: bytes([wire[0] ^ 1]) + wire[1:],
        lambda wire: wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:],
        lambda wire: wire[:2] + bytes([wire[2] | 0x08]) + wire[3:],
        lambda wire: wire.replace(b"\4site", b"\4tide", 1),
        lambda wire: wire[:4] + b"\0\0" + wire[6:],
        lambda wire: wire[:20],
        lambda _: b"",
    ],
)
def test_what_is_no_reply_to_the_question_is_passed_over(change: Callable[[bytes], bytes]) -> None:
    """Another id, a query, another operation, another name, no question: stray or forged."""
    question = Question.of(NAME, "A")
    assert Reply.parse(change(reply_to(question, "site.test. A 192.0.2.1")), question) is None


def test_every_truncation_of_a_reply_is_refused() -> None:
    """Wherever it ends, nothing but MalformedError or "no reply" comes of it."""
    question = Question.of(NAME, "A")
    wire = reply_to(question, "site.test. CNAME b.test.", "b.test. A 192.0.2.1")
    body = 12 + len(question.section)
    opt = 11
    for end in range(body, len(wire) - opt):
        with pytest.raises(MalformedError):
            Reply.parse(wire[:end], question)


def test_a_pointer_that_points_forward_is_refused() -> None:
    """Or at itself: else it would be followed for ever."""
    question = Question.of(NAME, "A")
    wire = bytearray(reply_to(question, "site.test. A 192.0.2.1"))
    position = 12 + len(question.section)
    for target in (position, position + 2, 0x3FFF):
        wire[position : position + 2] = (0xC000 | target).to_bytes(2, "big")
        with pytest.raises(MalformedError):
            Reply.parse(bytes(wire), question)


def test_noise_never_does_anything_else() -> None:
    """Ten thousand damaged replies end as records, as no reply or as MalformedError."""
    question = Question.of(NAME, "TXT")
    wire = reply_to(question, "site.test. CNAME b.test.", 'b.test. TXT "abc" "def"')
    noise = random.Random(8555)  # noqa: S311 -- reproducible damage, no secret
    for _ in range(10_000):
        damaged = bytearray(wire)
        for _ in range(noise.randint(1, 4)):
            damaged[noise.randrange(2, len(damaged))] = noise.randrange(256)
        try:
            reply = Reply.parse(bytes(damaged[: noise.randint(12, len(damaged))]), question)
            for data in reply.records if reply else ():
                text_of(data)
        except MalformedError:
            continue


@pytest.mark.parametrize("data", [b"", b"\x7f\0\0", bytes(5), bytes(17)])
def test_an_address_has_4_or_16_octets(data: bytes) -> None:
    """Nothing is padded or cut."""
    with pytest.raises(MalformedError):
        address_of(data)


@pytest.mark.parametrize("data", [b"\1", b"\3ab", b"\1a\5b"])
def test_a_string_ends_within_its_record(data: bytes) -> None:
    """Nothing is read beyond it."""
    with pytest.raises(MalformedError):
        text_of(data)
