"""TOML as our settings files have it: assignments and arrays of tables, nothing else."""

import json
from collections.abc import Mapping


def lines(values: Mapping[str, object]) -> str:
    """One assignment per member."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in values.items())


def table(name: str, values: Mapping[str, object]) -> str:
    """One table of an array of tables."""
    return f"\n[[{name}]]\n{lines(values)}"


def _value(value: object) -> str:
    """Booleans, numbers and strings are written in TOML as they are in JSON; whatever else there is, as a string."""
    if isinstance(value, list | tuple):
        return "[\n" + "".join(f"    {_value(item)},\n" for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(name))} = {_value(item)}" for name, item in value.items()) + " }"
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))
