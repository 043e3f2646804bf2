"""Encode any value as JSON, and put any text or error into one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from celery_realtime.values import is_surely_finite, is_surely_larger, path_to, plain_form, plain_key, with_plain_keys

T = TypeVar("T")

#: Characters in a line: of an error, a progress message, or a label.
MAX_TEXT = 500


# -- text -------------------------------------------------------------------------------------------------------


def legible(text: str) -> str:
    """Return a text that every encoder accepts: half of a surrogate pair becomes ``�``.

    Python has such halves in the names of files that are not UTF-8 (PEP 383).
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def text_of(value: object) -> str:
    """Return the text of whatever is given for one, whatever its ``__str__`` does."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return value.decode(errors="replace")
    return _guarded(lambda: str.__str__(str(value)), _unreadable)


def _unreadable(failure: Exception) -> str:
    return f"(its text cannot be read: {type(failure).__name__})"


def one_line(text: str) -> str:
    """Fold a text into one line of at most 500 characters."""
    line = " ".join(legible(text).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def describe_error(error: object) -> str:
    """Describe an exception in one line, ``"ValueError: message"``, whatever its ``__str__`` does."""
    name = _name_of(error)
    text = _guarded(lambda: one_line(str(error)), _unreadable)
    return one_line(f"{name}: {text}" if text else name)


def _name_of(error: object) -> str:
    # Celery wraps an error that it cannot pickle, and keeps the name of its class in this attribute.
    name = _guarded(lambda: getattr(error, "exc_cls_name", None), lambda _: None)
    return name if name and isinstance(name, str) else type(error).__name__


def _guarded(call: Callable[[], T], instead: Callable[[Exception], T]) -> T:
    """Return what a call that runs a user's ``__str__``, ``__repr__`` or ``__json__`` returns, else a replacement."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - a user's method may raise anything
        return instead(error)


# -- JSON -------------------------------------------------------------------------------------------------------


def _substitute(value: object) -> object:
    """Return what replaces a value that has no JSON form."""
    if hasattr(value, "__json__"):
        return value.__json__()
    if isinstance(value, BaseException):
        return describe_error(value)
    return _guarded(lambda: plain_form(value), lambda _: str(value))


_encoder = msgspec.json.Encoder()
_lenient = msgspec.json.Encoder(enc_hook=_substitute)


def encode(value: msgspec.Struct | dict[str, Any]) -> bytes:
    """Return the JSON of one of our structs, or of a mapping of plain values; its texts become :func:`legible`."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_mended(value))


def encode_lenient(value: object) -> bytes:
    """Return JSON for any value: what has no JSON form is replaced by its text, NaN by null."""
    return _guarded(lambda: _encode_checked(value), lambda _: _encoder.encode(one_line(_safe_repr(value))))


def encode_within(value: object, limit: int) -> bytes | None:
    """Return JSON for any value as :func:`encode_lenient` does, or None where that has more than ``limit`` bytes.

    What is much larger is not encoded at all.
    """
    if _guarded(lambda: is_surely_larger(value, limit), lambda _: False):
        return None
    encoded = encode_lenient(value)
    return None if len(encoded) > limit else encoded


def _encode_checked(value: object) -> bytes:
    encoded = encode_legibly(value)
    msgspec.json.decode(encoded)  # a msgspec.Raw inside may hold anything
    return encoded


def encode_legibly(value: object) -> bytes:
    """Return JSON for a value whose own methods raise nothing."""
    try:
        return _lenient.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_mended(_builtins(value, _substitute, text_of)))
    except TypeError:  # a key
        return encode(_builtins(value, _substitute, text_of))


def _builtins(value: object, form: Callable[[object], object], key: Callable[[object], object]) -> Any:
    """Return data in JSON's types.

    Args:
        value: The data.
        form: Returns what replaces a part that msgspec does not know.
        key: Returns what replaces a key that msgspec does not know.
    """
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=form)
    except TypeError:
        return msgspec.to_builtins(with_plain_keys(value, key), str_keys=True, enc_hook=form)


def _mended(value: Any) -> Any:
    """Return data whose texts are all :func:`legible`."""
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, msgspec.Struct):
        members = msgspec.structs.asdict(value)
        return msgspec.structs.replace(value, **{name: _mended(member) for name, member in members.items()})
    if isinstance(value, dict):
        return {_mended(name): _mended(member) for name, member in value.items()}
    return [_mended(member) for member in value] if isinstance(value, (list, tuple)) else value


def _safe_repr(value: object) -> str:
    return _guarded(lambda: repr(value), lambda _: f"<{type(value).__name__}>")


def encode_strict(value: object, what: str, limit: int, setting: str = "max_payload") -> bytes:
    """Return JSON for a value that has to have a JSON form.

    Dates, UUIDs, decimals, fractions, enums, sets, lazy texts, dataclasses, attrs classes, msgspec structs, Pydantic
    models, and NumPy's and Pandas' scalars and arrays have one; bytes become base64, and texts :func:`legible`.

    Args:
        value: The value.
        what: Its name in error messages.
        limit: The largest size, in bytes.
        setting: Which setting says so.

    Raises:
        TypeError: A part has no JSON form.
        ValueError: It holds NaN or infinity, refers to itself, or is larger than ``limit``.
    """
    try:
        encoded = _strictly(value)
    except RecursionError:
        raise ValueError(f"{what} refers to itself or is nested too deeply to be sent as JSON") from None
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what} cannot be sent as JSON: {_place(value)}{error}") from error
    if len(encoded) > limit:
        raise ValueError(f"{what} has {len(encoded)} bytes of JSON, realtime_{setting} allows {limit}")
    return encoded


def _strictly(value: object) -> bytes:
    """Return JSON for a value at once, where nothing in it could have been replaced on the way; else step by step."""
    with contextlib.suppress(TypeError, ValueError, msgspec.MsgspecError):  # 0.19: no ValueError
        encoded = _strict.encode(value)
        # It writes null for NaN, and as it is what a msgspec.Raw holds, which may be anything.
        if (b"null" not in encoded or is_surely_finite(value)) and b"\n" not in encoded:
            msgspec.json.decode(encoded)
            return encoded
    return _strictly_in_steps(value)


def _strictly_in_steps(value: object) -> bytes:
    plain = _plainly(value)
    # What an enum stands for msgspec leaves as it is.
    text = json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plainly)
    return legible(text).encode()


def _plainly(value: object) -> Any:
    return _builtins(value, _form, plain_key)


def _form(value: object) -> object:
    """Return what stands in JSON for a value that msgspec does not know.

    Raises:
        TypeError: Nothing does, or a method of the value's has failed.
    """

    def fail(error: Exception) -> object:
        if isinstance(error, (TypeError, ValueError)):
            raise error
        raise TypeError(
            f"an object of type {type(value).__name__} has no JSON form: {describe_error(error)}"
        ) from error

    return _guarded(lambda: plain_form(value), fail)


_strict = msgspec.json.Encoder(enc_hook=_form)


def _place(value: object) -> str:
    """Say where in data the part is that has no JSON form."""
    path = _guarded(lambda: path_to(value, _is_faulty), lambda _: "")
    return f"at {path:.200}: " if path else ""


def _is_faulty(value: object) -> bool:
    return _guarded(lambda: not _strictly(value), lambda _: True)


def add_fields(payload: bytes, fields: bytes) -> bytes:
    """Append encoded members to an encoded JSON object, without decoding it."""
    return payload[:-1] + (b"" if payload == b"{}" else b",") + fields + b"}"
