import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.outbound.quick_dns import KINDS, _addresses, _Question, ask

QUESTION = b"\4site\4test\0\0\1\0\1"
RECORD = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
SOA = b"\xc0\x11\0\6\0\1\0\0\0\x3c\0\x18\xc0\x11\xc0\x11" + bytes(20)
Answer = Callable[[bytes], list[bytes]]


class Server(asyncio.DatagramProtocol):
    """A DNS server, simulated, that answers each datagram with what it is told to."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[bytes] = []
        self._answer = answer
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # asyncio declares the base class
        """Keep the socket."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer."""
        self.asked.append(data)
        for reply in self._answer(data):
            self._transport.sendto(reply, addr)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[Server, int]]:
    """Such a server and its port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Server(answer), local_addr=("127.0.0.1", 0))
    yield server, transport.get_extra_info("sockname")[1]
    transport.close()


def reply(
    asked: bytes,
    *,
    flags: int = 0x8180,
    count: int = 1,
    question: bytes = QUESTION,
    rest: bytes = RECORD,
    behind: tuple[int, int] = (0, 0),
) -> bytes:
    """An answer with the question's number; `behind` it so many authorities and additional records."""
    return asked[:2] + struct.pack("!5H", flags, 1, count, *behind) + question + rest


async def asked_at(port: int, name: str = "site.test", kind: str = "A") -> tuple[bytes, ...] | None:
    """Ask the server at the port, with little patience."""
    (found,) = await ask((ip_address("127.0.0.1"), port), name, [KINDS[kind]], 1232, 0.5)
    return found


async def test_usual_answer() -> None:
    """Addresses come as they stand in the answer; the question is one plain question with an OPT record."""
    async with serving(lambda asked: [reply(asked, count=2, rest=RECORD + RECORD[:-1] + b"\2")]) as (server, port):
        assert await asked_at(port) == (b"\x7f\0\0\1", b"\x7f\0\0\2")
    assert server.asked[0][2:] == b"\1\0\0\1\0\0\0\0\0\1" + QUESTION + b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


async def test_name_without_address_of_the_family() -> None:
    """An empty answer says that there is none."""
    question = QUESTION[:-3] + b"\x1c\0\1"
    async with serving(lambda asked: [reply(asked, count=0, question=question, rest=b"")]) as (_, port):
        assert await asked_at(port, kind="AAAA") == ()


async def test_usual_company_of_an_answer() -> None:
    """An OPT record that says nothing, and the SOA record of an empty answer, make no full look-up necessary."""
    async with serving(lambda asked: [reply(asked, rest=RECORD + OPT, behind=(0, 1))]) as (_, port):
        assert await asked_at(port) == (b"\x7f\0\0\1",)
    async with serving(lambda asked: [reply(asked, count=0, rest=SOA + OPT, behind=(1, 1))]) as (_, port):
        assert await asked_at(port) == ()


def test_what_is_believed_is_what_dnspython_reads() -> None:
    """Of answers damaged at random (one seed) none is believed that a full reader refuses or reads otherwise."""
    chance, believed = random.Random(8), 0  # noqa: S311 -- a seed for repeatable damage, no secret
    for _ in range(1000):
        question = _Question(QUESTION[:-4], KINDS["A"])
        question.number = chance.randrange(65536)
        asked = question.number.to_bytes(2, "big")
        wire = bytearray(
            chance.choice(
                (
                    reply(asked, rest=RECORD * 2 + OPT, count=2, behind=(0, 1)),
                    reply(asked, rest=SOA + OPT, count=0, behind=(1, 1)),
                )
            )
        )
        for _ in range(chance.choice((0, 1, 1, 2))):
            wire[chance.randrange(2, len(wire))] = chance.choice((0, 1, 5, 0xC0, 0xFF, chance.randrange(256)))
        del wire[chance.choice((len(wire), len(wire), chance.randrange(12, len(wire)))) :]
        question.hear(bytes(wire))
        if question.found is None:
            continue
        message = dns.message.from_wire(bytes(wire))
        assert message.rcode() == dns.rcode.NOERROR
        whole = {ip_address(each.address).packed for rrset in message.answer for each in rrset}
        assert whole == set(question.found)
        believed += 1
    assert believed > 200


