"""Who calls the signing service: exactly one credential, verified, made a caller of exactly one tenant."""

from services.signing.callers.api_keys import ApiKeyRecord, ApiKeys, ApiKeyStore, NewApiKey, new_api_key
from services.signing.callers.caller import Caller, CallerKind
from services.signing.callers.certificate_identity import CertificateIdentity, certificate_identity
from services.signing.callers.credentials import Callers
from services.signing.callers.errors import ApiKeyRuleError, CallerError, CertificateIdentityError, CredentialError
from services.signing.callers.issuers import SigningIssuerSettings
from services.signing.callers.mtls import MtlsBinding, MtlsCallers
from services.signing.callers.oidc import OidcCallers
from services.signing.callers.scopes import ACTIONS, UNNARROWED, Action, Scopes

__all__ = [
    "ACTIONS",
    "UNNARROWED",
    "Action",
    "ApiKeyRecord",
    "ApiKeyRuleError",
    "ApiKeyStore",
    "ApiKeys",
    "Caller",
    "CallerError",
    "CallerKind",
    "Callers",
    "CertificateIdentity",
    "CertificateIdentityError",
    "CredentialError",
    "MtlsBinding",
    "MtlsCallers",
    "NewApiKey",
    "OidcCallers",
    "Scopes",
    "SigningIssuerSettings",
    "certificate_identity",
    "new_api_key",
]
