"""A running CA follows its settings file: issuing CAs and roots come, begin to issue, and retire, without a restart.

Nothing else in the file is followed. What cannot be taken up, since a key is not at hand or a certificate is not there,
is logged and tried again; until then everything is as before.
"""

import asyncio
from typing import Final, Protocol

import structlog

from pkicore.errors import PkiError
from services.ca.errors import CaServiceError
from services.ca.hierarchy import Hierarchy, KeyRing, load_hierarchy
from services.ca.settings import CaSettings
from services.ca.transport import Standing
from services.chassis.errors import DatabaseError, SettingsError
from services.chassis.settings import load_settings

_LOOK_SECONDS: Final = 1.0
_log: Final = structlog.get_logger(__name__)


class Adopter(Protocol):
    """The domain of a running CA."""

    @property
    def hierarchy(self) -> Hierarchy:
        """What it answers for."""
        ...

    async def adopt(self, later: Hierarchy) -> None:
        """Take up what is new, and issue as it says."""
        ...


class Following:
    """Follows the file of `settings`; where there is none, there is nothing to follow."""

    def __init__(self, settings: CaSettings, base_url: str, ring: KeyRing, core: Adopter, standing: Standing) -> None:
        self._file = settings.file
        self._base_url = base_url
        self._ring = ring
        self._core = core
        self._standing = standing
        self._in_force = settings.issuers, settings.roots

    async def look(self) -> bool:
        """Take up what the file says of issuing CAs and roots; whether that was something else than before.

        Raises:
            SettingsError: the file makes no sense.
            PkiError, CaServiceError, DatabaseError: it could not be taken up, or not all of it: look again.
        """
        settings = load_settings(CaSettings, self._file)
        wanted = settings.issuers, settings.roots
        if wanted == self._in_force:
            return False
        later = await load_hierarchy(settings, self._base_url, self._ring, self._core.hierarchy)
        await self._core.adopt(later)
        await self._standing.follow(settings)
        self._in_force = wanted
        _log.info(
            "issuing CAs and roots taken up",
            issuers={item.id: item.state for item in settings.issuers},
            roots={item.id: item.state for item in settings.roots},
        )
        return True

    async def run(self) -> None:
        """Look for ever; the file is read only where it was written."""
        seen: tuple[int, int] | None = None
        while self._file is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            stamp = self._stamp()
            if stamp == seen:
                continue
            try:
                await self.look()
            except (SettingsError, PkiError, CaServiceError, DatabaseError) as error:
                _log.error("the settings file is not followed", error=str(error), retry_seconds=_LOOK_SECONDS)
            else:
                seen = stamp

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if status is None else (status.st_ino, status.st_mtime_ns)
