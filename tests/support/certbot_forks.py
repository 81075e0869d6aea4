"""certbot, loaded once and forked for each run; a program for the Python of certbot's own environment.

Each line of standard input is a run: {"arguments": [...], "environment": {...}, "directory": ..., "output": FILE}. When
it has ended, its exit status is a line of standard output. It ends with its standard input.
"""

import json
import os
import sys
from typing import Any

from certbot import main as certbot  # type: ignore[import-not-found]  # in the environment that runs this


def forked() -> dict[str, Any] | None:
    """Fork for each line and tell of its end; in a forked process, what it is to do."""
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            run: dict[str, Any] = json.loads(line)
            return run
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return None


def become(run: dict[str, Any]) -> None:
    """Be certbot."""
    output = os.open(run["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for standard, descriptor in enumerate((null, output, output)):
        os.dup2(descriptor, standard)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(run["environment"])
    os.chdir(run["directory"])
    sys.argv = ["certbot", *run["arguments"]]
    sys.exit(certbot.main())


if __name__ == "__main__" and (run := forked()):
    become(run)
