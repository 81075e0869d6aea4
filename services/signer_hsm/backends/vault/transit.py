"""What is asked of the Transit engine, in the threads of the lane.

Defaults that would make a wrong signature are never relied upon: `prehashed`, the hash, the padding, the salt's length,
the marshalling and the version are all said. Source: Transit's HTTP API; OpenBao's `builtin/logical/transit`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import requests
from hvac import exceptions as hvac

from pkicore.algorithms import Algorithm, Payload, PrivateKey, algorithm_of, known_public_key
from services.signer_hsm.backends import BackendKey, Facts, KeyLabel
from services.signer_hsm.backends.payloads import check_offered
from services.signer_hsm.backends.vault.errors import translate
from services.signer_hsm.backends.vault.http import Answer, Body
from services.signer_hsm.backends.vault.keys import VERSION, TransitKey, checked_handle, kinds_of
from services.signer_hsm.backends.vault.session import Session
from services.signer_hsm.backends.vault.wrapping import wrapped
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BadPayloadError,
    KeyNotFoundError,
    NotOfferedError,
    WrongStateError,
    nothing_done,
)
from services.signer_hsm.schemes import Scheme, check_payload

_REMEMBERED: Final = 4096
_PADDING: Final = {"pkcs1": "pkcs1v15", "pss": "pss"}


class Transit:
    """One mount of the engine; may be used by many threads."""

    def __init__(self, session: Session, mount: str, diagnose: Callable[[BackendError], BackendError]) -> None:
        """Nothing is asked yet.

        Args:
            session: calls with a token.
            mount: path of the engine.
            diagnose: asks the server for the state it is in and gives the more precise error.
        """
        self._session = session
        self._mount = mount.strip("/")
        self._diagnose = diagnose
        self._algorithms: dict[str, Algorithm] = {}

    def read(self, name: str, request_id: str | None = None) -> TransitKey | None:
        """The key, None if there is none."""
        with self._translating(f"reading {name}"):
            try:
                answer = self._call("GET", f"keys/{name}", None, request_id)
            except hvac.InvalidPath as error:
                if error.errors != []:
                    raise
                return None
        key = TransitKey.of(name, answer.data)
        if len(self._algorithms) >= _REMEMBERED:
            self._algorithms.clear()
        self._algorithms[name] = key.algorithm
        return key

    def find(self, label: KeyLabel, request_id: str | None = None) -> BackendKey | None:
        """The version of the label; None if there is none.

        Raises:
            WrongStateError: there is one that must not be taken over.
        """
        key = self.read(str(label), request_id)
        if key is None:
            return None
        key.refuse_leaky()
        return key.ours()

    def load(self, handle: str, request_id: str | None = None) -> BackendKey:
        """The version behind a handle.

        Raises:
            KeyNotFoundError: it is gone.
        """
        return self._existing(checked_handle(handle), request_id).ours()

    def create(
        self, label: KeyLabel, algorithm: Algorithm, parameters: dict[str, str], request_id: str | None = None
    ) -> BackendKey:
        """The version of the label, made in the server.

        Creating is idempotent in Vault and the version is in the name: if another call was quicker, its key is taken.

        Raises:
            WrongStateError: there is a key of that name which must not be taken over.
            NotOfferedError: the server does not know the type.
        """
        name = str(label)
        key = self.read(name, request_id) or self._make(name, algorithm, parameters, request_id)
        self._refuse(key, algorithm)
        key.refuse_imported()
        return key.ours()

    def import_key(self, label: KeyLabel, private_key: PrivateKey, request_id: str | None = None) -> BackendKey:
        """The version of the label with this private key, wrapped on its way by a key of the server's.

        Raises:
            WrongStateError: there is another key with this label.
        """
        name, public_key = str(label), known_public_key(private_key.public_key())
        algorithm = algorithm_of(public_key)
        key = self.read(name, request_id)
        if key is None:
            with self._translating("reading the wrapping key"):
                wrapping = self._call("GET", "wrapping_key", None, request_id, slow=True).data.get("public_key")
            body: dict[str, Any] = {
                "ciphertext": wrapped(wrapping, private_key),
                "hash_function": "SHA256",
                "type": algorithm.name,
                "allow_rotation": False,
                "exportable": False,
                "allow_plaintext_backup": False,
            }
            with self._translating(f"importing {name}", mutates=True):
                self._call("POST", f"keys/{name}/import", body, request_id)
            key = self._existing(name, request_id)
        self._refuse(key, algorithm)
        found = key.ours()
        if found.public_key != public_key:
            raise WrongStateError(f"there is another Transit key {name}")
        return found

    def sign(
        self,
        handle: str,
        scheme: Scheme,
        kind: Payload,
        payloads: Sequence[bytes],
        request_id: str | None = None,
    ) -> list[bytes | BackendError]:
        """One signature, or the error in its place, per payload.

        Raises:
            BackendError: none could be signed.
        """
        name = checked_handle(handle)
        with nothing_done():
            algorithm = self._algorithms.get(name) or self._existing(name, request_id).algorithm
        check_offered(algorithm, kinds_of(algorithm), scheme, kind)
        body = _sign_parameters(scheme)
        for payload in payloads:
            _check(scheme, kind, payload)
        inputs = [base64.b64encode(payload).decode() for payload in payloads]
        body |= {"input": inputs[0]} if len(inputs) == 1 else {"batch_input": [{"input": each} for each in inputs]}
        if not inputs:
            return []
        with self._translating(f"signing with {name}"):
            try:
                data = self._call("POST", f"sign/{name}", body, request_id).data
            except (hvac.InvalidRequest, hvac.InternalServerError) as error:  # which of the two depends on the server
                raise self._why_refused(name, error, request_id) from error
        if len(inputs) == 1:
            return [signature_of(data)]
        results = data.get("batch_results")
        if not isinstance(results, list) or len(results) != len(inputs):
            raise BadAnswerError("Vault's batch has another length than the one sent")
        return self._batch(results, name, request_id)

    def remove(self, handle: str, request_id: str | None = None) -> Facts:
        """Delete the key, and look that it has gone; the proof. Safe to repeat."""
        name = checked_handle(handle)
        if self.read(name, request_id) is None:
            return {"act": "none", "found": "gone"}
        with self._translating(f"allowing the deletion of {name}", mutates=True):
            allowed = self._call("POST", f"keys/{name}/config", {"deletion_allowed": True}, request_id)
        with self._translating(f"deleting {name}", mutates=True):
            self._call("DELETE", f"keys/{name}", None, request_id)
        if self.read(name, request_id) is not None:
            raise BadAnswerError(f"Vault still has the key {name} after deleting it")
        return {"act": "delete", "transit_key": name, "vault_request_id": allowed.request_id, "found": "gone"}

    def _make(self, name: str, algorithm: Algorithm, parameters: dict[str, str], request_id: str | None) -> TransitKey:
        body = {**parameters, "exportable": False, "allow_plaintext_backup": False, "derived": False}
        with self._translating(f"creating {name}", mutates=True):
            try:
                self._call("POST", f"keys/{name}", body, request_id, slow=True)
            except hvac.InvalidRequest as error:
                raise NotOfferedError(f"this Vault makes no keys of type {algorithm.name}") from error
        return self._existing(name, request_id)

    def _existing(self, name: str, request_id: str | None) -> TransitKey:
        key = self.read(name, request_id)
        if key is None:
            raise KeyNotFoundError(f"there is no Transit key {name}")
        return key

    def _batch(self, results: list[Any], name: str, request_id: str | None) -> list[bytes | BackendError]:
        why: BackendError | None = None
        signatures: list[bytes | BackendError] = []
        for result in results:
            facts = result if isinstance(result, dict) else {}
            if facts.get("error"):
                why = why or self._why_refused(name, hvac.InvalidRequest(), request_id)
                signatures.append(why)
                continue
            try:
                signatures.append(signature_of(facts))
            except BadAnswerError as error:
                signatures.append(error)
        return signatures

    def _why_refused(self, name: str, error: hvac.VaultError, request_id: str | None) -> BackendError:
        """The reason of a refusal by what the key is now; the server's sentence is not a contract."""
        unexplained = self._diagnose(translate(error, f"signing with {name}"))
        try:
            if not self._existing(name, request_id).ours().enabled:
                return WrongStateError(f"the Transit key {name} is soft-deleted or below the least version in use")
        except KeyNotFoundError as gone:
            return gone
        except BackendError:
            return unexplained
        return unexplained

    @staticmethod
    def _refuse(key: TransitKey, algorithm: Algorithm) -> None:
        if key.algorithm is not algorithm:
            raise WrongStateError(f"there is a Transit key {key.name} of algorithm {key.algorithm.name} already")
        key.refuse_leaky()

    def _call(self, method: str, path: str, body: Body | None, request_id: str | None, *, slow: bool = False) -> Answer:
        return self._session.call(method, f"{self._mount}/{path}", body, request_id=request_id, slow=slow)

    @contextmanager
    def _translating(self, act: str, *, mutates: bool = False) -> Iterator[None]:
        try:
            yield
        except hvac.VaultError as error:
            raise self._diagnose(translate(error, act, mutates=mutates)) from error
        except requests.RequestException as error:  # who does not answer is not asked how it is
            raise translate(error, act, mutates=mutates) from error


