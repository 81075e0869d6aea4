"""Linters that a profile asks for beside ours; each is loaded when a profile first names it."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from pkicore.errors import ProfileError
from pkicore.x509.profiles import Profile


class Linter(Protocol):
    """One linter."""

    async def lint(self, certificate: bytes) -> None:
        """Look at a certificate (DER) whose signature is not there yet.

        Raises:
            LintError: with the name of each finding.
        """


def _pkilint() -> Linter:
    from services.ca.pkilint import Pkilint

    return Pkilint()


_LINTERS: Final[Mapping[str, Callable[[], Linter]]] = MappingProxyType({"pkilint": _pkilint})


def open_linters(profiles: Iterable[Profile]) -> Mapping[str, Linter]:
    """The linters that these profiles name, by name.

    Raises:
        ProfileError: one is not installed; the sentence says how to install it.
    """
    opened: dict[str, Linter] = {}
    for profile in profiles:
        for name in profile.lint:
            try:
                opened.setdefault(name, opened.get(name) or _LINTERS[name]())
            except ImportError as error:
                raise ProfileError(
                    f"profile {profile.name}: lint asks for {name}, which is not installed: "
                    f"pip install 'pqcpki[{name}]'"
                ) from error
    return MappingProxyType(opened)
