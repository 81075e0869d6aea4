"""`pqcsign evidence`."""

from __future__ import annotations

from pathlib import Path

import click

from pkicore.errors import MalformedError
from services.chassis.cli.output import json_option, tell
from services.signing.cli.connection import Route, service_command
from services.signing.cli.delivery import PlannedFile, deliver, file_name, refuse_existing
from services.signing.cli.failures import REFUSED, USAGE, CommandError, failing, plain
from services.signing.cli.hashing import hash_file, read_digests
from services.signing.cli.moments import utc
from services.signing.cli.verify import expected_keys, read_trusted_root
from services.signing.client import SigningClient
from services.signing.evidence.archive import EvidenceError
from services.signing.evidence.verification import VerifiedArchive, verify_archive
from services.signing.verification import VerificationError
from services.signing.wire.evidence import EvidenceAnswer, NewEvidenceRequest

_PATH = click.Path(path_type=Path)


@click.group()
def evidence() -> None:
    """Archives of evidence: all that an auditor needs of a release, signed as one. Needs the action export_evidence."""


@evidence.command()
@click.argument("name")
@click.option("--signature", "signatures", metavar="ID", multiple=True, help="A signature by its id.")
@click.option(
    "--digest", "digests", metavar="sha256:HEX", multiple=True, help="All signatures of what has this digest."
)
@click.option("--profile", default="default", show_default=True, help="Whose keys sign the archive's manifest.")
@click.option("--out", type=_PATH, help="Fetch it into this directory at once, as NAME.tar.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@service_command
@json_option
def create(
    name: str,
    signatures: tuple[str, ...],
    digests: tuple[str, ...],
    profile: str,
    out: Path | None,
    force: bool,  # noqa: FBT001 - a command-line flag
    route: Route,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Have an archive made of the release NAME. It can be fetched for 30 days, and made again after that."""
    subjects = [f"{kind}:{digest.hex()}" for text in digests for kind, digest in read_digests(text).items()]
    if not signatures and not subjects:
        raise CommandError("say what it is to be about: --signature ID or --digest sha256:HEX", USAGE)
    if out is not None and not force:
        refuse_existing(out / f"{_checked(name)}.tar")
    request = NewEvidenceRequest(name, tuple(dict.fromkeys(signatures)), tuple(dict.fromkeys(subjects)), profile)

    async def make(service: SigningClient) -> tuple[EvidenceAnswer, list[Path]]:
        made = await service.create_evidence(request)
        return made, [] if out is None else [await _download(service, made, out / f"{name}.tar", force=force)]

    made, files = route.run(make)
    tell(as_json, made.members() | {"files": list(map(str, files))}, *_lines(made), *map(str, files))


@evidence.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@service_command
@json_option
def list_evidence(limit: int, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """List the tenant's archives, the newest first."""
    found = route.run(lambda service: service.all_evidence(limit))
    lines = [line for one in found for line in _lines(one)] or ["There is none."]
    tell(as_json, {"evidence": [one.members() for one in found]}, *lines)


@evidence.command()
@click.argument("evidence_id", metavar="ID")
@service_command
@json_option
def show(evidence_id: str, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show the record of the archive ID."""
    found = route.run(lambda service: service.evidence(evidence_id))
    tell(as_json, found.members(), *_lines(found))


@evidence.command()
@click.argument("evidence_id", metavar="ID")
@click.option("--out", type=_PATH, help="File to write. [default: NAME.tar, as the release is called]")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@service_command
@json_option
def download(evidence_id: str, out: Path | None, force: bool, route: Route, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """Fetch the archive ID, and see that it is the one on record."""

    async def fetch(service: SigningClient) -> tuple[EvidenceAnswer, Path]:
        found = await service.evidence(evidence_id)
        path = Path(f"{_checked(found.name)}.tar") if out is None else out
        if not force:
            refuse_existing(path)
        return found, await _download(service, found, path, force=force)

    found, path = route.run(fetch)
    tell(as_json, {"file": str(path), "sha256": found.sha256}, f"{path}: sha256 {found.sha256}")


@evidence.command()
@click.argument("archive", type=_PATH)
@click.option("--trusted-root", required=True, type=_PATH, help="As `pqcsign trusted-root` writes it.")
@click.option(
    "--key", "keys", type=_PATH, multiple=True, help="PEM public key that must have signed; all are demanded."
)
@json_option
def verify(archive: Path, trusted_root: Path, keys: tuple[Path, ...], as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Verify the file ARCHIVE without asking anybody: it is whole, and signed by the keys that you expect.

    Without --key, a trusted log must have the entry of a signature over it: then the service signed it for somebody, of
    the tenant that is named; compare the keys that are shown with those that you know. Exit status: 0 verified, 1 not
    verified, 2 wrong usage, 4 a file cannot be read.
    """
    with failing():
        expected = expected_keys(keys)
        try:
            found = verify_archive(archive, read_trusted_root(trusted_root), list(expected.values()))
        except (EvidenceError, VerificationError) as error:
            raise CommandError(f"{archive}: {error}", REFUSED) from error
        value = {name: getattr(found, name) for name in found.__slots__}
        tell(as_json, {"file": str(archive), **value}, f"{archive}: verified", *_verified_lines(found))


async def _download(service: SigningClient, made: EvidenceAnswer, path: Path, *, force: bool) -> Path:
    (written,) = await deliver(service, [PlannedFile(path, (made.urls.get("archive", ""),))], force=force)
    if hash_file(written, {"sha256"}, {}, lambda _: None).digests["sha256"].hex() != made.sha256:
        written.unlink()
        raise CommandError(
            f"the archive {made.id} came with other octets than its record says", REFUSED, "fetch it again"
        )
    return written


def _checked(name: str) -> str:
    if name != file_name(name):
        raise MalformedError(f"no release may be called {name[:80]!a}")
    return name


def _lines(made: EvidenceAnswer) -> list[str]:
    kept = "kept for ever" if made.retained_until is None else f"kept until {utc(made.retained_until)}"
    return [
        plain(f"{made.id}: {made.name} of {made.tenant}, {utc(made.created_at)}, by {made.created_by}"),
        plain(f"  {made.size} octets, sha256 {made.sha256}, its signatures {kept}"),
    ]


def _verified_lines(found: VerifiedArchive) -> list[str]:
    entry = "" if found.log_index is None else f", log entry {found.log_index}"
    lines = [
        f"  release {found.release} of tenant {found.tenant}: {len(found.signatures)} signatures, {found.files} files",
        *(f"  manifest signed by key {key[:16]}…{entry}" for key in found.signed_by),
        f"  {found.bundles} bundles verified, {found.audit_lines} lines of the audit log",
        *(f"  not verified, of a certificate or too long: {name}" for name in found.unverified),
    ]
    return [plain(line) for line in lines]
