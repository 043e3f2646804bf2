"""Make JSON schemas of structs, with the descriptions that their docstrings have."""

from __future__ import annotations

import inspect
import re
import types
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from celery_realtime.web.messages import (
    DESCRIBED_BY,
    EVENTS,
    HTTP_ANSWERS,
    HTTP_EVENTS,
    NAMED,
    OPEN,
    REQUESTS,
    Auth,
    Connected,
    ConnectionRefused,
    CustomData,
    LogLine,
    Refused,
)

Schema = dict[str, Any]

#: Where a document has its schemas.
PLACE = "#/components/schemas/"

#: What travels beside requests, their answers, and events.
OTHERS: tuple[Any, ...] = (Auth, Connected, ConnectionRefused, Refused, CustomData, LogLine)

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ATTRIBUTES = "Attributes:"
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


class Schemas:
    """Collects the schemas of types, each that has a name under that.

    Attributes:
        named: By name.
    """

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, hint: Any) -> Schema:
        """Return the schema of a type: what has a name is referred to."""
        name = _name_of(hint)
        if name is None:
            return self._described(hint)
        if name not in self.named:
            self.named[name] = {}  # so that it may be within itself
            self.named[name] = self._struct(hint) if is_struct(hint) else self._described(hint)
        return {"$ref": PLACE + name}

    def _described(self, hint: Any) -> Schema:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return _with_meta(self.of(arguments[0]), arguments[1:])
        if origin is Literal:
            return {"const": arguments[0]} if len(arguments) == 1 else {"type": "string", "enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return _united([self.of(one) for one in arguments if one is not UnsetType])
        if origin in (list, tuple):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if hint in (Any, msgspec.Raw):
            return {}
        return {"type": _TYPES[hint]}

    def _struct(self, struct: type[Struct]) -> Schema:
        """Return the schema of a struct. What has a default other than UNSET is always sent, as the encoder does."""
        hints, words = get_type_hints(struct, include_extras=True), member_docs(struct)
        config = struct.__struct_config__
        properties: dict[str, Schema] = {config.tag_field: {"const": config.tag}} if config.tag_field else {}
        required = list(properties)
        for field in msgspec.structs.fields(struct):
            properties[field.encode_name] = _with_words(self.of(hints[field.name]), words.get(field.name))
            if field.default is not UNSET:
                required.append(field.encode_name)
        return {
            "type": "object",
            "description": summary(struct),
            "properties": properties,
            **({"required": required} if required else {}),
            "additionalProperties": struct in OPEN,
        }


def all_schemas() -> Schemas:
    """Return the schemas of all that travels."""
    schemas = Schemas()
    for hint in (*EVENTS.values(), *OTHERS):
        schemas.of(hint)
    for request in REQUESTS.values():
        schemas.of(request.data)
        schemas.of(request.answer)
    for hint in (*HTTP_EVENTS.values(), *HTTP_ANSWERS.values()):
        schemas.of(hint)
    return schemas


def summary(struct: type[Struct]) -> str:
    """Return what a struct's docstring says before its attributes."""
    return _plain((inspect.cleandoc(struct.__doc__ or "")).partition(_ATTRIBUTES)[0])


def member_docs(struct: type[Struct]) -> dict[str, str]:
    """Return what docstrings say of the members of a struct, those that it has from its bases included."""
    words: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if base in DESCRIBED_BY:
            words |= _attributes(DESCRIBED_BY[base])
        words |= _attributes(base)
    return words


def _attributes(struct: type) -> dict[str, str]:
    text = inspect.cleandoc(struct.__doc__ or "").partition(f"{_ATTRIBUTES}\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: _plain(words) for name, words in found}


def _plain(text: str) -> str:
    """Return a text of a docstring in Markdown, in one line."""
    return " ".join(_ROLE.sub(r"`\1`", text).replace("``", "`").split())


def is_struct(hint: Any) -> TypeGuard[type[Struct]]:
    """Tell whether a type is a struct; in Python 3.10, a list of something is a class, too."""
    return inspect.isclass(hint) and issubclass(hint, Struct)


def _name_of(hint: Any) -> str | None:
    if is_struct(hint):
        return hint.__name__
    return next((name for name, named in NAMED.items() if hint == named), None)


def _with_meta(schema: Schema, metas: tuple[Meta, ...]) -> Schema:
    for meta in metas:
        schema = _with_words({**schema, **(meta.extra_json_schema or {})}, meta.description)
    return schema


def _with_words(schema: Schema, words: str | None) -> Schema:
    """Return a schema with a description; beside a reference, none would be looked at."""
    if words is None:
        return schema
    if "$ref" in schema:
        return {"description": words, "allOf": [schema]}
    return {"description": words, **{name: value for name, value in schema.items() if name != "description"}}


def _united(schemas: list[Schema]) -> Schema:
    """Return the schema of what one of these fits; types alone become a list of types."""
    if {"type": "number"} in schemas:
        schemas = [schema for schema in schemas if schema != {"type": "integer"}]
    if len(schemas) == 1:
        return schemas[0]
    last = schemas[-1] == {"type": "null"} and len(schemas) == 2
    if last and isinstance(schemas[0].get("type"), str) and not {"enum", "const"} & {*schemas[0]}:
        return {**schemas[0], "type": [schemas[0]["type"], "null"]}
    if all({*schema} == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}
