"""`ztca acme request`, `renew`, `revoke`: certificates by ACME, for keys of every kind, ML-DSA included."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from cryptography import x509

from pkicore.clock import SystemClock
from pkicore.encoding import base64url_decode
from services.acme.acme_client.certificates import names_of
from services.acme.acme_client.certification import REASONS, Certification
from services.acme.acme_client.errors import AcmeClientError, RequestInputError, printable
from services.acme.acme_client.folder import Folder, Installed, Request, first_certificate
from services.acme.acme_client.responders import Responder, Standalone, WebRoot
from services.acme.acme_client.session import ExternalAccount, Session, http_client
from services.chassis.cli.output import PlainPath, json_option, tell
from services.chassis.cli.output import failing_cleanly as failing_as

_ACCOUNT_KEYS = ("ml-dsa-65", "ml-dsa-44", "ml-dsa-87", "ecdsa-p256", "ecdsa-p384", "ed25519")
_KEYS = ("ecdsa-p256", "ecdsa-p384", "rsa-3072", "ml-dsa-65", "ml-dsa-44", "ml-dsa-87")
_MAX_PORT = 65_535

_out = click.option(
    "--out", type=PlainPath(), required=True, help="Folder with the account, the keys and the certificates."
)


@click.command()
@click.option("--server", required=True, help="URL of the server's directory.")
@click.option(
    "--ca-bundle", type=PlainPath(), help="PEM file that the server's certificate leads to; else the system's."
)
@click.option("--domain", "names", multiple=True, required=True, help="A DNS name or IP address. May be repeated.")
@click.option(
    "--key-type",
    "key_types",
    multiple=True,
    type=click.Choice(_KEYS),
    default=("ecdsa-p256",),
    show_default=True,
    help="Kind of certificate key. Repeated: a certificate of each, by one proof.",
)
@click.option(
    "--account-key-type",
    type=click.Choice(_ACCOUNT_KEYS),
    default="ml-dsa-65",
    show_default=True,
    help="Kind of the account key, where there is no account yet.",
)
@click.option("--webroot", type=PlainPath(), help="What another program serves at port 80 of the names.")
@click.option("--standalone", metavar="[ADDRESS:]PORT", help="Serve the proofs there, for as long as it takes.")
@click.option("--profile", help="ACME profile of the certificates.")
@click.option("--contact", "contacts", multiple=True, help="E-mail address for the account. May be repeated.")
@click.option("--agree-terms", is_flag=True, help="Agree to the server's terms of service.")
@click.option("--eab-kid", help="Key identifier of an external account.")
@click.option("--eab-mac-key-file", type=PlainPath(), help="File with its MAC key, as ztca eab create shows it.")
@_out
@json_option
def request(  # noqa: PLR0913 - one argument for each option
    *,
    server: str,
    ca_bundle: Path | None,
    names: tuple[str, ...],
    key_types: tuple[str, ...],
    account_key_type: str,
    webroot: Path | None,
    standalone: str | None,
    profile: str | None,
    contacts: tuple[str, ...],
    agree_terms: bool,
    eab_kid: str | None,
    eab_mac_key_file: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Get a certificate for each kind of key, by http-01, from an ACME server.

    OUT/KEY-TYPE/cert.pem is the certificate with its issuers, OUT/KEY-TYPE/key.pem its key.
    """
    with _failing_cleanly():
        wanted = Request(
            server, names, tuple(dict.fromkeys(key_types)), _text(ca_bundle), profile, _text(webroot), standalone
        )
        names_of(names)  # wrong ones are told before anything is made
        responder, external = _responder(wanted), _external(eab_kid, eab_mac_key_file)
        folder = Folder(out)
        with http_client(ca_bundle) as http:
            session = Session(http, server, folder.account_key(account_key_type))
            session.register(contacts, external, agreed=agree_terms)
            folder.remember(wanted)
            client = Certification(session, folder, responder, _say, SystemClock())
            _show(as_json, [client.obtain(wanted, key_type) for key_type in wanted.key_types])


