"""The errors of the CA, and the one table that turns them into problem documents.

CaServiceError
├─ RefusedError                 the request is understood and not granted
│  ├─ NotAuthorisedError           this caller may not have this profile or these names
│  ├─ NamesError                   names of CSR and request differ, or the profile does not allow them
│  ├─ ValidityError                an end that the profile or the issuer cannot give
│  ├─ UnknownProfileError          no such profile
│  ├─ NoLogError                   the profile has its certificates logged, and this CA has no log
│  ├─ BlockedKeyError              the key was reported compromised
│  └─ ReasonError                  a revocation reason that does not exist or does not apply
├─ StateError                   the request does not fit what is recorded
│  ├─ IdempotencyConflictError     the key belongs to another request
│  ├─ AlreadyRevokedError
│  ├─ NotHeldError                 only what is held is released
│  ├─ RevokedIntentError           revoked before it was completed
│  ├─ UnknownCertificateError
│  ├─ NotBlockedError              a key that is not on the block list
│  └─ PublicationDelayedError      a CRL that was asked for is not there in time
├─ WrongSignatureError          what came back from the key's holder is no signature by the issuer
└─ CeremonyError                what an operator must put right; the sentence says how
"""


class CaServiceError(Exception):
    """The root of the CA's errors."""


class RefusedError(CaServiceError):
    """The request is understood and not granted."""


class NotAuthorisedError(RefusedError):
    """This caller may not have this profile or these names."""


class NamesError(RefusedError):
    """The names of CSR and request differ, or the profile does not allow them."""


class ValidityError(RefusedError):
    """An end of validity that the profile or the issuer cannot give."""


class UnknownProfileError(RefusedError):
    """No profile has that name."""


class NoLogError(RefusedError):
    """The profile has its certificates logged, and this CA has no CT log."""


class BlockedKeyError(RefusedError):
    """The key was reported compromised and is never certified again."""


class BlockedAccountError(RefusedError):
    """The key that the requester signed with was reported compromised; nothing is issued for it."""


class ReasonError(RefusedError):
    """A revocation reason that does not exist or does not apply to this certificate."""


class StateError(CaServiceError):
    """The request does not fit what is recorded."""


class IdempotencyConflictError(StateError):
    """The idempotency key belongs to another request of the same caller."""


class AlreadyRevokedError(StateError):
    """The certificate was revoked before; nothing changed."""


class NotHeldError(StateError):
    """Only what is held is released; nothing changed."""


class RevokedIntentError(StateError):
    """The intent was revoked before it was completed; it is not signed any more."""


class UnknownCertificateError(StateError):
    """This CA never issued that certificate."""


class NotBlockedError(StateError):
    """The key is not on the block list."""


class PublicationDelayedError(StateError):
    """A CRL that was asked for is not there in time."""


class WrongSignatureError(CaServiceError):
    """What came back from the key's holder is no signature by the issuer; nothing was issued."""


class CeremonyError(CaServiceError):
    """Something an operator must put right; the sentence says how."""
