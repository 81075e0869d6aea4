from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.audit import GENESIS, MAX_LINE, ChainVerifier, Checkpoint, append, export_line
from pkicore.audit.segments import (
    ARCHIVE,
    TOMBSTONE,
    Segment,
    bounded_lines,
    parse_log,
    sign_segment,
    verify_segment,
)
from pkicore.errors import AuditError
from tests.support.pki import MemoryKey

SEGMENT = Segment(ARCHIVE, 3, 7, b"\1" * 32, b"\2" * 32, 100, 200, "after 90 days", 300, b"signed")
RECORD = append(GENESIS, 1, "bread.sold", "baker", {"segment": 1})


@pytest.mark.parametrize("algorithm", ["ed25519", "ml-dsa-65"])
async def test_a_segment_is_signed_as_a_whole(algorithm: str) -> None:
    """Each of its fields is under the signature, and no other key's will do."""
    key = MemoryKey.generate(algorithm)
    signed = await sign_segment(SEGMENT, key)
    assert Segment.from_line(signed.to_line()) == signed
    verify_segment(signed, key.public_key)
    changes: list[dict[str, Any]] = [
        {"kind": TOMBSTONE},
        {"first": 2},
        {"last": 8},
        {"before": b"\3" * 32},
        {"after": b"\3" * 32},
        {"since": 99},
        {"until": 201},
        {"rule": "never"},
        {"at": 301},
        {"signature": b""},
    ]
    for change in changes:
        with pytest.raises(AuditError, match="is not signed by the audit key"):
            verify_segment(replace(signed, **change), key.public_key)
    with pytest.raises(AuditError) as caught:
        verify_segment(signed, MemoryKey.generate(algorithm).public_key)
    assert caught.value.sequence == 3


async def test_a_checkpoint_is_no_segment() -> None:
    """What the same key signs for one purpose says nothing for another."""
    key = MemoryKey.generate("ed25519")
    for message in (SEGMENT.message()[1:], SEGMENT.message().replace(b"segment v1", b"checkpoint v1", 1)):
        forged = replace(SEGMENT, signature=await key.sign(message))
        with pytest.raises(AuditError, match="not signed"):
            verify_segment(forged, key.public_key)


def line_with(**changes: object) -> bytes:
    """A segment's line with some fields changed; ... removes one."""
    fields = orjson.loads(SEGMENT.to_line()) | changes
    kept = {name: value for name, value in fields.items() if value is not ...}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS) + b"\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"\n", "is not JSON"),
        (b"[]\n", "exactly the fields"),
        (line_with(rule=...), "exactly the fields"),
        (line_with(more=1), "exactly the fields"),
        (line_with(segment="other"), "wrong type"),
        (line_with(segment=[]), "wrong type"),
        (line_with(rule=1), "wrong type"),
        (line_with(first=0), "claims records 0 to 7"),
        (line_with(first=8), "claims records 8 to 7"),
        (line_with(last=True), "last is not a whole number"),
        (line_with(until=1.5), "until is not a whole number"),
        (line_with(after="00"), "not 32 bytes"),
        (line_with(signature="xx"), "not hexadecimal"),
    ],
)
def test_a_line_that_is_no_segment_is_refused(line: bytes, sentence: str) -> None:
    """A head is read as strictly as a record."""
    with pytest.raises(AuditError, match=sentence):
        Segment.from_line(line)


def test_records_and_segments_are_told_apart() -> None:
    """By their fields, not by words in them; an unfinished last line is neither."""
    lines = [export_line(RECORD), SEGMENT.to_line(), export_line(RECORD)[:9]]
    record, segment, torn = parse_log(lines)
    assert (record, segment) == (RECORD, SEGMENT)
    assert torn == (3, 9)
    for bad in (b" " + SEGMENT.to_line(), b'{"segment"\n', b'"segment"\n'):
        with pytest.raises(AuditError):
            list(parse_log([bad]))


def test_lines_are_bounded() -> None:
    """One as long as a record may be passes, one longer does not."""
    longest = b"x" * (MAX_LINE - 1) + b"\n"
    assert list(bounded_lines(io.BytesIO(longest + b"y"))) == [longest, b"y"]
    with pytest.raises(AuditError, match="line 2 is longer"):
        list(bounded_lines(io.BytesIO(longest + b"y" + longest)))


def test_a_chain_may_begin_later_and_jump() -> None:
    """From an archive's start, over a tombstone; what checkpoints signed holds at both ends of it."""
    records = [RECORD]
    for number in range(5):
        records.append(append(records[-1].head, 1, "x", "y", {"n": number}))
    heads = [record.head for record in records]
    points = [Checkpoint(head.sequence, head.hash, 1, b"") for head in heads]
    verifier = ChainVerifier(points, heads[0])
    verifier.take(records[1])
    verifier.jump(heads[3])
    verifier.take(records[4])
    with pytest.raises(AuditError, match="record 6 is missing"):
        verifier.finish()
    with pytest.raises(AuditError, match="different hashes for record 4"):
        ChainVerifier(points).jump(heads[3]._replace(hash=b"\0" * 32))
    with pytest.raises(AuditError, match="record 1 is not the one"):
        ChainVerifier(points, heads[0]._replace(hash=b"\0" * 32))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_log_or_an_audit_error(data: bytes) -> None:
    """Nothing else comes of a file that is no audit log."""
    try:
        list(parse_log(bounded_lines(io.BytesIO(data))))
    except AuditError:
        return
    assert not data.endswith(b"\n") or not data
