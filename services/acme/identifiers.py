"""What an order is for (RFC 8555 §7.1.3): names as the server compares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, order=True)
class Identifier:
    """A canonical identifier: a lower-case DNS name without trailing dot, or an IP address in its RFC 5952 text."""

    type: Literal["dns", "ip"]
    value: str

    def document(self) -> dict[str, str]:
        """The JSON object of the protocol."""
        return {"type": self.type, "value": self.value}
