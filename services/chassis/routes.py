"""Paths and patterns, matched alike by the request frame and the caller policy.

A pattern is a path whose segments may be `{name}` (one non-empty segment); a last `{name...}` takes the rest of the
path, slashes included.
"""

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class _Pattern(NamedTuple):
    fixed: tuple[tuple[int, str], ...]
    captured: tuple[tuple[int, str], ...]
    rest: str | None
    length: int

    @classmethod
    def parse(cls, text: str) -> "_Pattern":
        segments = text.split("/")
        rest = None
        if segments[-1].endswith("...}"):
            rest = segments.pop()[1:-4]
        names = {i: segment[1:-1] for i, segment in enumerate(segments) if segment.startswith("{")}
        fixed = tuple((i, segment) for i, segment in enumerate(segments) if i not in names)
        return cls(fixed, tuple(names.items()), rest, len(segments))

    def match(self, segments: list[str]) -> dict[str, str] | None:
        for index, segment in self.fixed:
            if segments[index] != segment:
                return None
        found = {}
        for index, name in self.captured:
            if not segments[index]:
                return None
            found[name] = segments[index]
        if self.rest is not None:
            found[self.rest] = "/".join(segments[self.length :])
        return found


class PathTable(Generic[Value]):
    """Paths and patterns with a value each; exact paths are one dictionary look-up.

    Args:
        entries: Pattern → value, tried in their order where several match.

    Raises:
        ValueError: a pattern that does not begin with a slash, or has an empty or half-braced segment.
    """

    def __init__(self, entries: Mapping[str, Value]) -> None:
        self._exact: dict[str, Value] = {}
        self._by_length: dict[int, list[tuple[_Pattern, Value]]] = {}
        self._open: list[tuple[_Pattern, Value]] = []
        for text, value in entries.items():
            self._add(text, value)

    def match(self, path: str) -> tuple[Value, Mapping[str, str]] | None:
        """The value for a path and what its segments captured."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact, {}
        segments = path.split("/")
        for pattern, value in self._by_length.get(len(segments), ()):
            found = pattern.match(segments)
            if found is not None:
                return value, found
        for pattern, value in self._open:
            if len(segments) > pattern.length and (found := pattern.match(segments)) is not None:
                return value, found
        return None

    def _add(self, text: str, value: Value) -> None:
        check_pattern(text)
        if "{" not in text:
            self._exact[text] = value
            return
        pattern = _Pattern.parse(text)
        if pattern.rest is None:
            self._by_length.setdefault(pattern.length, []).append((pattern, value))
        else:
            self._open.append((pattern, value))


def check_pattern(text: str) -> None:
    """Refuses what is no pattern.

    Raises:
        ValueError: the sentence says why.
    """
    if not text.startswith("/"):
        raise ValueError(f"the path {text!r} must begin with a slash")
    segments = text.split("/")[1:]
    for index, segment in enumerate(segments):
        braced = segment.startswith("{") and segment.endswith("}")
        name = segment[1:-1]
        if braced and name.endswith("...") and index == len(segments) - 1:
            name = name[:-3]
        if braced != ("{" in segment or "}" in segment) or (braced and not name.isidentifier()):
            raise ValueError(f"{segment!r} in {text!r} is no path segment; captures are written {{name}}")
