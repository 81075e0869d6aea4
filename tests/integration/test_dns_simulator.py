"""The DNS simulator as the demo uses it: a program with a records file."""

from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.deployment import DnsProcess


@pytest.fixture
def process(tmp_path: Path) -> Iterator[DnsProcess]:
    """The program with one name."""
    running = DnsProcess(tmp_path / "records.json", {"demo.test": {"A": ["127.0.0.1"]}})
    yield running
    running.stop()


def ask(process: DnsProcess, name: str, kind: str, *, tcp: bool = False) -> dns.message.Message:
    """Ask the program one question with dnspython's synchronous client."""
    query = dns.message.make_query(name, kind)
    ask_by = dns.query.tcp if tcp else dns.query.udp
    return ask_by(query, "127.0.0.1", port=process.port, timeout=5)


@pytest.mark.parametrize("tcp", [False, True])
def test_program_answers_on_the_port_it_prints(process: DnsProcess, tcp: bool) -> None:  # noqa: FBT001 -- a parameter
    """UDP and TCP share one port number."""
    (rrset,) = ask(process, "demo.test.", "A", tcp=tcp).answer
    assert [record.to_text() for record in rrset] == ["127.0.0.1"]


def test_changed_file_is_read_anew(process: DnsProcess) -> None:
    """A record that a hook script adds is there with the next question."""
    assert ask(process, "_acme-challenge.demo.test.", "TXT").rcode() == dns.rcode.NXDOMAIN
    process.set("_acme-challenge.demo.test", TXT=["value"])
    (rrset,) = ask(process, "_acme-challenge.demo.test.", "TXT").answer
    assert [record.to_text() for record in rrset] == ['"value"']


def test_half_written_file_keeps_the_old_records(process: DnsProcess) -> None:
    """A file that is being written does not make names disappear."""
    assert ask(process, "demo.test.", "A").answer
    process.records_file.write_text('{"demo.test": {"A": [')
    assert ask(process, "demo.test.", "A").answer


def test_deeper_names_match_a_wildcard(process: DnsProcess) -> None:
    """`*.suffix` answers for every name below the suffix, and not for the suffix."""
    process.set("*.wild.test", A=["127.0.0.2"])
    assert ask(process, "a.wild.test.", "A").answer
    assert ask(process, "a.b.wild.test.", "A").answer
    assert ask(process, "wild.test.", "A").rcode() == dns.rcode.NXDOMAIN
