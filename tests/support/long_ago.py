"""A ceremony of forty days ago, as a program: `python -m tests.support.long_ago DIRECTORY BACKENDS`, these as JSON.

It runs in a process of its own that forks its signer-hsm, which so opens what the ceremony has sealed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

from pkicore.clock import SystemClock
from services.ca.ceremony import hold_ceremony
from services.ca.deployment import Deployment, choose_ports
from services.ca.layout import Layout
from tests.support import forked_services

PORTS = dict.fromkeys(("ca", "ca_http", "ca_ops", "acme", "acme_ops", "signer", "signer_ops"), 0)


class LongAgo:
    """The time of a ceremony long past."""

    def now(self) -> datetime:
        """Forty days ago: identities, CRLs, staples and responders have expired since."""
        return SystemClock().now() - timedelta(days=40)


def main() -> None:
    """Hold it."""
    directory, backends = sys.argv[1:]
    forked_services.install()
    facts = Deployment(
        "Long ago",
        "old.internal",
        "127.0.0.1",
        choose_ports("127.0.0.1", PORTS),
        backends=tuple(json.loads(backends)),
    )
    ceremony = hold_ceremony(
        Layout(Path(directory)),
        facts,
        passphrase_file=None,
        clock=LongAgo(),
        progress=lambda _: None,
        environment=os.environ,
    )
    asyncio.run(ceremony)


if __name__ == "__main__":
    main()
