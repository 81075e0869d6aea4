from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.audit import (
    GENESIS,
    ChainHead,
    Checkpoint,
    StoredRecord,
    TruncatedLine,
    append,
    export_line,
    parse_export,
    sign_checkpoint,
    verify_chain,
    verify_checkpoint,
)
from pkicore.errors import AuditError
from tests.support.pki import MemoryKey


def make_chain(length: int) -> list[StoredRecord]:
    """Records 1 to `length`."""
    head, records = GENESIS, []
    for n in range(1, length + 1):
        records.append(
            append(head, 1_900_000_000 + n, "book.added", f"reader {n}", {"n": n, "nested": {"b": 1, "a": [n]}})
        )
        head = records[-1].head
    return records


def point(stored: StoredRecord) -> Checkpoint:
    """A checkpoint at this record; its signature is not looked at by `verify_chain`."""
    return Checkpoint(stored.record.sequence, stored.hash, 1_900_000_100, b"")


def test_an_intact_chain_verifies_to_its_head() -> None:
    """Verification answers the last record's sequence and hash."""
    records = make_chain(5)
    assert verify_chain(records) == ChainHead(5, records[-1].hash)
    assert verify_chain([]) == GENESIS


def test_the_form_of_the_chain_is_fixed() -> None:
    """These values, computed apart with `sha256sum`, must never change: old logs would stop verifying."""
    stored = append(GENESIS, 1_900_000_000, "a.b", "c", {"z": 1, "y": None})
    assert (
        stored.record.canonical()
        == b'{"actor":"c","at":1900000000,"detail":{"y":null,"z":1},"event":"a.b","sequence":1}'
    )
    assert GENESIS.hash.hex() == "cb8de5c3b623810eb97caba7798d19bbef6766f2a1b504ddc39d3606944c8034"
    assert stored.hash.hex() == "1041e52f7b2f70a98c2831cf809e671b1b47a0d97e8be6bf2b0ff3b3aeff703f"


@pytest.mark.parametrize("sequence", [1, 3, 5])
@pytest.mark.parametrize("field", ["at", "event", "actor", "detail"])
def test_an_edited_record_is_named(sequence: int, field: str) -> None:
    """Any change of any field is found at the record itself."""
    records = make_chain(5)
    changed: dict[str, Any] = {"at": 1, "event": "x", "actor": "x", "detail": {}}
    old = records[sequence - 1]
    records[sequence - 1] = old._replace(record=old.record._replace(**{field: changed[field]}))
    with pytest.raises(AuditError, match=f"record {sequence} was changed") as caught:
        verify_chain(records)
    assert caught.value.sequence == sequence


def test_a_record_rewritten_with_its_own_hash_is_found_at_the_next() -> None:
    """Whoever recomputes one hash breaks the chain behind it."""
    records = make_chain(3)
    forged = append(records[0].head, 1, "book.burned", "nobody", {})
    with pytest.raises(AuditError, match="record 3 is not chained") as caught:
        verify_chain([records[0], forged, records[2]])
    assert caught.value.sequence == 3


def test_a_gap_a_swap_and_a_repetition_are_named() -> None:
    """The first place where the sequence does not go on by one is reported."""
    one, two, three, four = make_chain(4)
    for broken, sequence in (
        ([one, three, four], 2),
        ([one, three, two, four], 2),
        ([one, two, two, three], 3),
        ([two], 1),
    ):
        with pytest.raises(AuditError, match=f"record {sequence} is missing") as caught:
            verify_chain(broken)
        assert caught.value.sequence == sequence


def test_a_cut_tail_is_found_by_a_checkpoint_only() -> None:
    """A chain cannot see that its own end is gone; a checkpoint kept elsewhere can."""
    records = make_chain(5)
    assert verify_chain(records[:3]).sequence == 3
    with pytest.raises(AuditError, match="record 4 is missing: a checkpoint says the log went on to 5") as caught:
        verify_chain(records[:3], [point(records[4])])
    assert caught.value.sequence == 4


def test_a_rewritten_history_contradicts_its_checkpoint() -> None:
    """A whole forged chain verifies alone, and not against a checkpoint of the true one."""
    true, forged = make_chain(4), make_chain(1)
    for _ in range(3):
        forged.append(append(forged[-1].head, 1, "forged", "x", {}))
    verify_chain(forged)
    with pytest.raises(AuditError, match="record 3 is not the one that its checkpoint signed"):
        verify_chain(forged, [point(true[0]), point(true[2])])


def test_contradicting_checkpoints_are_refused() -> None:
    """Two hashes for one sequence mean that one of them is a lie."""
    stored = make_chain(1)[0]
    with pytest.raises(AuditError, match="two checkpoints"):
        verify_chain([stored], [point(stored), Checkpoint(1, b"\0" * 32, 1, b"")])


