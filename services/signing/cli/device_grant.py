"""The OAuth 2.0 device authorization grant (RFC 8628) at an OIDC issuer: log in on whatever device has a browser.

1 the issuer says where (OpenID Connect Discovery 1.0 §4) · 2 it is asked for a code, which the user types in there ·
3 it is asked whether that has happened, as often as it allows and no more · 4 the ID token is for this client, by this
issuer (OpenID Connect Core 1.0 §3.1.3.7; TLS to the issuer stands in for its signature, which the service verifies).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx

from pkicore.encoding import base64url_decode
from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object
from services.chassis.fields import Fields
from services.signing.ci.tokens import checked_token
from services.signing.cli.failures import REFUSED, UNAVAILABLE, CommandError
from services.signing.cli.outbound import Outbound

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_DISCOVERY: Final = "/.well-known/openid-configuration"
_SLOWER: Final = 5  # seconds that slow_down adds (§3.5)
_USUAL_INTERVAL: Final = 5  # seconds (§3.2)
_MAX_INTERVAL: Final = 300
_MAX_LIFE: Final = 3600  # seconds that a code is waited for
_MAX_CODE: Final = 4096
_MAX_SHOWN: Final = 64
_SKEW: Final = 60  # seconds that two clocks may differ
_CLOCKS: Final = "see whether the clock of this machine is right"
_MAX_URL: Final = 2048
_REFUSALS: Final[Mapping[str, str]] = {
    "access_denied": "the login was refused",
    "expired_token": "the code was not used in time",
    "invalid_client": "the issuer does not know this client",
    "unauthorized_client": "the issuer does not let this client log in by device",
    "invalid_grant": "the issuer does not take this any more",
    "invalid_scope": "the issuer does not give this scope",
}

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer, and where it takes what."""

    name: str
    device_endpoint: str | None
    token_endpoint: str


