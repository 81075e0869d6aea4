"""Statements about how keys are held: asked of the back end, or handed in, verified and kept."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from cryptography import x509

from pkicore.algorithms import PublicKey
from pkicore.clock import Clock
from services.chassis.errors import SettingsError
from services.signer_hsm.attestation import yubihsm
from services.signer_hsm.backends import Attestation
from services.signer_hsm.catalogue import KeyVersion
from services.signer_hsm.decisions import Decisions, event_of
from services.signer_hsm.errors import NotOfferedError, SignerError, WrongStateError
from services.signer_hsm.policy import Caller
from services.signer_hsm.store import SignerStore
from services.signer_hsm.versions import Versions
from services.signer_hsm.wire import AttestationAnswer, AttestationUpload

Verify: TypeAlias = Callable[[AttestationUpload, PublicKey], Attestation]
"""Checks an upload against a public key; raises AttestationError or NotOfferedError."""


def device_statements(roots_file: Path | None, clock: Clock) -> Verify:
    """Verifies YubiHSM 2 attestations against the device makers' roots in a PEM file; without one, none.

    Raises:
        SettingsError: the file cannot be read, or holds something else.
    """
    roots: list[x509.Certificate] = []
    if roots_file is not None:
        try:
            roots = x509.load_pem_x509_certificates(roots_file.read_bytes())
        except (OSError, ValueError) as error:
            raise SettingsError(f"attestation_roots {roots_file} holds no certificates that can be read") from error

    def verify(upload: AttestationUpload, public_key: PublicKey) -> Attestation:
        if upload.format != yubihsm.FORMAT or not roots:
            raise NotOfferedError(f"attestations of format {upload.format!r} are not verified here")
        return yubihsm.verify_yubihsm2(upload.chain, public_key, roots, clock.now())

    return verify


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


def _public_key(version: KeyVersion) -> PublicKey:
    if version.loaded_public_key is None:
        raise WrongStateError("this version was never made")
    return version.loaded_public_key


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
