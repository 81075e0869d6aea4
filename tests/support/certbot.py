"""The real certbot from the package index, in a virtual environment of its own that all runs and workers share."""

from __future__ import annotations

import atexit
import fcntl
import functools
import json
import os
import select
import subprocess
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

VERSION = "5.8.0"
CACHE = Path(__file__).parents[2] / ".cache"
FORKS = Path(__file__).with_name("certbot_forks.py")
RUN_SECONDS = 120.0


def install() -> Path:
    """Install certbot once, under a lock.

    Returns:
        The path of the command.
    """
    home = CACHE / f"certbot-{VERSION}"
    command = home / "bin" / "certbot"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "certbot.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not command.exists():
            venv.create(home, with_pip=True, clear=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, f"certbot=={VERSION}"], check=True, timeout=300)
    return command


class CertbotForks:
    """A process that has loaded certbot: loading is half of what a run of it costs."""

    def __init__(self, command: Path) -> None:
        """The installed program's."""
        program = [str(command.with_name("python")), "-P", str(FORKS)]  # beside it there is a certbot.py of ours
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """One run to its end; both outputs come as one text in `stdout`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile("r") as output:
            where = {"directory": str(Path.cwd()), "output": output.name}
            run = {"arguments": list(arguments), "environment": dict(environment), **where}
            self._process.stdin.write(json.dumps(run) + "\n")
            self._process.stdin.flush()
            ended, _, _ = select.select([self._process.stdout], [], [], RUN_SECONDS)
            assert ended, f"certbot runs on after {RUN_SECONDS:g} seconds: {output.read()[-4000:]}"
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(["certbot", *arguments], status, output.read())

    def stop(self) -> None:
        """End it."""
        self._process.communicate()


@functools.cache
def certbot_forks(command: Path) -> CertbotForks:
    """That of this test process, started when it is first needed."""
    forks = CertbotForks(command)
    atexit.register(forks.stop)
    return forks


class Certbot:
    """One user's certbot: own account, own configuration.

    Args:
        command: the installed program.
        directory: its configuration, work and log directories.
        server: the ACME directory URL.
        ca_bundle: PEM file with what the server's certificate chains to.
        http01_port: where the standalone web server listens, on 127.0.0.1.
    """

    def __init__(self, command: Path, directory: Path, server: str, ca_bundle: str, http01_port: int) -> None:
        self._command = command
        self.directory = directory
        self._server = server
        self._environment = {**os.environ, "REQUESTS_CA_BUNDLE": ca_bundle}
        self._http01 = ["--http-01-address", "127.0.0.1", "--http-01-port", str(http01_port)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one certbot command to its end; both outputs come as one text in `stdout`."""
        folders = [
            item for name in ("config", "work", "logs") for item in (f"--{name}-dir", str(self.directory / name))
        ]
        command = [*arguments, *folders, "--server", self._server, "--non-interactive"]
        return certbot_forks(self._command).run(command, self._environment)

    def succeed(self, *arguments: str) -> str:
        """Run a command that must succeed; its output."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stdout + self.log()
        return result.stdout

    def fail(self, *arguments: str) -> str:
        """Run a command that must be refused; what the user reads."""
        result = self.run(*arguments)
        assert result.returncode != 0, result.stdout
        assert "Traceback" not in result.stdout
        return result.stdout

    def register(self) -> str:
        """Make an account without an e-mail address."""
        return self.succeed("register", "--agree-tos", "--register-unsafely-without-email")

    def standalone(self, *names: str, key_type: str = "ecdsa") -> Path:
        """Get a certificate by http-01 with certbot's own web server.

        Returns:
            The `live` directory of the certificate.
        """
        self.succeed(*self.certonly(*names, key_type=key_type), "--standalone", *self._http01)
        return self.live(names[0])

    def certonly(self, *names: str, key_type: str = "ecdsa") -> list[str]:
        """The beginning of a `certonly` command line."""
        domains = [item for name in names for item in ("-d", name)]
        return ["certonly", "--agree-tos", "--register-unsafely-without-email", "--key-type", key_type, *domains]

    def live(self, name: str) -> Path:
        """The directory with the current certificate of `name`."""
        return self.directory / "config" / "live" / name.removeprefix("*.")

    def log(self) -> str:
        """The end of certbot's log, for failing tests."""
        files = sorted((self.directory / "logs").glob("*.log"))
        return files[-1].read_text()[-4000:] if files else ""
