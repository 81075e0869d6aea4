import pytest

from services.acme.challenges import CHALLENGE_TYPES, members, offered
from services.acme.identifiers import Identifier

NAME = Identifier("dns", "site.test")
ADDRESS = Identifier("ip", "::1")


@pytest.mark.requirement("rfc8738-7-01")
@pytest.mark.parametrize(
    ("identifier", "wildcard", "types"),
    [
        (NAME, False, CHALLENGE_TYPES),
        (NAME, True, ("dns-01", "dns-account-01", "dns-persist-01")),
        (ADDRESS, False, ("http-01", "tls-alpn-01")),
    ],
    ids=["name", "wildcard", "address"],
)
def test_kinds_of_names_have_their_challenges(
    identifier: Identifier, *, wildcard: bool, types: tuple[str, ...]
) -> None:
    """A name may be proven in any way, a wildcard in DNS alone (RFC 8555 section 7.4.1), an address never in DNS."""
    assert offered(identifier, wildcard=wildcard, allowed=CHALLENGE_TYPES) == types
    assert offered(identifier, wildcard=wildcard, allowed={*types[:2], "unknown-01"}) == types[:2]
    assert offered(identifier, wildcard=wildcard, allowed=()) == ()


@pytest.mark.requirement("dns-persist-3.1-09")
@pytest.mark.parametrize("challenge_type", CHALLENGE_TYPES)
def test_members_of_a_challenge(challenge_type: str) -> None:
    """Every challenge has its token, but dns-persist-01, which names the CA and the account instead."""
    found = members(challenge_type, token="t", account_url="https://acme.test/1", issuers=("ca.test",))
    if challenge_type == "dns-persist-01":
        assert found == {"issuer-domain-names": ["ca.test"], "accounturi": "https://acme.test/1"}
    else:
        assert found == {"token": "t"}
