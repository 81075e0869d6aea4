"""pkilint (https://github.com/digicert/pkilint): RFC 5280 and its updates, as somebody else reads them.

It takes some milliseconds of Python for each certificate, so it has a thread of its own.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pkilint.loader import RFC5280CertificateDocumentLoader
from pkilint.pkix import certificate as pkix
from pkilint.pkix.extension import EXTENSION_MAPPINGS
from pkilint.pkix.name import ATTRIBUTE_TYPE_MAPPINGS
from pkilint.validation import ValidationFindingSeverity

from pkicore.errors import LintError

_REFUSED: Final = frozenset(
    {ValidationFindingSeverity.FATAL, ValidationFindingSeverity.ERROR, ValidationFindingSeverity.WARNING}
)
# It takes a URI only of a scheme that it knows, as http; SPIFFE IDs are linted by X509-SVID §2.
_NOT_HEEDED: Final = frozenset({"pkix.invalid_uri_syntax"})


class Pkilint:
    """Its linter for the PKIX profile."""

    def __init__(self) -> None:
        self._loader = RFC5280CertificateDocumentLoader()
        self._rules = pkix.create_pkix_certificate_validator_container(
            pkix.create_decoding_validators(ATTRIBUTE_TYPE_MAPPINGS, EXTENSION_MAPPINGS),
            [
                pkix.create_issuer_validator_container([]),
                pkix.create_validity_validator_container(),
                pkix.create_subject_validator_container([]),
                pkix.create_extensions_validator_container([]),
                pkix.create_spki_validator_container([]),
            ],
        )
        self._thread = ThreadPoolExecutor(1, "pkilint")

    async def lint(self, certificate: bytes) -> None:
        """Refuse a certificate of which pkilint says anything from a warning upwards.

        Raises:
            LintError: it does.
        """
        findings = await asyncio.get_running_loop().run_in_executor(self._thread, self._findings, certificate)
        if findings:
            raise LintError(findings)

    def _findings(self, certificate: bytes) -> tuple[str, ...]:
        try:
            document = self._loader.load_der_document(certificate, "certificate")
        except ValueError as error:
            return (f"pkilint: the certificate does not parse: {error}",)
        results = self._rules.validate(document.root)
        return tuple(dict.fromkeys(_said(item) for result in results for item in _refused(result)))


def _refused(result: Any) -> list[Any]:  # noqa: ANN401 - pkilint has no types
    return [
        item
        for item in result.finding_descriptions
        if item.finding.severity in _REFUSED and item.finding.code not in _NOT_HEEDED
    ]


def _said(item: Any) -> str:  # noqa: ANN401 - pkilint has no types
    return f"pkilint {item.finding.code}" + (f": {item.message}" if item.message else "")
