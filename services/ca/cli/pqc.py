"""`ztca pqc report`: what is still classical."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from services.ca.cli.ledger_text import plain
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.cli.pqc_report import Report, gather
from services.chassis.cli.deployed import Deployed


@click.group()
def pqc() -> None:
    """The way to post-quantum algorithms."""


@pqc.command("report")
@click.option(
    "--fail-on-classical", is_flag=True, help="Exit with 1 where anything is classical, or could not be asked."
)
@directory_option
@json_option
def report(directory: Path, fail_on_classical: bool, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """List what is still classical: issuers, live certificates, ACME accounts, listeners, keys.

    The keys are those at signer-hsm, the audit logs' and the CT log's. Keys of certificates are counted with these:
    responders, time-stamping authority, artefact signing, services.

    Needs a running deployment (`ztca up`) and an operator's identity.
    """
    with failing_cleanly():
        found = asyncio.run(gather(Deployed.read(directory)))
        tell(as_json, found.to_json(), *_sentences(found))
    sys.exit(1 if fail_on_classical and (found.classical or found.not_asked) else 0)


def _sentences(found: Report) -> Iterator[str]:
    for area, findings in found.areas.items():
        classical = [finding for finding in findings if finding.classical]
        total = sum(finding.count for finding in findings)
        yield f"{area}: {sum(finding.count for finding in classical)} of {total} classical"
        for finding in classical:
            many = f" x {finding.count}" if finding.count != 1 else ""
            detail = f" ({finding.detail})" if finding.detail else ""
            yield plain(f"  {finding.algorithm}{many}: {finding.what}{detail}")
    for area, reason in found.not_asked.items():
        yield f"not asked: {area}: {plain(reason)}"