def _sign_parameters(scheme: Scheme) -> dict[str, Any]:
    if scheme.hash is None:
        return {"key_version": VERSION}
    parameters = {
        "key_version": VERSION,
        "prehashed": True,
        "hash_algorithm": f"sha2-{scheme.hash.removeprefix('sha')}",
        "marshaling_algorithm": "asn1",
    }
    if scheme.padding is not None:
        parameters["signature_algorithm"] = _PADDING[scheme.padding]
    if scheme.padding == "pss":
        parameters["salt_length"] = "hash"
    return parameters


def _check(scheme: Scheme, kind: Payload, payload: bytes) -> None:
    """The caller has checked already; but a digest of a wrong length would be signed, or be an error of the server."""
    try:
        check_payload(scheme, kind, payload)
    except BadPayloadError as error:
        raise NotOfferedError(f"Transit is not sent this: {error}") from error


def signature_of(result: Body) -> bytes:
    """The signature in `vault:v1:BASE64`.

    Raises:
        BadAnswerError: it has another form, or another version of the key has signed.
    """
    text = result.get("signature")
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) != 3 or parts[0] != "vault":  # noqa: PLR2004 - three fields
        raise BadAnswerError("Vault's signature has not the form vault:v1:BASE64")
    if parts[1] != f"v{VERSION}":
        raise BadAnswerError("Vault has signed with another version of the key")
    try:
        signature = base64.b64decode(parts[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadAnswerError("Vault's signature is no base64") from error
    if not signature:
        raise BadAnswerError("Vault's signature is empty")
    return signature