@click.command()
@_out
@click.option("--force", is_flag=True, help="Renew also what need not be renewed yet.")
@json_option
def renew(*, out: Path, force: bool, as_json: bool) -> None:
    """Renew what is due, as the server suggests (ARI), else after two thirds of its life. Run it daily."""
    with _failing_cleanly():
        folder = Folder(out)
        wanted, key, clock = folder.request(), folder.account_key(), SystemClock()
        with http_client(None if wanted.ca_bundle is None else Path(wanted.ca_bundle)) as http:
            session = Session(http, wanted.server, key)
            session.sign_in()
            client = Certification(session, folder, _responder(wanted), _say, clock)
            renewed = [_renewed(client, wanted, key_type, force=force) for key_type in wanted.key_types]
            _show(as_json, [one for one in renewed if one is not None])


@click.command()
@click.argument("certificate", type=PlainPath())
@_out
@click.option("--reason", type=click.Choice(tuple(REASONS)), default="unspecified", show_default=True)
@json_option
def revoke(*, certificate: Path, out: Path, reason: str, as_json: bool) -> None:
    """Revoke the first certificate of the file CERTIFICATE, for good, as the account of OUT."""
    with _failing_cleanly():
        folder = Folder(out)
        wanted, key, found = folder.request(), folder.account_key(), first_certificate(certificate)
        with http_client(None if wanted.ca_bundle is None else Path(wanted.ca_bundle)) as http:
            session = Session(http, wanted.server, key)
            session.sign_in()
            Certification(session, folder, _responder(wanted), _say, SystemClock()).revoke(found, reason)
        serial = f"{found.serial_number:x}"
        tell(as_json, {"revoked": serial, "reason": reason}, f"The certificate {serial} is revoked.")


def _renewed(client: Certification, wanted: Request, key_type: str, *, force: bool) -> Installed | None:
    old = client.folder.current(key_type)
    if old is not None and not force:
        due = client.due(old)
        if due > client.clock.now():
            _say(f"{key_type}: to be renewed from {_moment(due)} on")
            return None
    return client.obtain(wanted, key_type, replaces=old)


def _responder(wanted: Request) -> Responder:
    if (wanted.webroot is None) == (wanted.standalone is None):
        raise RequestInputError("say either --webroot DIR or --standalone [ADDRESS:]PORT")
    if wanted.webroot is not None:
        return WebRoot(Path(wanted.webroot))
    host, _, port = str(wanted.standalone).rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= _MAX_PORT:
        raise RequestInputError(f"--standalone wants [ADDRESS:]PORT, not {wanted.standalone}")
    return Standalone(host.removeprefix("[").removesuffix("]"), int(port))


def _external(kid: str | None, file: Path | None) -> ExternalAccount | None:
    if kid is None and file is None:
        return None
    if kid is None or file is None:
        raise RequestInputError("--eab-kid and --eab-mac-key-file go together")
    return ExternalAccount(kid, base64url_decode(file.read_text().strip()))


def _show(as_json: bool, installed: list[Installed]) -> None:  # noqa: FBT001 - the flag is the command's own
    entries = [_entry(one) for one in installed]
    sentences = [f"{one['key_type']}: {one['certificate']}, until {one['not_after']}" for one in entries]
    tell(as_json, {"certificates": entries}, *sentences or ("Nothing is due.",))


def _entry(one: Installed) -> dict[str, Any]:
    certificate: x509.Certificate = one.certificate
    return {
        "key_type": one.key_type,
        "serial": f"{certificate.serial_number:x}",
        "not_after": _moment(certificate.not_valid_after_utc),
        "certificate": str(one.path / "cert.pem"),
        "key": str(one.path / "key.pem"),
    }


def _failing_cleanly() -> AbstractContextManager[None]:
    return failing_as("ztca", AcmeClientError)


def _say(sentence: str) -> None:
    click.echo(printable(sentence), err=True)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
