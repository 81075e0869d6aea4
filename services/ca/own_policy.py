"""The deployment's own key policy: the keys commands are bound by it, as every operator is.

signer-hsm decides, in the hour in which it runs for a command as ever: it is given this policy, with one rule more that
lets the command sign and look, so that it can prove a key. What is read here is what must be known before a key is
made: whether an act is allowed, whether others must have approved it, and whether the CA could sign with the key.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pkicore.identity import SpiffeId
from services.ca.errors import CeremonyError
from services.ca.signer_settings import TENANT, rule

REHEARSAL: Final = "rehearsal-"
"""Begins the name of a key that is made and destroyed again."""
_KINDS: Final = ("digest", "mu", "message")
_OWN_RULE: Final = "ztca-keys"
_IN_TIME_ONLY: Final = frozenset({"windows", "valid_from", "valid_until"})


@dataclass(frozen=True)
class OwnPolicy:
    """A key policy as its file has it.

    Attributes:
        path: that file, for sentences.
        document: its content.
        operator: as whom the commands act: what this operator has approved does not count for them.
        ca: who signs with the keys.
    """

    path: Path
    document: Mapping[str, Any]
    operator: SpiffeId
    ca: SpiffeId

    @classmethod
    def read(cls, text: str, path: Path, *, operator: SpiffeId, ca: SpiffeId) -> "OwnPolicy":
        """From TOML or JSON; signer-hsm itself checks what is in it.

        Raises:
            CeremonyError: it is neither.
        """
        try:
            document = json.loads(text) if is_json(text) else tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise CeremonyError(f"the key policy {path} cannot be read: {error}") from error
        rules = document.get("rules", [])
        if not isinstance(rules, list) or not all(isinstance(item, dict) for item in rules):
            raise CeremonyError(f"the key policy {path} makes no sense: `keyctl policy check {path}` says why")
        return cls(path, document, operator, ca)

    def with_proofs(self) -> str:
        """Its text with one rule more: the operator may sign with the CA's keys and look at them, and nothing else."""
        taken = {item.get("id") for item in self.document.get("rules", ())}
        name = next(name for name in (_OWN_RULE, *(f"{_OWN_RULE}-{n}" for n in range(2, 99))) if name not in taken)
        added = rule(name, [str(self.operator)], ["sign", "list", "show", "pubkey"], kinds=_KINDS)
        rules = [*self.document.get("rules", ()), added]
        before = max(1, int(self.document.get("version", 1)) - 1)  # so that the deployment's own may follow it
        return json.dumps({**self.document, "version": before, "rules": rules}, default=_in_json)

    def can_rehearse(self, act: str) -> bool:
        """Whether the operator may at any time do this with a key of another name, and destroy it, asking nobody."""
        return self._is_free(act, REHEARSAL) and self._is_free("destroy", REHEARSAL)

    def require(self, act: str, key: str) -> None:
        """Some rule lets the operator do this with a key of the CA; signer-hsm sees to its times and approvals.

        Raises:
            CeremonyError: none does; the sentence says what to add.
        """
        if not any(_names_key(item, key) for item in self._rules(self.operator, act)):
            raise CeremonyError(
                f"{self.path} has no rule that lets {self.operator} {act} {TENANT}.{key}: "
                f'add "{act}" to the `acts` of one, and count `version` up'
            )

    def require_free_destruction(self, key: str) -> None:
        """The operator may destroy this key of the CA at any time, asking nobody; so also the file that it came from.

        Approvals are of acts of signer-hsm: one to destroy the key there must not be one to destroy its file.

        Raises:
            CeremonyError: others must approve, or it is allowed at some times only, or not at all.
        """
        self.require("destroy", key)
        if not self._is_free("destroy", key):
            raise CeremonyError(
                f"{self.path} lets {self.operator} destroy {TENANT}.{key} with others' approval or at some times only, "
                "and nobody can approve the end of a file: let the rule ask for neither while this runs (count "
                "`version` up, so that the change is on record), then put it back"
            )

    def _is_free(self, act: str, key: str) -> bool:
        rules = (item for item in self._rules(self.operator, act) if _names_key(item, key))
        return any(not item.get("approvals", 0) and not _IN_TIME_ONLY & item.keys() for item in rules)

    def require_signing(self, key: str, kind: str) -> None:
        """The CA could sign with such a key.

        Raises:
            CeremonyError: no rule allows it; the sentence says what to add, and to which rule.
        """
        rules = list(self._rules(self.ca, "sign"))
        of_key = [item for item in rules if _names_key(item, key)]
        if any(kind in item.get("kinds", ()) for item in of_key):
            return
        said = f"{self.path} does not let {self.ca} sign with {TENANT}.{key}, which takes the payload kind {kind}"
        if of_key:
            remedy = f'add "{kind}" to `kinds` of the rule {of_key[0].get("id")}'
        elif rules:
            remedy = f'add "{key}" to `keys`, and "{kind}" to `kinds`, of the rule {rules[0].get("id")}'
        else:
            remedy = f'add a rule with acts = ["sign", "show", "pubkey"], keys = ["{key}"] and kinds = ["{kind}"]'
        raise CeremonyError(f"{said}: {remedy}, and count `version` up")

    def _rules(self, caller: SpiffeId, act: str) -> Iterator[Mapping[str, Any]]:
        """Those for callers without token."""
        names = {str(caller), f"{str(caller).rpartition('/')[0]}/*"}
        for item in self.document.get("rules", ()):
            is_about = item.get("tenant") == TENANT and act in item.get("acts", ()) and not item.get("subjects")
            if is_about and names & set(item.get("callers", ())):
                yield item


def is_json(text: str) -> bool:
    """Whether a key policy is JSON; no TOML begins so."""
    return text.lstrip().startswith("{")


def _names_key(item: Mapping[str, Any], key: str) -> bool:
    globs: Sequence[str] = item.get("keys", ())
    return any(key.startswith(glob[:-1]) if glob.endswith("*") else key == glob for glob in globs)


def _in_json(value: object) -> str:
    """A TOML date-time as key policies have it in JSON."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    raise CeremonyError(f"the key policy holds {value}, which JSON does not have")
