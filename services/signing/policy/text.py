"""Policy texts: bounded before Cedar sees them, cut into policies, so that faults have lines.

Cedar's parser and validator are recursive; a text that nests deeply, or chains a thousand operators, ends the process
(measured with cedarpy 4.12.2: 660 brackets or 1340 operators overflow a stack of 8 MiB). A policy that people wrote
has a few dozen tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import cedarpy

from services.signing.policy.errors import Fault

MAX_TOKENS: Final = 1000  # of one policy
MAX_DEPTH: Final = 32  # brackets within brackets
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n\r]*|\w+|\s+|.', re.DOTALL)
_OPEN: Final = frozenset("([{")
_CLOSE: Final = frozenset(")]}")
_AT_ONCE: Final = "unexpected token"
_POLICY: Final = re.compile(r"(?:for policy )?`policy(\d+)`,? ?")


class PolicyText(NamedTuple):
    """One policy as its author wrote it.

    Attributes:
        line: where it begins, from 1.
        text: up to its semicolon; of the last one, up to the end of the file.
    """

    line: int
    text: str


def policies_of(file: str, text: str) -> tuple[list[PolicyText], list[Fault]]:
    """Cut a file's text at the semicolons that end policies.

    Returns:
        The policies, and a fault for each that nests too deeply or has too many tokens.
    """
    policies, faults = [], []
    for tokens in _cut(text):
        policies.append(PolicyText(tokens.line, "".join(tokens.tokens)))
        depth, deepest = 0, 0
        for token in tokens.tokens:
            depth += (token in _OPEN) - (token in _CLOSE)
            deepest = max(deepest, depth)
        if deepest > MAX_DEPTH or sum(not _is_blank(piece) for piece in tokens.tokens) > MAX_TOKENS:
            message = f"a policy may have {MAX_TOKENS} tokens, and brackets {MAX_DEPTH} deep"
            faults.append(Fault(file, tokens.line, message))
    return policies, faults


def syntax_fault(file: str, policies: list[PolicyText], otherwise: str) -> Fault:
    """Where and how a file fails to parse; `otherwise` is said where each policy parses by itself."""
    for policy in policies:
        if (message := _refusal(policy.text)) is not None:
            return Fault(file, policy.line + _wrong_line(policy.text, message), message)
    return Fault(file, None, otherwise)


class _Tokens(NamedTuple):
    line: int
    tokens: list[str]


def _cut(text: str) -> Iterator[_Tokens]:
    line, start, tokens = 1, 0, []
    for match in _TOKEN.finditer(text):
        piece = match.group()
        if start or not _is_blank(piece):
            start = start or line
            tokens.append(piece)
        line += piece.count("\n")
        if piece == ";":
            yield _Tokens(start, tokens)
            start, tokens = 0, []
    if not all(map(_is_blank, tokens)):
        yield _Tokens(start, tokens)


def _is_blank(token: str) -> bool:
    return token.isspace() or token.startswith("//")


def _refusal(text: str) -> str | None:
    """What Cedar's parser says against a text."""
    try:
        cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        return str(error)
    return None


def _wrong_line(text: str, message: str) -> int:
    """The first line, from 0, with which the text can no longer be the beginning of a policy; 0 where none is known.

    Cedar does not say where an error is, but it tells a text that only ends too early from one that is wrong already.
    What it finds only in a whole policy (an operator or a variable that it does not have) is said of its first line.
    """
    lines = text.splitlines(keepends=True)
    low, high = 0, len(lines) - 1
    while low < high:
        middle = (low + high) // 2
        if _refusal("".join(lines[: middle + 1])) == message:
            high = middle
        else:
            low = middle + 1
    return low if low < len(lines) - 1 or message.startswith(_AT_ONCE) else 0


def without_numbers(message: str) -> str:
    """A message without Cedar's own name for the policy that it is about; whoever reads it is told file and line."""
    return _POLICY.sub("", message)
