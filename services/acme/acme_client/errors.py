"""What can go wrong for a client.

AcmeClientError
├─ RequestRefusedError    the server answered with a problem document
├─ ServerAnswerError      no answer, or one that makes no sense
├─ ProofFailedError       the server did not see the proof of a name
└─ RequestInputError      what the user asked for cannot be done here
"""

from __future__ import annotations


def printable(text: str) -> str:
    """What a server said, without what moves a terminal's cursor, and not without end."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:1000])


class AcmeClientError(Exception):
    """The certificate was not obtained, renewed or revoked; the sentence says why."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


class RequestRefusedError(AcmeClientError):
    """A problem document: `kind` is its type without the ACME prefix."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"the server refuses: {kind}: {detail}")
        self.kind = kind


class ServerAnswerError(AcmeClientError):
    """No answer, or one that makes no sense."""


class ProofFailedError(AcmeClientError):
    """The server did not see the proof of a name."""


class RequestInputError(AcmeClientError):
    """What the user asked for cannot be done here."""
