"""The template of each issuer's OCSP answers, where its responder's key is in this process and signs in a moment."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from pkicore.errors import KeyAccessError
from pkicore.keys.file import FileKey
from pkicore.ocsp import Responder, ResponseTemplate


class Responders(Protocol):
    """Where the delegated responder of an issuer comes from; it changes when its certificate is renewed."""

    def of(self, issuer: str) -> Responder:
        """The responder in force.

        Raises:
            KeyAccessError: there is none with a valid certificate.
        """
        ...


class Templates:
    """Made anew when a responder is, which is looked at once a second; `lifetime` is in seconds."""

    def __init__(self, responders: Responders, lifetime: int, archive: timedelta) -> None:
        self._responders = responders
        self._lifetime, self._archive = lifetime, archive
        self._made: dict[str, tuple[Responder, ResponseTemplate | None]] = {}
        self._current: dict[str, ResponseTemplate | None] = {}
        self._second = -1

    def of(self, issuer: str, now: int) -> ResponseTemplate | None:
        """The template of the responder in force; None where there is none."""
        if now != self._second:
            self._current, self._second = {}, now
        if issuer not in self._current:
            self._current[issuer] = self._look_up(issuer)
        return self._current[issuer]

    def _look_up(self, issuer: str) -> ResponseTemplate | None:
        try:
            responder = self._responders.of(issuer)
        except KeyAccessError:
            return None
        made = self._made.get(issuer)
        if made is None or made[0] is not responder:
            made = self._made[issuer] = responder, self._make(responder)
        return made[1]

    def _make(self, responder: Responder) -> ResponseTemplate | None:
        key = responder.key
        if not (responder.is_proven and isinstance(key, FileKey) and key.algorithm.signs_inline):
            return None
        return ResponseTemplate(responder, key, self._lifetime, self._archive)
