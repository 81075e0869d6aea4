"""What `ztca block add` says."""

from __future__ import annotations

from services.ca.block_list.wire import BlockAnswer, IssuedByRoot
from services.ca.cli.block import as_json_of, told


def test_what_a_root_issued_is_named_with_the_command_that_revokes_it() -> None:
    """For people and for programs: the certificate, its root, and what to do; others are told as ever."""
    answer = BlockAnswer("ab" * 32, is_new=True, serials=["1f"], unrevoked=[IssuedByRoot("2e", "root-mldsa")])
    advice = "ztca ca root-crl --root root-mldsa --revoke 2e --reason keyCompromise"
    lines = told(answer)
    assert lines[:2] == [f"The key {'ab' * 32} is blocked; certificates revoked now: 1.", "  1f"]
    assert "Not revoked" in lines[2]
    assert lines[3:] == [f"  2e: `{advice}`"]
    assert as_json_of(answer)["unrevoked"] == [{"serial": "2e", "root": "root-mldsa", "revoke_with": advice}]
    assert BlockAnswer.from_json(answer.to_json()) == answer


def test_a_long_answer_is_cut_for_people_alone() -> None:
    """Twenty serials are shown, and the rest is counted; programs have them all."""
    serials = [f"{number:x}" for number in range(30)]
    answer = BlockAnswer("ab" * 32, is_new=False, serials=serials, unrevoked=[])
    lines = told(answer)
    assert (len(lines), lines[-1]) == (22, "  and 10 more")
    assert "was blocked before" in lines[0]
    assert as_json_of(answer)["serials"] == serials
