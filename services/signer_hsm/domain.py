"""What signer-hsm does behind its endpoints, in one place for those that answer them."""

from dataclasses import dataclass
from typing import Final

from services.signer_hsm.approvals import Approvals
from services.signer_hsm.attestations import Attestations
from services.signer_hsm.callers import Callers
from services.signer_hsm.decisions import Decisions
from services.signer_hsm.keys import LifeCycle
from services.signer_hsm.listing import Listing

SERVICE: Final = "signer-hsm"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What the endpoints ask."""

    callers: Callers
    decisions: Decisions
    life_cycle: LifeCycle
    listing: Listing
    attestations: Attestations
    approvals: Approvals
