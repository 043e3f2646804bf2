"""Refuse secrets that anybody can guess: whoever has one can act as any user."""

from __future__ import annotations

import logging
import re

from celery_realtime.exceptions import ImproperlyConfigured

logger = logging.getLogger(__name__)

#: Characters below which a secret is warned of.
SHORT = 16

#: Of what documentation and templates have where a secret belongs, without what is neither letter nor digit.
_PLACEHOLDERS = (
    *("changeme", "changethis", "replaceme", "replacethis", "placeholder"),
    *("yoursecret", "mysecretkey", "insertsecret", "putalongrandom", "demoonly", "notasecret"),
)

HOW_TO_MAKE_ONE = 'python3 -c "import secrets; print(secrets.token_hex())"'


def check_secret(name: str, secret: str) -> None:
    """Refuse a placeholder, and one character however often; warn of a secret that is short.

    Args:
        name: What the secret is called, for the message; the secret itself is not shown.
        secret: The secret.

    Raises:
        ImproperlyConfigured: It is refused.
    """
    letters = re.sub(r"[^a-z0-9]", "", secret.lower())
    if any(placeholder in letters for placeholder in _PLACEHOLDERS):
        raise ImproperlyConfigured(f"{name} is a placeholder that everybody knows; make a secret: {HOW_TO_MAKE_ONE}")
    if len(set(secret)) < 2:
        raise ImproperlyConfigured(f"{name} can be guessed at once; make a secret: {HOW_TO_MAKE_ONE}")
    if len(secret) < SHORT:
        logger.warning(
            "%s has only %d characters: whoever guesses it can act as any user; make a longer one: %s",
            *(name, len(secret), HOW_TO_MAKE_ONE),
        )
