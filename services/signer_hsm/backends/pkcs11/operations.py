"""What is done with keys in a token; every function here runs in one of the back end's threads.

Keys are made and destroyed one at a time, in the session that holds the login: modules have a history of failing there,
even with locks. A new key signs once before anybody hears of it, so that a key which cannot is never handed out.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import ObjectClass
from pkcs11.exceptions import ObjectHandleInvalid, PKCS11Error
from pkcs11.types import Object, SignMixin

from pkicore.algorithms import Algorithm, Payload, PrivateKey, PublicKey, algorithm_of
from pkicore.errors import PkiError
from services.signer_hsm.backends import BackendKey, Facts, KeyLabel
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.backends.pkcs11 import keys
from services.signer_hsm.backends.pkcs11.errors import MAY_BE_DONE, BrokenOffError, translate
from services.signer_hsm.backends.pkcs11.evidence import facts_of, require_locked_up
from services.signer_hsm.backends.pkcs11.mechanisms import RECIPES, Recipe
from services.signer_hsm.backends.pkcs11.token import ThreadSession, TokenSessions, search, serial_of
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    KeyNotFoundError,
    NotOfferedError,
    WrongStateError,
    gravest,
)
from services.signer_hsm.schemes import Scheme, schemes_of

_TRIAL: Final = b"the first signature of a new key"


class TokenKeys:
    """The keys of one back end in its token."""

    def __init__(self, sessions: TokenSessions) -> None:
        self._sessions = sessions
        self._one_at_a_time = threading.Lock()

    def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """Make a key.

        Raises:
            NotOfferedError: the token does not make such keys.
            WrongStateError: there is a key with this label already.
            BackendError: any other failure; no key is left behind.
        """
        self._sessions.connect()
        if algorithm.name not in self._sessions.offers:
            raise NotOfferedError(f"this token makes no {algorithm.name} keys")
        return self._sessions.call(
            self._add, label, lambda own: keys.generate(own.connection.session, label, algorithm), check_first=True
        )

    def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Bring in a key.

        Raises:
            NotOfferedError: the token does not take such keys.
            WrongStateError: there is a key with this label already.
            BackendError: any other failure; no key is left behind.
        """
        return self._sessions.call(
            self._add, label, lambda own: keys.bring_in(own.connection.session, label, private_key), check_first=True
        )

    def _add(
        self, own: ThreadSession, label: KeyLabel, make: Callable[[ThreadSession], tuple[Object, Object]]
    ) -> BackendKey:
        handle = keys.handle_of(label)
        with self._one_at_a_time:
            if _objects(own, handle):
                raise WrongStateError(f"the token has a key {label} already")
            try:
                public, private = make(own)
                key = self._described(handle, public, private)
                require_locked_up(key.evidence)
                _try(private, key.algorithm, key.public_key)
            except (BackendError, PKCS11Error):
                _destroy_each(_objects(own, handle))
                raise
        return key

    def load(self, handle: str) -> BackendKey:
        """The key with this handle.

        Raises:
            KeyNotFoundError: there is none.
            BackendError: any other failure.
        """
        return self._sessions.call(self._load, handle)

    def _load(self, own: ThreadSession, handle: str) -> BackendKey:
        private = own.find(handle).key
        public = search(own.module, own.session, ObjectClass.PUBLIC_KEY, handle)
        if len(public) != 1:
            raise BadAnswerError(f"the token has {len(public)} public keys for one private key")
        key = self._described(handle, public[0], private)
        require_locked_up(key.evidence)  # also of a key whose maker was killed before it looked
        return key

    def _described(self, handle: str, public: Object, private: Object) -> BackendKey:
        if not isinstance(private, SignMixin):
            raise BadAnswerError("the token answers another kind of object than a private key")
        public_key = keys.public_key_of(public)
        try:
            algorithm = algorithm_of(public_key)
        except PkiError as error:
            raise NotOfferedError("the token holds a key of an algorithm that is not offered") from error
        return BackendKey(handle, algorithm, public_key, self._kinds(algorithm), evidence=facts_of(private))

    def _kinds(self, algorithm: Algorithm) -> frozenset[Payload]:
        return self._sessions.offers.get(algorithm.name, frozenset())

    def sign(
        self,
        handle: str,
        scheme: Scheme,
        kind: Payload,
        payloads: Sequence[bytes],
        once: bool = False,  # noqa: FBT001, FBT002 - the lane passes by position
    ) -> list[bytes | BackendError]:
        """A signature for each payload, or the error that it met alone; with `once`, none that may exist is repeated.

        Raises:
            BackendError: none could be signed.
        """
        recipe = RECIPES.get((scheme.name, kind))
        if recipe is None or (kind == "mu" and not self._takes_mu(scheme)):
            raise NotOfferedError(f"this token does not sign a {kind} with {scheme.name}")
        act = _sign_once if once else _sign
        answers: list[bytes | BackendError] = []
        for payload in payloads:
            try:
                answers.append(self._sessions.call(act, handle, scheme, recipe, payload))
            except BackendError as error:
                answers.append(error)
                if not self._sessions.connected:  # the others would meet the same
                    answers.extend([error] * (len(payloads) - len(answers)))
                    break
        errors = [answer for answer in answers if isinstance(answer, BackendError)]
        if errors and len(errors) == len(answers):
            raise gravest(errors)
        return answers

    def _takes_mu(self, scheme: Scheme) -> bool:
        self._sessions.connect()
        return "mu" in self._sessions.offers.get(scheme.name.lower(), frozenset())

    def destroy(self, handle: str) -> Facts:
        """Destroy private and public object, look that they have gone, and say so.

        Raises:
            BadAnswerError: the module says that it destroyed them, and still has them.
            BackendError: any other failure.
        """
        if not keys.is_handle(handle):
            raise KeyNotFoundError("the token has no such key")
        return self._sessions.call(self._destroy, handle, check_first=True)

    def _destroy(self, own: ThreadSession, handle: str) -> Facts:
        with self._one_at_a_time:
            objects = _objects(own, handle)
            _destroy_each(objects)
            if _objects(own, handle):
                raise BadAnswerError("the token still has the key that it destroyed")
        own.keys.pop(handle, None)
        token = own.connection.token
        return {
            "objects_destroyed": len(objects),
            "objects_left": 0,
            "key_id": handle,
            "token_label": token.label,
            "token_serial": serial_of(token),
        }


