"""What travels between the signing service and its callers: frozen messages, each with its strict JSON form.

Digests are lower-case hexadecimal, other binary fields standard base64 (RFC 4648 §4), times Unix seconds.
Reading raises MalformedError with the name of the field; writing never fails.
"""

from services.signing.wire.api_keys import ApiKeyAnswer, ApiKeyList, NewApiKeyAnswer, NewApiKeyRequest
from services.signing.wire.request import (
    FORMATS,
    MAX_DOCUMENT,
    MAX_REQUEST,
    OF_ARTEFACTS,
    OF_STATEMENTS,
    Document,
    Format,
    SignatureRequest,
    checked_idempotency_key,
)
from services.signing.wire.signatures import (
    INLINE_SIGNATURE,
    LogPlace,
    MadeBundle,
    MadeSignature,
    PolicyUsed,
    SignaturePage,
    SignatureRecord,
)

__all__ = [
    "FORMATS",
    "INLINE_SIGNATURE",
    "MAX_DOCUMENT",
    "MAX_REQUEST",
    "OF_ARTEFACTS",
    "OF_STATEMENTS",
    "ApiKeyAnswer",
    "ApiKeyList",
    "Document",
    "Format",
    "LogPlace",
    "MadeBundle",
    "MadeSignature",
    "NewApiKeyAnswer",
    "NewApiKeyRequest",
    "PolicyUsed",
    "SignaturePage",
    "SignatureRecord",
    "SignatureRequest",
    "checked_idempotency_key",
]
