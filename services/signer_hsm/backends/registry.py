"""Opens the back ends that the settings name, and imports no other's SDK.

- A back end that is away at start says so in its health and is opened again in the background; the others serve.
- One that refuses its secret (a PIN, a passphrase) says so, and is not tried again before the service starts anew: a
  repetition could lock a token. The others serve.
- Settings that can never work (an SDK, a module or a file that is not there) keep the service from starting.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import structlog

from pkicore.clock import Clock
from services.signer_hsm.backends import Backend
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.settings import AnyBackendSettings
from services.signer_hsm.backends.stand_in import StandIn, opened_later
from services.signer_hsm.errors import (
    DeadlineError,
    DeniedError,
    MisconfiguredError,
    SecretRefusedError,
    ThrottledError,
    UnavailableError,
)
from services.signer_hsm.metrics import SignerMetrics

__all__ = ["BackendRegistry"]

_log = structlog.get_logger("backends")

WATCH_SECONDS: Final = 10.0
_OPEN_SECONDS: Final = 10.0
_PASSING: Final = (UnavailableError, DeadlineError, DeniedError, ThrottledError, SecretRefusedError)
_MODULES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "file": ("services.signer_hsm.backends.file", "signer-hsm"),
        "pkcs11": ("services.signer_hsm.backends.pkcs11", "pkcs11"),
        "vault": ("services.signer_hsm.backends.vault", "vault"),
        "aws_kms": ("services.signer_hsm.backends.aws_kms", "aws-kms"),
        "gcp_kms": ("services.signer_hsm.backends.gcp_kms", "gcp-kms"),
    }
)
"""By type: the module, and the extra that brings its SDK."""


class BackendRegistry:
    """The open back ends.

    Attributes:
        backends: by name, in the settings' order, each behind its guard.
    """

    def __init__(self, backends: Mapping[str, GuardedBackend], opening: Sequence[asyncio.Task[None]] = ()) -> None:
        self.backends = backends
        self._opening = opening

    @classmethod
    async def open(
        cls, settings: Sequence[AnyBackendSettings], *, clock: Clock, metrics: SignerMetrics
    ) -> BackendRegistry:
        """Open them all at once; a stand-in serves for one that does not open now.

        Raises:
            MisconfiguredError: two of one name, an SDK that is not installed, or what a back end says of its settings;
                none stays open.
        """
        names = [each.name for each in settings]
        if len(set(names)) < len(names):
            raise MisconfiguredError(f"each back end needs a name of its own, not {', '.join(names)}")
        results = await asyncio.gather(*(_open_or_stand_in(each, clock) for each in settings), return_exceptions=True)
        opened = [result for result in results if not isinstance(result, BaseException)]
        if len(opened) < len(results):
            await asyncio.gather(*(backend.aclose() for backend in opened))
            raise next(result for result in results if isinstance(result, BaseException))
        backends: dict[str, GuardedBackend] = {}
        opening: list[asyncio.Task[None]] = []
        for backend, each in zip(opened, settings, strict=True):
            guard = backends[each.name] = GuardedBackend(backend, each, metrics)
            if isinstance(backend, StandIn):
                metrics.failure(each.name, "open", backend.reason.cause)
                opening.append(asyncio.create_task(_adopt_later(guard, backend, each, clock), name=f"{each.name}-open"))
        return cls(MappingProxyType(backends), opening)

    async def watch(self) -> None:
        """Ask each for its health now and again, for ever, so that metrics tell the present without traffic too."""
        while True:
            await asyncio.gather(*(backend.health() for backend in self.backends.values()))
            await asyncio.sleep(WATCH_SECONDS)

    async def aclose(self) -> None:
        """Close them all at once; what is not open yet is not opened any more."""
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        await asyncio.gather(*(backend.aclose() for backend in self.backends.values()))


async def _open_or_stand_in(settings: AnyBackendSettings, clock: Clock) -> Backend:
    try:
        return await _open(settings, clock)
    except _PASSING as error:
        _log.error("back end not open", backend=settings.name, cause=error.cause, reason=str(error))
        return StandIn(settings, settings.type, error)


async def _adopt_later(guard: GuardedBackend, stand_in: StandIn, settings: AnyBackendSettings, clock: Clock) -> None:
    backend = await opened_later(stand_in, lambda: _open(settings, clock))
    if backend is not None:
        guard.adopt(backend)
        _log.info("back end open", backend=settings.name)


async def _open(settings: AnyBackendSettings, clock: Clock) -> Backend:
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            return await _opener(settings)(settings, clock=clock)
    except TimeoutError:
        raise UnavailableError(f"the back end {settings.name} did not open in {_OPEN_SECONDS:.0f} s") from None


def _opener(settings: AnyBackendSettings) -> Callable[..., Awaitable[Backend]]:
    module, extra = _MODULES[settings.type]
    try:
        opener: Callable[..., Awaitable[Backend]] = importlib.import_module(module).open_backend
    except ModuleNotFoundError as error:
        missing = error.name or module
        if missing.startswith(("services", "pkicore")):
            raise
        raise MisconfiguredError(
            f"the back end {settings.name} needs the Python package {missing}: install pqcpki[{extra}]"
        ) from error
    return opener