def _objects(own: ThreadSession, handle: str) -> list[Object]:
    session = own.connection.session
    kinds = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
    return [found for kind in kinds for found in search(own.module, session, kind, handle)]


def _destroy_each(objects: Sequence[Object]) -> None:
    for found in objects:
        with suppress(ObjectHandleInvalid):  # in some tokens the public half goes with the private one
            found.destroy()


def _sign(own: ThreadSession, handle: str, scheme: Scheme, recipe: Recipe, payload: bytes) -> bytes:
    return _signed(_key(own, handle, scheme), recipe, payload)


def _sign_once(own: ThreadSession, handle: str, scheme: Scheme, recipe: Recipe, payload: bytes) -> bytes:
    key = _key(own, handle, scheme)
    try:
        return _signed(key, recipe, payload)
    except PKCS11Error as error:
        if type(error) in MAY_BE_DONE:
            raise BrokenOffError(error) from error
        raise


def _key(own: ThreadSession, handle: str, scheme: Scheme) -> SignMixin:
    found = own.keys.get(handle) or own.find(handle)
    if scheme.name not in found.schemes:
        raise NotOfferedError(f"this key does not sign as {scheme.name}")
    return found.key


def _signed(key: SignMixin, recipe: Recipe, payload: bytes) -> bytes:
    signature: bytes = key.sign(recipe.prefix + payload, mechanism=recipe.mechanism, mechanism_param=recipe.parameter)
    if not recipe.pair:
        return signature
    half = len(signature) // 2
    return encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))


def _try(private: Object, algorithm: Algorithm, public_key: PublicKey) -> None:
    scheme = schemes_of(algorithm)[0]
    kind: Payload = "message" if scheme.hash is None else "digest"
    payload = hashlib.new(scheme.hash, _TRIAL).digest() if scheme.hash else _TRIAL
    if not isinstance(private, SignMixin):
        raise BadAnswerError("the token answers another kind of object than a private key")
    try:
        signature = _signed(private, RECIPES[scheme.name, kind], payload)
    except PKCS11Error as error:
        raise translate(error) from error
    verify_payload(public_key, scheme, kind, payload, signature)
