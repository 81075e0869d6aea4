"""Foreign ACME clients: lego, uacme, dehydrated and acme.sh, each with an account and a folder of its own.

All answer http-01 by files in a web root, which `WebRoot` serves. What a client is told here is what its users tell it.
"""

from __future__ import annotations

import functools
import http.server
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
SECONDS = 60


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name in the base class
        """Nobody reads the access log."""


class WebRoot:
    """A web server on loopback with the folder in which clients put their answers to http-01."""

    def __init__(self, directory: Path, port: int) -> None:
        self.root = directory
        self.challenges = directory / ".well-known/acme-challenge"
        self.challenges.mkdir(parents=True)
        handler = functools.partial(_Quiet, directory=str(directory))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class Server:
    """What every client must know: the directory's URL, and what the server's certificate chains to."""

    directory: str
    bundle: Path


@dataclass(frozen=True)
class Result:
    """The files that a client keeps for a name; `chain` begins with the issuer."""

    leaf: Path
    chain: Path


class Client(Protocol):
    """What is asked of each client."""

    def issue(self, *names: str) -> Result:
        """Register where there is no account yet, and get a certificate by http-01."""

    def renew(self, *names: str) -> Result:
        """Get another certificate although the one that is there is still good."""

    def revoke(self, *names: str) -> None:
        """Revoke the certificate that is there."""


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """One run of a client that must succeed; its output."""
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


class Lego:
    """lego with its web root, or another way of proof.

    Args:
        home: its folder.
        server: whom it asks.
        web: where http-01 is answered.
        challenge: options for another way of proof.
        environment: further variables.
        options: further global options, such as `--eab`.
        run_options: further options of `lego run`.
    """

    def __init__(
        self,
        home: Path,
        server: Server,
        web: WebRoot,
        *,
        challenge: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        run_options: Sequence[str] = (),
    ) -> None:
        self._home = home
        self._environment = {"LEGO_CA_CERTIFICATES": str(server.bundle), **(environment or {})}
        self._run_options = run_options
        challenge = challenge or ["--http", "--http.webroot", str(web.root)]
        self._command = ["lego", "--accept-tos", "--email", "admin@pqcpki.test", "--path", str(home)]
        self._command += ["--server", server.directory, *challenge, *options]

    def issue(self, *names: str) -> Result:
        """`lego run`."""
        self._run(names, "run", *self._run_options)
        return self._result(names)

    def renew(self, *names: str) -> Result:
        """`lego renew`, however long the certificate is still good."""
        self._run(names, "renew", "--days", "3650", "--no-random-sleep")
        return self._result(names)

    def revoke(self, *names: str) -> None:
        """`lego revoke`; the files go."""
        self._run(names, "revoke", "--keep")

    def _run(self, names: Sequence[str], *arguments: str) -> str:
        return run([*self._command, *(f"--domains={name}" for name in names), *arguments], self._environment)

    def _result(self, names: Sequence[str]) -> Result:
        path = self._home / "certificates" / names[0].replace("*", "_")
        return Result(path.with_name(f"{path.name}.crt"), path.with_name(f"{path.name}.issuer.crt"))


class Uacme:
    """uacme with a hook of its own.

    It trusts the system's bundle and nothing else, so it runs where that file is the server's: in a mount namespace.
    """

    def __init__(self, home: Path, server: Server, web: WebRoot, *, options: Sequence[str] = ()) -> None:
        self._home = home
        home.mkdir()
        hook = home / "hook.sh"
        hook.write_text(_UACME_HOOK)
        hook.chmod(0o700)
        self._environment = {"WEB": str(web.challenges)}
        self._options = ["--confdir", str(home), "--acme-url", server.directory, "--yes", "--hook", str(hook), *options]
        self._mounted = f"mount --bind {shlex.quote(str(server.bundle))} {SYSTEM_BUNDLE} && exec uacme "

    def issue(self, *names: str) -> Result:
        """`uacme new` and `uacme issue`."""
        if not (self._home / "private/key.pem").exists():
            self._run("new", "admin@pqcpki.test")
        return self._issue(names)

    def renew(self, *names: str) -> Result:
        """`uacme --force issue`."""
        return self._issue(names, "--force")

    def revoke(self, *names: str) -> None:
        """`uacme revoke`, which renames the file."""
        self._run("revoke", str(self._home / names[0] / "cert.pem"))

    def _issue(self, names: Sequence[str], *options: str) -> Result:
        self._run(*options, "--no-ocsp", "--type", "EC", "issue", *names)
        bundle = self._home / names[0] / "cert.pem"
        return split(bundle, self._home / names[0])

    def _run(self, *arguments: str) -> str:
        command = self._mounted + shlex.join([*self._options, *arguments])
        return run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command], self._environment)


