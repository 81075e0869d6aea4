"""Transit's keys in our words: names, versions, public halves, and what tells against a key.

The label `TENANT.NAME.vN` is the name of a Transit key and its handle; of that key we use version 1 alone. So a key
whose creation's answer was lost is found again, each version goes when it is destroyed and not with another one, and a
policy can grant one tenant `transit/sign/TENANT.*`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload, PublicKey, algorithm_of, known_public_key
from pkicore.errors import PkiError
from services.signer_hsm.backends import BackendKey, Fact, Facts
from services.signer_hsm.backends.vault.http import Body
from services.signer_hsm.errors import BadAnswerError, KeyNotFoundError, WrongStateError

VERSION: Final = 1
"""Of the Transit key; whoever rotates it by hand changes nothing for us."""
_HANDLE: Final = re.compile(r"[a-z0-9][a-z0-9-]*\.[a-z0-9][a-z0-9-]*\.v[1-9][0-9]{0,9}", re.ASCII)
_RAW: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "ed25519": ed25519.Ed25519PublicKey,
        "ml-dsa-44": mldsa.MLDSA44PublicKey,
        "ml-dsa-65": mldsa.MLDSA65PublicKey,
        "ml-dsa-87": mldsa.MLDSA87PublicKey,
    }
)
_LEAKY: Final = ("exportable", "allow_plaintext_backup")


def checked_handle(handle: str) -> str:
    """The handle, which gets into a path.

    Raises:
        KeyNotFoundError: it is no handle of this back end.
    """
    if not _HANDLE.fullmatch(handle):
        raise KeyNotFoundError("this is no handle of a Transit key")
    return handle


def transit_type(algorithm: Algorithm, *, pure_names: bool) -> dict[str, str]:
    """What a request to create such a key says.

    Args:
        algorithm: the row of the table.
        pure_names: ML-DSA as OpenBao names it, not as Vault Enterprise does.
    """
    if algorithm.family != "mldsa":
        return {"type": algorithm.name}
    level = algorithm.name.removeprefix("ml-dsa-")
    return {"type": f"mldsa-{level}"} if pure_names else {"type": "ml-dsa", "parameter_set": level}


@dataclass(frozen=True, slots=True)
class TransitKey:
    """A key as the server shows it."""

    name: str
    algorithm: Algorithm
    latest: int
    usable_from: int
    soft_deleted: bool
    facts: Body

    @classmethod
    def of(cls, name: str, data: Body) -> TransitKey:
        """The key in the server's answer.

        Raises:
            WrongStateError: a type of key that is not in our table.
            BadAnswerError: the answer makes no sense.
        """
        if data.get("name") != name:
            raise BadAnswerError("Vault answers with another key's name")
        versions = data.get("keys")
        if not isinstance(versions, dict) or not versions:
            raise BadAnswerError("Vault's key has no versions")
        latest = _count(data, "latest_version")
        if str(latest) not in versions:
            raise BadAnswerError("Vault's key lacks its latest version")
        return cls(
            name=name,
            algorithm=_algorithm(data),
            latest=latest,
            usable_from=_count(data, "min_encryption_version"),
            soft_deleted=data.get("soft_deleted") is True,
            facts=data,
        )

    def refuse_leaky(self) -> None:
        """Do not take over what has left the server, or may.

        Raises:
            WrongStateError: it can be exported or backed up in plain text, is derived, or was restored from a backup.
        """
        for fact in _LEAKY:
            if self.facts.get(fact) is not False:
                raise WrongStateError(f"the Transit key {self.name} has {fact} set: it is not taken over")
        for fact in ("derived", "backup_info", "restore_info"):
            if self.facts.get(fact):
                raise WrongStateError(f"the Transit key {self.name} has {fact}: it is not taken over")

    def refuse_imported(self) -> None:
        """Do not take an imported key for one that the server made.

        Raises:
            WrongStateError: the server says that it was imported, or nothing: it knows this of the latest version only.
        """
        if self.facts.get("imported_key") is True or self.latest != VERSION:
            raise WrongStateError(f"the Transit key {self.name} was imported, not made in Vault, or was rotated since")

    def ours(self) -> BackendKey:
        """Its first version as a back end's key.

        Raises:
            KeyNotFoundError: somebody has trimmed it away.
            BadAnswerError: its public key makes no sense.
        """
        entry = self.facts["keys"].get(str(VERSION))
        if entry is None:
            raise KeyNotFoundError(f"the Transit key {self.name} has no version {VERSION} any more")
        return BackendKey(
            handle=self.name,
            algorithm=self.algorithm,
            public_key=_public_key(self.algorithm, entry),
            kinds=kinds_of(self.algorithm),
            enabled=not self.soft_deleted and self.usable_from <= VERSION,
            evidence=self._evidence(entry),
        )

    def _evidence(self, entry: Mapping[str, Any]) -> Facts:
        facts: dict[str, Fact] = {"held_by": "vault-transit", "transit_key": self.name}
        for name in (*_LEAKY, "derived"):
            facts[name] = self.facts.get(name) is not False
        if self.latest == VERSION:
            facts["imported"] = self.facts.get("imported_key") is True
        created = entry.get("creation_time")
        if isinstance(created, str):
            facts["creation_time"] = created[:40]
        return facts


def kinds_of(algorithm: Algorithm) -> frozenset[Payload]:
    """What Transit takes: a digest, or where the algorithm has a hash of its own the whole message; never mu."""
    return frozenset({"digest"}) if algorithm.signature_hash is not None else frozenset({"message"})


def _algorithm(data: Body) -> Algorithm:
    kind, parameters = data.get("type"), data.get("parameter_set")
    if kind == "ml-dsa":
        kind = f"ml-dsa-{parameters}"
    elif isinstance(kind, str) and kind.startswith("mldsa-"):
        kind = f"ml-dsa-{kind.removeprefix('mldsa-')}"
    row = ALGORITHMS.get(kind) if isinstance(kind, str) else None
    if row is None:
        raise WrongStateError("there is a Transit key of this name and of a type that is not offered")
    return row


def _count(data: Body, field: str) -> int:
    value = data.get(field)
    if type(value) is not int or value < 0:
        raise BadAnswerError(f"Vault's key has no usable {field}")
    return value


def _public_key(algorithm: Algorithm, entry: object) -> PublicKey:
    text = entry.get("public_key") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text:
        raise BadAnswerError("Vault's key version has no public key")
    try:
        key = _load(algorithm, text)
        found = algorithm_of(key)
    except (ValueError, UnsupportedAlgorithm, PkiError) as error:
        raise BadAnswerError("Vault's public key makes no sense") from error
    if found is not algorithm:
        raise BadAnswerError("Vault's public key is of another algorithm than its key")
    return key


def _load(algorithm: Algorithm, text: str) -> PublicKey:
    """PEM for most; base64 of the raw key for Ed25519 and, where the documentation is silent, perhaps for ML-DSA."""
    if text.lstrip().startswith("-----BEGIN"):
        return known_public_key(load_pem_public_key(text.encode("ascii")))
    try:
        octets = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    raw = _RAW.get(algorithm.name)
    if raw is None:
        return known_public_key(load_der_public_key(octets))
    try:
        return known_public_key(raw.from_public_bytes(octets))
    except ValueError:
        return known_public_key(load_der_public_key(octets))
