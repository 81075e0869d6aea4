import pytest

from pkicore.audit import GENESIS, StoredRecord, append
from pkicore.errors import AuditError
from services.signing.evidence.audit_extract import extract, verify_extract


def chain(length: int) -> list[StoredRecord]:
    """A log of that many records."""
    stored, head = [], GENESIS
    for number in range(length):
        stored.append(append(head, 100 + number, "signature.created", "alice", {"id": f"sig-{number}"}))
        head = stored[-1].head
    return stored


def lines(data: bytes) -> list[bytes]:
    """As a file has them."""
    return data.splitlines(keepends=True)


@pytest.mark.parametrize("chosen", [[0], [2], [0, 1, 2], [1, 3], [0, 3, 4], [4, 0, 4]])
def test_any_records_make_an_extract(chosen: list[int]) -> None:
    """Lines from anywhere in the log verify, sorted and each once."""
    records = chain(5)
    found = verify_extract(lines(extract(records[number] for number in chosen)))
    assert found == [records[number] for number in sorted(set(chosen))]


def test_empty_extract_verifies() -> None:
    """Nothing is wrong with no lines."""
    assert verify_extract([]) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"sig-1", b"sig-9"), (b'"at":101', b'"at":102'), (b"alice", b"mallo"), (b'"sequence":2', b'"sequence":3')],
)
def test_changed_line_is_found(before: bytes, after: bytes) -> None:
    """A change of any field of a line breaks its hash."""
    data = extract([chain(3)[1]])
    assert before in data
    with pytest.raises(AuditError, match="was changed"):
        verify_extract(lines(data.replace(before, after)))


def test_line_of_another_log_beside_its_neighbour_is_found() -> None:
    """Neighbours must be chained to each other, though each line is whole by itself."""
    other = append(GENESIS, 7, "signature.created", "mallory", {"id": "sig-0"})
    with pytest.raises(AuditError, match="not chained"):
        verify_extract(lines(extract([other, chain(2)[1]])))


def test_order_and_ends_of_lines_matter() -> None:
    """Lines in another order, twice, or cut short are no extract."""
    data = lines(extract(chain(3)))
    with pytest.raises(AuditError, match="stands behind"):
        verify_extract([data[1], data[0]])
    with pytest.raises(AuditError, match="stands behind"):
        verify_extract([data[0], data[0]])
    with pytest.raises(AuditError, match="unfinished"):
        verify_extract([data[0], data[1][:-1]])
