"""Tokens and AppRoles of the simulator."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pkicore.clock import Clock
from tests.support.vault_simulator.errors import RefusalError, internal, invalid, seconds
from tests.support.vault_simulator.policies import Rule, parse

Body = Mapping[str, Any]
_SYSTEM_TTL = 32 * 24 * 3600


@dataclass
class Token:
    """One token; `period` of life `ttl`, never beyond `issued + max_ttl`."""

    value: str
    policies: list[str]
    ttl: int
    max_ttl: int
    issued: datetime
    expires: datetime | None
    renewable: bool
    role: str = ""
    accessor: str = field(default_factory=lambda: secrets.token_hex(12))


@dataclass
class AppRole:
    """One role and its secret ids with the uses left; zero uses to begin with means any number."""

    policies: list[str]
    ttl: int
    max_ttl: int
    secret_id_num_uses: int
    role_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    secret_ids: dict[str, int] = field(default_factory=dict)


class Tokens:
    """Tokens, roles and policies."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.root = f"s.{secrets.token_hex(16)}"
        self.issued: dict[str, Token] = {
            self.root: Token(self.root, ["root"], 0, 0, clock.now(), None, renewable=False),
        }
        self.roles: dict[tuple[str, str], AppRole] = {}
        self.rules: dict[str, list[Rule]] = {}

    def known(self, value: str | None) -> Token:
        """The token of a request.

        Raises:
            RefusalError: there is none, or it is unknown, revoked or expired.
        """
        token = self.issued.get(value or "")
        if token is None:
            raise RefusalError(403, "permission denied")
        if token.expires is not None and token.expires <= self._clock.now():
            del self.issued[token.value]
            raise RefusalError(403, "permission denied")
        return token

    def rules_of(self, token: Token) -> list[Rule]:
        """The rules of all its policies."""
        return [rule for name in token.policies for rule in self.rules.get(name, [])]

    def write_policy(self, name: str, body: Body) -> None:
        """Take a policy."""
        self.rules[name] = parse(str(body.get("policy", "")))

    def lookup(self, token: Token) -> dict[str, Any]:
        """What lookup-self tells."""
        left = int((token.expires - self._clock.now()).total_seconds()) if token.expires else 0
        return {
            "accessor": token.accessor,
            "creation_ttl": token.ttl,
            "expire_time": token.expires.isoformat() if token.expires else None,
            "id": token.value,
            "num_uses": 0,
            "orphan": True,
            "path": f"auth/{token.role}/login" if token.role else "auth/token/root",
            "policies": token.policies,
            "renewable": token.renewable,
            "ttl": left,
            "type": "service",
        }

    def renew(self, token: Token) -> tuple[dict[str, Any], list[str]]:
        """More time, as far as the maximum allows, and the warnings.

        Raises:
            RefusalError: it is not renewable, or its role is gone.
        """
        if not token.renewable or token.expires is None:
            raise invalid("lease is not renewable")
        mount, _, name = token.role.partition("/")
        if token.role and (mount, name) not in self.roles:
            raise internal("error renewing lease: role no longer exists")
        now = self._clock.now()
        wanted, most = now + timedelta(seconds=token.ttl), token.issued + timedelta(seconds=token.max_ttl)
        token.expires = min(wanted, most)
        warnings = [] if wanted <= most else ["TTL exceeded the effective max_ttl; TTL value is capped accordingly"]
        return self._auth(token, int((token.expires - now).total_seconds())), warnings

    def revoke(self, value: str) -> None:
        """Forget a token."""
        self.issued.pop(value, None)

    def revoke_of(self, mount: str) -> None:
        """Forget all tokens that an AppRole mount has given."""
        for token in [each for each in self.issued.values() if each.role.startswith(f"{mount}/")]:
            del self.issued[token.value]

    def create(self, body: Body) -> dict[str, Any]:
        """A token as an administrator makes it."""
        ttl = seconds(body.get("ttl", _SYSTEM_TTL))
        most = seconds(body.get("explicit_max_ttl", 0)) or _SYSTEM_TTL
        return self._issue(
            [str(each) for each in body.get("policies", [])], ttl, most, bool(body.get("renewable", True))
        )

    def write_role(self, mount: str, name: str, body: Body) -> None:
        """Make a role, or change it."""
        role = self.roles.setdefault((mount, name), AppRole([], 0, 0, 0))
        role.policies = [str(each) for each in body.get("token_policies", role.policies)]
        role.ttl = seconds(body.get("token_ttl", role.ttl)) or _SYSTEM_TTL
        role.max_ttl = seconds(body.get("token_max_ttl", role.max_ttl)) or _SYSTEM_TTL
        role.secret_id_num_uses = int(body.get("secret_id_num_uses", role.secret_id_num_uses))

    def role(self, mount: str, name: str) -> AppRole:
        """A role.

        Raises:
            RefusalError: there is none.
        """
        role = self.roles.get((mount, name))
        if role is None:
            raise RefusalError(404)
        return role

    def new_secret_id(self, mount: str, name: str) -> dict[str, Any]:
        """A fresh secret id of a role."""
        role = self.role(mount, name)
        value = str(uuid.uuid4())
        role.secret_ids[value] = role.secret_id_num_uses
        uses = role.secret_id_num_uses
        accessor = str(uuid.uuid4())
        return {"secret_id": value, "secret_id_accessor": accessor, "secret_id_num_uses": uses, "secret_id_ttl": 0}

    def login(self, mount: str, body: Body) -> dict[str, Any]:
        """A token for a role id and a secret id.

        Raises:
            RefusalError: 400, whatever is wrong with them.
        """
        if not body.get("role_id"):
            raise internal("missing role_id")  # OpenBao looks for the role before it looks at the request
        if not body.get("secret_id"):
            raise invalid("missing secret_id")
        wanted = body["role_id"]
        for (at, name), role in self.roles.items():
            if at == mount and role.role_id == wanted and self._used(role, str(body["secret_id"])):
                return self._issue(role.policies, role.ttl, role.max_ttl, renewable=True, role=f"{mount}/{name}")
        raise invalid("invalid role or secret ID")

    @staticmethod
    def _used(role: AppRole, secret_id: str) -> bool:
        left = role.secret_ids.get(secret_id)
        if left is None:
            return False
        if left == 1:
            del role.secret_ids[secret_id]
        elif left > 1:
            role.secret_ids[secret_id] = left - 1
        return True

    def _issue(self, policies: list[str], ttl: int, max_ttl: int, renewable: bool, role: str = "") -> dict[str, Any]:  # noqa: FBT001 - the facts of a token
        now = self._clock.now()
        ttl = min(ttl, max_ttl)
        value = f"s.{secrets.token_urlsafe(24)}"
        token = Token(value, sorted(policies), ttl, max_ttl, now, now + timedelta(seconds=ttl), renewable, role)
        self.issued[value] = token
        return self._auth(token, ttl)

    @staticmethod
    def _auth(token: Token, lease: int) -> dict[str, Any]:
        return {
            "client_token": token.value,
            "accessor": token.accessor,
            "policies": token.policies,
            "token_policies": token.policies,
            "metadata": {"role_name": token.role.partition("/")[2]} if token.role else None,
            "lease_duration": lease,
            "renewable": token.renewable,
            "entity_id": "",
            "token_type": "service",
            "orphan": True,
            "mfa_requirement": None,
            "num_uses": 0,
        }
