"""`ztca ca certify-subordinate`: a CA of somebody else below a root, on an operator's terms."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import click

from pkicore.encoding import write_new
from pkicore.x509.certificate import to_pem
from pkicore.x509.csr import MAX_CSR_BYTES
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.cli.rollover import site
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.ca.subordinate import PROFILE, Subordinate, Subordination, Terms


@click.command("certify-subordinate")
@click.argument("csr", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@directory_option
@click.option("--name", required=True, help="Common name of the CA; the request must be for the same.")
@click.option("--profile", default=PROFILE, show_default=True, help="One with ca = true and name_constraints.")
@click.option("--permit", multiple=True, help="Names it may certify, as dns:team.example; in place of the profile's.")
@click.option("--exclude", multiple=True, help="Names it may not certify, as ip:0.0.0.0/0; likewise.")
@click.option("--path-length", type=click.IntRange(0, 10), help="How many CAs below it. [default: the profile's]")
@click.option(
    "--not-after",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]),
    help="An end in UTC, earlier than the profile's.",
)
@click.option("--out", type=PlainPath(), required=True, help="New file for its certificate, and what leads on from it.")
@click.option("--offline", type=PlainPath(), help="Where the roots' keys are. [default: DIR/offline]")
@json_option
def certify_subordinate(  # noqa: PLR0913, PLR0917 - one argument for each option
    csr: Path,
    directory: Path,
    name: str,
    profile: str,
    permit: tuple[str, ...],
    exclude: tuple[str, ...],
    path_length: int | None,
    not_after: datetime | None,
    out: Path,
    offline: Path | None,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Have the key in CSR certified as a CA of somebody else below the active root, whose key is opened.

    CSR is a certificate request (PKCS #10) in PEM or DER. Its key alone is taken: what its CA may do is said by the
    profile and by these options, whatever the request says. The same request on the same terms has the same
    certificate; `ztca ca root-crl --revoke SERIAL` revokes it.
    """
    with failing_cleanly():
        if out.exists():
            raise CeremonyError(f"{out} exists; give another --out")
        terms = Terms(
            name=name,
            profile=profile,
            permitted=permit,
            excluded=exclude,
            path_length=path_length,
            not_after=None if not_after is None else not_after.replace(tzinfo=UTC),
        )
        request = _read(csr)
        with (
            site(Layout(directory, offline), as_json=as_json) as found,
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        ):
            made = asyncio.run(Subordination(found.deployment, pool).certify(request, terms))
        write_new(out, to_pem(made.chain), 0o644)
        tell(as_json, {**made.members(), "certificate": str(out)}, *_lines(made, out))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CSR_BYTES + 1)


def _lines(made: Subordinate, out: Path) -> tuple[str, ...]:
    known, end = made.members(), made.certificate.not_valid_after_utc
    before = "" if made.changed else " It had it before."
    below = "any number" if known["path_length"] is None else known["path_length"]
    return (
        f"{known['serial']} certifies {known['subject']} below {made.root} until {end:%F %T} UTC: {out}.{before}",
        f"It may certify {_list(known['permitted'])}, not {_list(known['excluded'])}; CAs below it: {below}.",
        f"To revoke it: ztca ca root-crl --root {made.root} --revoke {known['serial']}",
    )


def _list(names: object) -> str:
    return ", ".join(names) if isinstance(names, list) and names else "nothing in particular"
