"""`pqcsign login` and `pqcsign logout`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from pkicore.clock import unix
from services.chassis.cli.output import json_option, tell
from services.signing.cli.connection import Surroundings, Way, surroundings, way_options
from services.signing.cli.device_grant import Invitation, Tokens, discover, log_in
from services.signing.cli.failures import plain
from services.signing.cli.logins import Login, Logins
from services.signing.cli.moments import utc
from services.signing.cli.outbound import outbound


@click.command()
@click.option("--issuer", required=True, envvar="PQCSIGN_ISSUER", show_envvar=True, help="URL of the OIDC issuer.")
@click.option(
    "--client-id", required=True, envvar="PQCSIGN_CLIENT_ID", show_envvar=True, help="As which client; a public one."
)
@click.option("--scope", default="openid offline_access", show_default=True, help="What is asked for.")
@click.option("--oidc-ca", type=click.Path(path_type=Path), envvar="PQCSIGN_OIDC_CA", help="Roots of the issuer, PEM.")
@way_options
@json_option
def login(
    issuer: str,
    client_id: str,
    scope: str,
    oidc_ca: Path | None,
    way: Way,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Log in at an OIDC issuer, in a browser on this or any other device (RFC 8628).

    The token is kept for you alone below XDG_STATE_HOME (~/.local/state), is shown to this service and no other, and is
    renewed as long as the issuer allows. The service must know the issuer, and take tokens for this client.
    """
    around = surroundings()
    client = {"client_id": client_id, "scope": scope}
    tokens = asyncio.run(_log_in(issuer, client, oidc_ca, around))
    tokens.check(unix(around.clock.now()))
    path = Logins.of(around.environment).keep(
        Login(way.url, issuer, client_id, tokens.subject, tokens.id_token, tokens.expires_at, tokens.refresh_token)
    )
    until = utc(tokens.expires_at)
    renewed = "" if tokens.refresh_token is None else ", and is then renewed"
    value = {"service": way.url, "issuer": issuer, "subject": tokens.subject, "expires_at": tokens.expires_at}
    sentence = plain(
        f"Logged in at {issuer} as {tokens.subject}, for {way.url}; "
        f"the token, for the audience {client_id}, is good until {until}{renewed}."
    )
    tell(as_json, value | {"file": str(path)}, sentence)


@click.command()
@way_options
@json_option
def logout(way: Way, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Forget the login for this service. At the issuer it stays good until it ends."""
    forgotten = Logins.of(surroundings().environment).forget(way.url)
    tell(as_json, {"service": way.url, "forgotten": forgotten}, "Forgotten." if forgotten else "There was none.")


async def _log_in(issuer: str, client: dict[str, str], oidc_ca: Path | None, around: Surroundings) -> Tokens:
    async with outbound(oidc_ca) as out:
        return await log_in(out, await discover(out, issuer), client, _invite, around.sleep)


def _invite(invitation: Invitation) -> None:
    click.echo(f"Open {plain(invitation.url)} and type in the code {plain(invitation.code)}", err=True)
    if invitation.complete_url is not None:
        click.echo(f"  or open {plain(invitation.complete_url)} and compare the code", err=True)
