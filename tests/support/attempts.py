"""Attempts to prove control, as the ACME server would make them."""

from services.acme.challenges.attempt import Attempt
from services.acme.identifiers import Identifier

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
ACCOUNT = "https://acme.test/acme/acct/4711"
SITE = Identifier("dns", "site.test")


def attempt(
    challenge_type: str,
    identifier: Identifier = SITE,
    *,
    token: str = TOKEN,
    thumbprint: str = THUMBPRINT,
    account: str = ACCOUNT,
    wildcard: bool = False,
) -> Attempt:
    """An attempt for site.test, unless told otherwise."""
    return Attempt(challenge_type, identifier, wildcard, token, thumbprint, account)