@pytest.mark.parametrize(
    "changes",
    [
        {"flags": 0x8182},
        {"flags": 0x8183},
        {"flags": 0x8380},
        {"flags": 0x0100},
        {"flags": 0x9180},
        {"rest": b"\xc0\x0c\0\5\0\1\0\0\0\0\0\4\x7f\0\0\1"},
        {"rest": b"\xc0\x0c\0\1\0\3\0\0\0\0\0\4\x7f\0\0\1"},
        {"rest": b"\xc0\x0c\0\1\0\1\0\0\0\0\0\x10\x7f\0\0\1"},
        {"rest": b"\xc0\x0d\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1"},
        {"rest": RECORD[:-1]},
        {"rest": b""},
        {"count": 65535},
        {"rest": RECORD + b"\0"},
        {"rest": RECORD + OPT[:5] + b"\1" + OPT[6:], "behind": (0, 1)},
        {"rest": RECORD + OPT[:6] + b"\1" + OPT[7:], "behind": (0, 1)},
        {"rest": RECORD + OPT[:-1] + b"\1\0", "behind": (0, 1)},
        {"rest": RECORD + OPT * 2, "behind": (0, 2)},
        {"rest": RECORD + OPT[:-1], "behind": (0, 1)},
        {"rest": RECORD + RECORD, "behind": (0, 1)},
        {"rest": SOA.replace(b"\xc0\x11", b"\xc0\x40"), "count": 0, "behind": (1, 0)},
        {"rest": SOA[:-1], "count": 0, "behind": (1, 0)},
        {"rest": RECORD, "count": 0, "behind": (1, 0)},
    ],
    ids=[
        *("server-failure", "no-such-name", "truncated", "a-question", "another-opcode", "alias", "another-class"),
        *("another-length", "another-name", "cut", "missing", "too-few"),
        *("more", "bad-version-code", "version", "option-cut", "two-opt", "opt-cut", "address-behind"),
        *("pointer-ahead", "soa-cut", "no-soa"),
    ],
)
async def test_unusual_answer_is_left_to_the_full_look_up(changes: dict[str, object]) -> None:
    """Errors, aliases, truncation and nonsense decide nothing here."""
    async with serving(lambda asked: [reply(asked, **changes)]) as (_, port):  # type: ignore[arg-type]  # by name
        assert await asked_at(port) is None


async def test_answers_to_other_questions_are_not_heard() -> None:
    """A forged answer needs the number and the very question; the right one is still waited for."""

    def answer(asked: bytes) -> list[bytes]:
        wrong_number = bytes((asked[0] ^ 1, asked[1]))
        forged = RECORD[:-4] + b"\x0a\0\0\1"
        others = [
            reply(wrong_number, rest=forged),
            reply(asked, question=b"\4SITE" + QUESTION[5:], rest=forged),
            reply(asked, question=b"\4evil" + QUESTION[5:], rest=forged),
            asked[:2] + struct.pack("!5H", 0x8180, 0, 1, 0, 0) + forged,
            b"",
            asked[:5],
        ]
        return [*others, reply(asked)]

    async with serving(answer) as (_, port):
        assert await asked_at(port) == (b"\x7f\0\0\1",)


async def test_both_families_are_asked_at_once() -> None:
    """One question that brings nothing plain does not spoil the other."""

    def answer(asked: bytes) -> list[bytes]:
        if asked.endswith(b"\0\x1c\0\1" + asked[-11:]):
            return [reply(asked, flags=0x8182, question=QUESTION[:-3] + b"\x1c\0\1")]
        return [reply(asked)]

    async with serving(answer) as (server, port):
        kinds = [KINDS["AAAA"], KINDS["A"]]
        assert await ask((ip_address("127.0.0.1"), port), "site.test", kinds, 1232, 0.5) == [None, (b"\x7f\0\0\1",)]
    assert len({asked[-15:-11] for asked in server.asked}) == len(server.asked) == 2


@pytest.mark.parametrize("name", ["", ".", "a..test", "a" * 64 + ".test", ".".join(["a" * 60] * 5), "b\u00fccher.test"])
async def test_names_that_dns_does_not_have(name: str, unused_udp_port: int) -> None:
    """What has no wire form is not sent."""
    assert await asked_at(unused_udp_port, name) is None


async def test_nobody_there(unused_udp_port: int) -> None:
    """A closed port is no answer."""
    assert await asked_at(unused_udp_port) is None


async def test_questions_have_numbers_that_nobody_can_guess() -> None:
    """Each question has a number of its own."""
    async with serving(lambda asked: [reply(asked)]) as (server, port):
        for _ in range(8):
            await asked_at(port)
    assert len({asked[:2] for asked in server.asked}) > 4


@given(st.binary(max_size=100), st.integers(0, 65535), st.sampled_from(sorted(KINDS.values())))
def test_any_bytes_are_addresses_or_nothing(data: bytes, count: int, kind: int) -> None:
    """Whatever comes, the result is whole addresses, as many as announced, or none of it is believed."""
    found = _addresses(data, 0, count, kind)
    assert found is None or (len(found) == count and all(len(each) in {4, 16} for each in found))
