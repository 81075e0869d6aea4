"""`ztca certify`: a certificate for somebody else's key, after an operator has looked at the request."""

import asyncio
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import click

from pkicore.clock import from_unix
from pkicore.encoding import write_new
from pkicore.errors import MalformedError, PkiError
from pkicore.x509.certificate import load_chain
from pkicore.x509.csr import MAX_CSR_BYTES, UnverifiedCsr
from services.ca.cli.connection import connected
from services.ca.cli.output import directory_option, failing_cleanly, json_option, tell
from services.ca.errors import CeremonyError
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate


@click.command()
@click.argument("csr", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@directory_option
@click.option("--profile", default="server", show_default=True, help="What kind of certificate: see `ztca profiles`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the chain, leaf first.")
@click.option(
    "--not-after",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]),
    help="An end in UTC, earlier than the profile's.",
)
@json_option
def certify(csr: Path, directory: Path, profile: str, out: Path, not_after: datetime | None, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Have the key and the names in CSR certified, a certificate request (PKCS #10) in PEM or DER.

    You vouch for every name in it: the CA cannot know them to be the requester's. The names are printed, and the ledger
    keeps that it was you. Needs a running deployment (`ztca up`).
    """
    with failing_cleanly():
        _check_place(out)
        request = _read(csr)
        names = _identifiers(request)
        wanted = CertificateRequest(
            request.der,
            profile,
            names,
            f"ztca-{secrets.token_hex(16)}",
            not_after=None if not_after is None else int(not_after.replace(tzinfo=UTC).timestamp()),
        )
        issued = asyncio.run(_ask(directory, wanted))
        _write(out, issued)
        vouched = [f"{name.type}:{name.value}" for name in names]
        subject = load_chain(issued.certificate.encode())[0].subject.rfc4514_string()
        said = ", ".join(vouched) or f"the name {subject}"
        tell(
            as_json,
            {"serial": issued.serial, "certificate": str(out), "names": vouched, "not_after": issued.not_after},
            f"{issued.serial} certifies {said}; it ends {from_unix(issued.not_after):%F %T} UTC: {out}",
        )


def _check_place(out: Path) -> None:
    """Before the CA is asked: a certificate that finds no place would be in force all the same."""
    if out.exists():
        raise CeremonyError(f"{out} exists; give another --out")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise CeremonyError(f"{out.parent} is no directory that can be written to; give another --out")


def _write(out: Path, issued: IssuedCertificate) -> None:
    try:
        write_new(out, issued.chain.encode(), 0o644)
    except OSError as error:
        raise CeremonyError(
            f"{issued.serial} is issued, and {out} cannot be written ({error.strerror}): `ztca show {issued.serial} "
            "--json` has the certificate"
        ) from error


def _read(path: Path) -> UnverifiedCsr:
    with path.open("rb") as file:
        data = file.read(MAX_CSR_BYTES + 1)
    try:
        return UnverifiedCsr.parse(data)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error}") from error


def _identifiers(request: UnverifiedCsr) -> tuple[Identifier, ...]:
    """The names in the request; none where the CA will refuse it, which is then on record there."""
    try:
        names = request.verify().names
    except PkiError:
        return ()
    return (
        *(Identifier("dns", name) for name in names.dns),
        *(Identifier("ip", str(address)) for address in names.ip),
        *(Identifier("uri", uri) for uri in names.uri),
        *(Identifier("email", mailbox) for mailbox in names.email),
    )


async def _ask(directory: Path, wanted: CertificateRequest) -> IssuedCertificate:
    async with connected(directory) as ca:
        return await ca.issue(wanted)