class Dehydrated:
    """dehydrated with a configuration file of its own."""

    def __init__(self, home: Path, server: Server, web: WebRoot, *, options: Mapping[str, str] | None = None) -> None:
        self._home = home
        home.mkdir()
        settings = {
            "CA": server.directory,
            "CURL_OPTS": f"--cacert {server.bundle}",
            "BASEDIR": str(home),
            "WELLKNOWN": str(web.challenges),
            "KEY_ALGO": "prime256v1",
            "ACCOUNT_KEYSIZE": "2048",
            **(options or {}),
        }
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
        (home / "config").write_text("".join(lines))
        self._command = ["dehydrated", "--config", str(home / "config")]

    def issue(self, *names: str) -> Result:
        """`dehydrated --cron`, which makes an account where there is none."""
        return self._cron(names, "--accept-terms")

    def renew(self, *names: str) -> Result:
        """`dehydrated --cron --force`."""
        return self._cron(names, "--force")

    def revoke(self, *names: str) -> None:
        """`dehydrated --revoke`."""
        run([*self._command, "--revoke", self._home / "certs" / names[0] / "cert.pem"])

    def _cron(self, names: Sequence[str], *options: str) -> Result:
        domains = [part for name in names for part in ("--domain", name)]
        run([*self._command, "--cron", *domains, *options])
        folder = self._home / "certs" / names[0]
        return Result(folder / "cert.pem", folder / "chain.pem")


class AcmeSh:
    """acme.sh, which no package index has: it runs where somebody put it on the PATH."""

    def __init__(self, home: Path, server: Server, web: WebRoot) -> None:
        self._home = home
        home.mkdir()
        self._web = web
        self._command = ["acme.sh", "--home", str(home), "--server", server.directory]
        self._command += ["--ca-bundle", str(server.bundle)]

    def issue(self, *names: str) -> Result:
        """`acme.sh --register-account` and `--issue`."""
        self._run("--register-account", "-m", "admin@pqcpki.test")
        domains = [part for name in names for part in ("-d", name)]
        self._run("--issue", *domains, "--webroot", str(self._web.root), "--keylength", "ec-256")
        return self._result(names)

    def renew(self, *names: str) -> Result:
        """`acme.sh --renew --force`."""
        self._run("--renew", "-d", names[0], "--ecc", "--force")
        return self._result(names)

    def revoke(self, *names: str) -> None:
        """`acme.sh --revoke`."""
        self._run("--revoke", "-d", names[0], "--ecc")

    def _run(self, *arguments: str) -> None:
        run([*self._command, *arguments], {"HOME": str(self._home), "LE_WORKING_DIR": str(self._home)})

    def _result(self, names: Sequence[str]) -> Result:
        folder = self._home / f"{names[0]}_ecc"
        return Result(folder / f"{names[0]}.cer", folder / "ca.cer")


def split(bundle: Path, folder: Path) -> Result:
    """The leaf and the chain of a file that has both."""
    end = "-----END CERTIFICATE-----\n"
    folder.mkdir(exist_ok=True)
    leaf, _, rest = bundle.read_text().partition(end)
    result = Result(folder / "leaf.pem", folder / "issuers.pem")
    result.leaf.write_text(leaf + end)
    result.chain.write_text(rest)
    return result


def missing(*programs: str) -> str:
    """Which of the programs are not there, as a sentence; empty where all are."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not run: {', '.join(absent)} missing" if absent else ""


def namespaces() -> str:
    """Why mount namespaces cannot be used here; empty where they can."""
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False
    )
    return "not run: no user namespaces here, and uacme trusts the system's bundle alone" if tried.returncode else ""


_UACME_HOOK = """#!/bin/sh
# uacme HOOK begin|done|failed TYPE IDENTIFIER TOKEN ANSWER; 1 refuses the challenge, and the next type is tried
[ "$2" = http-01 ] || exit 1
case $1 in
    begin) printf %s "$5" > "$WEB/$4" ;;
    *) rm -f "$WEB/$4" ;;
esac
"""