@pytest.mark.parametrize("name", ["ecdsa-p256", "ed25519", "ml-dsa-65"])
async def test_a_checkpoint_is_signed_and_verified(name: str) -> None:
    """The signature covers sequence, hash and time, and nothing else passes."""
    key = MemoryKey(generate_private_key(ALGORITHMS[name]))
    checkpoint = await sign_checkpoint(make_chain(2)[-1].head, key, 1_900_000_000)
    verify_checkpoint(Checkpoint.from_line(checkpoint.to_line()), key.public_key)
    for forged in (
        Checkpoint(3, checkpoint.hash, checkpoint.at, checkpoint.signature),
        Checkpoint(2, b"\0" * 32, checkpoint.at, checkpoint.signature),
        Checkpoint(2, checkpoint.hash, 1, checkpoint.signature),
        Checkpoint(2, checkpoint.hash, checkpoint.at, b""),
    ):
        with pytest.raises(AuditError, match="not signed by the audit key"):
            verify_checkpoint(forged, key.public_key)


async def test_another_keys_checkpoint_is_refused() -> None:
    """A good signature by the wrong key is no checkpoint of ours."""
    ours, other = (MemoryKey(generate_private_key(ALGORITHMS["ed25519"])) for _ in range(2))
    checkpoint = await sign_checkpoint(make_chain(1)[-1].head, other, 1)
    with pytest.raises(AuditError) as caught:
        verify_checkpoint(checkpoint, ours.public_key)
    assert caught.value.sequence == 1


def test_an_export_verifies_as_the_records_do() -> None:
    """One line per record; reading it back gives the same chain."""
    records = make_chain(4)
    lines = [export_line(stored) for stored in records]
    assert list(parse_export(lines)) == records


def test_an_unfinished_last_line_is_reported_apart() -> None:
    """A crash while writing leaves half a line, which is no record and no forgery."""
    lines = [export_line(stored) for stored in make_chain(2)]
    lines.append(export_line(make_chain(3)[2])[:40])
    *records, last = parse_export(lines)
    assert last == TruncatedLine(3, 40)
    assert [stored.record.sequence for stored in records if isinstance(stored, StoredRecord)] == [1, 2]


def line_with(**changes: object) -> bytes:
    """A record's line with some fields changed; a value of ... removes the field."""
    fields = orjson.loads(export_line(make_chain(1)[0])) | changes
    kept = {name: value for name, value in fields.items() if value is not ...}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS) + b"\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"no json\n", "line 1 is not JSON"),
        (b"[]\n", "exactly the fields"),
        (line_with(actor=...), "exactly the fields"),
        (line_with(extra=1), "exactly the fields"),
        (line_with(sequence="1"), "sequence is not a whole number"),
        (line_with(sequence=True), "sequence is not a whole number"),
        (line_with(at=-1), "at is not a whole number"),
        (line_with(event=1), "field of the wrong type"),
        (line_with(detail=[]), "field of the wrong type"),
        (line_with(hash="zz"), "hash of sequence 1 is not hexadecimal"),
        (line_with(hash="00"), "hash of sequence 1 is not 32 bytes"),
        (line_with(previous=7), "previous of sequence 1 is not hexadecimal"),
        (export_line(make_chain(1)[0]).replace(b'{"actor"', b'{"actor":"other","actor"'), "not in canonical form"),
        (b" " + export_line(make_chain(1)[0]), "not in canonical form"),
    ],
)
def test_a_line_that_is_no_canonical_record_is_refused(line: bytes, sentence: str) -> None:
    """Duplicate members, spaces, missing and foreign fields cannot hide a second meaning."""
    with pytest.raises(AuditError, match=sentence):
        list(parse_export([line]))


@pytest.mark.parametrize("line", [b"{}\n", b"x\n", b'{"at":1,"hash":"00","sequence":1,"signature":""}\n'])
def test_a_line_that_is_no_checkpoint_is_refused(line: bytes) -> None:
    """A checkpoint file is read as strictly as an export."""
    with pytest.raises(AuditError):
        Checkpoint.from_line(line)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.text(), st.text())
def test_every_detail_survives_export_and_verifies(detail: dict[str, Any], event: str, actor: str) -> None:
    """Whatever JSON a detail holds, its exported record is canonical and verifies."""
    stored = append(GENESIS, 1, event, actor, detail)
    (parsed,) = parse_export([export_line(stored)])
    assert isinstance(parsed, StoredRecord)
    assert verify_chain([parsed]) == stored.head
