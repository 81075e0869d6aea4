"""What speaks for an artefact, file by file: judged against who is expected, and none of it passed over.

Every payload (the artefact itself, or a Statement about it) has one `Proof`. Whatever was given must be signed by
everyone who is expected; and what several keys have signed together is believed with all of these keys alone, so that
the weaker half of a hybrid never passes for the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from pkicore.algorithms import PublicKey
from pkicore.composite import COMPOSITES, CompositePublicKey
from pkicore.dsse import Envelope, key_hint, key_id
from pkicore.errors import BadSignatureError, PkiError
from pkicore.jose.strict import strict_object
from services.signing.cli.hashing import Artefact
from services.signing.formats.composite import public_key_of
from services.signing.formats.unverified_bundle import UnverifiedBundle
from services.signing.statements import VSA_TYPE
from services.signing.trusted_root import TrustedRoot
from services.signing.verification import (
    Identity,
    NoLogEntryError,
    VerificationError,
    Verified,
    verify_composite,
    verify_hybrid,
    verify_with_certificate,
    verify_with_key,
)
from services.signing.verification.detached import (
    Beside,
    Claim,
    believe_certificate,
    believe_key,
    cms_claims,
    is_cms,
    is_jws,
    jws_claim,
    raw_claim,
)

MAX_BUNDLE: Final = 128 << 20  # octets; an SBOM of 64 MiB in base64, with what is around it


@dataclass(frozen=True, slots=True)
class Expected:
    """Whose signature is wanted: every one of the keys, or the one identity.

    Attributes:
        keys: with the files that they are from.
        identity: None where there are keys.
        root: what is trusted; needed for an identity.
    """

    keys: Mapping[Path, PublicKey]
    identity: Identity | None
    root: TrustedRoot | None

    @property
    def composites(self) -> Iterator[CompositePublicKey]:
        """The keys that two of these make together (composite ML-DSA)."""
        for mldsa, traditional in permutations(self.keys.values(), 2):
            for name in COMPOSITES:
                try:
                    yield public_key_of(mldsa, traditional, name)
                except PkiError:  # not what this combination is made of
                    continue


@dataclass
class Proof:
    """What speaks for one payload.

    Attributes:
        payload: a Statement about the artefact; None for a signature over the artefact itself.
        results: of each verification.
        failures: why others did not verify.
        together: the most signatures that one file has over it.
        strange: files that nobody who is expected has signed.
    """

    payload: bytes | None
    results: list[Verified] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    together: int = 1
    strange: int = 0

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The Statement, empty where it is a signature over the artefact."""
        return {} if self.payload is None else strict_object(self.payload, "the Statement")

    def attempt(self, verification: Callable[[], Verified | list[Verified]]) -> Exception | None:
        """Keep what it proves, or why it does not."""
        try:
            found = verification()
        except (PkiError, VerificationError) as error:
            self.failures.append(error)
            return error
        self.results += found if isinstance(found, list) else [found]
        return None

    @contextmanager
    def file(self) -> Iterator[None]:
        """While one file is looked at, which somebody who is expected should have signed."""
        before = len(self.results)
        yield
        self.strange += len(self.results) == before

    def require(self, expected: Expected) -> None:
        """Raises VerificationError unless everybody who is expected has signed."""
        what = "the artefact" if self.payload is None else "an attestation in the bundle"
        why = f": {self.failures[0]}" if self.failures else ""
        if not self.results:
            raise VerificationError(f"nobody who is expected has signed {what}{why}")
        signed = {key_id(result.public_key) for result in self.results}
        for path, key in expected.keys.items():
            if key_id(key) not in signed:
                raise VerificationError(f"the key in {path} has not signed {what}{why}")
        if self.together > len(signed) or self.strange:
            raise VerificationError(
                f"others than those who are expected have signed {what}, too{why}: what is hybrid is believed whole, "
                "so give --key for each (or a file with the one signature alone)"
            )
        if expected.root is not None and all(result.log_index is None for result in self.results):
            raise VerificationError(
                f"what was given proves no entry in a trusted log about {what}{why}; envelopes and detached signatures "
                "carry none: add the bundles (--bundle FILE.sigstore.json or FILE.sigstore.jsonl) or --log-entry"
            )


