"""Requests and replies of a simulated AWS service, held against the service model that the SDK itself ships."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import botocore.session
from botocore.model import ListShape, OperationModel, Shape, StructureShape


class ModelError(Exception):
    """A value that the service model does not allow; the text names the place."""


@cache
def operations(service: str) -> Mapping[str, OperationModel]:
    """The operations of a service by their API names."""
    model = botocore.session.get_session().get_service_model(service)
    return {name: model.operation_model(name) for name in model.operation_names}


def decoded(shape: Shape | None, value: object) -> Any:  # noqa: ANN401 - as the model has it
    """A JSON value as Python has it: octets out of base64, times out of numbers; checked on the way.

    Raises:
        ModelError: the model does not allow it.
    """
    return _walk(shape, value, "request", decode=True)


def encoded(shape: Shape | None, value: object) -> Any:  # noqa: ANN401 - as JSON has it
    """The reverse.

    Raises:
        ModelError: the model does not allow it.
    """
    return _walk(shape, value, "reply", decode=False)


def _walk(shape: Shape | None, value: object, place: str, *, decode: bool) -> Any:  # noqa: ANN401 - as the model has it
    if shape is None:
        if value:
            raise ModelError(f"{place}: nothing is expected")
        return {}
    if isinstance(shape, StructureShape):
        return _structure(shape, value, place, decode=decode)
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            raise ModelError(f"{place}: a list is expected")
        _bounds(shape, len(value), place)
        return [_walk(shape.member, item, f"{place}[{at}]", decode=decode) for at, item in enumerate(value)]
    return _scalar(shape, value, place, decode=decode)


def _structure(shape: StructureShape, value: object, place: str, *, decode: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"{place}: a structure is expected")
    for name in shape.required_members:
        if name not in value:
            raise ModelError(f"{place}.{name}: missing")
    for name in value:
        if name not in shape.members:
            raise ModelError(f"{place}.{name}: unknown")
    return {name: _walk(shape.members[name], item, f"{place}.{name}", decode=decode) for name, item in value.items()}


def _scalar(shape: Shape, value: object, place: str, *, decode: bool) -> object:
    kind = shape.type_name
    if kind == "blob":
        return _blob(shape, value, place, decode=decode)
    if kind == "timestamp":
        return _timestamp(value, place, decode=decode)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind in {"integer", "long"} and isinstance(value, int) and not isinstance(value, bool):
        _bounds(shape, value, place)
        return value
    if kind == "string" and isinstance(value, str):
        _text(shape, value, place)
        return value
    raise ModelError(f"{place}: a {kind} is expected")


def _text(shape: Shape, value: str, place: str) -> None:
    _bounds(shape, len(value), place)
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        raise ModelError(f"{place}: not one of the words of the model")
    pattern = shape.metadata.get("pattern")
    if pattern and not re.search(pattern, value):
        raise ModelError(f"{place}: does not match {pattern}")


def _bounds(shape: Shape, size: int, place: str) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        raise ModelError(f"{place}: less than {least}")
    if most is not None and size > most:
        raise ModelError(f"{place}: more than {most}")


def _blob(shape: Shape, value: object, place: str, *, decode: bool) -> object:
    if decode:
        if not isinstance(value, str):
            raise ModelError(f"{place}: base64 is expected")
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ModelError(f"{place}: this is not base64") from None
        _bounds(shape, len(value), place)
        return value
    if not isinstance(value, bytes):
        raise ModelError(f"{place}: octets are expected")
    _bounds(shape, len(value), place)
    return base64.b64encode(value).decode()


def _timestamp(value: object, place: str, *, decode: bool) -> object:
    if decode and isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if not decode and isinstance(value, datetime):
        return value.timestamp()
    raise ModelError(f"{place}: a time is expected")
