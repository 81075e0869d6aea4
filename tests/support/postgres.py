"""A private PostgreSQL of Debian's package: its own directory, a unix socket, no TCP port, gone with the test session.

PostgreSQL refuses to run as root; there the server runs as the `postgres` user of the package.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

_VERSIONS = Path("/usr/lib/postgresql")
_START_SECONDS = 30
_USER = "postgres"
# Nothing outlives a crash of the machine, and hundreds of small databases are not cleaned up four times a second.
_OPTIONS = (
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "autovacuum=off",
    "jit=off",
)


class PostgresMissingError(Exception):
    """PostgreSQL is not installed here; the message says so in the words of a skip reason."""


class PostgresServer:
    """A running server; `start` makes one.

    Attributes:
        directory: Holds the data and the socket.
    """

    def __init__(self, binaries: Path, directory: Path) -> None:
        self.directory = directory
        self._binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    @classmethod
    def start(cls) -> Self:
        """Makes a cluster and starts it.

        Raises:
            PostgresMissingError: the package is not installed.
        """
        versions = sorted(_VERSIONS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        if not versions:
            raise PostgresMissingError("not run: postgresql missing (apt-get install postgresql)")
        directory = Path(tempfile.mkdtemp(prefix="pqcpki-pg-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(directory, _USER)
        server = cls(versions[-1].parent, directory)
        server._run("initdb", "-A", "trust", "-U", _USER, "-E", "UTF8", "--no-sync", "-D", str(directory / "data"))
        server.launch()
        return server

    def launch(self) -> None:
        """Starts the server process and waits until it answers."""
        arguments = [f"-c{option}" for option in (*_OPTIONS, f"unix_socket_directories={self.directory}")]
        command = [*_as_user(), str(self._binaries / "postgres"), "-D", str(self.directory / "data"), *arguments]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + _START_SECONDS
        while self._run("pg_isready", "-q", "-h", str(self.directory), check=False):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"PostgreSQL did not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def new_database(self) -> str:
        """Makes an empty database; answers its URL."""
        url = self.unmade_database()
        self._run("createdb", "-h", str(self.directory), "-U", _USER, f"test{self._databases}")
        return url

    def unmade_database(self) -> str:
        """The URL of a database that `tests.support.migrated` makes, in a fifth of the time of making and migrating."""
        self._databases += 1
        return self.url(f"test{self._databases}")

    def url(self, database: str = "postgres") -> str:
        """The URL of a database; the default one is there from the start and quicker to empty than to make anew."""
        return f"postgresql://{_USER}@/{database}?host={quote(str(self.directory), safe='')}"

    def kill(self) -> None:
        """Ends the server as a crash does: SIGQUIT, no clean shutdown."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_START_SECONDS)
            self._process = None

    def stop(self) -> None:
        """Ends the server; its directory, some 70,000 files after a whole run, is removed while others go on."""
        self.kill()
        subprocess.run(["sh", "-c", 'rm -rf -- "$1" &', "sh", str(self.directory)], check=True, start_new_session=True)

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        command = [*_as_user(), str(self._binaries / program), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, cwd="/")
        if check and done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')}")
        return done.returncode


def _as_user() -> list[str]:
    """`setpriv` becomes the server, so that signals reach it."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--"]
