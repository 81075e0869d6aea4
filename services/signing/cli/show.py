"""`pqcsign show`."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from services.chassis.cli.output import json_option, tell
from services.signing.cli.connection import Route, service_command
from services.signing.cli.delivery import Plan, deliver
from services.signing.cli.failures import USAGE, CommandError, plain
from services.signing.cli.hashing import read_digests
from services.signing.cli.moments import utc
from services.signing.client import SigningClient
from services.signing.wire import SignatureRecord


@click.command()
@click.argument("signature_id", metavar="[ID]", required=False)
@click.option("--digest", metavar="sha256:HEX", help="Show what is known about this artefact instead, newest first.")
@click.option("--predicate-type", help="Show records with an attestation of this type; with --digest: of these only.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many records at most.")
@click.option("--out", type=click.Path(path_type=Path), help="With ID: fetch its files into this directory.")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@service_command
@json_option
def show(
    signature_id: str | None,
    digest: str | None,
    predicate_type: str | None,
    limit: int,
    out: Path | None,
    force: bool,  # noqa: FBT001 - a command-line flag
    route: Route,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Show the record of a signature by its ID, or search: by an artefact's digest, by a type of attestation."""
    searched = digest is not None or predicate_type is not None
    if (signature_id is None) != searched or (out is not None and signature_id is None):
        raise CommandError("give an ID, or --digest sha256:HEX or --predicate-type; --out goes with an ID", USAGE)
    if signature_id is None:
        wanted = None if digest is None else _one_digest(digest)
        found = route.run(lambda service: service.signatures(wanted, predicate_type, limit))
        lines = [line for record in found for line in _lines(record)] or ["There is no record of it."]
        tell(as_json, {"signatures": [orjson.loads(record.to_json()) for record in found]}, *lines)
        return
    record, files = route.run(lambda service: _fetched(service, signature_id, out, force=force))
    value = orjson.loads(record.to_json()) | ({} if out is None else {"files": [str(file) for file in files]})
    tell(as_json, value, *_lines(record), *map(str, files))


def _one_digest(text: str) -> str:
    digests = read_digests(text)
    if len(digests) > 1:
        raise CommandError("a search is by one digest", USAGE)
    ((name, digest),) = digests.items()
    return f"{name}:{digest.hex()}"


async def _fetched(
    service: SigningClient, signature_id: str, out: Path | None, *, force: bool
) -> tuple[SignatureRecord, list[Path]]:
    record = await service.signature(signature_id)
    if out is None:
        return record, []
    return record, await deliver(service, Plan(record, out, {}).files(), force=force)


def _lines(record: SignatureRecord) -> list[str]:
    policy = f"version {record.policy.version}, sha256 {record.policy.sha256}"
    lines = [
        f"{record.id}: {utc(record.created)}, tenant {record.tenant}, by {record.caller}",
        *(f"  artefact  {subject.name}  sha256:{subject.sha256}" for subject in record.subjects),
        *(f"  {one.format:9} {one.algorithm} by {one.key}" for one in record.signatures),
        *(f"  bundle    {one.kind}, {one.algorithm}" for one in record.bundles),
        f"  policy    {policy}, by {', '.join(record.policy.determining)}",
        *(f"  {name:9} {text}" for name, text in record.context.items()),
    ]
    if record.log is not None:
        lines.append(f"  log       {record.log.origin}, entry {record.log.index} of {record.log.tree_size}")
    return [plain(line) for line in lines]
