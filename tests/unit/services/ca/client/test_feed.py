from collections.abc import Mapping
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from services.ca.client import CaClient
from services.ca.wire import FEED_ENTRIES, FeedEntry, RevocationFeed


class FeedSimulator:
    """Carries requests to a feed with so many revocations, as the CA answers them; remembers which waited."""

    def __init__(self, revocations: int) -> None:
        self.revocations = revocations
        self.waited: list[bool] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 - likewise
    ) -> SimpleNamespace:
        """The next page."""
        assert (method, content, bool(headers), timeout > 0) == ("GET", None, bool(headers), True)
        query = parse_qs(urlsplit(url).query)
        self.waited.append(query.get("wait") != ["0"])
        after = int(query["after"][0])
        last = min(self.revocations, after + FEED_ENTRIES)
        entries = tuple(FeedEntry(number, f"{number:x}", "i", 1, "superseded") for number in range(after + 1, last + 1))
        body = RevocationFeed(entries, max(after, last)).to_json()
        return SimpleNamespace(status_code=200, content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("revocations", "requests"),
    [(0, 1), (1, 1), (FEED_ENTRIES - 1, 1), (FEED_ENTRIES, 2), (2 * FEED_ENTRIES + 5, 3)],
)
async def test_many_revocations_are_one_piece_of_news(revocations: int, requests: int) -> None:
    """All pages are read at once, and only the first request waits."""
    feed = FeedSimulator(revocations)
    assert await CaClient(feed).newest_revocation(0) == revocations
    assert feed.waited == [True, *[False] * (requests - 1)]
