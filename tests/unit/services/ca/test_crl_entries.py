import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ca.crl_entries import ShardEntries, final_of, spliced
from services.ca.crl_lists import CrlList
from services.ca.revocation_store import Revoked

HOUR = 3600
LATEST = 1 << 40  # a sequence that is not reached


def event(sequence: int, serial: int, reason: str = "superseded", not_after: int = 10 * HOUR) -> Revoked:
    """Something that happened; the entry says serial and reason."""
    return Revoked(sequence, serial, "i", 0, reason, not_after, f"<{serial}:{reason}>".encode())


def complete(entries: ShardEntries, published: int = 0) -> set[str]:
    """What the next list has."""
    final = final_of({0: entries}, published, LATEST)
    return _parts(spliced([*final, *entries.held(published)]).octets)


def since(entries: ShardEntries, base: int) -> set[str]:
    """What a delta has."""
    return _parts(spliced(entries.since(base)).octets)


def _parts(octets: bytes | bytearray) -> set[str]:
    return set(bytes(octets).decode().replace("><", "> <").split())


def test_an_entry_is_there_until_a_list_was_published_after_its_end() -> None:
    """By the hour: never too early, at most an hour too late."""
    entries = ShardEntries()
    entries.take([event(1, 7, not_after=HOUR + 5)], LATEST)
    entries.take([event(2, 8, "certificateHold", not_after=HOUR + 5)], LATEST)
    assert complete(entries, HOUR + 5) == {"<7:superseded>", "<8:certificateHold>"}
    assert complete(entries, 2 * HOUR) == set()
    entries.published(0, 2 * HOUR)
    assert complete(entries, 0) == set()


def test_what_is_said_of_a_serial_last_is_what_stands() -> None:
    """A hold gives way to its release or to what is final; lists have one entry for it, and so has a delta."""
    entries = ShardEntries()
    entries.take([event(1, 7, "certificateHold")], 0)
    assert complete(entries) == since(entries, 0) == {"<7:certificateHold>"}
    entries.take([event(2, 7, "removeFromCRL")], 0)
    assert (complete(entries), since(entries, 0)) == (set(), {"<7:removeFromCRL>"})
    entries.take([event(3, 7)], 0)
    assert complete(entries) == since(entries, 0) == {"<7:superseded>"}


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.data())
def test_no_delta_says_less_than_what_changed_since_its_base(published: list[bool], data: st.DataObject) -> None:
    """Whenever lists are published between revocations, base and delta together are the complete list."""
    entries, bases, base = ShardEntries(), [(0, frozenset[str]())], 0
    for sequence, publish in enumerate(published, start=1):
        entries.take([event(sequence, sequence)], base)
        if publish:
            bases.append((sequence, frozenset(complete(entries))))
            base, known = data.draw(st.sampled_from([item for item in bases if item[0] >= base]))
            entries.published(base, 0)
            assert known | since(entries, base) == complete(entries)


@pytest.mark.parametrize(
    ("path", "parsed"),
    [("i", CrlList("i")), ("i/3", CrlList("i", 3)), ("i/delta", None), ("i/3/delta", None), ("i/\u0663", None)],
)
def test_a_path_is_that_of_a_list_or_of_none(path: str, parsed: CrlList | None) -> None:
    """Deltas are no lists of their own; digits are ASCII."""
    assert CrlList.parse(path) == parsed
    assert parsed is None or parsed.path == path
