"""The error tree."""

from __future__ import annotations

import inspect
import re

from pkicore import errors


def test_the_drawing_shows_exactly_the_classes_of_the_module() -> None:
    """A class that is missing from the drawing, or drawn but gone, fails."""
    drawn = set(re.findall(r"\b\w+Error\b", errors.__doc__ or ""))
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert drawn == defined


def test_every_error_is_a_pki_error() -> None:
    """A caller can catch the whole tree by its root."""
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert all(issubclass(found, errors.PkiError) for found in classes)


def test_errors_carry_what_the_caller_acts_on() -> None:
    """Serial, findings, reason, peer and sequence are attributes, not text to parse."""
    assert errors.RevokedError(0xAB).serial == 0xAB
    assert "ab" in str(errors.RevokedError(0xAB))
    assert errors.LintError(("a", "b")).findings == ("a", "b")
    handshake = errors.HandshakeError("certificate_expired", "spiffe://td/x")
    assert (handshake.reason, handshake.peer) == ("certificate_expired", "spiffe://td/x")
    assert errors.AuditError("broken", 7).sequence == 7