class Proofs:
    """All that was given about one artefact.

    Args:
        artefact: its digests.
        expected: who must have signed.
        beside: what stands beside detached signatures.
    """

    def __init__(self, artefact: Artefact, expected: Expected, beside: Beside) -> None:
        self._artefact = artefact
        self._expected = expected
        self._beside = beside
        self._proofs: dict[bytes | None, Proof] = {}

    def require(self) -> list[Proof]:
        """Everything, once everybody who is expected has signed all of it.

        Raises:
            VerificationError: somebody has not, or something was given that is about none of it.
        """
        for proof in self._proofs.values():
            proof.require(self._expected)
        self._beside.check_all_used()
        return list(self._proofs.values())

    def add_bundle(self, document: bytes) -> None:
        """A Sigstore bundle, or a DSSE envelope.

        Raises:
            PkiError: it is neither.
        """
        if "payloadType" in strict_object(document, "the bundle"):
            self._add_envelope(document)
            return
        bundle = UnverifiedBundle.parse(document, max_bytes=MAX_BUNDLE)
        proof = self._proof(bundle.content.payload if isinstance(bundle.content, Envelope) else None)
        with proof.file():
            self._judge_bundle(document, bundle, proof)

    def _judge_bundle(self, document: bytes, bundle: UnverifiedBundle, proof: Proof) -> None:
        expected, digests = self._expected, self._artefact.digests
        if (identity := expected.identity) is not None and (root := expected.root) is not None:
            proof.attempt(lambda: verify_with_certificate(document, identity, root, digests, max_bytes=MAX_BUNDLE))
            return
        keys = expected.keys.values()
        hinted = [key for key in keys if key_hint(key) == bundle.hint]
        if bundle.hint and not hinted:
            proof.failures.append(_other_key("the bundle", bundle.hint, map(key_hint, keys)))
        for key in hinted or keys:  # a hint decides nothing
            verification = partial(verify_with_key, document, key, digests, max_bytes=MAX_BUNDLE)
            error = proof.attempt(partial(verification, root=expected.root))
            if isinstance(error, NoLogEntryError):  # of what several have signed, one entry in the log is enough
                proof.attempt(verification)

    def add_signature(self, content: bytes, statement: Callable[[], bytes]) -> None:
        """A raw signature, a detached JWS, or a detached CMS.

        Args:
            content: which of them it is, is told from its octets.
            statement: reads what a JWS is over.

        Raises:
            PkiError: it does not parse.
        """
        digests = self._artefact.digests
        if is_cms(content):
            claims = cms_claims(content, digests)
            self._proof(None).together = max(self._proof(None).together, len(claims))
        elif is_jws(content):
            claims = [jws_claim(content, statement(), digests)]
        else:
            claims = [raw_claim(content, digests, self._artefact.mu)]
        proof = self._proof(claims[0].payload)
        with proof.file():
            for claim in claims:
                self._judge(claim, proof)

    def _judge(self, claim: Claim, proof: Proof) -> None:
        identity, root, beside = self._expected.identity, self._expected.root, self._beside
        if identity is not None and root is not None:
            proof.attempt(partial(believe_certificate, claim, identity, root, beside))
            return
        for key in self._expected.keys.values():
            proof.attempt(partial(believe_key, claim, key, root, beside))

    def _add_envelope(self, document: bytes) -> None:
        envelope = Envelope.parse(document, max_bytes=MAX_BUNDLE)
        proof = self._proof(envelope.payload)
        proof.together = max(proof.together, len(envelope.signatures))
        with proof.file():
            self._judge_envelope(document, envelope, proof)

    def _judge_envelope(self, document: bytes, envelope: Envelope, proof: Proof) -> None:
        digests, keys = self._artefact.digests, list(self._expected.keys.values())
        if not keys:
            proof.failures.append(VerificationError("envelopes are of keys: an identity has signed the bundles"))
            return
        for composite in self._expected.composites:
            try:
                verify_composite(document, composite, max_bytes=MAX_BUNDLE)
            except BadSignatureError:  # not a composite signature, or another's
                continue
            proof.attempt(partial(_by_composite, document, composite, digests))
            return
        named = {one.key_id for one in envelope.signatures}
        if all(named) and not named & {key_id(key) for key in keys}:
            proof.failures.append(_other_key("the envelope", min(named), map(key_id, keys)))
        for some in [keys, *([key] for key in keys)]:  # all at once; where that fails, one by one, to say which
            if proof.attempt(partial(_by_envelope, document, some, digests)) is None and len(some) == len(keys):
                break

    def _proof(self, payload: bytes | None) -> Proof:
        """What a file carries; not to be believed before everybody's signature was."""
        return self._proofs.setdefault(payload, Proof(payload))


def demand(proofs: Sequence[Proof], predicate_type: str | None, policy_sha256: str | None) -> None:
    """Raises VerificationError where an attestation that is demanded is not among those that were verified."""
    statements = [proof.statement for proof in proofs]
    if predicate_type is not None and all(one.get("predicateType") != predicate_type for one in statements):
        raise VerificationError(f"there is no attestation of the type {predicate_type}")
    if policy_sha256 is not None and not any(_passed(one, policy_sha256.lower()) for one in statements):
        raise VerificationError("there is no verification summary that passed under this policy")


def _passed(statement: Mapping[str, Any], policy_sha256: str) -> bool:
    predicate = statement.get("predicate")
    if statement.get("predicateType") != VSA_TYPE or not isinstance(predicate, dict):
        return False
    policy = predicate.get("policy")
    digest = policy.get("digest") if isinstance(policy, dict) else None
    return predicate.get("verificationResult") == "PASSED" and digest == {"sha256": policy_sha256}


def _by_envelope(document: bytes, keys: Sequence[PublicKey], digests: Mapping[str, bytes]) -> list[Verified]:
    envelope = verify_hybrid(document, keys, digests, max_bytes=MAX_BUNDLE)
    return [Verified(key, None, None, envelope.payload_type, envelope.payload) for key in keys]


def _by_composite(document: bytes, key: CompositePublicKey, digests: Mapping[str, bytes]) -> list[Verified]:
    envelope = verify_composite(document, key, digests, max_bytes=MAX_BUNDLE)
    halves: Collection[PublicKey] = (key.mldsa, key.traditional)
    return [Verified(half, None, None, envelope.payload_type, envelope.payload) for half in halves]


def _other_key(what: str, named: str, given: Iterator[str]) -> VerificationError:
    return VerificationError(f"{what} names the key {named[:64]!a}, and given is {', '.join(map(ascii, given))}")
