"""FastAPI's validators of parameters and answers: made once for a process, not for each application of each test.

A service makes its admin application once in its life. Tests make hundreds, and three quarters of that was pydantic,
which looked through the same annotations again. Its validators hold no state. Only the library is stood in for.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi._compat import v2 as library
from pydantic import TypeAdapter

_MADE: Final[dict[str, tuple[Any, TypeAdapter[Any]]]] = {}


def _adapter(annotation: Any, **options: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - whatever pydantic takes
    name = repr((annotation, options))
    made = _MADE.get(name)
    if made is None or made[0].__origin__ != annotation.__origin__:  # two classes of one name
        made = _MADE[name] = annotation, TypeAdapter(annotation, **options)
    return made[1]


def install() -> None:
    """Stand in for pydantic where FastAPI asks it."""
    vars(library)["TypeAdapter"] = _adapter
