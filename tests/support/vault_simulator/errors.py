"""How the simulator of Vault refuses: a status and the sentences of its `errors`."""

from __future__ import annotations

import re

_DURATION = re.compile(r"([0-9]+)(s|m|h|d)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class RefusalError(Exception):
    """The simulator refuses a request.

    Attributes:
        status: of HTTP.
        errors: as they stand in the body.
    """

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(f"{status} {errors}")
        self.status = status
        self.errors = list(errors)


def invalid(sentence: str) -> RefusalError:
    """A bad request, as an engine words it."""
    return RefusalError(400, sentence)


def denied() -> RefusalError:
    """No token, a bad one, or a policy that does not allow it: OpenBao says the same of all three."""
    return RefusalError(403, "1 error occurred:\n\t* permission denied\n\n")


def internal(sentence: str) -> RefusalError:
    """An engine's own error."""
    return RefusalError(500, f"1 error occurred:\n\t* {sentence}\n\n")


def unsupported() -> RefusalError:
    """A path that exists, for other methods."""
    return RefusalError(405, "1 error occurred:\n\t* unsupported operation\n\n")


def seconds(value: object) -> int:
    """A duration as the API takes it: a number of seconds, or digits with a unit.

    Raises:
        RefusalError: neither.
    """
    found = _DURATION.fullmatch(str(value))
    if found is None or isinstance(value, bool):
        raise invalid(f"error converting input {value!r}: time: invalid duration")
    return int(found[1]) * _SECONDS[found[2] or "s"]
