import pytest

from services.chassis.routes import PathTable

TABLE = PathTable(
    {
        "/": "root",
        "/orders": "orders",
        "/orders/{id}": "order",
        "/orders/new": "new",
        "/orders/{id}/finalize": "finalize",
        "/challenges/{order}/{number}": "challenge",
        "/ocsp/{request...}": "ocsp",
    }
)


@pytest.mark.parametrize(
    ("path", "value", "params"),
    [
        ("/", "root", {}),
        ("/orders", "orders", {}),
        ("/orders/new", "new", {}),
        ("/orders/7", "order", {"id": "7"}),
        ("/orders/7/finalize", "finalize", {"id": "7"}),
        ("/orders/{id}", "order", {"id": "{id}"}),
        ("/challenges/a/1", "challenge", {"order": "a", "number": "1"}),
        ("/ocsp/MEIw/QD==", "ocsp", {"request": "MEIw/QD=="}),
        ("/ocsp/", "ocsp", {"request": ""}),
    ],
)
def test_a_path_finds_its_pattern(path: str, value: str, params: dict[str, str]) -> None:
    """Exact paths go first; captures hold one segment, or the rest."""
    assert TABLE.match(path) == (value, params)


@pytest.mark.parametrize(
    "path",
    ["", "orders", "/order", "/orders/", "//", "/orders//finalize", "/orders/7/", "/orders/7/finalize/x", "/ocsp"],
)
def test_a_path_beside_the_patterns_finds_nothing(path: str) -> None:
    """No empty captures, no trailing slashes, no prefixes."""
    assert TABLE.match(path) is None


@pytest.mark.parametrize("pattern", ["", "orders", "/a{b}", "/{b", "/{}", "/{a-b}", "/{rest...}/x", "/{1}"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """A mistake in a route or a policy stops the start, with a sentence."""
    with pytest.raises(ValueError, match=r"must begin with a slash|is no path segment"):
        PathTable({pattern: None})
