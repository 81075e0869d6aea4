"""Rows of the ledger as they come, page by page: no more than one page is held."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeVar

from services.ca.client import CaClient
from services.ca.ledger.wire import LedgerEntry, LedgerPage, RefusalEntry, RefusalPage

PAGE: Final = 1000  # rows of one request

_Page = TypeVar("_Page", LedgerPage, RefusalPage)


async def certificates_of(
    ca: CaClient, filters: Mapping[str, str | int | None], limit: int | None = None
) -> AsyncIterator[LedgerEntry]:
    """Rows that meet the filters: all, or as many as the limit and one more where there are more.

    Raises:
        CaError: the CA said no, or nothing.
    """
    query = {name: value for name, value in filters.items() if value is not None}
    async for page in _pages(ca.ledger, query, limit, lambda page: len(page.certificates)):
        for row in page.certificates:
            yield row


async def refusals_of(ca: CaClient, limit: int | None = None) -> AsyncIterator[RefusalEntry]:
    """Likewise of refusals, the newest first.

    Raises:
        CaError: the CA said no, or nothing.
    """
    async for page in _pages(ca.refusals, {}, limit, lambda page: len(page.refusals)):
        for row in page.refusals:
            yield row


async def _pages(
    ask: Callable[[Mapping[str, str | int]], Awaitable[_Page]],
    query: Mapping[str, str | int],
    limit: int | None,
    size: Callable[[_Page], int],
) -> AsyncIterator[_Page]:
    """Pages to the last one, or until they hold one row more than the limit."""
    asked, left = dict(query), limit
    while True:
        asked["limit"] = PAGE if left is None else min(PAGE, left + 1)
        page = await ask(asked)
        yield page
        if left is not None:
            left -= size(page)
        if page.next is None or (left is not None and left < 0):
            return
        asked["cursor"] = page.next
