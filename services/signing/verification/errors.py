"""What a verifier says where something is well-formed and proves another thing than was asked."""

from __future__ import annotations


class VerificationError(Exception):
    """What was given is well-formed and proves something, but not what was asked."""


class NoTimestampError(VerificationError):
    """No trusted authority says when the signature existed."""


class WrongIdentityError(VerificationError):
    """Signed by somebody else than expected."""


class NoLogEntryError(VerificationError):
    """No trusted log holds an entry about this signature."""


class WrongArtefactError(VerificationError):
    """The signature is about another artefact."""
