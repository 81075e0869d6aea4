"""Statements about how keys are held: asked of the back end, or handed in, verified and kept."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from services.signer_hsm.backends import Attestation
from services.signer_hsm.catalogue import KeyVersion
from services.signer_hsm.decisions import Decisions, event_of
from services.signer_hsm.errors import NotOfferedError, SignerError, WrongStateError
from services.signer_hsm.policy import Caller
from services.signer_hsm.store import SignerStore
from services.signer_hsm.versions import Versions
from services.signer_hsm.wire import AttestationAnswer, AttestationUpload

Verify = Callable[[AttestationUpload, bytes], Attestation]
"""Checks an upload against a public key (SubjectPublicKeyInfo, DER); raises AttestationError or NotOfferedError."""


def no_attestations(upload: AttestationUpload, public_key: bytes) -> Attestation:
    """Verifies none.

    Raises:
        NotOfferedError: always.
    """
    del public_key
    raise NotOfferedError(f"attestations of format {upload.format!r} are not verified here")


class Attestations:
    """What vouches for key versions."""

    def __init__(self, store: SignerStore, decisions: Decisions, versions: Versions, verify: Verify) -> None:
        self._store = store
        self._decisions = decisions
        self._versions = versions
        self._verify = verify

    async def show(self, caller: Caller, tenant: str, name: str, number: int | None) -> AttestationAnswer:
        """The statement that was handed in for a version, else what its back end says.

        Raises:
            DecisionError: the policy refuses.
            KeyNotFoundError: there is no such key or version.
            NotOfferedError: nothing vouches for it.
            BackendError: the back end does not answer.
        """
        decision = await self._decisions.decide(caller, "attestation", tenant, name)
        await self._decisions.record(decision, number)
        key = self._store.catalogue.key(f"{tenant}.{name}")
        version = key.version(number)
        if version.attestation is not None:
            return _answer(key.id, version.number, _read(version.attestation))
        if version.handle is None:
            raise WrongStateError("this version was never made")
        stated = await self._versions.backend(key.backend).attest(version.handle, tenant=tenant)
        return _answer(key.id, version.number, stated)

    async def hand_in(self, caller: Caller, tenant: str, name: str, upload: AttestationUpload) -> AttestationAnswer:
        """Verify a statement about a version, and keep it.

        Raises:
            DecisionError: the policy refuses.
            KeyNotFoundError: there is no such key or version.
            AttestationError: it does not verify, or is about another key.
            NotOfferedError: statements of this format are not verified here.
        """
        decision = await self._decisions.decide(caller, "attestation", tenant, name)
        try:
            key = self._store.catalogue.key(f"{tenant}.{name}")
            version = key.version(upload.version)
            stated = self._verify(upload, _public_key(version))
        except SignerError:
            await self._decisions.record(decision, upload.version)
            raise
        await self._store.record_attestation(key, version.number, _members(stated), event_of(decision, version.number))
        return _answer(key.id, version.number, stated)


def _public_key(version: KeyVersion) -> bytes:
    if version.public_key is None:
        raise WrongStateError("this version was never made")
    return version.public_key


def _answer(key_id: str, number: int, stated: Attestation) -> AttestationAnswer:
    return AttestationAnswer(
        key=key_id,
        version=number,
        format=stated.format,
        verified=stated.verified,
        by=stated.by,
        claims=dict(stated.claims),
        statement=stated.statement,
        chain=stated.chain,
    )


def _members(stated: Attestation) -> Mapping[str, Any]:
    """As a row keeps it."""
    return {
        "format": stated.format,
        "by": stated.by,
        "verified": stated.verified,
        "claims": dict(stated.claims),
        "statement": None if stated.statement is None else base64.b64encode(stated.statement).decode(),
        "chain": [base64.b64encode(item).decode() for item in stated.chain],
    }


def _read(members: Mapping[str, Any]) -> Attestation:
    statement = members["statement"]
    return Attestation(
        format=members["format"],
        by=members["by"],
        verified=members["verified"],
        claims=members["claims"],
        statement=None if statement is None else base64.b64decode(statement),
        chain=tuple(base64.b64decode(item) for item in members["chain"]),
    )
