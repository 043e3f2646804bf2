"""Say what stands in JSON for values of other libraries: numbers, lazy texts, models, arrays."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

#: Texts that are translated when they are shown. None of them is a ``str``.
LAZY_TEXTS = frozenset(
    [
        "django.utils.functional.Promise",
        "flask_babel.speaklater.LazyString",
        "speaklater._LazyString",
        "babel.support.LazyProxy",
    ]
)

#: Pandas' classes of what is missing; which modules they are in depends on its version.
MISSING = ("NAType", "NaTType")

#: Kinds of NumPy's and Pandas' types that are times, which their ``tolist`` may turn into bare numbers.
_TIMES = ("M", "m")


def _is_one_of(value: object, names: frozenset[str]) -> bool:
    # By name, since none of these libraries is imported here.
    return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in type(value).__mro__)


def is_text(value: object) -> bool:
    """Tell whether a value is a text, or one that is translated when it is shown."""
    return isinstance(value, str) or _is_one_of(value, LAZY_TEXTS)


def _is_missing(value: object) -> bool:
    kind = type(value)
    return kind.__name__ in MISSING and kind.__module__.startswith("pandas.")


def _is_array(value: Any) -> bool:
    """Tell whether a value is an array or a scalar of NumPy, or like one; a quantity of Pint is if its magnitude is."""
    return hasattr(type(value), "tolist") and hasattr(type(value), "dtype") and hasattr(value, "dtype")


def _is_time(value: Any) -> bool:
    return _is_array(value) and getattr(value.dtype, "kind", None) in _TIMES


def _listed(value: Any) -> object:
    """Return what an array or scalar holds, as plain lists and values."""
    if _is_time(value):
        return _times(value.astype(str).tolist())
    listed = value.tolist()
    # NumPy has no plain value for its long doubles.
    return _number(value) if type(listed) is type(value) else listed


def _times(listed: Any) -> object:
    if isinstance(listed, list):
        return [_times(time) for time in listed]
    return listed if isinstance(listed, str) and listed != "NaT" else None  # Pandas 3 has a NaN for NaT


def _number(value: Any) -> object:
    return float(value) if isinstance(value, numbers.Real) else str(value)


def plain_number(value: object) -> object:
    """Return a number as an ``int`` or ``float``, and anything else as it is.

    Raises:
        OverflowError, TypeError, ValueError: It is a number that neither can be.
    """
    if _is_array(value) and not isinstance(value, (int, float)):
        value = _listed(value)
    if isinstance(value, bool):
        return value
    return _converted(value)


def _converted(value: Any) -> object:
    """Return what an object is converted to; tensors and quantities are no ``numbers.Real``, but can be."""
    kind = type(value)
    if isinstance(value, numbers.Integral) or (hasattr(kind, "__index__") and not hasattr(kind, "__float__")):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) or hasattr(kind, "__float__") else value


def plain_form(value: Any) -> object:
    """Return what stands in JSON for a value that msgspec does not know.

    Raises:
        TypeError: Nothing does.
    """
    if is_text(value):
        return str.__str__(value) if isinstance(value, str) else str(value)
    if _is_time(value):  # NumPy calls a duration an integer
        return _listed(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Rational):
        return str(value)
    if isinstance(value, numbers.Real):  # of gmpy2, mpmath, SymPy
        return _listed(value) if _is_array(value) else float(value)
    if _is_missing(value):
        return None
    return _time_form(value) if isinstance(value, (dt.date, dt.time, dt.timedelta)) else _structure(value)


def _time_form(value: dt.date | dt.time | dt.timedelta) -> object:
    """Return what stands for an object of a subclass of Python's times."""
    if isinstance(value, dt.timedelta):
        return dt.timedelta(value.days, value.seconds, value.microseconds)
    return value.isoformat()


def _structure(value: Any) -> object:
    """Return the members of a Pydantic model or of an array.

    What they say is asked of the class: objects that make up attributes, such as mocks, have all of them.
    """
    kind = type(value)
    if hasattr(kind, "model_dump"):
        return _dumped(value)
    if hasattr(kind, "__fields__") and hasattr(kind, "dict"):  # Pydantic 1
        return value.dict()
    if _is_array(value):
        return _listed(value)
    raise TypeError(f"an object of type {kind.__name__} has no JSON form")


