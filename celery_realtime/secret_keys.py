"""Refuse secrets that anybody can guess: whoever has one can act as any user."""

from __future__ import annotations

import logging
import re

from celery_realtime.exceptions import ImproperlyConfigured

logger = logging.getLogger(__name__)

#: Characters below which a secret is warned of, and different ones of them.
SHORT = 16
FEW = 6

#: Longest part that a secret may not be a mere repetition of, and from how many characters on that is warned of only.
LONGEST_UNIT = 3
LONG = 32

#: What lies beside each other in the alphabet or on keyboards: no part of it is a secret.
_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azertyuiop")

#: What is tried first.
_COMMON = frozenset({"password", "passw0rd", "admin", "letmein", "default", "insecure", "welcome", "iloveyou"})

#: Of what documentation and templates have where a secret belongs, without what is neither letter nor digit.
_PLACEHOLDERS = (
    *("changeme", "changethis", "replaceme", "replacethis", "placeholder"),
    *("yoursecret", "mysecretkey", "insertsecret", "putalongrandom", "demoonly", "notasecret"),
)

HOW_TO_MAKE_ONE = 'python3 -c "import secrets; print(secrets.token_hex())"'


def check_secret(name: str, secret: str) -> None:
    """Refuse what is tried first, and warn of a secret that is short or has few different characters.

    Refused are placeholders, common passwords, rows of the keyboard, and a few characters over and over unless there
    are many. Other words are not: what they are worth is not for us to tell, so they are warned of.

    Args:
        name: What the secret is called, for the message; the secret itself is not shown.
        secret: The secret.

    Raises:
        ImproperlyConfigured: It is refused.
    """
    letters = re.sub(r"[^a-z0-9]", "", secret.lower())
    if any(placeholder in letters for placeholder in _PLACEHOLDERS):
        raise ImproperlyConfigured(f"{name} is a placeholder that everybody knows; make a secret: {HOW_TO_MAKE_ONE}")
    if _is_guessed_at_once(secret, letters):
        raise ImproperlyConfigured(f"{name} can be guessed at once; make a secret: {HOW_TO_MAKE_ONE}")
    number, what = (len(secret), "") if len(secret) < SHORT else (len(set(secret)), "different ")
    if len(secret) < SHORT or number < FEW:
        logger.warning(
            "%s has only %d %scharacters, so whoever guesses it can act as any user; make a longer one: %s",
            *(name, number, what, HOW_TO_MAKE_ONE),
        )


def _is_guessed_at_once(secret: str, letters: str) -> bool:
    return (
        (len(secret) < LONG and any(_is_repetition(secret, length) for length in range(1, LONGEST_UNIT + 1)))
        or letters in _COMMON
        or any(len(letters) > 2 and (letters in row or letters in row[::-1]) for row in _ROWS)
    )


def _is_repetition(secret: str, length: int) -> bool:
    """Tell whether a secret is its first characters over and over; a single one is, and ``ab`` is not."""
    unit = secret[:length]
    return len(secret) > (length if length > 1 else 0) and (unit * len(secret))[: len(secret)] == secret
