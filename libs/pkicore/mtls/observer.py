"""Who wants to know how handshakes end: metrics and log implement this."""

from __future__ import annotations

from typing import Literal, Protocol


class HandshakeObserver(Protocol):
    """Hears of each handshake, once."""

    def handshake(
        self,
        *,
        listener: str,
        result: Literal["success", "failure"],
        reason: str,
        peer: str | None,
        group: str | None,
        client: str | None,
    ) -> None:
        """A handshake has ended.

        Args:
            listener: name of the listener.
            result: how it ended.
            reason: "" on success, else a short stable text such as "certificate revoked".
            peer: SPIFFE ID or serial number of the certificate that was shown, trusted or not.
            group: key exchange group, where it came that far.
            client: address that the connection came from, where it is known.
        """
        ...
