from hypothesis import given
from hypothesis import strategies as st

from services.acme.challenges.quote import MAX_QUOTE, quote


def test_short_text_is_quoted_as_it_is() -> None:
    """Printable text stays readable."""
    assert quote(b"hello, world") == '"hello, world"'


def test_control_characters_and_quotes_become_dots() -> None:
    """Nothing that could forge a log line or leave the quotation marks survives."""
    assert quote(b'a"b\r\nc\x1b[2Jd\xff') == '"a.b..c.[2Jd."'


@given(st.binary(max_size=300))
def test_quote_is_short_and_printable(data: bytes) -> None:
    """Whatever was fetched, its quote is short, printable and on one line."""
    quoted = quote(data)
    assert len(quoted) <= MAX_QUOTE + 3
    assert quoted.isprintable()
    assert quoted.count('"') == 2