class Invitation(NamedTuple):
    """What the user is shown.

    Attributes:
        url: where to log in.
        code: what to type in there.
        complete_url: the same with the code in it; None where the issuer has none.
    """

    url: str
    code: str
    complete_url: str | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an issuer gives.

    Attributes:
        id_token: for the signing service.
        subject: who logged in.
        issued_at: of the ID token, Unix seconds.
        expires_at: of the ID token, Unix seconds.
        refresh_token: None where there is none.
    """

    id_token: str = field(repr=False)
    subject: str
    issued_at: int
    expires_at: int
    refresh_token: str | None = field(repr=False)

    def check(self, now: int) -> None:
        """See that the ID token is good at this moment, as far as that can be seen without the service.

        Raises:
            CommandError: it has ended, or begins in the future.
        """
        if self.expires_at <= now:
            raise CommandError("the issuer gave an ID token that has expired already", REFUSED, _CLOCKS)
        if self.issued_at > now + _SKEW:
            raise CommandError("the issuer gave an ID token that begins in the future", REFUSED, _CLOCKS)


async def discover(outbound: Outbound, issuer: str) -> Issuer:
    """Ask an issuer where it takes what.

    Raises:
        MalformedError: it is no https URL, or what it publishes is another's or makes no sense.
        OSError: it does not answer.
    """
    document = await outbound.document(f"{_https(issuer, 'the issuer').rstrip('/')}{_DISCOVERY}")
    if document.get("issuer") != issuer:
        raise MalformedError("the discovery document is of another issuer")
    device = document.get("device_authorization_endpoint")
    return Issuer(
        issuer,
        None if device is None else _https(device, "device_authorization_endpoint"),
        _https(document.get("token_endpoint"), "token_endpoint"),
    )


async def log_in(
    outbound: Outbound,
    issuer: Issuer,
    client: Mapping[str, str],
    invite: Callable[[Invitation], None],
    sleep: Sleep,
) -> Tokens:
    """Invite the user, and wait for the login.

    Args:
        outbound: asks the issuer.
        issuer: as discovered.
        client: client_id and scope.
        invite: shows the user where to go.
        sleep: waits for seconds.

    Raises:
        CommandError: the issuer offers no such login, refuses it, or nobody logged in in time.
        MalformedError: an answer makes no sense.
        OSError: the issuer does not answer.
    """
    if issuer.device_endpoint is None:
        raise CommandError(f"{issuer.name} offers no login by device (RFC 8628)", REFUSED)
    status, members = await outbound.post_form(issuer.device_endpoint, client)
    if status != httpx.codes.OK:
        raise _refusal(members)
    body = Fields.of(members)
    device_code = _code(body, "device_code", _MAX_CODE)
    complete = members.get("verification_uri_complete")
    invite(
        Invitation(
            _https(members.get("verification_uri"), "verification_uri"),
            _code(body, "user_code", _MAX_SHOWN),
            None if complete is None else _https(complete, "verification_uri_complete"),
        )
    )
    interval = _seconds(members.get("interval", _USUAL_INTERVAL), "interval", _MAX_INTERVAL)
    left = _seconds(members.get("expires_in"), "expires_in", _MAX_LIFE)
    form = {"grant_type": DEVICE_GRANT, "device_code": device_code, "client_id": client["client_id"]}
    return await _poll(_Poll(outbound, issuer, form, sleep), interval, left)


class _Poll(NamedTuple):
    outbound: Outbound
    issuer: Issuer
    form: Mapping[str, str]
    sleep: Sleep


async def _poll(poll: _Poll, interval: float, left: float) -> Tokens:
    while left > 0:
        await poll.sleep(interval)
        left -= interval
        try:
            status, members = await poll.outbound.post_form(poll.issuer.token_endpoint, poll.form)
        except OSError:
            interval = min(2 * interval, _MAX_INTERVAL)  # "such as … exponential backoff" (§3.5)
            continue
        if status == httpx.codes.OK:
            return _tokens(members, poll.issuer.name, poll.form["client_id"])
        error = members.get("error")
        if error == "slow_down":
            interval += _SLOWER
        elif error != "authorization_pending":
            raise _refusal(members)
    raise CommandError("nobody logged in in time", UNAVAILABLE, "run `pqcsign login` again")


async def refresh(outbound: Outbound, issuer: Issuer, client_id: str, refresh_token: str) -> Tokens:
    """Tokens for a refresh token (RFC 6749 §6); where the answer has no new one, the old one stays good.

    Raises:
        CommandError: the issuer refuses.
        MalformedError: its answer makes no sense.
        OSError: it does not answer.
    """
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": client_id}
    status, members = await outbound.post_form(issuer.token_endpoint, form)
    if status != httpx.codes.OK:
        raise _refusal(members)
    return _tokens({"refresh_token": refresh_token} | members, issuer.name, client_id)


def _tokens(members: Mapping[str, Any], issuer: str, client_id: str) -> Tokens:
    text = members.get("id_token")
    if not isinstance(text, str):
        raise MalformedError("the issuer gave no ID token: the scope must have openid in it")
    token = checked_token(text, "the issuer's answer")
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, payload, signature (RFC 7515 §3.1)
        raise MalformedError("the ID token is no JWS")
    claims = Fields.of(strict_object(base64url_decode(parts[1]), "the ID token's payload"))
    audience = claims.members.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if claims.text("iss") != issuer or client_id not in audiences:
        raise MalformedError("the ID token is of another issuer, or for another client")
    if claims.members.get("azp", client_id) != client_id or (len(audiences) > 1 and "azp" not in claims.members):
        raise MalformedError("the ID token was given to another client (azp), or it does not say to which of several")
    refresh_token = members.get("refresh_token")
    return Tokens(
        token,
        claims.text("sub"),
        claims.time("iat"),
        claims.time("exp"),
        None if refresh_token is None else checked_token(str(refresh_token), "the issuer's answer"),
    )


def _refusal(members: Mapping[str, Any]) -> CommandError:
    error = str(members.get("error", "without a reason"))[:_MAX_SHOWN]
    sentence = _REFUSALS.get(error, "the issuer refuses")
    return CommandError(f"{sentence} ({error})", REFUSED, "`pqcsign login` starts again")


def _https(url: object, what: str) -> str:
    if isinstance(url, str) and len(url) <= _MAX_URL and url.isascii() and url.isprintable() and " " not in url:
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname and parts.username is None:
            return url
    raise MalformedError(f"{what} must be an https URL")


def _code(body: Fields, name: str, limit: int) -> str:
    value = body.text(name, limit)
    if not value.isascii() or not value.isprintable():
        raise MalformedError(f"{name} must be printable ASCII")
    return value


def _seconds(value: object, name: str, most: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise MalformedError(f"{name} must be a number of seconds")
    return float(min(value, most))
