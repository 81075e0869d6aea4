"""Composite ML-DSA signatures (draft -19), for whoever asks for them by name; off until the RFC has its number.

What is signed is the PAE of the Statement, with an empty context, so that the composite envelope stands for exactly
what the hybrid one does. Two keys make one: they are used in this pair alone, and never by themselves, or the halves
could be taken for signatures of their own. The ML-DSA half is asked for by mu, since its context is the label.
"""

from __future__ import annotations

import hashlib
from typing import Final

from pkicore.algorithms import PublicKey
from pkicore.composite import (
    COMPOSITES,
    CompositeAlgorithm,
    CompositePublicKey,
    MldsaPublicKey,
    TraditionalPublicKey,
    join,
    message_representative,
    mu_of,
    verify,
)
from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope, Signature, pae
from pkicore.errors import BadSignatureError, UnsupportedError
from services.signing.formats import Output, ToSign
from services.signing.formats.dsse import MEDIA_TYPE

DEFAULT: Final = "id-MLDSA65-ECDSA-P256-SHA512"
NAME: Final = "composite.dsse.json"


class PreparedComposite:
    """What the two halves sign, and what becomes of it.

    Args:
        mldsa: name of the ML-DSA key at the signer, and its public half.
        traditional: likewise of the other key.
        payload: the Statement.
        payload_type: of the payload.
        algorithm: name of the combination.

    Raises:
        UnsupportedError: no combination of this name, or the keys are not those it is made of.
    """

    def __init__(
        self,
        mldsa: tuple[str, PublicKey],
        traditional: tuple[str, PublicKey],
        payload: bytes,
        *,
        payload_type: str = IN_TOTO_PAYLOAD,
        algorithm: str = DEFAULT,
    ) -> None:
        self.public_key = public_key_of(mldsa[1], traditional[1], algorithm)
        self._payload, self._payload_type = payload, payload_type
        row, message = self.public_key.algorithm, pae(payload_type, payload)
        representative = message_representative(row, message)
        self.mldsa = ToSign(mldsa[0], digest={"mu": mu_of(row, self.public_key.mldsa, representative)})
        self.traditional = ToSign(traditional[0], message=representative)

    def finish(self, mldsa_signature: bytes, traditional_signature: bytes) -> Output:
        """The envelope with the one signature made of both.

        Raises:
            BadSignatureError: a half that its key did not make.
        """
        signature = join(self.public_key.algorithm, mldsa_signature, traditional_signature)
        verify(self.public_key, signature, pae(self._payload_type, self._payload))
        signatures = (Signature(key_id(self.public_key), signature),)
        return Output(NAME, MEDIA_TYPE, Envelope(self._payload_type, self._payload, signatures).to_json())


def public_key_of(mldsa: PublicKey, traditional: PublicKey, algorithm: str = DEFAULT) -> CompositePublicKey:
    """Two public keys as one.

    Raises:
        UnsupportedError: no combination of this name, or the keys are not those it is made of.
    """
    row: CompositeAlgorithm | None = COMPOSITES.get(algorithm)
    if row is None:
        raise UnsupportedError(f"the combination {algorithm[:64]!a} is not offered; there are {', '.join(COMPOSITES)}")
    if not isinstance(mldsa, MldsaPublicKey) or not isinstance(traditional, TraditionalPublicKey):
        raise UnsupportedError(f"{row.name} is made of a key of {row.mldsa} and one of {row.traditional}")
    return CompositePublicKey(row, mldsa, traditional)


def key_id(public_key: CompositePublicKey) -> str:
    """Lower-case hexadecimal SHA-256 of the composite SubjectPublicKeyInfo."""
    return hashlib.sha256(public_key.to_spki()).hexdigest()


def verify_envelope(envelope: Envelope, public_key: CompositePublicKey) -> None:
    """Believe that both halves of the key signed this payload as of this type.

    Raises:
        BadSignatureError: no signature of the envelope is by this key.
    """
    message = pae(envelope.payload_type, envelope.payload)
    for signature in envelope.signatures:
        try:
            verify(public_key, signature.signature, message)
        except BadSignatureError:
            continue
        return
    raise BadSignatureError(f"no valid signature by the {public_key.algorithm.name} key {key_id(public_key)}")
