"""Ed25519 points of small order (RFC 8032 §5.1, RFC 7748 §6.1)."""

from __future__ import annotations

from typing import Final

from pkicore.errors import BadKeyError

_FIELD: Final = 2**255 - 19
_SIGN_OF_X: Final = 1 << 255
_ORDER_8_Y: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y: Final = frozenset({0, 1, _FIELD - 1, _ORDER_8_Y, _FIELD - _ORDER_8_Y})  # of order 1, 2, 4 and 8


def check_order(point: bytes) -> None:
    """Refuse the encodings of the eight points of small order.

    Raises:
        BadKeyError: it is one.
    """
    y = int.from_bytes(point, "little") & ~_SIGN_OF_X
    if y % _FIELD in _SMALL_ORDER_Y:
        raise BadKeyError("the Ed25519 key is a point of small order: signatures for it need no private key")