def _dumped(model: Any) -> object:
    try:
        return model.model_dump(mode="json")
    except ValueError:  # a part has no form in JSON that Pydantic knows
        return model.model_dump()


# -- keys -------------------------------------------------------------------------------------------------------


def with_plain_keys(value: Any, instead: Callable[[object], object]) -> Any:
    """Return data whose mappings have keys that msgspec knows.

    Args:
        value: The data.
        instead: Returns what replaces a key that is neither a text nor a number.
    """
    if isinstance(value, dict):
        return {_plain_key(key, instead): with_plain_keys(member, instead) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_plain_keys(member, instead) for member in value]
    return value


def _plain_key(key: object, instead: Callable[[object], object]) -> object:
    try:
        return next(iter(msgspec.to_builtins({key: None}, str_keys=True)))
    except TypeError:
        return instead(key)


def plain_key(key: object) -> object:
    """Return the text or number that a key of a mapping stands for.

    Raises:
        TypeError: It stands for none.
    """
    try:
        plain = plain_form(key)
    except TypeError:
        plain = None
    if isinstance(plain, (str, int, float)):
        return plain
    raise TypeError(f"a key must be a text or a number, not {key!r:.100}")


# -- parts ------------------------------------------------------------------------------------------------------


def parts_of(value: Any) -> Iterator[tuple[str, object]]:
    """Yield the parts of a container or an object, each behind the code that leads to it."""
    if isinstance(value, dict):
        yield from ((f"[{key!r:.100}]", member) for key, member in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", member) for index, member in enumerate(value))
    else:
        yield from ((f".{name}", getattr(value, name)) for name in _field_names(value))


def _field_names(value: Any) -> Iterable[str]:
    """Return the names of an object's fields; those of a model that hides some are not known."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind) if hasattr(value, field.name)]
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__]
    if hasattr(kind, "model_dump"):
        return [name for name in kind.model_fields if hasattr(value, name)]
    return ()


def path_to(value: object, is_bad: Callable[[object], bool]) -> str:
    """Return the code that leads to the innermost bad part of data: ``["rows"][3].size``.

    Args:
        value: The data, which are bad.
        is_bad: Tells whether a part is.
    """
    for code, part in parts_of(value):
        if is_bad(part):
            return code + path_to(part, is_bad)
    return ""


# -- size -------------------------------------------------------------------------------------------------------


#: Types whose values are counted where they stand.
_SMALL = frozenset([int, float, bool, type(None)])


def is_surely_larger(value: object, limit: int) -> bool:
    """Tell whether the JSON of a value has more bytes than ``limit``, from its parts and without making it.

    Each part takes a byte and a comma, so no more than ``limit`` of them are looked at. False where that is too little
    to know.
    """
    left, waiting = limit, [value]
    while waiting:
        part = waiting.pop()
        if type(part) in _SMALL:
            continue
        left -= len(part) if type(part) is str else _least_size(part)
        if left < 0:
            return True
        if isinstance(part, dict):
            waiting += part.keys()
            waiting += part.values()
        elif isinstance(part, (list, tuple, set, frozenset)):
            waiting += part
        elif not isinstance(part, (str, msgspec.Struct)):  # which may leave out members
            waiting += _members_of(part)
    return False


def is_surely_finite(value: object) -> bool:
    """Tell whether data hold neither NaN nor infinity; False where not all of them are of JSON's own types."""
    waiting = [value]
    while waiting:
        part: Any = waiting.pop()
        kind = type(part)
        if kind is float:
            if not math.isfinite(part):
                return False
        elif kind is dict:
            if any(type(key) is not str for key in part):
                return False
            waiting += part.values()
        elif kind is list or kind is tuple:
            waiting += part
        elif kind is not str and kind not in _SMALL:
            return False
    return True


def _least_size(part: Any) -> int:
    """Return how many bytes a part takes at least, its own parts included as one byte and a comma each."""
    if isinstance(part, (str, bytes, bytearray)):
        return len(part)
    if isinstance(part, dict):
        return 4 * len(part)
    if isinstance(part, (list, tuple, set, frozenset)):
        return 2 * len(part)
    size = getattr(part, "size", None) if _is_array(part) else None
    return 2 * size if isinstance(size, int) else 0


def _members_of(part: Any) -> list[object]:
    if dataclasses.is_dataclass(type(part)) or hasattr(type(part), "__attrs_attrs__"):
        return [member for _, member in parts_of(part)]
    return []
