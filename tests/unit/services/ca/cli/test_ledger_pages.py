from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.ca.cli.ledger_pages import PAGE, certificates_of, refusals_of
from services.ca.client import CaClient


class Answer:
    """An answer of the CA."""

    status_code = 200

    def __init__(self, value: object) -> None:
        self.content = orjson.dumps(value)


class PagingCa:
    """Simulates the CA's paging over so many rows; every third page is short, as where filters leave rows out."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.asked: list[dict[str, str]] = []

    async def request(self, method: str, url: str, **_rest: Any) -> Answer:  # noqa: ANN401 -- httpx's signature
        """A page."""
        assert method == "GET"
        path, _, query = url.partition("?")
        given = dict(part.split("=") for part in query.split("&"))
        self.asked.append(given)
        begin, limit = int(given.get("cursor", "0")), int(given["limit"])
        end = min(begin + (limit if len(self.asked) % 3 else limit // 2), self.rows)
        kind = path.rpartition("/")[2]
        rows = [self._row(kind, number) for number in range(begin, end)]
        return Answer({kind: rows, "next": str(end) if end < self.rows else None})

    @staticmethod
    def _row(kind: str, number: int) -> dict[str, Any]:
        if kind == "refusals":
            texts = dict.fromkeys(("caller", "account", "profile", "problem", "rule", "detail"), "x")
            return {"id": f"{number:x}", "at": 0, "names": ["a.test"], **texts}
        texts = dict.fromkeys(("status", "issuer", "profile", "caller", "account", "algorithm", "key_hash"), "x")
        texts |= {"validated": "", "decision": ""}
        times = dict.fromkeys(("not_before", "not_after", "recorded_at"), 0)
        return {"serial": f"{number:x}", "names": {"dns": ["a.test"]}, "requester": {}, **texts, **times}


@pytest.mark.parametrize("rows", [0, 1, PAGE, 2 * PAGE + 7, 4 * PAGE])
async def test_all_rows_come_once_and_in_order(rows: int) -> None:
    """Without a limit every row of every page comes, however many short pages there are between."""
    ca = PagingCa(rows)
    found = [row.serial async for row in certificates_of(CaClient(ca), {"profile": "server", "issuer": None})]
    assert found == [f"{number:x}" for number in range(rows)]
    assert all(given["profile"] == "server" and "issuer" not in given for given in ca.asked)


@pytest.mark.parametrize(("limit", "rows", "expected"), [(5, 100, 6), (5, 5, 5), (5, 6, 6), (1500, 9000, 1501)])
async def test_a_limit_shows_that_there_is_more_and_asks_for_little_else(limit: int, rows: int, expected: int) -> None:
    """One row more than the limit comes where there is one, and not the whole ledger."""
    ca = PagingCa(rows)
    assert len([row async for row in refusals_of(CaClient(ca), limit)]) == expected
    assert sum(int(given["limit"]) for given in ca.asked) <= 2 * limit + PAGE


async def test_the_next_page_is_asked_for_when_the_last_is_read() -> None:
    """No more than a page is held: a reader that stops has asked for no more."""
    ca = PagingCa(1_000_000)
    rows = certificates_of(CaClient(ca), {})
    for _ in range(PAGE):
        await anext(rows)
    assert len(ca.asked) == 1
    await anext(rows)
    assert len(ca.asked) == 2
