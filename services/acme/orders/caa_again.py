"""CAA records of an order's names, looked at again after hours: their owners may have forbidden it since."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from services.acme.errors import AcmeError, Subproblem, refusal
from services.acme.identifiers import Identifier
from services.acme.store import ProofRow
from services.acme.urls import Urls

CAA_SECONDS: Final = 8 * 3600  # how long a look at the CAA records holds (CA/Browser Forum BR §4.2.2.1)


class CaaCheck(Protocol):
    """Whoever knows the CAA records; `services.acme.caa.Caa` does."""

    async def check(self, identifier: Identifier, *, wildcard: bool, method: str, account_url: str) -> None:
        """Return where issuance is not forbidden; AcmeError otherwise."""


class CaaAgain:
    """Looks again, as the account that proved the names.

    Args:
        caa: who knows the records.
        urls: of this server.
    """

    def __init__(self, caa: CaaCheck, urls: Urls) -> None:
        self._caa = caa
        self._urls = urls

    async def require(self, proofs: Iterable[ProofRow], account_id: str) -> None:
        """Return where issuance is forbidden for none of these names.

        Raises:
            AcmeError: caa, dns, or compound; each refused name is a sub-problem.
        """
        refused = [
            Subproblem(error.acme_type, error.detail, proof.name)
            for proof in proofs
            if (error := await self._refusal(proof, account_id))
        ]
        if refused:
            raise refusal(refused)

    async def _refusal(self, proof: ProofRow, account_id: str) -> AcmeError | None:
        url = self._urls.of(f"acct/{account_id}")
        try:
            await self._caa.check(proof.identifier, wildcard=proof.wildcard, method=proof.method, account_url=url)
        except AcmeError as error:
            return error
        return None
